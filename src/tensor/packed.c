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

float hd_round_group(const float *values, int8_t *codes)
{
    float max = largest(values), inverse = max > 0.0f ? 127.0f / max : 0.0f;
    if (!(inverse <= 3.4028235e38f)) { inverse = 0.0f; } /* denormals have no inverse: they become 0 */
    for (int k = 0; k < GROUP; k++) { codes[k] = (int8_t)(isnan(max) ? 0.0f : round_even(values[k] * inverse)); }
    return max / 127.0f;
}

/* ---- scales ------------------------------------------------------------------------------------------------------------- */

/* The scale as it will be stored. */
static float stored(float scale) { return hd_bf16_to_f32(hd_f32_to_bf16(scale)); }

static float inverse_of(float scale) { return fabsf(scale) > 0x1p-120f ? 1.0f / scale : 0.0f; }

static float squared_error(const float *values, float scale, float low, float high)
{
    float inverse = inverse_of(scale), sum = 0.0f;
    for (int k = 0; k < GROUP; k++) {
        float d = values[k] - scale * clamp(round_even(values[k] * inverse), low, high);
        sum += d * d;
    }
    return sum;
}

/* The value of the largest magnitude lands on -8 or, with a scale that is larger, a little short of it. */
static float scale_of_i4(const float *values, float max)
{
    static const float divisors[] = {-8.0f, -7.75f, -7.5f, -7.25f, -7.0f, -6.5f, 7.0f};
    float at_max = 0.0f, best = 0.0f, least = INFINITY;
    for (int k = 0; k < GROUP; k++) { at_max = fabsf(values[k]) == max ? values[k] : at_max; }
    for (size_t i = 0; i < sizeof divisors / sizeof divisors[0]; i++) {
        float scale = stored(at_max / divisors[i]), error = squared_error(values, scale, -8.0f, 7.0f);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

/* ---- blocks -------------------------------------------------------------------------------------------------------------- */

static void put_codes(hd_dtype dtype, const float *values, float scale, int row, uint8_t *block)
{
    float inverse = inverse_of(scale);
    for (int k = 0; k < GROUP; k++) {
        float x = round_even(clamp(values[k] * inverse, -127.0f, 127.0f));
        if (dtype == HD_DTYPE_I8) {
            block[64 * (k / 4) + 4 * row + k % 4] = (uint8_t)(int8_t)x;
        } else {
            unsigned code = (unsigned)(clamp(x, -8.0f, 7.0f) + 8.0f);
            block[64 * (k / 8) + 4 * row + k % 4] |= (uint8_t)(k % 8 < 4 ? code : code << 4);
        }
    }
}

bool hd_pack_rows(hd_dtype dtype, const float *values, int64_t stride, int n_row, int64_t in, uint8_t *blocks, uint16_t *scales)
{
    static const float zeros[GROUP] = {0};
    for (int64_t g = 0; g < in / GROUP; g++, blocks += hd_packed_block_bytes(dtype), scales += ROWS) {
        memset(blocks, 0, (size_t)hd_packed_block_bytes(dtype));
        for (int r = 0; r < ROWS; r++) {
            const float *v = r < n_row ? values + r * stride + g * GROUP : zeros;
            float max = largest(v);
            if (isnan(max)) { return false; }
            float scale = dtype == HD_DTYPE_I8 ? stored(max / 127.0f) : scale_of_i4(v, max);
            scales[r] = hd_f32_to_bf16(scale);
            put_codes(dtype, v, scale, r, blocks);
        }
    }
    return true;
}

int hd_packed_code(hd_dtype dtype, const uint8_t *block, int row, int column)
{
    if (dtype == HD_DTYPE_I8) { return (int8_t)block[64 * (column / 4) + 4 * row + column % 4]; }
    int pair = block[64 * (column / 8) + 4 * row + column % 4];
    return (column % 8 < 4 ? pair & 15 : pair >> 4) - 8;
}

void hd_unpack_block(hd_dtype dtype, const uint8_t *block, const uint16_t *scales, float *values, int64_t stride)
{
    for (int r = 0; r < ROWS; r++) {
        float scale = hd_bf16_to_f32(scales[r]);
        for (int k = 0; k < GROUP; k++) { values[r * stride + k] = scale * (float)hd_packed_code(dtype, block, r, k); }
    }
}
