/* Cross-entropy with z-loss in vocabulary chunks: argument checks.  The definition is in ref/cross_entropy.c, the
 * contract in ops.h. */
#include "ops/check.h"

hd_status hd_xent_partial(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin, hd_tensor *max,
                          hd_tensor *sum, hd_tensor *target_logit, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "xent_partial", err);
    hd_check_in(&c, "logits", logits, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = logits->shape[0];
    hd_check_in(&c, "targets", targets, HD_OP_I32, HD_SHAPE(n));
    hd_check_out(&c, "max", max, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "sum", sum, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "target_logit", target_logit, HD_OP_F32, HD_SHAPE(n));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, xent_partial, logits, targets, v_begin, max, sum, target_logit, err);
}

hd_status hd_xent_merge(hd_exec *ex, const hd_tensor *max, const hd_tensor *sum, const hd_tensor *target_logit,
                        hd_tensor *run_max, hd_tensor *run_sum, hd_tensor *run_target_logit, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "xent_merge", err);
    hd_check_in(&c, "max", max, HD_OP_F32, HD_SHAPE(HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = max->shape[0];
    hd_check_in(&c, "sum", sum, HD_OP_F32, HD_SHAPE(n));
    hd_check_in(&c, "target_logit", target_logit, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "run_max", run_max, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "run_sum", run_sum, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "run_target_logit", run_target_logit, HD_OP_F32, HD_SHAPE(n));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, xent_merge, max, sum, target_logit, run_max, run_sum, run_target_logit, err);
}

hd_status hd_xent_finish(hd_exec *ex, const hd_tensor *run_max, const hd_tensor *run_sum,
                         const hd_tensor *run_target_logit, const hd_tensor *weights, double z_loss, hd_tensor *lse,
                         hd_tensor *xent, hd_tensor *z, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "xent_finish", err);
    hd_check_in(&c, "run_max", run_max, HD_OP_F32, HD_SHAPE(HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = run_max->shape[0];
    hd_check_in(&c, "run_sum", run_sum, HD_OP_F32, HD_SHAPE(n));
    hd_check_in(&c, "run_target_logit", run_target_logit, HD_OP_F32, HD_SHAPE(n));
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "lse", lse, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "xent", xent, HD_OP_F64, HD_SHAPE(1));
    hd_check_out(&c, "z", z, HD_OP_F64, HD_SHAPE(1));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, xent_finish, run_max, run_sum, run_target_logit, weights, z_loss, lse, xent, z, err);
}

hd_status hd_xent_bwd(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                      const hd_tensor *lse, const hd_tensor *weights, double z_loss, double scale, hd_tensor *dlogits,
                      hd_err *err)
{
    hd_check c = hd_check_begin(ex, "xent_bwd", err);
    hd_check_in(&c, "logits", logits, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = logits->shape[0];
    hd_check_in(&c, "targets", targets, HD_OP_I32, HD_SHAPE(n));
    hd_check_in(&c, "lse", lse, HD_OP_F32, HD_SHAPE(n));
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(n));
    hd_check_out(&c, "dlogits", dlogits, HD_OP_F32, HD_SHAPE(n, logits->shape[1]));
    hd_check_may_alias(&c, "dlogits", "logits");
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, xent_bwd, logits, targets, v_begin, lse, weights, z_loss, scale, dlogits, err);
}
