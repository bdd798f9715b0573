/* Reading records of a golden file.  See golden.h. */
#include "eval/golden.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/json.h"
#include "eval/number.h"
#include "eval/window.h"

enum { MAX_KEY = 4096, MAX_MEMBER = 32 << 20, MAX_VOCAB = 1 << 24, MAX_NUMBER = HD_WINDOW_LOOK - 8, FIRST_ROW = 1024 };

struct hd_golden {
    hd_window window;
    hd_golden_record record;
    hd_window_place logits; /* behind the '[' of the record's logits */
    hd_window_place next;   /* behind the record */
    bool has_logits;
    int64_t n_rows, rows_read;
    hd_buf member; /* text of one member */
    float *row;
    int64_t row_capacity, n_vocab; /* n_vocab 0: no row was read yet */
};

/* ---- open and close ---------------------------------------------------------------------------------------------------- */

static bool ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), k = strlen(suffix);
    return n >= k && strcasecmp(path + n - k, suffix) == 0;
}

hd_status hd_golden_open(const char *path, hd_golden **out, hd_err *err)
{
    hd_status st;
    hd_golden *g = NULL;
    *out = NULL;
    if (ends_in(path, ".pickle") || ends_in(path, ".pkl")) {
        return HD_FAIL(err, HD_E_UNSUPPORTED,
                       "%s: a pickle is a program and is not read; make the file again as JSON lines: "
                       "tools/hf_golden_logits.py --output-format=json --output-path=FILE.jsonl ...",
                       path);
    }
    HD_TRY(hd_alloc(1, sizeof *g, "golden file", (void **)&g, err));
    HD_TRY(hd_window_open(path, &g->window, err));
    g->next = hd_window_here(&g->window);
    *out = g;
    g = NULL;
out:
    hd_golden_close(g);
    return st;
}

void hd_golden_rewind(hd_golden *g)
{
    g->next = (hd_window_place){.line = 1};
}

static void free_record(hd_golden_record *r)
{
    hd_free(r->prompt);
    hd_free(r->tokens);
    hd_free(r->experts.layers);
    hd_free(r->experts.ids);
    hd_free(r->experts.gaps);
    *r = (hd_golden_record){0};
}

void hd_golden_close(hd_golden *g)
{
    if (g == NULL) { return; }
    free_record(&g->record);
    hd_window_close(&g->window);
    hd_buf_free(&g->member);
    hd_free(g->row);
    hd_free(g);
}

/* ---- members that fit memory -------------------------------------------------------------------------------------------- */

/* Makes room for one more element. */
static hd_status grow(void **array, int64_t n, int64_t *capacity, size_t size, hd_err *err)
{
    if (n < *capacity) { return HD_OK; }
    int64_t more = *capacity == 0 ? 64 : 2 * *capacity;
    hd_status st = hd_realloc(array, (size_t)*capacity, (size_t)more, size, "golden record", err);
    if (st == HD_OK) { *capacity = more; }
    return st;
}

static hd_status read_id(hd_json *json, int32_t *id, hd_err *err)
{
    int64_t value;
    hd_status st = hd_json_i64(json, &value, err);
    if (st != HD_OK) { return st; }
    if (value < 0 || value > INT32_MAX) { return hd_json_fail(json, err, "%" PRId64 " is no index", value); }
    *id = (int32_t)value;
    return HD_OK;
}

static hd_status read_tokens(hd_json *json, hd_golden_record *r, hd_err *err)
{
    hd_status st;
    bool more;
    int64_t capacity = 0;
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        HD_TRY(grow((void **)&r->tokens, r->n_token, &capacity, sizeof *r->tokens, err));
        HD_TRY(read_id(json, &r->tokens[r->n_token], err));
        r->n_token++;
    }
    if (r->n_token == 0) { st = hd_json_fail(json, err, "a record without tokens"); }
out:
    return st;
}

/* An array of arrays ... of numbers, `depth` deep, into one list.  The caller compares counts. */
typedef hd_status (*read_number)(hd_json *json, void *list, int64_t i, hd_err *err);

