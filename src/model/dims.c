/* The numbers of a model: from a configuration, checked, and counted.  See dims.h. */
#include "model/dims.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/model.h"

/* ---- from a configuration --------------------------------------------------------------------------------------------- */

static hd_rope_spec rope_from_config(const hd_config *c)
{
    hd_rope_spec rope = {
        .dim = hd_config_int(c, HD_KEY_qk_rope_head_dim),
        .n_positions = hd_config_int(c, HD_KEY_max_position_embeddings),
        .theta = hd_config_float(c, HD_KEY_rope_max_timescale),
        .yarn = hd_config_is(c, HD_KEY_rope_type, "yarn"),
        .factor = hd_config_float(c, HD_KEY_rope_factor),
        .original_max_position_embeddings = hd_config_int(c, HD_KEY_original_max_position_embeddings),
        .beta_fast = hd_config_float(c, HD_KEY_beta_fast),
        .beta_slow = hd_config_float(c, HD_KEY_beta_slow),
        .mscale = hd_config_float(c, HD_KEY_mscale),
        .mscale_all_dim = hd_config_float(c, HD_KEY_mscale),
        .truncate = hd_config_bool(c, HD_KEY_rope_truncate),
        .attention_factor = 1.0,
    };
    if (!hd_config_is_null(c, HD_KEY_rope_attention_factor)) {
        rope.attention_factor = hd_config_float(c, HD_KEY_rope_attention_factor);
    } else if (hd_config_bool(c, HD_KEY_rope_attention_scaling)) {
        rope.attention_factor = rope.factor > 1.0 ? 0.1 * log(rope.factor) + 1.0 : 1.0;
    }
    return rope;
}

static hd_group_rule group_rule_from_config(const hd_config *c, bool softmax, bool groups)
{
    if (hd_config_is(c, HD_KEY_topk_method, "greedy") || !groups) { return HD_GROUP_NONE; }
    if (hd_config_is(c, HD_KEY_topk_method, "group_limited_greedy")) { return HD_GROUP_MAX; }
    if (hd_config_is(c, HD_KEY_topk_method, "noaux_tc")) { return HD_GROUP_TOP2_SUM; }
    return softmax ? HD_GROUP_MAX : HD_GROUP_TOP2_SUM;
}

/* Softmax weights are not renormalised, sigmoid weights are and are scaled too (trap 3 of the architecture notes). */
static hd_router_spec router_from_config(const hd_config *c)
{
    int64_t n_group = hd_config_int(c, HD_KEY_n_routing_groups), kept = hd_config_int(c, HD_KEY_topk_routing_group);
    bool sigmoid = hd_config_is(c, HD_KEY_routed_score_func, "sigmoid"), groups = n_group > 1 && kept > 0;
    return (hd_router_spec){
        .score_func = sigmoid ? HD_SCORE_SIGMOID : HD_SCORE_SOFTMAX,
        .group_rule = group_rule_from_config(c, !sigmoid, groups),
        .n_group = groups ? n_group : 1,
        .topk_group = groups ? kept : 1,
        .top_k = hd_config_int(c, HD_KEY_num_experts_per_tok),
        .normalize = sigmoid,
        .scale_normalized = sigmoid,
        .masked_group_zero = hd_config_bool(c, HD_KEY_router_masked_group_zero),
        .routed_scaling = hd_config_float(c, HD_KEY_routed_scaling_factor),
    };
}

static double softmax_scale_from_config(const hd_dims *d)
{
    hd_rope_spec rope = d->rope;
    rope.yarn = rope.yarn && d->max_position_embeddings > rope.original_max_position_embeddings;
    return hd_softmax_scale(d->qk_nope_head_dim + d->qk_rope_head_dim, &rope);
}

