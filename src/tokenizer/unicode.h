/* What the pre-tokenisers know of Unicode: one byte of classes per code point, and the tables of NFC.
 *
 * The tables are those of Unicode 16.0.0, which is what HuggingFace tokenizers 0.22 and 0.23 use in \p{L}, \p{M}, \p{N}, \p{P}, \p{S} and
 * \s (found by asking it for all 1,112,064 code points).  Its NFC knows Unicode 9.0 and treats later characters as if nothing joined them; so
 * do the tables of NFC.  tools/make_unicode_table.py makes unicode_table.c. */
#ifndef HD_TOKENIZER_UNICODE_H
#define HD_TOKENIZER_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#define HD_UNICODE_VERSION "16.0.0"

enum {
    HD_UC_L = 1,      /* letters */
    HD_UC_M = 2,      /* marks */
    HD_UC_N = 4,      /* numbers */
    HD_UC_P = 8,      /* punctuation */
    HD_UC_S = 16,     /* symbols */
    HD_UC_SPACE = 32, /* White_Space: what \s means */
    HD_UC_WORD = 64,  /* \w: alphabetic, marks, decimal numbers, connectors, join controls */
    HD_UC_CJK = 128   /* U+3040-30FF and U+4E00-9FA5: the second Split of DeepSeek-V3 */
};

extern const uint16_t hd_unicode_index[0x110000 / 128];
extern const uint8_t hd_unicode_flags[];

static inline unsigned hd_unicode(uint32_t code)
{
    return hd_unicode_flags[(size_t)hd_unicode_index[code >> 7] * 128 + (code & 127)];
}

typedef struct hd_unicode_pair {
    uint32_t code, first, second; /* second 0: the character decomposes to one */
} hd_unicode_pair;

typedef struct hd_unicode_class {
    uint32_t first, last;
    uint8_t combining; /* Canonical_Combining_Class, not 0 */
} hd_unicode_class;

/* Canonical decompositions by code, primary composites by (first, second), combining classes by code; Hangul is left out. */
extern const hd_unicode_pair hd_unicode_decompositions[], hd_unicode_compositions[];
extern const hd_unicode_class hd_unicode_classes[];
extern const uint32_t hd_unicode_joining[]; /* starters that a composite may take as its second part */
extern const size_t hd_unicode_n_decompositions, hd_unicode_n_compositions, hd_unicode_n_classes, hd_unicode_n_joining;

#endif
