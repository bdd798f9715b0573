/* The trainer's promises about bits: losses do not depend on threads, on how a batch is cut into accumulation steps and ranks, nor on
 * the guard; a step makes one read; the dry pass knows every byte. */
#include <stdio.h>

#include "data/dataset.h"
#include "hadal/config.h"
#include "ops/ops.h"
#include "support/keys.h"
#include "support/test.h"
#include "train/plan.h"
#include "train/trainer.h"

enum { N_STEP = 4 };

typedef struct losses { double loss[N_STEP], norm[N_STEP], param_norm[N_STEP]; } losses;

/* Keys common to all cases, then the case's own, separated by blanks. */
static hd_config *configure(const char *own)
{
    return hd_test_config("train", "configs/base.yml dataset_type=synthetic base_output_directory=/tmp run_name=x steps=%d max_target_length=32 "
                          "per_device_batch_size=8 learning_rate=0.01 warmup_steps_fraction=0 enable_checkpointing=false log_config=false "
                          "dtype=float32 %s", N_STEP, own);
}

typedef struct job {
    const hd_config *config;
    hd_run_plan plan;
    losses out;
    bool guard;
} job;

static void read_losses(const hd_trainer *t, int step, losses *out)
{
    out->loss[step] = t->host_readout[HD_METRIC_LOSS];
    out->norm[step] = t->host_readout[t->n_metric + HD_CONTROL_NORM];
    out->param_norm[step] = t->host_readout[HD_METRIC_PARAM_NORM2];
}

static hd_status train_rank(void *arg, hd_comm *comm, hd_err *err)
{
    job *j = arg;
    hd_status st = HD_OK;
    hd_trainer t = {0};
    hd_dataset *data = NULL;
    hd_batch batch = {0};
    hd_guard guard = {.n_arenas = 2};
    int64_t n_found;
    HD_TRY(hd_trainer_open(j->config, comm, &j->plan.arenas, &t, err));
    HD_TRY(hd_model_init_weights(&t.model, &t.ex, err));
    HD_TRY(hd_dataset_open(j->config, HD_SPLIT_TRAIN, t.model.dims.vocab_size, t.plan.global_rows, &data, err));
    HD_TRY(hd_batch_open(t.plan.n_local_leaf * t.plan.leaf_rows, t.plan.seq_len, &batch, err));
    if (j->guard) {
        guard.arenas[0] = &t.model_arena, guard.arenas[1] = &t.step_arena;
        t.ex.guard = &guard;
        size_t mark;
        hd_exec_enter(&t.ex, &mark);
        hd_exec_leave(&t.ex, mark);
    }
    for (int step = 0; step < N_STEP; step++) {
        int64_t reads = t.ex.n_reads;
        HD_TRY(hd_dataset_read(data, t.plan.first_leaf * t.plan.leaf_rows, &batch, &n_found, err));
        HD_TRY(hd_trainer_step(&t, &batch, step, err));
        if (t.ex.n_reads != reads + 1) { st = HD_FAIL(err, HD_E_INVALID, "%lld reads in a step, want 1", (long long)(t.ex.n_reads - reads)); goto out; }
        if (comm->rank == 0) { read_losses(&t, step, &j->out); }
    }
    if (t.model_arena.high != j->plan.arenas.model || t.step_arena.high != j->plan.arenas.step ||
        t.scratch_arena.high != j->plan.arenas.scratch) {
        st = HD_FAIL(err, HD_E_INVALID, "arenas reached %zu, %zu, %zu; planned %zu, %zu, %zu", t.model_arena.high, t.step_arena.high,
                     t.scratch_arena.high, j->plan.arenas.model, j->plan.arenas.step, j->plan.arenas.scratch);
    }
out:
    if (j->guard && t.ex.guard != NULL) {
        size_t mark;
        hd_exec_enter(&t.ex, &mark); /* closing the model may look at its memory */
        t.ex.guard = NULL;
    }
    hd_dataset_close(data);
    hd_batch_close(&batch);
    hd_trainer_close(&t);
    return st;
}

