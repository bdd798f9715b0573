/* Vector building blocks of the cpu kernels, at the width of isa.h: loads and stores of f32 and bf16 rows with partial
 * ends, selection, exp, sigmoid, sums in a fixed order, and the rules that cut an op into items of parallel work.
 *
 * Everything is exact or rounds once, except hd_exp and hd_sigmoid.  Measured over every seventh float against double:
 * hd_exp within 1.02 ulp (0.75 of a denormal's spacing), hd_exp_nonpositive the same or flushed to 0 below 2^-126.5,
 * hd_sigmoid within 2.5 ulp.  NaN goes through all of them; exp(-inf) = 0, exp(+inf) = inf. */
#ifndef HD_OPS_CPU_MATH_H
#define HD_OPS_CPU_MATH_H

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ops/cpu/isa.h"

#define HD_INLINE static inline __attribute__((always_inline))

typedef uint16_t hd_vh __attribute__((vector_size(HD_LANES * 2), may_alias));
typedef uint16_t hd_vh_u __attribute__((vector_size(HD_LANES * 2), may_alias, aligned(2)));
typedef float hd_vf_half __attribute__((vector_size(HD_LANES * 2), may_alias));
typedef double hd_vd __attribute__((vector_size(HD_LANES * 4), may_alias)); /* half the lanes of hd_vf */

HD_INLINE hd_vf hd_splat(float x)
{
    return x - (hd_vf){0};
}

/* ---- selection: mask lanes are all ones or all zeros ---- */

