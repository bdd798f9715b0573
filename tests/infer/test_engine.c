/* The engine's sessions: chunks, steps, batches, forks and rewinds, and what does not fit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "infer/engine.h"
#include "support/keys.h"
#include "support/test.h"

enum { MAX_VOCAB = 4096, N = 40 };

static hd_config *configure(const char *keys)
{
    return hd_test_config("decode", "dtype=float32 log_config=false tokenizer_type=byte run_name=x base_output_directory=/tmp %s", keys);
}

static hd_engine *open_engine(const hd_config *config, const char *model, int64_t n_session, int64_t capacity, int64_t chunk)
{
    hd_err err;
    char path[128];
    hd_engine *engine = NULL;
    hd_engine_options options = {.n_session = n_session, .capacity = capacity, .chunk = chunk};
    (void)snprintf(path, sizeof path, "tests/golden/check/%s", model);
    assert_ok(hd_engine_open(config, path, &options, &engine, &err));
    assert_true(hd_engine_dims(engine)->vocab_size <= MAX_VOCAB);
    return engine;
}

static void make_tokens(const hd_engine *engine, int32_t *tokens, int64_t n)
{
    for (int64_t i = 0; i < n; i++) { tokens[i] = (int32_t)((i * 131 + 17) % hd_engine_dims(engine)->vocab_size); }
}

static double worst_gap(const float *a, const float *b, int64_t n)
{
    double worst = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double gap = fabs((double)a[i] - (double)b[i]);
        worst = gap <= worst ? worst : gap;
    }
    return worst;
}

/* One pass, chunks and single steps end at the same logits, to rounding; threads and weights in bf16 change no more than that. */
static void ways_to_read_a_prompt(void **state)
{
    (void)state;
    static const char *const models[] = {"v2", "v3"};
    for (size_t m = 0; m < 2; m++) {
        hd_err err;
        int32_t tokens[N];
        static float whole[MAX_VOCAB], other[MAX_VOCAB];
        hd_config *config = configure("");
        hd_engine *engine = open_engine(config, models[m], 3, N, N);
        int64_t vocab = hd_engine_dims(engine)->vocab_size, session = 2;
        make_tokens(engine, tokens, N);
        assert_ok(hd_engine_extend(engine, 0, tokens, N, whole, &err));
        assert_true(hd_engine_length(engine, 0) == N);
        assert_ok(hd_engine_extend(engine, 1, tokens, 7, other, &err));
        assert_ok(hd_engine_extend(engine, 1, tokens + 7, N - 7, other, &err));
        assert_true(worst_gap(whole, other, vocab) <= 2e-5);
        for (int i = 0; i < N; i++) { assert_ok(hd_engine_step(engine, &session, tokens + i, 1, other, &err)); }
        assert_true(worst_gap(whole, other, vocab) <= 2e-5);
        hd_engine_close(engine);
        engine = open_engine(config, models[m], 1, N, 9); /* the same in chunks of its own */
        assert_ok(hd_engine_extend(engine, 0, tokens, N, other, &err));
        assert_true(worst_gap(whole, other, vocab) <= 2e-5);
        hd_engine_close(engine);
        hd_config_free(config);
    }
}

/* What was planned for a full chunk is enough for every shorter one, wherever it stands. */
static void every_length_fits(void **state)
{
    (void)state;
    hd_err err;
    enum { LONG = 300 };
    int32_t tokens[LONG];
    static float logits[MAX_VOCAB];
    hd_config *config = configure("num_threads=2");
    for (int64_t chunk = 20; chunk <= LONG; chunk += 140) {
        hd_engine *engine = open_engine(config, "v3", 1, LONG, chunk);
        make_tokens(engine, tokens, LONG);
        for (int64_t n = 1; n <= chunk; n += 1 + n / 40) {
            for (int64_t past = 0; past + n <= LONG; past += 149) {
                hd_engine_rewind(engine, 0, 0);
                if (past > 0) { assert_ok(hd_engine_extend(engine, 0, tokens, past, logits, &err)); }
                assert_ok(hd_engine_extend(engine, 0, tokens, n, logits, &err));
            }
        }
        hd_engine_close(engine);
    }
    hd_config_free(config);
}

