/* Cross-entropy with z-loss: each piece on every backend, any split of the vocabulary, gradients. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define F64 HD_DTYPE_F64

typedef struct row { int64_t n, v, pad, v_begin; double spread, z_loss; } row;

static const row rows[] = {
    {0, 5, 0, 0, 1, 0},      {1, 1, 0, 0, 1, 1e-4},   {3, 7, 1, 0, 1, 1e-2},  {5, 17, 0, 17, 2, 0},   {7, 33, 2, 5, 3, 1e-4},
    {13, 65, 0, 1000, 1, 0}, {2, 1021, 0, 0, 5, 1e-3}, {65, 49, 3, 0, 1, 1e-4}, {3, 12800, 0, 0, 2, 1e-4}, {4, 0, 0, 3, 1, 0},
    {31, 64, 0, 32, 20, 0},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " V=%" PRId64 " from %" PRId64 " pad=%" PRId64 " spread %g zeta %g", op, r->n, r->v,
                   r->v_begin, r->pad, r->spread, r->z_loss);
}

/* Every third target lies outside the chunk. */
static slot *add_targets(opcase *c, const row *r)
{
    slot *s = add_slot(c, "targets", IN, HD_DTYPE_I32, HD_SHAPE(r->n));
    for (int64_t i = 0; i < r->n; i++) {
        s->values[i] = (double)(i % 3 == 2 || r->v == 0 ? r->v_begin + r->v + i : r->v_begin + i * 7 % r->v);
    }
    return s;
}

static slot *add_logits(opcase *c, const row *r)
{
    slot *s = normal(c, add_slot(c, "logits", IN, F32, HD_SHAPE(r->n, r->v)), r->spread);
    s->pad = r->pad;
    return s;
}

/* ---- partial ------------------------------------------------------------------------------------------------------------------------- */

static hd_status run_partial(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_xent_partial(ex, &c->s[0].t, &c->s[1].t, ((const row *)c->params)->v_begin, &c->s[2].t, &c->s[3].t, &c->s[4].t, err);
}

/* max and target are exact; the sum of V exponentials of differences up to 10 spreads. */
static void test_partial(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_partial, .params = r};
        name_case(&c, "xent_partial", r);
        add_logits(&c, r)->free_axes = 2;
        add_targets(&c, r);
        add_slot(&c, "max", OUT, F32, HD_SHAPE(r->n));
        add_slot(&c, "sum", OUT, F32, HD_SHAPE(r->n))->factor = ((double)r->v + 8 + 12 * r->spread) * HD_U_F32;
        add_slot(&c, "target_logit", OUT, F32, HD_SHAPE(r->n));
        run_reference(&c);
        check_op(&c, "xent_partial");
    }
    print_ratios();
}

/* ---- merge, finish ----------------------------------------------------------------------------------------------------------------------- */

static hd_status run_merge(hd_exec *ex, opcase *c, hd_err *err)
{
    slot *s = c->s;
    return hd_xent_merge(ex, &s[0].t, &s[1].t, &s[2].t, &s[3].t, &s[4].t, &s[5].t, err);
}

static void test_merge(void **state)
{
    (void)state;
    enum { CASES = 6, N = CASES };
    const double inf = HUGE_VAL;
    /* chunk and running: below, above, equal, empty chunk, nothing yet, both empty */
    const double max[N] = {1, 5, 2, -inf, 3, -inf}, sum[N] = {3, 2, 4, 0, 7, 0}, target[N] = {-inf, 2, -inf, -inf, 3, -inf};
    const double run_max[N] = {4, -2, 2, 1, -inf, -inf}, run_sum[N] = {2, 8, 5, 2, 0, 0}, run_target[N] = {1, -inf, -inf, 0.5, -inf, -inf};
    opcase c = {.run = run_merge, .name = "xent_merge"};
    const double *values[6] = {max, sum, target, run_max, run_sum, run_target};
    static const char *const names[6] = {"max", "sum", "target_logit", "run_max", "run_sum", "run_target_logit"};
    for (int i = 0; i < 6; i++) {
        slot *s = add_slot(&c, names[i], i < 3 ? IN : INOUT, F32, HD_SHAPE(N));
        memcpy(s->values, values[i], sizeof(double) * N);
        s->factor = 8 * HD_U_F32;
    }
    run_reference(&c);
    const double want[3][N] = {{4, 5, 2, 1, 3, -inf},
                               {2 + 3 * exp(-3), 2 + 8 * exp(-7), 9, 2, 7, 0},
                               {1, 2, -inf, 0.5, 3, -inf}};
    for (int i = 0; i < 3; i++) { hd_assert_abs_f64(names[3 + i], c.s[3 + i].want, want[i], N, 1e-14); }
    check_op(&c, "xent_merge");
    print_ratios();
}

