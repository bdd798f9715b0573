/* The MLA attention core: both implementations on every backend, gradients, and properties of the mask. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

typedef enum segmentation { ONE, THREE, EACH, PADDED } segmentation;

typedef struct row { int64_t b, t, heads, nope, rope, v, pad; hd_dtype act; segmentation segments; double q_scale; } row;

static const row rows[] = {
    {0, 4, 1, 2, 2, 2, 0, F32, ONE, 1},        {1, 1, 1, 1, 2, 1, 0, F32, ONE, 1},       {2, 3, 2, 4, 2, 3, 0, F32, ONE, 1},
    {1, 7, 3, 5, 4, 6, 3, F32, THREE, 1},      {3, 5, 1, 8, 0, 8, 1, BF16, EACH, 1},     {2, 17, 2, 16, 8, 16, 0, F32, PADDED, 2},
    {1, 33, 4, 32, 16, 32, 8, BF16, THREE, 1}, {1, 65, 2, 16, 8, 24, 0, F32, THREE, 4},  {2, 64, 1, 7, 2, 5, 2, F32, ONE, 1},
    {1, 129, 1, 32, 16, 32, 0, BF16, PADDED, 1}, {1, 19, 2, 128, 64, 128, 0, F32, ONE, 1}, {1, 13, 3, 128, 64, 128, 0, BF16, THREE, 1},
    {1, 40, 2, 0, 16, 12, 0, F32, ONE, 1},         {1, 34, 1, 5, 2, 3, 0, F32, ONE, 1},       {2, 66, 1, 4, 4, 7, 0, F32, ONE, 1},
    {1, 200, 2, 16, 8, 16, 0, F32, ONE, 2},        {1, 300, 1, 8, 4, 8, 0, F32, THREE, 2},
};
static const int n_rows = sizeof rows / sizeof rows[0];

typedef struct params { hd_attention_shape shape; const row *r; } params;

/* Segment of token t: changes at about a third and two thirds; padding is segment 0 at the end. */
static int32_t segment_of(const row *r, int64_t t)
{
    switch (r->segments) {
    case THREE: return (int32_t)(1 + 3 * t / r->t);
    case EACH: return (int32_t)t;
    case PADDED: return t < (r->t + 1) / 2 ? 1 : 0;
    default: return 1;
    }
}

static void name_case(opcase *c, const char *op, const row *r, hd_attention_impl impl)
{
    static const char *const names[] = {"one", "three", "each", "padded"};
    (void)snprintf(c->name, sizeof c->name,
                   "%s %s B=%" PRId64 " T=%" PRId64 " H=%" PRId64 " n=%" PRId64 " r=%" PRId64 " v=%" PRId64 " pad=%" PRId64 " %s %s", op,
                   impl == HD_ATTENTION_FLASH ? "flash" : "dot_product", r->b, r->t, r->heads, r->nope, r->rope, r->v, r->pad,
                   hd_dtype_name(r->act), names[r->segments]);
}

/* q, k_nope, k_rope, v, segments: slots 0 to 4.  k_nope, v and d_o rows have gaps, as views of one product have. */
static void add_inputs(opcase *c, const row *r)
{
    int64_t n = r->b * r->t;
    normal(c, add_slot(c, "q", IN, r->act, HD_SHAPE(n, r->heads, r->nope + r->rope)), r->q_scale);
    normal(c, add_slot(c, "k_nope", IN, r->act, HD_SHAPE(n, r->heads, r->nope)), 1.0)->pad = r->pad;
    normal(c, add_slot(c, "k_rope", IN, r->act, HD_SHAPE(n, r->rope)), 1.0)->pad = r->pad;
    normal(c, add_slot(c, "v", IN, r->act, HD_SHAPE(n, r->heads, r->v)), 1.0)->pad = r->pad;
    slot *segments = add_slot(c, "segments", IN, HD_DTYPE_I32, HD_SHAPE(n));
    for (int64_t i = 0; i < n; i++) { segments->values[i] = segment_of(r, i % r->t); }
}

