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

/* A product of the list: its inputs as codes. */
typedef struct packed_part {
    const hd_product *p;
    int64_t groups, out, block_rows, row_bytes; /* row_bytes: of a block row */
    int8_t *codes;
    float *scales;
    int32_t *sums;
    int64_t n_code;    /* rows of codes for one of x: 2 with fine_inputs, the codes and those of the rest */
    const packed_kernel_fn *kernels;
    int64_t most;      /* rows of codes of the tallest kernel, whole rows of x */
    int64_t first_row; /* among all rows to be rounded */
    bool own_inputs;   /* false: an earlier product has the same x */
} packed_part;

/* One matrix and its rows of x. */
typedef struct packed_task {
    const packed_part *part;
    const uint8_t *blocks;
    const uint16_t *scales;
    int64_t row, n_row;        /* of x and y */
    int64_t run;               /* block rows of an item */
    int64_t first_item;
} packed_task;

typedef struct packed_call {
    packed_part parts[HD_PRODUCTS_MAX];
    int n_part;
    packed_task *tasks;
    int64_t n_task, n_item, n_row, n_value, total_bytes, max_rows;
    atomic_int_fast64_t next;
} packed_call;

/* ---- inputs --------------------------------------------------------------------------------------------------------------- */

/* As hd_round_group, the same bits: the largest magnitude is found among the bit patterns, where what is not finite is larger. */
HD_INLINE float round_group(const void *row, hd_dtype dtype, int64_t at, int8_t *codes, int32_t *sum, int8_t *rest, int32_t *rest_sum)
{
    enum { VECTORS = HD_PACKED_GROUP / HD_LANES };
    typedef int8_t narrow __attribute__((vector_size(HD_LANES), aligned(1)));
    hd_vf v[VECTORS];
    hd_vi top = {0}, total = {0}, rest_total = {0};
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
        hd_vf x = hd_product_alone((hd_vf)((hd_vi)v[j] & (finite ? -1 : 0)), hd_splat(inverse));
        hd_vf rounded = (x + 12582912.0f) - 12582912.0f;
        hd_vi code = __builtin_convertvector(rounded, hd_vi);
        total += code;
        *(narrow *)(codes + j * HD_LANES) = __builtin_convertvector(code, narrow);
        if (rest == NULL) { continue; }
        hd_vf left = hd_product_alone(x - rounded, hd_splat((float)HD_ROUND_REST));
        code = __builtin_convertvector((left + 12582912.0f) - 12582912.0f, hd_vi);
        rest_total += code;
        *(narrow *)(rest + j * HD_LANES) = __builtin_convertvector(code, narrow);
    }
    *sum = 0;
    for (int l = 0; l < HD_LANES; l++) { *sum += total[l]; }
    if (rest != NULL) {
        *rest_sum = 0;
        for (int l = 0; l < HD_LANES; l++) { *rest_sum += rest_total[l]; }
    }
    return finite ? max / 127.0f : NAN;
}

static void round_row(void *arg, int64_t i, int thread)
{
    const packed_call *c = arg;
    int k = c->n_part - 1;
    (void)thread;
    while (!c->parts[k].own_inputs || c->parts[k].first_row > i) { k--; }
    const packed_part *part = &c->parts[k];
    i -= part->first_row;
    const void *row = hd_row(part->p->x, i);
    for (int64_t g = 0; g < part->groups; g++) {
        int64_t at = i * part->n_code * part->groups + g, rest = at + part->groups;
        int8_t *codes = part->codes + at * HD_PACKED_GROUP;
        if (part->n_code == 1) {
            part->scales[at] = round_group(row, part->p->x->dtype, g * HD_PACKED_GROUP, codes, &part->sums[at], NULL, NULL);
        } else {
            part->scales[at] = round_group(row, part->p->x->dtype, g * HD_PACKED_GROUP, codes, &part->sums[at],
                                           part->codes + rest * HD_PACKED_GROUP, &part->sums[rest]);
            part->scales[rest] = part->scales[at] / (float)HD_ROUND_REST;
        }
    }
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

/* Rows [0, rows) of a tile's sums into y, columns of block row b. */
static void store(const packed_part *part, const packed_tile *t, int64_t row, int64_t rows, int p, int64_t b)
{
    int64_t first = b * HD_PACKED_ROWS, n = hd_min_i64(HD_PACKED_ROWS, part->out - first);
    const hd_tensor *y = part->p->y;
    for (int64_t i = 0; i < rows; i++) {
        void *to = hd_at(y, (row + i) * y->stride[0] + first);
        const float *from = &t->sums[i * part->n_code][p * HD_PACKED_ROWS];
        for (int64_t j = 0; j < n; j += HD_LANES) {
            hd_vf v = *(const hd_vf_u *)(from + j);
            if (part->n_code == 2) { v += *(const hd_vf_u *)(from + PACKED_OUT + j); }
            if (part->p->y_accum == HD_ADD) { v = hd_load(to, y->dtype, j, n) + v; }
            hd_store(to, y->dtype, j, n, v);
        }
    }
}

/* Block rows a and b (the same when there is no second one) times all rows of the task. */
static void run_pair(const packed_task *task, int64_t a, int64_t b)
{
    const packed_part *part = task->part;
    packed_tile t; /* not cleared: the sums are most of it */
    t.groups = part->groups;
    t.ahead = AHEAD;
    const int64_t pair[PACKED_PAIR] = {a, b};
    for (int p = 0; p < PACKED_PAIR; p++) {
        t.blocks[p] = task->blocks + pair[p] * part->row_bytes;
        t.scales[p] = task->scales + pair[p] * part->groups * HD_PACKED_ROWS;
    }
    for (int64_t i = 0; i < task->n_row;) {
        int64_t left = task->n_row - i, tiles = hd_ceil_div(left, part->most / part->n_code), rows = hd_ceil_div(left, tiles);
        int64_t at = (task->row + i) * part->n_code * part->groups;
        t.codes = part->codes + at * HD_PACKED_GROUP;
        t.in_scales = part->scales + at;
        t.in_sums = part->sums + at;
        part->kernels[rows * part->n_code](&t);
        store(part, &t, task->row + i, rows, 0, a);
        if (b != a) { store(part, &t, task->row + i, rows, 1, b); }
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
    return (packed_item){task, first, hd_min_i64(task->run, task->part->block_rows - first)};
}

/* The first lines of both streams of an item. */
static void prefetch_begin(const packed_item *item)
{
    int64_t row_bytes = item->task->part->row_bytes;
    const uint8_t *stream = item->task->blocks + item->first * row_bytes, *second = stream + (item->n + 1) / 2 * row_bytes;
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
                prefetch_begin(&next);
            }
            int64_t a = item.first + r, b = item.first + half + r;
            run_pair(item.task, a, b < item.first + item.n ? b : a);
        }
    }
}

