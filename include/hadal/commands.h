/* What the program `hadal` does, as library calls; for state-hash see hadal/checkpoint.h.  Each takes a configuration
 * (hadal/config.h), reports through the log sink (hadal/log.h) and returns a status; the program turns the record into a message and
 * an exit code. */
#ifndef HADAL_COMMANDS_H
#define HADAL_COMMANDS_H

#include <signal.h>
#include <stddef.h>

#include "hadal/config.h"
#include "hadal/status.h"

/* How a line of a chat ended: whole, given up by an interrupt (Ctrl-C), or there are no more (Ctrl-D). */
typedef enum hd_line_end { HD_LINE_WHOLE, HD_LINE_INTERRUPTED, HD_LINE_CLOSED } hd_line_end;

/* What a long command asks of the program around it. */
typedef struct hd_run_hooks {
    const volatile sig_atomic_t *stop_signal; /* not 0: save and leave with HD_E_SIGNAL; the program's handlers set it */
    int progress;                             /* 1: a terminal is there for HD_LOG_PROGRESS lines; 2: and results go to it too, so
                                               * that fast steps need no line of their own */

    /* decode only */
    void *context; /* of the calls below */
    void (*ready)(void *context, int chat); /* the model is loaded, chat or not: from here on stop_signal and
                                             * interrupt are looked at; may be NULL */
    void (*write)(void *context, const char *data, size_t n); /* takes an answer's text as it is made, whole characters at a time;
                                                               * NULL: each answer comes as a line at its end */
    const char *input; /* n_input bytes that came on the standard input, for prompt=- */
    size_t n_input;
    /* A line from a person, without its end, until the next call: not NULL where one sits, and then `write` is there too.  Without
     * prompt= and prompt_file= there is a chat. */
    hd_line_end (*read_line)(void *context, const char *prompt, const char **line, size_t *n);
    volatile sig_atomic_t *interrupt; /* not 0: end the answer in work; the chat clears it */
} hd_run_hooks;

/* `hadal train`: pre-training, resumed from the run's newest valid checkpoint when there is one. */
hd_status hd_cmd_train(const hd_config *config, const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

/* `hadal plan`: the memory that training with this configuration would take on one device, without taking it. */
hd_status hd_cmd_plan(const hd_config *config, hd_err *err) HD_CHECK_RESULT;

/* `hadal check`: logits of a folder's model beside a golden file, activations beside a dump; docs/check.md.  HD_E_VERIFY when a limit
 * that was asked for does not hold, after all records were reported. */
hd_status hd_cmd_check(const hd_config *config, const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

/* `hadal decode`: continues prompts, or answers them by a chat template, from a HuggingFace folder or a run's checkpoint; docs/decode.md.
 * Answers are HD_LOG_RESULT lines in the order of the prompts, unless hooks->write takes the only one. */
hd_status hd_cmd_decode(const hd_config *config, const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

/* `hadal convert FROM TO`: a model folder, or a run's newest checkpoint, as another HuggingFace folder; docs/convert.md. */
hd_status hd_cmd_convert(const hd_config *config, const char *from, const char *to, const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

/* `hadal inspect FOLDER [PATTERN]`: tensors, shapes, dtypes, sizes and parameter counts, without reading values.  pattern: an extended
 * regular expression over names, or NULL. */
hd_status hd_cmd_inspect(const char *path, const char *pattern, hd_err *err) HD_CHECK_RESULT;

/* The same of the model that a configuration describes, without any folder. */
hd_status hd_cmd_inspect_model(const hd_config *config, hd_err *err) HD_CHECK_RESULT;

/* `hadal diff A B`: two folders value by value.  HD_E_VERIFY when they differ. */
hd_status hd_cmd_diff(const char *a, const char *b, const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

/* `hadal verify FOLDER [DIGESTS]`: the digest of a model's values; compared with a file of digests (NULL: none), HD_E_VERIFY when they
 * differ.  digests_out= writes such a file. */
hd_status hd_cmd_verify(const hd_config *config, const char *path, const char *digests, const hd_run_hooks *hooks,
                        hd_err *err) HD_CHECK_RESULT;

#endif
