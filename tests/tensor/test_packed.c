/* Matrices of integers in blocks: codes, scales and layout written down again from packed.h. */
#include "support/test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/packed.h"

enum { IN = 256, ACROSS = IN / HD_PACKED_GROUP, BYTES = 1024 * ACROSS };

static const hd_dtype dtypes[] = {HD_DTYPE_I8, HD_DTYPE_I4};

static float scale_of(const uint16_t *scales, int row, int group) { return hd_bf16_to_f32(scales[group * HD_PACKED_ROWS + row]); }

static const uint8_t *block_of(hd_dtype dtype, const uint8_t *blocks, int group) { return blocks + group * hd_packed_block_bytes(dtype); }

/* ---- values that come back --------------------------------------------------------------------------------------------------- */

/* Every code of a group, times a scale that is a power of two: nothing is rounded. */
static void codes_come_back(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        float values[HD_PACKED_ROWS * IN], back[HD_PACKED_ROWS * IN];
        uint8_t blocks[BYTES];
        uint16_t scales[ACROSS * HD_PACKED_ROWS];
        int low = d == 0 ? -127 : -8, n_code = d == 0 ? 255 : 16;
        for (int r = 0; r < HD_PACKED_ROWS; r++) {
            for (int k = 0; k < IN; k++) {
                int code = k % HD_PACKED_GROUP == 0 ? low : low + (r * 37 + k * 11 + k / 7) % n_code; /* the largest is in every group */
                values[r * IN + k] = ldexpf((float)code, r - 9);
            }
        }
        assert_true(hd_pack_rows(dtypes[d], values, IN, HD_PACKED_ROWS, IN, blocks, scales));
        for (int g = 0; g < ACROSS; g++) {
            hd_unpack_block(dtypes[d], block_of(dtypes[d], blocks, g), scales + g * HD_PACKED_ROWS, back + g * HD_PACKED_GROUP, IN);
            for (int r = 0; r < HD_PACKED_ROWS; r++) { assert_true(scale_of(scales, r, g) == ldexpf(1.0f, r - 9)); }
        }
        assert_memory_equal(values, back, sizeof values);
    }
}

/* Where a code lies: packed.h, read literally. */
static void layout_as_written_down(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        uint8_t blocks[1024];
        uint16_t scales[HD_PACKED_ROWS];
        float values[HD_PACKED_ROWS * HD_PACKED_GROUP];
        hd_gen_normal_f32("layout", 1.0, values, HD_PACKED_ROWS * HD_PACKED_GROUP);
        assert_true(hd_pack_rows(dtypes[d], values, HD_PACKED_GROUP, HD_PACKED_ROWS, HD_PACKED_GROUP, blocks, scales));
        for (int r = 0; r < HD_PACKED_ROWS; r++) {
            for (int k = 0; k < HD_PACKED_GROUP; k++) {
                int pair = blocks[64 * (k / 8) + 4 * r + k % 4];
                int want = d == 0 ? (int8_t)blocks[64 * (k / 4) + 4 * r + k % 4] : (k % 8 < 4 ? pair % 16 : pair / 16) - 8;
                assert_int_equal(hd_packed_code(dtypes[d], blocks, r, k), want);
            }
        }
    }
}

/* ---- codes and scales --------------------------------------------------------------------------------------------------------- */

static float bf16(double value) { return hd_bf16_to_f32(hd_f32_to_bf16((float)value)); }

/* The code of a value: to nearest, ties to even, inside the range. */
static int code_of(float value, float scale, int low, int high)
{
    double x = fabsf(scale) > 0x1p-120f ? nearbyint((double)(value * (1.0f / scale))) : 0.0;
    return (int)fmin(fmax(x, low), high);
}

static double error_with(const float *values, float scale)
{
    float sum = 0.0f;
    for (int k = 0; k < HD_PACKED_GROUP; k++) {
        float d = values[k] - scale * (float)code_of(values[k], scale, -8, 7);
        sum += d * d;
    }
    return (double)sum;
}

