/* Values of templates, with Python's meaning: what str(), ==, len() and iteration do to them, made in the memory of one run.
 * Values are immutable but for namespaces and iterators; copying one copies a reference.  Internal to the template files. */
#ifndef HD_TOKENIZER_TEMPLATE_VALUE_H
#define HD_TOKENIZER_TEMPLATE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/json.h"
#include "hadal/status.h"

typedef enum hd_tpl_type {
    HD_TPL_MISSING, /* no value at all: an argument not given; templates never see it */
    HD_TPL_UNDEFINED,
    HD_TPL_NONE,
    HD_TPL_BOOL,
    HD_TPL_INT,
    HD_TPL_FLOAT,
    HD_TPL_STRING,
    HD_TPL_LIST,
    HD_TPL_TUPLE,
    HD_TPL_DICT,
    HD_TPL_RANGE,
    HD_TPL_VIEW,      /* dict.keys() and the like; kind says which */
    HD_TPL_ITERATOR,  /* what map, select, items, reverse and unique give: read once */
    HD_TPL_NAMESPACE, /* a dict that {% set ns.x = ... %} changes */
    HD_TPL_LOOP,
    HD_TPL_MACRO,
    HD_TPL_FUNCTION, /* kind is an index into a table */
    HD_TPL_METHOD    /* the same, bound to *self */
} hd_tpl_type;

/* kind of an UNDEFINED: what `text` is; a type of hd_tpl_type added to ATTRIBUTE says whose attribute is missing. */
enum { HD_TPL_UNDEFINED_NAME, HD_TPL_UNDEFINED_HINT, HD_TPL_UNDEFINED_ATTRIBUTE };
enum { HD_TPL_VIEW_KEYS, HD_TPL_VIEW_VALUES, HD_TPL_VIEW_ITEMS };
/* kind of a STRING: SAFE came out of the filter `safe`; GROWN has a head before its text that says how much room is behind it. */
enum { HD_TPL_PLAIN, HD_TPL_SAFE, HD_TPL_GROWN };

typedef struct hd_tpl_value {
    hd_tpl_type type;
    int kind;
    size_t n; /* bytes of a text */
    union {
        bool b;
        int64_t i;
        double f;
        const char *text; /* n bytes of UTF-8, not terminated */
        struct hd_tpl_list *list;
        struct hd_tpl_dict *dict; /* DICT, VIEW, NAMESPACE */
        struct hd_tpl_range *range;
        struct hd_tpl_iterator *iterator;
        struct hd_tpl_loop *loop;
        struct hd_tpl_macro *macro;
        struct hd_tpl_value *self;
    };
} hd_tpl_value;

typedef struct hd_tpl_list {
    size_t n, capacity;
    hd_tpl_value *items;
} hd_tpl_list;

typedef struct hd_tpl_entry {
    hd_tpl_value key, value;
} hd_tpl_entry;

typedef struct hd_tpl_dict {
    size_t n, capacity;
    hd_tpl_entry *entries; /* in the order of their coming */
} hd_tpl_dict;

typedef struct hd_tpl_range {
    int64_t start, stop, step;
    size_t n;
} hd_tpl_range;

/* Like Python's generators, one does nothing, and finds no fault, before somebody asks for its items. */
struct hd_tpl_run;
typedef hd_status (*hd_tpl_fill)(struct hd_tpl_run *run, const void *call, hd_tpl_list *into);

typedef struct hd_tpl_iterator {
    hd_tpl_list *list;
    size_t next;
    hd_tpl_fill fill; /* finds the items; NULL: done */
    const void *call;
} hd_tpl_iterator;

/* ---- the run: memory and budgets of one rendering ------------------------------------------------------------------ */

typedef struct hd_tpl_limits {
    size_t value_bytes, output_bytes;
    uint64_t steps; /* one per node, element or 64 bytes looked at */
    int depth;      /* of evaluation, macros in macros included; 400 levels fit 320 KiB of stack */
} hd_tpl_limits;

extern const hd_tpl_limits hd_tpl_default_limits;

enum { HD_TPL_MAX_VALUE_DEPTH = 200 }; /* of nested lists and dicts where something walks them */

