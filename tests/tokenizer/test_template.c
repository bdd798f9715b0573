/* Templates against what Jinja2 and transformers make of them, their budgets, their messages, and failing allocations. */
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/json.h"
#include "tokenizer/chat.h"

#define FOLDER "tests/tokenizer/templates/"

static hd_err err;

static char *read_file(const char *path, size_t *n)
{
    char *data = NULL;
    assert_ok(hd_io_read_file(path, 64 << 20, &data, n, &err));
    return data;
}

/* ---- one template, one context --------------------------------------------------------------------------------------- */

static hd_status render(const char *text, size_t n, const char *context, size_t n_context, const hd_tpl_limits *limits,
                        hd_template_output *out)
{
    hd_status st = HD_OK;
    hd_template *template = NULL;
    hd_tpl_run run = {0};
    hd_tpl_value value;
    hd_json json;
    hd_tpl_run_open(&run, limits, &out->text, &err);
    hd_json_open(&json, context, n_context, "context", HD_JSON_STRICT);
    HD_TRY(hd_tpl_from_json(&run, &json, &value));
    HD_TRY(hd_template_compile(text, n, "t", &template, &err));
    HD_TRY(hd_template_render(template, &run, value, out));
out:
    hd_json_close(&json);
    hd_template_free(template);
    hd_tpl_run_close(&run);
    return st;
}

static hd_status render_text(const char *text, hd_template_output *out)
{
    return render(text, strlen(text), "{}", 2, NULL, out);
}

static void gives(const char *text, const char *want)
{
    hd_template_output out = {0};
    assert_ok(render_text(text, &out));
    assert_string_equal(hd_buf_text(&out.text), want);
    hd_template_output_free(&out);
}

static void refuses(const char *text, hd_status code, const char *message)
{
    hd_template_output out = {0};
    assert_fails(render_text(text, &out), code, message);
    hd_template_output_free(&out);
}

/* ---- recorded cases -------------------------------------------------------------------------------------------------- */

/* A line of a file of cases.  Texts point into the line, but for the two that are decoded. */
typedef struct recorded {
    char *template, *output, *conversation;
    hd_json_str context, options, spans; /* raw JSON */
    bool has_spans;                      /* transformers gives none where a final message is continued */
} recorded;

static void free_recorded(recorded *r)
{
    hd_free(r->template);
    hd_free(r->output);
    hd_free(r->conversation);
}

/* false: not a case but the line that names the versions. */
static bool read_recorded(const char *line, size_t n, recorded *r, size_t *n_template)
{
    hd_json json;
    hd_json_str key, text;
    bool more;
    *r = (recorded){0};
    hd_json_open(&json, line, n, "case", HD_JSON_STRICT);
    assert_ok(hd_json_object_begin(&json, &err));
    for (;;) {
        assert_ok(hd_json_object_next(&json, &more, &key, &err));
        if (!more) { break; }
        bool is_template = hd_json_str_is(key, "template"), is_output = hd_json_str_is(key, "output");
        if (is_template || is_output || hd_json_str_is(key, "conversation")) {
            void *copy;
            assert_ok(hd_json_string(&json, &text, &err));
            assert_ok(hd_alloc(text.n + 1, 1, "case", &copy, &err));
            if (text.n > 0) { memcpy(copy, text.text, text.n); }
            *(is_template ? &r->template : is_output ? &r->output : &r->conversation) = copy;
            if (is_template) { *n_template = text.n; }
        }
        if (hd_json_str_is(key, "context")) { assert_ok(hd_json_raw(&json, &r->context, &err)); }
        if (hd_json_str_is(key, "options")) { assert_ok(hd_json_raw(&json, &r->options, &err)); }
        if (hd_json_str_is(key, "spans")) { assert_ok(hd_json_raw(&json, &r->spans, &err)); }
    }
    hd_json_close(&json);
    r->has_spans = r->options.n == 0 || memmem(r->options.text, r->options.n, "continue", 8) == NULL;
    return r->template != NULL;
}

static bool same_spans(hd_json_str want, const hd_template_output *out)
{
    hd_buf text = {0};
    hd_json_writer w;
    hd_json_writer_init(&w, &text, 0);
    hd_json_write_array(&w);
    for (size_t i = 0; i < out->n_span; i++) {
        hd_json_write_array(&w);
        hd_json_write_u64(&w, out->spans[i].begin);
        hd_json_write_u64(&w, out->spans[i].end);
        hd_json_write_end(&w);
    }
    hd_json_write_end(&w);
    bool same = (want.n == 0 && out->n_span == 0) || (text.n == want.n && memcmp(text.data, want.text, want.n) == 0);
    hd_buf_free(&text);
    return same;
}

