/* The matrix products: plain, grouped and ragged, three slots each. */
#include "ops/harness.h"

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

/* ---- plain ------------------------------------------------------------------------------------------------------------- */

typedef struct row { int64_t n, k, m, pad; hd_dtype x, w, y; hd_layout layout; hd_accum accum; } row;

#define OI HD_LAYOUT_OUT_IN
#define IO HD_LAYOUT_IN_OUT

static const row rows[] = {
    {0, 5, 7, 0, F32, F32, F32, OI, HD_SET},       {1, 1, 1, 0, F32, F32, F32, OI, HD_SET},
    {3, 0, 2, 0, F32, F32, F32, OI, HD_SET},       {3, 0, 2, 0, F32, BF16, BF16, IO, HD_ADD},
    {3, 5, 0, 0, F32, F32, F32, OI, HD_SET},       {2, 3, 5, 1, BF16, BF16, BF16, OI, HD_ADD},
    {7, 13, 17, 3, F32, BF16, F32, IO, HD_SET},    {6, 16, 16, 0, F32, F32, F32, OI, HD_ADD},
    {13, 33, 17, 2, BF16, BF16, F32, OI, HD_SET},  {8, 64, 49, 0, F32, F32, BF16, IO, HD_ADD},
    {15, 65, 48, 5, BF16, F32, BF16, OI, HD_SET},  {17, 257, 33, 1, F32, F32, F32, OI, HD_SET},
    {65, 129, 97, 7, F32, BF16, F32, OI, HD_ADD},  {49, 256, 65, 0, BF16, BF16, BF16, IO, HD_SET},
    {2, 513, 131, 0, F32, F32, F32, IO, HD_ADD},   {97, 31, 127, 0, BF16, BF16, F32, OI, HD_SET},
    {3, 2048, 576, 0, BF16, BF16, BF16, OI, HD_SET}, {4, 512, 1024, 0, F32, BF16, F32, OI, HD_SET},
    {5, 1408, 256, 0, F32, F32, F32, OI, HD_ADD},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " K=%" PRId64 " M=%" PRId64 " pad=%" PRId64 " %s/%s/%s %s %s", op,
                   r->n, r->k, r->m, r->pad, hd_dtype_name(r->x), hd_dtype_name(r->w), hd_dtype_name(r->y),
                   r->layout == OI ? "out,in" : "in,out", r->accum == HD_ADD ? "add" : "set");
}

static slot *add_matrix(opcase *c, const char *name, role ro, hd_dtype dtype, int64_t n, int64_t m, int64_t pad)
{
    slot *s = normal(c, add_slot(c, name, ro, dtype, HD_SHAPE(n, m)), 1.0);
    s->pad = pad;
    return s;
}

static slot *add_w(opcase *c, const char *name, role ro, hd_dtype dtype, const row *r)
{
    return r->layout == OI ? add_matrix(c, name, ro, dtype, r->m, r->k, r->pad) : add_matrix(c, name, ro, dtype, r->k, r->m, r->pad);
}

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[1].t, .layout = ((const row *)c->params)->layout};
    return hd_linear_fwd(ex, &c->s[0].t, &w, c->accum, &c->s[2].t, err);
}

static hd_status run_bwd_input(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[1].t, .layout = ((const row *)c->params)->layout};
    return hd_linear_bwd_input(ex, &c->s[0].t, &w, c->accum, &c->s[2].t, err);
}

static hd_status run_bwd_weight(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[2].t, .grad = c->s[3].t, .grad_accum = c->accum, .layout = ((const row *)c->params)->layout};
    hd_status st = hd_linear_bwd_weight(ex, &c->s[0].t, &c->s[1].t, &w, err);
    if (st == HD_OK) { assert_int_equal(w.grad_accum, HD_ADD); }
    return st;
}

