/* Bytes of a file in order, at most WINDOW of them in memory.  See window.h. */
#include "eval/window.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

enum { WINDOW = 1 << 20 };

hd_status hd_window_open(const char *path, hd_window *w, hd_err *err)
{
    hd_status st;
    *w = (hd_window){.line = 1};
    HD_TRY(hd_io_open_read(path, &w->file, err));
    HD_TRY(hd_io_size(w->file, &w->bytes, err));
    HD_TRY(hd_alloc(WINDOW + 1, 1, "window of a golden file", (void **)&w->text, err));
    return HD_OK;
out:
    hd_window_close(w);
    return st;
}

void hd_window_close(hd_window *w)
{
    hd_io_abandon(&w->file);
    hd_free(w->text);
    *w = (hd_window){0};
}

hd_status hd_window_look(hd_window *w, hd_err *err)
{
    int64_t left = w->bytes - w->offset - (int64_t)w->end;
    if (w->end - w->at >= HD_WINDOW_LOOK || left == 0) { return HD_OK; }
    memmove(w->text, w->text + w->at, w->end - w->at);
    w->offset += (int64_t)w->at;
    w->end -= w->at;
    w->at = 0;
    size_t room = WINDOW - w->end, n = (int64_t)room < left ? room : (size_t)left;
    hd_status st = hd_io_pread(w->file, w->text + w->end, n, w->offset + (int64_t)w->end, err);
    if (st != HD_OK) { return st; }
    w->end += n;
    w->text[w->end] = '\0';
    return HD_OK;
}

hd_status hd_window_next(hd_window *w, char *c, hd_err *err)
{
    for (;; w->at++) {
        hd_status st = hd_window_look(w, err);
        if (st != HD_OK) { return st; }
        *c = w->at < w->end ? w->text[w->at] : '\0';
        if (*c != ' ' && *c != '\t' && *c != '\r') { return HD_OK; }
    }
}

/* What stands here instead of what was wanted. */
static hd_status unexpected(const hd_window *w, char c, const char *wanted, hd_err *err)
{
    if (w->at >= w->end) { return hd_window_fail(w, err, "the file ends inside a record, want %s", wanted); }
    if (c == '\n') { return hd_window_fail(w, err, "the line ends inside a record, want %s", wanted); }
    if (c > ' ' && c < 127) { return hd_window_fail(w, err, "'%c' stands here, want %s", c, wanted); }
    return hd_window_fail(w, err, "byte 0x%02x stands here, want %s", (unsigned char)c, wanted);
}

hd_status hd_window_take(hd_window *w, char wanted, hd_err *err)
{
    char c, text[] = {'\'', wanted, '\'', '\0'};
    hd_status st = hd_window_next(w, &c, err);
    if (st != HD_OK) { return st; }
    if (c != wanted || w->at >= w->end) { return unexpected(w, c, text, err); }
    w->at++;
    return HD_OK;
}

hd_status hd_window_next_line(hd_window *w, bool *more, hd_err *err)
{
    for (;;) {
        char c;
        hd_status st = hd_window_next(w, &c, err);
        if (st != HD_OK) { return st; }
        *more = w->at < w->end;
        if (!*more || c != '\n') { return HD_OK; }
        w->at++;
        w->line++;
        w->line_offset = w->offset + (int64_t)w->at;
    }
}

hd_status hd_window_skip_past(hd_window *w, char wanted, hd_err *err)
{
    char text[] = {'\'', wanted, '\'', '\0'};
    for (;;) {
        hd_status st = hd_window_look(w, err);
        if (st != HD_OK) { return st; }
        size_t n = w->end - w->at;
        const char *begin = w->text + w->at, *found = memchr(begin, wanted, n);
        size_t span = found != NULL ? (size_t)(found - begin) : n;
        const char *newline = memchr(begin, '\n', span);
        w->at += newline != NULL ? (size_t)(newline - begin) : span;
        if (newline != NULL || n == 0) { return unexpected(w, '\n', text, err); }
        if (found != NULL) {
            w->at++;
            return HD_OK;
        }
    }
}

/* Whether the value that text began ends before c; keeps track of strings and brackets. */
typedef struct value_state {
    int64_t depth;
    bool in_string, escaped;
} value_state;

static bool ends_value(value_state *s, char c)
{
    if (s->in_string) {
        s->in_string = s->escaped || c != '"';
        s->escaped = !s->escaped && c == '\\';
        return false;
    }
    if (s->depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':')) { return true; }
    s->in_string = c == '"';
    s->depth += (c == '[' || c == '{') - (c == ']' || c == '}');
    return false;
}

hd_status hd_window_value(hd_window *w, size_t limit, hd_buf *out, hd_err *err)
{
    value_state state = {0};
    char c;
    hd_status st = hd_window_next(w, &c, err);
    hd_buf_clear(out);
    while (st == HD_OK) {
        size_t i = w->at;
        while (i < w->end && w->text[i] != '\n' && !ends_value(&state, w->text[i])) { i++; }
        bool stopped = i < w->end;
        hd_buf_append(out, w->text + w->at, i - w->at);
        if (out->n > limit) { return hd_window_fail(w, err, "a value of more than %zu bytes begins here", limit); }
        w->at = i;
        if (stopped && w->text[i] != '\n') { return hd_buf_check(out, err); }
        if (!stopped) { st = hd_window_look(w, err); }
        if (st == HD_OK && (stopped || w->at == w->end)) { return unexpected(w, '\n', "the rest of a value", err); }
    }
    return st;
}

hd_window_place hd_window_here(const hd_window *w)
{
    return (hd_window_place){w->offset + (int64_t)w->at, w->line, w->line_offset};
}

void hd_window_go(hd_window *w, hd_window_place place)
{
    w->at = w->end = 0;
    w->offset = place.offset;
    w->line = place.line;
    w->line_offset = place.line_offset;
}

int64_t hd_window_column(const hd_window *w)
{
    return w->offset + (int64_t)w->at - w->line_offset + 1;
}

hd_status hd_window_fail(const hd_window *w, hd_err *err, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return HD_FAIL(err, HD_E_CORRUPT, "%s: line %" PRId64 ", column %" PRId64 ": %s", hd_io_path(w->file), w->line,
                   hd_window_column(w), what);
}
