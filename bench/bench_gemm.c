/* Speed of the matrix products beside what the machine can do and what the BLAS libraries do with the same operands.
 *
 *   bench_gemm [isa=avx2|avx512|base] [threads=N] [peers=openblas,blis,dnnl] [tables=plain,grouped] [m=1,4,...] [shapes=0,1,...]
 *              [dtypes=f32,bf16] [layouts=nk,kn] [seconds=0.3] [csv=FILE] [clock=cpu]
 *
 * First the ceilings: independent chains of fused multiply-adds, and a read of 512 MiB in two streams per thread.  Then, per
 * shape, y[m, n] = x[m, k] W through the public slots.  Weights rotate over at least 384 MiB, so they come from memory;
 * implementations take turns inside one loop, and each cell is the best of its turns, so they met the same machine.
 * Peers are opened with dlopen and only when asked for; their thread counts come from their own environment variables
 * (OPENBLAS_NUM_THREADS, BLIS_NUM_THREADS, OMP_NUM_THREADS; DNNL_MAX_CPU_ISA=AVX2 and OPENBLAS_CORETYPE=Zen compare AVX2
 * with AVX2).  clock=cpu counts processor time instead: with threads=1, for a machine that others use too.  No peer reads bf16 weights here. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/parallel_for.h"
#include "ops/ops.h"
#include "read_rate.h"

void hd_cpu_linear_install_base(hd_ops *ops);
void hd_cpu_linear_install_avx2(hd_ops *ops);
void hd_cpu_linear_install_avx512(hd_ops *ops);

enum { MAX_PEERS = 3, MAX_LIST = 16, N_EXPERTS = 64, EXPERT_K = 2048, EXPERT_N = 1408 };
static const int64_t RING_BYTES = 384 << 20;

typedef void (*cblas_sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                               const float *b, int ldb, float beta, float *c, int ldc);
typedef int (*dnnl_sgemm_fn)(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                             const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

typedef struct peer {
    const char *name, *library;
    cblas_sgemm_fn cblas;
    dnnl_sgemm_fn dnnl;
} peer;

typedef struct options {
    const char *isa, *peers, *tables, *dtypes, *layouts, *csv;
    int n_threads;
    double seconds;
    int64_t m[MAX_LIST], shapes[MAX_LIST];
    int n_m, n_shapes;
} options;

typedef struct bench {
    options o;
    hd_ops ops;
    hd_exec ex;
    hd_arena scratch;
    peer peers[MAX_PEERS];
    int n_peers;
    double peak;      /* FLOP/s of all threads */
    double bandwidth; /* bytes/s read by all threads */
    FILE *csv;
} bench;

typedef struct shape { int64_t k, n; } shape;
static const shape shapes[] = {{2048, 1408}, {1408, 2048}, {2048, 3072}, {2048, 10944}, {7168, 2048}, {2048, 102400}};

static void die(const char *what)
{
    fprintf(stderr, "bench_gemm: %s\n", what);
    exit(1);
}

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *map_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { die("out of memory"); }
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* ---- ceilings ---- */

enum { FMA_STEPS = 4000000, FMA_CHAINS = 12 };

/* Twelve chains by name: an array would live in memory. */
#define FMA_LOOP(vector, splat, fma, constraint)                                                                    \
    vector x = splat(0.999999f), y = splat(1e-6f);                                                                  \
    vector a = x, b = y, c = x, d = y, e = x, f = y, g = x, h = y, i = x, j = y, k = x, l = y;                      \
    for (int64_t s = 0; s < FMA_STEPS; s++) {                                                                       \
        a = fma(a, x, y), b = fma(b, x, y), c = fma(c, x, y), d = fma(d, x, y), e = fma(e, x, y), f = fma(f, x, y); \
        g = fma(g, x, y), h = fma(h, x, y), i = fma(i, x, y), j = fma(j, x, y), k = fma(k, x, y), l = fma(l, x, y); \
        __asm__ volatile("" : constraint(a), constraint(b), constraint(c), constraint(d), constraint(e),            \
                         constraint(f), constraint(g), constraint(h), constraint(i), constraint(j), constraint(k),  \
                         constraint(l));                                                                            \
    }                                                                                                               \
    a = a + b + c + d + e + f + g + h + i + j + k + l

