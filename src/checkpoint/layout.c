/* From the state to files of known size.  See layout.h. */
#include "checkpoint/layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/json.h"
#include "checkpoint/hf_config.h"

enum { SNAPSHOT_ALIGN = 64 };

void hd_ckpt_layout_free(hd_ckpt_layout *layout)
{
    hd_shards_free(&layout->shards);
    hd_free(layout->tensors);
    hd_buf_free(&layout->names);
    *layout = (hd_ckpt_layout){0};
}

hd_tensor hd_ckpt_layout_view(const hd_ckpt_state *state, const hd_ckpt_layout_tensor *t)
{
    return t->ref.param >= 0 ? hd_hf_view(state->model, &t->ref) : *state->values[t->value].tensor;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

/* Names move while they are collected: until all are there, desc.begin holds a name's offset. */
static hd_status add_tensor(hd_ckpt_layout *l, const hd_tensor *view, const char *name, hd_ckpt_layout_tensor row, hd_err *err)
{
    row.desc = (hd_st_desc){.dtype = view->dtype, .n_dim = view->n_dim, .begin = (int64_t)l->names.n};
    for (int i = 0; i < view->n_dim; i++) { row.desc.shape[i] = view->shape[i]; }
    hd_buf_append(&l->names, name, strlen(name) + 1);
    if (!hd_tensor_is_contiguous(view)) { return HD_FAIL(err, HD_E_INVALID, "checkpoint tensor %s is not contiguous", name); }
    l->tensors[l->n_tensor++] = row;
    return hd_buf_check(&l->names, err);
}

static hd_status add_set(const hd_ckpt_state *state, hd_ckpt_layout *l, const hd_hf_ref *refs, int64_t n, hd_err *err)
{
    char name[HD_HF_NAME_MAX];
    hd_status st = HD_OK;
    for (int64_t i = 0; i < n; i++) {
        hd_tensor view = hd_hf_view(state->model, &refs[i]);
        HD_TRY(hd_hf_name(state->model, &refs[i], name, err));
        HD_TRY(add_tensor(l, &view, name, (hd_ckpt_layout_tensor){.ref = refs[i], .value = -1}, err));
    }
out:
    return st;
}

static hd_status check_value(const hd_ckpt_value *v, hd_err *err)
{
    size_t n = strlen(v->name);
    bool data = v->kind == HD_CKPT_I64   ? v->i64 != NULL || v->n == 0
                : v->kind == HD_CKPT_F64 ? v->f64 != NULL || v->n == 0
                                         : (v->kind == HD_CKPT_TEXT ? v->text != NULL : v->tensor != NULL);
    if (n == 0 || n > 100 || strspn(v->name, "abcdefghijklmnopqrstuvwxyz0123456789_.") != n || v->n < 0 || !data) {
        return HD_FAIL(err, HD_E_INVALID, "state value \"%s\": want a name of [a-z0-9_.] and data of its kind", v->name);
    }
    return HD_OK;
}

static hd_status add_values(const hd_ckpt_state *state, hd_ckpt_layout *l, hd_err *err)
{
    char name[HD_HF_NAME_MAX];
    hd_status st = HD_OK;
    for (int64_t i = 0; i < state->n_value; i++) {
        const hd_ckpt_value *v = &state->values[i];
        HD_TRY(check_value(v, err));
        if (v->kind != HD_CKPT_TENSOR) { continue; }
        (void)snprintf(name, sizeof name, HD_STATE_PREFIX "%s", v->name);
        HD_TRY(add_tensor(l, v->tensor, name, (hd_ckpt_layout_tensor){.ref = {.param = -1, .expert = -1}, .value = i}, err));
    }
out:
    return st;
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

static hd_status add_texts(const hd_model *model, hd_ckpt_layout *l, int64_t end_of_model, hd_err *err)
{
    hd_status st;
    hd_buf text = {0};
    if (end_of_model > 1) {
        hd_shards_index(&l->shards, end_of_model, &text);
        HD_TRY(hd_shards_add_text(&l->shards, "model.safetensors.index.json", &text, err));
    }
    hd_hf_config_write(&model->dims, model->options.weight_dtype, &text);
    HD_TRY(hd_shards_add_text(&l->shards, "config.json", &text, err));
    hd_hf_generation_config_write(&model->dims, &text);
    st = hd_shards_add_text(&l->shards, "generation_config.json", &text, err);
out:
    return st;
}

/* ---- sizes --------------------------------------------------------------------------------------------------------- */

/* Where each tensor lies in a snapshot: `at` holds the place of each parameter's weights, of expert 0 when it has experts. */
static hd_status place_snapshot(hd_ckpt_layout *l, int64_t *at, int64_t n_param, hd_err *err)
{
    size_t used = 0, rounded;
    for (int64_t p = 0; p < n_param; p++) { at[p] = -1; }
    for (int64_t i = 0; i < l->n_tensor; i++) {
        hd_ckpt_layout_tensor *t = &l->tensors[i];
        if (t->ref.param >= 0 && t->ref.role == HD_HF_COPY) { continue; }
        t->snapshot_at = (int64_t)used;
        if (t->ref.param >= 0 && t->ref.role == HD_HF_WEIGHT) { at[t->ref.param] = t->snapshot_at; }
        if (!hd_size_round_up((size_t)(t->desc.end - t->desc.begin), SNAPSHOT_ALIGN, &rounded) || !hd_size_add(used, rounded, &used)) {
            return HD_FAIL(err, HD_E_INVALID, "the snapshot of a checkpoint has more than 2^63 - 1 bytes");
        }
    }
    for (int64_t i = 0; i < l->n_tensor; i++) {
        hd_ckpt_layout_tensor *t = &l->tensors[i];
        if (t->ref.param >= 0 && t->ref.role == HD_HF_COPY) { t->snapshot_at = at[t->ref.param]; }
    }
    l->snapshot_bytes = used;
    return HD_OK;
}

static hd_status measure(const hd_model *model, hd_ckpt_layout *l, hd_err *err)
{
    void *at = NULL;
    hd_status st = hd_shards_bytes(&l->shards, &l->bytes, err);
    if (st == HD_OK) { st = hd_alloc((size_t)model->n_param + 1, sizeof(int64_t), "snapshot places", &at, err); }
    if (st == HD_OK) { st = place_snapshot(l, at, model->n_param, err); }
    hd_free(at);
    return st;
}

hd_status hd_ckpt_layout_build(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_ckpt_layout *out, hd_err *err)
{
    hd_status st;
    hd_hf_ref *model = NULL, *optimizer = NULL;
    int64_t n_model, n_optimizer, max_shard = max_shard_bytes > 0 ? max_shard_bytes : HD_CKPT_SHARD_BYTES;
    void *tensors = NULL;
    *out = (hd_ckpt_layout){0};
    HD_TRY(hd_hf_list(state->model, HD_HF_MODEL, &model, &n_model, err));
    HD_TRY(hd_hf_list(state->model, HD_HF_OPTIMIZER, &optimizer, &n_optimizer, err));
    HD_TRY(hd_alloc((size_t)(n_model + n_optimizer + state->n_value), sizeof *out->tensors, "checkpoint tensors", &tensors, err));
    out->tensors = tensors;
    HD_TRY(add_set(state, out, model, n_model, err));
    HD_TRY(add_set(state, out, optimizer, n_optimizer, err));
    HD_TRY(add_values(state, out, err));
    for (int64_t i = 0; i < out->n_tensor; i++) { out->tensors[i].desc.name = out->names.data + out->tensors[i].desc.begin; }
    out->shards.rows = out->tensors;
    out->shards.row_bytes = sizeof *out->tensors;
    HD_TRY(hd_shards_cut(&out->shards, 0, n_model, max_shard, "model", err));
    int64_t end_of_model = out->shards.n_file;
    HD_TRY(hd_shards_cut(&out->shards, n_model, out->n_tensor, max_shard, HD_OPTIMIZER_FOLDER "/optimizer", err));
    HD_TRY(add_texts(state->model, out, end_of_model, err));
    HD_TRY(measure(state->model, out, err));
out:
    hd_free(model);
    hd_free(optimizer);
    if (st != HD_OK) { hd_ckpt_layout_free(out); }
    return st;
}
