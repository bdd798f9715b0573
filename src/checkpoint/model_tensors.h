/* Which tensor of a folder each parameter of a model is, for models whose weights stay in files. */
#ifndef HD_CHECKPOINT_MODEL_TENSORS_H
#define HD_CHECKPOINT_MODEL_TENSORS_H

#include <stdint.h>

#include "checkpoint/source.h"
#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_model_tensors {
    hd_source_tensor *rows;
    int64_t *first; /* of each param: its row, of expert 0 when it has experts, which follow */
} hd_model_tensors;

/* The folder is a whole model of these dims (hd_load_check).  Of a training checkpoint an f32 weight is its master, as in a load.  Replaces
 * what was in `out`; free with hd_model_tensors_free. */
hd_status hd_model_tensors_find(const hd_folder *folder, const hd_model *model, hd_model_tensors *out, hd_err *err) HD_CHECK_RESULT;
void hd_model_tensors_free(hd_model_tensors *t); /* accepts a zeroed one */

/* Experts of a param; 1 when it has none. */
int64_t hd_param_matrices(const hd_param *param);

/* The values of a tensor into a contiguous one of a float dtype, by way of `piece`, HD_LOAD_PIECE elements.  Nothing on a dry executor. */
hd_status hd_model_tensor_upload(hd_source *source, const hd_source_tensor *t, hd_exec *ex, void *piece, hd_tensor *to, hd_err *err) HD_CHECK_RESULT;

#endif
