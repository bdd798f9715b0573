/* Pairs of passes, acceptance and the choice between two kinds of passes.  See pace.h. */
#include "infer/pace.h"

enum {
    FEW = 4,          /* pairs before they are believed */
    FEW_DRAFTS = 16,  /* verified drafts before acceptance is */
    DRAFTED = 32,     /* drafted passes between single ones without, where drafting pays */
    PLAIN = 128,      /* where it does not: passes without drafts between trials */
    TRIAL = 4,        /* drafted passes of a trial: their drafts must be verified, too */
    MEMORY = 64       /* drafts that acceptance remembers */
};

double hd_pace_break_even(const hd_pace *p)
{
    double sorted[HD_PACE_PAIRS];
    int n = p->n_pair < HD_PACE_PAIRS ? (int)p->n_pair : HD_PACE_PAIRS;
    if (n == 0) { return 0.0; }
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > p->quotients[i]; at--) { sorted[at] = sorted[at - 1]; }
        sorted[at] = p->quotients[i];
    }
    return sorted[n / 2] - 1.0;
}

bool hd_pace_drafts(const hd_pace *p)
{
    if (p->mode == HD_DRAFT_NEVER) { return false; }
    if (p->n_pair < FEW) { return p->last_s > 0.0 && !p->last_drafted; } /* in turns */
    bool pays = p->mode == HD_DRAFT_ALWAYS || p->n_draft < FEW_DRAFTS || p->acceptance > hd_pace_break_even(p);
    if (p->last_drafted) { return p->streak < (pays ? DRAFTED : TRIAL); }
    return pays || p->streak >= PLAIN;
}

void hd_pace_passed(hd_pace *p, bool drafted, double seconds)
{
    /* No pair: a draft after several passes without first reads what those left to the module. */
    bool is_pair = p->last_s > 0.0 && drafted != p->last_drafted && (p->last_drafted || p->streak == 1);
    if (is_pair) { p->quotients[p->n_pair++ % HD_PACE_PAIRS] = drafted ? seconds / p->last_s : p->last_s / seconds; }
    p->streak = drafted == p->last_drafted ? p->streak + 1 : 1;
    p->last_drafted = drafted;
    p->last_s = seconds;
}

void hd_pace_verified(hd_pace *p, bool accepted)
{
    p->n_draft++;
    p->n_accepted += accepted;
    p->acceptance += ((accepted ? 1.0 : 0.0) - p->acceptance) / (double)(p->n_draft < MEMORY ? p->n_draft : MEMORY);
}
