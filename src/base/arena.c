/* Arenas: stack-ordered pieces of one mapping, and the same arithmetic without one.  See arena.h. */
#include "base/arena.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>
#ifdef HD_DEBUG
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

#include "base/alloc.h"
#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define HD_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HD_ASAN 1
#endif
#endif

#ifdef HD_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(ptr, bytes) __asan_poison_memory_region((ptr), (bytes))
#define UNPOISON(ptr, bytes) __asan_unpoison_memory_region((ptr), (bytes))
#else
#define POISON(ptr, bytes) ((void)(ptr), (void)(bytes))
#define UNPOISON(ptr, bytes) ((void)(ptr), (void)(bytes))
#endif

enum { PIECE_ALIGN = 64 };

#ifdef HD_DEBUG

/* The guard test backend takes all access to an arena away while no op runs.  Pieces made then are left unfilled: the
 * kernel is asked to put the time there, which it refuses without a fault.  Pieces are longer than that. */
static bool is_writable(unsigned char *piece)
{
    return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, piece) == 0;
}

/* FFF4 repeated is a NaN in f64 (signalling), f32, bf16 and f16, and a negative index in i32 and i64. */
static void fill_fresh(unsigned char *piece, size_t bytes)
{
    static const unsigned char pattern[2] = {0xF4, 0xFF}; /* little end first */
    if (!is_writable(piece)) { return; }
    for (size_t i = 0; i < bytes; i++) { piece[i] = pattern[i & 1u]; }
}

static void fill_released(unsigned char *piece, size_t bytes)
{
    if (is_writable(piece)) { memset(piece, 0xAA, bytes); }
}

#else

static void fill_fresh(unsigned char *piece, size_t bytes)
{
    (void)piece;
    (void)bytes;
}

static void fill_released(unsigned char *piece, size_t bytes)
{
    (void)piece;
    (void)bytes;
}

#endif

void hd_arena_open_dry(hd_arena *arena, const char *name)
{
    *arena = (hd_arena){.name = name, .capacity = SIZE_MAX, .dry = true};
}

hd_status hd_arena_open(hd_arena *arena, const char *name, size_t capacity, hd_err *err)
{
    void *base;
    *arena = (hd_arena){.name = name};
    hd_status st = hd_alloc_pages(capacity, name, &base, err);
    if (st != HD_OK) { return hd_err_prefix(err, "arena "), st; }
    arena->base = base;
    arena->capacity = capacity;
    if (base != NULL) { POISON(base, capacity); }
    return HD_OK;
}

void hd_arena_close(hd_arena *arena)
{
    if (arena->base != NULL) {
        UNPOISON(arena->base, arena->capacity);
        hd_free_pages(arena->base, arena->capacity);
    }
    *arena = (hd_arena){0};
}

hd_status hd_arena_alloc(hd_arena *arena, size_t bytes, void **out, hd_err *err)
{
    size_t rounded, end;
    *out = NULL;
    if (bytes == 0) { return HD_OK; }
    if (!hd_size_round_up(bytes, PIECE_ALIGN, &rounded) || !hd_size_add(arena->used, rounded, &end) ||
        end > arena->capacity) {
        return HD_FAIL(err, HD_E_NOMEM, "arena %s: %zu bytes wanted, %zu of %zu left", arena->name, bytes,
                       arena->capacity - arena->used, arena->capacity);
    }
    if (!arena->dry) {
        *out = arena->base + arena->used;
        UNPOISON(*out, bytes); /* the padding after the piece stays poisoned */
        fill_fresh(*out, bytes);
    }
    arena->used = end;
    if (end > arena->high) { arena->high = end; }
    return HD_OK;
}

size_t hd_arena_mark(const hd_arena *arena)
{
    return arena->used;
}

void hd_arena_release(hd_arena *arena, size_t mark)
{
    assert(mark <= arena->used);
    if (!arena->dry && mark < arena->used) {
        unsigned char *freed = arena->base + mark;
        size_t bytes = arena->used - mark;
        UNPOISON(freed, bytes);
        fill_released(freed, bytes);
        POISON(freed, bytes);
    }
    arena->used = mark;
}
