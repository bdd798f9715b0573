/* The manifest: rows, text, and back.  See manifest.h. */
#include "checkpoint/manifest.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/json.h"
#include "checkpoint/block_file.h"
#include "checkpoint/names.h"

static const char format_name[] = "hadal-checkpoint";
static const char seal_key[] = "\"sha256\": \"";
static const char seal_end[] = "\"\n}\n";

enum { CRC_DIGITS = 8, F64_DIGITS = 16, HEX_DIGITS = HD_SHA256_HEX - 1 };

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static void free_value(hd_manifest_value *v)
{
    hd_free(v->name);
    hd_free(v->i64);
    hd_free(v->f64);
    hd_free(v->text);
}

void hd_manifest_free(hd_manifest *m)
{
    for (int64_t i = 0; i < m->n_file; i++) {
        hd_free(m->files[i].name);
        hd_free(m->files[i].crc);
    }
    for (int64_t i = 0; i < m->n_value; i++) { free_value(&m->values[i]); }
    hd_free(m->files);
    hd_free(m->values);
    *m = (hd_manifest){0};
}

static hd_status grow(void **rows, int64_t n, int64_t *capacity, size_t size, hd_err *err)
{
    if (n < *capacity) { return HD_OK; }
    int64_t wider = *capacity == 0 ? 16 : *capacity * 2;
    hd_status st = hd_realloc(rows, (size_t)*capacity, (size_t)wider, size, "manifest", err);
    if (st == HD_OK) { *capacity = wider; }
    return st;
}

static hd_status new_file_row(hd_manifest *m, hd_manifest_file **row, hd_err *err)
{
    void *rows = m->files;
    hd_status st = grow(&rows, m->n_file, &m->file_capacity, sizeof *m->files, err);
    m->files = rows;
    if (st != HD_OK) { return st; }
    *row = &m->files[m->n_file++];
    **row = (hd_manifest_file){0};
    return HD_OK;
}

static hd_status new_value_row(hd_manifest *m, hd_manifest_value **row, hd_err *err)
{
    void *rows = m->values;
    hd_status st = grow(&rows, m->n_value, &m->value_capacity, sizeof *m->values, err);
    m->values = rows;
    if (st != HD_OK) { return st; }
    *row = &m->values[m->n_value++];
    **row = (hd_manifest_value){0};
    return HD_OK;
}

hd_status hd_manifest_add_file(hd_manifest *m, const char *name, int64_t bytes, hd_err *err)
{
    hd_status st;
    hd_manifest_file *row;
    void *crc = NULL;
    HD_TRY(new_file_row(m, &row, err));
    HD_TRY(hd_strdup(name, &row->name, err));
    HD_TRY(hd_alloc((size_t)hd_block_count(bytes), sizeof *row->crc, "block checksums", &crc, err));
    row->bytes = bytes;
    row->crc = crc;
out:
    return st;
}

hd_status hd_manifest_add_value(hd_manifest *m, const hd_ckpt_value *value, hd_err *err)
{
    hd_status st;
    hd_manifest_value *row;
    void *memory = NULL;
    HD_TRY(new_value_row(m, &row, err));
    HD_TRY(hd_strdup(value->name, &row->name, err));
    row->kind = value->kind;
    if (value->kind == HD_CKPT_TEXT) {
        HD_TRY(hd_strdup(value->text, &row->text, err));
        row->n = (int64_t)strlen(value->text) + 1;
        goto out;
    }
    HD_TRY(hd_alloc((size_t)value->n, sizeof(int64_t), "manifest value", &memory, err));
    const void *from = value->kind == HD_CKPT_I64 ? (const void *)value->i64 : (const void *)value->f64;
    if (value->n > 0) { memcpy(memory, from, (size_t)value->n * sizeof(int64_t)); }
    row->n = value->n;
    if (value->kind == HD_CKPT_I64) {
        row->i64 = memory;
    } else {
        row->f64 = memory;
    }
out:
    return st;
}

