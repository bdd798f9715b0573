/* What a checkpoint holds beside weights and moments, and how many ranks a run has. */
#ifndef HD_TRAIN_RUN_STATE_H
#define HD_TRAIN_RUN_STATE_H

#include "checkpoint/checkpoint.h"
#include "train/trainer.h"

enum { HD_RUN_STATE_VALUES = 7 };

/* Binds a trainer to the checkpoint interface: saving reads these fields, loading writes them.  Not movable once bound. */
typedef struct hd_run_state {
    hd_ckpt_state ckpt;
    hd_ckpt_value values[HD_RUN_STATE_VALUES];
    int64_t rows;             /* position in the data: rows consumed by the whole job */
    int64_t data_fingerprint; /* bits of hd_dataset.fingerprint */
    int64_t row_length;
    int64_t init_seed, shuffle_seed;
} hd_run_state;

void hd_run_state_bind(hd_run_state *state, hd_trainer *t);

/* Ranks that the mesh keys ask for; HD_E_UNSUPPORTED for an axis that hadal does not have. */
hd_status hd_rank_count(const hd_config *config, int *n_rank, hd_err *err) HD_CHECK_RESULT;

#endif
