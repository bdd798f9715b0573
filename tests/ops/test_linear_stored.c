/* Products with weights as files hold them: FP8 with block scales, packed 8- and 4-bit integers, with inputs as they are and rounded.
 *
 * Every backend against ref; equal bits on every instruction set where sums are of integers, for any number of rows, threads and
 * experts, wherever the experts lie; and the checks of the calls. */
#include "ops/harness.h"
#include "tensor/convert.h"

typedef struct stored {
    hd_weight w;
    void *value, *scales;
} stored;

/* Weights of a normal distribution; 4-bit codes and scales are what packing makes of them. */
static stored make_stored(const char *name, hd_dtype dtype, int64_t n_expert, int64_t out, int64_t in, bool round_inputs, bool fine)
{
    stored s = {.w = hd_weight_shape(dtype, n_expert, out, in)};
    int64_t n = n_expert > 0 ? n_expert : 1, bytes = hd_weight_matrix_bytes(dtype, out, in), scale_bytes = hd_weight_scale_bytes(dtype, out, in);
    float *values = calloc((size_t)(n * out * in) + 1, sizeof *values);
    s.value = calloc((size_t)(n * bytes) + 1, 1);
    s.scales = calloc((size_t)(n * scale_bytes) + 1, 1);
    assert_true(values != NULL && s.value != NULL && s.scales != NULL);
    hd_gen_normal_f32(name, 0.05, values, n * out * in);
    for (int64_t e = 0; e < n; e++) {
        uint8_t *codes = (uint8_t *)s.value + e * bytes, *scales = (uint8_t *)s.scales + e * scale_bytes;
        const float *v = values + e * out * in;
        if (dtype == HD_DTYPE_F8_E4M3) {
            for (int64_t i = 0; i < out * in; i++) { codes[i] = hd_f32_to_f8_e4m3(v[i] * 500.0f); }
            for (int64_t i = 0; i < scale_bytes / 4; i++) { ((float *)(void *)scales)[i] = 0.002f * (float)(1 + i % 7); }
            continue;
        }
        for (int64_t r = 0; r < out; r += HD_PACKED_ROWS) {
            int rows = out - r < HD_PACKED_ROWS ? (int)(out - r) : HD_PACKED_ROWS;
            assert_true(hd_pack_rows(dtype, v + r * in, in, rows, in, codes + hd_dtype_run_bytes(dtype, r * in),
                                     (uint16_t *)(void *)scales + r * (in / HD_PACKED_GROUP)));
        }
    }
    free(values);
    s.w.value.data = s.value;
    s.w.scales.data = s.scales;
    s.w.round_inputs = round_inputs;
    s.w.fine_inputs = fine;
    return s;
}

static void free_stored(stored *s)
{
    free(s->value);
    free(s->scales);
}

typedef struct matrix {
    float *v;
    hd_tensor t;
} matrix;

static matrix make_matrix(const char *name, int64_t rows, int64_t columns, int64_t pad)
{
    matrix m = {.v = calloc((size_t)(rows * (columns + pad)) + 1, sizeof(float))};
    assert_non_null(m.v);
    if (name != NULL) { hd_gen_normal_f32(name, 1.0, m.v, rows * (columns + pad)); }
    m.t = (hd_tensor){.data = m.v, .dtype = HD_DTYPE_F32, .n_dim = 2, .shape = {rows, columns}, .global_shape = {rows, columns},
                      .stride = {columns + pad, 1}};
    return m;
}

typedef struct row { int64_t n, k, m; hd_dtype dtype; bool round_inputs; hd_accum accum; bool fine; } row;

#define I8 HD_DTYPE_I8
#define I4 HD_DTYPE_I4
#define F8 HD_DTYPE_F8_E4M3

