/* Elementwise:  y = a + b,  y = x,  y = value. */
#include "ops/ref/element.h"
#include "ops/ref/ref.h"

hd_status hd_ref_add(hd_exec *ex, const hd_tensor *a, const hd_tensor *b, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < hd_tensor_count(y); i++) {
        ref_put(y, ref_at_flat(y, i), ref_get(a, ref_at_flat(a, i)) + ref_get(b, ref_at_flat(b, i)));
    }
    return HD_OK;
}

hd_status hd_ref_copy(hd_exec *ex, const hd_tensor *x, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < hd_tensor_count(y); i++) { ref_put(y, ref_at_flat(y, i), ref_get(x, ref_at_flat(x, i))); }
    return HD_OK;
}

hd_status hd_ref_fill(hd_exec *ex, double value, hd_tensor *y, hd_err *err)
{
    (void)err;
    if (ex->dry) { return HD_OK; }
    for (int64_t i = 0; i < hd_tensor_count(y); i++) { ref_put(y, ref_at_flat(y, i), value); }
    return HD_OK;
}
