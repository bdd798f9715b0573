/* Ranks as threads of one process.  Every collective is the same three moves: publish a pointer, meet, work on one's own
 * share of the elements for all ranks, meet again.  A meeting ends early with HD_E_PEER when a rank has aborted. */
#include <pthread.h>

#include "base/alloc.h"
#include "parallel/comm.h"

typedef struct group {
    int size;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_waiting;
    unsigned long generation; /* of the meeting now forming */
    int aborted_rank;         /* -1: none */
    hd_err why;
    void **published; /* one pointer per rank, valid between two meetings */
} group;

typedef struct rank_run {
    hd_comm comm;
    hd_rank_body body;
    void *arg;
    hd_status st;
    hd_err err;
    pthread_t thread;
} rank_run;

static hd_status meet(hd_comm *comm, hd_err *err)
{
    group *g = comm->group;
    hd_status st = HD_OK;
    pthread_mutex_lock(&g->lock);
    unsigned long mine = g->generation;
    if (++g->n_waiting == g->size) {
        g->n_waiting = 0;
        g->generation++;
        pthread_cond_broadcast(&g->changed);
    }
    while (g->generation == mine && g->aborted_rank < 0) { pthread_cond_wait(&g->changed, &g->lock); }
    if (g->generation == mine) {
        st = HD_FAIL(err, HD_E_PEER, "rank %d stopped: %s", g->aborted_rank, g->why.msg);
    }
    pthread_mutex_unlock(&g->lock);
    return st;
}

static hd_status publish(hd_comm *comm, void *pointer, hd_err *err)
{
    group *g = comm->group;
    g->published[comm->rank] = pointer;
    return meet(comm, err);
}

/* The tree over ranks [lo, lo + n): the left part is the largest power of two below n. */
static float tree_f32(void *const *x, int lo, int n, int64_t i)
{
    if (n == 1) { return ((const float *)x[lo])[i]; }
    int left = 1;
    while (2 * left < n) { left *= 2; }
    return tree_f32(x, lo, left, i) + tree_f32(x, lo + left, n - left, i);
}

static double tree_f64(void *const *x, int lo, int n, int64_t i)
{
    if (n == 1) { return ((const double *)x[lo])[i]; }
    int left = 1;
    while (2 * left < n) { left *= 2; }
    return tree_f64(x, lo, left, i) + tree_f64(x, lo + left, n - left, i);
}

static void reduce_share(const group *g, int rank, int64_t count, hd_dtype dtype)
{
    int64_t begin = count * rank / g->size, end = count * (rank + 1) / g->size;
    for (int64_t i = begin; i < end; i++) {
        if (dtype == HD_DTYPE_F32) {
            float sum = tree_f32(g->published, 0, g->size, i);
            for (int r = 0; r < g->size; r++) { ((float *)g->published[r])[i] = sum; }
        } else {
            double sum = tree_f64(g->published, 0, g->size, i);
            for (int r = 0; r < g->size; r++) { ((double *)g->published[r])[i] = sum; }
        }
    }
}

static hd_status threads_all_reduce_sum(hd_comm *comm, hd_exec *ex, hd_tensor *t, hd_err *err)
{
    if ((t->dtype != HD_DTYPE_F32 && t->dtype != HD_DTYPE_F64) || !hd_tensor_is_contiguous(t)) {
        char text[96];
        return HD_FAIL(err, HD_E_INVALID, "all-reduce: found %s, want a contiguous f32 or f64 tensor",
                       hd_tensor_describe(t, text));
    }
    if (ex->dry) { return HD_OK; }
    size_t mark;
    hd_exec_enter(ex, &mark);
    hd_status st = publish(comm, t->data, err);
    if (st == HD_OK) {
        reduce_share(comm->group, comm->rank, hd_tensor_count(t), t->dtype);
        st = meet(comm, err);
    }
    hd_exec_leave(ex, mark);
    return st;
}

static hd_status threads_all_reduce_sum_host(hd_comm *comm, double *values, int64_t n, hd_err *err)
{
    hd_status st = publish(comm, values, err);
    if (st != HD_OK) { return st; }
    reduce_share(comm->group, comm->rank, n, HD_DTYPE_F64);
    return meet(comm, err);
}

static hd_status threads_all_reduce_or(hd_comm *comm, unsigned *word, hd_err *err)
{
    const group *g = comm->group;
    hd_status st = publish(comm, word, err);
    if (st != HD_OK) { return st; }
    unsigned all = 0;
    for (int r = 0; r < g->size; r++) { all |= *(const unsigned *)g->published[r]; }
    st = meet(comm, err); /* nobody writes before everybody has read */
    *word = all;
    return st;
}

static hd_status threads_barrier(hd_comm *comm, hd_err *err) { return meet(comm, err); }

static void threads_abort(hd_comm *comm, const hd_err *why)
{
    group *g = comm->group;
    pthread_mutex_lock(&g->lock);
    if (g->aborted_rank < 0) {
        g->aborted_rank = comm->rank;
        g->why = *why;
        pthread_cond_broadcast(&g->changed);
    }
    pthread_mutex_unlock(&g->lock);
}

static const hd_comm_ops threads_ops = {
    .name = "threads",
    .all_reduce_sum = threads_all_reduce_sum,
    .all_reduce_sum_host = threads_all_reduce_sum_host,
    .all_reduce_or = threads_all_reduce_or,
    .barrier = threads_barrier,
    .abort = threads_abort,
};

static void *run_rank(void *arg)
{
    rank_run *run = arg;
    run->st = run->body(run->arg, &run->comm, &run->err);
    if (run->st != HD_OK) { hd_comm_abort(&run->comm, &run->err); }
    return NULL;
}

static hd_status first_failure(const rank_run *runs, int n, hd_err *err)
{
    const rank_run *found = NULL;
    for (int r = 0; r < n; r++) {
        if (runs[r].st == HD_OK) { continue; }
        if (found == NULL || (found->st == HD_E_PEER && runs[r].st != HD_E_PEER)) { found = &runs[r]; }
    }
    if (found == NULL) { return HD_OK; }
    if (err != NULL) { *err = found->err; }
    return found->st;
}

hd_status hd_ranks_run_threads(int n, hd_rank_body body, void *arg, hd_err *err)
{
    hd_status st = HD_OK;
    group g = {.size = n, .aborted_rank = -1};
    rank_run *runs = NULL;
    int started = 0;
    pthread_mutex_init(&g.lock, NULL);
    pthread_cond_init(&g.changed, NULL);
    HD_TRY(hd_alloc((size_t)n, sizeof *runs, "rank table", (void **)&runs, err));
    HD_TRY(hd_alloc((size_t)n, sizeof *g.published, "rank pointers", (void **)&g.published, err));
    for (; started < n; started++) {
        rank_run *run = &runs[started];
        *run = (rank_run){.comm = {.ops = &threads_ops, .rank = started, .size = n, .group = &g}, .body = body, .arg = arg};
        if (pthread_create(&run->thread, NULL, run_rank, run) != 0) {
            st = HD_FAIL(err, HD_E_NOMEM, "cannot start a thread for rank %d of %d", started, n);
            threads_abort(&run->comm, err);
            break;
        }
    }
    for (int r = 0; r < started; r++) { pthread_join(runs[r].thread, NULL); }
    if (st == HD_OK) { st = first_failure(runs, n, err); }
out:
    hd_free(g.published);
    hd_free(runs);
    pthread_cond_destroy(&g.changed);
    pthread_mutex_destroy(&g.lock);
    return st;
}
