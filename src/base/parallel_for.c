/* The parallel loop over OpenMP or POSIX threads.  See parallel_for.h.
 *
 * Several POSIX threads (the ranks of the threads backend) may call it at once: OpenMP gives each caller a team of its
 * own, and the POSIX version keeps all state on the caller's stack. */
#include "base/parallel_for.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/env.h"

/* Which thread of a running loop this is; -1 outside.  It makes nested loops serial. */
static _Thread_local int loop_thread = -1;

static void run_serial(int64_t n, hd_loop_body body, void *arg)
{
    int outer = loop_thread;
    loop_thread = outer < 0 ? 0 : outer;
    for (int64_t i = 0; i < n; i++) { body(arg, i, loop_thread); }
    loop_thread = outer;
}

#ifdef HD_THREADS_PTHREAD

#include <stdatomic.h>

enum { MAX_TEAM = 64 };

typedef struct team {
    atomic_int_fast64_t next;
    int64_t n;
    hd_loop_body body;
    void *arg;
} team;

typedef struct member {
    team *team;
    int thread;
} member;

static void *work(void *arg)
{
    member *self = arg;
    team *t = self->team;
    loop_thread = self->thread;
    for (int64_t i = atomic_fetch_add(&t->next, 1); i < t->n; i = atomic_fetch_add(&t->next, 1)) {
        t->body(t->arg, i, self->thread);
    }
    loop_thread = -1;
    return NULL;
}

static void run_team(int n_threads, int64_t n, hd_loop_body body, void *arg)
{
    team t = {.n = n, .body = body, .arg = arg};
    member members[MAX_TEAM];
    pthread_t handles[MAX_TEAM];
    int n_started = 1; /* member 0 is the caller */
    if (n_threads > MAX_TEAM) { n_threads = MAX_TEAM; }
    for (int k = 0; k < n_threads; k++) { members[k] = (member){.team = &t, .thread = k}; }
    while (n_started < n_threads && pthread_create(&handles[n_started], NULL, work, &members[n_started]) == 0) {
        n_started++; /* a thread that cannot be started only makes the loop slower */
    }
    work(&members[0]);
    for (int k = 1; k < n_started; k++) { pthread_join(handles[k], NULL); }
}

#else

#include <omp.h>

/* How long a thread that waits for its peers spins before it sleeps: some 30 microseconds, about what a sleep and a wake-up
 * cost.  libgomp's own default is 100 times that, which stalls everybody when the machine has other work to do: a step of
 * small ops took 500 s instead of 2 with eight busy processes on two cores.  libgomp reads the variable before main,
 * hence the section; a value that the user sets stays. */
static void bound_spinning(void) { (void)setenv("GOMP_SPINCOUNT", "2000", 0); }

__attribute__((section(".preinit_array"), used)) static void (*const before_libgomp)(void) = bound_spinning;

static void run_team(int n_threads, int64_t n, hd_loop_body body, void *arg)
{
#pragma omp parallel num_threads(n_threads)
    {
        loop_thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1) nowait /* the end of the region waits */
        for (int64_t i = 0; i < n; i++) { body(arg, i, loop_thread); }
        loop_thread = -1;
    }
}

#endif

void hd_parallel_for(int n_threads, int64_t n, hd_loop_body body, void *arg)
{
    if (n < n_threads) { n_threads = (int)n; }
    if (n_threads <= 1 || loop_thread >= 0) {
        run_serial(n, body, arg);
    } else {
        run_team(n_threads, n, body, arg);
    }
}

typedef struct attempt {
    hd_loop_step step;
    void *arg;
    pthread_mutex_t mutex; /* of the rest */
    int64_t failed;        /* the smallest i that failed; -1 */
    hd_status status;
    hd_err error;
} attempt;

static void try_step(void *arg, int64_t i, int thread)
{
    attempt *a = arg;
    hd_err error = {0};
    pthread_mutex_lock(&a->mutex);
    bool behind = a->failed >= 0 && a->failed < i;
    pthread_mutex_unlock(&a->mutex);
    if (behind) { return; }
    hd_status st = a->step(a->arg, i, thread, &error);
    if (st == HD_OK) { return; }
    pthread_mutex_lock(&a->mutex);
    if (a->failed < 0 || i < a->failed) {
        a->failed = i;
        a->status = st;
        a->error = error;
    }
    pthread_mutex_unlock(&a->mutex);
}

hd_status hd_parallel_try(int n_threads, int64_t n, hd_loop_step step, void *arg, hd_err *err)
{
    attempt a = {.step = step, .arg = arg, .mutex = PTHREAD_MUTEX_INITIALIZER, .failed = -1};
    hd_parallel_for(n_threads, n, try_step, &a);
    if (a.failed >= 0 && err != NULL) { *err = a.error; }
    return a.status;
}

/* A positive integer below 4096, or 0: OMP_NUM_THREADS may also hold a list, of which the first number counts. */
static int parse_threads(const char *text)
{
    char *end;
    if (text == NULL) { return 0; }
    long n = strtol(text, &end, 10);
    return (*end == '\0' || *end == ',') && n > 0 && n < 4096 ? (int)n : 0;
}

int hd_default_threads(void)
{
    int n = parse_threads(hd_env(HD_ENV_NUM_THREADS));
    if (n == 0) { n = parse_threads(hd_env(HD_ENV_OMP_NUM_THREADS)); }
    if (n != 0) { return n; }
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) { return 1; }
    n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}
