/* The table of the reference backend. */
#include "base/checked.h"
#include "ops/ref/ref.h"

void hd_ops_install_ref(hd_ops *ops)
{
    ops->name = "ref";
    ops->fma_peak = NULL;
#define HD_REF_INSTALL(op) ops->op = hd_ref_##op;
    HD_OP_LIST(HD_REF_INSTALL)
#undef HD_REF_INSTALL
}

hd_status hd_ref_scratch(hd_exec *ex, int64_t n, double **out, hd_err *err)
{
    size_t bytes;
    void *memory = NULL;
    if (!hd_size_mul((size_t)n, sizeof **out, &bytes)) {
        return HD_FAIL(err, HD_E_NOMEM, "scratch: %lld doubles", (long long)n);
    }
    hd_status st = hd_arena_alloc(ex->scratch, bytes, &memory, err);
    *out = memory;
    return st;
}
