/* One table row of an op, run on every backend.
 *
 * A test describes a call as a list of slots (tensors with names, dtypes, shapes and initial values) and a function that
 * makes the call.  check_op then
 *   1. runs ref with every float in f64: the values wanted;
 *   2. runs ref with the real dtypes, and cpu with each instruction set this machine has, and compares:
 *        |got - want| <= factor * scale + u(dtype) * |want|        per element, scale and factor given by the test;
 *   3. runs cpu with 1, 2 and 3 threads and asks for equal bits;
 *   4. finds all outputs filled with NaN before (0xFF bytes), all memory around and between rows untouched after, and all
 *      inputs unchanged;
 *   5. repeats the call with every permitted alias and asks for equal bits;
 *   6. makes the call dry and asks for the same scratch;
 *   7. breaks every dtype, shape and aliasing rule in turn and asks for an error that names found and wanted and leaves
 *      the outputs alone.
 * fd_check compares a gradient with central differences of a loss, in double. */
#ifndef HD_TESTS_OPS_HARNESS_H
#define HD_TESTS_OPS_HARNESS_H

#include "support/test.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "ops/check.h"
#include "ops/ops.h"

enum { MAX_SLOTS = 16, RED_ZONE = 256, CASE_NAME = 160 };

typedef enum role { IN, OUT, INOUT } role;

typedef struct slot {
    const char *name;
    role role;
    hd_dtype dtype;
    int n_dim;
    int64_t shape[HD_MAX_DIMS], pad; /* pad: elements between rows */
    int alias;                       /* the slot it may share elements with, -1: none */
    unsigned free_axes;              /* axes whose length nothing else determines */
    bool column;                     /* 1-D with stride 1 + pad */
    double factor;
    double *values, *want, *scale; /* scale NULL: |want| */
    hd_tensor t;
    unsigned char *memory, *before;  /* before: the bytes as they were placed */
    hd_tensor placed;                /* what t was then, when it had its own dtype; n_dim 0 otherwise */
    size_t bytes;
} slot;

struct opcase;
typedef hd_status (*op_run)(hd_exec *ex, struct opcase *c, hd_err *err);

typedef struct opcase {
    char name[CASE_NAME];
    op_run run;
    const void *params;
    hd_accum accum;
    int n;
    slot s[MAX_SLOTS];
} opcase;

/* ---- slots ------------------------------------------------------------------------------------------------------------- */

static inline int64_t slot_count(const slot *s)
{
    int64_t n = 1;
    for (int d = 0; d < s->n_dim; d++) { n *= s->shape[d]; }
    return n;
}

static inline slot *add_slot(opcase *c, const char *name, role r, hd_dtype dtype, int n_dim, const int64_t *shape)
{
    assert_true(c->n < MAX_SLOTS);
    slot *s = &c->s[c->n++];
    *s = (slot){.name = name, .role = r, .dtype = dtype, .n_dim = n_dim, .alias = -1};
    for (int d = 0; d < n_dim; d++) { s->shape[d] = shape[d]; }
    size_t n = (size_t)slot_count(s) + 1;
    s->values = calloc(n, sizeof(double));
    s->want = calloc(n, sizeof(double));
    assert_non_null(s->values);
    assert_non_null(s->want);
    return s;
}

static inline double round_to(hd_dtype dtype, double v)
{
    if (dtype == HD_DTYPE_BF16) { return (double)hd_bf16_to_f32(hd_f32_to_bf16((float)v)); }
    return dtype == HD_DTYPE_F32 ? (double)(float)v : v;
}

/* Normal values times scale, as the slot's dtype holds them. */
static inline slot *normal(opcase *c, slot *s, double scale)
{
    char name[CASE_NAME + 32];
    (void)snprintf(name, sizeof name, "%s/%s", c->name, s->name);
    hd_gen_normal_f64(name, scale, s->values, slot_count(s));
    for (int64_t i = 0; i < slot_count(s); i++) { s->values[i] = round_to(s->dtype, s->values[i]); }
    return s;
}

static inline void set_ints(slot *s, const int32_t *ids)
{
    for (int64_t i = 0; i < slot_count(s); i++) { s->values[i] = (double)ids[i]; }
}

static inline void scale_alloc(slot *s)
{
    if (s->scale == NULL) { s->scale = calloc((size_t)slot_count(s) + 1, sizeof(double)); }
    assert_non_null(s->scale);
}

