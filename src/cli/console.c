/* A person at a terminal: lines for a chat, and text of a model, which must not drive the terminal.  The terminal stays in its own mode, in which it edits lines by itself, so that there is
 * nothing to put back when the program ends, whichever way. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* A signal may arrive just before the wait begins, or wake another thread: then this long passes before it is seen. */
enum { WAIT_MS = 200 };

static struct {
    char *line;
    size_t n, capacity;
} console;

bool hd_cli_is_console(void)
{
    return isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
}

/* Bytes at the start of text that a terminal would take for a command: a control character other than tab and line feed. */
static size_t count_control(const char *text, size_t n)
{
    unsigned char c = (unsigned char)text[0];
    if (c < 0x20 || c == 0x7F) { return c != '\t' && c != '\n'; }
    return c == 0xC2 && n > 1 && (unsigned char)text[1] < 0xA0 ? 2 : 0;
}

void hd_cli_write_plain(void *context, const char *data, size_t n)
{
    size_t begin = 0;
    for (size_t at = 0, control; at < n; at += control > 0 ? control : 1) {
        control = count_control(data + at, n - at);
        if (control == 0) { continue; }
        hd_cli_write(context, data + begin, at - begin);
        hd_cli_write(context, "\xEF\xBF\xBD", 3);
        begin = at + control;
    }
    hd_cli_write(context, data + begin, n - begin);
}

static bool has_signal(void)
{
    return *hd_cli_stop_signal() != 0 || *hd_cli_interrupt() != 0;
}

/* Appends what the terminal has; true: something came.  0 bytes are Ctrl-D. */
static bool read_some(ssize_t *got)
{
    if (console.capacity - console.n < 4096) {
        char *grown = realloc(console.line, console.capacity + (1 << 16));
        if (grown == NULL) {
            *got = 0;
            return true;
        }
        console.line = grown;
        console.capacity += 1 << 16;
    }
    struct pollfd wanted = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&wanted, 1, WAIT_MS) <= 0) { return false; }
    *got = read(STDIN_FILENO, console.line + console.n, console.capacity - console.n);
    return !(*got < 0 && errno == EINTR);
}

hd_line_end hd_cli_read_line(void *context, const char *prompt, const char **line, size_t *n)
{
    ssize_t got;
    (void)context;
    hd_cli_write(NULL, prompt, strlen(prompt));
    for (console.n = 0;;) {
        if (has_signal()) {
            hd_cli_write(NULL, "\n", 1);
            return *hd_cli_stop_signal() != 0 ? HD_LINE_CLOSED : HD_LINE_INTERRUPTED;
        }
        if (!read_some(&got)) { continue; }
        if (got <= 0) { break; }
        console.n += (size_t)got;
        if (console.line[console.n - 1] == '\n') {
            *line = console.line;
            *n = console.n - 1;
            return HD_LINE_WHOLE;
        }
    }
    hd_cli_write(NULL, "\n", 1);
    return HD_LINE_CLOSED;
}
