/* Linear, grouped linear and ragged linear, three slots each: argument checks.  The definition is in ref/linear.c, the
 * contract in ops.h.  The low-rank pair of a weight is the model's business: these ops see value and grad only. */
#include "ops/check.h"

/* ---- linear -------------------------------------------------------------------------------------------------------- */

typedef struct sizes { int64_t inputs, outputs; } sizes;

static void find_sizes(const hd_check *c, const hd_weight *w, sizes *s)
{
    if (c->st != HD_OK) { return; }
    bool out_in = w->layout == HD_LAYOUT_OUT_IN;
    s->inputs = w->value.shape[out_in ? 1 : 0];
    s->outputs = w->value.shape[out_in ? 0 : 1];
}

static void check_plain_weight(hd_check *c, const hd_weight *w, sizes *s)
{
    hd_check_weight(c, w, HD_SHAPE(HD_ANY, HD_ANY));
    find_sizes(c, w, s);
}

static void check_product(hd_check *c, const hd_tensor *x, const hd_weight *w, const hd_tensor *y)
{
    sizes s = {0};
    hd_check_weight_stored(c, w, HD_SHAPE(HD_ANY, HD_ANY));
    find_sizes(c, w, &s);
    hd_check_in(c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, s.inputs));
    if (c->st != HD_OK) { return; }
    hd_check_out(c, "y", y, HD_OP_ACT, HD_SHAPE(x->shape[0], s.outputs));
}

hd_status hd_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_weight *w, hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "linear_fwd", err);
    check_product(&c, x, w, y);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, linear_fwd, x, w, y_accum, y, err);
}

hd_status hd_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_weight *w, hd_accum dx_accum, hd_tensor *dx,
                              hd_err *err)
{
    sizes s = {0};
    hd_check c = hd_check_begin(ex, "linear_bwd_input", err);
    check_plain_weight(&c, w, &s);
    hd_check_in(&c, "dy", dy, HD_OP_ACT, HD_SHAPE(HD_ANY, s.outputs));
    if (c.st != HD_OK) { return c.st; }
    hd_check_out(&c, "dx", dx, HD_OP_ACT, HD_SHAPE(dy->shape[0], s.inputs));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, linear_bwd_input, dy, w, dx_accum, dx, err);
}

hd_status hd_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, hd_weight *w, hd_err *err)
{
    sizes s = {0};
    hd_check c = hd_check_begin(ex, "linear_bwd_weight", err);
    check_plain_weight(&c, w, &s);
    if (c.st == HD_OK) { hd_check_weight_grad(&c, w); }
    hd_check_in(&c, "dy", dy, HD_OP_ACT, HD_SHAPE(HD_ANY, s.outputs));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(dy->shape[0], s.inputs));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND_GRAD(ex, linear_bwd_weight, w, dy, x, w, err);
}

/* ---- grouped and ragged: the same signature ------------------------------------------------------------------------- */

static void check_layout(hd_check *c, const hd_weight *w, const hd_tensor *offsets)
{
    if (c->st != HD_OK) { return; }
    hd_check_that(c, w->layout == HD_LAYOUT_OUT_IN, "experts are stored [in, out], want [out, in]");
    hd_check_in(c, "offsets", offsets, HD_OP_I32, HD_SHAPE(w->value.shape[0] + 1));
}

static void check_expert_weight(hd_check *c, const hd_weight *w, const hd_tensor *offsets)
{
    hd_check_weight(c, w, HD_SHAPE(HD_ANY, HD_ANY, HD_ANY));
    check_layout(c, w, offsets);
}

static void check_experts_fwd(hd_check *c, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                              const hd_tensor *y)
{
    hd_check_weight_stored(c, w, HD_SHAPE(HD_ANY, HD_ANY, HD_ANY));
    check_layout(c, w, offsets);
    if (c->st != HD_OK) { return; }
    hd_check_in(c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, w->value.shape[2]));
    if (c->st != HD_OK) { return; }
    hd_check_out(c, "y", y, HD_OP_ACT, HD_SHAPE(x->shape[0], w->value.shape[1]));
}

