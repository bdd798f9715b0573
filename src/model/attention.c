/* Multi-head latent attention, forward and backward, as lists of op calls that mirror each other.
 * Shapes: legend in layer.h.  Source: DeepSeek-V2 (arXiv 2405.04434) 2.1; the traps of RoPE and of the latent norms' epsilon
 * in HuggingFace deepseek_v2 / deepseek_v3.
 *
 *   norm_x = RMSNorm(x)                                             (N, D)
 *   q_a = norm_x Wqa^T; q = RMSNorm(q_a) Wqb^T   or  q = norm_x Wq^T  (N, H (n + r))
 *   kv_a = norm_x Wkva^T = [latent ; k_rope]                        (N, c + r), one rope key for all heads
 *   kv = RMSNorm(latent) Wkvb^T = per head [k_nope ; v]             (N, H (n + v))
 *   o = softmax(scale (q_nope k_nope + q_rope k_rope)) v            (N, H v)
 *   y += o Wo^T                                                     (N, D) */
#include "model/layer.h"
#include "model/weights.h"

/* ---- views --------------------------------------------------------------------------------------------------------- */

/* Per head the columns [begin, begin + length) of (N, H width): (N, H, length). */
static hd_tensor head_columns(const hd_tensor *t, int64_t n_head, int64_t width, int64_t begin, int64_t length)
{
    hd_tensor heads = hd_tensor_split_last(t, n_head, width);
    return hd_tensor_slice(&heads, 2, begin, length);
}

typedef struct qkv {
    hd_tensor q, q_rope;       /* (N, H, n + r), its last r columns */
    hd_tensor k_nope, v;       /* (N, H, n), (N, H, v) */
    hd_tensor latent, k_rope;  /* (N, c), (N, r) */
    hd_tensor k_rope_one_head; /* (N, 1, r) */
} qkv;

/* The same views for the activations and, over buffers of the same shapes, for their gradients. */
static qkv views(const hd_dims *d, const hd_tensor *q, const hd_tensor *kv_a, const hd_tensor *kv)
{
    int64_t n = d->qk_nope_head_dim, r = d->qk_rope_head_dim, v = d->v_head_dim, c = d->kv_lora_rank;
    qkv w = {
        .q = head_columns(q, d->n_head, n + r, 0, n + r),
        .q_rope = head_columns(q, d->n_head, n + r, n, r),
        .k_nope = head_columns(kv, d->n_head, n + v, 0, n),
        .v = head_columns(kv, d->n_head, n + v, n, v),
        .latent = hd_tensor_slice(kv_a, 1, 0, c),
        .k_rope = hd_tensor_slice(kv_a, 1, c, r),
    };
    w.k_rope_one_head = hd_tensor_split_last(&w.k_rope, 1, r);
    return w;
}

static hd_tensor latent_of(const hd_dims *d, const hd_tensor *kv_a)
{
    return hd_tensor_slice(kv_a, 1, 0, d->kv_lora_rank);
}

static hd_attention_shape shape_of(const hd_pass *p)
{
    return (hd_attention_shape){p->leaf->n_seq, p->leaf->seq_len, p->dims->softmax_scale, p->options->attention};
}

static hd_status new_lse(hd_pass *p, hd_tensor *lse)
{
    int64_t shape[3] = {p->leaf->n_seq, p->dims->n_head, p->leaf->seq_len};
    return hd_tensor_new(p->step, HD_DTYPE_F32, 3, shape, lse, p->err);
}

static int64_t q_width(const hd_dims *d) { return d->n_head * (d->qk_nope_head_dim + d->qk_rope_head_dim); }
static int64_t kv_width(const hd_dims *d) { return d->n_head * (d->qk_nope_head_dim + d->v_head_dim); }
static int64_t kv_a_width(const hd_dims *d) { return d->kv_lora_rank + d->qk_rope_head_dim; }
static int64_t o_width(const hd_dims *d) { return d->n_head * d->v_head_dim; }

/* ---- forward ---------------------------------------------------------------------------------------------------------- */

