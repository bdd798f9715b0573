/* From a folder's tensors to a HuggingFace folder's.  See convert_hf.h. */
#include "checkpoint/convert_hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/path.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/listing.h"
#include "checkpoint/packing.h"
#include "tensor/convert.h"

/* ---- names --------------------------------------------------------------------------------------------------------- */

bool hd_is_f8_matrix(const char *name)
{
    const char *rest;
    if (hd_hf_layer_of(name, &rest) < 0 || !(hd_text_ends_with(rest, "_proj.weight") || hd_text_ends_with(rest, "_proj_with_mqa.weight"))) { return false; }
    return strncmp(rest, "self_attn.", 10) == 0 || strncmp(rest, "mlp.", 4) == 0;
}

static bool is_router_bias(const char *name) { return hd_text_ends_with(name, ".e_score_correction_bias"); }

/* ---- in which dtype ------------------------------------------------------------------------------------------------------ */

static bool is_stored_f8(const hd_source_tensor *s) { return s->dtype == HD_DTYPE_F8_E4M3 && s->scale_place >= 0; }

static hd_status add_with_scales(const hd_folder *f, hd_target *t, const hd_listed *row, hd_err *err)
{
    char scale_name[HD_HF_NAME_MAX + 16];
    bool stored = is_stored_f8(&row->source);
    hd_status st = hd_target_add_whole(t, row->name, HD_DTYPE_F8_E4M3, stored ? HD_TARGET_VALUES : HD_TARGET_F8_CODES, &row->source, err);
    if (st != HD_OK) { return st; }
    if (stored) {
        hd_source_tensor scales = hd_listed_scales(f, row, scale_name);
        return hd_target_add_whole(t, scale_name, scales.dtype, HD_TARGET_VALUES, &scales, err);
    }
    (void)snprintf(scale_name, sizeof scale_name, "%s_scale_inv", row->name);
    return hd_target_add_whole(t, scale_name, HD_DTYPE_F32, HD_TARGET_F8_SCALES, &row->source, err);
}

/* Matrices in blocks; what is kept loses its FP8, which would be the only one of its kind. */
static hd_status add_to_packed(const hd_folder *f, const hd_convert_options *o, const hd_listed *row, hd_target *t, hd_err *err)
{
    hd_dtype dtype;
    const hd_source_tensor *s = &row->source;
    if (s->n_dim == 2 && hd_source_is_float(s) && hd_packing_dtype(row->name, s->columns, o->bits, &dtype)) {
        return hd_target_add_packed(t, f, row->name, dtype, s, err);
    }
    return hd_target_add_whole(t, row->name, s->scale_place >= 0 ? HD_DTYPE_BF16 : s->dtype, HD_TARGET_VALUES, s, err);
}

static hd_status add_row(const hd_folder *f, const hd_convert_options *o, const hd_listed *row, hd_target *t, hd_err *err)
{
    const hd_source_tensor *s = &row->source;
    bool float_like = hd_source_is_float(s);
    if (o->bits != 0) { return add_to_packed(f, o, row, t, err); }
    if (hd_source_is_packed(s) && o->keep_dtype) { return hd_target_add_packed(t, f, row->name, s->dtype, s, err); }
    if (is_stored_f8(s) && (o->keep_dtype || o->to_f8)) { return add_with_scales(f, t, row, err); }
    if (o->to_f8 && float_like && s->n_dim == 2 && hd_is_f8_matrix(row->name)) { return add_with_scales(f, t, row, err); }
    hd_dtype dtype = float_like && !o->keep_dtype && !is_router_bias(row->name) ? o->dtype : s->dtype;
    return hd_target_add_whole(t, row->name, dtype, HD_TARGET_VALUES, s, err);
}

/* By layer, then, where experts are stacked, matrix by matrix and not expert by expert: the experts of a stack lie one after the other. */
static int by_stack(const void *a, const void *b)
{
    static const char middle[] = ".mlp.experts.";
    const char *x = ((const hd_listed *)a)->name, *y = ((const hd_listed *)b)->name;
    const char *p = strstr(x, middle), *q = strstr(y, middle);
    if (p == NULL || q == NULL || p - x != q - y || strncmp(x, y, (size_t)(p - x)) != 0) { return hd_listing_compare(x, y); }
    p += sizeof middle - 1;
    q += sizeof middle - 1;
    int order = strcmp(p + strspn(p, "0123456789"), q + strspn(q, "0123456789"));
    return order != 0 ? order : hd_listing_compare(x, y);
}

hd_status hd_convert_plan(const hd_folder *folder, const hd_convert_options *options, int64_t n_layer, hd_target *target,
                          int64_t *dropped, hd_err *err)
{
    hd_status st;
    hd_listing list;
    bool f32 = options->bits != 0 || (!options->keep_dtype && !options->to_f8 && options->dtype == HD_DTYPE_F32);
    *target = (hd_target){.scale_format = options->scale_format};
    HD_TRY(hd_listing_make(folder, options->keep_mtp ? INT64_MAX : n_layer, f32, &list, err));
    bool packs = options->bits != 0 || (options->from_packed && options->keep_dtype);
    if (packs && list.n > 1) { qsort(list.rows, (size_t)list.n, sizeof *list.rows, by_stack); }
    for (int64_t i = 0; i < list.n; i++) { HD_TRY(add_row(folder, options, &list.rows[i], target, err)); }
    HD_TRY(hd_target_cut(target, options->max_shard_bytes, "model", err));
    *dropped = list.n_left_out;
out:
    hd_listing_free(&list);
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
    if (is_quantization && (o->bits != 0 || (!o->keep_dtype && (!o->to_f8 || o->from_packed)))) { return; }
    hd_json_write_key_n(w, key.text, key.n);
    *has_quantization = *has_quantization || is_quantization;
    *has_dtype = *has_dtype || is_dtype;
    if (is_dtype && !o->keep_dtype && o->bits == 0) {
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
    if (!has_dtype && !options->keep_dtype && options->bits == 0) {
        hd_json_write_key(&w, "torch_dtype");
        hd_json_write_string(&w, dtype_word(options->dtype));
    }
    if (options->bits != 0) { hd_packing_write(&w, options->bits); }
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
