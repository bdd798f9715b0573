/* See tokens.h. */
#include "data/tokens.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/parallel_for.h"
#include "data/spool.h"
#include "hadal/log.h"

enum { BLOCK_BYTES = 1 << 24, READ_IDS = 1 << 16 };

/* ---- tokenizing into the spool ---------------------------------------------------------------------------------------------------- */

typedef struct writer {
    hd_tokens *tokens;
    hd_buf text;                /* of the documents, or the part of one, of this block */
    hd_document_text *document; /* n_document of the corpus at most */
    size_t *ends;
    hd_ids ids;
    int64_t n_id;
} writer;

static hd_status read_into(writer *w, int64_t d, int64_t begin, int64_t n, hd_err *err)
{
    char *room = hd_buf_reserve(&w->text, (size_t)n);
    if (room == NULL) { return hd_buf_check(&w->text, err); }
    hd_status st = hd_corpus_read(w->tokens->corpus, d, begin, n, room, err);
    if (st == HD_OK) { w->text.n += (size_t)n; }
    return st;
}

static hd_status encode(writer *w, size_t n, hd_err *err)
{
    w->ids.n = 0;
    hd_status st = hd_tokenizer_encode_documents(w->tokens->tokenizer, w->document, n, HD_ENCODE_PLAIN, hd_default_threads(), &w->ids, w->ends, err);
    return st == HD_OK ? hd_io_write(w->tokens->spool, w->ids.id, w->ids.n * sizeof *w->ids.id, err) : st;
}

/* Documents [first, last) at once. */
static hd_status write_documents(writer *w, int64_t first, int64_t last, hd_err *err)
{
    hd_status st = HD_OK;
    size_t at = 0;
    hd_buf_clear(&w->text);
    for (int64_t d = first; d < last; d++) { HD_TRY(read_into(w, d, 0, w->tokens->corpus->documents[d].n_byte, err)); }
    for (int64_t d = first; d < last; d++) {
        size_t n = (size_t)w->tokens->corpus->documents[d].n_byte;
        w->document[d - first] = (hd_document_text){hd_buf_text(&w->text) + at, n};
        at += n;
    }
    HD_TRY(encode(w, (size_t)(last - first), err));
    for (int64_t d = first; d < last; d++) { w->tokens->first[d + 1] = w->n_id + (int64_t)w->ends[d - first]; }
    w->n_id += (int64_t)w->ids.n;
out:
    return st;
}

/* One document of more than a block, in parts where the tokenizer may be stopped without changing an id. */
static hd_status write_long(writer *w, int64_t d, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t n_byte = w->tokens->corpus->documents[d].n_byte, read = 0;
    hd_buf_clear(&w->text);
    while (read < n_byte || w->text.n > 0) {
        int64_t more = n_byte - read < BLOCK_BYTES ? n_byte - read : BLOCK_BYTES;
        HD_TRY(read_into(w, d, read, more, err));
        read += more;
        size_t cut = read < n_byte ? hd_tokenizer_safe_cut(w->tokens->tokenizer, w->text.data, w->text.n) : w->text.n;
        if (cut == 0) { continue; } /* nowhere: the next block is read as well */
        w->document[0] = (hd_document_text){w->text.data, cut};
        HD_TRY(encode(w, 1, err));
        w->n_id += (int64_t)w->ids.n;
        memmove(w->text.data, w->text.data + cut, w->text.n - cut);
        w->text.n -= cut;
    }
    w->tokens->first[d + 1] = w->n_id;
out:
    return st;
}

static hd_status write_all(writer *w, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_corpus *c = w->tokens->corpus;
    for (int64_t d = 0; d < c->n_document;) {
        int64_t last = d, bytes = 0;
        while (last < c->n_document && bytes + c->documents[last].n_byte <= BLOCK_BYTES) { bytes += c->documents[last++].n_byte; }
        if (last == d) {
            HD_TRY(write_long(w, d++, err));
        } else {
            HD_TRY(write_documents(w, d, last, err));
            d = last;
        }
    }
out:
    return st;
}

hd_status hd_tokens_fill(hd_tokens *tokens, hd_corpus *corpus, hd_err *err)
{
    hd_status st = HD_OK;
    size_t n_document = (size_t)corpus->n_document;
    writer w = {.tokens = tokens};
    double start = hd_clock_now_s();
    tokens->corpus = corpus;
    if (tokens->is_byte) { return HD_OK; }
    HD_TRY(hd_spool_open(&tokens->spool, err));
    HD_TRY(hd_alloc(n_document + 1, sizeof *tokens->first, "token counts", (void **)&tokens->first, err));
    HD_TRY(hd_alloc(n_document, sizeof *w.document, "documents", (void **)&w.document, err));
    HD_TRY(hd_alloc(n_document, sizeof *w.ends, "documents", (void **)&w.ends, err));
    HD_TRY(write_all(&w, err));
    hd_log(HD_LOG_INFO, "tokenized %lld bytes into %lld tokens in %.1f s", (long long)corpus->n_byte, (long long)w.n_id, hd_clock_now_s() - start);
out:
    hd_buf_free(&w.text);
    hd_free(w.document);
    hd_free(w.ends);
    hd_ids_free(&w.ids);
    return st;
}

