/* Operators, with Python's arithmetic: integers are exact or refused, division floors.  See template_builtins.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tokenizer/template_builtins.h"
#include "tokenizer/template_string.h"

static const char *const symbols[] = {
    [HD_TPL_OP_ADD] = "+", [HD_TPL_OP_SUB] = "-",  [HD_TPL_OP_MUL] = "*", [HD_TPL_OP_DIV] = "/", [HD_TPL_OP_FLOOR_DIV] = "//",
    [HD_TPL_OP_MOD] = "%", [HD_TPL_OP_POW] = "**", [HD_TPL_OP_EQ] = "==", [HD_TPL_OP_NE] = "!=", [HD_TPL_OP_LT] = "<",
    [HD_TPL_OP_LE] = "<=", [HD_TPL_OP_GT] = ">",   [HD_TPL_OP_GE] = ">=", [HD_TPL_OP_IN] = "in", [HD_TPL_OP_NOT_IN] = "not in"};

static hd_status too_big(hd_tpl_run *run)
{
    return hd_tpl_fail(run, HD_E_UNSUPPORTED, "an integer beyond 64 bits");
}

static hd_status power(hd_tpl_run *run, int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) { return too_big(run); }
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) { return too_big(run); }
    }
    *out = result;
    return HD_OK;
}

static hd_status divide_integers(hd_tpl_run *run, hd_tpl_op op, int64_t a, int64_t b, hd_tpl_value *out)
{
    const int64_t exact = INT64_C(1) << 53;
    if (b == 0) { return hd_tpl_fail(run, HD_E_INVALID, "a division by zero"); }
    if (op == HD_TPL_OP_DIV) {
        if (a > exact || a < -exact || b > exact || b < -exact) {
            return hd_tpl_fail(run, HD_E_UNSUPPORTED, "'/' of integers beyond 2^53");
        }
        return *out = hd_tpl_float((double)a / (double)b), HD_OK;
    }
    if (b == -1) { /* the one quotient that may not fit */
        if (a == INT64_MIN && op == HD_TPL_OP_FLOOR_DIV) { return too_big(run); }
        return *out = hd_tpl_int(op == HD_TPL_OP_MOD ? 0 : -a), HD_OK;
    }
    int64_t quotient = a / b, remainder = a % b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) { quotient--, remainder += b; }
    *out = hd_tpl_int(op == HD_TPL_OP_MOD ? remainder : quotient);
    return HD_OK;
}

static hd_status integers(hd_tpl_run *run, hd_tpl_op op, int64_t a, int64_t b, hd_tpl_value *out)
{
    int64_t r = 0;
    bool overflow = false;
    switch (op) {
    case HD_TPL_OP_ADD: overflow = __builtin_add_overflow(a, b, &r); break;
    case HD_TPL_OP_SUB: overflow = __builtin_sub_overflow(a, b, &r); break;
    case HD_TPL_OP_MUL: overflow = __builtin_mul_overflow(a, b, &r); break;
    case HD_TPL_OP_POW:
        if (b < 0) {
            if (a == 0) { return hd_tpl_fail(run, HD_E_INVALID, "0 to a negative power"); }
            return *out = hd_tpl_float(pow((double)a, (double)b)), HD_OK;
        }
        *out = hd_tpl_int(0);
        return power(run, a, b, &out->i);
    default: return divide_integers(run, op, a, b, out);
    }
    *out = hd_tpl_int(r);
    return overflow ? too_big(run) : HD_OK;
}

/* Python's float // and %: the remainder has the sign of b. */
static hd_status divide_floats(hd_tpl_run *run, hd_tpl_op op, double a, double b, hd_tpl_value *out)
{
    if (b == 0.0) { return hd_tpl_fail(run, HD_E_INVALID, "a division by zero"); }
    if (op == HD_TPL_OP_DIV) { return *out = hd_tpl_float(a / b), HD_OK; }
    double remainder = fmod(a, b), quotient = (a - remainder) / b;
    if (remainder != 0.0) {
        if ((b < 0.0) != (remainder < 0.0)) { remainder += b, quotient -= 1.0; }
    } else {
        remainder = copysign(0.0, b);
    }
    if (quotient != 0.0) {
        double floored = floor(quotient);
        quotient = quotient - floored > 0.5 ? floored + 1.0 : floored;
    } else {
        quotient = copysign(0.0, a / b);
    }
    *out = hd_tpl_float(op == HD_TPL_OP_MOD ? remainder : quotient);
    return HD_OK;
}

