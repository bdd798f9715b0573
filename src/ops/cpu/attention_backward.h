/* Flash attention, backward: probabilities are recomputed tile by tile from lse, with delta = rowsum(dO O).
 *   P = exp(scale Q K^T - lse);  dS = P (dO V^T - delta);  dV += P^T dO;  dK += dS^T (scale Q);  dQ = scale dS K
 *   FLOPs 2 (3 dim_k + 2 dim_v) per visible pair, 14 vector operations more per HD_LANES pairs: bound by the FMA units.
 *   Bytes: K, V and the f32 sums of dK, dV once per block of queries.
 *
 * Order of the sums, whatever the number of threads: dQ over key tiles ascending, dK and dV over query blocks ascending,
 * dk_rope over heads ascending.  With enough (sequence, head) pairs for all threads one pass per pair computes all of
 * them, with dK and dV of a whole head in the thread's workspace (memory linear in T).  With few pairs, one pass over
 * query blocks makes dQ and one over key tiles dK and dV: the same sums in the same order, 1.5 times the FLOPs. */
#ifndef HD_OPS_CPU_ATTENTION_BACKWARD_H
#define HD_OPS_CPU_ATTENTION_BACKWARD_H

#include "ops/cpu/attention_forward.h"

/* By rows with lda = AT_NR, known when compiling: A is strips. */
static __attribute__((noinline)) void at_multiply_strips(const at_product *t)
{
    at_product strips = *t;
    strips.lda = AT_NR;
    strips.run_len = AT_NR;
    at_run(2, AT_BY_ROWS, &strips);
}

typedef struct at_backward_work {
    float *q_rows, *do_rows; /* (block, ld_k) of q * scale, (block, ld_v) of dO; q_rows ends as dQ */
    float *q, *d_o;          /* the same as strips */
    float *k, *v;            /* (AT_KEYS, ld_k), (AT_KEYS, ld_v) */
    float *p, *ds;           /* (block / AT_NR, AT_KEYS, AT_NR) */
    float *dq;               /* strips of dQ^T */
    float *lse, *delta;      /* (block) */
    float *dk, *dv;          /* (T or AT_KEYS, ld_k), (T or AT_KEYS, ld_v) */
} at_backward_work;

static int64_t at_backward_layout(const at_job *job, float *base, at_backward_work *w)
{
    int64_t n = 0;
    n = at_carve(&w->q_rows, base, n, job->block * job->ld_k);
    n = at_carve(&w->do_rows, base, n, job->block * job->ld_v);
    n = at_carve(&w->q, base, n, job->block / AT_NR * at_strip_len(job->dim_k));
    n = at_carve(&w->d_o, base, n, job->block / AT_NR * at_strip_len(job->dim_v));
    n = at_carve(&w->k, base, n, AT_KEYS * job->ld_k);
    n = at_carve(&w->v, base, n, AT_KEYS * job->ld_v);
    n = at_carve(&w->p, base, n, AT_KEYS * job->block);
    n = at_carve(&w->ds, base, n, AT_KEYS * job->block);
    n = at_carve(&w->dq, base, n, job->block / AT_NR * at_strip_len(job->dim_k));
    n = at_carve(&w->lse, base, n, job->block);
    n = at_carve(&w->delta, base, n, job->block);
    n = at_carve(&w->dk, base, n, job->n_sum_rows * job->ld_k);
    n = at_carve(&w->dv, base, n, job->n_sum_rows * job->ld_v);
    return n;
}

static float at_dot_rows(const void *a, const void *b, hd_dtype dtype, int64_t n)
{
    hd_vf sum = {0};
    HD_FOR_LANES(i, n)
    {
        sum += hd_load(a, dtype, i, n) * hd_load(b, dtype, i, n);
    }
    return hd_sum_lanes(sum);
}

