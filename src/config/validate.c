/* Refusals, and the rules that bind several keys.  The range of a single key is checked where it is read. */
#include <math.h>
#include <string.h>

#include "base/buf.h"
#include "config/layers.h"

enum { BYTE_VOCAB = 259 }; /* 256 bytes, BOS, EOS, padding */

static bool is_command(const hd_config *config, unsigned commands)
{
    return config->command != HD_FOR_ALL && (config->command & commands) != 0;
}

static int64_t integer(const hd_config *config, hd_config_key key) { return hd_config_int(config, key); }

#define RULE(holds, key, ...)                                                                        \
    do {                                                                                             \
        if (!(holds)) { return rule_fault(config, HD_KEY_##key, HD_E_CONFIG, err, __VA_ARGS__); } \
    } while (0)
#define SUPPORTED(holds, key, ...)                                                                        \
    do {                                                                                                  \
        if (!(holds)) { return rule_fault(config, HD_KEY_##key, HD_E_UNSUPPORTED, err, __VA_ARGS__); } \
    } while (0)

static hd_status rule_fault(const hd_config *config, hd_config_key key, hd_status code, hd_err *err, const char *format, ...)
    HD_PRINTF(5, 6);
static hd_status rule_fault(const hd_config *config, hd_config_key key, hd_status code, hd_err *err, const char *format, ...)
{
    hd_buf sentence = {.limit = 900};
    va_list args;
    va_start(args, format);
    hd_buf_vprintf(&sentence, format, args);
    va_end(args);
    hd_status st = hd_config_fault(config, key, code, hd_buf_text(&sentence), err);
    hd_buf_free(&sentence);
    return st;
}

/* ---- refusals --------------------------------------------------------------------------------------------------- */

static hd_status refuse_key(const hd_config *config, hd_config_key key, hd_err *err)
{
    const hd_key_row *row = hd_key_row_of(key);
    const hd_value *value = &config->merged.value[key];
    hd_value usual;
    hd_status st = hd_value_default(row, &usual, err);
    if (st != HD_OK) { return st; }
    if (!hd_value_equal(row, &usual, value)) { st = hd_config_fault(config, key, HD_E_UNSUPPORTED, row->reason, err); }
    hd_value_free(&usual);
    return st;
}

static hd_status refuse_value(const hd_config *config, hd_config_key key, hd_err *err)
{
    const hd_key_row *row = hd_key_row_of(key);
    const hd_value *value = &config->merged.value[key];
    const char *text = row->type == HD_TYPE_BOOL ? (value->boolean ? "true" : "false") : value->text;
    if (row->type != HD_TYPE_BOOL && row->type != HD_TYPE_ENUM) { return HD_OK; }
    const char *sentence = hd_key_refused_value(key, text, config->command);
    return sentence == NULL ? HD_OK : hd_config_fault(config, key, HD_E_UNSUPPORTED, sentence, err);
}

static hd_status refuse_object_store(const hd_config *config, hd_config_key key, hd_err *err)
{
    const hd_key_row *row = hd_key_row_of(key);
    const char *path = config->merged.value[key].text;
    if ((row->flags & HD_FLAG_PATH) == 0 || path == NULL) { return HD_OK; }
    const char *store = strstr(path, "gs://") != NULL ? strstr(path, "gs://") : strstr(path, "s3://");
    hd_status st = store != NULL ? hd_config_check_path(store, err) : HD_OK; /* dataset_path may hold several */
    if (st != HD_OK) { hd_err_prefix(err, "%s=%.200s: ", row->name, path); }
    return st;
}

static hd_status refuse(const hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        hd_config_key key = (hd_config_key)k;
        HD_TRY(refuse_object_store(config, key, err));
        if (hd_key_row_of(key)->status == HD_KEY_REFUSED) { HD_TRY(refuse_key(config, key, err)); }
        if (hd_key_row_of(key)->status == HD_KEY_USED) { HD_TRY(refuse_value(config, key, err)); }
    }
out:
    return st;
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

static hd_status check_shape(const hd_config *config, hd_err *err)
{
    size_t n;
    const char *const *activations = hd_config_list(config, HD_KEY_mlp_activations, &n);
    bool swiglu = n == 2 && strcmp(activations[0], "silu") == 0 && strcmp(activations[1], "linear") == 0;
    SUPPORTED(swiglu, mlp_activations, "DeepSeek models use [silu, linear]");
    SUPPORTED(integer(config, HD_KEY_global_parameter_scale) == 1, global_parameter_scale,
              "only 1 is supported; set the base_* dimensions themselves");
    RULE(integer(config, HD_KEY_first_num_dense_layers) <= integer(config, HD_KEY_base_num_decoder_layers), first_num_dense_layers,
         "there are only %lld layers (base_num_decoder_layers)", (long long)integer(config, HD_KEY_base_num_decoder_layers));
    RULE(integer(config, HD_KEY_base_num_query_heads) == integer(config, HD_KEY_base_num_kv_heads), base_num_kv_heads,
         "MLA wants as many key and value heads as query heads (%lld)", (long long)integer(config, HD_KEY_base_num_query_heads));
    RULE(integer(config, HD_KEY_qk_rope_head_dim) % 2 == 0, qk_rope_head_dim, "rotary dimensions come in pairs; want an even number");
    return HD_OK;
}

static hd_status check_groups(const hd_config *config, hd_err *err)
{
    int64_t experts = integer(config, HD_KEY_num_experts), chosen = integer(config, HD_KEY_num_experts_per_tok);
    int64_t groups = integer(config, HD_KEY_n_routing_groups), kept = integer(config, HD_KEY_topk_routing_group);
    RULE((groups > 0) == (kept > 0), topk_routing_group, "n_routing_groups is %lld; set both, or leave both at -1", (long long)groups);
    if (groups > 0) {
        RULE(experts % groups == 0, n_routing_groups, "%lld experts cannot be cut into equal groups", (long long)experts);
        RULE(kept <= groups, topk_routing_group, "there are only %lld groups (n_routing_groups)", (long long)groups);
        RULE(experts / groups * kept >= chosen, topk_routing_group,
             "%lld groups hold %lld experts, and a token visits %lld (num_experts_per_tok)", (long long)kept,
             (long long)(experts / groups * kept), (long long)chosen);
    }
    bool greedy = hd_config_is(config, HD_KEY_topk_method, "greedy");
    bool limited = hd_config_is(config, HD_KEY_topk_method, "group_limited_greedy");
    RULE(!greedy || groups < 0, topk_method, "greedy choice knows no groups, and n_routing_groups is %lld", (long long)groups);
    RULE(!limited || groups > 0, topk_method, "this choice needs n_routing_groups and topk_routing_group");
    return HD_OK;
}

static hd_status check_experts(const hd_config *config, hd_err *err)
{
    int64_t experts = integer(config, HD_KEY_num_experts), chosen = integer(config, HD_KEY_num_experts_per_tok);
    if (experts > 1) {
        RULE(integer(config, HD_KEY_base_moe_mlp_dim) > 0, num_experts, "experts need a width; set base_moe_mlp_dim");
        RULE(chosen <= experts, num_experts_per_tok, "there are only %lld experts", (long long)experts);
        RULE(integer(config, HD_KEY_first_num_dense_layers) > 0 ||
                 integer(config, HD_KEY_base_mlp_dim) == integer(config, HD_KEY_base_moe_mlp_dim),
             base_mlp_dim, "a model without dense layers wants base_mlp_dim equal to base_moe_mlp_dim (%lld)",
             (long long)integer(config, HD_KEY_base_moe_mlp_dim));
    }
    RULE(hd_config_float(config, HD_KEY_routed_bias_update_rate) == 0 || hd_config_bool(config, HD_KEY_routed_bias),
         routed_bias_update_rate, "there is no bias to update; set routed_bias=true, or the rate to 0");
    SUPPORTED(!hd_config_bool(config, HD_KEY_norm_topk_prob) || hd_config_is(config, HD_KEY_routed_score_func, "sigmoid"),
              norm_topk_prob, "softmax routing (V2) does not renormalise the chosen weights");
    return check_groups(config, err);
}

static hd_status check_data(const hd_config *config, hd_err *err)
{
    bool text = hd_config_is(config, HD_KEY_dataset_type, "text");
    if (is_command(config, HD_FOR_TRAIN | HD_FOR_SFT)) {
        RULE(!text || !hd_config_is_null(config, HD_KEY_dataset_path), dataset_type,
             "set dataset_path=FILES; for random tokens there is dataset_type=synthetic");
        RULE(!text || integer(config, HD_KEY_eval_interval) <= 0 || hd_config_float(config, HD_KEY_eval_fraction) > 0, eval_interval,
             "evaluation needs data that is held out; set eval_fraction above 0");
        bool byte = hd_config_is(config, HD_KEY_tokenizer_type, "byte");
        RULE(!text || !byte || integer(config, HD_KEY_vocab_size) >= BYTE_VOCAB, vocab_size,
             "tokenizer_type=byte wants at least %d", BYTE_VOCAB);
    }
    bool reads_text = is_command(config, HD_FOR_DECODE | HD_FOR_CHECK | HD_FOR_EVAL | HD_FOR_TOKENIZE) ||
                      (is_command(config, HD_FOR_TRAIN | HD_FOR_SFT) && text);
    bool known = hd_config_is(config, HD_KEY_tokenizer_type, "byte") || hd_config_is(config, HD_KEY_tokenizer_type, "huggingface");
    SUPPORTED(known || !reads_text, tokenizer_type, "DeepSeek's tokenizers are huggingface (tokenizer.json); small models can use byte");
    double expansion = hd_config_float(config, HD_KEY_expansion_factor_real_data);
    SUPPORTED(expansion <= 0 || expansion == 1, expansion_factor_real_data, "every rank reads its own rows; leave it at -1");
    return HD_OK;
}

static hd_status check_training(const hd_config *config, hd_err *err)
{
    int64_t tiles = integer(config, HD_KEY_num_vocab_tiling);
    double tokens = hd_config_float(config, HD_KEY_per_device_batch_size) * (double)integer(config, HD_KEY_max_target_length);
    RULE(fmod(tokens, (double)tiles) == 0, num_vocab_tiling, "per_device_batch_size x max_target_length (%g) is not a multiple of it", tokens);
    if (hd_config_is(config, HD_KEY_lr_schedule_type, "wsd")) {
        double warmup = hd_config_float(config, HD_KEY_warmup_steps_fraction);
        RULE(warmup + hd_config_float(config, HD_KEY_wsd_decay_steps_fraction) <= 1, wsd_decay_steps_fraction,
             "with warmup_steps_fraction (%g) it is more than 1", warmup);
    }
    RULE(hd_config_is_null(config, HD_KEY_load_parameters_path) || hd_config_is_null(config, HD_KEY_load_full_state_path),
         load_full_state_path, "load_parameters_path is set too; a run starts from one of them");
    if (is_command(config, HD_FOR_TRAIN | HD_FOR_SFT)) {
        RULE(integer(config, HD_KEY_steps) > 0 || (integer(config, HD_KEY_steps) == -1 && integer(config, HD_KEY_learning_rate_schedule_steps) > 0),
             steps, "want at least 1, or -1 with learning_rate_schedule_steps set");
    }
    return HD_OK;
}

static hd_status check_decoding(const hd_config *config, hd_err *err)
{
    double p = hd_config_float(config, HD_KEY_decode_sampling_nucleus_p);
    bool topk = hd_config_is(config, HD_KEY_decode_sampling_strategy, "topk");
    bool nucleus = hd_config_is(config, HD_KEY_decode_sampling_strategy, "nucleus");
    bool composite = hd_config_is(config, HD_KEY_decode_sampling_strategy, "composite");
    if (!is_command(config, HD_FOR_DECODE | HD_FOR_EVAL)) { return HD_OK; }
    bool chat = hd_config_bool(config, HD_KEY_use_chat_template);
    RULE(chat || hd_config_is_null(config, HD_KEY_system_prompt), system_prompt, "a conversation wants use_chat_template=true");
    RULE(chat || hd_config_is_null(config, HD_KEY_chat_template), chat_template, "a template is used with use_chat_template=true");
    RULE(chat || hd_config_is_null(config, HD_KEY_chat_template_path), chat_template_path, "a template is used with use_chat_template=true");
    RULE(integer(config, HD_KEY_max_target_length) > integer(config, HD_KEY_max_prefill_predict_length), max_target_length,
         "prompt and answer together must be longer than max_prefill_predict_length (%lld)",
         (long long)integer(config, HD_KEY_max_prefill_predict_length));
    RULE(!(topk || composite) || integer(config, HD_KEY_decode_sampling_top_k) > 0, decode_sampling_top_k, "this strategy wants at least 1");
    RULE(!nucleus || p >= 0, decode_sampling_nucleus_p, "this strategy wants 0 to 1");
    RULE(!composite || p > 0, decode_sampling_nucleus_p, "this strategy wants above 0, at most 1");
    bool from_file = !hd_config_is_null(config, HD_KEY_prompt_file), input = hd_config_is(config, HD_KEY_prompt, "-");
    RULE(!from_file || !hd_config_is_set(config, HD_KEY_prompt), prompt_file, "prompt is set too; the prompts come from one of them");
    RULE(from_file || input || !hd_config_is_set(config, HD_KEY_documents), documents, "it says how prompt_file= or prompt=- is cut, and neither is set");
    size_t n_stop;
    const char *const *stop = hd_config_list(config, HD_KEY_stop, &n_stop);
    for (size_t i = 0; i < n_stop; i++) { RULE(stop[i][0] != '\0', stop, "an empty text would stop every answer"); }
    return HD_OK;
}

/* What a user of `convert` would set by mistake, or for a format that it does not write. */
static hd_status check_conversion(const hd_config *config, hd_err *err)
{
    if (!is_command(config, HD_FOR_CONVERT)) { return HD_OK; }
    RULE(!hd_config_is_set(config, HD_KEY_dtype), dtype, "convert writes what save_dtype says");
    RULE(!hd_config_is_set(config, HD_KEY_weight_dtype), weight_dtype, "convert writes what save_dtype says");
    bool packs = hd_config_is(config, HD_KEY_quantization, "int8") || hd_config_is(config, HD_KEY_quantization, "int4");
    RULE(packs || hd_config_is(config, HD_KEY_quantization, ""), quantization, "a folder holds int8 or int4; whether inputs are rounded is said when it is used");
    RULE(!packs || !hd_config_is_set(config, HD_KEY_save_dtype), save_dtype, "quantization says what is written, and all else is kept as it is stored");
    RULE(!hd_config_is_set(config, HD_KEY_scale_fmt) || hd_config_is(config, HD_KEY_save_dtype, "float8_e4m3fn"), scale_fmt,
         "block scales are written with save_dtype=float8_e4m3fn");
    SUPPORTED(!hd_config_is_set(config, HD_KEY_force_unroll), force_unroll, "convert writes HuggingFace folders, not Orbax");
    SUPPORTED(!hd_config_is_set(config, HD_KEY_checkpoint_storage_use_ocdbt), checkpoint_storage_use_ocdbt,
              "convert writes HuggingFace folders, not Orbax");
    SUPPORTED(!hd_config_is_set(config, HD_KEY_checkpoint_storage_use_zarr3), checkpoint_storage_use_zarr3,
              "convert writes HuggingFace folders, not Orbax");
    SUPPORTED(!hd_config_is_set(config, HD_KEY_checkpoint_storage_target_data_file_size_bytes),
              checkpoint_storage_target_data_file_size_bytes, "convert writes HuggingFace folders, not Orbax; max_shard_size_gb bounds a file");
    return HD_OK;
}

hd_status hd_config_validate(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(refuse(config, err));
    HD_TRY(check_shape(config, err));
    HD_TRY(check_experts(config, err));
    HD_TRY(check_data(config, err));
    HD_TRY(check_training(config, err));
    HD_TRY(check_decoding(config, err));
    st = check_conversion(config, err);
out:
    return st;
}
