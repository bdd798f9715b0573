/* Decimal text to f32, fast and exact: what reading a gigabyte of logits takes. */
#ifndef HD_EVAL_NUMBER_H
#define HD_EVAL_NUMBER_H

#include <stddef.h>

/* The JSON number at text, which a byte that belongs to no number follows: its length, and its value rounded to the nearest f32,
 * ties to even, as strtof does (infinite when it is beyond f32).  0 when no JSON number stands there. */
size_t hd_scan_f32(const char *text, float *value);

#endif
