/* The syntax tree of a template.  Nodes live in the memory of the compiled template; children of a list are linked by `next`.
 * Internal to the template files. */
#ifndef HD_TOKENIZER_TEMPLATE_AST_H
#define HD_TOKENIZER_TEMPLATE_AST_H

#include "tokenizer/template_value.h"

typedef enum hd_tpl_node_kind {
    /* expressions */
    HD_TPL_NODE_CONST,   /* value */
    HD_TPL_NODE_NAME,    /* text */
    HD_TPL_NODE_LIST,    /* a: items */
    HD_TPL_NODE_TUPLE,   /* a: items */
    HD_TPL_NODE_DICT,    /* a: PAIRs */
    HD_TPL_NODE_PAIR,    /* a: key or target, b: value */
    HD_TPL_NODE_UNARY,   /* op, a */
    HD_TPL_NODE_BINARY,  /* op, a, b */
    HD_TPL_NODE_CONCAT,  /* a: operands of ~ */
    HD_TPL_NODE_COMPARE, /* a: first, b: OPERANDs */
    HD_TPL_NODE_OPERAND, /* op, a */
    HD_TPL_NODE_AND,     /* a, b */
    HD_TPL_NODE_OR,      /* a, b */
    HD_TPL_NODE_NOT,     /* a */
    HD_TPL_NODE_COND,    /* a if b else c; c may be NULL */
    HD_TPL_NODE_ATTR,    /* a.text */
    HD_TPL_NODE_ITEM,    /* a[b] */
    HD_TPL_NODE_SLICE,   /* within b of ITEM: [a:b:c], each may be NULL */
    HD_TPL_NODE_CALL,    /* a(b: ARGs) */
    HD_TPL_NODE_FILTER,  /* a|text(b: ARGs); a is NULL for the text of a block; index into the table */
    HD_TPL_NODE_TEST,    /* a is text(b: ARGs); index */
    HD_TPL_NODE_ARG,     /* a; text: its keyword, if any; op: spread */
    /* statements */
    HD_TPL_NODE_DATA,         /* text */
    HD_TPL_NODE_PRINT,        /* a */
    HD_TPL_NODE_IF,           /* a: BRANCHes */
    HD_TPL_NODE_BRANCH,       /* a: condition (NULL: else), b: body */
    HD_TPL_NODE_FOR,          /* for a in b if c: d, else e */
    HD_TPL_NODE_SET,          /* a = b */
    HD_TPL_NODE_SET_BLOCK,    /* a = c, through the filters b */
    HD_TPL_NODE_MACRO,        /* text(b: PARAMs): c */
    HD_TPL_NODE_PARAM,        /* text = a, a may be NULL */
    HD_TPL_NODE_CALL_BLOCK,   /* call a with caller(b: PARAMs): c */
    HD_TPL_NODE_FILTER_BLOCK, /* c through a */
    HD_TPL_NODE_WITH,         /* b: PAIRs, c */
    HD_TPL_NODE_GENERATION,   /* c */
    HD_TPL_NODE_BREAK,
    HD_TPL_NODE_CONTINUE,
    /* targets of assignments are NAME, TUPLE and this */
    HD_TPL_NODE_NAMESPACE_ATTR /* a: NAME, text */
} hd_tpl_node_kind;

typedef enum hd_tpl_op {
    HD_TPL_OP_NONE,
    HD_TPL_OP_ADD,
    HD_TPL_OP_SUB,
    HD_TPL_OP_MUL,
    HD_TPL_OP_DIV,
    HD_TPL_OP_FLOOR_DIV,
    HD_TPL_OP_MOD,
    HD_TPL_OP_POW,
    HD_TPL_OP_EQ,
    HD_TPL_OP_NE,
    HD_TPL_OP_LT,
    HD_TPL_OP_LE,
    HD_TPL_OP_GT,
    HD_TPL_OP_GE,
    HD_TPL_OP_IN,
    HD_TPL_OP_NOT_IN,
    HD_TPL_OP_SPREAD_LIST,
    HD_TPL_OP_SPREAD_DICT
} hd_tpl_op;

typedef struct hd_tpl_node {
    uint8_t kind, op;
    uint8_t height;   /* 1 + that of the highest child: bounded, so that walking the tree is */
    bool uses_caller; /* MACRO */
    int index;
    uint32_t at, n; /* byte of the source; bytes of text */
    const char *text;
    struct hd_tpl_node *a, *b, *c, *d, *e, *next;
    hd_tpl_value value;
} hd_tpl_node;

/* Parses run->source.  hidden: NAMEs that are undefined until the template sets them, whatever the caller gives.
 * HD_E_CORRUPT: not a template; HD_E_UNSUPPORTED: outside the subset. */
hd_status hd_tpl_parse(hd_tpl_run *run, hd_tpl_node **body, hd_tpl_node **hidden) HD_CHECK_RESULT;

#endif
