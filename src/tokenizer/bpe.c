/* See bpe.h.  Here the table of merges and short pieces; long ones are bpe_long.c. */
#include "tokenizer/bpe.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

enum { SHORT = 64 /* up to here looking through all pairs for each merge is faster than a list */ };

hd_status hd_bpe_open(hd_bpe *bpe, size_t n_merge, uint64_t seed, hd_err *err)
{
    size_t n_slot = 64;
    while (n_slot < 2 * n_merge) { n_slot *= 2; }
    hd_status st = hd_alloc(n_slot, sizeof *bpe->slot, "merges", (void **)&bpe->slot, err);
    if (st != HD_OK) { return st; }
    bpe->n_slot = n_slot;
    bpe->n_merge = 0;
    bpe->seed = seed;
    for (size_t s = 0; s < n_slot; s++) { bpe->slot[s] = (hd_merge){.rank = HD_NO_RANK, .id = UINT32_MAX}; } /* HD_NO_MERGE */
    return hd_alloc(n_slot / 8, sizeof *bpe->filter, "filter of merges", (void **)&bpe->filter, err);
}

void hd_bpe_close(hd_bpe *bpe)
{
    hd_free(bpe->slot);
    hd_free(bpe->filter);
    bpe->slot = NULL;
    bpe->filter = NULL;
}

void hd_bpe_add(hd_bpe *bpe, uint32_t left, uint32_t right, uint32_t id)
{
    uint64_t hash = hd_bpe_hash(bpe, left, right);
    size_t s = hd_bpe_slot_of(bpe, hash, left, right);
    *hd_bpe_filter_word(bpe, hash) |= UINT64_C(1) << (hash & 63);
    bpe->slot[s] = (hd_merge){.left = left, .right = right, .rank = bpe->n_merge++, .id = id};
}

void hd_bpe_work_free(hd_bpe_work *work)
{
    hd_free(work->memory);
    hd_free(work->bucket);
    *work = (hd_bpe_work){0};
}

/* symbol[i] and symbol[i + 1] merge as merge[i] (hd_bpe_find) says. */
typedef struct short_piece {
    size_t n;
    uint64_t merge[SHORT];
    uint32_t symbol[SHORT];
} short_piece;

static void merge_at(const hd_bpe *bpe, short_piece *p, size_t i)
{
    size_t tail = p->n - i - 2; /* symbols behind the pair */
    p->symbol[i] = (uint32_t)p->merge[i];
    memmove(p->symbol + i + 1, p->symbol + i + 2, tail * sizeof p->symbol[0]);
    if (tail > 0) { memmove(p->merge + i + 1, p->merge + i + 2, (tail - 1) * sizeof p->merge[0]); }
    p->n--;
    if (i > 0) { p->merge[i - 1] = hd_bpe_find(bpe, p->symbol[i - 1], p->symbol[i]); }
    if (i + 1 < p->n) { p->merge[i] = hd_bpe_find(bpe, p->symbol[i], p->symbol[i + 1]); }
}

/* The first of the pairs with the lowest rank, without a branch that could not be foretold. */
static size_t lowest(const short_piece *p)
{
    uint64_t least = p->merge[0];
    size_t best = 0;
    for (size_t i = 1; i + 1 < p->n; i++) {
        bool less = p->merge[i] < least;
        least = less ? p->merge[i] : least;
        best = less ? i : best;
    }
    return best;
}

hd_status hd_bpe_encode(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err)
{
    short_piece p;
    if (n > SHORT) { return hd_bpe_encode_long(bpe, work, piece, n, ids, err); }
    p.n = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = bpe->byte_id[(unsigned char)piece[i]];
        if (id >= 0) { p.symbol[p.n++] = (uint32_t)id; }
    }
    for (size_t i = 0; i + 1 < p.n; i++) { p.merge[i] = hd_bpe_find(bpe, p.symbol[i], p.symbol[i + 1]); }
    while (p.n > 1) {
        size_t best = lowest(&p);
        if (p.merge[best] == HD_NO_MERGE) { break; }
        merge_at(bpe, &p, best);
    }
    return hd_ids_append(ids, (const int32_t *)p.symbol, p.n, err);
}
