/* Routed experts over rows sorted by expert: one grouped product per matrix (grouped strategy), and the same lists of calls
 * for the ragged and dropping strategies, which differ in the products or in the capacity.
 * Shapes: legend in layer.h; routed rows R = N k, those from offsets[E] on are nobody's and never touched.
 *
 *   xs = x[claim / k]; g = xs Wg[e]^T; u = xs Wu[e]^T; h = silu(g) u; ys = h Wd[e]^T; y[t] += sum_j w[t, j] ys[row of (t, j)]
 *
 * Backward uses that the down projection is linear: with q = dy Wd[e], the gradient at h before the weight,
 *   dw = q . h,  dh = w q,  dWd = dy^T (w h): the experts' outputs ys are never needed again. */
#include "model/layer.h"
#include "model/weights.h"

typedef struct sorted {
    hd_tensor claim, offsets, row_of; /* (R), (E + 1), (N, k) i32 */
    hd_tensor n_rows;                 /* (1) i32: offsets[E] */
    hd_tensor xs;                     /* (R, D) act */
    hd_tensor gate, up;               /* (R, Fm) up */
} sorted;

static int64_t n_routed(const hd_pass *p) { return p->n_row * p->dims->router.top_k; }

/* Which rows go where. */
static hd_status dispatch(hd_pass *p, int64_t capacity, const hd_routing *routing, sorted *s)
{
    hd_status st;
    int64_t n_expert = p->dims->n_expert, k = p->dims->router.top_k;
    hd_dispatch_spec spec = {n_expert, k, p->leaf->seq_len, capacity};
    HD_TRY(hd_pass_vector(p, HD_DTYPE_I32, n_routed(p), &s->claim));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_I32, n_expert + 1, &s->offsets));
    HD_TRY(hd_pass_new(p, HD_DTYPE_I32, p->n_row, k, &s->row_of));
    s->n_rows = hd_tensor_slice(&s->offsets, 0, n_expert, 1);
    HD_TRY(hd_moe_dispatch(p->ex, &spec, &routing->ids, &s->claim, &s->offsets, &s->row_of, p->err));
out:
    return st;
}

/* y (R, M) = x (R, K) W[e]^T for the rows of each expert. */
static hd_status products(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, const hd_tensor *x, const hd_tensor *offsets,
                          const hd_weight *w, hd_tensor *y)
{
    if (layer->stream != NULL) { return hd_moe_streamed_products(p, layer, x, offsets, w, y); }
    return kernels->fwd(p->ex, x, offsets, w, HD_SET, y, p->err);
}

/* gate and up of the rows, those that are missing, and what goes along. */
static hd_status products_up(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, bool gate_missing, bool up_missing, sorted *s)
{
    hd_status st = HD_OK;
    hd_product list[HD_PRODUCTS_MAX];
    int n = 0;
    if (layer->stream != NULL || kernels != &hd_grouped_kernels) {
        if (gate_missing) { HD_TRY(products(p, layer, kernels, &s->xs, &s->offsets, layer->expert_gate, &s->gate)); }
        if (up_missing) { HD_TRY(products(p, layer, kernels, &s->xs, &s->offsets, layer->expert_up, &s->up)); }
        goto out;
    }
    if (gate_missing) { list[n++] = (hd_product){&s->xs, &s->offsets, layer->expert_gate, HD_SET, &s->gate}; }
    if (up_missing) { list[n++] = (hd_product){&s->xs, &s->offsets, layer->expert_up, HD_SET, &s->up}; }
    for (int i = 0; i < p->n_along; i++) { list[n++] = p->along[i]; }
    p->n_along = 0;
    if (n > 0) { HD_TRY(hd_products_fwd(p->ex, list, n, p->err)); }
out:
    return st;
}

/* xs, gate and up, the last two kept or computed. */
static hd_status project_up(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, const hd_tensor *x,
                            const hd_layer_acts *acts, sorted *s)
{
    hd_status st;
    int64_t width = p->dims->moe_intermediate_size, k = p->dims->router.top_k;
    bool gate_missing, up_missing;
    HD_TRY(hd_pass_new(p, p->options->dtype, n_routed(p), p->dims->hidden_size, &s->xs));
    HD_TRY(hd_moe_gather(p->ex, x, &s->claim, &s->offsets, k, &s->xs, p->err));
    HD_TRY(hd_pass_take(p, acts, &acts->expert_gate, hd_pass_up_dtype(p), n_routed(p), width, &s->gate, &gate_missing));
    HD_TRY(hd_pass_take(p, acts, &acts->expert_up, hd_pass_up_dtype(p), n_routed(p), width, &s->up, &up_missing));
    HD_TRY(products_up(p, layer, kernels, gate_missing, up_missing, s));
out:
    return st;
}

