/* A model on three arenas of exactly the size that a dry pass asked for, one leaf, and what tests read back.
 * Every test of the model goes through the dry pass, so each of them also proves that the plan covers the run. */
#ifndef HD_TESTS_MODEL_FIXTURE_H
#define HD_TESTS_MODEL_FIXTURE_H

#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "model/layer.h"
#include "model/model.h"
#include "model/weights.h"
#include "support/compare.h"
#include "support/gen.h"

#define OK(call)                                                                        \
    do {                                                                                \
        hd_err ok_err = {0};                                                            \
        hd_err *err = &ok_err;                                                          \
        (void)err;                                                                      \
        hd_status ok_st = (call);                                                       \
        if (ok_st != HD_OK) { fail_msg("%s: %s", hd_status_name(ok_st), ok_err.msg); }  \
    } while (0)

/* ---- rows on the host -------------------------------------------------------------------------------------------------- */

typedef struct rows {
    hd_leaf_rows r;
    int32_t *inputs, *targets, *positions, *segments;
    float *weights;
} rows;

static inline rows rows_new(int64_t n_seq, int64_t seq_len)
{
    size_t n = (size_t)(n_seq * seq_len);
    rows x = {.inputs = calloc(n, 4), .targets = calloc(n, 4), .positions = calloc(n, 4), .segments = calloc(n, 4),
              .weights = calloc(n, 4)};
    x.r = (hd_leaf_rows){n_seq, seq_len, x.inputs, x.targets, x.positions, x.segments, x.weights};
    for (size_t i = 0; i < n; i++) {
        x.positions[i] = (int32_t)(i % (size_t)seq_len);
        x.segments[i] = 1;
        x.weights[i] = 1.0f;
    }
    return x;
}

static inline void rows_free(rows *x)
{
    free(x->inputs);
    free(x->targets);
    free(x->positions);
    free(x->segments);
    free(x->weights);
}

/* Random tokens, targets the next ones. */
static inline rows rows_random(const char *name, int64_t n_seq, int64_t seq_len, int64_t vocab)
{
    rows x = rows_new(n_seq, seq_len);
    hd_rng rng = hd_test_rng(name);
    for (int64_t b = 0; b < n_seq; b++) {
        for (int64_t t = 0; t < seq_len; t++) {
            int64_t i = b * seq_len + t, j = b * (seq_len + 1) + t;
            x.inputs[i] = (int32_t)hd_rng_below(rng, (uint64_t)vocab, (uint64_t)j);
            x.targets[i] = (int32_t)hd_rng_below(rng, (uint64_t)vocab, (uint64_t)j + 1);
        }
    }
    return x;
}

static inline double rows_weight(const rows *x)
{
    double sum = 0.0;
    for (int64_t i = 0; i < x->r.n_seq * x->r.seq_len; i++) { sum += (double)x->weights[i]; }
    return sum;
}

/* ---- dims and options ---------------------------------------------------------------------------------------------------- */

/* A small V3: one dense layer, two MoE layers, groups, router bias, shared expert, q LoRA, YaRN. */
static inline hd_dims tiny_dims(void)
{
    hd_dims d = {
        .family = HD_FAMILY_V3, .vocab_size = 61, .hidden_size = 24, .intermediate_size = 40, .moe_intermediate_size = 12,
        .n_layer = 3, .n_dense_layer = 1, .n_head = 2, .q_lora_rank = 14, .kv_lora_rank = 12, .qk_nope_head_dim = 8,
        .qk_rope_head_dim = 6, .v_head_dim = 10, .n_expert = 8, .n_shared_expert = 1, .router_bias = true, .mtp_own_norm = true,
        .rms_norm_eps = 1e-6, .latent_norm_eps = 1e-6, .max_position_embeddings = 640, .bos_token_id = 0, .eos_token_id = 1,
        .initializer_range = 0.02,
        .router = {.score_func = HD_SCORE_SIGMOID, .group_rule = HD_GROUP_TOP2_SUM, .n_group = 4, .topk_group = 2, .top_k = 3,
                   .normalize = true, .scale_normalized = true, .routed_scaling = 2.5},
        .rope = {.dim = 6, .n_positions = 640, .theta = 10000.0, .yarn = true, .factor = 40.0,
                 .original_max_position_embeddings = 16, .beta_fast = 32.0, .beta_slow = 1.0, .mscale = 1.0,
                 .mscale_all_dim = 1.0, .truncate = true, .attention_factor = -1.0},
    };
    d.softmax_scale = hd_softmax_scale(14, &d.rope);
    return d;
}

static inline hd_model_options f32_options(void)
{
    return (hd_model_options){
        .dtype = HD_DTYPE_F32, .weight_dtype = HD_DTYPE_F32, .mu_dtype = HD_DTYPE_F32, .attention = HD_ATTENTION_FLASH,
        .moe_strategy = HD_MOE_GROUPED, .mtp_loss_scaling_factor = 0.1, .balance_rule = HD_BALANCE_V3, .max_positions = 640,
        .init_seed = 7, .dense_init_scale = 1.0, .training = true};
}

/* ---- the rig --------------------------------------------------------------------------------------------------------------- */

typedef struct rig {
    hd_arena memory[3]; /* model, step, scratch */
    size_t planned[3];  /* high-water marks of the dry pass */
    hd_exec ex;
    hd_guard guard;
    hd_model model;
    hd_leaf leaf;
    hd_tensor metrics, logits;
} rig;

/* "all=ref" or NULL, for executors made from now on. */
static inline void use_backend(const char *force)
{
    if (force != NULL) {
        setenv("HADAL_FORCE", force, 1);
    } else {
        unsetenv("HADAL_FORCE");
    }
}

