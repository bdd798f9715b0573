/* Logical tensors over stored ones.  See source.h. */
#include "checkpoint/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/packing.h"
#include "tensor/convert.h"

enum { SCALES_AT_ONCE = 512 }; /* of one row of blocks */

hd_status hd_source_open(hd_folder *folder, hd_source *out, hd_err *err)
{
    void *stage = NULL;
    hd_status st = hd_alloc(HD_SOURCE_STAGE, 1, "staging of a checkpoint", &stage, err);
    *out = (hd_source){.folder = folder, .stage = stage};
    return st;
}

void hd_source_close(hd_source *source)
{
    hd_free(source->stage);
    *source = (hd_source){0};
}

bool hd_source_is_float(const hd_source_tensor *t)
{
    return hd_dtype_is_float(t->dtype) || (t->dtype == HD_DTYPE_F8_E4M3 && t->scale_place >= 0) || hd_source_is_packed(t);
}

/* ---- finding ------------------------------------------------------------------------------------------------------- */

static void set_shape(hd_source_tensor *t, int n_dim, const int64_t *shape)
{
    t->n_dim = n_dim;
    t->columns = n_dim > 0 ? shape[n_dim - 1] : 1;
    t->rows = 1;
    for (int i = 0; i < n_dim; i++) {
        t->shape[i] = shape[i];
        if (i < n_dim - 1) { t->rows *= shape[i]; } /* the reader checked that the products fit */
    }
    if (t->columns == 0) { t->rows = 0; }
}

hd_source_tensor hd_source_stored(const hd_folder *folder, int64_t place)
{
    hd_st_info info = hd_folder_info(folder, place);
    hd_source_tensor t = {.place = place, .scale_place = -1, .dtype = info.dtype};
    set_shape(&t, info.n_dim, info.shape);
    return t;
}

static bool is_scale_dtype(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F32 || dtype == HD_DTYPE_BF16 || dtype == HD_DTYPE_F8_E8M0 || dtype == HD_DTYPE_U8;
}

static hd_status find_scales(const hd_folder *f, const char *name, hd_source_tensor *t, hd_err *err)
{
    char scale[HD_HF_NAME_MAX + 16], found[HD_ST_TEXT];
    const char *path = hd_st_path(hd_folder_reader(f, t->place));
    (void)snprintf(scale, sizeof scale, "%s_scale_inv", name);
    t->scale_place = hd_folder_find(f, scale);
    if (t->scale_place < 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is F8_E4M3 and its block scales, %s, are missing", path, name, scale);
    }
    hd_st_info info = hd_folder_info(f, t->scale_place);
    int64_t want[2] = {hd_f8_blocks(t->rows), hd_f8_blocks(t->columns)};
    if (t->n_dim != 2 || info.n_dim != 2 || info.shape[0] != want[0] || info.shape[1] != want[1] || !is_scale_dtype(info.dtype)) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is %s, want F32, BF16 or F8_E8M0 (%" PRId64 ", %" PRId64
                       "): one scale per block of %d x %d", hd_st_path(hd_folder_reader(f, t->scale_place)), scale,
                       hd_st_describe(info.dtype, info.n_dim, info.shape, found), want[0], want[1], HD_F8_BLOCK, HD_F8_BLOCK);
    }
    return HD_OK;
}

