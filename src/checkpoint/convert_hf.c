/* From a folder's tensors to a HuggingFace folder's.  See convert_hf.h. */
#include "checkpoint/convert_hf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/layout.h"
#include "tensor/convert.h"

/* ---- names --------------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

bool hd_is_f8_matrix(const char *name)
{
    const char *rest;
    if (hd_hf_layer_of(name, &rest) < 0 || !(ends_with(rest, "_proj.weight") || ends_with(rest, "_proj_with_mqa.weight"))) { return false; }
    return strncmp(rest, "self_attn.", 10) == 0 || strncmp(rest, "mlp.", 4) == 0;
}

static bool is_router_bias(const char *name) { return ends_with(name, ".e_score_correction_bias"); }

/* Embedding, layers by number, the rest; inside, digits by value and all else by byte. */
static int64_t rank_of(const char *name)
{
    int64_t layer = hd_hf_layer_of(name, NULL);
    return layer >= 0 ? layer : strncmp(name, "model.embed_tokens.", 19) == 0 ? -1 : INT64_MAX;
}

static int compare_names(const char *a, const char *b)
{
    int64_t ra = rank_of(a), rb = rank_of(b);
    if (ra != rb) { return ra < rb ? -1 : 1; }
    while (*a != '\0' && *b != '\0') {
        size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
        if (na > 0 && nb > 0) {
            int order = na != nb ? (na < nb ? -1 : 1) : strncmp(a, b, na);
            if (order != 0) { return order; }
            a += na;
            b += nb;
        } else {
            if (*a != *b) { return (unsigned char)*a < (unsigned char)*b ? -1 : 1; }
            a++;
            b++;
        }
    }
    return *a == *b ? 0 : *a == '\0' ? -1 : 1;
}

/* ---- which tensors ------------------------------------------------------------------------------------------------------ */

typedef struct listed {
    const char *name;      /* in the names of the list, or the folder's */
    hd_source_tensor source;
} listed;

typedef struct list {
    const hd_folder *folder;
    const hd_convert_options *options;
    int64_t n_layer, dropped;
    listed *rows;
    int64_t n, capacity;
    hd_buf names;          /* of experts that a fused tensor holds; rows hold offsets until it is complete */
} list;

static hd_status push(list *l, const char *name, const hd_source_tensor *source, hd_err *err)
{
    void *rows = l->rows;
    if (l->n == l->capacity) {
        int64_t wider = l->capacity == 0 ? 256 : 2 * l->capacity;
        hd_status st = hd_realloc(&rows, (size_t)l->capacity, (size_t)wider, sizeof *l->rows, "tensors to convert", err);
        if (st != HD_OK) { return st; }
        l->rows = rows;
        l->capacity = wider;
    }
    l->rows[l->n++] = (listed){.name = name, .source = *source};
    return HD_OK;
}

/* model.layers.3.mlp.experts.gate_up_proj holds the matrices of all experts of a layer. */
static bool is_fused(const hd_folder *f, int64_t place, const char **matrices)
{
    const char *rest, *name = hd_folder_info(f, place).name;
    if (hd_hf_layer_of(name, &rest) < 0 || hd_folder_info(f, place).n_dim != 3) { return false; }
    matrices[0] = strcmp(rest, "mlp.experts.gate_up_proj") == 0 ? "gate_proj" : "down_proj";
    matrices[1] = "up_proj";
    return matrices[0][0] == 'g' || strcmp(rest, "mlp.experts.down_proj") == 0;
}

static hd_status push_experts(list *l, int64_t place, const char *const matrices[2], hd_err *err)
{
    hd_status st = HD_OK;
    hd_st_info info = hd_folder_info(l->folder, place);
    hd_source_tensor source;
    char name[HD_HF_NAME_MAX];
    int n_matrix = matrices[0][0] == 'g' ? 2 : 1;
    for (int64_t e = 0; e < info.shape[0]; e++) {
        for (int m = 0; m < n_matrix; m++) {
            (void)snprintf(name, sizeof name, "model.layers.%" PRId64 ".mlp.experts.%" PRId64 ".%s.weight",
                           hd_hf_layer_of(info.name, NULL), e, matrices[m]);
            HD_TRY(hd_source_find(l->folder, name, &source, err));
            HD_TRY(push(l, NULL, &source, err));
            l->rows[l->n - 1].source.n_dim = -source.n_dim; /* marks a name that is an offset */
            l->rows[l->n - 1].name = (const char *)(uintptr_t)l->names.n;
            hd_buf_append(&l->names, name, strlen(name) + 1);
        }
    }
    st = hd_buf_check(&l->names, err);
out:
    return st;
}

