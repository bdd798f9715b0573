/* Making tensors and looking at parts of them.  See tensor.h. */
#include "tensor/tensor.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"

static void set_contiguous_strides(hd_tensor *t)
{
    int64_t stride = 1;
    for (int d = t->n_dim - 1; d >= 0; d--) {
        t->stride[d] = stride;
        stride *= t->shape[d] > 0 ? t->shape[d] : 1;
    }
}

/* The bytes of a shape, checked. */
static hd_status shape_bytes(hd_dtype dtype, int n_dim, const int64_t *shape, size_t *bytes, hd_err *err)
{
    int64_t count = 1, total;
    if ((unsigned)dtype >= HD_DTYPE_COUNT) { return HD_FAIL(err, HD_E_INVALID, "tensor: dtype %d", (int)dtype); }
    if (n_dim < 1 || n_dim > HD_MAX_DIMS) {
        return HD_FAIL(err, HD_E_INVALID, "tensor: %d dimensions, want 1 to %d", n_dim, HD_MAX_DIMS);
    }
    for (int d = 0; d < n_dim; d++) {
        if (shape[d] < 0) {
            return HD_FAIL(err, HD_E_INVALID, "tensor: length %" PRId64 " of axis %d is negative", shape[d], d);
        }
        if (!hd_i64_mul(count, shape[d] > 0 ? shape[d] : 1, &count)) {
            return HD_FAIL(err, HD_E_INVALID, "tensor: more than 2^63 elements");
        }
    }
    if (dtype == HD_DTYPE_I4) {
        total = count / 2;
    } else if (!hd_i64_mul(count, (int64_t)hd_dtype_bytes(dtype), &total)) {
        return HD_FAIL(err, HD_E_INVALID, "tensor: more than 2^63 bytes");
    }
    *bytes = (size_t)total;
    for (int d = 0; d < n_dim; d++) {
        if (shape[d] == 0) { *bytes = 0; }
    }
    return HD_OK;
}

hd_status hd_tensor_new(hd_arena *arena, hd_dtype dtype, int n_dim, const int64_t *shape, hd_tensor *out, hd_err *err)
{
    size_t bytes;
    hd_tensor t = {.dtype = dtype, .n_dim = n_dim};
    hd_status st = shape_bytes(dtype, n_dim, shape, &bytes, err);
    if (st != HD_OK) { return st; }
    for (int d = 0; d < n_dim; d++) { t.shape[d] = t.global_shape[d] = shape[d]; }
    set_contiguous_strides(&t);
    st = hd_arena_alloc(arena, bytes, &t.data, err);
    if (st != HD_OK) { return st; }
    *out = t;
    return HD_OK;
}

hd_status hd_tensor_new_1d(hd_arena *arena, hd_dtype dtype, int64_t n, hd_tensor *out, hd_err *err)
{
    return hd_tensor_new(arena, dtype, 1, &n, out, err);
}

hd_status hd_tensor_new_2d(hd_arena *arena, hd_dtype dtype, int64_t rows, int64_t columns, hd_tensor *out, hd_err *err)
{
    return hd_tensor_new(arena, dtype, 2, (int64_t[]){rows, columns}, out, err);
}

/* t moved by a number of elements; a dry tensor has nowhere to move. */
static void advance(hd_tensor *t, int64_t elements)
{
    if (t->data != NULL) { t->data = (char *)t->data + hd_dtype_run_bytes(t->dtype, elements); }
}

hd_tensor hd_tensor_slice(const hd_tensor *t, int axis, int64_t begin, int64_t length)
{
    assert(axis >= 0 && axis < t->n_dim);
    assert(begin >= 0 && length >= 0 && begin <= t->shape[axis] - length);
    hd_tensor view = *t;
    view.shape[axis] = view.global_shape[axis] = length;
    if (hd_tensor_count(&view) > 0) { advance(&view, begin * t->stride[axis]); }
    return view;
}

hd_tensor hd_tensor_index(const hd_tensor *t, int64_t i)
{
    assert(t->n_dim > 1 && i >= 0 && i < t->shape[0]);
    hd_tensor view = *t;
    view.n_dim = t->n_dim - 1;
    for (int d = 0; d < HD_MAX_DIMS; d++) {
        bool inside = d < view.n_dim;
        view.shape[d] = inside ? t->shape[d + 1] : 0;
        view.global_shape[d] = inside ? t->global_shape[d + 1] : 0;
        view.stride[d] = inside ? t->stride[d + 1] : 0;
    }
    advance(&view, i * t->stride[0]);
    return view;
}

hd_tensor hd_tensor_reshape(const hd_tensor *t, int n_dim, const int64_t *shape)
{
    assert(n_dim >= 1 && n_dim <= HD_MAX_DIMS && hd_tensor_is_contiguous(t));
    hd_tensor view = {.data = t->data, .dtype = t->dtype, .n_dim = n_dim};
    for (int d = 0; d < n_dim; d++) { view.shape[d] = view.global_shape[d] = shape[d]; }
    set_contiguous_strides(&view);
    assert(hd_tensor_count(&view) == hd_tensor_count(t));
    return view;
}

hd_tensor hd_tensor_split_last(const hd_tensor *t, int64_t outer, int64_t inner)
{
    int last = t->n_dim - 1;
    assert(last >= 0 && last + 1 < HD_MAX_DIMS);
    assert(outer >= 0 && inner >= 0 && outer * inner == t->shape[last]);
    hd_tensor view = *t;
    view.n_dim = t->n_dim + 1;
    view.shape[last] = view.global_shape[last] = outer;
    view.shape[last + 1] = view.global_shape[last + 1] = inner;
    view.stride[last] = inner * t->stride[last];
    view.stride[last + 1] = t->stride[last];
    return view;
}

int64_t hd_tensor_count(const hd_tensor *t)
{
    int64_t count = t->n_dim > 0 ? 1 : 0;
    for (int d = 0; d < t->n_dim; d++) { count *= t->shape[d]; }
    return count;
}

bool hd_tensor_is_contiguous(const hd_tensor *t)
{
    int64_t stride = 1;
    for (int d = t->n_dim - 1; d >= 0; d--) {
        if (t->shape[d] != 1 && t->stride[d] != stride) { return hd_tensor_count(t) == 0; }
        stride *= t->shape[d];
    }
    return true;
}

const char *hd_tensor_describe(const hd_tensor *t, char *buffer)
{
    const size_t capacity = 96;
    size_t used = 0;
    for (const char *p = hd_dtype_name(t->dtype); *p != '\0'; p++) {
        buffer[used++] = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
    }
    buffer[used] = '\0';
    for (int d = 0; d < t->n_dim && used < capacity; d++) {
        int n = snprintf(buffer + used, capacity - used, "%s%" PRId64, d == 0 ? " (" : ", ", t->shape[d]);
        used += n > 0 ? (size_t)n : 0;
    }
    if (used + 2 <= capacity) { (void)snprintf(buffer + used, capacity - used, "%s", t->n_dim > 0 ? ")" : " ()"); }
    return buffer;
}
