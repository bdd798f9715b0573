/* Drafting with an MTP module: what a session gets is, bit for bit, what it gets without; the module is one that was trained here. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/engine.h"
#include "infer/sample.h"
#include "support/keys.h"
#include "support/test.h"

enum { VOCAB = 264, PROMPT = 12, ANSWER = 20, CAPACITY = PROMPT + ANSWER };
#ifdef HD_DEBUG
enum { N_PROMPT = 10 }; /* sanitizers are slow */
#else
enum { N_PROMPT = 200 };
#endif

static char folder[256]; /* of the trained model */

static hd_config *configure(const char *command, const char *keys)
{
    return hd_test_config(command, "log_config=false tokenizer_type=byte run_name=run %s", keys);
}

/* Sentences of a small grammar: some letters follow from those before, some do not. */
static void write_text(const char *path)
{
    static const char *const words[] = {"the cat ", "the dog ", "a bird ", "sees ", "hears ", "finds ", "a house. ", "the river. ", "nothing. "};
    hd_rng rng = hd_rng_make(3, HD_RNG_SAMPLE, "text");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (uint64_t i = 0; i < 6000; i++) { (void)fputs(words[3 * (i % 3) + hd_rng_below(rng, 3, i)], f); }
    assert_true(fclose(f) == 0);
}

static void quiet(void *context, hd_log_level level, const char *text) { (void)context, (void)level, (void)text; }

static int train(void **state)
{
    hd_err err;
    char text[256], keys[900];
    hd_run_hooks hooks = {0};
    assert_true(hd_temp_setup(state) == 0);
    (void)snprintf(text, sizeof text, "%s", hd_temp_path(*state, "text"));
    (void)snprintf(folder, sizeof folder, "%s", hd_temp_path(*state, "run"));
    write_text(text);
    (void)snprintf(keys, sizeof keys, "model_name=tiny-v3 dataset_path=%s base_output_directory=%s steps=100 checkpoint_period=100 "
                   "max_target_length=48 per_device_batch_size=8 learning_rate=0.01 warmup_steps_fraction=0.1 dtype=float32 mtp_num_layers=1 "
                   "mtp_use_shared_head_norm=true mtp_loss_scaling_factor=0.5 num_epoch=1000 enable_tensorboard=false num_threads=1 "
                   "save_checkpoint_on_start=false", text, (const char *)*state);
    hd_config *config = configure("train", keys);
    hd_log_set_sink(quiet, NULL);
    assert_ok(hd_cmd_train(config, &hooks, &err));
    hd_log_set_sink(NULL, NULL);
    hd_config_free(config);
    return 0;
}

static hd_engine *open_engine(const char *keys, hd_engine_options options)
{
    hd_err err;
    hd_engine *engine = NULL;
    hd_config *config = configure("decode", keys);
    assert_ok(hd_engine_open(config, folder, &options, &engine, &err));
    hd_config_free(config);
    return engine;
}

static void make_prompt(int64_t number, int32_t prompt[PROMPT])
{
    hd_rng rng = hd_rng_make(9, HD_RNG_SAMPLE, "prompt");
    static const char text[] = "the cat sees a house. a bird hears nothing. the dog finds the river. ";
    uint64_t begin = hd_rng_below(rng, sizeof text - 1 - PROMPT, (uint64_t)number);
    for (int i = 0; i < PROMPT; i++) { prompt[i] = (unsigned char)text[begin + (uint64_t)i]; }
    if (number % 4 == 3) { prompt[PROMPT - 1] = (int32_t)(number % VOCAB); } /* something it never saw */
}

/* ---- choosing ------------------------------------------------------------------------------------------------------------- */

typedef struct chooser {
    hd_sampler sampler;
    uint64_t seed;
    const int32_t *known; /* a session's whole text: what a perfect module would draft */
    int64_t shift;        /* from it, to be wrong */
    float (*seen)[VOCAB]; /* by position: the logits that a choice was asked for; NULL: nobody wants them */
} chooser;

