/* Cross-entropy with z-loss, in vocabulary chunks.  With L = ln sum_v exp(z_v):
 *   loss = w (L - z_y) + w zeta L^2
 *   dz   = (softmax(z) (1 + 2 zeta L) - onehot_y) w scale.
 * A chunk contributes (max, sum of exp(z - max), target logit); chunks merge by rescaling both sums to the larger max. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

/* exp(a - b) for a <= b, and 1 for two equal infinities; NaN stays NaN. */
static double exp_difference(double a, double b)
{
    return a == b ? 1.0 : exp(a - b);
}

hd_status hd_ref_xent_partial(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                              hd_tensor *max, hd_tensor *sum, hd_tensor *target_logit, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    int64_t columns = logits->shape[1];
    for (int64_t i = 0; i < logits->shape[0]; i++) {
        int64_t y = ref_int1(targets, i) - v_begin;
        double largest = -INFINITY, total = 0.0;
        for (int64_t v = 0; v < columns; v++) {
            if (ref_get2(logits, i, v) > largest) { largest = ref_get2(logits, i, v); }
        }
        for (int64_t v = 0; v < columns; v++) { total += exp_difference(ref_get2(logits, i, v), largest); }
        ref_put1(max, i, largest);
        ref_put1(sum, i, total);
        ref_put1(target_logit, i, y >= 0 && y < columns ? ref_get2(logits, i, y) : -INFINITY);
    }
    return HD_OK;
}

hd_status hd_ref_xent_merge(hd_exec *ex, const hd_tensor *max, const hd_tensor *sum, const hd_tensor *target_logit,
                            hd_tensor *run_max, hd_tensor *run_sum, hd_tensor *run_target_logit, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < max->shape[0]; i++) {
        double a = ref_get1(run_max, i), b = ref_get1(max, i), m = b > a ? b : a;
        double total = ref_get1(run_sum, i) * exp_difference(a, m) + ref_get1(sum, i) * exp_difference(b, m);
        ref_put1(run_max, i, m);
        ref_put1(run_sum, i, total);
        if (ref_get1(target_logit, i) != -INFINITY) { ref_put1(run_target_logit, i, ref_get1(target_logit, i)); }
    }
    return HD_OK;
}

hd_status hd_ref_xent_finish(hd_exec *ex, const hd_tensor *run_max, const hd_tensor *run_sum,
                             const hd_tensor *run_target_logit, const hd_tensor *weights, double z_loss, hd_tensor *lse,
                             hd_tensor *xent, hd_tensor *z, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double xent_sum = 0.0, z_sum = 0.0;
    for (int64_t i = 0; i < run_max->shape[0]; i++) {
        double w = ref_get1(weights, i), l = ref_get1(run_max, i) + log(ref_get1(run_sum, i));
        ref_put1(lse, i, l);
        if (w == 0.0) { continue; } /* whatever the logits hold */
        xent_sum += w * (l - ref_get1(run_target_logit, i));
        z_sum += w * z_loss * l * l;
    }
    ref_into(xent, 0, HD_ADD, xent_sum);
    ref_into(z, 0, HD_ADD, z_sum);
    return HD_OK;
}

hd_status hd_ref_xent_bwd(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                          const hd_tensor *lse, const hd_tensor *weights, double z_loss, double scale,
                          hd_tensor *dlogits, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < logits->shape[0]; i++) {
        int64_t y = ref_int1(targets, i) - v_begin;
        double w = ref_get1(weights, i), l = ref_get1(lse, i);
        for (int64_t v = 0; v < logits->shape[1]; v++) {
            double p = exp(ref_get2(logits, i, v) - l), onehot = v == y ? 1.0 : 0.0;
            ref_put2(dlogits, i, v, w == 0.0 ? 0.0 : (p * (1.0 + 2.0 * z_loss * l) - onehot) * w * scale);
        }
    }
    return HD_OK;
}
