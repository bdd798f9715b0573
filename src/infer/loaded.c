/* Opening a model from a folder.  See loaded.h. */
#include "infer/loaded.h"

#include "base/sysinfo.h"
#include "checkpoint/checkpoint.h"
#include "train/trainer.h"

hd_status hd_loaded_read(const hd_config *config, const char *path, hd_loaded *loaded, hd_err *err)
{
    hd_status st;
    *loaded = (hd_loaded){0};
    HD_TRY(hd_ckpt_read_dims(path, &loaded->dims, err));
    loaded->dims.n_mtp =
        0; /* drafts are for training; transformers leaves their weights out of the folders it writes */
    HD_TRY(hd_model_options_from_config(config, false, &loaded->options, err));
out:
    return st;
}

static hd_status open_arenas(hd_loaded *l, const size_t sizes[3], hd_err *err)
{
    hd_status st = HD_OK;
    if (sizes == NULL) {
        hd_arena_open_dry(&l->model_arena, "model");
        hd_arena_open_dry(&l->step_arena, "step");
        hd_arena_open_dry(&l->scratch_arena, "scratch");
        return HD_OK;
    }
    HD_TRY(hd_arena_open(&l->model_arena, "model", sizes[0], err));
    HD_TRY(hd_arena_open(&l->step_arena, "step", sizes[1], err));
    HD_TRY(hd_arena_open(&l->scratch_arena, "scratch", sizes[2], err));
out:
    return st;
}

/* sizes NULL: dry. */
static hd_status open_model(const hd_config *config, const size_t sizes[3], hd_loaded *l, hd_err *err)
{
    hd_status st;
    HD_TRY(open_arenas(l, sizes, err));
    HD_TRY(hd_exec_init(&l->ex, &l->scratch_arena, hd_threads_per_rank(config, 1), sizes == NULL, err));
    HD_TRY(hd_model_open(&l->dims, &l->options, &l->ex, &l->model_arena, &l->model, err));
out:
    return st;
}

static hd_status check_memory(const hd_config *config, const size_t sizes[3], hd_err *err)
{
    uint64_t available;
    double need = (double)sizes[0] + (double)sizes[1] + (double)sizes[2],
           limit = hd_config_float(config, HD_KEY_device_memory_gb) * 1e9;
    const char *advice = "choose weight_dtype=bfloat16 or a smaller max_target_length";
    if (limit > 0.0 && need > limit) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "the model needs %.3f GB of memory, %.3f of them for weights, and device_memory_gb is %.3f: %s",
                       need / 1e9, (double)sizes[0] / 1e9, limit / 1e9, advice);
    }
    if (limit <= 0.0 && hd_sysinfo_available_memory(&available, NULL) == HD_OK && need > (double)available) {
        return HD_FAIL(err, HD_E_NOMEM,
                       "the model needs %.3f GB of memory, %.3f of them for weights, and %.3f GB are free: %s",
                       need / 1e9, (double)sizes[0] / 1e9, (double)available / 1e9, advice);
    }
    return HD_OK;
}

hd_status hd_loaded_open(const hd_config *config, const char *path, hd_loaded_use use, void *context, hd_loaded *loaded,
                         hd_err *err)
{
    hd_status st;
    size_t sizes[3];
    HD_TRY(open_model(config, NULL, loaded, err));
    HD_TRY(use(context, err));
    sizes[0] = loaded->model_arena.high, sizes[1] = loaded->step_arena.high, sizes[2] = loaded->scratch_arena.high;
    hd_loaded_close(loaded);
    HD_TRY(check_memory(config, sizes, err));
    HD_TRY(open_model(config, sizes, loaded, err));
    HD_TRY(hd_ckpt_load_parameters(path, &loaded->ex, &loaded->model, err));
out:
    return st;
}

void hd_loaded_close(hd_loaded *loaded)
{
    hd_model_close(&loaded->model);
    hd_arena_close(&loaded->scratch_arena);
    hd_arena_close(&loaded->step_arena);
    hd_arena_close(&loaded->model_arena);
}
