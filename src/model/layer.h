/* Private to src/model: the weights of one layer by name, one leaf being processed, and the pieces of a layer.
 *
 * Legend of shapes, here and in all files of src/model:
 *   N rows (tokens of the leaf, B sequences of T), D hidden, H heads, n / r / v head widths without RoPE, with RoPE, of values,
 *   c kv_lora_rank, qr q_lora_rank, F hidden width of a dense or shared MLP, E experts, k experts per token, R = N k,
 *   Fm hidden width of an expert, V vocabulary.  "act" is options.dtype, "up" is f32 with activations_in_float32, else act. */
#ifndef HD_MODEL_LAYER_H
#define HD_MODEL_LAYER_H

#include "model/model.h"

/* ---- a layer -------------------------------------------------------------------------------------------------------- */

/* What a layer's backward pass reads beside the layer's input.  A tensor is kept from the forward pass when the remat policy
 * says so; otherwise it has no dimensions here and is computed again by the code that computed it first. */
typedef struct hd_layer_acts {
    bool filled;         /* the forward pass has been here: tensors with dimensions hold values */
    hd_tensor q_a;       /* (N, qr) act */
    hd_tensor q;         /* (N, H (n + r)) act, after RoPE */
    hd_tensor kv_a;      /* (N, c + r) act: latent before its norm, shared rope key after RoPE */
    hd_tensor kv;        /* (N, H (n + v)) act */
    hd_tensor o, lse;    /* (N, H v) act, (B, H, T) f32 */
    hd_tensor mid;       /* (N, D) act: the residual stream between attention and MLP */
    hd_tensor gate, up;  /* (N, F) up: of the dense or shared MLP */
    hd_tensor expert_gate, expert_up; /* (R, Fm) up, dense strategy (E N, Fm): of the routed experts */
} hd_layer_acts;

enum { HD_LAYER_MAX_PARAMS = 32 };

/* The weights of one layer; of the whole model's tables when index is -1.  NULL where the layer has no such tensor.
 * Each points at hd_param.live: it holds something between hd_weights_acquire and hd_weights_release only. */
typedef struct hd_layer {
    int64_t index;
    bool is_moe;
    int64_t moe_index;                            /* number among MoE layers, MTP modules included; -1 */
    hd_weight *embedding, *final_norm, *head;     /* (V, D), (D), (V, D) */
    hd_weight *input_norm;                        /* (D) */
    hd_weight *q_proj;                            /* (H (n + r), D), without q LoRA */
    hd_weight *q_a_proj, *q_a_norm, *q_b_proj;    /* (qr, D), (qr), (H (n + r), qr) */
    hd_weight *kv_a_proj, *kv_a_norm, *kv_b_proj; /* (c + r, D), (c), (H (n + v), c) */
    hd_weight *o_proj;                            /* (D, H v) */
    hd_weight *post_norm;                         /* (D) */
    hd_weight *gate_proj, *up_proj, *down_proj;   /* (F, D), (F, D), (D, F) */
    hd_weight *router, *router_bias;              /* (E, D), (E) */
    hd_weight *expert_gate, *expert_up, *expert_down; /* (E, Fm, D), (E, Fm, D), (E, D, Fm) */
    hd_weight *shared_gate, *shared_up, *shared_down; /* (F, D), (F, D), (D, F) with F = n_shared Fm */
    hd_weight *mtp_embed_norm, *mtp_hidden_norm;  /* (D), (D) */
    hd_weight *mtp_proj;                          /* (D, 2 D): columns 0 .. D act on the embedding */
    hd_weight *mtp_head_norm;                     /* (D) */
    hd_param *params[HD_LAYER_MAX_PARAMS];
    int n_param;
    hd_weight_stream *stream;                     /* the model's; NULL when weights are in memory */
    const hd_param *first_param;                  /* hd_model.params */
    /* State of the leaf in work: views into the step arena. */
    hd_tensor input;     /* (N, D) act: what the layer read */
    hd_layer_acts acts;
} hd_layer;

