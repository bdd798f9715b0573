/* See nfc.h.  Text is decomposed up to the next starter, its marks are put in order of their combining classes (stable), then the sequence is
 * composed (Unicode Standard Annex 15). */
#include "tokenizer/nfc.h"

#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "tokenizer/unicode.h"

enum {
    FIRST_SPECIAL = 0x300, /* below, every character is a starter that nothing changes */
    S_BASE = 0xAC00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7,
    L_COUNT = 19, V_COUNT = 21, T_COUNT = 28, S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

static uint8_t combining_class(uint32_t code)
{
    size_t low = 0, high = hd_unicode_n_classes;
    while (code >= FIRST_SPECIAL && low < high) {
        size_t middle = (low + high) / 2;
        if (hd_unicode_classes[middle].last < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < hd_unicode_n_classes && code >= hd_unicode_classes[low].first ? hd_unicode_classes[low].combining : 0;
}

static const hd_unicode_pair *find_decomposition(uint32_t code)
{
    size_t low = 0, high = hd_unicode_n_decompositions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (hd_unicode_decompositions[middle].code < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < hd_unicode_n_decompositions && hd_unicode_decompositions[low].code == code ? &hd_unicode_decompositions[low] : NULL;
}

/* The primary composite of two characters, or 0. */
static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) { return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT; }
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1) { return a + (b - T_BASE); }
    size_t low = 0, high = hd_unicode_n_compositions;
    uint64_t wanted = (uint64_t)a << 32 | b;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const hd_unicode_pair *p = &hd_unicode_compositions[middle];
        if (((uint64_t)p->first << 32 | p->second) < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == hd_unicode_n_compositions) { return 0; }
    const hd_unicode_pair *p = &hd_unicode_compositions[low];
    return p->first == a && p->second == b ? p->code : 0;
}

/* Characters that are neither changed nor joined to what stands before. */
static bool is_inert(uint32_t code)
{
    if (code < FIRST_SPECIAL) { return true; }
    if ((code >= 0x3400 && code <= 0x9FFF) || (code >= S_BASE && code < S_BASE + S_COUNT)) { return true; } /* ideographs, Hangul syllables */
    if (code >= V_BASE && code < T_BASE + T_COUNT) { return false; }
    if (combining_class(code) != 0 || find_decomposition(code) != NULL) { return false; }
    for (size_t i = 0; i < hd_unicode_n_joining; i++) { /* a handful of Indic vowels */
        if (hd_unicode_joining[i] == code) { return false; }
    }
    return true;
}

bool hd_nfc_quick_check(const char *text, size_t n)
{
    uint32_t code = 0;
    for (size_t i = 0; i < n;) {
        if ((unsigned char)text[i] < 0xCC) { /* below U+0300 */
            i += (unsigned char)text[i] < 0x80 ? 1 : 2;
            continue;
        }
        i += hd_utf8_next(text + i, n - i, &code);
        if (!is_inert(code)) { return false; }
    }
    return true;
}

/* ---- one sequence: a starter and the marks behind it ------------------------------------------------------------------------------ */

typedef struct sequence {
    uint32_t *code;
    size_t n, capacity;
    hd_status failed;
} sequence;

static void push(sequence *s, uint32_t code)
{
    if (s->n == s->capacity && s->failed == HD_OK) {
        void *grown = s->code;
        size_t capacity = s->capacity == 0 ? 64 : 2 * s->capacity;
        s->failed = hd_realloc(&grown, s->capacity, capacity, sizeof *s->code, "characters", NULL);
        if (s->failed == HD_OK) { s->code = grown, s->capacity = capacity; }
    }
    if (s->failed == HD_OK) { s->code[s->n++] = code; }
}

static void push_decomposed(sequence *s, uint32_t code)
{
    if (code - S_BASE < S_COUNT) {
        uint32_t index = code - S_BASE, t = index % T_COUNT;
        push(s, L_BASE + index / (V_COUNT * T_COUNT));
        push(s, V_BASE + index % (V_COUNT * T_COUNT) / T_COUNT);
        if (t != 0) { push(s, T_BASE + t); }
        return;
    }
    const hd_unicode_pair *p = code < 0xC0 ? NULL : find_decomposition(code);
    if (p == NULL) {
        push(s, code);
        return;
    }
    push_decomposed(s, p->first); /* at most three deep: that is how the tables are */
    if (p->second != 0) { push(s, p->second); }
}

/* Sorts marks by class, each run between starters by itself; stable.  Counting over the 255 classes keeps it linear. */
static void order_run(uint32_t *code, size_t n, uint32_t *scratch)
{
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++) { begin[combining_class(code[i]) + 1]++; }
    for (size_t k = 1; k < 257; k++) { begin[k] += begin[k - 1]; }
    for (size_t i = 0; i < n; i++) { scratch[begin[combining_class(code[i])]++] = code[i]; }
    memcpy(code, scratch, n * sizeof *code);
}

static void order_marks(sequence *s)
{
    void *scratch = NULL;
    bool in_order = true;
    for (size_t i = 1; i < s->n; i++) {
        uint8_t c = combining_class(s->code[i]);
        in_order = in_order && (c == 0 || combining_class(s->code[i - 1]) <= c);
    }
    if (in_order) { return; }
    s->failed = hd_alloc(s->n, sizeof *s->code, "characters", &scratch, NULL);
    for (size_t i = 0; i < s->n && s->failed == HD_OK;) {
        size_t end = i;
        while (end < s->n && combining_class(s->code[end]) != 0) { end++; }
        order_run(s->code + i, end - i, scratch);
        i = end + 1;
    }
    hd_free(scratch);
}

static void compose(sequence *s)
{
    size_t n = 0, starter = SIZE_MAX;
    int last_class = -1; /* of the character before, -1 right behind the starter */
    for (size_t i = 0; i < s->n; i++) {
        uint32_t code = s->code[i];
        int c = combining_class(code);
        uint32_t whole = starter != SIZE_MAX && last_class < c ? compose_pair(s->code[starter], code) : 0;
        if (whole != 0) {
            s->code[starter] = whole;
            continue;
        }
        if (c == 0) { starter = n; }
        last_class = c == 0 ? -1 : c;
        s->code[n++] = code;
    }
    s->n = n;
}

static void flush(sequence *s, hd_buf *out)
{
    if (s->failed == HD_OK) { order_marks(s); }
    if (s->failed == HD_OK) { compose(s); }
    for (size_t i = 0; i < s->n && s->failed == HD_OK; i++) {
        char bytes[4];
        hd_buf_append(out, bytes, hd_utf8_encode(s->code[i], bytes));
    }
    s->n = 0;
}

void hd_nfc_append(hd_buf *out, const char *text, size_t n)
{
    sequence s = {0};
    uint32_t code = 0;
    for (size_t i = 0; i < n;) {
        size_t k = hd_utf8_next(text + i, n - i, &code);
        if (is_inert(code)) { flush(&s, out); }
        push_decomposed(&s, code);
        i += k;
    }
    flush(&s, out);
    if (s.failed != HD_OK && out->failed == HD_OK) { out->failed = s.failed; }
    hd_free(s.code);
}
