/* Shape decisions of the matrix product, as pure functions: nothing here looks at memory or runs a kernel, and nothing
 * here can change a bit of a result, only where and when it is computed. */
#ifndef HD_OPS_CPU_GEMM_PLAN_H
#define HD_OPS_CPU_GEMM_PLAN_H

#include <stdbool.h>
#include <stdint.h>

/* Length of a k-block.  Part of the numerics contract (ops.h), the same on every machine: a packed panel of 16 columns is
 * 16 KiB, half of a first-level cache. */
enum { HD_GEMM_KC = 256 };

/* What an instruction set and its caches like. */
typedef struct hd_gemm_blocks {
    int mr, nr;         /* micro-tile */
    int64_t mc;         /* rows of A worked on at once: mc * KC floats stay in the second-level cache */
    int64_t nc;         /* columns of an item: KC * nc packed floats stay there too; a multiple of nr */
    int64_t a_floats;   /* packed A of a phase, shared by all threads in the third-level cache */
    int64_t chunk_rows; /* rows that reuse one packed B, at most */
} hd_gemm_blocks;

/* Where partial sums over k-blocks wait. */
typedef enum hd_gemm_tile {
    HD_GEMM_TILE_NONE,  /* in C itself */
    HD_GEMM_TILE_ITEM,  /* bf16 C: in the thread's scratch, chunk_rows x nc */
    HD_GEMM_TILE_CHUNK, /* bf16 C whose A does not fit a phase: in shared scratch, chunk_rows x n */
} hd_gemm_tile;

typedef struct hd_gemm_plan {
    int64_t chunk_rows; /* products are cut into chunks of this many rows */
    int64_t k_span;     /* k of a phase, a multiple of KC: A of a chunk is packed so far at a time */
    int64_t nc;         /* columns of an item */
    hd_gemm_tile tile;
} hd_gemm_plan;

static inline int64_t hd_gemm_round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

static inline int64_t hd_gemm_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t hd_gemm_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Rows of a chunk and the k-span, such that a packed chunk fits a_floats.  An f32 C takes several spans gladly (partial
 * sums go through C once per span); a bf16 C prefers fewer rows at one span while they stay enough to pay for packing B. */
static inline void hd_gemm_plan_chunk(const hd_gemm_blocks *blocks, int64_t m, int64_t n, int64_t k, bool c_is_f32,
                                      hd_gemm_plan *plan)
{
    int64_t rows = hd_gemm_max(1, hd_gemm_min(m, blocks->chunk_rows));
    int64_t k_blocks = hd_gemm_max(1, hd_gemm_round_up(k, HD_GEMM_KC) / HD_GEMM_KC);
    int64_t k_whole = k_blocks * HD_GEMM_KC;
    int64_t rows_whole = hd_gemm_max(blocks->mr, blocks->a_floats / k_whole / blocks->mr * blocks->mr);
    plan->tile = c_is_f32 ? HD_GEMM_TILE_NONE : HD_GEMM_TILE_ITEM;
    plan->k_span = k_whole;
    plan->chunk_rows = rows;
    if (rows <= rows_whole) { return; }
    if (!c_is_f32 && rows_whole >= blocks->chunk_rows / 4) {
        plan->chunk_rows = rows_whole;
        return;
    }
    if (!c_is_f32) {
        plan->tile = HD_GEMM_TILE_CHUNK;
        rows = hd_gemm_min(rows, hd_gemm_max(1, 2 * blocks->a_floats / hd_gemm_max(1, n) / blocks->mr) * blocks->mr);
        plan->chunk_rows = rows;
    }
    plan->k_span = hd_gemm_max(1, hd_gemm_min(k_blocks, blocks->a_floats / rows / HD_GEMM_KC)) * HD_GEMM_KC;
}

/* Columns of an item: nc, or less when there would be fewer than four items per thread. */
static inline int64_t hd_gemm_plan_columns(const hd_gemm_blocks *blocks, int64_t n_chunks, int64_t n, int n_threads)
{
    int64_t panels = hd_gemm_max(1, hd_gemm_round_up(n, blocks->nr) / blocks->nr);
    int64_t items_wanted = hd_gemm_max(1, hd_gemm_round_up(4 * (int64_t)n_threads, n_chunks) / n_chunks);
    int64_t panels_per_item = hd_gemm_max(1, panels / items_wanted);
    panels_per_item = hd_gemm_min(panels_per_item, blocks->nc / blocks->nr);
    int64_t items = (panels + panels_per_item - 1) / panels_per_item;
    return (panels + items - 1) / items * blocks->nr; /* equal items */
}

/* Into how many groups of row panels the items of a chunk are cut, when its columns alone do not occupy the threads. */
static inline int64_t hd_gemm_plan_row_parts(int64_t n_items, int64_t n_panels, int n_threads)
{
    int64_t wanted = 4 * (int64_t)n_threads;
    if (n_items >= wanted || n_items == 0) { return 1; }
    return hd_gemm_max(1, hd_gemm_min((wanted + n_items - 1) / n_items, n_panels / 2));
}

/* The plan of a batch: m, n, k are its largest sizes, n_problems how many products there are. */
static inline hd_gemm_plan hd_gemm_plan_make(const hd_gemm_blocks *blocks, int64_t n_problems, int64_t m, int64_t n,
                                             int64_t k, bool c_is_f32, int n_threads)
{
    hd_gemm_plan plan;
    hd_gemm_plan_chunk(blocks, m, n, k, c_is_f32, &plan);
    int64_t n_chunks = hd_gemm_max(1, n_problems) * hd_gemm_max(1, (m + plan.chunk_rows - 1) / plan.chunk_rows);
    plan.nc = hd_gemm_plan_columns(blocks, n_chunks, n, n_threads);
    return plan;
}

/* Row panels: rows are cut into as few panels of at most mr as can be, of heights that differ by at most one. */
static inline int64_t hd_gemm_panels(int64_t rows, int mr) { return (rows + mr - 1) / mr; }

static inline int64_t hd_gemm_panel_begin(int64_t rows, int64_t n_panels, int64_t p)
{
    return p * (rows / n_panels) + hd_gemm_min(p, rows % n_panels);
}

#endif