typedef float v4f __attribute__((vector_size(16)));

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float fma_avx512(void)
{
    FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps, "+v");
    return a[0];
}

__attribute__((target("avx2,fma"))) static float fma_avx2(void)
{
    FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps, "+x");
    return a[0];
}
#define FMA_CONSTRAINT "+x"
#elif defined(__aarch64__)
#define FMA_CONSTRAINT "+w"
#endif

/* The instruction set without a fused multiply-add counts a product and a sum. */
#define SPLAT_BASE(v) ((v4f){0} + (v))
#define FMA_BASE(p, q, r) ((p) * (q) + (r))
static float fma_base(void)
{
    FMA_LOOP(v4f, SPLAT_BASE, FMA_BASE, FMA_CONSTRAINT);
    return a[0];
}

typedef struct fma_job {
    float (*run)(void);
    float sink[256];
} fma_job;

static void fma_body(void *arg, int64_t i, int thread)
{
    fma_job *job = arg;
    (void)thread;
    job->sink[i % 256] = job->run();
}

static double measure_peak(const options *o)
{
    fma_job job = {.run = fma_base};
    int lanes = 4;
#if defined(__x86_64__)
    if (strcmp(o->isa, "avx2") == 0) { job.run = fma_avx2; lanes = 8; }
    if (strcmp(o->isa, "avx512") == 0) { job.run = fma_avx512; lanes = 16; }
#endif
    double best = 0;
    for (int repeat = 0; repeat < 9; repeat++) {
        double t = now();
        hd_parallel_for(o->n_threads, o->n_threads, fma_body, &job);
        double rate = 2.0 * lanes * FMA_CHAINS * FMA_STEPS * o->n_threads / (now() - t);
        if (rate > best) { best = rate; }
    }
    return best;
}

static double measure_read(const options *o)
{
    return read_rate_measure(o->n_threads, 512 << 20, 0, bench_clock).best;
}

/* ---- peers ---- */

static void open_peers(bench *b)
{
    static const peer known[MAX_PEERS] = {{.name = "openblas", .library = "libopenblas.so.0"},
                                          {.name = "blis", .library = "libblis.so.4"},
                                          {.name = "dnnl", .library = "libdnnl.so.2"}};
    for (int i = 0; i < MAX_PEERS; i++) {
        if (strstr(b->o.peers, known[i].name) == NULL) { continue; }
        peer p = known[i];
        void *library = dlopen(p.library, RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "bench_gemm: %s\n", dlerror());
            continue;
        }
        void *f = dlsym(library, strcmp(p.name, "dnnl") == 0 ? "dnnl_sgemm" : "cblas_sgemm");
        memcpy(strcmp(p.name, "dnnl") == 0 ? (void *)&p.dnnl : (void *)&p.cblas, &f, sizeof f);
        if (f != NULL) { b->peers[b->n_peers++] = p; }
    }
}

/* C (m, n) = A (m, k) B;  B stored [n, k] when b_transposed, A stored [k, m] when a_transposed. */
static void peer_gemm(const peer *p, bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, const float *a,
                      const float *b, float *c)
{
    int64_t lda = a_transposed ? m : k, ldb = b_transposed ? k : n;
    if (p->cblas != NULL) {
        p->cblas(101, a_transposed ? 112 : 111, b_transposed ? 112 : 111, (int)m, (int)n, (int)k, 1, a, (int)lda, b,
                 (int)ldb, 0, c, (int)n);
    } else {
        p->dnnl(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, 1, a, lda, b, ldb, 0, c, n);
    }
}

/* ---- operands ---- */

