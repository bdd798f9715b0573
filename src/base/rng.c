/* Philox4x32-10 and the distributions over it.  See rng.h for the definition every implementation shares. */
#include "base/rng.h"

#include <math.h>

__extension__ typedef unsigned __int128 hd_u128;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static uint64_t fnv1a64(const char *text)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (; *text != '\0'; text++) { h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001B3); }
    return h;
}

hd_rng hd_rng_make(uint64_t seed, hd_rng_purpose purpose, const char *name)
{
    uint64_t salt = UINT64_C(0x9E3779B97F4A7C15) * ((uint64_t)purpose + 1);
    return (hd_rng){.key = mix(mix(seed + salt) ^ fnv1a64(name))};
}

void hd_rng_block(hd_rng rng, uint64_t index, uint32_t attempt, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)rng.key, k1 = (uint32_t)(rng.key >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = attempt, c3 = 0;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = UINT64_C(0xD2511F53) * c0;
        uint64_t p1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static uint64_t join(uint32_t high, uint32_t low)
{
    return (uint64_t)high << 32 | low;
}

static double uniform(uint64_t x)
{
    return ((double)(x >> 11) + 0.5) * 0x1p-53;
}

static double normal(hd_rng rng, uint64_t index, uint32_t attempt)
{
    const double two_pi = 6.283185307179586476925286766559;
    uint32_t r[4];
    hd_rng_block(rng, index, attempt, r);
    return sqrt(-2.0 * log(uniform(join(r[0], r[1])))) * cos(two_pi * uniform(join(r[2], r[3])));
}

double hd_rng_uniform(hd_rng rng, uint64_t index)
{
    uint32_t r[4];
    hd_rng_block(rng, index, 0, r);
    return uniform(join(r[0], r[1]));
}

uint64_t hd_rng_below(hd_rng rng, uint64_t n, uint64_t index)
{
    uint32_t r[4];
    hd_rng_block(rng, index, 0, r);
    return (uint64_t)(((hd_u128)join(r[0], r[1]) * n) >> 64);
}

float hd_rng_normal(hd_rng rng, uint64_t index)
{
    return (float)normal(rng, index, 0);
}

float hd_rng_truncated_normal(hd_rng rng, uint64_t index)
{
    for (uint32_t attempt = 0;; attempt++) { /* each attempt succeeds with probability 0.954 */
        double x = normal(rng, index, attempt);
        if (fabs(x) <= 2.0) { return (float)x; }
    }
}
