/* Finding files, cutting them into documents, and reading ranges of documents. */
#include "data/corpus.h"

#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/io.h"
#include "base/path.h"
#include "data/json_lines.h"
#include "data/spool.h"
#include "data/text_source.h"

enum { CHUNK_BYTES = 1 << 16, SAMPLE_BYTES = 1 << 16, MAX_DEPTH = 64 };

/* What a file name says about its content. */
typedef struct file_form {
    hd_codec codec;
    bool json_lines;
} file_form;

/* What loading carries along. */
typedef struct loader {
    hd_corpus *corpus;
    const char *text_column, *separator;
} loader;

static bool ends_with(const char *name, size_t n, const char *suffix)
{
    size_t k = strlen(suffix);
    return n >= k && memcmp(name + n - k, suffix, k) == 0;
}

static file_form form_of(const char *path)
{
    file_form form = {HD_CODEC_NONE, false};
    size_t n = strlen(path);
    if (ends_with(path, n, ".zst")) { form.codec = HD_CODEC_ZSTD; n -= 4; }
    else if (ends_with(path, n, ".gz")) { form.codec = HD_CODEC_GZIP; n -= 3; }
    form.json_lines = ends_with(path, n, ".jsonl") || ends_with(path, n, ".ndjson") || ends_with(path, n, ".json");
    return form;
}

/* FNV-1a over what identifies the data: enough to notice that files were exchanged between two runs. */
static void mix(uint64_t *fingerprint, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++) { *fingerprint = (*fingerprint ^ bytes[i]) * 0x100000001B3u; }
}

static hd_status sample(hd_corpus *c, hd_file *file, const char *path, int64_t n_byte, hd_err *err)
{
    hd_status st = HD_OK;
    unsigned char *bytes = NULL;
    size_t n = n_byte < SAMPLE_BYTES ? (size_t)n_byte : SAMPLE_BYTES;
    const char *name = hd_path_base(path);
    mix(&c->fingerprint, name, strlen(name));
    mix(&c->fingerprint, &n_byte, sizeof n_byte);
    HD_TRY(hd_alloc(SAMPLE_BYTES, 1, "sample of a file", (void **)&bytes, err));
    HD_TRY(hd_io_pread(file, bytes, n, 0, err));
    mix(&c->fingerprint, bytes, n);
    HD_TRY(hd_io_pread(file, bytes, n, n_byte - (int64_t)n, err));
    mix(&c->fingerprint, bytes, n);
out:
    hd_free(bytes);
    return st;
}

/* A spool is taken over, and closed with the corpus, or at once on failure; of a plain file the path is kept. */
static hd_status add_file(hd_corpus *c, const char *path, hd_file **spool, hd_err *err)
{
    hd_status st = HD_OK;
    char *copy = NULL;
    if (path != NULL) { HD_TRY(hd_strdup(path, &copy, err)); }
    HD_TRY(hd_realloc((void **)&c->files, (size_t)c->n_file, (size_t)c->n_file + 1, sizeof *c->files, "file table", err));
    c->files[c->n_file++] = (hd_corpus_file){.path = copy, .file = spool != NULL ? *spool : NULL};
    if (spool != NULL) { *spool = NULL; }
    return HD_OK;
out:
    hd_free(copy);
    if (spool != NULL) { hd_io_abandon(spool); }
    return st;
}

static hd_status add_document(hd_corpus *c, int64_t offset, int64_t n_byte, hd_err *err)
{
    if (n_byte == 0) { return HD_OK; }
    if (c->n_document == c->n_document_max) {
        int64_t more = c->n_document_max < 64 ? 64 : c->n_document_max + c->n_document_max / 2;
        hd_status st = hd_realloc((void **)&c->documents, (size_t)c->n_document_max, (size_t)more, sizeof *c->documents,
                                  "document table", err);
        if (st != HD_OK) { return st; }
        c->n_document_max = more;
    }
    c->documents[c->n_document++] = (hd_document){.file = (uint32_t)(c->n_file - 1), .offset = offset, .n_byte = n_byte};
    c->n_byte += n_byte;
    return HD_OK;
}

/* Appends a decompressed file to the spool. */
static hd_status unpack(const char *path, hd_codec codec, hd_file *spool, int64_t *n_byte, hd_err *err)
{
    hd_status st = HD_OK;
    hd_text_source *source = NULL;
    char *chunk = NULL;
    size_t got = 1;
    *n_byte = 0;
    HD_TRY(hd_alloc(CHUNK_BYTES, 1, "unpack buffer", (void **)&chunk, err));
    HD_TRY(hd_text_source_open(path, codec, &source, err));
    while (got > 0) {
        HD_TRY(hd_text_source_read(source, chunk, CHUNK_BYTES, &got, err));
        if (got > 0) { HD_TRY(hd_io_write(spool, chunk, got, err)); }
        *n_byte += (int64_t)got;
    }
out:
    hd_text_source_close(source);
    hd_free(chunk);
    return st;
}

