/* What a run reports: bytes of event files against TensorBoard's own, the console line that scripts parse, the metrics file and
 * what a resumed run does to it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/io.h"
#include "hadal/config.h"
#include "hadal/log.h"
#include "support/test.h"
#include "train/metrics.h"
#include "train/tensorboard.h"

/* ---- event files -------------------------------------------------------------------------------------------------------- */

static void assert_hex(const void *data, size_t n, const char *hex)
{
    char seen[1024] = "";
    assert_in_range(n, 0, sizeof seen / 3 - 1);
    for (size_t i = 0; i < n; i++) { snprintf(seen + 3 * i, 4, "%02x ", ((const unsigned char *)data)[i]); }
    if (n > 0) { seen[3 * n - 1] = '\0'; }
    assert_string_equal(seen, hex);
}

static void frames_a_record_with_masked_checksums(void **state)
{
    (void)state;
    hd_buf out = {0};
    hd_tfrecord_append(&out, "abc", 3);
    assert_hex(out.data, out.n, "03 00 00 00 00 00 00 00 b0 99 49 0e 61 62 63 6e 57 f1 21");
    hd_buf_free(&out);
}

/* The data of the first record. */
static void assert_first_event(hd_buf *out, const char *hex)
{
    assert_true(out->n > 16);
    assert_hex(out->data + 12, out->n - 16, hex);
    hd_buf_free(out);
}

static void writes_the_bytes_of_tensorboard(void **state)
{
    (void)state;
    hd_buf out = {0};
    uint64_t bits = 0x41d954fc40000000u;
    double wall_time;
    memcpy(&wall_time, &bits, sizeof wall_time);
    hd_event_append_version(&out, wall_time);
    assert_first_event(&out, "09 00 00 00 40 fc 54 d9 41 1a 0d 62 72 61 69 6e 2e 45 76 65 6e 74 3a 32");

    hd_event_append_scalars(&out, wall_time, 100, &(hd_scalar){"learning/loss", 2.5}, 1);
    assert_first_event(&out, "09 00 00 00 40 fc 54 d9 41 10 64 2a 16 0a 14 0a 0d 6c 65 61 72 6e 69 6e 67 2f 6c 6f 73 73 15 00 00 20 40");

    /* Fields may stand in any order; protobuf-c writes the tensor (42) before the metadata (4a). */
    hd_event_append_text(&out, wall_time, 0, "num_model_parameters/text_summary", "16B");
    assert_first_event(&out, "09 00 00 00 40 fc 54 d9 41 10 00 2a 3e 0a 3c 0a 21 "
                             "6e 75 6d 5f 6d 6f 64 65 6c 5f 70 61 72 61 6d 65 74 65 72 73 2f 74 65 78 74 5f 73 75 6d 6d 61 72 79 "
                             "42 0d 08 07 12 04 12 02 08 01 42 03 31 36 42 4a 08 0a 06 0a 04 74 65 78 74");
}

static uint64_t little_endian(const char *at, int n_bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < n_bytes; i++) { value |= (uint64_t)(unsigned char)at[i] << (8 * i); }
    return value;
}

static uint32_t unmask(uint64_t masked)
{
    uint32_t rotated = (uint32_t)masked - 0xa282ead8u;
    return (rotated >> 17) | (rotated << 15);
}

/* Walks a file's frames, checking both sums of each; how many records hold the text? */
static int count_records_with(const char *data, size_t n, const char *text)
{
    int found = 0;
    for (size_t at = 0; at < n;) {
        assert_true(n - at >= 16);
        uint64_t length = little_endian(data + at, 8);
        assert_true(length <= n - at - 16);
        assert_int_equal(unmask(little_endian(data + at + 8, 4)), hd_crc32c(0, data + at, 8));
        assert_int_equal(unmask(little_endian(data + at + 12 + length, 4)), hd_crc32c(0, data + at + 12, length));
        found += memmem(data + at + 12, length, text, strlen(text)) != NULL;
        at += 16 + length;
    }
    return found;
}

