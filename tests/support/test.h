/* What every test program includes first: cmocka with the headers it wants, and the comparators. */
#ifndef HD_TESTS_SUPPORT_TEST_H
#define HD_TESTS_SUPPORT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
