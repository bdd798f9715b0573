/* Lines of the library on their way to people and scripts: answers to stdout, everything else to stderr, and one progress
 * line that replaces itself on a terminal.  Each line is flushed: a pipe's reader sees steps as they happen.
 *
 * The library calls the sink under its own lock, and the program prints before and after the library runs, so the state
 * below needs no lock. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "hadal/init.h"
#include "hadal/log.h"

static struct {
    bool colour;     /* stderr takes colour */
    bool rewrites;   /* stderr is a terminal that understands a carriage return and "erase to end of line" */
    bool json;
    bool drawn;      /* a progress line stands at the cursor */
    char progress[512];
    double drawn_at_s;
    int lost_errno;  /* of the first failed write to stdout */
} terminal;

static const char reset[] = "\033[0m", red[] = "\033[31;1m", yellow[] = "\033[33;1m", erase_line[] = "\r\033[K";
static const double redraw_interval_s = 0.08;

static double now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) { return 80; }
    return size.ws_col;
}

static void take_progress_away(void)
{
    if (!terminal.drawn) { return; }
    (void)fputs(erase_line, stderr);
    (void)fflush(stderr);
    terminal.drawn = false;
}

/* The last column stays free: writing it would wrap the line on some terminals.  Progress lines are ASCII. */
static void draw_progress(void)
{
    size_t n = strlen(terminal.progress), room = terminal_width() - 1;
    if (n > room) { n = room; }
    (void)fprintf(stderr, "%s%.*s", erase_line, (int)n, terminal.progress);
    (void)fflush(stderr);
    terminal.drawn = true;
    terminal.drawn_at_s = now_s();
}

static void put_line(FILE *stream, const char *colour, const char *prefix, const char *text)
{
    bool painted = colour != NULL && terminal.colour && stream == stderr && prefix[0] != '\0';
    if (stream == stdout && terminal.lost_errno != 0) { return; }
    (void)fprintf(stream, "%s%s%s%s\n", painted ? colour : "", prefix, painted ? reset : "", text);
    if (fflush(stream) != 0 && stream == stdout) { terminal.lost_errno = errno; }
}

static void put_json(FILE *stream, const char *level, const char *text)
{
    (void)fprintf(stream, "{\"level\": \"%s\", \"message\": \"", level);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            (void)fprintf(stream, "\\%c", *c);
        } else if ((unsigned char)*c < 0x20) {
            (void)fprintf(stream, "\\u%04x", (unsigned char)*c);
        } else {
            (void)fputc(*c, stream);
        }
    }
    put_line(stream, NULL, "", "\"}");
}

/* In JSON mode a result that is an object already (a step's record) stands as it is. */
static void put(hd_log_level level, const char *text)
{
    FILE *stream = level == HD_LOG_RESULT ? stdout : stderr;
    bool warning = level == HD_LOG_WARN;
    if (terminal.json && !(level == HD_LOG_RESULT && text[0] == '{')) {
        put_json(stream, warning ? "warning" : level == HD_LOG_RESULT ? "result" : "info", text);
    } else {
        put_line(stream, yellow, warning ? "warning: " : "", text);
    }
}

static void sink(void *context, hd_log_level level, const char *text)
{
    (void)context;
    if (level == HD_LOG_PROGRESS) {
        if (!terminal.rewrites) { return; }
        (void)snprintf(terminal.progress, sizeof terminal.progress, "%s", text);
        if (text[0] == '\0') {
            take_progress_away();
        } else if (!terminal.drawn || now_s() - terminal.drawn_at_s >= redraw_interval_s) {
            draw_progress();
        }
        return;
    }
    bool was_drawn = terminal.drawn;
    take_progress_away();
    put(level, text);
    if (was_drawn) { draw_progress(); }
}

void hd_cli_terminal_open(void)
{
    const char *term = hd_environment("TERM");
    bool capable = isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0;
    terminal.rewrites = capable;
    terminal.colour = capable && hd_environment("NO_COLOR") == NULL;
    hd_log_set_sink(sink, NULL);
}

int hd_cli_terminal_progress(void)
{
    if (!terminal.rewrites) { return 0; }
    return isatty(STDOUT_FILENO) ? 2 : 1;
}

void hd_cli_terminal_set_progress(bool on)
{
    terminal.rewrites = on;
}

void hd_cli_terminal_set_json(bool on)
{
    terminal.json = on;
}

void hd_cli_terminal_failure(const hd_err *err)
{
    const char *hint = hd_cli_hint(err);
    take_progress_away();
    if (terminal.json) {
        put_json(stderr, "error", err->msg);
    } else {
        put_line(stderr, red, "hadal: ", err->msg);
        if (hint != NULL) { put_line(stderr, NULL, "", hint); }
    }
}

/* A reader that had enough (EPIPE: `hadal help | head`) is no failure. */
bool hd_cli_terminal_close(void)
{
    take_progress_away();
    if (fflush(stdout) != 0 && terminal.lost_errno == 0) { terminal.lost_errno = errno; }
    if (terminal.lost_errno == 0 || terminal.lost_errno == EPIPE) { return true; }
    (void)fprintf(stderr, "hadal: writing to standard output: %s\n", strerror(terminal.lost_errno));
    return false;
}

void hd_cli_print_line(void *context, const char *line)
{
    (void)context;
    put_line(stdout, NULL, "", line);
}

void hd_cli_write(void *context, const char *data, size_t n)
{
    (void)context;
    if (terminal.lost_errno != 0) { return; }
    if (fwrite(data, 1, n, stdout) != n || fflush(stdout) != 0) { terminal.lost_errno = errno; }
}
