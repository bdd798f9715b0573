/* The filters.  See template_builtins.h; what each does is Jinja2's documentation, tojson's is transformers'. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/template_builtins.h"
#include "tokenizer/template_string.h"

#define FILTER(name) static hd_status name(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)

static bool given(hd_tpl_value argument)
{
    return argument.type != HD_TPL_MISSING && argument.type != HD_TPL_NONE;
}

/* ---- text ------------------------------------------------------------------------------------------------------------ */

/* str(value), for filters whose result would stay marked as safe HTML if the value is. */
static hd_status plain_text(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value *out)
{
    if (value.type == HD_TPL_STRING && value.kind == HD_TPL_SAFE) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "text from the filter 'safe' can only be printed or added to text here");
    }
    return hd_tpl_string_of(run, value, out);
}

FILTER(do_trim)
{
    hd_tpl_value text, chars;
    (void)call;
    hd_status st = plain_text(run, a[0], &text);
    if (st == HD_OK) { st = hd_tpl_step_bytes(run, text.n); }
    if (st == HD_OK && given(a[1])) { st = hd_tpl_arg_text(run, a[1], "chars", &chars); }
    if (st == HD_OK) { *out = hd_tpl_strip(text, given(a[1]) ? &chars : NULL, true, true); }
    return st;
}

static hd_status change_case(hd_tpl_run *run, hd_tpl_value value, hd_tpl_case to, hd_tpl_value *out)
{
    hd_tpl_value text;
    hd_status st = plain_text(run, value, &text);
    return st == HD_OK ? hd_tpl_change_case(run, text, to, out) : st;
}

FILTER(do_upper)
{
    (void)call;
    return change_case(run, a[0], HD_TPL_UPPER, out);
}

FILTER(do_lower)
{
    (void)call;
    return change_case(run, a[0], HD_TPL_LOWER, out);
}

FILTER(do_capitalize)
{
    (void)call;
    return change_case(run, a[0], HD_TPL_CAPITALIZE, out);
}

/* Unlike str.title: words begin after white space, hyphens and opening brackets only, and with their upper case. */
FILTER(do_title)
{
    hd_tpl_value text, part;
    size_t mark = hd_tpl_mark(run);
    (void)call;
    hd_status st = hd_tpl_string_of(run, a[0], &text);
    for (size_t at = 0; st == HD_OK && at < text.n;) {
        uint32_t code;
        size_t begin = at, first;
        first = at + hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        bool separates = false;
        while (at < text.n) { /* one word, or one run of separators */
            size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
            bool is_separator = hd_tpl_is_space(code) || (code < 0x80 && code != 0 && strchr("-({[<", (int)code) != NULL);
            if (at == begin) { separates = is_separator; }
            if (is_separator != separates) { break; }
            at += n;
        }
        st = hd_tpl_change_case(run, hd_tpl_part(text, begin, first), HD_TPL_UPPER, &part);
        if (st == HD_OK) { st = hd_tpl_put(run, part); }
        if (st == HD_OK) { st = hd_tpl_change_case(run, hd_tpl_part(text, first, at), HD_TPL_LOWER, &part); }
        if (st == HD_OK) { st = hd_tpl_put(run, part); }
    }
    return st == HD_OK ? hd_tpl_take(run, mark, out) : st;
}

FILTER(do_replace)
{
    hd_status st = HD_OK;
    hd_tpl_value text, old, fresh;
    int64_t limit = -1;
    (void)call;
    HD_TRY(hd_tpl_string_of(run, a[0], &text));
    HD_TRY(hd_tpl_string_of(run, a[1], &old));
    HD_TRY(hd_tpl_string_of(run, a[2], &fresh));
    if (given(a[3])) { HD_TRY(hd_tpl_arg_int(run, a[3], "count", &limit)); }
    HD_TRY(hd_tpl_replace(run, text, old, fresh, limit, out));
out:
    return st;
}

FILTER(do_string)
{
    (void)call;
    if (a[0].type == HD_TPL_STRING) { return *out = a[0], HD_OK; }
    return hd_tpl_string_of(run, a[0], out);
}

FILTER(do_safe)
{
    (void)call;
    hd_status st = hd_tpl_string_of(run, a[0], out);
    if (st == HD_OK) { out->kind = HD_TPL_SAFE; }
    return st;
}

