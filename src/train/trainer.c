/* Opening a trainer: how rows are cut, which tensors live as long as the run, and where they come from. */
#include "train/trainer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/parallel_for.h"
#include "checkpoint/checkpoint.h"
#include "config/derived.h"

static bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

static int log2_of(int64_t power_of_two)
{
    int log = 0;
    while (((int64_t)1 << log) < power_of_two) { log++; }
    return log;
}

static hd_status cut_into_leaves(const hd_run_shape *shape, int64_t slices, int rank, int n_rank, hd_batch_plan *plan, hd_err *err)
{
    int64_t parts = shape->accumulation * n_rank;
    plan->tree = slices > 1;
    plan->n_leaf = plan->tree ? slices : parts;
    if (plan->tree && (!is_power_of_two(slices) || slices % parts != 0)) {
        return HD_FAIL(err, HD_E_CONFIG, "gradient_slices=%lld: want a power of two that gradient_accumulation_steps x ranks = %lld divides",
                       (long long)slices, (long long)parts);
    }
    if (plan->global_rows % plan->n_leaf != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "a step has %lld sequences, which do not divide into %lld equal parts (%s): change "
                       "per_device_batch_size", (long long)plan->global_rows, (long long)plan->n_leaf,
                       plan->tree ? "gradient_slices" : "gradient_accumulation_steps x ranks");
    }
    plan->leaf_rows = plan->global_rows / plan->n_leaf;
    plan->n_local_leaf = plan->n_leaf / n_rank;
    plan->first_leaf = rank * plan->n_local_leaf;
    plan->n_level = plan->tree ? log2_of(plan->n_local_leaf) : 0;
    return HD_OK;
}

hd_status hd_batch_plan_from_config(const hd_config *config, int rank, int n_rank, hd_batch_plan *plan, hd_err *err)
{
    hd_run_shape shape;
    hd_status st = hd_run_shape_of(config, n_rank, &shape, err);
    if (st != HD_OK) { return st; }
    *plan = (hd_batch_plan){.global_rows = shape.train.train, .load_rows = shape.train.load, .seq_len = shape.sequence_len};
    if (shape.train.micro % n_rank != 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "a micro-batch of %lld sequences over %d ranks gives some ranks more than others: choose "
                       "per_device_batch_size so that it divides", (long long)shape.train.micro, n_rank);
    }
    plan->eval_rows = (shape.eval.train + n_rank - 1) / n_rank;
    return cut_into_leaves(&shape, hd_config_int(config, HD_KEY_gradient_slices), rank, n_rank, plan, err);
}

int hd_threads_per_rank(const hd_config *config, int n_rank)
{
    int64_t asked = hd_config_int(config, HD_KEY_num_threads);
    int all = asked > 0 ? (int)asked : hd_default_threads();
    return all / n_rank > 0 ? all / n_rank : 1;
}

static hd_status open_arenas(hd_trainer *t, const hd_arena_sizes *sizes, hd_err *err)
{
    hd_status st = HD_OK;
    if (sizes == NULL) {
        hd_arena_open_dry(&t->model_arena, "model");
        hd_arena_open_dry(&t->step_arena, "step");
        hd_arena_open_dry(&t->scratch_arena, "scratch");
        return HD_OK;
    }
    HD_TRY(hd_arena_open(&t->model_arena, "model", sizes->model, err));
    HD_TRY(hd_arena_open(&t->step_arena, "step", sizes->step, err));
    HD_TRY(hd_arena_open(&t->scratch_arena, "scratch", sizes->scratch, err));
out:
    return st;
}

static hd_status open_optimizer_tensors(hd_trainer *t, hd_err *err)
{
    hd_status st = HD_OK;
    hd_arena *arena = &t->model_arena;
    t->n_metric = HD_METRIC_COUNT + t->model.n_moe_layer * t->model.dims.n_expert;
    for (int i = 0; i < t->plan.n_level; i++) {
        HD_TRY(hd_tensor_new_1d(arena, HD_DTYPE_F32, hd_tensor_count(&t->model.grad_flat), &t->level[i], err));
    }
    HD_TRY(hd_tensor_new_2d(arena, HD_DTYPE_F64, t->plan.n_leaf, t->n_metric, &t->leaf_metrics, err));
    HD_TRY(hd_tensor_new_1d(arena, HD_DTYPE_F64, t->n_metric + HD_CONTROL_COUNT, &t->readout, err));
    t->totals = hd_tensor_slice(&t->readout, 0, 0, t->n_metric);
    t->control = hd_tensor_slice(&t->readout, 0, t->n_metric, HD_CONTROL_COUNT);
    HD_TRY(hd_fill(&t->ex, 0.0, &t->readout, err));
    if (t->gate.spike_factor > 0.0) {
        HD_TRY(hd_tensor_new_2d(arena, HD_DTYPE_F64, 2, t->gate.spike_interval, &t->window, err));
        HD_TRY(hd_fill(&t->ex, 0.0, &t->window, err));
    }
    HD_TRY(hd_alloc((size_t)(t->n_metric + HD_CONTROL_COUNT), sizeof *t->host_readout, "metrics", (void **)&t->host_readout, err));
    HD_TRY(hd_alloc((size_t)(2 * t->plan.n_leaf), sizeof *t->leaf_weight, "leaf weights", (void **)&t->leaf_weight, err));
out:
    return st;
}

