/* Merging pairs.  See train.h.
 *
 * Each pair of neighbours has its count, the words it was seen in, and an entry in a heap.  A merge rewrites those words and changes the
 * counts of the pairs beside it; entries of the heap are put right when they come to its top.  As in HuggingFace's trainer, which this
 * follows step by step: ties go to the smaller pair of ids, and a token that two merges spell the same way is one token. */
#include "tokenizer/train.h"

#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "tokenizer/symbols.h"

enum { FIRST_PAIRS = 1 << 14, PROGRESS_MERGES = 256 };

typedef struct word {
    size_t offset; /* of its symbols */
    uint32_t n;
    int64_t count;
} word;

typedef struct pair {
    uint64_t key; /* left << 32 | right */
    int64_t count;
    uint32_t *words; /* that hold it, or held it once */
    uint32_t n_word, capacity;
    bool touched; /* on the list of pairs that the merge at work made more frequent */
} pair;

typedef struct entry {
    int64_t count;
    uint64_t key;
    uint32_t pair;
} entry;

typedef struct trainer {
    const hd_train_options *options;
    hd_trained *out;
    size_t bytes_capacity, ends_capacity, merge_capacity;
    uint32_t *symbol;
    word *word;
    size_t n_word;
    pair *pair;
    uint32_t n_pair, pair_capacity;
    uint32_t *slot; /* open addressing over pairs: index + 1 */
    size_t n_slot;
    entry *heap;
    size_t n_heap, heap_capacity;
    uint32_t *touched;
    size_t n_touched, touched_capacity;
    int32_t *token_slot; /* open addressing over the bytes of tokens: id + 1 */
    size_t n_token_slot;
} trainer;

void hd_trained_free(hd_trained *trained)
{
    hd_free(trained->merge);
    hd_free(trained->bytes);
    hd_free(trained->ends);
    *trained = (hd_trained){0};
}

/* Room for n elements in an array that has *capacity. */
static hd_status reserve(void **array, size_t n, size_t *capacity, size_t size, const char *what, hd_err *err)
{
    size_t wanted = *capacity == 0 ? 64 : *capacity;
    if (n <= *capacity) { return HD_OK; }
    while (wanted < n) { wanted *= 2; }
    hd_status st = hd_realloc(array, *capacity, wanted, size, what, err);
    if (st == HD_OK) { *capacity = wanted; }
    return st;
}

/* ---- tokens ---------------------------------------------------------------------------------------------------------------------- */

static const char *token_bytes(const hd_trained *t, size_t id, size_t *n)
{
    size_t begin = id > 0 ? t->ends[id - 1] : 0;
    *n = t->ends[id] - begin;
    return t->bytes + begin;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
    x = (x ^ (x >> 32)) * UINT64_C(0xD6E8FEB86659FD93);
    return x ^ (x >> 32);
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < n; i++) { h = (h ^ (unsigned char)p[i]) * UINT64_C(0x100000001B3); }
    return mix(h);
}

static int32_t find_token(const trainer *t, const char *bytes, size_t n, size_t *slot)
{
    size_t s = hash_bytes(bytes, n) & (t->n_token_slot - 1);
    for (; t->token_slot[s] != 0; s = (s + 1) & (t->n_token_slot - 1)) {
        size_t k;
        int32_t id = t->token_slot[s] - 1;
        const char *own = token_bytes(t->out, (size_t)id, &k);
        if (k == n && memcmp(own, bytes, n) == 0) { return id; }
    }
    *slot = s;
    return -1;
}

static hd_status add_token(trainer *t, const char *bytes, size_t n, bool indexed, hd_err *err)
{
    hd_status st = HD_OK;
    hd_trained *out = t->out;
    size_t begin = out->n_token > 0 ? out->ends[out->n_token - 1] : 0, slot = 0;
    HD_TRY(reserve((void **)&out->bytes, begin + n + 1, &t->bytes_capacity, 1, "bytes of tokens", err));
    HD_TRY(reserve((void **)&out->ends, out->n_token + 1, &t->ends_capacity, sizeof *out->ends, "tokens", err));
    if (n > 0) { memcpy(out->bytes + begin, bytes, n); }
    if (indexed && find_token(t, bytes, n, &slot) < 0) { t->token_slot[slot] = (int32_t)out->n_token + 1; }
    out->ends[out->n_token++] = begin + n;
out:
    return st;
}