static int64_t choose(void *context, int64_t session, int64_t position, const float *logits)
{
    const chooser *c = context;
    (void)session;
    int32_t order[VOCAB];
    if (c->seen != NULL) { memcpy(c->seen[position], logits, sizeof *c->seen); }
    if (c->known != NULL) { return (c->known[position] + c->shift) % VOCAB; }
    hd_rng rng = hd_rng_make(c->seed, HD_RNG_SAMPLE, "draw");
    return hd_sample(&c->sampler, logits, order, VOCAB, hd_rng_uniform(rng, (uint64_t)position));
}

typedef struct run {
    int32_t tokens[CAPACITY + 1];
    float logits[ANSWER + 1][VOCAB]; /* behind the prompt, and behind each token of the answer */
} run;

/* Prompt and answer in one session. */
static void generate(hd_engine *e, int64_t session, int64_t number, const chooser *c, run *r)
{
    hd_err err;
    make_prompt(number, r->tokens);
    hd_engine_rewind(e, session, 0);
    assert_ok(hd_engine_extend(e, session, r->tokens, PROMPT, r->logits[0], &err));
    for (int64_t i = 0; i < ANSWER; i++) {
        r->tokens[PROMPT + i] = (int32_t)choose((void *)(uintptr_t)c, session, PROMPT + i, r->logits[i]);
        assert_ok(hd_engine_step(e, &session, &r->tokens[PROMPT + i], 1, r->logits[i + 1], &err));
        assert_true(hd_engine_length(e, session) == PROMPT + i + 1);
    }
}

