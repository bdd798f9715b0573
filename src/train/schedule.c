/* Learning-rate schedules: linear warm-up, then cosine or warm-up-stable-decay. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

hd_schedule hd_schedule_from_config(const hd_config *config)
{
    hd_schedule s = {
        .wsd = strcmp(hd_config_str(config, HD_KEY_lr_schedule_type), "wsd") == 0,
        .cosine_decay = strcmp(hd_config_str(config, HD_KEY_wsd_decay_style), "cosine") == 0,
        .peak = hd_config_float(config, HD_KEY_learning_rate),
        .final_fraction = hd_config_float(config, HD_KEY_learning_rate_final_fraction),
        .n_step = hd_config_int(config, HD_KEY_learning_rate_schedule_steps),
    };
    s.n_warmup = (int64_t)((double)s.n_step * hd_config_float(config, HD_KEY_warmup_steps_fraction));
    s.n_decay = s.wsd ? (int64_t)((double)s.n_step * hd_config_float(config, HD_KEY_wsd_decay_steps_fraction))
                      : s.n_step - s.n_warmup;
    return s;
}

/* From peak at i = 0 to peak * final_fraction at i = n - 1; a single step is already at its end. */
static double cosine(const hd_schedule *s, int64_t i, int64_t n)
{
    double a = n > 1 ? 0.5 * (cos(PI * (double)i / (double)(n - 1)) + 1.0) : 0.0;
    return s->peak * a + s->peak * s->final_fraction * (1.0 - a);
}

static double linear(const hd_schedule *s, int64_t i, int64_t n)
{
    double a = n > 1 ? (double)i / (double)(n - 1) : 1.0;
    return s->peak + (s->peak * s->final_fraction - s->peak) * a;
}

double hd_schedule_at(const hd_schedule *s, int64_t t)
{
    int64_t decay_begin = s->n_step - s->n_decay;
    if (t >= s->n_step) { return 0.0; }
    if (t < s->n_warmup) { return s->peak * (double)t / (double)s->n_warmup; }
    if (t < decay_begin) { return s->peak; }
    return s->wsd && !s->cosine_decay ? linear(s, t - decay_begin, s->n_decay) : cosine(s, t - decay_begin, s->n_decay);
}
