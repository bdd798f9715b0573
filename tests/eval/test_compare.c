/* Comparing rows: the divergence against a direct sum in long double, NaN, clipping, tolerances, the likeliest tokens, experts. */
#include <math.h>
#include <stdlib.h>

#include "eval/compare.h"
#include "eval/routing.h"
#include "support/test.h"

static const hd_compare_rules no_rules = {.max_kl = NAN, .atol = NAN, .rtol = 1e-5, .clip = NAN};

/* sum P ln(P / Q) with everything in long double; eps 0: no clipping. */
static double direct_kl(const float *ours, const float *golden, int n, long double eps)
{
    long double zp = 0, zq = 0, cp = 0, cq = 0, kl = 0;
    for (int i = 0; i < n; i++) { zp += expl((long double)golden[i]), zq += expl((long double)ours[i]); }
    for (int i = 0; i < n; i++) { cp += fmaxl(expl((long double)golden[i]) / zp, eps), cq += fmaxl(expl((long double)ours[i]) / zq, eps); }
    for (int i = 0; i < n; i++) {
        long double p = fmaxl(expl((long double)golden[i]) / zp, eps) / cp, q = fmaxl(expl((long double)ours[i]) / zq, eps) / cq;
        kl += p > 0 ? p * logl(p / q) : 0;
    }
    return (double)kl;
}

static void divergence_is_the_sum(void **state)
{
    (void)state;
    enum { N = 300 };
    float ours[N], golden[N];
    hd_gen_normal_f32("golden", 3.0, golden, N);
    hd_gen_normal_f32("ours", 3.0, ours, N);
    for (int clip = 0; clip < 2; clip++) {
        hd_compare c;
        hd_compare_rules rules = no_rules;
        if (clip) { rules.clip = 1e-3; }
        hd_compare_begin(&rules, &c);
        hd_compare_row(&c, 7, ours, golden, N);
        double want = direct_kl(ours, golden, N, clip ? 1e-3L : 0.0L);
        if (!(fabs(c.max_kl - want) <= 1e-12 * want)) { fail_msg("clip %d: %.17g, want %.17g", clip, c.max_kl, want); }
        assert_int_equal(c.max_kl_position, 7);
    }
    hd_compare c;
    hd_compare_begin(&no_rules, &c);
    hd_compare_row(&c, 0, golden, golden, N);
    assert_true(c.max_kl == 0.0 && c.max_diff == 0.0 && c.n_argmax == 0 && c.n_top == HD_COMPARE_TOP);
    for (int i = 0; i < N; i++) { ours[i] = golden[i] + 5.0f; } /* the same probabilities */
    hd_compare_row(&c, 1, ours, golden, N);
    assert_true(fabs(c.max_kl) < 1e-12);
    float far[2] = {200.0f, -200.0f}, near[2] = {-200.0f, 200.0f}; /* probabilities that vanish in f64 */
    hd_compare_begin(&no_rules, &c);
    hd_compare_row(&c, 0, far, near, 2);
    assert_true(fabs(c.max_kl - 400.0) < 1e-9);
}

static bool passes(double max_kl, double atol, const float *ours, const float *golden, int64_t n)
{
    hd_compare c;
    hd_compare_rules rules = {max_kl, atol, 1e-5, NAN};
    hd_compare_begin(&rules, &c);
    hd_compare_row(&c, 0, ours, golden, n);
    return hd_compare_passes(&c);
}

static void limits(void **state)
{
    (void)state;
    float golden[3] = {1.0f, 2.0f, 3.0f}, ours[3] = {1.0f, 2.0f, 3.5f};
    double kl = direct_kl(ours, golden, 3, 0.0L);
    assert_true(passes(kl * 1.0001, NAN, ours, golden, 3));
    assert_false(passes(kl * 0.9999, NAN, ours, golden, 3));
    hd_compare c;
    hd_compare_begin(&no_rules, &c);
    hd_compare_row(&c, 0, ours, golden, 3);
    assert_false(passes(c.max_kl, NAN, ours, golden, 3)); /* strictly below */
    assert_true(passes(NAN, 0.5, ours, golden, 3));
    assert_false(passes(NAN, 0.49, ours, golden, 3));
    assert_false(passes(1.0, 0.49, ours, golden, 3));
    hd_compare_begin(&no_rules, &c);
    assert_false(hd_compare_passes(&c)); /* nothing was compared */
}

