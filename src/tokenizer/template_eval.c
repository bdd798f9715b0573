/* The evaluator: a walk over the tree.  See template_eval.h.  Its recursion is bounded by limits.depth. */
#include "tokenizer/template_eval.h"

#include <string.h>

#include "base/alloc.h"

/* ---- scopes ---------------------------------------------------------------------------------------------------------- */

hd_status hd_tpl_scope_new(hd_tpl_run *run, hd_tpl_scope *parent, hd_tpl_scope **out)
{
    void *memory;
    hd_status st = hd_tpl_alloc(run, sizeof **out, &memory);
    if (st != HD_OK) { return st; }
    *out = memory;
    **out = (hd_tpl_scope){.parent = parent};
    return HD_OK;
}

void hd_tpl_scope_clear(hd_tpl_scope *scope)
{
    for (hd_tpl_binding *b = scope->bindings; b != NULL; b = b->next) { b->value = (hd_tpl_value){0}; }
}

void hd_tpl_scope_capture(hd_tpl_scope *scope)
{
    for (; scope != NULL && !scope->captured; scope = scope->parent) { scope->captured = true; }
}

static hd_tpl_binding *find_here(const hd_tpl_scope *scope, const char *name, size_t n)
{
    for (hd_tpl_binding *b = scope->bindings; b != NULL; b = b->next) {
        if (b->n == n && memcmp(b->name, name, n) == 0) { return b; }
    }
    return NULL;
}

hd_tpl_value *hd_tpl_scope_find(hd_tpl_scope *scope, const char *name, size_t n)
{
    for (; scope != NULL; scope = scope->parent) {
        hd_tpl_binding *b = find_here(scope, name, n);
        if (b != NULL && b->value.type != HD_TPL_MISSING) { return &b->value; }
    }
    return NULL;
}

hd_status hd_tpl_scope_set(hd_tpl_run *run, hd_tpl_scope *scope, const char *name, size_t n, hd_tpl_value value)
{
    void *memory;
    hd_tpl_binding *b = find_here(scope, name, n);
    if (b != NULL) { return b->value = value, HD_OK; }
    hd_status st = hd_tpl_alloc(run, sizeof *b, &memory);
    if (st != HD_OK) { return st; }
    b = memory;
    *b = (hd_tpl_binding){.name = name, .n = n, .value = value, .next = scope->bindings};
    scope->bindings = b;
    return HD_OK;
}

hd_status hd_tpl_descend(hd_tpl_run *run)
{
    if (++run->depth > run->limits.depth) {
        return hd_tpl_fail(run, HD_E_INVALID, "macros call each other more than %d levels deep", run->limits.depth);
    }
    return hd_tpl_step(run, 1);
}

/* ---- expressions ----------------------------------------------------------------------------------------------------- */

static hd_status eval_name(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_tpl_value *found = hd_tpl_scope_find(scope, node->text, node->n);
    if (found == NULL) { found = hd_tpl_dict_get_text(eval->context, node->text, node->n); }
    if (found != NULL) { return *out = *found, HD_OK; }
    int index = hd_tpl_builtin_find(hd_tpl_functions, node->text, node->n);
    if (index >= 0 && hd_tpl_functions[index].call == NULL) {
        return hd_tpl_fail(eval->run, HD_E_UNSUPPORTED, "'%s' is not supported", hd_tpl_functions[index].name);
    }
    *out =
        index >= 0 ? (hd_tpl_value){.type = HD_TPL_FUNCTION, .kind = index} : hd_tpl_undefined(HD_TPL_UNDEFINED_NAME, node->text, node->n);
    return HD_OK;
}

static hd_status eval_list(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value item;
    HD_TRY(hd_tpl_list_new(eval->run, 0, &list));
    for (const hd_tpl_node *child = node->a; child != NULL; child = child->next) {
        HD_TRY(hd_tpl_eval_node(eval, child, scope, &item));
        HD_TRY(hd_tpl_list_add(eval->run, list, item));
    }
    *out = hd_tpl_listed(node->kind == HD_TPL_NODE_LIST ? HD_TPL_LIST : HD_TPL_TUPLE, list);
out:
    return st;
}

