/* Counting words in bounded memory.  See train.h.
 *
 * A text is cut into jobs where no word is cut; each thread counts into a table of its own, and the tables are added to the whole one after
 * each call.  Sums do not depend on who counted, and words are given up only between calls, so the result depends on the calls alone. */
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/parallel_for.h"
#include "base/utf8.h"
#include "tokenizer/scan.h"
#include "tokenizer/train.h"

enum { JOB_BYTES = 1 << 18, ENDS = 512, FIRST_SLOTS = 1 << 12 };

typedef struct word {
    size_t offset;
    uint32_t n;
    uint32_t hash; /* its low bits, to pass over most words that are not it */
    uint64_t count;
} word;

typedef struct table {
    hd_buf pool;
    word *word;
    size_t n_word, capacity;
    uint32_t *slot; /* open addressing: index + 1, 0 empty */
    size_t n_slot;  /* a power of two */
} table;

typedef struct worker {
    table table;
    hd_buf mended; /* text made well-formed */
    hd_status st;
    hd_err err;
} worker;

struct hd_word_counts {
    table all;
    worker *worker;
    int n_thread;
    size_t max_bytes;
    uint64_t total, dropped;
};

/* ---- tables ---------------------------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *p, size_t n)
{
    uint64_t h = n * UINT64_C(0x9E3779B97F4A7C15), w;
    for (; n >= sizeof w; p += sizeof w, n -= sizeof w) {
        memcpy(&w, p, sizeof w);
        h = (h ^ w) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    w = 0;
    memcpy(&w, p, n);
    h = (h ^ w) * UINT64_C(0xD6E8FEB86659FD93);
    return h ^ (h >> 29);
}

static void table_free(table *t)
{
    hd_buf_free(&t->pool);
    hd_free(t->word);
    hd_free(t->slot);
    *t = (table){0};
}

static void table_clear(table *t)
{
    hd_buf_clear(&t->pool);
    t->n_word = 0;
    if (t->n_slot > 0) { memset(t->slot, 0, t->n_slot * sizeof *t->slot); }
}

static void put_slot(table *t, size_t index)
{
    size_t s = t->word[index].hash & (t->n_slot - 1);
    while (t->slot[s] != 0) { s = (s + 1) & (t->n_slot - 1); }
    t->slot[s] = (uint32_t)index + 1;
}

/* Room for one word more; the slots are at most half full. */
static hd_status table_grow(table *t, hd_err *err)
{
    hd_status st = HD_OK;
    void *words = t->word, *slots = NULL;
    if (t->n_word < t->capacity) { return HD_OK; }
    if (t->n_word >= UINT32_MAX / 4) { return HD_FAIL(err, HD_E_UNSUPPORTED, "more than 2^30 different words"); }
    size_t capacity = t->capacity == 0 ? FIRST_SLOTS / 2 : 2 * t->capacity;
    HD_TRY(hd_alloc(2 * capacity, sizeof *t->slot, "table of words", &slots, err));
    HD_TRY(hd_realloc(&words, t->capacity, capacity, sizeof *t->word, "words", err));
    t->word = words;
    t->capacity = capacity;
    hd_free(t->slot);
    t->slot = slots;
    slots = NULL;
    t->n_slot = 2 * capacity;
    for (size_t i = 0; i < t->n_word; i++) { put_slot(t, i); }
out:
    hd_free(slots);
    return st;
}

static hd_status table_add(table *t, const char *text, size_t n, uint64_t count, hd_err *err)
{
    uint32_t hash = (uint32_t)hash_of(text, n);
    for (size_t s = t->n_slot > 0 ? hash & (t->n_slot - 1) : 0; t->n_slot > 0 && t->slot[s] != 0; s = (s + 1) & (t->n_slot - 1)) {
        word *w = &t->word[t->slot[s] - 1];
        if (w->hash == hash && w->n == n && memcmp(t->pool.data + w->offset, text, n) == 0) {
            w->count += count;
            return HD_OK;
        }
    }
    hd_status st = table_grow(t, err);
    if (st != HD_OK) { return st; }
    t->word[t->n_word] = (word){.offset = t->pool.n, .n = (uint32_t)n, .hash = hash, .count = count};
    hd_buf_append(&t->pool, text, n);
    st = hd_buf_check(&t->pool, err);
    if (st == HD_OK) { put_slot(t, t->n_word++); }
    return st;
}

static size_t table_bytes(const table *t)
{
    return t->pool.n + t->n_word * (sizeof(word) + 2 * sizeof(uint32_t));
}

/* ---- jobs ------------------------------------------------------------------------------------------------------------------------ */

size_t hd_word_counts_cut(const char *text, size_t n)
{
    size_t cut = n > 1 ? hd_scan_safe_cut(text, n / 2, n - 1) : 0;
    if (cut != 0) { return cut; }
    size_t tail = hd_utf8_incomplete_tail(text, n);
    return n > tail ? n - tail : n;
}

typedef struct batch {
    hd_word_counts *counts;
    const char *text;
    const size_t *ends; /* of the jobs */
} batch;

