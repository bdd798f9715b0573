/* Cross-entropy over vocabulary chunks.  partial reads the logits once (4 bytes an element), bwd reads and writes them
 * once (8 bytes), each with one exp an element. */
#include "base/parallel_for.h"
#include "ops/cpu/math.h"

typedef struct xent_job {
    const hd_tensor *logits, *targets, *lse, *weights;
    hd_tensor *max, *sum, *target_logit, *dlogits;
    int64_t v_begin, item_rows;
    double z_loss, scale;
} xent_job;

enum { XENT_BLOCK = 2048 }; /* columns: 8 KiB, so that the second look at a block comes from L1 */

static float block_max(const float *z, int64_t n)
{
    hd_vf m[2] = {hd_splat(-INFINITY), hd_splat(-INFINITY)};
    int64_t i = 0;
    for (; i + 2 * HD_LANES <= n; i += 2 * HD_LANES) {
        for (int c = 0; c < 2; c++) { m[c] = hd_vmax(*(const hd_vf_u *)(z + i + c * HD_LANES), m[c]); }
    }
    float best = hd_max_lanes(hd_vmax(m[0], m[1]));
    for (; i < n; i++) { best = z[i] > best ? z[i] : best; }
    return best;
}

static float block_sum_exp(const float *z, float max, int64_t n)
{
    hd_vf s[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + 2 * HD_LANES <= n; i += 2 * HD_LANES) {
        for (int c = 0; c < 2; c++) { s[c] += hd_exp_nonpositive(*(const hd_vf_u *)(z + i + c * HD_LANES) - max); }
    }
    for (; i < n; i += HD_LANES) {
        s[0] += hd_clear_tail(hd_exp_nonpositive(hd_load(z, HD_DTYPE_F32, i, n) - max), i, n);
    }
    return hd_sum_lanes(s[0] + s[1]);
}

/* exp(from - to) as a factor of a sum taken relative to `from`; an empty sum (from = -inf) stays 0. */
static double rescale(float from, float to)
{
    return from == -INFINITY ? 0.0 : exp((double)from - (double)to);
}

static void row_max_sum(const float *z, int64_t n, float *max_out, float *sum_out)
{
    float max = -INFINITY;
    double sum = 0.0;
    for (int64_t begin = 0; begin < n; begin += XENT_BLOCK) {
        int64_t len = hd_min_i64(XENT_BLOCK, n - begin);
        float block = block_max(z + begin, len), larger = block > max ? block : max;
        float reference = larger == -INFINITY ? 0.0f : larger; /* all -inf so far: sums of exp(-inf) = 0, or NaN */
        sum = sum * rescale(max, reference) + (double)block_sum_exp(z + begin, reference, len);
        max = larger;
    }
    *max_out = max;
    *sum_out = (float)sum;
}

static void xent_partial_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const xent_job *job = arg;
    int64_t begin = item * job->item_rows, end = hd_min_i64(job->logits->shape[0], begin + job->item_rows);
    int64_t n = job->logits->shape[1];
    for (int64_t r = begin; r < end; r++) {
        const float *z = hd_row(job->logits, r);
        int64_t target = *(const int32_t *)hd_row(job->targets, r) - job->v_begin;
        row_max_sum(z, n, hd_row(job->max, r), hd_row(job->sum, r));
        *(float *)hd_row(job->target_logit, r) = target >= 0 && target < n ? z[target] : -INFINITY;
    }
}

static hd_status xent_partial(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                              hd_tensor *max, hd_tensor *sum, hd_tensor *target_logit, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    xent_job job = {.logits = logits,
                    .targets = targets,
                    .v_begin = v_begin,
                    .max = max,
                    .sum = sum,
                    .target_logit = target_logit,
                    .item_rows = hd_rows_per_item(logits->shape[1] * 4)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(logits->shape[0], job.item_rows), xent_partial_item, &job);
    return HD_OK;
}

