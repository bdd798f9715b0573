/* RMSNorm and RoPE: ops bound by memory. */
#include "base/parallel_for.h"
#include "ops/cpu/math.h"

/* ---- RMSNorm ---- */

typedef struct norm_job {
    const hd_tensor *x, *dy;
    const hd_weight *w;
    hd_tensor *y, *rstd, *dx;
    double eps;
    hd_accum dx_accum;
    int64_t item_rows, n_chunks;
    float *dw_partial; /* (n_chunks, D) */
} norm_job;

/* Four chains, so that the additions' latency hides; the order depends on n alone. */
HD_INLINE float sum_squares(const void *x, hd_dtype dtype, int64_t n)
{
    hd_vf s[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * HD_LANES <= n; i += 4 * HD_LANES) {
        for (int c = 0; c < 4; c++) {
            hd_vf v = hd_load(x, dtype, i + c * HD_LANES, n);
            s[c] += v * v;
        }
    }
    for (; i < n; i += HD_LANES) {
        hd_vf v = hd_load(x, dtype, i, n);
        s[0] += v * v;
    }
    return hd_sum_lanes((s[0] + s[1]) + (s[2] + s[3]));
}

HD_INLINE void norm_row(const void *x, hd_dtype dx, const void *w, hd_dtype dw, float rstd, void *y, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_vf normed = hd_round_to(hd_load(x, dx, i, n) * rstd, dx);
        hd_store(y, dx, i, n, normed * hd_load(w, dw, i, n));
    });
}

HD_INLINE void norm_rows_as(const norm_job *job, int64_t begin, int64_t end, hd_dtype dtype, hd_dtype w_dtype)
{
    int64_t n = job->x->shape[1];
    const void *w = job->w->value.data;
    for (int64_t r = begin; r < end; r++) {
        const void *x = hd_row(job->x, r);
        float rstd = (float)(1.0 / sqrt((double)sum_squares(x, dtype, n) / (double)n + job->eps));
        if (job->rstd != NULL) { *(float *)hd_row(job->rstd, r) = rstd; }
        norm_row(x, dtype, w, w_dtype, rstd, hd_row(job->y, r), n);
    }
}

static void norm_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const norm_job *job = arg;
    int64_t begin = item * job->item_rows, end = hd_min_i64(job->x->shape[0], begin + job->item_rows);
    HD_WITH_DTYPES_2(job->x->dtype, X, job->w->value.dtype, W, norm_rows_as(job, begin, end, X, W););
}

/* Reads x, writes y: 8 bytes (f32) or 4 (bf16) an element; the second look at a row comes from L1 or L2. */
static hd_status rmsnorm_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, double eps, hd_tensor *y,
                             hd_tensor *rstd, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    norm_job job = {.x = x, .w = w, .y = y, .rstd = rstd, .eps = eps, .item_rows = hd_rows_per_item(x->shape[1] * 8)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(x->shape[0], job.item_rows), norm_item, &job);
    return HD_OK;
}

/* sum of dy w x, and dw_partial += dy x rstd on the way (dw may be NULL). */
HD_INLINE float norm_gradient_sums(const void *dy, const void *x, hd_dtype dtype, const void *w, hd_dtype w_dtype,
                                   float rstd, float *dw, int64_t n)
{
    hd_vf sum = {0};
    HD_MAP_LANES(i, 0, n, {
        hd_vf p = hd_load(dy, dtype, i, n) * hd_load(x, dtype, i, n);
        sum += p * hd_load(w, w_dtype, i, n);
        if (dw != NULL) { hd_store(dw, HD_DTYPE_F32, i, n, hd_load(dw, HD_DTYPE_F32, i, n) + p * rstd); }
    });
    return hd_sum_lanes(sum);
}

