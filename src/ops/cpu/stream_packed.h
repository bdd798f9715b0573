/* Packed weights: inputs rounded to codes, two block rows at a time, one from each half of an item, so that a thread reads two streams. */
#ifndef HD_OPS_CPU_STREAM_PACKED_H
#define HD_OPS_CPU_STREAM_PACKED_H

#include "ops/cpu/packed_kernel.h"
#include "ops/cpu/stream_job.h"

enum { STREAM_PACKED_FETCH = 1024 }; /* bytes of each stream that are fetched before its kernel begins */

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

static void stream_packed_prepare(const stream_part *part, int64_t i)
{
    const void *row = hd_row(part->x, i);
    for (int64_t g = 0; g < part->groups; g++) {
        int64_t at = i * part->n_code * part->groups + g, rest = at + part->groups;
        int8_t *codes = part->codes + at * HD_PACKED_GROUP;
        if (part->n_code == 1) {
            part->scales[at] = round_group(row, part->x->dtype, g * HD_PACKED_GROUP, codes, &part->code_offsets[at], NULL, NULL);
        } else {
            part->scales[at] = round_group(row, part->x->dtype, g * HD_PACKED_GROUP, codes, &part->code_offsets[at],
                                           part->codes + rest * HD_PACKED_GROUP, &part->code_offsets[rest]);
            part->scales[rest] = part->scales[at] / (float)HD_ROUND_REST;
            part->code_offsets[rest] *= packed_offset(part->w->value.dtype);
        }
        part->code_offsets[at] *= packed_offset(part->w->value.dtype);
    }
}

/* A product with the x of the one before shares its codes. */
static hd_status stream_packed_reserve(hd_exec *ex, stream_part *part, const stream_part *before, hd_err *err)
{
    hd_status st = HD_OK;
    void *codes, *scales, *offsets;
    part->groups = part->in / HD_PACKED_GROUP;
    part->n_code = part->w->fine_inputs ? 2 : 1;
    part->block_rows = hd_packed_rows(part->out) / HD_PACKED_ROWS;
    part->row_bytes = part->groups * hd_packed_block_bytes(part->w->value.dtype);
    int64_t rows = part->x->shape[0] * part->n_code;
    part->own_inputs = part->own_inputs || before->n_code != part->n_code || before->w->value.dtype != part->w->value.dtype;
    if (!part->own_inputs) {
        part->codes = before->codes;
        part->scales = before->scales;
        part->code_offsets = before->code_offsets;
        goto out;
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->groups * HD_PACKED_GROUP), &codes, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->groups) * sizeof(float), &scales, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->groups) * sizeof(int32_t), &offsets, err));
    part->codes = codes;
    part->scales = scales;
    part->code_offsets = offsets;
out:
    return st;
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

/* Rows [0, rows) of a tile's sums into y, columns of block row b. */
static void stream_packed_store(const stream_task *task, const packed_tile *t, int64_t row, int64_t rows, int p, int64_t b)
{
    int64_t first = b * HD_PACKED_ROWS, n = hd_min_i64(HD_PACKED_ROWS, task->part->out - first), n_code = task->part->n_code;
    for (int64_t i = 0; i < rows; i++) {
        const float *from = &t->sums[i * n_code][p * HD_PACKED_ROWS];
        float both[HD_PACKED_ROWS];
        if (n_code == 2) {
            for (int j = 0; j < HD_PACKED_ROWS; j++) { both[j] = from[j] + from[PACKED_OUT + j]; }
            from = both;
        }
        stream_store(task, row + i, first, n, from);
    }
}

/* Block rows a and b (the same when there is no second one) times all rows of the task. */
static void stream_packed_pair(const stream_task *task, int64_t a, int64_t b)
{
    const stream_part *part = task->part;
    packed_tile t; /* not cleared: the sums are most of it */
    int64_t most;
    const packed_kernel_fn *kernels = packed_kernels(part->w->value.dtype, &most);
    const int64_t pair[PACKED_PAIR] = {a, b};
    most /= part->n_code; /* whole rows of x */
    t.groups = part->groups;
    for (int p = 0; p < PACKED_PAIR; p++) {
        t.blocks[p] = (const uint8_t *)task->w + pair[p] * part->row_bytes;
        t.scales[p] = (const uint16_t *)task->scales + pair[p] * part->groups * HD_PACKED_ROWS;
    }
    for (int64_t i = 0; i < task->n_row;) {
        int64_t left = task->n_row - i, tiles = hd_ceil_div(left, most), rows = hd_ceil_div(left, tiles);
        int64_t at = (task->row + i) * part->n_code * part->groups;
        t.codes = part->codes + at * HD_PACKED_GROUP;
        t.in_scales = part->scales + at;
        t.in_offsets = part->code_offsets + at;
        t.ahead = packed_ahead(part->w->value.dtype, rows * part->n_code);
        kernels[rows * part->n_code](&t);
        stream_packed_store(task, &t, i, rows, 0, a);
        if (b != a) { stream_packed_store(task, &t, i, rows, 1, b); }
        i += rows;
    }
}

static void stream_packed_run(const stream_item *item, const stream_item *next)
{
    int64_t half = (item->n + 1) / 2;
    for (int64_t r = 0; r < half; r++) {
        int64_t a = item->first + r, b = a + half;
        if (r == half - 1) { stream_fetch(next); }
        stream_packed_pair(item->task, a, b < item->first + item->n ? b : a);
    }
}

/* The first lines of both streams. */
static void stream_packed_fetch(const stream_item *item)
{
    int64_t row_bytes = item->task->part->row_bytes;
    const char *stream = item->task->w + item->first * row_bytes, *second = stream + (item->n + 1) / 2 * row_bytes;
    for (int64_t at = 0; at < STREAM_PACKED_FETCH; at += PACKED_LINE) {
        __builtin_prefetch(stream + at, 0, 3);
        __builtin_prefetch(second + at, 0, 3);
    }
}

static const stream_kind stream_packed = {PACKED_PAIR, stream_packed_reserve, stream_packed_prepare, stream_packed_fetch, stream_packed_run};

#endif
