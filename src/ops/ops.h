/* Every op of hadal: its contract, forward and backward side by side, and the backend table.
 *
 * Legend: N rows (tokens of a leaf, B * T), B sequences, T positions, D model, K inputs, M outputs, H heads, E experts,
 * k experts per token, R = N * k routed rows, F hidden width, V vocabulary.  "act" = f32 or bf16, all act tensors of
 * a call equal unless said; weights are f32 or bf16, read-only products take stored ones too (tensor/weight.h); gradients of weights are f32.  All tensors have stride 1 on the last
 * axis; row strides are free unless "contiguous" is said.  Reductions run in f32 or wider (cpu) or f64 (ref), in an order
 * that depends on shapes alone: never on the thread count, never on neighbouring rows.
 * "overwritten" outputs may hold anything before; "accumulated" ones are added to.  An op that honours w->grad_accum
 * sets it to HD_ADD once the gradient is written.  Ops see w->value and w->grad; a low-rank pair is the model's business.
 * Errors: HD_E_INVALID with found and wanted shapes or dtypes, HD_E_UNSUPPORTED for a dtype a backend lacks,
 * HD_E_NOMEM from scratch.  On error no output is touched.  Outputs alias inputs only where allowed. */
#ifndef HD_OPS_OPS_H
#define HD_OPS_OPS_H

#include "ops/exec.h"
#include "tensor/weight.h"

/* ---- embedding: y[i] = W[ids[i]] ------------------------------------------------------------------------------
 * ids (N) i32 in [0, V) (the caller's promise: hosts check ids before upload; out of range rows give zeros)
 * w (V, D); y (N, D) act overwritten.  bwd: dw[v] (+)= sum over i with ids[i] = v, in order of i, of dy[i]; honours
 * w->grad_accum (HD_SET clears the rows that no id names). */
hd_status hd_embedding_fwd(hd_exec *ex, const hd_tensor *ids, const hd_weight *w, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;
hd_status hd_embedding_bwd(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dy, hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* ---- RMSNorm over the last axis: y = w * cast(x * rstd), rstd = 1 / sqrt(mean(x^2) + eps) -------------------------
 * x (N, D) act; w (D); y (N, D) act overwritten, may alias x; rstd (N) f32 overwritten, NULL when no backward follows.
 * As HuggingFace: the normalised x is rounded to act before the product with w.
 * bwd: with g = dy * w:  dx (+)= rstd * (g - x * rstd^2 * mean(g x));  dw (+)= sum_N dy * x * rstd (honours w->grad_accum;
 * skipped when w has no gradient).  dx (N, D) act, by dx_accum.  Source: Zhang & Sennrich 2019. */
hd_status hd_rmsnorm_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y, hd_tensor *rstd,
                         hd_err *err) HD_CHECK_RESULT;
hd_status hd_rmsnorm_bwd(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, hd_weight *w,
                         hd_accum dx_accum, hd_tensor *dx, hd_err *err) HD_CHECK_RESULT;

/* ---- linear, three slots ---------------------------------------------------------------------------------------------
 *   fwd         y (N, M)   (+)= x (N, K) W^T           x, y act or f32, independently
 *   bwd_input   dx (N, K)  (+)= dy (N, M) W
 *   bwd_weight  dW (M, K)  (+)= dy^T x                  f32; honours w->grad_accum
 * w->value (M, K) with HD_LAYOUT_OUT_IN, (K, M) with HD_LAYOUT_IN_OUT; dtypes of x, w and y are independent.
 * Row i of y depends on row i of x and on W alone, bit for bit, whatever N is: the sum over K is sequential in
 * blocks of HD_GEMM_KC, each block from zero with fused multiply-add, blocks added in order.
 * With ex->by_lanes fwd takes the sum over f32 and bf16 weights [out, in] in another order, again the same for any N: lane l of 16 starts at
 * zero and adds, fused, the products of columns 2l and 2l + 1 of each 32 in turn; lanes are added halves first (l meets l + 8).
 * fwd takes stored weights, [out, in]: F8_E4M3 as float(code) * scale, rounded to f32; packed integers as scale * code, in the same
 * order of sums.  With round_inputs, packed weights only: inputs become codes and a scale per 64 (hd_round_group), and
 *   y_im = chain over groups g, ascending, of  fma(float(sum of code products, exact), scale_x[i, g] * scale_w[m, g], y)
 * from zero: the same bits for any N on every machine with fused multiply-add.  With fine_inputs there are two codes, and scale_x /
 * HD_ROUND_REST goes with the integer  HD_ROUND_REST * (sum of products of the codes) + (sum of those of the rest). */
hd_status hd_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, hd_accum y_accum, hd_tensor *y,
                        hd_err *err) HD_CHECK_RESULT;
