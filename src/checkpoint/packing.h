/* Folders whose matrices are stored as integers in blocks (tensor/packed.h): which matrices, under which names, of what shape.
 *
 * A packed matrix X.weight (out, in) is two tensors: X.weight, U8 (out' / 16, in / 64, bytes of a block), and X.weight_scale, BF16
 * (out' / 16, in / 64, 16), with out' = out rounded up to 16.  config.json says so in quantization_config, and its numbers of the model give
 * out and in.  docs/quantization.md is the user's side. */
#ifndef HD_CHECKPOINT_PACKING_H
#define HD_CHECKPOINT_PACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "hadal/status.h"
#include "model/dims.h"
#include "tensor/packed.h"

#define HD_PACKED_SCALE_SUFFIX "_scale"

/* Whether a matrix of this name is packed in a folder of `bits` (8 or 4), and as what.  The table of these rules is in packing.c. */
bool hd_packing_dtype(const char *name, int64_t in, int bits, hd_dtype *dtype);

/* Whether the inputs of a packed matrix of this name are rounded to 16 bits and not to 8 (hd_weight.fine_inputs), by the same table. */
bool hd_packing_fine_inputs(const char *name, hd_dtype dtype);

/* (out, in) of a matrix of the model; false when no matrix has this name. */
bool hd_packing_shape(const hd_dims *dims, const char *name, int64_t shape[2]);

/* The bits that config.json's quantization_config speaks of when hadal wrote it; 0 when there is no such folder, or no readable JSON,
 * which whoever reads the rest says.  HD_E_CONFIG for a form that this program does not know. */
hd_status hd_packing_read(const char *config, size_t n, const char *name, int *bits, hd_err *err) HD_CHECK_RESULT;

/* The quantization_config of such a folder. */
void hd_packing_write(hd_json_writer *w, int bits);

#endif
