/* Scans a configuration file event by event; no tree is built and nothing is expanded.  See yaml_file.h. */
#include "config/yaml_file.h"

#include <string.h>
#include <yaml.h>

#include "base/alloc.h"
#include "base/utf8.h"

/* Seen keys in an open hash table: duplicates are found in time linear in the file. */
enum { SLOTS = 2 * HD_YAML_MAX_KEYS };

typedef struct seen_key {
    char *name; /* NULL: free slot */
    int line;
} seen_key;

typedef struct scan {
    const char *name, *text;
    size_t n;
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    int n_events;
    seen_key *seen; /* SLOTS */
    int n_keys;
    hd_buf arena;       /* texts of the items of the current list, NUL-separated */
    const char **items; /* into arena */
    size_t n_items, items_capacity;
} scan;

static hd_status fail_at(const scan *s, size_t line, size_t column, const char *what, hd_err *err)
{
    return HD_FAIL(err, HD_E_CONFIG, "%s:%zu:%zu: %s", s->name, line + 1, column + 1, what);
}

static hd_status fail_here(const scan *s, const char *what, hd_err *err)
{
    return fail_at(s, s->event.start_mark.line, s->event.start_mark.column, what, err);
}

/* libyaml gives a byte offset, not a mark, for what is no text at all. */
static hd_status reader_error(const scan *s, hd_err *err)
{
    size_t line = 0, begin = 0, end = s->parser.problem_offset < s->n ? s->parser.problem_offset : s->n;
    for (size_t i = 0; i < end; i++) {
        if (s->text[i] == '\n') {
            line++;
            begin = i + 1;
        }
    }
    return HD_FAIL(err, HD_E_CONFIG, "%s:%zu:%zu: %s", s->name, line + 1, end - begin + 1,
                   s->parser.problem != NULL ? s->parser.problem : "not text");
}

static hd_status parser_error(const scan *s, hd_err *err)
{
    const yaml_parser_t *p = &s->parser;
    if (p->error == YAML_MEMORY_ERROR) { return HD_FAIL(err, HD_E_NOMEM, "%s: out of memory", s->name); }
    if (p->error == YAML_READER_ERROR) { return reader_error(s, err); }
    return HD_FAIL(err, HD_E_CONFIG, "%s:%zu:%zu: %s%s%s", s->name, p->problem_mark.line + 1, p->problem_mark.column + 1,
                   p->problem != NULL ? p->problem : "not YAML", p->context != NULL ? ", " : "",
                   p->context != NULL ? p->context : "");
}

/* The next event replaces the last. */
static hd_status next(scan *s, hd_err *err)
{
    if (s->has_event) { yaml_event_delete(&s->event); }
    s->has_event = false;
    if (!yaml_parser_parse(&s->parser, &s->event)) { return parser_error(s, err); }
    s->has_event = true;
    if (++s->n_events > HD_YAML_MAX_EVENTS) { return fail_here(s, "too many values for a configuration file", err); }
    return HD_OK;
}

static const char *scalar_text(const scan *s) { return (const char *)s->event.data.scalar.value; }

static hd_status check_scalar(const scan *s, hd_err *err)
{
    const char *text = scalar_text(s);
    size_t n = s->event.data.scalar.length;
    if (memchr(text, '\0', n) != NULL) { return fail_here(s, "a value may not contain a NUL character", err); }
    if (!hd_utf8_validate(text, n, NULL)) { return fail_here(s, "a value is not well-formed UTF-8", err); }
    return HD_OK;
}

/* ---- one entry -------------------------------------------------------------------------------------------------- */

static hd_status remember_key(scan *s, const char *key, int line, hd_err *err)
{
    uint32_t hash = 2166136261u;
    for (const char *p = key; *p != '\0'; p++) { hash = (hash ^ (unsigned char)*p) * 16777619u; }
    size_t slot = hash % SLOTS;
    while (s->seen[slot].name != NULL && strcmp(s->seen[slot].name, key) != 0) { slot = (slot + 1) % SLOTS; }
    if (s->seen[slot].name != NULL) {
        return HD_FAIL(err, HD_E_CONFIG, "%s:%zu:%zu: key '%.100s' stands twice; it was set in line %d", s->name,
                       s->event.start_mark.line + 1, s->event.start_mark.column + 1, key, s->seen[slot].line);
    }
    if (++s->n_keys > HD_YAML_MAX_KEYS) { return fail_here(s, "too many keys", err); }
    s->seen[slot].line = line;
    return hd_strdup(key, &s->seen[slot].name, err);
}

/* Reads a list.  Items that are scalars go to the arena; anything else only sets *nested and is skipped. */
static hd_status read_list_items(scan *s, bool *nested, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf_clear(&s->arena);
    s->n_items = 0;
    for (int depth = 1;;) {
        HD_TRY(next(s, err));
        switch (s->event.type) {
        case YAML_SCALAR_EVENT:
            HD_TRY(check_scalar(s, err));
            if (depth == 1) {
                hd_buf_append(&s->arena, scalar_text(s), s->event.data.scalar.length + 1);
                s->n_items++;
            }
            break;
        case YAML_SEQUENCE_START_EVENT:
        case YAML_MAPPING_START_EVENT:
            *nested = true;
            if (++depth > HD_YAML_MAX_DEPTH) {
                st = fail_here(s, "nested too deeply", err);
                goto out;
            }
            break;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
            if (--depth == 0) { goto out; }
            break;
        default:
            st = fail_here(s, "aliases (*name) are not used in configuration files; write the value out", err);
            goto out;
        }
    }
out:
    return st == HD_OK ? hd_buf_check(&s->arena, err) : st;
}