/* The text in front of each line: `width` spaces or a string. */
static hd_status indentation(hd_tpl_run *run, hd_tpl_value width, hd_tpl_value *out)
{
    int64_t n = 4;
    size_t mark = hd_tpl_mark(run);
    if (width.type == HD_TPL_STRING) { return *out = width, HD_OK; }
    hd_status st = hd_tpl_arg_int(run, width, "the width of an indentation", &n);
    for (int64_t i = 0; i < n && st == HD_OK; i++) {
        hd_buf_append_char(run->out, ' ');
        st = hd_tpl_check_out(run);
    }
    return st == HD_OK ? hd_tpl_take(run, mark, out) : st;
}

FILTER(do_indent)
{
    hd_status st = HD_OK;
    hd_tpl_value text, indent;
    hd_tpl_list *lines;
    size_t mark;
    bool first = hd_tpl_truth(a[2]), blank = hd_tpl_truth(a[3]);
    (void)call;
    if (a[0].type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a[0]); }
    HD_TRY(hd_tpl_arg_text(run, a[0], "what is indented", &text));
    HD_TRY(plain_text(run, a[0], &text));
    HD_TRY(indentation(run, a[1], &indent));
    HD_TRY(hd_tpl_join(run, text, hd_tpl_text("\n", 1), &text));
    HD_TRY(hd_tpl_split_lines(run, text, false, &lines));
    mark = hd_tpl_mark(run);
    if (first) { HD_TRY(hd_tpl_put(run, indent)); }
    for (size_t i = 0; i < lines->n; i++) {
        if (i > 0) { hd_buf_append_char(run->out, '\n'); }
        if (i > 0 && (blank || lines->items[i].n > 0)) { HD_TRY(hd_tpl_put(run, indent)); }
        HD_TRY(hd_tpl_put(run, lines->items[i]));
    }
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

FILTER(do_format)
{
    hd_status st = HD_OK;
    hd_tpl_value text, values = hd_tpl_listed(HD_TPL_TUPLE, (hd_tpl_list *)&call->positional);
    if (call->positional.n > 0 && call->keywords.n > 0) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'format' takes values in order or by name, not both");
    }
    if (call->keywords.n > 0) { values = (hd_tpl_value){.type = HD_TPL_DICT, .dict = (hd_tpl_dict *)&call->keywords}; }
    HD_TRY(plain_text(run, a[0], &text));
    HD_TRY(hd_tpl_percent_format(run, text, values, out));
out:
    return st;
}

FILTER(do_tojson)
{
    hd_status st = HD_OK;
    size_t mark = hd_tpl_mark(run);
    hd_tpl_json_style style = {.ascii = hd_tpl_truth(a[1]), .sort_keys = hd_tpl_truth(a[4]), .indented = given(a[2])};
    (void)call;
    style.item_separator = style.indented ? hd_tpl_text(",", 1) : hd_tpl_text(", ", 2);
    style.key_separator = hd_tpl_text(": ", 2);
    if (style.indented) { HD_TRY(indentation(run, a[2], &style.indent)); }
    if (given(a[3])) {
        hd_tpl_list *pair;
        HD_TRY(hd_tpl_iterate(run, a[3], &pair));
        if (pair->n != 2) { return hd_tpl_fail(run, HD_E_INVALID, "separators wants two strings"); }
        HD_TRY(hd_tpl_arg_text(run, pair->items[0], "the separator of items", &style.item_separator));
        HD_TRY(hd_tpl_arg_text(run, pair->items[1], "the separator of keys", &style.key_separator));
    }
    HD_TRY(hd_tpl_put_json(run, a[0], &style));
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

/* ---- numbers --------------------------------------------------------------------------------------------------------- */

/* A number as int() and float() read it: white space around, single underscores between digits.  false: not a number. */
static bool read_number(hd_tpl_value text, char out[64], bool *is_integer)
{
    size_t n = 0;
    bool digit_before = false;
    text = hd_tpl_strip(text, NULL, true, true);
    *is_integer = true;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.text[i];
        bool digit = c >= '0' && c <= '9';
        if (c == '_' && digit_before && i + 1 < text.n && text.text[i + 1] >= '0' && text.text[i + 1] <= '9') { continue; }
        if (c == '_' || n + 1 >= 64 || (unsigned char)c >= 0x80 || c == 'x' || c == 'X' || c == 'p' || c == 'P' || c == '(' || c == '\0') {
            return false;
        }
        *is_integer = *is_integer && (digit || (n == 0 && (c == '-' || c == '+')));
        out[n++] = c;
        digit_before = digit;
    }
    out[n] = '\0';
    return n > 0 && (unsigned char)out[n - 1] > ' ' && (unsigned char)out[0] > ' ';
}

