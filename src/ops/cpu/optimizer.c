/* The optimiser: sum of squares, the step's gate, AdamW, and sums of gradients.  All but the gate are bound by memory. */
#include "base/parallel_for.h"
#include "ops/cpu/split.h"

typedef struct step_job {
    hd_split split;
    const hd_tensor *x, *grad;
    hd_tensor *y, *master, *mu, *nu, *value;
    double *partial;
    float clip, lr, beta1, beta2, one_minus_beta1, one_minus_beta2, inverse_bias1, inverse_bias2, eps, eps_root, decay;
} step_job;

/* ---- sum of squares ---- */

/* Squares in f64, four chains. */
HD_INLINE void add_squares(hd_vf v, hd_vd sum[2])
{
    hd_vd low = hd_half_f64(v, 0), high = hd_half_f64(v, 1);
    sum[0] += low * low;
    sum[1] += high * high;
}

HD_INLINE double span_sum_squares(const void *x, hd_dtype dtype, int64_t begin, int64_t end)
{
    hd_vd a[2] = {{0}, {0}}, b[2] = {{0}, {0}};
    int64_t i = begin;
    for (; i + 2 * HD_LANES <= end; i += 2 * HD_LANES) {
        add_squares(hd_load(x, dtype, i, end), a);
        add_squares(hd_load(x, dtype, i + HD_LANES, end), b);
    }
    for (; i < end; i += HD_LANES) { add_squares(hd_load(x, dtype, i, end), a); }
    return hd_sum_lanes_f64((a[0] + b[0]) + (a[1] + b[1]));
}

static void sumsq_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const step_job *job = arg;
    hd_piece p = hd_split_item(&job->split, item);
    double sum = 0.0;
    for (int64_t r = p.row_begin; r < p.row_end; r++) {
        const void *x = hd_split_row(&job->split, job->x, r);
        sum += job->x->dtype == HD_DTYPE_F32 ? span_sum_squares(x, HD_DTYPE_F32, p.column_begin, p.column_end)
                                             : span_sum_squares(x, HD_DTYPE_BF16, p.column_begin, p.column_end);
    }
    job->partial[item] = sum;
}

/* Reads x: 4 or 2 bytes an element.  One partial sum per 32 Ki elements, added in order. */
static hd_status sumsq(hd_exec *ex, const hd_tensor *x, hd_tensor *total, hd_err *err)
{
    hd_status st = HD_OK;
    step_job job = {.split = hd_split_elements(x, hd_tensor_is_contiguous(x)), .x = x};
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)job.split.n_items * sizeof *job.partial, (void **)&job.partial, err));
    if (ex->dry) { goto out; }
    hd_parallel_for(ex->n_threads, job.split.n_items, sumsq_item, &job);
    double sum = 0.0;
    for (int64_t i = 0; i < job.split.n_items; i++) { sum += job.partial[i]; }
    *(double *)total->data += sum;
out:
    return st;
}

/* ---- the gate ---- */

/* value - mean > factor * unbiased standard deviation of the n past values. */
static bool is_spike(const double *past, int64_t n, double value, double factor)
{
    double mean = 0.0, squares = 0.0;
    for (int64_t i = 0; i < n; i++) { mean += past[i]; }
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) { squares += (past[i] - mean) * (past[i] - mean); }
    return value - mean > factor * sqrt(squares / (double)(n - 1));
}

static bool window_sees_spike(const hd_gate_spec *spec, hd_tensor *window, double *control, double loss, double norm)
{
    double *losses = hd_row(window, 0), *norms = hd_row(window, 1);
    int64_t interval = spec->spike_interval, seen = (int64_t)control[HD_CONTROL_WINDOW_N];
    int64_t n = hd_min_i64(seen, interval);
    bool spike = seen >= hd_max_i64(2, interval / 2) && n >= 2 &&
                 (is_spike(losses, n, loss, spec->spike_factor) || is_spike(norms, n, norm, spec->spike_factor));
    if (isfinite(loss) && isfinite(norm)) {
        losses[seen % interval] = loss;
        norms[seen % interval] = norm;
        control[HD_CONTROL_WINDOW_N] = (double)(seen + 1);
    }
    return spike;
}

