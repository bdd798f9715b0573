/* The run directory as its owner sees it: lock, partial saves, publishing, retention, the thread of an asynchronous save.
 * The order of operations in publish() is the protocol of docs/checkpoint.md; tests assert it from the trace of the I/O table. */
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/path.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/folder.h"
#include "checkpoint/load.h"
#include "checkpoint/names.h"
#include "checkpoint/save.h"
#include "checkpoint/scan.h"
#include "hadal/log.h"

enum { ATTEMPTS = 2 }; /* of a save whose fsync failed: the second writes everything anew, under another name */

struct hd_ckpt_store {
    char *run_dir, *dir; /* dir: <run_dir>/checkpoints */
    hd_file *lock;
    int64_t keep, max_shard_bytes;
    bool async, allow_nonfinite;
    unsigned char *snapshot; /* the arena's; NULL: saves are synchronous */
    size_t snapshot_bytes;
    hd_save_job job;         /* of the save in flight */
    pthread_t thread;
    bool in_flight;          /* the thread was started and not joined yet */
    pthread_mutex_t mutex;   /* guards what follows */
    bool done;
    hd_status result;
    hd_err error;
    int64_t last_saved;
};

static void set_last_saved(hd_ckpt_store *s, int64_t step)
{
    pthread_mutex_lock(&s->mutex);
    s->last_saved = step;
    pthread_mutex_unlock(&s->mutex);
}

int64_t hd_ckpt_last_saved(hd_ckpt_store *store)
{
    pthread_mutex_lock(&store->mutex);
    int64_t step = store->last_saved;
    pthread_mutex_unlock(&store->mutex);
    return step;
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

/* Makes a directory and its parents, each made durable in its parent: a checkpoint inside must survive with them. */
static hd_status make_dirs(const char *path, hd_err *err)
{
    hd_status st;
    char *parent = NULL;
    hd_io_info info;
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind == HD_IO_DIRECTORY) { goto out; }
    HD_TRY(hd_path_dir(path, &parent, err));
    if (strcmp(parent, path) != 0) { HD_TRY(make_dirs(parent, err)); }
    HD_TRY(hd_io_mkdirs(path, err)); /* one level, and no error when somebody else just made it */
    st = hd_io_sync_dir(parent, err);
out:
    hd_free(parent);
    return st;
}

/* "process 1234" of a lock file, for the message. */
static void describe_owner(const char *path, char out[64])
{
    char *text = NULL;
    size_t n = 0;
    if (hd_io_read_file(path, 4096, &text, &n, NULL) == HD_OK && strspn(text, "0123456789") == n - 1 && n > 1 && n < 24) {
        (void)snprintf(out, 64, "process %.*s", (int)(n - 1), text);
    } else {
        (void)snprintf(out, 64, "another process");
    }
    hd_free(text);
}

static hd_status take_lock(hd_ckpt_store *s, hd_err *err)
{
    hd_status st;
    char *path = NULL, owner[64];
    char pid[32];
    HD_TRY(hd_path_join(s->run_dir, "lock", &path, err));
    st = hd_io_lock(path, &s->lock, err);
    if (st == HD_E_BUSY) {
        describe_owner(path, owner);
        st = HD_FAIL(err, HD_E_BUSY, "%s: %s is writing checkpoints there; a directory has one trainer at a time (lock file %s)",
                     s->run_dir, owner, path);
    }
    if (st != HD_OK) { goto out; }
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    HD_TRY(hd_io_truncate(s->lock, 0, err));
    HD_TRY(hd_io_pwrite(s->lock, pid, (size_t)n, 0, err));
out:
    hd_free(path);
    return st;
}

