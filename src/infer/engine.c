/* Sessions, chunks and steps.  See engine.h. */
#include "infer/engine.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "hadal/log.h"
#include "infer/loaded.h"
#include "model/cache.h"

struct hd_engine {
    hd_loaded loaded;
    hd_engine_options options;
    hd_cache *caches;       /* n_session */
    hd_extension *list;     /* n_session: of the step in work */
    size_t cache_bytes;
};

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

static hd_status new_caches(hd_engine *e, hd_err *err)
{
    hd_status st = HD_OK;
    hd_arena *arena = &e->loaded.model_arena;
    size_t before = arena->used;
    for (int64_t s = 0; s < e->options.n_session; s++) {
        HD_TRY(hd_cache_new(&e->loaded.model, arena, e->options.capacity, &e->caches[s], err));
    }
    e->cache_bytes = arena->used - before;
out:
    return st;
}

/* One pass and the logits of chosen rows of it: of the last row, or of every row. */
static hd_status run(hd_engine *e, int64_t n_list, bool every_row, float *logits, hd_err *err)
{
    hd_status st;
    hd_loaded *l = &e->loaded;
    hd_tensor hidden, out;
    size_t mark = hd_arena_mark(&l->step_arena);
    HD_TRY(hd_model_extend(&l->model, &l->ex, &l->step_arena, e->list, n_list, &hidden, err));
    int64_t rows = hidden.shape[0], n = every_row ? rows : 1;
    HD_TRY(hd_tensor_new_2d(&l->step_arena, HD_DTYPE_F32, n, l->dims.vocab_size, &out, err));
    HD_TRY(hd_model_project(&l->model, &l->ex, &l->step_arena, &hidden, rows - n, &out, err));
    HD_TRY(hd_exec_read(&l->ex, &out, logits, err));
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

/* The most that will be done: a whole chunk at the end of a full cache, and a step of all sessions there. */
static hd_status most(void *context, hd_err *err)
{
    hd_status st;
    hd_engine *e = context;
    int64_t capacity = e->options.capacity, chunk = e->options.chunk;
    HD_TRY(new_caches(e, err));
    e->caches[0].length = capacity - chunk;
    e->list[0] = (hd_extension){.cache = &e->caches[0], .n = chunk};
    HD_TRY(run(e, 1, false, NULL, err));
    for (int64_t s = 0; s < e->options.n_session; s++) {
        e->caches[s].length = capacity - 1;
        e->list[s] = (hd_extension){.cache = &e->caches[s], .n = 1};
    }
    st = run(e, e->options.n_session, true, NULL, err);
out:
    return st;
}

static hd_status open_engine(const hd_config *config, const char *path, hd_engine *e, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    hd_engine_options *o = &e->options;
    HD_TRY(hd_loaded_read(config, path, &e->loaded, err));
    if (o->capacity > e->loaded.dims.max_position_embeddings) {
        return HD_FAIL(err, HD_E_CONFIG, "%" PRId64 " positions are asked for (max_target_length), and the model has %" PRId64
                       " (max_position_embeddings)", o->capacity, e->loaded.dims.max_position_embeddings);
    }
    if (o->chunk > o->capacity) { o->chunk = o->capacity; }
    e->loaded.options.max_positions = o->capacity;
    HD_TRY(hd_alloc((size_t)o->n_session, sizeof *e->caches, "sessions", &memory, err));
    e->caches = memory;
    HD_TRY(hd_alloc((size_t)o->n_session, sizeof *e->list, "sessions", &memory, err));
    e->list = memory;
    HD_TRY(hd_loaded_open(config, path, most, e, &e->loaded, err));
    HD_TRY(new_caches(e, err));
    hd_log(HD_LOG_INFO, "cache: %" PRId64 " session%s of %" PRId64 " positions, %.3f GB of %.3f GB in all", o->n_session,
           o->n_session == 1 ? "" : "s", o->capacity, (double)e->cache_bytes / 1e9, (double)hd_engine_memory_bytes(e) / 1e9);
out:
    return st;
}

hd_status hd_engine_open(const hd_config *config, const char *path, const hd_engine_options *options, hd_engine **out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    *out = NULL;
    if (options->n_session < 1 || options->capacity < 1 || options->chunk < 1) {
        return HD_FAIL(err, HD_E_INVALID, "engine: %" PRId64 " sessions of %" PRId64 " positions, chunks of %" PRId64 ": want 1 and more of each",
                       options->n_session, options->capacity, options->chunk);
    }
    HD_TRY(hd_alloc(1, sizeof **out, "engine", &memory, err));
    hd_engine *e = memory;
    e->options = *options;
    st = open_engine(config, path, e, err);
    if (st != HD_OK) {
        hd_engine_close(e);
        goto out;
    }
    *out = e;
out:
    return st;
}

void hd_engine_close(hd_engine *e)
{
    if (e == NULL) { return; }
    hd_loaded_close(&e->loaded);
    hd_free(e->caches);
    hd_free(e->list);
    hd_free(e);
}

const hd_dims *hd_engine_dims(const hd_engine *e) { return &e->loaded.dims; }

size_t hd_engine_cache_bytes(const hd_engine *e) { return e->cache_bytes; }

size_t hd_engine_memory_bytes(const hd_engine *e)
{
    const hd_loaded *l = &e->loaded;
    return l->model_arena.capacity + l->step_arena.capacity + l->scratch_arena.capacity + l->stream_arena.capacity;
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

hd_status hd_engine_extend(hd_engine *e, int64_t session, const int32_t *tokens, int64_t n, float *logits, hd_err *err)
{
    hd_cache *cache = &e->caches[session];
    int64_t before = cache->length, room = cache->capacity - before;
    if (n < 1 || n > room) {
        return HD_FAIL(err, HD_E_INVALID, "session %" PRId64 ": %" PRId64 " new tokens behind %" PRId64 ", want 1 to %" PRId64, session, n, before, room);
    }
    for (int64_t at = 0, part; at < n; at += part) {
        part = n - at < e->options.chunk ? n - at : e->options.chunk;
        e->list[0] = (hd_extension){.cache = cache, .tokens = tokens + at, .n = part};
        hd_status st = run(e, 1, false, logits, err);
        if (st != HD_OK) {
            cache->length = before;
            return st;
        }
    }
    return HD_OK;
}

hd_status hd_engine_step(hd_engine *e, const int64_t *sessions, const int32_t *tokens, int64_t n, float *logits, hd_err *err)
{
    if (n < 1 || n > e->options.n_session) {
        return HD_FAIL(err, HD_E_INVALID, "a step of %" PRId64 " sessions, want 1 to %" PRId64, n, e->options.n_session);
    }
    for (int64_t s = 0; s < n; s++) { e->list[s] = (hd_extension){.cache = &e->caches[sessions[s]], .tokens = &tokens[s], .n = 1}; }
    return run(e, n, true, logits, err);
}

int64_t hd_engine_length(const hd_engine *e, int64_t session) { return e->caches[session].length; }

void hd_engine_rewind(hd_engine *e, int64_t session, int64_t length)
{
    if (length >= 0 && length < e->caches[session].length) { e->caches[session].length = length; }
}

hd_status hd_engine_fork(hd_engine *e, int64_t from, int64_t to, hd_err *err)
{
    hd_cache *a = &e->caches[from], *b = &e->caches[to];
    for (int64_t layer = 0; layer < e->loaded.dims.n_layer && a->length > 0; layer++) {
        hd_tensor x = hd_tensor_index(&a->rows, layer), y = hd_tensor_index(&b->rows, layer);
        hd_tensor filled = hd_tensor_slice(&x, 0, 0, a->length), copy = hd_tensor_slice(&y, 0, 0, a->length);
        hd_status st = hd_copy(&e->loaded.ex, &filled, &copy, err);
        if (st != HD_OK) { return st; }
    }
    b->length = a->length;
    return HD_OK;
}
