/* Binding arguments to the parameters of a table's row.  See template_builtins.h. */
#include <string.h>

#include "tokenizer/template_builtins.h"

int hd_tpl_builtin_find(const hd_tpl_builtin *table, const char *name, size_t n)
{
    for (int i = 0; table[i].name != NULL; i++) {
        if (strlen(table[i].name) == n && memcmp(table[i].name, name, n) == 0) { return i; }
    }
    return -1;
}

/* One parameter of a signature at p: its name and whether it must be given; returns where the next begins. */
static const char *next_parameter(const char *p, const char **name, size_t *n, bool *required)
{
    *required = *p == '!';
    *name = p + *required;
    *n = strcspn(*name, " ");
    return *name + *n + ((*name)[*n] == ' ');
}

static hd_status check_keywords(hd_tpl_run *run, const hd_tpl_builtin *row, const char *what, const hd_tpl_call *call, size_t used)
{
    if (used == call->keywords.n) { return HD_OK; }
    for (size_t i = 0; i < call->keywords.n; i++) {
        hd_tpl_value key = call->keywords.entries[i].key;
        const char *p = row->parameters, *name;
        size_t n;
        bool known = false, required;
        while (*p != '\0' && *p != '/') {
            p = next_parameter(p, &name, &n, &required);
            known = known || (n == key.n && memcmp(name, key.text, n) == 0);
        }
        if (!known) {
            return hd_tpl_fail(run, HD_E_INVALID, "%s '%s' has no parameter '%.*s'", what, row->name, key.n < 60 ? (int)key.n : 60,
                               key.text);
        }
    }
    return hd_tpl_fail(run, HD_E_INVALID, "%s '%s': a parameter is given twice", what, row->name);
}

static hd_status bind(hd_tpl_run *run, const hd_tpl_builtin *row, const char *what, const hd_tpl_call *call, hd_tpl_value *a)
{
    const char *p = row->parameters + (row->parameters[0] == '/'), *name;
    size_t i = 0, n, used = 0;
    bool by_keyword = row->parameters[0] != '/', required;
    for (; *p != '\0'; i++) {
        p = next_parameter(p, &name, &n, &required);
        hd_tpl_value *named = NULL;
        if (i < call->positional.n) {
            a[1 + i] = call->positional.items[i];
            continue;
        }
        if (by_keyword) { named = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, name, n); }
        if (named != NULL) {
            a[1 + i] = *named;
            used++;
        } else if (required) {
            return hd_tpl_fail(run, HD_E_INVALID, "%s '%s' wants an argument '%.*s'", what, row->name, (int)n, name);
        }
    }
    if (call->positional.n > i) {
        return hd_tpl_fail(run, HD_E_INVALID, "%s '%s' takes at most %zu arguments, found %zu", what, row->name, i, call->positional.n);
    }
    return check_keywords(run, row, what, call, used);
}

hd_status hd_tpl_builtin_invoke(hd_tpl_run *run, const hd_tpl_builtin *row, const char *what, const hd_tpl_call *call, hd_tpl_value *out)
{
    hd_tpl_value a[1 + HD_TPL_MAX_PARAMETERS] = {{0}};
    hd_status st = hd_tpl_step(run, 1);
    if (st != HD_OK) { return st; }
    if (row->call == NULL) { return hd_tpl_fail(run, HD_E_UNSUPPORTED, "%s '%s' is not supported", what, row->name); }
    if (run->depth >= run->limits.depth) { return hd_tpl_fail(run, HD_E_INVALID, "calls nested too deep"); }
    a[0] = call->input;
    if (strcmp(row->parameters, "*") != 0) { st = bind(run, row, what, call, a); }
    if (st != HD_OK) { return st; }
    run->depth++;
    st = row->call(run, call, a, out);
    run->depth--;
    return st;
}

hd_status hd_tpl_arg_text(hd_tpl_run *run, hd_tpl_value argument, const char *name, hd_tpl_value *out)
{
    if (argument.type == HD_TPL_MISSING) { return HD_OK; }
    if (argument.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, argument); }
    if (argument.type != HD_TPL_STRING) {
        return hd_tpl_fail(run, HD_E_INVALID, "%s is a %s, want a string", name, hd_tpl_type_name(argument));
    }
    *out = hd_tpl_text(argument.text, argument.n);
    return HD_OK;
}

hd_status hd_tpl_arg_int(hd_tpl_run *run, hd_tpl_value argument, const char *name, int64_t *out)
{
    if (argument.type == HD_TPL_MISSING) { return HD_OK; }
    if (argument.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, argument); }
    if (!hd_tpl_is_integer(argument, out)) {
        return hd_tpl_fail(run, HD_E_INVALID, "%s is a %s, want an integer", name, hd_tpl_type_name(argument));
    }
    return HD_OK;
}
