/* The loops around the integer micro-kernels.
 *
 *   round the rows of x to codes, scales and sums per group          parallel over rows when they are many
 *   items: (expert, a run of block rows), all its rows               parallel, a common counter
 *     for each pair of block rows, one from each half of the run     two streams per thread
 *       for each few rows: micro-kernel over all of K                the pair stays in the second-level cache
 *
 * Few rows: an item is a run of some 100 KB, so that a thread streams; many rows: a pair, so that threads end together.  What an
 * element of y is does not depend on any of this. */
#include "ops/cpu/packed.h"

#include <stdatomic.h>

#include "base/parallel_for.h"
#include "ops/cpu/packed_kernel.h"

enum {
    AHEAD = 1024,              /* bytes between a line's prefetch and its use */
    ITEM_BYTES = 128 * 1024,   /* of weights, for few rows */
    FEW_ROWS = 16,
    SERIAL_VALUES = 32768,     /* rounding less is not worth waking threads */
    SERIAL_BYTES = 64 * 1024,  /* neither is multiplying less */
};

/* One matrix and its rows of x. */
typedef struct packed_task {
    const uint8_t *blocks;
    const uint16_t *scales;
    int64_t row, n_row;        /* of x and y */
    int64_t run;               /* block rows of an item */
    int64_t first_item;
} packed_task;

typedef struct packed_call {
    const hd_tensor *x, *y;
    hd_accum accum;
    hd_dtype dtype;
    int64_t groups, out, block_rows, row_bytes; /* row_bytes: of a block row */
    int8_t *codes;
    float *scales;
    int32_t *sums;
    packed_task *tasks;
    int64_t n_task, n_item, total_bytes;
    const packed_kernel_fn *kernels;
    int64_t most; /* rows of the tallest kernel */
    atomic_int_fast64_t next;
} packed_call;

/* ---- inputs --------------------------------------------------------------------------------------------------------------- */

/* As hd_round_group, the same bits: the largest magnitude is found among the bit patterns, where what is not finite is larger. */
HD_INLINE float round_group(const void *row, hd_dtype dtype, int64_t at, int8_t *codes, int32_t *sum)
{
    enum { VECTORS = HD_PACKED_GROUP / HD_LANES };
    typedef int8_t narrow __attribute__((vector_size(HD_LANES), aligned(1)));
    hd_vf v[VECTORS];
    hd_vi top = {0}, total = {0};
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        v[j] = hd_load(row, dtype, at + j * HD_LANES, at + HD_PACKED_GROUP);
        hd_vi magnitude = (hd_vi)v[j] & 0x7FFFFFFF;
        hd_vi larger = magnitude > top;
        top = (magnitude & larger) | (top & ~larger);
    }
    int32_t bits = 0;
    for (int l = 0; l < HD_LANES; l++) { bits = top[l] > bits ? top[l] : bits; }
    bool finite = bits < 0x7F800000;
    float max = 0.0f;
    if (finite) { memcpy(&max, &bits, sizeof max); }
    float inverse = max > 0.0f ? 127.0f / max : 0.0f;
    if (!(inverse <= 3.4028235e38f)) { inverse = 0.0f; }
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        hd_vf clean = (hd_vf)((hd_vi)v[j] & (finite ? -1 : 0));
        hd_vf rounded = (clean * inverse + 12582912.0f) - 12582912.0f;
        hd_vi code = __builtin_convertvector(rounded, hd_vi);
        total += code;
        *(narrow *)(codes + j * HD_LANES) = __builtin_convertvector(code, narrow);
    }
    *sum = 0;
    for (int l = 0; l < HD_LANES; l++) { *sum += total[l]; }
    return finite ? max / 127.0f : NAN;
}

