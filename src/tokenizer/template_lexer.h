/* Tokens of a template, made one at a time: text between tags, and names, numbers, strings and operators within.  White space is
 * treated as Jinja2 does with trim_blocks and lstrip_blocks: a line break after a block goes, and so does what indents one.
 * Internal to the template files. */
#ifndef HD_TOKENIZER_TEMPLATE_LEXER_H
#define HD_TOKENIZER_TEMPLATE_LEXER_H

#include "tokenizer/template_value.h"

typedef enum hd_tpl_token_type {
    HD_TPL_TOKEN_END,
    HD_TPL_TOKEN_DATA, /* text to print as it is */
    HD_TPL_TOKEN_PRINT_BEGIN,
    HD_TPL_TOKEN_PRINT_END,
    HD_TPL_TOKEN_BLOCK_BEGIN,
    HD_TPL_TOKEN_BLOCK_END,
    HD_TPL_TOKEN_NAME,
    HD_TPL_TOKEN_STRING, /* text: decoded */
    HD_TPL_TOKEN_INT,
    HD_TPL_TOKEN_FLOAT,
    HD_TPL_TOKEN_OPERATOR /* text: the operator */
} hd_tpl_token_type;

typedef struct hd_tpl_token {
    hd_tpl_token_type type;
    size_t at; /* byte of the source */
    const char *text;
    size_t n;
    int64_t i;
    double f;
} hd_tpl_token;

enum { HD_TPL_MAX_BRACKETS = 512 };

typedef struct hd_tpl_lexer {
    hd_tpl_run *run; /* memory of decoded strings; its source is the text */
    size_t at;
    enum { HD_TPL_IN_TEXT, HD_TPL_IN_PRINT, HD_TPL_IN_BLOCK } state;
    bool line_starting; /* what was read last ended a line, or nothing was read */
    hd_tpl_token_type pending;
    size_t pending_at;
    int n_bracket;
    char brackets[HD_TPL_MAX_BRACKETS]; /* the closing ones that are awaited */
} hd_tpl_lexer;

void hd_tpl_lexer_open(hd_tpl_lexer *lexer, hd_tpl_run *run);
hd_status hd_tpl_lexer_next(hd_tpl_lexer *lexer, hd_tpl_token *token) HD_CHECK_RESULT;

#endif
