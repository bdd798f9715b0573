/* Attention of new tokens against latent caches: both forms on every backend, the choice between them, and what a row depends on. */
#include "ops/harness.h"

#include "ops/cpu/latent_plan.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

enum { MAX_SEQUENCES = 5 };

typedef struct row {
    int64_t n_seq, length[MAX_SEQUENCES], n_new[MAX_SEQUENCES];
    int64_t heads, nope, rope, v, c, pad;
    hd_dtype act, weight;
    double q_scale; /* 0: 1 */
} row;

static const row rows[] = {
    {0, {0}, {0}, 2, 2, 2, 2, 4, 0, F32, F32, 0},
    {1, {1}, {1}, 1, 1, 0, 1, 1, 0, F32, F32, 0},
    {1, {7}, {1}, 1, 3, 2, 5, 6, 2, F32, BF16, 0},
    {3, {5, 64, 65}, {1, 1, 1}, 2, 4, 2, 3, 8, 0, F32, F32, 0},
    {3, {130, 3, 300}, {2, 3, 4}, 3, 5, 4, 6, 17, 1, BF16, BF16, 0},
    {2, {257, 129}, {4, 1}, 16, 8, 4, 8, 33, 0, F32, F32, 0},
    {4, {66, 258, 20, 128}, {4, 3, 1, 2}, 5, 7, 2, 9, 19, 3, F32, BF16, 0},
    {1, {600}, {1}, 16, 4, 4, 4, 64, 0, BF16, F32, 0},
    {1, {270}, {3}, 7, 4, 4, 4, 300, 0, F32, F32, 0},
    {2, {330, 700}, {2, 100}, 3, 4, 4, 4, 10, 0, F32, F32, 80}, /* exponents that only differences from the maximum bound */
    {1, {1030}, {2}, 4, 4, 2, 4, 16, 0, F32, F32, 0},
    {1, {40}, {1}, 128, 16, 8, 16, 32, 0, F32, BF16, 0},
    {1, {33}, {1}, 16, 128, 64, 128, 512, 0, F32, BF16, 0},
    {2, {20, 18}, {1, 2}, 16, 128, 64, 128, 512, 8, BF16, BF16, 0},
    {1, {300}, {16}, 128, 2, 2, 2, 512, 0, F32, F32, 0},                 /* waves of chunks */
    {3, {16, 40, 100}, {10, 16, 16}, 128, 2, 2, 2, 8, 0, F32, F32, 0},   /* batches of rows, one cut in two */
    {2, {5, 90}, {5, 12}, 20, 0, 6, 4, 10, 0, F32, F32, 0},
    /* expanded, some of them in part: by widths, by tokens, in blocks of positions, in groups of heads */
    {1, {40}, {40}, 3, 6, 4, 5, 40, 0, F32, F32, 0},
    {4, {17, 200, 65, 130}, {17, 1, 40, 130}, 5, 7, 2, 9, 50, 3, F32, BF16, 0},
    {2, {700, 1100}, {150, 20}, 2, 4, 2, 4, 24, 0, BF16, BF16, 0},
    {1, {40}, {33}, 16, 128, 64, 128, 512, 0, F32, F32, 0},
    {1, {530}, {129}, 1, 8, 0, 7, 90, 1, F32, F32, 0},
    {1, {20}, {18}, 70, 64, 2, 64, 200, 0, F32, F32, 0},
};
static const int n_rows = sizeof rows / sizeof rows[0];

typedef struct params { hd_latent_spec spec; const row *r; } params;

/* Slots: q, kv_b, o, then the rows of each sequence. */
static hd_status run(hd_exec *ex, opcase *c, hd_err *err)
{
    const params *p = c->params;
    hd_latent_sequence sequences[MAX_SEQUENCES];
    hd_weight w = {.value = c->s[1].t};
    for (int64_t i = 0; i < p->r->n_seq; i++) { sequences[i] = (hd_latent_sequence){c->s[3 + i].t, p->r->n_new[i]}; }
    return hd_latent_attention_fwd(ex, &p->spec, &c->s[0].t, sequences, p->r->n_seq, &w, &c->s[2].t, err);
}

static int64_t count_new(const row *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_seq; i++) { n += r->n_new[i]; }
    return n;
}

