/* Packing and unpacking of integer blocks.  See packed.h. */
#include "tensor/packed.h"

#include <math.h>

enum { ROWS = HD_PACKED_ROWS, GROUP = HD_PACKED_GROUP };

/* To the nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point.  A call of rint does not
 * become a vector instruction everywhere. */
static inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

static inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

/* The magnitude that is the largest; NaN when a value is not finite. */
static float largest(const float *values)
{
    float max = 0.0f, sum = 0.0f;
    for (int k = 0; k < GROUP; k++) {
        float a = fabsf(values[k]);
        max = a > max ? a : max;
        sum += a * 0.0f; /* 0, or NaN */
    }
    return sum == 0.0f ? max : NAN;
}

float hd_round_group(const float *values, int8_t *codes, int8_t *rest)
{
    float max = largest(values), inverse = max > 0.0f ? 127.0f / max : 0.0f;
    if (!(inverse <= 3.4028235e38f)) { inverse = 0.0f; } /* denormals have no inverse: they become 0 */
    for (int k = 0; k < GROUP; k++) {
        float x = isnan(max) ? 0.0f : values[k] * inverse, code = round_even(x);
        codes[k] = (int8_t)code;
        if (rest != NULL) { rest[k] = (int8_t)round_even((x - code) * (float)HD_ROUND_REST); }
    }
    return max / 127.0f;
}

/* ---- scales -------------------------------------------------------------------------------------------------------------
 *
 * A block is packed as a tile [column][row]: every loop below ends in one over the 16 rows, which are independent of each other, so that
 * the compiler makes vector instructions of it and the sum of a row keeps its order.  x86's are chosen at run time; contraction is off,
 * so that all give the same bits. */

typedef struct tile {
    float values[GROUP][ROWS];
    float largest[ROWS], scale[ROWS];
} tile;

#define EACH_ROW(r) _Pragma("omp simd") for (int r = 0; r < ROWS; r++)

static inline float inverse_of(float scale) { return fabsf(scale) > 0x1p-120f ? 1.0f / scale : 0.0f; }

/* The scale as it will be stored. */
static inline float stored(float scale) { return hd_bf16_to_f32(hd_f32_to_bf16(scale)); }

static inline void load_tile(const float *values, int64_t stride, int n_row, tile *t)
{
    memset(t->values, 0, sizeof t->values);
    for (int r = 0; r < n_row; r++) {
        for (int k = 0; k < GROUP; k++) { t->values[k][r] = values[r * stride + k]; }
    }
}

/* The largest magnitudes; false when a value is not finite. */
static inline bool measure(tile *t)
{
    float max[ROWS] = {0}, sum[ROWS] = {0}, all = 0.0f;
    for (int k = 0; k < GROUP; k++) {
        EACH_ROW(r)
        {
            float a = fabsf(t->values[k][r]);
            max[r] = a > max[r] ? a : max[r];
            sum[r] += a * 0.0f; /* 0, or NaN */
        }
    }
    EACH_ROW(r) { all += sum[r]; }
    memcpy(t->largest, max, sizeof max);
    return all == 0.0f;
}

static inline void squared_errors(const tile *t, const float *scale, float *sum)
{
    float inverse[ROWS];
    EACH_ROW(r) { inverse[r] = inverse_of(scale[r]); }
    EACH_ROW(r) { sum[r] = 0.0f; }
    for (int k = 0; k < GROUP; k++) {
        EACH_ROW(r)
        {
            float d = t->values[k][r] - scale[r] * clamp(round_even(t->values[k][r] * inverse[r]), -8.0f, 7.0f);
            sum[r] += d * d;
        }
    }
}

/* The value of the largest magnitude lands on -8 or, with a scale that is larger, a little short of it. */
static inline void choose_scales_i4(tile *t)
{
    static const float divisors[] = {-8.0f, -7.75f, -7.5f, -7.25f, -7.0f, -6.5f, 7.0f};
    float at_max[ROWS] = {0}, least[ROWS], scale[ROWS], error[ROWS];
    for (int k = 0; k < GROUP; k++) {
        EACH_ROW(r) { at_max[r] = fabsf(t->values[k][r]) == t->largest[r] ? t->values[k][r] : at_max[r]; }
    }
    EACH_ROW(r) { t->scale[r] = 0.0f; }
    EACH_ROW(r) { least[r] = INFINITY; }
    for (size_t i = 0; i < sizeof divisors / sizeof divisors[0]; i++) {
        EACH_ROW(r) { scale[r] = stored(at_max[r] / divisors[i]); }
        squared_errors(t, scale, error);
        EACH_ROW(r)
        {
            bool better = error[r] < least[r];
            t->scale[r] = better ? scale[r] : t->scale[r];
            least[r] = better ? error[r] : least[r];
        }
    }
}

