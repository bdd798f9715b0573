/* Micro-kernels of integer products: a few rows of rounded inputs times two block rows (16 outputs each) of packed weights, all of K.
 *
 * Per group of 64: D, the sum of code products, exact in 32-bit integers; then  y = fma(float(D), scale_x * scale_w, y).  Fine inputs have two
 * codes, and D = HD_ROUND_REST times the sum of the first + that of the second.  Every kernel here gives the same bits.
 *   AVX-512 VNNI  a line of 64 bytes is 16 rows x 4 columns: one dot-product instruction per line, row of codes and half of a 4-bit pair.
 *                 Its first operand is unsigned: weights are moved by 128 (8-bit) or stored moved by 8 (4-bit), and the accumulator
 *                 starts at  -128 (-8) times the sum of the input codes.
 *   AVX2, 4 bits  half a line at a time, low and high halves of each byte apart: unsigned, and eight pairs of products (at most
 *                 2 * 15 * 127 each) fit 16 bits.
 *   AVX2, 8 bits  weights widened to 16 bits, inputs too: both codes of fine inputs make one number, HD_ROUND_REST code + rest.
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
    const int8_t *codes;       /* inputs: (rows, 1 or with fine ones 2, groups * 64); wide ones (rows, groups * 64) of 16 bits */
    const float *in_scales;    /* (rows, groups), of what D counts */
    const int32_t *in_offsets; /* as codes, per group: their sums times packed_offset; not of wide ones */
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

PACKED_TARGET void packed_kernel_512(const int rows, const bool fine, const hd_dtype dtype, packed_tile *t)
{
    const int n_code = fine ? 2 : 1;
    __m512 sums[PACKED_MR][PACKED_PAIR];
    for (int i = 0; i < rows; i++) { sums[i][0] = sums[i][1] = _mm512_setzero_ps(); }
    for (int64_t g = 0; g < t->groups; g++) {
        __m512i acc[PACKED_MR][PACKED_PAIR];
#pragma GCC unroll 6
        for (int i = 0; i < rows * n_code; i++) { acc[i][0] = acc[i][1] = _mm512_set1_epi32(t->in_offsets[i * t->groups + g]); }
        packed_lines_512(rows * n_code, dtype, t, g, acc);
#pragma GCC unroll 2
        for (int p = 0; p < PACKED_PAIR; p++) {
            __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(t->scales[p] + g * HD_PACKED_ROWS)));
            __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#pragma GCC unroll 6
            for (int i = 0; i < rows; i++) {
                __m512i d = acc[i * n_code][p];
                if (fine) { d = _mm512_add_epi32(_mm512_mullo_epi32(d, _mm512_set1_epi32(HD_ROUND_REST)), acc[i * n_code + 1][p]); }
                __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(t->in_scales[i * t->groups + g]));
                sums[i][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), scale, sums[i][p]);
            }
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int p = 0; p < PACKED_PAIR; p++) { _mm512_storeu_ps(&t->sums[i][p * HD_PACKED_ROWS], sums[i][p]); }
    }
}

#define PACKED_KERNEL_512(name, rows, fine, dtype) \
    __attribute__((target("avx512vnni"), noinline)) static void name(packed_tile *t) { packed_kernel_512(rows, fine, dtype, t); }

PACKED_KERNEL_512(packed_i8_512_1, 1, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_2, 2, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_3, 3, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_4, 4, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_5, 5, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i8_512_6, 6, false, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_fine_512_1, 1, true, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_fine_512_2, 2, true, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_fine_512_3, 3, true, HD_DTYPE_I8)
PACKED_KERNEL_512(packed_i4_512_1, 1, false, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_2, 2, false, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_3, 3, false, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_4, 4, false, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_5, 5, false, HD_DTYPE_I4)
PACKED_KERNEL_512(packed_i4_512_6, 6, false, HD_DTYPE_I4)

static const packed_kernel_fn packed_i8_512[] = {NULL, packed_i8_512_1, packed_i8_512_2, packed_i8_512_3, packed_i8_512_4, packed_i8_512_5, packed_i8_512_6};
static const packed_kernel_fn packed_fine_512[] = {NULL, packed_fine_512_1, packed_fine_512_2, packed_fine_512_3};
static const packed_kernel_fn packed_i4_512[] = {NULL, packed_i4_512_1, packed_i4_512_2, packed_i4_512_3, packed_i4_512_4, packed_i4_512_5, packed_i4_512_6};

