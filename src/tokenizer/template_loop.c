/* for, and the variable `loop` within it.  See template_eval.h. */
#include <string.h>

#include "tokenizer/template_eval.h"

/* The next item that passes the condition; *found false at the end. */
static hd_status next_item(struct hd_tpl_loop *loop, hd_tpl_value *out, bool *found)
{
    hd_status st = HD_OK;
    hd_tpl_run *run = loop->eval->run;
    *found = false;
    while (loop->next < (loop->range != NULL ? loop->range->n : loop->items->n) && !*found) {
        hd_tpl_value passes = hd_tpl_bool(true);
        size_t i = loop->next++;
        HD_TRY(hd_tpl_step(run, 1));
        *out = loop->range != NULL ? hd_tpl_int(loop->range->start + (int64_t)i * loop->range->step) : loop->items->items[i];
        if (loop->test_scope != NULL) {
            HD_TRY(hd_tpl_assign(loop->eval, loop->target, *out, loop->test_scope));
            HD_TRY(hd_tpl_eval_node(loop->eval, loop->test, loop->test_scope, &passes));
        }
        *found = hd_tpl_truth(passes);
    }
out:
    return st;
}

static hd_status look_ahead(struct hd_tpl_loop *loop)
{
    bool found;
    if (loop->looked) { return HD_OK; }
    hd_status st = next_item(loop, &loop->after, &found);
    if (st != HD_OK) { return st; }
    loop->looked = true;
    if (!found) { loop->after = (hd_tpl_value){0}; }
    return HD_OK;
}

static hd_status step(struct hd_tpl_loop *loop, bool *found)
{
    hd_status st = look_ahead(loop);
    if (st != HD_OK) { return st; }
    *found = loop->after.type != HD_TPL_MISSING;
    loop->looked = false;
    if (!*found) { return HD_OK; }
    loop->before = loop->current;
    loop->current = loop->after;
    loop->index0++;
    return HD_OK;
}

/* How many items there will have been: with a condition, all that remain are tried now. */
static hd_status count(struct hd_tpl_loop *loop)
{
    hd_status st = HD_OK;
    hd_tpl_list *rest;
    hd_tpl_value item;
    bool found = true;
    if (loop->length >= 0) { return HD_OK; }
    HD_TRY(hd_tpl_list_new(loop->eval->run, 0, &rest));
    while (found) {
        HD_TRY(next_item(loop, &item, &found));
        if (found) { HD_TRY(hd_tpl_list_add(loop->eval->run, rest, item)); }
    }
    loop->length = (int64_t)rest->n + loop->index0 + 1 + (loop->looked && loop->after.type != HD_TPL_MISSING);
    loop->items = rest;
    loop->range = NULL;
    loop->next = 0;
    loop->test_scope = NULL;
out:
    return st;
}

static bool is(const char *name, size_t n, const char *text)
{
    return strlen(text) == n && memcmp(name, text, n) == 0;
}

hd_status hd_tpl_loop_attr(hd_tpl_run *run, hd_tpl_value value, const char *name, size_t n, hd_tpl_value *out)
{
    static const char no_previous[] = "there is no previous item", no_next[] = "there is no next item";
    struct hd_tpl_loop *loop = value.loop;
    hd_status st = HD_OK;
    (void)run;
    *out = hd_tpl_undefined(HD_TPL_UNDEFINED_ATTRIBUTE + HD_TPL_LOOP, name, n);
    if (is(name, n, "index")) { return *out = hd_tpl_int(loop->index0 + 1), HD_OK; }
    if (is(name, n, "index0")) { return *out = hd_tpl_int(loop->index0), HD_OK; }
    if (is(name, n, "first")) { return *out = hd_tpl_bool(loop->index0 == 0), HD_OK; }
    if (is(name, n, "depth")) { return *out = hd_tpl_int(1), HD_OK; }
    if (is(name, n, "depth0")) { return *out = hd_tpl_int(0), HD_OK; }
    if (is(name, n, "previtem")) {
        *out = loop->index0 == 0 ? hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, no_previous, sizeof no_previous - 1) : loop->before;
    } else if (is(name, n, "last") || is(name, n, "nextitem")) {
        HD_TRY(look_ahead(loop));
        bool last = loop->after.type == HD_TPL_MISSING;
        *out = n == 4 ? hd_tpl_bool(last) : last ? hd_tpl_undefined(HD_TPL_UNDEFINED_HINT, no_next, sizeof no_next - 1) : loop->after;
    } else if (is(name, n, "length") || is(name, n, "revindex") || is(name, n, "revindex0")) {
        HD_TRY(count(loop));
        *out = hd_tpl_int(is(name, n, "length") ? loop->length : loop->length - loop->index0 - is(name, n, "revindex0"));
    }