/* ---- plain text --------------------------------------------------------------------------------------------------------- */

typedef struct line_scan {
    const loader *l;
    hd_buf line;          /* the line so far, no longer than the separator + 1 */
    int64_t line_begin;   /* where it starts in the file */
    int64_t document_begin;
} line_scan;

static hd_status end_line(line_scan *s, int64_t end, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n = s->line.n;
    if (n > 0 && s->line.data[n - 1] == '\r') { n--; }
    if (n == strlen(s->l->separator) && (n == 0 || memcmp(s->line.data, s->l->separator, n) == 0)) {
        st = add_document(s->l->corpus, s->document_begin, s->line_begin - s->document_begin, err);
        s->document_begin = end;
    }
    hd_buf_clear(&s->line);
    s->line_begin = end;
    return st;
}

static hd_status scan_chunk(line_scan *s, const char *chunk, size_t n, int64_t offset, hd_err *err)
{
    size_t keep = strlen(s->l->separator) + 2;
    for (size_t i = 0; i < n; i++) {
        if (chunk[i] == '\n') {
            hd_status st = end_line(s, offset + (int64_t)i + 1, err);
            if (st != HD_OK) { return st; }
        } else if (s->line.n < keep) {
            hd_buf_append_char(&s->line, chunk[i]);
        }
    }
    return hd_buf_check(&s->line, err);
}

static hd_status split_by_separator(const loader *l, hd_file *file, int64_t n_byte, hd_err *err)
{
    hd_status st = HD_OK;
    line_scan scan = {.l = l};
    char *chunk = NULL;
    HD_TRY(hd_alloc(CHUNK_BYTES, 1, "read buffer", (void **)&chunk, err));
    for (int64_t at = 0; at < n_byte; at += CHUNK_BYTES) {
        size_t n = n_byte - at < CHUNK_BYTES ? (size_t)(n_byte - at) : CHUNK_BYTES;
        HD_TRY(hd_io_pread(file, chunk, n, at, err));
        HD_TRY(scan_chunk(&scan, chunk, n, at, err));
    }
    HD_TRY(add_document(l->corpus, scan.document_begin, n_byte - scan.document_begin, err));
out:
    hd_buf_free(&scan.line);
    hd_free(chunk);
    return st;
}

static hd_status cut_documents(const loader *l, hd_file *file, const char *path, int64_t n_byte, hd_err *err)
{
    hd_status st = sample(l->corpus, file, path, n_byte, err);
    if (st != HD_OK) { return st; }
    if (l->separator == NULL) { return add_document(l->corpus, 0, n_byte, err); }
    return split_by_separator(l, file, n_byte, err);
}

static hd_status load_plain(const loader *l, const char *path, hd_err *err)
{
    hd_status st = HD_OK;
    hd_file *file = NULL;
    int64_t n_byte;
    HD_TRY(hd_io_open_read(path, &file, err));
    HD_TRY(hd_io_size(file, &n_byte, err));
    HD_TRY(add_file(l->corpus, path, NULL, err));
    HD_TRY(cut_documents(l, file, path, n_byte, err));
out:
    hd_io_abandon(&file);
    return st;
}

static hd_status load_compressed(const loader *l, const char *path, hd_codec codec, hd_err *err)
{
    hd_file *spool = NULL, *kept;
    int64_t n_byte;
    hd_status st = hd_spool_open(&spool, err);
    kept = spool;
    if (st == HD_OK) { st = add_file(l->corpus, NULL, &spool, err); }
    if (st == HD_OK) { st = unpack(path, codec, kept, &n_byte, err); }
    if (st == HD_OK) { st = cut_documents(l, kept, path, n_byte, err); }
    return st;
}

/* ---- JSON lines ----------------------------------------------------------------------------------------------------------- */

typedef struct spool_sink {
    hd_corpus *corpus;
    hd_file *spool;
    int64_t n_byte;
} spool_sink;

static hd_status spool_text(void *context, const char *text, size_t n, hd_err *err)
{
    spool_sink *sink = context;
    hd_status st = hd_io_write(sink->spool, text, n, err);
    if (st == HD_OK) { st = add_document(sink->corpus, sink->n_byte, (int64_t)n, err); }
    sink->n_byte += (int64_t)n;
    return st;
}

static hd_status load_json_lines(const loader *l, const char *path, hd_codec codec, hd_err *err)
{
    hd_status st = HD_OK;
    hd_file *spool = NULL;
    HD_TRY(hd_spool_open(&spool, err));
    spool_sink sink = {.corpus = l->corpus, .spool = spool};
    HD_TRY(add_file(l->corpus, NULL, &spool, err));
    HD_TRY(hd_json_lines_read(path, codec, l->text_column, spool_text, &sink, err));
    HD_TRY(sample(l->corpus, sink.spool, path, sink.n_byte, err));
out:
    hd_io_abandon(&spool);
    return st;
}

