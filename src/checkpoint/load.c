/* The load: match, copy, verify the rest, hand over the values.  See load.h. */
#include "checkpoint/load.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "checkpoint/folder.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/layout.h"
#include "checkpoint/scan.h"
#include "checkpoint/source.h"
#include "hadal/log.h"
#include "tensor/convert.h"

/* One tensor of the folder and where it goes: at most two tensors of the model (value and master of a weight). */
typedef struct load_item {
    hd_source_tensor source;
    int32_t file;      /* of its place, for the order of reading */
    int64_t offset;
    hd_tensor to[2];
    int n_to;
    int64_t original;  /* of a stored copy: the place it must equal; else -1 */
} load_item;

typedef struct load {
    hd_folder *folder;
    hd_source source;
    hd_exec *ex;
    hd_model *model;
    hd_ckpt_state *state; /* NULL: parameters only */
    load_item *items;
    int64_t n_item;
    unsigned char *wanted; /* one byte per place */
    unsigned char *piece;  /* HD_LOAD_PIECE elements of up to 8 bytes */
} load;

/* ---- matching ------------------------------------------------------------------------------------------------------ */

static bool same_shape(const hd_source_tensor *found, const hd_tensor *t)
{
    if (found->n_dim != t->n_dim) { return false; }
    for (int i = 0; i < t->n_dim; i++) {
        if (found->shape[i] != t->shape[i]) { return false; }
    }
    return true;
}

static hd_status missing(const load *l, const char *name, const hd_tensor *want, hd_err *err)
{
    char text[HD_ST_TEXT];
    return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is missing, the model wants %s", l->folder->path, name,
                   hd_st_describe(want->dtype, want->n_dim, want->shape, text));
}

/* Finds a tensor and checks it against what will receive it. */
static hd_status match(load *l, const char *name, const hd_tensor *want, bool exact, hd_source_tensor *t, hd_err *err)
{
    char found[HD_ST_TEXT], wanted[HD_ST_TEXT];
    hd_status st = hd_source_find(l->folder, name, t, err);
    if (st != HD_OK) { return st; }
    if (t->place < 0) { return missing(l, name, want, err); }
    const char *path = hd_st_path(hd_folder_reader(l->folder, t->place));
    l->wanted[t->place] = 1;
    if (t->scale_place >= 0) { l->wanted[t->scale_place] = 1; }
    hd_st_describe(t->dtype, t->n_dim, t->shape, found);
    hd_st_describe(want->dtype, want->n_dim, want->shape, wanted);
    if (!same_shape(t, want) || (exact && t->dtype != want->dtype)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is %s, the model wants %s", path, name, found, wanted);
    }
    if (!exact && !hd_source_is_float(t)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is %s, want F32, BF16, F16 or F8_E4M3 of this shape", path, name, found);
    }
    return HD_OK;
}

static load_item *add_item(load *l, const hd_source_tensor *t)
{
    load_item *item = &l->items[l->n_item++];
    *item = (load_item){.source = *t,
                        .file = l->folder->places[t->place].file,
                        .offset = hd_folder_info(l->folder, t->place).offset + hd_dtype_run_bytes(t->dtype, t->first),
                        .original = -1};
    return item;
}

/* A weight goes to the value, and to the master when nothing better is there; an f32 weight prefers the file's master. */
static hd_status match_weight(load *l, const hd_hf_ref *ref, hd_err *err)
{
    hd_status st;
    hd_source_tensor weight, master;
    char name[HD_HF_NAME_MAX];
    hd_hf_ref master_ref = *ref;
    const hd_param *param = &l->model->params[ref->param];
    hd_tensor value = hd_hf_view(l->model, ref);
    bool own_master = hd_param_has_master(param);
    master_ref.role = HD_HF_MASTER;
    hd_tensor master_view = own_master ? hd_hf_view(l->model, &master_ref) : (hd_tensor){0}; /* only a model that trains has masters */
    HD_TRY(hd_hf_name(l->model, &master_ref, name, err));
    bool has_master = hd_folder_find(l->folder, name) >= 0;
    if (has_master) { HD_TRY(match(l, name, &value, false, &master, err)); }
    HD_TRY(hd_hf_name(l->model, ref, name, err));
    HD_TRY(match(l, name, &value, false, &weight, err));
    bool from_master = has_master && value.dtype == HD_DTYPE_F32;
    load_item *item = add_item(l, from_master ? &master : &weight);
    item->to[item->n_to++] = value;
    if (own_master && !has_master) { item->to[item->n_to++] = master_view; }
    if (own_master && has_master) {
        item = add_item(l, &master);
        item->to[item->n_to++] = master_view;
    }
out:
    return st;
}

