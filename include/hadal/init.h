/* Start of a program that uses libhadal, and what the library says about itself and its environment. */
#ifndef HADAL_INIT_H
#define HADAL_INIT_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

#define HADAL_VERSION "0.1.0"

/* Arms the fault switches that the environment asks for (HADAL_FAULT_*; normally none).  Call once, after hd_log_set_sink
 * and before other threads run.  HD_E_CONFIG names the variable whose text is wrong. */
hd_status hd_init(hd_err *err) HD_CHECK_RESULT;

/* HADAL_VERSION as it was when the library was compiled. */
const char *hd_version(void);

/* One environment variable that the library or the program reads. */
typedef struct hd_environment_info {
    const char *name;     /* "M_<KEY>" stands for a family of names */
    const char *fallback; /* what holds when it is unset, in words */
    const char *meaning;
    const char *value;    /* NULL when unset or empty, and for a family */
} hd_environment_info;

/* The variables in the order of the table; false past the end. */
bool hd_environment_at(size_t i, hd_environment_info *info);

/* The value of one variable of the table, NULL when it is unset or empty. */
const char *hd_environment(const char *name);

#endif
