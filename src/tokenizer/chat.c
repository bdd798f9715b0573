/* Messages to the context of a template, and back to text.  See chat.h. */
#include "tokenizer/chat.h"

#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/json.h"
#include "tokenizer/template_string.h"

static const char continue_tag[] = "CONTINUE_FINAL_MESSAGE_TAG "; /* as in transformers: any text that nobody writes */

/* ---- messages -------------------------------------------------------------------------------------------------------- */

/* The message as templates see it: without nulls, and with its reasoning under the names that templates read. */
static hd_status normalize(hd_tpl_run *run, hd_tpl_value message, bool keep_nulls, hd_tpl_value *out)
{
    static const char *const reasoning_names[] = {"reasoning_content", "thinking", "reasoning"};
    hd_status st = HD_OK;
    hd_tpl_value *reasoning = NULL;
    if (message.type != HD_TPL_DICT) {
        return hd_tpl_fail(run, HD_E_CORRUPT, "a message is a %s, want an object", hd_tpl_type_name(message));
    }
    for (int i = 0; i < 3 && (reasoning == NULL || reasoning->type == HD_TPL_NONE); i++) {
        reasoning = hd_tpl_dict_get_text(message.dict, reasoning_names[i], strlen(reasoning_names[i]));
    }
    bool reasons = reasoning != NULL && reasoning->type != HD_TPL_NONE;
    HD_TRY(hd_tpl_dict_new(run, 0, out));
    if (reasons) { HD_TRY(hd_tpl_dict_set_text(run, out->dict, "thinking", *reasoning)); }
    for (size_t i = 0; i < message.dict->n; i++) {
        const hd_tpl_entry *entry = &message.dict->entries[i];
        if (entry->value.type == HD_TPL_NONE && !keep_nulls) { continue; }
        if (reasons) {
            HD_TRY(hd_tpl_dict_set(run, out->dict, entry->key, entry->value));
        } else {
            HD_TRY(hd_tpl_dict_add(run, out->dict, entry->key, entry->value));
        }
    }
    if (reasons) { HD_TRY(hd_tpl_dict_set_text(run, out->dict, "reasoning_content", *reasoning)); }
out:
    return st;
}

static hd_status add_system_prompt(hd_tpl_run *run, const hd_tpl_list *from, const char *prompt, hd_tpl_list *to)
{
    hd_status st = HD_OK;
    hd_tpl_value message, *role = NULL;
    if (from->n > 0 && from->items[0].type == HD_TPL_DICT) { role = hd_tpl_dict_get_text(from->items[0].dict, "role", 4); }
    if (prompt == NULL || (role != NULL && hd_tpl_is_text(*role, "system"))) { return HD_OK; }
    HD_TRY(hd_tpl_dict_new(run, 2, &message));
    HD_TRY(hd_tpl_dict_set_text(run, message.dict, "role", hd_tpl_text("system", 6)));
    HD_TRY(hd_tpl_dict_set_text(run, message.dict, "content", hd_tpl_text(prompt, strlen(prompt))));
    HD_TRY(hd_tpl_list_add(run, to, message));
out:
    return st;
}

static hd_status normalize_all(hd_tpl_run *run, hd_tpl_value messages, const hd_chat_options *options, hd_tpl_value *out)
{
    hd_status st = HD_OK;
    hd_tpl_list *list;
    hd_tpl_value message;
    if (messages.type != HD_TPL_LIST) {
        return hd_tpl_fail(run, HD_E_CORRUPT, "the messages are a %s, want an array", hd_tpl_type_name(messages));
    }
    HD_TRY(hd_tpl_list_new(run, messages.list->n + 1, &list));
    HD_TRY(add_system_prompt(run, messages.list, options->system_prompt, list));
    for (size_t i = 0; i < messages.list->n; i++) {
        HD_TRY(normalize(run, messages.list->items[i], options->keep_nulls, &message));
        HD_TRY(hd_tpl_list_add(run, list, message));
    }
    if (list->n == 0) { return hd_tpl_fail(run, HD_E_CORRUPT, "a conversation without messages"); }
    *out = hd_tpl_listed(HD_TPL_LIST, list);
out:
    return st;
}

/* ---- the context ----------------------------------------------------------------------------------------------------- */

static hd_status parse(hd_tpl_run *run, const char *text, size_t n, const char *name, hd_tpl_value *out)
{
    hd_json json;
    hd_json_open(&json, text, n, name, HD_JSON_STRICT);
    hd_status st = hd_tpl_from_json(run, &json, out);
    if (st == HD_OK) { st = hd_json_end(&json, run->err); }
    hd_json_close(&json);
    return st;
}