HD_INLINE hd_vf hd_select(hd_vi mask, hd_vf yes, hd_vf no)
{
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (hd_vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#endif
    return (hd_vf)(((hd_vi)yes & mask) | ((hd_vi)no & ~mask));
}

/* a > b ? a : b per lane, so b where either is NaN. */
HD_INLINE hd_vf hd_vmax(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (hd_vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return hd_select(a > b, a, b);
#endif
}

/* a < b ? a : b per lane, so b where either is NaN. */
HD_INLINE hd_vf hd_vmin(hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (hd_vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return hd_select(a < b, a, b);
#endif
}

/* 0, 1, 2, ... */
HD_INLINE hd_vi hd_lane_index(void)
{
    hd_vi index;
    for (int l = 0; l < HD_LANES; l++) { index[l] = l; }
    return index;
}

/* The lanes at i of a row of n elements, those beyond its end set to 0. */
HD_INLINE hd_vf hd_clear_tail(hd_vf v, int64_t i, int64_t n)
{
    return i + HD_LANES <= n ? v : (hd_vf)((hd_vi)v & (hd_lane_index() < (int32_t)(n - i)));
}

/* Whether any lane of a mask is set. */
HD_INLINE bool hd_any(hd_vi mask)
{
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_epi8((__m256i)mask) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_epi8((__m128i)mask) != 0;
#else
    int32_t any = 0;
    for (int l = 0; l < HD_LANES; l++) { any |= mask[l]; }
    return any != 0;
#endif
}

HD_INLINE hd_vf hd_vsqrt(hd_vf x)
{
#if defined(__AVX512F__)
    return (hd_vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (hd_vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (hd_vf)_mm_sqrt_ps((__m128)x);
#else
    for (int l = 0; l < HD_LANES; l++) { x[l] = sqrtf(x[l]); }
    return x;
#endif
}

/* ---- bf16 ---- */

HD_INLINE hd_vf hd_widen(hd_vh bits)
{
#if defined(__AVX512F__)
    return (hd_vf)((hd_vu)_mm512_cvtepu16_epi32((__m256i)bits) << 16);
#elif defined(__AVX2__)
    return (hd_vf)((hd_vu)_mm256_cvtepu16_epi32((__m128i)bits) << 16);
#else
    return (hd_vf)(__builtin_convertvector(bits, hd_vu) << 16);
#endif
}

/* Upper half: the bf16 nearest to x, ties to even; a NaN made quiet.  The lower half holds anything. */
HD_INLINE hd_vu hd_round_bits(hd_vf x)
{
    hd_vu u = (hd_vu)x, rounded = u + 0x7FFFu + ((u >> 16) & 1u), quiet = u | 0x400000u;
#if defined(__AVX512F__)
    return (hd_vu)_mm512_mask_blend_epi32(_mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q), (__m512i)rounded,
                                          (__m512i)quiet);
#elif defined(__AVX2__)
    return (hd_vu)_mm256_blendv_ps((__m256)rounded, (__m256)quiet, _mm256_cmp_ps((__m256)x, (__m256)x, _CMP_UNORD_Q));
#else
    return (hd_vu)hd_select(x != x, (hd_vf)quiet, (hd_vf)rounded);
#endif
}

HD_INLINE hd_vh hd_narrow(hd_vf x)
{
    hd_vu high = hd_round_bits(x) >> 16;
#if defined(__AVX512F__)
    return (hd_vh)_mm512_cvtepi32_epi16((__m512i)high);
#elif defined(__AVX2__)
    __m256i v = (__m256i)high;
    return (hd_vh)_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
#else
    return __builtin_convertvector(high, hd_vh);
#endif
}

/* What a value becomes when stored as dtype (f32 or bf16) and read back. */
HD_INLINE hd_vf hd_round_to(hd_vf x, hd_dtype dtype)
{
    return dtype == HD_DTYPE_BF16 ? (hd_vf)(hd_round_bits(x) & 0xFFFF0000u) : x;
}

/* ---- rows of f32 or bf16 ---- */

#define HD_FOR_LANES(i, n) for (int64_t i = 0; i < (n); i += HD_LANES)

/* The same loop with its body twice: whole vectors, where the compiler drops the checks of hd_load and hd_store, and the
 * rest.  For loops whose dtypes are constants. */
#define HD_MAP_LANES(i, begin, n, ...)                             \
    do {                                                           \
        int64_t i = (begin);                                       \
        for (; i + HD_LANES <= (n); i += HD_LANES) { __VA_ARGS__ } \
        if (i < (n)) { __VA_ARGS__ }                               \
    } while (0)

/* Runs a statement with D the constant f32 or bf16, as dtype says; the same for two and three dtypes. */
#define HD_WITH_DTYPE(dtype, D, ...)          \
    do {                                      \
        if ((dtype) == HD_DTYPE_F32) {        \
            const hd_dtype D = HD_DTYPE_F32;  \
            __VA_ARGS__                       \
        } else {                              \
            const hd_dtype D = HD_DTYPE_BF16; \
            __VA_ARGS__                       \
        }                                     \
    } while (0)
#define HD_WITH_DTYPES_2(a, A, b, B, ...) HD_WITH_DTYPE(a, A, HD_WITH_DTYPE(b, B, __VA_ARGS__);)
#define HD_WITH_DTYPES_3(a, A, b, B, c, C, ...) HD_WITH_DTYPE(a, A, HD_WITH_DTYPES_2(b, B, c, C, __VA_ARGS__);)

/* Lanes i .. i + HD_LANES of a row of n elements; zeros beyond its end. */
HD_INLINE hd_vf hd_load(const void *row, hd_dtype dtype, int64_t i, int64_t n)
{
    if (dtype == HD_DTYPE_F32) {
        const float *p = (const float *)row + i;
        if (__builtin_expect(i + HD_LANES <= n, 1)) { return *(const hd_vf_u *)p; }
        hd_vf v = {0};
        memcpy(&v, p, (size_t)(n - i) * sizeof *p);
        return v;
    }
    const uint16_t *p = (const uint16_t *)row + i;
    if (__builtin_expect(i + HD_LANES <= n, 1)) { return hd_widen(*(const hd_vh_u *)p); }
    hd_vh h = {0};
    memcpy(&h, p, (size_t)(n - i) * sizeof *p);
    return hd_widen(h);
}

HD_INLINE void hd_store(void *row, hd_dtype dtype, int64_t i, int64_t n, hd_vf v)
{
    if (dtype == HD_DTYPE_F32) {
        float *p = (float *)row + i;
        if (__builtin_expect(i + HD_LANES <= n, 1)) {
            *(hd_vf_u *)p = v;
        } else {
            memcpy(p, &v, (size_t)(n - i) * sizeof *p);
        }
        return;
    }
    uint16_t *p = (uint16_t *)row + i;
    hd_vh h = hd_narrow(v);
    if (__builtin_expect(i + HD_LANES <= n, 1)) {
        *(hd_vh_u *)p = h;
    } else {
        memcpy(p, &h, (size_t)(n - i) * sizeof *p);
    }
}

/* One element. */
HD_INLINE float hd_get(const void *row, hd_dtype dtype, int64_t i)
{
    return dtype == HD_DTYPE_F32 ? ((const float *)row)[i] : hd_bf16_to_f32(((const uint16_t *)row)[i]);
}

/* ---- sums over lanes, halves first: lane l meets l + LANES / 2 ---- */

HD_INLINE float hd_sum_lanes(hd_vf v)
{
#if defined(__AVX2__)
#if defined(__AVX512F__)
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)v, 1)));
#else
    __m256 eight = (__m256)v;
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float x[HD_LANES];
    memcpy(x, &v, sizeof x);
    for (int half = HD_LANES / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) { x[l] += x[l + half]; }
    }
    return x[0];
