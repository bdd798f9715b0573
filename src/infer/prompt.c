/* Prompts to ids.  See prompt.h. */
#include "infer/prompt.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/chat.h"

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

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

/* *out stays NULL when nothing names a template. */
static hd_status find_template(const hd_config *config, const hd_tokenizer *tokenizer, hd_template **out, hd_err *err)
{
    const char *given = hd_config_str(config, HD_KEY_chat_template), *path = hd_config_str(config, HD_KEY_chat_template_path);
    const char *own = hd_tokenizer_chat_template(tokenizer);
    if (given != NULL) { return hd_template_compile(given, strlen(given), "chat_template", out, err); }
    if (path != NULL) { return hd_chat_template_read(path, false, out, err); }
    if (own != NULL) { return hd_template_compile(own, strlen(own), "the tokenizer's chat template", out, err); }
    return HD_OK;
}

hd_status hd_prompter_open(const hd_config *config, const hd_tokenizer *tokenizer, bool chat, hd_prompter *p, hd_err *err)
{
    hd_status st = HD_OK;
    bool wanted = hd_config_bool(config, HD_KEY_use_chat_template);
    *p = (hd_prompter){.config = config, .tokenizer = tokenizer};
    if (!wanted && (!chat || hd_config_is_set(config, HD_KEY_use_chat_template))) { return HD_OK; }
    HD_TRY(find_template(config, tokenizer, &p->template, err));
    if (p->template == NULL && wanted) {
        st = HD_FAIL(err, HD_E_CONFIG, "use_chat_template=true: the tokenizer has no chat template; set chat_template_path or chat_template");
        goto out;
    }
    HD_TRY(token_text(tokenizer, hd_tokenizer_bos(tokenizer), &p->bos, err));
    HD_TRY(token_text(tokenizer, hd_tokenizer_eos(tokenizer), &p->eos, err));
out:
    return st;
}

void hd_prompter_close(hd_prompter *p)
{
    hd_template_free(p->template);
    hd_template_output_free(&p->rendered);
    hd_free(p->bos);
    hd_free(p->eos);
}

/* ---- to ids ------------------------------------------------------------------------------------------------------------- */

static hd_status want_some(const hd_ids *ids, hd_err *err)
{
    if (ids->n > 0) { return HD_OK; }
    return HD_FAIL(err, HD_E_CONFIG, "the prompt is empty and there is no BOS: there is nothing to continue");
}

hd_status hd_prompter_conversation(hd_prompter *p, const char *json, size_t n, const char *name, hd_ids *ids, hd_err *err)
{
    hd_status st;
    if (p->template == NULL) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: a conversation wants use_chat_template=true", name);
    }
    hd_chat_options options = {.add_generation_prompt = true, .bos_token = p->bos, .eos_token = p->eos,
                               .system_prompt = hd_config_str(p->config, HD_KEY_system_prompt)};
    HD_TRY(hd_chat_render(p->template, json, n, name, &options, &p->rendered, err));
    HD_TRY(hd_tokenizer_encode(p->tokenizer, hd_buf_text(&p->rendered.text), p->rendered.text.n, HD_ENCODE_PLAIN, ids, err));
    st = want_some(ids, err);
out:
    return st;
}

static hd_status render_turn(hd_prompter *p, const char *text, size_t n, hd_ids *ids, hd_err *err)
{
    hd_buf messages = {0};
    hd_json_writer w;
    hd_json_writer_init(&w, &messages, 0);
    hd_json_write_array(&w);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "role");
    hd_json_write_string(&w, "user");
    hd_json_write_key(&w, "content");
    hd_json_write_string_n(&w, text, n);
    hd_json_write_end(&w);
    hd_json_write_end(&w);
    hd_status st = hd_buf_check(&messages, err);
    if (st == HD_OK) { st = hd_prompter_conversation(p, messages.data, messages.n, "prompt", ids, err); }
    hd_buf_free(&messages);
    return st;
}

hd_status hd_prompter_text(hd_prompter *p, const char *text, size_t n, hd_ids *ids, hd_err *err)
{
    size_t bad;
    hd_status st = HD_OK;
    int32_t bos = hd_tokenizer_bos(p->tokenizer);
    if (!hd_utf8_validate(text, n, &bad)) {
        return HD_FAIL(err, HD_E_CONFIG, "the prompt is not UTF-8: its byte %zu is 0x%02X", bad + 1, (unsigned char)text[bad]);
    }
    if (p->template != NULL) { return render_turn(p, text, n, ids, err); }
    if (hd_config_bool(p->config, HD_KEY_add_bos) && bos >= 0) { HD_TRY(hd_ids_append(ids, &bos, 1, err)); }
    HD_TRY(hd_tokenizer_encode(p->tokenizer, text, n, HD_ENCODE_PLAIN, ids, err));
    st = want_some(ids, err);
out:
    return st;
}

/* ---- limits ------------------------------------------------------------------------------------------------------------- */

hd_status hd_prompt_fit(const hd_config *config, const hd_tokenizer *tokenizer, int64_t most, hd_ids *ids, int64_t *dropped, hd_err *err)
{
    int64_t n = (int64_t)ids->n, limit = hd_config_int(config, HD_KEY_max_prefill_predict_length), room = limit < most - 1 ? limit : most - 1;
    *dropped = 0;
    if (n <= room) { return HD_OK; }
    if (hd_config_is(config, HD_KEY_truncate_prompt, "refuse") || room < 1) {
        return HD_FAIL(err, HD_E_CONFIG, "the prompt has %" PRId64 " tokens; max_prefill_predict_length is %" PRId64 " and max_target_length, prompt "
                       "and answer together, is %" PRId64, n, limit, most);
    }
    *dropped = n - room;
    ids->n = (size_t)room;
    if (hd_config_is(config, HD_KEY_truncate_prompt, "start")) {
        int64_t keep = ids->id[0] == hd_tokenizer_bos(tokenizer) && room > 1; /* models do not work without their BOS */
        memmove(ids->id + keep, ids->id + keep + *dropped, (size_t)(room - keep) * sizeof *ids->id);
    }
    return HD_OK;
}
