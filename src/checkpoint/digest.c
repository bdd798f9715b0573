/* Digests of values and the file that keeps them.  See digest.h. */
#include "checkpoint/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/parallel_for.h"
#include "checkpoint/hf_map.h"

enum { BLOCKS_AT_ONCE = 8 };

static const char format_name[] = "hadal-digests-1";

void hd_digests_free(hd_digests *d)
{
    for (int64_t i = 0; i < d->n; i++) {
        hd_free(d->rows[i].name);
        hd_free(d->rows[i].marks);
    }
    hd_free(d->rows);
    *d = (hd_digests){0};
}

static hd_status add(hd_digests *d, const char *name, hd_digest **out, hd_err *err)
{
    void *rows = d->rows;
    if (d->n == d->capacity) {
        int64_t wider = d->capacity == 0 ? 256 : 2 * d->capacity;
        hd_status st = hd_realloc(&rows, (size_t)d->capacity, (size_t)wider, sizeof *d->rows, "digests", err);
        if (st != HD_OK) { return st; }
        d->rows = rows;
        d->capacity = wider;
    }
    *out = &d->rows[d->n];
    **out = (hd_digest){0};
    hd_status st = hd_strdup(name, &(*out)->name, err);
    if (st == HD_OK) { d->n++; }
    return st;
}

/* ---- what is hashed ---------------------------------------------------------------------------------------------------- */

static void put_i64(hd_sha256 *sha, int64_t value)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) { bytes[i] = (unsigned char)((uint64_t)value >> (8 * i)); }
    hd_sha256_update(sha, bytes, 8);
}

static void begin_tensor(hd_sha256 *sha, const hd_sha256 *fresh, const hd_digest *d)
{
    unsigned char rank = (unsigned char)d->n_dim;
    const char *dtype = hd_dtype_name(d->dtype);
    *sha = *fresh;
    hd_sha256_update(sha, "hadal-tensor-1\n", 15);
    hd_sha256_update(sha, d->name, strlen(d->name) + 1);
    hd_sha256_update(sha, dtype, strlen(dtype) + 1);
    hd_sha256_update(sha, &rank, 1);
    for (int i = 0; i < d->n_dim; i++) { put_i64(sha, d->shape[i]); }
}

static void hash_model(const hd_digests *d, char hex[HD_SHA256_HEX])
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, "hadal-model-1\n", 14);
    for (int64_t i = 0; i < d->n; i++) {
        hd_sha256_update(&sha, d->rows[i].name, strlen(d->rows[i].name) + 1);
        hd_sha256_update(&sha, d->rows[i].sha256, HD_SHA256_BYTES);
    }
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
}

/* ---- reading and hashing ------------------------------------------------------------------------------------------------ */

typedef struct hasher {
    hd_folder *folder;
    hd_source source;
    hd_sha256 fresh;        /* nothing hashed yet */
    unsigned char *stretch; /* BLOCKS_AT_ONCE blocks */
    size_t n;               /* bytes in it */
    unsigned char digests[BLOCKS_AT_ONCE][HD_SHA256_BYTES];
    int n_threads;
    hd_digest_hook hook;
    int64_t done, total;
} hasher;

static void hash_block(void *arg, int64_t i, int thread)
{
    hasher *h = arg;
    hd_sha256 sha = h->fresh;
    size_t at = (size_t)i * (size_t)HD_DIGEST_BLOCK, left = h->n - at;
    (void)thread;
    hd_sha256_update(&sha, h->stretch + at, left < (size_t)HD_DIGEST_BLOCK ? left : (size_t)HD_DIGEST_BLOCK);
    hd_sha256_final(&sha, h->digests[i]);
}

/* Stored bits of [at, at + h->n) of a tensor, as its matrix's elements follow each other. */
static hd_status read_stretch(hasher *h, const hd_source_tensor *t, int64_t at, hd_err *err)
{
    int64_t size = (int64_t)hd_dtype_bytes(t->dtype);
    hd_source_tensor flat = *t;
    flat.columns = t->rows * t->columns;
    flat.rows = 1;
    hd_rect rect = {0, 1, at / size, (int64_t)h->n / size};
    return hd_source_read(&h->source, &flat, rect, t->dtype, h->stretch, err);
}

