/* Router, dispatch, combine and balance of experts.  The router costs one exp and a few comparisons per logit, the
 * moves of rows are bound by memory, the rest is a few bytes a token. */
#include "base/parallel_for.h"
#include "ops/cpu/math.h"

/* ---- router, forward ---- */

typedef struct router_job {
    const hd_router_spec *spec;
    const hd_tensor *logits, *bias, *dweights, *dscores, *in_scores, *in_ids, *in_weights;
    hd_tensor *scores, *ids, *weights, *dlogits;
    float *selection; /* (n_threads, row_len): scores + bias of one token, then the ranks of its groups */
    int64_t row_len, item_rows;
} router_job;

/* A list of the best values seen, in descending order; of equal values the first stays in front.  NaN counts as the
 * largest, so that it is chosen and shows in the weights. */
typedef struct top_list {
    int64_t capacity, n;
    float *value;
    int32_t *index;
} top_list;

static void top_insert(top_list *top, float value, int32_t index)
{
    if (value != value) { value = INFINITY; }
    if (top->n == top->capacity && !(value > top->value[top->n - 1])) { return; }
    int64_t at = top->n < top->capacity ? top->n++ : top->n - 1;
    for (; at > 0 && value > top->value[at - 1]; at--) {
        top->value[at] = top->value[at - 1];
        top->index[at] = top->index[at - 1];
    }
    top->value[at] = value;
    top->index[at] = index;
}

/* Inserts n values.  Whole vectors without a candidate are passed over: after the first few, almost all. */
static void top_insert_all(top_list *top, const float *value, int32_t first_index, int64_t n)
{
    for (int64_t i = 0; i < n; i += HD_LANES) {
        int64_t end = hd_min_i64(n, i + HD_LANES);
        if (top->n == top->capacity && end == i + HD_LANES) {
            hd_vf v = *(const hd_vf_u *)(value + i);
            if (!hd_any((v > top->value[top->n - 1]) | (v != v))) { continue; }
        }
        for (int64_t j = i; j < end; j++) { top_insert(top, value[j], first_index + (int32_t)j); }
    }
}

static void softmax_row(const float *z, float *p, int64_t n)
{
    float max = -INFINITY;
    hd_vf sum = {0};
    for (int64_t i = 0; i < n; i++) { max = z[i] > max ? z[i] : max; }
    HD_FOR_LANES(i, n)
    {
        hd_vf e = hd_clear_tail(hd_exp(hd_load(z, HD_DTYPE_F32, i, n) - max), i, n);
        sum += e;
        hd_store(p, HD_DTYPE_F32, i, n, e);
    }
    float total = hd_sum_lanes(sum);
    for (int64_t i = 0; i < n; i++) { p[i] = p[i] / total; }
}

static void score_row(hd_score_func func, const float *z, float *s, int64_t n)
{
    if (func == HD_SCORE_SOFTMAX) {
        softmax_row(z, s, n);
        return;
    }
    HD_FOR_LANES(i, n)
    {
        hd_store(s, HD_DTYPE_F32, i, n, hd_sigmoid(hd_load(z, HD_DTYPE_F32, i, n)));
    }
}

/* Leaves the two largest of all lanes of first and second in lane 0: lanes meet at distances LANES / 2, ..., 1. */
HD_INLINE void fold_largest_two(hd_vf *first, hd_vf *second)
{
#pragma GCC unroll 4
    for (int d = HD_LANES / 2; d >= 1; d /= 2) {
        hd_vi partner = hd_lane_index() ^ d;
        hd_vf f = hd_shuffle(*first, partner), s = hd_shuffle(*second, partner);
        *second = hd_vmax(hd_vmin(*first, f), hd_vmax(*second, s));
        *first = hd_vmax(*first, f);
    }
}

