/* See template_lexer.h. */
#include "tokenizer/template_lexer.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer/template_string.h"

void hd_tpl_lexer_open(hd_tpl_lexer *lexer, hd_tpl_run *run)
{
    *lexer = (hd_tpl_lexer){.run = run, .line_starting = true};
}

static hd_status fail_at(hd_tpl_lexer *lexer, size_t at, hd_status code, const char *what)
{
    lexer->run->at = at;
    return hd_tpl_fail(lexer->run, code, "%s", what);
}

static const char *rest(const hd_tpl_lexer *lexer)
{
    return lexer->run->source + lexer->at;
}

static size_t left(const hd_tpl_lexer *lexer)
{
    return lexer->run->n_source - lexer->at;
}

static bool stands_at(const hd_tpl_lexer *lexer, size_t at, const char *text)
{
    size_t n = strlen(text);
    return lexer->run->n_source - at >= n && memcmp(lexer->run->source + at, text, n) == 0;
}

/* White space, of which whether it ended a line is remembered. */
static void skip_space(hd_tpl_lexer *lexer)
{
    size_t n = hd_tpl_space_run(rest(lexer), left(lexer));
    lexer->at += n;
    if (n > 0) { lexer->line_starting = lexer->run->source[lexer->at - 1] == '\n'; }
}

/* ---- text and the tags that end it ----------------------------------------------------------------------------------- */

/* After the end of a tag: "-" takes all white space, "+" none, otherwise a block or comment takes one line break. */
static void end_tag(hd_tpl_lexer *lexer, char sign, bool takes_newline)
{
    lexer->line_starting = false;
    if (sign == '-') {
        skip_space(lexer);
    } else if (sign != '+' && takes_newline && left(lexer) > 0 && *rest(lexer) == '\n') {
        lexer->at++;
        lexer->line_starting = true;
    }
}

/* What remains of text [begin, end) before a tag with this sign. */
static size_t strip_before(const hd_tpl_lexer *lexer, size_t begin, size_t end, char sign, bool is_print)
{
    const char *text = lexer->run->source + begin;
    size_t n = end - begin, line = n;
    if (sign == '-') { return begin + hd_tpl_trimmed(text, n); }
    if (sign == '+' || is_print) { return end; }
    while (line > 0 && text[line - 1] != '\n') { line--; }
    if (line == 0 && !lexer->line_starting) { return end; }
    return hd_tpl_space_run(text + line, n - line) == n - line ? begin + line : end;
}

/* The sign after "{%", "{{" or "{#" at lexer->at, which moves behind it. */
static char take_sign(hd_tpl_lexer *lexer)
{
    char c = left(lexer) > 0 ? *rest(lexer) : '\0';
    if (c != '-' && c != '+') { return '\0'; }
    lexer->at++;
    return c;
}

static hd_status skip_comment(hd_tpl_lexer *lexer, size_t begin)
{
    size_t from = lexer->at;
    hd_tpl_value source = hd_tpl_text(lexer->run->source, lexer->run->n_source);
    size_t end = hd_tpl_find_text(source, hd_tpl_text("#}", 2), from);
    if (from == source.n) { return HD_OK; } /* Jinja2 lets one that is nothing but its beginning pass */
    if (end == SIZE_MAX) { return fail_at(lexer, begin, HD_E_CORRUPT, "the comment is not closed"); }
    char sign = end > from ? source.text[end - 1] : '\0';
    lexer->at = end + 2;
    end_tag(lexer, sign == '-' || sign == '+' ? sign : '\0', true);
    return HD_OK;
}

/* Whether "{% raw %}" opens at `at` (behind "{%" and its sign); moves behind it. */
static bool take_raw(hd_tpl_lexer *lexer)
{
    size_t start = lexer->at;
    bool line_starting = lexer->line_starting;
    skip_space(lexer);
    if (stands_at(lexer, lexer->at, "raw")) {
        lexer->at += 3;
        skip_space(lexer);
        bool strips = stands_at(lexer, lexer->at, "-%}");
        if (strips || stands_at(lexer, lexer->at, "%}")) {
            lexer->at += strips ? 3 : 2;
            end_tag(lexer, strips ? '-' : '\0', false);
            return true;
        }
    }
    lexer->at = start;
    lexer->line_starting = line_starting;
    return false;
}