/* A handful of scalars. */
static hd_status step_gate(hd_exec *ex, const hd_gate_spec *spec, const hd_tensor *sum, const hd_tensor *loss,
                           hd_tensor *window, hd_tensor *control, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double *c = control->data, l = *(const double *)loss->data, norm = sqrt(*(const double *)sum->data);
    bool spike = spec->spike_factor > 0.0 && window_sees_spike(spec, window, c, l, norm);
    bool clip = spec->clip_threshold > 0.0 && !(norm < spec->clip_threshold);
    bool apply = isfinite(l) && isfinite(norm) && !spike;
    c[HD_CONTROL_NORM] = norm;
    c[HD_CONTROL_CLIP] = clip ? spec->clip_threshold / norm : 1.0;
    c[HD_CONTROL_APPLY] = apply ? 1.0 : 0.0;
    c[HD_CONTROL_COUNT_APPLIED] += apply ? 1.0 : 0.0;
    c[HD_CONTROL_BIAS1] = 1.0 - pow(spec->beta1, c[HD_CONTROL_COUNT_APPLIED]);
    c[HD_CONTROL_BIAS2] = 1.0 - pow(spec->beta2, c[HD_CONTROL_COUNT_APPLIED]);
    return HD_OK;
}

/* ---- AdamW ---- */

/* Four streams that cross their pages at the same moment: too many for the hardware to look ahead alone. */
HD_INLINE void adamw_prefetch(const float *grad, const float *master, const void *mu, hd_dtype mu_dtype,
                              const float *nu, int64_t i)
{
    enum { AHEAD = 256 };
    __builtin_prefetch(grad + i + AHEAD);
    __builtin_prefetch(master + i + AHEAD, 1);
    __builtin_prefetch((const char *)mu + (i + AHEAD) * (mu_dtype == HD_DTYPE_F32 ? 4 : 2), 1);
    __builtin_prefetch(nu + i + AHEAD, 1);
}

HD_INLINE void adamw_span(const step_job *job, const float *grad, float *master, void *mu, hd_dtype mu_dtype, float *nu,
                          void *value, hd_dtype value_dtype, int64_t begin, int64_t end)
{
    HD_MAP_LANES(i, begin, end, {
        if (i % 16 == 0) { adamw_prefetch(grad, master, mu, mu_dtype, nu, i); }
        hd_vf g = hd_load(grad, HD_DTYPE_F32, i, end) * job->clip, p = hd_load(master, HD_DTYPE_F32, i, end);
        hd_vf m = hd_load(mu, mu_dtype, i, end) * job->beta1 + g * job->one_minus_beta1;
        hd_vf v = hd_load(nu, HD_DTYPE_F32, i, end) * job->beta2 + g * g * job->one_minus_beta2;
        hd_vf denominator = hd_vsqrt(v * job->inverse_bias2 + job->eps_root) + job->eps;
        p -= job->lr * (m * job->inverse_bias1 / denominator + job->decay * p);
        hd_store(mu, mu_dtype, i, end, m);
        hd_store(nu, HD_DTYPE_F32, i, end, v);
        hd_store(master, HD_DTYPE_F32, i, end, p);
        if (value != NULL) { hd_store(value, value_dtype, i, end, p); }
    });
}

static void adamw_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const step_job *job = arg;
    hd_piece at = hd_split_item(&job->split, item);
    for (int64_t r = at.row_begin; r < at.row_end; r++) {
        const float *grad = hd_split_row(&job->split, job->grad, r);
        float *master = hd_split_row(&job->split, job->master, r), *nu = hd_split_row(&job->split, job->nu, r);
        void *mu = hd_split_row(&job->split, job->mu, r);
        void *value = job->value == NULL ? NULL : hd_split_row(&job->split, job->value, r);
        hd_dtype value_dtype = job->value == NULL ? HD_DTYPE_F32 : job->value->dtype;
        HD_WITH_DTYPES_2(job->mu->dtype, M, value_dtype, V,
                         adamw_span(job, grad, master, mu, M, nu, value, V, at.column_begin, at.column_end););
    }
}