/* Points items at the texts of the arena. */
static hd_status index_items(scan *s, hd_err *err)
{
    hd_status st = HD_OK;
    if (s->n_items > s->items_capacity) {
        HD_TRY(hd_realloc((void **)&s->items, s->items_capacity, s->n_items, sizeof *s->items, "list", err));
        s->items_capacity = s->n_items;
    }
    const char *text = s->arena.data;
    for (size_t i = 0; i < s->n_items; i++) {
        s->items[i] = text;
        text += strlen(text) + 1;
    }
out:
    return st;
}

/* Reads the node that follows a key. */
static hd_status read_value(scan *s, hd_yaml_entry *entry, hd_buf *scalar, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(next(s, err));
    entry->begin = s->event.start_mark.index;
    if (s->event.type == YAML_SCALAR_EVENT) {
        HD_TRY(check_scalar(s, err));
        hd_buf_append(scalar, scalar_text(s), s->event.data.scalar.length);
        HD_TRY(hd_buf_check(scalar, err));
        entry->value.scalar = hd_buf_text(scalar);
        entry->value.plain = s->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    } else if (s->event.type == YAML_SEQUENCE_START_EVENT) {
        HD_TRY(read_list_items(s, &entry->nested, err));
        HD_TRY(index_items(s, err));
        entry->value.items = s->items;
        entry->value.n_items = s->n_items;
    } else if (s->event.type == YAML_MAPPING_START_EVENT) {
        entry->nested = true;
        HD_TRY(read_list_items(s, &entry->nested, err));
        s->n_items = 0;
    } else {
        st = fail_here(s, "aliases (*name) are not used in configuration files; write the value out", err);
        goto out;
    }
    entry->end = s->event.end_mark.index;
    entry->file_text = s->text;
out:
    return st;
}

static hd_status read_entry(scan *s, hd_yaml_visit visit, void *context, hd_err *err)
{
    hd_status st = HD_OK;
    hd_yaml_entry entry = {0};
    hd_buf key = {0}, scalar = {0};
    size_t line = s->event.start_mark.line, column = s->event.start_mark.column;
    if (s->event.type != YAML_SCALAR_EVENT) {
        st = fail_here(s, "want key: value", err);
        goto out;
    }
    HD_TRY(check_scalar(s, err));
    hd_buf_append(&key, scalar_text(s), s->event.data.scalar.length);
    HD_TRY(hd_buf_check(&key, err));
    entry.key = hd_buf_text(&key);
    entry.line = (int)line + 1;
    entry.column = (int)column + 1;
    HD_TRY(remember_key(s, entry.key, entry.line, err));
    HD_TRY(read_value(s, &entry, &scalar, err));
    st = visit(context, &entry, err);
    if (st != HD_OK && st != HD_E_NOMEM) { hd_err_prefix(err, "%s:%zu:%zu: ", s->name, line + 1, column + 1); }
out:
    hd_buf_free(&key);
    hd_buf_free(&scalar);
    return st;
}

/* Steps over characters of UTF-8 that libyaml has accepted. */
static const char *step(const char *text, size_t characters)
{
    for (; characters > 0 && *text != '\0'; characters--) {
        for (text++; ((unsigned char)*text & 0xC0u) == 0x80u; text++) {}
    }
    return text;
}

const char *hd_yaml_raw(const hd_yaml_entry *entry, size_t *n)
{
    const char *begin = step(entry->file_text, entry->begin);
    *n = (size_t)(step(begin, entry->end - entry->begin) - begin);
    return begin;
}

/* ---- the document ----------------------------------------------------------------------------------------------- */

static hd_status read_document(scan *s, hd_yaml_visit visit, void *context, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(next(s, err)); /* the stream */
    HD_TRY(next(s, err));
    if (s->event.type == YAML_STREAM_END_EVENT) { goto out; } /* an empty file sets nothing */
    HD_TRY(next(s, err));
    if (s->event.type == YAML_SCALAR_EVENT && s->event.data.scalar.length == 0) {
        HD_TRY(next(s, err)); /* "---" and nothing */
    } else if (s->event.type != YAML_MAPPING_START_EVENT) {
        st = fail_here(s, "want lines of key: value", err);
        goto out;
    } else {
        for (;;) {
            HD_TRY(next(s, err));
            if (s->event.type == YAML_MAPPING_END_EVENT) { break; }
            HD_TRY(read_entry(s, visit, context, err));
        }
        HD_TRY(next(s, err));
    }
    HD_TRY(next(s, err)); /* after the document's end */
    if (s->event.type != YAML_STREAM_END_EVENT) { st = fail_here(s, "a second document; want one", err); }
out:
    return st;
}

hd_status hd_yaml_scan(const char *name, const char *text, size_t n, hd_yaml_visit visit, void *context, hd_err *err)
{
    hd_status st = HD_OK;
    size_t mark = n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0; /* a byte order mark */
    scan s = {.name = name, .text = text + mark, .n = n - mark};
    if (n > HD_YAML_MAX_BYTES) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: %zu bytes, want at most %d in a configuration file", name, n, HD_YAML_MAX_BYTES);
    }
    if (!yaml_parser_initialize(&s.parser)) { return HD_FAIL(err, HD_E_NOMEM, "%s: out of memory", name); }
    HD_TRY(hd_alloc(SLOTS, sizeof *s.seen, "key names", (void **)&s.seen, err));
    yaml_parser_set_encoding(&s.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&s.parser, (const unsigned char *)s.text, s.n);
    st = read_document(&s, visit, context, err);
out:
    if (s.has_event) { yaml_event_delete(&s.event); }
    yaml_parser_delete(&s.parser);
    for (size_t i = 0; s.seen != NULL && i < SLOTS; i++) { hd_free(s.seen[i].name); }
    hd_free(s.seen);
    hd_buf_free(&s.arena);
    hd_free(s.items);
    return st;
}
