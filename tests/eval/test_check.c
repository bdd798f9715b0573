/* `hadal check` on the committed models: it agrees with transformers, and a model that is a little wrong is found, by its logits and by
 * name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/io.h"
#include "checkpoint/safetensors.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/scorer.h"
#include "support/keys.h"
#include "support/test.h"


/* What the command said, line by line. */
static hd_buf said;

static void keep(void *context, hd_log_level level, const char *text)
{
    (void)context;
    if (level != HD_LOG_RESULT) { return; }
    hd_buf_append_text(&said, text);
    hd_buf_append_char(&said, '\n');
}

/* `hadal check`, words separated by blanks. */
static hd_status check(hd_err *err, const char *format, ...)
{
    char text[4096] = "dtype=float32 max_target_length=64 log_config=false tokenizer_type=byte run_name=x base_output_directory=/tmp ";
    size_t at = strlen(text);
    hd_config *config = NULL;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text + at, sizeof text - at, format, args);
    va_end(args);
    hd_buf_clear(&said);
    *err = (hd_err){0};
    hd_log_set_sink(keep, NULL);
    hd_status st = hd_test_load_keys("check", text, &config, err);
    hd_run_hooks hooks = {0};
    if (st == HD_OK) { st = hd_cmd_check(config, &hooks, err); }
    hd_log_set_sink(NULL, NULL);
    hd_config_free(config);
    return st;
}

static void assert_said(const char *text)
{
    if (strstr(hd_buf_text(&said), text) == NULL) { fail_msg("not said: %s\n%s", text, hd_buf_text(&said)); }
}

static double number_behind(const char *words)
{
    const char *at = strstr(hd_buf_text(&said), words);
    if (at == NULL) { fail_msg("not said: %s\n%s", words, hd_buf_text(&said)); }
    return strtod(at + strlen(words), NULL);
}

static void agrees_with_transformers(void **state)
{
    (void)state;
    hd_err err;
    static const char *const models[] = {"v2", "v3"};
    for (size_t m = 0; m < 2; m++) {
        assert_ok(check(&err, "load_parameters_path=tests/golden/check/%s --golden_logits_path=tests/golden/check/%s/golden.jsonl --max_kl_div=1e-10 "
                        "--atol=5e-6 --bisect=tests/golden/check/%s/dump", models[m], models[m], models[m]));
        assert_said("golden logits by transformers.models.deepseek_v");
        assert_said("prompt 3 \"long\": 40 tokens, 40 compared: agrees");
        assert_said("argmax differs at 0 of 40 positions; 100.00 %");
        assert_said("experts: 0 of 40 choices differ");
        assert_said("layers.1.router_logits");
        assert_said("logits                ");
        assert_true(number_behind("3 prompts are within the limit (max_kl_div 1e-10, atol 5e-06 rtol 1e-05): max KL divergence ") < 1e-11);
        if (strstr(hd_buf_text(&said), "not in the dump") != NULL) { fail_msg("%s", hd_buf_text(&said)); }
    }
}

/* The same bits whatever storage and chunks. */
static void chunks_and_storage_change_nothing(void **state)
{
    hd_err err;
    char path[2][4096];
    char *text[2];
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s", hd_temp_path(*state, i == 0 ? "a.jsonl" : "b.jsonl"));
        assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 golden_logits_path=tests/golden/check/v3/golden.jsonl max_kl_div=1e-8 "
                        "output_logits_path=%s %s", path[i], i == 0 ? "" : "weight_dtype=bfloat16 loss_row_chunk=7"));
        assert_ok(hd_io_read_file(path[i], 1 << 20, &text[i], &n[i], &err));
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(text[0], text[1], n[0]);
    hd_free(text[0]);
    hd_free(text[1]);
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 golden_logits_path=%s max_kl_div=1e-30 atol=0 rtol=0", path[0]));
    assert_said("the golden file does not say which code and dtype made it");
}

static void many_prompts_take_several_passes(void **state)
{
    hd_err err;
    char *text;
    size_t n;
    hd_buf many = {0};
    const char *path = hd_temp_path(*state, "many.jsonl");
    assert_ok(hd_io_read_file("tests/golden/check/v3/golden.jsonl", 1 << 20, &text, &n, &err));
    for (int i = 0; i < 30; i++) { hd_buf_append(&many, text, n); }
    assert_ok(hd_io_write_file(path, many.data, many.n, &err));
    hd_free(text);
    hd_buf_free(&many);
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 max_kl_div=1e-10 golden_logits_path=%s", path));
    assert_said("prompt 36 \"long\": 40 tokens, 40 compared: agrees");
    assert_said("90 prompts are within the limit");
    if (strstr(hd_buf_text(&said), "choices differ,") != NULL) { fail_msg("%s", hd_buf_text(&said)); }
    /* with a capacity, a prompt is alone in its pass: none of 40 tokens is dropped by an expert that may take all */
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 max_kl_div=1e-10 golden_logits_path=%s sparse_matmul=false capacity_factor=8", path));
}

