/* The configuration object: layers, origins and typed access.  See config.h and config_internal.h. */
#include "config/config.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "config/config_internal.h"
#include "config/value.h"

void hd_layer_free(hd_layer *layer)
{
    for (int key = 0; key < HD_KEY_COUNT; key++) { hd_value_free(&layer->value[key]); }
}

void hd_layer_set(hd_layer *layer, hd_config_key key, hd_value *value, hd_origin origin)
{
    hd_value_free(&layer->value[key]);
    layer->value[key] = *value;
    layer->origin[key] = origin;
    layer->present[key] = true;
    *value = (hd_value){0};
}

void hd_config_free(hd_config *config)
{
    if (config == NULL) { return; }
    hd_layer_free(&config->merged);
    for (int i = 0; i < config->n_files; i++) { hd_free(config->files[i]); }
    hd_free(config);
}

void hd_config_derive_int(hd_config *config, hd_config_key key, int64_t value)
{
    assert(hd_key_row_of(key)->type == HD_TYPE_INT);
    hd_value v = {.integer = value};
    hd_layer_set(&config->merged, key, &v, (hd_origin){.kind = HD_ORIGIN_DERIVED});
}

void hd_config_derive_float(hd_config *config, hd_config_key key, double value)
{
    assert(hd_key_row_of(key)->type == HD_TYPE_FLOAT);
    hd_value v = {.real = value};
    hd_layer_set(&config->merged, key, &v, (hd_origin){.kind = HD_ORIGIN_DERIVED});
}

hd_status hd_config_derive_str(hd_config *config, hd_config_key key, const char *value, hd_err *err)
{
    const hd_key_row *row = hd_key_row_of(key);
    hd_value v = {0};
    hd_status st = HD_OK;
    assert(row->type == HD_TYPE_STR || row->type == HD_TYPE_ENUM || row->type == HD_TYPE_BOOL);
    HD_TRY(hd_value_parse(row, (hd_source_text){.scalar = value}, &v, err));
    hd_layer_set(&config->merged, key, &v, (hd_origin){.kind = HD_ORIGIN_DERIVED});
out:
    return st;
}

void hd_origin_write(const hd_config *config, hd_config_key key, hd_buf *out)
{
    const hd_origin *origin = &config->merged.origin[key];
    switch (origin->kind) {
    case HD_ORIGIN_DEFAULT: hd_buf_append_text(out, "default"); break;
    case HD_ORIGIN_FILE: hd_buf_printf(out, "%s:%d", config->files[origin->file], origin->line); break;
    case HD_ORIGIN_MODEL: hd_buf_printf(out, "model %s:%d", hd_path_base(config->files[origin->file]), origin->line); break;
    case HD_ORIGIN_ARGUMENT: hd_buf_append_text(out, "command line"); break;
    case HD_ORIGIN_DERIVED: hd_buf_append_text(out, "derived"); break;
    case HD_ORIGIN_ENVIRONMENT:
        hd_buf_append_text(out, "environment M_");
        for (const char *p = hd_config_key_name(key); *p != '\0'; p++) {
            hd_buf_append_char(out, *p >= 'a' && *p <= 'z' ? (char)(*p - 'a' + 'A') : *p);
        }
        break;
    }
}

bool hd_config_at_default(const hd_config *config, hd_config_key key)
{
    const hd_key_row *row = hd_key_row_of(key);
    hd_value usual = {0};
    bool same = hd_value_default(row, &usual, NULL) == HD_OK && hd_value_equal(row, &usual, &config->merged.value[key]);
    hd_value_free(&usual);
    return same;
}

bool hd_config_user_set(const hd_config *config, hd_config_key key)
{
    const hd_origin *origin = &config->merged.origin[key];
    if (origin->kind == HD_ORIGIN_ARGUMENT || origin->kind == HD_ORIGIN_ENVIRONMENT) { return true; }
    if (origin->kind != HD_ORIGIN_FILE || strcmp(hd_path_base(config->files[origin->file]), "base.yml") == 0) { return false; }
    return !hd_config_at_default(config, key);
}

hd_status hd_config_fault(const hd_config *config, hd_config_key key, hd_status code, const char *sentence, hd_err *err)
{
    hd_buf text = {.limit = 2048};
    hd_buf origin = {.limit = 1024};
    const hd_key_row *row = hd_key_row_of(key);
    hd_value_write(row, &config->merged.value[key], &text);
    hd_origin_write(config, key, &origin);
    (void)HD_FAIL(err, code, "%s: %s=%.200s: %s", hd_buf_text(&origin), row->name,
                  (row->flags & HD_FLAG_SECRET) != 0 ? "(secret)" : hd_buf_text(&text), sentence);
    hd_buf_free(&text);
    hd_buf_free(&origin);
    return code;
}

/* ---- access ----------------------------------------------------------------------------------------------------- */

static const hd_value *value_of(const hd_config *config, hd_config_key key, hd_key_type type)
{
    assert(hd_key_row_of(key)->type == type);
    (void)type;
    return &config->merged.value[key];
}

bool hd_config_bool(const hd_config *config, hd_config_key key) { return value_of(config, key, HD_TYPE_BOOL)->boolean; }

int64_t hd_config_int(const hd_config *config, hd_config_key key) { return value_of(config, key, HD_TYPE_INT)->integer; }

double hd_config_float(const hd_config *config, hd_config_key key) { return value_of(config, key, HD_TYPE_FLOAT)->real; }

int hd_config_enum(const hd_config *config, hd_config_key key) { return value_of(config, key, HD_TYPE_ENUM)->choice; }

const char *hd_config_str(const hd_config *config, hd_config_key key)
{
    hd_key_type type = hd_key_row_of(key)->type;
    assert(type == HD_TYPE_STR || type == HD_TYPE_ENUM || type == HD_TYPE_RAW);
    (void)type;
    return config->merged.value[key].text;
}

bool hd_config_is(const hd_config *config, hd_config_key key, const char *text)
{
    const char *value = hd_config_str(config, key);
    return strcmp(value != NULL ? value : "", text) == 0;
}

const char *const *hd_config_list(const hd_config *config, hd_config_key key, size_t *n)
{
    const hd_value *value = value_of(config, key, HD_TYPE_LIST);
    *n = value->n_items;
    return (const char *const *)value->items;
}

bool hd_config_is_null(const hd_config *config, hd_config_key key)
{
    assert((unsigned)key < HD_KEY_COUNT);
    return config->merged.value[key].is_null;
}

/* base.yml repeats the table's defaults: a value that it holds unchanged is nobody's wish. */
bool hd_config_is_set(const hd_config *config, hd_config_key key)
{
    assert((unsigned)key < HD_KEY_COUNT);
    hd_origin origin = config->merged.origin[key];
    if (origin.kind == HD_ORIGIN_FILE) {
        hd_value fallback = {0};
        hd_err ignored;
        bool is_base = strcmp(hd_path_base(config->files[origin.file]), "base.yml") == 0;
        bool same = is_base && hd_value_default(hd_key_row_of(key), &fallback, &ignored) == HD_OK &&
                    hd_value_equal(hd_key_row_of(key), &fallback, &config->merged.value[key]);
        hd_value_free(&fallback);
        return !same;
    }
    return origin.kind != HD_ORIGIN_DEFAULT && origin.kind != HD_ORIGIN_DERIVED;
}
