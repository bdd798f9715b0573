/* A DeepSeek model on one rank: its parameters, and the forward and backward passes over one leaf of a batch.
 *
 * How data flows.  A *leaf* is B sequences of T tokens, the unit of gradient summation (gradient_slices).  Its token ids,
 * targets, positions, segment ids and loss weights are tensors.  hd_model_train_leaf runs
 *   embedding -> dense layers -> MoE layers -> (final norm, head, loss) and (MTP modules, their loss)
 * saving in the step arena what the remat policy says, then walks back, adding every weight's gradient.  The loss never holds the
 * logits of a whole leaf: projection, cross-entropy and their gradient run over row and vocabulary chunks.
 * All sums that a step reports go to one f64 tensor, `metrics`, read once by the host after the optimiser has run.
 * Nothing here reads a tensor on the host. */
#ifndef HD_MODEL_MODEL_H
#define HD_MODEL_MODEL_H

#include "base/arena.h"
#include "config/config.h"
#include "model/dims.h"
#include "model/tensors.h"
#include "ops/ops.h"

typedef enum hd_moe_strategy { HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE, HD_MOE_DROPPING } hd_moe_strategy;

/* What the forward pass keeps for the backward pass, per layer, beside the layer's input.  MaxText's names in comments. */
typedef struct hd_remat {
    bool query_proj, kv_proj;   /* q (N, H, n + r) after RoPE; kv (N, H, n + v) and k_rope */
    bool query_wa, kv_wa;       /* low-rank activations: query_wa_proj, kv_wa_proj */
    bool context;               /* attention output (N, H, v) and lse */
    bool out_proj;              /* the residual stream after attention */
    bool mlpwi, mlpwo;          /* dense and shared gate/up; down output */
    bool moe_mlpwi, moe_mlpwo;  /* routed gate/up; routed output */
} hd_remat;

/* From remat_policy and, for `custom`, the key of each activation.  HD_E_UNSUPPORTED for offload. */
hd_status hd_remat_from_config(const hd_config *config, hd_remat *remat, hd_err *err) HD_CHECK_RESULT;

typedef struct hd_model_options {
    hd_dtype dtype, weight_dtype, mu_dtype;
    hd_attention_impl attention;
    hd_moe_strategy moe_strategy;
    double capacity_factor;
    bool activations_in_float32;      /* gate and up projections in f32, for every strategy */
    bool narrow_gate_logits;          /* float32_gate_logits=false: router logits rounded to dtype */
    hd_remat remat;
    double z_loss_multiplier, mtp_loss_scaling_factor, balance_loss_weight, router_bias_update_rate;
    hd_balance_rule balance_rule;
    bool count_padding;               /* tokens of segment 0 count as load for the router bias (MaxText) */
    int64_t row_chunk, vocab_chunk;   /* of the loss; 0: chosen from the vocabulary */
    int64_t max_positions;            /* length of the RoPE table */
    uint64_t init_seed;
    double init_std, dense_init_scale;/* init_std > 0: every matrix normal(init_std); else MaxText's rules */
    bool training;                    /* gradients, master weights and moments are allocated */
    bool streamed;                    /* weights take no memory of the model: see hd_weight_stream; not with training */
    bool mapped;                      /* nor here: whoever opened the model sets hd_param.weight (checkpoint/mapped.h); not with training */
    const char *const *trainable_mask, *const *adamw_mask; /* POSIX extended regexes over hf names and MaxText paths; may be NULL */
    int n_trainable_mask, n_adamw_mask;
} hd_model_options;

/* The options a configuration asks for.  The masks are the configuration's lists and live as long as it does; max_positions is
 * max_target_length. */
hd_status hd_model_options_from_config(const hd_config *config, bool training, hd_model_options *options, hd_err *err)
    HD_CHECK_RESULT;

/* One row of the table, expanded: one in-memory tensor with everything that belongs to it. */
typedef struct hd_param {
    const hd_tensor_spec *spec;
    int64_t layer;       /* -1 for globals */
    char *name;          /* HuggingFace name with {i} filled in; "{e}" stays when the first axis is experts */
    hd_weight weight;    /* value; grad (a view into hd_model.grad_flat) */
    hd_weight live;      /* what model code hands to ops: `weight` between acquire and release, else empty (model/weights.h) */
    hd_tensor master;    /* f32; aliases weight.value when that is f32 */
    hd_tensor mu, nu;    /* n_dim = 0 when frozen or not training */
    bool trained, decay; /* after the masks */
} hd_param;

