/* Embedding: argument checks.  The definition is in ref/embedding.c, the contract in ops.h. */
#include "ops/check.h"

hd_status hd_embedding_fwd(hd_exec *ex, const hd_tensor *ids, const hd_weight *w, hd_tensor *y, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "embedding_fwd", err);
    hd_check_weight(&c, w, HD_SHAPE(HD_ANY, HD_ANY));
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_out(&c, "y", y, HD_OP_ACT, HD_SHAPE(ids->shape[0], w->value.shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND(ex, embedding_fwd, ids, w, y, err);
}

hd_status hd_embedding_bwd(hd_exec *ex, const hd_tensor *ids, const hd_tensor *dy, hd_weight *w, hd_err *err)
{
    hd_check c = hd_check_begin(ex, "embedding_bwd", err);
    hd_check_weight(&c, w, HD_SHAPE(HD_ANY, HD_ANY));
    hd_check_weight_grad(&c, w);
    hd_check_in(&c, "ids", ids, HD_OP_I32, HD_SHAPE(HD_ANY));
    if (c.st != HD_OK) { return c.st; }
    hd_check_in(&c, "dy", dy, HD_OP_ACT, HD_SHAPE(ids->shape[0], w->value.shape[1]));
    if (hd_check_end(&c) != HD_OK) { return c.st; }
    HD_RETURN_BACKEND_GRAD(ex, embedding_bwd, w, ids, dy, w, err);
}
