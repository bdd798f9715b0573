/* The executor: which backend runs an op, with which scratch memory and threads, on one rank.
 *
 * Every op is called as  hd_<op>_fwd(ex, inputs, scalars, outputs, err):
 *   1. the public function in ops/<op>.c checks shapes, dtypes and aliasing and touches nothing on error;
 *   2. it opens the guard (if any), marks the scratch arena and calls the backend's slot in ex->ops;
 *   3. the backend takes its scratch with hd_arena_alloc(ex->scratch), returns HD_OK right there when ex->dry is set
 *      (tensors then have no memory), and otherwise computes;
 *   4. the public function releases scratch and closes the guard.
 * Tensor memory is looked at inside step 3 only.  The host reaches it through hd_exec_upload and hd_exec_read, which
 * are counted: a training step makes exactly one read, its metrics. */
#ifndef HD_OPS_EXEC_H
#define HD_OPS_EXEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "hadal/status.h"
#include "tensor/tensor.h"

struct hd_ops;

enum { HD_GUARD_ARENAS = 3 };

/* The guard test backend: while no op runs, the pages of its arenas cannot be read or written. */
typedef struct hd_guard {
    hd_arena *arenas[HD_GUARD_ARENAS];
    int n_arenas;
    bool closed;
} hd_guard;

typedef struct hd_exec {
    const struct hd_ops *ops;
    hd_arena *scratch;
    hd_guard *guard; /* NULL except under the guard test backend */
    int n_threads;
    bool dry;
    bool by_lanes; /* forward products add by lanes (linear in ops.h): for steps of few rows, whose weights are then read as they lie */
    int64_t n_uploads, n_reads;
} hd_exec;

/* A cpu executor with the best kernels this machine has (HADAL_FORCE overrides slots). */
hd_status hd_exec_init(hd_exec *ex, hd_arena *scratch, int n_threads, bool dry, hd_err *err) HD_CHECK_RESULT;

/* Host memory to a contiguous tensor, and back.  On a dry executor only counted. */
hd_status hd_exec_upload(hd_exec *ex, const void *host, hd_tensor *t, hd_err *err) HD_CHECK_RESULT;
hd_status hd_exec_read(hd_exec *ex, const hd_tensor *t, void *host, hd_err *err) HD_CHECK_RESULT;

/* Used by the public op functions around a backend call; *mark comes back for hd_exec_leave. */
void hd_exec_enter(hd_exec *ex, size_t *mark);
void hd_exec_leave(hd_exec *ex, size_t mark);

#endif
