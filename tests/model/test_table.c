/* The tensor table, the numbers derived from it, dims from configurations, and the plan of the largest model.
 * Wanted numbers: architecture notes 4.1 and 4.5, MaxText notes 1.5. */
#include <time.h>

#include "hadal/config.h"
#include "model/fixture.h"

/* ---- released models ------------------------------------------------------------------------------------------------------- */

static hd_dims common(void)
{
    hd_dims d = tiny_dims();
    d.kv_lora_rank = 512;
    d.qk_nope_head_dim = 128;
    d.qk_rope_head_dim = d.rope.dim = 64;
    d.v_head_dim = 128;
    d.max_position_embeddings = 163840;
    d.rope.original_max_position_embeddings = 4096;
    return d;
}

static hd_dims v2_lite(void)
{
    hd_dims d = common();
    d.family = HD_FAMILY_V2;
    d.vocab_size = 102400;
    d.hidden_size = 2048;
    d.intermediate_size = 10944;
    d.moe_intermediate_size = 1408;
    d.n_layer = 27;
    d.n_dense_layer = 1;
    d.n_head = 16;
    d.q_lora_rank = 0;
    d.n_expert = 64;
    d.n_shared_expert = 2;
    d.router_bias = false;
    d.router.top_k = 6;
    d.router.group_rule = HD_GROUP_NONE;
    return d;
}

static hd_dims v2(void)
{
    hd_dims d = v2_lite();
    d.hidden_size = 5120;
    d.intermediate_size = 12288;
    d.moe_intermediate_size = 1536;
    d.n_layer = 60;
    d.n_head = 128;
    d.q_lora_rank = 1536;
    d.n_expert = 160;
    return d;
}

static hd_dims v3(void)
{
    hd_dims d = common();
    d.vocab_size = 129280;
    d.hidden_size = 7168;
    d.intermediate_size = 18432;
    d.moe_intermediate_size = 2048;
    d.n_layer = 61;
    d.n_dense_layer = 3;
    d.n_head = 128;
    d.q_lora_rank = 1536;
    d.n_expert = 256;
    d.router.top_k = 8;
    d.router.n_group = 8;
    d.router.topk_group = 4;
    return d;
}

static hd_dims maxtext_v3_test(void)
{
    hd_dims d = v3();
    d.hidden_size = 512;
    d.moe_intermediate_size = 512;
    return d;
}

static hd_dims maxtext_v3_tiny(void)
{
    hd_dims d = v3();
    d.hidden_size = d.intermediate_size = d.moe_intermediate_size = 64;
    d.n_head = 4;
    d.n_expert = 16;
    d.q_lora_rank = 32;
    d.kv_lora_rank = 16;
    return d;
}

/* ---- counts ------------------------------------------------------------------------------------------------------------------- */

