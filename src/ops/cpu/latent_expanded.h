/* Attention against latent caches, expanded form: the keys and values of LATENT_BLOCK positions and a group of heads are made by the
 * matrix product, then all new tokens attend to them with the tiles of flash attention; sums run on from block to block.
 *   FLOPs 2 c (n + v) per head and position, 2 (n + r + v) per head and visible pair: bound by the FMA units.
 *   Memory: a block's keys and values, LATENT_BLOCK x heads x (n + v), and the sums of the new tokens, n_new x heads x v: both in f32,
 *   kept within LATENT_EXPANDED_FLOATS by the number of heads in a group. */
#ifndef HD_OPS_CPU_LATENT_EXPANDED_H
#define HD_OPS_CPU_LATENT_EXPANDED_H

#include "ops/cpu/attention_forward.h"
#include "ops/cpu/gemm.h"

enum { LATENT_BLOCK = 512, LATENT_EXPANDED_FLOATS = 4 << 20 };

/* One sequence, one group of heads, one block of positions. */
typedef struct latent_expansion {
    const hd_latent_spec *spec;
    at_job job;              /* q, o of the group; k_nope, v, k_rope of the block */
    hd_tensor q, o, kv, k_nope, v, k_rope;
    int64_t past, n_new, n_head, key_begin, key_end;
    float *sums;             /* per head and block of queries: strips of O^T, maxima, sums */
    int64_t sums_len;
} latent_expansion;

/* Heads of a group: as many as the memory is for. */
static int64_t latent_group_heads(const hd_latent_spec *s, int64_t n_new)
{
    int64_t per_head = hd_max_i64(LATENT_BLOCK * (s->qk_nope_head_dim + s->v_head_dim), n_new * s->v_head_dim);
    return hd_max_i64(1, hd_min_i64(s->n_head, LATENT_EXPANDED_FLOATS / per_head));
}

/* The workspace of flash attention whose sums are those of (head h, query block i). */
static at_forward_work latent_expanded_work(const latent_expansion *e, int64_t h, int64_t i, int thread)
{
    const at_job *job = &e->job;
    at_forward_work w;
    float *sums = e->sums + (h * job->n_query_blocks + i) * e->sums_len;
    (void)at_forward_layout(job, job->work + thread * job->work_len, &w);
    w.max = sums;
    w.sum = sums + job->block;
    w.o = sums + 2 * job->block;
    return w;
}

/* Queries of block i; all positions of a cache are one segment. */
static void latent_tile_queries(const latent_expansion *e, int64_t i, at_tile *tile)
{
    const at_job *job = &e->job;
    tile->first_row = 0;
    tile->query_row = i * job->block;
    tile->q0 = e->past + tile->query_row;
    tile->n_q = hd_min_i64(job->block, e->n_new - tile->query_row);
    tile->mixed_segments = false;
    for (int64_t q = 0; q < job->block; q++) { tile->query_segment[q] = q < tile->n_q ? 0 : INT32_MIN; }
    memset(tile->key_segment, 0, sizeof tile->key_segment);
}

/* Item: (head of the group, block of queries), the blocks that see the most first. */
static void latent_expanded_item(void *arg, int64_t item, int thread)
{
    const latent_expansion *e = arg;
    const at_job *job = &e->job;
    int64_t h = item % e->n_head, i = job->n_query_blocks - 1 - item / e->n_head;
    at_pair pair = {.h = h};
    at_tile tile;
    latent_tile_queries(e, i, &tile);
    int64_t seen = tile.q0 + tile.n_q, end = hd_min_i64(e->key_end, seen);
    if (e->key_begin >= seen) { return; }
    at_forward_work w = latent_expanded_work(e, h, i, thread);
    at_forward_start(job, pair, &w, &tile);
    if (e->key_begin == 0) { at_forward_clear(job, &w); }
    for (tile.k0 = e->key_begin; tile.k0 < end; tile.k0 += AT_KEYS) {
        tile.n_k = hd_min_i64(AT_KEYS, end - tile.k0);
        at_load_keys(job, pair, tile.k0 - e->key_begin, tile.n_k, w.k);
        at_load_values(job, pair, tile.k0 - e->key_begin, tile.n_k, w.v);
        tile.hazard = at_tile_is_masked(&tile) && !at_is_finite(w.v, job->ld_v, tile.n_k, job->dim_v);
        at_forward_tile(job, &w, &tile, tile.k0 == 0);
    }
    if (end == seen) { at_forward_finish(job, pair, &w, &tile); }
}