hd_status hd_attention_keep(hd_pass *p, hd_layer_acts *acts)
{
    hd_status st = HD_OK;
    const hd_dims *d = p->dims;
    const hd_remat *keep = &p->options->remat;
    if (keep->query_wa && d->q_lora_rank > 0) { HD_TRY(hd_pass_rows(p, d->q_lora_rank, &acts->q_a)); }
    if (keep->query_proj) { HD_TRY(hd_pass_rows(p, q_width(d), &acts->q)); }
    if (keep->kv_wa) { HD_TRY(hd_pass_rows(p, kv_a_width(d), &acts->kv_a)); }
    if (keep->kv_proj) { HD_TRY(hd_pass_rows(p, kv_width(d), &acts->kv)); }
    if (keep->context) {
        HD_TRY(hd_pass_rows(p, o_width(d), &acts->o));
        HD_TRY(new_lse(p, &acts->lse));
    }
out:
    return st;
}

/* norm (N, width) = RMSNorm(x), with its rstd (N). */
static hd_status latent_norm(hd_pass *p, const hd_tensor *x, const hd_weight *w, hd_tensor *norm, hd_tensor *rstd)
{
    return hd_pass_norm(p, x, w, p->dims->latent_norm_eps, norm, rstd);
}

/* What norm_x is multiplied by, as far as it was not kept, in one call: q or q_a, and kv_a with its key rotated. */
static hd_status project_inputs(hd_pass *p, const hd_layer *layer, hd_tensor *q, const hd_weight *q_weight, bool q_missing, hd_attention *a)
{
    hd_status st;
    const hd_dims *d = p->dims;
    hd_product list[2];
    int n = 0;
    bool missing;
    HD_TRY(hd_pass_take(p, &layer->acts, &layer->acts.kv_a, p->options->dtype, p->n_row, kv_a_width(d), &a->kv_a, &missing));
    if (q_missing) { list[n++] = (hd_product){&a->norm_x, NULL, q_weight, HD_SET, q}; }
    if (missing) { list[n++] = (hd_product){&a->norm_x, NULL, layer->kv_a_proj, HD_SET, &a->kv_a}; }
    if (n > 0) { HD_TRY(hd_products_fwd(p->ex, list, n, p->err)); }
    if (missing) {
        hd_tensor k_rope = hd_tensor_slice(&a->kv_a, 1, d->kv_lora_rank, d->qk_rope_head_dim);
        hd_tensor one_head = hd_tensor_split_last(&k_rope, 1, d->qk_rope_head_dim);
        HD_TRY(hd_rope(p->ex, &p->leaf->positions, &p->model->rope_table, 1, &one_head, p->err));
    }
out:
    return st;
}

static hd_status rotate_query(hd_pass *p, hd_tensor *q)
{
    const hd_dims *d = p->dims;
    int64_t n = d->qk_nope_head_dim, r = d->qk_rope_head_dim;
    hd_tensor q_rope = head_columns(q, d->n_head, n + r, n, r);
    return hd_rope(p->ex, &p->leaf->positions, &p->model->rope_table, 1, &q_rope, p->err);
}

hd_status hd_attention_query(hd_pass *p, const hd_layer *layer, hd_attention *a)
{
    hd_status st;
    const hd_dims *d = p->dims;
    const hd_layer_acts *acts = &layer->acts;
    bool q_missing, q_a_missing;
    HD_TRY(hd_pass_take(p, acts, &acts->q, p->options->dtype, p->n_row, q_width(d), &a->q, &q_missing));
    if (d->q_lora_rank > 0) {
        HD_TRY(hd_pass_take(p, acts, &acts->q_a, p->options->dtype, p->n_row, d->q_lora_rank, &a->q_a, &q_a_missing));
        HD_TRY(project_inputs(p, layer, &a->q_a, layer->q_a_proj, q_a_missing, a));
        HD_TRY(latent_norm(p, &a->q_a, layer->q_a_norm, &a->norm_q, &a->rstd_q));
        if (q_missing) { HD_TRY(hd_linear_fwd(p->ex, &a->norm_q, layer->q_b_proj, HD_SET, &a->q, p->err)); }
    } else {
        HD_TRY(project_inputs(p, layer, &a->q, layer->q_proj, q_missing, a));
    }
    if (q_missing) { HD_TRY(rotate_query(p, &a->q)); }
out:
    return st;
}

