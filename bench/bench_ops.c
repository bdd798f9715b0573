/* Speed of every op but the matrix products, beside what the machine can do.
 *
 *   bench_ops [isa=avx2|avx512|base] [threads=N] [ops=attention,adamw,...] [lengths=256,1024,...] [heads=16]
 *             [dtypes=f32,bf16] [seconds=0.4] [clock=cpu]
 *
 * First the ceilings: fused multiply-adds per second, and the best rate of three ways to move 240 MiB: reading two streams
 * a thread, adding in place, copying.  Then one line per op and case: the best of the repeats that fit into `seconds`, and
 * its share of the bound, max(FLOPs / peak, bytes / bandwidth).  FLOPs and bytes are those of the op's contract (attention:
 * visible pairs only; every input read once, every output written once, outputs accumulated into read as well).
 * clock=cpu counts processor time: with threads=1, for a machine that others use too. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/parallel_for.h"
#include "ops/cpu/latent_plan.h"
#include "ops/ops.h"

enum { MAX_LENGTHS = 16 };

typedef struct bench {
    hd_exec ex;
    hd_arena data, scratch;
    hd_err err;
    const char *ops, *dtypes;
    int64_t lengths[MAX_LENGTHS], heads;
    int n_lengths;
    double seconds, peak, bandwidth;
} bench;

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(bench *b, hd_status st)
{
    if (st == HD_OK) { return; }
    fprintf(stderr, "bench_ops: %s\n", b->err.msg);
    exit(1);
}

/* ---- timing:  for (timer t = timer_start(b); timer_next(&t);) { call }  leaves the best time in t.best ---- */

typedef struct timer {
    double end, begin, best;
    int n;
} timer;

static timer timer_start(const bench *b)
{
    return (timer){.end = now() + b->seconds, .best = 1e30};
}

static bool timer_next(timer *t)
{
    double at = now();
    if (t->n > 1 && at - t->begin < t->best) { t->best = at - t->begin; } /* the first run warms up */
    if (t->n > 3 && at > t->end) { return false; }
    t->n++;
    t->begin = now();
    return true;
}

static void report(const bench *b, const char *op, const char *detail, double flops, double bytes, double seconds)
{
    double bound = flops / b->peak > bytes / b->bandwidth ? flops / b->peak : bytes / b->bandwidth;
    printf("| %s | %s | %.3f | %.1f | %.1f | %.0f %% |\n", op, detail, seconds * 1e3, flops / seconds * 1e-9,
           bytes / seconds * 1e-9, 100.0 * bound / seconds);
    fflush(stdout);
}

static bool wanted(const char *list, const char *word)
{
    return list == NULL || strstr(list, word) != NULL;
}

/* ---- ceilings ---- */

typedef struct stream {
    float *a, *b;
    int64_t per_item;
    float sink[256];
} stream;

typedef float v8f __attribute__((vector_size(32), may_alias));

static void stream_read(void *arg, int64_t item, int thread)
{
    stream *s = arg;
    int64_t half = s->per_item / 2;
    const float *p = s->a + item * s->per_item, *q = p + half;
    v8f sum[4] = {{0}};
    (void)thread;
    for (int64_t i = 0; i < half; i += 16) {
        __builtin_prefetch(p + i + 128);
        __builtin_prefetch(q + i + 128);
        for (int v = 0; v < 2; v++) {
            sum[v] += *(const v8f *)(p + i + 8 * v);
            sum[2 + v] += *(const v8f *)(q + i + 8 * v);
        }
    }
    s->sink[item % 256] = sum[0][0] + sum[1][0] + sum[2][0] + sum[3][0];
}

static void stream_add(void *arg, int64_t item, int thread)
{
    stream *s = arg;
    const float *x = s->a + item * s->per_item;
    float *y = s->b + item * s->per_item;
    (void)thread;
    for (int64_t i = 0; i < s->per_item; i += 8) { *(v8f *)(y + i) += *(const v8f *)(x + i); }
}

static void stream_copy(void *arg, int64_t item, int thread)
{
    stream *s = arg;
    (void)thread;
    memcpy(s->b + item * s->per_item, s->a + item * s->per_item, (size_t)s->per_item * sizeof(float));
}

static double stream_rate(bench *b, hd_loop_body body, stream *s, double bytes)
{
    timer t = timer_start(b);
    while (timer_next(&t)) { hd_parallel_for(b->ex.n_threads, b->ex.n_threads, body, s); }
    return bytes / t.best;
}

