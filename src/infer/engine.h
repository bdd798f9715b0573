/* The decoding engine: sessions over one loaded model.
 *
 * A session is a sequence of tokens and its latent cache.  Sessions step together: each gets, bit for bit, what it would get alone.
 * They can be forked (two continuations of one prompt) and rewound.  All memory is taken when the engine opens; a step allocates
 * host rows of a few bytes per token and nothing else outside the arenas.
 *
 *   hd_engine_open -> hd_engine_extend(prompt) -> { choose a token -> hd_engine_step } ... -> hd_engine_close
 *
 * Logits are of the last token fed to a session, f32 (V), on the host.  Steps add by lanes and prompts by chains (linear in ops.h): a token
 * that is fed the one way and the other has other roundings.
 *
 * Where the model has an MTP module, steps can draft: with the token that is fed goes the module's guess of the one after it, in one pass.
 * When the caller then feeds that very token its logits are there already.  They are the bits that a step would have given, so no text,
 * by whatever strategy it is chosen, depends on drafts; only the time does. */
#ifndef HD_INFER_ENGINE_H
#define HD_INFER_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "hadal/status.h"
#include "infer/pace.h"
#include "model/dims.h"

typedef struct hd_engine hd_engine;

typedef struct hd_engine_options {
    int64_t n_session, capacity; /* sessions, positions of each */
    int64_t chunk;               /* most tokens of one pass: longer prompts are fed in chunks */
    hd_drafting drafting;        /* ALWAYS: HD_E_CONFIG when the folder has no MTP module; AUTO: where it has one, and while it pays */

    /* Chooses the draft: what the caller would choose from these logits (V) as token number `position` of the session.  NULL: the
     * largest. */
    int64_t (*choose)(void *context, int64_t session, int64_t position, const float *logits);
    void *choose_context;
} hd_engine_options;

hd_drafting hd_drafting_from_config(const hd_config *config); /* mtp_speculation */

/* Opens the model of a folder (paths and memory rules as hd_loaded_open).  HD_E_CONFIG when capacity exceeds the model's
 * max_position_embeddings.  The caches' size is logged. */
hd_status hd_engine_open(const hd_config *config, const char *path, const hd_engine_options *options, hd_engine **out,
                         hd_err *err) HD_CHECK_RESULT;
void hd_engine_close(hd_engine *engine); /* accepts NULL */

const hd_dims *hd_engine_dims(const hd_engine *engine);
size_t hd_engine_cache_bytes(const hd_engine *engine);  /* of all sessions */
size_t hd_engine_memory_bytes(const hd_engine *engine); /* all arenas and mapped weights together */

/* Feeds n >= 1 tokens to a session, in chunks; logits (V) of the last.  HD_E_INVALID when they do not fit the capacity; the session is as
 * before after a failure. */
hd_status hd_engine_extend(hd_engine *engine, int64_t session, const int32_t *tokens, int64_t n, float *logits, hd_err *err) HD_CHECK_RESULT;

/* One token for each of n different sessions; logits (n, V). */
hd_status hd_engine_step(hd_engine *engine, const int64_t *sessions, const int32_t *tokens, int64_t n, float *logits,
                         hd_err *err) HD_CHECK_RESULT;

/* Whether `token` is the draft that the last step of the session carried.  If so it is fed and its logits (V) are written, without a
 * pass.  hd_engine_step does the same for each of its sessions; who steps several asks first, and chooses again for those that are ahead,
 * so that every pass carries all sessions. */
bool hd_engine_take_draft(hd_engine *engine, int64_t session, int32_t token, float *logits);

/* What drafting did so far. */
typedef struct hd_engine_drafts_seen {
    bool possible;               /* drafting was asked for, and there is a module */
    int64_t n_draft, n_accepted; /* verified drafts */
    double break_even;           /* the acceptance at which passes with and without drafts are equally fast (infer/pace.h); 0: not known */
} hd_engine_drafts_seen;

hd_engine_drafts_seen hd_engine_drafting(const hd_engine *engine);

void hd_engine_log_drafts(const hd_engine *engine); /* the same in a line; nothing when no draft was verified */

int64_t hd_engine_length(const hd_engine *engine, int64_t session);         /* tokens fed */
void hd_engine_rewind(hd_engine *engine, int64_t session, int64_t length);  /* forgets all tokens from `length` on */

/* Makes `to` a copy of `from`. */
hd_status hd_engine_fork(hd_engine *engine, int64_t from, int64_t to, hd_err *err) HD_CHECK_RESULT;

#endif
