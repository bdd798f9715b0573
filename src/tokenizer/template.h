/* Chat templates: a sandboxed subset of Jinja2, with the settings and the additions of transformers' apply_chat_template
 * (trim_blocks, lstrip_blocks, break and continue, {% generation %}, tojson, raise_exception, strftime_now).
 *
 * A template is data.  It can read what it is given and make text, nothing else: there is no import, no attribute of an
 * implementation, no way to change what it was given.  Steps, memory, output and nesting have budgets, and passing one is an
 * error with a sentence.  What Jinja2 has and this subset lacks is refused by name, line and column when the template is
 * compiled, or when it is reached; nothing is guessed.  docs/chat-templates.md lists what is there. */
#ifndef HD_TOKENIZER_TEMPLATE_H
#define HD_TOKENIZER_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "hadal/status.h"
#include "tokenizer/template_value.h"

enum {
    HD_TEMPLATE_MAX_BYTES = 512 << 10, /* of a template's text */
    HD_TEMPLATE_MAX_NESTING = 128      /* of its syntax tree */
};

typedef struct hd_template hd_template;

/* text (n bytes of UTF-8) is copied; name is for messages.  HD_E_CORRUPT: not a template; HD_E_UNSUPPORTED: one that asks for
 * something outside the subset.  Both name line and column (counted in bytes, from 1). */
hd_status hd_template_compile(const char *text, size_t n, const char *name, hd_template **out, hd_err *err) HD_CHECK_RESULT;
void hd_template_free(hd_template *template); /* accepts NULL */

/* Text that a {% generation %} block printed: bytes [begin, end) of the output.  In order, disjoint, never nested. */
typedef struct hd_template_span {
    size_t begin, end;
} hd_template_span;

typedef struct hd_template_output {
    hd_buf text;
    hd_template_span *spans;
    size_t n_span, span_capacity;
} hd_template_output; /* a zeroed one is empty and ready */

void hd_template_output_free(hd_template_output *output);

/* Renders with the names of `context`, a DICT whose keys are strings, made with the same run (template_value.h).  *output is
 * cleared first.  A fault of the template or of the values it meets, and a budget passed, are HD_E_INVALID; what the subset
 * lacks is HD_E_UNSUPPORTED.  Both name line and column. */
hd_status hd_template_render(const hd_template *template, hd_tpl_run *run, hd_tpl_value context,
                             hd_template_output *output) HD_CHECK_RESULT;

#endif
