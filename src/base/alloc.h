/* The allocator table: every allocation of libhadal goes through it, so that tests can count allocations and make the
 * n-th fail (once or for ever).  Listed exceptions: memory taken inside libyaml, zstd, zlib, BLAS, OpenMP and MPI. */
#ifndef HD_BASE_ALLOC_H
#define HD_BASE_ALLOC_H

#include <stddef.h>

#include "hadal/status.h"

/* Zeroed memory for n elements of size bytes, aligned for any C type; *out NULL when n or size is 0.
 * HD_E_NOMEM names `what` and the byte count.  Free with hd_free. */
hd_status hd_alloc(size_t n, size_t size, const char *what, void **out, hd_err *err) HD_CHECK_RESULT;

/* Changes the length of an array from old_n to new_n elements; fresh elements are zero.  *ptr is untouched on failure. */
hd_status hd_realloc(void **ptr, size_t old_n, size_t new_n, size_t size, const char *what,
                     hd_err *err) HD_CHECK_RESULT;

/* A copy of a string. */
hd_status hd_strdup(const char *text, char **out, hd_err *err) HD_CHECK_RESULT;

void hd_free(void *ptr); /* accepts NULL */

/* Page-aligned anonymous memory for arenas, asked for on 2 MiB pages when large.  Zero-filled on first touch. */
hd_status hd_alloc_pages(size_t bytes, const char *what, void **out, hd_err *err) HD_CHECK_RESULT;
void hd_free_pages(void *ptr, size_t bytes);

/* Bytes and calls outstanding and ever made, for leak tests. */
typedef struct hd_alloc_stats {
    size_t live_calls, total_calls;
} hd_alloc_stats;
hd_alloc_stats hd_alloc_get_stats(void);

/* Fault injection: allocation number n from now (1-based; 0 = none) fails; for_ever: all later ones fail too. */
void hd_alloc_fail_at(size_t n, int for_ever);

#endif
