/* `hadal tokenizer train`: files to a tokenizer.json.  See include/hadal/tokenizer.h and docs/tokenizer-training.md. */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/parallel_for.h"
#include "base/path.h"
#include "data/corpus.h"
#include "hadal/log.h"
#include "hadal/tokenizer.h"
#include "tokenizer/train.h"

enum { BATCH_BYTES = 32 << 20 };

static const size_t max_word_bytes = (size_t)1 << 30;

typedef struct job {
    const hd_config *config;
    const hd_run_hooks *hooks;
    hd_corpus corpus;
    hd_word_counts *counts;
    char *text; /* a batch of documents */
    size_t n_text, *ends, n_document, document_capacity;
    int64_t done_bytes;
    double start, next_line;
} job;

/* ---- progress, and stopping ------------------------------------------------------------------------------------------------------ */

static hd_status check_stop(const job *j, hd_err *err)
{
    if (j->hooks->stop_signal == NULL || *j->hooks->stop_signal == 0) { return HD_OK; }
    hd_status st = HD_FAIL(err, HD_E_SIGNAL, "stopped; nothing was written");
    if (err != NULL) { err->signal = (int)*j->hooks->stop_signal; }
    return st;
}

static bool is_due(job *j)
{
    double now = hd_clock_now_s();
    if (j->hooks->progress == 0 || now < j->next_line) { return false; }
    j->next_line = now + 0.25;
    return true;
}

static hd_status report_merges(void *context, int64_t n_token, hd_err *err)
{
    job *j = context;
    if (is_due(j)) { hd_log(HD_LOG_PROGRESS, "%" PRId64 " of %" PRId64 " tokens", n_token, hd_config_int(j->config, HD_KEY_vocab_size)); }
    return check_stop(j, err);
}

/* ---- counting -------------------------------------------------------------------------------------------------------------------- */

static hd_status count_batch(job *j, hd_err *err)
{
    hd_status st = hd_word_counts_add(j->counts, j->text, j->ends, j->n_document, err);
    j->n_text = j->n_document = 0;
    if (st != HD_OK) { return st; }
    if (is_due(j)) {
        hd_log(HD_LOG_PROGRESS, "words of %.2f of %.2f GB, %.0f MB/s", (double)j->done_bytes / 1e9, (double)j->corpus.n_byte / 1e9,
               (double)j->done_bytes / 1e6 / (hd_clock_now_s() - j->start + 1e-9));
    }
    return check_stop(j, err);
}

static hd_status end_document(job *j, hd_err *err)
{
    if (j->n_document == j->document_capacity) {
        void *ends = j->ends;
        size_t capacity = j->document_capacity == 0 ? 1024 : 2 * j->document_capacity;
        hd_status st = hd_realloc(&ends, j->document_capacity, capacity, sizeof *j->ends, "documents", err);
        if (st != HD_OK) { return st; }
        j->ends = ends;
        j->document_capacity = capacity;
    }
    j->ends[j->n_document++] = j->n_text;
    return HD_OK;
}

/* A document in parts that fit the batch; what stands behind the cut of a part begins the next one. */
static hd_status take_document(job *j, int64_t d, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n = j->corpus.documents[d].n_byte, at = 0;
    while (at < n) {
        size_t room = BATCH_BYTES - j->n_text, part = n - at < (int64_t)room ? (size_t)(n - at) : room;
        if (n - at > (int64_t)room && j->n_text > BATCH_BYTES / 2) { /* a batch of its own is larger */
            HD_TRY(count_batch(j, err));
            continue;
        }
        HD_TRY(hd_corpus_read(&j->corpus, d, at, (int64_t)part, j->text + j->n_text, err));
        if (at + (int64_t)part < n) { part = hd_word_counts_cut(j->text + j->n_text, part); }
        j->n_text += part;
        j->done_bytes += (int64_t)part;
        at += (int64_t)part;
        HD_TRY(end_document(j, err));
        if (at < n) { HD_TRY(count_batch(j, err)); }
    }
out:
    return st;
}

