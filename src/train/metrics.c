/* See metrics.h.  One list of scalars per step feeds all three outputs: TensorBoard's file, the metrics file and, with
 * log_format=json, the console; the console's text line is written out by hand because scripts parse it. */
#include "train/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/io.h"
#include "base/json.h"
#include "hadal/log.h"
#include "train/tensorboard.h"

enum {
    FIXED_SCALARS = 40,          /* more than any step or evaluation adds besides one per MoE layer */
    MAX_EXPERT_SERIES = 4096,    /* above it a chart per expert helps nobody */
    MAX_RECORD_BYTES = 4 << 20   /* a line of the metrics file */
};

static const double flush_interval_s = 10.0; /* a viewer of a slow run should not wait for log_period steps */
static const double line_interval_s = 2.0;   /* on a terminal with a progress line, at most one step line in this time */

struct hd_metrics {
    const hd_config *config;
    int64_t n_step, log_period, n_device;
    int64_t n_moe_layer, n_expert;
    bool moe, mtp;
    bool json, loss_hex;
    bool progress, thin;    /* show the replacing line; leave out step lines of fast steps */
    double last_line_s, last_flush_s;
    hd_scalar *scalars;     /* of the record being made */
    size_t n_scalar;
    char (*max_load_tag)[40];  /* (n_moe_layer) "moe/layer_003/max_load" */
    char (*load_tag)[48];      /* (n_moe_layer, n_expert), NULL when there are too many */
    hd_scalar *loads;          /* the same count */
    hd_tensorboard *tensorboard;
    hd_file *file;
    hd_buf line;
};

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

/* Offset of the first line of a metrics file that is torn, not a record, or of a step >= first_step. */
static hd_status end_of_earlier_records(const char *path, int64_t first_step, int64_t *end, hd_err *err)
{
    hd_status st = HD_OK;
    hd_reader reader = {0};
    hd_json json = {0};
    bool earlier = true;
    *end = 0;
    HD_TRY(hd_reader_open(path, MAX_RECORD_BYTES, &reader, err));
    while (earlier) {
        const char *line;
        size_t n;
        HD_TRY(hd_reader_line(&reader, &line, &n, err));
        if (line == NULL) { break; }
        double step = NAN;
        bool more;
        hd_json_str key;
        hd_json_open(&json, line, n, path, HD_JSON_STRICT);
        earlier = hd_json_object_begin(&json, NULL) == HD_OK;
        while (earlier) {
            earlier = hd_json_object_next(&json, &more, &key, NULL) == HD_OK;
            if (!earlier || !more) { break; }
            if (hd_json_str_is(key, "step")) { earlier = hd_json_f64(&json, &step, NULL) == HD_OK; }
        }
        hd_json_close(&json);
        earlier = earlier && step < (double)first_step;
        if (earlier) { *end = reader.offset; }
    }
out:
    hd_reader_close(&reader);
    return st;
}

/* Records are in the order of steps, so what a resumed run writes again is the tail of the file. */
static hd_status open_file(hd_metrics *m, const char *path, int64_t first_step, hd_err *err)
{
    hd_status st = HD_OK;
    hd_io_info info;
    int64_t end = 0;
    HD_TRY(hd_io_stat(path, &info, err));
    if (first_step == 0 || info.kind == HD_IO_MISSING) { return hd_io_create(path, HD_IO_TRUNCATE, &m->file, err); }
    if (info.kind == HD_IO_REGULAR) {
        HD_TRY(end_of_earlier_records(path, first_step, &end, err));
        HD_TRY(hd_io_create(path, HD_IO_UPDATE, &m->file, err));
        HD_TRY(hd_io_truncate(m->file, end, err));
        HD_TRY(hd_io_close(&m->file, err));
    }
    HD_TRY(hd_io_create(path, HD_IO_APPEND, &m->file, err));
out:
    return st;
}

static hd_status write_setup_texts(hd_metrics *m, const hd_model *model, int64_t first_step, hd_err *err)
{
    hd_status st = HD_OK;
    hd_config_key_info info;
    char *value = NULL;
    char count[32];
    (void)snprintf(count, sizeof count, "%" PRId64, hd_dims_count_params(&model->dims));
    HD_TRY(hd_tensorboard_text(m->tensorboard, first_step, "num_model_parameters/text_summary", count, err));
    for (size_t i = 0; hd_config_key_at(i, &info); i++) {
        char tag[128];
        if (info.secret) { continue; }
        HD_TRY(hd_config_value_text(m->config, info.name, &value, err));
        (void)snprintf(tag, sizeof tag, "%s/text_summary", info.name);
        HD_TRY(hd_tensorboard_text(m->tensorboard, first_step, tag, value, err));
        hd_config_text_free(value);
        value = NULL;
    }
    HD_TRY(hd_tensorboard_flush(m->tensorboard, err));
out:
    hd_config_text_free(value);
    return st;
}