static hd_status eval_dict(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value dict, key, value;
    HD_TRY(hd_tpl_dict_new(eval->run, 0, &dict));
    for (const hd_tpl_node *pair = node->a; pair != NULL; pair = pair->next) {
        HD_TRY(hd_tpl_eval_node(eval, pair->a, scope, &key));
        HD_TRY(hd_tpl_eval_node(eval, pair->b, scope, &value));
        eval->run->at = pair->at;
        HD_TRY(hd_tpl_dict_set(eval->run, dict.dict, key, value));
    }
    *out = dict;
out:
    return st;
}

static hd_status eval_concat(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value value, joined = hd_tpl_text("", 0);
    for (const hd_tpl_node *child = node->a; child != NULL; child = child->next) {
        HD_TRY(hd_tpl_eval_node(eval, child, scope, &value));
        eval->run->at = child->at;
        HD_TRY(hd_tpl_string_of(eval->run, value, &value));
        HD_TRY(hd_tpl_join(eval->run, joined, value, &joined));
    }
    *out = joined;
out:
    return st;
}

/* a < b < c compares neighbours and stops at the first pair that does not hold. */
static hd_status eval_compare(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value left, right;
    bool holds = true;
    HD_TRY(hd_tpl_eval_node(eval, node->a, scope, &left));
    for (const hd_tpl_node *operand = node->b; operand != NULL && holds; operand = operand->next) {
        HD_TRY(hd_tpl_eval_node(eval, operand->a, scope, &right));
        eval->run->at = operand->at;
        HD_TRY(hd_tpl_relation(eval->run, (hd_tpl_op)operand->op, left, right, &holds));
        left = right;
    }
    *out = hd_tpl_bool(holds);
out:
    return st;
}

static hd_status eval_binary(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value a, b;
    HD_TRY(hd_tpl_eval_node(eval, node->a, scope, &a));
    if (node->kind == HD_TPL_NODE_UNARY) {
        eval->run->at = node->at;
        return hd_tpl_unary(eval->run, (hd_tpl_op)node->op, a, out);
    }
    HD_TRY(hd_tpl_eval_node(eval, node->b, scope, &b));
    eval->run->at = node->at;
    HD_TRY(hd_tpl_binary(eval->run, (hd_tpl_op)node->op, a, b, out));
out:
    return st;
}

static hd_status eval_logic(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = hd_tpl_eval_node(eval, node->a, scope, out);
    if (st != HD_OK) { return st; }
    bool truth = hd_tpl_truth(*out);
    if (node->kind == HD_TPL_NODE_NOT) { return *out = hd_tpl_bool(!truth), HD_OK; }
    return truth == (node->kind == HD_TPL_NODE_OR) ? HD_OK : hd_tpl_eval_node(eval, node->b, scope, out);
}

static hd_status eval_cond(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    static const char hint[] = "an inline if without else, whose condition does not hold, has no value";
    hd_status st = hd_tpl_eval_node(eval, node->b, scope, out);
    if (st != HD_OK) { return st; }
    const hd_tpl_node *chosen = hd_tpl_truth(*out) ? node->a : node->c;
    if (chosen != NULL) { return hd_tpl_eval_node(eval, chosen, scope, out); }
    *out = hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, hint, sizeof hint - 1);
    return HD_OK;
}

static hd_status eval_item(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value value, key, bounds[3] = {{0}};
    HD_TRY(hd_tpl_eval_node(eval, node->a, scope, &value));
    if (node->b->kind != HD_TPL_NODE_SLICE) {
        HD_TRY(hd_tpl_eval_node(eval, node->b, scope, &key));
        eval->run->at = node->at;
        return hd_tpl_get_item(eval->run, value, key, out);
    }
    const hd_tpl_node *const parts[] = {node->b->a, node->b->b, node->b->c};
    for (int i = 0; i < 3; i++) {
        if (parts[i] != NULL) { HD_TRY(hd_tpl_eval_node(eval, parts[i], scope, &bounds[i])); }
    }
    eval->run->at = node->at;
    HD_TRY(hd_tpl_get_slice(eval->run, value, bounds, out));
out:
    return st;
}

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

