/* Rules, names and config.json of packed folders.  See packing.h. */
#include "checkpoint/packing.h"

#include <inttypes.h>
#include <string.h>

#include "base/path.h"
#include "checkpoint/hf_map.h"

static const char method[] = "hadal";

/* ---- which matrices ------------------------------------------------------------------------------------------------------ */

/* What is multiplied as y = x W^T and nothing else.  Not here, so kept as it is: the embedding, the router, norms, and kv_b_proj, which
 * absorbed attention multiplies from both sides.  The head is read whole for every token and decides the distribution at once: never
 * below 8 bits.  down_proj multiplies the outputs of SwiGLU, whose few large values leave the others little of 8 bits: with 8-bit weights
 * its inputs have 16 (with 4 bits the weights' own rounding is all that counts). */
typedef struct rule {
    const char *end;
    hd_dtype at[2];   /* with 8 and with 4 bits */
    bool fine_inputs; /* of I8 */
} rule;

static const rule rules[] = {
    {".q_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".q_a_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".q_b_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".kv_a_proj_with_mqa.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".o_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".gate_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".up_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {".down_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, true},
    {".eh_proj.weight", {HD_DTYPE_I8, HD_DTYPE_I4}, false},
    {"lm_head.weight", {HD_DTYPE_I8, HD_DTYPE_I8}, false},
    {".shared_head.head.weight", {HD_DTYPE_I8, HD_DTYPE_I8}, false},
};

static const rule *rule_of(const char *name)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (hd_text_ends_with(name, rules[i].end)) { return &rules[i]; }
    }
    return NULL;
}

bool hd_packing_dtype(const char *name, int64_t in, int bits, hd_dtype *dtype)
{
    const rule *r = rule_of(name);
    if (r == NULL || in <= 0 || in % HD_PACKED_GROUP != 0) { return false; }
    *dtype = r->at[bits == 4];
    return true;
}

bool hd_packing_fine_inputs(const char *name, hd_dtype dtype)
{
    const rule *r = rule_of(name);
    return r != NULL && r->fine_inputs && dtype == HD_DTYPE_I8;
}

bool hd_packing_shape(const hd_dims *dims, const char *name, int64_t shape[2])
{
    const hd_tensor_spec *spec = hd_hf_spec_of(name);
    if (spec == NULL || spec->n_axis < 2) { return false; }
    for (int a = 0; a < 2; a++) { shape[a] = hd_axis_length(dims, spec->axes[spec->n_axis - 2 + a]); }
    return true;
}

/* ---- config.json --------------------------------------------------------------------------------------------------------- */

typedef struct quantization {
    bool hadal;
    int64_t format, bits, group, rows; /* -1: absent, or no integer */
} quantization;

static hd_status read_member(hd_json *json, hd_json_str key, quantization *q, hd_err *err)
{
    const struct {
        const char *key;
        int64_t *value;
    } numbers[] = {{"format", &q->format}, {"bits", &q->bits}, {"group_size", &q->group}, {"block_rows", &q->rows}};
    hd_json_type type;
    hd_json_str text;
    size_t i = 0;
    while (i < 4 && !hd_json_str_is(key, numbers[i].key)) { i++; }
    bool is_method = hd_json_str_is(key, "quant_method");
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    if (is_method && type == HD_JSON_STRING) {
        st = hd_json_string(json, &text, err);
        q->hadal = st == HD_OK && hd_json_str_is(text, method);
        return st;
    }
    return i < 4 && type == HD_JSON_NUMBER ? hd_json_i64(json, numbers[i].value, err) : HD_OK;
}

static hd_status read_quantization(hd_json *json, quantization *q, hd_err *err)
{
    bool more;
    hd_json_str key;
    hd_json_type type;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK || type != HD_JSON_OBJECT) { return st; }
    st = hd_json_object_begin(json, err);
    while (st == HD_OK) {
        st = hd_json_object_next(json, &more, &key, err);
        if (st != HD_OK || !more) { break; }
        st = read_member(json, key, q, err);
    }
    return st;
}

static hd_status read_config(hd_json *json, quantization *q, hd_err *err)
{
    bool more;
    hd_json_str key;
    hd_status st = hd_json_object_begin(json, err);
    while (st == HD_OK) {
        st = hd_json_object_next(json, &more, &key, err);
        if (st != HD_OK || !more) { break; }
        if (hd_json_str_is(key, "quantization_config")) { st = read_quantization(json, q, err); }
    }
    return st;
}

hd_status hd_packing_read(const char *config, size_t n, const char *name, int *bits, hd_err *err)
{
    hd_json json;
    hd_err unread = {0};
    quantization q = {.format = -1, .bits = -1, .group = -1, .rows = -1};
    *bits = 0;
    hd_json_open(&json, config, n, name, HD_JSON_STRICT);
    hd_status st = read_config(&json, &q, &unread);
    hd_json_close(&json);
    if (st == HD_E_NOMEM) { return HD_FAIL(err, HD_E_NOMEM, "%s", unread.msg); }
    if (!q.hadal) { return HD_OK; }
    if (q.format != 1 || (q.bits != 8 && q.bits != 4) || q.group != HD_PACKED_GROUP || q.rows != HD_PACKED_ROWS) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: quantization_config has format %" PRId64 ", bits %" PRId64 ", group_size %" PRId64 ", block_rows %"
                       PRId64 "; want 1, 8 or 4, %d, %d", name, q.format, q.bits, q.group, q.rows, HD_PACKED_GROUP, HD_PACKED_ROWS);
    }
    *bits = (int)q.bits;
    return HD_OK;
}

void hd_packing_write(hd_json_writer *w, int bits)
{
    hd_json_write_key(w, "quantization_config");
    hd_json_write_object(w);
    hd_json_write_key(w, "quant_method");
    hd_json_write_string(w, method);
    hd_json_write_key(w, "format");
    hd_json_write_i64(w, 1);
    hd_json_write_key(w, "bits");
    hd_json_write_i64(w, bits);
    hd_json_write_key(w, "group_size");
    hd_json_write_i64(w, HD_PACKED_GROUP);
    hd_json_write_key(w, "block_rows");
    hd_json_write_i64(w, HD_PACKED_ROWS);
    hd_json_write_end(w);
}
