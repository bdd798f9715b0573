/* The products around absorbed attention in steps (ex->by_lanes), where Wkvb is read as it lies: q Wk of each head, which adds rows of Wk, and
 * contexts Wv^T, which is one of stream.h's.
 *
 * q Wk: sums over the n rows of a head's Wk ascending, fused, from zero, for any number of tokens.
 * Bytes: Wk, once for LATENT_STEP_MR tokens, as one stream; the sums stay in the first-level cache. */
#ifndef HD_OPS_CPU_LATENT_STEP_H
#define HD_OPS_CPU_LATENT_STEP_H

#include "base/parallel_for.h"
#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_read.h"
#include "ops/cpu/latent_job.h"
#include "ops/cpu/stream.h"

enum { LATENT_STEP_MR = 4, LATENT_STEP_ROWS = 8 /* of Wk at a time */ };

/* m rows of sums (c, `sums_row` apart) += rows [0, n_row) of Wk times their elements of q (m rows, f32, LATENT_STEP_ROWS each). */
HD_INLINE void latent_step_rows(const int m, const int n_row, const hd_dtype dtype, const char *w, int64_t w_row, const float *q, float *sums,
                                int64_t sums_row, int64_t c)
{
    const char *next = w + n_row * w_row; /* fetched as one stream while these rows are used */
    for (int64_t d = 0; d < c; d += HD_LANES) {
        hd_vf acc[LATENT_STEP_MR];
        for (int64_t line = 0; line < n_row * HD_LANES * gemm_element_bytes(dtype); line += 64) {
            __builtin_prefetch(next + d * n_row * gemm_element_bytes(dtype) + line, 0, 2);
        }
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) { acc[i] = *(const hd_vf_u *)(sums + i * sums_row + d); }
#pragma GCC unroll 8
        for (int k = 0; k < n_row; k++) {
            hd_vf row = hd_load(w + k * w_row, dtype, d, c);
#pragma GCC unroll 4
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], q + i * LATENT_STEP_ROWS + k, row); }
        }
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) { *(hd_vf_u *)(sums + i * sums_row + d) = acc[i]; }
    }
}

typedef void (*latent_step_fn)(const char *w, int64_t w_row, const float *q, float *sums, int64_t sums_row, int64_t c);

#define LATENT_STEP_KERNEL(name, m, n_row, dtype)                                                                                          \
    static __attribute__((noinline)) void name(const char *w, int64_t w_row, const float *q, float *sums, int64_t sums_row, int64_t c)   \
    {                                                                                                                                    \
        latent_step_rows(m, n_row, dtype, w, w_row, q, sums, sums_row, c);                                                                \
    }

LATENT_STEP_KERNEL(latent_step_bf16_1, 1, LATENT_STEP_ROWS, HD_DTYPE_BF16)
LATENT_STEP_KERNEL(latent_step_bf16_2, 2, LATENT_STEP_ROWS, HD_DTYPE_BF16)
LATENT_STEP_KERNEL(latent_step_bf16_3, 3, LATENT_STEP_ROWS, HD_DTYPE_BF16)
LATENT_STEP_KERNEL(latent_step_bf16_4, 4, LATENT_STEP_ROWS, HD_DTYPE_BF16)
LATENT_STEP_KERNEL(latent_step_f32_1, 1, LATENT_STEP_ROWS, HD_DTYPE_F32)
LATENT_STEP_KERNEL(latent_step_f32_2, 2, LATENT_STEP_ROWS, HD_DTYPE_F32)
LATENT_STEP_KERNEL(latent_step_f32_3, 3, LATENT_STEP_ROWS, HD_DTYPE_F32)
LATENT_STEP_KERNEL(latent_step_f32_4, 4, LATENT_STEP_ROWS, HD_DTYPE_F32)
LATENT_STEP_KERNEL(latent_step_bf16_rest, 1, 1, HD_DTYPE_BF16)
LATENT_STEP_KERNEL(latent_step_f32_rest, 1, 1, HD_DTYPE_F32)

