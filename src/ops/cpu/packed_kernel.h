/* Micro-kernels of integer products: a few rows of 8-bit inputs times two block rows (16 outputs each) of packed weights, all of K.
 *
 * Per group of 64: sums of code products in 32-bit integers, exact; then  y = fma(float(sum), scale_x * scale_w, y).  Every kernel
 * here gives the same bits.
 *   AVX-512 VNNI  a line of 64 bytes is 16 rows x 4 columns: one dot-product instruction per line, input row and half of a 4-bit pair.
 *                 Its first operand is unsigned: weights are moved by 128 (8-bit) or stored moved by 8 (4-bit), and the accumulator
 *                 starts at  -128 (-8) times the sum of the input codes.
 *   AVX2          half a line at a time, low and high halves of each byte apart: unsigned, and eight pairs of products (at most
 *                 2 * 15 * 127 each) fit 16 bits.  One row of 8-bit weights: |w| times x with the sign of w, which takes fewer steps.
 *   else          loops.
 * Bytes: the weights, once for up to PACKED_MR rows.  Bound: read bandwidth for up to two rows, dot products beyond. */
#ifndef HD_OPS_CPU_PACKED_KERNEL_H
#define HD_OPS_CPU_PACKED_KERNEL_H

#include "ops/cpu/math.h"
#include "tensor/packed.h"

enum { PACKED_PAIR = 2, PACKED_OUT = PACKED_PAIR * HD_PACKED_ROWS, PACKED_LINE = 64, PACKED_MR_LIMIT = 6 };

#if defined(__AVX512F__)
enum { PACKED_MR = 6 };
#endif

typedef struct packed_tile {
    const uint8_t *blocks[PACKED_PAIR];   /* of a block row each, `groups` of them */
    const uint16_t *scales[PACKED_PAIR];  /* (groups, 16) BF16 */
    int64_t groups;
    const int8_t *codes;    /* inputs (rows, groups * 64) */
    const float *in_scales; /* (rows, groups) */
    const int32_t *in_offsets; /* (rows, groups): sums of the codes times packed_offset */
    int64_t ahead;          /* bytes by which lines are prefetched before they are read */
    float sums[PACKED_MR_LIMIT][PACKED_OUT]; /* the result */
} packed_tile;

typedef void (*packed_kernel_fn)(packed_tile *t);

/* What unsigned weights add to a sum of products, per unit of input: kernels move codes of weights up by as much. */
HD_INLINE int32_t packed_offset(hd_dtype dtype) { return dtype == HD_DTYPE_I4 ? -8 : -128; }

/* Four codes of an input row, at once. */
HD_INLINE int32_t packed_quad(const int8_t *codes)
{
    int32_t quad;
    memcpy(&quad, codes, sizeof quad);
    return quad;
}

#if defined(__AVX512F__)

#define PACKED_TARGET __attribute__((target("avx512vnni"), always_inline)) static inline

/* One step: weights w (unsigned) of both block rows times columns `at` of every input row. */
PACKED_TARGET void packed_step_512(const int rows, const __m512i w[PACKED_PAIR], const int8_t *codes, int64_t row, __m512i acc[][PACKED_PAIR])
{
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        __m512i x = _mm512_set1_epi32(packed_quad(codes + i * row));
#pragma GCC unroll 2
        for (int p = 0; p < PACKED_PAIR; p++) { acc[i][p] = _mm512_dpbusd_epi32(acc[i][p], w[p], x); }
    }
}

PACKED_TARGET void packed_lines_512(const int rows, const hd_dtype dtype, const packed_tile *t, int64_t g, __m512i acc[][PACKED_PAIR])
{
    const int64_t bytes = dtype == HD_DTYPE_I4 ? 512 : 1024, row = t->groups * HD_PACKED_GROUP;
    const int8_t *codes = t->codes + g * HD_PACKED_GROUP;
    const __m512i moved = _mm512_set1_epi8((char)0x80), low = _mm512_set1_epi8(0x0F);
#pragma GCC unroll 4
    for (int64_t at = 0; at < bytes; at += PACKED_LINE) {
        __m512i w[PACKED_PAIR], high[PACKED_PAIR];
#pragma GCC unroll 2
        for (int p = 0; p < PACKED_PAIR; p++) {
            const uint8_t *line = t->blocks[p] + g * bytes + at;
            __builtin_prefetch(line + t->ahead, 0, 1);
            w[p] = _mm512_loadu_si512(line);
            if (dtype == HD_DTYPE_I4) {
                high[p] = _mm512_and_si512(_mm512_srli_epi16(w[p], 4), low);
                w[p] = _mm512_and_si512(w[p], low);
            } else {
                w[p] = _mm512_xor_si512(w[p], moved);
            }
        }
        if (dtype == HD_DTYPE_I4) {
            packed_step_512(rows, w, codes + at / 8, row, acc);
            packed_step_512(rows, high, codes + at / 8 + 4, row, acc);
        } else {
            packed_step_512(rows, w, codes + at / 16, row, acc);
        }
    }
}