/* Stored copies of MTP modules: absent is fine, different from what they copy is worth a word. */
static hd_status match_copy(load *l, const hd_hf_ref *ref, hd_err *err)
{
    hd_status st;
    char name[HD_HF_NAME_MAX], original[HD_HF_NAME_MAX];
    hd_source_tensor copy;
    hd_hf_ref source = {.param = ref->param, .expert = -1, .layer = -1, .role = HD_HF_WEIGHT};
    HD_TRY(hd_hf_name(l->model, ref, name, err));
    HD_TRY(hd_hf_name(l->model, &source, original, err));
    HD_TRY(hd_source_find(l->folder, name, &copy, err));
    if (copy.place < 0) { goto out; }
    l->wanted[copy.place] = 1;
    if (copy.scale_place >= 0) { l->wanted[copy.scale_place] = 1; }
    if (l->folder->is_checkpoint) { goto out; } /* written by us, covered by its checksums */
    copy = hd_source_stored(l->folder, copy.place);
    add_item(l, &copy)->original = hd_folder_find(l->folder, original);
out:
    return st;
}

static hd_status match_model(load *l, const hd_hf_ref *refs, int64_t n, hd_err *err)
{
    hd_status st = HD_OK;
    for (int64_t i = 0; i < n && st == HD_OK; i++) {
        st = refs[i].role == HD_HF_COPY ? match_copy(l, &refs[i], err) : match_weight(l, &refs[i], err);
    }
    return st;
}

static hd_status match_moments(load *l, const hd_hf_ref *refs, int64_t n, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_HF_NAME_MAX];
    hd_source_tensor t;
    for (int64_t i = 0; i < n; i++) {
        if (refs[i].role == HD_HF_MASTER) { continue; } /* with its weight */
        hd_tensor view = hd_hf_view(l->model, &refs[i]);
        HD_TRY(hd_hf_name(l->model, &refs[i], name, err));
        HD_TRY(match(l, name, &view, false, &t, err));
        load_item *item = add_item(l, &t);
        item->to[item->n_to++] = view;
    }
out:
    return st;
}

static hd_status match_values(load *l, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_HF_NAME_MAX];
    hd_source_tensor t;
    for (int64_t i = 0; i < l->state->n_value; i++) {
        const hd_ckpt_value *v = &l->state->values[i];
        if (v->kind != HD_CKPT_TENSOR) { continue; }
        (void)snprintf(name, sizeof name, HD_STATE_PREFIX "%s", v->name);
        if (v->optional) {
            int64_t place = hd_folder_find(l->folder, name);
            if (place < 0) { continue; }
            t = hd_source_stored(l->folder, place);
            if (!same_shape(&t, v->tensor) || t.dtype != v->tensor->dtype) { continue; }
        }
        HD_TRY(match(l, name, v->tensor, true, &t, err));
        load_item *item = add_item(l, &t);
        item->to[item->n_to++] = *v->tensor;
    }
out:
    return st;
}

