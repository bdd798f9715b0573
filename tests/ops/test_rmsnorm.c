/* RMSNorm: backends against the definition, the definition against finite differences, and against a direct reading of
 * the formula. */
#include "ops/harness.h"

typedef struct row { int64_t n, d, pad; hd_dtype act, weight; hd_accum accum; bool frozen; double x_scale; } row;

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

static const row rows[] = {
    {0, 8, 0, F32, F32, HD_SET, false, 2},     {1, 1, 0, F32, F32, HD_SET, false, 2},    {3, 7, 0, F32, F32, HD_ADD, false, 2},
    {5, 16, 3, F32, BF16, HD_SET, false, 2},   {7, 17, 1, BF16, F32, HD_ADD, false, 2},  {13, 33, 5, BF16, BF16, HD_SET, false, 2},
    {65, 64, 0, F32, F32, HD_SET, true, 2},    {31, 65, 2, F32, F32, HD_ADD, false, 2},  {2, 2048, 0, F32, F32, HD_SET, false, 2},
    {3, 512, 64, BF16, BF16, HD_ADD, false, 2}, {2, 7168, 0, BF16, BF16, HD_SET, false, 2}, {129, 49, 0, F32, BF16, HD_SET, false, 2},
    {5, 40, 0, F32, F32, HD_SET, false, 2e-4}, {3, 24, 0, BF16, F32, HD_ADD, false, 2e-30}, /* eps counts, then it is all */
};
static const int n_rows = sizeof rows / sizeof rows[0];

static const double eps = 1e-6;

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " D=%" PRId64 " pad=%" PRId64 " %s/%s %s%s", op, r->n, r->d,
                   r->pad, hd_dtype_name(r->act), hd_dtype_name(r->weight), r->accum == HD_ADD ? "add" : "set",
                   r->frozen ? " frozen" : "");
}

/* ---- backends --------------------------------------------------------------------------------------------------------- */

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[1].t};
    return hd_rmsnorm_fwd(ex, &c->s[0].t, &w, eps, &c->s[2].t, c->n > 3 ? &c->s[3].t : NULL, err);
}

/* rho: a sum of D squares, a root; y: two more products, in bf16 one more rounding. */
static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_fwd};
        name_case(&c, "rmsnorm_fwd", r);
        normal(&c, add_slot(&c, "x", IN, r->act, HD_SHAPE(r->n, r->d)), r->x_scale)->pad = r->pad;
        normal(&c, add_slot(&c, "w", IN, r->weight, HD_SHAPE(r->d)), 1.0);
        slot *y = add_slot(&c, "y", OUT, r->act, HD_SHAPE(r->n, r->d));
        y->pad = r->pad;
        y->alias = 0;
        double k = ((double)r->d / 2 + 6) * HD_U_F32;
        y->factor = k + (r->act == BF16 ? HD_U_BF16 : 0.0);
        if (!r->frozen) { add_slot(&c, "rstd", OUT, F32, HD_SHAPE(r->n))->factor = k; }
        run_reference(&c);
        check_op(&c, "rmsnorm_fwd");
    }
    print_ratios();
}

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[3].t, .grad_accum = c->accum};
    if (c->n > 5) { w.grad = c->s[5].t; }
    hd_status st = hd_rmsnorm_bwd(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, &w, c->accum, &c->s[4].t, err);
    if (st == HD_OK) { assert_int_equal(w.grad_accum, HD_ADD); }
    return st;
}

/* scale: rho (|g| + |x| rho^2 mean |g x|), plus what dx held. */
static void set_bwd_scales(opcase *c, const row *r)
{
    const double *dy = c->s[0].values, *x = c->s[1].values, *rstd = c->s[2].values, *w = c->s[3].values;
    slot *dx = &c->s[4], *dw = r->frozen ? NULL : &c->s[5];
    scale_alloc(dx);
    if (dw != NULL) { scale_alloc(dw); }
    for (int64_t i = 0; i < r->n; i++) {
        double mean = 0.0;
        for (int64_t d = 0; d < r->d; d++) { mean += fabs(dy[i * r->d + d] * w[d] * x[i * r->d + d]) / (double)r->d; }
        for (int64_t d = 0; d < r->d; d++) {
            int64_t at = i * r->d + d;
            dx->scale[at] = fabs(dx->values[at]) + rstd[i] * (fabs(dy[at] * w[d]) + fabs(x[at]) * rstd[i] * rstd[i] * mean);
            if (dw != NULL) { dw->scale[d] += fabs(dy[at] * x[at] * rstd[i]); }
        }
    }
    for (int64_t d = 0; dw != NULL && d < r->d; d++) { dw->scale[d] += fabs(dw->values[d]); }
    dx->factor = ((double)r->d + 8) * HD_U_F32;
    if (dw != NULL) { dw->factor = ((double)r->n + 4) * HD_U_F32; }
}

