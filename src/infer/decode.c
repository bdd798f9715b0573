/* `hadal decode`: continues a prompt by a forward pass over the whole context for every token.  No cache: the cost grows
 * with the square of the length, which is fine for the short texts it is meant for. */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/path.h"
#include "base/rng.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/loaded.h"
#include "infer/sample.h"
#include "tokenizer/tokenizer.h"

typedef struct decoder {
    const hd_config *config;
    hd_tokenizer *tokenizer;
    hd_loaded loaded;
    hd_sampler sampler;
    int64_t n_max;      /* tokens of prompt and answer */
    int32_t *tokens, *positions, *segments, *order;
    float *logits, *weights;
} decoder;

/* ---- the model --------------------------------------------------------------------------------------------------------------- */

/* Logits of the last of n tokens, into d->logits. */
static hd_status forward(decoder *d, int64_t n, hd_err *err)
{
    hd_status st = HD_OK;
    hd_loaded *l = &d->loaded;
    size_t mark = hd_arena_mark(&l->step_arena);
    hd_leaf leaf = {.n_seq = 1, .seq_len = n, .weight_total = 1.0, .mtp_weight_total = 1.0, .n_seq_total = 1, .n_token_total = n};
    hd_leaf_rows rows = {.n_seq = 1, .seq_len = n, .inputs = d->tokens, .targets = d->tokens, .positions = d->positions,
                         .segments = d->segments, .loss_weights = d->weights}; /* logits need neither targets nor weights */
    hd_tensor logits;
    HD_TRY(hd_leaf_upload(&l->model, &l->ex, &l->step_arena, &rows, &leaf, err));
    HD_TRY(hd_tensor_new_2d(&l->step_arena, HD_DTYPE_F32, 1, l->dims.vocab_size, &logits, err));
    HD_TRY(hd_model_logits(&l->model, &l->ex, &l->step_arena, &leaf, n - 1, &logits, err));
    HD_TRY(hd_exec_read(&l->ex, &logits, d->logits, err));
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

static hd_status longest(void *context, hd_err *err)
{
    decoder *d = context;
    return forward(d, d->n_max, err);
}

static hd_status open_host_memory(decoder *d, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n = (size_t)d->n_max, vocab = (size_t)d->loaded.dims.vocab_size;
    HD_TRY(hd_alloc(n, sizeof *d->tokens, "tokens", (void **)&d->tokens, err));
    HD_TRY(hd_alloc(n, sizeof *d->positions, "positions", (void **)&d->positions, err));
    HD_TRY(hd_alloc(n, sizeof *d->segments, "segments", (void **)&d->segments, err));
    HD_TRY(hd_alloc(n, sizeof *d->weights, "loss weights", (void **)&d->weights, err));
    HD_TRY(hd_alloc(vocab, sizeof *d->order, "token order", (void **)&d->order, err));
    HD_TRY(hd_alloc(vocab, sizeof *d->logits, "logits", (void **)&d->logits, err));
    for (int64_t i = 0; i < d->n_max; i++) {
        d->positions[i] = (int32_t)i;
        d->segments[i] = 1;
    }
out:
    return st;
}

/* ---- text -------------------------------------------------------------------------------------------------------------------- */

static hd_status read_prompt(decoder *d, int64_t *n, hd_err *err)
{
    hd_status st = HD_OK;
    hd_ids ids = {0};
    const char *prompt = hd_config_str(d->config, HD_KEY_prompt);
    int64_t limit = hd_config_int(d->config, HD_KEY_max_prefill_predict_length);
    int32_t bos = hd_tokenizer_bos(d->tokenizer);
    if (hd_config_bool(d->config, HD_KEY_add_bos) && bos >= 0) { HD_TRY(hd_ids_append(&ids, &bos, 1, err)); }
    if (prompt != NULL) { HD_TRY(hd_tokenizer_encode(d->tokenizer, prompt, strlen(prompt), HD_ENCODE_PLAIN, &ids, err)); }
    *n = (int64_t)ids.n;
    if (*n > limit || *n >= d->n_max) {
        st = HD_FAIL(err, HD_E_CONFIG, "the prompt has %" PRId64 " tokens; max_prefill_predict_length is %" PRId64 " and "
                     "max_target_length, prompt and answer together, is %" PRId64, *n, limit, d->n_max);
    } else if (*n == 0) {
        st = HD_FAIL(err, HD_E_CONFIG, "the prompt is empty and there is no BOS: there is nothing to continue");
    } else {
        memcpy(d->tokens, ids.id, ids.n * sizeof *ids.id);
    }
out:
    hd_ids_free(&ids);
    return st;
}

static hd_status generate(decoder *d, const hd_run_hooks *hooks, int64_t n, hd_buf *text, hd_err *err)
{
    hd_rng rng = hd_rng_make((uint64_t)hd_config_int(d->config, HD_KEY_init_weights_seed), HD_RNG_SAMPLE, "decode");
    hd_decode_stream stream;
    hd_decode_stream_open(&stream, d->tokenizer, HD_DECODE_SKIP_SPECIAL);
    for (; n < d->n_max; n++) {
        if (hooks->stop_signal != NULL && *hooks->stop_signal != 0) { break; }
        hd_status st = forward(d, n, err);
        if (st != HD_OK) { return st; }
        int64_t token = hd_sample(&d->sampler, d->logits, d->order, d->loaded.dims.vocab_size, hd_rng_uniform(rng, (uint64_t)n));
        if (token == hd_tokenizer_eos(d->tokenizer)) { break; }
        d->tokens[n] = (int32_t)token;
        hd_decode_stream_feed(&stream, (int32_t)token, text);
    }
    hd_decode_stream_end(&stream, text);
    return hd_buf_check(text, err);
}

static hd_status print_answer(const decoder *d, const hd_buf *answer, hd_err *err)
{
    const char *want = hd_config_str(d->config, HD_KEY_autoregressive_decode_assert), *prompt = hd_config_str(d->config, HD_KEY_prompt);
    hd_log(HD_LOG_RESULT, "Input `%s` -> `%s`", prompt != NULL ? prompt : "", hd_buf_text(answer));
    if (want != NULL && strncmp(hd_buf_text(answer), want, strlen(want)) != 0) {
        return HD_FAIL(err, HD_E_VERIFY, "the output does not begin with autoregressive_decode_assert: `%s`", want);
    }
    return HD_OK;
}

/* ---- the command --------------------------------------------------------------------------------------------------------------- */

/* load_parameters_path, or the run's own checkpoints. */
static hd_status find_checkpoint(const hd_config *config, char **path, hd_err *err)
{
    const char *given = hd_config_str(config, HD_KEY_load_parameters_path);
    if (given != NULL) { return hd_strdup(given, path, err); }
    return hd_path_join(hd_config_str(config, HD_KEY_base_output_directory), hd_config_str(config, HD_KEY_run_name), path, err);
}

static hd_status open_tokenizer(decoder *d, hd_err *err)
{
    hd_status st = hd_tokenizer_from_config(d->config, &d->tokenizer, err);
    if (st != HD_OK || d->loaded.dims.vocab_size >= hd_tokenizer_vocab_size(d->tokenizer)) { return st; }
    return HD_FAIL(err, HD_E_CONFIG, "the model has %" PRId64 " tokens; tokenizer_type=%s needs at least %" PRId64, d->loaded.dims.vocab_size,
                   hd_config_str(d->config, HD_KEY_tokenizer_type), hd_tokenizer_vocab_size(d->tokenizer));
}

hd_status hd_cmd_decode(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    decoder d = {.config = config, .n_max = hd_config_int(config, HD_KEY_max_target_length)};
    char *path = NULL;
    hd_buf answer = {0};
    int64_t n;
    HD_TRY(hd_sampler_from_config(config, &d.sampler, err));
    HD_TRY(find_checkpoint(config, &path, err));
    HD_TRY(hd_loaded_read(config, path, &d.loaded, err));
    HD_TRY(open_tokenizer(&d, err));
    HD_TRY(open_host_memory(&d, err));
    HD_TRY(hd_loaded_open(config, path, longest, &d, &d.loaded, err));
    HD_TRY(read_prompt(&d, &n, err));
    HD_TRY(generate(&d, hooks, n, &answer, err));
    HD_TRY(print_answer(&d, &answer, err));
out:
    hd_loaded_close(&d.loaded);
    hd_tokenizer_close(d.tokenizer);
    hd_free(d.tokens);
    hd_free(d.positions);
    hd_free(d.segments);
    hd_free(d.order);
    hd_free(d.logits);
    hd_free(d.weights);
    hd_free(path);
    hd_buf_free(&answer);
    return st;
}
