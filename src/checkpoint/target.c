/* Lists of target tensors, and the windows in which they are written.  See target.h. */
#include "checkpoint/target.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "checkpoint/packing.h"
#include "tensor/convert.h"

/* ---- lists --------------------------------------------------------------------------------------------------------- */

void hd_target_free(hd_target *t)
{
    hd_shards_free(&t->shards);
    hd_free(t->tensors);
    hd_free(t->pieces);
    hd_buf_free(&t->names);
    *t = (hd_target){0};
}

static hd_status grow(void **rows, int64_t n, int64_t *capacity, size_t row_bytes, const char *what, hd_err *err)
{
    if (n < *capacity) { return HD_OK; }
    int64_t wider = *capacity == 0 ? 64 : 2 * *capacity;
    hd_status st = hd_realloc(rows, (size_t)*capacity, (size_t)wider, row_bytes, what, err);
    if (st == HD_OK) { *capacity = wider; }
    return st;
}

hd_status hd_target_add(hd_target *t, const char *name, hd_dtype dtype, int n_dim, const int64_t *shape, hd_target_rule rule,
                        int64_t grain, hd_err *err)
{
    hd_status st;
    void *rows = t->tensors;
    HD_TRY(grow(&rows, t->n_tensor, &t->tensor_capacity, sizeof *t->tensors, "tensors to write", err));
    t->tensors = rows;
    hd_target_tensor *row = &t->tensors[t->n_tensor++];
    *row = (hd_target_tensor){.rule = rule, .first_piece = t->n_piece, .grain = grain > 0 ? grain : n_dim > 0 ? shape[n_dim - 1] : 1};
    row->desc = (hd_st_desc){.dtype = dtype, .n_dim = n_dim, .begin = (int64_t)t->names.n};
    for (int i = 0; i < n_dim; i++) { row->desc.shape[i] = shape[i]; }
    hd_buf_append(&t->names, name, strlen(name) + 1);
    st = hd_buf_check(&t->names, err);
out:
    return st;
}

hd_status hd_target_add_piece(hd_target *t, const hd_target_piece *piece, hd_err *err)
{
    void *rows = t->pieces;
    hd_status st = grow(&rows, t->n_piece, &t->piece_capacity, sizeof *t->pieces, "pieces of tensors", err);
    if (st != HD_OK) { return st; }
    t->pieces = rows;
    t->pieces[t->n_piece++] = *piece;
    t->tensors[t->n_tensor - 1].n_piece++;
    return HD_OK;
}

hd_status hd_target_add_whole(hd_target *t, const char *name, hd_dtype dtype, hd_target_rule rule, const hd_source_tensor *source,
                              hd_err *err)
{
    int64_t scales[2] = {hd_f8_blocks(source->rows), hd_f8_blocks(source->columns)};
    bool is_scales = rule == HD_TARGET_F8_SCALES;
    hd_target_piece piece = {.source = *source, .row_stride = source->columns, .column_stride = 1};
    bool in_blocks = rule != HD_TARGET_VALUES || (source->scale_place >= 0 && dtype != source->dtype);
    if (!in_blocks) { /* windows of any size: rows do not matter */
        piece.source.rows *= source->columns;
        piece.source.columns = piece.row_stride = 1;
    }
    hd_status st = hd_target_add(t, name, dtype, is_scales ? 2 : source->n_dim, is_scales ? scales : source->shape, rule, in_blocks ? 0 : 1, err);
    return st == HD_OK ? hd_target_add_piece(t, &piece, err) : st;
}

#define ODD_RANK (INT64_C(1) << 40)

enum { MATRICES_AHEAD = 4 /* whose reading is announced while one is packed */ };

/* One of the two tensors of a packed matrix: U8 blocks or BF16 scales, both (rows, across, last). */
static hd_status add_half(hd_target *t, const char *name, hd_dtype stored, const int64_t shape[3], hd_target_rule rule,
                          const hd_source_tensor *source, hd_err *err)
{
    hd_target_piece piece = {.source = *source, .row_stride = 1, .column_stride = 1};
    if (rule == HD_TARGET_VALUES) {
        piece.source.rows *= piece.source.columns;
        piece.source.columns = 1;
    }
    hd_status st = hd_target_add(t, name, stored, 3, shape, rule, 1, err);
    if (st != HD_OK) { return st; }
    hd_st_desc *desc = &t->tensors[t->n_tensor - 1].desc;
    bool odd = shape[0] % 2 == 1 && shape[1] % 2 == 1; /* of an odd number of blocks: scales end between two multiples of 64 */
    desc->rank = ++t->n_packed + (odd ? ODD_RANK : 0);
    desc->with_last = t->n_packed % 2 == 0;
    return hd_target_add_piece(t, &piece, err);
}

