/* The loops around the micro-kernels.  See gemm.h for the contract and docs/kernels.md for the reasoning.
 *
 *   for each phase (chunks of rows whose packed A fits the third-level cache; usually there is one phase):
 *     pack A of all chunks                                     parallel over row panels
 *     items (chunk, columns)                                   parallel, the costliest first
 *       for each k-block:  for each column panel:
 *         pack B into the first-level cache                    once per item: B is read from memory once per chunk
 *         for each row panel: micro-kernel                     A from the second- or third-level cache
 *
 * While the kernels of a k-block run, they prefetch the next k-block of B into the second-level cache. */
#include "ops/cpu/gemm.h"

#include <stdatomic.h>
#include <string.h>

#include "ops/cpu/gemm_few.h"
#include "ops/cpu/gemm_kernel.h"
#include "ops/cpu/gemm_pack.h"
#include "ops/cpu/gemm_read.h"
#include "ops/cpu/gemm_stored.h"
#include "base/parallel_for.h"

enum {
    A_SLACK = 16,           /* floats behind each packed A panel: packing stores whole vectors */
    SERIAL_A_FLOATS = 16384, /* packing less is not worth waking threads */
    SERIAL_FLOPS = 400000,  /* neither is multiplying less */
};

#if defined(__AVX512F__)
enum { DIRECT_PANELS = 12, DIRECT_PANELS_ALIASED = 12 }; /* a panel of B fills the first-level cache anyway */
static const hd_gemm_blocks gemm_blocks = {
    .mr = HD_GEMM_MR, .nr = HD_GEMM_NR, .mc = 224, .nc = 256, .a_floats = 4 << 20, .chunk_rows = 504};
#else
enum { DIRECT_PANELS = 8, DIRECT_PANELS_ALIASED = 3 };
static const hd_gemm_blocks gemm_blocks = {
    .mr = HD_GEMM_MR, .nr = HD_GEMM_NR, .mc = 120, .nc = 128, .a_floats = 4 << 20, .chunk_rows = 480};
#endif

/* A chunk of one product's rows. */
typedef struct gemm_task {
    const char *a, *b;
    const void *b_scales;
    char *c;
    int64_t rows, n, k, c_row;
    int64_t n_panels, row_parts, column_items;
    int64_t first_panel, first_item; /* in the phase */
    float *packed;                   /* A of this span */
} gemm_task;

typedef struct gemm_scratch {
    gemm_task *tasks;
    float *packed, *threads, *chunk_tile;
    int64_t max_tasks, packed_floats, thread_floats;
} gemm_scratch;

/* A phase: tasks [0, n_tasks) at k in [k_begin, k_begin + k_span). */
typedef struct gemm_phase {
    const hd_gemm_form *form;
    const hd_gemm_plan *plan;
    const gemm_scratch *scratch;
    gemm_task *tasks;
    int64_t n_tasks, n_panels, n_items;
    int64_t k_begin;
    atomic_int_fast64_t next_item;
} gemm_phase;

/* ---- sizes ---- */

static int64_t blocks_of(int64_t k) { return hd_ceil_div(k, HD_GEMM_KC); }

static int64_t packed_size(int64_t rows, int64_t k)
{
    return rows * k + hd_gemm_panels(rows, HD_GEMM_MR) * blocks_of(k) * A_SLACK;
}

/* Where panel p of k-block b lies: blocks one after the other, panels one after the other inside. */
static int64_t packed_at(int64_t rows, int64_t n_panels, int64_t p, int64_t b, int64_t kc)
{
    return b * (rows * HD_GEMM_KC + n_panels * A_SLACK) + hd_gemm_panel_begin(rows, n_panels, p) * kc + p * A_SLACK;
}

/* Enough for a phase: all of A when that is less than a_floats, at least one chunk. */
static int64_t packed_capacity(const hd_gemm_limits *l, const hd_gemm_plan *plan)
{
    int64_t by_rows = (l->m_max / HD_GEMM_MR + 2) * (l->k_total / HD_GEMM_KC + l->n_problems);
    int64_t by_k = (l->m_total / HD_GEMM_MR + 2 * l->n_problems) * (l->k_max / HD_GEMM_KC + 1);
    int64_t all = l->a_total + A_SLACK * hd_min_i64(by_rows, by_k);
    int64_t chunk = packed_size(plan->chunk_rows, hd_min_i64(plan->k_span, l->k_max));
    return hd_max_i64(chunk, hd_min_i64(all, gemm_blocks.a_floats));
}

