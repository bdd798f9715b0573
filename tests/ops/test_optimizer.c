/* The optimiser: sum of squares, the gate of a step, AdamW against a direct reading, and that a skipped step writes nothing. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16
#define F64 HD_DTYPE_F64

/* ---- sum of squares --------------------------------------------------------------------------------------------------------------- */

typedef struct row { int n_dim; int64_t shape[3], pad; hd_dtype grad, mu, value; bool alias; double decay; } row;

static const row rows[] = {
    {1, {0}, 0, F32, F32, F32, true, 0.1},      {1, {1}, 0, F32, F32, F32, true, 0.1},        {1, {1027}, 0, F32, BF16, BF16, false, 0.1},
    {2, {13, 33}, 3, F32, F32, BF16, false, 0}, {3, {3, 5, 17}, 2, F32, BF16, F32, true, 0.1}, {2, {3, 2048}, 0, F32, F32, F32, false, 0.1},
    {2, {1, 70001}, 0, F32, F32, BF16, false, 0.1},
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
    (void)snprintf(c->name, sizeof c->name, "%s (%" PRId64 ", %" PRId64 ", %" PRId64 ")[%d] pad=%" PRId64 " mu %s value %s%s", op, r->shape[0],
                   r->shape[1], r->shape[2], r->n_dim, r->pad, hd_dtype_name(r->mu), hd_dtype_name(r->value), r->alias ? " aliased" : "");
}

static hd_status run_sumsq(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_sumsq(ex, &c->s[0].t, &c->s[1].t, err);
}

/* In f64 over fixed chunks: n roundings of 2^-53 at most. */
static void test_sumsq(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_rows; i++) {
        const row *r = &rows[i / 2];
        opcase c = {.run = run_sumsq};
        name_case(&c, "sumsq", r);
        slot *x = add_shaped(&c, "x", IN, i % 2 ? BF16 : F32, r), *total = add_slot(&c, "total", INOUT, F64, HD_SHAPE(1));
        x->free_axes = 7;
        total->values[0] = 0.5;
        total->factor = ((double)slot_count(x) + 4) * HD_U_F64;
        run_reference(&c);
        assert_true(fabs(total->want[0] - 0.5 - dot(x->values, x->values, slot_count(x))) <= 1e-12 * total->want[0]);
        hd_exec ex = ref_exec();
        for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
            place_all(&c, false);
            run_case(&c, &ex, c.name);
            compare_case(&c, ex.ops->name, "sumsq");
            if (isa > 0) { check_threads(&c, isa_forces[isa - 1]); }
        }
        opcase_free(&c);
    }
    print_ratios();
}

/* ---- the gate ------------------------------------------------------------------------------------------------------------------------ */

typedef struct gate { double sumsq, loss, window[16], control[HD_CONTROL_COUNT]; hd_gate_spec spec; } gate;

static void step(hd_exec *ex, gate *g, double norm, double loss)
{
    hd_err err;
    g->sumsq = norm * norm;
    g->loss = loss;
    hd_tensor sumsq = f64_tensor(&g->sumsq, HD_SHAPE(1)), tl = f64_tensor(&g->loss, HD_SHAPE(1)), control = f64_tensor(g->control, HD_SHAPE(HD_CONTROL_COUNT));
    hd_tensor window = f64_tensor(g->window, HD_SHAPE(2, g->spec.spike_interval > 0 ? g->spec.spike_interval : 1));
    assert_ok(hd_step_gate(ex, &g->spec, &sumsq, &tl, g->spec.spike_factor > 0 ? &window : NULL, &control, &err));
}

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-14 * fabs(want))) { fail_msg("got %.17g, want %.17g", got, want); }
}