PACKED_TARGET void packed_kernel_512(const int rows, const hd_dtype dtype, packed_tile *t)
{
    __m512 sums[PACKED_MR][PACKED_PAIR];
    for (int i = 0; i < rows; i++) { sums[i][0] = sums[i][1] = _mm512_setzero_ps(); }
    for (int64_t g = 0; g < t->groups; g++) {
        __m512i acc[PACKED_MR][PACKED_PAIR];
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) { acc[i][0] = acc[i][1] = _mm512_set1_epi32(t->in_offsets[i * t->groups + g]); }
        packed_lines_512(rows, dtype, t, g, acc);
#pragma GCC unroll 2
        for (int p = 0; p < PACKED_PAIR; p++) {
            __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(t->scales[p] + g * HD_PACKED_ROWS)));
            __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(t->in_scales[i * t->groups + g]));
                sums[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][p]), scale, sums[i][p]);
            }
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int p = 0; p < PACKED_PAIR; p++) { _mm512_storeu_ps(&t->sums[i][p * HD_PACKED_ROWS], sums[i][p]); }
    }
}

#define PACKED_KERNEL_512(name, rows, dtype) \
    __attribute__((target("avx512vnni"), noinline)) static void name(packed_tile *t) { packed_kernel_512(rows, dtype, t); }

PACKED_KERNEL_512(packed_i8_512_1, 1, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_2, 2, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_3, 3, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_4, 4, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_5, 5, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_6, 6, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i4_512_1, 1, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_2, 2, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_3, 3, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_4, 4, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_5, 5, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_6, 6, HD_DTYPE_I4)

static const packed_kernel_fn packed_kernels_vnni[2][PACKED_MR_LIMIT + 1] = {
    {NULL, packed_i8_512_1, packed_i8_512_2, packed_i8_512_3, packed_i8_512_4, packed_i8_512_5, packed_i8_512_6},
    {NULL, packed_i4_512_1, packed_i4_512_2, packed_i4_512_3, packed_i4_512_4, packed_i4_512_5, packed_i4_512_6}};

#endif

#if defined(__AVX2__)

enum { PACKED_MR_256 = 6 };

HD_INLINE __m256i packed_half_line(const uint8_t *block, int64_t at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(block + at));
}

/* sum (16 bits) += pairs of products of w (unsigned) and four codes.  Spelled out because the compiler would otherwise load the codes of all
 * rows first and keep sums in memory: 180 G operations/s instead of 235. */
HD_INLINE void packed_dot_256(__m256i *sum, __m256i w, const int8_t *codes)
{
    __m256i x;
    __asm__("vpbroadcastd %2, %1\n\tvpmaddubsw %1, %3, %1\n\tvpaddw %1, %0, %0"
            : "+x"(*sum), "=&x"(x)
            : "m"(*(const int32_t __attribute__((may_alias, aligned(1))) *)codes), "x"(w));
}

/* Sums of a group for one input row times half a block row, 8-bit weights: the magnitude of w times x with the sign of w. */
HD_INLINE __m256i packed_signed_256(const int8_t *codes, const uint8_t *block)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i acc[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 16
    for (int line = 0; line < 16; line++) {
        __m256i w = packed_half_line(block, PACKED_LINE * line);
        __m256i x = _mm256_sign_epi8(_mm256_set1_epi32(packed_quad(codes + 4 * line)), w);
        acc[line % 2] = _mm256_add_epi32(acc[line % 2], _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), x), ones));
    }
    return _mm256_add_epi32(acc[0], acc[1]);
}

/* acc += four half lines of 4-bit weights: a byte is two columns, four apart; 8 pairs of products fit 16 bits. */
HD_INLINE void packed_half_group_i4(const int rows, const int8_t *codes, int64_t row, const uint8_t *block, __m256i acc[])
{
    const __m256i mask = _mm256_set1_epi8(0x0F), ones = _mm256_set1_epi16(1);
    __m256i sums[PACKED_MR_256];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { sums[i] = _mm256_setzero_si256(); }
#pragma GCC unroll 4
    for (int line = 0; line < 4; line++) {
        __m256i w = packed_half_line(block, PACKED_LINE * line), high = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
        w = _mm256_and_si256(w, mask);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            packed_dot_256(&sums[i], w, codes + i * row + 8 * line);
            packed_dot_256(&sums[i], high, codes + i * row + 8 * line + 4);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(sums[i], ones)); }
}

