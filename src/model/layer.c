/* One pre-norm residual layer, forward and backward, and what of it survives between the two.
 *   mid = x + Attention(RMSNorm(x));  y = mid + MLP(RMSNorm(mid))           (N, D) act each
 * Output projections add straight into the residual stream.  Shapes: legend in layer.h. */
#include "model/layer.h"

#include "model/weights.h"

static hd_unit mlp_unit(const hd_layer *layer) { return layer->is_moe ? HD_UNIT_EXPERTS : HD_UNIT_DENSE; }

static hd_mlp dense_of(const hd_pass *p, const hd_layer *layer)
{
    return (hd_mlp){layer->gate_proj, layer->up_proj, layer->down_proj, p->dims->intermediate_size};
}

hd_status hd_layer_keep(hd_pass *p, hd_layer *layer)
{
    hd_status st;
    layer->acts = (hd_layer_acts){0};
    HD_TRY(hd_attention_keep(p, &layer->acts));
    if (p->options->remat.out_proj) { HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &layer->acts.mid)); }
    if (layer->is_moe) {
        HD_TRY(hd_moe_keep(p, &layer->acts));
    } else {
        HD_TRY(hd_mlp_keep(p, p->dims->intermediate_size, &layer->acts));
    }
out:
    return st;
}

/* ---- forward ---------------------------------------------------------------------------------------------------------- */

static hd_status forward_attention(hd_pass *p, hd_layer *layer, const hd_tensor *x, hd_tensor *y)
{
    hd_status st;
    hd_attention attention;
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_ATTENTION, p->err));
    if (p->extensions != NULL) {
        HD_TRY(hd_attention_cached(p, layer, x, &attention.o));
    } else {
        HD_TRY(hd_attention_forward(p, layer, x, &attention));
    }
    if (y != x) { HD_TRY(hd_copy(p->ex, x, y, p->err)); }
    HD_TRY(hd_attention_output(p, layer, &attention, y));
    HD_TRY(hd_pass_observe(p, "mid", layer->index, y));
out:
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    hd_arena_release(p->step, mark);
    return st;
}

static hd_status forward_mlp(hd_pass *p, hd_layer *layer, hd_tensor *y)
{
    hd_status st;
    hd_tensor norm, rstd; /* (N, D), (N) f32 */
    hd_mlp dense = dense_of(p, layer);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_weights_acquire(layer, mlp_unit(layer), p->err));
    HD_TRY(hd_pass_norm(p, y, layer->post_norm, p->dims->rms_norm_eps, &norm, &rstd));
    HD_TRY(hd_pass_observe(p, "post_norm", layer->index, &norm));
    if (layer->is_moe) {
        HD_TRY(hd_moe_forward(p, layer, &norm, &layer->acts, y));
    } else {
        HD_TRY(hd_mlp_forward(p, &dense, &norm, &layer->acts, y));
    }
    HD_TRY(hd_pass_observe(p, "output", layer->index, y));
out:
    hd_weights_release(layer, mlp_unit(layer));
    hd_arena_release(p->step, mark);
    return st;
}

hd_status hd_layer_forward(hd_pass *p, hd_layer *layer, const hd_tensor *x, hd_tensor *y)
{
    hd_status st;
    HD_TRY(forward_attention(p, layer, x, y));
    if (layer->acts.mid.n_dim > 0) { HD_TRY(hd_copy(p->ex, y, &layer->acts.mid, p->err)); }
    HD_TRY(forward_mlp(p, layer, y));
    layer->acts.filled = true;
out:
    return st;
}

/* ---- backward ---------------------------------------------------------------------------------------------------------- */

/* mid (N, D), kept or x plus the attention output once more. */
static hd_status residual_mid(hd_pass *p, const hd_layer *layer, const hd_attention *attention, hd_tensor *mid)
{
    hd_status st;
    bool missing;
    HD_TRY(hd_pass_take(p, &layer->acts, &layer->acts.mid, p->options->dtype, p->n_row, p->dims->hidden_size, mid, &missing));
    if (missing) {
        HD_TRY(hd_copy(p->ex, &layer->input, mid, p->err));
        HD_TRY(hd_attention_output(p, layer, attention, mid));
    }
out:
    return st;
}

/* dy: gradient at y, becomes the gradient at mid. */
static hd_status backward_mlp(hd_pass *p, hd_layer *layer, const hd_tensor *mid, hd_tensor *dy)
{
    hd_status st;
    hd_tensor norm, rstd, dnorm; /* (N, D), (N) f32, (N, D) */
    hd_mlp dense = dense_of(p, layer);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_weights_acquire(layer, mlp_unit(layer), p->err));
    HD_TRY(hd_pass_norm(p, mid, layer->post_norm, p->dims->rms_norm_eps, &norm, &rstd));
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &dnorm));
    if (layer->is_moe) {
        HD_TRY(hd_moe_backward(p, layer, &norm, &layer->acts, dy, &dnorm));
    } else {
        HD_TRY(hd_mlp_backward(p, &dense, &norm, &layer->acts, dy, HD_SET, &dnorm));
    }
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dnorm, mid, &rstd, layer->post_norm, HD_ADD, dy, p->err));
    hd_weights_release(layer, mlp_unit(layer));
    HD_TRY(hd_grads_ready(p->model, layer, mlp_unit(layer), p->err));
out:
    hd_weights_release(layer, mlp_unit(layer));
    hd_arena_release(p->step, mark);
    return st;
}

hd_status hd_layer_backward(hd_pass *p, hd_layer *layer, hd_tensor *dy)
{
    hd_status st;
    hd_attention attention;
    hd_tensor mid;
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_ATTENTION, p->err));
    HD_TRY(hd_attention_forward(p, layer, &layer->input, &attention));
    HD_TRY(residual_mid(p, layer, &attention, &mid));
    HD_TRY(backward_mlp(p, layer, &mid, dy));
    HD_TRY(hd_attention_backward(p, layer, &layer->input, &attention, dy));
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    HD_TRY(hd_grads_ready(p->model, layer, HD_UNIT_ATTENTION, p->err));
out:
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    hd_arena_release(p->step, mark);
    return st;
}
