/* config.json: the released models, defaults of absent fields, contradictions, and the way back. */
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "checkpoint/hf_config.h"

static hd_err err;

static hd_status parse(const char *text, hd_dims *dims) { return hd_hf_config_parse(text, strlen(text), "config.json", dims, &err); }

static const char v2_lite[] =
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,\"auto_map\":{\"AutoConfig\":\"x.Y\"},"
    "\"aux_loss_alpha\":0.001,\"bos_token_id\":100000,\"eos_token_id\":100001,\"first_k_dense_replace\":1,\"hidden_act\":\"silu\","
    "\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":10944,\"kv_lora_rank\":512,\"max_position_embeddings\":163840,"
    "\"model_type\":\"deepseek_v2\",\"moe_intermediate_size\":1408,\"moe_layer_freq\":1,\"n_group\":1,\"n_routed_experts\":64,"
    "\"n_shared_experts\":2,\"norm_topk_prob\":false,\"num_attention_heads\":16,\"num_experts_per_tok\":6,\"num_hidden_layers\":27,"
    "\"num_key_value_heads\":16,\"pretraining_tp\":1,\"q_lora_rank\":null,\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,"
    "\"rms_norm_eps\":1e-06,\"rope_scaling\":{\"beta_fast\":32,\"beta_slow\":1,\"factor\":40,\"mscale\":0.707,\"mscale_all_dim\":0.707,"
    "\"original_max_position_embeddings\":4096,\"type\":\"yarn\"},\"rope_theta\":10000,\"routed_scaling_factor\":1.0,\"scoring_func\":\"softmax\","
    "\"seq_aux\":true,\"tie_word_embeddings\":false,\"topk_group\":1,\"topk_method\":\"greedy\",\"torch_dtype\":\"bfloat16\",\"use_cache\":true,"
    "\"v_head_dim\":128,\"vocab_size\":102400}";

