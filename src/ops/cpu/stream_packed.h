/* Packed weights: inputs rounded to codes, two block rows at a time, one from each half of an item, so that a thread reads two streams. */
#ifndef HD_OPS_CPU_STREAM_PACKED_H
#define HD_OPS_CPU_STREAM_PACKED_H

#include "ops/cpu/packed_kernel.h"
#include "ops/cpu/stream_job.h"

enum { STREAM_PACKED_FETCH = 1024 }; /* bytes of each stream that are fetched before its kernel begins */

/* ---- inputs --------------------------------------------------------------------------------------------------------------- */

typedef struct round_vectors { hd_vf v[HD_PACKED_GROUP / HD_LANES]; } round_vectors;

/* A group, and its largest magnitude; NaN when a value is not finite: among the bit patterns those are larger than any other. */
HD_INLINE float round_load(const void *row, hd_dtype dtype, int64_t at, round_vectors *x)
{
    hd_vi top = {0};
    int32_t bits = 0;
    float max = 0.0f;
#pragma GCC unroll 16
    for (int j = 0; j < HD_PACKED_GROUP / HD_LANES; j++) {
        x->v[j] = hd_load(row, dtype, at + j * HD_LANES, at + HD_PACKED_GROUP);
        hd_vi magnitude = (hd_vi)x->v[j] & 0x7FFFFFFF, larger = magnitude > top;
        top = (magnitude & larger) | (top & ~larger);
    }
    for (int l = 0; l < HD_LANES; l++) { bits = top[l] > bits ? top[l] : bits; }
    if (bits >= 0x7F800000) { return NAN; }
    memcpy(&max, &bits, sizeof max);
    return max;
}

/* HD_LANES codes of x, rounded to even; returns x rounded. */
HD_INLINE hd_vf round_codes(hd_vf x, int8_t *codes, hd_vi *sums)
{
    typedef int8_t narrow __attribute__((vector_size(HD_LANES), aligned(1)));
    hd_vf rounded = (x + 12582912.0f) - 12582912.0f;
    hd_vi code = __builtin_convertvector(rounded, hd_vi);
    *sums += code;
    *(narrow *)codes = __builtin_convertvector(code, narrow);
    return rounded;
}

/* As hd_round_group, the same bits; sums are of the codes and of the rest's. */
HD_INLINE float round_group(const void *row, hd_dtype dtype, int64_t at, int8_t *codes, int8_t *rest, int32_t sums[2])
{
    round_vectors x;
    hd_vi total[2] = {{0}};
    float max = round_load(row, dtype, at, &x), inverse = max > 0.0f ? 127.0f / max : 0.0f;
    if (!(inverse <= 3.4028235e38f)) { inverse = 0.0f; }
#pragma GCC unroll 16
    for (int j = 0; j < HD_PACKED_GROUP / HD_LANES; j++) {
        hd_vf scaled = hd_product_alone((hd_vf)((hd_vi)x.v[j] & (max == max ? -1 : 0)), hd_splat(inverse));
        hd_vf rounded = round_codes(scaled, codes + j * HD_LANES, &total[0]);
        if (rest == NULL) { continue; }
        (void)round_codes(hd_product_alone(scaled - rounded, hd_splat((float)HD_ROUND_REST)), rest + j * HD_LANES, &total[1]);
    }
    sums[0] = sums[1] = 0;
    for (int l = 0; l < HD_LANES; l++) {
        sums[0] += total[0][l];
        sums[1] += total[1][l];
    }
    return max / 127.0f;
}

/* Codes of a group as 16-bit numbers. */
HD_INLINE void stream_widen(const int8_t *codes, const int8_t *rest, int16_t *wide)
{
    for (int k = 0; k < HD_PACKED_GROUP; k++) { wide[k] = (int16_t)(rest != NULL ? HD_ROUND_REST * codes[k] + rest[k] : codes[k]); }
}