/* Values near 1e-1 with varied mantissas; bf16 ones are the same bits' upper halves. */
static void fill(void *data, hd_dtype dtype, int64_t count)
{
    uint32_t s = 12345;
    for (int64_t i = 0; i < count; i++) {
        s = s * 1664525u + 1013904223u;
        float x = (float)(int32_t)s * 4.6e-10f;
        if (dtype == HD_DTYPE_BF16) { ((uint16_t *)data)[i] = hd_f32_to_bf16(x); } else { ((float *)data)[i] = x; }
    }
}

static hd_tensor tensor_of(void *data, hd_dtype dtype, int64_t rows, int64_t columns)
{
    return (hd_tensor){.data = data, .dtype = dtype, .n_dim = 2, .shape = {rows, columns},
                       .global_shape = {rows, columns}, .stride = {columns, 1}};
}

static hd_tensor tensor_3d(void *data, hd_dtype dtype, int64_t experts, int64_t rows, int64_t columns)
{
    return (hd_tensor){.data = data, .dtype = dtype, .n_dim = 3, .shape = {experts, rows, columns},
                       .global_shape = {experts, rows, columns}, .stride = {rows * columns, columns, 1}};
}

static bool wanted(const char *list, const char *word) { return list == NULL || strstr(list, word) != NULL; }

static void must(hd_status st, const hd_err *err)
{
    if (st != HD_OK) { die(err->msg); }
}

/* ---- plain products ---- */

typedef struct cell {
    int64_t m, n, k;
    hd_dtype dtype;
    hd_layout layout;
} cell;

typedef struct buffers { float *x, *w, *y; int64_t w_bytes; } buffers;

static double run_ours(bench *b, const cell *c, const buffers *buf, const char *weights)
{
    hd_err err;
    hd_tensor x = tensor_of(buf->x, HD_DTYPE_F32, c->m, c->k), y = tensor_of(buf->y, HD_DTYPE_F32, c->m, c->n);
    hd_weight w = {.layout = c->layout};
    bool nk = c->layout == HD_LAYOUT_OUT_IN;
    w.value = tensor_of((void *)(uintptr_t)weights, c->dtype, nk ? c->n : c->k, nk ? c->k : c->n);
    size_t mark = hd_arena_mark(&b->scratch);
    double t = now();
    must(b->ops.linear_fwd(&b->ex, &x, &w, HD_SET, &y, &err), &err);
    t = now() - t;
    hd_arena_release(&b->scratch, mark);
    return t;
}

static void run_cell(bench *b, const cell *c, const buffers *buf, double best[1 + MAX_PEERS])
{
    int64_t bytes = c->n * c->k * (c->dtype == HD_DTYPE_BF16 ? 2 : 4), ring = RING_BYTES / bytes + 1;
    if (ring * bytes > buf->w_bytes) { ring = 1; }
    int n_impl = c->dtype == HD_DTYPE_F32 ? 1 + b->n_peers : 1;
    double start = now();
    for (int i = 0; i <= MAX_PEERS; i++) { best[i] = 1e30; }
    for (int64_t turn = 0; turn < 3 || now() - start < b->o.seconds * n_impl; turn++) {
        for (int i = 0; i < n_impl; i++) {
            const char *w = (const char *)buf->w + (turn * n_impl + i) % ring * bytes;
            double t = now();
            if (i == 0) {
                t = run_ours(b, c, buf, w);
            } else {
                peer_gemm(&b->peers[i - 1], false, c->layout == HD_LAYOUT_OUT_IN, c->m, c->n, c->k, buf->x,
                          (const float *)(const void *)w, buf->y);
                t = now() - t;
            }
            if (turn > 0 && t < best[i]) { best[i] = t; }
        }
        if (now() - start > 20 * b->o.seconds * n_impl && turn > 0) { break; }
    }
}

