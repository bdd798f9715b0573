/* Names inside a directory of checkpoints: "<step>" is a checkpoint, "<step>.tmp.<hex>" is one being written or removed.
 * Nothing else there belongs to hadal. */
#ifndef HD_CHECKPOINT_NAMES_H
#define HD_CHECKPOINT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HD_STEP_NAME_MAX = 64 };

/* "0", "250": decimal digits, no leading zero, at most 18 of them. */
bool hd_step_name_parse(const char *name, int64_t *step);

/* "250.tmp.0f3c...": step as above, 16 lower-case hexadecimal digits. */
bool hd_partial_name_parse(const char *name, int64_t *step);

void hd_step_name(int64_t step, char name[HD_STEP_NAME_MAX]);
void hd_partial_name(int64_t step, uint64_t random, char name[HD_STEP_NAME_MAX]);

/* A name that an index or a manifest may give: one or (with allow_folder) two components of printable ASCII without
 * '\\' or ':', none beginning with '.', at most 200 bytes. */
bool hd_plain_file_name(const char *name, size_t len, bool allow_folder);

#endif
