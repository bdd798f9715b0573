/* Properties of code points for str methods: tables made from Python's own answers.  See template_string.h. */
#include "tokenizer/template_string.h"

typedef struct case_run {
    uint32_t first, last, step;
    int32_t delta;
} case_run;

typedef struct special_case {
    uint32_t code, to[3];
} special_case;

typedef struct code_range {
    uint32_t first, last;
} code_range;

#define CASE(which, first, last, step, delta) {first, last, step, delta},
#define SPECIAL(which, code, a, b, c) {code, {a, b, c}},

#define CASE_UPPER
static const case_run upper_runs[] = {
#include "tokenizer/template_unicode.def"
};
#undef CASE_UPPER
#define CASE_LOWER
static const case_run lower_runs[] = {
#include "tokenizer/template_unicode.def"
};
#undef CASE_LOWER
#define CASE_TITLE
static const case_run title_runs[] = {
#include "tokenizer/template_unicode.def"
};
#undef CASE_TITLE
#define SPECIAL_UPPER
static const special_case upper_specials[] = {
#include "tokenizer/template_unicode.def"
};
#undef SPECIAL_UPPER
#define SPECIAL_LOWER
static const special_case lower_specials[] = {
#include "tokenizer/template_unicode.def"
};
#undef SPECIAL_LOWER
#define SPECIAL_TITLE
static const special_case title_specials[] = {
#include "tokenizer/template_unicode.def"
};
#undef SPECIAL_TITLE
#undef CASE
#undef SPECIAL

static const code_range unprintable[] = {
#define UNPRINTABLE(first, last) {first, last},
#include "tokenizer/template_unicode.def"
#undef UNPRINTABLE
};
static const code_range cased[] = {
#define CASED(first, last) {first, last},
#include "tokenizer/template_unicode.def"
#undef CASED
};
static const code_range ignorable[] = {
#define IGNORABLE(first, last) {first, last},
#include "tokenizer/template_unicode.def"
#undef IGNORABLE
};

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static bool is_in(const code_range *ranges, size_t n, uint32_t code)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && code >= ranges[low].first;
}

/* The mapped code point, or the same one when the table has none; *found tells. */
static uint32_t map_run(const case_run *runs, size_t n, uint32_t code, bool *found)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > runs[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *found = low < n && code >= runs[low].first && (code - runs[low].first) % runs[low].step == 0;
    return *found ? (uint32_t)((int32_t)code + runs[low].delta) : code;
}

static int map_special(const special_case *rows, size_t n, uint32_t code, uint32_t out[3])
{
    for (size_t i = 0; i < n && rows[i].code <= code; i++) {
        if (rows[i].code != code) { continue; }
        for (int k = 0; k < 3; k++) { out[k] = rows[i].to[k]; }
        return out[2] != 0 ? 3 : 2;
    }
    return 0;
}

bool hd_tpl_is_printable(uint32_t code)
{
    return code < 0x80 ? code >= 0x20 && code < 0x7F : !is_in(unprintable, COUNT(unprintable), code);
}

static bool is_ascii_letter(uint32_t code)
{
    return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
}

bool hd_tpl_is_cased(uint32_t code)
{
    return code < 0x80 ? is_ascii_letter(code) : is_in(cased, COUNT(cased), code);
}

bool hd_tpl_is_case_ignorable(uint32_t code)
{
    if (code < 0x80) { return code == '\'' || code == '.' || code == ':' || code == '^' || code == '`'; }
    return is_in(ignorable, COUNT(ignorable), code);
}

int hd_tpl_map_case(uint32_t code, hd_tpl_case to, uint32_t out[3])
{
    bool found = false;
    int n = 0;
    out[0] = code;
    if (code < 0x80) {
        bool is_lower = code >= 'a' && code <= 'z';
        if (is_ascii_letter(code) && is_lower == (to != HD_TPL_LOWER)) { out[0] = code ^ 0x20; }
        return 1;
    }
    if (to == HD_TPL_LOWER) {
        n = map_special(lower_specials, COUNT(lower_specials), code, out);
        if (n == 0) { out[0] = map_run(lower_runs, COUNT(lower_runs), code, &found); }
        return n == 0 ? 1 : n;
    }
    if (to == HD_TPL_TITLE) { /* the table holds what differs from upper */
        n = map_special(title_specials, COUNT(title_specials), code, out);
        if (n > 0) { return n; }
        out[0] = map_run(title_runs, COUNT(title_runs), code, &found);
        if (found) { return 1; }
    }
    n = map_special(upper_specials, COUNT(upper_specials), code, out);
    if (n == 0) { out[0] = map_run(upper_runs, COUNT(upper_runs), code, &found); }
    return n == 0 ? 1 : n;
}