hd_status hd_target_add_packed(hd_target *t, const hd_folder *folder, const char *name, hd_dtype dtype, const hd_source_tensor *source,
                               hd_err *err)
{
    hd_status st;
    hd_buf scale_name = {0};
    bool stored = source->dtype == dtype && hd_source_is_packed(source);
    int64_t blocks[3] = {hd_packed_rows(source->rows) / HD_PACKED_ROWS, source->columns / HD_PACKED_GROUP, hd_packed_block_bytes(dtype)};
    int64_t scales[3] = {blocks[0], blocks[1], HD_PACKED_ROWS};
    hd_source_tensor stored_blocks, stored_scales;
    const hd_source_tensor *block_source = source, *scale_source = source;
    if (stored) {
        stored_blocks = hd_source_stored(folder, source->place);
        stored_scales = hd_source_stored(folder, source->scale_place);
        block_source = &stored_blocks;
        scale_source = &stored_scales;
    }
    hd_buf_printf(&scale_name, "%s" HD_PACKED_SCALE_SUFFIX, name);
    HD_TRY(hd_buf_check(&scale_name, err));
    HD_TRY(add_half(t, name, HD_DTYPE_U8, blocks, stored ? HD_TARGET_VALUES : HD_TARGET_BLOCKS, block_source, err));
    st = add_half(t, hd_buf_text(&scale_name), HD_DTYPE_BF16, scales, stored ? HD_TARGET_VALUES : HD_TARGET_BLOCK_SCALES, scale_source, err);
out:
    hd_buf_free(&scale_name);
    return st;
}

hd_status hd_target_cut(hd_target *t, int64_t max_shard, const char *stem, hd_err *err)
{
    for (int64_t i = 0; i < t->n_tensor; i++) { t->tensors[i].desc.name = t->names.data + t->tensors[i].desc.begin; }
    t->shards.rows = t->tensors;
    t->shards.row_bytes = sizeof *t->tensors;
    return hd_shards_cut(&t->shards, 0, t->n_tensor, max_shard, stem, err);
}

/* ---- block scales -------------------------------------------------------------------------------------------------- */

static float power_of_two_scale(float amax)
{
    int exponent;
    (void)frexpf(amax, &exponent); /* 2^(exponent - 1) <= amax, 448 = 1.75 * 2^8 */
    float scale = ldexpf(1.0f, exponent < -117 ? -126 : exponent - 9);
    while (scale * 448.0f < amax) { scale *= 2.0f; }
    return scale;
}

float hd_f8_block_scale(const float *values, int64_t stride, int64_t n_row, int64_t n_column, hd_scale_format format)
{
    float amax = 0.0f;
    for (int64_t r = 0; r < n_row; r++) {
        for (int64_t c = 0; c < n_column; c++) {
            float magnitude = fabsf(values[r * stride + c]);
            if (magnitude > amax) { amax = magnitude; } /* false for NaN */
        }
    }
    if (amax == 0.0f) { return 1.0f; }
    if (isinf(amax)) { return amax; }
    if (format == HD_SCALE_UE8M0) { return power_of_two_scale(amax); }
    return fmaxf(amax / 448.0f, 0x1p-126f);
}

/* ---- windows --------------------------------------------------------------------------------------------------------- */

typedef struct writer {
    const hd_target *target;
    hd_source *source;
    hd_packer *packer;
    hd_write_queue *queue;
    hd_target_hook hook;
    hd_file *file;
    int64_t end;            /* of the file's tensors */
    int64_t data_at;        /* of the tensors' data in the file */
    unsigned char *scatter; /* a rectangle on its way to another order; allocated when one needs it */
    float *band;            /* one row of blocks in f32, for FP8 */
    size_t scatter_bytes, band_bytes;
} writer;

static hd_status at_least(void **memory, size_t *have, size_t want, hd_err *err)
{
    if (want <= *have) { return HD_OK; }
    hd_free(*memory);
    *memory = NULL;
    *have = 0;
    hd_status st = hd_alloc(want, 1, "rectangle of a tensor", memory, err);
    if (st == HD_OK) { *have = want; }
    return st;
}

