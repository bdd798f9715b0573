/* The products of tiled attention, and moving tiles between tensors and scratch.
 *
 * Vectors run over queries: a *strip* is AT_NR = 2 vectors of queries wide, a *narrow* strip one vector.  Scores are kept as
 * S^T (keys, queries), so row maxima and sums of the softmax are plain vector operations, and none of the five products needs a
 * transposed copy of K or V:
 *     S^T  = K Q^T      dP^T = V dO^T      O^T += V^T P^T      dQ^T += K^T dS^T      dV += P^T dO      dK += dS^T Q
 * Each is C (m, strip) = A (m, k) B (k, strip) with B a panel of whole vectors and A read one element at a time: by rows
 * a[r * lda + p] or by columns a[p * lda + r].  12 x 2 accumulators of 32 vectors stay in registers with AVX-512 and NEON, 6 x 2 of 16
 * otherwise, 12 x 1 for narrow strips (more rows of A than that are more addresses than registers): bound by the FMA units. */
#ifndef HD_OPS_CPU_ATTENTION_TILE_H
#define HD_OPS_CPU_ATTENTION_TILE_H

#include "ops/cpu/math.h"

#if defined(__AVX512F__) || defined(__aarch64__)
enum { AT_MR = 12 };
#else
enum { AT_MR = 6 };
#endif
enum { AT_NARROW_MR = 12, AT_NR = 2 * HD_LANES };

typedef enum at_mode {
    AT_SET,     /* C = A B */
    AT_ADD,     /* C += A B */
    AT_SCALE,   /* C = C diag(scale) + A B */
    AT_CONTINUE /* C diag(scale) is where the sum of A B starts: a sum cut in two has the bits of the whole */
} at_mode;

typedef enum at_order { AT_BY_ROWS, AT_BY_COLUMNS, AT_BY_COLUMNS_AHEAD } at_order; /* the last prefetches as it goes */

/* One operand set.  k is n_runs runs of run_len; from one run to the next A moves by a_run, B by run_len rows. */
typedef struct at_product {
    const float *a, *b, *scale;
    float *c;
    int64_t lda, ldb, ldc, m, run_len, n_runs, a_run;
    at_mode mode;
    const char *ahead; /* AT_BY_COLUMNS_AHEAD: memory wanted next, a line per step of k */
} at_product;

HD_INLINE void at_accumulate(const int mr, const int nv, const at_order order, const float *a, int64_t lda, const float *b,
                             int64_t ldb, int64_t k, const char *ahead, hd_vf acc[AT_NARROW_MR][2])
{
    for (int64_t p = 0; p < k; p++) {
        if (order == AT_BY_COLUMNS_AHEAD) { __builtin_prefetch(ahead + p * 64, 0, 2); }
        hd_vf bv[2];
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) { bv[v] = *(const hd_vf_u *)(b + p * ldb + v * HD_LANES); }
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++) {
            float x = order == AT_BY_ROWS ? a[r * lda + p] : a[p * lda + r];
#pragma GCC unroll 2
            for (int v = 0; v < nv; v++) { acc[r][v] += x * bv[v]; }
        }
    }
}

HD_INLINE void at_block(const int mr, const int nv, const at_order order, const at_product *t, const float *a, float *c,
                        const char *ahead)
{
    hd_vf acc[AT_NARROW_MR][2];
    const hd_vf_u *scale = (const hd_vf_u *)t->scale;
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            acc[r][v] = (hd_vf){0};
            if (t->mode == AT_CONTINUE) { acc[r][v] = ((const hd_vf_u *)(c + r * t->ldc))[v] * scale[v]; }
        }
    }
    for (int64_t run = 0; run < t->n_runs; run++) {
        at_accumulate(mr, nv, order, a + run * t->a_run, t->lda, t->b + run * t->run_len * t->ldb, t->ldb, t->run_len,
                      ahead, acc);
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++) {
        hd_vf_u *to = (hd_vf_u *)(c + r * t->ldc);
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++) {
            if (t->mode == AT_ADD) { acc[r][v] += to[v]; }
            if (t->mode == AT_SCALE) { acc[r][v] += to[v] * scale[v]; }
            to[v] = acc[r][v];
        }
    }
}

/* Rows of the next block: whole ones, and the last two of about equal height, so that no sliver starves the FMA units. */
HD_INLINE int64_t at_next_rows(int64_t left, int64_t most)
{
    return left <= most ? left : left < 2 * most ? (left + 1) / 2 : most;
}

#define AT_CASE(n) \
    case n: at_block(n, nv, order, t, a, c, ahead); break;

