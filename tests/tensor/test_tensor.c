/* Tensors: shapes, strides, views, and the conversions of element types over all their values. */
#include "support/test.h"

#include <math.h>

#include "tensor/tensor.h"

static void make_and_refuse(void **state)
{
    (void)state;
    hd_err err;
    hd_arena arena;
    hd_tensor t;
    char text[96];
    hd_arena_open_dry(&arena, "dry");
    assert_ok(hd_tensor_new(&arena, HD_DTYPE_BF16, 3, (int64_t[]){2, 3, 5}, &t, &err));
    assert_int_equal(arena.used, 64);
    assert_true(t.stride[0] == 15 && t.stride[1] == 5 && t.stride[2] == 1 && hd_tensor_count(&t) == 30);
    assert_string_equal(hd_tensor_describe(&t, text), "bf16 (2, 3, 5)");
    assert_ok(hd_tensor_new_2d(&arena, HD_DTYPE_F32, 0, 7, &t, &err));
    assert_true(hd_tensor_count(&t) == 0 && t.data == NULL && hd_tensor_is_contiguous(&t));
    const int64_t huge = INT64_C(1) << 40;
    assert_fails(hd_tensor_new(&arena, HD_DTYPE_F32, 0, NULL, &t, &err), HD_E_INVALID, "0 dimensions");
    assert_fails(hd_tensor_new(&arena, HD_DTYPE_F32, 5, NULL, &t, &err), HD_E_INVALID, "5 dimensions");
    assert_fails(hd_tensor_new_1d(&arena, HD_DTYPE_F32, -1, &t, &err), HD_E_INVALID, "negative");
    assert_fails(hd_tensor_new_2d(&arena, HD_DTYPE_F32, huge, huge, &t, &err), HD_E_INVALID, "2^63 elements");
    assert_fails(hd_tensor_new_2d(&arena, HD_DTYPE_F64, huge, 1 << 22, &t, &err), HD_E_INVALID, "2^63 bytes");
    assert_fails(hd_tensor_new_1d(&arena, (hd_dtype)99, 1, &t, &err), HD_E_INVALID, "dtype 99");
}

/* The value a view sees at a place. */
static float at3(const hd_tensor *t, int64_t i, int64_t j, int64_t k)
{
    return ((const float *)t->data)[i * t->stride[0] + j * t->stride[1] + k * t->stride[2]];
}

static void views(void **state)
{
    (void)state;
    float data[2 * 3 * 4];
    for (int i = 0; i < 24; i++) { data[i] = (float)i; }
    hd_err err;
    hd_arena arena;
    hd_tensor t;
    assert_ok(hd_arena_open(&arena, "wet", 4096, &err));
    assert_ok(hd_tensor_new(&arena, HD_DTYPE_F32, 3, (int64_t[]){2, 3, 4}, &t, &err));
    memcpy(t.data, data, sizeof data);
    hd_tensor s = hd_tensor_slice(&t, 2, 1, 2);
    assert_true(s.shape[2] == 2 && !hd_tensor_is_contiguous(&s));
    assert_true((int)at3(&s, 1, 2, 1) == 12 + 8 + 2);
    hd_tensor row = hd_tensor_index(&t, 1);
    assert_true(row.n_dim == 2 && row.shape[0] == 3 && row.shape[1] == 4 && ((float *)row.data)[0] > 11.5f);
    hd_tensor flat = hd_tensor_reshape(&t, 2, (int64_t[]){4, 6});
    assert_true(flat.stride[0] == 6 && flat.data == t.data);
    hd_tensor split = hd_tensor_split_last(&row, 2, 2);
    assert_true(split.n_dim == 3 && split.stride[0] == 4 && split.stride[1] == 2 && split.stride[2] == 1);
    assert_true((int)at3(&split, 2, 1, 1) == 12 + 8 + 3);
    hd_tensor none = hd_tensor_slice(&t, 0, 2, 0);
    assert_true(hd_tensor_count(&none) == 0 && hd_tensor_is_contiguous(&none));
    hd_tensor one = hd_tensor_slice(&t, 0, 1, 1);
    assert_true(hd_tensor_is_contiguous(&one));
    hd_arena_close(&arena);
}

