/* Where the library's messages go.  libhadal never prints: it hands each line to the sink the program installed. */
#ifndef HADAL_LOG_H
#define HADAL_LOG_H

#include "hadal/status.h"

typedef enum hd_log_level {
    HD_LOG_RESULT,  /* what the user asked for: the sink of `hadal` writes it to stdout */
    HD_LOG_INFO,    /* progress and facts: stderr */
    HD_LOG_WARN,    /* something the user should know about: stderr, prefixed "warning: " */
    HD_LOG_PROGRESS /* a line that replaces the previous progress line on a terminal, dropped elsewhere */
} hd_log_level;

/* text has no trailing newline.  Called under a lock: one line at a time, from any thread. */
typedef void (*hd_log_sink)(void *context, hd_log_level level, const char *text);

/* Installs the sink (NULL: messages are dropped, the default).  Part of the hook tables; call before anything else. */
void hd_log_set_sink(hd_log_sink sink, void *context);

void hd_log(hd_log_level level, const char *format, ...) HD_PRINTF(2, 3);

#endif