/* Layers count from 0 through the model, dense ones included; MTP modules follow. */
static hd_status make_moe_tags(hd_metrics *m, const hd_model *model, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n_layer = (size_t)m->n_moe_layer, n_expert = (size_t)m->n_expert;
    HD_TRY(hd_alloc(n_layer, sizeof *m->max_load_tag, "metric names", (void **)&m->max_load_tag, err));
    for (size_t i = 0; i < n_layer; i++) {
        (void)snprintf(m->max_load_tag[i], sizeof m->max_load_tag[i], "moe/layer_%03d/max_load", (int)model->dims.n_dense_layer + (int)i);
    }
    if (n_layer * n_expert > MAX_EXPERT_SERIES) { return HD_OK; }
    HD_TRY(hd_alloc(n_layer * n_expert, sizeof *m->load_tag, "metric names", (void **)&m->load_tag, err));
    HD_TRY(hd_alloc(n_layer * n_expert, sizeof *m->loads, "metrics", (void **)&m->loads, err));
    for (size_t i = 0; i < n_layer * n_expert; i++) {
        (void)snprintf(m->load_tag[i], sizeof m->load_tag[i], "moe/load/layer_%03d/expert_%03d",
                       (int)model->dims.n_dense_layer + (int)(i / n_expert), (int)(i % n_expert));
        m->loads[i].tag = m->load_tag[i];
    }
out:
    return st;
}

hd_status hd_metrics_open(const hd_config *config, const hd_model *model, int64_t first_step, hd_metrics **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_metrics *m = NULL;
    const char *path = hd_config_str(config, HD_KEY_metrics_file), *hex = hd_env(HD_ENV_LOSS_HEX);
    HD_TRY(hd_alloc(1, sizeof *m, "metrics", (void **)&m, err));
    *m = (hd_metrics){
        .config = config,
        .n_step = hd_config_int(config, HD_KEY_steps),
        .log_period = hd_config_int(config, HD_KEY_log_period),
        .n_device = hd_config_int(config, HD_KEY_num_devices),
        .n_moe_layer = model->n_moe_layer,
        .n_expert = model->dims.n_expert,
        .moe = model->dims.n_expert > 1,
        .mtp = model->dims.n_mtp > 0,
        .json = hd_config_is(config, HD_KEY_log_format, "json"),
        .loss_hex = hd_config_bool(config, HD_KEY_loss_hex) || (hex != NULL && strcmp(hex, "0") != 0),
        .last_flush_s = hd_clock_now_s(),
    };
    HD_TRY(hd_alloc((size_t)(FIXED_SCALARS + m->n_moe_layer), sizeof *m->scalars, "metrics", (void **)&m->scalars, err));
    if (m->moe) { HD_TRY(make_moe_tags(m, model, err)); }
    if (path != NULL) { HD_TRY(open_file(m, path, first_step, err)); }
    if (hd_config_bool(config, HD_KEY_enable_tensorboard)) {
        HD_TRY(hd_tensorboard_open(hd_config_str(config, HD_KEY_tensorboard_dir), &m->tensorboard, err));
        HD_TRY(write_setup_texts(m, model, first_step, err));
    }
    *out = m;
    m = NULL;
out:
    if (m != NULL && hd_metrics_close(m, NULL) != HD_OK) { return st; } /* the first failure is the one to tell */
    return st;
}

void hd_metrics_set_progress(hd_metrics *m, bool progress, bool thin)
{
    m->progress = progress && !m->json;
    m->thin = m->progress && thin;
}

hd_status hd_metrics_close(hd_metrics *m, hd_err *err)
{
    if (m == NULL) { return HD_OK; }
    if (m->progress) { hd_log(HD_LOG_PROGRESS, "%s", ""); }
    hd_status st = hd_tensorboard_close(m->tensorboard, err);
    hd_status closed = hd_io_close(&m->file, st == HD_OK ? err : NULL);
    hd_buf_free(&m->line);
    hd_free(m->scalars);
    hd_free(m->max_load_tag);
    hd_free(m->load_tag);
    hd_free(m->loads);
    hd_free(m);
    return st != HD_OK ? st : closed;
}

