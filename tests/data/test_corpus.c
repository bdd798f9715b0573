/* Files and folders as documents: plain, separated, JSON lines, compressed; damaged ones are refused by name. */
#include <stdio.h>
#include <zlib.h>
#include <zstd.h>

#include "base/alloc.h"
#include "base/io.h"
#include "data/corpus.h"
#include "support/test.h"

static void put(const char *path, const void *data, size_t n)
{
    hd_err err = {0};
    assert_ok(hd_io_write_file(path, data, n, &err));
}

static void put_text(const char *path, const char *text) { put(path, text, strlen(text)); }

static void expect_document(hd_corpus *c, int64_t d, const char *want)
{
    hd_err err = {0};
    char text[4096] = {0};
    assert_true(d < c->n_document);
    assert_int_equal(c->documents[d].n_byte, strlen(want));
    assert_ok(hd_corpus_read(c, d, 0, c->documents[d].n_byte, text, &err));
    assert_string_equal(text, want);
}

static void a_folder_is_read_in_name_order(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    assert_ok(hd_io_mkdirs(hd_temp_path(*state, "t/sub"), &err));
    put_text(hd_temp_path(*state, "t/b.txt"), "second");
    put_text(hd_temp_path(*state, "t/a.txt"), "first");
    put_text(hd_temp_path(*state, "t/.hidden"), "no");
    put_text(hd_temp_path(*state, "t/empty.txt"), "");
    put_text(hd_temp_path(*state, "t/sub/c.md"), "third");
    assert_ok(hd_corpus_open(hd_temp_path(*state, "t"), "text", NULL, &c, &err));
    assert_int_equal(c.n_document, 3);
    assert_int_equal(c.n_byte, 16);
    expect_document(&c, 0, "first");
    expect_document(&c, 2, "third");
    expect_document(&c, 1, "second");
    hd_corpus_close(&c);
}

static void a_list_names_several(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    char paths[2048];
    put_text(hd_temp_path(*state, "one"), "1");
    put_text(hd_temp_path(*state, "two"), "22");
    snprintf(paths, sizeof paths, "%s,%s", hd_temp_path(*state, "two"), hd_temp_path(*state, "one"));
    assert_ok(hd_corpus_open(paths, "text", NULL, &c, &err));
    expect_document(&c, 0, "22");
    expect_document(&c, 1, "1");
    hd_corpus_close(&c);
}

static void separator_lines_cut_documents(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    put_text(hd_temp_path(*state, "s.txt"), "a\nb\n%%\n%%\nc %%\n%%d\n%%\r\nlast");
    assert_ok(hd_corpus_open(hd_temp_path(*state, "s.txt"), "text", "%%", &c, &err));
    assert_int_equal(c.n_document, 3);
    expect_document(&c, 0, "a\nb\n");
    expect_document(&c, 1, "c %%\n%%d\n");
    expect_document(&c, 2, "last");
    hd_corpus_close(&c);
}

static const char lines[] = "{\"id\": 1, \"text\": \"na\\u00efve \\ud83d\\ude00\\n\"}\n\n  \r\n{\"text\":\"\",\"x\":[1,{\"y\":null}]}\n{\"text\":\"end\"}";

static void expect_lines(hd_corpus *c)
{
    assert_int_equal(c->n_document, 2);
    expect_document(c, 0, "na\xc3\xafve \xf0\x9f\x98\x80\n");
    expect_document(c, 1, "end");
}

static void json_lines_give_their_column(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    put_text(hd_temp_path(*state, "x.jsonl"), lines);
    assert_ok(hd_corpus_open(hd_temp_path(*state, "x.jsonl"), "text", NULL, &c, &err));
    expect_lines(&c);
    hd_corpus_close(&c);
    put_text(hd_temp_path(*state, "y.jsonl"), "{\"text\":\"a\"}\n{\"body\":\"b\"}\n");
    assert_fails(hd_corpus_open(hd_temp_path(*state, "y.jsonl"), "text", NULL, &c, &err), HD_E_CORRUPT, "line 2");
    put_text(hd_temp_path(*state, "y.jsonl"), "{\"text\":\"a\"}\n{\"text\":7}\n");
    assert_fails(hd_corpus_open(hd_temp_path(*state, "y.jsonl"), "text", NULL, &c, &err), HD_E_CORRUPT, "line 2");
    put_text(hd_temp_path(*state, "y.jsonl"), "{\"text\":\"a\"} x\n");
    assert_fails(hd_corpus_open(hd_temp_path(*state, "y.jsonl"), "text", NULL, &c, &err), HD_E_CORRUPT, "line 1");
    put_text(hd_temp_path(*state, "y.jsonl"), "[]\n");
    assert_fails(hd_corpus_open(hd_temp_path(*state, "y.jsonl"), "text", NULL, &c, &err), HD_E_CORRUPT, "line 1");
}

