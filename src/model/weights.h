/* The seams around weights.  Model code reads and differentiates a weight only between hd_weights_acquire and
 * hd_weights_release of the unit that owns it, and says with hd_grads_ready when a unit's gradient is complete.
 *
 * Between the two, hd_param.live is the weight; outside it is empty (no dimensions), so that an op that is handed a released
 * weight fails with HD_E_INVALID naming the shapes, in every build.  Gathering shards, streaming, offload and quantised
 * storage belong behind these three calls. */
#ifndef HD_MODEL_WEIGHTS_H
#define HD_MODEL_WEIGHTS_H

#include "model/layer.h"

/* A unit of a layer; the layer of globals for HD_UNIT_EMBEDDING and HD_UNIT_HEAD.  HD_E_INVALID when it is held already. */
hd_status hd_weights_acquire(hd_layer *layer, hd_unit unit, hd_err *err) HD_CHECK_RESULT;
void hd_weights_release(hd_layer *layer, hd_unit unit); /* accepts a unit that is not held */

hd_status hd_grads_ready(const hd_model *model, const hd_layer *layer, hd_unit unit, hd_err *err) HD_CHECK_RESULT;

/* Before a leaf: the first contribution to each gradient sets (first leaf) or adds (later ones). */
void hd_grads_begin(hd_model *model, bool first);

/* One matrix of a streamed expert weight, into the stream's arena: whoever asks releases it by the arena's mark. */
hd_status hd_weights_stream_expert(const hd_layer *layer, const hd_weight *w, int64_t expert, hd_weight *part, hd_err *err) HD_CHECK_RESULT;

/* All parts of a gradient (hd_weight_rows, hd_weight_expert) were written. */
void hd_grads_written(hd_weight *w);

/* dW += dy^T x, skipped for a frozen weight. */
hd_status hd_linear_grad(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* Held and without a gradient; a released weight is not frozen, so that the op it is handed to can refuse it. */
static inline bool hd_weight_frozen(const hd_weight *w) { return w->value.n_dim > 0 && w->grad.n_dim == 0; }

#endif
