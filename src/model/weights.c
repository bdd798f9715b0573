/* Acquire, release, ready.  See weights.h. */
#include "model/weights.h"

hd_status hd_weights_acquire(hd_layer *layer, hd_unit unit, hd_err *err)
{
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

hd_weight hd_weight_expert(const hd_weight *w, int64_t expert)
{
    hd_weight part = *w;
    part.value = hd_tensor_index(&w->value, expert);
    if (w->grad.n_dim > 0) { part.grad = hd_tensor_index(&w->grad, expert); }
    return part;
}

hd_weight hd_weight_rows(const hd_weight *w, int64_t begin, int64_t length)
{
    hd_weight part = *w;
    part.value = hd_tensor_slice(&w->value, 0, begin, length);
    if (w->grad.n_dim > 0) { part.grad = hd_tensor_slice(&w->grad, 0, begin, length); }
    return part;
}

void hd_grads_written(hd_weight *w)
{
    w->grad_accum = HD_ADD;
}

hd_status hd_linear_grad(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    return hd_weight_frozen(w) ? HD_OK : hd_linear_bwd_weight(ex, dy, x, w, err);
}
