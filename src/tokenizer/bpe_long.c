/* Pieces of any length.
 *
 * The symbols form a doubly linked list over the positions of the bytes.  Each position whose pair (itself and the next) has a rank stands
 * in the bucket of that rank, another doubly linked list through the same positions, and a binary heap holds the ranks whose buckets have
 * something in them.  A merge takes the first position of the lowest bucket and moves at most two others, so that nothing is ever stale:
 * the number of merges is below n, and finding the lowest rank costs the logarithm of the number of different ranks, not of n.
 *
 * A bucket is filled in order of position by each pass over the text; where passes of several ranks filled it, it is sorted once when its
 * turn comes (a merge sort of lists). */
#include "tokenizer/bpe.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

#define NONE UINT32_MAX

typedef struct symbol {
    uint32_t id, before, after; /* neighbours in the text */
    uint32_t up, down;              /* neighbours in the bucket */
    uint32_t rank;                  /* of the bucket; HD_NO_RANK: in none */
} symbol;

typedef struct bucket {
    uint32_t first, last;
    uint32_t sorted, in_heap; /* flags */
} bucket;

typedef struct list {
    const hd_bpe *bpe;
    symbol *node;
    bucket *bucket;
    uint32_t *heap;
    size_t n_heap;
} list;

/* ---- the heap of ranks ------------------------------------------------------------------------------------------------------------ */

static void heap_push(list *l, uint32_t rank)
{
    size_t i = l->n_heap++;
    for (; i > 0 && l->heap[(i - 1) / 2] > rank; i = (i - 1) / 2) { l->heap[i] = l->heap[(i - 1) / 2]; }
    l->heap[i] = rank;
}

static void heap_pop(list *l)
{
    uint32_t last = l->heap[--l->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= l->n_heap) { break; }
        if (child + 1 < l->n_heap && l->heap[child + 1] < l->heap[child]) { child++; }
        if (l->heap[child] >= last) { break; }
        l->heap[i] = l->heap[child];
        i = child;
    }
    l->heap[i] = last;
}

/* ---- buckets ---------------------------------------------------------------------------------------------------------------------- */

static uint32_t rank_of(const list *l, uint32_t at)
{
    uint32_t after = l->node[at].after;
    return after == NONE ? HD_NO_RANK : (uint32_t)(hd_bpe_find(l->bpe, l->node[at].id, l->node[after].id) >> 32);
}

static void put(list *l, uint32_t at)
{
    uint32_t rank = l->node[at].rank = rank_of(l, at);
    if (rank == HD_NO_RANK) { return; }
    bucket *b = &l->bucket[rank];
    if (!b->in_heap) {
        heap_push(l, rank);
        *b = (bucket){.first = NONE, .last = NONE, .sorted = 1, .in_heap = 1};
    }
    if (b->last != NONE && b->last > at) { b->sorted = 0; }
    l->node[at].up = b->last;
    l->node[at].down = NONE;
    if (b->last == NONE) {
        b->first = at;
    } else {
        l->node[b->last].down = at;
    }
    b->last = at;
}

static void take(list *l, uint32_t at)
{
    if (l->node[at].rank == HD_NO_RANK) { return; }
    bucket *b = &l->bucket[l->node[at].rank];
    uint32_t up = l->node[at].up, down = l->node[at].down;
    if (up == NONE) {
        b->first = down;
    } else {
        l->node[up].down = down;
    }
    if (down == NONE) {
        b->last = up;
    } else {
        l->node[down].up = up;
    }
}

/* Merges two sorted lists linked by `down`. */
static uint32_t merge_lists(symbol *node, uint32_t a, uint32_t b)
{
    uint32_t first = NONE, *end = &first;
    while (a != NONE && b != NONE) {
        uint32_t *lower = a < b ? &a : &b;
        *end = *lower;
        end = &node[*lower].down;
        *lower = *end;
    }
    *end = a != NONE ? a : b;
    return first;
}

