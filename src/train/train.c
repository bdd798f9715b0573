/* `hadal train`: plan, open, restore, then steps with evaluation, checkpoints and reports until the last step, the end of the
 * data, a target loss, a signal or a fault. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/path.h"
#include "base/sha256.h"
#include "base/sysinfo.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "train/evaluate.h"
#include "train/flops.h"
#include "train/metrics.h"
#include "train/plan.h"
#include "train/run_state.h"

/* What ranks tell each other between steps. */
enum { WORD_STOP = 1, WORD_DATA_ENDED = 2 };

typedef struct job {
    const hd_config *config;
    const hd_run_hooks *hooks;
    hd_run_plan plan;
    char *run_dir;
    char config_digest[HD_SHA256_HEX]; /* of all keys and values but secrets */
} job;

/* One rank of a run. */
typedef struct run {
    const job *job;
    hd_comm *comm;
    hd_trainer trainer;
    hd_run_state state;
    hd_dataset *data;
    hd_batch batch;
    hd_evaluator *evaluator; /* NULL without evaluation */
    hd_arena snapshot;
    hd_ckpt_store *store;    /* rank 0, with checkpoints enabled */
    hd_metrics *metrics;     /* rank 0 */
    int64_t first_step, n_step;
    double peak_tflops, step_seconds; /* step_seconds: smoothed */
    double last_time;
} run;

static bool stop_asked(const run *r)
{
    return r->job->hooks->stop_signal != NULL && *r->job->hooks->stop_signal != 0;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------------- */

static hd_status open_store(run *r, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_config *c = r->job->config;
    if (r->comm->rank != 0 || !hd_config_bool(c, HD_KEY_enable_checkpointing)) { return HD_OK; }
    hd_ckpt_options options = {
        .run_dir = r->job->run_dir,
        .keep = hd_config_int(c, HD_KEY_max_num_checkpoints_to_keep),
        .async = hd_config_bool(c, HD_KEY_async_checkpointing),
        .allow_nonfinite = hd_config_bool(c, HD_KEY_allow_nonfinite_checkpoint),
    };
    HD_TRY(hd_ckpt_store_open(&options, &r->store, err));
    if (r->job->plan.snapshot_bytes > 0) {
        hd_err why = {0};
        if (hd_arena_open(&r->snapshot, "snapshot", r->job->plan.snapshot_bytes, &why) != HD_OK) {
            hd_log(HD_LOG_WARN, "checkpoints are saved synchronously: %s", why.msg);
        } else {
            HD_TRY(hd_ckpt_reserve(r->store, &r->state.ckpt, &r->snapshot, err));
        }
    }
out:
    return st;
}

static hd_status open_data(run *r, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_config *c = r->job->config;
    const hd_batch_plan *p = &r->trainer.plan;
    HD_TRY(hd_dataset_open(c, HD_SPLIT_TRAIN, r->trainer.model.dims.vocab_size, p->global_rows, &r->data, err));
    HD_TRY(hd_batch_open(p->n_local_leaf * p->leaf_rows, p->seq_len, &r->batch, err));
    if (hd_config_int(c, HD_KEY_eval_interval) > 0) {
        HD_TRY(hd_evaluator_open(&r->trainer, r->job->hooks->stop_signal, &r->evaluator, err));
    }
out:
    return st;
}

/* The position in the data belongs to a row length; other content under the same name deserves a word. */
static hd_status check_restored(run *r, const char *from, hd_err *err)
{
    int64_t row_length = r->trainer.plan.seq_len, fingerprint = (int64_t)r->data->fingerprint;
    if (r->state.row_length != row_length) {
        return HD_FAIL(err, HD_E_CONFIG, "%s was trained with max_target_length=%" PRId64 ", this run has %" PRId64 ": its position in "
                       "the data cannot be kept; start a new run with load_parameters_path=", from, r->state.row_length, row_length);
    }
    if (r->state.data_fingerprint != fingerprint) {
        hd_log(HD_LOG_WARN, "the data differs from that of %s; training goes on at row %" PRId64 " of the new data", from, r->state.rows);
        r->state.data_fingerprint = fingerprint;
    }
    r->state.init_seed = hd_config_int(r->job->config, HD_KEY_init_weights_seed);
    r->state.shuffle_seed = hd_config_int(r->job->config, HD_KEY_data_shuffle_seed);
    r->first_step = r->state.ckpt.step + 1;
    return HD_OK;
}

/* Rank 0 finds and restores the newest checkpoint; the others read the one it found. */
static hd_status resume(run *r, bool *found, hd_err *err)
{
    hd_status st = HD_OK;
    char *path = NULL;
    char name[48];
    double step_plus_one = 0.0;
    *found = false;
    if (r->store != NULL) {
        HD_TRY(hd_ckpt_resume(r->store, &r->trainer.ex, &r->state.ckpt, found, err));
        step_plus_one = *found ? (double)r->state.ckpt.step + 1.0 : 0.0;
    }
    HD_TRY(hd_comm_all_reduce_sum_host(r->comm, &step_plus_one, 1, err));
    if (step_plus_one == 0.0) { return HD_OK; }
    snprintf(name, sizeof name, "checkpoints/%" PRId64, (int64_t)step_plus_one - 1);
    HD_TRY(hd_path_join(r->job->run_dir, name, &path, err));
    if (r->comm->rank != 0) { HD_TRY(hd_ckpt_load_full(path, &r->trainer.ex, &r->state.ckpt, err)); }
    *found = true;
    HD_TRY(check_restored(r, path, err));
    if (r->first_step >= r->n_step) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s is already the last of steps=%" PRId64 ": raise steps to train on, or choose another run_name",
                     path, r->n_step);
    }
    if (r->comm->rank == 0 && st == HD_OK) { hd_log(HD_LOG_INFO, "resumed from %s", path); }
