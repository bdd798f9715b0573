/* The seams around weights, the masks, the initial weights, and accumulation of gradients. */
#include "model/fixture.h"

static rows small_rows(const hd_dims *d) { return rows_random("weights", 1, 12, d->vocab_size); }

/* ---- acquire and release ------------------------------------------------------------------------------------------------------ */

/* An op that is handed a released weight refuses it, in every build. */
static void test_released(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    rows x = small_rows(&d);
    rig g;
    rig_open(&g, &d, &o, &x);
    hd_layer *layer = &g.model.layers[1];
    hd_arena memory;
    hd_tensor in, out;
    hd_err error = {0};
    OK(hd_arena_open(&memory, "test", 1 << 16, err));
    OK(hd_tensor_new_2d(&memory, HD_DTYPE_F32, 4, d.hidden_size, &in, err));
    OK(hd_tensor_new_2d(&memory, HD_DTYPE_F32, 4, d.kv_lora_rank + d.qk_rope_head_dim, &out, err));
    OK(hd_fill(&g.ex, 1.0, &in, err));

    assert_int_equal(hd_linear_fwd(&g.ex, &in, layer->kv_a_proj, HD_SET, &out, &error), HD_E_INVALID);
    OK(hd_weights_acquire(layer, HD_UNIT_ATTENTION, err));
    OK(hd_linear_fwd(&g.ex, &in, layer->kv_a_proj, HD_SET, &out, err));
    OK(hd_linear_grad(&g.ex, &out, &in, layer->kv_a_proj, err));
    assert_int_equal(layer->router->value.n_dim, 0); /* another unit */
    assert_int_equal(hd_weights_acquire(layer, HD_UNIT_ATTENTION, &error), HD_E_INVALID);
    assert_non_null(strstr(error.msg, "acquired twice"));
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    assert_int_equal(hd_linear_fwd(&g.ex, &in, layer->kv_a_proj, HD_SET, &out, &error), HD_E_INVALID);
    /* and is not taken for a frozen one */
    assert_int_equal(hd_linear_grad(&g.ex, &out, &in, layer->kv_a_proj, &error), HD_E_INVALID);
    assert_false(hd_weight_frozen(layer->kv_a_proj));
    hd_weights_release(layer, HD_UNIT_ATTENTION);

    /* model code: a layer's MLP without its weights */
    hd_pass p;
    OK(hd_pass_open(&g.model, &g.ex, &memory, &g.leaf, NULL, &p, &error));
    hd_tensor rows_in, rows_out;
    OK(hd_pass_rows(&p, d.hidden_size, &rows_in));
    OK(hd_pass_rows(&p, d.hidden_size, &rows_out));
    OK(hd_fill(&g.ex, 1.0, &rows_in, err));
    OK(hd_fill(&g.ex, 0.0, &rows_out, err));
    hd_layer_acts none = {0};
    assert_int_equal(hd_moe_forward(&p, layer, &rows_in, &none, &rows_out), HD_E_INVALID);
    hd_arena_close(&memory);
    rig_close(&g);
    rows_free(&x);
}

/* ---- grads_ready --------------------------------------------------------------------------------------------------------------- */

enum { LOG = 64 };
typedef struct ready_log {
    rig *g;
    int n;
    hd_unit unit[LOG];
    int64_t layer[LOG];
    float *at[LOG]; /* gradients of the unit when it was called ready */
} ready_log;

static hd_status on_ready(void *context, hd_unit unit, int64_t layer, hd_err *err)
{
    ready_log *log = context;
    (void)err;
    assert_true(log->n < LOG);
    log->unit[log->n] = unit;
    log->layer[log->n] = layer;
    log->at[log->n++] = floats_of(log->g, &log->g->model.grad_flat);
    return HD_OK;
}

