/* Rows of text under a tokenizer.json: the tokens are those of the documents, wherever a row begins, however long the document. */
#include "support/test.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/io.h"
#include "config/config.h"
#include "data/dataset.h"
#include "data/tokens.h"

static hd_err err;

static hd_config *load_config(const char *tokenizer, const char *dataset, const char *more)
{
    char keys[3][1024];
    const char *argv[] = {"model_name=tiny-v3", "vocab_size=1024", "override_model_config=true", "packing=false", "enable_data_shuffling=false",
                          "log_config=false", keys[0], keys[1], keys[2]};
    hd_config *config = NULL;
    (void)snprintf(keys[0], sizeof keys[0], "tokenizer_path=tests/tokenizer/fixtures/%s.json", tokenizer);
    (void)snprintf(keys[1], sizeof keys[1], "dataset_path=%s", dataset);
    (void)snprintf(keys[2], sizeof keys[2], "%s", more);
    assert_ok(hd_config_load("train", 9, argv, "configs", &config, &err));
    return config;
}

/* All rows of a dataset joined: bos, tokens, eos of each document in order, since nothing is shuffled or packed. */
static void collect(hd_dataset *ds, int64_t row_length, hd_ids *out)
{
    hd_batch batch;
    int64_t found = 1;
    assert_ok(hd_batch_open(1, row_length, &batch, &err));
    for (int64_t g = 0; found > 0; g++) {
        assert_ok(hd_dataset_read(ds, g, &batch, &found, &err));
        for (int64_t i = 0; found > 0 && i < row_length && batch.segments[i] != 0; i++) {
            if (batch.positions[i] == 0 && out->n > 0 && batch.inputs[0] == out->id[out->n - 1]) { out->n--; } /* a document goes on */
            if (batch.positions[i] == 0) { assert_ok(hd_ids_append(out, &batch.inputs[i], 1, &err)); }
            assert_ok(hd_ids_append(out, &batch.targets[i], 1, &err));
            assert_true(i == 0 || batch.inputs[i] == batch.targets[i - 1]);
        }
    }
    hd_batch_close(&batch);
}

static void write_text(const char *path, size_t n, uint64_t salt, hd_buf *text)
{
    static const char *const words[] = {"the ", "training ", "don't ", "\xE4\xBD\xA0\xE5\xA5\xBD", "\n\n", "  x", "1234 ", "caf\xC3\xA9 ", "<|EOT|>", "word, "};
    hd_rng rng = hd_test_rng("words");
    hd_buf_clear(text);
    for (uint64_t i = 0; text->n < n; i++) { hd_buf_append_text(text, words[(size_t)(hd_rng_uniform(rng, (salt << 40) + i) * 9.999)]); }
    assert_ok(hd_io_write_file(path, text->data, text->n, &err));
}

static void check_documents(void **state, const char *tokenizer, const size_t *sizes, size_t n_document, int64_t row_length, bool bos)
{
    const char *folder = hd_temp_path(*state, "texts");
    char path[1024], keys[64];
    hd_buf text = {0};
    hd_ids want = {0}, got = {0};
    hd_tokenizer *t;
    size_t n_byte = 0;
    assert_ok(hd_io_remove_tree(folder, &err));
    assert_ok(hd_io_mkdirs(folder, &err));
    (void)snprintf(path, sizeof path, "tests/tokenizer/fixtures/%s.json", tokenizer);
    assert_ok(hd_tokenizer_open(path, &t, &err));
    int32_t first = hd_tokenizer_bos(t), last = hd_tokenizer_eos(t);
    for (size_t i = 0; i < n_document; i++) {
        (void)snprintf(path, sizeof path, "%s/%03zu", folder, i);
        write_text(path, sizes[i], i, &text);
        if (bos) { assert_ok(hd_ids_append(&want, &first, 1, &err)); }
        assert_ok(hd_tokenizer_encode(t, text.data, text.n, HD_ENCODE_PLAIN, &want, &err));
        assert_ok(hd_ids_append(&want, &last, 1, &err));
        n_byte += text.n;
    }
    (void)snprintf(keys, sizeof keys, "max_target_length=%d", (int)row_length);
    hd_config *config = load_config(tokenizer, folder, keys);
    hd_dataset *ds;
    assert_ok(hd_dataset_open(config, HD_SPLIT_TRAIN, 1024, 1, &ds, &err));
    collect(ds, row_length, &got);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.id, want.id, want.n * sizeof *want.id);
    assert_int_equal(ds->n_byte, n_byte);
    hd_dataset_close(ds);
    hd_config_free(config);
    hd_tokenizer_close(t);
    hd_ids_free(&want);
    hd_ids_free(&got);
    hd_buf_free(&text);
}

