/* linear, grouped_linear and ragged_linear: nine slots, one matrix product.  Contracts: ops.h.
 *
 * This file only says which tensor is A, which is B and with which strides; rows, experts and bits are gemm.h's.
 *
 *   fwd         C = y (rows, M)   A = x (rows, K)      B[k, n] = W[n, k]     k over inputs
 *   bwd_input   C = dx (rows, K)  A = dy (rows, M)     B[k, n] = W[k, n]     k over outputs
 *   bwd_weight  C = dW (M, K)     A = dy^T (M, rows)   B = x (rows, K)       k over rows
 * and for a weight stored [in, out] the two strides of W change places, dW^T = x^T dy. */
#include "ops/cpu/gemm.h"
#include "ops/cpu/gemm_stored.h"
#include "ops/cpu/packed.h"

typedef enum linear_kind { LINEAR_FWD, LINEAR_BWD_INPUT } linear_kind;

static hd_status check_dtype(const hd_tensor *t, const char *name, hd_err *err)
{
    if (t->dtype == HD_DTYPE_F32 || t->dtype == HD_DTYPE_BF16) { return HD_OK; }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "linear: %s is %s, the cpu kernels read F32 and BF16", name,
                   hd_dtype_name(t->dtype));
}

static hd_status check_stored(const hd_tensor *t, hd_err *err)
{
    return gemm_is_stored(t->dtype) ? HD_OK : check_dtype(t, "the weight", err);
}

static int32_t offset_at(const hd_tensor *offsets, int64_t e) { return ((const int32_t *)offsets->data)[e]; }

/* rows of `in` times an expert's matrix into rows of `out`; offsets NULL: one expert, all rows. */
static hd_gemm_form rows_form(linear_kind kind, const hd_tensor *in, const hd_weight *w, hd_accum accum,
                              const hd_tensor *out)
{
    int64_t row = w->value.stride[w->value.n_dim - 2];
    bool k_inside = (kind == LINEAR_FWD) == (w->layout == HD_LAYOUT_OUT_IN); /* k is the weight's last axis */
    return (hd_gemm_form){.a_dtype = in->dtype, .b_dtype = w->value.dtype, .c_dtype = out->dtype,
                          .a_row = in->stride[0], .a_column = 1,
                          .b_row = k_inside ? 1 : row, .b_column = k_inside ? row : 1,
                          .c_row = out->stride[0], .accum = accum};
}

static hd_gemm_problem rows_problem(const hd_tensor *in, const hd_weight *w, const hd_tensor *out, int64_t expert,
                                    int64_t begin, int64_t end)
{
    hd_weight matrix = w->value.n_dim == 3 ? hd_weight_expert(w, expert) : *w;
    return (hd_gemm_problem){.m = end - begin, .n = out->shape[1], .k = in->shape[1], .a = hd_row(in, begin),
                             .b = matrix.value.data, .b_scales = matrix.scales.data, .c = hd_row(out, begin)};
}

static hd_gemm_limits rows_limits(const hd_tensor *in, const hd_tensor *out, int64_t n_experts)
{
    int64_t rows = in->shape[0], k = in->shape[1];
    return (hd_gemm_limits){.n_problems = n_experts, .m_max = rows, .n_max = out->shape[1], .k_max = k,
                            .m_total = rows, .k_total = n_experts * k, .a_total = rows * k};
}

static hd_status run_rows(hd_exec *ex, linear_kind kind, const hd_tensor *in, const hd_tensor *offsets,
                          const hd_weight *w, hd_accum accum, hd_tensor *out, bool one_by_one, hd_err *err)
{
    hd_status st = HD_OK;
    hd_gemm_batch batch;
    if (w->round_inputs) { return hd_packed_linear(ex, in, offsets, w, accum, out, err); }
    int64_t n_experts = offsets != NULL ? w->value.shape[0] : 1;
    hd_gemm_form form = rows_form(kind, in, w, accum, out);
    hd_gemm_limits limits = rows_limits(in, out, one_by_one ? 1 : n_experts);
    HD_TRY(check_dtype(in, "the input", err));
    HD_TRY(check_stored(&w->value, err));
    HD_TRY(check_dtype(out, "the output", err));
    HD_TRY(hd_gemm_reserve(ex, &form, &limits, &batch, err));
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < n_experts; e++) {
        int64_t begin = offsets != NULL ? offset_at(offsets, e) : 0;
        int64_t end = offsets != NULL ? offset_at(offsets, e + 1) : in->shape[0];
        batch.problems[one_by_one ? 0 : e] = rows_problem(in, w, out, e, begin, end);
        if (one_by_one) { hd_gemm_run(ex, &form, 1, &batch); }
    }
    if (!one_by_one) { hd_gemm_run(ex, &form, n_experts, &batch); }