/* U8 blocks of a matrix of the model become I8 or I4 of the shape that the model has. */
static hd_status find_packed(const hd_folder *f, const char *name, const int64_t shape[2], hd_source_tensor *t, hd_err *err)
{
    char scale[HD_HF_NAME_MAX + 16], found[HD_ST_TEXT];
    const char *path = hd_st_path(hd_folder_reader(f, t->place));
    int64_t want[3] = {hd_packed_rows(shape[0]) / HD_PACKED_ROWS, shape[1] / HD_PACKED_GROUP, HD_PACKED_ROWS};
    bool i4 = t->n_dim == 3 && t->shape[2] == hd_packed_block_bytes(HD_DTYPE_I4), i8 = t->n_dim == 3 && t->shape[2] == hd_packed_block_bytes(HD_DTYPE_I8);
    if (shape[1] % HD_PACKED_GROUP != 0 || !(i4 || i8) || t->shape[0] != want[0] || t->shape[1] != want[1]) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is %s, want U8 (%" PRId64 ", %" PRId64 ", 1024 or 512): blocks of a matrix (%" PRId64
                       ", %" PRId64 ")", path, name, hd_st_describe(t->dtype, t->n_dim, t->shape, found), want[0], want[1], shape[0], shape[1]);
    }
    (void)snprintf(scale, sizeof scale, "%s" HD_PACKED_SCALE_SUFFIX, name);
    t->scale_place = hd_folder_find(f, scale);
    if (t->scale_place < 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is packed and its scales, %s, are missing", path, name, scale);
    }
    hd_st_info info = hd_folder_info(f, t->scale_place);
    if (info.dtype != HD_DTYPE_BF16 || info.n_dim != 3 || memcmp(info.shape, want, sizeof want) != 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is %s, want BF16 (%" PRId64 ", %" PRId64 ", %" PRId64 ")",
                       hd_st_path(hd_folder_reader(f, t->scale_place)), scale, hd_st_describe(info.dtype, info.n_dim, info.shape, found), want[0],
                       want[1], want[2]);
    }
    t->dtype = i4 ? HD_DTYPE_I4 : HD_DTYPE_I8;
    set_shape(t, 2, shape);
    return HD_OK;
}

bool hd_fused_name_of(const char *name, hd_fused_name *out)
{
    static const struct {
        const char *matrix, *fused;
        int part, n_part;
    } rows[] = {{"gate_proj.weight", "gate_up_proj", 0, 2}, {"up_proj.weight", "gate_up_proj", 1, 2}, {"down_proj.weight", "down_proj", 0, 1}};
    static const char middle[] = "mlp.experts.";
    const char *rest;
    int64_t layer = hd_hf_layer_of(name, &rest), expert = 0;
    int digits = 0;
    if (layer < 0 || strncmp(rest, middle, sizeof middle - 1) != 0) { return false; }
    for (rest += sizeof middle - 1; *rest >= '0' && *rest <= '9' && digits < 9; rest++, digits++) { expert = expert * 10 + (*rest - '0'); }
    if (digits == 0 || *rest != '.') { return false; }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rest + 1, rows[i].matrix) != 0) { continue; }
        *out = (hd_fused_name){.expert = expert, .part = rows[i].part, .n_part = rows[i].n_part};
        (void)snprintf(out->name, sizeof out->name, "model.layers.%" PRId64 ".mlp.experts.%s", layer, rows[i].fused);
        return true;
    }
    return false;
}

/* The rows of one expert in a fused tensor (E, parts x rows, columns). */
static hd_status find_fused(const hd_folder *f, const char *name, hd_source_tensor *out, hd_err *err)
{
    hd_fused_name fused;
    char found[HD_ST_TEXT];
    if (!hd_fused_name_of(name, &fused)) { return HD_OK; }
    int64_t place = hd_folder_find(f, fused.name);
    if (place < 0) { return HD_OK; }
    hd_st_info info = hd_folder_info(f, place);
    bool good = info.n_dim == 3 && info.bytes > 0 && info.shape[0] <= HD_FUSED_MAX_EXPERTS && info.shape[1] % fused.n_part == 0;
    if (!good || !hd_dtype_is_float(info.dtype)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: tensor %s is %s: fused experts are read as F32, BF16 or F16 (experts, %srows, columns) "
                       "of at most %d experts", hd_st_path(hd_folder_reader(f, place)), fused.name,
                       hd_st_describe(info.dtype, info.n_dim, info.shape, found), fused.n_part == 2 ? "2 x " : "", HD_FUSED_MAX_EXPERTS);
    }
    if (fused.expert >= info.shape[0]) { return HD_OK; }
    int64_t shape[2] = {info.shape[1] / fused.n_part, info.shape[2]};
    *out = (hd_source_tensor){.place = place, .scale_place = -1, .dtype = info.dtype,
                              .first = (fused.expert * fused.n_part + fused.part) * shape[0] * shape[1]};
    set_shape(out, 2, shape);
    return HD_OK;
}