/* Every unit is announced once, in the order of the backward pass, and no gradient of it changes afterwards. */
static void test_ready(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    hd_model_options o = f32_options();
    rows x = small_rows(&d);
    rig g;
    rig_open(&g, &d, &o, &x);
    ready_log log = {.g = &g};
    g.model.grads_ready = on_ready;
    g.model.grads_ready_context = &log;
    rig_train(&g);
    const struct { hd_unit unit; int64_t layer; } wanted[] = {
        {HD_UNIT_HEAD, -1},     {HD_UNIT_EXPERTS, 3},   {HD_UNIT_ATTENTION, 3}, {HD_UNIT_MTP, 3},
        {HD_UNIT_EXPERTS, 2},   {HD_UNIT_ATTENTION, 2}, {HD_UNIT_EXPERTS, 1},   {HD_UNIT_ATTENTION, 1},
        {HD_UNIT_DENSE, 0},     {HD_UNIT_ATTENTION, 0}, {HD_UNIT_EMBEDDING, -1}};
    assert_int_equal(log.n, sizeof wanted / sizeof wanted[0]);
    float *final = floats_of(&g, &g.model.grad_flat);
    for (int i = 0; i < log.n; i++) {
        assert_int_equal(log.unit[i], wanted[i].unit);
        assert_int_equal(log.layer[i], wanted[i].layer);
        for (int64_t q = 0; q < g.model.n_param; q++) {
            hd_param *param = &g.model.params[q];
            if (param->layer != log.layer[i] || param->spec->unit != log.unit[i] || !param->trained) { continue; }
            int64_t at = (const float *)param->weight.grad.data - (const float *)g.model.grad_flat.data;
            hd_assert_same_bits(param->name, log.at[i] + at, final + at, 4, hd_tensor_count(&param->weight.grad));
        }
        free(log.at[i]);
    }
    free(final);
    rig_close(&g);
    rows_free(&x);
}

static hd_status refuse(void *context, hd_unit unit, int64_t layer, hd_err *err)
{
    (void)context;
    return HD_FAIL(err, HD_E_PEER, "unit %d of layer %d", (int)unit, (int)layer);
}

/* A failing hook ends the leaf; everything is released and the next leaf runs. */
static void test_failing_hook(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    hd_model_options o = f32_options();
    rows x = small_rows(&d);
    rig g;
    rig_open(&g, &d, &o, &x);
    hd_err error = {0};
    g.model.grads_ready = refuse;
    OK(hd_fill(&g.ex, 0.0, &g.metrics, err));
    assert_int_equal(hd_model_train_leaf(&g.model, &g.ex, &g.memory[1], &g.leaf, &g.metrics, &error), HD_E_PEER);
    assert_int_equal(g.memory[1].used, 0);
    for (int64_t i = 0; i < g.model.n_param; i++) { assert_int_equal(g.model.params[i].live.value.n_dim, 0); }
    g.model.grads_ready = NULL;
    rig_train(&g);
    rig_close(&g);
    rows_free(&x);
}

/* ---- accumulation ---------------------------------------------------------------------------------------------------------------- */

/* `first` overwrites whatever the gradients held, NaN included, down to every element; without it the leaf is added. */
static void test_first(void **state)
{
    (void)state;
    const hd_moe_strategy strategies[3] = {HD_MOE_GROUPED, HD_MOE_DENSE, HD_MOE_DROPPING};
    for (int s = 0; s < 3; s++) {
        hd_dims d = tiny_dims();
        d.n_mtp = 2;
        hd_model_options o = f32_options();
        o.moe_strategy = strategies[s];
        o.capacity_factor = 1.0;
        rows x = small_rows(&d);
        rig g;
        rig_open(&g, &d, &o, &x);
        rig_train(&g);
        int64_t n = n_grads(&g);
        float *once = floats_of(&g, &g.model.grad_flat);
        g.leaf.first = false;
        rig_train(&g);
        float *twice = floats_of(&g, &g.model.grad_flat);
        for (int64_t i = 0; i < n; i++) { once[i] *= 2.0f; }
        hd_assert_norm_f32("two leaves are twice one", twice, once, n, 1e-6);
        for (int64_t i = 0; i < g.model.n_param; i++) {
            if (g.model.params[i].trained) { OK(hd_fill(&g.ex, (double)NAN, &g.model.params[i].weight.grad, err)); }
        }
        g.leaf.first = true;
        rig_train(&g);
        float *again = floats_of(&g, &g.model.grad_flat);
        for (int64_t i = 0; i < n; i++) { once[i] *= 0.5f; }
        hd_assert_same_bits("the first leaf sets", again, once, 4, n);
        free(once);
        free(twice);
        free(again);
        rig_close(&g);
        rows_free(&x);
    }
}

/* ---- masks --------------------------------------------------------------------------------------------------------------------------- */

