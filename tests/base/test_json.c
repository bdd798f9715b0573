/* The JSON parser: what it accepts, what it refuses and where it says the fault is; the writer reads back. */
#include "support/test.h"

#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"

static hd_status check(const char *text, size_t n, hd_err *err)
{
    hd_json json;
    hd_json_open(&json, text, n, "t", HD_JSON_STRICT);
    hd_status st = hd_json_end(&json, err);
    hd_json_close(&json);
    return st;
}

static void accepts(void **state)
{
    (void)state;
    static const char *const good[] = {
        "null",
        " true ",
        "\n{}\t",
        "[]",
        "[[],{}]",
        "0",
        "-0",
        "1e5",
        "1.5E-7",
        "123456789012345678901234567890",
        "\"\"",
        "\"\\u0041\\ud83d\\ude00\\n\\/\"",
        "\"\xC3\xA9\xF0\x9F\x98\x80\"",
        "{\"a\":1,\"b\":{\"a\":2}}",
        "[1,2,{\"x\":[null,false]}]",
        "{\"\":1}",
        "[{\"a\":1},{\"a\":1}]",
        "\"\\u0000\"",
    };
    hd_err err;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) { assert_ok(check(good[i], strlen(good[i]), &err)); }
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "the text ends, want a value"},
        {"nul", "found 'n', want null"},
        {"nulll", "found 'l', want nothing after the value"},
        {"[1,]", "column 4 (byte 3): found ']', want a value"},
        {"[1 2]", "want ',' or ']'"},
        {"{\"a\" 1}", "want ':'"},
        {"{a:1}", "found 'a', want a key"},
        {"{\"a\":1,}", "want a key"},
        {"[", "the text ends"},
        {"{\"a\":", "the text ends, want a value"},
        {"\"abc", "at the end of the string"},
        {"\"\\x\"", "not an escape"},
        {"\"\\u12\"", "not an escape"},
        {"\"\\ud800\"", "not an escape"},
        {"\"\\udc00\"", "not an escape"},
        {"\"\\ud800\\u0041\"", "not an escape"},
        {"\"\n\"", "line 1, column 2"},
        {"[\n\"\x80\"]", "line 2, column 2 (byte 3): not UTF-8"},
        {"\"\xC0\xAF\"", "not UTF-8"},
        {"\"\xED\xA0\x80\"", "not UTF-8"},
        {"\"\xF4\x90\x80\x80\"", "not UTF-8"},
        {"01", "not a number"},
        {"1.", "not a number"},
        {"-", "not a number"},
        {"1e", "not a number"},
        {"+1", "found '+'"},
        {"NaN", "want a value"},
        {"{} {}", "want nothing after"},
        {"{\"a\":1,\"a\":2}", "the key \"a\" stands twice"},
        {"{\"a\":1,\"\\u0061\":2}", "stands twice"},
        {"{\"x\":{\"k\":1,\"k\":1}}", "stands twice"},
        {"\xEF\xBB\xBF{}", "found byte 0xEF"},
    };
    hd_err err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(check(bad[i].text, strlen(bad[i].text), &err), HD_E_CORRUPT, bad[i].message);
    }
    assert_fails(check("\"a\0b\"", 5, &err), HD_E_CORRUPT, "control characters");
}

static void depth_is_limited(void **state)
{
    (void)state;
    char text[2 * 129 + 1];
    hd_err err;
    for (int depth = 128; depth <= 129; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        if (depth == 128) {
            assert_ok(check(text, 256, &err));
        } else {
            assert_fails(check(text, 258, &err), HD_E_CORRUPT, "nested more than 128");
        }
    }
}

