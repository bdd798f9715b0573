/* A leaf's tensors from rows on the host, with the shifted rows of multi-token prediction. */
#include <string.h>

#include "base/alloc.h"
#include "model/model.h"

/* Whether position t + shift lies in the same segment of the same sequence and is no padding. */
static bool has_neighbour(const hd_leaf_rows *rows, int64_t b, int64_t t, int64_t shift)
{
    const int32_t *segments = rows->segments + b * rows->seq_len;
    if (t + shift >= rows->seq_len || segments[t] == 0) { return false; }
    for (int64_t i = t; i < t + shift; i++) {
        if (segments[i + 1] != segments[i]) { return false; }
    }
    return true;
}

double hd_leaf_mtp_weight_sum(const hd_leaf_rows *rows, int64_t n_mtp)
{
    double sum = 0.0;
    for (int64_t m = 0; m < n_mtp; m++) {
        for (int64_t b = 0; b < rows->n_seq; b++) {
            for (int64_t t = 0; t < rows->seq_len; t++) {
                if (has_neighbour(rows, b, t, m + 1)) { sum += (double)rows->loss_weights[b * rows->seq_len + t + m + 1]; }
            }
        }
    }
    return sum;
}

static hd_status check_range(const char *name, const int32_t *values, int64_t n, int64_t end, hd_err *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (values[i] < 0 || values[i] >= end) {
            return HD_FAIL(err, HD_E_INVALID, "leaf: %s %d in row %lld, want 0 to %lld", name, (int)values[i], (long long)i,
                           (long long)end - 1);
        }
    }
    return HD_OK;
}

static hd_status check_values(const hd_model *model, const hd_leaf_rows *rows, hd_err *err)
{
    hd_status st;
    int64_t n = rows->n_seq * rows->seq_len;
    HD_TRY(check_range("input id", rows->inputs, n, model->dims.vocab_size, err));
    HD_TRY(check_range("target id", rows->targets, n, model->dims.vocab_size, err));
    HD_TRY(check_range("position", rows->positions, n, model->options.max_positions, err));
out:
    return st;
}

/* Row m of a shifted tensor; 4-byte values whose zero is all bits zero, i32 and f32 alike. */
static hd_status upload_shifted(hd_exec *ex, const hd_leaf_rows *rows, const void *values, int64_t n_mtp, int32_t *host,
                                hd_tensor *t, hd_err *err)
{
    int64_t n = rows->n_seq * rows->seq_len;
    for (int64_t m = 0; m < n_mtp && !ex->dry; m++) {
        for (int64_t i = 0; i < n; i++) {
            bool inside = has_neighbour(rows, i / rows->seq_len, i % rows->seq_len, m + 1);
            host[m * n + i] = 0;
            if (inside) { memcpy(&host[m * n + i], (const int32_t *)values + i + m + 1, sizeof *host); }
        }
    }
    return hd_exec_upload(ex, host, t, err);
}

static hd_status upload_mtp(const hd_model *model, hd_exec *ex, hd_arena *arena, const hd_leaf_rows *rows, hd_leaf *leaf,
                            hd_err *err)
{
    hd_status st;
    void *host = NULL;
    int64_t n_mtp = model->dims.n_mtp, n = rows->n_seq * rows->seq_len;
    HD_TRY(hd_tensor_new_2d(arena, HD_DTYPE_I32, n_mtp, n, &leaf->mtp_inputs, err));
    HD_TRY(hd_tensor_new_2d(arena, HD_DTYPE_I32, n_mtp, n, &leaf->mtp_targets, err));
    HD_TRY(hd_tensor_new_2d(arena, HD_DTYPE_F32, n_mtp, n, &leaf->mtp_weights, err));
    HD_TRY(hd_alloc((size_t)(n_mtp * n), sizeof(int32_t), "shifted rows", &host, err));
    HD_TRY(upload_shifted(ex, rows, rows->inputs, n_mtp, host, &leaf->mtp_inputs, err));
    HD_TRY(upload_shifted(ex, rows, rows->targets, n_mtp, host, &leaf->mtp_targets, err));
    HD_TRY(upload_shifted(ex, rows, rows->loss_weights, n_mtp, host, &leaf->mtp_weights, err));
out:
    hd_free(host);
    return st;
}

static hd_status upload_rows(hd_exec *ex, hd_arena *arena, hd_dtype dtype, int64_t n, const void *host, hd_tensor *t, hd_err *err)
{
    hd_status st = hd_tensor_new_1d(arena, dtype, n, t, err);
    return st == HD_OK ? hd_exec_upload(ex, host, t, err) : st;
}

hd_status hd_leaf_upload(const hd_model *model, hd_exec *ex, hd_arena *arena, const hd_leaf_rows *rows, hd_leaf *leaf,
                         hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n = rows->n_seq * rows->seq_len;
    if (!ex->dry) { HD_TRY(check_values(model, rows, err)); }
    leaf->n_seq = rows->n_seq;
    leaf->seq_len = rows->seq_len;
    HD_TRY(upload_rows(ex, arena, HD_DTYPE_I32, n, rows->inputs, &leaf->inputs, err));
    HD_TRY(upload_rows(ex, arena, HD_DTYPE_I32, n, rows->targets, &leaf->targets, err));
    HD_TRY(upload_rows(ex, arena, HD_DTYPE_I32, n, rows->positions, &leaf->positions, err));
    HD_TRY(upload_rows(ex, arena, HD_DTYPE_I32, n, rows->segments, &leaf->segments, err));
    HD_TRY(upload_rows(ex, arena, HD_DTYPE_F32, n, rows->loss_weights, &leaf->loss_weights, err));
    leaf->mtp_inputs = leaf->mtp_targets = leaf->mtp_weights = (hd_tensor){0};
    if (model->dims.n_mtp > 0) { HD_TRY(upload_mtp(model, ex, arena, rows, leaf, err)); }
out:
    return st;
}
