/* See vocab.h. */
#include "tokenizer/vocab.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "tokenizer/symbols.h"

enum { FIRST_TOKENS = 4096, MAX_TOKEN_BYTES = 4096 };

void hd_vocab_init(hd_vocab *vocab, size_t limit)
{
    double now = hd_clock_now_s();
    *vocab = (hd_vocab){.limit = limit};
    memcpy(&vocab->seed, &now, sizeof vocab->seed);
    vocab->seed ^= (uint64_t)(uintptr_t)vocab;
}

void hd_vocab_free(hd_vocab *vocab)
{
    hd_buf_free(&vocab->pool);
    hd_free(vocab->token);
    hd_free(vocab->slot);
    *vocab = (hd_vocab){0};
}

/* ---- bytes ------------------------------------------------------------------------------------------------------------------------ */

size_t hd_vocab_decode_symbols(const char *text, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)text[i];
        uint32_t code = c;
        size_t k = 1;
        if (c >= 0xC2 && c <= 0xC5 && i + 1 < n) { /* U+0080..U+017F hold the rest of the alphabet */
            code = (c & 0x1Fu) << 6 | ((unsigned char)text[i + 1] & 0x3Fu);
            k = 2;
        } else if (c >= 0x80) {
            return SIZE_MAX;
        }
        int byte = hd_symbol_byte(code);
        if (byte < 0) { return SIZE_MAX; }
        out[n_out++] = (char)byte;
        i += k;
    }
    return n_out;
}

