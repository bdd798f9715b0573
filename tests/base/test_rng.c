/* The generator's definition: Random123's known answers and the formulas of rng.h. */
#include "support/test.h"

#include <math.h>

#include "base/rng.h"

static void known_answers(void **state)
{
    (void)state;
    uint32_t r[4];
    hd_rng_block((hd_rng){.key = 0}, 0, 0, r);
    assert_int_equal(r[0], 0x6627e8d5);
    assert_int_equal(r[1], 0xe169c58d);
    assert_int_equal(r[2], 0xbc57ac4c);
    assert_int_equal(r[3], 0x9b00dbd8);
}

static void streams_differ(void **state)
{
    (void)state;
    hd_rng a = hd_rng_make(1, HD_RNG_TEST, "a"), b = hd_rng_make(1, HD_RNG_TEST, "b");
    hd_rng c = hd_rng_make(2, HD_RNG_TEST, "a"), d = hd_rng_make(1, HD_RNG_INIT, "a");
    assert_true(a.key != b.key && a.key != c.key && a.key != d.key);
    assert_true(hd_rng_uniform(a, 0) != hd_rng_uniform(a, 1));
}

static void distributions(void **state)
{
    (void)state;
    enum { N = 20000 };
    hd_rng rng = hd_rng_make(7, HD_RNG_TEST, "moments");
    double u1 = 0, n1 = 0, n2 = 0, worst = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = hd_rng_uniform(rng, i), x = hd_rng_normal(rng, i);
        u1 += u / N, n1 += x / N, n2 += x * x / N;
        worst = fmax(worst, fabs((double)hd_rng_truncated_normal(rng, i)));
        assert_true(u > 0 && u <= 1);
        assert_true(hd_rng_below(rng, 7, i) < 7);
        assert_int_equal(hd_rng_below(rng, 1, i), 0);
    }
    assert_true(fabs(u1 - 0.5) < 0.01 && fabs(n1) < 0.03 && fabs(n2 - 1) < 0.05);
    assert_true(worst <= 2.0 && worst > 1.9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(streams_differ),
        cmocka_unit_test(distributions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
