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
#include "hadal/log.h"

/* One tensor of the folder and where it goes: at most two tensors of the model (value and master of a weight). */
typedef struct load_item {
    int64_t place;
    int32_t file;      /* of the place, for the order of reading */
    int64_t offset;
    hd_tensor to[2];
    int n_to;
    int64_t original;  /* of a stored copy: the place it must equal; else -1 */
} load_item;

typedef struct load {
    hd_folder *folder;
    hd_exec *ex;
    hd_model *model;
    hd_ckpt_state *state; /* NULL: parameters only */
    load_item *items;
    int64_t n_item;
    unsigned char *wanted; /* one byte per place */
    unsigned char *raw, *converted;
} load;

/* ---- matching ------------------------------------------------------------------------------------------------------ */

static bool same_shape(const hd_st_info *info, const hd_tensor *t)
{
    if (info->n_dim != t->n_dim) { return false; }
    for (int i = 0; i < t->n_dim; i++) {
        if (info->shape[i] != t->shape[i]) { return false; }
    }
    return true;
}

static bool is_float(hd_dtype dtype) { return dtype == HD_DTYPE_F32 || dtype == HD_DTYPE_BF16 || dtype == HD_DTYPE_F16; }

static hd_status missing(const load *l, const char *name, const hd_tensor *want, hd_err *err)
{
    char text[HD_ST_TEXT];
    if (strstr(name, ".mlp.experts.0.") != NULL) {
        const char *rest;
        char fused[HD_HF_NAME_MAX];
        (void)snprintf(fused, sizeof fused, "model.layers.%" PRId64 ".mlp.experts.gate_up_proj", hd_hf_layer_of(name, &rest));
        if (hd_folder_find(l->folder, fused) >= 0) {
            return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: %s holds the experts of a layer in one tensor; want one tensor per expert (%s)",
                           l->folder->path, fused, name);
        }
    }
    return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is missing, the model wants %s", l->folder->path, name,
                   hd_st_describe(want->dtype, want->n_dim, want->shape, text));
}

/* Finds a tensor and checks it against what will receive it. */
static hd_status match(load *l, const char *name, const hd_tensor *want, bool exact, int64_t *place, hd_err *err)
{
    char found[HD_ST_TEXT], wanted[HD_ST_TEXT];
    *place = hd_folder_find(l->folder, name);
    if (*place < 0) { return missing(l, name, want, err); }
    hd_st_info info = hd_folder_info(l->folder, *place);
    const char *path = hd_st_path(hd_folder_reader(l->folder, *place));
    l->wanted[*place] = 1;
    hd_st_describe(info.dtype, info.n_dim, info.shape, found);
    hd_st_describe(want->dtype, want->n_dim, want->shape, wanted);
    if (!same_shape(&info, want) || (exact && info.dtype != want->dtype)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is %s, the model wants %s", path, name, found, wanted);
    }
    if (!exact && info.dtype == HD_DTYPE_F8_E4M3) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: tensor %s is %s: FP8 weights are not read; convert the model to BF16 first", path, name,
                       found);
    }
    if (!exact && !is_float(info.dtype)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s is %s, want F32, BF16 or F16 of this shape", path, name, found);
    }
    return HD_OK;
}

static load_item *add_item(load *l, int64_t place)
{
    load_item *item = &l->items[l->n_item++];
    *item = (load_item){.place = place,
                        .file = l->folder->places[place].file,
                        .offset = hd_folder_info(l->folder, place).offset,
                        .original = -1};
    return item;
}

