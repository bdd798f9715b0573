/* Attention against latent caches, absorbed form:  q' = [q Wk ; q_rope],  s = scale q' . rows,  o = (softmax(s) latents) Wv^T.
 *
 *   1. q' of all heads                        the matrix product of gemm.h: Wk is read once
 *   2. item (group of queries, chunk of keys) the queries of a token are its heads: strips of them meet tiles of AT_KEYS cache rows as in
 *                                             attention_tile.h, running softmax inside the chunk
 *   3. chunks merged in ascending order       per query
 *   4. o of all heads                         the matrix product again
 *   FLOPs 2 (2 c + r) per query and visible position: bound by the FMA units from 16 queries on.  Bytes: the cache once per group.
 *
 * Bits: a query is a lane; its sums run over the positions of a chunk in ascending order whatever lanes lie beside it.  Positions
 * that only some lanes of a strip see are added one by one under a mask, where the sum over the others stopped (AT_CONTINUE). */
#ifndef HD_OPS_CPU_LATENT_ABSORBED_H
#define HD_OPS_CPU_LATENT_ABSORBED_H

#include "ops/cpu/attention_forward.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/latent_plan.h"

enum {
    LATENT_GROUP = 64,          /* queries of an item; with their sums and a tile of keys 430 KiB at c = 512 */
    LATENT_MAX_QUERIES = 4096,  /* worked on at once, if a token has no more heads */
    LATENT_MAX_PIECES = 64,     /* sequences worked on at once */
    LATENT_PARTIAL_FLOATS = 2 << 20 /* contexts of chunks that wait to be merged */
};

/* New tokens of one sequence that are worked on together: rows [first_row, first_row + n) of q; the first sees n_seen positions. */
typedef struct latent_piece {
    const hd_tensor *rows;
    int64_t first_row, n, n_seen;
} latent_piece;

/* Queries [begin, begin + n) of a piece: query i is head i % H of its row i / H. */
typedef struct latent_group {
    const latent_piece *piece;
    int64_t begin, n;
} latent_group;

typedef struct latent_job {
    const hd_latent_spec *spec;
    const hd_tensor *q;
    hd_tensor *o;
    int64_t c, r, width, ld; /* width = c + r; ld: row stride of tiles */
    float scale;
    latent_piece pieces[LATENT_MAX_PIECES];
    latent_group *groups;
    int64_t n_pieces, n_groups, first_row, n_row;
    float *queries;      /* (n_row H, c): q Wk */
    float *partial;      /* (n_row H, window, c): contexts of chunks, relative to their maxima */
    float *partial_stat; /* (n_row H, window, 2): maximum, sum */
    float *context;      /* (n_row H, c) merged, with stat (n_row H, 2) */
    float *stat;
    int64_t window, chunk_begin, n_chunks; /* chunks at once, the first of them, all */
    float *work;                           /* (n_threads, work_len) */
    int64_t work_len;
} latent_job;

typedef struct latent_work {
    float *rows;                /* (AT_NR, ld): q' and, at the end, contexts */
    float *q;                   /* strips of q' * scale */
    float *tile;                /* (AT_KEYS, ld) cache rows */
    float *scores;              /* (AT_KEYS, AT_NR): one strip */
    float *o;                   /* strips of contexts^T */
    float *max, *sum, *rescale; /* (LATENT_GROUP) */
} latent_work;

static int64_t latent_strip_len(int64_t width)
{
    return hd_ceil_div(width, AT_NR) * AT_NR * AT_NR;
}

static int64_t latent_layout(const latent_job *job, float *base, latent_work *w)
{
    int64_t n = 0;
    n = at_carve(&w->rows, base, n, AT_NR * job->ld);
    n = at_carve(&w->q, base, n, LATENT_GROUP / AT_NR * latent_strip_len(job->width));
    n = at_carve(&w->tile, base, n, AT_KEYS * job->ld);
    n = at_carve(&w->scores, base, n, AT_KEYS * AT_NR);
    n = at_carve(&w->o, base, n, LATENT_GROUP / AT_NR * latent_strip_len(job->c));
    n = at_carve(&w->max, base, n, LATENT_GROUP);
    n = at_carve(&w->sum, base, n, LATENT_GROUP);
    n = at_carve(&w->rescale, base, n, LATENT_GROUP);
    return n;
}

/* ---- narrow strips, and products that fetch the next tile ------------------------------------------------------------------ */

