/* Files of a checkpoint, written in the order of the protocol.  See save.h and docs/checkpoint.md. */
#include "checkpoint/save.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/io.h"
#include "base/path.h"
#include "checkpoint/block_file.h"
#include "hadal/init.h"

enum { DISK_UNIT = 4096 }; /* what a file system rounds a small file up to */

/* ---- the job ------------------------------------------------------------------------------------------------------- */

static void time_stamp(char out[32])
{
    time_t now = (time_t)hd_clock_wall_s();
    struct tm utc;
    out[0] = '\0';
    if (gmtime_r(&now, &utc) != NULL) { (void)strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc); }
}

static hd_status fill_manifest(const hd_ckpt_state *state, hd_save_job *job, hd_err *err)
{
    hd_status st = HD_OK;
    hd_manifest *m = &job->manifest;
    m->step = state->step;
    (void)snprintf(m->version, sizeof m->version, "%s", hd_version());
    (void)snprintf(m->config_digest, sizeof m->config_digest, "%s", state->config_digest != NULL ? state->config_digest : "");
    time_stamp(m->created);
    for (int64_t i = 0; i < state->n_value; i++) {
        if (state->values[i].kind != HD_CKPT_TENSOR) { HD_TRY(hd_manifest_add_value(m, &state->values[i], err)); }
    }
    for (int64_t i = 0; i < job->layout.shards.n_file; i++) {
        HD_TRY(hd_manifest_add_file(m, job->layout.shards.files[i].name, job->layout.shards.files[i].bytes, err));
    }
out:
    return st;
}

hd_status hd_save_check_manifest(const hd_save_job *job, hd_err *err)
{
    if (hd_manifest_estimate(&job->manifest) <= HD_MANIFEST_MAX) { return HD_OK; }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "a checkpoint of %" PRId64 " bytes: its manifest would be longer than %d bytes (about 4 TiB of files)",
                   job->layout.bytes, HD_MANIFEST_MAX);
}

hd_status hd_save_job_open(const hd_ckpt_state *state, int64_t max_shard_bytes, hd_save_job *job, hd_err *err)
{
    *job = (hd_save_job){0};
    if (state->step < 0) { return HD_FAIL(err, HD_E_INVALID, "checkpoint of step %" PRId64 ", want at least 0", state->step); }
    hd_status st = hd_ckpt_layout_build(state, max_shard_bytes, &job->layout, err);
    if (st == HD_OK) { st = fill_manifest(state, job, err); }
    if (st != HD_OK) { hd_save_job_close(job); }
    return st;
}

void hd_save_job_close(hd_save_job *job)
{
    hd_ckpt_layout_free(&job->layout);
    hd_manifest_free(&job->manifest);
    *job = (hd_save_job){0};
}

int64_t hd_save_need(const hd_save_job *job)
{
    return job->layout.bytes + hd_manifest_estimate(&job->manifest) + DISK_UNIT * (job->layout.shards.n_file + 3);
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

static bool finite_f32(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + 4 * i, 4);
        bits &= 0x7F800000u;
        worst = bits > worst ? bits : worst;
    }
    return worst != 0x7F800000u;
}

static bool finite_bf16(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint16_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, p + 2 * i, 2);
        bits &= 0x7F80u;
        worst = bits > worst ? bits : worst;
    }
    return worst != 0x7F80u;
}

/* Weights and moments must be finite unless the caller asked otherwise; the trainer's own tensors may hold anything. */
static hd_status check_finite(const hd_save_job *job, const hd_ckpt_layout_tensor *t, const void *data, size_t bytes, hd_err *err)
{
    bool good = true;
    if (job->allow_nonfinite || t->ref.param < 0) { return HD_OK; }
    if (t->desc.dtype == HD_DTYPE_F32) { good = finite_f32(data, bytes / 4); }
    if (t->desc.dtype == HD_DTYPE_BF16) { good = finite_bf16(data, bytes / 2); }
    return good ? HD_OK
                : HD_FAIL(err, HD_E_NONFINITE, "checkpoint of step %" PRId64 ": tensor %s holds NaN or infinity", job->manifest.step,
                          t->desc.name);
}

