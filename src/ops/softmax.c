/* Softmax of row prefixes: argument checks.  The definition is in ref/softmax.c, the contract in ops.h. */
#include "ops/check.h"

hd_status hd_softmax_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *counts, int64_t group, double scale, hd_tensor *y,
                         hd_err *err)
{
    hd_check c = hd_check_begin(ex, "softmax_fwd", err);
    hd_check_in(&c, "x", x, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_that(&c, group > 0 && x->shape[0] % group == 0, "x has %lld rows, want a multiple of %lld", (long long)x->shape[0], (long long)group);
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "counts", counts, HD_OP_I32, HD_SHAPE(x->shape[0] / group));
    hd_check_that(&c, scale > 0.0, "scale is %g, want above 0", scale);
    hd_check_out(&c, "y", y, HD_OP_F32, HD_SHAPE(x->shape[0], x->shape[1]));
    hd_check_may_alias(&c, "y", "x");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, softmax_fwd, x, counts, group, scale, y, err);
}
