/* Memory of a run, the making of values, and their comparison.  See template_value.h; texts are in template_text.c. */
#include "tokenizer/template_value.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/utf8.h"
#include "tokenizer/template_string.h"

enum { CHUNK_BYTES = 64 << 10, ALIGNMENT = 16, FIRST_ITEMS = 4, FIRST_GROWN = 128 };

const hd_tpl_limits hd_tpl_default_limits = {
    .value_bytes = (size_t)40 << 20, .output_bytes = (size_t)16 << 20, .steps = 5000000, .depth = 400};

/* ---- the run --------------------------------------------------------------------------------------------------------- */

struct hd_tpl_chunk {
    struct hd_tpl_chunk *next;
};

void hd_tpl_run_open(hd_tpl_run *run, const hd_tpl_limits *limits, hd_buf *out, hd_err *err)
{
    *run = (hd_tpl_run){.limits = limits != NULL ? *limits : hd_tpl_default_limits, .out = out, .err = err};
    out->limit = run->limits.output_bytes;
}

void hd_tpl_run_close(hd_tpl_run *run)
{
    while (run->chunks != NULL) {
        struct hd_tpl_chunk *next = run->chunks->next;
        hd_free(run->chunks);
        run->chunks = next;
    }
}

hd_status hd_tpl_fail(hd_tpl_run *run, hd_status code, const char *format, ...)
{
    char what[512];
    size_t line = 1, start = 0;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (run->source == NULL) { return HD_FAIL(run->err, code, "%s", what); }
    for (size_t i = 0; i < run->at && i < run->n_source; i++) {
        if (run->source[i] == '\n') { line++, start = i + 1; }
    }
    return HD_FAIL(run->err, code, "%s: line %zu, column %zu: %s", run->name, line, run->at - start + 1, what);
}

hd_status hd_tpl_step(hd_tpl_run *run, size_t n)
{
    run->steps += n;
    if (run->steps <= run->limits.steps) { return HD_OK; }
    return hd_tpl_fail(run, HD_E_INVALID, "the template takes more than %" PRIu64 " steps", run->limits.steps);
}

hd_status hd_tpl_step_bytes(hd_tpl_run *run, size_t n)
{
    return hd_tpl_step(run, n / 64 + 1);
}

static hd_status new_chunk(hd_tpl_run *run, size_t bytes)
{
    void *memory;
    size_t size = bytes + sizeof(struct hd_tpl_chunk) + ALIGNMENT;
    size = size < CHUNK_BYTES ? CHUNK_BYTES : size;
    if (size > run->limits.value_bytes - run->used_bytes) {
        return hd_tpl_fail(run, HD_E_INVALID, "the template's values take more than %zu bytes", run->limits.value_bytes);
    }
    hd_status st = hd_alloc(size, 1, "values of a template", &memory, run->err);
    if (st != HD_OK) { return st; }
    struct hd_tpl_chunk *chunk = memory;
    chunk->next = run->chunks;
    run->chunks = chunk;
    run->used_bytes += size;
    run->top = (char *)memory + sizeof *chunk;
    run->end = (char *)memory + size;
    return HD_OK;
}

hd_status hd_tpl_alloc(hd_tpl_run *run, size_t bytes, void **out)
{
    if (bytes > run->limits.value_bytes) { bytes = run->limits.value_bytes; /* the chunk is refused below */ }
    size_t skip = (size_t)(-(uintptr_t)run->top & (ALIGNMENT - 1));
    if (run->top == NULL || (size_t)(run->end - run->top) < bytes + skip) {
        hd_status st = new_chunk(run, bytes);
        if (st != HD_OK) { return st; }
        skip = (size_t)(-(uintptr_t)run->top & (ALIGNMENT - 1));
    }
    *out = run->top + skip;
    run->top += skip + bytes;
    return HD_OK;
}

/* ---- texts ----------------------------------------------------------------------------------------------------------- */

hd_status hd_tpl_copy_text(hd_tpl_run *run, const char *text, size_t n, hd_tpl_value *out)
{
    void *copy;
    hd_status st = hd_tpl_step_bytes(run, n);
    if (st == HD_OK) { st = hd_tpl_alloc(run, n, &copy); }
    if (st != HD_OK) { return st; }
    if (n > 0) { memcpy(copy, text, n); }
    *out = hd_tpl_text(copy, n);
    return HD_OK;
}

