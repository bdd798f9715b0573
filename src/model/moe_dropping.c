/* Routed experts, dropping strategy (sparse_matmul=False capacity_factor>0): in each sequence an expert takes the first
 * `capacity` claims in token order; a dropped claim contributes nothing and the weights of the others stay as they are.
 * Source: MaxText layers/moe.py (generate_masks). */
#include <math.h>

#include "model/layer.h"

int64_t hd_moe_capacity(int64_t seq_len, int64_t top_k, int64_t n_expert, double factor)
{
    double share = ceil((double)(seq_len * top_k) / (double)n_expert) * factor;
    double claims = floor(share > factor ? share : factor);
    double all = (double)(seq_len * top_k); /* no expert is claimed more often */
    return (int64_t)(claims < all ? claims : all);
}

/* A capacity of 0 would drop everything, and means "no limit" to hd_moe_dispatch. */
static hd_status capacity_of(const hd_pass *p, int64_t *capacity)
{
    const hd_dims *d = p->dims;
    double factor = p->options->capacity_factor;
    *capacity = hd_moe_capacity(p->leaf->seq_len, d->router.top_k, d->n_expert, factor);
    if (*capacity > 0) { return HD_OK; }
    return HD_FAIL(p->err, HD_E_CONFIG, "capacity_factor=%g leaves an expert no room in sequences of %lld tokens, want it larger",
                   factor, (long long)p->leaf->seq_len);
}

static hd_status forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                         const hd_layer_acts *acts, hd_tensor *y)
{
    int64_t capacity;
    hd_status st = capacity_of(p, &capacity);
    return st != HD_OK ? st : hd_moe_sorted_forward(p, layer, &hd_grouped_kernels, capacity, x, routing, acts, y);
}

static hd_status backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_routing *routing,
                          const hd_layer_acts *acts, const hd_tensor *dy, hd_tensor *dx, hd_tensor *dweights)
{
    int64_t capacity;
    hd_status st = capacity_of(p, &capacity);
    return st != HD_OK ? st : hd_moe_sorted_backward(p, layer, &hd_grouped_kernels, capacity, x, routing, acts, dy, dx, dweights);
}

const hd_moe_strategy_ops hd_moe_dropping = {forward, backward};
