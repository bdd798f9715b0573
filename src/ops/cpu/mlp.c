/* SwiGLU and its adjoints: ops bound by memory when bf16 or on several threads, near the cost of exp otherwise. */
#include "base/parallel_for.h"
#include "ops/cpu/math.h"

typedef struct swiglu_job {
    const hd_tensor *g, *u, *dh, *q, *w, *n_rows;
    hd_tensor *h, *dg, *du, *hw, *dw;
    int64_t item_rows;
} swiglu_job;

/* Rows [*begin, *end) of an item; those at or beyond n_rows[0] are left out. */
static void job_rows(const swiglu_job *job, int64_t item, int64_t *begin, int64_t *end)
{
    int64_t n = job->g->shape[0];
    if (job->n_rows != NULL) { n = hd_min_i64(n, *(const int32_t *)job->n_rows->data); }
    *begin = item * job->item_rows;
    *end = hd_min_i64(n, *begin + job->item_rows);
}

HD_INLINE void swiglu_row(const void *g, const void *u, hd_dtype dg, void *h, hd_dtype dh, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_vf x = hd_load(g, dg, i, n);
        hd_store(h, dh, i, n, x * hd_sigmoid(x) * hd_load(u, dg, i, n));
    });
}

static void swiglu_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const swiglu_job *job = arg;
    int64_t n = job->g->shape[1], begin, end;
    job_rows(job, item, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const void *g = hd_row(job->g, r), *u = hd_row(job->u, r);
        void *h = hd_row(job->h, r);
        HD_WITH_DTYPES_2(job->g->dtype, G, job->h->dtype, H, swiglu_row(g, u, G, h, H, n););
    }
}

/* Reads g and u, writes h: 12 bytes (f32) or 6 (bf16) an element, 22 vector operations and a division per HD_LANES. */
static hd_status swiglu_fwd(hd_exec *ex, const hd_tensor *g, const hd_tensor *u, const hd_tensor *n_rows, hd_tensor *h,
                            hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    swiglu_job job = {.g = g, .u = u, .n_rows = n_rows, .h = h, .item_rows = hd_rows_per_item(g->shape[1] * 12)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(g->shape[0], job.item_rows), swiglu_item, &job);
    return HD_OK;
}

/* du = dh silu(g);  dg = dh u s (1 + g (1 - s)),  s = sigmoid(g). */
HD_INLINE void swiglu_gradient(hd_vf dh, hd_vf g, hd_vf u, hd_vf *dg, hd_vf *du, hd_vf *h)
{
    hd_vf s = hd_sigmoid(g), silu = g * s;
    *du = dh * silu;
    *dg = dh * u * (s + silu * (1.0f - s));
    *h = silu * u;
}

HD_INLINE void swiglu_gradient_row(const void *dh, hd_dtype dh_type, const void *g, const void *u, hd_dtype dtype,
                                   void *dg, void *du, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_vf a, b, h;
        swiglu_gradient(hd_load(dh, dh_type, i, n), hd_load(g, dtype, i, n), hd_load(u, dtype, i, n), &a, &b, &h);
        hd_store(dg, dtype, i, n, a);
        hd_store(du, dtype, i, n, b);
    });
}

static void swiglu_gradient_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const swiglu_job *job = arg;
    int64_t n = job->g->shape[1], begin, end;
    job_rows(job, item, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const void *dh = hd_row(job->dh, r), *g = hd_row(job->g, r), *u = hd_row(job->u, r);
        void *dg = hd_row(job->dg, r), *du = hd_row(job->du, r);
        HD_WITH_DTYPES_2(job->dh->dtype, H, job->g->dtype, G, swiglu_gradient_row(dh, H, g, u, G, dg, du, n););
    }
}

/* Reads dh, g, u, writes dg, du: 20 bytes (f32) or 10 (bf16) an element. */
static hd_status swiglu_bwd(hd_exec *ex, const hd_tensor *dh, const hd_tensor *g, const hd_tensor *u, hd_tensor *dg,
                            hd_tensor *du, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    swiglu_job job = {.dh = dh, .g = g, .u = u, .dg = dg, .du = du, .item_rows = hd_rows_per_item(g->shape[1] * 20)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(g->shape[0], job.item_rows), swiglu_gradient_item, &job);
    return HD_OK;
}

/* Returns q . h. */
HD_INLINE float moe_gradient_row(const void *q, hd_dtype q_type, const void *g, const void *u, hd_dtype dtype, float w,
                                 void *dg, void *du, void *hw, hd_dtype hw_type, int64_t n)
{
    hd_vf dot = {0};
    HD_MAP_LANES(i, 0, n, {
        hd_vf a, b, h, grad = hd_load(q, q_type, i, n);
        swiglu_gradient(grad * w, hd_load(g, dtype, i, n), hd_load(u, dtype, i, n), &a, &b, &h);
        dot += grad * h;
        hd_store(dg, dtype, i, n, a);
        hd_store(du, dtype, i, n, b);
        hd_store(hw, hw_type, i, n, h * w);
    });
    return hd_sum_lanes(dot);
}

static void moe_gradient_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const swiglu_job *job = arg;
    int64_t n = job->g->shape[1], begin, end;
    job_rows(job, item, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        const void *q = hd_row(job->q, r), *g = hd_row(job->g, r), *u = hd_row(job->u, r);
        void *dg = hd_row(job->dg, r), *du = hd_row(job->du, r), *hw = hd_row(job->hw, r);
        float w = *(const float *)hd_row(job->w, r), *dot = hd_row(job->dw, r);
        HD_WITH_DTYPES_3(job->g->dtype, G, job->q->dtype, Q, job->hw->dtype, H,
                         *dot = moe_gradient_row(q, Q, g, u, G, w, dg, du, hw, H, n););
    }
}

/* Reads q, g, u, writes dg, du, hw: 24 bytes (f32) or 12 (bf16) an element. */
static hd_status moe_swiglu_bwd(hd_exec *ex, const hd_tensor *q, const hd_tensor *g, const hd_tensor *u,
                                const hd_tensor *w, const hd_tensor *n_rows, hd_tensor *dg, hd_tensor *du,
                                hd_tensor *hw, hd_tensor *dw, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    swiglu_job job = {.q = q, .g = g, .u = u, .w = w, .n_rows = n_rows, .dg = dg, .du = du, .hw = hw, .dw = dw};
    job.item_rows = hd_rows_per_item(g->shape[1] * 24);
    hd_parallel_for(ex->n_threads, hd_ceil_div(g->shape[0], job.item_rows), moe_gradient_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(mlp)(hd_ops *ops)
{
    ops->swiglu_fwd = swiglu_fwd;
    ops->swiglu_bwd = swiglu_bwd;
    ops->moe_swiglu_bwd = moe_swiglu_bwd;
}
