/* The parser: Jinja2's grammar with its precedences, by recursive descent.  See template_ast.h.
 *
 * Two things bound the stack: the parser counts how deep it is in nested expressions and statements, and each node knows its
 * height, so that a chain of operators (which nests to the left without recursion here) cannot make a tree too high to walk. */
#include <stdio.h>
#include <string.h>

#include "tokenizer/template.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_builtins.h"
#include "tokenizer/template_lexer.h"

typedef struct parser {
    hd_tpl_run *run;
    hd_tpl_lexer lexer;
    hd_tpl_token now, ahead; /* ahead is valid when looked */
    bool looked;
    int depth, n_loop;  /* n_loop: for loops around, within the innermost function-like body */
    int n_if;           /* conditions around, whose branches may never be reached */
    hd_tpl_node *macro; /* the innermost one around */
    bool uses_caller;
    int n_scope;       /* bodies with names of their own around */
    bool in_target;    /* a name is being assigned to */
    int n_seen;        /* names met outside of such bodies, up to MAX_SEEN */
    hd_tpl_node *seen; /* NAMEs */
    hd_tpl_node *hidden;
} parser;

enum { MAX_SEEN = 256 };

typedef enum tuple_mode {
    TUPLE_FULL = 0,
    TUPLE_TARGET = 1,      /* names only, as targets are written */
    TUPLE_NO_COND = 2,     /* no inline if */
    TUPLE_PARENTHESES = 4, /* an empty one is allowed */
    TUPLE_NAMESPACE = 8,   /* ns.attr is a target as well */
    TUPLE_UNTIL_IN = 16,   /* ends at the name "in" */
    TUPLE_UNTIL_RECURSIVE = 32
} tuple_mode;

static hd_status parse_expression(parser *p, bool with_cond, hd_tpl_node **out);
static hd_status parse_tuple(parser *p, unsigned mode, hd_tpl_node **out);
static hd_status parse_unary(parser *p, bool with_filter, hd_tpl_node **out);
static hd_status parse_body(parser *p, const char *const *ends, hd_tpl_node **out);

/* ---- tokens ---------------------------------------------------------------------------------------------------------- */

static hd_status advance(parser *p)
{
    if (p->looked) {
        p->now = p->ahead;
        p->looked = false;
        return HD_OK;
    }
    return hd_tpl_lexer_next(&p->lexer, &p->now);
}

static hd_status look_ahead(parser *p)
{
    if (p->looked) { return HD_OK; }
    p->looked = true;
    return hd_tpl_lexer_next(&p->lexer, &p->ahead);
}

static bool token_is(const hd_tpl_token *token, hd_tpl_token_type type, const char *text)
{
    return token->type == type && token->n == strlen(text) && memcmp(token->text, text, token->n) == 0;
}

static bool at_op(const parser *p, const char *op)
{
    return token_is(&p->now, HD_TPL_TOKEN_OPERATOR, op);
}

static bool at_name(const parser *p, const char *name)
{
    return token_is(&p->now, HD_TPL_TOKEN_NAME, name);
}

static hd_status fail_here(parser *p, hd_status code, const char *what)
{
    p->run->at = p->now.at;
    return hd_tpl_fail(p->run, code, "%s", what);
}

static hd_status unexpected(parser *p, const char *want)
{
    static const char *const names[] = {[HD_TPL_TOKEN_END] = "the end of the template",
                                        [HD_TPL_TOKEN_DATA] = "text",
                                        [HD_TPL_TOKEN_PRINT_BEGIN] = "'{{'",
                                        [HD_TPL_TOKEN_PRINT_END] = "'}}'",
                                        [HD_TPL_TOKEN_BLOCK_BEGIN] = "'{%'",
                                        [HD_TPL_TOKEN_BLOCK_END] = "'%}'",
                                        [HD_TPL_TOKEN_STRING] = "a string",
                                        [HD_TPL_TOKEN_INT] = "a number",
                                        [HD_TPL_TOKEN_FLOAT] = "a number"};
    p->run->at = p->now.at;
    if (p->now.type == HD_TPL_TOKEN_NAME || p->now.type == HD_TPL_TOKEN_OPERATOR) {
        return hd_tpl_fail(p->run, HD_E_CORRUPT, "found '%.*s', want %s", p->now.n < 60 ? (int)p->now.n : 60, p->now.text, want);
    }
    return hd_tpl_fail(p->run, HD_E_CORRUPT, "found %s, want %s", names[p->now.type], want);
}

static hd_status expect_op(parser *p, const char *op)
{
    char want[8];
    if (at_op(p, op)) { return advance(p); }
    (void)snprintf(want, sizeof want, "'%s'", op);
    return unexpected(p, want);
}

static hd_status skip_op(parser *p, const char *op, bool *skipped)
{
    *skipped = at_op(p, op);
    return *skipped ? advance(p) : HD_OK;
}

static hd_status skip_name(parser *p, const char *name, bool *skipped)
{
    *skipped = at_name(p, name);
    return *skipped ? advance(p) : HD_OK;
}

/* ---- nodes ----------------------------------------------------------------------------------------------------------- */

static hd_status enter(parser *p)
{
    if (++p->depth > 2 * HD_TEMPLATE_MAX_NESTING) { return fail_here(p, HD_E_UNSUPPORTED, "nested too deep"); } /* two a level */
    return HD_OK;
}

static hd_status new_node(parser *p, hd_tpl_node_kind kind, size_t at, hd_tpl_node **out)
{
    void *memory;
    hd_status st = hd_tpl_alloc(p->run, sizeof **out, &memory);
    if (st != HD_OK) { return st; }
    *out = memory;
    **out = (hd_tpl_node){.kind = (uint8_t)kind, .at = (uint32_t)at, .height = 1};
    return HD_OK;
}