/* The rank of a group: its largest value, or the sum of its two largest. */
static float group_rank(hd_group_rule rule, const float *value, int64_t n)
{
    float best[2];
    int32_t index[2];
    top_list top = {.capacity = hd_min_i64(2, n), .value = best, .index = index};
    hd_vf first = hd_splat(-INFINITY), second = first; /* the two largest of each lane */
    int64_t i = 0;
    for (; i + HD_LANES <= n; i += HD_LANES) {
        hd_vf v = *(const hd_vf_u *)(value + i);
        v = hd_select(v != v, hd_splat(INFINITY), v);
        second = hd_vmax(hd_vmin(v, first), second);
        first = hd_vmax(v, first);
    }
    if (i > 0) {
        fold_largest_two(&first, &second);
        top_insert(&top, first[0], 0);
        top_insert(&top, second[0], 0);
    }
    for (; i < n; i++) { top_insert(&top, value[i], 0); }
    return rule == HD_GROUP_TOP2_SUM && n > 1 ? best[0] + best[1] : best[0];
}

enum { MAX_CHOICES = 512 }; /* groups or experts per token in one list */

/* Sets the selection scores of the groups that are not among the best topk_group. */
static void mask_groups(const hd_router_spec *spec, float *selection, int64_t n_expert)
{
    float value[MAX_CHOICES];
    int32_t index[MAX_CHOICES];
    bool keep[MAX_CHOICES] = {false};
    int64_t size = n_expert / spec->n_group;
    top_list top = {.capacity = spec->topk_group, .value = value, .index = index};
    for (int64_t g = 0; g < spec->n_group; g++) {
        top_insert(&top, group_rank(spec->group_rule, selection + g * size, size), (int32_t)g);
    }
    for (int64_t j = 0; j < top.n; j++) { keep[index[j]] = true; }
    for (int64_t e = 0; e < size * spec->n_group; e++) {
        if (!keep[e / size]) { selection[e] = spec->masked_group_zero ? 0.0f : -INFINITY; }
    }
}

static void choose_experts(const router_job *job, const float *scores, float *selection, int32_t *ids)
{
    const hd_router_spec *spec = job->spec;
    int64_t n_expert = job->scores->shape[1];
    float value[MAX_CHOICES];
    const float *bias = job->bias == NULL ? NULL : job->bias->data;
    for (int64_t e = 0; e < n_expert; e++) { selection[e] = bias == NULL ? scores[e] : scores[e] + bias[e]; }
    if (spec->group_rule != HD_GROUP_NONE && spec->n_group > 1) { mask_groups(spec, selection, n_expert); }
    top_list top = {.capacity = spec->top_k, .value = value, .index = ids};
    top_insert_all(&top, selection, 0, n_expert);
}

static void weigh_experts(const hd_router_spec *spec, const float *scores, const int32_t *ids, float *weights)
{
    float factor = spec->scale_normalized || !spec->normalize ? (float)spec->routed_scaling : 1.0f, sum = 0.0f;
    for (int64_t j = 0; j < spec->top_k; j++) { sum += scores[ids[j]]; }
    for (int64_t j = 0; j < spec->top_k; j++) {
        float s = scores[ids[j]];
        weights[j] = (spec->normalize ? s / (sum + 1e-20f) : s) * factor;
    }
}

static void router_item(void *arg, int64_t item, int thread)
{
    const router_job *job = arg;
    int64_t begin = item * job->item_rows, end = hd_min_i64(job->logits->shape[0], begin + job->item_rows);
    float *selection = job->selection + (int64_t)thread * job->row_len;
    for (int64_t r = begin; r < end; r++) {
        float *scores = hd_row(job->scores, r);
        int32_t *ids = hd_row(job->ids, r);
        score_row(job->spec->score_func, hd_row(job->logits, r), scores, job->logits->shape[1]);
        choose_experts(job, scores, selection, ids);
        weigh_experts(job->spec, scores, ids, hd_row(job->weights, r));
    }
}

