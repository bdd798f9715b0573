/* Forward and backward of one leaf: embedding, layers, losses, and back in the opposite order.
 * Shapes: legend in layer.h.
 *
 *   h_0 = Emb[inputs]; h_{l+1} = layer_l(h_l);                          dh_L  = d loss_main
 *   module m: x = eh_proj [RMSNorm(Emb[ids_m]) ; RMSNorm(g_{m-1})], g_{-1} = h_L; g_m = layer(x);  dg_m = d loss_m
 *   back: module by module dg_m -> dx -> dg_{m-1} += (dh_L += for the first); then dh_{l+1} -> dh_l; then the embedding.
 *
 * The residual streams h_l stay in the step arena; one gradient (N, D) walks down in place. */
#include "model/layer.h"
#include "model/weights.h"

static hd_layer *mtp_layer(const hd_pass *p, int64_t m) { return &p->model->layers[p->dims->n_layer + m]; }

/* What is handed from the forward to the backward half. */
typedef struct leaf_state {
    hd_tensor hidden;    /* (N, D): h_L */
    hd_tensor dh;        /* (N, D) */
    hd_tensor mtp_out;   /* (n_mtp, N, D): g_m */
    hd_tensor dmtp;      /* (n_mtp, N, D) */
} leaf_state;

static hd_tensor module_rows(const leaf_state *s, const hd_tensor *stack, int64_t m)
{
    return m < 0 ? (stack == &s->dmtp ? s->dh : s->hidden) : hd_tensor_index(stack, m);
}

static hd_status open_state(hd_pass *p, leaf_state *s)
{
    hd_status st;
    int64_t shape[3] = {p->dims->n_mtp, p->n_row, p->dims->hidden_size};
    *s = (leaf_state){0};
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &s->dh));
    if (p->dims->n_mtp > 0) {
        HD_TRY(hd_tensor_new(p->step, p->options->dtype, 3, shape, &s->dmtp, p->err));
        HD_TRY(hd_tensor_new(p->step, p->options->dtype, 3, shape, &s->mtp_out, p->err));
    }
out:
    return st;
}

/* ---- forward ---------------------------------------------------------------------------------------------------------- */

static hd_status forward_layers(hd_pass *p, leaf_state *s)
{
    hd_status st;
    hd_tensor x, y;
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &x));
    HD_TRY(hd_embed(p, &x));
    for (int64_t l = 0; l < p->dims->n_layer; l++) {
        hd_layer *layer = &p->model->layers[l];
        layer->input = x;
        HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &y));
        HD_TRY(hd_layer_keep(p, layer));
        HD_TRY(hd_layer_forward(p, layer, &x, &y));
        x = y;
    }
    s->hidden = x;
out:
    return st;
}

/* The scale of a module's gradient: one weighted mean over all modules. */
static double mtp_scale(const hd_pass *p)
{
    double total = p->leaf->mtp_weight_total;
    return total > 0.0 ? p->options->mtp_loss_scaling_factor / total : 0.0;
}

static hd_status mtp_loss(hd_pass *p, int64_t m, const hd_tensor *g, hd_tensor *dg)
{
    hd_status st;
    hd_layer *layer = mtp_layer(p, m), *globals = hd_pass_globals(p);
    hd_loss loss = {.norm = p->dims->mtp_own_norm ? layer->mtp_head_norm : globals->final_norm, .head = globals->head,
                    .targets = hd_tensor_index(&p->leaf->mtp_targets, m), .weights = hd_tensor_index(&p->leaf->mtp_weights, m),
                    .z_loss = 0.0, .scale = mtp_scale(p), .sum_xent = HD_SUM_MTP, .sum_z = HD_SUM_MTP_Z};
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_HEAD, p->err));
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_MTP, p->err));
    HD_TRY(hd_loss_run(p, &loss, g, dg));
out:
    hd_weights_release(layer, HD_UNIT_MTP);
    hd_weights_release(globals, HD_UNIT_HEAD);
    return st;
}

static hd_status forward_modules(hd_pass *p, leaf_state *s)
{
    hd_status st = HD_OK;
    for (int64_t m = 0; m < p->dims->n_mtp; m++) {
        hd_layer *layer = mtp_layer(p, m);
        hd_tensor previous = module_rows(s, &s->mtp_out, m - 1), g = module_rows(s, &s->mtp_out, m);
        hd_tensor dg = module_rows(s, &s->dmtp, m);
        HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &layer->input));
        HD_TRY(hd_mtp_input(p, layer, m, &previous, &layer->input));
        HD_TRY(hd_layer_keep(p, layer));
        HD_TRY(hd_layer_forward(p, layer, &layer->input, &g));
        HD_TRY(mtp_loss(p, m, &g, &dg));
    }