hd_status hd_gemm_reserve(hd_exec *ex, const hd_gemm_form *form, const hd_gemm_limits *limits, hd_gemm_batch *batch,
                          hd_err *err)
{
    hd_status st = HD_OK;
    void *scratch, *problems, *tasks, *packed, *threads, *tile;
    batch->plan = hd_gemm_plan_make(&gemm_blocks, limits->n_problems, limits->m_max, limits->n_max, limits->k_max,
                                    form->c_dtype == HD_DTYPE_F32, ex->n_threads);
    const hd_gemm_plan *plan = &batch->plan;
    gemm_scratch s = {.max_tasks = limits->n_problems + limits->m_total / plan->chunk_rows,
                      .packed_floats = packed_capacity(limits, plan),
                      .thread_floats = HD_GEMM_KC * plan->nc};
    if (plan->tile == HD_GEMM_TILE_ITEM) { s.thread_floats += plan->chunk_rows * plan->nc; }
    int64_t tile_floats = plan->tile == HD_GEMM_TILE_CHUNK ? plan->chunk_rows * limits->n_max : 0;
    HD_TRY(hd_arena_alloc(ex->scratch, sizeof s, &scratch, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)limits->n_problems * sizeof(hd_gemm_problem), &problems, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)s.max_tasks * sizeof(gemm_task), &tasks, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)s.packed_floats * sizeof(float), &packed, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)(ex->n_threads * s.thread_floats) * sizeof(float), &threads, err));
    HD_TRY(hd_arena_alloc(ex->scratch, (size_t)tile_floats * sizeof(float), &tile, err));
    if (ex->dry) { return HD_OK; }
    s.tasks = tasks;
    s.packed = packed;
    s.threads = threads;
    s.chunk_tile = tile;
    memcpy(scratch, &s, sizeof s);
    batch->scratch = scratch;
    batch->problems = problems;
out:
    return st;
}

/* ---- packing A ---- */

static const gemm_task *find_by_panel(const gemm_phase *phase, int64_t panel)
{
    int64_t low = 0, high = phase->n_tasks;
    while (high - low > 1) {
        int64_t mid = (low + high) / 2;
        if (phase->tasks[mid].first_panel <= panel) { low = mid; } else { high = mid; }
    }
    return &phase->tasks[low];
}

static int64_t span_of(const gemm_phase *phase, const gemm_task *task)
{
    return hd_max_i64(0, hd_min_i64(phase->plan->k_span, task->k - phase->k_begin));
}

static void pack_panel(void *arg, int64_t i, int thread)
{
    const gemm_phase *phase = arg;
    const hd_gemm_form *f = phase->form;
    const gemm_task *task = find_by_panel(phase, i);
    int64_t p = i - task->first_panel, span = span_of(phase, task);
    int64_t row = hd_gemm_panel_begin(task->rows, task->n_panels, p);
    int64_t rows = hd_gemm_panel_begin(task->rows, task->n_panels, p + 1) - row;
    (void)thread;
    for (int64_t k = 0; k < span; k += HD_GEMM_KC) {
        int64_t kc = hd_min_i64(HD_GEMM_KC, span - k);
        const char *src = gemm_address(task->a, f->a_dtype, row * f->a_row + (phase->k_begin + k) * f->a_column);
        hd_gemm_pack_a(src, f->a_dtype, f->a_row, f->a_column, rows, kc,
                       task->packed + packed_at(task->rows, task->n_panels, p, k / HD_GEMM_KC, kc));
    }
}

/* ---- an item: rows of a chunk times columns of B ---- */

typedef struct gemm_item {
    const gemm_phase *phase;
    const gemm_task *task;
    int64_t panel_begin, panel_end; /* row panels of the task */
    int64_t row_begin, row_end;
    int64_t column, columns;
    float *packed_b;
    float *sums; /* where k-blocks add up: C itself or the f32 tile, at (row_begin, column) */
    int64_t sums_row;
    hd_gemm_prefetch ahead, idle; /* the next k-block of B; nothing new */
    int64_t ahead_every;          /* one call in so many prefetches */
} gemm_item;

static char *item_c(const gemm_item *item, int64_t row)
{
    const hd_gemm_form *f = item->phase->form;
    return item->task->c + ((item->row_begin + row) * item->task->c_row + item->column) * gemm_element_bytes(f->c_dtype);
}

