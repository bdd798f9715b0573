/* The router: scores and weights within rounding, selection exactly, against an independent sort; gradients. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32

typedef struct row { const char *name; int64_t n, experts; hd_router_spec spec; bool bias; double spread; } row;

#define SOFTMAX HD_SCORE_SOFTMAX
#define SIGMOID HD_SCORE_SIGMOID

/* score, group rule, n_group, topk_group, top_k, normalize, scale_normalized, masked_group_zero, routed_scaling */
static const row rows[] = {
    {"nobody", 0, 4, {SOFTMAX, HD_GROUP_NONE, 1, 1, 2, false, false, false, 1.0}, false, 1},
    {"one expert", 3, 1, {SOFTMAX, HD_GROUP_NONE, 1, 1, 1, false, false, false, 1.0}, false, 1},
    {"V2-Lite", 65, 64, {SOFTMAX, HD_GROUP_NONE, 1, 1, 6, false, false, false, 1.0}, false, 2},
    {"V2", 33, 160, {SOFTMAX, HD_GROUP_MAX, 8, 3, 6, false, false, false, 16.0}, false, 2},
    {"V2 normalised: no scaling", 17, 64, {SOFTMAX, HD_GROUP_NONE, 1, 1, 6, true, false, false, 16.0}, false, 2},
    {"V3", 129, 256, {SIGMOID, HD_GROUP_TOP2_SUM, 8, 4, 8, true, true, false, 2.5}, true, 2},
    {"V3 masked to zero", 31, 32, {SIGMOID, HD_GROUP_TOP2_SUM, 8, 2, 8, true, true, true, 2.5}, true, 2},
    {"V3 without groups", 7, 33, {SIGMOID, HD_GROUP_NONE, 1, 1, 8, true, true, false, 2.5}, true, 2},
    {"all experts", 5, 8, {SIGMOID, HD_GROUP_TOP2_SUM, 2, 1, 8, true, true, false, 2.5}, true, 2},
    {"primes", 13, 17, {SIGMOID, HD_GROUP_NONE, 1, 1, 5, false, false, false, 3.0}, true, 2},
    {"groups by maximum with bias", 47, 48, {SOFTMAX, HD_GROUP_MAX, 6, 2, 3, false, false, false, 2.0}, true, 2},
    {"sharp", 19, 40, {SOFTMAX, HD_GROUP_NONE, 1, 1, 4, true, true, false, 2.0}, false, 20},
};
static const int n_rows = sizeof rows / sizeof rows[0];

/* ---- an independent selection: sort pairs (score, index) -------------------------------------------------------------------- */

typedef struct ranked { float score; int32_t index; } ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score) { return x->score < y->score ? 1 : -1; }
    return x->index < y->index ? -1 : 1;
}

static void select_by_sorting(const row *r, const float *scores, const float *bias, int32_t *ids)
{
    ranked all[512], group[512], member[512];
    int64_t groups = r->spec.group_rule == HD_GROUP_NONE ? 1 : r->spec.n_group, size = r->experts / groups;
    bool kept[512] = {false};
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = 0; i < size; i++) {
            member[i] = (ranked){scores[g * size + i] + (bias != NULL ? bias[g * size + i] : 0.0f), (int32_t)(g * size + i)};
            all[g * size + i] = member[i];
        }
        qsort(member, (size_t)size, sizeof member[0], by_score);
        group[g] = (ranked){r->spec.group_rule == HD_GROUP_TOP2_SUM ? member[0].score + member[1].score : member[0].score, (int32_t)g};
    }
    qsort(group, (size_t)groups, sizeof group[0], by_score);
    for (int64_t g = 0; g < (groups == 1 ? 1 : r->spec.topk_group); g++) { kept[group[g].index] = true; }
    for (int64_t e = 0; e < r->experts; e++) {
        if (!kept[e / size]) { all[e].score = r->spec.masked_group_zero ? 0.0f : -HUGE_VALF; }
    }
    qsort(all, (size_t)r->experts, sizeof all[0], by_score);
    for (int64_t j = 0; j < r->spec.top_k; j++) { ids[j] = all[j].index; }
}

/* ---- forward ---------------------------------------------------------------------------------------------------------------- */

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    return hd_router_fwd(ex, &r->spec, &c->s[0].t, r->bias ? &c->s[4].t : NULL, &c->s[1].t, &c->s[2].t, &c->s[3].t, err);
}

