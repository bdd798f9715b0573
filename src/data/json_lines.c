/* Cutting a stream into lines and taking one column out of each. */
#include "data/json_lines.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

enum { CHUNK_BYTES = 1 << 16, MAX_LINE_BYTES = 64 << 20 };

typedef struct line_reader {
    const char *path, *column;
    hd_json_lines_take take;
    void *context;
    hd_buf line;
    int64_t number;
} line_reader;

static bool is_blank(const hd_buf *line)
{
    for (size_t i = 0; i < line->n; i++) {
        if (strchr(" \t\r", line->data[i]) == NULL || line->data[i] == '\0') { return false; }
    }
    return true;
}

/* Reads the object and hands the column on; members before and after it are checked and skipped. */
static hd_status take_column(line_reader *r, hd_json *json, hd_err *err)
{
    hd_status st = HD_OK;
    bool more, found = false;
    hd_json_str key, text;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (!hd_json_str_is(key, r->column)) { continue; }
        found = true;
        HD_TRY(hd_json_string(json, &text, err));
        HD_TRY(r->take(r->context, text.text, text.n, err));
    }
    HD_TRY(hd_json_end(json, err));
    if (!found) {
        st = hd_json_fail(json, err, "no member \"%s\"; text_column names the member that holds the text", r->column);
    }
out:
    return st;
}

static hd_status end_line(line_reader *r, hd_err *err)
{
    hd_status st = hd_buf_check(&r->line, NULL);
    hd_json json = {0};
    char name[256];
    r->number++;
    if (st == HD_E_INVALID) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: line %" PRId64 " is longer than %d MiB", r->path, r->number, MAX_LINE_BYTES >> 20);
    }
    if (st != HD_OK) { return hd_buf_check(&r->line, err); }
    if (!is_blank(&r->line)) {
        snprintf(name, sizeof name, "%.200s, line %" PRId64, r->path, r->number);
        hd_json_open(&json, r->line.data, r->line.n, name, HD_JSON_STRICT);
        st = take_column(r, &json, err);
        hd_json_close(&json);
    }
    hd_buf_clear(&r->line);
    return st;
}

static hd_status take_chunk(line_reader *r, const char *chunk, size_t n, hd_err *err)
{
    for (size_t at = 0; at < n;) {
        const char *newline = memchr(chunk + at, '\n', n - at);
        size_t end = newline != NULL ? (size_t)(newline - chunk) : n;
        hd_buf_append(&r->line, chunk + at, end - at);
        at = end + 1;
        if (newline != NULL || hd_buf_check(&r->line, NULL) != HD_OK) {
            hd_status st = end_line(r, err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

hd_status hd_json_lines_read(const char *path, hd_codec codec, const char *column, hd_json_lines_take take, void *context,
                             hd_err *err)
{
    hd_status st = HD_OK;
    line_reader r = {.path = path, .column = column, .take = take, .context = context, .line = {.limit = MAX_LINE_BYTES}};
    hd_text_source *source = NULL;
    char *chunk = NULL;
    size_t got = 1;
    HD_TRY(hd_alloc(CHUNK_BYTES, 1, "read buffer", (void **)&chunk, err));
    HD_TRY(hd_text_source_open(path, codec, &source, err));
    while (got > 0) {
        HD_TRY(hd_text_source_read(source, chunk, CHUNK_BYTES, &got, err));
        HD_TRY(take_chunk(&r, chunk, got, err));
    }
    if (r.line.n > 0) { HD_TRY(end_line(&r, err)); }
out:
    hd_text_source_close(source);
    hd_buf_free(&r.line);
    hd_free(chunk);
    return st;
}
