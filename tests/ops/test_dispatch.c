/* Dispatch, gather, scatter, combine, and the dense strategy's weights. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

typedef enum pattern { RANDOM, ONE_EXPERT, LAST_ONLY, ROUND_ROBIN } pattern;

typedef struct row { int64_t n, k, experts, d, pad, seq_len, capacity; hd_dtype act; hd_accum accum; pattern pattern; } row;

static const row rows[] = {
    {0, 2, 4, 8, 0, 1, 0, F32, HD_SET, RANDOM},        {1, 1, 1, 1, 0, 1, 0, F32, HD_SET, RANDOM},
    {5, 2, 3, 7, 1, 5, 0, F32, HD_ADD, RANDOM},        {12, 1, 5, 16, 0, 12, 0, BF16, HD_SET, ONE_EXPERT},
    {33, 6, 64, 17, 2, 33, 0, BF16, HD_ADD, RANDOM},   {24, 3, 8, 33, 0, 8, 2, F32, HD_SET, RANDOM},
    {24, 2, 8, 5, 0, 12, 1, F32, HD_ADD, LAST_ONLY},   {30, 8, 16, 65, 3, 10, 3, BF16, HD_SET, RANDOM},
    {16, 4, 4, 9, 0, 4, 4, F32, HD_SET, ROUND_ROBIN},  {64, 8, 256, 48, 0, 64, 0, BF16, HD_SET, RANDOM},
    {40, 2, 2, 3, 0, 20, 5, F32, HD_ADD, ROUND_ROBIN}, {7, 6, 7, 2048, 0, 7, 0, BF16, HD_ADD, RANDOM},
    {1000, 2, 31, 4, 0, 100, 7, F32, HD_SET, RANDOM},
};
static const int n_rows = sizeof rows / sizeof rows[0];

/* k distinct experts per token. */
static void fill_ids(const row *r, const char *name, double *ids)
{
    hd_rng rng = hd_test_rng(name);
    for (int64_t t = 0; t < r->n; t++) {
        for (int64_t j = 0; j < r->k; j++) {
            int64_t e = 0;
            switch (r->pattern) {
            case ONE_EXPERT: e = r->experts / 2 + j; break;
            case LAST_ONLY: e = r->experts - 1 - j; break;
            case ROUND_ROBIN: e = (t + j) % r->experts; break;
            default: e = (int64_t)hd_rng_below(rng, (uint64_t)r->experts, (uint64_t)(t * r->k + j)); break;
            }
            for (int64_t i = 0; i < j; i++) { /* linear probing keeps them distinct */
                if ((int64_t)ids[t * r->k + i] == e) {
                    e = (e + 1) % r->experts;
                    i = -1;
                }
            }
            ids[t * r->k + j] = (double)e;
        }
    }
}

static void name_case(opcase *c, const char *op, const row *r)
{
    static const char *const names[] = {"random", "one expert", "last only", "round robin"};
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " k=%" PRId64 " E=%" PRId64 " D=%" PRId64 " S=%" PRId64 " C=%" PRId64 " %s %s %s", op,
                   r->n, r->k, r->experts, r->d, r->seq_len, r->capacity, hd_dtype_name(r->act), r->accum == HD_ADD ? "add" : "set", names[r->pattern]);
}

/* ---- dispatch against a direct reading of the rule ------------------------------------------------------------------------------ */

typedef struct plan { int32_t *claim, *offsets, *row_of; } plan;

static void plan_free(plan *p)
{
    free(p->claim), free(p->offsets), free(p->row_of);
}

/* Claim (t, j) on expert e is kept when fewer than C claims on e came before it in its sequence; its row is the number of
 * kept claims on lower experts, plus those on e that came before. */
static plan plan_directly(const row *r, const double *ids)
{
    int64_t claims = r->n * r->k, kept_total = 0;
    plan p = {malloc((size_t)(claims + 1) * 4), calloc((size_t)r->experts + 1, 4), malloc((size_t)(claims + 1) * 4)};
    bool *kept = calloc((size_t)claims + 1, sizeof(bool));
    for (int64_t a = 0; a < claims; a++) {
        int64_t before = 0, sequence = a / (r->seq_len * r->k);
        for (int64_t b = sequence * r->seq_len * r->k; b < a; b++) { before += ids[b] == ids[a]; }
        kept[a] = r->capacity == 0 || before < r->capacity;
        p.claim[a] = -1;
    }
    for (int64_t a = 0; a < claims; a++) {
        int64_t place = 0;
        for (int64_t b = 0; b < claims; b++) { place += kept[b] && (ids[b] < ids[a] || (ids[b] == ids[a] && b < a)); }
        p.row_of[a] = kept[a] ? (int32_t)place : -1;
        if (!kept[a]) { continue; }
        p.claim[place] = (int32_t)a;
        kept_total++;
        for (int64_t e = (int64_t)ids[a] + 1; e <= r->experts; e++) { p.offsets[e]++; }
    }
    assert_int_equal(p.offsets[r->experts], kept_total);
    free(kept);
    return p;
}