static void more_scalars_than_fit_one_event_make_several(void **state)
{
    (void)state;
    hd_scalar many[150];
    hd_buf out = {0};
    for (int i = 0; i < 150; i++) { many[i] = (hd_scalar){"a", (double)i}; }
    hd_event_append_scalars(&out, 0.0, 7, many, 150);
    assert_int_equal(count_records_with(out.data, out.n, "a"), 3);
    hd_buf_free(&out);
}

/* ---- a run's reports ------------------------------------------------------------------------------------------------------ */

static struct {
    char result[8][2048];
    char progress[512];
    int n_result, n_progress;
} heard;

static void listen(void *context, hd_log_level level, const char *text)
{
    (void)context;
    if (level == HD_LOG_RESULT && heard.n_result < 8) { snprintf(heard.result[heard.n_result++], sizeof heard.result[0], "%s", text); }
    if (level == HD_LOG_PROGRESS) {
        snprintf(heard.progress, sizeof heard.progress, "%s", text);
        heard.n_progress++;
    }
}

static int setup(void **state)
{
    memset(&heard, 0, sizeof heard);
    unsetenv("HADAL_LOSS_HEX");
    hd_log_set_sink(listen, NULL);
    return hd_temp_setup(state);
}

static int teardown(void **state)
{
    hd_log_set_sink(NULL, NULL);
    unsetenv("HADAL_LOSS_HEX");
    return hd_temp_teardown(state);
}

typedef struct bench {
    hd_config *config;
    hd_model model;
    hd_metrics *metrics;
} bench;

static void open_bench(bench *b, const char *dir, int64_t first_step, const char *key)
{
    hd_err err = {0};
    char output[4200], file[4200];
    snprintf(output, sizeof output, "base_output_directory=%s", dir);
    snprintf(file, sizeof file, "metrics_file=%s/metrics.jsonl", dir);
    const char *argv[] = {"configs/base.yml", "model_name=tiny-v3", "dataset_type=synthetic", "run_name=r", "steps=10",
                          "log_period=1", output, file, key};
    *b = (bench){0};
    assert_ok(hd_config_load("train", 9, argv, "configs", &b->config, &err));
    assert_ok(hd_dims_from_config(b->config, &b->model.dims, &err));
    b->model.n_moe_layer = b->model.dims.n_layer - b->model.dims.n_dense_layer + b->model.dims.n_mtp;
    assert_ok(hd_metrics_open(b->config, &b->model, first_step, &b->metrics, &err));
    heard.n_result = 0;
}

static void close_bench(bench *b)
{
    hd_err err = {0};
    assert_ok(hd_metrics_close(b->metrics, &err));
    hd_config_free(b->config);
}

static hd_step_report report_of(int64_t step)
{
    return (hd_step_report){
        .step = step, .seconds = 2.0, .maxtext_tflops = 0.5, .model_tflops = 0.25, .peak_tflops = 0.25, .tokens = 4096,
        .total_weights = 4000, .loss = 3.125, .lm_loss = 2.0, .z_loss = 0.1, .moe_lb_loss = 0.0625, .mtp_loss = 1.0625,
        .raw_grad_norm = 2.0, .grad_norm = 1.0, .param_norm = 9.0, .learning_rate = 1e-3, .seconds_left = 3723.0,
        .rss_bytes = 1500000000,
    };
}

#define MAXTEXT_FIELDS                                                                                                    \
    "completed step: 3, seconds: 2.000, TFLOP/s/device: 0.250, Tokens/s/device: 2048.000, total_weights: 4000, loss: 3.125, " \
    "lm_loss: 2.000, perplexity: 7.389"

