/* The router: argument checks.  The definition is in ref/router.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>

static void check_spec(hd_check *c, const hd_router_spec *spec, int64_t experts)
{
    hd_check_that(c, spec->score_func == HD_SCORE_SOFTMAX || spec->score_func == HD_SCORE_SIGMOID,
                  "score function %d, want softmax or sigmoid", (int)spec->score_func);
    hd_check_that(c, spec->top_k >= 1 && spec->top_k <= experts, "top_k is %" PRId64 ", want 1 to %" PRId64 " experts",
                  spec->top_k, experts);
    if (spec->group_rule == HD_GROUP_NONE) { return; }
    hd_check_that(c, spec->group_rule == HD_GROUP_MAX || spec->group_rule == HD_GROUP_TOP2_SUM, "group rule %d",
                  (int)spec->group_rule);
    hd_check_that(c, spec->n_group >= 1 && experts % spec->n_group == 0,
                  "n_group is %" PRId64 ", want a divisor of %" PRId64 " experts", spec->n_group, experts);
    hd_check_that(c, spec->topk_group >= 1 && spec->topk_group <= spec->n_group,
                  "topk_group is %" PRId64 ", want 1 to %" PRId64, spec->topk_group, spec->n_group);
    hd_check_that(c, spec->group_rule != HD_GROUP_TOP2_SUM || experts / spec->n_group >= 2,
                  "groups of one expert have no two largest scores");
}

hd_status hd_router_fwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *logits, const hd_tensor *bias,
                        hd_tensor *scores, hd_tensor *ids, hd_tensor *weights, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "router_fwd", err);
    hd_check_in(&c, "logits", logits, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = logits->shape[0], experts = logits->shape[1];
    check_spec(&c, spec, experts);
    if (bias != NULL) { hd_check_in(&c, "bias", bias, HD_OP_F32, HD_SHAPE(experts)); }
    hd_check_out(&c, "scores", scores, HD_OP_F32, HD_SHAPE(n, experts));
    hd_check_out(&c, "ids", ids, HD_OP_I32, HD_SHAPE(n, spec->top_k));
    hd_check_out(&c, "weights", weights, HD_OP_F32, HD_SHAPE(n, spec->top_k));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, router_fwd, spec, logits, bias, scores, ids, weights, err);
}

hd_status hd_router_bwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *dweights, const hd_tensor *dscores,
                        const hd_tensor *scores, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *dlogits,
                        hd_err *err)
{
    hd_check c = hd_check_begin(ex, "router_bwd", err);
    hd_check_in(&c, "scores", scores, HD_OP_F32, HD_SHAPE(HD_ANY, HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    int64_t n = scores->shape[0], experts = scores->shape[1];
    check_spec(&c, spec, experts);
    hd_check_in(&c, "dweights", dweights, HD_OP_F32, HD_SHAPE(n, spec->top_k));
    if (dscores != NULL) { hd_check_in(&c, "dscores", dscores, HD_OP_F32, HD_SHAPE(n, experts)); }
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(n, spec->top_k));
    hd_check_in(&c, "weights", weights, HD_OP_F32, HD_SHAPE(n, spec->top_k));
    hd_check_out(&c, "dlogits", dlogits, HD_OP_F32, HD_SHAPE(n, experts));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, router_bwd, spec, dweights, dscores, scores, ids, weights, dlogits, err);
}