static void test_counts(void **state)
{
    (void)state;
    const struct { hd_dims d; int64_t total, active; } cases[] = {
        {v2_lite(), 15706484224, 2451435008},
        {v2(), 235741434880, 20851512320},
        {v3(), 671026419200, 36625618432},
        {maxtext_v3_test(), 15851427840, 0},
        {maxtext_v3_tiny(), 33706448, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(hd_dims_count_params(&cases[i].d), cases[i].total);
        if (cases[i].active > 0) { assert_int_equal(hd_dims_count_active_params(&cases[i].d), cases[i].active); }
    }
}

/* Elements of the rows that hold in one layer, and how many HuggingFace tensors those are. */
static int64_t layer_elements(const hd_dims *d, int64_t layer, int64_t *n_tensor, int64_t *n_fp8)
{
    int n;
    int64_t total = 0;
    const hd_tensor_spec *table = hd_tensor_table(&n);
    for (int s = 0; s < n; s++) {
        if (!hd_tensor_in_layer(d, &table[s], layer)) { continue; }
        int64_t files = hd_tensor_per_expert(&table[s]) ? d->n_expert : 1;
        const char *name = table[s].hf_name;
        bool quantised = strstr(name, "_proj") != NULL && strstr(name, "eh_proj") == NULL;
        total += hd_tensor_spec_count(d, &table[s]);
        *n_tensor += files;
        *n_fp8 += quantised ? files : 0;
    }
    return total;
}

static void test_layers(void **state)
{
    (void)state;
    hd_dims lite = v2_lite(), big = v3();
    int64_t n = 0, fp8 = 0;
    big.n_mtp = 1;
    assert_int_equal(layer_elements(&lite, 0, &n, &fp8), 81007104);
    assert_int_equal(layer_elements(&lite, 26, &n, &fp8), 584847872);
    assert_int_equal(layer_elements(&big, 0, &n, &fp8), 583483392);
    assert_int_equal(layer_elements(&big, 60, &n, &fp8), 11507286272);
    assert_int_equal(layer_elements(&big, 61, &n, &fp8), 11610068224);
    assert_int_equal(hd_dims_count_params(&big), 671026419200); /* MTP not counted */
}

/* As many tensors as the released folders hold; V3's has a scale beside each 8-bit tensor and two copies in layer 61. */
static void test_files(void **state)
{
    (void)state;
    hd_dims all[3] = {v2_lite(), v2(), v3()};
    const int64_t wanted[3] = {5291, 29102, 91991};
    all[2].n_mtp = 1;
    for (int i = 0; i < 3; i++) {
        int64_t n = 0, fp8 = 0;
        for (int64_t l = -1; l < all[i].n_layer + all[i].n_mtp; l++) { (void)layer_elements(&all[i], l, &n, &fp8); }
        assert_int_equal(i == 2 ? n + fp8 + 2 : n, wanted[i]);
    }
}

/* ---- names ----------------------------------------------------------------------------------------------------------------------- */

static const hd_tensor_spec *row_named(const char *hf_name, hd_layer_kind layers)
{
    int n;
    const hd_tensor_spec *table = hd_tensor_table(&n);
    for (int s = 0; s < n; s++) {
        if (strcmp(table[s].hf_name, hf_name) == 0 && table[s].layers == layers) { return &table[s]; }
    }
    fail_msg("no row %s", hf_name);
    return NULL;
}

static void check_names(const hd_dims *d, const hd_tensor_spec *spec, int64_t layer, int64_t expert, const char *hf,
                        const char *unscanned, const char *scanned)
{
    char name[HD_NAME_MAX];
    hd_tensor_hf_name(spec, layer, expert, name);
    assert_string_equal(name, hf);
    hd_tensor_orbax_path(d, spec, layer, false, name);
    assert_string_equal(name, unscanned);
    hd_tensor_orbax_path(d, spec, layer, true, name);
    assert_string_equal(name, scanned);
}

static void test_names(void **state)
{
    (void)state;
    hd_dims d = v3();
    d.n_mtp = 2;
    check_names(&d, row_named("model.embed_tokens.weight", HD_LAYERS_GLOBAL), -1, -1, "model.embed_tokens.weight",
                "token_embedder/embedding", "token_embedder/embedding");
    check_names(&d, row_named("model.layers.{i}.self_attn.q_b_proj.weight", HD_LAYERS_ALL), 2, -1,
                "model.layers.2.self_attn.q_b_proj.weight", "decoder/dense_layers_2/self_attention/wq_b/kernel",
                "decoder/dense_layers/self_attention/wq_b/kernel");
    check_names(&d, row_named("model.layers.{i}.mlp.experts.{e}.gate_proj.weight", HD_LAYERS_MOE), 6, 17,
                "model.layers.6.mlp.experts.17.gate_proj.weight", "decoder/moe_layers_3/DeepSeekMoeBlock_0/MoeBlock_0/wi_0",
                "decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/wi_0");
    check_names(&d, row_named("model.layers.{i}.mlp.experts.{e}.down_proj.weight", HD_LAYERS_MOE), 62, -1,
                "model.layers.62.mlp.experts.{e}.down_proj.weight",
                "mtp_block/mtp_layer_2/mtp_2_transformer_layer/DeepSeekMoeBlock_0/MoeBlock_0/wo",
                "mtp_block/mtp_layer_2/mtp_2_transformer_layer/DeepSeekMoeBlock_0/MoeBlock_0/wo");
    check_names(&d, row_named("model.layers.{i}.eh_proj.weight", HD_LAYERS_MTP), 61, -1, "model.layers.61.eh_proj.weight",
                "mtp_block/mtp_layer_1/mtp_1_projection/kernel", "mtp_block/mtp_layer_1/mtp_1_projection/kernel");
    check_names(&d, row_named("model.layers.{i}.shared_head.norm.weight", HD_LAYERS_MTP), 61, -1,
                "model.layers.61.shared_head.norm.weight", "", "");
}

/* No two tensors share a name, and each layer's pointers are all filled: for every family. */
static void test_expansion(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        hd_dims d = tiny_dims();
        d.n_mtp = variant % 2 == 0 ? 2 : 0;
        d.q_lora_rank = variant < 2 ? 14 : 0;
        d.router_bias = variant < 2;
        hd_model_options o = f32_options();
        rows x = rows_random("expansion", 1, 8, d.vocab_size);
        rig g;
        rig_open(&g, &d, &o, &x);
        for (int64_t i = 0; i < g.model.n_param; i++) {
            for (int64_t j = 0; j < i; j++) { assert_string_not_equal(g.model.params[i].name, g.model.params[j].name); }
            const hd_tensor *grad = &g.model.params[i].weight.grad;
            if (grad->n_dim > 0) { assert_int_equal((uintptr_t)grad->data % 64, 0); }
        }
        rig_close(&g);
        rows_free(&x);
    }
}

