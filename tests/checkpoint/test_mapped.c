/* A model whose weights are mapped files says, bit for bit, what the same weights say from memory; packing at load is packing before; and
 * what cannot be mapped is copied, or is a sentence. */
#include "checkpoint/forward.h"
#include "checkpoint/packed_model.h"

#include <math.h>

static float first[TOKENS * MAX_VOCAB], second[TOKENS * MAX_VOCAB], not_rounded[TOKENS * MAX_VOCAB];

/* Logits two ways; *sizes and the bytes in place are of the second. */
static int64_t same_logits(const char *a, const manner *from_a, const char *b, const manner *from_b, size_t sizes[4])
{
    hd_dims dims = packed_dims();
    (void)run(a, &dims, from_a, -1, first, sizes);
    int64_t mapped = run(b, &dims, from_b, -1, second, sizes);
    for (int64_t i = 0; i < TOKENS * dims.vocab_size; i++) { assert_true(isfinite(first[i])); }
    assert_memory_equal(first, second, (size_t)(TOKENS * dims.vocab_size) * sizeof(float));
    return mapped;
}

static int64_t mapped_is_memory(const char *path, hd_dtype weights, hd_moe_strategy strategy, size_t sizes[4])
{
    manner memory = {.weights = weights, .strategy = strategy}, map = memory;
    map.from = FROM_MAP;
    map.map.n_threads = 2;
    return same_logits(path, &memory, path, &map, sizes);
}

/* Bytes of all tensors of the model: what is mapped when everything is. */
static int64_t bytes_of_model(const char *dir)
{
    hd_folder f;
    int64_t n = 0;
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    for (int64_t i = 0; i < f.n_place; i++) {
        const char *name = hd_folder_info(&f, i).name;
        bool copy = strstr(name, "layers.2.embed_tokens") != NULL || strstr(name, "shared_head.head") != NULL;
        n += copy ? 0 : hd_folder_info(&f, i).bytes;
    }
    hd_folder_close(&f);
    return n;
}

static const char *make(void **state, const char *name, const char *from, const char *keys)
{
    static char paths[8][4096];
    static int n;
    char *path = path_of(paths[n++ % 8], *state, name);
    assert_ok(convert(from, path, keys));
    return path;
}

static const char *make_run_of(void **state, const char *name, hd_dtype weights)
{
    static char paths[2][4096];
    hd_dims dims = packed_dims();
    char *path = path_of(paths[weights == HD_DTYPE_F32], *state, name);
    make_checkpoint(path, &dims, weights);
    return path;
}

/* ---- as stored ----------------------------------------------------------------------------------------------------------------- */

static void plain_folders(void **state)
{
    size_t sizes[4], none = 4096; /* the RoPE table */
    const char *run32 = make_run_of(state, "run", HD_DTYPE_F32);
    const char *f32 = make(state, "f32", run32, ""), *bf16 = make(state, "bf16", run32, "save_dtype=bfloat16");
    const char *shards = make(state, "shards", f32, "max_shard_size_gb=4e-5");
    static const hd_moe_strategy strategies[] = {HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mapped_is_memory(f32, HD_DTYPE_F32, strategies[i], sizes), bytes_of_model(f32));
        assert_true(sizes[0] < none);
        assert_int_equal(mapped_is_memory(bf16, HD_DTYPE_BF16, strategies[i], sizes), bytes_of_model(bf16));
        assert_true(sizes[0] < none);
    }
    assert_int_equal(mapped_is_memory(shards, HD_DTYPE_F32, HD_MOE_GROUPED, sizes), bytes_of_model(f32));
    assert_true(mapped_is_memory(bf16, HD_DTYPE_F32, HD_MOE_GROUPED, sizes) > 0); /* the same values, not widened */
    assert_true(sizes[0] < none);
    int64_t biases = mapped_is_memory(f32, HD_DTYPE_BF16, HD_MOE_GROUPED, sizes);
    assert_int_equal(biases, 2 * 4 * 4); /* all else is rounded into memory */
}

