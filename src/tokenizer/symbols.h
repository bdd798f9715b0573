/* The alphabet in which byte-level vocabularies are written: each byte is one printable character (GPT-2's byte-to-unicode table).
 * '!'..'~', U+00A1..U+00AC and U+00AE..U+00FF stand for the byte of the same number, U+0100.. for the others in order. */
#ifndef HD_TOKENIZER_SYMBOLS_H
#define HD_TOKENIZER_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

/* The byte a character stands for; -1 when it is not of the alphabet. */
static inline int hd_symbol_byte(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD)) { return (int)code; }
    if (code < 0x100 || code > 0x143) { return -1; }
    code -= 0x100;
    return (int)(code < 33 ? code : code < 67 ? code - 33 + 0x7F : 0xAD);
}

/* The character of a byte. */
static inline uint32_t hd_byte_symbol(unsigned char byte)
{
    if (byte < 33) { return 0x100u + byte; }
    if (byte < 0x7F) { return byte; }
    if (byte < 0xA1) { return 0x100u + 33 + (byte - 0x7Fu); }
    return byte == 0xAD ? 0x143u : byte;
}

#endif
