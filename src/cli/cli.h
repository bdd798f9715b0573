/* The program `hadal`: arguments, messages, exit codes.  Everything else is libhadal, seen through include/hadal/ alone. */
#ifndef HD_CLI_CLI_H
#define HD_CLI_CLI_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include "hadal/commands.h"
#include "hadal/status.h"

/* ---- commands (commands.c) ---------------------------------------------------------------------------------------- */

/* What the words after `hadal COMMAND` asked for. */
typedef struct hd_cli_call {
    const struct hd_cli_command *command;
    int argc;          /* words without options: [FILE.yml] key=value ..., or a checkpoint */
    char **argv;       /* the program's own, so that secrets in it can be overwritten */
    bool print_config, only_set;
} hd_cli_call;

typedef struct hd_cli_command {
    const char *name;
    const char *arguments;  /* usage after the name */
    const char *summary;    /* one line for the list of commands */
    const char *text;       /* a paragraph for its help; may be NULL */
    const char *examples;   /* lines, each a comment or a command; may be NULL */
    bool takes_keys;        /* [FILE.yml] key=value ... */
    hd_status (*run)(const hd_cli_call *call, hd_err *err); /* NULL: not supported by this version */
} hd_cli_command;

/* The table, ended by a row without a name. */
extern const hd_cli_command hd_cli_commands[];

const hd_cli_command *hd_cli_find_command(const char *name); /* NULL when there is none */

/* The command whose name is closest to a misspelt one; NULL when none is close. */
const hd_cli_command *hd_cli_nearest_command(const char *name);

/* ---- help (help.c) -------------------------------------------------------------------------------------------------- */

void hd_cli_print_overview(void);
hd_status hd_cli_print_command_help(const hd_cli_command *command, hd_err *err) HD_CHECK_RESULT;

/* `hadal help [TOPIC]`: a command, a key, "environment", "base.yml", or nothing. */
hd_status hd_cli_help(const char *topic, hd_err *err) HD_CHECK_RESULT;

/* One line of advice for a failure; NULL when the message says all there is. */
const char *hd_cli_hint(const hd_err *err);

/* ---- the machine around the program (files.c, signals.c) ------------------------------------------------------------ */

/* The folder of configs that belongs to this executable: ../../configs in a source tree, ../share/hadal/configs when
 * installed.  NULL when neither is there. */
const char *hd_cli_configs_dir(void);

/* All of the standard input, with a NUL behind it, in memory to be given to free. */
hd_status hd_cli_read_stdin(char **data, size_t *n, hd_err *err) HD_CHECK_RESULT;

/* SIGTERM, SIGINT and SIGHUP set a flag that the library looks at between steps; a second SIGINT ends the process at once. */
void hd_cli_catch_signals(void);
const volatile sig_atomic_t *hd_cli_stop_signal(void);

/* The same but for SIGINT, which sets a flag of its own, as often as it comes. */
void hd_cli_catch_chat_signals(void);
volatile sig_atomic_t *hd_cli_interrupt(void);

/* ---- a person (console.c) ------------------------------------------------------------------------------------------- */

bool hd_cli_is_console(void); /* standard input and output are terminals */

/* Writes text to a terminal with its control characters (but tab and line feed) as U+FFFD; fits hd_run_hooks.write. */
void hd_cli_write_plain(void *context, const char *data, size_t n);

/* Fits hd_run_hooks.read_line; a stop signal ends the lines. */
hd_line_end hd_cli_read_line(void *context, const char *prompt, const char **line, size_t *n);

/* ---- the terminal (terminal.c) -------------------------------------------------------------------------------------- */

void hd_cli_terminal_open(void);              /* installs the log sink */
int hd_cli_terminal_progress(void);           /* what hd_run_hooks.progress wants to know */
void hd_cli_terminal_set_progress(bool on);   /* overrides what was found */
void hd_cli_terminal_set_json(bool on);       /* log lines as JSON objects */
void hd_cli_terminal_failure(const hd_err *err); /* "hadal: ..." and the hint */
bool hd_cli_terminal_close(void);             /* takes the progress line away; false when output was lost */

/* Prints one line of an answer to stdout; fits hd_config_line. */
void hd_cli_print_line(void *context, const char *line);

/* Writes bytes of an answer to stdout as they are; fits hd_tokenize_write. */
void hd_cli_write(void *context, const char *data, size_t n);

#endif
