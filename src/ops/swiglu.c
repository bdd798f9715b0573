/* SwiGLU and its adjoint inside a weighted expert: argument checks.  The definition is in ref/swiglu.c, the contract in
 * ops.h. */
#include "ops/check.h"

hd_status hd_swiglu_fwd(hd_exec *ex, const hd_tensor *g, const hd_tensor *u, const hd_tensor *n_rows, hd_tensor *h,
                        hd_err *err)
{
    hd_check c = hd_check_begin(ex, "swiglu_fwd", err);
    hd_check_in(&c, "g", g, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "u", u, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    if (n_rows != NULL) { hd_check_in(&c, "n_rows", n_rows, HD_OP_I32, HD_SHAPE(1)); }
    hd_check_out(&c, "h", h, HD_OP_ACT, HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_may_alias(&c, "h", "g");
    hd_check_may_alias(&c, "h", "u");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, swiglu_fwd, g, u, n_rows, h, err);
}

hd_status hd_swiglu_bwd(hd_exec *ex, const hd_tensor *dh, const hd_tensor *g, const hd_tensor *u, hd_tensor *dg,
                        hd_tensor *du, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "swiglu_bwd", err);
    hd_check_in(&c, "g", g, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "u", u, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_in(&c, "dh", dh, HD_OP_ACT, HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_out(&c, "dg", dg, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_out(&c, "du", du, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_may_alias(&c, "dg", "g");
    hd_check_may_alias(&c, "dg", "u");
    hd_check_may_alias(&c, "du", "u");
    hd_check_may_alias(&c, "du", "g");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, swiglu_bwd, dh, g, u, dg, du, err);
}

hd_status hd_moe_swiglu_bwd(hd_exec *ex, const hd_tensor *q, const hd_tensor *g, const hd_tensor *u, const hd_tensor *w,
                            const hd_tensor *n_rows, hd_tensor *dg, hd_tensor *du, hd_tensor *hw, hd_tensor *dw,
                            hd_err *err)
{
    hd_check c = hd_check_begin(ex, "moe_swiglu_bwd", err);
    hd_check_in(&c, "g", g, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "u", u, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_in(&c, "q", q, HD_OP_ACT, HD_SHAPE(g->shape[0], g->shape[1]));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "w", w, HD_OP_F32, HD_SHAPE(g->shape[0]));
    if (n_rows != NULL) { hd_check_in(&c, "n_rows", n_rows, HD_OP_I32, HD_SHAPE(1)); }
    hd_check_out(&c, "dg", dg, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_out(&c, "du", du, HD_LIKE(g), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_out(&c, "hw", hw, HD_LIKE(q), HD_SHAPE(g->shape[0], g->shape[1]));
    hd_check_out(&c, "dw", dw, HD_OP_F32, HD_SHAPE(g->shape[0]));
    hd_check_may_alias(&c, "dg", "g");
    hd_check_may_alias(&c, "du", "u");
    hd_check_may_alias(&c, "hw", "q");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, moe_swiglu_bwd, q, g, u, w, n_rows, dg, du, hw, dw, err);
}
