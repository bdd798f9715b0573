/* A tokenizer.json and a text.  The input is the JSON, a byte 0, a tokenizer_config.json that may be empty (then there is none), a byte 0, the text;
 * or, when it does not begin with '{', a text for the small DeepSeek-V3 tokenizer of the tests.  What is encoded decodes to well-formed text, with
 * and without cache alike, in one stream or at once. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const hd_tokenizer *t, const char *text, size_t n, bool exact)
{
    hd_encoder *encoder = NULL;
    hd_ids ids = {0}, again = {0};
    hd_buf back = {0}, stream_text = {0}, clean = {0};
    hd_decode_stream stream;
    hd_err err;
    hd_status st = hd_encoder_open(t, &encoder, &err);
    assert(st == HD_OK);
    st = hd_encoder_encode(encoder, text, n, HD_ENCODE_PLAIN, &ids, &err);
    if (st != HD_OK) { goto out; } /* a pattern that needs too much work */
    st = hd_encoder_encode(encoder, text, n, HD_ENCODE_PLAIN, &again, &err);
    assert(st == HD_OK && again.n == ids.n && (ids.n == 0 || memcmp(again.id, ids.id, ids.n * sizeof *ids.id) == 0));
    st = hd_tokenizer_decode(t, ids.id, ids.n, HD_DECODE_ALL, &back, &err);
    assert(st == HD_OK && hd_utf8_validate(hd_buf_text(&back), back.n, NULL));
    hd_decode_stream_open(&stream, t, HD_DECODE_ALL);
    for (size_t i = 0; i < ids.n; i++) { hd_decode_stream_feed(&stream, ids.id[i], &stream_text); }
    hd_decode_stream_end(&stream, &stream_text);
    assert(stream_text.n == back.n && memcmp(hd_buf_text(&stream_text), hd_buf_text(&back), back.n) == 0);
    hd_utf8_append_replacing(&clean, text, n);
    assert(!exact || (clean.n == back.n && memcmp(hd_buf_text(&clean), hd_buf_text(&back), back.n) == 0));
out:
    hd_encoder_close(encoder);
    hd_ids_free(&ids);
    hd_ids_free(&again);
    hd_buf_free(&back);
    hd_buf_free(&stream_text);
    hd_buf_free(&clean);
}

static void fixed_tokenizer(const char *text, size_t n)
{
    hd_tokenizer *t = NULL;
    hd_err err;
    if (hd_tokenizer_open("tests/tokenizer/fixtures/v3.json", &t, &err) == HD_OK) { check_text(t, text, n, true); }
    hd_tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data, *end = json + size;
    hd_tokenizer *t = NULL;
    hd_err err;
    if (size == 0 || json[0] != '{') {
        fixed_tokenizer(json, size);
        return 0;
    }
    const char *json_end = memchr(json, '\0', size), *config_end = json_end != NULL ? memchr(json_end + 1, '\0', (size_t)(end - json_end - 1)) : NULL;
    const char *config = config_end != NULL && config_end > json_end + 1 ? json_end + 1 : NULL;
    size_t n_json = json_end != NULL ? (size_t)(json_end - json) : size;
    if (hd_tokenizer_parse(json, n_json, config, config != NULL ? (size_t)(config_end - config) : 0, &t, &err) == HD_OK && config_end != NULL) {
        check_text(t, config_end + 1, (size_t)(end - config_end - 1), false);
    }
    hd_tokenizer_close(t);
    return 0;
}