/* ---- the call ---------------------------------------------------------------------------------------------------------------- */

/* Rows of x that belong to somebody: those behind the last offset do not. */
static int64_t used_rows(const hd_product *p)
{
    return p->offsets != NULL ? ((const int32_t *)p->offsets->data)[p->w->value.shape[0]] : p->x->shape[0];
}

static void add_tasks(packed_call *c, const packed_part *part)
{
    const hd_product *p = part->p;
    const int32_t *begin = p->offsets != NULL ? p->offsets->data : NULL;
    for (int64_t e = 0; e < (begin != NULL ? p->w->value.shape[0] : 1); e++) {
        packed_task t = {.part = part, .row = begin != NULL ? begin[e] : 0, .first_item = c->n_item};
        t.n_row = (begin != NULL ? begin[e + 1] : p->x->shape[0]) - t.row;
        if (t.n_row == 0 || part->out == 0) { continue; }
        hd_weight matrix = begin != NULL ? hd_weight_expert(p->w, e) : *p->w;
        t.blocks = matrix.value.data;
        t.scales = matrix.scales.data;
        t.run = t.n_row > FEW_ROWS ? PACKED_PAIR : hd_max_i64(PACKED_PAIR, ITEM_BYTES / hd_max_i64(1, part->row_bytes));
        c->n_item += hd_ceil_div(part->block_rows, t.run);
        c->total_bytes += part->block_rows * part->row_bytes;
        c->max_rows = hd_max_i64(c->max_rows, t.n_row);
        c->tasks[c->n_task++] = t;
    }
}

/* Sizes and scratch of a part.  A product with the x of the one before shares its codes. */
static hd_status make_part(hd_exec *ex, const hd_product *p, const packed_part *before, packed_part *part, hd_err *err)
{
    hd_status st = HD_OK;
    void *codes, *scales, *sums;
    int64_t rows = p->x->shape[0], groups = p->x->shape[1] / HD_PACKED_GROUP, out = p->y->shape[1];
    *part = (packed_part){.p = p, .groups = groups, .out = out, .block_rows = hd_packed_rows(out) / HD_PACKED_ROWS,
                          .row_bytes = groups * hd_packed_block_bytes(p->w->value.dtype),
                          .n_code = p->w->fine_inputs ? 2 : 1};
    part->own_inputs = before == NULL || before->p->x != p->x || before->p->offsets != p->offsets || before->n_code != part->n_code;
    part->kernels = packed_kernels(p->w->value.dtype, &part->most);
    part->most -= part->most % part->n_code;
    rows *= part->n_code;
    if (!part->own_inputs) {
        part->codes = before->codes;
        part->scales = before->scales;
        part->sums = before->sums;
        goto out;
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * groups * HD_PACKED_GROUP), &codes, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * groups) * sizeof(float), &scales, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * groups) * sizeof(int32_t), &sums, err));
    part->codes = codes;
    part->scales = scales;
    part->sums = sums;
out:
    return st;
}

hd_status hd_packed_products(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    hd_status st = HD_OK;
    void *tasks;
    int64_t n_task = 0;
    packed_call c = {.n_part = n};
    for (int i = 0; i < n; i++) {
        HD_TRY(make_part(ex, &list[i], i > 0 ? &c.parts[i - 1] : NULL, &c.parts[i], err));
        n_task += list[i].offsets != NULL ? list[i].w->value.shape[0] : 1;
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)n_task * sizeof(packed_task), &tasks, err));
    if (ex->dry) { return HD_OK; }
    c.tasks = tasks;
    for (int i = 0; i < n; i++) {
        packed_part *part = &c.parts[i];
        part->first_row = c.n_row;
        if (part->own_inputs) {
            c.n_row += used_rows(&list[i]);
            c.n_value += used_rows(&list[i]) * list[i].x->shape[1];
        }
        add_tasks(&c, part);
    }
    hd_parallel_for(c.n_value <= SERIAL_VALUES ? 1 : ex->n_threads, c.n_row, round_row, &c);
    int workers = c.total_bytes <= SERIAL_BYTES && c.max_rows <= FEW_ROWS ? 1 : ex->n_threads;
    hd_parallel_for(workers, workers, run_items, &c);
out:
    return st;
}
