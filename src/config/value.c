/* Typed values.  The type comes from the key table alone: 1e-5 is a float and yes a bool because the key says so.
 * See value.h. */
#include "config/value.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/utf8.h"

enum { QUOTED_LEN = 80, RAW_SHOWN_LEN = 160 };

/* A value inside a message: cut, control characters shown as '?'. */
static const char *shown(const char *text, char out[QUOTED_LEN])
{
    size_t n = strnlen(text, QUOTED_LEN - 4);
    while (text[n] != '\0' && n > 0 && ((unsigned char)text[n] & 0xC0u) == 0x80u) { n--; } /* not inside a character */
    for (size_t i = 0; i < n; i++) { out[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i]; }
    memcpy(out + n, text[n] != '\0' ? "..." : "", text[n] != '\0' ? 4 : 1);
    return out;
}

static hd_status unwanted(const hd_key_row *row, const char *wanted, const char *text, hd_err *err)
{
    char quoted[QUOTED_LEN];
    if ((row->flags & HD_FLAG_SECRET) != 0) { text = "(secret)"; }
    return HD_FAIL(err, HD_E_CONFIG, "%s: want %s, got '%s'", row->name, wanted, shown(text, quoted));
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

int hd_choice_index(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (int index = 0;; index++) {
        size_t len = strcspn(choices, "|");
        if (len == n && memcmp(choices, text, n) == 0) { return index; }
        if (choices[len] == '\0') { return -1; }
        choices += len + 1;
    }
}

/* The choices that are implemented. */
static void describe_choices(const hd_key_row *row, hd_buf *out)
{
    const char *separator = "one of ", *choices = row->check;
    hd_config_key key = hd_key_find(row->name);
    for (;;) {
        size_t len = strcspn(choices, "|");
        char choice[QUOTED_LEN] = {0};
        if (len < sizeof choice) { memcpy(choice, choices, len); }
        if (len > 0 && hd_key_refused_value(key, choice, HD_FOR_ALL) == NULL) {
            hd_buf_printf(out, "%s%s", separator, choice);
            separator = ", ";
        }
        if (choices[len] == '\0') { return; }
        choices += len + 1;
    }
}

/* One alternative of a number's check, "1..", "0<..1", "-1", "pow2", cut into its parts. */
typedef struct number_range {
    bool power_of_two, has_low, has_high, open_low;
    double low, high;
} number_range;

static number_range range_of(const char *text, size_t len)
{
    number_range r = {0};
    if (len == 4 && memcmp(text, "pow2", 4) == 0) {
        r.power_of_two = true;
        return r;
    }
    const char *dots = memmem(text, len, "..", 2);
    r.has_low = dots != text;
    if (r.has_low) { r.low = strtod(text, NULL); }
    if (dots == NULL) {
        r.has_high = true;
        r.high = r.low;
        return r;
    }
    r.open_low = dots != text && dots[-1] == '<';
    r.has_high = dots + 2 != text + len;
    if (r.has_high) { r.high = strtod(dots + 2, NULL); }
    return r;
}

static bool range_has(const number_range *r, double value)
{
    if (r->power_of_two) {
        int exponent;
        return value >= 1 && frexp(value, &exponent) == 0.5;
    }
    if (r->has_low && !(r->open_low ? value > r->low : value >= r->low)) { return false; }
    return !r->has_high || value <= r->high;
}

static void describe_range(const number_range *r, hd_buf *out)
{
    if (r->power_of_two) {
        hd_buf_append_text(out, "a power of two");
    } else if (r->has_low && r->has_high && r->low == r->high) {
        hd_buf_printf(out, "%.10g", r->low);
    } else if (r->has_low && r->has_high) {
        hd_buf_printf(out, r->open_low ? "above %.10g, at most %.10g" : "%.10g to %.10g", r->low, r->high);
    } else if (r->has_low) {
        hd_buf_printf(out, r->open_low ? "above %.10g" : "at least %.10g", r->low);
    } else if (r->has_high) {
        hd_buf_printf(out, "at most %.10g", r->high);
    }
}

static void describe_number(const char *check, hd_buf *out)
{
    const char *separator = "";
    for (;;) {
        size_t len = strcspn(check, "|");
        number_range r = range_of(check, len);
        hd_buf_append_text(out, separator);
        describe_range(&r, out);
        separator = " or ";
        if (check[len] == '\0') { return; }
        check += len + 1;
    }
}

void hd_check_describe(const hd_key_row *row, hd_buf *out)
{
    if (row->check[0] == '\0') { return; }
    if (row->type == HD_TYPE_ENUM) {
        describe_choices(row, out);
    } else {
        describe_number(row->check, out);
    }
}

static bool number_passes(const char *check, double value)
{
    while (check[0] != '\0') {
        size_t len = strcspn(check, "|");
        number_range r = range_of(check, len);
        if (range_has(&r, value)) { return true; }
        if (check[len] == '\0') { return false; }
        check += len + 1;
    }
    return true;
}

static hd_status check_number(const hd_key_row *row, double value, const char *text, hd_err *err)
{
    hd_buf wanted = {0};
    if (number_passes(row->check, value)) { return HD_OK; }
    describe_number(row->check, &wanted);
    hd_status st = unwanted(row, hd_buf_text(&wanted), text, err);
    hd_buf_free(&wanted);
    return st;
}

/* ---- scalars ---------------------------------------------------------------------------------------------------- */

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words != NULL; words++) {
        if (strcasecmp(text, *words) == 0) { return true; }
    }
    return false;
}

