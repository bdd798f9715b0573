/* `hadal convert FROM TO`: one folder into another, in bounded memory.
 *
 * TO is made as TO.partial: a journal that says of what it is the conversion, then file after file, each written under a name of its
 * own and renamed when it is durable.  A conversion that was interrupted goes on with the files that are missing.  When all are
 * there, the journal goes away and the folder gets its name: nothing called TO is ever incomplete.  Files in TO.partial count only
 * beside the journal of this conversion; what has the lock but no journal was being cleared, or published, and is begun again. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/json.h"
#include "base/parallel_for.h"
#include "base/path.h"
#include "base/sha256.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/convert_hf.h"
#include "checkpoint/load.h"
#include "checkpoint/scan.h"
#include "config/config.h"
#include "hadal/commands.h"
#include "hadal/log.h"

static const char journal_name[] = "conversion.json", lock_name[] = "conversion.lock", part_mark[] = ".part";

enum { MAX_JOURNAL = 4096, MAX_SIDE_FILE = 256 << 20, DISK_UNIT = 4096 };

typedef struct conversion {
    const hd_run_hooks *hooks;
    hd_convert_options options;
    char *to, *partial;
    hd_folder folder;
    hd_source source;
    hd_packer *packer;          /* when matrices are packed */
    hd_target target;
    hd_write_queue *queue;
    hd_file *lock;
    hd_io_names side;           /* names in FROM that are copied as they are: tokenizer, templates, licence */
    char fingerprint[HD_SHA256_HEX];
    int64_t bytes, done_bytes;  /* of the shards; of those found complete */
    double start, next_line;    /* of the clock: when writing began, when the next progress line is due */
} conversion;

/* ---- options ------------------------------------------------------------------------------------------------------- */

static void read_options(const hd_config *config, hd_convert_options *o)
{
    *o = (hd_convert_options){
        .keep_dtype = hd_config_is(config, HD_KEY_save_dtype, "keep"),
        .to_f8 = hd_config_is(config, HD_KEY_save_dtype, "float8_e4m3fn"),
        .dtype = hd_config_is(config, HD_KEY_save_dtype, "float32")   ? HD_DTYPE_F32
                 : hd_config_is(config, HD_KEY_save_dtype, "float16") ? HD_DTYPE_F16
                                                                      : HD_DTYPE_BF16,
        .scale_format = hd_config_is(config, HD_KEY_scale_fmt, "ue8m0") ? HD_SCALE_UE8M0 : HD_SCALE_F32,
        .bits = hd_config_is(config, HD_KEY_quantization, "int8") ? 8 : hd_config_is(config, HD_KEY_quantization, "int4") ? 4 : 0,
        .keep_mtp = hd_config_bool(config, HD_KEY_enable_mtp),
        .max_shard_bytes = (int64_t)(hd_config_float(config, HD_KEY_max_shard_size_gb) * 1e9),
    };
}

/* A model that hadal knows must be whole; of another family the tensors are converted without knowing what should be there. */
static hd_status check_model(conversion *c, int64_t *n_layer, hd_err *err)
{
    hd_dims dims;
    hd_err why = {0};
    *n_layer = -1;
    hd_status st = hd_folder_dims(&c->folder, &dims, &why);
    if (st == HD_E_UNSUPPORTED && c->options.keep_mtp && c->options.bits == 0) {
        hd_log(HD_LOG_WARN, "%s; its tensors are converted without checking that they are a whole model", why.msg);
        return HD_OK;
    }
    if (st != HD_OK) {
        if (err != NULL) { *err = why; }
        return st;
    }
    *n_layer = dims.n_layer;
    return hd_load_check(&c->folder, &dims, err);
}

/* ---- files that are copied ------------------------------------------------------------------------------------------- */

static bool is_side_file(const char *name)
{
    static const char index_end[] = ".safetensors.index.json";
    static const char *const ends[] = {".json", ".jinja", ".txt", ".model", ".md", ".py", ".tiktoken"};
    static const char *const made[] = {"config.json", "manifest.json", journal_name};
    size_t n = strlen(name);
    if (n >= sizeof index_end && strcmp(name + n + 1 - sizeof index_end, index_end) == 0) { return false; }
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        if (strcmp(name, made[i]) == 0) { return false; }
    }
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && strcmp(name + n - k, ends[i]) == 0) { return name[0] != '.'; }
    }
    return strncmp(name, "LICENSE", 7) == 0;
}

