/* str methods over UTF-8.  See template_string.h. */
#include "tokenizer/template_string.h"

#include <string.h>

#include "base/utf8.h"

/* ---- code points and places ------------------------------------------------------------------------------------------ */

size_t hd_tpl_count_chars(hd_tpl_value text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) { n += ((unsigned char)text.text[i] & 0xC0u) != 0x80u; }
    return n;
}

size_t hd_tpl_char_offset(hd_tpl_value text, size_t i)
{
    size_t at = 0;
    for (; at < text.n; at++) {
        if (((unsigned char)text.text[at] & 0xC0u) == 0x80u) { continue; }
        if (i == 0) { return at; }
        i--;
    }
    return at;
}

size_t hd_tpl_find_text(hd_tpl_value text, hd_tpl_value wanted, size_t from)
{
    if (from > text.n || wanted.n > text.n - from) { return SIZE_MAX; }
    if (wanted.n == 0) { return from; }
    const char *found = memmem(text.text + from, text.n - from, wanted.text, wanted.n);
    return found != NULL ? (size_t)(found - text.text) : SIZE_MAX;
}

size_t hd_tpl_rfind_text(hd_tpl_value text, hd_tpl_value wanted)
{
    if (wanted.n > text.n) { return SIZE_MAX; }
    if (wanted.n == 0) { return text.n; }
    for (size_t at = text.n - wanted.n + 1; at-- > 0;) {
        if (text.text[at] == wanted.text[0] && memcmp(text.text + at, wanted.text, wanted.n) == 0) { return at; }
    }
    return SIZE_MAX;
}

bool hd_tpl_is_space(uint32_t code)
{
    return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

size_t hd_tpl_space_run(const char *text, size_t n)
{
    size_t at = 0;
    while (at < n) {
        uint32_t code;
        size_t k = hd_utf8_next_replacing(text + at, n - at, &code);
        if (!hd_tpl_is_space(code)) { break; }
        at += k;
    }
    return at;
}

/* Where the last code point of text[0, n) begins; n > 0. */
static size_t last_char(const char *text, size_t n)
{
    size_t at = n - 1;
    while (at > 0 && n - at < 4 && ((unsigned char)text[at] & 0xC0u) == 0x80u) { at--; }
    return at;
}

size_t hd_tpl_trimmed(const char *text, size_t n)
{
    while (n > 0) {
        uint32_t code;
        size_t at = last_char(text, n);
        (void)hd_utf8_next_replacing(text + at, n - at, &code);
        if (!hd_tpl_is_space(code)) { break; }
        n = at;
    }
    return n;
}

/* ---- stripping ------------------------------------------------------------------------------------------------------- */

static bool is_stripped(const char *text, size_t n, const hd_tpl_value *chars)
{
    uint32_t code;
    (void)hd_utf8_next_replacing(text, n, &code);
    return chars == NULL ? hd_tpl_is_space(code) : hd_tpl_find_text(*chars, hd_tpl_text(text, n), 0) != SIZE_MAX;
}

hd_tpl_value hd_tpl_strip(hd_tpl_value text, const hd_tpl_value *chars, bool left, bool right)
{
    size_t begin = 0, end = text.n;
    while (left && begin < end) {
        uint32_t code;
        size_t n = hd_utf8_next_replacing(text.text + begin, end - begin, &code);
        if (!is_stripped(text.text + begin, n, chars)) { break; }
        begin += n;
    }
    while (right && end > begin) {
        size_t at = begin + last_char(text.text + begin, end - begin);
        if (!is_stripped(text.text + at, end - at, chars)) { break; }
        end = at;
    }
    return hd_tpl_part(text, begin, end);
}

/* ---- splitting ------------------------------------------------------------------------------------------------------- */

static void reverse_list(hd_tpl_list *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        hd_tpl_value other = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = other;
    }
}

