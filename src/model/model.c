/* Opening a model: the table expanded, every tensor that lives as long as the model, pointers from layers to weights.
 *
 * Order in the arena: the RoPE table, then row by row of the table the weights (value, and its master when that is another
 * tensor), then all gradients in one piece, then the moments.  On a dry arena the same code only counts. */
#include "model/model.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "model/layer.h"
#include "model/masks.h"

/* ---- the table expanded ------------------------------------------------------------------------------------------- */

static int64_t count_layers(const hd_dims *dims) { return dims->n_layer + dims->n_mtp; }

static int64_t count_rows(const hd_dims *dims)
{
    int n_spec;
    int64_t n = 0;
    const hd_tensor_spec *table = hd_tensor_table(&n_spec);
    for (int s = 0; s < n_spec; s++) {
        for (int64_t layer = -1; layer < count_layers(dims); layer++) { n += hd_tensor_in_layer(dims, &table[s], layer); }
    }
    return n;
}

/* The layer that a parameter belongs to; globals have one of their own behind the others. */
static hd_layer *layer_of(const hd_model *model, int64_t layer)
{
    return &model->layers[layer < 0 ? count_layers(&model->dims) : layer];
}

static void bind(hd_model *model, hd_param *param)
{
    hd_layer *layer = layer_of(model, param->layer);
    *(hd_weight **)((char *)layer + param->spec->slot) = &param->live;
    layer->params[layer->n_param++] = param;
}

static hd_status add_param(hd_model *model, const hd_tensor_spec *spec, int64_t layer, hd_err *err)
{
    char name[HD_NAME_MAX];
    hd_param *param = &model->params[model->n_param];
    *param = (hd_param){.spec = spec, .layer = layer};
    hd_tensor_hf_name(spec, layer, -1, name);
    hd_status st = hd_strdup(name, &param->name, err);
    if (st != HD_OK) { return st; }
    model->n_param++;
    bind(model, param);
    return HD_OK;
}

static hd_status expand_table(hd_model *model, hd_err *err)
{
    hd_status st = HD_OK;
    int n_spec;
    const hd_dims *dims = &model->dims;
    const hd_tensor_spec *table = hd_tensor_table(&n_spec);
    for (int64_t l = 0; l <= count_layers(dims); l++) {
        bool global = l == count_layers(dims), moe = !global && hd_layer_is_moe(dims, l);
        model->layers[l] = (hd_layer){.index = global ? -1 : l, .is_moe = moe, .moe_index = moe ? model->n_moe_layer : -1};
        model->n_moe_layer += moe;
    }
    for (int s = 0; s < n_spec; s++) {
        for (int64_t layer = -1; layer < count_layers(dims); layer++) {
            if (hd_tensor_in_layer(dims, &table[s], layer)) { HD_TRY(add_param(model, &table[s], layer, err)); }
        }
    }
out:
    return st;
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static hd_status new_like(hd_model *model, const hd_param *param, hd_dtype dtype, hd_arena *arena, hd_tensor *t, hd_err *err)
{
    int64_t shape[HD_MAX_DIMS];
    for (int a = 0; a < param->spec->n_axis; a++) { shape[a] = hd_axis_length(&model->dims, param->spec->axes[a]); }
    hd_status st = hd_tensor_new(arena, dtype, param->spec->n_axis, shape, t, err);
    return st == HD_OK ? HD_OK : (hd_err_prefix(err, "%s: ", param->name), st);
}

static hd_status new_weights(hd_model *model, hd_arena *arena, hd_err *err)
{
    hd_status st = HD_OK;
    hd_arena nowhere; /* shapes without memory */
    bool elsewhere = model->options.streamed || model->options.mapped;
    hd_arena_open_dry(&nowhere, "weights in files");
    for (int64_t i = 0; i < model->n_param; i++) {
        hd_param *param = &model->params[i];
        hd_dtype dtype = param->spec->keep_f32 ? HD_DTYPE_F32 : model->options.weight_dtype;
        param->weight.layout = HD_LAYOUT_OUT_IN;
        HD_TRY(new_like(model, param, dtype, elsewhere ? &nowhere : arena, &param->weight.value, err));
        if (elsewhere) { continue; }
        if (dtype == HD_DTYPE_F32) {
            param->master = param->weight.value;
        } else if (param->trained) {
            HD_TRY(new_like(model, param, HD_DTYPE_F32, arena, &param->master, err));
        }
    }
out:
    return st;
}

enum { GRAD_ALIGN = 64 / sizeof(float) };

/* One flat tensor; a parameter's gradient is a view of a piece that begins at a multiple of 64 bytes. */
static hd_status new_gradients(hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t total = 0;
    for (int64_t i = 0; i < model->n_param; i++) {
        const hd_tensor *value = &model->params[i].weight.value;
        if (model->params[i].trained) { total += (hd_tensor_count(value) + GRAD_ALIGN - 1) / GRAD_ALIGN * GRAD_ALIGN; }
    }
    if (total == 0) { return HD_OK; }
    HD_TRY(hd_tensor_new_1d(arena, HD_DTYPE_F32, total, &model->grad_flat, err));
    HD_TRY(hd_fill(ex, 0.0, &model->grad_flat, err));
    total = 0;
    for (int64_t i = 0; i < model->n_param; i++) {
        hd_weight *w = &model->params[i].weight;
        int64_t n = hd_tensor_count(&w->value);
        if (!model->params[i].trained) { continue; }
        hd_tensor piece = hd_tensor_slice(&model->grad_flat, 0, total, n);
        w->grad = hd_tensor_reshape(&piece, w->value.n_dim, w->value.shape);
        total += (n + GRAD_ALIGN - 1) / GRAD_ALIGN * GRAD_ALIGN;
    }
out:
    return st;
}

static hd_status new_moments(hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_status st = HD_OK;
    for (int64_t i = 0; i < model->n_param; i++) {
        hd_param *param = &model->params[i];
        if (!param->trained) { continue; }
        HD_TRY(new_like(model, param, model->options.mu_dtype, arena, &param->mu, err));
        HD_TRY(new_like(model, param, HD_DTYPE_F32, arena, &param->nu, err));
        HD_TRY(hd_fill(ex, 0.0, &param->mu, err));
        HD_TRY(hd_fill(ex, 0.0, &param->nu, err));
    }
out:
    return st;
}

/* (P, r / 2, 2): made on the host by the one function that knows the angles. */
static hd_status new_rope_table(hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_status st;
    void *host = NULL;
    hd_rope_spec spec = model->dims.rope;
    spec.n_positions = model->options.max_positions;
    int64_t shape[3] = {spec.n_positions, spec.dim / 2, 2};
    HD_TRY(hd_tensor_new(arena, HD_DTYPE_F32, 3, shape, &model->rope_table, err));
    if (!ex->dry) {
        HD_TRY(hd_alloc((size_t)hd_tensor_count(&model->rope_table), sizeof(float), "RoPE table", &host, err));
        HD_TRY(hd_rope_table(&spec, host, err));
    }
    HD_TRY(hd_exec_upload(ex, host, &model->rope_table, err));
out:
    hd_free(host);
    return st;
}

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static bool is_activation(hd_dtype dtype) { return dtype == HD_DTYPE_F32 || dtype == HD_DTYPE_BF16; }

static hd_status check_options(const hd_dims *dims, const hd_model_options *o, hd_err *err)
{
    if (!is_activation(o->dtype) || !is_activation(o->weight_dtype) || !is_activation(o->mu_dtype)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "dtype %s, weight_dtype %s, mu_dtype %s: want F32 or BF16 each",
                       hd_dtype_name(o->dtype), hd_dtype_name(o->weight_dtype), hd_dtype_name(o->mu_dtype));
    }
    if (o->max_positions < 1) {
        return HD_FAIL(err, HD_E_INVALID, "max_positions is %lld, want at least 1", (long long)o->max_positions);
    }
    if ((o->streamed || o->mapped) && o->training) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "training needs its weights in memory");
    }
    if (dims->n_expert > 0 && o->moe_strategy == HD_MOE_DROPPING && !(o->capacity_factor > 0.0)) {
        return HD_FAIL(err, HD_E_CONFIG, "capacity_factor is %g, want above 0 when tokens are dropped", o->capacity_factor);
    }
    return HD_OK;
}