out:
    hd_free(path);
    return st;
}

static hd_status start_from(run *r, hd_err *err)
{
    hd_status st = HD_OK;
    bool found;
    const hd_config *c = r->job->config;
    const char *parameters = hd_config_str(c, HD_KEY_load_parameters_path), *full = hd_config_str(c, HD_KEY_load_full_state_path);
    r->state.data_fingerprint = (int64_t)r->data->fingerprint;
    HD_TRY(resume(r, &found, err));
    if (found) { return HD_OK; }
    if (full != NULL) {
        HD_TRY(hd_ckpt_load_full(full, &r->trainer.ex, &r->state.ckpt, err));
        return check_restored(r, full, err);
    }
    HD_TRY(hd_model_init_weights(&r->trainer.model, &r->trainer.ex, err));
    if (parameters != NULL) { HD_TRY(hd_ckpt_load_parameters(parameters, &r->trainer.ex, &r->trainer.model, err)); }
out:
    return st;
}

static double measured_peak(const hd_exec *ex)
{
    return ex->ops->fma_peak != NULL ? ex->ops->fma_peak(ex->n_threads) : 0.0;
}

static int64_t peak_rss_bytes(void)
{
    hd_rss rss;
    return hd_sysinfo_rss(&rss, NULL) == HD_OK ? (int64_t)rss.peak_bytes : 0;
}

static hd_status open_run(run *r, hd_err *err)
{
    hd_status st = HD_OK;
    r->n_step = hd_config_int(r->job->config, HD_KEY_steps);
    HD_TRY(hd_trainer_open(r->job->config, r->comm, &r->job->plan.arenas, &r->trainer, err));
    hd_run_state_bind(&r->state, &r->trainer);
    r->state.ckpt.config_digest = r->job->config_digest;
    HD_TRY(open_store(r, err));
    HD_TRY(open_data(r, err));
    HD_TRY(start_from(r, err));
    if (r->comm->rank == 0) {
        HD_TRY(hd_metrics_open(r->job->config, &r->trainer.model, r->first_step, &r->metrics, err));
        hd_metrics_set_progress(r->metrics, r->job->hooks->progress > 0, r->job->hooks->progress > 1);
    }
    double given = hd_config_float(r->job->config, HD_KEY_device_peak_tflops);
    r->peak_tflops = given > 0.0 ? given : measured_peak(&r->trainer.ex) / 1e12;
out:
    return st;
}

