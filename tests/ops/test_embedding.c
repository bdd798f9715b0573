/* Embedding: rows gathered and their gradients summed per id. */
#include "ops/harness.h"

typedef struct row { int64_t n, vocab, d, pad; hd_dtype weight, act; hd_accum accum; int64_t distinct; } row;

#define F32 HD_DTYPE_F32
#define BF16 HD_DTYPE_BF16

static const row rows[] = {
    {0, 5, 8, 0, F32, F32, HD_SET, 5},       {1, 1, 1, 0, F32, F32, HD_SET, 1},      {7, 5, 3, 2, F32, BF16, HD_ADD, 5},
    {33, 17, 16, 0, BF16, F32, HD_SET, 17},  {65, 31, 17, 1, BF16, BF16, HD_ADD, 1}, {129, 64, 65, 3, F32, F32, HD_SET, 3},
    {9, 257, 2048, 0, BF16, BF16, HD_SET, 257}, {5, 3, 0, 0, F32, F32, HD_SET, 3},
};
static const int n_rows = sizeof rows / sizeof rows[0];

static void name_case(opcase *c, const char *op, const row *r)
{
    (void)snprintf(c->name, sizeof c->name, "%s N=%" PRId64 " V=%" PRId64 " D=%" PRId64 " pad=%" PRId64 " %s/%s %s", op, r->n,
                   r->vocab, r->d, r->pad, hd_dtype_name(r->weight), hd_dtype_name(r->act), r->accum == HD_ADD ? "add" : "set");
}

/* Ids below `distinct`, in some order. */
static void add_ids(opcase *c, const row *r)
{
    int32_t ids[256];
    hd_gen_below_i32(c->name, (int32_t)r->distinct, ids, r->n);
    set_ints(add_slot(c, "ids", IN, HD_DTYPE_I32, HD_SHAPE(r->n)), ids);
}

static hd_status run_fwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[1].t};
    return hd_embedding_fwd(ex, &c->s[0].t, &w, &c->s[2].t, err);
}

static void test_fwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_fwd};
        name_case(&c, "embedding_fwd", r);
        add_ids(&c, r);
        slot *w = normal(&c, add_slot(&c, "w", IN, r->weight, HD_SHAPE(r->vocab, r->d)), 1.0);
        w->pad = r->pad;
        w->free_axes = 1;
        add_slot(&c, "y", OUT, r->act, HD_SHAPE(r->n, r->d))->pad = r->pad;
        run_reference(&c);
        check_op(&c, "embedding_fwd");
    }
    print_ratios();
}

static hd_status run_bwd(hd_exec *ex, opcase *c, hd_err *err)
{
    hd_weight w = {.value = c->s[2].t, .grad = c->s[3].t, .grad_accum = c->accum};
    return hd_embedding_bwd(ex, &c->s[0].t, &c->s[1].t, &w, err);
}

static void test_bwd(void **state)
{
    (void)state;
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        opcase c = {.run = run_bwd, .accum = r->accum};
        name_case(&c, "embedding_bwd", r);
        add_ids(&c, r);
        normal(&c, add_slot(&c, "dy", IN, r->act, HD_SHAPE(r->n, r->d)), 1.0)->pad = r->pad;
        normal(&c, add_slot(&c, "w", IN, r->weight, HD_SHAPE(r->vocab, r->d)), 1.0)->pad = r->pad;
        slot *grad = add_slot(&c, "w.grad", r->accum == HD_ADD ? INOUT : OUT, F32, HD_SHAPE(r->vocab, r->d));
        if (r->accum == HD_ADD) { normal(&c, grad, 1.0); }
        check_sum_op(&c, "embedding_bwd", (double)r->n * HD_U_F32);
    }
    print_ratios();
}

/* ---- gradient ---------------------------------------------------------------------------------------------------------- */

enum { N = 6, V = 5, D = 3 };

typedef struct fd { int32_t ids[N]; double w[V * D], y[N * D], c[N * D]; } fd;

static double loss(void *ctx)
{
    fd *f = ctx;
    hd_err err;
    hd_exec ex = ref_exec();
    hd_tensor ids = i32_tensor(f->ids, HD_SHAPE(N)), y = f64_tensor(f->y, HD_SHAPE(N, D));
    hd_weight w = {.value = f64_tensor(f->w, HD_SHAPE(V, D))};
    assert_ok(hd_embedding_fwd(&ex, &ids, &w, &y, &err));
    return dot(f->y, f->c, N * D);
}

static void test_gradient(void **state)
{
    (void)state;
    fd f = {.ids = {4, 0, 4, 2, 4, 0}};
    double dw[V * D];
    hd_err err;
    hd_gen_normal_f64("w", 1.0, f.w, V * D);
    hd_gen_normal_f64("c", 1.0, f.c, N * D);
    hd_exec ex = ref_exec();
    hd_tensor ids = i32_tensor(f.ids, HD_SHAPE(N)), dy = f64_tensor(f.c, HD_SHAPE(N, D));
    hd_weight w = {.value = f64_tensor(f.w, HD_SHAPE(V, D)), .grad = f64_tensor(dw, HD_SHAPE(V, D))};
    assert_ok(hd_embedding_bwd(&ex, &ids, &dy, &w, &err));
    assert_int_equal(w.grad_accum, HD_ADD);
    fd_check("embedding dw", loss, &f, f.w, dw, V * D);
}

/* Ids out of range read nothing foreign: zeros, and no gradient. */
static void test_out_of_range(void **state)
{
    (void)state;
    hd_err err;
    hd_exec ex = ref_exec();
    for (int isa = 0, more = 1; more; more = next_cpu(&isa, 2, &ex)) {
        int32_t ids[3] = {-1, 1, 2};
        float w[4] = {1, 2, 3, 4}, y[6], dw[4] = {9, 9, 9, 9};
        hd_tensor tids = i32_tensor(ids, HD_SHAPE(3)), ty = f64_tensor(NULL, HD_SHAPE(3, 2)), tw = f64_tensor(NULL, HD_SHAPE(2, 2));
        ty.dtype = tw.dtype = F32;
        ty.data = y;
        tw.data = w;
        hd_weight weight = {.value = tw, .grad = tw};
        weight.grad.data = dw;
        assert_ok(hd_embedding_fwd(&ex, &tids, &weight, &ty, &err));
        hd_assert_same_bits("y", y, ((float[]){0, 0, 3, 4, 0, 0}), sizeof(float), 6);
        assert_ok(hd_embedding_bwd(&ex, &tids, &ty, &weight, &err));
        hd_assert_same_bits("dw", dw, ((float[]){0, 0, 3, 4}), sizeof(float), 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fwd), cmocka_unit_test(test_bwd), cmocka_unit_test(test_gradient),
        cmocka_unit_test(test_out_of_range),
    };
    return cmocka_run_group_tests_name("ops/embedding", tests, NULL, NULL);
}
