/* The JSON parser on arbitrary bytes: it never reads outside the text, its two ways through a text agree, and what the
 * writer makes of a text that was accepted is accepted again. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static hd_status copy_scalar(hd_json *json, hd_json_type type, hd_json_writer *w)
{
    hd_json before = *json; /* a look at the same number in another way; it owns nothing */
    hd_json_str text;
    bool flag;
    double number;
    int64_t integer;
    hd_status st;
    switch (type) {
    case HD_JSON_STRING:
        st = hd_json_string(json, &text, NULL);
        if (st != HD_OK) { return st; }
        assert(hd_utf8_validate(text.text, text.n, NULL));
        hd_json_write_string_n(w, text.text, text.n);
        return HD_OK;
    case HD_JSON_BOOL:
        st = hd_json_bool(json, &flag, NULL);
        if (st == HD_OK) { hd_json_write_bool(w, flag); }
        return st;
    case HD_JSON_NULL:
        st = hd_json_null(json, NULL);
        if (st == HD_OK) { hd_json_write_null(w); }
        return st;
    default:
        if (hd_json_i64(&before, &integer, NULL) == HD_OK) {
            hd_json_write_i64(w, integer);
            return hd_json_i64(json, &integer, NULL);
        }
        st = hd_json_f64(json, &number, NULL);
        if (st == HD_OK) { hd_json_write_f64(w, number); }
        return st;
    }
}

/* Copies one value; a number that is valid JSON but not a double makes it stop. */
static hd_status copy(hd_json *json, hd_json_writer *w)
{
    hd_json_type type;
    hd_json_str key;
    bool more;
    hd_status st = hd_json_peek(json, &type, NULL);
    if (st != HD_OK) { return st; }
    if (type != HD_JSON_OBJECT && type != HD_JSON_ARRAY) { return copy_scalar(json, type, w); }
    bool is_object = type == HD_JSON_OBJECT;
    st = is_object ? hd_json_object_begin(json, NULL) : hd_json_array_begin(json, NULL);
    if (st != HD_OK) { return st; }
    is_object ? hd_json_write_object(w) : hd_json_write_array(w);
    for (;;) {
        st = is_object ? hd_json_object_next(json, &more, &key, NULL) : hd_json_array_next(json, &more, NULL);
        if (st != HD_OK) { return st; }
        if (!more) { break; }
        if (is_object) { hd_json_write_key_n(w, key.text, key.n); }
        st = copy(json, w);
        if (st != HD_OK) { return st; }
    }
    hd_json_write_end(w);
    return HD_OK;
}

static hd_status skim(const char *text, size_t n, hd_json_flags flags)
{
    hd_err err;
    hd_json json;
    hd_json_open(&json, text, n, "fuzz", flags);
    hd_status st = hd_json_end(&json, &err);
    hd_json_close(&json);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    hd_buf out = {0};
    hd_json json;
    hd_json_writer w;
    hd_status strict = skim(text, size, HD_JSON_STRICT);
    hd_status loose = skim(text, size, HD_JSON_ALLOW_DUPLICATES);
    assert(strict != HD_OK || loose == HD_OK);
    hd_json_open(&json, text, size, "fuzz", HD_JSON_STRICT);
    hd_json_writer_init(&w, &out, (int)(size % 3));
    hd_status copied = copy(&json, &w);
    if (copied == HD_OK) { copied = hd_json_end(&json, NULL); }
    hd_json_close(&json);
    assert(copied != HD_OK || strict == HD_OK);
    if (copied == HD_OK && hd_buf_check(&out, NULL) == HD_OK) {
        assert(skim(out.data, out.n, HD_JSON_STRICT) == HD_OK);
    }
    hd_buf_free(&out);
    return 0;
}
