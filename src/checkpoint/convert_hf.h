/* What a conversion to a HuggingFace folder writes: which tensors, in which dtype and order, and the config.json that fits them. */
#ifndef HD_CHECKPOINT_CONVERT_HF_H
#define HD_CHECKPOINT_CONVERT_HF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "checkpoint/folder.h"
#include "checkpoint/target.h"
#include "hadal/status.h"

typedef struct hd_convert_options {
    bool keep_dtype;       /* every tensor as it is stored */
    bool to_f8;            /* matrices of attention, MLPs and experts as F8_E4M3 with block scales */
    hd_dtype dtype;        /* else: of every floating tensor but the router's bias; with to_f8 of what is not FP8 and was F32 or F16 */
    hd_scale_format scale_format;
    int bits;              /* 8 or 4: matrices as blocks of integers (packing.h); all else is kept, FP8 as BF16; 0: no */
    bool from_packed;      /* the folder is packed: its quantization_config goes, unless tensors are kept as they are */
    bool keep_mtp;         /* tensors of layers from num_hidden_layers on */
    int64_t max_shard_bytes;
} hd_convert_options;

/* Whether DeepSeek's own FP8 models store this tensor as FP8: matrices named *_proj.weight under self_attn and mlp. */
bool hd_is_f8_matrix(const char *name);

/* Lists every tensor of the folder under its per-expert name, embedding first, then layer by layer, and cuts files.  n_layer:
 * num_hidden_layers, or -1 when config.json does not tell (then keep_mtp must be true).  *dropped counts tensors of MTP layers left out. */
hd_status hd_convert_plan(const hd_folder *folder, const hd_convert_options *options, int64_t n_layer, hd_target *target,
                          int64_t *dropped, hd_err *err) HD_CHECK_RESULT;

/* The folder's config.json with what the conversion changes: torch_dtype (or dtype), quantization_config, and
 * num_nextn_predict_layers when MTP layers are dropped.  All other members stay as they are. */
hd_status hd_convert_config(const char *text, size_t n, const char *name, const hd_convert_options *options, hd_buf *out,
                            hd_err *err) HD_CHECK_RESULT;

#endif
