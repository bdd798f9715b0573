/* The files of a folder before a byte of it is written: safetensors shards with their headers, and JSON texts, each with its
 * exact size.  A checkpoint's layout and a conversion's target are made of this. */
#ifndef HD_CHECKPOINT_SHARDS_H
#define HD_CHECKPOINT_SHARDS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "checkpoint/safetensors.h"
#include "hadal/status.h"

enum { HD_SHARD_NAME = 80 };

typedef struct hd_shard_file {
    char name[HD_SHARD_NAME]; /* "optimizer/optimizer.safetensors" */
    hd_buf head;              /* the whole text of a JSON file; the header of a safetensors file */
    int64_t first, n;         /* its rows */
    int64_t bytes;            /* of the whole file */
} hd_shard_file;

/* Tensors are rows of the caller's, each beginning with an hd_st_desc, so that what belongs to a tensor moves with it. */
typedef struct hd_shards {
    hd_shard_file *files;
    int64_t n_file, capacity;
    void *rows;
    size_t row_bytes;
} hd_shards;

void hd_shards_free(hd_shards *s); /* accepts a zeroed one; the rows are the caller's */

const hd_st_desc *hd_shards_desc(const hd_shards *s, int64_t row);

/* Cuts rows [first, end) into files of at most max_shard bytes of data (one tensor at least, and those that stay with it): "<stem>.safetensors" or
 * "<stem>-00001-of-00002.safetensors".  Inside a file the rows are put into safetensors' order; offsets and headers are filled in. */
hd_status hd_shards_cut(hd_shards *s, int64_t first, int64_t end, int64_t max_shard, const char *stem, hd_err *err) HD_CHECK_RESULT;

/* model.safetensors.index.json for the files [0, n_file) of shards. */
void hd_shards_index(const hd_shards *s, int64_t n_file, hd_buf *out);

/* A file that is one text, which is taken over (and freed on failure). */
hd_status hd_shards_add_text(hd_shards *s, const char *name, hd_buf *text, hd_err *err) HD_CHECK_RESULT;

/* Of all files; HD_E_INVALID when they are more than 2^63 - 1. */
hd_status hd_shards_bytes(const hd_shards *s, int64_t *bytes, hd_err *err) HD_CHECK_RESULT;

#endif