/* Of a checkpoint with masters an f32 model uses those, a bf16 model the weights; checksums are compared. */
static void checkpoints(void **state)
{
    size_t sizes[4];
    const char *dir = make_run_of(state, "run", HD_DTYPE_BF16);
    assert_true(mapped_is_memory(dir, HD_DTYPE_F32, HD_MOE_GROUPED, sizes) > 0);
    memcpy(first, second, sizeof first);
    manner map = {.from = FROM_MAP, .weights = HD_DTYPE_BF16, .map.n_threads = 2};
    hd_dims dims = packed_dims();
    assert_true(mapped_is_memory(dir, HD_DTYPE_BF16, HD_MOE_GROUPED, sizes) > 0);
    manner masters = map;
    masters.weights = HD_DTYPE_F32;
    (void)run(dir, &dims, &map, -1, first, sizes);
    (void)run(dir, &dims, &masters, -1, second, sizes);
    assert_memory_not_equal(first, second, (size_t)(TOKENS * dims.vocab_size) * sizeof(float));
}

static void f8_folders(void **state)
{
    size_t sizes[4];
    const char *run32 = make_run_of(state, "run", HD_DTYPE_F32);
    const char *f8 = make(state, "f8", run32, "save_dtype=float8_e4m3fn"), *f16 = make(state, "f16", run32, "save_dtype=float16");
    int64_t mapped = mapped_is_memory(f8, HD_DTYPE_F32, HD_MOE_GROUPED, sizes), codes = 3 * 64 * 64 * 4;
    assert_true(mapped > 2 * codes);
    assert_int_equal(mapped_is_memory(f16, HD_DTYPE_F32, HD_MOE_GROUPED, sizes), 2 * 4 * 4);
}

/* Fused experts are one tensor; a header of odd length puts everything at odd places. */
static void fused_and_unaligned(void **state)
{
    size_t sizes[4];
    char fused[4096], odd[4096];
    hd_folder f;
    file_tensor tensors[256];
    int n = 0;
    const char *plain = make(state, "plain", make_run_of(state, "run", HD_DTYPE_F32), "enable_mtp=false");
    float *up = malloc(4 * 128 * 64 * sizeof *up), *down = malloc(4 * 64 * 64 * sizeof *down);
    assert_ok(hd_folder_open(plain, -1, &f, &err));
    for (int64_t i = 0; i < f.n_place; i++) {
        hd_st_info info = hd_folder_info(&f, i), ignored;
        unsigned char *data = stored_bytes(plain, info.name, &ignored);
        hd_fused_name where;
        if (hd_fused_name_of(info.name, &where)) {
            float *to = where.n_part == 2 ? up + (where.expert * 2 + where.part) * 4096 : down + where.expert * 4096;
            memcpy(to, data, 4096 * sizeof *to);
            free(data);
            continue;
        }
        tensors[n] = (file_tensor){info.name, info.dtype, info.n_dim, {0}, data};
        memcpy(tensors[n++].shape, info.shape, (size_t)info.n_dim * sizeof info.shape[0]);
    }
    tensors[n++] = (file_tensor){"model.layers.1.mlp.experts.gate_up_proj", HD_DTYPE_F32, 3, {4, 128, 64}, up};
    tensors[n++] = (file_tensor){"model.layers.1.mlp.experts.down_proj", HD_DTYPE_F32, 3, {4, 64, 64}, down};
    write_tensors(path_of(fused, *state, "fused"), "model.safetensors", tensors, n);
    char *config = malloc(f.config_n + 1);
    memcpy(config, f.config, f.config_n);
    config[f.config_n] = '\0';
    write_text(fused, "config.json", config);
    hd_dims dims = packed_dims();
    dims.n_mtp = 0;
    manner memory = {.weights = HD_DTYPE_F32}, map = {.from = FROM_MAP, .weights = HD_DTYPE_F32, .map.n_threads = 1};
    (void)run(plain, &dims, &memory, -1, first, sizes);
    int64_t mapped = run(fused, &dims, &map, -1, second, sizes);
    assert_memory_equal(first, second, (size_t)(TOKENS * dims.vocab_size) * sizeof(float));
    assert_int_equal(mapped, bytes_of_model(fused));
    /* The same file with one space more in its header. */
    char *data;
    size_t bytes;
    assert_ok(hd_io_read_file(hd_temp_path(fused, "model.safetensors"), 1 << 30, &data, &bytes, &err));
    uint64_t head;
    memcpy(&head, data, 8);
    hd_buf file = {0};
    head++;
    hd_buf_append(&file, &head, 8);
    hd_buf_append(&file, data + 8, head - 1);
    hd_buf_append(&file, " ", 1);
    hd_buf_append(&file, data + 8 + head - 1, bytes - 8 - (size_t)head + 1);
    assert_ok(hd_io_mkdirs(path_of(odd, *state, "odd"), &err));
    assert_ok(hd_io_write_file(hd_temp_path(odd, "model.safetensors"), file.data, file.n, &err));
    write_text(odd, "config.json", config);
    assert_int_equal(run(odd, &dims, &map, -1, second, sizes), 0);
    assert_memory_equal(first, second, (size_t)(TOKENS * dims.vocab_size) * sizeof(float));
    hd_buf_free(&file);
    hd_free(data);
    free(config);
    for (int i = 0; i < n; i++) { free((void *)(uintptr_t)tensors[i].data); }
    hd_folder_close(&f);
}

