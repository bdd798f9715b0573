/* Writing one checkpoint into a fresh directory: every file allocated, checksummed, synced and closed, the manifest last, then the
 * directories synced.  What happens to the directory (its name, who may see it) is the store's business. */
#ifndef HD_CHECKPOINT_SAVE_H
#define HD_CHECKPOINT_SAVE_H

#include <stdbool.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/layout.h"
#include "checkpoint/manifest.h"

/* Everything a save needs.  With a snapshot it touches neither state nor executor, so that a thread can run it. */
typedef struct hd_save_job {
    hd_ckpt_layout layout;
    hd_manifest manifest;          /* values and step; the files are filled in while writing */
    const unsigned char *snapshot; /* NULL: tensors are read through ex */
    hd_exec *ex;
    const hd_ckpt_state *state;
    bool allow_nonfinite;
    bool sync_failed;              /* set when an fsync failed: what was written must be written again elsewhere */
} hd_save_job;

/* Plans the files and records the host values. */
hd_status hd_save_job_open(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_save_job *job, hd_err *err) HD_CHECK_RESULT;
void hd_save_job_close(hd_save_job *job); /* accepts a zeroed one */

/* HD_E_UNSUPPORTED when no reader would accept a manifest of this length.  A plan may describe such a checkpoint. */
hd_status hd_save_check_manifest(const hd_save_job *job, hd_err *err) HD_CHECK_RESULT;

/* Copies the state into layout.snapshot_bytes of memory and makes the job use it.  HD_E_NONFINITE unless allowed. */
hd_status hd_save_snapshot(hd_save_job *job, hd_exec *ex, const hd_ckpt_state *state, unsigned char *memory, hd_err *err)
    HD_CHECK_RESULT;

/* Bytes that the disk must have free. */
int64_t hd_save_need(const hd_save_job *job);

/* `dir` must exist and be empty.  On failure it holds a partial checkpoint, without a manifest or not synced. */
hd_status hd_save_write(hd_save_job *job, const char *dir, hd_err *err) HD_CHECK_RESULT;

#endif
