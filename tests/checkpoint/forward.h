/* A small model from a folder, in memory, streamed or mapped, and what it says about a few tokens: for tests that the three agree. */
#ifndef HD_TESTS_CHECKPOINT_FORWARD_H
#define HD_TESTS_CHECKPOINT_FORWARD_H

#include "checkpoint/fixture.h"

#include "checkpoint/mapped.h"
#include "checkpoint/stream.h"

enum { TOKENS = 24, MAX_VOCAB = 40 };

typedef enum source { FROM_MEMORY, FROM_STREAM, FROM_MAP } source;

typedef struct manner {
    source from;
    hd_moe_strategy strategy;
    hd_dtype weights;
    hd_map_options map;
} manner;

/* A model opened for a forward pass, sized by a dry pass. */
typedef struct runner {
    hd_arena memory, step, scratch, weights;
    hd_exec ex;
    hd_model model;
    hd_ckpt_stream *stream;
    hd_ckpt_map *map;
} runner;

static inline void open_runner(runner *r, const hd_dims *dims, const manner *how, bool dry, const size_t sizes[4])
{
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = how->weights, .mu_dtype = HD_DTYPE_F32, .max_positions = TOKENS,
                                .moe_strategy = how->strategy, .streamed = r->stream != NULL, .mapped = r->map != NULL};
    if (dry) {
        hd_arena_open_dry(&r->memory, "model");
        hd_arena_open_dry(&r->step, "step");
        hd_arena_open_dry(&r->scratch, "scratch");
        hd_arena_open_dry(&r->weights, "weights");
    } else {
        assert_ok(hd_arena_open(&r->memory, "model", sizes[0], &err));
        assert_ok(hd_arena_open(&r->step, "step", sizes[1], &err));
        assert_ok(hd_arena_open(&r->scratch, "scratch", sizes[2], &err));
        assert_ok(hd_arena_open(&r->weights, "weights", sizes[3], &err));
    }
    assert_ok(hd_exec_init(&r->ex, &r->scratch, 2, dry, &err));
    assert_ok(hd_model_open(dims, &options, &r->ex, &r->memory, &r->model, &err));
    if (r->stream != NULL) { assert_ok(hd_ckpt_stream_attach(r->stream, &r->model, &r->ex, &r->weights, &err)); }
    if (r->map != NULL) { assert_ok(hd_ckpt_map_attach(r->map, &r->model, &r->ex, &r->memory, &err)); }
}

static inline void close_runner(runner *r)
{
    hd_model_close(&r->model);
    hd_arena_close(&r->memory);
    hd_arena_close(&r->step);
    hd_arena_close(&r->scratch);
    hd_arena_close(&r->weights);
}

/* Logits (TOKENS, vocabulary).  token: of all rows, or -1 for different ones. */
static inline void forward(runner *r, int32_t token, float *out)
{
    int32_t tokens[TOKENS], positions[TOKENS], segments[TOKENS], vocab = (int32_t)r->model.dims.vocab_size;
    float ones[TOKENS];
    hd_tensor logits;
    size_t mark = hd_arena_mark(&r->step);
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = token >= 0 ? token : (i * 7 + 3) % vocab;
        positions[i] = i;
        segments[i] = 1;
        ones[i] = 1.0f;
    }
    hd_leaf leaf = {.n_seq = 1, .seq_len = TOKENS, .weight_total = 1.0, .n_seq_total = 1, .n_token_total = TOKENS};
    hd_leaf_rows rows = {.n_seq = 1, .seq_len = TOKENS, .inputs = tokens, .targets = tokens, .positions = positions,
                         .segments = segments, .loss_weights = ones};
    assert_ok(hd_leaf_upload(&r->model, &r->ex, &r->step, &rows, &leaf, &err));
    assert_ok(hd_tensor_new_2d(&r->step, HD_DTYPE_F32, TOKENS, vocab, &logits, &err));
    assert_ok(hd_model_logits(&r->model, &r->ex, &r->step, &leaf, 0, &logits, &err));
    assert_ok(hd_exec_read(&r->ex, &logits, out, &err));
    hd_arena_release(&r->step, mark);
}

/* Logits of the model in a folder; sizes: of the four arenas, model, step, scratch, streamed weights.  Bytes used in place come back. */
static inline int64_t run(const char *path, const hd_dims *dims, const manner *how, int32_t token, float *out, size_t sizes[4])
{
    runner r = {0};
    if (how->from == FROM_STREAM) { assert_ok(hd_ckpt_stream_open(path, dims, &r.stream, &err)); }
    if (how->from == FROM_MAP) { assert_ok(hd_ckpt_map_open(path, dims, &how->map, &r.map, &err)); }
    open_runner(&r, dims, how, true, NULL);
    forward(&r, token, out);
    sizes[0] = r.memory.high, sizes[1] = r.step.high, sizes[2] = r.scratch.high, sizes[3] = r.weights.high;
    close_runner(&r);
    open_runner(&r, dims, how, false, sizes);
    if (how->from == FROM_MEMORY) { assert_ok(hd_ckpt_load_parameters(path, &r.ex, &r.model, &err)); }
    forward(&r, token, out);
    assert_true(r.memory.high <= sizes[0] && r.weights.high <= sizes[3]);
    int64_t mapped = r.map != NULL ? hd_ckpt_map_bytes(r.map) : 0;
    close_runner(&r);
    hd_ckpt_stream_close(r.stream);
    hd_ckpt_map_close(r.map);
    return mapped;
}

#endif