static bool text_to_double(hd_tpl_value text, double *out)
{
    char number[64], *end;
    bool is_integer;
    if (!read_number(text, number, &is_integer)) { return false; }
    *out = strtod(number, &end);
    return *end == '\0' && end != number;
}

static hd_status double_to_int(hd_tpl_run *run, double f, hd_tpl_value fallback, hd_tpl_value *out)
{
    *out = fallback;
    if (!isfinite(f)) { return HD_OK; }
    if (!(fabs(f) < 0x1p63)) { return hd_tpl_fail(run, HD_E_UNSUPPORTED, "an integer beyond 64 bits"); }
    *out = hd_tpl_int((int64_t)f);
    return HD_OK;
}

FILTER(do_int)
{
    char number[64], *end;
    bool is_integer;
    double f;
    int64_t i, base = 10;
    hd_tpl_value fallback = a[1].type == HD_TPL_MISSING ? hd_tpl_int(0) : a[1];
    (void)call;
    hd_status st = hd_tpl_arg_int(run, a[2], "base", &base);
    if (st == HD_OK && base != 10) { st = hd_tpl_fail(run, HD_E_UNSUPPORTED, "filter 'int' with a base other than 10"); }
    if (st != HD_OK) { return st; }
    if (a[0].type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a[0]); }
    if (hd_tpl_is_integer(a[0], &i)) { return *out = hd_tpl_int(i), HD_OK; }
    if (a[0].type == HD_TPL_FLOAT) {
        if (!isfinite(a[0].f) && isinf(a[0].f)) { return hd_tpl_fail(run, HD_E_INVALID, "an infinite number has no integer"); }
        return double_to_int(run, a[0].f, fallback, out);
    }
    if (a[0].type == HD_TPL_STRING && read_number(a[0], number, &is_integer) && is_integer && number[strspn(number, "+-")] != '\0') {
        long long value = strtoll(number, &end, 10);
        (void)snprintf(number, sizeof number, "%lld", value);
        if (value == INT64_MAX || value == INT64_MIN) {
            return hd_tpl_fail(run, HD_E_UNSUPPORTED, "an integer of 64 bits or more in a text");
        }
        return *out = hd_tpl_int(value), HD_OK;
    }
    if (a[0].type == HD_TPL_STRING && text_to_double(a[0], &f)) { return double_to_int(run, f, fallback, out); }
    *out = fallback;
    return HD_OK;
}

FILTER(do_float)
{
    double f;
    (void)call;
    if (a[0].type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a[0]); }
    *out = a[1].type == HD_TPL_MISSING ? hd_tpl_float(0.0) : a[1];
    if (hd_tpl_is_number(a[0])) { *out = hd_tpl_float(hd_tpl_as_double(a[0])); }
    if (a[0].type == HD_TPL_STRING && text_to_double(a[0], &f)) { *out = hd_tpl_float(f); }
    return HD_OK;
}

FILTER(do_abs)
{
    (void)call;
    bool negative = hd_tpl_is_number(a[0]) && hd_tpl_as_double(a[0]) < 0.0;
    hd_status st = hd_tpl_unary(run, negative ? HD_TPL_OP_SUB : HD_TPL_OP_ADD, a[0], out);
    if (st == HD_OK && out->type == HD_TPL_FLOAT) { out->f = fabs(out->f); }
    return st;
}

