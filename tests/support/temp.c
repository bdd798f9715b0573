/* See temp.h. */
#include "support/temp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/io.h"

int hd_temp_setup(void **state)
{
    char template[4096];
    const char *root = getenv("TMPDIR");
    snprintf(template, sizeof template, "%s/hadal-test.XXXXXX", root != NULL ? root : "/tmp");
    if (mkdtemp(template) == NULL) { return -1; }
    *state = strdup(template);
    return *state == NULL ? -1 : 0;
}

int hd_temp_teardown(void **state)
{
    hd_err err;
    hd_fault_disarm(); /* a failed test may have left one armed */
    hd_status st = hd_io_remove_tree(*state, &err);
    if (st != HD_OK) { fprintf(stderr, "%s\n", err.msg); }
    free(*state);
    return st == HD_OK ? 0 : -1;
}

const char *hd_temp_path(const char *directory, const char *name)
{
    static char paths[4][4096];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}