typedef struct hd_tpl_run {
    hd_tpl_limits limits;
    struct hd_tpl_chunk *chunks;
    char *top, *end; /* free part of the newest chunk */
    size_t used_bytes;
    uint64_t steps;
    int depth;
    hd_buf *out;               /* what is printed; also the scratch paper on which texts are put together */
    int64_t now_s;             /* what strftime_now shows, seconds since 1970; 0: the clock */
    const char *source, *name; /* of the template, for messages; source NULL: no position is known */
    size_t n_source, at;
    hd_err *err;
} hd_tpl_run;

void hd_tpl_run_open(hd_tpl_run *run, const hd_tpl_limits *limits, hd_buf *out, hd_err *err); /* limits NULL: the default ones */
void hd_tpl_run_close(hd_tpl_run *run);                                                       /* accepts a zeroed one; frees every value */

/* Fills run->err with "NAME: line L, column C: ..." and returns code. */
hd_status hd_tpl_fail(hd_tpl_run *run, hd_status code, const char *format, ...) HD_PRINTF(3, 4);

/* Counts work: HD_E_INVALID once the budget is spent. */
hd_status hd_tpl_step(hd_tpl_run *run, size_t n) HD_CHECK_RESULT;
hd_status hd_tpl_step_bytes(hd_tpl_run *run, size_t n) HD_CHECK_RESULT;

/* Memory until the run is closed, aligned for any value; not zeroed. */
hd_status hd_tpl_alloc(hd_tpl_run *run, size_t bytes, void **out) HD_CHECK_RESULT;

/* ---- making values -------------------------------------------------------------------------------------------------- */

static inline hd_tpl_value hd_tpl_none(void)
{
    return (hd_tpl_value){.type = HD_TPL_NONE};
}

static inline hd_tpl_value hd_tpl_bool(bool b)
{
    return (hd_tpl_value){.type = HD_TPL_BOOL, .b = b};
}

static inline hd_tpl_value hd_tpl_int(int64_t i)
{
    return (hd_tpl_value){.type = HD_TPL_INT, .i = i};
}

static inline hd_tpl_value hd_tpl_float(double f)
{
    return (hd_tpl_value){.type = HD_TPL_FLOAT, .f = f};
}

/* A text that lives elsewhere at least as long as the run. */
static inline hd_tpl_value hd_tpl_text(const char *text, size_t n)
{
    return (hd_tpl_value){.type = HD_TPL_STRING, .n = n, .text = text};
}

static inline hd_tpl_value hd_tpl_undefined(int kind, const char *text, size_t n)
{
    return (hd_tpl_value){.type = HD_TPL_UNDEFINED, .kind = kind, .n = n, .text = text};
}

static inline hd_tpl_value hd_tpl_listed(hd_tpl_type type, hd_tpl_list *list)
{
    return (hd_tpl_value){.type = type, .list = list};
}

hd_status hd_tpl_copy_text(hd_tpl_run *run, const char *text, size_t n, hd_tpl_value *out) HD_CHECK_RESULT;

/* a and b joined.  A long text that grows at its end, as templates do it in loops, is copied a few times and not each time. */
hd_status hd_tpl_join(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out) HD_CHECK_RESULT;