hd_status hd_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_weight *w, hd_accum dx_accum, hd_tensor *dx,
                              hd_err *err) HD_CHECK_RESULT;
hd_status hd_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* ---- grouped linear: rows offsets[e] .. offsets[e + 1] use expert e's matrix ---------------------------------------------
 * x (R, K), y (R, M); w->value (E, M, K); offsets (E + 1) i32, offsets[0] = 0, ascending, offsets[E] <= R.  Rows from
 * offsets[E] on are neither read nor written.  bwd_weight with HD_SET zeroes the gradient of an expert without rows. */
hd_status hd_grouped_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                hd_accum y_accum, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;
hd_status hd_grouped_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                      hd_accum dx_accum, hd_tensor *dx, hd_err *err) HD_CHECK_RESULT;
hd_status hd_grouped_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                       hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* The same three, one expert after the other with the plain kernels: what `sparse_matmul=True megablox=False` runs. */
hd_status hd_ragged_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                               hd_accum y_accum, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;
hd_status hd_ragged_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                     hd_accum dx_accum, hd_tensor *dx, hd_err *err) HD_CHECK_RESULT;
hd_status hd_ragged_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                      hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* ---- products that start together -------------------------------------------------------------------------------------------
 * The forward products of a list, plain (offsets NULL) or grouped, each with the bits it has alone: threads go from one to the next
 * without waiting for each other, which is what few rows spend their time on.  Products with the same x stand side by side.
 * No output shares memory with anything else of the list. */
typedef struct hd_product {
    const hd_tensor *x, *offsets;
    const hd_weight *w;
    hd_accum y_accum;
    hd_tensor *y;
} hd_product;

enum { HD_PRODUCTS_MAX = 4 };

hd_status hd_products_fwd(hd_exec *ex, const hd_product *list, int n, hd_err *err) HD_CHECK_RESULT;

/* ---- RoPE: rotates pairs (2j, 2j + 1) in place by angle[position][j] ------------------------------------------------------
 * x (N, H, r) act, strided view, r even; positions (N) i32; table (P, r / 2, 2) f32 of cos, sin (attention factor
 * included), made by hd_rope_table.  direction +1 forward, -1 the adjoint.  Positions at or above P are HD_E_INVALID on the
 * host before upload. */
hd_status hd_rope(hd_exec *ex, const hd_tensor *positions, const hd_tensor *table, int direction, hd_tensor *x,
                  hd_err *err) HD_CHECK_RESULT;

/* ---- MLA attention core, expanded form, causal inside segments ---------------------------------------------------------------
 *   s_ij = scale * (q_ih[:n] . k_nope_jh + q_ih[n:] . k_rope_j),  j <= i in the same sequence with segment_j = segment_i
 *   p = softmax_j(s) in f32,  o_ih = sum_j p_ij v_jh,  lse_ih = max + ln sum exp(s - max)
 * q (N, H, n + r); k_nope (N, H, n); k_rope (N, r), one key shared by the heads; v (N, H, v); all act, strided views;
 * segments (N) i32, N = B * T; o (N, H, v) act overwritten; lse (B, H, T) f32 overwritten.
 * `dot_product` forms the T x T scores of one head at a time; `flash` tiles them, memory linear in T.
 * bwd: dq, dk_nope, dv overwritten (act); dk_rope (N, r) overwritten (act), summed over heads in f32.
 * Source: DeepSeek-V2 (arXiv 2405.04434) 2.1; Dao 2023 (arXiv 2307.08691). */
