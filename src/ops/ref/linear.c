/* Linear:  y = x W^T,  dx = dy W,  dW = dy^T x;  the same per expert for rows offsets[e] .. offsets[e + 1]. */
#include "ops/ref/element.h"
#include "ops/ref/ref.h"

/* ---- the three products of rows [begin, end) ------------------------------------------------------------------------ */

typedef struct rows { int64_t begin, end; } rows;

/* W[m][k] whatever the layout: the matrix and how to step through it. */
typedef struct matrix { hd_tensor t; int64_t n_out, n_in, out_stride, in_stride; } matrix;

static matrix matrix_of(const hd_tensor *t, hd_layout layout)
{
    int out = layout == HD_LAYOUT_OUT_IN ? 0 : 1, in = 1 - out;
    return (matrix){*t, t->shape[out], t->shape[in], t->stride[out], t->stride[in]};
}

static int64_t entry(const matrix *w, int64_t m, int64_t k)
{
    return m * w->out_stride + k * w->in_stride;
}

/* ---- stored weights: FP8 and packed integers, row m of a matrix --------------------------------------------------------- */

/* The value as f32 holds it: codes times scales are rounded once for FP8 and exact for integers. */
static double stored_entry(const hd_weight *w, int64_t m, int64_t k)
{
    int64_t in = w->value.shape[1];
    if (w->value.dtype == HD_DTYPE_F8_E4M3) {
        float scale = ((const float *)w->scales.data)[m / HD_F8_BLOCK * w->scales.stride[0] + k / HD_F8_BLOCK];
        return (double)(hd_f8_e4m3_to_f32(((const uint8_t *)w->value.data)[m * in + k]) * scale);
    }
    int64_t block = m / HD_PACKED_ROWS * (in / HD_PACKED_GROUP) + k / HD_PACKED_GROUP;
    const uint8_t *codes = (const uint8_t *)w->value.data + block * hd_packed_block_bytes(w->value.dtype);
    uint16_t scale = ((const uint16_t *)w->scales.data)[block * HD_PACKED_ROWS + m % HD_PACKED_ROWS];
    int code = hd_packed_code(w->value.dtype, codes, (int)(m % HD_PACKED_ROWS), (int)(k % HD_PACKED_GROUP));
    return (double)hd_bf16_to_f32(scale) * code;
}

/* Group g of a row as the product sees it. */
static void read_group(const hd_tensor *x, int64_t i, int64_t g, const hd_weight *w, double values[HD_PACKED_GROUP])
{
    float group[HD_PACKED_GROUP];
    int8_t codes[HD_PACKED_GROUP], rest[HD_PACKED_GROUP] = {0};
    for (int k = 0; k < HD_PACKED_GROUP; k++) {
        values[k] = ref_get2(x, i, g * HD_PACKED_GROUP + k);
        group[k] = (float)values[k];
    }
    if (!w->round_inputs) { return; }
    double scale = (double)hd_round_group(group, codes, w->fine_inputs ? rest : NULL);
    for (int k = 0; k < HD_PACKED_GROUP; k++) { values[k] = scale * (codes[k] + (double)rest[k] / HD_ROUND_REST); }
}

static void product_stored(const hd_tensor *x, const hd_weight *w, rows r, hd_accum accum, hd_tensor *y)
{
    double values[HD_PACKED_GROUP];
    int64_t n_in = w->value.shape[1], whole = n_in / HD_PACKED_GROUP * HD_PACKED_GROUP;
    for (int64_t i = r.begin; i < r.end; i++) {
        for (int64_t m = 0; m < w->value.shape[0]; m++) {
            double sum = 0.0;
            for (int64_t k = 0; k < n_in; k++) {
                if (k < whole && k % HD_PACKED_GROUP == 0) { read_group(x, i, k / HD_PACKED_GROUP, w, values); }
                sum += (k < whole ? values[k % HD_PACKED_GROUP] : ref_get2(x, i, k)) * stored_entry(w, m, k);
            }
            ref_into2(y, i, m, accum, sum);
        }
    }
}

/* y_im (+)= sum_k x_ik W_mk */
static void product_plain(const hd_tensor *x, const matrix *w, rows r, hd_accum accum, hd_tensor *y)
{
    for (int64_t i = r.begin; i < r.end; i++) {
        for (int64_t m = 0; m < w->n_out; m++) {
            double sum = 0.0;
            for (int64_t k = 0; k < w->n_in; k++) { sum += ref_get2(x, i, k) * ref_get(&w->t, entry(w, m, k)); }
            ref_into2(y, i, m, accum, sum);
        }
    }
}

