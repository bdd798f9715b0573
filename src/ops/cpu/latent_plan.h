/* Shape decisions of attention against latent caches, as pure functions: which form a sequence takes, and where the chunks of its
 * keys begin.  Both are part of the numerics contract, so they look at one sequence's sizes and at nothing else. */
#ifndef HD_OPS_CPU_LATENT_PLAN_H
#define HD_OPS_CPU_LATENT_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/ops.h"

/* Keys of a chunk of the absorbed form: what one item of work attends to, with a softmax of its own.  The first chunks are
 * shorter, so that a short past occupies more than one thread. */
enum { LATENT_CHUNK = 256, LATENT_FIRST_CHUNK = 64 };

/* Chunk i holds the positions [begin(i), begin(i + 1)): 0, 64, 128, 256, 512, 768, ... */
static inline int64_t latent_chunk_begin(int64_t i)
{
    return i < 3 ? i * LATENT_FIRST_CHUNK : (i - 2) * LATENT_CHUNK;
}

/* Chunks of a token that sees `length` positions. */
static inline int64_t latent_chunk_count(int64_t length)
{
    if (length <= 2 * LATENT_FIRST_CHUNK) { return (length + LATENT_FIRST_CHUNK - 1) / LATENT_FIRST_CHUNK; }
    return (length + LATENT_CHUNK - 1) / LATENT_CHUNK + 2;
}

/* Multiply-adds of one head of a sequence of `length` positions whose last n_new are new. */
static inline double latent_pairs(int64_t n_new, int64_t length)
{
    return (double)n_new * (double)(length - n_new) + 0.5 * (double)n_new * (double)(n_new + 1);
}

/* q Wk and context Wv^T once per new token; scores and context over the cache's rows. */
static inline double latent_absorbed_cost(const hd_latent_spec *s, int64_t n_new, int64_t length)
{
    double project = (double)s->kv_lora_rank * (double)(s->qk_nope_head_dim + s->v_head_dim);
    double pair = (double)(2 * s->kv_lora_rank + s->qk_rope_head_dim);
    return (double)n_new * project + latent_pairs(n_new, length) * pair;
}

/* Keys and values once per position; scores and outputs over them. */
static inline double latent_expanded_cost(const hd_latent_spec *s, int64_t n_new, int64_t length)
{
    double project = (double)s->kv_lora_rank * (double)(s->qk_nope_head_dim + s->v_head_dim);
    double pair = (double)(s->qk_nope_head_dim + s->qk_rope_head_dim + s->v_head_dim);
    return (double)length * project + latent_pairs(n_new, length) * pair;
}

/* A pass of up to LATENT_ALWAYS_ABSORBED tokens takes the absorbed form whatever that costs: tokens drafted and verified together
 * then have the bits of tokens made one by one. */
enum { LATENT_ALWAYS_ABSORBED = 16 };

static inline bool latent_is_expanded(const hd_latent_spec *s, int64_t n_new, int64_t length)
{
    return n_new > LATENT_ALWAYS_ABSORBED && latent_expanded_cost(s, n_new, length) < latent_absorbed_cost(s, n_new, length);
}

#endif
