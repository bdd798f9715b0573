/* `hadal diff A B`: two folders of tensors, value by value.  FP8 and fused experts are compared as the values they stand for. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "checkpoint/folder.h"
#include "checkpoint/listing.h"
#include "checkpoint/scan.h"
#include "hadal/commands.h"
#include "hadal/log.h"

enum { PIECE = 1 << 20 };

typedef struct side {
    const char *path;
    hd_folder folder;
    hd_source source;
    hd_listing list;
    float *values; /* PIECE */
} side;

typedef struct comparison {
    side a, b;
    const hd_run_hooks *hooks;
    int64_t n_equal, n_different, n_only;
} comparison;

/* What two tensors of one shape differ by.  NaNs with equal bits are equal; a NaN against a number is an infinite difference. */
typedef struct distance {
    int64_t n_different, first; /* elements; index of the first, row-major */
    double max_abs, max_rel;    /* |a - b|, and that over max(|a|, |b|); infinite where one of the two is not finite */
    float first_a, first_b;
} distance;

static hd_status open_side(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    side *s = arg;
    void *memory = NULL;
    HD_TRY(hd_folder_open(path, step, &s->folder, err));
    HD_TRY(hd_listing_make(&s->folder, INT64_MAX, false, &s->list, err));
    HD_TRY(hd_source_open(&s->folder, &s->source, err));
    st = hd_alloc(PIECE, sizeof *s->values, "values to compare", &memory, err);
    s->values = memory;
out:
    return st;
}

static void close_side(side *s)
{
    hd_free(s->values);
    hd_source_close(&s->source);
    hd_listing_free(&s->list);
    hd_folder_close(&s->folder);
}

static void measure(const float *a, const float *b, int64_t n, int64_t at, distance *d)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof a[i]) == 0) { continue; }
        double gap = fabs((double)a[i] - (double)b[i]), size = fmax(fabs((double)a[i]), fabs((double)b[i]));
        if (!(gap >= 0.0)) { gap = INFINITY; }
        double rel = isinf(gap) ? INFINITY : size > 0.0 ? gap / size : 0.0;
        if (d->n_different++ == 0) {
            d->first = at + i;
            d->first_a = a[i];
            d->first_b = b[i];
        }
        d->max_abs = gap > d->max_abs ? gap : d->max_abs;
        d->max_rel = rel > d->max_rel ? rel : d->max_rel;
    }
}

/* Integers and other dtypes without a value in f32: bits. */
static void measure_bits(const void *a, const void *b, int64_t n, size_t size, int64_t at, distance *d)
{
    for (int64_t i = 0; i < n; i++) {
        if (memcmp((const char *)a + (size_t)i * size, (const char *)b + (size_t)i * size, size) == 0) { continue; }
        if (d->n_different++ == 0) { d->first = at + i; }
    }
}

static hd_status compare_values(comparison *c, const hd_source_tensor *a, const hd_source_tensor *b, distance *d, hd_err *err)
{
    hd_rect rect = {0};
    bool floats = hd_source_is_float(a);
    hd_dtype as = floats ? HD_DTYPE_F32 : a->dtype;
    while (hd_rect_next(a, PIECE / 2, &rect)) { /* 8 bytes an element at most */
        hd_status st = hd_source_read(&c->a.source, a, rect, as, c->a.values, err);
        if (st == HD_OK) { st = hd_source_read(&c->b.source, b, rect, as, c->b.values, err); }
        if (st == HD_OK && c->hooks->stop_signal != NULL && *c->hooks->stop_signal != 0) {
            st = HD_FAIL(err, HD_E_SIGNAL, "stopped");
            if (err != NULL) { err->signal = (int)*c->hooks->stop_signal; }
        }
        if (st != HD_OK) { return st; }
        int64_t n = rect.n_row * rect.n_column, at = rect.row * a->columns + rect.column;
        if (floats) {
            measure(c->a.values, c->b.values, n, at, d);
        } else {
            measure_bits(c->a.values, c->b.values, n, hd_dtype_bytes(as), at, d);
        }
    }
    return HD_OK;
}

