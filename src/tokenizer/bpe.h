/* Byte pair encoding of one pre-token: its bytes become symbols, and the adjacent pair of lowest rank (of equal ones the leftmost) is
 * merged until no pair has a rank. */
#ifndef HD_TOKENIZER_BPE_H
#define HD_TOKENIZER_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"
#include "tokenizer/tokenizer.h"

#define HD_NO_RANK UINT32_MAX

typedef struct hd_merge {
    uint32_t left, right;
    uint32_t rank; /* HD_NO_RANK: a free slot */
    uint32_t id;   /* of the merged token */
} hd_merge;

typedef struct hd_bpe {
    hd_merge *slot;   /* open addressing by (left, right) */
    size_t n_slot;    /* a power of two */
    uint64_t *filter; /* 8 bits for each slot, few of them set: most pairs have no merge, and this fits a core's own cache */
    uint32_t n_merge;
    uint64_t seed;
    int32_t byte_id[256]; /* the symbol of a byte; -1: the vocabulary has none and the byte is dropped, as the reference does */
} hd_bpe;

/* Room for n merges. */
hd_status hd_bpe_open(hd_bpe *bpe, size_t n_merge, uint64_t seed, hd_err *err) HD_CHECK_RESULT;
void hd_bpe_close(hd_bpe *bpe); /* accepts a zeroed one */

/* The next merge in order of rank.  Of two merges of one pair the later counts, as in the reference. */
void hd_bpe_add(hd_bpe *bpe, uint32_t left, uint32_t right, uint32_t id);

/* What encoding with one hd_bpe needs beside the result; grows to the longest piece seen.  A zeroed one is ready. */
typedef struct hd_bpe_work {
    void *memory; /* the list of a long piece (bpe_long.c) */
    size_t bytes;
    void *bucket; /* of the ranks, and their heap */
} hd_bpe_work;
void hd_bpe_work_free(hd_bpe_work *work);

/* Appends the ids of one piece of n > 0 bytes. */
hd_status hd_bpe_encode(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err) HD_CHECK_RESULT;

/* The same for a piece of any length, in time n log n (bpe_long.c); hd_bpe_encode calls it for long ones. */
hd_status hd_bpe_encode_long(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err) HD_CHECK_RESULT;

static inline uint64_t hd_bpe_hash(const hd_bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t h = (((uint64_t)left << 32 | right) ^ bpe->seed) * UINT64_C(0x9E3779B97F4A7C15);
    return (h ^ h >> 32) * UINT64_C(0xD6E8FEB86659FD93);
}

/* The slot of a pair, or the free one where it would go. */
static inline size_t hd_bpe_slot_of(const hd_bpe *bpe, uint64_t hash, uint32_t left, uint32_t right)
{
    size_t s = (size_t)(hash >> 20) & (bpe->n_slot - 1);
    while (bpe->slot[s].rank != HD_NO_RANK && (bpe->slot[s].left != left || bpe->slot[s].right != right)) { s = (s + 1) & (bpe->n_slot - 1); }
    return s;
}

/* The bit of the filter: its word and its place in that. */
static inline uint64_t *hd_bpe_filter_word(const hd_bpe *bpe, uint64_t hash)
{
    return &bpe->filter[(hash >> 26) & (bpe->n_slot / 8 - 1)];
}

/* The merge of a pair as rank << 32 | id; HD_NO_MERGE where there is none. */
#define HD_NO_MERGE UINT64_MAX
static inline uint64_t hd_bpe_find(const hd_bpe *bpe, uint32_t left, uint32_t right)
{
    uint64_t hash = hd_bpe_hash(bpe, left, right);
    if ((*hd_bpe_filter_word(bpe, hash) >> (hash & 63) & 1) == 0) { return HD_NO_MERGE; }
    const hd_merge *merge = &bpe->slot[hd_bpe_slot_of(bpe, hash, left, right)];
    return (uint64_t)merge->rank << 32 | merge->id;
}

#endif
