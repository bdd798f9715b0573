/* `hadal decode`: continues a prompt with the engine, token by token. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/path.h"
#include "base/rng.h"
#include "checkpoint/checkpoint.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/engine.h"
#include "infer/prompt.h"
#include "infer/sample.h"
#include "tokenizer/tokenizer.h"

enum { CHUNK = 256 }; /* tokens of a prompt in one pass, unless use_chunked_prefill says otherwise */

typedef struct decoder {
    const hd_config *config;
    hd_tokenizer *tokenizer;
    hd_engine *engine;
    hd_sampler sampler;
    hd_ids ids;          /* prompt and answer */
    int64_t n_prompt, most; /* tokens of the prompt; of prompt and answer */
    float *logits;       /* (V) */
    int32_t *order;      /* (V): working memory of the sampler */
    hd_buf log_probs;    /* of the answer's tokens, when asked for */
    double prefill_s, generate_s;
} decoder;

/* ---- opening -------------------------------------------------------------------------------------------------------------- */

/* load_parameters_path, or the run's own checkpoints. */
static hd_status find_checkpoint(const hd_config *config, char **path, hd_err *err)
{
    const char *given = hd_config_str(config, HD_KEY_load_parameters_path);
    if (given != NULL) { return hd_strdup(given, path, err); }
    return hd_path_join(hd_config_str(config, HD_KEY_base_output_directory), hd_config_str(config, HD_KEY_run_name), path, err);
}

/* max_target_length; when nobody set it, no more than the model has. */
static hd_status find_limit(decoder *d, const char *path, hd_err *err)
{
    hd_dims dims;
    hd_status st = hd_ckpt_read_dims(path, &dims, err);
    d->most = hd_config_int(d->config, HD_KEY_max_target_length);
    if (st == HD_OK && !hd_config_is_set(d->config, HD_KEY_max_target_length) && d->most > dims.max_position_embeddings) {
        d->most = dims.max_position_embeddings;
    }
    return st;
}

static hd_status read_prompt(decoder *d, hd_err *err)
{
    const hd_config *c = d->config;
    int64_t limit = hd_config_int(c, HD_KEY_max_prefill_predict_length), most = d->most;
    hd_status st = hd_tokenizer_from_config(c, &d->tokenizer, err);
    if (st == HD_OK) { st = hd_prompt_encode(c, d->tokenizer, &d->ids, err); }
    if (st != HD_OK) { return st; }
    d->n_prompt = (int64_t)d->ids.n;
    if (d->n_prompt > limit || d->n_prompt >= most) {
        return HD_FAIL(err, HD_E_CONFIG, "the prompt has %" PRId64 " tokens; max_prefill_predict_length is %" PRId64 " and max_target_length, prompt "
                       "and answer together, is %" PRId64, d->n_prompt, limit, most);
    }
    return HD_OK;
}

/* Token number `position` of the text: drawn from logits by the seed and its place alone, for drafts as for the text itself. */
static int64_t choose_at(void *context, int64_t session, int64_t position, const float *logits)
{
    const decoder *d = context;
    (void)session;
    hd_rng rng = hd_rng_make((uint64_t)hd_config_int(d->config, HD_KEY_init_weights_seed), HD_RNG_SAMPLE, "decode");
    return hd_sample(&d->sampler, logits, d->order, hd_engine_dims(d->engine)->vocab_size, hd_rng_uniform(rng, (uint64_t)position));
}

static hd_status open_decoder(decoder *d, const char *path, hd_err *err)
{
    hd_status st;
    const hd_config *c = d->config;
    void *memory = NULL;
    hd_engine_options options = {.n_session = 1, .capacity = d->most, .chunk = CHUNK, .choose = choose_at, .choose_context = d,
                                 .drafting = hd_drafting_from_config(c)};
    if (hd_config_bool(c, HD_KEY_use_chunked_prefill)) { options.chunk = hd_config_int(c, HD_KEY_prefill_chunk_size); }
    if (options.chunk > d->n_prompt) { options.chunk = d->n_prompt; }
    HD_TRY(hd_engine_open(c, path, &options, &d->engine, err));
    int64_t vocab = hd_engine_dims(d->engine)->vocab_size;
    if (vocab < hd_tokenizer_vocab_size(d->tokenizer)) {
        st = HD_FAIL(err, HD_E_CONFIG, "the model has %" PRId64 " tokens; the tokenizer (tokenizer_type=%s) needs at least %" PRId64, vocab,
                     hd_config_str(c, HD_KEY_tokenizer_type), hd_tokenizer_vocab_size(d->tokenizer));
        goto out;
    }
    HD_TRY(hd_alloc((size_t)vocab, sizeof *d->logits, "logits", &memory, err));
    d->logits = memory;
    HD_TRY(hd_alloc((size_t)vocab, sizeof *d->order, "token order", &memory, err));
    d->order = memory;
out:
    return st;
}

static void close_decoder(decoder *d)
{
    hd_engine_close(d->engine);
    hd_tokenizer_close(d->tokenizer);
    hd_ids_free(&d->ids);
    hd_buf_free(&d->log_probs);
    hd_free(d->logits);
    hd_free(d->order);
}

/* ---- generating ------------------------------------------------------------------------------------------------------------ */

