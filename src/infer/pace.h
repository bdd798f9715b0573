/* Whether the next pass should carry drafts: what passes with and without them cost, and how many drafts are accepted.  Pure.
 *
 * A pass without drafts gives one token, one with drafts 1 + acceptance.  So drafting pays when acceptance exceeds
 *   break-even = (seconds of a pass with drafts) / (seconds of one without) - 1.
 * The quotient is the median over pairs of passes that followed each other: what else the machine does, and the growing past, change both
 * passes of a pair alike.  Neither kind is ever left out for long: now and then a pass of the other kind makes a new pair. */
#ifndef HD_INFER_PACE_H
#define HD_INFER_PACE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum hd_drafting { HD_DRAFT_NEVER, HD_DRAFT_AUTO, HD_DRAFT_ALWAYS } hd_drafting;

enum { HD_PACE_PAIRS = 15 };

typedef struct hd_pace {
    hd_drafting mode;
    int64_t n_draft, n_accepted;
    double acceptance;               /* of the latest drafts */
    double quotients[HD_PACE_PAIRS]; /* of the latest pairs, a ring */
    int64_t n_pair;
    double last_s;                   /* of the last pass; 0 before the first */
    bool last_drafted;
    int64_t streak;                  /* passes of its kind since one of the other */
} hd_pace;

bool hd_pace_drafts(const hd_pace *pace);       /* what the next pass should be */
void hd_pace_passed(hd_pace *pace, bool drafted, double seconds);
void hd_pace_verified(hd_pace *pace, bool accepted);
double hd_pace_break_even(const hd_pace *pace); /* 0 before the first pair */

#endif
