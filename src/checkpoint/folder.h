/* A folder of tensors opened for reading: a HuggingFace model folder, or a hadal checkpoint (which is one, with a manifest).
 * With a manifest nothing is believed before its checksum was verified; without one, files are what they are. */
#ifndef HD_CHECKPOINT_FOLDER_H
#define HD_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpoint/block_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/safetensors.h"
#include "hadal/status.h"
#include "model/dims.h"

typedef struct hd_folder_file {
    char *name;
    hd_block_file block;
    hd_st_reader *st; /* NULL when it is not safetensors */
} hd_folder_file;

/* Where a tensor is: entry `entry` of file `file`. */
typedef struct hd_tensor_place {
    int32_t file;
    int32_t entry;
} hd_tensor_place;

typedef struct hd_folder {
    char *path;
    bool is_checkpoint;
    hd_manifest manifest; /* of a checkpoint */
    hd_block_cache cache;
    hd_folder_file *files;
    int64_t n_file;
    hd_tensor_place *places; /* of all tensors, by file, in the order of the data */
    int64_t n_place;
    uint32_t *table; /* by name: index into places + 1 */
    size_t table_mask;
    char *config; /* the text of config.json; NULL when there is none */
    size_t config_n;
    int packed_bits;     /* 8 or 4: its matrices are packed as packing.h says; 0: they are not */
    hd_dims packed_dims; /* of a packed folder: the model, which gives the shapes of matrices */
} hd_folder;

/* Opens all files and checks everything but the data of tensors.  Refused: a name that leaves the folder, links and special
 * files in a checkpoint, files that the manifest lacks or does not know, a tensor name in two files.  step: -1, or the path
 * must be a checkpoint of this step.
 * HD_E_CORRUPT for damage, HD_E_CONFIG for a folder that is no model at all, HD_E_UNSUPPORTED for Orbax paths (.../items). */
hd_status hd_folder_open(const char *path, int64_t step, hd_folder *out, hd_err *err) HD_CHECK_RESULT;
void hd_folder_close(hd_folder *folder); /* accepts a zeroed one */

/* -1: no tensor of this name. */
int64_t hd_folder_find(const hd_folder *folder, const char *name);
hd_st_info hd_folder_info(const hd_folder *folder, int64_t place);
hd_st_reader *hd_folder_reader(const hd_folder *folder, int64_t place);

/* What config.json says of the model.  MTP modules that it announces and the files lack do not count: many folders were
 * converted without them.  HD_E_CONFIG also when it speaks of many times the tensors that are there. */
hd_status hd_folder_dims(const hd_folder *folder, hd_dims *dims, hd_err *err) HD_CHECK_RESULT;

/* Verifies every block that was not read.  Does nothing without a manifest. */
hd_status hd_folder_verify_rest(hd_folder *folder, hd_err *err) HD_CHECK_RESULT;

/* The cheap look at a checkpoint: a whole manifest, of this step (-1: any), exactly its files, regular, of the right sizes.  *m
 * is filled when not NULL. */
hd_status hd_folder_look(const char *path, int64_t step, hd_manifest *m, hd_err *err) HD_CHECK_RESULT;

/* The whole look: as above, and every byte of every file. */
hd_status hd_folder_verify(const char *path, int64_t step, hd_err *err) HD_CHECK_RESULT;

#endif
