/* Allocator, arenas, buffers, checked arithmetic. */
#include "support/test.h"

#include <sys/mman.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/sysinfo.h"

static void allocator(void **state)
{
    (void)state;
    hd_err err;
    void *p = &err;
    size_t live = hd_alloc_get_stats().live_calls;
    assert_ok(hd_alloc(0, 8, "nothing", &p, &err));
    assert_null(p);
    assert_fails(hd_alloc(SIZE_MAX / 2, 3, "too much", &p, &err), HD_E_NOMEM, "too much");
    assert_ok(hd_alloc(4, sizeof(int), "ints", &p, &err));
    int *ints = p;
    for (int i = 0; i < 4; i++) { assert_int_equal(ints[i], 0); }
    ints[3] = 7;
    assert_ok(hd_realloc(&p, 4, 1000, sizeof(int), "ints", &err));
    ints = p;
    assert_true(ints[3] == 7 && ints[4] == 0 && ints[999] == 0);
    assert_fails(hd_realloc(&p, 1000, SIZE_MAX, sizeof(int), "ints", &err), HD_E_NOMEM, "ints");
    assert_ptr_equal(p, ints);
    hd_alloc_fail_at(1, 0);
    assert_fails(hd_realloc(&p, 1000, 2000, sizeof(int), "ints", &err), HD_E_NOMEM, "ints");
    hd_alloc_fail_at(0, 0);
    assert_int_equal(hd_alloc_get_stats().live_calls, live + 1);
    assert_ok(hd_realloc(&p, 1000, 0, sizeof(int), "ints", &err));
    assert_null(p);
    assert_int_equal(hd_alloc_get_stats().live_calls, live);
    hd_free(NULL);
}

static void pages(void **state)
{
    (void)state;
    const size_t bytes = ((size_t)64 << 20) + 1;
    hd_err err;
    hd_rss before, after;
    void *p;
    assert_ok(hd_alloc_pages(bytes, "pages", &p, &err));
    assert_int_equal((uintptr_t)p % ((size_t)2 << 20), 0);
    assert_ok(hd_sysinfo_rss(&before, &err));
    for (size_t i = 0; i < bytes; i += 4096) { ((char *)p)[i] = 1; }
    ((char *)p)[bytes - 1] = 1;
    assert_ok(hd_sysinfo_rss(&after, &err));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)              /* their shadow counts too */
    assert_true(after.now_bytes - before.now_bytes < bytes + ((size_t)8 << 20)); /* resident: what was planned */
#endif
    hd_free_pages(p, bytes);
    assert_ok(hd_alloc_pages(5000, "pages", &p, &err));
    assert_int_equal((uintptr_t)p % 4096, 0);
    hd_free_pages(p, 5000);
    hd_free_pages(NULL, 0);
    assert_fails(hd_alloc_pages(SIZE_MAX - 10, "pages", &p, &err), HD_E_NOMEM, "pages");
}

/* The same requests on a dry and a real arena: the same arithmetic. */
static void arenas(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 64, 65, 0, 1000, 4096};
    hd_err err;
    hd_arena dry, wet;
    void *p, *q;
    hd_arena_open_dry(&dry, "dry");
    for (int i = 0; i < 6; i++) { assert_ok(hd_arena_alloc(&dry, sizes[i], &p, &err)); }
    assert_null(p);
    assert_int_equal(dry.high, 64 + 64 + 128 + 1024 + 4096);
    assert_ok(hd_arena_open(&wet, "wet", dry.high, &err));
    size_t mark = 0;
    for (int i = 0; i < 6; i++) {
        if (i == 2) { mark = hd_arena_mark(&wet); }
        assert_ok(hd_arena_alloc(&wet, sizes[i], &p, &err));
        assert_true((p == NULL) == (sizes[i] == 0) && (uintptr_t)p % 64 == 0);
        if (p != NULL) { memset(p, 1, sizes[i]); }
    }
    assert_int_equal(wet.used, dry.used);
    assert_fails(hd_arena_alloc(&wet, 1, &p, &err), HD_E_NOMEM, "arena wet: 1 bytes wanted, 0 of 5376 left");
    hd_arena_release(&wet, mark);
    assert_int_equal(wet.used, 128);
    assert_ok(hd_arena_alloc(&wet, 1, &p, &err));
    hd_arena_release(&wet, mark);
    assert_ok(hd_arena_alloc(&wet, 1, &q, &err));
    assert_ptr_equal(p, q);
    assert_int_equal(wet.high, dry.high);
    hd_arena_close(&wet);
    hd_arena_close(&wet);
    assert_fails(hd_arena_alloc(&dry, SIZE_MAX - 10, &p, &err), HD_E_NOMEM, "arena dry");
}