static void csv_line(bench *b, const char *op, const cell *c, const char *impl, double flops, double bytes, double seconds)
{
    if (b->csv == NULL) { return; }
    fprintf(b->csv, "%s,%s,%d,%s,%s,%lld,%lld,%lld,%s,%.6f,%.1f,%.3f,%.1f\n", op, b->o.isa, b->ex.n_threads,
            c->layout == HD_LAYOUT_OUT_IN ? "nk" : "kn", c->dtype == HD_DTYPE_BF16 ? "bf16" : "f32", (long long)c->m,
            (long long)c->n, (long long)c->k, impl, seconds * 1e3, flops / seconds * 1e-9, flops / seconds / b->peak,
            bytes / seconds * 1e-9);
}

static void print_impl(bench *b, const char *op, const cell *c, const char *impl, double flops, double bytes, double t)
{
    printf("| %s ", impl);
    printf("%.1f (%.0f %%) ", flops / t * 1e-9, 100 * flops / t / b->peak);
    csv_line(b, op, c, impl, flops, bytes, t);
}

static void plain_table(bench *b, hd_dtype dtype, hd_layout layout, const buffers *buf)
{
    printf("\n## y = x W, %s weights stored %s: GFLOP/s (share of peak), weights' GB/s\n\n", dtype == HD_DTYPE_BF16 ? "bf16" : "f32",
           layout == HD_LAYOUT_OUT_IN ? "[n, k]" : "[k, n]");
    printf("| k x n | m | GB/s | implementations |\n|---|---|---|---|\n");
    for (int s = 0; s < b->o.n_shapes; s++) {
        for (int i = 0; i < b->o.n_m; i++) {
            shape sh = shapes[b->o.shapes[s]];
            cell c = {.m = b->o.m[i], .n = sh.n, .k = sh.k, .dtype = dtype, .layout = layout};
            double best[1 + MAX_PEERS], flops = 2.0 * (double)c.m * (double)c.n * (double)c.k;
            double bytes = (double)(c.n * c.k) * (dtype == HD_DTYPE_BF16 ? 2 : 4);
            run_cell(b, &c, buf, best);
            printf("| %lld x %lld | %lld | %.1f ", (long long)c.k, (long long)c.n, (long long)c.m, bytes / best[0] * 1e-9);
            print_impl(b, "linear_fwd", &c, "hadal", flops, bytes, best[0]);
            for (int p = 0; p < b->n_peers && dtype == HD_DTYPE_F32; p++) {
                print_impl(b, "linear_fwd", &c, b->peers[p].name, flops, bytes, best[1 + p]);
            }
            printf("|\n");
            fflush(stdout);
        }
    }
}

static void plain_tables(bench *b)
{
    int64_t m_max = 1, head = 0;
    for (int i = 0; i < b->o.n_m; i++) { m_max = b->o.m[i] > m_max ? b->o.m[i] : m_max; }
    for (int i = 0; i < b->o.n_shapes; i++) { head = b->o.shapes[i] == 5 ? 1 : head; }
    buffers buf = {.w_bytes = head ? 2048LL * 102400 * 4 : RING_BYTES + (100LL << 20)};
    int64_t n_max = head ? 102400 : 10944;
    buf.x = map_pages((size_t)(m_max * 7168 * 4));
    buf.y = map_pages((size_t)(m_max * n_max * 4));
    buf.w = map_pages((size_t)buf.w_bytes);
    fill(buf.x, HD_DTYPE_F32, m_max * 7168);
    memset(buf.y, 0, (size_t)(m_max * n_max * 4));
    for (int d = 0; d < 2; d++) {
        hd_dtype dtype = d == 0 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
        if (!wanted(b->o.dtypes, d == 0 ? "f32" : "bf16")) { continue; }
        fill(buf.w, dtype, buf.w_bytes / (d == 0 ? 4 : 2));
        if (wanted(b->o.layouts, "nk")) { plain_table(b, dtype, HD_LAYOUT_OUT_IN, &buf); }
        if (wanted(b->o.layouts, "kn")) { plain_table(b, dtype, HD_LAYOUT_IN_OUT, &buf); }
    }
    munmap(buf.x, (size_t)(m_max * 7168 * 4) + 4096);
    munmap(buf.y, (size_t)(m_max * n_max * 4) + 4096);
    munmap(buf.w, (size_t)buf.w_bytes + 4096);
}

