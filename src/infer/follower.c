/* One session as its MTP module sees it.  See follower.h. */
#include "infer/follower.h"

#include <string.h>

hd_status hd_follower_new(const hd_model *model, hd_arena *arena, int64_t capacity, hd_follower *f, hd_err *err)
{
    *f = (hd_follower){0};
    hd_status st = hd_cache_new_mtp(model, arena, capacity, &f->cache, err);
    if (st != HD_OK) { return st; }
    return hd_tensor_new_2d(arena, model->options.dtype, HD_FOLLOWER_ROWS, model->dims.hidden_size, &f->hidden, err);
}

void hd_follower_feed(hd_follower *f, int32_t token)
{
    if (f->n > 0) { f->tokens[f->n - 1] = token; }
}

/* Every position that waits goes into the cache. */
static hd_status catch_up(hd_model *model, hd_exec *ex, hd_arena *step, hd_follower *f, hd_err *err)
{
    hd_extension e = {.cache = &f->cache, .tokens = f->tokens, .n = f->n};
    hd_tensor hidden = hd_tensor_slice(&f->hidden, 0, 0, f->n);
    hd_status st = f->n > 0 ? hd_model_follow(model, ex, step, &e, 1, &hidden, err) : HD_OK;
    if (st == HD_OK) { f->n = 0; }
    return st;
}

hd_status hd_follower_make_room(hd_model *model, hd_exec *ex, hd_arena *step, hd_follower *f, hd_err *err)
{
    return f->n + 2 > HD_FOLLOWER_ROWS ? catch_up(model, ex, step, f, err) : HD_OK;
}

/* Row n of what waits becomes row i of t. */
static hd_status keep_row(hd_exec *ex, hd_follower *f, const hd_tensor *t, int64_t i, hd_err *err)
{
    hd_tensor from = hd_tensor_slice(t, 0, i, 1), to = hd_tensor_slice(&f->hidden, 0, f->n, 1);
    hd_status st = hd_copy(ex, &from, &to, err);
    if (st == HD_OK) { f->n++; }
    return st;
}

hd_status hd_follower_chunk(hd_model *model, hd_exec *ex, hd_arena *step, hd_follower *f, const int32_t *tokens, const hd_tensor *hidden, hd_err *err)
{
    hd_status st;
    int64_t n = hidden->shape[0];
    if (tokens != NULL) { hd_follower_feed(f, tokens[0]); } /* a dry pass has none */
    HD_TRY(catch_up(model, ex, step, f, err));
    if (n > 1) {
        hd_extension e = {.cache = &f->cache, .tokens = tokens != NULL ? tokens + 1 : NULL, .n = n - 1};
        hd_tensor known = hd_tensor_slice(hidden, 0, 0, n - 1);
        HD_TRY(hd_model_follow(model, ex, step, &e, 1, &known, err));
    }
    HD_TRY(keep_row(ex, f, hidden, n - 1, err));
out:
    return st;
}

hd_status hd_follower_keep(hd_exec *ex, hd_follower *f, const hd_tensor *hidden, hd_err *err)
{
    hd_status st = keep_row(ex, f, hidden, 0, err);
    f->ahead = false;
    if (st != HD_OK || hidden->shape[0] < 2) { return st; }
    st = keep_row(ex, f, hidden, 1, err);
    if (st != HD_OK) { return st; }
    f->n--; /* until it is verified */
    f->ahead = true;
    return HD_OK;
}

void hd_follower_accept(hd_follower *f)
{
    hd_follower_feed(f, f->draft);
    f->n++;
    f->ahead = false;
}

void hd_follower_rewind(hd_follower *f, int64_t fed)
{
    f->ahead = false;
    if (f->cache.length > fed) { f->cache.length = fed; }
    f->n = fed - f->cache.length;
}

hd_status hd_follower_copy(hd_exec *ex, const hd_follower *from, hd_follower *to, hd_err *err)
{
    hd_status st = hd_cache_copy(ex, &from->cache, from->cache.length, &to->cache, err);
    if (st == HD_OK) { st = hd_copy(ex, &from->hidden, &to->hidden, err); }
    to->n = from->n;
    memcpy(to->tokens, from->tokens, sizeof to->tokens);
    to->ahead = false;
    return st;
}
