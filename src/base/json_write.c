/* The JSON writer.  See json.h. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

void hd_json_writer_init(hd_json_writer *w, hd_buf *out, int indent)
{
    *w = (hd_json_writer){.out = out, .indent = indent};
}

static void new_line(hd_json_writer *w)
{
    if (w->indent > 0) { hd_buf_printf(w->out, "\n%*s", w->indent * w->depth, ""); }
}

/* What stands before an item of the innermost container: comma and line break. */
static void separate(hd_json_writer *w)
{
    if (w->depth == 0) { return; }
    bool *has_items = &w->has_items[w->depth - 1];
    if (*has_items) { hd_buf_append_text(w->out, w->indent > 0 ? "," : ", "); }
    *has_items = true;
    new_line(w);
}

static void before_value(hd_json_writer *w)
{
    bool in_object = w->depth > 0 && w->is_object[w->depth - 1];
    assert(in_object == w->after_key);
    if (!in_object) { separate(w); }
    w->after_key = false;
}

static void open_container(hd_json_writer *w, bool is_object)
{
    before_value(w);
    assert(w->depth < HD_JSON_MAX_DEPTH);
    hd_buf_append_char(w->out, is_object ? '{' : '[');
    w->is_object[w->depth] = is_object;
    w->has_items[w->depth] = false;
    w->depth++;
}

void hd_json_write_object(hd_json_writer *w)
{
    open_container(w, true);
}

void hd_json_write_array(hd_json_writer *w)
{
    open_container(w, false);
}

void hd_json_write_end(hd_json_writer *w)
{
    assert(w->depth > 0 && !w->after_key);
    w->depth--;
    if (w->has_items[w->depth]) { new_line(w); }
    hd_buf_append_char(w->out, w->is_object[w->depth] ? '}' : ']');
}

/* The escape of a byte that may not stand for itself. */
static void put_escape(hd_buf *out, unsigned char c)
{
    static const char names[] = "\"\\bfnrt", values[] = "\"\\\b\f\n\r\t";
    const char *found = c != 0 ? strchr(values, c) : NULL;
    if (found != NULL) {
        hd_buf_printf(out, "\\%c", names[found - values]);
    } else {
        hd_buf_printf(out, "\\u%04x", c);
    }
}

static bool must_escape(unsigned char c)
{
    return c < 0x20 || c == '"' || c == '\\';
}

static void put_string(hd_buf *out, const char *text, size_t n)
{
    hd_buf_append_char(out, '"');
    while (n > 0) {
        size_t run = 0;
        while (run < n && !must_escape((unsigned char)text[run])) { run++; }
        hd_utf8_append_replacing(out, text, run);
        if (run < n) { put_escape(out, (unsigned char)text[run++]); }
        text += run, n -= run;
    }
    hd_buf_append_char(out, '"');
}

void hd_json_write_key_n(hd_json_writer *w, const char *key, size_t n)
{
    assert(w->depth > 0 && w->is_object[w->depth - 1] && !w->after_key);
    separate(w);
    put_string(w->out, key, n);
    hd_buf_append_text(w->out, ": ");
    w->after_key = true;
}

void hd_json_write_key(hd_json_writer *w, const char *key)
{
    hd_json_write_key_n(w, key, strlen(key));
}

void hd_json_write_string_n(hd_json_writer *w, const char *text, size_t n)
{
    before_value(w);
    put_string(w->out, text, n);
}

void hd_json_write_string(hd_json_writer *w, const char *text)
{
    hd_json_write_string_n(w, text, strlen(text));
}

void hd_json_write_i64(hd_json_writer *w, int64_t value)
{
    before_value(w);
    hd_buf_printf(w->out, "%" PRId64, value);
}

void hd_json_write_u64(hd_json_writer *w, uint64_t value)
{
    before_value(w);
    hd_buf_printf(w->out, "%" PRIu64, value);
}

void hd_json_write_f64(hd_json_writer *w, double value)
{
    char text[40];
    if (!isfinite(value)) {
        hd_json_write_null(w);
        return;
    }
    before_value(w);
    for (int precision = 15; precision <= 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*g", precision, value);
        if (strtod(text, NULL) == value) { break; }
    }
    hd_buf_append_text(w->out, text);
    if (strpbrk(text, ".e") == NULL) { hd_buf_append_text(w->out, ".0"); }
}

void hd_json_write_bool(hd_json_writer *w, bool value)
{
    before_value(w);
    hd_buf_append_text(w->out, value ? "true" : "false");
}

void hd_json_write_null(hd_json_writer *w)
{
    before_value(w);
    hd_buf_append_text(w->out, "null");
}

void hd_json_write_raw(hd_json_writer *w, const char *json, size_t n)
{
    before_value(w);
    hd_buf_append(w->out, json, n);
}
