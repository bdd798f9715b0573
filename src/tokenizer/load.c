/* tokenizer.json, in one pass over its text.  The order of its members does not matter: what needs the vocabulary (merges, added tokens, the
 * post-processor) is kept as text until all has been seen. */
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/internal.h"
#include "tokenizer/nfc.h"

enum { MIN_ENTRY_BYTES = 4, SPARE_IDS = 65536, MAX_MERGE_BYTES = 8192 };

typedef struct loader {
    hd_tokenizer *t;
    const char *name, *text; /* of the file */
    hd_json_str vocab, merges, added, post_processor; /* raw texts; text NULL: absent */
    bool has_model, has_byte_level, decodes_bytes;
    bool fuse_unk, byte_fallback;
    int32_t last_merged; /* the token of the merge before */
    hd_json_str unk; /* raw */
} loader;

/* A value kept as text, to be read by a parser of its own, which stands in the file so that messages name the right line. */
static void open_kept(const loader *l, hd_json *json, hd_json_str text)
{
    size_t begin = (size_t)(text.text - l->text);
    hd_json_open(json, l->text, begin + text.n, l->name, HD_JSON_ALLOW_DUPLICATES);
    json->at = begin;
}

static hd_status read_bool_or_null(hd_json *json, bool *out, hd_err *err)
{
    hd_json_type type;
    hd_status st = hd_json_peek(json, &type, err);
    if (st != HD_OK) { return st; }
    return type == HD_JSON_NULL ? hd_json_null(json, err) : hd_json_bool(json, out, err);
}

/* ---- pre_tokenizer ---------------------------------------------------------------------------------------------------------------- */

/* The members of a pre-tokenizer of any type. */
typedef struct pre_tokenizer {
    char type[32], behavior[24];
    char *pattern;
    size_t n_pattern;
    bool pattern_is_regex, has_pattern, invert, individual_digits, add_prefix_space, use_regex;
    hd_json_str list; /* of a Sequence, raw */
} pre_tokenizer;

static hd_status read_name(hd_json *json, char *out, size_t room, hd_err *err)
{
    hd_json_str text;
    hd_status st = hd_json_string(json, &text, err);
    if (st != HD_OK) { return st; }
    if (text.n >= room) { return hd_json_fail(json, err, "the name \"%.40s...\" is known to nobody", text.text); }
    memcpy(out, text.text, text.n);
    out[text.n] = '\0';
    return HD_OK;
}

/* {"Regex": "..."} or {"String": "..."} */
static hd_status read_pattern(hd_json *json, pre_tokenizer *p, hd_err *err)
{
    hd_status st;
    hd_json_str key, text;
    bool more;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        p->pattern_is_regex = hd_json_str_is(key, "Regex");
        if ((!p->pattern_is_regex && !hd_json_str_is(key, "String")) || p->has_pattern) {
            st = hd_json_fail(json, err, "a Split pattern is one \"Regex\" or one \"String\"");
            goto out;
        }
        HD_TRY(hd_json_string(json, &text, err));
        HD_TRY(hd_alloc(text.n + 1, 1, "pattern", (void **)&p->pattern, err));
        memcpy(p->pattern, text.text, text.n);
        p->n_pattern = text.n;
        p->has_pattern = true;
    }
out:
    return st;
}

static hd_status read_pre_tokenizer_member(hd_json *json, hd_json_str key, pre_tokenizer *p, hd_err *err)
{
    if (hd_json_str_is(key, "type")) { return read_name(json, p->type, sizeof p->type, err); }
    if (hd_json_str_is(key, "behavior")) { return read_name(json, p->behavior, sizeof p->behavior, err); }
    if (hd_json_str_is(key, "pattern")) { return read_pattern(json, p, err); }
    if (hd_json_str_is(key, "invert")) { return hd_json_bool(json, &p->invert, err); }
    if (hd_json_str_is(key, "individual_digits")) { return hd_json_bool(json, &p->individual_digits, err); }
    if (hd_json_str_is(key, "add_prefix_space")) { return hd_json_bool(json, &p->add_prefix_space, err); }
    if (hd_json_str_is(key, "use_regex")) { return hd_json_bool(json, &p->use_regex, err); }
    if (hd_json_str_is(key, "pretokenizers")) { return hd_json_raw(json, &p->list, err); }
    return hd_json_skip(json, err);
}

