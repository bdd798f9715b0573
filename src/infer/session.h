/* Private to the engine: its sessions, and passes over them (step.c). */
#ifndef HD_INFER_SESSION_H
#define HD_INFER_SESSION_H

#include "infer/engine.h"
#include "infer/follower.h"
#include "infer/loaded.h"

typedef struct hd_session {
    hd_cache cache;
    hd_follower mtp;
    hd_pace *pace;     /* of the pass that carried the draft */
} hd_session;

/* One session in the step in work. */
typedef struct hd_turn {
    hd_session *of;
    int64_t row;       /* of the caller's lists */
    int32_t tokens[2]; /* the caller's, and the draft behind it */
    int64_t n_token;
    int64_t n_waiting; /* streams that the module reads to draft */
    int64_t before;    /* tokens in the cache */
} hd_turn;

struct hd_engine {
    hd_loaded loaded;
    hd_engine_options options; /* drafting: NEVER when there is no module */
    hd_session *sessions;      /* n_session */
    hd_turn *turns;            /* n_session */
    hd_extension *list;        /* n_session: of the pass in work */
    hd_pace *paces;            /* n_session: [n - 1] of passes over n sessions */
    float *guesses, *ahead;    /* (n_session, V): the module's logits in a step; those behind each session's draft */
    size_t cache_bytes;
};

static inline bool hd_engine_drafts(const hd_engine *e) { return e->options.drafting != HD_DRAFT_NEVER; }

/* Forgets a draft that nobody verified; all tokens from `length` on and the draft. */
void hd_session_drop_draft(hd_session *x);
void hd_session_rewind(hd_session *x, int64_t length);

/* Logits f32 (n, V) of rows of hidden, from the step arena. */
hd_status hd_engine_project(hd_engine *e, const hd_tensor *hidden, int64_t begin, int64_t n, hd_tensor *logits, hd_err *err) HD_CHECK_RESULT;

/* The first n turns, whose session and first token are set, go through one pass, with drafts where that can be; logits (rows, V) of their
 * first tokens.  After a failure every session is as before. */
hd_status hd_engine_pass(hd_engine *e, int64_t n, bool with_drafts, float *logits, hd_err *err) HD_CHECK_RESULT;

#endif
