/* The pull parser.  See json.h; the writer is json_write.c.
 *
 * Keys of the open objects form one stack, and a hash table over that stack finds duplicates.  An object that ends takes
 * its keys off in the reverse order of their coming, so with linear probing each leaves the table exactly as it was
 * before it came: no tombstones.  The hash is seeded per parser: a file cannot be made that collides on purpose. */
#include "base/json.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/utf8.h"

enum { FIRST_KEYS = 64, MAX_NUMBER = 400 };

/* ---- messages --------------------------------------------------------------------------------------------------- */

static hd_status fail_at(const hd_json *json, size_t at, hd_err *err, const char *what)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < at && i < json->n; i++) {
        if (json->text[i] == '\n') { line++, start = i + 1; }
    }
    return HD_FAIL(err, HD_E_CORRUPT, "%s: line %zu, column %zu (byte %zu): %s", json->name, line, at - start + 1, at,
                   what);
}

hd_status hd_json_fail(const hd_json *json, hd_err *err, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return fail_at(json, json->at, err, what);
}

/* "found X, want Y" for the byte the parser stands at. */
static hd_status unexpected(const hd_json *json, hd_err *err, const char *want)
{
    char what[128];
    unsigned char c = json->at < json->n ? (unsigned char)json->text[json->at] : 0;
    if (json->at >= json->n) {
        (void)snprintf(what, sizeof what, "the text ends, want %s", want);
    } else if (c > ' ' && c < 0x7F) {
        (void)snprintf(what, sizeof what, "found '%c', want %s", c, want);
    } else {
        (void)snprintf(what, sizeof what, "found byte 0x%02X, want %s", c, want);
    }
    return fail_at(json, json->at, err, what);
}

/* ---- opening and closing ---------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_bytes(uint64_t seed, const char *p, size_t n)
{
    const uint64_t odd = UINT64_C(0xA0761D6478BD642F);
    uint64_t h = seed ^ n, word = 0;
    for (; n >= sizeof word; p += sizeof word, n -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = mix(h ^ word, odd);
    }
    word = 0;
    memcpy(&word, p, n);
    return mix(h ^ word, odd ^ seed);
}

void hd_json_open(hd_json *json, const char *text, size_t n, const char *name, hd_json_flags flags)
{
    double now = hd_clock_now_s();
    uint64_t clock_bits;
    memset(json, 0, sizeof *json);
    memcpy(&clock_bits, &now, sizeof clock_bits);
    json->text = text;
    json->n = n;
    json->name = name;
    json->flags = flags;
    json->pending = true;
    json->seed = mix(clock_bits ^ UINT64_C(0xE7037ED1A0B428DB), (uint64_t)(uintptr_t)json | 1u);
}

void hd_json_close(hd_json *json)
{
    hd_free(json->keys);
    hd_free(json->slots);
    hd_buf_free(&json->key_text);
    hd_buf_free(&json->value_text);
    json->keys = NULL;
    json->slots = NULL;
}

static void skip_space(hd_json *json)
{
    while (json->at < json->n) {
        char c = json->text[json->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') { return; }
        json->at++;
    }
}

/* The next byte that is not white space; 0 at the end, which no token begins with. */
static char look(hd_json *json)
{
    skip_space(json);
    return json->at < json->n ? json->text[json->at] : '\0';
}

hd_status hd_json_end(hd_json *json, hd_err *err)
{
    if (json->pending) {
        hd_status st = hd_json_skip(json, err);
        if (st != HD_OK) { return st; }
    }
    if (json->depth > 0) { return hd_json_fail(json, err, "the object or array is not closed"); }
    skip_space(json);
    return json->at == json->n ? HD_OK : unexpected(json, err, "nothing after the value");
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */

/* Moves *at over bytes that stand for themselves and are ASCII, eight at a time where possible. */
static size_t plain_run(const char *text, size_t at, size_t n)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t w;
    for (; n - at >= sizeof w; at += sizeof w) {
        memcpy(&w, text + at, sizeof w);
        uint64_t quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
        uint64_t stop = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((w - ones * 0x20) & ~w) | w;
        if ((stop & tops) != 0) { break; }
    }
    while (at < n) {
        unsigned char c = (unsigned char)text[at];
        if (c < 0x20 || c >= 0x80 || c == '"' || c == '\\') { break; }
        at++;
    }
    return at;
}

