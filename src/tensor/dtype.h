/* Element types: sizes, names (safetensors' spelling) and exact conversions. */
#ifndef HD_TENSOR_DTYPE_H
#define HD_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum hd_dtype {
    HD_DTYPE_F32,
    HD_DTYPE_BF16,
    HD_DTYPE_F16,
    HD_DTYPE_F64,
    HD_DTYPE_F8_E4M3, /* the "fn" variant: bias 7, max 448, NaN 0x7F and 0xFF, no infinity */
    HD_DTYPE_F8_E8M0, /* 2^(b - 127), 0xFF NaN */
    HD_DTYPE_I32,
    HD_DTYPE_I64,
    HD_DTYPE_U8,
    HD_DTYPE_I8,
    HD_DTYPE_BOOL,
    HD_DTYPE_I4, /* two in a byte, in the blocks of tensor/packed.h only */
    HD_DTYPE_COUNT
} hd_dtype;

size_t hd_dtype_bytes(hd_dtype dtype);              /* of one element; I4 has none of its own */
int64_t hd_dtype_run_bytes(hd_dtype dtype, int64_t n); /* of n elements; an even number of I4 */
const char *hd_dtype_name(hd_dtype dtype);                 /* "F32", "BF16", ... */
int hd_dtype_from_name(const char *name, hd_dtype *dtype); /* safetensors' names, so not I4; 0 good, -1 unknown */

static inline float hd_bf16_to_f32(uint16_t bits)
{
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest, ties to even; NaN stays NaN (quiet). */
static inline uint16_t hd_f32_to_bf16(float value)
{
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (u >> 16) | 0x40u;
    return (uint16_t)(((u & 0x7FFFFFFFu) > 0x7F800000u) ? quiet_nan : rounded);
}

float hd_f16_to_f32(uint16_t bits);
uint16_t hd_f32_to_f16(float value);
float hd_f8_e4m3_to_f32(uint8_t bits);

#endif
