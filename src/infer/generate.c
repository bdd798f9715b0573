/* Slots, prompts and steps.  See generate.h. */
#include "infer/generate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"

typedef struct slot {
    hd_answer *answer; /* in work; NULL: free */
    hd_ids fed;        /* tokens in the session's cache */
    int32_t next;      /* chosen and not fed yet */
} slot;

struct hd_generator {
    const hd_config *config;
    const hd_tokenizer *tokenizer;
    hd_generator_options options;
    hd_engine *engine;
    hd_sampler sampler;
    hd_stops stops;
    bool log_probs;
    slot *slots;        /* n_slot */
    int64_t *sessions;  /* n_slot: of the step in work */
    int32_t *tokens;    /* n_slot */
    float *logits;      /* (n_slot, V) */
    int32_t *order;     /* (V): working memory of the sampler */
    hd_generate_totals totals;
    const hd_generate_hooks *hooks; /* of the call in work */
};

/* ---- answers -------------------------------------------------------------------------------------------------------------- */

const char *hd_finish_name(hd_finish finish)
{
    static const char *const names[] = {"open", "eos", "stop", "length", "interrupted"};
    return names[finish];
}

void hd_answer_free(hd_answer *a)
{
    hd_ids_free(&a->ids);
    hd_buf_free(&a->text);
    hd_buf_free(&a->log_probs);
}

int64_t hd_answer_length(const hd_answer *a)
{
    return (int64_t)a->ids.n - a->n_prompt;
}

/* ---- opening -------------------------------------------------------------------------------------------------------------- */

/* Token number `position` of a slot's text: drawn by the seed and its place alone, for drafts as for the text itself. */
static int64_t draw(void *context, int64_t session, int64_t position, const float *logits)
{
    const hd_generator *g = context;
    const hd_answer *a = g->slots[session].answer;
    hd_rng rng = hd_rng_make(a->seed, HD_RNG_SAMPLE, "decode");
    return hd_sample(&g->sampler, logits, g->order, hd_engine_dims(g->engine)->vocab_size, hd_rng_uniform(rng, (uint64_t)position));
}

static hd_status check_vocabulary(const hd_generator *g, hd_err *err)
{
    int64_t vocab = hd_engine_dims(g->engine)->vocab_size, wanted = hd_tokenizer_vocab_size(g->tokenizer);
    if (vocab >= wanted) { return HD_OK; }
    return HD_FAIL(err, HD_E_CONFIG, "the model has %" PRId64 " tokens; the tokenizer (tokenizer_type=%s) needs at least %" PRId64, vocab,
                   hd_config_str(g->config, HD_KEY_tokenizer_type), wanted);
}

static hd_status open_generator(hd_generator *g, const char *path, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    size_t n_slot = (size_t)g->options.n_slot, vocab;
    HD_TRY(hd_sampler_from_config(g->config, &g->sampler, err));
    HD_TRY(hd_stops_from_config(g->config, g->tokenizer, &g->stops, err));
    hd_engine_options options = {.n_session = g->options.n_slot, .capacity = g->options.most, .chunk = g->options.chunk,
                                 .drafting = hd_drafting_from_config(g->config), .choose = draw, .choose_context = g};
    HD_TRY(hd_engine_open(g->config, path, &options, &g->engine, err));
    HD_TRY(check_vocabulary(g, err));
    vocab = (size_t)hd_engine_dims(g->engine)->vocab_size;
    HD_TRY(hd_alloc(n_slot, sizeof *g->slots, "slots", &memory, err));
    g->slots = memory;
    HD_TRY(hd_alloc(n_slot, sizeof *g->sessions, "slots", &memory, err));
    g->sessions = memory;
    HD_TRY(hd_alloc(n_slot, sizeof *g->tokens, "slots", &memory, err));
    g->tokens = memory;
    HD_TRY(hd_alloc(n_slot * vocab, sizeof *g->logits, "logits", &memory, err));
    g->logits = memory;
    HD_TRY(hd_alloc(vocab, sizeof *g->order, "token order", &memory, err));
    g->order = memory;
out:
    return st;
}

