/* A leaf and ten AdamW steps against a golden file.  Tolerances: tests/golden/README.md. */
#ifndef HD_TESTS_MODEL_GOLDEN_CHECK_H
#define HD_TESTS_MODEL_GOLDEN_CHECK_H

#include "model/golden.h"

static const char *const models[] = {"v2", "v2q", "v3", "mtp", "mtp2"};
enum { N_MODEL = 5 };

static inline hd_model_options options_of(const golden *gold, hd_moe_strategy strategy)
{
    hd_model_options o = f32_options();
    o.moe_strategy = strategy;
    o.mtp_loss_scaling_factor = gold->mtp_factor;
    o.max_positions = 512;
    o.capacity_factor = 64.0; /* dropping that never drops */
    return o;
}

static inline void check_logits(const golden *gold, rig *g, const char *what)
{
    const golden_tensor *want = golden_find(gold, "logits");
    if (want == NULL) { return; }
    double largest = 0.0;
    for (int64_t i = 0; i < want->n; i++) { largest = fmax(largest, fabs((double)((const float *)want->data)[i])); }
    rig_logits(g);
    float *got = floats_of(g, &g->logits);
    hd_assert_abs_f32(what, got, want->data, want->n, 2e-5 * largest);
    free(got);
}

static inline void check_relative(const char *what, double got, double want, double tolerance)
{
    hd_assert_abs_f64(what, &got, &want, 1, tolerance * fabs(want));
}

static inline void check_loss(const golden *gold, rig *g, const char *what)
{
    bool mtp = golden_find(gold, "mtp_loss") != NULL;
    double main_loss = golden_number(gold, "loss"), total = mtp ? golden_number(gold, "total_loss") : main_loss;
    check_relative(what, rig_metric(g, HD_METRIC_XENT) / g->leaf.weight_total, main_loss, 1e-6);
    check_relative(what, rig_metric(g, HD_METRIC_LOSS), total, 1e-6);
    if (mtp) {
        double got = gold->mtp_factor * rig_metric(g, HD_METRIC_MTP) / g->leaf.mtp_weight_total;
        check_relative(what, got, golden_number(gold, "mtp_loss"), 1e-6);
    }
}

/* Every tensor by itself; the worst is reported. */
static inline void check_gradients(const golden *gold, rig *g, const char *what)
{
    double worst = 0.0;
    int n_checked = 0;
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *param = &g->model.params[i];
        if (!param->trained) { continue; }
        int64_t n = hd_tensor_count(&param->weight.value), each = hf_tensor_length(g, param);
        float *got = floats_of(g, &param->weight.grad);
        for (int64_t at = 0; at < n; at += each) {
            char name[HD_NAME_MAX], key[HD_NAME_MAX + 8];
            hd_tensor_hf_name(param->spec, param->layer, hd_tensor_per_expert(param->spec) ? at / each : -1, name);
            (void)snprintf(key, sizeof key, "grad.%s", name);
            hd_compared c = hd_compare_f32(got + at, golden_data(gold, key), each);
            if (c.n_bad > 0 || !(c.norm_rel <= 1e-4)) { fail_msg("%s: %s off by %.3g", what, key, c.norm_rel); }
            worst = fmax(worst, c.norm_rel);
            n_checked++;
        }
        free(got);
    }
    print_message("%s: %d gradient tensors, worst %.2e of 1e-4\n", what, n_checked, worst);
    assert_int_equal(n_checked, gold->n_tensor - (golden_find(gold, "mtp_loss") != NULL ? 11 : 10));
}

static inline void check_leaf(const golden *gold, const hd_model_options *o, const char *what)
{
    rig g;
    rows x = golden_rows(gold);
    rig_open(&g, &gold->dims, o, &x);
    golden_fill(gold, &g);
    check_logits(gold, &g, what);
    rig_train(&g);
    check_loss(gold, &g, what);
    check_gradients(gold, &g, what);
    rig_eval(&g);
    check_relative(what, rig_metric(&g, HD_METRIC_XENT) / g.leaf.weight_total, golden_number(gold, "loss"), 1e-6);
    rig_close(&g);
    rows_free(&x);
}