/* ---- packed --------------------------------------------------------------------------------------------------------------------- */

/* Without rounded inputs the products are those with the values; packed at load or before, with and without rounding, all is one. */
static void packed_folders(void **state)
{
    size_t sizes[4];
    const char *plain = make(state, "plain", make_run_of(state, "run", HD_DTYPE_F32), "");
    for (int bits = 4; bits <= 8; bits += 4) {
        const char *packed = make(state, bits == 4 ? "int4" : "int8", plain, bits == 4 ? "quantization=int4" : "quantization=int8");
        manner memory = {.weights = HD_DTYPE_F32};
        manner weights_only = {.from = FROM_MAP, .weights = HD_DTYPE_F32, .map = {.bits = bits, .n_threads = 2}}, rounded = weights_only;
        rounded.map.round_inputs = true;
        assert_int_equal(same_logits(packed, &memory, packed, &weights_only, sizes), bytes_of_model(packed));
        assert_true(sizes[0] < 4096);
        (void)same_logits(packed, &weights_only, plain, &weights_only, sizes);
        assert_true(sizes[0] > 4096);
        memcpy(not_rounded, first, sizeof first);
        (void)same_logits(packed, &rounded, plain, &rounded, sizes);
        assert_memory_not_equal(first, not_rounded, (size_t)(TOKENS * packed_dims().vocab_size) * sizeof(float));
        manner as_stored = rounded;
        as_stored.map.bits = 0;
        (void)same_logits(packed, &rounded, packed, &as_stored, sizes);
    }
}

/* Which inputs are rounded, and how finely: all of packed weights or none, those of 8-bit down projections to 16 bits. */
static void roundings(void **state)
{
    size_t sizes[4];
    hd_dims dims = packed_dims();
    const char *plain = make_run_of(state, "run", HD_DTYPE_F32);
    for (int i = 0; i < 4; i++) {
        manner how = {.from = FROM_MAP, .weights = HD_DTYPE_F32, .map = {.bits = i < 2 ? 8 : 4, .round_inputs = i % 2 == 0, .n_threads = 1}};
        runner r = {0};
        int n_packed = 0, n_fine = 0;
        (void)run(plain, &dims, &how, -1, first, sizes);
        assert_ok(hd_ckpt_map_open(plain, &dims, &how.map, &r.map, &err));
        open_runner(&r, &dims, &how, false, sizes);
        for (int64_t p = 0; p < r.model.n_param; p++) {
            const hd_weight *w = &r.model.params[p].weight;
            bool packed = hd_dtype_is_packed(w->value.dtype), down = strstr(r.model.params[p].name, "down_proj") != NULL;
            assert_int_equal(w->round_inputs, packed && how.map.round_inputs);
            assert_int_equal(w->fine_inputs, w->round_inputs && down && how.map.bits == 8);
            n_packed += packed;
            n_fine += w->fine_inputs;
        }
        assert_true(n_packed > 0);
        assert_int_equal(n_fine > 0, i == 0);
        close_runner(&r);
        hd_ckpt_map_close(r.map);
    }
}

static void contradictions(void **state)
{
    hd_ckpt_map *map = NULL;
    hd_dims dims = packed_dims(), other = packed_dims();
    hd_map_options options = {.bits = 4, .n_threads = 1};
    const char *packed = make(state, "int8", make_run_of(state, "run", HD_DTYPE_F32), "quantization=int8");
    assert_fails(hd_ckpt_map_open(packed, &dims, &options, &map, &err), HD_E_CONFIG, "holds int8, and quantization asks for int4");
    options.bits = 8;
    other.vocab_size = 41;
    assert_fails(hd_ckpt_map_open(packed, &other, &options, &map, &err), HD_E_CONFIG, "the model wants");
    assert_null(map);
}

