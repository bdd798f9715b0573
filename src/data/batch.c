/* Batches: host memory for rows, and the loss denominators that need only the masks. */
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

double hd_batch_weight_total(const hd_batch *batch)
{
    double total = 0;
    for (int64_t i = 0; i < batch->n_seq * batch->seq_len; i++) { total += (double)batch->loss_weights[i]; }
    return total;
}

/* Module k at position t uses the weight of position t + k when all positions t .. t + k lie in one segment of the row. */
static double row_mtp_weight(const hd_batch *batch, int64_t row, int64_t k)
{
    const int32_t *segments = batch->segments + row * batch->seq_len;
    const float *weights = batch->loss_weights + row * batch->seq_len;
    double total = 0;
    for (int64_t t = 0; t + k < batch->seq_len; t++) {
        bool together = segments[t] != 0;
        for (int64_t j = 1; j <= k && together; j++) { together = segments[t + j] == segments[t]; }
        if (together) { total += (double)weights[t + k]; }
    }
    return total;
}

double hd_batch_mtp_weight_total(const hd_batch *batch, int64_t n_mtp)
{
    double total = 0;
    for (int64_t k = 1; k <= n_mtp; k++) {
        for (int64_t row = 0; row < batch->n_seq; row++) { total += row_mtp_weight(batch, row, k); }
    }
    return total;
}