static hd_status add_keyword(hd_tpl_run *run, hd_tpl_call *call, hd_tpl_value key, hd_tpl_value value)
{
    if (key.type != HD_TPL_STRING) { return hd_tpl_fail(run, HD_E_INVALID, "a keyword of a call must be a string"); }
    if (hd_tpl_dict_get_text(&call->keywords, key.text, key.n) != NULL) {
        return hd_tpl_fail(run, HD_E_INVALID, "the argument '%.*s' is given twice", key.n < 60 ? (int)key.n : 60, key.text);
    }
    return hd_tpl_dict_add(run, &call->keywords, key, value);
}

static hd_status spread(hd_tpl_run *run, hd_tpl_call *call, hd_tpl_value value, hd_tpl_op op)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    if (op == HD_TPL_OP_SPREAD_LIST) {
        HD_TRY(hd_tpl_iterate(run, value, &list));
        for (size_t i = 0; i < list->n; i++) { HD_TRY(hd_tpl_list_add(run, &call->positional, list->items[i])); }
        return HD_OK;
    }
    if (value.type != HD_TPL_DICT) { return hd_tpl_fail(run, HD_E_INVALID, "'**' wants a dict, found a %s", hd_tpl_type_name(value)); }
    for (size_t i = 0; i < value.dict->n; i++) { HD_TRY(add_keyword(run, call, value.dict->entries[i].key, value.dict->entries[i].value)); }
out:
    return st;
}

hd_status hd_tpl_eval_arguments(hd_tpl_eval *eval, const hd_tpl_node *arguments, hd_tpl_scope *scope, hd_tpl_call *call)
{
    hd_status st = HD_OK;
    hd_tpl_value value;
    for (const hd_tpl_node *arg = arguments; arg != NULL; arg = arg->next) {
        HD_TRY(hd_tpl_eval_node(eval, arg->a, scope, &value));
        eval->run->at = arg->at;
        if (arg->op != HD_TPL_OP_NONE) {
            HD_TRY(spread(eval->run, call, value, (hd_tpl_op)arg->op));
        } else if (arg->text != NULL) {
            HD_TRY(add_keyword(eval->run, call, hd_tpl_text(arg->text, arg->n), value));
        } else {
            HD_TRY(hd_tpl_list_add(eval->run, &call->positional, value));
        }
    }
out:
    return st;
}

hd_status hd_tpl_call_value(hd_tpl_eval *eval, hd_tpl_value callee, hd_tpl_call *call, hd_tpl_value *out)
{
    switch (callee.type) {
    case HD_TPL_UNDEFINED: return hd_tpl_fail_undefined(eval->run, callee);
    case HD_TPL_MACRO: return hd_tpl_call_macro(eval, callee.macro, call, out);
    case HD_TPL_FUNCTION:
        /* Positional arguments of functions bind from the first parameter on. */
        return hd_tpl_builtin_invoke(eval->run, &hd_tpl_functions[callee.kind], "function", call, out);
    case HD_TPL_METHOD:
        call->input = *callee.self;
        return hd_tpl_builtin_invoke(eval->run, &hd_tpl_methods_of(*callee.self)[callee.kind], "method", call, out);
    case HD_TPL_LOOP: return hd_tpl_fail(eval->run, HD_E_UNSUPPORTED, "recursive loops are not supported");
    default: return hd_tpl_fail(eval->run, HD_E_INVALID, "a %s cannot be called", hd_tpl_type_name(callee));
    }
}

static hd_status eval_call(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_value callee;
    hd_tpl_call call = {0};
    HD_TRY(hd_tpl_eval_node(eval, node->a, scope, &callee));
    HD_TRY(hd_tpl_eval_arguments(eval, node->b, scope, &call));
    eval->run->at = node->at;
    HD_TRY(hd_tpl_call_value(eval, callee, &call, out));
out:
    return st;
}