/* The text of a raw block up to {% endraw %}. */
static hd_status read_raw(hd_tpl_lexer *lexer, size_t begin, hd_tpl_token *token)
{
    size_t from = lexer->at;
    hd_tpl_value source = hd_tpl_text(lexer->run->source, lexer->run->n_source);
    for (size_t open = from; (open = hd_tpl_find_text(source, hd_tpl_text("{%", 2), open)) != SIZE_MAX; open += 2) {
        bool line_starting = lexer->line_starting;
        lexer->at = open + 2;
        char sign = take_sign(lexer);
        skip_space(lexer);
        if (stands_at(lexer, lexer->at, "endraw")) {
            lexer->at += 6;
            skip_space(lexer);
            char c = left(lexer) > 0 ? *rest(lexer) : '\0';
            char end_sign = c == '-' || c == '+' ? c : '\0';
            if (stands_at(lexer, lexer->at + (end_sign != '\0'), "%}")) {
                lexer->line_starting = line_starting;
                size_t end = strip_before(lexer, from, open, sign, false);
                *token = (hd_tpl_token){.type = HD_TPL_TOKEN_DATA, .at = from, .text = source.text + from, .n = end - from};
                lexer->at += 2 + (end_sign != '\0');
                end_tag(lexer, end_sign, true);
                return HD_OK;
            }
        }
        lexer->line_starting = line_starting;
    }
    *token = (hd_tpl_token){.type = HD_TPL_TOKEN_DATA, .at = from, .text = source.text + from};
    lexer->at = from;
    return from == source.n ? HD_OK : fail_at(lexer, begin, HD_E_CORRUPT, "the raw block is not closed");
}

/* The next "{%", "{{" or "{#"; SIZE_MAX when none comes. */
static size_t find_tag(const hd_tpl_lexer *lexer)
{
    hd_tpl_value source = hd_tpl_text(lexer->run->source, lexer->run->n_source);
    for (size_t at = lexer->at; (at = hd_tpl_find_text(source, hd_tpl_text("{", 1), at)) != SIZE_MAX; at++) {
        char c = at + 1 < source.n ? source.text[at + 1] : '\0';
        if (c == '%' || c == '{' || c == '#') { return at; }
    }
    return SIZE_MAX;
}

/* Reads text up to the next tag and opens the tag.  The text comes first as a token, the opening of the tag is kept for later. */
static hd_status read_text(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    const char *source = lexer->run->source;
    size_t begin = lexer->at, open = find_tag(lexer), end;
    hd_status st = HD_OK;
    if (open == SIZE_MAX) {
        lexer->at = lexer->run->n_source;
        bool any = lexer->at > begin;
        *token =
            (hd_tpl_token){.type = any ? HD_TPL_TOKEN_DATA : HD_TPL_TOKEN_END, .at = begin, .text = source + begin, .n = lexer->at - begin};
        return HD_OK;
    }
    lexer->at = open + 2;
    char kind = source[open + 1], sign = take_sign(lexer);
    end = strip_before(lexer, begin, open, sign, kind == '{');
    lexer->line_starting = false;
    *token = (hd_tpl_token){.type = HD_TPL_TOKEN_DATA, .at = begin, .text = source + begin, .n = end - begin};
    if (kind == '#') { return skip_comment(lexer, open); }
    if (kind == '%' && take_raw(lexer)) {
        if (token->n == 0) { return read_raw(lexer, open, token); }
        lexer->pending = HD_TPL_TOKEN_DATA;
    } else {
        lexer->state = kind == '{' ? HD_TPL_IN_PRINT : HD_TPL_IN_BLOCK;
        lexer->pending = kind == '{' ? HD_TPL_TOKEN_PRINT_BEGIN : HD_TPL_TOKEN_BLOCK_BEGIN;
    }
    lexer->pending_at = open;
    return st;
}

/* ---- strings and numbers --------------------------------------------------------------------------------------------- */

static int digit_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

/* Digits of a base from p, at most max of them; *n is how many there were. */
static uint32_t read_digits(const char *p, const char *end, uint32_t base, size_t max, size_t *n)
{
    uint32_t value = 0;
    for (*n = 0; *n < max && p + *n < end && digit_value(p[*n]) < (int)base; ++*n) { value = value * base + (uint32_t)digit_value(p[*n]); }
    return value;
}

