/* config.json to hd_dims: the fields as the file has them, then defaults, then checks.  See hf_config.h. */
#include "checkpoint/hf_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "hadal/log.h"

/* ---- the fields of the file ---------------------------------------------------------------------------------------- */

#define ABSENT INT64_MIN
#define IS_NULL (INT64_MIN + 1)

enum { TEXT_MAX = 48 };

/* Integers start ABSENT, numbers NaN, texts empty. */
typedef struct raw_config {
    char model_type[TEXT_MAX], topk_method[TEXT_MAX], scoring_func[TEXT_MAX], hidden_act[TEXT_MAX];
    int64_t vocab_size, hidden_size, intermediate_size, moe_intermediate_size, num_hidden_layers, num_attention_heads,
        num_key_value_heads, n_shared_experts, n_routed_experts, kv_lora_rank, q_lora_rank, qk_rope_head_dim, qk_nope_head_dim,
        v_head_dim, qk_head_dim, n_group, topk_group, num_experts_per_tok, moe_layer_freq, first_k_dense_replace,
        max_position_embeddings, num_nextn_predict_layers, bos_token_id, eos_token_id;
    int64_t norm_topk_prob, tie_word_embeddings, attention_bias, rope_interleave, mlp_bias, mtp_use_shared_head_norm; /* 0, 1 */
    double routed_scaling_factor, rms_norm_eps, initializer_range, rope_theta;
    bool has_rope_scaling;
    struct {
        char type[TEXT_MAX];
        double factor, beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor, rope_theta;
        int64_t original_max_position_embeddings, truncate;
    } rope;
} raw_config;

typedef enum field_kind { I64, F64, BOOL, TEXT } field_kind;

typedef struct field {
    const char *key;
    field_kind kind;
    size_t offset;
} field;

#define FIELD(name, type) {#name, type, offsetof(raw_config, name)}
#define ROPE_FIELD(name, type) {#name, type, offsetof(raw_config, rope.name)}

static const field fields[] = {
    FIELD(model_type, TEXT), FIELD(topk_method, TEXT), FIELD(scoring_func, TEXT), FIELD(hidden_act, TEXT),
    FIELD(vocab_size, I64), FIELD(hidden_size, I64), FIELD(intermediate_size, I64), FIELD(moe_intermediate_size, I64),
    FIELD(num_hidden_layers, I64), FIELD(num_attention_heads, I64), FIELD(num_key_value_heads, I64), FIELD(n_shared_experts, I64),
    FIELD(n_routed_experts, I64), FIELD(kv_lora_rank, I64), FIELD(q_lora_rank, I64), FIELD(qk_rope_head_dim, I64),
    FIELD(qk_nope_head_dim, I64), FIELD(v_head_dim, I64), FIELD(qk_head_dim, I64), FIELD(n_group, I64), FIELD(topk_group, I64),
    FIELD(num_experts_per_tok, I64), FIELD(moe_layer_freq, I64), FIELD(first_k_dense_replace, I64),
    FIELD(max_position_embeddings, I64), FIELD(num_nextn_predict_layers, I64), FIELD(bos_token_id, I64), FIELD(eos_token_id, I64),
    FIELD(norm_topk_prob, BOOL), FIELD(tie_word_embeddings, BOOL), FIELD(attention_bias, BOOL), FIELD(rope_interleave, BOOL),
    FIELD(mtp_use_shared_head_norm, BOOL), FIELD(mlp_bias, BOOL), FIELD(routed_scaling_factor, F64), FIELD(rms_norm_eps, F64),
    FIELD(initializer_range, F64), FIELD(rope_theta, F64),
};

static const field rope_fields[] = {
    ROPE_FIELD(type, TEXT), {"rope_type", TEXT, offsetof(raw_config, rope.type)}, ROPE_FIELD(factor, F64), ROPE_FIELD(beta_fast, F64),
    ROPE_FIELD(beta_slow, F64), ROPE_FIELD(mscale, F64), ROPE_FIELD(mscale_all_dim, F64), ROPE_FIELD(attention_factor, F64),
    ROPE_FIELD(rope_theta, F64), ROPE_FIELD(original_max_position_embeddings, I64), ROPE_FIELD(truncate, BOOL),
};

#define N_OF(array) (sizeof(array) / sizeof(array)[0])

