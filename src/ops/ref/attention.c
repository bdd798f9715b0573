/* The MLA attention core, expanded form.  DeepSeek-V2 (arXiv 2405.04434) section 2.1, adjoint as in
 * Dao 2023 (arXiv 2307.08691):
 *   s_ij = a (q_i[:n] . k_nope_j + q_i[n:] . k_rope_j),  j <= i, same sequence and segment
 *   p_ij = exp(s_ij - L_i),  L_i = ln sum_j exp(s_ij),   o_i = sum_j p_ij v_j
 *   dv_j = sum_i p_ij do_i
 *   ds_ij = p_ij (do_i . v_j - delta_i),  delta_i = do_i . o_i
 *   dq_i = a sum_j ds_ij k_j,   dk_j = a sum_i ds_ij q_i,   dk_rope summed over heads. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

typedef struct core {
    const hd_attention_shape *shape;
    const hd_tensor *q, *k_nope, *k_rope, *v, *segments;
    int64_t heads, nope, rope, v_dim;
} core;

static core core_of(const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope, const hd_tensor *k_rope,
                    const hd_tensor *v, const hd_tensor *segments)
{
    return (core){shape, q, k_nope, k_rope, v, segments, v->shape[1], k_nope->shape[2], k_rope->shape[1], v->shape[2]};
}

/* Rows i and j are token indices over all sequences of the call; `sequence_begin(i)` is the first token of i's. */
static int64_t sequence_begin(const core *c, int64_t i)
{
    return i - i % c->shape->seq_len;
}

static bool sees(const core *c, int64_t i, int64_t j)
{
    return j >= sequence_begin(c, i) && j <= i && ref_int1(c->segments, i) == ref_int1(c->segments, j);
}

static double score(const core *c, int64_t h, int64_t i, int64_t j)
{
    double sum = 0.0;
    for (int64_t d = 0; d < c->nope; d++) { sum += ref_get3(c->q, i, h, d) * ref_get3(c->k_nope, j, h, d); }
    for (int64_t d = 0; d < c->rope; d++) { sum += ref_get3(c->q, i, h, c->nope + d) * ref_get2(c->k_rope, j, d); }
    return c->shape->scale * sum;
}

/* ---- forward ---------------------------------------------------------------------------------------------------------- */

/* p[j - first] for the keys j = first .. i; returns ln sum_j exp(s_ij). */
static double softmax_row(const core *c, int64_t h, int64_t i, double *p)
{
    int64_t first = sequence_begin(c, i);
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = first; j <= i; j++) {
        p[j - first] = sees(c, i, j) ? score(c, h, i, j) : -INFINITY;
        if (p[j - first] > max) { max = p[j - first]; }
    }
    for (int64_t j = first; j <= i; j++) {
        p[j - first] = sees(c, i, j) ? exp(p[j - first] - max) : 0.0;
        sum += p[j - first];
    }
    for (int64_t j = first; j <= i; j++) { p[j - first] /= sum; }
    return max + log(sum);
}

hd_status hd_ref_attention_fwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope,
                               const hd_tensor *k_rope, const hd_tensor *v, const hd_tensor *segments, hd_tensor *o,
                               hd_tensor *lse, hd_err *err)
{
    core c = core_of(shape, q, k_nope, k_rope, v, segments);
    double *p;
    hd_status st = hd_ref_scratch(ex, shape->seq_len, &p, err);
    if (st != HD_OK || ex->dry) { return st; }
    for (int64_t h = 0; h < c.heads; h++) {
        for (int64_t i = 0; i < q->shape[0]; i++) {
            int64_t first = sequence_begin(&c, i);
            ref_put3(lse, i / shape->seq_len, h, i % shape->seq_len, softmax_row(&c, h, i, p));
            for (int64_t d = 0; d < c.v_dim; d++) {
                double sum = 0.0;
                for (int64_t j = first; j <= i; j++) {
                    if (sees(&c, i, j)) { sum += p[j - first] * ref_get3(v, j, h, d); }
                }
                ref_put3(o, i, h, d, sum);
            }
        }
    }
    return HD_OK;
}

/* ---- backward --------------------------------------------------------------------------------------------------------- */

typedef struct adjoint { core c; const hd_tensor *d_o, *o, *lse; } adjoint;

static double probability(const adjoint *a, int64_t h, int64_t i, int64_t j)
{
    int64_t seq_len = a->c.shape->seq_len;
    return exp(score(&a->c, h, i, j) - ref_get3(a->lse, i / seq_len, h, i % seq_len));
}

