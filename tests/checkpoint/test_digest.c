/* `hadal verify`, `diff` and `inspect`: one digest for every form of the same values, and what is said of a difference. */
#include "checkpoint/folders.h"

#include <math.h>
#include <unistd.h>

#include "checkpoint/digest.h"

/* The model's digest, as a run prints it. */
static void model_digest(const char *dir, char hex[HD_SHA256_HEX])
{
    hd_folder f;
    hd_digests d;
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    assert_ok(hd_digests_make(&f, 2, (hd_digest_hook){0}, &d, &err));
    memcpy(hex, d.model, HD_SHA256_HEX);
    hd_digests_free(&d);
    hd_folder_close(&f);
}

static void flip(const char *path, int64_t at, unsigned char mask)
{
    unsigned char byte;
    hd_file *file;
    assert_ok(hd_io_create(path, HD_IO_UPDATE, &file, &err));
    assert_ok(hd_io_pread(file, &byte, 1, at, &err));
    byte ^= mask;
    assert_ok(hd_io_pwrite(file, &byte, 1, at, &err));
    assert_ok(hd_io_close(&file, &err));
}

static int64_t size_of(const char *path)
{
    hd_io_info info;
    assert_ok(hd_io_stat(path, &info, &err));
    return info.bytes;
}

/* ---- digests ---------------------------------------------------------------------------------------------------------- */

/* The definition in digest.h, written down again, for one tensor of one block. */
static void definition(void **state)
{
    static const unsigned char values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned char block[32], tensor[32], model[32], length[8] = {4};
    char hex[HD_SHA256_HEX], got[HD_SHA256_HEX];
    hd_sha256 sha;
    write_model(*state, (file_tensor[]){{"a.b", HD_DTYPE_BF16, 1, {4}, values}}, 1);
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, values, 8);
    hd_sha256_final(&sha, block);
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, "hadal-tensor-1\na.b\0BF16\0\1", 15 + 4 + 5 + 1);
    hd_sha256_update(&sha, length, 8);
    hd_sha256_update(&sha, block, 32);
    hd_sha256_final(&sha, tensor);
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, "hadal-model-1\na.b\0", 14 + 4);
    hd_sha256_update(&sha, tensor, 32);
    hd_sha256_final(&sha, model);
    hd_sha256_hex(model, hex);
    model_digest(*state, got);
    assert_string_equal(got, hex);
}

static void same_for_every_form(void **state)
{
    enum { E = 12, F = 3, D = 200 }; /* expert 10 is between 1 and 2 in the order of digests, behind 9 in that of listings */
    char fused[4096], single[4096], many[4096], digests[4096], keys[4200], a[HD_SHA256_HEX], b[HD_SHA256_HEX];
    float gate_up[E * 2 * F * D], scale[2] = {1.0f, 2.0f};
    uint8_t *codes = make_codes("codes", 5 * D);
    hd_gen_normal_f32("gate_up", 1.0, gate_up, E * 2 * F * D);
    write_model(path_of(fused, *state, "fused"), (file_tensor[]){
        {"model.layers.0.mlp.experts.gate_up_proj", HD_DTYPE_F32, 3, {E, 2 * F, D}, gate_up},
        {"model.layers.0.self_attn.o_proj.weight", HD_DTYPE_F8_E4M3, 2, {5, D}, codes},
        {"model.layers.0.self_attn.o_proj.weight_scale_inv", HD_DTYPE_F32, 2, {1, 2}, scale}}, 3);
    assert_ok(convert(fused, path_of(single, *state, "single"), ""));
    assert_ok(convert(fused, path_of(many, *state, "many"), "max_shard_size_gb=1e-9"));
    model_digest(fused, a);
    model_digest(single, b);
    assert_string_equal(a, b);
    model_digest(many, b);
    assert_string_equal(a, b);
    (void)snprintf(keys, sizeof keys, "digests_out=%s", path_of(digests, *state, "digests"));
    assert_ok(verify(fused, NULL, keys));
    assert_ok(verify(many, digests, ""));
    remove_tree(single);
    assert_ok(convert(fused, single, "save_dtype=bfloat16"));
    model_digest(single, b);
    assert_string_not_equal(a, b);
    free(codes);
}