static void name_case(opcase *c, const row *r)
{
    int used = snprintf(c->name, sizeof c->name, "latent H=%" PRId64 " n=%" PRId64 " r=%" PRId64 " v=%" PRId64 " c=%" PRId64 " pad=%" PRId64 " %s %s",
                        r->heads, r->nope, r->rope, r->v, r->c, r->pad, hd_dtype_name(r->act), hd_dtype_name(r->weight));
    for (int64_t i = 0; i < r->n_seq; i++) {
        used += snprintf(c->name + used, sizeof c->name - (size_t)used, " %" PRId64 "/%" PRId64, r->n_new[i], r->length[i]);
    }
}

static void add_slots(opcase *c, const row *r)
{
    int64_t n = count_new(r);
    normal(c, add_slot(c, "q", IN, r->act, HD_SHAPE(n, r->heads * (r->nope + r->rope))), r->q_scale > 0 ? r->q_scale : 1.0)->pad = r->pad;
    normal(c, add_slot(c, "w", IN, r->weight, HD_SHAPE(r->heads * (r->nope + r->v), r->c)), 1.0 / sqrt((double)r->c));
    add_slot(c, "o", OUT, r->act, HD_SHAPE(n, r->heads * r->v))->pad = r->pad;
    for (int64_t i = 0; i < r->n_seq; i++) {
        slot *s = normal(c, add_slot(c, "rows", IN, r->act, HD_SHAPE(r->length[i], r->c + r->rope)), 1.0);
        for (int64_t j = 0; j < slot_count(s); j++) { s->values[j] = round_to(r->act, s->values[j] * (1.0 + 0.25 * (double)i)); }
        s->pad = r->pad;
        s->free_axes = 1; /* a longer past is another case */
    }
}

/* ---- the bound --------------------------------------------------------------------------------------------------------------
 * With A_ij = scale (sum |q| |Wk| |latent| + sum |q_rope| |rope|) a score is off by at most (n + r + c + 8) u A_ij in either form, a
 * probability by twice that of the largest, 2 T u of its sum and 12 + chunks u of exponentials; an output adds (c + T + 8) u. */

typedef struct sizes { double *a, *s, *abs_v; } sizes; /* A_ij and s_ij of one row and head (T); sum |Wv| |latent| (T, v) */

static void expand_abs(const opcase *c, const row *r, int64_t seq, int64_t h, double *k, double *abs_k, double *abs_v)
{
    const double *w = c->s[1].values + h * (r->nope + r->v) * r->c, *x = c->s[3 + seq].values;
    for (int64_t j = 0; j < r->length[seq]; j++, x += r->c + r->rope) {
        for (int64_t d = 0; d < r->nope + r->v; d++) {
            double sum = 0, abs = 0;
            for (int64_t i = 0; i < r->c; i++) {
                sum += w[d * r->c + i] * x[i];
                abs += fabs(w[d * r->c + i] * x[i]);
            }
            if (d < r->nope) {
                k[j * r->nope + d] = sum;
                abs_k[j * r->nope + d] = abs;
            } else {
                abs_v[j * r->v + d - r->nope] = abs;
            }
        }
    }
}

/* The row of q at position i of a sequence. */
static void scale_row(opcase *c, const row *r, int64_t seq, int64_t h, int64_t at, int64_t i, const double *k, const double *abs_k,
                      const double *abs_v, double *s)
{
    const double *q = c->s[0].values + at * r->heads * (r->nope + r->rope) + h * (r->nope + r->rope), *x = c->s[3 + seq].values + r->c;
    double scale = ((const params *)c->params)->spec.scale, largest = 0, max = -HUGE_VAL, sum = 0;
    for (int64_t j = 0; j <= i; j++, x += r->c + r->rope) {
        double a = 0;
        s[j] = 0;
        for (int64_t d = 0; d < r->nope; d++) {
            s[j] += scale * q[d] * k[j * r->nope + d];
            a += scale * fabs(q[d]) * abs_k[j * r->nope + d];
        }
        for (int64_t d = 0; d < r->rope; d++) {
            s[j] += scale * q[r->nope + d] * x[d];
            a += scale * fabs(q[r->nope + d] * x[d]);
        }
        largest = fmax(largest, a);
        max = fmax(max, s[j]);
    }
    for (int64_t j = 0; j <= i; j++) { sum += exp(s[j] - max); }
    double t = (double)(i + 1), widths = (double)(r->nope + r->rope + r->c);
    double error = 2 * (widths + 8) * largest + 3 * t + 12 + t / 64 + (double)r->c + 8;
    for (int64_t d = 0; d < r->v; d++) {
        double value = 0;
        for (int64_t j = 0; j <= i; j++) { value += exp(s[j] - max) / sum * abs_v[j * r->v + d]; }
        c->s[2].scale[(at * r->heads + h) * r->v + d] = error * HD_U_F32 * value;
    }
}

