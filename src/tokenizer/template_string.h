/* What Python's str does: code points, white space, cutting, case.  Internal to the template files. */
#ifndef HD_TOKENIZER_TEMPLATE_STRING_H
#define HD_TOKENIZER_TEMPLATE_STRING_H

#include "tokenizer/template_value.h"

size_t hd_tpl_count_chars(hd_tpl_value text);

/* The byte at which the i-th code point begins; text.n when there are fewer. */
size_t hd_tpl_char_offset(hd_tpl_value text, size_t i);

/* Bytes [begin, end) of a text. */
static inline hd_tpl_value hd_tpl_part(hd_tpl_value text, size_t begin, size_t end)
{
    return hd_tpl_text(text.text + begin, end - begin);
}

/* The first place at or after byte `from` where wanted stands; SIZE_MAX: none.  rfind: the last place of all. */
size_t hd_tpl_find_text(hd_tpl_value text, hd_tpl_value wanted, size_t from);
size_t hd_tpl_rfind_text(hd_tpl_value text, hd_tpl_value wanted);

bool hd_tpl_is_space(uint32_t code);                 /* str.isspace of one code point, and \s */
size_t hd_tpl_space_run(const char *text, size_t n); /* bytes of white space at the start */
size_t hd_tpl_trimmed(const char *text, size_t n);   /* n without the white space at the end */

/* str.strip and its one-sided kin; chars NULL: white space. */
hd_tpl_value hd_tpl_strip(hd_tpl_value text, const hd_tpl_value *chars, bool left, bool right);

/* str.split and rsplit: by white space when separator is NULL, at most `limit` cuts (negative: all). */
hd_status hd_tpl_split(hd_tpl_run *run, hd_tpl_value text, const hd_tpl_value *separator, int64_t limit, bool from_right,
                       hd_tpl_list **out) HD_CHECK_RESULT;
hd_status hd_tpl_split_lines(hd_tpl_run *run, hd_tpl_value text, bool keep_ends, hd_tpl_list **out) HD_CHECK_RESULT;
hd_status hd_tpl_replace(hd_tpl_run *run, hd_tpl_value text, hd_tpl_value old, hd_tpl_value fresh, int64_t limit,
                         hd_tpl_value *out) HD_CHECK_RESULT;

typedef enum hd_tpl_case { HD_TPL_UPPER, HD_TPL_LOWER, HD_TPL_CAPITALIZE, HD_TPL_TITLE } hd_tpl_case;
hd_status hd_tpl_change_case(hd_tpl_run *run, hd_tpl_value text, hd_tpl_case to, hd_tpl_value *out) HD_CHECK_RESULT;

/* str.islower (or isupper): there is a cased letter and none is of the other case. */
bool hd_tpl_is_case(hd_tpl_value text, hd_tpl_case which);

/* ---- properties of code points (template_unicode.c) --------------------------------------------------------------- */

bool hd_tpl_is_printable(uint32_t code);
bool hd_tpl_is_cased(uint32_t code);
bool hd_tpl_is_case_ignorable(uint32_t code);

/* The full mapping of one code point: 1 to 3 code points.  `to` is UPPER, LOWER or TITLE (of one letter). */
int hd_tpl_map_case(uint32_t code, hd_tpl_case to, uint32_t out[3]);

#endif
