/* `hadal decode`: answers to one prompt, to many, or a chat. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/path.h"
#include "base/sysinfo.h"
#include "checkpoint/checkpoint.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/chat.h"
#include "infer/generate.h"
#include "infer/prompt.h"
#include "infer/prompts.h"

enum {
    CHUNK = 512,     /* tokens of a prompt in one pass, unless use_chunked_prefill says otherwise */
    MAX_SESSIONS = 8 /* at a time, unless per_device_batch_size says otherwise */
};
static const double max_cache_bytes = 1e9; /* of all sessions together, unless per_device_batch_size says otherwise */

typedef struct decoder {
    const hd_config *config;
    const hd_run_hooks *hooks;
    char *path;
    hd_dims dims;
    int64_t most; /* tokens of prompt and answer */
    hd_tokenizer *tokenizer;
    hd_prompter prompter;
    hd_generator *generator;
    hd_prompts prompts;
    hd_answer *answers;  /* prompts.n */
    size_t n_printed;    /* answers that stand on the standard output */
    size_t n_shown;      /* bytes of the only answer that a terminal has */
    bool json;
    double start_s, ready_s;
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
static hd_status find_limit(decoder *d, hd_err *err)
{
    hd_status st = hd_ckpt_read_dims(d->path, &d->dims, err);
    d->most = hd_config_int(d->config, HD_KEY_max_target_length);
    if (st == HD_OK && !hd_config_is_set(d->config, HD_KEY_max_target_length) && d->most > d->dims.max_position_embeddings) {
        d->most = d->dims.max_position_embeddings;
    }
    return st;
}

/* How many prompts are answered at a time. */
static int64_t count_sessions(const decoder *d)
{
    int64_t n = (int64_t)d->prompts.n, most = MAX_SESSIONS;
    double position = 4.0 * (double)d->dims.n_layer * (double)(d->dims.kv_lora_rank + d->dims.qk_rope_head_dim);
    double fit = max_cache_bytes / (position * (double)d->most);
    if (hd_config_is_set(d->config, HD_KEY_per_device_batch_size)) {
        most = (int64_t)hd_config_float(d->config, HD_KEY_per_device_batch_size);
    } else if (fit < (double)most) {
        most = (int64_t)fit;
    }
    most = most < 1 ? 1 : most;
    return n < most ? n : most;
}

static hd_status open_generator(decoder *d, hd_generator_options options, int64_t longest, bool chat, hd_err *err)
{
    options.most = d->most;
    options.chunk = hd_config_bool(d->config, HD_KEY_use_chunked_prefill) ? hd_config_int(d->config, HD_KEY_prefill_chunk_size) : CHUNK;
    if (options.chunk > longest) { options.chunk = longest; }
    if (options.prefix_grain == 0) { options.prefix_grain = options.chunk; }
    hd_status st = hd_generator_open(d->config, d->path, d->tokenizer, &options, &d->generator, err);
    d->ready_s = hd_clock_now_s();
    if (st == HD_OK && d->hooks->ready != NULL) { d->hooks->ready(d->hooks->context, chat); }
    return st;
}

static void close_decoder(decoder *d)
{
    for (size_t i = 0; d->answers != NULL && i < d->prompts.n; i++) { hd_answer_free(&d->answers[i]); }
    hd_free(d->answers);
    hd_prompts_free(&d->prompts);
    hd_generator_close(d->generator);
    hd_prompter_close(&d->prompter);
    hd_tokenizer_close(d->tokenizer);
    hd_free(d->path);
}

/* ---- prompts -------------------------------------------------------------------------------------------------------------- */

/* Faults of a prompt name it when it is one of many. */
static hd_status encode_prompt(decoder *d, size_t i, hd_ids *ids, hd_err *err)
{
    hd_status st;
    hd_buf name = {0};
    int64_t dropped;
    const hd_prompt *p = &d->prompts.list[i];
    const char *text = hd_prompts_text(&d->prompts, i);
    hd_buf_printf(&name, p->line > 0 ? "%s:%zu" : "%s", d->prompts.name, p->line);
    HD_TRY(hd_buf_check(&name, err));
    if (p->conversation) {
        HD_TRY(hd_prompter_conversation(&d->prompter, text, p->n, hd_buf_text(&name), ids, err));
    } else {
        HD_TRY(hd_prompter_text(&d->prompter, text, p->n, ids, err));
    }
    HD_TRY(hd_prompt_fit(d->config, d->tokenizer, d->most, ids, &dropped, err));
    if (dropped > 0) {
        hd_log(HD_LOG_WARN, "%s: %" PRId64 " tokens at the %s of the prompt were dropped, %zu are left", hd_buf_text(&name), dropped,
               hd_config_str(d->config, HD_KEY_truncate_prompt), ids->n);
    }
out:
    if (st != HD_OK && p->line > 0 && strstr(err->msg, hd_buf_text(&name)) == NULL) { hd_err_prefix(err, "%s: ", hd_buf_text(&name)); }
    hd_buf_free(&name);
    return st;
}

/* Prompt number i has the seed of the first one plus i, so that each can be asked for alone. */
static hd_status encode_prompts(decoder *d, int64_t *longest, hd_err *err)
{
    hd_status st = HD_OK;
    void *memory = NULL;
    uint64_t seed = hd_sampling_seed(d->config);
    HD_TRY(hd_alloc(d->prompts.n, sizeof *d->answers, "answers", &memory, err));
    d->answers = memory;
    *longest = 1;
    for (size_t i = 0; i < d->prompts.n; i++) {
        hd_ids *ids = &d->answers[i].ids;
        HD_TRY(encode_prompt(d, i, ids, err));
        d->answers[i].seed = seed + i;
        *longest = (int64_t)ids->n > *longest ? (int64_t)ids->n : *longest;
    }
out:
    return st;
}

/* ---- answers on their way out ---------------------------------------------------------------------------------------------- */

static double log_prob_at(const hd_answer *a, size_t i)
{
    double value;
    memcpy(&value, a->log_probs.data + i * sizeof value, sizeof value);
    return value;
}

static void write_object(const decoder *d, size_t i, hd_buf *out)
{
    const hd_answer *a = &d->answers[i];
    const hd_prompt *p = &d->prompts.list[i];
    const char *text = hd_prompts_text(&d->prompts, i);
    hd_json_writer w;
    hd_json_writer_init(&w, out, 0);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "index");
    hd_json_write_u64(&w, i);
    hd_json_write_key(&w, "prompt");
    if (p->conversation) {
        hd_json_write_raw(&w, text, p->n);
    } else {
        hd_json_write_string_n(&w, text, p->n);
    }
    hd_json_write_key(&w, "answer");
    hd_json_write_string_n(&w, hd_buf_text(&a->text), a->text.n);
    hd_json_write_key(&w, "finish");
    hd_json_write_string(&w, hd_finish_name(a->finish));
    hd_json_write_key(&w, "prompt_tokens");
    hd_json_write_i64(&w, a->n_prompt);
    hd_json_write_key(&w, "answer_tokens");
    hd_json_write_i64(&w, hd_answer_length(a));
    if (a->log_probs.n > 0) {
        hd_json_write_key(&w, "log_probs");
        hd_json_write_array(&w);
        for (size_t k = 0; k < a->log_probs.n / sizeof(double); k++) { hd_json_write_f64(&w, log_prob_at(a, k)); }
        hd_json_write_end(&w);
    }
    hd_json_write_end(&w);
}

