/* Random tokens, uniform in [0, vocab_size): row g of the run is row g mod (global batch) of one fixed batch.
 * With max_segments_per_seq >= 2 a row is cut into 2 .. max segments at random borders; as in MaxText, positions go on
 * across them. */
#include "data/synthetic.h"

#include "base/alloc.h"
#include "base/rng.h"

typedef struct synthetic {
    hd_dataset base;
    int64_t n_row_batch, vocab_size, max_segments;
    hd_rng tokens, borders;
} synthetic;

/* Segment of each position: the row's borders are max_segments - 1 draws, so that some coincide and fewer segments arise. */
static void fill_segments(const synthetic *s, int64_t r, hd_batch *batch, int64_t row)
{
    int32_t *segments = batch->segments + row * batch->seq_len;
    for (int64_t t = 0; t < batch->seq_len; t++) { segments[t] = 0; }
    for (int64_t k = 1; k < s->max_segments; k++) {
        uint64_t index = (uint64_t)(r * s->max_segments + k);
        int64_t border = 1 + (int64_t)hd_rng_below(s->borders, (uint64_t)(batch->seq_len > 1 ? batch->seq_len - 1 : 1), index);
        if (border < batch->seq_len) { segments[border] = 1; }
    }
    int32_t segment = 1;
    for (int64_t t = 0; t < batch->seq_len; t++) {
        segment += segments[t];
        segments[t] = segment;
    }
}

static hd_status read_row(hd_dataset *ds, int64_t g, hd_batch *batch, int64_t row, bool *found, hd_err *err)
{
    (void)err;
    const synthetic *s = (const synthetic *)ds;
    int64_t r = g % s->n_row_batch, n = batch->seq_len, at = row * n;
    for (int64_t t = 0; t <= n; t++) {
        int32_t token = (int32_t)hd_rng_below(s->tokens, (uint64_t)s->vocab_size, (uint64_t)(r * (n + 1) + t));
        if (t < n) {
            batch->inputs[at + t] = token;
            batch->positions[at + t] = (int32_t)t;
            batch->loss_weights[at + t] = 1.0f;
        }
        if (t > 0) { batch->targets[at + t - 1] = token; }
    }
    fill_segments(s, r, batch, row);
    *found = true;
    return HD_OK;
}

static void close_synthetic(hd_dataset *ds) { hd_free(ds); }

static const hd_dataset_ops synthetic_ops = {.read_row = read_row, .close = close_synthetic};

hd_status hd_synthetic_open(const hd_config *config, hd_split split, int64_t vocab_size, int64_t n_row_batch, hd_dataset **out,
                            hd_err *err)
{
    synthetic *s = NULL;
    uint64_t seed = (uint64_t)hd_config_int(config, HD_KEY_data_shuffle_seed);
    bool packed = hd_config_bool(config, HD_KEY_packing);
    hd_status st = hd_alloc(1, sizeof *s, "synthetic dataset", (void **)&s, err);
    if (st != HD_OK) { return st; }
    s->base = (hd_dataset){.ops = &synthetic_ops, .fingerprint = seed, .n_row = split == HD_SPLIT_TRAIN ? -1 : n_row_batch};
    s->n_row_batch = n_row_batch;
    s->vocab_size = vocab_size;
    s->max_segments = packed ? hd_config_int(config, HD_KEY_max_segments_per_seq) : -1;
    s->tokens = hd_rng_make(seed, HD_RNG_SYNTHETIC, split == HD_SPLIT_TRAIN ? "train" : "eval");
    s->borders = hd_rng_make(seed, HD_RNG_SYNTHETIC, "borders");
    *out = &s->base;
    return HD_OK;
}
