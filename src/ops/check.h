/* Argument checks of the public op functions: every tensor named, with what was found and what was wanted.
 *
 * A check collects the tensors of one call.  The first fault is kept and the rest of the call is skipped, so that an
 * op reads as a list of expectations:
 *
 *     hd_check c = hd_check_begin(ex, "rmsnorm_fwd", err);
 *     hd_check_in(&c, "x", x, HD_OP_ACT, HD_SHAPE(HD_ANY, HD_ANY));
 *     hd_check_out(&c, "y", y, HD_LIKE(x), HD_SHAPE(x->shape[0], x->shape[1]));
 *     hd_check_may_alias(&c, "y", "x");
 *     if (hd_check_end(&c) != HD_OK) { return c.st; }
 *     HD_RETURN_BACKEND(ex, rmsnorm_fwd, x, w, eps, y, rstd, err);
 *
 * hd_check_end verifies that no output shares memory with another tensor of the call; a pair named in
 * hd_check_may_alias may be the same elements (or apart), never shifted against each other. */
#ifndef HD_OPS_CHECK_H
#define HD_OPS_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/ops.h"

enum { HD_ANY = -1, HD_CHECK_TENSORS = 16, HD_CHECK_PAIRS = 4 };

/* Sets of dtypes.  On the ref backend a set that holds F32 also holds F64: gradient checks run in double there. */
typedef enum hd_op_dtypes {
    HD_OP_F32 = 1u << HD_DTYPE_F32,
    HD_OP_ACT = 1u << HD_DTYPE_F32 | 1u << HD_DTYPE_BF16,
    HD_OP_STORED = 1u << HD_DTYPE_F32 | 1u << HD_DTYPE_BF16 | 1u << HD_DTYPE_F8_E4M3 | 1u << HD_DTYPE_I8 | 1u << HD_DTYPE_I4, /* of weights */
    HD_OP_F64 = 1u << HD_DTYPE_F64,
    HD_OP_I32 = 1u << HD_DTYPE_I32
} hd_op_dtypes;

#define HD_LIKE(t) hd_dtype_set(t) /* the dtype of another tensor of the call, and no other */
#define HD_SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

typedef struct hd_check {
    hd_exec *ex;
    const char *op;
    hd_err *err;
    hd_status st;
    int n_tensors, n_pairs;
    struct { const char *name; const hd_tensor *t; bool output; } tensors[HD_CHECK_TENSORS];
    struct { const char *a, *b; } pairs[HD_CHECK_PAIRS];
} hd_check;

hd_check hd_check_begin(hd_exec *ex, const char *op, hd_err *err);

/* A tensor read, a tensor written.  HD_ANY in the shape accepts any length. */
void hd_check_in(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int n_dim, const int64_t *shape);
void hd_check_out(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int n_dim, const int64_t *shape);

/* A tensor of any shape, then others of the same shape. */
void hd_check_in_any(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes);
void hd_check_in_shaped(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, const hd_tensor *as);
void hd_check_out_any(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes);
void hd_check_out_shaped(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, const hd_tensor *as);

/* One value per row with any distance between them (a column of a matrix): the only place where stride 1 is not asked. */
void hd_check_in_column(hd_check *c, const char *name, const hd_tensor *t, unsigned dtypes, int64_t n);

/* w->value of the given shape; w->grad, f32 and of the shape of w->value. */
void hd_check_weight(hd_check *c, const hd_weight *w, int n_dim, const int64_t *shape);
void hd_check_weight_grad(hd_check *c, const hd_weight *w);

/* A weight that is only read, (out, in) or (experts, out, in): also F8_E4M3 and packed ones with their scales, and experts apart. */
void hd_check_weight_stored(hd_check *c, const hd_weight *w, int n_dim, const int64_t *shape);

/* A scalar condition; the message states found and wanted. */
void hd_check_that(hd_check *c, bool holds, const char *format, ...) HD_PRINTF(3, 4);

void hd_check_may_alias(hd_check *c, const char *a, const char *b);
hd_status hd_check_end(hd_check *c);

unsigned hd_dtype_set(const hd_tensor *t);

/* Whether f64 may stand where F32 is asked for: on the reference backend. */
bool hd_check_in_double(const hd_check *c);

/* Runs the backend's slot between enter and leave and returns its status. */
#define HD_RETURN_BACKEND(ex, op, ...)                                    \
    do {                                                                  \
        size_t backend_mark;                                              \
        hd_exec_enter((ex), &backend_mark);                               \
        hd_status backend_status = (ex)->ops->op((ex), __VA_ARGS__);      \
        hd_exec_leave((ex), backend_mark);                                \
        return backend_status;                                            \
    } while (0)

/* The same for an op that writes the gradient of weight w: the first contribution sets, later ones add. */
#define HD_RETURN_BACKEND_GRAD(ex, op, w, ...)                            \
    do {                                                                  \
        size_t backend_mark;                                              \
        hd_exec_enter((ex), &backend_mark);                               \
        hd_status backend_status = (ex)->ops->op((ex), __VA_ARGS__);      \
        hd_exec_leave((ex), backend_mark);                                \
        if (backend_status == HD_OK) { (w)->grad_accum = HD_ADD; }        \
        return backend_status;                                            \
    } while (0)

#endif
