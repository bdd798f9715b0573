/* Packing of operands.  See gemm_pack.h. */
#include "ops/cpu/gemm_pack.h"

#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_stored.h"

/* Any strides: `width` elements per k, `width_stride` apart, into rows of `dst_row` floats. */
static void pack_plain(const char *src, hd_dtype dtype, int64_t k_stride, int64_t width_stride, int64_t kc, int64_t width,
                       int64_t dst_row, float *dst)
{
    for (int64_t k = 0; k < kc; k++) {
        for (int64_t i = 0; i < width; i++) {
            dst[k * dst_row + i] = gemm_read_one(gemm_address(src, dtype, k * k_stride + i * width_stride), dtype);
        }
    }
}

/* k contiguous: `width` <= HD_LANES rows of memory become columns of dst.  Whole vectors are stored; what goes beyond
 * `width` is overwritten by the next k, lies in the panel's unused columns, or in the slack behind it. */
HD_INLINE void pack_cross(const char *src, const hd_dtype dtype, int64_t width_stride, int64_t kc, int64_t width,
                          int64_t dst_row, float *dst)
{
    const char *rows[HD_LANES];
    const int step = gemm_cross_length(dtype);
    int64_t k = 0;
    for (int64_t i = 0; i < HD_LANES; i++) {
        rows[i] = gemm_address(src, dtype, (i < width ? i : width - 1) * width_stride);
    }
    for (; k + step <= kc; k += step) {
        hd_vf v[HD_GEMM_CROSS_MAX];
        gemm_read_cross(rows, k * gemm_element_bytes(dtype), dtype, v);
#pragma GCC unroll 32
        for (int j = 0; j < step; j++) { *(hd_vf_u *)(dst + (k + j) * dst_row) = v[j]; }
    }
    pack_plain(gemm_address(src, dtype, k), dtype, 1, width_stride, kc - k, width, dst_row, dst + k * dst_row);
}

static void pack_cross_f32(const char *src, int64_t width_stride, int64_t kc, int64_t width, int64_t dst_row, float *dst)
{
    pack_cross(src, HD_DTYPE_F32, width_stride, kc, width, dst_row, dst);
}

static void pack_cross_bf16(const char *src, int64_t width_stride, int64_t kc, int64_t width, int64_t dst_row, float *dst)
{
    pack_cross(src, HD_DTYPE_BF16, width_stride, kc, width, dst_row, dst);
}

static void pack_cross_any(const char *src, hd_dtype dtype, int64_t width_stride, int64_t kc, int64_t width,
                           int64_t dst_row, float *dst)
{
    if (dtype == HD_DTYPE_BF16) {
        pack_cross_bf16(src, width_stride, kc, width, dst_row, dst);
    } else {
        pack_cross_f32(src, width_stride, kc, width, dst_row, dst);
    }
}

/* ---- A ---- */

/* m contiguous: the panel's rows are neighbours in memory. */
HD_INLINE void pack_a_run(const char *src, const hd_dtype dtype, int64_t k_stride, int64_t kc, int64_t rows, float *dst)
{
    for (int64_t k = 0; k < kc; k++) {
        const char *p = gemm_address(src, dtype, k * k_stride);
        int64_t i = 0;
        for (; i + HD_LANES <= rows; i += HD_LANES) {
            *(hd_vf_u *)(dst + k * rows + i) = gemm_read_run(gemm_address(p, dtype, i), dtype);
        }
        for (; i < rows; i++) { dst[k * rows + i] = gemm_read_one(gemm_address(p, dtype, i), dtype); }
    }
}

void hd_gemm_pack_a(const void *a, hd_dtype dtype, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t kc,
                    float *dst)
{
    if (column_stride == 1 && rows <= HD_LANES) {
        pack_cross_any(a, dtype, row_stride, kc, rows, rows, dst);
    } else if (row_stride == 1 && dtype == HD_DTYPE_BF16) {
        pack_a_run(a, HD_DTYPE_BF16, column_stride, kc, rows, dst);
    } else if (row_stride == 1) {
        pack_a_run(a, HD_DTYPE_F32, column_stride, kc, rows, dst);
    } else {
        pack_plain(a, dtype, column_stride, row_stride, kc, rows, rows, dst);
    }
}

/* ---- B ---- */

/* n contiguous: a copy of whole vectors. */
HD_INLINE void pack_b_run(const char *src, const hd_dtype dtype, int64_t k_stride, int64_t kc, float *dst)
{
    for (int64_t k = 0; k < kc; k++) {
        const char *p = gemm_address(src, dtype, k * k_stride);
#pragma GCC unroll 8
        for (int v = 0; v < HD_GEMM_VECTORS; v++) {
            *(hd_vf *)(dst + k * HD_GEMM_NR + v * HD_LANES) = gemm_read_run(gemm_address(p, dtype, v * HD_LANES), dtype);
        }
    }
}

/* n contiguous, fewer columns than the panel has. */
static void pack_b_run_edge(const char *src, hd_dtype dtype, int64_t k_stride, int64_t kc, int64_t columns, float *dst)
{
    for (int64_t k = 0; k < kc; k++) {
        const char *p = gemm_address(src, dtype, k * k_stride);
        for (int64_t j = 0; j < HD_GEMM_NR; j += HD_LANES) {
            hd_vf v = {0};
            if (j < columns) { v = hd_load(p, dtype, j, columns); }
            *(hd_vf *)(dst + k * HD_GEMM_NR + j) = v;
        }
    }
}

