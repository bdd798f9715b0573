/* Packing: operands of any stride and element type into the panels that the micro-kernels read.
 *
 *   A, one row panel of one k-block:      dst[k * rows + i] = A[i, k]          rows <= HD_GEMM_MR
 *   B, one column panel of one k-block:   dst[k * HD_GEMM_NR + j] = B[k, j]    anything from `columns` on
 *
 * Bytes: each element read once and written once.  Bound: memory for a cold operand; else two shuffles per four
 * elements where k is contiguous (crossing in registers), a copy where the other axis is, element by element where
 * neither is.  Nothing outside the operand is read; A writes up to HD_LANES floats beyond its panel. */
#ifndef HD_OPS_CPU_GEMM_PACK_H
#define HD_OPS_CPU_GEMM_PACK_H

#include "ops/cpu/gemm.h"

void hd_gemm_pack_a(const void *a, hd_dtype dtype, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t kc,
                    float *dst);
void hd_gemm_pack_b(const void *b, hd_dtype dtype, int64_t row_stride, int64_t column_stride, int64_t kc, int64_t columns,
                    float *dst);

/* A matrix (n, k) of weights. */
typedef struct gemm_stored {
    hd_dtype dtype;
    const void *codes, *scales;
    int64_t k; /* of the whole matrix */
} gemm_stored;

/* A panel of its transpose: `columns` <= HD_GEMM_NR outputs from `column` on, k .. k + kc, into rows of HD_GEMM_NR; vectors without a
 * column become zeros.  column is a multiple of HD_GEMM_NR, k of HD_GEMM_KC. */
void hd_gemm_pack_stored(const gemm_stored *w, int64_t column, int64_t columns, int64_t k, int64_t kc, float *dst);

#endif
