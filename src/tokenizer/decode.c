/* Ids to text, all at once or one by one. */
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/internal.h"

const char *hd_tokenizer_bytes(const hd_tokenizer *tokenizer, int32_t id, size_t *n)
{
    const hd_vocab *vocab = &tokenizer->vocab;
    *n = 0;
    if (id < 0 || (size_t)id >= vocab->n_token || vocab->token[id].flags == 0) { return NULL; }
    *n = vocab->token[id].n;
    return vocab->pool.data + vocab->token[id].offset;
}

bool hd_tokenizer_is_special(const hd_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (size_t)id < tokenizer->vocab.n_token && (tokenizer->vocab.token[id].flags & HD_TOKEN_SPECIAL) != 0;
}

hd_status hd_tokenizer_decode(const hd_tokenizer *tokenizer, const int32_t *id, size_t n, hd_decode_flags flags, hd_buf *text, hd_err *err)
{
    hd_decode_stream stream;
    hd_decode_stream_open(&stream, tokenizer, flags);
    for (size_t i = 0; i < n; i++) {
        size_t n_byte;
        if (hd_tokenizer_bytes(tokenizer, id[i], &n_byte) == NULL) {
            return HD_FAIL(err, HD_E_INVALID, "id %d (number %zu) has no token; the vocabulary has %zu", id[i], i + 1, tokenizer->vocab.n_token);
        }
        hd_decode_stream_feed(&stream, id[i], text);
    }
    hd_decode_stream_end(&stream, text);
    return hd_buf_check(text, err);
}

void hd_decode_stream_open(hd_decode_stream *stream, const hd_tokenizer *tokenizer, hd_decode_flags flags)
{
    *stream = (hd_decode_stream){.tokenizer = tokenizer, .flags = flags};
}

void hd_decode_stream_feed(hd_decode_stream *stream, int32_t id, hd_buf *text)
{
    size_t n, used = 0;
    const char *bytes = hd_tokenizer_bytes(stream->tokenizer, id, &n);
    if (bytes == NULL || ((stream->flags & HD_DECODE_SKIP_SPECIAL) != 0 && hd_tokenizer_is_special(stream->tokenizer, id))) { return; }
    while (stream->n_held > 0 && used < n) { /* byte by byte until the character that was begun is whole, or cannot become so */
        stream->held[stream->n_held++] = bytes[used++];
        size_t tail = hd_utf8_incomplete_tail(stream->held, stream->n_held);
        if (tail == stream->n_held) { continue; }
        hd_utf8_append_replacing(text, stream->held, stream->n_held - tail);
        memmove(stream->held, stream->held + stream->n_held - tail, tail);
        stream->n_held = tail;
    }
    if (used == n) { return; }
    size_t tail = hd_utf8_incomplete_tail(bytes + used, n - used);
    hd_utf8_append_replacing(text, bytes + used, n - used - tail);
    memcpy(stream->held, bytes + n - tail, tail);
    stream->n_held = tail;
}

void hd_decode_stream_end(hd_decode_stream *stream, hd_buf *text)
{
    hd_utf8_append_replacing(text, stream->held, stream->n_held);
    stream->n_held = 0;
}
