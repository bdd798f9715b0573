/* What a tokenizer promises beside its ids: decoding whole and in a stream, rules of bos and eos, threads, hostile texts on a small stack, hostile
 * files, failing allocations. */
#include "tokenizer/fixture.h"

#include <pthread.h>

#include "base/clock.h"
#include "base/utf8.h"

static hd_err err;

/* ---- decoding --------------------------------------------------------------------------------------------------------------------- */

/* What a stream has given is always well-formed, and in the end is what decoding all at once gives. */
static void check_stream(const hd_tokenizer *t, const int32_t *id, size_t n, hd_decode_flags flags)
{
    hd_buf whole = {0}, stream_text = {0};
    hd_decode_stream stream;
    assert_ok(hd_tokenizer_decode(t, id, n, flags, &whole, &err));
    hd_decode_stream_open(&stream, t, flags);
    for (size_t i = 0; i < n; i++) {
        hd_decode_stream_feed(&stream, id[i], &stream_text);
        assert_true(hd_utf8_validate(hd_buf_text(&stream_text), stream_text.n, NULL));
        assert_true(stream_text.n <= whole.n && memcmp(hd_buf_text(&whole), hd_buf_text(&stream_text), stream_text.n) == 0);
    }
    hd_decode_stream_end(&stream, &stream_text);
    assert_int_equal(stream_text.n, whole.n);
    assert_memory_equal(hd_buf_text(&stream_text), hd_buf_text(&whole), whole.n);
    hd_buf_free(&whole);
    hd_buf_free(&stream_text);
}

/* The definition: the bytes of all tokens, then ill-formed parts replaced. */
static void check_decoded(const hd_tokenizer *t, const int32_t *id, size_t n)
{
    hd_buf bytes = {0}, want = {0}, got = {0};
    for (size_t i = 0; i < n; i++) {
        size_t k;
        const char *piece = hd_tokenizer_bytes(t, id[i], &k);
        hd_buf_append(&bytes, piece, k);
    }
    hd_utf8_append_replacing(&want, hd_buf_text(&bytes), bytes.n);
    assert_ok(hd_tokenizer_decode(t, id, n, HD_DECODE_ALL, &got, &err));
    assert_int_equal(got.n, want.n);
    assert_memory_equal(hd_buf_text(&got), hd_buf_text(&want), want.n);
    hd_buf_free(&bytes);
    hd_buf_free(&want);
    hd_buf_free(&got);
}

static void decodes_in_a_stream(void **state)
{
    (void)state;
    hd_tokenizer *t = open_fixture("v3"), *byte;
    hd_rng rng = hd_test_rng("stream");
    int32_t id[64];
    assert_ok(hd_tokenizer_open_byte(&byte, &err));
    for (uint64_t i = 0; i < (uint64_t)hd_test_count(4000, 100000); i++) {
        const hd_tokenizer *which = i % 2 == 0 ? t : byte;
        size_t n = (size_t)(hd_rng_uniform(rng, 100 * i) * 60);
        double most = i % 4 < 2 ? (double)hd_tokenizer_vocab_size(which) : 258.0; /* mostly single bytes */
        for (size_t k = 0; k < n; k++) { id[k] = (int32_t)(hd_rng_uniform(rng, 100 * i + k + 1) * 0.99999 * most); }
        check_decoded(which, id, n);
        check_stream(which, id, n, HD_DECODE_ALL);
        check_stream(which, id, n, HD_DECODE_SKIP_SPECIAL);
    }
    hd_tokenizer_close(t);
    hd_tokenizer_close(byte);
}