/* ---- 64 experts ---- */

typedef struct expert_data {
    int32_t offsets[N_EXPERTS + 1];
    int64_t rows;
    float *x, *y, *dw;
    void *w;
} expert_data;

typedef enum expert_op { EXPERT_FWD, EXPERT_BWD_INPUT, EXPERT_BWD_WEIGHT } expert_op;
static const char *const expert_op_names[] = {"grouped_linear_fwd", "grouped_linear_bwd_input", "grouped_linear_bwd_weight"};

/* x (R, K), y (R, N), W (E, N, K) or (E, K, N); bwd_input reads y and writes x. */
static double run_experts(bench *b, expert_op op, hd_dtype dtype, hd_layout layout, expert_data *d)
{
    hd_err err;
    bool nk = layout == HD_LAYOUT_OUT_IN;
    hd_tensor x = tensor_of(d->x, HD_DTYPE_F32, d->rows, EXPERT_K), y = tensor_of(d->y, HD_DTYPE_F32, d->rows, EXPERT_N);
    hd_tensor offsets = {.data = d->offsets, .dtype = HD_DTYPE_I32, .n_dim = 1, .shape = {N_EXPERTS + 1}, .stride = {1}};
    hd_weight w = {.layout = layout, .grad_accum = HD_SET};
    w.value = tensor_3d(d->w, dtype, N_EXPERTS, nk ? EXPERT_N : EXPERT_K, nk ? EXPERT_K : EXPERT_N);
    w.grad = tensor_3d(d->dw, HD_DTYPE_F32, N_EXPERTS, nk ? EXPERT_N : EXPERT_K, nk ? EXPERT_K : EXPERT_N);
    size_t mark = hd_arena_mark(&b->scratch);
    double t = now();
    if (op == EXPERT_FWD) { must(b->ops.grouped_linear_fwd(&b->ex, &x, &offsets, &w, HD_SET, &y, &err), &err); }
    if (op == EXPERT_BWD_INPUT) { must(b->ops.grouped_linear_bwd_input(&b->ex, &y, &offsets, &w, HD_SET, &x, &err), &err); }
    if (op == EXPERT_BWD_WEIGHT) { must(b->ops.grouped_linear_bwd_weight(&b->ex, &y, &x, &offsets, &w, &err), &err); }
    t = now() - t;
    hd_arena_release(&b->scratch, mark);
    return t;
}

static double run_experts_peer(const peer *p, expert_op op, hd_layout layout, expert_data *d)
{
    bool nk = layout == HD_LAYOUT_OUT_IN;
    double t = now();
    for (int e = 0; e < N_EXPERTS; e++) {
        int64_t m = d->offsets[e + 1] - d->offsets[e];
        float *x = d->x + (int64_t)d->offsets[e] * EXPERT_K, *y = d->y + (int64_t)d->offsets[e] * EXPERT_N;
        float *w = (float *)d->w + (int64_t)e * EXPERT_K * EXPERT_N, *dw = d->dw + (int64_t)e * EXPERT_K * EXPERT_N;
        if (op == EXPERT_FWD) { peer_gemm(p, false, nk, m, EXPERT_N, EXPERT_K, x, w, y); }
        if (op == EXPERT_BWD_INPUT) { peer_gemm(p, false, !nk, m, EXPERT_K, EXPERT_N, y, w, x); }
        if (op == EXPERT_BWD_WEIGHT && nk) { peer_gemm(p, true, false, EXPERT_N, EXPERT_K, m, y, x, dw); }
        if (op == EXPERT_BWD_WEIGHT && !nk) { peer_gemm(p, true, false, EXPERT_K, EXPERT_N, m, x, y, dw); }
    }
    return now() - t;
}