/* The ids a backend chose are those its own scores, in f32, call for. */
static void assert_own_selection(opcase *c, const row *r, hd_exec *ex)
{
    int32_t want[512];
    place_all(c, false);
    run_case(c, ex, c->name);
    const float *scores = c->s[1].t.data, *bias = r->bias ? c->s[4].t.data : NULL;
    for (int64_t t = 0; t < r->n; t++) {
        select_by_sorting(r, scores + t * r->experts, bias, want);
        for (int64_t j = 0; j < r->spec.top_k; j++) {
            if ((int32_t)element_get(&c->s[2].t, t * r->spec.top_k + j) != want[j]) {
                fail_msg("%s %s: token %" PRId64 " slot %" PRId64 " is expert %g, want %d", ex->ops->name, r->name, t, j,
                         element_get(&c->s[2].t, t * r->spec.top_k + j), want[j]);
            }
        }
    }
}

/* softmax: an exponential of a rounded difference (up to 10 spreads), a sum of E, a quotient. */
static opcase forward_case(const row *r)
{
    opcase c = {.run = run_fwd, .params = r};
    (void)snprintf(c.name, sizeof c.name, "router_fwd %s N=%" PRId64 " E=%" PRId64, r->name, r->n, r->experts);
    normal(&c, add_slot(&c, "logits", IN, F32, HD_SHAPE(r->n, r->experts)), r->spread)->pad = 1;
    double k = ((double)r->experts + 12 + 12 * r->spread) * HD_U_F32;
    add_slot(&c, "scores", OUT, F32, HD_SHAPE(r->n, r->experts))->factor = k;
    add_slot(&c, "ids", OUT, HD_DTYPE_I32, HD_SHAPE(r->n, r->spec.top_k));
    add_slot(&c, "weights", OUT, F32, HD_SHAPE(r->n, r->spec.top_k))->factor = 2 * k + ((double)r->spec.top_k + 4) * HD_U_F32;
    if (r->bias) { normal(&c, add_slot(&c, "bias", IN, F32, HD_SHAPE(r->experts)), 0.5); }
    return c;
}

static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = forward_case(r);
        hd_exec ex = ref_exec();
        assert_own_selection(&c, r, &ex);
        for (int isa = 0; next_cpu(&isa, 2, &ex);) { assert_own_selection(&c, r, &ex); }
        run_reference(&c);
        check_op(&c, "router_fwd");
    }
    print_ratios();
}

/* ---- backward ----------------------------------------------------------------------------------------------------------------- */

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    slot *s = c->s;
    return hd_router_bwd(ex, &r->spec, &s[0].t, r->bias ? &s[5].t : NULL, &s[1].t, &s[2].t, &s[3].t, &s[4].t, err);
}

static void fill_from_forward(opcase *c, const row *r)
{
    opcase f = forward_case(r);
    run_reference(&f);
    for (int64_t i = 0; i < r->n * r->experts; i++) { c->s[1].values[i] = round_to(F32, f.s[1].want[i]); }
    for (int64_t i = 0; i < r->n * r->spec.top_k; i++) {
        c->s[2].values[i] = f.s[2].want[i];
        c->s[3].values[i] = round_to(F32, f.s[3].want[i]);
    }
    opcase_free(&f);
}

