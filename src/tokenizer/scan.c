/* See scan.h.  In comments L, M, N, P, S are the classes of \p{..}, and a segment of DeepSeek-V3 is what its first two Splits leave: a group of
 * numbers, a run of CJK, or what lies between.  Its third Split goes over all of them and sees the end of a segment as the end of the text. */
#include "tokenizer/scan.h"

#include <stdbool.h>
#include <string.h>

#include "tokenizer/unicode.h"

const char *const hd_scan_patterns[HD_SCAN_COUNT][4] = {
    [HD_SCAN_DEEPSEEK_V3] = {"\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                             "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                             " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
    [HD_SCAN_LLAMA3] = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    [HD_SCAN_QWEN2] = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                       "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    [HD_SCAN_GPT2] = {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
};

typedef const unsigned char *bytes;

/* ---- characters ------------------------------------------------------------------------------------------------------------------- */

/* The classes of the character at p[i] and its length in *k; the text is well-formed. */
static inline unsigned look(bytes p, size_t i, size_t *k)
{
    unsigned c = p[i];
    uint32_t code;
    if (c < 0x80) {
        *k = 1;
        return hd_unicode_flags[c]; /* blocks 0 of the table */
    }
    if (c < 0xE0) {
        *k = 2;
        code = (c & 0x1Fu) << 6 | (p[i + 1] & 0x3Fu);
    } else if (c < 0xF0) {
        *k = 3;
        code = (c & 0x0Fu) << 12 | (p[i + 1] & 0x3Fu) << 6 | (p[i + 2] & 0x3Fu);
    } else {
        *k = 4;
        code = (c & 0x07u) << 18 | (p[i + 1] & 0x3Fu) << 12 | (p[i + 2] & 0x3Fu) << 6 | (p[i + 3] & 0x3Fu);
    }
    return hd_unicode(code);
}

/* Behind the characters from i on that have one of the classes and none of `stop`. */
static inline size_t pass(bytes p, size_t n, size_t i, unsigned classes, unsigned stop)
{
    size_t k;
    while (i < n) {
        unsigned f = look(p, i, &k);
        if ((f & classes) == 0 || (f & stop) != 0) { break; }
        i += k;
    }
    return i;
}

/* The same for characters that have none of the classes. */
static inline size_t pass_others(bytes p, size_t n, size_t i, unsigned classes)
{
    size_t k;
    while (i < n && (look(p, i, &k) & classes) == 0) { i += k; }
    return i;
}

static inline bool is_newline(unsigned char c)
{
    return c == '\n' || c == '\r';
}

static inline size_t pass_newlines(bytes p, size_t n, size_t i)
{
    while (i < n && is_newline(p[i])) { i++; }
    return i;
}

static inline bool is_ascii_letter(unsigned char c)
{
    return (unsigned char)((c | 0x20) - 'a') < 26;
}

/* \s*[\r\n]+ (where newlines is set), else \s+(?!\S), else \s+, for the white space that begins at i.  A character with a class of `stop`
 * is the end of the text. */
static inline size_t space_piece(bytes p, size_t n, size_t i, unsigned stop, bool newlines)
{
    size_t at = i, last = i, behind_newline = 0, k = 0;
    while (at < n) {
        unsigned f = look(p, at, &k);
        if ((f & HD_UC_SPACE) == 0) {
            if ((f & stop) != 0) { last = at; } /* nothing that is not white space follows: all of it */
            break;
        }
        last = at;
        at += k;
        if (is_newline(p[last])) { behind_newline = at; }
    }
    if (newlines && behind_newline != 0) { return behind_newline; }
    if (at == n || last == i) { return at; }
    return last; /* all but the last one, or the end of the segment */
}

/* ---- DeepSeek-V3 ------------------------------------------------------------------------------------------------------------------ */

enum { V3_STOP = HD_UC_N | HD_UC_CJK };

static size_t v3_number(bytes p, size_t n, size_t i)
{
    size_t k;
    for (int digits = 0; digits < 3 && i < n && (look(p, i, &k) & HD_UC_N) != 0; digits++) { i += k; }
    return i;
}

static size_t v3_pass_cjk(bytes p, size_t n, size_t i, unsigned classes)
{
    size_t k;
    while (i < n) {
        unsigned f = look(p, i, &k);
        if ((f & HD_UC_CJK) == 0 || (f & classes) == 0) { break; }
        i += k;
    }
    return i;
}

/* A piece of a run of CJK: letters and marks, punctuation and symbols (U+30FB, U+309B), or unassigned code points, of which one directly before a
 * letter belongs to the word. */
static size_t v3_cjk_piece(bytes p, size_t n, size_t begin)
{
    size_t i = begin, k, next;
    unsigned f = look(p, i, &k);
    if ((f & (HD_UC_L | HD_UC_M)) != 0) { return v3_pass_cjk(p, n, i, HD_UC_L | HD_UC_M); }
    if ((f & (HD_UC_P | HD_UC_S)) != 0) { return v3_pass_cjk(p, n, i, HD_UC_P | HD_UC_S); }
    for (;; i = next) {
        next = i + k;
        if (next == n) { return n; }
        f = look(p, next, &k);
        if ((f & HD_UC_CJK) == 0 || (f & (HD_UC_P | HD_UC_S)) != 0) { return next; }
        if ((f & (HD_UC_L | HD_UC_M)) != 0) { return i == begin ? v3_pass_cjk(p, n, next, HD_UC_L | HD_UC_M) : i; }
    }
}

/* Characters that no alternative takes: to where one does. */
static size_t v3_rest(bytes p, size_t n, size_t i)
{
    size_t k, next;
    while (i < n) {
        unsigned f = look(p, i, &k);
        if ((f & (V3_STOP | HD_UC_L | HD_UC_M | HD_UC_P | HD_UC_S | HD_UC_SPACE)) != 0) { break; }
        if (i + k < n) { /* it begins a word when a letter follows */
            unsigned g = look(p, i + k, &next);
            if ((g & (HD_UC_L | HD_UC_M)) != 0 && (g & V3_STOP) == 0) { break; }
        }
        i += k;
    }
    return i;
}

static inline size_t v3_word(bytes p, size_t n, size_t i)
{
    while (i < n && is_ascii_letter(p[i])) { i++; }
    if (i < n && p[i] >= 0x80) { i = pass(p, n, i, HD_UC_L | HD_UC_M, V3_STOP); }
    return i;
}

static inline size_t v3_piece(bytes p, size_t n, size_t i)
{
    size_t k, next;
    unsigned f = look(p, i, &k);
    if ((f & V3_STOP) != 0) { return (f & HD_UC_N) != 0 ? v3_number(p, n, i) : v3_cjk_piece(p, n, i); }
    if ((f & (HD_UC_L | HD_UC_M)) != 0) { return v3_word(p, n, i); }
    unsigned g = i + k < n ? look(p, i + k, &next) : HD_UC_N; /* the end of the text is that of a segment */
    bool segment_ends = (g & V3_STOP) != 0;
    if ((f & (HD_UC_P | HD_UC_S)) != 0) {
        if (k == 1 && i + 1 < n && is_ascii_letter(p[i + 1])) { /* all ASCII of P and S stands in the class of the pattern */
            for (i += 2; i < n && is_ascii_letter(p[i]); i++) {}
            return i;
        }
        return pass_newlines(p, n, pass(p, n, i, HD_UC_P | HD_UC_S, V3_STOP));
    }
    if ((g & (HD_UC_L | HD_UC_M)) != 0 && !segment_ends && !is_newline(p[i])) { return v3_word(p, n, i + k); }
    if (p[i] == ' ' && (g & (HD_UC_P | HD_UC_S)) != 0 && !segment_ends) {
        return pass_newlines(p, n, pass(p, n, i + k, HD_UC_P | HD_UC_S, V3_STOP));
    }
    if ((f & HD_UC_SPACE) != 0) { return space_piece(p, n, i, V3_STOP, true); }
    return v3_rest(p, n, i);
}

/* ---- GPT-2 and its heirs ---------------------------------------------------------------------------------------------------------- */

/* The contraction at i ("'s"): its end, or i.  Without regard to case U+017F, the long s, is an s. */
static size_t contraction(bytes p, size_t n, size_t i, bool any_case)
{
    static const char pairs[3][2] = {{'r', 'e'}, {'v', 'e'}, {'l', 'l'}};
    unsigned char fold = any_case ? 0x20 : 0;
    if (p[i] != '\'' || i + 1 == n) { return i; }
    unsigned char a = p[i + 1], b = i + 2 < n ? p[i + 2] : 0;
    if (any_case && a == 0xC5 && b == 0xBF) { return i + 3; }
    if (is_ascii_letter(a)) { a |= fold; }
    if (is_ascii_letter(b)) { b |= fold; }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') { return i + 2; }
    for (int k = 0; k < 3; k++) {
        if (a == pairs[k][0] && b == pairs[k][1]) { return i + 3; }
    }
    return i;
}

/* Llama-3 and Qwen. */
static inline size_t llama_piece(bytes p, size_t n, size_t i, int most_digits)
{
    size_t k, next, end = contraction(p, n, i, true);
    if (end > i) { return end; }
    unsigned f = look(p, i, &k);
    if ((f & HD_UC_L) != 0) { return pass(p, n, i, HD_UC_L, 0); }
    if ((f & HD_UC_N) != 0) {
        for (int digits = 0; digits < most_digits && i < n && (look(p, i, &k) & HD_UC_N) != 0; digits++) { i += k; }
        return i;
    }
    unsigned g = i + k < n ? look(p, i + k, &next) : HD_UC_SPACE; /* the end is like white space: nothing goes on there */
    if ((g & HD_UC_L) != 0 && !is_newline(p[i])) { return pass(p, n, i + k, HD_UC_L, 0); }
    enum { NOT_OTHER = HD_UC_SPACE | HD_UC_L | HD_UC_N };
    if ((f & NOT_OTHER) == 0 || (p[i] == ' ' && (g & NOT_OTHER) == 0)) { return pass_newlines(p, n, pass_others(p, n, i + k, NOT_OTHER)); }
    return space_piece(p, n, i, 0, true);
}

static inline size_t gpt2_piece(bytes p, size_t n, size_t i)
{
    size_t k, end = contraction(p, n, i, false), begin = i;
    if (end > i) { return end; }
    unsigned f = look(p, i, &k);
    if (p[i] == ' ' && i + 1 < n) {
        unsigned g = look(p, i + 1, &k);
        if ((g & HD_UC_SPACE) == 0) { f = g, begin = i + 1; }
    }
    if ((f & HD_UC_L) != 0) { return pass(p, n, begin, HD_UC_L, 0); }
    if ((f & HD_UC_N) != 0) { return pass(p, n, begin, HD_UC_N, 0); }
    if ((f & HD_UC_SPACE) == 0) { return pass_others(p, n, begin, HD_UC_SPACE | HD_UC_L | HD_UC_N); }
    return space_piece(p, n, i, 0, false);
}

/* ---- the call --------------------------------------------------------------------------------------------------------------------- */

size_t hd_scan(hd_scan_kind kind, const char *text, size_t n, size_t *at, uint32_t *ends, size_t capacity)
{
    bytes p = (bytes)text;
    size_t i = *at, count = 0;
    switch (kind) {
    case HD_SCAN_DEEPSEEK_V3:
        while (i < n && count < capacity) { ends[count++] = (uint32_t)(i = v3_piece(p, n, i)); }
        break;
    case HD_SCAN_LLAMA3:
        while (i < n && count < capacity) { ends[count++] = (uint32_t)(i = llama_piece(p, n, i, 3)); }
        break;
    case HD_SCAN_QWEN2:
        while (i < n && count < capacity) { ends[count++] = (uint32_t)(i = llama_piece(p, n, i, 1)); }
        break;
    default:
        while (i < n && count < capacity) { ends[count++] = (uint32_t)(i = gpt2_piece(p, n, i)); }
        break;
    }
    *at = i;
    return count;
}

/* Between a letter and a space that a letter follows, all ASCII: every pattern ends the word and begins the next there. */
size_t hd_scan_safe_cut(const char *text, size_t low, size_t high)
{
    bytes p = (bytes)text;
    for (size_t i = high; i > low && i > 1; i--) {
        if (p[i - 1] == ' ' && is_ascii_letter(p[i - 2]) && is_ascii_letter(p[i])) { return i - 1; }
    }
    return 0;
}