static hd_status hash_values(hasher *h, const hd_source_tensor *t, hd_digest *d, hd_sha256 *sha, hd_err *err)
{
    int64_t bytes = hd_source_bytes(t), stretch = BLOCKS_AT_ONCE * HD_DIGEST_BLOCK;
    char hex[HD_SHA256_HEX], *mark = d->marks;
    for (int64_t at = 0; at < bytes; at += stretch) {
        h->n = (size_t)(bytes - at < stretch ? bytes - at : stretch);
        int64_t n_block = ((int64_t)h->n + HD_DIGEST_BLOCK - 1) / HD_DIGEST_BLOCK;
        hd_status st = read_stretch(h, t, at, err);
        if (st != HD_OK) { return st; }
        hd_parallel_for(n_block > 1 ? h->n_threads : 1, n_block, hash_block, h); /* a folder may have a hundred thousand small tensors */
        for (int64_t i = 0; i < n_block; i++, mark += HD_DIGEST_MARK) {
            hd_sha256_update(sha, h->digests[i], HD_SHA256_BYTES);
            hd_sha256_hex(h->digests[i], hex);
            memcpy(mark, hex, HD_DIGEST_MARK);
        }
        h->done += (int64_t)h->n;
        st = h->hook.call != NULL ? h->hook.call(h->hook.arg, h->done, h->total, err) : HD_OK;
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status hash_tensor(hasher *h, const char *name, const hd_source_tensor *t, hd_digests *out, hd_err *err)
{
    hd_status st;
    hd_digest *d;
    hd_sha256 sha;
    void *marks = NULL;
    size_t n_block = (size_t)((hd_source_bytes(t) + HD_DIGEST_BLOCK - 1) / HD_DIGEST_BLOCK);
    HD_TRY(add(out, name, &d, err));
    HD_TRY(hd_alloc(n_block * HD_DIGEST_MARK + 1, 1, "digests of blocks", &marks, err));
    d->marks = marks;
    d->marks[n_block * HD_DIGEST_MARK] = '\0';
    d->dtype = t->dtype;
    d->n_dim = t->n_dim;
    memcpy(d->shape, t->shape, sizeof d->shape);
    out->bytes += hd_source_bytes(t);
    begin_tensor(&sha, &h->fresh, d);
    HD_TRY(hash_values(h, t, d, &sha, err));
    hd_sha256_final(&sha, d->sha256);
out:
    return st;
}

static int by_name(const void *a, const void *b) { return strcmp(((const hd_digest *)a)->name, ((const hd_digest *)b)->name); }

hd_status hd_digests_make(hd_folder *folder, int n_threads, hd_digest_hook hook, hd_digests *out, hd_err *err)
{
    hd_status st;
    hd_listing list = {0};
    hasher h = {.folder = folder, .n_threads = n_threads, .hook = hook};
    void *stretch = NULL;
    char scales[HD_HF_NAME_MAX + 16];
    *out = (hd_digests){0};
    hd_sha256_init(&h.fresh);
    HD_TRY(hd_listing_make(folder, INT64_MAX, false, &list, err));
    HD_TRY(hd_source_open(folder, &h.source, err));
    HD_TRY(hd_alloc(BLOCKS_AT_ONCE, (size_t)HD_DIGEST_BLOCK, "values to hash", &stretch, err));
    h.stretch = stretch;
    for (int64_t i = 0; i < list.n; i++) { h.total += hd_source_bytes(&list.rows[i].source); }
    for (int64_t i = 0; i < list.n; i++) {
        hd_source_tensor stored = hd_listed_stored(folder, &list.rows[i]);
        HD_TRY(hash_tensor(&h, list.rows[i].name, &stored, out, err));
        if (list.rows[i].source.scale_place < 0) { continue; }
        hd_source_tensor s = hd_listed_scales(folder, &list.rows[i], scales);
        HD_TRY(hash_tensor(&h, scales, &s, out, err));
    }
    HD_TRY(hd_folder_verify_rest(folder, err));
    if (out->n > 1) { qsort(out->rows, (size_t)out->n, sizeof *out->rows, by_name); }
    hash_model(out, out->model);
out:
    hd_free(stretch);
    hd_source_close(&h.source);
    hd_listing_free(&list);
    return st;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------ */

static void write_row(hd_json_writer *w, const hd_digest *d)
{
    char hex[HD_SHA256_HEX];
    hd_sha256_hex(d->sha256, hex);
    hd_json_write_key(w, d->name);
    hd_json_write_array(w);
    hd_json_write_string(w, hd_dtype_name(d->dtype));
    hd_json_write_array(w);
    for (int i = 0; i < d->n_dim; i++) { hd_json_write_i64(w, d->shape[i]); }
    hd_json_write_end(w);
    hd_json_write_string(w, hex);
    hd_json_write_string(w, d->marks);
    hd_json_write_end(w);
}

void hd_digests_write(const hd_digests *d, hd_buf *out)
{
    hd_json_writer w;
    hd_json_writer_init(&w, out, 0);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "format");
    hd_json_write_string(&w, format_name);
    hd_json_write_key(&w, "model");
    hd_json_write_string(&w, d->model);
    hd_json_write_key(&w, "block_bytes");
    hd_json_write_i64(&w, HD_DIGEST_BLOCK);
    hd_json_write_key(&w, "tensors");
    hd_json_write_object(&w);
    for (int64_t i = 0; i < d->n; i++) {
        hd_buf_append_char(out, '\n');
        write_row(&w, &d->rows[i]);
    }
    hd_json_write_end(&w);
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}

static bool parse_hex(hd_json_str text, unsigned char digest[HD_SHA256_BYTES])
{
    if (text.n != 2 * HD_SHA256_BYTES) { return false; }
    for (size_t i = 0; i < text.n; i++) {
        char c = text.text[i];
        int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (value < 0) { return false; }
        digest[i / 2] = (unsigned char)(i % 2 == 0 ? value << 4 : digest[i / 2] | value);
    }
    return true;
}

static hd_status parse_shape(hd_json *json, hd_digest *d, hd_err *err)
{
    hd_status st;
    bool more;
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        if (d->n_dim == HD_ST_MAX_DIMS) { return hd_json_fail(json, err, "more than %d dimensions", HD_ST_MAX_DIMS); }
        HD_TRY(hd_json_i64(json, &d->shape[d->n_dim++], err));
    }
out:
    return st;
}

/* An element of a row that must be there. */
static hd_status next(hd_json *json, hd_err *err)
{
    bool more;
    hd_status st = hd_json_array_next(json, &more, err);
    return st != HD_OK || more ? st : hd_json_fail(json, err, "want [dtype, shape, sha256, blocks]");
}

static hd_status parse_row(hd_json *json, hd_digest *d, hd_err *err)
{
    hd_status st;
    bool more;
    char dtype[16] = "";
    hd_json_str text;
    HD_TRY(hd_json_array_begin(json, err));
    HD_TRY(next(json, err));
    HD_TRY(hd_json_string(json, &text, err));
    if (text.n < sizeof dtype) { memcpy(dtype, text.text, text.n); }
    if (hd_dtype_from_name(dtype, &d->dtype) != 0) { return hd_json_fail(json, err, "a dtype that safetensors does not know"); }
    HD_TRY(next(json, err));
    HD_TRY(parse_shape(json, d, err));
    HD_TRY(next(json, err));
    HD_TRY(hd_json_string(json, &text, err));
    if (!parse_hex(text, d->sha256)) { return hd_json_fail(json, err, "want a SHA-256 of 64 hexadecimal digits"); }
    HD_TRY(next(json, err));
    HD_TRY(hd_json_strdup(json, &d->marks, err));
    HD_TRY(hd_json_array_next(json, &more, err));
    if (more) { return hd_json_fail(json, err, "want [dtype, shape, sha256, blocks]"); }
out:
    return st;
}

static hd_status parse_tensors(hd_json *json, hd_digests *out, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    hd_digest *d;
    hd_buf name = {0};
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        hd_buf_clear(&name);
        hd_buf_append(&name, key.text, key.n);
        HD_TRY(hd_buf_check(&name, err));
        HD_TRY(add(out, hd_buf_text(&name), &d, err));
        HD_TRY(parse_row(json, d, err));
        if (out->n > 1 && strcmp(out->rows[out->n - 2].name, d->name) >= 0) {
            st = hd_json_fail(json, err, "tensor %.200s is not behind the one before it", d->name);
            goto out;
        }
    }
out:
    hd_buf_free(&name);
    return st;
}

