/* Directory and file names of checkpoints: made and recognised in one place.  See names.h. */
#include "checkpoint/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { STEP_DIGITS = 18, RANDOM_DIGITS = 16, FILE_NAME_MAX = 200 };

static const char partial_mark[] = ".tmp.";

static size_t digits_at(const char *text)
{
    size_t n = 0;
    while (text[n] >= '0' && text[n] <= '9') { n++; }
    return n;
}

/* The step number at the head of a name; returns its length, 0 when there is none. */
static size_t parse_step(const char *name, int64_t *step)
{
    size_t n = digits_at(name);
    int64_t value = 0;
    if (n == 0 || n > STEP_DIGITS || (n > 1 && name[0] == '0')) { return 0; }
    for (size_t i = 0; i < n; i++) { value = value * 10 + (name[i] - '0'); } /* 18 digits fit */
    *step = value;
    return n;
}

bool hd_step_name_parse(const char *name, int64_t *step)
{
    int64_t value;
    size_t n = parse_step(name, &value);
    if (n == 0 || name[n] != '\0') { return false; }
    *step = value;
    return true;
}

bool hd_partial_name_parse(const char *name, int64_t *step)
{
    int64_t value;
    size_t n = parse_step(name, &value), mark = sizeof partial_mark - 1;
    if (n == 0 || strncmp(name + n, partial_mark, mark) != 0) { return false; }
    const char *random = name + n + mark;
    if (strspn(random, "0123456789abcdef") != RANDOM_DIGITS || random[RANDOM_DIGITS] != '\0') { return false; }
    *step = value;
    return true;
}

void hd_step_name(int64_t step, char name[HD_STEP_NAME_MAX])
{
    (void)snprintf(name, HD_STEP_NAME_MAX, "%" PRId64, step);
}

void hd_partial_name(int64_t step, uint64_t random, char name[HD_STEP_NAME_MAX])
{
    (void)snprintf(name, HD_STEP_NAME_MAX, "%" PRId64 "%s%016" PRIx64, step, partial_mark, random);
}

bool hd_plain_file_name(const char *name, size_t len, bool allow_folder)
{
    int folders = 0;
    if (len == 0 || len > FILE_NAME_MAX) { return false; }
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)name[i];
        bool first = i == 0 || name[i - 1] == '/';
        if (c < 0x20 || c >= 0x7F || c == '\\' || c == ':' || (first && (c == '.' || c == '/'))) { return false; }
        folders += c == '/';
    }
    return name[len - 1] != '/' && folders <= (allow_folder ? 1 : 0);
}
