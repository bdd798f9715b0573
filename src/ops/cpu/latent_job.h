/* The work of absorbed attention: pieces of sequences, their queries as strips.  What is done with it: latent_absorbed.h. */
#ifndef HD_OPS_CPU_LATENT_JOB_H
#define HD_OPS_CPU_LATENT_JOB_H

#include "ops/cpu/attention_forward.h"
#include "ops/cpu/latent_plan.h"

enum {
    LATENT_GROUP = 64,              /* queries of an item; with their sums and a tile of keys 430 KiB at c = 512 */
    LATENT_MAX_QUERIES = 4096,      /* worked on at once, if a token has no more heads */
    LATENT_MAX_PIECES = 64,         /* sequences worked on at once */
    LATENT_PARTIAL_FLOATS = 2 << 20, /* contexts of chunks that wait to be merged */
    LATENT_SLICE = 128              /* columns of a context that are merged as one item; whole vectors */
};

/* New tokens of one sequence that are worked on together: rows [first_row, first_row + n) of q; the first sees n_seen positions. */
typedef struct latent_piece {
    const hd_tensor *rows;
    int64_t first_row, n, n_seen;
} latent_piece;

/* Queries [first, first + n) of a piece, query i being head i % H of its row i / H, as lanes of nv vectors. */
typedef struct latent_strip {
    const latent_piece *piece;
    int64_t first, n, lanes;
    int64_t lane;        /* lanes of the strips before */
    int32_t seen[AT_NR]; /* positions each lane sees; lanes without a query repeat the last */
    int64_t seen_min, seen_max;
} latent_strip;

typedef struct latent_job {
    const hd_latent_spec *spec;
    const hd_tensor *q;
    const hd_weight *kv_b;
    hd_tensor *o;
    int64_t c, r, width, ld;           /* width = c + r; ld: row stride of tiles */
    int64_t c_padded, width_padded;    /* to whole vectors */
    float scale;
    latent_piece pieces[LATENT_MAX_PIECES];
    int64_t n_pieces, n_strips, n_groups, n_lanes, n_slices, first_row, n_row;
    latent_strip *strips;
    int64_t *groups;                       /* (n_groups + 1): their strips, ascending */
    float *rows;                           /* (n_row H, c_padded): q Wk, at the end the contexts */
    float *panels;                         /* per strip q' * scale (width_padded, lanes) */
    float *partial, *partial_stat;         /* per strip and chunk of the window: context relative to the maximum (c_padded, lanes); maxima and sums */
    float *context, *stat;                 /* the same merged, statistics once per slice */
    int64_t window, chunk_begin, n_chunks; /* chunks at once, the first of them, all */
    float *work;                           /* (n_threads, work_len) */
    int64_t work_len;
} latent_job;

#endif
