/* Files of prompts.  See prompts.h. */
#include "infer/prompts.h"

#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/json.h"
#include "base/path.h"
#include "base/utf8.h"

static const size_t max_bytes = (size_t)1 << 31;

/* The prompt whose text was appended from `at` on. */
static hd_status add(hd_prompts *p, size_t at, size_t line, bool conversation, hd_err *err)
{
    hd_status st;
    HD_TRY(hd_buf_check(&p->text, err));
    if (p->n == p->capacity) {
        void *grown = p->list;
        size_t capacity = p->capacity == 0 ? 16 : 2 * p->capacity;
        HD_TRY(hd_realloc(&grown, p->capacity, capacity, sizeof *p->list, "prompts", err));
        p->list = grown;
        p->capacity = capacity;
    }
    p->list[p->n++] = (hd_prompt){.at = at, .n = p->text.n - at, .line = line, .conversation = conversation};
out:
    return st;
}

static hd_status add_text(hd_prompts *p, const char *text, size_t n, size_t line, hd_err *err)
{
    size_t bad, at = p->text.n;
    if (!hd_utf8_validate(text, n, &bad)) {
        return line == 0 ? HD_FAIL(err, HD_E_CORRUPT, "%s: not UTF-8: byte %zu is 0x%02X", p->name, bad + 1, (unsigned char)text[bad])
                         : HD_FAIL(err, HD_E_CORRUPT, "%s:%zu: not UTF-8: byte %zu of the line is 0x%02X", p->name, line, bad + 1,
                                   (unsigned char)text[bad]);
    }
    hd_buf_append(&p->text, text, n);
    return add(p, at, line, false, err);
}

/* ---- JSON lines ----------------------------------------------------------------------------------------------------------- */

static hd_status append_string(hd_json *json, hd_buf *out, hd_err *err)
{
    hd_json_str text;
    hd_status st = hd_json_string(json, &text, err);
    if (st == HD_OK) { hd_buf_append(out, text.text, text.n); }
    return st;
}

/* Appends the string under `column`, if there is one. */
static hd_status read_object(hd_json *json, const char *column, hd_buf *out, bool *conversation, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    bool more, found = false;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "messages")) {
            *conversation = true;
        } else if (hd_json_str_is(key, column)) {
            HD_TRY(append_string(json, out, err));
            found = true;
        }
    }
    if (!found && !*conversation) { st = hd_json_fail(json, err, "an object with neither \"%s\" nor \"messages\"", column); }
out:
    return st;
}

static hd_status add_json(hd_prompts *p, const char *line, size_t n, size_t number, const char *column, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_type type;
    bool conversation = false;
    size_t at = p->text.n;
    hd_buf name = {0};
    hd_buf_printf(&name, "%s:%zu", p->name, number);
    hd_json_open(&json, line, n, hd_buf_text(&name), HD_JSON_STRICT);
    HD_TRY(hd_json_peek(&json, &type, err));
    HD_TRY(type == HD_JSON_OBJECT ? read_object(&json, column, &p->text, &conversation, err) : append_string(&json, &p->text, err));
    HD_TRY(hd_json_end(&json, err));
    if (conversation) { /* the whole object: its other members are names for the template */
        p->text.n = at;
        hd_buf_append(&p->text, line, n);
    }
    HD_TRY(add(p, at, number, conversation, err));
out:
    hd_json_close(&json);
    hd_buf_free(&name);
    return st;
}

/* ---- the input --------------------------------------------------------------------------------------------------------------- */

/* The length of a line without "\n" or "\r\n"; *next is where the next one begins. */
static size_t cut_line(const char *text, size_t n, size_t *next)
{
    const char *newline = memchr(text, '\n', n);
    size_t length = newline != NULL ? (size_t)(newline - text) : n;
    *next = newline != NULL ? length + 1 : n;
    return length > 0 && text[length - 1] == '\r' ? length - 1 : length;
}

static bool is_blank(const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') { return false; }
    }
    return true;
}

static hd_status parse_lines(const char *data, size_t n, bool json, const char *column, hd_prompts *p, hd_err *err)
{
    hd_status st = HD_OK;
    size_t number = 1;
    for (size_t at = 0, next; at < n; at += next, number++) {
        size_t length = cut_line(data + at, n - at, &next);
        if (json ? is_blank(data + at, length) : length == 0) { continue; }
        HD_TRY(json ? add_json(p, data + at, length, number, column, err) : add_text(p, data + at, length, number, err));
    }
out:
    return st;
}

hd_status hd_prompts_parse(const char *data, size_t n, const char *name, hd_prompts_kind kind, const char *column, hd_prompts *p,
                           hd_err *err)
{
    hd_status st;
    p->name = name;
    if (kind == HD_PROMPTS_WHOLE) {
        size_t line = n > 0 && data[n - 1] == '\n' ? n - 1 : n; /* without the break at the end */
        if (line < n && line > 0 && data[line - 1] == '\r') { line--; }
        HD_TRY(line == 0 ? HD_OK : add_text(p, data, line, 0, err));
    } else {
        HD_TRY(parse_lines(data, n, kind == HD_PROMPTS_JSONL, column, p, err));
    }
    if (p->n == 0) { st = HD_FAIL(err, HD_E_CONFIG, "%s: there is no prompt in it", name); }
out:
    return st;
}

hd_status hd_prompts_from_config(const hd_config *config, const char *input, size_t n_input, hd_prompts *p, hd_err *err)
{
    hd_status st;
    char *file = NULL;
    const char *path = hd_config_str(config, HD_KEY_prompt_file), *prompt = hd_config_str(config, HD_KEY_prompt);
    const char *column = hd_config_is_set(config, HD_KEY_text_column) ? hd_config_str(config, HD_KEY_text_column) : "prompt";
    hd_prompts_kind kind = (hd_prompts_kind)hd_config_enum(config, HD_KEY_documents);
    p->name = "prompt";
    if (path != NULL) {
        if (hd_text_ends_with(path, ".jsonl") && !hd_config_is_set(config, HD_KEY_documents)) { kind = HD_PROMPTS_JSONL; }
        HD_TRY(hd_io_read_file(path, max_bytes, &file, &n_input, err));
        st = hd_prompts_parse(file, n_input, path, kind, column, p, err);
    } else if (prompt != NULL && strcmp(prompt, "-") == 0) {
        st = hd_prompts_parse(input != NULL ? input : "", n_input, "standard input", kind, column, p, err);
    } else {
        hd_buf_append_text(&p->text, prompt != NULL ? prompt : "");
        st = add(p, 0, 0, false, err);
    }
out:
    hd_free(file);
    return st;
}

const char *hd_prompts_text(const hd_prompts *p, size_t i)
{
    return hd_buf_text(&p->text) + p->list[i].at;
}

void hd_prompts_free(hd_prompts *p)
{
    hd_free(p->list);
    hd_buf_free(&p->text);
}
