/* RoPE and its tables: the rotation on every backend, and the worked values of YaRN. */
#include "ops/harness.h"

#include "ops/rope_table.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

/* ---- the rotation ------------------------------------------------------------------------------------------------------ */

typedef struct row { int64_t n, heads, r, pad, positions; hd_dtype act; int direction; } row;

static const row rows[] = {
    {0, 2, 4, 0, 8, F32, 1},    {1, 1, 2, 0, 1, F32, -1},    {3, 2, 0, 1, 5, F32, 1},      {5, 3, 6, 2, 7, F32, 1},
    {7, 1, 14, 3, 9, BF16, -1}, {13, 4, 64, 128, 33, F32, 1}, {9, 16, 64, 128, 64, BF16, 1}, {17, 5, 34, 0, 31, F32, -1},
    {65, 1, 64, 512, 4096, BF16, -1}, {3, 2, 66, 1, 3, BF16, 1},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static hd_status run_rope(hd_exec *ex, opcase *c, hd_err *err)
{
    return hd_rope(ex, &c->s[0].t, &c->s[1].t, ((const row *)c->params)->direction, &c->s[2].t, err);
}

/* Angles of a plain table, and positions that jump about. */
static void add_angles(opcase *c, const row *r)
{
    int32_t positions[128];
    hd_gen_below_i32(c->name, (int32_t)r->positions, positions, r->n);
    set_ints(add_slot(c, "positions", IN, HD_DTYPE_I32, HD_SHAPE(r->n)), positions);
    slot *table = add_slot(c, "table", IN, F32, HD_SHAPE(r->positions, r->r / 2, 2));
    table->free_axes = 1;
    for (int64_t i = 0; i < slot_count(table) / 2; i++) {
        table->values[2 * i] = round_to(F32, cos(0.37 * (double)i));
        table->values[2 * i + 1] = round_to(F32, sin(0.37 * (double)i));
    }
}

static void test_rotation(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_rope, .params = r};
        (void)snprintf(c.name, sizeof c.name, "rope N=%" PRId64 " H=%" PRId64 " r=%" PRId64 " pad=%" PRId64 " %s %+d", r->n, r->heads,
                       r->r, r->pad, hd_dtype_name(r->act), r->direction);
        add_angles(&c, r);
        slot *x = normal(&c, add_slot(&c, "x", INOUT, r->act, HD_SHAPE(r->n, r->heads, r->r)), 1.0);
        x->pad = r->pad;
        x->free_axes = 2;
        scale_alloc(x);
        for (int64_t e = 0; e < slot_count(x); e++) { x->scale[e] = fabs(x->values[e]) + fabs(x->values[e ^ 1]); }
        x->factor = 3 * HD_U_F32; /* two products and a sum */
        run_reference(&c);
        check_op(&c, "rope");
    }
    print_ratios();
}

/* One quarter turn of the pair (x0, x1) = (1, 2) gives (-2, 1): adjacent pairs, counter-clockwise; the second pair rests. */
static void test_adjacent_pairs(void **state)
{
    (void)state;
    double table[8] = {1, 0, 1, 0, 0, 1, 1, 0}, x[4] = {1, 2, 3, 4};
    int32_t positions[1] = {1};
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor tp = i32_tensor(positions, HD_SHAPE(1)), tt = f64_tensor(table, HD_SHAPE(2, 2, 2)), tx = f64_tensor(x, HD_SHAPE(1, 1, 4));
    assert_ok(hd_rope(&ex, &tp, &tt, 1, &tx, &err));
    hd_assert_abs_f64("quarter turn", x, (double[]){-2, 1, 3, 4}, 4, 0.0);
    assert_ok(hd_rope(&ex, &tp, &tt, -1, &tx, &err));
    hd_assert_abs_f64("and back", x, (double[]){1, 2, 3, 4}, 4, 0.0);
    assert_fails(hd_rope(&ex, &tp, &tt, 0, &tx, &err), HD_E_INVALID, "want +1 or -1");
    tx.shape[2] = 3;
    assert_fails(hd_rope(&ex, &tp, &tt, 1, &tx, &err), HD_E_INVALID, "want pairs");
}

enum { N = 4, H = 2, R = 6, P = 9 };

typedef struct fd { double x[N * H * R], y[N * H * R], c[N * H * R], table[P * R]; int32_t positions[N]; } fd;