static hd_tensor new_tensor(bench *b, hd_dtype dtype, int n_dim, int64_t d0, int64_t d1, int64_t d2)
{
    hd_tensor t;
    int64_t shape[3] = {d0, d1, d2};
    must(b, hd_tensor_new(&b->data, dtype, n_dim, shape, &t, &b->err));
    return t;
}

static void measure_bandwidth(bench *b)
{
    size_t mark = hd_arena_mark(&b->data);
    int64_t n = 60 << 20; /* no power of two: arrays at such distances would share way predictions */
    hd_tensor x = new_tensor(b, HD_DTYPE_F32, 1, n, 1, 1), y = new_tensor(b, HD_DTYPE_F32, 1, n, 1, 1);
    stream s = {.a = x.data, .b = y.data, .per_item = n / b->ex.n_threads / 64 * 64};
    memset(x.data, 0, (size_t)n * 4);
    memset(y.data, 0, (size_t)n * 4);
    double read = stream_rate(b, stream_read, &s, 4.0 * (double)n),
           add = stream_rate(b, stream_add, &s, 12.0 * (double)n);
    double copy = stream_rate(b, stream_copy, &s, 8.0 * (double)n);
    b->bandwidth = read > add ? read : add;
    if (copy > b->bandwidth) { b->bandwidth = copy; }
    printf("ceilings: %.1f GFLOP/s; read %.1f, add in place %.1f, copy %.1f GB/s\n\n", b->peak * 1e-9, read * 1e-9,
           add * 1e-9, copy * 1e-9);
    hd_arena_release(&b->data, mark);
}

/* ---- operands ---- */

static hd_tensor filled(bench *b, hd_dtype dtype, int n_dim, int64_t d0, int64_t d1, int64_t d2)
{
    hd_tensor t = new_tensor(b, dtype, n_dim, d0, d1, d2);
    uint32_t s = 12345;
    for (int64_t i = 0; i < hd_tensor_count(&t); i++) {
        s = s * 1664525u + 1013904223u;
        float x = (float)(int32_t)s * 4.6566e-10f;
        if (dtype == HD_DTYPE_BF16) {
            ((uint16_t *)t.data)[i] = hd_f32_to_bf16(x);
        } else {
            ((float *)t.data)[i] = x;
        }
    }
    return t;
}

static hd_tensor zeros(bench *b, hd_dtype dtype, int n_dim, int64_t d0, int64_t d1, int64_t d2)
{
    hd_tensor t = new_tensor(b, dtype, n_dim, d0, d1, d2);
    memset(t.data, 0, (size_t)hd_tensor_count(&t) * hd_dtype_bytes(dtype));
    return t;
}

/* Integers in [0, limit). */
static hd_tensor integers(bench *b, int n_dim, int64_t d0, int64_t d1, int64_t limit)
{
    hd_tensor t = new_tensor(b, HD_DTYPE_I32, n_dim, d0, d1, 1);
    uint32_t s = 777;
    for (int64_t i = 0; i < hd_tensor_count(&t); i++) {
        s = s * 1664525u + 1013904223u;
        ((int32_t *)t.data)[i] = (int32_t)((int64_t)(s >> 8) * limit >> 24);
    }
    return t;
}

static hd_weight weight_of(hd_tensor value, hd_tensor grad)
{
    return (hd_weight){.value = value, .grad = grad};
}

static const char *dtype_label(hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? "bf16" : "f32";
}
static double size_of(hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? 2.0 : 4.0;
}

/* ---- attention ---- */

