/* The numbers that define a DeepSeek V2 or V3 model: what config.json of a HuggingFace folder and the model keys of the
 * configuration both reduce to.  Plain data. */
#ifndef HD_MODEL_DIMS_H
#define HD_MODEL_DIMS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "ops/ops.h"
#include "ops/rope_table.h"

typedef enum hd_family { HD_FAMILY_V2, HD_FAMILY_V3 } hd_family;

typedef struct hd_dims {
    hd_family family;                                       /* model_type deepseek_v2 | deepseek_v3 */
    int64_t vocab_size, hidden_size, intermediate_size, moe_intermediate_size;
    int64_t n_layer, n_dense_layer;                         /* num_hidden_layers, first_k_dense_replace */
    int64_t n_head, q_lora_rank, kv_lora_rank;              /* q_lora_rank 0: one q_proj */
    int64_t qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    int64_t n_expert, n_shared_expert;                      /* n_expert 0: every layer is dense */
    hd_router_spec router;
    bool router_bias;                                       /* e_score_correction_bias exists */
    int64_t n_mtp;                                          /* mtp_num_layers / num_nextn_predict_layers */
    bool mtp_own_norm;                                      /* use shared_head.norm (DeepSeek); else the main norm (MaxText) */
    double rms_norm_eps;
    double latent_norm_eps;                                 /* q_a_layernorm, kv_a_layernorm: 1e-6 whatever rms_norm_eps says */
    hd_rope_spec rope;
    double softmax_scale;                                   /* (n + r)^-1/2 m^2 */
    int64_t max_position_embeddings;
    int64_t bos_token_id, eos_token_id;
    double initializer_range;
} hd_dims;

/* What the model keys of a configuration (MaxText's) mean.  The squared YaRN factor belongs to the softmax scale whenever
 * rope_type is yarn and max_position_embeddings exceeds the original; YaRN itself never depends on the sequence length. */
hd_status hd_dims_from_config(const hd_config *config, hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

/* HD_E_CONFIG, naming the number, when no model has these dims. */
hd_status hd_dims_validate(const hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

#endif
