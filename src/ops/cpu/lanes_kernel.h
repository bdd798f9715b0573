/* Micro-kernels of sums by lanes: up to LANES_MR rows of x times LANES_ROWS rows of BF16 or F32 weights, which are read as they lie.
 *
 * Per 32 columns, lane l of 16 takes columns 2l and then 2l + 1: of BF16 that is the low and the high half of each 32-bit word, one shift
 * and one mask.  The lanes are added at the end, halves first.  Every instruction set with fused multiply-add gives the same bits.
 * Inputs come spread: per 32 columns 16 even ones and 16 odd ones, zeros behind the end.
 *
 * A tile of rows is worked on out of the second-level cache, while the next one is fetched into it as two plain streams, half a tile each:
 * rows are often a multiple of 4 KiB apart, and as many streams as rows come slower.
 *
 * Bytes: the weights, once for LANES_MR rows.  FLOPs: 2 per weight and row.  Bound: the read bandwidth up to four rows. */
#ifndef HD_OPS_CPU_LANES_KERNEL_H
#define HD_OPS_CPU_LANES_KERNEL_H

#include "ops/cpu/gemm_read.h"

enum {
    LANES = 16,
    LANES_STEP = 2 * LANES,
    LANES_VECTORS = LANES / HD_LANES,
    LANES_ROWS = 8,
    LANES_MR = 4
};

typedef struct lanes_tile {
    const char *w;             /* the first row of weights */
    int64_t w_row;             /* bytes between rows */
    int64_t n;                 /* rows, LANES_ROWS or fewer at the end of a matrix */
    const char *next;          /* the tile that comes after this one, its rows without gaps */
    int64_t k;                 /* columns */
    const float *x;            /* spread rows */
    int64_t x_row;
    float sums[LANES_MR][LANES]; /* LANES_ROWS of each; stream_store reads whole vectors */
} lanes_tile;

/* Vector v of the even and the odd columns of a step. */
HD_INLINE void lanes_load(hd_dtype dtype, const char *step, int v, hd_vf *even, hd_vf *odd)
{
    typedef uint32_t words __attribute__((vector_size(HD_LANES * 4), may_alias, aligned(1)));
    if (dtype == HD_DTYPE_BF16) {
        hd_vu pairs = *(const words *)(const void *)(step + v * HD_LANES * 4);
        *even = (hd_vf)(pairs << 16);
        *odd = (hd_vf)(pairs & 0xFFFF0000u);
        return;
    }
    const words *p = (const words *)(const void *)(step + 2 * v * HD_LANES * 4);
    *even = hd_even((hd_vf)p[0], (hd_vf)p[1]);
    *odd = hd_odd((hd_vf)p[0], (hd_vf)p[1]);
}

/* acc += x * w, fused; x may stay in memory where registers are few. */
HD_INLINE void lanes_fma(hd_vf *acc, hd_vf x, hd_vf w)
{
#if defined(__AVX512F__)
    __asm__("vfmadd231ps %1, %2, %0" : "+v"(*acc) : "v"(x), "v"(w));
#elif defined(__FMA__)
    __asm__("vfmadd231ps %1, %2, %0" : "+x"(*acc) : "xm"(x), "x"(w));
#else
    *acc += x * w;
#endif
}

/* One step of rows [0, nw) of weights times m rows of x. */
HD_INLINE void lanes_step(const int m, const int nw, const hd_dtype dtype, const char *w, int64_t w_row, const float *x, int64_t x_row,
                          hd_vf acc[LANES_ROWS][LANES_MR][LANES_VECTORS])
{
#pragma GCC unroll 4
    for (int v = 0; v < LANES_VECTORS; v++) {
        hd_vf x_even[LANES_MR], x_odd[LANES_MR];
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) {
            x_even[i] = *(const hd_vf_u *)(x + i * x_row + v * HD_LANES);
            x_odd[i] = *(const hd_vf_u *)(x + i * x_row + LANES + v * HD_LANES);
        }
#pragma GCC unroll 8
        for (int r = 0; r < nw; r++) {
            hd_vf even, odd;
            lanes_load(dtype, w + r / 4 * (4 * w_row) + r % 4 * w_row, v, &even, &odd);
#pragma GCC unroll 4
            for (int i = 0; i < m; i++) {
                lanes_fma(&acc[r][i][v], x_even[i], even);
                lanes_fma(&acc[r][i][v], x_odd[i], odd);
            }
        }
    }
}