/* A weight goes to the value, and to the master when nothing better is there; an f32 weight prefers the file's master. */
static hd_status match_weight(load *l, const hd_hf_ref *ref, hd_err *err)
{
    hd_status st;
    int64_t place, master;
    char name[HD_HF_NAME_MAX];
    hd_hf_ref master_ref = *ref;
    const hd_param *param = &l->model->params[ref->param];
    hd_tensor value = hd_hf_view(l->model, ref);
    master_ref.role = HD_HF_MASTER;
    hd_tensor master_view = hd_hf_view(l->model, &master_ref);
    HD_TRY(hd_hf_name(l->model, &master_ref, name, err));
    master = hd_folder_find(l->folder, name);
    if (master >= 0) { HD_TRY(match(l, name, &value, false, &master, err)); }
    HD_TRY(hd_hf_name(l->model, ref, name, err));
    HD_TRY(match(l, name, &value, false, &place, err));
    bool own_master = hd_param_has_master(param);
    bool from_master = master >= 0 && value.dtype == HD_DTYPE_F32;
    load_item *item = add_item(l, from_master ? master : place);
    item->to[item->n_to++] = value;
    if (own_master && master < 0) { item->to[item->n_to++] = master_view; }
    if (own_master && master >= 0) {
        item = add_item(l, master);
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
    hd_hf_ref source = {.param = ref->param, .expert = -1, .layer = -1, .role = HD_HF_WEIGHT};
    HD_TRY(hd_hf_name(l->model, ref, name, err));
    HD_TRY(hd_hf_name(l->model, &source, original, err));
    int64_t place = hd_folder_find(l->folder, name);
    if (place < 0) { goto out; }
    l->wanted[place] = 1;
    if (l->folder->is_checkpoint) { goto out; } /* written by us, covered by its checksums */
    add_item(l, place)->original = hd_folder_find(l->folder, original);
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
    int64_t place;
    for (int64_t i = 0; i < n; i++) {
        if (refs[i].role == HD_HF_MASTER) { continue; } /* with its weight */
        hd_tensor view = hd_hf_view(l->model, &refs[i]);
        HD_TRY(hd_hf_name(l->model, &refs[i], name, err));
        HD_TRY(match(l, name, &view, false, &place, err));
        load_item *item = add_item(l, place);
        item->to[item->n_to++] = view;
    }
out:
    return st;
}

static hd_status match_values(load *l, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_HF_NAME_MAX];
    int64_t place;
    for (int64_t i = 0; i < l->state->n_value; i++) {
        const hd_ckpt_value *v = &l->state->values[i];
        if (v->kind != HD_CKPT_TENSOR) { continue; }
        (void)snprintf(name, sizeof name, HD_STATE_PREFIX "%s", v->name);
        place = hd_folder_find(l->folder, name);
        if (v->optional) {
            if (place < 0) { continue; }
            hd_st_info info = hd_folder_info(l->folder, place);
            if (!same_shape(&info, v->tensor) || info.dtype != v->tensor->dtype) { continue; }
        }
        HD_TRY(match(l, name, v->tensor, true, &place, err));
        load_item *item = add_item(l, place);
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
        if (strlen(name) > 10 && strcmp(name + strlen(name) - 10, "_scale_inv") == 0) {
            return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: tensor %s: FP8 weights are not read; convert the model to BF16 first", path, name);
        }
        return HD_FAIL(err, HD_E_CONFIG, "%s: tensor %s has no place in the model", path, name);
    }
    return HD_OK;
}

static int by_place(const void *a, const void *b)
{
    const load_item *x = a, *y = b;
    if (x->file != y->file) { return x->file < y->file ? -1 : 1; }
    return x->offset != y->offset ? (x->offset < y->offset ? -1 : 1) : x->place < y->place ? -1 : x->place > y->place;
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

static void to_f32(hd_dtype from, const unsigned char *raw, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        if (from == HD_DTYPE_F32) {
            memcpy(&out[i], raw + 4 * i, 4);
            continue;
        }
        memcpy(&half, raw + 2 * i, 2);
        out[i] = from == HD_DTYPE_BF16 ? hd_bf16_to_f32(half) : hd_f16_to_f32(half);
    }
}

