/* See buf.h. */
#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

enum { FIRST_CAPACITY = 64 };

char *hd_buf_reserve(hd_buf *buf, size_t n)
{
    size_t want;
    if (buf->failed != HD_OK) { return NULL; }
    if (!hd_size_add(buf->n, n, &want) || (buf->limit != 0 && want > buf->limit) || !hd_size_add(want, 1, &want)) {
        buf->failed = HD_E_INVALID;
        return NULL;
    }
    if (want > buf->capacity) {
        void *grown = buf->data;
        size_t capacity = buf->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : buf->capacity;
        while (capacity < want && hd_size_mul(capacity, 2, &capacity)) {}
        if (capacity < want) { capacity = want; }
        buf->failed = hd_realloc(&grown, buf->capacity, capacity, 1, "text buffer", NULL);
        if (buf->failed != HD_OK) { return NULL; }
        buf->data = grown;
        buf->capacity = capacity;
    }
    return buf->data + buf->n;
}

void hd_buf_append(hd_buf *buf, const void *data, size_t n)
{
    char *end = hd_buf_reserve(buf, n);
    if (end == NULL) { return; }
    if (n > 0) { memcpy(end, data, n); }
    buf->n += n;
    buf->data[buf->n] = '\0';
}

void hd_buf_append_text(hd_buf *buf, const char *text)
{
    hd_buf_append(buf, text, strlen(text));
}

void hd_buf_append_char(hd_buf *buf, char c)
{
    hd_buf_append(buf, &c, 1);
}

void hd_buf_vprintf(hd_buf *buf, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (n < 0) {
        buf->failed = HD_E_INVALID;
        return;
    }
    char *end = hd_buf_reserve(buf, (size_t)n);
    if (end == NULL) { return; }
    (void)vsnprintf(end, (size_t)n + 1, format, args);
    buf->n += (size_t)n;
}

void hd_buf_printf(hd_buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    hd_buf_vprintf(buf, format, args);
    va_end(args);
}

void hd_buf_clear(hd_buf *buf)
{
    buf->n = 0;
    buf->failed = HD_OK;
    if (buf->data != NULL) { buf->data[0] = '\0'; }
}

void hd_buf_free(hd_buf *buf)
{
    hd_free(buf->data);
    *buf = (hd_buf){.limit = buf->limit};
}

hd_status hd_buf_check(const hd_buf *buf, hd_err *err)
{
    if (buf->failed == HD_OK) { return HD_OK; }
    if (buf->failed == HD_E_NOMEM) {
        return HD_FAIL(err, HD_E_NOMEM, "out of memory: text buffer beyond %zu bytes", buf->capacity);
    }
    return HD_FAIL(err, buf->failed, "text buffer: longer than its limit of %zu bytes", buf->limit);
}

const char *hd_buf_text(const hd_buf *buf)
{
    return buf->data == NULL ? "" : buf->data;
}

char *hd_buf_take(hd_buf *buf)
{
    char *data = buf->data;
    *buf = (hd_buf){.limit = buf->limit};
    return data;
}
