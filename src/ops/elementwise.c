/* Elementwise ops: argument checks.  The definition is in ref/elementwise.c, the contract in ops.h. */
#include "ops/check.h"

hd_status hd_add(hd_exec *ex, const hd_tensor *a, const hd_tensor *b, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "add", err);
    hd_check_in_any(&c, "a", a, HD_OP_ACT);
    hd_check_in_shaped(&c, "b", b, HD_OP_ACT, a);
    hd_check_out_shaped(&c, "y", y, HD_OP_ACT, a);
    hd_check_may_alias(&c, "y", "a");
    hd_check_may_alias(&c, "y", "b");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, add, a, b, y, err);
}

hd_status hd_copy(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "copy", err);
    hd_check_in_any(&c, "x", x, HD_OP_ACT);
    hd_check_out_shaped(&c, "y", y, HD_OP_ACT, x);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, copy, x, y, err);
}

hd_status hd_fill(hd_exec *ex, double value, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "fill", err);
    hd_check_out_any(&c, "y", y, HD_OP_ACT | HD_OP_F64 | HD_OP_I32);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, fill, value, y, err);
}