/* Reads logits, writes scores: 8 bytes an expert; about 40 operations per HD_LANES experts. */
static hd_status router_fwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *logits, const hd_tensor *bias,
                            hd_tensor *scores, hd_tensor *ids, hd_tensor *weights, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n_expert = logits->shape[1];
    router_job job = {.spec = spec,
                      .logits = logits,
                      .bias = bias,
                      .scores = scores,
                      .ids = ids,
                      .weights = weights,
                      .row_len = hd_ceil_div(n_expert, 16) * 16,
                      .item_rows = hd_rows_per_item(n_expert * 32)};
    if (spec->top_k > MAX_CHOICES || spec->n_group > MAX_CHOICES) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "router: %lld experts of %lld groups a token, want at most %d",
                       (long long)spec->top_k, (long long)spec->n_group, MAX_CHOICES);
    }
    size_t bytes = (size_t)ex->n_threads * (size_t)job.row_len * sizeof(float);
    HD_TRY(hd_arena_alloc(ex->scratch, bytes, (void **)&job.selection, err));
    if (ex->dry) { goto out; }
    hd_parallel_for(ex->n_threads, hd_ceil_div(logits->shape[0], job.item_rows), router_item, &job);
out:
    return st;
}

/* ---- router, backward ---- */

/* ds += gradient of the chosen scores.  Normalised: w_e = c s_e / Z, so ds_e = (c dw_e - sum_j dw_j w_j) / Z. */
static void score_gradient(const hd_router_spec *spec, const float *scores, const int32_t *ids, const float *weights,
                           const float *dweights, float *ds)
{
    float factor = spec->scale_normalized || !spec->normalize ? (float)spec->routed_scaling : 1.0f;
    float sum = 0.0f, dot = 0.0f;
    for (int64_t j = 0; j < spec->top_k; j++) {
        sum += scores[ids[j]];
        dot += dweights[j] * weights[j];
    }
    for (int64_t j = 0; j < spec->top_k; j++) {
        float d = factor * dweights[j];
        ds[ids[j]] += spec->normalize ? (d - dot) / (sum + 1e-20f) : d;
    }
}

/* Through the score function, in place: sigmoid dl = ds s (1 - s), softmax dl = s (ds - sum ds s). */
static void logit_gradient(hd_score_func func, const float *s, float *ds, int64_t n)
{
    hd_vf dot = {0};
    if (func == HD_SCORE_SOFTMAX) {
        HD_FOR_LANES(i, n)
        {
            dot += hd_load(s, HD_DTYPE_F32, i, n) * hd_load(ds, HD_DTYPE_F32, i, n);
        }
    }
    float sum = hd_sum_lanes(dot);
    for (int64_t i = 0; i < n; i++) {
        ds[i] = func == HD_SCORE_SOFTMAX ? s[i] * (ds[i] - sum) : ds[i] * (s[i] * (1.0f - s[i]));
    }
}

static void router_gradient_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const router_job *job = arg;
    int64_t n = job->in_scores->shape[1], begin = item * job->item_rows;
    int64_t end = hd_min_i64(job->in_scores->shape[0], begin + job->item_rows);
    for (int64_t r = begin; r < end; r++) {
        const float *scores = hd_row(job->in_scores, r);
        float *dl = hd_row(job->dlogits, r);
        if (job->dscores != NULL) {
            memcpy(dl, hd_row(job->dscores, r), (size_t)n * sizeof *dl);
        } else {
            memset(dl, 0, (size_t)n * sizeof *dl);
        }
        score_gradient(job->spec, scores, hd_row(job->in_ids, r), hd_row(job->in_weights, r), hd_row(job->dweights, r),
                       dl);
        logit_gradient(job->spec->score_func, scores, dl, n);
    }
}

/* Reads scores (and dscores), writes dlogits: 8 or 12 bytes an expert. */
static hd_status router_bwd(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *dweights,
                            const hd_tensor *dscores, const hd_tensor *scores, const hd_tensor *ids,
                            const hd_tensor *weights, hd_tensor *dlogits, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    router_job job = {.spec = spec,
                      .dweights = dweights,
                      .dscores = dscores,
                      .in_scores = scores,
                      .in_ids = ids,
                      .in_weights = weights,
                      .dlogits = dlogits,
                      .item_rows = hd_rows_per_item(scores->shape[1] * 16)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(scores->shape[0], job.item_rows), router_gradient_item, &job);
    return HD_OK;
}

