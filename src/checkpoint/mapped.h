/* A folder's files as the memory of a model that only runs forward: weights are used where they lie in the page cache, shared by all
 * processes, and nothing is copied that can be used as it is stored.
 *
 *   as stored      F32 (when weights are f32), BF16; of matrices that are only multiplied, also F8_E4M3 and packed ones
 *   packed         such matrices, when a quantisation is asked for and the folder is not packed: into the model's arena
 *   copied         all else, as options.weight_dtype: F16, FP8 of other matrices, F32 when weights are BF16, what is not aligned
 *
 * A BF16 weight of a model with f32 weights has the same values either way and stays BF16.  Files of a folder that is in use must be left
 * alone: a mapped file that is cut off ends the process (SIGBUS). */
#ifndef HD_CHECKPOINT_MAPPED_H
#define HD_CHECKPOINT_MAPPED_H

#include <stdbool.h>
#include <stdint.h>

#include "hadal/status.h"
#include "model/model.h"

typedef struct hd_ckpt_map hd_ckpt_map;

typedef struct hd_map_options {
    int bits;          /* 8 or 4: matrices are packed, or must be packed so already; 0: as stored */
    bool round_inputs; /* of packed matrices (hd_weight.round_inputs) */
    int n_threads;     /* that read, verify and pack */
} hd_map_options;

/* Opens a folder (paths as in hd_ckpt_load_parameters), checks that it is a whole model of these dims, and maps its files.  HD_E_CONFIG when
 * it is packed with other bits than those asked for. */
hd_status hd_ckpt_map_open(const char *path, const hd_dims *dims, const hd_map_options *options, hd_ckpt_map **out, hd_err *err) HD_CHECK_RESULT;
void hd_ckpt_map_close(hd_ckpt_map *map); /* accepts NULL */

/* Gives its weights to a model that was opened with options.mapped and these dims; arena takes what is not mapped.  On a dry executor only
 * counts.  Else every byte that is mapped is read into memory first, by all threads; of a checkpoint its checksum is compared, and scales of
 * packed matrices must be finite.  Once per opened model; the map outlives the model. */
hd_status hd_ckpt_map_attach(hd_ckpt_map *map, hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err) HD_CHECK_RESULT;

/* Bytes of the files that the attached model uses in place. */
int64_t hd_ckpt_map_bytes(const hd_ckpt_map *map);

#endif
