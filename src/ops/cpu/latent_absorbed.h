/* Attention against latent caches, absorbed form:  q' = [q Wk ; q_rope],  s = scale q' . rows,  o = (softmax(s) latents) Wv^T.
 *
 *   1. q Wk of all heads                      the matrix product of gemm.h: Wk is read once; in steps latent_step.h
 *   2. strips of q'                           the queries of a token are its heads; a query is a lane of a strip (attention_tile.h)
 *   3. item (group of strips, chunk of keys)  strips meet tiles of AT_KEYS cache rows, running softmax inside the chunk
 *   4. chunks merged in ascending order       per slice of a strip's columns
 *   5. o of all heads                         the same again
 *   FLOPs 2 (2 c + r) per query and visible position: bound by the FMA units from 16 queries on.  Bytes: the cache once per group.
 *
 * Bits: the sums of a lane run over the positions of a chunk in ascending order whatever lanes lie beside it.  Positions that only
 * some lanes of a strip see are added one by one under a mask, where the sum over the others stopped (AT_CONTINUE). */
#ifndef HD_OPS_CPU_LATENT_ABSORBED_H
#define HD_OPS_CPU_LATENT_ABSORBED_H

#include "ops/cpu/attention_forward.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/latent_job.h"
#include "ops/cpu/latent_step.h"

typedef struct latent_work {
    float *rows;    /* (AT_NR, ld): a strip by queries */
    float *tile;    /* (AT_KEYS, ld): cache rows as f32 */
    const float *keys; /* (AT_KEYS, keys_ld): the tile, or f32 rows of the cache where they lie */
    int64_t keys_ld;
    float *scores;  /* (AT_KEYS, lanes): one strip */
    float *rescale; /* (lanes) */
} latent_work;

static latent_work latent_layout(const latent_job *job, float *base, int64_t *len)
{
    latent_work w = {0};
    int64_t n = 0;
    n = at_carve(&w.rows, base, n, AT_NR * job->ld);
    n = at_carve(&w.tile, base, n, AT_KEYS * job->ld);
    n = at_carve(&w.scores, base, n, AT_KEYS * AT_NR);
    *len = at_carve(&w.rescale, base, n, AT_NR);
    return w;
}