/* Before the text of a GROWN string.  Whoever holds the text up to `used` may write behind it; older, shorter ones see no change. */
typedef struct grown_head {
    size_t used, capacity;
} grown_head;

static hd_status grow_text(hd_tpl_run *run, hd_tpl_value a, size_t n, hd_tpl_value *out)
{
    void *memory;
    size_t capacity = n < FIRST_GROWN ? n : 2 * n;
    hd_status st = hd_tpl_step_bytes(run, a.n);
    if (st == HD_OK) { st = hd_tpl_alloc(run, sizeof(grown_head) + capacity, &memory); }
    if (st != HD_OK) { return st; }
    grown_head *head = memory;
    *head = (grown_head){.used = a.n, .capacity = capacity};
    *out = hd_tpl_text((char *)(head + 1), a.n);
    out->kind = HD_TPL_GROWN;
    if (a.n > 0) { memcpy(head + 1, a.text, a.n); }
    return HD_OK;
}

hd_status hd_tpl_join(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out)
{
    size_t n;
    if (a.n == 0 || b.n == 0) { return *out = a.n == 0 ? b : a, HD_OK; }
    hd_status st = hd_tpl_step_bytes(run, b.n);
    if (st != HD_OK) { return st; }
    if (!hd_size_add(a.n, b.n, &n) || n > run->limits.value_bytes) { n = run->limits.value_bytes; /* is refused */ }
    grown_head *head = a.kind == HD_TPL_GROWN ? (grown_head *)(uintptr_t)a.text - 1 : NULL;
    if (head == NULL || head->used != a.n || head->capacity - head->used < b.n) {
        st = grow_text(run, a, n, &a);
        if (st != HD_OK) { return st; }
        head = (grown_head *)(uintptr_t)a.text - 1;
    }
    memcpy((char *)(head + 1) + a.n, b.text, b.n);
    head->used += b.n;
    *out = a;
    out->n = a.n + b.n;
    return HD_OK;
}

hd_status hd_tpl_check_out(hd_tpl_run *run)
{
    if (run->out->failed == HD_OK) { return HD_OK; }
    if (run->out->failed == HD_E_NOMEM) { return hd_buf_check(run->out, run->err); }
    return hd_tpl_fail(run, HD_E_INVALID, "the text is longer than %zu bytes", run->out->limit);
}

hd_status hd_tpl_take(hd_tpl_run *run, size_t mark, hd_tpl_value *out)
{
    hd_status st = hd_tpl_check_out(run);
    if (st != HD_OK) { return st; }
    st = hd_tpl_copy_text(run, hd_buf_text(run->out) + mark, run->out->n - mark, out);
    run->out->n = mark;
    return st;
}

hd_status hd_tpl_string_of(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value *out)
{
    size_t mark = hd_tpl_mark(run);
    if (value.type == HD_TPL_STRING) {
        *out = value;
        if (value.kind == HD_TPL_SAFE) { out->kind = HD_TPL_PLAIN; }
        return HD_OK;
    }
    hd_status st = hd_tpl_put(run, value);
    return st == HD_OK ? hd_tpl_take(run, mark, out) : st;
}

/* ---- lists and dicts ------------------------------------------------------------------------------------------------- */

/* Room for one item more in an array of the run: the old array is left behind. */
static hd_status grow(hd_tpl_run *run, size_t n, size_t *capacity, size_t size, void **items)
{
    void *grown;
    size_t wanted = *capacity < FIRST_ITEMS ? FIRST_ITEMS : 2 * *capacity;
    if (n < *capacity) { return HD_OK; }
    hd_status st = hd_tpl_alloc(run, wanted * size, &grown);
    if (st != HD_OK) { return st; }
    if (n > 0) { memcpy(grown, *items, n * size); }
    *items = grown;
    *capacity = wanted;
    return HD_OK;
}

