/* Methods of strings, lists and dicts that read and do not change.  See template_builtins.h. */
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/template_builtins.h"
#include "tokenizer/template_string.h"

#define METHOD(name) static hd_status name(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)

static bool given(hd_tpl_value argument)
{
    return argument.type != HD_TPL_MISSING && argument.type != HD_TPL_NONE;
}

/* ---- strings --------------------------------------------------------------------------------------------------------- */

static hd_status strip(hd_tpl_run *run, const hd_tpl_value *a, bool left, bool right, hd_tpl_value *out)
{
    hd_tpl_value chars;
    hd_status st = hd_tpl_step_bytes(run, a[0].n);
    if (st == HD_OK && given(a[1])) { st = hd_tpl_arg_text(run, a[1], "the characters to strip", &chars); }
    if (st == HD_OK) { *out = hd_tpl_strip(a[0], given(a[1]) ? &chars : NULL, left, right); }
    return st;
}

METHOD(text_strip)
{
    (void)call;
    return strip(run, a, true, true, out);
}

METHOD(text_lstrip)
{
    (void)call;
    return strip(run, a, true, false, out);
}

METHOD(text_rstrip)
{
    (void)call;
    return strip(run, a, false, true, out);
}

static hd_status split(hd_tpl_run *run, const hd_tpl_value *a, bool from_right, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value separator;
    hd_tpl_list *list;
    int64_t limit = -1;
    if (given(a[1])) { HD_TRY(hd_tpl_arg_text(run, a[1], "the separator", &separator)); }
    HD_TRY(hd_tpl_arg_int(run, a[2], "maxsplit", &limit));
    HD_TRY(hd_tpl_split(run, a[0], given(a[1]) ? &separator : NULL, limit, from_right, &list));
    *out = hd_tpl_listed(HD_TPL_LIST, list);
out:
    return st;
}

METHOD(text_split)
{
    (void)call;
    return split(run, a, false, out);
}

METHOD(text_rsplit)
{
    (void)call;
    return split(run, a, true, out);
}

METHOD(text_splitlines)
{
    hd_tpl_list *list;
    (void)call;
    hd_status st = hd_tpl_split_lines(run, a[0], hd_tpl_truth(a[1]), &list);
    if (st == HD_OK) { *out = hd_tpl_listed(HD_TPL_LIST, list); }
    return st;
}

/* The part of a text that optional bounds in code points select; *within false when start lies behind the end. */
static hd_status between(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value from, hd_tpl_value to, hd_tpl_value *part, int64_t *start,
                         bool *within)
{
    hd_status st = HD_OK;
    int64_t n, stop;
    *start = 0, *within = true, *part = text;
    if (!given(from) && !given(to)) { return HD_OK; }
    HD_TRY(hd_tpl_length(run, text, &n));
    stop = n;
    if (given(from)) { HD_TRY(hd_tpl_arg_int(run, from, "start", start)); }
    if (given(to)) { HD_TRY(hd_tpl_arg_int(run, to, "end", &stop)); }
    int64_t *const ends[] = {start, &stop};
    for (int i = 0; i < 2; i++) {
        if (*ends[i] < 0) { *ends[i] = *ends[i] < -n ? 0 : *ends[i] + n; }
    }
    *within = *start <= n;
    stop = stop > n ? n : stop;
    if (!*within || stop < *start) { return *within = *within && stop >= *start, *part = hd_tpl_text("", 0), HD_OK; }
    *part = hd_tpl_part(text, hd_tpl_char_offset(text, (size_t)*start), hd_tpl_char_offset(text, (size_t)stop));
out:
    return st;
}

/* str.find and its kin: the place in code points; what follows when there is none depends on `must`. */
static hd_status find(hd_tpl_run *run, const hd_tpl_value *a, bool from_right, bool must, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value wanted, part;
    int64_t start;
    bool within;
    size_t at;
    HD_TRY(hd_tpl_arg_text(run, a[1], "what is looked for", &wanted));
    HD_TRY(hd_tpl_step_bytes(run, 2 * a[0].n));
    HD_TRY(between(run, a[0], a[2], a[3], &part, &start, &within));
    at = !within ? SIZE_MAX : from_right ? hd_tpl_rfind_text(part, wanted) : hd_tpl_find_text(part, wanted, 0);
    if (at == SIZE_MAX && must) { return hd_tpl_fail(run, HD_E_INVALID, "the substring is not found"); }
    *out = hd_tpl_int(at == SIZE_MAX ? -1 : start + (int64_t)hd_tpl_count_chars(hd_tpl_part(part, 0, at)));
out:
    return st;
}

