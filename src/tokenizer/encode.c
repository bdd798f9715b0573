/* Text to ids: ill-formed bytes are replaced, added tokens found, what lies between them normalised and cut into pieces, and each piece
 * looked up in a cache of words or given to the BPE. */
#include <assert.h>
#include <string.h>

#include "base/alloc.h"
#include "base/parallel_for.h"
#include "base/utf8.h"
#include "tokenizer/internal.h"
#include "tokenizer/nfc.h"

/* ---- lists of ids ----------------------------------------------------------------------------------------------------------------- */

static hd_status grow_ids(hd_ids *ids, size_t more, hd_err *err)
{
    void *id = ids->id;
    size_t capacity = ids->capacity < 64 ? 64 : ids->capacity;
    while (capacity - ids->n < more) { capacity *= 2; } /* lists are shorter than texts in memory */
    hd_status st = hd_realloc(&id, ids->capacity, capacity, sizeof *ids->id, "token ids", err);
    if (st != HD_OK) { return st; }
    ids->id = id;
    ids->capacity = capacity;
    return HD_OK;
}

static inline hd_status reserve_ids(hd_ids *ids, size_t more, hd_err *err)
{
    return ids->capacity - ids->n >= more ? HD_OK : grow_ids(ids, more, err);
}

hd_status hd_ids_append(hd_ids *ids, const int32_t *id, size_t n, hd_err *err)
{
    hd_status st = reserve_ids(ids, n, err);
    if (st != HD_OK || n == 0) { return st; }
    memcpy(ids->id + ids->n, id, n * sizeof *id);
    ids->n += n;
    return HD_OK;
}

void hd_ids_free(hd_ids *ids)
{
    hd_free(ids->id);
    *ids = (hd_ids){0};
}

/* ---- the cache of words ----------------------------------------------------------------------------------------------------------- */

enum {
    CACHE_BITS = 16, /* 2 MiB: the second-level cache of a core and no more */
    WORD_BYTES = 15,
    WORD_IDS = 3,
    PHRASE_BITS = 13, /* 1 MiB */
    PHRASE_BYTES = 62,
    PHRASE_IDS = 16
};

/* A piece of up to 15 bytes and its ids.  The last byte of the key is the length, so that an empty entry (length 0) matches nothing. */
typedef struct word {
    uint64_t key[2];
    int32_t id[WORD_IDS];
    uint32_t n;
} word;

/* A longer piece: long words, and what scripts without spaces put between two marks. */
typedef struct phrase {
    uint8_t n_byte, n; /* n_byte 0: empty */
    char bytes[PHRASE_BYTES];
    int32_t id[PHRASE_IDS];
} phrase;

struct hd_encoder {
    const hd_tokenizer *tokenizer;
    word *cache; /* NULL: none */
    phrase *phrases;
    hd_bpe_work work;
    hd_regex_work *regex; /* NULL unless a pattern needs it */
    hd_buf clean, normal; /* the text with replacements, a stretch in form C */
    hd_ids *ids;          /* of the call under way */
};