static inline slot *find_slot(opcase *c, const char *name)
{
    for (int i = 0; i < c->n; i++) {
        if (strcmp(c->s[i].name, name) == 0) { return &c->s[i]; }
    }
    fail_msg("no slot %s", name);
    return NULL;
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static inline int64_t flat_offset(const hd_tensor *t, int64_t i)
{
    int64_t offset = 0;
    if (t->n_dim == 1) { return i * t->stride[0]; }
    if (t->n_dim == 2 && t->stride[0] == t->shape[1]) { return i; }
    for (int d = t->n_dim - 1; d >= 0; d--) {
        offset += i % t->shape[d] * t->stride[d];
        i /= t->shape[d];
    }
    return offset;
}

static inline double element_get(const hd_tensor *t, int64_t i)
{
    int64_t o = flat_offset(t, i);
    switch (t->dtype) {
    case HD_DTYPE_F32: return (double)((const float *)t->data)[o];
    case HD_DTYPE_BF16: return (double)hd_bf16_to_f32(((const uint16_t *)t->data)[o]);
    case HD_DTYPE_I32: return (double)((const int32_t *)t->data)[o];
    default: return ((const double *)t->data)[o];
    }
}

static inline void element_set(hd_tensor *t, int64_t i, double v)
{
    int64_t o = flat_offset(t, i);
    switch (t->dtype) {
    case HD_DTYPE_F32: ((float *)t->data)[o] = (float)v; break;
    case HD_DTYPE_BF16: ((uint16_t *)t->data)[o] = hd_f32_to_bf16((float)v); break;
    case HD_DTYPE_I32: ((int32_t *)t->data)[o] = (int32_t)v; break;
    default: ((double *)t->data)[o] = v; break;
    }
}

/* Still the 0xFF bytes of before the call. */
static inline bool untouched(const hd_tensor *t, int64_t i)
{
    size_t size = hd_dtype_bytes(t->dtype);
    const unsigned char *p = (const unsigned char *)t->data + (size_t)flat_offset(t, i) * size;
    for (size_t b = 0; b < size; b++) {
        if (p[b] != 0xFF) { return false; }
    }
    return true;
}

static inline void slot_release(slot *s)
{
    free(s->memory);
    free(s->before);
    s->memory = s->before = NULL;
}

/* Memory for the slot as `dtype`, red zones and gaps 0xFF, values in place (outputs stay 0xFF). */
static inline void slot_place(slot *s, hd_dtype dtype)
{
    slot_release(s);
    hd_tensor t = {.dtype = dtype, .n_dim = s->n_dim};
    int64_t stride = 1;
    for (int d = s->n_dim - 1; d >= 0; d--) {
        t.shape[d] = t.global_shape[d] = s->shape[d];
        t.stride[d] = stride;
        stride *= s->shape[d] > 0 ? s->shape[d] : 1;
        if (d == s->n_dim - 1 && s->n_dim > 1) { stride += s->pad; }
    }
    if (s->column) {
        t.stride[0] = 1 + s->pad;
        stride = s->shape[0] * t.stride[0] + 1;
    }
    s->bytes = (size_t)stride * hd_dtype_bytes(dtype) + 2 * RED_ZONE;
    s->memory = malloc(s->bytes);
    s->before = malloc(s->bytes);
    assert_non_null(s->memory);
    assert_non_null(s->before);
    memset(s->memory, 0xFF, s->bytes);
    t.data = s->memory + RED_ZONE;
    s->t = t;
    if (s->role != OUT) {
        for (int64_t i = 0; i < slot_count(s); i++) { element_set(&s->t, i, s->values[i]); }
    }
    memcpy(s->before, s->memory, s->bytes);
}

static inline bool is_float(hd_dtype dtype)
{
    return dtype == HD_DTYPE_F32 || dtype == HD_DTYPE_BF16;
}

/* Everything as before the call.  Values may change between placements in double only. */
static inline void place_all(opcase *c, bool in_double)
{
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        if (!in_double && s->placed.n_dim > 0) {
            memcpy(s->memory, s->before, s->bytes);
            s->t = s->placed;
            continue;
        }
        slot_place(s, in_double && is_float(s->dtype) ? HD_DTYPE_F64 : s->dtype);
        s->placed = in_double ? (hd_tensor){0} : s->t;
    }
}