/* Loads what belongs to the tile's queries. */
static void at_backward_start(const at_job *job, at_pair pair, const at_backward_work *w, const at_tile *tile)
{
    int64_t row = tile->first_row + tile->q0;
    at_load_query_rows(job, job->q, pair, row, tile->n_q, job->scale, job->dim_k, w->q_rows, job->ld_k);
    at_load_query_rows(job, job->d_o, pair, row, tile->n_q, 1.0f, job->dim_v, w->do_rows, job->ld_v);
    at_rows_to_strips(job, w->q_rows, job->ld_k, job->dim_k, w->q);
    at_rows_to_strips(job, w->do_rows, job->ld_v, job->dim_v, w->d_o);
    for (int64_t i = 0; i < job->block; i++) {
        bool inside = i < tile->n_q;
        w->lse[i] = inside ? *at_lse(job->lse_in, pair, tile->q0 + i) : 0.0f;
        w->delta[i] = !inside ? 0.0f
                              : at_dot_rows(at_head_row(job->d_o, row + i, pair.h),
                                            at_head_row(job->o, row + i, pair.h), job->o->dtype, job->dim_v);
    }
}

/* Scores become P, dP becomes dS = P (dP - delta). */
static void at_gradient_strip(const at_backward_work *w, int64_t s, int64_t n_keys, float *p, float *ds)
{
    for (int half = 0; half < 2; half++) {
        int64_t at = s * AT_NR + half * HD_LANES;
        hd_vf lse = *(const hd_vf_u *)(w->lse + at), delta = *(const hd_vf_u *)(w->delta + at);
        for (int64_t j = 0; j < n_keys; j++) {
            hd_vf_u *pj = (hd_vf_u *)(p + j * AT_NR + half * HD_LANES);
            hd_vf_u *dj = (hd_vf_u *)(ds + j * AT_NR + half * HD_LANES);
            hd_vf probability = hd_exp_nonpositive(*pj - lse);
            *pj = probability;
            *dj = probability * (*dj - delta);
        }
    }
}

/* Whether masked pairs of the tile meet operands that are not finite. */
static bool at_backward_hazard(const at_job *job, const at_backward_work *w, const at_tile *tile)
{
    return at_tile_is_masked(tile) &&
           !(at_is_finite(w->k, job->ld_k, tile->n_k, job->dim_k) &&
             at_is_finite(w->v, job->ld_v, tile->n_k, job->dim_v) &&
             at_is_finite(w->q_rows, job->ld_k, tile->n_q, job->dim_k) &&
             at_is_finite(w->do_rows, job->ld_v, tile->n_q, job->dim_v) &&
             at_is_finite(w->lse, tile->n_q, 1, tile->n_q) && at_is_finite(w->delta, tile->n_q, 1, tile->n_q));
}

static int64_t at_active_strips(const at_tile *tile)
{
    return hd_ceil_div(tile->n_q, AT_NR);
}

/* P and dS of the tile; with_dq: and the tile's part of dQ. */
static void at_backward_scores(const at_job *job, const at_backward_work *w, const at_tile *tile, bool with_dq,
                               bool first)
{
    for (int64_t s = 0; s < at_active_strips(tile); s++) {
        int64_t n_keys = at_strip_keys(tile, s);
        if (n_keys == 0) { continue; }
        float *p = w->p + s * AT_KEYS * AT_NR, *ds = w->ds + s * AT_KEYS * AT_NR;
        at_product scores = {.a = w->k,
                             .lda = job->ld_k,
                             .m = n_keys,
                             .b = w->q + s * at_strip_len(job->dim_k),
                             .ldb = AT_NR,
                             .run_len = job->dim_k,
                             .n_runs = 1,
                             .c = p,
                             .ldc = AT_NR};
        at_product dp = {.a = w->v,
                         .lda = job->ld_v,
                         .m = n_keys,
                         .b = w->d_o + s * at_strip_len(job->dim_v),
                         .ldb = AT_NR,
                         .run_len = job->dim_v,
                         .n_runs = 1,
                         .c = ds,
                         .ldc = AT_NR};
        at_product dq = {.a = w->k,
                         .lda = job->ld_k,
                         .m = job->dim_k,
                         .b = ds,
                         .ldb = AT_NR,
                         .run_len = n_keys,
                         .n_runs = 1,
                         .c = w->dq + s * at_strip_len(job->dim_k),
                         .ldc = AT_NR,
                         .mode = first ? AT_SET : AT_ADD};
        at_multiply_rows(&scores);
        at_mask_strip(tile, s, n_keys, -INFINITY, p);
        at_multiply_rows(&dp);
        at_gradient_strip(w, s, n_keys, p, ds);
        if (!with_dq) { continue; }
        if (tile->hazard && !at_strip_is_whole(tile, s, n_keys)) {
            at_multiply_seen_columns(tile, s, &dq);
        } else {
            at_multiply_columns(&dq);
        }
    }
}

