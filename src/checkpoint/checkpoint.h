/* Checkpoints: what the trainer calls.
 *
 * A checkpoint is the directory <run_dir>/checkpoints/<step>: a HuggingFace model folder (config.json, model*.safetensors),
 * optimizer/ safetensors (f32 master weights when the weights are narrower, first and second moments, the trainer's
 * tensors) and manifest.json (sizes and checksums of all files, step, position of the data, random state).  docs/checkpoint.md
 * has the layout and the protocol of a save.
 *
 * A `store` is a run directory that this process may write: opening it takes the lock of the directory and removes what an
 * interrupted save left.  Reading another run's checkpoints needs no store.
 *
 * Order of calls in a training run:
 *   hd_ckpt_store_open -> hd_ckpt_reserve -> hd_ckpt_resume -> { hd_ckpt_collect, hd_ckpt_save } per step -> hd_ckpt_store_close
 *
 * "Saved" is logged (HD_LOG_INFO, "saved checkpoint ...") only when the checkpoint is durable.  All calls are made from one thread;
 * none runs inside a training step (each reads or uploads tensors through the executor). */
#ifndef HD_CHECKPOINT_CHECKPOINT_H
#define HD_CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "hadal/status.h"
#include "model/model.h"
#include "ops/exec.h"

/* One named value of the trainer's state.  Saved exactly, and written back by a full load.
 * Names are [a-z0-9_.]+; by convention "iterator.*" for the position in the data, "random.*" for seeds, "optimizer.*" for
 * counts, "spike.*" for the window of the spike gate.  Host values go to the manifest, tensors to optimizer/. */
typedef enum hd_ckpt_kind { HD_CKPT_I64, HD_CKPT_F64, HD_CKPT_TEXT, HD_CKPT_TENSOR } hd_ckpt_kind;

typedef struct hd_ckpt_value {
    const char *name;
    hd_ckpt_kind kind;
    bool optional;     /* a load leaves it alone when the checkpoint lacks it or holds another length; else that is an error */
    int64_t n;         /* elements of i64 or f64; bytes of text, its NUL included; unused for a tensor */
    int64_t *i64;      /* exactly the one that kind names is set */
    double *f64;
    char *text;
    hd_tensor *tensor; /* contiguous, any dtype */
} hd_ckpt_value;

typedef struct hd_ckpt_state {
    hd_model *model;      /* weights; master, mu and nu of the params that have them */
    int64_t step;         /* the number of the directory: the last step that was completed; set by a load */
    hd_ckpt_value *values;
    int64_t n_value;
    const char *config_digest; /* recorded in the manifest, e.g. SHA-256 of the effective configuration; may be NULL */
} hd_ckpt_state;

/* Memory and disk of a save, for the plan.  Only shapes are looked at: works on a model opened on a dry arena. */
typedef struct hd_ckpt_sizes {
    int64_t file_bytes;     /* of one checkpoint on disk, manifest included (its size estimated from above) */
    size_t snapshot_bytes;  /* of host memory that an asynchronous save holds */
    size_t staging_bytes;   /* of host memory that saving and loading use for the time of the call */
    int64_t n_file, n_tensor;
} hd_ckpt_sizes;

hd_status hd_ckpt_plan(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_ckpt_sizes *sizes, hd_err *err) HD_CHECK_RESULT;

typedef struct hd_ckpt_options {
    const char *run_dir;      /* <base_output_directory>/<run_name>; created, with parents, when missing */
    int64_t keep;             /* max_num_checkpoints_to_keep; 0: all */
    int64_t max_shard_bytes;  /* of a safetensors file; 0: HD_CKPT_SHARD_BYTES */
    bool async;               /* async_checkpointing */
    bool allow_nonfinite;     /* else a NaN or infinity in a weight or moment makes the save fail with HD_E_NONFINITE */
} hd_ckpt_options;

#define HD_CKPT_SHARD_BYTES ((int64_t)5000000000) /* what HuggingFace calls 5GB */

typedef struct hd_ckpt_store hd_ckpt_store;

/* Creates <run_dir>/checkpoints, takes the lock (HD_E_BUSY, at once, naming the process that holds it), removes partial
 * saves.  The lock dies with the process. */
