/* FLOP counts of a training step. */
#include "train/flops.h"

/* Parameters of one layer's attention projections. */
static double attention_params(const hd_dims *d)
{
    double head = (double)(d->qk_nope_head_dim + d->qk_rope_head_dim), n_head = (double)d->n_head, hidden = (double)d->hidden_size;
    double q = d->q_lora_rank == 0 ? hidden * n_head * head : (double)d->q_lora_rank * (hidden + n_head * head);
    double kv = hidden * (double)(d->kv_lora_rank + d->qk_rope_head_dim) +
                (double)d->kv_lora_rank * n_head * (double)(d->qk_nope_head_dim + d->v_head_dim);
    return q + kv + hidden * n_head * (double)d->v_head_dim;
}

static double swiglu_params(const hd_dims *d, int64_t width) { return 3.0 * (double)d->hidden_size * (double)width; }

/* Parameters that one token meets in a MoE layer's feed-forward part. */
static double moe_active_params(const hd_dims *d)
{
    double width = (double)d->moe_intermediate_size * (double)(d->router.top_k + d->n_shared_expert);
    return 3.0 * (double)d->hidden_size * width + (double)d->hidden_size * (double)d->n_expert;
}

static double n_moe_layer(const hd_dims *d) { return d->n_expert == 0 ? 0.0 : (double)(d->n_layer - d->n_dense_layer); }

static double trunk_params(const hd_dims *d)
{
    double n_moe = n_moe_layer(d), n_dense = (double)d->n_layer - n_moe;
    return (double)d->n_layer * attention_params(d) + n_dense * swiglu_params(d, d->intermediate_size) +
           n_moe * moe_active_params(d) + (double)d->hidden_size * (double)d->vocab_size;
}

/* Forward FLOPs of one layer's attention core per query-key pair, all heads. */
static double pair_forward(const hd_dims *d)
{
    return 2.0 * (double)d->n_head * (double)(d->qk_nope_head_dim + d->qk_rope_head_dim + d->v_head_dim);
}

hd_flops hd_flops_maxtext(const hd_dims *d, double n_seq, int64_t seq_len)
{
    double tokens = n_seq * (double)seq_len;
    double n_layer = (double)(d->n_layer + d->n_mtp);
    double mtp = (double)d->n_mtp * (moe_active_params(d) + attention_params(d));
    hd_flops f = {
        .weights = 3.0 * 2.0 * tokens * (trunk_params(d) + mtp),
        .attention = 3.0 * n_layer * tokens * (double)seq_len * 0.5 * pair_forward(d),
    };
    f.total = f.weights + f.attention;
    return f;
}

hd_flops hd_flops_model(const hd_dims *d, double n_seq, int64_t seq_len)
{
    double tokens = n_seq * (double)seq_len;
    double pairs = n_seq * (double)seq_len * (double)(seq_len + 1) / 2.0;
    double n_layer = (double)(d->n_layer + d->n_mtp), hidden = (double)d->hidden_size;
    double mtp = (double)d->n_mtp *
                 (moe_active_params(d) + attention_params(d) + 2.0 * hidden * hidden + hidden * (double)d->vocab_size);
    double qk = (double)(d->qk_nope_head_dim + d->qk_rope_head_dim), v = (double)d->v_head_dim;
    /* forward q k, p v; backward dv, dp, dq, dk: the recomputed q k of flash attention is not counted */
    double pair = 2.0 * (double)d->n_head * (qk + v + v + v + 2.0 * qk);
    hd_flops f = {
        .weights = 3.0 * 2.0 * tokens * (trunk_params(d) + mtp),
        .attention = n_layer * pairs * pair,
    };
    f.total = f.weights + f.attention;
    return f;
}
