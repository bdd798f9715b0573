/* Conversions of runs and of FP8 blocks beside PyTorch's: every code, every value of the narrow types, and what lies between two
 * neighbours.  NaNs are compared as such; which bits they keep is checked apart. */
#include "support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../golden/fp8_codes.h"
#include "base/sha256.h"
#include "tensor/convert.h"

enum { N_SCALE = sizeof golden_scale / sizeof golden_scale[0], N_VALUE = sizeof golden_value / sizeof golden_value[0] };

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t canonical_f32(uint32_t bits) { return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : bits; }
static uint16_t canonical_bf16(uint16_t bits) { return (bits & 0x7FFF) > 0x7F80 ? 0x7FC0 : bits; }
static uint16_t canonical_f16(uint16_t bits) { return (bits & 0x7FFF) > 0x7C00 ? 0x7E00 : bits; }
static uint8_t canonical_f8(uint8_t bits) { return (bits & 0x7F) == 0x7F ? 0x7F : bits; }

static void all_codes(uint8_t codes[256])
{
    for (int i = 0; i < 256; i++) { codes[i] = (uint8_t)i; }
}

static void codes_and_powers(void **state)
{
    (void)state;
    for (int i = 0; i < 256; i++) {
        assert_int_equal(canonical_f32(bits_of(hd_f8_e4m3_to_f32((uint8_t)i))), golden_code[i]);
        assert_int_equal(canonical_f32(bits_of(hd_f8_e8m0_to_f32((uint8_t)i))), golden_e8m0[i]);
    }
}

static void products(void **state)
{
    (void)state;
    uint8_t codes[256];
    float wide[256];
    uint16_t narrow[256];
    all_codes(codes);
    for (int s = 0; s < N_SCALE; s++) {
        float scale = of_bits(golden_scale[s]);
        hd_convert_f8_block(codes, 256, 1, 256, scale, HD_DTYPE_F32, wide, 256);
        for (int i = 0; i < 256; i++) {
            assert_int_equal(canonical_f32(bits_of(wide[i])), canonical_f32(bits_of(of_bits(golden_code[i]) * scale)));
        }
        hd_convert_f8_block(codes, 256, 1, 256, scale, HD_DTYPE_BF16, narrow, 256);
        for (int i = 0; i < 256; i++) {
            if (canonical_bf16(narrow[i]) != golden_product_bf16[s][i]) {
                fail_msg("code %02X times %a: %04X, want %04X", i, (double)scale, narrow[i], golden_product_bf16[s][i]);
            }
        }
        hd_convert_f8_block(codes, 256, 1, 256, scale, HD_DTYPE_F16, narrow, 256);
        for (int i = 0; i < 256; i++) { assert_int_equal(canonical_f16(narrow[i]), golden_product_f16[s][i]); }
    }
}

/* Strides of both sides; what lies between the rows stays. */
static void blocks_in_rows(void **state)
{
    (void)state;
    enum { ROWS = 5, IN = 9, OUT = 11, N = 7 };
    uint8_t codes[ROWS * IN], again[ROWS * OUT];
    float values[ROWS * OUT];
    for (int i = 0; i < ROWS * IN; i++) { codes[i] = (uint8_t)(i * 5 % 0x7F); }
    for (int i = 0; i < ROWS * OUT; i++) { values[i] = -1.0f; }
    memset(again, 0xEE, sizeof again);
    hd_convert_f8_block(codes, IN, ROWS, N, 0.5f, HD_DTYPE_F32, values, OUT);
    for (int r = 0; r < ROWS; r++) {
        for (int c = 0; c < OUT; c++) {
            float want = c < N ? hd_f8_e4m3_to_f32(codes[r * IN + c]) * 0.5f : -1.0f;
            assert_int_equal(bits_of(values[r * OUT + c]), bits_of(want));
        }
    }
    hd_quantize_f8_block(values, OUT, ROWS, N, 0.5f, again, OUT);
    for (int r = 0; r < ROWS; r++) {
        for (int c = 0; c < OUT; c++) { assert_int_equal(again[r * OUT + c], c < N ? codes[r * IN + c] : 0xEE); }
    }
}

static void single_values(void **state)
{
    (void)state;
    float values[N_VALUE];
    static uint16_t halves[N_VALUE];
    static uint8_t codes[N_VALUE];
    memcpy(values, golden_value, sizeof values);
    hd_convert(HD_DTYPE_F32, values, N_VALUE, HD_DTYPE_BF16, halves);
    for (int i = 0; i < N_VALUE; i++) {
        if (canonical_bf16(halves[i]) != golden_value_bf16[i]) { fail_msg("%a: bf16 %04X, want %04X", (double)values[i], halves[i], golden_value_bf16[i]); }
    }
    hd_convert(HD_DTYPE_F32, values, N_VALUE, HD_DTYPE_F16, halves);
    for (int i = 0; i < N_VALUE; i++) {
        if (canonical_f16(halves[i]) != golden_value_f16[i]) { fail_msg("%a: f16 %04X, want %04X", (double)values[i], halves[i], golden_value_f16[i]); }
    }
    hd_quantize_f8_block(values, N_VALUE, 1, N_VALUE, 1.0f, codes, N_VALUE);
    for (int i = 0; i < N_VALUE; i++) {
        if (canonical_f8(codes[i]) != golden_value_f8[i]) { fail_msg("%a: code %02X, want %02X", (double)values[i], codes[i], golden_value_f8[i]); }
        assert_int_equal(codes[i], hd_f32_to_f8_e4m3(values[i]));
    }
}