static __attribute__((noinline)) void at_multiply_rows_narrow(const at_product *t)
{
    at_run(1, AT_BY_ROWS, t);
}
static __attribute__((noinline)) void at_multiply_columns_narrow(const at_product *t)
{
    at_run(1, AT_BY_COLUMNS_AHEAD, t);
}
static __attribute__((noinline)) void at_multiply_columns_ahead(const at_product *t)
{
    at_run(2, AT_BY_COLUMNS_AHEAD, t);
}

static __attribute__((noinline)) void at_softmax_narrow(float *scores, int64_t n_keys, float *max, float *sum, float *rescale)
{
    at_softmax_vectors(1, scores, n_keys, max, sum, rescale);
}

/* ---- a strip of queries --------------------------------------------------------------------------------------------------- */

typedef struct latent_strip {
    const latent_group *group;
    int64_t first, n; /* queries of the group */
    int nv;           /* vectors: 1 when so many hold them */
    int32_t seen[AT_NR]; /* positions each lane sees; lanes without a query repeat the last */
    int64_t seen_min, seen_max;
    float *q, *o, *max, *sum, *rescale;
} latent_strip;

static latent_strip latent_make_strip(const latent_job *job, const latent_group *group, const latent_work *w, int64_t first)
{
    latent_strip s = {.group = group, .first = first, .n = hd_min_i64(AT_NR, group->n - first)};
    int64_t h = job->spec->n_head, i = first / AT_NR, begin = group->begin + first;
    s.nv = s.n <= HD_LANES ? 1 : 2;
    for (int64_t l = 0; l < AT_NR; l++) {
        s.seen[l] = (int32_t)(group->piece->n_seen + (begin + hd_min_i64(l, s.n - 1)) / h);
    }
    s.seen_min = s.seen[0];
    s.seen_max = s.seen[AT_NR - 1];
    s.q = w->q + i * latent_strip_len(job->width);
    s.o = w->o + i * latent_strip_len(job->c);
    s.max = w->max + first;
    s.sum = w->sum + first;
    s.rescale = w->rescale + first;
    return s;
}

/* Number of the strip's query l among all queries of the job. */
static int64_t latent_query(const latent_job *job, const latent_strip *s, int64_t l)
{
    const latent_piece *piece = s->group->piece;
    return (piece->first_row - job->first_row) * job->spec->n_head + s->group->begin + s->first + l;
}

static void latent_load_strip(const latent_job *job, const latent_work *w, const latent_strip *s)
{
    int64_t h = job->spec->n_head, head_width = job->spec->qk_nope_head_dim + job->r, lanes = s->nv * HD_LANES;
    for (int64_t l = 0; l < lanes; l++) {
        float *to = w->rows + l * job->ld;
        if (l >= s->n) {
            memset(to, 0, (size_t)job->ld * sizeof *to);
            continue;
        }
        int64_t query = latent_query(job, s, l);
        int64_t at = (job->first_row + query / h) * job->q->stride[0] + query % h * head_width + job->spec->qk_nope_head_dim;
        at_load_row(job->queries + query * job->c, HD_DTYPE_F32, job->scale, to, job->c);
        at_load_row(hd_at(job->q, at), job->q->dtype, job->scale, to + job->c, job->r);
        memset(to + job->width, 0, (size_t)(job->ld - job->width) * sizeof *to);
    }
    at_transpose(w->rows, job->ld, lanes, hd_ceil_div(job->width, HD_LANES) * HD_LANES, s->q, lanes);
    for (int64_t l = 0; l < lanes; l++) {
        s->max[l] = -FLT_MAX;
        s->sum[l] = 0.0f;
    }
}

/* ---- a tile of keys --------------------------------------------------------------------------------------------------------- */

/* Which lanes of vector v see position j. */
HD_INLINE hd_vi latent_seen(const latent_strip *s, int v, int64_t j)
{
    hd_vi seen;
    memcpy(&seen, s->seen + v * HD_LANES, sizeof seen);
    return seen > (int32_t)j;
}

/* Adds the positions [j, j + n) of the tile, at k0 + j of the sequence, to the lanes that see them. */
static void latent_add_masked(const latent_job *job, const latent_work *w, const latent_strip *s, int64_t k0, int64_t j, int64_t n)
{
    int64_t ld = s->nv * HD_LANES;
    for (int64_t end = j + n; j < end; j++) {
        for (int v = 0; v < s->nv; v++) {
            hd_vi seen = latent_seen(s, v, k0 + j);
            hd_vf p = *(const hd_vf_u *)(w->scores + j * ld + v * HD_LANES);
            for (int64_t d = 0; d < job->c; d++) {
                hd_vf_u *o = (hd_vf_u *)(s->o + d * ld + v * HD_LANES);
                *o = hd_select(seen, *o + w->tile[j * job->ld + d] * p, *o);
            }
        }
    }
}