/* ---- records ------------------------------------------------------------------------------------------------------------- */

static void add(hd_metrics *m, const char *tag, double value)
{
    m->scalars[m->n_scalar++] = (hd_scalar){.tag = tag, .value = value};
}

static double per_second(double amount, double seconds)
{
    return seconds > 0.0 ? amount / seconds : 0.0;
}

/* Reached share of the measured peak; 0 when the peak is unknown. */
static double peak_share(const hd_step_report *r)
{
    return r->peak_tflops > 0.0 ? per_second(r->model_tflops, r->seconds) / r->peak_tflops : 0.0;
}

/* max_load: the busiest expert's claims over the mean, 1 when even. */
static void add_expert_loads(hd_metrics *m, const hd_step_report *r)
{
    double dead = 0.0;
    if (r->expert_count == NULL) { return; }
    for (int64_t layer = 0; layer < m->n_moe_layer; layer++) {
        const double *count = r->expert_count + layer * m->n_expert;
        double total = 0.0, most = 0.0;
        for (int64_t e = 0; e < m->n_expert; e++) {
            total += count[e];
            if (count[e] > most) { most = count[e]; }
            if (count[e] == 0.0) { dead += 1.0; }
        }
        double mean = total / (double)m->n_expert;
        add(m, m->max_load_tag[layer], mean > 0.0 ? most / mean : 0.0);
        for (int64_t e = 0; m->loads != NULL && e < m->n_expert; e++) {
            m->loads[layer * m->n_expert + e].value = mean > 0.0 ? count[e] / mean : 0.0;
        }
    }
    add(m, "moe/dead_experts", dead);
    add(m, "moe/drop_rate", r->drop_rate);
}

static void collect_step(hd_metrics *m, const hd_step_report *r)
{
    m->n_scalar = 0;
    add(m, "learning/loss", r->loss);
    add(m, "learning/lm_loss", r->lm_loss);
    add(m, "learning/perplexity", exp(r->lm_loss));
    add(m, "learning/z_loss", r->z_loss);
    if (m->moe) { add(m, "learning/moe_lb_loss", r->moe_lb_loss); }
    if (m->mtp) { add(m, "learning/mtp_loss", r->mtp_loss); }
    add(m, "learning/total_weights", r->total_weights);
    add(m, "learning/grad_norm", r->grad_norm);
    add(m, "learning/raw_grad_norm", r->raw_grad_norm);
    add(m, "learning/param_norm", r->param_norm);
    add(m, "learning/current_learning_rate", r->learning_rate);
    add(m, "perf/step_time_seconds", r->seconds);
    add(m, "perf/per_device_tflops", r->maxtext_tflops);
    add(m, "perf/per_device_tflops_per_sec", per_second(r->maxtext_tflops, r->seconds));
    add(m, "perf/per_device_tokens", r->tokens);
    add(m, "perf/per_device_tokens_per_sec", per_second(r->tokens, r->seconds));
    add(m, "perf/model_tflops_per_sec", per_second(r->model_tflops, r->seconds));
    if (r->peak_tflops > 0.0) { add(m, "perf/peak_share", peak_share(r)); }
    add(m, "perf/resident_bytes", (double)r->rss_bytes);
    add(m, "optim/step_skipped", r->skipped ? 1.0 : 0.0);
    add_expert_loads(m, r);
}

static void collect_eval(hd_metrics *m, const hd_eval_report *r, double loss)
{
    m->n_scalar = 0;
    add(m, "eval/avg_loss", loss);
    add(m, "eval/avg_perplexity", exp(loss));
    add(m, "eval/total_loss", r->total_loss);
    add(m, "eval/total_weights", r->total_weights);
    add(m, "eval/avg_z_loss", r->avg_z_loss);
    add(m, "eval/seconds", r->seconds);
    if (!isnan(r->nats_per_byte)) {
        add(m, "eval/nats_per_byte", r->nats_per_byte);
        add(m, "eval/bits_per_byte", r->nats_per_byte / log(2.0));
        add(m, "eval/bytes", (double)r->n_byte);
    }
}