/* "(3, 17)" of a flat index. */
static void describe_index(const hd_source_tensor *t, int64_t flat, char *text, size_t size)
{
    int64_t index[HD_ST_MAX_DIMS];
    size_t at = 0;
    for (int i = t->n_dim - 1; i >= 0; i--) {
        index[i] = flat % t->shape[i];
        flat /= t->shape[i];
    }
    text[0] = '\0';
    for (int i = 0; i < t->n_dim && at < size - 24; i++) {
        at += (size_t)snprintf(text + at, size - at, "%s%" PRId64, i == 0 ? "(" : ", ", index[i]);
    }
    (void)snprintf(text + at, size - at, "%s", t->n_dim > 0 ? ")" : "");
}

static hd_status compare_rows(comparison *c, const hd_listed *a, const hd_listed *b, hd_err *err)
{
    char text_a[HD_ST_TEXT], text_b[HD_ST_TEXT], index[200];
    distance d = {0};
    const hd_source_tensor *x = &a->source, *y = &b->source;
    bool same_shape = x->n_dim == y->n_dim && memcmp(x->shape, y->shape, (size_t)x->n_dim * sizeof x->shape[0]) == 0;
    bool both_float = hd_source_is_float(x) && hd_source_is_float(y);
    if (!same_shape || (!both_float && x->dtype != y->dtype)) {
        hd_log(HD_LOG_RESULT, "%s: %s and %s cannot be compared", a->name, hd_st_describe(x->dtype, x->n_dim, x->shape, text_a),
               hd_st_describe(y->dtype, y->n_dim, y->shape, text_b));
        c->n_different++;
        return HD_OK;
    }
    hd_status st = compare_values(c, x, y, &d, err);
    if (st != HD_OK) { return st; }
    if (d.n_different == 0) {
        c->n_equal++;
        return HD_OK;
    }
    c->n_different++;
    describe_index(x, d.first, index, sizeof index);
    if (!both_float) {
        hd_log(HD_LOG_RESULT, "%s: %" PRId64 " of %" PRId64 " values differ, first at %s (%s)", a->name, d.n_different, x->rows * x->columns,
               index, hd_dtype_name(x->dtype));
        return HD_OK;
    }
    hd_log(HD_LOG_RESULT, "%s: %" PRId64 " of %" PRId64 " values differ, max abs %.6g, max rel %.6g, first at %s: %.9g and %.9g (%s, %s)", a->name,
           d.n_different, x->rows * x->columns, d.max_abs, d.max_rel, index, (double)d.first_a, (double)d.first_b, hd_dtype_name(x->dtype),
           hd_dtype_name(y->dtype));
    return HD_OK;
}

static void only_in(comparison *c, const char *name, const side *s)
{
    hd_log(HD_LOG_RESULT, "%s: only in %s", name, s->path);
    c->n_only++;
}

static hd_status compare_all(comparison *c, hd_err *err)
{
    int64_t i = 0, k = 0;
    const hd_listing *a = &c->a.list, *b = &c->b.list;
    while (i < a->n || k < b->n) {
        int order = i == a->n ? 1 : k == b->n ? -1 : hd_listing_compare(a->rows[i].name, b->rows[k].name);
        if (order < 0) {
            only_in(c, a->rows[i++].name, &c->a);
        } else if (order > 0) {
            only_in(c, b->rows[k++].name, &c->b);
        } else {
            hd_status st = compare_rows(c, &a->rows[i++], &b->rows[k++], err);
            if (st != HD_OK) { return st; }
        }
    }
    return HD_OK;
}

hd_status hd_cmd_diff(const char *a, const char *b, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st;
    comparison c = {.a.path = a, .b.path = b, .hooks = hooks};
    HD_TRY(hd_scan_path(a, open_side, &c.a, err));
    HD_TRY(hd_scan_path(b, open_side, &c.b, err));
    HD_TRY(compare_all(&c, err));
    hd_log(HD_LOG_RESULT, "%" PRId64 " tensors equal, %" PRId64 " different, %" PRId64 " only in one of the two", c.n_equal, c.n_different, c.n_only);
    if (c.n_different + c.n_only > 0) { st = HD_FAIL(err, HD_E_VERIFY, "%s and %s differ", a, b); }
out:
    close_side(&c.a);
    close_side(&c.b);
    return st;
}