static void set_scales(opcase *c, const row *r)
{
    int64_t at = 0;
    scale_alloc(&c->s[2]);
    c->s[2].factor = 1.0;
    for (int64_t seq = 0; seq < r->n_seq; at += r->n_new[seq], seq++) {
        int64_t t = r->length[seq];
        double *k = calloc((size_t)(t * (2 * r->nope + r->v + 1)), sizeof *k), *abs_k = k + t * r->nope, *abs_v = abs_k + t * r->nope;
        assert_non_null(k);
        for (int64_t h = 0; h < r->heads; h++) {
            expand_abs(c, r, seq, h, k, abs_k, abs_v);
            for (int64_t i = 0; i < r->n_new[seq]; i++) {
                scale_row(c, r, seq, h, at + i, t - r->n_new[seq] + i, k, abs_k, abs_v, abs_v + t * r->v);
            }
        }
        free(k);
    }
}

static hd_latent_spec spec_of(const row *r)
{
    return (hd_latent_spec){r->heads, r->nope, r->rope, r->v, r->c, 1.0 / sqrt((double)(r->nope + r->rope))};
}

static void check_row(const row *r)
{
    params p = {spec_of(r), r};
    opcase c = {.run = run, .params = &p};
    name_case(&c, r);
    add_slots(&c, r);
    set_scales(&c, r);
    run_reference(&c);
    check_op(&c, "latent_attention_fwd");
}

static row random_row(int64_t i)
{
    draw d = draw_begin("latent", i);
    row r = {.n_seq = 1 + draw_below(&d, 3), .heads = 1 + draw_length(&d, 40), .nope = 1 + draw_length(&d, 20), .rope = 2 * draw_below(&d, 6),
             .v = 1 + draw_length(&d, 20), .c = 1 + draw_length(&d, 70), .pad = draw_below(&d, 3), .act = draw_act(&d), .weight = draw_act(&d)};
    for (int64_t s = 0; s < r.n_seq; s++) {
        r.length[s] = 1 + draw_length(&d, 400);
        r.n_new[s] = 1 + draw_below(&d, draw_below(&d, 3) == 0 ? r.length[s] : r.length[s] < 4 ? r.length[s] : 4);
    }
    return r;
}

static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) { check_row(&rows[i]); }
    for (int64_t i = 0; i < hd_test_count(8, 120); i++) {
        row r = random_row(i);
        check_row(&r);
    }
    print_ratios();
}

/* ---- what a row depends on ------------------------------------------------------------------------------------------------------- */

enum { H_MAX = 40, N = 22, R = 4, V = 5, C = 21, T_MAX = 600, Q_ROW = H_MAX * (N + R), O_ROW = H_MAX * V };

typedef struct model {
    hd_latent_spec spec;
    float q[T_MAX * Q_ROW], rows[T_MAX * (C + R)], w[H_MAX * (N + V) * C]; /* q of every position */
    uint16_t narrow[H_MAX * (N + V) * C]; /* w as bf16 */
    bool is_bf16;
} model;

static hd_tensor f32_matrix(float *memory, int64_t n, int64_t width)
{
    return (hd_tensor){.data = memory, .dtype = F32, .n_dim = 2, .shape = {n, width}, .global_shape = {n, width}, .stride = {width, 1}};
}

static model *new_model(int64_t heads)
{
    model *m = malloc(sizeof *m);
    assert_non_null(m);
    m->spec = (hd_latent_spec){heads, N, R, V, C, 0.2};
    hd_gen_normal_f32("q", 1.0, m->q, T_MAX * Q_ROW);
    hd_gen_normal_f32("rows", 1.0, m->rows, T_MAX * (C + R));
    hd_gen_normal_f32("w", 0.3, m->w, H_MAX * (N + V) * C);
    for (int64_t i = 0; i < H_MAX * (N + V) * C; i++) { m->narrow[i] = hd_f32_to_bf16(m->w[i]); }
    m->is_bf16 = heads == 3 || heads == 16;
    return m;
}