const hd_manifest_file *hd_manifest_find_file(const hd_manifest *m, const char *name)
{
    for (int64_t i = 0; i < m->n_file; i++) {
        if (strcmp(m->files[i].name, name) == 0) { return &m->files[i]; }
    }
    return NULL;
}

const hd_manifest_value *hd_manifest_find_value(const hd_manifest *m, const char *name)
{
    for (int64_t i = 0; i < m->n_value; i++) {
        if (strcmp(m->values[i].name, name) == 0) { return &m->values[i]; }
    }
    return NULL;
}

static void file_digest(const hd_manifest_file *f, char hex[HD_SHA256_HEX])
{
    hd_sha256 sha;
    unsigned char bytes[8], digest[HD_SHA256_BYTES];
    hd_sha256_init(&sha);
    for (int64_t b = 0; b < hd_block_count(f->bytes); b++) {
        for (int i = 0; i < 4; i++) { bytes[i] = (unsigned char)(f->crc[b] >> (8 * i)); }
        hd_sha256_update(&sha, bytes, 4);
    }
    for (int i = 0; i < 8; i++) { bytes[i] = (unsigned char)((uint64_t)f->bytes >> (8 * i)); }
    hd_sha256_update(&sha, bytes, 8);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

static void write_value(hd_json_writer *w, const hd_manifest_value *v)
{
    hd_json_write_key(w, v->name);
    hd_json_write_object(w);
    if (v->kind == HD_CKPT_TEXT) {
        hd_json_write_key(w, "text");
        hd_json_write_string(w, v->text);
    } else {
        hd_json_write_key(w, v->kind == HD_CKPT_I64 ? "i64" : "f64");
        hd_json_write_array(w);
        for (int64_t i = 0; i < v->n; i++) {
            char hex[F64_DIGITS + 1];
            uint64_t bits;
            if (v->kind == HD_CKPT_I64) {
                hd_json_write_i64(w, v->i64[i]);
                continue;
            }
            memcpy(&bits, &v->f64[i], sizeof bits);
            (void)snprintf(hex, sizeof hex, "%016" PRIx64, bits);
            hd_json_write_string(w, hex);
        }
        hd_json_write_end(w);
    }
    hd_json_write_end(w);
}

static void write_file(hd_json_writer *w, const hd_manifest_file *f)
{
    char hex[HD_SHA256_HEX];
    file_digest(f, hex);
    hd_json_write_object(w);
    hd_json_write_key(w, "name");
    hd_json_write_string(w, f->name);
    hd_json_write_key(w, "bytes");
    hd_json_write_i64(w, f->bytes);
    hd_json_write_key(w, "digest");
    hd_json_write_string(w, hex);
    hd_json_write_key(w, "crc32c");
    hd_json_write_raw(w, "\"", 1);
    for (int64_t b = 0; b < hd_block_count(f->bytes); b++) { hd_buf_printf(w->out, "%08" PRIx32, f->crc[b]); }
    hd_buf_append_char(w->out, '"');
    hd_json_write_end(w);
}

static void write_text_member(hd_json_writer *w, const char *key, const char *value)
{
    hd_json_write_key(w, key);
    hd_json_write_string(w, value);
}

static void write_i64_member(hd_json_writer *w, const char *key, int64_t value)
{
    hd_json_write_key(w, key);
    hd_json_write_i64(w, value);
}

/* Appends the digest of everything so far, as the value of the last member. */
static void seal(hd_buf *out, size_t begin)
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    char hex[HD_SHA256_HEX];
    hd_buf_append_text(out, seal_key);
    if (out->failed != HD_OK) { return; }
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, out->data + begin, out->n - begin);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    hd_buf_append_text(out, hex);
    hd_buf_append_text(out, seal_end);
}

