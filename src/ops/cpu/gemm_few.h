/* Few rows times B [n, k], the weights of decoding: nothing is packed.  HD_LANES columns of C at a time; a square of
 * HD_LANES rows of weights by a vector's worth of k is loaded, transposed in registers and used at once.
 *
 * Bytes: the weights, once.  FLOPs: 2 m per weight.  Bound: the read bandwidth up to m = 4 (f32): a square of 256 bytes (AVX2)
 * costs 24 shuffles and 8 m multiply-adds, about 12 + 4 m cycles, and at 20 GB/s per core takes 45 to arrive.
 * Each group of rows is its own set of streams, prefetched FEW_AHEAD bytes ahead and across the end of the rows. */
#ifndef HD_OPS_CPU_GEMM_FEW_H
#define HD_OPS_CPU_GEMM_FEW_H

#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_read.h"
#include "ops/cpu/gemm_stored.h"

enum { HD_GEMM_FEW_MAX = 4, HD_GEMM_FEW_AHEAD = 1024 };

typedef struct hd_gemm_few {
    const char *rows[HD_LANES]; /* weights of these columns, at the beginning of the span */
    int64_t columns;            /* valid ones; the other pointers repeat the last */
    int64_t next;               /* bytes from here to the group that comes after */
    int64_t k, kc, span;        /* block [k, k + kc) of the span */
    const float *scales;        /* of FP8 weights: one per 128 of the span */
    const float *a;             /* packed block: kc groups of `rows` floats */
    float *sums;
    int64_t sums_row;
    bool add;
} hd_gemm_few;

/* One line of each row, FEW_AHEAD further on, or as far into the next group's rows. */
HD_INLINE void few_prefetch(const hd_gemm_few *f, int64_t at, int64_t row_bytes)
{
    int64_t ahead = at + HD_GEMM_FEW_AHEAD;
    if (ahead >= row_bytes) { ahead += f->next - row_bytes; }
#pragma GCC unroll 16
    for (int r = 0; r < HD_LANES; r++) { __builtin_prefetch(f->rows[r] + ahead, 0, 2); }
}

/* The multiply-adds of one transposed square of FP8 codes, which have one scale. */
HD_INLINE void few_multiply_f8(const int m, const hd_vf square[HD_LANES], float scale, const float *a, hd_vf *acc)
{
    hd_vu nan = {0};
#pragma GCC unroll 16
    for (int j = 0; j < HD_LANES; j++) { nan |= gemm_f8_nan(square[j]); }
    bool finite = gemm_f8_is_small(scale) && !hd_any((hd_vi)(nan & 0x80808080u));
    hd_vf scales = hd_splat(finite ? scale * 0x1p120f : scale);
    if (__builtin_expect(!finite, 0)) {
        for (int k = 0; k < 4 * HD_LANES; k++) {
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], &a[k * m + i], gemm_f8_value(square[k / 4], k % 4, scales)); }
        }
        return;
    }
#pragma GCC unroll 16
    for (int j = 0; j < HD_LANES; j++) {
#pragma GCC unroll 4
        for (int b = 0; b < 4; b++) {
            hd_vf value = gemm_f8_finite(square[j], b, scales);
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], &a[(4 * j + b) * m + i], value); }
        }
    }
}

/* The multiply-adds of one transposed square. */
HD_INLINE void few_multiply(const int m, const hd_dtype dtype, const hd_vf square[HD_LANES], const float *a, hd_vf *acc)
{
#pragma GCC unroll 16
    for (int j = 0; j < HD_LANES; j++) {
        if (dtype == HD_DTYPE_BF16) {
            hd_vf even = (hd_vf)((hd_vu)square[j] << 16), odd = (hd_vf)((hd_vu)square[j] & 0xFFFF0000u);
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], &a[2 * j * m + i], even); }
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], &a[(2 * j + 1) * m + i], odd); }
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < m; i++) { gemm_fma_at(&acc[i], &a[j * m + i], square[j]); }
        }
    }
}

