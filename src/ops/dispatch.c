/* Dispatch of tokens to experts and combination of what comes back: argument checks.  The definition is in
 * ref/dispatch.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>

hd_status hd_moe_dispatch(hd_exec *ex, const hd_dispatch_spec *spec, const hd_tensor *ids, hd_tensor *claim,
                          hd_tensor *offsets, hd_tensor *row_of, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_dispatch", err);
    hd_check_that(&c, spec->n_expert >= 1 && spec->top_k >= 1, "%" PRId64 " experts, top_k %" PRId64 ", want 1 or more",
                  spec->n_expert, spec->top_k);
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY, spec->top_k));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = ids->shape[0];
    hd_check_that(&c, n <= INT32_MAX / spec->top_k, "%" PRId64 " tokens times %" PRId64 " do not fit 32 bits", n,
                  spec->top_k);
    hd_check_that(&c, spec->capacity >= 0, "capacity is %" PRId64 ", want 0 (none) or more", spec->capacity);
    hd_check_that(&c, spec->capacity == 0 || (spec->seq_len >= 1 && n % spec->seq_len == 0),
                  "%" PRId64 " tokens, want whole sequences of %" PRId64, n, spec->seq_len);
    hd_check_out(&c, "claim", claim, HD_OP_I32, HD_SHAPE(n * spec->top_k));
    hd_check_out(&c, "offsets", offsets, HD_OP_I32, HD_SHAPE(spec->n_expert + 1));
    hd_check_out(&c, "row_of", row_of, HD_OP_I32, HD_SHAPE(n, spec->top_k));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_dispatch, spec, ids, claim, offsets, row_of, err);
}

hd_status hd_moe_gather(hd_exec *ex, const hd_tensor *x, const hd_tensor *claim, const hd_tensor *offsets, int64_t top_k,
                        hd_tensor *xs, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_gather", err);
    hd_check_that(&c, top_k >= 1, "top_k is %" PRId64 ", want 1 or more", top_k);
    hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "claim", claim, HD_OP_I32, HD_SHAPE(x->shape[0] * top_k));
    hd_check_in(&c, "offsets", offsets, HD_OP_I32, HD_SHAPE(HD_ANY));
    hd_check_that(&c, c.st != HD_OK || offsets->shape[0] >= 1, "offsets are empty");
    hd_check_out(&c, "xs", xs, HD_LIKE(x), HD_SHAPE(x->shape[0] * top_k, x->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_gather, x, claim, offsets, top_k, xs, err);
}

hd_status hd_moe_scatter(hd_exec *ex, const hd_tensor *xs, const hd_tensor *row_of, hd_accum x_accum, hd_tensor *x,
                         hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_scatter", err);
    hd_check_in(&c, "row_of", row_of, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "xs", xs, HD_OP_ACT, HD_SHAPE(row_of->shape[0] * row_of->shape[1], HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_out(&c, "x", x, HD_LIKE(xs), HD_SHAPE(row_of->shape[0], xs->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_scatter, xs, row_of, x_accum, x, err);
}

hd_status hd_moe_permute_weights(hd_exec *ex, const hd_tensor *weights, const hd_tensor *claim, const hd_tensor *offsets,
                                 hd_tensor *ws, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_permute_weights", err);
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t rows = weights->shape[0] * weights->shape[1];
    hd_check_in(&c, "claim", claim, HD_OP_I32, HD_SHAPE(rows));
    hd_check_in(&c, "offsets", offsets, HD_OP_I32, HD_SHAPE(HD_ANY));
    hd_check_that(&c, c.st != HD_OK || offsets->shape[0] >= 1, "offsets are empty");
    hd_check_out(&c, "ws", ws, HD_OP_F32, HD_SHAPE(rows));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_permute_weights, weights, claim, offsets, ws, err);
}

hd_status hd_moe_unpermute_weights(hd_exec *ex, const hd_tensor *dws, const hd_tensor *row_of, hd_tensor *dweights,
                                   hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_unpermute_weights", err);
    hd_check_in(&c, "row_of", row_of, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "dws", dws, HD_OP_F32, HD_SHAPE(row_of->shape[0] * row_of->shape[1]));
    hd_check_out(&c, "dweights", dweights, HD_OP_F32, HD_SHAPE(row_of->shape[0], row_of->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_unpermute_weights, dws, row_of, dweights, err);
}

hd_status hd_moe_combine(hd_exec *ex, const hd_tensor *ys, const hd_tensor *row_of, const hd_tensor *weights,
                         hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_combine", err);
    hd_check_in(&c, "row_of", row_of, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "ys", ys, HD_OP_ACT, HD_SHAPE(row_of->shape[0] * row_of->shape[1], HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(row_of->shape[0], row_of->shape[1]));
    hd_check_out(&c, "y", y, HD_LIKE(ys), HD_SHAPE(row_of->shape[0], ys->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_combine, ys, row_of, weights, y_accum, y, err);
}

hd_status hd_moe_expand_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *w_full,
                                hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_expand_weights", err);
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(ids->shape[0], ids->shape[1]));
    hd_check_out(&c, "w_full", w_full, HD_OP_F32, HD_SHAPE(ids->shape[0], HD_ANY));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_expand_weights, ids, weights, w_full, err);
}

hd_status hd_moe_collect_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dw_full, hd_tensor *dweights,
                                 hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_collect_weights", err);
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "dw_full", dw_full, HD_OP_F32, HD_SHAPE(ids->shape[0], HD_ANY));
    hd_check_out(&c, "dweights", dweights, HD_OP_F32, HD_SHAPE(ids->shape[0], ids->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_collect_weights, ids, dw_full, dweights, err);
}

hd_status hd_scale_rows(hd_exec *ex, const hd_tensor *x, const hd_tensor *w, hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "scale_rows", err);
    hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in_column(&c, "w", w, HD_OP_F32, x->shape[0]);
    hd_check_out(&c, "y", y, HD_LIKE(x), HD_SHAPE(x->shape[0], x->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, scale_rows, x, w, y_accum, y, err);
}