/* o of the tokens at [past, past + n), made in one pass, after another sequence of `others` tokens. */
static void attend(hd_exec *ex, model *m, int64_t past, int64_t n, int64_t others, float *o)
{
    hd_err err;
    int64_t h = m->spec.n_head, wide = h * (N + R);
    float *q = malloc((size_t)((n + others) * wide) * sizeof *q), *out = malloc((size_t)((n + others) * h * V) * sizeof *out);
    memcpy(q, m->q, (size_t)(others * wide) * sizeof *q);
    memcpy(q + others * wide, m->q + past * wide, (size_t)(n * wide) * sizeof *q);
    hd_latent_sequence list[2] = {{f32_matrix(m->rows, 70 + others, C + R), others}, {f32_matrix(m->rows, past + n, C + R), n}};
    hd_tensor tq = f32_matrix(q, n + others, wide), to = f32_matrix(out, n + others, h * V);
    hd_weight w = {.value = f32_matrix(m->w, h * (N + V), C)};
    if (m->is_bf16) {
        w.value.dtype = BF16;
        w.value.data = m->narrow;
    }
    assert_ok(hd_latent_attention_fwd(ex, &m->spec, &tq, others > 0 ? list : list + 1, others > 0 ? 2 : 1, &w, &to, &err));
    memcpy(o, out + others * h * V, (size_t)(n * h * V) * sizeof *o);
    free(q);
    free(out);
}

/* o by lanes is the other order's o up to roundings. */
static void check_lanes_close(const hd_exec *ex, model *m, int64_t past, int64_t n, int64_t others, const float *o)
{
    float chained[16 * O_ROW];
    hd_exec other = *ex;
    other.by_lanes = false;
    attend(&other, m, past, n, others, chained);
    for (int64_t i = 0; i < n * m->spec.n_head * V; i++) { assert_true(fabsf(o[i] - chained[i]) <= 1e-5f * (1.0f + fabsf(chained[i]))); }
}

/* Tokens together, across the ends of chunks, have the bits of tokens one by one, beside other sequences too. */
static void test_together(void **state)
{
    (void)state;
    static const int64_t heads[] = {1, 3, 16, 40}, pasts[] = {0, 61, 126, 254, 511, 595};
    float together[16 * O_ROW], alone[O_ROW];
    hd_exec ex;
    for (int isa = 0; next_cpu(&isa, 2, &ex);) {
        for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++) {
            model *m = new_model(heads[h]);
            for (size_t i = 0; i < sizeof pasts / sizeof pasts[0]; i++) {
                static const int64_t counts[] = {2, 4, 5};
                for (int k = 0; k < 6; k++) {
                    int64_t n = counts[k / 2], others = k / 2 == 1 ? 3 : k / 2 == 2 ? 15 : 0; /* 20 rows: another path of the product */
                    ex.by_lanes = k % 2 == 1;
                    attend(&ex, m, pasts[i], n, others, together);
                    if (ex.by_lanes) { check_lanes_close(&ex, m, pasts[i], n, others, together); }
                    for (int64_t t = 0; t < n; t++) {
                        attend(&ex, m, pasts[i] + t, 1, 0, alone);
                        hd_assert_same_bits("together", together + t * heads[h] * V, alone, sizeof *alone, heads[h] * V);
                    }
                }
            }
            free(m);
        }
    }
}

/* Rows that a token does not see may hold anything, in both forms; what it sees reaches it. */
static void test_later_rows(void **state)
{
    (void)state;
    static const int64_t counts[] = {4, 200};
    hd_exec ex;
    for (int isa = 0; next_cpu(&isa, 2, &ex);) {
        for (int k = 0; k < 2; k++) {
            int64_t n = counts[k], past = 130, bad = n - 2, row_len = 3 * V;
            float *before = malloc((size_t)(n * row_len) * sizeof *before), *after = malloc((size_t)(n * row_len) * sizeof *after);
            model *m = new_model(3);
            attend(&ex, m, past, n, 0, before);
            for (int64_t d = 0; d < C + R; d++) { m->rows[(past + bad) * (C + R) + d] = NAN; }
            attend(&ex, m, past, n, 0, after);
            hd_assert_same_bits("earlier rows", before, after, sizeof *after, bad * row_len);
            for (int64_t i = bad * row_len; i < n * row_len; i++) { assert_true(isnan(after[i])); }
            free(m);
            free(before);
            free(after);
        }
    }
}

/* ---- choices -------------------------------------------------------------------------------------------------------------------------- */

