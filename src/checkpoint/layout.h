/* The layout of a checkpoint before a byte of it is written: every file with its exact size, every tensor with its place.
 *
 *   config.json, generation_config.json
 *   model.safetensors, or model-00001-of-0000N.safetensors ... and model.safetensors.index.json
 *   optimizer/optimizer.safetensors, or numbered likewise: master.*, mu.*, nu.* of the parameters, state.* of the trainer
 *
 * Tensors go to shards in the order of hd_hf_list; inside a file they are in safetensors' order. */
#ifndef HD_CHECKPOINT_LAYOUT_H
#define HD_CHECKPOINT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/shards.h"

#define HD_OPTIMIZER_FOLDER "optimizer"
#define HD_STATE_PREFIX "state."

typedef struct hd_ckpt_layout_tensor {
    hd_st_desc desc;     /* offsets in its file's data */
    hd_hf_ref ref;       /* param -1: a tensor of the trainer */
    int64_t value;       /* which of hd_ckpt_state.values; -1 */
    int64_t snapshot_at; /* offset in a snapshot of the state; a copy shares its original's */
} hd_ckpt_layout_tensor;

typedef struct hd_ckpt_layout {
    hd_ckpt_layout_tensor *tensors;
    int64_t n_tensor;
    hd_shards shards;     /* of the tensors above, then the JSON files */
    hd_buf names;         /* what the descs' names point into */
    int64_t bytes;        /* of all files */
    size_t snapshot_bytes;
} hd_ckpt_layout;

/* Looks at shapes and dtypes only.  Free with hd_ckpt_layout_free also after a failure. */
hd_status hd_ckpt_layout_build(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_ckpt_layout *out, hd_err *err) HD_CHECK_RESULT;
void hd_ckpt_layout_free(hd_ckpt_layout *layout); /* accepts a zeroed one */

/* The tensor to read for a place in the layout. */
hd_tensor hd_ckpt_layout_view(const hd_ckpt_state *state, const hd_ckpt_layout_tensor *t);

#endif
