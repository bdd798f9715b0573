/* Comparing as the pass goes on: memory is one tensor of ours and one of the dump.  See bisect.h. */
#include "eval/bisect.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "checkpoint/safetensors.h"
#include "hadal/log.h"

enum { NAME_LEN = 64 };

typedef struct entry {
    char name[NAME_LEN];
    const char *part; /* the name without its layer */
    double max_diff, max_dump, limit;
    int64_t rows_done;  /* rows of a tensor that comes in pieces */
    int64_t n_differ;   /* rows of expert_ids with another set, */
    int64_t n_near;     /* and those where the dump says that it was a near-tie */
    int64_t n_compared; /* rows, or single weights of experts, that were not left out */
} entry;

struct hd_bisect {
    double unit;     /* relative rounding error of an activation */
    double sum_unit; /* of a sum over the hidden width */
    int64_t n_layer, vocab_size;
    hd_block_file file;
    hd_st_reader *dump;
    int32_t *tokens;
    int64_t n_token;
    entry *entries; /* in the order of the pass */
    int64_t n_entry, capacity, n_missing;
    int32_t *ids;   /* (n_token, k): experts of the layer in work */
    bool *left_out; /* (n_token): went to other experts at a near-tie, or attends to one that did; not compared */
};

/* What stands between a tensor and the one before it. */
static const struct {
    const char *part, *between;
} parts[] = {
    {"embed", "model.embed_tokens.weight"},
    {"input_norm", "input_layernorm.weight, rms_norm_eps"},
    {"q", "q_proj, or q_a_proj, q_a_layernorm and q_b_proj; RoPE of queries"},
    {"kv_latent", "kv_a_proj_with_mqa, kv_a_layernorm"},
    {"k_rope", "the last rows of kv_a_proj_with_mqa; RoPE of keys"},
    {"kv", "kv_b_proj"},
    {"attention", "the softmax scale (mscale_all_dim), the causal mask"},
    {"mid", "o_proj, the residual"},
    {"post_norm", "post_attention_layernorm.weight, rms_norm_eps"},
    {"router_logits", "mlp.gate.weight"},
    {"expert_ids", "e_score_correction_bias, n_group, topk_group, topk_method"},
    {"expert_weights", "scoring_func, norm_topk_prob, routed_scaling_factor"},
    {"routed", "mlp.experts"},
    {"output", "the dense MLP, or mlp.shared_experts"},
    {"final_norm", "model.norm.weight"},
    {"logits", "lm_head.weight"},
};

hd_status hd_bisect_new(const hd_dims *dims, const hd_model_options *options, hd_bisect **out, hd_err *err)
{
    hd_status st = hd_alloc(1, sizeof **out, "bisection", (void **)out, err);
    if (st != HD_OK) { return st; }
    (*out)->unit = options->dtype == HD_DTYPE_F32 ? 0x1p-24 : 0x1p-9;
    (*out)->sum_unit = 0x1p-24 * sqrt((double)dims->hidden_size);
    (*out)->n_layer = dims->n_layer;
    (*out)->vocab_size = dims->vocab_size;
    return HD_OK;
}

static void close_dump(hd_bisect *b)
{
    hd_st_close(b->dump);
    hd_block_file_close(&b->file);
    hd_free(b->tokens);
    hd_free(b->ids);
    hd_free(b->left_out);
    b->dump = NULL;
    b->tokens = b->ids = NULL;
    b->left_out = NULL;
    b->n_entry = b->n_missing = 0;
}

void hd_bisect_free(hd_bisect *b)
{
    if (b == NULL) { return; }
    close_dump(b);
    hd_free(b->entries);
    hd_free(b);
}

/* ---- the dump ---------------------------------------------------------------------------------------------------------- */

