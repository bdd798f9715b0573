/* Answers from prompts: the loop around the engine.  Chooses tokens, ends answers, and keeps the sessions busy.
 *
 * A generator has slots, each a session of the engine.  Free slots take prompts in their order; all busy ones step together, and one
 * whose answer ends takes the next prompt.  An answer depends on its prompt, its seed and the weights: not on what is answered
 * beside it, nor on the number of slots or threads. */
#ifndef HD_INFER_GENERATE_H
#define HD_INFER_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "config/config.h"
#include "hadal/status.h"
#include "infer/engine.h"
#include "infer/sample.h"
#include "infer/stops.h"
#include "tokenizer/tokenizer.h"

typedef enum hd_finish {
    HD_FINISH_OPEN,       /* still being made, or not begun */
    HD_FINISH_EOS,        /* the model ended it */
    HD_FINISH_STOP,       /* by a stop text */
    HD_FINISH_LENGTH,     /* prompt and answer have as many tokens as they may */
    HD_FINISH_INTERRUPTED /* generating was stopped */
} hd_finish;

const char *hd_finish_name(hd_finish finish); /* "eos" */

/* One prompt and what becomes of it.  Zeroed but for ids and seed before hd_generate. */
typedef struct hd_answer {
    hd_ids ids;       /* the prompt; then also the answer, without the eos that ended it */
    uint64_t seed;    /* of its draws: token number p is drawn with value p of that stream */
    int64_t n_prompt; /* tokens */
    hd_buf text;      /* valid UTF-8 */
    size_t n_settled; /* bytes of it that stay; what is behind may turn out to begin a stop text */
    hd_buf log_probs; /* a double per token of the answer, of the model's own distribution; empty unless return_log_prob */
    hd_finish finish;
    double first_s;   /* from when its prompt was taken to its first token */
    hd_decode_stream stream;
} hd_answer;

void hd_answer_free(hd_answer *answer); /* accepts a zeroed one */
int64_t hd_answer_length(const hd_answer *answer); /* tokens */

typedef struct hd_generator_options {
    int64_t n_slot, most;  /* sessions; tokens of prompt and answer */
    int64_t chunk;         /* tokens of a prompt in one pass */
    int64_t prefix_grain;  /* what a slot's cache has in common with a new prompt is kept in multiples of this: `chunk` leaves every
                            * bit as if the prompt were read alone, 1 keeps all */
} hd_generator_options;

/* What happens around the loop; each may be NULL. */
typedef struct hd_generate_hooks {
    void *context;
    void (*grown)(void *context, const hd_answer *answer);                   /* text was settled */
    hd_status (*ended)(void *context, const hd_answer *answer, hd_err *err); /* finish is known */
    bool (*stopped)(void *context);                                          /* asked between passes: end all answers here */
} hd_generate_hooks;

/* Since the generator was opened. */
typedef struct hd_generate_totals {
    int64_t n_read, n_kept;    /* tokens of prompts: computed, found in the cache */
    int64_t n_answer, n_token; /* answers ended; their tokens */
    int64_t n_step, n_stepped; /* steps; tokens that came from them (the first of an answer comes from its prompt) */
    double read_s, step_s;
} hd_generate_totals;

typedef struct hd_generator hd_generator;

/* Opens the engine on a folder; messages as hd_engine_open, and HD_E_CONFIG when the tokenizer has more tokens than the model.
 * config and tokenizer stay the caller's and outlive the generator. */
hd_status hd_generator_open(const hd_config *config, const char *path, const hd_tokenizer *tokenizer, const hd_generator_options *options,
                            hd_generator **out, hd_err *err) HD_CHECK_RESULT;
void hd_generator_close(hd_generator *generator); /* accepts NULL */

const hd_engine *hd_generator_engine(const hd_generator *generator);
const hd_generate_totals *hd_generator_totals(const hd_generator *generator);

/* Answers n prompts.  Prompts have 1 to most - 1 tokens.  After an interruption the answers begun are HD_FINISH_INTERRUPTED, the others
 * HD_FINISH_OPEN, and the result is HD_OK.  HD_E_NONFINITE when a model's logits are not numbers. */
hd_status hd_generate(hd_generator *generator, hd_answer *answers, size_t n, const hd_generate_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

#endif
