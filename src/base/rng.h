/* The counter-based random generator: a value is a pure function of (seed, purpose, name, index), so that an initial
 * weight or a shuffled position is the same on every layout, thread count and restart.
 * Source: Philox4x32-10, Salmon et al. 2011 (Random123).  tests/golden has the same generator in NumPy.
 *
 *   mix(z): z = (z ^ z>>30) * BF58476D1CE4E5B9; z = (z ^ z>>27) * 94D049BB133111EB; z ^ z>>31       (mod 2^64)
 *   key     = mix(mix(seed + 9E3779B97F4A7C15 * (purpose + 1)) ^ fnv1a64(name))
 *   r0..r3  = Philox4x32-10(key = lo32, hi32; counter = index lo32, index hi32, attempt, 0)
 *   A = r0 << 32 | r1, B = r2 << 32 | r3;  uniform(X) = ((X >> 11) + 0.5) * 2^-53 */
#ifndef HD_BASE_RNG_H
#define HD_BASE_RNG_H

#include <stdint.h>

typedef enum hd_rng_purpose {
    HD_RNG_INIT = 1,      /* initial weights; name = HuggingFace tensor name, index = flat element */
    HD_RNG_SHUFFLE = 2,   /* order of documents; name = "epoch <n>" */
    HD_RNG_SYNTHETIC = 3, /* synthetic tokens */
    HD_RNG_SAMPLE = 4,    /* sampling while decoding */
    HD_RNG_DROPOUT = 5,
    HD_RNG_TEST = 6
} hd_rng_purpose;

typedef struct hd_rng {
    uint64_t key;
} hd_rng;

hd_rng hd_rng_make(uint64_t seed, hd_rng_purpose purpose, const char *name);
void hd_rng_block(hd_rng rng, uint64_t index, uint32_t attempt, uint32_t out[4]);

double hd_rng_uniform(hd_rng rng, uint64_t index);             /* in (0, 1], 1 once in 2^53: uniform(A) */
uint64_t hd_rng_below(hd_rng rng, uint64_t n, uint64_t index); /* in [0, n): high half of A * n */
float hd_rng_normal(hd_rng rng, uint64_t index); /* sqrt(-2 ln uniform(A)) cos(2 pi uniform(B)), in double */
float hd_rng_truncated_normal(hd_rng rng,
                              uint64_t index); /* first |normal| <= 2 over attempt = 0, 1, ... (not rescaled) */

#endif
