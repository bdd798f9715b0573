/* Expert counts, the three balance losses, the bias update. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define F64 HD_DTYPE_F64

typedef struct row { int64_t b, t, experts, k, b_total; hd_balance_rule rule; bool bias, one_expert; } row;

static const row rows[] = {
    {0, 4, 4, 2, 1, HD_BALANCE_V2, false, false},     {1, 1, 1, 1, 1, HD_BALANCE_V3, false, false},
    {2, 7, 5, 2, 2, HD_BALANCE_V2, false, false},     {3, 16, 64, 6, 6, HD_BALANCE_V2, false, false},
    {2, 33, 17, 3, 2, HD_BALANCE_V3, false, false},   {1, 65, 256, 8, 4, HD_BALANCE_V3, false, false},
    {2, 13, 8, 2, 2, HD_BALANCE_MAXTEXT, false, false}, {4, 9, 33, 4, 8, HD_BALANCE_MAXTEXT, true, false},
    {2, 10, 6, 1, 2, HD_BALANCE_V2, false, true},     {2, 10, 6, 1, 2, HD_BALANCE_V3, false, true},
    {2, 10, 6, 1, 2, HD_BALANCE_MAXTEXT, true, true},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static hd_balance_spec spec_of(const row *r)
{
    return (hd_balance_spec){.rule = r->rule, .n_seq = r->b, .seq_len = r->t, .n_seq_total = r->b_total, .top_k = r->k, .alpha = 0.7, .weight = 0.5};
}

static void name_case(opcase *c, const char *op, const row *r)
{
    static const char *const names[] = {"V2", "V3", "MaxText"};
    (void)snprintf(c->name, sizeof c->name, "%s %s B=%" PRId64 "/%" PRId64 " T=%" PRId64 " E=%" PRId64 " k=%" PRId64 "%s%s", op, names[r->rule],
                   r->b, r->b_total, r->t, r->experts, r->k, r->bias ? " bias" : "", r->one_expert ? " one expert" : "");
}

/* k different experts per token, or always expert 1. */
static void fill_ids(const row *r, double *ids)
{
    hd_rng rng = hd_test_rng("ids");
    for (int64_t t = 0; t < r->b * r->t; t++) {
        int64_t first = r->one_expert ? 1 : (int64_t)hd_rng_below(rng, (uint64_t)r->experts, (uint64_t)t);
        for (int64_t j = 0; j < r->k; j++) { ids[t * r->k + j] = (double)((first + j) % r->experts); }
    }
}

/* Scores as a softmax (V2) or sigmoids give them: positive. */
static void fill_scores(opcase *c, slot *scores, bool softmax)
{
    int64_t experts = scores->shape[1];
    normal(c, scores, 1.0);
    for (int64_t t = 0; t < scores->shape[0]; t++) {
        double sum = 0;
        for (int64_t e = 0; e < experts; e++) { sum += exp(scores->values[t * experts + e]); }
        for (int64_t e = 0; e < experts; e++) {
            double *s = &scores->values[t * experts + e];
            *s = round_to(F32, softmax ? exp(*s) / sum : 1.0 / (1.0 + exp(-*s)));
        }
    }
}

/* ---- losses against their formulas ---------------------------------------------------------------------------------------------- */

static double share_sum(const row *r, const double *s, const double *bias, int64_t e)
{
    double sum = 0;
    for (int64_t j = 0; j < r->experts; j++) { sum += r->rule == HD_BALANCE_V3 ? s[j] : exp(s[j] + (bias ? bias[j] : 0.0)); }
    if (r->rule == HD_BALANCE_V2) { return s[e]; }
    return (r->rule == HD_BALANCE_V3 ? s[e] : exp(s[e] + (bias ? bias[e] : 0.0))) / sum;
}

/* Written out from the text of ops.h: alpha / B_total sum_b sum_e ..., not from the reference's factorisation. */
static double loss_by_formula(const row *r, const double *scores, const double *bias, const double *ids)
{
    hd_balance_spec spec = spec_of(r);
    double total = 0, T = (double)r->t, E = (double)r->experts, k = (double)r->k;
    for (int64_t b = 0; b < r->b; b++) {
        for (int64_t e = 0; e < r->experts; e++) {
            double count = 0, mean = 0;
            for (int64_t t = b * r->t; t < (b + 1) * r->t; t++) {
                for (int64_t j = 0; j < r->k; j++) { count += ids[t * r->k + j] == (double)e; }
                mean += share_sum(r, scores + t * r->experts, bias, e) / T;
            }
            switch (r->rule) {
            case HD_BALANCE_V2: total += spec.alpha / (double)r->b_total * (count / (T * k / E)) * mean; break;
            case HD_BALANCE_V3: total += spec.alpha / (double)r->b_total * (E / (k * T) * count) * mean; break;
            case HD_BALANCE_MAXTEXT: total += spec.alpha * E * E / ((double)r->b_total * E) * (count / T) * mean; break;
            }
        }
    }
    return total * spec.weight;
}