static hd_status parse_bool(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    static const char *const yes[] = {"true", "t", "yes", "y", "on", "1", NULL};
    static const char *const no[] = {"false", "f", "no", "n", "off", "0", NULL};
    out->boolean = is_one_of(text, yes);
    if (out->boolean || is_one_of(text, no)) { return HD_OK; }
    return unwanted(row, "true or false", text, err);
}

enum { NUMBER_LEN = 64 };

/* Copies a number without the underscores between its digits; false when it is too long to be one or begins with
 * something no number begins with (strtod would take white space, "inf", "nan" and hexadecimal). */
static bool tidy_number(const char *text, char out[NUMBER_LEN])
{
    size_t n = 0;
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '_' && p != text && p[1] != '\0') { continue; }
        if (strchr("+-.0123456789eE", *p) == NULL || n + 1 == NUMBER_LEN) { return false; }
        out[n++] = *p;
    }
    out[n] = '\0';
    return strpbrk(out, "0123456789") != NULL;
}

static bool read_real(const char *text, double *out)
{
    char tidy[NUMBER_LEN], *end;
    if (!tidy_number(text, tidy)) { return false; }
    *out = strtod(tidy, &end);
    return *end == '\0' && end != tidy && isfinite(*out);
}

static bool read_integer(const char *text, int64_t *out)
{
    char tidy[NUMBER_LEN], *end;
    double real;
    if (!tidy_number(text, tidy)) { return false; }
    errno = 0;
    long long whole = strtoll(tidy, &end, 10);
    if (*end == '\0' && errno == 0) {
        *out = whole;
        return true;
    }
    /* 1e3 and 5.0 are integers too. */
    if (!read_real(text, &real) || real != floor(real) || fabs(real) > 9007199254740992.0) { return false; }
    *out = (int64_t)real;
    return true;
}

static hd_status parse_int(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    if (!read_integer(text, &out->integer)) { return unwanted(row, "an integer", text, err); }
    return check_number(row, (double)out->integer, text, err);
}

static hd_status parse_float(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    if (!read_real(text, &out->real)) { return unwanted(row, "a finite number", text, err); }
    return check_number(row, out->real, text, err);
}

static hd_status parse_enum(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    hd_buf wanted = {0};
    out->choice = hd_choice_index(row->check, text);
    if (out->choice >= 0) { return hd_strdup(text, &out->text, err); }
    describe_choices(row, &wanted);
    hd_status st = unwanted(row, hd_buf_text(&wanted), text, err);
    hd_buf_free(&wanted);
    return st;
}

/* Null: only where the key may be null or has an empty form. */
static hd_status parse_null(const hd_key_row *row, hd_value *out, hd_err *err)
{
    if (row->type == HD_TYPE_ENUM && hd_choice_index(row->check, "") >= 0) { return parse_enum(row, "", out, err); }
    out->is_null = true;
    if ((row->flags & HD_FLAG_NULLABLE) != 0 || row->type == HD_TYPE_STR || row->type == HD_TYPE_RAW ||
        row->type == HD_TYPE_LIST) {
        return HD_OK;
    }
    return HD_FAIL(err, HD_E_CONFIG, "%s: want a value, got null", row->name);
}