/* The strip against the tile of positions [k0, k0 + n_k); ahead: the rows that come next. */
static void latent_strip_tile(const latent_job *job, const latent_work *w, const latent_strip *s, int64_t k0, int64_t n_k, bool first,
                              const void *ahead)
{
    int64_t ld = s->nv * HD_LANES, n_keys = hd_min_i64(n_k, s->seen_max - k0);
    if (n_keys <= 0) { return; }
    int64_t whole = hd_max_i64(0, hd_min_i64(n_keys, s->seen_min - k0));
    at_product scores = {.a = w->tile, .lda = job->ld, .m = n_keys, .b = s->q, .ldb = ld, .run_len = job->width, .n_runs = 1,
                         .c = w->scores, .ldc = ld};
    at_product context = {.a = w->tile, .lda = job->ld, .m = job->c, .b = w->scores, .ldb = ld, .run_len = whole, .n_runs = 1, .c = s->o,
                          .ldc = ld, .mode = first ? AT_SET : AT_CONTINUE, .scale = s->rescale, .ahead = ahead};
    if (s->nv == 1) { at_multiply_rows_narrow(&scores); } else { at_multiply_rows(&scores); }
    for (int64_t j = whole; j < n_keys; j++) {
        for (int v = 0; v < s->nv; v++) {
            hd_vf_u *x = (hd_vf_u *)(w->scores + j * ld + v * HD_LANES);
            *x = hd_select(latent_seen(s, v, k0 + j), *x, hd_splat(-INFINITY));
        }
    }
    if (s->nv == 1) {
        at_softmax_narrow(w->scores, n_keys, s->max, s->sum, s->rescale);
        at_multiply_columns_narrow(&context);
    } else {
        at_softmax_wide(w->scores, n_keys, s->max, s->sum, s->rescale);
        at_multiply_columns_ahead(&context);
    }
    latent_add_masked(job, w, s, k0, whole, n_keys - whole);
}

/* The chunk's context of each query of the strip that sees some of it. */
static void latent_store_strip(const latent_job *job, const latent_work *w, const latent_strip *s, int64_t chunk)
{
    int64_t lanes = s->nv * HD_LANES, begin = latent_chunk_begin(chunk), columns = hd_ceil_div(job->c, HD_LANES) * HD_LANES;
    at_transpose(s->o, lanes, columns, lanes, w->rows, job->ld);
    for (int64_t l = 0; l < s->n; l++) {
        if (s->seen[l] <= begin) { continue; }
        int64_t slot = latent_query(job, s, l) * job->window + chunk - job->chunk_begin;
        memcpy(job->partial + slot * job->c, w->rows + l * job->ld, (size_t)job->c * sizeof(float));
        job->partial_stat[2 * slot] = s->max[l];
        job->partial_stat[2 * slot + 1] = s->sum[l];
    }
}

/* Item: (chunk of the window, group of queries). */
static void latent_item(void *arg, int64_t item, int thread)
{
    const latent_job *job = arg;
    const latent_group *group = &job->groups[item % job->n_groups];
    const latent_piece *piece = group->piece;
    int64_t chunk = job->chunk_begin + item / job->n_groups, begin = latent_chunk_begin(chunk), n_strips = hd_ceil_div(group->n, AT_NR);
    int64_t end = hd_min_i64(latent_chunk_begin(chunk + 1), piece->n_seen + (group->begin + group->n - 1) / job->spec->n_head);
    latent_work w;
    latent_strip strips[LATENT_GROUP / AT_NR];
    if (begin >= end) { return; }
    (void)latent_layout(job, job->work + thread * job->work_len, &w);
    for (int64_t s = 0; s < n_strips; s++) {
        strips[s] = latent_make_strip(job, group, &w, s * AT_NR);
        latent_load_strip(job, &w, &strips[s]);
    }
    for (int64_t k0 = begin; k0 < end; k0 += AT_KEYS) {
        int64_t n_k = hd_min_i64(AT_KEYS, end - k0);
        const void *next = hd_row(piece->rows, hd_min_i64(k0 + n_k, piece->rows->shape[0] - 1));
        for (int64_t j = 0; j < n_k; j++) { at_load_row(hd_row(piece->rows, k0 + j), piece->rows->dtype, 1.0f, w.tile + j * job->ld, job->width); }
        for (int64_t s = 0; s < n_strips; s++) { latent_strip_tile(job, &w, &strips[s], k0, n_k, k0 == begin, next); }
    }
    for (int64_t s = 0; s < n_strips; s++) { latent_store_strip(job, &w, &strips[s], chunk); }
}