static float want_scale(hd_dtype dtype, const float *values)
{
    static const double divisors[] = {-8.0, -7.75, -7.5, -7.25, -7.0, -6.5, 7.0};
    float max = 0.0f, at_max = 0.0f, best = 0.0f;
    double least = INFINITY;
    for (int k = 0; k < HD_PACKED_GROUP; k++) { max = fmaxf(max, fabsf(values[k])); }
    for (int k = 0; k < HD_PACKED_GROUP; k++) { at_max = fabsf(values[k]) == max ? values[k] : at_max; }
    if (dtype == HD_DTYPE_I8) { return bf16((double)(max / 127.0f)); }
    for (int i = 0; i < 7; i++) {
        float scale = bf16((double)(at_max / (float)divisors[i]));
        double error = error_with(values, scale);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

static void check_group(hd_dtype dtype, const float *values, const uint8_t *block, const uint16_t *scales, int row)
{
    float scale = hd_bf16_to_f32(scales[row]), want = want_scale(dtype, values);
    if (scale != want) { fail_msg("row %d: scale %a, want %a", row, (double)scale, (double)want); }
    for (int k = 0; k < HD_PACKED_GROUP; k++) {
        int code = hd_packed_code(dtype, block, row, k), low = dtype == HD_DTYPE_I8 ? -127 : -8;
        assert_in_range(code + 127, 0, 254);
        assert_int_equal(code, code_of(values[k], scale, low, dtype == HD_DTYPE_I8 ? 127 : 7));
    }
}

/* Ordinary values, zeros, ties of two magnitudes, the smallest and the largest floats; rows that a matrix does not have. */
static void by_definition(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        for (int n_row = 1; n_row <= HD_PACKED_ROWS; n_row += 5) {
            float values[(HD_PACKED_ROWS + 1) * (IN + 3)];
            static const float zeros[HD_PACKED_GROUP];
            uint8_t blocks[BYTES];
            uint16_t scales[ACROSS * HD_PACKED_ROWS];
            hd_gen_normal_f32("values", 0.02, values, (HD_PACKED_ROWS + 1) * (IN + 3));
            memset(values + 64, 0, 64 * sizeof *values);
            values[0] = 0.5f, values[5] = -0.5f, values[9] = 0.5f;
            values[128] = 3.0e38f, values[129] = -2.0e38f, values[192] = 1e-40f, values[193] = -0.0f;
            for (int k = 194; k < 256; k++) { values[k] = 0.0f; }
            assert_true(hd_pack_rows(dtypes[d], values, IN + 3, n_row, IN, blocks, scales));
            for (int g = 0; g < ACROSS; g++) {
                for (int r = 0; r < HD_PACKED_ROWS; r++) {
                    const float *row = r < n_row ? values + r * (IN + 3) + g * HD_PACKED_GROUP : zeros;
                    check_group(dtypes[d], row, block_of(dtypes[d], blocks, g), scales + g * HD_PACKED_ROWS, r);
                }
            }
        }
    }
}

/* Half a code rounds to the even one. */
static void ties_to_even(void **state)
{
    (void)state;
    float values[HD_PACKED_GROUP] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 125.5f, 126.5f};
    const int want[] = {127, 0, 2, 2, 0, -2, -2, 126, 126};
    uint8_t block[1024];
    uint16_t scales[HD_PACKED_ROWS];
    assert_true(hd_pack_rows(HD_DTYPE_I8, values, HD_PACKED_GROUP, 1, HD_PACKED_GROUP, block, scales));
    for (int k = 0; k < 9; k++) { assert_int_equal(hd_packed_code(HD_DTYPE_I8, block, 0, k), want[k]); }
}

/* Rounding errors are what the format allows: half a code, and where the code is cut off, what is cut off. */
static void error_of_ordinary_values(void **state)
{
    enum { ROWS = 64 };
    static float values[ROWS * IN], back[HD_PACKED_ROWS * IN];
    (void)state;
    hd_gen_normal_f32("normal", 0.02, values, ROWS * IN);
    for (int d = 0; d < 2; d++) {
        double noise = 0.0, signal = 0.0;
        for (int b = 0; b < ROWS / HD_PACKED_ROWS; b++) {
            uint8_t blocks[BYTES];
            uint16_t scales[ACROSS * HD_PACKED_ROWS];
            const float *from = values + b * HD_PACKED_ROWS * IN;
            assert_true(hd_pack_rows(dtypes[d], from, IN, HD_PACKED_ROWS, IN, blocks, scales));
            for (int g = 0; g < ACROSS; g++) { hd_unpack_block(dtypes[d], block_of(dtypes[d], blocks, g), scales + g * 16, back + g * 64, IN); }
            for (int i = 0; i < HD_PACKED_ROWS * IN; i++) {
                noise += pow((double)(from[i] - back[i]), 2);
                signal += pow((double)from[i], 2);
            }
        }
        double relative = sqrt(noise / signal);
        assert_true(d == 0 ? relative > 0.004 && relative < 0.007 : relative > 0.08 && relative < 0.11);
    }
}

static void what_is_not_finite(void **state)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    (void)state;
    for (int i = 0; i < 4 * 2 * 2; i++) {
        float values[HD_PACKED_ROWS * IN];
        uint8_t blocks[BYTES];
        uint16_t scales[ACROSS * HD_PACKED_ROWS];
        hd_dtype dtype = dtypes[i & 1];
        int at = (i & 2) != 0 ? 3 * IN + 200 : 0;
        hd_gen_normal_f32("values", 1.0, values, HD_PACKED_ROWS * IN);
        values[at] = bad[i >> 2];
        assert_false(hd_pack_rows(dtype, values, IN, HD_PACKED_ROWS, IN, blocks, scales));
        if (at > 0) { assert_true(hd_pack_rows(dtype, values, IN, 3, IN, blocks, scales)); } /* the row is not looked at */
    }
}

/* ---- inputs of products -------------------------------------------------------------------------------------------------------- */

static void rounded_inputs(void **state)
{
    float values[HD_PACKED_GROUP];
    int8_t codes[HD_PACKED_GROUP];
    (void)state;
    hd_gen_normal_f32("inputs", 3.0, values, HD_PACKED_GROUP);
    values[7] = -100.0f;
    assert_true(hd_round_group(values, codes, NULL) == 100.0f / 127.0f);
    for (int k = 0; k < HD_PACKED_GROUP; k++) { assert_int_equal(codes[k], (int)nearbyintf(values[k] * (127.0f / 100.0f))); }
    assert_int_equal(codes[7], -127);
    memset(values, 0, sizeof values);
    assert_true(hd_round_group(values, codes, NULL) == 0.0f && codes[7] == 0);
    values[3] = 1e-40f; /* has no inverse */
    (void)hd_round_group(values, codes, NULL);
    assert_int_equal(codes[3], 0);
    values[63] = INFINITY;
    assert_true(isnan(hd_round_group(values, codes, NULL)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_come_back),          cmocka_unit_test(layout_as_written_down), cmocka_unit_test(by_definition),
        cmocka_unit_test(ties_to_even),             cmocka_unit_test(error_of_ordinary_values), cmocka_unit_test(what_is_not_finite),
        cmocka_unit_test(rounded_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