/* ---- damage ---------------------------------------------------------------------------------------------------------------------- */

/* Opening and attaching, as far as it goes. */
static hd_status attempt(const char *dir, hd_dims dims, const hd_map_options *options)
{
    hd_ckpt_map *map = NULL;
    hd_arena memory, scratch;
    hd_exec ex;
    hd_model model = {0};
    hd_model_options model_options = {.dtype = HD_DTYPE_F32, .weight_dtype = HD_DTYPE_F32, .mu_dtype = HD_DTYPE_F32, .max_positions = 8, .mapped = true};
    hd_status st = hd_ckpt_map_open(dir, &dims, options, &map, &err);
    if (st != HD_OK) { return st; }
    assert_ok(hd_arena_open(&memory, "model", 1 << 20, &err));
    assert_ok(hd_arena_open(&scratch, "scratch", 4096, &err));
    assert_ok(hd_exec_init(&ex, &scratch, 2, false, &err));
    assert_ok(hd_model_open(&dims, &model_options, &ex, &memory, &model, &err));
    st = hd_ckpt_map_attach(map, &model, &ex, &memory, &err);
    hd_model_close(&model);
    hd_arena_close(&memory);
    hd_arena_close(&scratch);
    hd_ckpt_map_close(map);
    return st;
}

static void flip(const char *path, int64_t at, const void *bytes, size_t n)
{
    hd_file *f;
    assert_ok(hd_io_create(path, HD_IO_UPDATE, &f, &err));
    assert_ok(hd_io_pwrite(f, bytes, n, at, &err));
    assert_ok(hd_io_close(&f, &err));
}

static int64_t offset_of(const char *dir, const char *name)
{
    hd_folder f;
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    int64_t at = hd_folder_info(&f, hd_folder_find(&f, name)).offset;
    hd_folder_close(&f);
    return at;
}

static void damaged_files(void **state)
{
    char step[4096];
    const hd_map_options options = {.n_threads = 2};
    const uint16_t nan = 0x7FC0;
    const char *dir = make_run_of(state, "run", HD_DTYPE_F32), *packed = make(state, "int4", dir, "quantization=int4");
    assert_ok(attempt(packed, packed_dims(), &options));
    flip(hd_temp_path(packed, "model.safetensors"), offset_of(packed, "model.layers.1.mlp.experts.3.down_proj.weight_scale") + 8, &nan, 2);
    assert_fails(attempt(packed, packed_dims(), &options), HD_E_CORRUPT, "experts.3.down_proj.weight_scale holds a scale that is not finite");
    hd_dims large = packed_dims(); /* so that the damage is not in the header's block, which is compared when the folder is opened */
    large.vocab_size = 8192;
    make_checkpoint(path_of(step, *state, "large"), &large, HD_DTYPE_F32);
    assert_ok(attempt(step, large, &options));
    (void)strcat(step, "/checkpoints/1");
    int64_t at = offset_of(step, "model.norm.weight") + 5;
    assert_true(at > 2 * HD_BLOCK_BYTES);
    flip(hd_temp_path(step, "model.safetensors"), at, "\1", 1);
    assert_fails(attempt(step, large, &options), HD_E_CORRUPT, "is damaged: CRC-32C");
}

/* Each read, mapping and population fails once. */
static void every_operation_fails(void **state)
{
    const hd_map_options options = {.bits = 8, .n_threads = 1};
    const char *plain = make(state, "plain", make_run_of(state, "run", HD_DTYPE_F32), "");
    char fault[64];
    int mapping = 0;
    for (int k = 1;; k++) {
        (void)snprintf(fault, sizeof fault, "fail:r%d:EIO", k);
        assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
        hd_status st = attempt(plain, packed_dims(), &options);
        hd_fault_disarm();
        if (st == HD_OK) { break; }
        assert_int_equal(st, HD_E_IO);
        mapping += strstr(err.msg, "mmap ") != NULL || strstr(err.msg, "populate ") != NULL;
    }
    assert_true(mapping > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(plain_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(checkpoints, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(f8_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(fused_and_unaligned, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(packed_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(roundings, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(contradictions, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(damaged_files, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(every_operation_fails, hd_temp_setup, hd_temp_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