/* The record as one JSON object in m->line; event NULL for the metrics file. */
static void compose_json(hd_metrics *m, const char *event, int64_t step, double hex_loss)
{
    const char *run_name = hd_config_str(m->config, HD_KEY_run_name);
    hd_json_writer w;
    hd_buf_clear(&m->line);
    hd_json_writer_init(&w, &m->line, 0);
    hd_json_write_object(&w);
    if (event != NULL) {
        hd_json_write_key(&w, "event");
        hd_json_write_string(&w, event);
    }
    for (size_t i = 0; i < m->n_scalar; i++) {
        hd_json_write_key(&w, m->scalars[i].tag);
        hd_json_write_f64(&w, m->scalars[i].value);
    }
    hd_json_write_key(&w, "step");
    hd_json_write_i64(&w, step);
    hd_json_write_key(&w, "run_name");
    hd_json_write_string(&w, run_name != NULL ? run_name : "");
    if (event != NULL && m->loss_hex) {
        char hex[40];
        (void)snprintf(hex, sizeof hex, "%a", hex_loss);
        hd_json_write_key(&w, "loss_hex");
        hd_json_write_string(&w, hex);
    }
    hd_json_write_end(&w);
}

static hd_status write_record(hd_metrics *m, int64_t step, hd_err *err)
{
    hd_status st = HD_OK;
    if (m->file != NULL) {
        compose_json(m, NULL, step, 0.0);
        hd_buf_append_char(&m->line, '\n');
        HD_TRY(hd_buf_check(&m->line, err));
        HD_TRY(hd_io_write(m->file, m->line.data, m->line.n, err));
    }
    if (m->tensorboard != NULL) { HD_TRY(hd_tensorboard_scalars(m->tensorboard, step, m->scalars, m->n_scalar, err)); }
out:
    return st;
}

/* ---- the console ----------------------------------------------------------------------------------------------------------- */

/* "1:05:09" or "3:07". */
static void append_duration(hd_buf *out, double seconds)
{
    int64_t s = seconds > 0.0 && seconds < 1e12 ? (int64_t)(seconds + 0.5) : 0;
    if (s >= 3600) {
        hd_buf_printf(out, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60), (int)(s % 60));
    } else {
        hd_buf_printf(out, "%d:%02d", (int)(s / 60), (int)(s % 60));
    }
}

/* MaxText's fields, in its order and formats, then ours. */
static void compose_step_line(hd_metrics *m, const hd_step_report *r)
{
    hd_buf *line = &m->line;
    double tokens_per_s = per_second(r->tokens, r->seconds);
    hd_buf_clear(line);
    hd_buf_printf(line, "completed step: %" PRId64 ", seconds: %.3f, TFLOP/s/device: %.3f, Tokens/s/device: %.3f, total_weights: %.15g, "
                  "loss: %.3f, lm_loss: %.3f, perplexity: %.3f", r->step, r->seconds, per_second(r->maxtext_tflops, r->seconds),
                  tokens_per_s, r->total_weights, r->loss, r->lm_loss, exp(r->lm_loss));
    if (m->moe) { hd_buf_printf(line, ", moe_lb_loss: %.6f", r->moe_lb_loss); }
    if (m->mtp) { hd_buf_printf(line, ", main_model_loss: %.3f, mtp_loss: %.3f", r->loss - r->mtp_loss, r->mtp_loss); }
    hd_buf_printf(line, ", tokens/s: %.0f, model TFLOP/s/device: %.3f", tokens_per_s * (double)m->n_device,
                  per_second(r->model_tflops, r->seconds));
    if (r->peak_tflops > 0.0) { hd_buf_printf(line, ", of FMA peak: %.1f %%", 100.0 * peak_share(r)); }
    hd_buf_append_text(line, ", left: ");
    append_duration(line, r->seconds_left);
    hd_buf_printf(line, ", memory: %.3f GB", (double)r->rss_bytes / 1e9);
    if (r->skipped) { hd_buf_append_text(line, ", update skipped"); }
    if (m->loss_hex) { hd_buf_printf(line, ", loss_hex: %a", r->loss); }
}

