/* The scanners and the runs of sets against PCRE2, which reads the patterns themselves.
 *
 * PCRE2 knows another version of Unicode, so that the texts hold only characters whose classes both agree on. */
#include "support/test.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/utf8.h"
#include "tokenizer/split.h"
#include "tokenizer/unicode.h"

enum { MAX_CHARS = 40, N_AGREED = 8192 };

static hd_err err;

/* ---- characters both know alike --------------------------------------------------------------------------------------------------- */

static const struct {
    const char *pattern;
    unsigned flag;
} classes[] = {{"\\p{L}", HD_UC_L}, {"\\p{M}", HD_UC_M}, {"\\p{N}", HD_UC_N}, {"\\p{P}", HD_UC_P}, {"\\p{S}", HD_UC_S}, {"\\s", HD_UC_SPACE}};

typedef struct alphabet {
    uint32_t code[N_AGREED];
    size_t n, n_differ;
} alphabet;

static bool agrees(hd_regex *const *regex, hd_regex_work *work, uint32_t code)
{
    char bytes[4];
    size_t n = hd_utf8_encode(code, bytes), begin, end;
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        bool found;
        assert_ok(hd_regex_find(regex[i], work, bytes, n, 0, &found, &begin, &end, &err));
        if (found != ((hd_unicode(code) & classes[i].flag) != 0)) { return false; }
    }
    return true;
}

/* Every code point is asked; those that agree are thinned out, all of the first planes' oddities kept by chance. */
static void collect(alphabet *a)
{
    hd_regex *regex[sizeof classes / sizeof classes[0]];
    hd_regex_work *work;
    hd_rng rng = hd_test_rng("alphabet");
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) { assert_ok(hd_regex_compile(classes[i].pattern, strlen(classes[i].pattern), &regex[i], &err)); }
    assert_ok(hd_regex_work_open(&work, &err));
    for (uint32_t code = 0; code < 0x110000; code++) {
        if (code >= 0xD800 && code < 0xE000) { continue; }
        if (code >= 0x20000 && code % 64 != 0) { continue; } /* ideographs and unassigned */
        if (!agrees(regex, work, code)) {
            a->n_differ++;
        } else if (a->n < N_AGREED && (code < 0x100 || hd_rng_uniform(rng, code) < 0.055)) {
            a->code[a->n++] = code;
        }
    }
    print_message("  %zu code points differ between Unicode " HD_UNICODE_VERSION " and PCRE2's\n", a->n_differ);
    assert_true(a->n > 4000 && a->n_differ < 20000);
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) { hd_regex_free(regex[i]); }
    hd_regex_work_close(work);
}

/* Characters that the patterns name, and ones near the edges of the CJK class. */
static const uint32_t special[] = {' ', ' ', ' ', '\n', '\r', '\t', '\'', 's', 'S', 'r', 'e', 'l', 'L', 0x17F, 'a', 'Z', '1', '9', '!', '.', '-', 0xA0, 0x3000, 0x2028, 0x85,
                                   0x180E, 0x301, 0x3099, 0x309B, 0x3040, 0x3098, 0x30FB, 0x30A0, 0x3042, 0x30A2, 0x4E00, 0x9FA5, 0x9FA6, 0x3041, 0x309F, 0x30FF, 0x3100,
                                   0x200B, 0xAD, 0xE000, 0x0, 0x1B, 0x0663, 0xBD, 0x2167, 0xFF11, 0xFF01, 0xFF1A, 0x20AC, 0x1F600, 0xE9, 0x2019};

static size_t make_text(const alphabet *a, hd_rng rng, uint64_t i, char *out)
{
    size_t n = 0, n_char = (size_t)(hd_rng_uniform(rng, i * 100) * MAX_CHARS);
    double share = hd_rng_uniform(rng, i * 100 + 1);
    for (size_t k = 0; k < n_char; k++) {
        double u = hd_rng_uniform(rng, i * 100 + 2 * k + 2), v = hd_rng_uniform(rng, i * 100 + 2 * k + 3);
        size_t count = sizeof special / sizeof special[0];
        uint32_t code = u < share ? special[(size_t)(v * 0.999999 * (double)count)] : a->code[(size_t)(v * 0.999999 * (double)a->n)];
        n += hd_utf8_encode(code, out + n);
    }
    return n;
}

/* ---- the reference: each pattern over the pieces of the one before, gaps kept ----------------------------------------------------- */