static hd_status split_spaces(hd_tpl_run *run, hd_tpl_value text, int64_t limit, hd_tpl_list *list)
{
    size_t at = hd_tpl_space_run(text.text, text.n);
    while (at < text.n) {
        size_t end = at;
        while (end < text.n && limit != 0 && hd_tpl_space_run(text.text + end, text.n - end) == 0) {
            uint32_t code;
            end += hd_utf8_next_replacing(text.text + end, text.n - end, &code);
        }
        if (limit == 0) { end = text.n; } /* the rest as it is, white space at its end too */
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_part(text, at, end));
        if (st != HD_OK || limit == 0) { return st; }
        at = end + hd_tpl_space_run(text.text + end, text.n - end);
        limit--;
    }
    return HD_OK;
}

static hd_status rsplit_spaces(hd_tpl_run *run, hd_tpl_value text, int64_t limit, hd_tpl_list *list)
{
    size_t end = hd_tpl_trimmed(text.text, text.n);
    while (end > 0) {
        size_t begin = end;
        while (begin > 0 && limit != 0 && hd_tpl_trimmed(text.text, begin) == begin) { begin = last_char(text.text, begin); }
        if (limit == 0) { begin = 0; }
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_part(text, begin, end));
        if (st != HD_OK || limit == 0) { return st; }
        end = hd_tpl_trimmed(text.text, begin);
        limit--;
    }
    return HD_OK;
}

static hd_status split_at(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value separator, int64_t limit, hd_tpl_list *list)
{
    size_t at = 0;
    for (;; limit--) {
        size_t found = limit != 0 ? hd_tpl_find_text(text, separator, at) : SIZE_MAX;
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_part(text, at, found != SIZE_MAX ? found : text.n));
        if (st != HD_OK || found == SIZE_MAX) { return st; }
        at = found + separator.n;
    }
}

static hd_status rsplit_at(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value separator, int64_t limit, hd_tpl_list *list)
{
    size_t end = text.n;
    for (;; limit--) {
        size_t found = limit != 0 ? hd_tpl_rfind_text(hd_tpl_part(text, 0, end), separator) : SIZE_MAX;
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_part(text, found != SIZE_MAX ? found + separator.n : 0, end));
        if (st != HD_OK || found == SIZE_MAX) { return st; }
        end = found;
    }
}

hd_status hd_tpl_split(hd_tpl_run *run, hd_tpl_value text, const hd_tpl_value *separator, int64_t limit, bool from_right, hd_tpl_list **out)
{
    hd_status st = hd_tpl_step_bytes(run, text.n);
    if (st == HD_OK && separator != NULL && separator->n == 0) { st = hd_tpl_fail(run, HD_E_INVALID, "an empty separator"); }
    if (st == HD_OK) { st = hd_tpl_list_new(run, 0, out); }
    if (st != HD_OK) { return st; }
    if (!from_right) { return separator == NULL ? split_spaces(run, text, limit, *out) : split_at(run, text, *separator, limit, *out); }
    st = separator == NULL ? rsplit_spaces(run, text, limit, *out) : rsplit_at(run, text, *separator, limit, *out);
    reverse_list(*out);
    return st;
}

/* Bytes of the line break at the start of text: those of str.splitlines; 0 when there is none. */
static size_t line_break(const char *text, size_t n)
{
    uint32_t code;
    size_t k = hd_utf8_next_replacing(text, n, &code);
    if (code == '\r' && n > 1 && text[1] == '\n') { return 2; }
    return (code >= 10 && code <= 13) || (code >= 28 && code <= 30) || code == 0x85 || code == 0x2028 || code == 0x2029 ? k : 0;
}

hd_status hd_tpl_split_lines(hd_tpl_run *run, hd_tpl_value text, bool keep_ends, hd_tpl_list **out)
{
    hd_status st = hd_tpl_step_bytes(run, text.n);
    if (st == HD_OK) { st = hd_tpl_list_new(run, 0, out); }
    for (size_t begin = 0, at = 0; st == HD_OK && begin < text.n;) {
        size_t end = at < text.n ? line_break(text.text + at, text.n - at) : 0;
        if (end == 0 && at < text.n) {
            at++;
            continue;
        }
        st = hd_tpl_list_add(run, *out, hd_tpl_part(text, begin, at + (keep_ends ? end : 0)));
        begin = at = at + end;
    }
    return st;
}