static const row rows[] = {
    {1, 64, 16, I8, true, HD_SET, false},     {1, 64, 1, I4, true, HD_SET, false},      {0, 64, 5, I8, true, HD_SET, false},      {3, 128, 17, I8, true, HD_ADD, false},
    {2, 192, 47, I4, true, HD_SET, false},    {5, 320, 33, I8, true, HD_SET, false},    {6, 64, 96, I4, true, HD_ADD, false},     {7, 1408, 160, I8, true, HD_SET, false},
    {13, 2048, 64, I4, true, HD_SET, false},  {40, 448, 100, I8, true, HD_ADD, false},  {33, 704, 31, I4, true, HD_SET, false},   {1, 2048, 1408, I8, true, HD_SET, false},
    {1, 1408, 2048, I4, true, HD_SET, false}, {70, 256, 80, I8, true, HD_SET, false},   {1, 64, 16, I8, false, HD_SET, false},    {3, 320, 47, I4, false, HD_ADD, false},
    {9, 576, 65, I8, false, HD_SET, false},   {33, 704, 31, I4, false, HD_SET, false},  {1, 128, 128, F8, false, HD_SET, false},  {2, 100, 130, F8, false, HD_SET, false},
    {5, 257, 40, F8, false, HD_ADD, false},   {17, 640, 300, F8, false, HD_SET, false}, {1, 1408, 256, F8, false, HD_SET, false}, {1, 2048, 48, I4, false, HD_SET, false},
    {1, 64, 16, I8, true, HD_SET, true}, {4, 1408, 70, I8, true, HD_ADD, true}, {19, 320, 33, I8, true, HD_SET, true}, {5, 128, 47, I8, true, HD_SET, true}, {2, 704, 16, I8, true, HD_SET, true}};
static const int n_rows = sizeof rows / sizeof rows[0];

static void run(hd_exec *ex, const row *r, const matrix *x, const stored *w, hd_tensor *y)
{
    hd_err err;
    hd_tensor in = x->t;
    if (hd_linear_fwd(ex, &in, &w->w, r->accum, y, &err) != HD_OK) { fail_msg("%s: %s", ex->ops->name, err.msg); }
}

/* |got - want| within `factor` of the sum of absolute products. */
static void compare(const row *r, const char *backend, const matrix *x, const float *start, const float *got, const float *want)
{
    for (int64_t i = 0; i < r->n; i++) {
        double sum = 0.0;
        for (int64_t k = 0; k < r->k; k++) { sum += fabs((double)x->v[i * x->t.stride[0] + k]); }
        for (int64_t m = 0; m < r->m; m++) {
            double g = (double)got[i * r->m + m], v = (double)want[i * r->m + m], largest = 0.3; /* of a weight: 0.05 normal */
            double bound = ((double)r->k + 4) * HD_U_F32 * (sum * largest + fabs(v) + fabs((double)start[i * r->m + m]));
            if (!hd_finite_f64(g) || !(fabs(g - v) <= bound)) {
                fail_msg("%s N=%" PRId64 " K=%" PRId64 " M=%" PRId64 " %s: y[%" PRId64 ", %" PRId64 "] = %.9g, want %.9g, bound %.3g", backend, r->n, r->k,
                         r->m, hd_dtype_name(r->dtype), i, m, g, v, bound);
            }
        }
    }
}

/* Rows fed one by one give the bits of all together. */
static void check_alone(hd_exec *ex, const row *r, const matrix *x, const stored *w, const float *start, const float *together)
{
    float *y = malloc((size_t)r->m * sizeof *y + 1);
    assert_non_null(y);
    for (int64_t i = 0; i < r->n; i++) {
        matrix one = {.v = x->v + i * x->t.stride[0], .t = hd_tensor_slice(&x->t, 0, i, 1)};
        hd_tensor out = {.data = y, .dtype = HD_DTYPE_F32, .n_dim = 2, .shape = {1, r->m}, .stride = {r->m, 1}};
        memcpy(y, start + i * r->m, (size_t)r->m * sizeof *y);
        run(ex, r, &one, w, &out);
        if (memcmp(y, together + i * r->m, (size_t)r->m * sizeof *y) != 0) { fail_msg("%s: row %" PRId64 " alone differs", ex->ops->name, i); }
    }
    free(y);
}

static void check_row(const row *r)
{
    size_t bytes = (size_t)(r->n * r->m) * sizeof(float);
    matrix x = make_matrix("x", r->n, r->k, 3), want = make_matrix(NULL, r->n, r->m, 0), got = make_matrix(NULL, r->n, r->m, 0);
    matrix start = make_matrix("start", r->n, r->m, 0), first = make_matrix(NULL, r->n, r->m, 0);
    stored w = make_stored("w", r->dtype, 0, r->m, r->k, r->round_inputs, r->fine);
    hd_exec ref = ref_exec(), ex;
    memcpy(want.v, start.v, bytes);
    run(&ref, r, &x, &w, &want.t);
    bool have_first = false;
    for (int isa = 0; isa < N_ISAS; isa++) {
        for (int threads = 1; threads <= 3; threads++) {
            if (!cpu_exec(isa_forces[isa], threads, &ex)) { continue; }
            memcpy(got.v, start.v, bytes);
            run(&ex, r, &x, &w, &got.t);
            if (threads > 1) {
                if (memcmp(got.v, first.v, bytes) != 0) { fail_msg("%s: %d threads change bits", ex.ops->name, threads); }
                continue;
            }
            compare(r, ex.ops->name, &x, start.v, got.v, want.v);
            check_alone(&ex, r, &x, &w, start.v, got.v);
            bool fused = isa < 2; /* base has no fused multiply-add */
            if (have_first && fused && memcmp(got.v, first.v, bytes) != 0) { fail_msg("%s differs from avx512", ex.ops->name); }
            memcpy(first.v, got.v, bytes);
            have_first = true;
        }
    }
    hd_exec dry = ex;
    size_t real = ex.scratch->high;
    dry.dry = true;
    dry.scratch->high = dry.scratch->used = 0;
    run(&dry, r, &x, &w, &got.t);
    assert_int_equal(dry.scratch->high, real);
    free_stored(&w);
    free(x.v), free(want.v), free(got.v), free(start.v), free(first.v);
}

