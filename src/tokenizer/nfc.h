/* Normalisation form C, over the tables of unicode.h. */
#ifndef HD_TOKENIZER_NFC_H
#define HD_TOKENIZER_NFC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

/* Whether well-formed text is certainly in form C.  false means: normalise to know. */
bool hd_nfc_quick_check(const char *text, size_t n);

/* Appends the form C of well-formed text, in linear time. */
void hd_nfc_append(hd_buf *out, const char *text, size_t n);

#endif