static const struct {
    const char *name;
    hd_behavior behavior;
} behaviors[] = {{"Isolated", HD_ISOLATED},
                 {"Removed", HD_REMOVED},
                 {"Contiguous", HD_CONTIGUOUS},
                 {"MergedWithPrevious", HD_MERGED_WITH_PREVIOUS},
                 {"MergedWithNext", HD_MERGED_WITH_NEXT}};

static hd_status add_split(loader *l, const hd_json *json, const pre_tokenizer *p, hd_err *err)
{
    for (size_t i = 0; i < sizeof behaviors / sizeof behaviors[0]; i++) {
        if (strcmp(p->behavior, behaviors[i].name) != 0) { continue; }
        if (!p->has_pattern) { return hd_json_fail(json, err, "a Split without a pattern"); }
        return p->pattern_is_regex ? hd_split_add_pattern(&l->t->split, p->pattern, p->n_pattern, behaviors[i].behavior, p->invert, err)
                                   : hd_split_add_literal(&l->t->split, p->pattern, p->n_pattern, behaviors[i].behavior, p->invert, err);
    }
    return hd_json_fail(json, err, "the Split behavior \"%s\" is unknown", p->behavior);
}

static hd_status add_byte_level(loader *l, const pre_tokenizer *p, hd_err *err)
{
    const char *pattern = hd_scan_patterns[HD_SCAN_GPT2][0];
    hd_status st = HD_OK;
    if (p->add_prefix_space) { st = hd_split_add_prefix_space(&l->t->split, err); }
    if (st == HD_OK && p->use_regex) { st = hd_split_add_pattern(&l->t->split, pattern, strlen(pattern), HD_ISOLATED, false, err); }
    l->has_byte_level = true;
    return st;
}

static hd_status read_pre_tokenizer(loader *l, hd_json *json, int depth, hd_err *err);

static hd_status read_sequence(loader *l, hd_json_str list, int depth, hd_err *err)
{
    hd_json json;
    hd_status st;
    bool more;
    open_kept(l, &json, list);
    HD_TRY(hd_json_array_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(&json, &more, err));
        if (!more) { break; }
        HD_TRY(read_pre_tokenizer(l, &json, depth + 1, err));
    }
out:
    hd_json_close(&json);
    return st;
}

static hd_status add_pre_tokenizer(loader *l, const hd_json *json, const pre_tokenizer *p, int depth, hd_err *err)
{
    if (strcmp(p->type, "Sequence") == 0) {
        if (p->list.text == NULL || depth >= 4) { return hd_json_fail(json, err, "a Sequence of pre-tokenizers without a list, or within four others"); }
        return read_sequence(l, p->list, depth, err);
    }
    if (l->has_byte_level) { return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the pre-tokenizer %s stands behind ByteLevel, which is supported as the last only", l->name, p->type); }
    if (strcmp(p->type, "Split") == 0) { return add_split(l, json, p, err); }
    if (strcmp(p->type, "ByteLevel") == 0) { return add_byte_level(l, p, err); }
    if (strcmp(p->type, "Digits") == 0) {
        return hd_split_add_pattern(&l->t->split, "\\p{N}", 5, p->individual_digits ? HD_ISOLATED : HD_CONTIGUOUS, false, err);
    }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the pre-tokenizer %s is not supported; byte-level tokenizers use Split, Digits and ByteLevel", l->name, p->type);
}

static hd_status read_pre_tokenizer(loader *l, hd_json *json, int depth, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    hd_json_type type;
    bool more;
    pre_tokenizer p = {.add_prefix_space = true, .use_regex = true};
    HD_TRY(hd_json_peek(json, &type, err));
    if (type == HD_JSON_NULL) { return hd_json_null(json, err); }
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(read_pre_tokenizer_member(json, key, &p, err));
    }
    HD_TRY(add_pre_tokenizer(l, json, &p, depth, err));
out:
    hd_free(p.pattern);
    return st;
}

/* ---- normalizer and decoder ------------------------------------------------------------------------------------------------------- */

/* The types in a part that is null, {"type": T, ...} or {"type": "Sequence", LIST: [...]}, handed to `take` one by one. */
typedef hd_status (*take_type)(loader *l, const hd_json *json, const char *type, hd_err *err);