/* in (n_row, n_column) to out[r * row_stride + c * column_stride], in squares that stay in the cache. */
#define SCATTER(type)                                                                                                            \
    for (int64_t r0 = 0; r0 < n_row; r0 += 32) {                                                                                 \
        for (int64_t c0 = 0; c0 < n_column; c0 += 32) {                                                                          \
            for (int64_t r = r0; r < n_row && r < r0 + 32; r++) {                                                                \
                for (int64_t c = c0; c < n_column && c < c0 + 32; c++) {                                                         \
                    ((type *)out)[r * row_stride + c * column_stride] = ((const type *)in)[r * n_column + c];                    \
                }                                                                                                                \
            }                                                                                                                    \
        }                                                                                                                        \
    }

static void scatter(size_t size, const void *in, int64_t n_row, int64_t n_column, void *out, int64_t row_stride, int64_t column_stride)
{
    switch (size) {
    case 1: SCATTER(uint8_t) break;
    case 2: SCATTER(uint16_t) break;
    case 4: SCATTER(uint32_t) break;
    default: SCATTER(uint64_t) break;
    }
}

/* The part of a piece that lies in elements [begin, end) of the target, whole rows or whole columns of it. */
static hd_rect part_of(const hd_target_piece *p, int64_t begin, int64_t end)
{
    bool by_row = p->row_stride >= p->column_stride;
    int64_t outer = by_row ? p->row_stride : p->column_stride, n = by_row ? p->source.rows : p->source.columns;
    int64_t from = begin > p->base ? (begin - p->base + outer - 1) / outer : 0, to = end > p->base ? (end - p->base + outer - 1) / outer : 0;
    if (to > n) { to = n; }
    if (from > to) { from = to; }
    return by_row ? (hd_rect){from, to - from, 0, p->source.columns} : (hd_rect){0, p->source.rows, from, to - from};
}

static hd_status fill_piece(writer *w, const hd_target_tensor *t, const hd_target_piece *p, int64_t begin, int64_t end, unsigned char *out,
                            hd_err *err)
{
    hd_status st;
    size_t size = hd_dtype_bytes(t->desc.dtype);
    hd_rect rect = part_of(p, begin, end);
    if (rect.n_row == 0 || rect.n_column == 0) { return HD_OK; }
    unsigned char *at = out + (size_t)(p->base + rect.row * p->row_stride + rect.column * p->column_stride - begin) * size;
    if (p->column_stride == 1 && p->row_stride == rect.n_column) {
        return hd_source_read(w->source, &p->source, rect, t->desc.dtype, at, err);
    }
    void *memory = w->scatter;
    HD_TRY(at_least(&memory, &w->scatter_bytes, (size_t)(rect.n_row * rect.n_column) * size, err));
    w->scatter = memory;
    HD_TRY(hd_source_read(w->source, &p->source, rect, t->desc.dtype, w->scatter, err));
    scatter(size, w->scatter, rect.n_row, rect.n_column, at, p->row_stride, p->column_stride);
out:
    return st;
}

static bool has_f16_infinity(const unsigned char *data, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, data + 2 * i, 2);
        if ((half & 0x7FFF) == 0x7C00) { return true; }
    }
    return false;
}

static hd_status fill_values(writer *w, const hd_target_tensor *t, int64_t begin, int64_t end, unsigned char *out, hd_err *err)
{
    bool narrowed = false;
    for (int64_t i = 0; i < t->n_piece; i++) {
        const hd_target_piece *p = &w->target->pieces[t->first_piece + i];
        hd_status st = fill_piece(w, t, p, begin, end, out, err);
        if (st != HD_OK) { return st; }
        narrowed = narrowed || (t->desc.dtype == HD_DTYPE_F16 && p->source.dtype != HD_DTYPE_F16);
    }
    if (narrowed && has_f16_infinity(out, end - begin)) {
        return HD_FAIL(err, HD_E_INVALID, "tensor %s has a value above 65504, which F16 cannot hold: use bfloat16 or float32", t->desc.name);
    }
    return HD_OK;
}

/* One row of blocks of the piece, as f32. */
static hd_status read_band(writer *w, const hd_target_piece *p, int64_t block_row, hd_rect *rect, hd_err *err)
{
    hd_status st;
    void *memory = w->band;
    int64_t row = block_row * HD_F8_BLOCK;
    *rect = (hd_rect){row, p->source.rows - row < HD_F8_BLOCK ? p->source.rows - row : HD_F8_BLOCK, 0, p->source.columns};
    HD_TRY(at_least(&memory, &w->band_bytes, (size_t)(HD_F8_BLOCK * p->source.columns) * sizeof(float), err));
    w->band = memory;
    st = hd_source_read(w->source, &p->source, *rect, HD_DTYPE_F32, w->band, err);
out:
    return st;
}

