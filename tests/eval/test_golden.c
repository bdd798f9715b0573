/* Golden files: what is read, and what is refused with line and column. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/io.h"
#include "eval/golden.h"
#include "eval/golden_write.h"
#include "support/test.h"

static const char *put(void **state, const void *data, size_t n)
{
    hd_err err = {0};
    const char *path = hd_temp_path(*state, "golden.jsonl");
    assert_ok(hd_io_write_file(path, data, n, &err));
    return path;
}

/* Reads a file to its end: records and rows. */
static hd_status read_all(const char *path, int *n_record, double *sum, hd_err *err)
{
    hd_status st;
    hd_golden *g = NULL;
    const hd_golden_record *r;
    *n_record = 0;
    *sum = 0.0;
    HD_TRY(hd_golden_open(path, &g, err));
    for (;;) {
        HD_TRY(hd_golden_next(g, &r, err));
        if (r == NULL) { break; }
        ++*n_record;
        for (int64_t t = 0; t < r->n_token; t++) {
            const float *row;
            int64_t n;
            HD_TRY(hd_golden_row(g, &row, &n, err));
            for (int64_t i = 0; i < n; i++) { *sum += (double)row[i]; }
        }
    }
out:
    hd_golden_close(g);
    return st;
}

static void refuses(void **state, const char *text, const char *sentence)
{
    hd_err err = {0};
    int n;
    double sum;
    assert_fails(read_all(put(state, text, strlen(text)), &n, &sum, &err), HD_E_CORRUPT, sentence);
    if (strstr(err.msg, "golden.jsonl: line ") == NULL) { fail_msg("%s names no line", err.msg); }
}

static const char whole[] =
    "{\"prompt\": \"na\\u00efve \\\"x\\\"\", \"tokens\": [3, 1], \"hadal_golden\": {\"class\": \"C\", \"dtype\": \"float32\", \"versions\": {\"torch\": \"2\"}, "
    "\"experts\": {\"layers\": [1, 2], \"ids\": [[[0, 1], [2, 3]], [[4, 5], [6, 7]]], \"gaps\": [[0.5, 1e-7], [1, 2]]}}, "
    "\"logits\": [[1.5, -2e-1, 0], [3, 4.25, 5]]}\n"
    "\r\n  \n"
    "{\"logits\" : [ [ 7 , 8 , 9 ] ] , \"formatted_prompt\": \"]}\", \"more\": [{\"a\": [\"}\", null]}, -1.5e3, true], \"tokens\": [0], \"prompt\": \"\"}";

static void records_and_rows(void **state)
{
    hd_err err = {0};
    hd_golden *g;
    const hd_golden_record *r;
    const float *row;
    int64_t n;
    assert_ok(hd_golden_open(put(state, whole, sizeof whole - 1), &g, &err));
    assert_ok(hd_golden_next(g, &r, &err));
    assert_string_equal(r->prompt, "na\xc3\xafve \"x\"");
    assert_int_equal(r->n_token, 2);
    assert_int_equal(r->tokens[0], 3);
    assert_int_equal(r->line, 1);
    assert_non_null(strstr(r->made_by, "C, float32, {\"torch\": \"2\"}"));
    assert_int_equal(r->experts.n_layer, 2);
    assert_int_equal(r->experts.top_k, 2);
    assert_int_equal(r->experts.layers[1], 2);
    assert_int_equal(r->experts.ids[6], 6);
    assert_true(r->experts.gaps[1] == 1e-7f);
    assert_ok(hd_golden_row(g, &row, &n, &err));
    assert_int_equal(n, 3);
    assert_true(row[0] == 1.5f && row[1] == -0.2f && row[2] == 0.0f);
    assert_ok(hd_golden_next(g, &r, &err)); /* the second row was not asked for */
    assert_int_equal(r->line, 4);
    assert_int_equal(r->experts.n_layer, 0);
    assert_string_equal(r->made_by, "");
    assert_ok(hd_golden_row(g, &row, &n, &err));
    assert_true(row[2] == 9.0f);
    assert_ok(hd_golden_next(g, &r, &err));
    assert_null(r);
    hd_golden_close(g);
}

