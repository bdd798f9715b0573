/* Names, order, experts: one list for every folder of a model.  See listing.h. */
#include "checkpoint/listing.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/layout.h"
#include "checkpoint/packing.h"

static const char f8_suffix[] = "_scale_inv";

void hd_listing_free(hd_listing *l)
{
    hd_free(l->rows);
    hd_buf_free(&l->names);
    *l = (hd_listing){0};
}

/* ---- order ------------------------------------------------------------------------------------------------------------- */

/* Embedding, layers by number, the rest; inside, digits by value and all else by byte. */
static int64_t rank_of(const char *name)
{
    int64_t layer = hd_hf_layer_of(name, NULL);
    return layer >= 0 ? layer : strncmp(name, "model.embed_tokens.", 19) == 0 ? -1 : INT64_MAX;
}

int hd_listing_compare(const char *a, const char *b)
{
    int64_t ra = rank_of(a), rb = rank_of(b);
    if (ra != rb) { return ra < rb ? -1 : 1; }
    while (*a != '\0' && *b != '\0') {
        size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
        if (na > 0 && nb > 0) {
            int order = na != nb ? (na < nb ? -1 : 1) : strncmp(a, b, na);
            if (order != 0) { return order; }
            a += na;
            b += nb;
        } else {
            if (*a != *b) { return (unsigned char)*a < (unsigned char)*b ? -1 : 1; }
            a++;
            b++;
        }
    }
    return *a == *b ? 0 : *a == '\0' ? -1 : 1;
}

/* ---- which tensors ------------------------------------------------------------------------------------------------------ */

typedef struct maker {
    const hd_folder *folder;
    int64_t end_layer;
    bool masters;
    hd_listing *to;
} maker;

static hd_status push(hd_listing *l, const char *name, const hd_source_tensor *source, hd_err *err)
{
    void *rows = l->rows;
    if (l->n == l->capacity) {
        int64_t wider = l->capacity == 0 ? 256 : 2 * l->capacity;
        hd_status st = hd_realloc(&rows, (size_t)l->capacity, (size_t)wider, sizeof *l->rows, "tensors to convert", err);
        if (st != HD_OK) { return st; }
        l->rows = rows;
        l->capacity = wider;
    }
    l->rows[l->n++] = (hd_listed){.name = name, .source = *source};
    return HD_OK;
}

/* model.layers.3.mlp.experts.gate_up_proj holds the matrices of all experts of a layer. */
static bool is_fused(const hd_folder *f, int64_t place, const char **matrices)
{
    const char *rest, *name = hd_folder_info(f, place).name;
    if (hd_hf_layer_of(name, &rest) < 0 || hd_folder_info(f, place).n_dim != 3) { return false; }
    matrices[0] = strcmp(rest, "mlp.experts.gate_up_proj") == 0 ? "gate_proj" : "down_proj";
    matrices[1] = "up_proj";
    return matrices[0][0] == 'g' || strcmp(rest, "mlp.experts.down_proj") == 0;
}

static hd_status push_experts(maker *m, int64_t place, const char *const matrices[2], hd_err *err)
{
    hd_status st = HD_OK;
    hd_listing *l = m->to;
    hd_st_info info = hd_folder_info(m->folder, place);
    hd_source_tensor source;
    char name[HD_HF_NAME_MAX];
    int n_matrix = matrices[0][0] == 'g' ? 2 : 1;
    for (int64_t e = 0; e < info.shape[0]; e++) { /* the first look refuses a number that is none of experts */
        for (int k = 0; k < n_matrix; k++) {
            (void)snprintf(name, sizeof name, "model.layers.%" PRId64 ".mlp.experts.%" PRId64 ".%s.weight",
                           hd_hf_layer_of(info.name, NULL), e, matrices[k]);
            HD_TRY(hd_source_find(m->folder, name, &source, err));
            HD_TRY(push(l, NULL, &source, err));
            l->rows[l->n - 1].source.n_dim = -source.n_dim; /* marks a name that is an offset */
            l->rows[l->n - 1].name = (const char *)(uintptr_t)l->names.n;
            hd_buf_append(&l->names, name, strlen(name) + 1);
        }
    }
    st = hd_buf_check(&l->names, err);
out:
    return st;
}

/* Of a training checkpoint: what is not the model. */
static bool is_state(const hd_folder *f, int64_t place)
{
    return f->is_checkpoint && strncmp(f->files[f->places[place].file].name, HD_OPTIMIZER_FOLDER "/", sizeof HD_OPTIMIZER_FOLDER) == 0;
}