/* k-steps that do not fill a square, one at a time. */
HD_INLINE void few_rest(const int m, const hd_dtype dtype, const hd_gemm_few *f, int64_t k, hd_vf *acc)
{
    for (; k < f->kc; k++) {
        float x[HD_LANES];
        for (int r = 0; r < HD_LANES; r++) {
            const char *p = gemm_address(f->rows[r], dtype, f->k + k);
            x[r] = dtype == HD_DTYPE_F8_E4M3 ? hd_f8_e4m3_to_f32((uint8_t)*p) * f->scales[(f->k + k) / HD_F8_BLOCK] : gemm_read_one(p, dtype);
        }
        for (int i = 0; i < m; i++) { gemm_fma(&acc[i], hd_splat(f->a[k * m + i]), *(const hd_vf_u *)x); }
    }
}

HD_INLINE void few_kernel(const int m, const hd_dtype dtype, const hd_gemm_few *f)
{
    const int step = dtype == HD_DTYPE_F8_E4M3 ? 4 * HD_LANES : gemm_cross_length(dtype);
    const int64_t bytes = gemm_element_bytes(dtype), row_bytes = f->span * bytes;
    hd_vf acc[HD_GEMM_FEW_MAX] = {{0}};
    int64_t k = 0;
    for (; k + step <= f->kc; k += step) {
        hd_vf square[HD_LANES];
        int64_t at = (f->k + k) * bytes;
        if (HD_LANES == 16 || at % 64 < HD_LANES * 4) { few_prefetch(f, at, row_bytes); }
        gemm_transpose(f->rows, at, square);
        if (dtype == HD_DTYPE_F8_E4M3) {
            few_multiply_f8(m, square, f->scales[(f->k + k) / HD_F8_BLOCK], f->a + k * m, acc);
        } else {
            few_multiply(m, dtype, square, f->a + k * m, acc);
        }
    }
    few_rest(m, dtype, f, k, acc);
    for (int i = 0; i < m; i++) {
        float *c = f->sums + i * f->sums_row;
        if (f->add) { acc[i] = hd_load(c, HD_DTYPE_F32, 0, f->columns) + acc[i]; }
        hd_store(c, HD_DTYPE_F32, 0, f->columns, acc[i]);
    }
}

/* Few rows times B [k, n]: HD_GEMM_FEW_VECTORS vectors of columns at a time, row after row of B, nothing packed.
 * Bytes: B, once.  Each row of B gives 8 vectors (256 or 512 bytes of f32) and 8 m multiply-adds. */
enum { HD_GEMM_FEW_VECTORS = 8, HD_GEMM_FEW_COLUMNS = HD_GEMM_FEW_VECTORS * HD_LANES, HD_GEMM_FEW_ROWS_AHEAD = 8 };

typedef struct hd_gemm_few_columns {
    const char *b; /* row k of the block, first column */
    int64_t b_row_bytes, kc;
    const float *a; /* packed block: kc groups of `rows` floats */
    float *sums;
    int64_t sums_row;
    bool add;
} hd_gemm_few_columns;

HD_INLINE void few_columns(const int m, const hd_dtype dtype, const hd_gemm_few_columns *f)
{
    const int64_t bytes = HD_GEMM_FEW_COLUMNS * gemm_element_bytes(dtype), ahead = HD_GEMM_FEW_ROWS_AHEAD * f->b_row_bytes;
    hd_vf acc[2][HD_GEMM_FEW_VECTORS] = {{{0}}};
    for (int64_t k = 0; k < f->kc; k++) {
        const char *row = f->b + k * f->b_row_bytes;
#pragma GCC unroll 8
        for (int64_t line = 0; line < bytes; line += 64) { __builtin_prefetch(row + ahead + line, 0, 2); }
#pragma GCC unroll 8
        for (int v = 0; v < HD_GEMM_FEW_VECTORS; v++) {
            hd_vf b = gemm_read_run(gemm_address(row, dtype, v * HD_LANES), dtype);
#pragma GCC unroll 2
            for (int i = 0; i < m; i++) { gemm_fma(&acc[i][v], hd_splat(f->a[k * m + i]), b); }
        }
    }
#pragma GCC unroll 2
    for (int i = 0; i < m; i++) {
#pragma GCC unroll 8
        for (int v = 0; v < HD_GEMM_FEW_VECTORS; v++) {
            hd_vf_u *c = (hd_vf_u *)(f->sums + i * f->sums_row + v * HD_LANES);
            if (f->add) { acc[i][v] = *c + acc[i][v]; }
            *c = acc[i][v];
        }
    }
}

