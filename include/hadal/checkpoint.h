/* Checkpoints, as the program sees them. */
#ifndef HADAL_CHECKPOINT_H
#define HADAL_CHECKPOINT_H

#include "hadal/status.h"

/* SHA-256, as 64 hexadecimal digits, over the state a checkpoint (or a HuggingFace folder) holds: names, shapes and value bits of
 * weights, master weights and moments, the trainer's values (counts, position in the data, random state) and the step.
 * Independent of how tensors are spread over files and of their order.  `path` is a checkpoint, or a directory of checkpoints
 * or a run directory (then its newest valid one).  Files are verified against the manifest while they are read. */
hd_status hd_state_hash(const char *path, char hex[65], hd_err *err) HD_CHECK_RESULT;

#endif