/* Bytes [at, at + n) of a tensor, n a multiple of its element size. */
static hd_status read_part(hd_exec *ex, const hd_ckpt_state *state, const hd_ckpt_layout_tensor *t, int64_t at, size_t n, void *out,
                           hd_err *err)
{
    int64_t size = (int64_t)hd_dtype_bytes(t->desc.dtype);
    hd_tensor view = hd_ckpt_layout_view(state, t);
    int64_t count = hd_tensor_count(&view);
    hd_tensor flat = hd_tensor_reshape(&view, 1, &count);
    hd_tensor part = hd_tensor_slice(&flat, 0, at / size, (int64_t)n / size);
    return hd_exec_read(ex, &part, out, err);
}

hd_status hd_save_snapshot(hd_save_job *job, hd_exec *ex, const hd_ckpt_state *state, unsigned char *memory, hd_err *err)
{
    for (int64_t i = 0; i < job->layout.n_tensor; i++) {
        const hd_ckpt_layout_tensor *t = &job->layout.tensors[i];
        int64_t bytes = t->desc.end - t->desc.begin;
        if (t->ref.param >= 0 && t->ref.role == HD_HF_COPY) { continue; }
        /* In pieces, so that the check finds them in the cache. */
        for (int64_t at = 0; at < bytes; at += HD_BLOCK_BYTES) {
            size_t n = (size_t)(bytes - at < HD_BLOCK_BYTES ? bytes - at : HD_BLOCK_BYTES);
            unsigned char *to = memory + t->snapshot_at + at;
            hd_status st = read_part(ex, state, t, at, n, to, err);
            if (st == HD_OK) { st = check_finite(job, t, to, n, err); }
            if (st != HD_OK) { return st; }
        }
    }
    job->snapshot = memory;
    return HD_OK;
}

/* ---- a file, block by block ---------------------------------------------------------------------------------------- */

typedef struct block_writer {
    hd_file *file;
    int64_t at;      /* of the block in work: a multiple of HD_BLOCK_BYTES */
    size_t fill;     /* bytes of it in the buffer */
    uint32_t *crc;   /* the manifest's */
    unsigned char *buffer;
} block_writer;

static hd_status put_block(block_writer *w, const void *data, size_t n, hd_err *err)
{
    w->crc[w->at / HD_BLOCK_BYTES] = hd_crc32c(0, data, n);
    hd_status st = hd_io_pwrite(w->file, data, n, w->at, err);
    w->at += (int64_t)n;
    return st;
}

static hd_status flush_block(block_writer *w, hd_err *err)
{
    size_t n = w->fill;
    w->fill = 0;
    return n > 0 ? put_block(w, w->buffer, n, err) : HD_OK;
}

static hd_status put_bytes(block_writer *w, const unsigned char *data, size_t n, hd_err *err)
{
    hd_status st = HD_OK;
    while (n > 0 && st == HD_OK) {
        size_t room = (size_t)HD_BLOCK_BYTES - w->fill, part = n < room ? n : room;
        if (part == (size_t)HD_BLOCK_BYTES) { /* a whole block: straight from its source */
            st = put_block(w, data, part, err);
        } else {
            memcpy(w->buffer + w->fill, data, part);
            w->fill += part;
            if (w->fill == (size_t)HD_BLOCK_BYTES) { st = flush_block(w, err); }
        }
        data += part;
        n -= part;
    }
    return st;
}

