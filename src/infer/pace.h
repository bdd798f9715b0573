/* Whether the next pass should carry drafts: what passes with and without them cost, and how many drafts are accepted.  Pure.
 *
 * A pass without drafts gives one token, one with drafts 1 + acceptance.  So drafting pays when acceptance exceeds
 *   break-even = (seconds of a pass with drafts) / (seconds of one without) - 1.
 * Both costs are lower quartiles of the latest passes, so that other work on the machine counts little.  Neither kind of pass is ever
 * left out for long: a few of the other kind keep both figures true while the sequence grows. */
#ifndef HD_INFER_PACE_H
#define HD_INFER_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum hd_drafting { HD_DRAFT_NEVER, HD_DRAFT_AUTO, HD_DRAFT_ALWAYS } hd_drafting;

enum { HD_PACE_WINDOW = 15 };

typedef struct hd_pace_cost {
    double seconds[HD_PACE_WINDOW]; /* of the latest passes, a ring */
    int64_t n;                      /* passes so far */
} hd_pace_cost;

typedef struct hd_pace {
    hd_drafting mode;
    hd_pace_cost plain, drafted;
    int64_t n_draft, n_accepted;
    double acceptance;    /* of the latest drafts */
    int64_t streak;       /* passes of one kind since one of the other */
    bool last_drafted;
} hd_pace;

bool hd_pace_drafts(const hd_pace *pace);                            /* what the next pass should be */
void hd_pace_passed(hd_pace *pace, bool drafted, double seconds);
void hd_pace_verified(hd_pace *pace, bool accepted);
double hd_pace_cost_s(const hd_pace_cost *cost);                     /* 0 before the first pass */
double hd_pace_break_even(const hd_pace *pace);                      /* 0 before both costs are known */

#endif
