/* Products with experts that are not in memory: each matrix is read when its rows are due.
 *
 * What no other part of a layer needs, this one does: the offsets on the host, since the host decides what to read. */
#include "base/alloc.h"
#include "model/layer.h"
#include "model/weights.h"

/* A dry pass cannot know the routing: one expert takes all rows, which is what one takes at most. */
static hd_status read_offsets(hd_pass *p, const hd_tensor *offsets, int64_t n_row, int32_t **host)
{
    void *memory = NULL;
    int64_t n = offsets->shape[0];
    hd_status st = hd_alloc((size_t)n, sizeof **host, "offsets of experts", &memory, p->err);
    *host = memory;
    if (st == HD_OK) { st = hd_exec_read(p->ex, offsets, *host, p->err); }
    for (int64_t e = 1; st == HD_OK && p->ex->dry && e < n; e++) { (*host)[e] = (int32_t)n_row; }
    return st;
}

hd_status hd_moe_streamed_products(hd_pass *p, const hd_layer *layer, const hd_tensor *x, const hd_tensor *offsets, const hd_weight *w,
                                   hd_tensor *y)
{
    hd_status st;
    int32_t *host = NULL;
    hd_weight part;
    HD_TRY(read_offsets(p, offsets, x->shape[0], &host));
    for (int64_t e = 0; e + 1 < offsets->shape[0]; e++) {
        int64_t begin = host[e], n = host[e + 1] - begin;
        if (n == 0) { continue; }
        size_t mark = hd_arena_mark(layer->stream->arena);
        hd_tensor rows = hd_tensor_slice(x, 0, begin, n), out_rows = hd_tensor_slice(y, 0, begin, n);
        HD_TRY(hd_weights_stream_expert(layer, w, e, &part, p->err));
        HD_TRY(hd_linear_fwd(p->ex, &rows, &part, HD_SET, &out_rows, p->err));
        hd_arena_release(layer->stream->arena, mark);
    }
out:
    hd_free(host);
    return st;
}
