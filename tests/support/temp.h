/* A directory of the test's own, removed at the end. */
#ifndef HD_TESTS_SUPPORT_TEMP_H
#define HD_TESTS_SUPPORT_TEMP_H

/* cmocka set-up and tear-down: *state becomes the path (a C string). */
int hd_temp_setup(void **state);
int hd_temp_teardown(void **state);

/* "directory/name" in one of a few static buffers: use it before the fourth call after. */
const char *hd_temp_path(const char *directory, const char *name);

#endif
