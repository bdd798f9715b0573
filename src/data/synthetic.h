/* dataset_type=synthetic: one batch of random tokens, repeated every step, as in MaxText. */
#ifndef HD_DATA_SYNTHETIC_H
#define HD_DATA_SYNTHETIC_H

#include "data/dataset.h"

hd_status hd_synthetic_open(const hd_config *config, hd_split split, int64_t vocab_size, int64_t n_row_batch, hd_dataset **out,
                            hd_err *err)
    HD_CHECK_RESULT;

#endif