/* ---- one leaf on its way through the model ---------------------------------------------------------------------------- */

/* Sums of one leaf, f64, gathered by ops and combined into the metrics at its end. */
enum { HD_SUM_XENT, HD_SUM_Z, HD_SUM_MTP, HD_SUM_MTP_Z, HD_SUM_BALANCE, HD_SUM_COUNT };

typedef struct hd_pass {
    hd_model *model;
    const hd_dims *dims;             /* model's */
    const hd_model_options *options; /* model's */
    hd_exec *ex;
    hd_arena *step;
    const hd_leaf *leaf;
    int64_t n_row;      /* N */
    hd_tensor *metrics; /* NULL when nothing is counted */
    hd_tensor sums;     /* (HD_SUM_COUNT) f64 */
    const struct hd_extension *extensions; /* of a pass against latent caches (cache.h); NULL: the leaf stands alone */
    int64_t n_extension;
    hd_product along[2];                   /* of a layer's shared experts, for the routed ones to take into their list of products */
    int n_along;
    hd_err *err;
} hd_pass;

/* Tensors from the step arena: (N, columns) act; (rows, columns); (n). */
hd_status hd_pass_rows(hd_pass *p, int64_t columns, hd_tensor *t) HD_CHECK_RESULT;
hd_status hd_pass_new(hd_pass *p, hd_dtype dtype, int64_t rows, int64_t columns, hd_tensor *t) HD_CHECK_RESULT;
hd_status hd_pass_vector(hd_pass *p, hd_dtype dtype, int64_t n, hd_tensor *t) HD_CHECK_RESULT;

/* The same, unless the forward pass kept the tensor; *missing says whether it must be computed. */
hd_status hd_pass_take(hd_pass *p, const hd_layer_acts *acts, const hd_tensor *kept, hd_dtype dtype, int64_t rows,
                       int64_t columns, hd_tensor *t, bool *missing) HD_CHECK_RESULT;

hd_tensor hd_pass_sum(const hd_pass *p, int sum); /* one of the sums, (1) f64 */
hd_dtype hd_pass_up_dtype(const hd_pass *p);
hd_layer *hd_pass_globals(const hd_pass *p);

/* A pass over a leaf whose tensors were checked; sums are zero. */
hd_status hd_pass_open(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics, hd_pass *p,
                       hd_err *err) HD_CHECK_RESULT;

/* Shows an activation to the model's observer; nothing when there is none. */
hd_status hd_pass_observe(hd_pass *p, const char *name, int64_t layer, const hd_tensor *t) HD_CHECK_RESULT;

/* RMSNorm into a fresh (N, D) and rstd (N) f32. */
hd_status hd_pass_norm(hd_pass *p, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y, hd_tensor *rstd)
    HD_CHECK_RESULT;

/* y (1) f64 += constant + scale * x, x (1) f64 or i32. */
hd_status hd_metric_add(hd_exec *ex, double constant, double scale, const hd_tensor *x, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;

/* ---- layer.c: x -> x + Attention(RMSNorm(x)) -> + MLP(RMSNorm(.)) ------------------------------------------------------
 * keep takes from the arena what the remat policy keeps.  forward: y may be x (nothing is kept then).  backward: dy is the
 * gradient at the layer's output and becomes the gradient at layer->input. */
hd_status hd_layer_keep(hd_pass *p, hd_layer *layer) HD_CHECK_RESULT;
hd_status hd_layer_forward(hd_pass *p, hd_layer *layer, const hd_tensor *x, hd_tensor *y) HD_CHECK_RESULT;
hd_status hd_layer_backward(hd_pass *p, hd_layer *layer, hd_tensor *dy) HD_CHECK_RESULT;

/* ---- attention.c ------------------------------------------------------------------------------------------------------- */

/* What the forward pass of attention makes: all of hd_layer_acts' attention, and what only a backward pass reads again. */
typedef struct hd_attention {
    hd_tensor norm_x, rstd_x;           /* (N, D), (N) f32 */
    hd_tensor q_a, norm_q, rstd_q;      /* (N, qr), (N, qr), (N) f32; without q LoRA empty */
    hd_tensor q;                        /* (N, H (n + r)) */
    hd_tensor kv_a, norm_kv, rstd_kv;   /* (N, c + r), (N, c), (N) f32 */
    hd_tensor kv;                       /* (N, H (n + v)) */
    hd_tensor o, lse;                   /* (N, H v), (B, H, T) f32 */
} hd_attention;

hd_status hd_attention_keep(hd_pass *p, hd_layer_acts *acts) HD_CHECK_RESULT;
hd_status hd_attention_forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_attention *a) HD_CHECK_RESULT;
hd_status hd_attention_output(hd_pass *p, const hd_layer *layer, const hd_attention *a, hd_tensor *y) HD_CHECK_RESULT; /* y += o Wo^T */

