/* Values computed from keys: the mesh and the batch.  Pure functions over numbers, so that they are tested without a
 * configuration.  Formulas: MaxText's pyconfig (docs/configuration.md, "Derived values"). */
#ifndef HD_CONFIG_DERIVED_H
#define HD_CONFIG_DERIVED_H

#include <stdint.h>

#include "config/config.h"

/* Mesh axes, outermost first. */
typedef enum hd_mesh_axis {
    HD_MESH_DILOCO,
    HD_MESH_DATA,
    HD_MESH_STAGE,
    HD_MESH_FSDP,
    HD_MESH_FSDP_TRANSPOSE,
    HD_MESH_SEQUENCE,
    HD_MESH_CONTEXT,
    HD_MESH_CONTEXT_USP_ULYSSES,
    HD_MESH_CONTEXT_AUTOREGRESSIVE,
    HD_MESH_TENSOR,
    HD_MESH_TENSOR_SEQUENCE,
    HD_MESH_EXPERT,
    HD_MESH_AUTOREGRESSIVE,
    HD_MESH_COUNT
} hd_mesh_axis;

const char *hd_mesh_axis_name(hd_mesh_axis axis); /* "data", ...: the word in ici_<word>_parallelism */
hd_config_key hd_axis_key(hd_mesh_axis axis, bool between_slices); /* ici_<axis>_parallelism or dcn_<axis>_parallelism */

/* Rows of a batch over all devices. */
typedef struct hd_batch_rows {
    int64_t load;  /* read per step */
    int64_t train; /* used per step */
    int64_t micro; /* used per micro-batch */
} hd_batch_rows;

/* n_devices, rows per device p > 0, accumulation G >= 1, expansion e (<= 0 counts as 1):
 *   load = G * (p < 1 ? n e : int(n p e));  micro = int(n p);  train = G * micro.   HD_E_CONFIG on overflow or micro 0. */
hd_status hd_batch_rows_of(int64_t n_devices, double per_device, int64_t accumulation, double expansion,
                           hd_batch_rows *out, hd_err *err) HD_CHECK_RESULT;

/* Replaces the one -1 among degree[] so that the product is n_devices (0: the -1 becomes 1 and any product is good).
 * what ("ICI", "DCN") names the mesh in messages.  *product receives the product. */
hd_status hd_mesh_solve(const char *what, int64_t degree[HD_MESH_COUNT], int64_t n_devices, int64_t *product,
                        hd_err *err) HD_CHECK_RESULT;

typedef struct hd_run_shape {
    int64_t degree[HD_MESH_COUNT]; /* ICI */
    int64_t n_devices;
    int64_t accumulation; /* gradient_accumulation_steps */
    int64_t sequence_len; /* max_target_length */
    hd_batch_rows train, eval;
} hd_run_shape;

/* The shape of a run on n_devices ranks (0: as many as the explicit degrees ask for, which is what the derived keys of
 * the configuration hold). */
hd_status hd_run_shape_of(const hd_config *config, int64_t n_devices, hd_run_shape *out, hd_err *err) HD_CHECK_RESULT;

#endif