static void rotate(fd *f, int direction, double *x)
{
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor tp = i32_tensor(f->positions, HD_SHAPE(N)), tt = f64_tensor(f->table, HD_SHAPE(P, R / 2, 2)), tx = f64_tensor(x, HD_SHAPE(N, H, R));
    assert_ok(hd_rope(&ex, &tp, &tt, direction, &tx, &err));
}

static double loss(void *ctx)
{
    fd *f = ctx;
    memcpy(f->y, f->x, sizeof f->x);
    rotate(f, 1, f->y);
    return dot(f->y, f->c, N * H * R);
}

/* The table is not a rotation here (an attention factor other than 1): the adjoint still holds. */
static void test_gradient(void **state)
{
    (void)state;
    fd f = {.positions = {8, 0, 3, 3}};
    double dx[N * H * R];
    hd_gen_normal_f64("x", 1.0, f.x, N * H * R);
    hd_gen_normal_f64("c", 1.0, f.c, N * H * R);
    hd_gen_normal_f64("table", 1.0, f.table, P * R);
    memcpy(dx, f.c, sizeof dx);
    rotate(&f, -1, dx);
    fd_check("rope dx", loss, &f, f.x, dx, N * H * R);
}

/* ---- tables -------------------------------------------------------------------------------------------------------------- */

static hd_rope_spec yarn(double mscale)
{
    return (hd_rope_spec){.dim = 64, .n_positions = 64, .theta = 10000.0, .yarn = true, .factor = 40.0,
                          .original_max_position_embeddings = 4096, .beta_fast = 32.0, .beta_slow = 1.0, .mscale = mscale,
                          .mscale_all_dim = mscale, .truncate = true, .attention_factor = -1.0};
}

static void assert_near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want))) { fail_msg("got %.10g, want %.10g", got, want); }
}

/* b = 10000, r = 64, L0 = 4096, s = 40: V2-Lite, V2 and V3 alike. */
static void test_yarn_frequencies(void **state)
{
    (void)state;
    static const struct { int j; double w; } want[] = {
        {0, 1.0},           {8, 0.1},           {10, 0.05623413},   {11, 0.03900693},  {12, 0.02687936}, {13, 0.01837815},
        {14, 0.01244796},   {16, 0.0055},       {18, 0.002249365},  {20, 0.0007905694}, {22, 0.0001778279}, {23, 3.333804e-05},
        {24, 2.5e-05},      {31, 3.333804e-06},
    };
    hd_err err;
    float w[32];
    hd_rope_spec spec = yarn(1.0);
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) { assert_near((double)w[want[i].j], want[i].w, 4e-7); }
}

/* b = 160000, L0 = 65536, s = 16: the ramp runs from pair 15 to pair 25. */
static void test_yarn_bounds(void **state)
{
    (void)state;
    hd_err err;
    float w[32], plain[32];
    hd_rope_spec spec = yarn(0.0);
    spec.theta = 160000.0;
    spec.original_max_position_embeddings = 65536;
    spec.factor = 16.0;
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    spec.yarn = false;
    assert_ok(hd_rope_frequencies(&spec, plain, &err));
    for (int j = 0; j < 32; j++) {
        double ramp = (j - 15) / 10.0, g = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        assert_near((double)w[j], (double)plain[j] * ((1 - g) + g / 16.0), 4e-7);
    }
    assert_true(w[15] == plain[15] && w[16] < plain[16] && w[25] == plain[25] / 16.0f && w[24] > plain[24] / 16.0f);
}

/* low == high (both 0 for an original length of 6): the ramp is 0.001 wide instead of dividing by 0.  Without truncation
 * the bounds stay fractions. */
static void test_yarn_edges(void **state)
{
    (void)state;
    hd_err err;
    float w[32], whole[32];
    hd_rope_spec spec = yarn(1.0);
    spec.original_max_position_embeddings = 6;
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    assert_true(w[0] == 1.0f);
    assert_near((double)w[1], pow(10000.0, -1.0 / 32.0) / 40.0, 4e-7);
    spec = yarn(1.0);
    assert_ok(hd_rope_frequencies(&spec, whole, &err));
    spec.truncate = false;
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    double g = (16 - 10.47224) / (22.51344 - 10.47224);
    assert_near((double)w[16], 0.01 * ((1 - g) + g / 40.0), 2e-6);
    assert_true(w[16] != whole[16]);
}

