/* Steps: one token of each session, and a draft behind it, in one pass.  See engine.h and session.h. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "infer/sample.h"
#include "infer/session.h"

/* ---- drafts --------------------------------------------------------------------------------------------------------------- */

/* A draft needs the stream of the position before, and a place in the cache. */
static bool can_draft(const hd_session *x) { return x->mtp.n > 0 && x->cache.length + 2 <= x->cache.capacity; }

static int32_t choose(const hd_engine *e, const hd_session *x, const float *logits)
{
    static const hd_sampler greedy = {.strategy = HD_SAMPLE_GREEDY};
    const hd_engine_options *o = &e->options;
    if (e->loaded.ex.dry) { return 0; }
    if (o->choose == NULL) { return (int32_t)hd_sample(&greedy, logits, NULL, e->loaded.dims.vocab_size, 0.5); }
    return (int32_t)o->choose(o->choose_context, x - e->sessions, x->cache.length + 1, logits);
}

/* The streams that wait, of all turns with a draft, (N, D); e->list names them. */
static hd_status gather(hd_engine *e, int64_t n_turn, int64_t n_row, hd_tensor *hidden, hd_err *err)
{
    hd_loaded *l = &e->loaded;
    int64_t at = 0, n_list = 0;
    hd_status st = hd_tensor_new_2d(&l->step_arena, l->options.dtype, n_row, l->dims.hidden_size, hidden, err);
    for (int64_t i = 0; i < n_turn && st == HD_OK; i++) {
        const hd_turn *t = &e->turns[i];
        hd_follower *f = &t->of->mtp;
        if (t->n_token < 2) { continue; }
        hd_tensor from = hd_tensor_slice(&f->hidden, 0, 0, t->n_waiting), to = hd_tensor_slice(hidden, 0, at, t->n_waiting);
        st = hd_copy(&l->ex, &from, &to, err);
        e->list[n_list++] = (hd_extension){.cache = &f->cache, .tokens = f->tokens, .n = t->n_waiting};
        at += t->n_waiting;
    }
    return st;
}