static inline uint64_t load8(const char *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* The key of a piece of n <= 15 bytes; `left` bytes of the text may be read from p on. */
static inline void make_key(const char *p, size_t n, size_t left, uint64_t key[2])
{
    key[0] = key[1] = 0;
    if (left >= 16) { /* reads beyond the piece are cut off */
        uint64_t low = load8(p), high = load8(p + 8);
        unsigned bits = (unsigned)n * 8;
        key[0] = n >= 8 ? low : low & ((UINT64_C(1) << bits) - 1);
        key[1] = n > 8 ? high & ((UINT64_C(1) << (bits - 64)) - 1) : 0;
    } else {
        memcpy(key, p, n);
    }
    key[1] |= (uint64_t)n << 56; /* the last byte, on the little-endian machines this is built for; elsewhere a bit of the key */
}

static inline word *cache_entry(const hd_encoder *e, const uint64_t key[2])
{
    uint64_t h = (key[0] ^ (key[1] * UINT64_C(0x9E3779B97F4A7C15))) * UINT64_C(0xD6E8FEB86659FD93);
    return &e->cache[(h ^ h >> 32) * UINT64_C(0x9E3779B97F4A7C15) >> (64 - CACHE_BITS)];
}

/* ---- pieces ----------------------------------------------------------------------------------------------------------------------- */

static hd_status encode_piece(hd_encoder *e, const char *piece, size_t n, hd_err *err)
{
    const hd_tokenizer *t = e->tokenizer;
    int32_t whole = t->ignore_merges ? hd_vocab_find_bytes(&t->vocab, piece, n, false) : -1;
    return whole >= 0 ? hd_ids_append(e->ids, &whole, 1, err) : hd_bpe_encode(&t->bpe, &e->work, piece, n, e->ids, err);
}

static hd_status encode_uncached(hd_encoder *e, const char *piece, size_t n, const uint64_t key[2], word *w, hd_err *err)
{
    size_t before = e->ids->n;
    hd_status st = encode_piece(e, piece, n, err);
    size_t count = e->ids->n - before;
    if (st == HD_OK && count <= WORD_IDS) {
        *w = (word){.key = {key[0], key[1]}, .n = (uint32_t)count};
        if (count > 0) { memcpy(w->id, e->ids->id + before, count * sizeof w->id[0]); }
    }
    return st;
}

static hd_status encode_phrase(hd_encoder *e, const char *piece, size_t n, hd_err *err)
{
    phrase *p = &e->phrases[hd_vocab_hash(&e->tokenizer->vocab, piece, n, false) >> (64 - PHRASE_BITS)];
    if (p->n_byte == n && memcmp(p->bytes, piece, n) == 0) { return hd_ids_append(e->ids, p->id, p->n, err); }
    size_t before = e->ids->n;
    hd_status st = encode_piece(e, piece, n, err);
    size_t count = e->ids->n - before;
    if (st == HD_OK && count <= PHRASE_IDS) {
        p->n_byte = (uint8_t)n;
        p->n = (uint8_t)count;
        memcpy(p->bytes, piece, n);
        if (count > 0) { memcpy(p->id, e->ids->id + before, count * sizeof p->id[0]); }
    }
    return st;
}

/* A sink of hd_split_run.  The text goes on behind the last piece handed over as far as `ends` says, no further. */
static hd_status encode_pieces(void *context, const char *text, size_t begin, const uint32_t *ends, size_t n, hd_err *err)
{
    hd_encoder *e = context;
    hd_status st = HD_OK;
    size_t limit = ends[n - 1];
    for (size_t i = 0; i < n; begin = ends[i++]) {
        size_t length = ends[i] - begin;
        uint64_t key[2];
        if (length > WORD_BYTES || e->cache == NULL) {
            bool kept = e->cache != NULL && length <= PHRASE_BYTES;
            HD_TRY(kept ? encode_phrase(e, text + begin, length, err) : encode_piece(e, text + begin, length, err));
            continue;
        }
        make_key(text + begin, length, limit - begin, key);
        word *w = cache_entry(e, key);
        if (w->key[0] != key[0] || w->key[1] != key[1]) {
            HD_TRY(encode_uncached(e, text + begin, length, key, w, err));
            continue;
        }
        HD_TRY(reserve_ids(e->ids, WORD_IDS, err));
        memcpy(e->ids->id + e->ids->n, w->id, sizeof w->id);
        e->ids->n += w->n;
    }
out:
    return st;
}

/* ---- a text ----------------------------------------------------------------------------------------------------------------------- */

static hd_status encode_plain(hd_encoder *e, const char *text, size_t n, hd_err *err)
{
    return hd_split_run(&e->tokenizer->split, e->regex, text, n, encode_pieces, e, err);
}

/* Calls `plain` for the stretches between the added tokens of a set and appends the ids of these. */
typedef hd_status (*stretch)(hd_encoder *e, const char *text, size_t n, hd_err *err);

static hd_status encode_between(hd_encoder *e, const hd_added *added, const char *text, size_t n, stretch plain, hd_err *err)
{
    hd_status st = HD_OK;
    size_t at = 0, taken = 0;
    hd_added_match match;
    while (hd_added_next(added, text, n, taken, &at, &match)) {
        if (match.begin > taken) { HD_TRY(plain(e, text + taken, match.begin - taken, err)); }
        HD_TRY(hd_ids_append(e->ids, &match.id, 1, err));
        taken = match.end;
    }
    if (taken < n) { HD_TRY(plain(e, text + taken, n - taken, err)); }
out:
    return st;
}

/* Puts a stretch into form C where the tokenizer asks for it and it is not. */
static hd_status normalize(hd_encoder *e, const char **text, size_t *n, hd_err *err)
{
    if (!e->tokenizer->nfc || hd_nfc_quick_check(*text, *n)) { return HD_OK; }
    hd_buf_clear(&e->normal);
    hd_nfc_append(&e->normal, *text, *n);
    *text = hd_buf_text(&e->normal);
    *n = e->normal.n;
    return hd_buf_check(&e->normal, err);
}

/* What lies between the added tokens of raw text. */
static hd_status encode_normalized(hd_encoder *e, const char *text, size_t n, hd_err *err)
{
    hd_status st = normalize(e, &text, &n, err);
    return st == HD_OK ? encode_between(e, &e->tokenizer->normalized, text, n, encode_plain, err) : st;
}

/* Text in which no added token is looked for. */
static hd_status encode_as_text(hd_encoder *e, const char *text, size_t n, hd_err *err)
{
    hd_status st = normalize(e, &text, &n, err);
    return st == HD_OK ? encode_plain(e, text, n, err) : st;
}

static hd_status encode_bytes(hd_encoder *e, const char *text, size_t n, hd_err *err)
{
    hd_status st = reserve_ids(e->ids, n, err);
    if (st != HD_OK) { return st; }
    for (size_t i = 0; i < n; i++) { e->ids->id[e->ids->n + i] = (unsigned char)text[i]; }
    e->ids->n += n;
    return HD_OK;
}

hd_status hd_encoder_encode(hd_encoder *encoder, const char *text, size_t n, hd_encode_flags flags, hd_ids *ids, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_tokenizer *t = encoder->tokenizer;
    bool around = (flags & HD_ENCODE_ADD_SPECIAL) != 0;
    encoder->ids = ids;
    if (n >= UINT32_MAX / 3) { /* replacing may make three bytes of one */
        return HD_FAIL(err, HD_E_INVALID, "a text of %zu bytes; one call encodes fewer than %u", n, UINT32_MAX / 3);
    }
    if (around) { HD_TRY(hd_ids_append(ids, t->prefix.id, t->prefix.n, err)); }
    if (t->is_byte) {
        HD_TRY(encode_bytes(encoder, text, n, err));
    } else {
        if (!hd_utf8_validate(text, n, NULL)) {
            hd_buf_clear(&encoder->clean);
            hd_utf8_append_replacing(&encoder->clean, text, n);
            HD_TRY(hd_buf_check(&encoder->clean, err));
            text = encoder->clean.data;
            n = encoder->clean.n;
        }
        HD_TRY((flags & HD_ENCODE_ADDED_AS_TEXT) != 0 ? encode_as_text(encoder, text, n, err)
                                                      : encode_between(encoder, &t->raw, text, n, encode_normalized, err));
    }
    if (around) { HD_TRY(hd_ids_append(ids, t->suffix.id, t->suffix.n, err)); }
out:
    return st;
}

/* ---- encoders --------------------------------------------------------------------------------------------------------------------- */

static hd_status open_encoder(const hd_tokenizer *tokenizer, bool cached, hd_encoder **out, hd_err *err)
{
    hd_status st;
    hd_encoder *e = NULL;
    HD_TRY(hd_alloc(1, sizeof *e, "encoder", (void **)&e, err));
    e->tokenizer = tokenizer;
    if (cached && !tokenizer->is_byte) { HD_TRY(hd_alloc((size_t)1 << CACHE_BITS, sizeof *e->cache, "cache of words", (void **)&e->cache, err)); }
    if (e->cache != NULL) { HD_TRY(hd_alloc((size_t)1 << PHRASE_BITS, sizeof *e->phrases, "cache of phrases", (void **)&e->phrases, err)); }
    if (tokenizer->split.has_regex) { HD_TRY(hd_regex_work_open(&e->regex, err)); }
    *out = e;
    e = NULL;
out:
    hd_encoder_close(e);
    return st;
}

hd_status hd_encoder_open(const hd_tokenizer *tokenizer, hd_encoder **out, hd_err *err)
{
    return open_encoder(tokenizer, true, out, err);
}

void hd_encoder_close(hd_encoder *encoder)
{
    if (encoder == NULL) { return; }
    hd_free(encoder->cache);
    hd_free(encoder->phrases);
    hd_bpe_work_free(&encoder->work);
    hd_regex_work_close(encoder->regex);
    hd_buf_free(&encoder->clean);
    hd_buf_free(&encoder->normal);
    hd_free(encoder);
}

hd_status hd_tokenizer_encode(const hd_tokenizer *tokenizer, const char *text, size_t n, hd_encode_flags flags, hd_ids *ids, hd_err *err)
{
    hd_encoder *encoder = NULL;
    hd_status st = open_encoder(tokenizer, false, &encoder, err);
    if (st == HD_OK) { st = hd_encoder_encode(encoder, text, n, flags, ids, err); }
    hd_encoder_close(encoder);
    return st;
}