static void grouped_row(bench *b, expert_op op, hd_dtype dtype, hd_layout layout, expert_data *d)
{
    int n_impl = dtype == HD_DTYPE_F32 ? 1 + b->n_peers : 1;
    double best[1 + MAX_PEERS] = {1e30, 1e30, 1e30, 1e30}, flops = 2.0 * (double)d->rows * EXPERT_K * EXPERT_N;
    double bytes = (double)N_EXPERTS * EXPERT_K * EXPERT_N * (op != EXPERT_BWD_WEIGHT && dtype == HD_DTYPE_BF16 ? 2 : 4);
    cell c = {.m = d->rows, .n = EXPERT_N, .k = EXPERT_K, .dtype = dtype, .layout = layout};
    for (int turn = 0; turn < 7; turn++) {
        for (int i = 0; i < n_impl; i++) {
            double t = i == 0 ? run_experts(b, op, dtype, layout, d) : run_experts_peer(&b->peers[i - 1], op, layout, d);
            if (turn > 0 && t < best[i]) { best[i] = t; }
        }
    }
    printf("| %s | %s | %s | %.1f | %.1f ", expert_op_names[op], dtype == HD_DTYPE_BF16 ? "bf16" : "f32",
           layout == HD_LAYOUT_OUT_IN ? "[n, k]" : "[k, n]", best[0] * 1e3, bytes / best[0] * 1e-9);
    print_impl(b, expert_op_names[op], &c, "hadal", flops, bytes, best[0]);
    for (int p = 1; p < n_impl; p++) { print_impl(b, expert_op_names[op], &c, b->peers[p - 1].name, flops, bytes, best[p]); }
    printf("|\n");
    fflush(stdout);
}

static void grouped_table(bench *b)
{
    expert_data d = {.rows = 0};
    int64_t count = (int64_t)N_EXPERTS * EXPERT_K * EXPERT_N;
    uint32_t s = 7;
    for (int e = 0; e < N_EXPERTS; e++) {
        s = s * 1664525u + 1013904223u;
        d.offsets[e + 1] = d.offsets[e] + 4 + (int32_t)((s >> 16) % 45);
    }
    d.rows = d.offsets[N_EXPERTS];
    d.x = map_pages((size_t)(d.rows * EXPERT_K * 4));
    d.y = map_pages((size_t)(d.rows * EXPERT_N * 4));
    d.w = map_pages((size_t)count * 4);
    d.dw = map_pages((size_t)count * 4);
    memset(d.dw, 0, (size_t)count * 4);
    printf("\n## 64 experts, 4 to 48 rows each, %lld in all, k = 2048, n = 1408: GFLOP/s (share of peak)\n\n", (long long)d.rows);
    printf("| op | weights | stored | ms | weights' GB/s | implementations (peers: a loop over experts) |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < 12; i++) {
        hd_dtype dtype = i / 6 == 0 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
        hd_layout layout = i % 2 == 0 ? HD_LAYOUT_OUT_IN : HD_LAYOUT_IN_OUT;
        expert_op op = (expert_op)(i / 2 % 3);
        if (!wanted(b->o.dtypes, i / 6 == 0 ? "f32" : "bf16") || !wanted(b->o.layouts, i % 2 == 0 ? "nk" : "kn")) { continue; }
        if (op == EXPERT_BWD_WEIGHT && dtype == HD_DTYPE_BF16) { continue; } /* the weight is not read */
        fill(d.w, dtype, count);
        fill(d.x, HD_DTYPE_F32, d.rows * EXPERT_K);
        fill(d.y, HD_DTYPE_F32, d.rows * EXPERT_N);
        grouped_row(b, op, dtype, layout, &d);
    }
}

/* ---- the command line ---- */