static hd_status run_dispatch(hd_exec *ex, opcase *c, hd_err *err)
{
    const row *r = c->params;
    hd_dispatch_spec spec = {r->experts, r->k, r->seq_len, r->capacity};
    return hd_moe_dispatch(ex, &spec, &c->s[0].t, &c->s[1].t, &c->s[2].t, &c->s[3].t, err);
}

static void check_dispatch(const row *r)
{
    opcase c = {.run = run_dispatch, .params = r};
    name_case(&c, "moe_dispatch", r);
    slot *ids = add_slot(&c, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->n, r->k));
    fill_ids(r, c.name, ids->values);
    slot *claim = add_slot(&c, "claim", OUT, HD_DTYPE_I32, HD_SHAPE(r->n * r->k));
    slot *offsets = add_slot(&c, "offsets", OUT, HD_DTYPE_I32, HD_SHAPE(r->experts + 1));
    slot *row_of = add_slot(&c, "row_of", OUT, HD_DTYPE_I32, HD_SHAPE(r->n, r->k));
    plan p = plan_directly(r, ids->values);
    for (int64_t a = 0; a < r->n * r->k; a++) { claim->want[a] = p.claim[a], row_of->want[a] = p.row_of[a]; }
    for (int64_t e = 0; e <= r->experts; e++) { offsets->want[e] = p.offsets[e]; }
    plan_free(&p);
    check_op(&c, "moe_dispatch");
}

static row random_row(int64_t i)
{
    draw d = draw_begin("dispatch", i);
    row r = {.experts = 1 + draw_length(&d, 40), .d = draw_length(&d, 70), .pad = draw_below(&d, 3), .seq_len = 1 + draw_length(&d, 20)};
    r.n = r.seq_len * draw_below(&d, 4);
    r.k = 1 + draw_below(&d, r.experts < 8 ? r.experts : 8);
    r.capacity = draw_below(&d, 2) * draw_length(&d, 8);
    r.act = draw_act(&d);
    r.accum = (hd_accum)draw_below(&d, 2);
    return r;
}

static void test_dispatch(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) { check_dispatch(&rows[i]); }
    for (int64_t i = 0; i < hd_test_count(20, 400); i++) {
        row r = random_row(i);
        check_dispatch(&r);
    }
    print_ratios();
}

/* ---- rows and weights ------------------------------------------------------------------------------------------------------------- */

static plan planned(const row *r)
{
    double *ids = calloc((size_t)(r->n * r->k + 1), sizeof(double));
    fill_ids(r, "ids", ids);
    plan p = plan_directly(r, ids);
    free(ids);
    return p;
}

static hd_status run_gather(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_gather(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, ((const row *)c->params)->k, &c->s[3].t, err);
}

static hd_status run_permute(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_permute_weights(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, &c->s[3].t, err);
}

static hd_status run_unpermute(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_unpermute_weights(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, err);
}

static hd_status run_scatter(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_scatter(ex, &c->s[0].t, &c->s[1].t, c->accum, &c->s[2].t, err);
}

static hd_status run_combine(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_combine(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, c->accum, &c->s[3].t, err);
}

static slot *add_ints(opcase *c, const char *name, int64_t n, int64_t k, const int32_t *values)
{
    slot *s = k > 0 ? add_slot(c, name, IN, HD_DTYPE_I32, HD_SHAPE(n, k)) : add_slot(c, name, IN, HD_DTYPE_I32, HD_SHAPE(n));
    set_ints(s, values);
    return s;
}

/* Rows of dropped claims hold garbage that nobody may read: NaN in the routed inputs beyond the last offset. */
static void poison_rows(slot *s, const row *r, const plan *p)
{
    int64_t width = s->n_dim > 1 ? s->shape[1] : 1;
    for (int64_t i = p->offsets[r->experts] * width; i < slot_count(s); i++) { s->values[i] = (double)NAN; }
}

