/* The forward pass without a backward: evaluation loss and logits.  One residual stream (N, D) is updated in place. */
#include "model/layer.h"
#include "model/weights.h"

hd_status hd_embed(hd_pass *p, hd_tensor *x)
{
    hd_layer *globals = hd_pass_globals(p);
    hd_status st = hd_weights_acquire(globals, HD_UNIT_EMBEDDING, p->err);
    if (st == HD_OK) { st = hd_embedding_fwd(p->ex, &p->leaf->inputs, globals->embedding, x, p->err); }
    hd_weights_release(globals, HD_UNIT_EMBEDDING);
    return st;
}

hd_status hd_loss_main(hd_pass *p, const hd_tensor *h, hd_tensor *dh)
{
    hd_layer *globals = hd_pass_globals(p);
    hd_loss loss = {.norm = globals->final_norm, .head = globals->head, .targets = p->leaf->targets,
                    .weights = p->leaf->loss_weights, .z_loss = p->options->z_loss_multiplier,
                    .scale = 1.0 / p->leaf->weight_total, .sum_xent = HD_SUM_XENT, .sum_z = HD_SUM_Z};
    hd_status st = hd_weights_acquire(globals, HD_UNIT_HEAD, p->err);
    if (st == HD_OK) { st = hd_loss_run(p, &loss, h, dh); }
    hd_weights_release(globals, HD_UNIT_HEAD);
    return st;
}

hd_status hd_trunk(hd_pass *p, hd_tensor *x)
{
    hd_status st;
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, x));
    HD_TRY(hd_embed(p, x));
    HD_TRY(hd_pass_observe(p, "embed", -1, x));
    for (int64_t l = 0; l < p->dims->n_layer; l++) {
        hd_layer *layer = &p->model->layers[l];
        layer->acts = (hd_layer_acts){0};
        HD_TRY(hd_layer_forward(p, layer, x, x));
    }
out:
    return st;
}

/* XENT += xent + z, Z += z, LOSS += (xent + z) / W. */
static hd_status add_metrics(hd_pass *p)
{
    hd_status st;
    static const struct { int sum, metric; bool scaled; } rows[] = {
        {HD_SUM_XENT, HD_METRIC_XENT, false}, {HD_SUM_Z, HD_METRIC_XENT, false}, {HD_SUM_Z, HD_METRIC_Z, false},
        {HD_SUM_XENT, HD_METRIC_LOSS, true},  {HD_SUM_Z, HD_METRIC_LOSS, true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_tensor sum = hd_pass_sum(p, rows[i].sum), metric = hd_tensor_slice(p->metrics, 0, rows[i].metric, 1);
        HD_TRY(hd_metric_add(p->ex, 0.0, rows[i].scaled ? 1.0 / p->leaf->weight_total : 1.0, &sum, &metric, p->err));
    }
out:
    return st;
}

hd_status hd_model_eval_leaf(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics, hd_err *err)
{
    hd_status st;
    hd_pass p;
    hd_tensor x;
    size_t mark = hd_arena_mark(step);
    HD_TRY(hd_pass_open(model, ex, step, leaf, metrics, &p, err));
    HD_TRY(hd_trunk(&p, &x));
    HD_TRY(hd_loss_main(&p, &x, NULL));
    HD_TRY(add_metrics(&p));
out:
    hd_arena_release(step, mark);
    return st;
}

hd_status hd_model_hidden(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *hidden, hd_err *err)
{
    hd_pass p;
    hd_status st = hd_pass_open(model, ex, step, leaf, NULL, &p, err);
    return st == HD_OK ? hd_trunk(&p, hidden) : st;
}

/* logits (n, V) = RMSNorm(rows of hidden) W^T */
hd_status hd_model_project(hd_model *model, hd_exec *ex, hd_arena *step, const hd_tensor *hidden, int64_t row_begin,
                           hd_tensor *logits, hd_err *err)
{
    hd_status st;
    hd_pass p = {.model = model, .dims = &model->dims, .options = &model->options, .ex = ex, .step = step,
                 .n_row = hidden->shape[0], .err = err};
    hd_layer *globals = hd_pass_globals(&p);
    hd_tensor norm, rows; /* (n, D) act */
    size_t mark = hd_arena_mark(step);
    if (logits->n_dim != 2 || row_begin < 0 || row_begin > p.n_row - logits->shape[0]) {
        return HD_FAIL(err, HD_E_INVALID, "logits: rows %lld .. of %lld, want a matrix inside the leaf", (long long)row_begin,
                       (long long)p.n_row);
    }
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_HEAD, err));
    rows = hd_tensor_slice(hidden, 0, row_begin, logits->shape[0]);
    HD_TRY(hd_pass_new(&p, p.options->dtype, rows.shape[0], p.dims->hidden_size, &norm));
    HD_TRY(hd_rmsnorm_fwd(ex, &rows, globals->final_norm, p.dims->rms_norm_eps, &norm, NULL, err));
    HD_TRY(hd_pass_observe(&p, "final_norm", -1, &norm));
    HD_TRY(hd_linear_fwd(ex, &norm, globals->head, HD_SET, logits, err));
    HD_TRY(hd_pass_observe(&p, "logits", -1, logits));
out:
    hd_weights_release(globals, HD_UNIT_HEAD);
    hd_arena_release(step, mark);
    return st;
}

hd_status hd_model_logits(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, int64_t row_begin,
                          hd_tensor *logits, hd_err *err)
{
    hd_status st;
    hd_tensor hidden;
    size_t mark = hd_arena_mark(step);
    HD_TRY(hd_model_hidden(model, ex, step, leaf, &hidden, err));
    HD_TRY(hd_model_project(model, ex, step, &hidden, row_begin, logits, err));
out:
    hd_arena_release(step, mark);
    return st;
}
