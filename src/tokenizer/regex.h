/* Split patterns of other tokenizers: PCRE2 with JIT, UTF and UCP.
 *
 * tokenizer.json is written for Oniguruma.  \s means White_Space there, ^ and $ match at every line; both are arranged for.  What the two
 * engines read differently (\w, \b, \h, possessive intervals, set intersection, ...) is refused.  PCRE2 10.42 knows Unicode 14, so that
 * characters of later versions may be cut otherwise.  The work for one match is limited; what goes beyond is an error. */
#ifndef HD_TOKENIZER_REGEX_H
#define HD_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

typedef struct hd_regex hd_regex;           /* compiled; shared by threads */
typedef struct hd_regex_work hd_regex_work; /* room for matching, one for each thread */

hd_status hd_regex_compile(const char *pattern, size_t n, hd_regex **out, hd_err *err) HD_CHECK_RESULT;
void hd_regex_free(hd_regex *regex);

hd_status hd_regex_work_open(hd_regex_work **out, hd_err *err) HD_CHECK_RESULT;
void hd_regex_work_close(hd_regex_work *work);

/* The first match at or behind `at` in well-formed text; *found false when there is none. */
hd_status hd_regex_find(const hd_regex *regex, hd_regex_work *work, const char *text, size_t n, size_t at, bool *found, size_t *begin,
                        size_t *end, hd_err *err) HD_CHECK_RESULT;

#endif