/* The value of four hexadecimal digits, or -1. */
static int hex4(const char *p, size_t n)
{
    int value = 0;
    if (n < 4) { return -1; }
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) { return -1; }
        value = value * 16 + digit;
    }
    return value;
}

/* The escape at p (after the backslash): its code point and how many bytes it takes; 0 when it is none. */
static size_t read_escape(const char *p, size_t n, uint32_t *code)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (n == 0) { return 0; }
    const char *found = p[0] != '\0' ? strchr(names, p[0]) : NULL;
    if (found != NULL) {
        *code = (unsigned char)values[found - names];
        return 1;
    }
    int unit = p[0] == 'u' ? hex4(p + 1, n - 1) : -1;
    if (unit < 0) { return 0; }
    *code = (uint32_t)unit;
    if (unit < 0xD800 || unit > 0xDFFF) { return 5; }
    int low = unit <= 0xDBFF && n >= 11 && p[5] == '\\' && p[6] == 'u' ? hex4(p + 7, n - 7) : -1;
    if (low < 0xDC00 || low > 0xDFFF) { return 0; } /* a surrogate without its other half */
    *code = 0x10000u + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
    return 11;
}

/* Checks the string that opens at json->at and moves behind it: *body is what stands between the quotes. */
static hd_status scan_string(hd_json *json, hd_json_str *body, bool *has_escape, hd_err *err)
{
    size_t start = ++json->at; /* the caller saw the quote */
    uint32_t code;
    *has_escape = false;
    for (;;) {
        json->at = plain_run(json->text, json->at, json->n);
        if (json->at == json->n) { return unexpected(json, err, "'\"' at the end of the string"); }
        const char *p = json->text + json->at;
        size_t left = json->n - json->at;
        if (*p == '"') {
            *body = (hd_json_str){json->text + start, json->at - start};
            json->at++;
            return HD_OK;
        }
        size_t k = *p == '\\' ? read_escape(p + 1, left - 1, &code) : hd_utf8_next(p, left, &code);
        if ((unsigned char)*p < 0x20) { return unexpected(json, err, "control characters as escapes"); }
        if (k == 0) { return hd_json_fail(json, err, *p == '\\' ? "not an escape of JSON" : "not UTF-8"); }
        *has_escape = *has_escape || *p == '\\';
        json->at += k + (*p == '\\');
    }
}

/* Decodes a body that scan_string has checked. */
static hd_json_str decode(hd_buf *into, hd_json_str body)
{
    hd_buf_clear(into);
    for (size_t at = 0; at < body.n;) {
        const char *slash = memchr(body.text + at, '\\', body.n - at);
        size_t run = slash != NULL ? (size_t)(slash - body.text) - at : body.n - at;
        hd_buf_append(into, body.text + at, run);
        at += run;
        if (slash != NULL) {
            uint32_t code = 0;
            char bytes[4];
            at += 1 + read_escape(slash + 1, body.n - at - 1, &code);
            hd_buf_append(into, bytes, hd_utf8_encode(code, bytes));
        }
    }
    return (hd_json_str){hd_buf_text(into), into->n};
}

static hd_status read_string(hd_json *json, hd_buf *into, hd_json_str *out, hd_err *err)
{
    bool has_escape;
    hd_status st = scan_string(json, out, &has_escape, err);
    if (st != HD_OK || !has_escape) { return st; }
    *out = decode(into, *out);
    return hd_buf_check(into, err);
}

/* ---- duplicate keys --------------------------------------------------------------------------------------------- */

static size_t slot_of(const hd_json *json, uint64_t hash)
{
    return (size_t)hash & (json->n_slots - 1);
}

static void insert_slot(hd_json *json, uint64_t hash, size_t index)
{
    size_t s = slot_of(json, hash);
    while (json->slots[s] != 0) { s = (s + 1) & (json->n_slots - 1); }
    json->slots[s] = (uint32_t)index + 1;
}

/* Room for one key more; the table is at most half full. */
static hd_status grow_keys(hd_json *json, hd_err *err)
{
    void *keys = json->keys, *slots = NULL;
    if (json->n_keys < json->keys_capacity) { return HD_OK; }
    if (json->n_keys >= HD_JSON_MAX_KEYS) { return hd_json_fail(json, err, "more than %d keys", HD_JSON_MAX_KEYS); }
    size_t capacity = json->keys_capacity == 0 ? FIRST_KEYS : json->keys_capacity * 2;
    hd_status st = hd_alloc(2 * capacity, sizeof *json->slots, "JSON keys", &slots, err);
    if (st == HD_OK) { st = hd_realloc(&keys, json->keys_capacity, capacity, sizeof *json->keys, "JSON keys", err); }
    if (st != HD_OK) {
        hd_free(slots);
        return st;
    }
    hd_free(json->slots);
    json->keys = keys;
    json->keys_capacity = capacity;
    json->slots = slots;
    json->n_slots = 2 * capacity;
    for (size_t i = 0; i < json->n_keys; i++) { insert_slot(json, json->keys[i].hash, i); }
    return HD_OK;
}