static hd_status run_finish(hd_exec *ex, opcase *c, hd_err *err)
{
    slot *s = c->s;
    return hd_xent_finish(ex, &s[0].t, &s[1].t, &s[2].t, &s[3].t, ((const row *)c->params)->z_loss, &s[4].t, &s[5].t, &s[6].t, err);
}

/* lse = max + ln sum, one logarithm and a sum; the metrics add n of them in f64. */
static void test_finish(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_finish, .params = r};
        name_case(&c, "xent_finish", r);
        slot *max = normal(&c, add_slot(&c, "run_max", IN, F32, HD_SHAPE(r->n)), r->spread);
        slot *sum = normal(&c, add_slot(&c, "run_sum", IN, F32, HD_SHAPE(r->n)), 1.0);
        slot *target = normal(&c, add_slot(&c, "run_target_logit", IN, F32, HD_SHAPE(r->n)), r->spread);
        slot *w = normal(&c, add_slot(&c, "weights", IN, F32, HD_SHAPE(r->n)), 1.0);
        slot *lse = add_slot(&c, "lse", OUT, F32, HD_SHAPE(r->n)), *xent = add_slot(&c, "xent", INOUT, F64, HD_SHAPE(1)), *z = add_slot(&c, "z", INOUT, F64, HD_SHAPE(1));
        xent->values[0] = 3.0, z->values[0] = 5.0;
        scale_alloc(lse), scale_alloc(xent), scale_alloc(z);
        for (int64_t j = 0; j < r->n; j++) {
            sum->values[j] = round_to(F32, 1.0 + fabs(sum->values[j]) * 100);
            if (j % 4 == 3) { w->values[j] = 0.0; }
            double l = fabs(max->values[j]) + log(sum->values[j]);
            lse->scale[j] = l;
            xent->scale[0] += fabs(w->values[j]) * (l + fabs(target->values[j]));
            z->scale[0] += fabs(w->values[j]) * r->z_loss * l * l;
        }
        lse->factor = xent->factor = 6 * HD_U_F32;
        z->factor = 12 * HD_U_F32;
        if (r->n > 3) { max->values[3] = sum->values[3] = target->values[3] = (double)NAN; } /* weight 0: whatever it holds */
        run_reference(&c);
        assert_true(hd_finite_f64(xent->want[0]) && hd_finite_f64(z->want[0]));
        if (r->n > 3) { max->values[3] = sum->values[3] = target->values[3] = 1.0; } /* lse itself is compared without NaN */
        run_reference(&c);
        check_op(&c, "xent_finish");
    }
    print_ratios();
}

/* ---- backward ---------------------------------------------------------------------------------------------------------------------------- */

