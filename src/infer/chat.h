/* A conversation on a terminal: lines in, answers out, one session whose cache is kept. */
#ifndef HD_INFER_CHAT_H
#define HD_INFER_CHAT_H

#include "config/config.h"
#include "hadal/commands.h"
#include "hadal/status.h"
#include "infer/generate.h"
#include "infer/prompt.h"

/* Reads turns with hooks->read_line until there are no more.  With a template the history is rendered anew for each turn, and what
 * that has in common with the cache is not read again; without one, lines and answers are one running text.  hooks->interrupt ends an
 * answer and is cleared; hooks->stop_signal ends the chat with HD_E_SIGNAL.  generator: one slot, prefix_grain 1. */
hd_status hd_chat_run(const hd_config *config, const hd_tokenizer *tokenizer, hd_prompter *prompter, hd_generator *generator, int64_t most,
                      const hd_run_hooks *hooks, hd_err *err) HD_CHECK_RESULT;

#endif