#endif
}

/* Every second lane of a followed by b, from the first or the second one on. */
#if defined(__AVX512F__)
#define HD_EVEN_LANES ((hd_vi){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30})
#elif defined(__AVX2__)
#define HD_EVEN_LANES ((hd_vi){0, 2, 4, 6, 8, 10, 12, 14})
#else
#define HD_EVEN_LANES ((hd_vi){0, 2, 4, 6})
#endif
HD_INLINE hd_vf hd_even(hd_vf a, hd_vf b) { return hd_shuffle2(a, b, HD_EVEN_LANES); }
HD_INLINE hd_vf hd_odd(hd_vf a, hd_vf b) { return hd_shuffle2(a, b, HD_EVEN_LANES + 1); }

HD_INLINE double hd_sum_lanes_f64(hd_vd v)
{
    double x[HD_LANES / 2];
    memcpy(x, &v, sizeof x);
    for (int half = HD_LANES / 4; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) { x[l] += x[l + half]; }
    }
    return x[0];
}

/* Lanes 0 .. HD_LANES / 2 (which = 0) or the rest as f64. */
HD_INLINE hd_vd hd_half_f64(hd_vf v, int which)
{
    hd_vf_half half[2];
    memcpy(half, &v, sizeof half);
    return __builtin_convertvector(half[which], hd_vd);
}

HD_INLINE float hd_max_lanes(hd_vf v)
{
    float x[HD_LANES];
    memcpy(x, &v, sizeof x);
    for (int l = 1; l < HD_LANES; l++) { x[0] = x[l] > x[0] ? x[l] : x[0]; }
    return x[0];
}

/* ---- exp: x = n ln 2 + r, |r| <= ln 2 / 2;  e^r = 1 + r + r^2 P(r), P of degree 4 fitted for the least largest
 * relative error (3.3e-9); 2^n in two factors, so that results below 2^-126 round once.  14 operations. ---- */

HD_INLINE hd_vf hd_exp_polynomial(hd_vf r)
{
    hd_vf p = hd_splat(0x1.6a1a8ep-10f);
    p = p * r + 0x1.123fb4p-7f;
    p = p * r + 0x1.555916p-5f;
    p = p * r + 0x1.55548ap-3f;
    p = p * r + 0x1.fffffcp-2f;
    return (p * r) * r + r + 1.0f;
}

