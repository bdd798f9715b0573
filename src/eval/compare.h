/* Logits of one prompt beside golden ones, row by row: divergence, differences, argmax, top tokens. */
#ifndef HD_EVAL_COMPARE_H
#define HD_EVAL_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

enum { HD_COMPARE_TOP = 10 };

/* What must hold.  A limit that is NaN is not set. */
typedef struct hd_compare_rules {
    double max_kl;     /* KL(golden || ours) below it at every position */
    double atol, rtol; /* |ours - golden| <= atol + rtol |golden| for every logit */
    double clip;       /* probabilities are raised to it and renormalised before the divergence */
} hd_compare_rules;

typedef struct hd_compare {
    hd_compare_rules rules;
    int64_t n_row;
    double max_kl, sum_kl; /* natural logarithm; NaN once a row's is */
    int64_t max_kl_position;
    double max_diff, sum_diff; /* of |ours - golden|; NaN once one is */
    int64_t max_diff_position, max_diff_token;
    float max_diff_ours, max_diff_golden;
    double max_golden;         /* largest |golden| */
    int64_t n_logit, n_beyond; /* compared; beyond atol and rtol */
    int64_t n_argmax;          /* rows whose largest logit is another token's */
    int64_t n_top;             /* tokens in both lists of the HD_COMPARE_TOP likeliest, all rows together */
    int64_t n_top_possible;
} hd_compare;

void hd_compare_begin(const hd_compare_rules *rules, hd_compare *c);

/* n logits of a position. */
void hd_compare_row(hd_compare *c, int64_t position, const float *ours, const float *golden, int64_t n);

/* Whether every limit that is set holds.  NaN holds none; no row, none either. */
bool hd_compare_passes(const hd_compare *c);

#endif
