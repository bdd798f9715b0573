/* Conversions of runs.  See convert.h.  The loops are plain: each is bounded by memory, and the compiler vectorises them. */
#include "tensor/convert.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { PIECE = 1024 }; /* f32 values between two narrow dtypes, on the stack */

static void to_f32(hd_dtype from, const unsigned char *in, int64_t n, float *restrict out)
{
    uint16_t half;
    if (from == HD_DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(&half, in + 2 * i, 2);
            out[i] = hd_bf16_to_f32(half);
        }
    } else if (from == HD_DTYPE_F16) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(&half, in + 2 * i, 2);
            out[i] = hd_f16_to_f32(half);
        }
    } else {
        memcpy(out, in, (size_t)n * sizeof *out);
    }
}

static void from_f32(const float *restrict in, int64_t n, hd_dtype to, unsigned char *restrict out)
{
    if (to == HD_DTYPE_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = hd_f32_to_bf16(in[i]);
            memcpy(out + 2 * i, &half, 2);
        }
    } else if (to == HD_DTYPE_F16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = hd_f32_to_f16(in[i]);
            memcpy(out + 2 * i, &half, 2);
        }
    } else {
        memcpy(out, in, (size_t)n * sizeof *in);
    }
}

void hd_convert(hd_dtype from, const void *in, int64_t n, hd_dtype to, void *out)
{
    const unsigned char *source = in;
    unsigned char *target = out;
    int64_t from_size = (int64_t)hd_dtype_bytes(from), to_size = (int64_t)hd_dtype_bytes(to);
    float piece[PIECE];
    if (from == to) {
        memcpy(out, in, (size_t)(n * from_size));
        return;
    }
    assert(hd_dtype_is_float(from) && hd_dtype_is_float(to));
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t part = n - at < PIECE ? n - at : PIECE;
        to_f32(from, source + at * from_size, part, piece);
        from_f32(piece, part, to, target + at * to_size);
    }
}

/* A block has at most 256 different values: each is computed once. */
void hd_convert_f8_block(const uint8_t *codes, int64_t in_stride, int64_t n_row, int64_t n_column, float scale, hd_dtype to, void *out,
                         int64_t out_stride)
{
    float wide[256];
    uint16_t narrow[256];
    for (int code = 0; code < 256; code++) {
        wide[code] = hd_f8_e4m3_to_f32((uint8_t)code) * scale;
        narrow[code] = to == HD_DTYPE_BF16 ? hd_f32_to_bf16(wide[code]) : hd_f32_to_f16(wide[code]);
    }
    if (to == HD_DTYPE_F32) {
        for (int64_t r = 0; r < n_row; r++) {
            for (int64_t c = 0; c < n_column; c++) {
                memcpy((unsigned char *)out + 4 * (r * out_stride + c), &wide[codes[r * in_stride + c]], 4);
            }
        }
        return;
    }
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_column; c++) {
            memcpy((unsigned char *)out + 2 * (r * out_stride + c), &narrow[codes[r * in_stride + c]], 2);
        }
    }
}

/* 4 bits of exponent, 3 of mantissa: the upper bits of an f32, moved down by 20 after rounding. */
uint8_t hd_f32_to_f8_e4m3(float value)
{
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    uint8_t sign = (uint8_t)((u >> 24) & 0x80u);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) { return (uint8_t)(sign | 0x7Fu); }
    if (u >= 0x43E00000u) { return (uint8_t)(sign | 0x7Eu); } /* 448 and above */
    if (u < 0x3C800000u) {                                    /* below 2^-6: the unit is 2^-9, of 2^14 in f32 */
        float magnitude;
        memcpy(&magnitude, &u, sizeof magnitude);
        magnitude += 0x1p14f;
        memcpy(&u, &magnitude, sizeof u);
        return (uint8_t)(sign | (u - 0x46800000u));
    }
    u += 0x7FFFFu + ((u >> 20) & 1u);
    return (uint8_t)(sign | (u - 0x3C000000u) >> 20); /* f32's exponent 121, 2^-6, is code 1 << 3 */
}

void hd_quantize_f8_block(const float *values, int64_t in_stride, int64_t n_row, int64_t n_column, float scale, uint8_t *codes,
                          int64_t out_stride)
{
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_column; c++) { codes[r * out_stride + c] = hd_f32_to_f8_e4m3(values[r * in_stride + c] / scale); }
    }
}

float hd_f8_e8m0_to_f32(uint8_t bits) { return bits == 0xFF ? NAN : ldexpf(1.0f, (int)bits - 127); }
