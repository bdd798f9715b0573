/* Opening, prompts, forks and rewinds; steps are in step.c.  See engine.h. */
#include "infer/engine.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "hadal/log.h"
#include "infer/session.h"

/* ---- sessions ------------------------------------------------------------------------------------------------------------ */

static int64_t fed(const hd_session *x) { return x->cache.length - x->mtp.ahead; }

void hd_session_drop_draft(hd_session *x)
{
    x->cache.length -= x->mtp.ahead;
    x->mtp.ahead = false;
}

void hd_session_rewind(hd_session *x, int64_t length)
{
    x->cache.length = length;
    hd_follower_rewind(&x->mtp, length);
}

static hd_status new_caches(hd_engine *e, hd_err *err)
{
    hd_status st = HD_OK;
    hd_arena *arena = &e->loaded.model_arena;
    size_t before = arena->used;
    for (int64_t s = 0; s < e->options.n_session; s++) {
        hd_session *x = &e->sessions[s];
        HD_TRY(hd_cache_new(&e->loaded.model, arena, e->options.capacity, &x->cache, err));
        if (hd_engine_drafts(e)) { HD_TRY(hd_follower_new(&e->loaded.model, arena, e->options.capacity, &x->mtp, err)); }
    }
    e->cache_bytes = arena->used - before;
out:
    return st;
}

static hd_status new_sessions(hd_engine *e, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    size_t n = (size_t)e->options.n_session, row = (size_t)e->loaded.dims.vocab_size * sizeof(float);
    HD_TRY(hd_alloc(n, sizeof *e->sessions, "sessions", &memory, err));
    e->sessions = memory;
    HD_TRY(hd_alloc(n, sizeof *e->turns, "sessions", &memory, err));
    e->turns = memory;
    HD_TRY(hd_alloc(n, sizeof *e->list, "sessions", &memory, err));
    e->list = memory;
    HD_TRY(hd_alloc(n, sizeof *e->paces, "sessions", &memory, err));
    e->paces = memory;
    for (size_t s = 0; s < n; s++) { e->paces[s].mode = e->options.drafting; }
    if (!hd_engine_drafts(e)) { goto out; }
    HD_TRY(hd_alloc(n, row, "logits of drafts", &memory, err));
    e->guesses = memory;
    HD_TRY(hd_alloc(n, row, "logits of drafts", &memory, err));
    e->ahead = memory;
out:
    return st;
}

/* ---- prompts ------------------------------------------------------------------------------------------------------------- */

hd_status hd_engine_project(hd_engine *e, const hd_tensor *hidden, int64_t begin, int64_t n, hd_tensor *logits, hd_err *err)
{
    hd_loaded *l = &e->loaded;
    hd_status st = hd_tensor_new_2d(&l->step_arena, HD_DTYPE_F32, n, l->dims.vocab_size, logits, err);
    return st == HD_OK ? hd_model_project(&l->model, &l->ex, &l->step_arena, hidden, begin, logits, err) : st;
}

