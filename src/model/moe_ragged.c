/* Routed experts, ragged strategy (sparse_matmul=True megablox=False): one expert's product after the other. */
#include "model/layer.h"

static const hd_expert_kernels kernels = {hd_ragged_linear_fwd, hd_ragged_linear_bwd_input, hd_ragged_linear_bwd_weight};

static hd_status forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                         const hd_layer_acts *acts, hd_tensor *y)
{
    return hd_moe_sorted_forward(p, layer, &kernels, 0, x, routing, acts, y);
}

static hd_status backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                          const hd_layer_acts *acts, const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights)
{
    return hd_moe_sorted_backward(p, layer, &kernels, 0, x, routing, acts, dy, dx, dweights);
}

const hd_moe_strategy_ops hd_moe_ragged = {forward, backward};
