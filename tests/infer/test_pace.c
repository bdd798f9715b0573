/* When to draft: the arithmetic of break-even, and what the choice does as costs and acceptance change. */
#include <math.h>

#include "infer/pace.h"
#include "support/test.h"

/* n passes that cost what they cost; every `right`-th draft of ten is accepted.  Returns how many carried drafts. */
static int run(hd_pace *p, int n, double plain_s, double drafted_s, int right)
{
    int drafted = 0;
    for (int i = 0; i < n; i++) {
        bool with = hd_pace_drafts(p);
        hd_pace_passed(p, with, with ? drafted_s : plain_s);
        if (with) { hd_pace_verified(p, drafted % 10 < right); }
        drafted += with;
    }
    return drafted;
}

static void pairs(void **state)
{
    (void)state;
    hd_pace p = {.mode = HD_DRAFT_ALWAYS};
    assert_true(hd_pace_break_even(&p) == 0.0);
    hd_pace_passed(&p, false, 2.0);
    assert_true(hd_pace_break_even(&p) == 0.0 && p.n_pair == 0);
    hd_pace_passed(&p, true, 3.0);
    assert_true(fabs(hd_pace_break_even(&p) - 0.5) < 1e-12);
    hd_pace_passed(&p, false, 20.0); /* the machine became busy: 3 / 20 is one pair of many */
    for (int i = 0; i < 3; i++) {
        hd_pace_passed(&p, true, 30.0);
        hd_pace_passed(&p, false, 20.0);
    }
    assert_true(fabs(hd_pace_break_even(&p) - 0.5) < 1e-12);
    int64_t n = p.n_pair;
    for (int i = 0; i < 5; i++) { hd_pace_passed(&p, false, 20.0); }
    hd_pace_passed(&p, true, 90.0); /* with what five passes left to read */
    assert_true(p.n_pair == n);
    for (int i = 0; i < HD_PACE_PAIRS; i++) { hd_pace_passed(&p, i % 2 == 1, i % 2 == 1 ? 80.0 : 20.0); } /* the past is forgotten */
    assert_true(fabs(hd_pace_break_even(&p) - 3.0) < 1e-12);
}

static void choices(void **state)
{
    (void)state;
    hd_pace never = {.mode = HD_DRAFT_NEVER}, always = {.mode = HD_DRAFT_ALWAYS}, pays = {.mode = HD_DRAFT_AUTO}, loses = pays;
    assert_true(run(&never, 100, 1.0, 0.1, 10) == 0);
    int n = run(&always, 1000, 1.0, 9.0, 0); /* whatever it costs, but a few plain passes measure it */
    assert_true(n > 950 && n < 1000);
    assert_true(always.n_draft == n && always.n_accepted == 0 && fabs(hd_pace_break_even(&always) - 8.0) < 1e-12);
    n = run(&pays, 1000, 1.0, 1.5, 7); /* 70 % beside a break-even of 50 % */
    assert_true(n > 950 && n < 1000 && fabs(pays.acceptance - 0.7) < 0.1);
    n = run(&loses, 1000, 1.0, 1.5, 3); /* 30 %: now and then some, to see whether that is still so */
    assert_true(n > 30 && n < 70);
    run(&loses, 3000, 1.0, 1.2, 6); /* it is not */
    n = run(&loses, 1000, 1.0, 1.2, 6);
    assert_true(n > 950);
    run(&pays, 200, 1.0, 1.5, 0);
    n = run(&pays, 1000, 1.0, 1.5, 0);
    assert_true(n > 20 && n < 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs), cmocka_unit_test(choices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
