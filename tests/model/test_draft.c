/* The MTP module against its cache says what the training forward says: the loss of its drafts is the loss that training reports. */
#include "model/fixture.h"

#include "model/draft.h"

enum { V = 61, T = 60, STEP_BYTES = 64 << 20, CACHE_BYTES = 1 << 20 };

typedef struct bench {
    rig g;
    hd_arena caches, step;
    rows x;
    hd_cache main, module;
    hd_tensor hidden; /* (T, D) of the whole sequence */
} bench;

static void open_bench(bench *b, bool own_norm, int64_t n_mtp)
{
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    d.n_mtp = n_mtp;
    d.mtp_own_norm = own_norm;
    b->x = rows_random("drafts", 1, T, d.vocab_size);
    rig_open_on(&b->g, &d, &o, &b->x, 2, false);
    rig_roughen(&b->g);
    hd_arena_close(&b->g.memory[2]);
    OK(hd_arena_open(&b->g.memory[2], "scratch", 64 << 20, err));
    OK(hd_arena_open(&b->caches, "caches", CACHE_BYTES, err));
    OK(hd_arena_open(&b->step, "step", STEP_BYTES, err));
    OK(hd_cache_new(&b->g.model, &b->caches, T, &b->main, err));
    OK(hd_cache_new_mtp(&b->g.model, &b->caches, T, &b->module, err));
    hd_extension all = {&b->main, b->x.inputs, T};
    OK(hd_model_extend(&b->g.model, &b->g.ex, &b->step, &all, 1, &b->hidden, err));
}

static void close_bench(bench *b)
{
    hd_arena_close(&b->caches);
    hd_arena_close(&b->step);
    rig_close(&b->g);
    rows_free(&b->x);
}

/* Logits of the draft behind the positions up to `end`, whose first ones the module has read. */
static void draft(bench *b, hd_cache *module, int64_t end, float out[V])
{
    hd_tensor logits, hidden = hd_tensor_slice(&b->hidden, 0, module->length, end - module->length);
    size_t mark = hd_arena_mark(&b->step);
    hd_extension e = {module, b->x.inputs + module->length + 1, end - module->length};
    OK(hd_tensor_new_2d(&b->step, HD_DTYPE_F32, 1, V, &logits, err));
    OK(hd_model_draft(&b->g.model, &b->g.ex, &b->step, &e, 1, &hidden, &logits, err));
    read_tensor(&b->g, &logits, out);
    assert_true(module->length == end);
    hd_arena_release(&b->step, mark);
}

static double cross_entropy(const float *logits, int32_t target)
{
    double sum = 0.0;
    for (int64_t i = 0; i < V; i++) { sum += exp((double)logits[i]); }
    return log(sum) - (double)logits[target];
}

/* Position i drafts the token behind its next: what training asks of it, with the last two positions weighted 0. */
static void drafts_cost_what_training_says(void **state)
{
    (void)state;
    for (int own = 0; own < 2; own++) {
        bench b;
        float logits[V];
        double sum = 0.0;
        open_bench(&b, own == 1, 1);
        for (int64_t i = 0; i + 2 < T; i++) {
            draft(&b, &b.module, i + 1, logits);
            sum += cross_entropy(logits, b.x.inputs[i + 2]);
        }
        b.x.weights[T - 1] = 0.0f; /* its target lies behind the sequence */
        OK(hd_exec_upload(&b.g.ex, b.x.weights, &b.g.leaf.loss_weights, err));
        hd_arena_close(&b.g.memory[1]); /* a leaf of its own: the shifted weights are made of the weights */
        OK(hd_arena_open(&b.g.memory[1], "step", b.g.planned[1] + (1 << 20), err));
        OK(hd_leaf_upload(&b.g.model, &b.g.ex, &b.g.memory[1], &b.x.r, &b.g.leaf, err));
        rig_set_totals(&b.g, &b.x);
        rig_train(&b.g);
        double want = rig_metric(&b.g, HD_METRIC_MTP);
        assert_true(want > 100.0 && fabs(sum - want) <= 1e-5 * want);
        close_bench(&b);
    }
}