/* A tensor that nobody wanted: of the model it is an error, of the optimizer only when the optimizer is loaded. */
static hd_status check_extra(const load *l, hd_err *err)
{
    static const char *const optimizer[] = {"master.", "mu.", "nu."};
    for (int64_t i = 0; i < l->folder->n_place; i++) {
        const char *name = hd_folder_info(l->folder, i).name, *path = hd_st_path(hd_folder_reader(l->folder, i));
        bool state = false;
        if (l->wanted[i] != 0 || hd_hf_may_ignore(&l->model->dims, name)) { continue; }
        if (l->folder->is_checkpoint && strncmp(name, HD_STATE_PREFIX, sizeof HD_STATE_PREFIX - 1) == 0) { continue; }
        for (int k = 0; k < 3 && l->folder->is_checkpoint; k++) {
            size_t n = strlen(optimizer[k]);
            state = state || (strncmp(name, optimizer[k], n) == 0 &&
                              (l->state == NULL || k == 0 || hd_hf_may_ignore(&l->model->dims, name + n)));
        }
        if (state) { continue; }
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s has no place in the model", path, name);
    }
    return HD_OK;
}

static int by_place(const void *a, const void *b)
{
    const load_item *x = a, *y = b;
    if (x->file != y->file) { return x->file < y->file ? -1 : 1; }
    return x->offset != y->offset ? (x->offset < y->offset ? -1 : 1) : x->source.place < y->source.place ? -1 : x->source.place > y->source.place;
}

static hd_status match_all(load *l, hd_err *err)
{
    hd_status st;
    hd_hf_ref *model = NULL, *optimizer = NULL;
    int64_t n_model, n_optimizer, n_value = l->state != NULL ? l->state->n_value : 0;
    void *memory = NULL;
    HD_TRY(hd_hf_list(l->model, HD_HF_MODEL, &model, &n_model, err));
    HD_TRY(hd_hf_list(l->model, HD_HF_OPTIMIZER, &optimizer, &n_optimizer, err));
    HD_TRY(hd_alloc((size_t)(2 * n_model + n_optimizer + n_value), sizeof *l->items, "tensors to load", &memory, err));
    l->items = memory;
    HD_TRY(hd_alloc((size_t)l->folder->n_place, 1, "tensors to load", &memory, err));
    l->wanted = memory;
    HD_TRY(match_model(l, model, n_model, err));
    if (l->state != NULL) {
        HD_TRY(match_moments(l, optimizer, n_optimizer, err));
        HD_TRY(match_values(l, err));
    }
    HD_TRY(check_extra(l, err));
    if (l->n_item > 1) { qsort(l->items, (size_t)l->n_item, sizeof *l->items, by_place); }
out:
    hd_free(model);
    hd_free(optimizer);
    return st;
}

/* ---- copying ------------------------------------------------------------------------------------------------------- */

