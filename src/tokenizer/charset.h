/* Split patterns that look for a run of one set of characters, in linear time and with our Unicode table:
 *
 *     \s? SET        SET: [...] (literals, ranges, escapes, \p{..}, \s, ^), \p{..}, \s or one character
 *     SET +  SET {1,k}  SET
 *     \s? SET +
 *     \s+ $
 *
 * These are the patterns of DeepSeek-V2, of its coder variants and of most steps of other tokenizers. */
#ifndef HD_TOKENIZER_CHARSET_H
#define HD_TOKENIZER_CHARSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_char_range {
    uint32_t first, last;
} hd_char_range;

typedef struct hd_char_run {
    hd_char_range *range;   /* sorted, disjoint */
    size_t n_range, range_capacity;
    uint64_t low[4];        /* membership of code points below 256 */
    unsigned classes;       /* HD_UC_*: members whatever the ranges say */
    bool negated;
    bool space_before;      /* \s? in front */
    bool at_line_end;       /* $ behind */
    size_t most;            /* characters of the set; SIZE_MAX: + */
} hd_char_run;

/* *known false, and nothing to free, when the pattern is of another kind. */
hd_status hd_char_run_parse(const char *pattern, size_t n, hd_char_run *run, bool *known, hd_err *err) HD_CHECK_RESULT;
void hd_char_run_free(hd_char_run *run);

/* The first match at or behind `at`; false when there is none.  Calls that go through a text from left to right take linear time. */
bool hd_char_run_find(const hd_char_run *run, const char *text, size_t n, size_t at, size_t *begin, size_t *end);

#endif