static void damage_is_a_sentence(void **state)
{
    refuses(state, "garbage\n", "line 1, column 1: 'g' stands here, want '{'");
    refuses(state, "\n\n  [1]\n", "line 3, column 3: '[' stands here, want '{'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1, 2", "line 1, column 48: the file ends inside a record, want ']'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1, 2\n", "column 48: the line ends inside a record, want ']'");
    refuses(state, "{\"prompt\": \"p", "the file ends inside a record, want the rest of a value");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1]}", "no member \"logits\"");
    refuses(state, "{\"prompt\": \"p\", \"logits\": [[1]]}", "no member \"tokens\"");
    refuses(state, "{\"tokens\": [1], \"logits\": [[1]]}", "no member \"prompt\"");
    refuses(state, "{}", "line 1, column 2: '}' stands here, want '\"'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1, 2], \"logits\": [[1]]}", "1 rows of logits and 2 tokens");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1], [2]]}", "2 rows of logits and 1 tokens");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1, 2], \"logits\": [[1, 2], [3]]}", "line 1, column 57: row 2 has 1 logits, rows before it have 2");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1, NaN]]}", "line 1, column 47: want a finite number");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1, Infinity]]}", "line 1, column 47: want a finite number");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[null]]}", "line 1, column 44: want a finite number");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1e39]]}", "line 1, column 44: 1e39 is beyond the range of f32");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[]]}", "line 1, column 44: want a finite number");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1,]]}", "want a finite number");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1 2]]}", "line 1, column 46: '2' stands here, want ']'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[0x1]]}", "'x' stands here, want ']'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[[1]]]}", "']' stands here, want ");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": 5}", "'5' stands here, want '['");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [], \"logits\": []}", "a record without tokens");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1.5], \"logits\": [[1]]}", "in the member from column 26 on");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [-1], \"logits\": [[1]]}", "-1 is no index");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [99999999999], \"logits\": [[1]]}", "99999999999 is no index");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"tokens\": [1], \"logits\": [[1]]}", "the tokens stand twice");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1]], \"logits\": [[1]]}", "the logits stand twice");
    refuses(state, "{\"prompt\": 5, \"tokens\": [1], \"logits\": [[1]]}", "in the member from column 11 on");
    refuses(state, "{\"prompt\": \"p\xff\", \"tokens\": [1], \"logits\": [[1]]}", "not UTF-8");
    refuses(state, "{prompt: 1}", "line 1, column 2: 'p' stands here, want '\"'");
    refuses(state, "{\"prompt\" 1}", "line 1, column 2: want a key in quotes, then ':'");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1]]} x", "something stands behind the record");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"hadal_golden\": {\"experts\": {\"ids\": [[[1]]]}}, \"logits\": [[1]]}", "the experts are not layers");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"hadal_golden\": {\"experts\": {\"layers\": [1], \"ids\": [[[1]], [[1]]], \"gaps\": [[0]]}}, "
                   "\"logits\": [[1]]}", "the experts are not layers");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"hadal_golden\": {\"experts\": {\"layers\": [1], \"ids\": [[[1, 2], [1]]], \"gaps\": [[0, 0]]}}, "
                   "\"logits\": [[1]]}", "1 numbers where 2 were before");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"hadal_golden\": {\"experts\": {\"layers\": [1], \"ids\": [[[1], [2]]], \"gaps\": [[0, 0]]}}, "
                   "\"logits\": [[1]]}", "experts of 2 tokens, want 1");
    refuses(state, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1]]}\n{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1, 2]]}\n",
            "line 2, column 49: row 1 has 2 logits, rows before it have 1");
}

/* A record cut anywhere is refused, or whole but for blanks. */
static void every_cut(void **state)
{
    hd_err err = {0};
    int n;
    double sum;
    size_t first = (size_t)(strchr(whole, '\n') - whole);
    for (size_t cut = 0; cut < sizeof whole - 1; cut++) {
        hd_status st = read_all(put(state, whole, cut), &n, &sum, &err);
        bool whole_records = cut == 0 || (cut >= first && cut <= (size_t)(strstr(whole, "{\"logits\"") - whole));
        if (st != (whole_records ? HD_OK : HD_E_CORRUPT)) { fail_msg("cut at %zu: %s", cut, hd_status_name(st)); }
    }
}

static void a_pickle_is_refused(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_golden *g;
    assert_fails(hd_golden_open("x/golden.pickle", &g, &err), HD_E_UNSUPPORTED, "--output-format=json");
    assert_fails(hd_golden_open("golden.PKL", &g, &err), HD_E_UNSUPPORTED, "--output-format=json");
    assert_fails(hd_golden_open("/nonexistent/golden.jsonl", &g, &err), HD_E_IO, "/nonexistent/golden.jsonl");
}

/* 100 MB of one byte, as a line, a key, a string, a number, a row; memory stays small. */
static void large_garbage(void **state)
{
    hd_err err = {0};
    int n;
    double sum;
    static const struct { const char *begin; char fill; const char *sentence; } cases[] = {
        {"", 'x', "column 1: 'x' stands here"},
        {"{\"", 'x', "a value of more than 4096 bytes begins here"},
        {"{\"prompt\": \"", 'x', "a value of more than 33554432 bytes begins here"},
        {"{\"prompt\": ", '[', "a value of more than 33554432 bytes begins here"},
        {"{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[", '1', "the file ends inside a record"},
        {"{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [", '[', "the file ends inside a record"},
        {"", ' ', NULL},
    };
    size_t bytes = (size_t)hd_test_count(40000000, 100000000);
    char *text = malloc(bytes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t k = strlen(cases[i].begin);
        memcpy(text, cases[i].begin, k);
        memset(text + k, cases[i].fill, bytes - k);
        hd_status st = read_all(put(state, text, bytes), &n, &sum, &err);
        if (cases[i].sentence == NULL) {
            assert_int_equal(st, HD_OK);
        } else if (st != HD_E_CORRUPT || strstr(err.msg, cases[i].sentence) == NULL) {
            fail_msg("case %zu: %s, %s", i, hd_status_name(st), err.msg);
        }
    }
    free(text);
}