out:
    return st;
}

/* dW = dy^T x, or its transpose for a weight stored [in, out]: left^T right either way. */
static hd_status run_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets, hd_weight *w,
                            bool one_by_one, hd_err *err)
{
    hd_status st = HD_OK;
    hd_gemm_batch batch;
    if (w->grad.n_dim == 0) { return HD_OK; }
    const hd_tensor *left = w->layout == HD_LAYOUT_OUT_IN ? dy : x, *right = w->layout == HD_LAYOUT_OUT_IN ? x : dy;
    int64_t n_experts = offsets != NULL ? w->grad.shape[0] : 1, n_problems = one_by_one ? 1 : n_experts;
    int64_t rows = left->shape[0], m = left->shape[1];
    int64_t expert_stride = w->grad.n_dim == 3 ? w->grad.stride[0] : 0;
    hd_gemm_form form = {.a_dtype = left->dtype, .b_dtype = right->dtype, .c_dtype = HD_DTYPE_F32,
                         .a_row = 1, .a_column = left->stride[0], .b_row = right->stride[0], .b_column = 1,
                         .c_row = w->grad.stride[w->grad.n_dim - 2], .accum = w->grad_accum};
    hd_gemm_limits limits = {.n_problems = n_problems, .m_max = m, .n_max = right->shape[1], .k_max = rows,
                             .m_total = n_problems * m, .k_total = rows, .a_total = rows * m};
    HD_TRY(check_dtype(dy, "dy", err));
    HD_TRY(check_dtype(x, "x", err));
    HD_TRY(hd_gemm_reserve(ex, &form, &limits, &batch, err));
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < n_experts; e++) {
        int64_t begin = offsets != NULL ? offset_at(offsets, e) : 0;
        int64_t end = offsets != NULL ? offset_at(offsets, e + 1) : rows;
        batch.problems[one_by_one ? 0 : e] = (hd_gemm_problem){
            .m = m, .n = right->shape[1], .k = end - begin,
            .a = hd_row(left, begin), .b = hd_row(right, begin), .c = hd_at(&w->grad, e * expert_stride)};
        if (one_by_one) { hd_gemm_run(ex, &form, 1, &batch); }
    }
    if (!one_by_one) { hd_gemm_run(ex, &form, n_experts, &batch); }
out:
    return st;
}

/* ---- linear ---- */

static hd_status linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    return run_rows(ex, LINEAR_FWD, x, NULL, w, y_accum, y, false, err);
}

static hd_status linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_weight *w, hd_accum dx_accum, hd_tensor *dx,
                                  hd_err *err)
{
    return run_rows(ex, LINEAR_BWD_INPUT, dy, NULL, w, dx_accum, dx, false, err);
}

static hd_status linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    return run_weight(ex, dy, x, NULL, w, false, err);
}

/* ---- grouped_linear: all experts in one batch ---- */

static hd_status grouped_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                    hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    return run_rows(ex, LINEAR_FWD, x, offsets, w, y_accum, y, false, err);
}

static hd_status grouped_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                          hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    return run_rows(ex, LINEAR_BWD_INPUT, dy, offsets, w, dx_accum, dx, false, err);
}

static hd_status grouped_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                           hd_weight *w, hd_err *err)
{
    return run_weight(ex, dy, x, offsets, w, false, err);
}

/* ---- ragged_linear: one expert after the other ---- */

static hd_status ragged_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                   hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    return run_rows(ex, LINEAR_FWD, x, offsets, w, y_accum, y, true, err);
}

static hd_status ragged_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                         hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    return run_rows(ex, LINEAR_BWD_INPUT, dy, offsets, w, dx_accum, dx, true, err);
}

static hd_status ragged_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                          hd_weight *w, hd_err *err)
{
    return run_weight(ex, dy, x, offsets, w, true, err);
}

void HD_CPU_INSTALL(linear)(hd_ops *ops)
{
    ops->linear_fwd = linear_fwd;
    ops->linear_bwd_input = linear_bwd_input;
    ops->linear_bwd_weight = linear_bwd_weight;
    ops->grouped_linear_fwd = grouped_linear_fwd;
    ops->grouped_linear_bwd_input = grouped_linear_bwd_input;
    ops->grouped_linear_bwd_weight = grouped_linear_bwd_weight;
    ops->ragged_linear_fwd = ragged_linear_fwd;
    ops->ragged_linear_bwd_input = ragged_linear_bwd_input;
    ops->ragged_linear_bwd_weight = ragged_linear_bwd_weight;
}
