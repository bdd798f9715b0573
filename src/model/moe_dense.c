/* Routed experts, dense strategy (sparse_matmul=False, no capacity): every expert on every token, weighted by the router's
 * weights with zeros where an expert was not chosen.  E / k times the work of the other strategies, and their oracle: it
 * shares neither sorting nor grouped products with them.  Sums over experts run in f32, in order of the experts.
 * Shapes: legend in layer.h. */
#include "model/layer.h"
#include "model/weights.h"

/* What one expert works in. */
typedef struct dense {
    hd_tensor w_full;        /* (N, E) f32 */
    hd_tensor gate, up;      /* (N, Fm) up: buffers for one expert; kept ones are used instead */
    hd_tensor h;             /* (N, Fm) act */
    hd_tensor wide;          /* (N, D) f32 */
} dense;

static hd_status open_dense(hd_pass *p, const hd_routing *routing, dense *b)
{
    hd_status st;
    const hd_dims *d = p->dims;
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, d->n_expert, &b->w_full));
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row, d->moe_intermediate_size, &b->gate));
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row, d->moe_intermediate_size, &b->up));
    HD_TRY(hd_pass_rows(p, d->moe_intermediate_size, &b->h));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, d->hidden_size, &b->wide));
    HD_TRY(hd_moe_expand_weights(p->ex, &routing->ids, &routing->weights, &b->w_full, p->err));
out:
    return st;
}

/* Expert e's rows of a kept (E N, Fm). */
static hd_tensor kept_rows(const hd_pass *p, const hd_tensor *kept, int64_t e)
{
    return hd_tensor_slice(kept, 0, e * p->n_row, p->n_row);
}

/* gate, up (N, Fm) of expert e: kept ones, or computed into them or into the buffers. */
static hd_status project_up(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_layer_acts *acts, int64_t e,
                            const dense *b, hd_tensor *gate, hd_tensor *up)
{
    hd_status st = HD_OK;
    bool kept = acts->expert_gate.n_dim > 0;
    hd_weight w_gate = hd_weight_expert(layer->expert_gate, e), w_up = hd_weight_expert(layer->expert_up, e);
    *gate = kept ? kept_rows(p, &acts->expert_gate, e) : b->gate;
    *up = kept ? kept_rows(p, &acts->expert_up, e) : b->up;
    if (kept && acts->filled) { return HD_OK; }
    HD_TRY(hd_linear_fwd(p->ex, x, &w_gate, HD_SET, gate, p->err));
    HD_TRY(hd_linear_fwd(p->ex, x, &w_up, HD_SET, up, p->err));
out:
    return st;
}

/* Column e of (N, E): as one value per row, and as a matrix of one column. */
static hd_tensor column(const hd_tensor *matrix, int64_t e)
{
    hd_tensor narrow = hd_tensor_slice(matrix, 1, e, 1);
    narrow.n_dim = 1;
    return narrow;
}

static hd_status forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                         const hd_layer_acts *acts, hd_tensor *y)
{
    hd_status st;
    dense b;
    hd_tensor gate, up, sum; /* sum (N, D) f32 */
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(open_dense(p, routing, &b));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, p->dims->hidden_size, &sum));
    for (int64_t e = 0; e < p->dims->n_expert; e++) {
        hd_weight down = hd_weight_expert(layer->expert_down, e);
        hd_tensor w = column(&b.w_full, e);
        HD_TRY(project_up(p, layer, x, acts, e, &b, &gate, &up));
        HD_TRY(hd_swiglu_fwd(p->ex, &gate, &up, NULL, &b.h, p->err));
        HD_TRY(hd_linear_fwd(p->ex, &b.h, &down, HD_SET, &b.wide, p->err));
        HD_TRY(hd_scale_rows(p->ex, &b.wide, &w, e == 0 ? HD_SET : HD_ADD, &sum, p->err));
    }
    HD_TRY(hd_add(p->ex, y, &sum, y, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}

/* One expert's part of the backward pass.  dx (N, D) f32 is added to; q and the vectors are buffers. */
typedef struct dense_grad {
    hd_tensor q;      /* (N, Fm) up: gradient at h before the weight, then weight times h */
    hd_tensor w, dw;  /* (N) f32 */
    hd_tensor dx;     /* (N, D) f32 */
    hd_tensor dw_full;/* (N, E) f32 */
} dense_grad;

static hd_status open_grad(hd_pass *p, dense_grad *g)
{
    hd_status st;
    const hd_dims *d = p->dims;
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row, d->moe_intermediate_size, &g->q));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, p->n_row, &g->w));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, p->n_row, &g->dw));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, d->hidden_size, &g->dx));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, d->n_expert, &g->dw_full));
out:
    return st;
}

/* Between a vector (N) and column e of a matrix (N, E); ops want stride 1 along the last axis, so both go as (N, 1). */
static hd_status copy_column(hd_pass *p, const hd_tensor *from, int64_t from_column, const hd_tensor *to, int64_t to_column)
{
    hd_tensor from_2d = from->n_dim == 2 ? hd_tensor_slice(from, 1, from_column, 1) : hd_tensor_split_last(from, p->n_row, 1);
    hd_tensor to_2d = to->n_dim == 2 ? hd_tensor_slice(to, 1, to_column, 1) : hd_tensor_split_last(to, p->n_row, 1);
    return hd_copy(p->ex, &from_2d, &to_2d, p->err);
}

static hd_status backward_expert(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_tensor *dy, int64_t e,
                                 hd_tensor *gate, hd_tensor *up, dense_grad *g)
{
    hd_status st;
    hd_weight w_gate = hd_weight_expert(layer->expert_gate, e), w_up = hd_weight_expert(layer->expert_up, e);
    hd_weight w_down = hd_weight_expert(layer->expert_down, e);
    HD_TRY(hd_linear_bwd_input(p->ex, dy, &w_down, HD_SET, &g->q, p->err));
    HD_TRY(hd_moe_swiglu_bwd(p->ex, &g->q, gate, up, &g->w, NULL, gate, up, &g->q, &g->dw, p->err));
    HD_TRY(hd_linear_grad(p->ex, dy, &g->q, &w_down, p->err));
    HD_TRY(hd_linear_grad(p->ex, gate, x, &w_gate, p->err));
    HD_TRY(hd_linear_grad(p->ex, up, x, &w_up, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, gate, &w_gate, e == 0 ? HD_SET : HD_ADD, &g->dx, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, up, &w_up, HD_ADD, &g->dx, p->err));
out:
    return st;
}

static hd_status backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                          const hd_layer_acts *acts, const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights)
{
    hd_status st;
    dense b;
    dense_grad g;
    hd_tensor gate, up;
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(open_dense(p, routing, &b));
    HD_TRY(open_grad(p, &g));
    for (int64_t e = 0; e < p->dims->n_expert; e++) {
        HD_TRY(project_up(p, layer, x, acts, e, &b, &gate, &up));
        HD_TRY(copy_column(p, &b.w_full, e, &g.w, 0));
        HD_TRY(backward_expert(p, layer, x, dy, e, &gate, &up, &g));
        HD_TRY(copy_column(p, &g.dw, 0, &g.dw_full, e));
    }
    hd_grads_written(layer->expert_gate);
    hd_grads_written(layer->expert_up);
    hd_grads_written(layer->expert_down);
    HD_TRY(hd_moe_collect_weights(p->ex, &routing->ids, &g.dw_full, dweights, p->err));
    HD_TRY(hd_copy(p->ex, &g.dx, dx, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}

const hd_moe_strategy_ops hd_moe_dense = {forward, backward};
