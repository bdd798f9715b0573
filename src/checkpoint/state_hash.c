/* The digest of a training state, whatever files it is spread over.
 *
 *   SHA-256 over "hadal-state-1\n", the step (8 bytes, little-endian; -1 for a folder without manifest), then
 *   for each host value of the trainer, by name:  name NUL kind (1 byte: 0 i64, 1 f64, 2 text), n (8 bytes), its bytes
 *   for each tensor, by name:                     name NUL dtype NUL rank (1 byte), lengths (8 bytes each), SHA-256 of its bytes
 *
 * Stored copies in MTP modules are left out: they are not state. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "checkpoint/folder.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/scan.h"
#include "hadal/checkpoint.h"

enum { PIECE_BYTES = 1 << 20 };

typedef struct hashed {
    const char *name;
    int64_t place;
    unsigned char digest[HD_SHA256_BYTES];
} hashed;

static int by_name(const void *a, const void *b) { return strcmp(((const hashed *)a)->name, ((const hashed *)b)->name); }

static int by_value_name(const void *a, const void *b)
{
    return strcmp((*(const hd_manifest_value *const *)a)->name, (*(const hd_manifest_value *const *)b)->name);
}

static void put_i64(hd_sha256 *sha, int64_t value)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) { bytes[i] = (unsigned char)((uint64_t)value >> (8 * i)); }
    hd_sha256_update(sha, bytes, 8);
}

static void put_text(hd_sha256 *sha, const char *text) { hd_sha256_update(sha, text, strlen(text) + 1); }

static hd_status hash_tensor(hd_folder *f, hashed *h, unsigned char *piece, hd_err *err)
{
    hd_sha256 sha;
    hd_st_info info = hd_folder_info(f, h->place);
    hd_sha256_init(&sha);
    for (int64_t at = 0; at < info.bytes; at += PIECE_BYTES) {
        size_t n = (size_t)(info.bytes - at < PIECE_BYTES ? info.bytes - at : PIECE_BYTES);
        hd_status st = hd_st_read(hd_folder_reader(f, h->place), f->places[h->place].entry, at, n, piece, err);
        if (st != HD_OK) { return st; }
        hd_sha256_update(&sha, piece, n);
    }
    hd_sha256_final(&sha, h->digest);
    return HD_OK;
}

static void put_values(hd_sha256 *sha, const hd_manifest *m, const hd_manifest_value **order)
{
    for (int64_t i = 0; i < m->n_value; i++) { order[i] = &m->values[i]; }
    if (m->n_value > 1) { qsort(order, (size_t)m->n_value, sizeof *order, by_value_name); }
    for (int64_t i = 0; i < m->n_value; i++) {
        const hd_manifest_value *v = order[i];
        unsigned char kind = v->kind == HD_CKPT_I64 ? 0 : v->kind == HD_CKPT_F64 ? 1 : 2;
        put_text(sha, v->name);
        hd_sha256_update(sha, &kind, 1);
        put_i64(sha, v->n);
        for (int64_t k = 0; k < v->n && kind < 2; k++) {
            int64_t bits;
            memcpy(&bits, kind == 0 ? (const void *)&v->i64[k] : (const void *)&v->f64[k], sizeof bits);
            put_i64(sha, bits);
        }
        if (kind == 2) { hd_sha256_update(sha, v->text, (size_t)v->n); }
    }
}

static void put_tensor(hd_sha256 *sha, const hd_folder *f, const hashed *h)
{
    hd_st_info info = hd_folder_info(f, h->place);
    unsigned char rank = (unsigned char)info.n_dim;
    put_text(sha, info.name);
    put_text(sha, hd_dtype_name(info.dtype));
    hd_sha256_update(sha, &rank, 1);
    for (int i = 0; i < info.n_dim; i++) { put_i64(sha, info.shape[i]); }
    hd_sha256_update(sha, h->digest, HD_SHA256_BYTES);
}

/* Layers from here on are MTP modules; without a config.json that says so, nothing is taken for a copy. */
static hd_status first_mtp_layer(const hd_folder *f, int64_t *layer, hd_err *err)
{
    hd_dims dims;
    hd_err why;
    *layer = INT64_MAX;
    if (f->config == NULL) { return HD_OK; }
    hd_status st = hd_hf_config_parse(f->config, f->config_n, f->path, &dims, &why);
    if (st == HD_E_NOMEM) { return HD_FAIL(err, HD_E_NOMEM, "%s", why.msg); }
    if (st == HD_OK) { *layer = dims.n_layer; }
    return HD_OK;
}

static hd_status hash_folder(hd_folder *f, char hex[HD_SHA256_HEX], hd_err *err)
{
    hd_status st;
    void *order = NULL, *memory = NULL, *piece = NULL;
    int64_t n = 0, mtp;
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256 sha;
    HD_TRY(first_mtp_layer(f, &mtp, err));
    HD_TRY(hd_alloc((size_t)f->manifest.n_value, sizeof(void *), "values to hash", &order, err));
    HD_TRY(hd_alloc((size_t)f->n_place, sizeof(hashed), "tensors to hash", &memory, err));
    HD_TRY(hd_alloc(PIECE_BYTES, 1, "piece to hash", &piece, err));
    hashed *rows = memory;
    for (int64_t i = 0; i < f->n_place; i++) { /* in the order of the files */
        const char *name = hd_folder_info(f, i).name;
        if (hd_hf_is_copy(mtp, name)) { continue; }
        rows[n] = (hashed){.name = name, .place = i};
        HD_TRY(hash_tensor(f, &rows[n++], piece, err));
    }
    HD_TRY(hd_folder_verify_rest(f, err));
    if (n > 1) { qsort(rows, (size_t)n, sizeof *rows, by_name); }
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, "hadal-state-1\n", 14);
    put_i64(&sha, f->is_checkpoint ? f->manifest.step : -1);
    put_values(&sha, &f->manifest, order);
    for (int64_t i = 0; i < n; i++) { put_tensor(&sha, f, &rows[i]); }
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
out:
    hd_free(order);
    hd_free(memory);
    hd_free(piece);
    return st;
}

static hd_status hash_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_folder folder = {0};
    hd_status st = hd_folder_open(path, step, &folder, err);
    if (st == HD_OK) { st = hash_folder(&folder, arg, err); }
    hd_folder_close(&folder);
    return st;
}

hd_status hd_state_hash(const char *path, char hex[65], hd_err *err) { return hd_scan_path(path, hash_from, hex, err); }