static latent_work latent_work_of(const latent_job *job, int thread)
{
    int64_t len;
    return latent_layout(job, job->work + thread * job->work_len, &len);
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

/* ---- strips of queries -------------------------------------------------------------------------------------------------------- */

static latent_strip latent_make_strip(const latent_job *job, const latent_piece *piece, int64_t first, int64_t n, int64_t lane)
{
    latent_strip s = {.piece = piece, .first = first, .n = n, .lane = lane, .lanes = n <= HD_LANES ? HD_LANES : AT_NR};
    for (int64_t l = 0; l < AT_NR; l++) { s.seen[l] = (int32_t)(piece->n_seen + (first + hd_min_i64(l, n - 1)) / job->spec->n_head); }
    s.seen_min = s.seen[0];
    s.seen_max = s.seen[AT_NR - 1];
    return s;
}

/* Number of the strip's lane l among all queries of the job. */
static int64_t latent_query(const latent_job *job, const latent_strip *s, int64_t l)
{
    return (s->piece->first_row - job->first_row) * job->spec->n_head + s->first + l;
}

/* Where the strip's context and statistics of a chunk of the window lie. */
static float *latent_partial(const latent_job *job, const latent_strip *s, int64_t chunk)
{
    return job->partial + (s->lane * job->window + (chunk - job->chunk_begin) * s->lanes) * job->c_padded;
}

static float *latent_partial_stat(const latent_job *job, const latent_strip *s, int64_t chunk)
{
    return job->partial_stat + 2 * (s->lane * job->window + (chunk - job->chunk_begin) * s->lanes);
}

/* Item: a strip.  q' * scale of its queries, transposed. */
static void latent_strip_item(void *arg, int64_t item, int thread)
{
    const latent_job *job = arg;
    const latent_strip *s = &job->strips[item];
    latent_work w = latent_work_of(job, thread);
    int64_t h = job->spec->n_head, head_width = job->spec->qk_nope_head_dim + job->r;
    for (int64_t l = 0; l < s->lanes; l++) {
        float *to = w.rows + l * job->ld;
        memset(to, 0, (size_t)job->ld * sizeof *to);
        if (l >= s->n) { continue; }
        int64_t query = latent_query(job, s, l);
        int64_t at = (job->first_row + query / h) * job->q->stride[0] + query % h * head_width + job->spec->qk_nope_head_dim;
        at_load_row(job->rows + query * job->c_padded, HD_DTYPE_F32, job->scale, to, job->c);
        at_load_row(hd_at(job->q, at), job->q->dtype, job->scale, to + job->c, job->r);
    }
    at_transpose(w.rows, job->ld, s->lanes, job->width_padded, job->panels + s->lane * job->width_padded, s->lanes);
}

/* ---- strips against tiles of keys ------------------------------------------------------------------------------------------------ */

/* Which lanes from `lane` on see position j. */
HD_INLINE hd_vi latent_seen(const latent_strip *s, int64_t lane, int64_t j)
{
    hd_vi seen;
    memcpy(&seen, s->seen + lane, sizeof seen);
    return seen > (int32_t)j;
}

/* Adds the positions [j, end) of the tile, at k0 + j of the sequence, to the lanes that see them. */
static void latent_add_masked(const latent_job *job, const latent_work *w, const latent_strip *s, int64_t k0, int64_t j, int64_t end, float *o)
{
    for (; j < end; j++) {
        for (int64_t v = 0; v < s->lanes; v += HD_LANES) {
            hd_vi seen = latent_seen(s, v, k0 + j);
            hd_vf p = *(const hd_vf_u *)(w->scores + j * s->lanes + v);
            for (int64_t d = 0; d < job->c; d++) {
                hd_vf_u *sum = (hd_vf_u *)(o + d * s->lanes + v);
                *sum = hd_select(seen, *sum + w->keys[j * w->keys_ld + d] * p, *sum);
            }
        }
    }
}

/* The strip against the tile of positions [k0, k0 + n_k) of a chunk; ahead: the rows that come next. */
static void latent_strip_tile(const latent_job *job, const latent_work *w, const latent_strip *s, int64_t chunk, int64_t k0, int64_t n_k,
                              const void *ahead)
{
    int64_t n_keys = hd_min_i64(n_k, s->seen_max - k0), whole = hd_max_i64(0, hd_min_i64(n_keys, s->seen_min - k0));
    float *o = latent_partial(job, s, chunk), *max = latent_partial_stat(job, s, chunk), *sum = max + s->lanes;
    if (n_keys <= 0) { return; }
    at_product scores = {.a = w->keys, .lda = w->keys_ld, .m = n_keys, .b = job->panels + s->lane * job->width_padded, .ldb = s->lanes,
                         .run_len = job->width, .n_runs = 1, .c = w->scores, .ldc = s->lanes};
    at_product context = {.a = w->keys, .lda = w->keys_ld, .m = job->c, .b = w->scores, .ldb = s->lanes, .run_len = whole, .n_runs = 1, .c = o,
                          .ldc = s->lanes, .mode = k0 == latent_chunk_begin(chunk) ? AT_SET : AT_CONTINUE, .scale = w->rescale, .ahead = ahead};
    if (s->lanes == HD_LANES) { at_multiply_rows_narrow(&scores); } else { at_multiply_rows(&scores); }
    for (int64_t j = whole; j < n_keys; j++) {
        for (int64_t v = 0; v < s->lanes; v += HD_LANES) {
            hd_vf_u *x = (hd_vf_u *)(w->scores + j * s->lanes + v);
            *x = hd_select(latent_seen(s, v, k0 + j), *x, hd_splat(-INFINITY));
        }
    }
    if (s->lanes == HD_LANES) {
        at_softmax_narrow(w->scores, n_keys, max, sum, w->rescale);
        at_multiply_columns_narrow(&context);
    } else {
        at_softmax_wide(w->scores, n_keys, max, sum, w->rescale);
        at_multiply_columns_ahead(&context);
    }
    latent_add_masked(job, w, s, k0, whole, n_keys, o);
}

static void latent_clear_stat(const latent_job *job, const latent_strip *s, int64_t chunk)
{
    float *stat = latent_partial_stat(job, s, chunk);
    for (int64_t l = 0; l < s->lanes; l++) {
        stat[l] = -FLT_MAX;
        stat[s->lanes + l] = 0.0f;
    }
}

/* Rows [k0, k0 + n_k) as keys: f32 rows stay where they are. */
static void latent_load_keys(const latent_job *job, const hd_tensor *rows, int64_t k0, int64_t n_k, latent_work *w)
{
    if (rows->dtype == HD_DTYPE_F32) {
        w->keys = hd_row(rows, k0);
        w->keys_ld = rows->stride[0];
        return;
    }
    for (int64_t j = 0; j < n_k; j++) { at_load_row(hd_row(rows, k0 + j), rows->dtype, 1.0f, w->tile + j * job->ld, job->width); }
    w->keys = w->tile;
    w->keys_ld = job->ld;
}

/* Item: (chunk of the window, the last ones first; group of strips). */
static void latent_chunk_item(void *arg, int64_t item, int thread)
{
    const latent_job *job = arg;
    int64_t in_window = hd_min_i64(job->window, job->n_chunks - job->chunk_begin), chunk = job->chunk_begin + in_window - 1 - item / job->n_groups;
    int64_t first = job->groups[item % job->n_groups], last = job->groups[item % job->n_groups + 1] - 1;
    const hd_tensor *rows = job->strips[first].piece->rows;
    int64_t begin = latent_chunk_begin(chunk), end = hd_min_i64(latent_chunk_begin(chunk + 1), job->strips[last].seen_max);
    latent_work w = latent_work_of(job, thread);
    if (begin >= end) { return; }
    for (int64_t s = first; s <= last; s++) { latent_clear_stat(job, &job->strips[s], chunk); }
    for (int64_t k0 = begin; k0 < end; k0 += AT_KEYS) {
        int64_t n_k = hd_min_i64(AT_KEYS, end - k0);
        const void *next = hd_row(rows, hd_min_i64(k0 + n_k, rows->shape[0] - 1));
        latent_load_keys(job, rows, k0, n_k, &w);
        for (int64_t s = first; s <= last; s++) { latent_strip_tile(job, &w, &job->strips[s], chunk, k0, n_k, next); }
    }
}

/* ---- merging ---------------------------------------------------------------------------------------------------------------------- */

/* Columns [begin, end) of a strip's context: each slice keeps maxima and sums of its own, the same in all. */
typedef struct latent_slice {
    const latent_strip *strip;
    int64_t begin, end;
    float *context, *stat;
} latent_slice;

static latent_slice latent_make_slice(const latent_job *job, int64_t item)
{
    const latent_strip *s = &job->strips[item / job->n_slices];
    int64_t i = item % job->n_slices, begin = i * LATENT_SLICE;
    return (latent_slice){s, begin, hd_min_i64(job->c_padded, begin + LATENT_SLICE), job->context + s->lane * job->c_padded,
                          job->stat + 2 * (s->lane * job->n_slices + i * s->lanes)};
}

/* context = context exp(m - m') + partial exp(m_chunk - m'),  m' the larger of both, in the lanes from v on that see the chunk; the same
 * for the sums. */
static void latent_merge_chunk(const latent_job *job, const latent_slice *t, int64_t chunk, int64_t v)
{
    const latent_strip *s = t->strip;
    const float *partial = latent_partial(job, s, chunk), *from = latent_partial_stat(job, s, chunk) + v;
    hd_vi seen = latent_seen(s, v, latent_chunk_begin(chunk));
    hd_vf_u *max = (hd_vf_u *)(t->stat + v), *sum = (hd_vf_u *)(t->stat + s->lanes + v);
    hd_vf added_max = *(const hd_vf_u *)from, added_sum = *(const hd_vf_u *)(from + s->lanes), larger = hd_vmax(added_max, *max);
    hd_vf old = hd_exp_nonpositive(*max - larger), add = hd_exp_nonpositive(added_max - larger);
    *max = hd_select(seen, larger, *max);
    *sum = hd_select(seen, *sum * old + added_sum * add, *sum);
    for (int64_t d = t->begin; d < t->end; d++) {
        hd_vf_u *x = (hd_vf_u *)(t->context + d * s->lanes + v);
        *x = hd_select(seen, *x * old + *(const hd_vf_u *)(partial + d * s->lanes + v) * add, *x);
    }
}

/* The first chunk, which every lane sees. */
static void latent_merge_first(const latent_job *job, const latent_slice *t)
{
    int64_t lanes = t->strip->lanes, at = t->begin * lanes;
    memcpy(t->context + at, latent_partial(job, t->strip, 0) + at, (size_t)((t->end - t->begin) * lanes) * sizeof(float));
    memcpy(t->stat, latent_partial_stat(job, t->strip, 0), (size_t)(2 * lanes) * sizeof(float));
}

/* Contexts over their sums, by queries again. */
static void latent_finish_slice(const latent_job *job, const latent_work *w, const latent_slice *t)
{
    const latent_strip *s = t->strip;
    at_transpose(t->context + t->begin * s->lanes, s->lanes, t->end - t->begin, s->lanes, w->rows, job->ld);
    for (int64_t l = 0; l < s->n; l++) {
        float factor = 1.0f / t->stat[s->lanes + l], *to = job->rows + latent_query(job, s, l) * job->c_padded + t->begin;
        at_load_row(w->rows + l * job->ld, HD_DTYPE_F32, factor, to, t->end - t->begin);
    }
}

/* Item: a slice of a strip, over the chunks of the window. */
static void latent_merge_item(void *arg, int64_t item, int thread)
{
    const latent_job *job = arg;
    latent_slice t = latent_make_slice(job, item);
    const latent_strip *s = t.strip;
    int64_t n_chunks = latent_chunk_count(s->seen_max), end = hd_min_i64(job->chunk_begin + job->window, n_chunks);
    latent_work w = latent_work_of(job, thread);
    for (int64_t chunk = job->chunk_begin; chunk < end; chunk++) {
        if (chunk == 0) {
            latent_merge_first(job, &t);
            continue;
        }
        for (int64_t v = 0; v < s->lanes; v += HD_LANES) { latent_merge_chunk(job, &t, chunk, v); }
    }
    if (end == n_chunks && job->chunk_begin < end) { latent_finish_slice(job, &w, &t); }
}

/* ---- a batch of pieces ---------------------------------------------------------------------------------------------------------- */

/* The products of all heads: q Wk into `rows` (k = n), contexts Wv^T from there into o (k = c). */
static hd_gemm_form latent_query_form(const latent_job *job, const hd_weight *kv_b)
{
    return (hd_gemm_form){.a_dtype = job->q->dtype, .b_dtype = kv_b->value.dtype, .c_dtype = HD_DTYPE_F32,
                          .a_row = job->q->stride[0], .a_column = 1, .b_row = kv_b->value.stride[0], .b_column = 1,
                          .accum = HD_SET};
}

static hd_gemm_form latent_value_form(const latent_job *job, const hd_weight *kv_b)
{
    return (hd_gemm_form){.a_dtype = HD_DTYPE_F32, .b_dtype = kv_b->value.dtype, .c_dtype = job->o->dtype,
                          .a_row = job->spec->n_head * job->c_padded, .a_column = 1, .b_row = 1, .b_column = kv_b->value.stride[0],
                          .accum = HD_SET};
}

static hd_status latent_project(hd_exec *ex, const latent_job *job, bool values, hd_err *err)
{
    hd_status st;
    const hd_latent_spec *s = job->spec;
    const hd_weight *kv_b = job->kv_b;
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
        void *rows = job->rows + i * job->c_padded;
        batch.problems[i] = (hd_gemm_problem){.m = job->n_row, .n = limits.n_max, .k = k, .b = w,
                                              .c_row = values ? job->o->stride[0] : h * job->c_padded,
                                              .a = values ? rows : hd_at(job->q, job->first_row * job->q->stride[0] + i * (n + job->r)),
                                              .c = values ? hd_at(job->o, job->first_row * job->o->stride[0] + i * v) : rows};
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

/* Sizes of strips and groups: both end with a piece. */
static void latent_count(latent_job *job)
{
    for (int64_t i = 0; i < job->n_pieces; i++) {
        int64_t n = job->pieces[i].n * job->spec->n_head;
        job->n_strips += hd_ceil_div(n, AT_NR);
        job->n_groups += hd_ceil_div(n, LATENT_GROUP);
        job->n_lanes += n / AT_NR * AT_NR + (n % AT_NR == 0 ? 0 : n % AT_NR <= HD_LANES ? HD_LANES : AT_NR);
        job->n_chunks = hd_max_i64(job->n_chunks, latent_chunk_count(job->pieces[i].n_seen + job->pieces[i].n - 1));
    }
    job->window = hd_max_i64(1, hd_min_i64(job->n_chunks, LATENT_PARTIAL_FLOATS / (job->n_lanes * job->c_padded)));
    job->n_slices = hd_ceil_div(job->c_padded, LATENT_SLICE);
    (void)latent_layout(job, NULL, &job->work_len);
}

static hd_status latent_take_scratch(hd_exec *ex, latent_job *job, hd_err *err)
{
    hd_status st = HD_OK;
    latent_count(job);
    /* n_lanes * window or a little more: unlike that it never shrinks as lanes are added, so that a plan holds for smaller passes */
    int64_t held = hd_max_i64(job->n_lanes, hd_min_i64(job->n_lanes * job->n_chunks, LATENT_PARTIAL_FLOATS / job->c_padded));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)job->n_strips * sizeof *job->strips, (void **)&job->strips, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(job->n_groups + 1) * sizeof *job->groups, (void **)&job->groups, err));
    HD_TRY(latent_floats(ex, job->n_row * job->spec->n_head * job->c_padded, &job->rows, err));
    HD_TRY(latent_floats(ex, job->n_lanes * job->width_padded, &job->panels, err));
    HD_TRY(latent_floats(ex, job->n_lanes * job->c_padded, &job->context, err));
    HD_TRY(latent_floats(ex, job->n_lanes * 2 * job->n_slices, &job->stat, err));
    HD_TRY(latent_floats(ex, held * job->c_padded, &job->partial, err));
    HD_TRY(latent_floats(ex, held * 2, &job->partial_stat, err));
    HD_TRY(latent_floats(ex, ex->n_threads * job->work_len, &job->work, err));