/* Reads a tensor straight into the buffer.  A part is whole elements: descending sizes keep every tensor aligned. */
static hd_status put_tensor(hd_save_job *job, const hd_ckpt_layout_tensor *t, block_writer *w, hd_err *err)
{
    int64_t bytes = t->desc.end - t->desc.begin, at = 0;
    if (job->snapshot != NULL) { return put_bytes(w, job->snapshot + t->snapshot_at, (size_t)bytes, err); }
    while (at < bytes) {
        size_t room = (size_t)HD_BLOCK_BYTES - w->fill;
        size_t n = (uint64_t)(bytes - at) < room ? (size_t)(bytes - at) : room;
        hd_status st = read_part(job->ex, job->state, t, at, n, w->buffer + w->fill, err);
        if (st == HD_OK) { st = check_finite(job, t, w->buffer + w->fill, n, err); }
        if (st != HD_OK) { return st; }
        w->fill += n;
        at += (int64_t)n;
        if (w->fill == (size_t)HD_BLOCK_BYTES) { st = flush_block(w, err); }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* Durable and closed, or failed. */
static hd_status finish(hd_save_job *job, hd_file **file, hd_err *err)
{
    hd_status st = hd_io_sync(*file, err);
    job->sync_failed = job->sync_failed || st != HD_OK;
    return st == HD_OK ? hd_io_close(file, err) : st;
}

static hd_status write_file(hd_save_job *job, const char *dir, int64_t i, unsigned char *buffer, hd_err *err)
{
    hd_status st;
    char *path = NULL;
    const hd_shard_file *f = &job->layout.shards.files[i];
    block_writer w = {.crc = job->manifest.files[i].crc, .buffer = buffer};
    HD_TRY(hd_path_join(dir, f->name, &path, err));
    HD_TRY(hd_io_create(path, HD_IO_EXCLUSIVE, &w.file, err));
    HD_TRY(hd_io_allocate(w.file, f->bytes, err));
    HD_TRY(put_bytes(&w, (const unsigned char *)f->head.data, f->head.n, err));
    for (int64_t t = 0; t < f->n; t++) { HD_TRY(put_tensor(job, &job->layout.tensors[f->first + t], &w, err)); }
    HD_TRY(flush_block(&w, err));
    assert(w.at == f->bytes);
    HD_TRY(finish(job, &w.file, err));
out:
    hd_io_abandon(&w.file);
    hd_free(path);
    return st;
}

static hd_status write_manifest(hd_save_job *job, const char *dir, hd_err *err)
{
    hd_status st;
    char *path = NULL;
    hd_file *file = NULL;
    hd_buf text = {0};
    hd_manifest_write(&job->manifest, &text);
    HD_TRY(hd_buf_check(&text, err));
    HD_TRY(hd_path_join(dir, HD_MANIFEST_NAME, &path, err));
    HD_TRY(hd_io_create(path, HD_IO_EXCLUSIVE, &file, err));
    HD_TRY(hd_io_allocate(file, (int64_t)text.n, err));
    HD_TRY(hd_io_pwrite(file, text.data, text.n, 0, err));
    HD_TRY(finish(job, &file, err));
out:
    hd_io_abandon(&file);
    hd_free(path);
    hd_buf_free(&text);
    return st;
}

static hd_status sync_dir(hd_save_job *job, const char *path, hd_err *err)
{
    hd_status st = hd_io_sync_dir(path, err);
    job->sync_failed = job->sync_failed || st != HD_OK;
    return st;
}

hd_status hd_save_write(hd_save_job *job, const char *dir, hd_err *err)
{
    hd_status st;
    char *optimizer = NULL;
    void *buffer = NULL;
    bool has_optimizer = false;
    for (int64_t i = 0; i < job->layout.shards.n_file; i++) { has_optimizer = has_optimizer || strchr(job->layout.shards.files[i].name, '/') != NULL; }
    job->sync_failed = false;
    HD_TRY(hd_alloc((size_t)HD_BLOCK_BYTES, 1, "checkpoint block", &buffer, err));
    HD_TRY(hd_path_join(dir, HD_OPTIMIZER_FOLDER, &optimizer, err));
    if (has_optimizer) { HD_TRY(hd_io_mkdir(optimizer, err)); }
    for (int64_t i = 0; i < job->layout.shards.n_file; i++) { HD_TRY(write_file(job, dir, i, buffer, err)); }
    HD_TRY(write_manifest(job, dir, err));
    if (has_optimizer) { HD_TRY(sync_dir(job, optimizer, err)); }
    HD_TRY(sync_dir(job, dir, err));
out:
    hd_free(buffer);
    hd_free(optimizer);
    return st;
}