/* st: how the run ended so far; a save in flight may still fail. */
static hd_status close_run(run *r, hd_status st, hd_err *err)
{
    hd_err late = {0};
    hd_status closed = hd_ckpt_store_close(r->store, &late);
    if (closed == HD_OK) { closed = hd_metrics_close(r->metrics, &late); }
    else if (hd_metrics_close(r->metrics, NULL) != HD_OK) { hd_log(HD_LOG_WARN, "the last metrics could not be written"); }
    if (closed != HD_OK && (st == HD_OK || st == HD_E_SIGNAL)) {
        *err = late;
        st = closed;
    } else if (closed != HD_OK) {
        hd_log(HD_LOG_WARN, "%s", late.msg);
    }
    hd_evaluator_close(r->evaluator);
    hd_dataset_close(r->data);
    hd_batch_close(&r->batch);
    hd_arena_close(&r->snapshot);
    hd_trainer_close(&r->trainer);
    return st;
}

/* ---- one step ------------------------------------------------------------------------------------------------------------------ */

static hd_status read_batch(run *r, bool *ended, hd_err *err)
{
    const hd_batch_plan *p = &r->trainer.plan;
    int64_t n_found;
    /* reuse_example_batch: the position stays where the run began */
    hd_status st = hd_dataset_read(r->data, r->state.rows + p->first_leaf * p->leaf_rows, &r->batch, &n_found, err);
    *ended = n_found < r->batch.n_seq;
    return st;
}

/* Agrees with the other ranks on whether to go on. */
static hd_status agree(run *r, unsigned mine, unsigned *all, hd_err *err)
{
    *all = mine | (stop_asked(r) ? WORD_STOP : 0u);
    return hd_comm_all_reduce_or(r->comm, all, err);
}

static hd_status obey_rank_faults(run *r, int64_t step, hd_err *err)
{
    for (size_t i = 0;; i++) {
        const hd_fault_rank *fault = hd_fault_rank_get(i);
        if (fault == NULL) { return HD_OK; }
        if (fault->rank != r->comm->rank || fault->step != step) { continue; }
        if (fault->kind == HD_FAULT_RANK_STOP) {
            return HD_FAIL(err, HD_E_PEER, "rank %d was stopped at step %" PRId64 " by HADAL_FAULT_RANK", r->comm->rank, step);
        }
        if (fault->kind == HD_FAULT_RANK_SLOW) { hd_clock_sleep_s(fault->delay_s); }
        if (fault->kind == HD_FAULT_RANK_FLIP) {
            hd_status st = hd_trainer_flip_bit(&r->trainer, fault->buffer, err);
            if (st != HD_OK) { return st; }
        }
    }
}

static double expert_claims(const run *r)
{
    double claims = 0.0;
    for (int64_t i = HD_METRIC_COUNT; i < r->trainer.n_metric; i++) { claims += r->trainer.host_readout[i]; }
    return claims;
}

