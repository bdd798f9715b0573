/* Finding checkpoints: the newest valid one is found by looking, never by a pointer file. */
#ifndef HD_CHECKPOINT_SCAN_H
#define HD_CHECKPOINT_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "hadal/status.h"

/* The steps that have a directory entry in `dir` (of any kind), ascending.  Free *steps with hd_free. */
hd_status hd_scan_steps(const char *dir, int64_t **steps, int64_t *n, hd_err *err) HD_CHECK_RESULT;

/* What is done with a candidate; `step` is the number of its directory, -1 for a path that is one checkpoint or folder. */
typedef hd_status (*hd_scan_body)(void *arg, const char *path, int64_t step, hd_err *err);

/* Calls body on the checkpoints in `dir`, newest first, until it succeeds.  A candidate that is damaged or unreadable
 * (HD_E_CORRUPT, HD_E_IO) is logged as a warning and passed over; any other failure ends the search.  *found false and HD_OK
 * when there is no candidate at all; HD_E_CORRUPT when all are damaged. */
hd_status hd_scan_newest(const char *dir, hd_scan_body body, void *arg, bool *found, hd_err *err) HD_CHECK_RESULT;

/* The same for a path of a user: a checkpoint or model folder itself, a directory of checkpoints, a run directory, or a name in the
 * hub's cache (hub.h).
 * HD_E_CONFIG when there is nothing to read. */
hd_status hd_scan_path(const char *path, hd_scan_body body, void *arg, hd_err *err) HD_CHECK_RESULT;

#endif