static row random_row(int64_t i)
{
    draw d = draw_begin("attention", i);
    return (row){1 + draw_below(&d, 3), 1 + draw_length(&d, 90), 1 + draw_below(&d, 3), 1 + draw_length(&d, 40), 2 * draw_below(&d, 12),
                 1 + draw_length(&d, 40), draw_below(&d, 3), draw_act(&d), (segmentation)draw_below(&d, 4), 1.0};
}

/* ---- the bound --------------------------------------------------------------------------------------------------------------
 * A score is a sum of d = n + r products: |ds_ij| <= (d + 3) u a sum |q k| = (d + 3) u A_ij.  An error e in scores moves a
 * probability by a relative 2 e (numerator and sum); the exponential and its argument add 4 + |s| of u, the sum T. */

typedef struct sizes { double *p, *a; int64_t n, t, heads; } sizes; /* p_ijh and a |q| . |k|, (N, H, T) */

static void fill_sizes(const opcase *c, const row *r, double scale, sizes *z)
{
    const double *q = c->s[0].values, *kn = c->s[1].values, *kr = c->s[2].values, *seg = c->s[4].values;
    int64_t n = r->b * r->t, wide = r->nope + r->rope;
    *z = (sizes){calloc((size_t)(n * r->heads * r->t + 1), 8), calloc((size_t)(n * r->heads * r->t + 1), 8), n, r->t, r->heads};
    for (int64_t i = 0; i < n; i++) {
        for (int64_t h = 0; h < r->heads; h++) {
            double *p = z->p + (i * r->heads + h) * r->t, *a = z->a + (i * r->heads + h) * r->t, max = -HUGE_VAL, sum = 0;
            int64_t first = i - i % r->t;
            for (int64_t j = first; j <= i; j++) {
                double s = 0, abs = 0;
                for (int64_t d = 0; d < wide; d++) {
                    double k = d < r->nope ? kn[(j * r->heads + h) * r->nope + d] : kr[j * r->rope + d - r->nope];
                    s += q[(i * r->heads + h) * wide + d] * k;
                    abs += fabs(q[(i * r->heads + h) * wide + d] * k);
                }
                p[j - first] = seg[i] == seg[j] ? scale * s : -HUGE_VAL;
                a[j - first] = scale * abs;
                max = fmax(max, p[j - first]);
            }
            for (int64_t j = first; j <= i; j++) { sum += p[j - first] = exp(p[j - first] - max); }
            for (int64_t j = first; j <= i; j++) { p[j - first] /= sum; }
        }
    }
}

/* Relative error of a probability of query i: over all keys of the row. */
static double probability_error(const sizes *z, const row *r, int64_t i, int64_t h)
{
    double worst = 0;
    for (int64_t j = 0; j <= i % r->t; j++) { worst = fmax(worst, z->a[(i * z->heads + h) * z->t + j]); }
    return (2 * ((double)(r->nope + r->rope) + 4) * worst + 2 * (double)r->t + 12) * HD_U_F32;
}

/* ---- forward ------------------------------------------------------------------------------------------------------------------ */

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    slot *s = c->s;
    return hd_attention_fwd(ex, &((const params *)c->params)->shape, &s[0].t, &s[1].t, &s[2].t, &s[3].t, &s[4].t, &s[5].t, &s[6].t, err);
}

/* |do_i| <= error(p) sum_j p |v|. */
static void set_fwd_scales(opcase *c, const row *r, double scale)
{
    sizes z;
    slot *v = &c->s[3], *o = &c->s[5], *lse = &c->s[6];
    scale_alloc(o);
    scale_alloc(lse);
    fill_sizes(c, r, scale, &z);
    for (int64_t i = 0; i < z.n; i++) {
        for (int64_t h = 0; h < r->heads; h++) {
            double e = probability_error(&z, r, i, h);
            int64_t at = (i / r->t * r->heads + h) * r->t + i % r->t, first = i - i % r->t;
            lse->scale[at] = e;
            for (int64_t d = 0; d < r->v; d++) {
                double sum = 0;
                for (int64_t j = first; j <= i; j++) { sum += z.p[(i * r->heads + h) * r->t + j - first] * fabs(v->values[(j * r->heads + h) * r->v + d]); }
                o->scale[(i * r->heads + h) * r->v + d] = e * sum;
            }
        }
    }
    o->factor = lse->factor = 1.0;
    free(z.p), free(z.a);
}

