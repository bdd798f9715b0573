/* RoPE on adjacent pairs, in place.  With t the angle of pair j at the row's position:
 *   forward  (x0, x1) -> (x0 cos t - x1 sin t,  x0 sin t + x1 cos t)
 *   adjoint  the same with -t.  The attention factor is inside cos and sin, so it appears in both. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_rope(hd_exec *ex, const hd_tensor *positions, const hd_tensor *table, int direction, hd_tensor *x,
                      hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < x->shape[0]; i++) {
        int64_t p = ref_int1(positions, i);
        bool known = p >= 0 && p < table->shape[0]; /* a broken promise shows as NaN and reads nothing foreign */
        for (int64_t h = 0; h < x->shape[1]; h++) {
            for (int64_t j = 0; j < x->shape[2] / 2; j++) {
                double c = known ? ref_get3(table, p, j, 0) : (double)NAN;
                double s = known ? ref_get3(table, p, j, 1) * direction : (double)NAN;
                double x0 = ref_get3(x, i, h, 2 * j), x1 = ref_get3(x, i, h, 2 * j + 1);
                ref_put3(x, i, h, 2 * j, x0 * c - x1 * s);
                ref_put3(x, i, h, 2 * j + 1, x0 * s + x1 * c);
            }
        }
    }
    return HD_OK;
}