static void bench_attention_length(bench *b, int64_t length, hd_dtype dtype)
{
    enum { NOPE = 128, ROPE = 64, VALUE = 128 };
    size_t mark = hd_arena_mark(&b->data);
    int64_t h = b->heads;
    hd_attention_shape shape = {.n_seq = 1, .seq_len = length, .scale = 0.1147, .impl = HD_ATTENTION_FLASH};
    hd_tensor q = filled(b, dtype, 3, length, h, NOPE + ROPE), kn = filled(b, dtype, 3, length, h, NOPE);
    hd_tensor kr = filled(b, dtype, 2, length, ROPE, 1), v = filled(b, dtype, 3, length, h, VALUE);
    hd_tensor seg = integers(b, 1, length, 1, 1), o = zeros(b, dtype, 3, length, h, VALUE);
    hd_tensor lse = zeros(b, HD_DTYPE_F32, 3, 1, h, length), d_o = filled(b, dtype, 3, length, h, VALUE);
    hd_tensor dq = zeros(b, dtype, 3, length, h, NOPE + ROPE), dkn = zeros(b, dtype, 3, length, h, NOPE);
    hd_tensor dkr = zeros(b, dtype, 2, length, ROPE, 1), dv = zeros(b, dtype, 3, length, h, VALUE);
    double pairs = (double)h * (double)length * (double)(length + 1) / 2, unit = size_of(dtype) * (double)(length * h);
    char detail[64];
    (void)snprintf(detail, sizeof detail, "%s T=%lld H=%lld 192/128", dtype_label(dtype), (long long)length,
                   (long long)h);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_attention_fwd(&b->ex, &shape, &q, &kn, &kr, &v, &seg, &o, &lse, &b->err)); }
    report(b, "attention_fwd", detail, 640.0 * pairs, unit * 576, t.best);
    t = timer_start(b);
    while (timer_next(&t)) {
        must(b,
             hd_attention_bwd(&b->ex, &shape, &d_o, &q, &kn, &kr, &v, &seg, &o, &lse, &dq, &dkn, &dkr, &dv, &b->err));
    }
    report(b, "attention_bwd", detail, 1664.0 * pairs, unit * 1152, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_attention(bench *b, hd_dtype dtype)
{
    for (int i = 0; i < b->n_lengths; i++) { bench_attention_length(b, b->lengths[i], dtype); }
}

/* ---- attention against latent caches: V2-Lite's widths; FLOPs of the form that the kernels choose ---- */

enum { LATENT_RANK = 512, LATENT_NOPE = 128, LATENT_ROPE = 64, LATENT_VALUE = 128, LATENT_SEQUENCES = 8 };

static void bench_latent_case(bench *b, hd_dtype dtype, int64_t n_sequence, int64_t past, int64_t n_new)
{
    size_t mark = hd_arena_mark(&b->data);
    int64_t h = b->heads, n_row = n_sequence * n_new, length = past + n_new;
    hd_latent_spec spec = {h, LATENT_NOPE, LATENT_ROPE, LATENT_VALUE, LATENT_RANK, 0.1147};
    hd_latent_sequence list[LATENT_SEQUENCES];
    for (int64_t i = 0; i < n_sequence; i++) { list[i] = (hd_latent_sequence){filled(b, dtype, 2, length, LATENT_RANK + LATENT_ROPE, 1), n_new}; }
    hd_tensor q = filled(b, dtype, 2, n_row, h * (LATENT_NOPE + LATENT_ROPE), 1), o = zeros(b, dtype, 2, n_row, h * LATENT_VALUE, 1);
    hd_weight w = {.value = filled(b, dtype, 2, h * (LATENT_NOPE + LATENT_VALUE), LATENT_RANK, 1)};
    double cost = latent_is_expanded(&spec, n_new, length) ? latent_expanded_cost(&spec, n_new, length) : latent_absorbed_cost(&spec, n_new, length);
    double elements = (double)(n_sequence * length * (LATENT_RANK + LATENT_ROPE) + h * (LATENT_NOPE + LATENT_VALUE) * LATENT_RANK);
    char detail[96];
    (void)snprintf(detail, sizeof detail, "%s H=%lld, %lld x %lld new behind %lld", dtype_label(dtype), (long long)h, (long long)n_sequence,
                   (long long)n_new, (long long)past);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_latent_attention_fwd(&b->ex, &spec, &q, list, n_sequence, &w, &o, &b->err)); }
    report(b, "latent_attention_fwd", detail, 2.0 * (double)(n_sequence * h) * cost, size_of(dtype) * elements, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_latent(bench *b, hd_dtype dtype)
{
    static const int64_t cases[][3] = {{1, 0, 1},    {1, 128, 1},  {1, 512, 1},  {1, 4096, 1},  {1, 16384, 1},  {1, 4096, 4},
                                       {8, 0, 1},    {8, 4096, 1}, {1, 0, 128},  {1, 0, 512},   {1, 4096, 128}, {1, 4096, 512}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { bench_latent_case(b, dtype, cases[i][0], cases[i][1], cases[i][2]); }
}

/* ---- rows of activations: V2-Lite's widths, 8,192 tokens ---- */

enum { TOKENS = 8192, WIDTH = 2048, EXPERT_WIDTH = 1408 };

static void bench_norm(bench *b, hd_dtype dtype)
{
    size_t mark = hd_arena_mark(&b->data);
    hd_tensor x = filled(b, dtype, 2, TOKENS, WIDTH, 1), dy = filled(b, dtype, 2, TOKENS, WIDTH, 1);
    hd_tensor y = zeros(b, dtype, 2, TOKENS, WIDTH, 1), rstd = zeros(b, HD_DTYPE_F32, 1, TOKENS, 1, 1);
    hd_weight w = weight_of(filled(b, dtype, 1, WIDTH, 1, 1), zeros(b, HD_DTYPE_F32, 1, WIDTH, 1, 1));
    double n = (double)TOKENS * WIDTH, s = size_of(dtype);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_rmsnorm_fwd(&b->ex, &x, &w, 1e-6, &y, &rstd, &b->err)); }
    report(b, "rmsnorm_fwd", dtype_label(dtype), 4 * n, 2 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_rmsnorm_bwd(&b->ex, &dy, &x, &rstd, &w, HD_SET, &y, &b->err)); }
    report(b, "rmsnorm_bwd", dtype_label(dtype), 10 * n, 3 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_rmsnorm_bwd(&b->ex, &dy, &x, &rstd, &w, HD_ADD, &y, &b->err)); }
    report(b, "rmsnorm_bwd, add", dtype_label(dtype), 11 * n, 4 * s * n, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_rope(bench *b, hd_dtype dtype)
{
    size_t mark = hd_arena_mark(&b->data);
    int64_t heads = 16, width = 192, rope = 64;
    hd_tensor x = filled(b, dtype, 3, TOKENS, heads, width), positions = integers(b, 1, TOKENS, 1, TOKENS);
    for (int64_t i = 0; i < TOKENS; i++) { ((int32_t *)positions.data)[i] = (int32_t)i; }
    hd_tensor table = filled(b, HD_DTYPE_F32, 3, TOKENS, rope / 2, 2),
              view = hd_tensor_slice(&x, 2, width - rope, rope);
    double n = (double)TOKENS * (double)(heads * rope);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_rope(&b->ex, &positions, &table, 1, &view, &b->err)); }
    report(b, "rope", dtype_label(dtype), 3 * n, 2 * size_of(dtype) * n, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_swiglu(bench *b, hd_dtype dtype)
{
    size_t mark = hd_arena_mark(&b->data);
    hd_tensor g = filled(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1), u = filled(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1);
    hd_tensor h = zeros(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1), dg = zeros(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1);
    hd_tensor du = zeros(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1), dh = filled(b, dtype, 2, TOKENS, EXPERT_WIDTH, 1);
    hd_tensor w = filled(b, HD_DTYPE_F32, 1, TOKENS, 1, 1), dw = zeros(b, HD_DTYPE_F32, 1, TOKENS, 1, 1);
    double n = (double)TOKENS * EXPERT_WIDTH, s = size_of(dtype);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_swiglu_fwd(&b->ex, &g, &u, NULL, &h, &b->err)); }
    report(b, "swiglu_fwd", dtype_label(dtype), 24 * n, 3 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_swiglu_bwd(&b->ex, &dh, &g, &u, &dg, &du, &b->err)); }
    report(b, "swiglu_bwd", dtype_label(dtype), 30 * n, 5 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_moe_swiglu_bwd(&b->ex, &dh, &g, &u, &w, NULL, &dg, &du, &h, &dw, &b->err)); }
    report(b, "moe_swiglu_bwd", dtype_label(dtype), 34 * n, 6 * s * n, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_elementwise(bench *b, hd_dtype dtype)
{
    size_t mark = hd_arena_mark(&b->data);
    int64_t vocabulary = 102400;
    hd_tensor x = filled(b, dtype, 2, TOKENS, WIDTH, 1), y = filled(b, dtype, 2, TOKENS, WIDTH, 1);
    hd_tensor z = zeros(b, dtype, 2, TOKENS, WIDTH, 1), ids = integers(b, 1, TOKENS, 1, vocabulary);
    double n = (double)TOKENS * WIDTH, s = size_of(dtype);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_add(&b->ex, &x, &y, &z, &b->err)); }
    report(b, "add", dtype_label(dtype), n, 3 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_copy(&b->ex, &x, &z, &b->err)); }
    report(b, "copy", dtype_label(dtype), 0, 2 * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_fill(&b->ex, 1.0, &z, &b->err)); }
    report(b, "fill", dtype_label(dtype), 0, s * n, t.best);
    if (wanted(b->ops, "embedding")) {
        hd_weight w = weight_of(zeros(b, dtype, 2, vocabulary / 4, WIDTH, 1),
                                zeros(b, HD_DTYPE_F32, 2, vocabulary / 4, WIDTH, 1));
        for (int64_t i = 0; i < TOKENS; i++) { ((int32_t *)ids.data)[i] /= 4; }
        t = timer_start(b);
        while (timer_next(&t)) { must(b, hd_embedding_fwd(&b->ex, &ids, &w, &z, &b->err)); }
        report(b, "embedding_fwd", dtype_label(dtype), 0, 2 * s * n, t.best);
        w.grad_accum = HD_ADD;
        t = timer_start(b);
        while (timer_next(&t)) { must(b, hd_embedding_bwd(&b->ex, &ids, &x, &w, &b->err)); }
        report(b, "embedding_bwd, add", dtype_label(dtype), n, (s + 8) * n, t.best);
    }
    hd_arena_release(&b->data, mark);
}