static void check_fwd(const row *r, hd_attention_impl impl)
{
    int64_t n = r->b * r->t;
    params p = {{r->b, r->t, 1.0 / sqrt((double)(r->nope + r->rope)), impl}, r};
    opcase c = {.run = run_fwd, .params = &p};
    name_case(&c, "attention_fwd", r, impl);
    add_inputs(&c, r);
    add_slot(&c, "o", OUT, r->act, HD_SHAPE(n, r->heads, r->v))->pad = r->pad;
    add_slot(&c, "lse", OUT, F32, HD_SHAPE(r->b, r->heads, r->t));
    set_fwd_scales(&c, r, p.shape.scale);
    run_reference(&c);
    check_op(&c, impl == HD_ATTENTION_FLASH ? "flash_fwd" : "dot_fwd");
}

static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        check_fwd(&rows[i], HD_ATTENTION_DOT_PRODUCT);
        check_fwd(&rows[i], HD_ATTENTION_FLASH);
    }
    for (int64_t i = 0; i < hd_test_count(4, 60); i++) {
        row r = random_row(i);
        check_fwd(&r, (hd_attention_impl)(i % 2));
    }
    print_ratios();
}

/* ---- backward ------------------------------------------------------------------------------------------------------------------- */

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    slot *s = c->s;
    return hd_attention_bwd(ex, &((const params *)c->params)->shape, &s[5].t, &s[0].t, &s[1].t, &s[2].t, &s[3].t, &s[4].t, &s[6].t,
                            &s[7].t, &s[8].t, &s[9].t, &s[10].t, &s[11].t, err);
}

/* o and lse as a forward pass in double gives them, rounded to their dtypes. */
static void fill_forward(opcase *c, const row *r, const hd_attention_shape *shape)
{
    hd_err err;
    hd_exec ex = ref_exec();
    place_all(c, true);
    slot *s = c->s;
    assert_ok(hd_attention_fwd(&ex, shape, &s[0].t, &s[1].t, &s[2].t, &s[3].t, &s[4].t, &s[6].t, &s[7].t, &err));
    for (int64_t i = 0; i < slot_count(&s[6]); i++) { s[6].values[i] = round_to(r->act, element_get(&s[6].t, i)); }
    for (int64_t i = 0; i < slot_count(&s[7]); i++) { s[7].values[i] = round_to(F32, element_get(&s[7].t, i)); }
}

/* With P_ij = p |do|, S_ij = p (|do| . |v_j| + |do| . |o_i|):  |dv| <= sum e P,  |dq| <= a sum e S |k|,  |dk| <= a sum e S |q|,
 * e the error of p plus v + 4 roundings of the products and T or H T of the sums. */
