/* HADAL_FORCE.  See force.h. */
#include "ops/force.h"

#include <stdbool.h>
#include <string.h>

enum { ISA_NAME = 16 };

/* The next "key=value" of a comma-separated list: false at its end. */
static bool next_entry(const char **text, const char **key, size_t *key_len, const char **value, size_t *value_len)
{
    const char *begin = *text + strspn(*text, ", ");
    if (*begin == '\0') { return false; }
    size_t len = strcspn(begin, ", ");
    const char *equals = memchr(begin, '=', len);
    *key = begin;
    *key_len = equals != NULL ? (size_t)(equals - begin) : len;
    *value = equals != NULL ? equals + 1 : begin + len;
    *value_len = (size_t)(begin + len - *value);
    *text = begin + len;
    return true;
}

static bool is(const char *text, size_t len, const char *word)
{
    return strlen(word) == len && memcmp(text, word, len) == 0;
}

static bool set_slot(hd_ops *ops, const hd_ops *ref, const char *op, size_t op_len)
{
#define HD_FORCE_SLOT(slot) if (is(op, op_len, #slot)) { ops->slot = ref->slot; return true; }
    HD_OP_LIST(HD_FORCE_SLOT)
#undef HD_FORCE_SLOT
    return false;
}

static bool known_isa(const char *value, size_t len)
{
    return is(value, len, "base") || is(value, len, "avx2") || is(value, len, "avx512");
}

hd_status hd_force_apply(hd_ops *ops, const char *force, hd_err *err)
{
    const char *key, *value;
    size_t key_len, value_len;
    hd_ops ref = {0};
    hd_ops_install_ref(&ref);
    while (next_entry(&force, &key, &key_len, &value, &value_len)) {
        if (is(key, key_len, "isa") && known_isa(value, value_len)) { continue; }
        if (is(value, value_len, "ref")) {
            if (is(key, key_len, "all")) {
                *ops = ref;
                continue;
            }
            if (set_slot(ops, &ref, key, key_len)) { continue; }
        }
        return HD_FAIL(err, HD_E_CONFIG, "HADAL_FORCE: found \"%.*s\", want OP=ref, all=ref or isa=base|avx2|avx512",
                       (int)(value + value_len - key), key);
    }
    return HD_OK;
}

void hd_force_isa(const char *force, char *name)
{
    const char *key, *value;
    size_t key_len, value_len;
    name[0] = '\0';
    while (force != NULL && next_entry(&force, &key, &key_len, &value, &value_len)) {
        if (is(key, key_len, "isa") && value_len < ISA_NAME) {
            memcpy(name, value, value_len);
            name[value_len] = '\0';
        }
    }
}
