/* The small tokenizers of tests/tokenizer/fixtures and the expected ids beside them; both made by make_fixtures.py. */
#ifndef HD_TESTS_TOKENIZER_FIXTURE_H
#define HD_TESTS_TOKENIZER_FIXTURE_H

#include "support/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

#define DEEPSEEK_V3 "../shared/data/tokenizer-deepseek-v3.json"

static inline hd_tokenizer *open_fixture(const char *name)
{
    char path[256];
    hd_tokenizer *t = NULL;
    hd_err err;
    (void)snprintf(path, sizeof path, "tests/tokenizer/fixtures/%s.json", name);
    assert_ok(hd_tokenizer_open(path, &t, &err));
    return t;
}

static inline char *read_text(const char *path, size_t *n)
{
    char *text = NULL;
    hd_err err;
    assert_ok(hd_io_read_file(path, (size_t)1 << 30, &text, n, &err));
    return text;
}

/* One line of a golden: the text, and the ids in decimal behind a tab. */
typedef struct golden_line {
    hd_buf text;
    hd_ids ids;
} golden_line;

typedef void (*golden_check)(void *context, const golden_line *line);

static inline size_t for_each_golden(const char *path, golden_check check, void *context)
{
    size_t n, count = 0;
    char *file = read_text(path, &n);
    golden_line line = {0};
    hd_err err;
    for (char *at = file, *end; at < file + n; at = end + 1) {
        end = memchr(at, '\n', (size_t)(file + n - at));
        assert_non_null(end);
        if (*at == '#') { continue; }
        char *tab = memchr(at, '\t', (size_t)(end - at));
        assert_non_null(tab);
        hd_json json;
        hd_json_str text;
        hd_json_open(&json, at, (size_t)(tab - at), path, HD_JSON_STRICT);
        assert_ok(hd_json_string(&json, &text, &err));
        hd_buf_clear(&line.text);
        hd_buf_append(&line.text, text.text, text.n);
        hd_json_close(&json);
        line.ids.n = 0;
        for (char *p = tab + 1, *stop; p < end; p = stop + 1) {
            int32_t id = (int32_t)strtol(p, &stop, 10);
            assert_ok(hd_ids_append(&line.ids, &id, 1, &err));
        }
        check(context, &line);
        count++;
    }
    hd_buf_free(&line.text);
    hd_ids_free(&line.ids);
    hd_free(file);
    return count;
}

static inline void assert_same_ids(const char *text, const hd_ids *got, const hd_ids *want)
{
    bool same = got->n == want->n && (want->n == 0 || memcmp(got->id, want->id, want->n * sizeof *got->id) == 0);
    if (same) { return; }
    print_error("  text: %s\n  got:  ", text);
    for (size_t i = 0; i < got->n; i++) { print_error("%d ", got->id[i]); }
    print_error("\n  want: ");
    for (size_t i = 0; i < want->n; i++) { print_error("%d ", want->id[i]); }
    print_error("\n");
    fail();
}

#endif