/* A few bytes a row. */
static hd_status xent_merge(hd_exec *ex, const hd_tensor *max, const hd_tensor *sum, const hd_tensor *target_logit,
                            hd_tensor *run_max, hd_tensor *run_sum, hd_tensor *run_target_logit, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t r = 0; r < max->shape[0]; r++) {
        float m = *(const float *)hd_row(max, r), *rm = hd_row(run_max, r), *rs = hd_row(run_sum, r);
        float target = *(const float *)hd_row(target_logit, r);
        float larger = m > *rm ? m : *rm, reference = larger == -INFINITY ? 0.0f : larger;
        double folded = (double)*rs * rescale(*rm, reference);
        folded += (double)*(const float *)hd_row(sum, r) * rescale(m, reference);
        *rs = (float)folded;
        *rm = larger;
        if (target != -INFINITY) { *(float *)hd_row(run_target_logit, r) = target; }
    }
    return HD_OK;
}

/* One logarithm a row. */
static hd_status xent_finish(hd_exec *ex, const hd_tensor *run_max, const hd_tensor *run_sum,
                             const hd_tensor *run_target_logit, const hd_tensor *weights, double z_loss, hd_tensor *lse,
                             hd_tensor *xent, hd_tensor *z, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double xent_sum = 0.0, z_sum = 0.0;
    for (int64_t r = 0; r < run_max->shape[0]; r++) {
        double l = (double)*(const float *)hd_row(run_max, r) + log((double)*(const float *)hd_row(run_sum, r));
        double w = (double)*(const float *)hd_row(weights, r);
        *(float *)hd_row(lse, r) = (float)l;
        if (w == 0.0) { continue; }
        xent_sum += w * (l - (double)*(const float *)hd_row(run_target_logit, r));
        z_sum += w * z_loss * l * l;
    }
    *(double *)xent->data += xent_sum;
    *(double *)z->data += z_sum;
    return HD_OK;
}

static void xent_gradient_row(const float *z, float lse, float factor, float *dz, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_store(dz, HD_DTYPE_F32, i, n, hd_exp_nonpositive(hd_load(z, HD_DTYPE_F32, i, n) - lse) * factor);
    });
}

static void xent_gradient_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const xent_job *job = arg;
    int64_t begin = item * job->item_rows, end = hd_min_i64(job->logits->shape[0], begin + job->item_rows);
    int64_t n = job->logits->shape[1];
    for (int64_t r = begin; r < end; r++) {
        float *dz = hd_row(job->dlogits, r);
        float w = *(const float *)hd_row(job->weights, r), lse = *(const float *)hd_row(job->lse, r);
        double scaled = (double)w * job->scale;
        if (w == 0.0f) {
            memset(dz, 0, (size_t)n * sizeof *dz);
            continue;
        }
        int64_t target = *(const int32_t *)hd_row(job->targets, r) - job->v_begin;
        float factor = (float)(scaled * (1.0 + 2.0 * job->z_loss * (double)lse));
        xent_gradient_row(hd_row(job->logits, r), lse, factor, dz, n);
        if (target >= 0 && target < n) { dz[target] -= (float)scaled; }
    }
}

static hd_status xent_bwd(hd_exec *ex, const hd_tensor *logits, const hd_tensor *targets, int64_t v_begin,
                          const hd_tensor *lse, const hd_tensor *weights, double z_loss, double scale,
                          hd_tensor *dlogits, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    xent_job job = {.logits = logits,
                    .targets = targets,
                    .v_begin = v_begin,
                    .lse = lse,
                    .weights = weights,
                    .z_loss = z_loss,
                    .scale = scale,
                    .dlogits = dlogits,
                    .item_rows = hd_rows_per_item(logits->shape[1] * 8)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(logits->shape[0], job.item_rows), xent_gradient_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(loss)(hd_ops *ops)
{
    ops->xent_partial = xent_partial;
    ops->xent_merge = xent_merge;
    ops->xent_finish = xent_finish;
    ops->xent_bwd = xent_bwd;
}
