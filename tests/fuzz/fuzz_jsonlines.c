/* A file of JSON lines, plain, gzip or zstd by the first byte: it is refused by name and line, or its texts are taken in order. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/utf8.h"
#include "data/json_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static hd_status take(void *context, const char *text, size_t n, hd_err *err)
{
    size_t *total = context;
    (void)err;
    assert(hd_utf8_validate(text, n, NULL));
    *total += n;
    return HD_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    size_t total = 0;
    hd_err err = {0};
    if (size == 0) { return 0; }
    int fd = memfd_create("lines", 0);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1)) { return 0; }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    hd_status st = hd_json_lines_read(path, (hd_codec)(data[0] % 3), "text", take, &total, &err);
    assert(st == HD_OK || st == HD_E_CORRUPT);
    assert(st == HD_OK || strstr(err.msg, path) != NULL);
    close(fd);
    return 0;
}