typedef enum hd_attention_impl { HD_ATTENTION_DOT_PRODUCT, HD_ATTENTION_FLASH } hd_attention_impl;

typedef struct hd_attention_shape { int64_t n_seq, seq_len; double scale; hd_attention_impl impl; } hd_attention_shape;

hd_status hd_attention_fwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope,
                           const hd_tensor *k_rope, const hd_tensor *v, const hd_tensor *segments, hd_tensor *o,
                           hd_tensor *lse, hd_err *err) HD_CHECK_RESULT;
hd_status hd_attention_bwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *d_o, const hd_tensor *q,
                           const hd_tensor *k_nope, const hd_tensor *k_rope, const hd_tensor *v,
                           const hd_tensor *segments, const hd_tensor *o, const hd_tensor *lse, hd_tensor *dq,
                           hd_tensor *dk_nope, hd_tensor *dk_rope, hd_tensor *dv, hd_err *err) HD_CHECK_RESULT;

/* ---- MLA attention of new tokens against latent caches -----------------------------------------------------------------------
 * Each sequence has a cache of T rows [latent (c) ; rope key (r)], one per position; its last n rows belong to the new tokens, whose
 * queries stand in q, sequence after sequence.  The token at position i sees the positions j <= i of its sequence.  Per head h, with
 * Wkvb = per head [Wk (n, c) ; Wv (v, c)]:
 *   s_ij = scale * (q_ih[:n] . (Wk latent_j) + q_ih[n:] . rope_j),  p = softmax_j(s),  o_ih = sum_j p_ij (Wv latent_j)
 * q (N, H (n + r)) act, after RoPE; rows (T, c + r) act per sequence, strided views, 1 <= n new tokens <= T, N = sum of them;
 * kv_b->value (H (n + v), c) f32 or bf16, [out, in]; o (N, H v) act overwritten.  Everything between is f32 or wider.
 * Row i of o depends on q row i, on the rows its token sees, on kv_b, and on the sequence's (n, T) through the form below: bit for
 * bit, whatever the other sequences and the later rows hold.
 * Two forms, chosen per sequence by the FLOPs they take (ops/cpu/latent_plan.h): absorbed (q' = q Wk against the cache itself, one matrix
 * product for all heads of a token) for few new tokens, expanded (keys and values of a block of positions at a time) for many.
 * Tokens of the absorbed form get the same bits whether they come one by one or together, as long as ex->by_lanes is the same.
 * Scratch for n new tokens behind any past is at most what they take behind none or behind a longer past, whichever is more.
 * Source: DeepSeek-V2 (arXiv 2405.04434) 2.1.2 and appendix C. */
typedef struct hd_latent_spec {
    int64_t n_head, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, kv_lora_rank;
    double scale;
} hd_latent_spec;

typedef struct hd_latent_sequence {
    hd_tensor rows; /* (T, c + r) act, the new tokens' rows included */
    int64_t n_new;
} hd_latent_sequence;

hd_status hd_latent_attention_fwd(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *sequences,
                                  int64_t n_sequence, const hd_weight *kv_b, hd_tensor *o, hd_err *err) HD_CHECK_RESULT;

/* ---- SwiGLU: h = silu(g) * u,  silu(g) = g / (1 + exp(-g)), in f32 --------------------------------------------------------------
 * g, u (N, F) act or f32 (activations_in_float32); h (N, F) act overwritten, may alias g or u of the same dtype.
 * bwd: dg, du overwritten (dtype of g), may alias g, u.
 * n_rows: NULL, or i32 (1) on the device: only the first n_rows[0] rows are touched (routed rows of the dropping
 * strategy; offsets' last element as a view). */
