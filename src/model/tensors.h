/* The tensor table: every weight of the model, once.  Allocation, initialisation, optimiser, sharding, conversion, `inspect`,
 * `plan` and checkpoints are loops over it (hd_model.params is the table expanded for given dims).
 *
 * Not in the table, because they are not parameters: model.layers.{L + m}.embed_tokens.weight and .shared_head.head.weight,
 * which a HuggingFace folder with MTP modules stores as copies of the main tables. */
#ifndef HD_MODEL_TENSORS_H
#define HD_MODEL_TENSORS_H

#include <stddef.h>

#include "hadal/status.h"
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
typedef enum hd_unit {
    HD_UNIT_EMBEDDING,
    HD_UNIT_HEAD,      /* final norm and output matrix */
    HD_UNIT_ATTENTION, /* with the norm before it */
    HD_UNIT_DENSE,     /* with the norm before it */
    HD_UNIT_EXPERTS,   /* router, routed and shared experts, with the norm before them */
    HD_UNIT_MTP,       /* what an MTP module has beside its layer */
    HD_UNIT_COUNT
} hd_unit;

typedef enum hd_init_rule { HD_INIT_ONES, HD_INIT_ZEROS, HD_INIT_EMBEDDING, HD_INIT_NORMAL_FAN_IN, HD_INIT_TRUNCATED_FAN_IN } hd_init_rule;

typedef struct hd_tensor_spec {
    const char *hf_name;    /* "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": {i} layer, {e} expert */
    const char *orbax_path; /* MaxText's leaf path: {layer} stands for what hd_layer_path writes, {m} for the 1-based number
                             * of an MTP module; NULL when MaxText has no such leaf */
    hd_layer_kind layers;
    hd_unit unit;
    hd_axis axes[3];        /* in memory order; a leading HD_AXIS_EXPERTS axis is one HuggingFace tensor per expert */
    int n_axis;
    hd_init_rule init;
    bool decay;             /* AdamW decay unless adamw_mask excludes it */
    bool trained;           /* false: e_score_correction_bias, moved by its own rule */
    bool keep_f32;          /* stored f32 whatever weight_dtype says */
    bool (*present)(const hd_dims *dims); /* NULL: always */
    bool (*used)(const hd_dims *dims);    /* NULL: always; false: stored so that a folder survives a round trip, never read */
    size_t slot;            /* private to src/model: the field of struct hd_layer that points at the weight */
} hd_tensor_spec;

/* The table; *n receives its length. */
const hd_tensor_spec *hd_tensor_table(int *n);

int64_t hd_axis_length(const hd_dims *dims, hd_axis axis);
int64_t hd_tensor_spec_count(const hd_dims *dims, const hd_tensor_spec *spec); /* elements in one layer */

/* True for the layers that hold spec; layer runs over [0, n_layer + n_mtp), or is -1 for globals. */
bool hd_tensor_in_layer(const hd_dims *dims, const hd_tensor_spec *spec, int64_t layer);
bool hd_layer_is_moe(const hd_dims *dims, int64_t layer);

/* A row applies to the first axis' experts one by one in HuggingFace files. */
static inline bool hd_tensor_per_expert(const hd_tensor_spec *spec)
{
    return spec->n_axis == 3 && spec->axes[0] == HD_AXIS_EXPERTS;
}

enum { HD_NAME_MAX = 160 };

/* The HuggingFace name; expert -1 leaves "{e}" in place. */
void hd_tensor_hf_name(const hd_tensor_spec *spec, int64_t layer, int64_t expert, char name[HD_NAME_MAX]);

/* "decoder/dense_layers_0", "decoder/moe_layers_3" (numbered among their kind) or "mtp_block/mtp_layer_1/mtp_1_transformer_layer";
 * scanned: "decoder/dense_layers", "decoder/moe_layers". */
void hd_layer_path(const hd_dims *dims, int64_t layer, bool scanned, char path[HD_NAME_MAX]);

/* The MaxText path, "" when there is none. */
void hd_tensor_orbax_path(const hd_dims *dims, const hd_tensor_spec *spec, int64_t layer, bool scanned,
                          char path[HD_NAME_MAX]);

#endif