hd_status hd_tpl_list_new(hd_tpl_run *run, size_t capacity, hd_tpl_list **out)
{
    void *memory, *items = NULL;
    hd_status st = hd_tpl_alloc(run, sizeof **out, &memory);
    if (st == HD_OK && capacity > 0) {
        size_t bytes;
        st = hd_tpl_alloc(run, hd_size_mul(capacity, sizeof(hd_tpl_value), &bytes) ? bytes : SIZE_MAX, &items);
    }
    if (st != HD_OK) { return st; }
    *out = memory;
    **out = (hd_tpl_list){.capacity = capacity, .items = items};
    return HD_OK;
}

hd_status hd_tpl_list_add(hd_tpl_run *run, hd_tpl_list *list, hd_tpl_value value)
{
    void *items = list->items;
    hd_status st = hd_tpl_step(run, 1);
    if (st == HD_OK) { st = grow(run, list->n, &list->capacity, sizeof value, &items); }
    if (st != HD_OK) { return st; }
    list->items = items;
    list->items[list->n++] = value;
    return HD_OK;
}

hd_status hd_tpl_pair(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out)
{
    hd_tpl_list *list;
    hd_status st = hd_tpl_list_new(run, 2, &list);
    if (st == HD_OK) { st = hd_tpl_list_add(run, list, a); }
    if (st == HD_OK) { st = hd_tpl_list_add(run, list, b); }
    if (st == HD_OK) { *out = hd_tpl_listed(HD_TPL_TUPLE, list); }
    return st;
}

hd_status hd_tpl_iterator_new(hd_tpl_run *run, hd_tpl_list *list, hd_tpl_value *out)
{
    void *memory;
    hd_status st = hd_tpl_alloc(run, sizeof(hd_tpl_iterator), &memory);
    if (st != HD_OK) { return st; }
    *out = (hd_tpl_value){.type = HD_TPL_ITERATOR, .iterator = memory};
    *out->iterator = (hd_tpl_iterator){.list = list};
    return HD_OK;
}

hd_status hd_tpl_iterator_start(hd_tpl_run *run, hd_tpl_iterator *iterator)
{
    hd_tpl_fill fill = iterator->fill;
    if (fill == NULL) { return HD_OK; }
    if (run->depth >= run->limits.depth) { return hd_tpl_fail(run, HD_E_INVALID, "iterators over iterators, %d levels deep", run->depth); }
    iterator->fill = NULL;
    run->depth++;
    hd_status st = fill(run, iterator->call, iterator->list);
    run->depth--;
    return st;
}

hd_status hd_tpl_dict_new(hd_tpl_run *run, size_t capacity, hd_tpl_value *out)
{
    void *memory, *entries = NULL;
    hd_status st = hd_tpl_alloc(run, sizeof(hd_tpl_dict), &memory);
    if (st == HD_OK && capacity > 0) { st = hd_tpl_alloc(run, capacity * sizeof(hd_tpl_entry), &entries); }
    if (st != HD_OK) { return st; }
    *out = (hd_tpl_value){.type = HD_TPL_DICT, .dict = memory};
    *out->dict = (hd_tpl_dict){.capacity = capacity, .entries = entries};
    return HD_OK;
}

hd_tpl_value *hd_tpl_dict_get_text(hd_tpl_dict *dict, const char *key, size_t n)
{
    for (size_t i = 0; i < dict->n; i++) {
        const hd_tpl_value *k = &dict->entries[i].key;
        if (k->type == HD_TPL_STRING && k->n == n && memcmp(k->text, key, n) == 0) { return &dict->entries[i].value; }
    }
    return NULL;
}

hd_status hd_tpl_dict_get(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value **found)
{
    bool same = false;
    *found = NULL;
    hd_status st = hd_tpl_step(run, dict->n / 8 + 1);
    if (st != HD_OK) { return st; }
    if (key.type == HD_TPL_STRING) { return *found = hd_tpl_dict_get_text(dict, key.text, key.n), HD_OK; }
    if (!hd_tpl_is_hashable(key)) { return hd_tpl_fail(run, HD_E_INVALID, "a %s cannot be a key", hd_tpl_type_name(key)); }
    for (size_t i = 0; i < dict->n && !same; i++) {
        st = hd_tpl_equal(run, dict->entries[i].key, key, &same);
        if (st != HD_OK) { return st; }
        if (same) { *found = &dict->entries[i].value; }
    }
    return HD_OK;
}