hd_status hd_swiglu_fwd(hd_exec *ex, const hd_tensor *g, const hd_tensor *u, const hd_tensor *n_rows, hd_tensor *h,
                        hd_err *err) HD_CHECK_RESULT;
hd_status hd_swiglu_bwd(hd_exec *ex, const hd_tensor *dh, const hd_tensor *g, const hd_tensor *u, hd_tensor *dg,
                        hd_tensor *du, hd_err *err) HD_CHECK_RESULT;

/* SwiGLU's adjoint inside an expert whose output is weighted.  q (R, F) = gradient at h before the weight (the
 * unweighted dy times Wd); w (R) f32.  dw[i] = q_i . h_i;  dh = w q;  dg, du as above;  hw = w h (for the weight gradient of
 * the down projection).  h is recomputed from g, u.  dg, du, hw overwritten; dg may alias g, du may alias u, hw may alias q. */
hd_status hd_moe_swiglu_bwd(hd_exec *ex, const hd_tensor *q, const hd_tensor *g, const hd_tensor *u, const hd_tensor *w,
                            const hd_tensor *n_rows, hd_tensor *dg, hd_tensor *du, hd_tensor *hw, hd_tensor *dw,
                            hd_err *err) HD_CHECK_RESULT;

/* ---- router: scores, selection, weights; all f32 ------------------------------------------------------------------------------------
 * logits (N, E) f32.  scores (N, E): softmax or sigmoid of the logits, overwritten.  bias (E) f32 or NULL takes part in the
 * selection only.  ids (N, k) i32 in descending order of the selection score, ties to the lowest index; weights (N, k).
 *   greedy: top-k of scores + bias.   group_limited_greedy: groups ranked by their maximum.   noaux_tc: by the sum of
 *   their two largest scores + bias.  Experts of unselected groups count as -inf (0 when masked_group_zero: HuggingFace V3).
 *   weight = s_e * f, or (normalize) s_e / (sum over the k + 1e-20), times f when scale_normalized or not normalize.
 * bwd: dweights (N, k) f32 -> dlogits (N, E) f32 overwritten; dscores (N, E) f32 or NULL is added to the gradient at the
 * scores first (auxiliary loss).  Formulas: spec section 3, Router V2 and V3.
 * Sources: arXiv 2405.04434 2.1.2; arXiv 2412.19437 2.1.2; HuggingFace deepseek_v2 / deepseek_v3. */
typedef enum hd_score_func { HD_SCORE_SOFTMAX, HD_SCORE_SIGMOID } hd_score_func;
typedef enum hd_group_rule { HD_GROUP_NONE, HD_GROUP_MAX, HD_GROUP_TOP2_SUM } hd_group_rule;

typedef struct hd_router_spec {
    hd_score_func score_func;
    hd_group_rule group_rule;
    int64_t n_group, topk_group, top_k;
    bool normalize;         /* divide by the sum over the chosen k */
    bool scale_normalized;  /* with normalize: multiply by routed_scaling too (V3 yes, V2 no) */
    bool masked_group_zero; /* trap 2 of the architecture notes */
    double routed_scaling;
} hd_router_spec;

hd_status hd_router_fwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *logits, const hd_tensor *bias,
                        hd_tensor *scores, hd_tensor *ids, hd_tensor *weights, hd_err *err) HD_CHECK_RESULT;
hd_status hd_router_bwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *dweights, const hd_tensor *dscores,
                        const hd_tensor *scores, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *dlogits,
                        hd_err *err) HD_CHECK_RESULT;

