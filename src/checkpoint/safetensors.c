/* The strict safetensors reader: a scanner over a window of the header, then the checks of the whole.  See safetensors.h. */
#include "checkpoint/safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/utf8.h"

enum {
    PREFIX_BYTES = 8,
    WINDOW_BYTES = 1 << 16,
    MAX_NESTING = 128,
    MAX_DIMS_TOTAL = 1 << 20, /* lengths of all shapes of a file together */
    NO_TEXT = -1
};

typedef struct entry {
    int64_t begin, end; /* in the data */
    uint32_t name_at;   /* into names, NUL-terminated */
    uint32_t shape_at;  /* into lengths */
    uint8_t n_dim, dtype;
} entry;

/* A growable array: memory grows by doubling up to a fixed limit. */
typedef struct pool {
    void *data;
    size_t n, capacity, limit, size;
    const char *what;
} pool;

struct hd_st_reader {
    hd_block_file *file;
    int64_t data_at; /* 8 + N */
    int64_t data_bytes;
    pool entries, names, lengths;
    uint32_t *table; /* open addressing: index + 1 of an entry, 0 free */
    size_t table_mask;
};

/* ---- scanner ----------------------------------------------------------------------------------------------------- */

typedef struct scan {
    hd_block_file *file;
    hd_err *err;
    hd_status st;       /* the first failure; then peek gives -1 */
    int64_t next, end;  /* file offsets: first byte not in the window, end of the header */
    size_t at, have;    /* the window */
    pool text;          /* the string scanned last, NUL-terminated; n counts its bytes without the NUL */
    unsigned char window[WINDOW_BYTES];
} scan;

#define BAD(s, ...) scan_bad((s), HD_E_CORRUPT, __LINE__, __VA_ARGS__)

static void scan_bad(scan *s, hd_status code, int line, const char *format, ...) HD_PRINTF(4, 5);

/* Records the first failure, with the file and the place in it. */
static void scan_bad(scan *s, hd_status code, int line, const char *format, ...)
{
    char text[256];
    va_list args;
    if (s->st != HD_OK) { return; }
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int64_t where = s->next - (int64_t)(s->have - s->at);
    s->st = hd_err_set(s->err, code, __FILE__, line, "%s: safetensors header, byte %" PRId64 ": %s", s->file->path, where, text);
}

static hd_status pool_room(pool *p, size_t more, hd_err *err)
{
    size_t want = p->n + more;
    if (want <= p->capacity) { return HD_OK; }
    if (want > p->limit) { return HD_FAIL(err, HD_E_UNSUPPORTED, "more than %zu %s", p->limit, p->what); }
    size_t wider = p->capacity < 64 ? 64 : p->capacity + p->capacity / 2;
    wider = wider < want ? want : wider > p->limit ? p->limit : wider;
    hd_status st = hd_realloc(&p->data, p->capacity, wider, p->size, p->what, err);
    if (st == HD_OK) { p->capacity = wider; }
    return st;
}

/* Room in a pool, for use while scanning. */
static bool room(scan *s, pool *p, size_t more)
{
    if (s->st == HD_OK) {
        s->st = pool_room(p, more, s->err);
        if (s->st == HD_E_UNSUPPORTED) { (void)hd_err_prefix(s->err, "%s: safetensors header: ", s->file->path); }
    }
    return s->st == HD_OK;
}

static void refill(scan *s)
{
    int64_t left = s->end - s->next;
    size_t n = left < WINDOW_BYTES ? (size_t)left : (size_t)WINDOW_BYTES;
    s->at = s->have = 0;
    s->st = hd_block_file_read(s->file, s->next, n, s->window, s->err);
    if (s->st != HD_OK) { return; }
    s->have = n;
    s->next += (int64_t)n;
}

/* The next byte, or -1 at the end and after a failure. */
static inline int peek(scan *s)
{
    if (s->st != HD_OK) { return NO_TEXT; }
    if (s->at == s->have) {
        if (s->next == s->end) { return NO_TEXT; }
        refill(s);
        if (s->st != HD_OK) { return NO_TEXT; }
    }
    return s->window[s->at];
}

static inline int take(scan *s)
{
    int c = peek(s);
    if (c >= 0) { s->at++; }
    return c;
}

