/* The named values of a training state. */
#include "train/run_state.h"

#include "config/derived.h"

static hd_ckpt_value integer(const char *name, int64_t *value)
{
    return (hd_ckpt_value){.name = name, .kind = HD_CKPT_I64, .n = 1, .i64 = value};
}

static hd_ckpt_value tensor(const char *name, hd_tensor *value, bool optional)
{
    return (hd_ckpt_value){.name = name, .kind = HD_CKPT_TENSOR, .tensor = value, .optional = optional};
}

void hd_run_state_bind(hd_run_state *s, hd_trainer *t)
{
    int64_t n = 0;
    *s = (hd_run_state){
        .row_length = t->plan.seq_len,
        .init_seed = hd_config_int(t->config, HD_KEY_init_weights_seed),
        .shuffle_seed = hd_config_int(t->config, HD_KEY_data_shuffle_seed),
    };
    s->values[n++] = integer("iterator.rows", &s->rows);
    s->values[n++] = integer("iterator.fingerprint", &s->data_fingerprint);
    s->values[n++] = integer("iterator.row_length", &s->row_length);
    s->values[n++] = integer("random.init_seed", &s->init_seed);
    s->values[n++] = integer("random.shuffle_seed", &s->shuffle_seed);
    s->values[n++] = tensor("optimizer.control", &t->control, false);
    if (t->window.n_dim > 0) { s->values[n++] = tensor("spike.window", &t->window, true); }
    s->ckpt = (hd_ckpt_state){.model = &t->model, .step = -1, .values = s->values, .n_value = n};
}

hd_status hd_rank_count(const hd_config *config, int *n_rank, hd_err *err)
{
    hd_run_shape shape;
    hd_status st = hd_run_shape_of(config, 0, &shape, err);
    if (st != HD_OK) { return st; }
    int64_t data = hd_config_int(config, HD_KEY_ici_data_parallelism);
    if (shape.n_devices > 1 && shape.n_devices != (data > 0 ? data : shape.n_devices)) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "a mesh of %lld devices with ici_data_parallelism=%lld shards weights, which is not supported; "
                       "ici_data_parallelism is", (long long)shape.n_devices, (long long)data);
    }
    *n_rank = (int)shape.n_devices;
    return HD_OK;
}