static void reset(raw_config *raw, const field *table, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char *at = (char *)raw + table[i].offset;
        if (table[i].kind == F64) { *(double *)at = NAN; }
        if (table[i].kind == I64 || table[i].kind == BOOL) { *(int64_t *)at = ABSENT; }
    }
}

static hd_status read_text(hd_json *json, const char *key, char *out, hd_err *err)
{
    hd_json_str text;
    hd_status st = hd_json_string(json, &text, err);
    if (st != HD_OK) { return st; }
    if (text.n >= TEXT_MAX || memchr(text.text, '\0', text.n) != NULL) {
        return hd_json_fail(json, err, "%s: a text of %zu bytes, want fewer than %d", key, text.n, TEXT_MAX);
    }
    memcpy(out, text.text, text.n);
    out[text.n] = '\0';
    return HD_OK;
}

/* A list of token ids counts as its first. */
static hd_status read_first(hd_json *json, int64_t *out, hd_err *err)
{
    bool more, first = true;
    hd_status st = hd_json_array_begin(json, err);
    while (st == HD_OK) {
        st = hd_json_array_next(json, &more, err);
        if (st != HD_OK || !more) { break; }
        st = first ? hd_json_i64(json, out, err) : hd_json_skip(json, err);
        first = false;
    }
    return st;
}

static hd_status read_field(hd_json *json, const field *f, raw_config *raw, hd_err *err)
{
    char *at = (char *)raw + f->offset;
    hd_json_type type;
    bool flag = false;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    if (type == HD_JSON_NULL) {
        if (f->kind == I64) { *(int64_t *)at = IS_NULL; }
        return hd_json_null(json, err);
    }
    switch (f->kind) {
    case TEXT: st = read_text(json, f->key, at, err); break;
    case F64: st = hd_json_f64(json, (double *)at, err); break;
    case I64: st = type == HD_JSON_ARRAY ? read_first(json, (int64_t *)at, err) : hd_json_i64(json, (int64_t *)at, err); break;
    case BOOL:
        st = hd_json_bool(json, &flag, err);
        *(int64_t *)at = flag;
        break;
    }
    if (st != HD_OK) { (void)hd_err_prefix(err, "%s: ", f->key); }
    return st;
}

static hd_status read_known(hd_json *json, hd_json_str key, const field *table, size_t n, raw_config *raw, hd_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (hd_json_str_is(key, table[i].key)) { return read_field(json, &table[i], raw, err); }
    }
    return hd_json_skip(json, err);
}

/* rope_scaling of older files, rope_parameters (rope_theta inside) of newer ones. */
static hd_status read_rope(hd_json *json, raw_config *raw, hd_err *err)
{
    bool more;
    hd_json_str key;
    hd_json_type type;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    if (type == HD_JSON_NULL) { return hd_json_null(json, err); }
    raw->has_rope_scaling = true;
    st = hd_json_object_begin(json, err);
    while (st == HD_OK) {
        st = hd_json_object_next(json, &more, &key, err);
        if (st != HD_OK || !more) { break; }
        st = read_known(json, key, rope_fields, N_OF(rope_fields), raw, err);
    }
    return st;
}

static hd_status read_raw(hd_json *json, raw_config *raw, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "rope_scaling") || hd_json_str_is(key, "rope_parameters")) {
            HD_TRY(read_rope(json, raw, err));
        } else {
            HD_TRY(read_known(json, key, fields, N_OF(fields), raw, err));
        }
    }
    st = hd_json_end(json, err);
out:
    return st;
}

/* ---- defaults ------------------------------------------------------------------------------------------------------ */

static int64_t or_i64(int64_t value, int64_t fallback) { return value == ABSENT ? fallback : value == IS_NULL ? 0 : value; }

static double or_f64(double value, double fallback) { return isnan(value) ? fallback : value; }

typedef struct family_defaults {
    int64_t vocab, hidden, intermediate, moe_intermediate, layers, heads, shared, routed, per_token, dense, group, topk_group,
        positions, bos, eos;
    double scaling;
    bool normalize;
    const char *topk_method, *scoring;
} family_defaults;