static hd_status floats(hd_tpl_run *run, hd_tpl_op op, double a, double b, hd_tpl_value *out)
{
    double r;
    switch (op) {
    case HD_TPL_OP_ADD: *out = hd_tpl_float(a + b); return HD_OK;
    case HD_TPL_OP_SUB: *out = hd_tpl_float(a - b); return HD_OK;
    case HD_TPL_OP_MUL: *out = hd_tpl_float(a * b); return HD_OK;
    case HD_TPL_OP_POW:
        if (a == 0.0 && b < 0.0) { return hd_tpl_fail(run, HD_E_INVALID, "0 to a negative power"); }
        r = pow(a, b);
        if (isnan(r) && !isnan(a) && !isnan(b)) { return hd_tpl_fail(run, HD_E_UNSUPPORTED, "a complex number"); }
        if (isinf(r) && !isinf(a) && !isinf(b)) { return hd_tpl_fail(run, HD_E_INVALID, "a number beyond the range of float"); }
        *out = hd_tpl_float(r);
        return HD_OK;
    default: return divide_floats(run, op, a, b, out);
    }
}

/* ---- sequences ------------------------------------------------------------------------------------------------------- */

static hd_status join_lists(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    HD_TRY(hd_tpl_list_new(run, a.list->n + b.list->n, &list));
    for (size_t i = 0; i < a.list->n; i++) { HD_TRY(hd_tpl_list_add(run, list, a.list->items[i])); }
    for (size_t i = 0; i < b.list->n; i++) { HD_TRY(hd_tpl_list_add(run, list, b.list->items[i])); }
    *out = hd_tpl_listed(a.type, list);
out:
    return st;
}

static hd_status repeat(hd_tpl_run *run, hd_tpl_value value, int64_t times, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    size_t mark = hd_tpl_mark(run);
    if (value.type == HD_TPL_STRING) {
        for (int64_t i = 0; i < times && value.n > 0 && st == HD_OK; i++) {
            hd_buf_append(run->out, value.text, value.n);
            st = hd_tpl_check_out(run);
        }
        return st == HD_OK ? hd_tpl_take(run, mark, out) : st;
    }
    HD_TRY(hd_tpl_list_new(run, 0, &list));
    for (int64_t i = 0; i < times && value.list->n > 0; i++) {
        for (size_t k = 0; k < value.list->n; k++) { HD_TRY(hd_tpl_list_add(run, list, value.list->items[k])); }
    }
    *out = hd_tpl_listed(value.type, list);
out:
    return st;
}

static bool is_sequence(hd_tpl_value value)
{
    return value.type == HD_TPL_STRING || value.type == HD_TPL_LIST || value.type == HD_TPL_TUPLE;
}

static bool is_safe(hd_tpl_value value)
{
    return value.type == HD_TPL_STRING && value.kind == HD_TPL_SAFE;
}

/* A text as HTML shows it. */
static hd_status escape(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value *out)
{
    static const char specials[] = "&<>'\"";
    static const char *const escapes[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    size_t mark = hd_tpl_mark(run);
    hd_status st = hd_tpl_step_bytes(run, text.n * 4);
    if (st != HD_OK) { return st; }
    for (size_t i = 0; i < text.n; i++) {
        const char *special = text.text[i] != '\0' ? strchr(specials, text.text[i]) : NULL;
        if (special != NULL) {
            hd_buf_append_text(run->out, escapes[special - specials]);
        } else {
            hd_buf_append_char(run->out, text.text[i]);
        }
    }
    return hd_tpl_take(run, mark, out);
}

/* A sum with text that is safe as HTML: the other text is made so. */
static hd_status add_safe(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    if (!is_safe(a)) { HD_TRY(escape(run, a, &a)); }
    if (!is_safe(b)) { HD_TRY(escape(run, b, &b)); }
    HD_TRY(hd_tpl_join(run, a, b, out));
    out->kind = HD_TPL_SAFE;
out:
    return st;
}

hd_status hd_tpl_binary(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out)
{
    int64_t i, j;
    if (is_safe(a) || is_safe(b)) {
        if (op == HD_TPL_OP_ADD && a.type == HD_TPL_STRING && b.type == HD_TPL_STRING) { return add_safe(run, a, b, out); }
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "text from the filter 'safe' can only be printed or added to text here");
    }
    if (op == HD_TPL_OP_MOD && a.type == HD_TPL_STRING) { return hd_tpl_percent_format(run, a, b, out); }
    if (a.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a); }
    if (b.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, b); }
    bool a_integer = hd_tpl_is_integer(a, &i), b_integer = hd_tpl_is_integer(b, &j);
    if (a_integer && b_integer) { return integers(run, op, i, j, out); }
    if (hd_tpl_is_number(a) && hd_tpl_is_number(b)) { return floats(run, op, hd_tpl_as_double(a), hd_tpl_as_double(b), out); }
    if (op == HD_TPL_OP_ADD && a.type == b.type && is_sequence(a)) {
        return a.type == HD_TPL_STRING ? hd_tpl_join(run, a, b, out) : join_lists(run, a, b, out);
    }
    if (op == HD_TPL_OP_MUL && is_sequence(a) && b_integer) { return repeat(run, a, j, out); }
    if (op == HD_TPL_OP_MUL && is_sequence(b) && a_integer) { return repeat(run, b, i, out); }
    return hd_tpl_fail(run, HD_E_INVALID, "'%s' is not supported between a %s and a %s", symbols[op], hd_tpl_type_name(a),
                       hd_tpl_type_name(b));
}