/* ---- opening ---------------------------------------------------------------------------------------------------------------------- */

static hd_status check_tokenizer(const hd_config *config, int64_t vocab_size, const hd_tokenizer *tokenizer, hd_err *err)
{
    int64_t n = hd_tokenizer_vocab_size(tokenizer);
    const char *type = hd_config_str(config, HD_KEY_tokenizer_type), *path = hd_config_str(config, HD_KEY_tokenizer_path);
    bool named = path != NULL && !hd_config_is(config, HD_KEY_tokenizer_type, "byte");
    if (vocab_size < n) {
        return HD_FAIL(err, HD_E_CONFIG, "vocab_size is %" PRId64 "; tokenizer_type=%s%s%s needs at least %" PRId64, vocab_size, type,
                       named ? " tokenizer_path=" : "", named ? path : "", n);
    }
    if (hd_config_bool(config, HD_KEY_add_bos) && hd_tokenizer_bos(tokenizer) < 0) {
        return HD_FAIL(err, HD_E_CONFIG, "add_bos=true: the tokenizer has no BOS token; set add_bos=false");
    }
    if (hd_config_bool(config, HD_KEY_add_eos) && hd_tokenizer_eos(tokenizer) < 0) {
        return HD_FAIL(err, HD_E_CONFIG, "add_eos=true: the tokenizer has no EOS token; set add_eos=false");
    }
    return HD_OK;
}

hd_status hd_tokens_open(const hd_config *config, int64_t vocab_size, hd_tokens *tokens, hd_err *err)
{
    hd_status st;
    *tokens = (hd_tokens){.is_byte = hd_config_is(config, HD_KEY_tokenizer_type, "byte")};
    HD_TRY(hd_tokenizer_from_config(config, &tokens->tokenizer, err));
    HD_TRY(check_tokenizer(config, vocab_size, tokens->tokenizer, err));
out:
    if (st != HD_OK) { hd_tokens_close(tokens); }
    return st;
}

void hd_tokens_close(hd_tokens *tokens)
{
    hd_tokenizer_close(tokens->tokenizer);
    hd_io_abandon(&tokens->spool);
    hd_free(tokens->first);
    hd_free(tokens->bytes);
    *tokens = (hd_tokens){0};
}

size_t hd_tokens_host_bytes(const hd_tokens *tokens)
{
    return tokens->is_byte ? 0 : ((size_t)tokens->corpus->n_document + 1) * sizeof *tokens->first;
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

int64_t hd_tokens_count(const hd_tokens *tokens, int64_t document)
{
    return !tokens->is_byte ? tokens->first[document + 1] - tokens->first[document] : tokens->corpus->documents[document].n_byte;
}

static hd_status read_bytes(hd_tokens *t, int64_t document, int64_t begin, int64_t n, int32_t *id, hd_err *err)
{
    if (t->n_bytes < n) {
        hd_free(t->bytes);
        t->bytes = NULL;
        t->n_bytes = 0;
        hd_status st = hd_alloc((size_t)n, 1, "row bytes", (void **)&t->bytes, err);
        if (st != HD_OK) { return st; }
        t->n_bytes = n;
    }
    hd_status st = hd_corpus_read(t->corpus, document, begin, n, t->bytes, err);
    for (int64_t i = 0; st == HD_OK && i < n; i++) { id[i] = t->bytes[i]; }
    return st;
}

hd_status hd_tokens_read(hd_tokens *tokens, int64_t document, int64_t begin, int64_t n, int32_t *id, hd_err *err)
{
    if (n == 0) { return HD_OK; }
    if (tokens->is_byte) { return read_bytes(tokens, document, begin, n, id, err); }
    return hd_io_pread(tokens->spool, id, (size_t)n * sizeof *id, (tokens->first[document] + begin) * (int64_t)sizeof *id, err);
}

hd_status hd_tokens_n_byte(hd_tokens *tokens, int64_t document, int64_t begin, int64_t end, int64_t *n_byte, hd_err *err)
{
    hd_status st = HD_OK;
    int32_t *id = NULL;
    *n_byte = end - begin;
    if (tokens->is_byte) { return HD_OK; }
    *n_byte = 0;
    HD_TRY(hd_alloc(READ_IDS, sizeof *id, "token ids", (void **)&id, err));
    for (int64_t at = begin, n; at < end; at += n) {
        n = end - at < READ_IDS ? end - at : READ_IDS;
        HD_TRY(hd_tokens_read(tokens, document, at, n, id, err));
        for (int64_t i = 0; i < n; i++) {
            size_t k;
            (void)hd_tokenizer_bytes(tokens->tokenizer, id[i], &k);
            *n_byte += (int64_t)k;
        }
    }
out:
    hd_free(id);
    return st;
}