static size_t gzip(const void *data, size_t n, unsigned char *out, size_t capacity)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)capacity;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t made = capacity - z.avail_out;
    deflateEnd(&z);
    return made;
}

static void compressed_text_is_the_same_text(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    static unsigned char packed[1 << 20];
    static char big[300000], back[300000];
    for (size_t i = 0; i < sizeof big; i++) { big[i] = (char)('a' + (i * i / 7) % 26); }
    size_t n = ZSTD_compress(packed, sizeof packed, lines, strlen(lines), 3);
    put(hd_temp_path(*state, "x.jsonl.zst"), packed, n);
    assert_ok(hd_corpus_open(hd_temp_path(*state, "x.jsonl.zst"), "text", NULL, &c, &err));
    expect_lines(&c);
    hd_corpus_close(&c);
    n = gzip(big, sizeof big, packed, sizeof packed);
    n += gzip("more", 4, packed + n, sizeof packed - n); /* two members */
    put(hd_temp_path(*state, "big.txt.gz"), packed, n);
    assert_ok(hd_corpus_open(hd_temp_path(*state, "big.txt.gz"), "text", NULL, &c, &err));
    assert_int_equal(c.n_byte, sizeof big + 4);
    assert_ok(hd_corpus_read(&c, 0, 0, sizeof big, back, &err));
    assert_memory_equal(big, back, sizeof big);
    hd_corpus_close(&c);
}

static void cut_or_broken_streams_are_refused(void **state)
{
    hd_err err = {0};
    hd_corpus c;
    static unsigned char packed[1 << 16];
    size_t n = ZSTD_compress(packed, sizeof packed, lines, strlen(lines), 3);
    put(hd_temp_path(*state, "cut.zst"), packed, n - 3);
    assert_fails(hd_corpus_open(hd_temp_path(*state, "cut.zst"), "text", NULL, &c, &err), HD_E_CORRUPT, "cut short");
    packed[6] ^= 0x55;
    put(hd_temp_path(*state, "bad.zst"), packed, n);
    assert_fails(hd_corpus_open(hd_temp_path(*state, "bad.zst"), "text", NULL, &c, &err), HD_E_CORRUPT, "bad.zst");
    n = gzip(lines, strlen(lines), packed, sizeof packed);
    put(hd_temp_path(*state, "cut.gz"), packed, n - 5);
    assert_fails(hd_corpus_open(hd_temp_path(*state, "cut.gz"), "text", NULL, &c, &err), HD_E_CORRUPT, "cut short");
    put(hd_temp_path(*state, "none.gz"), "plain text", 10);
    assert_fails(hd_corpus_open(hd_temp_path(*state, "none.gz"), "text", NULL, &c, &err), HD_E_CORRUPT, "none.gz");
    assert_fails(hd_corpus_open(hd_temp_path(*state, "absent"), "text", NULL, &c, &err), HD_E_IO, "does not exist");
}

static void the_cut_is_contiguous_and_complete(void **state)
{
    hd_err err = {0};
    put_text(hd_temp_path(*state, "p1"), "abcd");
    put_text(hd_temp_path(*state, "p2"), "efg");
    put_text(hd_temp_path(*state, "p3"), "hij");
    char paths[2048], text[16];
    snprintf(paths, sizeof paths, "%s,%s,%s", hd_temp_path(*state, "p1"), hd_temp_path(*state, "p2"), hd_temp_path(*state, "p3"));
    for (int64_t cut = 0; cut <= 10; cut++) {
        hd_corpus a, b;
        size_t n = 0;
        assert_ok(hd_corpus_open(paths, "text", NULL, &a, &err));
        assert_ok(hd_corpus_open(paths, "text", NULL, &b, &err));
        hd_corpus_keep_before(&a, cut);
        hd_corpus_keep_from(&b, cut);
        assert_int_equal(a.n_byte, cut);
        assert_int_equal(b.n_byte, 10 - cut);
        hd_corpus *parts[] = {&a, &b};
        for (int k = 0; k < 2; k++) {
            for (int64_t d = 0; d < parts[k]->n_document; d++) {
                assert_true(parts[k]->documents[d].n_byte > 0);
                assert_ok(hd_corpus_read(parts[k], d, 0, parts[k]->documents[d].n_byte, text + n, &err));
                n += (size_t)parts[k]->documents[d].n_byte;
            }
        }
        assert_int_equal(n, 10);
        assert_memory_equal(text, "abcdefghij", 10);
        hd_corpus_close(&a);
        hd_corpus_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_folder_is_read_in_name_order, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(a_list_names_several, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(separator_lines_cut_documents, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(json_lines_give_their_column, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(compressed_text_is_the_same_text, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(cut_or_broken_streams_are_refused, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(the_cut_is_contiguous_and_complete, hd_temp_setup, hd_temp_teardown),
    };
    return cmocka_run_group_tests_name("data/corpus", tests, NULL, NULL);
}
