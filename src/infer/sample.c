/* Sampling strategies: a descending order of tokens, how many of them may be chosen, and a draw among those. */
#include "infer/sample.h"

#include <math.h>
#include <stdlib.h>

hd_status hd_sampler_from_config(const hd_config *config, hd_sampler *s, hd_err *err)
{
    *s = (hd_sampler){
        .strategy = (hd_sampling)hd_config_enum(config, HD_KEY_decode_sampling_strategy),
        .top_k = hd_config_int(config, HD_KEY_decode_sampling_top_k),
        .nucleus_p = hd_config_float(config, HD_KEY_decode_sampling_nucleus_p),
        .temperature = hd_config_float(config, HD_KEY_decode_sampling_temperature),
    };
    bool needs_k = s->strategy == HD_SAMPLE_TOPK || s->strategy == HD_SAMPLE_COMPOSITE;
    bool needs_p = s->strategy == HD_SAMPLE_NUCLEUS || s->strategy == HD_SAMPLE_COMPOSITE;
    const char *name = hd_config_str(config, HD_KEY_decode_sampling_strategy);
    if (needs_k && s->top_k < 1) {
        return HD_FAIL(err, HD_E_CONFIG, "decode_sampling_strategy=%s needs decode_sampling_top_k of 1 or more, found %lld", name, (long long)s->top_k);
    }
    if (needs_p && !(s->nucleus_p > 0.0 && s->nucleus_p <= 1.0)) {
        return HD_FAIL(err, HD_E_CONFIG, "decode_sampling_strategy=%s needs decode_sampling_nucleus_p above 0 and up to 1, found %g", name, s->nucleus_p);
    }
    return HD_OK;
}

/* Descending logits, ascending index on ties. */
static int by_logit(const void *a, const void *b, void *context)
{
    const float *logits = context;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (logits[i] != logits[j]) { return logits[i] > logits[j] ? -1 : 1; }
    return i < j ? -1 : 1;
}

static int64_t argmax(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) { best = i; }
    }
    return best;
}

/* How many of the first `n` tokens in order reach probability p together. */
static int64_t nucleus(const float *logits, const int32_t *order, int64_t n, double p)
{
    double total = 0.0, sum = 0.0, max = (double)logits[order[0]];
    for (int64_t i = 0; i < n; i++) { total += exp((double)logits[order[i]] - max); }
    for (int64_t i = 0; i < n; i++) {
        sum += exp((double)logits[order[i]] - max);
        if (sum >= p * total) { return i + 1; }
    }
    return n;
}

static int64_t draw(const hd_sampler *s, const float *logits, const int32_t *order, int64_t n, double uniform)
{
    double total = 0.0, sum = 0.0, max = (double)logits[order[0]];
    for (int64_t i = 0; i < n; i++) { total += exp(((double)logits[order[i]] - max) / s->temperature); }
    for (int64_t i = 0; i < n; i++) {
        sum += exp(((double)logits[order[i]] - max) / s->temperature);
        if (sum >= uniform * total) { return order[i]; }
    }
    return order[n - 1];
}

int64_t hd_sample(const hd_sampler *s, const float *logits, int32_t *order, int64_t n, double uniform)
{
    int64_t kept = n;
    if (s->strategy == HD_SAMPLE_GREEDY) { return argmax(logits, n); }
    for (int64_t i = 0; i < n; i++) { order[i] = (int32_t)i; }
    if (s->strategy != HD_SAMPLE_WEIGHTED) { qsort_r(order, (size_t)n, sizeof *order, by_logit, (void *)(uintptr_t)logits); }
    if (s->strategy == HD_SAMPLE_TOPK || s->strategy == HD_SAMPLE_COMPOSITE) { kept = s->top_k < n ? s->top_k : n; }
    if (s->strategy == HD_SAMPLE_NUCLEUS || s->strategy == HD_SAMPLE_COMPOSITE) { kept = nucleus(logits, order, kept, s->nucleus_p); }
    if (s->strategy == HD_SAMPLE_WEIGHTED) {
        int32_t top = (int32_t)argmax(logits, n); /* draw subtracts the first token's logit: let it be the largest */
        order[top] = 0;
        order[0] = top;
    }
    return draw(s, logits, order, kept, uniform);
}