static void check_moves(const row *r)
{
    plan p = planned(r);
    int64_t claims = r->n * r->k;

    opcase gather = {.run = run_gather, .params = r};
    name_case(&gather, "moe_gather", r);
    normal(&gather, add_slot(&gather, "x", IN, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
    add_ints(&gather, "claim", claims, 0, p.claim);
    add_ints(&gather, "offsets", r->experts + 1, 0, p.offsets)->free_axes = 1;
    add_slot(&gather, "xs", OUT, r->act, HD_SHAPE(claims, r->d))->pad = r->pad;
    run_reference(&gather);
    check_op(&gather, "moe_gather");

    opcase permute = {.run = run_permute, .params = r};
    name_case(&permute, "moe_permute_weights", r);
    normal(&permute, add_slot(&permute, "weights", IN, F32, HD_SHAPE(r->n, r->k)), 1.0)->pad = r->pad;
    add_ints(&permute, "claim", claims, 0, p.claim);
    add_ints(&permute, "offsets", r->experts + 1, 0, p.offsets)->free_axes = 1;
    add_slot(&permute, "ws", OUT, F32, HD_SHAPE(claims));
    run_reference(&permute);
    check_op(&permute, "moe_permute_weights");

    opcase unpermute = {.run = run_unpermute, .params = r};
    name_case(&unpermute, "moe_unpermute_weights", r);
    poison_rows(normal(&unpermute, add_slot(&unpermute, "dws", IN, F32, HD_SHAPE(claims)), 1.0), r, &p);
    add_ints(&unpermute, "row_of", r->n, r->k, p.row_of);
    add_slot(&unpermute, "dweights", OUT, F32, HD_SHAPE(r->n, r->k))->pad = r->pad;
    run_reference(&unpermute);
    check_op(&unpermute, "moe_unpermute_weights");

    opcase scatter = {.run = run_scatter, .params = r, .accum = r->accum};
    name_case(&scatter, "moe_scatter", r);
    slot *xs = normal(&scatter, add_slot(&scatter, "xs", IN, r->act, HD_SHAPE(claims, r->d)), 1.0);
    xs->pad = r->pad;
    poison_rows(xs, r, &p);
    add_ints(&scatter, "row_of", r->n, r->k, p.row_of);
    normal(&scatter, add_slot(&scatter, "x", r->accum == HD_ADD ? INOUT : OUT, r->act, HD_SHAPE(r->n, r->d)), 1.0);
    check_sum_op(&scatter, "moe_scatter", ((double)r->k + 1) * HD_U_F32);

    opcase combine = {.run = run_combine, .params = r, .accum = r->accum};
    name_case(&combine, "moe_combine", r);
    slot *ys = normal(&combine, add_slot(&combine, "ys", IN, r->act, HD_SHAPE(claims, r->d)), 1.0);
    ys->pad = r->pad;
    poison_rows(ys, r, &p);
    add_ints(&combine, "row_of", r->n, r->k, p.row_of);
    normal(&combine, add_slot(&combine, "weights", IN, F32, HD_SHAPE(r->n, r->k)), 1.0);
    normal(&combine, add_slot(&combine, "y", r->accum == HD_ADD ? INOUT : OUT, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
    check_sum_op(&combine, "moe_combine", ((double)r->k + 2) * HD_U_F32);
    plan_free(&p);
}

static void test_moves(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) { check_moves(&rows[i]); }
    for (int64_t i = 0; i < hd_test_count(10, 200); i++) {
        row r = random_row(i);
        check_moves(&r);
    }
    print_ratios();
}

/* ---- dense strategy --------------------------------------------------------------------------------------------------------------- */

static hd_status run_expand(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_expand_weights(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, err);
}

static hd_status run_collect(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_moe_collect_weights(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, err);
}

static hd_status run_scale_rows(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_scale_rows(ex, &c->s[0].t, &c->s[1].t, c->accum, &c->s[2].t, err);
}

static void test_dense(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase expand = {.run = run_expand, .params = r};
        name_case(&expand, "moe_expand_weights", r);
        fill_ids(r, "ids", add_slot(&expand, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->n, r->k))->values);
        normal(&expand, add_slot(&expand, "weights", IN, F32, HD_SHAPE(r->n, r->k)), 1.0);
        slot *full = add_slot(&expand, "w_full", OUT, F32, HD_SHAPE(r->n, r->experts));
        full->pad = r->pad;
        full->free_axes = 2;
        run_reference(&expand);
        check_op(&expand, "moe_expand_weights");

        opcase collect = {.run = run_collect, .params = r};
        name_case(&collect, "moe_collect_weights", r);
        fill_ids(r, "ids", add_slot(&collect, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->n, r->k))->values);
        slot *dw_full = normal(&collect, add_slot(&collect, "dw_full", IN, F32, HD_SHAPE(r->n, r->experts)), 1.0);
        dw_full->pad = r->pad;
        dw_full->free_axes = 2;
        add_slot(&collect, "dweights", OUT, F32, HD_SHAPE(r->n, r->k));
        run_reference(&collect);
        check_op(&collect, "moe_collect_weights");

        opcase scale = {.run = run_scale_rows, .params = r, .accum = r->accum};
        name_case(&scale, "scale_rows", r);
        normal(&scale, add_slot(&scale, "x", IN, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
        slot *w = normal(&scale, add_slot(&scale, "w", IN, F32, HD_SHAPE(r->n)), 1.0);
        w->column = true;
        w->pad = r->experts - 1;
        normal(&scale, add_slot(&scale, "y", r->accum == HD_ADD ? INOUT : OUT, r->act, HD_SHAPE(r->n, r->d)), 1.0);
        check_sum_op(&scale, "scale_rows", 2 * HD_U_F32);
    }
    print_ratios();
}

/* ---- adjoints ---------------------------------------------------------------------------------------------------------------------- */

/* gather and scatter are transposes of each other: <gather(x), c> = <x, scatter(c)>; combine is linear in ys and weights. */
enum { N = 6, K = 2, E = 3, D = 4, R = N * K };

typedef struct fd { int32_t ids[R], claim[R], offsets[E + 1], row_of[R]; double x[N * D], xs[R * D], ws[R], w[R], y[N * D], c[R * D], cw[R], cy[N * D]; } fd;

static double gather_loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(f->x, HD_SHAPE(N, D)), xs = f64_tensor(f->xs, HD_SHAPE(R, D)), claim = i32_tensor(f->claim, HD_SHAPE(R)), offsets = i32_tensor(f->offsets, HD_SHAPE(E + 1));
    hd_tensor w = f64_tensor(f->w, HD_SHAPE(N, K)), ws = f64_tensor(f->ws, HD_SHAPE(R));
    assert_ok(hd_moe_gather(&ex, &x, &claim, &offsets, K, &xs, &err));
    assert_ok(hd_moe_permute_weights(&ex, &w, &claim, &offsets, &ws, &err));
    return dot(f->xs, f->c, (int64_t)f->offsets[E] * D) + dot(f->ws, f->cw, f->offsets[E]);
}

static double combine_loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor xs = f64_tensor(f->xs, HD_SHAPE(R, D)), row_of = i32_tensor(f->row_of, HD_SHAPE(N, K)), w = f64_tensor(f->w, HD_SHAPE(N, K)), y = f64_tensor(f->y, HD_SHAPE(N, D));
    assert_ok(hd_moe_combine(&ex, &xs, &row_of, &w, HD_SET, &y, &err));
    return dot(f->y, f->cy, N * D);
}

