/* What is asked and where an answer stops: files of prompts, prompts that are too long, and stop texts in a growing text. */
#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"
#include "infer/prompt.h"
#include "infer/prompts.h"
#include "infer/stops.h"
#include "support/test.h"

static hd_config *configure(int n, const char *const *words)
{
    hd_err err;
    hd_config *config = NULL;
    assert_ok(hd_config_load("decode", n, words, "configs", &config, &err));
    return config;
}

/* ---- files of prompts ----------------------------------------------------------------------------------------------------- */

static hd_status parse(const char *text, size_t n, hd_prompts_kind kind, hd_prompts *p, hd_err *err)
{
    hd_prompts_free(p);
    *p = (hd_prompts){0};
    return hd_prompts_parse(text, n, "FILE", kind, "prompt", p, err);
}

static void assert_prompt(const hd_prompts *p, size_t i, const char *text, size_t n, size_t line)
{
    assert_true(i < p->n);
    assert_int_equal(p->list[i].n, n);
    assert_int_equal(p->list[i].line, line);
    assert_memory_equal(hd_prompts_text(p, i), text, n);
}

#define PARSE(text, kind) parse(text, sizeof(text) - 1, kind, &p, &err)

static void files(void **state)
{
    (void)state;
    hd_err err;
    hd_prompts p = {0};
    assert_ok(PARSE("one\ntwo\r\n", HD_PROMPTS_WHOLE));
    assert_int_equal(p.n, 1);
    assert_prompt(&p, 0, "one\ntwo", 7, 0);
    assert_ok(PARSE("\r", HD_PROMPTS_WHOLE));
    assert_prompt(&p, 0, "\r", 1, 0);
    assert_ok(PARSE("one\n\n two \r\n\xC3\xA9", HD_PROMPTS_LINES));
    assert_int_equal(p.n, 3);
    assert_prompt(&p, 0, "one", 3, 1);
    assert_prompt(&p, 1, " two ", 5, 3);
    assert_prompt(&p, 2, "\xC3\xA9", 2, 4);
    assert_ok(PARSE("\"a\\n\\u0000b\"\n  \n{\"id\": 7, \"prompt\": \"x\"}\n{\"prompt\": \"no\", \"messages\": []}\n", HD_PROMPTS_JSONL));
    assert_int_equal(p.n, 3);
    assert_prompt(&p, 0, "a\n\0b", 4, 1);
    assert_prompt(&p, 1, "x", 1, 3);
    assert_prompt(&p, 2, "{\"prompt\": \"no\", \"messages\": []}", 32, 4);
    assert_true(p.list[2].conversation && !p.list[1].conversation);

    assert_fails(PARSE("", HD_PROMPTS_WHOLE), HD_E_CONFIG, "FILE: there is no prompt");
    assert_fails(PARSE("\n", HD_PROMPTS_WHOLE), HD_E_CONFIG, "no prompt");
    assert_fails(PARSE("\n\r\n", HD_PROMPTS_LINES), HD_E_CONFIG, "no prompt");
    assert_fails(PARSE(" \n", HD_PROMPTS_JSONL), HD_E_CONFIG, "no prompt");
    assert_fails(PARSE("ab\xFF", HD_PROMPTS_WHOLE), HD_E_CORRUPT, "FILE: not UTF-8: byte 3 is 0xFF");
    assert_fails(PARSE("a\n\nb\xC3", HD_PROMPTS_LINES), HD_E_CORRUPT, "FILE:3: not UTF-8: byte 2");
    assert_fails(PARSE("\"a\"\n{\"text\": \"x\"}", HD_PROMPTS_JSONL), HD_E_CORRUPT, "FILE:2");
    assert_fails(PARSE("{\"text\": \"x\"}", HD_PROMPTS_JSONL), HD_E_CORRUPT, "neither \"prompt\" nor \"messages\"");
    assert_fails(PARSE("{\"prompt\": 3}", HD_PROMPTS_JSONL), HD_E_CORRUPT, "FILE:1");
    assert_fails(PARSE("\"a\" \"b\"", HD_PROMPTS_JSONL), HD_E_CORRUPT, "FILE:1");
    assert_fails(PARSE("7", HD_PROMPTS_JSONL), HD_E_CORRUPT, "FILE:1");
    hd_prompts_free(&p);
}

