/* Drafting: the first MTP module as a model of its own that says, cheaply and not always rightly, what token comes after the next.
 *
 * At position i the module reads the residual stream h_i behind the last layer and the token x_{i+1} that was chosen there, and predicts
 * x_{i+2}.  It has one layer with a latent cache of its own (hd_cache_new_mtp), which follows the main cache one position behind.
 * Further modules are not used: each would need a pass of its own per draft.  Source: DeepSeek-V3 (arXiv 2412.19437) 2.2 and 5.4.3. */
#ifndef HD_MODEL_DRAFT_H
#define HD_MODEL_DRAFT_H

#include "model/cache.h"

/* In both, list[s].cache is a module's cache and list[s].tokens[i] the token BEHIND position cache->length + i; hidden (N, D), rows in
 * the order of the list, is what hd_model_extend gave for these positions.  Errors as there; caches are as before after any failure.
 *
 * Follow fills the caches and computes nothing else: it costs a fraction of a layer. */
hd_status hd_model_follow(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *hidden,
                          hd_err *err) HD_CHECK_RESULT;

/* Follow, and the module's logits f32 (n, V), of the token two places behind each sequence's last row.  What a sequence gets does not
 * depend on the others. */
hd_status hd_model_draft(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *hidden,
                         hd_tensor *logits, hd_err *err) HD_CHECK_RESULT;

#endif