hd_status hd_tpl_unary(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value *out)
{
    int64_t i;
    if (a.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a); }
    if (!hd_tpl_is_number(a)) { return hd_tpl_fail(run, HD_E_INVALID, "the sign '%s' before a %s", symbols[op], hd_tpl_type_name(a)); }
    if (!hd_tpl_is_integer(a, &i)) { return *out = hd_tpl_float(op == HD_TPL_OP_SUB ? -a.f : a.f), HD_OK; }
    if (op == HD_TPL_OP_SUB && i == INT64_MIN) { return too_big(run); }
    *out = hd_tpl_int(op == HD_TPL_OP_SUB ? -i : i);
    return HD_OK;
}

hd_status hd_tpl_relation(hd_tpl_run *run, hd_tpl_op op, hd_tpl_value a, hd_tpl_value b, bool *out)
{
    int order;
    bool unordered;
    hd_status st;
    if (op == HD_TPL_OP_EQ || op == HD_TPL_OP_NE) {
        st = hd_tpl_equal(run, a, b, out);
        *out = *out == (op == HD_TPL_OP_EQ);
        return st;
    }
    if (op == HD_TPL_OP_IN || op == HD_TPL_OP_NOT_IN) {
        st = hd_tpl_contains(run, a, b, out);
        *out = *out == (op == HD_TPL_OP_IN);
        return st;
    }
    st = hd_tpl_compare(run, a, b, symbols[op], &order, &unordered);
    *out = !unordered && (op == HD_TPL_OP_LT ? order < 0 : op == HD_TPL_OP_LE ? order <= 0 : op == HD_TPL_OP_GT ? order > 0 : order >= 0);
    return st;
}

/* ---- "..." % values -------------------------------------------------------------------------------------------------- */

typedef struct conversion {
    char flags[8];
    int width, precision; /* -1: none */
    char type;
    hd_tpl_value key; /* MISSING: the next value */
} conversion;

/* A number of at most four digits at format[*at]; -1: none. */
static int read_small(hd_tpl_value format, size_t *at)
{
    int value = -1, n = 0;
    while (*at < format.n && format.text[*at] >= '0' && format.text[*at] <= '9' && n++ < 4) {
        value = (value < 0 ? 0 : value * 10) + (format.text[(*at)++] - '0');
    }
    return value;
}

static hd_status read_conversion(hd_tpl_run *run, hd_tpl_value format, size_t *at, conversion *c)
{
    size_t n_flag = 0;
    *c = (conversion){.width = -1, .precision = -1};
    if (*at < format.n && format.text[*at] == '(') {
        size_t close = hd_tpl_find_text(format, hd_tpl_text(")", 1), *at);
        if (close == SIZE_MAX) { return hd_tpl_fail(run, HD_E_INVALID, "a '%%(' that is not closed"); }
        c->key = hd_tpl_part(format, *at + 1, close);
        *at = close + 1;
    }
    while (*at < format.n && n_flag + 1 < sizeof c->flags && memchr("-+ 0#", format.text[*at], 5) != NULL) {
        c->flags[n_flag++] = format.text[(*at)++];
    }
    c->width = read_small(format, at);
    if (*at < format.n && format.text[*at] == '.') {
        (*at)++;
        c->precision = read_small(format, at);
        c->precision = c->precision < 0 ? 0 : c->precision;
    }
    if (*at == format.n) { return hd_tpl_fail(run, HD_E_INVALID, "the format ends within a conversion"); }
    c->type = format.text[(*at)++];
    return HD_OK;
}

static hd_status put_padded(hd_tpl_run *run, hd_tpl_value text, const conversion *c)
{
    if (c->precision >= 0) { text.n = hd_tpl_char_offset(text, (size_t)c->precision); }
    int64_t pad = c->width - (int64_t)hd_tpl_count_chars(text);
    bool left = strchr(c->flags, '-') != NULL;
    if (!left && pad > 0) { hd_buf_printf(run->out, "%*s", (int)pad, ""); }
    hd_buf_append(run->out, text.text, text.n);
    if (left && pad > 0) { hd_buf_printf(run->out, "%*s", (int)pad, ""); }
    return hd_tpl_check_out(run);
}

