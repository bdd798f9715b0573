/* Teacher-forced logits: what the model in a folder says after each token of a given sequence. */
#ifndef HD_INFER_SCORER_H
#define HD_INFER_SCORER_H

#include <stdint.h>

#include "config/config.h"
#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_scorer hd_scorer;

/* Logits f32 (n, V) of the tokens first .. first + n, on the host, valid during the call.  Called in the order of tokens. */
typedef hd_status (*hd_scorer_rows)(void *context, int64_t first, int64_t n, const float *logits, hd_err *err);

/* Opens the model of a folder with the dtypes and the memory rules of the configuration, for sequences of at most max_tokens.
 * observer may be NULL; it sees every pass, the dry one that finds out the memory included. */
hd_status hd_scorer_open(const hd_config *config, const char *path, int64_t max_tokens, hd_observer observer,
                         void *observer_context, hd_scorer **out, hd_err *err) HD_CHECK_RESULT;
void hd_scorer_close(hd_scorer *scorer); /* accepts NULL */

const hd_dims *hd_scorer_dims(const hd_scorer *scorer);

/* One forward pass over several sequences, each at positions 0, 1, ... and in a segment of its own, so that weights which stay in
 * their files are read once for all.  tokens: one sequence after the other; `first` of the rows counts over all of them.
 * Errors as below. */
hd_status hd_scorer_run_packed(hd_scorer *scorer, const int32_t *tokens, const int64_t *lengths, int64_t n_sequence,
                               hd_scorer_rows take, void *context, hd_err *err) HD_CHECK_RESULT;

/* One forward pass over n tokens at positions 0 .. n - 1, one segment.  HD_E_INVALID for a token outside the vocabulary or a
 * sequence that is empty or too long.  An error of `take` ends the run and comes back. */
hd_status hd_scorer_run(hd_scorer *scorer, const int32_t *tokens, int64_t n, hd_scorer_rows take, void *context,
                        hd_err *err) HD_CHECK_RESULT;

#endif