/* ---- files and folders ------------------------------------------------------------------------------------------------------- */

static hd_status load_path(const loader *l, const char *path, int depth, hd_err *err);

static hd_status load_folder(const loader *l, const char *path, int depth, hd_err *err)
{
    hd_status st = HD_OK;
    hd_io_names names = {0};
    char *inner = NULL;
    if (depth >= MAX_DEPTH) { return HD_FAIL(err, HD_E_CONFIG, "%s: folders are nested more than %d deep", path, MAX_DEPTH); }
    HD_TRY(hd_io_list(path, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        if (names.name[i][0] == '.') { continue; }
        hd_free(inner);
        inner = NULL;
        HD_TRY(hd_path_join(path, names.name[i], &inner, err));
        HD_TRY(load_path(l, inner, depth + 1, err));
    }
out:
    hd_free(inner);
    hd_io_names_free(&names);
    return st;
}

static hd_status load_path(const loader *l, const char *path, int depth, hd_err *err)
{
    hd_io_info info;
    hd_status st = hd_io_stat(path, &info, err);
    if (st != HD_OK) { return st; }
    if (info.kind == HD_IO_MISSING) { return HD_FAIL(err, HD_E_IO, "dataset_path: %s does not exist", path); }
    if (info.kind == HD_IO_DIRECTORY) { return load_folder(l, path, depth, err); }
    file_form form = form_of(path);
    if (form.json_lines) { return load_json_lines(l, path, form.codec, err); }
    return form.codec == HD_CODEC_NONE ? load_plain(l, path, err) : load_compressed(l, path, form.codec, err);
}

hd_status hd_corpus_open(const char *paths, const char *text_column, const char *separator, hd_corpus *corpus, hd_err *err)
{
    hd_status st = HD_OK;
    char *list = NULL, *rest = NULL;
    loader l = {.corpus = corpus, .text_column = text_column, .separator = separator};
    *corpus = (hd_corpus){.fingerprint = 0xCBF29CE484222325u, .i_open = -1};
    HD_TRY(hd_strdup(paths, &list, err));
    for (char *path = strtok_r(list, ",", &rest); path != NULL; path = strtok_r(NULL, ",", &rest)) {
        HD_TRY(load_path(&l, path, 0, err));
    }
    if (corpus->n_document == 0) { st = HD_FAIL(err, HD_E_CONFIG, "dataset_path=%s: there is no text in it", paths); }
out:
    hd_free(list);
    if (st != HD_OK) { hd_corpus_close(corpus); }
    return st;
}

void hd_corpus_close(hd_corpus *c)
{
    for (int64_t i = 0; i < c->n_file; i++) {
        hd_io_abandon(&c->files[i].file);
        hd_free(c->files[i].path);
    }
    hd_free(c->files);
    hd_free(c->documents);
    memset(c, 0, sizeof *c);
}

static hd_status open_for_reading(hd_corpus *c, int64_t i, hd_err *err)
{
    if (c->files[i].file != NULL) { return HD_OK; }
    if (c->i_open >= 0) { hd_io_abandon(&c->files[c->i_open].file); }
    c->i_open = -1;
    hd_status st = hd_io_open_read(c->files[i].path, &c->files[i].file, err);
    if (st == HD_OK) { c->i_open = i; }
    return st;
}

hd_status hd_corpus_read(hd_corpus *c, int64_t document, int64_t begin, int64_t n, void *data, hd_err *err)
{
    const hd_document *d = &c->documents[document];
    hd_status st = open_for_reading(c, (int64_t)d->file, err);
    if (st != HD_OK) { return st; }
    return hd_io_pread(c->files[d->file].file, data, (size_t)n, d->offset + begin, err);
}

void hd_corpus_keep_before(hd_corpus *c, int64_t cut)
{
    int64_t at = 0, kept = 0;
    for (int64_t d = 0; d < c->n_document && at < cut; d++) {
        int64_t n = c->documents[d].n_byte;
        if (n > cut - at) { c->documents[d].n_byte = cut - at; }
        at += n;
        kept = d + 1;
    }
    c->n_document = kept;
    c->n_byte = at < cut ? at : cut;
}

void hd_corpus_keep_from(hd_corpus *c, int64_t cut)
{
    int64_t at = 0, kept = 0, total = c->n_byte;
    for (int64_t d = 0; d < c->n_document; d++) {
        hd_document document = c->documents[d];
        int64_t end = at + document.n_byte, drop = cut > at ? cut - at : 0;
        at = end;
        if (drop >= document.n_byte) { continue; }
        document.offset += drop;
        document.n_byte -= drop;
        c->documents[kept++] = document;
    }
    c->n_document = kept;
    c->n_byte = total > cut ? total - cut : 0;
}