static void set_bwd_scales(opcase *c, const row *r, double scale)
{
    sizes z;
    const double *q = c->s[0].values, *kn = c->s[1].values, *kr = c->s[2].values, *v = c->s[3].values, *d_o = c->s[5].values, *o = c->s[6].values;
    double *dq, *dkn, *dkr, *dv;
    for (int i = 8; i < 12; i++) {
        scale_alloc(&c->s[i]);
        c->s[i].factor = 1.0;
    }
    dq = c->s[8].scale, dkn = c->s[9].scale, dkr = c->s[10].scale, dv = c->s[11].scale;
    fill_sizes(c, r, scale, &z);
    int64_t wide = r->nope + r->rope, heads = r->heads;
    for (int64_t i = 0; i < z.n; i++) {
        for (int64_t h = 0; h < heads; h++) {
            double e = probability_error(&z, r, i, h) + ((double)r->v + 8 + (double)(r->t * heads)) * HD_U_F32, delta = 0;
            for (int64_t d = 0; d < r->v; d++) { delta += fabs(d_o[(i * heads + h) * r->v + d] * o[(i * heads + h) * r->v + d]); }
            for (int64_t j = i - i % r->t; j <= i; j++) {
                double p = e * z.p[(i * heads + h) * r->t + j % r->t], dp = delta;
                for (int64_t d = 0; d < r->v; d++) {
                    dp += fabs(d_o[(i * heads + h) * r->v + d] * v[(j * heads + h) * r->v + d]);
                    dv[(j * heads + h) * r->v + d] += p * fabs(d_o[(i * heads + h) * r->v + d]);
                }
                for (int64_t d = 0; d < wide; d++) {
                    double k = d < r->nope ? kn[(j * heads + h) * r->nope + d] : kr[j * r->rope + d - r->nope];
                    double *dk = d < r->nope ? &dkn[(j * heads + h) * r->nope + d] : &dkr[j * r->rope + d - r->nope];
                    dq[(i * heads + h) * wide + d] += scale * p * dp * fabs(k);
                    *dk += scale * p * dp * fabs(q[(i * heads + h) * wide + d]);
                }
            }
        }
    }
    free(z.p), free(z.a);
}

static void check_bwd(const row *r, hd_attention_impl impl)
{
    int64_t n = r->b * r->t;
    params p = {{r->b, r->t, 1.0 / sqrt((double)(r->nope + r->rope)), impl}, r};
    opcase c = {.run = run_bwd, .params = &p};
    name_case(&c, "attention_bwd", r, impl);
    add_inputs(&c, r);
    normal(&c, add_slot(&c, "d_o", IN, r->act, HD_SHAPE(n, r->heads, r->v)), 1.0)->pad = r->pad;
    add_slot(&c, "o", IN, r->act, HD_SHAPE(n, r->heads, r->v))->pad = r->pad;
    add_slot(&c, "lse", IN, F32, HD_SHAPE(r->b, r->heads, r->t));
    add_slot(&c, "dq", OUT, r->act, HD_SHAPE(n, r->heads, r->nope + r->rope));
    add_slot(&c, "dk_nope", OUT, r->act, HD_SHAPE(n, r->heads, r->nope))->pad = r->pad;
    add_slot(&c, "dk_rope", OUT, r->act, HD_SHAPE(n, r->rope))->pad = r->pad;
    add_slot(&c, "dv", OUT, r->act, HD_SHAPE(n, r->heads, r->v))->pad = r->pad;
    fill_forward(&c, r, &p.shape);
    set_bwd_scales(&c, r, p.shape.scale);
    run_reference(&c);
    check_op(&c, impl == HD_ATTENTION_FLASH ? "flash_bwd" : "dot_bwd");
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        check_bwd(&rows[i], HD_ATTENTION_DOT_PRODUCT);
        check_bwd(&rows[i], HD_ATTENTION_FLASH);
    }
    for (int64_t i = 0; i < hd_test_count(4, 60); i++) {
        row r = random_row(i);
        check_bwd(&r, (hd_attention_impl)(i % 2));
    }
    print_ratios();
}

/* ---- gradient --------------------------------------------------------------------------------------------------------------------- */

enum { B = 2, T = 4, H = 2, NOPE = 3, ROPE = 2, V = 3, N = B * T };

typedef struct fd {
    double q[N * H * (NOPE + ROPE)], kn[N * H * NOPE], kr[N * ROPE], v[N * H * V], o[N * H * V], c[N * H * V], lse[B * H * T];
    int32_t segments[N];
} fd;

static const hd_attention_shape fd_shape = {B, T, 0.6, HD_ATTENTION_FLASH};

