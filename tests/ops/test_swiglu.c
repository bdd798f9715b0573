/* SwiGLU, its adjoint, and its adjoint inside a weighted expert. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

typedef struct row { int64_t n, f, pad; hd_dtype gate, act; int64_t limit; } row; /* limit: n_rows, -1 when absent */

static const row rows[] = {
    {0, 5, 0, F32, F32, -1},     {1, 1, 0, F32, F32, -1},    {3, 7, 2, F32, F32, 2},     {5, 17, 1, BF16, BF16, -1},
    {9, 33, 3, F32, BF16, 9},    {65, 48, 0, BF16, BF16, 40}, {4, 1408, 8, BF16, BF16, 3}, {7, 0, 0, F32, F32, -1},
    {13, 65, 5, F32, F32, 0},    {2, 2048, 0, F32, F32, -1}, {31, 16, 0, BF16, F32, 17},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static double sigmoid(double g)
{
    return 1.0 / (1.0 + exp(-g));
}

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " F=%" PRId64 " pad=%" PRId64 " %s/%s rows %" PRId64, op, r->n, r->f,
                   r->pad, hd_dtype_name(r->gate), hd_dtype_name(r->act), r->limit);
}

static slot *add_matrix(opcase *c, const char *name, role ro, hd_dtype dtype, const row *r, double scale)
{
    slot *s = normal(c, add_slot(c, name, ro, dtype, HD_SHAPE(r->n, r->f)), scale);
    s->pad = r->pad;
    return s;
}

static void add_limit(opcase *c, const row *r)
{
    if (r->limit >= 0) { add_slot(c, "n_rows", IN, HD_DTYPE_I32, HD_SHAPE(1))->values[0] = (double)r->limit; }
}

/* ---- forward ------------------------------------------------------------------------------------------------------------ */

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    bool limited = ((const row *)c->params)->limit >= 0;
    return hd_swiglu_fwd(ex, &c->s[0].t, &c->s[1].t, limited ? &c->s[3].t : NULL, &c->s[2].t, err);
}

/* An exponential to 2 u, a sum, a quotient, two products; gates up to 4 standard deviations of 3. */
static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        for (int alias = 0; alias < 2; alias++) {
            opcase c = {.run = run_fwd, .params = r};
            name_case(&c, "swiglu_fwd", r);
            add_matrix(&c, "g", IN, r->gate, r, 3.0);
            add_matrix(&c, "u", IN, r->gate, r, 1.0);
            slot *h = add_matrix(&c, "h", OUT, r->act, r, 0.0);
            h->alias = alias;
            h->factor = 8 * HD_U_F32;
            add_limit(&c, r);
            run_reference(&c);
            /* the other permitted alias is not a refusal; look at it in its own round */
            c.s[1 - alias].alias = 2;
            check_op(&c, "swiglu_fwd");
        }
    }
    print_ratios();
}

/* ---- backward ------------------------------------------------------------------------------------------------------------- */

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_swiglu_bwd(ex, &c->s[2].t, &c->s[0].t, &c->s[1].t, &c->s[3].t, &c->s[4].t, err);
}

/* dg = dh u sg (1 + g (1 - sg)): the bracket cancels near g = -1.28. */
static void set_gradient_scales(slot *dg, slot *du, const double *dh, const double *g, const double *u)
{
    scale_alloc(dg);
    scale_alloc(du);
    for (int64_t i = 0; i < slot_count(dg); i++) {
        double sg = sigmoid(g[i]);
        dg->scale[i] = fabs(dh[i] * u[i]) * sg * (1.0 + fabs(g[i]) * (1.0 - sg));
        du->scale[i] = fabs(dh[i] * g[i]) * sg;
    }
    dg->factor = du->factor = 12 * HD_U_F32;
}

/* dg and du may lie on g and u, either way round, so both inputs must be read before either output is written. */
static void check_bwd(const row *r, bool crossed)
{
    opcase c = {.run = run_bwd, .params = r};
    name_case(&c, "swiglu_bwd", r);
    slot *g = add_matrix(&c, "g", IN, r->gate, r, 3.0);
    slot *u = add_matrix(&c, "u", IN, r->gate, r, 1.0);
    slot *dh = add_matrix(&c, "dh", IN, r->act, r, 1.0);
    slot *dg = add_matrix(&c, "dg", OUT, r->gate, r, 0.0), *du = add_matrix(&c, "du", OUT, r->gate, r, 0.0);
    dg->alias = crossed ? 1 : 0;
    du->alias = crossed ? 0 : 1;
    g->alias = crossed ? 3 : 4; /* the pairs that are permitted and not tried in this round */
    u->alias = crossed ? 4 : 3;
    set_gradient_scales(dg, du, dh->values, g->values, u->values);
    run_reference(&c);
    check_op(&c, "swiglu_bwd");
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        if (rows[i].limit >= 0) { continue; }
        check_bwd(&rows[i], false);
        check_bwd(&rows[i], true);
    }
    print_ratios();
}

static hd_status run_moe_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    bool limited = ((const row *)c->params)->limit >= 0;
    slot *s = c->s;
    return hd_moe_swiglu_bwd(ex, &s[0].t, &s[1].t, &s[2].t, &s[3].t, limited ? &s[8].t : NULL, &s[4].t, &s[5].t, &s[6].t, &s[7].t, err);
}