/* ---- dims ---------------------------------------------------------------------------------------------------------------------------- */

static hd_config *load(const char *a, const char *b, const char *c)
{
    const char *argv[6] = {"base_output_directory=runs", "run_name=none", "dataset_type=synthetic", a, b, c};
    hd_config *config = NULL;
    OK(hd_config_load("train", c != NULL ? 6 : b != NULL ? 5 : 4, argv, "configs", &config, err));
    return config;
}

static hd_dims from_config(const char *model)
{
    hd_config *config = load(model, NULL, NULL);
    hd_dims d;
    OK(hd_dims_from_config(config, &d, err));
    hd_config_free(config);
    return d;
}

static void test_config(void **state)
{
    (void)state;
    hd_dims lite = from_config("model_name=deepseek2-16b"), big = from_config("model_name=deepseek3-671b");
    hd_dims v236 = from_config("model_name=deepseek2-236b");
    assert_int_equal(hd_dims_count_params(&lite), 15706484224);
    assert_int_equal(hd_dims_count_params(&v236), 235741434880);
    assert_int_equal(hd_dims_count_params(&big), 671026419200);
    assert_int_equal(lite.family, HD_FAMILY_V2);
    assert_int_equal(big.family, HD_FAMILY_V3);
    assert_false(lite.router.normalize);
    assert_true(big.router.normalize && big.router.scale_normalized && big.router_bias);
    const double scales[3] = {0.1147213868, 0.1147213868, 0.1352337789};
    const double got[3] = {lite.softmax_scale, v236.softmax_scale, big.softmax_scale};
    hd_assert_abs_f64("softmax scales", got, scales, 3, 1e-10);
    hd_dims small = from_config("model_name=deepseek3-test"), tiny = from_config("model_name=deepseek3-tiny");
    assert_int_equal(hd_dims_count_params(&small), 15851427840);
    assert_int_equal(hd_dims_count_params(&tiny), 33706448);
}

/* The latent norms keep their own epsilon, and only a model whose context was stretched has the YaRN factor. */
static void test_config_traps(void **state)
{
    (void)state;
    hd_dims d;
    hd_config *config = load("model_name=deepseek3-671b", "normalization_layer_epsilon=1e-3", "override_model_config=true");
    OK(hd_dims_from_config(config, &d, err));
    assert_true(d.rms_norm_eps == 1e-3 && d.latent_norm_eps == 1e-6);
    hd_config_free(config);
    config = load("model_name=deepseek3-671b", "max_position_embeddings=4096", "override_model_config=true");
    OK(hd_dims_from_config(config, &d, err));
    assert_true(d.rope.yarn && fabs(d.softmax_scale - 1.0 / sqrt(192.0)) < 1e-12);
    hd_config_free(config);
}