/* Whether the key that opens at an offset decodes to these bytes.  Only asked when hashes agree. */
static bool key_is(const hd_json *json, size_t offset, hd_json_str key)
{
    hd_json other = {.text = json->text, .name = json->name, .n = json->n, .at = offset};
    hd_json_str text;
    bool same = read_string(&other, &other.key_text, &text, NULL) == HD_OK && text.n == key.n &&
                memcmp(text.text, key.text, key.n) == 0;
    hd_buf_free(&other.key_text);
    return same;
}

static hd_status remember_key(hd_json *json, hd_json_str key, size_t offset, hd_err *err)
{
    size_t first = json->frame[json->depth - 1].first_key;
    uint64_t hash = hash_bytes(json->seed + first * UINT64_C(0x9E3779B97F4A7C15), key.text, key.n);
    hd_status st = grow_keys(json, err);
    if (st != HD_OK) { return st; }
    size_t s = slot_of(json, hash);
    for (; json->slots[s] != 0; s = (s + 1) & (json->n_slots - 1)) {
        size_t i = json->slots[s] - 1;
        if (i >= first && json->keys[i].hash == hash && key_is(json, json->keys[i].offset, key)) {
            json->at = offset;
            return hd_json_fail(json, err, "the key \"%.*s\" stands twice in this object",
                                key.n < 100 ? (int)key.n : 100, key.text);
        }
    }
    json->slots[s] = (uint32_t)json->n_keys + 1;
    json->keys[json->n_keys++] = (hd_json_key){.hash = hash, .offset = offset};
    return HD_OK;
}

/* Takes the keys of the innermost object off, last first. */
static void forget_keys(hd_json *json)
{
    size_t first = json->frame[json->depth - 1].first_key;
    while (json->n_keys > first) {
        size_t i = --json->n_keys;
        size_t s = slot_of(json, json->keys[i].hash);
        while (json->slots[s] != (uint32_t)i + 1) { s = (s + 1) & (json->n_slots - 1); }
        json->slots[s] = 0;
    }
}

/* ---- containers ------------------------------------------------------------------------------------------------- */

static hd_status begin(hd_json *json, bool is_object, hd_err *err)
{
    assert(json->pending);
    if (look(json) != (is_object ? '{' : '[')) { return unexpected(json, err, is_object ? "an object" : "an array"); }
    if (json->depth == HD_JSON_MAX_DEPTH) {
        return hd_json_fail(json, err, "nested more than %d deep", HD_JSON_MAX_DEPTH);
    }
    json->at++;
    json->frame[json->depth++] = (hd_json_frame){.first_key = json->n_keys, .is_object = is_object};
    json->pending = false;
    return HD_OK;
}

/* The comma or the closing bracket before the next item. */
static hd_status next_item(hd_json *json, bool is_object, bool *more, hd_err *err)
{
    hd_json_frame *frame = &json->frame[json->depth - 1];
    assert(json->depth > 0 && frame->is_object == is_object);
    if (json->pending) {
        hd_status st = hd_json_skip(json, err);
        if (st != HD_OK) { return st; }
    }
    char c = look(json);
    if (c == (is_object ? '}' : ']')) {
        json->at++;
        forget_keys(json);
        json->depth--;
        *more = false;
        return HD_OK;
    }
    if (frame->started) {
        if (c != ',') { return unexpected(json, err, is_object ? "',' or '}'" : "',' or ']'"); }
        json->at++;
    }
    frame->started = true;
    *more = true;
    json->pending = !is_object;
    return HD_OK;
}

hd_status hd_json_object_begin(hd_json *json, hd_err *err)
{
    return begin(json, true, err);
}

hd_status hd_json_array_begin(hd_json *json, hd_err *err)
{
    return begin(json, false, err);
}

hd_status hd_json_array_next(hd_json *json, bool *more, hd_err *err)
{
    return next_item(json, false, more, err);
}

