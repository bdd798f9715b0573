/* Reading a folder into a model: every tensor matched before the first byte moves, then copied in bounded pieces, in the
 * order of the files. */
#ifndef HD_CHECKPOINT_LOAD_H
#define HD_CHECKPOINT_LOAD_H

#include <stdint.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/source.h"
#include "hadal/status.h"

enum {
    HD_LOAD_PIECE = 1 << 20,                            /* elements at a time */
    HD_LOAD_STAGING_BYTES = 8 * HD_LOAD_PIECE + HD_SOURCE_STAGE + (1 << 20) /* a piece as converted, as stored, and one verified block */
};

/* Everything: weights, masters, moments, the trainer's values, the step.  step: what the manifest must say, -1 any. */
hd_status hd_load_state(const char *path, int64_t step, hd_exec *ex, hd_ckpt_state *state, hd_err *err) HD_CHECK_RESULT;

/* Weights and masters only. */
hd_status hd_load_parameters(const char *path, int64_t step, hd_exec *ex, hd_model *model, hd_err *err) HD_CHECK_RESULT;

/* Whether the folder is a whole model of these dims: every tensor there, of its shape, and no other.  Reads no values. */
hd_status hd_load_check(hd_folder *folder, const hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

#endif