/* Which input, and how it is cut. */
static void sources(void **state)
{
    const char *dir = *state;
    hd_err err;
    char lines[256], named[256];
    hd_prompts p = {0};
    (void)snprintf(lines, sizeof lines, "prompt_file=%s", hd_temp_path(dir, "p.txt"));
    (void)snprintf(named, sizeof named, "prompt_file=%s", hd_temp_path(dir, "p.jsonl"));
    assert_ok(hd_io_write_file(hd_temp_path(dir, "p.txt"), "a\nb\n", 4, &err));
    assert_ok(hd_io_write_file(hd_temp_path(dir, "p.jsonl"), "\"a\"\n{\"q\": \"b\"}\n", 15, &err));
    const struct {
        const char *words[3], *input;
        size_t n, n_first;
    } rows[] = {
        {{lines, "run_name=x"}, NULL, 1, 3},          {{lines, "documents=lines"}, NULL, 2, 1}, {{named, "text_column=q"}, NULL, 2, 1},
        {{named, "documents=whole"}, NULL, 1, 14},    {{"prompt=-", "run_name=x"}, "xy\nz", 1, 4}, {{"prompt=-", "documents=lines"}, "xy\nz", 2, 2},
        {{"prompt=- -", "run_name=x"}, "xy", 1, 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *const words[] = {rows[i].words[0], rows[i].words[1], "tokenizer_type=byte"};
        hd_config *config = configure(3, words);
        assert_ok(hd_prompts_from_config(config, rows[i].input, rows[i].input != NULL ? strlen(rows[i].input) : 0, &p, &err));
        if (p.n != rows[i].n || p.list[0].n != rows[i].n_first) { fail_msg("row %zu: %zu prompts, the first of %zu bytes", i, p.n, p.list[0].n); }
        hd_prompts_free(&p);
        p = (hd_prompts){0};
        hd_config_free(config);
    }
    const char *const absent[] = {"prompt_file=/nonexistent/p", "tokenizer_type=byte"}, *const nothing[] = {"prompt=-", "tokenizer_type=byte"};
    hd_config *config = configure(2, absent);
    assert_fails(hd_prompts_from_config(config, NULL, 0, &p, &err), HD_E_IO, "/nonexistent/p");
    hd_config_free(config);
    config = configure(2, nothing);
    assert_fails(hd_prompts_from_config(config, NULL, 0, &p, &err), HD_E_CONFIG, "standard input: there is no prompt");
    hd_prompts_free(&p);
    hd_config_free(config);
}

/* ---- too long --------------------------------------------------------------------------------------------------------------- */

static void fits(void **state)
{
    (void)state;
    hd_err err;
    hd_tokenizer *t;
    assert_ok(hd_tokenizer_open_byte(&t, &err));
    int32_t bos = hd_tokenizer_bos(t);
    for (int kind = 0; kind < 3; kind++) {
        static const char *const ways[] = {"truncate_prompt=refuse", "truncate_prompt=start", "truncate_prompt=end"};
        const char *const words[] = {ways[kind], "tokenizer_type=byte", "max_prefill_predict_length=5"};
        hd_config *config = configure(3, words);
        for (int with_bos = 0; with_bos < 2; with_bos++) {
            hd_ids ids = {0};
            int64_t dropped;
            int32_t all[8];
            for (int i = 0; i < 8; i++) { all[i] = i + 65; }
            if (with_bos) { all[0] = bos; }
            assert_ok(hd_ids_append(&ids, all, 5, &err));
            assert_ok(hd_prompt_fit(config, t, 100, &ids, &dropped, &err)); /* just fits */
            assert_true(dropped == 0 && ids.n == 5);
            assert_ok(hd_ids_append(&ids, all + 5, 3, &err));
            if (kind == 0) {
                assert_fails(hd_prompt_fit(config, t, 100, &ids, &dropped, &err), HD_E_CONFIG,
                             "the prompt has 8 tokens; max_prefill_predict_length is 5 and max_target_length, prompt and answer together, is 100");
            } else {
                assert_ok(hd_prompt_fit(config, t, 100, &ids, &dropped, &err));
                assert_true(dropped == 3 && ids.n == 5);
                for (int i = 0; i < 5; i++) {
                    int from = kind == 2 || (with_bos && i == 0) ? i : i + 3;
                    assert_int_equal(ids.id[i], all[from]);
                }
                assert_ok(hd_prompt_fit(config, t, 4, &ids, &dropped, &err)); /* an answer needs room too */
                assert_true(dropped == 2 && ids.n == 3);
                assert_fails(hd_prompt_fit(config, t, 1, &ids, &dropped, &err), HD_E_CONFIG, "3 tokens");
            }
            hd_ids_free(&ids);
        }
        hd_config_free(config);
    }
    hd_tokenizer_close(t);
}

static void texts(void **state)
{
    (void)state;
    hd_err err;
    hd_tokenizer *t;
    hd_prompter p;
    hd_ids ids = {0};
    const char *const plain[] = {"tokenizer_type=byte", "add_bos=false"};
    const char *const chat[] = {"tokenizer_type=byte", "use_chat_template=true", "chat_template={{ messages[0].content }}|{{ messages | length }}", "system_prompt=S"};
    assert_ok(hd_tokenizer_open_byte(&t, &err));
    hd_config *config = configure(2, plain);
    assert_ok(hd_prompter_open(config, t, true, &p, &err)); /* a chat without a template */
    assert_null(p.template);
    assert_fails(hd_prompter_text(&p, "", 0, &ids, &err), HD_E_CONFIG, "nothing to continue");
    assert_fails(hd_prompter_text(&p, "a\xFF", 2, &ids, &err), HD_E_CONFIG, "not UTF-8: its byte 2 is 0xFF");
    assert_fails(hd_prompter_conversation(&p, "[]", 2, "FILE:3", &ids, &err), HD_E_CONFIG, "FILE:3: a conversation wants use_chat_template=true");
    assert_ok(hd_prompter_text(&p, "a\0b", 3, &ids, &err));
    assert_int_equal(ids.n, 3);
    hd_prompter_close(&p);
    hd_config_free(config);
    config = configure(4, chat);
    ids.n = 0;
    assert_ok(hd_prompter_open(config, t, false, &p, &err));
    assert_ok(hd_prompter_text(&p, "Hi", 2, &ids, &err));
    assert_int_equal(ids.n, 3); /* S|2 */
    assert_fails(hd_prompter_conversation(&p, "[7]", 3, "FILE:3", &ids, &err), HD_E_CORRUPT, "want an object");
    hd_prompter_close(&p);
    hd_config_free(config);
    hd_ids_free(&ids);
    hd_tokenizer_close(t);
}

/* ---- stop texts ------------------------------------------------------------------------------------------------------------- */

/* Whatever the pieces in which a text grows: it ends before the first stop text, and nothing that is let out is taken back. */
static void stops_anywhere(void **state)
{
    (void)state;
    static const char *const stop_texts[] = {"\n\nUser:", "END", "aab", "\xC3\xA9\xC3\xA9"};
    static const struct {
        const char *text;
        int end; /* -1: nothing stops it */
    } rows[] = {{"hello\n\nUser: x", 5}, {"hello\n\n\nUser:", 6}, {"EN END", 3}, {"EEND", 1}, {"aaab", 1}, {"aaaab", 2}, {"END", 0}, {"aa", -1}, {"\n\nUser", -1},
                {"x\xC3\xA9 \xC3\xA9\xC3\xA9\xC3\xA9", 4}, {"", -1}, {"aab and END", 0}, {"EN and aab", 7}};
    const hd_stops stops = {.text = stop_texts, .n = 4};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        size_t n = strlen(rows[r].text);
        for (size_t piece = 1; piece <= n + 1; piece++) {
            size_t settled = 0, end;
            bool found = false;
            for (size_t at = piece; !found && at < n + piece; at += piece) {
                found = hd_stops_search(&stops, rows[r].text, at < n ? at : n, settled, &end);
                assert_true(end >= settled && end <= n);
                assert_true(rows[r].end < 0 || end <= (size_t)rows[r].end);
                settled = end;
            }
            if (found != (rows[r].end >= 0) || (found && settled != (size_t)rows[r].end)) { fail_msg("row %zu in pieces of %zu: %d at %zu", r, piece, found, settled); }
        }
    }
    size_t end;
    assert_false(hd_stops_search(&(hd_stops){0}, "abc", 3, 0, &end));
    assert_int_equal(end, 3);
    assert_false(hd_stops_search(&stops, "one\n\nUse", 8, 0, &end)); /* held back */
    assert_int_equal(end, 3);
    assert_false(hd_stops_search(&stops, "one\n\nUsers", 10, 3, &end)); /* let go */
    assert_int_equal(end, 10);
}