/* Rows of codes, or of scales: both walk the row's blocks and differ in what they keep. */
static hd_status quantize_band(writer *w, const hd_target_tensor *t, int64_t block_row, unsigned char *codes, float *scales, hd_err *err)
{
    hd_rect rect;
    const hd_target_piece *p = &w->target->pieces[t->first_piece];
    hd_status st = read_band(w, p, block_row, &rect, err);
    for (int64_t c = 0; st == HD_OK && c < rect.n_column; c += HD_F8_BLOCK) {
        int64_t n = rect.n_column - c < HD_F8_BLOCK ? rect.n_column - c : HD_F8_BLOCK;
        float scale = hd_f8_block_scale(w->band + c, rect.n_column, rect.n_row, n, w->target->scale_format);
        if (!isfinite(scale)) {
            return HD_FAIL(err, HD_E_INVALID, "tensor %s holds an infinity, which FP8 cannot hold", t->desc.name);
        }
        if (scales != NULL) { scales[c / HD_F8_BLOCK] = scale; }
        if (codes != NULL) { hd_quantize_f8_block(w->band + c, rect.n_column, rect.n_row, n, scale, codes + c, rect.n_column); }
    }
    return st;
}

static hd_status fill_quantized(writer *w, const hd_target_tensor *t, int64_t begin, int64_t end, unsigned char *out, hd_err *err)
{
    hd_status st = HD_OK;
    bool codes = t->rule == HD_TARGET_F8_CODES;
    int64_t columns = t->desc.shape[1], rows = codes ? HD_F8_BLOCK : 1; /* of the target in one row of blocks */
    for (int64_t row = begin / columns; row * columns < end && st == HD_OK; row += rows) {
        unsigned char *at = out + (row * columns - begin) * (int64_t)hd_dtype_bytes(t->desc.dtype);
        st = quantize_band(w, t, row / rows, codes ? at : NULL, codes ? NULL : (float *)(void *)at, err);
    }
    return st;
}

static hd_status fill(writer *w, const hd_target_tensor *t, int64_t begin, int64_t end, unsigned char *out, hd_err *err)
{
    return t->rule == HD_TARGET_VALUES ? fill_values(w, t, begin, end, out, err) : fill_quantized(w, t, begin, end, out, err);
}

/* Elements of a window: whole grains, and whole rows of blocks. */
static int64_t window_elements(const hd_target_tensor *t, size_t buffer_bytes)
{
    int64_t grain = t->grain * (t->rule == HD_TARGET_F8_CODES ? HD_F8_BLOCK : 1);
    int64_t most = (int64_t)(buffer_bytes / hd_dtype_bytes(t->desc.dtype));
    return grain > most ? 0 : most / grain * grain;
}

/* n bytes for [at, at + n) of a tensor. */
static hd_status put(writer *w, const hd_target_tensor *t, unsigned char *buffer, int64_t at, int64_t n, hd_err *err)
{
    return hd_write_queue_put(w->queue, w->file, buffer, (size_t)n, w->data_at + t->desc.begin + at, err);
}

/* Block rows [first, first + n) and their scales: two windows. */
static hd_status write_block_rows(writer *w, const hd_target_tensor *t, int64_t first, int64_t n, hd_err *err)
{
    const hd_source_tensor *source = &w->target->pieces[t->first_piece].source;
    hd_dtype dtype = t->desc.shape[2] == hd_packed_block_bytes(HD_DTYPE_I4) ? HD_DTYPE_I4 : HD_DTYPE_I8;
    int64_t across = t->desc.shape[1], block_bytes = across * t->desc.shape[2], scale_bytes = across * 2 * HD_PACKED_ROWS;
    unsigned char *blocks = NULL, *scales = NULL;
    hd_status st = hd_write_queue_take(w->queue, &blocks, err);
    if (st == HD_OK) { st = hd_write_queue_take(w->queue, &scales, err); }
    if (st == HD_OK) { st = hd_packer_run(w->packer, source, dtype, first, n, blocks, (uint16_t *)(void *)scales, err); }
    if (st != HD_OK) {
        hd_write_queue_drop(w->queue, blocks);
        hd_write_queue_drop(w->queue, scales);
        return st;
    }
    st = put(w, t, blocks, first * block_bytes, n * block_bytes, err);
    if (st == HD_OK) {
        st = put(w, t + 1, scales, first * scale_bytes, n * scale_bytes, err);
    } else {
        hd_write_queue_drop(w->queue, scales);
    }
    return st;
}

