/* Elementwise ops over tensors of any shape: which rows exist, where they lie, and which piece of work owns them.
 * Tensors that are all contiguous count as one long row. */
#ifndef HD_OPS_CPU_SPLIT_H
#define HD_OPS_CPU_SPLIT_H

#include "ops/cpu/math.h"

/* Item i of n_items covers rows [row_begin, row_end) and, in each, columns [column_begin, column_end). */
typedef struct hd_split {
    int64_t n_rows, row_len, item_rows, item_len, n_items;
} hd_split;

typedef struct hd_piece {
    int64_t row_begin, row_end, column_begin, column_end;
} hd_piece;

enum { HD_ITEM_LEN = 32 * 1024 }; /* elements; a multiple of every vector width */

static inline hd_split hd_split_elements(const hd_tensor *t, bool contiguous)
{
    hd_split s = {.n_rows = 1, .row_len = t->n_dim > 0 ? t->shape[t->n_dim - 1] : 1};
    for (int d = 0; d + 1 < t->n_dim; d++) { s.n_rows *= t->shape[d]; }
    if (contiguous) {
        s.row_len *= s.n_rows;
        s.n_rows = s.row_len > 0 ? 1 : 0;
    }
    if (s.row_len == 0) { s.n_rows = 0; }
    s.item_len = hd_min_i64(s.row_len, HD_ITEM_LEN);
    s.item_rows = hd_max_i64(1, HD_ITEM_LEN / hd_max_i64(1, s.row_len));
    s.n_items = s.n_rows == 0 ? 0 : hd_ceil_div(s.n_rows, s.item_rows) * hd_ceil_div(s.row_len, s.item_len);
    return s;
}

static inline hd_piece hd_split_item(const hd_split *s, int64_t item)
{
    int64_t across = hd_ceil_div(s->row_len, s->item_len);
    int64_t row = item / across * s->item_rows, column = item % across * s->item_len;
    return (hd_piece){row, hd_min_i64(row + s->item_rows, s->n_rows), column,
                      hd_min_i64(column + s->item_len, s->row_len)};
}

/* Start of row `row` of all but the last axis, flattened; of the whole tensor when the split is one row. */
static inline void *hd_split_row(const hd_split *s, const hd_tensor *t, int64_t row)
{
    int64_t offset = 0;
    if (s->n_rows > 1) {
        for (int d = t->n_dim - 2; d >= 0; d--) {
            offset += row % t->shape[d] * t->stride[d];
            row /= t->shape[d];
        }
    }
    return hd_at(t, offset);
}

#endif
