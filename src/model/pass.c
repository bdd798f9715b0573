/* Helpers of one leaf's pass: tensors from the step arena, sums and metrics. */
#include "model/layer.h"

hd_status hd_pass_new(hd_pass *p, hd_dtype dtype, int64_t rows, int64_t columns, hd_tensor *t)
{
    return hd_tensor_new_2d(p->step, dtype, rows, columns, t, p->err);
}

hd_status hd_pass_rows(hd_pass *p, int64_t columns, hd_tensor *t)
{
    return hd_pass_new(p, p->options->dtype, p->n_row, columns, t);
}

hd_status hd_pass_vector(hd_pass *p, hd_dtype dtype, int64_t n, hd_tensor *t)
{
    return hd_tensor_new_1d(p->step, dtype, n, t, p->err);
}

hd_status hd_pass_take(hd_pass *p, const hd_layer_acts *acts, const hd_tensor *kept, hd_dtype dtype, int64_t rows,
                       int64_t columns, hd_tensor *t, bool *missing)
{
    bool is_kept = kept->n_dim > 0;
    *missing = !is_kept || !acts->filled;
    if (!is_kept) { return hd_pass_new(p, dtype, rows, columns, t); }
    *t = *kept;
    return HD_OK;
}

hd_tensor hd_pass_sum(const hd_pass *p, int sum)
{
    return hd_tensor_slice(&p->sums, 0, sum, 1);
}

hd_dtype hd_pass_up_dtype(const hd_pass *p)
{
    return p->options->activations_in_float32 ? HD_DTYPE_F32 : p->options->dtype;
}

hd_layer *hd_pass_globals(const hd_pass *p)
{
    return &p->model->layers[p->dims->n_layer + p->dims->n_mtp];
}

hd_status hd_pass_observe(hd_pass *p, const char *name, int64_t layer, const hd_tensor *t)
{
    const hd_model *model = p->model;
    if (model->observer == NULL) { return HD_OK; }
    return model->observer(model->observer_context, p->ex, p->step, name, layer, t, p->err);
}

hd_status hd_pass_norm(hd_pass *p, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y, hd_tensor *rstd)
{
    hd_status st;
    HD_TRY(hd_pass_rows(p, x->shape[1], y));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, p->n_row, rstd));
    HD_TRY(hd_rmsnorm_fwd(p->ex, x, w, eps, y, rstd, p->err));
out:
    return st;
}

/* The one computation on tensor memory that lives outside src/ops: a handful of additions per leaf. */
hd_status hd_metric_add(hd_exec *ex, double constant, double scale, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    size_t mark;
    if (x->n_dim != 1 || x->shape[0] != 1 || y->n_dim != 1 || y->shape[0] != 1 || y->dtype != HD_DTYPE_F64 ||
        (x->dtype != HD_DTYPE_F64 && x->dtype != HD_DTYPE_I32)) {
        return HD_FAIL(err, HD_E_INVALID, "metric_add: want x (1) f64 or i32 and y (1) f64");
    }
    hd_exec_enter(ex, &mark);
    if (!ex->dry) {
        double value = x->dtype == HD_DTYPE_F64 ? *(const double *)x->data : (double)*(const int32_t *)x->data;
        *(double *)y->data += constant + scale * value;
    }
    hd_exec_leave(ex, mark);
    return HD_OK;
}

/* ---- opening a pass --------------------------------------------------------------------------------------------------- */

static hd_status check_rows(const hd_pass *p, const char *name, const hd_tensor *t, hd_dtype dtype, int64_t n_mtp)
{
    char found[96];
    int axis = n_mtp > 0 ? 1 : 0;
    bool fits = t->dtype == dtype && t->n_dim == 1 + axis && t->shape[axis] == p->n_row && (axis == 0 || t->shape[0] == n_mtp);
    if (fits) { return HD_OK; }
    return HD_FAIL(p->err, HD_E_INVALID, "leaf: %s is %s, want %s (%s%lld)", name, hd_tensor_describe(t, found),
                   hd_dtype_name(dtype), axis > 0 ? "n_mtp, " : "", (long long)p->n_row);
}

static hd_status check_leaf(const hd_pass *p)
{
    hd_status st;
    const hd_leaf *leaf = p->leaf;
    HD_TRY(check_rows(p, "inputs", &leaf->inputs, HD_DTYPE_I32, 0));
    HD_TRY(check_rows(p, "targets", &leaf->targets, HD_DTYPE_I32, 0));
    HD_TRY(check_rows(p, "positions", &leaf->positions, HD_DTYPE_I32, 0));
    HD_TRY(check_rows(p, "segments", &leaf->segments, HD_DTYPE_I32, 0));
    HD_TRY(check_rows(p, "loss_weights", &leaf->loss_weights, HD_DTYPE_F32, 0));
out:
    return st;
}

static hd_status check_mtp(const hd_pass *p)
{
    hd_status st = HD_OK;
    int64_t n_mtp = p->dims->n_mtp;
    if (n_mtp == 0) { return HD_OK; }
    HD_TRY(check_rows(p, "mtp_inputs", &p->leaf->mtp_inputs, HD_DTYPE_I32, n_mtp));
    HD_TRY(check_rows(p, "mtp_targets", &p->leaf->mtp_targets, HD_DTYPE_I32, n_mtp));
    HD_TRY(check_rows(p, "mtp_weights", &p->leaf->mtp_weights, HD_DTYPE_F32, n_mtp));
out:
    return st;
}

hd_status hd_pass_open(hd_model *model, hd_exec *ex, hd_arena *step, const hd_leaf *leaf, hd_tensor *metrics, hd_pass *p,
                       hd_err *err)
{
    hd_status st;
    *p = (hd_pass){.model = model, .dims = &model->dims, .options = &model->options, .ex = ex, .step = step, .leaf = leaf,
                   .n_row = leaf->n_seq * leaf->seq_len, .metrics = metrics, .err = err};
    HD_TRY(check_leaf(p));
    HD_TRY(check_mtp(p));
    if (metrics != NULL && (metrics->n_dim != 1 || metrics->dtype != HD_DTYPE_F64 ||
                            metrics->shape[0] != hd_model_n_metric(model))) {
        return HD_FAIL(err, HD_E_INVALID, "metrics: want F64 (%lld)", (long long)hd_model_n_metric(model));
    }
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F64, HD_SUM_COUNT, &p->sums));
    HD_TRY(hd_fill(ex, 0.0, &p->sums, err));
out:
    return st;
}