/* |ds_e| = (|c dw_e| + sum |dw w|) / Z on I, plus |dscores|;  |dl| = s (|ds| + sum |ds| s)  or  |ds| s (1 - s). */
static void set_bwd_scales(opcase *c, const row *r)
{
    slot *dl = &c->s[4];
    double ds[512];
    int64_t k = r->spec.top_k;
    scale_alloc(dl);
    for (int64_t t = 0; t < r->n; t++) {
        const double *s = c->s[1].values + t * r->experts, *ids = c->s[2].values + t * k, *w = c->s[3].values + t * k, *dw = c->s[0].values + t * k;
        double z = 0, wsum = 0, dots = 0, factor = r->spec.normalize && !r->spec.scale_normalized ? 1.0 : r->spec.routed_scaling;
        for (int64_t e = 0; e < r->experts; e++) { ds[e] = r->bias ? fabs(c->s[5].values[t * r->experts + e]) : 0.0; }
        for (int64_t j = 0; j < k; j++) {
            z += s[(int)ids[j]];
            wsum += fabs(dw[j] * w[j]);
        }
        for (int64_t j = 0; j < k; j++) { ds[(int)ids[j]] += r->spec.normalize ? (factor * fabs(dw[j]) + wsum) / z : factor * fabs(dw[j]); }
        for (int64_t e = 0; e < r->experts; e++) { dots += ds[e] * s[e]; }
        for (int64_t e = 0; e < r->experts; e++) {
            dl->scale[t * r->experts + e] = r->spec.score_func == SOFTMAX ? s[e] * (ds[e] + dots) : ds[e] * s[e];
        }
    }
    dl->factor = ((double)r->experts + (double)k + 12) * HD_U_F32;
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_bwd, .params = r};
        (void)snprintf(c.name, sizeof c.name, "router_bwd %s N=%" PRId64 " E=%" PRId64, r->name, r->n, r->experts);
        normal(&c, add_slot(&c, "dweights", IN, F32, HD_SHAPE(r->n, r->spec.top_k)), 1.0);
        add_slot(&c, "scores", IN, F32, HD_SHAPE(r->n, r->experts));
        add_slot(&c, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->n, r->spec.top_k));
        add_slot(&c, "weights", IN, F32, HD_SHAPE(r->n, r->spec.top_k));
        add_slot(&c, "dlogits", OUT, F32, HD_SHAPE(r->n, r->experts))->pad = 3;
        if (r->bias) { normal(&c, add_slot(&c, "dscores", IN, F32, HD_SHAPE(r->n, r->experts)), 0.1); }
        fill_from_forward(&c, r);
        set_bwd_scales(&c, r);
        run_reference(&c);
        check_op(&c, "router_bwd");
    }
    print_ratios();
}

/* ---- gradient ------------------------------------------------------------------------------------------------------------------- */

enum { N = 3, E = 12, K = 4 };

typedef struct fd { hd_router_spec spec; double logits[N * E], bias[E], scores[N * E], weights[N * K], c[N * K], cs[N * E]; int32_t ids[N * K]; } fd;

/* What reaches the experts, and what reaches an auxiliary loss on the scores. */
static double loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor logits = f64_tensor(f->logits, HD_SHAPE(N, E)), bias = f64_tensor(f->bias, HD_SHAPE(E)), scores = f64_tensor(f->scores, HD_SHAPE(N, E));
    hd_tensor weights = f64_tensor(f->weights, HD_SHAPE(N, K)), ids = i32_tensor(f->ids, HD_SHAPE(N, K));
    assert_ok(hd_router_fwd(&ex, &f->spec, &logits, &bias, &scores, &ids, &weights, &err));
    return dot(f->weights, f->c, N * K) + dot(f->scores, f->cs, N * E);
}

static void check_gradient(const char *name, hd_router_spec spec)
{
    fd f = {.spec = spec};
    double dlogits[N * E];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("logits", 1.0, f.logits, N * E);
    hd_gen_normal_f64("bias", 0.3, f.bias, E);
    hd_gen_normal_f64("c", 1.0, f.c, N * K);
    hd_gen_normal_f64("cs", 1.0, f.cs, N * E);
    (void)loss(&f);
    hd_tensor scores = f64_tensor(f.scores, HD_SHAPE(N, E)), weights = f64_tensor(f.weights, HD_SHAPE(N, K)), ids = i32_tensor(f.ids, HD_SHAPE(N, K));
    hd_tensor dweights = f64_tensor(f.c, HD_SHAPE(N, K)), dscores = f64_tensor(f.cs, HD_SHAPE(N, E)), out = f64_tensor(dlogits, HD_SHAPE(N, E));
    assert_ok(hd_router_bwd(&ex, &spec, &dweights, &dscores, &scores, &ids, &weights, &out, &err));
    fd_check(name, loss, &f, f.logits, dlogits, N * E);
    memset(f.cs, 0, sizeof f.cs);
    (void)loss(&f);
    assert_ok(hd_router_bwd(&ex, &spec, &dweights, NULL, &scores, &ids, &weights, &out, &err));
    fd_check(name, loss, &f, f.logits, dlogits, N * E);
}

static void test_gradient(void **state)
{
    (void)state;
    check_gradient("router V2-Lite", (hd_router_spec){SOFTMAX, HD_GROUP_NONE, 1, 1, K, false, false, false, 1.5});
    check_gradient("router V2", (hd_router_spec){SOFTMAX, HD_GROUP_MAX, 4, 2, K, false, false, false, 16.0});
    check_gradient("router V2 normalised", (hd_router_spec){SOFTMAX, HD_GROUP_NONE, 1, 1, K, true, false, false, 16.0});
    check_gradient("router V3", (hd_router_spec){SIGMOID, HD_GROUP_TOP2_SUM, 4, 2, K, true, true, false, 2.5});
    check_gradient("router sigmoid, plain", (hd_router_spec){SIGMOID, HD_GROUP_NONE, 1, 1, K, false, false, false, 2.5});
}