/* ---- a model that is wrong ------------------------------------------------------------------------------------------------ */

/* A copy of a committed model in a folder of the test's. */
static const char *copy_model(void **state, const char *model)
{
    static char folder[4096];
    hd_err err = {0};
    static const char *const files[] = {"config.json", "model.safetensors"};
    snprintf(folder, sizeof folder, "%s", hd_temp_path(*state, "model"));
    assert_ok(hd_io_mkdirs(folder, &err));
    for (size_t i = 0; i < 2; i++) {
        char from[256];
        char *data;
        size_t n;
        snprintf(from, sizeof from, "tests/golden/check/%s/%s", model, files[i]);
        assert_ok(hd_io_read_file(from, 1 << 20, &data, &n, &err));
        assert_ok(hd_io_write_file(hd_temp_path(folder, files[i]), data, n, &err));
        hd_free(data);
    }
    return folder;
}

/* Adds 0.25 to one bf16 value. */
static void change_weight(const char *folder, const char *name)
{
    hd_err err = {0};
    char *data;
    size_t n;
    const char *path = hd_temp_path(folder, "model.safetensors");
    hd_block_file file;
    hd_st_reader *st;
    assert_ok(hd_io_read_file(path, 1 << 20, &data, &n, &err));
    hd_block_file_of_memory(data, n, &file);
    assert_ok(hd_st_open(&file, &st, &err));
    int64_t at = hd_st_find(st, name);
    if (at < 0) { fail_msg("no tensor %s", name); }
    hd_st_info info = hd_st_get(st, at);
    char *value = data + info.offset + info.bytes / 2 / 2 * 2;
    if (info.dtype == HD_DTYPE_F32) {
        value = data + info.offset;
        float x;
        memcpy(&x, value, 4);
        x += 0.25f;
        memcpy(value, &x, 4);
    } else {
        uint16_t bits;
        memcpy(&bits, value, 2);
        bits = hd_f32_to_bf16(hd_bf16_to_f32(bits) + 0.25f);
        memcpy(value, &bits, 2);
    }
    hd_st_close(st);
    hd_block_file_close(&file);
    assert_ok(hd_io_write_file(path, data, n, &err));
    hd_free(data);
}

static void change_config(const char *folder, const char *from, const char *to)
{
    hd_err err = {0};
    char *text;
    size_t n;
    hd_buf out = {0};
    const char *path = hd_temp_path(folder, "config.json");
    assert_ok(hd_io_read_file(path, 1 << 20, &text, &n, &err));
    char *at = strstr(text, from);
    if (at == NULL) { fail_msg("config.json has no %s", from); }
    hd_buf_append(&out, text, (size_t)(at - text));
    hd_buf_append_text(&out, to);
    hd_buf_append_text(&out, at + strlen(from));
    assert_ok(hd_io_write_file(path, out.data, out.n, &err));
    hd_buf_free(&out);
    hd_free(text);
}

static void is_found(const char *model, const char *folder, const char *first)
{
    hd_err err;
    char want[128];
    assert_fails(check(&err, "load_parameters_path=%s --golden_logits_path=tests/golden/check/%s/golden.jsonl --max_kl_div=2e-7", folder, model),
                 HD_E_VERIFY, "over the limit (max_kl_div 2e-07)");
    assert_said("OVER THE LIMIT");
    snprintf(want, sizeof want, "the first activation that differs is %s", first);
    assert_fails(check(&err, "load_parameters_path=%s --bisect=tests/golden/check/%s/dump/prompt_000.safetensors", folder, model), HD_E_VERIFY, want);
    snprintf(want, sizeof want, "  the first that differs is %s; before it stand: ", first);
    assert_said(want);
}

