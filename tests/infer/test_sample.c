/* Choosing tokens: against the definition by a whole sort, for every strategy, with ties; and what may never be chosen. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer/sample.h"
#include "support/test.h"

enum { N = 3000 };

static const float *sorted_logits;

static int by_definition(const void *a, const void *b)
{
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sorted_logits[i] != sorted_logits[j]) { return sorted_logits[i] > sorted_logits[j] ? -1 : 1; }
    return i < j ? -1 : i > j;
}

/* The tokens that may be chosen, by sorting all of them. */
static int64_t define_kept(const hd_sampler *s, const float *logits, int32_t *order, int64_t n)
{
    int64_t kept = n;
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { order[i] = (int32_t)i; }
    sorted_logits = logits;
    qsort(order, (size_t)n, sizeof *order, by_definition);
    double max = (double)logits[order[0]];
    if (s->strategy == HD_SAMPLE_TOPK || s->strategy == HD_SAMPLE_COMPOSITE) { kept = s->top_k < n ? s->top_k : n; }
    if (s->strategy == HD_SAMPLE_NUCLEUS || s->strategy == HD_SAMPLE_COMPOSITE) {
        for (int64_t i = 0; i < kept; i++) { total += exp((double)logits[order[i]] - max); }
        for (int64_t i = 0; i < kept; i++) {
            sum += exp((double)logits[order[i]] - max);
            if (sum >= s->nucleus_p * total) {
                kept = i + 1;
                break;
            }
        }
    }
    while (s->min_p > 0.0 && (double)logits[order[kept - 1]] - max < log(s->min_p)) { kept--; }
    return kept;
}

static int64_t define(const hd_sampler *s, const float *logits, int32_t *order, int64_t n, double uniform)
{
    int64_t kept = define_kept(s, logits, order, n);
    double total = 0.0, sum = 0.0, max = (double)logits[order[0]];
    if (s->strategy == HD_SAMPLE_GREEDY) { return order[0]; }
    if (s->strategy == HD_SAMPLE_WEIGHTED && s->min_p == 0.0) { /* in the order of the tokens, but the likeliest in front */
        int32_t top = order[0];
        for (int32_t i = 0; i < n; i++) { order[i] = i; }
        order[top] = 0;
        order[0] = top;
    }
    for (int64_t i = 0; i < kept; i++) { total += exp(((double)logits[order[i]] - max) / s->temperature); }
    for (int64_t i = 0; i < kept; i++) {
        sum += exp(((double)logits[order[i]] - max) / s->temperature);
        if (sum >= uniform * total) { return order[i]; }
    }
    return order[kept - 1];
}

static void as_defined(void **state)
{
    (void)state;
    static float logits[N];
    static int32_t order[N], other[N];
    static const int64_t sizes[] = {1, 2, 3, 63, 64, 65, 320, 1000, N};
    static const hd_sampler samplers[] = {
        {.strategy = HD_SAMPLE_GREEDY, .temperature = 1.0},
        {.strategy = HD_SAMPLE_WEIGHTED, .temperature = 0.7},
        {.strategy = HD_SAMPLE_WEIGHTED, .temperature = 1.5, .min_p = 0.05},
        {.strategy = HD_SAMPLE_TOPK, .top_k = 1, .temperature = 1.0},
        {.strategy = HD_SAMPLE_TOPK, .top_k = 40, .temperature = 2.0, .min_p = 0.2},
        {.strategy = HD_SAMPLE_TOPK, .top_k = 100000, .temperature = 1.0},
        {.strategy = HD_SAMPLE_NUCLEUS, .nucleus_p = 0.5, .temperature = 1.0},
        {.strategy = HD_SAMPLE_NUCLEUS, .nucleus_p = 0.9999, .temperature = 3.0},
        {.strategy = HD_SAMPLE_NUCLEUS, .nucleus_p = 1.0, .temperature = 3.0, .min_p = 1e-3},
        {.strategy = HD_SAMPLE_COMPOSITE, .top_k = 50, .nucleus_p = 0.9, .temperature = 1.0},
        {.strategy = HD_SAMPLE_COMPOSITE, .top_k = 500, .nucleus_p = 0.999, .temperature = 1.0, .min_p = 1.0},
    };
    hd_rng rng = hd_test_rng("uniform");
    for (int64_t round = 0; round < 20; round++) {
        char name[32];
        (void)snprintf(name, sizeof name, "logits %d", (int)round);
        hd_gen_normal_f32(name, round % 3 == 0 ? 0.3 : 4.0, logits, N);
        for (int64_t i = 0; round % 2 == 1 && i < N; i++) { logits[i] = floorf(logits[i]); } /* ties everywhere */
        for (size_t s = 0; s < sizeof samplers / sizeof samplers[0]; s++) {
            for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
                double uniform = hd_rng_uniform(rng, (uint64_t)(round * 1000 + (int64_t)(s * 20 + k)));
                int64_t got = hd_sample(&samplers[s], logits, order, sizes[k], uniform);
                int64_t want = define(&samplers[s], logits, other, sizes[k], uniform);
                if (got != want) { fail_msg("round %d, sampler %zu, %d tokens: %d, want %d", (int)round, s, (int)sizes[k], (int)got, (int)want); }
            }
        }
    }
}

/* Sorted, reversed and equal logits are no trap for the selection. */
static void orders(void **state)
{
    (void)state;
    static float logits[N];
    static int32_t order[N], other[N];
    hd_sampler s = {.strategy = HD_SAMPLE_TOPK, .top_k = 700, .temperature = 1.0};
    for (int kind = 0; kind < 4; kind++) {
        for (int i = 0; i < N; i++) { logits[i] = (float)(kind == 0 ? 0 : kind == 1 ? i : kind == 2 ? -i : i % 7); }
        for (int u = 1; u <= 50; u++) { assert_int_equal(hd_sample(&s, logits, order, N, u / 50.0), define(&s, logits, other, N, u / 50.0)); }
    }
}

/* Frequencies follow the probabilities: 100,000 draws of a known distribution, each within 5 standard deviations. */
static void frequencies(void **state)
{
    (void)state;
    const float logits[5] = {0.0F, 1.0F, -1.0F, 2.0F, 0.5F};
    const double n_draw = 100000;
    int32_t order[5];
    double count[5] = {0}, total = 0.0;
    hd_sampler s = {.strategy = HD_SAMPLE_WEIGHTED, .temperature = 2.0};
    hd_rng rng = hd_test_rng("draws");
    for (int i = 0; i < (int)n_draw; i++) { count[hd_sample(&s, logits, order, 5, hd_rng_uniform(rng, (uint64_t)i))]++; }
    for (int i = 0; i < 5; i++) { total += exp((double)logits[i] / 2.0); }
    for (int i = 0; i < 5; i++) {
        double p = exp((double)logits[i] / 2.0) / total;
        assert_true(fabs(count[i] - p * n_draw) <= 5.0 * sqrt(p * (1.0 - p) * n_draw));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_defined), cmocka_unit_test(orders), cmocka_unit_test(frequencies)};
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