hd_status hd_source_find(const hd_folder *folder, const char *name, hd_source_tensor *out, hd_err *err)
{
    int64_t place = hd_folder_find(folder, name);
    *out = (hd_source_tensor){.place = -1, .scale_place = -1};
    if (place < 0) { return find_fused(folder, name, out, err); }
    int64_t shape[2];
    *out = hd_source_stored(folder, place);
    bool packed = folder->packed_bits != 0 && out->dtype == HD_DTYPE_U8 && hd_packing_shape(&folder->packed_dims, name, shape);
    if (packed) { return find_packed(folder, name, shape, out, err); }
    return out->dtype == HD_DTYPE_F8_E4M3 ? find_scales(folder, name, out, err) : HD_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

bool hd_rect_next(const hd_source_tensor *t, int64_t max_elements, hd_rect *rect)
{
    int64_t row = rect->row, column = rect->column + rect->n_column;
    if (rect->n_row > 0 && column == t->columns) {
        row += rect->n_row;
        column = 0;
    }
    if (row >= t->rows || t->columns == 0) { return false; }
    if (t->columns > max_elements) {
        int64_t n = t->columns - column < max_elements ? t->columns - column : max_elements;
        *rect = (hd_rect){row, 1, column, n};
    } else {
        int64_t most = max_elements / t->columns, n = t->rows - row < most ? t->rows - row : most;
        *rect = (hd_rect){row, n, 0, t->columns};
    }
    return true;
}

static hd_status read_bytes(hd_source *s, int64_t place, int64_t at, size_t n, void *out, hd_err *err)
{
    if (s->lock != NULL) { pthread_mutex_lock(s->lock); }
    hd_status st = hd_st_read(hd_folder_reader(s->folder, place), s->folder->places[place].entry, at, n, out, err);
    if (s->lock != NULL) { pthread_mutex_unlock(s->lock); }
    return st;
}

/* Stored elements of a rectangle, contiguous. */
static hd_status read_stored(hd_source *s, const hd_source_tensor *t, hd_rect rect, void *out, hd_err *err)
{
    int64_t size = (int64_t)hd_dtype_bytes(t->dtype);
    if (rect.n_column == t->columns) {
        return read_bytes(s, t->place, (t->first + rect.row * t->columns) * size, (size_t)(rect.n_row * t->columns * size), out, err);
    }
    for (int64_t r = 0; r < rect.n_row; r++) {
        int64_t at = (t->first + (rect.row + r) * t->columns + rect.column) * size;
        hd_status st = read_bytes(s, t->place, at, (size_t)(rect.n_column * size), (unsigned char *)out + r * rect.n_column * size, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* Scales [first, first + n) of a row of blocks as f32. */
static hd_status read_scales(hd_source *s, const hd_source_tensor *t, int64_t block_row, int64_t first, int64_t n, float *out, hd_err *err)
{
    unsigned char raw[SCALES_AT_ONCE * sizeof(float)];
    hd_dtype dtype = hd_folder_info(s->folder, t->scale_place).dtype;
    int64_t size = (int64_t)hd_dtype_bytes(dtype), at = block_row * hd_f8_blocks(t->columns) + first;
    hd_status st = read_bytes(s, t->scale_place, at * size, (size_t)(n * size), raw, err);
    if (st != HD_OK) { return st; }
    if (hd_dtype_is_float(dtype)) {
        hd_convert(dtype, raw, n, HD_DTYPE_F32, out);
    } else {
        for (int64_t i = 0; i < n; i++) { out[i] = hd_f8_e8m0_to_f32(raw[i]); }
    }
    return HD_OK;
}

hd_status hd_source_read_f8_scales(hd_source *s, const hd_source_tensor *t, float *out, hd_err *err)
{
    int64_t across = hd_f8_blocks(t->columns), n;
    for (int64_t row = 0; row < hd_f8_blocks(t->rows); row++) {
        for (int64_t first = 0; first < across; first += n) {
            n = across - first < SCALES_AT_ONCE ? across - first : SCALES_AT_ONCE;
            hd_status st = read_scales(s, t, row, first, n, out + row * across + first, err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

/* A rectangle inside one row of blocks, whose codes are in the stage. */
static hd_status scale_band(hd_source *s, const hd_source_tensor *t, hd_rect rect, hd_dtype to, unsigned char *out, hd_err *err)
{
    float scales[SCALES_AT_ONCE];
    int64_t size = (int64_t)hd_dtype_bytes(to), have = 0, first = 0;
    for (int64_t c = 0, n; c < rect.n_column; c += n) {
        int64_t block = (rect.column + c) / HD_F8_BLOCK, last = (rect.column + rect.n_column - 1) / HD_F8_BLOCK;
        if (block >= first + have) {
            first = block;
            have = last + 1 - first < SCALES_AT_ONCE ? last + 1 - first : SCALES_AT_ONCE;
            hd_status st = read_scales(s, t, rect.row / HD_F8_BLOCK, first, have, scales, err);
            if (st != HD_OK) { return st; }
        }
        int64_t end = (block + 1) * HD_F8_BLOCK - rect.column;
        n = (end < rect.n_column ? end : rect.n_column) - c;
        hd_convert_f8_block(s->stage + c, rect.n_column, rect.n_row, n, scales[block - first], to, out + c * size, rect.n_column);
    }
    return HD_OK;
}

/* One piece: it fits the stage and, with scales, lies in one row of blocks. */
static hd_status read_piece(hd_source *s, const hd_source_tensor *t, hd_rect piece, hd_dtype to, unsigned char *out, hd_err *err)
{
    hd_status st = read_stored(s, t, piece, s->stage, err);
    if (st != HD_OK) { return st; }
    if (t->dtype == HD_DTYPE_F8_E4M3) { return scale_band(s, t, piece, to, out, err); }
    hd_convert(t->dtype, s->stage, piece.n_row * piece.n_column, to, out);
    return HD_OK;
}

void hd_source_will_read(const hd_folder *folder, const hd_source_tensor *t)
{
    hd_file *file = folder->files[folder->places[t->place].file].block.file;
    if (file == NULL) { return; } /* in memory */
    hd_io_will_read(file, hd_folder_info(folder, t->place).offset + hd_dtype_run_bytes(t->dtype, t->first), hd_source_bytes(t));
}

/* ---- packed matrices ------------------------------------------------------------------------------------------------- */

enum { PACKED_AT_ONCE = 256 }; /* blocks of a block row */

/* The part of a rectangle that lies in one block. */
static void unpack_part(const hd_source_tensor *t, const unsigned char *block, const uint16_t *scales, hd_rect rect, int64_t block_row,
                        int64_t block_column, hd_dtype to, unsigned char *out)
{
    float values[HD_PACKED_ROWS * HD_PACKED_GROUP];
    int64_t size = (int64_t)hd_dtype_bytes(to), row = block_row * HD_PACKED_ROWS, column = block_column * HD_PACKED_GROUP;
    int64_t r0 = rect.row > row ? rect.row : row, c0 = rect.column > column ? rect.column : column;
    int64_t r1 = rect.row + rect.n_row, c1 = rect.column + rect.n_column;
    hd_unpack_block(t->dtype, block, scales, values, HD_PACKED_GROUP);
    if (r1 > row + HD_PACKED_ROWS) { r1 = row + HD_PACKED_ROWS; }
    if (c1 > column + HD_PACKED_GROUP) { c1 = column + HD_PACKED_GROUP; }
    for (int64_t r = r0; r < r1; r++) {
        unsigned char *at = out + ((r - rect.row) * rect.n_column + c0 - rect.column) * size;
        hd_convert(HD_DTYPE_F32, values + (r - row) * HD_PACKED_GROUP + c0 - column, c1 - c0, to, at);
    }
}

hd_status hd_source_check_scales(const hd_folder *folder, const hd_source_tensor *t, const uint16_t *scales, int64_t n, hd_err *err)
{
    for (int64_t i = 0; i < n; i++) {
        if ((scales[i] & 0x7F80) != 0x7F80) { continue; }
        return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s holds a scale that is not finite", hd_st_path(hd_folder_reader(folder, t->scale_place)),
                       hd_folder_info(folder, t->scale_place).name);
    }
    return HD_OK;
}

/* Blocks first .. first + n of a block row. */
static hd_status read_blocks(hd_source *s, const hd_source_tensor *t, int64_t block_row, int64_t first, int64_t n, uint16_t *scales, hd_err *err)
{
    hd_status st;
    int64_t at = block_row * (t->columns / HD_PACKED_GROUP) + first, bytes = hd_packed_block_bytes(t->dtype), scale_bytes = 2 * HD_PACKED_ROWS;
    HD_TRY(read_bytes(s, t->place, at * bytes, (size_t)(n * bytes), s->stage, err));
    HD_TRY(read_bytes(s, t->scale_place, at * scale_bytes, (size_t)(n * scale_bytes), scales, err));
    st = hd_source_check_scales(s->folder, t, scales, n * HD_PACKED_ROWS, err);
out:
    return st;
}

static hd_status read_packed(hd_source *s, const hd_source_tensor *t, hd_rect rect, hd_dtype to, unsigned char *out, hd_err *err)
{
    uint16_t scales[PACKED_AT_ONCE * HD_PACKED_ROWS];
    int64_t end_row = rect.row + rect.n_row, end = (rect.column + rect.n_column + HD_PACKED_GROUP - 1) / HD_PACKED_GROUP;
    for (int64_t br = rect.row / HD_PACKED_ROWS; br * HD_PACKED_ROWS < end_row; br++) {
        for (int64_t first = rect.column / HD_PACKED_GROUP, n; first < end; first += n) {
            n = end - first < PACKED_AT_ONCE ? end - first : PACKED_AT_ONCE;
            hd_status st = read_blocks(s, t, br, first, n, scales, err);
            if (st != HD_OK) { return st; }
            for (int64_t b = 0; b < n; b++) {
                unpack_part(t, s->stage + b * hd_packed_block_bytes(t->dtype), scales + b * HD_PACKED_ROWS, rect, br, first + b, to, out);
            }
        }
    }
    return HD_OK;
}

hd_status hd_source_read(hd_source *source, const hd_source_tensor *t, hd_rect rect, hd_dtype to, void *out, hd_err *err)
{
    bool packed = hd_source_is_packed(t);
    if (to == t->dtype && !packed) { return read_stored(source, t, rect, out, err); }
    if (!hd_source_is_float(t) || !hd_dtype_is_float(to)) {
        return HD_FAIL(err, HD_E_INVALID, "tensor %s: %s cannot be read as %s", hd_folder_info(source->folder, t->place).name,
                       hd_dtype_name(t->dtype), hd_dtype_name(to));
    }
    if (packed) { return read_packed(source, t, rect, to, out, err); }
    int64_t most = HD_SOURCE_STAGE / (int64_t)hd_dtype_bytes(t->dtype);
    for (int64_t r = 0, n_row; r < rect.n_row; r += n_row) {
        int64_t fit = rect.n_column > 0 && rect.n_column <= most ? most / rect.n_column : 1;
        int64_t in_block = HD_F8_BLOCK - (rect.row + r) % HD_F8_BLOCK;
        n_row = rect.n_row - r < fit ? rect.n_row - r : fit;
        if (t->dtype == HD_DTYPE_F8_E4M3 && n_row > in_block) { n_row = in_block; }
        for (int64_t c = 0, n; c < rect.n_column; c += n) {
            n = rect.n_column - c < most ? rect.n_column - c : most;
            hd_rect piece = {rect.row + r, n_row, rect.column + c, n};
            unsigned char *to_at = (unsigned char *)out + (r * rect.n_column + c) * (int64_t)hd_dtype_bytes(to);
            hd_status st = read_piece(source, t, piece, to, to_at, err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}
