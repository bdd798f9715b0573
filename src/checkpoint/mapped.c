/* Which weights are used in place, and how the others get their memory.  See mapped.h. */
#include "checkpoint/mapped.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/parallel_for.h"
#include "checkpoint/folder.h"
#include "checkpoint/load.h"
#include "checkpoint/model_tensors.h"
#include "checkpoint/packer.h"
#include "checkpoint/packing.h"
#include "checkpoint/scan.h"

/* Bytes of a file that are used in place. */
typedef struct range {
    int32_t file;
    int64_t begin, end;
} range;

struct hd_ckpt_map {
    hd_folder folder;
    hd_source source;
    hd_mapping *files; /* of folder.files */
    hd_map_options options;
    hd_model_tensors tensors;
    hd_expert_place *places; /* of the attached model's experts, as many as tensors.rows */
    range *ranges;
    int64_t n_range, bytes;
};

/* At a time, by one thread; a multiple of HD_BLOCK_BYTES.  Long, because what is read in one go lies in large pages where the file system
 * has them: 88 % of a file on ext4, with 32 MiB a fifth.  To ask for them (MADV_HUGEPAGE) gained nothing and can wait for compaction. */
enum { POPULATE_BYTES = 256 << 20 };

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

typedef struct open_args {
    const hd_dims *dims;
    hd_ckpt_map *map;
} open_args;

static hd_status map_files(hd_ckpt_map *m, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    HD_TRY(hd_alloc((size_t)m->folder.n_file, sizeof *m->files, "mapped files", &memory, err));
    m->files = memory;
    for (int64_t i = 0; i < m->folder.n_file; i++) {
        hd_folder_file *f = &m->folder.files[i];
        if (f->st == NULL) { continue; }
        HD_TRY(hd_io_map(f->block.file, &m->files[i], err));
        if (m->files[i].bytes != f->block.bytes) {
            st = HD_FAIL(err, HD_E_CORRUPT, "%s: it had %" PRId64 " bytes a moment ago and has %" PRId64 " now", f->block.path, f->block.bytes,
                         m->files[i].bytes);
            goto out;
        }
    }
out:
    return st;
}

static hd_status open_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    open_args *a = arg;
    hd_folder *f = &a->map->folder;
    int asked = a->map->options.bits;
    HD_TRY(hd_folder_open(path, step, f, err));
    if (f->packed_bits != 0 && asked != 0 && asked != f->packed_bits) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s holds int%d, and quantization asks for int%d: convert the folder that it was made of, or leave the key out",
                     path, f->packed_bits, asked);
        goto out;
    }
    HD_TRY(hd_load_check(f, a->dims, err));
    HD_TRY(hd_source_open(f, &a->map->source, err));
    st = map_files(a->map, err);
out:
    return st;
}

hd_status hd_ckpt_map_open(const char *path, const hd_dims *dims, const hd_map_options *options, hd_ckpt_map **out, hd_err *err)
{
    void *memory = NULL;
    *out = NULL;
    hd_status st = hd_alloc(1, sizeof **out, "mapped model", &memory, err);
    if (st != HD_OK) { return st; }
    hd_ckpt_map *m = memory;
    m->options = *options;
    open_args args = {dims, m};
    st = hd_scan_path(path, open_from, &args, err);
    if (st != HD_OK) {
        hd_ckpt_map_close(m);
        return st;
    }
    *out = m;
    return HD_OK;
}

static void forget(hd_ckpt_map *m)
{
    hd_model_tensors_free(&m->tensors);
    hd_free(m->places);
    hd_free(m->ranges);
    m->places = NULL;
    m->ranges = NULL;
    m->n_range = m->bytes = 0;
}

void hd_ckpt_map_close(hd_ckpt_map *m)
{
    if (m == NULL) { return; }
    for (int64_t i = 0; m->files != NULL && i < m->folder.n_file; i++) { hd_io_unmap(&m->files[i]); }
    hd_free(m->files);
    forget(m);
    hd_source_close(&m->source);
    hd_folder_close(&m->folder);
    hd_free(m);
}

int64_t hd_ckpt_map_bytes(const hd_ckpt_map *m) { return m->bytes; }

/* ---- what is done with a parameter ---------------------------------------------------------------------------------------- */

/* Byte `at` of a stored tensor. */
static const unsigned char *address(const hd_ckpt_map *m, int64_t place, int64_t at)
{
    return m->files[m->folder.places[place].file].data + hd_folder_info(&m->folder, place).offset + at;
}

static const unsigned char *address_of(const hd_ckpt_map *m, const hd_source_tensor *t)
{
    return address(m, t->place, hd_dtype_run_bytes(t->dtype, t->first));
}