/* One escape (p behind the backslash, p < end): its bytes go to out, *n_out of them; the bytes read are returned, 0: refused. */
static size_t read_escape(const char *p, const char *end, char out[4], size_t *n_out)
{
    static const char names[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
    const char *found = *p != '\0' ? strchr(names, *p) : NULL;
    size_t n, wanted = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    uint32_t code;
    *n_out = 0;
    if (found != NULL) { return out[(*n_out)++] = values[found - names], 1; }
    if (*p == '\n') { return 1; } /* continues the line */
    if (*p >= '0' && *p <= '7') {
        code = read_digits(p, end, 8, 3, &n);
        return *n_out = hd_utf8_encode(code, out), n;
    }
    if (wanted > 0) {
        code = read_digits(p + 1, end, 16, wanted, &n);
        if (n < wanted || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) { return 0; }
        return *n_out = hd_utf8_encode(code, out), 1 + n;
    }
    if ((unsigned char)*p >= 0x80 || *p == 'N') { return 0; }
    out[0] = '\\', out[1] = *p; /* stands for itself */
    return *n_out = 2, 1;
}

static hd_status read_string(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    const char *start = rest(lexer), *end = lexer->run->source + lexer->run->n_source, *p = start + 1;
    while (p < end && *p != *start) { p += *p == '\\' && p + 1 < end ? 2 : 1; }
    if (p >= end) { return fail_at(lexer, lexer->at, HD_E_CORRUPT, "the string is not closed"); }
    void *memory;
    hd_status st = hd_tpl_alloc(lexer->run, (size_t)(p - start), &memory);
    if (st != HD_OK) { return st; }
    char *decoded = memory;
    token->type = HD_TPL_TOKEN_STRING;
    token->text = decoded;
    for (const char *q = start + 1; q < p; q++) {
        size_t n_out, n;
        char bytes[4];
        if (*q != '\\') {
            decoded[token->n++] = *q;
            continue;
        }
        n = read_escape(q + 1, p, bytes, &n_out);
        if (n == 0) { return fail_at(lexer, (size_t)(q - lexer->run->source), HD_E_UNSUPPORTED, "an escape that is not supported here"); }
        memcpy(decoded + token->n, bytes, n_out); /* never longer than its escape */
        token->n += n_out;
        q += n;
    }
    lexer->at = (size_t)(p + 1 - lexer->run->source);
    return HD_OK;
}

/* Digits with single underscores between them; returns how many characters, 0: none. */
static size_t digit_run(const char *p, const char *end, int base)
{
    const char *q = p;
    while (q < end && (digit_value(*q) < base || (*q == '_' && q > p && q + 1 < end && digit_value(q[1]) < base))) { q++; }
    return (size_t)(q - p);
}

static hd_status read_float(hd_tpl_lexer *lexer, const char *p, const char *end, hd_tpl_token *token)
{
    char text[64];
    size_t n = 0;
    for (; p < end && n + 1 < sizeof text; p++) {
        if (*p != '_') { text[n++] = *p; }
    }
    text[n] = '\0';
    if (p < end) { return fail_at(lexer, lexer->at, HD_E_UNSUPPORTED, "a number of more than 63 characters"); }
    token->type = HD_TPL_TOKEN_FLOAT;
    token->f = strtod(text, NULL);
    return HD_OK;
}

static hd_status read_number(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    const char *start = rest(lexer), *end = lexer->run->source + lexer->run->n_source, *p = start + digit_run(start, end, 10);
    const char *fraction = p, *exponent;
    if (p + 1 < end && *p == '.' && digit_run(p + 1, end, 10) > 0) { fraction = p + 1 + digit_run(p + 1, end, 10); }
    exponent = fraction;
    if (fraction + 1 < end && (*fraction == 'e' || *fraction == 'E')) {
        const char *q = fraction + 1 + (fraction[1] == '+' || fraction[1] == '-');
        if (digit_run(q, end, 10) > 0) { exponent = q + digit_run(q, end, 10); }
    }
    bool after_dot = start > lexer->run->source && start[-1] == '.';
    if (exponent > p && !after_dot) {
        lexer->at = (size_t)(exponent - lexer->run->source);
        return read_float(lexer, start, exponent, token);
    }
    int base = 10;
    if (*start == '0') {
        char mark = start + 1 < end ? (char)(start[1] | 0x20) : '\0';
        base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
        const char *digits = start + 2 + (base != 10 && start + 2 < end && start[2] == '_');
        if (base != 10 && digit_run(digits, end, base) > 0) {
            p = digits + digit_run(digits, end, base);
        } else {
            base = 1; /* zeros only: what follows is another token */
            p = start + digit_run(start, end, 1);
        }
    }
    token->type = HD_TPL_TOKEN_INT;
    for (const char *q = start + (base == 16 || base == 8 || base == 2 ? 2 : 0); q < p; q++) {
        if (*q == '_') { continue; }
        if (__builtin_mul_overflow(token->i, base, &token->i) || __builtin_add_overflow(token->i, digit_value(*q), &token->i)) {
            return fail_at(lexer, lexer->at, HD_E_UNSUPPORTED, "an integer beyond 64 bits");
        }
    }
    lexer->at = (size_t)(p - lexer->run->source);
    return HD_OK;
}

/* ---- within tags ----------------------------------------------------------------------------------------------------- */

static bool is_name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (!first && c >= '0' && c <= '9');
}

