/* Sets of experts, compared without regard to order.  See routing.h. */
#include "eval/routing.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

hd_status hd_routing_log_open(const hd_dims *dims, int64_t max_tokens, hd_routing_log *log, hd_err *err)
{
    int64_t count;
    *log = (hd_routing_log){.max_tokens = max_tokens, .top_k = dims->router.top_k, .n_layer = dims->n_layer};
    if (dims->n_expert == 0) { return HD_OK; }
    if (!hd_i64_mul(max_tokens, log->top_k, &count) || !hd_i64_mul(count, log->n_layer, &count)) {
        return HD_FAIL(err, HD_E_NOMEM, "the experts of %" PRId64 " tokens", max_tokens);
    }
    return hd_alloc((size_t)count, sizeof *log->ids, "chosen experts", (void **)&log->ids, err);
}

void hd_routing_log_close(hd_routing_log *log)
{
    hd_free(log->ids);
    *log = (hd_routing_log){0};
}

static int32_t *ids_of(const hd_routing_log *log, int64_t layer)
{
    return log->ids + layer * log->max_tokens * log->top_k;
}

hd_status hd_routing_observe(void *context, hd_exec *ex, hd_arena *step, const char *name, int64_t layer,
                             const hd_tensor *t, hd_err *err)
{
    hd_routing_log *log = context;
    (void)step;
    if (ex->dry || strcmp(name, "expert_ids") != 0) { return HD_OK; }
    return hd_exec_read(ex, t, ids_of(log, layer), err);
}

static bool contains(const int32_t *set, int64_t k, int32_t id)
{
    for (int64_t i = 0; i < k; i++) {
        if (set[i] == id) { return true; }
    }
    return false;
}

static bool same_set(const int32_t *a, const int32_t *b, int64_t k)
{
    for (int64_t i = 0; i < k; i++) {
        if (!contains(b, k, a[i]) || !contains(a, k, b[i])) { return false; }
    }
    return true;
}

hd_status hd_routing_compare(const hd_routing_log *log, int64_t begin, const hd_golden_experts *golden, int64_t n,
                             hd_routing_flips *flips, hd_err *err)
{
    *flips = (hd_routing_flips){0};
    if (golden->n_layer == 0) { return HD_OK; }
    if (log->ids == NULL || golden->top_k != log->top_k) {
        return HD_FAIL(err, HD_E_CORRUPT, "the golden record has %" PRId64 " experts per token, the model %" PRId64,
                       golden->top_k, log->ids == NULL ? 0 : log->top_k);
    }
    for (int64_t l = 0; l < golden->n_layer; l++) {
        int64_t layer = golden->layers[l];
        if (layer < 0 || layer >= log->n_layer) {
            return HD_FAIL(err, HD_E_CORRUPT,
                           "the golden record has experts in layer %" PRId64 ", the model has %" PRId64 " layers",
                           layer, log->n_layer);
        }
        for (int64_t t = 0; t < n; t++) {
            int64_t choice = l * golden->n_token + t;
            double gap = (double)golden->gaps[choice];
            flips->n_choice++;
            if (same_set(ids_of(log, layer) + (begin + t) * log->top_k, golden->ids + choice * log->top_k,
                         log->top_k)) {
                continue;
            }
            flips->n_flip++;
            flips->n_wide += !(gap < HD_ROUTING_NEAR_TIE);
            flips->largest_gap = gap > flips->largest_gap ? gap : flips->largest_gap;
        }
    }
    return HD_OK;
}