static void fill_report(run *r, int64_t step, hd_step_report *out)
{
    const double *m = r->trainer.host_readout, *control = m + r->trainer.n_metric;
    const hd_model *model = &r->trainer.model;
    double claims = expert_claims(r), weights = r->trainer.weight_total, now = hd_clock_now_s();
    *out = (hd_step_report){
        .step = step,
        .seconds = now - r->last_time,
        .maxtext_tflops = r->job->plan.maxtext_tflops,
        .model_tflops = r->job->plan.model_tflops,
        .peak_tflops = r->peak_tflops,
        .tokens = (double)(r->batch.n_seq * r->batch.seq_len),
        .total_weights = weights,
        .loss = m[HD_METRIC_LOSS],
        .lm_loss = m[HD_METRIC_XENT] / (weights > 0.0 ? weights : 1.0),
        .z_loss = m[HD_METRIC_Z] / (weights > 0.0 ? weights : 1.0),
        .moe_lb_loss = m[HD_METRIC_BALANCE],
        .mtp_loss = model->options.mtp_loss_scaling_factor * m[HD_METRIC_MTP] / r->trainer.mtp_weight_total,
        .raw_grad_norm = control[HD_CONTROL_NORM],
        .grad_norm = control[HD_CONTROL_NORM] * control[HD_CONTROL_CLIP],
        .param_norm = sqrt(m[HD_METRIC_PARAM_NORM2]),
        .learning_rate = control[HD_CONTROL_LR],
        .skipped = control[HD_CONTROL_APPLY] == 0.0,
        .expert_count = model->n_moe_layer > 0 ? m + HD_METRIC_COUNT : NULL,
        .drop_rate = claims > 0.0 ? m[HD_METRIC_DROPPED] / claims : 0.0,
        .rss_bytes = peak_rss_bytes(),
    };
    r->last_time = now;
    r->step_seconds = step == r->first_step ? out->seconds : 0.9 * r->step_seconds + 0.1 * out->seconds;
    out->seconds_left = r->step_seconds * (double)(r->n_step - 1 - step);
}

/* A loss or gradient that is not finite: the gate has already left the weights alone; policy says whether to go on. */
static hd_status judge_step(const run *r, const hd_step_report *report, hd_err *err)
{
    const hd_config *c = r->job->config;
    bool skip = hd_config_is(c, HD_KEY_nonfinite_policy, "skip");
    bool stop_on_nan = hd_config_bool(c, HD_KEY_abort_on_nan_loss) && !skip;
    bool stop_on_inf = hd_config_bool(c, HD_KEY_abort_on_inf_loss) && !skip;
    const char *what = NULL;
    if (isnan(report->loss) && stop_on_nan) { what = "the loss is NaN"; }
    if (isinf(report->loss) && stop_on_inf) { what = "the loss is infinite"; }
    if (what == NULL && isfinite(report->loss) && !isfinite(report->raw_grad_norm) && !skip) { what = "the gradient is not finite"; }
    if (what == NULL) { return HD_OK; }
    return HD_FAIL(err, HD_E_NONFINITE, "%s at step %" PRId64 "; the weights were not changed by it.  Lower learning_rate, or set "
                   "nonfinite_policy=skip to leave such steps out", what, report->step);
}

static hd_status train_step(run *r, int64_t step, bool *ended, hd_err *err)
{
    hd_status st = HD_OK;
    hd_step_report report;
    unsigned word;
    HD_TRY(obey_rank_faults(r, step, err));
    HD_TRY(read_batch(r, ended, err));
    HD_TRY(agree(r, *ended ? WORD_DATA_ENDED : 0u, &word, err));
    *ended = (word & WORD_DATA_ENDED) != 0;
    if (*ended || (word & WORD_STOP) != 0) { return HD_OK; }
    HD_TRY(hd_trainer_step(&r->trainer, &r->batch, step, err));
    if (hd_config_int(r->job->config, HD_KEY_reuse_example_batch) == 0) { r->state.rows += r->trainer.plan.load_rows; }
    r->state.ckpt.step = step;
    fill_report(r, step, &report);
    if (r->metrics != NULL) { HD_TRY(hd_metrics_step(r->metrics, &report, err)); }
    HD_TRY(judge_step(r, &report, err));
out:
    return st;
}

/* ---- between steps ---------------------------------------------------------------------------------------------------------------- */

