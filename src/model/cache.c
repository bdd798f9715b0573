/* Forward passes against latent caches.  See cache.h.  Shapes: legend in layer.h; T positions of one sequence, new ones included. */
#include "model/cache.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "model/layer.h"
#include "model/weights.h"

static int64_t latent_width(const hd_dims *d) { return d->kv_lora_rank + d->qk_rope_head_dim; }

static hd_status new_cache(const hd_model *model, hd_arena *arena, int64_t first_layer, int64_t n_layer, int64_t capacity, hd_cache *cache,
                           hd_err *err)
{
    int64_t shape[3] = {n_layer, capacity, latent_width(&model->dims)};
    *cache = (hd_cache){.first_layer = first_layer, .capacity = capacity};
    return hd_tensor_new(arena, model->options.dtype, 3, shape, &cache->rows, err);
}

/* Rows [begin, begin + n) of a layer's cache, (n, c + r). */
static hd_tensor cache_rows(const hd_cache *cache, int64_t layer, int64_t begin, int64_t n)
{
    hd_tensor rows = hd_tensor_index(&cache->rows, layer - cache->first_layer);
    return hd_tensor_slice(&rows, 0, begin, n);
}

hd_status hd_cache_new(const hd_model *model, hd_arena *arena, int64_t capacity, hd_cache *cache, hd_err *err)
{
    return new_cache(model, arena, 0, model->dims.n_layer, capacity, cache, err);
}

hd_status hd_cache_new_mtp(const hd_model *model, hd_arena *arena, int64_t capacity, hd_cache *cache, hd_err *err)
{
    return new_cache(model, arena, model->dims.n_layer, 1, capacity, cache, err);
}

hd_status hd_cache_copy(hd_exec *ex, const hd_cache *from, int64_t length, hd_cache *to, hd_err *err)
{
    for (int64_t i = 0; i < from->rows.shape[0] && length > 0; i++) {
        hd_tensor a = cache_rows(from, from->first_layer + i, 0, length), b = cache_rows(to, to->first_layer + i, 0, length);
        hd_status st = hd_copy(ex, &a, &b, err);
        if (st != HD_OK) { return st; }
    }
    to->length = length;
    return HD_OK;
}

/* ---- attention of one layer ------------------------------------------------------------------------------------------ */

/* The new tokens' rows go behind those that are there. */
static hd_status append(hd_pass *p, const hd_layer *layer, const hd_tensor *latent, const hd_tensor *k_rope)
{
    hd_status st = HD_OK;
    int64_t c = p->dims->kv_lora_rank, r = p->dims->qk_rope_head_dim, first = 0;
    for (int64_t s = 0; s < p->n_extension; s++) {
        const hd_extension *e = &p->extensions[s];
        hd_tensor rows = cache_rows(e->cache, layer->index, e->cache->length, e->n);
        hd_tensor to_latent = hd_tensor_slice(&rows, 1, 0, c), to_rope = hd_tensor_slice(&rows, 1, c, r);
        hd_tensor from_latent = hd_tensor_slice(latent, 0, first, e->n), from_rope = hd_tensor_slice(k_rope, 0, first, e->n);
        HD_TRY(hd_copy(p->ex, &from_latent, &to_latent, p->err));
        HD_TRY(hd_copy(p->ex, &from_rope, &to_rope, p->err));
        first += e->n;
    }
out:
    return st;
}

/* Columns of head h in (N, H width), as (N, length). */
static hd_tensor head(const hd_tensor *t, int64_t h, int64_t width, int64_t begin, int64_t length)
{
    return hd_tensor_slice(t, 1, h * width + begin, length);
}

/* q (N, H (n + r)) -> absorbed (N, H (c + r)) f32 = per head [q_nope Wk ; q_rope]: one rounding less than the expanded form has. */
static hd_status absorb_query(hd_pass *p, const hd_layer *layer, const hd_tensor *q, hd_tensor *absorbed)
{
    hd_status st;
    const hd_dims *d = p->dims;
    int64_t n = d->qk_nope_head_dim, r = d->qk_rope_head_dim, c = d->kv_lora_rank;
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, d->n_head * (c + r), absorbed));
    for (int64_t h = 0; h < d->n_head; h++) {
        hd_weight key = hd_weight_rows(layer->kv_b_proj, h * (n + d->v_head_dim), n);
        hd_tensor nope = head(q, h, n + r, 0, n), latent = head(absorbed, h, c + r, 0, c);
        hd_tensor rope = head(q, h, n + r, n, r), to_rope = head(absorbed, h, c + r, c, r);
        HD_TRY(hd_linear_bwd_input(p->ex, &nope, &key, HD_SET, &latent, p->err));
        HD_TRY(hd_copy(p->ex, &rope, &to_rope, p->err));
    }