static inline void each_model(const char *force, hd_moe_strategy strategy, const hd_remat *remat, hd_attention_impl attention)
{
    use_backend(force);
    for (int m = 0; m < N_MODEL; m++) {
        golden *gold = golden_open(models[m]);
        hd_model_options o = options_of(gold, strategy);
        o.attention = attention;
        if (remat != NULL) { o.remat = *remat; }
        check_leaf(gold, &o, models[m]);
        golden_close(gold);
    }
    use_backend(NULL);
}

/* ---- ten steps ------------------------------------------------------------------------------------------------------------- */

typedef struct optimizer {
    hd_arena memory;
    hd_tensor sumsq, control, window;
} optimizer;

static inline void optimizer_open(rig *g, optimizer *o)
{
    OK(hd_arena_open(&o->memory, "optimizer", 4096, err));
    OK(hd_tensor_new_1d(&o->memory, HD_DTYPE_F64, 1, &o->sumsq, err));
    OK(hd_tensor_new_1d(&o->memory, HD_DTYPE_F64, HD_CONTROL_COUNT, &o->control, err));
    OK(hd_tensor_new_2d(&o->memory, HD_DTYPE_F64, 2, 1, &o->window, err));
    double control[HD_CONTROL_COUNT] = {0};
    control[HD_CONTROL_LR] = 1e-3;
    OK(hd_exec_upload(&g->ex, control, &o->control, err));
    OK(hd_fill(&g->ex, 0.0, &o->window, err));
}

static inline void optimizer_step(rig *g, optimizer *o)
{
    hd_gate_spec gate = {.clip_threshold = 1.0, .beta1 = 0.9, .beta2 = 0.95, .spike_interval = 1};
    hd_tensor loss = hd_tensor_slice(&g->metrics, 0, HD_METRIC_LOSS, 1);
    OK(hd_fill(&g->ex, 0.0, &o->sumsq, err));
    OK(hd_sumsq(&g->ex, &g->model.grad_flat, &o->sumsq, err));
    OK(hd_step_gate(&g->ex, &gate, &o->sumsq, &loss, &o->window, &o->control, err));
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *param = &g->model.params[i];
        hd_adamw_spec adamw = {0.9, 0.95, 1e-8, 0.0, param->decay ? 0.1 : 0.0};
        if (!param->trained) { continue; }
        OK(hd_adamw(&g->ex, &adamw, &o->control, &param->weight.grad, &param->master, &param->mu, &param->nu,
                    &param->weight.value, err));
    }
}

static inline void step_rows(const golden *gold, int step, rows *x)
{
    const int32_t *tokens = (const int32_t *)golden_data(gold, "steps.tokens") + step * 2 * 65;
    for (int b = 0; b < 2; b++) {
        for (int t = 0; t < 64; t++) {
            x->inputs[b * 64 + t] = tokens[b * 65 + t];
            x->targets[b * 64 + t] = tokens[b * 65 + t + 1];
        }
    }
}

static inline void check_steps(const golden *gold, const char *what)
{
    const double ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    double losses[10]; /* ours over theirs */
    rig g;
    optimizer o;
    rows x = rows_new(2, 64);
    hd_model_options options = options_of(gold, HD_MOE_GROUPED);
    rig_open(&g, &gold->dims, &options, &x);
    optimizer_open(&g, &o);
    golden_fill(gold, &g);
    for (int step = 0; step < 10; step++) {
        hd_arena inputs;
        OK(hd_arena_open(&inputs, "inputs", 1 << 16, err));
        step_rows(gold, step, &x);
        OK(hd_leaf_upload(&g.model, &g.ex, &inputs, &x.r, &g.leaf, err));
        rig_train(&g);
        losses[step] = rig_metric(&g, HD_METRIC_LOSS) / ((const double *)golden_data(gold, "steps.losses"))[step];
        optimizer_step(&g, &o);
        hd_arena_close(&inputs);
    }
    hd_assert_abs_f64(what, losses, ones, 10, 1e-5);
    hd_arena_close(&o.memory);
    rig_close(&g);
    rows_free(&x);
}

static inline void each_model_steps(const char *force)
{
    use_backend(force);
    for (int m = 0; m < N_MODEL; m++) {
        golden *gold = golden_open(models[m]);
        check_steps(gold, models[m]);
        golden_close(gold);
    }
    use_backend(NULL);
}

#endif