/* ---- dispatch: a stable counting sort of the claims ---- */

typedef struct sort_state {
    const hd_dispatch_spec *spec;
    const hd_tensor *ids;
    int64_t *count, *in_sequence;
} sort_state;

static int32_t claim_expert(const sort_state *s, int64_t token, int64_t slot)
{
    return ((const int32_t *)hd_row(s->ids, token))[slot];
}

/* Whether capacity leaves room for the next claim on expert e of the current sequence; counts it. */
static bool claim_fits(const sort_state *s, int32_t e)
{
    return s->spec->capacity <= 0 || s->in_sequence[e]++ < s->spec->capacity;
}

static void start_token(const sort_state *s, int64_t token)
{
    if (s->spec->capacity > 0 && token % s->spec->seq_len == 0) {
        memset(s->in_sequence, 0, (size_t)s->spec->n_expert * sizeof *s->in_sequence);
    }
}

static void count_claims(const sort_state *s)
{
    memset(s->count, 0, (size_t)s->spec->n_expert * sizeof *s->count);
    for (int64_t t = 0; t < s->ids->shape[0]; t++) {
        start_token(s, t);
        for (int64_t j = 0; j < s->spec->top_k; j++) {
            int32_t e = claim_expert(s, t, j);
            s->count[e] += claim_fits(s, e);
        }
    }
}

/* count becomes the next free row of each expert. */
static void place_claims(const sort_state *s, int32_t *claim, hd_tensor *row_of)
{
    for (int64_t t = 0; t < s->ids->shape[0]; t++) {
        int32_t *rows = hd_row(row_of, t);
        start_token(s, t);
        for (int64_t j = 0; j < s->spec->top_k; j++) {
            int32_t e = claim_expert(s, t, j);
            rows[j] = -1;
            if (!claim_fits(s, e)) { continue; }
            rows[j] = (int32_t)s->count[e]++;
            claim[rows[j]] = (int32_t)(t * s->spec->top_k + j);
        }
    }
}

/* Two passes over the N k ids: 16 bytes a claim. */
static hd_status moe_dispatch(hd_exec *ex, const hd_dispatch_spec *spec, const hd_tensor *ids, hd_tensor *claim,
                              hd_tensor *offsets, hd_tensor *row_of, hd_err *err)
{
    hd_status st = HD_OK;
    sort_state s = {.spec = spec, .ids = ids};
    size_t bytes = (size_t)spec->n_expert * sizeof *s.count;
    HD_TRY(hd_arena_alloc(ex->scratch, bytes, (void **)&s.count, err));
    HD_TRY(hd_arena_alloc(ex->scratch, bytes, (void **)&s.in_sequence, err));
    if (ex->dry) { goto out; }
    int32_t *begins = offsets->data, *claims = claim->data;
    int64_t total = 0;
    count_claims(&s);
    for (int64_t e = 0; e < spec->n_expert; e++) {
        int64_t n = s.count[e];
        begins[e] = (int32_t)total;
        s.count[e] = total;
        total += n;
    }
    begins[spec->n_expert] = (int32_t)total;
    place_claims(&s, claims, row_of);
    for (int64_t r = total; r < claim->shape[0]; r++) { claims[r] = -1; }
out:
    return st;
}

/* ---- moving rows ---- */

typedef struct move_job {
    const hd_tensor *x, *claim, *row_of, *weights;
    hd_tensor *y;
    hd_accum accum;
    int64_t top_k, n_rows, item_rows;
} move_job;

static void gather_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const move_job *job = arg;
    const int32_t *claim = job->claim->data;
    size_t bytes = (size_t)job->y->shape[1] * (job->y->dtype == HD_DTYPE_F32 ? 4 : 2);
    int64_t end = hd_min_i64(job->n_rows, (item + 1) * job->item_rows);
    for (int64_t r = item * job->item_rows; r < end; r++) {
        memcpy(hd_row(job->y, r), hd_row(job->x, claim[r] / job->top_k), bytes);
    }
}

