/* Softmax of row prefixes. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32

typedef struct row { int64_t groups, group, t, pad; double scale; int kind; } row; /* kind 0: any counts, 1: all 0, 2: all T */

static const row rows[] = {
    {0, 4, 5, 0, 1.0, 0},  {1, 1, 1, 0, 1.0, 2},    {3, 1, 7, 2, 0.5, 0},   {2, 5, 17, 1, 0.1147, 0}, {4, 16, 33, 3, 0.1352, 0},
    {3, 2, 64, 0, 1.0, 2}, {2, 3, 40, 0, 1.0, 1},   {2, 128, 65, 5, 0.3, 0}, {1, 2, 4099, 0, 0.2, 0},  {5, 7, 0, 0, 1.0, 1},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static hd_status run(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    return hd_softmax_fwd(ex, &c->s[0].t, &c->s[1].t, r->group, r->scale, &c->s[2].t, err);
}

/* exp to 1 u of an argument that was rounded twice (|scale (x - m)| up to 40 here), a sum of up to T terms, a quotient. */
static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run, .params = r};
        (void)snprintf(c.name, sizeof c.name, "softmax_fwd R=%" PRId64 " T=%" PRId64 " group=%" PRId64 " kind %d", r->groups * r->group, r->t,
                       r->group, r->kind);
        slot *x = normal(&c, add_slot(&c, "x", IN, F32, HD_SHAPE(r->groups * r->group, r->t)), 8.0);
        x->pad = r->pad;
        slot *counts = add_slot(&c, "counts", IN, HD_DTYPE_I32, HD_SHAPE(r->groups));
        for (int64_t g = 0; g < r->groups; g++) {
            counts->values[g] = r->kind == 1 ? 0.0 : r->kind == 2 ? (double)r->t : (double)((g * 31 + 7) % (r->t + 1));
        }
        slot *y = add_slot(&c, "y", OUT, F32, HD_SHAPE(r->groups * r->group, r->t));
        y->pad = r->pad;
        y->alias = 0;
        y->factor = (64.0 + (double)r->t) * HD_U_F32;
        run_reference(&c);
        check_op(&c, "softmax_fwd");
    }
    print_ratios();
}

/* A row among others, and its entries beyond the count, do not change it. */
static void test_rows_alone(void **state)
{
    (void)state;
    enum { R = 4, T = 37 };
    float x[R * T], y[R * T], alone[T];
    int32_t counts[R] = {37, 5, 20, 1}, one = 20;
    hd_err err;
    hd_exec ex;
    hd_arena scratch;
    hd_arena_open_dry(&scratch, "scratch");
    assert_ok(hd_exec_init(&ex, &scratch, 2, false, &err));
    hd_gen_normal_f32("x", 3.0, x, R * T);
    hd_tensor tx = {.data = x, .dtype = F32, .n_dim = 2, .shape = {R, T}, .global_shape = {R, T}, .stride = {T, 1}}, ty = tx;
    hd_tensor tc = {.data = counts, .dtype = HD_DTYPE_I32, .n_dim = 1, .shape = {R}, .global_shape = {R}, .stride = {1}};
    ty.data = y;
    assert_ok(hd_softmax_fwd(&ex, &tx, &tc, 1, 0.25, &ty, &err));
    hd_tensor third = hd_tensor_slice(&tx, 0, 2, 1), out = third, c1 = hd_tensor_slice(&tc, 0, 0, 1);
    for (int j = 20; j < T; j++) { x[2 * T + j] = NAN; }
    out.data = alone;
    c1.data = &one;
    assert_ok(hd_softmax_fwd(&ex, &third, &c1, 1, 0.25, &out, &err));
    assert_memory_equal(alone, y + 2 * T, sizeof alone);
    x[2 * T + 3] = NAN;
    assert_ok(hd_softmax_fwd(&ex, &third, &c1, 1, 0.25, &out, &err));
    assert_true(isnan(alone[0]) && isnan(alone[19]) && alone[20] == 0.0f);
    assert_fails(hd_softmax_fwd(&ex, &tx, &tc, 3, 0.25, &ty, &err), HD_E_INVALID, "4 rows, want a multiple of 3");
    assert_fails(hd_softmax_fwd(&ex, &tx, &tc, 1, 0.0, &ty, &err), HD_E_INVALID, "scale is 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fwd), cmocka_unit_test(test_rows_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