/* Values are read once: a master is the wider of two, and the weight is rounded from it. */
static hd_status copy_item(load *l, load_item *item, hd_err *err)
{
    hd_rect rect = {0};
    hd_dtype dtype = item->to[item->n_to - 1].dtype;
    while (hd_rect_next(&item->source, HD_LOAD_PIECE, &rect)) {
        int64_t at = rect.row * item->source.columns + rect.column, n = rect.n_row * rect.n_column;
        hd_status st = hd_source_read(&l->source, &item->source, rect, dtype, l->piece, err);
        for (int k = 0; k < item->n_to && st == HD_OK; k++) {
            int64_t count = hd_tensor_count(&item->to[k]);
            hd_tensor flat = hd_tensor_reshape(&item->to[k], 1, &count);
            hd_tensor part = hd_tensor_slice(&flat, 0, at, n);
            unsigned char *values = l->piece;
            if (part.dtype != dtype) {
                values = l->piece + n * (int64_t)hd_dtype_bytes(dtype);
                hd_convert(dtype, l->piece, n, part.dtype, values);
            }
            st = hd_exec_upload(l->ex, values, &part, err);
        }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* Whether a stored copy has the bytes of what it copies. */
static hd_status compare_copy(load *l, const load_item *item, hd_err *err)
{
    hd_source_tensor copy = item->source, original = hd_source_stored(l->folder, item->original);
    hd_st_info info = hd_folder_info(l->folder, copy.place), other = hd_folder_info(l->folder, original.place);
    bool equal = info.bytes == other.bytes && copy.dtype == original.dtype;
    hd_rect rect = {0};
    while (equal && hd_rect_next(&copy, HD_LOAD_PIECE / 2, &rect)) {
        size_t n = (size_t)(rect.n_row * rect.n_column) * hd_dtype_bytes(copy.dtype);
        hd_status st = hd_source_read(&l->source, &copy, rect, copy.dtype, l->piece, err);
        if (st == HD_OK) { st = hd_source_read(&l->source, &original, rect, copy.dtype, l->piece + n, err); }
        if (st != HD_OK) { return st; }
        equal = memcmp(l->piece, l->piece + n, n) == 0;
    }
    if (!equal) {
        hd_log(HD_LOG_WARN, "%s: tensor %s differs from %s; the model has one table for both and uses the latter", l->folder->path,
               info.name, other.name);
    }
    return HD_OK;
}

static hd_status copy_all(load *l, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    HD_TRY(hd_alloc(sizeof(double), HD_LOAD_PIECE, "staging of a load", &memory, err));
    l->piece = memory;
    HD_TRY(hd_source_open(l->folder, &l->source, err));
    for (int64_t i = 0; i < l->n_item; i++) {
        load_item *item = &l->items[i];
        HD_TRY(item->original >= 0 ? compare_copy(l, item, err) : copy_item(l, item, err));
    }
    st = hd_folder_verify_rest(l->folder, err);
out:
    return st;
}

/* ---- values of the trainer ----------------------------------------------------------------------------------------- */

static const char *kind_name(hd_ckpt_kind kind) { return kind == HD_CKPT_I64 ? "i64" : kind == HD_CKPT_F64 ? "f64" : "text"; }

/* Checks, or (write) copies, the host values: all are checked before one is written. */
static hd_status take_values(load *l, bool write, hd_err *err)
{
    for (int64_t i = 0; i < l->state->n_value; i++) {
        hd_ckpt_value *v = &l->state->values[i];
        if (v->kind == HD_CKPT_TENSOR) { continue; }
        const hd_manifest_value *found = hd_manifest_find_value(&l->folder->manifest, v->name);
        bool fits = found != NULL && found->kind == v->kind && (v->kind == HD_CKPT_TEXT ? found->n <= v->n : found->n == v->n);
        if (!fits && !v->optional) {
            return found == NULL ? HD_FAIL(err, HD_E_CONFIG, "%s: state value %s is missing", l->folder->path, v->name)
                                 : HD_FAIL(err, HD_E_CONFIG, "%s: state value %s is %s[%" PRId64 "], want %s[%" PRId64 "]", l->folder->path,
                                           v->name, kind_name(found->kind), found->n, kind_name(v->kind), v->n);
        }
        if (!fits || !write || found->n == 0) { continue; }
        if (v->kind == HD_CKPT_I64) { memcpy(v->i64, found->i64, (size_t)v->n * sizeof *v->i64); }
        if (v->kind == HD_CKPT_F64) { memcpy(v->f64, found->f64, (size_t)v->n * sizeof *v->f64); }
        if (v->kind == HD_CKPT_TEXT) { memcpy(v->text, found->text, (size_t)found->n); }
    }
    return HD_OK;
}

/* ---- the public face ----------------------------------------------------------------------------------------------- */

hd_status hd_load_check(hd_folder *folder, const hd_dims *dims, hd_err *err)
{
    hd_status st;
    hd_arena memory, scratch;
    hd_exec ex;
    hd_model model = {0};
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = HD_DTYPE_F32, .mu_dtype = HD_DTYPE_F32, .max_positions = 1};
    load l = {.folder = folder, .ex = &ex, .model = &model};
    hd_arena_open_dry(&memory, "model");
    hd_arena_open_dry(&scratch, "scratch");
    HD_TRY(hd_exec_init(&ex, &scratch, 1, true, err));
    HD_TRY(hd_model_open(dims, &options, &ex, &memory, &model, err));
    st = match_all(&l, err);
out:
    hd_free(l.items);
    hd_free(l.wanted);
    hd_model_close(&model);
    hd_arena_close(&scratch);
    hd_arena_close(&memory);
    return st;
}

static hd_status check_config(const hd_folder *f, const hd_model *model, hd_err *err)
{
    hd_dims dims;
    hd_status st = hd_folder_dims(f, &dims, err);
    if (st != HD_OK) { return st; }
    /* Tensors of layers behind the last are taken for MTP modules: a wrong count must not pass as that. */
    if (dims.n_layer != model->dims.n_layer) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: num_hidden_layers is %" PRId64 ", the model being loaded has %" PRId64, f->path,
                       dims.n_layer, model->dims.n_layer);
    }
    hd_hf_config_warn_differences(f->path, &dims, &model->dims);
    return HD_OK;
}