static int64_t last_offset(const hd_tensor *offsets)
{
    return ((const int32_t *)offsets->data)[offsets->shape[0] - 1];
}

/* Reads and writes one row per claim. */
static hd_status moe_gather(hd_exec *ex, const hd_tensor *x, const hd_tensor *claim, const hd_tensor *offsets,
                            int64_t top_k, hd_tensor *xs, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    move_job job = {.x = x,
                    .claim = claim,
                    .y = xs,
                    .top_k = top_k,
                    .n_rows = last_offset(offsets),
                    .item_rows = hd_rows_per_item(xs->shape[1] * 8)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(job.n_rows, job.item_rows), gather_item, &job);
    return HD_OK;
}

/* y (+)= sum over the token's kept claims, in order of slot, of w times the claim's row. */
HD_INLINE void combine_row(const move_job *job, const int32_t *rows, const float *weights, int64_t token,
                           hd_dtype dtype)
{
    int64_t n = job->y->shape[1];
    void *y = hd_row(job->y, token);
    HD_MAP_LANES(i, 0, n, {
        hd_vf sum = {0};
        for (int64_t j = 0; j < job->top_k; j++) {
            if (rows[j] < 0) { continue; }
            hd_vf x = hd_load(hd_row(job->x, rows[j]), dtype, i, n);
            sum += x * (weights == NULL ? 1.0f : weights[j]);
        }
        if (job->accum == HD_ADD) { sum += hd_load(y, dtype, i, n); }
        hd_store(y, dtype, i, n, sum);
    });
}

static void combine_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const move_job *job = arg;
    int64_t end = hd_min_i64(job->n_rows, (item + 1) * job->item_rows);
    for (int64_t t = item * job->item_rows; t < end; t++) {
        const int32_t *rows = hd_row(job->row_of, t);
        const float *weights = job->weights == NULL ? NULL : hd_row(job->weights, t);
        HD_WITH_DTYPE(job->x->dtype, X, combine_row(job, rows, weights, t, X););
    }
}

/* Reads k rows a token, writes one (and reads it to accumulate). */
static void run_combine(hd_exec *ex, move_job *job)
{
    job->top_k = job->row_of->shape[1];
    job->n_rows = job->row_of->shape[0];
    job->item_rows = hd_rows_per_item(job->y->shape[1] * 4 * (job->top_k + 2));
    hd_parallel_for(ex->n_threads, hd_ceil_div(job->n_rows, job->item_rows), combine_item, job);
}

static hd_status moe_scatter(hd_exec *ex, const hd_tensor *xs, const hd_tensor *row_of, hd_accum x_accum, hd_tensor *x,
                             hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    run_combine(ex, &(move_job){.x = xs, .row_of = row_of, .y = x, .accum = x_accum});
    return HD_OK;
}

static hd_status moe_combine(hd_exec *ex, const hd_tensor *ys, const hd_tensor *row_of, const hd_tensor *weights,
                             hd_accum y_accum, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    run_combine(ex, &(move_job){.x = ys, .row_of = row_of, .weights = weights, .y = y, .accum = y_accum});
    return HD_OK;
}

/* ---- moving weights: 8 bytes a claim ---- */

static hd_status moe_permute_weights(hd_exec *ex, const hd_tensor *weights, const hd_tensor *claim,
                                     const hd_tensor *offsets, hd_tensor *ws, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    const int32_t *claims = claim->data;
    int64_t top_k = weights->shape[1];
    for (int64_t r = 0; r < last_offset(offsets); r++) {
        *(float *)hd_row(ws, r) = ((const float *)hd_row(weights, claims[r] / top_k))[claims[r] % top_k];
    }
    return HD_OK;
}

static hd_status moe_unpermute_weights(hd_exec *ex, const hd_tensor *dws, const hd_tensor *row_of, hd_tensor *dweights,
                                       hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < row_of->shape[0]; t++) {
        const int32_t *rows = hd_row(row_of, t);
        float *out = hd_row(dweights, t);
        for (int64_t j = 0; j < row_of->shape[1]; j++) {
            out[j] = rows[j] < 0 ? 0.0f : *(const float *)hd_row(dws, rows[j]);
        }
    }
    return HD_OK;
}

