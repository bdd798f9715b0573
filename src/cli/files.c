/* Where the program's own files lie. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

enum { PATH_CAPACITY = 4096 };

const char *hd_cli_configs_dir(void)
{
    static const char *const places[] = {"../../configs", "../share/hadal/configs"};
    static char found[PATH_CAPACITY + 64];
    char program[PATH_CAPACITY];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0) { return NULL; }
    program[n] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char probe[sizeof found + 16];
        (void)snprintf(found, sizeof found, "%s/%s", program, places[i]);
        (void)snprintf(probe, sizeof probe, "%s/base.yml", found);
        if (access(probe, R_OK) == 0) { return found; }
    }
    return NULL;
}

hd_status hd_cli_read_stdin(char **data, size_t *n, hd_err *err)
{
    size_t capacity = 1 << 16, got;
    char *text = malloc(capacity);
    *n = 0;
    while (text != NULL && (got = fread(text + *n, 1, capacity - 1 - *n, stdin)) > 0) {
        *n += got;
        if (capacity - 1 > *n) { continue; }
        char *grown = realloc(text, capacity *= 2);
        if (grown == NULL) { free(text); }
        text = grown;
    }
    if (text == NULL) { return HD_FAIL(err, HD_E_NOMEM, "no memory for the standard input"); }
    if (ferror(stdin)) {
        free(text);
        return HD_FAIL(err, HD_E_IO, "reading the standard input failed");
    }
    text[*n] = '\0';
    *data = text;
    return HD_OK;
}