static void test_plain(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) { check_row(&rows[i]); }
}

/* The largest codes on both sides: sums of products must not leave 16 or 32 bits. */
static void test_largest(void **state)
{
    (void)state;
    static const row cases[] = {{7, 128, 16, I8, true, HD_SET, false}, {7, 128, 16, I8, true, HD_SET, true}, {7, 128, 16, I4, true, HD_SET, false}};
    hd_exec ex;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const row *r = &cases[c];
        for (int sign = 0; sign < 4; sign++) {
            stored w = make_stored("w", r->dtype, 0, r->m, r->k, true, r->fine);
            int code = r->dtype == I8 ? (sign % 2 == 0 ? 127 : -127) : sign % 2 == 0 ? 7 : -8;
            memset(w.value, r->dtype == I8 ? (uint8_t)(int8_t)code : (code + 8) * 0x11, (size_t)hd_weight_matrix_bytes(r->dtype, r->m, r->k));
            for (int64_t i = 0; i < r->m * r->k / HD_PACKED_GROUP; i++) { ((uint16_t *)w.scales)[i] = 0x3F80; } /* 1 */
            for (int index = 0; next_cpu(&index, 2, &ex);) {
                matrix x = make_matrix("x", r->n, r->k, 0), y = make_matrix(NULL, r->n, r->m, 0);
                for (int64_t i = 0; i < r->n * r->k; i++) { x.v[i] = sign < 2 ? 127.0f : -127.0f; }
                run(&ex, r, &x, &w, &y.t);
                for (int64_t i = 0; i < r->n * r->m; i++) { assert_true(y.v[i] == x.v[0] * (float)(code * r->k)); }
                free(x.v), free(y.v);
            }
            free_stored(&w);
        }
    }
}

/* A value that is not finite spoils its row and no other. */
static void test_not_finite(void **state)
{
    (void)state;
    const row r = {3, 128, 16, I8, true, HD_SET, false};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    hd_exec ex;
    stored w = make_stored("w", I8, 0, r.m, r.k, true, false);
    for (int index = 0; next_cpu(&index, 2, &ex);) {
        for (int b = 0; b < 3; b++) {
            matrix x = make_matrix("x", r.n, r.k, 0), y = make_matrix(NULL, r.n, r.m, 0);
            x.v[r.k + 70] = bad[b];
            run(&ex, &r, &x, &w, &y.t);
            for (int64_t i = 0; i < r.n * r.m; i++) { assert_int_equal(hd_finite_f64((double)y.v[i]), i / r.m != 1); }
            free(x.v), free(y.v);
        }
    }
    free_stored(&w);
}

/* FP8: a NaN code spoils its output alone, denormal codes and scales of any size are exact, in few rows and in many. */
static void test_f8_codes(void **state)
{
    (void)state;
    enum { M = 20, K = 256, BAD = 7, DENORMAL = 3 };
    static const float scales[] = {1.0f, 3e-5f, 0.3f, 200.0f, 1e30f, 1e-37f};
    hd_exec ex;
    stored w = make_stored("w", F8, 0, M, K, false, false);
    uint8_t *codes = w.value;
    codes[BAD * K + 131] = 0xFF;
    for (int k = 0; k < K; k++) { codes[DENORMAL * K + k] = (uint8_t)(k % 8 | (k % 3 == 0 ? 0x80 : 0)); }
    for (int index = 0; next_cpu(&index, 2, &ex);) {
        for (size_t s = 0; s < sizeof scales / sizeof scales[0]; s++) {
            for (int64_t n = 1; n <= 9; n += 4) {
                matrix x = make_matrix(NULL, n, K, 0), y = make_matrix(NULL, n, M, 0);
                const row r = {n, K, M, F8, false, HD_SET, false};
                int column = (int)(s * 37 % K);
                for (int64_t i = 0; i < n; i++) { x.v[i * K + column] = 1.0f; } /* one weight comes out as it is */
                for (int i = 0; i < 2; i++) { ((float *)w.scales)[i] = scales[s]; }
                run(&ex, &r, &x, &w, &y.t);
                for (int64_t i = 0; i < n * M; i++) {
                    int64_t m = i % M;
                    float want = hd_f8_e4m3_to_f32(codes[m * K + column]) * scales[s];
                    if (m == BAD ? hd_finite_f64((double)y.v[i]) : y.v[i] != want) {
                        fail_msg("%s: scale %g, output %d is %.9g, want %.9g", ex.ops->name, (double)scales[s], (int)m, (double)y.v[i], (double)want);
                    }
                }
                free(x.v), free(y.v);
            }
        }
    }
    free_stored(&w);
}

