/* The strict reader: each rule broken once, files of every size in bounded memory and time; the writer's headers. */
#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/io.h"
#include "base/sysinfo.h"
#include "checkpoint/safetensors.h"

static hd_err err;

/* A file in memory: length, header, n bytes of data. */
static size_t make_file(const char *header, size_t header_n, size_t data_n, unsigned char **out)
{
    unsigned char *bytes = calloc(1, 8 + header_n + data_n + 1);
    for (int i = 0; i < 8; i++) { bytes[i] = (unsigned char)((uint64_t)header_n >> (8 * i)); }
    memcpy(bytes + 8, header, header_n);
    for (size_t i = 0; i < data_n; i++) { bytes[8 + header_n + i] = (unsigned char)(i * 7 + 1); }
    *out = bytes;
    return 8 + header_n + data_n;
}

static hd_status open_bytes(const unsigned char *bytes, size_t n, hd_st_reader **reader, hd_block_file *file)
{
    unsigned char *exact = malloc(n > 0 ? n : 1); /* the sanitizer sees one byte too far */
    memcpy(exact, bytes, n);
    hd_block_file_of_memory(exact, n, file);
    hd_status st = hd_st_open(file, reader, &err);
    if (st != HD_OK) { free(exact); }
    return st;
}

static void close_bytes(hd_st_reader *reader, hd_block_file *file)
{
    hd_st_close(reader);
    free((void *)(uintptr_t)file->memory);
}

#define T(fields) "\"a\":{" fields "}"
#define GOOD "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"

typedef struct hostile {
    const char *title, *header;
    size_t data;
    hd_status status;
    const char *message;
} hostile;