/* Called when no more gradient will be added to a unit's weights by the leaf in work; layer is -1 for globals.
 * Runs between ops: what it does to memory goes through ops or the executor. */
typedef hd_status (*hd_grads_ready_hook)(void *context, hd_unit unit, int64_t layer, hd_err *err);

/* Sees an activation of the forward pass between two ops; for comparisons with another implementation (docs/check.md lists the
 * names).  layer is -1 for embed, final_norm and logits, which may come in several pieces of rows, in order.  t may be strided; it
 * lives until the call returns.  What the observer takes from `step` it releases.  Also called on a dry executor. */
typedef hd_status (*hd_observer)(void *context, hd_exec *ex, hd_arena *step, const char *name, int64_t layer, const hd_tensor *t,
                                 hd_err *err);

/* Where the weights of a streamed model come from.  A unit's weights are read into `arena` when the unit is acquired and stay until
 * another is; of the routed experts only the matrices that have rows are read, one at a time.  The parameters' weights have shapes
 * and dtypes and no memory outside that. */
typedef struct hd_weight_stream {
    /* Values of hd_model.params[param], of one expert of it when expert >= 0, into a contiguous tensor of the weight's dtype.  Also
     * called on a dry executor. */
    hd_status (*read)(void *context, int64_t param, int64_t expert, hd_exec *ex, hd_tensor *to, hd_err *err);
    void *context;
    hd_exec *ex;
    hd_arena *arena;
    struct hd_layer *held; /* private to src/model: whose unit is in the arena; NULL */
    int held_unit;
} hd_weight_stream;

typedef struct hd_model {
    hd_dims dims;
    hd_model_options options;
    hd_param *params; /* in table order, layers ascending inside a row's kind; freed by hd_model_close */
    int64_t n_param;
    hd_tensor grad_flat;  /* f32: all gradients, one after the other, 64-byte aligned pieces, gaps zero */
    hd_tensor rope_table;
    struct hd_layer *layers; /* n_layer + n_mtp, then one for the globals; pointers into params, private to src/model */
    int64_t n_moe_layer;     /* MTP modules included */
    hd_grads_ready_hook grads_ready; /* NULL after open; the trainer may set it */
    void *grads_ready_context;
    hd_observer observer; /* NULL after open */
    void *observer_context;
    hd_weight_stream *stream; /* of a streamed model */
} hd_model;

/* Host description of one leaf: its tensors and the global numbers its loss needs.  hd_leaf_upload fills the tensors. */
typedef struct hd_leaf {
    int64_t n_seq, seq_len;
    hd_tensor inputs, targets, positions, segments; /* (N) i32 */
    hd_tensor loss_weights;                         /* (N) f32 */
    hd_tensor mtp_inputs, mtp_targets;              /* (n_mtp, N) i32: shifted m + 1 places to the left; n_dim 0 without MTP */
    hd_tensor mtp_weights;                          /* (n_mtp, N) f32 */
    double weight_total;      /* sum of loss weights over the GLOBAL batch; > 0 */
    double mtp_weight_total;  /* the same for all MTP modules' shifted masks together; 0 without MTP */
    int64_t n_seq_total;      /* sequences in the global batch */
    int64_t n_token_total;    /* tokens in the global batch that the router counts */
    bool first;               /* gradients are set, not added */
} hd_leaf;

/* Layout of the metrics tensor, f64 (HD_METRIC_COUNT + n_moe_layer * n_expert): sums over leaves, cleared by the caller. */
enum {
    HD_METRIC_XENT,     /* sum w (ce + z) numerator of lm_loss */
    HD_METRIC_Z,        /* the z part alone */
    HD_METRIC_BALANCE,  /* moe_lb_loss, final value */
    HD_METRIC_MTP,      /* sum of MTP numerators, unscaled, without z-loss */
    HD_METRIC_LOSS,     /* total loss of the step: what is differentiated */
    HD_METRIC_DROPPED,  /* claims dropped by capacity */
    HD_METRIC_RAW_NORM2, HD_METRIC_PARAM_NORM2, HD_METRIC_APPLIED, HD_METRIC_CLIP, /* written by the trainer */
    HD_METRIC_COUNT
};