static void decode_refuses_unknown_ids(void **state)
{
    (void)state;
    hd_tokenizer *t = open_fixture("v3");
    hd_buf text = {0};
    hd_decode_stream stream;
    int32_t id[] = {5, (int32_t)hd_tokenizer_vocab_size(t), -1};
    assert_fails(hd_tokenizer_decode(t, id, 2, HD_DECODE_ALL, &text, &err), HD_E_INVALID, "(number 2) has no token");
    assert_fails(hd_tokenizer_decode(t, id + 2, 1, HD_DECODE_ALL, &text, &err), HD_E_INVALID, "id -1");
    hd_buf_clear(&text);
    hd_decode_stream_open(&stream, t, HD_DECODE_ALL);
    hd_decode_stream_feed(&stream, id[1], &text); /* an unused row of the model */
    hd_decode_stream_end(&stream, &text);
    assert_int_equal(text.n, 0);
    hd_buf_free(&text);
    hd_tokenizer_close(t);
}

/* ---- encoding --------------------------------------------------------------------------------------------------------------------- */

static void encode_text(const hd_tokenizer *t, const char *text, size_t n, hd_encode_flags flags, hd_ids *ids)
{
    ids->n = 0;
    assert_ok(hd_tokenizer_encode(t, text, n, flags, ids, &err));
}

/* Ill-formed bytes are what Python's errors="replace" makes of them. */
static void ill_formed_text(void **state)
{
    (void)state;
    hd_tokenizer *t = open_fixture("v3");
    hd_rng rng = hd_test_rng("ill-formed");
    char text[64];
    for (uint64_t i = 0; i < 2000; i++) {
        hd_ids got = {0}, want = {0};
        hd_buf clean = {0};
        size_t n = (size_t)(hd_rng_uniform(rng, 100 * i) * 63);
        for (size_t k = 0; k < n; k++) { text[k] = (char)(hd_rng_uniform(rng, 100 * i + k + 1) * 255.99); }
        hd_utf8_append_replacing(&clean, text, n);
        encode_text(t, text, n, HD_ENCODE_PLAIN, &got);
        encode_text(t, hd_buf_text(&clean), clean.n, HD_ENCODE_PLAIN, &want);
        assert_same_ids(hd_buf_text(&clean), &got, &want);
        hd_ids_free(&got);
        hd_ids_free(&want);
        hd_buf_free(&clean);
    }
    hd_tokenizer_close(t);
}

static void added_tokens_as_text(void **state)
{
    (void)state;
    hd_tokenizer *t = open_fixture("v3");
    hd_ids token = {0}, text = {0};
    hd_buf back = {0};
    static const char words[] = "a<|EOT|>b";
    int32_t eot = hd_tokenizer_find(t, "<|EOT|>", 7);
    assert_true(eot >= 0 && hd_tokenizer_is_special(t, eot));
    encode_text(t, words, sizeof words - 1, HD_ENCODE_PLAIN, &token);
    encode_text(t, words, sizeof words - 1, HD_ENCODE_ADDED_AS_TEXT, &text);
    assert_true(token.n == 3 && token.id[1] == eot);
    assert_true(text.n > 3);
    for (size_t i = 0; i < text.n; i++) { assert_true(text.id[i] != eot); }
    assert_ok(hd_tokenizer_decode(t, text.id, text.n, HD_DECODE_ALL, &back, &err));
    assert_string_equal(hd_buf_text(&back), words);
    hd_buf_clear(&back);
    assert_ok(hd_tokenizer_decode(t, token.id, token.n, HD_DECODE_SKIP_SPECIAL, &back, &err));
    assert_string_equal(hd_buf_text(&back), "ab");
    hd_buf_free(&back);
    hd_ids_free(&token);
    hd_ids_free(&text);
    hd_tokenizer_close(t);
}

