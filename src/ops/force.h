/* HADAL_FORCE: which implementations to use, for bisecting a numerical fault: "linear_fwd=ref,rope=ref,isa=avx2".
 * Every entry is OP=ref (the slot stays with ref) or isa=base|avx2|avx512 (the kernels of another instruction set);
 * "all=ref" gives the reference backend. */
#ifndef HD_OPS_FORCE_H
#define HD_OPS_FORCE_H

#include "hadal/status.h"
#include "ops/ops.h"

/* Applies the OP=ref entries to a table.  HD_E_CONFIG names an entry that is not understood. */
hd_status hd_force_apply(hd_ops *ops, const char *force, hd_err *err) HD_CHECK_RESULT;

/* The instruction set asked for, copied to name (at least 16 bytes); "" when none is. */
void hd_force_isa(const char *force, char *name);

#endif