static double loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor q = f64_tensor(f->q, HD_SHAPE(N, H, NOPE + ROPE)), kn = f64_tensor(f->kn, HD_SHAPE(N, H, NOPE)), kr = f64_tensor(f->kr, HD_SHAPE(N, ROPE));
    hd_tensor v = f64_tensor(f->v, HD_SHAPE(N, H, V)), o = f64_tensor(f->o, HD_SHAPE(N, H, V)), lse = f64_tensor(f->lse, HD_SHAPE(B, H, T));
    hd_tensor segments = i32_tensor(f->segments, HD_SHAPE(N));
    assert_ok(hd_attention_fwd(&ex, &fd_shape, &q, &kn, &kr, &v, &segments, &o, &lse, &err));
    return dot(f->o, f->c, N * H * V);
}

static void fill_fd(fd *f)
{
    static const int32_t segments[N] = {1, 1, 2, 2, 1, 1, 1, 0};
    memcpy(f->segments, segments, sizeof segments);
    hd_gen_normal_f64("q", 1.0, f->q, N * H * (NOPE + ROPE));
    hd_gen_normal_f64("kn", 1.0, f->kn, N * H * NOPE);
    hd_gen_normal_f64("kr", 1.0, f->kr, N * ROPE);
    hd_gen_normal_f64("v", 1.0, f->v, N * H * V);
    hd_gen_normal_f64("c", 1.0, f->c, N * H * V);
    (void)loss(f);
}

static void test_gradient(void **state)
{
    (void)state;
    fd f;
    double gq[N * H * (NOPE + ROPE)], gkn[N * H * NOPE], gkr[N * ROPE], gv[N * H * V];
    hd_err err;
    hd_exec ex = ref_exec();
    fill_fd(&f);
    hd_tensor q = f64_tensor(f.q, HD_SHAPE(N, H, NOPE + ROPE)), kn = f64_tensor(f.kn, HD_SHAPE(N, H, NOPE)), kr = f64_tensor(f.kr, HD_SHAPE(N, ROPE));
    hd_tensor v = f64_tensor(f.v, HD_SHAPE(N, H, V)), o = f64_tensor(f.o, HD_SHAPE(N, H, V)), lse = f64_tensor(f.lse, HD_SHAPE(B, H, T));
    hd_tensor dq = q, dkn = kn, dkr = kr, dv = v, d_o = o, segments = i32_tensor(f.segments, HD_SHAPE(N));
    dq.data = gq, dkn.data = gkn, dkr.data = gkr, dv.data = gv, d_o.data = f.c;
    assert_ok(hd_attention_bwd(&ex, &fd_shape, &d_o, &q, &kn, &kr, &v, &segments, &o, &lse, &dq, &dkn, &dkr, &dv, &err));
    fd_check("attention dq", loss, &f, f.q, gq, N * H * (NOPE + ROPE));
    fd_check("attention dk_nope", loss, &f, f.kn, gkn, N * H * NOPE);
    fd_check("attention dk_rope", loss, &f, f.kr, gkr, N * ROPE);
    fd_check("attention dv", loss, &f, f.v, gv, N * H * V);
}

/* ---- what the mask promises --------------------------------------------------------------------------------------------------------- */

/* A token alone in its segment returns its own v and lse = s_ii; a later token or another segment changes nothing before. */
static void test_mask(void **state)
{
    (void)state;
    fd f;
    fill_fd(&f);
    for (int h = 0; h < H; h++) {
        double s = 0;
        int i = 7; /* the only token of segment 0 */
        for (int d = 0; d < NOPE; d++) { s += f.q[(i * H + h) * (NOPE + ROPE) + d] * f.kn[(i * H + h) * NOPE + d]; }
        for (int d = 0; d < ROPE; d++) { s += f.q[(i * H + h) * (NOPE + ROPE) + NOPE + d] * f.kr[i * ROPE + d]; }
        assert_true(fabs(f.lse[(1 * H + h) * T + 3] - fd_shape.scale * s) < 1e-14);
        hd_assert_abs_f64("o of a lone token", f.o + (i * H + h) * V, f.v + (i * H + h) * V, V, 1e-15);
    }
    double before[N * H * V];
    memcpy(before, f.o, sizeof before);
    for (int d = 0; d < H * V; d++) { f.v[1 * H * V + d] += 1.0; }     /* token 1, segment 1 of sequence 0 */
    for (int d = 0; d < H * NOPE; d++) { f.kn[1 * H * NOPE + d] -= 2.0; }
    (void)loss(&f);
    assert_memory_equal(before, f.o, sizeof(double) * H * V);                               /* token 0 came earlier */
    assert_memory_equal(before + 2 * H * V, f.o + 2 * H * V, sizeof(double) * 6 * H * V); /* segment 2, sequence 1 */
    assert_true(before[1 * H * V] != f.o[1 * H * V]);
}