/* Allocates (or, on a dry arena, counts) everything that lives as long as the model, expands the table, fills the RoPE table. */
hd_status hd_model_open(const hd_dims *dims, const hd_model_options *options, hd_exec *ex, hd_arena *arena, hd_model *model,
                        hd_err *err) HD_CHECK_RESULT;
void hd_model_close(hd_model *model);

/* Gives a streamed model its weights; the stream is the caller's and outlives the model's use.  The owner of the stream may have changed
 * weight.value.dtype of parameters to what it will deliver (F32 or BF16). */
void hd_model_set_stream(hd_model *model, hd_weight_stream *stream);

/* Initial weights from the counter generator, purpose HD_RNG_INIT, name = HuggingFace name (of each expert), index = element of
 * that tensor: the same on every layout.  Rules: docs/model.md, "Initial weights". */
hd_status hd_model_init_weights(hd_model *model, hd_exec *ex, hd_err *err) HD_CHECK_RESULT;

/* Rows of a leaf on the host, (n_seq, seq_len) each. */
typedef struct hd_leaf_rows {
    int64_t n_seq, seq_len;
    const int32_t *inputs, *targets, *positions, *segments;
    const float *loss_weights;
} hd_leaf_rows;

/* Makes a leaf's tensors in `arena` and fills them from the host, MTP's shifted rows included: module m sees, at position t,
 * the token, target and weight of position t + m of the same segment, and 0 where there is none.  Ids outside the vocabulary
 * and positions outside the RoPE table are HD_E_INVALID.  The numbers behind the tensors in hd_leaf stay the caller's.
 * On a dry executor `rows` may hold null pointers. */
hd_status hd_leaf_upload(const hd_model *model, hd_exec *ex, hd_arena *arena, const hd_leaf_rows *rows, hd_leaf *leaf,
                         hd_err *err) HD_CHECK_RESULT;

/* Sum over all modules of the shifted weights: what hd_leaf.mtp_weight_total is the global sum of. */
double hd_leaf_mtp_weight_sum(const hd_leaf_rows *rows, int64_t n_mtp);

/* Forward and backward of one leaf.  Everything it takes from `step` is released before it returns. */
hd_status hd_model_train_leaf(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics,
                              hd_err *err) HD_CHECK_RESULT;

/* Forward and loss only (evaluation: no MTP and no balance loss). */
hd_status hd_model_eval_leaf(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics,
                             hd_err *err) HD_CHECK_RESULT;

/* The residual stream (N, D) act behind the last layer, before the final norm, from the step arena: the caller's to release. */
hd_status hd_model_hidden(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *hidden, hd_err *err)
    HD_CHECK_RESULT;

/* Logits f32 (n, V) of rows row_begin .. row_begin + n of hidden, into a caller's tensor. */
hd_status hd_model_project(hd_model *model, hd_exec *ex, hd_arena *step, const hd_tensor *hidden, int64_t row_begin,
                           hd_tensor *logits, hd_err *err) HD_CHECK_RESULT;

/* Both in one: logits f32 (n_rows, V) of rows row_begin .. of the leaf, into a caller's tensor. */
hd_status hd_model_logits(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, int64_t row_begin,
                          hd_tensor *logits, hd_err *err) HD_CHECK_RESULT;

/* After the optimiser step, from the counts of the whole global batch: every MoE layer's router bias, MTP modules included,
 * moves by options.router_bias_update_rate towards balance.  Nothing happens at rate 0, nor when control
 * (see hd_step_gate) is given and says that the step is skipped. */
hd_status hd_model_update_router_bias(hd_model *model, hd_exec *ex, const hd_tensor *metrics, const hd_tensor *control,
                                      hd_err *err) HD_CHECK_RESULT;

/* The counts of one MoE layer inside the metrics tensor, (E) f64. */
hd_tensor hd_model_expert_counts(const hd_model *model, const hd_tensor *metrics, int64_t moe_index);
int64_t hd_model_n_metric(const hd_model *model); /* length of the metrics tensor */

/* Counts, by loops over the table. */
int64_t hd_dims_count_params(const hd_dims *dims);        /* without MTP */
int64_t hd_dims_count_active_params(const hd_dims *dims); /* per token, with head, without embedding */

#endif
