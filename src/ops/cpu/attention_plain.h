/* Attention as `dot_product` computes it: all scores of a query at once, no tiles.  The oracle of the flash kernels on
 * real sizes: each product is a sequence of dot products and row updates, about a tenth of their speed. */
#ifndef HD_OPS_CPU_ATTENTION_PLAIN_H
#define HD_OPS_CPU_ATTENTION_PLAIN_H

#include "ops/cpu/attention_backward.h"

typedef struct at_plain_work {
    float *q, *d_o; /* (dim_k) of q * scale, (dim_v) */
    float *k, *v;   /* (T, ld_k), (T, ld_v): the head's keys and values */
    float *p, *ds;  /* (T) */
    float *out;     /* (max ld): o or dq */
    float *dk, *dv; /* (T, ld_k), (T, ld_v); backward only */
} at_plain_work;

static int64_t at_plain_layout(const at_job *job, float *base, bool backward, at_plain_work *w)
{
    int64_t n = 0, sums = backward ? job->seq_len : 0;
    n = at_carve(&w->q, base, n, job->ld_k);
    n = at_carve(&w->d_o, base, n, job->ld_v);
    n = at_carve(&w->k, base, n, job->seq_len * job->ld_k);
    n = at_carve(&w->v, base, n, job->seq_len * job->ld_v);
    n = at_carve(&w->p, base, n, job->seq_len);
    n = at_carve(&w->ds, base, n, job->seq_len);
    n = at_carve(&w->out, base, n, hd_max_i64(job->ld_k, job->ld_v));
    n = at_carve(&w->dk, base, n, sums * job->ld_k);
    n = at_carve(&w->dv, base, n, sums * job->ld_v);
    return n;
}

/* y += factor x. */
static void at_add_row(float *y, float factor, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) { y[i] += factor * x[i]; }
}

static void at_plain_head(const at_job *job, at_pair pair, const at_plain_work *w)
{
    at_load_keys(job, pair, pair.first_row, job->seq_len, w->k);
    at_load_values(job, pair, pair.first_row, job->seq_len, w->v);
}

/* Scores of query t in w->p, -inf where it does not see the key. */
static void at_plain_scores(const at_job *job, at_pair pair, const at_plain_work *w, int64_t t)
{
    int64_t row = pair.first_row + t;
    int32_t segment = at_segment(job, row);
    at_load_row(at_head_row(job->q, row, pair.h), job->q->dtype, job->scale, w->q, job->dim_k);
    for (int64_t j = 0; j <= t; j++) {
        bool seen = at_segment(job, pair.first_row + j) == segment;
        w->p[j] = seen ? at_dot_rows(w->q, w->k + j * job->ld_k, HD_DTYPE_F32, job->dim_k) : -INFINITY;
    }
}

/* w->p = exp(w->p - shift) for n keys; returns the sum. */
static float at_plain_exp(const at_plain_work *w, float shift, int64_t n)
{
    hd_vf sum = {0};
    HD_FOR_LANES(j, n)
    {
        hd_vf p = hd_clear_tail(hd_exp(hd_load(w->p, HD_DTYPE_F32, j, n) - shift), j, n);
        hd_store(w->p, HD_DTYPE_F32, j, n, p);
        sum += p;
    }
    return hd_sum_lanes(sum);
}

static void at_plain_query(const at_job *job, at_pair pair, const at_plain_work *w, int64_t t)
{
    int64_t row = pair.first_row + t;
    int32_t segment = at_segment(job, row);
    float max = -INFINITY;
    at_plain_scores(job, pair, w, t);
    for (int64_t j = 0; j <= t; j++) { max = w->p[j] > max ? w->p[j] : max; }
    float sum = at_plain_exp(w, max, t + 1);
    memset(w->out, 0, (size_t)job->dim_v * sizeof(float));
    for (int64_t j = 0; j <= t; j++) {
        if (at_segment(job, pair.first_row + j) != segment) { continue; }
        at_add_row(w->out, w->p[j], w->v + j * job->ld_v, job->dim_v);
    }
    at_store_row(w->out, 1.0f / sum, at_head_row(job->o_out, row, pair.h), job->o_out->dtype, job->dim_v);
    *at_lse(job->lse_out, pair, t) = max + logf(sum);
}

/* Item: a (sequence, head) pair. */
static void at_plain_forward_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    at_pair pair = at_make_pair(job, item);
    at_plain_work w;
    (void)at_plain_layout(job, job->work + thread * job->work_len, false, &w);
    at_plain_head(job, pair, &w);
    for (int64_t t = 0; t < job->seq_len; t++) { at_plain_query(job, pair, &w, t); }
}

static void at_plain_query_gradient(const at_job *job, at_pair pair, const at_plain_work *w, int64_t t)
{
    int64_t row = pair.first_row + t;
    int32_t segment = at_segment(job, row);
    const void *d_o = at_head_row(job->d_o, row, pair.h);
    float delta = at_dot_rows(d_o, at_head_row(job->o, row, pair.h), job->o->dtype, job->dim_v);
    at_plain_scores(job, pair, w, t);
    (void)at_plain_exp(w, *at_lse(job->lse_in, pair, t), t + 1);
    at_load_row(d_o, job->d_o->dtype, 1.0f, w->d_o, job->dim_v);
    memset(w->out, 0, (size_t)job->dim_k * sizeof(float));
    for (int64_t j = 0; j <= t; j++) {
        if (at_segment(job, pair.first_row + j) != segment) { continue; }
        float ds = w->p[j] * (at_dot_rows(w->d_o, w->v + j * job->ld_v, HD_DTYPE_F32, job->dim_v) - delta);
        at_add_row(w->out, ds, w->k + j * job->ld_k, job->dim_k);
        at_add_row(w->dk + j * job->ld_k, ds, w->q, job->dim_k);
        at_add_row(w->dv + j * job->ld_v, w->p[j], w->d_o, job->dim_v);
    }
    at_store_row(w->out, job->scale, at_head_row(job->dq, row, pair.h), job->dq->dtype, job->dim_k);
}

/* Item: a pair of the wave. */
static void at_plain_backward_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    at_pair pair = at_make_pair(job, job->wave_begin + item);
    at_plain_work w;
    (void)at_plain_layout(job, job->work + thread * job->work_len, true, &w);
    at_plain_head(job, pair, &w);
    memset(w.dk, 0, (size_t)(job->seq_len * job->ld_k) * sizeof(float));
    memset(w.dv, 0, (size_t)(job->seq_len * job->ld_v) * sizeof(float));
    for (int64_t t = 0; t < job->seq_len; t++) { at_plain_query_gradient(job, pair, &w, t); }
    at_store_dkv(job, pair, 0, job->seq_len, w.dk, w.dv);
}

#endif