static bool is_aligned(const unsigned char *p, hd_dtype dtype) { return (uintptr_t)p % hd_dtype_bytes(dtype) == 0; }

/* A matrix that is multiplied as y = x W^T and nothing else: what products take in any stored form. */
static bool is_product(const hd_param *param)
{
    hd_dtype ignored;
    return hd_packing_dtype(param->name, HD_PACKED_GROUP, 8, &ignored);
}

static bool is_usable(const hd_ckpt_map *m, const hd_model *model, const hd_param *param, const hd_source_tensor *t)
{
    bool f32 = param->spec->keep_f32 || model->options.weight_dtype == HD_DTYPE_F32;
    if (hd_source_is_packed(t)) { return is_product(param) && is_aligned(address(m, t->scale_place, 0), HD_DTYPE_BF16); }
    switch (t->dtype) {
    case HD_DTYPE_F32: return f32 && is_aligned(address_of(m, t), t->dtype);
    case HD_DTYPE_BF16: return !param->spec->keep_f32 && is_aligned(address_of(m, t), t->dtype);
    case HD_DTYPE_F8_E4M3: return is_product(param);
    default: return false;
    }
}

typedef enum fate { IN_PLACE, PACKED, COPIED } fate;

/* All matrices of a parameter share it.  *dtype: of the weight. */
static fate fate_of(const hd_ckpt_map *m, const hd_model *model, const hd_param *param, const hd_source_tensor *rows, hd_dtype *dtype)
{
    bool usable = true;
    if (m->options.bits != 0 && !hd_source_is_packed(rows) && rows->n_dim == 2 &&
        hd_packing_dtype(param->name, rows->columns, m->options.bits, dtype)) {
        return PACKED;
    }
    for (int64_t i = 0; i < hd_param_matrices(param); i++) {
        usable = usable && rows[i].dtype == rows[0].dtype && is_usable(m, model, param, &rows[i]);
    }
    *dtype = usable ? rows[0].dtype : param->spec->keep_f32 ? HD_DTYPE_F32 : model->options.weight_dtype;
    return usable ? IN_PLACE : COPIED;
}

/* ---- in place --------------------------------------------------------------------------------------------------------------- */

static void use_bytes(hd_ckpt_map *m, int64_t place, int64_t begin, int64_t n)
{
    int64_t at = hd_folder_info(&m->folder, place).offset + begin;
    m->ranges[m->n_range++] = (range){m->folder.places[place].file, at, at + n};
    m->bytes += n;
}

/* f32 scales of FP8 matrices, one after the other. */
static hd_status f8_scales(hd_ckpt_map *m, const hd_source_tensor *rows, int64_t n, hd_exec *ex, hd_arena *arena, hd_weight *w, hd_err *err)
{
    hd_status st;
    int64_t each = hd_f8_blocks(rows->rows) * hd_f8_blocks(rows->columns);
    HD_TRY(hd_arena_alloc(arena, (size_t)(n * each) * sizeof(float), &w->scales.data, err));
    for (int64_t i = 0; i < n && !ex->dry; i++) {
        HD_TRY(hd_source_read_f8_scales(&m->source, &rows[i], (float *)w->scales.data + i * each, err));
    }
out:
    return st;
}

/* Points a weight, of one matrix or of experts, at its bytes in the files. */
static void point(hd_ckpt_map *m, const hd_source_tensor *rows, int64_t n_expert, hd_expert_place *places, hd_weight *w)
{
    int64_t each = hd_f8_blocks(rows->rows) * hd_f8_blocks(rows->columns), n = n_expert > 0 ? n_expert : 1;
    const float *f32_scales = w->scales.data;
    for (int64_t i = 0; i < n; i++) {
        places[i] = (hd_expert_place){.value = address_of(m, &rows[i])};
        use_bytes(m, rows[i].place, hd_dtype_run_bytes(rows[i].dtype, rows[i].first), hd_source_bytes(&rows[i]));
        if (hd_source_is_packed(&rows[i])) {
            places[i].scales = address(m, rows[i].scale_place, 0);
            use_bytes(m, rows[i].scale_place, 0, hd_weight_scale_bytes(rows[i].dtype, rows[i].rows, rows[i].columns));
        } else if (f32_scales != NULL) {
            places[i].scales = f32_scales + i * each;
        }
    }
    w->experts = n_expert > 0 ? places : NULL;
    w->value.data = n_expert > 0 ? NULL : (void *)(uintptr_t)places[0].value; /* read-only, as are the ops of a model that does not train */
    w->scales.data = n_expert > 0 ? NULL : (void *)(uintptr_t)places[0].scales;
}