hd_status hd_tpl_dict_add(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value value)
{
    void *entries = dict->entries;
    hd_status st = hd_tpl_step(run, 1);
    if (st == HD_OK) { st = grow(run, dict->n, &dict->capacity, sizeof(hd_tpl_entry), &entries); }
    if (st != HD_OK) { return st; }
    dict->entries = entries;
    dict->entries[dict->n++] = (hd_tpl_entry){key, value};
    return HD_OK;
}

hd_status hd_tpl_dict_set(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value value)
{
    hd_tpl_value *found;
    hd_status st = hd_tpl_dict_get(run, dict, key, &found);
    if (st != HD_OK) { return st; }
    if (found != NULL) { return *found = value, HD_OK; }
    return hd_tpl_dict_add(run, dict, key, value);
}

hd_status hd_tpl_dict_set_text(hd_tpl_run *run, hd_tpl_dict *dict, const char *key, hd_tpl_value value)
{
    return hd_tpl_dict_set(run, dict, hd_tpl_text(key, strlen(key)), value);
}

/* ---- from JSON ------------------------------------------------------------------------------------------------------- */

static hd_status number_from_json(hd_tpl_run *run, hd_json *json, hd_tpl_value *out)
{
    hd_json_str text;
    hd_json again;
    hd_status st = hd_json_raw(json, &text, run->err);
    if (st != HD_OK) { return st; }
    bool is_integer = true;
    for (size_t i = 0; i < text.n; i++) { is_integer = is_integer && memchr(".eE", text.text[i], 3) == NULL; }
    hd_json_open(&again, text.text, text.n, json->name, HD_JSON_STRICT);
    out->type = is_integer ? HD_TPL_INT : HD_TPL_FLOAT;
    st = is_integer ? hd_json_i64(&again, &out->i, run->err) : hd_json_f64(&again, &out->f, run->err);
    hd_json_close(&again);
    return st;
}

static hd_status array_from_json(hd_tpl_run *run, hd_json *json, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value item;
    bool more;
    HD_TRY(hd_tpl_list_new(run, 0, &list));
    HD_TRY(hd_json_array_begin(json, run->err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, run->err));
        if (!more) { break; }
        HD_TRY(hd_tpl_from_json(run, json, &item));
        HD_TRY(hd_tpl_list_add(run, list, item));
    }
    *out = hd_tpl_listed(HD_TPL_LIST, list);
out:
    return st;
}

static hd_status object_from_json(hd_tpl_run *run, hd_json *json, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_json_str text;
    hd_tpl_value key, value;
    bool more;
    HD_TRY(hd_tpl_dict_new(run, 0, out));
    HD_TRY(hd_json_object_begin(json, run->err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &text, run->err));
        if (!more) { break; }
        HD_TRY(hd_tpl_copy_text(run, text.text, text.n, &key));
        HD_TRY(hd_tpl_from_json(run, json, &value));
        HD_TRY(hd_tpl_dict_add(run, out->dict, key, value)); /* the parser refuses duplicates */
    }
out:
    return st;
}

hd_status hd_tpl_from_json(hd_tpl_run *run, hd_json *json, hd_tpl_value *out)
{
    hd_json_type type;
    hd_json_str text;
    hd_status st = hd_json_peek(json, &type, run->err);
    if (st != HD_OK) { return st; }
    *out = hd_tpl_none();
    switch (type) {
    case HD_JSON_NULL: return hd_json_null(json, run->err);
    case HD_JSON_BOOL: return out->type = HD_TPL_BOOL, hd_json_bool(json, &out->b, run->err);
    case HD_JSON_NUMBER: return number_from_json(run, json, out);
    case HD_JSON_STRING:
        st = hd_json_string(json, &text, run->err);
        return st == HD_OK ? hd_tpl_copy_text(run, text.text, text.n, out) : st;
    case HD_JSON_ARRAY: return array_from_json(run, json, out);
    case HD_JSON_OBJECT: return object_from_json(run, json, out);
    }
    return HD_OK;
}

