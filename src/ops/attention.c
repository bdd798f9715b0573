/* The MLA attention core: argument checks.  The definition is in ref/attention.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>
#include <math.h>

/* What forward and backward read alike. */
static void check_inputs(hd_check *c, const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope,
                         const hd_tensor *k_rope, const hd_tensor *v, const hd_tensor *segments)
{
    hd_check_in(c, "k_nope", k_nope, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY, HD_ANY));
    if (c->st != HD_OK) { return; }
    int64_t n = k_nope->shape[0], heads = k_nope->shape[1], nope = k_nope->shape[2];
    hd_check_that(c, shape->n_seq >= 0 && shape->seq_len >= 0 && shape->n_seq * shape->seq_len == n,
                  "k_nope has %" PRId64 " rows, want %" PRId64 " sequences of %" PRId64, n, shape->n_seq, shape->seq_len);
    hd_check_that(c, isfinite(shape->scale), "scale is %g", shape->scale);
    hd_check_that(c, shape->impl == HD_ATTENTION_DOT_PRODUCT || shape->impl == HD_ATTENTION_FLASH,
                  "implementation %d, want dot_product or flash", (int)shape->impl);
    hd_check_in(c, "k_rope", k_rope, HD_LIKE(k_nope), HD_SHAPE(n, HD_ANY));
    if (c->st != HD_OK) { return; }
    hd_check_in(c, "q", q, HD_LIKE(k_nope), HD_SHAPE(n, heads, nope + k_rope->shape[1]));
    hd_check_in(c, "v", v, HD_LIKE(k_nope), HD_SHAPE(n, heads, HD_ANY));
    hd_check_in(c, "segments", segments, HD_OP_I32, HD_SHAPE(n));
}

hd_status hd_attention_fwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope,
                           const hd_tensor *k_rope, const hd_tensor *v, const hd_tensor *segments, hd_tensor *o,
                           hd_tensor *lse, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "attention_fwd", err);
    check_inputs(&c, shape, q, k_nope, k_rope, v, segments);
    if (c.st != HD_OK) { return c.st; }
    hd_check_out(&c, "o", o, HD_LIKE(v), HD_SHAPE(v->shape[0], v->shape[1], v->shape[2]));
    hd_check_out(&c, "lse", lse, HD_OP_F32, HD_SHAPE(shape->n_seq, v->shape[1], shape->seq_len));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, attention_fwd, shape, q, k_nope, k_rope, v, segments, o, lse, err);
}

hd_status hd_attention_bwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *d_o, const hd_tensor *q,
                           const hd_tensor *k_nope, const hd_tensor *k_rope, const hd_tensor *v,
                           const hd_tensor *segments, const hd_tensor *o, const hd_tensor *lse, hd_tensor *dq,
                           hd_tensor *dk_nope, hd_tensor *dk_rope, hd_tensor *dv, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "attention_bwd", err);
    check_inputs(&c, shape, q, k_nope, k_rope, v, segments);
    if (c.st != HD_OK) { return c.st; }
    hd_check_in_shaped(&c, "d_o", d_o, HD_LIKE(v), v);
    hd_check_in_shaped(&c, "o", o, HD_LIKE(v), v);
    hd_check_in(&c, "lse", lse, HD_OP_F32, HD_SHAPE(shape->n_seq, v->shape[1], shape->seq_len));
    hd_check_out_shaped(&c, "dq", dq, HD_LIKE(q), q);
    hd_check_out_shaped(&c, "dk_nope", dk_nope, HD_LIKE(q), k_nope);
    hd_check_out_shaped(&c, "dk_rope", dk_rope, HD_LIKE(q), k_rope);
    hd_check_out_shaped(&c, "dv", dv, HD_LIKE(q), v);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, attention_bwd, shape, d_o, q, k_nope, k_rope, v, segments, o, lse, dq, dk_nope, dk_rope, dv,
                      err);
}