/* Gives a node its children and its height. */
static hd_status adopt(parser *p, hd_tpl_node *node, hd_tpl_node *a, hd_tpl_node *b, hd_tpl_node *c)
{
    hd_tpl_node *const children[] = {a, b, c};
    node->a = a, node->b = b, node->c = c;
    for (size_t i = 0; i < 3; i++) {
        for (const hd_tpl_node *child = children[i]; child != NULL; child = child->next) {
            if (child->height >= node->height) { node->height = (uint8_t)(child->height + 1); }
        }
    }
    if (node->height <= HD_TEMPLATE_MAX_NESTING) { return HD_OK; }
    p->run->at = node->at;
    return hd_tpl_fail(p->run, HD_E_UNSUPPORTED, "an expression or block nested more than %d deep", HD_TEMPLATE_MAX_NESTING);
}

static hd_status make(parser *p, hd_tpl_node_kind kind, hd_tpl_op op, size_t at, hd_tpl_node *a, hd_tpl_node *b, hd_tpl_node **out)
{
    hd_tpl_node *node;
    hd_status st = new_node(p, kind, at, &node);
    if (st != HD_OK) { return st; }
    node->op = (uint8_t)op;
    *out = node;
    return adopt(p, node, a, b, NULL);
}

static void set_text(hd_tpl_node *node, const hd_tpl_token *token)
{
    node->text = token->text;
    node->n = (uint32_t)token->n;
}

static bool node_is(const hd_tpl_node *node, const char *text)
{
    return node->n == strlen(text) && memcmp(node->text, text, node->n) == 0;
}

/* ---- names that hide ------------------------------------------------------------------------------------------------- */

/* In Jinja2 a name that the template itself sets, outside of loops and the like and without a condition, is its own from the
 * start: a loop further up that reads it finds it undefined, whatever the caller gave.  Unless it was read outside before. */

/* Whether a name was met before; it is from now on. */
static hd_status see_name(parser *p, const char *name, size_t n, bool *seen)
{
    hd_tpl_node *fresh;
    *seen = p->n_seen == MAX_SEEN; /* no template that is read by people has so many */
    for (const hd_tpl_node *s = p->seen; s != NULL && !*seen; s = s->next) { *seen = s->n == n && memcmp(s->text, name, n) == 0; }
    if (*seen) { return HD_OK; }
    hd_status st = new_node(p, HD_TPL_NODE_NAME, 0, &fresh);
    if (st != HD_OK) { return st; }
    fresh->text = name;
    fresh->n = (uint32_t)n;
    fresh->next = p->seen;
    p->seen = fresh;
    p->n_seen++;
    return HD_OK;
}

static hd_status read_name(parser *p, const hd_tpl_node *name)
{
    bool seen;
    return p->n_scope == 0 ? see_name(p, name->text, name->n, &seen) : HD_OK;
}

static hd_status store_name(parser *p, const char *name, size_t n)
{
    bool seen;
    hd_tpl_node *hidden;
    if (p->n_scope > 0) { return HD_OK; }
    hd_status st = see_name(p, name, n, &seen);
    if (st != HD_OK || seen || p->n_if > 0) { return st; }
    st = new_node(p, HD_TPL_NODE_NAME, 0, &hidden);
    if (st != HD_OK) { return st; }
    hidden->text = name;
    hidden->n = (uint32_t)n;
    hidden->next = p->hidden;
    p->hidden = hidden;
    return HD_OK;
}

