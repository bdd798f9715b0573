/* SHA-256: digests of files and of training state. */
#ifndef HD_BASE_SHA256_H
#define HD_BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HD_SHA256_BYTES = 32, HD_SHA256_HEX = 2 * HD_SHA256_BYTES + 1 };

typedef struct hd_sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    unsigned char block[64];
    bool x86; /* the machine has instructions for it */
} hd_sha256;

/* Asks the processor what it can, which may take 50 us in a virtual machine: who makes very many digests copies a fresh state. */
void hd_sha256_init(hd_sha256 *sha);
void hd_sha256_update(hd_sha256 *sha, const void *data, size_t n);
void hd_sha256_final(hd_sha256 *sha, unsigned char digest[HD_SHA256_BYTES]); /* sha is spent */

/* Lower-case hexadecimal, NUL-terminated. */
void hd_sha256_hex(const unsigned char digest[HD_SHA256_BYTES], char text[HD_SHA256_HEX]);

#endif
