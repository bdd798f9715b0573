/* Work of a training step, counted two ways.  MaxText's formula makes figures comparable with its tables (spec section 3.11);
 * the honest count is what the mathematics needs: every product of forward and backward, attention over the causal pairs
 * only, the MTP projection and head included, recomputation excluded. */
#ifndef HD_TRAIN_FLOPS_H
#define HD_TRAIN_FLOPS_H

#include "model/dims.h"

typedef struct hd_flops { double total, weights, attention; } hd_flops; /* FLOPs, a multiply and an add are two */

/* n_seq sequences of seq_len tokens on one device in one micro-step. */
hd_flops hd_flops_maxtext(const hd_dims *dims, double n_seq, int64_t seq_len);
hd_flops hd_flops_model(const hd_dims *dims, double n_seq, int64_t seq_len);

#endif