/* sums (n_k, ld) += A^T rows: A is P or dS as strips, rows (block, ld) is dO or Q.  Keys that only the strips from
 * s on see are multiplied with those strips alone. */
static void at_add_products(const at_tile *tile, const float *a, const float *rows, float *sums, int64_t ld,
                            int64_t width)
{
    int64_t n_strips = at_active_strips(tile), begin = 0;
    for (int64_t s = 0; s < n_strips; s++) {
        int64_t end = at_strip_keys(tile, s);
        for (int64_t column = 0; column < width && end > begin; column += AT_NR) {
            at_product t = {.a = a + (s * AT_KEYS + begin) * AT_NR,
                            .lda = AT_NR,
                            .a_run = AT_KEYS * AT_NR,
                            .m = end - begin,
                            .b = rows + s * AT_NR * ld + column,
                            .ldb = ld,
                            .run_len = AT_NR,
                            .n_runs = n_strips - s,
                            .c = sums + begin * ld + column,
                            .ldc = ld,
                            .mode = AT_ADD};
            if (tile->hazard) {
                at_multiply_seen_strips(tile, s, begin, &t);
            } else {
                at_multiply_strips(&t);
            }
        }
        begin = hd_max_i64(begin, end);
    }
}

static void at_store_dq(const at_job *job, at_pair pair, const at_backward_work *w, const at_tile *tile)
{
    at_strips_to_rows(job, w->dq, job->dim_k, w->q_rows, job->ld_k);
    for (int64_t i = 0; i < tile->n_q; i++) {
        void *dq = at_head_row(job->dq, tile->first_row + tile->q0 + i, pair.h);
        at_store_row(w->q_rows + i * job->ld_k, job->scale, dq, job->dq->dtype, job->dim_k);
    }
}

/* dK and dV of tokens [t0, t0 + n) of a pair from its sums; the shared rope key's part goes to the wave's buffer. */
static void at_store_dkv(const at_job *job, at_pair pair, int64_t t0, int64_t n, const float *dk, const float *dv)
{
    int64_t index = pair.b * job->n_head + pair.h - job->wave_begin;
    for (int64_t j = 0; j < n; j++) {
        const float *k = dk + j * job->ld_k;
        int64_t row = pair.first_row + t0 + j;
        float *rope = job->rope_partial + (index * job->seq_len + t0 + j) * job->rope;
        at_store_row(k, 1.0f, at_head_row(job->dk_nope, row, pair.h), job->dk_nope->dtype, job->nope);
        at_store_row(k + job->nope, 1.0f, rope, HD_DTYPE_F32, job->rope);
        at_store_row(dv + j * job->ld_v, 1.0f, at_head_row(job->dv, row, pair.h), job->dv->dtype, job->dim_v);
    }
}

/* All tiles of one block of queries; dk and dv (NULL: dQ alone) are the sums of the whole head. */
static void at_backward_queries(const at_job *job, at_pair pair, const at_backward_work *w, int64_t q0, float *dk,
                                float *dv)
{
    at_tile tile;
    bool first = true;
    at_tile_queries(job, pair, q0, &tile);
    at_backward_start(job, pair, w, &tile);
    for (int64_t k0 = 0; k0 < tile.q0 + tile.n_q; k0 += AT_KEYS) {
        if (!at_tile_keys(job, pair, k0, &tile)) { continue; }
        at_load_keys(job, pair, tile.first_row + k0, tile.n_k, w->k);
        at_load_values(job, pair, tile.first_row + k0, tile.n_k, w->v);
        tile.hazard = at_backward_hazard(job, w, &tile);
        at_backward_scores(job, w, &tile, true, first);
        first = false;
        if (dk == NULL) { continue; }
        at_add_products(&tile, w->p, w->do_rows, dv + k0 * job->ld_v, job->ld_v, job->dim_v);
        at_add_products(&tile, w->ds, w->q_rows, dk + k0 * job->ld_k, job->ld_k, job->dim_k);
    }
    at_store_dq(job, pair, w, &tile);
}

