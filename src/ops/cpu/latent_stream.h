/* q Wk of few rows, without packing: the rows of Wk go from memory through registers, eight at a time, each group prefetched while the
 * one before is multiplied.  An element is the fused multiply-add chain over k from zero: with k up to HD_GEMM_KC the bits of gemm.h.
 *   Bytes: Wk once, bound by the read bandwidth.  FLOPs 2 rows per weight. */
#ifndef HD_OPS_CPU_LATENT_STREAM_H
#define HD_OPS_CPU_LATENT_STREAM_H

#include "ops/cpu/math.h"

/* Rows of a pass over a head's Wk, which stays in the second-level cache for the passes after; rows up to which that beats packing. */
enum { LATENT_STREAM_ROWS = 4, LATENT_STREAM_STEPS = 8, LATENT_STREAM_MOST = 16 };

/* One head: y (m, columns) = x (m, n) W (n, columns). */
typedef struct latent_stream {
    const void *x, *w;
    float *y;
    hd_dtype x_dtype, w_dtype;
    int64_t x_row, w_row, y_row, n, columns;
} latent_stream;

/* The vector at column d of `steps` rows of W, w their first. */
HD_INLINE void latent_stream_column(const int m, const int steps, const hd_dtype dtype, const latent_stream *t, const char *w,
                                    float x[LATENT_STREAM_ROWS][LATENT_STREAM_STEPS], bool first, int64_t d)
{
    const int64_t bytes = dtype == HD_DTYPE_BF16 ? 2 : 4, row_bytes = t->w_row * bytes;
    hd_vf sum[LATENT_STREAM_ROWS];
    for (int i = 0; i < m; i++) { sum[i] = first ? (hd_vf){0} : hd_load(t->y + i * t->y_row, HD_DTYPE_F32, d, t->columns); }
#pragma GCC unroll 8
    for (int s = 0; s < steps; s++) {
        hd_vf v = hd_load(w + s * row_bytes, dtype, d, t->columns);
        if (d * bytes % 64 == 0) { __builtin_prefetch(w + (LATENT_STREAM_STEPS + s) * row_bytes + d * bytes, 0, 2); }
        for (int i = 0; i < m; i++) { sum[i] += x[i][s] * v; }
    }
    for (int i = 0; i < m; i++) { hd_store(t->y + i * t->y_row, HD_DTYPE_F32, d, t->columns, sum[i]); }
}

HD_INLINE void latent_stream_steps(const int m, const int steps, const hd_dtype dtype, const latent_stream *t, int64_t k)
{
    const char *w = (const char *)t->w + k * t->w_row * (dtype == HD_DTYPE_BF16 ? 2 : 4);
    float x[LATENT_STREAM_ROWS][LATENT_STREAM_STEPS];
    for (int i = 0; i < m; i++) {
        const char *row = (const char *)t->x + i * t->x_row * (t->x_dtype == HD_DTYPE_BF16 ? 2 : 4);
        for (int s = 0; s < steps; s++) { x[i][s] = hd_get(row, t->x_dtype, k + s); }
    }
    HD_MAP_LANES(d, 0, t->columns, { latent_stream_column(m, steps, dtype, t, w, x, k == 0, d); });
}

HD_INLINE void latent_stream_rows(const int m, const hd_dtype dtype, const latent_stream *t)
{
    int64_t k = 0;
    for (; k + LATENT_STREAM_STEPS <= t->n; k += LATENT_STREAM_STEPS) { latent_stream_steps(m, LATENT_STREAM_STEPS, dtype, t, k); }
    for (; k < t->n; k++) { latent_stream_steps(m, 1, dtype, t, k); }
}

static void latent_stream_pass(const latent_stream *t, int64_t m)
{
    HD_WITH_DTYPE(t->w_dtype, D, {
        switch (m) {
        case 1: latent_stream_rows(1, D, t); break;
        case 2: latent_stream_rows(2, D, t); break;
        case 3: latent_stream_rows(3, D, t); break;
        default: latent_stream_rows(4, D, t); break;
        }
    });
}

static void latent_stream_run(latent_stream t, int64_t m)
{
    int64_t x_bytes = t.x_row * (t.x_dtype == HD_DTYPE_BF16 ? 2 : 4);
    for (; m > 0; m -= LATENT_STREAM_ROWS) {
        latent_stream_pass(&t, hd_min_i64(m, LATENT_STREAM_ROWS));
        t.x = (const char *)t.x + LATENT_STREAM_ROWS * x_bytes;
        t.y += LATENT_STREAM_ROWS * t.y_row;
    }
}

#endif
