/* Training: against HuggingFace's merges, against the definition, on any number of threads, in bounded memory, with failing allocations; what
 * is written is a tokenizer. */
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/json.h"
#include "tokenizer/train.h"

static hd_err err;

static hd_word_counts *count(const char *text, size_t n, int n_threads, size_t max_bytes)
{
    hd_word_counts *counts;
    assert_ok(hd_word_counts_open(n_threads, max_bytes, &counts, &err));
    assert_ok(hd_word_counts_add(counts, text, &n, 1, &err));
    return counts;
}

static hd_trained train(const char *text, size_t n, int64_t vocab_size, int n_threads)
{
    hd_trained trained;
    hd_train_options options = {.vocab_size = vocab_size, .min_count = 2};
    hd_word_counts *counts = count(text, n, n_threads, 0);
    assert_ok(hd_bpe_train(counts, &options, &trained, &err));
    hd_word_counts_close(counts);
    return trained;
}

static char *written(const hd_trained *trained)
{
    hd_buf json = {0};
    assert_ok(hd_trained_write(trained, &json, &err));
    return hd_buf_take(&json);
}

/* ---- HuggingFace ----------------------------------------------------------------------------------------------------------------- */

static void merges_of_huggingface(void **state)
{
    (void)state;
    char *text, *golden;
    size_t n, n_golden, n_line = 0;
    assert_ok(hd_io_read_file("tests/tokenizer/train_text.txt", 1 << 20, &text, &n, &err));
    assert_ok(hd_io_read_file("tests/tokenizer/train.golden", 1 << 20, &golden, &n_golden, &err));
    hd_trained trained = train(text, n, 600, 1);
    char *json = written(&trained), *merges = strstr(json, "\"merges\"");
    for (char *line = golden, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, n_line++) {
        hd_buf quoted = {0};
        hd_json_writer w;
        *end = '\0';
        hd_json_writer_init(&w, &quoted, 0);
        hd_json_write_string(&w, line);
        merges = strchr(merges, '\n') + 1; /* one merge on a line of its own, in the same order */
        merges += strspn(merges, " ");
        assert_memory_equal(merges, quoted.data, quoted.n);
        hd_buf_free(&quoted);
    }
    assert_int_equal(n_line, trained.n_merge);
    assert_int_equal(trained.n_token, 600);
    hd_free(json);
    hd_free(text);
    hd_free(golden);
    hd_trained_free(&trained);
}

/* ---- the definition -------------------------------------------------------------------------------------------------------------- */

enum { MAX_WORDS = 400, MAX_LENGTH = 64 };

typedef struct naive_word {
    int32_t symbol[MAX_LENGTH];
    int n;
    int64_t count;
} naive_word;

/* The most frequent pair, the smaller one of two as frequent ones, by counting all anew. */
static int64_t best_pair(const naive_word *words, size_t n, int32_t *left, int32_t *right)
{
    int64_t best = 0;
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; k + 1 < words[i].n; k++) {
            int32_t a = words[i].symbol[k], b = words[i].symbol[k + 1];
            int64_t sum = 0;
            for (size_t j = 0; j < n; j++) {
                for (int m = 0; m + 1 < words[j].n; m++) {
                    sum += words[j].symbol[m] == a && words[j].symbol[m + 1] == b ? words[j].count : 0;
                }
            }
            bool first = sum > best || (sum == best && (a < *left || (a == *left && b < *right)));
            if (first) { best = sum, *left = a, *right = b; }
        }
    }
    return best;
}

static void replace(naive_word *w, int32_t left, int32_t right, int32_t id)
{
    int to = 0;
    for (int k = 0; k < w->n; k++, to++) {
        bool here = k + 1 < w->n && w->symbol[k] == left && w->symbol[k + 1] == right;
        w->symbol[to] = here ? id : w->symbol[k];
        k += here;
    }
    w->n = to;
}

