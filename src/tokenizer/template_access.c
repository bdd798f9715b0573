/* value.name, value[key] and slices.  See template_builtins.h.
 *
 * The sandbox of Jinja2: an attribute is a method first and a member of a dict second, an item the other way round.  Methods
 * that would change a list or dict, and names of Python's internals, answer UNDEFINED with a hint that says why. */
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/template_builtins.h"
#include "tokenizer/template_string.h"

static const hd_tpl_builtin no_methods[] = {{0}};
static const hd_tpl_builtin range_methods[] = {{"count", NULL, ""}, {"index", NULL, ""}, {NULL, NULL, NULL}};

const hd_tpl_builtin *hd_tpl_methods_of(hd_tpl_value value)
{
    switch (value.type) {
    case HD_TPL_STRING: return hd_tpl_text_methods;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: return hd_tpl_list_methods;
    case HD_TPL_DICT: return hd_tpl_dict_methods;
    case HD_TPL_LOOP: return hd_tpl_loop_methods;
    case HD_TPL_RANGE: return range_methods;
    default: return no_methods;
    }
}

static bool is_one_of(const char *const *names, const char *name, size_t n)
{
    for (; *names != NULL; names++) {
        if (strlen(*names) == n && memcmp(*names, name, n) == 0) { return true; }
    }
    return false;
}

static bool changes_its_object(hd_tpl_value value, const char *name, size_t n)
{
    static const char *const of_list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    return value.type == HD_TPL_LIST ? is_one_of(of_list, name, n) : value.type == HD_TPL_DICT && is_one_of(of_dict, name, n);
}

/* A method of value; *found false when it has none of that name. */
static hd_status find_method(hd_tpl_run *run, hd_tpl_value value, const char *name, size_t n, hd_tpl_value *out, bool *found)
{
    static const char unsafe[] = "templates may not change what they are given, nor reach into Python";
    const hd_tpl_builtin *table = hd_tpl_methods_of(value);
    int index = hd_tpl_builtin_find(table, name, n);
    void *self;
    *found = true;
    if (changes_its_object(value, name, n) || (n > 4 && name[0] == '_' && name[1] == '_')) {
        *out = hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, unsafe, sizeof unsafe - 1);
        return HD_OK;
    }
    if (index < 0) { return *found = false, HD_OK; }
    if (value.type == HD_TPL_STRING && value.kind == HD_TPL_SAFE) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "text from the filter 'safe' can only be printed or added to text here");
    }
    hd_status st = hd_tpl_alloc(run, sizeof value, &self);
    if (st != HD_OK) { return st; }
    *(hd_tpl_value *)self = value;
    *out = (hd_tpl_value){.type = HD_TPL_METHOD, .kind = index, .self = self};
    return HD_OK;
}

static hd_tpl_value missing_attr(hd_tpl_value value, const char *name, size_t n)
{
    return hd_tpl_undefined(HD_TPL_UNDEFINED_ATTRIBUTE + (int)value.type, name, n);
}

hd_status hd_tpl_get_attr(hd_tpl_run *run, hd_tpl_value value, const char *name, size_t n, hd_tpl_value *out)
{
    hd_tpl_value *member = NULL;
    bool found;
    if (value.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, value); }
    hd_status st = find_method(run, value, name, n, out, &found);
    if (st != HD_OK || found) { return st; }
    if (value.type == HD_TPL_LOOP) { return hd_tpl_loop_attr(run, value, name, n, out); }
    if (value.type == HD_TPL_DICT || value.type == HD_TPL_NAMESPACE) {
        st = hd_tpl_step(run, value.dict->n / 8 + 1);
        member = hd_tpl_dict_get_text(value.dict, name, n);
    }
    *out = member != NULL ? *member : missing_attr(value, name, n);
    return st;
}

/* The element of a sequence at index i (negative: from the end); *found false when there is none or value is no sequence. */
static hd_status element_at(hd_tpl_run *run, hd_tpl_value value, int64_t i, hd_tpl_value *out, bool *found)
{
    int64_t n;
    *found = false;
    if (value.type != HD_TPL_STRING && value.type != HD_TPL_LIST && value.type != HD_TPL_TUPLE && value.type != HD_TPL_RANGE) {
        return HD_OK;
    }
    hd_status st = hd_tpl_length(run, value, &n);
    if (st != HD_OK) { return st; }
    i = i < 0 ? i + n : i;
    *found = i >= 0 && i < n;
    if (!*found) { return HD_OK; }
    if (value.type == HD_TPL_STRING) {
        size_t begin = hd_tpl_char_offset(value, (size_t)i), end = begin;
        uint32_t code;
        end += hd_utf8_next_replacing(value.text + begin, value.n - begin, &code);
        *out = hd_tpl_part(value, begin, end);
    } else if (value.type == HD_TPL_RANGE) {
        *out = hd_tpl_int(value.range->start + i * value.range->step);
    } else {
        *out = value.list->items[i];
    }
    return HD_OK;
}

