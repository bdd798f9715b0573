/* The manifest as text: what goes in comes out, every flipped bit is seen, and a text that is sealed but wrong is refused too. */
#include "support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/sha256.h"
#include "checkpoint/block_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/names.h"

static hd_err err;

static void build(hd_manifest *m)
{
    static int64_t integers[3] = {0, INT64_MIN, INT64_MAX};
    static double numbers[6] = {-0.0, 1.0 / 3.0, INFINITY, -INFINITY, NAN, 5e-324};
    static char text[] = "quote \" backslash \\ line\nend \xC3\xA9";
    hd_ckpt_value values[] = {{.name = "iterator.position", .kind = HD_CKPT_I64, .n = 3, .i64 = integers},
                              {.name = "spike.all", .kind = HD_CKPT_F64, .n = 6, .f64 = numbers},
                              {.name = "spike.none", .kind = HD_CKPT_F64, .n = 0},
                              {.name = "data.name", .kind = HD_CKPT_TEXT, .n = sizeof text, .text = text}};
    *m = (hd_manifest){.step = 250, .version = "0.1", .created = "2026-01-31T12:00:00Z", .config_digest = "d1"};
    for (int i = 0; i < 4; i++) { assert_ok(hd_manifest_add_value(m, &values[i], &err)); }
    assert_ok(hd_manifest_add_file(m, "config.json", 1234, &err));
    assert_ok(hd_manifest_add_file(m, "empty.json", 0, &err));
    assert_ok(hd_manifest_add_file(m, "optimizer/optimizer.safetensors", 3 * HD_BLOCK_BYTES + 1, &err));
    m->files[0].crc[0] = 0xDEADBEEF;
    for (int b = 0; b < 4; b++) { m->files[2].crc[b] = (uint32_t)b * 0x01234567u; }
}

static void round_trip(void **state)
{
    (void)state;
    hd_manifest m, back;
    hd_buf text = {0};
    build(&m);
    hd_manifest_write(&m, &text);
    assert_ok(hd_buf_check(&text, &err));
    assert_true((int64_t)text.n <= hd_manifest_estimate(&m));
    assert_ok(hd_manifest_parse(text.data, text.n, "m", &back, &err));
    assert_true(back.step == 250 && back.n_file == 3 && back.n_value == 4);
    assert_string_equal(back.version, "0.1");
    assert_string_equal(back.created, "2026-01-31T12:00:00Z");
    assert_string_equal(back.config_digest, "d1");
    for (int i = 0; i < 3; i++) {
        assert_string_equal(back.files[i].name, m.files[i].name);
        assert_true(back.files[i].bytes == m.files[i].bytes);
        int64_t n = hd_block_count(m.files[i].bytes);
        if (n > 0) { assert_memory_equal(back.files[i].crc, m.files[i].crc, (size_t)n * 4); }
    }
    for (int i = 0; i < 4; i++) {
        const hd_manifest_value *v = hd_manifest_find_value(&back, m.values[i].name), *w = &m.values[i];
        assert_true(v != NULL && v->kind == w->kind && v->n == w->n);
        if (v->kind == HD_CKPT_TEXT) { assert_string_equal(v->text, w->text); }
        if (v->kind == HD_CKPT_I64) { assert_memory_equal(v->i64, w->i64, (size_t)v->n * 8); }
        if (v->kind == HD_CKPT_F64 && v->n > 0) { assert_memory_equal(v->f64, w->f64, (size_t)v->n * 8); }
    }
    assert_null(hd_manifest_find_value(&back, "none"));
    assert_null(hd_manifest_find_file(&back, "none"));
    hd_manifest_free(&back);
    hd_manifest_free(&m);
    hd_buf_free(&text);
}

static void every_bit_and_every_cut(void **state)
{
    (void)state;
    hd_manifest m, back;
    hd_buf text = {0};
    build(&m);
    hd_manifest_write(&m, &text);
    for (size_t bit = 0; bit < 8 * text.n; bit++) {
        text.data[bit / 8] = (char)(text.data[bit / 8] ^ (1 << bit % 8));
        assert_int_equal(hd_manifest_parse(text.data, text.n, "m", &back, &err), HD_E_CORRUPT);
        text.data[bit / 8] = (char)(text.data[bit / 8] ^ (1 << bit % 8));
    }
    for (size_t n = 0; n < text.n; n++) { assert_int_equal(hd_manifest_parse(text.data, n, "m", &back, &err), HD_E_CORRUPT); }
    hd_manifest_free(&m);
    hd_buf_free(&text);
}

/* A text with the right digest at its end. */
static char *sealed(const char *members, size_t *n)
{
    static char text[4096];
    char hex[HD_SHA256_HEX];
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256 sha;
    int k = snprintf(text, sizeof text, "{%s\"sha256\": \"", members);
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, text, (size_t)k);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    k += snprintf(text + k, sizeof text - (size_t)k, "%s\"\n}\n", hex);
    *n = (size_t)k;
    return text;
}

#define HEAD "\"format\": \"hadal-checkpoint\", \"version\": 1, \"step\": 3, "
#define FILE_ROW(name, bytes, crc, digest) \
    HEAD "\"files\": [{\"name\": \"" name "\", \"bytes\": " bytes ", \"crc32c\": \"" crc "\", \"digest\": \"" digest "\"}], "

