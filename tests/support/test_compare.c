/* The comparators themselves: NaN fails everywhere, infinity equals only itself, the figures are right. */
#include "support/test.h"

#include <math.h>

static void nan_is_counted(void **state)
{
    (void)state;
    float nan_f = NAN, got[3] = {1, nan_f, 3}, want[3] = {1, 2, 3};
    assert_int_equal(hd_compare_f32(got, want, 3).n_bad, 1);
    assert_int_equal(hd_compare_f32(got, want, 3).worst, 1);
    assert_int_equal(hd_compare_f32(want, got, 3).n_bad, 1);
    assert_int_equal(hd_compare_f32(got, got, 3).n_bad, 1); /* equal bits do not excuse NaN */
    assert_false(hd_finite_f32(nan_f) || hd_finite_f64(NAN) || hd_finite_f32(-INFINITY));
    assert_true(hd_finite_f32(3e38f) && hd_finite_f64(0) && hd_finite_f64(4e-324));
}

static void infinity_equals_itself(void **state)
{
    (void)state;
    float plus[1] = {INFINITY}, minus[1] = {-INFINITY}, big[1] = {3e38f};
    assert_int_equal(hd_compare_f32(plus, plus, 1).n_bad, 0);
    assert_int_equal(hd_compare_f32(plus, minus, 1).n_bad, 1);
    assert_int_equal(hd_compare_f32(plus, big, 1).n_bad, 1);
    assert_int_equal(hd_compare_f32(big, plus, 1).n_bad, 1);
}

static void figures(void **state)
{
    (void)state;
    double got[3] = {1, 2.5, 0}, want[3] = {1, 2, 0};
    hd_compared c = hd_compare_f64(got, want, 3);
    assert_true(fabs(c.max_abs - 0.5) < 1e-15 && fabs(c.max_rel - 0.25) < 1e-15);
    assert_true(fabs(c.norm_rel - 0.5 / sqrt(5.0)) < 1e-15);
    assert_int_equal(c.worst, 1);
    assert_int_equal(hd_compare_f64(got, want, 0).worst, -1);
}

/* Each of these must fail. */
static void nan_against_abs(void)
{
    float got[1] = {NAN}, want[1] = {0};
    hd_assert_abs_f32("nan", got, want, 1, 1e30);
}

static void nan_against_norm(void)
{
    double got[1] = {0}, want[1] = {NAN};
    hd_assert_norm_f64("nan", got, want, 1, 1e30);
}

static void nan_against_scaled(void)
{
    float got[1] = {NAN};
    double want[1] = {NAN}, scale[1] = {1};
    hd_assert_scaled_f32_f64("nan", got, want, scale, 1, 1e30);
}

static void nan_bound(void)
{
    float got[1] = {1}, want[1] = {1};
    hd_assert_abs_f32("bound", got, want, 1, (double)NAN);
}

static void zero_scale(void)
{
    double got[2] = {0, 1e-300}, want[2] = {0, 0}, scale[2] = {0, 0};
    hd_assert_scaled_f64("scale 0", got, want, scale, 2, 1);
}

static void too_far(void)
{
    float got[2] = {1, 2}, want[2] = {1, 1.5f};
    hd_assert_abs_f32("far", got, want, 2, 0.4);
}

static void zero_sign(void)
{
    float got[1] = {0.0f}, want[1] = {-0.0f};
    hd_assert_same_bits("zero", got, want, sizeof got[0], 1);
}

static void bad_comparisons_fail(void **state)
{
    (void)state;
    void (*const must_fail[])(void) = {nan_against_abs, nan_against_norm, nan_against_scaled, nan_bound,
                                       zero_scale,      too_far,          zero_sign};
    for (size_t i = 0; i < sizeof must_fail / sizeof must_fail[0]; i++) {
        assert_int_equal(hd_failures_of(must_fail[i]), 1);
    }
}

static void good_comparisons_pass(void **state)
{
    (void)state;
    float got[2] = {1, 2}, want[2] = {1, 2.25f};
    double want_f64[2] = {1, 2}, scale[2] = {0, 1};
    hd_assert_abs_f32("near", got, want, 2, 0.25);
    hd_assert_norm_f32("near", got, want, 2, 0.2);
    hd_assert_scaled_f32_f64("equal", got, want_f64, scale, 2, HD_U_F32);
    hd_assert_same_bits("same", got, got, sizeof got[0], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nan_is_counted),       cmocka_unit_test(infinity_equals_itself), cmocka_unit_test(figures),
        cmocka_unit_test(bad_comparisons_fail), cmocka_unit_test(good_comparisons_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
