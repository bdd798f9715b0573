/* All tensors of a folder under their HuggingFace names, in one order for every folder of a model: what convert, inspect, diff and
 * verify walk over.  Experts of a fused tensor are listed one by one; scales of FP8 and packed matrices come with them (source.scale_place);
 * optimizer state and tables of old files that nothing reads are left out. */
#ifndef HD_CHECKPOINT_LISTING_H
#define HD_CHECKPOINT_LISTING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "checkpoint/folder.h"
#include "checkpoint/source.h"
#include "hadal/status.h"

typedef struct hd_listed {
    const char *name; /* the folder's or the listing's */
    hd_source_tensor source;
} hd_listed;

typedef struct hd_listing {
    hd_listed *rows; /* embedding, layers by number, the rest; inside a layer by name, numbers by value */
    int64_t n, capacity;
    int64_t n_left_out; /* tensors of layers from end_layer on */
    hd_buf names;
} hd_listing;

/* end_layer: tensors of this layer and later ones are left out; INT64_MAX: none.  masters: where a training checkpoint holds an f32
 * copy of a weight, that copy is listed.  Free with hd_listing_free also after a failure. */
hd_status hd_listing_make(const hd_folder *folder, int64_t end_layer, bool masters, hd_listing *out, hd_err *err) HD_CHECK_RESULT;
void hd_listing_free(hd_listing *listing); /* accepts a zeroed one */

/* The order of the rows: < 0, 0, > 0. */
int hd_listing_compare(const char *a, const char *b);

/* A listed tensor in the form in which it is stored: of a packed matrix its blocks. */
hd_source_tensor hd_listed_stored(const hd_folder *folder, const hd_listed *row);

/* Scales of a listed matrix, as a tensor of their own: "<name>_scale_inv" (packed: "<name>_scale") into name, which holds HD_HF_NAME_MAX + 16
 * bytes. */
hd_source_tensor hd_listed_scales(const hd_folder *folder, const hd_listed *row, char *name);

#endif