/* One line, always at hand: for kernels that have nothing to fetch. */
static hd_gemm_prefetch prefetch_nothing(const gemm_item *item)
{
    return (hd_gemm_prefetch){.line = (const char *)item->packed_b, .groups_left = 1, .row_groups = 1, .total = INT64_MAX};
}

/* Row panels that meet a panel of B when it is new. */
static int64_t first_pass_panels(const gemm_item *item)
{
    return hd_min_i64(item->panel_end - item->panel_begin, gemm_blocks.mc / HD_GEMM_MR);
}

/* Starts fetching columns [column, column + columns) of the k-block at k of task `of`, its lines spread over `calls` kernel
 * calls per panel: a single call must fetch a line of packed B in the time it reads one; more take half of that pace, and
 * turns. */
static void prefetch_from(gemm_item *item, const gemm_task *of, int64_t k, int64_t kc, int64_t column, int64_t columns)
{
    const hd_gemm_form *f = item->phase->form;
    bool k_inside = f->b_row == 1;
    int64_t bytes = gemm_element_bytes(f->b_dtype), share = first_pass_panels(item) * (4 / bytes);
    int64_t step = share > 1 ? 32 : 64;
    int64_t row_bytes = (k_inside ? kc : columns) * bytes, row_stride = (k_inside ? f->b_column : f->b_row) * bytes;
    int64_t groups = hd_ceil_div(row_bytes, HD_GEMM_AHEAD * step);
    item->ahead_every = hd_max_i64(1, share * step / 64);
    item->ahead = (hd_gemm_prefetch){
        .line = gemm_address(of->b, f->b_dtype, k * f->b_row + column * f->b_column),
        .step = step,
        .groups_left = groups,
        .row_groups = groups,
        .jump = row_stride - HD_GEMM_AHEAD * step * groups,
        .total = groups * (k_inside ? columns : kc)};
}

/* What comes after columns [column, column + width) of the k-block at k (relative to the span): the columns beside them,
 * the item's next k-block, the next item; nothing when there is none. */
static void prefetch_after(gemm_item *item, const gemm_item *next, int64_t k, int64_t column, int64_t width)
{
    const gemm_item *of = item;
    item->ahead_every = 1;
    item->ahead = item->idle;
    column += width;
    if (column >= item->columns) {
        column = 0;
        k += HD_GEMM_KC;
    }
    if (k >= span_of(item->phase, item->task)) {
        of = next;
        k = 0;
    }
    if (of == NULL || (item->phase->form->b_row != 1 && item->phase->form->b_column != 1)) { return; }
    if (hd_dtype_is_packed(item->phase->form->b_dtype)) { return; } /* one stream as it is */
    int64_t kc = hd_min_i64(HD_GEMM_KC, span_of(of->phase, of->task) - k);
    int64_t columns = hd_min_i64(width, of->columns - column);
    if (kc > 0) { prefetch_from(item, of->task, item->phase->k_begin + k, kc, of->column + column, columns); }
}

/* A panel of B as the kernels will read it: packed, or in place. */
typedef struct gemm_panel {
    const float *b;
    int64_t b_row;
    int64_t column, columns; /* in the item */
} gemm_panel;

/* One micro-tile; at the right edge through a temporary, so that every column is computed by the same kernel. */
static void run_tile(gemm_item *item, const float *a, int64_t rows, const gemm_panel *panel, int64_t kc, float *c, bool add,
                     hd_gemm_prefetch *prefetch)
{
    const int64_t columns = panel->columns;
    hd_gemm_tile_args t = {.kc = kc, .a = a, .b = panel->b, .b_row = panel->b_row, .c = c, .c_row = item->sums_row, .add = add,
                           .prefetch = prefetch};
    if (columns == HD_GEMM_NR) {
        gemm_kernels[rows](&t);
    } else {
        float tile[HD_GEMM_MR * HD_GEMM_NR] __attribute__((aligned(64)));
        t.c = tile;
        t.c_row = HD_GEMM_NR;
        t.add = false;
        gemm_kernels[rows](&t);
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < columns; j++) {
                float s = tile[i * HD_GEMM_NR + j];
                c[i * item->sums_row + j] = add ? c[i * item->sums_row + j] + s : s;
            }
        }
    }
    prefetch->total -= kc / 4;
    if (prefetch->total <= 0) { *prefetch = item->idle; }
}