static void nan_passes_nothing(void **state)
{
    (void)state;
    float golden[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t b = 0; b < 3; b++) {
        for (int at = 0; at < 4; at++) {
            float ours[4] = {1.0f, 2.0f, 3.0f, 4.0f};
            ours[at] = bad[b];
            assert_false(passes(1e30, NAN, ours, golden, 4));
            assert_false(passes(NAN, 1e30, ours, golden, 4));
            hd_compare c;
            hd_compare_begin(&(hd_compare_rules){1e30, 1e30, 0, NAN}, &c);
            hd_compare_row(&c, 0, ours, golden, 4);
            hd_compare_row(&c, 1, golden, golden, 4); /* a good row does not make up for it */
            assert_false(hd_compare_passes(&c));
        }
    }
}

static void likeliest_tokens(void **state)
{
    (void)state;
    hd_compare c;
    float a[13], b[13];
    for (int i = 0; i < 13; i++) { a[i] = b[i] = (float)i; }
    b[12] = -1.0f; /* drops out of the first ten; 2 comes in */
    hd_compare_begin(&no_rules, &c);
    hd_compare_row(&c, 0, a, b, 13);
    assert_int_equal(c.n_argmax, 1);
    assert_int_equal(c.n_top, 9);
    assert_int_equal(c.n_top_possible, 10);
    assert_int_equal(c.max_diff_token, 12);
    float equal[3] = {1.0f, 1.0f, 1.0f}, first[3] = {2.0f, 1.0f, 1.0f};
    hd_compare_begin(&no_rules, &c);
    hd_compare_row(&c, 0, equal, first, 3); /* among equals the lower token */
    assert_int_equal(c.n_argmax, 0);
    assert_int_equal(c.n_top_possible, 3);
}

static void experts(void **state)
{
    (void)state;
    hd_err err = {0};
    int32_t ours[] = {0, 0, 0, 0, 0, 0, /* dense layer 0 */ 1, 2, 3, 4, 5, 6 /* layer 1: three tokens, room for three */};
    int32_t theirs[] = {2, 1, 3, 7, 6, 5};
    float gaps[] = {1e-9f, 3e-6f, 0.5f};
    int64_t layers[] = {1};
    hd_routing_log log = {.max_tokens = 3, .top_k = 2, .n_layer = 2, .ids = ours};
    hd_golden_experts golden = {.n_layer = 1, .n_token = 3, .top_k = 2, .layers = layers, .ids = theirs, .gaps = gaps};
    hd_routing_flips f;
    assert_ok(hd_routing_compare(&log, 0, &golden, 3, &f, &err));
    assert_int_equal(f.n_choice, 3);
    assert_int_equal(f.n_flip, 1);
    assert_int_equal(f.n_wide, 0);
    assert_true(f.largest_gap == (double)3e-6f);
    gaps[1] = 2e-5f;
    assert_ok(hd_routing_compare(&log, 0, &golden, 3, &f, &err));
    assert_int_equal(f.n_wide, 1);
    assert_ok(hd_routing_compare(&log, 0, &golden, 1, &f, &err)); /* the leading token only */
    assert_int_equal(f.n_choice, 1);
    assert_int_equal(f.n_flip, 0);
    golden.top_k = 3;
    assert_fails(hd_routing_compare(&log, 0, &golden, 3, &f, &err), HD_E_CORRUPT, "3 experts per token, the model 2");
    golden.top_k = 2, layers[0] = 2;
    assert_fails(hd_routing_compare(&log, 0, &golden, 3, &f, &err), HD_E_CORRUPT, "layer 2, the model has 2 layers");
    golden.n_layer = 0;
    assert_ok(hd_routing_compare(&log, 0, &golden, 3, &f, &err));
    assert_int_equal(f.n_choice, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divergence_is_the_sum), cmocka_unit_test(limits),  cmocka_unit_test(nan_passes_nothing),
        cmocka_unit_test(likeliest_tokens),      cmocka_unit_test(experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
