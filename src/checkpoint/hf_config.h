/* config.json of a HuggingFace folder, in both directions.
 *
 * Reading: model_type deepseek_v2 or deepseek_v3; an absent field has the default of the native transformers class
 * (architecture notes, 1.2).  What hadal cannot compute is HD_E_UNSUPPORTED, what contradicts itself HD_E_CONFIG.
 * config.json is silent about two numbers of hd_dims: latent_norm_eps becomes 1e-6, router.masked_group_zero false.  mtp_own_norm is true, as
 * in DeepSeek's own models, unless a member that only hadal writes, mtp_use_shared_head_norm, says false. */
#ifndef HD_CHECKPOINT_HF_CONFIG_H
#define HD_CHECKPOINT_HF_CONFIG_H

#include <stddef.h>

#include "base/buf.h"
#include "hadal/status.h"
#include "model/dims.h"

enum { HD_HF_CONFIG_MAX = 1 << 20 }; /* bytes of a config.json */

/* `name` is for messages. */
hd_status hd_hf_config_parse(const char *text, size_t n, const char *name, hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

/* config.json and generation_config.json for a model whose weights are stored in `weights` (F32, BF16 or F16). */
void hd_hf_config_write(const hd_dims *dims, hd_dtype weights, hd_buf *out);
void hd_hf_generation_config_write(const hd_dims *dims, hd_buf *out);

/* Logs a warning for each number that differs between a folder's config.json and the model it is loaded into: shapes are
 * checked tensor by tensor, but a wrong RoPE factor or group count would go unnoticed. */
void hd_hf_config_warn_differences(const char *name, const hd_dims *file, const hd_dims *model);

#endif