/* Of a training checkpoint: what is not the model. */
static bool is_state(const hd_folder *f, int64_t place)
{
    return f->is_checkpoint && strncmp(f->files[f->places[place].file].name, HD_OPTIMIZER_FOLDER "/", sizeof HD_OPTIMIZER_FOLDER) == 0;
}

/* Scales belong to their matrix: they are listed with it. */
static bool is_scale_of_matrix(const hd_folder *f, const char *name)
{
    static const char end[] = "_scale_inv";
    char matrix[HD_HF_NAME_MAX];
    size_t n = strlen(name);
    if (!ends_with(name, end) || n - (sizeof end - 1) >= sizeof matrix) { return false; }
    memcpy(matrix, name, n - (sizeof end - 1));
    matrix[n - (sizeof end - 1)] = '\0';
    int64_t place = hd_folder_find(f, matrix);
    return place >= 0 && hd_folder_info(f, place).dtype == HD_DTYPE_F8_E4M3;
}

/* F32 values come from the master copy of a training checkpoint where there is one. */
static hd_status prefer_master(const list *l, const char *name, hd_source_tensor *source, hd_err *err)
{
    char master[HD_HF_NAME_MAX + 8];
    if (!l->folder->is_checkpoint || l->options->keep_dtype || l->options->to_f8 || l->options->dtype != HD_DTYPE_F32) { return HD_OK; }
    (void)snprintf(master, sizeof master, "master.%s", name);
    return hd_folder_find(l->folder, master) < 0 ? HD_OK : hd_source_find(l->folder, master, source, err);
}

static hd_status list_place(list *l, int64_t place, hd_err *err)
{
    hd_source_tensor source;
    const char *matrices[2], *name = hd_folder_info(l->folder, place).name;
    if (is_state(l->folder, place) || ends_with(name, ".rotary_emb.inv_freq") || is_scale_of_matrix(l->folder, name)) { return HD_OK; }
    if (!l->options->keep_mtp && hd_hf_layer_of(name, NULL) >= l->n_layer) {
        l->dropped++;
        return HD_OK;
    }
    if (is_fused(l->folder, place, matrices)) { return push_experts(l, place, matrices, err); }
    hd_status st = hd_source_find(l->folder, name, &source, err);
    if (st == HD_OK) { st = prefer_master(l, name, &source, err); }
    return st == HD_OK ? push(l, name, &source, err) : st;
}

static int by_name(const void *a, const void *b) { return compare_names(((const listed *)a)->name, ((const listed *)b)->name); }

static hd_status list_all(list *l, hd_err *err)
{
    for (int64_t p = 0; p < l->folder->n_place; p++) {
        hd_status st = list_place(l, p, err);
        if (st != HD_OK) { return st; }
    }
    for (int64_t i = 0; i < l->n; i++) {
        listed *row = &l->rows[i];
        if (row->source.n_dim >= 0) { continue; }
        row->source.n_dim = -row->source.n_dim;
        row->name = l->names.data + (uintptr_t)row->name;
    }
    if (l->n > 1) { qsort(l->rows, (size_t)l->n, sizeof *l->rows, by_name); }
    for (int64_t i = 1; i < l->n; i++) {
        if (strcmp(l->rows[i - 1].name, l->rows[i].name) == 0) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is there alone and in a fused tensor", l->folder->path, l->rows[i].name);
        }
    }
    return HD_OK;
}

/* ---- in which dtype ------------------------------------------------------------------------------------------------------ */

static hd_status add_with_scales(hd_target *t, const char *name, const hd_source_tensor *matrix, const hd_source_tensor *scales, hd_err *err)
{
    char scale_name[HD_HF_NAME_MAX + 16];
    bool stored = matrix->scale_place >= 0;
    (void)snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
    hd_status st = hd_target_add_whole(t, name, HD_DTYPE_F8_E4M3, stored ? HD_TARGET_VALUES : HD_TARGET_F8_CODES, matrix, err);
    if (st != HD_OK) { return st; }
    return stored ? hd_target_add_whole(t, scale_name, scales->dtype, HD_TARGET_VALUES, scales, err)
                  : hd_target_add_whole(t, scale_name, HD_DTYPE_F32, HD_TARGET_F8_SCALES, matrix, err);
}

static hd_status add_row(const list *l, const listed *row, hd_target *t, hd_err *err)
{
    const hd_convert_options *o = l->options;
    const hd_source_tensor *s = &row->source;
    bool stored_f8 = s->scale_place >= 0, float_like = hd_source_is_float(s);
    hd_dtype dtype = s->dtype;
    if (stored_f8 && (o->keep_dtype || o->to_f8)) {
        hd_source_tensor scales = hd_source_stored(l->folder, s->scale_place);
        return add_with_scales(t, row->name, s, &scales, err);
    }
    if (o->to_f8 && float_like && s->n_dim == 2 && hd_is_f8_matrix(row->name)) { return add_with_scales(t, row->name, s, NULL, err); }
    if (float_like && !o->keep_dtype && !is_router_bias(row->name)) { dtype = o->dtype; }
    return hd_target_add_whole(t, row->name, dtype, HD_TARGET_VALUES, s, err);
}