out:
    return st;
}

static hd_status loop_cycle(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)
{
    if (call->positional.n == 0) { return hd_tpl_fail(run, HD_E_INVALID, "loop.cycle wants something to cycle through"); }
    *out = call->positional.items[(size_t)a[0].loop->index0 % call->positional.n];
    return HD_OK;
}

static hd_status loop_changed(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *seen;
    hd_tpl_value now;
    bool same = false;
    HD_TRY(hd_tpl_list_new(run, call->positional.n, &seen));
    for (size_t i = 0; i < call->positional.n; i++) { HD_TRY(hd_tpl_list_add(run, seen, call->positional.items[i])); }
    now = hd_tpl_listed(HD_TPL_TUPLE, seen);
    if (a[0].loop->changed.type != HD_TPL_MISSING) { HD_TRY(hd_tpl_equal(run, a[0].loop->changed, now, &same)); }
    a[0].loop->changed = now;
    *out = hd_tpl_bool(!same);
out:
    return st;
}

const hd_tpl_builtin hd_tpl_loop_methods[] = {{"cycle", loop_cycle, "*"}, {"changed", loop_changed, "*"}, {NULL, NULL, NULL}};

static hd_status open_loop(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope, struct hd_tpl_loop **out)
{
    hd_status st = HD_OK;
    hd_tpl_value sequence;
    hd_tpl_list *items = NULL;
    void *memory;
    HD_TRY(hd_tpl_eval_node(eval, node->b, scope, &sequence));
    eval->run->at = node->b->at;
    hd_tpl_range *range = sequence.type == HD_TPL_RANGE ? sequence.range : NULL; /* needs no list */
    if (range == NULL) { HD_TRY(hd_tpl_iterate(eval->run, sequence, &items)); }
    HD_TRY(hd_tpl_alloc(eval->run, sizeof **out, &memory));
    *out = memory;
    **out = (struct hd_tpl_loop){.items = items, .range = range, .target = node->a, .test = node->c, .index0 = -1, .eval = eval};
    (*out)->length = node->c != NULL ? -1 : (int64_t)(range != NULL ? range->n : items->n);
    if (node->c != NULL) { HD_TRY(hd_tpl_scope_new(eval->run, scope, &(*out)->test_scope)); }
out:
    return st;
}

hd_status hd_tpl_exec_for(hd_tpl_eval *eval, const hd_tpl_node *node, hd_tpl_scope *scope)
{
    hd_status st = HD_OK;
    struct hd_tpl_loop *loop;
    hd_tpl_scope *inner = NULL;
    bool found = true, completed = false; /* an iteration came to its end */
    HD_TRY(open_loop(eval, node, scope, &loop));
    for (;;) {
        HD_TRY(step(loop, &found));
        if (!found) { break; }
        if (inner == NULL || inner->captured) { HD_TRY(hd_tpl_scope_new(eval->run, scope, &inner)); }
        hd_tpl_scope_clear(inner);
        HD_TRY(hd_tpl_assign(eval, node->a, loop->current, inner));
        HD_TRY(hd_tpl_scope_set(eval->run, inner, "loop", 4, (hd_tpl_value){.type = HD_TPL_LOOP, .loop = loop}));
        HD_TRY(hd_tpl_exec_body(eval, node->d, inner));
        bool breaks = eval->flow == HD_TPL_FLOW_BREAK;
        completed = completed || eval->flow == HD_TPL_FLOW_ON;
        eval->flow = HD_TPL_FLOW_ON;
        if (breaks) { break; }
    }
    if (!completed && node->e != NULL) { /* so Jinja2: also when every iteration was left by break or continue */
        HD_TRY(hd_tpl_scope_new(eval->run, scope, &inner));
        HD_TRY(hd_tpl_exec_body(eval, node->e, inner));
    }
out:
    return st;
}
