/* What the attention kernels share: the shapes of a call, its tensors, masks, and each thread's workspace. */
#ifndef HD_OPS_CPU_ATTENTION_JOB_H
#define HD_OPS_CPU_ATTENTION_JOB_H

#include <float.h>

#include "base/parallel_for.h"
#include "ops/cpu/attention_tile.h"

/* Keys of a tile, and queries of a block: K, V and what belongs to the queries share L2 (at widths 192 / 128: forward 310
 * KiB, backward 380 KiB with 64 queries and 640 KiB with 128, which AVX-512 machines with 1 MiB and more have room for). */
enum { AT_KEYS = 64, AT_MAX_QUERIES = 128, AT_FORWARD_QUERIES = 128 };
#if defined(__AVX512F__)
enum { AT_BACKWARD_QUERIES = 128 };
#else
enum { AT_BACKWARD_QUERIES = 64 };
#endif

typedef struct at_job {
    const hd_tensor *q, *k_nope, *k_rope, *v, *segments, *o, *d_o, *lse_in;
    hd_tensor *o_out, *lse_out, *dq, *dk_nope, *dk_rope, *dv;
    float scale;
    hd_attention_impl impl;
    int64_t n_seq, seq_len, n_head, nope, rope, dim_k, dim_v; /* dim_k = nope + rope */
    int64_t ld_k, ld_v;                                       /* row strides of tiles of width dim_k and dim_v */
    int64_t block, n_query_blocks;                            /* queries of a block, blocks of a sequence */
    int64_t n_sum_rows; /* backward: rows of the sums of dK and dV in the workspace */
    float *work;        /* (n_threads, work_len) */
    int64_t work_len;
    float *rope_partial;          /* backward: (wave, T, rope), one head's part of dk_rope each */
    float *rope_sum;              /* backward: (N, rope) */
    int64_t wave_begin, wave_end; /* the (sequence, head) pairs in rope_partial */
} at_job;

/* A (sequence, head) pair. */
typedef struct at_pair {
    int64_t b, h, first_row;
} at_pair;

static inline at_pair at_make_pair(const at_job *job, int64_t pair)
{
    int64_t b = pair / job->n_head;
    return (at_pair){b, pair % job->n_head, b * job->seq_len};
}

static inline at_job at_make_job(const hd_attention_shape *shape, const hd_tensor *q, const hd_tensor *k_nope,
                                 const hd_tensor *k_rope, const hd_tensor *v, const hd_tensor *segments, int64_t block)
{
    at_job job = {.q = q,
                  .k_nope = k_nope,
                  .k_rope = k_rope,
                  .v = v,
                  .segments = segments,
                  .scale = (float)shape->scale,
                  .impl = shape->impl,
                  .n_seq = shape->n_seq,
                  .seq_len = shape->seq_len,
                  .n_head = q->shape[1],
                  .nope = k_nope->shape[2],
                  .rope = k_rope->shape[1],
                  .dim_v = v->shape[2]};
    job.dim_k = job.nope + job.rope;
    job.ld_k = at_stride(job.dim_k);
    job.ld_v = at_stride(job.dim_v);
    job.block = block;
    job.n_query_blocks = hd_ceil_div(job.seq_len, block);
    return job;
}

/* Row `row` of head h of a tensor (N, H, width). */
static inline void *at_head_row(const hd_tensor *t, int64_t row, int64_t h)
{
    return hd_at(t, row * t->stride[0] + h * t->stride[1]);
}

static inline int32_t at_segment(const at_job *job, int64_t row)
{
    return ((const int32_t *)job->segments->data)[row * job->segments->stride[0]];
}

static inline float *at_lse(const hd_tensor *lse, at_pair pair, int64_t t)
{
    return (float *)lse->data + pair.b * lse->stride[0] + pair.h * lse->stride[1] + t * lse->stride[2];
}

/* ---- tiles of the tensors: `count` rows from `row`; columns beyond the width and (for queries) rows beyond count are 0 ---- */

enum { AT_PREFETCH_ROWS = 4 };

static inline void at_load_keys(const at_job *job, at_pair pair, int64_t row, int64_t count, float *k)
{
    for (int64_t j = 0; j < count; j++) {
        float *to = k + j * job->ld_k;
        int64_t later = hd_min_i64(j + AT_PREFETCH_ROWS, count - 1);
        at_prefetch_row(at_head_row(job->k_nope, row + later, pair.h), job->k_nope->dtype, job->nope);
        at_prefetch_row(hd_row(job->k_rope, row + later), job->k_rope->dtype, job->rope);
        at_load_row(at_head_row(job->k_nope, row + j, pair.h), job->k_nope->dtype, 1.0f, to, job->nope);
        at_load_row(hd_row(job->k_rope, row + j), job->k_rope->dtype, 1.0f, to + job->nope, job->rope);
    }
}