static void checkpoint_and_plain_folder(void **state)
{
    char run[4096], plain[4096], checkpoint[4096], a[HD_SHA256_HEX], b[HD_SHA256_HEX];
    rig g;
    rig_open(&g, HD_DTYPE_BF16);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){4}, 1);
    assert_ok(convert(run, path_of(plain, *state, "plain"), ""));
    model_digest(path_of(checkpoint, run, "checkpoints/4"), a);
    model_digest(plain, b);
    assert_string_equal(a, b);
    book_clear();
    assert_ok(verify(run, NULL, ""));
    assert_logged(a);
    assert_logged("every block of every file has the checksum of the manifest");
    char path[4096];
    path_of(path, checkpoint, "optimizer/optimizer.safetensors"); /* of no tensor that is hashed, but of the checkpoint */
    flip(path, size_of(path) - 1, 1);
    assert_fails(verify(checkpoint, NULL, ""), HD_E_CORRUPT, "optimizer.safetensors");
    rig_close(&g);
}

/* One bit of a weight, of a scale, of a norm: the tensor and the block are named. */
static void one_bit(void **state)
{
    enum { ROWS = 1100, COLUMNS = 8192 }; /* 9 MB: three blocks of 4 MiB */
    static const char w[] = "model.layers.0.mlp.up_proj.weight", s[] = "model.layers.0.mlp.up_proj.weight_scale_inv", norm[] = "model.norm.weight";
    char dir[4096], digests[4096], file[4096], keys[4200];
    uint8_t *codes = make_codes("codes", (int64_t)ROWS * COLUMNS);
    float *scales = make_values("scales", 1.0, 9 * 64), *gains = make_values("norm", 1.0, 100);
    path_of(dir, *state, "model");
    path_of(file, dir, "model.safetensors");
    write_model(dir, (file_tensor[]){{w, HD_DTYPE_F8_E4M3, 2, {ROWS, COLUMNS}, codes}, {s, HD_DTYPE_F32, 2, {9, 64}, scales},
                                     {norm, HD_DTYPE_F32, 1, {100}, gains}}, 3);
    (void)snprintf(keys, sizeof keys, "digests_out=%s", path_of(digests, *state, "digests"));
    assert_ok(verify(dir, NULL, keys));
    book_clear();
    assert_ok(verify(dir, digests, ""));
    assert_logged("all 3 tensors are those of");
    int64_t end = size_of(file), data = end - (int64_t)ROWS * COLUMNS - 9 * 64 * 4 - 400;
    const struct {
        int64_t at;
        const char *message;
    } flips[] = {
        {data, "up_proj.weight: 1 of 3 blocks differ, the first is block 0 (bytes 0 to 4194303 of the tensor)"},
        {data + (8 << 20) - 1, "up_proj.weight: 1 of 3 blocks differ, the first is block 1 (bytes 4194304 to 8388607 of the tensor)"},
        {data + (int64_t)ROWS * COLUMNS - 1, "up_proj.weight: 1 of 3 blocks differ, the first is block 2"},
        {data + (int64_t)ROWS * COLUMNS, "up_proj.weight_scale_inv: 1 of 1 blocks differ, the first is block 0"},
        {end - 1, "model.norm.weight: 1 of 1 blocks differ, the first is block 0"},
    };
    for (size_t i = 0; i < sizeof flips / sizeof flips[0]; i++) {
        flip(file, flips[i].at, (unsigned char)(1 << i));
        book_clear();
        assert_fails(verify(dir, digests, ""), HD_E_VERIFY, "1 tensors differ from");
        assert_logged(flips[i].message);
        flip(file, flips[i].at, (unsigned char)(1 << i));
    }
    assert_ok(verify(dir, digests, ""));
    free(codes);
    free(scales);
    free(gains);
}

