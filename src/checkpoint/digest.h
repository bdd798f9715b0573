/* Digests of a model's values, the same whatever files hold them, and the small file that certifies a folder.
 *
 *   tensor   SHA-256 over "hadal-tensor-1\n", name NUL, dtype NUL, rank (1 byte), lengths (8 bytes each, little-endian), then the SHA-256 of
 *            each block of HD_DIGEST_BLOCK bytes of its values
 *   model    SHA-256 over "hadal-model-1\n", then for each tensor by name: name NUL, its digest
 *
 * A tensor is what hd_listing lists: experts of fused tensors one by one, block scales under their own name, no optimizer state. */
#ifndef HD_CHECKPOINT_DIGEST_H
#define HD_CHECKPOINT_DIGEST_H

#include <stdint.h>

#include "base/buf.h"
#include "base/sha256.h"
#include "checkpoint/listing.h"
#include "hadal/status.h"

#define HD_DIGEST_BLOCK ((int64_t)4 << 20)
enum { HD_DIGEST_MARK = 8 }; /* hexadecimal digits of a block's digest that the file keeps, to find the damage */

typedef struct hd_digest {
    char *name;
    hd_dtype dtype;
    int n_dim;
    int64_t shape[HD_ST_MAX_DIMS];
    unsigned char sha256[HD_SHA256_BYTES];
    char *marks; /* HD_DIGEST_MARK digits per block, NUL-terminated */
} hd_digest;

typedef struct hd_digests {
    hd_digest *rows; /* by name, strcmp order */
    int64_t n, capacity;
    char model[HD_SHA256_HEX];
    int64_t bytes;
} hd_digests;

typedef struct hd_digest_hook {
    hd_status (*call)(void *arg, int64_t bytes, int64_t total, hd_err *err); /* after each stretch; may be NULL */
    void *arg;
} hd_digest_hook;

/* Reads every value of a folder, n_threads at the digests.  Free with hd_digests_free also after a failure. */
hd_status hd_digests_make(hd_folder *folder, int n_threads, hd_digest_hook hook, hd_digests *out, hd_err *err) HD_CHECK_RESULT;
void hd_digests_free(hd_digests *d); /* accepts a zeroed one */

/* The file: JSON, a line per tensor. */
void hd_digests_write(const hd_digests *d, hd_buf *out);

/* HD_E_CORRUPT: not such a file, or one whose model digest does not fit its tensors. */
hd_status hd_digests_parse(const char *text, size_t n, const char *name, hd_digests *out, hd_err *err) HD_CHECK_RESULT;

#endif
