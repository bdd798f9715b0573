/* The activations of a forward pass beside those of a dump (safetensors, written by tools/hf_golden_logits.py --dump): which is the
 * first that differs.  docs/check.md lists the names. */
#ifndef HD_EVAL_BISECT_H
#define HD_EVAL_BISECT_H

#include <stdint.h>

#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_bisect hd_bisect;

/* No dump is open yet; what is observed is dropped.  dims and options say how large differences may be. */
hd_status hd_bisect_new(const hd_dims *dims, const hd_model_options *options, hd_bisect **out,
                        hd_err *err) HD_CHECK_RESULT;
void hd_bisect_free(hd_bisect *b); /* accepts NULL */

/* An hd_observer whose context is an hd_bisect. */
hd_status hd_bisect_observe(void *b, hd_exec *ex, hd_arena *step, const char *name, int64_t layer, const hd_tensor *t,
                            hd_err *err);

/* Opens a dump, closing the one before: *tokens are those it is of.  HD_E_CORRUPT names file and tensor. */
hd_status hd_bisect_dump(hd_bisect *b, const char *path, const int32_t **tokens, int64_t *n,
                         hd_err *err) HD_CHECK_RESULT;

/* After the pass: logs the table; *first is the first tensor that differs, NULL when none does. */
hd_status hd_bisect_report(const hd_bisect *b, const char **first, hd_err *err) HD_CHECK_RESULT;

#endif
