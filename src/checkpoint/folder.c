/* Opening folders: the manifest or the index says which files, safetensors headers say which tensors.  See folder.h. */
#include "checkpoint/folder.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/json.h"
#include "base/path.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/layout.h"
#include "checkpoint/names.h"
#include "checkpoint/packing.h"

enum {
    MAX_INDEX_BYTES = 32 << 20,
    MAX_SHARDS = 4096
};

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";
static const char config_name[] = "config.json";

/* ---- the cheap look ------------------------------------------------------------------------------------------------ */

/* A regular file of a checkpoint: no link, nothing that could block. */
static hd_status check_regular(const char *dir, const char *name, int64_t bytes, hd_err *err)
{
    hd_io_info info;
    char *path = NULL;
    hd_status st;
    HD_TRY(hd_path_join(dir, name, &path, err));
    HD_TRY(hd_io_lstat(path, &info, err));
    if (info.kind == HD_IO_MISSING) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s is missing", path);
    } else if (info.kind != HD_IO_REGULAR) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s is not a regular file", path);
    } else if (bytes >= 0 && info.bytes != bytes) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: %" PRId64 " bytes, the manifest says %" PRId64, path, info.bytes, bytes);
    }
out:
    hd_free(path);
    return st;
}

static bool is_model_file(const char *name) { return hd_text_ends_with(name, ".safetensors") || hd_text_ends_with(name, ".safetensors.index.json"); }

/* Every entry of a directory of a checkpoint must be a regular file (or the folder `optimizer`), and a file that a loader
 * would look at must be in the manifest. */
static hd_status check_entries(const char *root, const char *sub, const hd_manifest *m, hd_err *err)
{
    hd_status st;
    char *dir = NULL, *path = NULL, *name = NULL;
    hd_io_names names = {0};
    hd_io_info info;
    HD_TRY(hd_path_join(root, sub, &dir, err));
    HD_TRY(hd_io_list(dir, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        HD_TRY(hd_path_join(dir, names.name[i], &path, err));
        HD_TRY(hd_io_lstat(path, &info, err));
        bool folder = sub[0] == '\0' && strcmp(names.name[i], HD_OPTIMIZER_FOLDER) == 0 && info.kind == HD_IO_DIRECTORY;
        if (info.kind != HD_IO_REGULAR && !folder) {
            st = HD_FAIL(err, HD_E_CORRUPT, "%s is not a regular file: links, folders and special files have no place in a checkpoint",
                         path);
            goto out;
        }
        HD_TRY(hd_path_join(sub, names.name[i], &name, err));
        if (!folder && is_model_file(name) && hd_manifest_find_file(m, name) == NULL) {
            st = HD_FAIL(err, HD_E_CORRUPT, "%s is not in the manifest", path);
            goto out;
        }
        hd_free(path);
        hd_free(name);
        path = name = NULL;
    }
out:
    hd_free(path);
    hd_free(name);
    hd_free(dir);
    hd_io_names_free(&names);
    return st;
}

static hd_status read_manifest(const char *path, int64_t step, hd_manifest *m, hd_err *err)
{
    hd_status st;
    char *file = NULL, *text = NULL;
    size_t n;
    HD_TRY(check_regular(path, HD_MANIFEST_NAME, -1, err));
    HD_TRY(hd_path_join(path, HD_MANIFEST_NAME, &file, err));
    HD_TRY(hd_io_read_file(file, HD_MANIFEST_MAX, &text, &n, err));
    HD_TRY(hd_manifest_parse(text, n, file, m, err));
    if (step >= 0 && m->step != step) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: it is of step %" PRId64 ", the directory of step %" PRId64, file, m->step, step);
        hd_manifest_free(m);
    }
out:
    hd_free(text);
    hd_free(file);
    return st;
}

