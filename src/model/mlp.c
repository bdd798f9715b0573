/* One SwiGLU MLP, the dense layers' and the shared experts':  y += (silu(x Wg^T) * (x Wu^T)) Wd^T.
 * Shapes: legend in layer.h; F is mlp->width. */
#include "model/layer.h"
#include "model/weights.h"

hd_status hd_mlp_keep(hd_pass *p, int64_t width, hd_layer_acts *acts)
{
    hd_status st = HD_OK;
    if (!p->options->remat.mlpwi || width == 0) { return HD_OK; }
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row, width, &acts->gate));
    HD_TRY(hd_pass_new(p, hd_pass_up_dtype(p), p->n_row, width, &acts->up));
out:
    return st;
}

hd_status hd_mlp_gate_up(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *gate, hd_tensor *up,
                         hd_product list[2], int *n)
{
    hd_status st;
    bool missing;
    *n = 0;
    HD_TRY(hd_pass_take(p, acts, &acts->gate, hd_pass_up_dtype(p), p->n_row, mlp->width, gate, &missing));
    if (missing) { list[(*n)++] = (hd_product){x, NULL, mlp->gate, HD_SET, gate}; }
    HD_TRY(hd_pass_take(p, acts, &acts->up, hd_pass_up_dtype(p), p->n_row, mlp->width, up, &missing));
    if (missing) { list[(*n)++] = (hd_product){x, NULL, mlp->up, HD_SET, up}; }
out:
    return st;
}

/* gate, up (N, F), kept or computed. */
static hd_status gate_and_up(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *gate,
                             hd_tensor *up)
{
    hd_product list[2];
    int n;
    hd_status st = hd_mlp_gate_up(p, mlp, x, acts, gate, up, list, &n);
    return st == HD_OK && n > 0 ? hd_products_fwd(p->ex, list, n, p->err) : st;
}

/* y += (silu(gate) up) Wd^T */
static hd_status down(hd_pass *p, const hd_mlp *mlp, const hd_tensor *gate, const hd_tensor *up, hd_tensor *y)
{
    hd_status st;
    hd_tensor h; /* (N, F) */
    HD_TRY(hd_pass_rows(p, mlp->width, &h));
    HD_TRY(hd_swiglu_fwd(p->ex, gate, up, NULL, &h, p->err));
    HD_TRY(hd_linear_fwd(p->ex, &h, mlp->down, HD_ADD, y, p->err));
out:
    return st;
}

hd_status hd_mlp_forward(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, hd_tensor *y)
{
    hd_status st;
    hd_tensor gate, up; /* (N, F) */
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(gate_and_up(p, mlp, x, acts, &gate, &up));
    HD_TRY(down(p, mlp, &gate, &up, y));
out:
    hd_arena_release(p->step, mark);
    return st;
}

hd_status hd_mlp_down(hd_pass *p, const hd_mlp *mlp, const hd_tensor *gate, const hd_tensor *up, hd_tensor *y)
{
    size_t mark = hd_arena_mark(p->step);
    hd_status st = down(p, mlp, gate, up, y);
    hd_arena_release(p->step, mark);
    return st;
}

hd_status hd_mlp_backward(hd_pass *p, const hd_mlp *mlp, const hd_tensor *x, const hd_layer_acts *acts, const hd_tensor *dy,
                          hd_accum dx_accum, hd_tensor *dx)
{
    hd_status st;
    hd_tensor gate, up, h; /* (N, F); h holds first h, then its gradient; gate and up become their gradients */
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(gate_and_up(p, mlp, x, acts, &gate, &up));
    HD_TRY(hd_pass_rows(p, mlp->width, &h));
    HD_TRY(hd_swiglu_fwd(p->ex, &gate, &up, NULL, &h, p->err));
    HD_TRY(hd_linear_grad(p->ex, dy, &h, mlp->down, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, dy, mlp->down, HD_SET, &h, p->err));
    HD_TRY(hd_swiglu_bwd(p->ex, &h, &gate, &up, &gate, &up, p->err));
    HD_TRY(hd_linear_grad(p->ex, &gate, x, mlp->gate, p->err));
    HD_TRY(hd_linear_grad(p->ex, &up, x, mlp->up, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &gate, mlp->gate, dx_accum, dx, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &up, mlp->up, HD_ADD, dx, p->err));
out:
    hd_arena_release(p->step, mark);
    return st;
}