hd_status hd_tpl_get_item(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value key, hd_tpl_value *out)
{
    hd_tpl_value *member = NULL;
    int64_t i;
    bool found = false;
    hd_status st = HD_OK;
    if (value.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, value); }
    if (value.type == HD_TPL_DICT && hd_tpl_is_hashable(key)) {
        st = hd_tpl_dict_get(run, value.dict, key, &member);
        if (st != HD_OK) { return st; }
        if (member != NULL) { return *out = *member, HD_OK; }
    }
    if (hd_tpl_is_integer(key, &i)) {
        st = element_at(run, value, i, out, &found);
        if (st != HD_OK || found) { return st; }
    }
    if (key.type == HD_TPL_STRING && value.type != HD_TPL_DICT) { return hd_tpl_get_attr(run, value, key.text, key.n, out); }
    if (key.type == HD_TPL_STRING) {
        st = find_method(run, value, key.text, key.n, out, &found);
        if (st != HD_OK || found) { return st; }
    }
    hd_tpl_value name = hd_tpl_text("", 0);
    if (key.type == HD_TPL_STRING || hd_tpl_is_number(key)) { st = hd_tpl_string_of(run, key, &name); }
    *out = missing_attr(value, name.text, name.n);
    return st;
}

/* ---- slices ---------------------------------------------------------------------------------------------------------- */

static hd_status read_bound(hd_tpl_run *run, hd_tpl_value bound, int64_t *out, bool *open)
{
    *open = bound.type == HD_TPL_MISSING || bound.type == HD_TPL_NONE;
    return *open ? HD_OK : hd_tpl_arg_int(run, bound, "a bound of a slice", out);
}

/* The bounds that Python's slice.indices gives, and how many elements lie between them. */
static hd_status resolve(hd_tpl_run *run, const hd_tpl_value bounds[3], int64_t n, int64_t *start, int64_t *step, int64_t *count)
{
    hd_status st = HD_OK;
    int64_t stop = 0;
    bool no_start, no_stop, no_step;
    *start = 0, *step = 1;
    HD_TRY(read_bound(run, bounds[0], start, &no_start));
    HD_TRY(read_bound(run, bounds[1], &stop, &no_stop));
    HD_TRY(read_bound(run, bounds[2], step, &no_step));
    if (*step == 0) { return hd_tpl_fail(run, HD_E_INVALID, "a slice with step 0"); }
    if (*step < -n - 1) { *step = -n - 1; }
    if (*step > n + 1) { *step = n + 1; }
    int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? n - 1 : n;
    int64_t *const ends[] = {start, &stop};
    const bool open[] = {no_start, no_stop};
    for (int i = 0; i < 2; i++) {
        int64_t v = *ends[i] < -n ? -n - 1 : *ends[i] > n ? n : *ends[i];
        v = v < 0 ? v + n : v;
        *ends[i] = open[i] ? ((i == 0) == (*step > 0) ? low : high) : v < low ? low : v > high ? high : v;
    }
    int64_t span = *step > 0 ? stop - *start : *start - stop, size = *step > 0 ? *step : -*step;
    *count = span > 0 ? (span - 1) / size + 1 : 0;
out:
    return st;
}

static hd_status slice_text(hd_tpl_run *run, hd_tpl_value text, int64_t start, int64_t step, int64_t count, hd_tpl_value *out)
{
    if (step == 1) {
        size_t begin = hd_tpl_char_offset(text, (size_t)start);
        size_t length = hd_tpl_char_offset(hd_tpl_part(text, begin, text.n), (size_t)count);
        *out = hd_tpl_part(text, begin, begin + length);
        return HD_OK;
    }
    hd_tpl_list *chars;
    size_t mark = hd_tpl_mark(run);
    hd_status st = hd_tpl_iterate(run, text, &chars);
    if (st != HD_OK) { return st; }
    for (int64_t i = 0; i < count; i++) {
        hd_tpl_value c = chars->items[start + i * step];
        hd_buf_append(run->out, c.text, c.n);
    }
    return hd_tpl_take(run, mark, out);
}

hd_status hd_tpl_get_slice(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_value bounds[3], hd_tpl_value *out)
{
    hd_status st = HD_OK;
    int64_t n, start, step, count = 0;
    hd_tpl_list *list, *part;
    if (value.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, value); }
    if (value.type != HD_TPL_STRING && value.type != HD_TPL_LIST && value.type != HD_TPL_TUPLE) {
        return hd_tpl_fail(run, value.type == HD_TPL_RANGE ? HD_E_UNSUPPORTED : HD_E_INVALID, "a %s cannot be sliced",
                           hd_tpl_type_name(value));
    }
    HD_TRY(hd_tpl_length(run, value, &n));
    HD_TRY(resolve(run, bounds, n, &start, &step, &count));
    if (value.type == HD_TPL_STRING) { return slice_text(run, value, start, step, count, out); }
    list = value.list;
    HD_TRY(hd_tpl_list_new(run, (size_t)count, &part));
    for (int64_t i = 0; i < count; i++) { HD_TRY(hd_tpl_list_add(run, part, list->items[start + i * step])); }
    *out = hd_tpl_listed(value.type, part);
out:
    return st;
}
