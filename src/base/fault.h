/* Fault switches of the delivered program, inert by default, read from the environment once.
 *
 *   HADAL_FAULT_IO     items joined by ',':
 *     fail:N:ERRNO            operation N fails with ERRNO ("ENOSPC")
 *     fail:N:ERRNO:forever    so do all later ones
 *     short:N                 the first read or write at or after operation N does half of its bytes (at least one)
 *     tear:N                  the same, then SIGKILL
 *     kill:N                  SIGKILL before operation N
 *     delay:N:MSms            operation N waits first
 *     trace:PATH              one line per attempt: number, operation, offset, size, path, new name
 *     count:PATH              PATH holds "mutations reads" done so far
 *     N counts mutating operations from 1 in the order they begin; rN counts reading ones ("fail:r5:EIO").  Which is
 *     which: io.h.  Retries after EINTR count again.
 *   HADAL_FAULT_ALLOC   fail:N or fail:N:forever: allocation N of the process, from 1, fails
 *   HADAL_FAULT_RANK    items joined by ',', for the training loop to obey:
 *     RANK:stop@STEP   RANK:slow:MSms@STEP   RANK:flip:BUFFER@STEP
 */
#ifndef HD_BASE_FAULT_H
#define HD_BASE_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"

/* Reads the three variables and arms what they ask for; call once, before other threads run.  HD_E_CONFIG names the
 * variable and what is wrong with its text; then nothing is armed. */
hd_status hd_fault_init(hd_err *err) HD_CHECK_RESULT;

/* The same from texts (NULL: none), for tests; replaces what was armed before. */
hd_status hd_fault_arm(const char *io, const char *alloc, const char *rank, hd_err *err) HD_CHECK_RESULT;
void hd_fault_disarm(void);

/* Operations begun since arming: what a sweep over N = 1, 2, ... needs to know. */
typedef struct hd_fault_counts {
    uint64_t mutations, reads;
} hd_fault_counts;
hd_fault_counts hd_fault_get_counts(void);

typedef enum hd_fault_rank_kind { HD_FAULT_RANK_STOP, HD_FAULT_RANK_SLOW, HD_FAULT_RANK_FLIP } hd_fault_rank_kind;

typedef struct hd_fault_rank {
    hd_fault_rank_kind kind;
    int rank;
    int64_t step;
    double delay_s;  /* SLOW */
    char buffer[48]; /* FLIP: name of the buffer whose first bit changes */
} hd_fault_rank;

/* Fault number i of rank faults armed; NULL past the last. */
const hd_fault_rank *hd_fault_rank_get(size_t i);

#endif
