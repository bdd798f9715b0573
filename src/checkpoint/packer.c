/* Bands of rows, a thread each: read and widened, then packed.  See packer.h. */
#include "checkpoint/packer.h"

#include <string.h>

#include "base/alloc.h"
#include "base/parallel_for.h"

enum {
    BAND_BLOCK_ROWS = 4,    /* of a band, fewer when rows are long: enough of them to keep all threads busy to the end of a small matrix */
    BAND_VALUES = 512 << 10 /* the longest band, unless one block row is longer */
};

typedef struct worker {
    hd_source source;
    float *band;
    size_t capacity; /* values */
} worker;

struct hd_packer {
    hd_folder *folder;
    worker *workers;
    int n_threads;
    pthread_mutex_t lock;
    /* of the run in work */
    const hd_source_tensor *t;
    hd_dtype dtype;
    int64_t first, end, per_band; /* block rows */
    uint8_t *blocks;
    uint16_t *scales;
};

hd_status hd_packer_open(hd_folder *folder, int n_threads, hd_packer **out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof **out, "packer", &memory, err));
    hd_packer *p = memory;
    pthread_mutex_init(&p->lock, NULL);
    p->folder = folder;
    st = hd_alloc((size_t)n_threads, sizeof *p->workers, "packer", &memory, err);
    if (st == HD_OK) { p->workers = memory; }
    for (int i = 0; i < n_threads && st == HD_OK; i++, p->n_threads++) {
        st = hd_source_open(folder, &p->workers[i].source, err);
        p->workers[i].source.lock = &p->lock;
    }
    if (st != HD_OK) {
        hd_packer_close(p);
        goto out;
    }
    *out = p;
out:
    return st;
}

void hd_packer_close(hd_packer *p)
{
    if (p == NULL) { return; }
    for (int i = 0; i < p->n_threads; i++) {
        hd_source_close(&p->workers[i].source);
        hd_free(p->workers[i].band);
    }
    hd_free(p->workers);
    pthread_mutex_destroy(&p->lock);
    hd_free(p);
}

static hd_status pack_band(hd_packer *p, worker *w, int64_t first, int64_t end, hd_err *err)
{
    const hd_source_tensor *t = p->t;
    int64_t across = t->columns / HD_PACKED_GROUP, row = first * HD_PACKED_ROWS, n_row = end * HD_PACKED_ROWS;
    n_row = (n_row < t->rows ? n_row : t->rows) - row;
    hd_status st = hd_source_read(&w->source, t, (hd_rect){row, n_row, 0, t->columns}, HD_DTYPE_F32, w->band, err);
    for (int64_t br = first; st == HD_OK && br < end; br++) {
        int64_t left = n_row - (br - first) * HD_PACKED_ROWS, at = (br - p->first) * across;
        bool finite = hd_pack_rows(p->dtype, w->band + (br - first) * HD_PACKED_ROWS * t->columns, t->columns,
                                   (int)(left < HD_PACKED_ROWS ? left : HD_PACKED_ROWS), t->columns,
                                   p->blocks + at * hd_packed_block_bytes(p->dtype), p->scales + at * HD_PACKED_ROWS);
        if (!finite) {
            st = HD_FAIL(err, HD_E_INVALID, "tensor %s holds a value that is not finite, which cannot be packed",
                         hd_folder_info(p->folder, t->place).name);
        }
    }
    return st;
}

static hd_status band(void *arg, int64_t i, int thread, hd_err *err)
{
    hd_packer *p = arg;
    int64_t first = p->first + i * p->per_band, end = first + p->per_band;
    return pack_band(p, &p->workers[thread], first, end < p->end ? end : p->end, err);
}

/* Room for a band of every worker. */
static hd_status reserve(hd_packer *p, size_t values, hd_err *err)
{
    for (int i = 0; i < p->n_threads; i++) {
        worker *w = &p->workers[i];
        void *memory = NULL;
        if (w->capacity >= values) { continue; }
        hd_free(w->band);
        w->band = NULL;
        w->capacity = 0;
        hd_status st = hd_alloc(values, sizeof *w->band, "rows of a matrix", &memory, err);
        if (st != HD_OK) { return st; }
        w->band = memory;
        w->capacity = values;
    }
    return HD_OK;
}

hd_status hd_packer_run(hd_packer *p, const hd_source_tensor *t, hd_dtype dtype, int64_t first, int64_t n, uint8_t *blocks, uint16_t *scales,
                        hd_err *err)
{
    int64_t row = HD_PACKED_ROWS * t->columns, fit = BAND_VALUES / row;
    p->t = t;
    p->dtype = dtype;
    p->first = first;
    p->end = first + n;
    p->per_band = fit < 1 ? 1 : fit < BAND_BLOCK_ROWS ? fit : BAND_BLOCK_ROWS;
    p->blocks = blocks;
    p->scales = scales;
    hd_status st = reserve(p, (size_t)(p->per_band * row), err);
    if (st != HD_OK) { return st; }
    return hd_parallel_try(p->n_threads, (n + p->per_band - 1) / p->per_band, band, p, err);
}