/* Row panels [begin, end) of the item against one packed column panel. */
static void run_rows(gemm_item *item, int64_t begin, int64_t end, int64_t k, int64_t kc, const gemm_panel *panel, bool add)
{
    const gemm_task *task = item->task;
    int64_t row = hd_gemm_panel_begin(task->rows, task->n_panels, begin);
    for (int64_t p = begin; p < end; p++) {
        int64_t next = hd_gemm_panel_begin(task->rows, task->n_panels, p + 1);
        const float *a = task->packed + packed_at(task->rows, task->n_panels, p, k / HD_GEMM_KC, kc);
        float *c = item->sums + (row - item->row_begin) * item->sums_row + panel->column;
        bool ahead = (p - item->panel_begin) % item->ahead_every == 0;
        run_tile(item, a, next - row, panel, kc, c, add, ahead ? &item->ahead : &item->idle);
        row = next;
    }
}

/* Whether the kernels read an f32 B [k, n] where it lies: as long as the row panels are so few that a copy does not pay.
 * Rows of B at multiples of 2 KiB share few sets of the first-level cache, so that each kernel fetches its panel anew. */
static bool reads_in_place(const gemm_item *item, int64_t columns)
{
    const hd_gemm_form *f = item->phase->form;
    int64_t most = f->b_row % 512 == 0 ? DIRECT_PANELS_ALIASED : DIRECT_PANELS;
    return f->b_column == 1 && f->b_dtype == HD_DTYPE_F32 && columns == HD_GEMM_NR &&
           item->panel_end - item->panel_begin <= most;
}

/* Column panel j of a k-block; k relative to the span.  Packs it on the first pass. */
static gemm_panel get_panel(const gemm_item *item, int64_t k, int64_t kc, int64_t j, bool first_pass)
{
    const hd_gemm_form *f = item->phase->form;
    gemm_panel panel = {.column = j, .columns = hd_min_i64(HD_GEMM_NR, item->columns - j)};
    if (gemm_is_stored(f->b_dtype)) {
        gemm_stored w = {f->b_dtype, item->task->b, item->task->b_scales, item->task->k};
        float *packed = item->packed_b + j * HD_GEMM_KC;
        if (first_pass) { hd_gemm_pack_stored(&w, item->column + j, panel.columns, item->phase->k_begin + k, kc, packed); }
        panel.b = packed;
        panel.b_row = HD_GEMM_NR;
        return panel;
    }
    int64_t at = (item->phase->k_begin + k) * f->b_row + (item->column + j) * f->b_column;
    const char *src = gemm_address(item->task->b, f->b_dtype, at);
    if (reads_in_place(item, panel.columns)) {
        panel.b = (const float *)(const void *)src;
        panel.b_row = f->b_row;
        return panel;
    }
    float *packed = item->packed_b + j * HD_GEMM_KC;
    panel.b = packed;
    panel.b_row = HD_GEMM_NR;
    if (first_pass) { hd_gemm_pack_b(src, f->b_dtype, f->b_row, f->b_column, kc, panel.columns, packed); }
    return panel;
}

/* One k-block, k relative to the span.  B [k, n] is prefetched a k-block ahead, in rows as long as the item; B [n, k] a
 * panel ahead, because rows of a power-of-two stride share few sets of the second-level cache too. */
static void run_block(gemm_item *item, const gemm_item *next, int64_t k, int64_t kc, bool add)
{
    const int64_t panels_per_pass = first_pass_panels(item);
    const bool by_panel = item->phase->form->b_row == 1;
    if (!by_panel) { prefetch_after(item, next, k, 0, item->columns); }
    for (int64_t p = item->panel_begin; p < item->panel_end; p += panels_per_pass) {
        int64_t p_end = hd_min_i64(item->panel_end, p + panels_per_pass);
        for (int64_t j = 0; j < item->columns; j += HD_GEMM_NR) {
            bool first_pass = p == item->panel_begin;
            gemm_panel panel = get_panel(item, k, kc, j, first_pass);
            if (by_panel && first_pass) { prefetch_after(item, next, k, j, HD_GEMM_NR); }
            run_rows(item, p, p_end, k, kc, &panel, add);
        }
    }
}

/* Few rows and B [n, k]: weights go from memory through registers, column group after column group. */
static bool is_few(const gemm_item *item)
{
    return item->phase->form->b_row == 1 && !hd_dtype_is_packed(item->phase->form->b_dtype) && item->row_end - item->row_begin == item->task->rows &&
           item->task->rows <= HD_GEMM_FEW_MAX;
}

