/* Where the program's own files lie. */
#include <stdio.h>
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