hd_status hd_json_object_next(hd_json *json, bool *more, hd_json_str *key, hd_err *err)
{
    hd_status st = next_item(json, true, more, err);
    *key = (hd_json_str){"", 0};
    if (st != HD_OK || !*more) { return st; }
    if (look(json) != '"') { return unexpected(json, err, "a key"); }
    size_t offset = json->at;
    st = read_string(json, &json->key_text, key, err);
    if (st == HD_OK && (json->flags & HD_JSON_ALLOW_DUPLICATES) == 0) { st = remember_key(json, *key, offset, err); }
    if (st != HD_OK) { return st; }
    if (look(json) != ':') { return unexpected(json, err, "':'"); }
    json->at++;
    json->pending = true;
    return HD_OK;
}

/* ---- scalars ---------------------------------------------------------------------------------------------------- */

hd_status hd_json_peek(hd_json *json, hd_json_type *type, hd_err *err)
{
    assert(json->pending);
    switch (look(json)) {
    case '{': *type = HD_JSON_OBJECT; return HD_OK;
    case '[': *type = HD_JSON_ARRAY; return HD_OK;
    case '"': *type = HD_JSON_STRING; return HD_OK;
    case 't':
    case 'f': *type = HD_JSON_BOOL; return HD_OK;
    case 'n': *type = HD_JSON_NULL; return HD_OK;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': *type = HD_JSON_NUMBER; return HD_OK;
    default: return unexpected(json, err, "a value");
    }
}