static size_t naive_words(const hd_word_counts *counts, const hd_trained *trained, naive_word *words)
{
    size_t n = hd_word_counts_words(counts);
    assert_true(n <= MAX_WORDS);
    for (size_t i = 0; i < n; i++) {
        size_t length;
        uint64_t times;
        const char *bytes = hd_word_counts_get(counts, i, &length, &times);
        assert_true(length <= MAX_LENGTH);
        words[i] = (naive_word){.n = (int)length, .count = (int64_t)times};
        for (size_t k = 0; k < length; k++) {
            for (size_t id = HD_TRAIN_SPECIALS; id < HD_TRAIN_FIRST_MERGE; id++) {
                if (trained->bytes[trained->ends[id] - 1] == bytes[k]) { words[i].symbol[k] = (int32_t)id; }
            }
        }
    }
    return n;
}

/* Neighbours differ: a run of one letter counts overlapping pairs here and in HuggingFace, "aaa" two, and more in a merge. */
static void check_against_definition(const char *text, size_t n)
{
    static naive_word words[MAX_WORDS];
    hd_word_counts *counts = count(text, n, 2, 0);
    hd_trained trained = train(text, n, 330, 2);
    size_t n_word = naive_words(counts, &trained, words);
    for (size_t i = 0; i < trained.n_merge; i++) {
        int32_t left = INT32_MAX, right = INT32_MAX;
        assert_true(best_pair(words, n_word, &left, &right) >= 2);
        assert_int_equal(trained.merge[i].left, left);
        assert_int_equal(trained.merge[i].right, right);
        for (size_t k = 0; k < n_word; k++) { replace(&words[k], left, right, trained.merge[i].id); }
    }
    if (trained.n_token < 330) {
        int32_t left = INT32_MAX, right = INT32_MAX;
        assert_true(best_pair(words, n_word, &left, &right) < 2);
    }
    hd_trained_free(&trained);
    hd_word_counts_close(counts);
}

static void merges_of_the_definition(void **state)
{
    (void)state;
    char text[1500];
    static const char alphabet[] = "abcde   fgh,12\nij";
    hd_rng rng = hd_test_rng("train");
    for (int64_t round = 0; round < hd_test_count(6, 60); round++) {
        size_t n = 200 + (size_t)hd_rng_below(rng, sizeof text - 200, (uint64_t)(round * 4000));
        for (size_t i = 0; i < n; i++) {
            do {
                text[i] = alphabet[hd_rng_below(rng, sizeof alphabet - 1, (uint64_t)(round * 4000 + 1) + i)];
                if (i > 0 && text[i] == text[i - 1]) { text[i] = text[i] == 'a' ? 'b' : 'a'; }
            } while (i > 0 && text[i] == text[i - 1]);
        }
        check_against_definition(text, n);
    }
}

/* ---- words ----------------------------------------------------------------------------------------------------------------------- */

static uint64_t times_of(const hd_word_counts *counts, const char *word)
{
    for (size_t i = 0; i < hd_word_counts_words(counts); i++) {
        size_t n;
        uint64_t times;
        const char *bytes = hd_word_counts_get(counts, i, &n, &times);
        if (n == strlen(word) && memcmp(bytes, word, n) == 0) { return times; }
    }
    return 0;
}

static void words_are_counted(void **state)
{
    (void)state;
    static const char text[] = "the cat, the 1234 cats\n\nthe\xFF";
    hd_word_counts *counts = count(text, sizeof text - 1, 1, 0);
    assert_int_equal(times_of(counts, "the"), 2);
    assert_int_equal(times_of(counts, " the"), 1);
    assert_int_equal(times_of(counts, " cat"), 1);
    assert_int_equal(times_of(counts, "123"), 1);
    assert_int_equal(times_of(counts, "4"), 1);
    assert_int_equal(times_of(counts, "\n\n"), 1);
    assert_int_equal(times_of(counts, "\xEF\xBF\xBD"), 1);
    hd_word_counts_close(counts);
    /* two documents are not one text */
    size_t ends[] = {2, 4};
    assert_ok(hd_word_counts_open(3, 0, &counts, &err));
    assert_ok(hd_word_counts_add(counts, "abcd", ends, 2, &err));
    assert_true(times_of(counts, "ab") == 1 && times_of(counts, "cd") == 1 && hd_word_counts_total(counts) == 2);
    hd_word_counts_close(counts);
}

