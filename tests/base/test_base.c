/* The small pieces: status, log, environment, UTF-8, checksums, clock, the parallel loop. */
#include "support/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/env.h"
#include "base/parallel_for.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "hadal/log.h"

static void error_record(void **state)
{
    (void)state;
    hd_err err;
    assert_int_equal(HD_FAIL(&err, HD_E_IO, "disk %d", 3), HD_E_IO);
    assert_string_equal(err.msg, "disk 3");
    assert_int_equal(hd_err_prefix(&err, "save %s: ", "x"), HD_E_IO);
    assert_string_equal(err.msg, "save x: disk 3");
    assert_int_equal(HD_FAIL(&err, HD_E_CORRUPT, "again: %s", err.msg), HD_E_CORRUPT);
    assert_string_equal(err.msg, "again: save x: disk 3");
    assert_int_equal(HD_FAIL(NULL, HD_E_IO, "no record"), HD_E_IO);
    static const int codes[][2] = {{HD_OK, 0},      {HD_E_INVALID, 1}, {HD_E_CONFIG, 2}, {HD_E_UNSUPPORTED, 2},
                                   {HD_E_NOMEM, 1}, {HD_E_IO, 1},      {HD_E_VERIFY, 3}, {HD_E_SIGNAL, 143}};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        err = (hd_err){.code = (hd_status)codes[i][0], .signal = 15};
        assert_int_equal(hd_err_exit_code(&err), codes[i][1]);
    }
    assert_string_equal(hd_status_name(HD_E_PEER), "HD_E_PEER");
}

static void long_messages_are_cut_between_characters(void **state)
{
    (void)state;
    hd_err err;
    char text[2048];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4) { memcpy(text + i, "\xF0\x9F\x98\x80", 5); }
        hd_status st = HD_FAIL(&err, HD_E_IO, "%s", text);
        assert_int_equal(st, HD_E_IO);
        assert_true(strlen(err.msg) > sizeof err.msg - 6);
        assert_true(hd_utf8_validate(err.msg, strlen(err.msg), NULL));
    }
}

static char last_line[5000];
static hd_log_level last_level;

static void keep_line(void *context, hd_log_level level, const char *text)
{
    (*(int *)context)++;
    last_level = level;
    snprintf(last_line, sizeof last_line, "%s", text);
}

static void log_lines(void **state)
{
    (void)state;
    int n = 0;
    char text[4000];
    hd_log(HD_LOG_INFO, "dropped");
    hd_log_set_sink(keep_line, &n);
    hd_log(HD_LOG_WARN, "n = %d", 5);
    assert_string_equal(last_line, "n = 5");
    assert_int_equal(last_level, HD_LOG_WARN);
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    hd_log(HD_LOG_RESULT, "%s", text);
    assert_string_equal(last_line, text);
    assert_int_equal(n, 2);
    hd_log_set_sink(NULL, NULL);
}

static void environment(void **state)
{
    (void)state;
    size_t cursor = 0, n, seen = 0;
    const char *name, *value;
    for (int v = 0; v < HD_ENV_COUNT; v++) {
        const hd_env_row *row = hd_env_describe((hd_env_var)v);
        assert_true(row->name != NULL && row->fallback != NULL && row->meaning != NULL);
    }
    setenv("JOBSET_NAME", "run-1", 1);
    assert_string_equal(hd_env(HD_ENV_JOBSET_NAME), "run-1");
    setenv("JOBSET_NAME", "", 1);
    assert_null(hd_env(HD_ENV_JOBSET_NAME));
    setenv("M_TEST_KEY", "a=b", 1);
    while (hd_env_prefixed("M_TEST_", &cursor, &name, &n, &value)) {
        assert_int_equal(n, strlen("M_TEST_KEY"));
        assert_memory_equal(name, "M_TEST_KEY", n);
        assert_string_equal(value, "a=b");
        seen++;
    }
    assert_int_equal(seen, 1);
    setenv("HADAL_NUM_THREADS", "3", 1);
    assert_int_equal(hd_default_threads(), 3);
    setenv("HADAL_NUM_THREADS", "many", 1);
    setenv("OMP_NUM_THREADS", "5,2", 1);
    assert_int_equal(hd_default_threads(), 5);
    unsetenv("OMP_NUM_THREADS");
    assert_true(hd_default_threads() >= 1);
    unsetenv("HADAL_NUM_THREADS");
}

