/* A folder as the source of a streamed model (model/model.h: hd_weight_stream): weights are read when they are used, so that a
 * model larger than memory runs forward. */
#ifndef HD_CHECKPOINT_STREAM_H
#define HD_CHECKPOINT_STREAM_H

#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_ckpt_stream hd_ckpt_stream;

/* Opens a folder (paths as in hd_ckpt_load_parameters) and checks that it is a whole model of these dims. */
hd_status hd_ckpt_stream_open(const char *path, const hd_dims *dims, hd_ckpt_stream **out, hd_err *err) HD_CHECK_RESULT;
void hd_ckpt_stream_close(hd_ckpt_stream *stream); /* accepts NULL */

/* Makes the folder the source of a model that was opened with options.streamed and these dims.  arena holds the largest unit, and with it
 * an expert's matrix.  Weights that the folder stores as BF16 stay BF16, whose products are the same as with them widened;
 * others have options.weight_dtype.  Once per opened model. */
hd_status hd_ckpt_stream_attach(hd_ckpt_stream *stream, hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err) HD_CHECK_RESULT;

#endif