/* A filter or test on a value that was evaluated already. */
static hd_status apply(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_value input, hd_tpl_scope *scope, hd_tpl_value *out)
{
    bool is_test = node->kind == HD_TPL_NODE_TEST;
    const char *what = is_test ? "test" : "filter";
    hd_tpl_call call = {.input = input};
    if (node->index < 0) {
        eval->run->at = node->at;
        return hd_tpl_fail(eval->run, HD_E_INVALID, "the %s '%.*s' does not exist", what, node->n < 60 ? (int)node->n : 60, node->text);
    }
    hd_status st = hd_tpl_eval_arguments(eval, node->b, scope, &call);
    if (st != HD_OK) { return st; }
    eval->run->at = node->at;
    return hd_tpl_builtin_invoke(eval->run, &(is_test ? hd_tpl_tests : hd_tpl_filters)[node->index], what, &call, out);
}

static hd_status eval_filter(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_tpl_value input;
    hd_status st = hd_tpl_eval_node(eval, node->a, scope, &input);
    return st == HD_OK ? apply(eval, node, input, scope, out) : st;
}

hd_status hd_tpl_apply_filters(hd_tpl_eval *eval, const hd_tpl_node *filters, hd_tpl_value input, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    *out = input;
    if (filters == NULL) { return HD_OK; }
    HD_TRY(hd_tpl_descend(eval->run));
    HD_TRY(hd_tpl_apply_filters(eval, filters->a, input, scope, out));
    HD_TRY(apply(eval, filters, *out, scope, out));
    eval->run->depth--;
out:
    return st;
}

static hd_status eval_attr(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_tpl_value value;
    hd_status st = hd_tpl_eval_node(eval, node->a, scope, &value);
    eval->run->at = node->at;
    return st == HD_OK ? hd_tpl_get_attr(eval->run, value, node->text, node->n, out) : st;
}

static hd_status eval_kind(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    switch (node->kind) {
    case HD_TPL_NODE_CONST: *out = node->value; return HD_OK;
    case HD_TPL_NODE_NAME: return eval_name(eval, node, scope, out);
    case HD_TPL_NODE_LIST:
    case HD_TPL_NODE_TUPLE: return eval_list(eval, node, scope, out);
    case HD_TPL_NODE_DICT: return eval_dict(eval, node, scope, out);
    case HD_TPL_NODE_CONCAT: return eval_concat(eval, node, scope, out);
    case HD_TPL_NODE_COMPARE: return eval_compare(eval, node, scope, out);
    case HD_TPL_NODE_UNARY:
    case HD_TPL_NODE_BINARY: return eval_binary(eval, node, scope, out);
    case HD_TPL_NODE_AND:
    case HD_TPL_NODE_OR:
    case HD_TPL_NODE_NOT: return eval_logic(eval, node, scope, out);
    case HD_TPL_NODE_COND: return eval_cond(eval, node, scope, out);
    case HD_TPL_NODE_ATTR: return eval_attr(eval, node, scope, out);
    case HD_TPL_NODE_ITEM: return eval_item(eval, node, scope, out);
    case HD_TPL_NODE_CALL: return eval_call(eval, node, scope, out);
    default: return eval_filter(eval, node, scope, out); /* FILTER, TEST */
    }
}

hd_status hd_tpl_eval_node(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, hd_tpl_value *out)
{
    eval->run->at = node->at;
    hd_status st = hd_tpl_descend(eval->run);
    if (st == HD_OK) { st = eval_kind(eval, node, scope, out); }
    eval->run->depth--;
    return st;
}

/* ---- statements ------------------------------------------------------------------------------------------------------ */