static hd_status run_loss(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    hd_balance_spec spec = spec_of(r);
    return hd_balance_loss(ex, &spec, &c->s[0].t, r->bias ? &c->s[4].t : NULL, &c->s[1].t, &c->s[2].t, &c->s[3].t, err);
}

static void test_loss(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_loss, .params = r};
        name_case(&c, "balance_loss", r);
        slot *scores = add_slot(&c, "scores", IN, F32, HD_SHAPE(r->b * r->t, r->experts));
        fill_scores(&c, scores, r->rule == HD_BALANCE_V2);
        slot *ids = add_slot(&c, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->b * r->t, r->k));
        fill_ids(r, ids->values);
        slot *loss = add_slot(&c, "loss", INOUT, F64, HD_SHAPE(1)), *dscores = add_slot(&c, "dscores", OUT, F32, HD_SHAPE(r->b * r->t, r->experts));
        slot *bias = r->bias ? normal(&c, add_slot(&c, "bias", IN, F32, HD_SHAPE(r->experts)), 0.5) : NULL;
        loss->values[0] = 0.125;
        run_reference(&c);
        double want = 0.125 + loss_by_formula(r, scores->values, bias ? bias->values : NULL, ids->values);
        if (!(fabs(loss->want[0] - want) <= 1e-13 * want)) { fail_msg("%s: loss %.17g, formula %.17g", c.name, loss->want[0], want); }
        /* every term is positive: a share is good to E + 8 roundings, its sum over T and E in f64 or f32 to as many more */
        loss->factor = (2.0 * (double)r->experts + (double)r->t + 16) * HD_U_F32;
        scale_alloc(dscores);
        double largest = 0; /* g - sum g share cancels: the scale is the largest g over the scores' sum */
        for (int64_t j = 0; j < slot_count(dscores); j++) { largest = fmax(largest, fabs(dscores->want[j])); }
        for (int64_t j = 0; j < slot_count(dscores); j++) { dscores->scale[j] = largest; }
        dscores->factor = (2.0 * (double)r->experts + 16) * HD_U_F32;
        check_op(&c, "balance_loss");
    }
    print_ratios();
}

/* ---- gradient ---------------------------------------------------------------------------------------------------------------------- */

enum { B = 2, T = 3, E = 5, K = 2, N = B * T };

typedef struct fd { hd_balance_spec spec; double scores[N * E], bias[E], dscores[N * E]; int32_t ids[N * K]; bool use_bias; } fd;

static double balance(void *ctx)
{
    fd *f = ctx;
    double loss = 0;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor scores = f64_tensor(f->scores, HD_SHAPE(N, E)), bias = f64_tensor(f->bias, HD_SHAPE(E)), ds = f64_tensor(f->dscores, HD_SHAPE(N, E));
    hd_tensor ids = i32_tensor(f->ids, HD_SHAPE(N, K)), total = f64_tensor(&loss, HD_SHAPE(1));
    assert_ok(hd_balance_loss(&ex, &f->spec, &scores, f->use_bias ? &bias : NULL, &ids, &total, &ds, &err));
    return loss;
}

static void test_gradient(void **state)
{
    (void)state;
    static const char *const names[] = {"balance V2", "balance V3", "balance MaxText"};
    for (int rule = 0; rule < 3; rule++) {
        fd f = {.spec = {(hd_balance_rule)rule, B, T, 4, K, 0.7, 0.5}, .ids = {0, 1, 1, 2, 1, 4, 3, 1, 0, 3, 3, 4}, .use_bias = rule == 2};
        double grad[N * E];
        hd_gen_normal_f64("s", 1.0, f.scores, N * E);
        hd_gen_normal_f64("b", 1.0, f.bias, E);
        for (int i = 0; i < N * E; i++) { f.scores[i] = 1.0 / (1.0 + exp(-f.scores[i])); }
        (void)balance(&f);
        memcpy(grad, f.dscores, sizeof grad);
        fd_check(names[rule], balance, &f, f.scores, grad, N * E);
    }
}

