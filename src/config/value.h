/* One typed value: parsed from text by the type its key declares, compared, written back as YAML. */
#ifndef HD_CONFIG_VALUE_H
#define HD_CONFIG_VALUE_H

#include "base/buf.h"
#include "config/key_table.h"

typedef struct hd_value {
    bool is_null;
    bool boolean;
    int choice; /* ENUM: index among the choices */
    int64_t integer;
    double real;
    char *text;   /* STR, RAW, ENUM: the string; STR and RAW NULL when empty */
    char **items; /* LIST */
    size_t n_items;
} hd_value; /* a zeroed one may be freed */

/* Text as a source gave it: one scalar, or the items of a list. */
typedef struct hd_source_text {
    const char *scalar; /* NULL: a list */
    bool plain;         /* the scalar stands without quotes, so that null and ~ mean null */
    const char *const *items;
    size_t n_items;
} hd_source_text;

/* Parses by the row's type and check.  HD_E_CONFIG: "steps: want an integer, got 'abc'". */
hd_status hd_value_parse(const hd_key_row *row, hd_source_text in, hd_value *out, hd_err *err) HD_CHECK_RESULT;

/* A scalar in the environment's grammar: bool accepts y/yes/t/true/1 and n/no/f/false/0; lists are refused. */
hd_status hd_value_parse_env(const hd_key_row *row, const char *text, hd_value *out, hd_err *err) HD_CHECK_RESULT;

/* The value of key=TEXT on the command line: a YAML scalar or flow list; text keys take it as it stands. */
hd_status hd_value_parse_argument(const hd_key_row *row, const char *text, hd_value *out, hd_err *err) HD_CHECK_RESULT;

hd_status hd_value_default(const hd_key_row *row, hd_value *out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_value_copy(const hd_value *value, hd_value *out, hd_err *err) HD_CHECK_RESULT;
bool hd_value_equal(const hd_key_row *row, const hd_value *a, const hd_value *b);
void hd_value_free(hd_value *value);

/* As YAML.  The secrecy of a key is the caller's business. */
void hd_value_write(const hd_key_row *row, const hd_value *value, hd_buf *out);

/* Index of text among choices joined by '|', or -1. */
int hd_choice_index(const char *choices, const char *text);

/* "one of a, b, c", or "at least 1, or -1": what a check asks for; nothing for an empty one. */
void hd_check_describe(const hd_key_row *row, hd_buf *out);

#endif