HD_INLINE void norm_gradient_row(const void *dy, const void *x, hd_dtype dtype, const void *w, hd_dtype w_dtype,
                                 float rstd, float x_factor, hd_accum accum, void *dx, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_vf g = hd_load(dy, dtype, i, n) * hd_load(w, w_dtype, i, n);
        hd_vf d = g * rstd - hd_load(x, dtype, i, n) * x_factor;
        if (accum == HD_ADD) { d += hd_load(dx, dtype, i, n); }
        hd_store(dx, dtype, i, n, d);
    });
}

HD_INLINE void norm_gradient_rows_as(const norm_job *job, int64_t begin, int64_t end, float *dw, hd_dtype dtype,
                                     hd_dtype w_dtype)
{
    int64_t n = job->x->shape[1];
    const void *w = job->w->value.data;
    for (int64_t r = begin; r < end; r++) {
        const void *dy = hd_row(job->dy, r), *x = hd_row(job->x, r);
        float rstd = *(const float *)hd_row(job->rstd, r);
        float sum = norm_gradient_sums(dy, x, dtype, w, w_dtype, rstd, dw, n);
        float x_factor = rstd * rstd * rstd * (sum / (float)n);
        norm_gradient_row(dy, x, dtype, w, w_dtype, rstd, x_factor, job->dx_accum, hd_row(job->dx, r), n);
    }
}

static void norm_gradient_chunk(void *arg, int64_t chunk, int thread)
{
    (void)thread;
    const norm_job *job = arg;
    int64_t n = job->x->shape[1], begin = chunk * job->item_rows;
    int64_t end = hd_min_i64(job->x->shape[0], begin + job->item_rows);
    float *dw = job->dw_partial == NULL ? NULL : job->dw_partial + chunk * n;
    if (dw != NULL) { memset(dw, 0, (size_t)n * sizeof *dw); }
    HD_WITH_DTYPES_2(job->x->dtype, X, job->w->value.dtype, W, norm_gradient_rows_as(job, begin, end, dw, X, W););
}

enum { DW_COLUMNS = 1024 };

/* Adds the chunks of a block of columns by a fixed tree: distances 1, 2, 4, ... */
static void norm_weight_columns(void *arg, int64_t item, int thread)
{
    (void)thread;
    const norm_job *job = arg;
    int64_t n = job->x->shape[1], begin = item * DW_COLUMNS, len = hd_min_i64(n - begin, DW_COLUMNS);
    for (int64_t distance = 1; distance < job->n_chunks; distance *= 2) {
        for (int64_t c = 0; c + distance < job->n_chunks; c += 2 * distance) {
            float *to = job->dw_partial + c * n + begin;
            const float *from = to + distance * n;
            for (int64_t i = 0; i < len; i++) { to[i] += from[i]; }
        }
    }
    float *dw = (float *)job->w->grad.data + begin;
    const float *sum = job->dw_partial + begin;
    for (int64_t i = 0; i < len; i++) { dw[i] = job->w->grad_accum == HD_ADD ? dw[i] + sum[i] : sum[i]; }
}

/* Rows of one partial sum of dw: at most 64 partial sums, whatever N is. */
static int64_t norm_chunk_rows(int64_t n_rows)
{
    return hd_max_i64(16, hd_ceil_div(n_rows, 64));
}

/* Reads dy and x, writes dx: 12 bytes (f32) or 6 (bf16) an element, 4 or 2 more to accumulate. */
static hd_status rmsnorm_bwd(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *rstd, hd_weight *w,
                             hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    hd_status st = HD_OK;
    norm_job job = {.dy = dy, .x = x, .rstd = (hd_tensor *)(uintptr_t)rstd, .w = w, .dx = dx, .dx_accum = dx_accum};
    int64_t n_rows = x->shape[0], n = x->shape[1];
    job.item_rows = norm_chunk_rows(n_rows);
    job.n_chunks = hd_ceil_div(n_rows, job.item_rows);
    if (w->grad.n_dim > 0) {
        size_t bytes = (size_t)hd_max_i64(1, job.n_chunks) * (size_t)n * sizeof *job.dw_partial;
        HD_TRY(hd_arena_alloc(ex->scratch, bytes, (void **)&job.dw_partial, err));
    }
    if (ex->dry) { goto out; }
    hd_parallel_for(ex->n_threads, job.n_chunks, norm_gradient_chunk, &job);
    if (job.dw_partial != NULL) {
        if (job.n_chunks == 0) { memset(job.dw_partial, 0, (size_t)n * sizeof *job.dw_partial); }
        hd_parallel_for(ex->n_threads, hd_ceil_div(n, DW_COLUMNS), norm_weight_columns, &job);
    }
out:
    return st;
}