/* Skips white space and returns the byte after it. */
static int peek_token(scan *s)
{
    int c = peek(s);
    while (c == ' ' || c == '\n' || c == '\r' || c == '\t') {
        s->at++;
        c = peek(s);
    }
    return c;
}

static const char *describe_byte(int c, char buffer[16])
{
    (void)snprintf(buffer, 16, c < 0 ? "the end" : c > 0x20 && c < 0x7F ? "'%c'" : "byte %02X", (unsigned)c);
    return buffer;
}

static bool expect(scan *s, char wanted)
{
    char text[16];
    int c = peek_token(s);
    if (c == wanted) {
        s->at++;
        return true;
    }
    BAD(s, "found %s, want '%c'", describe_byte(c, text), wanted);
    return false;
}

/* ',' and another item follow (true), or the closing byte (false, also after a failure). */
static bool more_items(scan *s, char close)
{
    char text[16];
    int c = peek_token(s);
    if (c == ',' || c == close) {
        s->at++;
        return c == ',';
    }
    BAD(s, "found %s, want ',' or '%c'", describe_byte(c, text), close);
    return false;
}

static int hex_digit(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static uint32_t scan_hex4(scan *s)
{
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(take(s));
        if (digit < 0) {
            BAD(s, "\\u without four hexadecimal digits");
            return 0;
        }
        code = code << 4 | (uint32_t)digit;
    }
    return code;
}

static void text_append(scan *s, const char *bytes, size_t n)
{
    if (!room(s, &s->text, n + 1)) { return; }
    memcpy((char *)s->text.data + s->text.n, bytes, n);
    s->text.n += n;
}

static void scan_unicode_escape(scan *s)
{
    char bytes[4];
    uint32_t code = scan_hex4(s);
    if (code >= 0xD800 && code < 0xDC00) {
        uint32_t low = take(s) == '\\' && take(s) == 'u' ? scan_hex4(s) : 0;
        if (low < 0xDC00 || low > 0xDFFF) {
            BAD(s, "a lone surrogate");
            return;
        }
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
        BAD(s, "a lone surrogate");
        return;
    }
    text_append(s, bytes, hd_utf8_encode(code, bytes));
}

static void scan_escape(scan *s)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = take(s);
    const char *hit = c > 0 ? strchr(from, c) : NULL;
    if (c == 'u') {
        scan_unicode_escape(s);
    } else if (hit != NULL) {
        text_append(s, &to[hit - from], 1);
    } else {
        BAD(s, "an escape that JSON does not have");
    }
}

/* Appends the plain bytes of a string that are in the window. */
static void scan_run(scan *s)
{
    size_t n = 0, left = s->have - s->at;
    const unsigned char *p = s->window + s->at;
    while (n < left && p[n] != '"' && p[n] != '\\' && p[n] >= 0x20) { n++; }
    if (n > 0) { text_append(s, (const char *)p, n); }
    s->at += n;
}

/* A string into s->text. */
static bool scan_string(scan *s)
{
    if (!expect(s, '"')) { return false; }
    s->text.n = 0;
    for (int c = peek(s); c != '"'; c = peek(s)) {
        if (c < 0x20) {
            BAD(s, c < 0 ? "the header ends inside a string" : "a control character inside a string");
            return false;
        }
        if (c == '\\') {
            s->at++;
            scan_escape(s);
        } else {
            scan_run(s);
        }
        if (s->st != HD_OK) { return false; }
    }
    s->at++;
    if (!room(s, &s->text, 1)) { return false; }
    ((char *)s->text.data)[s->text.n] = '\0';
    if (!hd_utf8_validate(s->text.data, s->text.n, NULL)) { BAD(s, "a string that is not UTF-8"); }
    return s->st == HD_OK;
}

static const char *text_of(const scan *s) { return s->text.data; }

/* A count: decimal digits without sign, leading zero, fraction or exponent, at most 2^63 - 1. */
static int64_t scan_count(scan *s)
{
    int64_t value = 0;
    int digits = 0, c = peek_token(s);
    bool leading_zero = c == '0';
    for (; c >= '0' && c <= '9'; c = peek(s), digits++) {
        s->at++;
        if (!hd_i64_mul(value, 10, &value) || !hd_i64_add(value, c - '0', &value)) {
            BAD(s, "a number above 2^63 - 1");
            return 0;
        }
    }
    if (digits == 0 || (leading_zero && digits > 1) || c == '.' || c == 'e' || c == 'E') {
        BAD(s, "want a non-negative integer");
    }
    return value;
}