hd_status hd_json_string(hd_json *json, hd_json_str *out, hd_err *err)
{
    assert(json->pending);
    if (look(json) != '"') { return unexpected(json, err, "a string"); }
    hd_status st = read_string(json, &json->value_text, out, err);
    json->pending = false;
    return st;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits(const char *text, size_t at, size_t n)
{
    while (at < n && is_digit(text[at])) { at++; }
    return at;
}

/* Moves behind the number at json->at: *lexeme is its text, *is_integer whether it has neither fraction nor exponent. */
static hd_status scan_number(hd_json *json, hd_json_str *lexeme, bool *is_integer, hd_err *err)
{
    assert(json->pending);
    char c = look(json);
    if (c != '-' && !is_digit(c)) { return unexpected(json, err, "a number"); }
    const char *text = json->text;
    size_t start = json->at, at = start + (c == '-'), n = json->n, end = digits(text, at, n);
    bool good = end > at && (text[at] != '0' || end == at + 1);
    *is_integer = true;
    if (good && end < n && text[end] == '.') {
        at = end + 1, end = digits(text, at, n);
        good = end > at;
        *is_integer = false;
    }
    if (good && end < n && (text[end] == 'e' || text[end] == 'E')) {
        at = end + 1;
        if (at < n && (text[at] == '+' || text[at] == '-')) { at++; }
        end = digits(text, at, n);
        good = end > at;
        *is_integer = false;
    }
    if (!good) { return hd_json_fail(json, err, "not a number of JSON"); }
    *lexeme = (hd_json_str){text + start, end - start};
    json->at = end;
    json->pending = false;
    return HD_OK;
}

/* The magnitude of an integer lexeme and its sign. */
static hd_status scan_integer(hd_json *json, bool *negative, uint64_t *magnitude, hd_err *err)
{
    hd_json_str lexeme;
    bool is_integer;
    hd_status st = scan_number(json, &lexeme, &is_integer, err);
    if (st != HD_OK) { return st; }
    uint64_t value = 0;
    bool fits = true;
    *negative = lexeme.text[0] == '-';
    for (size_t i = *negative; is_integer && fits && i < lexeme.n; i++) {
        fits = !__builtin_mul_overflow(value, 10u, &value) &&
               !__builtin_add_overflow(value, (uint64_t)(lexeme.text[i] - '0'), &value);
    }
    *magnitude = value;
    if (is_integer && fits) { return HD_OK; }
    json->at = (size_t)(lexeme.text - json->text);
    return hd_json_fail(json, err, is_integer ? "an integer beyond 64 bits" : "found a fraction, want an integer");
}

hd_status hd_json_i64(hd_json *json, int64_t *out, hd_err *err)
{
    bool negative;
    uint64_t magnitude;
    hd_status st = scan_integer(json, &negative, &magnitude, err);
    if (st != HD_OK) { return st; }
    if (magnitude > (uint64_t)INT64_MAX + negative) { return hd_json_fail(json, err, "an integer beyond 64 bits"); }
    *out = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return HD_OK;
}

hd_status hd_json_u64(hd_json *json, uint64_t *out, hd_err *err)
{
    bool negative;
    uint64_t magnitude;
    hd_status st = scan_integer(json, &negative, &magnitude, err);
    if (st != HD_OK) { return st; }
    if (negative && magnitude > 0) { return hd_json_fail(json, err, "found a negative number, want 0 or more"); }
    *out = magnitude;
    return HD_OK;
}

hd_status hd_json_f64(hd_json *json, double *out, hd_err *err)
{
    char text[MAX_NUMBER + 1];
    hd_json_str lexeme;
    bool is_integer;
    hd_status st = scan_number(json, &lexeme, &is_integer, err);
    if (st != HD_OK) { return st; }
    if (lexeme.n > MAX_NUMBER) { return hd_json_fail(json, err, "a number of more than %d characters", MAX_NUMBER); }
    memcpy(text, lexeme.text, lexeme.n); /* strtod wants a terminator */
    text[lexeme.n] = '\0';
    double value = strtod(text, NULL);
    if (isinf(value)) { return hd_json_fail(json, err, "a number beyond the range of double"); }
    *out = value;
    return HD_OK;
}

/* Takes a word such as "true" if it comes next. */
static bool take_word(hd_json *json, const char *word)
{
    size_t n = strlen(word);
    skip_space(json);
    if (json->n - json->at < n || memcmp(json->text + json->at, word, n) != 0) { return false; }
    json->at += n;
    json->pending = false;
    return true;
}

hd_status hd_json_bool(hd_json *json, bool *out, hd_err *err)
{
    assert(json->pending);
    if (take_word(json, "true")) { return *out = true, HD_OK; }
    if (take_word(json, "false")) { return *out = false, HD_OK; }
    return unexpected(json, err, "true or false");
}

hd_status hd_json_null(hd_json *json, hd_err *err)
{
    assert(json->pending);
    return take_word(json, "null") ? HD_OK : unexpected(json, err, "null");
}

hd_status hd_json_strdup(hd_json *json, char **out, hd_err *err)
{
    hd_json_str s;
    void *copy;
    *out = NULL;
    hd_status st = hd_json_string(json, &s, err);
    if (st != HD_OK) { return st; }
    if (s.n > 0 && memchr(s.text, '\0', s.n) != NULL) { return hd_json_fail(json, err, "a string that holds NUL"); }
    st = hd_alloc(s.n + 1, 1, json->name, &copy, err);
    if (st != HD_OK) { return st; }
    memcpy(copy, s.text, s.n);
    *out = copy;
    return HD_OK;
}

/* ---- passing over ----------------------------------------------------------------------------------------------- */

/* Reads a scalar or enters a container. */
static hd_status skip_step(hd_json *json, hd_err *err)
{
    hd_json_type type;
    hd_json_str text;
    bool flag;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    switch (type) {
    case HD_JSON_OBJECT: return begin(json, true, err);
    case HD_JSON_ARRAY: return begin(json, false, err);
    case HD_JSON_NUMBER: return scan_number(json, &text, &flag, err);
    case HD_JSON_BOOL: return hd_json_bool(json, &flag, err);
    case HD_JSON_NULL: return hd_json_null(json, err);
    case HD_JSON_STRING: json->pending = false; return scan_string(json, &text, &flag, err);
    }
    return HD_OK;
}

/* By a loop and not by recursion: the depth of the C stack does not depend on the file. */
hd_status hd_json_skip(hd_json *json, hd_err *err)
{
    int base = json->depth;
    hd_json_str key;
    do {
        hd_status st = skip_step(json, err);
        bool more = false;
        while (st == HD_OK && !more && json->depth > base) {
            bool is_object = json->frame[json->depth - 1].is_object;
            st = is_object ? hd_json_object_next(json, &more, &key, err) : hd_json_array_next(json, &more, err);
        }
        if (st != HD_OK) { return st; }
    } while (json->depth > base);
    return HD_OK;
}

hd_status hd_json_raw(hd_json *json, hd_json_str *out, hd_err *err)
{
    skip_space(json);
    size_t start = json->at;
    hd_status st = hd_json_skip(json, err);
    if (st == HD_OK) { *out = (hd_json_str){json->text + start, json->at - start}; }
    return st;
}

bool hd_json_str_is(hd_json_str s, const char *text)
{
    return strlen(text) == s.n && memcmp(s.text, text, s.n) == 0;
}
