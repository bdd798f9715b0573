/* Hands formatted lines to the installed sink, one at a time.  See include/hadal/log.h. */
#include "hadal/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/alloc.h"

/* A hook table: written by hd_log_set_sink before anything else runs, then read under the lock. */
static struct {
    pthread_mutex_t lock;
    hd_log_sink sink;
    void *context;
} hook = {.lock = PTHREAD_MUTEX_INITIALIZER};

void hd_log_set_sink(hd_log_sink sink, void *context)
{
    pthread_mutex_lock(&hook.lock);
    hook.sink = sink;
    hook.context = context;
    pthread_mutex_unlock(&hook.lock);
}

static void emit(hd_log_level level, const char *text)
{
    pthread_mutex_lock(&hook.lock);
    if (hook.sink != NULL) { hook.sink(hook.context, level, text); }
    pthread_mutex_unlock(&hook.lock);
}

void hd_log(hd_log_level level, const char *format, ...)
{
    char line[1024];
    void *longer = NULL;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length < 0) { return; }
    /* A long line gets memory of its own; when there is none the reader gets the first kilobyte. */
    if ((size_t)length >= sizeof line && hd_alloc((size_t)length + 1, 1, "log line", &longer, NULL) == HD_OK) {
        va_start(args, format);
        (void)vsnprintf(longer, (size_t)length + 1, format, args);
        va_end(args);
    }
    emit(level, longer != NULL ? longer : line);
    hd_free(longer);
}