static hd_status store_names(parser *p, const hd_tpl_node *target)
{
    if (target->kind == HD_TPL_NODE_NAME) { return store_name(p, target->text, target->n); }
    for (const hd_tpl_node *item = target->a; target->kind == HD_TPL_NODE_TUPLE && item != NULL; item = item->next) {
        hd_status st = store_names(p, item);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* ---- primaries ------------------------------------------------------------------------------------------------------- */

static hd_status parse_name(parser *p, bool with_namespace, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None"};
    HD_TRY(new_node(p, HD_TPL_NODE_NAME, p->now.at, out));
    set_text(*out, &p->now);
    for (size_t i = 0; i < 6; i++) {
        if (!at_name(p, constants[i])) { continue; }
        (*out)->kind = HD_TPL_NODE_CONST;
        (*out)->value = i < 4 ? hd_tpl_bool(i < 2) : hd_tpl_none();
    }
    p->uses_caller = p->uses_caller || at_name(p, "caller");
    if (p->macro != NULL && (at_name(p, "varargs") || at_name(p, "kwargs"))) {
        return fail_here(p, HD_E_UNSUPPORTED, "varargs and kwargs of macros are not supported");
    }
    HD_TRY(advance(p));
    bool is_attr = with_namespace && at_op(p, ".");
    if ((*out)->kind == HD_TPL_NODE_NAME && (is_attr || !p->in_target)) { HD_TRY(read_name(p, *out)); }
    if (is_attr && (*out)->kind == HD_TPL_NODE_NAME) {
        HD_TRY(advance(p));
        if (p->now.type != HD_TPL_TOKEN_NAME) { return unexpected(p, "a name"); }
        HD_TRY(make(p, HD_TPL_NODE_NAMESPACE_ATTR, HD_TPL_OP_NONE, (*out)->at, *out, NULL, out));
        set_text(*out, &p->now);
        HD_TRY(advance(p));
    }
out:
    return st;
}

/* Neighbouring strings are one. */
static hd_status parse_strings(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    HD_TRY(new_node(p, HD_TPL_NODE_CONST, p->now.at, out));
    (*out)->value = hd_tpl_text("", 0);
    while (p->now.type == HD_TPL_TOKEN_STRING) {
        hd_tpl_value more = hd_tpl_text(p->now.text, p->now.n);
        HD_TRY(hd_tpl_join(p->run, (*out)->value, more, &(*out)->value));
        HD_TRY(advance(p));
    }
out:
    return st;
}

static hd_status parse_list(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    while (!at_op(p, "]")) {
        if (first != NULL) { HD_TRY(expect_op(p, ",")); }
        if (at_op(p, "]")) { break; }
        HD_TRY(parse_expression(p, true, last));
        last = &(*last)->next;
    }
    HD_TRY(advance(p));
    HD_TRY(make(p, HD_TPL_NODE_LIST, HD_TPL_OP_NONE, at, first, NULL, out));
out:
    return st;
}

static hd_status parse_dict(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first, *key, *value;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    while (!at_op(p, "}")) {
        if (first != NULL) { HD_TRY(expect_op(p, ",")); }
        if (at_op(p, "}")) { break; }
        HD_TRY(parse_expression(p, true, &key));
        HD_TRY(expect_op(p, ":"));
        HD_TRY(parse_expression(p, true, &value));
        HD_TRY(make(p, HD_TPL_NODE_PAIR, HD_TPL_OP_NONE, key->at, key, value, last));
        last = &(*last)->next;
    }
    HD_TRY(advance(p));
    HD_TRY(make(p, HD_TPL_NODE_DICT, HD_TPL_OP_NONE, at, first, NULL, out));
out:
    return st;
}

static hd_status parse_primary(parser *p, bool with_namespace, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    switch (p->now.type) {
    case HD_TPL_TOKEN_NAME: return parse_name(p, with_namespace, out);
    case HD_TPL_TOKEN_STRING: return parse_strings(p, out);
    case HD_TPL_TOKEN_INT:
    case HD_TPL_TOKEN_FLOAT:
        HD_TRY(new_node(p, HD_TPL_NODE_CONST, p->now.at, out));
        (*out)->value = p->now.type == HD_TPL_TOKEN_INT ? hd_tpl_int(p->now.i) : hd_tpl_float(p->now.f);
        return advance(p);
    default: break;
    }
    if (at_op(p, "[")) { return parse_list(p, out); }
    if (at_op(p, "{")) { return parse_dict(p, out); }
    if (!at_op(p, "(")) { return unexpected(p, "an expression"); }
    HD_TRY(advance(p));
    HD_TRY(parse_tuple(p, TUPLE_PARENTHESES, out));
    HD_TRY(expect_op(p, ")"));
out:
    return st;
}

/* ---- what follows a primary ------------------------------------------------------------------------------------------ */

static hd_status parse_argument(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    size_t at = p->now.at;
    hd_tpl_op spread = at_op(p, "*") ? HD_TPL_OP_SPREAD_LIST : at_op(p, "**") ? HD_TPL_OP_SPREAD_DICT : HD_TPL_OP_NONE;
    hd_tpl_token keyword = {0};
    hd_tpl_node *value;
    if (spread != HD_TPL_OP_NONE) {
        HD_TRY(advance(p));
    } else if (p->now.type == HD_TPL_TOKEN_NAME) {
        HD_TRY(look_ahead(p));
        if (token_is(&p->ahead, HD_TPL_TOKEN_OPERATOR, "=")) {
            keyword = p->now;
            HD_TRY(advance(p));
            HD_TRY(advance(p));
        }
    }
    HD_TRY(parse_expression(p, true, &value));
    HD_TRY(make(p, HD_TPL_NODE_ARG, spread, at, value, NULL, out));
    set_text(*out, &keyword);
out:
    return st;
}

/* Jinja's order: positional ones, keywords, *list at any place but the last two, **dict last. */
static hd_status check_order(parser *p, const hd_tpl_node *first, const hd_tpl_node *fresh)
{
    bool keyword = false, list = false, dict = false;
    for (const hd_tpl_node *arg = first; arg != fresh; arg = arg->next) {
        keyword = keyword || arg->text != NULL;
        list = list || arg->op == HD_TPL_OP_SPREAD_LIST;
        dict = dict || arg->op == HD_TPL_OP_SPREAD_DICT;
    }
    bool positional = fresh->text == NULL && fresh->op == HD_TPL_OP_NONE;
    if (!dict && !(positional && (keyword || list)) && !(fresh->op == HD_TPL_OP_SPREAD_LIST && list)) { return HD_OK; }
    p->run->at = fresh->at;
    return hd_tpl_fail(p->run, HD_E_CORRUPT, "arguments in an order that a call cannot have");
}

static hd_status parse_arguments(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node **last = out;
    *out = NULL;
    HD_TRY(expect_op(p, "("));
    while (!at_op(p, ")")) {
        if (*out != NULL) { HD_TRY(expect_op(p, ",")); }
        if (at_op(p, ")")) { break; }
        HD_TRY(parse_argument(p, last));
        HD_TRY(check_order(p, *out, *last));
        last = &(*last)->next;
    }
    HD_TRY(advance(p));
out:
    return st;
}

/* One index or slice within brackets. */
static hd_status parse_index(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *part[3] = {0};
    size_t at = p->now.at;
    if (!at_op(p, ":")) {
        HD_TRY(parse_expression(p, true, &part[0]));
        if (!at_op(p, ":")) { return *out = part[0], HD_OK; }
    }
    for (int i = 1; i < 3 && at_op(p, ":"); i++) {
        HD_TRY(advance(p));
        if (!at_op(p, ":") && !at_op(p, "]") && !at_op(p, ",")) { HD_TRY(parse_expression(p, true, &part[i])); }
    }
    HD_TRY(new_node(p, HD_TPL_NODE_SLICE, at, out));
    HD_TRY(adopt(p, *out, part[0], part[1], part[2]));
out:
    return st;
}

static hd_status parse_subscript(parser *p, hd_tpl_node **node)
{
    hd_status st = HD_OK;
    size_t at = p->now.at;
    hd_tpl_node *first = NULL, **last = &first;
    int n = 0;
    bool dot = at_op(p, "."), has_slice = false;
    HD_TRY(advance(p));
    if (dot && p->now.type == HD_TPL_TOKEN_NAME) {
        HD_TRY(make(p, HD_TPL_NODE_ATTR, HD_TPL_OP_NONE, at, *node, NULL, node));
        set_text(*node, &p->now);
        return advance(p);
    }
    if (dot) {
        if (p->now.type != HD_TPL_TOKEN_INT) { return unexpected(p, "a name or an integer"); }
        HD_TRY(parse_primary(p, false, &first));
        return make(p, HD_TPL_NODE_ITEM, HD_TPL_OP_NONE, at, *node, first, node);
    }
    for (; !at_op(p, "]"); n++) {
        if (n > 0) { HD_TRY(expect_op(p, ",")); }
        HD_TRY(parse_index(p, last));
        has_slice = has_slice || (*last)->kind == HD_TPL_NODE_SLICE;
        if (has_slice && (n > 0 || at_op(p, ","))) { return fail_here(p, HD_E_UNSUPPORTED, "slices within a list of indexes"); }
        last = &(*last)->next;
    }
    HD_TRY(advance(p));
    if (n != 1) { HD_TRY(make(p, HD_TPL_NODE_TUPLE, HD_TPL_OP_NONE, at, first, NULL, &first)); }
    HD_TRY(make(p, HD_TPL_NODE_ITEM, HD_TPL_OP_NONE, at, *node, first, node));
out:
    return st;
}

static hd_status parse_call(parser *p, hd_tpl_node **node)
{
    hd_tpl_node *arguments;
    size_t at = p->now.at;
    hd_status st = parse_arguments(p, &arguments);
    return st == HD_OK ? make(p, HD_TPL_NODE_CALL, HD_TPL_OP_NONE, at, *node, arguments, node) : st;
}

static hd_status parse_postfix(parser *p, hd_tpl_node **node)
{
    hd_status st = HD_OK;
    while (st == HD_OK) {
        if (at_op(p, ".") || at_op(p, "[")) {
            st = parse_subscript(p, node);
        } else if (at_op(p, "(")) {
            st = parse_call(p, node);
        } else {
            break;
        }
    }
    return st;
}

/* The name of a filter or test: resolved here, so that one that is not there is named with its place.  Under a condition it is
 * refused when it is reached, as in Jinja2. */
static hd_status parse_builtin(parser *p, const hd_tpl_builtin *table, const char *what, hd_tpl_node *node)
{
    if (p->now.type != HD_TPL_TOKEN_NAME) { return unexpected(p, "a name"); }
    set_text(node, &p->now);
    node->index = hd_tpl_builtin_find(table, p->now.text, p->now.n);
    if (p->n_if > 0 || (node->index >= 0 && table[node->index].call != NULL)) { return advance(p); }
    p->run->at = p->now.at;
    return hd_tpl_fail(p->run, node->index >= 0 ? HD_E_UNSUPPORTED : HD_E_CORRUPT, "the %s '%.*s' %s", what,
                       p->now.n < 60 ? (int)p->now.n : 60, p->now.text, node->index >= 0 ? "is not supported" : "does not exist");
}

static hd_status parse_filter(parser *p, bool inline_start, hd_tpl_node **node)
{
    hd_status st = HD_OK;
    while (at_op(p, "|") || inline_start) {
        hd_tpl_node *filter, *arguments = NULL;
        if (!inline_start) { HD_TRY(advance(p)); }
        inline_start = false;
        HD_TRY(new_node(p, HD_TPL_NODE_FILTER, p->now.at, &filter));
        HD_TRY(parse_builtin(p, hd_tpl_filters, "filter", filter));
        if (at_op(p, "(")) { HD_TRY(parse_arguments(p, &arguments)); }
        HD_TRY(adopt(p, filter, *node, arguments, NULL));
        *node = filter;
    }
out:
    return st;
}

/* Whether a test takes what comes next as its one argument without parentheses. */
static bool begins_argument(const parser *p)
{
    if (p->now.type == HD_TPL_TOKEN_NAME) { return !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and"); }
    return p->now.type == HD_TPL_TOKEN_STRING || p->now.type == HD_TPL_TOKEN_INT || p->now.type == HD_TPL_TOKEN_FLOAT || at_op(p, "[") ||
           at_op(p, "{");
}

static hd_status parse_test(parser *p, hd_tpl_node **node)
{
    hd_status st = HD_OK;
    hd_tpl_node *test, *arguments = NULL;
    bool negated;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    HD_TRY(skip_name(p, "not", &negated));
    HD_TRY(new_node(p, HD_TPL_NODE_TEST, p->now.at, &test));
    HD_TRY(parse_builtin(p, hd_tpl_tests, "test", test));
    if (at_op(p, "(")) {
        HD_TRY(parse_arguments(p, &arguments));
    } else if (begins_argument(p)) {
        hd_tpl_node *argument;
        size_t from = p->now.at;
        if (at_name(p, "is")) { return fail_here(p, HD_E_CORRUPT, "tests cannot be chained with 'is'"); }
        HD_TRY(parse_primary(p, false, &argument));
        HD_TRY(parse_postfix(p, &argument));
        HD_TRY(make(p, HD_TPL_NODE_ARG, HD_TPL_OP_NONE, from, argument, NULL, &arguments));
    }
    HD_TRY(adopt(p, test, *node, arguments, NULL));
    *node = test;
    if (negated) { HD_TRY(make(p, HD_TPL_NODE_NOT, HD_TPL_OP_NONE, at, test, NULL, node)); }
out:
    return st;
}

static hd_status parse_filters_and_tests(parser *p, hd_tpl_node **node)
{
    hd_status st = HD_OK;
    while (st == HD_OK) {
        if (at_op(p, "|")) {
            st = parse_filter(p, false, node);
        } else if (at_name(p, "is")) {
            st = parse_test(p, node);
        } else if (at_op(p, "(")) {
            st = parse_call(p, node);
        } else {
            break;
        }
    }
    return st;
}

/* ---- operators, loosest last ----------------------------------------------------------------------------------------- */

static hd_status parse_unary(parser *p, bool with_filter, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_op op = at_op(p, "-") ? HD_TPL_OP_SUB : at_op(p, "+") ? HD_TPL_OP_ADD : HD_TPL_OP_NONE;
    size_t at = p->now.at;
    HD_TRY(enter(p));
    if (op != HD_TPL_OP_NONE) {
        HD_TRY(advance(p));
        HD_TRY(parse_unary(p, false, out));
        HD_TRY(make(p, HD_TPL_NODE_UNARY, op, at, *out, NULL, out));
    } else {
        HD_TRY(parse_primary(p, false, out));
    }
    HD_TRY(parse_postfix(p, out));
    if (with_filter) { HD_TRY(parse_filters_and_tests(p, out)); }
    p->depth--;
out:
    return st;
}

enum { LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT, LEVEL_POWER, N_LEVEL }; /* each binds tighter than the one before */

static hd_tpl_op operator_of(const parser *p, int level)
{
    static const struct {
        const char *text;
        hd_tpl_op op;
        int level;
    } rows[] = {{"+", HD_TPL_OP_ADD, LEVEL_SUM},     {"-", HD_TPL_OP_SUB, LEVEL_SUM},     {"~", HD_TPL_OP_ADD, LEVEL_CONCAT},
                {"*", HD_TPL_OP_MUL, LEVEL_PRODUCT}, {"/", HD_TPL_OP_DIV, LEVEL_PRODUCT}, {"//", HD_TPL_OP_FLOOR_DIV, LEVEL_PRODUCT},
                {"%", HD_TPL_OP_MOD, LEVEL_PRODUCT}, {"**", HD_TPL_OP_POW, LEVEL_POWER}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].level == level && at_op(p, rows[i].text)) { return rows[i].op; }
    }
    return HD_TPL_OP_NONE;
}

static hd_status parse_binary(parser *p, int level, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *right, **last;
    if (level == N_LEVEL) { return parse_unary(p, true, out); }
    HD_TRY(parse_binary(p, level + 1, out));
    if (level == LEVEL_CONCAT && at_op(p, "~")) { /* one node for the whole chain */
        hd_tpl_node *first = *out;
        for (last = &first->next; at_op(p, "~"); last = &(*last)->next) {
            HD_TRY(advance(p));
            HD_TRY(parse_binary(p, level + 1, last));
        }
        return make(p, HD_TPL_NODE_CONCAT, HD_TPL_OP_NONE, first->at, first, NULL, out);
    }
    for (hd_tpl_op op; (op = operator_of(p, level)) != HD_TPL_OP_NONE;) {
        size_t at = p->now.at;
        HD_TRY(advance(p));
        HD_TRY(parse_binary(p, level + 1, &right));
        HD_TRY(make(p, HD_TPL_NODE_BINARY, op, at, *out, right, out));
    }
out:
    return st;
}

/* The comparison that comes next, its tokens taken. */
static hd_status take_comparison(parser *p, hd_tpl_op *op)
{
    static const struct {
        const char *text;
        hd_tpl_op op;
    } rows[] = {{"==", HD_TPL_OP_EQ}, {"!=", HD_TPL_OP_NE}, {"<", HD_TPL_OP_LT},
                {"<=", HD_TPL_OP_LE}, {">", HD_TPL_OP_GT},  {">=", HD_TPL_OP_GE}};
    hd_status st = HD_OK;
    *op = at_name(p, "in") ? HD_TPL_OP_IN : HD_TPL_OP_NONE;
    for (size_t i = 0; i < 6; i++) {
        if (at_op(p, rows[i].text)) { *op = rows[i].op; }
    }
    if (at_name(p, "not")) {
        HD_TRY(look_ahead(p));
        if (!token_is(&p->ahead, HD_TPL_TOKEN_NAME, "in")) { return HD_OK; }
        *op = HD_TPL_OP_NOT_IN;
        HD_TRY(advance(p));
    }
    if (*op != HD_TPL_OP_NONE) { HD_TRY(advance(p)); }
out:
    return st;
}

static hd_status parse_compare(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first, *right;
    HD_TRY(parse_binary(p, LEVEL_SUM, out));
    for (;;) {
        hd_tpl_op op;
        size_t at = p->now.at;
        HD_TRY(take_comparison(p, &op));
        if (op == HD_TPL_OP_NONE) { break; }
        HD_TRY(parse_binary(p, LEVEL_SUM, &right));
        HD_TRY(make(p, HD_TPL_NODE_OPERAND, op, at, right, NULL, last));
        last = &(*last)->next;
    }
    if (first != NULL) { HD_TRY(make(p, HD_TPL_NODE_COMPARE, HD_TPL_OP_NONE, (*out)->at, *out, first, out)); }
out:
    return st;
}

static hd_status parse_not(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    size_t at = p->now.at;
    if (!at_name(p, "not")) { return parse_compare(p, out); }
    HD_TRY(enter(p));
    HD_TRY(advance(p));
    HD_TRY(parse_not(p, out));
    HD_TRY(make(p, HD_TPL_NODE_NOT, HD_TPL_OP_NONE, at, *out, NULL, out));
    p->depth--;
out:
    return st;
}

static hd_status parse_logic(parser *p, bool is_or, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *right;
    HD_TRY(is_or ? parse_logic(p, false, out) : parse_not(p, out));
    while (at_name(p, is_or ? "or" : "and")) {
        size_t at = p->now.at;
        HD_TRY(advance(p));
        HD_TRY(is_or ? parse_logic(p, false, &right) : parse_not(p, &right));
        HD_TRY(make(p, is_or ? HD_TPL_NODE_OR : HD_TPL_NODE_AND, HD_TPL_OP_NONE, at, *out, right, out));
    }
out:
    return st;
}

static hd_status parse_expression(parser *p, bool with_cond, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    HD_TRY(enter(p));
    HD_TRY(parse_logic(p, true, out));
    while (with_cond && at_name(p, "if")) {
        hd_tpl_node *test, *other = NULL, *cond;
        bool has_else;
        size_t at = p->now.at;
        HD_TRY(advance(p));
        p->n_if++;
        HD_TRY(parse_logic(p, true, &test));
        HD_TRY(skip_name(p, "else", &has_else));
        if (has_else) { HD_TRY(parse_expression(p, true, &other)); }
        p->n_if--;
        HD_TRY(new_node(p, HD_TPL_NODE_COND, at, &cond));
        HD_TRY(adopt(p, cond, *out, test, other));
        *out = cond;
    }
    p->depth--;
out:
    return st;
}

static bool ends_tuple(const parser *p, unsigned mode)
{
    return p->now.type == HD_TPL_TOKEN_PRINT_END || p->now.type == HD_TPL_TOKEN_BLOCK_END || at_op(p, ")") ||
           ((mode & TUPLE_UNTIL_IN) != 0 && at_name(p, "in")) || ((mode & TUPLE_UNTIL_RECURSIVE) != 0 && at_name(p, "recursive"));
}

/* Expressions separated by commas: one alone without a comma is itself. */
static hd_status parse_tuple(parser *p, unsigned mode, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first;
    size_t at = p->now.at;
    bool is_tuple = false;
    for (;;) {
        if (first != NULL) { HD_TRY(expect_op(p, ",")); }
        if (ends_tuple(p, mode)) { break; }
        HD_TRY((mode & TUPLE_TARGET) != 0 ? parse_primary(p, (mode & TUPLE_NAMESPACE) != 0, last)
                                          : parse_expression(p, (mode & TUPLE_NO_COND) == 0, last));
        last = &(*last)->next;
        if (!at_op(p, ",")) { break; }
        is_tuple = true;
    }
    if (!is_tuple && first != NULL) { return *out = first, HD_OK; }
    if (!is_tuple && (mode & TUPLE_PARENTHESES) == 0) { return unexpected(p, "an expression"); }
    HD_TRY(make(p, HD_TPL_NODE_TUPLE, HD_TPL_OP_NONE, at, first, NULL, out));
out:
    return st;
}

/* ---- statements ------------------------------------------------------------------------------------------------------ */

static hd_status check_target(parser *p, const hd_tpl_node *target)
{
    hd_status st = HD_OK;
    if (target->kind == HD_TPL_NODE_NAMESPACE_ATTR || (target->kind == HD_TPL_NODE_NAME && !(p->n_loop > 0 && node_is(target, "loop")))) {
        return HD_OK;
    }
    for (const hd_tpl_node *item = target->a; target->kind == HD_TPL_NODE_TUPLE && item != NULL; item = item->next) {
        HD_TRY(check_target(p, item));
    }
    if (target->kind == HD_TPL_NODE_TUPLE) { return HD_OK; }
    p->run->at = target->at;
    return hd_tpl_fail(p->run, HD_E_CORRUPT, "this cannot be assigned to");
out:
    return st;
}

static hd_status parse_target(parser *p, unsigned mode, hd_tpl_node **out)
{
    p->in_target = true;
    hd_status st = parse_tuple(p, mode | TUPLE_TARGET, out);
    p->in_target = false;
    return st == HD_OK ? check_target(p, *out) : st;
}

static hd_status expect_block_end(parser *p)
{
    return p->now.type == HD_TPL_TOKEN_BLOCK_END ? advance(p) : unexpected(p, "'%}'");
}

/* The body of a statement: its tag ends here, and one of `ends` follows the body and is left as the current token. */
static hd_status parse_block(parser *p, const char *const *ends, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    bool colon;
    HD_TRY(skip_op(p, ":", &colon));
    HD_TRY(expect_block_end(p));
    HD_TRY(parse_body(p, ends, out));
out:
    return st;
}

typedef enum block_kind { BLOCK_PLAIN, BLOCK_SCOPE, BLOCK_FUNCTION } block_kind;

/* A body whose end tag is taken.  A scope has names of its own; out of a function break and continue do not reach either. */
static hd_status parse_closed_block(parser *p, const char *end, block_kind kind, hd_tpl_node **out)
{
    const char *const ends[] = {end, NULL};
    int n_loop = p->n_loop, n_scope = p->n_scope;
    if (kind == BLOCK_FUNCTION) { p->n_loop = 0; }
    if (kind != BLOCK_PLAIN) { p->n_scope++; }
    hd_status st = parse_block(p, ends, out);
    p->n_loop = n_loop;
    p->n_scope = n_scope;
    return st == HD_OK ? advance(p) : st;
}

static hd_status parse_set(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *target, *value = NULL, *body = NULL;
    size_t at = p->now.at;
    bool assigns;
    HD_TRY(advance(p));
    HD_TRY(parse_target(p, TUPLE_NAMESPACE, &target));
    HD_TRY(skip_op(p, "=", &assigns));
    if (assigns) {
        HD_TRY(parse_tuple(p, TUPLE_FULL, &value));
    } else {
        HD_TRY(parse_filter(p, false, &value));
        HD_TRY(parse_closed_block(p, "endset", BLOCK_SCOPE, &body));
    }
    HD_TRY(store_names(p, target));
    HD_TRY(new_node(p, assigns ? HD_TPL_NODE_SET : HD_TPL_NODE_SET_BLOCK, at, out));
    HD_TRY(adopt(p, *out, target, value, body));
out:
    return st;
}

static hd_status parse_for(parser *p, hd_tpl_node **out)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    hd_status st = HD_OK;
    hd_tpl_node *target, *sequence, *test = NULL, *body, *other = NULL, *loop;
    size_t at = p->now.at;
    bool filtered, has_else;
    HD_TRY(advance(p));
    p->n_loop++;
    HD_TRY(parse_target(p, TUPLE_UNTIL_IN, &target));
    if (!at_name(p, "in")) { return unexpected(p, "'in'"); }
    HD_TRY(advance(p));
    HD_TRY(parse_tuple(p, TUPLE_NO_COND | TUPLE_UNTIL_RECURSIVE, &sequence));
    HD_TRY(skip_name(p, "if", &filtered));
    p->n_scope++;
    if (filtered) { HD_TRY(parse_expression(p, true, &test)); }
    if (at_name(p, "recursive")) { return fail_here(p, HD_E_UNSUPPORTED, "recursive loops are not supported"); }
    HD_TRY(parse_block(p, ends, &body));
    p->n_scope--;
    p->n_loop--;
    has_else = at_name(p, "else");
    HD_TRY(advance(p));
    if (has_else) { HD_TRY(parse_closed_block(p, "endfor", BLOCK_SCOPE, &other)); }
    HD_TRY(new_node(p, HD_TPL_NODE_FOR, at, &loop));
    HD_TRY(adopt(p, loop, body, other, NULL)); /* counts their heights */
    HD_TRY(adopt(p, loop, target, sequence, test));
    loop->d = body;
    loop->e = other;
    *out = loop;
out:
    return st;
}