/* A chunk of a prompt, and the logits of its last token. */
static hd_status pass_chunk(hd_engine *e, hd_session *x, const int32_t *tokens, int64_t n, float *logits, hd_err *err)
{
    hd_status st;
    hd_loaded *l = &e->loaded;
    hd_tensor hidden, out;
    size_t mark = hd_arena_mark(&l->step_arena);
    hd_extension one = {.cache = &x->cache, .tokens = tokens, .n = n};
    HD_TRY(hd_model_extend(&l->model, &l->ex, &l->step_arena, &one, 1, &hidden, err));
    if (hd_engine_drafts(e)) { HD_TRY(hd_follower_chunk(&l->model, &l->ex, &l->step_arena, &x->mtp, tokens, &hidden, err)); }
    HD_TRY(hd_engine_project(e, &hidden, n - 1, 1, &out, err));
    HD_TRY(hd_exec_read(&l->ex, &out, logits, err));
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

hd_status hd_engine_extend(hd_engine *e, int64_t session, const int32_t *tokens, int64_t n, float *logits, hd_err *err)
{
    hd_session *x = &e->sessions[session];
    hd_session_drop_draft(x);
    int64_t before = x->cache.length, room = x->cache.capacity - before;
    if (n < 1 || n > room) {
        return HD_FAIL(err, HD_E_INVALID, "session %" PRId64 ": %" PRId64 " new tokens behind %" PRId64 ", want 1 to %" PRId64, session, n, before, room);
    }
    for (int64_t at = 0, part; at < n; at += part) {
        part = n - at < e->options.chunk ? n - at : e->options.chunk;
        hd_status st = pass_chunk(e, x, tokens + at, part, logits, err);
        if (st != HD_OK) {
            hd_session_rewind(x, before);
            return st;
        }
    }
    return HD_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

/* A session of so many tokens whose module is as far behind as it can be. */
static void place(hd_session *x, int64_t length)
{
    x->cache.length = length > 0 ? length : 0;
    x->mtp.n = x->cache.length < HD_FOLLOWER_ROWS ? x->cache.length : HD_FOLLOWER_ROWS;
    x->mtp.cache.length = x->cache.length - x->mtp.n;
    x->mtp.ahead = false;
}

static hd_status place_and_step(hd_engine *e, int64_t length, bool with_drafts, hd_err *err)
{
    for (int64_t s = 0; s < e->options.n_session; s++) {
        e->turns[s] = (hd_turn){.of = &e->sessions[s]};
        place(e->turns[s].of, length);
    }
    return hd_engine_pass(e, e->options.n_session, with_drafts, NULL, err);
}

/* Chunks of every length, in an empty cache and at the end of a full one: attention chooses its form by both, and the forms differ in the
 * memory that they take. */
static hd_status place_and_read(hd_engine *e, hd_err *err)
{
    hd_session *x = &e->sessions[0];
    for (int64_t n = e->options.chunk; n >= 1; n--) {
        for (int end = 0; end < 2; end++) {
            place(x, end == 0 ? 0 : e->options.capacity - n);
            hd_status st = pass_chunk(e, x, NULL, n, NULL, err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

/* The most that will be done: chunks, and steps of all sessions at the end of a full cache. */
static hd_status most(void *context, hd_err *err)
{
    hd_status st;
    hd_engine *e = context;
    int64_t capacity = e->options.capacity;
    HD_TRY(new_caches(e, err));
    HD_TRY(place_and_read(e, err));
    HD_TRY(place_and_step(e, capacity - 1, false, err));
    HD_TRY(place_and_step(e, capacity - 2, true, err));
out:
    return st;
}

hd_drafting hd_drafting_from_config(const hd_config *config)
{
    static const hd_drafting values[] = {HD_DRAFT_AUTO, HD_DRAFT_ALWAYS, HD_DRAFT_NEVER}; /* auto|on|off */
    return values[hd_config_enum(config, HD_KEY_mtp_speculation)];
}

/* Whether there will be drafts: what the options ask for, if nothing stands against it. */
static hd_status settle_drafting(const hd_config *config, const char *path, hd_engine *e, hd_err *err)
{
    hd_loaded *l = &e->loaded;
    hd_err why = {0};
    hd_status st = HD_OK;
    if (!hd_engine_drafts(e)) { return HD_OK; }
    if (l->n_mtp == 0) {
        st = HD_FAIL(&why, HD_E_CONFIG, "%s has no MTP layer to draft with: config.json announces none (num_nextn_predict_layers), or there are no "
                     "tensors model.layers.%" PRId64 ".*", path, l->dims.n_layer);
    } else if (l->options.moe_strategy == HD_MOE_DROPPING) {
        st = HD_FAIL(&why, HD_E_CONFIG, "drafts with capacity_factor=%g: where experts drop tokens, a token gets other values beside a draft than alone",
                     l->options.capacity_factor);
    } else if (!hd_config_bool(config, HD_KEY_mtp_pre_norm_hidden)) {
        st = HD_FAIL(&why, HD_E_UNSUPPORTED, "mtp_pre_norm_hidden=false is not implemented: modules see the output of the last layer itself");
    }
    if (st != HD_OK && e->options.drafting == HD_DRAFT_ALWAYS) {
        *err = why;
        return st;
    }
    if (st != HD_OK) { e->options.drafting = HD_DRAFT_NEVER; }
    l->dims.n_mtp = hd_engine_drafts(e) ? 1 : 0;
    if (hd_config_is_set(config, HD_KEY_mtp_use_shared_head_norm)) {
        l->dims.mtp_own_norm = hd_config_bool(config, HD_KEY_mtp_use_shared_head_norm);
    }
    return HD_OK;
}

static void free_sessions(hd_engine *e)
{
    void **all[] = {(void **)&e->sessions, (void **)&e->turns, (void **)&e->list, (void **)&e->paces, (void **)&e->guesses, (void **)&e->ahead};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        hd_free(*all[i]);
        *all[i] = NULL;
    }
}

static hd_status load(const hd_config *config, const char *path, hd_engine *e, hd_err *err)
{
    hd_status st;
    hd_engine_options *o = &e->options;
    HD_TRY(hd_loaded_read(config, path, &e->loaded, err));
    if (o->capacity > e->loaded.dims.max_position_embeddings) {
        return HD_FAIL(err, HD_E_CONFIG, "%" PRId64 " positions are asked for (max_target_length), and the model has %" PRId64
                       " (max_position_embeddings)", o->capacity, e->loaded.dims.max_position_embeddings);
    }
    if (o->chunk > o->capacity) { o->chunk = o->capacity; }
    e->loaded.options.max_positions = o->capacity;
    HD_TRY(settle_drafting(config, path, e, err));
    HD_TRY(new_sessions(e, err));
    HD_TRY(hd_loaded_open(config, path, most, e, &e->loaded, err));
out:
    return st;
}

static hd_status open_engine(const hd_config *config, const char *path, hd_engine *e, hd_err *err)
{
    hd_status st;
    const hd_engine_options *o = &e->options;
    HD_TRY(load(config, path, e, err));
    if (o->drafting == HD_DRAFT_AUTO && e->loaded.stream != NULL) { /* without the module the weights may fit */
        hd_loaded_close(&e->loaded);
        free_sessions(e);
        e->options.drafting = HD_DRAFT_NEVER;
        HD_TRY(load(config, path, e, err));
    }
    HD_TRY(new_caches(e, err));
    hd_log(HD_LOG_INFO, "cache: %" PRId64 " session%s of %" PRId64 " positions, %.3f GB of %.3f GB in all%s", o->n_session,
           o->n_session == 1 ? "" : "s", o->capacity, (double)e->cache_bytes / 1e9, (double)hd_engine_memory_bytes(e) / 1e9,
           hd_engine_drafts(e) ? ", with an MTP layer that drafts" : "");
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
    free_sessions(e);
    hd_free(e);
}

/* ---- what is said about it -------------------------------------------------------------------------------------------------- */

const hd_dims *hd_engine_dims(const hd_engine *e) { return &e->loaded.dims; }

size_t hd_engine_cache_bytes(const hd_engine *e) { return e->cache_bytes; }

size_t hd_engine_memory_bytes(const hd_engine *e) { return hd_loaded_memory_bytes(&e->loaded); }

hd_engine_drafts_seen hd_engine_drafting(const hd_engine *e)
{
    hd_engine_drafts_seen seen = {.possible = hd_engine_drafts(e)};
    const hd_pace *busiest = &e->paces[0];
    for (int64_t n = 0; n < e->options.n_session; n++) {
        const hd_pace *p = &e->paces[n];
        seen.n_draft += p->n_draft;
        seen.n_accepted += p->n_accepted;
        if (p->n_draft > busiest->n_draft) { busiest = p; }
    }
    seen.break_even = hd_pace_break_even(busiest);
    return seen;
}

void hd_engine_log_drafts(const hd_engine *e)
{
    hd_engine_drafts_seen d = hd_engine_drafting(e);
    if (d.n_draft == 0) { return; }
    hd_log(HD_LOG_INFO, "drafts: %" PRId64 " of %" PRId64 " accepted, %.1f %%; break-even %.1f %%", d.n_accepted, d.n_draft,
           100.0 * (double)d.n_accepted / (double)d.n_draft, 100.0 * d.break_even);
}

/* ---- places in a session ----------------------------------------------------------------------------------------------------- */

int64_t hd_engine_length(const hd_engine *e, int64_t session) { return fed(&e->sessions[session]); }

void hd_engine_rewind(hd_engine *e, int64_t session, int64_t length)
{
    hd_session *x = &e->sessions[session];
    if (length >= 0 && length < fed(x)) { hd_session_rewind(x, length); }
}

hd_status hd_engine_fork(hd_engine *e, int64_t from, int64_t to, hd_err *err)
{
    hd_status st;
    const hd_session *a = &e->sessions[from];
    hd_session *b = &e->sessions[to];
    HD_TRY(hd_cache_copy(&e->loaded.ex, &a->cache, fed(a), &b->cache, err));
    if (hd_engine_drafts(e)) { HD_TRY(hd_follower_copy(&e->loaded.ex, &a->mtp, &b->mtp, err)); }
out:
    return st;
}
