/* Preloaded, it lets a program of one thread time itself in processor time instead of wall time, so that it can be timed on a machine that
 * others use too.  decode_peer.sh builds and uses it when CLOCK=cpu. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *t)
{
    if (clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME) { clock = CLOCK_PROCESS_CPUTIME_ID; }
    return (int)syscall(SYS_clock_gettime, clock, t);
}
