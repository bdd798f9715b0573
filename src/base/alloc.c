/* The allocator table and its fault switch.  See alloc.h. */
#include "base/alloc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"

enum { SMALL_PAGE = 4096 };
static const size_t huge_page = (size_t)2 << 20;
static const size_t huge_threshold = (size_t)4 << 20;

static struct {
    atomic_size_t live, total;
    atomic_size_t fail_at; /* as a value of total; 0 = never */
    atomic_int for_ever;
} table;

/* Counts one allocation and says whether the fault switch makes it fail. */
static bool must_fail(void)
{
    size_t n = atomic_fetch_add(&table.total, 1) + 1;
    size_t at = atomic_load(&table.fail_at);
    return at != 0 && (n == at || (n > at && atomic_load(&table.for_ever)));
}

static hd_status no_memory(hd_err *err, const char *what, size_t n, size_t size)
{
    return HD_FAIL(err, HD_E_NOMEM, "out of memory: %s wants %zu x %zu bytes", what, n, size);
}

hd_status hd_alloc(size_t n, size_t size, const char *what, void **out, hd_err *err)
{
    *out = NULL;
    if (n == 0 || size == 0) { return HD_OK; }
    size_t bytes; /* calloc would check the product too, but the sanitizers make that a crash */
    void *ptr = must_fail() || !hd_size_mul(n, size, &bytes) ? NULL : calloc(n, size);
    if (ptr == NULL) { return no_memory(err, what, n, size); }
    atomic_fetch_add(&table.live, 1);
    *out = ptr;
    return HD_OK;
}

hd_status hd_realloc(void **ptr, size_t old_n, size_t new_n, size_t size, const char *what, hd_err *err)
{
    size_t bytes;
    if (*ptr == NULL) { return hd_alloc(new_n, size, what, ptr, err); }
    if (new_n == 0 || size == 0) {
        hd_free(*ptr);
        *ptr = NULL;
        return HD_OK;
    }
    void *grown = NULL;
    if (!must_fail() && hd_size_mul(new_n, size, &bytes)) { grown = realloc(*ptr, bytes); }
    if (grown == NULL) { return no_memory(err, what, new_n, size); }
    if (new_n > old_n) { memset((char *)grown + old_n * size, 0, (new_n - old_n) * size); }
    *ptr = grown;
    return HD_OK;
}

hd_status hd_strdup(const char *text, char **out, hd_err *err)
{
    void *copy;
    size_t bytes = strlen(text) + 1;
    hd_status st = hd_alloc(bytes, 1, "string", &copy, err);
    *out = copy;
    if (st == HD_OK) { memcpy(copy, text, bytes); }
    return st;
}

void hd_free(void *ptr)
{
    if (ptr == NULL) { return; }
    atomic_fetch_sub(&table.live, 1);
    free(ptr);
}

/* Maps `bytes` (a page multiple) at a 2 MiB border by mapping more and giving the rest back: the kernel can then use
 * huge pages from the first byte, and nothing outside the caller's bytes stays mapped or resident. */
static void *map_huge(size_t bytes)
{
    size_t wide;
    if (!hd_size_add(bytes, huge_page, &wide)) { return MAP_FAILED; }
    unsigned char *raw = mmap(NULL, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) { return MAP_FAILED; }
    size_t head = (size_t)(-(uintptr_t)raw & (huge_page - 1));
    if (head != 0) { (void)munmap(raw, head); }
    (void)munmap(raw + head + bytes, wide - head - bytes);
    (void)madvise(raw + head, bytes, MADV_HUGEPAGE); /* advice only: an old kernel may refuse it */
    return raw + head;
}

static void *map_small(size_t bytes)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

hd_status hd_alloc_pages(size_t bytes, const char *what, void **out, hd_err *err)
{
    size_t mapped;
    *out = NULL;
    if (bytes == 0) { return HD_OK; }
    if (must_fail() || !hd_size_round_up(bytes, SMALL_PAGE, &mapped)) { return no_memory(err, what, 1, bytes); }
    void *ptr = mapped >= huge_threshold ? map_huge(mapped) : map_small(mapped);
    if (ptr == MAP_FAILED) { return no_memory(err, what, 1, bytes); }
    atomic_fetch_add(&table.live, 1);
    *out = ptr;
    return HD_OK;
}

void hd_free_pages(void *ptr, size_t bytes)
{
    size_t mapped;
    if (ptr == NULL || !hd_size_round_up(bytes, SMALL_PAGE, &mapped)) { return; }
    atomic_fetch_sub(&table.live, 1);
    (void)munmap(ptr, mapped);
}

hd_alloc_stats hd_alloc_get_stats(void)
{
    return (hd_alloc_stats){.live_calls = atomic_load(&table.live), .total_calls = atomic_load(&table.total)};
}

void hd_alloc_fail_at(size_t n, int for_ever)
{
    atomic_store(&table.for_ever, for_ever);
    atomic_store(&table.fail_at, n == 0 ? 0 : atomic_load(&table.total) + n);
}
