/* A template and its context, separated by a byte 0: whatever they are, rendering ends within its budgets, and text that comes out
 * is UTF-8 with its spans in order. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const hd_tpl_limits small = {.value_bytes = 1 << 20, .output_bytes = 1 << 18, .steps = 100000, .depth = 200};
static const char usual[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"h\xC3\xA9\"}, {\"role\": \"tool\", \"n\": 1.5}], \"tools\": null, \"xs\": [3, 1], "
    "\"s\": \" aB \", \"add_generation_prompt\": true}";

static void check(const hd_template_output *out)
{
    size_t at = 0;
    assert(hd_utf8_validate(hd_buf_text(&out->text), out->text.n, NULL));
    for (size_t i = 0; i < out->n_span; i++) {
        assert(out->spans[i].begin >= at && out->spans[i].end >= out->spans[i].begin && out->spans[i].end <= out->text.n);
        at = out->spans[i].end;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = size > 0 ? memchr(text, '\0', size) : NULL;
    size_t n = end != NULL ? (size_t)(end - text) : size;
    hd_err err = {0};
    hd_template *template = NULL;
    hd_template_output out = {0};
    hd_tpl_run run;
    hd_tpl_value context;
    hd_json json;
    if (hd_template_compile(text, n, "fuzz", &template, &err) != HD_OK) {
        assert(strncmp(err.msg, "fuzz: ", 6) == 0);
        return 0;
    }
    hd_tpl_run_open(&run, &small, &out.text, &err);
    hd_json_open(&json, end != NULL ? end + 1 : usual, end != NULL ? size - n - 1 : sizeof usual - 1, "context", HD_JSON_STRICT);
    if (hd_tpl_from_json(&run, &json, &context) == HD_OK && context.type == HD_TPL_DICT) {
        hd_status st = hd_template_render(template, &run, context, &out);
        assert(st == HD_OK || st == HD_E_INVALID || st == HD_E_UNSUPPORTED);
        if (st == HD_OK) { check(&out); }
    }
    hd_json_close(&json);
    hd_tpl_run_close(&run);
    hd_template_free(template);
    hd_template_output_free(&out);
    return 0;
}
