/* A tiny V3 with one MTP module, filled with numbers of its own, and the trainer's values beside it: what the tests of
 * checkpoints save, damage and load. */
#ifndef HD_TESTS_CHECKPOINT_FIXTURE_H
#define HD_TESTS_CHECKPOINT_FIXTURE_H

#include "support/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fault.h"
#include "base/io.h"
#include "checkpoint/checkpoint.h"
#include "hadal/checkpoint.h"
#include "hadal/log.h"

static hd_err err; /* of the call in work: what assert_ok and assert_fails look at */

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* All lines logged since the last clear; the sink runs under a lock of its own. */
typedef struct log_book {
    pthread_mutex_t mutex;
    char text[1 << 16];
    size_t n;
} log_book;

static log_book book = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static inline void book_line(void *context, hd_log_level level, const char *text)
{
    log_book *b = context;
    pthread_mutex_lock(&b->mutex);
    int n = snprintf(b->text + b->n, sizeof b->text - b->n, "%s%s\n", level == HD_LOG_WARN ? "warning: " : "", text);
    if (n > 0 && b->n + (size_t)n < sizeof b->text) { b->n += (size_t)n; }
    pthread_mutex_unlock(&b->mutex);
}

static inline void book_clear(void)
{
    pthread_mutex_lock(&book.mutex);
    book.n = 0;
    book.text[0] = '\0';
    pthread_mutex_unlock(&book.mutex);
}

static inline bool book_has(const char *text)
{
    pthread_mutex_lock(&book.mutex);
    bool found = strstr(book.text, text) != NULL;
    pthread_mutex_unlock(&book.mutex);
    return found;
}

#define assert_logged(wanted)                                                                       \
    do {                                                                                            \
        if (!book_has(wanted)) { fail_msg("not logged: \"%s\"; the log is:\n%s", (wanted), book.text); } \
    } while (0)

/* ---- the rig ------------------------------------------------------------------------------------------------------- */

static inline hd_dims small_dims(void)
{
    hd_dims d = {
        .family = HD_FAMILY_V3, .vocab_size = 32, .hidden_size = 16, .intermediate_size = 24, .moe_intermediate_size = 8,
        .n_layer = 2, .n_dense_layer = 1, .n_head = 2, .q_lora_rank = 8, .kv_lora_rank = 8, .qk_nope_head_dim = 4,
        .qk_rope_head_dim = 4, .v_head_dim = 4, .n_expert = 4, .n_shared_expert = 1, .router_bias = true, .n_mtp = 1,
        .mtp_own_norm = true, .rms_norm_eps = 1e-6, .latent_norm_eps = 1e-6, .max_position_embeddings = 64, .bos_token_id = 0,
        .eos_token_id = 1, .initializer_range = 0.02,
        .router = {.score_func = HD_SCORE_SIGMOID, .group_rule = HD_GROUP_TOP2_SUM, .n_group = 2, .topk_group = 1, .top_k = 2,
                   .normalize = true, .scale_normalized = true, .routed_scaling = 2.5},
        .rope = {.dim = 4, .n_positions = 64, .theta = 10000.0, .yarn = true, .factor = 4.0, .original_max_position_embeddings = 16,
                 .beta_fast = 32.0, .beta_slow = 1.0, .mscale = 1.0, .mscale_all_dim = 1.0, .truncate = true,
                 .attention_factor = -1.0},
    };
    d.softmax_scale = hd_softmax_scale(d.qk_nope_head_dim + d.qk_rope_head_dim, &d.rope);
    return d;
}

enum { RIG_VALUES = 6 };

typedef struct rig {
    hd_arena model_memory, scratch, snapshot;
    hd_exec ex;
    hd_model model;
    hd_tensor control, window;
    int64_t position[3], seed;
    double mean[2];
    char source[32];
    hd_ckpt_value values[RIG_VALUES];
    hd_ckpt_state state;
} rig;

static inline void rig_build(rig *g, const hd_dims *dims, hd_dtype weights, bool training)
{
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = weights, .mu_dtype = HD_DTYPE_F32, .max_positions = 16,
                                .training = training, .dense_init_scale = 1.0};
    assert_ok(hd_model_open(dims, &options, &g->ex, &g->model_memory, &g->model, &err));
    assert_ok(hd_tensor_new_1d(&g->model_memory, HD_DTYPE_F64, 8, &g->control, &err));
    assert_ok(hd_tensor_new_2d(&g->model_memory, HD_DTYPE_F64, 2, 6, &g->window, &err));
}

