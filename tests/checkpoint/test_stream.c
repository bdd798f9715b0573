/* A model whose weights stay in their files says, bit for bit, what the same model says from memory. */
#include "checkpoint/forward.h"

static hd_dims forward_dims(void)
{
    hd_dims d = small_dims();
    d.n_layer = 3;
    d.n_mtp = 0;
    d.mtp_own_norm = false;
    return d;
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
    static float memory[TOKENS * MAX_VOCAB], files[TOKENS * MAX_VOCAB];
    size_t in_memory[4], in_files[4];
    hd_dims dims = forward_dims();
    manner how = {.strategy = strategy, .weights = weights};
    (void)run(path, &dims, &how, token, memory, in_memory);
    how.from = FROM_STREAM;
    (void)run(path, &dims, &how, token, files, in_files);
    for (int64_t i = 0; i < TOKENS * dims.vocab_size; i++) { assert_true(memory[i] == memory[i]); }
    assert_memory_equal(memory, files, (size_t)(TOKENS * dims.vocab_size) * sizeof(float));
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