/* Whether the tag ends here; moves behind the end. */
static bool take_end(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    bool is_print = lexer->state == HD_TPL_IN_PRINT;
    char c = left(lexer) > 0 ? *rest(lexer) : '\0';
    char sign = c == '-' || (c == '+' && !is_print) ? c : '\0';
    size_t skip = sign != '\0';
    if (lexer->n_bracket > 0 || !stands_at(lexer, lexer->at + skip, is_print ? "}}" : "%}")) { return false; }
    token->type = is_print ? HD_TPL_TOKEN_PRINT_END : HD_TPL_TOKEN_BLOCK_END;
    lexer->at += skip + 2;
    lexer->state = HD_TPL_IN_TEXT;
    end_tag(lexer, sign, !is_print);
    return true;
}

static hd_status read_operator(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = *rest(lexer);
    token->type = HD_TPL_TOKEN_OPERATOR;
    token->text = rest(lexer);
    token->n = 1;
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++) {
        if (stands_at(lexer, lexer->at, two[i])) { token->n = 2; }
    }
    if (token->n == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL)) {
        return fail_at(lexer, lexer->at, HD_E_CORRUPT,
                       (unsigned char)c >= 0x80 ? "names of ASCII letters only" : "a character that begins nothing");
    }
    if (c == '(' || c == '[' || c == '{') {
        if (lexer->n_bracket == HD_TPL_MAX_BRACKETS) { return fail_at(lexer, lexer->at, HD_E_UNSUPPORTED, "brackets nested too deep"); }
        lexer->brackets[lexer->n_bracket++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (lexer->n_bracket == 0 || lexer->brackets[lexer->n_bracket - 1] != c) {
            return fail_at(lexer, lexer->at, HD_E_CORRUPT, "a closing bracket that nothing opened");
        }
        lexer->n_bracket--;
    }
    lexer->at += token->n;
    return HD_OK;
}

static hd_status read_in_tag(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    for (;;) { /* the end of a tag is looked for before white space, as "-" before it belongs to it */
        *token = (hd_tpl_token){.at = lexer->at};
        if (left(lexer) == 0) { return fail_at(lexer, lexer->at, HD_E_CORRUPT, "the template ends within a tag"); }
        if (take_end(lexer, token)) { return HD_OK; }
        if (hd_tpl_space_run(rest(lexer), left(lexer)) == 0) { break; }
        skip_space(lexer);
    }
    lexer->line_starting = false;
    char c = *rest(lexer);
    if (c >= '0' && c <= '9') { return read_number(lexer, token); }
    if (c == '"' || c == '\'') { return read_string(lexer, token); }
    if (!is_name_char(c, true)) { return read_operator(lexer, token); }
    token->type = HD_TPL_TOKEN_NAME;
    token->text = rest(lexer);
    while (token->n < left(lexer) && is_name_char(token->text[token->n], false)) { token->n++; }
    lexer->at += token->n;
    if (left(lexer) > 0 && (unsigned char)*rest(lexer) >= 0x80 && hd_tpl_space_run(rest(lexer), left(lexer)) == 0) {
        return fail_at(lexer, lexer->at, HD_E_UNSUPPORTED, "names of ASCII letters only");
    }
    return HD_OK;
}

hd_status hd_tpl_lexer_next(hd_tpl_lexer *lexer, hd_tpl_token *token)
{
    for (;;) {
        hd_tpl_token_type pending = lexer->pending;
        lexer->pending = HD_TPL_TOKEN_END;
        if (pending == HD_TPL_TOKEN_DATA) {
            hd_status st = read_raw(lexer, lexer->pending_at, token);
            if (st != HD_OK || token->n > 0) { return st; }
            continue;
        }
        if (pending != HD_TPL_TOKEN_END) {
            *token = (hd_tpl_token){.type = pending, .at = lexer->pending_at};
            return HD_OK;
        }
        if (lexer->state != HD_TPL_IN_TEXT) { return read_in_tag(lexer, token); }
        hd_status st = read_text(lexer, token);
        if (st != HD_OK || token->type != HD_TPL_TOKEN_DATA || token->n > 0) { return st; }
    }
}
