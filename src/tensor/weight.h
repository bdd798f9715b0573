/* A weight of the model: storage, gradient, and what lives beside them (scales, a low-rank pair).  Model code hands ops an hd_weight,
 * never a bare pointer, and only between weights_acquire and weights_release of the unit that owns it. */
#ifndef HD_TENSOR_WEIGHT_H
#define HD_TENSOR_WEIGHT_H

#include "tensor/packed.h"
#include "tensor/tensor.h"

typedef enum hd_layout {
    HD_LAYOUT_OUT_IN, /* [out, in], as HuggingFace stores it: y = x W^T */
    HD_LAYOUT_IN_OUT  /* [in, out]: y = x W */
} hd_layout;

/* Whether an op overwrites its output or adds to it.  The first contribution to a gradient sets, later ones add, so
 * no gradient is ever cleared. */
typedef enum hd_accum { HD_SET, HD_ADD } hd_accum;

/* Where one expert's matrix lies, when the experts of a stack do not lie at equal distances: in mapped files. */
typedef struct hd_expert_place {
    const void *value, *scales;
} hd_expert_place;

enum { HD_F8_BLOCK = 128 }; /* rows and columns of an FP8 block with one scale */

typedef struct hd_weight {
    hd_tensor value;     /* (out, in), (experts, out, in), (n).  F32 or BF16: any use.  Read-only products also F8_E4M3, row-major, and
                          * I8 or I4, whose memory is the blocks of packed.h (strides count elements of it) */
    hd_tensor scales;    /* F8_E4M3: F32 (.., ceil(out / 128), ceil(in / 128)); packed: BF16 (.., ceil(out / 16), in / 64, 16);
                          * n_dim 0: none */
    const hd_expert_place *experts; /* NULL: at value.stride[0] and scales.stride[0]; else one per expert, and both data are NULL */
    bool round_inputs;   /* packed: inputs are rounded to 8 bits per group of 64 (hd_round_group) and multiplied as integers */
    bool fine_inputs;    /* with round_inputs, I8: to 16 bits, as two codes */
    hd_tensor grad;      /* f32, the same shape; n_dim = 0 when the tensor is frozen */
    hd_accum grad_accum; /* what the next weight-gradient op does; the model resets it to HD_SET before each leaf */
    hd_layout layout;
    struct {
        hd_tensor a, b; /* value + scale * b a; n_dim = 0 when there is none */
        float scale;
    } low_rank;
} hd_weight;

/* Shapes and strides of a weight without memory: packed, F8_E4M3 with its scales, F32 or BF16.  n_expert 0: one matrix. */
hd_weight hd_weight_shape(hd_dtype dtype, int64_t n_expert, int64_t out, int64_t in);

/* The same with memory from an arena. */
hd_status hd_weight_new(hd_arena *arena, hd_dtype dtype, int64_t n_expert, int64_t out, int64_t in, hd_weight *w, hd_err *err) HD_CHECK_RESULT;

/* Bytes of one matrix and of its scales. */
int64_t hd_weight_matrix_bytes(hd_dtype dtype, int64_t out, int64_t in);
int64_t hd_weight_scale_bytes(hd_dtype dtype, int64_t out, int64_t in);

/* A part of a weight along its first axis: an expert, without that axis, and a range of rows (of a packed or FP8 one: from the beginning of a
 * block).  The part's grad_accum is a copy: whoever has written all parts says so of the whole. */
hd_weight hd_weight_expert(const hd_weight *w, int64_t expert);
hd_weight hd_weight_rows(const hd_weight *w, int64_t begin, int64_t length);

#endif
