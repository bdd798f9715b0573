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
#include "ops/cpu/stream.h"

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

/* Rows of `in` times an expert's matrix into rows of `out`; offsets NULL: one matrix, all rows. */
typedef struct rows_product {
    const hd_tensor *in, *offsets;
    const hd_weight *w;
    hd_accum accum;
    const hd_tensor *out;
} rows_product;

static int64_t n_matrices(const rows_product *p) { return p->offsets != NULL ? p->w->value.shape[0] : 1; }

static hd_gemm_form rows_form(linear_kind kind, const rows_product *p)
{
    int64_t row = p->w->value.stride[p->w->value.n_dim - 2];
    bool k_inside = (kind == LINEAR_FWD) == (p->w->layout == HD_LAYOUT_OUT_IN); /* k is the weight's last axis */
    return (hd_gemm_form){.a_dtype = p->in->dtype, .b_dtype = p->w->value.dtype, .c_dtype = p->out->dtype,
                          .a_row = p->in->stride[0], .a_column = 1, .b_row = k_inside ? 1 : row, .b_column = k_inside ? row : 1,
                          .accum = p->accum};
}

static bool same_form(const hd_gemm_form *a, const hd_gemm_form *b)
{
    return a->a_dtype == b->a_dtype && a->b_dtype == b->b_dtype && a->c_dtype == b->c_dtype && a->a_row == b->a_row &&
           a->b_row == b->b_row && a->b_column == b->b_column && a->accum == b->accum;
}

static hd_gemm_problem rows_problem(const rows_product *p, int64_t expert)
{
    hd_weight matrix = p->offsets != NULL ? hd_weight_expert(p->w, expert) : *p->w;
    int64_t begin = p->offsets != NULL ? offset_at(p->offsets, expert) : 0;
    int64_t end = p->offsets != NULL ? offset_at(p->offsets, expert + 1) : p->in->shape[0];
    return (hd_gemm_problem){.m = end - begin, .n = p->out->shape[1], .k = p->in->shape[1], .c_row = p->out->stride[0],
                             .a = hd_row(p->in, begin), .b = matrix.value.data, .b_scales = matrix.scales.data, .c = hd_row(p->out, begin)};
}

static void add_limits(const rows_product *p, int64_t n_problems, hd_gemm_limits *l)
{
    int64_t rows = p->in->shape[0], k = p->in->shape[1];
    l->n_problems += n_problems;
    l->m_max = hd_max_i64(l->m_max, rows);
    l->n_max = hd_max_i64(l->n_max, p->out->shape[1]);
    l->k_max = hd_max_i64(l->k_max, k);
    l->m_total += rows;
    l->k_total += n_problems * k;
    l->a_total += rows * k;
}

static hd_status check_rows(const rows_product *p, hd_err *err)
{
    hd_status st;
    HD_TRY(check_dtype(p->in, "the input", err));
    HD_TRY(check_stored(&p->w->value, err));
    HD_TRY(check_dtype(p->out, "the output", err));
out:
    return st;
}

/* Products of one form as one batch. */
static hd_status run_batch(hd_exec *ex, const hd_gemm_form *form, const rows_product *list, int n, hd_err *err)
{
    hd_status st = HD_OK;
    hd_gemm_batch batch;
    hd_gemm_limits limits = {0};
    int64_t n_problems = 0;
    for (int i = 0; i < n; i++) {
        HD_TRY(check_rows(&list[i], err));
        add_limits(&list[i], n_matrices(&list[i]), &limits);
    }
    HD_TRY(hd_gemm_reserve(ex, form, &limits, &batch, err));
    if (ex->dry) { return HD_OK; }
    for (int i = 0; i < n; i++) {
        for (int64_t e = 0; e < n_matrices(&list[i]); e++) { batch.problems[n_problems++] = rows_problem(&list[i], e); }
    }
    hd_gemm_run(ex, form, n_problems, &batch);
out:
    return st;
}

static hd_status run_rows(hd_exec *ex, linear_kind kind, const rows_product *p, hd_err *err)
{
    hd_gemm_form form = rows_form(kind, p);
    return run_batch(ex, &form, p, 1, err);
}

