/* Datasets: a deterministic sequence of rows of max_target_length tokens, read at any position.
 *
 * Row g is a pure function of the dataset, the seed and g, so the data position of a run is one number (rows consumed by the
 * whole job), free of rank count, and a resumed run reads what the uninterrupted one would have read. */
#ifndef HD_DATA_DATASET_H
#define HD_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "hadal/status.h"

/* Rows on the host, (n_seq, seq_len) each, owned by the batch.  Always complete: ids, targets, segment ids (1-based; 0 is
 * padding), positions inside the segment, and one loss weight per token. */
typedef struct hd_batch {
    int64_t n_seq, seq_len;
    int32_t *inputs, *targets, *positions, *segments;
    float *loss_weights;
} hd_batch;

hd_status hd_batch_open(int64_t n_seq, int64_t seq_len, hd_batch *batch, hd_err *err) HD_CHECK_RESULT;
void hd_batch_close(hd_batch *batch);

typedef enum hd_split { HD_SPLIT_TRAIN, HD_SPLIT_EVAL } hd_split;

typedef struct hd_dataset hd_dataset;

/* What a dataset implements. */
typedef struct hd_dataset_ops {
    /* Fills row `row` of the batch with global row g; *found false when the data ends before g (the row is then padding). */
    hd_status (*read_row)(hd_dataset *ds, int64_t g, hd_batch *batch, int64_t row, bool *found, hd_err *err);
    void (*close)(hd_dataset *ds);
} hd_dataset_ops;

struct hd_dataset {
    const hd_dataset_ops *ops;
    uint64_t fingerprint; /* of the content: a resumed run compares it */
    int64_t n_row;        /* rows of one pass; -1 when rows repeat without end */
    int64_t n_byte;       /* bytes of text in one pass that are predicted, 0 when the data is not text */
    size_t host_bytes;    /* memory the index takes, for the plan */
};

/* vocab_size: the model's.  n_row_batch: rows of the global batch (synthetic data repeats them every step).  *out is closed with hd_dataset_close. */
hd_status hd_dataset_open(const hd_config *config, hd_split split, int64_t vocab_size, int64_t n_row_batch, hd_dataset **out, hd_err *err)
    HD_CHECK_RESULT;
void hd_dataset_close(hd_dataset *ds);

/* Rows first .. first + batch->n_seq; *n_found of them hold data, always the leading ones. */
hd_status hd_dataset_read(hd_dataset *ds, int64_t first, hd_batch *batch, int64_t *n_found, hd_err *err) HD_CHECK_RESULT;

#endif
