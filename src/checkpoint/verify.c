/* `hadal verify FOLDER [DIGESTS]`: one digest over all values of a model, and the comparison with a file of digests. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/parallel_for.h"
#include "checkpoint/digest.h"
#include "checkpoint/scan.h"
#include "config/config.h"
#include "hadal/commands.h"
#include "hadal/log.h"

enum { MAX_DIGESTS_FILE = 1 << 30, MAX_REPORTED = 20 };

typedef struct verification {
    const hd_run_hooks *hooks;
    const char *out;             /* where the digests are written; NULL */
    const hd_digests *wanted;    /* NULL: nothing to compare with */
    const char *wanted_name;
    double start, next_line;
    int64_t n_different;
} verification;

static hd_status show_progress(void *arg, int64_t done, int64_t total, hd_err *err)
{
    verification *v = arg;
    double now = hd_clock_now_s(), rate = (double)done / (now - v->start + 1e-9);
    if (v->hooks->progress != 0 && now >= v->next_line) {
        v->next_line = now + 0.25;
        hd_log(HD_LOG_PROGRESS, "%.2f of %.2f GB, %.2f GB/s, %.0f s left", (double)done / 1e9, (double)total / 1e9, rate / 1e9,
               (double)(total - done) / rate);
    }
    if (v->hooks->stop_signal == NULL || *v->hooks->stop_signal == 0) { return HD_OK; }
    hd_status st = HD_FAIL(err, HD_E_SIGNAL, "stopped");
    if (err != NULL) { err->signal = (int)*v->hooks->stop_signal; }
    return st;
}

static void difference(verification *v, const char *name, const char *what)
{
    if (v->n_different++ < MAX_REPORTED) { hd_log(HD_LOG_RESULT, "%s: %s", name, what); }
}

/* The block whose mark differs, when form and length agree. */
static void compare_rows(verification *v, const hd_digest *want, const hd_digest *found)
{
    char what[200], a[HD_ST_TEXT], b[HD_ST_TEXT];
    if (memcmp(want->sha256, found->sha256, HD_SHA256_BYTES) == 0) { return; }
    hd_st_describe(want->dtype, want->n_dim, want->shape, a);
    hd_st_describe(found->dtype, found->n_dim, found->shape, b);
    if (strcmp(a, b) != 0 || strlen(want->marks) != strlen(found->marks)) {
        (void)snprintf(what, sizeof what, "is %.80s, want %.80s", b, a);
    } else {
        size_t n = strlen(want->marks) / HD_DIGEST_MARK, n_bad = 0, first = 0;
        for (size_t i = n; i-- > 0;) {
            if (memcmp(want->marks + i * HD_DIGEST_MARK, found->marks + i * HD_DIGEST_MARK, HD_DIGEST_MARK) == 0) { continue; }
            first = i;
            n_bad++;
        }
        (void)snprintf(what, sizeof what, "%zu of %zu blocks differ, the first is block %zu (bytes %" PRId64 " to %" PRId64 " of the tensor)", n_bad, n,
                       first, (int64_t)first * HD_DIGEST_BLOCK, (int64_t)(first + 1) * HD_DIGEST_BLOCK - 1);
    }
    difference(v, found->name, what);
}

static hd_status compare(verification *v, const hd_digests *found, hd_err *err)
{
    int64_t i = 0, k = 0;
    while (i < v->wanted->n || k < found->n) {
        int order = i == v->wanted->n ? 1 : k == found->n ? -1 : strcmp(v->wanted->rows[i].name, found->rows[k].name);
        if (order < 0) {
            difference(v, v->wanted->rows[i++].name, "is missing");
        } else if (order > 0) {
            difference(v, found->rows[k++].name, "is not in the digests");
        } else {
            compare_rows(v, &v->wanted->rows[i++], &found->rows[k++]);
        }
    }
    if (v->n_different > MAX_REPORTED) { hd_log(HD_LOG_RESULT, "... and %" PRId64 " more", v->n_different - MAX_REPORTED); }
    if (v->n_different > 0) {
        return HD_FAIL(err, HD_E_VERIFY, "%" PRId64 " tensors differ from %s", v->n_different, v->wanted_name);
    }
    hd_log(HD_LOG_RESULT, "all %" PRId64 " tensors are those of %s", found->n, v->wanted_name);
    return HD_OK;
}

static hd_status write_digests(const verification *v, const hd_digests *d, hd_err *err)
{
    hd_buf text = {0};
    hd_digests_write(d, &text);
    hd_status st = hd_buf_check(&text, err);
    if (st == HD_OK) { st = hd_io_write_file(v->out, text.data, text.n, err); }
    hd_buf_free(&text);
    return st;
}

static hd_status verify_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    verification *v = arg;
    hd_folder f = {0};
    hd_digests found = {0};
    HD_TRY(hd_folder_open(path, step, &f, err));
    v->start = hd_clock_now_s();
    HD_TRY(hd_digests_make(&f, hd_default_threads(), (hd_digest_hook){show_progress, v}, &found, err));
    if (v->hooks->progress != 0) { hd_log(HD_LOG_PROGRESS, "%s", ""); }
    double seconds = hd_clock_now_s() - v->start;
    hd_log(HD_LOG_RESULT, "%s  %s", found.model, path);
    hd_log(HD_LOG_INFO, "%" PRId64 " tensors, %.3f GB, %.1f s, %.2f GB/s%s", found.n, (double)found.bytes / 1e9, seconds,
           (double)found.bytes / (seconds + 1e-9) / 1e9, f.is_checkpoint ? "; every block of every file has the checksum of the manifest" : "");
    if (v->out != NULL) { HD_TRY(write_digests(v, &found, err)); }
    if (v->wanted != NULL) { HD_TRY(compare(v, &found, err)); }
out:
    hd_digests_free(&found);
    hd_folder_close(&f);
    return st;
}

hd_status hd_cmd_verify(const hd_config *config, const char *path, const char *digests, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st = HD_OK;
    char *text = NULL;
    size_t n;
    hd_digests wanted = {0};
    verification v = {.hooks = hooks, .out = hd_config_str(config, HD_KEY_digests_out), .wanted_name = digests};
    if (digests != NULL) {
        HD_TRY(hd_io_read_file(digests, MAX_DIGESTS_FILE, &text, &n, err));
        HD_TRY(hd_digests_parse(text, n, digests, &wanted, err));
        v.wanted = &wanted;
    }
    st = hd_scan_path(path, verify_from, &v, err);
out:
    hd_free(text);
    hd_digests_free(&wanted);
    return st;
}
