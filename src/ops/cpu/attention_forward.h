/* Flash attention, forward: one item is a block of queries of one head.  Keys come in tiles, the softmax is
 * kept as a running maximum and sum per query.
 *   FLOPs 2 (dim_k + dim_v) per visible pair, 12 vector operations of softmax per HD_LANES pairs: bound by the FMA units.
 *   Bytes: K and V once per block of queries. */
#ifndef HD_OPS_CPU_ATTENTION_FORWARD_H
#define HD_OPS_CPU_ATTENTION_FORWARD_H

#include "ops/cpu/attention_job.h"

typedef struct at_forward_work {
    float *rows;                /* (block, max ld): q, at the end o */
    float *q;                   /* strips of q * scale */
    float *k, *v;               /* (AT_KEYS, ld_k), (AT_KEYS, ld_v) */
    float *scores;              /* (AT_KEYS, AT_NR): one strip */
    float *o;                   /* strips of O^T */
    float *max, *sum, *rescale; /* (block) */
} at_forward_work;

static int64_t at_carve(float **at, float *base, int64_t used, int64_t len)
{
    *at = base == NULL ? NULL : base + used;
    return used + hd_ceil_div(len, 16) * 16;
}

/* Lays the workspace out from base (NULL: only the length, which is returned). */
static int64_t at_forward_layout(const at_job *job, float *base, at_forward_work *w)
{
    int64_t n = 0;
    n = at_carve(&w->rows, base, n, job->block * hd_max_i64(job->ld_k, job->ld_v));
    n = at_carve(&w->q, base, n, job->block / AT_NR * at_strip_len(job->dim_k));
    n = at_carve(&w->k, base, n, AT_KEYS * job->ld_k);
    n = at_carve(&w->v, base, n, AT_KEYS * job->ld_v);
    n = at_carve(&w->scores, base, n, AT_KEYS * AT_NR);
    n = at_carve(&w->o, base, n, job->block / AT_NR * at_strip_len(job->dim_v));
    n = at_carve(&w->max, base, n, job->block);
    n = at_carve(&w->sum, base, n, job->block);
    n = at_carve(&w->rescale, base, n, job->block);
    return n;
}

/* The largest score of each query of half a strip, and of those seen before. */
HD_INLINE hd_vf at_column_max(const float *scores, int64_t ld, int64_t n_keys, hd_vf max)
{
    for (int64_t j = 0; j < n_keys; j++) { max = hd_vmax(*(const hd_vf_u *)(scores + j * ld), max); }
    return max;
}

/* Scores become probabilities relative to max; returns their sums. */
HD_INLINE hd_vf at_column_exp(float *scores, int64_t ld, int64_t n_keys, hd_vf max)
{
    hd_vf sum = {0};
    for (int64_t j = 0; j < n_keys; j++) {
        hd_vf_u *s = (hd_vf_u *)(scores + j * ld);
        hd_vf p = hd_exp_nonpositive(*s - max);
        *s = p;
        sum += p;
    }
    return sum;
}

/* A tile's scores (n_keys, nv vectors of queries) become probabilities; maximum and sum of each query run on, and rescale is what
 * earlier sums are worth now.  The running maximum starts at -FLT_MAX, not -inf: a query whose keys so far are all masked then has
 * sum 0, not NaN. */
HD_INLINE void at_softmax_vectors(const int nv, float *scores, int64_t n_keys, float *max, float *sum, float *rescale)
{
    for (int v = 0; v < nv; v++) {
        hd_vf_u *m = (hd_vf_u *)max + v, *total = (hd_vf_u *)sum + v;
        hd_vf larger = at_column_max(scores + v * HD_LANES, nv * HD_LANES, n_keys, *m);
        hd_vf factor = hd_exp_nonpositive(*m - larger);
        hd_vf added = at_column_exp(scores + v * HD_LANES, nv * HD_LANES, n_keys, larger);
        *total = *total * factor + added;
        *m = larger;
        ((hd_vf_u *)rescale)[v] = factor;
    }
}

static __attribute__((noinline)) void at_softmax_wide(float *scores, int64_t n_keys, float *max, float *sum, float *rescale)
{
    at_softmax_vectors(2, scores, n_keys, max, sum, rescale);
}