static void write_text(const decoder *d, size_t i, hd_buf *out)
{
    const hd_answer *a = &d->answers[i];
    bool streamed = d->n_shown > 0; /* it stands on the terminal already */
    if (!streamed) { hd_buf_printf(out, "Input `%.*s` -> `%s`", (int)d->prompts.list[i].n, hd_prompts_text(&d->prompts, i), hd_buf_text(&a->text)); }
    if (a->log_probs.n > 0) { hd_buf_printf(out, "%slog-probabilities of its tokens:", streamed ? "" : "\n"); }
    for (size_t k = 0; k < a->log_probs.n / sizeof(double); k++) { hd_buf_printf(out, " %.6f", log_prob_at(a, k)); }
}

/* Prints an answer and forgets it, but for its beginning, which autoregressive_decode_assert looks at. */
static hd_status print_answer(decoder *d, size_t i, hd_err *err)
{
    hd_buf out = {0};
    hd_answer *a = &d->answers[i];
    if (d->json) {
        write_object(d, i, &out);
    } else {
        write_text(d, i, &out);
    }
    hd_status st = hd_buf_check(&out, err);
    if (st == HD_OK && out.n > 0) { hd_log(HD_LOG_RESULT, "%s", hd_buf_text(&out)); }
    hd_buf_free(&out);
    hd_ids_free(&a->ids);
    hd_buf_free(&a->log_probs);
    return st;
}

/* Answers are printed in the order of their prompts. */
static hd_status on_ended(void *context, const hd_answer *ended, hd_err *err)
{
    decoder *d = context;
    const hd_generate_totals *t = hd_generator_totals(d->generator);
    (void)ended;
    if (d->n_shown > 0) { d->hooks->write(d->hooks->context, "\n", 1); }
    for (; d->n_printed < d->prompts.n && d->answers[d->n_printed].finish != HD_FINISH_OPEN; d->n_printed++) {
        hd_status st = print_answer(d, d->n_printed, err);
        if (st != HD_OK) { return st; }
    }
    if (d->hooks->progress != 0 && d->prompts.n > 1) {
        hd_log(HD_LOG_PROGRESS, "%" PRId64 " of %zu answers, %.1f tokens/s", t->n_answer, d->prompts.n, (double)t->n_stepped / (t->step_s + 1e-9));
    }
    return HD_OK;
}

static void on_grown(void *context, const hd_answer *a)
{
    decoder *d = context;
    d->hooks->write(d->hooks->context, a->text.data + d->n_shown, a->n_settled - d->n_shown);
    d->n_shown = a->n_settled;
}

static bool is_stopped(void *context)
{
    const decoder *d = context;
    return d->hooks->stop_signal != NULL && *d->hooks->stop_signal != 0;
}

