/* See gen.h. */
#include "support/gen.h"

#include <inttypes.h>
#include <stdlib.h>

#include "support/test.h"
#include "tensor/dtype.h"

uint64_t hd_test_seed(void)
{
    static uint64_t seed; /* 0: not asked for yet */
    if (seed == 0) {
        const char *text = getenv("HADAL_TEST_SEED");
        seed = text != NULL ? strtoull(text, NULL, 0) : 1;
        if (seed == 0) { seed = 1; }
        print_message("seed %" PRIu64 " (set HADAL_TEST_SEED to change it)\n", seed);
    }
    return seed;
}

hd_rng hd_test_rng(const char *name)
{
    return hd_rng_make(hd_test_seed(), HD_RNG_TEST, name);
}

bool hd_test_soak(void)
{
    const char *text = getenv("HADAL_SOAK");
    return text != NULL && text[0] == '1';
}

int64_t hd_test_count(int64_t ordinary, int64_t soak)
{
    return hd_test_soak() ? soak : ordinary;
}

void hd_gen_normal_f32(const char *name, double scale, float *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) { out[i] = (float)(scale * (double)hd_rng_normal(rng, (uint64_t)i)); }
}

void hd_gen_uniform_f32(const char *name, double low, double high, float *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) { out[i] = (float)(low + (high - low) * hd_rng_uniform(rng, (uint64_t)i)); }
}

void hd_gen_normal_f64(const char *name, double scale, double *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) { out[i] = scale * (double)hd_rng_normal(rng, (uint64_t)i); }
}

void hd_gen_normal_bf16(const char *name, double scale, uint16_t *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) {
        out[i] = hd_f32_to_bf16((float)(scale * (double)hd_rng_normal(rng, (uint64_t)i)));
    }
}

void hd_gen_below_i32(const char *name, int32_t limit, int32_t *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) { out[i] = (int32_t)hd_rng_below(rng, (uint64_t)limit, (uint64_t)i); }
}

void hd_gen_bytes(const char *name, unsigned char *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) { out[i] = (unsigned char)hd_rng_below(rng, 256, (uint64_t)i); }
}

void hd_gen_exact_f32(const char *name, int limit, float *out, int64_t n)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)((int64_t)hd_rng_below(rng, 2 * (uint64_t)limit + 1, (uint64_t)i) - limit);
    }
}