hd_status hd_generator_open(const hd_config *config, const char *path, const hd_tokenizer *tokenizer, const hd_generator_options *options,
                            hd_generator **out, hd_err *err)
{
    void *memory = NULL;
    *out = NULL;
    hd_status st = hd_alloc(1, sizeof **out, "generator", &memory, err);
    if (st != HD_OK) { return st; }
    hd_generator *g = memory;
    g->config = config;
    g->tokenizer = tokenizer;
    g->options = *options;
    g->log_probs = hd_config_bool(config, HD_KEY_return_log_prob);
    st = open_generator(g, path, err);
    if (st != HD_OK) {
        hd_generator_close(g);
        return st;
    }
    *out = g;
    return HD_OK;
}

void hd_generator_close(hd_generator *g)
{
    if (g == NULL) { return; }
    for (int64_t s = 0; g->slots != NULL && s < g->options.n_slot; s++) { hd_ids_free(&g->slots[s].fed); }
    hd_engine_close(g->engine);
    hd_stops_free(&g->stops);
    hd_free(g->slots);
    hd_free(g->sessions);
    hd_free(g->tokens);
    hd_free(g->logits);
    hd_free(g->order);
    hd_free(g);
}

const hd_engine *hd_generator_engine(const hd_generator *g) { return g->engine; }

const hd_generate_totals *hd_generator_totals(const hd_generator *g) { return &g->totals; }

/* ---- one token --------------------------------------------------------------------------------------------------------------- */

/* ln softmax(logits)[token], of the logits as they are: sampling's temperature and cuts do not enter. */
static double log_probability(const float *logits, int64_t n, int64_t token)
{
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { max = (double)logits[i] > max ? (double)logits[i] : max; }
    for (int64_t i = 0; i < n; i++) { sum += exp((double)logits[i] - max); }
    return (double)logits[token] - max - log(sum);
}

static hd_status check_finite(const float *logits, int64_t n, int64_t position, hd_err *err)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) { bad += !isfinite(logits[i]); }
    if (bad == 0) { return HD_OK; }
    return HD_FAIL(err, HD_E_NONFINITE, "%" PRId64 " of %" PRId64 " logits for token %" PRId64 " are not finite: the weights or dtype=float16 may be the cause",
                   bad, n, position + 1);
}

static void show(hd_generator *g, hd_answer *a, size_t settled)
{
    bool grew = settled > a->n_settled;
    a->n_settled = settled;
    if (grew && g->hooks->grown != NULL) { g->hooks->grown(g->hooks->context, a); }
}

/* Looks for a stop text in what is new; true: one was there, and the answer ends before it. */
static bool settle(hd_generator *g, hd_answer *a)
{
    size_t end;
    bool found = hd_stops_search(&g->stops, hd_buf_text(&a->text), a->text.n, a->n_settled, &end);
    if (found) {
        a->text.n = end;
        a->text.data[end] = '\0';
    }
    show(g, a, end);
    return found;
}

/* The answer has ended: nothing will turn what is held back into a stop text any more. */
static hd_status finish(hd_generator *g, slot *s, hd_finish how, hd_err *err)
{
    hd_answer *a = s->answer;
    if (how != HD_FINISH_STOP) {
        hd_decode_stream_end(&a->stream, &a->text);
        if (settle(g, a)) { how = HD_FINISH_STOP; }
    }
    show(g, a, a->text.n);
    a->finish = how;
    s->answer = NULL;
    g->totals.n_answer++;
    g->totals.n_token += hd_answer_length(a);
    hd_status st = hd_buf_check(&a->text, err);
    if (st == HD_OK) { st = hd_buf_check(&a->log_probs, err); }
    return st == HD_OK && g->hooks->ended != NULL ? g->hooks->ended(g->hooks->context, a, err) : st;
}