static hd_status parse_members(hd_json *json, hd_digests *out, bool *is_format, hd_err *err)
{
    hd_status st;
    bool more;
    int64_t block = 0;
    hd_json_str key, text;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "format")) {
            HD_TRY(hd_json_string(json, &text, err));
            *is_format = hd_json_str_is(text, format_name);
        } else if (hd_json_str_is(key, "model")) {
            HD_TRY(hd_json_string(json, &text, err));
            (void)snprintf(out->model, sizeof out->model, "%.*s", (int)(text.n < 64 ? text.n : 64), text.text);
        } else if (hd_json_str_is(key, "block_bytes")) {
            HD_TRY(hd_json_i64(json, &block, err));
        } else if (hd_json_str_is(key, "tensors")) {
            HD_TRY(parse_tensors(json, out, err));
        } else {
            HD_TRY(hd_json_skip(json, err));
        }
    }
    *is_format = *is_format && block == HD_DIGEST_BLOCK;
out:
    return st;
}

hd_status hd_digests_parse(const char *text, size_t n, const char *name, hd_digests *out, hd_err *err)
{
    hd_status st;
    hd_json json;
    bool is_format = false;
    char model[HD_SHA256_HEX];
    *out = (hd_digests){0};
    hd_json_open(&json, text, n, name, HD_JSON_STRICT);
    HD_TRY(parse_members(&json, out, &is_format, err));
    HD_TRY(hd_json_end(&json, err));
    if (!is_format) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: not a file of digests (want format \"%s\")", name, format_name);
        goto out;
    }
    hash_model(out, model);
    if (strcmp(model, out->model) != 0) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: the model's digest does not fit its tensors: the file was changed", name);
    }
out:
    hd_json_close(&json);
    if (st != HD_OK) { hd_digests_free(out); }
    return st;
}