static hd_status copy_side_file(const conversion *c, const char *name, hd_err *err)
{
    hd_status st;
    char *from = NULL, *to = NULL, *data = NULL;
    size_t n;
    hd_io_info info;
    HD_TRY(hd_path_join(c->folder.path, name, &from, err));
    HD_TRY(hd_path_join(c->partial, name, &to, err));
    HD_TRY(hd_io_stat(from, &info, err));
    if (info.kind != HD_IO_REGULAR || info.bytes > MAX_SIDE_FILE) {
        hd_log(HD_LOG_WARN, "%s is %s and is not copied", from, info.kind != HD_IO_REGULAR ? "not a file" : "larger than 256 MiB");
        goto out;
    }
    HD_TRY(hd_io_read_file(from, MAX_SIDE_FILE, &data, &n, err));
    st = hd_io_write_file(to, data, n, err);
out:
    hd_free(from);
    hd_free(to);
    hd_free(data);
    return st;
}

/* ---- the place ------------------------------------------------------------------------------------------------------------ */

static hd_status check_target(const conversion *c, hd_err *err)
{
    hd_status st;
    char *parent = NULL, *manifest = NULL;
    hd_io_info info;
    HD_TRY(hd_io_lstat(c->to, &info, err));
    if (info.kind != HD_IO_MISSING) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s is there already; name a folder that is not", c->to);
        goto out;
    }
    HD_TRY(hd_path_dir(c->to, &parent, err));
    HD_TRY(hd_path_join(parent, HD_MANIFEST_NAME, &manifest, err));
    HD_TRY(hd_io_lstat(manifest, &info, err));
    if (info.kind != HD_IO_MISSING) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s is a checkpoint, which a folder in it would damage; name a place outside it", parent);
    }
out:
    hd_free(parent);
    hd_free(manifest);
    return st;
}

/* ---- the journal ------------------------------------------------------------------------------------------------------- */

static void put(hd_sha256 *sha, const void *data, size_t n)
{
    uint64_t length = n;
    hd_sha256_update(sha, &length, sizeof length);
    hd_sha256_update(sha, data, n);
}

/* Of what this is the conversion: the source's files as the file system describes them, and every header that will be written. */
static hd_status make_fingerprint(conversion *c, hd_err *err)
{
    hd_status st = HD_OK;
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    char *path = NULL;
    hd_sha256_init(&sha);
    put(&sha, "hadal-conversion-1", 18);
    put(&sha, c->folder.path, strlen(c->folder.path));
    put(&sha, &c->options.scale_format, sizeof c->options.scale_format);
    for (int64_t i = 0; i < c->folder.n_file; i++) {
        hd_io_info info;
        HD_TRY(hd_path_join(c->folder.path, c->folder.files[i].name, &path, err));
        HD_TRY(hd_io_stat(path, &info, err));
        put(&sha, c->folder.files[i].name, strlen(c->folder.files[i].name));
        put(&sha, &info.bytes, sizeof info.bytes);
        put(&sha, &info.mtime_s, sizeof info.mtime_s);
        put(&sha, &info.mtime_ns, sizeof info.mtime_ns);
        hd_free(path);
        path = NULL;
    }
    for (int64_t i = 0; i < c->target.shards.n_file; i++) {
        put(&sha, c->target.shards.files[i].name, strlen(c->target.shards.files[i].name));
        put(&sha, c->target.shards.files[i].head.data, c->target.shards.files[i].head.n);
    }
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, c->fingerprint);
out:
    hd_free(path);
    return st;
}

static void compose_journal(const conversion *c, hd_buf *text)
{
    hd_json_writer w;
    hd_json_writer_init(&w, text, 2);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "conversion_of");
    hd_json_write_string(&w, c->folder.path);
    hd_json_write_key(&w, "fingerprint");
    hd_json_write_string(&w, c->fingerprint);
    hd_json_write_end(&w);
    hd_buf_append_char(text, '\n');
}

/* Whether the journal there is this conversion's; anything unreadable is not. */
static bool journal_matches(const char *path, const char *want)
{
    char *text = NULL;
    size_t n;
    hd_err ignored;
    bool same = hd_io_read_file(path, MAX_JOURNAL, &text, &n, &ignored) == HD_OK && strcmp(text, want) == 0;
    hd_free(text);
    return same;
}

