/* Ids of HuggingFace tokenizers: small tokenizers of every style, and DeepSeek-V3 where its file is there. */
#include "tokenizer/fixture.h"

typedef struct checker {
    hd_tokenizer *tokenizer;
    hd_encoder *encoder;
    hd_encode_flags flags;
    bool decodes; /* nothing is normalised, stripped or removed */
} checker;

static void check_line(void *context, const golden_line *line)
{
    checker *c = context;
    hd_ids cached = {0}, plain = {0};
    hd_buf back = {0};
    hd_err err;
    const char *text = hd_buf_text(&line->text);
    assert_ok(hd_encoder_encode(c->encoder, text, line->text.n, c->flags, &cached, &err));
    assert_same_ids(text, &cached, &line->ids);
    assert_ok(hd_tokenizer_encode(c->tokenizer, text, line->text.n, c->flags, &plain, &err));
    assert_same_ids(text, &plain, &line->ids);
    if (c->decodes) {
        plain.n = 0;
        assert_ok(hd_tokenizer_encode(c->tokenizer, text, line->text.n, HD_ENCODE_PLAIN, &plain, &err));
        assert_ok(hd_tokenizer_decode(c->tokenizer, plain.id, plain.n, HD_DECODE_ALL, &back, &err));
        assert_int_equal(back.n, line->text.n);
        assert_memory_equal(hd_buf_text(&back), text, line->text.n);
    }
    hd_ids_free(&cached);
    hd_ids_free(&plain);
    hd_buf_free(&back);
}

static void check_golden(const char *tokenizer_path, const char *golden, hd_encode_flags flags, bool decodes, size_t least)
{
    checker c = {.flags = flags, .decodes = decodes};
    hd_err err;
    assert_ok(hd_tokenizer_open(tokenizer_path, &c.tokenizer, &err));
    assert_ok(hd_encoder_open(c.tokenizer, &c.encoder, &err));
    size_t n = for_each_golden(golden, check_line, &c);
    print_message("  %s: %zu texts\n", golden, n);
    assert_true(n >= least);
    hd_encoder_close(c.encoder);
    hd_tokenizer_close(c.tokenizer);
}

static void small_tokenizers(void **state)
{
    static const struct {
        const char *name;
        bool decodes;
    } rows[] = {{"v3", true}, {"v2", true}, {"gpt2", true}, {"prefix", false}, {"llama3", true}, {"qwen2", false}, {"o200k", true},
                {"behaviors", false}, {"flags", false}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char tokenizer[128], golden[128];
        (void)snprintf(tokenizer, sizeof tokenizer, "tests/tokenizer/fixtures/%s.json", rows[i].name);
        (void)snprintf(golden, sizeof golden, "tests/tokenizer/%s.golden", rows[i].name);
        check_golden(tokenizer, golden, HD_ENCODE_ADD_SPECIAL, rows[i].decodes, 200);
    }
}

static bool is_there(const char *path)
{
    hd_io_info info;
    return hd_io_stat(path, &info, NULL) == HD_OK && info.kind == HD_IO_REGULAR;
}

static void deepseek_v3(void **state)
{
    (void)state;
    if (!is_there(DEEPSEEK_V3)) {
        print_message("  %s is not here: skipped\n", DEEPSEEK_V3);
        skip();
    }
    check_golden(DEEPSEEK_V3, "tests/tokenizer/deepseek-v3.golden", HD_ENCODE_PLAIN, true, 2500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_tokenizers), cmocka_unit_test(deepseek_v3)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
