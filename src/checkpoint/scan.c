/* Numerically named directories, newest first.  See scan.h. */
#include "checkpoint/scan.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hub.h"
#include "base/io.h"
#include "base/path.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"
#include "hadal/log.h"

/* Insertion sort: a run keeps few checkpoints, and the names come sorted as text. */
static void insert_step(int64_t *steps, int64_t n, int64_t step)
{
    while (n > 0 && steps[n - 1] > step) {
        steps[n] = steps[n - 1];
        n--;
    }
    steps[n] = step;
}

hd_status hd_scan_steps(const char *dir, int64_t **steps, int64_t *n, hd_err *err)
{
    hd_status st;
    hd_io_names names = {0};
    void *memory = NULL;
    int64_t step;
    *steps = NULL;
    *n = 0;
    HD_TRY(hd_io_list(dir, &names, err));
    HD_TRY(hd_alloc(names.n + 1, sizeof **steps, "steps of checkpoints", &memory, err));
    *steps = memory;
    for (size_t i = 0; i < names.n; i++) {
        if (hd_step_name_parse(names.name[i], &step)) { insert_step(*steps, (*n)++, step); }
    }
out:
    hd_io_names_free(&names);
    return st;
}

static bool is_damage(hd_status st) { return st == HD_E_CORRUPT || st == HD_E_IO; }

static hd_status try_step(const char *dir, int64_t step, hd_scan_body body, void *arg, hd_err *err)
{
    char name[HD_STEP_NAME_MAX];
    char *path = NULL;
    hd_step_name(step, name);
    hd_status st = hd_path_join(dir, name, &path, err);
    if (st == HD_OK) { st = body(arg, path, step, err); }
    hd_free(path);
    return st;
}

hd_status hd_scan_newest(const char *dir, hd_scan_body body, void *arg, bool *found, hd_err *err)
{
    int64_t *steps = NULL, n;
    hd_err why = {0}, first = {0};
    *found = false;
    hd_status st = hd_scan_steps(dir, &steps, &n, err);
    for (int64_t i = n - 1; st == HD_OK && i >= 0; i--) {
        hd_status tried = try_step(dir, steps[i], body, arg, &why);
        if (tried == HD_OK) {
            *found = true;
            if (i < n - 1) { hd_log(HD_LOG_WARN, "using the checkpoint of step %" PRId64 " instead", steps[i]); }
            break;
        }
        if (!is_damage(tried)) {
            if (err != NULL) { *err = why; }
            st = tried;
            break;
        }
        hd_log(HD_LOG_WARN, "the checkpoint of step %" PRId64 " is damaged and passed over: %s", steps[i], why.msg);
        if (i == n - 1) { first = why; }
    }
    if (st == HD_OK && !*found && n > 0) {
        st = HD_FAIL(err, HD_E_CORRUPT, "all %" PRId64 " checkpoints in %s are damaged; the newest: %s", n, dir, first.msg);
    }
    hd_free(steps);
    return st;
}

static hd_status has_file(const char *path, const char *name, hd_io_kind *kind, hd_err *err)
{
    hd_io_info info = {0};
    char *file = NULL;
    hd_status st = hd_path_join(path, name, &file, err);
    if (st == HD_OK) { st = hd_io_stat(file, &info, err); }
    *kind = info.kind;
    hd_free(file);
    return st;
}

/* A path that names something. */
static hd_status scan_resolved(const char *path, hd_scan_body body, void *arg, hd_err *err)
{
    static const char *const signs[] = {HD_MANIFEST_NAME, "config.json", "model.safetensors", "model.safetensors.index.json"};
    hd_status st;
    hd_io_kind kind;
    hd_io_info info;
    char *dir = NULL;
    bool found = false;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') { n--; }
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind != HD_IO_DIRECTORY) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: no directory of this name", path);
        goto out;
    }
    bool orbax = n >= 6 && strncmp(path + n - 6, "/items", 6) == 0;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        HD_TRY(has_file(path, signs[i], &kind, err));
        if (kind != HD_IO_MISSING || orbax) {
            st = body(arg, path, -1, err);
            goto out;
        }
    }
    HD_TRY(has_file(path, "checkpoints", &kind, err));
    HD_TRY(hd_path_join(path, kind == HD_IO_DIRECTORY ? "checkpoints" : ".", &dir, err));
    HD_TRY(hd_scan_newest(dir, body, arg, &found, err));
    if (!found) { st = HD_FAIL(err, HD_E_CONFIG, "%s: neither a checkpoint, nor a model folder, nor a directory of checkpoints", path); }
out:
    hd_free(dir);
    return st;
}

hd_status hd_scan_path(const char *name, hd_scan_body body, void *arg, hd_err *err)
{
    char *path = NULL;
    hd_status st = hd_hub_resolve(name, &path, err);
    if (st == HD_OK) { st = scan_resolved(path, body, arg, err); }
    hd_free(path);
    return st;
}
