/* See added.h.  A trie whose nodes list their children; the root has a table, so that ordinary text is passed over quickly. */
#include "tokenizer/added.h"

#include <string.h>

#include "base/alloc.h"
#include "base/utf8.h"
#include "tokenizer/unicode.h"

static hd_status new_node(hd_added *added, unsigned char byte, uint32_t *out, hd_err *err)
{
    if (added->n_node == added->node_capacity) {
        void *node = added->node;
        size_t capacity = added->node_capacity == 0 ? 64 : 2 * added->node_capacity;
        hd_status st = hd_realloc(&node, added->node_capacity, capacity, sizeof *added->node, "added tokens", err);
        if (st != HD_OK) { return st; }
        added->node = node;
        added->node_capacity = capacity;
    }
    *out = (uint32_t)added->n_node;
    added->node[added->n_node++] = (hd_trie_node){.token = -1, .byte = byte};
    return HD_OK;
}

static uint32_t find_child(const hd_added *added, uint32_t parent, unsigned char byte)
{
    uint32_t child = added->node[parent].child;
    while (child != 0 && added->node[child].byte != byte) { child = added->node[child].sibling; }
    return child;
}

static hd_status new_token(hd_added *added, hd_added_token token, hd_err *err)
{
    if (added->n_token == added->token_capacity) {
        void *grown = added->token;
        size_t capacity = added->token_capacity == 0 ? 16 : 2 * added->token_capacity;
        hd_status st = hd_realloc(&grown, added->token_capacity, capacity, sizeof *added->token, "added tokens", err);
        if (st != HD_OK) { return st; }
        added->token = grown;
        added->token_capacity = capacity;
    }
    added->token[added->n_token++] = token;
    return HD_OK;
}

/* Whether a text holds an ASCII letter with a space behind it. */
static bool has_word_end(const char *text, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        unsigned char c = (unsigned char)(text[i - 1] | 0x20);
        if (text[i] == ' ' && c >= 'a' && c <= 'z') { return true; }
    }
    return false;
}

hd_status hd_added_insert(hd_added *added, const char *text, size_t n, hd_added_token token, hd_err *err)
{
    hd_status st = HD_OK;
    uint32_t at = 0, child;
    if (added->n_node == 0) {
        HD_TRY(new_node(added, 0, &at, err));
        added->only_first = (unsigned char)text[0];
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        child = find_child(added, at, byte);
        if (child == 0) {
            HD_TRY(new_node(added, byte, &child, err));
            added->node[child].sibling = added->node[at].child;
            added->node[at].child = child;
        }
        at = child;
    }
    if (added->only_first != (unsigned char)text[0]) { added->only_first = -1; }
    added->first[(unsigned char)text[0]] = find_child(added, 0, (unsigned char)text[0]);
    added->looks_around = added->looks_around || token.single_word || token.lstrip || token.rstrip || has_word_end(text, n);
    HD_TRY(new_token(added, token, err));
    added->node[at].token = (int32_t)added->n_token - 1;
out:
    return st;
}

void hd_added_free(hd_added *added)
{
    hd_free(added->token);
    hd_free(added->node);
    *added = (hd_added){0};
}

/* The longest token that begins at `at`: its length, its index in *token; 0 when there is none. */
static size_t longest_at(const hd_added *added, const char *text, size_t n, size_t at, int32_t *token)
{
    size_t length = 0;
    uint32_t node = added->first[(unsigned char)text[at]];
    for (size_t i = at + 1; node != 0; i++) {
        if (added->node[node].token >= 0) {
            *token = added->node[node].token;
            length = i - at;
        }
        if (i == n) { break; }
        node = find_child(added, node, (unsigned char)text[i]);
    }
    return length;
}

static unsigned flags_before(const char *text, size_t at, size_t *n)
{
    uint32_t code = 0;
    size_t begin = at - 1;
    while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80) { begin--; }
    *n = hd_utf8_next(text + begin, at - begin, &code);
    return hd_unicode(code);
}

static unsigned flags_behind(const char *text, size_t n_text, size_t at, size_t *n)
{
    uint32_t code = 0;
    *n = hd_utf8_next(text + at, n_text - at, &code);
    return hd_unicode(code);
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    size_t k;
    return (begin == 0 || (flags_before(text, begin, &k) & HD_UC_WORD) == 0) && (end == n || (flags_behind(text, n, end, &k) & HD_UC_WORD) == 0);
}

static void take_white_space(const hd_added_token *token, const char *text, size_t n, size_t taken, hd_added_match *match)
{
    size_t k;
    while (token->lstrip && match->begin > taken && (flags_before(text, match->begin, &k) & HD_UC_SPACE) != 0) { match->begin -= k; }
    while (token->rstrip && match->end < n && (flags_behind(text, n, match->end, &k) & HD_UC_SPACE) != 0) { match->end += k; }
}

bool hd_added_next(const hd_added *added, const char *text, size_t n, size_t taken, size_t *at, hd_added_match *match)
{
    if (added->n_token == 0) { return false; }
    for (size_t i = *at; i < n; i++) {
        if (added->only_first >= 0) {
            const char *found = memchr(text + i, added->only_first, n - i);
            if (found == NULL) { break; }
            i = (size_t)(found - text);
        }
        int32_t index = -1;
        size_t length = added->first[(unsigned char)text[i]] == 0 ? 0 : longest_at(added, text, n, i, &index);
        if (length == 0) { continue; }
        const hd_added_token *token = &added->token[index];
        *at = i + length;
        if (token->single_word && !stands_alone(text, n, i, *at)) { /* passed over as a whole */
            i = *at - 1;
            continue;
        }
        *match = (hd_added_match){.id = token->id, .begin = i, .end = *at};
        take_white_space(token, text, n, taken, match);
        return true;
    }
    return false;
}