static void at_clear_sums(const at_job *job, const at_backward_work *w)
{
    memset(w->dk, 0, (size_t)(job->n_sum_rows * job->ld_k) * sizeof(float));
    memset(w->dv, 0, (size_t)(job->n_sum_rows * job->ld_v) * sizeof(float));
}

/* One pass.  Item: a pair of the wave. */
static void at_backward_pair_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    at_pair pair = at_make_pair(job, job->wave_begin + item);
    at_backward_work w;
    (void)at_backward_layout(job, job->work + thread * job->work_len, &w);
    at_clear_sums(job, &w);
    for (int64_t q0 = 0; q0 < job->seq_len; q0 += job->block) { at_backward_queries(job, pair, &w, q0, w.dk, w.dv); }
    at_store_dkv(job, pair, 0, job->seq_len, w.dk, w.dv);
}

/* Two passes, the first.  Item: (pair of the wave, block of queries), the longest first. */
static void at_backward_query_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    int64_t n_pairs = job->wave_end - job->wave_begin;
    at_backward_work w;
    (void)at_backward_layout(job, job->work + thread * job->work_len, &w);
    at_backward_queries(job, at_make_pair(job, job->wave_begin + item % n_pairs), &w,
                        (job->n_query_blocks - 1 - item / n_pairs) * job->block, NULL, NULL);
}

/* Two passes, the second.  Item: (pair of the wave, tile of keys), the longest first. */
static void at_backward_key_item(void *arg, int64_t item, int thread)
{
    const at_job *job = arg;
    int64_t n_pairs = job->wave_end - job->wave_begin, k0 = item / n_pairs * AT_KEYS;
    at_pair pair = at_make_pair(job, job->wave_begin + item % n_pairs);
    int64_t n_keys = hd_min_i64(AT_KEYS, job->seq_len - k0);
    at_backward_work w;
    at_tile tile;
    (void)at_backward_layout(job, job->work + thread * job->work_len, &w);
    at_clear_sums(job, &w);
    at_load_keys(job, pair, pair.first_row + k0, n_keys, w.k);
    at_load_values(job, pair, pair.first_row + k0, n_keys, w.v);
    for (int64_t q0 = k0 / job->block * job->block; q0 < job->seq_len; q0 += job->block) {
        at_tile_queries(job, pair, q0, &tile);
        if (!at_tile_keys(job, pair, k0, &tile)) { continue; }
        at_backward_start(job, pair, &w, &tile);
        tile.hazard = at_backward_hazard(job, &w, &tile);
        at_backward_scores(job, &w, &tile, false, false);
        at_add_products(&tile, w.p, w.do_rows, w.dv, job->ld_v, job->dim_v);
        at_add_products(&tile, w.ds, w.q_rows, w.dk, job->ld_k, job->dim_k);
    }
    at_store_dkv(job, pair, k0, n_keys, w.dk, w.dv);
}

/* ---- dk_rope: the heads' parts added in order of head ---- */

enum { AT_ROPE_ROWS = 64 };

static void at_rope_row(const at_job *job, at_pair pair, int64_t t)
{
    const float *part =
        job->rope_partial + ((pair.b * job->n_head + pair.h - job->wave_begin) * job->seq_len + t) * job->rope;
    float *sum = job->rope_sum + (pair.first_row + t) * job->rope;
    for (int64_t d = 0; d < job->rope; d++) { sum[d] = pair.h == 0 ? part[d] : sum[d] + part[d]; }
    if (pair.h == job->n_head - 1) {
        at_store_row(sum, 1.0f, hd_row(job->dk_rope, pair.first_row + t), job->dk_rope->dtype, job->rope);
    }
}

/* Item: a block of positions, for all pairs of the wave. */
static void at_rope_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const at_job *job = arg;
    int64_t end = hd_min_i64(job->seq_len, (item + 1) * AT_ROPE_ROWS);
    for (int64_t pair = job->wave_begin; pair < job->wave_end; pair++) {
        for (int64_t t = item * AT_ROPE_ROWS; t < end; t++) { at_rope_row(job, at_make_pair(job, pair), t); }
    }
}

#endif
