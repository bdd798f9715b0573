/* Byte pair encoding against its definition, with merges in and out of order, for short and for long pieces. */
#include "support/test.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "tokenizer/bpe.h"

enum { N_LETTER = 4, N_MERGE = 60, MAX_N = 300 };

static hd_err err;

/* Lowest rank first, leftmost of equal ones, by looking at everything each time. */
static size_t by_definition(const hd_bpe *bpe, const char *piece, size_t n, uint32_t *symbol)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        if (bpe->byte_id[(unsigned char)piece[i]] >= 0) { symbol[m++] = (uint32_t)bpe->byte_id[(unsigned char)piece[i]]; }
    }
    for (;;) {
        size_t best = SIZE_MAX;
        uint32_t rank = HD_NO_RANK;
        for (size_t i = 0; i + 1 < m; i++) {
            uint32_t r = (uint32_t)(hd_bpe_find(bpe, symbol[i], symbol[i + 1]) >> 32);
            if (r < rank) { rank = r, best = i; }
        }
        if (best == SIZE_MAX) { return m; }
        symbol[best] = (uint32_t)hd_bpe_find(bpe, symbol[best], symbol[best + 1]);
        memmove(symbol + best + 1, symbol + best + 2, (m - best - 2) * sizeof *symbol);
        m--;
    }
}

/* Merges of random pairs of what is there already, ranked as they come or, shuffled, in any order. */
static void make_merges(hd_bpe *bpe, uint64_t seed, bool shuffled)
{
    uint32_t pair[N_MERGE][3], n = 0;
    hd_rng rng = hd_rng_make(hd_test_seed() + seed, HD_RNG_SAMPLE, "merges");
    assert_ok(hd_bpe_open(bpe, N_MERGE, seed, &err));
    for (int b = 0; b < 256; b++) { bpe->byte_id[b] = b < 'a' + N_LETTER && b >= 'a' ? b - 'a' : -1; }
    for (uint32_t i = 0; n < N_MERGE && i < 100 * N_MERGE; i++) {
        uint32_t left = (uint32_t)(hd_rng_uniform(rng, 2 * i) * 0.9999 * (N_LETTER + n)), right = (uint32_t)(hd_rng_uniform(rng, 2 * i + 1) * 0.9999 * (N_LETTER + n));
        bool known = false;
        for (uint32_t k = 0; k < n; k++) { known = known || (pair[k][0] == left && pair[k][1] == right); }
        if (known) { continue; }
        /* some tokens come from two merges: then passes of several ranks fill one bucket */
        double u = hd_rng_uniform(rng, 500000 + i);
        pair[n][0] = left, pair[n][1] = right, pair[n][2] = n > 4 && u < 0.4 ? pair[(uint32_t)(u * 2.4999 * n)][2] : N_LETTER + n;
        n++;
    }
    for (uint32_t i = 0; shuffled && i < n; i++) {
        uint32_t k = (uint32_t)(hd_rng_uniform(rng, 1000000 + i) * 0.9999 * n), t[3];
        memcpy(t, pair[i], sizeof t), memcpy(pair[i], pair[k], sizeof t), memcpy(pair[k], t, sizeof t);
    }
    for (uint32_t i = 0; i < n; i++) { hd_bpe_add(bpe, pair[i][0], pair[i][1], pair[i][2]); }
}

static void check_piece(const hd_bpe *bpe, hd_bpe_work *work, const char *piece, size_t n)
{
    uint32_t want[MAX_N];
    hd_ids ids = {0};
    size_t m = by_definition(bpe, piece, n, want);
    assert_ok(hd_bpe_encode(bpe, work, piece, n, &ids, &err));
    assert_int_equal(ids.n, m);
    assert_memory_equal(ids.id, want, m * sizeof *want);
    ids.n = 0;
    assert_ok(hd_bpe_encode_long(bpe, work, piece, n, &ids, &err));
    assert_int_equal(ids.n, m);
    assert_memory_equal(ids.id, want, m * sizeof *want);
    hd_ids_free(&ids);
}

static void as_defined(void **state)
{
    (void)state;
    char piece[MAX_N];
    for (uint64_t seed = 0; seed < (uint64_t)hd_test_count(60, 1000); seed++) {
        hd_bpe bpe = {0};
        hd_bpe_work work = {0};
        hd_rng rng = hd_rng_make(hd_test_seed() + seed, HD_RNG_SAMPLE, "pieces");
        make_merges(&bpe, seed, seed % 2 == 1);
        for (uint64_t i = 0; i < 40; i++) {
            size_t n = 1 + (size_t)(hd_rng_uniform(rng, i * 1000) * (i % 4 == 0 ? MAX_N - 1 : 70)), letters = 1 + i % (N_LETTER + 1); /* the fifth is dropped */
            for (size_t k = 0; k < n; k++) { piece[k] = (char)('a' + (int)(hd_rng_uniform(rng, i * 1000 + k + 1) * 0.9999 * (double)letters)); }
            check_piece(&bpe, &work, piece, n);
        }
        hd_bpe_work_free(&work);
        hd_bpe_close(&bpe);
    }
}

/* Of two merges of a pair the later counts; nothing that has a symbol gives nothing. */
static void corners(void **state)
{
    (void)state;
    hd_bpe bpe = {0};
    hd_bpe_work work = {0};
    hd_ids ids = {0};
    assert_ok(hd_bpe_open(&bpe, 3, 1, &err));
    for (int b = 0; b < 256; b++) { bpe.byte_id[b] = b == 'x' ? -1 : b; }
    hd_bpe_add(&bpe, 'a', 'b', 300);
    hd_bpe_add(&bpe, 'b', 'c', 301);
    hd_bpe_add(&bpe, 'a', 'b', 302);
    check_piece(&bpe, &work, "abc", 3);
    assert_ok(hd_bpe_encode(&bpe, &work, "abcab", 5, &ids, &err));
    assert_int_equal(ids.n, 3);
    assert_true(ids.id[0] == 'a' && ids.id[1] == 301 && ids.id[2] == 302);
    ids.n = 0;
    assert_ok(hd_bpe_encode(&bpe, &work, "xxx", 3, &ids, &err));
    assert_ok(hd_bpe_encode_long(&bpe, &work, "xxx", 3, &ids, &err));
    assert_int_equal(ids.n, 0);
    hd_ids_free(&ids);
    hd_bpe_work_free(&work);
    hd_bpe_close(&bpe);
}

/* ab and cd become the same token: of "cd ab ab" the pair on the right is there first, and the one on the left still merges first. */
static void a_token_of_two_merges(void **state)
{
    (void)state;
    hd_bpe bpe = {0};
    hd_bpe_work work = {0};
    hd_ids ids = {0};
    assert_ok(hd_bpe_open(&bpe, 3, 1, &err));
    for (int b = 0; b < 256; b++) { bpe.byte_id[b] = b; }
    hd_bpe_add(&bpe, 'a', 'b', 300);
    hd_bpe_add(&bpe, 'c', 'd', 300);
    hd_bpe_add(&bpe, 300, 300, 301);
    check_piece(&bpe, &work, "cdabab", 6);
    check_piece(&bpe, &work, "abcdabcdabab", 12);
    assert_ok(hd_bpe_encode_long(&bpe, &work, "cdabab", 6, &ids, &err));
    assert_true(ids.n == 2 && ids.id[0] == 301 && ids.id[1] == 300);
    hd_ids_free(&ids);
    hd_bpe_work_free(&work);
    hd_bpe_close(&bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_defined), cmocka_unit_test(corners), cmocka_unit_test(a_token_of_two_merges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
