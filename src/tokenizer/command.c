/* `hadal tokenize`.  See include/hadal/tokenizer.h and docs/tokenizer.md. */
#include "hadal/tokenizer.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/json.h"
#include "base/parallel_for.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

enum { FLUSH_BYTES = 1 << 16 };

typedef struct job {
    const hd_config *config;
    hd_tokenizer *tokenizer;
    hd_tokenize_write write;
    void *context;
    hd_document_text *document;
    size_t n_document, capacity;
    hd_buf decoded; /* texts of JSON lines */
    hd_buf out;
    bool by_line, json; /* documents=lines, jsonl */
    bool to_text;       /* show=text */
} job;

/* ---- the input cut into documents ------------------------------------------------------------------------------------------------- */

static hd_status add_document(job *j, const char *text, size_t n, hd_err *err)
{
    if (j->n_document == j->capacity) {
        void *grown = j->document;
        size_t capacity = j->capacity == 0 ? 64 : 2 * j->capacity;
        hd_status st = hd_realloc(&grown, j->capacity, capacity, sizeof *j->document, "documents", err);
        if (st != HD_OK) { return st; }
        j->document = grown;
        j->capacity = capacity;
    }
    j->document[j->n_document++] = (hd_document_text){text, n};
    return HD_OK;
}

/* One JSON line, a string or an object with a string under text_column, appended to j->decoded. */
static hd_status decode_line(job *j, const char *line, size_t n, const char *name, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_type type;
    hd_json_str key, text;
    bool more;
    const char *column = hd_config_str(j->config, HD_KEY_text_column);
    hd_json_open(&json, line, n, name, HD_JSON_STRICT);
    HD_TRY(hd_json_peek(&json, &type, err));
    if (type != HD_JSON_OBJECT) {
        HD_TRY(hd_json_string(&json, &text, err));
        hd_buf_append(&j->decoded, text.text, text.n);
    } else {
        HD_TRY(hd_json_object_begin(&json, err));
        for (;;) {
            HD_TRY(hd_json_object_next(&json, &more, &key, err));
            if (!more) { break; }
            if (!hd_json_str_is(key, column)) { continue; }
            HD_TRY(hd_json_string(&json, &text, err));
            hd_buf_append(&j->decoded, text.text, text.n);
        }
    }
    HD_TRY(hd_json_end(&json, err));
    HD_TRY(hd_buf_check(&j->decoded, err));
out:
    hd_json_close(&json);
    return st;
}

/* Lines end in "\n" or "\r\n"; a last one without an end counts. */
static hd_status cut_lines(job *j, const char *text, size_t n, const char *name, hd_err *err)
{
    hd_status st = HD_OK;
    bool json = j->json && !j->to_text; /* ids stand in plain lines */
    for (size_t at = 0; at < n;) {
        const char *newline = memchr(text + at, '\n', n - at);
        size_t length = newline != NULL ? (size_t)(newline - text) - at : n - at, behind = at + length + 1;
        if (length > 0 && text[at + length - 1] == '\r') { length--; }
        if (json) {
            size_t before = j->decoded.n;
            HD_TRY(decode_line(j, text + at, length, name, err));
            HD_TRY(add_document(j, NULL, j->decoded.n - before, err)); /* where it lies is known when all are there */
        } else {
            HD_TRY(add_document(j, text + at, length, err));
        }
        at = behind;
    }
    for (size_t i = 0, at = 0; json && i < j->n_document; at += j->document[i++].n) { j->document[i].text = hd_buf_text(&j->decoded) + at; }
out:
    return st;
}

/* ---- output ----------------------------------------------------------------------------------------------------------------------- */

static void flush(job *j, bool all)
{
    if (j->out.n == 0 || (!all && j->out.n < FLUSH_BYTES) || j->out.failed != HD_OK) { return; }
    j->write(j->context, j->out.data, j->out.n);
    hd_buf_clear(&j->out);
}

/* A decimal number without the cost of printf: there may be millions. */
static void put_id(hd_buf *out, int32_t id, char behind)
{
    char text[16];
    size_t n = sizeof text;
    text[--n] = behind;
    do { text[--n] = (char)('0' + id % 10); } while ((id /= 10) > 0);
    hd_buf_append(out, text + n, sizeof text - n);
}

static void put_ids(job *j, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++) { put_id(&j->out, id[i], i + 1 < n ? ' ' : '\n'); }
    if (n == 0) { hd_buf_append_char(&j->out, '\n'); }
}

/* One line for each id: the id, and its bytes as a JSON string; bytes that are no character as \xNN. */
static void put_pieces(job *j, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t n_byte;
        uint32_t code;
        const char *bytes = hd_tokenizer_bytes(j->tokenizer, id[i], &n_byte);
        put_id(&j->out, id[i], '\t');
        hd_buf_append_char(&j->out, '"');
        for (size_t k, at = 0; at < n_byte; at += k) {
            k = hd_utf8_next(bytes + at, n_byte - at, &code);
            if (k == 0 || code < 0x20 || code == 0x7F) {
                k = 1;
                hd_buf_printf(&j->out, "\\x%02X", (unsigned char)bytes[at]);
            } else {
                if (code == '"' || code == '\\') { hd_buf_append_char(&j->out, '\\'); }
                hd_buf_append(&j->out, bytes + at, k);
            }
        }
        hd_buf_append_text(&j->out, "\"\n");
    }
    if (j->by_line) { hd_buf_append_char(&j->out, '\n'); }
}