FILTER(do_round)
{
    hd_status st = HD_OK;
    char text[400];
    int64_t precision = 0, i;
    hd_tpl_value method = hd_tpl_text("common", 6);
    (void)call;
    HD_TRY(hd_tpl_arg_int(run, a[1], "precision", &precision));
    HD_TRY(hd_tpl_arg_text(run, a[2], "method", &method));
    if (a[0].type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a[0]); }
    if (!hd_tpl_is_number(a[0])) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'round' wants a number, found a %s", hd_tpl_type_name(a[0]));
    }
    if (precision < 0 || precision > 15 || !(fabs(hd_tpl_as_double(a[0])) < 0x1p53)) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "filter 'round' of a large number, or with a precision outside 0 to 15");
    }
    if (hd_tpl_is_text(method, "common")) {
        if (hd_tpl_is_integer(a[0], &i)) { return *out = hd_tpl_int(i), HD_OK; }
        (void)snprintf(text, sizeof text, "%.*f", (int)precision, a[0].f); /* exact, ties to even as Python's */
        *out = hd_tpl_float(strtod(text, NULL));
        return HD_OK;
    }
    if (!hd_tpl_is_text(method, "ceil") && !hd_tpl_is_text(method, "floor")) {
        return hd_tpl_fail(run, HD_E_INVALID, "method of filter 'round' must be common, ceil or floor");
    }
    double scale = pow(10.0, (double)precision), scaled = hd_tpl_as_double(a[0]) * scale;
    *out = hd_tpl_float((hd_tpl_is_text(method, "ceil") ? ceil(scaled) : floor(scaled)) / scale);
    if (out->f == 0.0) { out->f = 0.0; /* Python divides an integer, which has no negative zero */ }
out:
    return st;
}

/* ---- sequences ------------------------------------------------------------------------------------------------------- */

FILTER(do_length)
{
    (void)call;
    *out = hd_tpl_int(0);
    return hd_tpl_length(run, a[0], &out->i);
}

static hd_status no_item(hd_tpl_value *out, const char *what)
{
    *out = hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, what, strlen(what));
    return HD_OK;
}

FILTER(do_first)
{
    hd_tpl_list *list;
    (void)call;
    if (a[0].type == HD_TPL_ITERATOR) {
        hd_tpl_iterator *it = a[0].iterator;
        hd_status started = hd_tpl_iterator_start(run, it);
        if (started != HD_OK) { return started; }
        if (it->next == it->list->n) { return no_item(out, "there is no first item"); }
        return *out = it->list->items[it->next++], HD_OK;
    }
    hd_status st = hd_tpl_iterate(run, a[0], &list);
    if (st != HD_OK) { return st; }
    return list->n > 0 ? (*out = list->items[0], HD_OK) : no_item(out, "there is no first item");
}

FILTER(do_last)
{
    hd_tpl_list *list;
    (void)call;
    if (a[0].type == HD_TPL_ITERATOR) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'last' of a %s: make it a list first", hd_tpl_type_name(a[0]));
    }
    hd_status st = hd_tpl_iterate(run, a[0], &list);
    if (st != HD_OK) { return st; }
    return list->n > 0 ? (*out = list->items[list->n - 1], HD_OK) : no_item(out, "there is no last item");
}

/* A list of its own, which may be changed. */
static hd_status copy_list(hd_tpl_run *run, hd_tpl_value value, hd_tpl_list **out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    HD_TRY(hd_tpl_iterate(run, value, &list));
    HD_TRY(hd_tpl_list_new(run, list->n, out));
    for (size_t i = 0; i < list->n; i++) { HD_TRY(hd_tpl_list_add(run, *out, list->items[i])); }
out:
    return st;
}

FILTER(do_list)
{
    hd_tpl_list *list;
    (void)call;
    hd_status st = copy_list(run, a[0], &list);
    if (st == HD_OK) { *out = hd_tpl_listed(HD_TPL_LIST, list); }
    return st;
}

FILTER(do_reverse)
{
    hd_tpl_list *list;
    size_t mark = hd_tpl_mark(run);
    (void)call;
    hd_status st = copy_list(run, a[0], &list);
    if (st != HD_OK) { return st; }
    for (size_t i = 0; i < list->n / 2; i++) {
        hd_tpl_value other = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = other;
    }
    if (a[0].type == HD_TPL_ITERATOR) { return *out = hd_tpl_listed(HD_TPL_LIST, list), HD_OK; }
    if (a[0].type != HD_TPL_STRING) { return hd_tpl_iterator_new(run, list, out); }
    for (size_t i = 0; i < list->n; i++) { hd_buf_append(run->out, list->items[i].text, list->items[i].n); }
    return hd_tpl_take(run, mark, out);
}