/* Pieces of the forward pass, of an `a` that began empty: q, and on the way kv_a, from norm_x; norm_kv, and kv_a when nobody made it. */
hd_status hd_attention_query(hd_pass *p, const hd_layer *layer, hd_attention *a) HD_CHECK_RESULT;
hd_status hd_attention_latent(hd_pass *p, const hd_layer *layer, hd_attention *a) HD_CHECK_RESULT;

/* cache.c: o (N, H v) of rows that extend caches; the caches' rows are written, their lengths are not changed. */
hd_status hd_attention_cached(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_tensor *o) HD_CHECK_RESULT;

/* The rows alone, without an output: of positions that nothing but later ones will ask about. */
hd_status hd_attention_remember(hd_pass *p, const hd_layer *layer, const hd_tensor *x) HD_CHECK_RESULT;

/* A pass that extends caches: checks the list, fills the leaf (the caller's, as long as the pass lives) and opens the pass. */
hd_status hd_pass_open_cached(hd_model *model, hd_exec *ex, hd_arena *step, const struct hd_extension *list, int64_t n, hd_leaf *leaf,
                              hd_pass *p, hd_err *err) HD_CHECK_RESULT;
hd_status hd_attention_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_attention *a, hd_tensor *dy)
    HD_CHECK_RESULT; /* dy: gradient after attention, becomes the gradient at x */

/* ---- mlp.c: y += SwiGLU MLP (x), x (N, D), dense and shared ---------------------------------------------------------------- */
typedef struct hd_mlp { hd_weight *gate, *up, *down; int64_t width; } hd_mlp;

hd_status hd_mlp_keep(hd_pass *p, int64_t width, hd_layer_acts *acts) HD_CHECK_RESULT;
hd_status hd_mlp_forward(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *y)
    HD_CHECK_RESULT;
/* The forward pass in two parts: gate and up, kept or fresh from the step arena, and the n <= 2 products that fill them, for the caller to
 * run; the rest. */
hd_status hd_mlp_gate_up(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *gate, hd_tensor *up,
                         hd_product list[2], int *n) HD_CHECK_RESULT;
hd_status hd_mlp_down(hd_pass *p, const hd_mlp *mlp, const hd_tensor *gate, const hd_tensor *up, hd_tensor *y) HD_CHECK_RESULT;
hd_status hd_mlp_backward(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, const hd_tensor *dy,
                          hd_accum dx_accum, hd_tensor *dx) HD_CHECK_RESULT;

/* ---- moe.c: y += routed experts + shared experts ---------------------------------------------------------------------------- */
hd_status hd_moe_keep(hd_pass *p, hd_layer_acts *acts) HD_CHECK_RESULT;
hd_status hd_moe_forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *y)
    HD_CHECK_RESULT;
hd_status hd_moe_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_layer_acts *acts,
                          const hd_tensor *dy, hd_tensor *dx) HD_CHECK_RESULT; /* dx overwritten */

/* One strategy of the routed experts.  Tensors in, tensors out: no count of rows ever reaches the host.
 *   forward   y (N, D) += sum_j weights[:, j] Expert_ids[:, j](x)
 *   backward  dx (N, D) overwritten, dweights (N, k) f32 overwritten; dy is the gradient at y */