static void sealed_but_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *members, *message;
        hd_status status;
    } rows[] = {
        {"", "format \"\"", HD_E_CORRUPT},
        {"\"format\": \"other\", \"version\": 1, \"step\": 3, ", "not a checkpoint of hadal", HD_E_CORRUPT},
        {"\"format\": \"hadal-checkpoint\", \"version\": 1, ", "step -1", HD_E_CORRUPT},
        {"\"format\": \"hadal-checkpoint\", \"version\": 2, \"step\": 3, ", "version 2, this program reads 1", HD_E_UNSUPPORTED},
        {HEAD, NULL, HD_OK},
        {HEAD "\"new\": [1, {\"a\": null}], ", NULL, HD_OK},
        {HEAD "\"step\": 4, ", "", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {}}, ", "state value a: empty", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"i64\": [1], \"f64\": []}}, ", "more than one member", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"i32\": [1]}}, ", "want i64, f64 or text", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"i64\": [1.5]}}, ", "", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"f64\": [1.5]}}, ", "", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"f64\": [\"3ff\"]}}, ", "16 hexadecimal digits", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\": {\"f64\": [\"3FF0000000000000\"]}}, ", "16 hexadecimal digits", HD_E_CORRUPT},
        {HEAD "\"state\": {\"a\\u0000b\": {\"i64\": [1]}}, ", "NUL", HD_E_CORRUPT},
        {HEAD "\"files\": [{}], ", "not a plain name", HD_E_CORRUPT},
        {FILE_ROW("../x", "1", "00000000", ""), "not a plain name", HD_E_CORRUPT},
        {FILE_ROW("/x", "1", "00000000", ""), "not a plain name", HD_E_CORRUPT},
        {FILE_ROW("a/b/c", "1", "00000000", ""), "not a plain name", HD_E_CORRUPT},
        {FILE_ROW("a/../b", "1", "00000000", ""), "not a plain name", HD_E_CORRUPT},
        {FILE_ROW(".hidden", "1", "00000000", ""), "not a plain name", HD_E_CORRUPT},
        {FILE_ROW("x", "-1", "", ""), "-1 bytes", HD_E_CORRUPT},
        {FILE_ROW("x", "1", "", ""), "with 0 block checksums", HD_E_CORRUPT},
        {FILE_ROW("x", "1", "0000000000000000", ""), "with 2 block checksums", HD_E_CORRUPT},
        {FILE_ROW("x", "9223372036854775807", "00000000", ""), "with 1 block checksums", HD_E_CORRUPT},
        {FILE_ROW("x", "1", "0000000g", ""), "not hexadecimal", HD_E_CORRUPT},
        {FILE_ROW("x", "1", "0000000", ""), "multiple of 8", HD_E_CORRUPT},
        {FILE_ROW("x", "1", "00000000", "00"), "its digest does not match", HD_E_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_manifest m;
        size_t n;
        const char *text = sealed(rows[i].members, &n);
        hd_status st = hd_manifest_parse(text, n, "m", &m, &err);
        if (st != rows[i].status || (rows[i].message != NULL && strstr(err.msg, rows[i].message) == NULL)) {
            fail_msg("%s: %s: %s", rows[i].members, hd_status_name(st), err.msg);
        }
        hd_manifest_free(&m);
    }
}

static void memory_runs_out(void **state)
{
    (void)state;
    hd_manifest m, back;
    hd_buf text = {0};
    build(&m);
    hd_manifest_write(&m, &text);
    size_t live = hd_alloc_get_stats().live_calls;
    for (size_t k = 1;; k++) {
        hd_alloc_fail_at(k, 0);
        hd_status st = hd_manifest_parse(text.data, text.n, "m", &back, &err);
        hd_alloc_fail_at(0, 0);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
    }
    hd_manifest_free(&back);
    hd_manifest_free(&m);
    hd_buf_free(&text);
}

static void step_names(void **state)
{
    (void)state;
    int64_t step;
    char name[HD_STEP_NAME_MAX];
    static const char *const good[] = {"0", "7", "250", "999999999999999999"};
    static const char *const bad[] = {"", "00", "01", "-1", "+1", "1 ", " 1", "1.tmp", "1x", "1000000000000000000", "0x1", "items"};
    static const char *const not_partial[] = {"1.tmp.", "1.tmp.0123456789abcde", "1.tmp.0123456789abcdef0", "1.tmp.0123456789ABCDEF", "x.tmp.0123456789abcdef",
                                              "1.tmq.0123456789abcdef", "1", "01.tmp.0123456789abcdef"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(hd_step_name_parse(good[i], &step));
        hd_step_name(step, name);
        assert_string_equal(name, good[i]);
        hd_partial_name(step, 0xFEDCBA9876543210u, name);
        assert_false(hd_step_name_parse(name, &step));
        assert_true(hd_partial_name_parse(name, &step));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { assert_false(hd_step_name_parse(bad[i], &step)); }
    for (size_t i = 0; i < sizeof not_partial / sizeof not_partial[0]; i++) { assert_false(hd_partial_name_parse(not_partial[i], &step)); }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),      cmocka_unit_test(every_bit_and_every_cut), cmocka_unit_test(sealed_but_wrong),
        cmocka_unit_test(memory_runs_out), cmocka_unit_test(step_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