static const hostile refused[] = {
    {"no object", "", 0, HD_E_CORRUPT, "found the end, want '{'"},
    {"an array", "[]", 0, HD_E_CORRUPT, "found '[', want '{'"},
    {"cut short", "{\"a\":{", 0, HD_E_CORRUPT, "want '\"'"},
    {"text behind", "{}x", 0, HD_E_CORRUPT, "text after the header's object"},
    {"two objects", "{}{}", 0, HD_E_CORRUPT, "text after the header's object"},
    {"trailing comma", "{" T(GOOD) ",}", 8, HD_E_CORRUPT, "found '}', want '\"'"},
    {"no comma", "{" T(GOOD) " \"b\":{}}", 8, HD_E_CORRUPT, "want ',' or '}'"},
    {"not UTF-8", "{\"\xC0\xAF\":{" GOOD "}}", 8, HD_E_CORRUPT, "not UTF-8"},
    {"a surrogate in UTF-8", "{\"\xED\xA0\x80\":{" GOOD "}}", 8, HD_E_CORRUPT, "not UTF-8"},
    {"lone surrogate", "{\"\\ud800\":{" GOOD "}}", 8, HD_E_CORRUPT, "lone surrogate"},
    {"second surrogate alone", "{\"\\udc00\":{" GOOD "}}", 8, HD_E_CORRUPT, "lone surrogate"},
    {"bad escape", "{\"\\x\":{" GOOD "}}", 8, HD_E_CORRUPT, "an escape that JSON does not have"},
    {"short \\u", "{\"\\u12\":{" GOOD "}}", 8, HD_E_CORRUPT, "four hexadecimal digits"},
    {"control character", "{\"\n\":{" GOOD "}}", 8, HD_E_CORRUPT, "control character"},
    {"NUL in a name", "{\"a\\u0000b\":{" GOOD "}}", 8, HD_E_CORRUPT, "a name with a NUL"},
    {"open string", "{\"abc", 0, HD_E_CORRUPT, "ends inside a string"},
    {"duplicate name", "{" T(GOOD) "," T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]") "}", 16, HD_E_CORRUPT,
     "tensor a is there twice"},
    {"duplicate name by escape", "{" T(GOOD) ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
     HD_E_CORRUPT, "tensor a is there twice"},
    {"duplicate field", "{" T("\"dtype\":\"F32\"," GOOD) "}", 8, HD_E_CORRUPT, "\"dtype\" twice"},
    {"duplicate metadata", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, HD_E_CORRUPT, "\"__metadata__\" twice"},
    {"metadata not text", "{\"__metadata__\":{\"a\":1}}", 0, HD_E_CORRUPT, "found '1', want '\"'"},
    {"metadata no object", "{\"__metadata__\":[]}", 0, HD_E_CORRUPT, "found '[', want '{'"},
    {"no shape", "{" T("\"dtype\":\"F32\",\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "without dtype, shape or data_offsets"},
    {"no dtype", "{" T("\"shape\":[2],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "without dtype, shape or data_offsets"},
    {"no offsets", "{" T("\"dtype\":\"F32\",\"shape\":[2]") "}", 8, HD_E_CORRUPT, "without dtype, shape or data_offsets"},
    {"empty tensor", "{" T("") "}", 0, HD_E_CORRUPT, "without dtype"},
    {"tensor no object", "{\"a\":3}", 0, HD_E_CORRUPT, "found '3', want '{'"},
    {"unknown dtype", "{" T("\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "unknown dtype \"F31\""},
    {"dtype that hadal lacks", "{" T("\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]") "}", 8, HD_E_UNSUPPORTED, "C64"},
    {"negative length", "{" T("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "non-negative integer"},
    {"fraction", "{" T("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "non-negative integer"},
    {"exponent", "{" T("\"dtype\":\"F32\",\"shape\":[2e0],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "non-negative integer"},
    {"leading zero", "{" T("\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT, "non-negative integer"},
    {"number of 2^63", "{" T("\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT,
     "above 2^63 - 1"},
    {"shape overflow", "{" T("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT,
     "its shape has more than 2^63 - 1 bytes"},
    {"overflow by the dtype", "{" T("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]") "}", 8, HD_E_CORRUPT,
     "its shape has more than 2^63 - 1 bytes"},
    {"nine dimensions", "{" T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]") "}", 1, HD_E_UNSUPPORTED,
     "more than 8 dimensions"},
    {"span too long", "{" T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9]") "}", 9, HD_E_CORRUPT, "F32 (2) wants 8"},
    {"span too short", "{" T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7]") "}", 7, HD_E_CORRUPT, "F32 (2) wants 8"},
    {"does not begin at 0", "{" T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]") "}", 9, HD_E_CORRUPT, "to begin at 0"},
    {"hole", "{" T(GOOD) ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10, HD_E_CORRUPT, "to begin at 8"},
    {"overlap", "{" T(GOOD) ",\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[7,9]}}", 9, HD_E_CORRUPT, "to begin at 8"},
    {"same span twice", "{" T(GOOD) ",\"b\":{" GOOD "}}", 8, HD_E_CORRUPT, "to begin at 8"},
    {"reversed", "{" T("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]") ",\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,-1]}}",
     0, HD_E_CORRUPT, "non-negative integer"},
    {"end before begin", "{" T(GOOD) ",\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,4]}}", 8, HD_E_CORRUPT, "reversal"},
    {"one offset", "{" T("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0]") "}", 0, HD_E_CORRUPT, "want ','"},
    {"three offsets", "{" T("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0,0]") "}", 0, HD_E_CORRUPT, "want ']'"},
    {"trailing byte", "{" T(GOOD) "}", 9, HD_E_CORRUPT, "end at byte 8 of the data, the file has 9"},
    {"missing byte", "{" T(GOOD) "}", 7, HD_E_CORRUPT, "end at byte 8 of the data, the file has 7"},
    {"data without tensors", "{}", 1, HD_E_CORRUPT, "end at byte 0"},
    {"bad value in an unknown field", "{" T(GOOD ",\"x\":[1,]") "}", 8, HD_E_CORRUPT, "JSON does not have"},
    {"bad word in an unknown field", "{" T(GOOD ",\"x\":nul") "}", 8, HD_E_CORRUPT, "JSON does not have"},
};

static void every_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        unsigned char *bytes;
        hd_st_reader *reader = NULL;
        hd_block_file file;
        const hostile *h = &refused[i];
        size_t n = make_file(h->header, strlen(h->header), h->data, &bytes);
        hd_status st = open_bytes(bytes, n, &reader, &file);
        if (st != h->status || strstr(err.msg, h->message) == NULL) {
            fail_msg("%s: %s, \"%s\"; want %s, \"%s\"", h->title, hd_status_name(st), err.msg, hd_status_name(h->status), h->message);
        }
        assert_null(reader);
        free(bytes);
    }
}

static void lengths(void **state)
{
    (void)state;
    unsigned char bytes[16] = {0};
    hd_st_reader *reader;
    hd_block_file file;
    for (size_t n = 0; n < 8; n++) { assert_fails(open_bytes(bytes, n, &reader, &file), HD_E_CORRUPT, "at least 8"); }
    assert_fails(open_bytes(bytes, 8, &reader, &file), HD_E_CORRUPT, "want '{'");
    bytes[0] = 9;
    assert_fails(open_bytes(bytes, 16, &reader, &file), HD_E_CORRUPT, "a safetensors header of 9 bytes in a file of 16");
    memset(bytes, 0xFF, 8);
    assert_fails(open_bytes(bytes, 16, &reader, &file), HD_E_CORRUPT, "want at most 100000000");
    memset(bytes, 0, 8);
    bytes[0] = 0x01, bytes[1] = 0xE1, bytes[2] = 0xF5, bytes[3] = 0x05; /* 100,000,001 */
    assert_fails(open_bytes(bytes, 16, &reader, &file), HD_E_CORRUPT, "want at most 100000000");
}

static void accepts(void **state)
{
    (void)state;
    static const char header[] = " {\"__metadata__\":{\"format\":\"pt\",\"x\":\"\"}, \"z\\u00e9\\ud83d\\ude00\":"
                                 "{\"data_offsets\":[6,14],\"new\":{\"a\":[1,-2.5e-3,true,null,\"s\"],\"b\":{}},\"shape\":[1,2],\"dtype\":\"F32\"},"
                                 "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[4,6]},"
                                 "\"none\":{\"dtype\":\"I64\",\"shape\":[0,9223372036854775807],\"data_offsets\":[4,4]},"
                                 "\"first\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}   \n ";
    unsigned char *bytes, got[8];
    hd_st_reader *reader = NULL;
    hd_block_file file;
    size_t n = make_file(header, strlen(header), 14, &bytes);
    assert_ok(open_bytes(bytes, n, &reader, &file));
    assert_int_equal(hd_st_count(reader), 4);
    assert_string_equal(hd_st_get(reader, 0).name, "first");
    assert_string_equal(hd_st_get(reader, 3).name, "z\xC3\xA9\xF0\x9F\x98\x80");
    int64_t i = hd_st_find(reader, "scalar");
    hd_st_info info = hd_st_get(reader, i);
    assert_true(info.dtype == HD_DTYPE_BF16 && info.n_dim == 0 && info.bytes == 2 && info.offset == (int64_t)(8 + strlen(header) + 4));
    assert_int_equal(hd_st_find(reader, "second"), -1);
    i = hd_st_find(reader, "z\xC3\xA9\xF0\x9F\x98\x80");
    assert_ok(hd_st_read(reader, i, 0, 8, got, &err));
    assert_memory_equal(got, bytes + 8 + strlen(header) + 6, 8);
    assert_ok(hd_st_read(reader, i, 5, 3, got, &err));
    assert_memory_equal(got, bytes + 8 + strlen(header) + 11, 3);
    assert_fails(hd_st_read(reader, i, 5, 4, got, &err), HD_E_INVALID, "4 bytes wanted at 5, it has 8");
    assert_fails(hd_st_read(reader, i, -1, 1, got, &err), HD_E_INVALID, "wanted at -1");
    close_bytes(reader, &file);
    free(bytes);
}

static void nesting(void **state)
{
    (void)state;
    for (int deep = 0; deep < 2; deep++) {
        int depth = deep ? 100000 : 120;
        unsigned char *bytes;
        hd_st_reader *reader = NULL;
        hd_block_file file;
        char *header = calloc(1, (size_t)depth * 2 + 200), *p = header;
        p += sprintf(p, "{\"a\":{" GOOD ",\"x\":");
        for (int i = 0; i < depth; i++) { *p++ = '['; }
        for (int i = 0; i < depth; i++) { *p++ = ']'; }
        (void)sprintf(p, "}}");
        size_t n = make_file(header, strlen(header), 8, &bytes);
        hd_status st = open_bytes(bytes, n, &reader, &file);
        if (deep) {
            assert_int_equal(st, HD_E_CORRUPT);
            assert_non_null(strstr(err.msg, "nested deeper than 128"));
        } else {
            assert_int_equal(st, HD_OK);
            close_bytes(reader, &file);
        }
        free(bytes);
        free(header);
    }
}

/* ---- size ---------------------------------------------------------------------------------------------------------- */

static void put_header(FILE *f, uint64_t n)
{
    for (int i = 0; i < 8; i++) { fputc((int)(n >> (8 * i) & 0xFF), f); }
}

static double open_file(const char *path, hd_status want, const char *message, int64_t *count, size_t *peak_growth)
{
    hd_file *raw = NULL;
    hd_block_file file;
    hd_st_reader *reader = NULL;
    hd_rss before = {0}, after = {0};
    assert_ok(hd_io_open_read(path, &raw, &err));
    assert_ok(hd_block_file_open(raw, NULL, 0, NULL, &file, &err));
    assert_ok(hd_sysinfo_rss(&before, &err));
    double begin = hd_clock_now_s();
    hd_status st = hd_st_open(&file, &reader, &err);
    double seconds = hd_clock_now_s() - begin;
    if (st != want || (st != HD_OK && strstr(err.msg, message) == NULL)) { fail_msg("%s: %s", hd_status_name(st), err.msg); }
    assert_ok(hd_sysinfo_rss(&after, &err));
    *peak_growth = (size_t)(after.peak_bytes > before.now_bytes ? after.peak_bytes - before.now_bytes : 0);
    *count = st == HD_OK ? hd_st_count(reader) : 0;
    hd_st_close(reader);
    hd_block_file_close(&file);
    return seconds;
}

/* n tensors of one byte, in reversed order of the data (the sort has work), as a V3 file would name them. */
static void write_many(const char *path, int n, bool spoil)
{
    FILE *f = fopen(path, "wb");
    put_header(f, 0);
    uint64_t length = (uint64_t)fprintf(f, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = n - 1; i >= 0; i--) {
        length += (uint64_t)fprintf(f, ",\"model.layers.%d.mlp.experts.%d.down_proj.weight_scale_inv\":{\"dtype\":\"U8\",\"shape\":[1,1],\"data_offsets\":[%d,%d]}",
                                    i / 1024, i % 1024, i, i + 1);
    }
    length += (uint64_t)fprintf(f, spoil ? "]" : "}");
    for (int i = 0; i < n; i++) { fputc(i & 0xFF, f); }
    rewind(f);
    put_header(f, length);
    fclose(f);
}

static void ninety_four_thousand(void **state)
{
    int64_t count;
    size_t growth;
    const char *path = hd_temp_path(*state, "many.safetensors");
    write_many(path, 94000, false);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double s = open_file(path, HD_OK, "", &count, &growth);
        best = s < best ? s : best;
    }
    assert_int_equal(count, 94000);
    print_message("  94,000 tensors in %.0f ms\n", best * 1e3);
#ifndef HD_DEBUG
    assert_true(best < 0.5); /* 0.1 s is the aim; a busy machine may take longer */
#endif
}

/* Whatever the header holds, refusing it takes at most 64 MiB and a second. */
static void bounded(void **state)
{
    int64_t count;
    size_t growth;
    const char *path = hd_temp_path(*state, "hostile.safetensors");
    static char block[1 << 20];
    static const struct {
        const char *open, *fill, *message;
        hd_status status;
    } rows[] = {
        {"{", " ", "found the end", HD_E_CORRUPT},
        {"{\"", "a", "more than 16777216 bytes in one string", HD_E_UNSUPPORTED},
        {"{\"a\":{\"shape\":[", "1,", "more than 8 dimensions", HD_E_UNSUPPORTED},
        {"{\"a\":{\"x\":[", "0,", "found the end", HD_E_CORRUPT},
        {"{\"a\":{\"x\":", "1", "found the end", HD_E_CORRUPT},
        {"{\"__metadata__\":{\"a\":\"\",", "\"b\":\"\",", "", HD_E_CORRUPT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t k = strlen(rows[i].fill), per = sizeof block / k * k;
        for (size_t j = 0; j < per; j++) { block[j] = rows[i].fill[j % k]; }
        FILE *f = fopen(path, "wb");
        put_header(f, 99000000);
        fputs(rows[i].open, f);
        for (int j = 0; j < 100; j++) { fwrite(block, 1, per, f); }
        fclose(f);
        double seconds = open_file(path, rows[i].status, rows[i].message, &count, &growth);
        if (!(seconds < 2.0) || growth > (size_t)64 << 20) {
            print_message("  %s: %.2f s, %zu MiB\n", rows[i].open, seconds, growth >> 20);
#ifndef HD_DEBUG
            fail();
#endif
        }
    }
    write_many(path, 250000, true); /* good until its last byte */
    double seconds = open_file(path, HD_E_CORRUPT, "want ',' or '}'", &count, &growth);
    print_message("  250,000 tensors refused in %.2f s, %zu MiB\n", seconds, growth >> 20);
#ifndef HD_DEBUG
    assert_true(seconds < 2.0 && growth <= (size_t)64 << 20);
#endif
    write_many(path, 262145, false);
    (void)open_file(path, HD_E_UNSUPPORTED, "more than 262144 tensors", &count, &growth);
}

static void shrinking_file(void **state)
{
    static const char header[] = "{" T("\"dtype\":\"U8\",\"shape\":[4000],\"data_offsets\":[0,4000]") "}";
    unsigned char *bytes, got[4000];
    const char *path = hd_temp_path(*state, "shrink.safetensors");
    size_t n = make_file(header, strlen(header), 4000, &bytes);
    assert_ok(hd_io_write_file(path, bytes, n, &err));
    hd_file *raw;
    hd_block_file file;
    hd_st_reader *reader = NULL;
    assert_ok(hd_io_open_read(path, &raw, &err));
    assert_ok(hd_block_file_open(raw, NULL, 0, NULL, &file, &err));
    assert_ok(hd_st_open(&file, &reader, &err));
    assert_int_equal(truncate(path, 1000), 0);
    assert_fails(hd_st_read(reader, 0, 0, 4000, got, &err), HD_E_CORRUPT, "tensor a: ");
    hd_st_close(reader);
    hd_block_file_close(&file);
    free(bytes);
}

/* ---- verified blocks ----------------------------------------------------------------------------------------------- */

static void blocks(void **state)
{
    const size_t n = (size_t)(3 * HD_BLOCK_BYTES + 1234);
    unsigned char *bytes = malloc(n), *got = malloc(n);
    uint32_t crc[4];
    hd_block_cache cache;
    hd_block_file file;
    hd_file *raw;
    const char *path = hd_temp_path(*state, "blocks");
    hd_gen_bytes("blocks", bytes, (int64_t)n);
    for (int b = 0; b < 4; b++) {
        size_t at = (size_t)b << 20, m = n - at < 1u << 20 ? n - at : 1u << 20;
        crc[b] = hd_crc32c(0, bytes + at, m);
    }
    assert_ok(hd_io_write_file(path, bytes, n, &err));
    assert_ok(hd_block_cache_open(&cache, &err));
    for (int bad = -1; bad < 4; bad++) {
        crc[bad < 0 ? 0 : bad] ^= bad < 0 ? 0 : 1;
        assert_ok(hd_io_open_read(path, &raw, &err));
        assert_ok(hd_block_file_open(raw, crc, (int64_t)n, &cache, &file, &err));
        hd_rng rng = hd_test_rng("ranges");
        for (uint64_t i = 0; i < 200; i++) {
            int64_t at = (int64_t)hd_rng_below(rng, n, 3 * i), m = (int64_t)hd_rng_below(rng, i % 3 == 0 ? n : 5000, 3 * i + 1);
            m = at + m > (int64_t)n ? (int64_t)n - at : m;
            bool touches = bad >= 0 && m > 0 && at / HD_BLOCK_BYTES <= bad && (at + m - 1) / HD_BLOCK_BYTES >= bad;
            hd_status st = hd_block_file_read(&file, at, (size_t)m, got, &err);
            assert_int_equal(st, touches ? HD_E_CORRUPT : HD_OK);
            if (!touches && m > 0) { assert_memory_equal(got, bytes + at, (size_t)m); }
        }
        hd_status rest = hd_block_file_verify_rest(&file, &err);
        assert_int_equal(rest, bad < 0 ? HD_OK : HD_E_CORRUPT);
        if (bad >= 0) { assert_non_null(strstr(err.msg, "is damaged: CRC-32C")); }
        assert_fails(hd_block_file_read(&file, (int64_t)n, 1, got, &err), HD_E_CORRUPT, "bytes wanted");
        hd_block_file_close(&file);
        if (bad >= 0) { crc[bad] ^= 1; }
    }
    assert_ok(hd_io_open_read(path, &raw, &err));
    assert_fails(hd_block_file_open(raw, crc, (int64_t)n + 1, &cache, &file, &err), HD_E_CORRUPT, "the manifest says");
    hd_block_cache_close(&cache);
    free(bytes);
    free(got);
}

/* ---- writer -------------------------------------------------------------------------------------------------------- */

static int compare_descs(const void *a, const void *b) { return hd_st_compare(a, b); }

static void writer_round_trip(void **state)
{
    (void)state;
    hd_st_desc t[] = {
        {.name = "b", .dtype = HD_DTYPE_BF16, .n_dim = 2, .shape = {3, 5}}, {.name = "a\"\\\n", .dtype = HD_DTYPE_BF16, .n_dim = 1, .shape = {7}},
        {.name = "wide", .dtype = HD_DTYPE_F32, .n_dim = 0},                {.name = "i", .dtype = HD_DTYPE_I64, .n_dim = 1, .shape = {0}},
        {.name = "d", .dtype = HD_DTYPE_F64, .n_dim = 1, .shape = {2}},     {.name = "u", .dtype = HD_DTYPE_U8, .n_dim = 1, .shape = {3}},
    };
    enum { N = sizeof t / sizeof t[0] };
    static const char *const order[N] = {"i", "d", "wide", "a\"\\\n", "b", "u"};
    hd_buf header = {0};
    int64_t at = 0;
    qsort(t, N, sizeof t[0], compare_descs);
    hd_st_header_begin(&header);
    for (int i = 0; i < N; i++) {
        assert_string_equal(t[i].name, order[i]);
        assert_ok(hd_st_place(&t[i], &at, &err));
        assert_int_equal(t[i].begin % (int64_t)hd_dtype_bytes(t[i].dtype), 0);
        hd_st_header_tensor(&header, &t[i]);
    }
    assert_ok(hd_st_header_end(&header, &err));
    assert_int_equal(header.n % 8, 0);
    assert_non_null(strstr(header.data + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"i\":"));
    unsigned char *bytes = calloc(1, header.n + (size_t)at);
    memcpy(bytes, header.data, header.n);
    hd_st_reader *reader = NULL;
    hd_block_file file;
    assert_ok(open_bytes(bytes, header.n + (size_t)at, &reader, &file));
    for (int i = 0; i < N; i++) {
        hd_st_info info = hd_st_get(reader, hd_st_find(reader, order[i]));
        assert_true(info.dtype == t[i].dtype && info.n_dim == t[i].n_dim && info.bytes == t[i].end - t[i].begin);
        assert_true(info.offset == (int64_t)header.n + t[i].begin);
    }
    close_bytes(reader, &file);
    hd_buf_free(&header);
    free(bytes);
    hd_st_desc huge = {.name = "huge", .dtype = HD_DTYPE_F64, .n_dim = 2, .shape = {(int64_t)1 << 31, (int64_t)1 << 31}};
    at = 0;
    assert_fails(hd_st_place(&huge, &at, &err), HD_E_INVALID, "tensor huge");
}

static void memory_runs_out(void **state)
{
    (void)state;
    static const char header[] = "{" T(GOOD) "}";
    unsigned char *bytes;
    hd_st_reader *reader = NULL;
    hd_block_file file;
    size_t n = make_file(header, strlen(header), 8, &bytes), live = hd_alloc_get_stats().live_calls;
    for (size_t k = 1;; k++) {
        hd_block_file_of_memory(bytes, n, &file);
        hd_alloc_fail_at(k, 0);
        hd_status st = hd_st_open(&file, &reader, &err);
        hd_alloc_fail_at(0, 0);
        if (st == HD_OK) {
            assert_true(k > 5);
            break;
        }
        assert_int_equal(st, HD_E_NOMEM);
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
    }
    hd_st_close(reader);
    assert_int_equal(hd_alloc_get_stats().live_calls, live);
    free(bytes);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(every_rule),      CASE(lengths), CASE(accepts), CASE(nesting),           CASE(bounded),        CASE(ninety_four_thousand),
        CASE(shrinking_file), CASE(blocks),  CASE(writer_round_trip), CASE(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
