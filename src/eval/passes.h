/* The prompts of a golden file gathered for forward passes: short ones share a pass. */
#ifndef HD_EVAL_PASSES_H
#define HD_EVAL_PASSES_H

#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_passes {
    int32_t *tokens;  /* of all prompts, one after the other */
    int64_t *lengths; /* (n_prompt) */
    int64_t n_prompt, n_token;
    int64_t prompt_capacity, token_capacity;
} hd_passes; /* a zeroed one is empty and ready */

hd_status hd_passes_add(hd_passes *p, const int32_t *tokens, int64_t n, hd_err *err) HD_CHECK_RESULT;
void hd_passes_free(hd_passes *p);

/* How many prompts from `first` on fit one pass of at most `limit` tokens, at least one, and their tokens together. */
int64_t hd_passes_fit(const hd_passes *p, int64_t first, int64_t limit, int64_t *n_token);

#endif