static hd_status parse_if(parser *p, hd_tpl_node **out)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first, *condition, *body;
    size_t at = p->now.at;
    bool more = true;
    p->n_if++;
    while (more) {
        size_t from = p->now.at;
        bool is_else = at_name(p, "else");
        condition = NULL;
        HD_TRY(advance(p));
        if (is_else) {
            HD_TRY(parse_closed_block(p, "endif", BLOCK_PLAIN, &body));
        } else {
            HD_TRY(parse_tuple(p, TUPLE_NO_COND, &condition));
            HD_TRY(parse_block(p, ends, &body));
        }
        HD_TRY(make(p, HD_TPL_NODE_BRANCH, HD_TPL_OP_NONE, from, condition, body, last));
        last = &(*last)->next;
        more = !is_else && !at_name(p, "endif");
        if (!is_else && !more) { HD_TRY(advance(p)); }
    }
    p->n_if--;
    HD_TRY(make(p, HD_TPL_NODE_IF, HD_TPL_OP_NONE, at, first, NULL, out));
out:
    return st;
}

static hd_status parse_parameters(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node **last = out, *value;
    bool has_default = false;
    *out = NULL;
    HD_TRY(expect_op(p, "("));
    while (!at_op(p, ")")) {
        if (*out != NULL) { HD_TRY(expect_op(p, ",")); }
        hd_tpl_token name = p->now;
        if (name.type != HD_TPL_TOKEN_NAME) { return unexpected(p, "a name"); }
        HD_TRY(advance(p));
        bool defaults = at_op(p, "=");
        value = NULL;
        if (!defaults && has_default) { return unexpected(p, "a default, as the parameter before has one"); }
        has_default = defaults;
        if (defaults) {
            HD_TRY(advance(p));
            HD_TRY(parse_expression(p, true, &value));
        }
        HD_TRY(make(p, HD_TPL_NODE_PARAM, HD_TPL_OP_NONE, name.at, value, NULL, last));
        set_text(*last, &name);
        last = &(*last)->next;
    }
    HD_TRY(advance(p));
out:
    return st;
}

