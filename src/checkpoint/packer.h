/* A folder's matrices as blocks of integers, made by all threads: what a conversion writes and a load keeps in memory. */
#ifndef HD_CHECKPOINT_PACKER_H
#define HD_CHECKPOINT_PACKER_H

#include <stdint.h>

#include "checkpoint/source.h"
#include "hadal/status.h"
#include "tensor/packed.h"

typedef struct hd_packer hd_packer;

/* Borrows the folder; while hd_packer_run is at work nobody else reads it. */
hd_status hd_packer_open(hd_folder *folder, int n_threads, hd_packer **out, hd_err *err) HD_CHECK_RESULT;
void hd_packer_close(hd_packer *packer); /* accepts NULL */

/* Block rows [first, first + n) of a matrix whose columns are a multiple of 64: n (columns / 64) blocks and as many times 16 scales.
 * HD_E_INVALID for a value that is not finite, naming the tensor. */
hd_status hd_packer_run(hd_packer *packer, const hd_source_tensor *t, hd_dtype dtype, int64_t first, int64_t n, uint8_t *blocks,
                        uint16_t *scales, hd_err *err) HD_CHECK_RESULT;

#endif