static hd_status read_types(loader *l, hd_json *json, const char *list_name, take_type take, int depth, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    hd_json_type type;
    char name[32] = "";
    bool more;
    HD_TRY(hd_json_peek(json, &type, err));
    if (type == HD_JSON_NULL) { return hd_json_null(json, err); }
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "type")) {
            HD_TRY(read_name(json, name, sizeof name, err));
        } else if (hd_json_str_is(key, list_name) && depth < 4) {
            HD_TRY(hd_json_array_begin(json, err));
            for (;;) {
                HD_TRY(hd_json_array_next(json, &more, err));
                if (!more) { break; }
                HD_TRY(read_types(l, json, list_name, take, depth + 1, err));
            }
        }
    }
    if (strcmp(name, "Sequence") != 0) { HD_TRY(take(l, json, name, err)); }
out:
    return st;
}

static hd_status take_normalizer(loader *l, const hd_json *json, const char *type, hd_err *err)
{
    (void)json;
    if (strcmp(type, "NFC") != 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the normalizer %s is not supported; byte-level tokenizers use none or NFC", l->name, type);
    }
    l->t->nfc = true;
    return HD_OK;
}

static hd_status take_decoder(loader *l, const hd_json *json, const char *type, hd_err *err)
{
    (void)json;
    if (strcmp(type, "ByteLevel") != 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the decoder %s is not supported; byte-level tokenizers use ByteLevel", l->name, type);
    }
    l->decodes_bytes = true;
    return HD_OK;
}

/* ---- model ------------------------------------------------------------------------------------------------------------------------ */

static hd_status read_model_type(loader *l, hd_json *json, hd_err *err)
{
    char type[32];
    hd_status st = read_name(json, type, sizeof type, err);
    if (st != HD_OK || strcmp(type, "BPE") == 0) { return st; }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: a %s model; hadal reads byte-level BPE", l->name, type);
}

/* Members that byte-level models leave null, empty or 0. */
static hd_status read_unused(loader *l, hd_json *json, const char *key, hd_err *err)
{
    hd_json_str raw;
    hd_status st = hd_json_raw(json, &raw, err);
    if (st != HD_OK || hd_json_str_is(raw, "null") || hd_json_str_is(raw, "\"\"") || hd_json_str_is(raw, "0.0") || hd_json_str_is(raw, "0")) { return st; }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the model's %s is %.*s; byte-level BPE has none", l->name, key, raw.n < 40 ? (int)raw.n : 40, raw.text);
}

static hd_status read_vocab(loader *l, hd_json *json, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    int64_t id;
    bool more;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        hd_json_str text = key;
        HD_TRY(hd_json_i64(json, &id, err));
        HD_TRY(hd_vocab_add(&l->t->vocab, text.text, text.n, id, err));
    }
out:
    return st;
}

static hd_status read_model_member(loader *l, hd_json *json, hd_json_str key, hd_err *err)
{
    static const char *const unused[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    if (hd_json_str_is(key, "type")) { return read_model_type(l, json, err); }
    if (hd_json_str_is(key, "vocab")) { return read_vocab(l, json, err); }
    if (hd_json_str_is(key, "merges")) { return hd_json_raw(json, &l->merges, err); }
    if (hd_json_str_is(key, "unk_token")) { return hd_json_raw(json, &l->unk, err); }
    if (hd_json_str_is(key, "fuse_unk")) { return read_bool_or_null(json, &l->fuse_unk, err); }
    if (hd_json_str_is(key, "byte_fallback")) { return read_bool_or_null(json, &l->byte_fallback, err); }
    if (hd_json_str_is(key, "ignore_merges")) { return read_bool_or_null(json, &l->t->ignore_merges, err); }
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++) {
        if (hd_json_str_is(key, unused[i])) { return read_unused(l, json, unused[i], err); }
    }
    return hd_json_skip(json, err);
}

static hd_status read_model(loader *l, hd_json *json, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    bool more;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(read_model_member(l, json, key, err));
    }
    l->has_model = true;
out:
    return st;
}

/* ---- merges ----------------------------------------------------------------------------------------------------------------------- */

/* The token that a merge makes.  Most vocabularies number them in order, so that the id behind the last one is tried first: reading on in a table
 * is cheaper than a look into a hash table that no cache holds. */