/* [is F32][tokens]; [0]: one row of Wk, one token. */
static const latent_step_fn latent_step_kernels[2][LATENT_STEP_MR + 1] = {
    {latent_step_bf16_rest, latent_step_bf16_1, latent_step_bf16_2, latent_step_bf16_3, latent_step_bf16_4},
    {latent_step_f32_rest, latent_step_f32_1, latent_step_f32_2, latent_step_f32_3, latent_step_f32_4}};

/* q Wk of head h for tokens [first, first + m) of the job, into job->rows. */
static void latent_step_head(const latent_job *job, int64_t h, int64_t first, int64_t m)
{
    const hd_latent_spec *s = job->spec;
    const hd_tensor *kv_b = &job->kv_b->value, *q = job->q;
    const latent_step_fn *kernels = latent_step_kernels[kv_b->dtype == HD_DTYPE_F32];
    int64_t n = s->qk_nope_head_dim, head_width = n + s->qk_rope_head_dim, sums_row = s->n_head * job->c_padded;
    int64_t w_row = kv_b->stride[0] * gemm_element_bytes(kv_b->dtype), whole = n / LATENT_STEP_ROWS * LATENT_STEP_ROWS;
    const char *w = hd_row(kv_b, h * (n + s->v_head_dim));
    float *sums = job->rows + (first * s->n_head + h) * job->c_padded, block[LATENT_STEP_MR * LATENT_STEP_ROWS];
    for (int64_t i = 0; i < m; i++) { memset(sums + i * sums_row, 0, (size_t)job->c_padded * sizeof *sums); }
    for (int64_t k = 0; k < n; k += LATENT_STEP_ROWS) {
        int64_t rows = hd_min_i64(LATENT_STEP_ROWS, n - k);
        for (int64_t i = 0; i < m; i++) {
            const void *from = hd_at(q, (job->first_row + first + i) * q->stride[0] + h * head_width + k);
            for (int64_t j = 0; j < rows; j++) { block[i * LATENT_STEP_ROWS + j] = hd_get(from, q->dtype, j); }
        }
        if (k < whole) {
            kernels[m](w + k * w_row, w_row, block, sums, sums_row, job->c);
            continue;
        }
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < rows; j++) {
                kernels[0](w + (k + j) * w_row, w_row, block + i * LATENT_STEP_ROWS + j, sums + i * sums_row, sums_row, job->c);
            }
        }
    }
}

/* Item: a head. */
static void latent_step_item(void *arg, int64_t h, int thread)
{
    const latent_job *job = arg;
    int64_t n_tile = hd_ceil_div(job->n_row, LATENT_STEP_MR);
    (void)thread;
    for (int64_t tile = 0, first = 0; tile < n_tile; tile++) {
        int64_t m = hd_ceil_div(job->n_row - first, n_tile - tile);
        latent_step_head(job, h, first, m);
        first += m;
    }
}

static hd_status latent_step_queries(hd_exec *ex, latent_job *job)
{
    if (!ex->dry) { hd_parallel_for(ex->n_threads, job->spec->n_head, latent_step_item, job); }
    return HD_OK;
}

static hd_status latent_step_values(hd_exec *ex, const latent_job *job, hd_err *err)
{
    const hd_latent_spec *s = job->spec;
    hd_tensor rows = {.data = job->rows, .dtype = HD_DTYPE_F32, .n_dim = 2, .shape = {job->n_row * s->n_head, job->c}, .stride = {job->c_padded, 1}};
    hd_tensor o = hd_tensor_slice(job->o, 0, job->first_row, job->n_row);
    hd_stream_head_rows heads = {.n_head = s->n_head, .first = s->qk_nope_head_dim, .step = s->qk_nope_head_dim + s->v_head_dim};
    size_t mark = hd_arena_mark(ex->scratch);
    hd_status st = hd_stream_heads(ex, &rows, job->kv_b, &heads, &o, err);
    hd_arena_release(ex->scratch, mark);
    return st;
}

#endif