/* Softmax by log-sum-exp of one long row against a plain sum in long double. */
static void test_direct(void **state)
{
    (void)state;
    enum { LONG = 50 };
    double q[LONG], k[LONG], v[LONG], o[LONG], lse[LONG];
    int32_t segments[LONG] = {0};
    hd_err err;
    hd_exec ex = ref_exec();
    hd_attention_shape shape = {1, LONG, 1.5, HD_ATTENTION_DOT_PRODUCT};
    hd_gen_normal_f64("q", 4.0, q, LONG);
    hd_gen_normal_f64("k", 4.0, k, LONG);
    hd_gen_normal_f64("v", 1.0, v, LONG);
    hd_tensor tq = f64_tensor(q, HD_SHAPE(LONG, 1, 1)), tk = f64_tensor(k, HD_SHAPE(LONG, 1, 1)), tr = f64_tensor(NULL, HD_SHAPE(LONG, 0));
    hd_tensor tv = f64_tensor(v, HD_SHAPE(LONG, 1, 1)), to = f64_tensor(o, HD_SHAPE(LONG, 1, 1)), tl = f64_tensor(lse, HD_SHAPE(1, 1, LONG));
    hd_tensor ts = i32_tensor(segments, HD_SHAPE(LONG));
    assert_ok(hd_attention_fwd(&ex, &shape, &tq, &tk, &tr, &tv, &ts, &to, &tl, &err));
    for (int i = 0; i < LONG; i++) {
        long double sum = 0, weighted = 0;
        for (int j = 0; j <= i; j++) {
            long double e = expl(1.5L * (long double)q[i] * (long double)k[j]);
            sum += e;
            weighted += e * (long double)v[j];
        }
        assert_true(fabs(lse[i] - (double)logl(sum)) < 1e-12);
        assert_true(fabs(o[i] - (double)(weighted / sum)) < 1e-12);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    fd f;
    fill_fd(&f);
    hd_err err;
    hd_exec ex = ref_exec();
    hd_attention_shape shape = fd_shape;
    hd_tensor q = f64_tensor(f.q, HD_SHAPE(N, H, NOPE + ROPE)), kn = f64_tensor(f.kn, HD_SHAPE(N, H, NOPE)), kr = f64_tensor(f.kr, HD_SHAPE(N, ROPE));
    hd_tensor v = f64_tensor(f.v, HD_SHAPE(N, H, V)), o = f64_tensor(f.o, HD_SHAPE(N, H, V)), lse = f64_tensor(f.lse, HD_SHAPE(B, H, T));
    hd_tensor segments = i32_tensor(f.segments, HD_SHAPE(N));
    shape.seq_len = 3;
    assert_fails(hd_attention_fwd(&ex, &shape, &q, &kn, &kr, &v, &segments, &o, &lse, &err), HD_E_INVALID, "8 rows, want 2 sequences of 3");
    shape = fd_shape;
    shape.scale = (double)NAN;
    assert_fails(hd_attention_fwd(&ex, &shape, &q, &kn, &kr, &v, &segments, &o, &lse, &err), HD_E_INVALID, "scale is nan");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fwd),  cmocka_unit_test(test_bwd),    cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_mask), cmocka_unit_test(test_direct), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("ops/attention", tests, NULL, NULL);
}
