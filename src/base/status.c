/* The error record: formatting, prefixing, names and exit codes.  See include/hadal/status.h. */
#include "hadal/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct {
    hd_status status;
    const char *name;
    int exit_code;
} statuses[] = {
    {HD_OK, "HD_OK", 0},
    {HD_E_INVALID, "HD_E_INVALID", 1},
    {HD_E_CONFIG, "HD_E_CONFIG", 2},
    {HD_E_UNSUPPORTED, "HD_E_UNSUPPORTED", 2},
    {HD_E_NOMEM, "HD_E_NOMEM", 1},
    {HD_E_IO, "HD_E_IO", 1},
    {HD_E_CORRUPT, "HD_E_CORRUPT", 1},
    {HD_E_NONFINITE, "HD_E_NONFINITE", 1},
    {HD_E_BUSY, "HD_E_BUSY", 1},
    {HD_E_VERIFY, "HD_E_VERIFY", 3},
    {HD_E_SIGNAL, "HD_E_SIGNAL", 128},
    {HD_E_PEER, "HD_E_PEER", 1},
};

/* A message cut by its buffer must not end inside a UTF-8 sequence. */
static void drop_cut_sequence(char *text, size_t length)
{
    size_t i = length;
    while (i > 0 && length - i < 4 && ((unsigned char)text[i - 1] & 0xC0u) == 0x80u) { i--; }
    if (i == 0) { return; }
    unsigned char lead = (unsigned char)text[i - 1];
    size_t want = lead < 0x80u ? 1 : lead >= 0xF0u ? 4 : lead >= 0xE0u ? 3 : lead >= 0xC0u ? 2 : 1;
    if (length - (i - 1) < want) { text[i - 1] = '\0'; }
}

/* Finishes a vsnprintf into a record-sized buffer. */
static void mend_cut(char *text, int wanted, size_t capacity)
{
    if (wanted < 0) {
        text[0] = '\0';
    } else if ((size_t)wanted >= capacity) {
        drop_cut_sequence(text, capacity - 1);
    }
}

hd_status hd_err_set(hd_err *err, hd_status code, const char *file, int line, const char *format, ...)
{
    if (err == NULL) { return code; }
    char text[sizeof err->msg]; /* arguments may point into the old message */
    va_list args;
    va_start(args, format);
    mend_cut(text, vsnprintf(text, sizeof text, format, args), sizeof text);
    va_end(args);
    err->code = code;
    err->signal = 0;
    err->file = file;
    err->line = line;
    memcpy(err->msg, text, strlen(text) + 1);
    return code;
}

hd_status hd_err_prefix(hd_err *err, const char *format, ...)
{
    if (err == NULL) { return HD_OK; }
    char text[sizeof err->msg];
    char joined[sizeof err->msg];
    va_list args;
    va_start(args, format);
    mend_cut(text, vsnprintf(text, sizeof text, format, args), sizeof text);
    va_end(args);
    mend_cut(joined, snprintf(joined, sizeof joined, "%s%s", text, err->msg), sizeof joined);
    memcpy(err->msg, joined, strlen(joined) + 1);
    return err->code;
}

const char *hd_status_name(hd_status status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        if (statuses[i].status == status) { return statuses[i].name; }
    }
    return "HD_E_?";
}

int hd_err_exit_code(const hd_err *err)
{
    if (err->code == HD_E_SIGNAL) { return 128 + err->signal; }
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        if (statuses[i].status == err->code) { return statuses[i].exit_code; }
    }
    return 1;
}
