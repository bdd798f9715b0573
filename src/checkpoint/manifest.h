/* manifest.json: what a checkpoint consists of, with the checksums that prove it.
 *
 *   {
 *     "format": "hadal-checkpoint", "version": 1, "step": 250, "hadal": "...", "created": "2026-01-31T12:00:00Z",
 *     "config_digest": "...", "layout": {"ranks": 1},
 *     "state": {"iterator.position": {"i64": [4096]}, "spike.mean": {"f64": ["3ff0000000000000"]}, "data.name": {"text": "..."}},
 *     "files": [{"name": "config.json", "bytes": 1234, "digest": "...", "crc32c": "0123abcd89ef..."}, ...],
 *     "sha256": "..."
 *   }
 *
 * f64 values are the 16 hexadecimal digits of their bits.  crc32c: 8 digits for each block of 1 MiB, the last one shorter.  digest:
 * SHA-256 over the bytes of those checksums (little-endian) and of the size (8 bytes).  The last member, sha256, covers every
 * byte of the manifest before its own value, so a flipped bit anywhere in the manifest is found before any of it is believed. */
#ifndef HD_CHECKPOINT_MANIFEST_H
#define HD_CHECKPOINT_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "hadal/status.h"

#define HD_MANIFEST_NAME "manifest.json"

enum {
    HD_MANIFEST_VERSION = 1,
    HD_MANIFEST_MAX = 32 << 20, /* bytes: the blocks of 4 TiB */
    HD_MANIFEST_MAX_FILES = 1 << 16,
    HD_MANIFEST_MAX_VALUES = 1 << 12
};

typedef struct hd_manifest_file {
    char *name; /* "config.json", "optimizer/optimizer.safetensors" */
    int64_t bytes;
    uint32_t *crc; /* hd_block_count(bytes) of them; NULL when the file is empty */
} hd_manifest_file;

typedef struct hd_manifest_value {
    char *name;
    hd_ckpt_kind kind; /* not HD_CKPT_TENSOR */
    int64_t n;         /* elements; of a text, its bytes with the NUL */
    int64_t *i64;
    double *f64;
    char *text;
} hd_manifest_value;

typedef struct hd_manifest {
    int64_t step;
    char config_digest[65], version[32], created[32];
    hd_manifest_file *files;
    int64_t n_file, file_capacity;
    hd_manifest_value *values;
    int64_t n_value, value_capacity;
} hd_manifest; /* a zeroed one is empty */

void hd_manifest_free(hd_manifest *m); /* accepts a zeroed one */

/* Add a row.  A file's checksums are zero until the caller fills them; a value is copied. */
hd_status hd_manifest_add_file(hd_manifest *m, const char *name, int64_t bytes, hd_err *err) HD_CHECK_RESULT;
hd_status hd_manifest_add_value(hd_manifest *m, const hd_ckpt_value *value, hd_err *err) HD_CHECK_RESULT;

const hd_manifest_file *hd_manifest_find_file(const hd_manifest *m, const char *name); /* NULL: none */
const hd_manifest_value *hd_manifest_find_value(const hd_manifest *m, const char *name);

void hd_manifest_write(const hd_manifest *m, hd_buf *out);

/* `path` is for messages.  HD_E_CORRUPT when the text is not a whole, undamaged manifest; HD_E_UNSUPPORTED for another version.
 * *m is empty after a failure. */
hd_status hd_manifest_parse(const char *text, size_t n, const char *path, hd_manifest *m, hd_err *err) HD_CHECK_RESULT;

/* Bytes of a manifest, estimated from above without checksums at hand. */
int64_t hd_manifest_estimate(const hd_manifest *m);

#endif