/* One integer text through both readers. */
static void integer_case(const char *text, const char *i64_message, int64_t i64, const char *u64_message, uint64_t u64)
{
    hd_err err;
    hd_json json;
    int64_t got_i = 0;
    uint64_t got_u = 0;
    hd_json_open(&json, text, strlen(text), "t", HD_JSON_STRICT);
    if (i64_message == NULL) {
        assert_ok(hd_json_i64(&json, &got_i, &err));
        assert_true(got_i == i64);
    } else {
        assert_fails(hd_json_i64(&json, &got_i, &err), HD_E_CORRUPT, i64_message);
    }
    hd_json_close(&json);
    hd_json_open(&json, text, strlen(text), "t", HD_JSON_STRICT);
    if (u64_message == NULL) {
        assert_ok(hd_json_u64(&json, &got_u, &err));
        assert_true(got_u == u64);
    } else {
        assert_fails(hd_json_u64(&json, &got_u, &err), HD_E_CORRUPT, u64_message);
    }
    hd_json_close(&json);
}

static void integers_are_exact(void **state)
{
    (void)state;
    integer_case("9007199254740993", NULL, INT64_C(9007199254740993), NULL, UINT64_C(9007199254740993));
    integer_case("9223372036854775807", NULL, INT64_MAX, NULL, (uint64_t)INT64_MAX);
    integer_case("9223372036854775808", "beyond 64 bits", 0, NULL, (uint64_t)INT64_MAX + 1);
    integer_case("-9223372036854775808", NULL, INT64_MIN, "negative", 0);
    integer_case("-9223372036854775809", "beyond 64 bits", 0, "negative", 0);
    integer_case("18446744073709551615", "beyond 64 bits", 0, NULL, UINT64_MAX);
    integer_case("18446744073709551616", "beyond 64 bits", 0, "beyond 64 bits", 0);
    integer_case("-0", NULL, 0, NULL, 0);
    integer_case("1.0", "want an integer", 0, "want an integer", 0);
    integer_case("\"1\"", "want a number", 0, "want a number", 0);
}

static void pulls_values(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": [1, -2.5, true, null], \"skip\": {\"deep\": [[[]]]}, \"s\": \"x\\ty\\u00e9\", "
                               "\"raw\": {\"k\" : [1, 2]}}";
    hd_err err;
    hd_json json;
    hd_json_str key, s;
    bool more, flag;
    int64_t i;
    double d;
    hd_json_type type;
    hd_json_open(&json, text, sizeof text - 1, "t", HD_JSON_STRICT);
    assert_ok(hd_json_object_begin(&json, &err));
    assert_ok(hd_json_object_next(&json, &more, &key, &err));
    assert_true(more && hd_json_str_is(key, "a"));
    assert_ok(hd_json_array_begin(&json, &err));
    assert_ok(hd_json_array_next(&json, &more, &err));
    assert_ok(hd_json_i64(&json, &i, &err));
    assert_ok(hd_json_array_next(&json, &more, &err));
    assert_ok(hd_json_f64(&json, &d, &err));
    assert_ok(hd_json_array_next(&json, &more, &err));
    assert_ok(hd_json_peek(&json, &type, &err));
    assert_int_equal(type, HD_JSON_BOOL);
    assert_ok(hd_json_bool(&json, &flag, &err));
    assert_ok(hd_json_array_next(&json, &more, &err));
    assert_ok(hd_json_null(&json, &err));
    assert_ok(hd_json_array_next(&json, &more, &err));
    assert_true(!more && i == 1 && memcmp(&d, &(double){-2.5}, sizeof d) == 0 && flag);
    assert_ok(hd_json_object_next(&json, &more, &key, &err)); /* "skip": not asked for */
    assert_ok(hd_json_object_next(&json, &more, &key, &err));
    assert_ok(hd_json_string(&json, &s, &err));
    assert_true(hd_json_str_is(key, "s") && hd_json_str_is(s, "x\ty\xC3\xA9"));
    assert_ok(hd_json_object_next(&json, &more, &key, &err));
    assert_ok(hd_json_raw(&json, &s, &err));
    assert_true(hd_json_str_is(s, "{\"k\" : [1, 2]}"));
    assert_ok(hd_json_object_next(&json, &more, &key, &err));
    assert_false(more);
    assert_ok(hd_json_end(&json, &err));
    hd_json_close(&json);
}