static void check_remat(const char *a, const char *b, const char *c, hd_remat want)
{
    hd_config *config = load(a, b, c);
    hd_remat got;
    OK(hd_remat_from_config(config, &got, err));
    assert_memory_equal(&got, &want, sizeof got);
    hd_config_free(config);
}

static void test_remat_policies(void **state)
{
    (void)state;
    check_remat("remat_policy=full", NULL, NULL, (hd_remat){0});
    hd_remat all_projections = {.query_proj = true, .kv_proj = true, .out_proj = true, .mlpwi = true, .mlpwo = true,
                                .moe_mlpwi = true};
    check_remat("remat_policy=minimal", NULL, NULL, all_projections);
    all_projections.context = true;
    check_remat("remat_policy=minimal_with_context", NULL, NULL, all_projections);
    check_remat("remat_policy=save_dot_with_context_except_mlp", NULL, NULL,
                (hd_remat){.query_proj = true, .kv_proj = true, .context = true, .out_proj = true});
    check_remat("remat_policy=save_dot_except_mlpwi", NULL, NULL,
                (hd_remat){.query_proj = true, .kv_proj = true, .out_proj = true, .mlpwo = true});
    check_remat("remat_policy=save_dot_except_mlp", NULL, NULL,
                (hd_remat){.query_proj = true, .kv_proj = true, .out_proj = true});
    check_remat("remat_policy=save_qkv_proj", NULL, NULL, (hd_remat){.query_proj = true, .kv_proj = true});
    check_remat("remat_policy=save_out_proj", NULL, NULL, (hd_remat){.out_proj = true});
    check_remat("remat_policy=custom", "context=device", "query_wa_proj=device", (hd_remat){.context = true, .query_wa = true});
    check_remat("remat_policy=custom", "moe_mlpwi_0=device", "qkv_proj=device",
                (hd_remat){.query_proj = true, .kv_proj = true, .moe_mlpwi = true});
}

static void test_options(void **state)
{
    (void)state;
    hd_config *config = load("model_name=deepseek3-671b", "weight_dtype=bfloat16", "sparse_matmul=false");
    hd_model_options o;
    OK(hd_model_options_from_config(config, true, &o, err));
    assert_int_equal(o.dtype, HD_DTYPE_BF16);
    assert_int_equal(o.weight_dtype, HD_DTYPE_BF16);
    assert_int_equal(o.mu_dtype, HD_DTYPE_BF16);
    assert_int_equal(o.moe_strategy, HD_MOE_DENSE);
    assert_int_equal(o.attention, HD_ATTENTION_FLASH);
    assert_true(o.training && o.count_padding && !o.narrow_gate_logits && o.mtp_loss_scaling_factor == 0.1);
    hd_config_free(config);
    config = load("max_target_length=64", "sparse_matmul=false", "capacity_factor=1.25");
    OK(hd_model_options_from_config(config, false, &o, err));
    assert_int_equal(o.moe_strategy, HD_MOE_DROPPING);
    assert_int_equal(o.attention, HD_ATTENTION_DOT_PRODUCT);
    assert_int_equal(o.max_positions, 64);
    assert_true(!o.training && o.capacity_factor == 1.25);
    hd_config_free(config);
}

typedef void (*spoil)(hd_dims *d);
static void no_vocab(hd_dims *d) { d->vocab_size = 0; }
static void odd_rope(hd_dims *d) { d->qk_rope_head_dim = d->rope.dim = 7; }
static void other_rope(hd_dims *d) { d->rope.dim = 8; }
static void no_latent(hd_dims *d) { d->kv_lora_rank = 0; }
static void many_groups(hd_dims *d) { d->router.n_group = 3; }
static void few_open(hd_dims *d) { d->router.top_k = 5; }
static void top_k_over(hd_dims *d) { d->router.top_k = 9; }
static void many_dense(hd_dims *d) { d->n_dense_layer = 4; }
static void no_width(hd_dims *d) { d->intermediate_size = 0; }
static void nan_scale(hd_dims *d) { d->softmax_scale = (double)NAN; }
static void no_eps(hd_dims *d) { d->rms_norm_eps = 0.0; }