METHOD(text_find)
{
    (void)call;
    return find(run, a, false, false, out);
}

METHOD(text_rfind)
{
    (void)call;
    return find(run, a, true, false, out);
}

METHOD(text_index)
{
    (void)call;
    return find(run, a, false, true, out);
}

METHOD(text_rindex)
{
    (void)call;
    return find(run, a, true, true, out);
}

METHOD(text_count)
{
    hd_status st = HD_OK;
    hd_tpl_value wanted, part;
    int64_t start;
    bool within;
    (void)call;
    HD_TRY(hd_tpl_arg_text(run, a[1], "what is counted", &wanted));
    HD_TRY(hd_tpl_step_bytes(run, 2 * a[0].n));
    HD_TRY(between(run, a[0], a[2], a[3], &part, &start, &within));
    *out = hd_tpl_int(0);
    if (!within) { return HD_OK; }
    if (wanted.n == 0) { return *out = hd_tpl_int((int64_t)hd_tpl_count_chars(part) + 1), HD_OK; }
    for (size_t at = 0; (at = hd_tpl_find_text(part, wanted, at)) != SIZE_MAX; at += wanted.n) { out->i++; }
out:
    return st;
}

static bool begins_or_ends(hd_tpl_value text, hd_tpl_value affix, bool at_end)
{
    return affix.n <= text.n && (affix.n == 0 || memcmp(text.text + (at_end ? text.n - affix.n : 0), affix.text, affix.n) == 0);
}

static hd_status has_affix(hd_tpl_run *run, const hd_tpl_value *a, bool at_end, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list one = {.n = 1, .capacity = 1, .items = (hd_tpl_value *)&a[1]}, *affixes = &one;
    hd_tpl_value part, affix;
    int64_t start;
    bool within;
    HD_TRY(between(run, a[0], a[2], a[3], &part, &start, &within));
    if (a[1].type == HD_TPL_TUPLE) { affixes = a[1].list; }
    *out = hd_tpl_bool(false);
    for (size_t i = 0; i < affixes->n; i++) {
        HD_TRY(hd_tpl_arg_text(run, affixes->items[i], at_end ? "the suffix" : "the prefix", &affix));
        HD_TRY(hd_tpl_step_bytes(run, affix.n));
        out->b = out->b || (within && begins_or_ends(part, affix, at_end));
    }
out:
    return st;
}

METHOD(text_startswith)
{
    (void)call;
    return has_affix(run, a, false, out);
}

METHOD(text_endswith)
{
    (void)call;
    return has_affix(run, a, true, out);
}

static hd_status remove_affix(hd_tpl_run *run, const hd_tpl_value *a, bool at_end, hd_tpl_value *out)
{
    hd_tpl_value affix;
    hd_status st = hd_tpl_arg_text(run, a[1], at_end ? "the suffix" : "the prefix", &affix);
    if (st != HD_OK) { return st; }
    bool has = begins_or_ends(a[0], affix, at_end);
    *out = !has ? a[0] : at_end ? hd_tpl_part(a[0], 0, a[0].n - affix.n) : hd_tpl_part(a[0], affix.n, a[0].n);
    return HD_OK;
}

METHOD(text_removeprefix)
{
    (void)call;
    return remove_affix(run, a, false, out);
}

METHOD(text_removesuffix)
{
    (void)call;
    return remove_affix(run, a, true, out);
}

METHOD(text_replace)
{
    hd_status st = HD_OK;
    hd_tpl_value old, fresh;
    int64_t limit = -1;
    (void)call;
    HD_TRY(hd_tpl_arg_text(run, a[1], "what is replaced", &old));
    HD_TRY(hd_tpl_arg_text(run, a[2], "the replacement", &fresh));
    HD_TRY(hd_tpl_arg_int(run, a[3], "the count", &limit));
    HD_TRY(hd_tpl_replace(run, a[0], old, fresh, limit, out));
out:
    return st;
}

METHOD(text_upper)
{
    (void)call;
    return hd_tpl_change_case(run, a[0], HD_TPL_UPPER, out);
}