static const family_defaults defaults[] = {
    [HD_FAMILY_V2] = {32000, 4096, 11008, 1407, 32, 32, 2, 64, 0, 0, 1, 1, 2048, 1, 2, 1.0, false, "greedy", "softmax"},
    [HD_FAMILY_V3] = {129280, 7168, 18432, 2048, 61, 128, 1, 256, 8, 3, 8, 4, 4096, 0, 1, 2.5, true, "noaux_tc", "sigmoid"},
};

static void fill_shape(const raw_config *raw, const family_defaults *d, hd_dims *dims)
{
    dims->vocab_size = or_i64(raw->vocab_size, d->vocab);
    dims->hidden_size = or_i64(raw->hidden_size, d->hidden);
    dims->intermediate_size = or_i64(raw->intermediate_size, d->intermediate);
    dims->moe_intermediate_size = or_i64(raw->moe_intermediate_size, d->moe_intermediate);
    dims->n_layer = or_i64(raw->num_hidden_layers, d->layers);
    dims->n_dense_layer = or_i64(raw->first_k_dense_replace, d->dense);
    dims->n_head = or_i64(raw->num_attention_heads, d->heads);
    dims->q_lora_rank = or_i64(raw->q_lora_rank, 1536);
    dims->kv_lora_rank = or_i64(raw->kv_lora_rank, 512);
    dims->qk_nope_head_dim = or_i64(raw->qk_nope_head_dim, 128);
    dims->qk_rope_head_dim = or_i64(raw->qk_rope_head_dim, 64);
    dims->v_head_dim = or_i64(raw->v_head_dim, 128);
    dims->n_expert = or_i64(raw->n_routed_experts, d->routed);
    dims->n_shared_expert = dims->n_expert > 0 ? or_i64(raw->n_shared_experts, d->shared) : 0;
    dims->n_mtp = or_i64(raw->num_nextn_predict_layers, 0);
    dims->mtp_own_norm = raw->mtp_use_shared_head_norm != 0; /* absent: as DeepSeek's own */
    dims->rms_norm_eps = or_f64(raw->rms_norm_eps, 1e-6);
    dims->latent_norm_eps = 1e-6;
    dims->max_position_embeddings = or_i64(raw->max_position_embeddings, d->positions);
    dims->bos_token_id = raw->bos_token_id == IS_NULL ? -1 : or_i64(raw->bos_token_id, d->bos);
    dims->eos_token_id = raw->eos_token_id == IS_NULL ? -1 : or_i64(raw->eos_token_id, d->eos);
    dims->initializer_range = or_f64(raw->initializer_range, 0.02);
}

static void fill_rope(const raw_config *raw, hd_dims *dims)
{
    hd_rope_spec *rope = &dims->rope;
    *rope = (hd_rope_spec){.dim = dims->qk_rope_head_dim, .n_positions = dims->max_position_embeddings};
    rope->theta = or_f64(raw->rope_theta, or_f64(raw->rope.rope_theta, 10000.0));
    rope->yarn = raw->has_rope_scaling && strcmp(raw->rope.type, "yarn") == 0;
    rope->truncate = true;
    rope->attention_factor = -1.0;
    if (rope->yarn) {
        rope->factor = or_f64(raw->rope.factor, 1.0);
        rope->original_max_position_embeddings =
            or_i64(raw->rope.original_max_position_embeddings, dims->max_position_embeddings);
        rope->beta_fast = or_f64(raw->rope.beta_fast, 32.0);
        rope->beta_slow = or_f64(raw->rope.beta_slow, 1.0);
        rope->mscale = or_f64(raw->rope.mscale, 0.0);
        rope->mscale_all_dim = or_f64(raw->rope.mscale_all_dim, 0.0);
        rope->truncate = or_i64(raw->rope.truncate, 1) != 0;
        rope->attention_factor = or_f64(raw->rope.attention_factor, -1.0);
    }
    dims->softmax_scale = hd_softmax_scale(dims->qk_nope_head_dim + dims->qk_rope_head_dim, rope);
}

static const struct {
    const char *name;
    hd_group_rule rule;
} topk_methods[] = {
    {"greedy", HD_GROUP_NONE}, {"gready", HD_GROUP_NONE}, {"group_limited_greedy", HD_GROUP_MAX}, {"noaux_tc", HD_GROUP_TOP2_SUM}};

