/* The tokens of a tokenizer: bytes by id, and id by bytes. */
#ifndef HD_TOKENIZER_VOCAB_H
#define HD_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "hadal/status.h"

enum {
    HD_TOKEN_PRESENT = 1,
    HD_TOKEN_RAW = 2,    /* not written in the byte alphabet: found by its own text, and never by the BPE */
    HD_TOKEN_ADDED = 4,  /* looked for in raw text */
    HD_TOKEN_SPECIAL = 8 /* skipped by HD_DECODE_SKIP_SPECIAL */
};

typedef struct hd_token {
    uint32_t offset, n; /* in the pool */
    uint32_t flags;
} hd_token;

typedef struct hd_vocab {
    hd_buf pool;
    hd_token *token; /* by id; an id may have none (flags 0) */
    size_t n_token, capacity;
    size_t n_present;
    size_t limit;   /* ids must be below */
    uint64_t *slot; /* open addressing: the upper half of the hash, then id + 1; 0 empty */
    size_t n_slot;  /* a power of two */
    uint64_t seed;  /* a file cannot be made that collides on purpose */
} hd_vocab;

/* limit: ids must be below; keeps a small file from asking for a large table. */
void hd_vocab_init(hd_vocab *vocab, size_t limit);
void hd_vocab_free(hd_vocab *vocab);

/* Adds a token as tokenizer.json writes it: in the byte alphabet where every character is of it.  An id twice is HD_E_CORRUPT. */
hd_status hd_vocab_add(hd_vocab *vocab, const char *text, size_t n, int64_t id, hd_err *err) HD_CHECK_RESULT;

/* Adds a token of raw text under an id that is free, after hd_vocab_index too: then the text must be new. */
hd_status hd_vocab_add_raw(hd_vocab *vocab, const char *text, size_t n, int64_t id, hd_err *err) HD_CHECK_RESULT;

/* Makes the table from bytes to ids of what is there; a text under two ids is HD_E_CORRUPT.  Needed before any find. */
hd_status hd_vocab_index(hd_vocab *vocab, hd_err *err) HD_CHECK_RESULT;

int32_t hd_vocab_find_bytes(const hd_vocab *vocab, const char *bytes, size_t n, bool raw); /* -1: none */
int32_t hd_vocab_find_text(const hd_vocab *vocab, const char *text, size_t n);             /* as tokenizer.json writes it */

/* A hash of bytes, seeded by the vocabulary. */
uint64_t hd_vocab_hash(const hd_vocab *vocab, const char *bytes, size_t n, bool raw);

/* Decodes a text of the byte alphabet into out (room for n bytes): its length, or SIZE_MAX when a character is not of it. */
size_t hd_vocab_decode_symbols(const char *text, size_t n, char *out);

#endif
