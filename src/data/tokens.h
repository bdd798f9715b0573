/* The tokens of a corpus.  Bytes are their own tokens and are read where they lie; what a tokenizer.json makes of the documents is written once
 * into a spool, so that any stretch of it can be read and memory holds two numbers per document. */
#ifndef HD_DATA_TOKENS_H
#define HD_DATA_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "data/corpus.h"
#include "hadal/status.h"
#include "tokenizer/tokenizer.h"

typedef struct hd_tokens {
    hd_corpus *corpus;
    hd_tokenizer *tokenizer;
    bool is_byte;
    struct hd_file *spool;   /* int32 ids of all documents in order; NULL: tokenizer_type=byte */
    int64_t *first;          /* n_document + 1: where a document's tokens begin in the spool */
    unsigned char *bytes;    /* of one read, with tokenizer_type=byte */
    int64_t n_bytes;
} hd_tokens;

/* Opens the tokenizer that tokenizer_type and tokenizer_path name.  HD_E_CONFIG when vocab_size (of the model) is smaller than the tokenizer, or
 * add_bos or add_eos ask for a token that it does not have. */
hd_status hd_tokens_open(const hd_config *config, int64_t vocab_size, hd_tokens *tokens, hd_err *err) HD_CHECK_RESULT;
void hd_tokens_close(hd_tokens *tokens); /* accepts a zeroed one */

/* Tokenizes a corpus, which must stay. */
hd_status hd_tokens_fill(hd_tokens *tokens, hd_corpus *corpus, hd_err *err) HD_CHECK_RESULT;

size_t hd_tokens_host_bytes(const hd_tokens *tokens);

/* Tokens of a document, without bos and eos. */
int64_t hd_tokens_count(const hd_tokens *tokens, int64_t document);

/* Tokens [begin, begin + n) of a document. */
hd_status hd_tokens_read(hd_tokens *tokens, int64_t document, int64_t begin, int64_t n, int32_t *id, hd_err *err) HD_CHECK_RESULT;

/* The bytes that tokens [begin, end) of a document stand for. */
hd_status hd_tokens_n_byte(hd_tokens *tokens, int64_t document, int64_t begin, int64_t end, int64_t *n_byte, hd_err *err) HD_CHECK_RESULT;

#endif
