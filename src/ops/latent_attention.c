/* MLA attention against latent caches: argument checks.  The definition is in ref/latent_attention.c, the contract in ops.h. */
#include "ops/check.h"

#include <inttypes.h>
#include <math.h>

static void check_spec(hd_check *c, const hd_latent_spec *s)
{
    hd_check_that(c, s->n_head > 0 && s->qk_nope_head_dim >= 0 && s->qk_rope_head_dim >= 0 && s->v_head_dim > 0 && s->kv_lora_rank > 0,
                  "%" PRId64 " heads of widths %" PRId64 ", %" PRId64 ", %" PRId64 " and rank %" PRId64 ", want positive ones", s->n_head,
                  s->qk_nope_head_dim, s->qk_rope_head_dim, s->v_head_dim, s->kv_lora_rank);
    hd_check_that(c, isfinite(s->scale), "scale is %g", s->scale);
}

/* What the sequences have in common; n_row: new tokens of all of them. */
static void check_shared(hd_check *c, const hd_latent_spec *s, int64_t n_row, const hd_tensor *q, const hd_weight *kv_b,
                         const hd_tensor *o)
{
    hd_check_in(c, "q", q, HD_OP_ACT, HD_SHAPE(n_row, s->n_head * (s->qk_nope_head_dim + s->qk_rope_head_dim)));
    hd_check_weight(c, kv_b, HD_SHAPE(s->n_head * (s->qk_nope_head_dim + s->v_head_dim), s->kv_lora_rank));
    if (c->st != HD_OK) { return; }
    hd_check_that(c, kv_b->layout == HD_LAYOUT_OUT_IN, "kv_b is stored [in, out], want [out, in]");
    hd_check_out(c, "o", o, HD_LIKE(q), HD_SHAPE(n_row, s->n_head * s->v_head_dim));
}

static hd_status check_sequence(hd_exec *ex, const hd_latent_spec *spec, int64_t n_row, const hd_tensor *q, const hd_latent_sequence *one,
                                const hd_weight *kv_b, const hd_tensor *o, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "latent_attention_fwd", err);
    check_shared(&c, spec, n_row, q, kv_b, o);
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "rows", &one->rows, HD_LIKE(q), HD_SHAPE(HD_ANY, spec->kv_lora_rank + spec->qk_rope_head_dim));
    if (c.st != HD_OK) { return c.st; }
    hd_check_that(&c, one->n_new >= 1 && one->n_new <= one->rows.shape[0], "%" PRId64 " new tokens in a cache of %" PRId64
                  " rows, want at least 1 and no more than rows", one->n_new, one->rows.shape[0]);
    return hd_check_end(&c);
}

hd_status hd_latent_attention_fwd(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *sequences,
                                  int64_t n_sequence, const hd_weight *kv_b, hd_tensor *o, hd_err *err)
{
    int64_t n_row = 0;
    hd_check c = hd_check_begin(ex, "latent_attention_fwd", err);
    check_spec(&c, spec);
    for (int64_t s = 0; s < n_sequence; s++) { n_row += sequences[s].n_new; }
    check_shared(&c, spec, n_row, q, kv_b, o);
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    for (int64_t s = 0; s < n_sequence; s++) {
        hd_status st = check_sequence(ex, spec, n_row, q, &sequences[s], kv_b, o, err);
        if (st != HD_OK) { return st; }
    }
    HD_RETURN_BACKEND(ex, latent_attention_fwd, spec, q, sequences, n_sequence, kv_b, o, err);
}
