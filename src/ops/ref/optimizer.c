/* The optimiser: global norm, the gate of a step, AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101; optax's order of
 * operations), and the addition that gradient trees and reductions use. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_sumsq(hd_exec *ex, const hd_tensor *x, hd_tensor *total, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double sum = 0.0;
    for (int64_t i = 0; i < hd_tensor_count(x); i++) {
        double v = ref_get(x, ref_at_flat(x, i));
        sum += v * v;
    }
    ref_into(total, 0, HD_ADD, sum);
    return HD_OK;
}

/* ---- the gate ----------------------------------------------------------------------------------------------------------- */

/* value - mean > factor * unbiased standard deviation, over the n past values of one row of the window. */
static bool is_spike(const hd_tensor *window, int64_t row, int64_t n, double value, double factor)
{
    double mean = 0.0, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { mean += ref_get2(window, row, i) / (double)n; }
    for (int64_t i = 0; i < n; i++) { sum += pow(ref_get2(window, row, i) - mean, 2.0); }
    return value - mean > factor * sqrt(sum / (double)(n - 1));
}

/* Looks at the window before the value enters it.  The window is a ring of the last spike_interval finite steps. */
static bool spike_gate(const hd_gate_spec *spec, double loss, double norm, hd_tensor *window, hd_tensor *control)
{
    int64_t seen = (int64_t)ref_get1(control, HD_CONTROL_WINDOW_N), interval = spec->spike_interval;
    int64_t n = seen < interval ? seen : interval, needed = interval / 2 > 2 ? interval / 2 : 2;
    bool spike = n >= needed && (is_spike(window, 0, n, loss, spec->spike_factor) ||
                                 is_spike(window, 1, n, norm, spec->spike_factor));
    ref_put2(window, 0, seen % interval, loss);
    ref_put2(window, 1, seen % interval, norm);
    ref_put1(control, HD_CONTROL_WINDOW_N, (double)(seen + 1));
    return spike;
}

hd_status hd_ref_step_gate(hd_exec *ex, const hd_gate_spec *spec, const hd_tensor *sumsq, const hd_tensor *loss,
                           hd_tensor *window, hd_tensor *control, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double norm = sqrt(ref_get1(sumsq, 0)), value = ref_get1(loss, 0), threshold = spec->clip_threshold;
    bool finite = isfinite(norm) && isfinite(value);
    bool spike = finite && spec->spike_factor > 0.0 && spike_gate(spec, value, norm, window, control);
    double applied = finite && !spike ? 1.0 : 0.0, count = ref_get1(control, HD_CONTROL_COUNT_APPLIED) + applied;
    ref_put1(control, HD_CONTROL_NORM, norm);
    ref_put1(control, HD_CONTROL_CLIP, threshold > 0.0 && !(norm < threshold) ? threshold / norm : 1.0);
    ref_put1(control, HD_CONTROL_APPLY, applied);
    ref_put1(control, HD_CONTROL_COUNT_APPLIED, count);
    ref_put1(control, HD_CONTROL_BIAS1, 1.0 - pow(spec->beta1, count));
    ref_put1(control, HD_CONTROL_BIAS2, 1.0 - pow(spec->beta2, count));
    return HD_OK;
}

/* ---- AdamW -------------------------------------------------------------------------------------------------------------- */

hd_status hd_ref_adamw(hd_exec *ex, const hd_adamw_spec *spec, const hd_tensor *control, const hd_tensor *grad,
                       hd_tensor *master, hd_tensor *mu, hd_tensor *nu, hd_tensor *value, hd_err *err)
{
    (void)err;
    if (ex->dry || ref_get1(control, HD_CONTROL_APPLY) == 0.0) { return HD_OK; }
    double lr = ref_get1(control, HD_CONTROL_LR), clip = ref_get1(control, HD_CONTROL_CLIP);
    double bias1 = ref_get1(control, HD_CONTROL_BIAS1), bias2 = ref_get1(control, HD_CONTROL_BIAS2);
    for (int64_t i = 0; i < hd_tensor_count(grad); i++) {
        double g = ref_get(grad, ref_at_flat(grad, i)) * clip, p = ref_get(master, ref_at_flat(master, i));
        double m = spec->beta1 * ref_get(mu, ref_at_flat(mu, i)) + (1.0 - spec->beta1) * g;
        double v = spec->beta2 * ref_get(nu, ref_at_flat(nu, i)) + (1.0 - spec->beta2) * g * g;
        double u = m / bias1 / (sqrt(v / bias2 + spec->eps_root) + spec->eps) + spec->weight_decay * p;
        ref_put(mu, ref_at_flat(mu, i), m); /* u used m before this rounding */
        ref_put(nu, ref_at_flat(nu, i), v);
        ref_put(master, ref_at_flat(master, i), p - lr * u);
        ref_put(value, ref_at_flat(value, i), ref_get(master, ref_at_flat(master, i)));
    }
    return HD_OK;
}

hd_status hd_ref_sum_into(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < hd_tensor_count(y); i++) { ref_into(y, ref_at_flat(y, i), HD_ADD, ref_get(x, ref_at_flat(x, i))); }
    return HD_OK;
}