/* Rows [begin, begin + n) of a tensor that must be (n_token, width); fresh memory.  *data NULL when the dump lacks it. */
static hd_status read_rows(hd_bisect *b, const char *name, hd_dtype dtype, int64_t width, int64_t begin, int64_t n,
                           void **data, hd_err *err)
{
    char found[HD_ST_TEXT];
    int64_t at = hd_st_find(b->dump, name);
    *data = NULL;
    if (at < 0) { return HD_OK; }
    hd_st_info info = hd_st_get(b->dump, at);
    if (info.dtype != dtype || info.n_dim != 2 || info.shape[0] != b->n_token || info.shape[1] != width) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: %s is %s, want %s (%" PRId64 ", %" PRId64 ")", b->file.path, name,
                       hd_st_describe(info.dtype, info.n_dim, info.shape, found), hd_dtype_name(dtype), b->n_token,
                       width);
    }
    size_t row_bytes = (size_t)width * 4;
    hd_status st = hd_alloc((size_t)n, row_bytes, name, data, err);
    if (st == HD_OK) { st = hd_st_read(b->dump, at, begin * (int64_t)row_bytes, (size_t)n * row_bytes, *data, err); }
    return st;
}

hd_status hd_bisect_dump(hd_bisect *b, const char *path, const int32_t **tokens, int64_t *n, hd_err *err)
{
    hd_status st;
    hd_file *file;
    close_dump(b);
    HD_TRY(hd_io_open_read(path, &file, err));
    HD_TRY(hd_block_file_open(file, NULL, 0, NULL, &b->file, err));
    HD_TRY(hd_st_open(&b->file, &b->dump, err));
    int64_t at = hd_st_find(b->dump, "tokens");
    hd_st_info info = at >= 0 ? hd_st_get(b->dump, at) : (hd_st_info){0};
    if (at < 0 || info.dtype != HD_DTYPE_I32 || info.n_dim != 1 || info.shape[0] < 1) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: this is no dump of activations, it has no list of I32 tokens", path);
    }
    b->n_token = info.shape[0];
    HD_TRY(hd_alloc((size_t)b->n_token, sizeof *b->tokens, "tokens of a dump", (void **)&b->tokens, err));
    HD_TRY(hd_alloc((size_t)b->n_token, sizeof *b->left_out, "tokens of a dump", (void **)&b->left_out, err));
    HD_TRY(hd_st_read(b->dump, at, 0, (size_t)info.bytes, b->tokens, err));
    *tokens = b->tokens;
    *n = b->n_token;
out:
    return st;
}

/* ---- one tensor ---------------------------------------------------------------------------------------------------------- */

/* Differences may grow with the depth as independent errors do. */
static double limit_of(const hd_bisect *b, int64_t layer)
{
    double depth = (double)(layer < 0 ? b->n_layer : layer) + 1.0;
    return (16.0 * b->unit + 8.0 * b->sum_unit) * sqrt(depth);
}

/* The entry of a name; a tensor that comes in pieces goes on with its own. */
static hd_status entry_of(hd_bisect *b, const char *name, const char *part, int64_t layer, entry **out, hd_err *err)
{
    if (b->n_entry > 0 && strcmp(b->entries[b->n_entry - 1].name, name) == 0) {
        *out = &b->entries[b->n_entry - 1];
        return HD_OK;
    }
    /* final_norm and logits alternate when logits come in chunks */
    if (b->n_entry > 1 && strcmp(b->entries[b->n_entry - 2].name, name) == 0) {
        *out = &b->entries[b->n_entry - 2];
        return HD_OK;
    }
    if (b->n_entry == b->capacity) {
        int64_t more = b->capacity == 0 ? 64 : 2 * b->capacity;
        hd_status st =
            hd_realloc((void **)&b->entries, (size_t)b->capacity, (size_t)more, sizeof *b->entries, "bisection", err);
        if (st != HD_OK) { return st; }
        b->capacity = more;
    }
    *out = &b->entries[b->n_entry++];
    **out = (entry){.limit = limit_of(b, strcmp(part, "embed") == 0 ? 0 : layer)};
    (void)snprintf((*out)->name, NAME_LEN, "%s", name);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strcmp(parts[i].part, part) == 0) { (*out)->part = parts[i].part; }
    }
    return HD_OK;
}

static void compare_values(const float *ours, const float *dump, int64_t n, entry *e)
{
    for (int64_t i = 0; i < n; i++) {
        double diff = fabs((double)ours[i] - (double)dump[i]), size = fabs((double)dump[i]);
        if (!isnan(e->max_diff) && !(diff <= e->max_diff)) { e->max_diff = diff; }
        if (size > e->max_dump) { e->max_dump = size; }
    }
}

