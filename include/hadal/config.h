/* Configuration: what a run is asked to do, merged from the key table's defaults, YAML files, the model's file, the
 * command line and the environment, checked, and completed with derived values.  docs/configuration.md has the rules.
 *
 * A configuration is immutable after hd_config_load; it may be read from any thread.  Strings live as long as it does. */
#ifndef HADAL_CONFIG_H
#define HADAL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

typedef struct hd_config hd_config;

/* Receives one line without its newline. */
typedef void (*hd_config_line)(void *context, const char *line);

/* Loads `[FILE.yml] key=value ...` (argc, argv: what follows the command's name; read only) for a command ("train", "sft",
 * "decode", ...; NULL: any).  Without a file the command's default is taken: sft.yml for sft, base.yml otherwise.
 * configs_dir is the folder of the installed configs, searched after the working directory; NULL: none.
 * Notices (keys without effect, the default output folder, ...) go to hd_log.
 * HD_E_CONFIG or HD_E_UNSUPPORTED with a message that begins "configuration error: "; HD_E_IO; HD_E_NOMEM. */
hd_status hd_config_load(const char *command, int argc, const char *const *argv, const char *configs_dir,
                         hd_config **out, hd_err *err) HD_CHECK_RESULT;
void hd_config_free(hd_config *config); /* accepts NULL */

/* Overwrites, in place, the value of a secret key=value in argv, so that the process list does not show it.  Call it
 * after hd_config_load. */
void hd_config_scrub_argv(int argc, char **argv);

/* Prints every key: "steps: 5  # command line", in the order of the table.  A secret prints as "(set)" or "(not set)". */
typedef enum hd_config_style {
    HD_CONFIG_ORIGINS, /* key: value  # origin */
    HD_CONFIG_SET,     /* the same, without the keys that keep their default */
    HD_CONFIG_MAXTEXT  /* "Config param KEY: VALUE", sorted by key, without secrets */
} hd_config_style;
hd_status hd_config_print(const hd_config *config, hd_config_style style, hd_config_line line, void *context,
                          hd_err *err) HD_CHECK_RESULT;

/* A value as it would be written in a YAML file, into a fresh string (hd_config_text_free), and where it came from.
 * HD_E_CONFIG for an unknown key (naming the nearest) and for a secret. */
hd_status hd_config_value_text(const hd_config *config, const char *key, char **out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_config_origin_text(const hd_config *config, const char *key, char **out, hd_err *err) HD_CHECK_RESULT;
void hd_config_text_free(char *text);

/* ------------------------------------------------------------------ the key table, for help, man page and completion */
typedef struct hd_config_key_info {
    const char *name;
    const char *group;         /* title of its section */
    const char *type;          /* "bool", "int", "float", "string", "choice", "list", "any" */
    const char *default_value; /* as in a YAML file; NULL for a derived key */
    const char *check;         /* choices or ranges, as in src/config/keys.def; may be empty */
    const char *help;
    const char *reason;        /* refused keys: the sentence; else NULL */
    bool own, refused, idle, derived, secret, path;
} hd_config_key_info;

/* Keys in the order of the table; false past the end. */
bool hd_config_key_at(size_t i, hd_config_key_info *info);

/* Lines that explain one key.  HD_E_CONFIG for an unknown key, naming the nearest. */
hd_status hd_config_key_help(const char *key, hd_config_line line, void *context, hd_err *err) HD_CHECK_RESULT;

/* Lines that list the keys of a command by group (NULL: of all commands). */
hd_status hd_config_help(const char *command, hd_config_line line, void *context, hd_err *err) HD_CHECK_RESULT;

/* The text of configs/base.yml, from the table.  tests/config holds the shipped file equal to it. */
hd_status hd_config_write_base_yml(hd_config_line line, void *context, hd_err *err) HD_CHECK_RESULT;

#endif