static inline void opcase_free(opcase *c)
{
    for (int i = 0; i < c->n; i++) {
        slot_release(&c->s[i]);
        free(c->s[i].values);
        free(c->s[i].want);
        free(c->s[i].scale);
    }
    c->n = 0;
}

/* Inputs as they were, and nothing written beside an element. */
static inline void check_untouched_memory(const char *what, const slot *s)
{
    if (s->role == IN) {
        if (memcmp(s->memory, s->before, s->bytes) != 0) { fail_msg("%s: input %s was written", what, s->name); }
        return;
    }
    unsigned char *copy = malloc(s->bytes);
    assert_non_null(copy);
    memcpy(copy, s->memory, s->bytes);
    size_t size = hd_dtype_bytes(s->t.dtype);
    for (int64_t i = 0; i < slot_count(s); i++) { memset(copy + RED_ZONE + (size_t)flat_offset(&s->t, i) * size, 0xFF, size); }
    for (size_t b = 0; b < s->bytes; b++) {
        if (copy[b] != 0xFF) { fail_msg("%s: byte %zu beside %s was written", what, b, s->name); }
    }
    free(copy);
}

/* ---- backends ---------------------------------------------------------------------------------------------------------- */

static const char *const isa_forces[] = {"isa=avx512", "isa=avx2", "isa=base"};
enum { N_ISAS = 3 };

static inline hd_arena *test_scratch(void)
{
    static hd_arena arena;
    hd_err err;
    if (arena.base == NULL) { assert_int_equal(hd_arena_open(&arena, "scratch", (size_t)1 << 30, &err), HD_OK); }
    arena.high = arena.used = 0;
    return &arena;
}

static inline hd_exec ref_exec(void)
{
    static hd_ops ops;
    hd_ops_install_ref(&ops);
    return (hd_exec){.ops = &ops, .scratch = test_scratch(), .n_threads = 1};
}

/* False when the machine lacks this instruction set. */
static inline bool cpu_exec(const char *force, int n_threads, hd_exec *ex)
{
    hd_err err;
    setenv("HADAL_FORCE", force, 1);
    hd_status st = hd_exec_init(ex, test_scratch(), n_threads, false, &err);
    unsetenv("HADAL_FORCE");
    return st == HD_OK;
}

/* Every cpu backend of this machine, or the last `index` past the end: returns false. */
static inline bool next_cpu(int *index, int n_threads, hd_exec *ex)
{
    for (; *index < N_ISAS; (*index)++) {
        if (cpu_exec(isa_forces[*index], n_threads, ex)) {
            (*index)++;
            return true;
        }
    }
    return false;
}

static inline void run_case(opcase *c, hd_exec *ex, const char *what)
{
    hd_err err = {0};
    if (c->run(ex, c, &err) != HD_OK) { fail_msg("%s: %s", what, err.msg); }
    for (int i = 0; i < c->n; i++) { check_untouched_memory(what, &c->s[i]); }
}

/* ---- comparison: NaN fails ---------------------------------------------------------------------------------------------- */

typedef struct ratio_row { char key[80]; double worst; char where[CASE_NAME]; } ratio_row;
enum { MAX_RATIOS = 160 };
static ratio_row ratios[MAX_RATIOS];
static int n_ratios;

static inline void note_ratio(const char *backend, const char *op, const slot *s, double ratio, const char *where)
{
    char key[80];
    (void)snprintf(key, sizeof key, "%s %s %s %s", op, backend, s->name, hd_dtype_name(s->dtype));
    int i = 0;
    while (i < n_ratios && strcmp(ratios[i].key, key) != 0) { i++; }
    if (i == n_ratios) {
        if (n_ratios == MAX_RATIOS) { return; }
        memcpy(ratios[n_ratios].key, key, sizeof key);
        ratios[n_ratios++].worst = -1.0;
    }
    if (ratio > ratios[i].worst) {
        ratios[i].worst = ratio;
        (void)snprintf(ratios[i].where, sizeof ratios[i].where, "%s", where);
    }
}

static inline void print_ratios(void)
{
    for (int i = 0; i < n_ratios; i++) {
        print_message("  %-44s observed/bound = %-8.3g (%s)\n", ratios[i].key, ratios[i].worst, ratios[i].where);
    }
    n_ratios = 0;
}

static inline double unit_of(hd_dtype dtype)
{
    switch (dtype) {
    case HD_DTYPE_F32: return HD_U_F32;
    case HD_DTYPE_BF16: return HD_U_BF16;
    case HD_DTYPE_F64: return 4 * HD_U_F64;
    default: return 0.0;
    }
}

