/* Ranks and collectives, one interface over several transports.  Here: `self` (one rank) and `threads` (ranks in one
 * process, for tests and small data-parallel runs).  A later transport fills the same table.
 *
 * Sums are pairwise trees over ranks in rank order: ((0 + 1) + (2 + 3)) + ..., the upper part of the tree that
 * gradient_slices sums leaves with, so that every rank count that divides it gives identical bits.
 * A rank that fails calls hd_comm_abort; peers waiting in a collective then return HD_E_PEER, naming it. */
#ifndef HD_PARALLEL_COMM_H
#define HD_PARALLEL_COMM_H

#include "ops/exec.h"

typedef struct hd_comm hd_comm;

typedef struct hd_comm_ops {
    const char *name;
    /* Sum over ranks, in place, the same bits on every rank.  t: f32 or f64, contiguous, the same shape everywhere. */
    hd_status (*all_reduce_sum)(hd_comm *comm, hd_exec *ex, hd_tensor *t, hd_err *err);
    /* The same for host numbers. */
    hd_status (*all_reduce_sum_host)(hd_comm *comm, double *values, int64_t n, hd_err *err);
    /* Bitwise or of one host word: signals and stop requests become common knowledge here. */
    hd_status (*all_reduce_or)(hd_comm *comm, unsigned *word, hd_err *err);
    hd_status (*barrier)(hd_comm *comm, hd_err *err);
    void (*abort)(hd_comm *comm, const hd_err *why);
} hd_comm_ops;

struct hd_comm {
    const hd_comm_ops *ops;
    int rank, size;
    void *group; /* the transport's own */
};

/* A group of one. */
hd_comm hd_comm_self(void);

/* Runs body on n ranks, each on a thread of its own, and waits for all of them.  Returns the first failure, by rank order,
 * that is not an echo of another (HD_E_PEER); its record is copied to err. */
typedef hd_status (*hd_rank_body)(void *arg, hd_comm *comm, hd_err *err);
hd_status hd_ranks_run_threads(int n, hd_rank_body body, void *arg, hd_err *err) HD_CHECK_RESULT;

static inline hd_status hd_comm_all_reduce_sum(hd_comm *comm, hd_exec *ex, hd_tensor *t, hd_err *err)
{
    return comm->ops->all_reduce_sum(comm, ex, t, err);
}

static inline hd_status hd_comm_all_reduce_sum_host(hd_comm *comm, double *values, int64_t n, hd_err *err)
{
    return comm->ops->all_reduce_sum_host(comm, values, n, err);
}

static inline hd_status hd_comm_all_reduce_or(hd_comm *comm, unsigned *word, hd_err *err)
{
    return comm->ops->all_reduce_or(comm, word, err);
}

static inline hd_status hd_comm_barrier(hd_comm *comm, hd_err *err) { return comm->ops->barrier(comm, err); }

static inline void hd_comm_abort(hd_comm *comm, const hd_err *why) { comm->ops->abort(comm, why); }

#endif