static void stream_packed_prepare(const stream_part *part, int64_t i)
{
    const void *row = hd_row(part->x, i);
    const bool fine = part->w->fine_inputs, wide = part->method.wide;
    const int32_t offset = packed_offset(part->w->value.dtype);
    for (int64_t g = 0; g < part->groups; g++) {
        int8_t narrow[2][HD_PACKED_GROUP];
        int32_t sums[2];
        int64_t at = i * part->n_code * part->groups + g; /* of narrow codes */
        int8_t *codes = wide ? narrow[0] : part->codes + at * HD_PACKED_GROUP;
        int8_t *rest = !fine ? NULL : wide ? narrow[1] : codes + part->groups * HD_PACKED_GROUP;
        float scale = round_group(row, part->x->dtype, g * HD_PACKED_GROUP, codes, rest, sums);
        part->scales[i * part->groups + g] = fine ? scale / (float)HD_ROUND_REST : scale;
        if (wide) {
            stream_widen(codes, rest, (int16_t *)(void *)part->codes + (i * part->groups + g) * HD_PACKED_GROUP);
            continue;
        }
        part->code_offsets[at] = offset * sums[0];
        if (fine) { part->code_offsets[at + part->groups] = offset * sums[1]; }
    }
}

/* A product with the x of the one before shares its codes. */
static hd_status stream_packed_reserve(hd_exec *ex, stream_part *part, const stream_part *before, hd_err *err)
{
    hd_status st = HD_OK;
    void *codes, *scales, *offsets;
    part->groups = part->in / HD_PACKED_GROUP;
    part->method = packed_method_of(part->w->value.dtype, part->w->fine_inputs);
    part->n_code = part->w->fine_inputs && !part->method.wide ? 2 : 1;
    part->block_rows = hd_packed_rows(part->out) / HD_PACKED_ROWS;
    part->row_bytes = part->groups * hd_packed_block_bytes(part->w->value.dtype);
    int64_t rows = part->x->shape[0];
    part->code_bytes = part->method.wide ? (int64_t)sizeof(int16_t) : part->n_code;
    part->own_inputs = part->own_inputs || before->w->fine_inputs != part->w->fine_inputs || before->w->value.dtype != part->w->value.dtype;
    if (!part->own_inputs) {
        part->codes = before->codes;
        part->scales = before->scales;
        part->code_offsets = before->code_offsets;
        goto out;
    }
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->groups * HD_PACKED_GROUP * part->code_bytes), &codes, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->groups) * sizeof(float), &scales, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(rows * part->n_code * part->groups) * sizeof(int32_t), &offsets, err));
    part->codes = codes;
    part->scales = scales;
    part->code_offsets = offsets;
out:
    return st;
}

/* ---- items ---------------------------------------------------------------------------------------------------------------- */

/* Rows [row, row + rows) of the task, columns of block row b. */
static void stream_packed_store(const stream_task *task, const packed_tile *t, int64_t row, int64_t rows, int p, int64_t b)
{
    int64_t first = b * HD_PACKED_ROWS, n = hd_min_i64(HD_PACKED_ROWS, task->part->out - first);
    for (int64_t i = 0; i < rows; i++) { stream_store(task, row + i, first, n, &t->sums[i][p * HD_PACKED_ROWS]); }
}

/* Block rows a and b (the same when there is no second one) times all rows of the task. */
static void stream_packed_pair(const stream_task *task, int64_t a, int64_t b)
{
    const stream_part *part = task->part;
    packed_tile t; /* not cleared: the sums are most of it */
    const int64_t pair[PACKED_PAIR] = {a, b};
    t.groups = part->groups;
    for (int p = 0; p < PACKED_PAIR; p++) {
        t.blocks[p] = (const uint8_t *)task->w + pair[p] * part->row_bytes;
        t.scales[p] = (const uint16_t *)task->scales + pair[p] * part->groups * HD_PACKED_ROWS;
    }
    for (int64_t i = 0; i < task->n_row;) {
        int64_t left = task->n_row - i, tiles = hd_ceil_div(left, part->method.most), rows = hd_ceil_div(left, tiles);
        int64_t at = (task->row + i) * part->groups;
        t.codes = part->codes + at * HD_PACKED_GROUP * part->code_bytes;
        t.in_scales = part->scales + at;
        t.in_offsets = part->code_offsets + at * part->n_code;
        t.ahead = packed_ahead(part->w->value.dtype, rows * part->n_code);
        part->method.kernels[rows](&t);
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
