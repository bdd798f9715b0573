/* Micro-kernels:  C (rows, columns) = or += A (rows, kc) B (kc, columns)  for one k-block, accumulators in registers.
 *
 * Per step of k a kernel of r rows and v vectors reads v vectors of B and r scalars of A and does r * v fused
 * multiply-adds.  Bound: the multiply-add units.
 *   AVX-512  14 x 32: 28 accumulators + 2 of B, A broadcast in the instruction
 *   AVX2      6 x 16: 12 accumulators + 2 of B + 1 of A
 *   NEON      8 x 8,  SSE2 4 x 8
 * The chain of an element is the same whatever r and v are, so heights are free. */
#ifndef HD_OPS_CPU_GEMM_KERNEL_H
#define HD_OPS_CPU_GEMM_KERNEL_H

#include "ops/cpu/gemm_plan.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/math.h"

#if defined(__AVX512F__)
enum { HD_GEMM_MR = 14, HD_GEMM_VECTORS = 2 };
#elif defined(__AVX2__)
enum { HD_GEMM_MR = 6, HD_GEMM_VECTORS = 2 };
#elif defined(__aarch64__)
enum { HD_GEMM_MR = 8, HD_GEMM_VECTORS = 2 };
#else
enum { HD_GEMM_MR = 4, HD_GEMM_VECTORS = 2 };
#endif

enum { HD_GEMM_NR = HD_GEMM_VECTORS * HD_LANES, HD_GEMM_MR_LIMIT = 16 };

/* Weights on their way to the second-level cache: a kernel prefetches HD_GEMM_AHEAD addresses, `step` bytes apart, per four
 * steps of k: at 64 bytes apart, the pace at which it reads packed B. */
enum { HD_GEMM_AHEAD = HD_GEMM_NR / 4 };

typedef struct hd_gemm_prefetch {
    const char *line;
    int64_t step;
    int64_t groups_left; /* of HD_GEMM_AHEAD addresses, in this row */
    int64_t row_groups;
    int64_t jump;  /* from the end of a row to the next one, bytes */
    int64_t total; /* groups left in all; the owner counts */
} hd_gemm_prefetch;

typedef struct hd_gemm_tile_args {
    int64_t kc;
    const float *a; /* packed: kc groups of `rows` floats */
    const float *b; /* kc rows of HD_GEMM_NR floats, b_row apart */
    int64_t b_row;
    float *c;
    int64_t c_row;
    bool add;
    hd_gemm_prefetch *prefetch;
} hd_gemm_tile_args;

/* acc += a * b, fused.  Spelled out because the compiler's choice among the three operand orders of the instruction moves
 * accumulators about and spills one at some heights (5 x 16 on AVX2: 76 % of peak instead of 97 %). */
HD_INLINE void gemm_fma(hd_vf *acc, hd_vf a, hd_vf b)
{
#if defined(__AVX512F__)
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*acc) : "v"(a), "v"(b));
#elif defined(__FMA__)
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(*acc) : "x"(a), "x"(b));
#else
    *acc += a * b;
#endif
}

/* acc += *a * b, the scalar broadcast by the instruction where it can. */
HD_INLINE void gemm_fma_at(hd_vf *acc, const float *a, hd_vf b)
{
#if defined(__AVX512F__)
    __asm__("vfmadd231ps %1%{1to16%}, %2, %0" : "+v"(*acc) : "m"(*a), "v"(b));
#else
    gemm_fma(acc, hd_splat(*a), b);
#endif
}

HD_INLINE void gemm_step(const int rows, const int vectors, const float *a, const float *b, hd_vf acc[][HD_GEMM_VECTORS])
{
    hd_vf bv[HD_GEMM_VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) { bv[v] = *(const hd_vf_u *)(b + v * HD_LANES); }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        hd_vf ai = hd_splat(a[i]);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) { gemm_fma(&acc[i][v], ai, bv[v]); }
    }
}

HD_INLINE void gemm_store(const int rows, const int vectors, float *c, int64_t c_row, bool add,
                          hd_vf acc[][HD_GEMM_VECTORS])
{
    if (add) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                hd_vf_u *p = (hd_vf_u *)(c + i * c_row + v * HD_LANES);
                *p = *p + acc[i][v];
            }
        }
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) { *(hd_vf_u *)(c + i * c_row + v * HD_LANES) = acc[i][v]; }
        }
    }
}