static void shape_from_config(const hd_config *c, hd_dims *d)
{
    d->vocab_size = hd_config_int(c, HD_KEY_vocab_size);
    d->hidden_size = hd_config_int(c, HD_KEY_emb_dim);
    d->intermediate_size = hd_config_int(c, HD_KEY_mlp_dim);
    d->moe_intermediate_size = hd_config_int(c, HD_KEY_moe_mlp_dim);
    d->n_layer = hd_config_int(c, HD_KEY_num_decoder_layers);
    d->n_head = hd_config_int(c, HD_KEY_num_query_heads);
    d->q_lora_rank = hd_config_int(c, HD_KEY_q_lora_rank);
    d->kv_lora_rank = hd_config_int(c, HD_KEY_kv_lora_rank);
    d->qk_nope_head_dim = hd_config_int(c, HD_KEY_qk_nope_head_dim);
    d->qk_rope_head_dim = hd_config_int(c, HD_KEY_qk_rope_head_dim);
    d->v_head_dim = hd_config_int(c, HD_KEY_v_head_dim);
    d->n_mtp = hd_config_int(c, HD_KEY_mtp_num_layers);
}

static void experts_from_config(const hd_config *c, hd_dims *d)
{
    int64_t experts = hd_config_int(c, HD_KEY_num_experts);
    d->n_expert = experts > 1 ? experts : 0;
    d->n_dense_layer = d->n_expert > 0 ? hd_config_int(c, HD_KEY_first_num_dense_layers) : d->n_layer;
    d->n_shared_expert = d->n_expert > 0 ? hd_config_int(c, HD_KEY_shared_experts) : 0;
    d->router = router_from_config(c);
    d->router_bias = d->n_expert > 0 && hd_config_bool(c, HD_KEY_routed_bias);
}

hd_status hd_dims_from_config(const hd_config *config, hd_dims *dims, hd_err *err)
{
    hd_dims d = {0};
    shape_from_config(config, &d);
    experts_from_config(config, &d);
    d.family = d.router.score_func == HD_SCORE_SIGMOID ? HD_FAMILY_V3 : HD_FAMILY_V2;
    d.mtp_own_norm = hd_config_bool(config, HD_KEY_mtp_use_shared_head_norm);
    d.rms_norm_eps = hd_config_float(config, HD_KEY_normalization_layer_epsilon);
    d.latent_norm_eps = 1e-6;
    d.rope = rope_from_config(config);
    d.max_position_embeddings = d.rope.n_positions;
    d.softmax_scale = softmax_scale_from_config(&d);
    d.bos_token_id = d.family == HD_FAMILY_V3 ? 0 : 100000;
    d.eos_token_id = d.family == HD_FAMILY_V3 ? 1 : 100001;
    d.initializer_range = 0.02;
    if (d.n_mtp > 0 && !hd_config_bool(config, HD_KEY_mtp_pre_norm_hidden)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "mtp_pre_norm_hidden=false is not implemented: modules see the output of the last "
                                              "layer before the final norm");
    }
    *dims = d;
    return hd_dims_validate(dims, err);
}

/* ---- checked ------------------------------------------------------------------------------------------------------------ */

typedef struct bound { const char *name; int64_t value, least, most; } bound;

static hd_status check_bounds(const bound *bounds, size_t n, hd_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (bounds[i].value < bounds[i].least || bounds[i].value > bounds[i].most) {
            return HD_FAIL(err, HD_E_CONFIG, "model: %s is %" PRId64 ", want %" PRId64 " to %" PRId64, bounds[i].name,
                           bounds[i].value, bounds[i].least, bounds[i].most);
        }
    }
    return HD_OK;
}

static hd_status check_experts(const hd_dims *d, hd_err *err)
{
    const hd_router_spec *r = &d->router;
    const int64_t big = (int64_t)1 << 24;
    const bound bounds[] = {{"moe_intermediate_size", d->moe_intermediate_size, 1, big},
                            {"n_shared_experts", d->n_shared_expert, 0, 1024},
                            {"num_experts_per_tok", r->top_k, 1, d->n_expert},
                            {"first_k_dense_replace", d->n_dense_layer, 0, d->n_layer}};
    hd_status st = check_bounds(bounds, sizeof bounds / sizeof bounds[0], err);
    if (st != HD_OK || r->group_rule == HD_GROUP_NONE) { return st; }
    const bound groups[] = {{"n_group", r->n_group, 1, d->n_expert}, {"topk_group", r->topk_group, 1, r->n_group}};
    st = check_bounds(groups, 2, err);
    if (st != HD_OK) { return st; }
    if (d->n_expert % r->n_group != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "model: n_group is %" PRId64 ", want a divisor of the %" PRId64 " experts", r->n_group,
                       d->n_expert);
    }
    int64_t open = d->n_expert / r->n_group * r->topk_group;
    if (!r->masked_group_zero && r->top_k > open) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "model: num_experts_per_tok is %" PRId64 ", and the %" PRId64 " groups a token may use hold %" PRId64
                       " experts", r->top_k, r->topk_group, open);
    }
    return HD_OK;
}

