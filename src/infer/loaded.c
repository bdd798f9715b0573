/* Opening a model from a folder.  See loaded.h. */
#include "infer/loaded.h"

#include <math.h>
#include <string.h>

#include "base/sysinfo.h"
#include "checkpoint/checkpoint.h"
#include "hadal/log.h"
#include "train/trainer.h"

/* Of a process beside its arenas: code, staging of reads, tables of tensors, logits on the host. */
static const double HOST_BYTES = 160e6;

typedef struct hd_loaded_sizes {
    size_t model, step, scratch, stream;
    int64_t mapped;
} hd_loaded_sizes;

hd_status hd_loaded_read(const hd_config *config, const char *path, hd_loaded *loaded, hd_err *err)
{
    hd_status st;
    *loaded = (hd_loaded){0};
    HD_TRY(hd_ckpt_read_dims(path, &loaded->dims, err));
    loaded->n_mtp = loaded->dims.n_mtp;
    loaded->dims.n_mtp = 0;
    HD_TRY(hd_model_options_from_config(config, false, &loaded->options, err));
out:
    return st;
}

static hd_status open_arenas(hd_loaded *l, const hd_loaded_sizes *sizes, hd_err *err)
{
    hd_status st = HD_OK;
    if (sizes == NULL) {
        hd_arena_open_dry(&l->model_arena, "model");
        hd_arena_open_dry(&l->step_arena, "step");
        hd_arena_open_dry(&l->scratch_arena, "scratch");
        hd_arena_open_dry(&l->stream_arena, "streamed weights");
        return HD_OK;
    }
    HD_TRY(hd_arena_open(&l->model_arena, "model", sizes->model, err));
    HD_TRY(hd_arena_open(&l->step_arena, "step", sizes->step, err));
    HD_TRY(hd_arena_open(&l->scratch_arena, "scratch", sizes->scratch, err));
    HD_TRY(hd_arena_open(&l->stream_arena, "streamed weights", sizes->stream, err));
out:
    return st;
}

/* sizes NULL: dry. */
static hd_status open_model(const hd_config *config, const hd_loaded_sizes *sizes, hd_loaded *l, hd_err *err)
{
    hd_status st;
    HD_TRY(open_arenas(l, sizes, err));
    HD_TRY(hd_exec_init(&l->ex, &l->scratch_arena, hd_threads_per_rank(config, 1), sizes == NULL, err));
    HD_TRY(hd_model_open(&l->dims, &l->options, &l->ex, &l->model_arena, &l->model, err));
    if (l->map != NULL) { HD_TRY(hd_ckpt_map_attach(l->map, &l->model, &l->ex, &l->model_arena, err)); }
    if (l->stream != NULL) { HD_TRY(hd_ckpt_stream_attach(l->stream, &l->model, &l->ex, &l->stream_arena, err)); }
out:
    return st;
}

static void close_model(hd_loaded *l)
{
    hd_model_close(&l->model);
    hd_arena_close(&l->stream_arena);
    hd_arena_close(&l->scratch_arena);
    hd_arena_close(&l->step_arena);
    hd_arena_close(&l->model_arena);
}

static hd_status measure(const hd_config *config, hd_loaded_use use, void *context, hd_loaded *l, hd_loaded_sizes *sizes, hd_err *err)
{
    hd_status st = open_model(config, NULL, l, err);
    if (st == HD_OK) { st = use(context, err); }
    *sizes = (hd_loaded_sizes){l->model_arena.high, l->step_arena.high, l->scratch_arena.high, l->stream_arena.high,
                               l->map != NULL ? hd_ckpt_map_bytes(l->map) : 0};
    close_model(l);
    return st;
}

/* Mapped weights are page cache, which the system may take away: but a model of which a part is read again for every token is slower than
 * one that is read layer by layer, so they count. */
static double total(const hd_loaded_sizes *s)
{
    return (double)s->model + (double)s->step + (double)s->scratch + (double)s->stream + (double)s->mapped;
}