/* ---- the two directions ----------------------------------------------------------------------------------------------------------- */

static hd_status encode(job *j, hd_err *err)
{
    hd_status st;
    hd_ids ids = {0};
    size_t *ends = NULL, begin = 0;
    bool pieces = hd_config_is(j->config, HD_KEY_show, "pieces"), count = hd_config_is(j->config, HD_KEY_show, "count");
    hd_encode_flags flags = hd_config_bool(j->config, HD_KEY_add_special_tokens) ? HD_ENCODE_ADD_SPECIAL : HD_ENCODE_PLAIN;
    HD_TRY(hd_alloc(j->n_document, sizeof *ends, "documents", (void **)&ends, err));
    HD_TRY(hd_tokenizer_encode_documents(j->tokenizer, j->document, j->n_document, flags, hd_default_threads(), &ids, ends, err));
    for (size_t i = 0; i < j->n_document; begin = ends[i++]) {
        size_t n = ends[i] - begin;
        const int32_t *id = n > 0 ? ids.id + begin : NULL;
        if (pieces) {
            put_pieces(j, id, n);
        } else if (count) {
            hd_buf_printf(&j->out, "%zu ids, %zu bytes\n", n, j->document[i].n);
        } else {
            put_ids(j, id, n);
        }
        flush(j, false);
    }
out:
    hd_ids_free(&ids);
    hd_free(ends);
    return st;
}

/* Ids in decimal, with anything but digits between them. */
static hd_status read_ids(const hd_document_text *document, hd_ids *ids, hd_err *err)
{
    ids->n = 0;
    for (size_t i = 0; i < document->n;) {
        int64_t value = 0;
        unsigned char c = (unsigned char)document->text[i];
        if (strchr(" \t\r\n,[]", c) != NULL && c != '\0') {
            i++;
            continue;
        }
        if (c < '0' || c > '9') {
            return HD_FAIL(err, HD_E_CONFIG, "show=text reads ids: byte %zu is \"%.20s\", want a number", i + 1, document->text + i);
        }
        for (; i < document->n && document->text[i] >= '0' && document->text[i] <= '9'; i++) {
            value = value > INT32_MAX ? value : value * 10 + (document->text[i] - '0');
        }
        if (value > INT32_MAX) { return HD_FAIL(err, HD_E_CONFIG, "show=text reads ids: number %zu is above %d", ids->n + 1, INT32_MAX); }
        int32_t id = (int32_t)value;
        hd_status st = hd_ids_append(ids, &id, 1, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status decode(job *j, hd_err *err)
{
    hd_status st = HD_OK;
    hd_ids ids = {0};
    hd_buf text = {0};
    hd_json_writer w;
    for (size_t i = 0; i < j->n_document; i++) {
        HD_TRY(read_ids(&j->document[i], &ids, err));
        hd_buf_clear(&text);
        HD_TRY(hd_tokenizer_decode(j->tokenizer, ids.id, ids.n, HD_DECODE_ALL, &text, err));
        if (j->json) {
            hd_json_writer_init(&w, &j->out, 0);
            hd_json_write_string_n(&w, hd_buf_text(&text), text.n);
        } else {
            hd_buf_append(&j->out, hd_buf_text(&text), text.n);
        }
        if (j->by_line) { hd_buf_append_char(&j->out, '\n'); }
        flush(j, false);
    }
out:
    hd_ids_free(&ids);
    hd_buf_free(&text);
    return st;
}

hd_status hd_cmd_tokenize(const hd_config *config, const hd_tokenize_input *input, hd_tokenize_write write, void *context, hd_err *err)
{
    hd_status st;
    job j = {.config = config, .write = write, .context = context};
    char *file = NULL;
    const char *text = hd_config_str(config, HD_KEY_text), *name = input->path != NULL ? input->path : "standard input";
    size_t n = text != NULL ? strlen(text) : 0;
    j.json = hd_config_is(config, HD_KEY_documents, "jsonl");
    j.by_line = j.json || hd_config_is(config, HD_KEY_documents, "lines");
    j.to_text = hd_config_is(config, HD_KEY_show, "text");
    HD_TRY(hd_tokenizer_from_config(config, &j.tokenizer, err));
    if (text == NULL || n == 0) {
        text = input->text, n = input->n;
        if (input->path != NULL) {
            HD_TRY(hd_io_read_file(input->path, (size_t)1 << 40, &file, &n, err));
            text = file;
        }
    }
    if (text == NULL) { text = "", n = 0; }
    HD_TRY(j.by_line ? cut_lines(&j, text, n, name, err) : add_document(&j, text, n, err));
    HD_TRY(j.to_text ? decode(&j, err) : encode(&j, err));
    HD_TRY(hd_buf_check(&j.out, err));
    flush(&j, true);
out:
    hd_tokenizer_close(j.tokenizer);
    hd_free(j.document);
    hd_free(file);
    hd_buf_free(&j.decoded);
    hd_buf_free(&j.out);
    return st;
}
