/* UTF-8: well-formed means Unicode's table 3-7 (no overlong forms, no surrogates, nothing above U+10FFFF). */
#ifndef HD_BASE_UTF8_H
#define HD_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { HD_UTF8_REPLACEMENT = 0xFFFD };

/* The bytes (1 to 4) of the well-formed sequence at the start of text, its code point in *code; 0 when there is none
 * or n is 0. */
size_t hd_utf8_next(const char *text, size_t n, uint32_t *code);

/* The same for any bytes, n > 0: a maximal ill-formed part yields U+FFFD, as Python's errors="replace" does.  Never 0. */
size_t hd_utf8_next_replacing(const char *text, size_t n, uint32_t *code);

/* Whether all of text is well-formed; *bad, when not NULL, receives the offset of the first bad byte. */
bool hd_utf8_validate(const char *text, size_t n, size_t *bad);

/* Writes a code point (surrogates and values beyond U+10FFFF as U+FFFD) and returns its bytes, 1 to 4. */
size_t hd_utf8_encode(uint32_t code, char out[4]);

/* Appends text with every ill-formed part replaced by U+FFFD. */
void hd_utf8_append_replacing(hd_buf *buf, const char *text, size_t n);

/* Bytes (0 to 3) at the end of text that begin a sequence whose rest may still come: what a streaming printer keeps. */
size_t hd_utf8_incomplete_tail(const char *text, size_t n);

#endif