/* ---- dispatch and combine ----------------------------------------------------------------------------------------------------------------
 * dispatch: a stable sort of the N * k claims by expert.
 *   claim (R) i32: claim[r] = t * k + j of routed row r; offsets (E + 1) i32; row_of (N, k) i32: the inverse, -1 when dropped.
 *   capacity > 0: per sequence of seq_len tokens and expert only the first `capacity` claims in (token, slot) order are kept;
 *   offsets[E] is then the number of kept claims, claim beyond it is -1.  capacity 0: nothing is dropped.
 * gather: xs[r] = x[claim[r] / k] for r < offsets[E]; xs (R, D) act.     (adjoint: scatter)
 * scatter: x[t] (+)= sum over j ascending of xs[row_of[t, j]], dropped claims skipped, f32 sum.
 * permute_weights: ws[r] = weights[t, j]; unpermute_weights: dweights[t, j] = dws[row_of[t, j]], 0 when dropped.
 * combine: y[t] (+)= sum_j weights[t, j] * ys[row_of[t, j]], f32 sum in order of j. */
typedef struct hd_dispatch_spec { int64_t n_expert, top_k, seq_len, capacity; } hd_dispatch_spec;

hd_status hd_moe_dispatch(hd_exec *ex, const hd_dispatch_spec *spec, const hd_tensor *ids, hd_tensor *claim,
                          hd_tensor *offsets, hd_tensor *row_of, hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_gather(hd_exec *ex, const hd_tensor *x, const hd_tensor *claim, const hd_tensor *offsets, int64_t top_k,
                        hd_tensor *xs, hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_scatter(hd_exec *ex, const hd_tensor *xs, const hd_tensor *row_of, hd_accum x_accum, hd_tensor *x,
                         hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_permute_weights(hd_exec *ex, const hd_tensor *weights, const hd_tensor *claim, const hd_tensor *offsets,
                                 hd_tensor *ws, hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_unpermute_weights(hd_exec *ex, const hd_tensor *dws, const hd_tensor *row_of, hd_tensor *dweights,
                                   hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_combine(hd_exec *ex, const hd_tensor *ys, const hd_tensor *row_of, const hd_tensor *weights,
                         hd_accum y_accum, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;

/* dense strategy: w_full (N, E) f32 with zeros elsewhere, its adjoint, and  y (+)= w_full[:, e] * ye  for one expert. */
hd_status hd_moe_expand_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *w_full,
                                hd_err *err) HD_CHECK_RESULT;
hd_status hd_moe_collect_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dw_full, hd_tensor *dweights,
                                 hd_err *err) HD_CHECK_RESULT;
hd_status hd_scale_rows(hd_exec *ex, const hd_tensor *x, const hd_tensor *w, hd_accum y_accum, hd_tensor *y,
                        hd_err *err) HD_CHECK_RESULT; /* y (N, D) (+)= w (N, strided) * x */

/* ---- balance of experts --------------------------------------------------------------------------------------------------------------------
 * count: counts (E) f64 += claims per expert (before dropping; tokens of segment 0 excluded when segments is given).
 * balance loss over the B sequences of a leaf, f64 loss (1) accumulated, dscores (N, E) f32 overwritten:
 *   HD_BALANCE_V2 (seq_aux):  alpha / B_total * sum_b sum_e ce_be mean_t p_te,  ce_be = count_be / (T k / E)
 *   HD_BALANCE_V3:            alpha / B_total * sum_b sum_e f_be P_be,  f = E / (k T) count,  P = mean_t s_te / sum_j s_tj
 *   HD_BALANCE_MAXTEXT:       alpha E^2 / (B_total E) * sum_b sum_e (count_be / T) mean_t softmax_e(scores + bias)
 * Counts are constants.  weight multiplies loss and gradient (1 / number of MoE layers).
 * bias update: bias_e += rate * sign(mean(counts) - counts_e), sign(0) = 0; nothing when control (HD_CONTROL_COUNT) f64 is
 * given and its APPLY is 0 (a skipped step leaves every weight alone). */
typedef enum hd_balance_rule { HD_BALANCE_V2, HD_BALANCE_V3, HD_BALANCE_MAXTEXT } hd_balance_rule;

typedef struct hd_balance_spec {
    hd_balance_rule rule;
    int64_t n_seq, seq_len; /* of this leaf */
    int64_t n_seq_total;    /* of the global batch */
    int64_t top_k;
    double alpha, weight;
} hd_balance_spec;

hd_status hd_expert_count(hd_exec *ex, const hd_tensor *ids, const hd_tensor *segments, hd_tensor *counts,
                          hd_err *err) HD_CHECK_RESULT;
hd_status hd_balance_loss(hd_exec *ex, const hd_balance_spec *spec, const hd_tensor *scores, const hd_tensor *bias,
                          const hd_tensor *ids, hd_tensor *loss, hd_tensor *dscores, hd_err *err) HD_CHECK_RESULT;
hd_status hd_router_bias_update(hd_exec *ex, const hd_tensor *counts, double rate, const hd_tensor *control, hd_tensor *bias,
                                hd_err *err) HD_CHECK_RESULT;

/* ---- cross-entropy with z-loss, in vocabulary chunks ---------------------------------------------------------------------------------------------
 * logits (n, Vc) f32: columns v_begin .. v_begin + Vc of the logits of n rows.
 * partial: max, sum (of exp(z - max)), target logit (-inf when the target lies elsewhere) of this chunk, each (n) f32.
 * merge: folds a chunk's partials into running ones.  Vocabulary chunks in any split give the same value to rounding.
 * finish: lse = max + ln sum;  metrics: xent += w (lse - z_y), z += w zeta lse^2, f64 (1) each, accumulated in row order.
 * bwd: dlogits = (softmax (1 + 2 zeta lse) - onehot) * w * scale; may alias logits.  w (n) f32 per token; a row with w = 0
 * contributes and receives exactly 0, whatever its logits hold; scale = 1 / denominator, the global weight sum. */
hd_status hd_xent_partial(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin, hd_tensor *max,
                          hd_tensor *sum, hd_tensor *target_logit, hd_err *err) HD_CHECK_RESULT;
hd_status hd_xent_merge(hd_exec *ex, const hd_tensor *max, const hd_tensor *sum, const hd_tensor *target_logit,
                        hd_tensor *run_max, hd_tensor *run_sum, hd_tensor *run_target_logit, hd_err *err) HD_CHECK_RESULT;
hd_status hd_xent_finish(hd_exec *ex, const hd_tensor *run_max, const hd_tensor *run_sum,
                         const hd_tensor *run_target_logit, const hd_tensor *weights, double z_loss, hd_tensor *lse,
                         hd_tensor *xent, hd_tensor *z, hd_err *err) HD_CHECK_RESULT;
hd_status hd_xent_bwd(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                      const hd_tensor *lse, const hd_tensor *weights, double z_loss, double scale, hd_tensor *dlogits,
                      hd_err *err) HD_CHECK_RESULT;

/* ---- elementwise ------------------------------------------------------------------------------------------------------------------------------------------
 * add: y = a + b (same shape; act or f32 each), y may alias either.  copy: y = x, converting.  fill: y = value, y act,
 * f64 or i32. */
hd_status hd_add(hd_exec *ex, const hd_tensor *a, const hd_tensor *b, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;
hd_status hd_copy(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;
hd_status hd_fill(hd_exec *ex, double value, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;

/* ---- optimiser -------------------------------------------------------------------------------------------------------------------------------------------------
 * Learning rate, clip and skip are device values in `control` (HD_CONTROL_COUNT) f64, so a step never waits for the host.
 * sumsq: total (1) f64 += sum of squares of x, any shape, in f64 over fixed chunks.
 * step_gate: from sumsq (1) and loss (1): NORM = sqrt(sumsq); CLIP = threshold / NORM when threshold > 0 and !(NORM <
 *   threshold), else 1; APPLY = 1 when loss and NORM are finite and no spike, else 0; COUNT += APPLY; BIAS1/2 = 1 - b^COUNT.
 *   Spikes (spike_factor > 0): window (2, spike_interval) f64 of past losses and norms, WINDOW_N seen; not before
 *   max(2, interval / 2) steps; skip when value - mean > factor * unbiased std; the window takes finite values even when skipped.
 * adamw: g = grad * CLIP; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; u = (m / BIAS1) / (sqrt(v / BIAS2 + eps_root) + eps) + wd p;
 *   p -= LR u.  Nothing is written when APPLY is 0.  master f32; mu f32 or bf16; nu f32; value receives the rounded master
 *   (skipped when it aliases master: f32 weights are their own master).
 * sum_into: y += x elementwise, both f32 (the gradient tree) or both f64 and contiguous (sums of
 *   leaves). */
enum {
    HD_CONTROL_LR, HD_CONTROL_CLIP, HD_CONTROL_APPLY, HD_CONTROL_NORM, HD_CONTROL_COUNT_APPLIED, HD_CONTROL_BIAS1,
    HD_CONTROL_BIAS2, HD_CONTROL_WINDOW_N, HD_CONTROL_COUNT
};

typedef struct hd_gate_spec { double clip_threshold, beta1, beta2, spike_factor; int64_t spike_interval; } hd_gate_spec;
typedef struct hd_adamw_spec { double beta1, beta2, eps, eps_root, weight_decay; } hd_adamw_spec;

hd_status hd_sumsq(hd_exec *ex, const hd_tensor *x, hd_tensor *total, hd_err *err) HD_CHECK_RESULT;
hd_status hd_step_gate(hd_exec *ex, const hd_gate_spec *spec, const hd_tensor *sumsq, const hd_tensor *loss,
                       hd_tensor *window, hd_tensor *control, hd_err *err) HD_CHECK_RESULT;
hd_status hd_adamw(hd_exec *ex, const hd_adamw_spec *spec, const hd_tensor *control, const hd_tensor *grad,
                   hd_tensor *master, hd_tensor *mu, hd_tensor *nu, hd_tensor *value, hd_err *err) HD_CHECK_RESULT;
hd_status hd_sum_into(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;

/* ---- the backend table ----------------------------------------------------------------------------------------------------------------------------------------------
 * One slot per op, the public signature each.  A backend starts as a copy of `ref` and overrides what it has, so a slot is
 * never NULL.  Slot names are the public names without hd_. */
#define HD_OP_LIST(OP)                                                                                              \
    OP(embedding_fwd) OP(embedding_bwd) OP(rmsnorm_fwd) OP(rmsnorm_bwd) OP(products_fwd) OP(linear_fwd) OP(linear_bwd_input) \
    OP(linear_bwd_weight) OP(grouped_linear_fwd) OP(grouped_linear_bwd_input) OP(grouped_linear_bwd_weight)          \
    OP(ragged_linear_fwd) OP(ragged_linear_bwd_input) OP(ragged_linear_bwd_weight) OP(rope) OP(attention_fwd)        \
    OP(attention_bwd) OP(latent_attention_fwd) OP(swiglu_fwd) OP(swiglu_bwd) OP(moe_swiglu_bwd) OP(router_fwd) OP(router_bwd)                 \
    OP(moe_dispatch) OP(moe_gather) OP(moe_scatter) OP(moe_permute_weights) OP(moe_unpermute_weights)                \
    OP(moe_combine) OP(moe_expand_weights) OP(moe_collect_weights) OP(scale_rows) OP(expert_count)                   \
    OP(balance_loss) OP(router_bias_update) OP(xent_partial) OP(xent_merge) OP(xent_finish) OP(xent_bwd) OP(add)     \
    OP(copy) OP(fill) OP(sumsq) OP(step_gate) OP(adamw) OP(sum_into)

typedef struct hd_ops {
    const char *name; /* "ref", "cpu:avx2", ... */
    double (*fma_peak)(int n_threads); /* measures the FLOP/s of independent multiply-adds; NULL: the backend cannot */
#define HD_OP_SLOT(op) __typeof__(hd_##op) *op;
    HD_OP_LIST(HD_OP_SLOT)
#undef HD_OP_SLOT
} hd_ops;

void hd_ops_install_ref(hd_ops *ops);          /* fills every slot */
const char *hd_ops_install_cpu(hd_ops *ops);   /* overrides with the best kernels cpuid allows; the ISA's name */

#endif