static void check_experts_bwd_input(hd_check *c, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                    const hd_tensor *dx)
{
    check_expert_weight(c, w, offsets);
    if (c->st != HD_OK) { return; }
    hd_check_in(c, "dy", dy, HD_OP_ACT, HD_SHAPE(HD_ANY, w->value.shape[1]));
    if (c->st != HD_OK) { return; }
    hd_check_out(c, "dx", dx, HD_OP_ACT, HD_SHAPE(dy->shape[0], w->value.shape[2]));
    (void)hd_check_end(c);
}

static void check_experts_bwd_weight(hd_check *c, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                     const hd_weight *w)
{
    check_expert_weight(c, w, offsets);
    if (c->st != HD_OK) { return; }
    hd_check_weight_grad(c, w);
    hd_check_in(c, "dy", dy, HD_OP_ACT, HD_SHAPE(HD_ANY, w->value.shape[1]));
    if (c->st != HD_OK) { return; }
    hd_check_in(c, "x", x, HD_OP_ACT, HD_SHAPE(dy->shape[0], w->value.shape[2]));
    (void)hd_check_end(c);
}

hd_status hd_grouped_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "grouped_linear_fwd", err);
    check_experts_fwd(&c, x, offsets, w, y);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, grouped_linear_fwd, x, offsets, w, y_accum, y, err);
}

hd_status hd_grouped_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                      hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "grouped_linear_bwd_input", err);
    check_experts_bwd_input(&c, dy, offsets, w, dx);
    if (c.st != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, grouped_linear_bwd_input, dy, offsets, w, dx_accum, dx, err);
}

hd_status hd_grouped_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                       hd_weight *w, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "grouped_linear_bwd_weight", err);
    check_experts_bwd_weight(&c, dy, x, offsets, w);
    if (c.st != HD_OK) { return c.st; }
    HD_RETURN_BACKEND_GRAD(ex, grouped_linear_bwd_weight, w, dy, x, offsets, w, err);
}

hd_status hd_ragged_linear_fwd(hd_exec *ex, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                               hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "ragged_linear_fwd", err);
    check_experts_fwd(&c, x, offsets, w, y);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, ragged_linear_fwd, x, offsets, w, y_accum, y, err);
}

hd_status hd_ragged_linear_bwd_input(hd_exec *ex, const hd_tensor *dy, const hd_tensor *offsets, const hd_weight *w,
                                     hd_accum dx_accum, hd_tensor *dx, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "ragged_linear_bwd_input", err);
    check_experts_bwd_input(&c, dy, offsets, w, dx);
    if (c.st != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, ragged_linear_bwd_input, dy, offsets, w, dx_accum, dx, err);
}

hd_status hd_ragged_linear_bwd_weight(hd_exec *ex, const hd_tensor *dy, const hd_tensor *x, const hd_tensor *offsets,
                                      hd_weight *w, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "ragged_linear_bwd_weight", err);
    check_experts_bwd_weight(&c, dy, x, offsets, w);
    if (c.st != HD_OK) { return c.st; }
    HD_RETURN_BACKEND_GRAD(ex, ragged_linear_bwd_weight, w, dy, x, offsets, w, err);
}

/* ---- lists --------------------------------------------------------------------------------------------------------------- */

hd_status hd_products_fwd(hd_exec *ex, const hd_product *list, int n, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "products_fwd", err);
    hd_check_that(&c, n >= 1 && n <= HD_PRODUCTS_MAX, "a list of %d products, want 1 to %d", n, HD_PRODUCTS_MAX);
    for (int i = 0; i < n && c.st == HD_OK; i++) {
        const hd_product *p = &list[i];
        if (p->offsets != NULL) {
            check_experts_fwd(&c, p->x, p->offsets, p->w, p->y);
        } else {
            check_product(&c, p->x, p->w, p->y);
        }
    }
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, products_fwd, list, n, err);
}
