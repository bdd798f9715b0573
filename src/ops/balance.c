/* Balance of experts: argument checks.  The definition is in ref/balance.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>

hd_status hd_expert_count(hd_exec *ex, const hd_tensor *ids, const hd_tensor *segments, hd_tensor *counts, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "expert_count", err);
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    if (segments != NULL) { hd_check_in(&c, "segments", segments, HD_OP_I32, HD_SHAPE(ids->shape[0])); }
    hd_check_out(&c, "counts", counts, HD_OP_F64, HD_SHAPE(HD_ANY));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, expert_count, ids, segments, counts, err);
}

hd_status hd_balance_loss(hd_exec *ex, const hd_balance_spec *spec, const hd_tensor *scores, const hd_tensor *bias,
                          const hd_tensor *ids, hd_tensor *loss, hd_tensor *dscores, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "balance_loss", err);
    hd_check_that(&c, spec->rule == HD_BALANCE_V2 || spec->rule == HD_BALANCE_V3 || spec->rule == HD_BALANCE_MAXTEXT,
                  "rule %d, want V2, V3 or MaxText", (int)spec->rule);
    hd_check_that(&c, spec->n_seq >= 0 && spec->seq_len >= 1 && spec->top_k >= 1 && spec->n_seq_total >= 1,
                  "%" PRId64 " of %" PRId64 " sequences of %" PRId64 " tokens, top_k %" PRId64, spec->n_seq,
                  spec->n_seq_total, spec->seq_len, spec->top_k);
    hd_check_in(&c, "scores", scores, HD_OP_F32, HD_SHAPE(spec->n_seq * spec->seq_len, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = scores->shape[0], experts = scores->shape[1];
    if (bias != NULL) { hd_check_in(&c, "bias", bias, HD_OP_F32, HD_SHAPE(experts)); }
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(n, spec->top_k));
    hd_check_out(&c, "loss", loss, HD_OP_F64, HD_SHAPE(1));
    hd_check_out(&c, "dscores", dscores, HD_OP_F32, HD_SHAPE(n, experts));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, balance_loss, spec, scores, bias, ids, loss, dscores, err);
}

hd_status hd_router_bias_update(hd_exec *ex, const hd_tensor *counts, double rate, const hd_tensor *control, hd_tensor *bias,
                                hd_err *err)
{
    hd_check c = hd_check_begin(ex, "router_bias_update", err);
    hd_check_in(&c, "counts", counts, HD_OP_F64, HD_SHAPE(HD_ANY));
    if (control != NULL) { hd_check_in(&c, "control", control, HD_OP_F64, HD_SHAPE(HD_CONTROL_COUNT)); }
    if (c.st != HD_OK) { return c.st; }
    hd_check_out(&c, "bias", bias, HD_OP_F32, HD_SHAPE(counts->shape[0]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, router_bias_update, counts, rate, control, bias, err);
}