/* The sources of the next matrices, which lie anywhere in their files. */
static void read_ahead(const writer *w, const hd_target_tensor *t)
{
    const hd_target_tensor *next = t + 2 * MATRICES_AHEAD;
    if (next >= w->target->tensors + w->end || next->rule != HD_TARGET_BLOCKS) { return; }
    hd_source_will_read(w->source->folder, &w->target->pieces[next->first_piece].source);
}

static hd_status write_blocks(writer *w, const hd_target_tensor *t, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t window = (int64_t)hd_write_queue_buffer_bytes(w->queue) / (t->desc.shape[1] * t->desc.shape[2]), rows = t->desc.shape[0];
    assert(t[1].rule == HD_TARGET_BLOCK_SCALES);
    read_ahead(w, t);
    if (window == 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "tensor %s: one row of its blocks does not fit a window of %zu bytes", t->desc.name,
                       hd_write_queue_buffer_bytes(w->queue));
    }
    for (int64_t first = 0; first < rows && st == HD_OK; first += window) {
        st = write_block_rows(w, t, first, rows - first < window ? rows - first : window, err);
        if (st == HD_OK && w->hook.call != NULL) { st = w->hook.call(w->hook.arg, err); }
    }
    return st;
}

static hd_status write_tensor(writer *w, const hd_target_tensor *t, hd_err *err)
{
    hd_status st = HD_OK;
    if (t->rule == HD_TARGET_BLOCKS) { return write_blocks(w, t, err); }
    if (t->rule == HD_TARGET_BLOCK_SCALES) { return HD_OK; }
    int64_t size = (int64_t)hd_dtype_bytes(t->desc.dtype), n = (t->desc.end - t->desc.begin) / size;
    int64_t window = n > 0 ? window_elements(t, hd_write_queue_buffer_bytes(w->queue)) : 1;
    if (window == 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "tensor %s: one row of it does not fit a window of %zu bytes", t->desc.name,
                       hd_write_queue_buffer_bytes(w->queue));
    }
    for (int64_t begin = 0; begin < n && st == HD_OK; begin += window) {
        unsigned char *buffer;
        int64_t end = n - begin < window ? n : begin + window;
        st = hd_write_queue_take(w->queue, &buffer, err);
        if (st != HD_OK) { return st; }
        st = fill(w, t, begin, end, buffer, err);
        if (st != HD_OK) {
            hd_write_queue_drop(w->queue, buffer);
            return st;
        }
        st = put(w, t, buffer, begin * size, (end - begin) * size, err);
        if (st == HD_OK && w->hook.call != NULL) { st = w->hook.call(w->hook.arg, err); }
    }
    return st;
}

static hd_status write_head(writer *w, const hd_buf *head, hd_err *err)
{
    size_t room = hd_write_queue_buffer_bytes(w->queue);
    for (size_t at = 0; at < head->n; at += room) {
        unsigned char *buffer;
        size_t n = head->n - at < room ? head->n - at : room;
        hd_status st = hd_write_queue_take(w->queue, &buffer, err);
        if (st != HD_OK) { return st; }
        memcpy(buffer, head->data + at, n);
        st = hd_write_queue_put(w->queue, w->file, buffer, n, (int64_t)at, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_target_write_file(const hd_target *t, int64_t file, hd_target_reader reader, hd_write_queue *queue, const char *path,
                               const char *final_path, hd_target_hook hook, hd_err *err)
{
    hd_status st;
    const hd_shard_file *f = &t->shards.files[file];
    writer w = {.target = t, .source = reader.source, .packer = reader.packer, .queue = queue, .hook = hook, .end = f->first + f->n, .data_at = (int64_t)f->head.n};
    HD_TRY(hd_io_create(path, HD_IO_TRUNCATE, &w.file, err));
    HD_TRY(write_head(&w, &f->head, err));
    for (int64_t i = 0; i < f->n; i++) { HD_TRY(write_tensor(&w, &t->tensors[f->first + i], err)); }
    hd_file *written = w.file;
    w.file = NULL;
    st = hd_write_queue_finish(queue, written, path, final_path, err);
out:
    hd_write_queue_abandon(queue, w.file);
    hd_free(w.scatter);
    hd_free(w.band);
    return st;
}