typedef struct pieces {
    size_t end[8 * MAX_CHARS];
    size_t n;
} pieces;

static void split_once(const hd_regex *regex, hd_regex_work *work, const char *text, size_t begin, size_t end, pieces *out)
{
    size_t at = 0, from = 0, n = end - begin, b, e;
    bool found = true;
    while (at < n) {
        assert_ok(hd_regex_find(regex, work, text + begin, n, at, &found, &b, &e, &err));
        if (!found) { break; }
        assert_true(e > b);
        if (b > from) { out->end[out->n++] = begin + b; }
        out->end[out->n++] = begin + e;
        at = from = e;
    }
    if (from < n) { out->end[out->n++] = end; }
}

static void split_all(hd_regex *const *regex, size_t n_regex, hd_regex_work *work, const char *text, size_t n, pieces *out)
{
    pieces before = {.end = {n}, .n = n > 0 ? 1 : 0};
    for (size_t r = 0; r < n_regex; r++) {
        out->n = 0;
        for (size_t i = 0; i < before.n; i++) { split_once(regex[r], work, text, i > 0 ? before.end[i - 1] : 0, before.end[i], out); }
        before = *out;
    }
    *out = before;
}

/* A sink; pieces may come in texts of their own (from == text + offset). */
typedef struct collector {
    const char *text;
    pieces got;
} collector;

static hd_status take(void *context, const char *text, size_t begin, const uint32_t *ends, size_t n, hd_err *e)
{
    collector *c = context;
    (void)begin;
    (void)e;
    for (size_t i = 0; i < n; i++) { c->got.end[c->got.n++] = (size_t)(text - c->text) + ends[i]; }
    return HD_OK;
}

static void compare(const alphabet *a, const char *what, const char *const *patterns, size_t n_pattern, bool all_scanned, int64_t n_text)
{
    hd_split split = {0};
    hd_regex *regex[4];
    hd_regex_work *work;
    char text[4 * MAX_CHARS + 1];
    hd_rng rng = hd_test_rng(what);
    assert_ok(hd_regex_work_open(&work, &err));
    for (size_t i = 0; i < n_pattern; i++) {
        assert_ok(hd_split_add_pattern(&split, patterns[i], strlen(patterns[i]), HD_ISOLATED, false, &err));
        assert_ok(hd_regex_compile(patterns[i], strlen(patterns[i]), &regex[i], &err));
    }
    assert_false(split.has_regex);
    assert_int_equal(split.n_step, all_scanned ? 1 : n_pattern);
    for (int64_t i = 0; i < n_text; i++) {
        collector c = {.text = text};
        pieces want;
        size_t n = make_text(a, rng, (uint64_t)i, text);
        text[n] = '\0';
        split_all(regex, n_pattern, work, text, n, &want);
        assert_ok(hd_split_run(&split, NULL, text, n, take, &c, &err));
        bool same = c.got.n == want.n;
        for (size_t k = 0; same && k < want.n; k++) { same = c.got.end[k] == want.end[k]; }
        if (same) { continue; }
        print_error("  %s, text %lld: %s\n  got:", what, (long long)i, text);
        for (size_t k = 0; k < c.got.n; k++) { print_error(" %zu", c.got.end[k]); }
        print_error("\n  want:");
        for (size_t k = 0; k < want.n; k++) { print_error(" %zu", want.end[k]); }
        print_error("\n");
        fail();
    }
    for (size_t i = 0; i < n_pattern; i++) { hd_regex_free(regex[i]); }
    hd_regex_work_close(work);
    hd_split_free(&split);
}

static void scanners(void **state)
{
    static const char *const names[] = {"deepseek-v3", "llama-3", "qwen2", "gpt-2"};
    const alphabet *a = *state;
    for (int kind = 0; kind < HD_SCAN_COUNT; kind++) {
        size_t n = 0;
        while (hd_scan_patterns[kind][n] != NULL) { n++; }
        compare(a, names[kind], hd_scan_patterns[kind], n, true, hd_test_count(60000, 2000000));
    }
}

static void runs_of_a_set(void **state)
{
    static const char *const patterns[] = {"[\\r\\n]", "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u0391-\u03a9]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                                           "\\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}", "\\p{N}{1,3}", "\\p{N}+", "\\s?\\p{L}+", "\\s?\\p{P}+", "[^\\s\\p{L}]+",
                                           "[\\p{P}\\p{S}-]+", "\\s", "x", "\\.+", "[^a]"};
    const alphabet *a = *state;
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) { compare(a, patterns[i], &patterns[i], 1, false, hd_test_count(8000, 200000)); }
}