static hd_status evaluate(run *r, int64_t step, bool *reached, hd_err *err)
{
    hd_eval_report report;
    bool stopped;
    double target = hd_config_float(r->job->config, HD_KEY_target_eval_loss);
    hd_status st = hd_evaluator_run(r->evaluator, step, &report, &stopped, err);
    if (st != HD_OK || stopped) { return st; }
    double loss = report.total_loss / (report.total_weights > 0.0 ? report.total_weights : 1.0);
    *reached = target > 0.0 && loss <= target;
    if (r->metrics == NULL) { return HD_OK; }
    st = hd_metrics_eval(r->metrics, &report, err);
    if (st == HD_OK && *reached) { hd_log(HD_LOG_INFO, "target_eval_loss=%g is reached at step %" PRId64, target, step); }
    r->last_time = hd_clock_now_s();
    return st;
}

static bool is_due(int64_t step, int64_t start, int64_t interval)
{
    return interval > 0 && step >= start && (step - start) % interval == 0;
}

static hd_status save(run *r, hd_err *err)
{
    if (r->store == NULL || r->state.ckpt.step < 0) { return HD_OK; }
    return hd_ckpt_save(r->store, &r->trainer.ex, &r->state.ckpt, err);
}

static hd_status save_if_due(run *r, int64_t step, hd_err *err)
{
    const hd_config *c = r->job->config;
    if (r->store == NULL) { return HD_OK; }
    hd_status st = hd_ckpt_collect(r->store, err); /* a failed save is reported at the next step, not at the end */
    if (st != HD_OK || step % hd_config_int(c, HD_KEY_checkpoint_period) != 0) { return st; }
    if (step == 0 && !hd_config_bool(c, HD_KEY_save_checkpoint_on_start)) { return HD_OK; }
    return save(r, err);
}

/* Saves what is not saved yet and waits until it is durable. */
static hd_status final_save(run *r, hd_err *err)
{
    if (r->store == NULL) { return HD_OK; }
    hd_status st = hd_ckpt_wait(r->store, err);
    if (st == HD_OK && hd_ckpt_last_saved(r->store) != r->state.ckpt.step) { st = save(r, err); }
    return st == HD_OK ? hd_ckpt_wait(r->store, err) : st;
}

static hd_status leave_on_signal(run *r, hd_err *err)
{
    int number = r->job->hooks->stop_signal != NULL ? (int)*r->job->hooks->stop_signal : 0;
    hd_status st = final_save(r, err);
    if (st != HD_OK) { return st; }
    st = HD_FAIL(err, HD_E_SIGNAL, "stopped by signal %d after step %" PRId64 "%s", number, r->state.ckpt.step,
                 hd_config_bool(r->job->config, HD_KEY_enable_checkpointing) && r->state.ckpt.step >= 0 ? ", which is saved" : "");
    if (err != NULL) { err->signal = number; }
    return st;
}

static void report_memory(const run *r)
{
    const hd_run_plan *p = &r->job->plan;
    const hd_trainer *t = &r->trainer;
    if (r->comm->rank != 0) { return; }
    hd_log(HD_LOG_INFO, "memory: model arena %zu of %zu planned bytes, step %zu of %zu, scratch %zu of %zu; peak RSS %" PRId64 " bytes, plan %zu",
           t->model_arena.high, p->arenas.model, t->step_arena.high, p->arenas.step, t->scratch_arena.high, p->arenas.scratch,
           peak_rss_bytes(), hd_run_plan_total(p) * (size_t)r->comm->size);
}

static hd_status loop(run *r, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_config *c = r->job->config;
    bool ended = false, reached = false;
    unsigned word = 0;
    int64_t interval = hd_config_int(c, HD_KEY_eval_interval), start = hd_config_int(c, HD_KEY_eval_start_step);
    r->last_time = hd_clock_now_s();
    for (int64_t step = r->first_step; step < r->n_step && !reached; step++) {
        HD_TRY(train_step(r, step, &ended, err));
        if (ended) { break; }
        if (r->state.ckpt.step == step) { HD_TRY(save_if_due(r, step, err)); }
        bool last = step == r->n_step - 1;
        if (r->evaluator != NULL && (is_due(step, start, interval) || last)) { HD_TRY(evaluate(r, step, &reached, err)); }
        HD_TRY(agree(r, 0, &word, err));
        if ((word & WORD_STOP) != 0) { return leave_on_signal(r, err); }
    }
    if (ended && r->comm->rank == 0) {
        hd_log(HD_LOG_WARN, "the data ended after step %" PRId64 " of steps=%" PRId64 "; set num_epoch to pass over it more often",
               r->state.ckpt.step, r->n_step);
    }
    if (hd_config_bool(c, HD_KEY_save_checkpoint_on_completion)) { HD_TRY(final_save(r, err)); }
    report_memory(r);
out:
    return st;
}

