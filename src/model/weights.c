/* Acquire, release, ready.  See weights.h. */
#include "model/weights.h"

#include <stddef.h>

/* ---- streaming ------------------------------------------------------------------------------------------------------ */

static void forget(hd_weight_stream *s)
{
    if (s->held == NULL) { return; }
    for (int i = 0; i < s->held->n_param; i++) {
        hd_param *param = s->held->params[i];
        if ((int)param->spec->unit == s->held_unit) { param->weight.value.data = NULL; }
    }
    hd_arena_release(s->arena, 0);
    s->held = NULL;
}

static hd_status read_weight(const hd_layer *layer, const hd_param *param, int64_t expert, hd_tensor *value, hd_err *err)
{
    hd_weight_stream *s = layer->stream;
    hd_tensor like = expert < 0 ? param->weight.value : hd_tensor_index(&param->weight.value, expert);
    hd_status st = hd_tensor_new(s->arena, like.dtype, like.n_dim, like.shape, value, err);
    return st == HD_OK ? s->read(s->context, param - layer->first_param, expert, s->ex, value, err) : st;
}

/* Brings a unit into memory, unless it is the one that is there: logits come in chunks, each with the same head. */
static hd_status stream_unit(hd_layer *layer, hd_unit unit, hd_err *err)
{
    hd_weight_stream *s = layer->stream;
    if (s->held == layer && s->held_unit == (int)unit) { return HD_OK; }
    forget(s);
    s->held = layer;
    s->held_unit = (int)unit;
    for (int i = 0; i < layer->n_param; i++) {
        hd_param *param = layer->params[i];
        hd_tensor value;
        if (param->spec->unit != unit || hd_tensor_per_expert(param->spec)) { continue; }
        hd_status st = read_weight(layer, param, -1, &value, err);
        if (st != HD_OK) {
            forget(s);
            return st;
        }
        param->weight.value = value;
    }
    return HD_OK;
}

hd_status hd_weights_stream_expert(const hd_layer *layer, const hd_weight *w, int64_t expert, hd_weight *part, hd_err *err)
{
    const hd_param *param = (const hd_param *)(const void *)((const char *)w - offsetof(hd_param, live));
    *part = *w;
    return read_weight(layer, param, expert, &part->value, err);
}

/* ---- the three calls ----------------------------------------------------------------------------------------------------- */

hd_status hd_weights_acquire(hd_layer *layer, hd_unit unit, hd_err *err)
{
    if (layer->stream != NULL) {
        hd_status st = stream_unit(layer, unit, err);
        if (st != HD_OK) { return st; }
    }
    for (int i = 0; i < layer->n_param; i++) {
        hd_param *param = layer->params[i];
        if (param->spec->unit != unit) { continue; }
        if (param->live.value.n_dim > 0) {
            return HD_FAIL(err, HD_E_INVALID, "%s: acquired twice", param->name);
        }
        param->live = param->weight;
    }
    return HD_OK;
}

void hd_weights_release(hd_layer *layer, hd_unit unit)
{
    for (int i = 0; i < layer->n_param; i++) {
        hd_param *param = layer->params[i];
        if (param->spec->unit != unit || param->live.value.n_dim == 0) { continue; }
        param->weight.grad_accum = param->live.grad_accum;
        param->live = (hd_weight){0};
    }
}

hd_status hd_grads_ready(const hd_model *model, const hd_layer *layer, hd_unit unit, hd_err *err)
{
    if (model->grads_ready == NULL) { return HD_OK; }
    return model->grads_ready(model->grads_ready_context, unit, layer->index, err);
}

void hd_grads_begin(hd_model *model, bool first)
{
    for (int64_t i = 0; i < model->n_param; i++) { model->params[i].weight.grad_accum = first ? HD_SET : HD_ADD; }
}

void hd_grads_written(hd_weight *w)
{
    w->grad_accum = HD_ADD;
}

hd_status hd_linear_grad(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    return hd_weight_frozen(w) ? HD_OK : hd_linear_bwd_weight(ex, dy, x, w, err);
}
