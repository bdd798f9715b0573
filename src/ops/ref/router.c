/* The router.  Scores s = softmax(l) or sigmoid(l); selection by s + b; weights from s alone.
 * V2: DeepSeek-V2 (arXiv 2405.04434) 2.1.2, groups ranked by their maximum.  V3: DeepSeek-V3 (arXiv 2412.19437) 2.1.2,
 * groups ranked by the sum of their two largest s + b.
 *   weight  w_e = f s_e                                   not normalised
 *           w_e = c s_e / Z,  Z = sum_I s + 1e-20         normalised;  c = f for V3, 1 for V2
 *   adjoint ds_e = f dw_e                                 on the chosen experts I, 0 elsewhere
 *           ds_e = (c dw_e - sum_I dw_j w_j) / Z
 *           dl = s (ds - sum_j ds_j s_j)  softmax,        dl = ds s (1 - s)  sigmoid
 * Nothing flows to b, to group scores or (before the softmax) to experts that were not chosen. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

static const double weight_sum_epsilon = 1e-20;

/* ---- scores ------------------------------------------------------------------------------------------------------------ */

static void softmax_scores(const hd_tensor *logits, int64_t t, hd_tensor *scores)
{
    int64_t experts = logits->shape[1];
    double max = -INFINITY, sum = 0.0;
    for (int64_t e = 0; e < experts; e++) { max = ref_get2(logits, t, e) > max ? ref_get2(logits, t, e) : max; }
    for (int64_t e = 0; e < experts; e++) { sum += exp(ref_get2(logits, t, e) - max); }
    for (int64_t e = 0; e < experts; e++) { ref_put2(scores, t, e, exp(ref_get2(logits, t, e) - max) / sum); }
}

static void sigmoid_scores(const hd_tensor *logits, int64_t t, hd_tensor *scores)
{
    for (int64_t e = 0; e < logits->shape[1]; e++) {
        ref_put2(scores, t, e, 1.0 / (1.0 + exp(-ref_get2(logits, t, e))));
    }
}

/* ---- selection: on the stored scores, rounded as they are, so that backends agree about ties ---------------------------- */

/* Position of the largest untaken value, the lowest among equals; some untaken one when all are NaN. */
static int64_t largest(const double *values, const double *taken, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++) {
        if (taken[i] == 0.0 && (best < 0 || values[i] > values[best])) { best = i; }
    }
    return best;
}