out:
    return st;
}

/* ---- backward ---------------------------------------------------------------------------------------------------------- */

static hd_status backward_modules(hd_pass *p, leaf_state *s)
{
    hd_status st = HD_OK;
    for (int64_t m = p->dims->n_mtp - 1; m >= 0; m--) {
        hd_layer *layer = mtp_layer(p, m);
        hd_tensor previous = module_rows(s, &s->mtp_out, m - 1), dprevious = module_rows(s, &s->dmtp, m - 1);
        hd_tensor dx = module_rows(s, &s->dmtp, m); /* from the gradient at g_m to the one at the layer's input */
        HD_TRY(hd_layer_backward(p, layer, &dx));
        HD_TRY(hd_mtp_input_backward(p, layer, m, &previous, &dx, &dprevious));
        HD_TRY(hd_grads_ready(p->model, layer, HD_UNIT_MTP, p->err));
    }
out:
    return st;
}

static hd_status backward_embedding(hd_pass *p, const hd_tensor *dh)
{
    hd_status st;
    hd_layer *globals = hd_pass_globals(p);
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_EMBEDDING, p->err));
    if (!hd_weight_frozen(globals->embedding)) {
        HD_TRY(hd_embedding_bwd(p->ex, &p->leaf->inputs, dh, globals->embedding, p->err));
    }
    hd_weights_release(globals, HD_UNIT_EMBEDDING);
    HD_TRY(hd_grads_ready(p->model, globals, HD_UNIT_EMBEDDING, p->err));
out:
    hd_weights_release(globals, HD_UNIT_EMBEDDING);
    return st;
}

static hd_status backward_layers(hd_pass *p, hd_tensor *dh)
{
    hd_status st = HD_OK;
    for (int64_t l = p->dims->n_layer - 1; l >= 0; l--) { HD_TRY(hd_layer_backward(p, &p->model->layers[l], dh)); }
    HD_TRY(backward_embedding(p, dh));
out:
    return st;
}

/* ---- metrics ------------------------------------------------------------------------------------------------------------ */

static hd_status add_metrics(hd_pass *p)
{
    hd_status st;
    double mean = 1.0 / p->leaf->weight_total;
    const struct { int sum, metric; double scale; } rows[] = {
        {HD_SUM_XENT, HD_METRIC_XENT, 1.0}, {HD_SUM_Z, HD_METRIC_XENT, 1.0}, {HD_SUM_Z, HD_METRIC_Z, 1.0},
        {HD_SUM_MTP, HD_METRIC_MTP, 1.0},   {HD_SUM_BALANCE, HD_METRIC_BALANCE, 1.0},
        {HD_SUM_XENT, HD_METRIC_LOSS, mean}, {HD_SUM_Z, HD_METRIC_LOSS, mean},
        {HD_SUM_MTP, HD_METRIC_LOSS, mtp_scale(p)}, {HD_SUM_BALANCE, HD_METRIC_LOSS, 1.0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_tensor sum = hd_pass_sum(p, rows[i].sum), metric = hd_tensor_slice(p->metrics, 0, rows[i].metric, 1);
        HD_TRY(hd_metric_add(p->ex, 0.0, rows[i].scale, &sum, &metric, p->err));
    }
out:
    return st;
}

hd_status hd_model_train_leaf(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics, hd_err *err)
{
    hd_status st;
    hd_pass p;
    leaf_state s;
    size_t mark = hd_arena_mark(step);
    if (!model->options.training) { return HD_FAIL(err, HD_E_INVALID, "the model was opened without training"); }
    if (!(leaf->weight_total > 0.0)) { return HD_FAIL(err, HD_E_INVALID, "leaf: weight_total is %g, want above 0", leaf->weight_total); }
    HD_TRY(hd_pass_open(model, ex, step, leaf, metrics, &p, err));
    hd_grads_begin(model, leaf->first);
    HD_TRY(open_state(&p, &s));
    HD_TRY(forward_layers(&p, &s));
    HD_TRY(hd_loss_main(&p, &s.hidden, &s.dh));
    HD_TRY(forward_modules(&p, &s));
    HD_TRY(hd_grads_ready(model, hd_pass_globals(&p), HD_UNIT_HEAD, err));
    HD_TRY(backward_modules(&p, &s));
    HD_TRY(backward_layers(&p, &s.dh));
    HD_TRY(add_metrics(&p));
out:
    hd_arena_release(step, mark);
    return st;
}
