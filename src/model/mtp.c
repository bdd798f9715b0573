/* The entry of a multi-token prediction module; its layer and its loss are the ordinary ones (backward.c).
 * Shapes: legend in layer.h.  Source: DeepSeek-V3 2.2.  The released weights take the embedding first, [enorm(e) ; hnorm(h)],
 * opposite to the order printed in the paper's equation 21, and h before the final norm. */
#include "model/layer.h"
#include "model/weights.h"

typedef struct entry {
    hd_tensor ids;                 /* (N) i32 */
    hd_tensor e, pair;             /* (N, D), (N, 2 D) act */
    hd_tensor pair_e, pair_h;      /* (N, D): the two halves of pair */
    hd_tensor rstd_e, rstd_h;      /* (N) f32 */
} entry;

static hd_tensor half(const hd_pass *p, const hd_tensor *pair, int which)
{
    return hd_tensor_slice(pair, 1, which * p->dims->hidden_size, p->dims->hidden_size);
}

/* e = Emb[ids].  Acquires the embedding alone: a streamed model has room for one unit. */
static hd_status look_up(hd_pass *p, int64_t m, entry *x)
{
    hd_status st;
    hd_layer *globals = hd_pass_globals(p);
    x->ids = hd_tensor_index(&p->leaf->mtp_inputs, m);
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_EMBEDDING, p->err));
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &x->e));
    HD_TRY(hd_embedding_fwd(p->ex, &x->ids, globals->embedding, &x->e, p->err));
out:
    hd_weights_release(globals, HD_UNIT_EMBEDDING);
    return st;
}

/* pair = [RMSNorm(e) ; RMSNorm(h)]. */
static hd_status make_pair(hd_pass *p, const hd_layer *layer, const hd_tensor *h, entry *x)
{
    hd_status st;
    double eps = p->dims->rms_norm_eps;
    HD_TRY(hd_pass_rows(p, 2 * p->dims->hidden_size, &x->pair));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, p->n_row, &x->rstd_e));
    HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, p->n_row, &x->rstd_h));
    x->pair_e = half(p, &x->pair, 0);
    x->pair_h = half(p, &x->pair, 1);
    HD_TRY(hd_rmsnorm_fwd(p->ex, &x->e, layer->mtp_embed_norm, eps, &x->pair_e, &x->rstd_e, p->err));
    HD_TRY(hd_rmsnorm_fwd(p->ex, h, layer->mtp_hidden_norm, eps, &x->pair_h, &x->rstd_h, p->err));
out:
    return st;
}

hd_status hd_mtp_input(hd_pass *p, hd_layer *layer, int64_t m, const hd_tensor *h, hd_tensor *x)
{
    hd_status st;
    entry in;
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(look_up(p, m, &in));
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_MTP, p->err));
    HD_TRY(make_pair(p, layer, h, &in));
    HD_TRY(hd_linear_fwd(p->ex, &in.pair, layer->mtp_proj, HD_SET, x, p->err));
out:
    hd_weights_release(layer, HD_UNIT_MTP);
    hd_arena_release(p->step, mark);
    return st;
}

/* dx -> d pair -> enorm -> the embedding's rows; -> hnorm -> dh. */
static hd_status pair_backward(hd_pass *p, const hd_layer *layer, const hd_tensor *h, const hd_tensor *dx, entry *in,
                               hd_tensor *dh)
{
    hd_status st;
    hd_tensor dpair, de; /* (N, 2 D), (N, D) act */
    hd_weight *embedding = hd_pass_globals(p)->embedding;
    HD_TRY(hd_pass_rows(p, 2 * p->dims->hidden_size, &dpair));
    HD_TRY(hd_pass_rows(p, p->dims->hidden_size, &de));
    hd_tensor dpair_e = half(p, &dpair, 0), dpair_h = half(p, &dpair, 1);
    HD_TRY(hd_linear_grad(p->ex, dx, &in->pair, layer->mtp_proj, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, dx, layer->mtp_proj, HD_SET, &dpair, p->err));
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dpair_h, h, &in->rstd_h, layer->mtp_hidden_norm, HD_ADD, dh, p->err));
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dpair_e, &in->e, &in->rstd_e, layer->mtp_embed_norm, HD_SET, &de, p->err));
    if (!hd_weight_frozen(embedding)) { HD_TRY(hd_embedding_bwd(p->ex, &in->ids, &de, embedding, p->err)); }
out:
    return st;
}

hd_status hd_mtp_input_backward(hd_pass *p, hd_layer *layer, int64_t m, const hd_tensor *h, const hd_tensor *dx, hd_tensor *dh)
{
    hd_status st;
    entry in;
    hd_layer *globals = hd_pass_globals(p);
    size_t mark = hd_arena_mark(p->step);
    HD_TRY(look_up(p, m, &in));
    HD_TRY(hd_weights_acquire(globals, HD_UNIT_EMBEDDING, p->err));
    HD_TRY(hd_weights_acquire(layer, HD_UNIT_MTP, p->err));
    HD_TRY(make_pair(p, layer, h, &in));
    HD_TRY(pair_backward(p, layer, h, dx, &in, dh));
out:
    hd_weights_release(layer, HD_UNIT_MTP);
    hd_weights_release(globals, HD_UNIT_EMBEDDING);
    hd_arena_release(p->step, mark);
    return st;
}
