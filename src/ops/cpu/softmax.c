/* Softmax of row prefixes: bound by memory for long rows, by exp for rows in the cache. */
#include "base/parallel_for.h"
#include "ops/cpu/math.h"

typedef struct softmax_job {
    const hd_tensor *x, *counts;
    int64_t group, item_rows;
    float scale;
    hd_tensor *y;
} softmax_job;

static float row_max(const float *x, int64_t n)
{
    hd_vf max = hd_splat(-INFINITY);
    int64_t i = 0;
    for (; i + HD_LANES <= n; i += HD_LANES) { max = hd_vmax(hd_load(x, HD_DTYPE_F32, i, n), max); } /* NaN: max stays */
    float largest = hd_max_lanes(max);
    for (; i < n; i++) { largest = x[i] > largest ? x[i] : largest; }
    return largest;
}

/* y = exp(scale (x - max)) over n entries; returns their sum, lane by lane and the lanes at the end. */
static float row_exp(const float *x, int64_t n, float max, float scale, float *y)
{
    hd_vf sum = {0};
    HD_FOR_LANES(i, n)
    {
        hd_vf e = hd_exp_nonpositive((hd_load(x, HD_DTYPE_F32, i, n) - max) * scale);
        hd_store(y, HD_DTYPE_F32, i, n, e);
        sum += hd_clear_tail(e, i, n);
    }
    return hd_sum_lanes(sum);
}

static void softmax_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const softmax_job *job = arg;
    int64_t width = job->x->shape[1], begin = item * job->item_rows, end = hd_min_i64(job->x->shape[0], begin + job->item_rows);
    for (int64_t r = begin; r < end; r++) {
        int64_t n = *(const int32_t *)hd_row(job->counts, r / job->group);
        const float *x = hd_row(job->x, r);
        float *y = hd_row(job->y, r), sum = n > 0 ? row_exp(x, n, row_max(x, n), job->scale, y) : 1.0f;
        HD_FOR_LANES(i, n) { hd_store(y, HD_DTYPE_F32, i, n, hd_load(y, HD_DTYPE_F32, i, n) / sum); }
        memset(y + n, 0, (size_t)(width - n) * sizeof *y);
    }
}

static hd_status softmax_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *counts, int64_t group, double scale, hd_tensor *y,
                             hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    softmax_job job = {.x = x, .counts = counts, .group = group, .scale = (float)scale, .y = y};
    job.item_rows = hd_rows_per_item(x->shape[1] * 12);
    hd_parallel_for(ex->n_threads, hd_ceil_div(x->shape[0], job.item_rows), softmax_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(softmax)(hd_ops *ops) { ops->softmax_fwd = softmax_fwd; }