/* What an encoder remembers never changes an id: words that differ in their length alone, in a zero byte, beyond 15 bytes. */
static void the_cache_is_exact(void **state)
{
    static const char letters[] = {'\0', 'a', 'b', '\x01', 't', 'h', 'e', ' '};
    (void)state;
    hd_tokenizer *t = open_fixture("gpt2");
    hd_encoder *encoder;
    hd_rng rng = hd_test_rng("cache");
    char text[40];
    assert_ok(hd_encoder_open(t, &encoder, &err));
    for (uint64_t i = 0; i < 20000; i++) {
        hd_ids cached = {0}, plain = {0};
        size_t n = (size_t)(hd_rng_uniform(rng, 100 * i) * 39), kinds = 1 + i % 8;
        for (size_t k = 0; k < n; k++) { text[k] = letters[(size_t)(hd_rng_uniform(rng, 100 * i + k + 1) * 0.999 * (double)kinds)]; }
        assert_ok(hd_encoder_encode(encoder, text, n, HD_ENCODE_PLAIN, &cached, &err));
        assert_ok(hd_tokenizer_encode(t, text, n, HD_ENCODE_PLAIN, &plain, &err));
        assert_same_ids("(bytes)", &cached, &plain);
        hd_ids_free(&cached);
        hd_ids_free(&plain);
    }
    hd_encoder_close(encoder);
    hd_tokenizer_close(t);
}

/* Pieces without a symbol, short, of a phrase's length and long, give nothing and are remembered as nothing. */
static void nothing_comes_of_nothing(void **state)
{
    static const char json[] = "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                               "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}";
    (void)state;
    hd_tokenizer *t;
    hd_encoder *encoder;
    hd_ids ids = {0};
    char text[400];
    memset(text, 'x', sizeof text);
    assert_ok(hd_tokenizer_parse(json, sizeof json - 1, NULL, 0, &t, &err));
    assert_ok(hd_encoder_open(t, &encoder, &err));
    for (int i = 0; i < 2; i++) {
        static const size_t lengths[] = {0, 1, 15, 16, 62, 63, 128, 129, 400};
        for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) { assert_ok(hd_encoder_encode(encoder, text, lengths[k], HD_ENCODE_PLAIN, &ids, &err)); }
    }
    assert_int_equal(ids.n, 0);
    hd_encoder_close(encoder);
    hd_tokenizer_close(t);
    hd_ids_free(&ids);
}

static void byte_tokenizer(void **state)
{
    (void)state;
    hd_tokenizer *t;
    hd_ids ids = {0};
    assert_ok(hd_tokenizer_open_byte(&t, &err));
    assert_true(hd_tokenizer_vocab_size(t) == 259 && hd_tokenizer_bos(t) == 256 && hd_tokenizer_eos(t) == 257 && hd_tokenizer_pad(t) == 258);
    encode_text(t, "a\xFF\x00z", 4, HD_ENCODE_ADD_SPECIAL, &ids);
    static const int32_t want[] = {256, 'a', 255, 0, 'z'};
    assert_true(ids.n == 5 && memcmp(ids.id, want, sizeof want) == 0);
    assert_true(hd_tokenizer_is_special(t, 257) && !hd_tokenizer_is_special(t, 65));
    hd_ids_free(&ids);
    hd_tokenizer_close(t);
}

/* ---- threads ---------------------------------------------------------------------------------------------------------------------- */

static void append_words(hd_buf *text, hd_rng rng, uint64_t from, size_t n)
{
    static const char *const words[] = {"the ", "training ", "of ", "tokens, ", "\n\n", "  x", "1234 ", "don't ", "\xE4\xBD\xA0\xE5\xA5\xBD", "<|EOT|>", "( ", "= ", "\t", "models "};
    for (uint64_t i = 0; text->n < n; i++) { hd_buf_append_text(text, words[(size_t)(hd_rng_uniform(rng, from + i) * 13.999)]); }
}