/* a ds_ij = a p_ij (do_i . v_j - do_i . o_i) */
static double score_gradient(const adjoint *a, int64_t h, int64_t i, int64_t j)
{
    double dp = 0.0, delta = 0.0;
    for (int64_t d = 0; d < a->c.v_dim; d++) {
        dp += ref_get3(a->d_o, i, h, d) * ref_get3(a->c.v, j, h, d);
        delta += ref_get3(a->d_o, i, h, d) * ref_get3(a->o, i, h, d);
    }
    return a->c.shape->scale * probability(a, h, i, j) * (dp - delta);
}

static void query_gradient(const adjoint *a, int64_t h, int64_t i, double *sum, hd_tensor *dq)
{
    const core *c = &a->c;
    for (int64_t d = 0; d < c->nope + c->rope; d++) { sum[d] = 0.0; }
    for (int64_t j = sequence_begin(c, i); j <= i; j++) {
        if (!sees(c, i, j)) { continue; }
        double ds = score_gradient(a, h, i, j);
        for (int64_t d = 0; d < c->nope; d++) { sum[d] += ds * ref_get3(c->k_nope, j, h, d); }
        for (int64_t d = 0; d < c->rope; d++) { sum[c->nope + d] += ds * ref_get2(c->k_rope, j, d); }
    }
    for (int64_t d = 0; d < c->nope + c->rope; d++) { ref_put3(dq, i, h, d, sum[d]); }
}

/* Writes dk_nope and dv of one head and key; adds the head's share to sum_rope. */
static void key_gradient(const adjoint *a, int64_t h, int64_t j, double *sum_nope, double *sum_rope, double *sum_v,
                         hd_tensor *dk_nope, hd_tensor *dv)
{
    const core *c = &a->c;
    int64_t end = sequence_begin(c, j) + c->shape->seq_len;
    for (int64_t d = 0; d < c->nope; d++) { sum_nope[d] = 0.0; }
    for (int64_t d = 0; d < c->v_dim; d++) { sum_v[d] = 0.0; }
    for (int64_t i = j; i < end; i++) {
        if (!sees(c, i, j)) { continue; }
        double p = probability(a, h, i, j), ds = score_gradient(a, h, i, j);
        for (int64_t d = 0; d < c->v_dim; d++) { sum_v[d] += p * ref_get3(a->d_o, i, h, d); }
        for (int64_t d = 0; d < c->nope; d++) { sum_nope[d] += ds * ref_get3(c->q, i, h, d); }
        for (int64_t d = 0; d < c->rope; d++) { sum_rope[d] += ds * ref_get3(c->q, i, h, c->nope + d); }
    }
    for (int64_t d = 0; d < c->nope; d++) { ref_put3(dk_nope, j, h, d, sum_nope[d]); }
    for (int64_t d = 0; d < c->v_dim; d++) { ref_put3(dv, j, h, d, sum_v[d]); }
}

hd_status hd_ref_attention_bwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *d_o, const hd_tensor *q,
                               const hd_tensor *k_nope, const hd_tensor *k_rope, const hd_tensor *v,
                               const hd_tensor *segments, const hd_tensor *o, const hd_tensor *lse, hd_tensor *dq,
                               hd_tensor *dk_nope, hd_tensor *dk_rope, hd_tensor *dv, hd_err *err)
{
    adjoint a = {core_of(shape, q, k_nope, k_rope, v, segments), d_o, o, lse};
    double *sum;
    hd_status st = hd_ref_scratch(ex, a.c.nope + a.c.rope + a.c.v_dim, &sum, err);
    if (st != HD_OK || ex->dry) { return st; }
    double *sum_rope = sum + a.c.nope, *sum_v = sum_rope + a.c.rope;
    for (int64_t t = 0; t < q->shape[0]; t++) {
        for (int64_t h = 0; h < a.c.heads; h++) { query_gradient(&a, h, t, sum, dq); }
        for (int64_t d = 0; d < a.c.rope; d++) { sum_rope[d] = 0.0; }
        for (int64_t h = 0; h < a.c.heads; h++) { key_gradient(&a, h, t, sum, sum_rope, sum_v, dk_nope, dv); }
        for (int64_t d = 0; d < a.c.rope; d++) { ref_put2(dk_rope, t, d, sum_rope[d]); }
    }
    return HD_OK;
}
