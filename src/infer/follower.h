/* What the MTP module keeps of one session: its cache, the residual streams that it has not read yet, and the draft in the main cache.
 *
 * With `fed` tokens of a session behind the main model, the module's cache holds cache.length positions, and `hidden` the streams of the
 * n = fed - cache.length positions after them; tokens[i] follows position cache.length + i.  The token behind the last position is not
 * known before the next is fed.  After a rewind n may be 0: the stream that the next token pairs with is gone, one pass goes without a
 * draft, and the module's last position keeps the forgotten token.  Drafts may be worse for it; what is drafted is always verified. */
#ifndef HD_INFER_FOLLOWER_H
#define HD_INFER_FOLLOWER_H

#include "model/draft.h"

enum { HD_FOLLOWER_ROWS = 16 }; /* streams that wait at most: passes without drafts cost the module nothing until then */

typedef struct hd_follower {
    hd_cache cache;
    hd_tensor hidden;                  /* (HD_FOLLOWER_ROWS, D) act */
    int32_t tokens[HD_FOLLOWER_ROWS];
    int64_t n;
    bool ahead;                        /* the main cache ends with a draft that was not verified; its stream is row n of hidden */
    int32_t draft;
} hd_follower;

hd_status hd_follower_new(const hd_model *model, hd_arena *arena, int64_t capacity, hd_follower *f, hd_err *err) HD_CHECK_RESULT;

/* `token` is fed behind the last position: from now on that position can be read by the module. */
void hd_follower_feed(hd_follower *f, int32_t token);

/* Room for two streams more: reads all that wait when there is none. */
hd_status hd_follower_make_room(hd_model *model, hd_exec *ex, hd_arena *step, hd_follower *f, hd_err *err) HD_CHECK_RESULT;

/* The streams (n, D) of a chunk of n tokens, after the main pass over them. */
hd_status hd_follower_chunk(hd_model *model, hd_exec *ex, hd_arena *step, hd_follower *f, const int32_t *tokens, const hd_tensor *hidden,
                            hd_err *err) HD_CHECK_RESULT;

/* The streams (1 or 2, D) of a pass: of a token, and of the draft behind it. */
hd_status hd_follower_keep(hd_exec *ex, hd_follower *f, const hd_tensor *hidden, hd_err *err) HD_CHECK_RESULT;

/* The draft became the next token. */
void hd_follower_accept(hd_follower *f);

/* The session has `fed` tokens from now on, no more than before. */
void hd_follower_rewind(hd_follower *f, int64_t fed);

hd_status hd_follower_copy(hd_exec *ex, const hd_follower *from, hd_follower *to, hd_err *err) HD_CHECK_RESULT;

#endif
