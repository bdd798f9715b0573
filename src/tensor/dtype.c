/* Names, sizes and the conversions that are too long to inline.  See dtype.h. */
#include "tensor/dtype.h"

#include <assert.h>
#include <math.h>

static const struct {
    const char *name;
    int bits;
} dtypes[HD_DTYPE_COUNT] = {
    [HD_DTYPE_F32] = {"F32", 32}, [HD_DTYPE_BF16] = {"BF16", 16},      [HD_DTYPE_F16] = {"F16", 16},
    [HD_DTYPE_F64] = {"F64", 64}, [HD_DTYPE_F8_E4M3] = {"F8_E4M3", 8}, [HD_DTYPE_F8_E8M0] = {"F8_E8M0", 8},
    [HD_DTYPE_I32] = {"I32", 32}, [HD_DTYPE_I64] = {"I64", 64},        [HD_DTYPE_U8] = {"U8", 8},
    [HD_DTYPE_I8] = {"I8", 8},    [HD_DTYPE_BOOL] = {"BOOL", 8},       [HD_DTYPE_I4] = {"I4", 4},
};

size_t hd_dtype_bytes(hd_dtype dtype)
{
    assert((unsigned)dtype < HD_DTYPE_COUNT && dtypes[dtype].bits >= 8);
    return (size_t)dtypes[dtype].bits / 8;
}

int64_t hd_dtype_run_bytes(hd_dtype dtype, int64_t n)
{
    assert((unsigned)dtype < HD_DTYPE_COUNT && (dtype != HD_DTYPE_I4 || n % 2 == 0));
    return dtype == HD_DTYPE_I4 ? n / 2 : n * (dtypes[dtype].bits / 8);
}

const char *hd_dtype_name(hd_dtype dtype)
{
    return (unsigned)dtype < HD_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

int hd_dtype_from_name(const char *name, hd_dtype *dtype)
{
    for (int d = 0; d < HD_DTYPE_COUNT; d++) {
        if (d != HD_DTYPE_I4 && strcmp(dtypes[d].name, name) == 0) {
            *dtype = (hd_dtype)d;
            return 0;
        }
    }
    return -1;
}

float hd_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1Fu;
    uint32_t mantissa = bits & 0x3FFu;
    float f;
    if (exponent == 0) { /* zero and subnormals: mantissa * 2^-24, exact in f32 */
        f = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -f : f;
    }
    uint32_t u = exponent == 31 ? sign | 0x7F800000u | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Round to nearest, ties to even. */
uint16_t hd_f32_to_f16(float value)
{
    uint32_t u;
    memcpy(&u, &value, sizeof u);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) { return (uint16_t)(sign | 0x7E00u | ((u >> 13) & 0x1FFu)); }
    if (u >= 0x477FF000u) { return (uint16_t)(sign | 0x7C00u); } /* 65520 and above round to infinity */
    if (u < 0x38800000u) {                                       /* below 2^-14: adding 0.5 puts the unit at 2^-24 */
        float f;
        memcpy(&f, &u, sizeof f);
        f += 0.5f;
        memcpy(&u, &f, sizeof u);
        return (uint16_t)(sign | (u - 0x3F000000u));
    }
    u += 0xFFFu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}

float hd_f8_e4m3_to_f32(uint8_t bits)
{
    int exponent = (bits >> 3) & 0xF;
    int mantissa = bits & 7;
    float f = exponent == 15 && mantissa == 7 ? NAN
              : exponent == 0                 ? (float)mantissa * 0x1p-9f
                                              : ldexpf((float)(8 + mantissa), exponent - 10);
    return (bits & 0x80) != 0 ? -f : f;
}