static hd_status read_i64_at(hd_json *json, void *list, int64_t i, hd_err *err)
{
    return hd_json_i64(json, (int64_t *)list + i, err);
}
static hd_status read_id_at(hd_json *json, void *list, int64_t i, hd_err *err)
{
    return read_id(json, (int32_t *)list + i, err);
}
static hd_status read_f32_at(hd_json *json, void *list, int64_t i, hd_err *err)
{
    double value;
    hd_status st = hd_json_f64(json, &value, err);
    if (st == HD_OK) { ((float *)list)[i] = (float)value; }
    return st;
}

typedef struct number_list {
    void *data;
    int64_t n, capacity;
    size_t size;
    read_number read;
    int64_t inner;
} number_list;

static hd_status read_nested(hd_json *json, int depth, number_list *list, hd_err *err)
{
    hd_status st;
    bool more;
    int64_t before = list->n;
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        if (depth > 1) {
            HD_TRY(read_nested(json, depth - 1, list, err));
        } else {
            HD_TRY(grow(&list->data, list->n, &list->capacity, list->size, err));
            HD_TRY(list->read(json, list->data, list->n, err));
            list->n++;
        }
    }
    if (depth == 1 && list->inner >= 0 && list->n - before != list->inner) {
        return hd_json_fail(json, err, "%" PRId64 " numbers where %" PRId64 " were before", list->n - before,
                            list->inner);
    }
    if (depth == 1) { list->inner = list->n - before; }
out:
    return st;
}

/* {"layers": [..], "ids": [layer][token][k], "gaps": [layer][token]} */
static hd_status read_experts(hd_json *json, hd_golden_experts *e, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key;
    number_list layers = {.size = sizeof(int64_t), .read = read_i64_at, .inner = -1};
    number_list ids = {.size = sizeof(int32_t), .read = read_id_at, .inner = -1};
    number_list gaps = {.size = sizeof(float), .read = read_f32_at, .inner = -1};
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "layers")) {
            HD_TRY(read_nested(json, 1, &layers, err));
        } else if (hd_json_str_is(key, "ids")) {
            HD_TRY(read_nested(json, 3, &ids, err));
        } else if (hd_json_str_is(key, "gaps")) {
            HD_TRY(read_nested(json, 2, &gaps, err));
        }
    }
    *e = (hd_golden_experts){.n_layer = layers.n, .n_token = gaps.inner, .top_k = ids.inner};
    if (layers.n < 1 || gaps.inner < 1 || ids.inner < 1 || gaps.n != layers.n * gaps.inner ||
        ids.n != gaps.n * ids.inner) {
        *e = (hd_golden_experts){0};
        st = hd_json_fail(json, err, "the experts are not layers, ids [layer][token][k] and gaps [layer][token]");
    }
out:
    if (st != HD_OK) {
        hd_free(layers.data);
        hd_free(ids.data);
        hd_free(gaps.data);
        return st;
    }
    e->layers = layers.data, e->ids = ids.data, e->gaps = gaps.data;
    return HD_OK;
}

static void add_words(char out[256], const char *format, hd_json_str text)
{
    size_t n = strlen(out);
    (void)snprintf(out + n, 256 - n, format, (int)(text.n < 80 ? text.n : 80), text.text);
}

/* Any member of the stamp becomes words; numbers and versions too. */
static hd_status read_stamp(hd_json *json, hd_golden_record *r, hd_err *err)
{
    hd_status st;
    bool more;
    hd_json_str key, raw;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "experts")) {
            if (r->experts.n_layer > 0) { return hd_json_fail(json, err, "the experts stand twice"); }
            HD_TRY(read_experts(json, &r->experts, err));
        } else if (hd_json_str_is(key, "versions")) {
            HD_TRY(hd_json_raw(json, &raw, err));
            add_words(r->made_by, "%.*s, ", raw);
        } else if (hd_json_str_is(key, "class") || hd_json_str_is(key, "dtype")) {
            HD_TRY(hd_json_string(json, &raw, err));
            add_words(r->made_by, "%.*s, ", raw);
        } else if (hd_json_str_is(key, "softmax_scale")) {
            HD_TRY(hd_json_raw(json, &raw, err));
            add_words(r->made_by, "softmax scale %.*s, ", raw);
        }
    }
out:
    return st;
}

