/* Pre-tokenisation: the steps of tokenizer.json's pre_tokenizer, each cutting what the one before left, applied depth first so that no list of
 * pieces is ever made. */
#ifndef HD_TOKENIZER_SPLIT_H
#define HD_TOKENIZER_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"
#include "tokenizer/charset.h"
#include "tokenizer/regex.h"
#include "tokenizer/scan.h"

enum { HD_MAX_STEPS = 24 };

typedef enum hd_step_kind {
    HD_STEP_SCAN,        /* scan.h; isolated */
    HD_STEP_RUN,         /* charset.h */
    HD_STEP_REGEX,       /* regex.h */
    HD_STEP_LITERAL,     /* a string */
    HD_STEP_PREFIX_SPACE /* a space in front of what does not begin with one */
} hd_step_kind;

/* What becomes of the matches and of the stretches between them. */
typedef enum hd_behavior {
    HD_ISOLATED,             /* each is a piece */
    HD_REMOVED,              /* matches vanish */
    HD_CONTIGUOUS,           /* neighbours of one kind are one piece */
    HD_MERGED_WITH_PREVIOUS, /* a match joins the stretch before it */
    HD_MERGED_WITH_NEXT
} hd_behavior;

typedef struct hd_step {
    hd_step_kind kind;
    hd_behavior behavior;
    bool invert; /* stretches and matches change places */
    hd_scan_kind scan;
    hd_char_run run;
    hd_regex *regex;
    char *literal;
    size_t n_literal;
} hd_step;

typedef struct hd_split {
    hd_step step[HD_MAX_STEPS];
    size_t n_step;
    bool has_regex;
} hd_split;

/* Adds a Split with a regular expression: a scanner where the steps so far and this one are its patterns, a run of a set, or PCRE2. */
hd_status hd_split_add_pattern(hd_split *split, const char *pattern, size_t n, hd_behavior behavior, bool invert, hd_err *err) HD_CHECK_RESULT;
hd_status hd_split_add_literal(hd_split *split, const char *text, size_t n, hd_behavior behavior, bool invert, hd_err *err) HD_CHECK_RESULT;
hd_status hd_split_add_prefix_space(hd_split *split, hd_err *err) HD_CHECK_RESULT;
void hd_split_free(hd_split *split);

/* Receives pieces; ends[i] is where piece i ends, the first begins at `begin` and each other where the one before ends. */
typedef hd_status (*hd_pieces_sink)(void *context, const char *text, size_t begin, const uint32_t *ends, size_t n, hd_err *err);

/* Cuts well-formed text of n < 2^32 - 1 bytes and hands the pieces to the sink in order.  work: NULL unless split->has_regex. */
hd_status hd_split_run(const hd_split *split, hd_regex_work *work, const char *text, size_t n, hd_pieces_sink sink, void *context,
                       hd_err *err) HD_CHECK_RESULT;

#endif