/* ---- what Python does with them -------------------------------------------------------------------------------------- */

const char *hd_tpl_type_name(hd_tpl_value value)
{
    static const char *const names[] = {[HD_TPL_MISSING] = "nothing",
                                        [HD_TPL_UNDEFINED] = "undefined value",
                                        [HD_TPL_NONE] = "NoneType",
                                        [HD_TPL_BOOL] = "bool",
                                        [HD_TPL_INT] = "int",
                                        [HD_TPL_FLOAT] = "float",
                                        [HD_TPL_STRING] = "str",
                                        [HD_TPL_LIST] = "list",
                                        [HD_TPL_TUPLE] = "tuple",
                                        [HD_TPL_DICT] = "dict",
                                        [HD_TPL_RANGE] = "range",
                                        [HD_TPL_VIEW] = "view of a dict",
                                        [HD_TPL_ITERATOR] = "generator",
                                        [HD_TPL_NAMESPACE] = "namespace",
                                        [HD_TPL_LOOP] = "loop",
                                        [HD_TPL_MACRO] = "macro",
                                        [HD_TPL_FUNCTION] = "function",
                                        [HD_TPL_METHOD] = "method"};
    return names[value.type];
}

bool hd_tpl_is_text(hd_tpl_value value, const char *text)
{
    return value.type == HD_TPL_STRING && value.n == strlen(text) && memcmp(value.text, text, value.n) == 0;
}

bool hd_tpl_truth(hd_tpl_value value)
{
    switch (value.type) {
    case HD_TPL_MISSING:
    case HD_TPL_UNDEFINED:
    case HD_TPL_NONE: return false;
    case HD_TPL_BOOL: return value.b;
    case HD_TPL_INT: return value.i != 0;
    case HD_TPL_FLOAT: return value.f != 0.0;
    case HD_TPL_STRING: return value.n > 0;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: return value.list->n > 0;
    case HD_TPL_DICT:
    case HD_TPL_VIEW: return value.dict->n > 0;
    case HD_TPL_RANGE: return value.range->n > 0;
    default: return true;
    }
}

bool hd_tpl_is_number(hd_tpl_value value)
{
    return value.type == HD_TPL_BOOL || value.type == HD_TPL_INT || value.type == HD_TPL_FLOAT;
}

bool hd_tpl_is_integer(hd_tpl_value value, int64_t *out)
{
    *out = value.type == HD_TPL_BOOL ? value.b : value.i;
    return value.type == HD_TPL_BOOL || value.type == HD_TPL_INT;
}

double hd_tpl_as_double(hd_tpl_value number)
{
    return number.type == HD_TPL_FLOAT ? number.f : number.type == HD_TPL_BOOL ? (double)number.b : (double)number.i;
}

static bool is_hashable(hd_tpl_value value, int depth)
{
    if (value.type == HD_TPL_LIST || value.type == HD_TPL_DICT) { return false; }
    if (value.type == HD_TPL_VIEW && value.kind != HD_TPL_VIEW_VALUES) { return false; }
    for (size_t i = 0; value.type == HD_TPL_TUPLE && i < value.list->n; i++) {
        if (depth == HD_TPL_MAX_VALUE_DEPTH || !is_hashable(value.list->items[i], depth + 1)) { return false; }
    }
    return true;
}

bool hd_tpl_is_hashable(hd_tpl_value value)
{
    return is_hashable(value, 0);
}

hd_status hd_tpl_fail_undefined(hd_tpl_run *run, hd_tpl_value value)
{
    int n = value.n < 200 ? (int)value.n : 200;
    if (value.kind == HD_TPL_UNDEFINED_NAME) { return hd_tpl_fail(run, HD_E_INVALID, "'%.*s' is undefined", n, value.text); }
    if (value.kind == HD_TPL_UNDEFINED_HINT) { return hd_tpl_fail(run, HD_E_INVALID, "%.*s", n, value.text); }
    hd_tpl_value owner = {.type = (hd_tpl_type)(value.kind - HD_TPL_UNDEFINED_ATTRIBUTE)};
    return hd_tpl_fail(run, HD_E_INVALID, "a %s has no attribute '%.*s'", hd_tpl_type_name(owner), n, value.text);
}