/* Text of about n bytes with `different` words. */
static char *make_text(size_t n, uint64_t different)
{
    hd_rng rng = hd_test_rng("words");
    hd_buf text = {0};
    for (uint64_t i = 0; text.n < n; i++) {
        uint64_t w = hd_rng_below(rng, different, 2 * i) * hd_rng_below(rng, different, 2 * i + 1) / different;
        hd_buf_append_char(&text, ' ');
        do {
            hd_buf_append_char(&text, (char)('a' + w % 26));
        } while ((w /= 26) > 0);
    }
    assert_ok(hd_buf_check(&text, &err));
    return hd_buf_take(&text);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    char *text = make_text(3 << 20, 50000);
    size_t n = strlen(text);
    hd_trained one = train(text, n, 3000, 1), four = train(text, n, 3000, 4);
    char *a = written(&one), *b = written(&four);
    assert_string_equal(a, b);
    hd_free(a);
    hd_free(b);
    hd_trained_free(&one);
    hd_trained_free(&four);
    hd_free(text);
}

static void memory_is_bounded(void **state)
{
    (void)state;
    char *text = make_text(2 << 20, 400000);
    size_t n = strlen(text);
    hd_word_counts *all = count(text, n, 1, 0), *few = count(text, n, 1, 1 << 20), *again = count(text, n, 4, 1 << 20);
    assert_true(hd_word_counts_words(few) < hd_word_counts_words(all) / 2 && hd_word_counts_words(few) > 1000);
    assert_int_equal(hd_word_counts_words(few), hd_word_counts_words(again));
    assert_int_equal(hd_word_counts_dropped(few), hd_word_counts_dropped(again));
    uint64_t kept = 0;
    for (size_t i = 0; i < hd_word_counts_words(few); i++) {
        size_t length;
        uint64_t times;
        (void)hd_word_counts_get(few, i, &length, &times);
        kept += times;
    }
    assert_true(kept + hd_word_counts_dropped(few) == hd_word_counts_total(all));
    hd_word_counts_close(all);
    hd_word_counts_close(few);
    hd_word_counts_close(again);
    hd_free(text);
}

/* A word of a megabyte: the time of a merge in it is that of the word. */
static void a_long_word(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    void *text;
    assert_ok(hd_alloc(N, 1, "text", &text, &err));
    memset(text, 'a', N);
    double start = hd_clock_now_s();
    hd_trained trained = train(text, N, 300, 1);
    print_message("  %zu merges in a word of 1 MiB: %.0f ms\n", trained.n_merge, 1e3 * (hd_clock_now_s() - start));
    assert_true(trained.n_merge >= 18 && hd_clock_now_s() - start < 10.0);
    hd_trained_free(&trained);
    hd_free(text);
}

/* ---- what is written ------------------------------------------------------------------------------------------------------------- */

static void it_is_a_tokenizer(void **state)
{
    (void)state;
    char *text;
    size_t n;
    hd_tokenizer *tokenizer;
    hd_ids ids = {0};
    hd_buf config = {0}, back = {0};
    assert_ok(hd_io_read_file("tests/tokenizer/train_text.txt", 1 << 20, &text, &n, &err));
    hd_trained trained = train(text, n, 600, 2);
    char *json = written(&trained);
    assert_ok(hd_trained_write_config(&config, &err));
    assert_ok(hd_tokenizer_parse(json, strlen(json), config.data, config.n, &tokenizer, &err));
    assert_int_equal(hd_tokenizer_vocab_size(tokenizer), 600);
    assert_true(hd_tokenizer_bos(tokenizer) == 0 && hd_tokenizer_eos(tokenizer) == 1 && hd_tokenizer_pad(tokenizer) == 2);
    for (size_t i = HD_TRAIN_SPECIALS; i < trained.n_token; i++) {
        size_t k, begin = trained.ends[i - 1];
        const char *bytes = hd_tokenizer_bytes(tokenizer, (int32_t)i, &k);
        assert_int_equal(k, trained.ends[i] - begin);
        assert_memory_equal(bytes, trained.bytes + begin, k);
    }
    assert_ok(hd_tokenizer_encode(tokenizer, text, n, HD_ENCODE_ADD_SPECIAL, &ids, &err));
    assert_true(ids.id[0] == 0 && ids.n < n / 2);
    assert_ok(hd_tokenizer_decode(tokenizer, ids.id, ids.n, HD_DECODE_SKIP_SPECIAL, &back, &err));
    assert_true(back.n == n && memcmp(back.data, text, n) == 0);
    hd_ids_free(&ids);
    hd_buf_free(&back);
    hd_buf_free(&config);
    hd_tokenizer_close(tokenizer);
    hd_free(json);
    hd_free(text);
    hd_trained_free(&trained);
}