static hd_status assign_tuple(hd_tpl_eval *eval, const hd_tpl_node *target, hd_tpl_value value, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_list *items;
    size_t n = 0;
    if (value.type == HD_TPL_NONE || hd_tpl_is_number(value)) {
        return hd_tpl_fail(eval->run, HD_E_INVALID, "a %s cannot be unpacked", hd_tpl_type_name(value));
    }
    HD_TRY(hd_tpl_iterate(eval->run, value, &items));
    for (const hd_tpl_node *child = target->a; child != NULL; child = child->next) { n++; }
    if (n != items->n) { return hd_tpl_fail(eval->run, HD_E_INVALID, "%zu values for %zu names", items->n, n); }
    n = 0;
    for (const hd_tpl_node *child = target->a; child != NULL; child = child->next) {
        HD_TRY(hd_tpl_assign(eval, child, items->items[n++], scope));
    }
out:
    return st;
}

hd_status hd_tpl_assign(hd_tpl_eval *eval, const hd_tpl_node *target, hd_tpl_value value, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_value owner;
    eval->run->at = target->at;
    if (target->kind == HD_TPL_NODE_NAME) { return hd_tpl_scope_set(eval->run, scope, target->text, target->n, value); }
    if (target->kind == HD_TPL_NODE_TUPLE) {
        HD_TRY(hd_tpl_descend(eval->run));
        HD_TRY(assign_tuple(eval, target, value, scope));
        eval->run->depth--;
        return HD_OK;
    }
    HD_TRY(eval_name(eval, target->a, scope, &owner));
    if (owner.type != HD_TPL_NAMESPACE) { return hd_tpl_fail(eval->run, HD_E_INVALID, "only a namespace has attributes that can be set"); }
    if (target->text[0] == '_') { return hd_tpl_fail(eval->run, HD_E_INVALID, "a namespace has no attributes that begin with '_'"); }
    HD_TRY(hd_tpl_dict_set(eval->run, owner.dict, hd_tpl_text(target->text, target->n), value));
out:
    return st;
}

static hd_status exec_if(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    for (const hd_tpl_node *branch = node->a; branch != NULL; branch = branch->next) {
        hd_tpl_value condition = hd_tpl_bool(true);
        if (branch->a != NULL) {
            hd_status st = hd_tpl_eval_node(eval, branch->a, scope, &condition);
            if (st != HD_OK) { return st; }
        }
        if (hd_tpl_truth(condition)) { return hd_tpl_exec_body(eval, branch->b, scope); }
    }
    return HD_OK;
}

/* The text of a body in a scope of its own, not printed.  A break or continue out of it leaves *out alone. */
static hd_status capture(hd_tpl_eval *eval, const hd_tpl_node *body, hd_tpl_scope *scope, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_scope *inner;
    size_t mark = hd_tpl_mark(eval->run);
    HD_TRY(hd_tpl_scope_new(eval->run, scope, &inner));
    eval->captured++;
    HD_TRY(hd_tpl_exec_body(eval, body, inner));
    eval->captured--;
    HD_TRY(hd_tpl_take(eval->run, mark, out));
out:
    return st;
}

static hd_status exec_set_block(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_value text;
    HD_TRY(capture(eval, node->c, scope, &text));
    if (eval->flow != HD_TPL_FLOW_ON) { return HD_OK; }
    HD_TRY(hd_tpl_apply_filters(eval, node->b, text, scope, &text));
    HD_TRY(hd_tpl_assign(eval, node->a, text, scope));
out:
    return st;
}

static hd_status exec_filter_block(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_value text;
    HD_TRY(capture(eval, node->c, scope, &text));
    if (eval->flow != HD_TPL_FLOW_ON) { return HD_OK; }
    HD_TRY(hd_tpl_apply_filters(eval, node->a, text, scope, &text));
    HD_TRY(hd_tpl_put(eval->run, text));
out:
    return st;
}

static hd_status exec_with(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_scope *inner;
    hd_tpl_value value;
    HD_TRY(hd_tpl_scope_new(eval->run, scope, &inner));
    for (const hd_tpl_node *pair = node->b; pair != NULL; pair = pair->next) {
        HD_TRY(hd_tpl_eval_node(eval, pair->b, scope, &value));
        HD_TRY(hd_tpl_assign(eval, pair->a, value, inner));
    }
    HD_TRY(hd_tpl_exec_body(eval, node->c, inner));
out:
    return st;
}