static void the_step_line_begins_with_maxtexts_fields(void **state)
{
    hd_err err = {0};
    bench b;
    hd_step_report r = report_of(3);
    open_bench(&b, *state, 0, "mtp_num_layers=1");
    assert_ok(hd_metrics_step(b.metrics, &r, &err));
    assert_int_equal(heard.n_result, 1);
    assert_string_equal(heard.result[0], MAXTEXT_FIELDS ", moe_lb_loss: 0.062500, main_model_loss: 2.062, mtp_loss: 1.062, tokens/s: 2048, "
                        "model TFLOP/s/device: 0.125, of FMA peak: 50.0 %, left: 1:02:03, memory: 1.500 GB");
    close_bench(&b);
}

static void every_bit_of_a_loss_is_shown_on_request(void **state)
{
    hd_err err = {0};
    bench b;
    hd_step_report r = report_of(3);
    r.loss = 0x1.921fb54442d18p+1;
    r.skipped = true;
    r.peak_tflops = 0.0;
    setenv("HADAL_LOSS_HEX", "1", 1);
    open_bench(&b, *state, 0, "enable_tensorboard=false");
    assert_ok(hd_metrics_step(b.metrics, &r, &err));
    assert_non_null(strstr(heard.result[0], ", update skipped, loss_hex: 0x1.921fb54442d18p+1"));
    assert_null(strstr(heard.result[0], "peak"));
    hd_eval_report e = {.step = 3, .seconds = 1.5, .total_loss = 30.0, .total_weights = 20.0, .nats_per_byte = log(2.0), .n_byte = 21};
    assert_ok(hd_metrics_eval(b.metrics, &e, &err));
    assert_string_equal(heard.result[1], "Completed eval after train step 3, loss=1.500, perplexity=4.482, total_weights=20, avg_z_loss=0.000, "
                        "nats_per_byte=0.6931, bits_per_byte=1.0000, bytes=21, seconds=1.500, loss_hex=0x1.8p+0");
    close_bench(&b);
}

static void log_format_json_prints_objects(void **state)
{
    hd_err err = {0};
    bench b;
    hd_step_report r = report_of(3);
    open_bench(&b, *state, 0, "log_format=json");
    assert_ok(hd_metrics_step(b.metrics, &r, &err));
    static const char begin[] = "{\"event\": \"step\", \"learning/loss\": 3.125, ";
    assert_int_equal(strncmp(heard.result[0], begin, strlen(begin)), 0);
    assert_non_null(strstr(heard.result[0], "\"step\": 3, \"run_name\": \"r\"}"));
    close_bench(&b);
}

static void a_terminal_sees_progress_and_fewer_lines(void **state)
{
    hd_err err = {0};
    bench b;
    open_bench(&b, *state, 0, "enable_tensorboard=false");
    hd_metrics_set_progress(b.metrics, true, true);
    for (int64_t step = 0; step < 10; step++) {
        hd_step_report r = report_of(step);
        assert_ok(hd_metrics_step(b.metrics, &r, &err));
    }
    assert_int_equal(heard.n_progress, 10);
    assert_int_equal(heard.n_result, 2); /* the first and the last */
    assert_string_equal(heard.progress, "step 10/10  100 %  loss 3.125  1:02:03 left  2048 tokens/s  125 GFLOP/s = 50 % of peak  1.50 GB");
    close_bench(&b);
}

/* ---- the metrics file ------------------------------------------------------------------------------------------------------ */

static void write_steps(const char *dir, int64_t first, int64_t end)
{
    hd_err err = {0};
    bench b;
    open_bench(&b, dir, first, "enable_tensorboard=false");
    for (int64_t step = first; step < end; step++) {
        hd_step_report r = report_of(step);
        r.loss = 1.0 / (double)(step + 3);
        assert_ok(hd_metrics_step(b.metrics, &r, &err));
        if (step == 3) { assert_ok(hd_metrics_eval(b.metrics, &(hd_eval_report){.step = 3, .nats_per_byte = NAN}, &err)); }
    }
    close_bench(&b);
}