static inline void rig_open_dims(rig *g, const hd_dims *dims, hd_dtype weights, bool training)
{
    *g = (rig){0};
    hd_arena_open_dry(&g->model_memory, "model");
    hd_arena_open_dry(&g->scratch, "scratch");
    assert_ok(hd_exec_init(&g->ex, &g->scratch, 1, true, &err));
    rig_build(g, dims, weights, training);
    hd_model_close(&g->model);
    size_t planned = g->model_memory.high, scratch = g->scratch.high + 65536;
    assert_ok(hd_arena_open(&g->model_memory, "model", planned, &err));
    assert_ok(hd_arena_open(&g->scratch, "scratch", scratch, &err));
    assert_ok(hd_exec_init(&g->ex, &g->scratch, 1, false, &err));
    rig_build(g, dims, weights, training);
    g->values[0] = (hd_ckpt_value){.name = "iterator.position", .kind = HD_CKPT_I64, .n = 3, .i64 = g->position};
    g->values[1] = (hd_ckpt_value){.name = "random.seed", .kind = HD_CKPT_I64, .n = 1, .i64 = &g->seed};
    g->values[2] = (hd_ckpt_value){.name = "spike.mean", .kind = HD_CKPT_F64, .n = 2, .f64 = g->mean};
    g->values[3] = (hd_ckpt_value){.name = "iterator.source", .kind = HD_CKPT_TEXT, .n = sizeof g->source, .text = g->source};
    g->values[4] = (hd_ckpt_value){.name = "optimizer.control", .kind = HD_CKPT_TENSOR, .tensor = &g->control};
    g->values[5] = (hd_ckpt_value){.name = "spike.window", .kind = HD_CKPT_TENSOR, .tensor = &g->window, .optional = true};
    g->state = (hd_ckpt_state){.model = &g->model, .step = -1, .values = g->values, .n_value = RIG_VALUES, .config_digest = "abc123"};
}

static inline void rig_open(rig *g, hd_dtype weights)
{
    hd_dims dims = small_dims();
    rig_open_dims(g, &dims, weights, true);
}

static inline void rig_close(rig *g)
{
    hd_model_close(&g->model);
    hd_arena_close(&g->model_memory);
    hd_arena_close(&g->scratch);
    hd_arena_close(&g->snapshot);
}

static inline void fill_tensor(rig *g, const char *name, const char *role, int64_t step, hd_tensor *t)
{
    char key[512];
    int64_t n = hd_tensor_count(t);
    float *values = malloc((size_t)n * 4 + 4);
    uint16_t *narrow = malloc((size_t)n * 2 + 2);
    double *wide = malloc((size_t)n * 8 + 8);
    (void)snprintf(key, sizeof key, "%s %s %lld", role, name, (long long)step);
    hd_gen_normal_f32(key, 0.3, values, n);
    for (int64_t i = 0; i < n; i++) {
        narrow[i] = hd_f32_to_bf16(values[i]);
        wide[i] = (double)values[i] * 1.0000001;
    }
    const void *from = t->dtype == HD_DTYPE_F32 ? (const void *)values : t->dtype == HD_DTYPE_BF16 ? (const void *)narrow : wide;
    assert_ok(hd_exec_upload(&g->ex, from, t, &err));
    free(values);
    free(narrow);
    free(wide);
}

/* Numbers that depend on the step alone: a state is recognised by them. */
static inline void rig_fill(rig *g, int64_t step)
{
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *p = &g->model.params[i];
        bool own_master = p->master.n_dim > 0 && p->weight.value.dtype != HD_DTYPE_F32;
        fill_tensor(g, p->name, "weight", step, &p->weight.value);
        if (own_master) { fill_tensor(g, p->name, "weight", step, &p->master); } /* the value is its master, rounded */
        if (p->mu.n_dim > 0) { fill_tensor(g, p->name, "mu", step, &p->mu); }
        if (p->nu.n_dim > 0) { fill_tensor(g, p->name, "nu", step, &p->nu); }
    }
    fill_tensor(g, "control", "state", step, &g->control);
    fill_tensor(g, "window", "state", step, &g->window);
    for (int i = 0; i < 3; i++) { g->position[i] = step * 1000 + i; }
    g->seed = (int64_t)0x7FFFFFFFFFFFFFF0 + step % 8;
    g->mean[0] = 1.0 / (double)(step + 3);
    g->mean[1] = step % 2 == 0 ? -0.0 : 1e300;
    (void)snprintf(g->source, sizeof g->source, "text \"%lld\"", (long long)step);
    g->state.step = step;
}

