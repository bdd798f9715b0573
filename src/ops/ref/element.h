/* Elements of tensors as doubles: how every reference op reads and writes.
 *
 * ref computes in double and knows dtypes only here: a value read is exact, a value written is rounded to the dtype of
 * its tensor (to nearest even; bf16 by way of f32). */
#ifndef HD_OPS_REF_ELEMENT_H
#define HD_OPS_REF_ELEMENT_H

#include <stdint.h>

#include "tensor/tensor.h"
#include "tensor/weight.h"

/* v as a tensor of this dtype would hold it. */
static inline double ref_round(hd_dtype dtype, double v)
{
    switch (dtype) {
    case HD_DTYPE_F32: return (double)(float)v;
    case HD_DTYPE_BF16: return (double)hd_bf16_to_f32(hd_f32_to_bf16((float)v));
    default: return v;
    }
}

static inline double ref_get(const hd_tensor *t, int64_t offset)
{
    switch (t->dtype) {
    case HD_DTYPE_F32: return (double)((const float *)t->data)[offset];
    case HD_DTYPE_BF16: return (double)hd_bf16_to_f32(((const uint16_t *)t->data)[offset]);
    case HD_DTYPE_I32: return (double)((const int32_t *)t->data)[offset];
    default: return ((const double *)t->data)[offset];
    }
}

static inline void ref_put(hd_tensor *t, int64_t offset, double v)
{
    switch (t->dtype) {
    case HD_DTYPE_F32: ((float *)t->data)[offset] = (float)v; break;
    case HD_DTYPE_BF16: ((uint16_t *)t->data)[offset] = hd_f32_to_bf16((float)v); break;
    case HD_DTYPE_I32: ((int32_t *)t->data)[offset] = (int32_t)v; break;
    default: ((double *)t->data)[offset] = v; break;
    }
}

/* t[...] = v with HD_SET, which does not read, or t[...] + v with HD_ADD. */
static inline void ref_into(hd_tensor *t, int64_t offset, hd_accum accum, double v)
{
    ref_put(t, offset, accum == HD_ADD ? ref_get(t, offset) + v : v);
}

/* ---- offsets -------------------------------------------------------------------------------------------------------- */

static inline int64_t ref_at1(const hd_tensor *t, int64_t i)
{
    return i * t->stride[0];
}

static inline int64_t ref_at2(const hd_tensor *t, int64_t i, int64_t j)
{
    return i * t->stride[0] + j * t->stride[1];
}

static inline int64_t ref_at3(const hd_tensor *t, int64_t i, int64_t j, int64_t k)
{
    return i * t->stride[0] + j * t->stride[1] + k * t->stride[2];
}

/* Of element number `flat` in row-major order. */
static inline int64_t ref_at_flat(const hd_tensor *t, int64_t flat)
{
    int64_t offset = 0;
    for (int d = t->n_dim - 1; d >= 0; d--) {
        offset += flat % t->shape[d] * t->stride[d];
        flat /= t->shape[d];
    }
    return offset;
}

/* ---- by index ------------------------------------------------------------------------------------------------------- */

static inline double ref_get1(const hd_tensor *t, int64_t i)
{
    return ref_get(t, ref_at1(t, i));
}

static inline double ref_get2(const hd_tensor *t, int64_t i, int64_t j)
{
    return ref_get(t, ref_at2(t, i, j));
}

static inline double ref_get3(const hd_tensor *t, int64_t i, int64_t j, int64_t k)
{
    return ref_get(t, ref_at3(t, i, j, k));
}

static inline int64_t ref_int1(const hd_tensor *t, int64_t i)
{
    return ((const int32_t *)t->data)[ref_at1(t, i)];
}

static inline int64_t ref_int2(const hd_tensor *t, int64_t i, int64_t j)
{
    return ((const int32_t *)t->data)[ref_at2(t, i, j)];
}

static inline void ref_put1(hd_tensor *t, int64_t i, double v)
{
    ref_put(t, ref_at1(t, i), v);
}

static inline void ref_put2(hd_tensor *t, int64_t i, int64_t j, double v)
{
    ref_put(t, ref_at2(t, i, j), v);
}

static inline void ref_put3(hd_tensor *t, int64_t i, int64_t j, int64_t k, double v)
{
    ref_put(t, ref_at3(t, i, j, k), v);
}

static inline void ref_into2(hd_tensor *t, int64_t i, int64_t j, hd_accum accum, double v)
{
    ref_into(t, ref_at2(t, i, j), accum, v);
}

#endif
