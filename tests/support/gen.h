/* Seeded inputs.  Every generator takes a name and is a pure function of (seed, name, index).  The seed is 1, or
 * HADAL_TEST_SEED; a failing test prints it (hd_test_seed does, once per program). */
#ifndef HD_TESTS_SUPPORT_GEN_H
#define HD_TESTS_SUPPORT_GEN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"

uint64_t hd_test_seed(void);
hd_rng hd_test_rng(const char *name);

/* HADAL_SOAK=1: run full counts; otherwise what fits the ordinary run. */
bool hd_test_soak(void);
int64_t hd_test_count(int64_t ordinary, int64_t soak);

void hd_gen_normal_f32(const char *name, double scale, float *out, int64_t n);
void hd_gen_uniform_f32(const char *name, double low, double high, float *out, int64_t n);
void hd_gen_normal_f64(const char *name, double scale, double *out, int64_t n);
void hd_gen_normal_bf16(const char *name, double scale, uint16_t *out, int64_t n);
void hd_gen_below_i32(const char *name, int32_t limit, int32_t *out, int64_t n); /* in [0, limit) */
void hd_gen_bytes(const char *name, unsigned char *out, int64_t n);

/* Whole numbers in [-limit, limit]: sums of them are exact in any order, for tests of collectives. */
void hd_gen_exact_f32(const char *name, int limit, float *out, int64_t n);

#endif