void hd_manifest_write(const hd_manifest *m, hd_buf *out)
{
    hd_json_writer w;
    size_t begin = out->n;
    hd_json_writer_init(&w, out, 1);
    hd_json_write_object(&w);
    write_text_member(&w, "format", format_name);
    write_i64_member(&w, "version", HD_MANIFEST_VERSION);
    write_i64_member(&w, "step", m->step);
    write_text_member(&w, "hadal", m->version);
    write_text_member(&w, "created", m->created);
    write_text_member(&w, "config_digest", m->config_digest);
    hd_json_write_key(&w, "layout");
    hd_json_write_object(&w);
    write_i64_member(&w, "ranks", 1);
    hd_json_write_end(&w);
    hd_json_write_key(&w, "state");
    hd_json_write_object(&w);
    for (int64_t i = 0; i < m->n_value; i++) { write_value(&w, &m->values[i]); }
    hd_json_write_end(&w);
    hd_json_write_key(&w, "files");
    hd_json_write_array(&w);
    for (int64_t i = 0; i < m->n_file; i++) { write_file(&w, &m->files[i]); }
    hd_json_write_end(&w);
    hd_buf_append_text(out, ",\n ");
    seal(out, begin); /* closes the object */
}

int64_t hd_manifest_estimate(const hd_manifest *m)
{
    int64_t n = 1024;
    for (int64_t i = 0; i < m->n_file; i++) { n += 512 + hd_block_count(m->files[i].bytes) * CRC_DIGITS; }
    for (int64_t i = 0; i < m->n_value; i++) {
        n += 256 + m->values[i].n * (m->values[i].kind == HD_CKPT_TEXT ? 6 : 32); /* 6: \u0000 */
    }
    return n;
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

/* The last member must be the digest of all bytes before it. */
static hd_status check_seal(const char *text, size_t n, const char *path, hd_err *err)
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    char hex[HD_SHA256_HEX];
    size_t key = sizeof seal_key - 1, end = sizeof seal_end - 1, tail = key + HEX_DIGITS + end;
    if (n < tail || memcmp(text + n - end, seal_end, end) != 0 || memcmp(text + n - tail, seal_key, key) != 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: it does not end with its own digest: cut short, or not a manifest", path);
    }
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, text, n - end - HEX_DIGITS);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    if (memcmp(text + n - end - HEX_DIGITS, hex, HEX_DIGITS) != 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: damaged: its SHA-256 is %s, it says %.64s", path, hex, text + n - end - HEX_DIGITS);
    }
    return HD_OK;
}

static int hex_value(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static bool parse_hex(const char *text, int digits, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        int d = hex_value(text[i]);
        if (d < 0) { return false; }
        value = value << 4 | (uint64_t)d;
    }
    *out = value;
    return true;
}

static hd_status read_text(hd_json *json, const char *key, char *out, size_t capacity, hd_err *err)
{
    hd_json_str s;
    hd_status st = hd_json_string(json, &s, err);
    if (st != HD_OK) { return st; }
    if (s.n >= capacity || memchr(s.text, '\0', s.n) != NULL) { return hd_json_fail(json, err, "%s: too long", key); }
    memcpy(out, s.text, s.n);
    out[s.n] = '\0';
    return HD_OK;
}

static hd_status read_f64_bits(hd_json *json, double *out, hd_err *err)
{
    hd_json_str s;
    uint64_t bits;
    hd_status st = hd_json_string(json, &s, err);
    if (st != HD_OK) { return st; }
    if (s.n != F64_DIGITS || !parse_hex(s.text, F64_DIGITS, &bits)) {
        return hd_json_fail(json, err, "want %d hexadecimal digits", F64_DIGITS);
    }
    memcpy(out, &bits, sizeof bits);
    return HD_OK;
}

/* An array of i64 or f64 into *out, growing. */
static hd_status read_numbers(hd_json *json, hd_ckpt_kind kind, void **out, int64_t *n, hd_err *err)
{
    hd_status st;
    bool more;
    int64_t capacity = 0;
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        HD_TRY(grow(out, *n, &capacity, sizeof(int64_t), err));
        if (kind == HD_CKPT_I64) {
            HD_TRY(hd_json_i64(json, (int64_t *)*out + *n, err));
        } else {
            HD_TRY(read_f64_bits(json, (double *)*out + *n, err));
        }
        (*n)++;
    }