/* The special tokens and the 256 bytes, in the order of the characters they are written as. */
static hd_status add_first_tokens(trainer *t, uint32_t id_of_byte[256], hd_err *err)
{
    hd_status st = HD_OK;
    t->n_token_slot = 64;
    while (t->n_token_slot < 2 * (size_t)t->options->vocab_size) { t->n_token_slot *= 2; }
    HD_TRY(hd_alloc(t->n_token_slot, sizeof *t->token_slot, "table of tokens", (void **)&t->token_slot, err));
    for (int i = 0; i < HD_TRAIN_SPECIALS; i++) { HD_TRY(add_token(t, "", 0, false, err)); }
    for (uint32_t code = 0; code < 0x144; code++) {
        int byte = hd_symbol_byte(code);
        if (byte < 0) { continue; }
        char c = (char)byte;
        id_of_byte[byte] = (uint32_t)t->out->n_token;
        HD_TRY(add_token(t, &c, 1, true, err));
    }
out:
    return st;
}

/* ---- pairs ----------------------------------------------------------------------------------------------------------------------- */

static void put_pair_slot(trainer *t, uint32_t index)
{
    size_t s = mix(t->pair[index].key) & (t->n_slot - 1);
    while (t->slot[s] != 0) { s = (s + 1) & (t->n_slot - 1); }
    t->slot[s] = index + 1;
}

static hd_status grow_pairs(trainer *t, hd_err *err)
{
    hd_status st = HD_OK;
    void *pairs = t->pair, *slots = NULL;
    if (t->n_pair < t->pair_capacity) { return HD_OK; }
    if (t->n_pair >= UINT32_MAX / 4) { return HD_FAIL(err, HD_E_UNSUPPORTED, "more than 2^30 different pairs"); }
    uint32_t capacity = t->pair_capacity == 0 ? FIRST_PAIRS : 2 * t->pair_capacity;
    HD_TRY(hd_alloc(2 * (size_t)capacity, sizeof *t->slot, "table of pairs", &slots, err));
    HD_TRY(hd_realloc(&pairs, t->pair_capacity, capacity, sizeof *t->pair, "pairs", err));
    t->pair = pairs;
    t->pair_capacity = capacity;
    hd_free(t->slot);
    t->slot = slots;
    slots = NULL;
    t->n_slot = 2 * (size_t)capacity;
    for (uint32_t i = 0; i < t->n_pair; i++) { put_pair_slot(t, i); }
out:
    hd_free(slots);
    return st;
}

static hd_status find_pair(trainer *t, uint32_t left, uint32_t right, uint32_t *index, hd_err *err)
{
    uint64_t key = (uint64_t)left << 32 | right;
    for (size_t s = t->n_slot > 0 ? mix(key) & (t->n_slot - 1) : 0; t->n_slot > 0 && t->slot[s] != 0; s = (s + 1) & (t->n_slot - 1)) {
        if (t->pair[t->slot[s] - 1].key == key) { return *index = t->slot[s] - 1, HD_OK; }
    }
    hd_status st = grow_pairs(t, err);
    if (st != HD_OK) { return st; }
    *index = t->n_pair;
    t->pair[t->n_pair] = (pair){.key = key};
    put_pair_slot(t, t->n_pair++);
    return HD_OK;
}

/* A pair that word i now holds `times` more (or fewer). */
static hd_status change_pair(trainer *t, uint32_t left, uint32_t right, size_t i, int64_t change, hd_err *err)
{
    hd_status st = HD_OK;
    uint32_t index;
    HD_TRY(find_pair(t, left, right, &index, err));
    pair *p = &t->pair[index];
    p->count += change * t->word[i].count;
    if (change < 0) { return HD_OK; }
    if (!p->touched) {
        HD_TRY(reserve((void **)&t->touched, t->n_touched + 1, &t->touched_capacity, sizeof *t->touched, "pairs", err));
        t->touched[t->n_touched++] = index;
        p->touched = true;
    }
    if (p->n_word > 0 && p->words[p->n_word - 1] == (uint32_t)i) { return HD_OK; }
    if (p->n_word == p->capacity) {
        void *words = p->words;
        uint32_t capacity = p->capacity == 0 ? 2 : p->capacity <= UINT32_MAX / 2 ? 2 * p->capacity : UINT32_MAX;
        HD_TRY(hd_realloc(&words, p->capacity, capacity, sizeof *p->words, "words of a pair", err));
        p->words = words;
        p->capacity = capacity;
    }
    p->words[p->n_word++] = (uint32_t)i;
out:
    return st;
}

