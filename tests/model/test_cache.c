/* Passes against latent caches say what the training forward says: whole prompts, chunks, single tokens, batches. */
#include "model/fixture.h"

#include "model/cache.h"

enum { CACHE_BYTES = 64 << 20, STEP_BYTES = 256 << 20 };

/* A model with its reference logits, and memory for caches and steps of their own. */
typedef struct bench {
    rig g;
    hd_arena caches, step;
    float *want;     /* (T, V) of the training forward */
    double largest;  /* of |want| */
    int64_t n, vocab;
    const int32_t *tokens;
} bench;

static hd_dims v2_dims(void)
{
    hd_dims d = tiny_dims();
    d.family = HD_FAMILY_V2;
    d.q_lora_rank = 0;
    d.router_bias = false;
    d.router = (hd_router_spec){.score_func = HD_SCORE_SOFTMAX, .group_rule = HD_GROUP_NONE, .n_group = 1, .topk_group = 1, .top_k = 3,
                                .routed_scaling = 1.0};
    return d;
}

/* Without experts: in bf16 a tie between two of them may fall either way. */
static hd_dims dense_dims(void)
{
    hd_dims d = tiny_dims();
    d.n_dense_layer = d.n_layer;
    return d;
}

static void open_bench(bench *b, const hd_dims *dims, const hd_model_options *options, const rows *x)
{
    hd_model_options o = *options;
    o.training = false;
    rig_open_on(&b->g, dims, &o, x, 2, false);
    rig_roughen(&b->g);
    rig_logits(&b->g);
    b->n = x->r.n_seq * x->r.seq_len;
    b->vocab = dims->vocab_size;
    b->tokens = x->inputs;
    b->want = floats_of(&b->g, &b->g.logits);
    b->largest = 0.0;
    for (int64_t i = 0; i < b->n * b->vocab; i++) { b->largest = fmax(b->largest, fabs((double)b->want[i])); }
    hd_arena_close(&b->g.memory[2]); /* scratch: chunks may want more than the leaf did */
    OK(hd_arena_open(&b->g.memory[2], "scratch", 64 << 20, err));
    OK(hd_arena_open(&b->caches, "caches", CACHE_BYTES, err));
    OK(hd_arena_open(&b->step, "step", STEP_BYTES, err));
}

static void close_bench(bench *b)
{
    free(b->want);
    hd_arena_close(&b->caches);
    hd_arena_close(&b->step);
    rig_close(&b->g);
}

/* Extends the sequences and reads the logits of all new tokens, (total, V). */
static void extend(bench *b, const hd_extension *list, int64_t n, float *out)
{
    hd_tensor hidden, logits;
    int64_t total = 0;
    size_t mark = hd_arena_mark(&b->step);
    for (int64_t s = 0; s < n; s++) { total += list[s].n; }
    OK(hd_model_extend(&b->g.model, &b->g.ex, &b->step, list, n, &hidden, err));
    OK(hd_tensor_new_2d(&b->step, HD_DTYPE_F32, total, b->vocab, &logits, err));
    OK(hd_model_project(&b->g.model, &b->g.ex, &b->step, &hidden, 0, &logits, err));
    read_tensor(&b->g, &logits, out);
    hd_arena_release(&b->step, mark);
}

static void assert_near(const bench *b, int64_t first, int64_t n, const float *got, double limit, const char *what)
{
    double worst = 0.0;
    for (int64_t i = 0; i < n * b->vocab; i++) {
        double gap = fabs((double)got[i] - (double)b->want[first * b->vocab + i]);
        worst = gap <= worst ? worst : gap; /* NaN becomes the worst */
    }
    if (!(worst <= limit * b->largest)) {
        fail_msg("%s, tokens from %lld: logits differ by %g, the largest is %g", what, (long long)first, worst, b->largest);
    }
}

/* The sequence in chunks of `chunk` tokens, then the rest. */
static void in_chunks(bench *b, int64_t chunk, double limit, const char *what)
{
    hd_cache cache;
    size_t mark = hd_arena_mark(&b->caches);
    float *got = malloc((size_t)(chunk * b->vocab) * sizeof *got);
    OK(hd_cache_new(&b->g.model, &b->caches, b->n, &cache, err));
    for (int64_t at = 0; at < b->n; at += chunk) {
        int64_t n = b->n - at < chunk ? b->n - at : chunk;
        hd_extension e = {&cache, b->tokens + at, n};
        extend(b, &e, 1, got);
        assert_near(b, at, n, got, limit, what);
    }
    assert_true(cache.length == b->n);
    free(got);
    hd_arena_release(&b->caches, mark);
}

