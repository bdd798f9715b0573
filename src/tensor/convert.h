/* Runs of elements from one floating dtype to another: what loading, converting and comparing checkpoints share.
 *
 * Every conversion goes through the f32 value and rounds once, to nearest, ties to even.  NaN stays NaN.  F8_E4M3 values are
 * float(code) * scale in f32, the published rule (deepseek-ai/DeepSeek-V3, inference/kernel.py: weight_dequant). */
#ifndef HD_TENSOR_CONVERT_H
#define HD_TENSOR_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* F32, BF16 or F16: what hd_convert reads and writes. */
static inline bool hd_dtype_is_float(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F32 || dtype == HD_DTYPE_BF16 || dtype == HD_DTYPE_F16;
}

/* n elements; both dtypes float, or equal (then bytes are copied).  Neither buffer needs alignment; they do not overlap. */
void hd_convert(hd_dtype from, const void *in, int64_t n, hd_dtype to, void *out);

/* n_row rows of n_column codes, rows `in_stride` apart, all with one scale, into rows of `to` elements, `out_stride` apart. */
void hd_convert_f8_block(const uint8_t *codes, int64_t in_stride, int64_t n_row, int64_t n_column, float scale, hd_dtype to, void *out,
                         int64_t out_stride);

/* The codes of values / scale: to nearest, ties to even, saturated at 448; NaN is 0x7F with the sign, -0 is 0x80. */
uint8_t hd_f32_to_f8_e4m3(float value);
void hd_quantize_f8_block(const float *values, int64_t in_stride, int64_t n_row, int64_t n_column, float scale, uint8_t *codes,
                          int64_t out_stride);

/* 2^(b - 127), NaN for 0xFF. */
float hd_f8_e8m0_to_f32(uint8_t bits);

#endif
