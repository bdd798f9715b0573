/* remat_policy and model options from a configuration.  Names of activations are MaxText's; what each stands for here is in
 * hd_remat and docs/model.md. */
#include <string.h>

#include "model/model.h"

/* ---- named policies ------------------------------------------------------------------------------------------------------ */

#define QKV .query_proj = true, .kv_proj = true

static const struct { const char *name; hd_remat remat; } policies[] = {
    {"full", {0}},
    {"minimal", {QKV, .out_proj = true, .mlpwi = true, .mlpwo = true, .moe_mlpwi = true}},
    {"minimal_with_context", {QKV, .context = true, .out_proj = true, .mlpwi = true, .mlpwo = true, .moe_mlpwi = true}},
    {"save_dot_with_context_except_mlp", {QKV, .context = true, .out_proj = true}},
    {"save_dot_except_mlpwi", {QKV, .out_proj = true, .mlpwo = true}},
    {"save_dot_except_mlp", {QKV, .out_proj = true}},
    {"save_qkv_proj", {QKV}},
    {"save_out_proj", {.out_proj = true}},
};

/* ---- custom: one key per activation ---------------------------------------------------------------------------------------- */

static hd_status is_kept(const hd_config *config, hd_config_key key, bool *kept, hd_err *err)
{
    if (hd_config_is(config, key, "offload")) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s=offload is not implemented; device keeps the activation, remat computes it again",
                       hd_config_key_name(key));
    }
    *kept = hd_config_is(config, key, "device");
    return HD_OK;
}

static hd_status custom(const hd_config *config, hd_remat *r, hd_err *err)
{
    hd_status st = HD_OK;
    const struct { hd_config_key key; bool *field[2]; } rows[] = {
        {HD_KEY_context, {&r->context}},
        {HD_KEY_attention_out, {&r->out_proj}},
        {HD_KEY_out_proj, {&r->out_proj}},
        {HD_KEY_query_proj, {&r->query_proj}},
        {HD_KEY_mla_q, {&r->query_proj}},
        {HD_KEY_key_proj, {&r->kv_proj}},
        {HD_KEY_value_proj, {&r->kv_proj}},
        {HD_KEY_kv_proj, {&r->kv_proj}},
        {HD_KEY_mla_kv, {&r->kv_proj}},
        {HD_KEY_qkv_proj, {&r->query_proj, &r->kv_proj}},
        {HD_KEY_query_wa_proj, {&r->query_wa}},
        {HD_KEY_kv_wa_proj, {&r->kv_wa}},
        {HD_KEY_mlpwi, {&r->mlpwi}},
        {HD_KEY_mlpwi_0, {&r->mlpwi}},
        {HD_KEY_mlpwi_1, {&r->mlpwi}},
        {HD_KEY_mlpwo, {&r->mlpwo}},
        {HD_KEY_moe_mlpwi_0, {&r->moe_mlpwi}},
        {HD_KEY_moe_mlpwi_1, {&r->moe_mlpwi}},
        {HD_KEY_moe_mlpwo, {&r->moe_mlpwo}},
    };
    *r = (hd_remat){0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bool kept = false;
        HD_TRY(is_kept(config, rows[i].key, &kept, err));
        for (int f = 0; f < 2; f++) {
            if (kept && rows[i].field[f] != NULL) { *rows[i].field[f] = true; }
        }
    }
out:
    return st;
}

hd_status hd_remat_from_config(const hd_config *config, hd_remat *remat, hd_err *err)
{
    const char *policy = hd_config_str(config, HD_KEY_remat_policy);
    if (strcmp(policy, "custom") == 0) { return custom(config, remat, err); }
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        if (strcmp(policy, policies[i].name) == 0) {
            *remat = policies[i].remat;
            return HD_OK;
        }
    }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "remat_policy=%s: offload is not implemented", policy);
}

/* ---- options ---------------------------------------------------------------------------------------------------------------- */

/* "float32", "bfloat16"; empty: the fallback. */
static hd_dtype dtype_from_config(const hd_config *config, hd_config_key key, hd_dtype fallback)
{
    if (hd_config_is(config, key, "float32")) { return HD_DTYPE_F32; }
    if (hd_config_is(config, key, "bfloat16")) { return HD_DTYPE_BF16; }
    return hd_config_is(config, key, "float16") ? HD_DTYPE_F16 : fallback;
}

