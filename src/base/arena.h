/* Arenas: all tensor memory of a device lives in three of them (model, step, scratch), every byte accounted.
 *
 * An arena hands out 64-byte aligned pieces in stack order.  A *dry* arena runs the same arithmetic with no memory
 * behind it: `hadal plan` and the sizing pass of every run are the real program on dry arenas, so the plan cannot
 * drift from the run.  A run makes a dry pass, opens arenas of exactly the high-water marks, and never grows them.
 * Debug builds fill fresh memory with signalling NaN bytes (0xFF..F4 pattern) and released memory with 0xAA. */
#ifndef HD_BASE_ARENA_H
#define HD_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

typedef struct hd_arena {
    const char *name;    /* static storage: "model", "step", "scratch" */
    unsigned char *base; /* NULL when dry */
    size_t capacity;     /* bytes; SIZE_MAX when dry */
    size_t used, high;   /* bytes now, and the most there ever was */
    bool dry;
} hd_arena;

void hd_arena_open_dry(hd_arena *arena, const char *name);
hd_status hd_arena_open(hd_arena *arena, const char *name, size_t capacity, hd_err *err) HD_CHECK_RESULT;
void hd_arena_close(hd_arena *arena); /* accepts a zeroed arena */

/* *out is NULL on a dry arena and for bytes == 0.  HD_E_NOMEM names the arena, what was wanted and what is left. */
hd_status hd_arena_alloc(hd_arena *arena, size_t bytes, void **out, hd_err *err) HD_CHECK_RESULT;

/* Stack discipline: everything allocated after the mark goes. */
size_t hd_arena_mark(const hd_arena *arena);
void hd_arena_release(hd_arena *arena, size_t mark);

#endif
