/* See spool.h. */
#include "data/spool.h"

#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/path.h"

hd_status hd_spool_open(hd_file **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *path = NULL;
    char name[64];
    const char *dir = hd_env(HD_ENV_TMPDIR);
    snprintf(name, sizeof name, "hadal-text-%ld-%p", (long)getpid(), (void *)out);
    HD_TRY(hd_path_join(dir != NULL ? dir : "/var/tmp", name, &path, err));
    st = hd_io_create(path, HD_IO_EXCLUSIVE, out, err);
    if (st == HD_E_NOMEM) { /* the file is there and its handle is not */
        hd_status left = hd_io_unlink(path, NULL);
        (void)left;
    } else if (st == HD_OK) {
        st = hd_io_unlink(path, err);
        if (st != HD_OK) { hd_io_abandon(out); }
    }
out:
    hd_free(path);
    return st;
}
