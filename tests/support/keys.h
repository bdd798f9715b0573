/* Configurations for tests, from key=value words separated by blanks. */
#ifndef HD_TESTS_SUPPORT_KEYS_H
#define HD_TESTS_SUPPORT_KEYS_H

#include <stdarg.h>
#include <stdio.h>

#include "hadal/config.h"
#include "support/test.h"

enum { HD_TEST_KEYS_TEXT = 8192, HD_TEST_KEYS_MAX = 64 };

static inline hd_status hd_test_load_keys(const char *command, const char *keys, hd_config **config, hd_err *why)
{
    char text[HD_TEST_KEYS_TEXT];
    const char *argv[HD_TEST_KEYS_MAX];
    int n = 0;
    assert_true(snprintf(text, sizeof text, "%s", keys) < (int)sizeof text);
    for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(n < HD_TEST_KEYS_MAX);
        argv[n++] = word;
    }
    return hd_config_load(command, n, argv, "configs", config, why);
}

/* The same from a format; it must be a good configuration. */
static inline HD_PRINTF(2, 3) hd_config *hd_test_config(const char *command, const char *format, ...)
{
    char keys[HD_TEST_KEYS_TEXT];
    hd_err why;
    hd_config *config = NULL;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(keys, sizeof keys, format, args);
    va_end(args);
    assert_true(n >= 0 && n < (int)sizeof keys);
    if (hd_test_load_keys(command, keys, &config, &why) != HD_OK) { fail_msg("%s: %s", keys, why.msg); }
    return config;
}

#endif
