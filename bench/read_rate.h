/* The rate at which all threads together read memory: what a decode step cannot exceed.
 *
 * Which pattern keeps most reads in flight differs between machines, so three are tried in turn: one, two and four streams per thread,
 * each prefetched 512 bytes ahead, on huge pages.  The streams are a few lines off a power of two apart: equal low address bits would make
 * them compete for the same cache sets. */
#ifndef HD_BENCH_READ_RATE_H
#define HD_BENCH_READ_RATE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/parallel_for.h"

typedef float read_vector __attribute__((vector_size(16), may_alias));

typedef struct read_job {
    const char *data;
    int64_t bytes; /* per item */
    int n_stream;
    float sink[256];
} read_job;

typedef struct read_rate {
    double best, mean; /* bytes/s: of the fastest pass, of all passes of the best pattern */
    int n_stream;      /* the best pattern */
} read_rate;

static inline int64_t read_stream_bytes(const read_job *job)
{
    return (job->bytes / job->n_stream - 4096) / 4096 * 4096 + 640;
}

static inline void read_item(void *arg, int64_t i, int thread)
{
    read_job *job = arg;
    int64_t part = read_stream_bytes(job);
    const char *base = job->data + i * job->bytes;
    read_vector a = {0}, b = a, c = a, d = a; /* by name: an array would live in memory */
    (void)thread;
    for (int64_t at = 0; at < part; at += 128) {
        for (int s = 0; s < job->n_stream; s++) {
            const char *p = base + s * part + at;
            const read_vector *v = (const read_vector *)(const void *)p;
            __builtin_prefetch(p + 512);
            __builtin_prefetch(p + 576);
            a += v[0], b += v[1], c += v[2], d += v[3];
            a += v[4], b += v[5], c += v[6], d += v[7];
        }
    }
    a += b + c + d;
    job->sink[i % 256] = a[0] + a[1] + a[2] + a[3];
}

/* Memory that a rate is measured on. */
typedef struct read_probe {
    char *pages;
    int64_t bytes;
    int n_threads;
} read_probe;

static inline read_probe read_probe_open(int n_threads, int64_t bytes)
{
    void *pages = mmap(NULL, (size_t)bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        fprintf(stderr, "read_rate: no memory for %lld bytes\n", (long long)bytes);
        exit(1);
    }
    (void)madvise(pages, (size_t)bytes, MADV_HUGEPAGE);
    memset(pages, 1, (size_t)bytes);
    return (read_probe){pages, bytes, n_threads};
}

static inline void read_probe_close(read_probe *p) { munmap(p->pages, (size_t)p->bytes + 4096); }

/* Bytes/s of one pass over [begin, begin + n) of the pages. */
static inline double read_probe_pass(const read_probe *p, int n_stream, int64_t begin, int64_t n, clockid_t clock)
{
    struct timespec from, to;
    read_job job = {.data = p->pages + begin, .bytes = n / p->n_threads / 64 * 64, .n_stream = n_stream};
    clock_gettime(clock, &from);
    hd_parallel_for(p->n_threads, p->n_threads, read_item, &job);
    clock_gettime(clock, &to);
    double took = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    return (double)(read_stream_bytes(&job) * n_stream * p->n_threads) / took;
}

/* Reads `bytes` again and again, each pattern for a third of `seconds` of `clock` and at least 5 times. */
static inline read_rate read_rate_measure(int n_threads, int64_t bytes, double seconds, clockid_t clock)
{
    static const int patterns[] = {1, 2, 4};
    read_rate rate = {0};
    read_probe probe = read_probe_open(n_threads, bytes);
    for (int pattern = 0; pattern < 3; pattern++) {
        double best = 0.0, sum = 0.0;
        int n = 0;
        while (n < 5 || sum < seconds / 3) {
            double pass = read_probe_pass(&probe, patterns[pattern], 0, bytes, clock);
            best = pass > best ? pass : best;
            sum += (double)bytes / pass;
            n++;
        }
        if (best > rate.best) { rate = (read_rate){.best = best, .mean = (double)bytes * n / sum, .n_stream = patterns[pattern]}; }
    }
    read_probe_close(&probe);
    return rate;
}

#endif