static void threads_do_not_matter(void **state)
{
    static const char *const names[] = {"v3", "gpt2", "llama3", "v2", "flags", "qwen2", "prefix"};
    enum { N = 12 };
    (void)state;
    hd_buf text[N] = {{0}};
    hd_document_text documents[N];
    hd_rng rng = hd_test_rng("threads");
    static const size_t sizes[N] = {10, 0, 3000000, 5, 200000, 270000, 1, 900000, 4000, 0, 700000, 30};
    for (int i = 0; i < N; i++) {
        append_words(&text[i], rng, (uint64_t)i << 32, sizes[i]);
        documents[i] = (hd_document_text){hd_buf_text(&text[i]), text[i].n};
    }
    for (size_t r = 0; r < sizeof names / sizeof names[0]; r++) {
        hd_tokenizer *t = open_fixture(names[r]);
        hd_ids want = {0};
        size_t want_ends[N];
        for (int i = 0; i < N; i++) {
            assert_ok(hd_tokenizer_encode(t, documents[i].text, documents[i].n, HD_ENCODE_ADD_SPECIAL, &want, &err));
            want_ends[i] = want.n;
        }
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            hd_ids got = {0};
            size_t ends[N];
            assert_ok(hd_tokenizer_encode_documents(t, documents, N, HD_ENCODE_ADD_SPECIAL, n_threads, &got, ends, &err));
            assert_memory_equal(ends, want_ends, sizeof ends);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, got.n * sizeof *got.id);
            hd_ids_free(&got);
        }
        hd_ids_free(&want);
        hd_tokenizer_close(t);
    }
    for (int i = 0; i < N; i++) { hd_buf_free(&text[i]); }
}

/* ---- hostile texts on a small stack ----------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__SANITIZE_UNDEFINED__)
enum { STACK_BYTES = 1 << 20, SLOW = 1 }; /* sanitizers have frames of their own */
#else
enum { STACK_BYTES = 64 << 10, SLOW = 0 };
#endif

typedef struct hostile {
    hd_tokenizer *tokenizer;
    const char *text;
    size_t n;
    hd_status st;
    hd_err err;
    size_t n_id;
} hostile;

static void *encode_hostile(void *arg)
{
    hostile *h = arg;
    hd_ids ids = {0};
    hd_buf back = {0};
    h->st = hd_tokenizer_encode(h->tokenizer, h->text, h->n, HD_ENCODE_PLAIN, &ids, &h->err);
    if (h->st == HD_OK) { h->st = hd_tokenizer_decode(h->tokenizer, ids.id, ids.n, HD_DECODE_ALL, &back, &h->err); }
    h->n_id = ids.n;
    hd_ids_free(&ids);
    hd_buf_free(&back);
    return NULL;
}

static void run_on_small_stack(hostile *h)
{
    pthread_attr_t attr;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, STACK_BYTES), 0);
    assert_int_equal(pthread_create(&thread, &attr, encode_hostile, h), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    (void)pthread_attr_destroy(&attr);
    if (h->st != HD_OK) { fail_msg("%s", h->err.msg); }
}

static void hostile_texts(void **state)
{
    static const char *const units[] = {"a", " ", "7", "\n", "!", " \t", "\xE4\xB8\x80", "\xCC\x81", "ab", "<", "<|EOT", "'", "\xF0\x9F\x98\x80", "\xFF", "\x01", " \n", "a1"};
    static const char *const names[] = {"v3", "llama3", "gpt2", "v2", "qwen2", "flags"};
    (void)state;
    size_t n_all = SLOW ? 200000 : 10 << 20;
    char *text = malloc(n_all);
    assert_non_null(text);
    double worst = 0;
    for (size_t r = 0; r < sizeof names / sizeof names[0]; r++) {
        hostile h = {.tokenizer = open_fixture(names[r]), .text = text};
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            size_t unit = strlen(units[u]);
            h.n = (r == 0 && u < 5 ? n_all : n_all / 16) / unit * unit;
            for (size_t i = 0; i < h.n; i += unit) { memcpy(text + i, units[u], unit); }
            double start = hd_clock_now_s();
            run_on_small_stack(&h);
            double took = (hd_clock_now_s() - start) * (double)n_all / (double)h.n;
            if (took > worst) { worst = took; }
            if (!SLOW && took > 12.0) { fail_msg("%s, \"%s\": %.1f s for 10 MiB", names[r], units[u], took); } /* linear takes about 1 s; quadratic hours */
        }
        hd_gen_bytes("hostile", (unsigned char *)text, (int64_t)n_all);
        h.n = n_all;
        run_on_small_stack(&h);
        hd_tokenizer_close(h.tokenizer);
    }
    print_message("  the slowest took %.2f s for 10 MiB\n", worst);
    free(text);
}