static void read_optimizer_keys(const hd_config *c, hd_trainer *t)
{
    bool spikes = hd_config_bool(c, HD_KEY_skip_step_on_spikes);
    t->schedule = hd_schedule_from_config(c);
    t->gate = (hd_gate_spec){
        .clip_threshold = hd_config_float(c, HD_KEY_gradient_clipping_threshold),
        .beta1 = hd_config_float(c, HD_KEY_adam_b1),
        .beta2 = hd_config_float(c, HD_KEY_adam_b2),
        .spike_factor = spikes ? hd_config_float(c, HD_KEY_skip_step_scaling_factor) : 0.0,
        .spike_interval = spikes ? hd_config_int(c, HD_KEY_skip_step_interval) : 0,
    };
    t->adamw = (hd_adamw_spec){
        .beta1 = t->gate.beta1,
        .beta2 = t->gate.beta2,
        .eps = hd_config_float(c, HD_KEY_adam_eps),
        .eps_root = hd_config_float(c, HD_KEY_adam_eps_root),
        .weight_decay = hd_config_float(c, HD_KEY_adam_weight_decay),
    };
}

/* The keys say which model it is; when they do not (no model_name, no shape) and parameters come from a folder, its config.json does. */
static hd_status read_dims(const hd_config *c, hd_dims *dims, hd_err *err)
{
    const char *folder = hd_config_str(c, HD_KEY_load_parameters_path);
    bool named = !hd_config_is(c, HD_KEY_model_name, "default") || hd_config_is_set(c, HD_KEY_base_emb_dim) ||
                 hd_config_is_set(c, HD_KEY_base_num_decoder_layers);
    if (folder == NULL || folder[0] == '\0' || named) { return hd_dims_from_config(c, dims, err); }
    int64_t n_mtp = hd_config_int(c, HD_KEY_mtp_num_layers);
    hd_status st = hd_ckpt_read_dims(folder, dims, err);
    if (st != HD_OK) { return st; }
    if (n_mtp > dims->n_mtp) {
        return HD_FAIL(err, HD_E_CONFIG, "mtp_num_layers is %lld, and %s holds %lld MTP layers", (long long)n_mtp, folder,
                       (long long)dims->n_mtp);
    }
    dims->n_mtp = n_mtp;
    return HD_OK;
}

static hd_status read_model_keys(const hd_config *c, const hd_batch_plan *plan, hd_dims *dims, hd_model_options *options, hd_err *err)
{
    int64_t tiles = hd_config_int(c, HD_KEY_num_vocab_tiling), rows = plan->leaf_rows * plan->seq_len;
    hd_status st = read_dims(c, dims, err);
    if (st == HD_OK) { st = hd_model_options_from_config(c, true, options, err); }
    if (st != HD_OK) { return st; }
    /* MaxText's default for the first moment is weight_dtype; in bf16 small updates vanish, so it is f32 unless asked for */
    if (!hd_config_is_set(c, HD_KEY_mu_dtype)) { options->mu_dtype = HD_DTYPE_F32; }
    if (tiles > 1 && options->row_chunk == 0) { options->row_chunk = (rows + tiles - 1) / tiles; }
    return HD_OK;
}

hd_status hd_trainer_open(const hd_config *config, hd_comm *comm, const hd_arena_sizes *sizes, hd_trainer *t, hd_err *err)
{
    hd_status st = HD_OK;
    hd_dims dims;
    hd_model_options options;
    *t = (hd_trainer){.config = config, .comm = comm};
    read_optimizer_keys(config, t);
    HD_TRY(hd_batch_plan_from_config(config, comm->rank, comm->size, &t->plan, err));
    HD_TRY(read_model_keys(config, &t->plan, &dims, &options, err));
    HD_TRY(open_arenas(t, sizes, err));
    HD_TRY(hd_exec_init(&t->ex, &t->scratch_arena, hd_threads_per_rank(config, comm->size), sizes == NULL, err));
    HD_TRY(hd_model_open(&dims, &options, &t->ex, &t->model_arena, &t->model, err));
    HD_TRY(open_optimizer_tensors(t, err));
out:
    if (st != HD_OK) { hd_trainer_close(t); }
    return st;
}

void hd_trainer_close(hd_trainer *t)
{
    hd_model_close(&t->model);
    hd_free(t->host_readout);
    hd_free(t->leaf_weight);
    hd_arena_close(&t->scratch_arena);
    hd_arena_close(&t->step_arena);
    hd_arena_close(&t->model_arena);
    memset(t, 0, sizeof *t);
}