static const char v3[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":129280,\"hidden_size\":7168,\"intermediate_size\":18432,\"moe_intermediate_size\":2048,"
    "\"num_hidden_layers\":61,\"num_nextn_predict_layers\":1,\"num_attention_heads\":128,\"num_key_value_heads\":128,\"n_shared_experts\":1,"
    "\"n_routed_experts\":256,\"ep_size\":1,\"routed_scaling_factor\":2.5,\"kv_lora_rank\":512,\"q_lora_rank\":1536,\"qk_rope_head_dim\":64,"
    "\"v_head_dim\":128,\"qk_nope_head_dim\":128,\"topk_method\":\"noaux_tc\",\"n_group\":8,\"topk_group\":4,\"num_experts_per_tok\":8,"
    "\"moe_layer_freq\":1,\"first_k_dense_replace\":3,\"norm_topk_prob\":true,\"scoring_func\":\"sigmoid\",\"max_position_embeddings\":163840,"
    "\"rms_norm_eps\":1e-06,\"rope_theta\":10000,\"rope_scaling\":{\"beta_fast\":32,\"beta_slow\":1,\"factor\":40,\"mscale\":1.0,"
    "\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":4096,\"type\":\"yarn\"},\"bos_token_id\":0,\"eos_token_id\":1,"
    "\"quantization_config\":{\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}}";

static void released_models(void **state)
{
    (void)state;
    hd_dims d;
    assert_ok(parse(v2_lite, &d));
    assert_true(d.family == HD_FAMILY_V2 && d.q_lora_rank == 0 && d.n_layer == 27 && d.n_dense_layer == 1 && d.n_expert == 64);
    assert_true(d.router.group_rule == HD_GROUP_NONE && d.router.score_func == HD_SCORE_SOFTMAX && !d.router.normalize && d.router.top_k == 6);
    assert_true(!d.router_bias && d.n_mtp == 0 && d.bos_token_id == 100000 && d.rope.yarn && d.rope.factor == 40.0);
    assert_true(fabs(d.softmax_scale * sqrt(192.0) - 1.58963) < 1e-4); /* the squared factor of V2-Lite */
    assert_ok(hd_dims_validate(&d, &err));
    assert_true(hd_dims_validate(&d, &err) == HD_OK);
    assert_ok(parse(v3, &d));
    assert_true(d.family == HD_FAMILY_V3 && d.q_lora_rank == 1536 && d.n_expert == 256 && d.n_mtp == 1 && d.router_bias);
    assert_true(d.router.group_rule == HD_GROUP_TOP2_SUM && d.router.n_group == 8 && d.router.topk_group == 4 && d.router.normalize);
    assert_true(d.router.scale_normalized && d.router.routed_scaling == 2.5 && d.router.score_func == HD_SCORE_SIGMOID);
    assert_ok(hd_dims_validate(&d, &err));
}

static void defaults(void **state)
{
    (void)state;
    hd_dims d;
    assert_ok(parse("{\"model_type\": \"deepseek_v3\"}", &d));
    assert_true(d.vocab_size == 129280 && d.hidden_size == 7168 && d.n_layer == 61 && d.n_dense_layer == 3 && d.n_expert == 256);
    assert_true(d.router.n_group == 8 && d.router.top_k == 8 && d.router.normalize && d.n_mtp == 0 && !d.rope.yarn);
    assert_true(d.max_position_embeddings == 4096 && d.bos_token_id == 0 && d.q_lora_rank == 1536);
    assert_true(fabs(d.softmax_scale - 1.0 / sqrt(192.0)) < 1e-12);
    assert_ok(parse("{\"model_type\": \"deepseek_v2\", \"num_experts_per_tok\": 6}", &d));
    assert_true(d.vocab_size == 32000 && d.hidden_size == 4096 && d.n_layer == 32 && d.n_dense_layer == 0 && d.n_expert == 64);
    assert_true(d.router.n_group == 1 && d.router.topk_group == 1 && !d.router.normalize && d.n_shared_expert == 2);
    assert_true(d.bos_token_id == 1 && d.eos_token_id == 2);
    /* YaRN's own defaults; mscale_all_dim absent means no correction of the softmax. */
    assert_ok(parse("{\"model_type\": \"deepseek_v3\", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}", &d));
    assert_true(d.rope.yarn && d.rope.beta_fast == 32.0 && d.rope.beta_slow == 1.0 && d.rope.original_max_position_embeddings == 4096);
    assert_true(d.rope.mscale == 0.0 && d.rope.mscale_all_dim == 0.0 && d.rope.truncate && d.rope.attention_factor < 0.0);
    assert_true(fabs(d.softmax_scale - 1.0 / sqrt(192.0)) < 1e-12);
    /* transformers 5 */
    assert_ok(parse("{\"model_type\": \"deepseek_v3\", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5e4}}", &d));
    assert_true(!d.rope.yarn && d.rope.theta == 5e4);
    assert_ok(parse("{\"model_type\": \"deepseek_v3\", \"rope_scaling\": null, \"eos_token_id\": [7, 8], \"bos_token_id\": null}", &d));
    assert_true(!d.rope.yarn && d.eos_token_id == 7 && d.bos_token_id == -1);
    assert_ok(parse("{\"model_type\": \"deepseek_v3\", \"n_routed_experts\": null, \"q_lora_rank\": 0}", &d));
    assert_true(d.n_expert == 0 && d.q_lora_rank == 0 && d.n_shared_expert == 0 && !d.router_bias);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *message;
        hd_status status;
    } rows[] = {
        {"\"model_type\": \"llama\"", "model_type is \"llama\", want deepseek_v2 or deepseek_v3", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v32\"", "deepseek_v32", HD_E_UNSUPPORTED},
        {"\"x\": 1", "model_type is \"\"", HD_E_UNSUPPORTED},
        {"\"model_type\": 3", "model_type: ", HD_E_CORRUPT},
        {"\"model_type\": \"deepseek_v3\", \"tie_word_embeddings\": true", "tie_word_embeddings", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"attention_bias\": true", "attention_bias", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"hidden_act\": \"gelu\"", "hidden_act", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"rope_interleave\": false", "rope_interleave", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"moe_layer_freq\": 2", "moe_layer_freq", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", "rope_scaling", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"topk_method\": \"magic\"", "topk_method is \"magic\"", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"scoring_func\": \"tanh\"", "scoring_func is \"tanh\"", HD_E_UNSUPPORTED},
        {"\"model_type\": \"deepseek_v3\", \"num_key_value_heads\": 8", "num_key_value_heads is 8", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"qk_head_dim\": 100", "qk_head_dim is 100", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"qk_rope_head_dim\": 63", "even", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"n_group\": 7", "n_group 7", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"topk_group\": 9", "topk_group 9", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"num_experts_per_tok\": 300", "num_experts_per_tok is 300", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v2\"", "num_experts_per_tok is 0, want 1", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"hidden_size\": 0", "hidden_size is 0", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"vocab_size\": 99999999999", "vocab_size is 99999999999", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": -3", "num_hidden_layers is -3", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"rms_norm_eps\": 0.0", "rms_norm_eps 0", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"rope_theta\": -1", "rope_theta -1", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0.5}", "factor 0.5", HD_E_CONFIG},
        {"\"model_type\": \"deepseek_v3\", \"hidden_size\": 7.5", "hidden_size: ", HD_E_CORRUPT},
        {"\"model_type\": \"deepseek_v3\", \"hidden_size\": \"7168\"", "hidden_size: ", HD_E_CORRUPT},
        {"\"model_type\": \"deepseek_v3\", \"norm_topk_prob\": 1", "norm_topk_prob: ", HD_E_CORRUPT},
        {"\"model_type\": \"deepseek_v3\", \"rope_scaling\": []", "", HD_E_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[512];
        hd_dims d;
        (void)snprintf(text, sizeof text, "{%s}", rows[i].fields);
        hd_status st = parse(text, &d);
        if (st != rows[i].status || strstr(err.msg, rows[i].message) == NULL) {
            fail_msg("%s: %s: %s", rows[i].fields, hd_status_name(st), err.msg);
        }
    }
    hd_dims d;
    assert_int_equal(parse("", &d), HD_E_CORRUPT);
    assert_int_equal(parse("{}x", &d), HD_E_CORRUPT);
}

static void way_back(void **state)
{
    (void)state;
    static const char *const texts[] = {v2_lite, v3, "{\"model_type\": \"deepseek_v3\"}",
                                        "{\"model_type\": \"deepseek_v3\", \"num_nextn_predict_layers\": 2, \"mtp_use_shared_head_norm\": false}",
                                        "{\"model_type\": \"deepseek_v3\", \"n_routed_experts\": null, \"first_k_dense_replace\": 61, \"num_experts_per_tok\": 0}",
                                        "{\"model_type\": \"deepseek_v2\", \"topk_method\": \"group_limited_greedy\", \"n_group\": 8, \"topk_group\": 3, "
                                        "\"num_experts_per_tok\": 6, \"routed_scaling_factor\": 16.0, \"eos_token_id\": null, "
                                        "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.5, \"truncate\": false, \"attention_factor\": 1.25, \"mscale\": 0.707}}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        hd_dims d = {0}, back = {0};
        hd_buf text = {0};
        assert_ok(parse(texts[i], &d));
        hd_hf_config_write(&d, HD_DTYPE_BF16, &text);
        assert_ok(hd_buf_check(&text, &err));
        assert_ok(hd_hf_config_parse(text.data, text.n, "written", &back, &err));
        assert_true(d.mtp_own_norm == (d.n_mtp != 2));
        if (memcmp(&d, &back, sizeof d) != 0) { fail_msg("config %zu changed on its way through:\n%s", i, text.data); }
        assert_non_null(strstr(text.data, "\"torch_dtype\": \"bfloat16\""));
        assert_null(strstr(text.data, "quantization_config"));
        hd_buf_free(&text);
    }
}

static void memory_runs_out(void **state)
{
    (void)state;
    hd_dims d;
    size_t live = hd_alloc_get_stats().live_calls;
    for (size_t k = 1;; k++) {
        hd_alloc_fail_at(k, 1);
        hd_status st = parse(v3, &d);
        hd_alloc_fail_at(0, 0);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(released_models), cmocka_unit_test(defaults), cmocka_unit_test(refused),
                                       cmocka_unit_test(way_back), cmocka_unit_test(memory_runs_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
