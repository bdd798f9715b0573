/* A weight of the model: storage, gradient, and what later lives beside them (block scales inside the tensor, a
 * low-rank pair).  Model code hands ops an hd_weight, never a bare pointer, and only between weights_acquire and
 * weights_release of the unit that owns it. */
#ifndef HD_TENSOR_WEIGHT_H
#define HD_TENSOR_WEIGHT_H

#include "tensor/tensor.h"

typedef enum hd_layout {
    HD_LAYOUT_OUT_IN, /* [out, in], as HuggingFace stores it: y = x W^T */
    HD_LAYOUT_IN_OUT  /* [in, out]: y = x W */
} hd_layout;

/* Whether an op overwrites its output or adds to it.  The first contribution to a gradient sets, later ones add, so
 * no gradient is ever cleared. */
typedef enum hd_accum { HD_SET, HD_ADD } hd_accum;

typedef struct hd_weight {
    hd_tensor value;     /* weight_dtype; (out, in), (experts, out, in), (n) */
    hd_tensor grad;      /* f32, the same shape; n_dim = 0 when the tensor is frozen */
    hd_accum grad_accum; /* what the next weight-gradient op does; the model resets it to HD_SET before each leaf */
    hd_layout layout;
    struct {
        hd_tensor a, b; /* value + scale * b a; n_dim = 0 when there is none */
        float scale;
    } low_rank;
} hd_weight;

#endif