/* attribute of "a.b.0": items one after another; with a fallback where one is missing. */
static hd_status get_path(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value path, hd_tpl_value fallback, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *parts;
    hd_tpl_value dot = hd_tpl_text(".", 1);
    *out = value;
    if (!given(path)) { return HD_OK; }
    if (path.type != HD_TPL_STRING) { return hd_tpl_get_item(run, value, path, out); }
    HD_TRY(hd_tpl_split(run, path, &dot, -1, false, &parts));
    for (size_t i = 0; i < parts->n; i++) {
        hd_tpl_value part = parts->items[i], key = part;
        bool digits = part.n > 0 && part.n < 18;
        for (size_t k = 0; k < part.n; k++) { digits = digits && part.text[k] >= '0' && part.text[k] <= '9'; }
        if (digits) {
            key = hd_tpl_int(0);
            for (size_t k = 0; k < part.n; k++) { key.i = key.i * 10 + (part.text[k] - '0'); }
        }
        HD_TRY(hd_tpl_get_item(run, *out, key, out));
        if (out->type == HD_TPL_UNDEFINED && given(fallback)) { *out = fallback; }
    }
out:
    return st;
}

FILTER(do_join)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value separator = hd_tpl_text("", 0), item;
    size_t mark;
    (void)call;
    HD_TRY(hd_tpl_iterate(run, a[0], &list));
    if (a[1].type != HD_TPL_MISSING) { HD_TRY(hd_tpl_string_of(run, a[1], &separator)); }
    mark = hd_tpl_mark(run);
    for (size_t i = 0; i < list->n; i++) {
        if (i > 0) { HD_TRY(hd_tpl_put(run, separator)); }
        HD_TRY(get_path(run, list->items[i], a[2], hd_tpl_none(), &item));
        HD_TRY(hd_tpl_put(run, item));
    }
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

FILTER(do_sum)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value item;
    (void)call;
    *out = a[2].type == HD_TPL_MISSING ? hd_tpl_int(0) : a[2];
    if (out->type == HD_TPL_STRING) { return hd_tpl_fail(run, HD_E_INVALID, "filter 'sum' does not add strings"); }
    HD_TRY(hd_tpl_iterate(run, a[0], &list));
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(get_path(run, list->items[i], a[1], hd_tpl_none(), &item));
        HD_TRY(hd_tpl_binary(run, HD_TPL_OP_ADD, *out, item, out));
    }
out:
    return st;
}

/* What items are compared by: an attribute, strings in lower case unless case counts. */
static hd_status sort_key(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value attribute, bool case_sensitive, hd_tpl_value *out)
{
    hd_status st = get_path(run, value, attribute, hd_tpl_none(), out);
    if (st == HD_OK && !case_sensitive && out->type == HD_TPL_STRING) { st = hd_tpl_change_case(run, *out, HD_TPL_LOWER, out); }
    return st;
}

/* Several attributes, "a,b", make a list of keys. */
static hd_status sort_keys(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value attribute, bool case_sensitive, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *names, *keys;
    hd_tpl_value comma = hd_tpl_text(",", 1);
    if (attribute.type != HD_TPL_STRING) { return sort_key(run, value, attribute, case_sensitive, out); }
    HD_TRY(hd_tpl_split(run, attribute, &comma, -1, false, &names));
    HD_TRY(hd_tpl_list_new(run, names->n, &keys));
    for (size_t i = 0; i < names->n; i++) {
        HD_TRY(sort_key(run, value, names->items[i], case_sensitive, out));
        HD_TRY(hd_tpl_list_add(run, keys, *out));
    }
    *out = hd_tpl_listed(HD_TPL_LIST, keys);
out:
    return st;
}