static hd_status fill_router(const raw_config *raw, const family_defaults *d, const char *name, hd_dims *dims, hd_err *err)
{
    const char *method = raw->topk_method[0] != '\0' ? raw->topk_method : d->topk_method;
    const char *scoring = raw->scoring_func[0] != '\0' ? raw->scoring_func : d->scoring;
    size_t m = 0;
    while (m < N_OF(topk_methods) && strcmp(topk_methods[m].name, method) != 0) { m++; }
    if (m == N_OF(topk_methods)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: topk_method is \"%s\", want greedy, group_limited_greedy or noaux_tc", name, method);
    }
    if (strcmp(scoring, "softmax") != 0 && strcmp(scoring, "sigmoid") != 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: scoring_func is \"%s\", want softmax or sigmoid", name, scoring);
    }
    int64_t n_group = or_i64(raw->n_group, d->group), topk_group = or_i64(raw->topk_group, d->topk_group);
    bool one_group = n_group <= 1; /* every expert is in the group that is kept */
    dims->router = (hd_router_spec){
        .score_func = strcmp(scoring, "softmax") == 0 ? HD_SCORE_SOFTMAX : HD_SCORE_SIGMOID,
        .group_rule = one_group ? HD_GROUP_NONE : topk_methods[m].rule,
        .n_group = n_group == 0 ? 1 : n_group,
        .topk_group = topk_group == 0 ? 1 : topk_group,
        .top_k = or_i64(raw->num_experts_per_tok, d->per_token),
        .normalize = raw->norm_topk_prob == ABSENT ? d->normalize : raw->norm_topk_prob != 0,
        .scale_normalized = dims->family == HD_FAMILY_V3,
        .routed_scaling = or_f64(raw->routed_scaling_factor, d->scaling),
    };
    dims->router_bias = topk_methods[m].rule == HD_GROUP_TOP2_SUM && dims->n_expert > 0;
    return HD_OK;
}

/* ---- checks -------------------------------------------------------------------------------------------------------- */

static hd_status check_supported(const raw_config *raw, const char *name, hd_err *err)
{
    const char *what = NULL;
    if (raw->tie_word_embeddings == 1) { what = "tie_word_embeddings is true"; }
    if (raw->attention_bias == 1) { what = "attention_bias is true"; }
    if (raw->mlp_bias == 1) { what = "mlp_bias is true"; }
    if (raw->rope_interleave == 0) { what = "rope_interleave is false"; }
    if (raw->hidden_act[0] != '\0' && strcmp(raw->hidden_act, "silu") != 0) { what = "hidden_act is not silu"; }
    if (or_i64(raw->moe_layer_freq, 1) != 1) { what = "moe_layer_freq is not 1"; }
    const char *rope = raw->rope.type;
    if (raw->has_rope_scaling && strcmp(rope, "yarn") != 0 && strcmp(rope, "default") != 0 && rope[0] != '\0') {
        what = "rope_scaling has another type than yarn";
    }
    return what == NULL ? HD_OK : HD_FAIL(err, HD_E_UNSUPPORTED, "%s: %s, which hadal does not compute", name, what);
}

static hd_status check_positive(const hd_dims *d, const char *name, hd_err *err)
{
    const struct {
        const char *key;
        int64_t value, least;
    } rows[] = {
        {"vocab_size", d->vocab_size, 1}, {"hidden_size", d->hidden_size, 1}, {"intermediate_size", d->intermediate_size, 1},
        {"num_hidden_layers", d->n_layer, 1}, {"num_attention_heads", d->n_head, 1}, {"kv_lora_rank", d->kv_lora_rank, 1},
        {"q_lora_rank", d->q_lora_rank, 0}, {"qk_nope_head_dim", d->qk_nope_head_dim, 1}, {"qk_rope_head_dim", d->qk_rope_head_dim, 2},
        {"v_head_dim", d->v_head_dim, 1}, {"n_routed_experts", d->n_expert, 0}, {"n_shared_experts", d->n_shared_expert, 0},
        {"first_k_dense_replace", d->n_dense_layer, 0}, {"num_nextn_predict_layers", d->n_mtp, 0},
        {"max_position_embeddings", d->max_position_embeddings, 1}, {"moe_intermediate_size", d->moe_intermediate_size, d->n_expert > 0},
        {"num_experts_per_tok", d->router.top_k, d->n_expert > 0}, {"n_group", d->router.n_group, 1},
        {"topk_group", d->router.topk_group, 1},
    };
    for (size_t i = 0; i < N_OF(rows); i++) {
        if (rows[i].value < rows[i].least || rows[i].value > INT32_MAX) {
            return HD_FAIL(err, HD_E_CONFIG, "%s: %s is %" PRId64 ", want %" PRId64 " to %d", name, rows[i].key, rows[i].value,
                           rows[i].least, INT32_MAX);
        }
    }
    return HD_OK;
}