hd_status hd_folder_look(const char *path, int64_t step, hd_manifest *out, hd_err *err)
{
    hd_status st;
    hd_manifest m = {0};
    hd_io_info info;
    /* A path that a user gave may be a link; a name found by scanning may not. */
    HD_TRY(step < 0 ? hd_io_stat(path, &info, err) : hd_io_lstat(path, &info, err));
    if (info.kind != HD_IO_DIRECTORY) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s is not a directory", path);
        goto out;
    }
    HD_TRY(read_manifest(path, step, &m, err));
    bool has_optimizer = false;
    for (int64_t i = 0; i < m.n_file; i++) { has_optimizer = has_optimizer || strchr(m.files[i].name, '/') != NULL; }
    HD_TRY(check_entries(path, "", &m, err));
    if (has_optimizer) { HD_TRY(check_entries(path, HD_OPTIMIZER_FOLDER, &m, err)); }
    for (int64_t i = 0; i < m.n_file; i++) { HD_TRY(check_regular(path, m.files[i].name, m.files[i].bytes, err)); }
    if (out != NULL) {
        *out = m;
        m = (hd_manifest){0};
    }
out:
    hd_manifest_free(&m);
    return st;
}

/* ---- opening files ------------------------------------------------------------------------------------------------- */

/* `name` may have one folder in front (optimizer/...); it is opened beneath that folder. */
static hd_status open_file(hd_folder *f, const char *name, size_t name_len, const uint32_t *crc, int64_t bytes, hd_err *err)
{
    hd_status st;
    hd_file *file = NULL;
    char *dir = NULL;
    void *copy = NULL;
    hd_folder_file *row = &f->files[f->n_file];
    const char *slash = memchr(name, '/', name_len);
    size_t head = slash != NULL ? (size_t)(slash - name) : 0, skip = slash != NULL ? head + 1 : 0;
    static const uint32_t no_block[1] = {0}; /* an empty file of a checkpoint has no checksum, and is still verified by size */
    HD_TRY(hd_path_join_n(f->path, name, head, &dir, err));
    HD_TRY(hd_alloc(name_len + 1, 1, "file name", &copy, err));
    memcpy(copy, name, name_len);
    HD_TRY(hd_io_open_beneath(head > 0 ? dir : f->path, name + skip, name_len - skip, &file, err));
    HD_TRY(hd_block_file_open(file, f->is_checkpoint ? (crc != NULL ? crc : no_block) : NULL, bytes, &f->cache, &row->block, err));
    row->name = copy;
    row->st = NULL;
    copy = NULL;
    f->n_file++;
    if (hd_text_ends_with(row->name, ".safetensors")) { st = hd_st_open(&row->block, &row->st, err); }
out:
    hd_free(copy);
    hd_free(dir);
    return st;
}

static hd_status reserve_files(hd_folder *f, int64_t n, hd_err *err)
{
    void *rows = NULL;
    hd_status st = hd_alloc((size_t)n, sizeof *f->files, "files of a model", &rows, err);
    f->files = rows;
    return st;
}

static hd_status open_checkpoint(hd_folder *f, int64_t step, hd_err *err)
{
    hd_status st;
    HD_TRY(hd_folder_look(f->path, step, &f->manifest, err));
    HD_TRY(reserve_files(f, f->manifest.n_file, err));
    for (int64_t i = 0; i < f->manifest.n_file; i++) {
        const hd_manifest_file *row = &f->manifest.files[i];
        HD_TRY(open_file(f, row->name, strlen(row->name), row->crc, row->bytes, err));
    }
out:
    return st;
}

/* ---- a HuggingFace folder ------------------------------------------------------------------------------------------ */

static int64_t find_file(const hd_folder *f, hd_json_str name, int64_t guess)
{
    for (int64_t i = 0; i < f->n_file; i++) {
        int64_t k = (guess + i) % f->n_file; /* neighbours in an index are mostly in the same file */
        if (hd_json_str_is(name, f->files[k].name)) { return k; }
    }
    return -1;
}

