/* What the system says about this process and this machine. */
#ifndef HD_BASE_SYSINFO_H
#define HD_BASE_SYSINFO_H

#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_rss {
    uint64_t now_bytes, peak_bytes; /* VmRSS and VmHWM of /proc/self/status */
} hd_rss;
hd_status hd_sysinfo_rss(hd_rss *out, hd_err *err) HD_CHECK_RESULT;

/* MemAvailable of /proc/meminfo. */
hd_status hd_sysinfo_available_memory(uint64_t *bytes, hd_err *err) HD_CHECK_RESULT;

/* "model name" of /proc/cpuinfo, or "unknown". */
void hd_sysinfo_cpu_name(char *out, size_t capacity);

#endif