static void adamw_constants(step_job *job, const hd_adamw_spec *spec, const double *control)
{
    job->clip = (float)control[HD_CONTROL_CLIP];
    job->lr = (float)control[HD_CONTROL_LR];
    job->beta1 = (float)spec->beta1;
    job->beta2 = (float)spec->beta2;
    job->one_minus_beta1 = (float)(1.0 - spec->beta1);
    job->one_minus_beta2 = (float)(1.0 - spec->beta2);
    job->inverse_bias1 = (float)(1.0 / control[HD_CONTROL_BIAS1]);
    job->inverse_bias2 = (float)(1.0 / control[HD_CONTROL_BIAS2]);
    job->eps = (float)spec->eps;
    job->eps_root = (float)spec->eps_root;
    job->decay = (float)spec->weight_decay;
}

/* One pass: reads grad, master, mu, nu, writes master, mu, nu, value: 30 bytes an element with f32 moments and a bf16
 * value, 28 when the weights are their own master, 4 fewer with a bf16 mu. */
static hd_status adamw(hd_exec *ex, const hd_adamw_spec *spec, const hd_tensor *control, const hd_tensor *grad,
                       hd_tensor *master, hd_tensor *mu, hd_tensor *nu, hd_tensor *value, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    const double *c = control->data;
    if (c[HD_CONTROL_APPLY] == 0.0) { return HD_OK; }
    bool flat = hd_tensor_is_contiguous(grad) && hd_tensor_is_contiguous(master) && hd_tensor_is_contiguous(mu) &&
                hd_tensor_is_contiguous(nu) && hd_tensor_is_contiguous(value);
    step_job job = {.split = hd_split_elements(grad, flat),
                    .grad = grad,
                    .master = master,
                    .mu = mu,
                    .nu = nu,
                    .value = value->data == master->data ? NULL : value};
    adamw_constants(&job, spec, c);
    hd_parallel_for(ex->n_threads, job.split.n_items, adamw_item, &job);
    return HD_OK;
}

/* ---- sums of gradients ---- */

static void add_span_f32(const float *x, float *y, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) { y[i] += x[i]; }
}

static void add_span_f64(const double *x, double *y, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) { y[i] += x[i]; }
}

static void sum_into_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const step_job *job = arg;
    hd_piece p = hd_split_item(&job->split, item);
    for (int64_t r = p.row_begin; r < p.row_end; r++) {
        const void *x = hd_split_row(&job->split, job->x, r);
        void *y = hd_split_row(&job->split, job->y, r);
        if (job->y->dtype == HD_DTYPE_F64) {
            add_span_f64(x, y, p.column_begin, p.column_end);
        } else {
            add_span_f32(x, y, p.column_begin, p.column_end);
        }
    }
}

/* Reads x and y, writes y: 12 bytes an element, 24 in f64. */
static void sum_into_f64(const hd_tensor *x, hd_tensor *y)
{
    const double *from = x->data;
    double *to = y->data;
    for (int64_t i = 0; i < hd_tensor_count(y); i++) { to[i] += from[i]; }
}

static hd_status sum_into(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    if (y->dtype == HD_DTYPE_F64) {
        sum_into_f64(x, y);
        return HD_OK;
    }
    bool flat = hd_tensor_is_contiguous(x) && hd_tensor_is_contiguous(y);
    step_job job = {.split = hd_split_elements(y, flat), .x = x, .y = y};
    hd_parallel_for(ex->n_threads, job.split.n_items, sum_into_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(optimizer)(hd_ops *ops)
{
    ops->sumsq = sumsq;
    ops->step_gate = step_gate;
    ops->adamw = adamw;
    ops->sum_into = sum_into;
}
