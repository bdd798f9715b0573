/* The loops of streamed products.
 *
 *   prepare the rows of x                                           parallel when they are many
 *   items: (task, a run of block rows), all its rows                parallel, a common counter
 *
 * Few rows: an item is a long run, so that a thread streams, and shorter towards the end, so that threads end together; many rows: as short
 * as can be.  What an element of y is does not depend on any of this. */
#include "ops/cpu/stream.h"

#include <stdatomic.h>

#include "base/parallel_for.h"
#include "ops/cpu/stream_job.h"
#include "ops/cpu/stream_lanes.h"
#include "ops/cpu/stream_packed.h"

enum {
    ITEM_BYTES = 512 * 1024,  /* of weights, for few rows, at most: a stream needs some KB to get going */
    ITEMS_LEFT = 8,           /* per thread, from any place to the end, unless they would be short of SHORT_BYTES */
    SHORT_BYTES = 32 * 1024,
    FEW_ROWS = 16,
    SERIAL_VALUES = 32768,    /* preparing less is not worth waking threads */
    SERIAL_BYTES = 64 * 1024, /* neither is multiplying less */
};

typedef struct stream_call {
    stream_part parts[HD_PRODUCTS_MAX];
    int n_part;
    stream_task *tasks;
    int64_t n_task, n_item, n_row, n_value, total_bytes, max_rows;
    atomic_int_fast64_t next;
} stream_call;

bool hd_stream_takes(const hd_exec *ex, const hd_weight *w)
{
    bool by_lanes = ex->by_lanes && w->layout == HD_LAYOUT_OUT_IN && (w->value.dtype == HD_DTYPE_BF16 || w->value.dtype == HD_DTYPE_F32);
    return w->round_inputs || by_lanes;
}

/* ---- inputs --------------------------------------------------------------------------------------------------------------- */

