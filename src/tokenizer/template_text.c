/* Values as text: str(), repr() and json.dumps() as Python prints them.  See template_value.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/template_string.h"
#include "tokenizer/template_value.h"

static hd_status put_repr(hd_tpl_run *run, hd_tpl_value value, int depth);

/* The shortest digits that read back, as repr(float) lays them out. */
static void put_float(hd_buf *out, double f, const char *infinity, const char *nan)
{
    char text[40], digits[24];
    int n = 0, exponent;
    if (!isfinite(f)) {
        hd_buf_printf(out, "%s%s", f < 0 ? "-" : "", isnan(f) ? nan : infinity);
        return;
    }
    for (int precision = 0; precision <= 16; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, fabs(f));
        if (strtod(text, NULL) == fabs(f)) { break; }
    }
    for (const char *p = text; *p != 'e'; p++) {
        if (*p != '.') { digits[n++] = *p; }
    }
    exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    if (signbit(f)) { hd_buf_append_char(out, '-'); }
    if (exponent < -4 || exponent >= 16) {
        hd_buf_printf(out, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", n - 1, digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        hd_buf_printf(out, "0.%.*s%.*s", -exponent - 1, "0000", n, digits);
    } else if (n <= exponent + 1) {
        hd_buf_printf(out, "%.*s%.*s.0", n, digits, exponent + 1 - n, "0000000000000000");
    } else {
        hd_buf_printf(out, "%.*s.%.*s", exponent + 1, digits, n - exponent - 1, digits + exponent + 1);
    }
}

/* ---- repr ------------------------------------------------------------------------------------------------------------ */