static void clip_body(hd_exec *ex)
{
    gate g = {.spec = {.clip_threshold = 1.0, .beta1 = 0.9, .beta2 = 0.95}};
    g.control[HD_CONTROL_LR] = 0.125;
    step(ex, &g, 0.5, 3.0);
    assert_near(g.control[HD_CONTROL_NORM], 0.5);
    assert_near(g.control[HD_CONTROL_CLIP], 1.0);
    assert_near(g.control[HD_CONTROL_APPLY], 1.0);
    assert_near(g.control[HD_CONTROL_COUNT_APPLIED], 1.0);
    assert_near(g.control[HD_CONTROL_BIAS1], 1.0 - 0.9);
    step(ex, &g, 4.0, 3.0);
    assert_near(g.control[HD_CONTROL_CLIP], 0.25);
    assert_near(g.control[HD_CONTROL_BIAS1], 1.0 - 0.81);
    assert_near(g.control[HD_CONTROL_BIAS2], 1.0 - 0.9025);
    step(ex, &g, 1.0, 3.0); /* at the threshold: threshold / norm = 1 */
    assert_near(g.control[HD_CONTROL_CLIP], 1.0);
    assert_near(g.control[HD_CONTROL_LR], 0.125);
    g.spec.clip_threshold = 0.0;
    step(ex, &g, 100.0, 3.0);
    assert_near(g.control[HD_CONTROL_CLIP], 1.0);
    assert_near(g.control[HD_CONTROL_COUNT_APPLIED], 4.0);
}

static void nonfinite_body(hd_exec *ex)
{
    const double bad[3] = {(double)NAN, HUGE_VAL, -HUGE_VAL};
    for (int i = 0; i < 6; i++) {
        gate g = {.spec = {.clip_threshold = 1.0, .beta1 = 0.9, .beta2 = 0.95, .spike_factor = 3.0, .spike_interval = 8}};
        step(ex, &g, 1.0, 1.0);
        step(ex, &g, i < 3 ? bad[i] : 1.0, i < 3 ? 1.0 : bad[i - 3]);
        assert_near(g.control[HD_CONTROL_APPLY], 0.0);
        assert_near(g.control[HD_CONTROL_COUNT_APPLIED], 1.0);
        assert_near(g.control[HD_CONTROL_BIAS1], 1.0 - 0.9);
        assert_near(g.control[HD_CONTROL_WINDOW_N], 1.0); /* the window takes finite values only */
        assert_near(g.window[1], 0.0);
    }
}

/* Window of 6, factor 2: from max(2, 3) = 3 values on, a step skips when it exceeds mean + 2 unbiased deviations. */
static void spike_body(hd_exec *ex)
{
    gate g = {.spec = {.beta1 = 0.9, .beta2 = 0.95, .spike_factor = 2.0, .spike_interval = 6}};
    step(ex, &g, 1.0, 1.0);
    step(ex, &g, 1.0, 3.0);
    step(ex, &g, 1.0, 50.0); /* two values seen: too early to judge */
    assert_near(g.control[HD_CONTROL_APPLY], 1.0);
    /* losses 1, 3, 50: mean 18, deviation sqrt(((17)^2 + 15^2 + 32^2) / 2) = 27.7308 -> bound 73.46 */
    step(ex, &g, 1.0, 73.4);
    assert_near(g.control[HD_CONTROL_APPLY], 1.0);
    g.control[HD_CONTROL_WINDOW_N] = 3; /* again, a little higher */
    step(ex, &g, 1.0, 73.5);
    assert_near(g.control[HD_CONTROL_APPLY], 0.0);
    assert_near(g.control[HD_CONTROL_WINDOW_N], 4.0); /* a skipped value enters the window */
    assert_near(g.window[3], 73.5);
    assert_near(g.control[HD_CONTROL_COUNT_APPLIED], 4.0);
    /* norms 1, 1, 1, 1 have deviation 0: any larger norm is a spike, a lower one is not */
    step(ex, &g, 1.001, 1.0);
    assert_near(g.control[HD_CONTROL_APPLY], 0.0);
    step(ex, &g, 0.5, 1.0);
    assert_near(g.control[HD_CONTROL_APPLY], 1.0);
    step(ex, &g, 0.5, 2.0); /* value number 7 takes the place of number 1 */
    assert_near(g.control[HD_CONTROL_WINDOW_N], 7.0);
    assert_near(g.window[0], 2.0);
    assert_near(g.window[6], 0.5);
    assert_near(g.window[1], 3.0);
}