static void fill_rstd(slot *rstd, const slot *x)
{
    int64_t d = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        rstd->values[i] = round_to(F32, 1.0 / sqrt(dot(x->values + i * d, x->values + i * d, d) / (double)d + eps));
    }
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        role grad_role = r->accum == HD_ADD ? INOUT : OUT;
        opcase c = {.run = run_bwd, .accum = r->accum};
        name_case(&c, "rmsnorm_bwd", r);
        normal(&c, add_slot(&c, "dy", IN, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
        slot *x = normal(&c, add_slot(&c, "x", IN, r->act, HD_SHAPE(r->n, r->d)), r->x_scale);
        x->pad = r->pad;
        fill_rstd(add_slot(&c, "rstd", IN, F32, HD_SHAPE(r->n)), x);
        normal(&c, add_slot(&c, "w", IN, r->weight, HD_SHAPE(r->d)), 1.0);
        normal(&c, add_slot(&c, "dx", grad_role, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
        if (!r->frozen) { normal(&c, add_slot(&c, "w.grad", grad_role, F32, HD_SHAPE(r->d)), 1.0); }
        if (r->accum == HD_SET) {
            for (int s = 4; s < c.n; s++) { memset(c.s[s].values, 0, sizeof(double) * (size_t)slot_count(&c.s[s])); }
        }
        set_bwd_scales(&c, r);
        run_reference(&c);
        check_op(&c, "rmsnorm_bwd");
    }
    print_ratios();
}

/* ---- gradient ---------------------------------------------------------------------------------------------------------- */

enum { N = 3, D = 7 };

typedef struct fd { double x[N * D], w[D], c[N * D], y[N * D], rstd[N]; } fd;

static double loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(f->x, HD_SHAPE(N, D)), y = f64_tensor(f->y, HD_SHAPE(N, D)), rstd = f64_tensor(f->rstd, HD_SHAPE(N));
    hd_weight w = {.value = f64_tensor(f->w, HD_SHAPE(D))};
    assert_ok(hd_rmsnorm_fwd(&ex, &x, &w, eps, &y, &rstd, &err));
    return dot(f->y, f->c, N * D);
}

static void test_gradient(void **state)
{
    (void)state;
    fd f;
    double dx[N * D], dw[D];
    hd_err err;
    hd_gen_normal_f64("x", 1.0, f.x, N * D);
    hd_gen_normal_f64("w", 1.0, f.w, D);
    hd_gen_normal_f64("c", 1.0, f.c, N * D);
    (void)loss(&f);
    hd_exec ex = ref_exec();
    hd_tensor tdy = f64_tensor(f.c, HD_SHAPE(N, D)), tx = f64_tensor(f.x, HD_SHAPE(N, D)), trstd = f64_tensor(f.rstd, HD_SHAPE(N));
    hd_tensor tdx = f64_tensor(dx, HD_SHAPE(N, D));
    hd_weight w = {.value = f64_tensor(f.w, HD_SHAPE(D)), .grad = f64_tensor(dw, HD_SHAPE(D))};
    assert_ok(hd_rmsnorm_bwd(&ex, &tdy, &tx, &trstd, &w, HD_SET, &tdx, &err));
    fd_check("rmsnorm dx", loss, &f, f.x, dx, N * D);
    fd_check("rmsnorm dw", loss, &f, f.w, dw, D);
}

/* ---- the formula, and HuggingFace's rounding ----------------------------------------------------------------------------- */

/* x = (3, 4): the normalised 4 / sqrt(12.5) = 1.131371 is 1.1328125 in bf16; times w = 3 that gives 3.40625, whereas one
 * rounding at the end would give 3.390625. */
static void test_rounds_before_weight(void **state)
{
    (void)state;
    uint16_t x[2] = {hd_f32_to_bf16(3.0f), hd_f32_to_bf16(4.0f)}, y[2];
    float w[2] = {3.0f, 3.0f};
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        hd_tensor tx = f64_tensor(NULL, HD_SHAPE(1, 2)), tw = f64_tensor(NULL, HD_SHAPE(2));
        tx.dtype = HD_DTYPE_BF16;
        tw.dtype = HD_DTYPE_F32;
        hd_tensor ty = tx;
        tx.data = x;
        ty.data = y;
        tw.data = w;
        hd_weight weight = {.value = tw};
        assert_ok(hd_rmsnorm_fwd(&ex, &tx, &weight, 0.0, &ty, NULL, &err));
        assert_true(hd_bf16_to_f32(y[0]) == 2.546875f);
        assert_true(hd_bf16_to_f32(y[1]) == 3.40625f);
    }
}

static void test_eps(void **state)
{
    (void)state;
    double x[2] = {3e-3, 4e-3}, w[2] = {1.0, 2.0}, y[2], rstd[1];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor tx = f64_tensor(x, HD_SHAPE(1, 2)), ty = f64_tensor(y, HD_SHAPE(1, 2)), tr = f64_tensor(rstd, HD_SHAPE(1));
    hd_weight weight = {.value = f64_tensor(w, HD_SHAPE(2))};
    assert_ok(hd_rmsnorm_fwd(&ex, &tx, &weight, eps, &ty, &tr, &err));
    double want[2] = {3e-3 / sqrt(12.5e-6 + 1e-6), 2.0 * 4e-3 / sqrt(12.5e-6 + 1e-6)};
    hd_assert_abs_f64("rmsnorm by hand", y, want, 2, 1e-14);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fwd), cmocka_unit_test(test_bwd), cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_rounds_before_weight), cmocka_unit_test(test_eps),
    };
    return cmocka_run_group_tests_name("ops/rmsnorm", tests, NULL, NULL);
}