typedef void (*hd_gemm_few_fn)(const hd_gemm_few *f);

#define HD_GEMM_FEW(name, m, dtype)                                                                                 \
    static __attribute__((noinline)) void name(const hd_gemm_few *f) { few_kernel(m, dtype, f); }

HD_GEMM_FEW(gemm_few_f32_1, 1, HD_DTYPE_F32)
HD_GEMM_FEW(gemm_few_f32_2, 2, HD_DTYPE_F32)
HD_GEMM_FEW(gemm_few_f32_3, 3, HD_DTYPE_F32)
HD_GEMM_FEW(gemm_few_f32_4, 4, HD_DTYPE_F32)
HD_GEMM_FEW(gemm_few_bf16_1, 1, HD_DTYPE_BF16)
HD_GEMM_FEW(gemm_few_bf16_2, 2, HD_DTYPE_BF16)
HD_GEMM_FEW(gemm_few_bf16_3, 3, HD_DTYPE_BF16)
HD_GEMM_FEW(gemm_few_bf16_4, 4, HD_DTYPE_BF16)
HD_GEMM_FEW(gemm_few_f8_1, 1, HD_DTYPE_F8_E4M3)
HD_GEMM_FEW(gemm_few_f8_2, 2, HD_DTYPE_F8_E4M3)
HD_GEMM_FEW(gemm_few_f8_3, 3, HD_DTYPE_F8_E4M3)
HD_GEMM_FEW(gemm_few_f8_4, 4, HD_DTYPE_F8_E4M3)

static const hd_gemm_few_fn gemm_few_f32[HD_GEMM_FEW_MAX + 1] = {
    NULL, gemm_few_f32_1, gemm_few_f32_2, gemm_few_f32_3, gemm_few_f32_4};
static const hd_gemm_few_fn gemm_few_bf16[HD_GEMM_FEW_MAX + 1] = {
    NULL, gemm_few_bf16_1, gemm_few_bf16_2, gemm_few_bf16_3, gemm_few_bf16_4};
static const hd_gemm_few_fn gemm_few_f8[HD_GEMM_FEW_MAX + 1] = {NULL, gemm_few_f8_1, gemm_few_f8_2, gemm_few_f8_3, gemm_few_f8_4};

static const hd_gemm_few_fn *gemm_few_kernels(hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? gemm_few_bf16 : dtype == HD_DTYPE_F8_E4M3 ? gemm_few_f8 : gemm_few_f32;
}

typedef void (*hd_gemm_few_columns_fn)(const hd_gemm_few_columns *f);

#define HD_GEMM_FEW_COLUMNS_KERNEL(name, m, dtype)                                                                  \
    static __attribute__((noinline)) void name(const hd_gemm_few_columns *f) { few_columns(m, dtype, f); }

HD_GEMM_FEW_COLUMNS_KERNEL(gemm_few_columns_f32_1, 1, HD_DTYPE_F32)
HD_GEMM_FEW_COLUMNS_KERNEL(gemm_few_columns_f32_2, 2, HD_DTYPE_F32)
HD_GEMM_FEW_COLUMNS_KERNEL(gemm_few_columns_bf16_1, 1, HD_DTYPE_BF16)
HD_GEMM_FEW_COLUMNS_KERNEL(gemm_few_columns_bf16_2, 2, HD_DTYPE_BF16)

static const hd_gemm_few_columns_fn gemm_few_columns[2][3] = {{NULL, gemm_few_columns_f32_1, gemm_few_columns_f32_2},
                                                             {NULL, gemm_few_columns_bf16_1, gemm_few_columns_bf16_2}};

#endif