/* A number of a thousand digits, and rows longer than the window. */
static void long_numbers_and_rows(void **state)
{
    enum { VOCAB = 200000 };
    hd_err err = {0};
    int n;
    double sum;
    char *text = malloc(16 * VOCAB + 4096), *p = text;
    p += sprintf(p, "{\"prompt\": \"p\", \"tokens\": [1, 2, 3], \"logits\": [");
    for (int t = 0; t < 3; t++) {
        p += sprintf(p, t > 0 ? ", [" : "[");
        for (int i = 0; i < VOCAB / 3; i++) { p += sprintf(p, i > 0 ? ", %d.5" : "%d.5", t); }
        p += sprintf(p, "]");
    }
    p += sprintf(p, "]}");
    assert_ok(read_all(put(state, text, (size_t)(p - text)), &n, &sum, &err));
    assert_true(sum == (0.5 + 1.5 + 2.5) * (VOCAB / 3));
    p = text + sprintf(text, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1.");
    memset(p, '7', 1010);
    p += 1010;
    p += sprintf(p, "]]}");
    assert_ok(read_all(put(state, text, (size_t)(p - text)), &n, &sum, &err));
    assert_true(sum == (double)1.77777777777777777f);
    p = text + sprintf(text, "{\"prompt\": \"p\", \"tokens\": [1], \"logits\": [[1.");
    memset(p, '7', 3000);
    p += 3000;
    p += sprintf(p, "]]}");
    assert_fails(read_all(put(state, text, (size_t)(p - text)), &n, &sum, &err), HD_E_CORRUPT, "a number of more than 1016 characters");
    free(text);
}

static void failing_memory_and_reads(void **state)
{
    hd_err err = {0};
    int n;
    double sum;
    const char *path = put(state, whole, sizeof whole - 1);
    for (size_t k = 1;; k++) {
        size_t before = hd_alloc_get_stats().live_calls;
        hd_alloc_fail_at(k, 0);
        hd_status st = read_all(path, &n, &sum, &err);
        hd_alloc_fail_at(0, 0);
        assert_int_equal(hd_alloc_get_stats().live_calls, before);
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_NOMEM);
    }
    assert_int_equal(n, 2);
}

static void what_is_written_reads_back(void **state)
{
    hd_err err = {0};
    hd_golden_writer w;
    hd_golden *g;
    const hd_golden_record *r;
    const float *row;
    int64_t n;
    enum { N = 500 };
    float logits[N];
    int32_t tokens[] = {5, 6};
    const char *path = hd_temp_path(*state, "ours.jsonl");
    hd_gen_normal_f32("written", 4.0, logits, N);
    logits[0] = 1e-42f, logits[1] = -0.0f, logits[2] = 3.4028235e38f;
    assert_ok(hd_golden_writer_open(path, &w, &err));
    assert_ok(hd_golden_write_begin(&w, "a \"quoted\"\nline", tokens, 2, &err));
    for (int t = 0; t < 2; t++) { assert_ok(hd_golden_write_row(&w, logits, N, &err)); }
    assert_ok(hd_golden_write_end(&w, &err));
    assert_ok(hd_golden_writer_close(&w, &err));
    assert_ok(hd_golden_open(path, &g, &err));
    assert_ok(hd_golden_next(g, &r, &err));
    assert_string_equal(r->prompt, "a \"quoted\"\nline");
    for (int t = 0; t < 2; t++) {
        assert_ok(hd_golden_row(g, &row, &n, &err));
        assert_int_equal(n, N);
        assert_memory_equal(row, logits, sizeof logits);
    }
    hd_golden_close(g);
    logits[1] = NAN; /* written, so that the rest can be looked at, and refused when it is read */
    assert_ok(hd_golden_writer_open(path, &w, &err));
    assert_ok(hd_golden_write_begin(&w, "p", tokens, 1, &err));
    assert_ok(hd_golden_write_row(&w, logits, N, &err));
    assert_ok(hd_golden_write_end(&w, &err));
    assert_ok(hd_golden_writer_close(&w, &err));
    int records;
    double sum;
    assert_fails(read_all(path, &records, &sum, &err), HD_E_CORRUPT, "want a finite number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_and_rows),      cmocka_unit_test(damage_is_a_sentence),     cmocka_unit_test(every_cut),
        cmocka_unit_test(a_pickle_is_refused),   cmocka_unit_test(large_garbage),            cmocka_unit_test(long_numbers_and_rows),
        cmocka_unit_test(failing_memory_and_reads), cmocka_unit_test(what_is_written_reads_back),
    };
    return cmocka_run_group_tests(tests, hd_temp_setup, hd_temp_teardown);
}