static void set_rounding(const hd_ckpt_map *m, hd_dtype dtype, hd_param *param)
{
    param->weight.round_inputs = hd_dtype_is_packed(dtype) && m->options.round_inputs;
    param->weight.fine_inputs = param->weight.round_inputs && hd_packing_fine_inputs(param->name, dtype);
}

static hd_status use_in_place(hd_ckpt_map *m, const hd_source_tensor *rows, hd_dtype dtype, hd_exec *ex, hd_arena *arena,
                              hd_expert_place *places, hd_param *param, hd_err *err)
{
    hd_status st = HD_OK;
    bool experts = hd_tensor_per_expert(param->spec);
    int64_t n_expert = experts ? hd_param_matrices(param) : 0;
    if (param->weight.value.n_dim == 1) {
        param->weight.value.dtype = dtype;
    } else {
        param->weight = hd_weight_shape(dtype, n_expert, rows->rows, rows->columns);
        set_rounding(m, dtype, param);
    }
    if (dtype == HD_DTYPE_F8_E4M3) { HD_TRY(f8_scales(m, rows, experts ? n_expert : 1, ex, arena, &param->weight, err)); }
    point(m, rows, n_expert, places, &param->weight);
out:
    return st;
}

/* ---- in the arena ----------------------------------------------------------------------------------------------------------- */

typedef struct maker {
    hd_ckpt_map *map;
    hd_exec *ex;
    hd_arena *arena;
    hd_packer *packer;
    unsigned char *piece; /* HD_LOAD_PIECE f32 values */
} maker;

static hd_status pack(maker *k, const hd_source_tensor *rows, hd_dtype dtype, hd_param *param, hd_err *err)
{
    hd_status st;
    int64_t n_expert = hd_tensor_per_expert(param->spec) ? hd_param_matrices(param) : 0;
    HD_TRY(hd_weight_new(k->arena, dtype, n_expert, rows->rows, rows->columns, &param->weight, err));
    set_rounding(k->map, dtype, param);
    for (int64_t i = 0; i < (n_expert > 0 ? n_expert : 1) && !k->ex->dry; i++) {
        hd_weight part = n_expert > 0 ? hd_weight_expert(&param->weight, i) : param->weight;
        HD_TRY(hd_packer_run(k->packer, &rows[i], dtype, 0, hd_packed_rows(rows->rows) / HD_PACKED_ROWS, part.value.data, part.scales.data, err));
    }
out:
    return st;
}

static hd_status copy(maker *k, const hd_source_tensor *rows, hd_dtype dtype, hd_param *param, hd_err *err)
{
    hd_status st;
    hd_tensor *value = &param->weight.value, whole;
    bool experts = hd_tensor_per_expert(param->spec);
    HD_TRY(hd_tensor_new(k->arena, dtype, value->n_dim, value->shape, &whole, err));
    *value = whole;
    for (int64_t i = 0; i < hd_param_matrices(param); i++) {
        hd_tensor part = experts ? hd_tensor_index(value, i) : *value;
        HD_TRY(hd_model_tensor_upload(&k->map->source, &rows[i], k->ex, k->piece, &part, err));
    }
out:
    return st;
}

/* ---- reading what is mapped -------------------------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const range *x = a, *y = b;
    if (x->file != y->file) { return x->file < y->file ? -1 : 1; }
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Ranges become stretches of at most POPULATE_BYTES: whole blocks of files that have checksums; neighbours joined. */
static void widen(const hd_ckpt_map *m, range *r)
{
    const hd_block_file *f = &m->folder.files[r->file].block;
    if (f->crc == NULL) { return; }
    r->begin -= r->begin % HD_BLOCK_BYTES;
    r->end += (HD_BLOCK_BYTES - r->end % HD_BLOCK_BYTES) % HD_BLOCK_BYTES;
    if (r->end > f->bytes) { r->end = f->bytes; }
}

static void join_ranges(hd_ckpt_map *m)
{
    int64_t n = 0;
    for (int64_t i = 0; i < m->n_range; i++) { widen(m, &m->ranges[i]); }
    if (m->n_range > 1) { qsort(m->ranges, (size_t)m->n_range, sizeof *m->ranges, by_offset); }
    for (int64_t i = 0; i < m->n_range; i++) {
        range *last = n > 0 ? &m->ranges[n - 1] : NULL;
        if (last != NULL && last->file == m->ranges[i].file && m->ranges[i].begin <= last->end) {
            if (m->ranges[i].end > last->end) { last->end = m->ranges[i].end; }
        } else {
            m->ranges[n++] = m->ranges[i];
        }
    }
    m->n_range = n;
}

static int64_t stretches_of(const range *r) { return (r->end - r->begin + POPULATE_BYTES - 1) / POPULATE_BYTES; }

