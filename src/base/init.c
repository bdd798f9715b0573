/* Start-up and self-description.  See include/hadal/init.h. */
#include "hadal/init.h"

#include <string.h>

#include "base/env.h"
#include "base/fault.h"

hd_status hd_init(hd_err *err)
{
    return hd_fault_init(err);
}

const char *hd_version(void)
{
    return HADAL_VERSION;
}

bool hd_environment_at(size_t i, hd_environment_info *info)
{
    if (i >= HD_ENV_COUNT) { return false; }
    hd_env_var var = (hd_env_var)i;
    const hd_env_row *row = hd_env_describe(var);
    *info = (hd_environment_info){
        .name = row->name,
        .fallback = row->fallback,
        .meaning = row->meaning,
        .value = var == HD_ENV_M_PREFIX ? NULL : hd_env(var),
    };
    return true;
}

const char *hd_environment(const char *name)
{
    hd_environment_info info;
    for (size_t i = 0; hd_environment_at(i, &info); i++) {
        if (strcmp(info.name, name) == 0) { return info.value; }
    }
    return NULL;
}
