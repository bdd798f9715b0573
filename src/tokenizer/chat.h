/* Conversations to text: a chat template rendered with what transformers' apply_chat_template gives it (its version 5). */
#ifndef HD_TOKENIZER_CHAT_H
#define HD_TOKENIZER_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer/template.h"

typedef struct hd_chat_options {
    bool add_generation_prompt;        /* end with what begins the assistant's turn */
    bool continue_final_message;       /* end where the final message ends; not with add_generation_prompt */
    bool keep_nulls;                   /* do not drop members of messages that are null: transformers 4 kept them */
    const char *system_prompt;         /* put before a conversation that does not begin with a system message; NULL: none */
    const char *bos_token, *eos_token; /* NULL: not defined */
    const char *names_json;            /* an object: further names for the template, e.g. {"thinking": true, "tools": [...]}; NULL: none */
    const hd_tpl_limits *limits;       /* NULL: hd_tpl_default_limits */
    int64_t now_s;                     /* the time that strftime_now shows, seconds since 1970; 0: the clock */
} hd_chat_options;

/* Renders a conversation: JSON (n bytes; name is for messages), an array of messages or an object with the member `messages`,
 * whose other members (tools, documents, ...) are names for the template too.  A message is an object; what it holds is between
 * the conversation and the template.  Text and spans of assistant text go to *output (cleared first; zeroed or used before).
 * HD_E_CORRUPT: not such JSON; HD_E_CONFIG: options that exclude each other; otherwise as hd_template_render. */
hd_status hd_chat_render(const hd_template *template, const char *json, size_t n, const char *name, const hd_chat_options *options,
                         hd_template_output *output, hd_err *err) HD_CHECK_RESULT;

/* A template from a file: as it is, or when the name ends in ".json" its member chat_template (a string, or a list of
 * {"name", "template"}, of which "tool_use" is taken with tools and "default" otherwise). */
hd_status hd_chat_template_read(const char *path, bool with_tools, hd_template **out, hd_err *err) HD_CHECK_RESULT;

#endif