static void product(const hd_tensor *x, const hd_weight *w, rows r, hd_accum accum, hd_tensor *y)
{
    if (w->scales.n_dim > 0) {
        product_stored(x, w, r, accum, y);
    } else {
        matrix m = matrix_of(&w->value, w->layout);
        product_plain(x, &m, r, accum, y);
    }
}

/* dx_ik (+)= sum_m dy_im W_mk */
static void input_gradient(const hd_tensor *dy, const matrix *w, rows r, hd_accum accum, hd_tensor *dx)
{
    for (int64_t i = r.begin; i < r.end; i++) {
        for (int64_t k = 0; k < w->n_in; k++) {
            double sum = 0.0;
            for (int64_t m = 0; m < w->n_out; m++) { sum += ref_get2(dy, i, m) * ref_get(&w->t, entry(w, m, k)); }
            ref_into2(dx, i, k, accum, sum);
        }
    }
}

/* dW_mk (+)= sum_i dy_im x_ik */
static void weight_gradient(const hd_tensor *dy, const hd_tensor *x, rows r, hd_accum accum, matrix *dw)
{
    for (int64_t m = 0; m < dw->n_out; m++) {
        for (int64_t k = 0; k < dw->n_in; k++) {
            double sum = 0.0;
            for (int64_t i = r.begin; i < r.end; i++) { sum += ref_get2(dy, i, m) * ref_get2(x, i, k); }
            ref_into(&dw->t, entry(dw, m, k), accum, sum);
        }
    }
}

/* ---- linear ----------------------------------------------------------------------------------------------------------- */

hd_status hd_ref_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    product(x, w, (rows){0, x->shape[0]}, y_accum, y);
    return HD_OK;
}

hd_status hd_ref_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_weight *w, hd_accum dx_accum, hd_tensor *dx,
                                  hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    matrix m = matrix_of(&w->value, w->layout);
    input_gradient(dy, &m, (rows){0, dy->shape[0]}, dx_accum, dx);
    return HD_OK;
}

hd_status hd_ref_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    matrix m = matrix_of(&w->grad, w->layout);
    weight_gradient(dy, x, (rows){0, dy->shape[0]}, w->grad_accum, &m);
    return HD_OK;
}

/* ---- grouped: one matrix per expert ------------------------------------------------------------------------------------- */

static rows rows_of(const hd_tensor *offsets, int64_t e)
{
    return (rows){ref_int1(offsets, e), ref_int1(offsets, e + 1)};
}

static matrix expert_of(const hd_tensor *stack, int64_t e)
{
    hd_tensor t = hd_tensor_index(stack, e);
    return matrix_of(&t, HD_LAYOUT_OUT_IN);
}

hd_status hd_ref_grouped_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                    hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < w->value.shape[0]; e++) {
        hd_weight expert = hd_weight_expert(w, e);
        product(x, &expert, rows_of(offsets, e), y_accum, y);
    }
    return HD_OK;
}

hd_status hd_ref_grouped_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                          hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < w->value.shape[0]; e++) {
        matrix m = expert_of(&w->value, e);
        input_gradient(dy, &m, rows_of(offsets, e), dx_accum, dx);
    }
    return HD_OK;
}

hd_status hd_ref_grouped_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                           hd_weight *w, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t e = 0; e < w->grad.shape[0]; e++) {
        matrix m = expert_of(&w->grad, e); /* an expert without rows gets a sum over nothing: 0 */
        weight_gradient(dy, x, rows_of(offsets, e), w->grad_accum, &m);
    }
    return HD_OK;
}

/* Ragged differs from grouped in how kernels are scheduled, not in mathematics. */
hd_status hd_ref_ragged_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                   hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    return hd_ref_grouped_linear_fwd(ex, x, offsets, w, y_accum, y, err);
}

hd_status hd_ref_ragged_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                         hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    return hd_ref_grouped_linear_bwd_input(ex, dy, offsets, w, dx_accum, dx, err);
}

hd_status hd_ref_ragged_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                          hd_weight *w, hd_err *err)
{
    return hd_ref_grouped_linear_bwd_weight(ex, dy, x, offsets, w, err);
}

/* ---- lists ------------------------------------------------------------------------------------------------------------------ */

hd_status hd_ref_products_fwd(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    hd_status st = HD_OK;
    for (int i = 0; i < n && st == HD_OK; i++) {
        const hd_product *p = &list[i];
        st = p->offsets != NULL ? hd_ref_grouped_linear_fwd(ex, p->x, p->offsets, p->w, p->y_accum, p->y, err)
                                : hd_ref_linear_fwd(ex, p->x, p->w, p->y_accum, p->y, err);
    }
    return st;
}
