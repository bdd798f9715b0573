/* See passes.h. */
#include "eval/passes.h"

#include <string.h>

#include "base/alloc.h"

/* Room for `more` elements behind n. */
static hd_status grow(void **array, int64_t n, int64_t more, int64_t *capacity, size_t size, hd_err *err)
{
    int64_t wanted = *capacity == 0 ? 64 : *capacity;
    while (wanted - n < more) { wanted *= 2; }
    if (wanted == *capacity) { return HD_OK; }
    hd_status st = hd_realloc(array, (size_t)*capacity, (size_t)wanted, size, "prompts", err);
    if (st == HD_OK) { *capacity = wanted; }
    return st;
}

hd_status hd_passes_add(hd_passes *p, const int32_t *tokens, int64_t n, hd_err *err)
{
    hd_status st;
    HD_TRY(grow((void **)&p->tokens, p->n_token, n, &p->token_capacity, sizeof *p->tokens, err));
    HD_TRY(grow((void **)&p->lengths, p->n_prompt, 1, &p->prompt_capacity, sizeof *p->lengths, err));
    memcpy(p->tokens + p->n_token, tokens, (size_t)n * sizeof *tokens);
    p->n_token += n;
    p->lengths[p->n_prompt++] = n;
out:
    return st;
}

void hd_passes_free(hd_passes *p)
{
    hd_free(p->tokens);
    hd_free(p->lengths);
    *p = (hd_passes){0};
}

int64_t hd_passes_fit(const hd_passes *p, int64_t first, int64_t limit, int64_t *n_token)
{
    int64_t n = 0;
    *n_token = 0;
    while (first + n < p->n_prompt && (n == 0 || *n_token + p->lengths[first + n] <= limit)) {
        *n_token += p->lengths[first + n];
        n++;
    }
    return n;
}