/* Checks one entry of the weight map, or (first pass) opens its file. */
static hd_status index_entry(hd_folder *f, hd_json *json, hd_json_str key, bool opening, int64_t *guess, hd_err *err)
{
    hd_json_str file;
    char name[512];
    (void)snprintf(name, sizeof name, "%.*s", (int)(key.n < 500 ? key.n : 500), key.text);
    hd_status st = hd_json_string(json, &file, err);
    if (st != HD_OK) { return st; }
    int64_t k = f->n_file > 0 ? find_file(f, file, *guess) : -1;
    if (k >= 0) { *guess = k; }
    if (opening && k < 0) {
        if (!hd_plain_file_name(file.text, file.n, false) || file.n <= 12 || memcmp(file.text + file.n - 12, ".safetensors", 12) != 0) {
            return hd_json_fail(json, err, "tensor %s: file \"%.*s\", want the plain name of a .safetensors file", name,
                                (int)(file.n < 200 ? file.n : 200), file.text);
        }
        if (f->n_file == MAX_SHARDS) { return hd_json_fail(json, err, "more than %d files", MAX_SHARDS); }
        return open_file(f, file.text, file.n, NULL, 0, err);
    }
    if (!opening && hd_st_find(f->files[k].st, name) < 0) {
        return hd_json_fail(json, err, "tensor %s is not in %s", name, f->files[k].name);
    }
    return HD_OK;
}

static hd_status read_weight_map(hd_folder *f, hd_json *json, bool opening, int64_t *n, hd_err *err)
{
    hd_status st;
    bool more;
    int64_t guess = 0;
    hd_json_str key;
    HD_TRY(hd_json_object_begin(json, err));
    for (*n = 0;; (*n)++) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(index_entry(f, json, key, opening, &guess, err));
    }
out:
    return st;
}

static hd_status read_index(hd_folder *f, const char *text, size_t n, const char *path, bool opening, int64_t *n_name, hd_err *err)
{
    hd_status st;
    hd_json json;
    bool more, found = false;
    hd_json_str key;
    hd_json_open(&json, text, n, path, HD_JSON_STRICT);
    HD_TRY(hd_json_object_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        if (!hd_json_str_is(key, "weight_map")) { continue; }
        HD_TRY(read_weight_map(f, &json, opening, n_name, err));
        found = true;
    }
    HD_TRY(hd_json_end(&json, err));
    if (!found) { st = HD_FAIL(err, HD_E_CORRUPT, "%s: it has no weight_map", path); }
out:
    hd_json_close(&json);
    return st;
}

/* Twice over the text: the files are opened, then every name must be in the file that the index gives. */
static hd_status open_index(hd_folder *f, const char *path, hd_err *err)
{
    hd_status st;
    char *text = NULL;
    size_t n;
    int64_t n_name, n_tensor = 0;
    HD_TRY(hd_io_read_file(path, MAX_INDEX_BYTES, &text, &n, err));
    HD_TRY(reserve_files(f, MAX_SHARDS + 1, err));
    HD_TRY(read_index(f, text, n, path, true, &n_name, err));
    HD_TRY(read_index(f, text, n, path, false, &n_name, err));
    for (int64_t i = 0; i < f->n_file; i++) { n_tensor += hd_st_count(f->files[i].st); }
    if (n_name == 0) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: its weight_map is empty", path);
    } else if (n_tensor != n_name) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: it names %" PRId64 " tensors, its files hold %" PRId64, path, n_name, n_tensor);
    }
out:
    hd_free(text);
    return st;
}

static hd_status open_hf(hd_folder *f, hd_err *err)
{
    hd_status st;
    char *single = NULL, *index = NULL;
    hd_io_info info;
    HD_TRY(hd_path_join(f->path, single_name, &single, err));
    HD_TRY(hd_path_join(f->path, index_name, &index, err));
    HD_TRY(hd_io_stat(single, &info, err));
    if (info.kind != HD_IO_MISSING) {
        HD_TRY(reserve_files(f, 1, err));
        st = open_file(f, single_name, strlen(single_name), NULL, 0, err);
        goto out;
    }
    HD_TRY(hd_io_stat(index, &info, err));
    if (info.kind == HD_IO_MISSING) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: neither %s nor %s nor %s is there: not a model folder", f->path, single_name, index_name,
                     HD_MANIFEST_NAME);
        goto out;
    }
    st = open_index(f, index, err);
out:
    hd_free(single);
    hd_free(index);
    return st;
}

/* ---- names over all files ------------------------------------------------------------------------------------------ */

