/* The prompts of one run, before they are token ids: one text, or the lines of a file. */
#ifndef HD_INFER_PROMPTS_H
#define HD_INFER_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "config/config.h"
#include "hadal/status.h"

typedef struct hd_prompt {
    size_t at, n;      /* bytes of hd_prompts.text: UTF-8, which may hold NUL */
    size_t line;       /* of the input, from 1; 0: the input is one prompt */
    bool conversation; /* the text is a JSON object with messages */
} hd_prompt;

typedef struct hd_prompts {
    hd_prompt *list;
    size_t n, capacity;
    hd_buf text;
    const char *name; /* of the input, for messages; lives as long as the configuration */
} hd_prompts;         /* a zeroed one is empty and ready */

typedef enum hd_prompts_kind { HD_PROMPTS_WHOLE, HD_PROMPTS_LINES, HD_PROMPTS_JSONL } hd_prompts_kind; /* as keys.def orders documents */

/* Takes n bytes apart:
 *   whole  one prompt, without the line break at its end
 *   lines  a prompt per line; empty lines are passed over
 *   jsonl  per line a JSON string, or an object with a string under `column`, or one with "messages": a conversation
 * HD_E_CORRUPT, with name and line, for what is not so or not UTF-8; HD_E_CONFIG when there is no prompt. */
hd_status hd_prompts_parse(const char *data, size_t n, const char *name, hd_prompts_kind kind, const char *column, hd_prompts *out,
                           hd_err *err) HD_CHECK_RESULT;

/* prompt, prompt_file, or with prompt=- the standard input (n_input bytes). */
hd_status hd_prompts_from_config(const hd_config *config, const char *input, size_t n_input, hd_prompts *out, hd_err *err) HD_CHECK_RESULT;

const char *hd_prompts_text(const hd_prompts *prompts, size_t i); /* list[i].n bytes */

void hd_prompts_free(hd_prompts *prompts);

#endif
