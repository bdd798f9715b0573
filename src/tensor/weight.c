/* Shapes of weights and their parts.  See weight.h. */
#include "tensor/weight.h"

#include <assert.h>

static int64_t blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

int64_t hd_weight_matrix_bytes(hd_dtype dtype, int64_t out, int64_t in)
{
    return hd_dtype_run_bytes(dtype, (hd_dtype_is_packed(dtype) ? hd_packed_rows(out) : out) * in);
}

int64_t hd_weight_scale_bytes(hd_dtype dtype, int64_t out, int64_t in)
{
    if (dtype == HD_DTYPE_F8_E4M3) { return 4 * blocks(out, HD_F8_BLOCK) * blocks(in, HD_F8_BLOCK); }
    return hd_dtype_is_packed(dtype) ? 2 * hd_packed_rows(out) * (in / HD_PACKED_GROUP) : 0;
}

/* (n_expert, shape...) or (shape...), contiguous but for the distance of experts. */
static hd_tensor stack(hd_dtype dtype, int64_t n_expert, int n_dim, const int64_t *shape, int64_t distance)
{
    hd_tensor t = {.dtype = dtype};
    if (n_expert > 0) {
        t.shape[0] = n_expert;
        t.stride[0] = distance;
        t.n_dim = 1;
    }
    int64_t stride = 1;
    for (int d = n_dim - 1; d >= 0; d--) {
        t.shape[t.n_dim + d] = shape[d];
        t.stride[t.n_dim + d] = stride;
        stride *= shape[d];
    }
    t.n_dim += n_dim;
    for (int d = 0; d < t.n_dim; d++) { t.global_shape[d] = t.shape[d]; }
    return t;
}

hd_weight hd_weight_shape(hd_dtype dtype, int64_t n_expert, int64_t out, int64_t in)
{
    hd_weight w = {.layout = HD_LAYOUT_OUT_IN};
    int64_t rows = hd_dtype_is_packed(dtype) ? hd_packed_rows(out) : out;
    w.value = stack(dtype, n_expert, 2, (int64_t[]){out, in}, rows * in);
    if (dtype == HD_DTYPE_F8_E4M3) {
        int64_t shape[2] = {blocks(out, HD_F8_BLOCK), blocks(in, HD_F8_BLOCK)};
        w.scales = stack(HD_DTYPE_F32, n_expert, 2, shape, shape[0] * shape[1]);
    } else if (hd_dtype_is_packed(dtype)) {
        int64_t shape[3] = {rows / HD_PACKED_ROWS, in / HD_PACKED_GROUP, HD_PACKED_ROWS};
        w.scales = stack(HD_DTYPE_BF16, n_expert, 3, shape, shape[0] * shape[1] * shape[2]);
    }
    return w;
}

hd_status hd_weight_new(hd_arena *arena, hd_dtype dtype, int64_t n_expert, int64_t out, int64_t in, hd_weight *w, hd_err *err)
{
    hd_status st;
    int64_t n = n_expert > 0 ? n_expert : 1;
    *w = hd_weight_shape(dtype, n_expert, out, in);
    HD_TRY(hd_arena_alloc(arena, (size_t)(n * hd_weight_matrix_bytes(dtype, out, in)), &w->value.data, err));
    HD_TRY(hd_arena_alloc(arena, (size_t)(n * hd_weight_scale_bytes(dtype, out, in)), &w->scales.data, err));
out:
    return st;
}

hd_weight hd_weight_expert(const hd_weight *w, int64_t expert)
{
    hd_weight part = *w;
    part.value = hd_tensor_index(&w->value, expert);
    if (w->scales.n_dim > 0) { part.scales = hd_tensor_index(&w->scales, expert); }
    if (w->grad.n_dim > 0) { part.grad = hd_tensor_index(&w->grad, expert); }
    if (w->experts != NULL) { /* mapped files are read-only, and so are the ops that take such a weight */
        part.value.data = (void *)(uintptr_t)w->experts[expert].value;
        part.scales.data = (void *)(uintptr_t)w->experts[expert].scales;
        part.experts = NULL;
    }
    return part;
}

/* Rows of a block, by which scales are cut. */
static int64_t block_rows(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F8_E4M3 ? HD_F8_BLOCK : hd_dtype_is_packed(dtype) ? HD_PACKED_ROWS : 1;
}

hd_weight hd_weight_rows(const hd_weight *w, int64_t begin, int64_t length)
{
    hd_weight part = *w;
    int64_t block = block_rows(w->value.dtype);
    assert(begin % block == 0 && (begin + length == w->value.shape[0] || length % block == 0));
    part.value = hd_tensor_slice(&w->value, 0, begin, length);
    if (w->scales.n_dim > 0) { part.scales = hd_tensor_slice(&w->scales, 0, begin / block, blocks(length, block)); }
    if (w->grad.n_dim > 0) { part.grad = hd_tensor_slice(&w->grad, 0, begin, length); }
    return part;
}