static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (; *name != '\0'; name++) { h = (h ^ (unsigned char)*name) * 0x100000001B3u; }
    return h ^ h >> 32;
}

static size_t find_slot(const hd_folder *f, const char *name)
{
    size_t slot = (size_t)hash_name(name) & f->table_mask;
    while (f->table[slot] != 0 && strcmp(hd_folder_info(f, (int64_t)f->table[slot] - 1).name, name) != 0) {
        slot = (slot + 1) & f->table_mask;
    }
    return slot;
}

static hd_status build_table(hd_folder *f, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    size_t size = 16, total = 0;
    for (int64_t i = 0; i < f->n_file; i++) { total += f->files[i].st != NULL ? (size_t)hd_st_count(f->files[i].st) : 0; }
    while (size < 2 * total) { size *= 2; }
    HD_TRY(hd_alloc(total, sizeof *f->places, "places of tensors", &memory, err));
    f->places = memory;
    HD_TRY(hd_alloc(size, sizeof *f->table, "names of tensors", &memory, err));
    f->table = memory;
    f->table_mask = size - 1;
    for (int64_t i = 0; i < f->n_file; i++) {
        int64_t n = f->files[i].st != NULL ? hd_st_count(f->files[i].st) : 0;
        for (int64_t e = 0; e < n; e++) {
            f->places[f->n_place] = (hd_tensor_place){.file = (int32_t)i, .entry = (int32_t)e};
            const char *name = hd_folder_info(f, f->n_place).name;
            size_t slot = find_slot(f, name);
            if (f->table[slot] != 0) {
                st = HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is in two files, %s and %s", f->path, name,
                             f->files[f->places[f->table[slot] - 1].file].name, f->files[i].name);
                goto out;
            }
            f->table[slot] = (uint32_t)++f->n_place;
        }
    }
out:
    return st;
}

int64_t hd_folder_find(const hd_folder *folder, const char *name) { return (int64_t)folder->table[find_slot(folder, name)] - 1; }

hd_st_info hd_folder_info(const hd_folder *folder, int64_t place)
{
    hd_tensor_place p = folder->places[place];
    return hd_st_get(folder->files[p.file].st, p.entry);
}

hd_st_reader *hd_folder_reader(const hd_folder *folder, int64_t place) { return folder->files[folder->places[place].file].st; }

/* ---- open and close ------------------------------------------------------------------------------------------------ */

/* From the verified file of a checkpoint; from the folder otherwise. */
static hd_status read_config(hd_folder *f, hd_err *err)
{
    hd_status st = HD_OK;
    char *path = NULL;
    void *text = NULL;
    hd_io_info info;
    for (int64_t i = 0; i < f->n_file && f->is_checkpoint; i++) {
        hd_block_file *b = &f->files[i].block;
        if (strcmp(f->files[i].name, config_name) != 0 || b->bytes > HD_HF_CONFIG_MAX) { continue; }
        HD_TRY(hd_alloc((size_t)b->bytes + 1, 1, config_name, &text, err));
        f->config = text;
        f->config_n = (size_t)b->bytes;
        st = hd_block_file_read(b, 0, f->config_n, f->config, err);
        goto out;
    }
    HD_TRY(hd_path_join(f->path, config_name, &path, err));
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind != HD_IO_MISSING) { st = hd_io_read_file(path, HD_HF_CONFIG_MAX, &f->config, &f->config_n, err); }
out:
    hd_free(path);
    return st;
}

static hd_status read_packing(hd_folder *f, hd_err *err)
{
    hd_status st;
    char *name = NULL;
    if (f->config == NULL) { return HD_OK; }
    HD_TRY(hd_path_join(f->path, config_name, &name, err));
    HD_TRY(hd_packing_read(f->config, f->config_n, name, &f->packed_bits, err));
    if (f->packed_bits != 0) { st = hd_folder_dims(f, &f->packed_dims, err); }
out:
    hd_free(name);
    return st;
}