/* The sum of k products in f32, plus the old value: at most k + 1 roundings of terms of scale sum |a_i b_i|. */
static void check_plain(const row *r)
{
    role out = r->accum == HD_ADD ? INOUT : OUT;
    opcase fwd = {.run = run_fwd, .params = r, .accum = r->accum};
    name_case(&fwd, "linear_fwd", r);
    add_matrix(&fwd, "x", IN, r->x, r->n, r->k, r->pad);
    add_w(&fwd, "w", IN, r->w, r);
    add_matrix(&fwd, "y", out, r->y, r->n, r->m, r->pad);
    check_sum_op(&fwd, "linear_fwd", ((double)r->k + 1) * HD_U_F32);

    opcase bwd_input = {.run = run_bwd_input, .params = r, .accum = r->accum};
    name_case(&bwd_input, "linear_bwd_input", r);
    add_matrix(&bwd_input, "dy", IN, r->y, r->n, r->m, r->pad);
    add_w(&bwd_input, "w", IN, r->w, r);
    add_matrix(&bwd_input, "dx", out, r->x, r->n, r->k, r->pad);
    check_sum_op(&bwd_input, "linear_bwd_input", ((double)r->m + 1) * HD_U_F32);

    opcase bwd_weight = {.run = run_bwd_weight, .params = r, .accum = r->accum};
    name_case(&bwd_weight, "linear_bwd_weight", r);
    add_matrix(&bwd_weight, "dy", IN, r->y, r->n, r->m, r->pad);
    add_matrix(&bwd_weight, "x", IN, r->x, r->n, r->k, r->pad);
    add_w(&bwd_weight, "w", IN, r->w, r);
    add_w(&bwd_weight, "w.grad", out, F32, r);
    check_sum_op(&bwd_weight, "linear_bwd_weight", ((double)r->n + 1) * HD_U_F32);
}

static void test_plain(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) { check_plain(&rows[i]); }
    for (int64_t i = 0; i < hd_test_count(10, 300); i++) {
        draw d = draw_begin("linear", i);
        row r = {draw_length(&d, 80), draw_length(&d, 600), draw_length(&d, 80), draw_below(&d, 4), draw_act(&d), draw_act(&d), draw_act(&d),
                 (hd_layout)draw_below(&d, 2), (hd_accum)draw_below(&d, 2)};
        check_plain(&r);
    }
    print_ratios();
}

/* ---- experts ------------------------------------------------------------------------------------------------------------ */

enum { MAX_EXPERTS = 16 };

typedef struct expert_row {
    int64_t rows, k, m, experts, pad; /* rows: of the tensors; offsets may end before */
    int32_t counts[MAX_EXPERTS];
    hd_dtype x, w, y;
    hd_accum accum;
    bool ragged;
} expert_row;

static const expert_row expert_rows[] = {
    {0, 3, 5, 2, 0, {0, 0}, F32, F32, F32, HD_SET, false},
    {1, 1, 1, 1, 0, {1}, F32, F32, F32, HD_SET, false},
    {9, 7, 5, 3, 1, {4, 0, 5}, F32, BF16, F32, HD_SET, false},                    /* an empty expert */
    {16, 33, 17, 4, 0, {0, 16, 0, 0}, BF16, BF16, BF16, HD_ADD, false},           /* all on one */
    {20, 16, 48, 4, 3, {3, 1, 0, 7}, F32, F32, F32, HD_ADD, false},               /* nine rows beyond the last offset */
    {67, 65, 33, 5, 2, {13, 14, 1, 25, 14}, F32, BF16, BF16, HD_SET, false},
    {12, 257, 49, 3, 0, {0, 0, 0}, F32, F32, F32, HD_SET, false},                 /* nobody */
    {40, 129, 64, 16, 0, {1, 2, 3, 4, 0, 6, 0, 8, 1, 1, 1, 1, 1, 1, 1, 7}, BF16, BF16, F32, HD_SET, false},
    {18, 2048, 88, 4, 0, {5, 6, 0, 7}, BF16, BF16, BF16, HD_SET, false},
    {10, 256, 130, 3, 0, {6, 0, 4}, F32, BF16, F32, HD_ADD, false},
};
static const int n_expert_rows = sizeof expert_rows / sizeof expert_rows[0];

static void name_expert_case(opcase *c, const char *op, const expert_row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s%s R=%" PRId64 " K=%" PRId64 " M=%" PRId64 " E=%" PRId64 " pad=%" PRId64 " %s/%s/%s %s",
                   r->ragged ? "ragged" : "grouped", op, r->rows, r->k, r->m, r->experts, r->pad, hd_dtype_name(r->x),
                   hd_dtype_name(r->w), hd_dtype_name(r->y), r->accum == HD_ADD ? "add" : "set");
}

