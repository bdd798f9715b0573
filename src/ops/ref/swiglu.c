/* SwiGLU:  h = silu(g) u,  silu(g) = g sg,  sg = 1 / (1 + exp(-g)).
 *   du = dh silu(g),   dg = dh u sg (1 + g (1 - sg)).
 * Inside an expert weighted by w, with q the gradient at h before the weight:  dw = q . h,  dh = w q. */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

static double sigmoid(double g)
{
    return 1.0 / (1.0 + exp(-g));
}

static double silu(double g)
{
    return g * sigmoid(g);
}

static double silu_slope(double g)
{
    return sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g)));
}

/* All rows, or the first n_rows[0] of them. */
static int64_t row_limit(const hd_tensor *n_rows, int64_t rows)
{
    int64_t n = n_rows == NULL ? rows : ref_int1(n_rows, 0);
    return n < rows ? n : rows;
}

hd_status hd_ref_swiglu_fwd(hd_exec *ex, const hd_tensor *g, const hd_tensor *u, const hd_tensor *n_rows, hd_tensor *h,
                            hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    int64_t rows = row_limit(n_rows, g->shape[0]);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t f = 0; f < g->shape[1]; f++) { ref_put2(h, i, f, silu(ref_get2(g, i, f)) * ref_get2(u, i, f)); }
    }
    return HD_OK;
}

hd_status hd_ref_swiglu_bwd(hd_exec *ex, const hd_tensor *dh, const hd_tensor *g, const hd_tensor *u, hd_tensor *dg,
                            hd_tensor *du, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < g->shape[0]; i++) {
        for (int64_t f = 0; f < g->shape[1]; f++) {
            double d = ref_get2(dh, i, f), gate = ref_get2(g, i, f), up = ref_get2(u, i, f); /* before dg, du land on them */
            ref_put2(dg, i, f, d * up * silu_slope(gate));
            ref_put2(du, i, f, d * silu(gate));
        }
    }
    return HD_OK;
}

hd_status hd_ref_moe_swiglu_bwd(hd_exec *ex, const hd_tensor *q, const hd_tensor *g, const hd_tensor *u,
                                const hd_tensor *w, const hd_tensor *n_rows, hd_tensor *dg, hd_tensor *du, hd_tensor *hw,
                                hd_tensor *dw, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    int64_t rows = row_limit(n_rows, g->shape[0]);
    for (int64_t i = 0; i < rows; i++) {
        double weight = ref_get1(w, i), dot = 0.0;
        for (int64_t f = 0; f < g->shape[1]; f++) {
            double unweighted = ref_get2(q, i, f), gate = ref_get2(g, i, f), up = ref_get2(u, i, f);
            double h = silu(gate) * up, dh = weight * unweighted;
            dot += unweighted * h;
            ref_put2(dg, i, f, dh * up * silu_slope(gate));
            ref_put2(du, i, f, dh * silu(gate));
            ref_put2(hw, i, f, weight * h);
        }
        ref_put1(dw, i, dot);
    }
    return HD_OK;
}