/* n as a float in *n_out; returns r.  The magic number 1.5 * 2^23 rounds to the nearest integer. */
HD_INLINE hd_vf hd_exp_reduce(hd_vf x, hd_vi *n_out)
{
    const float magic = 0x1.8p23f;
    hd_vf shifted = x * 0x1.715476p+0f + magic;
    hd_vf n = shifted - magic;
    *n_out = (hd_vi)shifted - (hd_vi)hd_splat(magic);
    return (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
}

HD_INLINE hd_vf hd_exp(hd_vf x)
{
    hd_vi n;
    hd_vf clamped = hd_vmin(hd_splat(89.0f), hd_vmax(hd_splat(-105.0f), x)); /* NaN is the second operand: it stays */
    hd_vf y = hd_exp_polynomial(hd_exp_reduce(clamped, &n));
    hd_vi n1 = n >> 1, n2 = n - n1;
    return y * (hd_vf)((n1 + 127) << 23) * (hd_vf)((n2 + 127) << 23);
}

/* For x <= 0 or NaN, where results below 2^-126 may become 0: softmax.  3 operations fewer. */
HD_INLINE hd_vf hd_exp_nonpositive(hd_vf x)
{
    hd_vi n;
    hd_vf clamped = hd_vmax(hd_splat(-88.0f), x);
    hd_vf y = hd_exp_polynomial(hd_exp_reduce(clamped, &n));
    hd_vf scaled = y * (hd_vf)((n + 127) << 23); /* n = -127 at the clamp: the factor is 0 */
    return scaled;
}

/* 1 / (1 + e) for x >= 0, e / (1 + e) below, e = exp(-|x|): no overflow, and full precision far out on the left. */
HD_INLINE hd_vf hd_sigmoid(hd_vf x)
{
    hd_vi sign = (hd_vi)hd_splat(-0.0f);
    hd_vf e = hd_exp_nonpositive((hd_vf)((hd_vi)x | sign));
    return hd_select(x < 0.0f, e, hd_splat(1.0f)) / (1.0f + e);
}

/* FP8 E4M3 codes, one in the low byte of each lane, as f32: the bits in f32's places, 2^120 too small, denormals included. */
HD_INLINE hd_vf hd_widen_f8(hd_vu codes)
{
    hd_vu magnitude = codes & 0x7Fu;
    hd_vu value = (hd_vu)((hd_vf)(magnitude << 20) * 0x1p120f) | (codes & 0x80u) << 24;
    hd_vu is_nan = (hd_vu)(magnitude == 0x7Fu);
    return (hd_vf)((value & ~is_nan) | (is_nan & 0x7FC00000u));
}

/* a * b, rounded, which the compiler may not fuse with what comes after. */
HD_INLINE hd_vf hd_product_alone(hd_vf a, hd_vf b)
{
    hd_vf product = a * b;
#if defined(__x86_64__)
    __asm__("" : "+v"(product));
#else
    __asm__("" : "+w"(product));
#endif
    return product;
}

/* ---- rows of strided tensors ---- */

HD_INLINE void *hd_at(const hd_tensor *t, int64_t element_offset)
{
    int64_t bytes = t->dtype == HD_DTYPE_BF16 ? 2 : t->dtype == HD_DTYPE_F64 ? 8 : 4;
    return (char *)t->data + element_offset * bytes;
}

/* Row i of a tensor of one or two dimensions. */
HD_INLINE void *hd_row(const hd_tensor *t, int64_t i)
{
    return hd_at(t, i * t->stride[0]);
}

/* ---- splitting: an item of parallel work should touch about this many bytes, so that the loop's overhead of a few
 * hundred ns disappears and small ops stay on one thread ---- */

enum { HD_ITEM_BYTES = 128 * 1024 };

HD_INLINE int64_t hd_min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
HD_INLINE int64_t hd_max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
HD_INLINE int64_t hd_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Rows per item when a row moves row_bytes. */
HD_INLINE int64_t hd_rows_per_item(int64_t row_bytes)
{
    return hd_max_i64(1, HD_ITEM_BYTES / hd_max_i64(1, row_bytes));
}

#endif