static void rows_hold_the_documents(void **state)
{
    static const size_t sizes[] = {100, 1, 5000, 37, 20000};
    check_documents(state, "v3", sizes, 5, 16, true);
    check_documents(state, "v3", sizes, 5, 1000, true);
    check_documents(state, "v2", sizes, 5, 64, true);
}

/* Longer than what is tokenized at once: in parts where the tokenizer allows it, whole where not. */
static void long_documents(void **state)
{
    static const size_t sizes[] = {40, (17 << 20) + 12345, 77};
    check_documents(state, "v3", sizes, 3, 4096, true);
    check_documents(state, "v2", sizes, 3, 4096, true);
}

static void what_a_model_must_have(void **state)
{
    hd_dataset *ds;
    hd_buf text = {0};
    const char *path = hd_temp_path(*state, "one");
    write_text(path, 100, 1, &text);
    hd_config *config = load_config("v3", path, "max_target_length=16");
    assert_fails(hd_dataset_open(config, HD_SPLIT_TRAIN, 300, 1, &ds, &err), HD_E_CONFIG, "vocab_size is 300; tokenizer_type=huggingface tokenizer_path=tests/tokenizer/fixtures/v3.json needs at least");
    hd_config_free(config);
    config = load_config("o200k", path, "max_target_length=16");
    assert_fails(hd_dataset_open(config, HD_SPLIT_TRAIN, 1024, 1, &ds, &err), HD_E_CONFIG, "no BOS token");
    hd_config_free(config);
    hd_buf_free(&text);
}

/* Another tokenizer over the same files is other data. */
static void fingerprints(void **state)
{
    hd_dataset *a, *b;
    hd_buf text = {0};
    const char *path = hd_temp_path(*state, "one");
    write_text(path, 1000, 1, &text);
    hd_config *first = load_config("v3", path, "max_target_length=16"), *second = load_config("v2", path, "max_target_length=16");
    assert_ok(hd_dataset_open(first, HD_SPLIT_TRAIN, 1024, 1, &a, &err));
    assert_ok(hd_dataset_open(second, HD_SPLIT_TRAIN, 1024, 1, &b, &err));
    assert_true(a->fingerprint != b->fingerprint);
    hd_dataset_close(a);
    hd_dataset_close(b);
    hd_config_free(first);
    hd_config_free(second);
    hd_buf_free(&text);
}

static hd_status open_and_read(const hd_config *config)
{
    hd_status st;
    hd_dataset *ds = NULL;
    hd_batch batch = {0};
    int64_t found;
    HD_TRY(hd_dataset_open(config, HD_SPLIT_TRAIN, 1024, 1, &ds, &err));
    HD_TRY(hd_batch_open(2, 16, &batch, &err));
    HD_TRY(hd_dataset_read(ds, 0, &batch, &found, &err));
out:
    hd_batch_close(&batch);
    hd_dataset_close(ds);
    return st;
}

static void every_allocation_fails(void **state)
{
    hd_buf text = {0};
    const char *path = hd_temp_path(*state, "one");
    write_text(path, 1000, 1, &text);
    hd_config *config = load_config("v3", path, "max_target_length=16");
    size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
    assert_ok(open_and_read(config));
    size_t n_call = hd_alloc_get_stats().total_calls - before;
    for (size_t k = 1; k <= n_call; k++) {
        hd_alloc_fail_at(k, 0);
        hd_status st = open_and_read(config);
        hd_alloc_fail_at(0, 0);
        if (st != HD_E_NOMEM) { fail_msg("allocation %zu of %zu fails: %s", k, n_call, hd_status_name(st)); }
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
    }
    print_message("  %zu allocations\n", n_call);
    hd_config_free(config);
    hd_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_hold_the_documents), cmocka_unit_test(long_documents), cmocka_unit_test(what_a_model_must_have),
                                       cmocka_unit_test(fingerprints), cmocka_unit_test(every_allocation_fails)};
    return cmocka_run_group_tests(tests, hd_temp_setup, hd_temp_teardown);
}