static void stops_of_a_configuration(void **state)
{
    (void)state;
    hd_err err;
    hd_stops stops;
    hd_tokenizer *t;
    static const char json[] = "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                               "\"added_tokens\": [{\"id\": 1, \"content\": \"<|user|>\", \"special\": true}], "
                               "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"<|user|>\": 1}, \"merges\": []}}";
    const char *const words[] = {"tokenizer_type=byte", "stop=['<|user|>', \"\\n\", a]"}, *const bad[] = {"tokenizer_type=byte", "stop=x\xFF"};
    assert_ok(hd_tokenizer_parse(json, sizeof json - 1, NULL, 0, &t, &err));
    hd_config *config = configure(2, words);
    assert_ok(hd_stops_from_config(config, t, &stops, &err));
    assert_int_equal(stops.n, 3);
    assert_string_equal(stops.text[1], "\n");
    assert_true(hd_stops_is_token(&stops, 1) && !hd_stops_is_token(&stops, 0)); /* "a" is a token, but becomes text */
    hd_stops_free(&stops);
    hd_config_free(config);
    config = configure(2, bad);
    assert_fails(hd_stops_from_config(config, t, &stops, &err), HD_E_CONFIG, "text 1 is not UTF-8 at its byte 2");
    hd_stops_free(&stops);
    hd_config_free(config);
    hd_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(files),
                                       cmocka_unit_test_setup_teardown(sources, hd_temp_setup, hd_temp_teardown),
                                       cmocka_unit_test(fits),
                                       cmocka_unit_test(texts),
                                       cmocka_unit_test(stops_anywhere),
                                       cmocka_unit_test(stops_of_a_configuration)};
    return cmocka_run_group_tests_name("prompts", tests, NULL, NULL);
}