static int parse_list(const char *text, int64_t *list)
{
    int n = 0;
    while (*text != '\0' && n < MAX_LIST) {
        char *end;
        list[n++] = strtoll(text, &end, 10);
        text = *end == ',' ? end + 1 : "";
    }
    return n;
}

static options parse(int argc, char **argv)
{
    options o = {.isa = "base", .peers = "", .seconds = 0.3, .n_threads = hd_default_threads()};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) { o.isa = "avx2"; }
    if (__builtin_cpu_supports("avx512f")) { o.isa = "avx512"; }
#endif
    o.n_m = parse_list("1,4,16,32,128,512,2048", o.m);
    o.n_shapes = parse_list("0,1,2,3,4,5", o.shapes);
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value == NULL) { die("arguments are key=value; see the head of bench_gemm.c"); }
        *value++ = '\0';
        if (strcmp(argv[i], "isa") == 0) { o.isa = value; }
        else if (strcmp(argv[i], "threads") == 0) { o.n_threads = atoi(value); }
        else if (strcmp(argv[i], "peers") == 0) { o.peers = value; }
        else if (strcmp(argv[i], "tables") == 0) { o.tables = value; }
        else if (strcmp(argv[i], "dtypes") == 0) { o.dtypes = value; }
        else if (strcmp(argv[i], "layouts") == 0) { o.layouts = value; }
        else if (strcmp(argv[i], "clock") == 0 && strcmp(value, "cpu") == 0) { bench_clock = CLOCK_PROCESS_CPUTIME_ID; }
        else if (strcmp(argv[i], "seconds") == 0) { o.seconds = atof(value); }
        else if (strcmp(argv[i], "csv") == 0) { o.csv = value; }
        else if (strcmp(argv[i], "m") == 0) { o.n_m = parse_list(value, o.m); }
        else if (strcmp(argv[i], "shapes") == 0) { o.n_shapes = parse_list(value, o.shapes); }
        else { die("unknown key; see the head of bench_gemm.c"); }
    }
    return o;
}

static void install(bench *b)
{
    hd_cpu_linear_install_base(&b->ops);
#if defined(__x86_64__)
    if (strcmp(b->o.isa, "avx2") == 0) { hd_cpu_linear_install_avx2(&b->ops); }
    if (strcmp(b->o.isa, "avx512") == 0) { hd_cpu_linear_install_avx512(&b->ops); }
#endif
}

int main(int argc, char **argv)
{
    bench b = {.o = parse(argc, argv)};
    hd_err err;
    install(&b);
    must(hd_arena_open(&b.scratch, "scratch", (size_t)512 << 20, &err), &err);
    b.ex = (hd_exec){.ops = &b.ops, .scratch = &b.scratch, .n_threads = b.o.n_threads};
    if (b.o.csv != NULL) {
        b.csv = fopen(b.o.csv, "w");
        if (b.csv == NULL) { die("cannot write the csv file"); }
        fprintf(b.csv, "op,isa,threads,layout,dtype,m,n,k,implementation,ms,gflops,share_of_peak,weight_gb_per_s\n");
    }
    open_peers(&b);
    b.peak = measure_peak(&b.o);
    b.bandwidth = measure_read(&b.o);
    printf("isa %s, %d threads: FMA peak %.1f GFLOP/s, read %.1f GB/s\n", b.o.isa, b.o.n_threads, b.peak * 1e-9,
           b.bandwidth * 1e-9);
    if (wanted(b.o.tables, "plain")) { plain_tables(&b); }
    if (wanted(b.o.tables, "grouped")) { grouped_table(&b); }
    printf("\nAfter: FMA peak %.1f GFLOP/s, read %.1f GB/s; most scratch used %.1f MiB\n", measure_peak(&b.o) * 1e-9,
           measure_read(&b.o) * 1e-9, (double)b.scratch.high / 1048576.0);
    if (b.csv != NULL) { fclose(b.csv); }
    hd_arena_close(&b.scratch);
    return 0;
}