/* Tallies of a file of cases. */
typedef struct tally {
    int n, same, both_refuse, unsupported, differ;
} tally;

static void judge(const recorded *r, hd_status st, const hd_template_output *out, const char *what, tally *t)
{
    bool refused = st != HD_OK, wants_refusal = r->output == NULL;
    t->n++;
    if (refused && wants_refusal) {
        assert_true(strncmp(err.msg, "t: line ", 8) == 0 || strstr(err.msg, ".jinja: line ") != NULL ||
                    strstr(err.msg, "final message") != NULL);
        t->both_refuse++;
    } else if (!refused && !wants_refusal && strcmp(hd_buf_text(&out->text), r->output) == 0 &&
               (!r->has_spans || same_spans(r->spans, out))) {
        t->same++;
    } else if (st == HD_E_UNSUPPORTED) {
        t->unsupported++;
    } else {
        t->differ++;
        print_error("  %s\n    %s\n    want %s\n    got  %s\n", what, r->template, wants_refusal ? "a refusal" : r->output,
                    refused ? err.msg : hd_buf_text(&out->text));
    }
}

typedef void (*case_run)(const recorded *r, size_t n_template, void *context, tally *t);

static tally run_cases(const char *path, case_run run, void *context)
{
    tally t = {0};
    size_t n;
    char *data = read_file(path, &n);
    for (size_t at = 0; at < n;) {
        const char *end = memchr(data + at, '\n', n - at);
        size_t length = (end != NULL ? (size_t)(end - data) : n) - at, n_template;
        recorded r;
        if (length > 0 && read_recorded(data + at, length, &r, &n_template)) { run(&r, n_template, context, &t); }
        free_recorded(&r);
        at += length + 1;
    }
    hd_free(data);
    print_message("  %s: %d cases, %d the same, %d refused by both, %d unsupported\n", path, t.n, t.same, t.both_refuse, t.unsupported);
    return t;
}

/* conversations.json: raw JSON of each conversation, the tools, and the context of syntax.jsonl. */
typedef struct conversations {
    char *data;
    size_t n;
    hd_json_str by_name, tools, context;
} conversations;

static hd_json_str member(hd_json_str object, const char *name)
{
    hd_json json;
    hd_json_str key, found = {0};
    bool more;
    hd_json_open(&json, object.text, object.n, "object", HD_JSON_STRICT);
    assert_ok(hd_json_object_begin(&json, &err));
    for (;;) {
        assert_ok(hd_json_object_next(&json, &more, &key, &err));
        if (!more) { break; }
        if (hd_json_str_is(key, name)) { assert_ok(hd_json_raw(&json, &found, &err)); }
    }
    hd_json_close(&json);
    return found;
}

static conversations open_conversations(void)
{
    conversations c = {0};
    c.data = read_file(FOLDER "conversations.json", &c.n);
    hd_json_str all = {c.data, c.n};
    c.by_name = member(all, "conversations");
    c.tools = member(all, "tools");
    c.context = member(all, "context");
    return c;
}

static void run_syntax(const recorded *r, size_t n_template, void *context, tally *t)
{
    hd_json_str names = r->context.n > 0 ? r->context : ((conversations *)context)->context;
    hd_template_output out = {0};
    hd_status st = render(r->template, n_template, names.text, names.n, NULL, &out);
    judge(r, st, &out, "syntax", t);
    hd_template_output_free(&out);
}

static void syntax_as_jinja2(void **state)
{
    (void)state;
    conversations c = open_conversations();
    tally t = run_cases(FOLDER "syntax.jsonl", run_syntax, &c);
    assert_true(t.n > 200 && t.differ == 0 && t.unsupported <= 6);
    const char *more = getenv("HADAL_TEMPLATE_CASES"); /* what random_templates.py wrote */
    if (more != NULL) { assert_int_equal(run_cases(more, run_syntax, &c).differ, 0); }
    hd_free(c.data);
}

static bool is_set(hd_json_str options, const char *name)
{
    hd_json_str value = member(options, name);
    return value.n == 4 && memcmp(value.text, "true", 4) == 0;
}

