/* Element readers of the matrix product: how f32 and bf16 become vectors of f32 (stored weights: gemm_stored.h).  Three shapes of access are all that packing and the few-row kernels need:
 *   gemm_read_run    HD_LANES neighbours in memory
 *   gemm_read_cross  the same short run of k from HD_LANES rows, transposed in registers: one vector per k
 *   gemm_read_one    one element
 * A new element type adds a case to each, and its gemm_cross_length. */
#ifndef HD_OPS_CPU_GEMM_READ_H
#define HD_OPS_CPU_GEMM_READ_H

#include "ops/cpu/math.h"

HD_INLINE int64_t gemm_element_bytes(hd_dtype dtype) { return dtype == HD_DTYPE_BF16 ? 2 : dtype == HD_DTYPE_F8_E4M3 ? 1 : 4; }

HD_INLINE const char *gemm_address(const void *data, hd_dtype dtype, int64_t element)
{
    return (const char *)data + element * gemm_element_bytes(dtype);
}

HD_INLINE float gemm_read_one(const char *p, hd_dtype dtype) { return hd_get(p, dtype, 0); }

HD_INLINE hd_vf gemm_read_run(const char *p, hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? hd_widen(*(const hd_vh_u *)p) : *(const hd_vf_u *)p;
}

/* ---- crossing: a vector's worth of bytes of each row, so that a cache line is touched as seldom as can be (rows of
 * a power-of-two stride share one set of the first-level cache) ---- */

enum { HD_GEMM_CROSS_MAX = 2 * HD_LANES };

/* Steps of k in HD_LANES * 4 bytes. */
HD_INLINE int gemm_cross_length(hd_dtype dtype) { return dtype == HD_DTYPE_BF16 ? 2 * HD_LANES : HD_LANES; }

HD_INLINE hd_vf gemm_low_pairs(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_unpacklo_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_unpacklo_ps((__m256)a, (__m256)b);
#else
    return hd_shuffle2(a, b, (hd_vi){0, 4, 1, 5});
#endif
}

HD_INLINE hd_vf gemm_high_pairs(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_unpackhi_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_unpackhi_ps((__m256)a, (__m256)b);
#else
    return hd_shuffle2(a, b, (hd_vi){2, 6, 3, 7});
#endif
}

HD_INLINE hd_vf gemm_low_halves(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x44);
#else
    return hd_shuffle2(a, b, (hd_vi){0, 1, 4, 5});
#endif
}

HD_INLINE hd_vf gemm_high_halves(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xEE);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xEE);
#else
    return hd_shuffle2(a, b, (hd_vi){2, 3, 6, 7});
#endif
}

/* 4 x 4 inside each 128-bit lane: out[j] holds element j of the lane of all four. */
HD_INLINE void gemm_transpose_lanes(const hd_vf in[4], hd_vf out[4])
{
    hd_vf t0 = gemm_low_pairs(in[0], in[1]), t1 = gemm_low_pairs(in[2], in[3]);
    hd_vf t2 = gemm_high_pairs(in[0], in[1]), t3 = gemm_high_pairs(in[2], in[3]);
    out[0] = gemm_low_halves(t0, t1);
    out[1] = gemm_high_halves(t0, t1);
    out[2] = gemm_low_halves(t2, t3);
    out[3] = gemm_high_halves(t2, t3);
}

/* Four vectors whose lane l holds rows 4g .. 4g + 3 at step 4l + j, g = 0 .. LANES / 4: collects all rows of each step. */
HD_INLINE void gemm_gather_lanes(const hd_vf *t, int j, hd_vf *out)
{
#if defined(__AVX512F__)
    __m512 t0 = (__m512)t[0], t1 = (__m512)t[4], t2 = (__m512)t[8], t3 = (__m512)t[12];
    __m512 even01 = _mm512_shuffle_f32x4(t0, t1, 0x88), even23 = _mm512_shuffle_f32x4(t2, t3, 0x88);
    __m512 odd01 = _mm512_shuffle_f32x4(t0, t1, 0xDD), odd23 = _mm512_shuffle_f32x4(t2, t3, 0xDD);
    out[j] = (hd_vf)_mm512_shuffle_f32x4(even01, even23, 0x88);
    out[4 + j] = (hd_vf)_mm512_shuffle_f32x4(odd01, odd23, 0x88);
    out[8 + j] = (hd_vf)_mm512_shuffle_f32x4(even01, even23, 0xDD);
    out[12 + j] = (hd_vf)_mm512_shuffle_f32x4(odd01, odd23, 0xDD);
#elif defined(__AVX2__)
    out[j] = (hd_vf)_mm256_permute2f128_ps((__m256)t[0], (__m256)t[4], 0x20);
    out[4 + j] = (hd_vf)_mm256_permute2f128_ps((__m256)t[0], (__m256)t[4], 0x31);
#else
    out[j] = t[0];
#endif
}

/* A vector wherever a bf16 or an FP8 code may lie. */
typedef float gemm_vector_anywhere __attribute__((vector_size(HD_LANES * 4), may_alias, aligned(1)));

/* out[j] = 32-bit element j (an f32, a pair of bf16) of all rows, rows in order. */
HD_INLINE void gemm_transpose(const char *const rows[HD_LANES], int64_t at, hd_vf out[HD_LANES])
{
    hd_vf t[HD_LANES];
#pragma GCC unroll 4
    for (int g = 0; g < HD_LANES; g += 4) {
        const hd_vf in[4] = {*(const gemm_vector_anywhere *)(rows[g] + at), *(const gemm_vector_anywhere *)(rows[g + 1] + at),
                             *(const gemm_vector_anywhere *)(rows[g + 2] + at), *(const gemm_vector_anywhere *)(rows[g + 3] + at)};
        gemm_transpose_lanes(in, t + g);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { gemm_gather_lanes(t + j, j, out); }
}

/* gemm_cross_length(dtype) steps of k starting `at` bytes into each row: out[j] = step j of all rows. */
HD_INLINE void gemm_read_cross(const char *const rows[HD_LANES], int64_t at, hd_dtype dtype, hd_vf out[HD_GEMM_CROSS_MAX])
{
    if (dtype != HD_DTYPE_BF16) {
        gemm_transpose(rows, at, out);
        return;
    }
    hd_vf pairs[HD_LANES]; /* of bf16: even k in the low half */
    gemm_transpose(rows, at, pairs);
#pragma GCC unroll 16
    for (int j = 0; j < HD_LANES; j++) {
        out[2 * j] = (hd_vf)((hd_vu)pairs[j] << 16);
        out[2 * j + 1] = (hd_vf)((hd_vu)pairs[j] & 0xFFFF0000u);
    }
}

#endif
