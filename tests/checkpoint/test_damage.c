/* Damage to files at rest: flipped bits, cuts, additions, exchanged, missing and stale files, links and special files.  Loading
 * refuses, says where, and uses the checkpoint before; when all are damaged it stops and never starts at step 0. */
#include "checkpoint/fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/folder.h"

static char *run; /* of the test at work: checkpoints 1 and 2 of f32 weights in two shards */

static const char *at(const char *name)
{
    static char paths[4][4200];
    static int next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/checkpoints/%s", run, name);
    return path;
}

static void make(const char *dir)
{
    rig g;
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = dir, .max_shard_bytes = 28000};
    rig_open(&g, HD_DTYPE_F32);
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    save_step(store, &g, 1);
    save_step(store, &g, 2);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    run = (char *)(uintptr_t)dir;
}

static const char *const names[] = {"config.json", "generation_config.json", "manifest.json", "model.safetensors.index.json",
                                    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                    "optimizer/optimizer-00001-of-00003.safetensors", "optimizer/optimizer-00003-of-00003.safetensors"};
enum { N_NAMES = sizeof names / sizeof names[0] };

static char *slurp(const char *path, size_t *n)
{
    char *data = NULL;
    assert_ok(hd_io_read_file(path, 1 << 24, &data, n, &err));
    return data;
}