out:
    return st;
}

static hd_status read_value(hd_json *json, hd_manifest_value *v, hd_err *err)
{
    hd_status st;
    bool more;
    int members = 0;
    hd_json_str key;
    HD_TRY(hd_json_object_begin(json, err));
    for (;; members++) {
        void *numbers = NULL;
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (members > 0) {
            st = hd_json_fail(json, err, "state value %s: more than one member", v->name);
            goto out;
        }
        if (hd_json_str_is(key, "text")) {
            v->kind = HD_CKPT_TEXT;
            HD_TRY(hd_json_strdup(json, &v->text, err));
            v->n = (int64_t)strlen(v->text) + 1;
            continue;
        }
        v->kind = hd_json_str_is(key, "i64") ? HD_CKPT_I64 : HD_CKPT_F64;
        if (v->kind == HD_CKPT_F64 && !hd_json_str_is(key, "f64")) {
            st = hd_json_fail(json, err, "state value %s: want i64, f64 or text", v->name);
            goto out;
        }
        st = read_numbers(json, v->kind, &numbers, &v->n, err);
        v->i64 = v->kind == HD_CKPT_I64 ? numbers : NULL;
        v->f64 = v->kind == HD_CKPT_F64 ? numbers : NULL;
        if (st != HD_OK) { goto out; }
    }
    if (members == 0) { st = hd_json_fail(json, err, "state value %s: empty", v->name); }
out:
    return st;
}

static hd_status read_values(hd_json *json, hd_manifest *m, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    hd_manifest_value *row;
    void *name;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (m->n_value == HD_MANIFEST_MAX_VALUES || memchr(key.text, '\0', key.n) != NULL) {
            st = hd_json_fail(json, err, "more than %d values, or a NUL in a name", HD_MANIFEST_MAX_VALUES);
            goto out;
        }
        HD_TRY(new_value_row(m, &row, err));
        HD_TRY(hd_alloc(key.n + 1, 1, "manifest", &name, err));
        row->name = name;
        memcpy(row->name, key.text, key.n);
        HD_TRY(read_value(json, row, err));
    }
out:
    return st;
}

static hd_status read_checksums(hd_json *json, hd_manifest_file *f, int64_t *n_crc, hd_err *err)
{
    hd_json_str s;
    uint64_t value;
    void *crc = NULL;
    hd_status st = hd_json_string(json, &s, err);
    if (st != HD_OK) { return st; }
    if (s.n % CRC_DIGITS != 0) { return hd_json_fail(json, err, "crc32c: %zu digits, want a multiple of %d", s.n, CRC_DIGITS); }
    st = hd_alloc(s.n / CRC_DIGITS, sizeof *f->crc, "block checksums", &crc, err);
    if (st != HD_OK) { return st; }
    hd_free(f->crc);
    f->crc = crc;
    *n_crc = (int64_t)(s.n / CRC_DIGITS);
    for (int64_t b = 0; b < *n_crc; b++) {
        if (!parse_hex(s.text + b * CRC_DIGITS, CRC_DIGITS, &value)) { return hd_json_fail(json, err, "crc32c: not hexadecimal"); }
        f->crc[b] = (uint32_t)value;
    }
    return HD_OK;
}