/* ---- comparing states ---------------------------------------------------------------------------------------------- */

static inline void assert_same_tensor(rig *a, const hd_tensor *x, rig *b, const hd_tensor *y, const char *name)
{
    assert_int_equal(x->n_dim, y->n_dim);
    if (x->n_dim == 0) { return; }
    assert_int_equal(x->dtype, y->dtype);
    int64_t n = hd_tensor_count(x);
    size_t bytes = (size_t)n * hd_dtype_bytes(x->dtype);
    void *p = malloc(bytes + 1), *q = malloc(bytes + 1);
    assert_ok(hd_exec_read(&a->ex, x, p, &err));
    assert_ok(hd_exec_read(&b->ex, y, q, &err));
    if (memcmp(p, q, bytes) != 0) { fail_msg("%s differs", name); }
    free(p);
    free(q);
}

/* Whether g holds, bit for bit, what rig_fill(step) made. */
static inline void assert_state(rig *g, int64_t step)
{
    rig want;
    rig_open_dims(&want, &g->model.dims, g->model.options.weight_dtype, g->model.options.training);
    rig_fill(&want, step);
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *p = &g->model.params[i], *q = &want.model.params[i];
        assert_same_tensor(g, &p->weight.value, &want, &q->weight.value, p->name);
        assert_same_tensor(g, &p->master, &want, &q->master, p->name);
        assert_same_tensor(g, &p->mu, &want, &q->mu, p->name);
        assert_same_tensor(g, &p->nu, &want, &q->nu, p->name);
    }
    assert_same_tensor(g, &g->control, &want, &want.control, "control");
    assert_same_tensor(g, &g->window, &want, &want.window, "window");
    assert_memory_equal(g->position, want.position, sizeof want.position);
    assert_true(g->seed == want.seed);
    assert_memory_equal(g->mean, want.mean, sizeof want.mean);
    assert_string_equal(g->source, want.source);
    assert_true(g->state.step == step);
    rig_close(&want);
}

/* ---- stores -------------------------------------------------------------------------------------------------------- */

static inline hd_ckpt_store *open_store(const char *run_dir, int64_t keep, bool async)
{
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = run_dir, .keep = keep, .async = async};
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    return store;
}

static inline void save_step(hd_ckpt_store *store, rig *g, int64_t step)
{
    rig_fill(g, step);
    assert_ok(hd_ckpt_save(store, &g->ex, &g->state, &err));
}

/* A run directory with checkpoints of the given steps. */
static inline void make_run(const char *run_dir, rig *g, const int64_t *steps, int n)
{
    hd_ckpt_store *store = open_store(run_dir, 0, false);
    for (int i = 0; i < n; i++) { save_step(store, g, steps[i]); }
    assert_ok(hd_ckpt_store_close(store, &err));
}

/* The step that a fresh process would resume from; -1 when there is none.  The state must be that step's, bit for bit. */
static inline int64_t resumed_step(const char *run_dir, hd_dtype weights)
{
    rig g;
    bool found = false;
    rig_open(&g, weights);
    hd_ckpt_store *store = open_store(run_dir, 0, false);
    assert_ok(hd_ckpt_resume(store, &g.ex, &g.state, &found, &err));
    if (found) { assert_state(&g, g.state.step); }
    int64_t step = found ? g.state.step : -1;
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    return step;
}

/* Entries of <run_dir>/checkpoints; *partial: those that are not plain steps. */
static inline int count_entries(const char *run_dir, int *partial)
{
    hd_io_names names;
    char dir[4096];
    (void)snprintf(dir, sizeof dir, "%s/checkpoints", run_dir);
    assert_ok(hd_io_list(dir, &names, &err));
    int n = (int)names.n;
    *partial = 0;
    for (size_t i = 0; i < names.n; i++) { *partial += strspn(names.name[i], "0123456789") != strlen(names.name[i]); }
    hd_io_names_free(&names);
    return n;
}

#endif