/* What an interrupted save, replacement or removal left.  Only the owner of the lock may call it. */
static hd_status remove_partials(hd_ckpt_store *s, hd_err *err)
{
    hd_status st;
    hd_io_names names = {0};
    char *path = NULL;
    int64_t step, n = 0;
    HD_TRY(hd_io_list(s->dir, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        if (!hd_partial_name_parse(names.name[i], &step)) { continue; }
        HD_TRY(hd_path_join(s->dir, names.name[i], &path, err));
        HD_TRY(hd_io_remove_tree(path, err));
        hd_log(HD_LOG_INFO, "removed %s, left by an interrupted save", path);
        hd_free(path);
        path = NULL;
        n++;
    }
    if (n > 0) { st = hd_io_sync_dir(s->dir, err); }
out:
    hd_free(path);
    hd_io_names_free(&names);
    return st;
}

static void free_store(hd_ckpt_store *s)
{
    hd_io_abandon(&s->lock);
    hd_free(s->run_dir);
    hd_free(s->dir);
    (void)pthread_mutex_destroy(&s->mutex);
    hd_free(s);
}

hd_status hd_ckpt_store_open(const hd_ckpt_options *options, hd_ckpt_store **store, hd_err *err)
{
    hd_status st;
    void *memory;
    *store = NULL;
    if (options->run_dir == NULL || options->run_dir[0] == '\0' || options->keep < 0 || options->max_shard_bytes < 0) {
        return HD_FAIL(err, HD_E_CONFIG, "checkpoints: run directory \"%s\", max_num_checkpoints_to_keep %" PRId64 ": want a path and at least 0",
                       options->run_dir != NULL ? options->run_dir : "", options->keep);
    }
    st = hd_alloc(1, sizeof **store, "checkpoint store", &memory, err);
    if (st != HD_OK) { return st; }
    hd_ckpt_store *s = memory;
    *s = (hd_ckpt_store){.keep = options->keep,
                         .max_shard_bytes = options->max_shard_bytes,
                         .async = options->async,
                         .allow_nonfinite = options->allow_nonfinite,
                         .last_saved = -1};
    (void)pthread_mutex_init(&s->mutex, NULL); /* cannot fail on Linux with default attributes */
    HD_TRY(hd_strdup(options->run_dir, &s->run_dir, err));
    HD_TRY(hd_path_join(options->run_dir, "checkpoints", &s->dir, err));
    HD_TRY(make_dirs(s->run_dir, err));
    HD_TRY(take_lock(s, err));
    HD_TRY(make_dirs(s->dir, err));
    HD_TRY(hd_io_sync_dir(s->run_dir, err)); /* an earlier process may have died between making the directory and syncing it */
    HD_TRY(remove_partials(s, err));
    *store = s;
    return HD_OK;
out:
    free_store(s);
    return st;
}

static hd_status plan(const hd_ckpt_state *state, int64_t max_shard_bytes, bool to_save, hd_ckpt_sizes *sizes, hd_err *err)
{
    hd_save_job job;
    hd_ckpt_state first = *state;
    first.step = state->step < 0 ? 0 : state->step; /* a plan is made before any step */
    hd_status st = hd_save_job_open(&first, max_shard_bytes, &job, err);
    if (st == HD_OK && to_save) { st = hd_save_check_manifest(&job, err); }
    if (st != HD_OK) {
        hd_save_job_close(&job);
        return st;
    }
    *sizes = (hd_ckpt_sizes){
        .file_bytes = hd_save_need(&job),
        .snapshot_bytes = job.layout.snapshot_bytes,
        .staging_bytes = HD_LOAD_STAGING_BYTES,
        .n_file = job.layout.shards.n_file,
        .n_tensor = job.layout.n_tensor,
    };
    hd_save_job_close(&job);
    return HD_OK;
}

hd_status hd_ckpt_plan(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_ckpt_sizes *sizes, hd_err *err)
{
    return plan(state, max_shard_bytes, false, sizes, err);
}

hd_status hd_ckpt_reserve(hd_ckpt_store *store, const hd_ckpt_state *state, hd_arena *arena, hd_err *err)
{
    hd_ckpt_sizes sizes;
    hd_err why = {0};
    void *memory = NULL;
    hd_status st = plan(state, store->max_shard_bytes, true, &sizes, err);
    if (st != HD_OK || !store->async) { return st; }
    if (hd_arena_alloc(arena, sizes.snapshot_bytes, &memory, &why) != HD_OK) {
        hd_log(HD_LOG_WARN, "checkpoints are saved synchronously, training waits for them: their snapshot needs %zu bytes (%s)",
               sizes.snapshot_bytes, why.msg);
        return HD_OK;
    }
    store->snapshot = memory;
    store->snapshot_bytes = sizes.snapshot_bytes;
    return HD_OK;
}

/* ---- publishing ---------------------------------------------------------------------------------------------------- */

/* For names only: a name that exists already makes the save fail, never overwrite. */
static uint64_t random_u64(void)
{
    uint64_t r = 0;
    if (getrandom(&r, sizeof r, GRND_NONBLOCK) != (ssize_t)sizeof r) {
        double now = hd_clock_now_s();
        memcpy(&r, &now, sizeof r);
        r = r * 0x9E3779B97F4A7C15u ^ (uint64_t)getpid() << 32;
    }
    return r;
}

static hd_status join_step(const hd_ckpt_store *s, int64_t step, char **path, hd_err *err)
{
    char name[HD_STEP_NAME_MAX];
    hd_step_name(step, name);
    return hd_path_join(s->dir, name, path, err);
}

static hd_status join_partial(const hd_ckpt_store *s, int64_t step, char **path, hd_err *err)
{
    char name[HD_STEP_NAME_MAX];
    hd_partial_name(step, random_u64(), name);
    return hd_path_join(s->dir, name, path, err);
}

/* Refuses early: bytes needed and bytes free are named before anything is written. */
static hd_status check_space(const hd_ckpt_store *s, const hd_save_job *job, hd_err *err)
{
    uint64_t free_bytes;
    int64_t need = hd_save_need(job);
    hd_status st = hd_io_free_bytes(s->dir, &free_bytes, err);
    if (st == HD_OK && free_bytes < (uint64_t)need) {
        st = HD_FAIL(err, HD_E_IO, "checkpoint of step %" PRId64 ": it needs %" PRId64 " bytes and %s has %" PRIu64
                     " free; nothing was written, earlier checkpoints are untouched", job->manifest.step, need, s->dir, free_bytes);
    }
    return st;
}

/* Best effort on the way out of a failure; the first error is the one to report. */
static void discard(const char *path)
{
    hd_err why = {0};
    if (hd_io_remove_tree(path, &why) != HD_OK) {
        hd_log(HD_LOG_WARN, "%s: a partial checkpoint could not be removed (%s); the next start removes it", path, why.msg);
    }
}

/* Gives the finished directory its name and makes the name durable.  What stood there before (found damaged by the caller) is
 * moved aside first, to a name that a restart removes.  On failure nothing is left under the step's name that was not announced. */
static hd_status give_name(const hd_ckpt_store *s, int64_t step, const char *partial, bool *sync_failed, hd_err *err)
{
    hd_status st;
    char *path = NULL, *aside = NULL;
    hd_io_info info;
    HD_TRY(join_step(s, step, &path, err));
    HD_TRY(hd_io_lstat(path, &info, err));
    if (info.kind != HD_IO_MISSING) {
        HD_TRY(join_partial(s, step, &aside, err));
        HD_TRY(hd_io_rename(path, aside, err));
    }
    HD_TRY(hd_io_rename(partial, path, err));
    st = hd_io_sync_dir(s->dir, err);
    if (st != HD_OK) {
        *sync_failed = true;
        hd_status back = hd_io_rename(path, partial, NULL); /* its name may not last: take it back, the caller removes it */
        if (back != HD_OK) { discard(path); }
        goto out;
    }
    if (aside != NULL) { st = hd_io_remove_tree(aside, err); }
out:
    hd_free(path);
    hd_free(aside);
    return st;
}

static hd_status write_and_name(hd_ckpt_store *s, hd_save_job *job, hd_err *err)
{
    hd_status st;
    char *partial = NULL;
    bool made = false;
    job->sync_failed = false;
    HD_TRY(check_space(s, job, err));
    HD_TRY(join_partial(s, job->manifest.step, &partial, err));
    HD_TRY(hd_io_mkdir(partial, err));
    made = true;
    HD_TRY(hd_save_write(job, partial, err));
    HD_TRY(give_name(s, job->manifest.step, partial, &job->sync_failed, err));
    made = false;
out:
    if (made) { discard(partial); }
    hd_free(partial);
    return st;
}

/* A checkpoint goes by rename first, so that a crash in the middle leaves a partial and not a damaged checkpoint. */
static hd_status remove_step(const hd_ckpt_store *s, int64_t step, hd_err *err)
{
    hd_status st;
    char *path = NULL, *aside = NULL;
    HD_TRY(join_step(s, step, &path, err));
    HD_TRY(join_partial(s, step, &aside, err));
    HD_TRY(hd_io_rename(path, aside, err));
    HD_TRY(hd_io_sync_dir(s->dir, err));
    st = hd_io_remove_tree(aside, err);
out:
    hd_free(path);
    hd_free(aside);
    return st;
}

/* Keeps the newest `keep` complete checkpoints; an incomplete or damaged one neither counts nor goes. */
static hd_status retain(const hd_ckpt_store *s, hd_err *err)
{
    hd_status st;
    int64_t *steps = NULL, n, complete = 0;
    char *path = NULL;
    if (s->keep == 0) { return HD_OK; }
    HD_TRY(hd_scan_steps(s->dir, &steps, &n, err));
    for (int64_t i = n - 1; i >= 0; i--) {
        HD_TRY(join_step(s, steps[i], &path, err));
        hd_status good = hd_folder_look(path, steps[i], NULL, err);
        if (good == HD_E_NOMEM) {
            st = good;
            goto out;
        }
        hd_free(path);
        path = NULL;
        if (good != HD_OK) { continue; }
        if (++complete > s->keep) { HD_TRY(remove_step(s, steps[i], err)); }
    }
out:
    if (st != HD_OK) { (void)hd_err_prefix(err, "the new checkpoint is complete, removing old ones failed: "); }
    hd_free(path);
    hd_free(steps);
    return st;
}

/* The whole of a save but for reading the tensors: write, name, retain, announce. */
static hd_status publish(hd_ckpt_store *s, hd_save_job *job, hd_err *err)
{
    hd_status st = HD_OK;
    double begin = hd_clock_now_s();
    int64_t step = job->manifest.step;
    for (int attempt = 1; attempt <= ATTEMPTS; attempt++) {
        st = write_and_name(s, job, err);
        if (st == HD_OK || !job->sync_failed || attempt == ATTEMPTS) { break; }
        hd_log(HD_LOG_WARN, "checkpoint of step %" PRId64 ": a sync failed and everything is written again: %s", step,
               err != NULL ? err->msg : "");
    }
    if (st != HD_OK) { return st; }
    set_last_saved(s, step);
    st = retain(s, err);
    if (st != HD_OK) { return st; }
    hd_log(HD_LOG_INFO, "saved checkpoint %s/%" PRId64 " (%" PRId64 " bytes, %.2f s)", s->dir, step, job->layout.bytes,
           hd_clock_now_s() - begin);
    return HD_OK;
}

/* ---- saving -------------------------------------------------------------------------------------------------------- */

static void *save_thread(void *arg)
{
    hd_ckpt_store *s = arg;
    hd_err error = {0};
    hd_status result = publish(s, &s->job, &error);
    pthread_mutex_lock(&s->mutex);
    s->result = result;
    s->error = error;
    s->done = true;
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Joins the thread and hands out its result, once. */
static hd_status harvest(hd_ckpt_store *s, hd_err *err)
{
    if (!s->in_flight) { return HD_OK; }
    (void)pthread_join(s->thread, NULL);
    s->in_flight = false;
    hd_save_job_close(&s->job);
    if (s->result != HD_OK && err != NULL) { *err = s->error; }
    return s->result;
}

hd_status hd_ckpt_wait(hd_ckpt_store *store, hd_err *err) { return harvest(store, err); }

hd_status hd_ckpt_collect(hd_ckpt_store *store, hd_err *err)
{
    pthread_mutex_lock(&store->mutex);
    bool done = store->done;
    pthread_mutex_unlock(&store->mutex);
    return store->in_flight && done ? harvest(store, err) : HD_OK;
}

static hd_status save_async(hd_ckpt_store *s, hd_exec *ex, const hd_ckpt_state *state, hd_err *err)
{
    hd_status st = hd_save_snapshot(&s->job, ex, state, s->snapshot, err);
    if (st == HD_OK) {
        s->done = false;
        int failed = pthread_create(&s->thread, NULL, save_thread, s);
        s->in_flight = failed == 0;
        if (failed == 0) { return HD_OK; }
        hd_log(HD_LOG_WARN, "the checkpoint of step %" PRId64 " is saved synchronously: no thread (%s)", state->step, strerror(failed));
        st = publish(s, &s->job, err);
    }
    hd_save_job_close(&s->job);
    return st;
}

/* A step that has its directory already: a sound one is not written again. */
static hd_status exists_already(hd_ckpt_store *s, int64_t step, bool *sound, hd_err *err)
{
    hd_status st;
    char *path = NULL;
    hd_io_info info;
    hd_err why = {0};
    *sound = false;
    HD_TRY(join_step(s, step, &path, err));
    HD_TRY(hd_io_lstat(path, &info, err));
    if (info.kind == HD_IO_MISSING) { goto out; }
    hd_status good = hd_folder_verify(path, step, &why);
    if (good == HD_OK) {
        hd_log(HD_LOG_INFO, "checkpoint %s exists and is sound: not saved again", path);
        *sound = true;
    } else if (good == HD_E_CORRUPT) {
        hd_log(HD_LOG_WARN, "checkpoint %s is damaged and replaced: %s", path, why.msg);
    } else {
        if (err != NULL) { *err = why; }
        st = good;
    }
out:
    hd_free(path);
    return st;
}

hd_status hd_ckpt_save(hd_ckpt_store *store, hd_exec *ex, const hd_ckpt_state *state, hd_err *err)
{
    bool sound;
    hd_status st = harvest(store, err);
    if (st != HD_OK) {
        (void)hd_err_prefix(err, "the save before failed: ");
        return st;
    }
    st = exists_already(store, state->step, &sound, err);
    if (st != HD_OK) { return st; }
    if (sound) {
        set_last_saved(store, state->step);
        return HD_OK;
    }
    st = hd_save_job_open(state, store->max_shard_bytes, &store->job, err);
    if (st == HD_OK) { st = hd_save_check_manifest(&store->job, err); }
    if (st != HD_OK) {
        hd_save_job_close(&store->job);
        return st;
    }
    store->job.allow_nonfinite = store->allow_nonfinite;
    if (store->snapshot != NULL && store->job.layout.snapshot_bytes <= store->snapshot_bytes) {
        return save_async(store, ex, state, err);
    }
    store->job.ex = ex;
    store->job.state = state;
    st = publish(store, &store->job, err);
    hd_save_job_close(&store->job);
    return st;
}

hd_status hd_ckpt_store_close(hd_ckpt_store *store, hd_err *err)
{
    if (store == NULL) { return HD_OK; }
    hd_status st = harvest(store, err);
    free_store(store);
    return st;
}

/* ---- resuming ------------------------------------------------------------------------------------------------------ */

typedef struct resume_args {
    hd_exec *ex;
    hd_ckpt_state *state;
} resume_args;

static hd_status resume_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    resume_args *a = arg;
    return hd_load_state(path, step, a->ex, a->state, err);
}

hd_status hd_ckpt_resume(hd_ckpt_store *store, hd_exec *ex, hd_ckpt_state *state, bool *found, hd_err *err)
{
    resume_args args = {.ex = ex, .state = state};
    hd_status st = hd_scan_newest(store->dir, resume_from, &args, found, err);
    if (st == HD_OK && *found) { set_last_saved(store, state->step); }
    return st;
}