static hd_status put_number(hd_tpl_run *run, hd_tpl_value value, const conversion *c)
{
    char format[64], width[16] = "", precision[16] = "";
    int64_t i;
    bool real = memchr("fFeEgG", c->type, 6) != NULL, integer = hd_tpl_is_integer(value, &i);
    if (value.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, value); }
    if (!hd_tpl_is_number(value) || (!real && !integer && c->type != 'd' && c->type != 'i')) {
        return hd_tpl_fail(run, HD_E_INVALID, "'%%%c' wants a number, found a %s", c->type, hd_tpl_type_name(value));
    }
    if (!real && !integer) {
        if (!(fabs(value.f) < 0x1p63)) { return too_big(run); }
        i = (int64_t)value.f;
    }
    if (!real && c->type != 'd' && c->type != 'i' && (i < 0 || strchr(c->flags, '#') != NULL)) {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "'%%%c' of a negative number, or with '#'", c->type);
    }
    if (c->width >= 0) { (void)snprintf(width, sizeof width, "%d", c->width); }
    if (c->precision >= 0) { (void)snprintf(precision, sizeof precision, ".%d", c->precision); }
    (void)snprintf(format, sizeof format, "%%%s%s%s%s%c", c->flags, width, precision, real ? "" : "l", c->type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* made above, of checked parts */
    if (real) {
        hd_buf_printf(run->out, format, hd_tpl_as_double(value));
    } else {
        hd_buf_printf(run->out, format, (long)i);
    }
#pragma GCC diagnostic pop
    return hd_tpl_check_out(run);
}

static hd_status put_conversion(hd_tpl_run *run, hd_tpl_value value, const conversion *c)
{
    size_t mark = hd_tpl_mark(run);
    hd_tpl_value text;
    hd_status st;
    if (memchr("diuoxXfFeEgG", c->type, 12) != NULL && c->type != 'u') { return put_number(run, value, c); }
    if (c->type != 's' && c->type != 'r') {
        return hd_tpl_fail(run, HD_E_UNSUPPORTED, "the conversion '%%%c' is not supported",
                           c->type >= ' ' && c->type < 0x7F ? c->type : '?');
    }
    st = c->type == 's' ? hd_tpl_put(run, value) : hd_tpl_put_repr(run, value);
    if (st == HD_OK) { st = hd_tpl_take(run, mark, &text); }
    return st == HD_OK ? put_padded(run, text, c) : st;
}

/* The value that a conversion takes. */
static hd_status pick_value(hd_tpl_run *run, hd_tpl_value values, const conversion *c, size_t *next, hd_tpl_value *out)
{
    if (c->key.type != HD_TPL_MISSING) {
        hd_tpl_value *member = values.type == HD_TPL_DICT ? hd_tpl_dict_get_text(values.dict, c->key.text, c->key.n) : NULL;
        if (member == NULL) { return hd_tpl_fail(run, HD_E_INVALID, "the format names a value that is not there"); }
        return *out = *member, HD_OK;
    }
    size_t n = values.type == HD_TPL_TUPLE ? values.list->n : 1;
    if (*next >= n) { return hd_tpl_fail(run, HD_E_INVALID, "not enough values for the format"); }
    *out = values.type == HD_TPL_TUPLE ? values.list->items[*next] : values;
    ++*next;
    return HD_OK;
}

hd_status hd_tpl_percent_format(hd_tpl_run *run, hd_tpl_value format, hd_tpl_value values, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    size_t mark = hd_tpl_mark(run), at = 0, next = 0;
    while (at < format.n) {
        size_t percent = hd_tpl_find_text(format, hd_tpl_text("%", 1), at);
        size_t end = percent != SIZE_MAX ? percent : format.n;
        conversion c;
        hd_tpl_value value;
        hd_buf_append(run->out, format.text + at, end - at);
        if (percent == SIZE_MAX) { break; }
        at = percent + 1;
        HD_TRY(read_conversion(run, format, &at, &c));
        if (c.type == '%') {
            hd_buf_append_char(run->out, '%');
            continue;
        }
        HD_TRY(pick_value(run, values, &c, &next, &value));
        HD_TRY(put_conversion(run, value, &c));
    }
    /* What Python takes for a mapping need not be used. */
    bool may_rest =
        values.type == HD_TPL_DICT || values.type == HD_TPL_LIST || values.type == HD_TPL_UNDEFINED || values.type == HD_TPL_RANGE;
    if (values.type == HD_TPL_TUPLE ? next < values.list->n : next == 0 && !may_rest) {
        return hd_tpl_fail(run, HD_E_INVALID, "not all values are used by the format");
    }
    HD_TRY(hd_tpl_take(run, mark, out));
out:
    return st;
}