static int32_t find_merged(loader *l, const char *bytes, size_t n)
{
    const hd_vocab *vocab = &l->t->vocab;
    size_t next = (size_t)l->last_merged + 1;
    bool is_next = next < vocab->n_token && vocab->token[next].flags == HD_TOKEN_PRESENT && vocab->token[next].n == n &&
                   memcmp(vocab->pool.data + vocab->token[next].offset, bytes, n) == 0;
    int32_t id = is_next ? (int32_t)next : hd_vocab_find_bytes(vocab, bytes, n, false);
    if (id >= 0) { l->last_merged = id; }
    return id;
}

static hd_status add_merge(loader *l, const hd_json *json, hd_json_str left, hd_json_str right, hd_err *err)
{
    char bytes[MAX_MERGE_BYTES];
    const hd_vocab *vocab = &l->t->vocab;
    int32_t a = -1, b = -1, ab = -1;
    if (left.n + right.n > sizeof bytes) { return hd_json_fail(json, err, "a merge of %zu bytes, want at most %zu", left.n + right.n, sizeof bytes); }
    size_t n_left = hd_vocab_decode_symbols(left.text, left.n, bytes), n_right = SIZE_MAX;
    if (n_left != SIZE_MAX) { n_right = hd_vocab_decode_symbols(right.text, right.n, bytes + n_left); }
    if (n_right != SIZE_MAX) {
        a = hd_vocab_find_bytes(vocab, bytes, n_left, false);
        b = hd_vocab_find_bytes(vocab, bytes + n_left, n_right, false);
        ab = find_merged(l, bytes, n_left + n_right);
    } else { /* not of the byte alphabet: no text comes to it, but it must exist */
        memcpy(bytes, left.text, left.n);
        memcpy(bytes + left.n, right.text, right.n);
        a = hd_vocab_find_text(vocab, left.text, left.n);
        b = hd_vocab_find_text(vocab, right.text, right.n);
        ab = hd_vocab_find_text(vocab, bytes, left.n + right.n);
    }
    if (a < 0 || b < 0 || ab < 0) {
        return hd_json_fail(json, err, "the merge \"%.*s %.*s\" needs a token that the vocabulary lacks", left.n < 60 ? (int)left.n : 60, left.text,
                            right.n < 60 ? (int)right.n : 60, right.text);
    }
    hd_bpe_add(&l->t->bpe, (uint32_t)a, (uint32_t)b, (uint32_t)ab);
    return HD_OK;
}

/* "left right" */
static hd_status read_merge_text(loader *l, hd_json *json, hd_err *err)
{
    hd_json_str text;
    hd_status st = hd_json_string(json, &text, err);
    if (st != HD_OK) { return st; }
    const char *space = memchr(text.text, ' ', text.n);
    size_t n_left = space != NULL ? (size_t)(space - text.text) : 0, n_right = space != NULL ? text.n - n_left - 1 : 0;
    if (n_left == 0 || n_right == 0 || memchr(space + 1, ' ', n_right) != NULL) { return hd_json_fail(json, err, "a merge is two tokens with one space between"); }
    return add_merge(l, json, (hd_json_str){text.text, n_left}, (hd_json_str){space + 1, n_right}, err);
}

/* ["left", "right"] */
static hd_status read_merge_pair(loader *l, hd_json *json, hd_err *err)
{
    hd_status st;
    hd_json_str text;
    char left[MAX_MERGE_BYTES];
    size_t n_left = 0;
    bool more;
    HD_TRY(hd_json_array_begin(json, err));
    for (int i = 0;; i++) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (more != (i < 2)) {
            st = hd_json_fail(json, err, "a merge is a list of two tokens");
            goto out;
        }
        if (!more) { break; }
        HD_TRY(hd_json_string(json, &text, err));
        if (i == 0 && text.n <= sizeof left) {
            memcpy(left, text.text, text.n);
            n_left = text.n;
        } else if (i == 0) {
            st = hd_json_fail(json, err, "a merge of %zu bytes, want at most %zu", text.n, sizeof left);
            goto out;
        } else {
            HD_TRY(add_merge(l, json, (hd_json_str){left, n_left}, text, err));
        }
    }
out:
    return st;
}

/* In a list: at least one less than its items. */
static size_t count_commas(hd_json_str text)
{
    size_t n = 0;
    for (const char *at = text.text; (at = memchr(at, ',', (size_t)(text.text + text.n - at))) != NULL; at++) { n++; }
    return n;
}

