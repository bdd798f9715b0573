/* What a model is asked, as token ids: a text as it is, or a conversation as a chat template writes it. */
#ifndef HD_INFER_PROMPT_H
#define HD_INFER_PROMPT_H

#include "config/config.h"
#include "hadal/status.h"
#include "tokenizer/template.h"
#include "tokenizer/tokenizer.h"

typedef struct hd_prompter {
    const hd_config *config;
    const hd_tokenizer *tokenizer;
    hd_template *template; /* NULL: texts as they are */
    char *bos, *eos;       /* as the template names them; NULL: none */
    hd_template_output rendered;
} hd_prompter;

/* With a template (chat_template, chat_template_path, else the tokenizer's) when use_chat_template says so or, for a chat in which
 * nobody set that key, when there is one.  HD_E_CONFIG when use_chat_template=true finds none. */
hd_status hd_prompter_open(const hd_config *config, const hd_tokenizer *tokenizer, bool chat, hd_prompter *prompter,
                           hd_err *err) HD_CHECK_RESULT;
void hd_prompter_close(hd_prompter *prompter); /* accepts a zeroed one */

/* Appends the ids of a text: with BOS when add_bos is set and the tokenizer has one; or, with a template, of what that makes of system_prompt
 * and the text up to the assistant's answer, which brings its own BOS.  HD_E_CONFIG for a text that is not UTF-8, or when nothing is there
 * to continue. */
hd_status hd_prompter_text(hd_prompter *prompter, const char *text, size_t n, hd_ids *ids, hd_err *err) HD_CHECK_RESULT;

/* The same of a conversation (JSON as hd_chat_render takes it; name is for messages).  HD_E_CONFIG without a template. */
hd_status hd_prompter_conversation(hd_prompter *prompter, const char *json, size_t n, const char *name, hd_ids *ids,
                                   hd_err *err) HD_CHECK_RESULT;

/* Holds a prompt to max_prefill_predict_length and to less than `most` tokens, which prompt and answer have together: as truncate_prompt
 * says, a longer one is refused with HD_E_CONFIG, or shortened, *dropped telling by how many tokens. */
hd_status hd_prompt_fit(const hd_config *config, const hd_tokenizer *tokenizer, int64_t most, hd_ids *ids, int64_t *dropped,
                        hd_err *err) HD_CHECK_RESULT;

#endif