static void spew(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_true(f != NULL && fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

/* Checkpoint 2 is damaged in `file`: refused by name; a resume uses 1 and says so. */
static void expect_fallback(const char *file, const char *what)
{
    hd_status st = hd_folder_verify(at("2"), 2, &err);
    if (st != HD_E_CORRUPT || strstr(err.msg, file) == NULL) { fail_msg("%s: %s: %s", what, hd_status_name(st), err.msg); }
    book_clear();
    int64_t step = resumed_step(run, HD_DTYPE_F32);
    if (step != 1) { fail_msg("%s: resumed from %d", what, (int)step); }
    assert_logged("the checkpoint of step 2 is damaged and passed over");
    assert_logged(file);
    assert_logged("using the checkpoint of step 1 instead");
}

static void flipped_bits(void **state)
{
    make(*state);
    for (int i = 0; i < N_NAMES; i++) {
        char name[128], what[160];
        size_t n;
        (void)snprintf(name, sizeof name, "2/%s", names[i]);
        char *data = slurp(at(name), &n);
        int64_t count = hd_test_count(12, 400);
        for (int64_t k = 0; k < count; k++) {
            /* The first and last bytes always, the header densely, the rest at random. */
            uint64_t span = k % 3 == 0 ? n : k % 3 == 1 && n > 64 ? 64 : n;
            size_t byte = k == 0 ? 0 : k == 1 ? n - 1 : (size_t)hd_rng_below(hd_test_rng(names[i]), span, (uint64_t)k);
            int bit = (int)hd_rng_below(hd_test_rng("bit"), 8, (uint64_t)k);
            (void)snprintf(what, sizeof what, "bit %d of byte %zu of %s", bit, byte, names[i]);
            data[byte] = (char)(data[byte] ^ (1 << bit));
            spew(at(name), data, n);
            if (k < 3) {
                expect_fallback(names[i], what);
            } else if (hd_folder_verify(at("2"), 2, &err) != HD_E_CORRUPT) {
                fail_msg("%s was not noticed: %s", what, err.msg);
            }
            data[byte] = (char)(data[byte] ^ (1 << bit));
        }
        spew(at(name), data, n);
        assert_ok(hd_folder_verify(at("2"), 2, &err));
        hd_free(data);
    }
}

static void wrong_lengths(void **state)
{
    make(*state);
    for (int i = 0; i < N_NAMES; i++) {
        char name[128];
        size_t n;
        (void)snprintf(name, sizeof name, "2/%s", names[i]);
        char *data = slurp(at(name), &n);
        char *longer = calloc(1, n + 2);
        memcpy(longer, data, n);
        spew(at(name), data, n - 1);
        expect_fallback(names[i], "one byte less");
        spew(at(name), data, 0);
        expect_fallback(names[i], "empty");
        spew(at(name), longer, n + 1);
        expect_fallback(names[i], "one byte more");
        assert_int_equal(unlink(at(name)), 0);
        expect_fallback(names[i], "missing");
        spew(at(name), data, n);
        free(longer);
        hd_free(data);
    }
    assert_int_equal(resumed_step(run, HD_DTYPE_F32), 2);
}

static void exchanged_and_stale(void **state)
{
    make(*state);
    size_t n;
    /* A file of the older checkpoint has the same size and another content. */
    for (int i = 0; i < N_NAMES; i++) {
        char one[128], two[128];
        (void)snprintf(one, sizeof one, "1/%s", names[i]);
        (void)snprintf(two, sizeof two, "2/%s", names[i]);
        size_t m;
        char *old = slurp(at(one), &n), *new = slurp(at(two), &m);
        if (n != m || memcmp(old, new, n) != 0) {
            spew(at(two), old, n);
            expect_fallback(names[i], "stale");
            spew(at(two), new, m);
        }
        hd_free(old);
        hd_free(new);
    }
    /* Two files exchanged. */
    assert_int_equal(rename(at("2/model-00001-of-00002.safetensors"), at("2/x")), 0);
    assert_int_equal(rename(at("2/model-00002-of-00002.safetensors"), at("2/model-00001-of-00002.safetensors")), 0);
    assert_int_equal(rename(at("2/x"), at("2/model-00002-of-00002.safetensors")), 0);
    expect_fallback("model-0000", "exchanged");
    assert_int_equal(rename(at("2/model-00001-of-00002.safetensors"), at("2/x")), 0);
    assert_int_equal(rename(at("2/model-00002-of-00002.safetensors"), at("2/model-00001-of-00002.safetensors")), 0);
    assert_int_equal(rename(at("2/x"), at("2/model-00002-of-00002.safetensors")), 0);
    assert_int_equal(resumed_step(run, HD_DTYPE_F32), 2);
    /* An older checkpoint under a newer number would repeat steps unseen. */
    assert_int_equal(rename(at("2"), at("9")), 0);
    book_clear();
    assert_int_equal(resumed_step(run, HD_DTYPE_F32), 1);
    assert_logged("it is of step 2, the directory of step 9");
    assert_int_equal(rename(at("9"), at("2")), 0);
}

static void strange_entries(void **state)
{
    make(*state);
    /* What else lies there does not matter ... */
    spew(at("2/README.md"), "hello", 5);
    spew(at("2/tokenizer.json"), "{}", 2);
    assert_ok(hd_folder_verify(at("2"), 2, &err));
    /* ... unless a loader would take it for part of the model, or it is no regular file. */
    spew(at("2/model.safetensors"), "x", 1);
    expect_fallback("model.safetensors is not in the manifest", "a foreign tensor file");
    assert_int_equal(unlink(at("2/model.safetensors")), 0);
    spew(at("2/optimizer/more.safetensors"), "x", 1);
    expect_fallback("more.safetensors is not in the manifest", "a foreign optimizer file");
    assert_int_equal(unlink(at("2/optimizer/more.safetensors")), 0);
    assert_int_equal(mkfifo(at("2/pipe"), 0600), 0);
    expect_fallback("pipe is not a regular file", "a FIFO");
    assert_int_equal(unlink(at("2/pipe")), 0);
    assert_int_equal(mkdir(at("2/folder"), 0700), 0);
    expect_fallback("folder is not a regular file", "a directory");
    assert_int_equal(rmdir(at("2/folder")), 0);
    /* Links and FIFOs in the place of files, never followed and never waited for. */
    for (int i = 0; i < N_NAMES; i++) {
        char name[128], target[128];
        size_t n;
        (void)snprintf(name, sizeof name, "2/%s", names[i]);
        (void)snprintf(target, sizeof target, "1/%s", names[i]);
        char *data = slurp(at(name), &n);
        assert_int_equal(unlink(at(name)), 0);
        assert_int_equal(symlink(at(target), at(name)), 0);
        expect_fallback(names[i], "a link");
        assert_int_equal(unlink(at(name)), 0);
        assert_int_equal(mkfifo(at(name), 0600), 0);
        expect_fallback(names[i], "a FIFO");
        assert_int_equal(unlink(at(name)), 0);
        spew(at(name), data, n);
        hd_free(data);
    }
    /* A step that is a file, a link, an empty directory. */
    spew(at("7"), "", 0);
    assert_int_equal(symlink(at("2"), at("8")), 0);
    assert_int_equal(mkdir(at("9"), 0700), 0);
    book_clear();
    assert_int_equal(resumed_step(run, HD_DTYPE_F32), 2);
    assert_logged("checkpoints/7 is not a directory");
    assert_logged("checkpoints/8 is not a directory");
    assert_logged("checkpoints/9/manifest.json is missing");
    assert_int_equal(unlink(at("7")), 0);
    assert_int_equal(unlink(at("8")), 0);
    assert_int_equal(rmdir(at("9")), 0);
}

static void nothing_is_left(void **state)
{
    rig g;
    bool found;
    make(*state);
    assert_int_equal(truncate(at("1/config.json"), 3), 0);
    assert_int_equal(truncate(at("2/manifest.json"), 3), 0);
    rig_open(&g, HD_DTYPE_F32);
    hd_ckpt_store *store = open_store(run, 0, false);
    assert_fails(hd_ckpt_resume(store, &g.ex, &g.state, &found, &err), HD_E_CORRUPT, "all 2 checkpoints in");
    assert_false(found);
    assert_non_null(strstr(err.msg, "2/manifest.json"));
    assert_fails(hd_ckpt_load_parameters(run, &g.ex, &g.model, &err), HD_E_CORRUPT, "all 2 checkpoints in");
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
}

/* ---- a HuggingFace folder has no checksums, and its index is data --------------------------------------------------- */

static void spew_tensors(const char *path, const char *header, size_t data)
{
    char bytes[512] = {(char)strlen(header)};
    memcpy(bytes + 8, header, strlen(header));
    spew(path, bytes, 8 + strlen(header) + data);
}

static void hostile_index(void **state)
{
    static const struct {
        const char *index, *message;
        hd_status status;
    } rows[] = {
        {"", "", HD_E_CORRUPT},
        {"[]", "", HD_E_CORRUPT},
        {"{}", "it has no weight_map", HD_E_CORRUPT},
        {"{\"weight_map\": {}}", "its weight_map is empty", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"../secret.safetensors\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"sub/a.safetensors\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"..\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"x\\u0000.safetensors\"}}", "plain name", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": 3}}", "", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"none.safetensors\"}}", "none.safetensors", HD_E_IO},
        {"{\"weight_map\": {\"a\": \"pipe.safetensors\"}}", "FIFO", HD_E_IO},
        {"{\"weight_map\": {\"a\": \"folder.safetensors\"}}", "directory", HD_E_IO},
        {"{\"weight_map\": {\"a\": \"link.safetensors\"}}", "", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"one.safetensors\"}}", "tensor b is not in one.safetensors", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}}", "tensor b is not in two.safetensors", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"two.safetensors\"}}", "it names 1 tensors, its files hold 2", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"}}", "it names 2 tensors, its files hold 3", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"a\": \"one.safetensors\"}}", "", HD_E_CORRUPT},
        {"{\"weight_map\": {\"a\": \"two.safetensors\", \"c\": \"two.safetensors\"}}", NULL, HD_OK},
        {"{\"metadata\": {\"total_size\": 99}, \"weight_map\": {\"a\": \"one.safetensors\"}}", NULL, HD_OK},
    };
    static const char one[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    static const char two[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                              "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}";
    char dir[4096], outside[4096];
    (void)snprintf(dir, sizeof dir, "%s/model", (char *)*state);
    (void)snprintf(outside, sizeof outside, "%s/outside.safetensors", (char *)*state);
    assert_int_equal(mkdir(dir, 0700), 0);
    spew_tensors(outside, one, 1);
    spew_tensors(hd_temp_path(dir, "one.safetensors"), one, 1);
    spew_tensors(hd_temp_path(dir, "two.safetensors"), two, 2);
    assert_int_equal(mkfifo(hd_temp_path(dir, "pipe.safetensors"), 0600), 0);
    assert_int_equal(mkdir(hd_temp_path(dir, "folder.safetensors"), 0700), 0);
    assert_int_equal(symlink("../outside.safetensors", hd_temp_path(dir, "link.safetensors")), 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hd_folder f;
        spew(hd_temp_path(dir, "model.safetensors.index.json"), rows[i].index, strlen(rows[i].index));
        hd_status st = hd_folder_open(dir, -1, &f, &err);
        if (st != rows[i].status || (rows[i].message != NULL && strstr(err.msg, rows[i].message) == NULL)) {
            fail_msg("%s: %s: %s", rows[i].index, hd_status_name(st), err.msg);
        }
        hd_folder_close(&f);
    }
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(flipped_bits),    CASE(wrong_lengths),   CASE(exchanged_and_stale),
        CASE(strange_entries), CASE(nothing_is_left), CASE(hostile_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