static hd_status run(const char *path, int64_t step, hd_exec *ex, hd_model *model, hd_ckpt_state *state, hd_err *err)
{
    hd_status st = HD_OK;
    hd_folder folder = {0};
    load l = {.folder = &folder, .ex = ex, .model = model, .state = state};
    HD_TRY(hd_folder_open(path, step, &folder, err));
    if (state != NULL && !folder.is_checkpoint) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: a model folder without " HD_MANIFEST_NAME " has no optimizer state; use load_parameters_path",
                     path);
        goto out;
    }
    HD_TRY(check_config(&folder, model, err));
    HD_TRY(match_all(&l, err));
    if (state != NULL) { HD_TRY(take_values(&l, false, err)); }
    HD_TRY(copy_all(&l, err));
    if (state != NULL) {
        HD_TRY(take_values(&l, true, err));
        state->step = folder.manifest.step;
    }
out:
    hd_free(l.items);
    hd_free(l.wanted);
    hd_free(l.piece);
    hd_source_close(&l.source);
    hd_folder_close(&folder);
    return st;
}

hd_status hd_load_state(const char *path, int64_t step, hd_exec *ex, hd_ckpt_state *state, hd_err *err)
{
    return run(path, step, ex, state->model, state, err);
}

hd_status hd_load_parameters(const char *path, int64_t step, hd_exec *ex, hd_model *model, hd_err *err)
{
    return run(path, step, ex, model, NULL, err);
}

typedef struct load_args {
    hd_exec *ex;
    hd_model *model;
    hd_ckpt_state *state;
} load_args;

static hd_status load_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    load_args *a = arg;
    return run(path, step, a->ex, a->model, a->state, err);
}

hd_status hd_ckpt_load_full(const char *path, hd_exec *ex, hd_ckpt_state *state, hd_err *err)
{
    load_args args = {.ex = ex, .model = state->model, .state = state};
    return hd_scan_path(path, load_from, &args, err);
}

hd_status hd_ckpt_load_parameters(const char *path, hd_exec *ex, hd_model *model, hd_err *err)
{
    load_args args = {.ex = ex, .model = model};
    return hd_scan_path(path, load_from, &args, err);
}

static hd_status dims_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_folder folder = {0};
    hd_status st = hd_folder_open(path, step, &folder, err);
    if (st == HD_OK) { st = hd_folder_dims(&folder, arg, err); }
    hd_folder_close(&folder);
    return st;
}

hd_status hd_ckpt_read_dims(const char *path, hd_dims *dims, hd_err *err) { return hd_scan_path(path, dims_from, dims, err); }

static hd_status info_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_ckpt_info *info = arg;
    hd_manifest m = {0};
    hd_status st = hd_folder_look(path, step, &m, err);
    if (st != HD_OK) { return st; }
    *info = (hd_ckpt_info){.step = m.step, .n_file = m.n_file};
    (void)snprintf(info->config_digest, sizeof info->config_digest, "%s", m.config_digest);
    (void)snprintf(info->version, sizeof info->version, "%s", m.version);
    (void)snprintf(info->created, sizeof info->created, "%s", m.created);
    (void)snprintf(info->path, sizeof info->path, "%s", path);
    for (int64_t i = 0; i < m.n_file; i++) { info->file_bytes += m.files[i].bytes; }
    hd_manifest_free(&m);
    return HD_OK;
}

hd_status hd_ckpt_read_info(const char *path, hd_ckpt_info *info, hd_err *err) { return hd_scan_path(path, info_from, info, err); }
