/* Batches: host memory for rows. */
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "data/dataset.h"

hd_status hd_batch_open(int64_t n_seq, int64_t seq_len, hd_batch *batch, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t count;
    *batch = (hd_batch){.n_seq = n_seq, .seq_len = seq_len};
    if (n_seq < 0 || seq_len < 1 || !hd_i64_mul(n_seq, seq_len, &count)) {
        return HD_FAIL(err, HD_E_INVALID, "batch of %lld rows of %lld tokens: want at least 0 rows of 1 token",
                       (long long)n_seq, (long long)seq_len);
    }
    HD_TRY(hd_alloc((size_t)count, sizeof *batch->inputs, "batch inputs", (void **)&batch->inputs, err));
    HD_TRY(hd_alloc((size_t)count, sizeof *batch->targets, "batch targets", (void **)&batch->targets, err));
    HD_TRY(hd_alloc((size_t)count, sizeof *batch->positions, "batch positions", (void **)&batch->positions, err));
    HD_TRY(hd_alloc((size_t)count, sizeof *batch->segments, "batch segments", (void **)&batch->segments, err));
    HD_TRY(hd_alloc((size_t)count, sizeof *batch->loss_weights, "batch loss weights", (void **)&batch->loss_weights, err));
out:
    if (st != HD_OK) { hd_batch_close(batch); }
    return st;
}

void hd_batch_close(hd_batch *batch)
{
    hd_free(batch->inputs);
    hd_free(batch->targets);
    hd_free(batch->positions);
    hd_free(batch->segments);
    hd_free(batch->loss_weights);
    memset(batch, 0, sizeof *batch);
}