static void chunks_say_what_training_says(void **state)
{
    (void)state;
    const struct {
        const char *name;
        hd_dims dims;
        hd_dtype dtype;
        double limit;
    } models[] = {{"V3", tiny_dims(), HD_DTYPE_F32, 1e-5},
                  {"V2", v2_dims(), HD_DTYPE_F32, 1e-5},
                  {"dense bf16", dense_dims(), HD_DTYPE_BF16, 0.05}}; /* other values are rounded, by 2^-9 each */
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        hd_model_options o = f32_options();
        o.dtype = models[m].dtype;
        rows x = rows_random("cache", 1, 150, models[m].dims.vocab_size);
        bench b;
        open_bench(&b, &models[m].dims, &o, &x);
        static const int64_t chunks[] = {150, 149, 64, 37, 8, 1};
        for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) { in_chunks(&b, chunks[i], models[m].limit, models[m].name); }
        close_bench(&b);
        rows_free(&x);
    }
}

/* ---- recorded routing, forced --------------------------------------------------------------------------------------------------------
 * Experts are chosen by comparing scores that rounding moves, and a choice that flips moves everything behind it.  So the choices of
 * the training forward are recorded, per MoE layer and position, and forced upon the passes against caches: what is left is rounding
 * alone.  Where such a pass would have chosen otherwise, no score may lie further from the recorded one than a gap of 1e-5 allows. */

enum { MAX_MOE = 2, FAR = 8192, FORCED_SEQUENCES = 3 };

typedef struct recording {
    __typeof__(hd_router_fwd) *router;   /* the backend's */
    bool forcing;
    int n_layer, layer;                  /* MoE layers of the model; the one that routes next */
    int64_t n_expert, top_k, n_flips, n_choices;
    double worst_flip;
    const int64_t *positions;            /* of the rows of a pass */
    float *scores[MAX_MOE];              /* (FAR, E) */
    int32_t *ids[MAX_MOE];               /* (FAR, k) */
} recording;

static recording *taped; /* what the router below records into and plays from */

static bool same_choice(const int32_t *a, const int32_t *b, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        bool found = false;
        for (int64_t j = 0; j < k; j++) { found = found || a[i] == b[j]; }
        if (!found) { return false; }
    }
    return true;
}

/* The weights of recorded experts from the scores of now: ops.h, router. */
static void weigh(const hd_router_spec *spec, const float *scores, const int32_t *ids, float *weights)
{
    double sum = 1e-20;
    for (int64_t j = 0; j < spec->top_k; j++) { sum += (double)scores[ids[j]]; }
    for (int64_t j = 0; j < spec->top_k; j++) {
        double w = (double)scores[ids[j]] / (spec->normalize ? sum : 1.0);
        weights[j] = (float)(w * (spec->normalize && !spec->scale_normalized ? 1.0 : spec->routed_scaling));
    }
}

static void force_row(const hd_router_spec *spec, int64_t position, const float *scores, int32_t *ids, float *weights)
{
    const float *recorded = taped->scores[taped->layer] + position * taped->n_expert;
    const int32_t *choice = taped->ids[taped->layer] + position * taped->top_k;
    double moved = 0.0;
    taped->n_choices++;
    if (!same_choice(ids, choice, taped->top_k)) {
        for (int64_t e = 0; e < taped->n_expert; e++) { moved = fmax(moved, fabs((double)scores[e] - (double)recorded[e])); }
        taped->n_flips++;
        taped->worst_flip = fmax(taped->worst_flip, moved);
    }
    memcpy(ids, choice, (size_t)taped->top_k * sizeof *ids);
    weigh(spec, scores, ids, weights);
}

static hd_status taped_router(hd_exec *ex, const hd_router_spec *spec, const hd_tensor *logits, const hd_tensor *bias, hd_tensor *scores,
                              hd_tensor *ids, hd_tensor *weights, hd_err *err)
{
    hd_status st = taped->router(ex, spec, logits, bias, scores, ids, weights, err);
    int64_t n = ids->shape[0], e = taped->n_expert, k = taped->top_k;
    float *s = scores->data, *w = weights->data;
    int32_t *i = ids->data;
    if (st != HD_OK) { return st; }
    if (!taped->forcing) {
        memcpy(taped->scores[taped->layer], s, (size_t)(n * e) * sizeof *s);
        memcpy(taped->ids[taped->layer], i, (size_t)(n * k) * sizeof *i);
    }
    for (int64_t row = 0; row < n && taped->forcing; row++) { force_row(spec, taped->positions[row], s + row * e, i + row * k, w + row * k); }
    taped->layer = (taped->layer + 1) % taped->n_layer;
    return HD_OK;
}

