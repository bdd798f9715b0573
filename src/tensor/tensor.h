/* A tensor: typed memory with a shape and element strides.  A plain value; it owns nothing.
 * Views never outlive the arena piece they look into. */
#ifndef HD_TENSOR_TENSOR_H
#define HD_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "hadal/status.h"
#include "tensor/dtype.h"

enum { HD_MAX_DIMS = 4 };

typedef struct hd_tensor {
    void *data; /* NULL on a dry arena and for empty tensors: only ops look at it */
    hd_dtype dtype;
    int n_dim;
    int64_t shape[HD_MAX_DIMS];        /* this rank's part */
    int64_t global_shape[HD_MAX_DIMS]; /* the whole; equal to shape on one rank */
    int64_t stride[HD_MAX_DIMS];       /* in elements; the last is 1 for every tensor that ops accept */
} hd_tensor;

/* A contiguous tensor from an arena. */
hd_status hd_tensor_new(hd_arena *arena, hd_dtype dtype, int n_dim, const int64_t *shape, hd_tensor *out,
                        hd_err *err) HD_CHECK_RESULT;

/* The same for 1 and 2 dimensions, the common case in model code. */
hd_status hd_tensor_new_1d(hd_arena *arena, hd_dtype dtype, int64_t n, hd_tensor *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_tensor_new_2d(hd_arena *arena, hd_dtype dtype, int64_t rows, int64_t columns, hd_tensor *out,
                           hd_err *err) HD_CHECK_RESULT;

/* Views.  hd_tensor_slice keeps n_dim and takes [begin, begin + length) of one axis; hd_tensor_index drops axis 0;
 * hd_tensor_reshape needs a contiguous tensor and equal element counts; hd_tensor_split_last turns (..., A*B) into
 * (..., A, B) keeping the strides of the rows.  All of them are arithmetic only and assert their preconditions. */
hd_tensor hd_tensor_slice(const hd_tensor *t, int axis, int64_t begin, int64_t length);
hd_tensor hd_tensor_index(const hd_tensor *t, int64_t i);
hd_tensor hd_tensor_reshape(const hd_tensor *t, int n_dim, const int64_t *shape);
hd_tensor hd_tensor_split_last(const hd_tensor *t, int64_t outer, int64_t inner);

int64_t hd_tensor_count(const hd_tensor *t); /* elements; shapes were checked when the tensor was made */
bool hd_tensor_is_contiguous(const hd_tensor *t);

/* "f32 (500, 128)" for messages; the buffer holds 96 bytes. */
const char *hd_tensor_describe(const hd_tensor *t, char *buffer);

#endif