static hd_status read_known(hd_json *json, const char *name, hd_golden_record *r, hd_err *err)
{
    if (strcmp(name, "prompt") == 0) {
        hd_free(r->prompt);
        r->prompt = NULL;
        return hd_json_strdup(json, &r->prompt, err);
    }
    if (strcmp(name, "tokens") == 0) {
        if (r->tokens != NULL) { return hd_json_fail(json, err, "the tokens stand twice"); }
        return read_tokens(json, r, err);
    }
    if (strcmp(name, "hadal_golden") == 0) { return read_stamp(json, r, err); }
    return hd_json_skip(json, err);
}

/* Every member but the logits. */
static hd_status read_member(hd_golden *g, const char *name, hd_err *err)
{
    hd_json json = {0};
    char what[512];
    hd_window_place begin = hd_window_here(&g->window);
    hd_status st = hd_window_value(&g->window, MAX_MEMBER, &g->member, err);
    if (st != HD_OK) { return st; }
    (void)snprintf(what, sizeof what, "%.300s: line %" PRId64 ", in the member from column %" PRId64 " on",
                   hd_io_path(g->window.file), begin.line, begin.offset - begin.line_offset + 1);
    hd_json_open(&json, hd_buf_text(&g->member), g->member.n, what, HD_JSON_STRICT);
    st = read_known(&json, name, &g->record, err);
    if (st == HD_OK) { st = hd_json_end(&json, err); }
    hd_json_close(&json);
    return st;
}

/* ---- records -------------------------------------------------------------------------------------------------------------- */

/* [[...], [...]]: where the first row is, how many there are.  Numbers are judged when rows are read. */
static hd_status scan_logits(hd_golden *g, hd_err *err)
{
    hd_status st;
    hd_window *w = &g->window;
    char c;
    if (g->has_logits) { return hd_window_fail(w, err, "the logits stand twice"); }
    HD_TRY(hd_window_take(w, '[', err));
    g->logits = hd_window_here(w);
    g->has_logits = true;
    HD_TRY(hd_window_next(w, &c, err));
    for (bool more = c != ']'; more; g->n_rows++) {
        HD_TRY(hd_window_take(w, '[', err));
        HD_TRY(hd_window_skip_past(w, ']', err));
        HD_TRY(hd_window_next(w, &c, err));
        more = c == ',';
        if (more) { HD_TRY(hd_window_take(w, ',', err)); }
    }
    HD_TRY(hd_window_take(w, ']', err));
out:
    return st;
}

/* "name": into name, without judging more than that it is a string of JSON. */
static hd_status read_key(hd_golden *g, char name[64], hd_err *err)
{
    hd_status st;
    hd_json json = {0};
    hd_json_str key;
    char c;
    HD_TRY(hd_window_next(&g->window, &c, err));
    if (c != '"') { return hd_window_take(&g->window, '"', err); }
    hd_window_place begin = hd_window_here(&g->window);
    HD_TRY(hd_window_value(&g->window, MAX_KEY, &g->member, err));
    hd_json_open(&json, hd_buf_text(&g->member), g->member.n, "key", HD_JSON_STRICT);
    bool good = hd_json_string(&json, &key, NULL) == HD_OK && hd_json_end(&json, NULL) == HD_OK;
    if (good) { (void)snprintf(name, 64, "%.*s", (int)(key.n < 63 ? key.n : 63), key.text); }
    hd_json_close(&json);
    if (!good) {
        hd_window_go(&g->window, begin);
        return hd_window_fail(&g->window, err, "want a key in quotes, then ':'");
    }
    HD_TRY(hd_window_take(&g->window, ':', err));
out:
    return st;
}

static hd_status read_members(hd_golden *g, hd_err *err)
{
    hd_status st;
    char c = ',', name[64];
    HD_TRY(hd_window_take(&g->window, '{', err));
    while (c == ',') {
        HD_TRY(read_key(g, name, err));
        HD_TRY(strcmp(name, "logits") == 0 ? scan_logits(g, err) : read_member(g, name, err));
        HD_TRY(hd_window_next(&g->window, &c, err));
        if (c == ',') { HD_TRY(hd_window_take(&g->window, ',', err)); }
    }
    HD_TRY(hd_window_take(&g->window, '}', err));
    HD_TRY(hd_window_next(&g->window, &c, err));
    if (c != '\n' && g->window.at < g->window.end) {
        st = hd_window_fail(&g->window, err, "something stands behind the record");
    }
out:
    return st;
}