static void put_escaped(hd_buf *out, uint32_t code)
{
    if (code == '\n' || code == '\r' || code == '\t') {
        hd_buf_append_text(out, code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
    } else {
        hd_buf_printf(out, code <= 0xFF ? "\\x%02" PRIx32 : code <= 0xFFFF ? "\\u%04" PRIx32 : "\\U%08" PRIx32, code);
    }
}

static void put_quoted(hd_buf *out, hd_tpl_value text)
{
    bool has_single = text.n > 0 && memchr(text.text, '\'', text.n) != NULL;
    char quote = has_single && memchr(text.text, '"', text.n) == NULL ? '"' : '\'';
    hd_buf_append_char(out, quote);
    for (size_t at = 0; at < text.n;) {
        uint32_t code;
        size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        if (code == (unsigned char)quote || code == '\\') {
            hd_buf_append_char(out, '\\');
            hd_buf_append_char(out, (char)code);
        } else if (hd_tpl_is_printable(code)) {
            hd_buf_append(out, text.text + at, n);
        } else {
            put_escaped(out, code);
        }
        at += n;
    }
    hd_buf_append_char(out, quote);
}

static hd_status put_items(hd_tpl_run *run, const hd_tpl_list *list, int depth)
{
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0) { hd_buf_append_text(run->out, ", "); }
        hd_status st = put_repr(run, list->items[i], depth + 1);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status put_entries(hd_tpl_run *run, const hd_tpl_dict *dict, int depth)
{
    hd_buf_append_char(run->out, '{');
    for (size_t i = 0; i < dict->n; i++) {
        if (i > 0) { hd_buf_append_text(run->out, ", "); }
        hd_status st = put_repr(run, dict->entries[i].key, depth + 1);
        hd_buf_append_text(run->out, ": ");
        if (st == HD_OK) { st = put_repr(run, dict->entries[i].value, depth + 1); }
        if (st != HD_OK) { return st; }
    }
    hd_buf_append_char(run->out, '}');
    return HD_OK;
}

static hd_status put_view(hd_tpl_run *run, hd_tpl_value view, int depth)
{
    static const char *const names[] = {[HD_TPL_VIEW_KEYS] = "keys", [HD_TPL_VIEW_VALUES] = "values", [HD_TPL_VIEW_ITEMS] = "items"};
    hd_tpl_list *list;
    hd_status st = hd_tpl_iterate(run, view, &list);
    if (st != HD_OK) { return st; }
    hd_buf_printf(run->out, "dict_%s([", names[view.kind]);
    st = put_items(run, list, depth);
    hd_buf_append_text(run->out, "])");
    return st;
}

static hd_status put_list(hd_tpl_run *run, hd_tpl_value value, int depth)
{
    bool is_list = value.type == HD_TPL_LIST;
    hd_buf_append_char(run->out, is_list ? '[' : '(');
    hd_status st = put_items(run, value.list, depth);
    hd_buf_append_text(run->out, is_list ? "]" : value.list->n == 1 ? ",)" : ")");
    return st;
}

static hd_status put_repr(hd_tpl_run *run, hd_tpl_value value, int depth)
{
    hd_buf *out = run->out;
    hd_status st = hd_tpl_step_bytes(run, value.type == HD_TPL_STRING ? value.n * 4 : 0);
    if (st == HD_OK) { st = hd_tpl_check_out(run); }
    if (st != HD_OK) { return st; }
    if (depth > HD_TPL_MAX_VALUE_DEPTH) { return hd_tpl_fail(run, HD_E_INVALID, "a value nested too deep to be printed"); }
    switch (value.type) {
    case HD_TPL_UNDEFINED: hd_buf_append_text(out, "Undefined"); return HD_OK;
    case HD_TPL_NONE: hd_buf_append_text(out, "None"); return HD_OK;
    case HD_TPL_BOOL: hd_buf_append_text(out, value.b ? "True" : "False"); return HD_OK;
    case HD_TPL_INT: hd_buf_printf(out, "%" PRId64, value.i); return HD_OK;
    case HD_TPL_FLOAT: put_float(out, value.f, "inf", "nan"); return HD_OK;
    case HD_TPL_STRING:
        if (value.kind == HD_TPL_SAFE) { break; }
        put_quoted(out, value);
        return HD_OK;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: return put_list(run, value, depth);
    case HD_TPL_DICT: return put_entries(run, value.dict, depth);
    case HD_TPL_NAMESPACE:
        hd_buf_append_text(out, "<Namespace ");
        st = put_entries(run, value.dict, depth + 1);
        hd_buf_append_char(out, '>');
        return st;
    case HD_TPL_VIEW: return put_view(run, value, depth);
    case HD_TPL_RANGE:
        hd_buf_printf(out, "range(%" PRId64 ", %" PRId64, value.range->start, value.range->stop);
        if (value.range->step != 1) { hd_buf_printf(out, ", %" PRId64, value.range->step); }
        hd_buf_append_char(out, ')');
        return HD_OK;
    default: break;
    }
    return hd_tpl_fail(run, HD_E_UNSUPPORTED, "a %s cannot be printed",
                       value.type == HD_TPL_STRING ? "safe text inside another value" : hd_tpl_type_name(value));
}

hd_status hd_tpl_put_repr(hd_tpl_run *run, hd_tpl_value value)
{
    hd_status st = put_repr(run, value, 0);
    return st == HD_OK ? hd_tpl_check_out(run) : st;
}

hd_status hd_tpl_put(hd_tpl_run *run, hd_tpl_value value)
{
    if (value.type == HD_TPL_UNDEFINED) { return HD_OK; }
    if (value.type != HD_TPL_STRING) { return hd_tpl_put_repr(run, value); }
    hd_status st = hd_tpl_step_bytes(run, value.n);
    if (st != HD_OK) { return st; }
    hd_buf_append(run->out, value.text, value.n);
    return hd_tpl_check_out(run);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------ */

static void put_json_code(hd_buf *out, uint32_t code)
{
    static const char names[] = "\"\\bfnrt", values[] = "\"\\\b\f\n\r\t";
    const char *found = code > 0 && code < 0x80 ? strchr(values, (int)code) : NULL;
    if (found != NULL) {
        hd_buf_printf(out, "\\%c", names[found - values]);
    } else if (code > 0xFFFF) {
        hd_buf_printf(out, "\\u%04" PRIx32 "\\u%04" PRIx32, 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + (code & 0x3FF));
    } else {
        hd_buf_printf(out, "\\u%04" PRIx32, code);
    }
}

static void put_json_text(hd_buf *out, hd_tpl_value text, bool ascii)
{
    hd_buf_append_char(out, '"');
    for (size_t at = 0; at < text.n;) {
        uint32_t code;
        size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        bool plain = code >= 0x20 && code != '"' && code != '\\' && (!ascii || code <= 0x7F);
        if (plain) {
            hd_buf_append(out, text.text + at, n);
        } else {
            put_json_code(out, code);
        }
        at += n;
    }
    hd_buf_append_char(out, '"');
}

static void put_new_line(hd_tpl_run *run, const hd_tpl_json_style *style, int depth)
{
    if (!style->indented) { return; }
    hd_buf_append_char(run->out, '\n');
    for (int i = 0; i < depth; i++) { hd_buf_append(run->out, style->indent.text, style->indent.n); }
}

static hd_status put_json(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_json_style *style, int depth);

static hd_status put_json_key(hd_tpl_run *run, hd_tpl_value key, const hd_tpl_json_style *style)
{
    if (key.type == HD_TPL_STRING) { return put_json_text(run->out, key, style->ascii), HD_OK; }
    if (key.type != HD_TPL_NONE && !hd_tpl_is_number(key)) {
        return hd_tpl_fail(run, HD_E_INVALID, "a %s cannot be a key of JSON", hd_tpl_type_name(key));
    }
    hd_buf_append_char(run->out, '"');
    hd_status st = put_json(run, key, style, 0);
    hd_buf_append_char(run->out, '"');
    return st;
}

/* The entries in the order of their keys. */
static hd_status sorted_entries(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_dict *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *order, *keys;
    HD_TRY(hd_tpl_list_new(run, dict->n, &order));
    HD_TRY(hd_tpl_list_new(run, dict->n, &keys));
    for (size_t i = 0; i < dict->n; i++) {
        HD_TRY(hd_tpl_list_add(run, order, hd_tpl_int((int64_t)i)));
        HD_TRY(hd_tpl_list_add(run, keys, dict->entries[i].key));
    }
    HD_TRY(hd_tpl_sort(run, order, keys, false));
    for (size_t i = 0; i < dict->n; i++) {
        const hd_tpl_entry *entry = &dict->entries[order->items[i].i];
        HD_TRY(hd_tpl_dict_add(run, out, entry->key, entry->value));
    }
out:
    return st;
}

static hd_status put_json_dict(hd_tpl_run *run, hd_tpl_dict *dict, const hd_tpl_json_style *style, int depth)
{
    hd_tpl_dict sorted = {0};
    hd_buf_append_char(run->out, '{');
    if (style->sort_keys) {
        hd_status st = sorted_entries(run, dict, &sorted);
        if (st != HD_OK) { return st; }
        dict = &sorted;
    }
    for (size_t i = 0; i < dict->n; i++) {
        if (i > 0) { hd_buf_append(run->out, style->item_separator.text, style->item_separator.n); }
        put_new_line(run, style, depth + 1);
        hd_status st = put_json_key(run, dict->entries[i].key, style);
        hd_buf_append(run->out, style->key_separator.text, style->key_separator.n);
        if (st == HD_OK) { st = put_json(run, dict->entries[i].value, style, depth + 1); }
        if (st != HD_OK) { return st; }
    }
    if (dict->n > 0) { put_new_line(run, style, depth); }
    hd_buf_append_char(run->out, '}');
    return HD_OK;
}

static hd_status put_json_list(hd_tpl_run *run, const hd_tpl_list *list, const hd_tpl_json_style *style, int depth)
{
    hd_buf_append_char(run->out, '[');
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0) { hd_buf_append(run->out, style->item_separator.text, style->item_separator.n); }
        put_new_line(run, style, depth + 1);
        hd_status st = put_json(run, list->items[i], style, depth + 1);
        if (st != HD_OK) { return st; }
    }
    if (list->n > 0) { put_new_line(run, style, depth); }
    hd_buf_append_char(run->out, ']');
    return HD_OK;
}

