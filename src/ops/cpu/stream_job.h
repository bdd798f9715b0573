/* The work of a list of streamed products, as both kinds of weights see it.
 *
 *   part    a product: its inputs, prepared once for all its tasks
 *   task    one matrix and its rows of x
 *   item    a run of block rows of a task: what a thread takes at a time
 * A block row is as many outputs as a kernel makes at once: 16 of packed weights, 8 of others. */
#ifndef HD_OPS_CPU_STREAM_JOB_H
#define HD_OPS_CPU_STREAM_JOB_H

#include "ops/cpu/gemm_read.h"
#include "ops/cpu/packed_kernel.h"
#include "ops/cpu/stream.h"

struct stream_part;
struct stream_item;

/* What differs between the kinds. */
typedef struct stream_kind {
    int64_t unit;   /* block rows of the shortest item */
    hd_status (*reserve)(hd_exec *ex, struct stream_part *part, const struct stream_part *before, hd_err *err);
    void (*prepare)(const struct stream_part *part, int64_t row);                  /* row of x */
    void (*fetch)(const struct stream_item *item);                                 /* its first lines, ahead of time */
    void (*run)(const struct stream_item *item, const struct stream_item *next);   /* next NULL: none; fetched on the way */
} stream_kind;

typedef struct stream_part {
    const stream_kind *kind;
    const hd_tensor *x, *offsets; /* offsets NULL: one matrix, or one per head */
    const hd_weight *w;
    hd_accum y_accum;
    hd_tensor *y;
    hd_stream_head_rows heads; /* n_head 0: none */
    int64_t in, out;           /* of a matrix */
    int64_t block_rows, row_bytes; /* of a matrix; bytes of a block row */
    bool own_inputs;           /* false: those of an earlier part */
    int64_t first_row;         /* among all rows to be prepared */
    float *spread;             /* lanes: (rows, spread_row) */
    int64_t spread_row;
    packed_method method;      /* packed: how */
    int64_t groups, n_code;    /* n_code: narrow codes of a value, 2 of fine inputs */
    int64_t code_bytes;        /* of a value */
    int8_t *codes;             /* as packed_tile has them, for all rows */
    float *scales;
    int32_t *code_offsets;
} stream_part;

typedef struct stream_task {
    const stream_part *part;
    const char *w;
    const void *scales;
    int64_t row, row_step, n_row; /* of x: row, row + row_step, ... */
    char *y;                      /* of the first row */
    int64_t y_row;                /* elements between rows */
    int64_t run;                  /* block rows of an item */
    int64_t first_item;
} stream_task;

typedef struct stream_item {
    const stream_task *task;
    int64_t first, n; /* block rows */
} stream_item;

HD_INLINE void stream_fetch(const stream_item *item)
{
    if (item != NULL) { item->task->part->kind->fetch(item); }
}

/* n outputs from `first` on of row i of a task, in y's dtype. */
HD_INLINE void stream_store(const stream_task *task, int64_t i, int64_t first, int64_t n, const float *sums)
{
    const hd_tensor *y = task->part->y;
    void *to = task->y + (i * task->y_row + first) * gemm_element_bytes(y->dtype);
    for (int64_t j = 0; j < n; j += HD_LANES) {
        hd_vf v = *(const hd_vf_u *)(sums + j);
        if (task->part->y_accum == HD_ADD) { v = hd_load(to, y->dtype, j, n) + v; }
        hd_store(to, y->dtype, j, n, v);
    }
}

#endif