static inline bool same_infinity(double a, double b)
{
    return a == b && !hd_finite_f64(a);
}

static inline void compare_slot(const opcase *c, const char *backend, const char *op, const slot *s)
{
    double worst = 0.0;
    for (int64_t i = 0; i < slot_count(s); i++) {
        double got = element_get(&s->t, i), want = s->want[i];
        bool left_alone = s->role == OUT && s->dtype != HD_DTYPE_I32 && want != want;
        if (left_alone && untouched(&s->t, i)) { continue; } /* want is NaN only where ref wrote nothing */
        if (same_infinity(got, want) || got == want) { continue; }
        double bound = s->factor * (s->scale != NULL ? s->scale[i] : fabs(want)) + unit_of(s->dtype) * fabs(want);
        if (is_float(s->dtype)) { bound += 1e-37; } /* below the normal range nothing is promised */
        double ratio = hd_finite_f64(got) && hd_finite_f64(want) ? fabs(got - want) / bound : HUGE_VAL;
        if (!(ratio <= 1.0)) {
            fail_msg("%s %s: %s[%" PRId64 "] = %.9g, want %.9g, off by %.3g, bound %.3g", c->name, backend, s->name, i, got,
                     want, fabs(got - want), bound);
        }
        if (ratio > worst) { worst = ratio; }
    }
    note_ratio(backend, op, s, worst, c->name);
}

static inline void compare_case(const opcase *c, const char *backend, const char *op)
{
    for (int i = 0; i < c->n; i++) {
        if (c->s[i].role != IN) { compare_slot(c, backend, op, &c->s[i]); }
    }
}

/* ---- what the reference says --------------------------------------------------------------------------------------------- */

static inline void run_reference(opcase *c)
{
    hd_exec ex = ref_exec();
    place_all(c, true);
    run_case(c, &ex, c->name);
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        if (s->role == IN) { continue; }
        for (int64_t j = 0; j < slot_count(s); j++) { s->want[j] = element_get(&s->t, j); }
    }
}

/* For ops that are sums of products: scale = the same sums over absolute values. */
static inline void scale_by_absolutes(opcase *c)
{
    hd_exec ex = ref_exec();
    place_all(c, true);
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        if (!is_float(s->dtype) || s->role == OUT) { continue; }
        for (int64_t j = 0; j < slot_count(s); j++) { element_set(&s->t, j, fabs(s->values[j])); }
        memcpy(s->before, s->memory, s->bytes);
    }
    run_case(c, &ex, c->name);
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        if (s->role == IN) { continue; }
        scale_alloc(s);
        for (int64_t j = 0; j < slot_count(s); j++) { s->scale[j] = fabs(element_get(&s->t, j)); }
    }
}

/* ---- 3, 5, 6: threads, aliases, dry -------------------------------------------------------------------------------------- */

static inline void keep_bits(opcase *c, unsigned char **kept)
{
    for (int i = 0; i < c->n; i++) {
        kept[i] = malloc(c->s[i].bytes);
        assert_non_null(kept[i]);
        memcpy(kept[i], c->s[i].memory, c->s[i].bytes);
    }
}

static inline void free_bits(opcase *c, unsigned char **kept)
{
    for (int i = 0; i < c->n; i++) { free(kept[i]); }
}

static inline void assert_same_bits(const opcase *c, unsigned char *const *kept, const char *what)
{
    for (int i = 0; i < c->n; i++) {
        const slot *s = &c->s[i];
        if (s->role != IN && memcmp(kept[i], s->memory, s->bytes) != 0) {
            fail_msg("%s: %s has other bits %s", c->name, s->name, what);
        }
    }
}

static inline void check_threads(opcase *c, const char *force)
{
    unsigned char *kept[MAX_SLOTS];
    hd_exec ex;
    keep_bits(c, kept);
    for (int threads = 2; threads <= 3; threads++) {
        assert_true(cpu_exec(force, threads, &ex));
        place_all(c, false);
        run_case(c, &ex, c->name);
        assert_same_bits(c, kept, threads == 2 ? "with 2 threads" : "with 3 threads");
    }
    free_bits(c, kept);
}