static const double bwd_scale = 0.03125;

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    slot *s = c->s;
    return hd_xent_bwd(ex, &s[0].t, &s[1].t, r->v_begin, &s[2].t, &s[3].t, r->z_loss, bwd_scale, &s[4].t, err);
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_bwd, .params = r};
        name_case(&c, "xent_bwd", r);
        slot *logits = add_logits(&c, r), *targets = add_targets(&c, r), *lse = add_slot(&c, "lse", IN, F32, HD_SHAPE(r->n));
        slot *w = normal(&c, add_slot(&c, "weights", IN, F32, HD_SHAPE(r->n)), 1.0), *d = add_slot(&c, "dlogits", OUT, F32, HD_SHAPE(r->n, r->v));
        d->pad = r->pad;
        d->alias = 0;
        scale_alloc(d);
        double largest = 0;
        for (int64_t j = 0; j < r->n; j++) {
            const double *zj = logits->values + j * r->v;
            double sum = 1;
            for (int64_t v = 0; v < r->v; v++) { sum += exp(zj[v]); }
            lse->values[j] = round_to(F32, log(sum));
            if (j % 4 == 1) { w->values[j] = 0.0; }
            for (int64_t v = 0; v < r->v; v++) {
                double p = exp(zj[v] - lse->values[j]) * (1 + 2 * r->z_loss * fabs(lse->values[j]));
                d->scale[j * r->v + v] = (p + (targets->values[j] - (double)r->v_begin == (double)v)) * fabs(w->values[j]) * bwd_scale;
                largest = fmax(largest, fabs(zj[v] - lse->values[j]));
            }
        }
        d->factor = (10 + largest) * HD_U_F32;
        run_reference(&c);
        check_op(&c, "xent_bwd");
    }
    print_ratios();
}

/* A row of weight 0 receives exactly 0, whatever its logits hold. */
static void test_weightless_row(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        float nan = (float)NAN, logits[6] = {nan, nan, nan, 1, 2, 3}, lse[2] = {nan, 3.4076059f}, w[2] = {0, 1}, max[2] = {nan, 3}, sum[2] = {nan, 1.5032147f}, t[2] = {nan, 2};
        double xent = 0, z = 0;
        int32_t targets[2] = {0, 1};
        hd_tensor tl = f64_tensor(NULL, HD_SHAPE(2, 3)), tw = f64_tensor(NULL, HD_SHAPE(2)), ti = i32_tensor(targets, HD_SHAPE(2));
        tl.dtype = tw.dtype = F32;
        hd_tensor ts = tw, tm = tw, tsum = tw, tt = tw, tx = f64_tensor(&xent, HD_SHAPE(1)), tz = f64_tensor(&z, HD_SHAPE(1));
        tl.data = logits, tw.data = w, ts.data = lse, tm.data = max, tsum.data = sum, tt.data = t;
        assert_ok(hd_xent_finish(&ex, &tm, &tsum, &tt, &tw, 1e-4, &ts, &tx, &tz, &err));
        assert_true(fabs(xent - 1.4076059) < 1e-5 && fabs(z - 1e-4 * 3.4076059 * 3.4076059) < 1e-8);
        lse[0] = nan;
        assert_ok(hd_xent_bwd(&ex, &tl, &ti, 0, &ts, &tw, 0.0, 1.0, &tl, &err));
        hd_assert_same_bits("weightless row", logits, ((float[]){0, 0, 0}), 4, 3);
        hd_assert_abs_f32("the other", logits + 3, ((float[]){0.09003057f, 0.24472847f - 1, 0.66524096f}), 3, 1e-6);
    }
}

/* NaN in a row that counts reaches the metric. */
static void test_nan_shows(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        float logits[3] = {1, (float)NAN, 2}, max[1], sum[1], t[1], lse[1], w[1] = {1};
        double xent = 0, z = 0;
        int32_t targets[1] = {0};
        hd_tensor tl = f64_tensor(NULL, HD_SHAPE(1, 3)), tm = f64_tensor(NULL, HD_SHAPE(1)), ti = i32_tensor(targets, HD_SHAPE(1));
        tl.dtype = tm.dtype = F32;
        hd_tensor tsum = tm, tt = tm, ts = tm, tw = tm, tx = f64_tensor(&xent, HD_SHAPE(1)), tz = f64_tensor(&z, HD_SHAPE(1));
        tl.data = logits, tm.data = max, tsum.data = sum, tt.data = t, ts.data = lse, tw.data = w;
        assert_ok(hd_xent_partial(&ex, &tl, &ti, 0, &tm, &tsum, &tt, &err));
        assert_ok(hd_xent_finish(&ex, &tm, &tsum, &tt, &tw, 0.0, &ts, &tx, &tz, &err));
        assert_false(hd_finite_f64(xent));
    }
}

/* ---- gradient and splits -------------------------------------------------------------------------------------------------------------------- */