#endif

#if defined(__AVX2__)

enum { PACKED_MR_256 = 6 };

HD_INLINE __m256i packed_half_line(const uint8_t *block, int64_t at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(block + at));
}

/* sum (16 bits) += pairs of products of w (unsigned) and four codes.  Spelled out because the compiler would otherwise load the codes of all
 * rows first and keep sums in memory. */
HD_INLINE void packed_dot_256(__m256i *sum, __m256i w, const int8_t *codes)
{
    __m256i x;
    __asm__("vpbroadcastd %2, %1\n\tvpmaddubsw %1, %3, %1\n\tvpaddw %1, %0, %0"
            : "+x"(*sum), "=&x"(x)
            : "m"(*(const int32_t __attribute__((may_alias, aligned(1))) *)codes), "x"(w));
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

/* D of group g for input rows times half a block row, eight outputs, 4-bit weights. */
HD_INLINE void packed_group_i4(const int rows, const packed_tile *t, const uint8_t *block, int64_t g, __m256i acc[])
{
    const int64_t row = t->groups * HD_PACKED_GROUP;
    const int8_t *codes = t->codes + g * HD_PACKED_GROUP;
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { acc[i] = _mm256_set1_epi32(t->in_offsets[i * t->groups + g]); }
#pragma GCC unroll 1
    for (int part = 0; part < 2; part++) { packed_half_group_i4(rows, codes + 32 * part, row, block + 4 * PACKED_LINE * part, acc); }
}

/* Sums of four rows of weights each (two lanes a row) += their products with four wide inputs. */
HD_INLINE void packed_dot_wide(__m256i *first, __m256i *second, __m256i w_first, __m256i w_second, const int16_t *inputs)
{
    __m256i x, product;
    __asm__("vpbroadcastq %4, %2\n\tvpmaddwd %2, %5, %3\n\tvpaddd %3, %0, %0\n\tvpmaddwd %2, %6, %2\n\tvpaddd %2, %1, %1"
            : "+x"(*first), "+x"(*second), "=&x"(x), "=&x"(product)
            : "m"(*(const int64_t __attribute__((may_alias, aligned(2))) *)inputs), "x"(w_first), "x"(w_second));
}

/* The same as packed_group_i4 of 8-bit weights. */
HD_INLINE void packed_group_i8(const int rows, const packed_tile *t, const uint8_t *block, int64_t g, __m256i acc[])
{
    const int64_t row = t->groups * HD_PACKED_GROUP;
    const int16_t *inputs = (const int16_t *)(const void *)t->codes + g * HD_PACKED_GROUP;
    __m256i first[PACKED_MR_256], second[PACKED_MR_256];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { first[i] = second[i] = _mm256_setzero_si256(); }
#pragma GCC unroll 4
    for (int line = 0; line < 16; line++) {
        const __m128i *w = (const __m128i *)(const void *)(block + PACKED_LINE * line);
        __m256i w_first = _mm256_cvtepi8_epi16(_mm_loadu_si128(w)), w_second = _mm256_cvtepi8_epi16(_mm_loadu_si128(w + 1));
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) { packed_dot_wide(&first[i], &second[i], w_first, w_second, inputs + i * row + 4 * line); }
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) { acc[i] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(first[i], second[i]), 0xD8); }
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
        if (dtype == HD_DTYPE_I4) { packed_group_i4(rows, t, block + 32 * half, g, acc); } else { packed_group_i8(rows, t, block + 32 * half, g, acc); }
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
PACKED_KERNEL_256(packed_i8_256_4, 4, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i8_256_5, 5, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i8_256_6, 6, HD_DTYPE_I8)
PACKED_KERNEL_256(packed_i4_256_1, 1, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_2, 2, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_3, 3, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_4, 4, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_5, 5, HD_DTYPE_I4)
PACKED_KERNEL_256(packed_i4_256_6, 6, HD_DTYPE_I4)

