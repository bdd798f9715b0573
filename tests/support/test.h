/* What every test program includes first: cmocka with the headers it wants, and the comparators. */
#ifndef HD_TESTS_SUPPORT_TEST_H
#define HD_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hadal/status.h"
#include "support/compare.h"
#include "support/gen.h"
#include "support/temp.h"

/* Asserts that a call succeeds and shows the message when it does not; there is an `hd_err err` in scope. */
#define assert_ok(call)                                \
    do {                                               \
        err.msg[0] = '\0';                             \
        if ((call) != HD_OK) {                         \
            print_error("  %s: %s\n", #call, err.msg); \
            fail();                                    \
        }                                              \
    } while (0)

/* Asserts that a call fails with a code and that its message holds a text. */
#define assert_fails(call, wanted_code, wanted_text)                                                         \
    do {                                                                                                     \
        err.msg[0] = '\0';                                                                                   \
        hd_status seen_ = (call);                                                                            \
        if (seen_ != (wanted_code) || err.code != (wanted_code) || strstr(err.msg, (wanted_text)) == NULL) { \
            print_error("  %s: %s, \"%s\"; want %s, \"%s\"\n", #call, hd_status_name(seen_), err.msg,        \
                        hd_status_name(wanted_code), (wanted_text));                                         \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)

#endif