static void one_weight_is_found_and_named(void **state)
{
    static const struct { const char *model, *tensor, *first; } cases[] = {
        {"v2", "model.layers.0.input_layernorm.weight", "layers.0.input_norm"},
        {"v2", "model.layers.1.self_attn.q_proj.weight", "layers.1.q"},
        {"v2", "model.layers.0.mlp.down_proj.weight", "layers.0.output"},
        {"v3", "model.layers.0.self_attn.q_a_layernorm.weight", "layers.0.q"},
        {"v3", "model.layers.0.self_attn.kv_a_layernorm.weight", "layers.0.kv_latent"},
        {"v3", "model.layers.1.self_attn.kv_b_proj.weight", "layers.1.kv"},
        {"v3", "model.layers.1.self_attn.o_proj.weight", "layers.1.mid"},
        {"v3", "model.layers.1.post_attention_layernorm.weight", "layers.1.post_norm"},
        {"v3", "model.layers.1.mlp.gate.weight", "layers.1.router_logits"},
        {"v3", "model.layers.1.mlp.shared_experts.up_proj.weight", "layers.1.output"},
        {"v3", "model.norm.weight", "final_norm"},
        {"v3", "lm_head.weight", "logits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *folder = copy_model(state, cases[i].model);
        change_weight(folder, cases[i].tensor);
        is_found(cases[i].model, folder, cases[i].first);
    }
}

static void one_number_of_the_config_is_found_and_named(void **state)
{
    static const struct { const char *model, *from, *to, *first; } cases[] = {
        {"v3", "\"factor\": 40", "\"factor\": 20", "layers.0.q"},
        {"v2", "\"original_max_position_embeddings\": 16", "\"original_max_position_embeddings\": 4096", "layers.0.q"},
        {"v2", "\"mscale_all_dim\": 0.707", "\"mscale_all_dim\": 0", "layers.0.q"}, /* moves the factor of cos and sin as well */
        {"v3", "\"routed_scaling_factor\": 2.5", "\"routed_scaling_factor\": 1.0", "layers.1.expert_weights"},
        {"v3", "\"topk_group\": 2", "\"topk_group\": 4", "layers.1.expert_ids"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *folder = copy_model(state, cases[i].model);
        change_config(folder, cases[i].from, cases[i].to);
        is_found(cases[i].model, folder, cases[i].first);
    }
}

/* ---- leading tokens, vocabulary, reports -------------------------------------------------------------------------------------- */

static const char *write_golden(void **state, const char *text)
{
    hd_err err = {0};
    const char *path = hd_temp_path(*state, "own.jsonl");
    assert_ok(hd_io_write_file(path, text, strlen(text), &err));
    return path;
}

static void only_what_is_asked_is_compared(void **state)
{
    hd_err err;
    const char *common = "load_parameters_path=tests/golden/check/v2 max_kl_div=1e-8";
    const char *golden = "golden_logits_path=tests/golden/check/v2/golden.jsonl";
    assert_fails(check(&err, "%s %s max_target_length=16", common, golden), HD_E_CONFIG, "line 3: the prompt has 40 tokens and max_target_length is 16");
    assert_ok(check(&err, "%s %s max_target_length=16 token_size=16", common, golden));
    assert_said("prompt 1 \"short\": 4 tokens, 4 compared: agrees");
    assert_said("prompt 3 \"long\": 40 tokens, 16 compared: agrees");
    assert_ok(check(&err, "%s %s --token_size=3 --clip_logits_epsilon=1e-4", common, golden));
    assert_said("prompt 3 \"long\": 40 tokens, 3 compared: agrees");
    assert_fails(check(&err, "%s %s --skip_first_token", common, golden), HD_E_VERIFY, "1 of 3 prompts are over the limit"); /* "one" has nothing left */
    assert_said("prompt 1 \"short\": 4 tokens, 3 compared: agrees");
    assert_said("prompt 2 \"one\": 1 tokens, 0 compared: OVER THE LIMIT");
    /* every record is reported before the command fails; another vocabulary is said once */
    const char *path = write_golden(state, "{\"prompt\": \"a\", \"tokens\": [1, 2], \"logits\": [[0, 9, 1], [1, 2, 3]]}\n"
                                           "{\"prompt\": \"b\", \"tokens\": [3], \"logits\": [[0, 1, 2]]}\n");
    assert_fails(check(&err, "%s golden_logits_path=%s", common, path), HD_E_VERIFY, "2 of 2 prompts are over the limit");
    assert_said("the golden vocabulary has 3 tokens, the model's 40: the first 3 are compared");
    assert_said("prompt 2 \"b\"");
    path = write_golden(state, "{\"prompt\": \"a\", \"tokens\": [1, 40], \"logits\": [[0], [1]]}\n");
    assert_fails(check(&err, "%s golden_logits_path=%s", common, path), HD_E_CONFIG, "line 1: token 1 is 40, the model's vocabulary has 40");
    path = write_golden(state, "{\"prompt\": \"a\", \"tokens\": [1, 4], \"logits\": [[0, 1], [1, NaN]]}\n");
    assert_fails(check(&err, "%s golden_logits_path=%s", common, path), HD_E_CORRUPT, "line 1, column 58: want a finite number");
    assert_fails(check(&err, "%s golden_logits_path=%s", common, write_golden(state, "\n")), HD_E_CORRUPT, "no record is in this file");
    assert_fails(check(&err, "%s %s --run_hf_model=true", common, golden), HD_E_UNSUPPORTED, "hadal runs no Python");
    assert_fails(check(&err, "load_parameters_path=tests/golden/check/v2 %s", golden), HD_E_CONFIG, "set max_kl_div=2e-4, or atol=1e-4, or both");
    assert_fails(check(&err, "%s", common), HD_E_CONFIG, "there is nothing to compare with");
    assert_fails(check(&err, "max_kl_div=1 %s", golden), HD_E_CONFIG, "set load_parameters_path=FOLDER");
    assert_fails(check(&err, "%s %s device_memory_gb=0.0001", common, golden), HD_E_CONFIG, "the model needs 0.00");
}

static void a_line_of_json_per_prompt(void **state)
{
    hd_err err;
    char *text;
    size_t n;
    const char *path = hd_temp_path(*state, "metrics.jsonl");
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 golden_logits_path=tests/golden/check/v3/golden.jsonl max_kl_div=1e-8 metrics_file=%s", path));
    assert_ok(hd_io_read_file(path, 1 << 20, &text, &n, &err));
    int lines = 0;
    for (size_t i = 0; i < n; i++) { lines += text[i] == '\n'; }
    assert_int_equal(lines, 3);
    assert_non_null(strstr(text, "{\"prompt_number\": 3, \"prompt\": \"long\", \"tokens\": 40, \"compared\": 40, \"passed\": true, \"max_kl_div\": "));
    assert_non_null(strstr(text, "\"expert_choices\": 40, \"expert_flips\": 0"));
    hd_free(text);
}

/* Swaps the two experts of every token in a dump: the order of a set means nothing. */
static void swap_pairs(char *data, const hd_st_reader *st, const char *name)
{
    int64_t at = hd_st_find(st, name);
    assert_true(at >= 0);
    hd_st_info info = hd_st_get(st, at);
    assert_int_equal(info.shape[1], 2);
    for (int64_t t = 0; t < info.shape[0]; t++) {
        char *pair = data + info.offset + 8 * t, first[4];
        memcpy(first, pair, 4);
        memcpy(pair, pair + 4, 4);
        memcpy(pair + 4, first, 4);
    }
}

static void experts_have_no_order(void **state)
{
    hd_err err = {0};
    char *data;
    size_t n;
    hd_block_file file;
    hd_st_reader *st;
    const char *path = hd_temp_path(*state, "swapped.safetensors");
    assert_ok(hd_io_read_file("tests/golden/check/v3/dump/prompt_000.safetensors", 1 << 20, &data, &n, &err));
    hd_block_file_of_memory(data, n, &file);
    assert_ok(hd_st_open(&file, &st, &err));
    swap_pairs(data, st, "layers.1.expert_ids");
    swap_pairs(data, st, "layers.1.expert_weights");
    assert_ok(hd_io_write_file(path, data, n, &err));
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 bisect=%s", path));
    swap_pairs(data, st, "layers.1.expert_ids");
    assert_ok(hd_io_write_file(path, data, n, &err));
    assert_fails(check(&err, "load_parameters_path=tests/golden/check/v3 bisect=%s", path), HD_E_VERIFY, "layers.1.expert_weights");
    assert_ok(hd_io_unlink(path, &err));
    hd_st_close(st);
    hd_block_file_close(&file);
    hd_free(data);
}

/* Where the bytes of a row of a tensor are. */
static char *row_of(char *data, const hd_st_reader *st, const char *name, int64_t row)
{
    int64_t at = hd_st_find(st, name);
    if (at < 0) { fail_msg("no tensor %s", name); }
    hd_st_info info = hd_st_get(st, at);
    return data + info.offset + row * (info.bytes / info.shape[0]);
}

/* Another expert is a difference, unless the dump says that it was a near-tie: then the token is left out from there on. */
static void near_ties_are_left_out(void **state)
{
    hd_err err = {0};
    char *data;
    size_t n;
    hd_block_file file;
    hd_st_reader *st;
    float gap = 1e-9f, other = 99.0f;
    const char *path = hd_temp_path(*state, "tie.safetensors");
    assert_ok(hd_io_read_file("tests/golden/check/v3/dump/prompt_000.safetensors", 1 << 20, &data, &n, &err));
    hd_block_file_of_memory(data, n, &file);
    assert_ok(hd_st_open(&file, &st, &err));
    int32_t *ids = (int32_t *)(void *)row_of(data, st, "layers.1.expert_ids", 2), wrong = 0;
    while (wrong == ids[0] || wrong == ids[1]) { wrong++; }
    memcpy(&ids[0], &wrong, 4);
    assert_ok(hd_io_write_file(path, data, n, &err));
    assert_fails(check(&err, "load_parameters_path=tests/golden/check/v3 bisect=%s", path), HD_E_VERIFY, "layers.1.expert_ids");
    assert_said("1 of 6 tokens  differs");
    memcpy(row_of(data, st, "layers.1.expert_gaps", 2), &gap, 4);
    memcpy(row_of(data, st, "layers.1.output", 2), &other, 4);
    memcpy(row_of(data, st, "logits", 2), &other, 4);
    assert_ok(hd_io_write_file(path, data, n, &err));
    assert_ok(check(&err, "load_parameters_path=tests/golden/check/v3 bisect=%s", path));
    assert_said("0 of 6 tokens, 1 more at near-ties, left out from here on");
    memcpy(row_of(data, st, "logits", 3), &other, 4); /* the others are still compared */
    assert_ok(hd_io_write_file(path, data, n, &err));
    assert_fails(check(&err, "load_parameters_path=tests/golden/check/v3 bisect=%s", path), HD_E_VERIFY, "is logits");
    assert_ok(hd_io_unlink(path, &err));
    hd_st_close(st);
    hd_block_file_close(&file);
    hd_free(data);
}

static void damaged_dumps(void **state)
{
    hd_err err;
    const char *common = "load_parameters_path=tests/golden/check/v3";
    assert_fails(check(&err, "%s bisect=tests/golden/check/v3/model.safetensors", common), HD_E_CORRUPT, "this is no dump of activations");
    assert_fails(check(&err, "%s bisect=tests/golden/check/v3/config.json", common), HD_E_CORRUPT, "config.json");
    assert_fails(check(&err, "%s bisect=tests/golden/check/nothing", common), HD_E_IO, "tests/golden/check/nothing");
    assert_fails(check(&err, "%s max_target_length=500 bisect=tests/golden/hf_mtp.safetensors", common), HD_E_CONFIG, "hf_mtp.safetensors: token 0 is 86, the model's vocabulary has 40");
    assert_fails(check(&err, "%s bisect=%s", common, (const char *)*state), HD_E_CONFIG, "no dump (*.safetensors) is in this folder");
    assert_fails(check(&err, "%s max_target_length=5 bisect=tests/golden/check/v3/dump", common), HD_E_CONFIG, "prompt_000.safetensors: the prompt has 6 tokens and max_target_length is 5");
    assert_fails(check(&err, "load_parameters_path=tests/golden/check/v2 bisect=tests/golden/check/v3/dump"), HD_E_VERIFY, "the first activation that differs is embed");
}

/* Every allocation fails once: a message, nothing lost. */
static void failing_memory(void **state)
{
    (void)state;
    hd_err err;
    const char *words = "load_parameters_path=tests/golden/check/v3 golden_logits_path=tests/golden/check/v3/golden.jsonl max_kl_div=1e-8 "
                        "bisect=tests/golden/check/v3/dump token_size=2";
    assert_ok(check(&err, "%s", words));
    size_t step = hd_test_soak() ? 1 : 7;
    for (size_t k = 1;; k += step) {
        hd_buf_free(&said);
        size_t before = hd_alloc_get_stats().live_calls;
        hd_alloc_fail_at(k, 0);
        hd_status st = check(&err, "%s", words);
        hd_alloc_fail_at(0, 0);
        hd_buf_free(&said);
        assert_int_equal(hd_alloc_get_stats().live_calls, before);
        if (st == HD_OK) { break; }
        if (st != HD_E_NOMEM) { fail_msg("allocation %zu: %s, %s", k, hd_status_name(st), err.msg); }
    }
}

static int teardown(void **state)
{
    hd_buf_free(&said);
    return hd_temp_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers),
        cmocka_unit_test(chunks_and_storage_change_nothing),
        cmocka_unit_test(many_prompts_take_several_passes),
        cmocka_unit_test(one_weight_is_found_and_named),
        cmocka_unit_test(one_number_of_the_config_is_found_and_named),
        cmocka_unit_test(only_what_is_asked_is_compared),
        cmocka_unit_test(a_line_of_json_per_prompt),
        cmocka_unit_test(experts_have_no_order),
        cmocka_unit_test(near_ties_are_left_out),
        cmocka_unit_test(damaged_dumps),
        cmocka_unit_test(failing_memory),
    };
    return cmocka_run_group_tests(tests, hd_temp_setup, teardown);
}
