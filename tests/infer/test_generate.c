/* Answers: many at once as each alone, prefixes found in caches, stop texts, interruptions; the command; and a chat with a scripted person.
 * The model is tests/golden/check/v3, whose 40 tokens get a tokenizer here. */
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/io.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/generate.h"
#include "support/keys.h"
#include "support/test.h"

enum { N_PROMPT = 9 };

static const char model[] = "tests/golden/check/v3";

/* <s> </s> a..z, space, line feed, the two bytes of an e with acute, "th", and five that are never text. */
static void write_tokenizer(const char *dir, const char *template)
{
    hd_err err;
    hd_buf json = {0}, config = {0};
    hd_buf_append_text(&json, "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, \"added_tokens\": ["
                              "{\"id\": 0, \"content\": \"<s>\", \"special\": true}, {\"id\": 1, \"content\": \"</s>\", \"special\": true}], "
                              "\"model\": {\"type\": \"BPE\", \"vocab\": {\"<s>\": 0, \"</s>\": 1");
    for (int i = 0; i < 26; i++) { hd_buf_printf(&json, ", \"%c\": %d", 'a' + i, 2 + i); }
    hd_buf_append_text(&json, ", \"\xC4\xA0\": 28, \"\xC4\x8A\": 29, \"\xC3\x83\": 30, \"\xC2\xA9\": 31, \"th\": 32, \"A\": 33, \"B\": 34, \"C\": 35}, \"merges\": [\"t h\"]}}");
    hd_buf_append_text(&config, "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"");
    if (template != NULL) { hd_buf_printf(&config, ", \"chat_template\": \"%s\"", template); }
    hd_buf_append_char(&config, '}');
    assert_ok(hd_io_write_file(hd_temp_path(dir, "tokenizer.json"), json.data, json.n, &err));
    assert_ok(hd_io_write_file(hd_temp_path(dir, "tokenizer_config.json"), config.data, config.n, &err));
    hd_buf_free(&json);
    hd_buf_free(&config);
}

static hd_config *configure(const char *dir, const char *keys)
{
    return hd_test_config("decode", "dtype=float32 log_config=false tokenizer_type=huggingface tokenizer_path=%s run_name=x base_output_directory=/tmp "
                          "load_parameters_path=%s max_prefill_predict_length=40 max_target_length=60 %s", dir, model, keys);
}

/* Prompts of 3, 6, 9, ... tokens; every other one begins with the same 8. */
static void make_prompt(hd_answer *a, int i)
{
    hd_err err;
    *a = (hd_answer){.seed = (uint64_t)i};
    for (int k = 0; k < 3 + 3 * i; k++) {
        int32_t token = (int32_t)(2 + (i % 2 == 0 && k < 8 ? k : (k * 7 + i * 5) % 26));
        assert_ok(hd_ids_append(&a->ids, &token, 1, &err));
    }
}

typedef struct watcher {
    size_t n_ended, grown_calls, settled;
    size_t stop_after; /* calls of `stopped`; 0: never */
} watcher;

static void on_grown(void *context, const hd_answer *a)
{
    watcher *w = context;
    w->grown_calls++;
    assert_true(a->n_settled <= a->text.n && a->n_settled > 0);
}

static hd_status on_ended(void *context, const hd_answer *a, hd_err *err)
{
    watcher *w = context;
    (void)err;
    w->n_ended++;
    assert_true(a->finish != HD_FINISH_OPEN && a->n_settled == a->text.n);
    return HD_OK;
}

static bool on_stopped(void *context)
{
    watcher *w = context;
    return w->stop_after > 0 && --w->stop_after == 0;
}

static hd_generator *open_generator(const hd_config *config, const hd_tokenizer *t, int64_t n_slot, int64_t grain)
{
    hd_err err;
    hd_generator *g;
    hd_generator_options options = {.n_slot = n_slot, .most = 60, .chunk = 4, .prefix_grain = grain};
    assert_ok(hd_generator_open(config, model, t, &options, &g, &err));
    return g;
}

static void assert_same_answer(const hd_answer *a, const hd_answer *b)
{
    assert_int_equal(a->ids.n, b->ids.n);
    assert_memory_equal(a->ids.id, b->ids.id, a->ids.n * sizeof *a->ids.id);
    assert_string_equal(hd_buf_text(&a->text), hd_buf_text(&b->text));
    assert_int_equal(a->log_probs.n, b->log_probs.n);
    assert_memory_equal(a->log_probs.data, b->log_probs.data, a->log_probs.n);
    assert_int_equal(a->finish, b->finish);
}

/* One prompt at a time in generators of their own, then all in 1, 2, 4 and 9 slots on 1 and 2 threads: the same ids, text and bits. */
static void many_as_alone(void **state)
{
    const char *dir = *state;
    hd_err err;
    hd_tokenizer *t;
    hd_answer alone[N_PROMPT], many[N_PROMPT];
    static const int64_t slots[] = {1, 2, 4, 9};
    write_tokenizer(dir, NULL);
    assert_ok(hd_tokenizer_open(dir, &t, &err));
    for (int threads = 1; threads <= 2; threads++) {
        char keys[160];
        (void)snprintf(keys, sizeof keys, "num_threads=%d decode_sampling_strategy=weighted return_log_prob=true", threads);
        hd_config *config = configure(dir, keys);
        for (int i = 0; threads == 1 && i < N_PROMPT; i++) {
            watcher w = {0};
            hd_generate_hooks hooks = {&w, on_grown, on_ended, on_stopped};
            hd_generator *g = open_generator(config, t, 1, 4);
            make_prompt(&alone[i], i);
            assert_ok(hd_generate(g, &alone[i], 1, &hooks, &err));
            assert_true(w.n_ended == 1 && w.grown_calls > 0);
            assert_int_equal(hd_generator_totals(g)->n_kept, 0);
            assert_int_equal(hd_generator_totals(g)->n_token, hd_answer_length(&alone[i]));
            hd_generator_close(g);
        }
        for (size_t s = 0; s < sizeof slots / sizeof slots[0]; s++) {
            hd_generate_hooks hooks = {0};
            hd_generator *g = open_generator(config, t, slots[s], 4);
            for (int i = 0; i < N_PROMPT; i++) { make_prompt(&many[i], i); }
            assert_ok(hd_generate(g, many, N_PROMPT, &hooks, &err));
            for (int i = 0; i < N_PROMPT; i++) {
                assert_same_answer(&alone[i], &many[i]);
                assert_true(many[i].ids.n <= 60 && (many[i].finish == HD_FINISH_LENGTH) == (many[i].ids.n == 60));
                hd_answer_free(&many[i]);
            }
            assert_int_equal(hd_generator_totals(g)->n_answer, N_PROMPT);
            assert_true(hd_generator_totals(g)->n_kept % 4 == 0); /* whole chunks */
            assert_true(slots[s] == 1 || hd_generator_totals(g)->n_kept >= 8); /* the prompts with a common beginning, from any slot */
            hd_generator_close(g);
        }
        hd_config_free(config);
    }
    for (int i = 0; i < N_PROMPT; i++) { hd_answer_free(&alone[i]); }
    hd_tokenizer_close(t);
}

/* Each end an answer can have. */
static void ends(void **state)
{
    const char *dir = *state;
    hd_err err;
    hd_tokenizer *t;
    hd_answer whole, cut;
    char keys[160];
    write_tokenizer(dir, NULL);
    assert_ok(hd_tokenizer_open(dir, &t, &err));
    hd_config *config = configure(dir, "decode_sampling_strategy=weighted return_log_prob=true");
    hd_generator *g = open_generator(config, t, 1, 1);
    int seed = -1;
    do { /* an answer long enough to be cut in its middle */
        if (seed >= 0) { hd_answer_free(&whole); }
        make_prompt(&whole, 3);
        whole.seed = (uint64_t)++seed;
        assert_ok(hd_generate(g, &whole, 1, &(hd_generate_hooks){0}, &err));
    } while (whole.text.n < 12 || strchr(hd_buf_text(&whole.text) + 4, '\n') != NULL || strchr(hd_buf_text(&whole.text) + 4, ' ') != NULL ||
             (unsigned char)whole.text.data[4] >= 0x80 || (unsigned char)whole.text.data[7] >= 0x80);
    assert_int_equal((size_t)hd_answer_length(&whole) + (whole.finish == HD_FINISH_EOS), whole.log_probs.n / sizeof(double));
    /* read again behind a cache that holds its prompt: all but the last token is kept */
    int64_t before = hd_generator_totals(g)->n_kept;
    make_prompt(&cut, 3);
    cut.seed = (uint64_t)seed;
    assert_ok(hd_generate(g, &cut, 1, &(hd_generate_hooks){0}, &err));
    assert_int_equal(hd_generator_totals(g)->n_kept - before, cut.n_prompt - 1);
    hd_answer_free(&cut);
    /* interrupted in the prompt, and later */
    for (size_t after = 1; after < 20; after += 6) {
        watcher w = {.stop_after = after};
        make_prompt(&cut, 3);
        assert_ok(hd_generate(g, &cut, 1, &(hd_generate_hooks){&w, NULL, on_ended, on_stopped}, &err));
        assert_int_equal(cut.finish, after == 1 ? HD_FINISH_OPEN : HD_FINISH_INTERRUPTED);
        assert_true(w.n_ended == (after > 1) && (after > 1) == (hd_answer_length(&cut) > 0));
        hd_answer_free(&cut);
    }
    hd_generator_close(g);
    hd_config_free(config);
    /* a stop text of four bytes from the middle of that answer */
    (void)snprintf(keys, sizeof keys, "decode_sampling_strategy=weighted stop=%.4s", whole.text.data + 4);
    config = configure(dir, keys);
    g = open_generator(config, t, 1, 1);
    make_prompt(&cut, 3);
    cut.seed = (uint64_t)seed;
    assert_ok(hd_generate(g, &cut, 1, &(hd_generate_hooks){0}, &err));
    assert_int_equal(cut.finish, HD_FINISH_STOP);
    assert_true(cut.text.n <= 4 && memcmp(cut.text.data, whole.text.data, cut.text.n) == 0);
    hd_answer_free(&cut);
    hd_answer_free(&whole);
    hd_generator_close(g);
    hd_config_free(config);
    hd_tokenizer_close(t);
}

/* ---- the command, and a chat ------------------------------------------------------------------------------------------------ */

static struct {
    hd_buf lines, written;
    const char *const *script; /* lines of the person, ended by NULL; "^C": an interrupt at the prompt */
    volatile sig_atomic_t interrupt, stop;
    size_t interrupt_at;       /* bytes written when the interrupt comes; 0: never */
} seen;

static void keep_line(void *context, hd_log_level level, const char *text)
{
    (void)context;
    if (level != HD_LOG_PROGRESS) { hd_buf_printf(&seen.lines, "%s\n", text); }
}

static void keep_text(void *context, const char *data, size_t n)
{
    (void)context;
    hd_buf_append(&seen.written, data, n);
    if (seen.interrupt_at > 0 && seen.written.n >= seen.interrupt_at) {
        seen.interrupt_at = 0;
        seen.interrupt = 1;
    }
}

static hd_line_end next_line(void *context, const char *prompt, const char **line, size_t *n)
{
    (void)context;
    hd_buf_append_text(&seen.written, prompt);
    if (*seen.script == NULL) { return HD_LINE_CLOSED; }
    *line = *seen.script++;
    *n = strlen(*line);
    return strcmp(*line, "^C") == 0 ? HD_LINE_INTERRUPTED : HD_LINE_WHOLE;
}

static hd_status decode(const char *dir, const char *keys, const char *const *script, hd_err *err)
{
    hd_config *config = configure(dir, keys);
    hd_run_hooks hooks = {.stop_signal = &seen.stop, .interrupt = &seen.interrupt};
    hd_buf_clear(&seen.lines);
    hd_buf_clear(&seen.written);
    seen.script = script;
    if (script != NULL) {
        hooks.read_line = next_line;
        hooks.write = keep_text;
    }
    hd_log_set_sink(keep_line, NULL);
    hd_status st = hd_cmd_decode(config, &hooks, err);
    hd_log_set_sink(NULL, NULL);
    hd_config_free(config);
    return st;
}

static bool shows(const char *text)
{
    bool found = strstr(hd_buf_text(&seen.lines), text) != NULL || strstr(hd_buf_text(&seen.written), text) != NULL;
    if (!found) { print_error("no \"%s\" in\n%s\n%s\n", text, hd_buf_text(&seen.lines), hd_buf_text(&seen.written)); }
    return found;
}

static void chats(void **state)
{
    const char *dir = *state;
    hd_err err;
    write_tokenizer(dir, "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}A{{ m.content }}B{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}");
    static const char *const turns[] = {"hello", "/help", "/nothing", "/reset", "hello", "^C", "on\\", "and on", "", "\xFF", "^C", "/exit", "never", NULL};
    assert_ok(decode(dir, "stop=e", turns, &err));
    assert_true(shows("A conversation;") && shows("/reset    forget") && shows("/nothing is no command") && shows("begins anew") && shows("once more") && shows("... "));
    assert_true(shows("not UTF-8") && shows(" were in the cache; answer: ") && seen.script == turns + 12);
    /* the first tokens of the same conversation are in the cache: <s> A h e l l o, and the B whose logits are needed is read again */
    assert_true(shows("[1 tokens read in"));
    static const char *const twice[] = {"^C", "^C", "never", NULL}, *const once[] = {"^C", "/reset", "^C", NULL};
    assert_ok(decode(dir, "", twice, &err));
    assert_true(seen.script == twice + 2);
    assert_ok(decode(dir, "", once, &err));
    assert_true(seen.script == once + 3);
    /* Ctrl-C in an answer ends it, and the chat goes on */
    static const char *const asks[] = {"hello", "and on", NULL};
    seen.interrupt_at = 80;
    assert_ok(decode(dir, "decode_sampling_strategy=weighted decode_sampling_temperature=3", asks, &err));
    assert_true(seen.script == asks + 2 && seen.interrupt_at == 0 && shows("(interrupted)"));
    /* without a template: a running text */
    static const char *const text[] = {"hello", "more", "this does not fit any more as there is no room for it at all", NULL};
    assert_ok(decode(dir, "use_chat_template=false stop=e", text, &err));
    assert_true(shows("No chat template") && shows("tokens, and max_target_length is 60: it was left out"));
    /* a signal ends it in good order */
    seen.stop = 15;
    assert_fails(decode(dir, "", asks, &err), HD_E_SIGNAL, "signal 15");
    assert_int_equal(err.signal, 15);
    seen.stop = 0;
}

static void commands(void **state)
{
    const char *dir = *state;
    hd_err err;
    char keys[512];
    write_tokenizer(dir, NULL);
    static const char three[] = "\"one\"\n\"two\"\n{\"prompt\": \"three\"}\n", two[] = "\"one\"\n\"\"\n";
    assert_ok(hd_io_write_file(hd_temp_path(dir, "p.jsonl"), three, sizeof three - 1, &err));
    (void)snprintf(keys, sizeof keys, "prompt_file=%s answer_format=jsonl return_log_prob=true", hd_temp_path(dir, "p.jsonl"));
    assert_ok(decode(dir, keys, NULL, &err));
    assert_true(shows("{\"index\": 0, \"prompt\": \"one\", \"answer\": \"") && shows("{\"index\": 2, \"prompt\": \"three\"") && shows("\"log_probs\": [-") && shows("prompts: "));
    assert_ok(hd_io_write_file(hd_temp_path(dir, "p.jsonl"), two, sizeof two - 1, &err));
    (void)snprintf(keys, sizeof keys, "prompt_file=%s add_bos=false", hd_temp_path(dir, "p.jsonl"));
    assert_fails(decode(dir, keys, NULL, &err), HD_E_CONFIG, "p.jsonl:2: the prompt is empty");
    assert_ok(decode(dir, "prompt=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz truncate_prompt=start", NULL, &err));
    assert_true(shows("prompt: 13 tokens at the start of the prompt were dropped, 40 are left"));
    assert_fails(decode(dir, "prompt=ab autoregressive_decode_assert=zzzzzz", NULL, &err), HD_E_VERIFY, "zzzzzz");
}

/* Each allocation of a run may fail: a sentence, and nothing is left behind. */
static void memory_runs_out(void **state)
{
    const char *dir = *state;
    hd_err err;
    char keys[512];
    static const char *const turns[] = {"hello", "more", NULL};
    static const char two[] = "\"one\"\n{\"prompt\": \"two\\n\"}\n";
    write_tokenizer(dir, "{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_ok(hd_io_write_file(hd_temp_path(dir, "p.jsonl"), two, sizeof two - 1, &err));
    (void)snprintf(keys, sizeof keys, "prompt_file=%s answer_format=jsonl return_log_prob=true stop=ab", hd_temp_path(dir, "p.jsonl"));
    for (int chat = 0; chat < 2; chat++) {
        const char *const *script = chat ? turns : NULL;
        const char *words = chat ? "stop=ab" : keys;
        assert_ok(decode(dir, words, script, &err)); /* the buffers of this test have their size */
        size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
        assert_ok(decode(dir, words, script, &err));
        size_t n = hd_alloc_get_stats().total_calls - before, step = 1 + n / (size_t)hd_test_count(40, 100000);
        for (size_t k = 1; k < n; k += step) {
            hd_config *config = configure(dir, words);
            hd_run_hooks hooks = {.stop_signal = &seen.stop, .interrupt = &seen.interrupt};
            seen.script = script;
            if (chat) { hooks.read_line = next_line, hooks.write = keep_text; }
            hd_alloc_fail_at(k, 0);
            hd_status st = hd_cmd_decode(config, &hooks, &err);
            hd_alloc_fail_at(0, 0);
            hd_config_free(config);
            if (st != HD_OK && st != HD_E_NOMEM) { fail_msg("allocation %zu: %s", k, err.msg); }
            assert_int_equal(hd_alloc_get_stats().live_calls, live);
        }
    }
}

static int tear_down(void **state)
{
    hd_buf_free(&seen.lines);
    hd_buf_free(&seen.written);
    return hd_temp_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(many_as_alone, hd_temp_setup, tear_down),
                                       cmocka_unit_test_setup_teardown(ends, hd_temp_setup, tear_down),
                                       cmocka_unit_test_setup_teardown(commands, hd_temp_setup, tear_down),
                                       cmocka_unit_test_setup_teardown(chats, hd_temp_setup, tear_down),
                                       cmocka_unit_test_setup_teardown(memory_runs_out, hd_temp_setup, tear_down)};
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
