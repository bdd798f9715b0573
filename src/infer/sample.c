/* Sampling strategies: which tokens may be chosen, the likeliest first, and a draw among those.  See sample.h. */
#include "infer/sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

hd_status hd_sampler_from_config(const hd_config *config, hd_sampler *s, hd_err *err)
{
    *s = (hd_sampler){
        .strategy = (hd_sampling)hd_config_enum(config, HD_KEY_decode_sampling_strategy),
        .top_k = hd_config_int(config, HD_KEY_decode_sampling_top_k),
        .nucleus_p = hd_config_float(config, HD_KEY_decode_sampling_nucleus_p),
        .temperature = hd_config_float(config, HD_KEY_decode_sampling_temperature),
        .min_p = hd_config_float(config, HD_KEY_decode_sampling_min_p),
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

uint64_t hd_sampling_seed(const hd_config *config)
{
    bool own = !hd_config_is_null(config, HD_KEY_decode_sampling_seed);
    return (uint64_t)hd_config_int(config, own ? HD_KEY_decode_sampling_seed : HD_KEY_init_weights_seed);
}

/* ---- order -------------------------------------------------------------------------------------------------------------- */

/* Descending logits, ascending index on ties: no two tokens are equal, so the first k are a definite set. */
static bool before(const float *logits, int32_t i, int32_t j)
{
    return logits[i] != logits[j] ? logits[i] > logits[j] : i < j;
}

static int by_logit(const void *a, const void *b, void *context)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    return i == j ? 0 : before(context, i, j) ? -1 : 1;
}

static void swap(int32_t *order, int64_t i, int64_t j)
{
    int32_t kept = order[i];
    order[i] = order[j];
    order[j] = kept;
}

/* Brings the k first tokens to the front, unsorted.  Hoare's selection: the part that holds the border is cut in two at its middle
 * token until the border stands between two parts. */
static void select_first(const float *logits, int32_t *order, int64_t n, int64_t k)
{
    for (int64_t low = 0, high = n - 1; low < high;) {
        int32_t pivot = order[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (before(logits, order[i], pivot)) { i++; }
            while (before(logits, pivot, order[j])) { j--; }
            if (i <= j) { swap(order, i++, j--); }
        }
        if (k - 1 <= j) {
            high = j;
        } else if (k - 1 >= i) {
            low = i;
        } else {
            return;
        }
    }
}

static void sort_first(const float *logits, int32_t *order, int64_t n, int64_t k)
{
    if (k < n) { select_first(logits, order, n, k); }
    qsort_r(order, (size_t)k, sizeof *order, by_logit, (void *)(uintptr_t)logits);
}

static int64_t argmax(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) { best = i; }
    }
    return best;
}

/* ---- which tokens may be chosen ------------------------------------------------------------------------------------------- */

/* How many of the first tokens of order reach probability p of its n together; those are sorted. */
static int64_t nucleus(const float *logits, int32_t *order, int64_t n, double p, double max)
{
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { total += exp((double)logits[order[i]] - max); }
    for (int64_t sorted = 0, width = 64; sorted < n; width *= 4) { /* most distributions end within the first few */
        width = width < n - sorted ? width : n - sorted;
        sort_first(logits, order + sorted, n - sorted, width);
        for (int64_t end = sorted + width; sorted < end; sorted++) {
            sum += exp((double)logits[order[sorted]] - max);
            if (sum >= p * total) { return sorted + 1; }
        }
    }
    return n;
}

/* How many tokens have min_p times the largest probability or more. */
static int64_t count_likely(const float *logits, int64_t n, double min_p, double max)
{
    int64_t count = 0;
    double least = max + log(min_p);
    for (int64_t i = 0; i < n; i++) { count += (double)logits[i] >= least; }
    return count;
}

/* The tokens that may be chosen, at the front of order, the likeliest first. */
static int64_t keep(const hd_sampler *s, const float *logits, int32_t *order, int64_t n)
{
    int64_t kept = n, top = argmax(logits, n);
    double max = (double)logits[top];
    for (int64_t i = 0; i < n; i++) { order[i] = (int32_t)i; }
    if (s->strategy == HD_SAMPLE_TOPK || s->strategy == HD_SAMPLE_COMPOSITE) {
        kept = s->top_k < n ? s->top_k : n;
        sort_first(logits, order, n, kept);
    }
    if (s->strategy == HD_SAMPLE_NUCLEUS || s->strategy == HD_SAMPLE_COMPOSITE) { kept = nucleus(logits, order, kept, s->nucleus_p, max); }
    if (s->strategy == HD_SAMPLE_WEIGHTED) { swap(order, 0, top); }
    if (s->min_p > 0.0) {
        int64_t likely = count_likely(logits, n, s->min_p, max);
        if (s->strategy == HD_SAMPLE_WEIGHTED) { sort_first(logits, order, n, likely); }
        kept = likely < kept ? likely : kept;
    }
    return kept;
}

/* ---- the draw ------------------------------------------------------------------------------------------------------------- */

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
    if (s->strategy == HD_SAMPLE_GREEDY) { return argmax(logits, n); }
    return draw(s, logits, order, keep(s, logits, order, n), uniform);
}
