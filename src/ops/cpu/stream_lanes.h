/* BF16 and F32 weights, sums by lanes: inputs spread into even and odd columns, LANES_ROWS rows of weights at a time. */
#ifndef HD_OPS_CPU_STREAM_LANES_H
#define HD_OPS_CPU_STREAM_LANES_H

#include "ops/cpu/lanes_kernel.h"
#include "ops/cpu/stream_job.h"

enum { STREAM_LANES_FETCH = 2048 }; /* bytes of a tile that are fetched before its kernel begins */

/* ---- inputs --------------------------------------------------------------------------------------------------------------- */

static void stream_lanes_prepare(const stream_part *part, int64_t i)
{
    const void *row = hd_row(part->x, i);
    float *to = part->spread + i * part->spread_row;
    for (int64_t k = 0; k < part->spread_row; k += 2 * HD_LANES) {
        hd_vf a = {0}, b = {0};
        float *step = to + k / LANES_STEP * LANES_STEP + k % LANES_STEP / 2;
        if (k < part->in) { a = hd_load(row, part->x->dtype, k, part->in); }
        if (k + HD_LANES < part->in) { b = hd_load(row, part->x->dtype, k + HD_LANES, part->in); }
        *(hd_vf_u *)step = hd_even(a, b);
        *(hd_vf_u *)(step + LANES) = hd_odd(a, b);
    }
}

/* A product with the x of the one before shares its rows. */
static hd_status stream_lanes_reserve(hd_exec *ex, stream_part *part, const stream_part *before, hd_err *err)
{
    hd_status st = HD_OK;
    void *spread;
    part->block_rows = hd_ceil_div(part->out, LANES_ROWS);
    part->row_bytes = LANES_ROWS * part->in * gemm_element_bytes(part->w->value.dtype);
    part->spread_row = hd_ceil_div(part->in, LANES_STEP) * LANES_STEP;
    if (!part->own_inputs) {
        part->spread = before->spread;
        goto out;
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(part->x->shape[0] * part->spread_row) * sizeof(float), &spread, err));
    part->spread = spread;
out:
    return st;
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

static int64_t stream_lanes_w_row(const stream_part *part)
{
    return part->w->value.stride[part->w->value.n_dim - 2] * gemm_element_bytes(part->w->value.dtype);
}

static const char *stream_lanes_rows(const stream_task *task, int64_t b) { return task->w + b * LANES_ROWS * stream_lanes_w_row(task->part); }

/* Block row b of the task; next: what comes after, NULL for nothing. */
static void stream_lanes_block(const stream_task *task, int64_t b, const char *next)
{
    const stream_part *part = task->part;
    const lanes_kernel_fn *kernels = lanes_kernels[part->w->value.dtype == HD_DTYPE_F32];
    const int64_t w_row = stream_lanes_w_row(part), n_tile = hd_ceil_div(task->n_row, LANES_MR);
    const int64_t row = b * LANES_ROWS, rows = hd_min_i64(LANES_ROWS, part->out - row);
    lanes_tile t; /* not cleared: the sums are most of it */
    t.w = stream_lanes_rows(task, b);
    t.w_row = w_row;
    t.n = rows;
    t.next = next != NULL ? next : t.w;
    t.k = part->in;
    t.x_row = task->row_step * part->spread_row;
    for (int64_t tile = 0, i = 0; tile < n_tile; tile++) {
        int64_t m = hd_ceil_div(task->n_row - i, n_tile - tile);
        t.x = part->spread + (task->row + i * task->row_step) * part->spread_row;
        kernels[m](&t);
        for (int64_t j = 0; j < m; j++) { stream_store(task, i + j, row, rows, t.sums[j]); }
        t.next = t.w;
        i += m;
    }
}

static void stream_lanes_run(const stream_item *item, const stream_item *next)
{
    int64_t end = item->first + item->n;
    bool goes_on = next != NULL && next->task->part->kind == item->task->part->kind;
    const char *after = goes_on ? stream_lanes_rows(next->task, next->first) : NULL;
    for (int64_t b = item->first; b < end; b++) {
        if (b + 1 == end) { stream_fetch(next); }
        stream_lanes_block(item->task, b, b + 1 < end ? stream_lanes_rows(item->task, b + 1) : after);
    }
}

/* Not the whole first tile: its kernel prefetches what comes later. */
static void stream_lanes_fetch(const stream_item *item)
{
    const char *first = stream_lanes_rows(item->task, item->first);
    for (int64_t at = 0; at < hd_min_i64(item->task->part->row_bytes, STREAM_LANES_FETCH); at += 64) { __builtin_prefetch(first + at, 0, 2); }
}

static const stream_kind stream_lanes = {1, stream_lanes_reserve, stream_lanes_prepare, stream_lanes_fetch, stream_lanes_run};

#endif