static void add_offsets(opcase *c, const expert_row *r)
{
    slot *s = add_slot(c, "offsets", IN, HD_DTYPE_I32, HD_SHAPE(r->experts + 1));
    for (int64_t e = 0; e < r->experts; e++) { s->values[e + 1] = s->values[e] + r->counts[e]; }
}

static slot *add_stack(opcase *c, const char *name, role ro, hd_dtype dtype, const expert_row *r)
{
    slot *s = normal(c, add_slot(c, name, ro, dtype, HD_SHAPE(r->experts, r->m, r->k)), 1.0);
    s->pad = r->pad;
    return s;
}

static hd_status run_experts_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[2].t};
    return ((const expert_row *)c->params)->ragged
               ? hd_ragged_linear_fwd(ex, &c->s[0].t, &c->s[1].t, &w, c->accum, &c->s[3].t, err)
               : hd_grouped_linear_fwd(ex, &c->s[0].t, &c->s[1].t, &w, c->accum, &c->s[3].t, err);
}

static hd_status run_experts_bwd_input(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[2].t};
    return ((const expert_row *)c->params)->ragged
               ? hd_ragged_linear_bwd_input(ex, &c->s[0].t, &c->s[1].t, &w, c->accum, &c->s[3].t, err)
               : hd_grouped_linear_bwd_input(ex, &c->s[0].t, &c->s[1].t, &w, c->accum, &c->s[3].t, err);
}

static hd_status run_experts_bwd_weight(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[3].t, .grad = c->s[4].t, .grad_accum = c->accum};
    return ((const expert_row *)c->params)->ragged
               ? hd_ragged_linear_bwd_weight(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, &w, err)
               : hd_grouped_linear_bwd_weight(ex, &c->s[0].t, &c->s[1].t, &c->s[2].t, &w, err);
}

static void check_experts(const expert_row *r)
{
    role out = r->accum == HD_ADD ? INOUT : OUT;
    opcase fwd = {.run = run_experts_fwd, .params = r, .accum = r->accum};
    name_expert_case(&fwd, "_linear_fwd", r);
    add_matrix(&fwd, "x", IN, r->x, r->rows, r->k, r->pad);
    add_offsets(&fwd, r);
    add_stack(&fwd, "w", IN, r->w, r);
    add_matrix(&fwd, "y", out, r->y, r->rows, r->m, r->pad);
    check_sum_op(&fwd, r->ragged ? "ragged_fwd" : "grouped_fwd", ((double)r->k + 1) * HD_U_F32);

    opcase bwd_input = {.run = run_experts_bwd_input, .params = r, .accum = r->accum};
    name_expert_case(&bwd_input, "_linear_bwd_input", r);
    add_matrix(&bwd_input, "dy", IN, r->y, r->rows, r->m, r->pad);
    add_offsets(&bwd_input, r);
    add_stack(&bwd_input, "w", IN, r->w, r);
    add_matrix(&bwd_input, "dx", out, r->x, r->rows, r->k, r->pad);
    check_sum_op(&bwd_input, r->ragged ? "ragged_bwd_input" : "grouped_bwd_input", ((double)r->m + 1) * HD_U_F32);

    opcase bwd_weight = {.run = run_experts_bwd_weight, .params = r, .accum = r->accum};
    name_expert_case(&bwd_weight, "_linear_bwd_weight", r);
    add_matrix(&bwd_weight, "dy", IN, r->y, r->rows, r->m, r->pad);
    add_matrix(&bwd_weight, "x", IN, r->x, r->rows, r->k, r->pad);
    add_offsets(&bwd_weight, r);
    add_stack(&bwd_weight, "w", IN, r->w, r);
    add_stack(&bwd_weight, "w.grad", out, F32, r);
    check_sum_op(&bwd_weight, r->ragged ? "ragged_bwd_weight" : "grouped_bwd_weight", ((double)r->rows + 1) * HD_U_F32);
}

