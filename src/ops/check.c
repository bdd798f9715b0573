/* Argument checks of the public op functions.  See check.h. */
#include "ops/check.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT = 128 };

hd_check hd_check_begin(hd_exec *ex, const char *op, hd_err *err)
{
    return (hd_check){.ex = ex, .op = op, .err = err, .st = HD_OK};
}

unsigned hd_dtype_set(const hd_tensor *t)
{
    return t != NULL && (unsigned)t->dtype < HD_DTYPE_COUNT ? 1u << t->dtype : 0u;
}

bool hd_check_in_double(const hd_check *c)
{
    return strcmp(c->ex->ops->name, "ref") == 0;
}

static unsigned accepted(const hd_check *c, unsigned dtypes)
{
    return (dtypes & HD_OP_F32) != 0 && hd_check_in_double(c) ? dtypes | HD_OP_F64 : dtypes;
}

/* "f32|bf16 (500, any)" */
static const char *describe_wanted(unsigned dtypes, int n_dim, const int64_t *shape, char *text)
{
    int used = 0;
    text[0] = '\0';
    for (int d = 0; d < HD_DTYPE_COUNT; d++) {
        if ((dtypes >> d & 1u) == 0) { continue; }
        if (used > 0) { text[used++] = '|'; }
        for (const char *p = hd_dtype_name((hd_dtype)d); *p != '\0'; p++) {
            text[used++] = (char)(*p >= 'A' && *p <= 'Z' ? *p + 32 : *p);
        }
        text[used] = '\0';
    }
    for (int d = 0; d < n_dim; d++) {
        const char *before = d == 0 ? " (" : ", ";
        used += shape[d] == HD_ANY ? snprintf(text + used, (size_t)(TEXT - used), "%sany", before)
                                   : snprintf(text + used, (size_t)(TEXT - used), "%s%" PRId64, before, shape[d]);
    }
    if (n_dim > 0) { (void)snprintf(text + used, (size_t)(TEXT - used), ")"); }
    return text;
}

static bool shape_matches(const hd_tensor *t, int n_dim, const int64_t *shape)
{
    if (t->n_dim != n_dim) { return false; }
    for (int d = 0; d < n_dim; d++) {
        if (shape[d] != HD_ANY && t->shape[d] != shape[d]) { return false; }
    }
    return true;
}

/* Rows of an output may not overlap each other. */
static bool nests(const hd_tensor *t)
{
    int64_t extent = 1; /* elements from the first to the last of the inner axes */
    for (int d = t->n_dim - 1; d >= 0; d--) {
        if (t->shape[d] > 1) {
            if (t->stride[d] < extent) { return false; }
            extent += (t->shape[d] - 1) * t->stride[d];
        }
    }
    return true;
}

static void remember(hd_check *c, const char *name, const hd_tensor *t, bool output)
{
    assert(c->n_tensors < HD_CHECK_TENSORS);
    c->tensors[c->n_tensors].name = name;
    c->tensors[c->n_tensors].t = t;
    c->tensors[c->n_tensors].output = output;
    c->n_tensors++;
}

static void check_memory(hd_check *c, const char *name, const hd_tensor *t)
{
    if (!c->ex->dry && t->data == NULL && hd_tensor_count(t) > 0) {
        char found[TEXT];
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s is %s without memory", c->op, name, hd_tensor_describe(t, found));
    }
}

static void check(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int n_dim, const int64_t *shape,
                  bool output)
{
    char found[TEXT], wanted[TEXT];
    if (c->st != HD_OK) { return; }
    dtypes = accepted(c, dtypes);
    if (t == NULL) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s is missing, want %s", c->op, name,
                        describe_wanted(dtypes, n_dim, shape, wanted));
        return;
    }
    if ((hd_dtype_set(t) & dtypes) == 0 || !shape_matches(t, n_dim, shape)) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s is %s, want %s", c->op, name, hd_tensor_describe(t, found),
                        describe_wanted(dtypes, n_dim, shape, wanted));
        return;
    }
    int last = n_dim - 1;
    if (t->shape[last] > 1 && t->stride[last] != 1) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s has stride %" PRId64 " on its last axis, want 1", c->op, name,
                        t->stride[last]);
        return;
    }
    if (output && !nests(t)) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: rows of the output %s overlap (stride %" PRId64 "), want them apart", c->op, name,
                        t->stride[0]);
        return;
    }
    check_memory(c, name, t);
    remember(c, name, t, output);
}

void hd_check_in(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int n_dim, const int64_t *shape)
{
    check(c, name, t, dtypes, n_dim, shape, false);
}

