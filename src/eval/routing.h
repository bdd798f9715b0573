/* Which experts our model chose, collected while it runs, beside those of a golden record. */
#ifndef HD_EVAL_ROUTING_H
#define HD_EVAL_ROUTING_H

#include <stdint.h>

#include "eval/golden.h"
#include "model/model.h"

/* Above this distance between the last expert taken and the first left out, rounding does not explain another choice. */
#define HD_ROUTING_NEAR_TIE 1e-5

typedef struct hd_routing_log {
    int64_t max_tokens, top_k, n_layer;
    int32_t *ids; /* (n_layer, max_tokens, top_k); dense layers unused */
} hd_routing_log;

hd_status hd_routing_log_open(const hd_dims *dims, int64_t max_tokens, hd_routing_log *log,
                              hd_err *err) HD_CHECK_RESULT;
void hd_routing_log_close(hd_routing_log *log); /* accepts a zeroed one */

/* An hd_observer whose context is the log. */
hd_status hd_routing_observe(void *log, hd_exec *ex, hd_arena *step, const char *name, int64_t layer,
                             const hd_tensor *t, hd_err *err);

typedef struct hd_routing_flips {
    int64_t n_choice;   /* tokens x MoE layers compared; 0 when the golden file does not say */
    int64_t n_flip;     /* another set of experts */
    int64_t n_wide;     /* of them with a gap of HD_ROUTING_NEAR_TIE or more */
    double largest_gap; /* among flips */
} hd_routing_flips;

/* The first n tokens of the record, which stand at `begin` in the pass that was observed.  HD_E_CORRUPT when the golden record names other layers or another number of experts than the model has. */
hd_status hd_routing_compare(const hd_routing_log *log, int64_t begin, const hd_golden_experts *golden, int64_t n,
                             hd_routing_flips *flips, hd_err *err) HD_CHECK_RESULT;

#endif