static hd_status sort_list(hd_tpl_run *run, hd_tpl_list *list, bool reverse, bool case_sensitive, hd_tpl_value attribute)
{
    hd_status st = HD_OK;
    hd_tpl_list *keys;
    hd_tpl_value key;
    HD_TRY(hd_tpl_list_new(run, list->n, &keys));
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(sort_keys(run, list->items[i], attribute, case_sensitive, &key));
        HD_TRY(hd_tpl_list_add(run, keys, key));
    }
    HD_TRY(hd_tpl_sort(run, list, keys, reverse));
out:
    return st;
}

FILTER(do_sort)
{
    hd_tpl_list *list;
    (void)call;
    hd_status st = copy_list(run, a[0], &list);
    if (st == HD_OK) { st = sort_list(run, list, hd_tpl_truth(a[1]), hd_tpl_truth(a[2]), a[3]); }
    if (st == HD_OK) { *out = hd_tpl_listed(HD_TPL_LIST, list); }
    return st;
}

FILTER(do_dictsort)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value by = hd_tpl_text("key", 3);
    (void)call;
    if (a[0].type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a[0]); }
    if (a[0].type != HD_TPL_DICT) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'dictsort' wants a dict, found a %s", hd_tpl_type_name(a[0]));
    }
    HD_TRY(hd_tpl_arg_text(run, a[2], "by", &by));
    if (!hd_tpl_is_text(by, "key") && !hd_tpl_is_text(by, "value")) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'dictsort' sorts by 'key' or 'value'");
    }
    HD_TRY(hd_tpl_iterate(run, (hd_tpl_value){.type = HD_TPL_VIEW, .kind = HD_TPL_VIEW_ITEMS, .dict = a[0].dict}, &list));
    HD_TRY(sort_list(run, list, hd_tpl_truth(a[3]), hd_tpl_truth(a[1]), hd_tpl_int(hd_tpl_is_text(by, "value"))));
    *out = hd_tpl_listed(HD_TPL_LIST, list);
out:
    return st;
}

static hd_status extreme(hd_tpl_run *run, const hd_tpl_value *a, bool is_max, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value key, best;
    bool unordered;
    int order;
    HD_TRY(hd_tpl_iterate(run, a[0], &list));
    if (list->n == 0) { return no_item(out, "there is no item: the sequence is empty"); }
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(sort_key(run, list->items[i], a[2], hd_tpl_truth(a[1]), &key));
        if (i > 0) {
            HD_TRY(hd_tpl_compare(run, key, best, is_max ? ">" : "<", &order, &unordered));
            if (is_max ? order <= 0 : order >= 0) { continue; }
        }
        best = key;
        *out = list->items[i];
    }
out:
    return st;
}

FILTER(do_min)
{
    (void)call;
    return extreme(run, a, false, out);
}

FILTER(do_max)
{
    (void)call;
    return extreme(run, a, true, out);
}

/* ---- filters that give iterators ------------------------------------------------------------------------------------- */

typedef struct lazy_call {
    hd_tpl_call call;
    hd_tpl_value a[1 + HD_TPL_MAX_PARAMETERS];
} lazy_call;

/* An iterator whose items are found by `fill` once they are asked for. */
static hd_status make_lazy(hd_tpl_run *run, hd_tpl_fill fill, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    void *memory;
    HD_TRY(hd_tpl_alloc(run, sizeof(lazy_call), &memory));
    lazy_call *lazy = memory;
    lazy->call = *call;
    memcpy(lazy->a, a, sizeof lazy->a);
    HD_TRY(hd_tpl_list_new(run, 0, &list));
    HD_TRY(hd_tpl_iterator_new(run, list, out));
    out->iterator->fill = fill;
    out->iterator->call = lazy;
out:
    return st;
}

/* A filter that makes such an iterator. */
#define LAZY_FILTER(name, fill)                    \
    FILTER(name)                                   \
    {                                              \
        return make_lazy(run, fill, call, a, out); \
    }

static hd_status fill_unique(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    hd_status st = HD_OK;
    const hd_tpl_value *a = ((const lazy_call *)context)->a;
    hd_tpl_list *list;
    hd_tpl_value seen, key, *found;
    HD_TRY(hd_tpl_iterate(run, a[0], &list));
    HD_TRY(hd_tpl_dict_new(run, 0, &seen));
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(sort_key(run, list->items[i], a[2], hd_tpl_truth(a[1]), &key));
        HD_TRY(hd_tpl_dict_get(run, seen.dict, key, &found));
        if (found != NULL) { continue; }
        HD_TRY(hd_tpl_dict_add(run, seen.dict, key, hd_tpl_none()));
        HD_TRY(hd_tpl_list_add(run, into, list->items[i]));
    }