static void run_chat(const recorded *r, size_t n_template, void *context, tally *t)
{
    const conversations *c = context;
    hd_json_str messages = member(c->by_name, r->conversation), names = member(r->options, "names");
    hd_buf chat = {0}, names_text = {0};
    hd_template_output out = {0};
    hd_template *template = NULL;
    char path[256];
    (void)n_template;
    hd_buf_printf(&chat, "{\"messages\": %.*s", (int)messages.n, messages.text);
    if (is_set(r->options, "tools")) { hd_buf_printf(&chat, ", \"tools\": %.*s", (int)c->tools.n, c->tools.text); }
    hd_buf_append_text(&chat, "}");
    hd_buf_append(&names_text, names.text, names.n);
    hd_chat_options options = {.add_generation_prompt = is_set(r->options, "add_generation_prompt"),
                               .continue_final_message = is_set(r->options, "continue_final_message"),
                               .keep_nulls = is_set(r->options, "keep_nulls"),
                               .bos_token = "<｜begin▁of▁sentence｜>",
                               .eos_token = "<｜end▁of▁sentence｜>",
                               .names_json = names.n > 0 ? hd_buf_text(&names_text) : NULL};
    snprintf(path, sizeof path, FOLDER "%s", r->template);
    hd_status st = hd_chat_template_read(path, false, &template, &err);
    if (st == HD_OK) { st = hd_chat_render(template, chat.data, chat.n, "chat", &options, &out, &err); }
    judge(r, st, &out, r->conversation, t);
    hd_template_free(template);
    hd_template_output_free(&out);
    hd_buf_free(&chat);
    hd_buf_free(&names_text);
}

static void chats_as_transformers(void **state)
{
    (void)state;
    conversations c = open_conversations();
    tally t = run_cases(FOLDER "chats.jsonl", run_chat, &c);
    assert_true(t.n > 900 && t.same > 600 && t.differ == 0 && t.unsupported == 0);
    hd_free(c.data);
}

/* ---- what is refused, and where -------------------------------------------------------------------------------------- */

static void messages_name_the_place(void **state)
{
    (void)state;
    refuses("a\n{{ x +\n  }}", HD_E_CORRUPT, "t: line 3, column 3: found '}}', want an expression");
    refuses("{% include 'x' %}", HD_E_UNSUPPORTED, "t: line 1, column 4: the statement 'include' is not supported");
    refuses("{% import 'x' as y %}", HD_E_UNSUPPORTED, "'import' is not supported");
    refuses("{{ 'a'|urlize }}", HD_E_UNSUPPORTED, "t: line 1, column 8: the filter 'urlize' is not supported");
    refuses("{{ 'a'|nosuch }}", HD_E_CORRUPT, "the filter 'nosuch' does not exist");
    refuses("{{ 'a' is escaped }}", HD_E_UNSUPPORTED, "the test 'escaped' is not supported");
    refuses("{{ 'a'.encode() }}", HD_E_UNSUPPORTED, "method 'encode' is not supported");
    refuses("{% for x in [1] recursive %}{% endfor %}", HD_E_UNSUPPORTED, "recursive loops");
    refuses("{{ 's'[::, 1] }}", HD_E_UNSUPPORTED, "slices within a list of indexes");
    refuses("{{ 's'[1, 2:] }}", HD_E_UNSUPPORTED, "slices within a list of indexes");
    refuses("{{ lipsum() }}", HD_E_UNSUPPORTED, "'lipsum' is not supported");
    refuses("{% macro m() %}{{ varargs }}{% endmacro %}", HD_E_UNSUPPORTED, "varargs");
    refuses("{% macro m() %}{% generation %}{% endgeneration %}{% endmacro %}{{ m() }}", HD_E_UNSUPPORTED,
            "generation block within a macro");
    refuses("{{ 9223372036854775807 + 1 }}", HD_E_UNSUPPORTED, "t: line 1, column 24: an integer beyond 64 bits");
    refuses("{{ 9223372036854775808 }}", HD_E_UNSUPPORTED, "beyond 64 bits");
    refuses("{{ 'é'.isdigit() }}", HD_E_UNSUPPORTED, "beyond ASCII");
    refuses("{{ é }}", HD_E_CORRUPT, "names of ASCII letters only");
    refuses("\n {{ raise_exception('no way') }}", HD_E_INVALID, "t: line 2, column 20: the template refuses: no way");
    refuses("{{ [1].append(2) }}", HD_E_INVALID, "may not change what they are given");
    refuses("{{ ''.__class__.__mro__[1].__subclasses__() }}", HD_E_INVALID, "nor reach into Python");
    refuses("{{ nope.x }}", HD_E_INVALID, "'nope' is undefined");
    refuses("{{ {'a': 1}.b.c }}", HD_E_INVALID, "a dict has no attribute 'b'");
    refuses("x\xFFy", HD_E_CORRUPT, "byte 1 of the template is not UTF-8");
}