void hd_check_out(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int n_dim, const int64_t *shape)
{
    check(c, name, t, dtypes, n_dim, shape, true);
}

/* The shape of t itself, once n_dim is known to be in range. */
static void check_shaped(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, const hd_tensor *as,
                         bool output)
{
    if (c->st != HD_OK) { return; }
    if (as == NULL || as->n_dim < 1 || as->n_dim > HD_MAX_DIMS) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s has %d dimensions, want 1 to %d", c->op, name,
                        as == NULL ? 0 : as->n_dim, HD_MAX_DIMS);
        return;
    }
    check(c, name, t, dtypes, as->n_dim, as->shape, output);
}

void hd_check_in_any(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes)
{
    check_shaped(c, name, t, dtypes, t, false);
}

void hd_check_in_shaped(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, const hd_tensor *as)
{
    check_shaped(c, name, t, dtypes, as, false);
}

void hd_check_out_any(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes)
{
    check_shaped(c, name, t, dtypes, t, true);
}

void hd_check_out_shaped(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, const hd_tensor *as)
{
    check_shaped(c, name, t, dtypes, as, true);
}

void hd_check_in_column(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int64_t n)
{
    char found[TEXT], wanted[TEXT];
    if (c->st != HD_OK) { return; }
    dtypes = accepted(c, dtypes);
    if (t == NULL || (hd_dtype_set(t) & dtypes) == 0 || !shape_matches(t, 1, &n)) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s is %s, want %s", c->op, name,
                        t == NULL ? "missing" : hd_tensor_describe(t, found), describe_wanted(dtypes, 1, &n, wanted));
        return;
    }
    check_memory(c, name, t);
    remember(c, name, t, false);
}

void hd_check_weight(hd_check *c, const hd_weight *w, int n_dim, const int64_t *shape)
{
    check(c, "w", w == NULL ? NULL : &w->value, HD_OP_ACT, n_dim, shape, false);
}

static bool same_shape(const hd_tensor *a, const hd_tensor *b)
{
    return a->n_dim == b->n_dim && shape_matches(a, b->n_dim, b->shape);
}

/* Scales of the shape that the dtype asks for, and memory behind both or behind each expert. */
static void check_storage(hd_check *c, const hd_weight *w)
{
    char found[TEXT], wanted[TEXT];
    int n = w->value.n_dim;
    int64_t n_expert = n == 3 ? w->value.shape[0] : 0;
    hd_weight want = hd_weight_shape(w->value.dtype, n_expert, w->value.shape[n - 2], w->value.shape[n - 1]);
    bool packed = hd_dtype_is_packed(w->value.dtype);
    if (packed && w->value.shape[n - 1] % HD_PACKED_GROUP != 0) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: w is %s, want a multiple of %d columns", c->op, hd_tensor_describe(&w->value, found),
                        HD_PACKED_GROUP);
    } else if (w->layout != HD_LAYOUT_OUT_IN && want.scales.n_dim > 0) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: w is %s stored [in, out], want [out, in]", c->op, hd_tensor_describe(&w->value, found));
    } else if (want.scales.n_dim > 0 && (!same_shape(&w->scales, &want.scales) || w->scales.dtype != want.scales.dtype)) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: the scales of w are %s, want %s", c->op, hd_tensor_describe(&w->scales, found),
                        hd_tensor_describe(&want.scales, wanted));
    } else if ((w->round_inputs && !packed) || (w->fine_inputs && !(w->round_inputs && w->value.dtype == HD_DTYPE_I8))) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: inputs cannot be rounded for w of %s", c->op, hd_tensor_describe(&w->value, found));
    } else if (w->experts == NULL) {
        check_memory(c, "w", &w->value);
        if (c->st == HD_OK && want.scales.n_dim > 0) { check_memory(c, "the scales of w", &w->scales); }
    }
}

void hd_check_weight_stored(hd_check *c, const hd_weight *w, int n_dim, const int64_t *shape)
{
    char found[TEXT], wanted[TEXT];
    bool plain = w == NULL || ((hd_dtype_set(&w->value) & accepted(c, HD_OP_ACT)) != 0 && w->experts == NULL);
    if (c->st != HD_OK || plain) {
        hd_check_weight(c, w, n_dim, shape);
        if (c->st != HD_OK || w == NULL) { return; }
    } else if ((hd_dtype_set(&w->value) & HD_OP_STORED) == 0 || !shape_matches(&w->value, n_dim, shape)) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: w is %s, want %s", c->op, hd_tensor_describe(&w->value, found),
                        describe_wanted(HD_OP_STORED, n_dim, shape, wanted));
        return;
    }
    check_storage(c, w);
}

