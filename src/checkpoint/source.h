/* The tensors of a folder as HuggingFace names them, one per expert, whatever its files hold.
 *
 * A logical tensor is a matrix of values: stored as F32, BF16 or F16; as F8_E4M3 with a scale per 128 x 128 block in
 * `<name>_scale_inv` (F32, BF16 or powers of two in F8_E8M0), which may be in another file; as I8 or I4 in blocks, in a packed folder
 * (packing.h); or as one expert's rows of a fused tensor (transformers 5: experts.gate_up_proj (E, 2 Fm, D), experts.down_proj
 * (E, D, Fm)).  Readers ask for rectangles of values in the dtype they want and never hold more than one rectangle. */
#ifndef HD_CHECKPOINT_SOURCE_H
#define HD_CHECKPOINT_SOURCE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/folder.h"
#include "hadal/status.h"
#include "tensor/dtype.h"
#include "tensor/weight.h"

enum {
    HD_FUSED_MAX_EXPERTS = 4096,  /* of a fused tensor: each becomes rows of a list, which a file must not make as long as it likes */
    HD_SOURCE_STAGE = 1 << 20     /* bytes that a source reads at a time */
};

/* Blocks along an axis of n. */
static inline int64_t hd_f8_blocks(int64_t n) { return n / HD_F8_BLOCK + (n % HD_F8_BLOCK != 0); }

typedef struct hd_source_tensor {
    int64_t place;       /* of the stored tensor in the folder; -1: there is none */
    int64_t scale_place; /* of its block scales; -1 */
    int64_t first;       /* element of the stored tensor at which this one begins */
    hd_dtype dtype;      /* as stored; of a packed matrix I8 or I4, where the stored tensor is U8 of another shape */
    int n_dim;
    int64_t shape[HD_ST_MAX_DIMS];
    int64_t rows, columns; /* the same as a matrix: the last axis, and all others; a vector is one row */
} hd_source_tensor;

typedef struct hd_rect {
    int64_t row, n_row, column, n_column;
} hd_rect;

/* Reads a folder's values; borrowed folder, one thread at a time.  Threads that read one folder have a source each, and share a lock. */
typedef struct hd_source {
    hd_folder *folder;
    unsigned char *stage;
    pthread_mutex_t *lock; /* held while bytes are read; NULL: no other thread reads this folder */
} hd_source;

hd_status hd_source_open(hd_folder *folder, hd_source *out, hd_err *err) HD_CHECK_RESULT;
void hd_source_close(hd_source *source); /* accepts a zeroed one */

/* The tensor of that name, out->place -1 when the folder has none.  HD_E_CORRUPT: block scales missing or of a wrong shape or
 * dtype; HD_E_UNSUPPORTED: fused experts of a layout that is none of the two above. */
hd_status hd_source_find(const hd_folder *folder, const char *name, hd_source_tensor *out, hd_err *err) HD_CHECK_RESULT;

/* A stored tensor as it is, without looking for scales. */
hd_source_tensor hd_source_stored(const hd_folder *folder, int64_t place);

/* Whether hd_source_read can give its values as a float dtype. */
bool hd_source_is_float(const hd_source_tensor *t);

static inline bool hd_source_is_packed(const hd_source_tensor *t) { return t->dtype == HD_DTYPE_I4 || (t->dtype == HD_DTYPE_I8 && t->scale_place >= 0); }

/* Bytes of its values as stored, without scales. */
static inline int64_t hd_source_bytes(const hd_source_tensor *t)
{
    return hd_dtype_run_bytes(t->dtype, (hd_source_is_packed(t) ? hd_packed_rows(t->rows) : t->rows) * t->columns);
}

/* A rectangle of values into out, n_row x n_column contiguous elements of `to`: a float dtype, or (not of a packed matrix) the stored
 * dtype, then the stored bits.  Damage in a file is HD_E_CORRUPT. */
hd_status hd_source_read(hd_source *source, const hd_source_tensor *t, hd_rect rect, hd_dtype to, void *out, hd_err *err) HD_CHECK_RESULT;

/* The tensor's values will be read soon: a hint for the disk. */
void hd_source_will_read(const hd_folder *folder, const hd_source_tensor *t);

/* Whether n scales of a packed tensor are numbers; HD_E_CORRUPT names it. */
hd_status hd_source_check_scales(const hd_folder *folder, const hd_source_tensor *t, const uint16_t *scales, int64_t n, hd_err *err) HD_CHECK_RESULT;

/* All block scales of an F8_E4M3 tensor as f32, (ceil(rows / 128), ceil(columns / 128)). */
hd_status hd_source_read_f8_scales(hd_source *source, const hd_source_tensor *t, float *out, hd_err *err) HD_CHECK_RESULT;

/* Cuts a tensor into rectangles of at most max_elements that are contiguous in it: whole rows, or parts of one row.  Start with
 * a zeroed rect; false when the last one was given. */
bool hd_rect_next(const hd_source_tensor *t, int64_t max_elements, hd_rect *rect);

/* If name is that of an expert's matrix, the name of the fused tensor that may hold it, and where in it. */
typedef struct hd_fused_name {
    char name[256];
    int64_t expert;
    int part, n_part; /* of the rows of one expert: gate 0 of 2, up 1 of 2, down 0 of 1 */
} hd_fused_name;
bool hd_fused_name_of(const char *name, hd_fused_name *out);

#endif