/* Bottom-up over the runs that are there already: part[i] holds 2^i of them. */
static void sort_bucket(list *l, bucket *b)
{
    uint32_t part[32], n_part = 0, at = b->first;
    while (at != NONE) {
        uint32_t run = at, end = at;
        while (l->node[end].down != NONE && l->node[end].down > end) { end = l->node[end].down; }
        at = l->node[end].down;
        l->node[end].down = NONE;
        uint32_t i = 0;
        for (; i < n_part && part[i] != NONE; i++) {
            run = merge_lists(l->node, part[i], run);
            part[i] = NONE;
        }
        part[i] = run;
        if (i == n_part) { n_part++; }
    }
    b->first = NONE;
    for (uint32_t i = 0; i < n_part; i++) { b->first = merge_lists(l->node, part[i], b->first); }
    b->last = NONE;
    for (at = b->first; at != NONE; at = l->node[at].down) {
        l->node[at].up = b->last;
        b->last = at;
    }
    b->sorted = 1;
}

/* ---- the piece -------------------------------------------------------------------------------------------------------------------- */

static uint32_t fill(list *l, const char *piece, size_t n)
{
    uint32_t m = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = l->bpe->byte_id[(unsigned char)piece[i]];
        if (id < 0) { continue; }
        l->node[m] = (symbol){.id = (uint32_t)id, .before = m == 0 ? NONE : m - 1, .after = m + 1};
        m++;
    }
    if (m > 0) { l->node[m - 1].after = NONE; }
    for (uint32_t i = 0; i < m; i++) { put(l, i); }
    return m;
}

/* Merges position `at`, taken out of its bucket already, with what follows it. */
static void merge_at(list *l, uint32_t at, uint32_t id)
{
    symbol *node = l->node;
    uint32_t before = node[at].before, gone = node[at].after, after = node[gone].after;
    if (before != NONE) { take(l, before); }
    take(l, gone);
    node[at].id = id;
    node[at].after = after;
    if (after != NONE) { node[after].before = at; }
    if (before != NONE) { put(l, before); }
    put(l, at);
}

static void run(list *l)
{
    while (l->n_heap > 0) {
        uint32_t rank = l->heap[0];
        bucket *b = &l->bucket[rank];
        if (b->first == NONE) {
            b->in_heap = 0;
            heap_pop(l);
            continue;
        }
        if (!b->sorted) { sort_bucket(l, b); }
        uint32_t at = b->first, after = l->node[at].after;
        take(l, at);
        merge_at(l, at, (uint32_t)hd_bpe_find(l->bpe, l->node[at].id, l->node[after].id));
    }
}

static hd_status reserve(const hd_bpe *bpe, hd_bpe_work *work, size_t n, list *l, hd_err *err)
{
    hd_status st = HD_OK;
    size_t want = n * sizeof(symbol); /* n < 2^32 */
    if (work->bucket == NULL) { /* of one tokenizer, which does not change; one more, so that there is always something */
        HD_TRY(hd_alloc((size_t)bpe->n_merge + 1, sizeof(bucket) + sizeof(uint32_t), "buckets of a long piece", &work->bucket, err));
    }
    if (work->bytes < want) {
        hd_free(work->memory);
        work->memory = NULL;
        work->bytes = 0;
        HD_TRY(hd_alloc(n, sizeof(symbol), "symbols of a long piece", &work->memory, err));
        work->bytes = want;
    }
    *l = (list){.bpe = bpe, .node = work->memory, .bucket = work->bucket,
                .heap = (uint32_t *)((bucket *)work->bucket + bpe->n_merge + 1)};
out:
    return st;
}

hd_status hd_bpe_encode_long(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n, hd_ids *ids, hd_err *err)
{
    hd_status st = HD_OK;
    list l;
    HD_TRY(reserve(bpe, work, n, &l, err));
    uint32_t m = fill(&l, piece, n); /* all buckets are empty and out of the heap between calls */
    run(&l);
    for (uint32_t at = 0; m > 0 && at != NONE; at = l.node[at].after) {
        int32_t id = (int32_t)l.node[at].id;
        HD_TRY(hd_ids_append(ids, &id, 1, err));
    }
out:
    return st;
}