/* ---- RoPE ---- */

typedef struct rope_job {
    const hd_tensor *positions, *table;
    hd_tensor *x;
    float sign; /* of the sine: +1 forward, -1 adjoint */
    int64_t item_rows;
} rope_job;

HD_INLINE hd_vi lane_pattern(int even, int odd)
{
    hd_vi p;
    for (int l = 0; l < HD_LANES; l++) { p[l] = (l & ~1) + ((l & 1) ? odd : even); }
    return p;
}

/* (x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos) for each pair; cs holds (cos, sin) per pair. */
HD_INLINE void rotate_row(void *x, hd_dtype dtype, const float *cs, float sign, int64_t n)
{
    const hd_vi swap = lane_pattern(1, 0), first = lane_pattern(0, 0), second = lane_pattern(1, 1);
    hd_vf signs;
    for (int l = 0; l < HD_LANES; l++) { signs[l] = (l & 1) ? sign : -sign; }
    HD_MAP_LANES(i, 0, n, {
        hd_vf v = hd_load(x, dtype, i, n), t = hd_load(cs, HD_DTYPE_F32, i, n);
        hd_vf cosine = hd_shuffle(t, first), sine = hd_shuffle(t, second) * signs;
        hd_store(x, dtype, i, n, v * cosine + hd_shuffle(v, swap) * sine);
    });
}

/* All heads of a token.  The rows lie a head apart, where the hardware does not look ahead. */
HD_INLINE void rotate_token(const rope_job *job, int64_t i, const float *cs, hd_dtype dtype)
{
    enum { AHEAD = 4 };
    const hd_tensor *x = job->x;
    int64_t n_heads = x->shape[1], n = x->shape[2];
    for (int64_t h = 0; h < n_heads; h++) {
        const char *later = hd_at(x, i * x->stride[0] + (h + AHEAD) * x->stride[1]);
        for (int64_t at = 0; at < n * (dtype == HD_DTYPE_F32 ? 4 : 2); at += 64) { __builtin_prefetch(later + at, 1); }
        rotate_row(hd_at(x, i * x->stride[0] + h * x->stride[1]), dtype, cs, job->sign, n);
    }
}

static void rope_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const rope_job *job = arg;
    const hd_tensor *x = job->x;
    int64_t begin = item * job->item_rows, end = hd_min_i64(x->shape[0], begin + job->item_rows);
    for (int64_t i = begin; i < end; i++) {
        int64_t position = *(const int32_t *)hd_row(job->positions, i);
        const float *cs = hd_row(job->table, position);
        HD_WITH_DTYPE(x->dtype, X, rotate_token(job, i, cs, X););
    }
}

/* Reads and writes x once; the table's row stays in L1 for all heads of a token. */
static hd_status rope(hd_exec *ex, const hd_tensor *positions, const hd_tensor *table, int direction, hd_tensor *x,
                      hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    rope_job job = {.positions = positions, .table = table, .x = x, .sign = direction >= 0 ? 1.0f : -1.0f};
    job.item_rows = hd_rows_per_item(x->shape[1] * x->shape[2] * 8);
    hd_parallel_for(ex->n_threads, hd_ceil_div(x->shape[0], job.item_rows), rope_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(norm)(hd_ops *ops)
{
    ops->rmsnorm_fwd = rmsnorm_fwd;
    ops->rmsnorm_bwd = rmsnorm_bwd;
    ops->rope = rope;
}
