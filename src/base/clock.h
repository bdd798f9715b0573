/* Time.  Nothing that a training result depends on may use it. */
#ifndef HD_BASE_CLOCK_H
#define HD_BASE_CLOCK_H

double hd_clock_now_s(void);           /* monotonic, from an arbitrary start */
double hd_clock_wall_s(void);          /* since 1970, for time stamps */
void hd_clock_sleep_s(double seconds); /* at least so long, also across signals */

#endif
