/* What must not change a leaf's results, and what must add up: remat policies, threads, leaves, packing, weights, the plan, the
 * guard, and bf16 beside f32. */
#include "model/fixture.h"

static hd_dims mtp_dims(void)
{
    hd_dims d = tiny_dims();
    d.n_mtp = 2;
    return d;
}

static hd_model_options busy_options(void)
{
    hd_model_options o = f32_options();
    o.balance_loss_weight = 0.01;
    o.z_loss_multiplier = 1e-3;
    o.capacity_factor = 1.0;
    o.row_chunk = 17;
    return o;
}

/* Gradients and metrics of one leaf. */
typedef struct result { float *grads; double *metrics; int64_t n_grad, n_metric; } result;

static result run_on(const hd_dims *d, const hd_model_options *o, const rows *x, int n_threads)
{
    rig g;
    rig_open_on(&g, d, o, x, n_threads, false);
    rig_roughen(&g);
    rig_train(&g);
    result r = {.n_grad = n_grads(&g), .n_metric = hd_model_n_metric(&g.model)};
    r.grads = floats_of(&g, &g.model.grad_flat);
    r.metrics = malloc(sizeof *r.metrics * (size_t)r.n_metric);
    read_tensor(&g, &g.metrics, r.metrics);
    rig_close(&g);
    return r;
}

static void free_result(result *r)
{
    free(r->grads);
    free(r->metrics);
}

static void assert_same(const char *what, const result *a, const result *b)
{
    hd_assert_same_bits(what, a->grads, b->grads, sizeof *a->grads, a->n_grad);
    hd_assert_same_bits(what, a->metrics, b->metrics, sizeof *a->metrics, a->n_metric);
}

/* ---- remat ------------------------------------------------------------------------------------------------------------------- */

static void remat_with(hd_moe_strategy strategy, hd_dtype dtype)
{
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    o.moe_strategy = strategy;
    o.dtype = dtype;
    rows x = rows_random("remat", 2, 30, d.vocab_size);
    result full = run_on(&d, &o, &x, 2);
    for (int bit = 0; bit < 11; bit++) { /* each activation alone, then all */
        bool keep[10];
        for (int i = 0; i < 10; i++) { keep[i] = bit == 10 || i == bit; }
        o.remat = (hd_remat){keep[0], keep[1], keep[2], keep[3], keep[4], keep[5], keep[6], keep[7], keep[8], keep[9]};
        result kept = run_on(&d, &o, &x, 2);
        assert_same("remat", &kept, &full);
        free_result(&kept);
    }
    free_result(&full);
    rows_free(&x);
}

static void test_remat(void **state)
{
    (void)state;
    remat_with(HD_MOE_GROUPED, HD_DTYPE_F32);
    remat_with(HD_MOE_DENSE, HD_DTYPE_F32);
    remat_with(HD_MOE_DROPPING, HD_DTYPE_BF16);
}

/* ---- threads ------------------------------------------------------------------------------------------------------------------ */

static void test_threads(void **state)
{
    (void)state;
    const hd_moe_strategy strategies[4] = {HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE, HD_MOE_DROPPING};
    for (int s = 0; s < 8; s++) {
        hd_dims d = mtp_dims();
        hd_model_options o = busy_options();
        o.moe_strategy = strategies[s / 2];
        o.dtype = s % 2 == 0 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
        rows x = rows_random("threads", 3, 37, d.vocab_size);
        result one = run_on(&d, &o, &x, 1);
        for (int n = 2; n <= 3; n++) {
            result more = run_on(&d, &o, &x, n);
            assert_same("threads", &more, &one);
            free_result(&more);
        }
        free_result(&one);
        rows_free(&x);
    }
}

/* ---- sums of leaves ------------------------------------------------------------------------------------------------------------- */

/* Rows [begin, begin + n) of x, sharing memory. */
static rows rows_part(const rows *x, int64_t begin, int64_t n)
{
    int64_t at = begin * x->r.seq_len;
    rows part = {.inputs = x->inputs + at, .targets = x->targets + at, .positions = x->positions + at,
                 .segments = x->segments + at, .weights = x->weights + at};
    part.r = (hd_leaf_rows){n, x->r.seq_len, part.inputs, part.targets, part.positions, part.segments, part.weights};
    return part;
}