METHOD(text_lower)
{
    (void)call;
    return hd_tpl_change_case(run, a[0], HD_TPL_LOWER, out);
}

METHOD(text_capitalize)
{
    (void)call;
    return hd_tpl_change_case(run, a[0], HD_TPL_CAPITALIZE, out);
}

METHOD(text_title)
{
    (void)call;
    return hd_tpl_change_case(run, a[0], HD_TPL_TITLE, out);
}

METHOD(text_join)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    size_t mark = hd_tpl_mark(run);
    hd_tpl_value item;
    (void)call;
    HD_TRY(hd_tpl_iterate(run, a[1], &list));
    for (size_t i = 0; i < list->n; i++) {
        HD_TRY(hd_tpl_arg_text(run, list->items[i], "an item to join", &item));
        if (i > 0) { HD_TRY(hd_tpl_put(run, a[0])); }
        HD_TRY(hd_tpl_put(run, item));
    }
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

static hd_status partition(hd_tpl_run *run, const hd_tpl_value *a, bool from_right, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value separator, none = hd_tpl_text("", 0), parts[3];
    hd_tpl_list *list;
    HD_TRY(hd_tpl_arg_text(run, a[1], "the separator", &separator));
    HD_TRY(hd_tpl_step_bytes(run, a[0].n));
    if (separator.n == 0) { return hd_tpl_fail(run, HD_E_INVALID, "an empty separator"); }
    size_t at = from_right ? hd_tpl_rfind_text(a[0], separator) : hd_tpl_find_text(a[0], separator, 0);
    bool found = at != SIZE_MAX;
    parts[0] = found ? hd_tpl_part(a[0], 0, at) : from_right ? none : a[0];
    parts[1] = found ? separator : none;
    parts[2] = found ? hd_tpl_part(a[0], at + separator.n, a[0].n) : from_right ? a[0] : none;
    HD_TRY(hd_tpl_list_new(run, 3, &list));
    for (int i = 0; i < 3; i++) { HD_TRY(hd_tpl_list_add(run, list, parts[i])); }
    *out = hd_tpl_listed(HD_TPL_TUPLE, list);
out:
    return st;
}

METHOD(text_partition)
{
    (void)call;
    return partition(run, a, false, out);
}

METHOD(text_rpartition)
{
    (void)call;
    return partition(run, a, true, out);
}

static bool is_ascii_digit(uint32_t code)
{
    return code >= '0' && code <= '9';
}

static bool is_ascii_letter(uint32_t code)
{
    return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
}

static bool is_ascii_letter_or_digit(uint32_t code)
{
    return is_ascii_digit(code) || is_ascii_letter(code);
}

/* Whether there is a character and all have the property, which is known of ASCII only. */
static hd_status all_are(hd_tpl_run *run, hd_tpl_value text, bool (*property)(uint32_t), const char *name, hd_tpl_value *out)
{
    hd_status st = hd_tpl_step_bytes(run, text.n);
    *out = hd_tpl_bool(text.n > 0);
    for (size_t at = 0; at < text.n && st == HD_OK;) {
        uint32_t code;
        at += hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        if (code >= 0x80 && property != hd_tpl_is_space) {
            return hd_tpl_fail(run, HD_E_UNSUPPORTED, "%s of a text with characters beyond ASCII", name);
        }
        out->b = out->b && property(code);
    }
    return st;
}

METHOD(text_isdigit)
{
    (void)call;
    return all_are(run, a[0], is_ascii_digit, "isdigit", out);
}

METHOD(text_isalpha)
{
    (void)call;
    return all_are(run, a[0], is_ascii_letter, "isalpha", out);
}

METHOD(text_isalnum)
{
    (void)call;
    return all_are(run, a[0], is_ascii_letter_or_digit, "isalnum", out);
}

METHOD(text_isspace)
{
    (void)call;
    return all_are(run, a[0], hd_tpl_is_space, "isspace", out);
}

static hd_status is_case(hd_tpl_run *run, hd_tpl_value text, hd_tpl_case which, hd_tpl_value *out)
{
    hd_status st = hd_tpl_step_bytes(run, text.n * 16);
    if (st == HD_OK) { *out = hd_tpl_bool(hd_tpl_is_case(text, which)); }
    return st;
}