static hd_status add_span(hd_tpl_eval *eval, size_t begin, size_t end)
{
    hd_template_output *output = eval->output;
    if (output->n_span == output->span_capacity) {
        void *spans = output->spans;
        size_t capacity = output->span_capacity == 0 ? 8 : 2 * output->span_capacity;
        hd_status st = hd_realloc(&spans, output->span_capacity, capacity, sizeof *output->spans, "spans of a chat", eval->run->err);
        if (st != HD_OK) { return st; }
        output->spans = spans;
        output->span_capacity = capacity;
    }
    output->spans[output->n_span++] = (hd_template_span){begin, end};
    return HD_OK;
}

static hd_status exec_generation(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    hd_tpl_scope *inner;
    size_t begin = hd_tpl_mark(eval->run);
    if (eval->captured > 0) {
        return hd_tpl_fail(eval->run, HD_E_UNSUPPORTED,
                           "a generation block within a macro, a block that is captured, or another one: "
                           "where its text will stand is not known");
    }
    HD_TRY(hd_tpl_scope_new(eval->run, scope, &inner));
    eval->captured++; /* none within another */
    HD_TRY(hd_tpl_exec_body(eval, node->c, inner));
    eval->captured--;
    HD_TRY(add_span(eval, begin, hd_tpl_mark(eval->run)));
out:
    return st;
}

static hd_status exec_print(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_tpl_value value;
    hd_status st = hd_tpl_eval_node(eval, node->a, scope, &value);
    eval->run->at = node->at;
    return st == HD_OK ? hd_tpl_put(eval->run, value) : st;
}

static hd_status exec_set(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_tpl_value value;
    hd_status st = hd_tpl_eval_node(eval, node->b, scope, &value);
    return st == HD_OK ? hd_tpl_assign(eval, node->a, value, scope) : st;
}

static hd_status exec_macro(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_tpl_value macro;
    hd_status st = hd_tpl_macro_new(eval->run, node, scope, &macro);
    return st == HD_OK ? hd_tpl_scope_set(eval->run, scope, node->text, node->n, macro) : st;
}

static hd_status exec_node(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    eval->run->at = node->at;
    switch (node->kind) {
    case HD_TPL_NODE_DATA: return hd_tpl_put(eval->run, hd_tpl_text(node->text, node->n));
    case HD_TPL_NODE_PRINT: return exec_print(eval, node, scope);
    case HD_TPL_NODE_IF: return exec_if(eval, node, scope);
    case HD_TPL_NODE_FOR: return hd_tpl_exec_for(eval, node, scope);
    case HD_TPL_NODE_SET: return exec_set(eval, node, scope);
    case HD_TPL_NODE_SET_BLOCK: return exec_set_block(eval, node, scope);
    case HD_TPL_NODE_MACRO: return exec_macro(eval, node, scope);
    case HD_TPL_NODE_CALL_BLOCK: return hd_tpl_exec_call_block(eval, node, scope);
    case HD_TPL_NODE_FILTER_BLOCK: return exec_filter_block(eval, node, scope);
    case HD_TPL_NODE_WITH: return exec_with(eval, node, scope);
    case HD_TPL_NODE_GENERATION: return exec_generation(eval, node, scope);
    default: eval->flow = node->kind == HD_TPL_NODE_BREAK ? HD_TPL_FLOW_BREAK : HD_TPL_FLOW_CONTINUE; return HD_OK;
    }
}

hd_status hd_tpl_exec_body(hd_tpl_eval *eval, const hd_tpl_node *body, hd_tpl_scope *scope)
{
    for (; body != NULL && eval->flow == HD_TPL_FLOW_ON; body = body->next) {
        eval->run->at = body->at;
        hd_status st = hd_tpl_descend(eval->run);
        if (st == HD_OK) { st = exec_node(eval, body, scope); }
        eval->run->depth--;
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}