static hd_status moe_expand_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *weights, hd_tensor *w_full,
                                    hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        const int32_t *id = hd_row(ids, t);
        const float *w = hd_row(weights, t);
        float *out = hd_row(w_full, t);
        memset(out, 0, (size_t)w_full->shape[1] * sizeof *out);
        for (int64_t j = 0; j < ids->shape[1]; j++) { out[id[j]] = w[j]; }
    }
    return HD_OK;
}

static hd_status moe_collect_weights(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dw_full, hd_tensor *dweights,
                                     hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        const int32_t *id = hd_row(ids, t);
        const float *full = hd_row(dw_full, t);
        float *out = hd_row(dweights, t);
        for (int64_t j = 0; j < ids->shape[1]; j++) { out[j] = full[id[j]]; }
    }
    return HD_OK;
}

/* ---- balance ---- */

/* One pass over the N k ids. */
static hd_status expert_count(hd_exec *ex, const hd_tensor *ids, const hd_tensor *segments, hd_tensor *counts,
                              hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    double *count = counts->data;
    for (int64_t t = 0; t < ids->shape[0]; t++) {
        const int32_t *id = hd_row(ids, t);
        if (segments != NULL && *(const int32_t *)hd_row(segments, t) == 0) { continue; }
        for (int64_t j = 0; j < ids->shape[1]; j++) { count[id[j]] += 1.0; }
    }
    return HD_OK;
}

typedef struct balance_job {
    const hd_balance_spec *spec;
    const hd_tensor *scores, *bias, *ids;
    hd_tensor *dscores;
    float *share, *row;  /* (B, E): claims of an expert, then its factor; (n_threads, E): one row of probabilities */
    double *mean, *loss; /* (B, E): sums of the probabilities; (B) */
} balance_job;

/* The probabilities that a rule averages: the scores, the scores over their sum, softmax(scores + bias). */
static float balance_probabilities(const balance_job *job, int64_t t, float *p)
{
    int64_t n = job->scores->shape[1];
    const float *s = hd_row(job->scores, t), *bias = job->bias == NULL ? NULL : job->bias->data;
    float sum = 0.0f;
    for (int64_t e = 0; e < n; e++) { sum += s[e]; }
    for (int64_t e = 0; e < n; e++) { p[e] = job->spec->rule == HD_BALANCE_V3 ? s[e] / sum : s[e]; }
    if (job->spec->rule == HD_BALANCE_MAXTEXT) {
        for (int64_t e = 0; bias != NULL && e < n; e++) { p[e] += bias[e]; }
        softmax_row(p, p, n);
    }
    return sum;
}

/* The factor c of  loss_b = sum_e c count_be mean_t p_te. */
static double balance_factor(const hd_balance_spec *spec, int64_t n_expert)
{
    double e = (double)n_expert, t = (double)spec->seq_len, k = (double)spec->top_k;
    double common = spec->alpha * spec->weight / (double)spec->n_seq_total;
    return spec->rule == HD_BALANCE_MAXTEXT ? common * e / t : common * e / (k * t);
}

/* d loss / d score: f_e / T for V2; through p = s / sum and through the softmax for the others. */
static void balance_gradient_row(const balance_job *job, int64_t t, const float *share, float *p)
{
    int64_t n = job->scores->shape[1];
    float sum = balance_probabilities(job, t, p), dot = 0.0f, inverse_t = 1.0f / (float)job->spec->seq_len;
    float *ds = hd_row(job->dscores, t);
    for (int64_t e = 0; e < n; e++) { dot += share[e] * p[e]; }
    for (int64_t e = 0; e < n; e++) {
        float centred = (share[e] - dot) * inverse_t;
        ds[e] = job->spec->rule == HD_BALANCE_V2   ? share[e] * inverse_t
                : job->spec->rule == HD_BALANCE_V3 ? centred / sum
                                                   : centred * p[e];
    }
}

