/* Learning-rate schedules.  Source: MaxText, spec section 3.7. */
#ifndef HD_TRAIN_SCHEDULE_H
#define HD_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

typedef struct hd_schedule {
    bool wsd;          /* warm-up, stable, decay; otherwise warm-up and cosine */
    bool cosine_decay; /* shape of wsd's decay */
    double peak, final_fraction;
    int64_t n_step, n_warmup, n_decay; /* learning_rate_schedule_steps and its parts */
} hd_schedule;

hd_schedule hd_schedule_from_config(const hd_config *config);

/* lr(t), t counted from 0.  With warm-up lr(0) = 0; the last scheduled step has peak * final_fraction; 0 beyond it. */
double hd_schedule_at(const hd_schedule *schedule, int64_t t);

#endif
