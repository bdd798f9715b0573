/* Choosing the next token from logits.  Pure: equal inputs give equal tokens. */
#ifndef HD_INFER_SAMPLE_H
#define HD_INFER_SAMPLE_H

#include <stdint.h>

#include "config/config.h"
#include "hadal/status.h"

typedef enum hd_sampling { HD_SAMPLE_GREEDY, HD_SAMPLE_WEIGHTED, HD_SAMPLE_NUCLEUS, HD_SAMPLE_TOPK, HD_SAMPLE_COMPOSITE } hd_sampling;

typedef struct hd_sampler {
    hd_sampling strategy;
    int64_t top_k;
    double nucleus_p, temperature, min_p;
} hd_sampler;

/* HD_E_CONFIG when the strategy's own keys are missing. */
hd_status hd_sampler_from_config(const hd_config *config, hd_sampler *sampler, hd_err *err) HD_CHECK_RESULT;

/* decode_sampling_seed, or init_weights_seed where that is null. */
uint64_t hd_sampling_seed(const hd_config *config);

/* logits (n); order (n) is working memory; uniform in (0, 1].
 *   greedy: the largest, lowest index on ties.   weighted: softmax(logits / T).   topk: the k largest, then weighted.
 *   nucleus: the smallest set whose unscaled probabilities reach p, then weighted.   composite: topk, then nucleus.
 * All but greedy leave out tokens whose unscaled probability is below min_p times the largest.
 * Time is linear in n but for the tokens that may be chosen, which are sorted. */
int64_t hd_sample(const hd_sampler *sampler, const float *logits, int32_t *order, int64_t n, double uniform);

#endif
