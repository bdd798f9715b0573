/* The prompt of `hadal decode` as token ids: the text as it is, or as the user's turn of a conversation. */
#ifndef HD_INFER_PROMPT_H
#define HD_INFER_PROMPT_H

#include "config/config.h"
#include "hadal/status.h"
#include "tokenizer/tokenizer.h"

/* prompt, with BOS when add_bos is set and the tokenizer has one; or, with use_chat_template, what the template (chat_template,
 * chat_template_path, else the tokenizer's) makes of system_prompt and prompt up to the assistant's answer, which brings its own BOS.
 * HD_E_CONFIG when there is no template, or nothing to continue.  Free *ids with hd_ids_free. */
hd_status hd_prompt_encode(const hd_config *config, const hd_tokenizer *tokenizer, hd_ids *ids, hd_err *err) HD_CHECK_RESULT;

#endif