HD_INLINE void at_run(const int nv, const at_order order, const at_product *t)
{
    const char *ahead = t->ahead;
    for (int64_t i = 0, mr; i < t->m; i += mr, ahead += order == AT_BY_COLUMNS_AHEAD ? t->run_len * 64 : 0) {
        const float *a = t->a + (order == AT_BY_ROWS ? i * t->lda : i);
        float *c = t->c + i * t->ldc;
        mr = at_next_rows(t->m - i, nv == 2 ? AT_MR : AT_NARROW_MR);
        if (nv == 2) {
            switch (mr) {
                AT_CASE(1) AT_CASE(2) AT_CASE(3) AT_CASE(4) AT_CASE(5) AT_CASE(6)
#if defined(__AVX512F__) || defined(__aarch64__)
                AT_CASE(7) AT_CASE(8) AT_CASE(9) AT_CASE(10) AT_CASE(11) AT_CASE(12)
#endif
            }
            continue;
        }
        switch (mr) {
            AT_CASE(1) AT_CASE(2) AT_CASE(3) AT_CASE(4) AT_CASE(5) AT_CASE(6)
            AT_CASE(7) AT_CASE(8) AT_CASE(9) AT_CASE(10) AT_CASE(11) AT_CASE(12)
        }
    }
}
#undef AT_CASE

static __attribute__((noinline)) void at_multiply_rows(const at_product *t)
{
    at_run(2, AT_BY_ROWS, t);
}
static __attribute__((noinline)) void at_multiply_columns(const at_product *t)
{
    at_run(2, AT_BY_COLUMNS, t);
}

/* ---- tiles ---- */

/* Row stride of a tile of n columns: whole strips, and an odd number of cache lines, so that rows spread over all sets. */
static inline int64_t at_stride(int64_t n)
{
    int64_t stride = hd_ceil_div(n, AT_NR) * AT_NR;
    stride = hd_ceil_div(stride, 16) * 16;
    return stride / 16 % 2 == 0 ? stride + 16 : stride;
}

/* Transposes HD_LANES vectors: swaps the off-diagonal quarters, then those of each quarter, and so on. */
HD_INLINE void at_transpose_vectors(hd_vf t[HD_LANES])
{
#pragma GCC unroll 4
    for (int d = HD_LANES / 2; d >= 1; d /= 2) {
        hd_vi low, high;
        for (int l = 0; l < HD_LANES; l++) {
            low[l] = (l & d) ? HD_LANES + l - d : l;
            high[l] = (l & d) ? HD_LANES + l : l + d;
        }
#pragma GCC unroll 16
        for (int i = 0; i < HD_LANES; i++) {
            if (i & d) { continue; }
            hd_vf a = t[i], b = t[i + d];
            t[i] = hd_shuffle2(a, b, low);
            t[i + d] = hd_shuffle2(a, b, high);
        }
    }
}

/* y (columns, rows) = x (rows, columns)^T; both counts are multiples of HD_LANES. */
static void at_transpose(const float *x, int64_t ldx, int64_t rows, int64_t columns, float *y, int64_t ldy)
{
    for (int64_t i = 0; i < rows; i += HD_LANES) {
        for (int64_t j = 0; j < columns; j += HD_LANES) {
            hd_vf t[HD_LANES];
#pragma GCC unroll 16
            for (int l = 0; l < HD_LANES; l++) { t[l] = *(const hd_vf_u *)(x + (i + l) * ldx + j); }
            at_transpose_vectors(t);
#pragma GCC unroll 16
            for (int l = 0; l < HD_LANES; l++) { *(hd_vf_u *)(y + (j + l) * ldy + i) = t[l]; }
        }
    }
}

HD_INLINE void at_load_row_as(const void *row, hd_dtype dtype, float factor, float *to, int64_t n)
{
    HD_MAP_LANES(i, 0, n, { hd_store(to, HD_DTYPE_F32, i, n, hd_load(row, dtype, i, n) * factor); });
}

/* n elements of a tensor's row, times factor, as f32. */
static void at_load_row(const void *row, hd_dtype dtype, float factor, float *to, int64_t n)
{
    HD_WITH_DTYPE(dtype, D, at_load_row_as(row, D, factor, to, n););
}

/* Rows of one head lie pages apart, where the hardware does not look ahead. */
HD_INLINE void at_prefetch_row(const void *row, hd_dtype dtype, int64_t n)
{
    int64_t bytes = n * (dtype == HD_DTYPE_F32 ? 4 : 2);
    for (int64_t at = 0; at < bytes; at += 64) { __builtin_prefetch((const char *)row + at); }
}

static void at_store_row(const float *from, float factor, void *row, hd_dtype dtype, int64_t n)
{
    HD_WITH_DTYPE(dtype, D,
                  { HD_MAP_LANES(i, 0, n, { hd_store(row, D, i, n, hd_load(from, HD_DTYPE_F32, i, n) * factor); }); });
}

#endif
