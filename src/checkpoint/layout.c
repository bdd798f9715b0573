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
    for (int64_t i = 0; i < layout->n_file; i++) { hd_buf_free(&layout->files[i].head); }
    hd_free(layout->files);
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

static hd_status add_file(hd_ckpt_layout *l, hd_ckpt_layout_file **out, hd_err *err)
{
    void *rows = l->files;
    if (l->n_file == l->file_capacity) {
        int64_t wider = l->file_capacity == 0 ? 16 : 2 * l->file_capacity;
        hd_status st = hd_realloc(&rows, (size_t)l->file_capacity, (size_t)wider, sizeof *l->files, "checkpoint files", err);
        if (st != HD_OK) { return st; }
        l->files = rows;
        l->file_capacity = wider;
    }
    *out = &l->files[l->n_file++];
    **out = (hd_ckpt_layout_file){0};
    return HD_OK;
}

static int by_file_order(const void *a, const void *b)
{
    return hd_st_compare(&((const hd_ckpt_layout_tensor *)a)->desc, &((const hd_ckpt_layout_tensor *)b)->desc);
}

/* Orders a file's tensors, places them and makes the header. */
static hd_status finish_file(hd_ckpt_layout *l, hd_ckpt_layout_file *f, hd_err *err)
{
    hd_status st;
    int64_t data = 0;
    hd_ckpt_layout_tensor *t = l->tensors + f->first;
    if (f->n > 1) { qsort(t, (size_t)f->n, sizeof *t, by_file_order); }
    hd_st_header_begin(&f->head);
    for (int64_t i = 0; i < f->n; i++) {
        HD_TRY(hd_st_place(&t[i].desc, &data, err));
        hd_st_header_tensor(&f->head, &t[i].desc);
    }
    HD_TRY(hd_st_header_end(&f->head, err));
    if (!hd_i64_add(data, (int64_t)f->head.n, &f->bytes)) {
        st = HD_FAIL(err, HD_E_INVALID, "%s: more than 2^63 - 1 bytes", f->name);
    }
out:
    return st;
}

/* Cuts tensors [first, end) into files of at most max_shard bytes of data (one tensor at least), and names them. */
static hd_status cut_shards(hd_ckpt_layout *l, int64_t first, int64_t end, int64_t max_shard, const char *stem, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t first_file = l->n_file, held = 0, bytes;
    hd_ckpt_layout_file *f = NULL;
    for (int64_t i = first; i < end; i++) {
        const hd_st_desc *d = &l->tensors[i].desc;
        if (!hd_st_bytes(d->dtype, d->n_dim, d->shape, &bytes)) {
            st = HD_FAIL(err, HD_E_INVALID, "tensor %s: more than 2^63 - 1 bytes", d->name);
            goto out;
        }
        if (f == NULL || (held > 0 && bytes > max_shard - held)) {
            HD_TRY(add_file(l, &f, err));
            f->first = i;
            held = 0;
        }
        f->n++;
        held += bytes;
    }
    int64_t n = l->n_file - first_file;
    for (int64_t i = 0; i < n; i++) {
        f = &l->files[first_file + i];
        if (n == 1) {
            (void)snprintf(f->name, sizeof f->name, "%s.safetensors", stem);
        } else {
            (void)snprintf(f->name, sizeof f->name, "%s-%05" PRId64 "-of-%05" PRId64 ".safetensors", stem, i + 1, n);
        }
        HD_TRY(finish_file(l, f, err));
    }
out:
    return st;
}

static void write_index(const hd_ckpt_layout *l, int64_t first_file, int64_t end_file, hd_buf *out)
{
    hd_json_writer w;
    int64_t total = 0;
    for (int64_t i = first_file; i < end_file; i++) { total += l->files[i].bytes - (int64_t)l->files[i].head.n; }
    hd_json_writer_init(&w, out, 1);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "metadata");
    hd_json_write_object(&w);
    hd_json_write_key(&w, "total_size");
    hd_json_write_i64(&w, total);
    hd_json_write_end(&w);
    hd_json_write_key(&w, "weight_map");
    hd_json_write_object(&w);
    for (int64_t i = first_file; i < end_file; i++) {
        const hd_ckpt_layout_file *f = &l->files[i];
        for (int64_t t = 0; t < f->n; t++) {
            hd_json_write_key(&w, l->tensors[f->first + t].desc.name);
            hd_json_write_string(&w, f->name);
        }
    }
    hd_json_write_end(&w);
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}

static hd_status add_text(hd_ckpt_layout *l, const char *name, hd_buf *text, hd_err *err)
{
    hd_ckpt_layout_file *f;
    hd_status st = hd_buf_check(text, err);
    if (st == HD_OK) { st = add_file(l, &f, err); }
    if (st != HD_OK) {
        hd_buf_free(text);
        return st;
    }
    (void)snprintf(f->name, sizeof f->name, "%s", name);
    f->head = *text; /* ownership moves */
    *text = (hd_buf){0};
    f->bytes = (int64_t)f->head.n;
    return HD_OK;
}

static hd_status add_texts(const hd_model *model, hd_ckpt_layout *l, int64_t end_of_model, hd_err *err)
{
    hd_status st;
    hd_buf text = {0};
    if (end_of_model > 1) {
        write_index(l, 0, end_of_model, &text);
        HD_TRY(add_text(l, "model.safetensors.index.json", &text, err));
    }
    hd_hf_config_write(&model->dims, model->options.weight_dtype, &text);
    HD_TRY(add_text(l, "config.json", &text, err));
    hd_hf_generation_config_write(&model->dims, &text);
    st = add_text(l, "generation_config.json", &text, err);
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
    l->bytes = 0;
    for (int64_t i = 0; i < l->n_file; i++) {
        if (!hd_i64_add(l->bytes, l->files[i].bytes, &l->bytes)) {
            return HD_FAIL(err, HD_E_INVALID, "a checkpoint of more than 2^63 - 1 bytes");
        }
    }
    hd_status st = hd_alloc((size_t)model->n_param + 1, sizeof(int64_t), "snapshot places", &at, err);
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
    HD_TRY(cut_shards(out, 0, n_model, max_shard, "model", err));
    int64_t end_of_model = out->n_file;
    HD_TRY(cut_shards(out, n_model, out->n_tensor, max_shard, HD_OPTIMIZER_FOLDER "/optimizer", err));
    HD_TRY(add_texts(state->model, out, end_of_model, err));
    HD_TRY(measure(state->model, out, err));
out:
    hd_free(model);
    hd_free(optimizer);
    if (st != HD_OK) { hd_ckpt_layout_free(out); }
    return st;
}
