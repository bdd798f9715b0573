/* One source, three instruction sets.  The build compiles each file of ops/cpu (dispatch*.c apart) with HD_ISA = base, avx2
 * and avx512 and the matching -march; everything in it is static except one installer, whose name carries the ISA:
 * HD_CPU_INSTALL(linear) is hd_cpu_linear_install_base, hd_cpu_linear_install_avx2 or hd_cpu_linear_install_avx512.
 * Kernels are written with GCC vector extensions at the width below, so the same text serves SSE2, AVX2, AVX-512 and NEON. */
#ifndef HD_OPS_CPU_ISA_H
#define HD_OPS_CPU_ISA_H

#include <stdint.h>

#include "ops/ops.h"

#define HD_CPU_PASTE(name, isa) hd_cpu_##name##_install_##isa
#define HD_CPU_EXPAND(name, isa) HD_CPU_PASTE(name, isa)
#define HD_CPU_INSTALL(name) HD_CPU_EXPAND(name, HD_ISA)

#if defined(__AVX512F__)
enum { HD_LANES = 16 };
#elif defined(__AVX2__)
enum { HD_LANES = 8 };
#else
enum { HD_LANES = 4 };
#endif

typedef float hd_vf __attribute__((vector_size(HD_LANES * 4), may_alias));
typedef float hd_vf_u __attribute__((vector_size(HD_LANES * 4), may_alias, aligned(4)));
typedef int32_t hd_vi __attribute__((vector_size(HD_LANES * 4), may_alias));
typedef uint32_t hd_vu __attribute__((vector_size(HD_LANES * 4), may_alias));

/* Lane l of the result is lane index[l] of a, or of a followed by b. */
#if defined(__clang__) /* which has no shuffle by a variable: fuzzing builds with it */
static inline hd_vf hd_shuffle2(hd_vf a, hd_vf b, hd_vi index)
{
    hd_vf r;
    for (int l = 0; l < HD_LANES; l++) { r[l] = index[l] < HD_LANES ? a[index[l]] : b[index[l] - HD_LANES]; }
    return r;
}
#define hd_shuffle(a, index) hd_shuffle2((a), (a), (index))
#else
#define hd_shuffle2(a, b, ...) __builtin_shuffle((a), (b), __VA_ARGS__) /* the index may be a list in braces */
#define hd_shuffle(a, index) __builtin_shuffle((a), (index))
#endif

void HD_CPU_INSTALL(linear)(hd_ops *ops);
void HD_CPU_INSTALL(attention)(hd_ops *ops);
void HD_CPU_INSTALL(norm)(hd_ops *ops);        /* rmsnorm, rope */
void HD_CPU_INSTALL(mlp)(hd_ops *ops);         /* swiglu, moe_swiglu_bwd */
void HD_CPU_INSTALL(latent)(hd_ops *ops);      /* latent_attention */
void HD_CPU_INSTALL(moe)(hd_ops *ops);         /* router, dispatch, gather, combine, balance */
void HD_CPU_INSTALL(loss)(hd_ops *ops);        /* cross-entropy */
void HD_CPU_INSTALL(optimizer)(hd_ops *ops);   /* sumsq, adamw, sum_into, step_gate */
void HD_CPU_INSTALL(elementwise)(hd_ops *ops); /* embedding, add, copy, fill, scale_rows */
void HD_CPU_INSTALL(peak)(hd_ops *ops);        /* the measured peak */

#endif
