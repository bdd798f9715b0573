/* Derived values and the notices at the end of loading.  The numbers come from derived.c. */
#include <string.h>

#include "config/config_internal.h"
#include "config/derived.h"
#include "hadal/log.h"

static hd_status derive_directories(hd_config *config, hd_err *err)
{
    static const struct {
        hd_config_key key;
        const char *name;
    } folders[] = {
        {HD_KEY_checkpoint_dir, "checkpoints"}, {HD_KEY_metrics_dir, "metrics"}, {HD_KEY_tensorboard_dir, "tensorboard"}};
    hd_status st = HD_OK;
    hd_buf path = {0};
    const char *base = hd_config_str(config, HD_KEY_base_output_directory);
    size_t n = strlen(base);
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        hd_buf_clear(&path);
        hd_buf_printf(&path, "%s%s%s/%s/", base, base[n - 1] == '/' ? "" : "/", hd_config_str(config, HD_KEY_run_name), folders[i].name);
        HD_TRY(hd_buf_check(&path, err));
        HD_TRY(hd_config_derive_str(config, folders[i].key, hd_buf_text(&path), err));
    }
out:
    hd_buf_free(&path);
    return st;
}

static hd_status derive_training(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    if (hd_config_int(config, HD_KEY_learning_rate_schedule_steps) == -1) {
        hd_config_derive_int(config, HD_KEY_learning_rate_schedule_steps, hd_config_int(config, HD_KEY_steps));
    }
    if (hd_config_int(config, HD_KEY_steps) == -1) {
        hd_config_derive_int(config, HD_KEY_steps, hd_config_int(config, HD_KEY_learning_rate_schedule_steps));
    }
    if (hd_config_float(config, HD_KEY_eval_per_device_batch_size) == 0) {
        hd_config_derive_float(config, HD_KEY_eval_per_device_batch_size, hd_config_float(config, HD_KEY_per_device_batch_size));
    }
    if (hd_config_is(config, HD_KEY_mu_dtype, "")) {
        HD_TRY(hd_config_derive_str(config, HD_KEY_mu_dtype, hd_config_str(config, HD_KEY_weight_dtype), err));
    }
out:
    return st;
}

static const char *moe_strategy(const hd_config *config)
{
    if (hd_config_int(config, HD_KEY_num_experts) == 1) { return ""; }
    if (hd_config_bool(config, HD_KEY_sparse_matmul)) { return hd_config_bool(config, HD_KEY_megablox) ? "grouped" : "ragged"; }
    return hd_config_float(config, HD_KEY_capacity_factor) > 0 ? "dropping" : "dense";
}

static hd_status derive_model(hd_config *config, hd_err *err)
{
    static const hd_config_key pairs[][2] = {
        {HD_KEY_emb_dim, HD_KEY_base_emb_dim},
        {HD_KEY_num_query_heads, HD_KEY_base_num_query_heads},
        {HD_KEY_num_kv_heads, HD_KEY_base_num_kv_heads},
        {HD_KEY_mlp_dim, HD_KEY_base_mlp_dim},
        {HD_KEY_moe_mlp_dim, HD_KEY_base_moe_mlp_dim},
        {HD_KEY_num_decoder_layers, HD_KEY_base_num_decoder_layers},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        hd_config_derive_int(config, pairs[i][0], hd_config_int(config, pairs[i][1]));
    }
    int64_t layers = hd_config_int(config, HD_KEY_num_decoder_layers);
    int64_t dense = hd_config_int(config, HD_KEY_num_experts) == 1 ? layers : hd_config_int(config, HD_KEY_first_num_dense_layers);
    hd_config_derive_int(config, HD_KEY_num_dense_layers, dense);
    hd_config_derive_int(config, HD_KEY_num_moe_layers, layers - dense);
    return hd_config_derive_str(config, HD_KEY_moe_strategy, moe_strategy(config), err);
}

/* Only the data axis may have several ranks. */
static hd_status check_axes(const hd_config *config, const hd_run_shape *shape, hd_err *err)
{
    for (int a = 0; a < HD_MESH_COUNT; a++) {
        if (a != HD_MESH_DATA && shape->degree[a] != 1) {
            return hd_config_fault(config, hd_axis_key((hd_mesh_axis)a, false), HD_E_UNSUPPORTED,
                                   "only the data axis may have several ranks; ici_data_parallelism gives each its own rows", err);
        }
    }
    if (shape->n_devices > 1 && hd_config_is(config, HD_KEY_rank_backend, "self")) {
        return hd_config_fault(config, HD_KEY_rank_backend, HD_E_CONFIG, "this is for one rank; threads carries several", err);
    }
    return HD_OK;
}