static void set_expert_scales(opcase *c, const row *r)
{
    const double *q = c->s[0].values, *g = c->s[1].values, *u = c->s[2].values, *w = c->s[3].values;
    slot *hw = &c->s[6], *dw = &c->s[7];
    double *dh = calloc((size_t)(r->n * r->f + 1), sizeof(double));
    scale_alloc(hw);
    scale_alloc(dw);
    for (int64_t i = 0; i < r->n * r->f; i++) {
        int64_t at = i / r->f;
        double h = fabs(g[i] * u[i]) * sigmoid(g[i]);
        dh[i] = w[at] * q[i];
        hw->scale[i] = fabs(w[at]) * h;
        dw->scale[at] += fabs(q[i]) * h;
    }
    set_gradient_scales(&c->s[4], &c->s[5], dh, g, u);
    hw->factor = 12 * HD_U_F32;
    dw->factor = ((double)r->f + 12) * HD_U_F32;
    free(dh);
}

static void test_moe_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_moe_bwd, .params = r};
        name_case(&c, "moe_swiglu_bwd", r);
        add_matrix(&c, "q", IN, r->act, r, 1.0);
        add_matrix(&c, "g", IN, r->gate, r, 3.0);
        add_matrix(&c, "u", IN, r->gate, r, 1.0);
        normal(&c, add_slot(&c, "w", IN, F32, HD_SHAPE(r->n)), 0.5);
        add_matrix(&c, "dg", OUT, r->gate, r, 0.0)->alias = 1;
        add_matrix(&c, "du", OUT, r->gate, r, 0.0)->alias = 2;
        add_matrix(&c, "hw", OUT, r->act, r, 0.0)->alias = 0;
        add_slot(&c, "dw", OUT, F32, HD_SHAPE(r->n));
        add_limit(&c, r);
        set_expert_scales(&c, r);
        run_reference(&c);
        check_op(&c, "moe_swiglu_bwd");
    }
    print_ratios();
}

/* ---- gradients --------------------------------------------------------------------------------------------------------------- */

enum { N = 3, F = 5 };

typedef struct fd { double g[N * F], u[N * F], w[N], h[N * F], c[N * F]; } fd;

/* sum_i w_i (c_i . h_i): with w = 1 the loss of a plain SwiGLU. */
static double loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor g = f64_tensor(f->g, HD_SHAPE(N, F)), u = f64_tensor(f->u, HD_SHAPE(N, F)), h = f64_tensor(f->h, HD_SHAPE(N, F));
    assert_ok(hd_swiglu_fwd(&ex, &g, &u, NULL, &h, &err));
    double sum = 0.0;
    for (int i = 0; i < N; i++) { sum += f->w[i] * dot(f->c + i * F, f->h + i * F, F); }
    return sum;
}

static void test_gradient(void **state)
{
    (void)state;
    fd f = {.w = {1, 1, 1}};
    double dg[N * F], du[N * F];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("g", 2.0, f.g, N * F);
    hd_gen_normal_f64("u", 1.0, f.u, N * F);
    hd_gen_normal_f64("c", 1.0, f.c, N * F);
    hd_tensor g = f64_tensor(f.g, HD_SHAPE(N, F)), u = f64_tensor(f.u, HD_SHAPE(N, F)), dh = f64_tensor(f.c, HD_SHAPE(N, F));
    hd_tensor tdg = f64_tensor(dg, HD_SHAPE(N, F)), tdu = f64_tensor(du, HD_SHAPE(N, F));
    assert_ok(hd_swiglu_bwd(&ex, &dh, &g, &u, &tdg, &tdu, &err));
    fd_check("swiglu dg", loss, &f, f.g, dg, N * F);
    fd_check("swiglu du", loss, &f, f.u, du, N * F);
}

static void test_moe_gradient(void **state)
{
    (void)state;
    fd f = {.w = {0.7, -0.2, 1.9}};
    double dg[N * F], du[N * F], hw[N * F], dw[N];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("g", 2.0, f.g, N * F);
    hd_gen_normal_f64("u", 1.0, f.u, N * F);
    hd_gen_normal_f64("c", 1.0, f.c, N * F);
    hd_tensor g = f64_tensor(f.g, HD_SHAPE(N, F)), u = f64_tensor(f.u, HD_SHAPE(N, F)), q = f64_tensor(f.c, HD_SHAPE(N, F));
    hd_tensor w = f64_tensor(f.w, HD_SHAPE(N)), tdg = f64_tensor(dg, HD_SHAPE(N, F)), tdu = f64_tensor(du, HD_SHAPE(N, F));
    hd_tensor thw = f64_tensor(hw, HD_SHAPE(N, F)), tdw = f64_tensor(dw, HD_SHAPE(N));
    assert_ok(hd_moe_swiglu_bwd(&ex, &q, &g, &u, &w, NULL, &tdg, &tdu, &thw, &tdw, &err));
    fd_check("moe_swiglu dg", loss, &f, f.g, dg, N * F);
    fd_check("moe_swiglu du", loss, &f, f.u, du, N * F);
    fd_check("moe_swiglu dw", loss, &f, f.w, dw, N);
    for (int i = 0; i < N * F; i++) { assert_true(hw[i] == f.w[i / F] * f.h[i]); }
}

/* silu at its limits: no NaN from exp overflow. */
static void test_extremes(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        float g[6] = {-1000, -104, -88, 0, 88, 1000}, u[6] = {2, 2, 2, 2, 2, 2}, h[6];
        hd_tensor tg = f64_tensor(NULL, HD_SHAPE(1, 6)), tu, th;
        tg.dtype = F32;
        tu = th = tg;
        tg.data = g, tu.data = u, th.data = h;
        assert_ok(hd_swiglu_fwd(&ex, &tg, &tu, NULL, &th, &err));
        hd_assert_abs_f32("silu far out", h, ((float[]){0, 0, 0, 0, 176, 2000}), 6, 1e-4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fwd),      cmocka_unit_test(test_bwd),      cmocka_unit_test(test_moe_bwd),
        cmocka_unit_test(test_gradient), cmocka_unit_test(test_moe_gradient), cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests_name("ops/swiglu", tests, NULL, NULL);
}
