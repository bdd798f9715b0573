/* The functions that every template has.  See template_builtins.h. */
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "tokenizer/template_builtins.h"

#define FUNCTION(name) static hd_status name(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)

enum { MAX_RANGE = 100000 }; /* of Jinja2's sandbox */

FUNCTION(do_range)
{
    hd_status st = HD_OK;
    hd_tpl_range r = {.step = 1};
    void *memory;
    bool alone = a[2].type == HD_TPL_MISSING;
    (void)call;
    HD_TRY(hd_tpl_arg_int(run, a[1], "a bound of range", alone ? &r.stop : &r.start));
    HD_TRY(hd_tpl_arg_int(run, a[2], "a bound of range", &r.stop));
    HD_TRY(hd_tpl_arg_int(run, a[3], "the step of range", &r.step));
    if (r.step == 0) { return hd_tpl_fail(run, HD_E_INVALID, "a range with step 0"); }
    int64_t span;
    bool fits = !__builtin_sub_overflow(r.step > 0 ? r.stop : r.start, r.step > 0 ? r.start : r.stop, &span);
    uint64_t size = r.step > 0 ? (uint64_t)r.step : 0 - (uint64_t)r.step;
    uint64_t n = !fits ? UINT64_MAX : span > 0 ? ((uint64_t)span - 1) / size + 1 : 0;
    if (n > MAX_RANGE) { return hd_tpl_fail(run, HD_E_INVALID, "a range of more than %d items", MAX_RANGE); }
    r.n = (size_t)n;
    HD_TRY(hd_tpl_alloc(run, sizeof r, &memory));
    *out = (hd_tpl_value){.type = HD_TPL_RANGE, .range = memory};
    *out->range = r;
out:
    return st;
}

/* dict(mapping or pairs, name=value, ...) */
static hd_status make_dict(hd_tpl_run *run, const hd_tpl_call *call, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *pairs, *pair;
    HD_TRY(hd_tpl_dict_new(run, 0, out));
    if (call->positional.n > 1) { return hd_tpl_fail(run, HD_E_INVALID, "dict takes one argument in order"); }
    if (call->positional.n == 1) {
        hd_tpl_value from = call->positional.items[0];
        if (from.type == HD_TPL_DICT) { from = (hd_tpl_value){.type = HD_TPL_VIEW, .kind = HD_TPL_VIEW_ITEMS, .dict = from.dict}; }
        HD_TRY(hd_tpl_iterate(run, from, &pairs));
        for (size_t i = 0; i < pairs->n; i++) {
            HD_TRY(hd_tpl_iterate(run, pairs->items[i], &pair));
            if (pair->n != 2) { return hd_tpl_fail(run, HD_E_INVALID, "dict wants pairs"); }
            HD_TRY(hd_tpl_dict_set(run, out->dict, pair->items[0], pair->items[1]));
        }
    }
    for (size_t i = 0; i < call->keywords.n; i++) {
        HD_TRY(hd_tpl_dict_set(run, out->dict, call->keywords.entries[i].key, call->keywords.entries[i].value));
    }
out:
    return st;
}

FUNCTION(do_dict)
{
    (void)a;
    return make_dict(run, call, out);
}

FUNCTION(do_namespace)
{
    (void)a;
    hd_status st = make_dict(run, call, out);
    if (st != HD_OK) { return st; }
    out->type = HD_TPL_NAMESPACE;
    for (size_t i = 0; i < out->dict->n; i++) {
        hd_tpl_value key = out->dict->entries[i].key;
        if (key.type == HD_TPL_STRING && key.n > 0 && key.text[0] == '_') {
            return hd_tpl_fail(run, HD_E_INVALID, "a namespace has no attributes that begin with '_'");
        }
    }
    return HD_OK;
}

FUNCTION(do_raise_exception)
{
    hd_tpl_value text;
    (void)call;
    (void)out;
    hd_status st = hd_tpl_string_of(run, a[1], &text);
    if (st != HD_OK) { return st; }
    return hd_tpl_fail(run, HD_E_INVALID, "the template refuses: %.*s", text.n < 400 ? (int)text.n : 400, text.text);
}

FUNCTION(do_strftime_now)
{
    char format[256], text[1024];
    hd_tpl_value wanted = hd_tpl_text("", 0);
    struct tm parts;
    time_t now = run->now_s != 0 ? (time_t)run->now_s : time(NULL);
    (void)call;
    hd_status st = hd_tpl_arg_text(run, a[1], "the format of a time", &wanted);
    if (st != HD_OK) { return st; }
    if (wanted.n + 2 > sizeof format || (wanted.n > 0 && memchr(wanted.text, '\0', wanted.n) != NULL)) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "a format of a time of more than %zu bytes", sizeof format - 2);
    }
    if (wanted.n > 0) { memcpy(format, wanted.text, wanted.n); }
    format[wanted.n] = ' '; /* so that an empty text is told from one too long */
    format[wanted.n + 1] = '\0';
    if (localtime_r(&now, &parts) == NULL) { return hd_tpl_fail(run, HD_E_INVALID, "the time cannot be told"); }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* strftime reads nothing but the time */
    size_t n = strftime(text, sizeof text, format, &parts);
#pragma GCC diagnostic pop
    if (n == 0) { return hd_tpl_fail(run, HD_E_UNSUPPORTED, "a time of more than %zu bytes", sizeof text - 2); }
    return hd_tpl_copy_text(run, text, n - 1, out);
}

const hd_tpl_builtin hd_tpl_functions[] = {
    {"range", do_range, "/!start stop step"},
    {"dict", do_dict, "*"},
    {"namespace", do_namespace, "*"},
    {"raise_exception", do_raise_exception, "!message"},
    {"strftime_now", do_strftime_now, "!format"},
    {"cycler", NULL, ""},
    {"joiner", NULL, ""},
    {"lipsum", NULL, ""},
    {"self", NULL, ""},
    {NULL, NULL, NULL},
};
