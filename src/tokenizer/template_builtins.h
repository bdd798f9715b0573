/* Filters, tests, methods and functions of templates, as tables; operators and access to members.  Internal to the template
 * files.  Source: the documentation of Jinja2 3.1 and of Python's built-in types. */
#ifndef HD_TOKENIZER_TEMPLATE_BUILTINS_H
#define HD_TOKENIZER_TEMPLATE_BUILTINS_H

#include "tokenizer/template_ast.h"
#include "tokenizer/template_value.h"

typedef struct hd_tpl_call {
    hd_tpl_value input; /* what is filtered or tested; the object of a method */
    hd_tpl_list positional;
    hd_tpl_dict keywords; /* keys are STRINGs */
} hd_tpl_call;

enum { HD_TPL_MAX_PARAMETERS = 6 };

/* a[0] is the input, a[i] parameter i of the signature, MISSING when it was not given. */
typedef hd_status (*hd_tpl_builtin_call)(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out);

/* A row: name, function (NULL: Jinja or Python has it, the subset does not) and parameters, separated by spaces: "!name" must be
 * given; a leading "/" means that none may be given by keyword; "*" alone leaves the arguments as they are in `call`. */
typedef struct hd_tpl_builtin {
    const char *name;
    hd_tpl_builtin_call call;
    const char *parameters;
} hd_tpl_builtin;

/* Each ends with a row without a name. */
extern const hd_tpl_builtin hd_tpl_filters[], hd_tpl_tests[], hd_tpl_functions[];
extern const hd_tpl_builtin hd_tpl_text_methods[], hd_tpl_list_methods[], hd_tpl_dict_methods[], hd_tpl_loop_methods[];

int hd_tpl_builtin_find(const hd_tpl_builtin *table, const char *name, size_t n); /* -1: not there */

/* Binds the arguments and calls.  `what` is the kind of thing, for messages. */
hd_status hd_tpl_builtin_invoke(hd_tpl_run *run, const hd_tpl_builtin *row, const char *what, const hd_tpl_call *call,
                                hd_tpl_value *out) HD_CHECK_RESULT;

/* The rows of a METHOD's table; NULL for a type without methods. */
const hd_tpl_builtin *hd_tpl_methods_of(hd_tpl_value value);

/* Arguments with a type: *out is left alone when the argument is MISSING. */
hd_status hd_tpl_arg_text(hd_tpl_run *run, hd_tpl_value argument, const char *name, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_arg_int(hd_tpl_run *run, hd_tpl_value argument, const char *name, int64_t *out) HD_CHECK_RESULT;

/* value.name, value[key] and value[a:b:c], as Jinja2's sandbox answers them.  What is not there is UNDEFINED. */
hd_status hd_tpl_get_attr(hd_tpl_run *run, hd_tpl_value value, const char *name, size_t n, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_get_item(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value key, hd_tpl_value *out) HD_CHECK_RESULT;
/* Bounds that are NONE or MISSING are open. */
hd_status hd_tpl_get_slice(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_value bounds[3], hd_tpl_value *out) HD_CHECK_RESULT;

hd_status hd_tpl_unary(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_binary(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_relation(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value b, bool *out) HD_CHECK_RESULT;

/* format % values (a tuple, a dict, or one value). */
hd_status hd_tpl_percent_format(hd_tpl_run *run, hd_tpl_value format, hd_tpl_value values, hd_tpl_value *out) HD_CHECK_RESULT;

/* Members of the variable `loop` (template_loop.c). */
hd_status hd_tpl_loop_attr(hd_tpl_run *run, hd_tpl_value loop, const char *name, size_t n, hd_tpl_value *out) HD_CHECK_RESULT;

#endif
