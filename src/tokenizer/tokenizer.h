/* Tokenizers: text to ids and back.
 *
 * tokenizer_type=huggingface reads the tokenizer.json of a byte-level BPE (DeepSeek V2, V3 and later, GPT-2, Llama-3, Qwen) and the
 * tokenizer_config.json beside it; tokenizer_type=byte needs no file.  Ids are those of HuggingFace tokenizers; docs/tokenizer.md lists
 * where a choice had to be made.
 *
 * A tokenizer does not change after it is opened and may be used by any number of threads; each thread that encodes takes an encoder
 * (a cache of words and room to work) or pays for one at every call. */
#ifndef HD_TOKENIZER_TOKENIZER_H
#define HD_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "config/config.h"
#include "hadal/status.h"

typedef struct hd_tokenizer hd_tokenizer;

/* A growing list of ids; a zeroed one is empty and ready. */
typedef struct hd_ids {
    int32_t *id;
    size_t n, capacity;
} hd_ids;

hd_status hd_ids_append(hd_ids *ids, const int32_t *id, size_t n, hd_err *err) HD_CHECK_RESULT;
void hd_ids_free(hd_ids *ids);

/* ---- opening ---------------------------------------------------------------------------------------------------------------------- */

/* A tokenizer.json, or a folder that holds one.  tokenizer_config.json and chat_template.jinja beside it are read when they are there.
 * HD_E_CONFIG when there is no such file, HD_E_CORRUPT for a damaged one, HD_E_UNSUPPORTED for parts that no byte-level BPE uses. */
hd_status hd_tokenizer_open(const char *path, hd_tokenizer **out, hd_err *err) HD_CHECK_RESULT;

/* The same from texts in memory; config NULL: there is no tokenizer_config.json.  The texts are not needed afterwards. */
hd_status hd_tokenizer_parse(const char *json, size_t n, const char *config, size_t n_config, hd_tokenizer **out, hd_err *err) HD_CHECK_RESULT;

/* tokenizer_type=byte: 256 bytes, bos, eos, pad. */
hd_status hd_tokenizer_open_byte(hd_tokenizer **out, hd_err *err) HD_CHECK_RESULT;

/* What tokenizer_type and tokenizer_path ask for; without a path, the tokenizer.json of load_parameters_path. */
hd_status hd_tokenizer_from_config(const hd_config *config, hd_tokenizer **out, hd_err *err) HD_CHECK_RESULT;

void hd_tokenizer_close(hd_tokenizer *tokenizer); /* accepts NULL */

/* ---- what it holds ---------------------------------------------------------------------------------------------------------------- */

int64_t hd_tokenizer_vocab_size(const hd_tokenizer *tokenizer); /* one more than the largest id */

/* -1 where the tokenizer has none. */
int32_t hd_tokenizer_bos(const hd_tokenizer *tokenizer);
int32_t hd_tokenizer_eos(const hd_tokenizer *tokenizer);
int32_t hd_tokenizer_pad(const hd_tokenizer *tokenizer);

/* The id of a token as tokenizer.json writes it ("<|EOT|>", "Ġthe"); -1 when there is none. */
int32_t hd_tokenizer_find(const hd_tokenizer *tokenizer, const char *content, size_t n);

/* The bytes that an id decodes to (possibly a part of a character); NULL for an id without a token.  Lives as long as the tokenizer. */
const char *hd_tokenizer_bytes(const hd_tokenizer *tokenizer, int32_t id, size_t *n);
bool hd_tokenizer_is_special(const hd_tokenizer *tokenizer, int32_t id); /* skipped by HD_DECODE_SKIP_SPECIAL */

/* The chat template of chat_template.jinja or tokenizer_config.json (of several, "default"); NULL when there is none. */
const char *hd_tokenizer_chat_template(const hd_tokenizer *tokenizer);

