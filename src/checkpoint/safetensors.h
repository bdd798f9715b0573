/* safetensors: a strict reader and the header of a writer.
 *
 * File: u64 little-endian N | N bytes of JSON | tensor data, little-endian, C order.
 *   {"__metadata__": {"format": "pt"}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
 * The reader refuses what the reference implementation refuses (file of less than 8 bytes, N above 100,000,000 or beyond the
 * file, JSON or UTF-8 errors, unknown dtypes, tensors that do not tile the data exactly, shapes whose bytes are not their
 * span) and also duplicate names, names with NUL, and more than HD_ST_MAX_TENSORS tensors or HD_ST_MAX_DIMS dimensions.
 * It scans the header through a small window: its memory is the table of tensors, never the header's text.
 * Source: huggingface/safetensors, README and safetensors/src/tensor.rs. */
#ifndef HD_CHECKPOINT_SAFETENSORS_H
#define HD_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "checkpoint/block_file.h"
#include "hadal/status.h"
#include "tensor/tensor.h"

enum {
    HD_ST_MAX_HEADER = 100000000,
    HD_ST_MAX_TENSORS = 1 << 18,
    HD_ST_MAX_NAME_BYTES = 1 << 24, /* of all names of a file together */
    HD_ST_MAX_DIMS = 8
};

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct hd_st_info {
    const char *name;
    hd_dtype dtype;
    int n_dim;
    const int64_t *shape; /* n_dim lengths; may be NULL when there is none */
    int64_t offset;       /* of the first byte in the file */
    int64_t bytes;
} hd_st_info;

typedef struct hd_st_reader hd_st_reader;

/* Reads and checks the header.  `file` is borrowed and outlives the reader.  HD_E_CORRUPT names the file and what is wrong. */
hd_status hd_st_open(hd_block_file *file, hd_st_reader **out, hd_err *err) HD_CHECK_RESULT;
void hd_st_close(hd_st_reader *reader); /* accepts NULL */

int64_t hd_st_count(const hd_st_reader *reader);
hd_st_info hd_st_get(const hd_st_reader *reader, int64_t i); /* in the order of the data */
int64_t hd_st_find(const hd_st_reader *reader, const char *name); /* -1: none */
const char *hd_st_path(const hd_st_reader *reader);

/* Bytes [begin, begin + n) of tensor i. */
hd_status hd_st_read(hd_st_reader *reader, int64_t i, int64_t begin, size_t n, void *out, hd_err *err) HD_CHECK_RESULT;

/* "BF16 (2, 3)" for messages; the buffer holds HD_ST_TEXT bytes. */
enum { HD_ST_TEXT = 200 };
const char *hd_st_describe(hd_dtype dtype, int n_dim, const int64_t *shape, char *buffer);

/* ---- writing ---------------------------------------------------------------------------------------------------- */

typedef struct hd_st_desc {
    const char *name;
    hd_dtype dtype;
    int n_dim;
    int64_t shape[HD_ST_MAX_DIMS];
    int64_t begin, end; /* in the data, set by hd_st_place */
    int64_t rank;       /* above 0: stands before all tensors of another or no rank */
    bool with_last;     /* stays in the file of the tensor before it */
} hd_st_desc;

/* The order of tensors in a file: those with a rank by it, then by descending size of the dtype as the reference implementation ranks
 * them, then by name; < 0, 0, > 0. */
int hd_st_compare(const hd_st_desc *a, const hd_st_desc *b);

/* Gives a tensor its offsets behind *at, which moves on.  HD_E_INVALID when sizes overflow. */
hd_status hd_st_place(hd_st_desc *t, int64_t *at, hd_err *err) HD_CHECK_RESULT;

/* The file's first 8 + N bytes, padded with spaces to a multiple of 64, so that mapped tensors begin where their sizes let them: begin, each tensor in the order of the data, end. */
void hd_st_header_begin(hd_buf *header);
void hd_st_header_tensor(hd_buf *header, const hd_st_desc *t);
hd_status hd_st_header_end(hd_buf *header, hd_err *err) HD_CHECK_RESULT;

/* elements * size of the dtype; false when it does not fit 63 bits or a length is negative. */
bool hd_st_bytes(hd_dtype dtype, int n_dim, const int64_t *shape, int64_t *bytes);

#endif