static losses train_guarded(const char *keys, int n_rank, bool guard)
{
    hd_err err = {0};
    job j = {.config = configure(keys), .guard = guard};
    assert_ok(hd_run_plan_make(j.config, n_rank, &j.plan, &err));
    if (n_rank == 1) {
        hd_comm comm = hd_comm_self();
        assert_ok(train_rank(&j, &comm, &err));
    } else {
        assert_ok(hd_ranks_run_threads(n_rank, train_rank, &j, &err));
    }
    hd_config_free((hd_config *)(uintptr_t)j.config);
    return j.out;
}

static losses train(const char *keys, int n_rank) { return train_guarded(keys, n_rank, false); }

static void same(const char *what, losses got, losses want)
{
    hd_assert_same_bits(what, got.loss, want.loss, sizeof(double), N_STEP);
    hd_assert_same_bits(what, got.norm, want.norm, sizeof(double), N_STEP);
    hd_assert_same_bits(what, got.param_norm, want.param_norm, sizeof(double), N_STEP);
    assert_true(hd_finite_f64(got.loss[N_STEP - 1]) && got.loss[N_STEP - 1] < got.loss[0]);
}

static void threads_do_not_change_losses(void **state)
{
    (void)state;
    const char *strategies[] = {"sparse_matmul=true megablox=true", "sparse_matmul=true megablox=false", "sparse_matmul=false",
                                "sparse_matmul=false capacity_factor=1.25"};
    for (int i = 0; i < 4; i++) {
        char one[256], two[256];
        snprintf(one, sizeof one, "model_name=tiny-v3 routed_bias_update_rate=0.01 num_threads=1 per_device_batch_size=2 %s", strategies[i]);
        snprintf(two, sizeof two, "model_name=tiny-v3 routed_bias_update_rate=0.01 num_threads=2 per_device_batch_size=2 %s", strategies[i]);
        same(strategies[i], train(two, 1), train(one, 1));
    }
}

static void accumulation_and_ranks_do_not_change_losses(void **state)
{
    (void)state;
    losses want = train("model_name=tiny-v3 routed_bias_update_rate=0.01 mtp_num_layers=1 load_balance_loss_weight=0.01 gradient_slices=4 per_device_batch_size=8", 1);
    const char *keys = "model_name=tiny-v3 routed_bias_update_rate=0.01 mtp_num_layers=1 load_balance_loss_weight=0.01 gradient_slices=4 num_threads=2 "
                       "per_device_batch_size=%d gradient_accumulation_steps=%d ici_data_parallelism=%d";
    for (int accumulation = 1; accumulation <= 4; accumulation *= 2) {
        for (int ranks = 1; ranks * accumulation <= 4; ranks *= 2) {
            char text[512];
            snprintf(text, sizeof text, keys, 8 / accumulation / ranks, accumulation, ranks);
            same(text, train(text, ranks), want);
        }
    }
}

static void two_ranks_equal_two_slices(void **state)
{
    (void)state;
    losses two = train("model_name=tiny-v2 per_device_batch_size=2 ici_data_parallelism=2 num_threads=2", 2);
    same("ranks", two, train("model_name=tiny-v2 per_device_batch_size=4 gradient_slices=2", 1));
}

static void the_guard_sees_no_access_outside_ops(void **state)
{
    (void)state;
    const char *keys = "model_name=tiny-v3 routed_bias_update_rate=0.01 per_device_batch_size=2 mtp_num_layers=1 skip_step_on_spikes=true";
    same("guard", train_guarded(keys, 1, true), train(keys, 1));
}

static void a_plan_of_671b_is_quick(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_run_plan plan;
    hd_config *config = configure("model_name=deepseek3-671b max_target_length=4096 per_device_batch_size=1 mtp_num_layers=1");
    assert_ok(hd_run_plan_make(config, 1, &plan, &err));
    assert_int_equal(plan.n_param - plan.n_mtp_param, 671026419200);
    assert_int_equal(plan.weight_bytes, 4 * plan.n_param);
    assert_int_equal(plan.moment_bytes, 8 * plan.n_trained_param);
    hd_config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_do_not_change_losses),
        cmocka_unit_test(accumulation_and_ranks_do_not_change_losses),
        cmocka_unit_test(two_ranks_equal_two_slices),
        cmocka_unit_test(the_guard_sees_no_access_outside_ops),
        cmocka_unit_test(a_plan_of_671b_is_quick),
    };
    return cmocka_run_group_tests_name("train/trainer", tests, NULL, NULL);
}
