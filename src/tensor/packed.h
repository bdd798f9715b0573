/* Matrices of small integers in blocks: the weights of decoding, the same in memory and in files.
 *
 * A matrix W (out, in), in a multiple of 64, becomes blocks of 16 rows x 64 columns, block rows one after the other, the blocks of a
 * block row in the order of their columns; out is filled up with rows of zeros.  Each row of a block has one scale (BF16), kept apart as
 * (out / 16, in / 64, 16):  W[r, k] = scale * code.
 *
 *   I8, 1024 bytes   byte  64 (k / 4) + 4 r + k % 4                    code in -127 .. 127
 *   I4,  512 bytes   byte  64 (k / 8) + 4 r + k % 4, low half for       code + 8, code in -8 .. 7
 *                    k % 8 < 4, high half for the others
 *
 * so that a 64-byte line holds the same 4 (8) columns of all 16 rows: a dot-product instruction on it gives a sum per row, and a
 * product reads its weights as one stream.  Scales are what a symmetric code needs: I8 the largest magnitude / 127; I4 the one of a few
 * candidates with the least squared error. */
#ifndef HD_TENSOR_PACKED_H
#define HD_TENSOR_PACKED_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

enum { HD_PACKED_ROWS = 16, HD_PACKED_GROUP = 64 };

static inline bool hd_dtype_is_packed(hd_dtype dtype) { return dtype == HD_DTYPE_I8 || dtype == HD_DTYPE_I4; }

/* Rows with those that fill the last block row. */
static inline int64_t hd_packed_rows(int64_t out) { return (out + HD_PACKED_ROWS - 1) / HD_PACKED_ROWS * HD_PACKED_ROWS; }

/* Bytes of a block. */
static inline int64_t hd_packed_block_bytes(hd_dtype dtype) { return dtype == HD_DTYPE_I4 ? 512 : 1024; }

/* A block row: n_row <= 16 rows of `in` values, `stride` apart, into in / 64 blocks and as many times 16 scales.  False when a value
 * is not finite. */
bool hd_pack_rows(hd_dtype dtype, const float *values, int64_t stride, int n_row, int64_t in, uint8_t *blocks, uint16_t *scales);

/* A block as values, 16 rows of 64, `stride` apart. */
void hd_unpack_block(hd_dtype dtype, const uint8_t *block, const uint16_t *scales, float *values, int64_t stride);

/* One code of a block. */
int hd_packed_code(hd_dtype dtype, const uint8_t *block, int row, int column);

/* Inputs of a product with 8-bit activations: 64 values become codes in -127 .. 127 times the scale returned, the largest magnitude / 127
 * (codes rint(v * (127 / largest)) in f32).  rest, unless NULL, receives codes of what the rounding lost, in units of scale /
 * HD_ROUND_REST.  A group that is not finite has a scale of NaN. */
enum { HD_ROUND_REST = 254 };
float hd_round_group(const float *values, int8_t *codes, int8_t *rest);

#endif