static hd_status read_file_row(hd_json *json, hd_manifest_file *f, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    int64_t n_crc = -1;
    char digest[HD_SHA256_HEX] = "", want[HD_SHA256_HEX];
    f->bytes = -1;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "name")) {
            HD_TRY(hd_json_strdup(json, &f->name, err));
        } else if (hd_json_str_is(key, "bytes")) {
            HD_TRY(hd_json_i64(json, &f->bytes, err));
        } else if (hd_json_str_is(key, "digest")) {
            HD_TRY(read_text(json, "digest", digest, sizeof digest, err));
        } else if (hd_json_str_is(key, "crc32c")) {
            HD_TRY(read_checksums(json, f, &n_crc, err));
        }
    }
    if (f->name == NULL || !hd_plain_file_name(f->name, strlen(f->name), true)) {
        st = hd_json_fail(json, err, "file \"%.100s\": not a plain name inside the checkpoint", f->name != NULL ? f->name : "");
        goto out;
    }
    if (f->bytes < 0 || n_crc != hd_block_count(f->bytes)) {
        st = hd_json_fail(json, err, "file %s: %" PRId64 " bytes with %" PRId64 " block checksums", f->name, f->bytes, n_crc);
        goto out;
    }
    file_digest(f, want);
    if (strcmp(digest, want) != 0) { st = hd_json_fail(json, err, "file %s: its digest does not match its checksums", f->name); }
out:
    return st;
}

static hd_status read_files(hd_json *json, hd_manifest *m, hd_err *err)
{
    hd_status st;
    bool more;
    hd_manifest_file *row;
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        if (m->n_file == HD_MANIFEST_MAX_FILES) {
            st = hd_json_fail(json, err, "more than %d files", HD_MANIFEST_MAX_FILES);
            goto out;
        }
        HD_TRY(new_file_row(m, &row, err));
        HD_TRY(read_file_row(json, row, err));
        if (hd_manifest_find_file(m, row->name) != row) {
            st = hd_json_fail(json, err, "file %s is there twice", row->name);
            goto out;
        }
    }
out:
    return st;
}

static hd_status read_member(hd_json *json, hd_json_str key, hd_manifest *m, char *format, size_t format_capacity, int64_t *version,
                             hd_err *err)
{
    if (hd_json_str_is(key, "format")) { return read_text(json, "format", format, format_capacity, err); }
    if (hd_json_str_is(key, "version")) { return hd_json_i64(json, version, err); }
    if (hd_json_str_is(key, "step")) { return hd_json_i64(json, &m->step, err); }
    if (hd_json_str_is(key, "hadal")) { return read_text(json, "hadal", m->version, sizeof m->version, err); }
    if (hd_json_str_is(key, "created")) { return read_text(json, "created", m->created, sizeof m->created, err); }
    if (hd_json_str_is(key, "config_digest")) {
        return read_text(json, "config_digest", m->config_digest, sizeof m->config_digest, err);
    }
    if (hd_json_str_is(key, "state")) { return read_values(json, m, err); }
    if (hd_json_str_is(key, "files")) { return read_files(json, m, err); }
    return hd_json_skip(json, err);
}

static hd_status read_manifest(hd_json *json, const char *path, hd_manifest *m, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    char format[sizeof format_name + 16] = "";
    int64_t version = -1;
    m->step = -1;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(read_member(json, key, m, format, sizeof format, &version, err));
    }
    HD_TRY(hd_json_end(json, err));
    if (strcmp(format, format_name) != 0 || m->step < 0) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: format \"%s\", step %" PRId64 ": not a checkpoint of hadal", path, format, m->step);
    } else if (version != HD_MANIFEST_VERSION) {
        st = HD_FAIL(err, HD_E_UNSUPPORTED, "%s: version %" PRId64 ", this program reads %d", path, version, HD_MANIFEST_VERSION);
    }
out:
    return st;
}

hd_status hd_manifest_parse(const char *text, size_t n, const char *path, hd_manifest *m, hd_err *err)
{
    hd_json json;
    *m = (hd_manifest){0};
    hd_status st = check_seal(text, n, path, err);
    if (st != HD_OK) { return st; }
    hd_json_open(&json, text, n, path, HD_JSON_STRICT);
    st = read_manifest(&json, path, m, err);
    hd_json_close(&json);
    if (st != HD_OK) { hd_manifest_free(m); }
    return st;
}