/* k contiguous.  Lanes from `columns` on repeat the last column, vectors without a column are zeros. */
static void pack_b_cross(const char *src, hd_dtype dtype, int64_t n_stride, int64_t kc, int64_t columns, float *dst)
{
    for (int64_t j = 0; j < HD_GEMM_NR; j += HD_LANES) {
        if (j < columns) {
            pack_cross_any(gemm_address(src, dtype, j * n_stride), dtype, n_stride, kc, hd_min_i64(HD_LANES, columns - j),
                           HD_GEMM_NR, dst + j);
        } else {
            for (int64_t k = 0; k < kc; k++) { *(hd_vf *)(dst + k * HD_GEMM_NR + j) = (hd_vf){0}; }
        }
    }
}

void hd_gemm_pack_b(const void *b, hd_dtype dtype, int64_t row_stride, int64_t column_stride, int64_t kc, int64_t columns,
                    float *dst)
{
    if (row_stride == 1) {
        pack_b_cross(b, dtype, column_stride, kc, columns, dst);
    } else if (column_stride == 1 && columns < HD_GEMM_NR) {
        pack_b_run_edge(b, dtype, row_stride, kc, columns, dst);
    } else if (column_stride == 1 && dtype == HD_DTYPE_BF16) {
        pack_b_run(b, HD_DTYPE_BF16, row_stride, kc, dst);
    } else if (column_stride == 1) {
        pack_b_run(b, HD_DTYPE_F32, row_stride, kc, dst);
    } else {
        memset(dst, 0, (size_t)kc * HD_GEMM_NR * sizeof *dst);
        pack_plain(b, dtype, row_stride, column_stride, kc, columns, HD_GEMM_NR, dst);
    }
}

/* ---- stored weights ---- */

/* Up to HD_LANES outputs from `column` on, k .. k + kc, into columns of dst, rows of HD_GEMM_NR.  A vector lies inside a block. */
static void pack_f8(const gemm_stored *w, int64_t column, int64_t columns, int64_t k, int64_t kc, float *dst)
{
    const char *rows[HD_LANES];
    const float *scales = gemm_f8_scales(w->scales, w->k, column);
    const int step = 4 * HD_LANES;
    int64_t at = 0;
    for (int64_t i = 0; i < HD_LANES; i++) { rows[i] = (const char *)w->codes + (column + hd_min_i64(i, columns - 1)) * w->k + k; }
    for (; at + step <= kc; at += step) {
        hd_vf square[HD_LANES], scale = hd_splat(scales[(k + at) / HD_F8_BLOCK]);
        gemm_transpose(rows, at, square);
#pragma GCC unroll 16
        for (int j = 0; j < HD_LANES; j++) {
            for (int b = 0; b < 4; b++) { *(hd_vf *)(dst + (at + 4 * j + b) * HD_GEMM_NR) = gemm_f8_value(square[j], b, scale); }
        }
    }
    for (; at < kc; at++) {
        float scale = scales[(k + at) / HD_F8_BLOCK];
        for (int64_t i = 0; i < HD_LANES; i++) { dst[at * HD_GEMM_NR + i] = hd_f8_e4m3_to_f32((uint8_t)rows[i][at]) * scale; }
    }
}

/* The same from packed integers; k and kc are multiples of the group. */
static void pack_integers(const gemm_stored *w, int64_t column, int64_t k, int64_t kc, float *dst)
{
    const int64_t groups = w->k / HD_PACKED_GROUP, bytes = hd_packed_block_bytes(w->dtype), r = column % HD_PACKED_ROWS;
    for (int64_t g = k / HD_PACKED_GROUP; g < (k + kc) / HD_PACKED_GROUP; g++) {
        int64_t block = column / HD_PACKED_ROWS * groups + g;
        const char *line = (const char *)w->codes + block * bytes + 4 * r;
        hd_vf scale = hd_widen(*(const hd_vh_u *)((const uint16_t *)w->scales + block * HD_PACKED_ROWS + r));
        for (int64_t at = 0; at < bytes; at += 64, line += 64) {
            hd_vi four = (hd_vi)*(const gemm_vector_anywhere *)line;
#pragma GCC unroll 4
            for (int b = 0; b < 4; b++) {
                if (w->dtype == HD_DTYPE_I8) {
                    hd_vi code = (four << (24 - 8 * b)) >> 24;
                    *(hd_vf *)(dst + b * HD_GEMM_NR) = __builtin_convertvector(code, hd_vf) * scale;
                } else {
                    hd_vi low = ((four >> (8 * b)) & 15) - 8, high = ((four >> (8 * b + 4)) & 15) - 8;
                    *(hd_vf *)(dst + b * HD_GEMM_NR) = __builtin_convertvector(low, hd_vf) * scale;
                    *(hd_vf *)(dst + (4 + b) * HD_GEMM_NR) = __builtin_convertvector(high, hd_vf) * scale;
                }
            }
            dst += (w->dtype == HD_DTYPE_I8 ? 4 : 8) * HD_GEMM_NR;
        }
    }
}

void hd_gemm_pack_stored(const gemm_stored *w, int64_t column, int64_t columns, int64_t k, int64_t kc, float *dst)
{
    for (int64_t j = 0; j < HD_GEMM_NR; j += HD_LANES) {
        if (j >= columns) {
            for (int64_t i = 0; i < kc; i++) { *(hd_vf *)(dst + i * HD_GEMM_NR + j) = (hd_vf){0}; }
        } else if (w->dtype == HD_DTYPE_F8_E4M3) {
            pack_f8(w, column + j, hd_min_i64(HD_LANES, columns - j), k, kc, dst + j);
        } else {
            pack_integers(w, column + j, k, kc, dst + j);
        }
    }
}