/* ---- traps ----------------------------------------------------------------------------------------------------------------------- */

typedef struct small { float logits[8], bias[8], scores[8], weights[8]; int32_t ids[8]; } small;

static void route(hd_exec *ex, const hd_router_spec *spec, int64_t experts, bool bias, small *s)
{
    hd_err err;
    hd_tensor logits = f64_tensor(NULL, HD_SHAPE(1, experts)), weights = f64_tensor(NULL, HD_SHAPE(1, spec->top_k)), b = f64_tensor(NULL, HD_SHAPE(experts));
    hd_tensor scores, ids = i32_tensor(s->ids, HD_SHAPE(1, spec->top_k));
    logits.dtype = weights.dtype = b.dtype = F32;
    scores = logits;
    logits.data = s->logits, scores.data = s->scores, weights.data = s->weights, b.data = s->bias;
    assert_ok(hd_router_fwd(ex, spec, &logits, bias ? &b : NULL, &scores, &ids, &weights, &err));
}

static void assert_ids(const small *s, const int32_t *want, int n)
{
    for (int j = 0; j < n; j++) { assert_int_equal(s->ids[j], want[j]); }
}

static void each_backend(void (*body)(hd_exec *ex))
{
    hd_exec ex = ref_exec();
    body(&ex);
    for (int isa = 0; next_cpu(&isa, 1, &ex);) { body(&ex); }
}

static void ties_body(hd_exec *ex)
{
    small s = {.logits = {1, 3, 3, 1, 3, 1, 3, 1}};
    route(ex, &(hd_router_spec){SOFTMAX, HD_GROUP_NONE, 1, 1, 5, false, false, false, 1.0}, 8, false, &s);
    assert_ids(&s, (int32_t[]){1, 2, 4, 6, 0}, 5);
    route(ex, &(hd_router_spec){SIGMOID, HD_GROUP_TOP2_SUM, 4, 2, 4, true, true, false, 1.0}, 8, false, &s);
    assert_ids(&s, (int32_t[]){1, 2, 0, 3}, 4); /* all four groups score alike: the first two win */
}

/* Ties go to the lowest index, among experts and among groups. */
static void test_ties(void **state)
{
    (void)state;
    each_backend(ties_body);
}

static void mask_body(hd_exec *ex)
{
    /* Scores near 1/2; biases push every expert of the kept group below 0. */
    small s = {.logits = {0.4f, 0.3f, 0.2f, 0.1f, 0, 0, 0, 0}, .bias = {-1, -1, -1, -1, -2, -2, -2, -2}};
    hd_router_spec spec = {SIGMOID, HD_GROUP_TOP2_SUM, 2, 1, 4, true, true, false, 2.5};
    route(ex, &spec, 8, true, &s);
    assert_ids(&s, (int32_t[]){0, 1, 2, 3}, 4);
    spec.masked_group_zero = true;
    route(ex, &spec, 8, true, &s);
    assert_ids(&s, (int32_t[]){4, 5, 6, 7}, 4); /* trap 2: 0 beats a negative biased score */
}

static void test_masked_groups(void **state)
{
    (void)state;
    each_backend(mask_body);
}

static void weights_body(hd_exec *ex)
{
    /* Softmax of (ln 4, ln 3, ln 2, ln 1) is 0.4, 0.3, 0.2, 0.1. */
    small s = {.logits = {1.3862944f, 1.0986123f, 0.6931472f, 0}, .bias = {0, 0, 1, 0}};
    float plain[2] = {0.2f * 16, 0.4f * 16}, normalised[2] = {0.2f / 0.6f, 0.4f / 0.6f}, scaled[2] = {2.5f * 0.2f / 0.6f, 2.5f * 0.4f / 0.6f};
    hd_router_spec spec = {SOFTMAX, HD_GROUP_NONE, 1, 1, 2, false, false, false, 16.0};
    route(ex, &spec, 4, true, &s);
    assert_ids(&s, (int32_t[]){2, 0}, 2);
    hd_assert_abs_f32("weights leave the bias out", s.weights, plain, 2, 1e-6);
    spec.normalize = true;
    route(ex, &spec, 4, true, &s);
    hd_assert_abs_f32("V2 normalised: not scaled", s.weights, normalised, 2, 1e-6);
    spec.scale_normalized = true;
    spec.routed_scaling = 2.5;
    route(ex, &spec, 4, true, &s);
    hd_assert_abs_f32("V3 normalised: scaled", s.weights, scaled, 2, 1e-6);
    /* Scores so small that only the epsilon keeps the quotient finite. */
    small dead = {.logits = {-1e4f, -1e4f, -1e4f, -1e4f}};
    spec.score_func = SIGMOID;
    route(ex, &spec, 4, false, &dead);
    hd_assert_abs_f32("no experts alive", dead.weights, ((float[]){0, 0}), 2, 0.0);
}