static void skip_word(scan *s, const char *word)
{
    for (; *word != '\0'; word++) {
        if (take(s) != *word) {
            BAD(s, "a value that JSON does not have");
            return;
        }
    }
}

static int skip_digits(scan *s)
{
    int n = 0;
    for (int c = peek(s); c >= '0' && c <= '9'; c = peek(s), n++) { s->at++; }
    return n;
}

static void skip_number(scan *s)
{
    if (peek(s) == '-') { s->at++; }
    bool zero = peek(s) == '0';
    int whole = skip_digits(s), fraction = 1, exponent = 1;
    if (peek(s) == '.') {
        s->at++;
        fraction = skip_digits(s);
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-') { s->at++; }
        exponent = skip_digits(s);
    }
    if (whole == 0 || (zero && whole > 1) || fraction == 0 || exponent == 0) { BAD(s, "a number that JSON does not have"); }
}

/* Any value: fields that newer writers may add are passed over. */
static void skip_value(scan *s, int depth)
{
    int c = peek_token(s);
    if (depth > MAX_NESTING) {
        BAD(s, "nested deeper than %d", MAX_NESTING);
    } else if (c == '"') {
        (void)scan_string(s);
    } else if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';
        s->at++;
        if (peek_token(s) == close) {
            s->at++;
            return;
        }
        do {
            if (c == '{' && (!scan_string(s) || !expect(s, ':'))) { return; }
            skip_value(s, depth + 1);
        } while (s->st == HD_OK && more_items(s, close));
    } else if (c == 't') {
        skip_word(s, "true");
    } else if (c == 'f') {
        skip_word(s, "false");
    } else if (c == 'n') {
        skip_word(s, "null");
    } else {
        skip_number(s);
    }
}

/* ---- the shape of a header --------------------------------------------------------------------------------------- */

/* dtypes that the format has and hadal does not. */
static const char *const other_dtypes[] = {"F4",  "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
                                           "I16", "U16",     "U32",     "C64",     "U64"};

static void scan_dtype(scan *s, entry *e)
{
    hd_dtype dtype;
    if (!scan_string(s)) { return; }
    if (hd_dtype_from_name(text_of(s), &dtype) == 0) {
        e->dtype = (uint8_t)dtype;
        return;
    }
    for (size_t i = 0; i < sizeof other_dtypes / sizeof other_dtypes[0]; i++) {
        if (strcmp(other_dtypes[i], text_of(s)) == 0) {
            scan_bad(s, HD_E_UNSUPPORTED, __LINE__, "dtype %s is not supported", text_of(s));
            return;
        }
    }
    BAD(s, "unknown dtype \"%.40s\"", text_of(s));
}

static void scan_shape(scan *s, hd_st_reader *r, entry *e)
{
    e->shape_at = (uint32_t)r->lengths.n;
    if (!expect(s, '[')) { return; }
    if (peek_token(s) == ']') {
        s->at++;
        return;
    }
    do {
        int64_t length = scan_count(s);
        if (e->n_dim == HD_ST_MAX_DIMS) {
            scan_bad(s, HD_E_UNSUPPORTED, __LINE__, "a shape of more than %d dimensions", HD_ST_MAX_DIMS);
        }
        if (!room(s, &r->lengths, 1)) { return; }
        ((int64_t *)r->lengths.data)[r->lengths.n++] = length;
        e->n_dim++;
    } while (more_items(s, ']'));
}

static void scan_offsets(scan *s, entry *e)
{
    if (!expect(s, '[')) { return; }
    e->begin = scan_count(s);
    if (!expect(s, ',')) { return; }
    e->end = scan_count(s);
    (void)expect(s, ']');
}