static bool means_null(const char *text, bool plain)
{
    if (strcasecmp(text, "none") == 0) { return true; } /* quoted or not, as MaxText cleans it up */
    return plain && (text[0] == '\0' || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

static hd_status parse_text(const char *text, hd_value *out, hd_err *err)
{
    out->is_null = text[0] == '\0';
    return out->is_null ? HD_OK : hd_strdup(text, &out->text, err);
}

static hd_status parse_scalar(const hd_key_row *row, const char *text, bool plain, hd_value *out, hd_err *err)
{
    if (means_null(text, plain)) { return parse_null(row, out, err); }
    switch (row->type) {
    case HD_TYPE_BOOL: return parse_bool(row, text, out, err);
    case HD_TYPE_INT: return parse_int(row, text, out, err);
    case HD_TYPE_FLOAT: return parse_float(row, text, out, err);
    case HD_TYPE_ENUM: return parse_enum(row, text, out, err);
    case HD_TYPE_STR:
    case HD_TYPE_RAW: return parse_text(text, out, err);
    case HD_TYPE_LIST: break;
    }
    return unwanted(row, "a list", text, err);
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */

static hd_status copy_items(const char *const *items, size_t n, hd_value *out, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(hd_alloc(n, sizeof *out->items, "list", (void **)&out->items, err));
    for (size_t i = 0; i < n; i++) {
        HD_TRY(hd_strdup(items[i], &out->items[i], err));
        out->n_items++;
    }
out:
    return st;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') { return c - '0'; }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The digits of \xNN, \uNNNN or \UNNNNNNNN; false when one is missing or the character may not be in a text. */
static bool read_code(const char **p, int n_digits, hd_buf *out)
{
    char bytes[4];
    uint32_t code = 0;
    for (int i = 0; i < n_digits; i++) {
        int digit = hex_digit((*p)[1]);
        if (digit < 0) { return false; }
        code = code << 4 | (uint32_t)digit;
        (*p)++;
    }
    if (code == 0) { return false; }
    hd_buf_append(out, bytes, hd_utf8_encode(code, bytes));
    return true;
}

/* The escape of a double-quoted scalar whose letter *p points at, and stays at its last character. */
static bool read_escape(const char **p, hd_buf *out)
{
    static const char letters[] = "abtnvfre\"/\\", meanings[] = "\a\b\t\n\v\f\r\x1B\"/\\";
    char c = **p;
    if (c == 'x' || c == 'u' || c == 'U') { return read_code(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, out); }
    const char *at = c != '\0' ? strchr(letters, c) : NULL;
    if (at != NULL) { hd_buf_append_char(out, meanings[at - letters]); }
    return at != NULL;
}

static void skip_blanks(const char **p) { *p += strspn(*p, " \t\r\n"); }

/* A quoted scalar at *p, which moves behind it.  false: no end, or an unknown escape. */
static bool read_quoted(const char **p, hd_buf *out)
{
    char quote = **p;
    for ((*p)++; **p != '\0'; (*p)++) {
        if (**p == quote && !(quote == '\'' && (*p)[1] == '\'')) {
            (*p)++;
            return true;
        }
        if (quote == '"' && **p == '\\') {
            (*p)++;
            if (!read_escape(p, out)) { return false; }
            continue;
        }
        if (**p == quote) { (*p)++; } /* '' */
        hd_buf_append_char(out, **p);
    }
    return false;
}

/* One item of a flow list: quoted, or plain up to ',' or ']'.  false: malformed. */
static bool read_item(const char **p, hd_buf *item)
{
    char quote = **p;
    if (quote == '"' || quote == '\'') { return read_quoted(p, item); }
    size_t n = strcspn(*p, ",]");
    const char *begin = *p;
    *p += n;
    while (n > 0 && strchr(" \t\r\n", begin[n - 1]) != NULL) { n--; }
    hd_buf_append(item, begin, n);
    return n > 0 && memchr(begin, '[', n) == NULL && memchr(begin, '{', n) == NULL;
}

/* "[a, 'b']" as it comes from a command line or inside a quoted scalar. */
static hd_status parse_flow_list(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf item = {0};
    const char *p = text + 1;
    for (skip_blanks(&p); *p != ']'; skip_blanks(&p)) {
        hd_buf_clear(&item);
        if (!read_item(&p, &item)) { goto malformed; }
        HD_TRY(hd_buf_check(&item, err));
        HD_TRY(hd_realloc((void **)&out->items, out->n_items, out->n_items + 1, sizeof *out->items, "list", err));
        HD_TRY(hd_strdup(hd_buf_text(&item), &out->items[out->n_items], err));
        out->n_items++;
        skip_blanks(&p);
        if (*p == ',') {
            p++;
        } else if (*p != ']') {
            goto malformed;
        }
    }
    p++;
    skip_blanks(&p);
    if (*p == '\0') { goto out; }
malformed:
    st = unwanted(row, "a list such as [a, b]", text, err);
out:
    hd_buf_free(&item);
    return st;
}

static hd_status parse_list_scalar(const hd_key_row *row, const char *text, bool plain, hd_value *out, hd_err *err)
{
    const char *p = text;
    skip_blanks(&p);
    if (means_null(text, plain)) { return HD_OK; }
    if (*p == '[') { return parse_flow_list(row, p, out, err); }
    if ((row->flags & HD_FLAG_BARE_LIST) == 0) { return unwanted(row, "a list such as [a, b]", text, err); }
    return copy_items(&text, 1, out, err);
}

/* ---- sources ---------------------------------------------------------------------------------------------------- */

hd_status hd_value_parse(const hd_key_row *row, hd_source_text in, hd_value *out, hd_err *err)
{
    *out = (hd_value){0};
    hd_status st;
    if (in.scalar == NULL && row->type != HD_TYPE_LIST) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: want one value (%s), got a list", row->name, hd_key_type_title(row->type));
    } else if (in.scalar == NULL) {
        st = copy_items(in.items, in.n_items, out, err);
    } else if (row->type == HD_TYPE_LIST) {
        st = parse_list_scalar(row, in.scalar, in.plain, out, err);
    } else {
        st = parse_scalar(row, in.scalar, in.plain, out, err);
    }
    if (st != HD_OK) { hd_value_free(out); }
    return st;
}

hd_status hd_value_parse_env(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    *out = (hd_value){0};
    if (row->type == HD_TYPE_LIST || row->type == HD_TYPE_RAW) {
        return HD_FAIL(err, HD_E_CONFIG, "%s is a list, which the environment cannot set; use a file or the command line",
                       row->name);
    }
    return hd_value_parse(row, (hd_source_text){.scalar = text, .plain = true}, out, err);
}

/* Takes the quotes off, when text is one quoted YAML scalar and nothing else. */
static bool unquote(const char *text, hd_buf *out)
{
    const char *p = text;
    return (text[0] == '"' || text[0] == '\'') && read_quoted(&p, out) && *p == '\0';
}

hd_status hd_value_parse_argument(const hd_key_row *row, const char *text, hd_value *out, hd_err *err)
{
    hd_buf bare = {0};
    hd_source_text in = {.scalar = text, .plain = true};
    hd_status st = HD_OK;
    *out = (hd_value){0};
    if (row->type != HD_TYPE_RAW && unquote(text, &bare)) {
        HD_TRY(hd_buf_check(&bare, err));
        in = (hd_source_text){.scalar = hd_buf_text(&bare), .plain = false};
    }
    st = hd_value_parse(row, in, out, err);
out:
    hd_buf_free(&bare);
    return st;
}

hd_status hd_value_default(const hd_key_row *row, hd_value *out, hd_err *err)
{
    *out = (hd_value){0};
    if (row->default_text == NULL) { return HD_OK; } /* derived: filled in later */
    return hd_value_parse(row, (hd_source_text){.scalar = row->default_text, .plain = true}, out, err);
}

hd_status hd_value_copy(const hd_value *value, hd_value *out, hd_err *err)
{
    hd_status st = HD_OK;
    *out = *value;
    out->text = NULL;
    out->items = NULL;
    out->n_items = 0;
    if (value->text != NULL) { HD_TRY(hd_strdup(value->text, &out->text, err)); }
    st = copy_items((const char *const *)value->items, value->n_items, out, err);
out:
    if (st != HD_OK) { hd_value_free(out); }
    return st;
}

static bool same_text(const char *a, const char *b) { return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0); }

static bool same_items(const hd_value *a, const hd_value *b)
{
    if (a->n_items != b->n_items) { return false; }
    for (size_t i = 0; i < a->n_items; i++) {
        if (strcmp(a->items[i], b->items[i]) != 0) { return false; }
    }
    return true;
}

bool hd_value_equal(const hd_key_row *row, const hd_value *a, const hd_value *b)
{
    if (row->type == HD_TYPE_LIST) { return same_items(a, b); }
    if (a->is_null || b->is_null) { return a->is_null == b->is_null; }
    switch (row->type) {
    case HD_TYPE_BOOL: return a->boolean == b->boolean;
    case HD_TYPE_INT: return a->integer == b->integer;
    case HD_TYPE_FLOAT: return a->real == b->real;
    default: return same_text(a->text, b->text);
    }
}

void hd_value_free(hd_value *value)
{
    for (size_t i = 0; i < value->n_items; i++) { hd_free(value->items[i]); }
    hd_free(value->items);
    hd_free(value->text);
    *value = (hd_value){0};
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* The shortest decimal text that reads back as the same double, recognisable as a float. */
static void write_real(double value, hd_buf *out)
{
    char text[NUMBER_LEN];
    if (value == floor(value) && fabs(value) < 1e15) {
        hd_buf_printf(out, "%.1f", value);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) { break; }
    }
    hd_buf_append_text(out, text);
}

/* Plain text that YAML, and a reader, cannot take for something else. */
static bool can_stand_plain(const char *text)
{
    static const char *const taken[] = {"null", "~", "none", "true", "false", "yes", "no", "on", "off", NULL};
    double ignored;
    if (text[0] == '\0' || is_one_of(text, taken) || read_real(text, &ignored)) { return false; }
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        bool inner = p != text && strchr("-.,+@~", c) != NULL;
        bool always = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '/';
        if (!always && !inner && !(c == '.' && p == text)) { return false; }
    }
    return true;
}

static void write_text(const char *text, bool in_list, hd_buf *out)
{
    if (can_stand_plain(text) && !(in_list && strchr(text, ',') != NULL)) {
        hd_buf_append_text(out, text);
        return;
    }
    hd_buf_append_char(out, '"');
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\') {
            hd_buf_printf(out, "\\%c", c);
        } else if (c == '\n') {
            hd_buf_append_text(out, "\\n");
        } else if (c < 0x20 || c == 0x7F) {
            hd_buf_printf(out, "\\x%02X", c);
        } else if (c == 0xC2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xA0) {
            hd_buf_printf(out, "\\x%02X", (unsigned char)*++p); /* C1 controls */
        } else {
            hd_buf_append_char(out, (char)c);
        }
    }
    hd_buf_append_char(out, '"');
}