static bool is_end(const decoder *d, int64_t token)
{
    int64_t eos = hd_tokenizer_eos(d->tokenizer);
    return token == (eos >= 0 ? eos : hd_engine_dims(d->engine)->eos_token_id);
}

/* ln softmax(logits)[token], of the logits as they are: sampling's temperature and cuts do not enter. */
static double log_probability(const float *logits, int64_t n, int64_t token)
{
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { max = (double)logits[i] > max ? (double)logits[i] : max; }
    for (int64_t i = 0; i < n; i++) { sum += exp((double)logits[i] - max); }
    return (double)logits[token] - max - log(sum);
}

static int64_t choose(decoder *d)
{
    int64_t vocab = hd_engine_dims(d->engine)->vocab_size, token = choose_at(d, 0, (int64_t)d->ids.n, d->logits);
    if (hd_config_bool(d->config, HD_KEY_return_log_prob)) {
        hd_buf_printf(&d->log_probs, "%s%.6f", d->log_probs.n > 0 ? " " : "", log_probability(d->logits, vocab, token));
    }
    return token;
}

/* What is new in the text. */
static void show(const hd_run_hooks *hooks, const hd_buf *text, size_t *shown)
{
    if (hooks->write == NULL || text->failed != HD_OK || text->n == *shown) { return; }
    hooks->write(hooks->write_context, text->data + *shown, text->n - *shown);
    *shown = text->n;
}

static hd_status generate(decoder *d, const hd_run_hooks *hooks, hd_buf *text, hd_err *err)
{
    hd_status st = HD_OK;
    hd_decode_stream stream;
    size_t shown = 0;
    int64_t session = 0;
    double start = hd_clock_now_s();
    HD_TRY(hd_engine_extend(d->engine, session, d->ids.id, d->n_prompt, d->logits, err));
    d->prefill_s = hd_clock_now_s() - start;
    hd_decode_stream_open(&stream, d->tokenizer, HD_DECODE_SKIP_SPECIAL);
    start = hd_clock_now_s();
    while (hooks->stop_signal == NULL || *hooks->stop_signal == 0) {
        int32_t token = (int32_t)choose(d);
        if (is_end(d, token)) { break; }
        HD_TRY(hd_ids_append(&d->ids, &token, 1, err));
        hd_decode_stream_feed(&stream, token, text);
        show(hooks, text, &shown);
        if ((int64_t)d->ids.n == d->most) { break; }
        HD_TRY(hd_engine_step(d->engine, &session, &token, 1, d->logits, err));
    }
    d->generate_s = hd_clock_now_s() - start;
    hd_decode_stream_end(&stream, text);
    show(hooks, text, &shown);
    if (hooks->write != NULL) { hooks->write(hooks->write_context, "\n", 1); }
    st = hd_buf_check(text, err);
out:
    return st;
}

/* ---- what is said about it ----------------------------------------------------------------------------------------------------- */

static void report(const decoder *d)
{
    int64_t n_answer = (int64_t)d->ids.n - d->n_prompt;
    int64_t n_step = n_answer > 1 ? n_answer - 1 : 0; /* the first token comes from the prompt's logits */
    hd_log(HD_LOG_INFO, "prompt: %" PRId64 " tokens in %.3f s, %.1f tokens/s; answer: %" PRId64 " tokens, %.1f tokens/s; memory %.3f GB", d->n_prompt,
           d->prefill_s, (double)d->n_prompt / (d->prefill_s + 1e-9), n_answer, (double)n_step / (d->generate_s + 1e-9),
           (double)hd_engine_memory_bytes(d->engine) / 1e9);
    hd_engine_log_drafts(d->engine);
}

static hd_status print_answer(const decoder *d, const hd_run_hooks *hooks, const hd_buf *answer, hd_err *err)
{
    const char *want = hd_config_str(d->config, HD_KEY_autoregressive_decode_assert), *prompt = hd_config_str(d->config, HD_KEY_prompt);
    hd_status st = hd_buf_check(&d->log_probs, err);
    if (st != HD_OK) { return st; }
    if (hooks->write == NULL) { hd_log(HD_LOG_RESULT, "Input `%s` -> `%s`", prompt != NULL ? prompt : "", hd_buf_text(answer)); }
    if (d->log_probs.n > 0) { hd_log(HD_LOG_RESULT, "log-probabilities of its tokens: %s", hd_buf_text(&d->log_probs)); }
    if (want != NULL && strncmp(hd_buf_text(answer), want, strlen(want)) != 0) {
        return HD_FAIL(err, HD_E_VERIFY, "the output does not begin with autoregressive_decode_assert: `%s`", want);
    }
    return HD_OK;
}

hd_status hd_cmd_decode(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    decoder d = {.config = config};
    char *path = NULL;
    hd_buf answer = {0};
    HD_TRY(hd_sampler_from_config(config, &d.sampler, err));
    HD_TRY(find_checkpoint(config, &path, err));
    HD_TRY(find_limit(&d, path, err));
    HD_TRY(read_prompt(&d, err));
    HD_TRY(open_decoder(&d, path, err));
    HD_TRY(generate(&d, hooks, &answer, err));
    report(&d);
    HD_TRY(print_answer(&d, hooks, &answer, err));
out:
    close_decoder(&d);
    hd_free(path);
    hd_buf_free(&answer);
    return st;
}