static hd_status count_words(job *j, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(hd_alloc(BATCH_BYTES, 1, "text", (void **)&j->text, err));
    HD_TRY(hd_word_counts_open(hd_default_threads(), max_word_bytes, &j->counts, err));
    for (int64_t d = 0; d < j->corpus.n_document; d++) { HD_TRY(take_document(j, d, err)); }
    HD_TRY(count_batch(j, err));
    hd_log(HD_LOG_INFO, "%" PRIu64 " words, %zu of them different, in %.1f MB of text, %.1f s", hd_word_counts_total(j->counts),
           hd_word_counts_words(j->counts), (double)j->done_bytes / 1e6, hd_clock_now_s() - j->start);
    if (hd_word_counts_dropped(j->counts) > 0) {
        hd_log(HD_LOG_WARN, "%" PRIu64 " words were so rare that they were not kept: the table of words is limited to %zu MiB",
               hd_word_counts_dropped(j->counts), max_word_bytes >> 20);
    }
    if (hd_word_counts_words(j->counts) == 0) { st = HD_FAIL(err, HD_E_CONFIG, "the files hold no text"); }
out:
    hd_free(j->text);
    hd_free(j->ends);
    j->text = NULL;
    j->ends = NULL;
    return st;
}

/* ---- writing --------------------------------------------------------------------------------------------------------------------- */

static hd_status write_in(const char *folder, const char *name, const hd_buf *text, hd_err *err)
{
    char *path = NULL;
    hd_status st = hd_path_join(folder, name, &path, err);
    if (st == HD_OK) { st = hd_io_write_file(path, hd_buf_text(text), text->n, err); }
    hd_free(path);
    return st;
}

static hd_status write_folder(const char *folder, const hd_trained *trained, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf json = {0}, config = {0};
    HD_TRY(hd_trained_write(trained, &json, err));
    HD_TRY(hd_trained_write_config(&config, err));
    HD_TRY(hd_io_mkdirs(folder, err));
    HD_TRY(write_in(folder, "tokenizer_config.json", &config, err));
    HD_TRY(write_in(folder, "tokenizer.json", &json, err));
out:
    hd_buf_free(&json);
    hd_buf_free(&config);
    return st;
}

/* A corpus takes its paths as one list with commas. */
static hd_status join_paths(const char *const *paths, int n_path, hd_buf *list, hd_err *err)
{
    for (int i = 0; i < n_path; i++) {
        if (strchr(paths[i], ',') != NULL) { return HD_FAIL(err, HD_E_CONFIG, "%s: names with a comma are not supported", paths[i]); }
        if (i > 0) { hd_buf_append_char(list, ','); }
        hd_buf_append_text(list, paths[i]);
    }
    return hd_buf_check(list, err);
}

static hd_status train_and_write(job *j, const char *folder, hd_err *err)
{
    hd_status st = HD_OK;
    hd_trained trained = {0};
    hd_train_options options = {
        .vocab_size = hd_config_int(j->config, HD_KEY_vocab_size), .min_count = 2, .progress = report_merges, .context = j};
    HD_TRY(count_words(j, err));
    double counted = hd_clock_now_s();
    HD_TRY(hd_bpe_train(j->counts, &options, &trained, err));
    hd_log(HD_LOG_INFO, "%zu merges in %.1f s", trained.n_merge, hd_clock_now_s() - counted);
    if ((int64_t)trained.n_token < options.vocab_size) {
        hd_log(HD_LOG_WARN, "the vocabulary has %zu tokens and not %" PRId64 ": no pair is left that stands twice in the text",
               trained.n_token, options.vocab_size);
    }
    HD_TRY(write_folder(folder, &trained, err));
    hd_log(HD_LOG_RESULT, "%s/tokenizer.json: %zu tokens", folder, trained.n_token);
out:
    hd_trained_free(&trained);
    return st;
}

hd_status hd_cmd_tokenizer_train(const hd_config *config, const char *const *paths, int n_path, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf list = {0};
    const char *folder = hd_config_str(config, HD_KEY_tokenizer_path), *separator = hd_config_str(config, HD_KEY_document_separator);
    job j = {.config = config, .hooks = hooks, .start = hd_clock_now_s()};
    if (folder == NULL || folder[0] == '\0') {
        return HD_FAIL(err, HD_E_CONFIG, "tokenizer_path is not set: the folder in which tokenizer.json will be written");
    }
    HD_TRY(join_paths(paths, n_path, &list, err));
    if (separator != NULL && separator[0] == '\0') { separator = NULL; }
    HD_TRY(hd_corpus_open(hd_buf_text(&list), hd_config_str(config, HD_KEY_text_column), separator, &j.corpus, err));
    HD_TRY(train_and_write(&j, folder, err));
out:
    if (hooks->progress != 0) { hd_log(HD_LOG_PROGRESS, "%s", ""); }
    hd_word_counts_close(j.counts);
    hd_corpus_close(&j.corpus);
    hd_buf_free(&list);
    return st;
}
