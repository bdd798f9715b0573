/* The optimiser's ops: argument checks.  The definition is in ref/optimizer.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>

hd_status hd_sumsq(hd_exec *ex, const hd_tensor *x, hd_tensor *total, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "sumsq", err);
    hd_check_in_any(&c, "x", x, HD_OP_ACT);
    hd_check_out(&c, "total", total, HD_OP_F64, HD_SHAPE(1));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, sumsq, x, total, err);
}

hd_status hd_step_gate(hd_exec *ex, const hd_gate_spec *spec, const hd_tensor *sumsq, const hd_tensor *loss,
                       hd_tensor *window, hd_tensor *control, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "step_gate", err);
    hd_check_in(&c, "sumsq", sumsq, HD_OP_F64, HD_SHAPE(1));
    hd_check_in(&c, "loss", loss, HD_OP_F64, HD_SHAPE(1));
    if (spec->spike_factor > 0.0) {
        hd_check_that(&c, spec->spike_interval >= 1, "spike_interval is %" PRId64 ", want 1 or more", spec->spike_interval);
        hd_check_out(&c, "window", window, HD_OP_F64, HD_SHAPE(2, spec->spike_interval));
    }
    hd_check_out(&c, "control", control, HD_OP_F64, HD_SHAPE(HD_CONTROL_COUNT));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, step_gate, spec, sumsq, loss, window, control, err);
}

hd_status hd_adamw(hd_exec *ex, const hd_adamw_spec *spec, const hd_tensor *control, const hd_tensor *grad,
                   hd_tensor *master, hd_tensor *mu, hd_tensor *nu, hd_tensor *value, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "adamw", err);
    hd_check_in(&c, "control", control, HD_OP_F64, HD_SHAPE(HD_CONTROL_COUNT));
    hd_check_in_any(&c, "grad", grad, HD_OP_F32);
    hd_check_out_shaped(&c, "master", master, HD_OP_F32, grad);
    hd_check_out_shaped(&c, "mu", mu, HD_OP_ACT, grad);
    hd_check_out_shaped(&c, "nu", nu, HD_OP_F32, grad);
    hd_check_out_shaped(&c, "value", value, HD_OP_ACT, grad);
    hd_check_may_alias(&c, "value", "master");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, adamw, spec, control, grad, master, mu, nu, value, err);
}

hd_status hd_sum_into(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "sum_into", err);
    hd_check_in_any(&c, "x", x, HD_OP_F32 | HD_OP_F64);
    hd_check_out_shaped(&c, "y", y, HD_LIKE(x), x);
    bool any_strides = c.st != HD_OK || x->dtype != HD_DTYPE_F64 || hd_check_in_double(&c);
    hd_check_that(&c, any_strides || (hd_tensor_is_contiguous(x) && hd_tensor_is_contiguous(y)),
                  "sums in f64 have strides, want contiguous tensors");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, sum_into, x, y, err);
}