/* dys_r = w dy_t is gather then scale_rows; dw = dy_t . ys_r. */
static void combine_adjoint(fd *f, double *dys, double *dw)
{
    hd_err err;
    hd_exec ex = ref_exec();
    double gathered[R * D];
    hd_tensor dy = f64_tensor(f->cy, HD_SHAPE(N, D)), g = f64_tensor(gathered, HD_SHAPE(R, D)), claim = i32_tensor(f->claim, HD_SHAPE(R)), offsets = i32_tensor(f->offsets, HD_SHAPE(E + 1));
    hd_tensor w = f64_tensor(f->w, HD_SHAPE(N, K)), ws = f64_tensor(f->ws, HD_SHAPE(R)), tdys = f64_tensor(dys, HD_SHAPE(R, D));
    memset(f->ws, 0, sizeof f->ws);
    memset(gathered, 0, sizeof gathered);
    assert_ok(hd_moe_gather(&ex, &dy, &claim, &offsets, K, &g, &err));
    assert_ok(hd_moe_permute_weights(&ex, &w, &claim, &offsets, &ws, &err));
    assert_ok(hd_scale_rows(&ex, &g, &ws, HD_SET, &tdys, &err));
    for (int a = 0; a < R; a++) { dw[a] = f->row_of[a] < 0 ? 0.0 : dot(f->cy + a / K * D, f->xs + f->row_of[a] * D, D); }
}