static void same(const char *what, const run *got, const run *want)
{
    hd_assert_same_bits(what, got->tokens, want->tokens, sizeof got->tokens[0], CAPACITY);
    hd_assert_same_bits(what, got->logits[0], want->logits[0], sizeof(float), (ANSWER + 1) * VOCAB);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------ */

static double accepted(const hd_engine *e)
{
    hd_engine_drafts_seen seen = hd_engine_drafting(e);
    assert_true(seen.possible && seen.n_draft > 0);
    return (double)seen.n_accepted / (double)seen.n_draft;
}

static void drafts_change_nothing(void **state)
{
    (void)state;
    static run plain, drafted;
    static const struct {
        const char *name, *keys;
        hd_sampler sampler;
    } cases[] = {{"greedy", "dtype=float32", {.strategy = HD_SAMPLE_GREEDY, .temperature = 1.0}},
                 {"nucleus", "dtype=float32", {.strategy = HD_SAMPLE_NUCLEUS, .nucleus_p = 0.9, .temperature = 0.8}},
                 {"greedy, bf16", "dtype=bfloat16 weight_dtype=bfloat16", {.strategy = HD_SAMPLE_GREEDY, .temperature = 1.0}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        chooser c = {.sampler = cases[i].sampler, .seed = 5};
        hd_engine *without = open_engine(cases[i].keys, (hd_engine_options){.n_session = 1, .capacity = CAPACITY, .chunk = 5});
        hd_engine *with = open_engine(cases[i].keys, (hd_engine_options){.n_session = 1, .capacity = CAPACITY, .chunk = 5,
                                                                         .drafting = HD_DRAFT_ALWAYS, .choose = choose, .choose_context = &c});
        for (int64_t p = 0; p < N_PROMPT; p++) {
            generate(without, 0, p, &c, &plain);
            generate(with, 0, p, &c, &drafted);
            same(cases[i].name, &drafted, &plain);
        }
        hd_engine_drafts_seen seen = hd_engine_drafting(with);
        print_message("  %s: %d of %d drafts accepted, break-even %.2f\n", cases[i].name, (int)seen.n_accepted, (int)seen.n_draft, seen.break_even);
        assert_true(accepted(with) > 0.5); /* 3 of 4 letters follow from those before */
        assert_true(!hd_engine_drafting(without).possible);
        hd_engine_close(without);
        hd_engine_close(with);
    }
}

/* A module that knows the text is always right, one that says the token after it never; the text is the same. */
static void right_and_wrong_modules(void **state)
{
    (void)state;
    static run plain, drafted;
    chooser greedy = {.sampler = {.strategy = HD_SAMPLE_GREEDY}}, oracle = {.known = plain.tokens};
    hd_engine_options options = {.n_session = 1, .capacity = CAPACITY, .chunk = CAPACITY};
    hd_engine *without = open_engine("dtype=float32", options);
    options.drafting = HD_DRAFT_ALWAYS, options.choose = choose, options.choose_context = &oracle;
    for (int64_t shift = 0; shift < 2; shift++) {
        hd_engine *with = open_engine("dtype=float32", options);
        oracle.shift = shift;
        for (int64_t p = 0; p < 8; p++) {
            generate(without, 0, p, &greedy, &plain);
            plain.tokens[CAPACITY] = plain.tokens[0];
            generate(with, 0, p, &greedy, &drafted);
            same("oracle", &drafted, &plain);
        }
        assert_true(accepted(with) == (shift == 0 ? 1.0 : 0.0));
        hd_engine_close(with);
    }
    hd_engine_close(without);
}

/* However the module came to its past, by prompts, forks, drafts taken and refused, or passes without drafts, what it says is what it says after
 * reading the text at once. */
static void modules_know_the_text(void **state)
{
    (void)state;
    hd_err err;
    enum { N = 100 };
    static float on_the_way[N + 1][VOCAB], at_once[N + 1][VOCAB], got[VOCAB];
    int32_t text[N + PROMPT];
    chooser c = {.known = text, .seen = on_the_way};
    hd_engine *e = open_engine("dtype=float32", (hd_engine_options){.n_session = 3, .capacity = N + 1, .chunk = 32, .drafting = HD_DRAFT_ALWAYS,
                                                                    .choose = choose, .choose_context = &c});
    const int64_t whole = 2;
    int n_seen = 0;
    for (int64_t i = 0; i < N; i += PROMPT) { make_prompt(i, text + i); }
    assert_ok(hd_engine_extend(e, 0, text, 3, got, &err));
    for (int64_t i = 3; i < N; i++) {
        const int64_t way = i < 12 ? 0 : 1;
        c.shift = i % 5 < 2; /* some drafts are wrong */
        if (i == 12) { assert_ok(hd_engine_fork(e, 0, 1, &err)); }
        assert_ok(hd_engine_step(e, &way, &text[i], 1, got, &err));
    }
    c.seen = at_once;
    for (int64_t i = 4; i < N; i++) {
        hd_engine_rewind(e, whole, 0);
        assert_ok(hd_engine_extend(e, whole, text, i, got, &err));
        assert_ok(hd_engine_step(e, &whole, &text[i], 1, got, &err));
        if (on_the_way[i + 1][0] == 0.0f || at_once[i + 1][0] == 0.0f) { continue; } /* one of the two passes had no draft */
        double worst = 0.0;
        for (int v = 0; v < VOCAB; v++) { worst = fmax(worst, fabs((double)on_the_way[i + 1][v] - (double)at_once[i + 1][v])); }
        assert_true(worst <= 1e-4);
        n_seen++;
    }
    assert_true(n_seen >= 40);
    hd_engine_close(e);
}

/* Four sessions of one engine, stepping together, those that are ahead choosing again at once; each as if it were alone. */
static void sessions_draft_together(void **state)
{
    (void)state;
    enum { S = 4 };
    hd_err err;
    static run alone[S], together[S];
    static float logits[S * VOCAB];
    int64_t sessions[S], at[S] = {0}, n;
    int32_t tokens[S];
    chooser c = {.sampler = {.strategy = HD_SAMPLE_WEIGHTED, .temperature = 0.7}, .seed = 8};
    hd_engine_options options = {.n_session = S, .capacity = CAPACITY, .chunk = 7, .choose = choose, .choose_context = &c};
    hd_engine *without = open_engine("dtype=float32", options);
    options.drafting = HD_DRAFT_ALWAYS;
    hd_engine *with = open_engine("dtype=float32", options);
    for (int64_t s = 0; s < S; s++) {
        generate(without, s, s, &c, &alone[s]);
        make_prompt(s, together[s].tokens);
        assert_ok(hd_engine_extend(with, s, together[s].tokens, PROMPT, together[s].logits[0], &err));
    }
    do {
        n = 0;
        for (int64_t s = 0; s < S; s++) {
            run *r = &together[s];
            bool again = s != 1; /* the second leaves it to the step */
            while (at[s] < ANSWER) {
                int32_t token = r->tokens[PROMPT + at[s]] = (int32_t)choose(&c, s, PROMPT + at[s], r->logits[at[s]]);
                if (again && hd_engine_take_draft(with, s, token, r->logits[at[s] + 1])) {
                    at[s]++;
                    continue;
                }
                sessions[n] = s;
                tokens[n++] = token;
                break;
            }
        }
        if (n > 0) { assert_ok(hd_engine_step(with, sessions, tokens, n, logits, &err)); }
        for (int64_t i = 0; i < n; i++) { memcpy(together[sessions[i]].logits[++at[sessions[i]]], logits + i * VOCAB, sizeof(float) * VOCAB); }
    } while (n > 0);
    for (int64_t s = 0; s < S; s++) { same("together", &together[s], &alone[s]); }
    assert_true(accepted(with) > 0.3);
    hd_engine_close(without);
    hd_engine_close(with);
}

/* Wherever a draft may stand: forks, rewinds, prompts behind it, refused steps. */
static void places_with_drafts(void **state)
{
    (void)state;
    hd_err err;
    static run plain;
    static float got[VOCAB], other[VOCAB];
    chooser greedy = {.sampler = {.strategy = HD_SAMPLE_GREEDY}}, oracle = {.known = plain.tokens};
    hd_engine_options options = {.n_session = 2, .capacity = CAPACITY, .chunk = 9};
    hd_engine *without = open_engine("dtype=float32", options);
    options.drafting = HD_DRAFT_ALWAYS, options.choose = choose, options.choose_context = &oracle;
    hd_engine *with = open_engine("dtype=float32", options);
    const int64_t first = 0, second = 1;
    const int32_t outside = VOCAB;
    generate(without, 0, 5, &greedy, &plain);
    assert_ok(hd_engine_extend(with, 0, plain.tokens, PROMPT, got, &err));
    for (int64_t i = 0; i < ANSWER; i++) {
        const int32_t *next = &plain.tokens[PROMPT + i];
        assert_ok(hd_engine_fork(with, 0, 1, &err)); /* it stands where its origin stands, draft or not */
        assert_true(hd_engine_length(with, 1) == PROMPT + i);
        assert_ok(hd_engine_step(with, &second, next, 1, other, &err));
        assert_fails(hd_engine_step(with, &first, &outside, 1, got, &err), HD_E_INVALID, "264");
        assert_true(hd_engine_length(with, 0) == PROMPT + i);
        assert_ok(hd_engine_step(with, &first, next, 1, got, &err));
        hd_assert_same_bits("step", got, plain.logits[i + 1], sizeof *got, VOCAB);
        hd_assert_same_bits("fork", other, got, sizeof *got, VOCAB);
    }
    assert_fails(hd_engine_step(with, &first, plain.tokens, 1, got, &err), HD_E_INVALID, "no more than 32");
    /* back, by one and by many, and forward again */
    for (int64_t back = 1; back <= ANSWER; back += 3) {
        int64_t length = CAPACITY - back;
        hd_engine_rewind(with, 0, length);
        assert_true(hd_engine_length(with, 0) == length);
        for (int64_t i = length; i < CAPACITY; i++) {
            assert_ok(hd_engine_step(with, &first, &plain.tokens[i], 1, got, &err));
            hd_assert_same_bits("after a rewind", got, plain.logits[i - PROMPT + 1], sizeof *got, VOCAB);
        }
    }
    /* back where a draft stands */
    for (int64_t i = PROMPT - 2; i < PROMPT + 2; i++) {
        hd_engine_rewind(with, 0, i);
        for (int64_t k = i; k < i + 2; k++) { assert_ok(hd_engine_step(with, &first, &plain.tokens[k], 1, got, &err)); }
        hd_engine_rewind(with, 0, i + 1);
        assert_true(hd_engine_length(with, 0) == i + 1 && !hd_engine_take_draft(with, 0, plain.tokens[i + 2], got));
    }
    /* a prompt there, behind the same prompt: what was stepped through has other roundings */
    hd_engine_rewind(with, 0, 0);
    assert_ok(hd_engine_extend(with, 0, plain.tokens, PROMPT, got, &err));
    hd_engine_rewind(without, 0, PROMPT + 2);
    for (int i = 0; i < 2; i++) { assert_ok(hd_engine_step(with, &first, &plain.tokens[PROMPT + i], 1, got, &err)); }
    assert_ok(hd_engine_extend(without, 0, plain.tokens, 6, other, &err));
    assert_ok(hd_engine_extend(with, 0, plain.tokens, 6, got, &err));
    hd_assert_same_bits("a prompt behind a draft", got, other, sizeof *got, VOCAB);
    assert_true(hd_engine_length(with, 0) == PROMPT + 8 && !hd_engine_take_draft(with, 0, 0, got));
    hd_engine_close(without);
    hd_engine_close(with);
}

/* Weights read layer by layer: asked for, drafts come from there too; left to the engine, they do without. */
static void streamed_modules(void **state)
{
    (void)state;
    static run plain, drafted;
    static const char small[] = "dtype=float32 device_memory_gb=0.1608";
    chooser greedy = {.sampler = {.strategy = HD_SAMPLE_GREEDY, .temperature = 1.0}};
    hd_engine_options options = {.n_session = 1, .capacity = CAPACITY, .chunk = 4};
    hd_engine *without = open_engine("dtype=float32", options);
    generate(without, 0, 2, &greedy, &plain);
    options.drafting = HD_DRAFT_ALWAYS;
    hd_engine *with = open_engine(small, options);
    assert_true(hd_engine_memory_bytes(with) < hd_engine_memory_bytes(without));
    generate(with, 0, 2, &greedy, &drafted);
    same("streamed", &drafted, &plain);
    assert_true(accepted(with) > 0.3);
    hd_engine_close(with);
    options.drafting = HD_DRAFT_AUTO;
    with = open_engine(small, options);
    assert_true(!hd_engine_drafting(with).possible);
    hd_engine_close(with);
    with = open_engine("dtype=float32", options);
    assert_true(hd_engine_drafting(with).possible && hd_engine_cache_bytes(with) > hd_engine_cache_bytes(without));
    hd_engine_close(with);
    hd_engine_close(without);
}

static void what_is_refused(void **state)
{
    (void)state;
    hd_err err;
    hd_engine *engine = NULL;
    hd_engine_options options = {.n_session = 1, .capacity = 8, .chunk = 8, .drafting = HD_DRAFT_ALWAYS};
    static const struct {
        const char *keys;
        hd_status status;
        const char *text;
    } cases[] = {{"sparse_matmul=false capacity_factor=1.25", HD_E_CONFIG, "capacity_factor=1.25"},
                 {"mtp_pre_norm_hidden=false", HD_E_UNSUPPORTED, "mtp_pre_norm_hidden"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hd_config *config = configure("decode", cases[i].keys);
        options.drafting = HD_DRAFT_ALWAYS;
        assert_fails(hd_engine_open(config, folder, &options, &engine, &err), cases[i].status, cases[i].text);
        options.drafting = HD_DRAFT_AUTO;
        assert_ok(hd_engine_open(config, folder, &options, &engine, &err));
        assert_true(!hd_engine_drafting(engine).possible);
        hd_engine_close(engine);
        hd_config_free(config);
    }
    hd_config *config = configure("decode", "mtp_speculation=on");
    options.drafting = hd_drafting_from_config(config);
    assert_true(options.drafting == HD_DRAFT_ALWAYS);
    assert_fails(hd_engine_open(config, "tests/golden/check/v3", &options, &engine, &err), HD_E_CONFIG, "no MTP layer to draft with");
    assert_null(engine);
    hd_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_change_nothing),   cmocka_unit_test(right_and_wrong_modules),
                                       cmocka_unit_test(modules_know_the_text),
                                       cmocka_unit_test(sessions_draft_together), cmocka_unit_test(places_with_drafts),
                                       cmocka_unit_test(streamed_modules),        cmocka_unit_test(what_is_refused)};
    return cmocka_run_group_tests(tests, train, hd_temp_teardown);
}
