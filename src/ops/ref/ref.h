/* The reference backend: one function per op, hd_ref_<op>, with the signature of the public hd_<op>.
 * The definitions stand in the files of this folder, each under its full name. */
#ifndef HD_OPS_REF_REF_H
#define HD_OPS_REF_REF_H

#include "ops/ops.h"

#define HD_REF_DECLARE(op) __typeof__(hd_##op) hd_ref_##op;
HD_OP_LIST(HD_REF_DECLARE)
#undef HD_REF_DECLARE

/* n doubles of scratch; *out stays NULL on a dry executor. */
hd_status hd_ref_scratch(hd_exec *ex, int64_t n, double **out, hd_err *err) HD_CHECK_RESULT;

#endif