/* The modules of all turns that shall have a draft, in one pass; none may. */
static hd_status draft(hd_engine *e, int64_t n_turn, hd_err *err)
{
    hd_status st = HD_OK;
    hd_loaded *l = &e->loaded;
    hd_tensor hidden, out; /* (N, D) act, (n_list, V) f32 */
    int64_t n_list = 0, n_row = 0;
    size_t mark = hd_arena_mark(&l->step_arena);
    for (int64_t i = 0; i < n_turn; i++) {
        n_list += e->turns[i].n_token > 1;
        n_row += e->turns[i].n_token > 1 ? e->turns[i].n_waiting : 0;
    }
    if (n_list == 0) { goto out; }
    HD_TRY(gather(e, n_turn, n_row, &hidden, err));
    HD_TRY(hd_tensor_new_2d(&l->step_arena, HD_DTYPE_F32, n_list, l->dims.vocab_size, &out, err));
    HD_TRY(hd_model_draft(&l->model, &l->ex, &l->step_arena, e->list, n_list, &hidden, &out, err));
    HD_TRY(hd_exec_read(&l->ex, &out, e->guesses, err));
    for (int64_t i = 0, row = 0; i < n_turn; i++) {
        hd_turn *t = &e->turns[i];
        if (t->n_token < 2) { continue; }
        t->tokens[1] = t->of->mtp.draft = choose(e, t->of, e->guesses + row++ * l->dims.vocab_size);
        t->of->mtp.n = 0;
    }
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

/* ---- a pass ----------------------------------------------------------------------------------------------------------------- */

static hd_status prepare(hd_engine *e, int64_t n, bool with_drafts, hd_err *err)
{
    hd_loaded *l = &e->loaded;
    for (int64_t i = 0; i < n && hd_engine_drafts(e); i++) {
        hd_turn *t = &e->turns[i];
        hd_follower *f = &t->of->mtp;
        hd_follower_feed(f, t->tokens[0]);
        t->n_token = with_drafts && can_draft(t->of) ? 2 : 1;
        t->n_waiting = f->n;
        hd_status st = t->n_token > 1 ? HD_OK : hd_follower_make_room(&l->model, &l->ex, &l->step_arena, f, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status read_row(hd_engine *e, const hd_tensor *logits, int64_t row, float *to, hd_err *err)
{
    hd_tensor one = hd_tensor_slice(logits, 0, row, 1);
    return hd_exec_read(&e->loaded.ex, &one, to, err);
}

/* Each turn's part of hidden (N, D) and of its logits. */
static hd_status hand_out(hd_engine *e, int64_t n, const hd_tensor *hidden, const hd_tensor *out, float *logits, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t vocab = e->loaded.dims.vocab_size, at = 0;
    for (int64_t i = 0; i < n; i++) {
        hd_turn *t = &e->turns[i];
        HD_TRY(read_row(e, out, at, logits != NULL ? logits + t->row * vocab : NULL, err));
        if (t->n_token > 1) { HD_TRY(read_row(e, out, at + 1, e->ahead + (t->of - e->sessions) * vocab, err)); }
        if (hd_engine_drafts(e)) {
            hd_tensor rows = hd_tensor_slice(hidden, 0, at, t->n_token);
            HD_TRY(hd_follower_keep(&e->loaded.ex, &t->of->mtp, &rows, err));
        }
        at += t->n_token;
    }
out:
    return st;
}

hd_status hd_engine_pass(hd_engine *e, int64_t n, bool with_drafts, float *logits, hd_err *err)
{
    hd_status st;
    hd_loaded *l = &e->loaded;
    hd_tensor hidden, out;
    size_t mark = hd_arena_mark(&l->step_arena);
    for (int64_t i = 0; i < n; i++) {
        e->turns[i].n_token = 1;
        e->turns[i].before = e->turns[i].of->cache.length;
    }
    l->ex.by_lanes = true;
    HD_TRY(prepare(e, n, with_drafts, err));
    HD_TRY(draft(e, n, err));
    for (int64_t i = 0; i < n; i++) {
        hd_turn *t = &e->turns[i];
        e->list[i] = (hd_extension){.cache = &t->of->cache, .tokens = t->tokens, .n = t->n_token};
    }
    HD_TRY(hd_model_extend(&l->model, &l->ex, &l->step_arena, e->list, n, &hidden, err));
    HD_TRY(hd_engine_project(e, &hidden, 0, hidden.shape[0], &out, err));
    HD_TRY(hand_out(e, n, &hidden, &out, logits, err));
out:
    l->ex.by_lanes = false;
    for (int64_t i = 0; i < n && st != HD_OK; i++) { hd_session_rewind(e->turns[i].of, e->turns[i].before); }
    hd_arena_release(&l->step_arena, mark);
    return st;
}

/* ---- steps ------------------------------------------------------------------------------------------------------------------- */

static bool is_draft(const hd_session *x, int32_t token) { return x->mtp.ahead && x->mtp.draft == token; }

/* The draft becomes the session's last token. */
static void take(hd_engine *e, hd_session *x, float *logits)
{
    int64_t vocab = e->loaded.dims.vocab_size;
    memcpy(logits, e->ahead + (x - e->sessions) * vocab, (size_t)vocab * sizeof *logits);
    hd_pace_verified(x->pace, true);
    hd_follower_accept(&x->mtp);
}

bool hd_engine_take_draft(hd_engine *e, int64_t session, int32_t token, float *logits)
{
    hd_session *x = &e->sessions[session];
    if (!is_draft(x, token)) { return false; }
    take(e, x, logits);
    return true;
}

/* The pass that a step needs, of e->turns[0 .. n), measured. */
static hd_status timed_pass(hd_engine *e, int64_t n, float *logits, hd_err *err)
{
    hd_pace *pace = &e->paces[n - 1];
    bool drafted = false;
    double start = hd_clock_now_s();
    hd_status st = hd_engine_pass(e, n, hd_pace_drafts(pace), logits, err);
    for (int64_t i = 0; i < n && st == HD_OK; i++) {
        drafted = drafted || e->turns[i].n_token > 1;
        e->turns[i].of->pace = pace;
    }
    if (st == HD_OK) { hd_pace_passed(pace, drafted, hd_clock_now_s() - start); }
    return st;
}

hd_status hd_engine_step(hd_engine *e, const int64_t *sessions, const int32_t *tokens, int64_t n, float *logits, hd_err *err)
{
    int64_t n_turn = 0, n_taken = 0;
    if (n < 1 || n > e->options.n_session) {
        return HD_FAIL(err, HD_E_INVALID, "a step of %" PRId64 " sessions, want 1 to %" PRId64, n, e->options.n_session);
    }
    for (int64_t s = 0; s < n; s++) {
        hd_session *x = &e->sessions[sessions[s]];
        hd_turn t = {.of = x, .row = s, .tokens = {tokens[s]}};
        if (is_draft(x, tokens[s])) {
            e->turns[e->options.n_session - ++n_taken] = t; /* from the end: after the pass, which may fail */
            continue;
        }
        if (x->mtp.ahead) { hd_pace_verified(x->pace, false); }
        hd_session_drop_draft(x);
        e->turns[n_turn++] = t;
    }
    hd_status st = n_turn > 0 ? timed_pass(e, n_turn, logits, err) : HD_OK;
    for (int64_t i = 1; i <= n_taken && st == HD_OK; i++) {
        const hd_turn *t = &e->turns[e->options.n_session - i];
        take(e, t->of, logits + t->row * e->loaded.dims.vocab_size);
    }
    return st;
}
