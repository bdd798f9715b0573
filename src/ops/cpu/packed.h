/* Products of rounded inputs with packed integer weights:  y (+)= x W^T, plain and per expert.  Contract: linear in ops.h. */
#ifndef HD_OPS_CPU_PACKED_H
#define HD_OPS_CPU_PACKED_H

#include "ops/cpu/isa.h"

#define HD_PACKED_PASTE(name, isa) name##_##isa
#define HD_PACKED_EXPAND(name, isa) HD_PACKED_PASTE(name, isa)
#define hd_packed_linear HD_PACKED_EXPAND(hd_packed_linear, HD_ISA)

/* x (N, K), w (M, K) or (E, M, K) with offsets (E + 1), NULL without experts; y (N, M). */
hd_status hd_packed_linear(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w, hd_accum accum, const hd_tensor *y,
                           hd_err *err) HD_CHECK_RESULT;

#endif