static inline void rig_set_totals(rig *g, const rows *x)
{
    g->leaf.weight_total = rows_weight(x);
    g->leaf.mtp_weight_total = hd_leaf_mtp_weight_sum(&x->r, g->model.dims.n_mtp);
    g->leaf.n_seq_total = x->r.n_seq;
    g->leaf.n_token_total = x->r.n_seq * x->r.seq_len;
    g->leaf.first = true;
}

static inline void rig_build(rig *g, const hd_dims *dims, const hd_model_options *options, const rows *x)
{
    int64_t n = x->r.n_seq * x->r.seq_len;
    OK(hd_model_open(dims, options, &g->ex, &g->memory[0], &g->model, err));
    OK(hd_tensor_new_1d(&g->memory[0], HD_DTYPE_F64, hd_model_n_metric(&g->model), &g->metrics, err));
    OK(hd_tensor_new_2d(&g->memory[0], HD_DTYPE_F32, n, dims->vocab_size, &g->logits, err));
    OK(hd_leaf_upload(&g->model, &g->ex, &g->memory[0], &x->r, &g->leaf, err));
    rig_set_totals(g, x);
}

static inline void rig_train(rig *g)
{
    OK(hd_fill(&g->ex, 0.0, &g->metrics, err));
    OK(hd_model_train_leaf(&g->model, &g->ex, &g->memory[1], &g->leaf, &g->metrics, err));
}

static inline void rig_eval(rig *g)
{
    OK(hd_fill(&g->ex, 0.0, &g->metrics, err));
    OK(hd_model_eval_leaf(&g->model, &g->ex, &g->memory[1], &g->leaf, &g->metrics, err));
}

static inline void rig_logits(rig *g)
{
    OK(hd_model_logits(&g->model, &g->ex, &g->memory[1], &g->leaf, 0, &g->logits, err));
}

/* Everything once on dry arenas, then arenas of exactly that size, weights from the initialiser. */
static inline void rig_open_on(rig *g, const hd_dims *dims, const hd_model_options *options, const rows *x, int n_threads,
                               bool guarded)
{
    static const char *const names[3] = {"model", "step", "scratch"};
    *g = (rig){0};
    for (int i = 0; i < 3; i++) { hd_arena_open_dry(&g->memory[i], names[i]); }
    OK(hd_exec_init(&g->ex, &g->memory[2], n_threads, true, err));
    rig_build(g, dims, options, x);
    if (options->training) { rig_train(g); }
    rig_eval(g);
    rig_logits(g);
    hd_model_close(&g->model);
    for (int i = 0; i < 3; i++) {
        g->planned[i] = g->memory[i].high;
        OK(hd_arena_open(&g->memory[i], names[i], g->planned[i], err));
    }
    OK(hd_exec_init(&g->ex, &g->memory[2], n_threads, false, err));
    if (guarded) {
        g->guard = (hd_guard){.arenas = {&g->memory[0], &g->memory[1], &g->memory[2]}, .n_arenas = 3};
        g->ex.guard = &g->guard;
    }
    rig_build(g, dims, options, x);
    OK(hd_model_init_weights(&g->model, &g->ex, err));
}

static inline void rig_open(rig *g, const hd_dims *dims, const hd_model_options *options, const rows *x)
{
    rig_open_on(g, dims, options, x, 1, false);
}

static inline void rig_close(rig *g)
{
    hd_model_close(&g->model);
    for (int i = 0; i < 3; i++) { hd_arena_close(&g->memory[i]); }
}

/* ---- values ------------------------------------------------------------------------------------------------------------------- */

static inline void read_tensor(rig *g, const hd_tensor *t, void *out)
{
    OK(hd_exec_read(&g->ex, t, out, err));
}

static inline double rig_metric(rig *g, int metric)
{
    double value;
    hd_tensor t = hd_tensor_slice(&g->metrics, 0, metric, 1);
    read_tensor(g, &t, &value);
    return value;
}

static inline hd_param *rig_param(rig *g, const char *name)
{
    for (int64_t i = 0; i < g->model.n_param; i++) {
        if (strcmp(g->model.params[i].name, name) == 0) { return &g->model.params[i]; }
    }
    fail_msg("no parameter %s", name);
    return NULL;
}

/* A fresh copy of a contiguous f32 tensor; free with free. */
static inline float *floats_of(rig *g, const hd_tensor *t)
{
    float *out = malloc((size_t)hd_tensor_count(t) * sizeof *out + 1);
    read_tensor(g, t, out);
    return out;
}

static inline int64_t n_grads(const rig *g) { return hd_tensor_count(&g->model.grad_flat); }

/* Weights that make every part matter: random router bias, norms around 1, otherwise the initialiser's with larger routers. */
static inline void rig_roughen(rig *g)
{
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *param = &g->model.params[i];
        int64_t n = hd_tensor_count(&param->weight.value);
        bool bias = !param->spec->trained, norm = param->spec->n_axis == 1 && !bias;
        if (!bias && !norm) { continue; }
        float *values = malloc((size_t)n * sizeof *values);
        uint16_t *narrow = malloc((size_t)n * sizeof *narrow);
        hd_gen_normal_f32(param->name, bias ? 0.1 : 0.2, values, n);
        for (int64_t j = 0; j < n; j++) { values[j] += bias ? 0.3f : 1.0f; }
        for (int64_t j = 0; j < n; j++) { narrow[j] = hd_f32_to_bf16(values[j]); }
        bool is_narrow = param->weight.value.dtype == HD_DTYPE_BF16;
        OK(hd_exec_upload(&g->ex, is_narrow ? (void *)narrow : values, &param->weight.value, err));
        free(values);
        free(narrow);
    }
}

#endif