METHOD(text_isupper)
{
    (void)call;
    return is_case(run, a[0], HD_TPL_UPPER, out);
}

METHOD(text_islower)
{
    (void)call;
    return is_case(run, a[0], HD_TPL_LOWER, out);
}

/* The value of one replacement field; *next counts those without a number, or is SIZE_MAX once one had a number. */
static hd_status field_value(hd_tpl_run *run, const hd_tpl_call *call, hd_tpl_value field, size_t *next, hd_tpl_value *out)
{
    bool digits = field.n > 0 && field.n < 6;
    size_t index = 0;
    for (size_t i = 0; i < field.n; i++) {
        if (memchr(".[!:{", field.text[i], 5) != NULL) {
            return hd_tpl_fail(run, HD_E_UNSUPPORTED, "a replacement field with more than a name or number");
        }
        digits = digits && is_ascii_digit((unsigned char)field.text[i]);
        if (digits) { index = index * 10 + (size_t)(field.text[i] - '0'); }
    }
    if (field.n == 0 || digits) {
        if (digits ? *next != 0 && *next != SIZE_MAX : *next == SIZE_MAX) {
            return hd_tpl_fail(run, HD_E_INVALID, "a format with numbered fields and fields without a number");
        }
        index = digits ? index : *next;
        *next = digits ? SIZE_MAX : *next + 1;
        if (index >= call->positional.n) { return hd_tpl_fail(run, HD_E_INVALID, "a replacement field without a value"); }
        return *out = call->positional.items[index], HD_OK;
    }
    hd_tpl_value *named = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, field.text, field.n);
    if (named == NULL) { return hd_tpl_fail(run, HD_E_INVALID, "a replacement field without a value"); }
    *out = *named;
    return HD_OK;
}