/* The outputs that may lie on an input do; their elements must come out with the same bits. */
static inline void check_aliases(opcase *c, hd_exec *ex)
{
    unsigned char *kept[MAX_SLOTS];
    hd_err err = {0};
    bool any = false;
    keep_bits(c, kept);
    place_all(c, false);
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        if (s->role != OUT || s->alias < 0 || c->s[s->alias].dtype != s->dtype || c->s[s->alias].pad != s->pad) { continue; }
        s->t = c->s[s->alias].t;
        any = true;
    }
    if (any && c->run(ex, c, &err) != HD_OK) { fail_msg("%s aliased: %s", c->name, err.msg); }
    for (int i = 0; any && i < c->n; i++) {
        slot *s = &c->s[i];
        size_t size = hd_dtype_bytes(s->dtype);
        for (int64_t j = 0; s->role == OUT && j < slot_count(s); j++) {
            size_t at = (size_t)flat_offset(&s->t, j) * size;
            bool written = !(is_float(s->dtype) && s->want[j] != s->want[j]);
            if (written && memcmp((char *)s->t.data + at, kept[i] + RED_ZONE + at, size) != 0) {
                fail_msg("%s: %s[%" PRId64 "] has other bits when it lies on %s", c->name, s->name, j,
                         s->alias >= 0 ? c->s[s->alias].name : "its own");
            }
        }
    }
    free_bits(c, kept);
}

/* A dry call takes exactly the scratch of a real one. */
static inline void check_dry(opcase *c, hd_exec *ex)
{
    hd_arena dry;
    hd_err err = {0};
    size_t used = ex->scratch->high;
    hd_exec dry_ex = *ex;
    hd_arena_open_dry(&dry, "scratch");
    dry_ex.scratch = &dry;
    dry_ex.dry = true;
    for (int i = 0; i < c->n; i++) { c->s[i].t.data = NULL; }
    if (c->run(&dry_ex, c, &err) != HD_OK) { fail_msg("%s dry: %s", c->name, err.msg); }
    if (dry.high != used) { fail_msg("%s: dry scratch %zu, real %zu bytes", c->name, dry.high, used); }
    assert_int_equal(dry.used, 0);
}

/* ---- 7: refusals ---------------------------------------------------------------------------------------------------------- */

static inline void assert_refused(opcase *c, hd_exec *ex, const char *slot_name, const char *text)
{
    hd_err err = {0};
    hd_status st = c->run(ex, c, &err);
    if (st != HD_E_INVALID || err.code != st) { fail_msg("%s with a broken %s: status %d", c->name, slot_name, (int)st); }
    if (strstr(err.msg, text) == NULL || (slot_name[0] != '\0' && strstr(err.msg, slot_name) == NULL)) {
        fail_msg("%s: message \"%s\" lacks \"%s\" or \"%s\"", c->name, err.msg, text, slot_name);
    }
    for (int i = 0; i < c->n; i++) {
        if (memcmp(c->s[i].memory, c->s[i].before, c->s[i].bytes) != 0) {
            fail_msg("%s: %s written although %s", c->name, c->s[i].name, err.msg);
        }
    }
}

static inline bool share_allowed(const opcase *c, int i, int j)
{
    return c->s[i].alias == j || c->s[j].alias == i;
}

