/* See split.h. */
#include "tokenizer/split.h"

#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"

/* ---- building --------------------------------------------------------------------------------------------------------------------- */

static hd_status new_step(hd_split *split, hd_step_kind kind, hd_behavior behavior, bool invert, hd_step **out, hd_err *err)
{
    if (split->n_step == HD_MAX_STEPS) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "the pre_tokenizer has more than %d steps", HD_MAX_STEPS);
    }
    *out = &split->step[split->n_step++];
    **out = (hd_step){.kind = kind, .behavior = behavior, .invert = invert};
    return HD_OK;
}

static hd_status keep_text(hd_step *step, const char *text, size_t n, hd_err *err)
{
    hd_status st = hd_alloc(n + 1, 1, "pattern", (void **)&step->literal, err);
    if (st != HD_OK) { return st; }
    memcpy(step->literal, text, n);
    step->n_literal = n;
    return HD_OK;
}

static bool is_plain(const hd_step *step, hd_step_kind kind)
{
    return step->kind == kind && step->behavior == HD_ISOLATED && !step->invert;
}

static bool text_is(const char *text, size_t n, const char *wanted)
{
    return strlen(wanted) == n && memcmp(text, wanted, n) == 0;
}

/* Whether the pattern completes those of a scanner: the last steps are its earlier patterns.  They are taken away. */
static bool completes(hd_split *split, hd_scan_kind kind, const char *pattern, size_t n)
{
    const char *const *wanted = hd_scan_patterns[kind];
    size_t n_before = 0;
    while (wanted[n_before + 1] != NULL) { n_before++; }
    if (!text_is(pattern, n, wanted[n_before]) || split->n_step < n_before) { return false; }
    for (size_t i = 0; i < n_before; i++) {
        const hd_step *step = &split->step[split->n_step - n_before + i];
        if (!is_plain(step, HD_STEP_RUN) || !text_is(step->literal, step->n_literal, wanted[i])) { return false; }
    }
    for (size_t i = 0; i < n_before; i++) {
        hd_step *step = &split->step[--split->n_step];
        hd_char_run_free(&step->run);
        hd_free(step->literal);
    }
    return true;
}

hd_status hd_split_add_pattern(hd_split *split, const char *pattern, size_t n, hd_behavior behavior, bool invert, hd_err *err)
{
    hd_step *step;
    hd_status st = HD_OK;
    bool known;
    for (int kind = 0; kind < HD_SCAN_COUNT && behavior == HD_ISOLATED && !invert; kind++) {
        if (completes(split, (hd_scan_kind)kind, pattern, n)) {
            HD_TRY(new_step(split, HD_STEP_SCAN, behavior, invert, &step, err));
            step->scan = (hd_scan_kind)kind;
            return HD_OK;
        }
    }
    HD_TRY(new_step(split, HD_STEP_RUN, behavior, invert, &step, err));
    HD_TRY(keep_text(step, pattern, n, err));
    HD_TRY(hd_char_run_parse(pattern, n, &step->run, &known, err));
    if (!known) {
        step->kind = HD_STEP_REGEX;
        split->has_regex = true;
        HD_TRY(hd_regex_compile(pattern, n, &step->regex, err));
    }
out:
    return st;
}

hd_status hd_split_add_literal(hd_split *split, const char *text, size_t n, hd_behavior behavior, bool invert, hd_err *err)
{
    hd_step *step;
    hd_status st = new_step(split, HD_STEP_LITERAL, behavior, invert, &step, err);
    return st == HD_OK ? keep_text(step, text, n, err) : st;
}

hd_status hd_split_add_prefix_space(hd_split *split, hd_err *err)
{
    hd_step *step;
    return new_step(split, HD_STEP_PREFIX_SPACE, HD_ISOLATED, false, &step, err);
}

void hd_split_free(hd_split *split)
{
    for (size_t i = 0; i < split->n_step; i++) {
        hd_char_run_free(&split->step[i].run);
        hd_regex_free(split->step[i].regex);
        hd_free(split->step[i].literal);
    }
    split->n_step = 0;
}

/* ---- spans: matches and the stretches between them -------------------------------------------------------------------------------- */

typedef struct span {
    size_t begin, end;
    bool is_match;
} span;

typedef struct cursor {
    const hd_step *step;
    hd_regex_work *work;
    const char *text;
    size_t n, at;
    size_t begin, end; /* of the match that was found but not handed out */
    bool has_match;
} cursor;

/* The first match at or behind c->at.  An empty match right behind the match before is passed over, as the reference does. */
static hd_status find(cursor *c, bool *found, hd_err *err)
{
    const hd_step *step = c->step;
    hd_status st = HD_OK;
    const char *at;
    switch (step->kind) {
    case HD_STEP_RUN: *found = hd_char_run_find(&step->run, c->text, c->n, c->at, &c->begin, &c->end); break;
    case HD_STEP_LITERAL:
        at = step->n_literal > 0 ? memmem(c->text + c->at, c->n - c->at, step->literal, step->n_literal) : NULL;
        *found = at != NULL;
        if (*found) { c->begin = (size_t)(at - c->text), c->end = c->begin + step->n_literal; }
        break;
    default: st = hd_regex_find(step->regex, c->work, c->text, c->n, c->at, found, &c->begin, &c->end, err); break;
    }
    return st;
}