static uint64_t mix(uint64_t h)
{
    h *= UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

uint64_t hd_vocab_hash(const hd_vocab *vocab, const char *bytes, size_t n, bool raw)
{
    uint64_t h = vocab->seed ^ (n * 2 + raw), word;
    for (; n >= sizeof word; bytes += sizeof word, n -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        h = mix(h ^ word);
    }
    word = 0;
    memcpy(&word, bytes, n);
    return mix(mix(h ^ word));
}

/* ---- adding ----------------------------------------------------------------------------------------------------------------------- */

static hd_status grow(hd_vocab *vocab, size_t id, hd_err *err)
{
    void *token = vocab->token;
    size_t capacity = vocab->capacity == 0 ? FIRST_TOKENS : vocab->capacity;
    while (capacity <= id) { capacity *= 2; }
    if (capacity == vocab->capacity) { return HD_OK; }
    hd_status st = hd_realloc(&token, vocab->capacity, capacity, sizeof *vocab->token, "vocabulary", err);
    if (st != HD_OK) { return st; }
    vocab->token = token;
    vocab->capacity = capacity;
    return HD_OK;
}

/* Takes an id for a text of n bytes and makes room in the pool for it. */
static hd_status take_id(hd_vocab *vocab, const char *text, size_t n, int64_t id, char **room, hd_err *err)
{
    int shown = n < 60 ? (int)n : 60;
    if (id < 0 || (uint64_t)id >= vocab->limit) {
        return HD_FAIL(err, HD_E_CORRUPT, "token \"%.*s\" has id %lld, want 0 to %zu in a file of this size", shown, text, (long long)id, vocab->limit - 1);
    }
    if (n > MAX_TOKEN_BYTES) { return HD_FAIL(err, HD_E_CORRUPT, "token \"%.*s...\" has %zu bytes, want at most %d", shown, text, n, MAX_TOKEN_BYTES); }
    hd_status st = grow(vocab, (size_t)id, err);
    if (st != HD_OK) { return st; }
    if (vocab->token[id].flags != 0) { return HD_FAIL(err, HD_E_CORRUPT, "tokens \"%.*s\" and \"%.*s\" have the same id %lld", shown, text,
                                                      vocab->token[id].n < 60 ? (int)vocab->token[id].n : 60,
                                                      vocab->pool.data + vocab->token[id].offset, (long long)id); }
    *room = hd_buf_reserve(&vocab->pool, n + 1);
    if (*room == NULL) { return hd_buf_check(&vocab->pool, err); }
    if ((size_t)id >= vocab->n_token) { vocab->n_token = (size_t)id + 1; }
    vocab->n_present++;
    return HD_OK;
}

static void set_token(hd_vocab *vocab, int64_t id, size_t n, uint32_t flags)
{
    vocab->token[id] = (hd_token){.offset = (uint32_t)vocab->pool.n, .n = (uint32_t)n, .flags = HD_TOKEN_PRESENT | flags};
    vocab->pool.n += n;
    vocab->pool.data[vocab->pool.n] = '\0';
}

hd_status hd_vocab_add(hd_vocab *vocab, const char *text, size_t n, int64_t id, hd_err *err)
{
    char *room;
    hd_status st = take_id(vocab, text, n, id, &room, err);
    if (st != HD_OK) { return st; }
    size_t n_byte = hd_vocab_decode_symbols(text, n, room);
    if (n_byte == SIZE_MAX) {
        memcpy(room, text, n);
        set_token(vocab, id, n, HD_TOKEN_RAW);
    } else {
        set_token(vocab, id, n_byte, 0);
    }
    return HD_OK;
}

/* ---- finding ---------------------------------------------------------------------------------------------------------------------- */

static const char *bytes_of(const hd_vocab *vocab, size_t id)
{
    return vocab->pool.data + vocab->token[id].offset;
}

static size_t id_in(uint64_t slot)
{
    return (size_t)(uint32_t)slot - 1;
}

/* The slot that holds these bytes, or the free one where they would go. */
static size_t find_slot(const hd_vocab *vocab, const char *bytes, size_t n, bool raw, uint64_t hash)
{
    size_t mask = vocab->n_slot - 1, s = (size_t)hash & mask;
    for (; vocab->slot[s] != 0; s = (s + 1) & mask) {
        if ((vocab->slot[s] ^ hash) >> 32 != 0) { continue; } /* saves a look at the token */
        size_t id = id_in(vocab->slot[s]);
        const hd_token *token = &vocab->token[id];
        if (token->n == n && ((token->flags & HD_TOKEN_RAW) != 0) == raw && memcmp(bytes_of(vocab, id), bytes, n) == 0) { break; }
    }
    return s;
}

/* Puts a token into the table unless its bytes are there; the slot that holds them. */
static size_t insert(hd_vocab *vocab, size_t id)
{
    const hd_token *token = &vocab->token[id];
    bool raw = (token->flags & HD_TOKEN_RAW) != 0;
    uint64_t hash = hd_vocab_hash(vocab, bytes_of(vocab, id), token->n, raw);
    size_t s = find_slot(vocab, bytes_of(vocab, id), token->n, raw, hash);
    if (vocab->slot[s] == 0) { vocab->slot[s] = (hash >> 32 << 32) | (uint32_t)(id + 1); }
    return s;
}

hd_status hd_vocab_index(hd_vocab *vocab, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n_slot = 64;
    while (n_slot < 2 * vocab->n_present) { n_slot *= 2; }
    hd_free(vocab->slot);
    vocab->slot = NULL;
    HD_TRY(hd_alloc(n_slot, sizeof *vocab->slot, "index of the vocabulary", (void **)&vocab->slot, err));
    vocab->n_slot = n_slot;
    for (size_t id = 0; id < vocab->n_token; id++) {
        const hd_token *token = &vocab->token[id];
        if (token->flags == 0) { continue; }
        size_t s = insert(vocab, id);
        if (id_in(vocab->slot[s]) != id) {
            st = HD_FAIL(err, HD_E_CORRUPT, "token \"%.*s\" has two ids, %zu and %zu", token->n < 60 ? (int)token->n : 60, bytes_of(vocab, id),
                         id_in(vocab->slot[s]), id);
            goto out;
        }
    }
out:
    return st;
}

hd_status hd_vocab_add_raw(hd_vocab *vocab, const char *text, size_t n, int64_t id, hd_err *err)
{
    char *room;
    hd_status st = take_id(vocab, text, n, id, &room, err);
    if (st != HD_OK) { return st; }
    memcpy(room, text, n);
    set_token(vocab, id, n, HD_TOKEN_RAW);
    if (vocab->n_slot == 0) { return HD_OK; }
    if (4 * vocab->n_present > 3 * vocab->n_slot) { return hd_vocab_index(vocab, err); }
    (void)insert(vocab, (size_t)id);
    return HD_OK;
}

int32_t hd_vocab_find_bytes(const hd_vocab *vocab, const char *bytes, size_t n, bool raw)
{
    if (vocab->n_slot == 0) { return -1; }
    return (int32_t)(uint32_t)vocab->slot[find_slot(vocab, bytes, n, raw, hd_vocab_hash(vocab, bytes, n, raw))] - 1;
}

int32_t hd_vocab_find_text(const hd_vocab *vocab, const char *text, size_t n)
{
    char bytes[MAX_TOKEN_BYTES];
    int32_t id = -1;
    if (n > sizeof bytes) { return -1; }
    size_t n_byte = hd_vocab_decode_symbols(text, n, bytes);
    if (n_byte != SIZE_MAX) { id = hd_vocab_find_bytes(vocab, bytes, n_byte, false); }
    return id >= 0 ? id : hd_vocab_find_bytes(vocab, text, n, true);
}