hd_status hd_moe_sorted_forward(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, int64_t capacity,
                                const hd_tensor *x, const hd_routing *routing, const hd_layer_acts *acts, hd_tensor *y)
{
    hd_status st;
    sorted s;
    hd_tensor h; /* (R, Fm) act */
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(dispatch(p, capacity, routing, &s));
    HD_TRY(project_up(p, layer, kernels, x, acts, &s));
    HD_TRY(hd_pass_new(p, p->options->dtype, n_routed(p), p->dims->moe_intermediate_size, &h));
    HD_TRY(hd_swiglu_fwd(p->ex, &s.gate, &s.up, &s.n_rows, &h, p->err));
    hd_tensor *ys = &s.xs; /* (R, D): the gathered rows have been read */
    HD_TRY(products(p, layer, kernels, &h, &s.offsets, layer->expert_down, ys));
    HD_TRY(hd_moe_combine(p->ex, ys, &s.row_of, &routing->weights, HD_ADD, y, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}

/* dW[e] += dy^T x, skipped for a frozen weight. */
static hd_status expert_grad(hd_pass *p, const hd_expert_kernels *kernels, const hd_tensor *dy, const hd_tensor *x,
                             const hd_tensor *offsets, hd_weight *w)
{
    return hd_weight_frozen(w) ? HD_OK : kernels->bwd_weight(p->ex, dy, x, offsets, w, p->err);
}

/* Claims that found their expert full: R - offsets[E]. */
static hd_status count_dropped(hd_pass *p, int64_t capacity, const sorted *s)
{
    if (capacity == 0 || p->metrics == NULL) { return HD_OK; }
    hd_tensor dropped = hd_tensor_slice(p->metrics, 0, HD_METRIC_DROPPED, 1);
    return hd_metric_add(p->ex, (double)n_routed(p), -1.0, &s->n_rows, &dropped, p->err);
}

hd_status hd_moe_sorted_backward(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, int64_t capacity,
                                 const hd_tensor *x, const hd_routing *routing, const hd_layer_acts *acts,
                                 const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights)
{
    hd_status st;
    sorted s;
    hd_tensor dys, q, ws, dws; /* (R, D) act, (R, Fm) up, (R) f32, (R) f32 */
    int64_t k = p->dims->router.top_k;
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(dispatch(p, capacity, routing, &s));
    HD_TRY(count_dropped(p, capacity, &s));
    HD_TRY(project_up(p, layer, kernels, x, acts, &s));
    HD_TRY(hd_pass_new(p, p->options->dtype, n_routed(p), p->dims->hidden_size, &dys));
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), n_routed(p), p->dims->moe_intermediate_size, &q));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, n_routed(p), &ws));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, n_routed(p), &dws));

    HD_TRY(hd_moe_gather(p->ex, dy, &s.claim, &s.offsets, k, &dys, p->err));
    HD_TRY(hd_moe_permute_weights(p->ex, &routing->weights, &s.claim, &s.offsets, &ws, p->err));
    HD_TRY(kernels->bwd_input(p->ex, &dys, &s.offsets, layer->expert_down, HD_SET, &q, p->err));
    hd_tensor *dgate = &s.gate, *dup = &s.up, *wh = &q; /* in place */
    HD_TRY(hd_moe_swiglu_bwd(p->ex, &q, &s.gate, &s.up, &ws, &s.n_rows, dgate, dup, wh, &dws, p->err));
    HD_TRY(expert_grad(p, kernels, &dys, wh, &s.offsets, layer->expert_down));
    HD_TRY(expert_grad(p, kernels, dgate, &s.xs, &s.offsets, layer->expert_gate));
    HD_TRY(expert_grad(p, kernels, dup, &s.xs, &s.offsets, layer->expert_up));
    hd_tensor *dxs = &dys; /* (R, D): the gathered gradient has been read */
    HD_TRY(kernels->bwd_input(p->ex, dgate, &s.offsets, layer->expert_gate, HD_SET, dxs, p->err));
    HD_TRY(kernels->bwd_input(p->ex, dup, &s.offsets, layer->expert_up, HD_ADD, dxs, p->err));
    HD_TRY(hd_moe_scatter(p->ex, dxs, &s.row_of, HD_SET, dx, p->err));
    HD_TRY(hd_moe_unpermute_weights(p->ex, &dws, &s.row_of, dweights, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}

/* ---- the strategy ------------------------------------------------------------------------------------------------------ */

const hd_expert_kernels hd_grouped_kernels = {hd_grouped_linear_fwd, hd_grouped_linear_bwd_input,
                                              hd_grouped_linear_bwd_weight};

static hd_status forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                         const hd_layer_acts *acts, hd_tensor *y)
{
    return hd_moe_sorted_forward(p, layer, &hd_grouped_kernels, 0, x, routing, acts, y);
}

static hd_status backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                          const hd_layer_acts *acts, const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights)
{
    return hd_moe_sorted_backward(p, layer, &hd_grouped_kernels, 0, x, routing, acts, dy, dx, dweights);
}

const hd_moe_strategy_ops hd_moe_grouped = {forward, backward};
