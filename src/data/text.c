/* Rows of text: which pieces a row holds (pieces.c), which bytes they are (corpus.c), and the four arrays made of them. */
#include "data/text.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "data/corpus.h"
#include "data/pieces.h"
#include "tokenizer/byte.h"

typedef struct text_dataset {
    hd_dataset base;
    hd_corpus corpus;
    hd_pieces pieces;
    int64_t n_epoch;
    bool add_bos, add_eos;
    unsigned char *bytes; /* row_length + 1 */
} text_dataset;

/* Token i of a document: bos, the bytes, eos.  `bytes` holds the document's bytes from `from` on. */
static int32_t token_at(const text_dataset *t, int64_t i, int64_t n_byte, int64_t from, const unsigned char *bytes)
{
    if (t->add_bos) {
        if (i == 0) { return HD_BYTE_BOS; }
        i--;
    }
    return i < n_byte ? (int32_t)bytes[i - from] : HD_BYTE_EOS;
}

/* Reads positions [begin, begin + n) of a document into the row at column `at`: inputs are tokens begin .., targets the next. */
static hd_status fill_piece(text_dataset *t, int64_t document, int64_t begin, int64_t n, int32_t segment, hd_batch *batch,
                            int64_t at, hd_err *err)
{
    int64_t n_byte = t->corpus.documents[document].n_byte, shift = t->add_bos ? 1 : 0;
    int64_t from = begin - shift > 0 ? begin - shift : 0;
    int64_t to = begin + n + 1 - shift < n_byte ? begin + n + 1 - shift : n_byte;
    if (to > from) {
        hd_status st = hd_corpus_read(&t->corpus, document, from, to - from, t->bytes, err);
        if (st != HD_OK) { return st; }
    }
    for (int64_t i = 0; i < n; i++) {
        batch->inputs[at + i] = token_at(t, begin + i, n_byte, from, t->bytes);
        batch->targets[at + i] = token_at(t, begin + i + 1, n_byte, from, t->bytes);
        batch->positions[at + i] = (int32_t)i;
        batch->segments[at + i] = segment;
        batch->loss_weights[at + i] = 1.0f;
    }
    return HD_OK;
}

static hd_status read_row(hd_dataset *ds, int64_t g, hd_batch *batch, int64_t row, bool *found, hd_err *err)
{
    text_dataset *t = (text_dataset *)ds;
    int64_t r = hd_pieces_seek(&t->pieces, g, t->n_epoch), at = row * batch->seq_len;
    int32_t segment = 0;
    *found = r >= 0;
    if (!*found) { return HD_OK; }
    for (uint32_t i = t->pieces.row_begin[r]; i < t->pieces.row_begin[r + 1]; i++) {
        uint32_t p = t->pieces.order[i];
        hd_piece piece = t->pieces.piece[p];
        int64_t n = (int64_t)t->pieces.length[p];
        hd_status st = fill_piece(t, (int64_t)piece.document, (int64_t)piece.index * t->pieces.row_length, n, ++segment, batch, at, err);
        if (st != HD_OK) { return st; }
        at += n;
    }
    return HD_OK;
}

static void close_text(hd_dataset *ds)
{
    text_dataset *t = (text_dataset *)ds;
    hd_pieces_close(&t->pieces);
    hd_corpus_close(&t->corpus);
    hd_free(t->bytes);
    hd_free(t);
}

static const hd_dataset_ops text_ops = {.read_row = read_row, .close = close_text};

static hd_status require_byte_tokenizer(const hd_config *config, int64_t vocab, hd_err *err)
{
    if (!hd_config_is(config, HD_KEY_tokenizer_type, "byte")) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "dataset_type=text with tokenizer_type=%s is not supported; set tokenizer_type=byte",
                       hd_config_str(config, HD_KEY_tokenizer_type));
    }
    if (vocab < HD_BYTE_VOCAB) {
        return HD_FAIL(err, HD_E_CONFIG, "the model has %lld tokens (vocab_size); tokenizer_type=byte needs at least %d", (long long)vocab, HD_BYTE_VOCAB);
    }
    return HD_OK;
}