static hd_status read_merges(loader *l, hd_err *err)
{
    hd_status st = HD_OK;
    hd_json json;
    hd_json_type type;
    bool more;
    open_kept(l, &json, l->merges);
    HD_TRY(hd_json_array_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(&json, &more, err));
        if (!more) { break; }
        HD_TRY(hd_json_peek(&json, &type, err));
        HD_TRY(type == HD_JSON_STRING ? read_merge_text(l, &json, err) : read_merge_pair(l, &json, err));
    }
out:
    hd_json_close(&json);
    return st;
}

/* The symbols of the bytes.  A byte that the vocabulary lacks becomes the unknown token or, without one, nothing. */
static hd_status set_byte_ids(loader *l, hd_err *err)
{
    hd_json json;
    hd_json_str unk = {NULL, 0};
    hd_tokenizer *t = l->t;
    int32_t unknown = -1;
    bool complete = true;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->bpe.byte_id[b] = hd_vocab_find_bytes(&t->vocab, &byte, 1, false);
        complete = complete && t->bpe.byte_id[b] >= 0;
    }
    if (complete || l->unk.text == NULL || hd_json_str_is(l->unk, "null")) { return HD_OK; }
    open_kept(l, &json, l->unk);
    hd_status st = hd_json_string(&json, &unk, err);
    if (st == HD_OK) { unknown = hd_vocab_find_text(&t->vocab, unk.text, unk.n); }
    hd_json_close(&json);
    if (st != HD_OK) { return st; }
    if (l->fuse_unk || l->byte_fallback || unknown < 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the vocabulary lacks symbols of bytes and its unk_token is fused, falls back to bytes or has no id", l->name);
    }
    for (int b = 0; b < 256; b++) {
        if (t->bpe.byte_id[b] < 0) { t->bpe.byte_id[b] = unknown; }
    }
    return HD_OK;
}

/* ---- added_tokens ----------------------------------------------------------------------------------------------------------------- */

typedef struct added_entry {
    int64_t id;
    char *content;
    size_t n;
    bool single_word, lstrip, rstrip, normalized, special;
} added_entry;

static hd_status read_added_member(hd_json *json, hd_json_str key, added_entry *e, hd_err *err)
{
    hd_json_str text;
    if (hd_json_str_is(key, "content")) {
        hd_status st = hd_json_string(json, &text, err);
        if (st != HD_OK) { return st; }
        hd_free(e->content);
        e->content = NULL;
        e->n = text.n;
        st = hd_alloc(text.n + 1, 1, "added token", (void **)&e->content, err);
        if (st == HD_OK) { memcpy(e->content, text.text, text.n); }
        return st;
    }
    if (hd_json_str_is(key, "id")) { return hd_json_i64(json, &e->id, err); }
    if (hd_json_str_is(key, "single_word")) { return hd_json_bool(json, &e->single_word, err); }
    if (hd_json_str_is(key, "lstrip")) { return hd_json_bool(json, &e->lstrip, err); }
    if (hd_json_str_is(key, "rstrip")) { return hd_json_bool(json, &e->rstrip, err); }
    if (hd_json_str_is(key, "normalized")) { return hd_json_bool(json, &e->normalized, err); }
    if (hd_json_str_is(key, "special")) { return hd_json_bool(json, &e->special, err); }
    return hd_json_skip(json, err);
}

/* Puts the entry into the set it is looked for in.  What is looked for in normalised text is normalised itself. */
static hd_status look_for_entry(loader *l, const added_entry *e, hd_err *err)
{
    hd_status st;
    hd_buf content = {0};
    hd_added_token token = {.id = (int32_t)e->id, .single_word = e->single_word, .lstrip = e->lstrip, .rstrip = e->rstrip};
    if (e->normalized && l->t->nfc) {
        hd_nfc_append(&content, e->content, e->n);
    } else {
        hd_buf_append(&content, e->content, e->n);
    }
    HD_TRY(hd_buf_check(&content, err));
    HD_TRY(hd_added_insert(e->normalized ? &l->t->normalized : &l->t->raw, content.data, content.n, token, err));
out:
    hd_buf_free(&content);
    return st;
}

