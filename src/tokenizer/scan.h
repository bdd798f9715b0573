/* The pre-tokenisers of the tokenizers that hadal exists for, in one pass each: linear time, no stack, our Unicode table.
 *
 *   HD_SCAN_DEEPSEEK_V3   the three Splits of DeepSeek-V3 in sequence
 *   HD_SCAN_LLAMA3        (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   HD_SCAN_QWEN2         the same with \p{N} in place of \p{N}{1,3}
 *   HD_SCAN_GPT2          's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * Each cuts a text into pieces without a rest; where the next piece ends depends on where it begins and on what follows, never on what came
 * before.  PCRE2 is the oracle of tests/tokenizer/test_split.c. */
#ifndef HD_TOKENIZER_SCAN_H
#define HD_TOKENIZER_SCAN_H

#include <stddef.h>
#include <stdint.h>

typedef enum hd_scan_kind { HD_SCAN_DEEPSEEK_V3, HD_SCAN_LLAMA3, HD_SCAN_QWEN2, HD_SCAN_GPT2, HD_SCAN_COUNT } hd_scan_kind;

/* The patterns by kind, as tokenizer.json writes them; a NULL ends a list. */
extern const char *const hd_scan_patterns[HD_SCAN_COUNT][4];

/* Cuts well-formed text from *at on: stores where pieces end, at most `capacity` of them, and moves *at behind the last.  Returns how many;
 * 0 only at the end.  n < 2^32. */
size_t hd_scan(hd_scan_kind kind, const char *text, size_t n, size_t *at, uint32_t *ends, size_t capacity);

/* The last position in (low, high] where a text may be cut in two without changing a piece; 0 when there is none. */
size_t hd_scan_safe_cut(const char *text, size_t low, size_t high);

#endif
