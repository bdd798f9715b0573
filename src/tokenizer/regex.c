/* See regex.h. */
#include "tokenizer/regex.h"

#include <stdint.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/alloc.h"
#include "base/buf.h"

enum {
    MATCH_LIMIT = 10000000,  /* steps of the interpreter, or of the compiled code, for one match */
    HEAP_LIMIT_KIB = 65536,
    JIT_STACK_FIRST = 32768, /* bytes; not on the caller's stack, which may be small */
    JIT_STACK_MOST = 8 << 20
};

struct hd_regex {
    pcre2_general_context *general;
    pcre2_code *code;
    char *pattern; /* for messages */
};

struct hd_regex_work {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack;
};

/* ---- memory through the allocator table ------------------------------------------------------------------------------------------- */

static void *take_memory(size_t n, void *unused)
{
    void *memory = NULL;
    (void)unused;
    return hd_alloc(n, 1, "pattern", &memory, NULL) == HD_OK ? memory : NULL;
}

static void give_memory(void *memory, void *unused)
{
    (void)unused;
    hd_free(memory);
}

/* ---- compiling -------------------------------------------------------------------------------------------------------------------- */

static hd_status refuse(const char *pattern, size_t n, size_t at, const char *what, hd_err *err)
{
    return HD_FAIL(err, HD_E_UNSUPPORTED, "the Split pattern \"%.*s\" holds %s at byte %zu, which hadal does not do as the reference does",
                   n < 200 ? (int)n : 200, pattern, what, at);
}

/* The bytes of an escape that begins at pattern[at]: two, or up to the brace of \p{..} and \x{..}. */
static size_t escape_length(const char *pattern, size_t n, size_t at)
{
    const char *end;
    if (at + 2 < n && pattern[at + 2] == '{' && strchr("pPx", pattern[at + 1]) != NULL) {
        end = memchr(pattern + at, '}', n - at);
        if (end != NULL) { return (size_t)(end - (pattern + at)) + 1; }
    }
    return at + 1 < n ? 2 : 1;
}

/* An escape at pattern[at] (the backslash): copied, replaced, or refused. */
static hd_status translate_escape(const char *pattern, size_t n, size_t at, hd_buf *out, hd_err *err)
{
    static const char refused[] = "wWbBhHRXGKAzZyYOkgQEN";
    char c = at + 1 < n ? pattern[at + 1] : '\0';
    if (c == 's' || c == 'S') {
        hd_buf_append_text(out, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
    } else if (c != '\0' && (strchr(refused, c) != NULL || (c >= '1' && c <= '9'))) {
        char name[] = {'\\', c, '\0'};
        return refuse(pattern, n, at, name, err);
    } else {
        hd_buf_append(out, pattern + at, escape_length(pattern, n, at));
    }
    return HD_OK;
}

/* Oniguruma to PCRE2. */
static hd_status translate(const char *pattern, size_t n, hd_buf *out, hd_err *err)
{
    int depth = 0; /* of square brackets */
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i], next = i + 1 < n ? pattern[i + 1] : '\0';
        if (c == '\\') {
            hd_status st = translate_escape(pattern, n, i, out, err);
            if (st != HD_OK) { return st; }
            i += escape_length(pattern, n, i) - 1;
            continue;
        }
        if (depth == 0 && c == '}' && next == '+') { return refuse(pattern, n, i, "a repeated interval", err); }
        if (depth > 0 && c == '&' && next == '&') { return refuse(pattern, n, i, "an intersection of sets", err); }
        if (depth > 0 && c == '[' && next != ':') { return refuse(pattern, n, i, "a set within a set", err); }
        if (c == '(' && next == '?' && i + 2 < n && strchr(":=!<>im-", pattern[i + 2]) == NULL) {
            return refuse(pattern, n, i, "a group of a special kind", err);
        }
        if (c == '[' && depth == 0) {
            depth = 1;
        } else if (c == ']' && depth > 0 && !(i > 0 && pattern[i - 1] == ':')) {
            depth = 0;
        }
        hd_buf_append_char(out, c);
    }
    return hd_buf_check(out, err);
}

static bool has_jit(void)
{
    uint32_t jit = 0;
    return pcre2_config(PCRE2_CONFIG_JIT, &jit) == 0 && jit == 1;
}