/* Experts at equal distances, and apart as in mapped files. */
static void check_experts(hd_dtype dtype, bool round_inputs, bool fine)
{
    enum { E = 4, K = 192, M = 37 };
    static const int32_t begin[E + 1] = {0, 3, 3, 20, 23};
    int32_t offsets_memory[E + 1];
    hd_err err;
    memcpy(offsets_memory, begin, sizeof begin);
    hd_tensor offsets = {.data = offsets_memory, .dtype = HD_DTYPE_I32, .n_dim = 1, .shape = {E + 1}, .stride = {1}};
    stored w = make_stored("experts", dtype, E, M, K, round_inputs, fine);
    matrix x = make_matrix("x", 25, K, 0), y = make_matrix("old", 25, M, 0), apart = make_matrix("old", 25, M, 0);
    hd_expert_place places[E];
    for (int e = 0; e < E; e++) {
        hd_weight one = hd_weight_expert(&w.w, e);
        places[e] = (hd_expert_place){one.value.data, one.scales.data};
    }
    hd_weight scattered = w.w;
    scattered.experts = places;
    scattered.value.data = scattered.scales.data = NULL;
    hd_exec ex;
    for (int index = 0; next_cpu(&index, 2, &ex);) {
        assert_int_equal(hd_grouped_linear_fwd(&ex, &x.t, &offsets, &w.w, HD_SET, &y.t, &err), HD_OK);
        assert_int_equal(hd_ragged_linear_fwd(&ex, &x.t, &offsets, &scattered, HD_SET, &apart.t, &err), HD_OK);
        assert_memory_equal(y.v, apart.v, 25 * M * sizeof(float));
        for (int e = 0; e < E; e++) { /* the plain product with one expert's matrix */
            if (begin[e + 1] == begin[e]) { continue; }
            hd_weight one = hd_weight_expert(&scattered, e);
            hd_tensor part = hd_tensor_slice(&x.t, 0, begin[e], begin[e + 1] - begin[e]), out = hd_tensor_slice(&apart.t, 0, begin[e], part.shape[0]);
            assert_int_equal(hd_linear_fwd(&ex, &part, &one, HD_SET, &out, &err), HD_OK);
        }
        assert_memory_equal(y.v, apart.v, 25 * M * sizeof(float));
    }
    free_stored(&w);
    free(x.v), free(y.v), free(apart.v);
}

static void test_experts(void **state)
{
    (void)state;
    check_experts(I8, true, false);
    check_experts(I8, true, true);
    check_experts(I4, true, false);
    check_experts(I8, false, false);
    check_experts(I4, false, false);
    check_experts(F8, false, false);
}