/* ---- mixture of experts: V3's router, V2-Lite's rows ---- */

static void bench_router(bench *b)
{
    enum { EXPERTS = 256, TOP_K = 8 };
    size_t mark = hd_arena_mark(&b->data);
    hd_router_spec spec = {.score_func = HD_SCORE_SIGMOID,
                           .group_rule = HD_GROUP_TOP2_SUM,
                           .n_group = 8,
                           .topk_group = 4,
                           .top_k = TOP_K,
                           .normalize = true,
                           .scale_normalized = true,
                           .routed_scaling = 2.5};
    hd_tensor logits = filled(b, HD_DTYPE_F32, 2, TOKENS, EXPERTS, 1), bias = filled(b, HD_DTYPE_F32, 1, EXPERTS, 1, 1);
    hd_tensor scores = zeros(b, HD_DTYPE_F32, 2, TOKENS, EXPERTS, 1), ids = integers(b, 2, TOKENS, TOP_K, EXPERTS);
    hd_tensor weights = zeros(b, HD_DTYPE_F32, 2, TOKENS, TOP_K, 1), dw = filled(b, HD_DTYPE_F32, 2, TOKENS, TOP_K, 1);
    hd_tensor dl = zeros(b, HD_DTYPE_F32, 2, TOKENS, EXPERTS, 1);
    double n = (double)TOKENS * EXPERTS;
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_router_fwd(&b->ex, &spec, &logits, &bias, &scores, &ids, &weights, &b->err)); }
    report(b, "router_fwd", "256 experts, 8 of 4 of 8 groups", 24 * n, 8 * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_router_bwd(&b->ex, &spec, &dw, NULL, &scores, &ids, &weights, &dl, &b->err)); }
    report(b, "router_bwd", "256 experts", 4 * n, 8 * n, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_moves(bench *b, hd_dtype dtype)
{
    enum { EXPERTS = 64, TOP_K = 6, ROWS = TOKENS / 4 };
    size_t mark = hd_arena_mark(&b->data);
    hd_dispatch_spec spec = {.n_expert = EXPERTS, .top_k = TOP_K, .seq_len = ROWS};
    hd_tensor ids = integers(b, 2, ROWS, TOP_K, EXPERTS), claim = integers(b, 1, ROWS * TOP_K, 1, 1);
    hd_tensor offsets = integers(b, 1, EXPERTS + 1, 1, 1), row_of = integers(b, 2, ROWS, TOP_K, 1);
    hd_tensor x = filled(b, dtype, 2, ROWS, WIDTH, 1), xs = zeros(b, dtype, 2, ROWS * TOP_K, WIDTH, 1);
    hd_tensor weights = filled(b, HD_DTYPE_F32, 2, ROWS, TOP_K, 1);
    double n = (double)ROWS * WIDTH, s = size_of(dtype);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_moe_dispatch(&b->ex, &spec, &ids, &claim, &offsets, &row_of, &b->err)); }
    report(b, "moe_dispatch", "2,048 tokens x 6", 0, 16.0 * ROWS * TOP_K, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_moe_gather(&b->ex, &x, &claim, &offsets, TOP_K, &xs, &b->err)); }
    report(b, "moe_gather", dtype_label(dtype), 0, (1 + TOP_K) * s * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_moe_combine(&b->ex, &xs, &row_of, &weights, HD_SET, &x, &b->err)); }
    report(b, "moe_combine", dtype_label(dtype), 2 * TOP_K * n, (1 + TOP_K) * s * n, t.best);
    hd_arena_release(&b->data, mark);
}