#ifdef HD_DEBUG
/* Fresh memory is NaN and released memory 0xAA in debug builds, but for memory that is out of reach at the time. */
static void debug_fills(void **state)
{
    (void)state;
    hd_err err;
    hd_arena arena;
    void *p;
    assert_ok(hd_arena_open(&arena, "filled", 8192, &err));
    assert_ok(hd_arena_alloc(&arena, 4 * sizeof(float), &p, &err));
    for (int i = 0; i < 4; i++) { assert_false(hd_finite_f32(((float *)p)[i])); }
    hd_arena_release(&arena, 0);
    assert_int_equal(mprotect(arena.base, arena.capacity, PROT_NONE), 0);
    assert_ok(hd_arena_alloc(&arena, 64, &p, &err));
    hd_arena_release(&arena, 0);
    assert_int_equal(mprotect(arena.base, arena.capacity, PROT_READ | PROT_WRITE), 0);
    assert_ok(hd_arena_alloc(&arena, 8192, &p, &err));
    hd_arena_close(&arena);
}
#endif

static void buffers(void **state)
{
    (void)state;
    hd_err err;
    hd_buf buf = {0};
    assert_string_equal(hd_buf_text(&buf), "");
    hd_buf_append(&buf, "ab", 2);
    hd_buf_printf(&buf, "%d-%s", 42, "x");
    for (int i = 0; i < 1000; i++) { hd_buf_append_char(&buf, '.'); }
    assert_ok(hd_buf_check(&buf, &err));
    assert_int_equal(buf.n, 1006);
    assert_memory_equal(buf.data, "ab42-x..", 8);
    assert_int_equal(strlen(buf.data), buf.n);
    hd_buf_free(&buf);
    buf.limit = 3;
    hd_buf_append_text(&buf, "abcd");
    hd_buf_append_text(&buf, "a"); /* the failure sticks */
    assert_fails(hd_buf_check(&buf, &err), HD_E_INVALID, "limit of 3");
    hd_buf_clear(&buf);
    hd_buf_append_text(&buf, "abc");
    assert_ok(hd_buf_check(&buf, &err));
    char *taken = hd_buf_take(&buf);
    assert_string_equal(taken, "abc");
    hd_free(taken);
    hd_alloc_fail_at(1, 0);
    hd_buf_append_text(&buf, "a");
    hd_alloc_fail_at(0, 0);
    assert_fails(hd_buf_check(&buf, &err), HD_E_NOMEM, "text buffer");
    hd_buf_free(&buf);
}

static void checked(void **state)
{
    (void)state;
    int64_t i = 5;
    size_t s = 5;
    assert_false(hd_i64_mul(INT64_C(1) << 32, INT64_C(1) << 31, &i));
    assert_false(hd_i64_add(INT64_MAX, 1, &i));
    assert_int_equal(i, 5);
    assert_true(hd_i64_mul(-3, 4, &i) && i == -12);
    assert_false(hd_size_mul(SIZE_MAX, 2, &s) || hd_size_add(SIZE_MAX, 1, &s));
    assert_false(hd_size_round_up(SIZE_MAX - 5, 64, &s));
    assert_true(hd_size_round_up(65, 64, &s) && s == 128);
    assert_true(hd_size_round_up(0, 64, &s) && s == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocator),   cmocka_unit_test(pages),   cmocka_unit_test(arenas),
#ifdef HD_DEBUG
        cmocka_unit_test(debug_fills),
#endif
        cmocka_unit_test(buffers),     cmocka_unit_test(checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
