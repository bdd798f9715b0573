/* See compare.h. */
#include "support/compare.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "support/test.h"

bool hd_finite_f32(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (u & 0x7F800000u) != 0x7F800000u;
}

bool hd_finite_f64(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return (u & UINT64_C(0x7FF0000000000000)) != UINT64_C(0x7FF0000000000000);
}

/* While hd_failures_of runs, failures are counted instead of ending the test. */
static bool on_trial;
static int n_trial_failures;

static void fail_test(void)
{
    if (!on_trial) { fail(); }
    n_trial_failures++;
}

int hd_failures_of(void (*test)(void))
{
    on_trial = true;
    n_trial_failures = 0;
    test();
    on_trial = false;
    return n_trial_failures;
}

/* One array read as double, whatever it holds: widening keeps NaN and infinity. */
typedef struct view {
    const float *f32;
    const double *f64;
} view;

static double at(view v, int64_t i)
{
    return v.f32 != NULL ? (double)v.f32[i] : v.f64[i];
}

static bool same_f64(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* Infinity equals infinity of the same sign; NaN equals nothing. */
static bool is_bad(double got, double want)
{
    if (hd_finite_f64(got) && hd_finite_f64(want)) { return false; }
    double infinity = HUGE_VAL;
    return !(same_f64(got, want) && (same_f64(got, infinity) || same_f64(got, -infinity)));
}

static hd_compared compare(view got, view want, const double *scale, double factor, int64_t n)
{
    hd_compared c = {.n = n, .worst = n > 0 ? 0 : -1};
    double diff2 = 0, want2 = 0;
    for (int64_t i = 0; i < n; i++) {
        double g = at(got, i), w = at(want, i);
        if (is_bad(g, w)) {
            if (c.n_bad++ == 0) { c.worst = i; }
            continue;
        }
        double d = same_f64(g, w) ? 0 : fabs(g - w);
        double bound = scale != NULL ? factor * scale[i] : 0;
        double ratio = d <= 0 ? 0 : bound > 0 ? d / bound : HUGE_VAL;
        bool worse = scale != NULL ? ratio > c.max_ratio : d > c.max_abs;
        if (worse && c.n_bad == 0) { c.worst = i; }
        if (scale != NULL && ratio > c.max_ratio) { c.max_ratio = ratio; }
        if (d > c.max_abs) { c.max_abs = d; }
        if (fabs(w) > 0 && d / fabs(w) > c.max_rel) { c.max_rel = d / fabs(w); }
        if (hd_finite_f64(w)) { diff2 += d * d, want2 += w * w; }
    }
    c.norm_rel = want2 > 0 ? sqrt(diff2 / want2) : sqrt(diff2);
    return c;
}

hd_compared hd_compare_f32(const float *got, const float *want, int64_t n)
{
    return compare((view){.f32 = got}, (view){.f32 = want}, NULL, 0, n);
}

hd_compared hd_compare_f64(const double *got, const double *want, int64_t n)
{
    return compare((view){.f64 = got}, (view){.f64 = want}, NULL, 0, n);
}

hd_compared hd_compare_f32_f64(const float *got, const double *want, int64_t n)
{
    return compare((view){.f32 = got}, (view){.f64 = want}, NULL, 0, n);
}

/* Prints the figure and fails unless observed <= bound and nothing was bad. */
static void judge(const char *what, const hd_compared *c, view got, view want, double observed, double bound)
{
    bool good = c->n_bad == 0 && hd_finite_f64(observed) && hd_finite_f64(bound) && observed <= bound;
    print_message("  %s: observed/bound = %.3g (%.3g / %.3g, n %" PRId64 ")\n", what,
                  bound > 0 ? observed / bound : observed, observed, bound, c->n);
    if (good) { return; }
    int64_t i = c->worst;
    print_error("  %s: %" PRId64 " not finite; worst at %" PRId64 ": got %.17g, want %.17g\n", what, c->n_bad, i,
                i >= 0 ? at(got, i) : 0, i >= 0 ? at(want, i) : 0);
    fail_test();
}

static void assert_abs(const char *what, view got, view want, int64_t n, double bound)
{
    hd_compared c = compare(got, want, NULL, 0, n);
    judge(what, &c, got, want, c.max_abs, bound);
}

static void assert_norm(const char *what, view got, view want, int64_t n, double bound)
{
    hd_compared c = compare(got, want, NULL, 0, n);
    judge(what, &c, got, want, c.norm_rel, bound);
}

static void assert_scaled(const char *what, view got, view want, const double *scale, int64_t n, double factor)
{
    hd_compared c = compare(got, want, scale, factor, n);
    judge(what, &c, got, want, c.max_ratio, 1);
}

void hd_assert_abs_f32(const char *what, const float *got, const float *want, int64_t n, double bound)
{
    assert_abs(what, (view){.f32 = got}, (view){.f32 = want}, n, bound);
}

void hd_assert_abs_f64(const char *what, const double *got, const double *want, int64_t n, double bound)
{
    assert_abs(what, (view){.f64 = got}, (view){.f64 = want}, n, bound);
}

void hd_assert_abs_f32_f64(const char *what, const float *got, const double *want, int64_t n, double bound)
{
    assert_abs(what, (view){.f32 = got}, (view){.f64 = want}, n, bound);
}

void hd_assert_norm_f32(const char *what, const float *got, const float *want, int64_t n, double bound)
{
    assert_norm(what, (view){.f32 = got}, (view){.f32 = want}, n, bound);
}

void hd_assert_norm_f64(const char *what, const double *got, const double *want, int64_t n, double bound)
{
    assert_norm(what, (view){.f64 = got}, (view){.f64 = want}, n, bound);
}

void hd_assert_norm_f32_f64(const char *what, const float *got, const double *want, int64_t n, double bound)
{
    assert_norm(what, (view){.f32 = got}, (view){.f64 = want}, n, bound);
}

void hd_assert_scaled_f32_f64(const char *what, const float *got, const double *want, const double *scale, int64_t n,
                              double factor)
{
    assert_scaled(what, (view){.f32 = got}, (view){.f64 = want}, scale, n, factor);
}

void hd_assert_scaled_f64(const char *what, const double *got, const double *want, const double *scale, int64_t n,
                          double factor)
{
    assert_scaled(what, (view){.f64 = got}, (view){.f64 = want}, scale, n, factor);
}

void hd_assert_same_bits(const char *what, const void *got, const void *want, size_t element_bytes, int64_t n)
{
    const unsigned char *g = got, *w = want;
    for (int64_t i = 0; i < n; i++) {
        size_t at_byte = (size_t)i * element_bytes;
        if (memcmp(g + at_byte, w + at_byte, element_bytes) == 0) { continue; }
        uint64_t gu = 0, wu = 0;
        memcpy(&gu, g + at_byte, element_bytes < sizeof gu ? element_bytes : sizeof gu);
        memcpy(&wu, w + at_byte, element_bytes < sizeof wu ? element_bytes : sizeof wu);
        print_error("  %s: element %" PRId64 " of %" PRId64 ": got bits %" PRIx64 ", want %" PRIx64 "\n", what, i, n,
                    gu, wu);
        fail_test();
        return;
    }
}