static inline void at_load_values(const at_job *job, at_pair pair, int64_t row, int64_t count, float *v)
{
    for (int64_t j = 0; j < count; j++) {
        int64_t later = hd_min_i64(j + AT_PREFETCH_ROWS, count - 1);
        at_prefetch_row(at_head_row(job->v, row + later, pair.h), job->v->dtype, job->dim_v);
        at_load_row(at_head_row(job->v, row + j, pair.h), job->v->dtype, 1.0f, v + j * job->ld_v, job->dim_v);
    }
}

static inline void at_load_query_rows(const at_job *job, const hd_tensor *t, at_pair pair, int64_t row, int64_t count,
                                      float factor, int64_t width, float *to, int64_t ld)
{
    for (int64_t i = 0; i < count; i++) {
        float *at = to + i * ld;
        at_load_row(at_head_row(t, row + i, pair.h), t->dtype, factor, at, width);
        memset(at + width, 0, (size_t)(ld - width) * sizeof *at);
    }
    memset(to + count * ld, 0, (size_t)((job->block - count) * ld) * sizeof *to);
}

/* Rows (block, ld) to strips: (block / AT_NR, width rounded up, AT_NR).  A strip has strip_len elements. */
static inline int64_t at_strip_len(int64_t width)
{
    return hd_ceil_div(width, AT_NR) * AT_NR * AT_NR;
}

static inline void at_rows_to_strips(const at_job *job, const float *rows, int64_t ld, int64_t width, float *strips)
{
    int64_t columns = hd_ceil_div(width, HD_LANES) * HD_LANES;
    for (int64_t s = 0; s < job->block / AT_NR; s++) {
        at_transpose(rows + s * AT_NR * ld, ld, AT_NR, columns, strips + s * at_strip_len(width), AT_NR);
    }
}

static inline void at_strips_to_rows(const at_job *job, const float *strips, int64_t width, float *rows, int64_t ld)
{
    int64_t columns = hd_ceil_div(width, HD_LANES) * HD_LANES;
    for (int64_t s = 0; s < job->block / AT_NR; s++) {
        at_transpose(strips + s * at_strip_len(width), AT_NR, columns, AT_NR, rows + s * AT_NR * ld, ld);
    }
}

/* ---- masks ---- */

/* A tile of queries at positions [q0, q0 + n_q) and keys [k0, k0 + n_k) of one sequence (first_row: its first token). */
typedef struct at_tile {
    int64_t first_row, q0, n_q, k0, n_k;
    int64_t query_row; /* row of the first query */
    bool mixed_segments; /* some pair of the tile lies in two segments */
    bool hazard;         /* some pair is masked and some operand is not finite: 0 * NaN must not reach the row */
    int32_t query_segment[AT_MAX_QUERIES], key_segment[AT_KEYS];
} at_tile;

static inline void at_segment_range(const int32_t *segment, int64_t n, int32_t *low, int32_t *high)
{
    *low = *high = segment[0];
    for (int64_t i = 1; i < n; i++) {
        *low = segment[i] < *low ? segment[i] : *low;
        *high = segment[i] > *high ? segment[i] : *high;
    }
}

static inline void at_tile_queries(const at_job *job, at_pair pair, int64_t q0, at_tile *tile)
{
    tile->first_row = pair.first_row;
    tile->query_row = pair.first_row + q0;
    tile->q0 = q0;
    tile->n_q = hd_min_i64(job->block, job->seq_len - q0);
    for (int64_t i = 0; i < job->block; i++) {
        tile->query_segment[i] = i < tile->n_q ? at_segment(job, pair.first_row + q0 + i) : INT32_MIN;
    }
}

/* False when no query of the tile sees any of its keys. */
static inline bool at_tile_keys(const at_job *job, at_pair pair, int64_t k0, at_tile *tile)
{
    int32_t q_low, q_high, k_low, k_high;
    tile->k0 = k0;
    tile->n_k = hd_min_i64(AT_KEYS, hd_min_i64(job->seq_len, tile->q0 + tile->n_q) - k0);
    if (tile->n_k <= 0) { return false; }
    for (int64_t j = 0; j < tile->n_k; j++) { tile->key_segment[j] = at_segment(job, pair.first_row + k0 + j); }
    at_segment_range(tile->query_segment, tile->n_q, &q_low, &q_high);
    at_segment_range(tile->key_segment, tile->n_k, &k_low, &k_high);
    tile->mixed_segments = q_low != q_high || k_low != k_high || q_low != k_low;
    return q_low <= k_high && k_low <= q_high;
}