static void budgets_hold(void **state)
{
    (void)state;
    double start = hd_clock_now_s();
    refuses("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", HD_E_INVALID,
            "takes more than 5000000 steps");
    refuses("{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", HD_E_INVALID, "the text is longer than 16777216 bytes");
    refuses("{{ 'x' * 9223372036854775807 }}", HD_E_INVALID, "longer than");
    refuses("{{ [0] * 9223372036854775807 }}", HD_E_INVALID, "values take more than");
    refuses("{% set ns = namespace(x=[]) %}{% for a in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}",
            HD_E_INVALID, "steps");
    refuses("{% set ns = namespace(x=[]) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", HD_E_INVALID,
            "nested too deep");
    refuses("{% set ns = namespace(x=[]) %}{% for a in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}", HD_E_INVALID,
            "too deep");
    refuses("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", HD_E_INVALID, "too deep");
    refuses("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", HD_E_INVALID, "levels deep");
    refuses("{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", HD_E_INVALID,
            "values take more than");
    refuses("{% set ns = namespace(x=[1]) %}{% for a in range(9999) %}{% set ns.x = ns.x|map('string') %}{% endfor %}{{ ns.x|list }}",
            HD_E_INVALID, "iterators over iterators");
    assert_true(hd_clock_now_s() - start < 20.0);
}

static void nesting_is_limited(void **state)
{
    (void)state;
    static const char *const opens[] = {"(", "[", "-", "not ", "{1: ", "a.b[", "f(", "1 if 1 else "};
    hd_buf text = {0};
    hd_template_output out = {0};
    for (size_t i = 0; i < sizeof opens / sizeof opens[0]; i++) {
        hd_buf_clear(&text);
        hd_buf_append_text(&text, "{{ ");
        for (int k = 0; k < 20000; k++) { hd_buf_append_text(&text, opens[i]); }
        assert_fails(render(text.data, text.n, "{}", 2, NULL, &out), HD_E_UNSUPPORTED, "nested too deep");
    }
    static const char *const chains[] = {" + 1", "|abs", ".a", "[0]", " and 1", " ** 1", "(1)"};
    for (size_t i = 0; i < sizeof chains / sizeof chains[0]; i++) {
        hd_buf_clear(&text);
        hd_buf_append_text(&text, "{{ 1");
        for (int k = 0; k < 20000; k++) { hd_buf_append_text(&text, chains[i]); }
        hd_buf_append_text(&text, " }}");
        assert_fails(render(text.data, text.n, "{}", 2, NULL, &out), HD_E_UNSUPPORTED, "nested more than 128 deep");
    }
    hd_buf_clear(&text);
    for (int k = 0; k < 20000; k++) { hd_buf_append_text(&text, "{% if 1 %}"); }
    assert_fails(render(text.data, text.n, "{}", 2, NULL, &out), HD_E_UNSUPPORTED, "nested too deep");
    hd_buf_clear(&text);
    hd_buf_append_text(&text, "{{ 1");
    for (int k = 0; k < 20000; k++) { hd_buf_append_text(&text, " ~ 1"); }
    hd_buf_append_text(&text, " }}");
    assert_ok(render(text.data, text.n, "{}", 2, NULL, &out));
    assert_int_equal(out.text.n, 20001);
    hd_buf_clear(&text);
    while (text.n <= HD_TEMPLATE_MAX_BYTES) { hd_buf_append_text(&text, "0123456789abcdef"); }
    assert_fails(render(text.data, text.n, "{}", 2, NULL, &out), HD_E_UNSUPPORTED, "want at most 524288");
    hd_buf_free(&text);
    hd_template_output_free(&out);
}

/* A long conversation costs what its text costs: texts that grow at their end are not copied each time. */
static void long_texts_are_fast(void **state)
{
    (void)state;
    static const char template[] = "{% set ns = namespace(x='') %}{% for i in range(20000) %}{% set ns.x = ns.x ~ 'User: ' ~ s ~ '\\n' "
                                   "%}{% endfor %}{{ ns.x|length }}";
    hd_template_output out = {0};
    double start = hd_clock_now_s();
    hd_tpl_limits limits = hd_tpl_default_limits;
    limits.value_bytes = (size_t)256 << 20;
    assert_ok(render(template, sizeof template - 1, "{\"s\": \"0123456789\"}", 19, &limits, &out));
    assert_string_equal(hd_buf_text(&out.text), "340000");
    print_message("  20000 appends in %.1f ms\n", 1e3 * (hd_clock_now_s() - start));
    hd_template_output_free(&out);
}