/* Leaves of the fixed gradient sum must be whole rows, and each micro-batch of a rank a whole number of leaves. */
static hd_status check_slices(const hd_config *config, const hd_run_shape *shape, hd_err *err)
{
    int64_t slices = hd_config_int(config, HD_KEY_gradient_slices), parts = shape->n_devices * shape->accumulation;
    if (slices == 1) { return HD_OK; }
    if (shape->train.train % slices != 0) {
        return hd_config_fault(config, HD_KEY_gradient_slices, HD_E_CONFIG, "the global batch is not a multiple of it", err);
    }
    if (slices % parts != 0) {
        return hd_config_fault(config, HD_KEY_gradient_slices, HD_E_CONFIG,
                               "ranks x gradient_accumulation_steps does not divide it", err);
    }
    return HD_OK;
}

static hd_status derive_batch(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    hd_run_shape shape;
    HD_TRY(hd_run_shape_of(config, 0, &shape, err));
    HD_TRY(check_axes(config, &shape, err));
    HD_TRY(check_slices(config, &shape, err));
    for (int a = 0; a < HD_MESH_COUNT; a++) {
        hd_config_key ici = hd_axis_key((hd_mesh_axis)a, false), dcn = hd_axis_key((hd_mesh_axis)a, true);
        if (hd_config_int(config, ici) == -1) { hd_config_derive_int(config, ici, shape.degree[a]); }
        if (hd_config_int(config, dcn) == -1) { hd_config_derive_int(config, dcn, 1); }
    }
    hd_config_derive_int(config, HD_KEY_num_devices, shape.n_devices);
    hd_config_derive_int(config, HD_KEY_global_batch_size_to_load, shape.train.load);
    hd_config_derive_int(config, HD_KEY_global_batch_size_to_train_on, shape.train.train);
    hd_config_derive_int(config, HD_KEY_micro_batch_size_to_train_on, shape.train.micro);
    hd_config_derive_int(config, HD_KEY_global_batch_size_to_load_eval, shape.eval.load);
    hd_config_derive_int(config, HD_KEY_global_batch_size_to_eval_on, shape.eval.train);
    hd_config_derive_int(config, HD_KEY_micro_batch_size_to_eval_on, shape.eval.micro);
out:
    return st;
}

hd_status hd_config_derive(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(derive_batch(config, err));
    HD_TRY(derive_training(config, err));
    HD_TRY(derive_model(config, err));
    st = derive_directories(config, err);
out:
    return st;
}

/* ---- notices ---------------------------------------------------------------------------------------------------- */

static void list_key(hd_buf *list, hd_config_key key)
{
    hd_buf_printf(list, "%s%s", list->n > 0 ? ", " : "", hd_config_key_name(key));
}

static void warn_of_sources(const hd_config *config)
{
    bool writes = config->command == HD_FOR_TRAIN || config->command == HD_FOR_SFT;
    if (config->merged.origin[HD_KEY_hf_access_token].kind == HD_ORIGIN_ARGUMENT) {
        hd_log(HD_LOG_WARN, "hf_access_token on the command line is visible to others and stays in the shell's history; "
                            "set HF_TOKEN in the environment instead");
    }
    if (writes && config->merged.origin[HD_KEY_base_output_directory].kind == HD_ORIGIN_DERIVED) {
        hd_log(HD_LOG_WARN, "base_output_directory is not set; the run goes to %s",
               hd_config_str(config, HD_KEY_base_output_directory));
    }
}

void hd_config_notice(const hd_config *config)
{
    warn_of_sources(config);
    hd_buf idle = {0}, unused = {0};
    bool judged = config->command != HD_FOR_ALL && config->command != HD_FOR_PLAN; /* plan takes a run's keys as they are */
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if (!hd_config_user_set(config, (hd_config_key)k)) { continue; }
        if (row->status == HD_KEY_IDLE) { list_key(&idle, (hd_config_key)k); }
        if (row->status == HD_KEY_USED && judged && (row->commands & config->command) == 0) { list_key(&unused, (hd_config_key)k); }
    }
    if (idle.n > 0) { hd_log(HD_LOG_INFO, "without effect here (they concern TPU, XLA or cloud services): %s", hd_buf_text(&idle)); }
    if (unused.n > 0) { hd_log(HD_LOG_INFO, "not used by this command: %s", hd_buf_text(&unused)); }
    hd_buf_free(&idle);
    hd_buf_free(&unused);
}