/* ---- merging ------------------------------------------------------------------------------------------------------------------ */

/* context = context exp(m - m') + partial exp(m_chunk - m'),  m' the larger of both; the same for the sums. */
static void latent_merge_chunk(const latent_job *job, int64_t query, int64_t chunk)
{
    int64_t slot = query * job->window + chunk - job->chunk_begin;
    float *context = job->context + query * job->c, *stat = job->stat + 2 * query;
    const float *partial = job->partial + slot * job->c, *from = job->partial_stat + 2 * slot;
    if (chunk == 0) {
        memcpy(context, partial, (size_t)job->c * sizeof *context);
        memcpy(stat, from, 2 * sizeof *stat);
        return;
    }
    float max = from[0] > stat[0] ? from[0] : stat[0];
    hd_vf old = hd_exp_nonpositive(hd_splat(stat[0] - max)), add = hd_exp_nonpositive(hd_splat(from[0] - max));
    HD_MAP_LANES(i, 0, job->c, {
        hd_vf x = hd_load(context, HD_DTYPE_F32, i, job->c) * old + hd_load(partial, HD_DTYPE_F32, i, job->c) * add;
        hd_store(context, HD_DTYPE_F32, i, job->c, x);
    });
    stat[0] = max;
    stat[1] = stat[1] * old[0] + from[1] * add[0];
}

static const latent_piece *latent_piece_of(const latent_job *job, int64_t row)
{
    int64_t i = 0;
    while (row >= job->pieces[i].first_row + job->pieces[i].n) { i++; }
    return &job->pieces[i];
}

/* Item: a query.  After its last chunk the context is divided by the sum. */
static void latent_merge_item(void *arg, int64_t query, int thread)
{
    const latent_job *job = arg;
    int64_t row = job->first_row + query / job->spec->n_head;
    const latent_piece *piece = latent_piece_of(job, row);
    int64_t n_chunks = latent_chunk_count(piece->n_seen + row - piece->first_row), end = hd_min_i64(job->chunk_begin + job->window, n_chunks);
    float *context = job->context + query * job->c;
    (void)thread;
    for (int64_t chunk = job->chunk_begin; chunk < end; chunk++) { latent_merge_chunk(job, query, chunk); }
    if (end != n_chunks || job->chunk_begin >= end) { return; }
    float factor = 1.0f / job->stat[2 * query + 1];
    HD_MAP_LANES(i, 0, job->c, { hd_store(context, HD_DTYPE_F32, i, job->c, hd_load(context, HD_DTYPE_F32, i, job->c) * factor); });
}

/* ---- a batch of pieces ---------------------------------------------------------------------------------------------------------- */

/* The products of all heads: q Wk into `queries` (k = n), context Wv^T into o (k = c). */
static hd_gemm_form latent_query_form(const latent_job *job, const hd_weight *kv_b)
{
    return (hd_gemm_form){.a_dtype = job->q->dtype, .b_dtype = kv_b->value.dtype, .c_dtype = HD_DTYPE_F32,
                          .a_row = job->q->stride[0], .a_column = 1, .b_row = kv_b->value.stride[0], .b_column = 1,
                          .accum = HD_SET};
}

static hd_gemm_form latent_value_form(const latent_job *job, const hd_weight *kv_b)
{
    return (hd_gemm_form){.a_dtype = HD_DTYPE_F32, .b_dtype = kv_b->value.dtype, .c_dtype = job->o->dtype,
                          .a_row = job->spec->n_head * job->c, .a_column = 1, .b_row = 1, .b_column = kv_b->value.stride[0],
                          .accum = HD_SET};
}