static void test_experts(void **state)
{
    (void)state;
    for (int i = 0; i < n_expert_rows; i++) {
        expert_row r = expert_rows[i];
        check_experts(&r);
        r.ragged = true;
        check_experts(&r);
    }
    for (int64_t i = 0; i < hd_test_count(6, 200); i++) {
        draw d = draw_begin("experts", i);
        expert_row r = {0, 1 + draw_length(&d, 300), 1 + draw_length(&d, 80), 1 + draw_below(&d, MAX_EXPERTS), draw_below(&d, 3), {0}, draw_act(&d),
                        draw_act(&d), draw_act(&d), (hd_accum)draw_below(&d, 2), draw_below(&d, 2) == 1};
        for (int64_t e = 0; e < r.experts; e++) { r.rows += r.counts[e] = (int32_t)draw_length(&d, 24); }
        r.rows += draw_below(&d, 5);
        check_experts(&r);
    }
    print_ratios();
}

/* ---- a row alone has the bits it has among others -------------------------------------------------------------------------- */

typedef struct bits { const hd_exec *ex; hd_weight *w; int64_t k, m; bool backward; } bits;

static void *filled(const char *name, hd_dtype dtype, int64_t n)
{
    void *memory = calloc((size_t)n + 1, hd_dtype_bytes(dtype));
    assert_non_null(memory);
    if (dtype == BF16) {
        hd_gen_normal_bf16(name, 1.0, memory, n);
    } else {
        hd_gen_normal_f32(name, 1.0, memory, n);
    }
    return memory;
}

static hd_tensor matrix_at(void *memory, hd_dtype dtype, int64_t n, int64_t m)
{
    hd_tensor t = f64_tensor(memory, HD_SHAPE(n, m));
    t.dtype = dtype;
    return t;
}

/* y rows [begin, begin + n) of a product by itself. */
static void product(hd_exec *ex, const hd_weight *w, const hd_tensor *x, int64_t begin, int64_t n, bool backward, hd_tensor *y)
{
    hd_err err;
    hd_tensor part = hd_tensor_slice(x, 0, begin, n), out = hd_tensor_slice(y, 0, 0, n);
    assert_ok(backward ? hd_linear_bwd_input(ex, &part, w, HD_SET, &out, &err) : hd_linear_fwd(ex, &part, w, HD_SET, &out, &err));
}

static void check_row_bits(hd_exec *ex, hd_dtype x_dtype, hd_dtype w_dtype, int64_t k, int64_t m, hd_layout layout, bool backward)
{
    enum { MANY = 1000 };
    int64_t in = backward ? m : k, out = backward ? k : m;
    void *x = filled("x", x_dtype, MANY * in), *wv = filled("w", w_dtype, k * m);
    void *all = calloc((size_t)(MANY * out + 1), 4), *few = calloc((size_t)(MANY * out + 1), 4);
    hd_weight w = {.value = layout == OI ? matrix_at(wv, w_dtype, m, k) : matrix_at(wv, w_dtype, k, m), .layout = layout};
    hd_tensor tx = matrix_at(x, x_dtype, MANY, in), ty = matrix_at(all, F32, MANY, out), tf = matrix_at(few, F32, MANY, out);
    product(ex, &w, &tx, 0, MANY, backward, &ty);
    const int64_t counts[] = {1, 2, 5, 7, 13, 16, 17, 33, 100, 999};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int64_t begin = (int64_t)(hd_rng_below(hd_test_rng("begin"), (uint64_t)(MANY - counts[i] + 1), i));
        char what[96];
        (void)snprintf(what, sizeof what, "%s rows %" PRId64 "+%" PRId64 " K=%" PRId64 " M=%" PRId64 "%s", ex->ops->name, begin,
                       counts[i], k, m, backward ? " dx" : "");
        product(ex, &w, &tx, begin, counts[i], backward, &tf);
        hd_assert_same_bits(what, few, (float *)all + begin * out, 4, counts[i] * out);
    }
    free(x), free(wv), free(all), free(few);
}