/* Rows that only fill the cache leave in it what rows with a draft leave; a draft does not depend on how many came at once, nor on other
 * sequences. */
static void ways_to_follow(void **state)
{
    (void)state;
    bench b;
    float one[V], many[V], both[2 * V];
    hd_cache other, third;
    open_bench(&b, true, 2); /* the second module is not used */
    OK(hd_cache_new_mtp(&b.g.model, &b.caches, T, &other, err));
    OK(hd_cache_new_mtp(&b.g.model, &b.caches, 30, &third, err));
    for (int64_t i = 0; i < 40; i++) { draft(&b, &b.module, i + 1, one); }
    hd_tensor first = hd_tensor_slice(&b.hidden, 0, 0, 33);
    hd_extension fill = {&other, b.x.inputs + 1, 33};
    OK(hd_model_follow(&b.g.model, &b.g.ex, &b.step, &fill, 1, &first, err));
    assert_true(other.length == 33);
    draft(&b, &other, 40, many);
    double worst = 0.0;
    for (int i = 0; i < V; i++) { worst = fmax(worst, fabs((double)one[i] - (double)many[i])); }
    assert_true(worst <= 2e-5);
    draft(&b, &b.module, 41, one);
    /* two sequences, of one and of three rows, at once: the bits of each alone */
    draft(&b, &third, 17, many);
    third.length = 14;
    other.length = 40;
    hd_tensor hidden, logits;
    OK(hd_tensor_new_2d(&b.step, HD_DTYPE_F32, 4, b.hidden.shape[1], &hidden, err));
    OK(hd_tensor_new_2d(&b.step, HD_DTYPE_F32, 2, V, &logits, err));
    hd_tensor from[2] = {hd_tensor_slice(&b.hidden, 0, 40, 1), hd_tensor_slice(&b.hidden, 0, 14, 3)};
    hd_tensor to[2] = {hd_tensor_slice(&hidden, 0, 0, 1), hd_tensor_slice(&hidden, 0, 1, 3)};
    for (int i = 0; i < 2; i++) { OK(hd_copy(&b.g.ex, &from[i], &to[i], err)); }
    OK(hd_cache_copy(&b.g.ex, &b.module, 40, &other, err));
    hd_extension list[2] = {{&other, b.x.inputs + 41, 1}, {&third, b.x.inputs + 15, 3}};
    OK(hd_model_draft(&b.g.model, &b.g.ex, &b.step, list, 2, &hidden, &logits, err));
    read_tensor(&b.g, &logits, both);
    hd_assert_same_bits("the first of two", both, one, sizeof *one, V);
    third.length = 14;
    draft(&b, &third, 17, many);
    hd_assert_same_bits("the second of two", both + V, many, sizeof *many, V);
    close_bench(&b);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    bench b;
    hd_cache small;
    hd_tensor logits;
    int32_t outside[1] = {V};
    open_bench(&b, true, 1);
    OK(hd_cache_new_mtp(&b.g.model, &b.caches, 4, &small, err));
    OK(hd_tensor_new_2d(&b.step, HD_DTYPE_F32, 1, V, &logits, err));
    hd_tensor five = hd_tensor_slice(&b.hidden, 0, 0, 5), one = hd_tensor_slice(&b.hidden, 0, 0, 1);
    hd_extension too_many = {&small, b.x.inputs, 5}, bad = {&small, outside, 1};
    hd_err err = {0};
    assert_fails(hd_model_draft(&b.g.model, &b.g.ex, &b.step, &too_many, 1, &five, &logits, &err), HD_E_INVALID, "no more than 4");
    assert_fails(hd_model_follow(&b.g.model, &b.g.ex, &b.step, &bad, 1, &one, &err), HD_E_INVALID, "61");
    assert_fails(hd_model_draft(&b.g.model, &b.g.ex, &b.step, &bad, 1, &one, &logits, &err), HD_E_INVALID, "61");
    assert_true(small.length == 0);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_cost_what_training_says), cmocka_unit_test(ways_to_follow),
                                       cmocka_unit_test(what_does_not_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
