/* See bpe.h.  Here the table of merges and short pieces; long ones are bpe_long.c. */
#include "tokenizer/bpe.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

enum { SHORT = 128 /* up to here the list of bpe_long.c is slower */, BLOCK = 8, END = 255 };

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

/* Symbols stay where their first bytes are, linked through `after` and `before`.  merge[i] is what hd_bpe_find says of symbol i and the one after
 * it, and least[k] the smallest of eight of them, so that the lowest rank is found by looking at a few. */
typedef struct short_piece {
    size_t n_block;
    uint64_t merge[SHORT], least[SHORT / BLOCK];
    uint32_t symbol[SHORT];
    uint8_t before[SHORT], after[SHORT]; /* END: none */
} short_piece;

static void refresh(short_piece *p, size_t block)
{
    const uint64_t *merge = p->merge + block * BLOCK;
    uint64_t least = merge[0];
    for (size_t i = 1; i < BLOCK; i++) { least = merge[i] < least ? merge[i] : least; }
    p->least[block] = least;
}

static void look_up(const hd_bpe *bpe, short_piece *p, size_t i)
{
    p->merge[i] = p->after[i] == END ? HD_NO_MERGE : hd_bpe_find(bpe, p->symbol[i], p->symbol[p->after[i]]);
}

/* The first of the pairs with the lowest rank; SIZE_MAX when none has one. */
static size_t lowest(const short_piece *p)
{
    uint64_t least = p->least[0];
    size_t block = 0, i = 0;
    for (size_t k = 1; k < p->n_block; k++) {
        bool less = p->least[k] < least;
        least = less ? p->least[k] : least;
        block = less ? k : block;
    }
    if (least == HD_NO_MERGE) { return SIZE_MAX; }
    for (i = block * BLOCK; p->merge[i] != least; i++) {}
    return i;
}

static void merge_at(const hd_bpe *bpe, short_piece *p, size_t i)
{
    size_t gone = p->after[i], before = p->before[i];
    p->symbol[i] = (uint32_t)p->merge[i];
    p->after[i] = p->after[gone];
    if (p->after[i] != END) { p->before[p->after[i]] = (uint8_t)i; }
    p->merge[gone] = HD_NO_MERGE;
    look_up(bpe, p, i);
    if (before != END) {
        look_up(bpe, p, before);
        if (before / BLOCK != i / BLOCK) { refresh(p, before / BLOCK); }
    }
    if (gone / BLOCK != i / BLOCK) { refresh(p, gone / BLOCK); }
    refresh(p, i / BLOCK);
}

/* The symbols of the bytes, linked; how many. */
static size_t fill(const hd_bpe *bpe, const char *piece, size_t n, short_piece *p)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = bpe->byte_id[(unsigned char)piece[i]];
        if (id < 0) { continue; }
        p->symbol[m] = (uint32_t)id;
        p->before[m] = (uint8_t)(m == 0 ? END : m - 1);
        p->after[m] = (uint8_t)(m + 1);
        m++;
    }
    if (m > 0) { p->after[m - 1] = END; }
    return m;
}

hd_status hd_bpe_encode(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err)
{
    short_piece p;
    if (n > SHORT) { return hd_bpe_encode_long(bpe, work, piece, n, ids, err); }
    size_t m = fill(bpe, piece, n, &p), count = 0, at;
    if (m == 0) { return HD_OK; }
    p.n_block = (m + BLOCK - 1) / BLOCK;
    for (size_t i = 0; i < m; i++) { look_up(bpe, &p, i); }
    for (size_t i = m; i < p.n_block * BLOCK; i++) { p.merge[i] = HD_NO_MERGE; }
    for (size_t k = 0; k < p.n_block; k++) { refresh(&p, k); }
    while ((at = lowest(&p)) != SIZE_MAX) { merge_at(bpe, &p, at); }
    for (at = 0; at != END; at = p.after[at]) { p.symbol[count++] = p.symbol[at]; } /* never overtakes */
    return hd_ids_append(ids, (const int32_t *)p.symbol, count, err);
}
