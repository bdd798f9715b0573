/* JSON: a streaming pull parser that builds no tree, and a writer.
 *
 * The parser walks a text held in memory; the caller asks for what it expects and streams it into its own tables:
 *
 *     HD_TRY(hd_json_object_begin(&json, err));
 *     for (;;) {
 *         HD_TRY(hd_json_object_next(&json, &more, &key, err));
 *         if (!more) { break; }
 *         if (hd_json_str_is(key, "shape")) { HD_TRY(hd_json_i64(&json, &n, err)); }
 *     }                                            a value that is not asked for is checked and skipped
 *     HD_TRY(hd_json_end(&json, err));
 *
 * Strict: RFC 8259, UTF-8 validated, lone surrogates refused, nesting at most 128, no duplicate key within an object
 * (unless allowed), nothing but white space after the value, integers exact or refused.  Every fault is HD_E_CORRUPT
 * and names the text, the byte offset, line and column.  Time is linear in the size of the text. */
#ifndef HD_BASE_JSON_H
#define HD_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "hadal/status.h"

enum {
    HD_JSON_MAX_DEPTH = 128,
    HD_JSON_MAX_KEYS = 1 << 20 /* keys of all objects open at one time, where duplicates are refused */
};

typedef enum hd_json_type {
    HD_JSON_NULL,
    HD_JSON_BOOL,
    HD_JSON_NUMBER,
    HD_JSON_STRING,
    HD_JSON_OBJECT,
    HD_JSON_ARRAY
} hd_json_type;

/* n bytes, valid UTF-8, not NUL-terminated, may hold NUL. */
typedef struct hd_json_str {
    const char *text;
    size_t n;
} hd_json_str;

typedef enum hd_json_flags {
    HD_JSON_STRICT = 0,
    HD_JSON_ALLOW_DUPLICATES = 1 /* a later value of a key is seen as well; saves the memory of the keys */
} hd_json_flags;

typedef struct hd_json_frame {
    size_t first_key; /* where this object's keys begin in the stack of keys */
    bool is_object, started;
} hd_json_frame;

typedef struct hd_json_key {
    uint64_t hash;
    size_t offset; /* of the opening quote in the text */
} hd_json_key;

/* The fields are the parser's own. */
typedef struct hd_json {
    const char *text, *name;
    size_t n, at;
    hd_json_flags flags;
    bool pending; /* a value comes next and nobody has asked for it */
    int depth;
    hd_json_frame frame[HD_JSON_MAX_DEPTH];
    hd_json_key *keys; /* of the open objects, outermost first */
    size_t n_keys, keys_capacity;
    uint32_t *slots; /* open addressing over keys: index + 1, 0 empty */
    size_t n_slots;  /* a power of two, or 0 */
    uint64_t seed;
    hd_buf key_text, value_text; /* decoded strings that hold escapes */
} hd_json;

/* Starts on a text of n bytes, which must stay until hd_json_close.  name is for messages and must stay as well. */
void hd_json_open(hd_json *json, const char *text, size_t n, const char *name, hd_json_flags flags);
void hd_json_close(hd_json *json); /* accepts a zeroed one; needed on every path */

/* After the outermost value: nothing but white space may follow. */
hd_status hd_json_end(hd_json *json, hd_err *err) HD_CHECK_RESULT;

/* The type of the next value, judged by its first byte. */
hd_status hd_json_peek(hd_json *json, hd_json_type *type, hd_err *err) HD_CHECK_RESULT;

/* Objects and arrays.  _next moves to the next member or element (*more true: its value comes next) or leaves the
 * container (*more false).  A key is valid until the next key is read. */
hd_status hd_json_object_begin(hd_json *json, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_object_next(hd_json *json, bool *more, hd_json_str *key, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_array_begin(hd_json *json, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_array_next(hd_json *json, bool *more, hd_err *err) HD_CHECK_RESULT;

/* Scalars.  A value of another type is refused.  Integers must be written as such: 1.0 and 1e3 are refused.  f64 takes
 * any number, correctly rounded; one beyond the range of double is refused. */
hd_status hd_json_string(hd_json *json, hd_json_str *out,
                         hd_err *err) HD_CHECK_RESULT; /* valid until the next string */
hd_status hd_json_i64(hd_json *json, int64_t *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_u64(hd_json *json, uint64_t *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_f64(hd_json *json, double *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_bool(hd_json *json, bool *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_json_null(hd_json *json, hd_err *err) HD_CHECK_RESULT;

/* A string as a C string in hd_alloc memory; NUL inside is refused. */
hd_status hd_json_strdup(hd_json *json, char **out, hd_err *err) HD_CHECK_RESULT;

/* Checks the next value, whatever it is, and passes over it. */
hd_status hd_json_skip(hd_json *json, hd_err *err) HD_CHECK_RESULT;

/* The same, and hands out its text as it stands in the input: to keep a member for later. */
hd_status hd_json_raw(hd_json *json, hd_json_str *out, hd_err *err) HD_CHECK_RESULT;

/* HD_E_CORRUPT with the caller's sentence and the position where the parser stands. */
hd_status hd_json_fail(const hd_json *json, hd_err *err, const char *format, ...) HD_PRINTF(3, 4);

bool hd_json_str_is(hd_json_str s, const char *text);

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Appends to a buffer, whose hd_buf_check tells of failures.  Calls out of order (a value where a key is due, an end
 * too many) are bugs of the caller and asserted. */
typedef struct hd_json_writer {
    hd_buf *out;
    int indent; /* spaces per level; 0: one line */
    int depth;
    bool after_key;
    bool is_object[HD_JSON_MAX_DEPTH], has_items[HD_JSON_MAX_DEPTH];
} hd_json_writer;

void hd_json_writer_init(hd_json_writer *w, hd_buf *out, int indent);
void hd_json_write_object(hd_json_writer *w); /* '{' */
void hd_json_write_array(hd_json_writer *w);  /* '[' */
void hd_json_write_end(hd_json_writer *w);    /* closes the innermost */
void hd_json_write_key(hd_json_writer *w, const char *key);
void hd_json_write_key_n(hd_json_writer *w, const char *key, size_t n);
void hd_json_write_string(hd_json_writer *w, const char *text);
void hd_json_write_string_n(hd_json_writer *w, const char *text, size_t n); /* ill-formed UTF-8 becomes U+FFFD */
void hd_json_write_i64(hd_json_writer *w, int64_t value);
void hd_json_write_u64(hd_json_writer *w, uint64_t value);
/* The shortest of %.15g, %.16g, %.17g that reads back as the same double, with ".0" when it looks like an integer.
 * JSON has no NaN and no infinity: they become null. */
void hd_json_write_f64(hd_json_writer *w, double value);
void hd_json_write_bool(hd_json_writer *w, bool value);
void hd_json_write_null(hd_json_writer *w);
void hd_json_write_raw(hd_json_writer *w, const char *json, size_t n); /* n bytes that are a JSON value already */

#endif