/* ---- loss ---- */

static void bench_loss(bench *b)
{
    enum { ROWS = 256, VOCABULARY = 102400 };
    size_t mark = hd_arena_mark(&b->data);
    hd_tensor z = filled(b, HD_DTYPE_F32, 2, ROWS, VOCABULARY, 1), targets = integers(b, 1, ROWS, 1, VOCABULARY);
    hd_tensor max = zeros(b, HD_DTYPE_F32, 1, ROWS, 1, 1), sum = zeros(b, HD_DTYPE_F32, 1, ROWS, 1, 1);
    hd_tensor target = zeros(b, HD_DTYPE_F32, 1, ROWS, 1, 1), lse = filled(b, HD_DTYPE_F32, 1, ROWS, 1, 1);
    hd_tensor w = filled(b, HD_DTYPE_F32, 1, ROWS, 1, 1), dz = zeros(b, HD_DTYPE_F32, 2, ROWS, VOCABULARY, 1);
    double n = (double)ROWS * VOCABULARY;
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_xent_partial(&b->ex, &z, &targets, 0, &max, &sum, &target, &b->err)); }
    report(b, "xent_partial", "256 x 102,400", 19 * n, 4 * n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_xent_bwd(&b->ex, &z, &targets, 0, &lse, &w, 1e-4, 1e-3, &dz, &b->err)); }
    report(b, "xent_bwd", "256 x 102,400", 19 * n, 8 * n, t.best);
    hd_arena_release(&b->data, mark);
}

