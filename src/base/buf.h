/* A growable string of bytes.  Appending returns nothing: the first failure sticks, later appends do nothing, and
 * hd_buf_check tells at the end, so that writers of formats stay readable. */
#ifndef HD_BASE_BUF_H
#define HD_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>

#include "hadal/status.h"

typedef struct hd_buf {
    char *data; /* n bytes and a NUL behind them; NULL before the first append */
    size_t n, capacity;
    size_t limit;     /* most bytes it may hold; 0: no limit */
    hd_status failed; /* HD_OK while every append succeeded */
} hd_buf;             /* a zeroed one is empty and ready */

void hd_buf_append(hd_buf *buf, const void *data, size_t n);
void hd_buf_append_text(hd_buf *buf, const char *text);
void hd_buf_append_char(hd_buf *buf, char c);
void hd_buf_printf(hd_buf *buf, const char *format, ...) HD_PRINTF(2, 3);
void hd_buf_vprintf(hd_buf *buf, const char *format, va_list args) HD_PRINTF(2, 0);

/* Room for n more bytes, to be written by the caller, who then adds to buf->n; NULL on failure. */
char *hd_buf_reserve(hd_buf *buf, size_t n);

void hd_buf_clear(hd_buf *buf); /* length 0, memory kept, failure forgotten */
void hd_buf_free(hd_buf *buf);

/* HD_OK, or what went wrong: HD_E_NOMEM, or HD_E_INVALID past the limit. */
hd_status hd_buf_check(const hd_buf *buf, hd_err *err) HD_CHECK_RESULT;

/* The text so far, "" when there is none. */
const char *hd_buf_text(const hd_buf *buf);

/* Hands the memory over (free with hd_free): NULL when the buffer is empty. */
char *hd_buf_take(hd_buf *buf);

#endif