/* kv = rows Wkvb^T of the group's heads [head, head + n_head). */
static hd_status latent_expand(hd_exec *ex, const latent_expansion *e, const hd_tensor *rows, const hd_weight *kv_b, int64_t head, hd_err *err)
{
    hd_status st;
    int64_t width = e->spec->qk_nope_head_dim + e->spec->v_head_dim, m = e->key_end - e->key_begin, n = e->n_head * width, k = e->spec->kv_lora_rank;
    hd_gemm_form form = {.a_dtype = rows->dtype, .b_dtype = kv_b->value.dtype, .c_dtype = HD_DTYPE_F32, .a_row = rows->stride[0], .a_column = 1,
                         .b_row = 1, .b_column = kv_b->value.stride[0], .accum = HD_SET};
    hd_gemm_limits limits = {.n_problems = 1, .m_max = LATENT_BLOCK, .n_max = n, .k_max = k, .m_total = LATENT_BLOCK, .k_total = k,
                             .a_total = LATENT_BLOCK * k}; /* of a whole block always: the memory depends on the new tokens alone */
    hd_gemm_batch batch;
    size_t mark = hd_arena_mark(ex->scratch);
    HD_TRY(hd_gemm_reserve(ex, &form, &limits, &batch, err));
    if (!ex->dry) {
        batch.problems[0] = (hd_gemm_problem){.m = m, .n = n, .k = k, .a = hd_row(rows, e->key_begin), .b = hd_row(&kv_b->value, head * width),
                                              .c = e->kv.data, .c_row = n};
        hd_gemm_run(ex, &form, 1, &batch);
    }
out:
    hd_arena_release(ex->scratch, mark);
    return st;
}

/* Columns [begin, begin + length) of each head of (N, H width) from head `first` on: (N, n_head, length). */
static hd_tensor latent_heads(const hd_tensor *t, int64_t first, int64_t n_head, int64_t width, int64_t begin, int64_t length)
{
    hd_tensor part = hd_tensor_slice(t, 1, first * width, n_head * width), heads = hd_tensor_split_last(&part, n_head, width);
    return hd_tensor_slice(&heads, 2, begin, length);
}

/* Scratch and views of the group of heads from `head` on; q and o are the sequence's rows. */
static hd_status latent_open_group(hd_exec *ex, latent_expansion *e, const hd_tensor *q, hd_tensor *o, int64_t head, hd_err *err)
{
    hd_status st;
    const hd_latent_spec *s = e->spec;
    int64_t n = s->qk_nope_head_dim, v = s->v_head_dim;
    hd_attention_shape shape = {1, e->n_new, s->scale, HD_ATTENTION_FLASH};
    at_forward_work w;
    e->q = latent_heads(q, head, e->n_head, n + s->qk_rope_head_dim, 0, n + s->qk_rope_head_dim);
    e->o = latent_heads(o, head, e->n_head, v, 0, v);
    HD_TRY(hd_tensor_new_2d(ex->scratch, HD_DTYPE_F32, LATENT_BLOCK, e->n_head * (n + v), &e->kv, err));
    e->k_nope = latent_heads(&e->kv, 0, e->n_head, n + v, 0, n);
    e->v = latent_heads(&e->kv, 0, e->n_head, n + v, n, v);
    e->job = at_make_job(&shape, &e->q, &e->k_nope, &e->k_rope, &e->v, NULL, AT_FORWARD_QUERIES);
    e->job.o_out = &e->o;
    e->job.work_len = at_forward_layout(&e->job, NULL, &w);
    e->sums_len = 2 * e->job.block + e->job.block / AT_NR * at_strip_len(v);
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(ex->n_threads * e->job.work_len) * sizeof(float), (void **)&e->job.work, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(e->n_head * e->job.n_query_blocks * e->sums_len) * sizeof(float), (void **)&e->sums, err));
out:
    return st;
}

/* One sequence; q and o are its rows. */
static hd_status latent_expanded_run(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *one,
                                     const hd_weight *kv_b, hd_tensor *o, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t total = one->rows.shape[0], n_head = latent_group_heads(spec, one->n_new);
    size_t mark = hd_arena_mark(ex->scratch);
    for (int64_t head = 0; head < spec->n_head; head += n_head) {
        latent_expansion e = {.spec = spec, .past = total - one->n_new, .n_new = one->n_new, .n_head = hd_min_i64(n_head, spec->n_head - head)};
        hd_arena_release(ex->scratch, mark);
        e.k_rope = hd_tensor_slice(&one->rows, 1, spec->kv_lora_rank, spec->qk_rope_head_dim);
        HD_TRY(latent_open_group(ex, &e, q, o, head, err));
        for (e.key_begin = 0; e.key_begin < total; e.key_begin = e.key_end) {
            e.key_end = hd_min_i64(total, e.key_begin + LATENT_BLOCK);
            e.k_rope = hd_tensor_slice(&one->rows, 1, spec->kv_lora_rank, spec->qk_rope_head_dim);
            e.k_rope = hd_tensor_slice(&e.k_rope, 0, e.key_begin, e.key_end - e.key_begin);
            HD_TRY(latent_expand(ex, &e, &one->rows, kv_b, head, err));
            if (!ex->dry) { hd_parallel_for(ex->n_threads, e.n_head * e.job.n_query_blocks, latent_expanded_item, &e); }
        }
    }
out:
    hd_arena_release(ex->scratch, mark);
    return st;
}

#endif
