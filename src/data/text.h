/* dataset_type=text: documents of UTF-8 text, tokenized, cut into pieces, shuffled and packed.
 * The last eval_fraction of the bytes, a contiguous stretch, is the evaluation split; training sees the rest. */
#ifndef HD_DATA_TEXT_H
#define HD_DATA_TEXT_H

#include "data/dataset.h"

hd_status hd_text_open(const hd_config *config, hd_split split, int64_t vocab_size, hd_dataset **out, hd_err *err) HD_CHECK_RESULT;

#endif