static void run_few(const gemm_item *item, const gemm_item *next, bool add)
{
    const hd_gemm_form *form = item->phase->form;
    const gemm_task *task = item->task;
    const hd_gemm_few_fn *kernels = gemm_few_kernels(form->b_dtype);
    hd_gemm_few f = {.span = span_of(item->phase, task), .sums_row = item->sums_row};
    int64_t column_bytes = form->b_column * gemm_element_bytes(form->b_dtype), k_begin = item->phase->k_begin;
    const char *b = gemm_address(task->b, form->b_dtype, k_begin) + item->column * column_bytes;
    const char *last = next != NULL ? gemm_address(next->task->b, form->b_dtype, k_begin) + next->column * column_bytes : b;
    for (int64_t j = 0; j < item->columns; j += HD_LANES) {
        f.columns = hd_min_i64(HD_LANES, item->columns - j);
        f.next = j + HD_LANES < item->columns ? HD_LANES * column_bytes : last - (b + j * column_bytes);
        f.sums = item->sums + j;
        if (form->b_dtype == HD_DTYPE_F8_E4M3) { f.scales = gemm_f8_scales(task->b_scales, task->k, item->column + j) + k_begin / HD_F8_BLOCK; }
        for (int64_t r = 0; r < HD_LANES; r++) { f.rows[r] = b + (j + hd_min_i64(r, f.columns - 1)) * column_bytes; }
        for (f.k = 0; f.k < f.span; f.k += HD_GEMM_KC) {
            f.kc = hd_min_i64(HD_GEMM_KC, f.span - f.k);
            f.a = task->packed + packed_at(task->rows, 1, 0, f.k / HD_GEMM_KC, f.kc);
            f.add = add || f.k > 0;
            kernels[task->rows](&f);
        }
    }
}

/* One or two rows and B [k, n] whose rows are wide enough: each row of weights is read once, as it lies. */
static bool is_few_columns(const gemm_item *item)
{
    const hd_gemm_form *f = item->phase->form;
    return f->b_column == 1 && !gemm_is_stored(f->b_dtype) && item->row_end - item->row_begin == item->task->rows &&
           item->task->rows <= 2 && item->columns % HD_GEMM_FEW_COLUMNS == 0;
}

static void run_few_columns(const gemm_item *item, bool add)
{
    const hd_gemm_form *form = item->phase->form;
    const gemm_task *task = item->task;
    int64_t span = span_of(item->phase, task), k_begin = item->phase->k_begin;
    hd_gemm_few_columns f = {.b_row_bytes = form->b_row * gemm_element_bytes(form->b_dtype), .sums_row = item->sums_row};
    for (int64_t k = 0; k < span; k += HD_GEMM_KC) {
        f.kc = hd_min_i64(HD_GEMM_KC, span - k);
        f.a = task->packed + packed_at(task->rows, 1, 0, k / HD_GEMM_KC, f.kc);
        f.add = add || k > 0;
        for (int64_t j = 0; j < item->columns; j += HD_GEMM_FEW_COLUMNS) {
            f.b = gemm_address(task->b, form->b_dtype, (k_begin + k) * form->b_row + item->column + j);
            f.sums = item->sums + j;
            gemm_few_columns[form->b_dtype == HD_DTYPE_BF16][task->rows](&f);
        }
    }
}

/* All k-blocks of the span.  The end fetches the beginning of `next`, the item after this one (NULL: none). */
static void run_blocks(gemm_item *item, const gemm_item *next, bool add)
{
    int64_t span = span_of(item->phase, item->task);
    if (is_few(item) && span > 0) {
        run_few(item, next, add);
        return;
    }
    if (span > 0 && is_few_columns(item)) {
        run_few_columns(item, add);
        return;
    }
    for (int64_t k = 0; k < span; k += HD_GEMM_KC) {
        run_block(item, next, k, hd_min_i64(HD_GEMM_KC, span - k), add || k > 0);
    }
    if (span == 0 && !add) {
        for (int64_t i = 0; i < item->row_end - item->row_begin; i++) {
            memset(item->sums + i * item->sums_row, 0, (size_t)item->columns * sizeof(float));
        }
    }
}