void hd_check_weight_grad(hd_check *c, const hd_weight *w)
{
    if (c->st != HD_OK) { return; }
    if (w->grad.n_dim == 0) {
        c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: the weight is frozen, want one with a gradient", c->op);
        return;
    }
    check(c, "w.grad", &w->grad, HD_OP_F32, w->value.n_dim, w->value.shape, true);
}

void hd_check_that(hd_check *c, bool holds, const char *format, ...)
{
    char text[256];
    va_list args;
    if (c->st != HD_OK || holds) { return; }
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s", c->op, text);
}

void hd_check_may_alias(hd_check *c, const char *a, const char *b)
{
    assert(c->n_pairs < HD_CHECK_PAIRS);
    c->pairs[c->n_pairs].a = a;
    c->pairs[c->n_pairs].b = b;
    c->n_pairs++;
}

/* ---- sharing of memory ------------------------------------------------------------------------------------------- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Greatest common divisor, in bytes, of all strides but the last. */
static uint64_t stride_gcd(const hd_tensor *t, uint64_t so_far)
{
    uint64_t size = hd_dtype_bytes(t->dtype);
    for (int d = 0; d < t->n_dim - 1; d++) {
        if (t->shape[d] > 1) { so_far = gcd(so_far, (uint64_t)t->stride[d] * size); }
    }
    return so_far;
}

static uint64_t width(const hd_tensor *t)
{
    int last = t->n_dim - 1;
    return (uint64_t)((t->shape[last] - 1) * (t->shape[last] > 1 ? t->stride[last] : 0) + 1) * hd_dtype_bytes(t->dtype);
}

static uint64_t extent(const hd_tensor *t)
{
    uint64_t bytes = 0;
    for (int d = 0; d < t->n_dim - 1; d++) {
        bytes += (uint64_t)((t->shape[d] - 1) * t->stride[d]) * hd_dtype_bytes(t->dtype);
    }
    return bytes + width(t);
}

/* Every row of a and b begins at its data pointer plus a multiple of g, so two views of one matrix are apart when their
 * column ranges are apart modulo g.  Never misses a shared byte. */
static bool apart(const hd_tensor *a, const hd_tensor *b)
{
    if (a->data == NULL || b->data == NULL || hd_tensor_count(a) == 0 || hd_tensor_count(b) == 0) { return true; }
    uintptr_t pa = (uintptr_t)a->data, pb = (uintptr_t)b->data;
    if (pa + extent(a) <= pb || pb + extent(b) <= pa) { return true; }
    uint64_t g = stride_gcd(b, stride_gcd(a, 0));
    if (g == 0) { return false; }
    uint64_t shift = pb >= pa ? (pb - pa) % g : (g - (pa - pb) % g) % g;
    return shift >= width(a) && shift + width(b) <= g;
}

static bool same_elements(const hd_tensor *a, const hd_tensor *b)
{
    if (a->data != b->data || a->dtype != b->dtype || a->n_dim != b->n_dim) { return false; }
    for (int d = 0; d < a->n_dim; d++) {
        if (a->shape[d] != b->shape[d] || (a->shape[d] > 1 && a->stride[d] != b->stride[d])) { return false; }
    }
    return true;
}

static bool may_alias(const hd_check *c, const char *a, const char *b)
{
    for (int i = 0; i < c->n_pairs; i++) {
        const char *p = c->pairs[i].a, *q = c->pairs[i].b;
        if ((strcmp(p, a) == 0 && strcmp(q, b) == 0) || (strcmp(p, b) == 0 && strcmp(q, a) == 0)) { return true; }
    }
    return false;
}

hd_status hd_check_end(hd_check *c)
{
    for (int i = 0; i < c->n_tensors && c->st == HD_OK; i++) {
        for (int j = i + 1; j < c->n_tensors && c->st == HD_OK; j++) {
            const hd_tensor *a = c->tensors[i].t, *b = c->tensors[j].t;
            const char *name_a = c->tensors[i].name, *name_b = c->tensors[j].name;
            if ((!c->tensors[i].output && !c->tensors[j].output) || apart(a, b)) { continue; }
            bool allowed = may_alias(c, name_a, name_b);
            if (allowed && same_elements(a, b)) { continue; }
            c->st = HD_FAIL(c->err, HD_E_INVALID, "%s: %s and %s share memory, want %s", c->op, name_a, name_b,
                            allowed ? "the same elements or none" : "separate memory");
        }
    }
    return c->st;
}
