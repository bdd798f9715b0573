/* The hub's cache: models--<org>--<model>/refs/main holds a revision, snapshots/<revision> the folder.  See hub.h.
 * Source: huggingface_hub, "Understand caching". */
#include "base/hub.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/env.h"
#include "base/io.h"
#include "base/path.h"

enum { MAX_REVISION = 200 };

static bool is_hub_name(const char *name)
{
    const char *slash = strchr(name, '/');
    size_t n = strlen(name);
    return slash != NULL && slash != name && slash[1] != '\0' && strchr(slash + 1, '/') == NULL && name[0] != '.' && slash[1] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") == n && n < 200;
}

/* <hub's folder>/hub/models--org--model */
static hd_status model_dir(const char *name, char **out, hd_err *err)
{
    hd_buf text = {0};
    const char *hub = hd_env(HD_ENV_HF_HOME), *home = hd_env(HD_ENV_HOME);
    int org = (int)strcspn(name, "/");
    if (hub != NULL) {
        hd_buf_append_text(&text, hub);
    } else {
        hd_buf_printf(&text, "%s/.cache/huggingface", home != NULL ? home : "");
    }
    hd_buf_printf(&text, "/hub/models--%.*s--%s", org, name, name + org + 1);
    hd_status st = hd_buf_check(&text, err);
    *out = st == HD_OK ? hd_buf_take(&text) : NULL;
    hd_buf_free(&text);
    return st;
}

/* The revision that refs/main names, without white space; NULL when there is none. */
static hd_status main_revision(const char *dir, char **revision, hd_err *err)
{
    hd_status st;
    char *path = NULL;
    size_t n;
    hd_io_info info;
    *revision = NULL;
    HD_TRY(hd_path_join(dir, "refs/main", &path, err));
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind != HD_IO_REGULAR) { goto out; }
    HD_TRY(hd_io_read_file(path, MAX_REVISION, revision, &n, err));
    (*revision)[strcspn(*revision, " \r\n\t")] = '\0';
out:
    hd_free(path);
    return st;
}

/* The only entry of snapshots/; NULL when there are none or several. */
static hd_status only_snapshot(const char *snapshots, char **revision, hd_err *err)
{
    hd_status st;
    hd_io_names names = {0};
    hd_io_info info;
    *revision = NULL;
    HD_TRY(hd_io_stat(snapshots, &info, err));
    if (info.kind != HD_IO_DIRECTORY) { goto out; }
    HD_TRY(hd_io_list(snapshots, &names, err));
    if (names.n == 1) { st = hd_strdup(names.name[0], revision, err); }
out:
    hd_io_names_free(&names);
    return st;
}

hd_status hd_hub_resolve(const char *name, char **path, hd_err *err)
{
    hd_status st;
    hd_io_info info;
    char *dir = NULL, *snapshots = NULL, *revision = NULL;
    *path = NULL;
    HD_TRY(hd_io_stat(name, &info, err));
    if (info.kind != HD_IO_MISSING || !is_hub_name(name)) {
        st = hd_strdup(name, path, err);
        goto out;
    }
    HD_TRY(model_dir(name, &dir, err));
    HD_TRY(hd_path_join(dir, "snapshots", &snapshots, err));
    HD_TRY(main_revision(dir, &revision, err));
    if (revision == NULL) { HD_TRY(only_snapshot(snapshots, &revision, err)); }
    if (revision == NULL || !hd_path_is_plain_name(revision, strlen(revision))) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: no folder of this name, and no snapshot of it in the hub's cache, %s", name, dir);
        goto out;
    }
    HD_TRY(hd_path_join(snapshots, revision, path, err));
    HD_TRY(hd_io_stat(*path, &info, err));
    if (info.kind != HD_IO_DIRECTORY) { st = HD_FAIL(err, HD_E_CONFIG, "%s: the hub's cache names %s, which is not there", name, *path); }
out:
    if (st != HD_OK) {
        hd_free(*path);
        *path = NULL;
    }
    hd_free(dir);
    hd_free(snapshots);
    hd_free(revision);
    return st;
}