static hd_status run_rank(void *arg, hd_comm *comm, hd_err *err)
{
    run r = {.job = arg, .comm = comm};
    hd_status st = open_run(&r, err);
    if (st == HD_OK) { st = loop(&r, err); }
    return close_run(&r, st, err);
}

/* ---- the command -------------------------------------------------------------------------------------------------------------------- */

static void log_line(void *context, const char *text)
{
    (void)context;
    hd_log(HD_LOG_INFO, "%s", text);
}

static void digest_line(void *context, const char *text)
{
    hd_sha256_update(context, text, strlen(text) + 1);
}

static hd_status digest_config(job *j, hd_err *err)
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256_init(&sha);
    hd_status st = hd_config_print(j->config, HD_CONFIG_MAXTEXT, digest_line, &sha, err);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, j->config_digest);
    return st;
}

static void announce(const job *j, int n_rank)
{
    const hd_run_plan *p = &j->plan;
    hd_log(HD_LOG_INFO, "Num_devices: %d, %d thread%s each", n_rank, hd_threads_per_rank(j->config, n_rank),
           hd_threads_per_rank(j->config, n_rank) == 1 ? "" : "s");
    hd_log(HD_LOG_INFO, "number parameters: %.6f billion (%.6f billion active per token)", (double)p->n_param / 1e9,
           (double)p->n_active_param / 1e9);
    hd_log(HD_LOG_INFO, "Per train step: Total TFLOPs: %.2f by MaxText's formula, %.2f model FLOPs", p->maxtext_tflops, p->model_tflops);
    hd_log(HD_LOG_INFO, "memory per device: %.3f GB (weights %.3f, gradients and optimizer %.3f, activations %.3f, scratch %.3f, "
           "checkpoint snapshot %.3f)", (double)hd_run_plan_total(p) / 1e9, (double)p->weight_bytes / 1e9,
           (double)(p->gradient_bytes + p->master_bytes + p->moment_bytes + p->tree_bytes) / 1e9, (double)p->arenas.step / 1e9,
           (double)p->arenas.scratch / 1e9, (double)p->snapshot_bytes / 1e9);
}

hd_status hd_cmd_train(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    job j = {.config = config, .hooks = hooks};
    int n_rank;
    if (hd_config_int(config, HD_KEY_steps) < 1) {
        return HD_FAIL(err, HD_E_CONFIG, "steps=%" PRId64 ": want at least 1", hd_config_int(config, HD_KEY_steps));
    }
    if (hd_config_bool(config, HD_KEY_log_config)) { HD_TRY(hd_config_print(config, HD_CONFIG_MAXTEXT, log_line, NULL, err)); }
    HD_TRY(digest_config(&j, err));
    HD_TRY(hd_rank_count(config, &n_rank, err));
    HD_TRY(hd_run_plan_make(config, n_rank, &j.plan, err));
    HD_TRY(hd_run_plan_fit(config, n_rank, &j.plan, err));
    announce(&j, n_rank);
    HD_TRY(hd_path_join(hd_config_str(config, HD_KEY_base_output_directory), hd_config_str(config, HD_KEY_run_name), &j.run_dir, err));
    if (n_rank == 1) {
        hd_comm comm = hd_comm_self();
        st = run_rank(&j, &comm, err);
    } else {
        st = hd_ranks_run_threads(n_rank, run_rank, &j, err);
    }
out:
    hd_free(j.run_dir);
    return st;
}