static void each_backend(void (*body)(hd_exec *ex))
{
    hd_exec ex = ref_exec();
    body(&ex);
    for (int isa = 0; next_cpu(&isa, 2, &ex);) { body(&ex); }
}

static void test_gate(void **state)
{
    (void)state;
    each_backend(clip_body);
    each_backend(nonfinite_body);
    each_backend(spike_body);
    hd_err err;
    hd_exec ex = ref_exec();
    gate g = {.spec = {.spike_factor = 1.0, .spike_interval = 4}};
    hd_tensor one = f64_tensor(&g.sumsq, HD_SHAPE(1)), two = f64_tensor(&g.loss, HD_SHAPE(1)), control = f64_tensor(g.control, HD_SHAPE(HD_CONTROL_COUNT));
    assert_fails(hd_step_gate(&ex, &g.spec, &one, &two, NULL, &control, &err), HD_E_INVALID, "window is missing");
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------------------------------ */

static const hd_adamw_spec spec = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .eps_root = 1e-12, .weight_decay = 0.1};

typedef struct adam { hd_adamw_spec spec; bool alias; } adam;

static hd_status run_adamw(hd_exec *ex, opcase *c, hd_err *err)
{
    const adam *a = c->params;
    slot *s = c->s;
    return hd_adamw(ex, &a->spec, &s[0].t, &s[1].t, &s[2].t, &s[3].t, &s[4].t, a->alias ? &s[2].t : &s[5].t, err);
}

static void fill_control(slot *control, double apply)
{
    static const double values[HD_CONTROL_COUNT] = {[HD_CONTROL_LR] = 3e-3, [HD_CONTROL_CLIP] = 0.7, [HD_CONTROL_COUNT_APPLIED] = 3,
                                                    [HD_CONTROL_BIAS1] = 1 - 0.729, [HD_CONTROL_BIAS2] = 1 - 0.857375};
    memcpy(control->values, values, sizeof values);
    control->values[HD_CONTROL_APPLY] = apply;
}

/* Wanted values by the text of ops.h, into want and scale of each output. */
static void adamw_directly(opcase *c, const hd_adamw_spec *a)
{
    slot *p = &c->s[2], *mu = &c->s[3], *nu = &c->s[4], *value = &c->s[5];
    for (int i = 2; i < 6; i++) { scale_alloc(&c->s[i]); }
    for (int64_t i = 0; i < slot_count(p); i++) {
        double g = c->s[1].values[i] * 0.7, m = a->beta1 * mu->values[i] + (1 - a->beta1) * g;
        double v = a->beta2 * nu->values[i] + (1 - a->beta2) * g * g;
        double update = (m / 0.271) / (sqrt(v / 0.142625 + a->eps_root) + a->eps) + a->weight_decay * p->values[i];
        mu->want[i] = m, nu->want[i] = v;
        p->want[i] = value->want[i] = p->values[i] - 3e-3 * update;
        mu->scale[i] = fabs(0.9 * mu->values[i]) + fabs(0.1 * g);
        nu->scale[i] = v;
        double relative = mu->scale[i] / 0.271 / sqrt(v / 0.142625) + fabs(a->weight_decay * p->values[i]);
        p->scale[i] = value->scale[i] = 3e-3 * relative + fabs(p->values[i]) / 8;
    }
    mu->factor = 4 * HD_U_F32;
    nu->factor = 6 * HD_U_F32;
    p->factor = value->factor = 16 * HD_U_F32;
}