static void expect_masks(const char *trainable, const char *adamw, hd_status want, const char *words)
{
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    o.trainable_mask = &trainable;
    o.n_trainable_mask = trainable != NULL;
    o.adamw_mask = &adamw;
    o.n_adamw_mask = adamw != NULL;
    hd_arena memory, scratch;
    hd_exec ex;
    hd_model model;
    hd_err error = {0};
    hd_arena_open_dry(&memory, "model");
    hd_arena_open_dry(&scratch, "scratch");
    OK(hd_exec_init(&ex, &scratch, 1, true, err));
    assert_int_equal(hd_model_open(&d, &o, &ex, &memory, &model, &error), want);
    assert_non_null(strstr(want == HD_OK ? "" : error.msg, words));
    if (want == HD_OK) { hd_model_close(&model); }
}

static void test_bad_masks(void **state)
{
    (void)state;
    expect_masks("self_attn", NULL, HD_OK, "");
    expect_masks("experts\\.[0-9]+\\.", NULL, HD_OK, "");
    expect_masks(NULL, "norm/scale$", HD_OK, "");
    expect_masks("moe_layers_1/", "moe_layers/", HD_OK, "");
    expect_masks("experts\\.3\\.", NULL, HD_E_CONFIG, "matches 1 of the 8 experts of model.layers.1.mlp.experts.{e}.gate_proj.weight");
    expect_masks("no_such_thing", NULL, HD_E_CONFIG, "trainable_parameters_mask: \"no_such_thing\" matches no parameter");
    expect_masks(NULL, "(", HD_E_CONFIG, "adamw_mask: \"(\" is not a regular expression");
}

/* Frozen: no gradient, no moments; the gradients of the others are what they are without the mask. */
static void test_frozen(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    const char *const masks[] = {"self_attn\\.(q_a_proj|o_proj)", "MoeBlock_0/wi_1", "enorm", "input_layernorm"};
    for (int s = 0; s < 2; s++) {
        hd_model_options o = f32_options();
        o.moe_strategy = s == 0 ? HD_MOE_GROUPED : HD_MOE_DENSE;
        rows x = small_rows(&d);
        rig all, some;
        rig_open(&all, &d, &o, &x);
        rig_train(&all);
        o.trainable_mask = masks;
        o.n_trainable_mask = 4;
        rig_open(&some, &d, &o, &x);
        rig_train(&some);
        int n_trained = 0;
        for (int64_t i = 0; i < some.model.n_param; i++) {
            hd_param *param = &some.model.params[i], *other = &all.model.params[i];
            bool has = param->weight.grad.n_dim > 0;
            assert_int_equal(has, param->trained);
            assert_int_equal(has, param->mu.n_dim > 0);
            assert_int_equal(has, param->nu.n_dim > 0);
            n_trained += has;
            if (!has) { continue; }
            float *got = floats_of(&some, &param->weight.grad), *want = floats_of(&all, &other->weight.grad);
            hd_assert_same_bits(param->name, got, want, 4, hd_tensor_count(&param->weight.grad));
            free(got);
            free(want);
        }
        assert_int_equal(n_trained, 4 * 2 + 3 + 1 + 4);
        rig_close(&some);
        rig_close(&all);
        rows_free(&x);
    }
}

/* With the main norm in an MTP module's head, its own norm is stored and left alone. */
static void test_main_norm(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    d.mtp_own_norm = false;
    hd_model_options o = f32_options();
    rows x = small_rows(&d);
    rig g;
    rig_open(&g, &d, &o, &x);
    hd_param *own = rig_param(&g, "model.layers.3.shared_head.norm.weight"), *shared = rig_param(&g, "model.norm.weight");
    assert_false(own->trained);
    rig_train(&g);
    float *with = floats_of(&g, &shared->weight.grad);
    g.model.options.mtp_loss_scaling_factor = 0.0;
    rig_train(&g);
    float *without = floats_of(&g, &shared->weight.grad);
    assert_true(hd_compare_f32(with, without, d.hidden_size).norm_rel > 1e-3); /* the module's loss reaches the main norm */
    free(with);
    free(without);
    rig_close(&g);
    rows_free(&x);
}

/* ---- initial weights -------------------------------------------------------------------------------------------------------------------- */

