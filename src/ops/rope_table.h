/* The angles of RoPE, plain and YaRN, and the softmax scale that belongs to them: made once, on the host, by one
 * function, for every backend.  Never a function of the current sequence length. */
#ifndef HD_OPS_ROPE_TABLE_H
#define HD_OPS_ROPE_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_rope_spec {
    int64_t dim;         /* r: qk_rope_head_dim, even */
    int64_t n_positions; /* P: rows of the table */
    double theta;        /* rope_theta */
    bool yarn;           /* what follows is read only when it is set */
    double factor;
    int64_t original_max_position_embeddings;
    double beta_fast, beta_slow;
    double mscale, mscale_all_dim; /* 0 when absent from the configuration */
    bool truncate;                 /* round the bounds of the ramp to whole pairs; HuggingFace's default is true */
    double attention_factor;       /* on cos and sin; below 0: derived from factor and the two mscales */
} hd_rope_spec;

/* out (P, r / 2, 2): cos and sin of position * w_j, times the attention factor.  Frequencies, angles and products are
 * rounded to f32 where HuggingFace's are, because at long context "more exact" angles are different angles. */
hd_status hd_rope_table(const hd_rope_spec *spec, float *out, hd_err *err) HD_CHECK_RESULT;

/* The r / 2 frequencies alone. */
hd_status hd_rope_frequencies(const hd_rope_spec *spec, float *out, hd_err *err) HD_CHECK_RESULT;

/* a = qk_head_dim^(-1/2) m^2, qk_head_dim = n + r, m = 0.1 mscale_all_dim ln(factor) + 1 under YaRN with factor > 1
 * and mscale_all_dim != 0, else 1. */
double hd_softmax_scale(int64_t qk_head_dim, const hd_rope_spec *spec);

#endif
