/* Names of files as text; touches no file. */
#ifndef HD_BASE_PATH_H
#define HD_BASE_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

/* dir + "/" + name, no second slash when dir ends in one; an absolute name stands alone, an empty dir adds nothing.
 * Free with hd_free. */
hd_status hd_path_join(const char *dir, const char *name, char **out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_path_join_n(const char *dir, const char *name, size_t name_len, char **out, hd_err *err) HD_CHECK_RESULT;

/* Everything before the last component: "a" of "a/b", "." of "b", "/" of "/b".  Free with hd_free. */
hd_status hd_path_dir(const char *path, char **out, hd_err *err) HD_CHECK_RESULT;

/* The last component: "b" of "a/b"; "" of "a/".  A pointer into path. */
const char *hd_path_base(const char *path);

/* Whether text is the name of something directly inside a directory: 1 to 255 bytes, no '/', no NUL, not "." or "..". */
bool hd_path_is_plain_name(const char *text, size_t n);

/* Whether text ends in `end`. */
bool hd_text_ends_with(const char *text, const char *end);

#endif