/* A cut must leave the pieces as they are, whatever stands around it. */
static void safe_cuts(void **state)
{
    const alphabet *a = *state;
    hd_rng rng = hd_test_rng("cuts");
    char text[8 * MAX_CHARS + 8];
    int64_t n_cut = 0;
    for (uint64_t i = 0; i < 40000; i++) {
        size_t n = make_text(a, rng, 2 * i, text);
        memcpy(text + n, "b c", 3);
        n += 3;
        n += make_text(a, rng, 2 * i + 1, text + n);
        size_t cut = hd_scan_safe_cut(text, 0, n - 1);
        assert_true(cut > 0);
        for (int kind = 0; kind < HD_SCAN_COUNT; kind++) {
            uint32_t whole[256], first[256], second[256];
            size_t at = 0, n_whole = hd_scan((hd_scan_kind)kind, text, n, &at, whole, 256);
            at = 0;
            size_t n_first = hd_scan((hd_scan_kind)kind, text, cut, &at, first, 256);
            at = 0;
            size_t n_second = hd_scan((hd_scan_kind)kind, text + cut, n - cut, &at, second, 256);
            assert_int_equal(n_whole, n_first + n_second);
            for (size_t k = 0; k < n_whole; k++) { assert_int_equal(whole[k], k < n_first ? first[k] : second[k - n_first] + cut); }
            n_cut++;
        }
    }
    print_message("  %lld cuts\n", (long long)n_cut);
}

static void patterns_refused(void **state)
{
    static const struct {
        const char *pattern;
        hd_status status;
    } rows[] = {{"\\w+", HD_E_UNSUPPORTED}, {"a\\b", HD_E_UNSUPPORTED}, {"[a&&b]", HD_E_UNSUPPORTED}, {"\\p{N}{1,3}+", HD_E_UNSUPPORTED}, {"(a)\\1", HD_E_UNSUPPORTED},
                {"[[ab]c]", HD_E_UNSUPPORTED}, {"(?#x)a", HD_E_UNSUPPORTED}, {"(", HD_E_CORRUPT}, {"[a", HD_E_CORRUPT}, {"\\", HD_E_CORRUPT}, {"*", HD_E_CORRUPT},
                {"\\p{Nope}", HD_E_CORRUPT}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_split split = {0};
        assert_int_equal(hd_split_add_pattern(&split, rows[i].pattern, strlen(rows[i].pattern), HD_ISOLATED, false, &err), rows[i].status);
        assert_non_null(strstr(err.msg, "Split pattern"));
        hd_split_free(&split);
    }
}

static hd_status ignore(void *context, const char *text, size_t begin, const uint32_t *ends, size_t n, hd_err *e)
{
    (void)context, (void)text, (void)begin, (void)ends, (void)n, (void)e;
    return HD_OK;
}

/* A pattern that backtracks without end is an error and no hang. */
static void work_is_limited(void **state)
{
    static const char pattern[] = "(a+)+(a+)+(a+)+(a+)+b|c";
    hd_split split = {0};
    hd_regex_work *work;
    hd_buf text = {0};
    (void)state;
    for (int i = 0; i < 5000; i++) { hd_buf_append_char(&text, 'a'); }
    hd_buf_append_text(&text, "bb c aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac");
    text.data[5000] = 'x', text.data[5001] = 'x'; /* no b: PCRE2 would look for it first */
    hd_buf_append_text(&text, " b");
    assert_ok(hd_split_add_pattern(&split, pattern, sizeof pattern - 1, HD_ISOLATED, false, &err));
    assert_true(split.has_regex);
    assert_ok(hd_regex_work_open(&work, &err));
    assert_fails(hd_split_run(&split, work, text.data, text.n, ignore, NULL, &err), HD_E_INVALID, "too much work");
    hd_regex_work_close(work);
    hd_split_free(&split);
    hd_buf_free(&text);
}

static int set_up(void **state)
{
    static alphabet a;
    collect(&a);
    *state = &a;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(scanners), cmocka_unit_test(runs_of_a_set), cmocka_unit_test(safe_cuts), cmocka_unit_test(patterns_refused),
                                       cmocka_unit_test(work_is_limited)};
    return cmocka_run_group_tests(tests, set_up, NULL);
}