/* Changes whenever ids may: a hash of tokenizer.json's text. */
uint64_t hd_tokenizer_fingerprint(const hd_tokenizer *tokenizer);

/* ---- text to ids ------------------------------------------------------------------------------------------------------------------ */

typedef enum hd_encode_flags {
    HD_ENCODE_PLAIN = 0,
    HD_ENCODE_ADD_SPECIAL = 1,  /* with the bos and eos that the tokenizer's own rule puts around a text */
    HD_ENCODE_ADDED_AS_TEXT = 2 /* "<|EOT|>" in the text is seven characters and not a token */
} hd_encode_flags;

typedef struct hd_encoder hd_encoder;

hd_status hd_encoder_open(const hd_tokenizer *tokenizer, hd_encoder **out, hd_err *err) HD_CHECK_RESULT;
void hd_encoder_close(hd_encoder *encoder); /* accepts NULL */

/* Appends the ids of a text to *ids.  Ill-formed UTF-8 is taken as U+FFFD, as Python's errors="replace" has it.
 * Time is linear in n (times the logarithm of the longest pre-token where that is long); memory beside the ids is at most 24 bytes per byte
 * of the longest pre-token.  A text has fewer than 2^32 - 1 bytes.  On failure *ids may hold a part. */
hd_status hd_encoder_encode(hd_encoder *encoder, const char *text, size_t n, hd_encode_flags flags, hd_ids *ids, hd_err *err) HD_CHECK_RESULT;

/* The same for one text, with an encoder of its own that has no cache. */
hd_status hd_tokenizer_encode(const hd_tokenizer *tokenizer, const char *text, size_t n, hd_encode_flags flags, hd_ids *ids,
                              hd_err *err) HD_CHECK_RESULT;

typedef struct hd_document_text {
    const char *text;
    size_t n;
} hd_document_text;

/* Many texts on n_threads threads, long ones in parts where that cannot change an id.  ids receives all of them in order, ends[i] (n_document
 * long) where document i ends in it.  The result does not depend on n_threads. */
hd_status hd_tokenizer_encode_documents(const hd_tokenizer *tokenizer, const hd_document_text *documents, size_t n_document,
                                        hd_encode_flags flags, int n_threads, hd_ids *ids, size_t *ends, hd_err *err) HD_CHECK_RESULT;

/* The last place in a text where it may be cut, so that its parts, encoded one by one, give the ids of the whole; 0 where there is none, or
 * where this tokenizer's rules do not allow to know. */
size_t hd_tokenizer_safe_cut(const hd_tokenizer *tokenizer, const char *text, size_t n);

/* ---- ids to text ------------------------------------------------------------------------------------------------------------------ */

typedef enum hd_decode_flags { HD_DECODE_ALL = 0, HD_DECODE_SKIP_SPECIAL = 1 } hd_decode_flags;

/* Appends the text of ids, ill-formed UTF-8 as U+FFFD.  HD_E_INVALID for an id that has no token. */
hd_status hd_tokenizer_decode(const hd_tokenizer *tokenizer, const int32_t *id, size_t n, hd_decode_flags flags, hd_buf *text,
                              hd_err *err) HD_CHECK_RESULT;

/* A decoder that is fed id by id and gives whole characters only: what it has given is at any time a prefix of what
 * hd_tokenizer_decode makes of all ids.  An id without a token gives nothing (a model may have unused rows). */
typedef struct hd_decode_stream {
    const hd_tokenizer *tokenizer;
    hd_decode_flags flags;
    char held[4]; /* the beginning of a character */
    size_t n_held;
} hd_decode_stream;

void hd_decode_stream_open(hd_decode_stream *stream, const hd_tokenizer *tokenizer, hd_decode_flags flags);
void hd_decode_stream_feed(hd_decode_stream *stream, int32_t id, hd_buf *text); /* failures stay in text */
void hd_decode_stream_end(hd_decode_stream *stream, hd_buf *text);              /* a character cut short becomes U+FFFD */

#endif