static hd_status parse_macro(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *node, *parameters, *body, *outer = p->macro;
    bool outer_uses_caller = p->uses_caller;
    HD_TRY(new_node(p, HD_TPL_NODE_MACRO, p->now.at, &node));
    HD_TRY(advance(p));
    if (p->now.type != HD_TPL_TOKEN_NAME) { return unexpected(p, "a name"); }
    set_text(node, &p->now);
    HD_TRY(advance(p));
    HD_TRY(store_name(p, node->text, node->n));
    p->macro = node;
    p->uses_caller = false;
    p->n_scope++;
    HD_TRY(parse_parameters(p, &parameters));
    p->n_scope--;
    HD_TRY(parse_closed_block(p, "endmacro", BLOCK_FUNCTION, &body));
    node->uses_caller = p->uses_caller;
    p->macro = outer;
    p->uses_caller = p->uses_caller || outer_uses_caller;
    HD_TRY(adopt(p, node, NULL, parameters, body));
    *out = node;
out:
    return st;
}

static hd_status parse_call_block(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *parameters = NULL, *call, *body;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    if (at_op(p, "(")) { HD_TRY(parse_parameters(p, &parameters)); }
    HD_TRY(parse_expression(p, true, &call));
    if (call->kind != HD_TPL_NODE_CALL) { return fail_here(p, HD_E_CORRUPT, "a call block wants a call"); }
    HD_TRY(parse_closed_block(p, "endcall", BLOCK_FUNCTION, &body));
    HD_TRY(new_node(p, HD_TPL_NODE_CALL_BLOCK, at, out));
    HD_TRY(adopt(p, *out, call, parameters, body));
out:
    return st;
}

