/* What a run reports, and where: the console line with MaxText's fields, the metrics file (JSON lines), TensorBoard event files.
 * Only rank 0 opens one.  Tags and formats: spec section 3.10. */
#ifndef HD_TRAIN_METRICS_H
#define HD_TRAIN_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "model/model.h"

typedef struct hd_step_report {
    int64_t step;
    double seconds;
    double maxtext_tflops;          /* per device and step, MaxText's formula */
    double model_tflops;            /* per device and step, honest count */
    double peak_tflops;             /* measured FMA peak of the threads in use; 0: unknown */
    double tokens;                  /* per device and step */
    double total_weights;
    double loss, lm_loss, z_loss;
    double moe_lb_loss, mtp_loss;   /* already scaled; 0 without */
    double raw_grad_norm, grad_norm, param_norm, learning_rate;
    bool skipped;                   /* by the spike gate or for a non-finite value */
    const double *expert_count;     /* (n_moe_layer, n_expert) claims of this step; NULL when dense */
    double drop_rate;               /* dropped claims / claims */
    double seconds_left;            /* estimate to the last step */
    int64_t rss_bytes;
} hd_step_report;

typedef struct hd_eval_report {
    int64_t step;                   /* the training step it follows */
    double seconds, total_loss, total_weights, avg_z_loss;
    double nats_per_byte;           /* of text data; NaN otherwise */
    int64_t n_byte;                 /* bytes predicted */
} hd_eval_report;

typedef struct hd_metrics hd_metrics;

/* first_step > 0 (a resumed run) appends to the metrics file after dropping records of steps >= first_step; step 0 truncates.
 * Writes the setup text records (number of parameters, every key) to TensorBoard. */
hd_status hd_metrics_open(const hd_config *config, const hd_model *model, int64_t first_step, hd_metrics **out, hd_err *err)
    HD_CHECK_RESULT;

/* A terminal is there: HD_LOG_PROGRESS lines are sent.  thin: step lines of fast steps are left out, which is for a person who
 * sees the progress line in the same place; scripts that read step lines get every one. */
void hd_metrics_set_progress(hd_metrics *m, bool progress, bool thin);

hd_status hd_metrics_step(hd_metrics *m, const hd_step_report *r, hd_err *err) HD_CHECK_RESULT;
hd_status hd_metrics_eval(hd_metrics *m, const hd_eval_report *r, hd_err *err) HD_CHECK_RESULT;
hd_status hd_metrics_close(hd_metrics *m, hd_err *err) HD_CHECK_RESULT; /* flushes; accepts NULL */

#endif
