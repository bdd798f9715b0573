/* A golden file of hadal's own: logits of given texts by one folder, to compare another format of the same model with. */
#ifndef HD_EVAL_REFERENCE_H
#define HD_EVAL_REFERENCE_H

#include <stdint.h>

#include "config/config.h"
#include "eval/golden_write.h"
#include "hadal/status.h"
#include "infer/scorer.h"

/* Writes a record for each prompt of prompt, prompt_file and documents.  max_tokens: most of a prompt, a longer one is HD_E_CONFIG; of each the
 * first token_size count. */
hd_status hd_reference_write(const hd_config *config, hd_scorer *scorer, int64_t max_tokens, int64_t token_size, hd_golden_writer *writer,
                             hd_err *err) HD_CHECK_RESULT;

#endif