hd_status hd_dims_validate(const hd_dims *d, hd_err *err)
{
    const int64_t big = (int64_t)1 << 24, wide = (int64_t)1 << 16;
    const bound bounds[] = {
        {"vocab_size", d->vocab_size, 2, big},
        {"hidden_size", d->hidden_size, 1, big},
        {"num_hidden_layers", d->n_layer, 1, wide},
        {"num_attention_heads", d->n_head, 1, wide},
        {"q_lora_rank", d->q_lora_rank, 0, big},
        {"kv_lora_rank", d->kv_lora_rank, 1, big},
        {"qk_nope_head_dim", d->qk_nope_head_dim, 1, wide},
        {"qk_rope_head_dim", d->qk_rope_head_dim, 2, wide},
        {"v_head_dim", d->v_head_dim, 1, wide},
        {"n_routed_experts", d->n_expert, 0, wide},
        {"num_nextn_predict_layers", d->n_mtp, 0, 64},
    };
    hd_status st = check_bounds(bounds, sizeof bounds / sizeof bounds[0], err);
    if (st != HD_OK) { return st; }
    bool any_dense = d->n_expert == 0 || d->n_dense_layer > 0;
    if (any_dense && (d->intermediate_size < 1 || d->intermediate_size > big)) {
        return HD_FAIL(err, HD_E_CONFIG, "model: intermediate_size is %" PRId64 ", want 1 to %" PRId64, d->intermediate_size, big);
    }
    if (d->qk_rope_head_dim % 2 != 0 || d->rope.dim != d->qk_rope_head_dim) {
        return HD_FAIL(err, HD_E_CONFIG, "model: qk_rope_head_dim is %" PRId64 " (rope table %" PRId64 "), want an even number",
                       d->qk_rope_head_dim, d->rope.dim);
    }
    if (!(d->rms_norm_eps > 0.0) || !(d->latent_norm_eps > 0.0) || !(d->softmax_scale > 0.0) || !isfinite(d->softmax_scale)) {
        return HD_FAIL(err, HD_E_CONFIG, "model: rms_norm_eps %g, latent eps %g, softmax scale %g, want all above 0",
                       d->rms_norm_eps, d->latent_norm_eps, d->softmax_scale);
    }
    return d->n_expert > 0 ? check_experts(d, err) : HD_OK;
}

/* ---- counted ------------------------------------------------------------------------------------------------------------- */

/* Elements over the layers [0, n_layer) and the globals; active: of a per-expert tensor the share that a token visits, and
 * nothing of the embedding. */
static int64_t count(const hd_dims *dims, bool active)
{
    int n_spec;
    int64_t total = 0;
    const hd_tensor_spec *table = hd_tensor_table(&n_spec);
    for (int s = 0; s < n_spec; s++) {
        int64_t n = hd_tensor_spec_count(dims, &table[s]);
        if (active && hd_tensor_per_expert(&table[s])) { n = n / dims->n_expert * dims->router.top_k; }
        if (active && table[s].unit == HD_UNIT_EMBEDDING) { continue; }
        for (int64_t layer = -1; layer < dims->n_layer; layer++) {
            if (hd_tensor_in_layer(dims, &table[s], layer)) { total += n; }
        }
    }
    return total;
}

int64_t hd_dims_count_params(const hd_dims *dims) { return count(dims, false); }
int64_t hd_dims_count_active_params(const hd_dims *dims) { return count(dims, true); }