static void test_row_bits(void **state)
{
    (void)state;
    hd_exec ex;
    for (int isa = 0; next_cpu(&isa, 2, &ex);) {
        for (int backward = 0; backward < 2; backward++) {
            check_row_bits(&ex, F32, F32, 300, 70, OI, backward);
            check_row_bits(&ex, BF16, BF16, 515, 33, OI, backward);
            check_row_bits(&ex, F32, BF16, 64, 129, IO, backward);
        }
    }
}

/* Rows of experts: as a plain product with the expert's matrix (ragged), and the same whoever the neighbours are. */
static void test_expert_row_bits(void **state)
{
    (void)state;
    enum { R = 150, K = 270, M = 35, E = 4 };
    static const int32_t splits[3][E + 1] = {{0, 40, 40, 120, R}, {0, 1, 2, 3, 4}, {0, 0, R, R, R}};
    float *x = filled("x", F32, R * K), *w = filled("w", F32, E * M * K), *y = calloc(R * M, 4), *alone = calloc(R * M, 4);
    hd_err err;
    hd_exec ex;
    for (int isa = 0; next_cpu(&isa, 2, &ex);) {
        for (int s = 0; s < 6; s++) {
            int32_t offsets[E + 1];
            memcpy(offsets, splits[s % 3], sizeof offsets);
            hd_tensor tx = matrix_at(x, F32, R, K), ty = matrix_at(y, F32, R, M), to = i32_tensor(offsets, HD_SHAPE(E + 1));
            hd_weight stack = {.value = f64_tensor((double *)(void *)w, HD_SHAPE(E, M, K))};
            stack.value.dtype = F32;
            assert_ok(s < 3 ? hd_grouped_linear_fwd(&ex, &tx, &to, &stack, HD_SET, &ty, &err)
                            : hd_ragged_linear_fwd(&ex, &tx, &to, &stack, HD_SET, &ty, &err));
            for (int e = 0; e < E; e++) {
                hd_weight one = {.value = hd_tensor_index(&stack.value, e)};
                hd_tensor ta = matrix_at(alone, F32, R, M);
                product(&ex, &one, &tx, offsets[e], offsets[e + 1] - offsets[e], false, &ta);
                hd_assert_same_bits(s < 3 ? "grouped row" : "ragged row", y + offsets[e] * M, alone, 4,
                                    (int64_t)(offsets[e + 1] - offsets[e]) * M);
            }
        }
    }
    free(x), free(w), free(y), free(alone);
}

/* ---- sums by lanes ------------------------------------------------------------------------------------------------------------ */

static float value_at(const void *values, hd_dtype dtype, int64_t k)
{
    return dtype == BF16 ? hd_bf16_to_f32(((const uint16_t *)values)[k]) : ((const float *)values)[k];
}

/* The contract of ops.h, word for word. */
static float lanes_product(const void *x, hd_dtype x_dtype, const void *w, hd_dtype w_dtype, int64_t k)
{
    float lane[16] = {0};
    for (int64_t i = 0; i < k; i++) { lane[i % 32 / 2] = fmaf(value_at(x, x_dtype, i), value_at(w, w_dtype, i), lane[i % 32 / 2]); }
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) { lane[l] += lane[l + half]; }
    }
    return lane[0];
}

typedef struct lanes_case { int64_t n, k, m, pad; hd_dtype x, w; hd_accum accum; } lanes_case;

/* y and what it should be: rows [begin, begin + n) of x, outputs by w. */
static void expect_lanes(const hd_tensor *x, int64_t begin, int64_t n, const hd_tensor *w, hd_accum accum, hd_tensor *y)
{
    for (int64_t i = begin; i < begin + n; i++) {
        for (int64_t m = 0; m < w->shape[0]; m++) {
            const char *xr = (const char *)x->data + i * x->stride[0] * (x->dtype == BF16 ? 2 : 4);
            const char *wr = (const char *)w->data + m * w->stride[0] * (w->dtype == BF16 ? 2 : 4);
            float *to = (float *)y->data + i * y->stride[0] + m, sum = lanes_product(xr, x->dtype, wr, w->dtype, x->shape[1]);
            *to = accum == HD_ADD ? *to + sum : sum;
        }
    }
}

static hd_tensor padded_matrix(void *memory, hd_dtype dtype, int64_t n, int64_t m, int64_t pad)
{
    hd_tensor t = matrix_at(memory, dtype, n, m);
    t.stride[0] = m + pad;
    return t;
}

