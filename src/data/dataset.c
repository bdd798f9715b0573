/* Choosing a dataset, and filling batches row by row. */
#include "data/dataset.h"

#include <string.h>

#include "data/synthetic.h"
#include "data/text.h"

hd_status hd_dataset_open(const hd_config *config, hd_split split, int64_t vocab_size, int64_t n_row_batch, hd_dataset **out,
                          hd_err *err)
{
    if (hd_config_is(config, HD_KEY_dataset_type, "synthetic")) {
        return hd_synthetic_open(config, split, vocab_size, n_row_batch, out, err);
    }
    if (hd_config_is(config, HD_KEY_dataset_type, "text")) { return hd_text_open(config, split, vocab_size, out, err); }
    return HD_FAIL(err, HD_E_UNSUPPORTED, "dataset_type=%s is not supported; synthetic and text are",
                   hd_config_str(config, HD_KEY_dataset_type));
}

void hd_dataset_close(hd_dataset *ds)
{
    if (ds != NULL) { ds->ops->close(ds); }
}

static void clear_row(hd_batch *batch, int64_t row)
{
    size_t at = (size_t)(row * batch->seq_len), n = (size_t)batch->seq_len;
    memset(batch->inputs + at, 0, n * sizeof *batch->inputs);
    memset(batch->targets + at, 0, n * sizeof *batch->targets);
    memset(batch->positions + at, 0, n * sizeof *batch->positions);
    memset(batch->segments + at, 0, n * sizeof *batch->segments);
    memset(batch->loss_weights + at, 0, n * sizeof *batch->loss_weights);
}

hd_status hd_dataset_read(hd_dataset *ds, int64_t first, hd_batch *batch, int64_t *n_found, hd_err *err)
{
    *n_found = 0;
    for (int64_t row = 0; row < batch->n_seq; row++) {
        bool found = false;
        clear_row(batch, row);
        hd_status st = ds->ops->read_row(ds, first + row, batch, row, &found, err);
        if (st != HD_OK) { return st; }
        if (found) { *n_found = row + 1; }
    }
    return HD_OK;
}
