/* A model whose weights stay in their files says, bit for bit, what the same model says from memory. */
#include "checkpoint/fixture.h"

#include "checkpoint/stream.h"

enum { TOKENS = 24, VOCAB = 32 };

/* A model opened for a forward pass, from memory or from its files, sized by a dry pass. */
typedef struct runner {
    hd_arena memory, step, scratch, weights;
    hd_exec ex;
    hd_model model;
    hd_ckpt_stream *stream;
} runner;

static hd_dims forward_dims(void)
{
    hd_dims d = small_dims();
    d.n_layer = 3;
    d.n_mtp = 0;
    d.mtp_own_norm = false;
    return d;
}

static void open_runner(runner *r, const hd_dims *dims, hd_moe_strategy strategy, hd_dtype weights, bool dry, const size_t sizes[4])
{
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = weights, .mu_dtype = HD_DTYPE_F32, .max_positions = TOKENS,
                                .moe_strategy = strategy, .streamed = r->stream != NULL};
    if (dry) {
        hd_arena_open_dry(&r->memory, "model");
        hd_arena_open_dry(&r->step, "step");
        hd_arena_open_dry(&r->scratch, "scratch");
        hd_arena_open_dry(&r->weights, "weights");
    } else {
        assert_ok(hd_arena_open(&r->memory, "model", sizes[0], &err));
        assert_ok(hd_arena_open(&r->step, "step", sizes[1], &err));
        assert_ok(hd_arena_open(&r->scratch, "scratch", sizes[2], &err));
        assert_ok(hd_arena_open(&r->weights, "weights", sizes[3], &err));
    }
    assert_ok(hd_exec_init(&r->ex, &r->scratch, 2, dry, &err));
    assert_ok(hd_model_open(dims, &options, &r->ex, &r->memory, &r->model, &err));
    if (r->stream != NULL) { assert_ok(hd_ckpt_stream_attach(r->stream, &r->model, &r->ex, &r->weights, &err)); }
}

static void close_runner(runner *r)
{
    hd_model_close(&r->model);
    hd_arena_close(&r->memory);
    hd_arena_close(&r->step);
    hd_arena_close(&r->scratch);
    hd_arena_close(&r->weights);
}

/* token: of all rows, or -1 for different ones. */
static void forward(runner *r, int32_t token, float *out)
{
    int32_t tokens[TOKENS], positions[TOKENS], segments[TOKENS];
    float ones[TOKENS];
    hd_tensor logits;
    size_t mark = hd_arena_mark(&r->step);
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = token >= 0 ? token : (i * 7 + 3) % VOCAB;
        positions[i] = i;
        segments[i] = 1;
        ones[i] = 1.0f;
    }
    hd_leaf leaf = {.n_seq = 1, .seq_len = TOKENS, .weight_total = 1.0, .n_seq_total = 1, .n_token_total = TOKENS};
    hd_leaf_rows rows = {.n_seq = 1, .seq_len = TOKENS, .inputs = tokens, .targets = tokens, .positions = positions,
                         .segments = segments, .loss_weights = ones};
    assert_ok(hd_leaf_upload(&r->model, &r->ex, &r->step, &rows, &leaf, &err));
    assert_ok(hd_tensor_new_2d(&r->step, HD_DTYPE_F32, TOKENS, VOCAB, &logits, &err));
    assert_ok(hd_model_logits(&r->model, &r->ex, &r->step, &leaf, 0, &logits, &err));
    assert_ok(hd_exec_read(&r->ex, &logits, out, &err));
    hd_arena_release(&r->step, mark);
}

