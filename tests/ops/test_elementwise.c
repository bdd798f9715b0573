/* add, copy, fill, sum_into: exact up to the rounding of the output. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

typedef struct row { int n_dim; int64_t shape[3], pad; hd_dtype a, b, y; } row;

static const row rows[] = {
    {1, {0}, 0, F32, F32, F32},            {1, {1}, 0, BF16, F32, BF16},        {1, {1027}, 0, F32, BF16, F32},
    {2, {3, 7}, 2, F32, F32, BF16},        {2, {13, 33}, 0, BF16, BF16, BF16},  {2, {5, 0}, 1, F32, F32, F32},
    {3, {2, 3, 5}, 1, F32, BF16, BF16},    {3, {4, 16, 64}, 64, BF16, F32, F32}, {2, {3, 2048}, 8, BF16, BF16, F32},
    {2, {1, 65537}, 0, F32, F32, F32},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static slot *add_shaped(opcase *c, const char *name, role ro, hd_dtype dtype, const row *r)
{
    slot *s = normal(c, add_slot(c, name, ro, dtype, r->n_dim, r->shape), 1.0);
    s->pad = r->pad;
    return s;
}

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s (%" PRId64 ", %" PRId64 ", %" PRId64 ")[%d] pad=%" PRId64 " %s/%s/%s", op, r->shape[0],
                   r->shape[1], r->shape[2], r->n_dim, r->pad, hd_dtype_name(r->a), hd_dtype_name(r->b), hd_dtype_name(r->y));
}

static hd_status run_add(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_add(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, err);
}

static hd_status run_copy(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_copy(ex, &c->s[0].t, &c->s[1].t, err);
}

static hd_status run_fill(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_fill(ex, -2.71828, &c->s[0].t, err);
}

static hd_status run_sum_into(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_sum_into(ex, &c->s[0].t, &c->s[1].t, err);
}

static void test_add(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_rows; i++) {
        const row *r = &rows[i / 2];
        opcase c = {.run = run_add};
        name_case(&c, "add", r);
        add_shaped(&c, "a", IN, r->a, r);
        add_shaped(&c, "b", IN, r->b, r);
        add_shaped(&c, "y", OUT, r->y, r)->alias = i % 2;
        c.s[1 - i % 2].alias = 2;
        run_reference(&c);
        check_op(&c, "add");
    }
    print_ratios();
}

static void test_copy(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_copy};
        name_case(&c, "copy", r);
        add_shaped(&c, "x", IN, r->a, r);
        add_shaped(&c, "y", OUT, r->y, r);
        run_reference(&c);
        check_op(&c, "copy");
    }
    print_ratios();
}

static void test_fill(void **state)
{
    (void)state;
    static const hd_dtype dtypes[] = {F32, BF16, HD_DTYPE_F64, HD_DTYPE_I32};
    for (int i = 0; i < 4 * n_rows; i++) {
        const row *r = &rows[i / 4];
        opcase c = {.run = run_fill};
        name_case(&c, "fill", r);
        slot *y = add_shaped(&c, "y", OUT, dtypes[i % 4], r);
        y->free_axes = 7;
        for (int64_t j = 0; j < slot_count(y); j++) { y->want[j] = y->dtype == HD_DTYPE_I32 ? -2 : -2.71828; }
        hd_exec ex = ref_exec();
        for (int isa = 0, more = 1; more; more = next_cpu(&isa, 2, &ex)) {
            place_all(&c, false);
            run_case(&c, &ex, c.name);
            compare_case(&c, ex.ops->name, "fill");
        }
        opcase_free(&c);
    }
    print_ratios();
}

static void test_sum_into(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_rows; i++) {
        row contiguous = rows[i / 2];
        const row *r = i % 2 ? &contiguous : &rows[i / 2];
        hd_dtype dtype = i % 2 ? HD_DTYPE_F64 : F32;
        contiguous.pad = 0;
        opcase c = {.run = run_sum_into};
        name_case(&c, i % 2 ? "sum_into f64" : "sum_into", r);
        add_shaped(&c, "x", IN, dtype, r);
        add_shaped(&c, "y", INOUT, dtype, r);
        run_reference(&c);
        check_op(&c, "sum_into");
    }
    print_ratios();
}

static void test_sum_into_refuses(void **state)
{
    (void)state;
    double memory[12] = {0};
    hd_err err;
    hd_exec ex;
    assert_true(cpu_exec("isa=base", 1, &ex));
    hd_tensor x = f64_tensor(memory, HD_SHAPE(2, 2)), y = f64_tensor(memory + 4, HD_SHAPE(2, 2));
    y.stride[0] = 3;
    assert_fails(hd_sum_into(&ex, &x, &y, &err), HD_E_INVALID, "want contiguous");
}

/* bf16 rounds to nearest even: 1 + 2^-8 lies half way and stays 1; 1 + 3 2^-8 goes up; NaN stays NaN, infinity infinity. */
static void test_rounding(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        float x[7] = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1p-8f + 0x1p-20f, -HUGE_VALF, (float)NAN, 3.4e38f, -0.0f};
        uint16_t y[7];
        hd_tensor tx = f64_tensor(NULL, HD_SHAPE(7)), ty = tx;
        tx.dtype = F32, ty.dtype = BF16;
        tx.data = x, ty.data = y;
        assert_ok(hd_copy(&ex, &tx, &ty, &err));
        const uint16_t want[7] = {0x3F80, 0x3F82, 0x3F81, 0xFF80, y[4], 0x7F80, 0x8000};
        hd_assert_same_bits("bf16", y, want, 2, 7);
        assert_true((y[4] & 0x7F80) == 0x7F80 && (y[4] & 0x7F) != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add), cmocka_unit_test(test_copy), cmocka_unit_test(test_fill), cmocka_unit_test(test_sum_into),
        cmocka_unit_test(test_sum_into_refuses), cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests_name("ops/elementwise", tests, NULL, NULL);
}