/* Perfectly even routing: V2 with p = 1/E gives alpha; V3 with equal scores gives alpha; MaxText gives alpha k. */
static void test_even_routing(void **state)
{
    (void)state;
    const double want[3] = {0.35, 0.35, 0.7};
    for (int rule = 0; rule < 3; rule++) {
        double scores[4 * 4], loss = 0, ds[16];
        int32_t ids[8] = {0, 1, 1, 2, 2, 3, 3, 0};
        hd_err err;
        hd_exec ex = ref_exec();
        hd_balance_spec spec = {(hd_balance_rule)rule, 1, 4, 1, 2, 0.7, 0.5};
        for (int i = 0; i < 16; i++) { scores[i] = 0.25; }
        hd_tensor ts = f64_tensor(scores, HD_SHAPE(4, 4)), tl = f64_tensor(&loss, HD_SHAPE(1)), td = f64_tensor(ds, HD_SHAPE(4, 4)), ti = i32_tensor(ids, HD_SHAPE(4, 2));
        assert_ok(hd_balance_loss(&ex, &spec, &ts, NULL, &ti, &tl, &td, &err));
        hd_assert_abs_f64("even routing", &loss, &want[rule], 1, 1e-15);
    }
}

/* ---- counts ------------------------------------------------------------------------------------------------------------------------- */

static hd_status run_count(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_expert_count(ex, &c->s[0].t, c->n > 2 ? &c->s[2].t : NULL, &c->s[1].t, err);
}

static void test_count(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * n_rows; i++) {
        const row *r = &rows[i / 2];
        opcase c = {.run = run_count, .params = r};
        name_case(&c, i % 2 ? "expert_count with padding" : "expert_count", r);
        slot *ids = add_slot(&c, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->b * r->t, r->k));
        fill_ids(r, ids->values);
        slot *counts = add_slot(&c, "counts", INOUT, F64, HD_SHAPE(r->experts)), *segments = NULL;
        counts->free_axes = 1;
        if (i % 2) {
            segments = add_slot(&c, "segments", IN, HD_DTYPE_I32, HD_SHAPE(r->b * r->t));
            for (int64_t t = 0; t < r->b * r->t; t++) { segments->values[t] = (double)(t % 3); }
        } else {
            ids->free_axes = 3; /* without segments nothing else knows the number of tokens */
        }
        for (int64_t e = 0; e < r->experts; e++) { counts->values[e] = counts->want[e] = (double)(e * e); }
        for (int64_t a = 0; a < r->b * r->t * r->k; a++) {
            if (segments == NULL || segments->values[a / r->k] != 0) { counts->want[(int)ids->values[a]] += 1; }
        }
        if (segments != NULL) { ids->free_axes = 2; }
        check_op(&c, "expert_count");
    }
}

/* ---- bias update -------------------------------------------------------------------------------------------------------------------- */

static void test_bias_update(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 2, &ex)) {
        double counts[4] = {1, 5, 3, 3}, control[HD_CONTROL_COUNT] = {0};
        float bias[4] = {0.5f, 0.5f, 0.5f, -0.5f};
        hd_tensor tc = f64_tensor(counts, HD_SHAPE(4)), tb = f64_tensor(NULL, HD_SHAPE(4)), tg = f64_tensor(control, HD_SHAPE(HD_CONTROL_COUNT));
        tb.dtype = F32;
        tb.data = bias;
        assert_ok(hd_router_bias_update(&ex, &tc, 0.25, NULL, &tb, &err));
        hd_assert_same_bits("bias", bias, ((float[]){0.75f, 0.25f, 0.5f, -0.5f}), 4, 4);
        assert_ok(hd_router_bias_update(&ex, &tc, 0.25, &tg, &tb, &err));
        hd_assert_same_bits("skipped step", bias, ((float[]){0.75f, 0.25f, 0.5f, -0.5f}), 4, 4);
        control[HD_CONTROL_APPLY] = 1;
        assert_ok(hd_router_bias_update(&ex, &tc, 0.25, &tg, &tb, &err));
        hd_assert_same_bits("applied step", bias, ((float[]){1.0f, 0.0f, 0.5f, -0.5f}), 4, 4);
        tb.shape[0] = 3;
        assert_fails(hd_router_bias_update(&ex, &tc, 0.25, NULL, &tb, &err), HD_E_INVALID, "want f32");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss),  cmocka_unit_test(test_gradient),    cmocka_unit_test(test_even_routing),
        cmocka_unit_test(test_count), cmocka_unit_test(test_bias_update),
    };
    return cmocka_run_group_tests_name("ops/balance", tests, NULL, NULL);
}