static inline void check_refusals(opcase *c, hd_exec *ex)
{
    place_all(c, false);
    for (int i = 0; i < c->n; i++) {
        slot *s = &c->s[i];
        hd_tensor good = s->t;
        s->t.dtype = HD_DTYPE_I64;
        assert_refused(c, ex, s->name, "i64");
        s->t = good;
        for (int d = 0; d < s->n_dim; d++) {
            if ((s->free_axes >> d & 1u) != 0 || slot_count(s) == 0) { continue; } /* 0 tokens times anything is 0 */
            s->t.shape[d]++;
            assert_refused(c, ex, "", "want");
            s->t = good;
        }
        s->t.n_dim++;
        assert_refused(c, ex, "", "want");
        s->t = good;
        for (int j = 0; j < c->n; j++) {
            bool writes = s->role != IN || c->s[j].role != IN;
            if (i == j || !writes || share_allowed(c, i, j) || slot_count(s) == 0 || slot_count(&c->s[j]) == 0) { continue; }
            s->t.data = c->s[j].t.data;
            assert_refused(c, ex, s->name, "share memory");
            s->t = good;
        }
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------ */

/* `c` describes the call, with factor and scale of each output set (run_reference must have run before a test computes
 * scales from want).  Frees it. */
static inline void check_op(opcase *c, const char *op)
{
    hd_exec ex = ref_exec();
    place_all(c, false);
    run_case(c, &ex, c->name);
    compare_case(c, "ref", op);
    check_aliases(c, &ex);
    check_refusals(c, &ex);
    ex = ref_exec();
    place_all(c, false);
    run_case(c, &ex, c->name);
    check_dry(c, &ex);
    for (int isa = 0; next_cpu(&isa, 1, &ex);) {
        place_all(c, false);
        run_case(c, &ex, c->name);
        compare_case(c, ex.ops->name, op);
        check_threads(c, isa_forces[isa - 1]);
        assert_true(cpu_exec(isa_forces[isa - 1], 1, &ex));
        place_all(c, false);
        run_case(c, &ex, c->name);
        check_dry(c, &ex);
        place_all(c, false);
        run_case(c, &ex, c->name);
        check_aliases(c, &ex);
    }
    opcase_free(c);
}

/* For sums of products: the reference, then scale by absolutes with `factor` on every output, then all checks. */
static inline void check_sum_op(opcase *c, const char *op, double factor)
{
    run_reference(c);
    scale_by_absolutes(c);
    for (int i = 0; i < c->n; i++) { c->s[i].factor = factor; }
    check_op(c, op);
}

/* ---- random rows: a few in an ordinary run, many under HADAL_SOAK ------------------------------------------------------------- */

typedef struct draw { hd_rng rng; uint64_t next; } draw;

static inline draw draw_begin(const char *what, int64_t i)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s %" PRId64, what, i);
    return (draw){.rng = hd_test_rng(name)};
}

static inline int64_t draw_below(draw *d, int64_t n)
{
    return (int64_t)hd_rng_below(d->rng, (uint64_t)n, d->next++);
}

/* Mostly small, now and then past the usual tiles. */
static inline int64_t draw_length(draw *d, int64_t limit)
{
    return draw_below(d, 1 + draw_below(d, limit));
}

static inline hd_dtype draw_act(draw *d)
{
    return draw_below(d, 2) == 0 ? HD_DTYPE_F32 : HD_DTYPE_BF16;
}

/* ---- finite differences ---------------------------------------------------------------------------------------------------- */

typedef double (*fd_loss)(void *ctx);

/* A contiguous f64 tensor over memory of the test, filled with normal values. */
static inline hd_tensor f64_tensor(double *memory, int n_dim, const int64_t *shape)
{
    hd_tensor t = {.data = memory, .dtype = HD_DTYPE_F64, .n_dim = n_dim};
    int64_t stride = 1;
    for (int d = n_dim - 1; d >= 0; d--) {
        t.shape[d] = t.global_shape[d] = shape[d];
        t.stride[d] = stride;
        stride *= shape[d];
    }
    return t;
}

static inline hd_tensor i32_tensor(int32_t *memory, int n_dim, const int64_t *shape)
{
    hd_tensor t = f64_tensor(NULL, n_dim, shape);
    t.data = memory;
    t.dtype = HD_DTYPE_I32;
    return t;
}

static inline double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) { sum += a[i] * b[i]; }
    return sum;
}

/* grad_i against (loss(x_i + h) - loss(x_i - h)) / 2h for every element, relative to the largest gradient. */
static inline void fd_check(const char *what, fd_loss loss, void *ctx, double *x, const double *grad, int64_t n)
{
    const double h = 6e-6, tolerance = 1e-6;
    double largest = 1e-3, worst = 0.0;
    for (int64_t i = 0; i < n; i++) { largest = fabs(grad[i]) > largest ? fabs(grad[i]) : largest; }
    for (int64_t i = 0; i < n; i++) {
        double saved = x[i];
        x[i] = saved + h;
        double above = loss(ctx);
        x[i] = saved - h;
        double below = loss(ctx);
        x[i] = saved;
        double slope = (above - below) / (2.0 * h), ratio = fabs(slope - grad[i]) / (tolerance * largest);
        if (!(ratio <= 1.0) || !hd_finite_f64(grad[i])) {
            fail_msg("%s[%" PRId64 "]: gradient %.12g, difference quotient %.12g", what, i, grad[i], slope);
        }
        worst = ratio > worst ? ratio : worst;
    }
    print_message("  %-40s finite differences: observed/bound = %.3g (n %" PRId64 ")\n", what, worst, n);
}

#endif