enum { N = 4, V = 9 };

typedef struct fd { double z[N * V], w[N], lse[N]; int32_t targets[N]; double zeta, scale; int64_t chunk; } fd;

static double loss(void *ctx)
{
    fd *f = ctx;
    double max[N], sum[N], t[N], run_max[N], run_sum[N], run_t[N], xent = 0, z = 0;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor all = f64_tensor(f->z, HD_SHAPE(N, V)), targets = i32_tensor(f->targets, HD_SHAPE(N)), w = f64_tensor(f->w, HD_SHAPE(N)), lse = f64_tensor(f->lse, HD_SHAPE(N));
    hd_tensor tm = f64_tensor(max, HD_SHAPE(N)), ts = f64_tensor(sum, HD_SHAPE(N)), tt = f64_tensor(t, HD_SHAPE(N)), tx = f64_tensor(&xent, HD_SHAPE(1)), tz = f64_tensor(&z, HD_SHAPE(1));
    hd_tensor rm = f64_tensor(run_max, HD_SHAPE(N)), rs = f64_tensor(run_sum, HD_SHAPE(N)), rt = f64_tensor(run_t, HD_SHAPE(N));
    for (int64_t v = 0; v < V; v += f->chunk) {
        hd_tensor part = hd_tensor_slice(&all, 1, v, v + f->chunk <= V ? f->chunk : V - v);
        assert_ok(hd_xent_partial(&ex, &part, &targets, v, v == 0 ? &rm : &tm, v == 0 ? &rs : &ts, v == 0 ? &rt : &tt, &err));
        if (v > 0) { assert_ok(hd_xent_merge(&ex, &tm, &ts, &tt, &rm, &rs, &rt, &err)); }
    }
    assert_ok(hd_xent_finish(&ex, &rm, &rs, &rt, &w, f->zeta, &lse, &tx, &tz, &err));
    return (xent + z) * f->scale;
}

static void test_gradient(void **state)
{
    (void)state;
    fd f = {.targets = {0, 8, 4, 4}, .w = {1, 0.5, 0, 2}, .zeta = 0.05, .scale = 0.25};
    double dz[N * V];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("z", 2.0, f.z, N * V);
    f.chunk = V;
    double whole = loss(&f);
    for (f.chunk = 1; f.chunk < V; f.chunk++) { assert_true(fabs(loss(&f) - whole) < 1e-14); }
    double direct = 0;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int v = 0; v < V; v++) { sum += exp(f.z[i * V + v]); }
        direct += f.w[i] * (log(sum) - f.z[i * V + f.targets[i]] + f.zeta * log(sum) * log(sum)) * f.scale;
    }
    assert_true(fabs(direct - whole) < 1e-13);
    for (f.chunk = 2; f.chunk <= V; f.chunk += 7) {
        hd_tensor all = f64_tensor(f.z, HD_SHAPE(N, V)), grad = f64_tensor(dz, HD_SHAPE(N, V)), targets = i32_tensor(f.targets, HD_SHAPE(N)), w = f64_tensor(f.w, HD_SHAPE(N)), lse = f64_tensor(f.lse, HD_SHAPE(N));
        (void)loss(&f); /* lse of the point itself, not of the last difference */
        for (int64_t v = 0; v < V; v += f.chunk) {
            int64_t width = v + f.chunk <= V ? f.chunk : V - v;
            hd_tensor part = hd_tensor_slice(&all, 1, v, width), dpart = hd_tensor_slice(&grad, 1, v, width);
            assert_ok(hd_xent_bwd(&ex, &part, &targets, v, &lse, &w, f.zeta, f.scale, &dpart, &err));
        }
        fd_check("cross-entropy dlogits", loss, &f, f.z, dz, N * V);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_partial), cmocka_unit_test(test_merge),          cmocka_unit_test(test_finish),
        cmocka_unit_test(test_bwd),     cmocka_unit_test(test_weightless_row), cmocka_unit_test(test_nan_shows),
        cmocka_unit_test(test_gradient),
    };
    return cmocka_run_group_tests_name("ops/cross_entropy", tests, NULL, NULL);
}