/* A half line of 8-bit weights, added to 16-bit sums of pairs: with its sign bit turned a weight is 16 high + low = w + 128. */
HD_INLINE void packed_half_line_i8(const int rows, const int8_t *codes, int64_t row, __m256i w, __m256i low[], __m256i high[])
{
    const __m256i mask = _mm256_set1_epi8(0x0F), moved = _mm256_set1_epi8(0x08);
    __m256i w_high = _mm256_xor_si256(_mm256_and_si256(_mm256_srli_epi16(w, 4), mask), moved);
    w = _mm256_and_si256(w, mask);
#pragma GCC unroll 3
    for (int i = 0; i < rows; i++) {
        __m256i x = _mm256_set1_epi32(packed_quad(codes + i * row));
        low[i] = _mm256_add_epi16(low[i], _mm256_maddubs_epi16(w, x));
        high[i] = _mm256_add_epi16(high[i], _mm256_maddubs_epi16(w_high, x));
    }
}

/* acc += eight half lines of 8-bit weights, up to three rows.  With three a body of all lines would make the compiler keep sums in memory, where
 * each addition waits for the one before. */
HD_INLINE void packed_half_group_i8(const int rows, const int8_t *codes, int64_t row, const uint8_t *block, __m256i acc[])
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i low[PACKED_MR_256], high[PACKED_MR_256];
    for (int i = 0; i < rows; i++) { low[i] = high[i] = _mm256_setzero_si256(); }
    if (rows < 3) {
#pragma GCC unroll 8
        for (int line = 0; line < 8; line++) { packed_half_line_i8(rows, codes + 4 * line, row, packed_half_line(block, PACKED_LINE * line), low, high); }
    } else {
#pragma GCC unroll 2
        for (int line = 0; line < 8; line++) { packed_half_line_i8(rows, codes + 4 * line, row, packed_half_line(block, PACKED_LINE * line), low, high); }
    }
#pragma GCC unroll 3
    for (int i = 0; i < rows; i++) {
        __m256i h = _mm256_slli_epi32(_mm256_madd_epi16(high[i], ones), 4);
        acc[i] = _mm256_add_epi32(acc[i], _mm256_add_epi32(_mm256_madd_epi16(low[i], ones), h));
    }
}

/* Sums of group g for input rows times half a block row, eight outputs. */
HD_INLINE void packed_group_256(const int rows, const hd_dtype dtype, const packed_tile *t, const uint8_t *block, int64_t g, __m256i acc[])
{
    const int64_t row = t->groups * HD_PACKED_GROUP;
    const int8_t *codes = t->codes + g * HD_PACKED_GROUP;
    if (dtype == HD_DTYPE_I8 && rows == 1) {
        acc[0] = packed_signed_256(codes, block);
        return;
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { acc[i] = _mm256_set1_epi32(t->in_offsets[i * t->groups + g]); }
#pragma GCC unroll 1
    for (int part = 0; part < 2; part++) {
        if (dtype == HD_DTYPE_I4) {
            packed_half_group_i4(rows, codes + 32 * part, row, block + 4 * PACKED_LINE * part, acc);
        } else {
            packed_half_group_i8(rows, codes + 32 * part, row, block + 8 * PACKED_LINE * part, acc);
        }
    }
}

/* Group g of block row p, added to the sums. */
HD_INLINE void packed_block_256(const int rows, const hd_dtype dtype, packed_tile *t, int p, int64_t g)
{
    const int64_t bytes = dtype == HD_DTYPE_I4 ? 512 : 1024;
    const uint8_t *block = t->blocks[p] + g * bytes;
#pragma GCC unroll 16
    for (int64_t at = 0; at < bytes; at += PACKED_LINE) { __builtin_prefetch(block + at + t->ahead, 0, 1); }
#pragma GCC unroll 1
    for (int half = 0; half < 2; half++) { /* eight outputs each */
        __m256i acc[PACKED_MR_256];
        packed_group_256(rows, dtype, t, block + 32 * half, g, acc);
        const uint16_t *narrow = t->scales[p] + g * HD_PACKED_ROWS + 8 * half;
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)narrow));
        __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
        float *sums = &t->sums[0][p * HD_PACKED_ROWS + 8 * half];
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m256 scale = _mm256_mul_ps(scales, _mm256_broadcast_ss(t->in_scales + i * t->groups + g));
            __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i]), scale, _mm256_loadu_ps(sums + i * PACKED_OUT));
            _mm256_storeu_ps(sums + i * PACKED_OUT, sum);
        }
    }
}