static hd_status check_record(const hd_golden *g, hd_err *err)
{
    const hd_golden_record *r = &g->record;
    const char *missing = r->prompt == NULL   ? "prompt"
                          : r->tokens == NULL ? "tokens"
                          : !g->has_logits    ? "logits"
                                              : NULL;
    if (missing != NULL) { return hd_window_fail(&g->window, err, "the record has no member \"%s\"", missing); }
    if (g->n_rows != r->n_token) {
        return hd_window_fail(&g->window, err, "the record has %" PRId64 " rows of logits and %" PRId64 " tokens",
                              g->n_rows, r->n_token);
    }
    if (r->experts.n_layer > 0 && r->experts.n_token != r->n_token) {
        return hd_window_fail(&g->window, err, "the record has experts of %" PRId64 " tokens, want %" PRId64,
                              r->experts.n_token, r->n_token);
    }
    return HD_OK;
}

hd_status hd_golden_next(hd_golden *g, const hd_golden_record **record, hd_err *err)
{
    hd_status st;
    bool more;
    free_record(&g->record);
    g->n_rows = g->rows_read = 0;
    g->has_logits = false;
    *record = NULL;
    hd_window_go(&g->window, g->next);
    HD_TRY(hd_window_next_line(&g->window, &more, err));
    if (!more) { return HD_OK; }
    g->record.line = g->window.line;
    HD_TRY(read_members(g, err));
    HD_TRY(check_record(g, err));
    g->next = hd_window_here(&g->window);
    hd_window_go(&g->window, g->logits);
    *record = &g->record;
out:
    return st;
}

/* ---- rows ------------------------------------------------------------------------------------------------------------------- */

static hd_status read_logit(hd_golden *g, int64_t i, hd_err *err)
{
    char c;
    hd_window *w = &g->window;
    hd_status st = hd_window_next(w, &c, err);
    if (st != HD_OK) { return st; }
    if (i >= MAX_VOCAB) { return hd_window_fail(w, err, "a row of more than %d logits", MAX_VOCAB); }
    if (i >= g->row_capacity) {
        int64_t more = g->row_capacity == 0 ? FIRST_ROW : 2 * g->row_capacity;
        st = hd_realloc((void **)&g->row, (size_t)g->row_capacity, (size_t)more, sizeof *g->row, "row of logits", err);
        if (st != HD_OK) { return st; }
        g->row_capacity = more;
    }
    size_t n = hd_scan_f32(w->text + w->at, &g->row[i]);
    if (n == 0) { return hd_window_fail(w, err, "want a finite number (NaN and Infinity are none)"); }
    if (n > MAX_NUMBER) { return hd_window_fail(w, err, "a number of more than %d characters", MAX_NUMBER); }
    if (isinf(g->row[i])) {
        return hd_window_fail(w, err, "%.*s is beyond the range of f32", (int)(n < 40 ? n : 40), w->text + w->at);
    }
    w->at += n;
    return HD_OK;
}

hd_status hd_golden_row(hd_golden *g, const float **row, int64_t *n, hd_err *err)
{
    hd_status st = HD_OK;
    hd_window *w = &g->window;
    char c = ',';
    if (g->rows_read > 0) { HD_TRY(hd_window_take(w, ',', err)); }
    HD_TRY(hd_window_take(w, '[', err));
    for (*n = 0; c == ','; ++*n) {
        HD_TRY(read_logit(g, *n, err));
        HD_TRY(hd_window_next(w, &c, err));
        if (c == ',') { HD_TRY(hd_window_take(w, ',', err)); }
    }
    HD_TRY(hd_window_take(w, ']', err));
    if (g->n_vocab == 0) { g->n_vocab = *n; }
    if (*n != g->n_vocab) {
        return hd_window_fail(w, err, "row %" PRId64 " has %" PRId64 " logits, rows before it have %" PRId64,
                              g->rows_read + 1, *n, g->n_vocab);
    }
    g->rows_read++;
    *row = g->row;
out:
    return st;
}