static void check_lanes(hd_exec *ex, const lanes_case *c)
{
    hd_err err;
    void *x = filled("x", c->x, c->n * (c->k + c->pad)), *wv = filled("w", c->w, c->m * (c->k + c->pad));
    float *got = filled("y", F32, c->n * c->m), *want = filled("y", F32, c->n * c->m);
    hd_tensor tx = padded_matrix(x, c->x, c->n, c->k, c->pad), ty = matrix_at(got, F32, c->n, c->m), te = matrix_at(want, F32, c->n, c->m);
    hd_weight w = {.value = padded_matrix(wv, c->w, c->m, c->k, c->pad)};
    char what[128];
    (void)snprintf(what, sizeof what, "%s by lanes N=%" PRId64 " K=%" PRId64 " M=%" PRId64 " pad=%" PRId64 " %s", ex->ops->name, c->n, c->k, c->m,
                   c->pad, hd_dtype_name(c->w));
    expect_lanes(&tx, 0, c->n, &w.value, c->accum, &te);
    assert_ok(hd_linear_fwd(ex, &tx, &w, c->accum, &ty, &err));
    hd_assert_same_bits(what, got, want, 4, c->n * c->m);
    free(x), free(wv), free(got), free(want);
}

/* Machines without fused multiply-add round the products: the contract is not for them. */
static bool next_fused(int *isa, hd_exec *ex)
{
    while (next_cpu(isa, 2, ex)) {
        if (strstr(ex->ops->name, "base") == NULL) {
            ex->by_lanes = true;
            return true;
        }
    }
    return false;
}

static void test_lanes(void **state)
{
    (void)state;
    static const lanes_case cases[] = {
        {1, 2048, 1408, 0, F32, BF16, HD_SET}, {2, 2048, 64, 0, F32, BF16, HD_SET},  {3, 96, 9, 3, BF16, BF16, HD_ADD}, {4, 33, 15, 1, F32, BF16, HD_SET},
        {5, 512, 128, 0, F32, F32, HD_SET},    {7, 31, 7, 0, F32, F32, HD_ADD},      {17, 100, 8, 5, F32, BF16, HD_SET}, {40, 64, 24, 0, BF16, F32, HD_SET},
        {1, 1, 1, 0, F32, BF16, HD_SET},       {1, 0, 3, 0, F32, BF16, HD_SET},      {2, 1408, 700, 0, F32, F32, HD_ADD},
    };
    hd_exec ex;
    for (int isa = 0; next_fused(&isa, &ex);) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { check_lanes(&ex, &cases[i]); }
    }
    for (int isa = 0; next_cpu(&isa, 2, &ex);) { /* base too */
        ex.by_lanes = true;
        check_row_bits(&ex, F32, BF16, 130, 70, OI, false);
        check_row_bits(&ex, F32, F32, 300, 33, OI, false);
    }
}