out:
    return st;
}

/* context (rows of one sequence, H c) f32 = softmax(scale q' cache^T) latents.  counts: keys each new token sees. */
static hd_status attend(hd_pass *p, const hd_layer *layer, const hd_extension *e, const hd_tensor *q, const hd_tensor *counts,
                        hd_tensor *context)
{
    hd_status st;
    const hd_dims *d = p->dims;
    int64_t c = d->kv_lora_rank, total = e->cache->length + e->n;
    int64_t by_head[2] = {e->n * d->n_head, latent_width(d)}, out_shape[2] = {e->n * d->n_head, c};
    hd_tensor scores, q_heads = hd_tensor_reshape(q, 2, by_head), out = hd_tensor_reshape(context, 2, out_shape);
    hd_weight keys = {.value = cache_rows(e->cache, layer->index, 0, total), .layout = HD_LAYOUT_OUT_IN}, latents = keys;
    latents.value = hd_tensor_slice(&keys.value, 1, 0, c);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, by_head[0], total, &scores));
    HD_TRY(hd_linear_fwd(p->ex, &q_heads, &keys, HD_SET, &scores, p->err));
    HD_TRY(hd_softmax_fwd(p->ex, &scores, counts, d->n_head, d->softmax_scale, &scores, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &scores, &latents, HD_SET, &out, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}

static hd_status attend_all(hd_pass *p, const hd_layer *layer, const hd_tensor *q, hd_tensor *context)
{
    hd_status st;
    int64_t first = 0;
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, p->n_row, p->dims->n_head * p->dims->kv_lora_rank, context));
    for (int64_t s = 0; s < p->n_extension; s++) {
        const hd_extension *e = &p->extensions[s];
        hd_tensor rows = hd_tensor_slice(q, 0, first, e->n), out = hd_tensor_slice(context, 0, first, e->n);
        hd_tensor counts = hd_tensor_slice(&p->key_counts, 0, first, e->n);
        HD_TRY(attend(p, layer, e, &rows, &counts, &out));
        first += e->n;
    }
out:
    return st;
}

/* o (N, H v) = per head context Wv^T */
static hd_status expand_values(hd_pass *p, const hd_layer *layer, const hd_tensor *context, hd_tensor *o)
{
    hd_status st;
    const hd_dims *d = p->dims;
    int64_t n = d->qk_nope_head_dim, v = d->v_head_dim, c = d->kv_lora_rank;
    HD_TRY(hd_pass_rows(p, d->n_head * v, o));
    for (int64_t h = 0; h < d->n_head; h++) {
        hd_weight value = hd_weight_rows(layer->kv_b_proj, h * (n + v) + n, v);
        hd_tensor from = head(context, h, c, 0, c), to = head(o, h, v, 0, v);
        HD_TRY(hd_linear_fwd(p->ex, &from, &value, HD_SET, &to, p->err));
    }
out:
    return st;
}

hd_status hd_attention_cached(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_tensor *o)
{
    hd_status st;
    hd_attention a = {0};
    hd_tensor absorbed, context;
    HD_TRY(hd_pass_norm(p, x, layer->input_norm, p->dims->rms_norm_eps, &a.norm_x, &a.rstd_x));
    HD_TRY(hd_attention_query(p, layer, &a));
    HD_TRY(hd_attention_latent(p, layer, &a));
    hd_tensor k_rope = hd_tensor_slice(&a.kv_a, 1, p->dims->kv_lora_rank, p->dims->qk_rope_head_dim);
    HD_TRY(append(p, layer, &a.norm_kv, &k_rope));
    HD_TRY(absorb_query(p, layer, &a.q, &absorbed));
    HD_TRY(attend_all(p, layer, &absorbed, &context));
    HD_TRY(expand_values(p, layer, &context, o));
out:
    return st;
}