static char *read_metrics(const char *dir)
{
    hd_err err = {0};
    char *text = NULL;
    size_t n;
    assert_ok(hd_io_read_file(hd_temp_path(dir, "metrics.jsonl"), 1 << 20, &text, &n, &err));
    return text;
}

static void append_torn_record(const char *dir)
{
    hd_err err = {0};
    hd_file *file = NULL;
    assert_ok(hd_io_create(hd_temp_path(dir, "metrics.jsonl"), HD_IO_APPEND, &file, &err));
    assert_ok(hd_io_write(file, "{\"learning/loss\":1.5", 20, &err));
    assert_ok(hd_io_close(&file, &err));
}

static void a_resumed_run_replaces_the_records_it_repeats(void **state)
{
    write_steps(*state, 0, 6);
    char *whole = read_metrics(*state);
    assert_non_null(strstr(whole, "\"learning/loss\": 0.3333333333333333,")); /* reads back as 1/3 exactly */
    assert_non_null(strstr(whole, "\"eval/avg_loss\": "));
    append_torn_record(*state);
    write_steps(*state, 4, 6);
    char *again = read_metrics(*state);
    assert_string_equal(again, whole);
    hd_free(again);
    write_steps(*state, 6, 6); /* nothing to repeat: nothing lost */
    again = read_metrics(*state);
    assert_string_equal(again, whole);
    hd_free(again);
    write_steps(*state, 0, 1); /* a new run */
    again = read_metrics(*state);
    assert_true(strlen(again) < strlen(whole) / 4);
    hd_free(again);
    hd_free(whole);
}

static void writes_an_event_file_per_run(void **state)
{
    hd_err err = {0};
    bench b;
    hd_io_names names;
    char *data = NULL;
    size_t n;
    double count[64 * 8] = {0};
    hd_step_report r = report_of(0);
    open_bench(&b, *state, 0, "log_format=text");
    for (int64_t i = 0; i < b.model.n_moe_layer * b.model.dims.n_expert; i++) { count[i] = i == 0 ? 0.0 : 8.0; }
    r.expert_count = count;
    assert_ok(hd_metrics_step(b.metrics, &r, &err));
    close_bench(&b);
    const char *dir = hd_temp_path(*state, "r/tensorboard");
    assert_ok(hd_io_list(dir, &names, &err));
    assert_int_equal(names.n, 1);
    assert_int_equal(strncmp(names.name[0], "events.out.tfevents.", 20), 0);
    assert_ok(hd_io_read_file(hd_temp_path(dir, names.name[0]), 1 << 22, &data, &n, &err));
    assert_int_equal(count_records_with(data, n, "brain.Event:2"), 1);
    assert_int_equal(count_records_with(data, n, "num_model_parameters/text_summary"), 1);
    assert_int_equal(count_records_with(data, n, "learning_rate/text_summary"), 1);
    assert_int_equal(count_records_with(data, n, "hf_access_token"), 0);
    assert_int_equal(count_records_with(data, n, "learning/current_learning_rate"), 1);
    assert_int_equal(count_records_with(data, n, "moe/dead_experts"), 1);
    assert_int_equal(count_records_with(data, n, "moe/layer_001/max_load"), 1);
    assert_int_equal(count_records_with(data, n, "moe/load/layer_001/expert_000"), 1);
    hd_free(data);
    hd_io_names_free(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_a_record_with_masked_checksums),
        cmocka_unit_test(writes_the_bytes_of_tensorboard),
        cmocka_unit_test(more_scalars_than_fit_one_event_make_several),
        cmocka_unit_test_setup_teardown(the_step_line_begins_with_maxtexts_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(every_bit_of_a_loss_is_shown_on_request, setup, teardown),
        cmocka_unit_test_setup_teardown(log_format_json_prints_objects, setup, teardown),
        cmocka_unit_test_setup_teardown(a_terminal_sees_progress_and_fewer_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(a_resumed_run_replaces_the_records_it_repeats, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_an_event_file_per_run, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