/* As many lines of the next tile as a step of nw rows reads of this one from each half. */
HD_INLINE void lanes_fetch(const int nw, const char *first, const char *second, int64_t step_bytes)
{
#pragma GCC unroll 8
    for (int64_t line = 0; line < nw * step_bytes / 2; line += 64) {
        __builtin_prefetch(first + line, 0, 1);
        __builtin_prefetch(second + line, 0, 1);
    }
}

/* All lanes together, halves first. */
HD_INLINE float lanes_sum(const hd_vf acc[LANES_VECTORS])
{
    hd_vf sum = acc[0];
    if (LANES_VECTORS == 2) { sum = acc[0] + acc[LANES_VECTORS - 1]; }
    if (LANES_VECTORS == 4) { sum = (acc[0] + acc[LANES_VECTORS / 2]) + (acc[LANES_VECTORS / 4] + acc[LANES_VECTORS - 1]); }
    return hd_sum_lanes(sum);
}

/* Rows [first, first + nw) of the tile, all of K. */
HD_INLINE void lanes_rows(const int m, const int nw, const hd_dtype dtype, lanes_tile *t, int64_t first)
{
    const int64_t step_bytes = LANES_STEP * gemm_element_bytes(dtype), whole = t->k / LANES_STEP, row_bytes = t->k * gemm_element_bytes(dtype);
    const char *w = t->w + first * t->w_row, *next = t->next + first * row_bytes / 2, *half = next + LANES_ROWS / 2 * row_bytes;
    const float *x = t->x;
    hd_vf acc[LANES_ROWS][LANES_MR][LANES_VECTORS] = {{{{0}}}};
    for (int64_t s = whole; s > 0; s--) {
        if (nw > 1) { lanes_fetch(nw, next, half, step_bytes); }
        lanes_step(m, nw, dtype, w, t->w_row, x, t->x_row, acc);
        w += step_bytes;
        x += LANES_STEP;
        next += nw * step_bytes / 2;
        half += nw * step_bytes / 2;
    }
    if (t->k > whole * LANES_STEP) {
        char rest[LANES_ROWS][LANES_STEP * 4] __attribute__((aligned(64))) = {{0}};
        for (int r = 0; r < nw; r++) { memcpy(rest[r], w + r * t->w_row, (size_t)(row_bytes - whole * step_bytes)); }
        lanes_step(m, nw, dtype, rest[0], sizeof rest[0], x, t->x_row, acc);
    }
#pragma GCC unroll 8
    for (int r = 0; r < nw; r++) {
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) { t->sums[i][first + r] = lanes_sum(acc[r][i]); }
    }
}

/* With AVX2, more rows of weights at once than have their sums in registers pay all the same: x is read less often. */
HD_INLINE void lanes_kernel(const int m, const hd_dtype dtype, lanes_tile *t)
{
#if defined(__AVX512F__)
    const int nw = m == 1 ? 1 : 8; /* a row's line comes as fast as it is used: one stream, which the hardware fetches */
#elif defined(__AVX2__)
    const int nw = 4;
#else
    const int nw = 1;
#endif
    int64_t first = 0;
    for (; first + nw <= t->n; first += nw) { lanes_rows(m, nw, dtype, t, first); }
    for (; nw > 1 && first < t->n; first++) { lanes_rows(m, 1, dtype, t, first); }
}

typedef void (*lanes_kernel_fn)(lanes_tile *t);

#define LANES_KERNEL(name, m, dtype) \
    static __attribute__((noinline)) void name(lanes_tile *t) { lanes_kernel(m, dtype, t); }

LANES_KERNEL(lanes_bf16_1, 1, HD_DTYPE_BF16)
LANES_KERNEL(lanes_bf16_2, 2, HD_DTYPE_BF16)
LANES_KERNEL(lanes_bf16_3, 3, HD_DTYPE_BF16)
LANES_KERNEL(lanes_bf16_4, 4, HD_DTYPE_BF16)
LANES_KERNEL(lanes_f32_1, 1, HD_DTYPE_F32)
LANES_KERNEL(lanes_f32_2, 2, HD_DTYPE_F32)
LANES_KERNEL(lanes_f32_3, 3, HD_DTYPE_F32)
LANES_KERNEL(lanes_f32_4, 4, HD_DTYPE_F32)

/* [is F32][rows of x] */
static const lanes_kernel_fn lanes_kernels[2][LANES_MR + 1] = {{NULL, lanes_bf16_1, lanes_bf16_2, lanes_bf16_3, lanes_bf16_4},
                                                               {NULL, lanes_f32_1, lanes_f32_2, lanes_f32_3, lanes_f32_4}};

#endif