/* Bytes and what Python's bytes.decode("utf-8", "replace") makes of them. */
static void utf8_replacement(void **state)
{
    (void)state;
#define R "\xEF\xBF\xBD"
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"},
        {"a\xFF"
         "b",
         "a" R "b"},
        {"\xE2\x82", R},
        {"\xE2\x82"
         "A",
         R "A"},
        {"\xF0\x9F\x98", R},
        {"\xF0\x80\x80\x80", R R R R},
        {"\xED\xA0\x80", R R R},
        {"\xC0\xAF", R R},
        {"\xF4\x90\x80\x80", R R R R},
        {"\xF5\x80", R R},
        {"\x80\xBF", R R},
        {"\xE0\x9F\xBF", R R R},
    };
#undef R
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        hd_buf buf = {0};
        size_t n = strlen(cases[i][0]), bad = n;
        hd_utf8_append_replacing(&buf, cases[i][0], n);
        assert_string_equal(hd_buf_text(&buf), cases[i][1]);
        assert_int_equal(hd_utf8_validate(cases[i][0], n, &bad), strcmp(cases[i][0], cases[i][1]) == 0);
        hd_buf_free(&buf);
    }
}

static void utf8_code_points(void **state)
{
    (void)state;
    for (uint32_t code = 0; code <= 0x110000; code++) {
        char bytes[4];
        uint32_t back = 0;
        size_t n = hd_utf8_encode(code, bytes);
        bool valid = code <= 0x10FFFF && !(code >= 0xD800 && code <= 0xDFFF);
        if (hd_utf8_next(bytes, n, &back) != n || back != (valid ? code : 0xFFFD)) { fail_msg("U+%X", code); }
        for (size_t k = 1; k < n; k++) {
            if (hd_utf8_incomplete_tail(bytes, k) != k) { fail_msg("tail of U+%X", code); }
        }
        if (hd_utf8_incomplete_tail(bytes, n) != 0) { fail_msg("whole of U+%X", code); }
    }
}

static void checksums(void **state)
{
    (void)state;
    unsigned char data[4099];
    assert_int_equal(hd_crc32c(0, "123456789", 9), 0xE3069283);
    assert_int_equal(hd_crc32c_table(0, "123456789", 9), 0xE3069283);
    assert_int_equal(hd_crc32c(hd_crc32c(0, "1234", 4), "56789", 5), 0xE3069283);
    hd_gen_bytes("crc", data, sizeof data);
    for (size_t n = 0; n < 70; n++) {
        assert_int_equal(hd_crc32c(7, data + n % 9, n), hd_crc32c_table(7, data + n % 9, n));
    }
    assert_int_equal(hd_crc32c(0, data, sizeof data), hd_crc32c_table(0, data, sizeof data));
}

static void sha_in_pieces(const void *data, size_t n, size_t piece, bool plain, char text[HD_SHA256_HEX])
{
    hd_sha256 sha;
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256_init(&sha);
    if (plain) { sha.x86 = false; }
    for (size_t at = 0; at < n; at += piece) {
        hd_sha256_update(&sha, (const char *)data + at, n - at < piece ? n - at : piece);
    }
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, text);
}

/* Both ways, with the machine's instructions (where it has them) and in plain C. */
static void assert_sha(const void *data, size_t n, size_t piece, const char *want)
{
    char text[HD_SHA256_HEX];
    sha_in_pieces(data, n, piece, false, text);
    assert_string_equal(text, want);
    sha_in_pieces(data, n, piece, true, text);
    assert_string_equal(text, want);
}

