/* A golden file: it is refused by name, line and column, or read to its end. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/utf8.h"
#include "eval/golden.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static hd_status read_record(hd_golden *g, const hd_golden_record *r, hd_err *err)
{
    assert(r->n_token > 0 && hd_utf8_validate(r->prompt, strlen(r->prompt), NULL));
    assert(r->experts.n_layer == 0 || r->experts.n_token == r->n_token);
    for (int64_t t = 0; t < r->n_token; t++) {
        const float *row;
        int64_t n;
        hd_status st = hd_golden_row(g, &row, &n, err);
        if (st != HD_OK) { return st; }
        for (int64_t i = 0; i < n; i++) { assert(row[i] - row[i] == 0.0f); } /* finite */
    }
    return HD_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    hd_err err = {0};
    hd_golden *g = NULL;
    const hd_golden_record *r;
    int fd = memfd_create("golden", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) { return 0; }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    hd_status st = hd_golden_open(path, &g, &err);
    assert(st == HD_OK);
    do {
        st = hd_golden_next(g, &r, &err);
        if (st == HD_OK && r != NULL) { st = read_record(g, r, &err); }
    } while (st == HD_OK && r != NULL);
    assert(st == HD_OK || (st == HD_E_CORRUPT && strstr(err.msg, path) != NULL && strstr(err.msg, ": line ") != NULL));
    hd_golden_close(g);
    close(fd);
    return 0;
}