/* ---- chats ----------------------------------------------------------------------------------------------------------- */

static const char plain[] =
    "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}{{ bos_token }}{{ add_generation_prompt }}{{ extra }}{{ tools }}";

static hd_status chat(const char *text, const char *json, const hd_chat_options *options, hd_template_output *out)
{
    hd_template *template = NULL;
    hd_status st = hd_template_compile(text, strlen(text), "t", &template, &err);
    if (st == HD_OK) { st = hd_chat_render(template, json, strlen(json), "chat", options, out, &err); }
    hd_template_free(template);
    return st;
}

static void options_of_chats(void **state)
{
    (void)state;
    hd_template_output out = {0};
    hd_chat_options options = {.bos_token = "<s>", .system_prompt = "Be good."};
    assert_ok(chat(plain, "[{\"role\": \"user\", \"content\": \"hi\"}]", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "[system|Be good.][user|hi]<s>FalseNone");
    assert_ok(chat(plain, "[{\"role\": \"system\", \"content\": \"own\"}]", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "[system|own]<s>FalseNone");
    options = (hd_chat_options){.add_generation_prompt = true, .names_json = "{\"extra\": [1, \"x\"]}"};
    assert_ok(chat(plain, "{\"tools\": [{\"a\": null}], \"messages\": [{\"role\": \"user\", \"content\": null}]}", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "[user|]True[1, 'x'][{'a': None}]");
    options.keep_nulls = true;
    assert_ok(chat(plain, "[{\"role\": \"user\", \"content\": null}]", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "[user|None]True[1, 'x']None");
    options.continue_final_message = true;
    assert_fails(chat(plain, "[]", &options, &out), HD_E_CONFIG, "not both");
    options = (hd_chat_options){.names_json = "[]"};
    assert_fails(chat(plain, "[{}]", &options, &out), HD_E_CORRUPT, "want an object");
    options.names_json = NULL;
    assert_fails(chat(plain, "[]", &options, &out), HD_E_CORRUPT, "without messages");
    assert_fails(chat(plain, "[1]", &options, &out), HD_E_CORRUPT, "a message is a int, want an object");
    assert_fails(chat(plain, "{}", &options, &out), HD_E_CORRUPT, "no member \"messages\"");
    assert_fails(chat(plain, "{\"messages\": 5}", &options, &out), HD_E_CORRUPT, "want an array");
    assert_fails(chat(plain, "[{\"role\": \"user\"}", &options, &out), HD_E_CORRUPT, "chat: line 1");
    assert_fails(chat(plain, "[{\"n\": 12345678901234567890}]", &options, &out), HD_E_CORRUPT, "beyond 64 bits");
    hd_template_output_free(&out);
}

static void continuing(void **state)
{
    (void)state;
    static const char template[] = "{% for m in messages %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}</>{% endfor %}";
    static const char trims[] = "{% for m in messages %}{{ m.content | trim }}.{% endfor %}",
                      drops[] = "{{ messages[0].content[:1] }}content";
    hd_template_output out = {0};
    hd_chat_options options = {.continue_final_message = true};
    const char *json = "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"so \"}]";
    assert_ok(chat(template, json, &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "<user>q</><assistant>so ");
    assert_true(out.n_span == 2 && out.spans[1].begin == 21 && out.spans[1].end == 24);
    assert_ok(chat(trims, json, &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "q.so");
    assert_fails(chat(drops, json, &options, &out), HD_E_INVALID, "cannot be continued");
    assert_fails(chat(template, "[{\"role\": \"user\"}]", &options, &out), HD_E_INVALID, "no text to continue");
    assert_ok(chat("{% for m in messages %}{% for b in m.content %}{{ b.text }};{% endfor %}{% endfor %}",
                   "[{\"content\": [{\"text\": \"a\"}, {\"text\": \"b\"}, {\"image\": 1}]}]", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "a;b");
    hd_template_output_free(&out);
}

static void files_of_templates(void **state)
{
    static const char several[] =
        "{\"x\": 1, \"chat_template\": [{\"name\": \"default\", \"template\": \"D\"}, {\"name\": \"tool_use\", \"template\": \"T\"}]}";
    static const struct {
        const char *name, *text, *want, *want_with_tools;
    } rows[] = {{"a.jinja", "{{ messages|length }}", "1", "1"},
                {"b.json", "{\"chat_template\": \"{{ 1 }}\"}", "1", "1"},
                {"c.json", several, "D", "T"}};
    hd_template_output out = {0};
    hd_template *template = NULL;
    hd_chat_options options = {0};
    for (size_t i = 0; i < 3; i++) {
        const char *path = hd_temp_path(*state, rows[i].name);
        assert_ok(hd_io_write_file(path, rows[i].text, strlen(rows[i].text), &err));
        for (int with_tools = 0; with_tools < 2; with_tools++) {
            assert_ok(hd_chat_template_read(path, with_tools, &template, &err));
            assert_ok(hd_chat_render(template, "[{}]", 4, "chat", &options, &out, &err));
            assert_string_equal(hd_buf_text(&out.text), with_tools ? rows[i].want_with_tools : rows[i].want);
            hd_template_free(template);
        }
    }
    const char *path = hd_temp_path(*state, "d.json");
    assert_ok(hd_io_write_file(path, "{}", 2, &err));
    assert_fails(hd_chat_template_read(path, false, &template, &err), HD_E_CORRUPT, "no member \"chat_template\"");
    assert_ok(hd_io_write_file(path, "{\"chat_template\": [{\"name\": \"x\"}]}", 33, &err));
    assert_fails(hd_chat_template_read(path, false, &template, &err), HD_E_CORRUPT, "without \"name\"");
    assert_fails(hd_chat_template_read(hd_temp_path(*state, "none"), false, &template, &err), HD_E_IO, "none");
    hd_template_output_free(&out);
}

static void the_time(void **state)
{
    (void)state;
    hd_template_output out = {0};
    hd_chat_options options = {.now_s = 1722470400}; /* 1 August 2024, 00:00 UTC: the same year everywhere */
    assert_ok(chat("{{ strftime_now('%Y%%') }}{{ strftime_now('') }}", "[{}]", &options, &out));
    assert_string_equal(hd_buf_text(&out.text), "2024%");
    hd_template_output_free(&out);
}

/* ---- failures -------------------------------------------------------------------------------------------------------- */

static const char busy[] =
    "{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{% set ns = namespace(x='') %}{% for k, v in {'a': [1], 'b': 'x'}.items() if v %}"
    "{% generation %}{{ m(k) }}{{ v|tojson(indent=1) }}{{ loop.length }}{% endgeneration %}{% set ns.x = ns.x ~ k %}{% endfor %}"
    "{{ ns.x|upper|replace('A', 'zz') }}{{ [3, 1]|sort|join('-') }}{{ 'a b'.split()|map('upper')|list }}";

static void failing_allocations(void **state)
{
    (void)state;
    hd_template_output out = {0};
    hd_chat_options options = {.bos_token = "<s>", .system_prompt = "x", .names_json = "{\"a\": [1]}"};
    size_t live = hd_alloc_get_stats().live_calls, n = 1;
    for (;; n++) {
        hd_alloc_fail_at(n, 0);
        hd_status st = chat(busy, "[{\"role\": \"user\", \"content\": \"a\\nb\"}]", &options, &out);
        hd_alloc_fail_at(0, 0);
        hd_template_output_free(&out);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
    }
    assert_true(n > 8);
    print_message("  %zu allocations\n", n - 1);
}

/* Every prefix of a template is one or is refused. */
static void cut_templates(void **state)
{
    (void)state;
    hd_template_output out = {0};
    size_t live = hd_alloc_get_stats().live_calls;
    for (size_t n = 0; n < sizeof busy; n++) {
        (void)render(busy, n, "{}", 2, NULL, &out);
        hd_template_output_free(&out);
    }
    assert_int_equal(hd_alloc_get_stats().live_calls, live);
    gives("{{ 'ok' }}", "ok");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(syntax_as_jinja2),
        cmocka_unit_test(chats_as_transformers),
        cmocka_unit_test(messages_name_the_place),
        cmocka_unit_test(budgets_hold),
        cmocka_unit_test(nesting_is_limited),
        cmocka_unit_test(long_texts_are_fast),
        cmocka_unit_test(options_of_chats),
        cmocka_unit_test(continuing),
        cmocka_unit_test_setup_teardown(files_of_templates, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test(the_time),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(cut_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
