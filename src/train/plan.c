/* `hadal plan` and the sizing pass of every run. */
#include "train/plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/sysinfo.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "train/flops.h"
#include "train/run_state.h"

static const double GIB = 1024.0 * 1024.0 * 1024.0;

static size_t tensor_bytes(const hd_tensor *t)
{
    return t->n_dim == 0 ? 0 : (size_t)hd_tensor_count(t) * hd_dtype_bytes(t->dtype);
}

static void break_down(const hd_trainer *t, hd_run_plan *plan)
{
    for (int64_t i = 0; i < t->model.n_param; i++) {
        const hd_param *p = &t->model.params[i];
        int64_t n = hd_tensor_count(&p->weight.value);
        plan->weight_bytes += tensor_bytes(&p->weight.value);
        if (p->weight.value.dtype != HD_DTYPE_F32) { plan->master_bytes += tensor_bytes(&p->master); }
        plan->moment_bytes += tensor_bytes(&p->mu) + tensor_bytes(&p->nu);
        if (p->trained) { plan->n_trained_param += n; }
        if (p->layer >= t->model.dims.n_layer) { plan->n_mtp_param += n; }
        plan->n_param += n;
    }
    plan->gradient_bytes = tensor_bytes(&t->model.grad_flat);
    plan->tree_bytes = (size_t)t->plan.n_level * plan->gradient_bytes;
    plan->n_active_param = hd_dims_count_active_params(&t->model.dims);
    plan->other_bytes = plan->arenas.model - plan->weight_bytes - plan->gradient_bytes - plan->master_bytes - plan->moment_bytes -
                        plan->tree_bytes;
}

static hd_status size_checkpoints(const hd_config *config, hd_trainer *t, hd_run_plan *plan, hd_err *err)
{
    hd_ckpt_sizes sizes;
    hd_run_state state;
    if (!hd_config_bool(config, HD_KEY_enable_checkpointing)) { return HD_OK; }
    hd_run_state_bind(&state, t);
    hd_status st = hd_ckpt_plan(&state.ckpt, 0, &sizes, err);
    if (st != HD_OK) { return st; }
    plan->checkpoint_bytes = sizes.file_bytes;
    plan->snapshot_bytes = hd_config_bool(config, HD_KEY_async_checkpointing) ? sizes.snapshot_bytes : 0;
    plan->host_bytes += sizes.staging_bytes;
    return HD_OK;
}

hd_status hd_run_plan_make(const hd_config *config, int n_rank, hd_run_plan *plan, hd_err *err)
{
    hd_status st = HD_OK;
    hd_trainer t = {0};
    double sums[3];
    hd_comm comm = hd_comm_self();
    comm.size = n_rank; /* rank 0 of the job: its collectives do nothing on a dry trainer */
    memset(plan, 0, sizeof *plan);
    HD_TRY(hd_trainer_open(config, &comm, NULL, &t, err));
    HD_TRY(hd_trainer_step(&t, NULL, 0, err));
    if (hd_config_int(config, HD_KEY_eval_interval) > 0) { HD_TRY(hd_trainer_eval(&t, NULL, sums, err)); }
    plan->arenas = (hd_arena_sizes){t.model_arena.high, t.step_arena.high, t.scratch_arena.high};
    break_down(&t, plan);
    plan->host_bytes = (size_t)(t.plan.n_local_leaf * t.plan.leaf_rows + t.plan.eval_rows) * (size_t)t.plan.seq_len * 20;
    HD_TRY(size_checkpoints(config, &t, plan, err));
    double rows = (double)t.plan.global_rows / n_rank;
    plan->maxtext_tflops = hd_flops_maxtext(&t.model.dims, rows, t.plan.seq_len).total / 1e12;
    plan->model_tflops = hd_flops_model(&t.model.dims, rows, t.plan.seq_len).total / 1e12;
out:
    hd_trainer_close(&t);
    return st;
}

size_t hd_run_plan_total(const hd_run_plan *plan)
{
    return plan->arenas.model + plan->arenas.step + plan->arenas.scratch + plan->snapshot_bytes + plan->host_bytes;
}