/* Leaves this split's part of the corpus and counts the bytes that will be predicted. */
static hd_status take_split(const hd_config *config, hd_split split, text_dataset *t, hd_err *err)
{
    double fraction = hd_config_float(config, HD_KEY_eval_fraction);
    int64_t cut = t->corpus.n_byte - (int64_t)llround((double)t->corpus.n_byte * fraction);
    if (split == HD_SPLIT_TRAIN) {
        hd_corpus_keep_before(&t->corpus, cut);
    } else {
        hd_corpus_keep_from(&t->corpus, cut);
    }
    if (t->corpus.n_byte == 0) {
        return HD_FAIL(err, HD_E_CONFIG, "dataset_path=%s leaves no text for %s (eval_fraction=%g)",
                       hd_config_str(config, HD_KEY_dataset_path), split == HD_SPLIT_TRAIN ? "training" : "evaluation", fraction);
    }
    return HD_OK;
}

static hd_status open_pieces(const hd_config *config, hd_split split, text_dataset *t, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t *token_count = NULL, extra = (int64_t)t->add_bos + (int64_t)t->add_eos;
    int64_t row_length = hd_config_int(config, HD_KEY_max_target_length);
    bool truncate = hd_config_bool(config, HD_KEY_use_truncation);
    bool shuffle = split == HD_SPLIT_TRAIN && hd_config_bool(config, HD_KEY_enable_data_shuffling);
    HD_TRY(hd_alloc((size_t)t->corpus.n_document, sizeof *token_count, "document lengths", (void **)&token_count, err));
    for (int64_t d = 0; d < t->corpus.n_document; d++) {
        int64_t n = t->corpus.documents[d].n_byte + extra;
        token_count[d] = truncate && n > row_length + 1 ? row_length + 1 : n;
        /* without bos the first byte is an input only */
        if (token_count[d] > 1) { t->base.n_byte += token_count[d] - 1 - (token_count[d] == n && t->add_eos ? 1 : 0); }
    }
    HD_TRY(hd_pieces_open(token_count, t->corpus.n_document, row_length, hd_config_bool(config, HD_KEY_packing),
                          hd_config_int(config, HD_KEY_max_segments_per_seq), shuffle,
                          (uint64_t)hd_config_int(config, HD_KEY_data_shuffle_seed), &t->pieces, err));
    if (t->pieces.n_piece == 0) {
        st = HD_FAIL(err, HD_E_CONFIG, "dataset_path=%s: no document is longer than one token", hd_config_str(config, HD_KEY_dataset_path));
    }
out:
    hd_free(token_count);
    return st;
}

hd_status hd_text_open(const hd_config *config, hd_split split, int64_t vocab_size, hd_dataset **out, hd_err *err)
{
    hd_status st = HD_OK;
    text_dataset *t = NULL;
    const char *paths = hd_config_str(config, HD_KEY_dataset_path);
    if (paths == NULL) { return HD_FAIL(err, HD_E_CONFIG, "dataset_type=text needs dataset_path=FILES_OR_FOLDERS"); }
    HD_TRY(require_byte_tokenizer(config, vocab_size, err));
    HD_TRY(hd_alloc(1, sizeof *t, "text dataset", (void **)&t, err));
    t->base.ops = &text_ops;
    t->n_epoch = split == HD_SPLIT_TRAIN ? hd_config_int(config, HD_KEY_num_epoch) : 1;
    t->add_bos = hd_config_bool(config, HD_KEY_add_bos);
    t->add_eos = hd_config_bool(config, HD_KEY_add_eos);
    HD_TRY(hd_alloc((size_t)hd_config_int(config, HD_KEY_max_target_length) + 1, 1, "row bytes", (void **)&t->bytes, err));
    HD_TRY(hd_corpus_open(paths, hd_config_str(config, HD_KEY_text_column), hd_config_str(config, HD_KEY_document_separator),
                          &t->corpus, err));
    HD_TRY(take_split(config, split, t, err));
    HD_TRY(open_pieces(config, split, t, err));
    t->base.fingerprint = t->corpus.fingerprint;
    t->base.n_row = t->n_epoch == 1 ? t->pieces.n_row : -1;
    t->base.host_bytes = (size_t)t->pieces.n_piece * (sizeof(hd_piece) + 3 * sizeof(uint32_t)) +
                         (size_t)t->corpus.n_document_max * sizeof(hd_document);
    *out = &t->base;
    t = NULL;
out:
    if (t != NULL) { close_text(&t->base); }
    return st;
}
