/* See charset.h. */
#include "tokenizer/charset.h"

#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "tokenizer/unicode.h"

enum { MAX_COUNT = 1000 };

/* ---- reading a pattern ------------------------------------------------------------------------------------------------------------ */

typedef struct cursor {
    const char *text;
    size_t n, at;
} cursor;

static bool take(cursor *c, const char *wanted)
{
    size_t k = strlen(wanted);
    if (c->n - c->at < k || memcmp(c->text + c->at, wanted, k) != 0) { return false; }
    c->at += k;
    return true;
}

static hd_status add_range(hd_char_run *run, uint32_t first, uint32_t last, hd_err *err)
{
    if (run->n_range == run->range_capacity) {
        void *range = run->range;
        size_t capacity = run->range_capacity == 0 ? 16 : 2 * run->range_capacity;
        hd_status st = hd_realloc(&range, run->range_capacity, capacity, sizeof *run->range, "set of characters", err);
        if (st != HD_OK) { return st; }
        run->range = range;
        run->range_capacity = capacity;
    }
    run->range[run->n_range++] = (hd_char_range){first, last};
    return HD_OK;
}

/* \p{X} and \s behind a cursor that stands on the backslash: their classes, or 0. */
static unsigned take_class(cursor *c)
{
    static const struct {
        const char *text;
        unsigned classes;
    } rows[] = {{"\\p{L}", HD_UC_L}, {"\\p{M}", HD_UC_M}, {"\\p{N}", HD_UC_N}, {"\\p{P}", HD_UC_P}, {"\\p{S}", HD_UC_S}, {"\\s", HD_UC_SPACE}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (take(c, rows[i].text)) { return rows[i].classes; }
    }
    return 0;
}

/* One literal character, escaped or not; false for what means something else here or elsewhere. */
static bool take_literal(cursor *c, bool inside, uint32_t *code)
{
    static const char letters[] = "rntfv", values[] = "\r\n\t\f\v";
    bool escaped = take(c, "\\");
    size_t k = hd_utf8_next(c->text + c->at, c->n - c->at, code);
    if (k == 0) { return false; }
    c->at += k;
    bool letter = (*code >= '0' && *code <= '9') || (*code >= 'A' && *code <= 'Z') || (*code >= 'a' && *code <= 'z');
    if (escaped && letter) {
        const char *found = strchr(letters, (int)*code);
        if (found == NULL) { return false; }
        *code = (unsigned char)values[found - letters];
        return true;
    }
    return escaped || *code >= 0x80 || strchr(inside ? "[]&^" : ".*+?()|^$[]{}", (int)*code) == NULL || *code == 0;
}

