/* See utf8.h. */
#include "base/utf8.h"

#include <string.h>

/* Reads the longest prefix of a sequence that could still become well-formed: returns how many bytes fit the table, and
 * in *want how many the lead byte asks for (0: no lead byte). */
static size_t match(const unsigned char *p, size_t n, size_t *want)
{
    unsigned char lead = p[0], low = 0x80, high = 0xBF;
    *want = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (*want <= 1) { return 1; }
    if (lead == 0xE0) { low = 0xA0; }  /* shorter forms exist */
    if (lead == 0xED) { high = 0x9F; } /* surrogates */
    if (lead == 0xF0) { low = 0x90; }
    if (lead == 0xF4) { high = 0x8F; } /* beyond U+10FFFF */
    size_t i = 1;
    for (; i < *want && i < n; i++) {
        if (p[i] < low || p[i] > high) { return i; }
        low = 0x80, high = 0xBF;
    }
    return i;
}

static uint32_t decode(const unsigned char *p, size_t n)
{
    uint32_t code = n == 1 ? p[0] : n == 2 ? p[0] & 0x1Fu : n == 3 ? p[0] & 0x0Fu : p[0] & 0x07u;
    for (size_t i = 1; i < n; i++) { code = code << 6 | (p[i] & 0x3Fu); }
    return code;
}

size_t hd_utf8_next(const char *text, size_t n, uint32_t *code)
{
    size_t want;
    if (n == 0) { return 0; }
    size_t got = match((const unsigned char *)text, n, &want);
    if (want == 0 || got < want) { return 0; }
    *code = decode((const unsigned char *)text, want);
    return want;
}

size_t hd_utf8_next_replacing(const char *text, size_t n, uint32_t *code)
{
    size_t want;
    size_t got = match((const unsigned char *)text, n, &want);
    *code = want != 0 && got == want ? decode((const unsigned char *)text, want) : HD_UTF8_REPLACEMENT;
    return got;
}

bool hd_utf8_validate(const char *text, size_t n, size_t *bad)
{
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (n - i >= sizeof word) { /* eight ASCII bytes at a time */
            memcpy(&word, text + i, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof word;
                continue;
            }
        }
        uint32_t code;
        size_t k = hd_utf8_next(text + i, n - i, &code);
        if (k == 0) {
            if (bad != NULL) { *bad = i; }
            return false;
        }
        i += k;
    }
    return true;
}

size_t hd_utf8_encode(uint32_t code, char out[4])
{
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) { code = HD_UTF8_REPLACEMENT; }
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char leads[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i-- > 1;) {
        out[i] = (char)(0x80u | (code & 0x3Fu));
        code >>= 6;
    }
    out[0] = (char)(leads[n] | code);
    return n;
}

void hd_utf8_append_replacing(hd_buf *buf, const char *text, size_t n)
{
    while (n > 0) {
        size_t good = n;
        if (!hd_utf8_validate(text, n, &good)) { /* what is well-formed goes in one piece */
            uint32_t code;
            hd_buf_append(buf, text, good);
            text += good, n -= good;
            good = hd_utf8_next_replacing(text, n, &code);
            hd_buf_append_text(buf, "\xEF\xBF\xBD");
        } else {
            hd_buf_append(buf, text, n);
        }
        text += good, n -= good;
    }
}

size_t hd_utf8_incomplete_tail(const char *text, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        size_t want;
        size_t got = match((const unsigned char *)text + n - k, k, &want);
        if (want > k && got == k) { return k; }
    }
    return 0;
}
