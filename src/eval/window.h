/* A file of JSON lines seen through a window: lines may be larger than memory.  Knows where it stands, for messages. */
#ifndef HD_EVAL_WINDOW_H
#define HD_EVAL_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/io.h"
#include "hadal/status.h"

enum { HD_WINDOW_LOOK = 1024 }; /* bytes that can be looked at ahead */

/* The fields are the window's own, but for text and at, which a caller may read: hd_window_look has made sure that
 * text[at .. at + HD_WINDOW_LOOK) is there, with a NUL behind the end of the file. */
typedef struct hd_window {
    hd_file *file;
    int64_t bytes; /* of the file */
    char *text;
    size_t at, end;      /* unread bytes are [at, end) of text */
    int64_t offset;      /* of text[0] in the file */
    int64_t line;        /* number of the line, from 1 */
    int64_t line_offset; /* where it begins in the file */
} hd_window;

hd_status hd_window_open(const char *path, hd_window *w, hd_err *err) HD_CHECK_RESULT;
void hd_window_close(hd_window *w); /* accepts a zeroed one */

/* Makes the next bytes visible.  After it, *w->text at `at` is the next byte, or NUL at the end of the file. */
hd_status hd_window_look(hd_window *w, hd_err *err) HD_CHECK_RESULT;

/* The next byte that is no blank (space, tab, carriage return); it is not taken.  '\0' at the end of the file. */
hd_status hd_window_next(hd_window *w, char *c, hd_err *err) HD_CHECK_RESULT;

/* Takes the next byte that is no blank, which must be `wanted`. */
hd_status hd_window_take(hd_window *w, char wanted, hd_err *err) HD_CHECK_RESULT;

/* Takes blanks and line ends; *more tells whether anything stands behind them. */
hd_status hd_window_next_line(hd_window *w, bool *more, hd_err *err) HD_CHECK_RESULT;

/* Passes over bytes up to the next `wanted`, which is taken.  A line that ends before is HD_E_CORRUPT. */
hd_status hd_window_skip_past(hd_window *w, char wanted, hd_err *err) HD_CHECK_RESULT;

/* Takes a JSON value of at most `limit` bytes as it stands, without judging more than where it ends. */
hd_status hd_window_value(hd_window *w, size_t limit, hd_buf *out, hd_err *err) HD_CHECK_RESULT;

/* A place to come back to. */
typedef struct hd_window_place {
    int64_t offset, line, line_offset;
} hd_window_place;
hd_window_place hd_window_here(const hd_window *w);
void hd_window_go(hd_window *w, hd_window_place place);

int64_t hd_window_column(const hd_window *w); /* of the next byte, from 1 */

/* HD_E_CORRUPT: "FILE: line 3, column 17: " and the sentence. */
hd_status hd_window_fail(const hd_window *w, hd_err *err, const char *format, ...) HD_PRINTF(3, 4);

#endif