static void count_words(void *arg, int64_t i, int thread)
{
    const batch *b = arg;
    worker *w = &b->counts->worker[thread];
    size_t begin = i > 0 ? b->ends[i - 1] : 0, n = b->ends[i] - begin, at = 0, piece = 0, k;
    const char *text = b->text + begin;
    uint32_t ends[ENDS];
    if (w->st != HD_OK) { return; }
    if (!hd_utf8_validate(text, n, NULL)) {
        hd_buf_clear(&w->mended);
        hd_utf8_append_replacing(&w->mended, text, n);
        w->st = hd_buf_check(&w->mended, &w->err);
        text = hd_buf_text(&w->mended), n = w->mended.n;
    }
    while (w->st == HD_OK && (k = hd_scan(HD_SCAN_DEEPSEEK_V3, text, n, &at, ends, ENDS)) > 0) {
        for (size_t j = 0; j < k && w->st == HD_OK; piece = ends[j++]) {
            w->st = table_add(&w->table, text + piece, ends[j] - piece, 1, &w->err);
        }
    }
}

/* Ends of jobs: documents, and parts of about JOB_BYTES of long ones. */
static hd_status cut_jobs(const char *text, const size_t *document_ends, size_t n_document, size_t **ends, size_t *n_job, hd_err *err)
{
    size_t n = n_document > 0 ? document_ends[n_document - 1] : 0, begin = 0;
    hd_status st = hd_alloc(n / (JOB_BYTES / 2) + n_document + 1, sizeof **ends, "parts of texts", (void **)ends, err);
    if (st != HD_OK) { return st; }
    *n_job = 0;
    for (size_t d = 0; d < n_document; d++) {
        while (begin < document_ends[d]) {
            size_t rest = document_ends[d] - begin;
            begin += rest > 2 * JOB_BYTES ? hd_word_counts_cut(text + begin, JOB_BYTES) : rest;
            (*ends)[(*n_job)++] = begin;
        }
    }
    return HD_OK;
}

/* Gives up the rarest words until half of the limit is free. */
static hd_status drop_rare(hd_word_counts *counts, hd_err *err)
{
    hd_status st = HD_OK;
    table kept = {0};
    for (uint64_t floor = 2; table_bytes(&counts->all) > counts->max_bytes / 2; floor++) {
        for (size_t i = 0; i < counts->all.n_word; i++) {
            const word *w = &counts->all.word[i];
            if (w->count < floor) {
                counts->dropped += w->count;
            } else {
                HD_TRY(table_add(&kept, counts->all.pool.data + w->offset, w->n, w->count, err));
            }
        }
        table_free(&counts->all);
        counts->all = kept;
        kept = (table){0};
    }
out:
    table_free(&kept);
    return st;
}

static hd_status add_up(hd_word_counts *counts, hd_err *err)
{
    hd_status st = HD_OK;
    for (int t = 0; t < counts->n_thread; t++) {
        worker *w = &counts->worker[t];
        if (w->st != HD_OK) {
            if (err != NULL) { *err = w->err; }
            return w->st;
        }
        for (size_t i = 0; i < w->table.n_word; i++) {
            const word *counted = &w->table.word[i];
            HD_TRY(table_add(&counts->all, w->table.pool.data + counted->offset, counted->n, counted->count, err));
            counts->total += counted->count;
        }
        table_clear(&w->table);
    }
    if (counts->max_bytes > 0 && table_bytes(&counts->all) > counts->max_bytes) { HD_TRY(drop_rare(counts, err)); }
out:
    return st;
}

hd_status hd_word_counts_add(hd_word_counts *counts, const char *text, const size_t *document_ends, size_t n_document, hd_err *err)
{
    hd_status st = HD_OK;
    size_t *ends = NULL, n_job = 0;
    HD_TRY(cut_jobs(text, document_ends, n_document, &ends, &n_job, err));
    batch b = {.counts = counts, .text = text, .ends = ends};
    hd_parallel_for(counts->n_thread, (int64_t)n_job, count_words, &b);
    HD_TRY(add_up(counts, err));
out:
    hd_free(ends);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------------- */

hd_status hd_word_counts_open(int n_threads, size_t max_bytes, hd_word_counts **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_word_counts *counts = NULL;
    HD_TRY(hd_alloc(1, sizeof *counts, "word counts", (void **)&counts, err));
    counts->n_thread = n_threads < 1 ? 1 : n_threads;
    counts->max_bytes = max_bytes;
    HD_TRY(hd_alloc((size_t)counts->n_thread, sizeof *counts->worker, "word counts", (void **)&counts->worker, err));
    *out = counts;
    counts = NULL;
out:
    hd_word_counts_close(counts);
    return st;
}

void hd_word_counts_close(hd_word_counts *counts)
{
    if (counts == NULL) { return; }
    for (int t = 0; counts->worker != NULL && t < counts->n_thread; t++) {
        table_free(&counts->worker[t].table);
        hd_buf_free(&counts->worker[t].mended);
    }
    table_free(&counts->all);
    hd_free(counts->worker);
    hd_free(counts);
}

size_t hd_word_counts_words(const hd_word_counts *counts)
{
    return counts->all.n_word;
}

uint64_t hd_word_counts_total(const hd_word_counts *counts)
{
    return counts->total;
}

uint64_t hd_word_counts_dropped(const hd_word_counts *counts)
{
    return counts->dropped;
}

const char *hd_word_counts_get(const hd_word_counts *counts, size_t i, size_t *n, uint64_t *count)
{
    const word *w = &counts->all.word[i];
    *n = w->n;
    *count = w->count;
    return counts->all.pool.data + w->offset;
}