static void round_row(void *arg, int64_t i, int thread)
{
    const packed_call *c = arg;
    const void *row = hd_row(c->x, i);
    (void)thread;
    for (int64_t g = 0; g < c->groups; g++) {
        int64_t at = i * c->groups + g;
        c->scales[at] = round_group(row, c->x->dtype, g * HD_PACKED_GROUP, c->codes + at * HD_PACKED_GROUP, &c->sums[at]);
    }
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

/* Rows [0, rows) of a tile's sums into y, columns of block row b. */
static void store(const packed_call *c, const packed_tile *t, int64_t row, int64_t rows, int p, int64_t b)
{
    int64_t first = b * HD_PACKED_ROWS, n = hd_min_i64(HD_PACKED_ROWS, c->out - first);
    for (int64_t i = 0; i < rows; i++) {
        void *to = hd_at(c->y, (row + i) * c->y->stride[0] + first);
        const float *from = &t->sums[i][p * HD_PACKED_ROWS];
        for (int64_t j = 0; j < n; j += HD_LANES) {
            hd_vf v = *(const hd_vf_u *)(from + j);
            if (c->accum == HD_ADD) { v = hd_load(to, c->y->dtype, j, n) + v; }
            hd_store(to, c->y->dtype, j, n, v);
        }
    }
}

/* Block rows a and b (the same when there is no second one) times all rows of the task. */
static void run_pair(const packed_call *c, const packed_task *task, int64_t a, int64_t b)
{
    packed_tile t = {.groups = c->groups, .ahead = AHEAD};
    const int64_t pair[PACKED_PAIR] = {a, b};
    for (int p = 0; p < PACKED_PAIR; p++) {
        t.blocks[p] = task->blocks + pair[p] * c->row_bytes;
        t.scales[p] = task->scales + pair[p] * c->groups * HD_PACKED_ROWS;
    }
    for (int64_t i = 0; i < task->n_row;) {
        int64_t left = task->n_row - i, tiles = hd_ceil_div(left, c->most), rows = hd_ceil_div(left, tiles);
        int64_t at = (task->row + i) * c->groups;
        t.codes = c->codes + at * HD_PACKED_GROUP;
        t.in_scales = c->scales + at;
        t.in_sums = c->sums + at;
        c->kernels[rows](&t);
        store(c, &t, task->row + i, rows, 0, a);
        if (b != a) { store(c, &t, task->row + i, rows, 1, b); }
        i += rows;
    }
}

typedef struct packed_item {
    const packed_task *task;
    int64_t first, n; /* block rows */
} packed_item;

static packed_item find_item(const packed_call *c, int64_t item)
{
    int64_t low = 0, high = c->n_task;
    while (high - low > 1) {
        int64_t mid = (low + high) / 2;
        if (c->tasks[mid].first_item <= item) { low = mid; } else { high = mid; }
    }
    const packed_task *task = &c->tasks[low];
    int64_t first = (item - task->first_item) * task->run;
    return (packed_item){task, first, hd_min_i64(task->run, c->block_rows - first)};
}

/* The first lines of both streams of an item. */
static void prefetch_begin(const packed_call *c, const packed_item *item)
{
    const uint8_t *stream = item->task->blocks + item->first * c->row_bytes, *second = stream + (item->n + 1) / 2 * c->row_bytes;
    for (int64_t at = 0; at < AHEAD; at += PACKED_LINE) {
        __builtin_prefetch(stream + at, 0, 3);
        __builtin_prefetch(second + at, 0, 3);
    }
}

static void run_items(void *arg, int64_t i, int thread)
{
    packed_call *c = arg;
    (void)i;
    (void)thread;
    int64_t at = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
    while (at < c->n_item) {
        packed_item item = find_item(c, at);
        int64_t half = (item.n + 1) / 2;
        at = atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
        for (int64_t r = 0; r < half; r++) {
            if (r == half - 1 && at < c->n_item) {
                packed_item next = find_item(c, at);
                prefetch_begin(c, &next);
            }
            int64_t a = item.first + r, b = item.first + half + r;
            run_pair(c, item.task, a, b < item.first + item.n ? b : a);
        }
    }
}

/* ---- the call ---------------------------------------------------------------------------------------------------------------- */

static void make_tasks(packed_call *c, const hd_tensor *offsets, const hd_weight *w)
{
    const int32_t *begin = offsets != NULL ? offsets->data : NULL;
    for (int64_t e = 0; e < (offsets != NULL ? w->value.shape[0] : 1); e++) {
        packed_task t = {.row = begin != NULL ? begin[e] : 0, .first_item = c->n_item};
        t.n_row = (begin != NULL ? begin[e + 1] : c->x->shape[0]) - t.row;
        if (t.n_row == 0 || c->out == 0) { continue; }
        hd_weight matrix = offsets != NULL ? hd_weight_expert(w, e) : *w;
        t.blocks = matrix.value.data;
        t.scales = matrix.scales.data;
        t.run = t.n_row > FEW_ROWS ? PACKED_PAIR : hd_max_i64(PACKED_PAIR, ITEM_BYTES / hd_max_i64(1, c->row_bytes));
        c->n_item += hd_ceil_div(c->block_rows, t.run);
        c->total_bytes += c->block_rows * c->row_bytes;
        c->tasks[c->n_task++] = t;
    }
}

hd_status hd_packed_linear(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w, hd_accum accum, const hd_tensor *y,
                           hd_err *err)
{
    hd_status st;
    void *codes, *scales, *sums, *tasks;
    int64_t n_expert = offsets != NULL ? w->value.shape[0] : 1, rows = x->shape[0], out = y->shape[1];
    packed_call c = {.x = x, .y = y, .accum = accum, .dtype = w->value.dtype, .groups = x->shape[1] / HD_PACKED_GROUP, .out = out};
    c.block_rows = hd_packed_rows(out) / HD_PACKED_ROWS;
    c.row_bytes = c.groups * hd_packed_block_bytes(c.dtype);
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * c.groups * HD_PACKED_GROUP), &codes, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * c.groups) * sizeof(float), &scales, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * c.groups) * sizeof(int32_t), &sums, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)n_expert * sizeof(packed_task), &tasks, err));
    if (ex->dry) { return HD_OK; }
    c.codes = codes;
    c.scales = scales;
    c.sums = sums;
    c.tasks = tasks;
    c.kernels = packed_kernels(c.dtype, &c.most);
    make_tasks(&c, offsets, w);
    int64_t used = c.n_task > 0 ? c.tasks[c.n_task - 1].row + c.tasks[c.n_task - 1].n_row : 0; /* rows behind the last offset are nobody's */
    hd_parallel_for(used * x->shape[1] <= SERIAL_VALUES ? 1 : ex->n_threads, used, round_row, &c);
    int workers = c.total_bytes <= SERIAL_BYTES && used <= FEW_ROWS ? 1 : ex->n_threads;
    hd_parallel_for(workers, workers, run_items, &c);
out:
    return st;
}