static void test_weights(void **state)
{
    (void)state;
    each_backend(weights_body);
}

static void group_rule_body(hd_exec *ex)
{
    /* Group 0 holds the maximum, group 1 the larger pair. */
    small s = {.logits = {2.0f, -2.0f, 1.0f, 0.9f}};
    route(ex, &(hd_router_spec){SIGMOID, HD_GROUP_MAX, 2, 1, 2, false, false, false, 1.0}, 4, false, &s);
    assert_ids(&s, (int32_t[]){0, 1}, 2);
    route(ex, &(hd_router_spec){SIGMOID, HD_GROUP_TOP2_SUM, 2, 1, 2, false, false, false, 1.0}, 4, false, &s);
    assert_ids(&s, (int32_t[]){2, 3}, 2);
}

static void test_group_rules(void **state)
{
    (void)state;
    each_backend(group_rule_body);
}

static void nan_body(hd_exec *ex)
{
    for (int mask = 1; mask < 256; mask++) {
        small s;
        for (int e = 0; e < 8; e++) { s.logits[e] = mask >> e & 1 ? (float)NAN : 0.1f * (float)e; }
        static const hd_router_spec specs[3] = {{SOFTMAX, HD_GROUP_MAX, 4, 2, 4, false, false, false, 1.0},
                                                {SIGMOID, HD_GROUP_TOP2_SUM, 2, 1, 3, true, true, false, 2.5},
                                                {SIGMOID, HD_GROUP_NONE, 1, 1, 8, true, true, true, 2.5}};
        for (int i = 0; i < 3; i++) {
            unsigned seen = 0;
            route(ex, &specs[i], 8, false, &s);
            for (int64_t j = 0; j < specs[i].top_k; j++) {
                assert_true(s.ids[j] >= 0 && s.ids[j] < 8 && (seen >> s.ids[j] & 1u) == 0);
                seen |= 1u << s.ids[j];
            }
        }
    }
}

/* NaN logits choose distinct experts in range. */
static void test_nan(void **state)
{
    (void)state;
    each_backend(nan_body);
}

static void test_refusals(void **state)
{
    (void)state;
    double memory[64];
    int32_t ids[8];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor logits = f64_tensor(memory, HD_SHAPE(1, 8)), scores = f64_tensor(memory + 8, HD_SHAPE(1, 8)), weights = f64_tensor(memory + 16, HD_SHAPE(1, 3));
    hd_tensor tids = i32_tensor(ids, HD_SHAPE(1, 3));
    hd_router_spec spec = {SIGMOID, HD_GROUP_TOP2_SUM, 3, 1, 3, true, true, false, 1.0};
    assert_fails(hd_router_fwd(&ex, &spec, &logits, NULL, &scores, &tids, &weights, &err), HD_E_INVALID, "n_group is 3");
    spec.n_group = 8;
    assert_fails(hd_router_fwd(&ex, &spec, &logits, NULL, &scores, &tids, &weights, &err), HD_E_INVALID, "two largest");
    spec.n_group = 2;
    spec.topk_group = 3;
    assert_fails(hd_router_fwd(&ex, &spec, &logits, NULL, &scores, &tids, &weights, &err), HD_E_INVALID, "topk_group is 3");
    spec.topk_group = 1;
    spec.top_k = 9;
    assert_fails(hd_router_fwd(&ex, &spec, &logits, NULL, &scores, &tids, &weights, &err), HD_E_INVALID, "top_k is 9, want 1 to 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fwd),     cmocka_unit_test(test_bwd),           cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_ties),    cmocka_unit_test(test_masked_groups), cmocka_unit_test(test_weights),
        cmocka_unit_test(test_group_rules), cmocka_unit_test(test_nan),       cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("ops/router", tests, NULL, NULL);
}
