/* A decimal becomes m * 10^e, which one division or product in f64 gives within two units in its last place; where that leaves no
 * doubt about the f32 it is nearest to, that is the answer, else strtof is asked. */
#include "eval/number.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIGITS = 19, MAX_POWER = 22 }; /* what fits a u64; powers of ten that are exact in f64 */

typedef struct decimal {
    uint64_t mantissa;
    int digits;    /* of mantissa, without leading zeros */
    int64_t power; /* of ten */
    bool negative, fits;
} decimal;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void add_digit(decimal *d, char c)
{
    if (d->digits == MAX_DIGITS) {
        d->fits = false;
        return;
    }
    d->mantissa = d->mantissa * 10 + (uint64_t)(c - '0');
    d->digits += d->mantissa > 0;
}

/* -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?; NULL when it is not one, else its end. */
static const char *scan(const char *p, decimal *d)
{
    *d = (decimal){.fits = true};
    d->negative = *p == '-';
    p += d->negative;
    if (!is_digit(*p) || (p[0] == '0' && is_digit(p[1]))) { return NULL; }
    for (; is_digit(*p); p++) { add_digit(d, *p); }
    if (*p == '.') {
        if (!is_digit(*++p)) { return NULL; }
        for (; is_digit(*p); p++) {
            add_digit(d, *p);
            d->power--;
        }
    }
    if (*p == 'e' || *p == 'E') {
        int64_t power = 0;
        bool minus = *++p == '-';
        p += *p == '-' || *p == '+';
        if (!is_digit(*p)) { return NULL; }
        for (; is_digit(*p); p++) { power = power < 100000 ? power * 10 + (*p - '0') : power; }
        d->power += minus ? -power : power;
    }
    return p;
}

/* The f64 near d; false when its nearest f32 is not certain: out of the range of normal numbers, or close to the middle of two. */
static bool round_to_f32(const decimal *d, float *value)
{
    static const double powers[MAX_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const uint64_t dropped = (UINT64_C(1) << 29) - 1, middle = UINT64_C(1) << 28, doubt = 4;
    if (!d->fits || d->power > MAX_POWER || d->power < -MAX_POWER) { return false; }
    double x = (double)d->mantissa;
    x = d->power < 0 ? x / powers[-d->power] : x * powers[d->power];
    if (d->mantissa != 0) {
        uint64_t bits;
        memcpy(&bits, &x, sizeof bits);
        uint64_t low = bits & dropped;
        if (!(x > 2.0 * FLT_MIN && x < 0.5 * FLT_MAX) || (low > middle - doubt && low < middle + doubt)) {
            return false;
        }
    }
    *value = (float)(d->negative ? -x : x);
    return true;
}

size_t hd_scan_f32(const char *text, float *value)
{
    decimal d;
    const char *end = scan(text, &d);
    if (end == NULL) { return 0; }
    if (!round_to_f32(&d, value)) { *value = strtof(text, NULL); }
    return (size_t)(end - text);
}