hd_status hd_run_plan_check(const hd_config *config, const hd_run_plan *plan, hd_err *err)
{
    double limit = hd_config_float(config, HD_KEY_device_memory_gb) * 1e9, need = (double)hd_run_plan_total(plan);
    if (limit <= 0.0 || need <= limit) { return HD_OK; }
    return HD_FAIL(err, HD_E_CONFIG, "the run needs %.3f GB of memory on each device and device_memory_gb is %.3f: choose a smaller "
                   "per_device_batch_size, max_target_length or model, or remat_policy=full", need / 1e9, limit / 1e9);
}

hd_status hd_run_plan_fit(const hd_config *config, int n_rank, hd_run_plan *plan, hd_err *err)
{
    uint64_t available = UINT64_MAX;
    double limit = hd_config_float(config, HD_KEY_device_memory_gb) * 1e9;
    if (limit <= 0.0 && hd_sysinfo_available_memory(&available, NULL) == HD_OK) { limit = (double)available / n_rank; }
    if (limit <= 0.0 || (double)hd_run_plan_total(plan) <= limit) { return HD_OK; }
    if (plan->snapshot_bytes > 0) {
        hd_log(HD_LOG_WARN, "checkpoints are saved synchronously: the snapshot of an asynchronous save takes %.3f GB, and the run with it "
               "%.3f of %.3f GB", (double)plan->snapshot_bytes / 1e9, (double)hd_run_plan_total(plan) / 1e9, limit / 1e9);
        plan->snapshot_bytes = 0;
    }
    if ((double)hd_run_plan_total(plan) <= limit) { return HD_OK; }
    hd_status st = hd_run_plan_check(config, plan, err);
    if (st != HD_OK) { return st; }
    return HD_FAIL(err, HD_E_NOMEM, "the run needs %.3f GB of memory per rank and %.3f GB are free: choose a smaller per_device_batch_size, "
                   "max_target_length or model, or remat_policy=full", (double)hd_run_plan_total(plan) / 1e9, limit / 1e9);
}

static void line(const char *what, size_t bytes)
{
    hd_log(HD_LOG_RESULT, "  %-44s %18zu bytes  %10.3f GiB", what, bytes, (double)bytes / GIB);
}

static void report(const hd_config *config, int n_rank, const hd_run_plan *p)
{
    hd_log(HD_LOG_RESULT, "model %s: %" PRId64 " parameters, %" PRId64 " of them in MTP modules, %" PRId64 " active per token, %" PRId64
           " trained", hd_config_str(config, HD_KEY_model_name), p->n_param, p->n_mtp_param, p->n_active_param, p->n_trained_param);
    hd_log(HD_LOG_RESULT, "each of %d device%s:", n_rank, n_rank == 1 ? "" : "s");
    line("weights", p->weight_bytes);
    line("gradients (f32)", p->gradient_bytes);
    line("master weights (f32)", p->master_bytes);
    line("optimizer moments", p->moment_bytes);
    line("gradient tree (gradient_slices)", p->tree_bytes);
    line("RoPE table, metrics, alignment", p->other_bytes);
    line("model arena", p->arenas.model);
    line("step arena: activations", p->arenas.step);
    line("scratch arena: inside ops", p->arenas.scratch);
    line("snapshot of asynchronous checkpoints", p->snapshot_bytes);
    line("batches and staging on the host", p->host_bytes);
    line("in all", hd_run_plan_total(p));
    hd_log(HD_LOG_RESULT, "a checkpoint on disk: %" PRId64 " bytes", p->checkpoint_bytes);
    hd_log(HD_LOG_RESULT, "a step on one device: %.6g TFLOP (MaxText's formula), %.6g TFLOP (model FLOPs)", p->maxtext_tflops, p->model_tflops);
}

hd_status hd_cmd_plan(const hd_config *config, hd_err *err)
{
    hd_run_plan plan;
    int n_rank;
    hd_status st = hd_rank_count(config, &n_rank, err);
    if (st == HD_OK) { st = hd_run_plan_make(config, n_rank, &plan, err); }
    if (st != HD_OK) { return st; }
    report(config, n_rank, &plan);
    return hd_run_plan_check(config, &plan, err);
}
