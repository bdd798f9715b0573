/* The first MTP module against its latent cache.  See draft.h.  Shapes: legend in layer.h; S sequences of a list.
 *
 * Of all rows only the last of each sequence must go through the module's layer: the others are asked for their latents alone.  So a pass
 * over all N rows makes the layer's input and fills the caches, and a pass over S rows runs the layer. */
#include "model/draft.h"

#include "base/alloc.h"
#include "model/layer.h"
#include "model/weights.h"

static hd_layer *module_layer(hd_model *model) { return &model->layers[model->dims.n_layer]; }

static void grow(const hd_extension *list, int64_t n, int64_t sign)
{
    for (int64_t s = 0; s < n; s++) { list[s].cache->length += sign * list[s].n; }
}

/* x (N, D): the layer's input for every row; the caches' rows are filled, their lengths as they were. */
static hd_status enter(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *hidden, hd_tensor *x,
                       hd_err *err)
{
    hd_status st;
    hd_pass p;
    hd_leaf leaf;
    hd_layer *layer = module_layer(model);
    if (model->dims.n_mtp < 1) { return HD_FAIL(err, HD_E_INVALID, "draft: the model has no MTP module"); }
    HD_TRY(hd_pass_open_cached(model, ex, step, list, n, &leaf, &p, err));
    const int64_t one_row[2] = {1, p.n_row};
    leaf.mtp_inputs = hd_tensor_reshape(&leaf.inputs, 2, one_row);
    HD_TRY(hd_pass_rows(&p, model->dims.hidden_size, x));
    HD_TRY(hd_mtp_input(&p, layer, 0, hidden, x));
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_ATTENTION, err));
    HD_TRY(hd_attention_remember(&p, layer, x));
out:
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    return st;
}

hd_status hd_model_follow(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *hidden, hd_err *err)
{
    hd_tensor x;
    size_t mark = hd_arena_mark(step);
    hd_status st = enter(model, ex, step, list, n, hidden, &x, err);
    if (st == HD_OK) { grow(list, n, 1); }
    hd_arena_release(step, mark);
    return st;
}

/* logits (S, V) = RMSNorm(x) W^T, with the module's own norm or the main one. */
static hd_status project(hd_pass *p, const hd_tensor *x, hd_tensor *logits)
{
    hd_status st;
    hd_layer *layer = module_layer(p->model), *globals = hd_pass_globals(p);
    bool own = p->dims->mtp_own_norm;
    hd_layer *norm_layer = own ? layer : globals;
    hd_unit norm_unit = own ? HD_UNIT_MTP : HD_UNIT_HEAD;
    hd_tensor norm; /* (S, D) act */
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &norm));
    HD_TRY(hd_weights_acquire(norm_layer, norm_unit, p->err));
    HD_TRY(hd_rmsnorm_fwd(p->ex, x, own ? layer->mtp_head_norm : globals->final_norm, p->dims->rms_norm_eps, &norm, NULL, p->err));
    hd_weights_release(norm_layer, norm_unit); /* before the next: a streamed model has room for one unit */
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_HEAD, p->err));
    HD_TRY(hd_linear_fwd(p->ex, &norm, globals->head, HD_SET, logits, p->err));
out:
    hd_weights_release(norm_layer, norm_unit);
    hd_weights_release(globals, HD_UNIT_HEAD);
    return st;
}

/* The last row of each sequence, (S, D), and the list of them alone. */
static hd_status last_rows(hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *x, hd_extension *ends, hd_tensor *last,
                           hd_err *err)
{
    int64_t end = 0;
    hd_status st = hd_tensor_new_2d(step, x->dtype, n, x->shape[1], last, err);
    for (int64_t s = 0; s < n && st == HD_OK; s++) {
        const hd_extension *e = &list[s];
        end += e->n;
        ends[s] = (hd_extension){.cache = e->cache, .tokens = e->tokens != NULL ? e->tokens + e->n - 1 : NULL, .n = 1};
        hd_tensor from = hd_tensor_slice(x, 0, end - 1, 1), to = hd_tensor_slice(last, 0, s, 1);
        st = hd_copy(ex, &from, &to, err);
    }
    return st;
}

/* The layer over the rows of `ends`, whose caches are filled up to the position before; x is overwritten. */
static hd_status run_layer(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *ends, int64_t n, hd_tensor *x, hd_tensor *logits,
                           hd_err *err)
{
    hd_status st;
    hd_pass p;
    hd_leaf leaf;
    hd_layer *layer = module_layer(model);
    HD_TRY(hd_pass_open_cached(model, ex, step, ends, n, &leaf, &p, err));
    layer->acts = (hd_layer_acts){0};
    HD_TRY(hd_layer_forward(&p, layer, x, x));
    HD_TRY(project(&p, x, logits));
out:
    return st;
}

hd_status hd_model_draft(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, const hd_tensor *hidden,
                         hd_tensor *logits, hd_err *err)
{
    hd_status st;
    hd_tensor x, last; /* (N, D), (S, D) act */
    void *ends = NULL;
    size_t mark = hd_arena_mark(step);
    HD_TRY(hd_alloc((size_t)n, sizeof(hd_extension), "ends of sequences", &ends, err));
    HD_TRY(enter(model, ex, step, list, n, hidden, &x, err));
    HD_TRY(last_rows(ex, step, list, n, &x, ends, &last, err));
    grow(list, n, 1);
    grow(ends, n, -1);
    st = run_layer(model, ex, step, ends, n, &last, logits, err);
    grow(ends, n, 1);
    if (st != HD_OK) { grow(list, n, -1); }
out:
    hd_free(ends);
    hd_arena_release(step, mark);
    return st;
}
