/* Checked size arithmetic: the only way to multiply or add numbers that a file, a user or a shape supplied. */
#ifndef HD_BASE_CHECKED_H
#define HD_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each returns false, leaving *out alone, when the exact result does not fit. */
static inline bool hd_i64_mul(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r)) { return false; }
    *out = r;
    return true;
}

static inline bool hd_i64_add(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (__builtin_add_overflow(a, b, &r)) { return false; }
    *out = r;
    return true;
}

static inline bool hd_u64_add(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r)) { return false; }
    *out = r;
    return true;
}

static inline bool hd_size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) { return false; }
    *out = r;
    return true;
}

static inline bool hd_size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) { return false; }
    *out = r;
    return true;
}

/* Rounds up to a multiple of a power of two. */
static inline bool hd_size_round_up(size_t n, size_t power_of_two, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(n, power_of_two - 1, &r)) { return false; }
    *out = r & ~(power_of_two - 1);
    return true;
}

#endif
