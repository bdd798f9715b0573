/* Macros, and blocks that call them.  See template_eval.h. */
#include <stdio.h>
#include <string.h>

#include "tokenizer/template_eval.h"

hd_status hd_tpl_macro_new(hd_tpl_run *run, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    void *memory;
    hd_status st = hd_tpl_alloc(run, sizeof(struct hd_tpl_macro), &memory);
    if (st != HD_OK) { return st; }
    *out = (hd_tpl_value){.type = HD_TPL_MACRO, .macro = memory};
    *out->macro = (struct hd_tpl_macro){
        .parameters = node->b, .body = node->c, .name = node->text, .n_name = node->n, .uses_caller = node->uses_caller, .scope = scope};
    hd_tpl_scope_capture(scope);
    return HD_OK;
}

/* The value of one parameter: in order, by name, its default, or undefined. */
static hd_status bind_parameter(hd_tpl_eval *eval, const hd_tpl_node *parameter, const hd_tpl_call *call, size_t i, hd_tpl_scope *scope,
                                size_t *n_named)
{
    static const char absent[] = "a parameter of the macro was not given";
    hd_tpl_value value = hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, absent, sizeof absent - 1);
    hd_status st = HD_OK;
    hd_tpl_value *named = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, parameter->text, parameter->n);
    if (i < call->positional.n) {
        value = call->positional.items[i];
    } else if (named != NULL) {
        value = *named;
        ++*n_named;
    } else if (parameter->a != NULL) {
        st = hd_tpl_eval_node(eval, parameter->a, scope, &value);
    }
    return st == HD_OK ? hd_tpl_scope_set(eval->run, scope, parameter->text, parameter->n, value) : st;
}

static hd_status bind_caller(hd_tpl_eval *eval, const hd_tpl_call *call, hd_tpl_scope *scope, size_t *n_named)
{
    static const char absent[] = "the macro was not called by a call block";
    hd_tpl_value *given = hd_tpl_dict_get_text((hd_tpl_dict *)&call->keywords, "caller", 6);
    *n_named += given != NULL;
    return hd_tpl_scope_set(eval->run, scope, "caller", 6,
                            given != NULL ? *given : hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, absent, sizeof absent - 1));
}

hd_status hd_tpl_call_macro(hd_tpl_eval *eval, const struct hd_tpl_macro *macro, const hd_tpl_call *call, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_run *run = eval->run;
    hd_tpl_scope *scope;
    size_t i = 0, n_named = 0, mark, at = run->at;
    bool explicit_caller = false;
    HD_TRY(hd_tpl_scope_new(run, macro->scope, &scope));
    for (const hd_tpl_node *p = macro->parameters; p != NULL; p = p->next, i++) {
        explicit_caller = explicit_caller || (p->n == 6 && memcmp(p->text, "caller", 6) == 0);
        HD_TRY(bind_parameter(eval, p, call, i, scope, &n_named));
    }
    if (macro->uses_caller && !explicit_caller) { HD_TRY(bind_caller(eval, call, scope, &n_named)); }
    run->at = at;
    if (call->positional.n > i || n_named < call->keywords.n) {
        return hd_tpl_fail(run, HD_E_INVALID, "the macro '%.*s' does not take these arguments",
                           macro->n_name < 60 ? (int)macro->n_name : 60, macro->name != NULL ? macro->name : "");
    }
    mark = hd_tpl_mark(run);
    eval->captured++;
    HD_TRY(hd_tpl_exec_body(eval, macro->body, scope));
    eval->captured--;
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}

hd_status hd_tpl_exec_call_block(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_value caller, callee, value;
    hd_tpl_call call = {0};
    HD_TRY(hd_tpl_macro_new(eval->run, node, scope, &caller));
    HD_TRY(hd_tpl_eval_node(eval, node->a->a, scope, &callee));
    HD_TRY(hd_tpl_eval_arguments(eval, node->a->b, scope, &call));
    HD_TRY(hd_tpl_dict_set_text(eval->run, &call.keywords, "caller", caller));
    eval->run->at = node->a->at;
    HD_TRY(hd_tpl_call_value(eval, callee, &call, &value));
    HD_TRY(hd_tpl_put(eval->run, value));
out:
    return st;
}