static const packed_kernel_fn packed_i8_256[] = {NULL, packed_i8_256_1, packed_i8_256_2, packed_i8_256_3, packed_i8_256_4, packed_i8_256_5, packed_i8_256_6};
static const packed_kernel_fn packed_i4_256[] = {NULL, packed_i4_256_1, packed_i4_256_2, packed_i4_256_3, packed_i4_256_4, packed_i4_256_5, packed_i4_256_6};

#else

static int32_t packed_dot_plain(const hd_dtype dtype, const packed_tile *t, int64_t code_row, int64_t g, int p, int r)
{
    const int8_t *codes = t->codes + (code_row * t->groups + g) * HD_PACKED_GROUP;
    const uint8_t *block = t->blocks[p] + g * hd_packed_block_bytes(dtype);
    int32_t dot = 0;
    for (int k = 0; k < HD_PACKED_GROUP; k++) { dot += codes[k] * hd_packed_code(dtype, block, r, k); }
    return dot;
}

static float packed_sum_plain(const bool fine, const hd_dtype dtype, const packed_tile *t, int row, int p, int r)
{
    float sum = 0.0f;
    for (int64_t g = 0; g < t->groups; g++) {
        int32_t d = packed_dot_plain(dtype, t, fine ? 2 * row : row, g, p, r);
        if (fine) { d = HD_ROUND_REST * d + packed_dot_plain(dtype, t, 2 * row + 1, g, p, r); }
        sum = (float)d * (t->in_scales[row * t->groups + g] * hd_bf16_to_f32(t->scales[p][g * HD_PACKED_ROWS + r])) + sum;
    }
    return sum;
}

static void packed_kernel_plain(const bool fine, const hd_dtype dtype, packed_tile *t)
{
    for (int out = 0; out < PACKED_OUT; out++) { t->sums[0][out] = packed_sum_plain(fine, dtype, t, 0, out / HD_PACKED_ROWS, out % HD_PACKED_ROWS); }
}

static void packed_i8_plain_1(packed_tile *t) { packed_kernel_plain(false, HD_DTYPE_I8, t); }
static void packed_fine_plain_1(packed_tile *t) { packed_kernel_plain(true, HD_DTYPE_I8, t); }
static void packed_i4_plain_1(packed_tile *t) { packed_kernel_plain(false, HD_DTYPE_I4, t); }

static const packed_kernel_fn packed_i8_plain[] = {NULL, packed_i8_plain_1}, packed_fine_plain[] = {NULL, packed_fine_plain_1},
                              packed_i4_plain[] = {NULL, packed_i4_plain_1};

#endif

/* How products with weights of a dtype are done on this machine: kernels for 1 .. most rows of inputs, and how those are laid out. */
typedef struct packed_method {
    const packed_kernel_fn *kernels;
    int64_t most;
    bool wide; /* inputs of 16 bits */
} packed_method;

static packed_method packed_method_of(hd_dtype dtype, bool fine)
{
#if defined(__AVX512F__)
    if (__builtin_cpu_supports("avx512vnni")) {
        if (fine) { return (packed_method){packed_fine_512, PACKED_MR / 2, false}; }
        return (packed_method){dtype == HD_DTYPE_I4 ? packed_i4_512 : packed_i8_512, PACKED_MR, false};
    }
#endif
#if defined(__AVX2__)
    (void)fine;
    return (packed_method){dtype == HD_DTYPE_I4 ? packed_i4_256 : packed_i8_256, PACKED_MR_256, dtype == HD_DTYPE_I8};
#else
    return (packed_method){dtype == HD_DTYPE_I4 ? packed_i4_plain : fine ? packed_fine_plain : packed_i8_plain, 1, false};
#endif
}

/* Bytes between a line's prefetch and its use.  Where multiplying takes about as long as the line, fetching it must begin earlier, or the two
 * take turns: 4 KiB instead of 1 give 26 GB/s instead of 17 for three rows of 4-bit weights (AVX-512, bench_stored), and 23 instead of 26
 * for one. */
static int64_t packed_ahead(hd_dtype dtype, int64_t code_rows)
{
#if defined(__AVX512F__)
    return code_rows <= (dtype == HD_DTYPE_I4 ? 1 : 4) ? 1024 : 4096;
#else
    (void)dtype;
    (void)code_rows;
    return 4096;
#endif
}

#endif