/* The value of a tensor: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} in any order. */
static void scan_tensor(scan *s, hd_st_reader *r, entry *e)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0;
    if (!expect(s, '{')) { return; }
    if (peek_token(s) == '}') {
        BAD(s, "a tensor without dtype, shape and data_offsets");
        return;
    }
    do {
        unsigned key = 0;
        if (!scan_string(s)) { return; }
        while (key < 3 && strcmp(text_of(s), keys[key]) != 0) { key++; }
        if (key < 3 && (seen & 1u << key) != 0) { BAD(s, "\"%s\" twice in a tensor", keys[key]); }
        seen |= 1u << key;
        if (!expect(s, ':')) { return; }
        switch (key) {
        case 0: scan_dtype(s, e); break;
        case 1: scan_shape(s, r, e); break;
        case 2: scan_offsets(s, e); break;
        default: skip_value(s, 2);
        }
    } while (s->st == HD_OK && more_items(s, '}'));
    if ((seen & 7u) != 7u) { BAD(s, "a tensor without dtype, shape or data_offsets"); }
}

static void scan_metadata(scan *s)
{
    if (!expect(s, '{')) { return; }
    if (peek_token(s) == '}') {
        s->at++;
        return;
    }
    do {
        if (!scan_string(s) || !expect(s, ':') || !scan_string(s)) { return; }
    } while (more_items(s, '}'));
}

/* Keeps the name just scanned. */
static bool keep_name(scan *s, hd_st_reader *r, entry *e)
{
    if (strlen(text_of(s)) != s->text.n) { BAD(s, "a name with a NUL"); }
    if (!room(s, &r->names, s->text.n + 1)) { return false; }
    e->name_at = (uint32_t)r->names.n;
    memcpy((char *)r->names.data + r->names.n, s->text.data, s->text.n + 1);
    r->names.n += s->text.n + 1;
    return true;
}

static void scan_header(scan *s, hd_st_reader *r)
{
    bool metadata = false;
    if (!expect(s, '{')) { return; }
    if (peek_token(s) == '}') {
        s->at++;
    } else {
        do {
            entry e = {0};
            if (!scan_string(s)) { return; }
            if (strcmp(text_of(s), "__metadata__") == 0) {
                if (metadata) { BAD(s, "\"__metadata__\" twice"); }
                metadata = true;
                if (expect(s, ':')) { scan_metadata(s); }
                continue;
            }
            if (!keep_name(s, r, &e) || !expect(s, ':')) { return; }
            scan_tensor(s, r, &e);
            if (!room(s, &r->entries, 1)) { return; }
            ((entry *)r->entries.data)[r->entries.n++] = e;
        } while (s->st == HD_OK && more_items(s, '}'));
    }
    if (s->st == HD_OK && peek_token(s) != NO_TEXT) { BAD(s, "text after the header's object"); }
}

/* ---- checks of the whole ----------------------------------------------------------------------------------------- */

static bool entry_before(const entry *a, const entry *b)
{
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
}

static void sift_down(entry *e, size_t root, size_t n)
{
    for (size_t child = 2 * root + 1; child < n; child = 2 * root + 1) {
        if (child + 1 < n && entry_before(&e[child], &e[child + 1])) { child++; }
        if (!entry_before(&e[root], &e[child])) { return; }
        entry t = e[root];
        e[root] = e[child];
        e[child] = t;
        root = child;
    }
}

/* Heap sort: in place, without the allocations of qsort, n log n whatever a file contains. */
static void sort_entries(entry *e, size_t n)
{
    size_t i = 1;
    while (i < n && !entry_before(&e[i], &e[i - 1])) { i++; }
    if (i >= n) { return; } /* usual: already in order */
    for (size_t root = n / 2; root-- > 0;) { sift_down(e, root, n); }
    for (size_t last = n; last-- > 1;) {
        entry t = e[0];
        e[0] = e[last];
        e[last] = t;
        sift_down(e, 0, last);
    }
}

static const char *name_of(const hd_st_reader *r, const entry *e) { return (const char *)r->names.data + e->name_at; }

/* NULL when no tensor of the file has a dimension. */
static const int64_t *shape_of(const hd_st_reader *r, const entry *e)
{
    return r->lengths.data != NULL ? (const int64_t *)r->lengths.data + e->shape_at : NULL;
}