hd_status hd_convert_plan(const hd_folder *folder, const hd_convert_options *options, int64_t n_layer, hd_target *target,
                          int64_t *dropped, hd_err *err)
{
    hd_status st;
    list l = {.folder = folder, .options = options, .n_layer = n_layer};
    *target = (hd_target){.scale_format = options->scale_format};
    HD_TRY(list_all(&l, err));
    for (int64_t i = 0; i < l.n; i++) { HD_TRY(add_row(&l, &l.rows[i], target, err)); }
    HD_TRY(hd_target_cut(target, options->max_shard_bytes, "model", err));
    *dropped = l.dropped;
out:
    hd_free(l.rows);
    hd_buf_free(&l.names);
    if (st != HD_OK) { hd_target_free(target); }
    return st;
}

/* ---- config.json ------------------------------------------------------------------------------------------------------------ */

static const char *dtype_word(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F32 ? "float32" : dtype == HD_DTYPE_F16 ? "float16" : "bfloat16";
}

static void write_quantization(hd_json_writer *w, hd_scale_format format)
{
    hd_json_write_key(w, "quantization_config");
    hd_json_write_object(w);
    hd_json_write_key(w, "activation_scheme");
    hd_json_write_string(w, "dynamic");
    hd_json_write_key(w, "fmt");
    hd_json_write_string(w, "e4m3");
    hd_json_write_key(w, "quant_method");
    hd_json_write_string(w, "fp8");
    if (format == HD_SCALE_UE8M0) {
        hd_json_write_key(w, "scale_fmt");
        hd_json_write_string(w, "ue8m0");
    }
    hd_json_write_key(w, "weight_block_size");
    hd_json_write_array(w);
    hd_json_write_i64(w, HD_F8_BLOCK);
    hd_json_write_i64(w, HD_F8_BLOCK);
    hd_json_write_end(w);
    hd_json_write_end(w);
}

/* One member of the original: kept, changed or left out. */
static void write_member(hd_json_writer *w, hd_json_str key, hd_json_str value, const hd_convert_options *o, bool *has_quantization,
                         bool *has_dtype)
{
    bool is_dtype = hd_json_str_is(key, "torch_dtype") || hd_json_str_is(key, "dtype");
    bool is_quantization = hd_json_str_is(key, "quantization_config");
    if (is_quantization && !o->keep_dtype && !o->to_f8) { return; }
    hd_json_write_key_n(w, key.text, key.n);
    *has_quantization = *has_quantization || is_quantization;
    *has_dtype = *has_dtype || is_dtype;
    if (is_dtype && !o->keep_dtype) {
        hd_json_write_string(w, dtype_word(o->dtype));
    } else if (hd_json_str_is(key, "num_nextn_predict_layers") && !o->keep_mtp) {
        hd_json_write_i64(w, 0);
    } else {
        hd_json_write_raw(w, value.text, value.n);
    }
}

hd_status hd_convert_config(const char *text, size_t n, const char *name, const hd_convert_options *options, hd_buf *out, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_writer w;
    hd_json_str key, value;
    hd_buf kept = {0}; /* a key does not outlive the keys inside its value */
    bool more, has_quantization = false, has_dtype = false;
    hd_json_open(&json, text, n, name, HD_JSON_STRICT);
    hd_json_writer_init(&w, out, 2);
    HD_TRY(hd_json_object_begin(&json, err));
    hd_json_write_object(&w);
    for (;;) {
        HD_TRY(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        hd_buf_clear(&kept);
        hd_buf_append(&kept, key.text, key.n);
        HD_TRY(hd_json_raw(&json, &value, err));
        write_member(&w, (hd_json_str){hd_buf_text(&kept), kept.n}, value, options, &has_quantization, &has_dtype);
    }
    HD_TRY(hd_json_end(&json, err));
    if (!has_dtype && !options->keep_dtype) {
        hd_json_write_key(&w, "torch_dtype");
        hd_json_write_string(&w, dtype_word(options->dtype));
    }
    if (options->to_f8 && !has_quantization) { write_quantization(&w, options->scale_format); }
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
    HD_TRY(hd_buf_check(&kept, err));
    st = hd_buf_check(out, err);
out:
    hd_buf_free(&kept);
    hd_json_close(&json);
    return st;
}
