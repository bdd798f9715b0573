/* Texts to tokens to logits to a file.  See reference.h. */
#include "eval/reference.h"

#include <inttypes.h>

#include "base/buf.h"
#include "hadal/log.h"
#include "infer/prompt.h"
#include "infer/prompts.h"
#include "tokenizer/tokenizer.h"

typedef struct reference {
    hd_tokenizer *tokenizer;
    hd_prompts prompts;
    hd_prompter prompter;
    hd_scorer *scorer;
    hd_golden_writer *writer;
} reference;

static hd_status write_rows(void *context, int64_t first, int64_t n, const float *logits, hd_err *err)
{
    hd_status st = HD_OK;
    const reference *r = context;
    int64_t vocab = hd_scorer_dims(r->scorer)->vocab_size;
    (void)first;
    for (int64_t i = 0; i < n && st == HD_OK; i++) { st = hd_golden_write_row(r->writer, logits + i * vocab, vocab, err); }
    return st;
}

static hd_status write_prompt(reference *r, size_t i, int64_t max_tokens, int64_t token_size, hd_err *err)
{
    hd_status st;
    hd_ids ids = {0};
    hd_buf text = {0};
    const hd_prompt *prompt = &r->prompts.list[i];
    const char *bytes = hd_prompts_text(&r->prompts, i);
    hd_buf_append(&text, bytes, prompt->n);
    HD_TRY(hd_buf_check(&text, err));
    HD_TRY(prompt->conversation ? hd_prompter_conversation(&r->prompter, bytes, prompt->n, r->prompts.name, &ids, err)
                                : hd_prompter_text(&r->prompter, bytes, prompt->n, &ids, err));
    int64_t n = (int64_t)ids.n < token_size ? (int64_t)ids.n : token_size;
    if (n > max_tokens) {
        st = HD_FAIL(err, HD_E_CONFIG, "%s: prompt %zu has %" PRId64 " tokens and max_target_length is %" PRId64
                     ": raise it, or write leading tokens only with token_size", r->prompts.name, i + 1, n, max_tokens);
        goto out;
    }
    HD_TRY(hd_golden_write_begin(r->writer, hd_buf_text(&text), ids.id, n, err));
    HD_TRY(hd_scorer_run(r->scorer, ids.id, n, write_rows, r, err));
    st = hd_golden_write_end(r->writer, err);
out:
    hd_ids_free(&ids);
    hd_buf_free(&text);
    return st;
}

hd_status hd_reference_write(const hd_config *config, hd_scorer *scorer, int64_t max_tokens, int64_t token_size, hd_golden_writer *writer,
                             hd_err *err)
{
    hd_status st;
    reference r = {.scorer = scorer, .writer = writer};
    HD_TRY(hd_tokenizer_from_config(config, &r.tokenizer, err));
    HD_TRY(hd_prompts_from_config(config, NULL, 0, &r.prompts, err));
    HD_TRY(hd_prompter_open(config, r.tokenizer, false, &r.prompter, err));
    for (size_t i = 0; i < r.prompts.n; i++) { HD_TRY(write_prompt(&r, i, max_tokens, token_size, err)); }
    HD_TRY(hd_golden_writer_close(writer, err));
    hd_log(HD_LOG_RESULT, "%s: logits of %zu prompt%s", hd_config_str(config, HD_KEY_output_logits_path), r.prompts.n, r.prompts.n == 1 ? "" : "s");
out:
    hd_prompter_close(&r.prompter);
    hd_prompts_free(&r.prompts);
    hd_tokenizer_close(r.tokenizer);
    return st;
}
