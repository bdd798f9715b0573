/* Training of a byte-level BPE: words of texts are counted, then the most frequent pair of neighbouring tokens becomes a token, again
 * and again.  The result is that of HuggingFace's BpeTrainer with the pre-tokeniser of DeepSeek-V3: of pairs that are as frequent, the one with the
 * smaller ids comes first.  It depends on the texts and the options alone, not on the number of threads. */
#ifndef HD_TOKENIZER_TRAIN_H
#define HD_TOKENIZER_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "hadal/status.h"
#include "tokenizer/tokenizer.h"

/* Ids 0, 1 and 2 are BOS, EOS and padding, 3 to 258 the bytes in the order of their characters, then the merges in order. */
enum { HD_TRAIN_SPECIALS = 3, HD_TRAIN_FIRST_MERGE = 259 };

/* ---- counting words -------------------------------------------------------------------------------------------------------------- */

typedef struct hd_word_counts hd_word_counts;

/* Memory for words and counts stays near max_bytes (0: no limit): when there are more, the rarest are given up. */
hd_status hd_word_counts_open(int n_threads, size_t max_bytes, hd_word_counts **out, hd_err *err) HD_CHECK_RESULT;
void hd_word_counts_close(hd_word_counts *counts); /* accepts NULL */

/* Counts the words of documents that stand one behind the other: document i ends at byte ends[i].  Each has fewer than 2^32 - 1 bytes;
 * ill-formed UTF-8 counts as U+FFFD.  Rare words are given up at the end of a call at most. */
hd_status hd_word_counts_add(hd_word_counts *counts, const char *text, const size_t *ends, size_t n_document, hd_err *err) HD_CHECK_RESULT;

/* The last place in text (n bytes) where it may be cut so that its parts have the words of the whole; where there is none, the last place
 * between two characters in its second half. */
size_t hd_word_counts_cut(const char *text, size_t n);

size_t hd_word_counts_words(const hd_word_counts *counts);     /* different ones kept */
uint64_t hd_word_counts_total(const hd_word_counts *counts);   /* all, with repetition */
uint64_t hd_word_counts_dropped(const hd_word_counts *counts); /* of those, the ones that were given up */

/* A word by its index, in no particular order. */
const char *hd_word_counts_get(const hd_word_counts *counts, size_t i, size_t *n, uint64_t *count);

/* ---- merging pairs --------------------------------------------------------------------------------------------------------------- */

typedef struct hd_merge {
    int32_t left, right, id; /* id: usually a new one; a token that two merges make keeps its first */
} hd_merge;

/* A trained vocabulary.  A zeroed one is empty. */
typedef struct hd_trained {
    hd_merge *merge;
    size_t n_merge;
    char *bytes;    /* of all tokens, one behind the other */
    size_t *ends;   /* token i has bytes [ends[i - 1], ends[i]); the special ones have none */
    size_t n_token; /* vocab_size, or fewer when no pair was left */
} hd_trained;

void hd_trained_free(hd_trained *trained);

typedef struct hd_train_options {
    int64_t vocab_size; /* at least HD_TRAIN_FIRST_MERGE */
    int64_t min_count;  /* a pair that is rarer is not merged */
    /* Called now and then with the tokens there are; a status other than HD_OK ends the training with it.  NULL: not called. */
    hd_status (*progress)(void *context, int64_t n_token, hd_err *err);
    void *context;
} hd_train_options;

hd_status hd_bpe_train(const hd_word_counts *counts, const hd_train_options *options, hd_trained *out, hd_err *err) HD_CHECK_RESULT;

/* Appends the text of a tokenizer.json, or of the tokenizer_config.json beside it. */
hd_status hd_trained_write(const hd_trained *trained, hd_buf *json, hd_err *err) HD_CHECK_RESULT;
hd_status hd_trained_write_config(hd_buf *json, hd_err *err) HD_CHECK_RESULT;

#endif
