/* See sysinfo.h. */
#include "base/sysinfo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"

enum { MAX_PROC = 16 << 20 };

/* The text after "name" and its colon, up to the end of the line; NULL when there is no such line. */
static const char *find_field(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, n) != 0) { continue; }
        line += n + strspn(line + n, " \t");
        if (*line == ':') { return line + 1 + strspn(line + 1, " \t"); }
    }
    return NULL;
}

static hd_status kilobytes(const char *path, const char *text, const char *name, uint64_t *bytes, hd_err *err)
{
    const char *value = find_field(text, name);
    if (value == NULL) { return HD_FAIL(err, HD_E_IO, "%s: no line \"%s\"", path, name); }
    *bytes = strtoull(value, NULL, 10) * 1024;
    return HD_OK;
}

hd_status hd_sysinfo_rss(hd_rss *out, hd_err *err)
{
    static const char path[] = "/proc/self/status";
    char *text;
    size_t n;
    hd_status st;
    HD_TRY(hd_io_read_file(path, MAX_PROC, &text, &n, err));
    HD_TRY(kilobytes(path, text, "VmRSS", &out->now_bytes, err));
    HD_TRY(kilobytes(path, text, "VmHWM", &out->peak_bytes, err));
out:
    hd_free(text);
    return st;
}

hd_status hd_sysinfo_available_memory(uint64_t *bytes, hd_err *err)
{
    static const char path[] = "/proc/meminfo";
    char *text;
    size_t n;
    hd_status st;
    HD_TRY(hd_io_read_file(path, MAX_PROC, &text, &n, err));
    HD_TRY(kilobytes(path, text, "MemAvailable", bytes, err));
out:
    hd_free(text);
    return st;
}

void hd_sysinfo_cpu_name(char *out, size_t capacity)
{
    char *text;
    size_t n;
    (void)snprintf(out, capacity, "unknown");
    if (hd_io_read_file("/proc/cpuinfo", MAX_PROC, &text, &n, NULL) != HD_OK) { return; }
    const char *value = find_field(text, "model name");
    if (value != NULL) { (void)snprintf(out, capacity, "%.*s", (int)strcspn(value, "\n"), value); }
    hd_free(text);
}