/* A list of experts, a plain product of the same rows and one of packed integers: each as alone, 1 to 3 threads. */
static void test_lanes_list(void **state)
{
    (void)state;
    enum { R = 21, K = 192, M = 40, E = 3 };
    int32_t offsets[E + 1] = {0, 5, 5, 19};
    hd_err err;
    hd_exec ex;
    float *x = filled("x", F32, R * K), *got = calloc(3 * R * M, 4), *want = calloc(3 * R * M, 4);
    void *stack = filled("w", BF16, E * M * K), *plain = filled("p", F32, M * K), *blocks = calloc(48 * K, 1);
    uint16_t *scales = calloc(3 * K / 64 * 16, 2);
    for (int i = 0; i < 48 * K; i++) { ((int8_t *)blocks)[i] = (int8_t)(i * 37 % 255 - 127); }
    for (int i = 0; i < 3 * K / 64 * 16; i++) { scales[i] = (uint16_t)(0x3C00 + i); }
    hd_tensor tx = matrix_at(x, F32, R, K), to = i32_tensor(offsets, HD_SHAPE(E + 1)), y[3];
    hd_weight experts = {.value = f64_tensor(stack, HD_SHAPE(E, M, K))}, matrix = {.value = matrix_at(plain, F32, M, K)};
    hd_weight packed = hd_weight_shape(HD_DTYPE_I8, 0, M, K);
    experts.value.dtype = BF16;
    packed.value.data = blocks;
    packed.scales.data = scales;
    packed.round_inputs = true;
    for (int isa = 0; next_fused(&isa, &ex);) {
        hd_product list[3] = {{&tx, &to, &experts, HD_SET, &y[0]}, {&tx, NULL, &packed, HD_SET, &y[2]}, {&tx, NULL, &matrix, HD_ADD, &y[1]}};
        for (int i = 0; i < 3; i++) { y[i] = matrix_at(want + i * R * M, F32, R, M); }
        memset(want, 0, 3 * R * M * sizeof *want);
        for (int e = 0; e < E; e++) {
            hd_tensor one = hd_tensor_index(&experts.value, e);
            expect_lanes(&tx, offsets[e], offsets[e + 1] - offsets[e], &one, HD_SET, &y[0]);
        }
        expect_lanes(&tx, 0, R, &matrix.value, HD_ADD, &y[1]);
        assert_ok(hd_linear_fwd(&ex, &tx, &packed, HD_SET, &y[2], &err));
        for (int i = 0; i < 3; i++) { y[i] = matrix_at(got + i * R * M, F32, R, M); }
        for (ex.n_threads = 1; ex.n_threads <= 3; ex.n_threads++) {
            memset(got, 0, 3 * R * M * sizeof *got);
            assert_ok(hd_products_fwd(&ex, list, 3, &err));
            hd_assert_same_bits("a mixed list", got, want, 4, 3 * R * M);
        }
        memset(got, 0, R * M * sizeof *got);
        assert_ok(hd_ragged_linear_fwd(&ex, &tx, &to, &experts, HD_SET, &y[0], &err));
        hd_assert_same_bits("ragged by lanes", got, want, 4, R * M);
    }
    free(x), free(got), free(want), free(stack), free(plain), free(blocks), free(scales);
}

/* ---- gradients --------------------------------------------------------------------------------------------------------------- */

enum { N = 4, K = 3, M = 5, E = 3, R = 6 };

typedef struct fd { double x[R * K], w[E * M * K], y[R * M], c[R * M]; hd_layout layout; int32_t offsets[E + 1]; } fd;

static hd_weight plain_weight(fd *f)
{
    return (hd_weight){.value = f->layout == OI ? f64_tensor(f->w, HD_SHAPE(M, K)) : f64_tensor(f->w, HD_SHAPE(K, M)),
                       .layout = f->layout};
}

static double plain_loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(f->x, HD_SHAPE(N, K)), y = f64_tensor(f->y, HD_SHAPE(N, M));
    hd_weight w = plain_weight(f);
    assert_ok(hd_linear_fwd(&ex, &x, &w, HD_SET, &y, &err));
    return dot(f->y, f->c, N * M);
}

static void test_plain_gradient(void **state)
{
    (void)state;
    fd f;
    double dx[N * K], dw[M * K];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("x", 1.0, f.x, N * K);
    hd_gen_normal_f64("w", 1.0, f.w, M * K);
    hd_gen_normal_f64("c", 1.0, f.c, N * M);
    for (int layout = 0; layout < 2; layout++) {
        f.layout = (hd_layout)layout;
        hd_tensor dy = f64_tensor(f.c, HD_SHAPE(N, M)), x = f64_tensor(f.x, HD_SHAPE(N, K)), tdx = f64_tensor(dx, HD_SHAPE(N, K));
        hd_weight w = plain_weight(&f);
        w.grad = w.value;
        w.grad.data = dw;
        assert_ok(hd_linear_bwd_input(&ex, &dy, &w, HD_SET, &tdx, &err));
        assert_ok(hd_linear_bwd_weight(&ex, &dy, &x, &w, &err));
        fd_check("linear dx", plain_loss, &f, f.x, dx, N * K);
        fd_check("linear dw", plain_loss, &f, f.w, dw, M * K);
    }
}