/* Bytes that may be taken: device_memory_gb, or what is free or page cache, mapped files included. */
static double memory_limit(const hd_config *config)
{
    uint64_t available;
    double limit = hd_config_float(config, HD_KEY_device_memory_gb) * 1e9;
    if (limit > 0.0) { return fmax(limit - HOST_BYTES, 0.0); }
    return hd_sysinfo_available_memory(&available, NULL) == HD_OK ? (double)available : INFINITY;
}

/* Weights stay in the files: what is needed then is one unit of a layer at a time. */
static hd_status open_stream(const hd_config *config, const char *path, hd_loaded_use use, void *context, hd_loaded *l,
                             hd_loaded_sizes *sizes, hd_err *err)
{
    hd_status st;
    double in_memory = total(sizes), limit = memory_limit(config);
    if (!hd_config_is(config, HD_KEY_quantization, "")) {
        return HD_FAIL(err, HD_E_CONFIG, "quantization=%s: the model needs %.3f GB and %.3f GB may be taken; weights that are read layer by layer are used "
                       "as they are stored: leave quantization out for that, or convert the folder to fewer bits (hadal convert FROM TO quantization=int4)",
                       hd_config_str(config, HD_KEY_quantization), in_memory / 1e9, limit / 1e9);
    }
    hd_ckpt_map_close(l->map);
    l->map = NULL;
    l->options.mapped = false;
    l->options.streamed = true;
    HD_TRY(hd_ckpt_stream_open(path, &l->dims, &l->stream, err));
    HD_TRY(measure(config, use, context, l, sizes, err));
    if (total(sizes) > limit) {
        st = HD_FAIL(err, hd_config_float(config, HD_KEY_device_memory_gb) > 0.0 ? HD_E_CONFIG : HD_E_NOMEM,
                     "the model needs %.3f GB of memory, %.3f GB when its weights are read layer by layer, and %.3f GB may be taken: "
                     "choose shorter sequences", in_memory / 1e9, total(sizes) / 1e9, limit / 1e9);
        goto out;
    }
    hd_log(HD_LOG_INFO, "%.3f GB of weights and activations do not fit %.3f GB: weights are read layer by layer, %.3f GB are taken",
           in_memory / 1e9, limit / 1e9, total(sizes) / 1e9);
out:
    return st;
}

static hd_map_options map_options(const hd_config *config)
{
    const char *word = hd_config_str(config, HD_KEY_quantization);
    hd_map_options o = {.round_inputs = true, .n_threads = hd_threads_per_rank(config, 1)};
    if (strncmp(word, "int", 3) == 0) {
        o.bits = word[3] - '0';
        o.round_inputs = word[4] != 'w';
    }
    return o;
}

hd_status hd_loaded_open(const hd_config *config, const char *path, hd_loaded_use use, void *context, hd_loaded *loaded,
                         hd_err *err)
{
    hd_status st;
    hd_loaded_sizes sizes;
    hd_map_options options = map_options(config);
    loaded->options.mapped = true;
    HD_TRY(hd_ckpt_map_open(path, &loaded->dims, &options, &loaded->map, err));
    HD_TRY(measure(config, use, context, loaded, &sizes, err));
    if (total(&sizes) > memory_limit(config)) { HD_TRY(open_stream(config, path, use, context, loaded, &sizes, err)); }
    st = open_model(config, &sizes, loaded, err);
out:
    return st;
}

void hd_loaded_close(hd_loaded *loaded)
{
    close_model(loaded);
    hd_ckpt_map_close(loaded->map);
    loaded->map = NULL;
    hd_ckpt_stream_close(loaded->stream);
    loaded->stream = NULL;
}

size_t hd_loaded_memory_bytes(const hd_loaded *l)
{
    size_t mapped = l->map != NULL ? (size_t)hd_ckpt_map_bytes(l->map) : 0;
    return mapped + l->model_arena.capacity + l->step_arena.capacity + l->scratch_arena.capacity + l->stream_arena.capacity;
}