static hd_status compile(hd_regex *regex, const char *text, size_t n, hd_err *err)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(regex->general);
    if (context == NULL) { return HD_FAIL(err, HD_E_NOMEM, "no memory for a pattern"); }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, 50);
    regex->code = pcre2_compile((PCRE2_SPTR)text, n, options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (regex->code == NULL) {
        PCRE2_UCHAR message[128] = "";
        if (code == PCRE2_ERROR_HEAP_FAILED) { return HD_FAIL(err, HD_E_NOMEM, "no memory for the pattern \"%s\"", regex->pattern); }
        (void)pcre2_get_error_message(code, message, sizeof message);
        return HD_FAIL(err, HD_E_CORRUPT, "the Split pattern \"%.200s\" is not one: %s", regex->pattern, (const char *)message);
    }
    if (has_jit() && pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == PCRE2_ERROR_NOMEMORY) { /* else the interpreter does it */
        return HD_FAIL(err, HD_E_NOMEM, "no memory for the pattern \"%s\"", regex->pattern);
    }
    return HD_OK;
}

hd_status hd_regex_compile(const char *pattern, size_t n, hd_regex **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_regex *regex = NULL;
    hd_buf text = {0};
    HD_TRY(hd_alloc(1, sizeof *regex, "pattern", (void **)&regex, err));
    HD_TRY(hd_alloc(n + 1, 1, "pattern", (void **)&regex->pattern, err));
    memcpy(regex->pattern, pattern, n);
    regex->general = pcre2_general_context_create(take_memory, give_memory, NULL);
    if (regex->general == NULL) {
        st = HD_FAIL(err, HD_E_NOMEM, "no memory for a pattern");
        goto out;
    }
    HD_TRY(translate(pattern, n, &text, err));
    HD_TRY(compile(regex, hd_buf_text(&text), text.n, err));
    *out = regex;
    regex = NULL;
out:
    hd_regex_free(regex);
    hd_buf_free(&text);
    return st;
}

void hd_regex_free(hd_regex *regex)
{
    if (regex == NULL) { return; }
    pcre2_code_free(regex->code);
    pcre2_general_context_free(regex->general);
    hd_free(regex->pattern);
    hd_free(regex);
}

/* ---- matching --------------------------------------------------------------------------------------------------------------------- */

hd_status hd_regex_work_open(hd_regex_work **out, hd_err *err)
{
    hd_regex_work *work = NULL;
    hd_status st = hd_alloc(1, sizeof *work, "room for matching", (void **)&work, err);
    if (st != HD_OK) { return st; }
    work->general = pcre2_general_context_create(take_memory, give_memory, NULL);
    if (work->general != NULL) {
        work->context = pcre2_match_context_create(work->general);
        work->data = pcre2_match_data_create(1, work->general);
        work->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_MOST, work->general);
    }
    if (work->context == NULL || work->data == NULL || (work->stack == NULL && has_jit())) {
        hd_regex_work_close(work);
        return HD_FAIL(err, HD_E_NOMEM, "no memory for matching a pattern");
    }
    pcre2_set_match_limit(work->context, MATCH_LIMIT);
    pcre2_set_heap_limit(work->context, HEAP_LIMIT_KIB);
    if (work->stack != NULL) { pcre2_jit_stack_assign(work->context, NULL, work->stack); }
    *out = work;
    return HD_OK;
}

void hd_regex_work_close(hd_regex_work *work)
{
    if (work == NULL) { return; }
    pcre2_match_data_free(work->data);
    pcre2_match_context_free(work->context);
    pcre2_jit_stack_free(work->stack);
    pcre2_general_context_free(work->general);
    hd_free(work);
}

hd_status hd_regex_find(const hd_regex *regex, hd_regex_work *work, const char *text, size_t n, size_t at, bool *found, size_t *begin,
                        size_t *end, hd_err *err)
{
    int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, work->data, work->context);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(work->data);
        *begin = offsets[0];
        *end = offsets[1];
        return HD_OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH) { return HD_OK; }
    if (rc == PCRE2_ERROR_NOMEMORY) { return HD_FAIL(err, HD_E_NOMEM, "no memory for matching the pattern \"%s\"", regex->pattern); }
    return HD_FAIL(err, HD_E_INVALID, "the Split pattern \"%.200s\" needs too much work at byte %zu of a text of %zu bytes (PCRE2 error %d)",
                   regex->pattern, at, n, rc);
}