hd_status hd_model_open(const hd_dims *dims, const hd_model_options *options, hd_exec *ex, hd_arena *arena, hd_model *model,
                        hd_err *err)
{
    hd_status st;
    void *params = NULL, *layers = NULL;
    *model = (hd_model){.dims = *dims, .options = *options};
    HD_TRY(hd_dims_validate(dims, err));
    HD_TRY(check_options(dims, options, err));
    HD_TRY(hd_alloc((size_t)count_rows(dims), sizeof(hd_param), "table of parameters", &params, err));
    model->params = params;
    HD_TRY(hd_alloc((size_t)count_layers(dims) + 1, sizeof(hd_layer), "table of layers", &layers, err));
    model->layers = layers;
    HD_TRY(expand_table(model, err));
    HD_TRY(hd_masks_apply(model, err));
    HD_TRY(new_rope_table(model, ex, arena, err));
    HD_TRY(new_weights(model, arena, err));
    HD_TRY(new_gradients(model, ex, arena, err));
    HD_TRY(new_moments(model, ex, arena, err));
out:
    if (st != HD_OK) { hd_model_close(model); }
    return st;
}

void hd_model_set_stream(hd_model *model, hd_weight_stream *stream)
{
    model->stream = stream;
    stream->held = NULL;
    for (int64_t l = 0; l <= count_layers(&model->dims); l++) {
        model->layers[l].stream = stream;
        model->layers[l].first_param = model->params;
    }
}

void hd_model_close(hd_model *model)
{
    if (model == NULL) { return; }
    for (int64_t i = 0; i < model->n_param; i++) { hd_free(model->params[i].name); }
    hd_free(model->params);
    hd_free(model->layers);
    *model = (hd_model){0};
}

/* ---- router bias --------------------------------------------------------------------------------------------------- */

int64_t hd_model_n_metric(const hd_model *model)
{
    return HD_METRIC_COUNT + model->n_moe_layer * model->dims.n_expert;
}

hd_tensor hd_model_expert_counts(const hd_model *model, const hd_tensor *metrics, int64_t moe_index)
{
    return hd_tensor_slice(metrics, 0, HD_METRIC_COUNT + moe_index * model->dims.n_expert, model->dims.n_expert);
}

hd_status hd_model_update_router_bias(hd_model *model, hd_exec *ex, const hd_tensor *metrics, const hd_tensor *control,
                                      hd_err *err)
{
    double rate = model->options.router_bias_update_rate;
    if (!(rate > 0.0)) { return HD_OK; }
    for (int64_t i = 0; i < model->n_param; i++) {
        hd_param *param = &model->params[i];
        if (param->spec->slot != offsetof(hd_layer, router_bias)) { continue; }
        hd_tensor counts = hd_model_expert_counts(model, metrics, layer_of(model, param->layer)->moe_index);
        hd_status st = hd_router_bias_update(ex, &counts, rate, control, &param->weight.value, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}
