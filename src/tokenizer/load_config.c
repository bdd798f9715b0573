/* tokenizer_config.json: which tokens begin, end and pad a text, whether the class puts them there, and the chat template.
 *
 * LlamaTokenizer and LlamaTokenizerFast, the class that DeepSeek's files name, replace the post-processor of tokenizer.json by
 * [bos] text [eos] as add_bos_token and add_eos_token say.  Other classes leave it as it is. */
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/internal.h"

typedef struct config {
    const char *name;
    hd_json_str bos, eos, pad, chat_template; /* raw; text NULL: absent */
    bool is_llama, add_bos, add_eos;
} config;

static void open_kept(const config *c, hd_json *json, hd_json_str text)
{
    hd_json_open(json, text.text, text.n, c->name, HD_JSON_ALLOW_DUPLICATES);
}

/* The id of a token given as "content", {"content": ..., ...} or null. */
static hd_status read_token(const config *c, const hd_tokenizer *t, hd_json_str raw, int32_t *id, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_str key, text;
    hd_json_type type;
    bool more;
    if (raw.text == NULL) { return HD_OK; }
    open_kept(c, &json, raw);
    HD_TRY(hd_json_peek(&json, &type, err));
    if (type == HD_JSON_NULL) {
        st = hd_json_null(&json, err);
    } else if (type == HD_JSON_OBJECT) {
        HD_TRY(hd_json_object_begin(&json, err));
        for (;;) {
            HD_TRY(hd_json_object_next(&json, &more, &key, err));
            if (!more) { break; }
            if (!hd_json_str_is(key, "content")) { continue; }
            HD_TRY(hd_json_string(&json, &text, err));
            *id = hd_vocab_find_text(&t->vocab, text.text, text.n);
        }
    } else {
        HD_TRY(hd_json_string(&json, &text, err));
        *id = hd_vocab_find_text(&t->vocab, text.text, text.n);
    }
out:
    hd_json_close(&json);
    return st;
}

static hd_status keep_template(hd_tokenizer *t, hd_json *json, hd_err *err)
{
    hd_free(t->chat_template);
    t->chat_template = NULL;
    return hd_json_strdup(json, &t->chat_template, err);
}

/* {"name": N, "template": T} of a list of templates: "default" is kept. */
static hd_status read_named_template(hd_tokenizer *t, hd_json *json, hd_err *err)
{
    hd_status st;
    hd_json_str key, text;
    char *kept = NULL;
    bool more, is_default = false;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "name")) {
            HD_TRY(hd_json_string(json, &text, err));
            is_default = hd_json_str_is(text, "default");
        } else if (hd_json_str_is(key, "template")) {
            hd_free(kept);
            kept = NULL;
            HD_TRY(hd_json_strdup(json, &kept, err));
        }
    }
    if (is_default) {
        hd_free(t->chat_template);
        t->chat_template = kept;
        kept = NULL;
    }
out:
    hd_free(kept);
    return st;
}

static hd_status read_template(const config *c, hd_tokenizer *t, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_type type;
    bool more;
    if (c->chat_template.text == NULL) { return HD_OK; }
    open_kept(c, &json, c->chat_template);
    HD_TRY(hd_json_peek(&json, &type, err));
    if (type == HD_JSON_NULL) {
        st = hd_json_null(&json, err);
    } else if (type == HD_JSON_STRING) {
        st = keep_template(t, &json, err);
    } else {
        HD_TRY(hd_json_array_begin(&json, err));
        for (;;) {
            HD_TRY(hd_json_array_next(&json, &more, err));
            if (!more) { break; }
            HD_TRY(read_named_template(t, &json, err));
        }
    }
out:
    hd_json_close(&json);
    return st;
}

static hd_status read_flag(hd_json *json, bool *out, hd_err *err)
{
    hd_json_type type;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    return type == HD_JSON_NULL ? hd_json_null(json, err) : hd_json_bool(json, out, err);
}

static hd_status read_member(hd_json *json, hd_json_str key, config *c, hd_err *err)
{
    hd_json_str text;
    if (hd_json_str_is(key, "bos_token")) { return hd_json_raw(json, &c->bos, err); }
    if (hd_json_str_is(key, "eos_token")) { return hd_json_raw(json, &c->eos, err); }
    if (hd_json_str_is(key, "pad_token")) { return hd_json_raw(json, &c->pad, err); }
    if (hd_json_str_is(key, "chat_template")) { return hd_json_raw(json, &c->chat_template, err); }
    if (hd_json_str_is(key, "add_bos_token")) { return read_flag(json, &c->add_bos, err); }
    if (hd_json_str_is(key, "add_eos_token")) { return read_flag(json, &c->add_eos, err); }
    if (!hd_json_str_is(key, "tokenizer_class")) { return hd_json_skip(json, err); }
    hd_status st = hd_json_raw(json, &text, err);
    if (st == HD_OK) { c->is_llama = hd_json_str_is(text, "\"LlamaTokenizerFast\"") || hd_json_str_is(text, "\"LlamaTokenizer\""); }
    return st;
}

static hd_status put_around(hd_tokenizer *t, const config *c, hd_err *err)
{
    t->prefix.n = t->suffix.n = 0;
    if (c->add_bos) { t->prefix.id[t->prefix.n++] = t->bos; }
    if (c->add_eos) { t->suffix.id[t->suffix.n++] = t->eos; }
    if ((c->add_bos && t->bos < 0) || (c->add_eos && t->eos < 0)) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: %s is true and tokenizer.json has no such token", c->name, t->bos < 0 && c->add_bos ? "add_bos_token" : "add_eos_token");
    }
    return HD_OK;
}

/* Names by which the tokens are known where no tokenizer_config.json tells. */
static void guess(hd_tokenizer *t)
{
    static const char *const bos[] = {"<｜begin▁of▁sentence｜>", "<|begin_of_text|>", "<s>", "<|endoftext|>"};
    static const char *const eos[] = {"<｜end▁of▁sentence｜>", "<|end_of_text|>", "</s>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof bos / sizeof bos[0]; i++) {
        if (t->bos < 0) { t->bos = hd_vocab_find_text(&t->vocab, bos[i], strlen(bos[i])); }
        if (t->eos < 0) { t->eos = hd_vocab_find_text(&t->vocab, eos[i], strlen(eos[i])); }
    }
    t->pad = t->eos;
}

hd_status hd_tokenizer_load_config(hd_tokenizer *tokenizer, const char *text, size_t n, const char *name, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_str key;
    config c = {.name = name, .add_bos = true};
    bool more;
    if (text == NULL) {
        guess(tokenizer);
        return HD_OK;
    }
    hd_json_open(&json, text, n, name, HD_JSON_STRICT);
    HD_TRY(hd_json_object_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(read_member(&json, key, &c, err));
    }
    HD_TRY(hd_json_end(&json, err));
    HD_TRY(read_token(&c, tokenizer, c.bos, &tokenizer->bos, err));
    HD_TRY(read_token(&c, tokenizer, c.eos, &tokenizer->eos, err));
    HD_TRY(read_token(&c, tokenizer, c.pad, &tokenizer->pad, err));
    HD_TRY(read_template(&c, tokenizer, err));
    if (c.is_llama) { HD_TRY(put_around(tokenizer, &c, err)); }
out:
    hd_json_close(&json);
    return st;
}