/* A piece in the dtype of its destination: the bytes as they are when dtypes agree. */
static const unsigned char *convert(hd_dtype from, const unsigned char *raw, int64_t n, hd_dtype to, unsigned char *out)
{
    if (from == to) { return raw; }
    if (to == HD_DTYPE_F32) {
        to_f32(from, raw, n, (float *)(void *)out);
        return out;
    }
    for (int64_t i = 0; i < n; i++) { /* to BF16 */
        float value;
        to_f32(from, raw + i * (int64_t)hd_dtype_bytes(from), 1, &value);
        uint16_t half = hd_f32_to_bf16(value);
        memcpy(out + 2 * i, &half, 2);
    }
    return out;
}

static hd_status copy_item(load *l, load_item *item, hd_err *err)
{
    hd_st_info info = hd_folder_info(l->folder, item->place);
    hd_st_reader *reader = hd_folder_reader(l->folder, item->place);
    int64_t entry = l->folder->places[item->place].entry, size = (int64_t)hd_dtype_bytes(info.dtype), count = info.bytes / size;
    int64_t most = size > 4 ? HD_LOAD_PIECE / 2 : HD_LOAD_PIECE, n;
    for (int64_t at = 0; at < count; at += n) {
        n = count - at < most ? count - at : most;
        hd_status st = hd_st_read(reader, entry, at * size, (size_t)(n * size), l->raw, err);
        for (int k = 0; k < item->n_to && st == HD_OK; k++) {
            hd_tensor flat = hd_tensor_reshape(&item->to[k], 1, &count);
            hd_tensor part = hd_tensor_slice(&flat, 0, at, n);
            st = hd_exec_upload(l->ex, convert(info.dtype, l->raw, n, part.dtype, l->converted), &part, err);
        }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* Whether a stored copy has the bytes of what it copies. */
static hd_status compare_copy(load *l, const load_item *item, hd_err *err)
{
    hd_st_info copy = hd_folder_info(l->folder, item->place), source = hd_folder_info(l->folder, item->original);
    bool equal = copy.bytes == source.bytes && copy.dtype == source.dtype;
    for (int64_t at = 0; at < copy.bytes && equal; at += HD_LOAD_PIECE) {
        size_t n = (size_t)(copy.bytes - at < HD_LOAD_PIECE ? copy.bytes - at : HD_LOAD_PIECE);
        hd_status st = hd_st_read(hd_folder_reader(l->folder, item->place), l->folder->places[item->place].entry, at, n, l->raw, err);
        if (st == HD_OK) {
            st = hd_st_read(hd_folder_reader(l->folder, item->original), l->folder->places[item->original].entry, at, n, l->converted, err);
        }
        if (st != HD_OK) { return st; }
        equal = memcmp(l->raw, l->converted, n) == 0;
    }
    if (!equal) {
        hd_log(HD_LOG_WARN, "%s: tensor %s differs from %s; the model has one table for both and uses the latter",
               l->folder->path, copy.name, source.name);
    }
    return HD_OK;
}

static hd_status copy_all(load *l, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    HD_TRY(hd_alloc(4, HD_LOAD_PIECE, "staging of a load", &memory, err));
    l->raw = memory;
    HD_TRY(hd_alloc(4, HD_LOAD_PIECE, "staging of a load", &memory, err));
    l->converted = memory;
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

static hd_status check_config(const hd_folder *f, const hd_model *model, hd_err *err)
{
    hd_dims dims;
    if (f->config == NULL) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: config.json is missing", f->path);
    }
    hd_status st = hd_hf_config_parse(f->config, f->config_n, f->path, &dims, err);
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
    hd_free(l.raw);
    hd_free(l.converted);
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
    if (st == HD_OK && folder.config == NULL) { st = HD_FAIL(err, HD_E_CONFIG, "%s: config.json is missing", path); }
    if (st == HD_OK) { st = hd_hf_config_parse(folder.config, folder.config_n, path, arg, err); }
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