static hd_status parse_filter_block(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *filter = NULL, *body;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    HD_TRY(parse_filter(p, true, &filter));
    HD_TRY(parse_closed_block(p, "endfilter", BLOCK_SCOPE, &body));
    HD_TRY(new_node(p, HD_TPL_NODE_FILTER_BLOCK, at, out));
    HD_TRY(adopt(p, *out, filter, NULL, body));
out:
    return st;
}

static hd_status parse_with(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *first = NULL, **last = &first, *target, *value, *body;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    while (p->now.type != HD_TPL_TOKEN_BLOCK_END) {
        if (first != NULL) { HD_TRY(expect_op(p, ",")); }
        HD_TRY(parse_target(p, TUPLE_FULL, &target));
        HD_TRY(expect_op(p, "="));
        HD_TRY(parse_expression(p, true, &value));
        HD_TRY(make(p, HD_TPL_NODE_PAIR, HD_TPL_OP_NONE, target->at, target, value, last));
        last = &(*last)->next;
    }
    HD_TRY(parse_closed_block(p, "endwith", BLOCK_SCOPE, &body));
    HD_TRY(new_node(p, HD_TPL_NODE_WITH, at, out));
    HD_TRY(adopt(p, *out, NULL, first, body));
out:
    return st;
}

static hd_status parse_generation(parser *p, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node *body;
    size_t at = p->now.at;
    HD_TRY(advance(p));
    HD_TRY(parse_closed_block(p, "endgeneration", BLOCK_FUNCTION, &body));
    HD_TRY(new_node(p, HD_TPL_NODE_GENERATION, at, out));
    HD_TRY(adopt(p, *out, NULL, NULL, body));
out:
    return st;
}

