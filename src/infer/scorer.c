/* One forward pass, logits in chunks of rows.  See scorer.h. */
#include "infer/scorer.h"

#include "base/alloc.h"
#include "infer/loaded.h"

enum { LOGITS_BYTES = 32 << 20 }; /* of one chunk; it exists twice, as a tensor and on the host */

struct hd_scorer {
    hd_loaded loaded;
    hd_observer observer;
    void *observer_context;
    int64_t max_tokens, max_rows;  /* max_rows: of a chunk */
    int32_t *positions, *segments; /* (max_tokens) of the run in work */
    float *weights;                /* (max_tokens): logits need none, a leaf has them */
    float *logits;                 /* (max_rows, V) */
};

static hd_status project_rows(hd_scorer *s, const hd_tensor *hidden, int64_t n, hd_scorer_rows take, void *context,
                              hd_err *err)
{
    hd_status st = HD_OK;
    hd_loaded *l = &s->loaded;
    size_t mark = hd_arena_mark(&l->step_arena);
    for (int64_t first = 0; first < n; first += s->max_rows) {
        hd_tensor logits;
        int64_t rows = n - first < s->max_rows ? n - first : s->max_rows;
        HD_TRY(hd_tensor_new_2d(&l->step_arena, HD_DTYPE_F32, rows, l->dims.vocab_size, &logits, err));
        HD_TRY(hd_model_project(&l->model, &l->ex, &l->step_arena, hidden, first, &logits, err));
        HD_TRY(hd_exec_read(&l->ex, &logits, s->logits, err));
        hd_arena_release(&l->step_arena, mark);
        if (!l->ex.dry) { HD_TRY(take(context, first, rows, s->logits, err)); }
    }
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

static hd_status forward(hd_scorer *s, const int32_t *tokens, int64_t n, hd_scorer_rows take, void *context,
                         hd_err *err)
{
    hd_status st = HD_OK;
    hd_loaded *l = &s->loaded;
    size_t mark = hd_arena_mark(&l->step_arena);
    hd_leaf leaf = {
        .n_seq = 1, .seq_len = n, .weight_total = 1.0, .mtp_weight_total = 1.0, .n_seq_total = 1, .n_token_total = n};
    hd_leaf_rows rows = {.n_seq = 1,
                         .seq_len = n,
                         .inputs = tokens,
                         .targets = tokens,
                         .positions = s->positions,
                         .segments = s->segments,
                         .loss_weights = s->weights};
    hd_tensor hidden;
    l->model.observer = s->observer;
    l->model.observer_context = s->observer_context;
    HD_TRY(hd_leaf_upload(&l->model, &l->ex, &l->step_arena, &rows, &leaf, err));
    HD_TRY(hd_model_hidden(&l->model, &l->ex, &l->step_arena, &leaf, &hidden, err));
    HD_TRY(project_rows(s, &hidden, n, take, context, err));
out:
    hd_arena_release(&l->step_arena, mark);
    return st;
}

static hd_status longest(void *context, hd_err *err)
{
    hd_scorer *s = context;
    return forward(s, NULL, s->max_tokens, NULL, NULL, err);
}

static hd_status open_host_memory(hd_scorer *s, hd_err *err)
{
    hd_status st;
    int64_t vocab = s->loaded.dims.vocab_size, wanted = s->loaded.options.row_chunk;
    int64_t fits = wanted > 0 ? wanted : LOGITS_BYTES / (int64_t)sizeof(float) / vocab;
    size_t n = (size_t)s->max_tokens;
    s->max_rows = fits < 1 ? 1 : fits < s->max_tokens ? fits : s->max_tokens;
    HD_TRY(hd_alloc(n, sizeof *s->positions, "positions", (void **)&s->positions, err));
    HD_TRY(hd_alloc(n, sizeof *s->segments, "segments", (void **)&s->segments, err));
    HD_TRY(hd_alloc(n, sizeof *s->weights, "loss weights", (void **)&s->weights, err));
    HD_TRY(hd_alloc((size_t)s->max_rows * (size_t)vocab, sizeof *s->logits, "logits", (void **)&s->logits, err));
out:
    return st;
}

hd_status hd_scorer_open(const hd_config *config, const char *path, int64_t max_tokens, hd_observer observer,
                         void *observer_context, hd_scorer **out, hd_err *err)
{
    hd_status st;
    hd_scorer *s = NULL;
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof *s, "scorer", (void **)&s, err));
    s->observer = observer;
    s->observer_context = observer_context;
    s->max_tokens = max_tokens;
    HD_TRY(hd_loaded_read(config, path, &s->loaded, err));
    s->loaded.options.max_positions = max_tokens;
    HD_TRY(open_host_memory(s, err));
    HD_TRY(hd_loaded_open(config, path, longest, s, &s->loaded, err));
    *out = s;
    s = NULL;
out:
    hd_scorer_close(s);
    return st;
}

void hd_scorer_close(hd_scorer *s)
{
    if (s == NULL) { return; }
    hd_loaded_close(&s->loaded);
    hd_free(s->positions);
    hd_free(s->segments);
    hd_free(s->weights);
    hd_free(s->logits);
    hd_free(s);
}

const hd_dims *hd_scorer_dims(const hd_scorer *s)
{
    return &s->loaded.dims;
}

hd_status hd_scorer_run_packed(hd_scorer *s, const int32_t *tokens, const int64_t *lengths, int64_t n_sequence,
                               hd_scorer_rows take, void *context, hd_err *err)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_sequence; i++) {
        if (lengths[i] < 1 || lengths[i] > s->max_tokens - n) {
            return HD_FAIL(err, HD_E_INVALID, "sequence %lld has %lld tokens, want 1 to %lld", (long long)i,
                           (long long)lengths[i], (long long)(s->max_tokens - n));
        }
        for (int64_t t = 0; t < lengths[i]; t++, n++) { s->positions[n] = (int32_t)t, s->segments[n] = (int32_t)i + 1; }
    }
    return n == 0 ? HD_OK : forward(s, tokens, n, take, context, err);
}

hd_status hd_scorer_run(hd_scorer *s, const int32_t *tokens, int64_t n, hd_scorer_rows take, void *context, hd_err *err)
{
    return hd_scorer_run_packed(s, tokens, &n, 1, take, context, err);
}