static void start_tape(recording *r, bench *b, hd_ops *ops)
{
    const hd_dims *d = &b->g.model.dims;
    *r = (recording){.router = b->g.ex.ops->router_fwd, .n_layer = (int)(d->n_layer - d->n_dense_layer), .n_expert = d->n_expert,
                     .top_k = d->router.top_k};
    assert_true(r->n_layer > 0 && r->n_layer <= MAX_MOE);
    for (int l = 0; l < r->n_layer; l++) {
        r->scores[l] = calloc((size_t)(FAR * r->n_expert), sizeof(float));
        r->ids[l] = calloc((size_t)(FAR * r->top_k), sizeof(int32_t));
    }
    *ops = *b->g.ex.ops;
    ops->router_fwd = taped_router;
    b->g.ex.ops = ops;
    taped = r;
    rig_logits(&b->g); /* the logits of before, and the tape */
    r->forcing = true;
}

static void end_tape(recording *r, const char *what)
{
    print_message("  %s: %lld of %lld choices would have been others, scores off by %.2g there\n", what, (long long)r->n_flips,
                  (long long)r->n_choices, r->worst_flip);
    assert_true(r->worst_flip <= 0.25e-5); /* a group's rank is the sum of two scores on either side */
    for (int l = 0; l < r->n_layer; l++) {
        free(r->scores[l]);
        free(r->ids[l]);
    }
    taped = NULL;
}

/* The next `n[s]` tokens of each sequence; all hold the same text, at different lengths. */
static void forced_step(bench *b, hd_cache *caches, const int64_t *n, int n_sequence, const char *what)
{
    static int64_t positions[FAR];
    hd_extension list[FORCED_SEQUENCES];
    int64_t total = 0;
    for (int s = 0; s < n_sequence; s++) {
        list[s] = (hd_extension){&caches[s], b->tokens + caches[s].length, n[s]};
        for (int64_t i = 0; i < n[s]; i++) { positions[total++] = caches[s].length + i; }
    }
    taped->positions = positions;
    float *got = malloc((size_t)(total * b->vocab) * sizeof *got), *at = got;
    extend(b, list, n_sequence, got);
    for (int s = 0; s < n_sequence; at += n[s] * b->vocab, s++) { assert_near(b, caches[s].length - n[s], n[s], at, 1e-5, what); }
    free(got);
}

static void forced_to(bench *b, hd_cache *cache, int64_t end, int64_t chunk, const char *what)
{
    while (cache->length < end) {
        int64_t n = end - cache->length < chunk ? end - cache->length : chunk;
        forced_step(b, cache, &n, 1, what);
    }
}

/* Prompts whole and in chunks, single tokens, a few at once, and sequences of different lengths together. */
static void forced_ways(bench *b)
{
    hd_cache caches[FORCED_SEQUENCES];
    size_t mark = hd_arena_mark(&b->caches);
    for (int s = 0; s < FORCED_SEQUENCES; s++) { OK(hd_cache_new(&b->g.model, &b->caches, b->n, &caches[s], err)); }
    forced_to(b, &caches[0], 70, 1, "single tokens from the first");
    forced_to(b, &caches[0], 260, 37, "chunks of 37");
    forced_to(b, &caches[0], b->n - 40, 512, "chunks of 512");
    forced_to(b, &caches[0], b->n - 30, 1, "single tokens far out");
    forced_to(b, &caches[1], b->n - 29, b->n, "a whole prompt");
    forced_to(b, &caches[2], 1020, 250, "chunks of 250");
    for (int i = 0; i < 6; i++) {
        static const int64_t one[FORCED_SEQUENCES] = {1, 1, 1}, few[FORCED_SEQUENCES] = {1, 4, 2};
        forced_step(b, caches, i % 2 == 0 ? one : few, FORCED_SEQUENCES, "a batch");
    }
    forced_to(b, &caches[0], b->n, 5, "five at once, to the end");
    caches[0].length = 100;
    forced_to(b, &caches[0], 1100, 1000, "a thousand behind a rewind");
    hd_arena_release(&b->caches, mark);
}