/* ---- rules of bos and eos --------------------------------------------------------------------------------------------------------- */

static hd_tokenizer *with_config(const char *name, const char *config)
{
    char path[256];
    size_t n;
    hd_tokenizer *t = NULL;
    (void)snprintf(path, sizeof path, "tests/tokenizer/fixtures/%s.json", name);
    char *json = read_text(path, &n);
    assert_ok(hd_tokenizer_parse(json, n, config, config != NULL ? strlen(config) : 0, &t, &err));
    hd_free(json);
    return t;
}

#define BOS "<\xEF\xBD\x9C" "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"
#define EOS "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"

static void rules_of_config(void **state)
{
    static const struct {
        const char *config;
        int bos, eos, n_prefix, n_suffix; /* -1: none */
    } rows[] = {
        {NULL, 0, 1, 0, 0},
        {"{\"bos_token\": \"" BOS "\", \"tokenizer_class\": \"PreTrainedTokenizerFast\", \"add_bos_token\": true}", 0, -1, 0, 0},
        {"{\"bos_token\": {\"content\": \"" BOS "\", \"lstrip\": false}, \"eos_token\": {\"__type\": \"AddedToken\", \"content\": \"" EOS "\"}, "
         "\"tokenizer_class\": \"LlamaTokenizerFast\", \"add_bos_token\": true, \"add_eos_token\": false}", 0, 1, 1, 0},
        {"{\"bos_token\": \"" BOS "\", \"eos_token\": \"" EOS "\", \"tokenizer_class\": \"LlamaTokenizerFast\", \"add_bos_token\": false}", 0, 1, 0, 0},
        {"{\"bos_token\": \"" BOS "\", \"eos_token\": \"" EOS "\", \"tokenizer_class\": \"LlamaTokenizer\", \"add_eos_token\": true, \"extra\": [1, {}]}", 0, 1, 1, 1},
        {"{\"bos_token\": null, \"eos_token\": \"nothing\"}", -1, -1, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_tokenizer *t = with_config("v3", rows[i].config);
        hd_ids ids = {0};
        assert_int_equal(hd_tokenizer_bos(t), rows[i].bos);
        assert_int_equal(hd_tokenizer_eos(t), rows[i].eos);
        encode_text(t, "a", 1, HD_ENCODE_ADD_SPECIAL, &ids);
        assert_int_equal(ids.n, 1 + rows[i].n_prefix + rows[i].n_suffix);
        if (rows[i].n_prefix > 0) { assert_int_equal(ids.id[0], rows[i].bos); }
        if (rows[i].n_suffix > 0) { assert_int_equal(ids.id[ids.n - 1], rows[i].eos); }
        hd_ids_free(&ids);
        hd_tokenizer_close(t);
    }
}

static void chat_templates(void **state)
{
    static const struct {
        const char *config, *want;
    } rows[] = {{"{}", NULL}, {"{\"chat_template\": null}", NULL}, {"{\"chat_template\": \"{{ x }}\\n\"}", "{{ x }}\n"},
                {"{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"}, {\"template\": \"d\", \"name\": \"default\"}]}", "d"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_tokenizer *t = with_config("v3", rows[i].config);
        if (rows[i].want == NULL) {
            assert_null(hd_tokenizer_chat_template(t));
        } else {
            assert_string_equal(hd_tokenizer_chat_template(t), rows[i].want);
        }
        hd_tokenizer_close(t);
    }
}

static void folders(void **state)
{
    const char *dir = *state;
    size_t n;
    hd_tokenizer *t;
    assert_fails(hd_tokenizer_open(dir, &t, &err), HD_E_CONFIG, "no tokenizer.json");
    assert_fails(hd_tokenizer_open(hd_temp_path(dir, "missing"), &t, &err), HD_E_CONFIG, "no such file or folder");
    char *json = read_text("tests/tokenizer/fixtures/v3.json", &n);
    assert_ok(hd_io_write_file(hd_temp_path(dir, "tokenizer.json"), json, n, &err));
    static const char config[] = "{\"tokenizer_class\": \"LlamaTokenizerFast\", \"bos_token\": \"" BOS "\", \"chat_template\": \"old\"}";
    assert_ok(hd_io_write_file(hd_temp_path(dir, "tokenizer_config.json"), config, sizeof config - 1, &err));
    assert_ok(hd_io_write_file(hd_temp_path(dir, "chat_template.jinja"), "new", 3, &err));
    for (int i = 0; i < 2; i++) { /* the folder, then the file in it */
        hd_ids ids = {0};
        assert_ok(hd_tokenizer_open(i == 0 ? dir : hd_temp_path(dir, "tokenizer.json"), &t, &err));
        assert_string_equal(hd_tokenizer_chat_template(t), "new");
        encode_text(t, "a", 1, HD_ENCODE_ADD_SPECIAL, &ids);
        assert_int_equal(ids.n, 2);
        hd_ids_free(&ids);
        hd_tokenizer_close(t);
    }
    assert_ok(hd_io_write_file(hd_temp_path(dir, "tokenizer_config.json"), "{", 1, &err));
    assert_fails(hd_tokenizer_open(dir, &t, &err), HD_E_CORRUPT, "tokenizer_config.json");
    hd_free(json);
}

/* ---- hostile files ---------------------------------------------------------------------------------------------------------------- */

/* A small whole tokenizer with one part replaced. */
static hd_status parse_with(const char *part, const char *text)
{
    static const char *const parts[][2] = {{"normalizer", "null"}, {"pre_tokenizer", "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"}, {"added_tokens", "[]"},
                                           {"post_processor", "null"}, {"decoder", "{\"type\": \"ByteLevel\"}"},
                                           {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}"}};
    hd_buf json = {0};
    hd_tokenizer *t = NULL;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        hd_buf_printf(&json, "%s\"%s\": %s", i == 0 ? "{" : ", ", parts[i][0], strcmp(part, parts[i][0]) == 0 ? text : parts[i][1]);
    }
    hd_buf_append_char(&json, '}');
    hd_status st = hd_tokenizer_parse(json.data, json.n, NULL, 0, &t, &err);
    hd_tokenizer_close(t);
    hd_buf_free(&json);
    return st;
}

static void bad_files(void **state)
{
    static const struct {
        const char *part, *text;
        hd_status status;
        const char *message;
    } rows[] = {
        {"normalizer", "{\"type\": \"Lowercase\"}", HD_E_UNSUPPORTED, "normalizer Lowercase"},
        {"normalizer", "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKC\"}]}", HD_E_UNSUPPORTED, "normalizer NFKC"},
        {"pre_tokenizer", "null", HD_E_UNSUPPORTED, "not a byte-level tokenizer"},
        {"pre_tokenizer", "{\"type\": \"Metaspace\"}", HD_E_UNSUPPORTED, "Metaspace"},
        {"pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": \"Digits\"}]}", HD_E_UNSUPPORTED, "behind ByteLevel"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Sideways\", \"pattern\": {\"String\": \"a\"}}", HD_E_CORRUPT, "Sideways"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(\"}}", HD_E_CORRUPT, "Split pattern"},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Glob\": \"(\"}}", HD_E_CORRUPT, "one \"Regex\" or one \"String\""},
        {"pre_tokenizer", "{\"type\": \"Split\", \"behavior\": \"Isolated\"}", HD_E_CORRUPT, "without a pattern"},
        {"decoder", "null", HD_E_UNSUPPORTED, "its decoder has no ByteLevel"},
        {"decoder", "{\"type\": \"WordPiece\"}", HD_E_UNSUPPORTED, "decoder WordPiece"},
        {"post_processor", "{\"type\": \"Magic\"}", HD_E_UNSUPPORTED, "post_processor Magic"},
        {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\"}}]}", HD_E_CORRUPT, "\"<s>\" is not in the vocabulary"},
        {"post_processor", "{\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, {\"Sequence\": {\"id\": \"A\"}}]}", HD_E_CORRUPT, "two sequences"},
        {"added_tokens", "[{\"id\": 1, \"content\": \"x\"}]", HD_E_CORRUPT, "have the same id 1"},
        {"added_tokens", "[{\"id\": 7, \"content\": \"ab\"}]", HD_E_CORRUPT, "stands in the vocabulary as 2"},
        {"added_tokens", "[{\"id\": 7, \"content\": \"\"}]", HD_E_CORRUPT, "without content"},
        {"added_tokens", "[{\"id\": -1, \"content\": \"x\"}]", HD_E_CORRUPT, "id -1"},
        {"added_tokens", "[{\"id\": 2000000000, \"content\": \"x\"}]", HD_E_CORRUPT, "id 2000000000, want 0 to"},
        {"model", "null", HD_E_CORRUPT, "want an object"},
        {"model", "{\"type\": \"Unigram\"}", HD_E_UNSUPPORTED, "a Unigram model"},
        {"model", "{\"type\": \"BPE\", \"dropout\": 0.1, \"vocab\": {}, \"merges\": []}", HD_E_UNSUPPORTED, "dropout is 0.1"},
        {"model", "{\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\", \"vocab\": {}, \"merges\": []}", HD_E_UNSUPPORTED, "end_of_word_suffix"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", HD_E_CORRUPT, "have the same id 0"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []}", HD_E_CORRUPT, "has two ids"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 1.5}, \"merges\": []}", HD_E_CORRUPT, "integer"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}", HD_E_CORRUPT, "needs a token that the vocabulary lacks"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {}, \"merges\": [\"a b\"]}", HD_E_CORRUPT, "needs a token that the vocabulary lacks"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"ab\"]}", HD_E_CORRUPT, "two tokens with one space"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", HD_E_CORRUPT, "a list of two tokens"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\", \"a\", \"a\"]]}", HD_E_CORRUPT, ""},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [3]}", HD_E_CORRUPT, "an array"},
        {"model", "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"?\": 1}, \"unk_token\": \"?\", \"fuse_unk\": true, \"merges\": []}", HD_E_UNSUPPORTED, "unk_token is fused"},
    };
    (void)state;
    assert_ok(parse_with("", ""));
    assert_ok(parse_with("model", "{\"merges\": [[\"a\", \"b\"]], \"vocab\": {\"a\": 5, \"b\": 1, \"ab\": 0}, \"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"a\"}"));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_status st = parse_with(rows[i].part, rows[i].text);
        if (st != rows[i].status || strstr(err.msg, rows[i].message) == NULL) {
            fail_msg("%s: %s: %s, \"%s\"", rows[i].part, rows[i].text, hd_status_name(st), err.msg);
        }
    }
}

