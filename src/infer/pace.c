/* Costs, acceptance and the choice between two kinds of passes.  See pace.h. */
#include "infer/pace.h"

enum {
    FEW = 3,          /* passes of each kind before costs are compared */
    FEW_DRAFTS = 16,  /* verified drafts before acceptance is believed */
    EVERY = 64,       /* passes of the better kind between those that measure the other */
    TRIAL = 4,        /* drafted passes of such a measurement: their drafts must be verified, too */
    MEMORY = 64       /* drafts that acceptance remembers */
};

double hd_pace_cost_s(const hd_pace_cost *cost)
{
    double sorted[HD_PACE_WINDOW];
    int n = cost->n < HD_PACE_WINDOW ? (int)cost->n : HD_PACE_WINDOW;
    if (n == 0) { return 0.0; }
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > cost->seconds[i]; at--) { sorted[at] = sorted[at - 1]; }
        sorted[at] = cost->seconds[i];
    }
    return sorted[(n - 1) / 4];
}

double hd_pace_break_even(const hd_pace *p)
{
    if (p->plain.n == 0 || p->drafted.n == 0) { return 0.0; }
    return hd_pace_cost_s(&p->drafted) / hd_pace_cost_s(&p->plain) - 1.0;
}

bool hd_pace_drafts(const hd_pace *p)
{
    if (p->mode == HD_DRAFT_NEVER) { return false; }
    if (p->plain.n < FEW || p->drafted.n < FEW) { return p->drafted.n < p->plain.n; } /* in turns: both see the same past */
    bool pays = p->mode == HD_DRAFT_ALWAYS || p->n_draft < FEW_DRAFTS || p->acceptance > hd_pace_break_even(p);
    if (p->last_drafted) { return pays ? p->streak < EVERY : p->streak < TRIAL; }
    return pays || p->streak >= EVERY;
}

static void add(hd_pace_cost *cost, double seconds) { cost->seconds[cost->n++ % HD_PACE_WINDOW] = seconds; }

void hd_pace_passed(hd_pace *p, bool drafted, double seconds)
{
    add(drafted ? &p->drafted : &p->plain, seconds);
    p->streak = drafted == p->last_drafted ? p->streak + 1 : 1;
    p->last_drafted = drafted;
}

void hd_pace_verified(hd_pace *p, bool accepted)
{
    p->n_draft++;
    p->n_accepted += accepted;
    p->acceptance += ((accepted ? 1.0 : 0.0) - p->acceptance) / (double)(p->n_draft < MEMORY ? p->n_draft : MEMORY);
}
