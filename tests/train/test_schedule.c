/* Learning rates at every corner of the schedules, and the FLOP counts against MaxText's worked figures. */
#include <stdio.h>

#include "hadal/config.h"
#include "model/model.h"
#include "support/test.h"
#include "train/flops.h"
#include "train/schedule.h"

static void near(double got, double want)
{
    hd_assert_abs_f64("learning rate", &got, &want, 1, 1e-15);
}

static void cosine_without_warmup_starts_at_the_peak(void **state)
{
    (void)state;
    hd_schedule s = {.peak = 3e-5, .final_fraction = 0.1, .n_step = 5, .n_decay = 5};
    near(hd_schedule_at(&s, 0), 3e-5);
    near(hd_schedule_at(&s, 2), 3e-5 * 0.55);
    near(hd_schedule_at(&s, 4), 3e-6);
    near(hd_schedule_at(&s, 5), 0.0);
}

static void warmup_starts_at_zero(void **state)
{
    (void)state;
    hd_schedule s = {.peak = 1.0, .final_fraction = 0.0, .n_step = 20, .n_warmup = 4, .n_decay = 16};
    near(hd_schedule_at(&s, 0), 0.0);
    near(hd_schedule_at(&s, 3), 0.75);
    near(hd_schedule_at(&s, 4), 1.0);
    near(hd_schedule_at(&s, 19), 0.0);
}

static void a_single_decay_step_is_at_its_end(void **state)
{
    (void)state;
    hd_schedule s = {.peak = 1.0, .final_fraction = 0.25, .n_step = 1, .n_decay = 1};
    near(hd_schedule_at(&s, 0), 0.25);
}

static void wsd_is_stable_then_decays(void **state)
{
    (void)state;
    hd_schedule s = {.wsd = true, .peak = 2.0, .final_fraction = 0.5, .n_step = 10, .n_warmup = 2, .n_decay = 3};
    near(hd_schedule_at(&s, 1), 1.0);
    for (int64_t t = 2; t < 7; t++) { near(hd_schedule_at(&s, t), 2.0); }
    near(hd_schedule_at(&s, 7), 2.0);
    near(hd_schedule_at(&s, 8), 1.5);
    near(hd_schedule_at(&s, 9), 1.0);
    s.cosine_decay = true;
    near(hd_schedule_at(&s, 7), 2.0);
    near(hd_schedule_at(&s, 8), 1.5);
    near(hd_schedule_at(&s, 9), 1.0);
}

static hd_dims dims_of(const char *model, int n_mtp)
{
    hd_err err = {0};
    hd_config *config = NULL;
    hd_dims dims;
    char name[64], mtp[64];
    snprintf(name, sizeof name, "model_name=%s", model);
    snprintf(mtp, sizeof mtp, "mtp_num_layers=%d", n_mtp);
    const char *argv[] = {"configs/base.yml", name, mtp, "dataset_type=synthetic", "base_output_directory=/tmp"};
    assert_ok(hd_config_load("train", 5, argv, "configs", &config, &err));
    assert_ok(hd_dims_from_config(config, &dims, &err));
    hd_config_free(config);
    return dims;
}

static void expect_tflops(const char *model, int n_mtp, int64_t seq_len, double total, double weights, double attention)
{
    hd_dims dims = dims_of(model, n_mtp);
    hd_flops f = hd_flops_maxtext(&dims, 4.0, seq_len);
    double got[] = {f.total / 1e12, f.weights / 1e12, f.attention / 1e12}, want[] = {total, weights, attention};
    hd_assert_abs_f64(model, got, want, 3, 5.1e-5);
}

static void maxtext_flops_equal_its_table(void **state)
{
    (void)state;
    expect_tflops("deepseek2-16b", 0, 1024, 61.9828, 60.2434, 1.7395);
    expect_tflops("deepseek2-236b", 0, 1024, 543.3523, 512.4285, 30.9238);
    expect_tflops("deepseek3-671b", 0, 1024, 931.5253, 900.0861, 31.4392);
    expect_tflops("deepseek3-671b", 1, 2048, 1956.7592, 1828.9410, 127.8182);
    expect_tflops("deepseek2-16b", 1, 2048, 131.7868, 124.5712, 7.2155);
}

/* Architecture notes, table 4.5: training FLOPs per token at 4096, attention over the causal average. */
static void model_flops_match_the_architecture_notes(void **state)
{
    (void)state;
    const char *names[] = {"deepseek2-16b", "deepseek2-236b", "deepseek3-671b"};
    const double want[] = {16.41e9, 155.3e9, 250.5e9};
    for (int i = 0; i < 3; i++) {
        hd_dims dims = dims_of(names[i], 0);
        double got = hd_flops_model(&dims, 1.0, 4096).total / 4096;
        assert_true(got > 0.999 * want[i] && got < 1.001 * want[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cosine_without_warmup_starts_at_the_peak),
        cmocka_unit_test(warmup_starts_at_zero),
        cmocka_unit_test(a_single_decay_step_is_at_its_end),
        cmocka_unit_test(wsd_is_stable_then_decays),
        cmocka_unit_test(maxtext_flops_equal_its_table),
        cmocka_unit_test(model_flops_match_the_architecture_notes),
    };
    return cmocka_run_group_tests_name("train/schedule", tests, NULL, NULL);
}
