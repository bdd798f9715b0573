/* The tensor table: every weight of the model, once.  Allocation, initialisation, optimiser, sharding, conversion, `inspect`,
 * `plan` and checkpoints are loops over it (hd_model.params is the table expanded for given dims). */
#ifndef HD_MODEL_TENSORS_H
#define HD_MODEL_TENSORS_H

#include "model/dims.h"

/* Logical axes.  A later table maps them to mesh axes. */
typedef enum hd_axis {
    HD_AXIS_NONE,
    HD_AXIS_VOCAB,       /* V */
    HD_AXIS_EMBED,       /* D */
    HD_AXIS_EMBED_PAIR,  /* 2 D: [embedding ; hidden] of an MTP module */
    HD_AXIS_Q_HEADS,     /* H (n + r) */
    HD_AXIS_Q_LORA,      /* q_lora_rank */
    HD_AXIS_KV_LORA,     /* kv_lora_rank */
    HD_AXIS_KV_LORA_ROPE,/* kv_lora_rank + r */
    HD_AXIS_KV_HEADS,    /* H (n + v) */
    HD_AXIS_V_HEADS,     /* H v */
    HD_AXIS_MLP,         /* F */
    HD_AXIS_EXPERTS,     /* E */
    HD_AXIS_MOE_MLP,     /* Fm */
    HD_AXIS_SHARED_MLP   /* n_shared Fm */
} hd_axis;

/* Which layers hold the tensor.  MTP modules are layers n_layer, n_layer + 1, ... and hold attention and MoE tensors too. */
typedef enum hd_layer_kind { HD_LAYERS_GLOBAL, HD_LAYERS_ALL, HD_LAYERS_DENSE, HD_LAYERS_MOE, HD_LAYERS_MTP } hd_layer_kind;

/* The unit of weights_acquire / weights_release / grads_ready. */
typedef enum hd_unit { HD_UNIT_EMBEDDING, HD_UNIT_HEAD, HD_UNIT_ATTENTION, HD_UNIT_DENSE, HD_UNIT_EXPERTS, HD_UNIT_MTP } hd_unit;

typedef enum hd_init_rule { HD_INIT_ONES, HD_INIT_ZEROS, HD_INIT_EMBEDDING, HD_INIT_NORMAL_FAN_IN, HD_INIT_TRUNCATED_FAN_IN } hd_init_rule;

typedef struct hd_tensor_spec {
    const char *hf_name;    /* "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": {i} layer, {e} expert */
    const char *orbax_path; /* MaxText's unscanned leaf path with {j} = index among layers of its kind */
    hd_layer_kind layers;
    hd_unit unit;
    hd_axis axes[3];        /* in memory order; a leading HD_AXIS_EXPERTS axis is one HuggingFace tensor per expert */
    int n_axis;
    hd_init_rule init;
    bool decay;             /* AdamW decay unless adamw_mask excludes it */
    bool trained;           /* false: e_score_correction_bias, moved by its own rule */
    bool keep_f32;          /* stored f32 whatever weight_dtype says */
    bool (*present)(const hd_dims *dims);
} hd_tensor_spec;

/* The table; *n receives its length. */
const hd_tensor_spec *hd_tensor_table(int *n);

int64_t hd_axis_length(const hd_dims *dims, hd_axis axis);

#endif