/* ---- what is said about it ------------------------------------------------------------------------------------------------- */

static void report(const decoder *d)
{
    hd_rss rss = {0};
    hd_err ignored;
    hd_status measured = hd_sysinfo_rss(&rss, &ignored); /* where it is not known, 0 is printed */
    const hd_generate_totals *t = hd_generator_totals(d->generator);
    const hd_answer *first = &d->answers[0];
    char kept[64] = "", how[64] = "";
    double waited = d->ready_s - d->start_s + first->first_s;
    (void)measured;
    if (t->n_kept > 0) { (void)snprintf(kept, sizeof kept, " (%" PRId64 " more were in the cache)", t->n_kept); }
    if (d->prompts.n == 1) {
        (void)snprintf(how, sizeof how, " (%s)", hd_finish_name(first->finish));
    } else {
        (void)snprintf(how, sizeof how, ", %.1f answers at a time", (double)t->n_stepped / ((double)t->n_step + 1e-9));
    }
    hd_log(HD_LOG_INFO, "prompt%s: %" PRId64 " tokens in %.3f s, %.1f tokens/s%s; answer%s: %" PRId64 " tokens%s, %.1f tokens/s; first token after %.3f s, "
           "%.3f s from the start; memory %.3f GB, resident at most %.3f GB", d->prompts.n == 1 ? "" : "s", t->n_read, t->read_s,
           (double)t->n_read / (t->read_s + 1e-9), kept, d->prompts.n == 1 ? "" : "s", t->n_token, how, (double)t->n_stepped / (t->step_s + 1e-9),
           first->first_s, waited, (double)hd_engine_memory_bytes(hd_generator_engine(d->generator)) / 1e9, (double)rss.peak_bytes / 1e9);
}

static hd_status judge(const decoder *d, hd_err *err)
{
    const char *want = hd_config_str(d->config, HD_KEY_autoregressive_decode_assert);
    if (is_stopped((void *)(uintptr_t)d)) {
        hd_status st = HD_FAIL(err, HD_E_SIGNAL, "stopped: %zu of %zu prompts were taken", d->n_printed, d->prompts.n);
        err->signal = *d->hooks->stop_signal;
        return st;
    }
    for (size_t i = 0; want != NULL && i < d->prompts.n; i++) {
        if (strncmp(hd_buf_text(&d->answers[i].text), want, strlen(want)) == 0) { continue; }
        return HD_FAIL(err, HD_E_VERIFY, "the output%s does not begin with autoregressive_decode_assert: `%s`", d->prompts.n == 1 ? "" : " of a prompt", want);
    }
    return HD_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------------------- */

static hd_status answer_prompts(decoder *d, hd_err *err)
{
    hd_status st;
    int64_t longest;
    HD_TRY(hd_prompts_from_config(d->config, d->hooks->input, d->hooks->n_input, &d->prompts, err));
    HD_TRY(hd_prompter_open(d->config, d->tokenizer, false, &d->prompter, err));
    HD_TRY(encode_prompts(d, &longest, err));
    HD_TRY(open_generator(d, (hd_generator_options){.n_slot = count_sessions(d)}, longest, false, err));
    hd_generate_hooks hooks = {.context = d, .ended = on_ended, .stopped = is_stopped};
    if (d->hooks->write != NULL && d->prompts.n == 1 && !d->json) { hooks.grown = on_grown; }
    HD_TRY(hd_generate(d->generator, d->answers, d->prompts.n, &hooks, err));
    hd_log(HD_LOG_PROGRESS, "%s", "");
    report(d);
    hd_engine_log_drafts(hd_generator_engine(d->generator));
    st = judge(d, err);
out:
    return st;
}

static hd_status converse(decoder *d, hd_err *err)
{
    hd_status st;
    HD_TRY(hd_prompter_open(d->config, d->tokenizer, true, &d->prompter, err));
    HD_TRY(open_generator(d, (hd_generator_options){.n_slot = 1, .prefix_grain = 1}, d->most, true, err));
    st = hd_chat_run(d->config, d->tokenizer, &d->prompter, d->generator, d->most, d->hooks, err);
    hd_engine_log_drafts(hd_generator_engine(d->generator));
out:
    return st;
}

hd_status hd_cmd_decode(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    hd_sampler sampler;
    decoder d = {.config = config, .hooks = hooks, .start_s = hd_clock_now_s()};
    bool chat = hooks->read_line != NULL && !hd_config_is_set(config, HD_KEY_prompt) && hd_config_is_null(config, HD_KEY_prompt_file);
    d.json = hd_config_is(config, HD_KEY_answer_format, "jsonl") || hd_config_is(config, HD_KEY_log_format, "json");
    HD_TRY(hd_sampler_from_config(config, &sampler, err)); /* before anything is read */
    HD_TRY(find_checkpoint(config, &d.path, err));
    HD_TRY(find_limit(&d, err));
    HD_TRY(hd_tokenizer_from_config(config, &d.tokenizer, err));
    st = chat ? converse(&d, err) : answer_prompts(&d, err);
out:
    close_decoder(&d);
    return st;
}