/* bf16 C: sums wait in an f32 tile and are rounded once, after the last k-block. */
static void run_rounded(gemm_item *item, const gemm_item *next, bool first, bool last)
{
    bool add = item->phase->form->accum == HD_ADD;
    int64_t rows = item->row_end - item->row_begin;
    if (first && add) {
        for (int64_t i = 0; i < rows; i++) {
            const void *c = item_c(item, i);
            HD_FOR_LANES (j, item->columns) {
                hd_store(item->sums + i * item->sums_row, HD_DTYPE_F32, j, item->columns,
                         hd_load(c, HD_DTYPE_BF16, j, item->columns));
            }
        }
    }
    run_blocks(item, next, add || !first);
    if (last) {
        for (int64_t i = 0; i < rows; i++) {
            void *c = item_c(item, i);
            HD_FOR_LANES (j, item->columns) {
                hd_store(c, HD_DTYPE_BF16, j, item->columns,
                         hd_load(item->sums + i * item->sums_row, HD_DTYPE_F32, j, item->columns));
            }
        }
    }
}

static const gemm_task *find_by_item(const gemm_phase *phase, int64_t item)
{
    int64_t low = 0, high = phase->n_tasks;
    while (high - low > 1) {
        int64_t mid = (low + high) / 2;
        if (phase->tasks[mid].first_item <= item) { low = mid; } else { high = mid; }
    }
    return &phase->tasks[low];
}

static gemm_item make_item(const gemm_phase *phase, int64_t i, float *thread_scratch)
{
    const hd_gemm_plan *plan = phase->plan;
    const gemm_task *task = find_by_item(phase, i);
    i -= task->first_item;
    int64_t part = i / task->column_items, column = i % task->column_items * plan->nc;
    gemm_item item = {.phase = phase, .task = task, .column = column, .packed_b = thread_scratch};
    item.columns = hd_min_i64(plan->nc, task->n - column);
    item.panel_begin = hd_gemm_panel_begin(task->n_panels, task->row_parts, part);
    item.panel_end = hd_gemm_panel_begin(task->n_panels, task->row_parts, part + 1);
    item.row_begin = hd_gemm_panel_begin(task->rows, task->n_panels, item.panel_begin);
    item.row_end = hd_gemm_panel_begin(task->rows, task->n_panels, item.panel_end);
    item.idle = prefetch_nothing(&item);
    switch (plan->tile) {
    case HD_GEMM_TILE_NONE:
        item.sums = (float *)(void *)item_c(&item, 0);
        item.sums_row = task->c_row;
        break;
    case HD_GEMM_TILE_ITEM:
        item.sums = thread_scratch + HD_GEMM_KC * plan->nc;
        item.sums_row = plan->nc;
        break;
    case HD_GEMM_TILE_CHUNK:
        item.sums = phase->scratch->chunk_tile + item.row_begin * task->n + column;
        item.sums_row = task->n;
        break;
    }
    return item;
}

static void run_item(gemm_item *item, const gemm_item *next)
{
    const gemm_phase *phase = item->phase;
    bool first = phase->k_begin == 0, last = phase->k_begin + phase->plan->k_span >= item->task->k;
    if (!first && span_of(phase, item->task) == 0) { return; }
    if (phase->plan->tile == HD_GEMM_TILE_NONE) {
        run_blocks(item, next, !first || phase->form->accum == HD_ADD);
    } else {
        run_rounded(item, next, first, last);
    }
}

/* One thread's share of the items: it takes the next from the common counter before it works on the one it has, so that it
 * knows what to prefetch. */
static void run_items(void *arg, int64_t i, int thread)
{
    gemm_phase *phase = arg;
    float *scratch = phase->scratch->threads + thread * phase->scratch->thread_floats;
    gemm_item item, next;
    (void)i;
    int64_t at = atomic_fetch_add_explicit(&phase->next_item, 1, memory_order_relaxed);
    if (at < phase->n_items) { next = make_item(phase, at, scratch); }
    while (at < phase->n_items) {
        item = next;
        at = atomic_fetch_add_explicit(&phase->next_item, 1, memory_order_relaxed);
        if (at < phase->n_items) { next = make_item(phase, at, scratch); }
        run_item(&item, at < phase->n_items ? &next : NULL);
    }
}

/* ---- phases ---- */

