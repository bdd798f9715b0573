/* Stored weights on their way into the matrix product: FP8 with block scales, packed integers.  All give f32 values: code * scale. */
#ifndef HD_OPS_CPU_GEMM_STORED_H
#define HD_OPS_CPU_GEMM_STORED_H

#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_read.h"
#include "tensor/packed.h"
#include "tensor/weight.h"

HD_INLINE bool gemm_is_stored(hd_dtype dtype) { return dtype == HD_DTYPE_F8_E4M3 || hd_dtype_is_packed(dtype); }

/* Row of FP8 scales that covers output `column`. */
HD_INLINE const float *gemm_f8_scales(const void *scales, int64_t k, int64_t column)
{
    return (const float *)scales + column / HD_F8_BLOCK * hd_ceil_div(k, HD_F8_BLOCK);
}

/* Byte `b` of each lane's four codes, as values. */
HD_INLINE hd_vf gemm_f8_value(hd_vf four, int b, hd_vf scale) { return hd_widen_f8((hd_vu)four >> (8 * b)) * scale; }

/* The same in half the operations, for lanes without a NaN code.  scale_120 is scale * 2^120: the product is rounded once either way, as
 * long as it is finite. */
HD_INLINE hd_vf gemm_f8_finite(hd_vf four, int b, hd_vf scale_120)
{
    hd_vi spread = (hd_vi)((hd_vu)four << (24 - 8 * b)) >> 4; /* the sign at both ends of a gap of three bits */
    return (hd_vf)((hd_vu)spread & 0x87F00000u) * scale_120;
}

/* Bits 7 of the bytes of a word that hold the magnitude of NaN, 0x7F. */
HD_INLINE hd_vu gemm_f8_nan(hd_vf four) { return ((hd_vu)four & 0x7F7F7F7Fu) + 0x01010101u; }

HD_INLINE bool gemm_f8_is_small(float scale) { return scale > -128.0f && scale < 128.0f; } /* times 2^120 it is finite */

#endif
