/* What `hadal check` says about one prompt: lines for people, one JSON object for programs. */
#ifndef HD_EVAL_REPORT_H
#define HD_EVAL_REPORT_H

#include "base/buf.h"
#include "eval/compare.h"
#include "eval/golden.h"
#include "eval/routing.h"

typedef struct hd_check_result {
    int64_t number; /* of the prompt in the file, from 1 */
    const hd_golden_record *record;
    hd_compare compare;
    hd_routing_flips flips;
    bool passed;
    bool in_f32; /* activations: then rounding explains near-ties only */
} hd_check_result;

/* As HD_LOG_RESULT lines. */
void hd_check_report(const hd_check_result *r);

/* One line of JSON with its newline; numbers that are NaN are null. */
void hd_check_report_json(const hd_check_result *r, hd_buf *out);

#endif