static void test_table(void **state)
{
    (void)state;
    enum { POSITIONS = 64 };
    static float table[POSITIONS * 64];
    hd_err err;
    float w[32];
    hd_rope_spec spec = yarn(0.707);
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    assert_ok(hd_rope_table(&spec, table, &err));
    for (int p = 0; p < POSITIONS; p++) {
        for (int j = 0; j < 32; j++) {
            float angle = (float)p * w[j];
            assert_true(table[(p * 32 + j) * 2] == (float)cos((double)angle));
            assert_true(table[(p * 32 + j) * 2 + 1] == (float)sin((double)angle));
        }
    }
}

/* Angles are f32 products: at position 163839 pair 11's angle is not the double product. */
static void test_long_context(void **state)
{
    (void)state;
    enum { LONG = 163840 };
    hd_err err;
    float w[2], *table = malloc(sizeof(float) * LONG * 4);
    assert_non_null(table);
    hd_rope_spec spec = yarn(1.0);
    spec.dim = 4;
    spec.n_positions = LONG;
    spec.yarn = false;
    spec.theta = 7.0;
    assert_ok(hd_rope_frequencies(&spec, w, &err));
    assert_ok(hd_rope_table(&spec, table, &err));
    float angle = (float)(LONG - 1) * w[1];
    assert_true(fabs((double)angle - (LONG - 1) * (double)w[1]) > 1e-4);
    assert_true(table[(LONG - 1) * 4 + 2] == (float)cos((double)angle));
    assert_true(table[(LONG - 1) * 4] == (float)cos(163839.0));
    free(table);
}

/* The factor on cos and sin: 1 when both mscales agree, m(s, 1) when none is given, the configured one when there is one. */
static void test_attention_factor(void **state)
{
    (void)state;
    static float table[64 * 64];
    hd_err err;
    hd_rope_spec spec = yarn(0.0);
    assert_ok(hd_rope_table(&spec, table, &err));
    assert_near((double)table[0], 1.3688879454, 1e-7);
    spec = yarn(1.0);
    spec.mscale = 0.707;
    assert_ok(hd_rope_table(&spec, table, &err));
    assert_near((double)table[0], 1.2608037774 / 1.3688879454, 1e-7);
    spec.attention_factor = 0.5;
    assert_ok(hd_rope_table(&spec, table, &err));
    assert_near((double)table[0], 0.5, 0.0);
    spec.yarn = false;
    assert_ok(hd_rope_table(&spec, table, &err));
    assert_near((double)table[0], 1.0, 0.0);
}

static void test_softmax_scale(void **state)
{
    (void)state;
    hd_rope_spec v2 = yarn(0.707), v3 = yarn(1.0), none = yarn(0.0);
    assert_near(hd_softmax_scale(192, &v2), 0.1147213868, 1e-9);
    assert_near(hd_softmax_scale(192, &v3), 0.1352337789, 1e-9);
    assert_near(hd_softmax_scale(192, &none), 0.0721687836, 1e-9); /* no mscale_all_dim: no correction */
    v3.factor = 1.0;
    assert_near(hd_softmax_scale(192, &v3), 0.0721687836, 1e-9);
    v2.yarn = false;
    assert_near(hd_softmax_scale(192, &v2), 0.0721687836, 1e-9);
}

static void test_refusals(void **state)
{
    (void)state;
    float out[4];
    hd_err err;
    hd_rope_spec spec = yarn(1.0);
    spec.dim = 63;
    assert_fails(hd_rope_table(&spec, out, &err), HD_E_INVALID, "63");
    spec = yarn(1.0);
    spec.theta = 1.0;
    assert_fails(hd_rope_table(&spec, out, &err), HD_E_INVALID, "theta is 1");
    spec = yarn(1.0);
    spec.original_max_position_embeddings = 0;
    assert_fails(hd_rope_frequencies(&spec, out, &err), HD_E_INVALID, "original length 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotation),      cmocka_unit_test(test_adjacent_pairs), cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_yarn_frequencies), cmocka_unit_test(test_yarn_bounds), cmocka_unit_test(test_yarn_edges),
        cmocka_unit_test(test_table),         cmocka_unit_test(test_long_context),   cmocka_unit_test(test_attention_factor),
        cmocka_unit_test(test_softmax_scale), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("ops/rope", tests, NULL, NULL);
}
