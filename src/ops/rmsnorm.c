/* RMSNorm: argument checks.  The definition is in ref/rmsnorm.c, the contract in ops.h. */
#include "ops/check.h"

hd_status hd_rmsnorm_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y, hd_tensor *rstd,
                         hd_err *err)
{
    hd_check c = hd_check_begin(ex, "rmsnorm_fwd", err);
    hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_weight(&c, w, HD_SHAPE(x->shape[1]));
    hd_check_that(&c, eps >= 0.0, "eps is %g, want at least 0", eps);
    hd_check_out(&c, "y", y, HD_LIKE(x), HD_SHAPE(x->shape[0], x->shape[1]));
    if (rstd != NULL) { hd_check_out(&c, "rstd", rstd, HD_OP_F32, HD_SHAPE(x->shape[0])); }
    hd_check_may_alias(&c, "y", "x");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, rmsnorm_fwd, x, w, eps, y, rstd, err);
}

hd_status hd_rmsnorm_bwd(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, hd_weight *w,
                         hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "rmsnorm_bwd", err);
    hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "dy", dy, HD_LIKE(x), HD_SHAPE(x->shape[0], x->shape[1]));
    hd_check_in(&c, "rstd", rstd, HD_OP_F32, HD_SHAPE(x->shape[0]));
    hd_check_weight(&c, w, HD_SHAPE(x->shape[1]));
    if (c.st == HD_OK && w->grad.n_dim != 0) { hd_check_weight_grad(&c, w); }
    hd_check_out(&c, "dx", dx, HD_LIKE(x), HD_SHAPE(x->shape[0], x->shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND_GRAD(ex, rmsnorm_bwd, w, dy, x, rstd, w, dx_accum, dx, err);
}