hd_status hd_folder_open(const char *path, int64_t step, hd_folder *out, hd_err *err)
{
    hd_status st;
    char *manifest = NULL;
    hd_io_info info;
    *out = (hd_folder){0};
    HD_TRY(hd_strdup(path, &out->path, err));
    if (hd_text_ends_with(path, "/items") || hd_text_ends_with(path, "/items/")) {
        st = HD_FAIL(err, HD_E_UNSUPPORTED, "%s: a path that ends in /items means an Orbax checkpoint, which this program does not read",
                     path);
        goto out;
    }
    HD_TRY(hd_path_join(path, HD_MANIFEST_NAME, &manifest, err));
    HD_TRY(hd_io_lstat(manifest, &info, err));
    out->is_checkpoint = step >= 0 || info.kind != HD_IO_MISSING;
    HD_TRY(hd_block_cache_open(&out->cache, err));
    HD_TRY(out->is_checkpoint ? open_checkpoint(out, step, err) : open_hf(out, err));
    HD_TRY(build_table(out, err));
    HD_TRY(read_config(out, err));
    st = read_packing(out, err);
out:
    hd_free(manifest);
    if (st != HD_OK) { hd_folder_close(out); }
    return st;
}

void hd_folder_close(hd_folder *folder)
{
    for (int64_t i = 0; i < folder->n_file; i++) {
        hd_st_close(folder->files[i].st);
        hd_block_file_close(&folder->files[i].block);
        hd_free(folder->files[i].name);
    }
    hd_free(folder->files);
    hd_free(folder->places);
    hd_free(folder->table);
    hd_free(folder->config);
    hd_free(folder->path);
    hd_block_cache_close(&folder->cache);
    hd_manifest_free(&folder->manifest);
    *folder = (hd_folder){0};
}

static bool has_layers_from(const hd_folder *f, int64_t layer)
{
    for (int64_t i = 0; i < f->n_place; i++) {
        if (hd_hf_layer_of(hd_folder_info(f, i).name, NULL) >= layer) { return true; }
    }
    return false;
}

/* A config.json that speaks of far more tensors than there are is not believed: what follows builds tables of them. */
static hd_status check_size(const hd_folder *f, const char *name, const hd_dims *d, hd_err *err)
{
    bool fused = false;
    for (int64_t i = 0; i < f->n_place && !fused; i++) { fused = strstr(hd_folder_info(f, i).name, ".mlp.experts.gate_up_proj") != NULL; }
    int64_t layers = d->n_layer + d->n_mtp, n_moe = layers - d->n_dense_layer; /* each below 2^32 */
    double wanted = 4.0 * (double)layers + (fused || n_moe <= 0 ? 0.0 : 3.0 * (double)n_moe * (double)d->n_expert);
    if (wanted <= 2.0 * (double)f->n_place + 64.0) { return HD_OK; }
    return HD_FAIL(err, HD_E_CONFIG, "%s: %" PRId64 " layers with %" PRId64 " experts, and the folder holds %" PRId64 " tensors", name, layers,
                   d->n_expert, f->n_place);
}

hd_status hd_folder_dims(const hd_folder *folder, hd_dims *dims, hd_err *err)
{
    hd_status st;
    char *name = NULL;
    HD_TRY(hd_path_join(folder->path, config_name, &name, err));
    if (folder->config == NULL) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: config.json is missing", folder->path);
        goto out;
    }
    HD_TRY(hd_hf_config_parse(folder->config, folder->config_n, name, dims, err));
    HD_TRY(check_size(folder, name, dims, err));
    if (dims->n_mtp > 0 && !has_layers_from(folder, dims->n_layer)) { dims->n_mtp = 0; }
out:
    hd_free(name);
    return st;
}

hd_status hd_folder_verify_rest(hd_folder *folder, hd_err *err)
{
    for (int64_t i = 0; i < folder->n_file; i++) {
        hd_status st = hd_block_file_verify_rest(&folder->files[i].block, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_folder_verify(const char *path, int64_t step, hd_err *err)
{
    hd_folder f = {0};
    hd_status st = hd_folder_open(path, step, &f, err);
    if (st == HD_OK) { st = hd_folder_verify_rest(&f, err); }
    hd_folder_close(&f);
    return st;
}