/* ---- optimiser: 32 million parameters ---- */

static void bench_adamw(bench *b, hd_dtype mu_dtype, hd_dtype value_dtype)
{
    size_t mark = hd_arena_mark(&b->data);
    int64_t n = 11 * 2048 * 1408; /* eleven expert matrices */
    double control[HD_CONTROL_COUNT] = {1e-3, 1.0, 1.0, 1.0, 1.0, 0.1, 0.05, 0.0};
    hd_adamw_spec spec = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    hd_tensor c = new_tensor(b, HD_DTYPE_F64, 1, HD_CONTROL_COUNT, 1, 1), grad = filled(b, HD_DTYPE_F32, 1, n, 1, 1);
    hd_tensor master = filled(b, HD_DTYPE_F32, 1, n, 1, 1), mu = zeros(b, mu_dtype, 1, n, 1, 1);
    hd_tensor nu = zeros(b, HD_DTYPE_F32, 1, n, 1, 1);
    bool own_master = value_dtype == HD_DTYPE_F32;
    hd_tensor value = own_master ? master : zeros(b, HD_DTYPE_BF16, 1, n, 1, 1);
    double bytes = 20.0 + 2.0 * size_of(mu_dtype) + (own_master ? 0.0 : 2.0);
    char detail[64];
    (void)snprintf(detail, sizeof detail, "mu %s, weights %s: %.0f bytes", dtype_label(mu_dtype),
                   dtype_label(value_dtype), bytes);
    memcpy(c.data, control, sizeof control);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_adamw(&b->ex, &spec, &c, &grad, &master, &mu, &nu, &value, &b->err)); }
    report(b, "adamw", detail, 20.0 * (double)n, bytes * (double)n, t.best);
    hd_arena_release(&b->data, mark);
}

static void bench_optimizer(bench *b)
{
    bench_adamw(b, HD_DTYPE_F32, HD_DTYPE_F32);
    bench_adamw(b, HD_DTYPE_F32, HD_DTYPE_BF16);
    bench_adamw(b, HD_DTYPE_BF16, HD_DTYPE_BF16);
    size_t mark = hd_arena_mark(&b->data);
    int64_t n = 60 << 20;
    hd_tensor x = filled(b, HD_DTYPE_F32, 1, n, 1, 1), y = zeros(b, HD_DTYPE_F32, 1, n, 1, 1);
    hd_tensor total = zeros(b, HD_DTYPE_F64, 1, 1, 1, 1);
    timer t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_sumsq(&b->ex, &x, &total, &b->err)); }
    report(b, "sumsq", "f32", 2.0 * (double)n, 4.0 * (double)n, t.best);
    t = timer_start(b);
    while (timer_next(&t)) { must(b, hd_sum_into(&b->ex, &x, &y, &b->err)); }
    report(b, "sum_into", "f32", (double)n, 12.0 * (double)n, t.best);
    hd_arena_release(&b->data, mark);
}