static void recorded_routing_forced(void **state)
{
    (void)state;
    const struct {
        const char *name;
        hd_dims dims;
    } models[] = {{"V3", tiny_dims()}, {"V2", v2_dims()}};
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        hd_dims d = models[m].dims;
        hd_model_options o = f32_options();
        hd_ops ops;
        recording tape;
        bench b;
        d.n_layer = 2;
        d.max_position_embeddings = d.rope.n_positions = o.max_positions = FAR;
        rows x = rows_random(models[m].name, 1, FAR, d.vocab_size);
        open_bench(&b, &d, &o, &x);
        start_tape(&tape, &b, &ops);
        forced_ways(&b);
        end_tape(&tape, models[m].name);
        close_bench(&b);
        rows_free(&x);
    }
}

/* Three sequences of different pasts step together: each gets what it gets alone, bit for bit. */
static void batches_do_not_mix(void **state)
{
    (void)state;
    enum { S = 3, V = 61 };
    static const int64_t pasts[S] = {5, 33, 80}, news[S] = {1, 4, 2};
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    rows x = rows_random("batch", 1, 100, d.vocab_size);
    bench b;
    hd_cache alone[S], together[S];
    hd_extension list[S];
    float *one = malloc(100 * V * sizeof *one), *all = malloc(100 * V * sizeof *all);
    open_bench(&b, &d, &o, &x);
    int64_t at = 0;
    for (int s = 0; s < S; s++) {
        OK(hd_cache_new(&b.g.model, &b.caches, 100, &alone[s], err));
        OK(hd_cache_new(&b.g.model, &b.caches, 90, &together[s], err));
        hd_extension past = {&alone[s], b.tokens + s, pasts[s]}, same = {&together[s], b.tokens + s, pasts[s]};
        extend(&b, &past, 1, one);
        extend(&b, &same, 1, one);
        list[s] = (hd_extension){&together[s], b.tokens + s + pasts[s], news[s]};
    }
    extend(&b, list, S, all);
    for (int s = 0; s < S; s++) {
        hd_extension e = {&alone[s], list[s].tokens, news[s]};
        extend(&b, &e, 1, one);
        hd_assert_same_bits("batch", one, all + at * V, sizeof *one, news[s] * V);
        at += news[s];
    }
    /* back to an earlier length and on: the rows behind it are written again */
    alone[2].length = 40;
    hd_extension again = {&alone[2], b.tokens + 2 + 40, 40};
    extend(&b, &again, 1, one);
    hd_extension next = {&alone[2], list[2].tokens, news[2]};
    extend(&b, &next, 1, one);
    int64_t last = news[0] + news[1];
    double worst = 0.0;
    for (int64_t i = 0; i < news[2] * V; i++) { worst = fmax(worst, fabs((double)one[i] - (double)all[last * V + i])); }
    assert_true(worst <= 1e-5 * b.largest);
    free(one);
    free(all);
    close_bench(&b);
    rows_free(&x);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    hd_model_options o = f32_options();
    rows x = rows_random("misfits", 1, 20, d.vocab_size);
    bench b;
    hd_cache cache, long_cache;
    hd_tensor hidden;
    int32_t outside[1] = {61};
    float out[61 * 8];
    open_bench(&b, &d, &o, &x);
    OK(hd_cache_new(&b.g.model, &b.caches, 8, &cache, err));
    OK(hd_cache_new(&b.g.model, &b.caches, 641, &long_cache, err));
    hd_extension e = {&cache, b.tokens, 8}, more = {&cache, b.tokens, 1}, bad = {&cache, outside, 1}, none = {&cache, b.tokens, 0};
    hd_extension far = {&long_cache, b.tokens, 1};
    hd_err err = {0};
    assert_fails(hd_model_extend(&b.g.model, &b.g.ex, &b.step, &bad, 1, &hidden, &err), HD_E_INVALID, "61");
    assert_fails(hd_model_extend(&b.g.model, &b.g.ex, &b.step, &none, 1, &hidden, &err), HD_E_INVALID, "0 new tokens");
    assert_fails(hd_model_extend(&b.g.model, &b.g.ex, &b.step, &far, 1, &hidden, &err), HD_E_INVALID, "641 positions");
    assert_true(cache.length == 0);
    extend(&b, &e, 1, out);
    assert_fails(hd_model_extend(&b.g.model, &b.g.ex, &b.step, &more, 1, &hidden, &err), HD_E_INVALID, "no more than 8");
    assert_true(cache.length == 8);
    close_bench(&b);
    rows_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(chunks_say_what_training_says), cmocka_unit_test(recorded_routing_forced),
                                       cmocka_unit_test(batches_do_not_mix), cmocka_unit_test(what_does_not_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