out:
    return st;
}

LAZY_FILTER(do_unique, fill_unique)

static hd_status fill_items(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value dict = ((const lazy_call *)context)->a[0];
    if (dict.type == HD_TPL_UNDEFINED) { return HD_OK; }
    if (dict.type != HD_TPL_DICT) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'items' wants a dict, found a %s", hd_tpl_type_name(dict));
    }
    HD_TRY(hd_tpl_iterate(run, (hd_tpl_value){.type = HD_TPL_VIEW, .kind = HD_TPL_VIEW_ITEMS, .dict = dict.dict}, &list));
    *into = *list; /* made for this */
out:
    return st;
}

LAZY_FILTER(do_items, fill_items)

FILTER(do_default)
{
    (void)run;
    (void)call;
    bool replaces = a[0].type == HD_TPL_UNDEFINED || (hd_tpl_truth(a[2]) && !hd_tpl_truth(a[0]));
    *out = !replaces ? a[0] : a[1].type == HD_TPL_MISSING ? hd_tpl_text("", 0) : a[1];
    return HD_OK;
}

/* ---- filters that call others ---------------------------------------------------------------------------------------- */

/* The row named by argument i, and the call with what stands behind it. */
static hd_status named_row(hd_tpl_run *run, const hd_tpl_builtin *table, const char *what, const hd_tpl_call *call, size_t i,
                           const hd_tpl_builtin **row, hd_tpl_call *inner)
{
    hd_tpl_value name = hd_tpl_text("", 0);
    hd_status st = hd_tpl_arg_text(run, call->positional.items[i], "the name of a filter or test", &name);
    if (st != HD_OK) { return st; }
    int index = hd_tpl_builtin_find(table, name.text, name.n);
    if (index < 0) {
        return hd_tpl_fail(run, HD_E_INVALID, "the %s '%.*s' does not exist", what, name.n < 60 ? (int)name.n : 60, name.text);
    }
    *row = &table[index];
    *inner = *call;
    inner->positional.items += i + 1;
    inner->positional.n -= i + 1;
    return HD_OK;
}

static hd_status map_attribute(hd_tpl_run *run, const hd_tpl_call *call, hd_tpl_list *list, hd_tpl_list *mapped)
{
    hd_status st = HD_OK;
    hd_tpl_value item;
    hd_tpl_value *attribute = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, "attribute", 9);
    hd_tpl_value *fallback = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, "default", 7);
    if (attribute == NULL || call->keywords.n > 1u + (fallback != NULL)) {
        return hd_tpl_fail(run, HD_E_INVALID, "filter 'map' wants the name of a filter, or attribute= and default=");
    }
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(get_path(run, list->items[i], *attribute, fallback != NULL ? *fallback : hd_tpl_none(), &item));
        HD_TRY(hd_tpl_list_add(run, mapped, item));
    }
out:
    return st;
}

static hd_status fill_map(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    hd_status st = HD_OK;
    const hd_tpl_call *call = &((const lazy_call *)context)->call;
    hd_tpl_list *list;
    const hd_tpl_builtin *row;
    hd_tpl_call inner;
    hd_tpl_value item;
    if (!hd_tpl_truth(call->input)) { return HD_OK; }
    HD_TRY(hd_tpl_iterate(run, call->input, &list));
    if (call->positional.n == 0) { return map_attribute(run, call, list, into); }
    HD_TRY(named_row(run, hd_tpl_filters, "filter", call, 0, &row, &inner));
    for (size_t i = 0; i < list->n; i++) {
        inner.input = list->items[i];
        HD_TRY(hd_tpl_builtin_invoke(run, row, "filter", &inner, &item));
        HD_TRY(hd_tpl_list_add(run, into, item));
    }
out:
    return st;
}

LAZY_FILTER(do_map, fill_map)

