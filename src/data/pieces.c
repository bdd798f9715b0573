/* Cutting documents into pieces, shuffling and packing them; no tokens are touched here. */
#include "data/pieces.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

static int64_t piece_count(int64_t n_token, int64_t row_length)
{
    int64_t positions = n_token - 1;
    return positions <= 0 ? 0 : (positions + row_length - 1) / row_length;
}

static hd_status count_pieces(const int64_t *token_count, int64_t n_document, int64_t row_length, int64_t *n_piece, hd_err *err)
{
    *n_piece = 0;
    for (int64_t d = 0; d < n_document; d++) { *n_piece += piece_count(token_count[d], row_length); }
    if (*n_piece > UINT32_MAX || n_document > UINT32_MAX) {
        return HD_FAIL(err, HD_E_INVALID, "the text has %lld pieces of %lld tokens; the index holds %lld at most: use a longer "
                       "max_target_length or split the data set", (long long)*n_piece, (long long)row_length, (long long)UINT32_MAX);
    }
    return HD_OK;
}

static void list_pieces(const int64_t *token_count, int64_t n_document, hd_pieces *p)
{
    int64_t n = 0;
    for (int64_t d = 0; d < n_document; d++) {
        int64_t left = token_count[d] - 1;
        for (uint32_t index = 0; left > 0; index++, left -= p->row_length) {
            p->piece[n] = (hd_piece){.document = (uint32_t)d, .index = index};
            p->length[n++] = (uint32_t)(left < p->row_length ? left : p->row_length);
        }
    }
}

/* Fisher-Yates by the counter generator: the order of an epoch depends on the seed and the epoch alone. */
static void shuffle(hd_pieces *p, int64_t epoch)
{
    char name[32];
    snprintf(name, sizeof name, "epoch %lld", (long long)epoch);
    hd_rng rng = hd_rng_make(p->seed, HD_RNG_SHUFFLE, name);
    for (int64_t i = 0; i < p->n_piece; i++) { p->order[i] = (uint32_t)i; }
    if (!p->shuffle) { return; }
    for (int64_t i = p->n_piece - 1; i > 0; i--) {
        int64_t j = (int64_t)hd_rng_below(rng, (uint64_t)i + 1, (uint64_t)i);
        uint32_t swap = p->order[i];
        p->order[i] = p->order[j];
        p->order[j] = swap;
    }
}

static bool fits(const hd_pieces *p, int64_t used, int64_t n_segment, uint32_t piece)
{
    if (n_segment == 0) { return true; }
    if (!p->packing || (p->max_segments > 0 && n_segment >= p->max_segments)) { return false; }
    return used + (int64_t)p->length[piece] <= p->row_length;
}

static void pack(hd_pieces *p)
{
    int64_t used = 0, n_segment = 0;
    p->n_row = 0;
    for (int64_t i = 0; i < p->n_piece; i++) {
        if (!fits(p, used, n_segment, p->order[i])) { used = n_segment = 0; }
        if (n_segment == 0) { p->row_begin[p->n_row++] = (uint32_t)i; }
        used += p->length[p->order[i]];
        n_segment++;
    }
    p->row_begin[p->n_row] = (uint32_t)p->n_piece;
}

static void enter_epoch(hd_pieces *p, int64_t epoch, int64_t first_row)
{
    shuffle(p, epoch);
    pack(p);
    p->epoch = epoch;
    p->epoch_first_row = first_row;
}

hd_status hd_pieces_open(const int64_t *token_count, int64_t n_document, int64_t row_length, bool packing, int64_t max_segments,
                         bool shuffled, uint64_t seed, hd_pieces *p, hd_err *err)
{
    hd_status st = HD_OK;
    *p = (hd_pieces){.row_length = row_length, .packing = packing, .max_segments = max_segments, .shuffle = shuffled, .seed = seed};
    HD_TRY(count_pieces(token_count, n_document, row_length, &p->n_piece, err));
    size_t n = (size_t)p->n_piece;
    HD_TRY(hd_alloc(n, sizeof *p->piece, "piece table", (void **)&p->piece, err));
    HD_TRY(hd_alloc(n, sizeof *p->length, "piece lengths", (void **)&p->length, err));
    HD_TRY(hd_alloc(n, sizeof *p->order, "piece order", (void **)&p->order, err));
    HD_TRY(hd_alloc(n + 1, sizeof *p->row_begin, "row table", (void **)&p->row_begin, err));
    list_pieces(token_count, n_document, p);
    enter_epoch(p, 0, 0);
out:
    if (st != HD_OK) { hd_pieces_close(p); }
    return st;
}

void hd_pieces_close(hd_pieces *p)
{
    hd_free(p->piece);
    hd_free(p->length);
    hd_free(p->order);
    hd_free(p->row_begin);
    memset(p, 0, sizeof *p);
}

int64_t hd_pieces_seek(hd_pieces *p, int64_t g, int64_t n_epoch)
{
    if (p->n_piece == 0) { return -1; }
    if (g < p->epoch_first_row) { enter_epoch(p, 0, 0); }
    while (g >= p->epoch_first_row + p->n_row) {
        if (n_epoch > 0 && p->epoch + 1 >= n_epoch) { return -1; }
        enter_epoch(p, p->epoch + 1, p->epoch_first_row + p->n_row);
    }
    return g - p->epoch_first_row;
}