static void digests(void **state)
{
    (void)state;
    static char million[1000000];
    memset(million, 'a', sizeof million);
    assert_sha("", 0, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_sha("abc", 3, 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    for (size_t piece = 1; piece <= 56; piece++) {
        assert_sha(two_blocks, 56, piece, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
    assert_sha(million, sizeof million, 1000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_sha(million, sizeof million, sizeof million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Every length around a block, whole and in pieces: the two ways agree and no way of cutting matters. */
static void digests_of_every_length(void **state)
{
    (void)state;
    unsigned char bytes[321];
    char whole[HD_SHA256_HEX], text[HD_SHA256_HEX];
    hd_gen_bytes("sha", bytes, sizeof bytes);
    for (size_t n = 0; n <= 320; n++) {
        sha_in_pieces(bytes + n % 2, n, n + 1, true, whole);
        for (size_t piece = 1; piece <= 129; piece += 16) {
            sha_in_pieces(bytes + n % 2, n, piece, false, text);
            assert_string_equal(text, whole);
        }
    }
}

static void clocks(void **state)
{
    (void)state;
    double start = hd_clock_now_s();
    hd_clock_sleep_s(0.01);
    assert_true(hd_clock_now_s() - start >= 0.01);
    assert_true(hd_clock_wall_s() > 1.7e9);
}

typedef struct loop {
    atomic_int calls[1000];
    atomic_int wrong;
    int n_threads;
} loop;

static void nested_body(void *arg, int64_t i, int thread)
{
    (void)i;
    int *caller = arg;
    if (*caller != thread) { *caller = -1; }
}

static void body(void *arg, int64_t i, int thread)
{
    loop *l = arg;
    int caller = thread;
    atomic_fetch_add(&l->calls[i], 1);
    hd_parallel_for(4, 3, nested_body, &caller);
    if (thread < 0 || thread >= l->n_threads || caller != thread) { atomic_fetch_add(&l->wrong, 1); }
}

static void *loops_of_one_rank(void *arg)
{
    loop *l = arg;
    for (int n_threads = 0; n_threads <= 5; n_threads++) {
        for (int64_t n = 0; n <= 1000; n += 250) {
            memset(l, 0, sizeof *l);
            l->n_threads = n_threads < 1 ? 1 : n_threads;
            hd_parallel_for(n_threads, n, body, l);
            for (int64_t i = 0; i < 1000; i++) { l->wrong += atomic_load(&l->calls[i]) != (i < n); }
            if (l->wrong != 0) { return l; }
        }
    }
    return NULL;
}

/* Four ranks run loops at the same time. */
static void parallel_loops(void **state)
{
    (void)state;
    static loop loops[4];
    pthread_t threads[4];
    for (int r = 0; r < 4; r++) {
        assert_int_equal(pthread_create(&threads[r], NULL, loops_of_one_rank, &loops[r]), 0);
    }
    for (int r = 0; r < 4; r++) {
        void *failed;
        assert_int_equal(pthread_join(threads[r], &failed), 0);
        assert_null(failed);
    }
}

static hd_status odd_items_fail(void *arg, int64_t i, int thread, hd_err *error)
{
    int64_t from = *(int64_t *)arg;
    (void)thread;
    if (i == from) { (void)nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); } /* later ones fail before it */
    return i >= from && i % 2 == 1 ? HD_FAIL(error, HD_E_IO, "item %lld", (long long)i) : HD_OK;
}

/* The failure of the smallest item is the one that comes back, from any number of threads. */
static void parallel_failures(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        hd_err error = {0};
        int64_t from = 41, never = 1000;
        assert_int_equal(hd_parallel_try(n_threads, 200, odd_items_fail, &from, &error), HD_E_IO);
        assert_string_equal(error.msg, "item 41");
        assert_int_equal(hd_parallel_try(n_threads, 200, odd_items_fail, &from, NULL), HD_E_IO);
        assert_int_equal(hd_parallel_try(n_threads, 200, odd_items_fail, &never, &error), HD_OK);
        assert_int_equal(hd_parallel_try(n_threads, 0, odd_items_fail, &never, &error), HD_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parallel_failures),
        cmocka_unit_test(error_record),     cmocka_unit_test(long_messages_are_cut_between_characters),
        cmocka_unit_test(log_lines),        cmocka_unit_test(environment),
        cmocka_unit_test(utf8_replacement), cmocka_unit_test(utf8_code_points),
        cmocka_unit_test(checksums),        cmocka_unit_test(digests), cmocka_unit_test(digests_of_every_length),
        cmocka_unit_test(clocks),           cmocka_unit_test(parallel_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