static void test_validate(void **state)
{
    (void)state;
    const struct { spoil spoil; const char *names; } cases[] = {
        {no_vocab, "vocab_size"},  {odd_rope, "qk_rope_head_dim"},      {other_rope, "qk_rope_head_dim"},
        {no_latent, "kv_lora_rank"}, {many_groups, "n_group"},          {few_open, "num_experts_per_tok"},
        {top_k_over, "num_experts_per_tok"}, {many_dense, "first_k_dense_replace"}, {no_width, "intermediate_size"},
        {nan_scale, "softmax scale"}, {no_eps, "rms_norm_eps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hd_dims d = tiny_dims();
        hd_err err = {0};
        assert_int_equal(hd_dims_validate(&d, &err), HD_OK);
        cases[i].spoil(&d);
        assert_int_equal(hd_dims_validate(&d, &err), HD_E_CONFIG);
        assert_non_null(strstr(err.msg, cases[i].names));
    }
    hd_dims closed = tiny_dims();
    closed.router.top_k = 5;
    closed.router.masked_group_zero = true; /* experts of closed groups can still win there */
    hd_err err = {0};
    assert_int_equal(hd_dims_validate(&closed, &err), HD_OK);
}

/* ---- the plan of 671 billion parameters ------------------------------------------------------------------------------------------------ */

static void test_plan_671b(void **state)
{
    (void)state;
    hd_arena memory[3];
    hd_exec ex;
    hd_model model;
    hd_leaf leaf = {.weight_total = 1.0, .mtp_weight_total = 1.0, .n_seq_total = 1, .n_token_total = 4096, .first = true};
    hd_leaf_rows empty = {.n_seq = 1, .seq_len = 4096};
    hd_tensor metrics;
    hd_dims d = v3();
    d.n_mtp = 1;
    hd_model_options o = f32_options();
    o.dtype = o.weight_dtype = o.mu_dtype = HD_DTYPE_BF16;
    o.max_positions = 4096;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    hd_arena_open_dry(&memory[0], "model");
    hd_arena_open_dry(&memory[1], "step");
    hd_arena_open_dry(&memory[2], "scratch");
    OK(hd_exec_init(&ex, &memory[2], 8, true, err));
    OK(hd_model_open(&d, &o, &ex, &memory[0], &model, err));
    OK(hd_model_init_weights(&model, &ex, err));
    OK(hd_tensor_new_1d(&memory[0], HD_DTYPE_F64, hd_model_n_metric(&model), &metrics, err));
    OK(hd_leaf_upload(&model, &ex, &memory[0], &empty, &leaf, err));
    OK(hd_model_train_leaf(&model, &ex, &memory[1], &leaf, &metrics, err));
    hd_model_close(&model);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    int64_t n = 671026419200 + 11610068224;
    print_message("plan of V3 with MTP: %.3f s, model %.3f TB, step %.2f GB, scratch %.2f GB\n", seconds,
                  (double)memory[0].high * 1e-12, (double)memory[1].high * 1e-9, (double)memory[2].high * 1e-9);
    assert_true(seconds < 10.0);
    /* value 2, master 4, gradient 4, moments 2 + 4 bytes; biases, alignment, RoPE table and inputs besides */
    assert_true((double)memory[0].high >= 16.0 * (double)n && (double)memory[0].high < 16.0001 * (double)n);
    assert_true(memory[1].used == 0 && memory[2].used == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_layers),   cmocka_unit_test(test_files),
        cmocka_unit_test(test_names),  cmocka_unit_test(test_expansion), cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_traps), cmocka_unit_test(test_remat_policies), cmocka_unit_test(test_options),
        cmocka_unit_test(test_validate), cmocka_unit_test(test_plan_671b),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