/* Every prefix of a tokenizer.json is refused, and any byte of it may change. */
static void damaged_files(void **state)
{
    (void)state;
    size_t n;
    char *json = read_text("tests/tokenizer/fixtures/flags.json", &n);
    hd_rng rng = hd_test_rng("damage");
    hd_tokenizer *t = NULL;
    for (size_t cut = 0; cut < n; cut += 1 + n / 400) { assert_int_equal(hd_tokenizer_parse(json, cut, NULL, 0, &t, &err), HD_E_CORRUPT); }
    for (uint64_t i = 0; i < 600; i++) {
        size_t at = (size_t)(hd_rng_uniform(rng, 2 * i) * 0.9999 * (double)n);
        char kept = json[at];
        hd_ids ids = {0};
        json[at] = (char)(32 + (int)(hd_rng_uniform(rng, 2 * i + 1) * 94));
        if (hd_tokenizer_parse(json, n, NULL, 0, &t, &err) == HD_OK) {
            assert_ok(hd_tokenizer_encode(t, "some  words, <l> 12", 19, HD_ENCODE_ADD_SPECIAL, &ids, &err));
            hd_tokenizer_close(t);
        }
        hd_ids_free(&ids);
        json[at] = kept;
    }
    hd_free(json);
}

/* ---- failing allocations ---------------------------------------------------------------------------------------------------------- */

