/* Decompression behind one read call.  Memory is two buffers and what the codec's window needs. */
#include "data/text_source.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/io.h"

enum { INPUT_BYTES = 1 << 16, MAX_WINDOW_LOG = 27 };

struct hd_text_source {
    hd_file *file;
    hd_codec codec;
    unsigned char *input;
    size_t begin, end; /* unread bytes of input */
    bool input_ended;
    bool frame_open; /* inside a compressed frame: the stream may not end here */
    z_stream gzip;
    bool gzip_ready;
    ZSTD_DStream *zstd;
};

static hd_status open_codec(hd_text_source *s, hd_err *err)
{
    if (s->codec == HD_CODEC_GZIP) {
        /* 15 + 16: the largest window, gzip framing */
        if (inflateInit2(&s->gzip, 15 + 16) != Z_OK) { return HD_FAIL(err, HD_E_NOMEM, "%s: zlib has no memory", hd_io_path(s->file)); }
        s->gzip_ready = true;
    }
    if (s->codec == HD_CODEC_ZSTD) {
        s->zstd = ZSTD_createDStream();
        if (s->zstd == NULL || ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, MAX_WINDOW_LOG))) {
            return HD_FAIL(err, HD_E_NOMEM, "%s: zstd has no memory", hd_io_path(s->file));
        }
    }
    return HD_OK;
}

hd_status hd_text_source_open(const char *path, hd_codec codec, hd_text_source **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_text_source *s = NULL;
    HD_TRY(hd_alloc(1, sizeof *s, "text source", (void **)&s, err));
    s->codec = codec;
    HD_TRY(hd_alloc(INPUT_BYTES, 1, "read buffer", (void **)&s->input, err));
    HD_TRY(hd_io_open_read(path, &s->file, err));
    HD_TRY(open_codec(s, err));
    *out = s;
    s = NULL;
out:
    hd_text_source_close(s);
    return st;
}

void hd_text_source_close(hd_text_source *s)
{
    if (s == NULL) { return; }
    if (s->gzip_ready) { inflateEnd(&s->gzip); }
    ZSTD_freeDStream(s->zstd);
    hd_io_abandon(&s->file);
    hd_free(s->input);
    hd_free(s);
}

static hd_status refill(hd_text_source *s, hd_err *err)
{
    hd_status st = hd_io_read(s->file, s->input, INPUT_BYTES, &s->end, err);
    s->begin = 0;
    if (st == HD_OK && s->end < INPUT_BYTES) { s->input_ended = true; }
    return st;
}

static hd_status gzip_step(hd_text_source *s, void *data, size_t n, size_t *made, hd_err *err)
{
    s->gzip.next_in = s->input + s->begin;
    s->gzip.avail_in = (uInt)(s->end - s->begin);
    s->gzip.next_out = data;
    s->gzip.avail_out = (uInt)(n < (1u << 30) ? n : (1u << 30));
    uInt room = s->gzip.avail_out;
    s->frame_open = true;
    int code = inflate(&s->gzip, Z_NO_FLUSH);
    s->begin = s->end - s->gzip.avail_in;
    *made = room - s->gzip.avail_out;
    if (code == Z_STREAM_END) {
        s->frame_open = false;
        inflateReset(&s->gzip); /* another member may follow */
    } else if (code != Z_OK && code != Z_BUF_ERROR) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: not a sound gzip stream: %s", hd_io_path(s->file),
                       s->gzip.msg != NULL ? s->gzip.msg : "unknown fault");
    }
    return HD_OK;
}

static hd_status zstd_step(hd_text_source *s, void *data, size_t n, size_t *made, hd_err *err)
{
    ZSTD_inBuffer in = {.src = s->input, .size = s->end, .pos = s->begin};
    ZSTD_outBuffer out = {.dst = data, .size = n};
    size_t left = ZSTD_decompressStream(s->zstd, &out, &in);
    s->begin = in.pos;
    *made = out.pos;
    if (ZSTD_isError(left)) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: not a sound zstd stream: %s", hd_io_path(s->file), ZSTD_getErrorName(left));
    }
    s->frame_open = left != 0;
    return HD_OK;
}

static hd_status plain_step(hd_text_source *s, void *data, size_t n, size_t *made)
{
    size_t have = s->end - s->begin;
    *made = have < n ? have : n;
    memcpy(data, s->input + s->begin, *made);
    s->begin += *made;
    return HD_OK;
}

hd_status hd_text_source_read(hd_text_source *s, void *data, size_t n, size_t *got, hd_err *err)
{
    hd_status st = HD_OK;
    *got = 0;
    while (*got < n) {
        size_t made = 0, before = s->begin;
        if (s->begin == s->end && !s->input_ended) { HD_TRY(refill(s, err)); before = s->begin; }
        bool drained = s->begin == s->end;
        if (drained && !s->frame_open) { break; }
        char *to = (char *)data + *got;
        if (s->codec == HD_CODEC_GZIP) { HD_TRY(gzip_step(s, to, n - *got, &made, err)); }
        if (s->codec == HD_CODEC_ZSTD) { HD_TRY(zstd_step(s, to, n - *got, &made, err)); }
        if (s->codec == HD_CODEC_NONE) { HD_TRY(plain_step(s, to, n - *got, &made)); }
        *got += made;
        if (drained && made == 0 && s->begin == before && s->frame_open) {
            st = HD_FAIL(err, HD_E_CORRUPT, "%s: the compressed stream is cut short", hd_io_path(s->file));
            goto out;
        }
    }
out:
    return st;
}
