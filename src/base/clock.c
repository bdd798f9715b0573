/* See clock.h. */
#include "base/clock.h"

#include <errno.h>
#include <time.h>

static double read_clock(clockid_t id)
{
    struct timespec t = {0};
    (void)clock_gettime(id, &t); /* cannot fail for the two clocks used here */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double hd_clock_now_s(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

double hd_clock_wall_s(void)
{
    return read_clock(CLOCK_REALTIME);
}

void hd_clock_sleep_s(double seconds)
{
    if (!(seconds > 0)) { return; }
    struct timespec rest = {.tv_sec = (time_t)seconds};
    rest.tv_nsec = (long)((seconds - (double)rest.tv_sec) * 1e9);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, &rest) == EINTR) {}
}