/* Position of an expert among the k of a token; -1: not chosen. */
static int64_t find_id(const int32_t *set, int64_t k, int32_t id)
{
    for (int64_t i = 0; i < k; i++) {
        if (set[i] == id) { return i; }
    }
    return -1;
}

/* A set that differs counts unless the dump's own gap there is within the limit. */
static hd_status compare_ids(hd_bisect *b, const char *layer, const int32_t *ours, const int32_t *dump, int64_t k,
                             entry *e, hd_err *err)
{
    char name[NAME_LEN];
    float *gaps = NULL;
    (void)snprintf(name, sizeof name, "%s.expert_gaps", layer);
    hd_status st = read_rows(b, name, HD_DTYPE_F32, 1, 0, b->n_token, (void **)&gaps, err);
    for (int64_t t = 0; st == HD_OK && t < b->n_token; t++) {
        bool same = true;
        for (int64_t j = 0; j < k; j++) { same = same && find_id(dump + t * k, k, ours[t * k + j]) >= 0; }
        if (same || b->left_out[t]) { continue; }
        bool near = gaps != NULL && (double)gaps[t] <= e->limit;
        b->left_out[t] = near;
        e->n_near += near;
        e->n_differ += !near;
    }
    hd_free(gaps);
    return st;
}

/* Weights by expert, whatever the order of the experts of a token; those of experts that only one side chose are left out. */
static hd_status compare_expert_weights(hd_bisect *b, const char *layer, const float *ours, const float *dump,
                                        int64_t k, entry *e, hd_err *err)
{
    char name[NAME_LEN];
    int32_t *dump_ids = NULL;
    (void)snprintf(name, sizeof name, "%s.expert_ids", layer);
    hd_status st = read_rows(b, name, HD_DTYPE_I32, k, 0, b->n_token, (void **)&dump_ids, err);
    for (int64_t i = 0; st == HD_OK && dump_ids != NULL && b->ids != NULL && i < b->n_token * k; i++) {
        int64_t t = i / k, at = find_id(dump_ids + t * k, k, b->ids[i]);
        if (at >= 0 && !b->left_out[t]) {
            compare_values(ours + i, dump + t * k + at, 1, e);
            e->n_compared++;
        }
    }
    hd_free(dump_ids);
    return st;
}

/* In the next layer, tokens behind one that was left out attend to it. */
static void leave_out_behind(hd_bisect *b)
{
    for (int64_t t = 1; t < b->n_token; t++) { b->left_out[t] = b->left_out[t] || b->left_out[t - 1]; }
}

static hd_status compare(hd_bisect *b, const char *name, const char *part, int64_t layer, const void *ours,
                         int64_t n_row, int64_t width, bool ids, hd_err *err)
{
    hd_status st;
    entry *e;
    void *dump = NULL;
    char prefix[32];
    (void)snprintf(prefix, sizeof prefix, "layers.%" PRId64, layer);
    HD_TRY(entry_of(b, name, part, layer, &e, err));
    HD_TRY(read_rows(b, name, ids ? HD_DTYPE_I32 : HD_DTYPE_F32, width, e->rows_done, n_row, &dump, err));
    if (dump == NULL) {
        b->n_missing += e->rows_done == 0;
        b->n_entry -= e == &b->entries[b->n_entry - 1];
        return HD_OK;
    }
    if (ids) {
        HD_TRY(compare_ids(b, prefix, ours, dump, width, e, err));
    } else if (strcmp(part, "expert_weights") == 0) {
        HD_TRY(compare_expert_weights(b, prefix, ours, dump, width, e, err));
    } else {
        for (int64_t t = 0; t < n_row; t++) {
            if (b->left_out[e->rows_done + t]) { continue; }
            compare_values((const float *)ours + t * width, (const float *)dump + t * width, width, e);
            e->n_compared++;
        }
        if (strcmp(part, "output") == 0 && layer + 1 < b->n_layer) { leave_out_behind(b); }
    }
    e->rows_done += n_row;
out:
    hd_free(dump);
    return st;
}