/* One leaf of four sequences against four leaves of one: same gradient, same metrics, to rounding.  Fractional weights, one
 * sequence without any, two packed segments, padding. */
static void test_additive(void **state)
{
    (void)state;
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    rows x = rows_random("additive", 4, 26, d.vocab_size);
    for (int i = 0; i < 4 * 26; i++) { x.weights[i] = (float)(1 + i % 8) / 8.0f; }
    for (int t = 0; t < 26; t++) {
        x.weights[26 + t] = 0.0f;
        x.segments[52 + t] = t < 11 ? 1 : 2;
        x.positions[52 + t] = t < 11 ? t : t - 11;
        if (t >= 20) {
            x.segments[78 + t] = 0;
            x.weights[78 + t] = 0.0f;
        }
    }
    result whole = run_on(&d, &o, &x, 2);

    rig g;
    rows one = rows_part(&x, 0, 1);
    rig_open(&g, &d, &o, &one);
    rig_roughen(&g);
    OK(hd_fill(&g.ex, 0.0, &g.metrics, err));
    for (int b = 0; b < 4; b++) {
        hd_arena inputs;
        OK(hd_arena_open(&inputs, "inputs", 1 << 16, err));
        one = rows_part(&x, b, 1);
        OK(hd_leaf_upload(&g.model, &g.ex, &inputs, &one.r, &g.leaf, err));
        rig_set_totals(&g, &x);
        g.leaf.first = b == 0;
        OK(hd_model_train_leaf(&g.model, &g.ex, &g.memory[1], &g.leaf, &g.metrics, err));
        hd_arena_close(&inputs);
    }
    float *grads = floats_of(&g, &g.model.grad_flat);
    double *metrics = malloc(sizeof *metrics * (size_t)whole.n_metric);
    read_tensor(&g, &g.metrics, metrics);
    hd_assert_norm_f32("gradient of four leaves", grads, whole.grads, whole.n_grad, 3e-6);
    hd_assert_norm_f64("metrics of four leaves", metrics, whole.metrics, whole.n_metric, 1e-6);
    free(grads);
    free(metrics);
    free_result(&whole);
    rig_close(&g);
    rows_free(&x);
}

/* Two documents packed into one row give the logits that each gives alone.  The first bit for bit; the second to rounding,
 * because the tiles of flash attention begin elsewhere. */
static void test_packed(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    enum { A = 150, B = 119 };
    rows packed = rows_random("packed", 1, A + B, d.vocab_size);
    for (int t = A; t < A + B; t++) {
        packed.segments[t] = 2;
        packed.positions[t] = t - A;
    }
    rig g;
    rig_open(&g, &d, &o, &packed);
    rig_roughen(&g);
    rig_logits(&g);
    float *both = floats_of(&g, &g.logits);
    rig_close(&g);
    for (int part = 0; part < 2; part++) {
        int64_t at = part == 0 ? 0 : A, n = part == 0 ? A : B;
        rows alone = rows_new(1, n);
        memcpy(alone.inputs, packed.inputs + at, (size_t)n * 4);
        memcpy(alone.targets, packed.targets + at, (size_t)n * 4);
        rig_open(&g, &d, &o, &alone);
        rig_roughen(&g);
        rig_logits(&g);
        float *single = floats_of(&g, &g.logits);
        hd_assert_norm_f32("packed and alone", both + at * d.vocab_size, single, n * d.vocab_size, part == 0 ? 0.0 : 2e-6);
        free(single);
        rig_close(&g);
        rows_free(&alone);
    }
    free(both);
    rows_free(&packed);
}

