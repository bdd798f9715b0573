/* The only parallel loop of hadal.  OpenMP in release builds, POSIX threads in the TSan build (libgomp is opaque to it).
 *
 * body(arg, i, thread) is called once for each i in [0, n), in any order and on any of n_threads threads;
 * thread is in [0, n_threads).  Items must write disjoint outputs, so that no result depends on n_threads.
 * A loop inside a body runs serially (no nested teams). */
#ifndef HD_BASE_PARALLEL_FOR_H
#define HD_BASE_PARALLEL_FOR_H

#include <stdint.h>

#include "hadal/status.h"

typedef void (*hd_loop_body)(void *arg, int64_t i, int thread);

void hd_parallel_for(int n_threads, int64_t n, hd_loop_body body, void *arg);

/* The same for bodies that can fail: the error of the smallest i that failed comes back; items behind a failed one may be left out. */
typedef hd_status (*hd_loop_step)(void *arg, int64_t i, int thread, hd_err *err);
hd_status hd_parallel_try(int n_threads, int64_t n, hd_loop_step step, void *arg, hd_err *err) HD_CHECK_RESULT;

/* Threads this process may use: the affinity mask, or HADAL_NUM_THREADS / OMP_NUM_THREADS when set. */
int hd_default_threads(void);

#endif