static void moments_of(rig *g, const char *name, double *mean, double *deviation, double *largest)
{
    hd_param *param = rig_param(g, name);
    int64_t n = hd_tensor_count(&param->weight.value);
    float *v = floats_of(g, &param->weight.value);
    double sum = 0.0, square = 0.0;
    *largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)v[i];
        square += (double)v[i] * (double)v[i];
        *largest = fmax(*largest, fabs((double)v[i]));
    }
    *mean = sum / (double)n;
    *deviation = sqrt(square / (double)n - *mean * *mean);
    free(v);
}

static void check_init(rig *g, const char *name, double std, bool truncated)
{
    double mean, deviation, largest;
    moments_of(g, name, &mean, &deviation, &largest);
    if (!(fabs(mean) < 0.08 * std && fabs(deviation - std) < 0.06 * std)) {
        fail_msg("%s: mean %g, deviation %g, want 0 and %g", name, mean, deviation, std);
    }
    double limit = 2.0 * std / 0.87962566;
    assert_int_equal(largest <= limit * 1.000001, truncated);
}

static void test_init(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.hidden_size = 96;
    d.moe_intermediate_size = 40;
    hd_model_options o = f32_options();
    o.dense_init_scale = 0.25;
    rows x = small_rows(&d);
    rig g;
    rig_open(&g, &d, &o, &x);
    check_init(&g, "model.embed_tokens.weight", 1.0, false);
    check_init(&g, "lm_head.weight", 1.0 / sqrt(96.0), true);
    check_init(&g, "model.layers.1.mlp.experts.{e}.gate_proj.weight", 0.5 / sqrt(96.0), true);
    check_init(&g, "model.layers.1.mlp.experts.{e}.down_proj.weight", 0.5 / sqrt(40.0), true);
    check_init(&g, "model.layers.0.mlp.up_proj.weight", 0.5 / sqrt(96.0), true);
    check_init(&g, "model.layers.2.self_attn.kv_a_proj_with_mqa.weight", 1.0 / sqrt(96.0), false);
    check_init(&g, "model.layers.2.self_attn.o_proj.weight", 1.0 / sqrt(20.0), false);
    double mean, deviation, largest;
    moments_of(&g, "model.layers.1.input_layernorm.weight", &mean, &deviation, &largest);
    assert_true(mean == 1.0 && largest == 1.0);
    moments_of(&g, "model.layers.1.mlp.gate.e_score_correction_bias", &mean, &deviation, &largest);
    assert_true(largest == 0.0);

    /* an expert's values are those of its own name, whatever it is stored beside */
    hd_param *param = rig_param(&g, "model.layers.1.mlp.experts.{e}.down_proj.weight");
    float *v = floats_of(&g, &param->weight.value);
    hd_rng rng = hd_rng_make(7, HD_RNG_INIT, "model.layers.1.mlp.experts.6.down_proj.weight");
    float third = (float)(sqrt(0.25 / 40.0) / 0.87962566103423978 * (double)hd_rng_truncated_normal(rng, 3));
    assert_true(v[6 * 96 * 40 + 3] == third);
    free(v);
    rig_close(&g);

    o.init_std = 0.02;
    o.weight_dtype = HD_DTYPE_BF16;
    rig_open(&g, &d, &o, &x);
    param = rig_param(&g, "model.embed_tokens.weight");
    float *master = floats_of(&g, &param->master);
    uint16_t narrow[4];
    hd_tensor row = hd_tensor_index(&param->weight.value, 0), head = hd_tensor_slice(&row, 0, 0, 4);
    read_tensor(&g, &head, narrow);
    for (int i = 0; i < 4; i++) { assert_int_equal(narrow[i], hd_f32_to_bf16(master[i])); }
    rng = hd_rng_make(7, HD_RNG_INIT, "model.embed_tokens.weight");
    assert_true(master[1] == (float)(0.02 * (double)hd_rng_normal(rng, 1)));
    free(master);
    rig_close(&g);
    rows_free(&x);
}

/* ---- router bias --------------------------------------------------------------------------------------------------------------------- */

