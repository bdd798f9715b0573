/* RoPE: argument checks.  The definition is in ref/rope.c, the angles come from rope_table.c, the contract is in ops.h. */
#include "ops/check.h"

#include <inttypes.h>

hd_status hd_rope(hd_exec *ex, const hd_tensor *positions, const hd_tensor *table, int direction, hd_tensor *x, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "rope", err);
    hd_check_out(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_that(&c, x->shape[2] % 2 == 0, "rows of x are %" PRId64 " wide, want pairs", x->shape[2]);
    hd_check_that(&c, direction == 1 || direction == -1, "direction is %d, want +1 or -1", direction);
    hd_check_in(&c, "positions", positions, HD_OP_I32, HD_SHAPE(x->shape[0]));
    hd_check_in(&c, "table", table, HD_OP_F32, HD_SHAPE(HD_ANY, x->shape[2] / 2, 2));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, rope, positions, table, direction, x, err);
}