/* ---- main ---- */

static int parse_list(const char *text, int64_t *out)
{
    int n = 0;
    char *end;
    for (; n < MAX_LENGTHS && *text != '\0'; text = *end == ',' ? end + 1 : end) {
        out[n] = strtoll(text, &end, 10);
        if (end == text || out[n] < 1) { return -1; }
        n++;
    }
    return n;
}

static bool parse_option(bench *b, const char *arg)
{
    const char *value = strchr(arg, '=');
    if (value == NULL) { return false; }
    size_t len = (size_t)(value++ - arg);
    if (strncmp(arg, "isa", len) == 0) {
        char force[32];
        (void)snprintf(force, sizeof force, "isa=%s", value);
        return setenv("HADAL_FORCE", force, 1) == 0;
    }
    if (strncmp(arg, "threads", len) == 0) { return (b->ex.n_threads = atoi(value)) > 0; }
    if (strncmp(arg, "ops", len) == 0) { return (b->ops = value) != NULL; }
    if (strncmp(arg, "dtypes", len) == 0) { return (b->dtypes = value) != NULL; }
    if (strncmp(arg, "heads", len) == 0) { return (b->heads = atoi(value)) > 0; }
    if (strncmp(arg, "seconds", len) == 0) { return (b->seconds = atof(value)) > 0; }
    if (strncmp(arg, "lengths", len) == 0) { return (b->n_lengths = parse_list(value, b->lengths)) > 0; }
    if (strncmp(arg, "clock", len) == 0) {
        bench_clock = CLOCK_PROCESS_CPUTIME_ID;
        return strcmp(value, "cpu") == 0;
    }
    return false;
}

static void bench_dtype(bench *b, hd_dtype dtype)
{
    if (!wanted(b->dtypes, dtype_label(dtype))) { return; }
    if (wanted(b->ops, "attention")) { bench_attention(b, dtype); }
    if (wanted(b->ops, "latent")) { bench_latent(b, dtype); }
    if (wanted(b->ops, "norm")) { bench_norm(b, dtype); }
    if (wanted(b->ops, "rope")) { bench_rope(b, dtype); }
    if (wanted(b->ops, "swiglu")) { bench_swiglu(b, dtype); }
    if (wanted(b->ops, "moe")) { bench_moves(b, dtype); }
    if (wanted(b->ops, "elementwise")) { bench_elementwise(b, dtype); }
}

int main(int argc, char **argv)
{
    static bench b = {.lengths = {256, 1024, 4096, 16384}, .n_lengths = 4, .heads = 16, .seconds = 0.4};
    b.ex.n_threads = hd_default_threads();
    for (int i = 1; i < argc; i++) {
        if (!parse_option(&b, argv[i])) {
            fprintf(stderr, "bench_ops: %s: not understood; the first lines of bench_ops.c list the options\n",
                    argv[i]);
            return 2;
        }
    }
    int n_threads = b.ex.n_threads;
    must(&b, hd_arena_open(&b.data, "data", (size_t)6 << 30, &b.err));
    must(&b, hd_arena_open(&b.scratch, "scratch", (size_t)2 << 30, &b.err));
    must(&b, hd_exec_init(&b.ex, &b.scratch, n_threads, false, &b.err));
    b.peak = b.ex.ops->fma_peak(n_threads);
    printf("kernels %s, threads %d\n", b.ex.ops->name, n_threads);
    measure_bandwidth(&b);
    printf("| op | case | ms | GFLOP/s | GB/s | of bound |\n|---|---|---|---|---|---|\n");
    bench_dtype(&b, HD_DTYPE_F32);
    bench_dtype(&b, HD_DTYPE_BF16);
    if (wanted(b.ops, "router")) { bench_router(&b); }
    if (wanted(b.ops, "loss")) { bench_loss(&b); }
    if (wanted(b.ops, "optimizer")) { bench_optimizer(&b); }
    hd_arena_close(&b.scratch);
    hd_arena_close(&b.data);
    return 0;
}
