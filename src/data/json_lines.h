/* JSON lines: one object per line, of which one text column matters. */
#ifndef HD_DATA_JSON_LINES_H
#define HD_DATA_JSON_LINES_H

#include <stddef.h>

#include "data/text_source.h"

/* Calls take(context, text, n) with the column's text of every line, in order; blank lines are passed over.  A line of more than
 * 64 MiB, one that is not an object, or one without a text value in the column is HD_E_CORRUPT, naming path and line. */
typedef hd_status (*hd_json_lines_take)(void *context, const char *text, size_t n, hd_err *err);
hd_status hd_json_lines_read(const char *path, hd_codec codec, const char *column, hd_json_lines_take take, void *context,
                             hd_err *err) HD_CHECK_RESULT;

#endif