static void balance_sequence(void *arg, int64_t b, int thread)
{
    const balance_job *job = arg;
    int64_t n = job->scores->shape[1], length = job->spec->seq_len, k = job->ids->shape[1];
    float *share = job->share + b * n, *p = job->row + (int64_t)thread * n;
    double *mean = job->mean + b * n, factor = balance_factor(job->spec, n);
    for (int64_t e = 0; e < n; e++) {
        share[e] = 0.0f;
        mean[e] = 0.0;
    }
    for (int64_t t = b * length; t < (b + 1) * length; t++) {
        const int32_t *id = hd_row(job->ids, t);
        for (int64_t j = 0; j < k; j++) { share[id[j]] += 1.0f; }
        (void)balance_probabilities(job, t, p);
        for (int64_t e = 0; e < n; e++) { mean[e] += (double)p[e]; }
    }
    job->loss[b] = 0.0;
    for (int64_t e = 0; e < n; e++) {
        job->loss[b] += factor * (double)share[e] * (mean[e] / (double)length);
        share[e] = (float)(factor * (double)share[e]);
    }
    for (int64_t t = b * length; t < (b + 1) * length; t++) { balance_gradient_row(job, t, share, p); }
}

/* Reads the scores twice, writes dscores: 12 bytes an expert and token.  Parallel over sequences. */
static hd_status balance_loss(hd_exec *ex, const hd_balance_spec *spec, const hd_tensor *scores, const hd_tensor *bias,
                              const hd_tensor *ids, hd_tensor *loss, hd_tensor *dscores, hd_err *err)
{
    hd_status st = HD_OK;
    balance_job job = {.spec = spec, .scores = scores, .bias = bias, .ids = ids, .dscores = dscores};
    size_t n = (size_t)scores->shape[1], n_seq = (size_t)spec->n_seq;
    HD_TRY(hd_arena_alloc(ex->scratch, n_seq * n * sizeof *job.share, (void **)&job.share, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)ex->n_threads * n * sizeof *job.row, (void **)&job.row, err));
    HD_TRY(hd_arena_alloc(ex->scratch, n_seq * n * sizeof *job.mean, (void **)&job.mean, err));
    HD_TRY(hd_arena_alloc(ex->scratch, n_seq * sizeof *job.loss, (void **)&job.loss, err));
    if (ex->dry) { goto out; }
    hd_parallel_for(ex->n_threads, spec->n_seq, balance_sequence, &job);
    for (int64_t b = 0; b < spec->n_seq; b++) { *(double *)loss->data += job.loss[b]; }
out:
    return st;
}

/* 16 bytes an expert. */
static hd_status router_bias_update(hd_exec *ex, const hd_tensor *counts, double rate, const hd_tensor *control,
                                    hd_tensor *bias, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    if (control != NULL && ((const double *)control->data)[HD_CONTROL_APPLY] == 0.0) { return HD_OK; }
    const double *count = counts->data;
    float *b = bias->data;
    double mean = 0.0;
    for (int64_t e = 0; e < counts->shape[0]; e++) { mean += count[e]; }
    mean /= (double)counts->shape[0];
    for (int64_t e = 0; e < counts->shape[0]; e++) {
        double sign = (double)(mean > count[e]) - (double)(mean < count[e]);
        b[e] = (float)((double)b[e] + rate * sign);
    }
    return HD_OK;
}

void HD_CPU_INSTALL(moe)(hd_ops *ops)
{
    ops->router_fwd = router_fwd;
    ops->router_bwd = router_bwd;
    ops->moe_dispatch = moe_dispatch;
    ops->moe_gather = moe_gather;
    ops->moe_scatter = moe_scatter;
    ops->moe_permute_weights = moe_permute_weights;
    ops->moe_unpermute_weights = moe_unpermute_weights;
    ops->moe_combine = moe_combine;
    ops->moe_expand_weights = moe_expand_weights;
    ops->moe_collect_weights = moe_collect_weights;
    ops->expert_count = expert_count;
    ops->balance_loss = balance_loss;
    ops->router_bias_update = router_bias_update;
}