HD_INLINE void packed_kernel_256(const int rows, const hd_dtype dtype, packed_tile *t)
{
    for (int i = 0; i < rows; i++) { memset(t->sums[i], 0, sizeof t->sums[i]); }
    for (int64_t g = 0; g < t->groups; g++) {
        packed_block_256(rows, dtype, t, 0, g);
        packed_block_256(rows, dtype, t, 1, g);
    }
}

#define PACKED_KERNEL_256(name, rows, dtype) \
    static __attribute__((noinline)) void name(packed_tile *t) { packed_kernel_256(rows, dtype, t); }

PACKED_KERNEL_256(packed_i8_256_1, 1, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i8_256_2, 2, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i8_256_3, 3, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i4_256_1, 1, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_2, 2, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_3, 3, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_4, 4, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_5, 5, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_6, 6, HD_DTYPE_I4)

static const packed_kernel_fn packed_kernels_256[2][PACKED_MR_LIMIT + 1] = {
    {NULL, packed_i8_256_1, packed_i8_256_2, packed_i8_256_3},
    {NULL, packed_i4_256_1, packed_i4_256_2, packed_i4_256_3, packed_i4_256_4, packed_i4_256_5, packed_i4_256_6}};

#else

static float packed_dot_plain(const hd_dtype dtype, const packed_tile *t, int row, int p, int r)
{
    float sum = 0.0f;
    for (int64_t g = 0; g < t->groups; g++) {
        const uint8_t *block = t->blocks[p] + g * hd_packed_block_bytes(dtype);
        int64_t at = row * t->groups + g;
        int32_t dot = 0;
        for (int k = 0; k < HD_PACKED_GROUP; k++) { dot += t->codes[at * HD_PACKED_GROUP + k] * hd_packed_code(dtype, block, r, k); }
        sum = (float)dot * (t->in_scales[at] * hd_bf16_to_f32(t->scales[p][g * HD_PACKED_ROWS + r])) + sum;
    }
    return sum;
}

static void packed_kernel_plain(const int rows, const hd_dtype dtype, packed_tile *t)
{
    for (int i = 0; i < rows; i++) {
        for (int out = 0; out < PACKED_OUT; out++) {
            t->sums[i][out] = packed_dot_plain(dtype, t, i, out / HD_PACKED_ROWS, out % HD_PACKED_ROWS);
        }
    }
}

static void packed_i8_plain_1(packed_tile *t) { packed_kernel_plain(1, HD_DTYPE_I8, t); }
static void packed_i8_plain_2(packed_tile *t) { packed_kernel_plain(2, HD_DTYPE_I8, t); }
static void packed_i4_plain_1(packed_tile *t) { packed_kernel_plain(1, HD_DTYPE_I4, t); }
static void packed_i4_plain_2(packed_tile *t) { packed_kernel_plain(2, HD_DTYPE_I4, t); }

static const packed_kernel_fn packed_kernels_plain[2][PACKED_MR_LIMIT + 1] = {{NULL, packed_i8_plain_1, packed_i8_plain_2},
                                                                              {NULL, packed_i4_plain_1, packed_i4_plain_2}};

#endif

/* Bytes between a line's prefetch and its use.  Where multiplying takes about as long as the line, fetching it must begin earlier, or the two
 * take turns: 4 KiB instead of 1 give 26 GB/s instead of 17 for three rows of 4-bit weights (AVX-512, bench_stored), and 23 instead of 26
 * for one. */
static int64_t packed_ahead(hd_dtype dtype, int64_t rows)
{
#if defined(__AVX512F__)
    return rows <= (dtype == HD_DTYPE_I4 ? 1 : 4) ? 1024 : 4096;
#else
    (void)dtype;
    (void)rows;
    return 4096;
#endif
}

/* Kernels for 1 .. *most rows. */
static const packed_kernel_fn *packed_kernels(hd_dtype dtype, int64_t *most)
{
    int kind = dtype == HD_DTYPE_I4;
#if defined(__AVX512F__)
    if (__builtin_cpu_supports("avx512vnni")) {
        *most = PACKED_MR;
        return packed_kernels_vnni[kind];
    }
#endif
#if defined(__AVX2__)
    *most = dtype == HD_DTYPE_I4 ? PACKED_MR_256 : 3;
    return packed_kernels_256[kind];
#else
    *most = 2;
    return packed_kernels_plain[kind];
#endif
}

#endif
