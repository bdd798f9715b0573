/* The mixture of experts of one layer:  y += sum_j w_j Expert_j(x) + Shared(x), with the router in f32.
 * Shapes: legend in layer.h.  Source: DeepSeek-V2 2.1.2, DeepSeek-V3 (arXiv 2412.19437) 2.1.2. */
#include "model/layer.h"
#include "model/weights.h"

/* Streamed experts are read one by one, and the dense strategy would read them all: the sorted one reads those that have rows. */
static const hd_moe_strategy_ops *strategy_of(const hd_pass *p)
{
    if (p->model->stream != NULL && p->options->moe_strategy == HD_MOE_DENSE) { return &hd_moe_grouped; }
    switch (p->options->moe_strategy) {
    case HD_MOE_GROUPED: return &hd_moe_grouped;
    case HD_MOE_RAGGED: return &hd_moe_ragged;
    case HD_MOE_DENSE: return &hd_moe_dense;
    case HD_MOE_DROPPING: return &hd_moe_dropping;
    }
    return &hd_moe_grouped;
}

static hd_mlp shared_of(const hd_pass *p, const hd_layer *layer)
{
    int64_t width = p->dims->n_shared_expert * p->dims->moe_intermediate_size;
    return (hd_mlp){layer->shared_gate, layer->shared_up, layer->shared_down, width};
}

hd_status hd_moe_keep(hd_pass *p, hd_layer_acts *acts)
{
    hd_status st;
    const hd_dims *d = p->dims;
    HD_TRY(hd_mlp_keep(p, d->n_shared_expert * d->moe_intermediate_size, acts));
    if (p->options->remat.moe_mlpwi) {
        int64_t visits = p->options->moe_strategy == HD_MOE_DENSE ? d->n_expert : d->router.top_k;
        HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row * visits, d->moe_intermediate_size, &acts->expert_gate));
        HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row * visits, d->moe_intermediate_size, &acts->expert_up));
    }
out:
    return st;
}

static const hd_tensor *bias_of(const hd_layer *layer)
{
    return layer->router_bias != NULL ? &layer->router_bias->value : NULL;
}

/* logits (N, E) f32 -> scores, ids, weights.  The same bits each time it is called on the same rows. */
static hd_status route(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_routing *routing)
{
    hd_status st;
    int64_t n_expert = p->dims->n_expert, k = p->dims->router.top_k;
    hd_tensor logits;
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, n_expert, &routing->scores));
    HD_TRY(hd_pass_new(p, HD_DTYPE_I32, p->n_row, k, &routing->ids));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, k, &routing->weights));
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, n_expert, &logits));
    if (p->options->narrow_gate_logits) {
        hd_tensor narrow;
        HD_TRY(hd_pass_rows(p, n_expert, &narrow));
        HD_TRY(hd_linear_fwd(p->ex, x, layer->router, HD_SET, &narrow, p->err));
        HD_TRY(hd_copy(p->ex, &narrow, &logits, p->err));
    } else {
        HD_TRY(hd_linear_fwd(p->ex, x, layer->router, HD_SET, &logits, p->err));
    }
    HD_TRY(hd_router_fwd(p->ex, &p->dims->router, &logits, bias_of(layer), &routing->scores, &routing->ids,
                         &routing->weights, p->err));
    HD_TRY(hd_pass_observe(p, "router_logits", layer->index, &logits));
    HD_TRY(hd_pass_observe(p, "expert_ids", layer->index, &routing->ids));
    HD_TRY(hd_pass_observe(p, "expert_weights", layer->index, &routing->weights));
    hd_arena_release(p->step, mark);
out:
    return st;
}

hd_status hd_moe_forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *y)
{
    hd_status st;
    hd_routing routing;
    hd_tensor gate, up; /* of the shared experts */
    hd_mlp shared = shared_of(p, layer);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(route(p, layer, x, &routing));
    if (shared.width > 0) { HD_TRY(hd_mlp_gate_up(p, &shared, x, acts, &gate, &up, p->along, &p->n_along)); }
    HD_TRY(strategy_of(p)->forward(p, layer, x, &routing, acts, y));
    HD_TRY(hd_pass_observe(p, "routed", layer->index, y));
    if (p->n_along > 0) { HD_TRY(hd_products_fwd(p->ex, p->along, p->n_along, p->err)); } /* the strategy has not taken them */
    if (shared.width > 0) { HD_TRY(hd_mlp_down(p, &shared, &gate, &up, y)); }
out:
    p->n_along = 0;
    hd_arena_release(p->step, mark);
    return st;
}

/* Counts for the router bias, and the balance loss with its gradient at the scores (N, E) f32. */
static hd_status balance(hd_pass *p, const hd_layer *layer, const hd_routing *routing, hd_tensor *dscores)
{
    hd_status st = HD_OK;
    const hd_model_options *o = p->options;
    if (p->metrics != NULL) {
        hd_tensor counts = hd_model_expert_counts(p->model, p->metrics, layer->moe_index);
        HD_TRY(hd_expert_count(p->ex, &routing->ids, o->count_padding ? NULL : &p->leaf->segments, &counts, p->err));
    }
    if (o->balance_loss_weight > 0.0) {
        hd_balance_spec spec = {o->balance_rule, p->leaf->n_seq, p->leaf->seq_len, p->leaf->n_seq_total,
                                p->dims->router.top_k, o->balance_loss_weight, 1.0 / (double)p->model->n_moe_layer};
        hd_tensor loss = hd_pass_sum(p, HD_SUM_BALANCE);
        HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, p->dims->n_expert, dscores));
        HD_TRY(hd_balance_loss(p->ex, &spec, &routing->scores, bias_of(layer), &routing->ids, &loss, dscores, p->err));
    }
out:
    return st;
}

/* dweights (N, k) -> dlogits (N, E) f32 -> dWr, dx +=. */
static hd_status route_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                                const hd_tensor *dweights, hd_tensor *dx)
{
    hd_status st;
    hd_tensor dscores = {0}, dlogits;
    HD_TRY(balance(p, layer, routing, &dscores));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, p->dims->n_expert, &dlogits));
    HD_TRY(hd_router_bwd(p->ex, &p->dims->router, dweights, dscores.n_dim > 0 ? &dscores : NULL, &routing->scores,
                         &routing->ids, &routing->weights, &dlogits, p->err));
    HD_TRY(hd_linear_grad(p->ex, &dlogits, x, layer->router, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &dlogits, layer->router, HD_ADD, dx, p->err));
out:
    return st;
}

hd_status hd_moe_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_layer_acts *acts,
                          const hd_tensor *dy, hd_tensor *dx)
{
    hd_status st;
    hd_routing routing;
    hd_tensor dweights; /* (N, k) f32 */
    hd_mlp shared = shared_of(p, layer);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(route(p, layer, x, &routing));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, p->dims->router.top_k, &dweights));
    HD_TRY(strategy_of(p)->backward(p, layer, x, &routing, acts, dy, dx, &dweights));
    if (shared.width > 0) { HD_TRY(hd_mlp_backward(p, &shared, x, acts, dy, HD_ADD, dx)); }
    HD_TRY(route_backward(p, layer, x, &routing, &dweights, dx));
out:
    hd_arena_release(p->step, mark);
    return st;
}