static bool is_eos(const hd_generator *g, int32_t token)
{
    int64_t eos = hd_tokenizer_eos(g->tokenizer);
    return token == (eos >= 0 ? eos : hd_engine_dims(g->engine)->eos_token_id);
}

/* A token that was chosen becomes a part of the answer, or its end. */
static hd_status accept(hd_generator *g, slot *s, int32_t token, hd_err *err)
{
    hd_answer *a = s->answer;
    if (hd_stops_is_token(&g->stops, token)) { return finish(g, s, HD_FINISH_STOP, err); }
    if (is_eos(g, token)) { return finish(g, s, HD_FINISH_EOS, err); }
    hd_status st = hd_ids_append(&a->ids, &token, 1, err);
    if (st != HD_OK) { return st; }
    s->next = token;
    hd_decode_stream_feed(&a->stream, token, &a->text);
    if (settle(g, a)) { return finish(g, s, HD_FINISH_STOP, err); }
    return (int64_t)a->ids.n == g->options.most ? finish(g, s, HD_FINISH_LENGTH, err) : HD_OK;
}

static hd_status choose(hd_generator *g, slot *s, const float *logits, hd_err *err)
{
    hd_answer *a = s->answer;
    int64_t vocab = hd_engine_dims(g->engine)->vocab_size, position = (int64_t)a->ids.n;
    hd_status st = check_finite(logits, vocab, position, err);
    if (st != HD_OK) { return st; }
    int64_t token = draw(g, s - g->slots, position, logits);
    if (g->log_probs) {
        double log_prob = log_probability(logits, vocab, token);
        hd_buf_append(&a->log_probs, &log_prob, sizeof log_prob);
    }
    return accept(g, s, (int32_t)token, err);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------------------- */

static bool is_stopped(const hd_generator *g) { return g->hooks->stopped != NULL && g->hooks->stopped(g->hooks->context); }

/* Leading tokens of a prompt that a session already holds and that need not be read again; one at least is, for its logits. */
static int64_t in_common(const hd_generator *g, const hd_ids *fed, const hd_answer *a)
{
    int64_t n = 0;
    while (n < (int64_t)fed->n && n < a->n_prompt - 1 && fed->id[n] == a->ids.id[n]) { n++; }
    return n - n % g->options.prefix_grain;
}

/* Puts a free slot's session where its prompt and what some session holds part.  *kept tokens need not be read. */
static hd_status find_prefix(hd_generator *g, slot *s, int64_t *kept, hd_err *err)
{
    hd_status st = HD_OK;
    slot *best = s;
    *kept = in_common(g, &s->fed, s->answer);
    for (int64_t i = 0; i < g->options.n_slot; i++) {
        int64_t n = in_common(g, &g->slots[i].fed, s->answer);
        if (n > *kept) {
            *kept = n;
            best = &g->slots[i];
        }
    }
    if (best != s) { HD_TRY(hd_engine_fork(g->engine, best - g->slots, s - g->slots, err)); }
    hd_engine_rewind(g->engine, s - g->slots, *kept);
    s->fed.n = 0;
    HD_TRY(hd_ids_append(&s->fed, s->answer->ids.id, (size_t)*kept, err));
out:
    return st;
}

/* Reads the prompt pass by pass.  Stopped, the session holds what was read. */
static hd_status read_prompt(hd_generator *g, slot *s, float *logits, bool *stopped, hd_err *err)
{
    hd_status st;
    int64_t kept;
    const hd_answer *a = s->answer;
    HD_TRY(find_prefix(g, s, &kept, err));
    g->totals.n_kept += kept;
    for (int64_t at = kept, part; at < a->n_prompt; at += part) {
        *stopped = is_stopped(g);
        if (*stopped) { break; }
        part = a->n_prompt - at < g->options.chunk ? a->n_prompt - at : g->options.chunk;
        HD_TRY(hd_engine_extend(g->engine, s - g->slots, a->ids.id + at, part, logits, err));
        HD_TRY(hd_ids_append(&s->fed, a->ids.id + at, (size_t)part, err));
        g->totals.n_read += part;
    }
out:
    return st;
}

/* A free slot takes a prompt: reads it and chooses the answer's first token. */
static hd_status begin(hd_generator *g, slot *s, hd_answer *a, hd_err *err)
{
    hd_status st;
    bool stopped = false;
    double start = hd_clock_now_s();
    s->answer = a;
    hd_decode_stream_open(&a->stream, g->tokenizer, HD_DECODE_SKIP_SPECIAL);
    HD_TRY(read_prompt(g, s, g->logits, &stopped, err));
    double end = hd_clock_now_s();
    g->totals.read_s += end - start;
    a->first_s = end - start;
    st = stopped ? finish(g, s, HD_FINISH_INTERRUPTED, err) : choose(g, s, g->logits, err);
out:
    return st;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------------------- */

/* A slot whose next token was drafted, and verified with the one before, goes on without a pass. */
static hd_status take_drafts(hd_generator *g, slot *s, hd_err *err)
{
    hd_status st = HD_OK;
    while (s->answer != NULL && hd_engine_take_draft(g->engine, s - g->slots, s->next, g->logits)) {
        HD_TRY(hd_ids_append(&s->fed, &s->next, 1, err));
        HD_TRY(choose(g, s, g->logits, err));
        g->totals.n_stepped++;
    }
out:
    return st;
}

/* One more token, or several, for every busy slot. */
static hd_status step(hd_generator *g, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n = 0, vocab = hd_engine_dims(g->engine)->vocab_size;
    double start = hd_clock_now_s();
    for (int64_t i = 0; i < g->options.n_slot; i++) {
        slot *s = &g->slots[i];
        HD_TRY(take_drafts(g, s, err));
        if (s->answer == NULL) { continue; }
        g->sessions[n] = i;
        g->tokens[n++] = s->next;
        HD_TRY(hd_ids_append(&s->fed, &s->next, 1, err));
    }
    if (n > 0) { HD_TRY(hd_engine_step(g->engine, g->sessions, g->tokens, n, g->logits, err)); }
    for (int64_t i = 0; i < n; i++) { HD_TRY(choose(g, &g->slots[g->sessions[i]], g->logits + i * vocab, err)); }
    g->totals.n_step += n > 0;
    g->totals.n_stepped += n;
    g->totals.step_s += hd_clock_now_s() - start;
out:
    return st;
}

static bool is_busy(const hd_generator *g)
{
    for (int64_t i = 0; i < g->options.n_slot; i++) {
        if (g->slots[i].answer != NULL) { return true; }
    }
    return false;
}

static hd_status interrupt(hd_generator *g, hd_err *err)
{
    for (int64_t i = 0; i < g->options.n_slot; i++) {
        hd_status st = g->slots[i].answer != NULL ? finish(g, &g->slots[i], HD_FINISH_INTERRUPTED, err) : HD_OK;
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_generate(hd_generator *g, hd_answer *answers, size_t n, const hd_generate_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    size_t next = 0;
    g->hooks = hooks;
    for (size_t i = 0; i < n; i++) { answers[i].n_prompt = (int64_t)answers[i].ids.n; }
    for (;;) {
        for (int64_t i = 0; i < g->options.n_slot; i++) {
            while (g->slots[i].answer == NULL && next < n && !is_stopped(g)) { HD_TRY(begin(g, &g->slots[i], &answers[next++], err)); }
        }
        if (!is_busy(g) || is_stopped(g)) { break; }
        HD_TRY(step(g, err));
    }
    st = interrupt(g, err);
out:
    for (int64_t i = 0; st != HD_OK && i < g->options.n_slot; i++) { g->slots[i].answer = NULL; }
    return st;
}