static void doubles_read_back(void **state)
{
    (void)state;
    hd_rng rng = hd_test_rng("doubles");
    hd_buf buf = {0};
    hd_err err;
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t r[4];
        uint64_t bits;
        double want, got;
        hd_json_writer w;
        hd_json json;
        hd_rng_block(rng, i, 0, r);
        bits = (uint64_t)r[0] << 32 | r[1];
        memcpy(&want, &bits, sizeof want);
        if (!hd_finite_f64(want)) { continue; }
        hd_buf_clear(&buf);
        hd_json_writer_init(&w, &buf, 0);
        hd_json_write_f64(&w, want);
        hd_json_open(&json, buf.data, buf.n, "t", HD_JSON_STRICT);
        assert_ok(hd_json_f64(&json, &got, &err));
        hd_json_close(&json);
        assert_memory_equal(&got, &want, sizeof got);
    }
    hd_buf_free(&buf);
}

static void writes(void **state)
{
    (void)state;
    hd_buf buf = {0};
    hd_err err;
    hd_json_writer w;
    hd_json_writer_init(&w, &buf, 0);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "a\"b");
    hd_json_write_array(&w);
    hd_json_write_i64(&w, INT64_MIN);
    hd_json_write_u64(&w, UINT64_MAX);
    hd_json_write_f64(&w, 0.1);
    hd_json_write_f64(&w, 3);
    hd_json_write_f64(&w, (double)NAN);
    hd_json_write_end(&w);
    hd_json_write_key(&w, "s");
    hd_json_write_string_n(&w, "\x01\n\\\xFF", 4);
    hd_json_write_key(&w, "e");
    hd_json_write_object(&w);
    hd_json_write_end(&w);
    hd_json_write_end(&w);
    assert_ok(hd_buf_check(&buf, &err));
    assert_string_equal(buf.data, "{\"a\\\"b\": [-9223372036854775808, 18446744073709551615, 0.1, 3.0, null], "
                                  "\"s\": \"\\u0001\\n\\\\\xEF\xBF\xBD\", \"e\": {}}");
    assert_ok(check(buf.data, buf.n, &err));
    hd_buf_clear(&buf);
    hd_json_writer_init(&w, &buf, 2);
    hd_json_write_array(&w);
    hd_json_write_bool(&w, true);
    hd_json_write_null(&w);
    hd_json_write_end(&w);
    assert_string_equal(buf.data, "[\n  true,\n  null\n]");
    hd_buf_free(&buf);
}

/* A header as V3's: 94,000 tensors, 12 MB. */
static void large_header_is_fast(void **state)
{
    (void)state;
    enum { N = 94000 };
    hd_buf buf = {0};
    hd_err err;
    int64_t sum = 0;
    hd_buf_append_char(&buf, '{');
    for (int i = 0; i < N; i++) {
        hd_buf_printf(&buf,
                      "%s\"model.layers.%d.mlp.experts.%d.down_proj.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":"
                      "[7168,2048],\"data_offsets\":[%lld,%lld]}",
                      i == 0 ? "" : ",", i / 1000, i % 1000, i * 14680064LL, (i + 1) * 14680064LL);
    }
    hd_buf_append_char(&buf, '}');
    assert_ok(hd_buf_check(&buf, &err));
    double start = hd_clock_now_s();
    hd_json json;
    hd_json_str key, member, text;
    bool more, deeper, item;
    hd_json_open(&json, buf.data, buf.n, "header", HD_JSON_STRICT);
    assert_ok(hd_json_object_begin(&json, &err));
    for (;;) {
        assert_int_equal(hd_json_object_next(&json, &more, &key, &err), HD_OK);
        if (!more) { break; }
        assert_int_equal(hd_json_object_begin(&json, &err), HD_OK);
        for (;;) {
            assert_int_equal(hd_json_object_next(&json, &deeper, &member, &err), HD_OK);
            if (!deeper) { break; }
            if (hd_json_str_is(member, "dtype")) {
                assert_int_equal(hd_json_string(&json, &text, &err), HD_OK);
                continue;
            }
            assert_int_equal(hd_json_array_begin(&json, &err), HD_OK);
            for (;;) {
                int64_t value;
                assert_int_equal(hd_json_array_next(&json, &item, &err), HD_OK);
                if (!item) { break; }
                assert_int_equal(hd_json_i64(&json, &value, &err), HD_OK);
                sum ^= value;
            }
        }
    }
    assert_ok(hd_json_end(&json, &err));
    hd_json_close(&json);
    print_message("  %zu bytes in %.1f ms (checksum %lld)\n", buf.n, 1e3 * (hd_clock_now_s() - start), (long long)sum);
    hd_buf_free(&buf);
}

