/* Compiling and rendering: the ends of the template files.  See template.h. */
#include "tokenizer/template.h"

#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_eval.h"

struct hd_template {
    hd_tpl_run memory; /* of the tree */
    char *source, *name;
    size_t n_source;
    hd_tpl_node *body, *hidden;
};

static const hd_tpl_limits tree_limits = {.value_bytes = (size_t)56 << 20, .output_bytes = 1, .steps = UINT64_MAX, .depth = 0};

/* Line breaks become "\n", and one at the very end goes, as in Jinja2. */
static void copy_source(hd_template *t, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool pair = text[i] == '\r' && i + 1 < n && text[i + 1] == '\n';
        if (!pair) { t->source[t->n_source++] = text[i] == '\r' ? '\n' : text[i]; }
    }
    if (t->n_source > 0 && t->source[t->n_source - 1] == '\n') { t->n_source--; }
}

static hd_status compile(hd_template *t, const char *text, size_t n, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf unused = {0};
    size_t bad;
    HD_TRY(hd_alloc(n + 1, 1, "text of a template", (void **)&t->source, err));
    if (!hd_utf8_validate(text, n, &bad)) { return HD_FAIL(err, HD_E_CORRUPT, "%s: byte %zu of the template is not UTF-8", t->name, bad); }
    copy_source(t, text, n);
    hd_tpl_run_open(&t->memory, &tree_limits, &unused, err);
    t->memory.source = t->source;
    t->memory.n_source = t->n_source;
    t->memory.name = t->name;
    HD_TRY(hd_tpl_parse(&t->memory, &t->body, &t->hidden));
out:
    t->memory.out = NULL;
    t->memory.err = NULL;
    return st;
}

hd_status hd_template_compile(const char *text, size_t n, const char *name, hd_template **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_template *t = NULL;
    *out = NULL;
    if (n > HD_TEMPLATE_MAX_BYTES) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: a template of %zu bytes, want at most %d", name, n, HD_TEMPLATE_MAX_BYTES);
    }
    HD_TRY(hd_alloc(1, sizeof *t, "template", (void **)&t, err));
    HD_TRY(hd_strdup(name, &t->name, err));
    HD_TRY(compile(t, text, n, err));
    *out = t;
    t = NULL;
out:
    hd_template_free(t);
    return st;
}

void hd_template_free(hd_template *template)
{
    if (template == NULL) { return; }
    hd_tpl_run_close(&template->memory);
    hd_free(template->source);
    hd_free(template->name);
    hd_free(template);
}

void hd_template_output_free(hd_template_output *output)
{
    hd_buf_free(&output->text);
    hd_free(output->spans);
    *output = (hd_template_output){0};
}

hd_status hd_template_render(const hd_template *template, hd_tpl_run *run, hd_tpl_value context, hd_template_output *output)
{
    hd_tpl_eval eval = {.run = run, .output = output, .context = context.dict};
    hd_tpl_scope *scope;
    assert(run->out == &output->text && context.type == HD_TPL_DICT);
    hd_buf_clear(&output->text);
    output->n_span = 0;
    run->source = template->source;
    run->n_source = template->n_source;
    run->name = template->name;
    hd_status st = hd_tpl_scope_new(run, NULL, &scope);
    for (const hd_tpl_node *name = template->hidden; name != NULL && st == HD_OK; name = name->next) {
        st = hd_tpl_scope_set(run, scope, name->text, name->n, hd_tpl_undefined(HD_TPL_UNDEFINED_NAME, name->text, name->n));
    }
    if (st == HD_OK) { st = hd_tpl_exec_body(&eval, template->body, scope); }
    if (st == HD_OK) { st = hd_tpl_check_out(run); }
    run->source = NULL;
    return st;
}