/* A row without weight contributes exactly nothing: with and without it, the same gradient of the loss. */
static void test_zero_row(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    rows x = rows_random("zero row", 2, 24, d.vocab_size);
    for (int t = 0; t < 24; t++) { x.weights[24 + t] = 0.0f; }
    rows first = rows_part(&x, 0, 1);
    result both = run_on(&d, &o, &x, 2), alone = run_on(&d, &o, &first, 2);
    hd_assert_norm_f32("gradient beside a row without weight", both.grads, alone.grads, alone.n_grad, 2e-6);
    hd_assert_abs_f64("loss beside a row without weight", &both.metrics[HD_METRIC_LOSS], &alone.metrics[HD_METRIC_LOSS], 1,
                      1e-7);
    free_result(&both);
    free_result(&alone);
    rows_free(&x);
}

/* Evaluation finds the loss of the training pass, without the other terms. */
static void test_eval(void **state)
{
    (void)state;
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    rows x = rows_random("eval", 2, 31, d.vocab_size);
    rig g;
    rig_open(&g, &d, &o, &x);
    rig_roughen(&g);
    rig_train(&g);
    double xent = rig_metric(&g, HD_METRIC_XENT), z = rig_metric(&g, HD_METRIC_Z), total = rig_metric(&g, HD_METRIC_LOSS);
    double mtp = rig_metric(&g, HD_METRIC_MTP), balance = rig_metric(&g, HD_METRIC_BALANCE);
    double want = xent / g.leaf.weight_total + o.mtp_loss_scaling_factor * mtp / g.leaf.mtp_weight_total + balance;
    assert_true(z > 0.0 && balance > 0.0 && mtp > 0.0);
    hd_assert_abs_f64("the total of the parts", &total, &want, 1, 1e-12 * want);
    rig_eval(&g);
    double again = rig_metric(&g, HD_METRIC_XENT), loss = rig_metric(&g, HD_METRIC_LOSS), lm = xent / g.leaf.weight_total;
    hd_assert_same_bits("loss of evaluation", &again, &xent, sizeof xent, 1);
    hd_assert_abs_f64("loss of evaluation", &loss, &lm, 1, 1e-12 * lm);
    assert_true(rig_metric(&g, HD_METRIC_MTP) == 0.0 && rig_metric(&g, HD_METRIC_BALANCE) == 0.0);
    rig_close(&g);
    rows_free(&x);
}

/* With a router that scores all experts alike the V3 rule gives alpha for every sequence and layer: their mean is alpha. */
static void test_balance(void **state)
{
    (void)state;
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    rows x = rows_random("balance", 3, 20, d.vocab_size);
    rig g;
    rig_open(&g, &d, &o, &x);
    for (int64_t i = 0; i < g.model.n_param; i++) {
        if (strstr(g.model.params[i].name, "mlp.gate.weight") != NULL) {
            OK(hd_fill(&g.ex, 0.0, &g.model.params[i].weight.value, err));
        }
    }
    rig_train(&g);
    double got = rig_metric(&g, HD_METRIC_BALANCE);
    hd_assert_abs_f64("balance loss", &got, &o.balance_loss_weight, 1, 1e-8);
    rig_close(&g);
    rows_free(&x);
}

/* The z-loss belongs to the main loss: what only an MTP module's loss reaches does not feel it. */
static void test_z_loss(void **state)
{
    (void)state;
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    rows x = rows_random("z", 1, 20, d.vocab_size);
    float *grads[2][2];
    const char *const names[2] = {"model.layers.4.shared_head.norm.weight", "model.norm.weight"};
    for (int z = 0; z < 2; z++) {
        rig g;
        o.z_loss_multiplier = z;
        rig_open(&g, &d, &o, &x);
        rig_train(&g);
        for (int i = 0; i < 2; i++) { grads[z][i] = floats_of(&g, &rig_param(&g, names[i])->weight.grad); }
        rig_close(&g);
    }
    hd_assert_same_bits("the module's norm", grads[0][0], grads[1][0], 4, d.hidden_size);
    assert_true(hd_compare_f32(grads[0][1], grads[1][1], d.hidden_size).norm_rel > 0.1);
    for (int i = 0; i < 4; i++) { free(grads[i / 2][i % 2]); }
    rows_free(&x);
}

/* ---- the plan and the guard -------------------------------------------------------------------------------------------------------- */