hd_status hd_attention_remember(hd_pass *p, const hd_layer *layer, const hd_tensor *x)
{
    hd_status st;
    hd_attention a = {0};
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(hd_pass_norm(p, x, layer->input_norm, p->dims->rms_norm_eps, &a.norm_x, &a.rstd_x));
    HD_TRY(hd_attention_latent(p, layer, &a));
    hd_tensor k_rope = hd_tensor_slice(&a.kv_a, 1, p->dims->kv_lora_rank, p->dims->qk_rope_head_dim);
    HD_TRY(append(p, layer, &a.norm_kv, &k_rope));
out:
    hd_arena_release(p->step, mark);
    return st;
}

/* ---- a pass ------------------------------------------------------------------------------------------------------------- */

static hd_status check_list(const hd_model *model, const hd_extension *list, int64_t n, int64_t *total, hd_err *err)
{
    *total = 0;
    for (int64_t s = 0; s < n; s++) {
        const hd_extension *e = &list[s];
        if (e->n < 1 || e->cache->length > e->cache->capacity - e->n) {
            return HD_FAIL(err, HD_E_INVALID, "sequence %" PRId64 ": %" PRId64 " new tokens behind %" PRId64 ", want 1 and more, and no more than %"
                           PRId64 " in all", s, e->n, e->cache->length, e->cache->capacity);
        }
        if (e->cache->capacity > model->options.max_positions) {
            return HD_FAIL(err, HD_E_INVALID, "a cache of %" PRId64 " positions, the model was opened for %" PRId64, e->cache->capacity,
                           model->options.max_positions);
        }
        *total += e->n;
    }
    return HD_OK;
}

/* Token ids, positions and counts on the host, one row per new token. */
typedef struct host_rows {
    int32_t *tokens, *positions, *segments, *counts;
    float *weights;
} host_rows;

static hd_status make_rows(const hd_extension *list, int64_t n, int64_t total, host_rows *rows, hd_err *err)
{
    void *memory = NULL;
    hd_status st = hd_alloc((size_t)total, 5 * sizeof(int32_t), "rows of a step", &memory, err);
    if (st != HD_OK) { return st; }
    int32_t *all = memory;
    *rows = (host_rows){all, all + total, all + 2 * total, all + 3 * total, (float *)(void *)(all + 4 * total)};
    int64_t at = 0;
    for (int64_t s = 0; s < n; s++) {
        for (int64_t i = 0; i < list[s].n; i++, at++) {
            rows->tokens[at] = list[s].tokens != NULL ? list[s].tokens[i] : 0; /* a dry pass has none */
            rows->positions[at] = (int32_t)(list[s].cache->length + i);
            rows->segments[at] = 1;
            rows->counts[at] = rows->positions[at] + 1;
            rows->weights[at] = 1.0f;
        }
    }
    return HD_OK;
}

hd_status hd_pass_open_cached(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, hd_leaf *leaf, hd_pass *p,
                              hd_err *err)
{
    hd_status st;
    int64_t total;
    host_rows rows = {0};
    *leaf = (hd_leaf){.n_seq = 1, .weight_total = 1.0, .mtp_weight_total = 1.0, .n_seq_total = 1};
    HD_TRY(check_list(model, list, n, &total, err));
    HD_TRY(make_rows(list, n, total, &rows, err));
    leaf->seq_len = leaf->n_token_total = total;
    hd_leaf_rows host = {.n_seq = 1, .seq_len = total, .inputs = rows.tokens, .targets = rows.tokens, .positions = rows.positions,
                         .segments = rows.segments, .loss_weights = rows.weights};
    HD_TRY(hd_leaf_upload(model, ex, step, &host, leaf, err));
    HD_TRY(hd_pass_open(model, ex, step, leaf, NULL, p, err));
    p->extensions = list;
    p->n_extension = n;
    HD_TRY(hd_pass_vector(p, HD_DTYPE_I32, total, &p->key_counts));
    HD_TRY(hd_exec_upload(ex, rows.counts, &p->key_counts, err));
out:
    hd_free(rows.tokens);
    return st;
}

hd_status hd_model_extend(hd_model *model, hd_exec *ex, hd_arena *step, const hd_extension *list, int64_t n, hd_tensor *hidden, hd_err *err)
{
    hd_status st;
    hd_pass p;
    hd_leaf leaf;
    HD_TRY(hd_pass_open_cached(model, ex, step, list, n, &leaf, &p, err));
    HD_TRY(hd_trunk(&p, hidden));
    for (int64_t s = 0; s < n; s++) { list[s].cache->length += list[s].n; }
out:
    return st;
}
