/* Decimal text to f32: equal to strtof in every bit, and only JSON numbers are numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "eval/number.h"
#include "support/test.h"

static void same_as_strtof(const char *text)
{
    float value = 0.0f;
    size_t n = hd_scan_f32(text, &value);
    float want = strtof(text, NULL);
    if (n != strlen(text) || memcmp(&value, &want, sizeof value) != 0) {
        fail_msg("%s: %zu bytes, %.9g (%a), want %.9g (%a)", text, n, (double)value, (double)value, (double)want, (double)want);
    }
}

static void every_exponent_and_format(void **state)
{
    (void)state;
    char text[64];
    hd_rng rng = hd_test_rng("number");
    for (uint64_t i = 0; i < (uint64_t)hd_test_count(200000, 20000000); i++) {
        uint32_t bits = (uint32_t)hd_rng_below(rng, UINT64_C(1) << 32, i);
        float f;
        memcpy(&f, &bits, sizeof f);
        if (!isfinite(f)) { continue; }
        static const char *const formats[] = {"%.9g", "%.17g", "%.8e", "%.6f", "%.20e", "%.3g", "%.12g"};
        (void)snprintf(text, sizeof text, formats[i % 7], (double)f);
        same_as_strtof(text);
    }
}

/* The middle of two neighbours, exactly and a little to either side. */
static void middles(void **state)
{
    (void)state;
    char text[200];
    hd_rng rng = hd_test_rng("middle");
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t bits = 0x30000000u + (uint32_t)hd_rng_below(rng, 0x20000000u, i);
        float f;
        memcpy(&f, &bits, sizeof f);
        double middle = ((double)f + (double)nextafterf(f, INFINITY)) / 2;
        (void)snprintf(text, sizeof text, "%.40g", middle);
        same_as_strtof(text);
        (void)snprintf(text, sizeof text, "%.17g", nextafter(middle, i % 2 == 0 ? 0.0 : INFINITY));
        same_as_strtof(text);
        (void)snprintf(text, sizeof text, "%.18e", middle);
        same_as_strtof(text);
    }
}

static void odd_forms(void **state)
{
    (void)state;
    static const char *const numbers[] = {"0", "-0", "0.0", "-0.0e0", "1", "-1", "10", "1e5", "1E+5", "1e-5", "0.1", "123456789012345678901234567890",
                                          "0.000000000000000000000000000000000001", "1e-45", "7e-46", "1.401298464324817e-45", "3.4028235e38", "1e38",
                                          "0e999999999999999999999", "1e-999999999999999999999", "1.17549435e-38", "9007199254740993",
                                          "16777217", "33554431.5", "0.00000000000000000000000000000000000000000000001e47"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) { same_as_strtof(numbers[i]); }
    float value;
    assert_int_equal(hd_scan_f32("1e39,", &value), 4);
    assert_true(isinf(value));
    assert_int_equal(hd_scan_f32("1.5]", &value), 3);
    static const char *const others[] = {"", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "01", "-01", "NaN", "nan", "Infinity", "-Infinity", "x", "null", "-.5"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (hd_scan_f32(others[i], &value) != 0) { fail_msg("'%s' is no JSON number", others[i]); }
    }
    assert_int_equal(hd_scan_f32("0x10", &value), 1); /* the x is the caller's to refuse */
    assert_true(value == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_exponent_and_format), cmocka_unit_test(middles), cmocka_unit_test(odd_forms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
