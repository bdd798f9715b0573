/* Balance of experts: counts, three auxiliary losses, the loss-free bias update.
 *
 * Each loss is  coefficient * sum over sequences b and experts e of  load_be * mean_t share_te,  with
 *   V2        share = p,                        load = count / (T k / E)   (arXiv 2405.04434, seq_aux of its code)
 *   V3        share = s / sum_j s_j,            load = count E / (T k)     (arXiv 2412.19437 section 2.1.2)
 *   MaxText   share = softmax(s + b),           load = count / T, times E
 * and coefficient = weight alpha / B_total.  Counts are constants, so the gradient at share_te is
 * g_e = coefficient load_be / T, and at the scores
 *   V2        ds_e = g_e
 *   V3        ds_e = (g_e - sum_j g_j share_j) / sum_j s_j
 *   MaxText   ds_e = share_e (g_e - sum_j g_j share_j). */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_expert_count(hd_exec *ex, const hd_tensor *ids, const hd_tensor *segments, hd_tensor *counts, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        if (segments != NULL && ref_int1(segments, t) == 0) { continue; }
        for (int64_t j = 0; j < ids->shape[1]; j++) { ref_into(counts, ref_at1(counts, ref_int2(ids, t, j)), HD_ADD, 1.0); }
    }
    return HD_OK;
}

/* share_te of one token; returns what V3's shares were divided by. */
static double token_shares(hd_balance_rule rule, const hd_tensor *scores, const hd_tensor *bias, int64_t t, double *share)
{
    int64_t experts = scores->shape[1];
    double sum = 0.0, max = -INFINITY;
    for (int64_t e = 0; e < experts; e++) {
        share[e] = ref_get2(scores, t, e) + (rule == HD_BALANCE_MAXTEXT && bias != NULL ? ref_get1(bias, e) : 0.0);
        if (share[e] > max) { max = share[e]; }
    }
    if (rule == HD_BALANCE_V2) { return 1.0; }
    for (int64_t e = 0; e < experts; e++) {
        if (rule == HD_BALANCE_MAXTEXT) { share[e] = exp(share[e] - max); }
        sum += share[e];
    }
    for (int64_t e = 0; e < experts; e++) { share[e] /= sum; }
    return sum;
}

/* load_be of the sequence that begins at token `begin`. */
static void sequence_load(const hd_balance_spec *spec, const hd_tensor *ids, int64_t begin, int64_t experts, double *load)
{
    double tokens = (double)spec->seq_len, n_expert = (double)experts;
    for (int64_t e = 0; e < experts; e++) { load[e] = 0.0; }
    for (int64_t t = begin; t < begin + spec->seq_len; t++) {
        for (int64_t j = 0; j < spec->top_k; j++) { load[ref_int2(ids, t, j)] += 1.0; }
    }
    double per_claim = spec->rule == HD_BALANCE_MAXTEXT ? n_expert / tokens : n_expert / (tokens * (double)spec->top_k);
    for (int64_t e = 0; e < experts; e++) { load[e] *= per_claim; }
}

/* The token's part of the loss, and its gradient at the scores. */
static double token_loss(const hd_balance_spec *spec, const hd_tensor *scores, const hd_tensor *bias, int64_t t,
                         const double *load, double *share, hd_tensor *dscores)
{
    double scale = spec->weight * spec->alpha / ((double)spec->n_seq_total * (double)spec->seq_len);
    double divisor = token_shares(spec->rule, scores, bias, t, share), dot = 0.0;
    for (int64_t e = 0; e < scores->shape[1]; e++) { dot += scale * load[e] * share[e]; }
    for (int64_t e = 0; e < scores->shape[1]; e++) {
        double g = scale * load[e];
        switch (spec->rule) {
        case HD_BALANCE_V2: ref_put2(dscores, t, e, g); break;
        case HD_BALANCE_V3: ref_put2(dscores, t, e, (g - dot) / divisor); break;
        case HD_BALANCE_MAXTEXT: ref_put2(dscores, t, e, share[e] * (g - dot)); break;
        }
    }
    return dot;
}

hd_status hd_ref_balance_loss(hd_exec *ex, const hd_balance_spec *spec, const hd_tensor *scores, const hd_tensor *bias,
                              const hd_tensor *ids, hd_tensor *loss, hd_tensor *dscores, hd_err *err)
{
    int64_t experts = scores->shape[1];
    double *load, total = 0.0;
    hd_status st = hd_ref_scratch(ex, 2 * experts, &load, err);
    if (st != HD_OK || ex->dry) { return st; }
    for (int64_t t = 0; t < scores->shape[0]; t++) {
        if (t % spec->seq_len == 0) { sequence_load(spec, ids, t, experts, load); }
        total += token_loss(spec, scores, bias, t, load, load + experts, dscores);
    }
    ref_into(loss, 0, HD_ADD, total);
    return HD_OK;
}

/* b_e += rate * sign(mean(counts) - counts_e) */
hd_status hd_ref_router_bias_update(hd_exec *ex, const hd_tensor *counts, double rate, const hd_tensor *control, hd_tensor *bias,
                                    hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    if (control != NULL && ref_get1(control, HD_CONTROL_APPLY) == 0.0) { return HD_OK; }
    int64_t experts = counts->shape[0];
    double sum = 0.0;
    for (int64_t e = 0; e < experts; e++) { sum += ref_get1(counts, e); }
    for (int64_t e = 0; e < experts; e++) {
        double gap = sum / (double)experts - ref_get1(counts, e);
        ref_into(bias, ref_at1(bias, e), HD_ADD, gap > 0.0 ? rate : gap < 0.0 ? -rate : 0.0);
    }
    return HD_OK;
}
