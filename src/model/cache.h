/* The latent cache of a sequence, and forward passes that extend it: decoding and prefill.
 *
 * Per layer and position the cache holds [RMSNorm(latent) (c) ; rope key after RoPE (r)], act: what MLA needs of the past, 576 values
 * instead of H (n + r + v).  New tokens attend to it with latent_attention_fwd (ops.h), a few of them in the absorbed form, prompts in the
 * expanded one: outputs are equal up to rounding.
 * Source: DeepSeek-V2 (arXiv 2405.04434) 2.1.2 and appendix C. */
#ifndef HD_MODEL_CACHE_H
#define HD_MODEL_CACHE_H

#include "model/model.h"

typedef struct hd_cache {
    hd_tensor rows;           /* (layers, capacity, c + r) act */
    int64_t first_layer;      /* whose rows come first: 0, or n_layer in the cache of an MTP module */
    int64_t capacity, length; /* positions there are, positions filled */
} hd_cache;

/* Takes the memory of `capacity` positions from an arena: of the layers before the MTP modules; of the first MTP module alone. */
hd_status hd_cache_new(const hd_model *model, hd_arena *arena, int64_t capacity, hd_cache *cache, hd_err *err) HD_CHECK_RESULT;
hd_status hd_cache_new_mtp(const hd_model *model, hd_arena *arena, int64_t capacity, hd_cache *cache, hd_err *err) HD_CHECK_RESULT;

/* The first `length` positions; `to` has no others afterwards. */
hd_status hd_cache_copy(hd_exec *ex, const hd_cache *from, int64_t length, hd_cache *to, hd_err *err) HD_CHECK_RESULT;

/* New tokens of one sequence, at positions cache->length and on. */
typedef struct hd_extension {
    hd_cache *cache;
    const int32_t *tokens;
    int64_t n;
} hd_extension;

/* One pass over the new tokens of several sequences, each with its own cache: the caches grow, and hidden (N, D), N tokens in the order
 * of the list, is the residual stream behind the last layer, from `step`; MTP modules are not run.  What a sequence gets does not depend on the others, bit for
 * bit, but for expert strategies with a capacity.  HD_E_INVALID when a cache is too short or a token outside the vocabulary; caches are
 * as before after any failure. */
hd_status hd_model_extend(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, hd_tensor *hidden,
                          hd_err *err) HD_CHECK_RESULT;

#endif