static opcase adamw_case(const row *r, const adam *a, double apply)
{
    opcase c = {.run = run_adamw, .params = a};
    name_case(&c, apply != 0 ? "adamw" : "adamw skipped", r);
    fill_control(add_slot(&c, "control", IN, F64, HD_SHAPE(HD_CONTROL_COUNT)), apply);
    add_shaped(&c, "grad", IN, r->grad, r);
    add_shaped(&c, "master", INOUT, F32, r);
    add_shaped(&c, "mu", INOUT, r->mu, r);
    slot *nu = add_shaped(&c, "nu", INOUT, F32, r);
    for (int64_t i = 0; i < slot_count(nu); i++) { nu->values[i] = fabs(nu->values[i]); }
    add_shaped(&c, "value", INOUT, a->alias ? F32 : r->value, r)->alias = 2;
    return c;
}

static void test_adamw(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        adam a = {spec, r->alias};
        a.spec.weight_decay = r->decay;
        opcase c = adamw_case(r, &a, 1.0);
        run_reference(&c);
        double kept[4] = {0};
        for (int s = 2; s < 6 && slot_count(&c.s[2]) > 0; s++) { kept[s - 2] = c.s[s].want[0]; }
        adamw_directly(&c, &a.spec);
        for (int s = 2; s < 5 && slot_count(&c.s[2]) > 0; s++) {
            if (!(fabs(kept[s - 2] - c.s[s].want[0]) <= 1e-9)) { fail_msg("%s: %s[0] = %.15g by the reference, %.15g directly", c.name, c.s[s].name, kept[s - 2], c.s[s].want[0]); }
        }
        if (r->alias) { /* f32 weights are their own master: one slot less */
            free(c.s[5].values), free(c.s[5].want), free(c.s[5].scale);
            slot_release(&c.s[5]);
            c.n = 5;
        }
        check_op(&c, "adamw");
    }
    print_ratios();
}

/* APPLY = 0: not a byte changes, gradients of NaN or not. */
static void test_adamw_skips(void **state)
{
    (void)state;
    adam a = {spec, false};
    opcase c = adamw_case(&rows[3], &a, 0.0);
    for (int64_t i = 0; i < slot_count(&c.s[1]); i++) { c.s[1].values[i] = (double)NAN; }
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 2, &ex)) {
        place_all(&c, false);
        run_case(&c, &ex, c.name);
        for (int s = 0; s < c.n; s++) { assert_memory_equal(c.s[s].memory, c.s[s].before, c.s[s].bytes); }
    }
    opcase_free(&c);
}

/* The update uses m before it is rounded to bf16: twice the same gradient from zero moments moves p by exactly lr (no eps). */
static void test_adamw_first_step(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 1, &ex)) {
        double control[HD_CONTROL_COUNT] = {[HD_CONTROL_LR] = 0.25, [HD_CONTROL_CLIP] = 1, [HD_CONTROL_APPLY] = 1, [HD_CONTROL_BIAS1] = 1 - 0.9, [HD_CONTROL_BIAS2] = 1 - 0.95};
        float g[2] = {3.3f, -0.0123f}, p[2] = {1, 1}, nu[2] = {0, 0};
        uint16_t mu[2] = {0, 0}, value[2];
        hd_adamw_spec plain = {.beta1 = 0.9, .beta2 = 0.95};
        hd_tensor tc = f64_tensor(control, HD_SHAPE(HD_CONTROL_COUNT)), tg = f64_tensor(NULL, HD_SHAPE(2));
        tg.dtype = F32;
        hd_tensor tp = tg, tn = tg, tm = tg, tv = tg;
        tm.dtype = tv.dtype = BF16;
        tg.data = g, tp.data = p, tn.data = nu, tm.data = mu, tv.data = value;
        assert_ok(hd_adamw(&ex, &plain, &tc, &tg, &tp, &tm, &tn, &tv, &err));
        hd_assert_abs_f32("first step of Adam", p, ((float[]){0.75f, 1.25f}), 2, 4e-7);
        assert_true(hd_bf16_to_f32(value[0]) == 0.75f && hd_bf16_to_f32(value[1]) == 1.25f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sumsq), cmocka_unit_test(test_gate), cmocka_unit_test(test_adamw), cmocka_unit_test(test_adamw_skips),
        cmocka_unit_test(test_adamw_first_step),
    };
    return cmocka_run_group_tests_name("ops/optimizer", tests, NULL, NULL);
}
