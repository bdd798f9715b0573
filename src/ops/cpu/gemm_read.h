/* Element readers of the matrix product: how f32 and bf16 (and, when added here, fp8 and block-scaled integers) become
 * vectors of f32.  Three shapes of access are all that packing and the few-row kernels need:
 *   gemm_read_run    HD_LANES neighbours in memory
 *   gemm_read_cross  the same short run of k from HD_LANES rows, transposed in registers: one vector per k
 *   gemm_read_one    one element
 * A new element type adds a case to each, and its gemm_cross_length. */
#ifndef HD_OPS_CPU_GEMM_READ_H
#define HD_OPS_CPU_GEMM_READ_H

#include "ops/cpu/math.h"

HD_INLINE int64_t gemm_element_bytes(hd_dtype dtype) { return dtype == HD_DTYPE_BF16 ? 2 : 4; }

HD_INLINE const char *gemm_address(const void *data, hd_dtype dtype, int64_t element)
{
    return (const char *)data + element * gemm_element_bytes(dtype);
}

HD_INLINE float gemm_read_one(const char *p, hd_dtype dtype) { return hd_get(p, dtype, 0); }

HD_INLINE hd_vf gemm_read_run(const char *p, hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? hd_widen(*(const hd_vh_u *)p) : *(const hd_vf_u *)p;
}

/* ---- crossing: 16 bytes of each row ---- */

enum { HD_GEMM_CROSS_MAX = 8 };

/* Steps of k in 16 bytes. */
HD_INLINE int gemm_cross_length(hd_dtype dtype) { return dtype == HD_DTYPE_BF16 ? 8 : 4; }

/* 16 bytes from each of HD_LANES / 4 rows, one per 128-bit lane. */
#if defined(__AVX512F__)
HD_INLINE hd_vf gemm_join(const char *p0, const char *p1, const char *p2, const char *p3)
{
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps((const float *)p0));
    v = _mm512_insertf32x4(v, _mm_loadu_ps((const float *)p1), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps((const float *)p2), 2);
    return (hd_vf)_mm512_insertf32x4(v, _mm_loadu_ps((const float *)p3), 3);
}
#define GEMM_JOIN(rows, r, at) gemm_join(rows[r] + at, rows[4 + r] + at, rows[8 + r] + at, rows[12 + r] + at)
#elif defined(__AVX2__)
HD_INLINE hd_vf gemm_join(const char *p0, const char *p1)
{
    __m256 v = _mm256_castps128_ps256(_mm_loadu_ps((const float *)p0));
    return (hd_vf)_mm256_insertf128_ps(v, _mm_loadu_ps((const float *)p1), 1);
}
#define GEMM_JOIN(rows, r, at) gemm_join(rows[r] + at, rows[4 + r] + at)
#else
#define GEMM_JOIN(rows, r, at) (*(const hd_vf_u *)(rows[r] + at))
#endif

/* 4 x 4 transpose of 32-bit elements inside each 128-bit lane: out[j] holds element j of all rows, rows in order. */
HD_INLINE hd_vf gemm_low_pairs(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_unpacklo_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_unpacklo_ps((__m256)a, (__m256)b);
#else
    return __builtin_shuffle(a, b, (hd_vi){0, 4, 1, 5});
#endif
}

HD_INLINE hd_vf gemm_high_pairs(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_unpackhi_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_unpackhi_ps((__m256)a, (__m256)b);
#else
    return __builtin_shuffle(a, b, (hd_vi){2, 6, 3, 7});
#endif
}

HD_INLINE hd_vf gemm_low_halves(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_shuffle_ps((__m512)a, (__m512)b, 0x44);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x44);
#else
    return __builtin_shuffle(a, b, (hd_vi){0, 1, 4, 5});
#endif
}

HD_INLINE hd_vf gemm_high_halves(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_shuffle_ps((__m512)a, (__m512)b, 0xEE);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xEE);
#else
    return __builtin_shuffle(a, b, (hd_vi){2, 3, 6, 7});
#endif
}

HD_INLINE void gemm_transpose(const hd_vf in[4], hd_vf out[4])
{
    hd_vf t0 = gemm_low_pairs(in[0], in[1]), t1 = gemm_low_pairs(in[2], in[3]);
    hd_vf t2 = gemm_high_pairs(in[0], in[1]), t3 = gemm_high_pairs(in[2], in[3]);
    out[0] = gemm_low_halves(t0, t1);
    out[1] = gemm_high_halves(t0, t1);
    out[2] = gemm_low_halves(t2, t3);
    out[3] = gemm_high_halves(t2, t3);
}

/* gemm_cross_length(dtype) steps of k starting `at` bytes into each row: out[j] = step j of all rows. */
HD_INLINE void gemm_read_cross(const char *const rows[HD_LANES], int64_t at, hd_dtype dtype, hd_vf out[HD_GEMM_CROSS_MAX])
{
    hd_vf in[4] = {GEMM_JOIN(rows, 0, at), GEMM_JOIN(rows, 1, at), GEMM_JOIN(rows, 2, at), GEMM_JOIN(rows, 3, at)};
    if (dtype != HD_DTYPE_BF16) {
        gemm_transpose(in, out);
        return;
    }
    hd_vf pairs[4]; /* pairs of bf16: even k in the low half */
    gemm_transpose(in, pairs);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        out[2 * j] = (hd_vf)((hd_vu)pairs[j] << 16);
        out[2 * j + 1] = (hd_vf)((hd_vu)pairs[j] & 0xFFFF0000u);
    }
}

#endif