/* str.format with replacement fields {}, {0} and {name}, without conversions, formats or access to members. */
METHOD(text_format)
{
    hd_status st = HD_OK;
    hd_tpl_value text = a[0], value;
    size_t mark = hd_tpl_mark(run), next = 0;
    for (size_t at = 0; at < text.n; at++) {
        char c = text.text[at], after = at + 1 < text.n ? text.text[at + 1] : '\0';
        bool brace = c == '{' || c == '}', twice = brace && c == after;
        if (!brace || twice) {
            hd_buf_append_char(run->out, c);
            at += twice;
            continue;
        }
        size_t close = hd_tpl_find_text(text, hd_tpl_text("}", 1), at);
        if (c == '}' || close == SIZE_MAX) { return hd_tpl_fail(run, HD_E_INVALID, "a single brace in a format"); }
        HD_TRY(field_value(run, call, hd_tpl_part(text, at + 1, close), &next, &value));
        HD_TRY(hd_tpl_put(run, value));
        at = close;
    }
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

const hd_tpl_builtin hd_tpl_text_methods[] = {
    {"capitalize", text_capitalize, "/"},
    {"count", text_count, "/!sub start end"},
    {"endswith", text_endswith, "/!suffix start end"},
    {"find", text_find, "/!sub start end"},
    {"format", text_format, "*"},
    {"index", text_index, "/!sub start end"},
    {"isalnum", text_isalnum, "/"},
    {"isalpha", text_isalpha, "/"},
    {"isdigit", text_isdigit, "/"},
    {"islower", text_islower, "/"},
    {"isspace", text_isspace, "/"},
    {"isupper", text_isupper, "/"},
    {"join", text_join, "/!iterable"},
    {"lower", text_lower, "/"},
    {"lstrip", text_lstrip, "/chars"},
    {"partition", text_partition, "/!sep"},
    {"removeprefix", text_removeprefix, "/!prefix"},
    {"removesuffix", text_removesuffix, "/!suffix"},
    {"replace", text_replace, "/!old !new count"},
    {"rfind", text_rfind, "/!sub start end"},
    {"rindex", text_rindex, "/!sub start end"},
    {"rpartition", text_rpartition, "/!sep"},
    {"rsplit", text_rsplit, "sep maxsplit"},
    {"rstrip", text_rstrip, "/chars"},
    {"split", text_split, "sep maxsplit"},
    {"splitlines", text_splitlines, "keepends"},
    {"startswith", text_startswith, "/!prefix start end"},
    {"strip", text_strip, "/chars"},
    {"title", text_title, "/"},
    {"upper", text_upper, "/"},
    {"casefold", NULL, ""},
    {"center", NULL, ""},
    {"encode", NULL, ""},
    {"expandtabs", NULL, ""},
    {"format_map", NULL, ""},
    {"isascii", NULL, ""},
    {"isdecimal", NULL, ""},
    {"isidentifier", NULL, ""},
    {"isnumeric", NULL, ""},
    {"isprintable", NULL, ""},
    {"istitle", NULL, ""},
    {"ljust", NULL, ""},
    {"maketrans", NULL, ""},
    {"rjust", NULL, ""},
    {"swapcase", NULL, ""},
    {"translate", NULL, ""},
    {"zfill", NULL, ""},
    {NULL, NULL, NULL},
};

/* ---- lists and tuples ------------------------------------------------------------------------------------------------ */

METHOD(list_index)
{
    int64_t start = 0, stop = (int64_t)a[0].list->n;
    (void)call;
    hd_status st = hd_tpl_arg_int(run, a[2], "start", &start);
    if (st == HD_OK) { st = hd_tpl_arg_int(run, a[3], "stop", &stop); }
    int64_t n = (int64_t)a[0].list->n;
    start = start < -n ? 0 : start < 0 ? start + n : start;
    stop = stop < -n ? 0 : stop < 0 ? stop + n : stop;
    for (int64_t i = start; st == HD_OK && i < stop && i < n; i++) {
        bool same;
        st = hd_tpl_equal(run, a[0].list->items[i], a[1], &same);
        if (st == HD_OK && same) { return *out = hd_tpl_int(i), HD_OK; }
    }
    return st == HD_OK ? hd_tpl_fail(run, HD_E_INVALID, "the value is not in the list") : st;
}

METHOD(list_count)
{
    hd_status st = HD_OK;
    (void)call;
    *out = hd_tpl_int(0);
    for (size_t i = 0; st == HD_OK && i < a[0].list->n; i++) {
        bool same;
        st = hd_tpl_equal(run, a[0].list->items[i], a[1], &same);
        if (st == HD_OK && same) { out->i++; }
    }
    return st;
}

METHOD(list_copy)
{
    (void)call;
    if (a[0].type == HD_TPL_TUPLE) { return hd_tpl_fail(run, HD_E_INVALID, "a tuple has no method 'copy'"); }
    *out = a[0]; /* nothing can change it */
    return HD_OK;
}

const hd_tpl_builtin hd_tpl_list_methods[] = {
    {"copy", list_copy, "/"},
    {"count", list_count, "/!value"},
    {"index", list_index, "/!value start stop"},
    {NULL, NULL, NULL},
};

/* ---- dicts ----------------------------------------------------------------------------------------------------------- */

METHOD(dict_get)
{
    hd_tpl_value *found;
    (void)call;
    hd_status st = hd_tpl_dict_get(run, a[0].dict, a[1], &found);
    if (st != HD_OK) { return st; }
    *out = found != NULL ? *found : a[2].type != HD_TPL_MISSING ? a[2] : hd_tpl_none();
    return HD_OK;
}

static hd_status make_view(const hd_tpl_value *a, int kind, hd_tpl_value *out)
{
    *out = (hd_tpl_value){.type = HD_TPL_VIEW, .kind = kind, .dict = a[0].dict};
    return HD_OK;
}

METHOD(dict_keys)
{
    (void)run;
    (void)call;
    return make_view(a, HD_TPL_VIEW_KEYS, out);
}

METHOD(dict_values)
{
    (void)run;
    (void)call;
    return make_view(a, HD_TPL_VIEW_VALUES, out);
}

METHOD(dict_items)
{
    (void)run;
    (void)call;
    return make_view(a, HD_TPL_VIEW_ITEMS, out);
}

METHOD(dict_copy)
{
    (void)run;
    (void)call;
    *out = a[0]; /* nothing can change it */
    return HD_OK;
}

const hd_tpl_builtin hd_tpl_dict_methods[] = {
    {"copy", dict_copy, "/"}, {"get", dict_get, "/!key default"}, {"items", dict_items, "/"},
    {"keys", dict_keys, "/"}, {"values", dict_values, "/"},       {"fromkeys", NULL, ""},
    {NULL, NULL, NULL},
};