/* Exact comparison of numbers: long double holds every int64 and every double on the machines hadal runs on. */
static int compare_numbers(hd_tpl_value a, hd_tpl_value b, bool *unordered)
{
    int64_t i, j;
    *unordered = false;
    if (hd_tpl_is_integer(a, &i) && hd_tpl_is_integer(b, &j)) { return (i > j) - (i < j); }
    long double x = a.type == HD_TPL_FLOAT ? (long double)a.f : (long double)i;
    long double y = hd_tpl_is_integer(b, &j) ? (long double)j : (long double)b.f;
    *unordered = isunordered(x, y);
    return (x > y) - (x < y);
}

static int compare_texts(hd_tpl_value a, hd_tpl_value b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n > 0 ? memcmp(a.text, b.text, n) : 0; /* the order of UTF-8 is that of code points */
    return c != 0 ? c : (a.n > b.n) - (a.n < b.n);
}

static hd_status equal(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, int depth, bool *out);

static hd_status equal_lists(hd_tpl_run *run, const hd_tpl_list *a, const hd_tpl_list *b, int depth, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        hd_status st = equal(run, a->items[i], b->items[i], depth + 1, out);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status equal_dicts(hd_tpl_run *run, hd_tpl_dict *a, hd_tpl_dict *b, int depth, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        hd_tpl_value *other;
        hd_status st = hd_tpl_dict_get(run, b, a->entries[i].key, &other);
        if (st != HD_OK) { return st; }
        *out = other != NULL;
        if (other != NULL) { st = equal(run, a->entries[i].value, *other, depth + 1, out); }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status equal(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, int depth, bool *out)
{
    bool unordered;
    hd_status st = hd_tpl_step_bytes(run, a.type == HD_TPL_STRING ? a.n : 0);
    *out = false;
    if (st != HD_OK) { return st; }
    if (depth > HD_TPL_MAX_VALUE_DEPTH) { return hd_tpl_fail(run, HD_E_INVALID, "values nested too deep to be compared"); }
    if (hd_tpl_is_number(a) && hd_tpl_is_number(b)) {
        int order = compare_numbers(a, b, &unordered);
        *out = order == 0 && !unordered;
        return HD_OK;
    }
    if (a.type != b.type) { return HD_OK; }
    switch (a.type) {
    case HD_TPL_UNDEFINED:
    case HD_TPL_NONE: *out = true; return HD_OK;
    case HD_TPL_STRING: *out = a.n == b.n && compare_texts(a, b) == 0; return HD_OK;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: return equal_lists(run, a.list, b.list, depth, out);
    case HD_TPL_DICT: return equal_dicts(run, a.dict, b.dict, depth, out);
    case HD_TPL_RANGE:
        *out = a.range->n == b.range->n && (a.range->n == 0 || a.range->start == b.range->start) &&
               (a.range->n <= 1 || a.range->step == b.range->step);
        return HD_OK;
    case HD_TPL_VIEW: return hd_tpl_fail(run, HD_E_UNSUPPORTED, "views of dicts cannot be compared here");
    case HD_TPL_FUNCTION: *out = a.kind == b.kind; return HD_OK;
    default: *out = a.self == b.self; return HD_OK;
    }
}

hd_status hd_tpl_equal(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, bool *out)
{
    return equal(run, a, b, 0, out);
}

static hd_status compare(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, const char *op, int depth, int *out, bool *unordered)
{
    hd_status st = hd_tpl_step_bytes(run, a.type == HD_TPL_STRING ? a.n : 0);
    *unordered = false;
    *out = 0;
    if (st != HD_OK) { return st; }
    if (hd_tpl_is_number(a) && hd_tpl_is_number(b)) { return *out = compare_numbers(a, b, unordered), HD_OK; }
    if (a.type == HD_TPL_STRING && b.type == HD_TPL_STRING) { return *out = compare_texts(a, b), HD_OK; }
    if (a.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, a); }
    if (b.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, b); }
    if (a.type != b.type || (a.type != HD_TPL_LIST && a.type != HD_TPL_TUPLE) || depth > HD_TPL_MAX_VALUE_DEPTH) {
        return hd_tpl_fail(run, HD_E_INVALID, "'%s' is not supported between a %s and a %s", op, hd_tpl_type_name(a), hd_tpl_type_name(b));
    }
    for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
        bool same;
        st = equal(run, a.list->items[i], b.list->items[i], depth + 1, &same);
        if (st != HD_OK) { return st; }
        if (!same) { return compare(run, a.list->items[i], b.list->items[i], op, depth + 1, out, unordered); }
    }
    *out = (a.list->n > b.list->n) - (a.list->n < b.list->n);
    return HD_OK;
}

