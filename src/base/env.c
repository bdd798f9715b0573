/* The table of environment variables.  See env.h. */
#include "base/env.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const hd_env_row rows[HD_ENV_COUNT] = {
    [HD_ENV_NUM_THREADS] = {"HADAL_NUM_THREADS", "OMP_NUM_THREADS, then the affinity mask",
                            "threads of a parallel loop"},
    [HD_ENV_OMP_NUM_THREADS] = {"OMP_NUM_THREADS", "the affinity mask", "the same, as OpenMP programs read it"},
    [HD_ENV_FORCE] = {"HADAL_FORCE", "the best of this CPU",
                      "implementations to use: \"linear_fwd=ref,isa=avx2\"; for bisecting a numerical fault"},
    [HD_ENV_LOSS_HEX] = {"HADAL_LOSS_HEX", "0", "1: print losses as hexadecimal floats, every bit"},
    [HD_ENV_FAULT_IO] = {"HADAL_FAULT_IO", "none",
                         "file operation faults: fail:N:ERRNO[:forever] short:N kill:N delay:N:MSms trace:PATH "
                         "count:PATH, joined by ','"},
    [HD_ENV_FAULT_ALLOC] = {"HADAL_FAULT_ALLOC", "none", "allocation faults: fail:N[:forever]"},
    [HD_ENV_FAULT_RANK] = {"HADAL_FAULT_RANK", "none",
                           "rank faults: RANK:stop@STEP RANK:slow:MSms@STEP RANK:flip:BUFFER@STEP, joined by ','"},
    [HD_ENV_M_PREFIX] = {"M_<KEY>", "none", "configuration key in upper case, between file and command line"},
    [HD_ENV_HF_HOME] = {"HF_HOME", "~/.cache/huggingface", "the hub's folder on this machine: a name such as deepseek-ai/DeepSeek-V3 is looked up in its hub/"},
    [HD_ENV_HOME] = {"HOME", "none", "where ~/.cache/huggingface lies"},
    [HD_ENV_HF_TOKEN] = {"HF_TOKEN", "the token file", "hub access token; never printed or stored"},
    [HD_ENV_JOBSET_NAME] = {"JOBSET_NAME", "none", "default of the run's name"},
    [HD_ENV_NO_COLOR] = {"NO_COLOR", "unset", "any value: no colour on a terminal"},
    [HD_ENV_TMPDIR] = {"TMPDIR", "/var/tmp", "where text that must be unpacked is kept during a run"},
    [HD_ENV_TERM] = {"TERM", "unset", "\"dumb\": no progress line that replaces itself"},
};

const char *hd_env(hd_env_var var)
{
    assert(var < HD_ENV_COUNT && var != HD_ENV_M_PREFIX);
    const char *value = getenv(rows[var].name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

const hd_env_row *hd_env_describe(hd_env_var var)
{
    assert(var < HD_ENV_COUNT);
    return &rows[var];
}

bool hd_env_prefixed(const char *prefix, size_t *cursor, const char **name, size_t *name_len, const char **value)
{
    size_t prefix_len = strlen(prefix);
    while (environ != NULL && environ[*cursor] != NULL) {
        const char *entry = environ[(*cursor)++];
        const char *equals = strchr(entry, '=');
        if (equals == NULL || strncmp(entry, prefix, prefix_len) != 0) { continue; }
        *name = entry;
        *name_len = (size_t)(equals - entry);
        *value = equals + 1;
        return true;
    }
    return false;
}