static hd_status add_names(hd_tpl_run *run, hd_tpl_dict *context, const hd_tpl_dict *names)
{
    for (size_t i = 0; i < names->n; i++) {
        hd_status st = hd_tpl_dict_set(run, context, names->entries[i].key, names->entries[i].value);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status make_context(hd_tpl_run *run, const char *json, size_t n, const char *name, const hd_chat_options *options,
                              hd_tpl_value *context)
{
    hd_status st = HD_OK;
    hd_tpl_value given, names, *messages = &given;
    HD_TRY(hd_tpl_dict_new(run, 8, context));
    HD_TRY(hd_tpl_dict_set_text(run, context->dict, "tools", hd_tpl_none()));
    HD_TRY(hd_tpl_dict_set_text(run, context->dict, "documents", hd_tpl_none()));
    if (options->bos_token != NULL) {
        HD_TRY(hd_tpl_dict_set_text(run, context->dict, "bos_token", hd_tpl_text(options->bos_token, strlen(options->bos_token))));
    }
    if (options->eos_token != NULL) {
        HD_TRY(hd_tpl_dict_set_text(run, context->dict, "eos_token", hd_tpl_text(options->eos_token, strlen(options->eos_token))));
    }
    HD_TRY(parse(run, json, n, name, &given));
    if (given.type == HD_TPL_DICT) {
        messages = hd_tpl_dict_get_text(given.dict, "messages", 8);
        if (messages == NULL) { return hd_tpl_fail(run, HD_E_CORRUPT, "%s: no member \"messages\"", name); }
        HD_TRY(add_names(run, context->dict, given.dict));
    }
    if (options->names_json != NULL) {
        HD_TRY(parse(run, options->names_json, strlen(options->names_json), "names for the template", &names));
        if (names.type != HD_TPL_DICT) {
            return hd_tpl_fail(run, HD_E_CORRUPT, "the names for the template are a %s, want an object", hd_tpl_type_name(names));
        }
        HD_TRY(add_names(run, context->dict, names.dict));
    }
    HD_TRY(normalize_all(run, *messages, options, &given));
    HD_TRY(hd_tpl_dict_set_text(run, context->dict, "messages", given));
    HD_TRY(hd_tpl_dict_set_text(run, context->dict, "add_generation_prompt", hd_tpl_bool(options->add_generation_prompt)));
out:
    return st;
}

/* ---- continuing the final message ------------------------------------------------------------------------------------ */

/* Marks the end of the final message's text; *text is that text. */
static hd_status mark_final(hd_tpl_run *run, hd_tpl_dict *context, hd_tpl_value *text)
{
    hd_tpl_list *messages = hd_tpl_dict_get_text(context, "messages", 8)->list;
    hd_tpl_value *content = hd_tpl_dict_get_text(messages->items[messages->n - 1].dict, "content", 7);
    if (content != NULL && content->type == HD_TPL_LIST) {
        const hd_tpl_list *blocks = content->list;
        content = NULL;
        for (size_t i = blocks->n; i-- > 0 && content == NULL;) {
            if (blocks->items[i].type == HD_TPL_DICT) { content = hd_tpl_dict_get_text(blocks->items[i].dict, "text", 4); }
        }
    }
    if (content == NULL || content->type != HD_TPL_STRING) {
        return hd_tpl_fail(run, HD_E_INVALID, "the final message has no text to continue");
    }
    *text = *content;
    return hd_tpl_join(run, *content, hd_tpl_text(continue_tag, sizeof continue_tag - 1), content);
}

/* Cuts the output where the mark stands: before white space that the template put there, if it trimmed the message. */
static hd_status cut_at_mark(hd_tpl_run *run, hd_tpl_value final, hd_template_output *output)
{
    hd_tpl_value text = hd_tpl_text(hd_buf_text(&output->text), output->text.n);
    hd_tpl_value tag = hd_tpl_text(continue_tag, sizeof continue_tag - 1), bare = hd_tpl_text(continue_tag, sizeof continue_tag - 2);
    size_t at = hd_tpl_rfind_text(text, bare);
    if (at == SIZE_MAX || hd_tpl_find_text(text, hd_tpl_strip(final, NULL, true, true), 0) == SIZE_MAX) {
        return hd_tpl_fail(run, HD_E_INVALID, "the final message cannot be continued: the template does not print it whole");
    }
    bool whole = text.n - at >= tag.n && memcmp(text.text + at, tag.text, tag.n) == 0;
    output->text.n = whole ? at : hd_tpl_trimmed(text.text, at);
    output->text.data[output->text.n] = '\0';
    for (size_t i = 0; i < output->n_span; i++) {
        hd_template_span *span = &output->spans[i];
        span->begin = span->begin < output->text.n ? span->begin : output->text.n;
        span->end = span->end < output->text.n ? span->end : output->text.n;
    }
    return HD_OK;
}

hd_status hd_chat_render(const hd_template *template, const char *json, size_t n, const char *name, const hd_chat_options *options,
                         hd_template_output *output, hd_err *err)
{
    hd_status st = HD_OK;
    hd_tpl_run run;
    hd_tpl_value context, final = hd_tpl_none();
    if (options->continue_final_message && options->add_generation_prompt) {
        return HD_FAIL(err, HD_E_CONFIG, "a final message is continued, or a generation prompt is added; not both");
    }
    hd_tpl_run_open(&run, options->limits, &output->text, err);
    run.now_s = options->now_s;
    HD_TRY(make_context(&run, json, n, name, options, &context));
    if (options->continue_final_message) { HD_TRY(mark_final(&run, context.dict, &final)); }
    HD_TRY(hd_template_render(template, &run, context, output));
    if (options->continue_final_message) { HD_TRY(cut_at_mark(&run, final, output)); }
out:
    hd_tpl_run_close(&run);
    return st;
}

/* ---- files ----------------------------------------------------------------------------------------------------------- */

enum { MAX_JSON_BYTES = 32 << 20 };

/* One of a list of named templates: keeps the text of the wanted name, or of "default" as long as that was not met. */
static hd_status read_named(hd_json *json, bool with_tools, char **text, bool *exact, hd_err *err)
{
    hd_status st = HD_OK;
    bool more;
    hd_json_str key;
    char *name = NULL, *body = NULL;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "name")) { HD_TRY(hd_json_strdup(json, &name, err)); }
        if (hd_json_str_is(key, "template")) { HD_TRY(hd_json_strdup(json, &body, err)); }
    }
    if (name == NULL || body == NULL) { HD_TRY(hd_json_fail(json, err, "a template without \"name\" or \"template\"")); }
    bool wanted = strcmp(name, with_tools ? "tool_use" : "default") == 0;
    if (wanted || (!*exact && strcmp(name, "default") == 0)) {
        hd_free(*text);
        *text = body;
        body = NULL;
        *exact = wanted;
    }
