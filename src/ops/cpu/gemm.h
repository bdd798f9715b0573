/* Matrix products of the cpu backend:  C (m, n) (+)= A (m, k) B (k, n), one or many at a time, f32 accumulation.
 *
 * A and B are f32 or bf16 with any row and column stride (so either weight layout, and the transposed operands of a
 * weight gradient); C is f32 or bf16 with stride 1 on n.  B may also be the transpose of a stored weight (gemm_stored.h): a whole matrix
 * (n, k) of F8_E4M3, I8 or I4 with its scales; its strides are then b_row 1, b_column k.
 *
 * The sum of an element is  C = ((start + s_0) + s_1) + ...,  start = 0 or the old C, s_b the fused multiply-add chain of
 * k-block b (HD_GEMM_KC long) from zero, in ascending k; a bf16 C is rounded once, at the end.  Tiles, threads, batches and
 * packing never enter, so row i of C depends on row i of A and on B alone, bit for bit.  AVX2 and AVX-512 give the same bits;
 * a machine without fused multiply-add rounds the products.
 *
 * Use: hd_gemm_reserve takes the scratch; return there when the executor is dry; fill batch->problems; hd_gemm_run.
 * Any kernel file of this folder may use it.  How it works: docs/kernels.md.  Contract tests: tests/ops. */
#ifndef HD_OPS_CPU_GEMM_H
#define HD_OPS_CPU_GEMM_H

#include "ops/cpu/gemm_plan.h"
#include "ops/cpu/isa.h"

/* What the products of a batch have in common.  Strides in elements. */
typedef struct hd_gemm_form {
    hd_dtype a_dtype, b_dtype, c_dtype; /* f32 or bf16; B also stored */
    int64_t a_row, a_column;            /* strides of A: m, k */
    int64_t b_row, b_column;            /* strides of B: k, n */
    hd_accum accum;
} hd_gemm_form;

/* One product.  k = 0 with HD_SET clears C; m = 0 or n = 0 is nothing to do. */
typedef struct hd_gemm_problem {
    int64_t m, n, k;
    int64_t c_row; /* stride of C: m */
    const void *a, *b;
    const void *b_scales; /* of a stored B */
    void *c;
} hd_gemm_problem;

/* What is known of a batch before its sizes are (rows per expert are device values). */
typedef struct hd_gemm_limits {
    int64_t n_problems;
    int64_t m_max, n_max, k_max;       /* of one product */
    int64_t m_total, k_total, a_total; /* of all together; a: elements of A */
} hd_gemm_limits;

typedef struct hd_gemm_batch {
    hd_gemm_problem *problems; /* n_problems of limits, to be filled */
    hd_gemm_plan plan;
    void *scratch; /* private from here on */
} hd_gemm_batch;

/* One exported name per instruction set: hd_gemm_run is hd_gemm_run_avx2 and so on in the object file. */
#define HD_GEMM_PASTE(name, isa) name##_##isa
#define HD_GEMM_EXPAND(name, isa) HD_GEMM_PASTE(name, isa)
#define hd_gemm_reserve HD_GEMM_EXPAND(hd_gemm_reserve, HD_ISA)
#define hd_gemm_run HD_GEMM_EXPAND(hd_gemm_run, HD_ISA)
#define hd_gemm_pack_a HD_GEMM_EXPAND(hd_gemm_pack_a, HD_ISA)
#define hd_gemm_pack_b HD_GEMM_EXPAND(hd_gemm_pack_b, HD_ISA)
#define hd_gemm_pack_stored HD_GEMM_EXPAND(hd_gemm_pack_stored, HD_ISA)

hd_status hd_gemm_reserve(hd_exec *ex, const hd_gemm_form *form, const hd_gemm_limits *limits, hd_gemm_batch *batch,
                          hd_err *err) HD_CHECK_RESULT;
void hd_gemm_run(hd_exec *ex, const hd_gemm_form *form, int64_t n_problems, hd_gemm_batch *batch);

#endif
