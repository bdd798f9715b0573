/* See bpe.h.  Here the table of merges and short pieces; long ones are bpe_long.c. */
#include "tokenizer/bpe.h"

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
    for (size_t s = 0; s < n_slot; s++) { bpe->slot[s].rank = HD_NO_RANK; }
    return HD_OK;
}

void hd_bpe_close(hd_bpe *bpe)
{
    hd_free(bpe->slot);
    bpe->slot = NULL;
}

void hd_bpe_add(hd_bpe *bpe, uint32_t left, uint32_t right, uint32_t id)
{
    size_t s = (size_t)(hd_bpe_find(bpe, left, right) - bpe->slot);
    bpe->slot[s] = (hd_merge){.left = left, .right = right, .rank = bpe->n_merge++, .id = id};
}

void hd_bpe_work_free(hd_bpe_work *work)
{
    hd_free(work->memory);
    hd_free(work->bucket);
    *work = (hd_bpe_work){0};
}

/* symbol[i] and symbol[i + 1] merge with rank[i] into merged[i]. */
typedef struct short_piece {
    size_t n;
    uint32_t symbol[SHORT], rank[SHORT], merged[SHORT];
} short_piece;

static void look_up(const hd_bpe *bpe, short_piece *p, size_t i)
{
    const hd_merge *merge = hd_bpe_find(bpe, p->symbol[i], p->symbol[i + 1]);
    p->rank[i] = merge->rank;
    p->merged[i] = merge->id;
}

static void merge_at(const hd_bpe *bpe, short_piece *p, size_t i)
{
    size_t tail = p->n - i - 2; /* symbols behind the pair */
    p->symbol[i] = p->merged[i];
    memmove(p->symbol + i + 1, p->symbol + i + 2, tail * sizeof p->symbol[0]);
    memmove(p->rank + i + 1, p->rank + i + 2, tail * sizeof p->rank[0]);
    memmove(p->merged + i + 1, p->merged + i + 2, tail * sizeof p->merged[0]);
    p->n--;
    if (i > 0) { look_up(bpe, p, i - 1); }
    if (i + 1 < p->n) { look_up(bpe, p, i); }
}

hd_status hd_bpe_encode(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err)
{
    short_piece p = {.n = 0};
    if (n > SHORT) { return hd_bpe_encode_long(bpe, work, piece, n, ids, err); }
    for (size_t i = 0; i < n; i++) {
        int32_t id = bpe->byte_id[(unsigned char)piece[i]];
        if (id >= 0) { p.symbol[p.n++] = (uint32_t)id; }
    }
    for (size_t i = 0; i + 1 < p.n; i++) { look_up(bpe, &p, i); }
    while (p.n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < p.n; i++) {
            if (p.rank[i] < p.rank[best]) { best = i; }
        }
        if (p.rank[best] == HD_NO_RANK) { break; }
        merge_at(bpe, &p, best);
    }
    return hd_ids_append(ids, (const int32_t *)p.symbol, p.n, err);
}