/* Ours, on the host: f32, or i32 for ids; fresh memory. */
static hd_status read_ours(hd_exec *ex, hd_arena *step, const hd_tensor *t, void **host, hd_err *err)
{
    hd_status st;
    hd_tensor copy = *t;
    size_t mark = hd_arena_mark(step);
    *host = NULL;
    if (t->dtype != HD_DTYPE_I32 && (t->dtype != HD_DTYPE_F32 || !hd_tensor_is_contiguous(t))) {
        HD_TRY(hd_tensor_new(step, HD_DTYPE_F32, t->n_dim, t->shape, &copy, err));
        HD_TRY(hd_copy(ex, t, &copy, err));
    }
    if (!ex->dry) {
        HD_TRY(hd_alloc((size_t)hd_tensor_count(t), 4, "activation", host, err));
        HD_TRY(hd_exec_read(ex, &copy, *host, err));
    } else {
        st = HD_OK;
    }
out:
    hd_arena_release(step, mark);
    return st;
}

hd_status hd_bisect_observe(void *context, hd_exec *ex, hd_arena *step, const char *part, int64_t layer,
                            const hd_tensor *t, hd_err *err)
{
    hd_bisect *b = context;
    char name[NAME_LEN];
    void *ours = NULL;
    bool ids = t->dtype == HD_DTYPE_I32;
    int64_t n_row = t->shape[0], width = n_row > 0 ? hd_tensor_count(t) / n_row : 0;
    if (b->dump == NULL && !ex->dry) { return HD_OK; }
    hd_status st = read_ours(ex, step, t, &ours, err);
    if (st != HD_OK || ex->dry) { goto out; }
    if (layer < 0) {
        (void)snprintf(name, sizeof name, "%s", part);
    } else {
        (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", layer, part);
    }
    HD_TRY(compare(b, name, part, layer, ours, n_row, width, ids, err));
    if (ids) {
        hd_free(b->ids);
        b->ids = ours;
        ours = NULL;
    }
out:
    hd_free(ours);
    return st;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

static double relative(const entry *e)
{
    return e->max_dump > 0.0 ? e->max_diff / e->max_dump : e->max_diff;
}

static bool differs(const entry *e)
{
    return e->n_differ > 0 || (strcmp(e->part, "expert_ids") != 0 && !(relative(e) <= e->limit));
}

static const char *between(const entry *e)
{
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (parts[i].part == e->part) { return parts[i].between; }
    }
    return "";
}

static void report_ids(const hd_bisect *b, const entry *e)
{
    char near[80] = "";
    if (e->n_near > 0) {
        (void)snprintf(near, sizeof near, ", %" PRId64 " more at near-ties, left out from here on", e->n_near);
    }
    hd_log(HD_LOG_RESULT, "  %-28s %10" PRId64 " of %" PRId64 " tokens%s%s", e->name, e->n_differ, b->n_token, near,
           e->n_differ > 0 ? "  differs" : "");
}

hd_status hd_bisect_report(const hd_bisect *b, const char **first, hd_err *err)
{
    const entry *found = NULL;
    hd_log(HD_LOG_RESULT, "%s: %" PRId64 " tokens; largest difference of each tensor over its largest value",
           b->file.path, b->n_token);
    for (int64_t i = 0; i < b->n_entry; i++) {
        const entry *e = &b->entries[i];
        bool other = differs(e);
        if (strcmp(e->part, "expert_ids") == 0) {
            report_ids(b, e);
        } else if (e->n_compared == 0) {
            hd_log(HD_LOG_RESULT, "  %-28s   no token is left to compare", e->name);
        } else {
            hd_log(HD_LOG_RESULT, "  %-28s %10.2e   limit %.1e%s", e->name, relative(e), e->limit,
                   other ? "  differs" : "");
        }
        found = found == NULL && other ? e : found;
    }
    if (b->n_missing > 0) { hd_log(HD_LOG_RESULT, "  %" PRId64 " tensors are not in the dump", b->n_missing); }
    if (b->n_entry == 0) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: no activation of this model is in the dump", b->file.path);
    }
    *first = found != NULL ? found->name : NULL;
    if (found != NULL) {
        hd_log(HD_LOG_RESULT, "  the first that differs is %s; before it stand: %s", found->name, between(found));
    }
    return HD_OK;
}
