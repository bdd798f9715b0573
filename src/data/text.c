/* Rows of text: which pieces a row holds (pieces.c), which tokens they are (tokens.c), and the arrays made of them. */
#include "data/text.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "data/corpus.h"
#include "data/pieces.h"
#include "data/tokens.h"

typedef struct text_dataset {
    hd_dataset base;
    hd_corpus corpus;
    hd_pieces pieces;
    int64_t n_epoch;
    hd_tokens tokens;
    bool add_bos, add_eos;
    int32_t *ids; /* row_length + 1 */
} text_dataset;

/* Tokens [begin, begin + n) of a document, bos and eos among them, into t->ids. */
static hd_status read_tokens(text_dataset *t, int64_t document, int64_t begin, int64_t n, hd_err *err)
{
    int64_t count = hd_tokens_count(&t->tokens, document), shift = t->add_bos ? 1 : 0;
    int64_t from = begin - shift > 0 ? begin - shift : 0, to = begin + n - shift < count ? begin + n - shift : count;
    int32_t *id = t->ids;
    if (begin < shift) { *id++ = hd_tokenizer_bos(t->tokens.tokenizer); }
    if (to > from) {
        hd_status st = hd_tokens_read(&t->tokens, document, from, to - from, id, err);
        if (st != HD_OK) { return st; }
        id += to - from;
    }
    if (id < t->ids + n) { *id = hd_tokenizer_eos(t->tokens.tokenizer); }
    return HD_OK;
}

/* Reads positions [begin, begin + n) of a document into the row at column `at`: inputs are tokens begin .., targets the next. */
static hd_status fill_piece(text_dataset *t, int64_t document, int64_t begin, int64_t n, int32_t segment, hd_batch *batch,
                            int64_t at, hd_err *err)
{
    hd_status st = read_tokens(t, document, begin, n + 1, err);
    if (st != HD_OK) { return st; }
    for (int64_t i = 0; i < n; i++) {
        batch->inputs[at + i] = t->ids[i];
        batch->targets[at + i] = t->ids[i + 1];
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
    hd_tokens_close(&t->tokens);
    hd_corpus_close(&t->corpus);
    hd_free(t->ids);
    hd_free(t);
}

static const hd_dataset_ops text_ops = {.read_row = read_row, .close = close_text};

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

/* Adds the bytes that a document of n tokens, of which `used` make positions, has as targets: all but bos, eos and, without bos, its first. */
static hd_status count_bytes(text_dataset *t, int64_t document, int64_t n, int64_t used, hd_err *err)
{
    int64_t shift = t->add_bos ? 1 : 0, end = used - shift - (used == n && t->add_eos ? 1 : 0), n_byte;
    if (used <= 1) { return HD_OK; }
    hd_status st = hd_tokens_n_byte(&t->tokens, document, 1 - shift, end, &n_byte, err);
    if (st == HD_OK) { t->base.n_byte += n_byte; }
    return st;
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
        int64_t n = hd_tokens_count(&t->tokens, d) + extra;
        token_count[d] = truncate && n > row_length + 1 ? row_length + 1 : n;
        HD_TRY(count_bytes(t, d, n, token_count[d], err));
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
    HD_TRY(hd_alloc(1, sizeof *t, "text dataset", (void **)&t, err));
    t->base.ops = &text_ops;
    HD_TRY(hd_tokens_open(config, vocab_size, &t->tokens, err));
    t->n_epoch = split == HD_SPLIT_TRAIN ? hd_config_int(config, HD_KEY_num_epoch) : 1;
    t->add_bos = hd_config_bool(config, HD_KEY_add_bos);
    t->add_eos = hd_config_bool(config, HD_KEY_add_eos);
    HD_TRY(hd_alloc((size_t)hd_config_int(config, HD_KEY_max_target_length) + 1, sizeof *t->ids, "row tokens", (void **)&t->ids, err));
    HD_TRY(hd_corpus_open(paths, hd_config_str(config, HD_KEY_text_column), hd_config_str(config, HD_KEY_document_separator),
                          &t->corpus, err));
    HD_TRY(take_split(config, split, t, err));
    HD_TRY(hd_tokens_fill(&t->tokens, &t->corpus, err));
    HD_TRY(open_pieces(config, split, t, err));
    t->base.fingerprint = t->corpus.fingerprint ^ hd_tokenizer_fingerprint(t->tokens.tokenizer); /* 0 for bytes */
    t->base.n_row = t->n_epoch == 1 ? t->pieces.n_row : -1;
    t->base.host_bytes = (size_t)t->pieces.n_piece * (sizeof(hd_piece) + 3 * sizeof(uint32_t)) +
                         (size_t)t->corpus.n_document_max * sizeof(hd_document) + hd_tokens_host_bytes(&t->tokens);
    *out = &t->base;
    t = NULL;
out:
    if (t != NULL) { close_text(&t->base); }
    return st;
}
