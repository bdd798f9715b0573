/* What a tokenizer consists of.  For src/tokenizer alone. */
#ifndef HD_TOKENIZER_INTERNAL_H
#define HD_TOKENIZER_INTERNAL_H

#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/split.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

enum { HD_MAX_AROUND = 8 };

/* Ids that a rule puts before or behind a text. */
typedef struct hd_around {
    int32_t id[HD_MAX_AROUND];
    size_t n;
} hd_around;

struct hd_tokenizer {
    bool is_byte; /* tokenizer_type=byte: nothing below but vocab and the ids of the special tokens */
    bool nfc;     /* the normalizer */
    bool ignore_merges;
    bool may_cut; /* long documents may be encoded in parts (parallel.c) */
    hd_vocab vocab;
    hd_bpe bpe;
    hd_split split;
    hd_added raw, normalized; /* added tokens looked for before and after the normalizer */
    hd_around prefix, suffix;
    int32_t bos, eos, pad;
    char *chat_template;
    uint64_t fingerprint;
};

/* Fills an empty tokenizer from the text of a tokenizer.json (load.c). */
hd_status hd_tokenizer_load_json(hd_tokenizer *tokenizer, const char *text, size_t n, const char *name, hd_err *err) HD_CHECK_RESULT;

/* Then what tokenizer_config.json says; text NULL: there is none (load_config.c). */
hd_status hd_tokenizer_load_config(hd_tokenizer *tokenizer, const char *text, size_t n, const char *name, hd_err *err) HD_CHECK_RESULT;

#endif