hd_status hd_ckpt_store_open(const hd_ckpt_options *options, hd_ckpt_store **store, hd_err *err) HD_CHECK_RESULT;

/* Waits for a save in flight, gives its failure if it was not collected yet, releases the lock, frees.  Accepts NULL. */
hd_status hd_ckpt_store_close(hd_ckpt_store *store, hd_err *err) HD_CHECK_RESULT;

/* Takes the memory of asynchronous snapshots from an arena (also a dry one: then it is only counted).  When the arena is
 * too small, a warning is logged and saves are synchronous.  Takes nothing when options.async is false.  The arena must
 * outlive the store; without this call saves are synchronous.  HD_E_UNSUPPORTED, before the first step, for a checkpoint
 * beyond 4 TiB, whose manifest no reader would accept. */
hd_status hd_ckpt_reserve(hd_ckpt_store *store, const hd_ckpt_state *state, hd_arena *arena, hd_err *err) HD_CHECK_RESULT;

/* Saves.  Asynchronous: copies the state into the snapshot and returns; a thread writes.  Waits first for a save in flight;
 * if that one failed, its error is returned and nothing new is started (call again to save).  Any failure removes the partial
 * directory and leaves earlier checkpoints alone.  An existing valid checkpoint of the same step: logged and skipped;
 * a damaged one is replaced.  HD_E_IO names bytes needed and free when the disk is too small, before anything is written. */
hd_status hd_ckpt_save(hd_ckpt_store *store, hd_exec *ex, const hd_ckpt_state *state, hd_err *err) HD_CHECK_RESULT;

/* The result of a save that ended since the last call: HD_OK when none ended or it succeeded, else its error, once.
 * hd_ckpt_wait blocks until nothing is in flight. */
hd_status hd_ckpt_collect(hd_ckpt_store *store, hd_err *err) HD_CHECK_RESULT;
hd_status hd_ckpt_wait(hd_ckpt_store *store, hd_err *err) HD_CHECK_RESULT;

/* The newest step that this store announced as saved or found valid when it resumed; -1: none. */
int64_t hd_ckpt_last_saved(hd_ckpt_store *store);

/* Restores the newest valid checkpoint of the store's run; *found false when there is none at all.  A damaged one is logged
 * (HD_LOG_WARN, naming file and tensor or block) and the one before it is tried; when all are damaged, HD_E_CORRUPT.
 * A checkpoint that is sound but does not fit the model or the values is HD_E_CONFIG: nothing older is tried. */
hd_status hd_ckpt_resume(hd_ckpt_store *store, hd_exec *ex, hd_ckpt_state *state, bool *found, hd_err *err) HD_CHECK_RESULT;

/* load_full_state_path: everything, step included.  `path` is a checkpoint, or a directory of checkpoints or a run directory
 * (then its newest valid one). */
hd_status hd_ckpt_load_full(const char *path, hd_exec *ex, hd_ckpt_state *state, hd_err *err) HD_CHECK_RESULT;

/* load_parameters_path: weights only, from a HuggingFace folder or a hadal checkpoint (paths as above); the optimizer is left
 * alone.  F32, BF16 and F16 files convert to the model's dtypes; an f32 master copy is preferred when the checkpoint has one. */
hd_status hd_ckpt_load_parameters(const char *path, hd_exec *ex, hd_model *model, hd_err *err) HD_CHECK_RESULT;

/* The model's numbers from <path>/config.json (paths as above). */
hd_status hd_ckpt_read_dims(const char *path, hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

/* What a hadal checkpoint says about itself, from its manifest (checked against its own digest and the files' sizes). */
typedef struct hd_ckpt_info {
    int64_t step;
    char config_digest[65]; /* "" when none was recorded */
    char version[32];       /* of the hadal that wrote it */
    char created[32];       /* 2026-01-31T12:00:00Z */
    int64_t n_file, file_bytes;
    char path[4096];        /* the directory, after choosing the newest */
} hd_ckpt_info;

hd_status hd_ckpt_read_info(const char *path, hd_ckpt_info *info, hd_err *err) HD_CHECK_RESULT;

#endif