/* A node's text on one line, cut: it is shown and never read back. */
static void write_raw(const char *text, hd_buf *out)
{
    size_t begin = out->n;
    for (const char *p = text; *p != '\0'; p++) {
        bool blank = strchr(" \t\r\n", *p) != NULL;
        if (out->n - begin > RAW_SHOWN_LEN && ((unsigned char)*p & 0xC0u) != 0x80u) {
            hd_buf_append_text(out, "...");
            return;
        }
        if (!blank || (out->n > begin && out->data[out->n - 1] != ' ')) { hd_buf_append_char(out, blank ? ' ' : *p); }
    }
}

void hd_value_write(const hd_key_row *row, const hd_value *value, hd_buf *out)
{
    if (row->type == HD_TYPE_LIST) {
        hd_buf_append_char(out, '[');
        for (size_t i = 0; i < value->n_items; i++) {
            if (i > 0) { hd_buf_append_text(out, ", "); }
            write_text(value->items[i], true, out);
        }
        hd_buf_append_char(out, ']');
    } else if (value->is_null && row->type == HD_TYPE_STR && (row->flags & HD_FLAG_NULLABLE) == 0) {
        hd_buf_append_text(out, "\"\"");
    } else if (value->is_null) {
        hd_buf_append_text(out, "null");
    } else if (row->type == HD_TYPE_BOOL) {
        hd_buf_append_text(out, value->boolean ? "true" : "false");
    } else if (row->type == HD_TYPE_INT) {
        hd_buf_printf(out, "%lld", (long long)value->integer);
    } else if (row->type == HD_TYPE_FLOAT) {
        write_real(value->real, out);
    } else if (row->type == HD_TYPE_RAW) {
        write_raw(value->text, out);
    } else {
        write_text(value->text, false, out);
    }
}