static void sessions_are_alone(void **state)
{
    (void)state;
    hd_err err;
    int32_t tokens[N];
    static float one[MAX_VOCAB], all[3 * MAX_VOCAB], again[MAX_VOCAB];
    hd_config *config = configure("num_threads=2");
    hd_engine *engine = open_engine(config, "v3", 5, N, 16);
    int64_t vocab = hd_engine_dims(engine)->vocab_size, alone = 0;
    make_tokens(engine, tokens, N);
    /* sessions 1, 2, 3 hold prompts of 3, 11 and 29 tokens and step together; session 0 repeats each alone */
    const int64_t lengths[3] = {3, 11, 29}, sessions[3] = {1, 2, 3};
    const int32_t next[3] = {5, 6, 7};
    for (int s = 0; s < 3; s++) { assert_ok(hd_engine_extend(engine, sessions[s], tokens + s, lengths[s], one, &err)); }
    assert_ok(hd_engine_step(engine, sessions, next, 3, all, &err));
    for (int s = 0; s < 3; s++) {
        hd_engine_rewind(engine, 0, 0);
        assert_ok(hd_engine_extend(engine, 0, tokens + s, lengths[s], one, &err));
        assert_ok(hd_engine_step(engine, &alone, &next[s], 1, one, &err));
        hd_assert_same_bits("a session in a batch", one, all + s * vocab, sizeof *one, vocab);
    }
    /* a fork goes on as its origin does, and the origin does not notice */
    assert_ok(hd_engine_fork(engine, 3, 4, &err));
    assert_true(hd_engine_length(engine, 4) == 30);
    const int64_t fork = 4, origin = 3;
    assert_ok(hd_engine_step(engine, &fork, &next[0], 1, one, &err));
    assert_ok(hd_engine_step(engine, &fork, &next[1], 1, again, &err));
    assert_ok(hd_engine_step(engine, &origin, &next[0], 1, again, &err));
    hd_assert_same_bits("a fork", one, again, sizeof *one, vocab);
    /* rewound, it is where it was */
    hd_engine_rewind(engine, 4, 30);
    assert_ok(hd_engine_step(engine, &fork, &next[0], 1, again, &err));
    hd_assert_same_bits("rewound", one, again, sizeof *one, vocab);
    hd_engine_rewind(engine, 4, 99); /* forward is no rewind */
    assert_true(hd_engine_length(engine, 4) == 31);
    hd_engine_close(engine);
    hd_config_free(config);
}

static void what_does_not_fit(void **state)
{
    (void)state;
    hd_err err;
    int32_t tokens[N], outside = MAX_VOCAB;
    static float logits[MAX_VOCAB];
    hd_config *config = configure("");
    hd_engine *engine = NULL;
    hd_engine_options none = {.capacity = 8, .chunk = 8}, fits = {.n_session = 1, .capacity = 8, .chunk = 8}, too_long = fits;
    const char *path = "tests/golden/check/v3";
    too_long.capacity = 1 << 24;
    assert_fails(hd_engine_open(config, path, &none, &engine, &err), HD_E_INVALID, "want 1 and more");
    assert_fails(hd_engine_open(config, path, &too_long, &engine, &err), HD_E_CONFIG, "max_position_embeddings");
    assert_fails(hd_engine_open(config, "tests/golden", &fits, &engine, &err), HD_E_CONFIG, "tests/golden");
    assert_null(engine);
    engine = open_engine(config, "v3", 1, 8, 3);
    make_tokens(engine, tokens, N);
    assert_fails(hd_engine_extend(engine, 0, tokens, 9, logits, &err), HD_E_INVALID, "9 new tokens behind 0, want 1 to 8");
    assert_fails(hd_engine_extend(engine, 0, tokens, 0, logits, &err), HD_E_INVALID, "want 1 to 8");
    tokens[5] = outside;
    assert_fails(hd_engine_extend(engine, 0, tokens, 6, logits, &err), HD_E_INVALID, "4096"); /* in the second chunk */
    assert_true(hd_engine_length(engine, 0) == 0);
    make_tokens(engine, tokens, N);
    assert_ok(hd_engine_extend(engine, 0, tokens, 8, logits, &err));
    const int64_t session = 0;
    assert_fails(hd_engine_step(engine, &session, tokens, 1, logits, &err), HD_E_INVALID, "no more than 8");
    assert_fails(hd_engine_step(engine, &session, tokens, 2, logits, &err), HD_E_INVALID, "want 1 to 1");
    hd_engine_close(engine);
    hd_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ways_to_read_a_prompt), cmocka_unit_test(every_length_fits),
                                       cmocka_unit_test(sessions_are_alone),
                                       cmocka_unit_test(what_does_not_fit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