/* C is wanted a whole kernel later: time enough to come from the third-level cache. */
HD_INLINE void gemm_touch(const int rows, const float *c, int64_t c_row)
{
    for (int i = 0; i < rows; i++) {
        __builtin_prefetch(c + i * c_row, 1, 3);
        __builtin_prefetch(c + i * c_row + HD_GEMM_NR - 1, 1, 3);
    }
}

HD_INLINE void gemm_kernel(const int rows, const hd_gemm_tile_args *t)
{
    hd_vf acc[HD_GEMM_MR_LIMIT][HD_GEMM_VECTORS] = {{{0}}};
    gemm_touch(rows, t->c, t->c_row);
    const float *a = t->a, *b = t->b;
    const int64_t b_row = t->b_row;
    hd_gemm_prefetch *pf = t->prefetch;
    const char *line = pf->line;
    const int64_t step = pf->step;
    int64_t groups_left = pf->groups_left;
    for (int64_t quads = t->kc / 4; quads > 0; quads--) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
#pragma GCC unroll 4
            for (int p = 0; p < HD_GEMM_AHEAD / 4; p++) {
                __builtin_prefetch(line, 0, 2);
                line += step;
            }
            gemm_step(rows, HD_GEMM_VECTORS, a + u * rows, b + u * b_row, acc);
        }
        a += 4 * rows;
        b += 4 * b_row;
        if (--groups_left == 0) {
            groups_left = pf->row_groups;
            line += pf->jump;
        }
    }
    pf->line = line;
    pf->groups_left = groups_left;
    for (int64_t rest = t->kc % 4; rest > 0; rest--) {
        gemm_step(rows, HD_GEMM_VECTORS, a, b, acc);
        a += rows;
        b += b_row;
    }
    gemm_store(rows, HD_GEMM_VECTORS, t->c, t->c_row, t->add, acc);
}

#define HD_GEMM_KERNEL(name, rows)                                                                                  \
    static __attribute__((noinline)) void name(const hd_gemm_tile_args *t) { gemm_kernel(rows, t); }

typedef void (*hd_gemm_kernel_fn)(const hd_gemm_tile_args *t);

HD_GEMM_KERNEL(gemm_kernel_1, 1)
HD_GEMM_KERNEL(gemm_kernel_2, 2)
HD_GEMM_KERNEL(gemm_kernel_3, 3)
HD_GEMM_KERNEL(gemm_kernel_4, 4)
#if defined(__AVX2__) || defined(__aarch64__)
HD_GEMM_KERNEL(gemm_kernel_5, 5)
HD_GEMM_KERNEL(gemm_kernel_6, 6)
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
HD_GEMM_KERNEL(gemm_kernel_7, 7)
HD_GEMM_KERNEL(gemm_kernel_8, 8)
#endif
#if defined(__AVX512F__)
HD_GEMM_KERNEL(gemm_kernel_9, 9)
HD_GEMM_KERNEL(gemm_kernel_10, 10)
HD_GEMM_KERNEL(gemm_kernel_11, 11)
HD_GEMM_KERNEL(gemm_kernel_12, 12)
HD_GEMM_KERNEL(gemm_kernel_13, 13)
HD_GEMM_KERNEL(gemm_kernel_14, 14)
#endif

/* By height, 1 to HD_GEMM_MR. */
static const hd_gemm_kernel_fn gemm_kernels[HD_GEMM_MR + 1] = {
    NULL,           gemm_kernel_1, gemm_kernel_2,  gemm_kernel_3,  gemm_kernel_4,
#if defined(__AVX2__) || defined(__aarch64__)
    gemm_kernel_5,  gemm_kernel_6,
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
    gemm_kernel_7,  gemm_kernel_8,
#endif
#if defined(__AVX512F__)
    gemm_kernel_9,  gemm_kernel_10, gemm_kernel_11, gemm_kernel_12, gemm_kernel_13, gemm_kernel_14,
#endif
};

#endif