/* Counts of a leaf: k per token and layer, padding by choice; the update moves each bias by the rate towards the mean. */
static void test_router_bias(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    for (int padded = 0; padded < 2; padded++) {
        hd_model_options o = f32_options();
        o.router_bias_update_rate = 0.125;
        o.count_padding = padded == 1;
        rows x = small_rows(&d);
        for (int t = 8; t < 12; t++) {
            x.segments[t] = 0;
            x.weights[t] = 0.0f;
        }
        rig g;
        rig_open(&g, &d, &o, &x);
        rig_train(&g);
        OK(hd_model_update_router_bias(&g.model, &g.ex, &g.metrics, NULL, err));
        for (int64_t m = 0; m < 3; m++) {
            hd_tensor counts = hd_model_expert_counts(&g.model, &g.metrics, m);
            char name[HD_NAME_MAX];
            double c[8], total = 0.0;
            float bias[8];
            (void)snprintf(name, sizeof name, "model.layers.%d.mlp.gate.e_score_correction_bias", (int)m + 1);
            read_tensor(&g, &counts, c);
            read_tensor(&g, &rig_param(&g, name)->weight.value, bias);
            for (int e = 0; e < 8; e++) { total += c[e]; }
            assert_true(total == (padded == 1 ? 12.0 : 8.0) * 3.0);
            for (int e = 0; e < 8; e++) {
                double want = c[e] > total / 8.0 ? -0.125 : c[e] < total / 8.0 ? 0.125 : 0.0;
                assert_true((double)bias[e] == want);
            }
        }
        rig_close(&g);
        rows_free(&x);
    }
}

/* ---- leaves -------------------------------------------------------------------------------------------------------------------------- */

/* Shifts stay inside a segment; ids and positions out of range are refused. */
static void test_upload(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 2;
    hd_model_options o = f32_options();
    rows x = rows_new(1, 8);
    const int32_t segments[8] = {1, 1, 1, 2, 2, 3, 0, 0};
    for (int t = 0; t < 8; t++) {
        x.inputs[t] = 10 + t;
        x.targets[t] = 20 + t;
        x.weights[t] = segments[t] == 0 ? 0.0f : 0.5f + (float)t;
        x.segments[t] = segments[t];
    }
    rig g;
    rig_open(&g, &d, &o, &x);
    int32_t ids[16], targets[16];
    float weights[16];
    read_tensor(&g, &g.leaf.mtp_inputs, ids);
    read_tensor(&g, &g.leaf.mtp_targets, targets);
    read_tensor(&g, &g.leaf.mtp_weights, weights);
    const int32_t want[16] = {11, 12, 0, 14, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0};
    double sum = 0.0;
    for (int i = 0; i < 16; i++) {
        assert_int_equal(ids[i], want[i]);
        assert_int_equal(targets[i], want[i] == 0 ? 0 : want[i] + 10);
        assert_true(weights[i] == (want[i] == 0 ? 0.0f : (float)(want[i] - 10) + 0.5f));
        sum += (double)weights[i];
    }
    assert_true(hd_leaf_mtp_weight_sum(&x.r, 2) == sum);
    hd_err error = {0};
    const struct { int32_t *value; int32_t bad; const char *words; } spoils[] = {
        {&x.inputs[3], 61, "input id 61"}, {&x.targets[7], -1, "target id -1"}, {&x.positions[0], 640, "position 640"}};
    for (int i = 0; i < 3; i++) {
        int32_t good = *spoils[i].value;
        hd_leaf leaf = {0};
        *spoils[i].value = spoils[i].bad;
        assert_int_equal(hd_leaf_upload(&g.model, &g.ex, &g.memory[1], &x.r, &leaf, &error), HD_E_INVALID);
        assert_non_null(strstr(error.msg, spoils[i].words));
        *spoils[i].value = good;
    }
    g.leaf.mtp_inputs = (hd_tensor){0};
    assert_int_equal(hd_model_train_leaf(&g.model, &g.ex, &g.memory[1], &g.leaf, &g.metrics, &error), HD_E_INVALID);
    assert_non_null(strstr(error.msg, "mtp_inputs"));
    rig_close(&g);
    rows_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released),    cmocka_unit_test(test_ready),     cmocka_unit_test(test_failing_hook),
        cmocka_unit_test(test_first),       cmocka_unit_test(test_bad_masks), cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_main_norm),   cmocka_unit_test(test_init),      cmocka_unit_test(test_router_bias),
        cmocka_unit_test(test_upload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