out:
    return st;
}

static void latent_make_strips(latent_job *job)
{
    int64_t n_strips = 0, n_groups = 0, lane = 0;
    for (int64_t i = 0; i < job->n_pieces; i++) {
        int64_t n = job->pieces[i].n * job->spec->n_head;
        for (int64_t first = 0; first < n; first += AT_NR) {
            if (first % LATENT_GROUP == 0) { job->groups[n_groups++] = n_strips; }
            job->strips[n_strips] = latent_make_strip(job, &job->pieces[i], first, hd_min_i64(AT_NR, n - first), lane);
            lane += job->strips[n_strips++].lanes;
        }
    }
    job->groups[n_groups] = n_strips;
}

static void latent_attend(const hd_exec *ex, latent_job *job)
{
    latent_make_strips(job);
    hd_parallel_for(ex->n_threads, job->n_strips, latent_strip_item, job);
    for (job->chunk_begin = 0; job->chunk_begin < job->n_chunks; job->chunk_begin += job->window) {
        int64_t n = hd_min_i64(job->window, job->n_chunks - job->chunk_begin);
        hd_parallel_for(ex->n_threads, n * job->n_groups, latent_chunk_item, job);
        hd_parallel_for(ex->n_threads, job->n_strips * job->n_slices, latent_merge_item, job);
    }
}

static hd_status latent_absorbed_run(hd_exec *ex, latent_job *job, hd_err *err)
{
    hd_status st;
    size_t mark = hd_arena_mark(ex->scratch);
    HD_TRY(latent_take_scratch(ex, job, err));
    bool steps = hd_stream_takes(ex, job->kv_b);
    HD_TRY(steps ? latent_step_queries(ex, job) : latent_project(ex, job, false, err));
    if (!ex->dry) { latent_attend(ex, job); }
    HD_TRY(steps ? latent_step_values(ex, job, err) : latent_project(ex, job, true, err));
out:
    hd_arena_release(ex->scratch, mark);
    return st;
}

#endif
