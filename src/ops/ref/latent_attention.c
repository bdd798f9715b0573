/* MLA attention of new tokens against latent caches, by its definition: keys and values of all heads are expanded.
 * DeepSeek-V2 (arXiv 2405.04434) section 2.1.  With Wkvb = per head [Wk ; Wv] and cache rows [l ; k_rope]:
 *   k_nope_j = Wk l_j,  v_j = Wv l_j
 *   s_ij = a (q_i[:n] . k_nope_j + q_i[n:] . k_rope_j),  j <= i;   p_ij = exp(s_ij - m_i) / sum_j exp(s_ij - m_i);   o_i = sum_j p_ij v_j */
#include <math.h>

#include "ops/ref/element.h"
#include "ops/ref/ref.h"

typedef struct latent {
    const hd_latent_spec *spec;
    const hd_tensor *q, *rows, *kv_b;
    int64_t h, n, r, v, c; /* head; widths */
    double *k, *values, *p; /* (T, n), (T, v), (T) */
} latent;

/* y_d = W[first + d] . latent of position j */
static void expand(const latent *a, int64_t j, int64_t first, int64_t count, double *y)
{
    for (int64_t d = 0; d < count; d++) {
        y[d] = 0.0;
        for (int64_t i = 0; i < a->c; i++) { y[d] += ref_get2(a->kv_b, first + d, i) * ref_get2(a->rows, j, i); }
    }
}

static double score(const latent *a, int64_t row, int64_t j)
{
    int64_t q = a->h * (a->n + a->r);
    double sum = 0.0;
    for (int64_t d = 0; d < a->n; d++) { sum += ref_get2(a->q, row, q + d) * a->k[j * a->n + d]; }
    for (int64_t d = 0; d < a->r; d++) { sum += ref_get2(a->q, row, q + a->n + d) * ref_get2(a->rows, j, a->c + d); }
    return a->spec->scale * sum;
}

/* Row `row` of q, at position i. */
static void attend(const latent *a, int64_t row, int64_t i, hd_tensor *o)
{
    double max = -INFINITY, sum = 0.0;
    for (int64_t j = 0; j <= i; j++) {
        a->p[j] = score(a, row, j);
        if (a->p[j] > max) { max = a->p[j]; }
    }
    for (int64_t j = 0; j <= i; j++) {
        a->p[j] = exp(a->p[j] - max);
        sum += a->p[j];
    }
    for (int64_t d = 0; d < a->v; d++) {
        double x = 0.0;
        for (int64_t j = 0; j <= i; j++) { x += a->p[j] / sum * a->values[j * a->v + d]; }
        ref_put2(o, row, a->h * a->v + d, x);
    }
}

hd_status hd_ref_latent_attention_fwd(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *sequences,
                                      int64_t n_sequence, const hd_weight *kv_b, hd_tensor *o, hd_err *err)
{
    latent a = {.spec = spec, .q = q, .kv_b = &kv_b->value, .n = spec->qk_nope_head_dim, .r = spec->qk_rope_head_dim,
                .v = spec->v_head_dim, .c = spec->kv_lora_rank};
    int64_t longest = 0, first = 0;
    for (int64_t s = 0; s < n_sequence; s++) { longest = sequences[s].rows.shape[0] > longest ? sequences[s].rows.shape[0] : longest; }
    hd_status st = hd_ref_scratch(ex, longest * (a.n + a.v + 1), &a.k, err);
    if (st != HD_OK || ex->dry) { return st; }
    a.values = a.k + longest * a.n;
    a.p = a.values + longest * a.v;
    for (int64_t s = 0; s < n_sequence; first += sequences[s].n_new, s++) {
        int64_t n_new = sequences[s].n_new, total = sequences[s].rows.shape[0];
        a.rows = &sequences[s].rows;
        for (a.h = 0; a.h < spec->n_head; a.h++) {
            for (int64_t j = 0; j < total; j++) {
                expand(&a, j, a.h * (a.n + a.v), a.n, a.k + j * a.n);
                expand(&a, j, a.h * (a.n + a.v) + a.n, a.v, a.values + j * a.v);
            }
            for (int64_t i = 0; i < n_new; i++) { attend(&a, first + i, total - n_new + i, o); }
        }
    }
    return HD_OK;
}
