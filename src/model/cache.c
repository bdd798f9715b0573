/* Forward passes against latent caches.  See cache.h.  Shapes: legend in layer.h; T positions of one sequence, new ones included. */
#include "model/cache.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "model/layer.h"

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

enum { SEQUENCES = 64 }; /* that one call of the op gets: the weights are read once for all of them */

/* o (N, H v): every new row against its own sequence's cache. */
static hd_status attend(hd_pass *p, const hd_layer *layer, const hd_tensor *q, hd_tensor *o)
{
    hd_status st;
    const hd_dims *d = p->dims;
    const hd_latent_spec spec = {d->n_head, d->qk_nope_head_dim, d->qk_rope_head_dim, d->v_head_dim, d->kv_lora_rank, d->softmax_scale};
    HD_TRY(hd_pass_rows(p, d->n_head * d->v_head_dim, o));
    for (int64_t s = 0, first = 0; s < p->n_extension;) {
        hd_latent_sequence list[SEQUENCES];
        int64_t n = 0, n_row = 0;
        for (; s < p->n_extension && n < SEQUENCES; s++) {
            const hd_extension *e = &p->extensions[s];
            list[n++] = (hd_latent_sequence){cache_rows(e->cache, layer->index, 0, e->cache->length + e->n), e->n};
            n_row += e->n;
        }
        hd_tensor rows = hd_tensor_slice(q, 0, first, n_row), out = hd_tensor_slice(o, 0, first, n_row);
        HD_TRY(hd_latent_attention_fwd(p->ex, &spec, &rows, list, n, layer->kv_b_proj, &out, p->err));
        first += n_row;
    }
out:
    return st;
}

hd_status hd_attention_cached(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_tensor *o)
{
    hd_status st;
    hd_attention a = {0};
    HD_TRY(hd_pass_norm(p, x, layer->input_norm, p->dims->rms_norm_eps, &a.norm_x, &a.rstd_x));
    HD_TRY(hd_attention_query(p, layer, &a));
    HD_TRY(hd_attention_latent(p, layer, &a));
    hd_tensor k_rope = hd_tensor_slice(&a.kv_a, 1, p->dims->kv_lora_rank, p->dims->qk_rope_head_dim);
    HD_TRY(append(p, layer, &a.norm_kv, &k_rope));
    HD_TRY(attend(p, layer, &a.q, o));
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
    int32_t *tokens, *positions, *segments;
    float *weights;
} host_rows;

static hd_status make_rows(const hd_extension *list, int64_t n, int64_t total, host_rows *rows, hd_err *err)
{
    void *memory = NULL;
    hd_status st = hd_alloc((size_t)total, 4 * sizeof(int32_t), "rows of a step", &memory, err);
    if (st != HD_OK) { return st; }
    int32_t *all = memory;
    *rows = (host_rows){all, all + total, all + 2 * total, (float *)(void *)(all + 3 * total)};
    int64_t at = 0;
    for (int64_t s = 0; s < n; s++) {
        for (int64_t i = 0; i < list[s].n; i++, at++) {
            rows->tokens[at] = list[s].tokens != NULL ? list[s].tokens[i] : 0; /* a dry pass has none */
            rows->positions[at] = (int32_t)(list[s].cache->length + i);
            rows->segments[at] = 1;
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