static hd_status check_consistent(const raw_config *raw, const hd_dims *d, const char *name, hd_err *err)
{
    const hd_router_spec *r = &d->router;
    if (raw->num_key_value_heads > 0 && raw->num_key_value_heads != d->n_head) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: num_key_value_heads is %" PRId64 " and num_attention_heads %" PRId64 ": want them equal",
                       name, raw->num_key_value_heads, d->n_head);
    }
    if (raw->qk_head_dim > 0 && raw->qk_head_dim != d->qk_nope_head_dim + d->qk_rope_head_dim) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: qk_head_dim is %" PRId64 ", qk_nope_head_dim + qk_rope_head_dim %" PRId64, name,
                       raw->qk_head_dim, d->qk_nope_head_dim + d->qk_rope_head_dim);
    }
    if (d->qk_rope_head_dim % 2 != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: qk_rope_head_dim is %" PRId64 ", want an even number", name, d->qk_rope_head_dim);
    }
    if (d->n_expert > 0 && r->top_k > d->n_expert) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: num_experts_per_tok is %" PRId64 ", n_routed_experts %" PRId64, name, r->top_k, d->n_expert);
    }
    if (d->n_expert > 0 && r->group_rule != HD_GROUP_NONE && (d->n_expert % r->n_group != 0 || r->topk_group > r->n_group)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: n_group %" PRId64 ", topk_group %" PRId64 ", n_routed_experts %" PRId64
                       ": want topk_group <= n_group and n_group to divide the experts", name, r->n_group, r->topk_group, d->n_expert);
    }
    if (d->rope.yarn && !(d->rope.factor >= 1.0 && d->rope.original_max_position_embeddings > 0)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: rope_scaling: factor %g, original_max_position_embeddings %" PRId64
                       ": want at least 1 each", name, d->rope.factor, d->rope.original_max_position_embeddings);
    }
    if (!(d->rope.theta > 1.0) || !(d->rms_norm_eps > 0.0)) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: rope_theta %g, rms_norm_eps %g: want above 1 and above 0", name, d->rope.theta,
                       d->rms_norm_eps);
    }
    return HD_OK;
}

