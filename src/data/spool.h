/* Temporary files that are gone when they are closed, however the process ends: they are unlinked as soon as they are made. */
#ifndef HD_DATA_SPOOL_H
#define HD_DATA_SPOOL_H

#include "base/io.h"
#include "hadal/status.h"

/* An empty file in $TMPDIR, /var/tmp by default. */
hd_status hd_spool_open(hd_file **out, hd_err *err) HD_CHECK_RESULT;

#endif