typedef struct hd_routing {
    hd_tensor scores;  /* (N, E) f32 */
    hd_tensor ids;     /* (N, k) i32 */
    hd_tensor weights; /* (N, k) f32 */
} hd_routing;

typedef struct hd_moe_strategy_ops {
    hd_status (*forward)(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                         const hd_layer_acts *acts, hd_tensor *y);
    hd_status (*backward)(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                          const hd_layer_acts *acts, const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights);
} hd_moe_strategy_ops;

extern const hd_moe_strategy_ops hd_moe_grouped, hd_moe_ragged, hd_moe_dense, hd_moe_dropping;

/* Shared by the strategies that sort rows by expert (moe_grouped.c). */
typedef struct hd_expert_kernels {
    __typeof__(hd_grouped_linear_fwd) *fwd;
    __typeof__(hd_grouped_linear_bwd_input) *bwd_input;
    __typeof__(hd_grouped_linear_bwd_weight) *bwd_weight;
} hd_expert_kernels;

extern const hd_expert_kernels hd_grouped_kernels;

hd_status hd_moe_sorted_forward(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, int64_t capacity,
                                const hd_tensor *x, const hd_routing *routing, const hd_layer_acts *acts, hd_tensor *y)
    HD_CHECK_RESULT;
hd_status hd_moe_sorted_backward(hd_pass *p, const hd_layer *layer, const hd_expert_kernels *kernels, int64_t capacity,
                                 const hd_tensor *x, const hd_routing *routing, const hd_layer_acts *acts,
                                 const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights) HD_CHECK_RESULT;

/* The rows' products with the experts of a streamed weight: each matrix is read, used and forgotten.  Needs the offsets on the host. */
hd_status hd_moe_streamed_products(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                   hd_tensor *y) HD_CHECK_RESULT;

/* Claims an expert takes per sequence: int(max(ceil(T k / E) factor, factor)). */
int64_t hd_moe_capacity(int64_t seq_len, int64_t top_k, int64_t n_expert, double factor);

/* ---- loss.c ------------------------------------------------------------------------------------------------------------ */

/* sum of weights * cross-entropy of  head(RMSNorm(h; norm)).  The numerator and its z part go to two sums; with dh, the
 * gradient at h, times scale, overwrites it and the gradients of norm and head are added. */
typedef struct hd_loss {
    hd_weight *norm, *head;
    hd_tensor targets, weights; /* (N) i32, (N) f32 */
    double z_loss, scale;
    int sum_xent, sum_z;
} hd_loss;

hd_status hd_loss_run(hd_pass *p, const hd_loss *loss, const hd_tensor *h, hd_tensor *dh) HD_CHECK_RESULT;

/* ---- forward.c ------------------------------------------------------------------------------------------------------------ */
hd_status hd_embed(hd_pass *p, hd_tensor *x) HD_CHECK_RESULT; /* x (N, D) = Emb[inputs] */
hd_status hd_trunk(hd_pass *p, hd_tensor *x) HD_CHECK_RESULT; /* x (N, D): the output of the last layer, before the final norm */
hd_status hd_loss_main(hd_pass *p, const hd_tensor *h, hd_tensor *dh) HD_CHECK_RESULT;

/* ---- mtp.c --------------------------------------------------------------------------------------------------------------- */

/* x (N, D) = eh_proj [RMSNorm(Emb[ids]; enorm) ; RMSNorm(h; hnorm)], ids = row m of leaf.mtp_inputs.
 * backward: dx in; dh (N, D) is added to. */
hd_status hd_mtp_input(hd_pass *p, hd_layer *layer, int64_t m, const hd_tensor *h, hd_tensor *x) HD_CHECK_RESULT;
hd_status hd_mtp_input_backward(hd_pass *p, hd_layer *layer, int64_t m, const hd_tensor *h, const hd_tensor *dx, hd_tensor *dh)
    HD_CHECK_RESULT;

#endif
