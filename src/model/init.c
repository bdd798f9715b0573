/* Initial weights.  A value is a function of (seed, HuggingFace name, element) alone, so it does not depend on the layout.
 * Weights are made in pieces of a bounded host buffer and uploaded; nothing needs a whole tensor on the host. */
#include <math.h>

#include "base/alloc.h"
#include "base/parallel_for.h"
#include "base/rng.h"
#include "model/model.h"

enum { PIECE = 1 << 20, BLOCK = 1 << 12 }; /* elements of the buffer, of one work item */

/* A truncated normal (|x| <= 2) has this standard deviation; variance scaling divides by it.  Source: jax.nn.initializers. */
static const double truncated_std = 0.87962566103423978;

typedef enum draw { DRAW_CONSTANT, DRAW_NORMAL, DRAW_TRUNCATED } draw;

typedef struct rule { draw draw; double scale; } rule; /* value = scale * draw; a constant is scale itself */

static rule rule_of(const hd_model *model, const hd_tensor_spec *spec)
{
    const hd_model_options *o = &model->options;
    double fan_in = (double)hd_axis_length(&model->dims, spec->axes[spec->n_axis - 1]);
    bool scaled = spec->unit == HD_UNIT_DENSE || spec->unit == HD_UNIT_EXPERTS;
    if (spec->init == HD_INIT_ONES) { return (rule){DRAW_CONSTANT, 1.0}; }
    if (spec->init == HD_INIT_ZEROS) { return (rule){DRAW_CONSTANT, 0.0}; }
    if (o->init_std > 0.0) { return (rule){DRAW_NORMAL, o->init_std}; }
    if (spec->init == HD_INIT_EMBEDDING) { return (rule){DRAW_NORMAL, 1.0}; }
    if (spec->init == HD_INIT_NORMAL_FAN_IN) { return (rule){DRAW_NORMAL, sqrt(1.0 / fan_in)}; }
    return (rule){DRAW_TRUNCATED, sqrt((scaled ? o->dense_init_scale : 1.0) / fan_in) / truncated_std};
}

/* Elements [begin, begin + n) of one HuggingFace tensor. */
typedef struct piece {
    rule rule;
    hd_rng rng;
    int64_t begin, n;
    float *values;
    uint16_t *narrow; /* the same values in bf16, NULL when no weight wants them */
} piece;

static float draw_value(const piece *p, uint64_t index)
{
    switch (p->rule.draw) {
    case DRAW_CONSTANT: return (float)p->rule.scale;
    case DRAW_NORMAL: return (float)(p->rule.scale * (double)hd_rng_normal(p->rng, index));
    case DRAW_TRUNCATED: return (float)(p->rule.scale * (double)hd_rng_truncated_normal(p->rng, index));
    }
    return 0.0f;
}

static void fill_block(void *arg, int64_t block, int thread)
{
    const piece *p = arg;
    int64_t begin = block * BLOCK, end = begin + BLOCK < p->n ? begin + BLOCK : p->n;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        p->values[i] = draw_value(p, (uint64_t)(p->begin + i));
        if (p->narrow != NULL) { p->narrow[i] = hd_f32_to_bf16(p->values[i]); }
    }
}

/* Elements [begin, begin + n) of a contiguous tensor, as one axis. */
static hd_tensor flat_range(const hd_tensor *t, int64_t begin, int64_t n)
{
    int64_t count = hd_tensor_count(t);
    hd_tensor flat = hd_tensor_reshape(t, 1, &count);
    return hd_tensor_slice(&flat, 0, begin, n);
}

static hd_status upload_piece(hd_exec *ex, hd_param *param, int64_t at, const piece *p, hd_err *err)
{
    hd_status st = HD_OK;
    hd_tensor value = flat_range(&param->weight.value, at, p->n);
    HD_TRY(hd_exec_upload(ex, p->narrow != NULL ? (const void *)p->narrow : p->values, &value, err));
    if (p->narrow != NULL && param->master.n_dim > 0) {
        hd_tensor master = flat_range(&param->master, at, p->n);
        HD_TRY(hd_exec_upload(ex, p->values, &master, err));
    }
out:
    return st;
}

/* One HuggingFace tensor: count elements of param from element `at` on. */
static hd_status init_tensor(hd_model *model, hd_exec *ex, hd_param *param, int64_t expert, int64_t at, int64_t count,
                             float *values, uint16_t *narrow, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_NAME_MAX];
    hd_tensor_hf_name(param->spec, param->layer, expert, name);
    bool is_narrow = param->weight.value.dtype == HD_DTYPE_BF16;
    piece p = {.rule = rule_of(model, param->spec), .rng = hd_rng_make(model->options.init_seed, HD_RNG_INIT, name),
               .values = values, .narrow = is_narrow ? narrow : NULL};
    for (p.begin = 0; p.begin < count; p.begin += PIECE) {
        p.n = count - p.begin < PIECE ? count - p.begin : PIECE;
        hd_parallel_for(ex->n_threads, (p.n + BLOCK - 1) / BLOCK, fill_block, &p);
        HD_TRY(upload_piece(ex, param, at + p.begin, &p, err));
    }
out:
    return st;
}

static hd_status init_param(hd_model *model, hd_exec *ex, hd_param *param, float *values, uint16_t *narrow, hd_err *err)
{
    int64_t count = hd_tensor_count(&param->weight.value);
    if (!hd_tensor_per_expert(param->spec)) { return init_tensor(model, ex, param, -1, 0, count, values, narrow, err); }
    int64_t n_expert = model->dims.n_expert, each = count / n_expert;
    for (int64_t e = 0; e < n_expert; e++) {
        hd_status st = init_tensor(model, ex, param, e, e * each, each, values, narrow, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_model_init_weights(hd_model *model, hd_exec *ex, hd_err *err)
{
    hd_status st = HD_OK;
    void *values = NULL, *narrow = NULL;
    if (ex->dry) { return HD_OK; }
    HD_TRY(hd_alloc(PIECE, sizeof(float), "initial weights", &values, err));
    HD_TRY(hd_alloc(PIECE, sizeof(uint16_t), "initial weights", &narrow, err));
    for (int64_t i = 0; i < model->n_param; i++) { HD_TRY(init_param(model, ex, &model->params[i], values, narrow, err)); }
out:
    hd_free(values);
    hd_free(narrow);
    return st;
}