/* The next span; *more false at the end.  Empty matches cut and are no spans. */
static hd_status next_span(cursor *c, span *s, bool *more, hd_err *err)
{
    size_t from = c->at;
    uint32_t code;
    *more = from < c->n;
    while (!c->has_match && c->at < c->n) {
        hd_status st = find(c, &c->has_match, err);
        if (st != HD_OK) { return st; }
        if (!c->has_match) { break; }
        if (c->end > c->begin || c->begin > from) { continue; }
        c->has_match = false; /* empty, where a span begins anyway */
        c->at += hd_utf8_next(c->text + c->at, c->n - c->at, &code);
    }
    c->at = from;
    if (!*more) { return HD_OK; }
    if (!c->has_match) {
        *s = (span){.begin = from, .end = c->n, .is_match = c->step->invert};
    } else if (c->begin > from) {
        *s = (span){.begin = from, .end = c->begin, .is_match = c->step->invert};
        c->has_match = c->end > c->begin;
    } else {
        *s = (span){.begin = from, .end = c->end, .is_match = !c->step->invert};
        c->has_match = false;
    }
    c->at = s->end;
    return HD_OK;
}

/* ---- the steps, depth first ------------------------------------------------------------------------------------------------------- */

typedef struct runner {
    const hd_split *split;
    hd_regex_work *work;
    hd_pieces_sink sink;
    void *context;
} runner;

static hd_status run_step(const runner *r, size_t i, const char *text, size_t n, hd_err *err);

static hd_status run_scan(const runner *r, size_t i, const char *text, size_t n, hd_err *err)
{
    uint32_t ends[256];
    hd_status st = HD_OK;
    size_t at = 0, begin = 0, count;
    while ((count = hd_scan(r->split->step[i].scan, text, n, &at, ends, sizeof ends / sizeof ends[0])) > 0) {
        if (i + 1 == r->split->n_step) {
            HD_TRY(r->sink(r->context, text, begin, ends, count, err));
        } else {
            for (size_t k = 0, from = begin; k < count; from = ends[k++]) { HD_TRY(run_step(r, i + 1, text + from, ends[k] - from, err)); }
        }
        begin = ends[count - 1];
    }
out:
    return st;
}

static hd_status run_prefix_space(const runner *r, size_t i, const char *text, size_t n, hd_err *err)
{
    char *longer = NULL;
    if (text[0] == ' ') { return run_step(r, i + 1, text, n, err); }
    hd_status st = hd_alloc(n + 1, 1, "text with a space in front", (void **)&longer, err);
    if (st != HD_OK) { return st; }
    longer[0] = ' ';
    memcpy(longer + 1, text, n);
    st = run_step(r, i + 1, longer, n + 1, err);
    hd_free(longer);
    return st;
}

/* Whether a span goes to the same piece as what is held back. */
static bool joins(hd_behavior behavior, const span *held, const span *next)
{
    switch (behavior) {
    case HD_CONTIGUOUS: return held->is_match == next->is_match;
    case HD_MERGED_WITH_PREVIOUS: return next->is_match && !held->is_match;
    case HD_MERGED_WITH_NEXT: return held->is_match && !next->is_match;
    default: return false;
    }
}

static hd_status run_spans(const runner *r, size_t i, const char *text, size_t n, hd_err *err)
{
    const hd_step *step = &r->split->step[i];
    cursor c = {.step = step, .work = r->work, .text = text, .n = n};
    span held = {0}, next;
    bool more, holds = false;
    hd_status st = HD_OK;
    for (;;) {
        HD_TRY(next_span(&c, &next, &more, err));
        if (more && holds && joins(step->behavior, &held, &next)) {
            held.end = next.end;
            held.is_match = next.is_match; /* a piece that ends in a match takes no second one */
            continue;
        }
        if (holds) { HD_TRY(run_step(r, i + 1, text + held.begin, held.end - held.begin, err)); }
        if (!more) { break; }
        held = next;
        holds = !(step->behavior == HD_REMOVED && next.is_match);
    }
out:
    return st;
}

static hd_status run_step(const runner *r, size_t i, const char *text, size_t n, hd_err *err)
{
    if (n == 0) { return HD_OK; }
    if (i == r->split->n_step) {
        uint32_t end = (uint32_t)n;
        return r->sink(r->context, text, 0, &end, 1, err);
    }
    switch (r->split->step[i].kind) {
    case HD_STEP_SCAN: return run_scan(r, i, text, n, err);
    case HD_STEP_PREFIX_SPACE: return run_prefix_space(r, i, text, n, err);
    default: return run_spans(r, i, text, n, err);
    }
}

hd_status hd_split_run(const hd_split *split, hd_regex_work *work, const char *text, size_t n, hd_pieces_sink sink, void *context, hd_err *err)
{
    runner r = {.split = split, .work = work, .sink = sink, .context = context};
    return run_step(&r, 0, text, n, err);
}