static void run(const char *path, hd_moe_strategy strategy, hd_dtype weights, bool streamed, int32_t token, float *out, size_t sizes[4])
{
    hd_dims dims = forward_dims();
    runner r = {0};
    if (streamed) { assert_ok(hd_ckpt_stream_open(path, &dims, &r.stream, &err)); }
    open_runner(&r, &dims, strategy, weights, true, NULL);
    forward(&r, token, out);
    sizes[0] = r.memory.high, sizes[1] = r.step.high, sizes[2] = r.scratch.high, sizes[3] = r.weights.high;
    close_runner(&r);
    open_runner(&r, &dims, strategy, weights, false, sizes);
    if (!streamed) { assert_ok(hd_ckpt_load_parameters(path, &r.ex, &r.model, &err)); }
    forward(&r, token, out);
    assert_true(r.memory.high <= sizes[0] && r.weights.high <= sizes[3]);
    close_runner(&r);
    hd_ckpt_stream_close(r.stream);
}

static void make_folder(const char *dir, hd_dtype weights)
{
    rig g;
    const int64_t steps[1] = {1};
    hd_dims dims = forward_dims();
    rig_open_dims(&g, &dims, weights, true);
    make_run(dir, &g, steps, 1);
    rig_close(&g);
}

static void compare(const char *path, hd_moe_strategy strategy, hd_dtype weights, int32_t token)
{
    static float memory[TOKENS * VOCAB], files[TOKENS * VOCAB];
    size_t in_memory[4], in_files[4];
    run(path, strategy, weights, false, token, memory, in_memory);
    run(path, strategy, weights, true, token, files, in_files);
    for (int i = 0; i < TOKENS * VOCAB; i++) { assert_true(memory[i] == memory[i]); }
    assert_memory_equal(memory, files, sizeof memory);
    assert_true(in_files[0] + in_files[3] < in_memory[0]); /* a unit and an expert, not the model */
}

static void streamed_logits_are_those_from_memory(void **state)
{
    const char *f32 = hd_temp_path(*state, "f32");
    make_folder(f32, HD_DTYPE_F32);
    compare(f32, HD_MOE_GROUPED, HD_DTYPE_F32, -1);
    compare(f32, HD_MOE_RAGGED, HD_DTYPE_F32, -1);
    compare(f32, HD_MOE_GROUPED, HD_DTYPE_BF16, -1);
    compare(f32, HD_MOE_GROUPED, HD_DTYPE_F32, 5); /* most experts have no rows */
    const char *bf16 = hd_temp_path(*state, "bf16");
    make_folder(bf16, HD_DTYPE_BF16);
    compare(bf16, HD_MOE_GROUPED, HD_DTYPE_F32, -1); /* with masters: their values, not the weights' */
    compare(bf16, HD_MOE_GROUPED, HD_DTYPE_BF16, -1);
}

static void what_cannot_be_streamed(void **state)
{
    hd_dims dims = forward_dims(), other = forward_dims();
    hd_arena memory, scratch;
    hd_exec ex;
    hd_model model;
    hd_ckpt_stream *stream = NULL;
    const char *dir = hd_temp_path(*state, "run");
    make_folder(dir, HD_DTYPE_F32);
    other.vocab_size = 33;
    assert_fails(hd_ckpt_stream_open(dir, &other, &stream, &err), HD_E_CONFIG, "model.embed_tokens.weight is F32 (32, 16), the model wants F32 (33, 16)");
    assert_null(stream);
    assert_fails(hd_ckpt_stream_open(hd_temp_path(*state, "none"), &dims, &stream, &err), HD_E_CONFIG, "no directory");
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = HD_DTYPE_F32, .mu_dtype = HD_DTYPE_F32, .max_positions = 8,
                                .training = true, .streamed = true};
    hd_arena_open_dry(&memory, "model");
    hd_arena_open_dry(&scratch, "scratch");
    assert_ok(hd_exec_init(&ex, &scratch, 1, true, &err));
    assert_fails(hd_model_open(&dims, &options, &ex, &memory, &model, &err), HD_E_UNSUPPORTED, "weights in memory");
    hd_arena_close(&memory);
    hd_arena_close(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(streamed_logits_are_those_from_memory, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_streamed, hd_temp_setup, hd_temp_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