/* Keys of the tile that some query of strip s may see by causality. */
static inline int64_t at_strip_keys(const at_tile *tile, int64_t s)
{
    int64_t last = tile->q0 + hd_min_i64((s + 1) * AT_NR, tile->n_q) - 1;
    return hd_max_i64(0, hd_min_i64(tile->n_k, last - tile->k0 + 1));
}

/* Whether all queries of strip s see its first n_keys keys. */
static inline bool at_strip_is_whole(const at_tile *tile, int64_t s, int64_t n_keys)
{
    return !tile->mixed_segments && tile->k0 + n_keys - 1 <= tile->q0 + s * AT_NR;
}

/* Which queries of half a strip see key j. */
HD_INLINE hd_vi at_seen(const at_tile *tile, int64_t s, int half, int64_t j)
{
    int64_t first = s * AT_NR + half * HD_LANES;
    hd_vi segment;
    memcpy(&segment, tile->query_segment + first, sizeof segment);
    return (segment == tile->key_segment[j]) & (hd_lane_index() >= (int32_t)(tile->k0 + j - tile->q0 - first));
}

/* Sets the scores (n_keys, AT_NR) of pairs that do not see each other to `masked`. */
static inline void at_mask_strip(const at_tile *tile, int64_t s, int64_t n_keys, float masked, float *scores)
{
    if (at_strip_is_whole(tile, s, n_keys)) { return; }
    for (int64_t j = 0; j < n_keys; j++) {
        for (int half = 0; half < 2; half++) {
            hd_vf_u *at = (hd_vf_u *)(scores + j * AT_NR + half * HD_LANES);
            *at = hd_select(at_seen(tile, s, half, j), *at, hd_splat(masked));
        }
    }
}

static inline bool at_tile_is_masked(const at_tile *tile)
{
    return tile->mixed_segments || tile->k0 + tile->n_k - 1 > tile->q0;
}

/* ---- tiles with masks and values that are not finite: rare, slow, and exact for the rows that see none of them ---- */

static inline bool at_is_finite(const float *x, int64_t ld, int64_t rows, int64_t width)
{
    hd_vf zero = {0};
    for (int64_t i = 0; i < rows; i++) {
        HD_FOR_LANES(c, width)
        {
            zero += hd_load(x + i * ld, HD_DTYPE_F32, c, width) * 0.0f;
        }
    }
    return hd_sum_lanes(zero) == 0.0f;
}

/* at_multiply_columns over the keys that each query of strip s sees. */
static inline void at_multiply_seen_columns(const at_tile *tile, int64_t s, const at_product *t)
{
    for (int64_t r = 0; r < t->m; r++) {
        for (int half = 0; half < 2; half++) {
            hd_vf acc = {0};
            hd_vf_u *c = (hd_vf_u *)(t->c + r * t->ldc + half * HD_LANES);
            for (int64_t j = 0; j < t->run_len; j++) {
                hd_vf term = acc + t->a[j * t->lda + r] * *(const hd_vf_u *)(t->b + j * t->ldb + half * HD_LANES);
                acc = hd_select(at_seen(tile, s, half, j), term, acc);
            }
            if (t->mode == AT_ADD) { acc += *c; }
            if (t->mode == AT_SCALE) { acc += *c * *(const hd_vf_u *)(t->scale + half * HD_LANES); }
            *c = acc;
        }
    }
}

/* at_multiply_strips over the queries that see each key; the first key of t is number `key` of the tile, the first query
 * that of strip s. */
static inline void at_multiply_seen_strips(const at_tile *tile, int64_t s, int64_t key, const at_product *t)
{
    for (int64_t j = 0; j < t->m; j++) {
        hd_vf acc[2] = {{0}, {0}};
        hd_vf_u *c = (hd_vf_u *)(t->c + j * t->ldc);
        for (int64_t i = 0; i < t->n_runs * AT_NR; i++) {
            int64_t query = s * AT_NR + i;
            bool sees =
                tile->k0 + key + j <= tile->q0 + query && tile->query_segment[query] == tile->key_segment[key + j];
            const hd_vf_u *row = (const hd_vf_u *)(t->b + i * t->ldb);
            float p = t->a[i / AT_NR * t->a_run + j * AT_NR + i % AT_NR];
            for (int half = 0; sees && half < 2; half++) { acc[half] += p * row[half]; }
        }
        c[0] += acc[0];
        c[1] += acc[1];
    }
}

#endif
