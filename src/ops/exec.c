/* The executor: the table of kernels, scratch, the guard, and the two ways between host and tensor memory.  See exec.h. */
#include "ops/exec.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/env.h"
#include "ops/force.h"
#include "ops/ops.h"

/* ---- dispatch tables ---------------------------------------------------------------------------------------------
 * One per value of HADAL_FORCE ever seen; a table never changes once an executor points at it. */

enum { MAX_TABLES = 16, FORCE_TEXT = 512, NAME_TEXT = 32 };

typedef struct table {
    char force[FORCE_TEXT], name[NAME_TEXT];
    hd_ops ops;
} table;

static struct {
    pthread_mutex_t lock;
    int n;
    table tables[MAX_TABLES];
} dispatch = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ref, overridden by what this CPU has, overridden by HADAL_FORCE. */
static hd_status build_table(table *t, const char *force, hd_err *err)
{
    char isa_wanted[16];
    hd_ops_install_ref(&t->ops);
    const char *isa = hd_ops_install_cpu(&t->ops);
    (void)snprintf(t->name, sizeof t->name, "cpu:%s", isa);
    t->ops.name = t->name;
    hd_force_isa(force, isa_wanted);
    if (isa_wanted[0] != '\0' && strcmp(isa_wanted, isa) != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "HADAL_FORCE: isa=%s, and this machine gives %s", isa_wanted, isa);
    }
    (void)snprintf(t->force, sizeof t->force, "%s", force);
    return hd_force_apply(&t->ops, force, err);
}

static hd_status find_table(const char *force, const hd_ops **ops, hd_err *err)
{
    for (int i = 0; i < dispatch.n; i++) {
        if (strcmp(dispatch.tables[i].force, force) == 0) {
            *ops = &dispatch.tables[i].ops;
            return HD_OK;
        }
    }
    if (dispatch.n == MAX_TABLES || strlen(force) >= FORCE_TEXT) {
        return HD_FAIL(err, HD_E_CONFIG, "HADAL_FORCE: value number %d of %zu characters, want at most %d of %d",
                       dispatch.n + 1, strlen(force), MAX_TABLES, FORCE_TEXT - 1);
    }
    table *fresh = &dispatch.tables[dispatch.n];
    hd_status st = build_table(fresh, force, err);
    if (st != HD_OK) { return st; }
    dispatch.n++;
    *ops = &fresh->ops;
    return HD_OK;
}

hd_status hd_exec_init(hd_exec *ex, hd_arena *scratch, int n_threads, bool dry, hd_err *err)
{
    const char *force = hd_env(HD_ENV_FORCE);
    const hd_ops *ops = NULL;
    if (n_threads < 1) { return HD_FAIL(err, HD_E_INVALID, "executor: %d threads, want at least 1", n_threads); }
    pthread_mutex_lock(&dispatch.lock);
    hd_status st = find_table(force != NULL ? force : "", &ops, err);
    pthread_mutex_unlock(&dispatch.lock);
    if (st != HD_OK) { return st; }
    *ex = (hd_exec){.ops = ops, .scratch = scratch, .n_threads = n_threads, .dry = dry};
    return HD_OK;
}

/* ---- the guard ---------------------------------------------------------------------------------------------------- */

static void guard_set(hd_guard *guard, bool closed)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int protection = closed ? PROT_NONE : PROT_READ | PROT_WRITE;
    for (int i = 0; i < guard->n_arenas; i++) {
        const hd_arena *arena = guard->arenas[i];
        if (arena->base != NULL) {
            (void)mprotect(arena->base, (arena->capacity + page - 1) / page * page, protection);
        }
    }
    guard->closed = closed;
}

void hd_exec_enter(hd_exec *ex, size_t *mark)
{
    if (ex->guard != NULL && ex->guard->closed) { guard_set(ex->guard, false); }
    *mark = ex->scratch != NULL ? hd_arena_mark(ex->scratch) : 0;
}

void hd_exec_leave(hd_exec *ex, size_t mark)
{
    if (ex->scratch != NULL) { hd_arena_release(ex->scratch, mark); }
    if (ex->guard != NULL) { guard_set(ex->guard, true); }
}

/* ---- host memory --------------------------------------------------------------------------------------------------- */

static hd_status check_transfer(const hd_tensor *t, const void *host, const char *what, bool dry, size_t *bytes,
                                hd_err *err)
{
    char text[96];
    *bytes = (size_t)hd_tensor_count(t) * hd_dtype_bytes(t->dtype);
    if (!hd_tensor_is_contiguous(t)) {
        return HD_FAIL(err, HD_E_INVALID, "%s: found strides in %s, want a contiguous tensor", what,
                       hd_tensor_describe(t, text));
    }
    if (!dry && *bytes > 0 && (host == NULL || t->data == NULL)) {
        return HD_FAIL(err, HD_E_INVALID, "%s: %s without memory on the %s", what, hd_tensor_describe(t, text),
                       host == NULL ? "host" : "device");
    }
    return HD_OK;
}

hd_status hd_exec_upload(hd_exec *ex, const void *host, hd_tensor *t, hd_err *err)
{
    size_t mark, bytes;
    hd_status st = check_transfer(t, host, "upload", ex->dry, &bytes, err);
    if (st != HD_OK) { return st; }
    ex->n_uploads++;
    if (ex->dry || bytes == 0) { return HD_OK; }
    hd_exec_enter(ex, &mark);
    memcpy(t->data, host, bytes);
    hd_exec_leave(ex, mark);
    return HD_OK;
}

hd_status hd_exec_read(hd_exec *ex, const hd_tensor *t, void *host, hd_err *err)
{
    size_t mark, bytes;
    hd_status st = check_transfer(t, host, "read", ex->dry, &bytes, err);
    if (st != HD_OK) { return st; }
    ex->n_reads++;
    if (ex->dry || bytes == 0) { return HD_OK; }
    hd_exec_enter(ex, &mark);
    memcpy(host, t->data, bytes);
    hd_exec_leave(ex, mark);
    return HD_OK;
}