static double group_score(hd_group_rule rule, const double *choice, int64_t size, hd_dtype dtype)
{
    double first = -INFINITY, second = -INFINITY;
    for (int64_t i = 0; i < size; i++) {
        if (choice[i] > first) {
            second = first;
            first = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return rule == HD_GROUP_MAX ? first : ref_round(dtype, first + second);
}

/* Experts outside the topk_group best groups count as -inf, or as 0 in HuggingFace's V3. */
static void mask_groups(const hd_router_spec *spec, double *choice, int64_t experts, double *score, double *kept,
                        hd_dtype dtype)
{
    int64_t size = experts / spec->n_group;
    for (int64_t g = 0; g < spec->n_group; g++) {
        score[g] = group_score(spec->group_rule, choice + g * size, size, dtype);
        kept[g] = 0.0;
    }
    for (int64_t i = 0; i < spec->topk_group; i++) { kept[largest(score, kept, spec->n_group)] = 1.0; }
    for (int64_t e = 0; e < experts; e++) {
        if (kept[e / size] == 0.0) { choice[e] = spec->masked_group_zero ? 0.0 : -INFINITY; }
    }
}

static void choose_experts(const hd_router_spec *spec, const hd_tensor *scores, const hd_tensor *bias, int64_t t,
                           double *scratch, hd_tensor *ids)
{
    int64_t experts = scores->shape[1];
    double *choice = scratch, *taken = choice + experts, *group_scores = taken + experts, *kept = group_scores + experts;
    for (int64_t e = 0; e < experts; e++) {
        double b = bias != NULL ? ref_get1(bias, e) : 0.0;
        choice[e] = ref_round(scores->dtype, ref_get2(scores, t, e) + b);
        taken[e] = 0.0;
    }
    if (spec->group_rule != HD_GROUP_NONE) { mask_groups(spec, choice, experts, group_scores, kept, scores->dtype); }
    for (int64_t j = 0; j < spec->top_k; j++) {
        int64_t e = largest(choice, taken, experts);
        taken[e] = 1.0;
        ref_put2(ids, t, j, (double)e);
    }
}

/* ---- weights ------------------------------------------------------------------------------------------------------------ */

/* The factor on s_e / Z, or on s_e. */
static double weight_factor(const hd_router_spec *spec)
{
    return !spec->normalize || spec->scale_normalized ? spec->routed_scaling : 1.0;
}

/* Z, or 1 when weights are not normalised. */
static double weight_sum(const hd_router_spec *spec, const hd_tensor *scores, const hd_tensor *ids, int64_t t)
{
    if (!spec->normalize) { return 1.0; }
    double sum = weight_sum_epsilon;
    for (int64_t j = 0; j < spec->top_k; j++) { sum += ref_get2(scores, t, ref_int2(ids, t, j)); }
    return sum;
}

static void weigh_experts(const hd_router_spec *spec, const hd_tensor *scores, const hd_tensor *ids, int64_t t,
                          hd_tensor *weights)
{
    double factor = weight_factor(spec), sum = weight_sum(spec, scores, ids, t);
    for (int64_t j = 0; j < spec->top_k; j++) {
        ref_put2(weights, t, j, factor * ref_get2(scores, t, ref_int2(ids, t, j)) / sum);
    }
}

hd_status hd_ref_router_fwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *logits, const hd_tensor *bias,
                            hd_tensor *scores, hd_tensor *ids, hd_tensor *weights, hd_err *err)
{
    double *scratch;
    hd_status st = hd_ref_scratch(ex, 4 * logits->shape[1], &scratch, err);
    if (st != HD_OK || ex->dry) { return st; }
    for (int64_t t = 0; t < logits->shape[0]; t++) {
        if (spec->score_func == HD_SCORE_SOFTMAX) {
            softmax_scores(logits, t, scores);
        } else {
            sigmoid_scores(logits, t, scores);
        }
        choose_experts(spec, scores, bias, t, scratch, ids);
        weigh_experts(spec, scores, ids, t, weights);
    }
    return HD_OK;
}

/* ---- backward ----------------------------------------------------------------------------------------------------------- */

/* ds of token t from the weights of its experts, on top of what the auxiliary loss sent. */
static void score_gradient(const hd_router_spec *spec, const hd_tensor *dweights, const hd_tensor *scores,
                           const hd_tensor *ids, const hd_tensor *weights, int64_t t, double *ds)
{
    double factor = weight_factor(spec), sum = weight_sum(spec, scores, ids, t), dot = 0.0;
    if (spec->normalize) {
        for (int64_t j = 0; j < spec->top_k; j++) { dot += ref_get2(dweights, t, j) * ref_get2(weights, t, j); }
    }
    for (int64_t j = 0; j < spec->top_k; j++) {
        ds[ref_int2(ids, t, j)] += (factor * ref_get2(dweights, t, j) - dot) / sum;
    }
}

static void logit_gradient(const hd_router_spec *spec, const hd_tensor *scores, const double *ds, int64_t t,
                           hd_tensor *dlogits)
{
    int64_t experts = scores->shape[1];
    double dot = 0.0;
    for (int64_t e = 0; e < experts; e++) { dot += ds[e] * ref_get2(scores, t, e); }
    for (int64_t e = 0; e < experts; e++) {
        double s = ref_get2(scores, t, e);
        ref_put2(dlogits, t, e, spec->score_func == HD_SCORE_SOFTMAX ? s * (ds[e] - dot) : ds[e] * s * (1.0 - s));
    }
}

hd_status hd_ref_router_bwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *dweights, const hd_tensor *dscores,
                            const hd_tensor *scores, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *dlogits,
                            hd_err *err)
{
    int64_t experts = scores->shape[1];
    double *ds;
    hd_status st = hd_ref_scratch(ex, experts, &ds, err);
    if (st != HD_OK || ex->dry) { return st; }
    for (int64_t t = 0; t < scores->shape[0]; t++) {
        for (int64_t e = 0; e < experts; e++) { ds[e] = dscores != NULL ? ref_get2(dscores, t, e) : 0.0; }
        score_gradient(spec, dweights, scores, ids, weights, t, ds);
        logit_gradient(spec, scores, ds, t, dlogits);
    }
    return HD_OK;
}