/* Every truncation and every allocation failure leaves nothing behind. */
static void no_leaks(void **state)
{
    (void)state;
    static const char text[] = "{\"a\\n\":{\"b\":[1,\"\\u00e9x\"],\"c\":{}},\"d\":-1.5e3}";
    size_t live = hd_alloc_get_stats().live_calls;
    hd_err err;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        assert_int_equal(check(text, n, &err), HD_E_CORRUPT);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
    }
    for (size_t n = 1;; n++) {
        hd_alloc_fail_at(n, 0);
        hd_status st = check(text, sizeof text - 1, &err);
        hd_alloc_fail_at(0, 0);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
    }
}

/* Many keys, then many small objects: the table of keys grows, shrinks and still finds every duplicate. */
static void duplicates_among_many(void **state)
{
    (void)state;
    enum { N = 100000 };
    hd_buf buf = {0};
    hd_err err;
    hd_buf_append_char(&buf, '{');
    for (int i = 0; i < N; i++) { hd_buf_printf(&buf, "\"k%d\":{\"k%d\":{\"k%d\":0}},", i, i, i + 1); }
    size_t n = buf.n;
    hd_buf_printf(&buf, "\"k%d\":0}", N);
    assert_ok(check(buf.data, buf.n, &err));
    buf.n = n;
    hd_buf_printf(&buf, "\"k%d\":0}", N / 2);
    assert_fails(check(buf.data, buf.n, &err), HD_E_CORRUPT, "the key \"k50000\" stands twice");
    hd_json json;
    hd_json_open(&json, buf.data, buf.n, "t", HD_JSON_ALLOW_DUPLICATES);
    assert_ok(hd_json_end(&json, &err));
    hd_json_close(&json);
    hd_buf_free(&buf);
}

/* The limit on keys holds for those open at one time, not for all that the text has. */
static void closed_objects_free_their_keys(void **state)
{
    (void)state;
    hd_buf buf = {0};
    hd_err err;
    hd_buf_append_char(&buf, '[');
    for (int i = 0; i < HD_JSON_MAX_KEYS / 2 + 10; i++) { hd_buf_append_text(&buf, "{\"a\":0,\"b\":0},"); }
    hd_buf_append_text(&buf, "0]");
    assert_ok(check(buf.data, buf.n, &err));
    hd_buf_clear(&buf);
    hd_buf_append_char(&buf, '{');
    for (int i = 0; i <= HD_JSON_MAX_KEYS; i++) { hd_buf_printf(&buf, "\"%x\":0,", i); }
    assert_fails(check(buf.data, buf.n, &err), HD_E_CORRUPT, "more than 1048576 keys");
    hd_buf_free(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts),
        cmocka_unit_test(refuses),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(pulls_values),
        cmocka_unit_test(doubles_read_back),
        cmocka_unit_test(writes),
        cmocka_unit_test(large_header_is_fast),
        cmocka_unit_test(no_leaks),
        cmocka_unit_test(duplicates_among_many),
        cmocka_unit_test(closed_objects_free_their_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