static void compose_progress(hd_metrics *m, const hd_step_report *r)
{
    hd_buf *line = &m->line;
    double done = (double)(r->step + 1), tokens_per_s = per_second(r->tokens, r->seconds) * (double)m->n_device;
    hd_buf_clear(line);
    hd_buf_printf(line, "step %.0f/%" PRId64 "  %2.0f %%  loss %.3f  ", done, m->n_step, floor(100.0 * done / (double)m->n_step), r->loss);
    append_duration(line, r->seconds_left);
    hd_buf_printf(line, " left  %.0f tokens/s  %.0f GFLOP/s", tokens_per_s,
                  1e3 * per_second(r->model_tflops, r->seconds) * (double)m->n_device);
    if (r->peak_tflops > 0.0) { hd_buf_printf(line, " = %.0f %% of peak", 100.0 * peak_share(r)); }
    hd_buf_printf(line, "  %.2f GB", (double)r->rss_bytes / 1e9);
}

/* Whether this step gets a line of its own. */
static bool line_is_due(hd_metrics *m, int64_t step)
{
    double now = hd_clock_now_s();
    if (m->thin && step != m->n_step - 1 && m->last_line_s != 0.0 && now - m->last_line_s < line_interval_s) { return false; }
    m->last_line_s = now;
    return true;
}

static void show_step(hd_metrics *m, const hd_step_report *r)
{
    if (m->json) {
        compose_json(m, "step", r->step, r->loss);
        hd_log(HD_LOG_RESULT, "%s", hd_buf_text(&m->line));
        return;
    }
    if (line_is_due(m, r->step)) {
        compose_step_line(m, r);
        hd_log(HD_LOG_RESULT, "%s", hd_buf_text(&m->line));
    }
    if (m->progress) {
        compose_progress(m, r);
        hd_log(HD_LOG_PROGRESS, "%s", hd_buf_text(&m->line));
    }
}

static void show_eval(hd_metrics *m, const hd_eval_report *r, double loss)
{
    hd_buf *line = &m->line;
    if (m->json) {
        compose_json(m, "eval", r->step, loss);
        hd_log(HD_LOG_RESULT, "%s", hd_buf_text(line));
        return;
    }
    hd_buf_clear(line);
    hd_buf_printf(line, "Completed eval after train step %" PRId64 ", loss=%.3f, perplexity=%.3f, total_weights=%.15g, avg_z_loss=%.3f",
                  r->step, loss, exp(loss), r->total_weights, r->avg_z_loss);
    if (!isnan(r->nats_per_byte)) {
        hd_buf_printf(line, ", nats_per_byte=%.4f, bits_per_byte=%.4f, bytes=%" PRId64, r->nats_per_byte, r->nats_per_byte / log(2.0),
                      r->n_byte);
    }
    hd_buf_printf(line, ", seconds=%.3f", r->seconds);
    if (m->loss_hex) { hd_buf_printf(line, ", loss_hex=%a", loss); }
    hd_log(HD_LOG_RESULT, "%s", hd_buf_text(line));
}

/* ---- what the trainer calls --------------------------------------------------------------------------------------------------- */

static hd_status flush_if_due(hd_metrics *m, int64_t step, hd_err *err)
{
    double now = hd_clock_now_s();
    bool period = step % m->log_period == 0;
    if (m->tensorboard == NULL || (!period && now - m->last_flush_s < flush_interval_s)) { return HD_OK; }
    m->last_flush_s = now;
    return hd_tensorboard_flush(m->tensorboard, err);
}

hd_status hd_metrics_step(hd_metrics *m, const hd_step_report *r, hd_err *err)
{
    hd_status st = HD_OK;
    collect_step(m, r);
    show_step(m, r);
    HD_TRY(hd_buf_check(&m->line, err));
    HD_TRY(write_record(m, r->step, err));
    if (m->tensorboard != NULL && m->loads != NULL && r->step % m->log_period == 0) {
        HD_TRY(hd_tensorboard_scalars(m->tensorboard, r->step, m->loads, (size_t)(m->n_moe_layer * m->n_expert), err));
    }
    HD_TRY(flush_if_due(m, r->step, err));
out:
    return st;
}

hd_status hd_metrics_eval(hd_metrics *m, const hd_eval_report *r, hd_err *err)
{
    hd_status st = HD_OK;
    double loss = r->total_loss / (r->total_weights > 0.0 ? r->total_weights : 1.0);
    collect_eval(m, r, loss);
    show_eval(m, r, loss);
    HD_TRY(hd_buf_check(&m->line, err));
    HD_TRY(write_record(m, r->step, err));
    if (m->tensorboard != NULL) { HD_TRY(hd_tensorboard_flush(m->tensorboard, err)); }
out:
    return st;
}