static void test_adjoints(void **state)
{
    (void)state;
    for (int capacity = 0; capacity < 3; capacity += 2) {
        fd f = {.ids = {0, 1, 2, 0, 0, 2, 1, 0, 0, 1, 2, 1}};
        double dx[N * D], dw[R], dys[R * D], dwc[R];
        hd_err err;
        hd_exec ex = ref_exec();
        hd_dispatch_spec spec = {E, K, N, capacity};
        hd_tensor ids = i32_tensor(f.ids, HD_SHAPE(N, K)), claim = i32_tensor(f.claim, HD_SHAPE(R)), offsets = i32_tensor(f.offsets, HD_SHAPE(E + 1)), row_of = i32_tensor(f.row_of, HD_SHAPE(N, K));
        assert_ok(hd_moe_dispatch(&ex, &spec, &ids, &claim, &offsets, &row_of, &err));
        hd_gen_normal_f64("x", 1.0, f.x, N * D);
        hd_gen_normal_f64("w", 1.0, f.w, R);
        hd_gen_normal_f64("c", 1.0, f.c, R * D);
        hd_gen_normal_f64("cw", 1.0, f.cw, R);
        hd_gen_normal_f64("cy", 1.0, f.cy, N * D);
        hd_tensor c = f64_tensor(f.c, HD_SHAPE(R, D)), cw = f64_tensor(f.cw, HD_SHAPE(R)), tdx = f64_tensor(dx, HD_SHAPE(N, D)), tdw = f64_tensor(dw, HD_SHAPE(N, K));
        assert_ok(hd_moe_scatter(&ex, &c, &row_of, HD_SET, &tdx, &err));
        assert_ok(hd_moe_unpermute_weights(&ex, &cw, &row_of, &tdw, &err));
        fd_check("gather dx = scatter", gather_loss, &f, f.x, dx, N * D);
        fd_check("permute dw = unpermute", gather_loss, &f, f.w, dw, R);
        hd_gen_normal_f64("xs", 1.0, f.xs, R * D);
        combine_adjoint(&f, dys, dwc);
        fd_check("combine dys", combine_loss, &f, f.xs, dys, R * D);
        fd_check("combine dw", combine_loss, &f, f.w, dwc, R);
    }
}

/* The dense weights' adjoint is the transpose of expand: <expand(w), c> = <w, collect(c)>. */
static void test_dense_adjoint(void **state)
{
    (void)state;
    int32_t ids[4] = {2, 0, 1, 2};
    double w[4] = {1, 2, 3, 4}, full[6], c[6] = {5, 6, 7, 8, 9, 10}, dw[4];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor tids = i32_tensor(ids, HD_SHAPE(2, 2)), tw = f64_tensor(w, HD_SHAPE(2, 2)), tf = f64_tensor(full, HD_SHAPE(2, 3)), tc = f64_tensor(c, HD_SHAPE(2, 3)), tdw = f64_tensor(dw, HD_SHAPE(2, 2));
    assert_ok(hd_moe_expand_weights(&ex, &tids, &tw, &tf, &err));
    assert_ok(hd_moe_collect_weights(&ex, &tids, &tc, &tdw, &err));
    hd_assert_abs_f64("expanded", full, ((double[]){2, 0, 1, 0, 3, 4}), 6, 0.0);
    hd_assert_abs_f64("collected", dw, ((double[]){7, 5, 9, 10}), 4, 0.0);
    assert_true(dot(full, c, 6) == dot(w, dw, 4));
}

/* Two sequences of four tokens on one expert with capacity 2: tokens 0, 1 and 4, 5 keep their claims. */
static void test_capacity_by_hand(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 2, &ex)) {
        int32_t ids[8] = {1, 1, 1, 1, 1, 1, 1, 1}, claim[8], offsets[4], row_of[8];
        hd_dispatch_spec spec = {3, 1, 4, 2};
        hd_tensor tids = i32_tensor(ids, HD_SHAPE(8, 1)), tclaim = i32_tensor(claim, HD_SHAPE(8)), toffsets = i32_tensor(offsets, HD_SHAPE(4)), trow = i32_tensor(row_of, HD_SHAPE(8, 1));
        assert_ok(hd_moe_dispatch(&ex, &spec, &tids, &tclaim, &toffsets, &trow, &err));
        hd_assert_same_bits("claim", claim, ((int32_t[]){0, 1, 4, 5, -1, -1, -1, -1}), 4, 8);
        hd_assert_same_bits("offsets", offsets, ((int32_t[]){0, 0, 4, 4}), 4, 4);
        hd_assert_same_bits("row_of", row_of, ((int32_t[]){0, 1, -1, -1, 2, 3, -1, -1}), 4, 8);
        spec.seq_len = 3;
        assert_fails(hd_moe_dispatch(&ex, &spec, &tids, &tclaim, &toffsets, &trow, &err), HD_E_INVALID, "whole sequences of 3");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch), cmocka_unit_test(test_moves),         cmocka_unit_test(test_dense),
        cmocka_unit_test(test_adjoints), cmocka_unit_test(test_dense_adjoint), cmocka_unit_test(test_capacity_by_hand),
    };
    return cmocka_run_group_tests_name("ops/dispatch", tests, NULL, NULL);
}