/* ---- blocks -------------------------------------------------------------------------------------------------------------- */

/* Codes of columns k .. k + 3, a byte each, `bias` added. */
static inline void four_codes(const tile *t, const float *inverse, int k, float low, float high, int32_t bias, uint32_t *word)
{
    EACH_ROW(r) { word[r] = 0; }
    for (int j = 0; j < 4; j++) {
        EACH_ROW(r)
        {
            float x = round_even(clamp(t->values[k + j][r] * inverse[r], -127.0f, 127.0f));
            word[r] |= ((uint32_t)((int32_t)clamp(x, low, high) + bias) & 0xFFu) << (8 * j);
        }
    }
}

static inline void put_codes(hd_dtype dtype, const tile *t, uint8_t *block)
{
    float inverse[ROWS];
    uint32_t low[ROWS], high[ROWS]; /* little-endian: byte j of word r is byte 4 r + j of a line */
    EACH_ROW(r) { inverse[r] = inverse_of(t->scale[r]); }
    if (dtype == HD_DTYPE_I8) {
        for (int k = 0; k < GROUP; k += 4, block += sizeof low) {
            four_codes(t, inverse, k, -127.0f, 127.0f, 0, low);
            memcpy(block, low, sizeof low);
        }
        return;
    }
    for (int k = 0; k < GROUP; k += 8, block += sizeof low) {
        four_codes(t, inverse, k, -8.0f, 7.0f, 8, low);
        four_codes(t, inverse, k + 4, -8.0f, 7.0f, 8, high);
        EACH_ROW(r) { low[r] |= high[r] << 4; }
        memcpy(block, low, sizeof low);
    }
}

static inline __attribute__((always_inline)) bool pack_rows(hd_dtype dtype, const float *values, int64_t stride, int n_row, int64_t in,
                                                            uint8_t *blocks, uint16_t *scales)
{
    tile t;
    for (int64_t g = 0; g < in / GROUP; g++, blocks += hd_packed_block_bytes(dtype), scales += ROWS) {
        load_tile(values + g * GROUP, stride, n_row, &t);
        if (!measure(&t)) { return false; }
        if (dtype == HD_DTYPE_I8) {
            EACH_ROW(r) { t.scale[r] = stored(t.largest[r] / 127.0f); }
        } else {
            choose_scales_i4(&t);
        }
        EACH_ROW(r) { scales[r] = hd_f32_to_bf16(t.scale[r]); }
        put_codes(dtype, &t, blocks);
    }
    return true;
}

#if defined(__x86_64__)
#define PACK_ROWS_FOR(name, isa)                                                                                                          \
    __attribute__((target(isa), flatten)) static bool name(hd_dtype dtype, const float *values, int64_t stride, int n_row, int64_t in,   \
                                                          uint8_t *blocks, uint16_t *scales)                                             \
    {                                                                                                                                     \
        return pack_rows(dtype, values, stride, n_row, in, blocks, scales);                                                               \
    }
PACK_ROWS_FOR(pack_rows_avx512, "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
PACK_ROWS_FOR(pack_rows_avx2, "avx2")
#endif

bool hd_pack_rows(hd_dtype dtype, const float *values, int64_t stride, int n_row, int64_t in, uint8_t *blocks, uint16_t *scales)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) { return pack_rows_avx512(dtype, values, stride, n_row, in, blocks, scales); }
    if (__builtin_cpu_supports("avx2")) { return pack_rows_avx2(dtype, values, stride, n_row, in, blocks, scales); }
#endif
    return pack_rows(dtype, values, stride, n_row, in, blocks, scales);
}

int hd_packed_code(hd_dtype dtype, const uint8_t *block, int row, int column)
{
    if (dtype == HD_DTYPE_I8) { return (int8_t)block[64 * (column / 4) + 4 * row + column % 4]; }
    int pair = block[64 * (column / 8) + 4 * row + column % 4];
    return (column % 8 < 4 ? pair & 15 : pair >> 4) - 8;
}

void hd_unpack_block(hd_dtype dtype, const uint8_t *block, const uint16_t *scales, float *values, int64_t stride)
{
    EACH_ROW(r)
    {
        const uint8_t *line = block + 4 * r;
        float scale = hd_bf16_to_f32(scales[r]), *row = values + r * stride;
        for (int k = 0; dtype == HD_DTYPE_I8 && k < GROUP; k++) { row[k] = scale * (float)(int8_t)line[64 * (k / 4) + k % 4]; }
        for (int k = 0; dtype == HD_DTYPE_I4 && k < GROUP / 2; k++) {
            int pair = line[64 * (k / 4) + k % 4], at = 8 * (k / 4) + k % 4;
            row[at] = scale * (float)((pair & 15) - 8);
            row[at + 4] = scale * (float)((pair >> 4) - 8);
        }
    }
}