/* A list gives the bits of its products alone: integers that share inputs or not, FP8, f32, plain and grouped. */
static void test_lists(void **state)
{
    (void)state;
    enum { E = 3, K = 128, M = 40, N = 9 };
    int32_t begin[E + 1] = {0, 4, 4, 9};
    hd_err err;
    hd_tensor offsets = {.data = begin, .dtype = HD_DTYPE_I32, .n_dim = 1, .shape = {E + 1}, .stride = {1}};
    stored experts = make_stored("experts", I8, E, M, K, true, false), more = make_stored("more", I4, E, M + 9, K, true, false);
    stored plain = make_stored("plain", I8, 0, M, K, true, true), f8 = make_stored("f8", F8, 0, M, K, false, false);
    matrix f32 = make_matrix("f32", M, K, 0), a = make_matrix("a", N, K, 0), b = make_matrix("b", N, K, 0), y[4], alone[4];
    hd_weight f32_weight = {.value = f32.t, .layout = HD_LAYOUT_OUT_IN};
    for (int i = 0; i < 4; i++) { y[i] = make_matrix("y", N, i == 1 ? M + 9 : M, 0), alone[i] = make_matrix("y", N, i == 1 ? M + 9 : M, 0); }
    const hd_product lists[2][4] = {{{&a.t, &offsets, &experts.w, HD_SET, &y[0].t}, {&a.t, &offsets, &more.w, HD_ADD, &y[1].t},
                                     {&b.t, NULL, &plain.w, HD_SET, &y[2].t}, {&a.t, NULL, &plain.w, HD_ADD, &y[3].t}},
                                    {{&a.t, NULL, &f8.w, HD_SET, &y[0].t}, {&b.t, &offsets, &more.w, HD_SET, &y[1].t},
                                     {&b.t, NULL, &f32_weight, HD_SET, &y[2].t}, {&a.t, NULL, &f32_weight, HD_SET, &y[3].t}}};
    hd_exec ex;
    for (int index = 0; next_cpu(&index, 2, &ex);) {
        for (int l = 0; l < 2; l++) {
            assert_int_equal(hd_products_fwd(&ex, lists[l], 4, &err), HD_OK);
            for (int i = 0; i < 4; i++) {
                const hd_product *p = &lists[l][i];
                hd_status st = p->offsets != NULL ? hd_grouped_linear_fwd(&ex, p->x, p->offsets, p->w, p->y_accum, &alone[i].t, &err)
                                                  : hd_linear_fwd(&ex, p->x, p->w, p->y_accum, &alone[i].t, &err);
                assert_int_equal(st, HD_OK);
                if (memcmp(y[i].v, alone[i].v, (size_t)hd_tensor_count(&y[i].t) * 4) != 0) { fail_msg("list %d, product %d", l, i); }
            }
        }
    }
    hd_product twice[2] = {lists[1][0], lists[1][2]};
    twice[1].y = twice[0].y;
    assert_int_equal(hd_products_fwd(&ex, twice, 2, &err), HD_E_INVALID); /* one output of two products */
    assert_int_equal(hd_products_fwd(&ex, twice, 0, &err), HD_E_INVALID);
    free_stored(&experts), free_stored(&more), free_stored(&plain), free_stored(&f8);
    free(f32.v), free(a.v), free(b.v);
    for (int i = 0; i < 4; i++) { free(y[i].v), free(alone[i].v); }
}

static void refuse(hd_exec *ex, const matrix *x, const hd_weight *w, hd_tensor *y, const char *why)
{
    hd_err err;
    assert_int_equal(hd_linear_fwd(ex, &x->t, w, HD_SET, y, &err), HD_E_INVALID);
    if (strstr(err.msg, why) == NULL) { fail_msg("message is `%s`, want `%s` in it", err.msg, why); }
}

static void test_checks(void **state)
{
    (void)state;
    hd_exec ex;
    hd_err err;
    assert_true(cpu_exec("isa=base", 1, &ex));
    stored w = make_stored("w", I8, 0, 16, 128, true, false), f8 = make_stored("w", F8, 0, 16, 128, false, false);
    matrix x = make_matrix("x", 2, 128, 0), y = make_matrix(NULL, 2, 16, 0);
    hd_weight bad = w.w;
    bad.scales.shape[1] = 1;
    refuse(&ex, &x, &bad, &y.t, "the scales of w");
    bad = w.w;
    bad.scales.dtype = HD_DTYPE_F32;
    refuse(&ex, &x, &bad, &y.t, "the scales of w");
    bad = w.w;
    bad.scales.data = NULL;
    refuse(&ex, &x, &bad, &y.t, "without memory");
    bad = w.w;
    bad.layout = HD_LAYOUT_IN_OUT;
    refuse(&ex, &x, &bad, &y.t, "[out, in]");
    bad = w.w;
    bad.value.shape[1] = 100;
    refuse(&ex, &x, &bad, &y.t, "multiple of 64");
    bad = f8.w;
    bad.round_inputs = true;
    refuse(&ex, &x, &bad, &y.t, "rounded");
    bad = w.w;
    bad.round_inputs = false;
    bad.fine_inputs = true;
    refuse(&ex, &x, &bad, &y.t, "rounded");
    assert_int_equal(hd_linear_bwd_input(&ex, &y.t, &w.w, HD_SET, &x.t, &err), HD_E_INVALID); /* backward passes have no such weights */
    free_stored(&w);
    free_stored(&f8);
    free(x.v), free(y.v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_largest), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_f8_codes), cmocka_unit_test(test_experts), cmocka_unit_test(test_lists),
                                       cmocka_unit_test(test_checks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
