/* The speed of light of this machine: independent chains of fused multiply-adds on every thread, nothing else.
 * What the share of peak in reports is a share of.  Takes about 50 ms. */
#include "base/clock.h"
#include "base/parallel_for.h"
#include "ops/cpu/isa.h"

enum { CHAINS = 12, ROUNDS = 100000, REPEATS = 5 };

static void fma_chains(void *arg, int64_t item, int thread)
{
    (void)thread;
    hd_vf acc[CHAINS];
    const hd_vf factor = (hd_vf){0} + 0.999f, term = (hd_vf){0} + 0.001f;
    for (int c = 0; c < CHAINS; c++) { acc[c] = (hd_vf){0} + (float)(item + c); }
    for (int i = 0; i < ROUNDS; i++) {
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++) { acc[c] = acc[c] * factor + term; }
    }
    for (int c = 1; c < CHAINS; c++) { acc[0] += acc[c]; }
    ((float *)arg)[item] = acc[0][0]; /* keeps the work alive */
}

/* FLOP/s of n threads, the best of a few runs.  n is at most 1024. */
static double fma_peak(int n_threads)
{
    float sink[1024];
    double best = 0.0;
    int n = n_threads < 1024 ? n_threads : 1024;
    for (int i = 0; i < REPEATS; i++) {
        double begin = hd_clock_now_s();
        hd_parallel_for(n, n, fma_chains, sink);
        double flops = 2.0 * HD_LANES * CHAINS * (double)ROUNDS * n / (hd_clock_now_s() - begin);
        if (flops > best) { best = flops; }
    }
    return best;
}

void HD_CPU_INSTALL(peak)(hd_ops *ops) { ops->fma_peak = fma_peak; }