/* Text put together on run->out: mark, append there, then take what was appended.  On failure the caller need not clean up. */
static inline size_t hd_tpl_mark(const hd_tpl_run *run)
{
    return run->out->n;
}
hd_status hd_tpl_take(hd_tpl_run *run, size_t mark, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_check_out(hd_tpl_run *run) HD_CHECK_RESULT; /* whether an append failed */

hd_status hd_tpl_list_new(hd_tpl_run *run, size_t capacity, hd_tpl_list **out) HD_CHECK_RESULT;
hd_status hd_tpl_list_add(hd_tpl_run *run, hd_tpl_list *list, hd_tpl_value value) HD_CHECK_RESULT;
hd_status hd_tpl_pair(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, hd_tpl_value *out) HD_CHECK_RESULT; /* a tuple */
hd_status hd_tpl_iterator_new(hd_tpl_run *run, hd_tpl_list *list, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_iterator_start(hd_tpl_run *run, hd_tpl_iterator *iterator) HD_CHECK_RESULT; /* items are in its list then */

hd_status hd_tpl_dict_new(hd_tpl_run *run, size_t capacity, hd_tpl_value *out) HD_CHECK_RESULT;
hd_status hd_tpl_dict_set(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value value) HD_CHECK_RESULT;
hd_status hd_tpl_dict_set_text(hd_tpl_run *run, hd_tpl_dict *dict, const char *key, hd_tpl_value value) HD_CHECK_RESULT;
/* Without the search for the key, which the caller knows is new. */
hd_status hd_tpl_dict_add(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value value) HD_CHECK_RESULT;

/* *found is NULL when there is no such key.  HD_E_INVALID for a key that cannot be one. */
hd_status hd_tpl_dict_get(hd_tpl_run *run, hd_tpl_dict *dict, hd_tpl_value key, hd_tpl_value **found) HD_CHECK_RESULT;
hd_tpl_value *hd_tpl_dict_get_text(hd_tpl_dict *dict, const char *key, size_t n);

/* The next value of a JSON text; the order of members is kept.  Its strings are copied. */
hd_status hd_tpl_from_json(hd_tpl_run *run, hd_json *json, hd_tpl_value *out) HD_CHECK_RESULT;

/* ---- what Python does with them ------------------------------------------------------------------------------------- */

const char *hd_tpl_type_name(hd_tpl_value value); /* "str", "NoneType", ... */
bool hd_tpl_is_text(hd_tpl_value value, const char *text);
bool hd_tpl_truth(hd_tpl_value value);
bool hd_tpl_is_number(hd_tpl_value value);                /* bool, int, float */
bool hd_tpl_is_integer(hd_tpl_value value, int64_t *out); /* bool or int */
double hd_tpl_as_double(hd_tpl_value number);
bool hd_tpl_is_hashable(hd_tpl_value value);

/* HD_E_INVALID with what is wrong about using an undefined value. */
hd_status hd_tpl_fail_undefined(hd_tpl_run *run, hd_tpl_value value);

hd_status hd_tpl_equal(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, bool *out) HD_CHECK_RESULT;
/* *out < 0, 0, > 0; *unordered for NaN.  `op` is for the message when the types have no order. */
hd_status hd_tpl_compare(hd_tpl_run *run, hd_tpl_value a, hd_tpl_value b, const char *op, int *out, bool *unordered) HD_CHECK_RESULT;
hd_status hd_tpl_contains(hd_tpl_run *run, hd_tpl_value item, hd_tpl_value in, bool *out) HD_CHECK_RESULT;
hd_status hd_tpl_length(hd_tpl_run *run, hd_tpl_value value, int64_t *out) HD_CHECK_RESULT;

/* All elements; a list's own list is handed out and must not be changed.  Reads an iterator to its end. */
hd_status hd_tpl_iterate(hd_tpl_run *run, hd_tpl_value value, hd_tpl_list **out) HD_CHECK_RESULT;

/* Appends str(value), repr(value) or json.dumps(value) to run->out. */
hd_status hd_tpl_put(hd_tpl_run *run, hd_tpl_value value) HD_CHECK_RESULT;
hd_status hd_tpl_put_repr(hd_tpl_run *run, hd_tpl_value value) HD_CHECK_RESULT;

typedef struct hd_tpl_json_style {
    bool ascii, sort_keys;
    bool indented;       /* one item per line, `indent` once per level before it */
    hd_tpl_value indent; /* a STRING */
    hd_tpl_value item_separator, key_separator;
} hd_tpl_json_style;
hd_status hd_tpl_put_json(hd_tpl_run *run, hd_tpl_value value, const hd_tpl_json_style *style) HD_CHECK_RESULT;

/* str(value) as a STRING. */
hd_status hd_tpl_string_of(hd_tpl_run *run, hd_tpl_value value, hd_tpl_value *out) HD_CHECK_RESULT;

/* Stable sort by the given keys (same length as values), as sorted() does. */
hd_status hd_tpl_sort(hd_tpl_run *run, hd_tpl_list *values, hd_tpl_list *keys, bool reverse) HD_CHECK_RESULT;

#endif
