/* Embedding, add, copy, fill, scale_rows: ops bound by memory alone.  Each comment gives the bytes moved. */
#include "base/parallel_for.h"
#include "ops/cpu/split.h"

/* ---- embedding ---- */

typedef struct embed_job {
    const hd_tensor *ids, *x; /* x: dy of the backward pass */
    const hd_weight *w;
    hd_tensor *y;
    int32_t *first, *next; /* of each id the first row that names it, of each row the next with the same id; -1 ends */
    int64_t item_rows;
} embed_job;

HD_INLINE void convert_row(const void *x, hd_dtype x_dtype, void *y, hd_dtype y_dtype, int64_t n)
{
    HD_MAP_LANES(i, 0, n, { hd_store(y, y_dtype, i, n, hd_load(x, x_dtype, i, n)); });
}

static void copy_row(const void *x, hd_dtype x_dtype, void *y, hd_dtype y_dtype, int64_t n)
{
    if (x_dtype == y_dtype) {
        memcpy(y, x, (size_t)n * (x_dtype == HD_DTYPE_F32 ? 4 : 2));
        return;
    }
    HD_WITH_DTYPES_2(x_dtype, X, y_dtype, Y, convert_row(x, X, y, Y, n););
}

static void zero_row(void *y, hd_dtype dtype, int64_t n)
{
    memset(y, 0, (size_t)n * (dtype == HD_DTYPE_F32 ? 4 : 2));
}

static void embed_rows(void *arg, int64_t item, int thread)
{
    (void)thread;
    const embed_job *job = arg;
    const int32_t *ids = job->ids->data;
    int64_t n = job->y->shape[0], dim = job->y->shape[1], n_vocab = job->w->value.shape[0];
    int64_t end = hd_min_i64(n, (item + 1) * job->item_rows);
    for (int64_t i = item * job->item_rows; i < end; i++) {
        int64_t id = ids[i * job->ids->stride[0]];
        if (id < 0 || id >= n_vocab) {
            zero_row(hd_row(job->y, i), job->y->dtype, dim);
        } else {
            copy_row(hd_row(&job->w->value, id), job->w->value.dtype, hd_row(job->y, i), job->y->dtype, dim);
        }
    }
}

/* Reads N D weights, writes N D activations. */
static hd_status embedding_fwd(hd_exec *ex, const hd_tensor *ids, const hd_weight *w, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    embed_job job = {.ids = ids, .w = w, .y = y, .item_rows = hd_rows_per_item(y->shape[1] * 8)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(y->shape[0], job.item_rows), embed_rows, &job);
    return HD_OK;
}

HD_INLINE void add_span(const void *a, hd_dtype da, const void *b, hd_dtype db, void *y, hd_dtype dy, int64_t begin,
                        int64_t end)
{
    HD_MAP_LANES(i, begin, end, { hd_store(y, dy, i, end, hd_load(a, da, i, end) + hd_load(b, db, i, end)); });
}

static void add_row_f32(float *y, const void *x, hd_dtype x_dtype, int64_t n)
{
    HD_WITH_DTYPE(x_dtype, X, add_span(y, HD_DTYPE_F32, x, X, y, HD_DTYPE_F32, 0, n););
}

/* A block of vocabulary rows, each the sum of its tokens' gradients in order of position. */
static void embed_gradient_rows(void *arg, int64_t item, int thread)
{
    (void)thread;
    const embed_job *job = arg;
    const hd_tensor *dy = job->x, *dw = &job->w->grad;
    int64_t dim = dw->shape[1], end = hd_min_i64(dw->shape[0], (item + 1) * job->item_rows);
    for (int64_t v = item * job->item_rows; v < end; v++) {
        float *row = hd_row(dw, v);
        int32_t i = job->first[v];
        if (job->w->grad_accum == HD_SET) {
            if (i < 0) {
                zero_row(row, HD_DTYPE_F32, dim);
                continue;
            }
            copy_row(hd_row(dy, i), dy->dtype, row, HD_DTYPE_F32, dim);
            i = job->next[i];
        }
        for (; i >= 0; i = job->next[i]) { add_row_f32(row, hd_row(dy, i), dy->dtype, dim); }
    }
}

static void embed_chain_tokens(const embed_job *job, int64_t n, int64_t n_vocab)
{
    const int32_t *ids = job->ids->data;
    for (int64_t v = 0; v < n_vocab; v++) { job->first[v] = -1; }
    for (int64_t i = n - 1; i >= 0; i--) {
        int64_t id = ids[i * job->ids->stride[0]];
        if (id < 0 || id >= n_vocab) { continue; }
        job->next[i] = job->first[id];
        job->first[id] = (int32_t)i;
    }
}

/* Reads N D gradients; writes V D f32 (HD_SET) or reads and writes the rows named (HD_ADD). */
static hd_status embedding_bwd(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dy, hd_weight *w, hd_err *err)
{
    hd_status st = HD_OK;
    embed_job job = {.ids = ids, .x = dy, .w = w};
    int64_t n = ids->shape[0], n_vocab = w->grad.shape[0], dim = w->grad.shape[1];
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)n_vocab * sizeof *job.first, (void **)&job.first, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)n * sizeof *job.next, (void **)&job.next, err));
    if (ex->dry) { goto out; }
    embed_chain_tokens(&job, n, n_vocab);
    job.item_rows = hd_rows_per_item(dim * 4);
    hd_parallel_for(ex->n_threads, hd_ceil_div(n_vocab, job.item_rows), embed_gradient_rows, &job);
out:
    return st;
}

/* ---- add, copy, fill ---- */

typedef struct map_job {
    hd_split split;
    const hd_tensor *a, *b;
    hd_tensor *y;
    float value;
} map_job;