static hd_status parse_bracket(cursor *c, hd_char_run *run, bool *known, hd_err *err)
{
    run->negated = take(c, "^");
    *known = true;
    while (*known && !take(c, "]")) {
        uint32_t first, last;
        unsigned classes = take_class(c);
        run->classes |= classes;
        if (classes != 0) { continue; }
        *known = take_literal(c, true, &first);
        last = first;
        if (*known && c->at + 1 < c->n && c->text[c->at] == '-' && c->text[c->at + 1] != ']') {
            c->at++;
            *known = take_literal(c, true, &last) && last >= first;
        }
        if (*known) {
            hd_status st = add_range(run, first, last, err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

static hd_status parse_set(cursor *c, hd_char_run *run, bool *known, hd_err *err)
{
    uint32_t code;
    if (take(c, "[")) { return parse_bracket(c, run, known, err); }
    run->classes = take_class(c);
    *known = run->classes != 0;
    if (*known) { return HD_OK; }
    *known = take_literal(c, false, &code);
    return *known ? add_range(run, code, code, err) : HD_OK;
}

/* {1,k}: its k, or 0. */
static size_t take_count(cursor *c)
{
    size_t most = 0, before = c->at;
    if (!take(c, "{1,")) { return 0; }
    while (c->at < c->n && c->text[c->at] >= '0' && c->text[c->at] <= '9' && most < MAX_COUNT) { most = most * 10 + (size_t)(c->text[c->at++] - '0'); }
    if (take(c, "}") && most > 0) { return most; }
    c->at = before;
    return 0;
}

static void sort_ranges(hd_char_run *run)
{
    size_t n = 0;
    for (size_t i = 1; i < run->n_range; i++) { /* patterns list them almost in order */
        hd_char_range r = run->range[i];
        size_t k = i;
        for (; k > 0 && run->range[k - 1].first > r.first; k--) { run->range[k] = run->range[k - 1]; }
        run->range[k] = r;
    }
    for (size_t i = 0; i < run->n_range; i++) {
        hd_char_range r = run->range[i];
        if (n > 0 && r.first <= run->range[n - 1].last) {
            if (r.last > run->range[n - 1].last) { run->range[n - 1].last = r.last; }
        } else {
            run->range[n++] = r;
        }
    }
    run->n_range = n;
}

static bool is_member(const hd_char_run *run, uint32_t code)
{
    if (code < 256) { return (run->low[code / 64] >> (code % 64) & 1) != 0; }
    size_t low = 0, high = run->n_range;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (run->range[middle].last < code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool in = (low < run->n_range && run->range[low].first <= code) || (hd_unicode(code) & run->classes) != 0;
    return in != run->negated;
}

static void fill_low(hd_char_run *run)
{
    for (uint32_t code = 0; code < 256; code++) {
        bool in = (hd_unicode(code) & run->classes) != 0;
        for (size_t i = 0; i < run->n_range; i++) { in = in || (run->range[i].first <= code && code <= run->range[i].last); }
        if (in != run->negated) { run->low[code / 64] |= UINT64_C(1) << (code % 64); }
    }
}

hd_status hd_char_run_parse(const char *pattern, size_t n, hd_char_run *run, bool *known, hd_err *err)
{
    cursor c = {.text = pattern, .n = n};
    *run = (hd_char_run){.most = 1};
    run->space_before = take(&c, "\\s?");
    hd_status st = parse_set(&c, run, known, err);
    if (st == HD_OK && *known) {
        size_t most = take_count(&c);
        run->most = take(&c, "+") && most == 0 ? SIZE_MAX : most > 0 ? most : 1;
        run->at_line_end = take(&c, "$");
        bool spaces = run->classes == HD_UC_SPACE && run->n_range == 0 && !run->negated && run->most == SIZE_MAX;
        bool plain = c.at == n && (!run->at_line_end || (spaces && !run->space_before));
        *known = plain && !(most > 0 && c.text[n - 1] == '+');
    }
    if (st != HD_OK || !*known) {
        hd_char_run_free(run);
        return st;
    }
    sort_ranges(run);
    fill_low(run);
    return HD_OK;
}

void hd_char_run_free(hd_char_run *run)
{
    hd_free(run->range);
    run->range = NULL;
}

/* ---- matching --------------------------------------------------------------------------------------------------------------------- */

/* Behind at most `most` members from `at` on. */
static size_t pass_members(const hd_char_run *run, const char *text, size_t n, size_t at, size_t most)
{
    uint32_t code = 0;
    for (; most > 0 && at < n; most--) {
        size_t k = hd_utf8_next(text + at, n - at, &code);
        if (!is_member(run, code)) { break; }
        at += k;
    }
    return at;
}

/* \s+$ for the run of white space that begins at `at`: its end where it matches, else 0; *behind is the end of the run. */
static size_t line_end_match(const hd_char_run *run, const char *text, size_t n, size_t at, size_t *behind)
{
    size_t end = pass_members(run, text, n, at, SIZE_MAX);
    *behind = end;
    if (end == n) { return end; }
    while (end > at && text[end - 1] != '\n') { end--; }
    return end > at + 1 ? end - 1 : 0; /* before the last newline, if anything stands in front of it */
}

bool hd_char_run_find(const hd_char_run *run, const char *text, size_t n, size_t at, size_t *begin, size_t *end)
{
    uint32_t code = 0;
    for (size_t k; at < n; at += k) {
        k = hd_utf8_next(text + at, n - at, &code);
        *begin = at;
        if (run->at_line_end) {
            size_t behind = at + k;
            *end = is_member(run, code) ? line_end_match(run, text, n, at, &behind) : 0;
            if (*end > at) { return true; }
            k = behind - at;
            continue;
        }
        *end = at;
        if (run->space_before && (hd_unicode(code) & HD_UC_SPACE) != 0) { *end = pass_members(run, text, n, at + k, run->most); }
        if (*end > at + k) { return true; }
        if (is_member(run, code)) {
            *end = pass_members(run, text, n, at, run->most);
            return true;
        }
    }
    return false;
}
