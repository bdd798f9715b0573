/* The safetensors reader on arbitrary bytes: it reads nothing outside them, and what it accepts tiles the data and is found by
 * name. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hd_err err;
    hd_block_file file;
    hd_st_reader *reader = NULL;
    hd_block_file_of_memory(data, size, &file);
    if (hd_st_open(&file, &reader, &err) != HD_OK) {
        assert(reader == NULL && strstr(err.msg, "memory") != NULL);
        return 0;
    }
    int64_t at = -1;
    for (int64_t i = 0; i < hd_st_count(reader); i++) {
        unsigned char first[64];
        int64_t bytes;
        hd_st_info info = hd_st_get(reader, i);
        assert(at < 0 || info.offset == at);
        assert(hd_st_bytes(info.dtype, info.n_dim, info.shape, &bytes) && bytes == info.bytes);
        assert(hd_st_find(reader, info.name) == i);
        at = info.offset + info.bytes;
        hd_status st = hd_st_read(reader, i, 0, info.bytes < 64 ? (size_t)info.bytes : 64, first, &err);
        assert(st == HD_OK);
    }
    assert(at < 0 || at == (int64_t)size);
    hd_st_close(reader);
    return 0;
}