static hd_status run_rows_one_by_one(hd_exec *ex, linear_kind kind, const rows_product *p, hd_err *err)
{
    hd_status st;
    hd_gemm_batch batch;
    hd_gemm_form form = rows_form(kind, p);
    hd_gemm_limits limits = {0};
    add_limits(p, 1, &limits);
    HD_TRY(check_rows(p, err));
    HD_TRY(hd_gemm_reserve(ex, &form, &limits, &batch, err));
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < n_matrices(p); e++) {
        batch.problems[0] = rows_problem(p, e);
        hd_gemm_run(ex, &form, 1, &batch);
    }
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
                         .a_row = 1, .a_column = left->stride[0], .b_row = right->stride[0], .b_column = 1, .accum = w->grad_accum};
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
            .m = m, .n = right->shape[1], .k = end - begin, .c_row = w->grad.stride[w->grad.n_dim - 2],
            .a = hd_row(left, begin), .b = hd_row(right, begin), .c = hd_at(&w->grad, e * expert_stride)};
        if (one_by_one) { hd_gemm_run(ex, &form, 1, &batch); }
    }
    if (!one_by_one) { hd_gemm_run(ex, &form, n_experts, &batch); }
out:
    return st;
}

/* ---- lists of products: runs of those that can share a batch, in the order of the list ---- */

static rows_product rows_of(const hd_product *p) { return (rows_product){p->x, p->offsets, p->w, p->y_accum, p->y}; }

/* How many products from the first on are of its kind: streamed, or of one form, which is then *form. */
static int run_length(const hd_exec *ex, const hd_product *list, int n, hd_gemm_form *form)
{
    int length = 1;
    rows_product first = rows_of(&list[0]);
    bool streamed = hd_stream_takes(ex, list[0].w);
    *form = rows_form(LINEAR_FWD, &first);
    for (; length < n; length++) {
        rows_product next = rows_of(&list[length]);
        hd_gemm_form other = rows_form(LINEAR_FWD, &next);
        if (hd_stream_takes(ex, list[length].w) != streamed || (!streamed && !same_form(form, &other))) { break; }
    }
    return length;
}

static hd_status stream_checked(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    hd_status st;
    for (int i = 0; i < n; i++) {
        rows_product p = rows_of(&list[i]);
        HD_TRY(check_rows(&p, err));
    }
    st = hd_stream_products(ex, list, n, err);
out:
    return st;
}

static hd_status products_fwd(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    hd_status st = HD_OK;
    rows_product rows[HD_PRODUCTS_MAX];
    hd_gemm_form form;
    for (int i = 0; i < n; i++) { rows[i] = rows_of(&list[i]); }
    for (int at = 0, length; at < n && st == HD_OK; at += length) {
        size_t mark = hd_arena_mark(ex->scratch);
        length = run_length(ex, list + at, n - at, &form);
        st = hd_stream_takes(ex, list[at].w) ? stream_checked(ex, list + at, length, err) : run_batch(ex, &form, rows + at, length, err);
        hd_arena_release(ex->scratch, mark);
    }
    return st;
}

/* ---- linear ---- */

static hd_status linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_product p = {x, NULL, w, y_accum, y};
    return products_fwd(ex, &p, 1, err);
}

static hd_status linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_weight *w, hd_accum dx_accum, hd_tensor *dx,
                                  hd_err *err)
{
    return run_rows(ex, LINEAR_BWD_INPUT, &(rows_product){dy, NULL, w, dx_accum, dx}, err);
}

static hd_status linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    return run_weight(ex, dy, x, NULL, w, false, err);
}

/* ---- grouped_linear: all experts in one batch ---- */

static hd_status grouped_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                    hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_product p = {x, offsets, w, y_accum, y};
    return products_fwd(ex, &p, 1, err);
}

static hd_status grouped_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                          hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    return run_rows(ex, LINEAR_BWD_INPUT, &(rows_product){dy, offsets, w, dx_accum, dx}, err);
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
    hd_product p = {x, offsets, w, y_accum, y};
    if (hd_stream_takes(ex, w)) { return stream_checked(ex, &p, 1, err); }
    return run_rows_one_by_one(ex, LINEAR_FWD, &(rows_product){x, offsets, w, y_accum, y}, err);
}

static hd_status ragged_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                         hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    return run_rows_one_by_one(ex, LINEAR_BWD_INPUT, &(rows_product){dy, offsets, w, dx_accum, dx}, err);
}

static hd_status ragged_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                          hd_weight *w, hd_err *err)
{
    return run_weight(ex, dy, x, offsets, w, true, err);
}

void HD_CPU_INSTALL(linear)(hd_ops *ops)
{
    ops->products_fwd = products_fwd;
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