hd_status hd_hf_config_parse(const char *text, size_t n, const char *name, hd_dims *dims, hd_err *err)
{
    hd_status st;
    hd_json json;
    raw_config raw = {0};
    reset(&raw, fields, N_OF(fields));
    reset(&raw, rope_fields, N_OF(rope_fields));
    hd_json_open(&json, text, n, name, HD_JSON_STRICT);
    HD_TRY(read_raw(&json, &raw, err));
    *dims = (hd_dims){0};
    if (strcmp(raw.model_type, "deepseek_v2") == 0) {
        dims->family = HD_FAMILY_V2;
    } else if (strcmp(raw.model_type, "deepseek_v3") == 0) {
        dims->family = HD_FAMILY_V3;
    } else {
        st = HD_FAIL(err, HD_E_UNSUPPORTED, "%s: model_type is \"%s\", want deepseek_v2 or deepseek_v3", name, raw.model_type);
        goto out;
    }
    HD_TRY(check_supported(&raw, name, err));
    fill_shape(&raw, &defaults[dims->family], dims);
    HD_TRY(fill_router(&raw, &defaults[dims->family], name, dims, err));
    HD_TRY(check_positive(dims, name, err));
    fill_rope(&raw, dims);
    st = check_consistent(&raw, dims, name, err);
out:
    hd_json_close(&json);
    return st;
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static void put_i64(hd_json_writer *w, const char *key, int64_t value)
{
    hd_json_write_key(w, key);
    hd_json_write_i64(w, value);
}

static void put_f64(hd_json_writer *w, const char *key, double value)
{
    hd_json_write_key(w, key);
    hd_json_write_f64(w, value);
}

static void put_bool(hd_json_writer *w, const char *key, bool value)
{
    hd_json_write_key(w, key);
    hd_json_write_bool(w, value);
}

static void put_text(hd_json_writer *w, const char *key, const char *value)
{
    hd_json_write_key(w, key);
    hd_json_write_string(w, value);
}

/* An id that the model does not have (-1), or a rank of 0, is null. */
static void put_i64_or_null(hd_json_writer *w, const char *key, int64_t value, int64_t null)
{
    hd_json_write_key(w, key);
    if (value == null) {
        hd_json_write_null(w);
    } else {
        hd_json_write_i64(w, value);
    }
}

static void put_rope(hd_json_writer *w, const hd_rope_spec *rope)
{
    put_f64(w, "rope_theta", rope->theta);
    hd_json_write_key(w, "rope_scaling");
    if (!rope->yarn) {
        hd_json_write_null(w);
        return;
    }
    hd_json_write_object(w);
    put_text(w, "type", "yarn");
    put_text(w, "rope_type", "yarn");
    put_f64(w, "factor", rope->factor);
    put_i64(w, "original_max_position_embeddings", rope->original_max_position_embeddings);
    put_f64(w, "beta_fast", rope->beta_fast);
    put_f64(w, "beta_slow", rope->beta_slow);
    put_f64(w, "mscale", rope->mscale);
    put_f64(w, "mscale_all_dim", rope->mscale_all_dim);
    if (!rope->truncate) { put_bool(w, "truncate", false); }
    if (rope->attention_factor >= 0.0) { put_f64(w, "attention_factor", rope->attention_factor); }
    hd_json_write_end(w);
}

static void put_experts(hd_json_writer *w, const hd_dims *dims)
{
    static const char *const method[] = {
        [HD_GROUP_NONE] = "greedy", [HD_GROUP_MAX] = "group_limited_greedy", [HD_GROUP_TOP2_SUM] = "noaux_tc"};
    const hd_router_spec *r = &dims->router;
    put_i64(w, "first_k_dense_replace", dims->n_dense_layer);
    put_i64(w, "moe_layer_freq", 1);
    put_i64_or_null(w, "n_routed_experts", dims->n_expert, 0);
    put_i64_or_null(w, "n_shared_experts", dims->n_shared_expert, 0);
    put_i64(w, "num_experts_per_tok", r->top_k);
    put_i64(w, "moe_intermediate_size", dims->moe_intermediate_size);
    /* only noaux_tc has the bias; without groups it is one group */
    put_text(w, "topk_method", dims->router_bias ? "noaux_tc" : method[r->group_rule]);
    put_text(w, "scoring_func", r->score_func == HD_SCORE_SOFTMAX ? "softmax" : "sigmoid");
    put_i64(w, "n_group", r->n_group);
    put_i64(w, "topk_group", r->topk_group);
    put_bool(w, "norm_topk_prob", r->normalize);
    put_f64(w, "routed_scaling_factor", r->routed_scaling);
}

static const char *torch_dtype(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F32 ? "float32" : dtype == HD_DTYPE_F16 ? "float16" : "bfloat16";
}

void hd_hf_config_write(const hd_dims *dims, hd_dtype weights, hd_buf *out)
{
    bool v2 = dims->family == HD_FAMILY_V2;
    hd_json_writer w;
    hd_json_writer_init(&w, out, 2);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "architectures");
    hd_json_write_array(&w);
    hd_json_write_string(&w, v2 ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM");
    hd_json_write_end(&w);
    put_text(&w, "model_type", v2 ? "deepseek_v2" : "deepseek_v3");
    put_text(&w, "torch_dtype", torch_dtype(weights));
    put_i64(&w, "vocab_size", dims->vocab_size);
    put_i64(&w, "hidden_size", dims->hidden_size);
    put_i64(&w, "intermediate_size", dims->intermediate_size);
    put_i64(&w, "num_hidden_layers", dims->n_layer);
    put_i64(&w, "num_nextn_predict_layers", dims->n_mtp);
    if (dims->n_mtp > 0 && !dims->mtp_own_norm) { put_bool(&w, "mtp_use_shared_head_norm", false); } /* ours: nobody else reads it */
    put_i64(&w, "num_attention_heads", dims->n_head);
    put_i64(&w, "num_key_value_heads", dims->n_head);
    put_i64_or_null(&w, "q_lora_rank", dims->q_lora_rank, 0);
    put_i64(&w, "kv_lora_rank", dims->kv_lora_rank);
    put_i64(&w, "qk_nope_head_dim", dims->qk_nope_head_dim);
    put_i64(&w, "qk_rope_head_dim", dims->qk_rope_head_dim);
    put_i64(&w, "v_head_dim", dims->v_head_dim);
    put_experts(&w, dims);
    put_i64(&w, "max_position_embeddings", dims->max_position_embeddings);
    put_rope(&w, &dims->rope);
    put_f64(&w, "rms_norm_eps", dims->rms_norm_eps);
    put_f64(&w, "initializer_range", dims->initializer_range);
    put_text(&w, "hidden_act", "silu");
    put_bool(&w, "attention_bias", false);
    put_f64(&w, "attention_dropout", 0.0);
    put_bool(&w, "tie_word_embeddings", false);
    put_bool(&w, "use_cache", true);
    put_i64(&w, "pretraining_tp", 1);
    put_i64(&w, "ep_size", 1);
    put_i64_or_null(&w, "bos_token_id", dims->bos_token_id, -1);
    put_i64_or_null(&w, "eos_token_id", dims->eos_token_id, -1);
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}

void hd_hf_generation_config_write(const hd_dims *dims, hd_buf *out)
{
    hd_json_writer w;
    hd_json_writer_init(&w, out, 2);
    hd_json_write_object(&w);
    put_bool(&w, "_from_model_config", true);
    put_i64_or_null(&w, "bos_token_id", dims->bos_token_id, -1);
    put_i64_or_null(&w, "eos_token_id", dims->eos_token_id, -1);
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}

/* ---- differences --------------------------------------------------------------------------------------------------- */

void hd_hf_config_warn_differences(const char *name, const hd_dims *file, const hd_dims *model)
{
    const hd_router_spec *fr = &file->router, *mr = &model->router;
    const struct {
        const char *key;
        double in_file, in_model;
    } rows[] = {
        {"model_type (2 or 3)", file->family == HD_FAMILY_V2 ? 2 : 3, model->family == HD_FAMILY_V2 ? 2 : 3},
        {"num_experts_per_tok", (double)fr->top_k, (double)mr->top_k},
        {"topk_method (0 greedy, 1 group_limited_greedy, 2 noaux_tc)", fr->group_rule, mr->group_rule},
        {"scoring_func (0 softmax, 1 sigmoid)", fr->score_func, mr->score_func},
        {"n_group", (double)fr->n_group, (double)mr->n_group},
        {"topk_group", (double)fr->topk_group, (double)mr->topk_group},
        {"norm_topk_prob", fr->normalize, mr->normalize},
        {"routed_scaling_factor", fr->routed_scaling, mr->routed_scaling},
        {"num_nextn_predict_layers", (double)file->n_mtp, (double)model->n_mtp},
        {"rms_norm_eps", file->rms_norm_eps, model->rms_norm_eps},
        {"rope_theta", file->rope.theta, model->rope.theta},
        {"rope_scaling (0 none, 1 yarn)", file->rope.yarn, model->rope.yarn},
        {"rope_scaling.factor", file->rope.factor, model->rope.factor},
        {"rope_scaling.original_max_position_embeddings", (double)file->rope.original_max_position_embeddings,
         (double)model->rope.original_max_position_embeddings},
        {"rope_scaling.beta_fast", file->rope.beta_fast, model->rope.beta_fast},
        {"rope_scaling.beta_slow", file->rope.beta_slow, model->rope.beta_slow},
        {"the softmax scale that follows from rope_scaling.mscale_all_dim", file->softmax_scale, model->softmax_scale},
    };
    for (size_t i = 0; i < N_OF(rows); i++) {
        if (!(fabs(rows[i].in_file - rows[i].in_model) <= 1e-12 * fabs(rows[i].in_file))) {
            hd_log(HD_LOG_WARN, "%s: %s is %.10g, the model being loaded has %.10g", name, rows[i].key, rows[i].in_file,
                   rows[i].in_model);
        }
    }
}
