/* The YAML that configuration files are written in: one mapping of names to scalars, lists of scalars, or (for keys that
 * keep their text) any node.  libyaml scans; types, duplicates and limits are ours. */
#ifndef HD_CONFIG_YAML_FILE_H
#define HD_CONFIG_YAML_FILE_H

#include "config/value.h"

enum {
    HD_YAML_MAX_BYTES = 1 << 20,
    HD_YAML_MAX_DEPTH = 128,
    HD_YAML_MAX_EVENTS = 1 << 18, /* nodes and aliases together */
    HD_YAML_MAX_KEYS = 4096
};

/* What an entry of the top mapping holds.  Its texts live until the callback returns. */
typedef struct hd_yaml_entry {
    const char *key;
    int line, column;      /* of the key, from 1 */
    hd_source_text value;  /* scalar or items; both absent for a node that is neither */
    bool nested;           /* a mapping, or a list that holds more than scalars */
    const char *file_text; /* for hd_yaml_raw */
    size_t begin, end;     /* the node in characters of it */
} hd_yaml_entry;

/* The entry's node as it is written in the file, a pointer into the file's text. */
const char *hd_yaml_raw(const hd_yaml_entry *entry, size_t *n);

/* Called for each entry in order; a status other than HD_OK stops the scan and is passed on.  The message is prefixed
 * with "file:line:column: " by the scanner. */
typedef hd_status (*hd_yaml_visit)(void *context, const hd_yaml_entry *entry, hd_err *err);

/* Scans n bytes of text, which has a NUL behind it (name stands in messages).  HD_E_CONFIG with file, line and column for what YAML forbids, for
 * duplicate keys, aliases, several documents and exceeded limits. */
hd_status hd_yaml_scan(const char *name, const char *text, size_t n, hd_yaml_visit visit, void *context, hd_err *err)
    HD_CHECK_RESULT;

#endif
