/* Dispatch of tokens to experts and combination of what comes back.
 *
 * A claim is a pair (token t, slot j), numbered t * k + j.  Routed rows are the claims sorted by expert, in claim order
 * within an expert.  With a capacity C an expert keeps the first C claims of each sequence; the others are dropped:
 * they get no row, their weight counts as 0 and the remaining weights are not renormalised. */
#include "ops/ref/element.h"
#include "ops/ref/ref.h"

/* ---- dispatch ---------------------------------------------------------------------------------------------------------- */

/* Gives the next rows to the kept claims of expert e; returns the row after its last. */
static int64_t place_expert(const hd_dispatch_spec *spec, const hd_tensor *ids, int64_t e, int64_t row, hd_tensor *claim,
                            hd_tensor *row_of)
{
    int64_t in_sequence = 0;
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        if (spec->capacity > 0 && t % spec->seq_len == 0) { in_sequence = 0; }
        for (int64_t j = 0; j < spec->top_k; j++) {
            if (ref_int2(ids, t, j) != e) { continue; }
            if (spec->capacity > 0 && in_sequence++ >= spec->capacity) { continue; }
            ref_put1(claim, row, (double)(t * spec->top_k + j));
            ref_put2(row_of, t, j, (double)row);
            row++;
        }
    }
    return row;
}

hd_status hd_ref_moe_dispatch(hd_exec *ex, const hd_dispatch_spec *spec, const hd_tensor *ids, hd_tensor *claim,
                              hd_tensor *offsets, hd_tensor *row_of, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        for (int64_t j = 0; j < spec->top_k; j++) { ref_put2(row_of, t, j, -1.0); }
    }
    int64_t row = 0;
    ref_put1(offsets, 0, 0.0);
    for (int64_t e = 0; e < spec->n_expert; e++) {
        row = place_expert(spec, ids, e, row, claim, row_of);
        ref_put1(offsets, e + 1, (double)row);
    }
    for (; row < claim->shape[0]; row++) { ref_put1(claim, row, -1.0); }
    return HD_OK;
}

/* Rows that have a claim: the last offset. */
static int64_t n_routed(const hd_tensor *offsets)
{
    return ref_int1(offsets, offsets->shape[0] - 1);
}

/* ---- rows:  xs_r = x_t,  x_t = sum_j xs_row(t,j) ------------------------------------------------------------------------ */

hd_status hd_ref_moe_gather(hd_exec *ex, const hd_tensor *x, const hd_tensor *claim, const hd_tensor *offsets,
                            int64_t top_k, hd_tensor *xs, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t r = 0; r < n_routed(offsets); r++) {
        int64_t t = ref_int1(claim, r) / top_k;
        for (int64_t d = 0; d < x->shape[1]; d++) { ref_put2(xs, r, d, ref_get2(x, t, d)); }
    }
    return HD_OK;
}

/* sum_j weights_tj ys_row(t,j), or the unweighted sum when weights is NULL, over claims that were kept. */
static double sum_of_claims(const hd_tensor *ys, const hd_tensor *row_of, const hd_tensor *weights, int64_t t, int64_t d)
{
    double sum = 0.0;
    for (int64_t j = 0; j < row_of->shape[1]; j++) {
        int64_t row = ref_int2(row_of, t, j);
        if (row < 0) { continue; }
        sum += (weights != NULL ? ref_get2(weights, t, j) : 1.0) * ref_get2(ys, row, d);
    }
    return sum;
}

hd_status hd_ref_moe_scatter(hd_exec *ex, const hd_tensor *xs, const hd_tensor *row_of, hd_accum x_accum, hd_tensor *x,
                             hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < x->shape[0]; t++) {
        for (int64_t d = 0; d < x->shape[1]; d++) { ref_into2(x, t, d, x_accum, sum_of_claims(xs, row_of, NULL, t, d)); }
    }
    return HD_OK;
}

hd_status hd_ref_moe_combine(hd_exec *ex, const hd_tensor *ys, const hd_tensor *row_of, const hd_tensor *weights,
                             hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < y->shape[0]; t++) {
        for (int64_t d = 0; d < y->shape[1]; d++) {
            ref_into2(y, t, d, y_accum, sum_of_claims(ys, row_of, weights, t, d));
        }
    }
    return HD_OK;
}

/* ---- weights in row order and back -------------------------------------------------------------------------------------- */

hd_status hd_ref_moe_permute_weights(hd_exec *ex, const hd_tensor *weights, const hd_tensor *claim,
                                     const hd_tensor *offsets, hd_tensor *ws, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    int64_t top_k = weights->shape[1];
    for (int64_t r = 0; r < n_routed(offsets); r++) {
        int64_t number = ref_int1(claim, r);
        ref_put1(ws, r, ref_get2(weights, number / top_k, number % top_k));
    }
    return HD_OK;
}

hd_status hd_ref_moe_unpermute_weights(hd_exec *ex, const hd_tensor *dws, const hd_tensor *row_of, hd_tensor *dweights,
                                       hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < dweights->shape[0]; t++) {
        for (int64_t j = 0; j < dweights->shape[1]; j++) {
            int64_t row = ref_int2(row_of, t, j);
            ref_put2(dweights, t, j, row >= 0 ? ref_get1(dws, row) : 0.0);
        }
    }
    return HD_OK;
}

/* ---- dense strategy: every expert sees every token, with weight 0 where it was not chosen ------------------------------- */

hd_status hd_ref_moe_expand_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *w_full,
                                    hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < w_full->shape[0]; t++) {
        for (int64_t e = 0; e < w_full->shape[1]; e++) { ref_put2(w_full, t, e, 0.0); }
        for (int64_t j = 0; j < ids->shape[1]; j++) { ref_put2(w_full, t, ref_int2(ids, t, j), ref_get2(weights, t, j)); }
    }
    return HD_OK;
}

hd_status hd_ref_moe_collect_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dw_full, hd_tensor *dweights,
                                     hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < dweights->shape[0]; t++) {
        for (int64_t j = 0; j < dweights->shape[1]; j++) {
            ref_put2(dweights, t, j, ref_get2(dw_full, t, ref_int2(ids, t, j)));
        }
    }
    return HD_OK;
}

hd_status hd_ref_scale_rows(hd_exec *ex, const hd_tensor *x, const hd_tensor *w, hd_accum y_accum, hd_tensor *y,
                            hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < x->shape[0]; t++) {
        for (int64_t d = 0; d < x->shape[1]; d++) { ref_into2(y, t, d, y_accum, ref_get1(w, t) * ref_get2(x, t, d)); }
    }
    return HD_OK;
}
