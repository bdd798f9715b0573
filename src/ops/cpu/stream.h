/* Products whose weights are read once, as they lie:  y (+)= x W^T, plain, per expert and per head.  Contract: linear in ops.h.
 *
 * Two kinds of weights: packed integers, with inputs rounded to codes; BF16 and F32, with sums by lanes (hd_exec.by_lanes).  Both give a row
 * the same bits whatever rows stand beside it, and both can stand in one list.
 * Reading order: stream_job.h (the work), stream_packed.h and stream_lanes.h (the two kinds), stream.c (the loops). */
#ifndef HD_OPS_CPU_STREAM_H
#define HD_OPS_CPU_STREAM_H

#include "ops/cpu/isa.h"

#define HD_STREAM_PASTE(name, isa) name##_##isa
#define HD_STREAM_EXPAND(name, isa) HD_STREAM_PASTE(name, isa)
#define hd_stream_takes HD_STREAM_EXPAND(hd_stream_takes, HD_ISA)
#define hd_stream_products HD_STREAM_EXPAND(hd_stream_products, HD_ISA)
#define hd_stream_heads HD_STREAM_EXPAND(hd_stream_heads, HD_ISA)

/* Whether forward products with w are to be run by this file's functions. */
bool hd_stream_takes(const hd_exec *ex, const hd_weight *w);

/* A list as hd_products_fwd takes it, of weights that hd_stream_takes. */
hd_status hd_stream_products(hd_exec *ex, const hd_product *list, int n, hd_err *err) HD_CHECK_RESULT;

/* One matrix per head h:  y[i, h M + m] = sum_k x[i H + h, k] W[h step + first + m, k],  i < N.
 * x (N H, K) and y (N, H M), act, any row stride; w (.., K) BF16 or F32, [out, in]; M follows from y. */
typedef struct hd_stream_head_rows { int64_t n_head, first, step; } hd_stream_head_rows;
hd_status hd_stream_heads(hd_exec *ex, const hd_tensor *x, const hd_weight *w, const hd_stream_head_rows *rows, hd_tensor *y, hd_err *err) HD_CHECK_RESULT;

#endif