static double expert_loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(f->x, HD_SHAPE(R, K)), y = f64_tensor(f->y, HD_SHAPE(R, M)), to = i32_tensor(f->offsets, HD_SHAPE(E + 1));
    hd_weight w = {.value = f64_tensor(f->w, HD_SHAPE(E, M, K))};
    assert_ok(hd_grouped_linear_fwd(&ex, &x, &to, &w, HD_SET, &y, &err));
    return dot(f->y, f->c, R * M);
}

static void test_expert_gradient(void **state)
{
    (void)state;
    fd f = {.offsets = {0, 2, 2, R}};
    double dx[R * K], dw[E * M * K];
    hd_err err;
    hd_exec ex = ref_exec();
    hd_gen_normal_f64("x", 1.0, f.x, R * K);
    hd_gen_normal_f64("w", 1.0, f.w, E * M * K);
    hd_gen_normal_f64("c", 1.0, f.c, R * M);
    hd_tensor dy = f64_tensor(f.c, HD_SHAPE(R, M)), x = f64_tensor(f.x, HD_SHAPE(R, K)), tdx = f64_tensor(dx, HD_SHAPE(R, K));
    hd_tensor to = i32_tensor(f.offsets, HD_SHAPE(E + 1));
    hd_weight w = {.value = f64_tensor(f.w, HD_SHAPE(E, M, K)), .grad = f64_tensor(dw, HD_SHAPE(E, M, K))};
    assert_ok(hd_grouped_linear_bwd_input(&ex, &dy, &to, &w, HD_SET, &tdx, &err));
    assert_ok(hd_grouped_linear_bwd_weight(&ex, &dy, &x, &to, &w, &err));
    fd_check("grouped dx", expert_loss, &f, f.x, dx, R * K);
    fd_check("grouped dw", expert_loss, &f, f.w, dw, E * M * K);
    w.grad_accum = HD_SET;
    memset(dw, 0xFF, sizeof dw);
    assert_ok(hd_ragged_linear_bwd_input(&ex, &dy, &to, &w, HD_SET, &tdx, &err));
    assert_ok(hd_ragged_linear_bwd_weight(&ex, &dy, &x, &to, &w, &err));
    fd_check("ragged dx", expert_loss, &f, f.x, dx, R * K);
    fd_check("ragged dw", expert_loss, &f, f.w, dw, E * M * K);
}

/* Words that only these ops say. */
static void test_refusals(void **state)
{
    (void)state;
    double memory[64] = {0};
    int32_t offsets[3] = {0, 1, 2};
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(memory, HD_SHAPE(2, 2)), y = f64_tensor(memory + 4, HD_SHAPE(2, 2)), to = i32_tensor(offsets, HD_SHAPE(3));
    hd_weight frozen = {.value = f64_tensor(memory + 8, HD_SHAPE(2, 2))};
    assert_fails(hd_linear_bwd_weight(&ex, &y, &x, &frozen, &err), HD_E_INVALID, "frozen");
    hd_weight stack = {.value = f64_tensor(memory + 8, HD_SHAPE(2, 2, 2)), .layout = IO};
    assert_fails(hd_grouped_linear_fwd(&ex, &x, &to, &stack, HD_SET, &y, &err), HD_E_INVALID, "[out, in]");
    assert_fails(hd_linear_fwd(&ex, &x, NULL, HD_SET, &y, &err), HD_E_INVALID, "w is missing");
    assert_fails(hd_linear_fwd(&ex, NULL, &frozen, HD_SET, &y, &err), HD_E_INVALID, "x is missing");
    y.stride[1] = 2;
    assert_fails(hd_linear_fwd(&ex, &x, &frozen, HD_SET, &y, &err), HD_E_INVALID, "stride 2");
    y.stride[1] = 1;
    y.stride[0] = 1;
    assert_fails(hd_linear_fwd(&ex, &x, &frozen, HD_SET, &y, &err), HD_E_INVALID, "overlap");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),          cmocka_unit_test(test_experts),       cmocka_unit_test(test_row_bits),
        cmocka_unit_test(test_expert_row_bits), cmocka_unit_test(test_lanes),         cmocka_unit_test(test_lanes_list),
        cmocka_unit_test(test_plain_gradient),  cmocka_unit_test(test_expert_gradient),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("ops/linear", tests, NULL, NULL);
}