static void prepare_row(void *arg, int64_t i, int thread)
{
    const stream_call *c = arg;
    int k = c->n_part - 1;
    (void)thread;
    while (!c->parts[k].own_inputs || c->parts[k].first_row > i) { k--; }
    c->parts[k].kind->prepare(&c->parts[k], i - c->parts[k].first_row);
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

static stream_item find_item(const stream_call *c, int64_t at)
{
    int64_t low = 0, high = c->n_task;
    while (high - low > 1) {
        int64_t mid = (low + high) / 2;
        if (c->tasks[mid].first_item <= at) { low = mid; } else { high = mid; }
    }
    const stream_task *task = &c->tasks[low];
    int64_t first = (at - task->first_item) * task->run;
    return (stream_item){task, first, hd_min_i64(task->run, task->part->block_rows - first)};
}

/* One thread's share. */
static void run_items(void *arg, int64_t i, int thread)
{
    stream_call *c = arg;
    stream_item item, next;
    (void)i;
    (void)thread;
    int64_t at = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
    if (at < c->n_item) { next = find_item(c, at); }
    while (at < c->n_item) {
        item = next;
        at = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        if (at < c->n_item) { next = find_item(c, at); }
        item.task->part->kind->run(&item, at < c->n_item ? &next : NULL);
    }
}

/* ---- the call ---------------------------------------------------------------------------------------------------------------- */

/* Matrices of a part: one, or one per expert or head. */
static int64_t n_matrix(const stream_part *part)
{
    return part->offsets != NULL ? part->w->value.shape[0] : hd_max_i64(1, part->heads.n_head);
}

/* Rows of x that belong to somebody: those behind the last offset do not. */
static int64_t used_rows(const stream_part *part)
{
    return part->offsets != NULL ? ((const int32_t *)part->offsets->data)[n_matrix(part)] : part->x->shape[0];
}

static stream_task make_task(const stream_part *part, int64_t i)
{
    const hd_tensor *x = part->x, *y = part->y;
    stream_task t = {.part = part, .w = part->w->value.data, .scales = part->w->scales.data, .row_step = 1, .n_row = x->shape[0],
                     .y = y->data, .y_row = y->stride[0]};
    if (part->offsets != NULL) {
        const int32_t *begin = part->offsets->data;
        hd_weight matrix = hd_weight_expert(part->w, i);
        t.w = matrix.value.data;
        t.scales = matrix.scales.data;
        t.row = begin[i];
        t.n_row = begin[i + 1] - begin[i];
        t.y = hd_row(y, t.row);
    } else if (part->heads.n_head > 0) {
        t.w = hd_row(&part->w->value, i * part->heads.step + part->heads.first);
        t.row = i;
        t.row_step = part->heads.n_head;
        t.n_row = x->shape[0] / part->heads.n_head;
        t.y = hd_at(y, i * part->out);
    }
    return t;
}

static void add_tasks(stream_call *c, const stream_part *part)
{
    for (int64_t i = 0; i < n_matrix(part); i++) {
        stream_task t = make_task(part, i);
        if (t.n_row == 0 || part->out == 0) { continue; }
        c->total_bytes += part->block_rows * part->row_bytes;
        c->max_rows = hd_max_i64(c->max_rows, t.n_row);
        c->tasks[c->n_task++] = t;
    }
}

/* Cuts the tasks into items. */
static void cut_tasks(stream_call *c, int n_threads)
{
    int64_t left = c->total_bytes;
    for (int64_t i = 0; i < c->n_task; i++) {
        stream_task *t = &c->tasks[i];
        const stream_part *part = t->part;
        int64_t bytes = hd_max_i64(SHORT_BYTES, hd_min_i64(ITEM_BYTES, left / (n_threads * ITEMS_LEFT)));
        int64_t rows = t->n_row > FEW_ROWS ? 1 : bytes / hd_max_i64(1, part->row_bytes);
        t->run = hd_max_i64(1, rows / part->kind->unit) * part->kind->unit;
        t->first_item = c->n_item;
        c->n_item += hd_ceil_div(part->block_rows, t->run);
        left -= part->block_rows * part->row_bytes;
    }
}

static stream_part part_of(const hd_product *p)
{
    return (stream_part){.kind = p->w->round_inputs ? &stream_packed : &stream_lanes, .x = p->x, .offsets = p->offsets, .w = p->w,
                         .y_accum = p->y_accum, .y = p->y, .in = p->x->shape[1], .out = p->y->shape[1], .own_inputs = true};
}

/* Scratch, all tasks, and the work itself. */
static hd_status run_call(hd_exec *ex, stream_call *c, hd_err *err)
{
    hd_status st = HD_OK;
    void *tasks;
    int64_t n_task = 0;
    for (int i = 0; i < c->n_part; i++) {
        stream_part *part = &c->parts[i], *before = i > 0 ? part - 1 : NULL;
        part->own_inputs = before == NULL || before->x != part->x || before->offsets != part->offsets || before->kind != part->kind;
        HD_TRY(part->kind->reserve(ex, part, before, err));
        n_task += n_matrix(part);
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)n_task * sizeof(stream_task), &tasks, err));
    if (ex->dry) { return HD_OK; }
    c->tasks = tasks;
    for (int i = 0; i < c->n_part; i++) {
        stream_part *part = &c->parts[i];
        part->first_row = c->n_row;
        if (part->own_inputs) {
            c->n_row += used_rows(part);
            c->n_value += used_rows(part) * part->in;
        }
        add_tasks(c, part);
    }
    cut_tasks(c, ex->n_threads);
    hd_parallel_for(c->n_value <= SERIAL_VALUES ? 1 : ex->n_threads, c->n_row, prepare_row, c);
    int workers = c->total_bytes <= SERIAL_BYTES && c->max_rows <= FEW_ROWS ? 1 : ex->n_threads;
    hd_parallel_for(workers, workers, run_items, c);
out:
    return st;
}

hd_status hd_stream_products(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    stream_call c = {.n_part = n};
    for (int i = 0; i < n; i++) { c.parts[i] = part_of(&list[i]); }
    return run_call(ex, &c, err);
}

hd_status hd_stream_heads(hd_exec *ex, const hd_tensor *x, const hd_weight *w, const hd_stream_head_rows *rows, hd_tensor *y, hd_err *err)
{
    hd_product p = {x, NULL, w, HD_SET, y};
    stream_call c = {.n_part = 1};
    c.parts[0] = part_of(&p);
    c.parts[0].heads = *rows;
    c.parts[0].out = y->shape[1] / rows->n_head;
    return run_call(ex, &c, err);
}