hd_status hd_attention_latent(hd_pass *p, const hd_layer *layer, hd_attention *a)
{
    hd_status st = HD_OK;
    if (a->kv_a.n_dim == 0) { HD_TRY(project_inputs(p, layer, NULL, NULL, false, a)); }
    hd_tensor latent = latent_of(p->dims, &a->kv_a);
    HD_TRY(latent_norm(p, &latent, layer->kv_a_norm, &a->norm_kv, &a->rstd_kv));
out:
    return st;
}

static hd_status forward_key_value(hd_pass *p, const hd_layer *layer, hd_attention *a)
{
    hd_status st;
    const hd_layer_acts *acts = &layer->acts;
    bool missing;
    HD_TRY(hd_attention_latent(p, layer, a));
    HD_TRY(hd_pass_take(p, acts, &acts->kv, p->options->dtype, p->n_row, kv_width(p->dims), &a->kv, &missing));
    if (missing) { HD_TRY(hd_linear_fwd(p->ex, &a->norm_kv, layer->kv_b_proj, HD_SET, &a->kv, p->err)); }
out:
    return st;
}

static hd_status forward_core(hd_pass *p, const hd_layer *layer, hd_attention *a)
{
    hd_status st;
    const hd_dims *d = p->dims;
    const hd_layer_acts *acts = &layer->acts;
    bool missing;
    HD_TRY(hd_pass_take(p, acts, &acts->o, p->options->dtype, p->n_row, o_width(d), &a->o, &missing));
    a->lse = acts->lse;
    if (a->lse.n_dim == 0) { HD_TRY(new_lse(p, &a->lse)); }
    if (missing) {
        hd_attention_shape shape = shape_of(p);
        qkv x = views(d, &a->q, &a->kv_a, &a->kv);
        hd_tensor o = hd_tensor_split_last(&a->o, d->n_head, d->v_head_dim);
        HD_TRY(hd_attention_fwd(p->ex, &shape, &x.q, &x.k_nope, &x.k_rope, &x.v, &p->leaf->segments, &o, &a->lse, p->err));
    }
out:
    return st;
}

static hd_status observe(hd_pass *p, int64_t layer, const hd_attention *a)
{
    hd_status st;
    qkv x = views(p->dims, &a->q, &a->kv_a, &a->kv);
    HD_TRY(hd_pass_observe(p, "input_norm", layer, &a->norm_x));
    HD_TRY(hd_pass_observe(p, "q", layer, &a->q));
    HD_TRY(hd_pass_observe(p, "kv_latent", layer, &a->norm_kv));
    HD_TRY(hd_pass_observe(p, "k_rope", layer, &x.k_rope));
    HD_TRY(hd_pass_observe(p, "kv", layer, &a->kv));
    HD_TRY(hd_pass_observe(p, "attention", layer, &a->o));
out:
    return st;
}

hd_status hd_attention_forward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, hd_attention *a)
{
    hd_status st;
    *a = (hd_attention){0};
    HD_TRY(hd_pass_norm(p, x, layer->input_norm, p->dims->rms_norm_eps, &a->norm_x, &a->rstd_x));
    HD_TRY(hd_attention_query(p, layer, a));
    HD_TRY(forward_key_value(p, layer, a));
    HD_TRY(forward_core(p, layer, a));
    HD_TRY(observe(p, layer->index, a));
out:
    return st;
}

hd_status hd_attention_output(hd_pass *p, const hd_layer *layer, const hd_attention *a, hd_tensor *y)
{
    return hd_linear_fwd(p->ex, &a->o, layer->o_proj, HD_ADD, y, p->err);
}

/* ---- backward, from the output to the input ----------------------------------------------------------------------------- */

/* Gradients on the way: of o; of q, kv and kv_a, in buffers shaped as the activations; of norm_x. */
typedef struct gradients { hd_tensor d_o, dq, dkv, dkv_a, dnorm_x; } gradients;

static hd_status new_gradients(hd_pass *p, gradients *g)
{
    hd_status st;
    const hd_dims *d = p->dims;
    HD_TRY(hd_pass_rows(p, o_width(d), &g->d_o));
    HD_TRY(hd_pass_rows(p, q_width(d), &g->dq));
    HD_TRY(hd_pass_rows(p, kv_width(d), &g->dkv));
    HD_TRY(hd_pass_rows(p, kv_a_width(d), &g->dkv_a));
    HD_TRY(hd_pass_rows(p, d->hidden_size, &g->dnorm_x));
out:
    return st;
}

