/* The environment: one table of the variables libhadal reads.  `hadal help environment` prints it; no other file may
 * call getenv.  Values are read at each call, so a test may set them, except where fault.h says "at program start". */
#ifndef HD_BASE_ENV_H
#define HD_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>

typedef enum hd_env_var {
    HD_ENV_NUM_THREADS,
    HD_ENV_OMP_NUM_THREADS,
    HD_ENV_FORCE,
    HD_ENV_LOSS_HEX,
    HD_ENV_FAULT_IO,
    HD_ENV_FAULT_ALLOC,
    HD_ENV_FAULT_RANK,
    HD_ENV_M_PREFIX, /* not a variable but the rule for names that begin with M_: use hd_env_prefixed */
    HD_ENV_HF_HOME,
    HD_ENV_HOME,
    HD_ENV_HF_TOKEN,
    HD_ENV_JOBSET_NAME,
    HD_ENV_NO_COLOR,
    HD_ENV_TMPDIR,
    HD_ENV_TERM,
    HD_ENV_COUNT
} hd_env_var;

typedef struct hd_env_row {
    const char *name, *fallback, *meaning; /* fallback: what holds when the variable is unset, in words */
} hd_env_row;

/* The value, or NULL when the variable is unset or empty.  HD_ENV_M_PREFIX has none. */
const char *hd_env(hd_env_var var);

/* The table's row, for help texts. */
const hd_env_row *hd_env_describe(hd_env_var var);

/* Iterates over variables whose name begins with prefix ("M_"), in the order of the environment: start with *cursor = 0.
 * *name points at the full NAME=VALUE text, *name_len is the length of the name, *value points after the '='.
 * Returns false at the end. */
bool hd_env_prefixed(const char *prefix, size_t *cursor, const char **name, size_t *name_len, const char **value);

#endif
