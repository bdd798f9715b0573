/* Softmax of row prefixes:  y_j = exp(a (x_j - m)) / sum_k exp(a (x_k - m)),  m = max x. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_softmax_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *counts, int64_t group, double scale, hd_tensor *y,
                             hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < x->shape[0]; i++) {
        int64_t n = ref_int1(counts, i / group);
        double max = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j < n; j++) { max = ref_get2(x, i, j) > max ? ref_get2(x, i, j) : max; }
        for (int64_t j = 0; j < n; j++) { sum += exp(scale * (ref_get2(x, i, j) - max)); }
        for (int64_t j = 0; j < x->shape[1]; j++) {
            ref_put2(y, i, j, j < n ? exp(scale * (ref_get2(x, i, j) - max)) / sum : 0.0);
        }
    }
    return HD_OK;
}