/* All but the lock goes. */
static hd_status clear_partial(const conversion *c, hd_err *err)
{
    hd_status st;
    hd_io_names names = {0};
    char *path = NULL;
    HD_TRY(hd_io_list(c->partial, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        if (strcmp(names.name[i], lock_name) == 0) { continue; }
        HD_TRY(hd_path_join(c->partial, names.name[i], &path, err));
        HD_TRY(hd_io_remove_tree(path, err));
        hd_free(path);
        path = NULL;
    }
out:
    hd_free(path);
    hd_io_names_free(&names);
    return st;
}

/* A folder of that name that no conversion made is left alone: it is somebody's. */
static hd_status check_partial(const conversion *c, const char *lock, hd_err *err)
{
    hd_status st;
    hd_io_names names = {0};
    hd_io_info info;
    HD_TRY(hd_io_lstat(c->partial, &info, err));
    if (info.kind == HD_IO_MISSING) { goto out; }
    if (info.kind == HD_IO_DIRECTORY) {
        HD_TRY(hd_io_lstat(lock, &info, err));
        if (info.kind == HD_IO_REGULAR) { goto out; }
        HD_TRY(hd_io_list(c->partial, &names, err));
        if (names.n == 0) { goto out; }
    }
    st = HD_FAIL(err, HD_E_CONFIG, "%s is there and is no unfinished conversion: move it away, or name another folder", c->partial);
out:
    hd_io_names_free(&names);
    return st;
}

/* The partial folder, locked, with this conversion's journal and, when it is an earlier attempt's, that attempt's files. */
static hd_status open_partial(conversion *c, hd_err *err)
{
    hd_status st;
    hd_buf text = {0};
    char *journal = NULL, *lock = NULL;
    hd_io_info info;
    compose_journal(c, &text);
    HD_TRY(hd_buf_check(&text, err));
    HD_TRY(hd_path_join(c->partial, journal_name, &journal, err));
    HD_TRY(hd_path_join(c->partial, lock_name, &lock, err));
    HD_TRY(check_partial(c, lock, err));
    HD_TRY(hd_io_mkdirs(c->partial, err));
    HD_TRY(hd_io_lock(lock, &c->lock, err));
    HD_TRY(check_target(c, err)); /* another conversion may have ended in the meantime */
    HD_TRY(hd_io_stat(journal, &info, err));
    if (info.kind != HD_IO_MISSING && journal_matches(journal, hd_buf_text(&text))) {
        hd_log(HD_LOG_INFO, "going on with the conversion in %s", c->partial);
        goto out;
    }
    if (info.kind != HD_IO_MISSING) {
        hd_log(HD_LOG_WARN, "%s holds a conversion of another source or with other options: starting again", c->partial);
    }
    HD_TRY(clear_partial(c, err));
    st = hd_io_write_file(journal, text.data, text.n, err);
out:
    hd_buf_free(&text);
    hd_free(journal);
    hd_free(lock);
    return st;
}

/* ---- shards -------------------------------------------------------------------------------------------------------------- */

static hd_status shard_paths(const conversion *c, int64_t i, char **path, char **final_path, hd_err *err)
{
    hd_buf name = {0};
    hd_buf_printf(&name, "%s%s", c->target.shards.files[i].name, part_mark);
    hd_status st = hd_buf_check(&name, err);
    if (st == HD_OK) { st = hd_path_join(c->partial, hd_buf_text(&name), path, err); }
    if (st == HD_OK) { st = hd_path_join(c->partial, c->target.shards.files[i].name, final_path, err); }
    hd_buf_free(&name);
    return st;
}

/* A shard under its final name was durable before it was renamed. */
static hd_status shard_done(const conversion *c, int64_t i, bool *done, hd_err *err)
{
    char *path = NULL, *final_path = NULL;
    hd_io_info info = {0};
    hd_status st = shard_paths(c, i, &path, &final_path, err);
    if (st == HD_OK) { st = hd_io_lstat(final_path, &info, err); }
    *done = st == HD_OK && info.kind == HD_IO_REGULAR && info.bytes == c->target.shards.files[i].bytes;
    hd_free(path);
    hd_free(final_path);
    return st;
}

/* Bytes that an earlier attempt reserved for a file: they are free again when the file is begun anew. */
static hd_status reserved_bytes(const conversion *c, int64_t i, int64_t *bytes, hd_err *err)
{
    char *path = NULL, *final_path = NULL;
    hd_io_info info = {0};
    hd_status st = shard_paths(c, i, &path, &final_path, err);
    if (st == HD_OK) { st = hd_io_lstat(path, &info, err); }
    *bytes = st == HD_OK && info.kind == HD_IO_REGULAR && info.bytes == c->target.shards.files[i].bytes ? info.bytes : 0;
    hd_free(path);
    hd_free(final_path);
    return st;
}

static hd_status check_space(conversion *c, hd_err *err)
{
    hd_status st = HD_OK;
    uint64_t have;
    int64_t need = 0, reserved;
    bool done;
    for (int64_t i = 0; i < c->target.shards.n_file; i++) {
        int64_t bytes = c->target.shards.files[i].bytes;
        HD_TRY(shard_done(c, i, &done, err));
        c->bytes += bytes;
        if (done) {
            c->done_bytes += bytes;
        } else {
            HD_TRY(reserved_bytes(c, i, &reserved, err));
            need += bytes - reserved + DISK_UNIT;
        }
    }
    HD_TRY(hd_io_free_bytes(c->partial, &have, err));
    if ((uint64_t)need > have) {
        st = HD_FAIL(err, HD_E_IO, "%s: %" PRId64 " bytes are needed and %" PRIu64 " are free", c->to, need, have);
    }
out:
    return st;
}

static void show_progress(conversion *c)
{
    double now = hd_clock_now_s(), done = (double)hd_write_queue_written(c->queue), rate = done / (now - c->start + 1e-9);
    if (c->hooks->progress == 0 || now < c->next_line || rate <= 0) { return; }
    c->next_line = now + 0.25;
    hd_log(HD_LOG_PROGRESS, "%.2f of %.2f GB, %.2f GB/s, %.0f s left", ((double)c->done_bytes + done) / 1e9, (double)c->bytes / 1e9,
           rate / 1e9, ((double)(c->bytes - c->done_bytes) - done) / rate);
}

/* After each window. */
static hd_status tick(void *arg, hd_err *err)
{
    conversion *c = arg;
    show_progress(c);
    if (c->hooks->stop_signal == NULL || *c->hooks->stop_signal == 0) { return HD_OK; }
    hd_status st = HD_FAIL(err, HD_E_SIGNAL, "stopped; the same command goes on with the files that are complete in %s", c->partial);
    if (err != NULL) { err->signal = (int)*c->hooks->stop_signal; }
    return st;
}

static hd_status write_shards(conversion *c, hd_err *err)
{
    hd_status st = HD_OK;
    char *path = NULL, *final_path = NULL;
    bool done;
    HD_TRY(hd_write_queue_open(HD_TARGET_WINDOW, &c->queue, err));
    c->start = hd_clock_now_s();
    for (int64_t i = 0; i < c->target.shards.n_file; i++) {
        HD_TRY(shard_done(c, i, &done, err));
        if (done) { continue; }
        HD_TRY(shard_paths(c, i, &path, &final_path, err));
        HD_TRY(hd_target_write_file(&c->target, i, (hd_target_reader){&c->source, c->packer}, c->queue, path, final_path, (hd_target_hook){tick, c}, err));
        hd_free(path);
        hd_free(final_path);
        path = final_path = NULL;
    }
out:
    hd_free(path);
    hd_free(final_path);
    hd_status closed = hd_write_queue_close(c->queue, st == HD_OK ? err : NULL);
    c->queue = NULL;
    if (c->hooks->progress != 0) { hd_log(HD_LOG_PROGRESS, "%s", ""); }
    if (st == HD_OK) { st = closed; }
    return st == HD_OK ? hd_folder_verify_rest(&c->folder, err) : st;
}

/* ---- the rest of the folder ------------------------------------------------------------------------------------------------ */

static hd_status write_text(const conversion *c, const char *name, const hd_buf *text, hd_err *err)
{
    char *path = NULL;
    hd_status st = hd_path_join(c->partial, name, &path, err);
    if (st == HD_OK) { st = hd_io_write_file(path, text->data, text->n, err); }
    hd_free(path);
    return st;
}

static hd_status write_texts(conversion *c, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf text = {0};
    if (c->folder.config != NULL) {
        HD_TRY(hd_convert_config(c->folder.config, c->folder.config_n, "config.json", &c->options, &text, err));
        HD_TRY(write_text(c, "config.json", &text, err));
        hd_buf_clear(&text);
    }
    if (c->target.shards.n_file > 1) {
        hd_shards_index(&c->target.shards, c->target.shards.n_file, &text);
        HD_TRY(hd_buf_check(&text, err));
        HD_TRY(write_text(c, "model.safetensors.index.json", &text, err));
    }
    HD_TRY(hd_io_list(c->folder.path, &c->side, err));
    for (size_t i = 0; i < c->side.n; i++) {
        if (is_side_file(c->side.name[i])) { HD_TRY(copy_side_file(c, c->side.name[i], err)); }
    }
out:
    hd_buf_free(&text);
    return st;
}

/* The lock is the last to go: a folder that holds it is ours to finish or to clear. */
static hd_status publish(conversion *c, hd_err *err)
{
    hd_status st;
    char *journal = NULL, *lock = NULL, *parent = NULL;
    HD_TRY(hd_path_join(c->partial, journal_name, &journal, err));
    HD_TRY(hd_path_join(c->to, lock_name, &lock, err));
    HD_TRY(hd_path_dir(c->to, &parent, err));
    HD_TRY(hd_io_sync_dir(c->partial, err));
    HD_TRY(hd_io_unlink(journal, err));
    HD_TRY(hd_io_sync_dir(c->partial, err));
    HD_TRY(hd_io_rename(c->partial, c->to, err));
    HD_TRY(hd_io_sync_dir(parent, err));
    st = hd_io_unlink(lock, err);
out:
    hd_free(journal);
    hd_free(lock);
    hd_free(parent);
    return st;
}

/* ---- the command --------------------------------------------------------------------------------------------------------------- */

static void report(const conversion *c, int64_t dropped)
{
    double seconds = hd_clock_now_s() - c->start, written = (double)(c->bytes - c->done_bytes);
    hd_log(HD_LOG_RESULT, "%s: %" PRId64 " tensors, %.3f GB in %" PRId64 " file%s; %.1f s, %.2f GB/s", c->to, c->target.n_tensor,
           (double)c->bytes / 1e9, c->target.shards.n_file, c->target.shards.n_file == 1 ? "" : "s", seconds,
           seconds > 0 ? written / seconds / 1e9 : 0.0);
    if (dropped > 0) { hd_log(HD_LOG_RESULT, "%" PRId64 " tensors of MTP layers were left out", dropped); }
}

static hd_status convert_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    conversion *c = arg;
    int64_t n_layer, dropped = 0;
    HD_TRY(hd_folder_open(path, step, &c->folder, err));
    c->options.from_packed = c->folder.packed_bits != 0;
    HD_TRY(check_model(c, &n_layer, err));
    HD_TRY(hd_convert_plan(&c->folder, &c->options, n_layer, &c->target, &dropped, err));
    HD_TRY(make_fingerprint(c, err));
    HD_TRY(hd_source_open(&c->folder, &c->source, err));
    if (c->options.bits != 0) { HD_TRY(hd_packer_open(&c->folder, hd_default_threads(), &c->packer, err)); }
    HD_TRY(open_partial(c, err));
    HD_TRY(check_space(c, err));
    HD_TRY(write_shards(c, err));
    HD_TRY(write_texts(c, err));
    HD_TRY(publish(c, err));
    report(c, dropped);
out:
    hd_io_abandon(&c->lock);
    hd_io_names_free(&c->side);
    hd_packer_close(c->packer);
    hd_source_close(&c->source);
    hd_target_free(&c->target);
    hd_folder_close(&c->folder);
    return st;
}

hd_status hd_cmd_convert(const hd_config *config, const char *from, const char *to, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st;
    conversion c = {.hooks = hooks};
    hd_buf target = {0}, partial = {0};
    size_t n = strlen(to);
    if (n == 0) { return HD_FAIL(err, HD_E_CONFIG, "the folder to write has no name"); }
    while (n > 1 && to[n - 1] == '/') { n--; }
    hd_buf_append(&target, to, n);
    hd_buf_append(&partial, to, n);
    hd_buf_append_text(&partial, ".partial");
    HD_TRY(hd_buf_check(&target, err));
    HD_TRY(hd_buf_check(&partial, err));
    c.to = target.data;
    c.partial = partial.data;
    read_options(config, &c.options);
    HD_TRY(check_target(&c, err));
    st = hd_scan_path(from, convert_from, &c, err);
out:
    hd_buf_free(&target);
    hd_buf_free(&partial);
    return st;
}
