/* The tests: value is NAME(arguments).  See template_builtins.h. */
#include "tokenizer/template_builtins.h"
#include "tokenizer/template_string.h"

#define TEST(name) static hd_status name(hd_tpl_run *run, const hd_tpl_call *call, const hd_tpl_value *a, hd_tpl_value *out)

/* Tests that are a plain condition on the value. */
#define CONDITION(name, condition)     \
    TEST(name)                         \
    {                                  \
        (void)run;                     \
        (void)call;                    \
        *out = hd_tpl_bool(condition); \
        return HD_OK;                  \
    }

CONDITION(is_defined, a[0].type != HD_TPL_UNDEFINED)
CONDITION(is_undefined, a[0].type == HD_TPL_UNDEFINED)
CONDITION(is_none, a[0].type == HD_TPL_NONE)
CONDITION(is_boolean, a[0].type == HD_TPL_BOOL)
CONDITION(is_true, a[0].type == HD_TPL_BOOL && a[0].b)
CONDITION(is_false, a[0].type == HD_TPL_BOOL && !a[0].b)
CONDITION(is_integer, a[0].type == HD_TPL_INT)
CONDITION(is_float, a[0].type == HD_TPL_FLOAT)
CONDITION(is_number, hd_tpl_is_number(a[0]))
CONDITION(is_string, a[0].type == HD_TPL_STRING)
CONDITION(is_mapping, a[0].type == HD_TPL_DICT)
CONDITION(is_sequence, a[0].type == HD_TPL_STRING || a[0].type == HD_TPL_LIST || a[0].type == HD_TPL_TUPLE || a[0].type == HD_TPL_DICT ||
                           a[0].type == HD_TPL_RANGE || a[0].type == HD_TPL_UNDEFINED)
CONDITION(is_iterable, a[0].type == HD_TPL_STRING || a[0].type == HD_TPL_LIST || a[0].type == HD_TPL_TUPLE || a[0].type == HD_TPL_DICT ||
                           a[0].type == HD_TPL_RANGE || a[0].type == HD_TPL_UNDEFINED || a[0].type == HD_TPL_VIEW ||
                           a[0].type == HD_TPL_ITERATOR || a[0].type == HD_TPL_LOOP)
CONDITION(is_callable, a[0].type == HD_TPL_MACRO || a[0].type == HD_TPL_FUNCTION || a[0].type == HD_TPL_METHOD ||
                           a[0].type == HD_TPL_UNDEFINED || a[0].type == HD_TPL_LOOP)

/* str(value).islower() and isupper(). */
static hd_status is_case(hd_tpl_run *run, hd_tpl_value value, hd_tpl_case which, hd_tpl_value *out)
{
    hd_tpl_value text;
    hd_status st = hd_tpl_string_of(run, value, &text);
    if (st == HD_OK) { st = hd_tpl_step_bytes(run, text.n * 16); }
    if (st == HD_OK) { *out = hd_tpl_bool(hd_tpl_is_case(text, which)); }
    return st;
}

TEST(is_lower)
{
    (void)call;
    return is_case(run, a[0], HD_TPL_LOWER, out);
}

TEST(is_upper)
{
    (void)call;
    return is_case(run, a[0], HD_TPL_UPPER, out);
}

/* value % divisor == rest */
static hd_status has_rest(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value divisor, int64_t rest, hd_tpl_value *out)
{
    hd_status st = hd_tpl_binary(run, HD_TPL_OP_MOD, value, divisor, out);
    if (st != HD_OK) { return st; }
    bool same;
    st = hd_tpl_equal(run, *out, hd_tpl_int(rest), &same);
    *out = hd_tpl_bool(same);
    return st;
}

TEST(is_odd)
{
    (void)call;
    return has_rest(run, a[0], hd_tpl_int(2), 1, out);
}

TEST(is_even)
{
    (void)call;
    return has_rest(run, a[0], hd_tpl_int(2), 0, out);
}

TEST(is_divisible_by)
{
    (void)call;
    return has_rest(run, a[0], a[1], 0, out);
}

/* Identity is decided for the values there is only one of, and where the types differ. */
TEST(is_same_as)
{
    (void)call;
    bool single = a[0].type == HD_TPL_NONE || a[0].type == HD_TPL_BOOL;
    if (!single && a[0].type == a[1].type) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "test 'sameas' of two values of type %s", hd_tpl_type_name(a[0]));
    }
    *out = hd_tpl_bool(a[0].type == a[1].type && (a[0].type == HD_TPL_NONE || a[0].b == a[1].b));
    return HD_OK;
}

static hd_status relation(hd_tpl_run *run, hd_tpl_op op, const hd_tpl_value *a, hd_tpl_value *out)
{
    bool holds = false;
    hd_status st = hd_tpl_relation(run, op, a[0], a[1], &holds);
    *out = hd_tpl_bool(holds);
    return st;
}

#define RELATION(name, op)                \
    TEST(name)                            \
    {                                     \
        (void)call;                       \
        return relation(run, op, a, out); \
    }

RELATION(is_eq, HD_TPL_OP_EQ)
RELATION(is_ne, HD_TPL_OP_NE)
RELATION(is_lt, HD_TPL_OP_LT)
RELATION(is_le, HD_TPL_OP_LE)
RELATION(is_gt, HD_TPL_OP_GT)
RELATION(is_ge, HD_TPL_OP_GE)
RELATION(is_in, HD_TPL_OP_IN)

const hd_tpl_builtin hd_tpl_tests[] = {
    {"defined", is_defined, ""},
    {"undefined", is_undefined, ""},
    {"none", is_none, ""},
    {"boolean", is_boolean, ""},
    {"true", is_true, ""},
    {"false", is_false, ""},
    {"integer", is_integer, ""},
    {"float", is_float, ""},
    {"number", is_number, ""},
    {"string", is_string, ""},
    {"mapping", is_mapping, ""},
    {"sequence", is_sequence, ""},
    {"iterable", is_iterable, ""},
    {"callable", is_callable, "/"},
    {"lower", is_lower, ""},
    {"upper", is_upper, ""},
    {"odd", is_odd, ""},
    {"even", is_even, ""},
    {"divisibleby", is_divisible_by, "!num"},
    {"sameas", is_same_as, "!other"},
    {"in", is_in, "!seq"},
    {"==", is_eq, "/!b"},
    {"eq", is_eq, "/!b"},
    {"equalto", is_eq, "/!b"},
    {"!=", is_ne, "/!b"},
    {"ne", is_ne, "/!b"},
    {">", is_gt, "/!b"},
    {"gt", is_gt, "/!b"},
    {"greaterthan", is_gt, "/!b"},
    {">=", is_ge, "/!b"},
    {"ge", is_ge, "/!b"},
    {"<", is_lt, "/!b"},
    {"lt", is_lt, "/!b"},
    {"lessthan", is_lt, "/!b"},
    {"<=", is_le, "/!b"},
    {"le", is_le, "/!b"},
    {"escaped", NULL, ""},
    {"filter", NULL, ""},
    {"test", NULL, ""},
    {NULL, NULL, NULL},
};
