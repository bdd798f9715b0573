/* Prompts to ids.  See prompt.h. */
#include "infer/prompt.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/chat.h"

/* The text of a token, as a template names it; NULL when there is no such token.  Free with hd_free. */
static hd_status token_text(const hd_tokenizer *tokenizer, int32_t id, char **out, hd_err *err)
{
    size_t n = 0;
    hd_buf text = {0};
    const char *bytes = id >= 0 ? hd_tokenizer_bytes(tokenizer, id, &n) : NULL;
    *out = NULL;
    if (bytes == NULL) { return HD_OK; }
    hd_buf_append(&text, bytes, n);
    hd_status st = hd_buf_check(&text, err);
    if (st == HD_OK) { *out = hd_buf_take(&text); }
    hd_buf_free(&text);
    return st;
}

static hd_status find_template(const hd_config *config, const hd_tokenizer *tokenizer, hd_template **out, hd_err *err)
{
    const char *given = hd_config_str(config, HD_KEY_chat_template), *path = hd_config_str(config, HD_KEY_chat_template_path);
    const char *own = hd_tokenizer_chat_template(tokenizer);
    if (given != NULL && given[0] != '\0') { return hd_template_compile(given, strlen(given), "chat_template", out, err); }
    if (path != NULL && path[0] != '\0') { return hd_chat_template_read(path, false, out, err); }
    if (own != NULL) { return hd_template_compile(own, strlen(own), "the tokenizer's chat template", out, err); }
    return HD_FAIL(err, HD_E_CONFIG, "use_chat_template=true: the tokenizer has no chat template; set chat_template_path or chat_template");
}

static void write_conversation(const char *prompt, hd_buf *out)
{
    hd_json_writer w;
    hd_json_writer_init(&w, out, 0);
    hd_json_write_array(&w);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "role");
    hd_json_write_string(&w, "user");
    hd_json_write_key(&w, "content");
    hd_json_write_string(&w, prompt);
    hd_json_write_end(&w);
    hd_json_write_end(&w);
}

static hd_status render(const hd_config *config, const hd_tokenizer *tokenizer, const char *prompt, hd_template_output *text, hd_err *err)
{
    hd_status st;
    hd_template *template = NULL;
    hd_buf conversation = {0};
    char *bos = NULL, *eos = NULL;
    const char *system = hd_config_str(config, HD_KEY_system_prompt);
    write_conversation(prompt, &conversation);
    HD_TRY(hd_buf_check(&conversation, err));
    HD_TRY(find_template(config, tokenizer, &template, err));
    HD_TRY(token_text(tokenizer, hd_tokenizer_bos(tokenizer), &bos, err));
    HD_TRY(token_text(tokenizer, hd_tokenizer_eos(tokenizer), &eos, err));
    hd_chat_options options = {.add_generation_prompt = true, .bos_token = bos, .eos_token = eos,
                               .system_prompt = system != NULL && system[0] != '\0' ? system : NULL};
    st = hd_chat_render(template, conversation.data, conversation.n, "prompt", &options, text, err);
out:
    hd_template_free(template);
    hd_buf_free(&conversation);
    hd_free(bos);
    hd_free(eos);
    return st;
}

hd_status hd_prompt_encode(const hd_config *config, const hd_tokenizer *tokenizer, hd_ids *ids, hd_err *err)
{
    hd_status st = HD_OK;
    hd_template_output rendered = {0};
    const char *prompt = hd_config_str(config, HD_KEY_prompt), *text = prompt != NULL ? prompt : "";
    size_t n = strlen(text);
    int32_t bos = hd_tokenizer_bos(tokenizer);
    if (hd_config_bool(config, HD_KEY_use_chat_template)) {
        HD_TRY(render(config, tokenizer, text, &rendered, err));
        text = hd_buf_text(&rendered.text);
        n = rendered.text.n;
    } else if (hd_config_bool(config, HD_KEY_add_bos) && bos >= 0) {
        HD_TRY(hd_ids_append(ids, &bos, 1, err));
    }
    HD_TRY(hd_tokenizer_encode(tokenizer, text, n, HD_ENCODE_PLAIN, ids, err));
    if (ids->n == 0) { st = HD_FAIL(err, HD_E_CONFIG, "the prompt is empty and there is no BOS: there is nothing to continue"); }
out:
    hd_template_output_free(&rendered);
    return st;
}