bool hd_st_bytes(hd_dtype dtype, int n_dim, const int64_t *shape, int64_t *bytes)
{
    int64_t n = (int64_t)hd_dtype_bytes(dtype);
    bool empty = false;
    for (int i = 0; i < n_dim; i++) {
        if (shape[i] < 0) { return false; }
        empty = empty || shape[i] == 0;
        if (!empty && !hd_i64_mul(n, shape[i], &n)) { return false; }
    }
    *bytes = empty ? 0 : n;
    return true;
}

const char *hd_st_describe(hd_dtype dtype, int n_dim, const int64_t *shape, char *buffer)
{
    int at = snprintf(buffer, HD_ST_TEXT, "%s (", hd_dtype_name(dtype));
    for (int i = 0; i < n_dim && at > 0 && at < HD_ST_TEXT - 24; i++) {
        at += snprintf(buffer + at, (size_t)(HD_ST_TEXT - at), "%s%" PRId64, i > 0 ? ", " : "", shape[i]);
    }
    (void)snprintf(buffer + at, (size_t)(HD_ST_TEXT - at), ")");
    return buffer;
}

/* Sorted by offset, the tensors must tile the data: no hole, no overlap, no byte left. */
static hd_status check_tiling(const hd_st_reader *r, hd_err *err)
{
    const entry *e = r->entries.data;
    const char *path = r->file->path;
    char text[HD_ST_TEXT];
    int64_t at = 0;
    for (size_t i = 0; i < r->entries.n; i++) {
        int64_t want;
        if (!hd_st_bytes((hd_dtype)e[i].dtype, e[i].n_dim, shape_of(r, &e[i]), &want)) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s: its shape has more than 2^63 - 1 bytes", path, name_of(r, &e[i]));
        }
        if (e[i].begin != at || e[i].end < e[i].begin) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s: data_offsets [%" PRId64 ", %" PRId64 "], want them to begin at %" PRId64
                           " (no hole, overlap or reversal)", path, name_of(r, &e[i]), e[i].begin, e[i].end, at);
        }
        if (e[i].end - e[i].begin != want) {
            hd_st_describe((hd_dtype)e[i].dtype, e[i].n_dim, shape_of(r, &e[i]), text);
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s: data_offsets span %" PRId64 " bytes, %s wants %" PRId64, path,
                           name_of(r, &e[i]), e[i].end - e[i].begin, text, want);
        }
        at = e[i].end;
    }
    if (at != r->data_bytes) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: the tensors end at byte %" PRId64 " of the data, the file has %" PRId64
                       " bytes of it", path, at, r->data_bytes);
    }
    return HD_OK;
}

static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u; /* FNV-1a */
    for (; *name != '\0'; name++) { h = (h ^ (unsigned char)*name) * 0x100000001B3u; }
    return h ^ h >> 32;
}

/* The slot that holds the name, or the free one where it belongs. */
static size_t find_slot(const hd_st_reader *r, const char *name)
{
    const entry *e = r->entries.data;
    size_t slot = (size_t)hash_name(name) & r->table_mask;
    while (r->table[slot] != 0 && strcmp(name_of(r, &e[r->table[slot] - 1]), name) != 0) { slot = (slot + 1) & r->table_mask; }
    return slot;
}

static hd_status build_table(hd_st_reader *r, hd_err *err)
{
    const entry *e = r->entries.data;
    size_t size = 16;
    void *table = NULL;
    while (size < 2 * r->entries.n) { size *= 2; }
    hd_status st = hd_alloc(size, sizeof *r->table, "names of tensors", &table, err);
    if (st != HD_OK) { return st; }
    r->table = table;
    r->table_mask = size - 1;
    for (size_t i = 0; i < r->entries.n; i++) {
        size_t slot = find_slot(r, name_of(r, &e[i]));
        if (r->table[slot] != 0) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: tensor %s is there twice", r->file->path, name_of(r, &e[i]));
        }
        r->table[slot] = (uint32_t)(i + 1);
    }
    return HD_OK;
}

/* ---- the public face --------------------------------------------------------------------------------------------- */