static hd_status backward_core(hd_pass *p, const hd_attention *a, gradients *g)
{
    hd_status st;
    const hd_dims *d = p->dims;
    hd_attention_shape shape = shape_of(p);
    qkv x = views(d, &a->q, &a->kv_a, &a->kv), dx = views(d, &g->dq, &g->dkv_a, &g->dkv);
    hd_tensor o = hd_tensor_split_last(&a->o, d->n_head, d->v_head_dim);
    hd_tensor d_o = hd_tensor_split_last(&g->d_o, d->n_head, d->v_head_dim);
    HD_TRY(hd_attention_bwd(p->ex, &shape, &d_o, &x.q, &x.k_nope, &x.k_rope, &x.v, &p->leaf->segments, &o, &a->lse, &dx.q,
                            &dx.k_nope, &dx.k_rope, &dx.v, p->err));
    HD_TRY(hd_rope(p->ex, &p->leaf->positions, &p->model->rope_table, -1, &dx.q_rope, p->err));
    HD_TRY(hd_rope(p->ex, &p->leaf->positions, &p->model->rope_table, -1, &dx.k_rope_one_head, p->err));
out:
    return st;
}

static hd_status backward_key_value(hd_pass *p, const hd_layer *layer, const hd_attention *a, gradients *g)
{
    hd_status st;
    hd_tensor dnorm_kv, latent = latent_of(p->dims, &a->kv_a), dlatent = latent_of(p->dims, &g->dkv_a);
    HD_TRY(hd_pass_rows(p, p->dims->kv_lora_rank, &dnorm_kv));
    HD_TRY(hd_linear_grad(p->ex, &g->dkv, &a->norm_kv, layer->kv_b_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &g->dkv, layer->kv_b_proj, HD_SET, &dnorm_kv, p->err));
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dnorm_kv, &latent, &a->rstd_kv, layer->kv_a_norm, HD_SET, &dlatent, p->err));
    HD_TRY(hd_linear_grad(p->ex, &g->dkv_a, &a->norm_x, layer->kv_a_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &g->dkv_a, layer->kv_a_proj, HD_SET, &g->dnorm_x, p->err));
out:
    return st;
}

static hd_status backward_query(hd_pass *p, const hd_layer *layer, const hd_attention *a, gradients *g)
{
    hd_status st;
    if (p->dims->q_lora_rank == 0) {
        HD_TRY(hd_linear_grad(p->ex, &g->dq, &a->norm_x, layer->q_proj, p->err));
        return hd_linear_bwd_input(p->ex, &g->dq, layer->q_proj, HD_ADD, &g->dnorm_x, p->err);
    }
    hd_tensor dnorm_q, dq_a;
    HD_TRY(hd_pass_rows(p, p->dims->q_lora_rank, &dnorm_q));
    HD_TRY(hd_pass_rows(p, p->dims->q_lora_rank, &dq_a));
    HD_TRY(hd_linear_grad(p->ex, &g->dq, &a->norm_q, layer->q_b_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &g->dq, layer->q_b_proj, HD_SET, &dnorm_q, p->err));
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dnorm_q, &a->q_a, &a->rstd_q, layer->q_a_norm, HD_SET, &dq_a, p->err));
    HD_TRY(hd_linear_grad(p->ex, &dq_a, &a->norm_x, layer->q_a_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, &dq_a, layer->q_a_proj, HD_ADD, &g->dnorm_x, p->err));
out:
    return st;
}

hd_status hd_attention_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_attention *a, hd_tensor *dy)
{
    hd_status st;
    gradients g;
    HD_TRY(new_gradients(p, &g));
    HD_TRY(hd_linear_grad(p->ex, dy, &a->o, layer->o_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, dy, layer->o_proj, HD_SET, &g.d_o, p->err));
    HD_TRY(backward_core(p, a, &g));
    HD_TRY(backward_key_value(p, layer, a, &g));
    HD_TRY(backward_query(p, layer, a, &g));
    HD_TRY(hd_rmsnorm_bwd(p->ex, &g.dnorm_x, x, &a->rstd_x, layer->input_norm, HD_ADD, dy, p->err));
out:
    return st;
}
