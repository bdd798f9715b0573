/* A configuration file of arbitrary bytes: it is refused with a message or read, and what was read can be written and
 * read again to the same values. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "config/value.h"
#include "config/yaml_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const hd_key_row *row, const hd_value *value)
{
    hd_buf text = {0};
    hd_value again;
    hd_value_write(row, value, &text);
    assert(hd_utf8_validate(hd_buf_text(&text), text.n, NULL));
    hd_status st = hd_value_parse_argument(row, hd_buf_text(&text), &again, NULL);
    assert(st == HD_OK && hd_value_equal(row, value, &again));
    hd_value_free(&again);
    hd_buf_free(&text);
}

static hd_status visit(void *context, const hd_yaml_entry *entry, hd_err *err)
{
    (void)context;
    size_t n;
    hd_value value;
    hd_config_key key = hd_key_find(entry->key);
    const char *raw = hd_yaml_raw(entry, &n);
    assert(hd_utf8_validate(raw, n, NULL));
    if (key == HD_KEY_COUNT && entry->line == 1) { (void)hd_key_unknown(entry->key, err); }
    if (key == HD_KEY_COUNT || entry->nested) { return HD_OK; } /* go on: the scanner is what is tested */
    const hd_key_row *row = hd_key_row_of(key);
    if (row->type == HD_TYPE_RAW || hd_value_parse(row, entry->value, &value, err) != HD_OK) { return HD_OK; }
    round_trip(row, &value);
    hd_value_free(&value);
    return HD_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hd_err err = {0};
    char *text = malloc(size + 1);
    if (text == NULL) { return 0; }
    if (size > 0) { memcpy(text, data, size); }
    text[size] = '\0';
    hd_status st = hd_yaml_scan("fuzz", text, size, visit, NULL, &err);
    assert(st == HD_OK || (st == err.code && err.msg[0] != '\0'));
    free(text);
    return 0;
}
