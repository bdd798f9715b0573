/* Walking over the held-out rows; ranks take neighbouring stretches of each batch. */
#include "train/evaluate.h"

#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"

struct hd_evaluator {
    hd_trainer *trainer;
    const volatile sig_atomic_t *stop_signal;
    hd_dataset *data;
    hd_batch batch;
    int64_t n_batch; /* of one evaluation */
    bool whole;      /* they cover the split */
};

hd_status hd_evaluator_open(hd_trainer *t, const volatile sig_atomic_t *stop_signal, hd_evaluator **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_evaluator *e = NULL;
    int64_t rows = t->plan.eval_rows * t->comm->size, asked = hd_config_int(t->config, HD_KEY_eval_steps);
    bool held_out = hd_config_is(t->config, HD_KEY_dataset_type, "synthetic") || hd_config_float(t->config, HD_KEY_eval_fraction) > 0.0;
    if (!held_out) {
        return HD_FAIL(err, HD_E_CONFIG, "eval_interval is set and nothing is held out: set eval_fraction, e.g. 0.05");
    }
    HD_TRY(hd_alloc(1, sizeof *e, "evaluator", (void **)&e, err));
    e->trainer = t;
    e->stop_signal = stop_signal;
    HD_TRY(hd_dataset_open(t->config, HD_SPLIT_EVAL, t->model.dims.vocab_size, rows, &e->data, err));
    HD_TRY(hd_batch_open(t->plan.eval_rows, t->plan.seq_len, &e->batch, err));
    e->n_batch = (e->data->n_row + rows - 1) / rows;
    e->whole = asked <= 0 || asked >= e->n_batch;
    if (!e->whole) { e->n_batch = asked; }
    *out = e;
    e = NULL;
out:
    hd_evaluator_close(e);
    return st;
}

void hd_evaluator_close(hd_evaluator *e)
{
    if (e == NULL) { return; }
    hd_dataset_close(e->data);
    hd_batch_close(&e->batch);
    hd_free(e);
}

static hd_status all_ranks_asked_to_stop(hd_evaluator *e, bool *stop, hd_err *err)
{
    unsigned word = e->stop_signal != NULL && *e->stop_signal != 0;
    hd_status st = hd_comm_all_reduce_or(e->trainer->comm, &word, err);
    *stop = word != 0;
    return st;
}

hd_status hd_evaluator_run(hd_evaluator *e, int64_t step, hd_eval_report *report, bool *stopped, hd_err *err)
{
    hd_status st = HD_OK;
    double loss = 0.0, weights = 0.0, z = 0.0, sums[3], begin = hd_clock_now_s();
    int64_t n_found, rows = e->trainer->plan.eval_rows;
    *stopped = false;
    for (int64_t i = 0; i < e->n_batch; i++) {
        HD_TRY(all_ranks_asked_to_stop(e, stopped, err));
        if (*stopped) { return HD_OK; }
        HD_TRY(hd_dataset_read(e->data, (i * e->trainer->comm->size + e->trainer->comm->rank) * rows, &e->batch, &n_found, err));
        HD_TRY(hd_trainer_eval(e->trainer, &e->batch, sums, err));
        loss += sums[0];
        weights += sums[1];
        z += sums[2];
    }
    *report = (hd_eval_report){
        .step = step,
        .seconds = hd_clock_now_s() - begin,
        .total_loss = loss,
        .total_weights = weights,
        .avg_z_loss = weights > 0.0 ? z / weights : 0.0,
        .nats_per_byte = e->whole && e->data->n_byte > 0 ? (loss - z) / (double)e->data->n_byte : (double)NAN,
        .n_byte = e->data->n_byte,
    };
out:
    return st;
}
