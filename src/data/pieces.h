/* How documents become rows.
 *
 * A document of L tokens (bos, bytes, eos) gives L - 1 training positions: token i is the input, token i + 1 the target.
 * Positions are cut into *pieces* of at most T.  Pieces are shuffled (once per epoch) and packed into rows of T tokens in that
 * order: a piece that does not fit closes the row (next fit).  Each piece is a segment of its row with positions of its own. */
#ifndef HD_DATA_PIECES_H
#define HD_DATA_PIECES_H

#include <stdbool.h>
#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_piece { uint32_t document, index; } hd_piece; /* piece `index` of a document: positions index * T .. */

typedef struct hd_pieces {
    int64_t row_length;       /* T */
    bool packing;             /* false: one piece per row */
    int64_t max_segments;     /* per row; <= 0: no limit */
    bool shuffle;
    uint64_t seed;
    hd_piece *piece;          /* n_piece, in document order */
    uint32_t *length;         /* positions of each */
    uint32_t *order;          /* pieces in the order of the current epoch */
    uint32_t *row_begin;      /* n_row + 1: index into order */
    int64_t n_piece, n_row;   /* n_row: of the current epoch */
    int64_t epoch;            /* the epoch that order and row_begin describe; -1: none yet */
    int64_t epoch_first_row;  /* global number of its row 0 */
} hd_pieces;

/* token_count[d] is L of document d.  The arrays belong to *p; close with hd_pieces_close. */
hd_status hd_pieces_open(const int64_t *token_count, int64_t n_document, int64_t row_length, bool packing, int64_t max_segments,
                         bool shuffle, uint64_t seed, hd_pieces *p, hd_err *err) HD_CHECK_RESULT;
void hd_pieces_close(hd_pieces *p);

/* Moves to the epoch that holds global row g and returns the row's number in it; -1 when n_epoch (<= 0: no end) is over. */
int64_t hd_pieces_seek(hd_pieces *p, int64_t g, int64_t n_epoch);

#endif