static void at_forward_tile(const at_job *job, const at_forward_work *w, const at_tile *tile, bool first)
{
    for (int64_t s = 0; s < job->block / AT_NR; s++) {
        int64_t n_keys = at_strip_keys(tile, s);
        if (n_keys == 0 || s * AT_NR >= tile->n_q) { continue; }
        at_product scores = {.a = w->k,
                             .lda = job->ld_k,
                             .m = n_keys,
                             .b = w->q + s * at_strip_len(job->dim_k),
                             .ldb = AT_NR,
                             .run_len = job->dim_k,
                             .n_runs = 1,
                             .c = w->scores,
                             .ldc = AT_NR};
        at_product output = {.a = w->v,
                             .lda = job->ld_v,
                             .m = job->dim_v,
                             .b = w->scores,
                             .ldb = AT_NR,
                             .run_len = n_keys,
                             .n_runs = 1,
                             .c = w->o + s * at_strip_len(job->dim_v),
                             .ldc = AT_NR,
                             .mode = first ? AT_SET : AT_SCALE,
                             .scale = w->rescale + s * AT_NR};
        at_multiply_rows(&scores);
        at_mask_strip(tile, s, n_keys, -INFINITY, w->scores);
        at_softmax_wide(w->scores, n_keys, w->max + s * AT_NR, w->sum + s * AT_NR, w->rescale + s * AT_NR);
        if (tile->hazard && !at_strip_is_whole(tile, s, n_keys)) {
            at_multiply_seen_columns(tile, s, &output);
        } else {
            at_multiply_columns(&output);
        }
    }
}

static void at_forward_finish(const at_job *job, at_pair pair, const at_forward_work *w, const at_tile *tile)
{
    at_strips_to_rows(job, w->o, job->dim_v, w->rows, job->ld_v);
    for (int64_t i = 0; i < tile->n_q; i++) {
        void *o = at_head_row(job->o_out, tile->query_row + i, pair.h);
        at_store_row(w->rows + i * job->ld_v, 1.0f / w->sum[i], o, job->o_out->dtype, job->dim_v);
        if (job->lse_out != NULL) { *at_lse(job->lse_out, pair, tile->q0 + i) = w->max[i] + logf(w->sum[i]); }
    }
}

static void at_forward_start(const at_job *job, at_pair pair, const at_forward_work *w, const at_tile *tile)
{
    at_load_query_rows(job, job->q, pair, tile->query_row, tile->n_q, job->scale, job->dim_k, w->rows,
                       job->ld_k);
    at_rows_to_strips(job, w->rows, job->ld_k, job->dim_k, w->q);
}

static void at_forward_clear(const at_job *job, const at_forward_work *w)
{
    for (int64_t i = 0; i < job->block; i++) {
        w->max[i] = -FLT_MAX;
        w->sum[i] = 0.0f;
    }
}

/* Item: (sequence, head, block of queries), the blocks with the most keys first. */
static inline void at_forward_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    int64_t n_pairs = job->n_seq * job->n_head;
    at_pair pair = at_make_pair(job, item % n_pairs);
    at_forward_work w;
    at_tile tile;
    bool first = true;
    (void)at_forward_layout(job, job->work + thread * job->work_len, &w);
    at_tile_queries(job, pair, (job->n_query_blocks - 1 - item / n_pairs) * job->block, &tile);
    at_forward_start(job, pair, &w, &tile);
    at_forward_clear(job, &w);
    for (int64_t k0 = 0; k0 < tile.q0 + tile.n_q; k0 += AT_KEYS) {
        if (!at_tile_keys(job, pair, k0, &tile)) { continue; }
        at_load_keys(job, pair, tile.first_row + k0, tile.n_k, w.k);
        at_load_values(job, pair, tile.first_row + k0, tile.n_k, w.v);
        tile.hazard = at_tile_is_masked(&tile) && !at_is_finite(w.v, job->ld_v, tile.n_k, job->dim_v);
        at_forward_tile(job, &w, &tile, first);
        first = false;
    }
    at_forward_finish(job, pair, &w, &tile);
}

#endif