out:
    hd_free(name);
    hd_free(body);
    return st;
}

static hd_status read_member(hd_json *json, bool with_tools, char **text, hd_err *err)
{
    hd_status st = HD_OK;
    hd_json_type type;
    bool more, exact = false;
    HD_TRY(hd_json_peek(json, &type, err));
    if (type != HD_JSON_ARRAY) { return hd_json_strdup(json, text, err); }
    HD_TRY(hd_json_array_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        HD_TRY(read_named(json, with_tools, text, &exact, err));
    }
out:
    return st;
}

/* The member chat_template of a JSON text; *text stays NULL when there is none. */
static hd_status read_json(const char *data, size_t n, const char *path, bool with_tools, char **text, hd_err *err)
{
    hd_status st = HD_OK;
    hd_json json;
    hd_json_str key;
    bool more;
    hd_json_open(&json, data, n, path, HD_JSON_STRICT);
    HD_TRY(hd_json_object_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "chat_template")) { HD_TRY(read_member(&json, with_tools, text, err)); }
    }
    HD_TRY(hd_json_end(&json, err));
    if (*text == NULL) { st = HD_FAIL(err, HD_E_CORRUPT, "%s: no member \"chat_template\"", path); }
out:
    hd_json_close(&json);
    return st;
}

hd_status hd_chat_template_read(const char *path, bool with_tools, hd_template **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *data = NULL, *text = NULL;
    size_t n, length = strlen(path);
    bool is_json = length > 5 && strcmp(path + length - 5, ".json") == 0;
    *out = NULL;
    HD_TRY(hd_io_read_file(path, is_json ? MAX_JSON_BYTES : HD_TEMPLATE_MAX_BYTES, &data, &n, err));
    if (is_json) { HD_TRY(read_json(data, n, path, with_tools, &text, err)); }
    HD_TRY(hd_template_compile(is_json ? text : data, is_json ? strlen(text) : n, path, out, err));
out:
    hd_free(text);
    hd_free(data);
    return st;
}
