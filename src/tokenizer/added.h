/* Added tokens: found in raw text before anything else is done with it, the leftmost first and of those that begin there the longest. */
#ifndef HD_TOKENIZER_ADDED_H
#define HD_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_added_token {
    int32_t id;
    bool single_word, lstrip, rstrip;
} hd_added_token;

typedef struct hd_trie_node {
    uint32_t child, sibling; /* first child, next child of the parent; 0: none */
    int32_t token;           /* index of the token that ends here; -1: none */
    unsigned char byte;
} hd_trie_node;

/* A set of them; the zeroed one is empty. */
typedef struct hd_added {
    hd_added_token *token;
    size_t n_token, token_capacity;
    hd_trie_node *node; /* node 0 is the root */
    size_t n_node, node_capacity;
    uint32_t first[256]; /* child of the root by byte */
    int only_first;      /* the byte that all begin with; -1: several */
    bool looks_around;   /* one may stand across "a b", or depends on what stands around it */
} hd_added;

hd_status hd_added_insert(hd_added *added, const char *text, size_t n, hd_added_token token, hd_err *err) HD_CHECK_RESULT;
void hd_added_free(hd_added *added);

/* The next token at or behind *at in a text: its index, and where it begins and ends with the white space it takes along (not before
 * `taken`, where the match before it ended); *at moves behind the text of the token.  false when there is none. */
typedef struct hd_added_match {
    int32_t id;
    size_t begin, end;
} hd_added_match;
bool hd_added_next(const hd_added *added, const char *text, size_t n, size_t taken, size_t *at, hd_added_match *match);

#endif