static hd_status parse_jump(parser *p, hd_tpl_node **out)
{
    hd_status st = new_node(p, at_name(p, "break") ? HD_TPL_NODE_BREAK : HD_TPL_NODE_CONTINUE, p->now.at, out);
    if (st == HD_OK && p->n_loop == 0) { st = fail_here(p, HD_E_CORRUPT, "break and continue want a loop around them"); }
    return st == HD_OK ? advance(p) : st;
}

typedef hd_status (*statement_parser)(parser *p, hd_tpl_node **out);

static hd_status parse_statement(parser *p, hd_tpl_node **out)
{
    static const struct {
        const char *name;
        statement_parser parse; /* NULL: Jinja has it, this subset does not */
    } rows[] = {{"if", parse_if},
                {"for", parse_for},
                {"set", parse_set},
                {"macro", parse_macro},
                {"generation", parse_generation},
                {"call", parse_call_block},
                {"filter", parse_filter_block},
                {"with", parse_with},
                {"break", parse_jump},
                {"continue", parse_jump},
                {"block", NULL},
                {"extends", NULL},
                {"include", NULL},
                {"import", NULL},
                {"from", NULL},
                {"autoescape", NULL},
                {"print", NULL}};
    if (p->now.type != HD_TPL_TOKEN_NAME) { return unexpected(p, "the name of a statement"); }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!at_name(p, rows[i].name)) { continue; }
        if (rows[i].parse == NULL) {
            p->run->at = p->now.at;
            return hd_tpl_fail(p->run, HD_E_UNSUPPORTED, "the statement '%s' is not supported", rows[i].name);
        }
        return rows[i].parse(p, out);
    }
    return unexpected(p, "a statement (if, for, set, macro, ...)");
}