static hd_status put_json(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_json_style *style, int depth)
{
    hd_buf *out = run->out;
    hd_status st = hd_tpl_step_bytes(run, value.type == HD_TPL_STRING ? value.n * 4 : 0);
    if (st == HD_OK) { st = hd_tpl_check_out(run); }
    if (st != HD_OK) { return st; }
    if (depth > HD_TPL_MAX_VALUE_DEPTH) { return hd_tpl_fail(run, HD_E_INVALID, "a value nested too deep for JSON"); }
    switch (value.type) {
    case HD_TPL_NONE: hd_buf_append_text(out, "null"); return HD_OK;
    case HD_TPL_BOOL: hd_buf_append_text(out, value.b ? "true" : "false"); return HD_OK;
    case HD_TPL_INT: hd_buf_printf(out, "%" PRId64, value.i); return HD_OK;
    case HD_TPL_FLOAT: put_float(out, value.f, "Infinity", "NaN"); return HD_OK;
    case HD_TPL_STRING: put_json_text(out, value, style->ascii); return HD_OK;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: return put_json_list(run, value.list, style, depth);
    case HD_TPL_DICT: return put_json_dict(run, value.dict, style, depth);
    case HD_TPL_UNDEFINED: return hd_tpl_fail_undefined(run, value);
    default: return hd_tpl_fail(run, HD_E_INVALID, "a %s has no form in JSON", hd_tpl_type_name(value));
    }
}

hd_status hd_tpl_put_json(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_json_style *style)
{
    hd_status st = put_json(run, value, style, 0);
    return st == HD_OK ? hd_tpl_check_out(run) : st;
}