/* Gives the entry's token its flags, and its id to a text that the vocabulary does not have. */
static hd_status add_entry(loader *l, const hd_json *json, const added_entry *e, hd_err *err)
{
    hd_status st = HD_OK;
    hd_vocab *vocab = &l->t->vocab;
    int shown = e->n < 60 ? (int)e->n : 60;
    if (e->content == NULL || e->n == 0) { return hd_json_fail(json, err, "an added token without content"); }
    int32_t known = hd_vocab_find_text(vocab, e->content, e->n);
    if (known >= 0 && known != e->id) {
        return hd_json_fail(json, err, "the added token \"%.*s\" has id %lld and stands in the vocabulary as %d", shown, e->content, (long long)e->id, known);
    }
    if (known < 0) { HD_TRY(hd_vocab_add_raw(vocab, e->content, e->n, e->id, err)); }
    vocab->token[e->id].flags |= HD_TOKEN_ADDED | (e->special ? (uint32_t)HD_TOKEN_SPECIAL : 0u);
    HD_TRY(look_for_entry(l, e, err));
out:
    return st;
}

static hd_status read_added(loader *l, hd_err *err)
{
    hd_status st = HD_OK;
    hd_json json;
    hd_json_str key;
    added_entry e = {0};
    bool more;
    open_kept(l, &json, l->added);
    HD_TRY(hd_json_array_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_array_next(&json, &more, err));
        if (!more) { break; }
        e = (added_entry){.id = -1, .normalized = true};
        HD_TRY(hd_json_object_begin(&json, err));
        for (;;) {
            HD_TRY(hd_json_object_next(&json, &more, &key, err));
            if (!more) { break; }
            HD_TRY(read_added_member(&json, key, &e, err));
        }
        HD_TRY(add_entry(l, &json, &e, err));
        hd_free(e.content);
        e.content = NULL;
    }
out:
    hd_free(e.content);
    hd_json_close(&json);
    return st;
}

/* ---- post_processor --------------------------------------------------------------------------------------------------------------- */

static hd_status put_around(loader *l, const hd_json *json, hd_around *around, hd_json_str content, hd_err *err)
{
    int32_t id = hd_vocab_find_text(&l->t->vocab, content.text, content.n);
    if (id < 0) { return hd_json_fail(json, err, "the post_processor's token \"%.*s\" is not in the vocabulary", content.n < 60 ? (int)content.n : 60, content.text); }
    if (around->n == HD_MAX_AROUND) { return hd_json_fail(json, err, "a template with more than %d tokens on a side", HD_MAX_AROUND); }
    around->id[around->n++] = id;
    return HD_OK;
}

/* One item of a template, {"SpecialToken": {"id": "<s>", ...}} or {"Sequence": {...}}: the side that the tokens behind it go to. */
static hd_status read_template_item(loader *l, hd_json *json, hd_around **side, hd_err *err)
{
    hd_status st;
    hd_json_str key, inner, content;
    bool more;
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        bool is_token = hd_json_str_is(key, "SpecialToken");
        if (!is_token && *side == &l->t->suffix) {
            st = hd_json_fail(json, err, "a template with two sequences for a single text");
            goto out;
        }
        if (!is_token) { *side = &l->t->suffix; }
        HD_TRY(hd_json_object_begin(json, err));
        for (;;) {
            HD_TRY(hd_json_object_next(json, &more, &inner, err));
            if (!more) { break; }
            if (!is_token || !hd_json_str_is(inner, "id")) { continue; }
            HD_TRY(hd_json_string(json, &content, err));
            HD_TRY(put_around(l, json, *side, content, err));
        }
    }
out:
    return st;
}

static hd_status read_template(loader *l, hd_json *json, hd_err *err)
{
    hd_around *side = &l->t->prefix;
    bool more;
    hd_status st = hd_json_array_begin(json, err);
    while (st == HD_OK) {
        st = hd_json_array_next(json, &more, err);
        if (st != HD_OK || !more) { break; }
        st = read_template_item(l, json, &side, err);
    }
    return st;
}

/* ["<s>", 0] of RobertaProcessing. */
static hd_status read_token_pair(loader *l, hd_json *json, hd_around *side, hd_err *err)
{
    hd_status st;
    hd_json_str content;
    bool more;
    HD_TRY(hd_json_array_begin(json, err));
    for (int i = 0;; i++) {
        HD_TRY(hd_json_array_next(json, &more, err));
        if (!more) { break; }
        if (i > 0) { continue; }
        HD_TRY(hd_json_string(json, &content, err));
        HD_TRY(put_around(l, json, side, content, err));
    }
out:
    return st;
}