/* N, checked against the file. */
static hd_status read_prefix(hd_st_reader *r, hd_err *err)
{
    unsigned char prefix[PREFIX_BYTES];
    uint64_t n = 0, end;
    const char *path = r->file->path;
    if (r->file->bytes < PREFIX_BYTES) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: %" PRId64 " bytes, a safetensors file has at least %d", path, r->file->bytes,
                       PREFIX_BYTES);
    }
    hd_status st = hd_block_file_read(r->file, 0, sizeof prefix, prefix, err);
    if (st != HD_OK) { return st; }
    for (int i = PREFIX_BYTES - 1; i >= 0; i--) { n = n << 8 | prefix[i]; }
    if (n > HD_ST_MAX_HEADER) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: a safetensors header of %" PRIu64 " bytes, want at most %d", path, n, HD_ST_MAX_HEADER);
    }
    if (!hd_u64_add(n, PREFIX_BYTES, &end) || end > (uint64_t)r->file->bytes) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: a safetensors header of %" PRIu64 " bytes in a file of %" PRId64, path, n,
                       r->file->bytes);
    }
    r->data_at = (int64_t)end;
    r->data_bytes = r->file->bytes - r->data_at;
    return HD_OK;
}

static pool make_pool(size_t size, size_t limit, const char *what) { return (pool){.size = size, .limit = limit, .what = what}; }

static hd_status read_header(hd_st_reader *r, hd_err *err)
{
    void *memory = NULL;
    hd_status st = hd_alloc(1, sizeof(scan), "safetensors header", &memory, err);
    if (st != HD_OK) { return st; }
    scan *s = memory;
    s->file = r->file;
    s->err = err;
    s->next = PREFIX_BYTES;
    s->end = r->data_at;
    s->text = make_pool(1, HD_ST_MAX_NAME_BYTES, "bytes in one string");
    scan_header(s, r);
    st = s->st;
    hd_free(s->text.data);
    hd_free(s);
    return st;
}

hd_status hd_st_open(hd_block_file *file, hd_st_reader **out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    hd_st_reader *r = NULL;
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof *r, "safetensors reader", &memory, err));
    r = memory;
    *r = (hd_st_reader){.file = file,
                        .entries = make_pool(sizeof(entry), HD_ST_MAX_TENSORS, "tensors"),
                        .names = make_pool(1, HD_ST_MAX_NAME_BYTES, "bytes of names"),
                        .lengths = make_pool(sizeof(int64_t), MAX_DIMS_TOTAL, "lengths in shapes")};
    HD_TRY(read_prefix(r, err));
    HD_TRY(read_header(r, err));
    sort_entries(r->entries.data, r->entries.n);
    HD_TRY(check_tiling(r, err));
    HD_TRY(build_table(r, err));
    *out = r;
    return HD_OK;
out:
    hd_st_close(r);
    return st;
}

void hd_st_close(hd_st_reader *reader)
{
    if (reader == NULL) { return; }
    hd_free(reader->entries.data);
    hd_free(reader->names.data);
    hd_free(reader->lengths.data);
    hd_free(reader->table);
    hd_free(reader);
}

int64_t hd_st_count(const hd_st_reader *reader) { return (int64_t)reader->entries.n; }

hd_st_info hd_st_get(const hd_st_reader *reader, int64_t i)
{
    const entry *e = (const entry *)reader->entries.data + i;
    return (hd_st_info){.name = name_of(reader, e),
                        .dtype = (hd_dtype)e->dtype,
                        .n_dim = e->n_dim,
                        .shape = shape_of(reader, e),
                        .offset = reader->data_at + e->begin,
                        .bytes = e->end - e->begin};
}

int64_t hd_st_find(const hd_st_reader *reader, const char *name)
{
    return (int64_t)reader->table[find_slot(reader, name)] - 1;
}

const char *hd_st_path(const hd_st_reader *reader) { return reader->file->path; }

hd_status hd_st_read(hd_st_reader *reader, int64_t i, int64_t begin, size_t n, void *out, hd_err *err)
{
    hd_st_info info = hd_st_get(reader, i);
    if (begin < 0 || begin > info.bytes || (uint64_t)n > (uint64_t)(info.bytes - begin)) {
        return HD_FAIL(err, HD_E_INVALID, "%s: tensor %s: %zu bytes wanted at %" PRId64 ", it has %" PRId64, reader->file->path,
                       info.name, n, begin, info.bytes);
    }
    hd_status st = hd_block_file_read(reader->file, info.offset + begin, n, out, err);
    if (st != HD_OK) { (void)hd_err_prefix(err, "tensor %s: ", info.name); }
    return st;
}