static hd_status select_items(hd_tpl_run *run, const void *context, bool by_attribute, bool keeps, hd_tpl_list *into)
{
    hd_status st = HD_OK;
    const hd_tpl_call *call = &((const lazy_call *)context)->call;
    hd_tpl_list *list;
    const hd_tpl_builtin *row = NULL;
    hd_tpl_call inner;
    if (!hd_tpl_truth(call->input)) { return HD_OK; }
    if (by_attribute && call->positional.n == 0) { return hd_tpl_fail(run, HD_E_INVALID, "the name of the attribute is missing"); }
    HD_TRY(hd_tpl_iterate(run, call->input, &list));
    if (call->positional.n > by_attribute) { HD_TRY(named_row(run, hd_tpl_tests, "test", call, by_attribute, &row, &inner)); }
    for (size_t i = 0; i < list->n; i++) {
        hd_tpl_value tested = list->items[i];
        if (by_attribute) { HD_TRY(get_path(run, tested, call->positional.items[0], hd_tpl_none(), &tested)); }
        if (row != NULL) {
            inner.input = tested;
            HD_TRY(hd_tpl_builtin_invoke(run, row, "test", &inner, &tested));
        }
        if (hd_tpl_truth(tested) == keeps) { HD_TRY(hd_tpl_list_add(run, into, list->items[i])); }
    }
out:
    return st;
}

static hd_status fill_select(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    return select_items(run, context, false, true, into);
}

static hd_status fill_reject(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    return select_items(run, context, false, false, into);
}

static hd_status fill_selectattr(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    return select_items(run, context, true, true, into);
}

static hd_status fill_rejectattr(hd_tpl_run *run, const void *context, hd_tpl_list *into)
{
    return select_items(run, context, true, false, into);
}

LAZY_FILTER(do_select, fill_select)
LAZY_FILTER(do_reject, fill_reject)
LAZY_FILTER(do_selectattr, fill_selectattr)
LAZY_FILTER(do_rejectattr, fill_rejectattr)

const hd_tpl_builtin hd_tpl_filters[] = {
    {"abs", do_abs, "/"},
    {"capitalize", do_capitalize, ""},
    {"count", do_length, "/"},
    {"d", do_default, "default_value boolean"},
    {"default", do_default, "default_value boolean"},
    {"dictsort", do_dictsort, "case_sensitive by reverse"},
    {"first", do_first, ""},
    {"float", do_float, "default"},
    {"format", do_format, "*"},
    {"indent", do_indent, "width first blank"},
    {"int", do_int, "default base"},
    {"items", do_items, ""},
    {"join", do_join, "d attribute"},
    {"last", do_last, ""},
    {"length", do_length, "/"},
    {"list", do_list, ""},
    {"lower", do_lower, ""},
    {"map", do_map, "*"},
    {"max", do_max, "case_sensitive attribute"},
    {"min", do_min, "case_sensitive attribute"},
    {"reject", do_reject, "*"},
    {"rejectattr", do_rejectattr, "*"},
    {"replace", do_replace, "!old !new count"},
    {"reverse", do_reverse, ""},
    {"round", do_round, "precision method"},
    {"safe", do_safe, ""},
    {"select", do_select, "*"},
    {"selectattr", do_selectattr, "*"},
    {"sort", do_sort, "reverse case_sensitive attribute"},
    {"string", do_string, "/"},
    {"sum", do_sum, "attribute start"},
    {"title", do_title, ""},
    {"tojson", do_tojson, "ensure_ascii indent separators sort_keys"},
    {"trim", do_trim, "chars"},
    {"unique", do_unique, "case_sensitive attribute"},
    {"upper", do_upper, ""},
    {"attr", NULL, ""},
    {"batch", NULL, ""},
    {"center", NULL, ""},
    {"e", NULL, ""},
    {"escape", NULL, ""},
    {"filesizeformat", NULL, ""},
    {"forceescape", NULL, ""},
    {"groupby", NULL, ""},
    {"pprint", NULL, ""},
    {"random", NULL, ""},
    {"slice", NULL, ""},
    {"striptags", NULL, ""},
    {"truncate", NULL, ""},
    {"urlencode", NULL, ""},
    {"urlize", NULL, ""},
    {"wordcount", NULL, ""},
    {"wordwrap", NULL, ""},
    {"xmlattr", NULL, ""},
    {NULL, NULL, NULL},
};
