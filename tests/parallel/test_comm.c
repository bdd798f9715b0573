/* Collectives of the threads backend: exact sums on every rank, the stated tree bit for bit, and no rank left waiting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "parallel/comm.h"

enum { COUNT = 1003, MAX_RANKS = 8 };

typedef struct shared {
    float exact[MAX_RANKS][COUNT];  /* small integers: exact in any order */
    float rounded[MAX_RANKS][COUNT];
    double host[MAX_RANKS][3];
    unsigned word[MAX_RANKS];
    int failing_rank;
} shared;

static hd_tensor vector(float *data)
{
    return (hd_tensor){.data = data, .dtype = HD_DTYPE_F32, .n_dim = 1, .shape = {COUNT}, .global_shape = {COUNT}, .stride = {1}};
}

static hd_status reduce_everything(void *arg, hd_comm *comm, hd_err *err)
{
    shared *s = arg;
    hd_arena scratch;
    hd_arena_open_dry(&scratch, "scratch");
    hd_exec ex = {.scratch = &scratch, .n_threads = 1};
    hd_tensor exact = vector(s->exact[comm->rank]), rounded = vector(s->rounded[comm->rank]);
    hd_status st = HD_OK;
    HD_TRY(hd_comm_all_reduce_sum(comm, &ex, &exact, err));
    HD_TRY(hd_comm_all_reduce_sum(comm, &ex, &rounded, err));
    HD_TRY(hd_comm_all_reduce_sum_host(comm, s->host[comm->rank], 3, err));
    HD_TRY(hd_comm_all_reduce_or(comm, &s->word[comm->rank], err));
    HD_TRY(hd_comm_barrier(comm, err));
out:
    return st;
}

static void fill(shared *s, int n_rank, float want_exact[COUNT], float first[MAX_RANKS][COUNT])
{
    hd_rng rng = hd_rng_make(1, HD_RNG_TEST, "comm");
    memset(want_exact, 0, COUNT * sizeof *want_exact);
    for (int r = 0; r < n_rank; r++) {
        for (int i = 0; i < COUNT; i++) {
            uint64_t index = (uint64_t)r * COUNT + (uint64_t)i;
            s->exact[r][i] = (float)hd_rng_below(rng, 1000, index) - 500.0f;
            s->rounded[r][i] = first[r][i] = hd_rng_normal(rng, index);
            want_exact[i] += s->exact[r][i];
        }
        for (int i = 0; i < 3; i++) { s->host[r][i] = r + i; }
        s->word[r] = 1u << r;
    }
}

static float pairwise(float (*x)[COUNT], int lo, int n, int i)
{
    int left = 1;
    if (n == 1) { return x[lo][i]; }
    while (2 * left < n) { left *= 2; }
    return pairwise(x, lo, left, i) + pairwise(x, lo + left, n - left, i);
}

static void sums_are_exact_and_follow_the_tree(void **state)
{
    (void)state;
    static shared s;
    static float want[COUNT], first[MAX_RANKS][COUNT];
    const int sizes[] = {1, 2, 3, 4, 8};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int n = sizes[k];
        hd_err err = {0};
        fill(&s, n, want, first);
        assert_int_equal(hd_ranks_run_threads(n, reduce_everything, &s, &err), HD_OK);
        for (int r = 0; r < n; r++) {
            assert_memory_equal(s.exact[r], want, sizeof want);
            for (int i = 0; i < COUNT; i++) {
                float sum = pairwise(first, 0, n, i);
                assert_memory_equal(&s.rounded[r][i], &sum, sizeof sum);
            }
            for (int i = 0; i < 3; i++) { assert_true(s.host[r][i] == n * (n - 1) / 2.0 + n * i); }
            assert_int_equal(s.word[r], (1u << n) - 1);
        }
    }
}

static hd_status one_rank_fails(void *arg, hd_comm *comm, hd_err *err)
{
    shared *s = arg;
    if (comm->rank == s->failing_rank) { return HD_FAIL(err, HD_E_IO, "disk of rank %d is gone", comm->rank); }
    return hd_comm_barrier(comm, err);
}

static void a_failing_rank_frees_the_others_and_is_named(void **state)
{
    (void)state;
    for (int failing = 0; failing < 4; failing++) {
        static shared s;
        hd_err err = {0};
        s.failing_rank = failing;
        assert_int_equal(hd_ranks_run_threads(4, one_rank_fails, &s, &err), HD_E_IO);
        assert_non_null(strstr(err.msg, "is gone"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_exact_and_follow_the_tree),
        cmocka_unit_test(a_failing_rank_frees_the_others_and_is_named),
    };
    return cmocka_run_group_tests_name("parallel/comm", tests, NULL, NULL);
}
