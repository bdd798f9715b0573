/* From keys to the model's options: dtypes, kernels, strategies, what is kept for the backward pass. */
#include <string.h>

#include "model/remat.h"
#include "train/trainer.h"

/* Below this length `autoselected` takes dot_product, as MaxText does. */
enum { FLASH_MIN_LENGTH = 128 };

static hd_dtype dtype_of(const hd_config *config, hd_config_key key)
{
    return hd_config_is(config, key, "bfloat16") ? HD_DTYPE_BF16 : HD_DTYPE_F32;
}

static hd_attention_impl attention_of(const hd_config *config)
{
    if (hd_config_is(config, HD_KEY_attention, "dot_product")) { return HD_ATTENTION_DOT_PRODUCT; }
    if (hd_config_is(config, HD_KEY_attention, "flash")) { return HD_ATTENTION_FLASH; }
    return hd_config_int(config, HD_KEY_max_target_length) < FLASH_MIN_LENGTH ? HD_ATTENTION_DOT_PRODUCT : HD_ATTENTION_FLASH;
}

static hd_moe_strategy strategy_of(const hd_config *config)
{
    if (hd_config_bool(config, HD_KEY_sparse_matmul)) {
        return hd_config_bool(config, HD_KEY_megablox) ? HD_MOE_GROUPED : HD_MOE_RAGGED;
    }
    return hd_config_float(config, HD_KEY_capacity_factor) > 0.0 ? HD_MOE_DROPPING : HD_MOE_DENSE;
}

static hd_balance_rule balance_rule_of(const hd_config *config)
{
    if (hd_config_is(config, HD_KEY_load_balance_rule, "v2")) { return HD_BALANCE_V2; }
    return hd_config_is(config, HD_KEY_load_balance_rule, "v3") ? HD_BALANCE_V3 : HD_BALANCE_MAXTEXT;
}

static void read_masks(const hd_config *config, hd_model_options *o)
{
    size_t n;
    o->trainable_mask = hd_config_list(config, HD_KEY_trainable_parameters_mask, &n);
    o->n_trainable_mask = (int)n;
    o->adamw_mask = hd_config_list(config, HD_KEY_adamw_mask, &n);
    o->n_adamw_mask = (int)n;
}

hd_status hd_model_options_from_config(const hd_config *config, hd_model_options *o, hd_err *err)
{
    *o = (hd_model_options){
        .dtype = dtype_of(config, HD_KEY_dtype),
        .weight_dtype = dtype_of(config, HD_KEY_weight_dtype),
        /* f32 unless the user asks: bf16 moments lose small updates */
        .mu_dtype = hd_config_is_set(config, HD_KEY_mu_dtype) ? dtype_of(config, HD_KEY_mu_dtype) : HD_DTYPE_F32,
        .attention = attention_of(config),
        .moe_strategy = strategy_of(config),
        .capacity_factor = hd_config_float(config, HD_KEY_capacity_factor),
        .activations_in_float32 = hd_config_bool(config, HD_KEY_activations_in_float32),
        .z_loss_multiplier = hd_config_float(config, HD_KEY_z_loss_multiplier),
        .mtp_loss_scaling_factor = hd_config_float(config, HD_KEY_mtp_loss_scaling_factor),
        .balance_loss_weight = hd_config_float(config, HD_KEY_load_balance_loss_weight),
        .balance_rule = balance_rule_of(config),
        .router_bias_update_rate = hd_config_float(config, HD_KEY_routed_bias_update_rate),
        .row_chunk = hd_config_int(config, HD_KEY_loss_row_chunk),
        .vocab_chunk = hd_config_int(config, HD_KEY_loss_vocab_chunk),
        .max_positions = hd_config_int(config, HD_KEY_max_target_length),
        .init_seed = (uint64_t)hd_config_int(config, HD_KEY_init_weights_seed),
        .init_std = hd_config_float(config, HD_KEY_init_std),
        .dense_init_scale = hd_config_float(config, HD_KEY_dense_init_scale),
        .training = true,
    };
    read_masks(config, o);
    return hd_remat_from_config(config, &o->remat, err);
}