static hd_status everything(const char *json, size_t n, const char *config)
{
    static const char text[] = "some words \xE4\xBD\xA0 e\xCC\x81 \xFF 12 <|im_start|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    hd_status st;
    hd_tokenizer *t = NULL;
    hd_encoder *encoder = NULL;
    hd_ids ids = {0}, all = {0};
    hd_buf back = {0};
    hd_document_text documents[] = {{text, sizeof text - 1}, {text, 5}};
    size_t ends[2];
    HD_TRY(hd_tokenizer_parse(json, n, config, strlen(config), &t, &err));
    HD_TRY(hd_encoder_open(t, &encoder, &err));
    HD_TRY(hd_encoder_encode(encoder, text, sizeof text - 1, HD_ENCODE_ADD_SPECIAL, &ids, &err));
    HD_TRY(hd_tokenizer_encode_documents(t, documents, 2, HD_ENCODE_PLAIN, 1, &all, ends, &err));
    HD_TRY(hd_tokenizer_decode(t, ids.id, ids.n, HD_DECODE_ALL, &back, &err));
out:
    hd_encoder_close(encoder);
    hd_tokenizer_close(t);
    hd_ids_free(&ids);
    hd_ids_free(&all);
    hd_buf_free(&back);
    return st;
}

static void every_allocation_fails(void **state)
{
    static const char *const names[] = {"qwen2", "o200k", "prefix", "v2"};
    static const char config[] = "{\"chat_template\": [{\"name\": \"default\", \"template\": \"x\"}]}";
    (void)state;
    for (size_t r = 0; r < sizeof names / sizeof names[0]; r++) {
        char path[256];
        size_t n, count = 0;
        (void)snprintf(path, sizeof path, "tests/tokenizer/fixtures/%s.json", names[r]);
        char *json = read_text(path, &n);
        size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
        assert_ok(everything(json, n, config));
        size_t n_call = hd_alloc_get_stats().total_calls - before;
        while (count < n_call) {
            hd_alloc_fail_at(++count, 0);
            hd_status st = everything(json, n, config);
            hd_alloc_fail_at(0, 0);
            if (st != HD_E_NOMEM) { fail_msg("%s: allocation %zu fails: %s", names[r], count, hd_status_name(st)); }
            assert_int_equal(hd_alloc_get_stats().live_calls, live);
        }
        print_message("  %s: %zu allocations\n", names[r], n_call);
        assert_true(n_call > 20);
        hd_free(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_in_a_stream), cmocka_unit_test(decode_refuses_unknown_ids), cmocka_unit_test(ill_formed_text), cmocka_unit_test(added_tokens_as_text),
        cmocka_unit_test(the_cache_is_exact), cmocka_unit_test(nothing_comes_of_nothing), cmocka_unit_test(byte_tokenizer), cmocka_unit_test(threads_do_not_matter), cmocka_unit_test(hostile_texts), cmocka_unit_test(rules_of_config),
        cmocka_unit_test(chat_templates), cmocka_unit_test_setup_teardown(folders, hd_temp_setup, hd_temp_teardown), cmocka_unit_test(bad_files),
        cmocka_unit_test(damaged_files), cmocka_unit_test(every_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