static void names(void **state)
{
    (void)state;
    for (int d = 0; d < HD_DTYPE_COUNT; d++) {
        hd_dtype back;
        if (d == HD_DTYPE_I4) { continue; } /* no dtype of a file, and no whole bytes */
        assert_int_equal(hd_dtype_from_name(hd_dtype_name((hd_dtype)d), &back), 0);
        assert_int_equal(back, d);
        assert_in_range(hd_dtype_bytes((hd_dtype)d), 1, 8);
    }
    hd_dtype ignored;
    assert_int_equal(hd_dtype_from_name("I4", &ignored), -1);
    assert_int_equal(hd_dtype_run_bytes(HD_DTYPE_I4, 6), 3);
    assert_int_equal(hd_dtype_run_bytes(HD_DTYPE_BF16, 6), 12);
    assert_int_equal(hd_dtype_from_name("f32", &ignored), -1);
    assert_int_equal(hd_dtype_from_name("", &ignored), -1);
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void bf16(void **state)
{
    (void)state;
    for (uint32_t b = 0; b < 65536; b++) {
        float f = hd_bf16_to_f32((uint16_t)b);
        uint16_t back = hd_f32_to_bf16(f);
        bool is_nan = (b & 0x7FFF) > 0x7F80;
        if (back != (is_nan ? (b | 0x40) : b)) { fail_msg("bf16 %04x -> %04x", b, back); }
    }
    assert_int_equal(hd_f32_to_bf16(from_bits(0x3F808000)), 0x3F80); /* tie to even, down */
    assert_int_equal(hd_f32_to_bf16(from_bits(0x3F818000)), 0x3F82); /* tie to even, up */
    assert_int_equal(hd_f32_to_bf16(from_bits(0x3F808001)), 0x3F81);
    assert_int_equal(hd_f32_to_bf16(from_bits(0x7F7FFFFF)), 0x7F80); /* overflows to infinity */
    assert_int_equal(hd_f32_to_bf16(from_bits(0x7F800001)), 0x7FC0); /* a NaN whose payload would vanish */
}

/* Every f16 value goes there and back; between neighbours, the middle goes to the even one. */
static void f16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = hd_f16_to_f32((uint16_t)h);
        bool is_nan = (h & 0x7FFF) > 0x7C00;
        uint16_t back = hd_f32_to_f16(f);
        if (is_nan ? (back & 0x7FFF) <= 0x7C00 : back != h) { fail_msg("f16 %04x -> %04x", h, back); }
        if ((h & 0x7FFF) >= 0x7BFF) { continue; }
        double low = (double)f, high = (double)hd_f16_to_f32((uint16_t)(h + 1)), middle = (low + high) / 2;
        uint16_t even = (uint16_t)((h & 1) != 0 ? h + 1 : h);
        if (hd_f32_to_f16((float)middle) != even) { fail_msg("tie above %04x", h); }
        if (hd_f32_to_f16(nextafterf((float)middle, (float)low)) != h) { fail_msg("below the tie above %04x", h); }
        if (hd_f32_to_f16(nextafterf((float)middle, (float)high)) != h + 1) { fail_msg("above the tie above %04x", h); }
    }
    assert_int_equal(hd_f32_to_f16(65519.99f), 0x7BFF);
    assert_int_equal(hd_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(hd_f32_to_f16(-1e30f), 0xFC00);
    assert_int_equal(hd_f32_to_f16(1e-30f), 0);
    assert_true(fabsf(hd_f16_to_f32(0x3C00) - 1.0f) < 1e-12f && fabsf(hd_f16_to_f32(0x0001) - 0x1p-24f) < 1e-30f);
}

static void f8(void **state)
{
    (void)state;
    static const struct {
        uint8_t bits;
        float value;
    } known[] = {{0x00, 0}, {0x01, 0x1p-9f}, {0x08, 0x1p-6f}, {0x38, 1}, {0x39, 1.125f}, {0x7E, 448}, {0xFE, -448}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        float f = hd_f8_e4m3_to_f32(known[i].bits);
        assert_memory_equal(&f, &known[i].value, sizeof f);
    }
    assert_false(hd_finite_f32(hd_f8_e4m3_to_f32(0x7F)) || hd_finite_f32(hd_f8_e4m3_to_f32(0xFF)));
    assert_true(signbit(hd_f8_e4m3_to_f32(0x80)));
    for (int b = 1; b < 0x7F; b++) { assert_true(hd_f8_e4m3_to_f32((uint8_t)b) > hd_f8_e4m3_to_f32((uint8_t)(b - 1))); }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(make_and_refuse),
        cmocka_unit_test(views),
        cmocka_unit_test(names),
        cmocka_unit_test(bf16),
        cmocka_unit_test(f16),
        cmocka_unit_test(f8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
