/* RMSNorm, Zhang & Sennrich 2019 (arXiv 1910.07467):  y = w * x * rho,  rho = (mean x^2 + eps)^(-1/2). */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_rmsnorm_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y,
                             hd_tensor *rstd, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    int64_t width = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        double sum = 0.0;
        for (int64_t d = 0; d < width; d++) { sum += ref_get2(x, i, d) * ref_get2(x, i, d); }
        double rho = 1.0 / sqrt(sum / (double)width + eps);
        if (rstd != NULL) { ref_put1(rstd, i, rho); }
        for (int64_t d = 0; d < width; d++) {
            double normalised = ref_round(x->dtype, ref_get2(x, i, d) * rho); /* HuggingFace casts before the product */
            ref_put2(y, i, d, ref_get1(&w->value, d) * normalised);
        }
    }
    return HD_OK;
}

/* With g = dy * w:   dx = rho (g - x rho^2 mean(g x)). */
static void input_gradient(const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, const hd_tensor *w,
                           hd_accum dx_accum, hd_tensor *dx)
{
    int64_t width = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        double rho = ref_get1(rstd, i), dot = 0.0;
        for (int64_t d = 0; d < width; d++) { dot += ref_get2(dy, i, d) * ref_get1(w, d) * ref_get2(x, i, d); }
        double mean = dot / (double)width;
        for (int64_t d = 0; d < width; d++) {
            double g = ref_get2(dy, i, d) * ref_get1(w, d);
            ref_into2(dx, i, d, dx_accum, rho * (g - ref_get2(x, i, d) * rho * rho * mean));
        }
    }
}

/* dw = sum over rows of dy x rho. */
static void weight_gradient(const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, hd_weight *w)
{
    for (int64_t d = 0; d < x->shape[1]; d++) {
        double sum = 0.0;
        for (int64_t i = 0; i < x->shape[0]; i++) { sum += ref_get2(dy, i, d) * ref_get2(x, i, d) * ref_get1(rstd, i); }
        ref_into(&w->grad, ref_at1(&w->grad, d), w->grad_accum, sum);
    }
}

hd_status hd_ref_rmsnorm_bwd(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, hd_weight *w,
                             hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    input_gradient(dy, x, rstd, &w->value, dx_accum, dx);
    if (w->grad.n_dim != 0) { weight_gradient(dy, x, rstd, w); }
    return HD_OK;
}
