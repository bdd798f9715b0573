/* A model opened from a folder, for running it forward: what decode, check and eval have in common. */
#ifndef HD_INFER_LOADED_H
#define HD_INFER_LOADED_H

#include "base/arena.h"
#include "checkpoint/mapped.h"
#include "checkpoint/stream.h"
#include "config/config.h"
#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_loaded {
    hd_dims dims;             /* from the folder's config.json, without MTP modules */
    int64_t n_mtp;            /* modules that the folder has: dims.n_mtp may be set to it, or to less, before opening */
    hd_model_options options; /* from the configuration: dtype, weight_dtype, attention, ... */
    hd_arena model_arena, step_arena, scratch_arena, stream_arena;
    hd_ckpt_map *map;         /* of a model whose weights are its files, mapped */
    hd_ckpt_stream *stream;   /* of one that does not fit memory: weights are read layer by layer; one of the two is NULL */
    hd_exec ex;
    hd_model model;
} hd_loaded;

/* The most that the caller will ever do with the model; runs on a dry executor, to find out the memory of step and scratch. */
typedef hd_status (*hd_loaded_use)(void *context, hd_err *err);

/* dims and options of the model in a folder (a HuggingFace folder or a hadal checkpoint).  Takes no memory. */
hd_status hd_loaded_read(const hd_config *config, const char *path, hd_loaded *loaded, hd_err *err) HD_CHECK_RESULT;

/* After hd_loaded_read: memory of exactly what `use` needs, and the weights, mapped (or packed, as quantization asks).  When both together do
 * not fit device_memory_gb, or what is free or page cache, weights are read layer by layer while the model runs; when that does not fit
 * either, HD_E_CONFIG or HD_E_NOMEM names all numbers before anything is taken. */
hd_status hd_loaded_open(const hd_config *config, const char *path, hd_loaded_use use, void *context, hd_loaded *loaded,
                         hd_err *err) HD_CHECK_RESULT;
void hd_loaded_close(hd_loaded *loaded); /* accepts a zeroed one */

size_t hd_loaded_memory_bytes(const hd_loaded *loaded); /* arenas and mapped weights */

#endif
