/* Evaluation during training: the loss over the held-out split, from its first row each time. */
#ifndef HD_TRAIN_EVALUATE_H
#define HD_TRAIN_EVALUATE_H

#include <signal.h>

#include "train/metrics.h"
#include "train/trainer.h"

typedef struct hd_evaluator hd_evaluator;

/* stop_signal may be NULL.  The trainer outlives the evaluator. */
hd_status hd_evaluator_open(hd_trainer *t, const volatile sig_atomic_t *stop_signal, hd_evaluator **out, hd_err *err)
    HD_CHECK_RESULT;
void hd_evaluator_close(hd_evaluator *e); /* accepts NULL */

/* eval_steps batches, or the whole split.  *stopped: a signal came first and the report is empty. */
hd_status hd_evaluator_run(hd_evaluator *e, int64_t step, hd_eval_report *report, bool *stopped, hd_err *err) HD_CHECK_RESULT;

#endif
