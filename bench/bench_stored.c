/* Products with weights as files hold them: bytes of weights read and operations done per second.
 *
 *   bench_stored [isa=avx2|avx512|base] [threads=N] [rows=1,2,4,16,48,512] [shape=10944x2048] [seconds=0.5] [clock=cpu] [sums=chain] [pages=small]
 *
 * y (rows, out) = x W^T for BF16, FP8, int8 and int4 weights, the last two with inputs rounded to 8 bits, and int8 with 16 as down
 * projections have.  BF16 is multiplied as in steps, by lanes (ops.h), with sums=chain as in prompts.  Each call takes the next of many
 * matrices, 1 GB together on huge pages (pages=small: not), so that weights come from memory; the best round through all of them counts.  clock=cpu counts processor time: with threads=1, for a machine that others use too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/arena.h"
#include "base/parallel_for.h"
#include "ops/ops.h"

enum { MAX_ROWS = 16 };
static const int64_t pool_bytes = (int64_t)1 << 30;

typedef struct bench {
    hd_exec ex;
    hd_arena scratch;
    int64_t rows[MAX_ROWS], out, in;
    int n_rows;
    double seconds;
    unsigned char *pool;
    float *x, *y;
} bench;

typedef struct form {
    const char *name;
    hd_dtype dtype;
    bool round_inputs, fine_inputs;
} form;

static clockid_t bench_clock = CLOCK_MONOTONIC;
static bool by_lanes = true, huge_pages = true;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop(const char *message)
{
    fprintf(stderr, "bench_stored: %s\n", message);
    exit(1);
}

static hd_tensor matrix(float *data, int64_t rows, int64_t columns)
{
    return (hd_tensor){.data = data, .dtype = HD_DTYPE_F32, .n_dim = 2, .shape = {rows, columns}, .global_shape = {rows, columns}, .stride = {columns, 1}};
}

/* Seconds of one round through the pool. */
static double run_round(bench *b, const form *f, int64_t rows, int64_t n, int64_t bytes, int64_t all_bytes)
{
    hd_err err;
    hd_tensor x = matrix(b->x, rows, b->in), y = matrix(b->y, rows, b->out);
    double start = now();
    for (int64_t i = 0; i < n; i++) {
        hd_weight w = hd_weight_shape(f->dtype, 0, b->out, b->in);
        w.value.data = b->pool + i * all_bytes;
        w.scales.data = b->pool + i * all_bytes + bytes;
        w.round_inputs = f->round_inputs;
        w.fine_inputs = f->fine_inputs;
        if (hd_linear_fwd(&b->ex, &x, &w, HD_SET, &y, &err) != HD_OK) { stop(err.msg); }
    }
    return now() - start;
}

static void run(bench *b, const form *f, int64_t rows)
{
    int64_t bytes = hd_weight_matrix_bytes(f->dtype, b->out, b->in), read = bytes + hd_weight_scale_bytes(f->dtype, b->out, b->in);
    int64_t all_bytes = (read + 63) / 64 * 64, most = rows > 16 ? 4 : INT64_MAX, n = pool_bytes / all_bytes;
    n = n < 1 ? 1 : n > most ? most : n;
    double best = 1e30, sum = 0.0;
    while (sum < b->seconds) {
        double took = run_round(b, f, rows, n, bytes, all_bytes);
        best = took < best ? took : best;
        sum += took;
    }
    printf("%-7s %4lld rows  %7.2f GB/s  %8.1f G operations/s  %9.1f us a call\n", f->name, (long long)rows, (double)(n * read) / best / 1e9,
           2.0 * (double)(n * rows * b->out * b->in) / best / 1e9, best / (double)n * 1e6);
    (void)fflush(stdout);
}

static int read_options(int argc, char **argv, bench *b)
{
    static char isa[32];
    int threads = hd_default_threads();
    long out, in;
    for (int i = 1; i < argc; i++) {
        if (sscanf(argv[i], "threads=%d", &threads) == 1 || sscanf(argv[i], "seconds=%lf", &b->seconds) == 1) { continue; }
        if (sscanf(argv[i], "shape=%ldx%ld", &out, &in) == 2) {
            b->out = out, b->in = in;
        } else if (strncmp(argv[i], "rows=", 5) == 0) {
            b->n_rows = 0;
            for (char *p = argv[i] + 5; *p != '\0' && b->n_rows < MAX_ROWS; p += *p == ',') { b->rows[b->n_rows++] = strtol(p, &p, 10); }
        } else if (sscanf(argv[i], "isa=%15s", isa + 4) == 1) {
            memcpy(isa, "isa=", 4);
            setenv("HADAL_FORCE", isa, 1);
        } else if (strcmp(argv[i], "sums=chain") == 0) {
            by_lanes = false;
        } else if (strcmp(argv[i], "pages=small") == 0) {
            huge_pages = false;
        } else if (strcmp(argv[i], "clock=cpu") == 0) {
            bench_clock = CLOCK_PROCESS_CPUTIME_ID;
        } else {
            stop(argv[i]);
        }
    }
    return threads;
}

int main(int argc, char **argv)
{
    static const form forms[] = {{"BF16", HD_DTYPE_BF16, false, false}, {"FP8", HD_DTYPE_F8_E4M3, false, false}, {"int8", HD_DTYPE_I8, true, false},
                                 {"int8/16", HD_DTYPE_I8, true, true},  {"int4", HD_DTYPE_I4, true, false}};
    hd_err err;
    bench b = {.rows = {1, 2, 4, 16, 48, 512}, .n_rows = 6, .out = 10944, .in = 2048, .seconds = 0.5};
    int threads = read_options(argc, argv, &b);
    int64_t most = 1;
    for (int i = 0; i < b.n_rows; i++) { most = b.rows[i] > most ? b.rows[i] : most; }
    if (hd_arena_open(&b.scratch, "scratch", (size_t)1 << 30, &err) != HD_OK) { stop(err.msg); }
    if (hd_exec_init(&b.ex, &b.scratch, threads, false, &err) != HD_OK) { stop(err.msg); }
    b.ex.by_lanes = by_lanes;
    b.pool = mmap(NULL, (size_t)pool_bytes + (64 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.x = malloc((size_t)(most * b.in) * sizeof *b.x);
    b.y = malloc((size_t)(most * b.out) * sizeof *b.y);
    if (b.pool == MAP_FAILED || b.x == NULL || b.y == NULL) { stop("no memory"); }
    (void)madvise(b.pool, (size_t)pool_bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(b.pool, 0x11, (size_t)pool_bytes + (64 << 20));
    for (int64_t i = 0; i < most * b.in; i++) { b.x[i] = (float)(i * 7919 % 1000 - 500) / 100.0f; }
    printf("%s, %d thread%s, W (%lld, %lld)\n", b.ex.ops->name, threads, threads == 1 ? "" : "s", (long long)b.out, (long long)b.in);
    for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++) {
        for (int i = 0; i < b.n_rows; i++) { run(&b, &forms[f], b.rows[i]); }
    }
    free(b.x);
    free(b.y);
    hd_arena_close(&b.scratch);
    return 0;
}