/* Costliest first, so that threads finish together.  Shell sort: no memory, few tasks. */
static void sort_tasks(gemm_task *tasks, int64_t n)
{
    for (int64_t gap = n / 2; gap > 0; gap /= 2) {
        for (int64_t i = gap; i < n; i++) {
            gemm_task t = tasks[i];
            int64_t j = i;
            for (; j >= gap && tasks[j - gap].rows * tasks[j - gap].k < t.rows * t.k; j -= gap) { tasks[j] = tasks[j - gap]; }
            tasks[j] = t;
        }
    }
}

/* Cuts the products into tasks; returns how many. */
static int64_t make_tasks(const hd_gemm_form *f, int64_t n_problems, const hd_gemm_batch *batch, gemm_task *tasks)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_problems; i++) {
        const hd_gemm_problem *p = &batch->problems[i];
        if (p->n == 0) { continue; }
        for (int64_t row = 0; row < p->m; row += batch->plan.chunk_rows) {
            int64_t rows = hd_min_i64(batch->plan.chunk_rows, p->m - row);
            tasks[n++] = (gemm_task){
                .a = gemm_address(p->a, f->a_dtype, row * f->a_row),
                .b = p->b,
                .b_scales = p->b_scales,
                .c = (char *)p->c + row * p->c_row * gemm_element_bytes(f->c_dtype),
                .rows = rows, .n = p->n, .k = p->k, .c_row = p->c_row,
                .n_panels = hd_gemm_panels(rows, HD_GEMM_MR),
                .column_items = hd_ceil_div(p->n, batch->plan.nc)};
        }
    }
    return n;
}

/* Takes as many tasks as fit into a phase and lays out its panels and items. */
static void make_phase(gemm_phase *phase, int64_t n_left, int n_threads)
{
    const gemm_scratch *s = phase->scratch;
    const hd_gemm_plan *plan = phase->plan;
    gemm_task *tasks = phase->tasks;
    int64_t used = 0, column_items = 0;
    for (; phase->n_tasks < n_left; phase->n_tasks++) {
        gemm_task *t = &tasks[phase->n_tasks];
        int64_t size = packed_size(t->rows, hd_min_i64(t->k, plan->k_span));
        if (phase->n_tasks > 0 && (used + size > s->packed_floats || plan->tile == HD_GEMM_TILE_CHUNK)) { break; }
        t->packed = s->packed + used;
        t->first_panel = phase->n_panels;
        phase->n_panels += t->n_panels;
        column_items += t->column_items;
        used += size;
    }
    for (int64_t i = 0; i < phase->n_tasks; i++) {
        tasks[i].row_parts = hd_gemm_plan_row_parts(column_items, tasks[i].n_panels, n_threads);
        tasks[i].first_item = phase->n_items;
        phase->n_items += tasks[i].row_parts * tasks[i].column_items;
    }
}

static void run_phase(gemm_phase *phase, int n_threads)
{
    int64_t k_max = 0, a_floats = 0, flops = 0;
    for (int64_t i = 0; i < phase->n_tasks; i++) {
        const gemm_task *t = &phase->tasks[i];
        k_max = hd_max_i64(k_max, t->k);
        a_floats += t->rows * hd_min_i64(t->k, phase->plan->k_span);
        flops += 2 * t->rows * t->n * hd_min_i64(t->k, phase->plan->k_span);
    }
    int packers = a_floats <= SERIAL_A_FLOATS ? 1 : n_threads, workers = flops <= SERIAL_FLOPS ? 1 : n_threads;
    do {
        hd_parallel_for(packers, phase->n_panels, pack_panel, phase);
        atomic_store_explicit(&phase->next_item, 0, memory_order_relaxed);
        hd_parallel_for(workers, workers, run_items, phase);
        phase->k_begin += phase->plan->k_span;
    } while (phase->k_begin < k_max);
}

void hd_gemm_run(hd_exec *ex, const hd_gemm_form *form, int64_t n_problems, hd_gemm_batch *batch)
{
    const gemm_scratch *s = batch->scratch;
    int64_t n_tasks = make_tasks(form, n_problems, batch, s->tasks);
    if (n_problems > 1) { sort_tasks(s->tasks, n_tasks); }
    for (int64_t done = 0; done < n_tasks;) {
        gemm_phase phase = {.form = form, .plan = &batch->plan, .scratch = s, .tasks = s->tasks + done};
        make_phase(&phase, n_tasks - done, ex->n_threads);
        run_phase(&phase, ex->n_threads);
        done += phase.n_tasks;
    }
}
