/* Scopes, loops and macros while a template is rendered.  Internal to the template files. */
#ifndef HD_TOKENIZER_TEMPLATE_EVAL_H
#define HD_TOKENIZER_TEMPLATE_EVAL_H

#include "tokenizer/template.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_builtins.h"

typedef struct hd_tpl_binding {
    const char *name;
    size_t n;
    hd_tpl_value value; /* MISSING: not set in this scope now */
    struct hd_tpl_binding *next;
} hd_tpl_binding;

/* Names set here hide those of the scopes around. */
typedef struct hd_tpl_scope {
    struct hd_tpl_scope *parent;
    hd_tpl_binding *bindings;
    bool captured; /* a macro may look into it later */
} hd_tpl_scope;

struct hd_tpl_macro {
    const hd_tpl_node *parameters, *body;
    const char *name;
    size_t n_name;
    bool uses_caller;
    hd_tpl_scope *scope; /* where it was defined */
};

/* The state of a for loop; the items that pass its condition are found when they are asked for, as in Jinja2. */
struct hd_tpl_loop {
    hd_tpl_list *items;
    hd_tpl_range *range; /* instead of items, when not NULL */
    size_t next;         /* the first item that was not looked at */
    const hd_tpl_node *target, *test;
    hd_tpl_scope *test_scope;            /* NULL: no condition */
    int64_t index0;                      /* -1 before the first */
    hd_tpl_value before, current, after; /* after: looked ahead at; MISSING when there was none or nobody asked */
    bool looked;
    int64_t length;       /* -1: not counted */
    hd_tpl_value changed; /* what changed() saw last */
    struct hd_tpl_eval *eval;
};

typedef struct hd_tpl_eval {
    hd_tpl_run *run;
    hd_template_output *output;
    hd_tpl_dict *context; /* what the caller gave: the outermost names */
    int captured;         /* macros and blocks around whose text does not go to the output directly */
    enum { HD_TPL_FLOW_ON, HD_TPL_FLOW_BREAK, HD_TPL_FLOW_CONTINUE } flow;
} hd_tpl_eval;

hd_status hd_tpl_scope_new(hd_tpl_run *run, hd_tpl_scope *parent, hd_tpl_scope **out) HD_CHECK_RESULT;
void hd_tpl_scope_clear(hd_tpl_scope *scope);
void hd_tpl_scope_capture(hd_tpl_scope *scope); /* and those around it */
hd_status hd_tpl_scope_set(hd_tpl_run *run, hd_tpl_scope *scope, const char *name, size_t n, hd_tpl_value value) HD_CHECK_RESULT;
hd_tpl_value *hd_tpl_scope_find(hd_tpl_scope *scope, const char *name, size_t n); /* NULL: nowhere */

hd_status hd_tpl_eval_node(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_exec_body(hd_tpl_eval *eval, const hd_tpl_node *body, hd_tpl_scope *scope) HD_CHECK_RESULT;
hd_status hd_tpl_assign(hd_tpl_eval *eval, const hd_tpl_node *target, hd_tpl_value value, hd_tpl_scope *scope) HD_CHECK_RESULT;

/* Arguments of a call or filter, evaluated. */
hd_status hd_tpl_eval_arguments(hd_tpl_eval *eval, const hd_tpl_node *arguments, hd_tpl_scope *scope, hd_tpl_call *call) HD_CHECK_RESULT;
hd_status hd_tpl_call_value(hd_tpl_eval *eval, hd_tpl_value callee, hd_tpl_call *call, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_apply_filters(hd_tpl_eval *eval, const hd_tpl_node *filters, hd_tpl_value input, hd_tpl_scope *scope,
                               hd_tpl_value *out) HD_CHECK_RESULT;

/* template_loop.c */
hd_status hd_tpl_exec_for(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope) HD_CHECK_RESULT;

/* template_macro.c */
hd_status hd_tpl_macro_new(hd_tpl_run *run, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_call_macro(hd_tpl_eval *eval, const struct hd_tpl_macro *macro, const hd_tpl_call *call,
                            hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_exec_call_block(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope) HD_CHECK_RESULT;

/* One level deeper, and out again. */
hd_status hd_tpl_descend(hd_tpl_run *run) HD_CHECK_RESULT;

#endif
