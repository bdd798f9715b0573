/* Numeric comparison in which NaN always fails: finiteness is judged by the bits of the exponent, so that no compiler
 * flag can optimise the check away (tests/support/test_compare.c feeds it NaN). */
#ifndef HD_TESTS_SUPPORT_COMPARE_H
#define HD_TESTS_SUPPORT_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Unit roundoffs, for tolerances of the form c * k * u * sum |a_i b_i|. */
#define HD_U_F64 0x1p-53
#define HD_U_F32 0x1p-24
#define HD_U_F16 0x1p-11
#define HD_U_BF16 0x1p-8
#define HD_U_E4M3 0x1p-4

/* Neither NaN nor infinite, by bits. */
bool hd_finite_f32(float x);
bool hd_finite_f64(double x);

typedef struct hd_compared {
    int64_t n, n_bad; /* elements; those where either side is NaN or infinite and the bits differ, or got is NaN */
    double max_abs;   /* max |got - want| over the others */
    double max_rel;   /* max |got - want| / |want|, where want is not 0 */
    double norm_rel;  /* ||got - want|| / ||want|| (2-norms); the numerator alone when want is all 0 */
    double max_ratio; /* max |got - want| / bound_i; filled by the _bound forms */
    int64_t worst;    /* where max_abs (or max_ratio) was seen; -1 when n is 0 */
} hd_compared;

hd_compared hd_compare_f32(const float *got, const float *want, int64_t n);
hd_compared hd_compare_f64(const double *got, const double *want, int64_t n);
hd_compared hd_compare_f32_f64(const float *got, const double *want, int64_t n); /* against a reference in double */

/* Assertions.  Each prints  `what: observed/bound = 0.031 (...)`  so that drift shows before it breaks, and fails the
 * running cmocka test when the bound is exceeded or anything is NaN.  `what` names the case. */

/* max |got - want| <= bound */
void hd_assert_abs_f32(const char *what, const float *got, const float *want, int64_t n, double bound);
void hd_assert_abs_f64(const char *what, const double *got, const double *want, int64_t n, double bound);
void hd_assert_abs_f32_f64(const char *what, const float *got, const double *want, int64_t n, double bound);

/* ||got - want|| <= bound * ||want|| */
void hd_assert_norm_f32(const char *what, const float *got, const float *want, int64_t n, double bound);
void hd_assert_norm_f64(const char *what, const double *got, const double *want, int64_t n, double bound);
void hd_assert_norm_f32_f64(const char *what, const float *got, const double *want, int64_t n, double bound);

/* |got_i - want_i| <= factor * scale_i for each i; scale_i is, for a product, sum |a_i b_i| and factor c * k * u.
 * A scale of 0 asks for equality. */
void hd_assert_scaled_f32_f64(const char *what, const float *got, const double *want, const double *scale, int64_t n,
                              double factor);
void hd_assert_scaled_f64(const char *what, const double *got, const double *want, const double *scale, int64_t n,
                          double factor);

/* How many of the assertions above that `test` makes would fail; none of them ends the running test.  For tests of the
 * comparators and of harnesses built on them. */
int hd_failures_of(void (*test)(void));

/* Bit equality, NaN payloads and signs of zero included; names the first differing element. */
void hd_assert_same_bits(const char *what, const void *got, const void *want, size_t element_bytes, int64_t n);

#endif
