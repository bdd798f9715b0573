/* Tensors to be written, each made of rectangles of a folder's logical tensors: the unit of every conversion.
 *
 * How data flows.  A builder (convert_hf, later Orbax) lists target tensors and the pieces they are made of, then cuts them into files
 * (shards.h).  hd_target_write_file fills one file window by window: for each window it asks the source for the rectangles that
 * fall into it, in the dtype of the target, and hands the window to a queue whose thread writes it.  Memory is the two lists and a few
 * windows, whatever the model. */
#ifndef HD_CHECKPOINT_TARGET_H
#define HD_CHECKPOINT_TARGET_H

#include <stdint.h>

#include "checkpoint/packer.h"
#include "checkpoint/shards.h"
#include "checkpoint/source.h"
#include "checkpoint/write_queue.h"
#include "hadal/status.h"

enum { HD_TARGET_WINDOW = 16 << 20 /* bytes of a window; a tensor whose grain is longer is HD_E_UNSUPPORTED */ };

/* Element (r, c) of the source becomes element base + r * row_stride + c * column_stride of the target. */
typedef struct hd_target_piece {
    hd_source_tensor source;
    int64_t base, row_stride, column_stride;
} hd_target_piece;

typedef enum hd_target_rule {
    HD_TARGET_VALUES,    /* values in the target's dtype, or stored bits when source and target have the same */
    HD_TARGET_F8_CODES,  /* one piece, row-major: F8_E4M3 codes of value / scale */
    HD_TARGET_F8_SCALES, /* the F32 scales of that, one per block */
    HD_TARGET_BLOCKS,    /* one piece, a matrix, as I8 or I4 blocks (tensor/packed.h); the next tensor, of its file, is that of the scales */
    HD_TARGET_BLOCK_SCALES /* written with the blocks */
} hd_target_rule;

typedef struct hd_target_tensor {
    hd_st_desc desc; /* first: see hd_shards */
    hd_target_rule rule;
    int64_t first_piece, n_piece;
    int64_t grain; /* elements: a window is a whole number of them, and no row (or column, whichever is further apart) of a piece
                    * crosses a multiple of it; the pieces together fill every grain */
} hd_target_tensor;

typedef enum hd_scale_format {
    HD_SCALE_F32,  /* amax / 448 */
    HD_SCALE_UE8M0 /* the least power of two that is not below amax / 448 */
} hd_scale_format;

typedef struct hd_target {
    hd_target_tensor *tensors;
    int64_t n_tensor, tensor_capacity;
    hd_target_piece *pieces;
    int64_t n_piece, piece_capacity;
    hd_buf names;      /* desc.name points into it once hd_target_cut has run; before, desc.begin is the offset */
    hd_shards shards;
    hd_scale_format scale_format;
    int64_t n_packed;  /* matrices added with their scales so far: they stand in front of their file */
} hd_target;

void hd_target_free(hd_target *t); /* accepts a zeroed one */

/* Adds a tensor; its pieces are those added after it.  A grain of 0 means the target's last axis (rows). */
hd_status hd_target_add(hd_target *t, const char *name, hd_dtype dtype, int n_dim, const int64_t *shape, hd_target_rule rule,
                        int64_t grain, hd_err *err) HD_CHECK_RESULT;
hd_status hd_target_add_piece(hd_target *t, const hd_target_piece *piece, hd_err *err) HD_CHECK_RESULT;

/* The same tensor as a source's, row for row. */
hd_status hd_target_add_whole(hd_target *t, const char *name, hd_dtype dtype, hd_target_rule rule, const hd_source_tensor *source,
                              hd_err *err) HD_CHECK_RESULT;

/* A matrix in blocks and its scales (packing.h): made from values, or, where the source is packed so, as they are.  These tensors come
 * first in their file, in the order added, blocks and scales side by side; those of an odd number of blocks, behind which nothing is
 * at a multiple of 64 bytes, after the others. */
hd_status hd_target_add_packed(hd_target *t, const hd_folder *folder, const char *name, hd_dtype dtype, const hd_source_tensor *source,
                               hd_err *err) HD_CHECK_RESULT;

/* All tensors into files, in the order they were added. */
hd_status hd_target_cut(hd_target *t, int64_t max_shard, const char *stem, hd_err *err) HD_CHECK_RESULT;

/* Called after each window: for progress, and to stop with an error of its own. */
typedef struct hd_target_hook {
    hd_status (*call)(void *arg, hd_err *err); /* may be NULL */
    void *arg;
} hd_target_hook;

/* What a conversion reads with: the source, and of targets with blocks the packer, of one folder. */
typedef struct hd_target_reader {
    hd_source *source;
    hd_packer *packer;
} hd_target_reader;

/* Writes shards.files[file], whose descriptor the queue owns from here on, and asks the queue to make it durable as final_path.
 * HD_E_INVALID for a value that the target's dtype cannot hold (F16 beyond 65504, infinities in FP8, what is not finite in blocks), naming the tensor. */
hd_status hd_target_write_file(const hd_target *t, int64_t file, hd_target_reader reader, hd_write_queue *queue, const char *path,
                               const char *final_path, hd_target_hook hook, hd_err *err) HD_CHECK_RESULT;

/* The scale of a block of values (rows of n_column, `stride` apart): see hd_scale_format.  NaNs do not count; 1 for a block of zeros,
 * infinity for one that holds an infinity. */
float hd_f8_block_scale(const float *values, int64_t stride, int64_t n_row, int64_t n_column, hd_scale_format format);

#endif