static void test_plan(void **state)
{
    (void)state;
    const hd_moe_strategy strategies[4] = {HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE, HD_MOE_DROPPING};
    for (int s = 0; s < 8; s++) {
        hd_dims d = mtp_dims();
        hd_model_options o = busy_options();
        o.moe_strategy = strategies[s % 4];
        o.dtype = o.weight_dtype = s < 4 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
        o.remat.context = o.remat.moe_mlpwi = s % 2 == 0;
        rows x = rows_random("plan", 2, 33, d.vocab_size);
        rig g;
        rig_open(&g, &d, &o, &x);
        rig_train(&g);
        rig_eval(&g);
        rig_logits(&g);
        for (int a = 0; a < 3; a++) { assert_int_equal(g.memory[a].high, g.planned[a]); }
        assert_int_equal(g.memory[1].used, 0);
        assert_int_equal(g.memory[2].used, 0);
        rig_close(&g);
        rows_free(&x);
    }
}

/* No host access to tensor memory between ops: the pages are closed then, and a leaf still runs; it reads nothing back. */
static void test_guard(void **state)
{
    (void)state;
#ifdef HD_DEBUG
    skip(); /* debug arenas fill memory when it is taken and released, between ops */
#endif
    const hd_moe_strategy strategies[4] = {HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE, HD_MOE_DROPPING};
    for (int s = 0; s < 4; s++) {
        hd_dims d = mtp_dims();
        hd_model_options o = busy_options();
        o.moe_strategy = strategies[s];
        rows x = rows_random("guard", 2, 19, d.vocab_size);
        rig g;
        rig_open_on(&g, &d, &o, &x, 2, true);
        int64_t reads = g.ex.n_reads, uploads = g.ex.n_uploads;
        rig_train(&g);
        OK(hd_model_update_router_bias(&g.model, &g.ex, &g.metrics, NULL, err));
        assert_true(g.guard.closed);
        assert_int_equal(g.ex.n_reads, reads);
        assert_int_equal(g.ex.n_uploads, uploads);
        assert_true(isfinite(rig_metric(&g, HD_METRIC_LOSS)));
        g.ex.guard = NULL;
        hd_exec_leave(&g.ex, 0);
        hd_guard open = g.guard;
        size_t mark;
        g.ex.guard = &open;
        hd_exec_enter(&g.ex, &mark); /* opens the pages for the arenas' own clean-up */
        rig_close(&g);
        rows_free(&x);
    }
}

/* ---- bf16 --------------------------------------------------------------------------------------------------------------------------- */

static void test_bf16(void **state)
{
    (void)state;
    hd_dims d = mtp_dims();
    hd_model_options o = busy_options();
    rows x = rows_random("bf16", 2, 64, d.vocab_size);
    o.capacity_factor = 0.0;
    result wide = run_on(&d, &o, &x, 2);
    for (int s = 0; s < 6; s++) {
        o.dtype = HD_DTYPE_BF16;
        o.weight_dtype = s % 2 == 0 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
        o.activations_in_float32 = s == 2 || s == 3;
        o.moe_strategy = s < 4 ? HD_MOE_GROUPED : HD_MOE_DENSE;
        o.narrow_gate_logits = s == 1;
        o.vocab_chunk = s == 0 ? 20 : 0;
        result narrow = run_on(&d, &o, &x, 2);
        hd_assert_abs_f64("loss in bf16", &narrow.metrics[HD_METRIC_LOSS], &wide.metrics[HD_METRIC_LOSS], 1, 0.02);
        hd_compared c = hd_compare_f32(narrow.grads, wide.grads, wide.n_grad);
        print_message("gradient in bf16: relative difference %.3f\n", c.norm_rel);
        assert_true(c.n_bad == 0 && c.norm_rel < 0.15);
        free_result(&narrow);
    }
    free_result(&wide);
    rows_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remat),  cmocka_unit_test(test_threads),  cmocka_unit_test(test_additive),
        cmocka_unit_test(test_packed), cmocka_unit_test(test_zero_row), cmocka_unit_test(test_eval),
        cmocka_unit_test(test_balance), cmocka_unit_test(test_z_loss), cmocka_unit_test(test_plan),   cmocka_unit_test(test_guard),    cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