static bool at_any(const parser *p, const char *const *names)
{
    for (; names != NULL && *names != NULL; names++) {
        if (at_name(p, *names)) { return true; }
    }
    return false;
}

/* One piece of a body; *done when its end tag was met, which is then the current token. */
static hd_status parse_piece(parser *p, const char *const *ends, bool *done, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    size_t at = p->now.at;
    *out = NULL;
    switch (p->now.type) {
    case HD_TPL_TOKEN_DATA:
        HD_TRY(new_node(p, HD_TPL_NODE_DATA, at, out));
        set_text(*out, &p->now);
        return advance(p);
    case HD_TPL_TOKEN_PRINT_BEGIN: {
        hd_tpl_node *value;
        HD_TRY(advance(p));
        HD_TRY(parse_tuple(p, TUPLE_FULL, &value));
        if (p->now.type != HD_TPL_TOKEN_PRINT_END) { return unexpected(p, "'}}'"); }
        HD_TRY(make(p, HD_TPL_NODE_PRINT, HD_TPL_OP_NONE, at, value, NULL, out));
        return advance(p);
    }
    case HD_TPL_TOKEN_BLOCK_BEGIN:
        HD_TRY(advance(p));
        *done = at_any(p, ends);
        if (*done) { return HD_OK; }
        HD_TRY(parse_statement(p, out));
        return expect_block_end(p);
    default: return unexpected(p, ends != NULL ? "the end of a block" : "text or a tag");
    }
out:
    return st;
}

static hd_status parse_body(parser *p, const char *const *ends, hd_tpl_node **out)
{
    hd_status st = HD_OK;
    hd_tpl_node **last = out;
    bool done = false;
    *out = NULL;
    HD_TRY(enter(p));
    while (!done && !(ends == NULL && p->now.type == HD_TPL_TOKEN_END)) {
        HD_TRY(parse_piece(p, ends, &done, last));
        if (!done) { last = &(*last)->next; }
    }
    p->depth--;
out:
    return st;
}

hd_status hd_tpl_parse(hd_tpl_run *run, hd_tpl_node **body, hd_tpl_node **hidden)
{
    parser p = {.run = run};
    hd_tpl_lexer_open(&p.lexer, run);
    hd_status st = advance(&p);
    if (st == HD_OK) { st = parse_body(&p, NULL, body); }
    *hidden = p.hidden;
    return st;
}