/* Scales belong to their matrix: they are listed with it. */
static bool is_scale_of_matrix(const hd_folder *f, const char *name)
{
    bool packed = hd_text_ends_with(name, HD_PACKED_SCALE_SUFFIX), f8 = hd_text_ends_with(name, f8_suffix);
    size_t n = strlen(name) - (packed ? sizeof HD_PACKED_SCALE_SUFFIX : sizeof f8_suffix) + 1;
    char matrix[HD_HF_NAME_MAX];
    if ((!packed && !f8) || n >= sizeof matrix) { return false; }
    memcpy(matrix, name, n);
    matrix[n] = '\0';
    int64_t place = hd_folder_find(f, matrix), shape[2];
    if (place < 0) { return false; }
    if (f8) { return hd_folder_info(f, place).dtype == HD_DTYPE_F8_E4M3; }
    return f->packed_bits != 0 && hd_folder_info(f, place).dtype == HD_DTYPE_U8 && hd_packing_shape(&f->packed_dims, matrix, shape);
}

/* The master copy of a training checkpoint where there is one. */
static hd_status prefer_master(const maker *m, const char *name, hd_source_tensor *source, hd_err *err)
{
    char master[HD_HF_NAME_MAX + 8];
    if (!m->masters || !m->folder->is_checkpoint) { return HD_OK; }
    (void)snprintf(master, sizeof master, "master.%s", name);
    return hd_folder_find(m->folder, master) < 0 ? HD_OK : hd_source_find(m->folder, master, source, err);
}

static hd_status list_place(maker *m, int64_t place, hd_err *err)
{
    hd_source_tensor source;
    const char *matrices[2], *name = hd_folder_info(m->folder, place).name;
    if (strlen(name) >= HD_HF_NAME_MAX) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: tensor %.60s... has a name of %zu bytes, want at most %d",
                       hd_st_path(hd_folder_reader(m->folder, place)), name, strlen(name), HD_HF_NAME_MAX - 1);
    }
    if (is_state(m->folder, place) || hd_text_ends_with(name, ".rotary_emb.inv_freq") || is_scale_of_matrix(m->folder, name)) { return HD_OK; }
    if (hd_hf_layer_of(name, NULL) >= m->end_layer) {
        m->to->n_left_out++;
        return HD_OK;
    }
    if (is_fused(m->folder, place, matrices)) { return push_experts(m, place, matrices, err); }
    hd_status st = hd_source_find(m->folder, name, &source, err);
    if (st == HD_OK) { st = prefer_master(m, name, &source, err); }
    return st == HD_OK ? push(m->to, name, &source, err) : st;
}

static int by_name(const void *a, const void *b) { return hd_listing_compare(((const hd_listed *)a)->name, ((const hd_listed *)b)->name); }

hd_status hd_listing_make(const hd_folder *folder, int64_t end_layer, bool masters, hd_listing *out, hd_err *err)
{
    maker m = {folder, end_layer, masters, out};
    *out = (hd_listing){0};
    for (int64_t p = 0; p < folder->n_place; p++) {
        hd_status st = list_place(&m, p, err);
        if (st != HD_OK) { return st; }
    }
    for (int64_t i = 0; i < out->n; i++) {
        hd_listed *row = &out->rows[i];
        if (row->source.n_dim >= 0) { continue; }
        row->source.n_dim = -row->source.n_dim;
        row->name = out->names.data + (uintptr_t)row->name;
    }
    if (out->n > 1) { qsort(out->rows, (size_t)out->n, sizeof *out->rows, by_name); }
    for (int64_t i = 1; i < out->n; i++) {
        if (strcmp(out->rows[i - 1].name, out->rows[i].name) == 0) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is there alone and in a fused tensor", folder->path, out->rows[i].name);
        }
    }
    return HD_OK;
}

hd_source_tensor hd_listed_stored(const hd_folder *folder, const hd_listed *row)
{
    return hd_source_is_packed(&row->source) ? hd_source_stored(folder, row->source.place) : row->source;
}

hd_source_tensor hd_listed_scales(const hd_folder *folder, const hd_listed *row, char *name)
{
    (void)snprintf(name, HD_HF_NAME_MAX + 16, "%s%s", row->name, hd_source_is_packed(&row->source) ? HD_PACKED_SCALE_SUFFIX : f8_suffix);
    return hd_source_stored(folder, row->source.scale_place);
}
