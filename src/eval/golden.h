/* Golden files: JSON lines of {"prompt", "tokens", "logits", ...}, as MaxText's and hadal's generators write them (docs/check.md).
 * A record is first scanned whole, without keeping its logits; then they are read row by row: memory is one row. */
#ifndef HD_EVAL_GOLDEN_H
#define HD_EVAL_GOLDEN_H

#include <stdbool.h>
#include <stdint.h>

#include "hadal/status.h"

/* Experts that the golden model chose, by MoE layer; n_layer 0 when the file does not say. */
typedef struct hd_golden_experts {
    int64_t n_layer, n_token, top_k;
    int64_t *layers; /* (n_layer) index of each among all layers */
    int32_t *ids;    /* (n_layer, n_token, top_k) */
    float *gaps;     /* (n_layer, n_token): from the last expert or group that was taken to the first that was not */
} hd_golden_experts;

typedef struct hd_golden_record {
    int64_t line; /* in the file, from 1 */
    char *prompt;
    int32_t *tokens;
    int64_t n_token;
    char made_by[256]; /* versions, class and dtype, in words; "" when the file does not say */
    hd_golden_experts experts;
} hd_golden_record;

typedef struct hd_golden hd_golden;

/* HD_E_UNSUPPORTED for a pickle, telling how to make JSON lines. */
hd_status hd_golden_open(const char *path, hd_golden **out, hd_err *err) HD_CHECK_RESULT;
void hd_golden_close(hd_golden *golden); /* accepts NULL */

/* Back to the first record. */
void hd_golden_rewind(hd_golden *golden);

/* The next record, valid until the next call; *record NULL at the end of the file.  HD_E_CORRUPT, naming file, line and column, for
 * what is no JSON, a record without prompt, tokens or logits, or one whose logits are not a row per token. */
hd_status hd_golden_next(hd_golden *golden, const hd_golden_record **record, hd_err *err) HD_CHECK_RESULT;

/* The next row of the record's logits, valid until the next call.  All rows of a file have one length.  HD_E_CORRUPT for
 * what is no finite number of f32.  At most n_token calls per record. */
hd_status hd_golden_row(hd_golden *golden, const float **row, int64_t *n, hd_err *err) HD_CHECK_RESULT;

#endif