static void little_text(void **state)
{
    (void)state;
    hd_trained trained = train("", 0, 300, 1);
    assert_true(trained.n_token == HD_TRAIN_FIRST_MERGE && trained.n_merge == 0);
    hd_trained_free(&trained);
    trained = train("ab ab cd", 8, 300, 1);
    assert_true(trained.n_merge == 1); /* "ab" and " ab" share one pair; all others stand once */
    hd_trained_free(&trained);
    hd_train_options options = {.vocab_size = 258};
    hd_word_counts *counts = count("a", 1, 1, 0);
    assert_fails(hd_bpe_train(counts, &options, &trained, &err), HD_E_CONFIG, "vocab_size is 258, want at least 259");
    hd_word_counts_close(counts);
}

static hd_status stop(void *context, int64_t n_token, hd_err *e)
{
    ++*(int *)context;
    return n_token > 700 ? HD_FAIL(e, HD_E_SIGNAL, "enough") : HD_OK;
}

static void progress_may_stop_it(void **state)
{
    (void)state;
    char *text = make_text(1 << 18, 5000);
    hd_trained trained;
    int calls = 0;
    hd_train_options options = {.vocab_size = 3000, .min_count = 2, .progress = stop, .context = &calls};
    hd_word_counts *counts = count(text, strlen(text), 1, 0);
    size_t live = hd_alloc_get_stats().live_calls;
    assert_fails(hd_bpe_train(counts, &options, &trained, &err), HD_E_SIGNAL, "enough");
    assert_true(calls == 2 && trained.n_token == 0);
    assert_int_equal(hd_alloc_get_stats().live_calls, live);
    hd_word_counts_close(counts);
    hd_free(text);
}

static hd_status all_of_it(const char *text, size_t n)
{
    hd_status st = HD_OK;
    hd_word_counts *counts = NULL;
    hd_trained trained = {0};
    hd_buf json = {0};
    hd_train_options options = {.vocab_size = 300, .min_count = 2};
    HD_TRY(hd_word_counts_open(1, 1 << 12, &counts, &err));
    HD_TRY(hd_word_counts_add(counts, text, &n, 1, &err));
    HD_TRY(hd_bpe_train(counts, &options, &trained, &err));
    HD_TRY(hd_trained_write(&trained, &json, &err));
out:
    hd_buf_free(&json);
    hd_trained_free(&trained);
    hd_word_counts_close(counts);
    return st;
}

static void failing_allocations(void **state)
{
    (void)state;
    char *text = make_text(4000, 900);
    size_t n = strlen(text), live = hd_alloc_get_stats().live_calls, k = 1;
    text[n - 2] = '\xFF';
    for (;; k++) {
        hd_alloc_fail_at(k, 0);
        hd_status st = all_of_it(text, n);
        hd_alloc_fail_at(0, 0);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
    }
    assert_true(k > 50);
    hd_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_of_huggingface), cmocka_unit_test(merges_of_the_definition),
        cmocka_unit_test(words_are_counted),     cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(memory_is_bounded),     cmocka_unit_test(a_long_word),
        cmocka_unit_test(it_is_a_tokenizer),     cmocka_unit_test(little_text),
        cmocka_unit_test(progress_may_stop_it),  cmocka_unit_test(failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