static hd_attention_impl attention_from_config(const hd_config *config)
{
    bool is_short = hd_config_int(config, HD_KEY_max_target_length) < 128;
    if (hd_config_is(config, HD_KEY_attention, "autoselected")) {
        return is_short ? HD_ATTENTION_DOT_PRODUCT : HD_ATTENTION_FLASH;
    }
    return hd_config_is(config, HD_KEY_attention, "dot_product") ? HD_ATTENTION_DOT_PRODUCT : HD_ATTENTION_FLASH;
}

static hd_moe_strategy strategy_from_config(const hd_config *config)
{
    if (hd_config_bool(config, HD_KEY_sparse_matmul)) {
        return hd_config_bool(config, HD_KEY_megablox) ? HD_MOE_GROUPED : HD_MOE_RAGGED;
    }
    return hd_config_float(config, HD_KEY_capacity_factor) > 0.0 ? HD_MOE_DROPPING : HD_MOE_DENSE;
}

static hd_balance_rule balance_from_config(const hd_config *config)
{
    if (hd_config_is(config, HD_KEY_load_balance_rule, "v2")) { return HD_BALANCE_V2; }
    return hd_config_is(config, HD_KEY_load_balance_rule, "v3") ? HD_BALANCE_V3 : HD_BALANCE_MAXTEXT;
}

static void masks_from_config(const hd_config *config, hd_model_options *o)
{
    size_t n_trainable = 0, n_adamw = 0;
    o->trainable_mask = hd_config_list(config, HD_KEY_trainable_parameters_mask, &n_trainable);
    o->adamw_mask = hd_config_list(config, HD_KEY_adamw_mask, &n_adamw);
    o->n_trainable_mask = (int)n_trainable;
    o->n_adamw_mask = (int)n_adamw;
}

hd_status hd_model_options_from_config(const hd_config *config, bool training, hd_model_options *options, hd_err *err)
{
    hd_model_options o = {
        .dtype = dtype_from_config(config, HD_KEY_dtype, HD_DTYPE_BF16),
        .weight_dtype = dtype_from_config(config, HD_KEY_weight_dtype, HD_DTYPE_F32),
        .attention = attention_from_config(config),
        .moe_strategy = strategy_from_config(config),
        .capacity_factor = hd_config_float(config, HD_KEY_capacity_factor),
        .activations_in_float32 = hd_config_bool(config, HD_KEY_activations_in_float32),
        .narrow_gate_logits = !hd_config_bool(config, HD_KEY_float32_gate_logits),
        .z_loss_multiplier = hd_config_float(config, HD_KEY_z_loss_multiplier),
        .mtp_loss_scaling_factor = hd_config_float(config, HD_KEY_mtp_loss_scaling_factor),
        .balance_loss_weight = hd_config_float(config, HD_KEY_load_balance_loss_weight),
        .router_bias_update_rate = hd_config_float(config, HD_KEY_routed_bias_update_rate),
        .balance_rule = balance_from_config(config),
        .count_padding = hd_config_bool(config, HD_KEY_routed_bias_counts_padding),
        .row_chunk = hd_config_int(config, HD_KEY_loss_row_chunk),
        .vocab_chunk = hd_config_int(config, HD_KEY_loss_vocab_chunk),
        .max_positions = hd_config_int(config, HD_KEY_max_target_length),
        .init_seed = (uint64_t)hd_config_int(config, HD_KEY_init_weights_seed),
        .init_std = hd_config_float(config, HD_KEY_init_std),
        .dense_init_scale = hd_config_float(config, HD_KEY_dense_init_scale),
        .training = training,
    };
    o.mu_dtype = dtype_from_config(config, HD_KEY_mu_dtype, o.weight_dtype);
    masks_from_config(config, &o);
    if (training && o.weight_dtype != HD_DTYPE_F32 && !hd_config_bool(config, HD_KEY_master_weights)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "master_weights=false is not implemented: weights of fewer than 32 bits keep an f32 master");
    }
    *options = o;
    return hd_remat_from_config(config, &options->remat, err);
}