static void other_tensors(void **state)
{
    char a[4096], b[4096], digests[4096], keys[4200];
    float values[6] = {1, 2, 3, 4, 5, 6};
    write_model(path_of(a, *state, "a"), (file_tensor[]){{"both", HD_DTYPE_F32, 2, {2, 3}, values}, {"first", HD_DTYPE_F32, 1, {6}, values}}, 2);
    write_model(path_of(b, *state, "b"), (file_tensor[]){{"both", HD_DTYPE_F32, 2, {3, 2}, values}, {"second", HD_DTYPE_F32, 1, {6}, values}}, 2);
    (void)snprintf(keys, sizeof keys, "digests_out=%s", path_of(digests, *state, "digests"));
    assert_ok(verify(a, NULL, keys));
    book_clear();
    assert_fails(verify(b, digests, ""), HD_E_VERIFY, "3 tensors differ");
    assert_logged("both: is F32 (3, 2), want F32 (2, 3)");
    assert_logged("first: is missing");
    assert_logged("second: is not in the digests");
}

/* ---- files of digests ---------------------------------------------------------------------------------------------------- */

static void damaged_digests(void **state)
{
    char dir[4096], digests[4096], keys[4200], *text;
    float values[6] = {1, 2, 3, 4, 5, 6};
    size_t n;
    write_model(path_of(dir, *state, "a"), (file_tensor[]){{"a", HD_DTYPE_F32, 2, {2, 3}, values}, {"b\n\"", HD_DTYPE_F32, 1, {6}, values}}, 2);
    (void)snprintf(keys, sizeof keys, "digests_out=%s", path_of(digests, *state, "digests"));
    assert_ok(verify(dir, NULL, keys));
    assert_ok(verify(dir, digests, ""));
    assert_ok(hd_io_read_file(digests, 1 << 20, &text, &n, &err));
    for (size_t cut = 0; cut + 1 < n; cut++) { /* but for the last line break */
        hd_digests d;
        hd_status st = hd_digests_parse(text, cut, "digests", &d, &err);
        if (st != HD_E_CORRUPT) { fail_msg("cut at %zu: %s", cut, hd_status_name(st)); }
        assert_int_equal(d.n, 0);
    }
    const struct {
        const char *was, *is, *message;
    } edits[] = {
        {"hadal-digests-1", "hadal-digests-2", "not a file of digests"}, {"4194304", "4194305", "not a file of digests"},
        {"\"a\":", "\"A\":", "the file was changed"},                     {"F32", "F33", "a dtype that safetensors does not know"},
        {"[\"F32\"", "[7", "string"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        hd_buf changed = {0};
        char *at = strstr(text, edits[i].was);
        if (at == NULL) { fail_msg("no %s in:\n%s", edits[i].was, text); }
        hd_buf_append(&changed, text, (size_t)(at - text));
        hd_buf_append_text(&changed, edits[i].is);
        hd_buf_append_text(&changed, at + strlen(edits[i].was));
        assert_ok(hd_io_write_file(digests, changed.data, changed.n, &err));
        assert_fails(verify(dir, digests, ""), HD_E_CORRUPT, edits[i].message);
        hd_buf_free(&changed);
    }
    for (size_t i = 0; i < n; i++) { /* a digit of a digest: found by the model's digest, or a difference of the tensor */
        if (strchr("0123456789abcdef", text[i]) == NULL) { continue; }
        hd_digests d;
        text[i] ^= 1;
        hd_status st = hd_digests_parse(text, n, "digests", &d, &err);
        if (st != HD_OK && st != HD_E_CORRUPT) { fail_msg("%s", hd_status_name(st)); }
        hd_digests_free(&d);
        text[i] ^= 1;
    }
    hd_free(text);
    char file[4096];
    assert_fails(verify(dir, path_of(file, dir, "model.safetensors"), ""), HD_E_CORRUPT, "model.safetensors");
    assert_fails(verify(dir, path_of(file, dir, "config.json"), ""), HD_E_CORRUPT, "not a file of digests");
    assert_int_equal(verify(dir, path_of(file, dir, "none"), ""), HD_E_IO);
    assert_int_equal(verify(dir, dir, ""), HD_E_IO);
}

static void verify_without_memory(void **state)
{
    char dir[4096], digests[4096], keys[4200];
    float values[6] = {1, 2, 3, 4, 5, 6};
    const hd_run_hooks hooks = {0};
    write_model(path_of(dir, *state, "a"), (file_tensor[]){{"a", HD_DTYPE_F32, 2, {2, 3}, values}, {"b", HD_DTYPE_F32, 1, {6}, values}}, 2);
    (void)snprintf(keys, sizeof keys, "digests_out=%s", path_of(digests, *state, "digests"));
    assert_ok(verify(dir, NULL, keys));
    hd_config *config = hd_test_config("verify", "%s", keys);
    for (int what = 0; what < 3; what++) {
        for (size_t n = 1;; n++) {
            size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
            hd_alloc_fail_at(n, n % 2 == 0);
            hd_status st = what == 0   ? hd_cmd_verify(config, dir, n % 3 == 0 ? digests : NULL, &hooks, &err)
                           : what == 1 ? hd_cmd_diff(dir, dir, &hooks, &err)
                                       : hd_cmd_inspect(dir, n % 3 == 0 ? "a" : NULL, &err);
            hd_alloc_fail_at(0, 0);
            bool reached = hd_alloc_get_stats().total_calls - before >= n;
            if (st != (reached ? HD_E_NOMEM : HD_OK)) { fail_msg("%d: allocation %zu: %s: %s", what, n, hd_status_name(st), err.msg); }
            if (hd_alloc_get_stats().live_calls != live) { fail_msg("%d: allocation %zu: a leak", what, n); }
            if (!reached && n > 3) { break; }
        }
    }
    hd_config_free(config);
}

/* ---- diff ------------------------------------------------------------------------------------------------------------------- */

static void differences(void **state)
{
    char a[4096], b[4096];
    float x[6] = {1.0f, NAN, 3.0f, -0.0f, INFINITY, 6.0f}, y[6];
    int64_t whole[3] = {1, 2, 3}, other[3] = {1, 2, 4};
    memcpy(y, x, sizeof y);
    const file_tensor left[] = {{"w", HD_DTYPE_F32, 2, {2, 3}, x}, {"ids", HD_DTYPE_I64, 1, {3}, whole}};
    write_model(path_of(a, *state, "a"), left, 2);
    assert_ok(diff(a, a));
    const struct {
        int at;
        float value;
        const char *message;
    } changes[] = {
        {1, 0.0f, "w: 1 of 6 values differ, max abs inf, max rel inf, first at (0, 1): nan and 0 (F32, F32)"},
        {2, 4.0f, "w: 1 of 6 values differ, max abs 1, max rel 0.25, first at (0, 2): 3 and 4 (F32, F32)"},
        {3, 0.0f, "w: 1 of 6 values differ, max abs 0, max rel 0, first at (1, 0): -0 and 0 (F32, F32)"},
        {4, -INFINITY, "w: 1 of 6 values differ, max abs inf, max rel inf, first at (1, 1): inf and -inf (F32, F32)"},
        {5, NAN, "w: 1 of 6 values differ, max abs inf, max rel inf, first at (1, 2): 6 and nan (F32, F32)"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        float was = y[changes[i].at];
        y[changes[i].at] = changes[i].value;
        write_model(path_of(b, *state, "b"), (file_tensor[]){{"w", HD_DTYPE_F32, 2, {2, 3}, y}, {"ids", HD_DTYPE_I64, 1, {3}, whole}}, 2);
        book_clear();
        assert_fails(diff(a, b), HD_E_VERIFY, "differ");
        assert_logged(changes[i].message);
        assert_logged("1 tensors equal, 1 different, 0 only in one of the two");
        y[changes[i].at] = was;
    }
    write_model(b, (file_tensor[]){{"w", HD_DTYPE_F32, 1, {6}, x}, {"ids", HD_DTYPE_I64, 1, {3}, other}, {"more", HD_DTYPE_U8, 0, {0}, x}}, 3);
    book_clear();
    assert_fails(diff(a, b), HD_E_VERIFY, "differ");
    assert_logged("w: F32 (2, 3) and F32 (6) cannot be compared");
    assert_logged("ids: 1 of 3 values differ, first at (2) (I64)");
    assert_logged("more: only in");
    assert_logged("0 tensors equal, 2 different, 1 only in one of the two");
}

/* FP8 and BF16 of the same values are equal; so are pieces beyond the first. */
static void values_not_forms(void **state)
{
    enum { ROWS = 700, COLUMNS = 1000 };
    char a[4096], b[4096];
    uint8_t *codes = make_codes("codes", ROWS * COLUMNS), *bytes;
    float scales[6 * 8];
    hd_st_info info;
    for (int i = 0; i < 48; i++) { scales[i] = ldexpf(1.0f, i % 9 - 9); }
    write_model(path_of(a, *state, "a"), (file_tensor[]){{"w", HD_DTYPE_F8_E4M3, 2, {ROWS, COLUMNS}, codes}, {"w_scale_inv", HD_DTYPE_F32, 2, {6, 8}, scales}}, 2);
    assert_ok(convert(a, path_of(b, *state, "b"), "save_dtype=bfloat16"));
    assert_ok(diff(a, b));
    bytes = stored_bytes(b, "w", &info);
    bytes[2 * (650 * COLUMNS + 123)] ^= 1;
    write_model(b, (file_tensor[]){{"w", HD_DTYPE_BF16, 2, {ROWS, COLUMNS}, bytes}}, 1);
    book_clear();
    assert_fails(diff(a, b), HD_E_VERIFY, "differ");
    assert_logged("w: 1 of 700000 values differ");
    assert_logged("first at (650, 123)");
    assert_logged("(F8_E4M3, BF16)");
    free(bytes);
    free(codes);
}

/* ---- inspect -------------------------------------------------------------------------------------------------------------------- */

static void inspections(void **state)
{
    char run[4096], checkpoint[4096], file[4096];
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){1, 2}, 2);
    rig_close(&g);
    book_clear();
    assert_ok(hd_cmd_inspect(run, NULL, &err));
    assert_logged("checkpoint of step 2");
    assert_logged("model.layers.[1-2].mlp.experts.[0-3].down_proj.weight");
    assert_logged("every tensor of the model is there");
    book_clear();
    assert_ok(hd_cmd_inspect(run, "layers[.]1[.]mlp[.]experts[.]0[.]", &err));
    assert_logged("3 of ");
    assert_logged("model.layers.1.mlp.experts.0.gate_proj.weight");
    book_clear();
    assert_ok(hd_cmd_inspect(run, "nothing", &err));
    assert_logged("0 of ");
    assert_fails(hd_cmd_inspect(run, "[", &err), HD_E_CONFIG, "[: not an extended regular expression");
    path_of(checkpoint, run, "checkpoints/2");
    path_of(file, checkpoint, "model.safetensors");
    assert_int_equal(truncate(file, size_of(file) - 1), 0);
    book_clear();
    assert_ok(hd_cmd_inspect(run, NULL, &err)); /* the one before */
    assert_logged("checkpoint of step 1");
    assert_fails(hd_cmd_inspect(checkpoint, NULL, &err), HD_E_CORRUPT, "model.safetensors");
    float value = 1.0f;
    write_model(path_of(file, *state, "other"), (file_tensor[]){{"w", HD_DTYPE_F32, 0, {0}, &value}}, 1);
    book_clear();
    assert_ok(hd_cmd_inspect(file, NULL, &err));
    assert_logged("F32 ()");
    /* Numbers of config.json that no model has: nothing is counted with them. */
    write_text(file, "config.json", "{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 1000000000, \"n_routed_experts\": 1000000000}");
    book_clear();
    assert_ok(hd_cmd_inspect(file, NULL, &err));
    assert_logged("1000000000 layers with 1000000000 experts, and the folder holds 1 tensors");
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(definition),      CASE(same_for_every_form),   CASE(checkpoint_and_plain_folder), CASE(one_bit),          CASE(other_tensors),
        CASE(damaged_digests), CASE(verify_without_memory), CASE(differences),                 CASE(values_not_forms), CASE(inspections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