static hd_status read_post_processor(loader *l, hd_json *json, int depth, hd_err *err)
{
    hd_status st;
    hd_json_str key;
    hd_json_type value;
    char type[32] = "";
    bool more;
    HD_TRY(hd_json_peek(json, &value, err));
    if (value == HD_JSON_NULL) { return hd_json_null(json, err); }
    HD_TRY(hd_json_object_begin(json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "type")) {
            HD_TRY(read_name(json, type, sizeof type, err));
        } else if (hd_json_str_is(key, "single")) {
            HD_TRY(read_template(l, json, err));
        } else if (hd_json_str_is(key, "cls") || hd_json_str_is(key, "sep")) {
            HD_TRY(read_token_pair(l, json, hd_json_str_is(key, "cls") ? &l->t->prefix : &l->t->suffix, err));
        } else if (hd_json_str_is(key, "processors") && depth < 4) {
            HD_TRY(hd_json_array_begin(json, err));
            for (;;) {
                HD_TRY(hd_json_array_next(json, &more, err));
                if (!more) { break; }
                HD_TRY(read_post_processor(l, json, depth + 1, err));
            }
        }
    }
    static const char *const known[] = {"ByteLevel", "TemplateProcessing", "RobertaProcessing", "BertProcessing", "Sequence"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(type, known[i]) == 0) { return HD_OK; }
    }
    st = HD_FAIL(err, HD_E_UNSUPPORTED, "%s: the post_processor %s is not supported", l->name, type);
out:
    return st;
}

/* ---- the file --------------------------------------------------------------------------------------------------------------------- */

static hd_status read_part(loader *l, hd_json *json, hd_json_str key, hd_err *err)
{
    if (hd_json_str_is(key, "model")) { return read_model(l, json, err); }
    if (hd_json_str_is(key, "added_tokens")) { return hd_json_raw(json, &l->added, err); }
    if (hd_json_str_is(key, "post_processor")) { return hd_json_raw(json, &l->post_processor, err); }
    if (hd_json_str_is(key, "pre_tokenizer")) { return read_pre_tokenizer(l, json, 0, err); }
    if (hd_json_str_is(key, "normalizer")) { return read_types(l, json, "normalizers", take_normalizer, 0, err); }
    if (hd_json_str_is(key, "decoder")) { return read_types(l, json, "decoders", take_decoder, 0, err); }
    return hd_json_skip(json, err); /* version, truncation, padding: the reference's fast class resets the last two */
}

static hd_status finish(loader *l, hd_err *err)
{
    hd_status st = HD_OK;
    hd_json json;
    if (!l->has_model) { return HD_FAIL(err, HD_E_CORRUPT, "%s: no \"model\"", l->name); }
    if (!l->has_byte_level || !l->decodes_bytes) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "%s: not a byte-level tokenizer: its %s has no ByteLevel", l->name, l->has_byte_level ? "decoder" : "pre_tokenizer");
    }
    HD_TRY(hd_vocab_index(&l->t->vocab, err));
    HD_TRY(hd_bpe_open(&l->t->bpe, l->merges.text != NULL ? count_commas(l->merges) + 1 : 0, l->t->vocab.seed, err));
    if (l->merges.text != NULL) { HD_TRY(read_merges(l, err)); }
    HD_TRY(set_byte_ids(l, err));
    if (l->added.text != NULL) { HD_TRY(read_added(l, err)); }
    if (l->post_processor.text != NULL) {
        open_kept(l, &json, l->post_processor);
        st = read_post_processor(l, &json, 0, err);
        hd_json_close(&json);
    }
out:
    return st;
}

hd_status hd_tokenizer_load_json(hd_tokenizer *tokenizer, const char *text, size_t n, const char *name, hd_err *err)
{
    hd_status st;
    hd_json json;
    hd_json_str key;
    loader l = {.t = tokenizer, .name = name, .text = text};
    bool more;
    hd_json_open(&json, text, n, name, HD_JSON_ALLOW_DUPLICATES); /* a token twice is found by its id or its bytes */
    hd_vocab_init(&tokenizer->vocab, n / MIN_ENTRY_BYTES + SPARE_IDS);
    HD_TRY(hd_json_object_begin(&json, err));
    for (;;) {
        HD_TRY(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        HD_TRY(read_part(&l, &json, key, err));
    }
    HD_TRY(hd_json_end(&json, err));
    HD_TRY(finish(&l, err));
out:
    hd_json_close(&json);
    return st;
}
