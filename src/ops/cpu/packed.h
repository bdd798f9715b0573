/* Products of rounded inputs with packed integer weights:  y (+)= x W^T, plain and per expert.  Contract: linear in ops.h. */
#ifndef HD_OPS_CPU_PACKED_H
#define HD_OPS_CPU_PACKED_H

#include "ops/cpu/isa.h"

#define HD_PACKED_PASTE(name, isa) name##_##isa
#define HD_PACKED_EXPAND(name, isa) HD_PACKED_PASTE(name, isa)
#define hd_packed_products HD_PACKED_EXPAND(hd_packed_products, HD_ISA)

/* A list as hd_products_fwd takes it, all weights with round_inputs. */
hd_status hd_packed_products(hd_exec *ex, const hd_product *list, int n, hd_err *err) HD_CHECK_RESULT;

#endif