hd_status hd_tpl_compare(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, const char *op, int *out, bool *unordered)
{
    return compare(run, a, b, op, 0, out, unordered);
}

static hd_status list_contains(hd_tpl_run *run, hd_tpl_value item, const hd_tpl_list *list, bool *out)
{
    *out = false;
    for (size_t i = 0; i < list->n && !*out; i++) {
        hd_status st = hd_tpl_equal(run, list->items[i], item, out);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_tpl_contains(hd_tpl_run *run, hd_tpl_value item, hd_tpl_value in, bool *out)
{
    hd_tpl_list *list;
    hd_tpl_value *found;
    hd_status st;
    *out = false;
    if (in.type == HD_TPL_STRING) {
        if (item.type == HD_TPL_UNDEFINED) { return hd_tpl_fail_undefined(run, item); }
        if (item.type != HD_TPL_STRING) {
            return hd_tpl_fail(run, HD_E_INVALID, "'in' of a string wants a string on its left, found a %s", hd_tpl_type_name(item));
        }
        st = hd_tpl_step_bytes(run, in.n);
        *out = hd_tpl_find_text(in, item, 0) != SIZE_MAX;
        return st;
    }
    if (in.type == HD_TPL_DICT || (in.type == HD_TPL_VIEW && in.kind == HD_TPL_VIEW_KEYS)) {
        st = hd_tpl_dict_get(run, in.dict, item, &found);
        *out = found != NULL;
        return st;
    }
    if (in.type == HD_TPL_NONE || hd_tpl_is_number(in)) {
        return hd_tpl_fail(run, HD_E_INVALID, "'in' wants something to search on its right, found a %s", hd_tpl_type_name(in));
    }
    st = hd_tpl_iterate(run, in, &list);
    return st == HD_OK ? list_contains(run, item, list, out) : st;
}

hd_status hd_tpl_length(hd_tpl_run *run, hd_tpl_value value, int64_t *out)
{
    hd_status st;
    switch (value.type) {
    case HD_TPL_UNDEFINED: *out = 0; return HD_OK;
    case HD_TPL_STRING:
        st = hd_tpl_step_bytes(run, value.n);
        *out = (int64_t)hd_tpl_count_chars(value);
        return st;
    case HD_TPL_LIST:
    case HD_TPL_TUPLE: *out = (int64_t)value.list->n; return HD_OK;
    case HD_TPL_DICT:
    case HD_TPL_VIEW: *out = (int64_t)value.dict->n; return HD_OK;
    case HD_TPL_RANGE: *out = (int64_t)value.range->n; return HD_OK;
    default: return hd_tpl_fail(run, HD_E_INVALID, "a %s has no length", hd_tpl_type_name(value));
    }
}

/* ---- iteration ------------------------------------------------------------------------------------------------------- */

static hd_status iterate_dict(hd_tpl_run *run, const hd_tpl_dict *dict, int kind, hd_tpl_list *list)
{
    for (size_t i = 0; i < dict->n; i++) {
        hd_tpl_value item = kind == HD_TPL_VIEW_VALUES ? dict->entries[i].value : dict->entries[i].key;
        hd_status st = HD_OK;
        if (kind == HD_TPL_VIEW_ITEMS) { st = hd_tpl_pair(run, dict->entries[i].key, dict->entries[i].value, &item); }
        if (st == HD_OK) { st = hd_tpl_list_add(run, list, item); }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status iterate_text(hd_tpl_run *run, hd_tpl_value text, hd_tpl_list *list)
{
    for (size_t at = 0; at < text.n;) {
        uint32_t code;
        size_t n = hd_utf8_next_replacing(text.text + at, text.n - at, &code);
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_text(text.text + at, n));
        if (st != HD_OK) { return st; }
        at += n;
    }
    return HD_OK;
}

static hd_status iterate_range(hd_tpl_run *run, const hd_tpl_range *range, hd_tpl_list *list)
{
    for (size_t i = 0; i < range->n; i++) {
        hd_status st = hd_tpl_list_add(run, list, hd_tpl_int(range->start + (int64_t)i * range->step));
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status iterate_rest(hd_tpl_run *run, hd_tpl_iterator *iterator, hd_tpl_list *list)
{
    hd_status started = hd_tpl_iterator_start(run, iterator);
    if (started != HD_OK) { return started; }
    while (iterator->next < iterator->list->n) {
        hd_status st = hd_tpl_list_add(run, list, iterator->list->items[iterator->next++]);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_tpl_iterate(hd_tpl_run *run, hd_tpl_value value, hd_tpl_list **out)
{
    if (value.type == HD_TPL_LIST || value.type == HD_TPL_TUPLE) { return *out = value.list, HD_OK; }
    hd_status st = hd_tpl_list_new(run, 0, out);
    if (st != HD_OK) { return st; }
    switch (value.type) {
    case HD_TPL_UNDEFINED: return HD_OK;
    case HD_TPL_STRING: return iterate_text(run, value, *out);
    case HD_TPL_DICT: return iterate_dict(run, value.dict, HD_TPL_VIEW_KEYS, *out);
    case HD_TPL_VIEW: return iterate_dict(run, value.dict, value.kind, *out);
    case HD_TPL_RANGE: return iterate_range(run, value.range, *out);
    case HD_TPL_ITERATOR: return iterate_rest(run, value.iterator, *out);
    default: return hd_tpl_fail(run, HD_E_INVALID, "a %s cannot be iterated over", hd_tpl_type_name(value));
    }
}

/* ---- sorting --------------------------------------------------------------------------------------------------------- */

/* Whether item j goes before item i although it stands behind it: sorted() keeps equal ones in place, reversed or not. */
static hd_status goes_before(hd_tpl_run *run, const hd_tpl_list *keys, size_t j, size_t i, bool reverse, bool *out)
{
    int order;
    bool unordered;
    hd_tpl_value a = keys->items[reverse ? i : j], b = keys->items[reverse ? j : i];
    hd_status st = hd_tpl_compare(run, a, b, "<", &order, &unordered);
    *out = order < 0;
    return st;
}

static hd_status merge(hd_tpl_run *run, const hd_tpl_list *keys, bool reverse, const size_t *from, size_t *to, size_t a, size_t b,
                       size_t end)
{
    size_t i = a, j = b;
    for (size_t k = a; k < end; k++) {
        bool second = i == b;
        if (i < b && j < end) {
            hd_status st = goes_before(run, keys, from[j], from[i], reverse, &second);
            if (st != HD_OK) { return st; }
        }
        to[k] = second ? from[j++] : from[i++];
    }
    return HD_OK;
}

hd_status hd_tpl_sort(hd_tpl_run *run, hd_tpl_list *values, hd_tpl_list *keys, bool reverse)
{
    void *memory;
    size_t n = values->n;
    hd_status st = hd_tpl_alloc(run, n * (2 * sizeof(size_t) + sizeof(hd_tpl_value)), &memory);
    if (st != HD_OK) { return st; }
    hd_tpl_value *sorted = memory;
    size_t *from = (size_t *)(void *)(sorted + n), *to = from + n;
    for (size_t i = 0; i < n; i++) { from[i] = i; }
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t a = 0; a < n; a += 2 * width) {
            size_t b = a + width < n ? a + width : n, end = b + width < n ? b + width : n;
            st = merge(run, keys, reverse, from, to, a, b, end);
            if (st != HD_OK) { return st; }
        }
        size_t *other = from;
        from = to, to = other;
    }
    for (size_t i = 0; i < n; i++) { sorted[i] = values->items[from[i]]; }
    if (n > 0) { memcpy(values->items, sorted, n * sizeof *sorted); }
    return HD_OK;
}