static hd_status read_stretch(void *arg, int64_t i, int thread, hd_err *err)
{
    const hd_ckpt_map *m = arg;
    const range *r = m->ranges;
    (void)thread;
    for (; i >= stretches_of(r); r++) { i -= stretches_of(r); }
    int64_t begin = r->begin + i * POPULATE_BYTES, end = begin + POPULATE_BYTES < r->end ? begin + POPULATE_BYTES : r->end;
    const hd_block_file *f = &m->folder.files[r->file].block;
    hd_status st = hd_io_populate(&m->files[r->file], begin, end - begin, err);
    for (int64_t at = begin; st == HD_OK && f->crc != NULL && at < end; at += HD_BLOCK_BYTES) {
        st = hd_block_file_check(f, at / HD_BLOCK_BYTES, m->files[r->file].data + at, err);
    }
    return st;
}

static hd_status populate(hd_ckpt_map *m, hd_err *err)
{
    int64_t n = 0;
    join_ranges(m);
    for (int64_t i = 0; i < m->n_range; i++) { n += stretches_of(&m->ranges[i]); }
    return hd_parallel_try(m->options.n_threads, n, read_stretch, m, err);
}

/* ---- attaching -------------------------------------------------------------------------------------------------------------- */

static hd_status check_scales(const hd_ckpt_map *m, const hd_model *model, hd_err *err)
{
    for (int64_t p = 0; p < model->n_param; p++) {
        const hd_source_tensor *rows = &m->tensors.rows[m->tensors.first[p]];
        for (int64_t i = 0; i < hd_param_matrices(&model->params[p]); i++) {
            const hd_source_tensor *t = &rows[i];
            if (!hd_source_is_packed(t)) { break; }
            hd_status st = hd_source_check_scales(&m->folder, t, (const uint16_t *)(const void *)address(m, t->scale_place, 0),
                                                  hd_packed_rows(t->rows) * (t->columns / HD_PACKED_GROUP), err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

/* Memory of the tables of an attached model: the list of its tensors is as long as that of all matrices. */
static hd_status new_tables(hd_ckpt_map *m, const hd_model *model, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    size_t n = 0;
    HD_TRY(hd_model_tensors_find(&m->folder, model, &m->tensors, err));
    for (int64_t p = 0; p < model->n_param; p++) { n += (size_t)hd_param_matrices(&model->params[p]); }
    HD_TRY(hd_alloc(n, sizeof *m->places, "mapped weights", &memory, err));
    m->places = memory;
    HD_TRY(hd_alloc(2 * n, sizeof *m->ranges, "mapped weights", &memory, err));
    m->ranges = memory;
out:
    return st;
}

/* What is mapped first, so that the files are read in their order. */
static hd_status give_in_place(maker *k, hd_model *model, hd_err *err)
{
    hd_status st = HD_OK;
    hd_ckpt_map *m = k->map;
    hd_expert_place *places = m->places;
    for (int64_t p = 0; p < model->n_param; p++) {
        hd_dtype dtype;
        hd_param *param = &model->params[p];
        const hd_source_tensor *rows = &m->tensors.rows[m->tensors.first[p]];
        if (fate_of(m, model, param, rows, &dtype) != IN_PLACE) { continue; }
        HD_TRY(use_in_place(m, rows, dtype, k->ex, k->arena, places, param, err));
        places += hd_param_matrices(param);
    }
    if (!k->ex->dry) {
        HD_TRY(populate(m, err));
        st = check_scales(m, model, err);
    }
out:
    return st;
}

static hd_status give_the_rest(maker *k, hd_model *model, hd_err *err)
{
    for (int64_t p = 0; p < model->n_param; p++) {
        hd_dtype dtype;
        hd_param *param = &model->params[p];
        const hd_source_tensor *rows = &k->map->tensors.rows[k->map->tensors.first[p]];
        fate what = fate_of(k->map, model, param, rows, &dtype);
        hd_status st = what == PACKED ? pack(k, rows, dtype, param, err) : what == COPIED ? copy(k, rows, dtype, param, err) : HD_OK;
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_ckpt_map_attach(hd_ckpt_map *m, hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    maker k = {.map = m, .ex = ex, .arena = arena};
    forget(m);
    HD_TRY(new_tables(m, model, err));
    if (!ex->dry) {
        HD_TRY(hd_alloc(HD_LOAD_PIECE, sizeof(float), "staging of weights", &memory, err));
        k.piece = memory;
        if (m->options.bits != 0 && m->folder.packed_bits == 0) { HD_TRY(hd_packer_open(&m->folder, m->options.n_threads, &k.packer, err)); }
    }
    HD_TRY(give_in_place(&k, model, err));
    st = give_the_rest(&k, model, err);
out:
    hd_packer_close(k.packer);
    hd_free(k.piece);
    return st;
}
