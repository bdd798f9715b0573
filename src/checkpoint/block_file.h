/* A file of a checkpoint that is read in ranges, each 1 MiB block checked against its CRC-32C before a byte of it is used.
 * Without checksums (a HuggingFace folder) ranges are read as they are. */
#ifndef HD_CHECKPOINT_BLOCK_FILE_H
#define HD_CHECKPOINT_BLOCK_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/io.h"
#include "hadal/status.h"

#define HD_BLOCK_BYTES ((int64_t)1 << 20)

/* The block that was read last, shared by all files of a folder: neighbouring small ranges are read from disk once. */
typedef struct hd_block_cache {
    unsigned char *data;    /* HD_BLOCK_BYTES */
    const void *owner;      /* the hd_block_file it is of; NULL: empty */
    int64_t block;
} hd_block_cache;

hd_status hd_block_cache_open(hd_block_cache *cache, hd_err *err) HD_CHECK_RESULT;
void hd_block_cache_close(hd_block_cache *cache); /* accepts a zeroed one */

typedef struct hd_block_file {
    hd_file *file;
    const unsigned char *memory; /* instead of file: bytes in memory, for tests and fuzzing */
    const char *path;            /* for messages; owned by file, or static */
    int64_t bytes;
    const uint32_t *crc;         /* of each block, or NULL; the caller's, outlives this */
    unsigned char *seen;         /* one bit per block: verified at least once */
    hd_block_cache *cache;       /* needed with crc */
} hd_block_file;

/* Takes ownership of file, in every case.  With crc, `bytes` is the size it was recorded with: another size is HD_E_CORRUPT. */
hd_status hd_block_file_open(hd_file *file, const uint32_t *crc, int64_t bytes, hd_block_cache *cache, hd_block_file *out,
                             hd_err *err) HD_CHECK_RESULT;
void hd_block_file_of_memory(const void *data, size_t n, hd_block_file *out);
void hd_block_file_close(hd_block_file *f); /* accepts a zeroed one */

/* [offset, offset + n), which must lie inside the file.  HD_E_CORRUPT names the file and the block that is damaged. */
hd_status hd_block_file_read(hd_block_file *f, int64_t offset, size_t n, void *out, hd_err *err) HD_CHECK_RESULT;

/* Compares one block that is in memory, `data` its first byte, with its checksum; HD_OK without checksums.  From any thread. */
hd_status hd_block_file_check(const hd_block_file *f, int64_t block, const void *data, hd_err *err) HD_CHECK_RESULT;

/* Verifies the blocks that no read has touched. */
hd_status hd_block_file_verify_rest(hd_block_file *f, hd_err *err) HD_CHECK_RESULT;

static inline int64_t hd_block_count(int64_t bytes) { return bytes / HD_BLOCK_BYTES + (bytes % HD_BLOCK_BYTES != 0); }

#endif