static void assert_digest(const void *data, size_t n, const char *want)
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    char hex[HD_SHA256_HEX];
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, data, n);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    assert_string_equal(hex, want);
}

enum { EVERY = 65536 };
static uint16_t every[EVERY], half_out[EVERY];
static float wide_out[EVERY];
static uint8_t codes_out[EVERY];

static void every_value(void **state)
{
    (void)state;
    for (int i = 0; i < EVERY; i++) { every[i] = (uint16_t)i; }
    hd_convert(HD_DTYPE_F16, every, EVERY, HD_DTYPE_F32, wide_out);
    for (int i = 0; i < EVERY; i++) { wide_out[i] = of_bits(canonical_f32(bits_of(wide_out[i]))); }
    assert_digest(wide_out, sizeof wide_out, golden_f16_to_f32);
    hd_convert(HD_DTYPE_BF16, every, EVERY, HD_DTYPE_F16, half_out);
    for (int i = 0; i < EVERY; i++) { half_out[i] = canonical_f16(half_out[i]); }
    assert_digest(half_out, sizeof half_out, golden_bf16_to_f16);
    hd_convert(HD_DTYPE_F16, every, EVERY, HD_DTYPE_BF16, half_out);
    for (int i = 0; i < EVERY; i++) { half_out[i] = canonical_bf16(half_out[i]); }
    assert_digest(half_out, sizeof half_out, golden_f16_to_bf16);
    hd_convert(HD_DTYPE_BF16, every, EVERY, HD_DTYPE_F32, wide_out);
    hd_quantize_f8_block(wide_out, EVERY, 1, EVERY, 1.0f, codes_out, EVERY);
    for (int i = 0; i < EVERY; i++) {
        wide_out[i] = of_bits(canonical_f32(bits_of(wide_out[i])));
        codes_out[i] = canonical_f8(codes_out[i]);
    }
    assert_digest(wide_out, sizeof wide_out, golden_bf16_to_f32);
    assert_digest(codes_out, sizeof codes_out, golden_bf16_to_f8);
}

/* A narrow value that is made wide and narrow again is the same, NaN with its sign and payload (but quiet). */
static void there_and_back(void **state)
{
    (void)state;
    for (int i = 0; i < EVERY; i++) { every[i] = (uint16_t)i; }
    hd_convert(HD_DTYPE_BF16, every, EVERY, HD_DTYPE_F32, wide_out);
    hd_convert(HD_DTYPE_F32, wide_out, EVERY, HD_DTYPE_BF16, half_out);
    for (int i = 0; i < EVERY; i++) { assert_int_equal(half_out[i], (i & 0x7FFF) > 0x7F80 ? i | 0x40 : i); }
    hd_convert(HD_DTYPE_F16, every, EVERY, HD_DTYPE_F32, wide_out);
    hd_convert(HD_DTYPE_F32, wide_out, EVERY, HD_DTYPE_F16, half_out);
    for (int i = 0; i < EVERY; i++) {
        if ((i & 0x7FFF) > 0x7C00) {
            assert_true((half_out[i] & 0x7FFF) > 0x7C00 && ((half_out[i] ^ i) & 0x8000) == 0);
        } else {
            assert_int_equal(half_out[i], i);
        }
    }
    for (int i = 0; i < 256; i++) { assert_int_equal(hd_f32_to_f8_e4m3(hd_f8_e4m3_to_f32((uint8_t)i)), i); } /* NaN keeps its sign, -0 too */
    hd_convert(HD_DTYPE_BF16, every, EVERY, HD_DTYPE_BF16, half_out); /* equal types: bytes, signalling NaN too */
    assert_memory_equal(every, half_out, sizeof every);
}

/* Lengths around the pieces, addresses that are not aligned. */
static void any_length_and_address(void **state)
{
    (void)state;
    static const int64_t lengths[] = {0, 1, 2, 1023, 1024, 1025, 3000};
    static unsigned char in[4 * 3000 + 1], out[4 * 3000 + 2], want[4 * 3000];
    hd_gen_normal_f32("values", 1.0, wide_out, 3000);
    memcpy(in + 1, wide_out, 4 * 3000);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t bytes = 2 * (size_t)lengths[i];
        for (int64_t k = 0; k < lengths[i]; k++) {
            uint16_t half = hd_f32_to_bf16(wide_out[k]);
            memcpy(want + 2 * k, &half, 2);
        }
        memset(out, 0xEE, sizeof out);
        hd_convert(HD_DTYPE_F32, in + 1, lengths[i], HD_DTYPE_BF16, out + 1);
        assert_memory_equal(out + 1, want, bytes);
        assert_true(out[0] == 0xEE && out[1 + bytes] == 0xEE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_powers), cmocka_unit_test(products),       cmocka_unit_test(blocks_in_rows),
        cmocka_unit_test(single_values),    cmocka_unit_test(every_value),    cmocka_unit_test(there_and_back),
        cmocka_unit_test(any_length_and_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