static hd_status latent_project(hd_exec *ex, const latent_job *job, const hd_weight *kv_b, bool values, hd_err *err)
{
    hd_status st;
    const hd_latent_spec *s = job->spec;
    int64_t h = s->n_head, n = s->qk_nope_head_dim, v = s->v_head_dim, k = values ? job->c : n;
    hd_gemm_form form = values ? latent_value_form(job, kv_b) : latent_query_form(job, kv_b);
    hd_gemm_limits limits = {.n_problems = h, .m_max = job->n_row, .n_max = values ? v : job->c, .k_max = k, .m_total = job->n_row * h,
                             .k_total = h * k, .a_total = job->n_row * h * k};
    hd_gemm_batch batch;
    size_t mark = hd_arena_mark(ex->scratch);
    HD_TRY(hd_gemm_reserve(ex, &form, &limits, &batch, err));
    if (ex->dry) { goto out; }
    for (int64_t i = 0; i < h; i++) {
        const void *w = hd_row(&kv_b->value, i * (n + v) + (values ? n : 0));
        void *context = job->context + i * job->c, *query = job->queries + i * job->c;
        batch.problems[i] = (hd_gemm_problem){.m = job->n_row, .n = limits.n_max, .k = k, .b = w,
                                              .c_row = values ? job->o->stride[0] : h * job->c,
                                              .a = values ? context : hd_at(job->q, job->first_row * job->q->stride[0] + i * (n + job->r)),
                                              .c = values ? hd_at(job->o, job->first_row * job->o->stride[0] + i * v) : query};
    }
    hd_gemm_run(ex, &form, h, &batch);
out:
    hd_arena_release(ex->scratch, mark);
    return st;
}

static hd_status latent_floats(hd_exec *ex, int64_t n, float **out, hd_err *err)
{
    return hd_arena_alloc(ex->scratch, (size_t)n * sizeof(float), (void **)out, err);
}

static hd_status latent_take_scratch(hd_exec *ex, latent_job *job, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n_query = job->n_row * job->spec->n_head;
    latent_work w;
    for (int64_t i = 0; i < job->n_pieces; i++) {
        job->n_groups += hd_ceil_div(job->pieces[i].n * job->spec->n_head, LATENT_GROUP);
        job->n_chunks = hd_max_i64(job->n_chunks, latent_chunk_count(job->pieces[i].n_seen + job->pieces[i].n - 1));
    }
    job->window = hd_max_i64(1, hd_min_i64(job->n_chunks, LATENT_PARTIAL_FLOATS / (n_query * job->c)));
    job->work_len = latent_layout(job, NULL, &w);
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)job->n_groups * sizeof *job->groups, (void **)&job->groups, err));
    HD_TRY(latent_floats(ex, n_query * job->c, &job->queries, err));
    HD_TRY(latent_floats(ex, n_query * job->c, &job->context, err));
    HD_TRY(latent_floats(ex, n_query * 2, &job->stat, err));
    HD_TRY(latent_floats(ex, n_query * job->window * job->c, &job->partial, err));
    HD_TRY(latent_floats(ex, n_query * job->window * 2, &job->partial_stat, err));
    HD_TRY(latent_floats(ex, ex->n_threads * job->work_len, &job->work, err));
out:
    return st;
}

static void latent_make_groups(latent_job *job)
{
    int64_t at = 0;
    for (int64_t i = 0; i < job->n_pieces; i++) {
        int64_t n_query = job->pieces[i].n * job->spec->n_head;
        for (int64_t begin = 0; begin < n_query; begin += LATENT_GROUP) {
            job->groups[at++] = (latent_group){&job->pieces[i], begin, hd_min_i64(LATENT_GROUP, n_query - begin)};
        }
    }
}

static hd_status latent_absorbed_run(hd_exec *ex, latent_job *job, const hd_weight *kv_b, hd_err *err)
{
    hd_status st;
    size_t mark = hd_arena_mark(ex->scratch);
    HD_TRY(latent_take_scratch(ex, job, err));
    HD_TRY(latent_project(ex, job, kv_b, false, err));
    if (!ex->dry) {
        latent_make_groups(job);
        for (job->chunk_begin = 0; job->chunk_begin < job->n_chunks; job->chunk_begin += job->window) {
            int64_t n = hd_min_i64(job->window, job->n_chunks - job->chunk_begin);
            hd_parallel_for(ex->n_threads, n * job->n_groups, latent_item, job);
            hd_parallel_for(ex->n_threads, job->n_row * job->spec->n_head, latent_merge_item, job);
        }
    }
    HD_TRY(latent_project(ex, job, kv_b, true, err));
out:
    hd_arena_release(ex->scratch, mark);
    return st;
}

#endif
