/* Names of the HuggingFace hub, looked up in its cache on this machine; nothing is downloaded. */
#ifndef HD_BASE_HUB_H
#define HD_BASE_HUB_H

#include "hadal/status.h"

/* A path that exists stands for itself.  "org/model" that does not is the snapshot of its main revision in
 * $HF_HOME/hub/models--org--model (or its only snapshot).  HD_E_CONFIG says where it was looked for.  Free *path with hd_free. */
hd_status hd_hub_resolve(const char *name, char **path, hd_err *err) HD_CHECK_RESULT;

#endif