static void test_plan(void **state)
{
    (void)state;
    for (int64_t length = 1; length < 3000; length++) {
        int64_t n = latent_chunk_count(length);
        assert_true(latent_chunk_begin(n - 1) < length && length <= latent_chunk_begin(n));
    }
    assert_true(latent_chunk_begin(0) == 0);
    hd_latent_spec lite = {16, 128, 64, 128, 512, 0.1};
    assert_false(latent_is_expanded(&lite, 1, 4096));
    assert_false(latent_is_expanded(&lite, LATENT_ALWAYS_ABSORBED, LATENT_ALWAYS_ABSORBED));
    assert_false(latent_is_expanded(&lite, 100, 4096));
    assert_true(latent_is_expanded(&lite, 512, 512));
    assert_true(latent_is_expanded(&lite, 512, 4608));
    assert_true(latent_is_expanded(&lite, 512, 163840));
    /* 2 c + r = 1088 against n + r + v = 320 multiply-adds a pair, 131072 a position or a new token */
    assert_true(latent_absorbed_cost(&lite, 1, 10) == 131072.0 + 10 * 1088.0);
    assert_true(latent_expanded_cost(&lite, 2, 10) == 10 * 131072.0 + 19 * 320.0);
}

static size_t scratch_of(const hd_latent_spec *s, int64_t n, int64_t length)
{
    hd_err err;
    hd_exec ex;
    hd_arena dry;
    hd_arena_open_dry(&dry, "scratch");
    assert_ok(hd_exec_init(&ex, &dry, 2, true, &err));
    hd_latent_sequence one = {f32_matrix(NULL, length, s->kv_lora_rank + s->qk_rope_head_dim), n};
    hd_tensor q = f32_matrix(NULL, n, s->n_head * (s->qk_nope_head_dim + s->qk_rope_head_dim)), o = f32_matrix(NULL, n, s->n_head * s->v_head_dim);
    hd_weight w = {.value = f32_matrix(NULL, s->n_head * (s->qk_nope_head_dim + s->v_head_dim), s->kv_lora_rank)};
    assert_ok(hd_latent_attention_fwd(&ex, s, &q, &one, 1, &w, &o, &err));
    return dry.high;
}

/* Who plans a step for the two ends of a cache has planned it for every place. */
static void test_places(void **state)
{
    (void)state;
    static const hd_latent_spec specs[] = {{16, 128, 64, 128, 512, 0.1}, {2, 8, 6, 10, 12, 0.1}, {128, 128, 64, 128, 512, 0.1}};
    static const int64_t counts[] = {1, 4, 16, 17, 20, 60, 130, 200, 512};
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++) {
            int64_t n = counts[k], last = n + 5000;
            size_t ends = scratch_of(&specs[i], n, n), far = scratch_of(&specs[i], n, last);
            ends = far > ends ? far : ends;
            for (int64_t length = n; length < last; length += 1 + length / 9) { assert_true(scratch_of(&specs[i], n, length) <= ends); }
        }
    }
}

static void test_refusals(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    model *m = new_model(2);
    float out[2 * V];
    hd_latent_sequence one = {f32_matrix(m->rows, 4, C + R), 5};
    hd_tensor q = f32_matrix(m->q, 5, 2 * (N + R)), o = f32_matrix(out, 5, 2 * V);
    hd_weight w = {.value = f32_matrix(m->w, 2 * (N + V), C)};
    assert_fails(hd_latent_attention_fwd(&ex, &m->spec, &q, &one, 1, &w, &o, &err), HD_E_INVALID, "5 new tokens in a cache of 4 rows");
    one.n_new = 0;
    q.shape[0] = o.shape[0] = 0;
    assert_fails(hd_latent_attention_fwd(&ex, &m->spec, &q, &one, 1, &w, &o, &err), HD_E_INVALID, "0 new tokens");
    w.layout = HD_LAYOUT_IN_OUT;
    assert_fails(hd_latent_attention_fwd(&ex, &m->spec, &q, &one, 1, &w, &o, &err), HD_E_INVALID, "want [out, in]");
    m->spec.scale = (double)NAN;
    assert_fails(hd_latent_attention_fwd(&ex, &m->spec, &q, &one, 1, &w, &o, &err), HD_E_INVALID, "scale is nan");
    m->spec.n_head = 0;
    assert_fails(hd_latent_attention_fwd(&ex, &m->spec, &q, &one, 1, &w, &o, &err), HD_E_INVALID, "0 heads");
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fwd), cmocka_unit_test(test_together), cmocka_unit_test(test_later_rows),
                                       cmocka_unit_test(test_plan), cmocka_unit_test(test_places),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("ops/latent_attention", tests, NULL, NULL);
}
