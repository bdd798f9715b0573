/* Embedding:  y_i = W[ids_i];   dW_v = sum over i with ids_i = v of dy_i. */
#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_embedding_fwd(hd_exec *ex, const hd_tensor *ids, const hd_weight *w, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < y->shape[0]; i++) {
        int64_t v = ref_int1(ids, i);
        bool known = v >= 0 && v < w->value.shape[0];
        for (int64_t d = 0; d < y->shape[1]; d++) { ref_put2(y, i, d, known ? ref_get2(&w->value, v, d) : 0.0); }
    }
    return HD_OK;
}

hd_status hd_ref_embedding_bwd(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dy, hd_weight *w, hd_err *err)
{
    int64_t n = dy->shape[0], width = dy->shape[1];
    double *sum;
    hd_status st = hd_ref_scratch(ex, width, &sum, err);
    if (st != HD_OK || ex->dry) { return st; }
    for (int64_t v = 0; v < w->value.shape[0]; v++) {
        for (int64_t d = 0; d < width; d++) { sum[d] = 0.0; }
        for (int64_t i = 0; i < n; i++) {
            if (ref_int1(ids, i) != v) { continue; }
            for (int64_t d = 0; d < width; d++) { sum[d] += ref_get2(dy, i, d); }
        }
        for (int64_t d = 0; d < width; d++) { ref_into2(&w->grad, v, d, w->grad_accum, sum[d]); }
    }
    return HD_OK;
}