static bool is_act(const hd_tensor *t)
{
    return t->dtype == HD_DTYPE_F32 || t->dtype == HD_DTYPE_BF16;
}

static void add_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const map_job *job = arg;
    hd_piece p = hd_split_item(&job->split, item);
    hd_dtype da = job->a->dtype, db = job->b->dtype, dy = job->y->dtype;
    for (int64_t r = p.row_begin; r < p.row_end; r++) {
        const void *a = hd_split_row(&job->split, job->a, r), *b = hd_split_row(&job->split, job->b, r);
        void *y = hd_split_row(&job->split, job->y, r);
        HD_WITH_DTYPES_3(da, A, db, B, dy, Y, add_span(a, A, b, B, y, Y, p.column_begin, p.column_end););
    }
}

/* Reads a and b, writes y. */
static hd_status add(hd_exec *ex, const hd_tensor *a, const hd_tensor *b, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    bool flat = hd_tensor_is_contiguous(a) && hd_tensor_is_contiguous(b) && hd_tensor_is_contiguous(y);
    map_job job = {.split = hd_split_elements(y, flat), .a = a, .b = b, .y = y};
    hd_parallel_for(ex->n_threads, job.split.n_items, add_item, &job);
    return HD_OK;
}

static void copy_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const map_job *job = arg;
    hd_piece p = hd_split_item(&job->split, item);
    int64_t bytes = job->y->dtype == HD_DTYPE_F32 ? 4 : 2, n = p.column_end - p.column_begin;
    for (int64_t r = p.row_begin; r < p.row_end; r++) {
        const char *x = hd_split_row(&job->split, job->a, r);
        char *y = hd_split_row(&job->split, job->y, r);
        int64_t x_bytes = job->a->dtype == HD_DTYPE_F32 ? 4 : 2;
        copy_row(x + p.column_begin * x_bytes, job->a->dtype, y + p.column_begin * bytes, job->y->dtype, n);
    }
}

/* Reads x, writes y.  Other dtypes than f32 and bf16 are left to the reference. */
static hd_status copy(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    if (!is_act(x) || !is_act(y)) {
        hd_ops ref;
        hd_ops_install_ref(&ref);
        return ref.copy(ex, x, y, err);
    }
    if (ex->dry) { return HD_OK; }
    bool flat = hd_tensor_is_contiguous(x) && hd_tensor_is_contiguous(y);
    map_job job = {.split = hd_split_elements(y, flat), .a = x, .y = y};
    hd_parallel_for(ex->n_threads, job.split.n_items, copy_item, &job);
    return HD_OK;
}

static void fill_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const map_job *job = arg;
    hd_piece p = hd_split_item(&job->split, item);
    hd_vf value = hd_splat(job->value);
    for (int64_t r = p.row_begin; r < p.row_end; r++) {
        void *y = hd_split_row(&job->split, job->y, r);
        HD_WITH_DTYPE(job->y->dtype, Y,
                      { HD_MAP_LANES(i, p.column_begin, p.column_end, { hd_store(y, Y, i, p.column_end, value); }); });
    }
}

/* Writes y. */
static hd_status fill(hd_exec *ex, double value, hd_tensor *y, hd_err *err)
{
    if (!is_act(y)) {
        hd_ops ref;
        hd_ops_install_ref(&ref);
        return ref.fill(ex, value, y, err);
    }
    if (ex->dry) { return HD_OK; }
    map_job job = {.split = hd_split_elements(y, hd_tensor_is_contiguous(y)), .y = y, .value = (float)value};
    hd_parallel_for(ex->n_threads, job.split.n_items, fill_item, &job);
    return HD_OK;
}

/* ---- scale_rows ---- */

typedef struct scale_job {
    const hd_tensor *x, *w;
    hd_accum accum;
    hd_tensor *y;
    int64_t item_rows;
} scale_job;

HD_INLINE void scale_row(const void *x, hd_dtype dtype, float w, hd_accum accum, void *y, int64_t n)
{
    HD_MAP_LANES(i, 0, n, {
        hd_vf v = hd_load(x, dtype, i, n) * w;
        if (accum == HD_ADD) { v += hd_load(y, dtype, i, n); }
        hd_store(y, dtype, i, n, v);
    });
}

static void scale_item(void *arg, int64_t item, int thread)
{
    (void)thread;
    const scale_job *job = arg;
    int64_t end = hd_min_i64(job->y->shape[0], (item + 1) * job->item_rows);
    for (int64_t i = item * job->item_rows; i < end; i++) {
        float w = hd_get(hd_row(job->w, i), job->w->dtype, 0);
        HD_WITH_DTYPE(job->x->dtype, X,
                      scale_row(hd_row(job->x, i), X, w, job->accum, hd_row(job->y, i), job->y->shape[1]););
    }
}

/* Reads x, writes y (and reads it to accumulate). */
static hd_status scale_rows(hd_exec *ex, const hd_tensor *x, const hd_tensor *w, hd_accum y_accum, hd_tensor *y,
                            hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    scale_job job = {.x = x, .w = w, .accum = y_accum, .y = y, .item_rows = hd_rows_per_item(y->shape[1] * 8)};
    hd_parallel_for(ex->n_threads, hd_ceil_div(y->shape[0], job.item_rows), scale_item, &job);
    return HD_OK;
}

void HD_CPU_INSTALL(elementwise)(hd_ops *ops)
{
    ops->embedding_fwd = embedding_fwd;
    ops->embedding_bwd = embedding_bwd;
    ops->add = add;
    ops->copy = copy;
    ops->fill = fill;
    ops->scale_rows = scale_rows;
}
