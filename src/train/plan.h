/* The memory of a run, found by running it dry: the trainer's own allocation code on arenas without memory. */
#ifndef HD_TRAIN_PLAN_H
#define HD_TRAIN_PLAN_H

#include "checkpoint/checkpoint.h"
#include "train/trainer.h"

typedef struct hd_run_plan {
    hd_arena_sizes arenas;   /* per rank, the exact high-water marks */
    size_t snapshot_bytes;   /* of rank 0, for asynchronous checkpoints; 0 when they are synchronous */
    size_t host_bytes;       /* batches and staging on the host, per rank */
    size_t weight_bytes, gradient_bytes, master_bytes, moment_bytes, tree_bytes, other_bytes; /* parts of arenas.model */
    int64_t checkpoint_bytes;    /* on disk */
    int64_t n_param, n_active_param, n_mtp_param, n_trained_param;
    double maxtext_tflops, model_tflops; /* per device and step */
} hd_run_plan;

/* n_rank ranks; the figures are those of rank 0. */
hd_status hd_run_plan_make(const hd_config *config, int n_rank, hd_run_plan *plan, hd_err *err) HD_CHECK_RESULT;

size_t hd_run_plan_total(const hd_run_plan *plan); /* bytes one device holds */

/* HD_E_CONFIG when device_memory_gb is set and smaller than the total. */
hd_status hd_run_plan_check(const hd_config *config, const hd_run_plan *plan, hd_err *err) HD_CHECK_RESULT;

/* Makes the plan fit device_memory_gb, or what this machine has free: without the snapshot checkpoints are saved synchronously,
 * which is logged.  HD_E_CONFIG or HD_E_NOMEM, naming both figures, when it does not fit even so. */
hd_status hd_run_plan_fit(const hd_config *config, int n_rank, hd_run_plan *plan, hd_err *err) HD_CHECK_RESULT;

#endif