/* ---- the heap -------------------------------------------------------------------------------------------------------------------- */

static bool comes_first(const entry *a, const entry *b)
{
    return a->count > b->count || (a->count == b->count && a->key < b->key);
}

static void sift_down(trainer *t, size_t i)
{
    entry moving = t->heap[i];
    for (size_t child; (child = 2 * i + 1) < t->n_heap; i = child) {
        if (child + 1 < t->n_heap && comes_first(&t->heap[child + 1], &t->heap[child])) { child++; }
        if (!comes_first(&t->heap[child], &moving)) { break; }
        t->heap[i] = t->heap[child];
    }
    t->heap[i] = moving;
}

static hd_status push(trainer *t, uint32_t index, hd_err *err)
{
    entry fresh = {.count = t->pair[index].count, .key = t->pair[index].key, .pair = index};
    hd_status st = reserve((void **)&t->heap, t->n_heap + 1, &t->heap_capacity, sizeof *t->heap, "queue of pairs", err);
    if (st != HD_OK) { return st; }
    size_t i = t->n_heap++;
    for (; i > 0 && comes_first(&fresh, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) { t->heap[i] = t->heap[(i - 1) / 2]; }
    t->heap[i] = fresh;
    return HD_OK;
}

static hd_status push_touched(trainer *t, hd_err *err)
{
    for (size_t i = 0; i < t->n_touched; i++) {
        pair *p = &t->pair[t->touched[i]];
        p->touched = false;
        hd_status st = p->count > 0 ? push(t, t->touched[i], err) : HD_OK;
        if (st != HD_OK) { return st; }
    }
    t->n_touched = 0;
    return HD_OK;
}

/* The most frequent pair, or none. */
static bool pop(trainer *t, uint32_t *index)
{
    while (t->n_heap > 0) {
        const pair *p = &t->pair[t->heap[0].pair];
        bool is_right = t->heap[0].count == p->count;
        *index = t->heap[0].pair;
        if (!is_right && p->n_word > 0 && p->count > 0) {
            t->heap[0].count = p->count;
        } else {
            t->heap[0] = t->heap[--t->n_heap];
        }
        if (t->n_heap > 0) { sift_down(t, 0); }
        if (is_right && p->n_word > 0) { return true; }
    }
    return false;
}

/* ---- training -------------------------------------------------------------------------------------------------------------------- */

static hd_status take_words(trainer *t, const hd_word_counts *counts, const uint32_t id_of_byte[256], hd_err *err)
{
    hd_status st = HD_OK;
    size_t n_symbol = 0, n;
    uint64_t count;
    t->n_word = hd_word_counts_words(counts);
    if (t->n_word > UINT32_MAX) { return HD_FAIL(err, HD_E_UNSUPPORTED, "more than 2^32 different words"); }
    for (size_t i = 0; i < t->n_word; i++) {
        (void)hd_word_counts_get(counts, i, &n, &count);
        n_symbol += n;
    }
    HD_TRY(hd_alloc(t->n_word, sizeof *t->word, "words", (void **)&t->word, err));
    HD_TRY(hd_alloc(n_symbol, sizeof *t->symbol, "symbols of words", (void **)&t->symbol, err));
    n_symbol = 0;
    for (size_t i = 0; i < t->n_word; i++) {
        const char *bytes = hd_word_counts_get(counts, i, &n, &count);
        t->word[i] = (word){.offset = n_symbol, .n = (uint32_t)n, .count = count < INT64_MAX / 2 ? (int64_t)count : INT64_MAX / 2};
        for (size_t k = 0; k < n; k++) { t->symbol[n_symbol++] = id_of_byte[(unsigned char)bytes[k]]; }
        for (size_t k = 1; k < n; k++) { HD_TRY(change_pair(t, t->symbol[n_symbol - n + k - 1], t->symbol[n_symbol - n + k], i, 1, err)); }
    }
    HD_TRY(push_touched(t, err));
out:
    return st;
}

/* Replaces a pair in word i by a token, from left to right. */
static hd_status merge_word(trainer *t, size_t i, uint32_t left, uint32_t right, uint32_t token, hd_err *err)
{
    hd_status st = HD_OK;
    uint32_t *s = t->symbol + t->word[i].offset, n = t->word[i].n, to = 0;
    for (uint32_t from = 0; from < n; from++, to++) {
        if (s[from] != left || from + 1 == n || s[from + 1] != right) {
            s[to] = s[from];
            continue;
        }
        if (to > 0) {
            HD_TRY(change_pair(t, s[to - 1], left, i, -1, err));
            HD_TRY(change_pair(t, s[to - 1], token, i, 1, err));
        }
        if (from + 2 < n) {
            HD_TRY(change_pair(t, right, s[from + 2], i, -1, err));
            HD_TRY(change_pair(t, token, s[from + 2], i, 1, err));
        }
        s[to] = token;
        from++;
    }
    t->word[i].n = to;
out:
    return st;
}

/* The token that a pair spells: one that is there, or a new one. */
static hd_status token_of_pair(trainer *t, uint32_t left, uint32_t right, int32_t *id, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n_left, n_right, slot;
    char *joined = NULL;
    const char *a = token_bytes(t->out, left, &n_left), *b = token_bytes(t->out, right, &n_right);
    HD_TRY(hd_alloc(n_left + n_right, 1, "a token", (void **)&joined, err));
    memcpy(joined, a, n_left);
    memcpy(joined + n_left, b, n_right);
    *id = find_token(t, joined, n_left + n_right, &slot);
    if (*id < 0) {
        *id = (int32_t)t->out->n_token;
        HD_TRY(add_token(t, joined, n_left + n_right, true, err));
    }
out:
    hd_free(joined);
    return st;
}

static hd_status merge_pair(trainer *t, uint32_t index, hd_err *err)
{
    hd_status st = HD_OK;
    uint64_t key = t->pair[index].key;
    uint32_t left = (uint32_t)(key >> 32), right = (uint32_t)key, *words = t->pair[index].words, n_word = t->pair[index].n_word;
    int32_t id;
    t->pair[index].words = NULL;
    t->pair[index].n_word = t->pair[index].capacity = 0;
    HD_TRY(token_of_pair(t, left, right, &id, err));
    HD_TRY(reserve((void **)&t->out->merge, t->out->n_merge + 1, &t->merge_capacity, sizeof *t->out->merge, "merges", err));
    t->out->merge[t->out->n_merge++] = (hd_merge){(int32_t)left, (int32_t)right, id};
    for (uint32_t k = 0; k < n_word; k++) { HD_TRY(merge_word(t, words[k], left, right, (uint32_t)id, err)); }
    HD_TRY(push_touched(t, err));
out:
    hd_free(words);
    return st;
}

static hd_status train(trainer *t, const hd_word_counts *counts, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_train_options *options = t->options;
    uint32_t id_of_byte[256], index;
    HD_TRY(add_first_tokens(t, id_of_byte, err));
    HD_TRY(take_words(t, counts, id_of_byte, err));
    while ((int64_t)t->out->n_token < options->vocab_size && pop(t, &index)) {
        if (t->pair[index].count < options->min_count) { break; }
        HD_TRY(merge_pair(t, index, err));
        if (options->progress != NULL && t->out->n_merge % PROGRESS_MERGES == 0) {
            HD_TRY(options->progress(options->context, (int64_t)t->out->n_token, err));
        }
    }
out:
    return st;
}

hd_status hd_bpe_train(const hd_word_counts *counts, const hd_train_options *options, hd_trained *out, hd_err *err)
{
    trainer t = {.options = options, .out = out};
    *out = (hd_trained){0};
    if (options->vocab_size < HD_TRAIN_FIRST_MERGE || options->vocab_size > INT32_MAX) {
        return HD_FAIL(err, HD_E_CONFIG, "vocab_size is %lld, want at least %d: %d special tokens and the bytes",
                       (long long)options->vocab_size, HD_TRAIN_FIRST_MERGE, HD_TRAIN_SPECIALS);
    }
    hd_status st = train(&t, counts, err);
    for (uint32_t i = 0; i < t.n_pair; i++) { hd_free(t.pair[i].words); }
    hd_free(t.pair);
    hd_free(t.slot);
    hd_free(t.heap);
    hd_free(t.touched);
    hd_free(t.word);
    hd_free(t.symbol);
    hd_free(t.token_slot);
    if (st != HD_OK) { hd_trained_free(out); }
    return st;
}