hd_status hd_tpl_replace(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value old, hd_tpl_value fresh, int64_t limit, hd_tpl_value *out)
{
    size_t mark = hd_tpl_mark(run), at = 0;
    hd_status st = hd_tpl_step_bytes(run, text.n);
    while (st == HD_OK && limit != 0) {
        size_t found = hd_tpl_find_text(text, old, at);
        if (found == SIZE_MAX) { break; }
        hd_buf_append(run->out, text.text + at, found - at);
        hd_buf_append(run->out, fresh.text, fresh.n);
        at = found + old.n;
        if (limit > 0) { limit--; }
        if (old.n == 0) { /* between all code points, and at both ends */
            uint32_t code;
            if (at == text.n) { return hd_tpl_take(run, mark, out); }
            size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
            hd_buf_append(run->out, text.text + at, n);
            at += n;
        }
        st = hd_tpl_check_out(run);
        if (st == HD_OK) { st = hd_tpl_step(run, 1); }
    }
    if (st != HD_OK) { return st; }
    if (run->out->n == mark) { return *out = text, HD_OK; }
    hd_buf_append(run->out, text.text + at, text.n - at);
    return hd_tpl_take(run, mark, out);
}

/* ---- case ------------------------------------------------------------------------------------------------------------ */

static void put_code(hd_tpl_run *run, uint32_t code)
{
    char bytes[4];
    hd_buf_append(run->out, bytes, hd_utf8_encode(code, bytes));
}

/* A capital sigma at [at, end) is final when the nearest letter before it is cased and none follows. */
static bool is_final_sigma(hd_tpl_value text, size_t at, size_t end)
{
    uint32_t code = 0;
    bool before = false;
    while (at > 0) {
        size_t begin = last_char(text.text, at);
        (void)hd_utf8_next_replacing(text.text + begin, at - begin, &code);
        at = begin;
        before = !hd_tpl_is_case_ignorable(code);
        if (before) { break; }
    }
    if (!before || !hd_tpl_is_cased(code)) { return false; }
    while (end < text.n) {
        end += hd_utf8_next_replacing(text.text + end, text.n - end, &code);
        if (!hd_tpl_is_case_ignorable(code)) { return !hd_tpl_is_cased(code); }
    }
    return true;
}

hd_status hd_tpl_change_case(hd_tpl_run *run, hd_tpl_value text, hd_tpl_case to, hd_tpl_value *out)
{
    size_t mark = hd_tpl_mark(run);
    bool after_letter = false;
    hd_status st = hd_tpl_step_bytes(run, text.n * 16);
    if (st != HD_OK) { return st; }
    for (size_t at = 0; at < text.n;) {
        uint32_t code, mapped[3];
        hd_tpl_case rule = to;
        size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        if (to == HD_TPL_CAPITALIZE) { rule = at == 0 ? HD_TPL_TITLE : HD_TPL_LOWER; }
        if (to == HD_TPL_TITLE) { rule = after_letter ? HD_TPL_LOWER : HD_TPL_TITLE; }
        if (code == 0x3A3 && rule == HD_TPL_LOWER) {
            put_code(run, is_final_sigma(text, at, at + n) ? 0x3C2 : 0x3C3);
        } else {
            int k = hd_tpl_map_case(code, rule, mapped);
            for (int i = 0; i < k; i++) { put_code(run, mapped[i]); }
        }
        after_letter = hd_tpl_is_cased(code);
        at += n;
    }
    return hd_tpl_take(run, mark, out);
}

bool hd_tpl_is_case(hd_tpl_value text, hd_tpl_case which)
{
    hd_tpl_case other = which == HD_TPL_LOWER ? HD_TPL_UPPER : HD_TPL_LOWER;
    bool seen = false;
    for (size_t at = 0; at < text.n;) {
        uint32_t code, there[3], back[3];
        at += hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        int k_there = hd_tpl_map_case(code, which, there), k_back = hd_tpl_map_case(code, other, back);
        if (k_there > 1 || there[0] != code) { return false; }
        seen = seen || k_back > 1 || back[0] != code;
    }
    return seen;
}
