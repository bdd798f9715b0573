/* Packed folders: what a conversion writes, and what every reader makes of it, whole and damaged. */
#include "checkpoint/packed_model.h"

#include <math.h>
#include <unistd.h>

static const char head[] = "lm_head.weight", expert[] = "model.layers.1.mlp.experts.2.up_proj.weight";
static const char expert_scale[] = "model.layers.1.mlp.experts.2.up_proj.weight_scale";

typedef struct scene {
    char plain[4096], packed[4096], other[4096];
} scene;

/* An F32 folder and, packed from it, another. */
static void open_scene(scene *s, const char *dir, const char *keys)
{
    char run[4096];
    hd_dims dims = packed_dims();
    make_checkpoint(path_of(run, dir, "run"), &dims, HD_DTYPE_F32);
    assert_ok(convert(run, path_of(s->plain, dir, "plain"), ""));
    assert_ok(convert(s->plain, path_of(s->packed, dir, "packed"), keys));
    path_of(s->other, dir, "other");
}

/* ---- what is written --------------------------------------------------------------------------------------------------------- */

/* What hd_pack_rows makes of a matrix's values is what lies in the files. */
static void check_matrix(const scene *s, const char *name, hd_dtype want)
{
    char scale_name[300];
    hd_source_tensor t, back;
    hd_st_info info, scale_info;
    float *values = values_of(s->plain, name, &t), *packed = values_of(s->packed, name, &back);
    (void)snprintf(scale_name, sizeof scale_name, "%s_scale", name);
    assert_true(back.dtype == want && back.rows == t.rows && back.columns == t.columns);
    unsigned char *blocks = stored_bytes(s->packed, name, &info), *scales = stored_bytes(s->packed, scale_name, &scale_info);
    assert_true(info.dtype == HD_DTYPE_U8 && scale_info.dtype == HD_DTYPE_BF16);
    int64_t across = t.columns / 64, bytes = across * hd_packed_block_bytes(want);
    assert_int_equal(info.bytes, (t.rows + 15) / 16 * bytes);
    for (int64_t r = 0; r < t.rows; r += 16) {
        uint8_t *row = malloc((size_t)bytes);
        uint16_t *row_scales = malloc((size_t)across * 32);
        float tile[16 * 64];
        assert_true(hd_pack_rows(want, values + r * t.columns, t.columns, (int)(t.rows - r < 16 ? t.rows - r : 16), t.columns, row, row_scales));
        assert_memory_equal(row, blocks + r / 16 * bytes, bytes);
        assert_memory_equal(row_scales, scales + r / 16 * across * 32, across * 32);
        for (int64_t g = 0; g < across; g++) {
            hd_unpack_block(want, row + g * hd_packed_block_bytes(want), row_scales + 16 * g, tile, 64);
            for (int64_t i = r; i < r + 16 && i < t.rows; i++) {
                assert_memory_equal(tile + (i - r) * 64, packed + i * t.columns + g * 64, 64 * sizeof(float));
            }
        }
        free(row);
        free(row_scales);
    }
    free(blocks);
    free(scales);
    free(values);
    free(packed);
}

static void check_kept(const scene *s, const char *name)
{
    hd_st_info a, b;
    unsigned char *x = stored_bytes(s->plain, name, &a), *y = stored_bytes(s->packed, name, &b);
    assert_true(a.dtype == b.dtype && a.bytes == b.bytes);
    assert_memory_equal(x, y, a.bytes);
    free(x);
    free(y);
}

static void written_by_the_rules(void **state)
{
    static const char *const kept[] = {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.gate.weight",
                                       "model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.0.self_attn.kv_b_proj.weight",
                                       "model.layers.0.input_layernorm.weight"};
    static const char *const packed[] = {
        "model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.q_b_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight", expert,
        "model.layers.1.mlp.shared_experts.down_proj.weight", "model.layers.2.eh_proj.weight"};
    for (int bits = 4; bits <= 8; bits += 4) {
        scene s;
        char dir[4096];
        open_scene(&s, path_of(dir, *state, bits == 4 ? "4" : "8"), bits == 4 ? "quantization=int4" : "quantization=int8");
        for (size_t i = 0; i < sizeof packed / sizeof packed[0]; i++) { check_matrix(&s, packed[i], bits == 4 ? HD_DTYPE_I4 : HD_DTYPE_I8); }
        check_matrix(&s, head, HD_DTYPE_I8);
        check_matrix(&s, "model.layers.2.shared_head.head.weight", HD_DTYPE_I8);
        for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) { check_kept(&s, kept[i]); }
    }
}

/* Blocks begin at multiples of 64 bytes (of 32 when their number is odd), scales lie behind them, the experts of a stack at one distance; what is not packed comes last. */
static void order_in_the_file(void **state)
{
    scene s;
    hd_folder f;
    open_scene(&s, *state, "quantization=int8");
    assert_ok(hd_folder_open(s.packed, -1, &f, &err));
    int64_t first[4], last_packed = 0, first_other = INT64_MAX;
    for (int64_t i = 0; i < f.n_place; i++) {
        hd_st_info info = hd_folder_info(&f, i);
        bool packed = info.dtype == HD_DTYPE_U8;
        if (packed) {
            char scale[300];
            bool odd = info.shape[0] % 2 == 1 && info.shape[1] % 2 == 1;
            assert_int_equal(info.offset % (odd ? 32 : 64), 0);
            (void)snprintf(scale, sizeof scale, "%s_scale", info.name);
            hd_st_info behind = hd_folder_info(&f, hd_folder_find(&f, scale));
            assert_int_equal(behind.offset, info.offset + info.bytes);
            last_packed = info.offset > last_packed ? info.offset : last_packed;
        } else if (strstr(info.name, "_scale") == NULL && info.offset < first_other) {
            first_other = info.offset;
        }
    }
    assert_true(last_packed < first_other);
    for (int e = 0; e < 4; e++) {
        char name[300];
        (void)snprintf(name, sizeof name, "model.layers.1.mlp.experts.%d.up_proj.weight", e);
        first[e] = hd_folder_info(&f, hd_folder_find(&f, name)).offset;
    }
    assert_true(first[1] > first[0] && first[2] - first[1] == first[1] - first[0] && first[3] - first[2] == first[1] - first[0]);
    assert_int_equal(first[1] - first[0], 64 * 64 + 64 * 2);
    hd_folder_close(&f);
}

/* From a checkpoint whose weights are BF16 the f32 masters are packed; FP8 that is kept becomes BF16; shards change nothing but files. */
static void from_other_folders(void **state)
{
    scene s;
    char run[4096], masters[4096], f8[4096], again[4096], split[4096];
    hd_dims dims = packed_dims();
    hd_source_tensor t;
    hd_st_info info;
    open_scene(&s, *state, "quantization=int4");
    make_checkpoint(path_of(run, *state, "bf16"), &dims, HD_DTYPE_BF16);
    assert_ok(convert(run, path_of(masters, *state, "masters"), "quantization=int4"));
    check_matrix(&s, expert, HD_DTYPE_I4);
    hd_st_info a, b;
    unsigned char *x = stored_bytes(s.packed, expert, &a), *y = stored_bytes(masters, expert, &b);
    assert_memory_equal(x, y, a.bytes);
    free(x);
    free(y);
    assert_ok(convert(s.plain, path_of(f8, *state, "f8"), "save_dtype=float8_e4m3fn"));
    assert_ok(convert(f8, path_of(again, *state, "f8-8"), "quantization=int8"));
    free(stored_bytes(again, "model.layers.0.self_attn.kv_b_proj.weight", &info));
    assert_int_equal(info.dtype, HD_DTYPE_BF16);
    free(values_of(again, expert, &t));
    assert_int_equal(t.dtype, HD_DTYPE_I8);
    assert_ok(convert(s.plain, path_of(split, *state, "split"), "quantization=int4 max_shard_size_gb=2e-5"));
    assert_same_tensors(split, s.packed);
}

/* ---- what readers make of it --------------------------------------------------------------------------------------------------- */

/* Any rectangle in any dtype is that part of the whole. */
static void rectangles(void **state)
{
    scene s;
    hd_folder f;
    hd_source source;
    hd_source_tensor t;
    static const char *const names[] = {head, "model.layers.0.mlp.down_proj.weight"};
    open_scene(&s, *state, "quantization=int4");
    for (int i = 0; i < 2; i++) {
        float *whole = values_of(s.packed, names[i], &t);
        assert_ok(hd_folder_open(s.packed, -1, &f, &err));
        assert_ok(hd_source_open(&f, &source, &err));
        assert_ok(hd_source_find(&f, names[i], &t, &err));
        for (int64_t k = 0; k < 200; k++) {
            hd_rect r = {k * 7 % t.rows, 1, k * 13 % t.columns, 1};
            r.n_row += k * 5 % (t.rows - r.row);
            r.n_column += k * 31 % (t.columns - r.column);
            uint16_t *part = malloc((size_t)(r.n_row * r.n_column) * 2);
            assert_ok(hd_source_read(&source, &t, r, HD_DTYPE_BF16, part, &err));
            for (int64_t at = 0; at < r.n_row * r.n_column; at++) {
                assert_int_equal(part[at], hd_f32_to_bf16(whole[(r.row + at / r.n_column) * t.columns + r.column + at % r.n_column]));
            }
            free(part);
        }
        assert_fails(hd_source_read(&source, &t, (hd_rect){0, 1, 0, 1}, HD_DTYPE_I32, whole, &err), HD_E_INVALID, "cannot be read as I32");
        hd_source_close(&source);
        hd_folder_close(&f);
        free(whole);
    }
}

static void commands_on_packed_folders(void **state)
{
    scene s;
    char back[4096], f32[4096], kept[4096], digests[4096], wide[4096];
    open_scene(&s, *state, "quantization=int8");
    hd_log_set_sink(book_line, &book);
    book_clear();
    assert_ok(hd_cmd_inspect(s.packed, NULL, &err));
    assert_logged("model.layers.[1-2].mlp.experts.[0-3].down_proj.weight                    I8 (64, 64)              x 8            0.033 MB  with block scales");
    assert_logged("every tensor of the model is there");
    book_clear();
    assert_ok(hd_cmd_inspect(s.packed, "lm_head", &err));
    assert_logged("I8 (40, 64)                        3072 bytes"); /* 48 rows */
    assert_ok(convert(s.packed, path_of(f32, *state, "f32"), "save_dtype=float32"));
    assert_ok(diff(s.packed, f32)); /* code * scale is exact in f32 */
    assert_ok(convert(s.packed, path_of(back, *state, "back"), "save_dtype=bfloat16"));
    assert_int_equal(diff(s.packed, back), HD_E_VERIFY);
    assert_ok(convert(f32, path_of(wide, *state, "narrow"), "save_dtype=bfloat16"));
    assert_same_files(back, wide);
    assert_ok(convert(s.packed, path_of(kept, *state, "kept"), ""));
    assert_same_files(s.packed, kept);
    assert_ok(convert(s.packed, path_of(wide, *state, "same"), "quantization=int8"));
    assert_same_files(s.packed, wide);
    assert_ok(convert(s.packed, path_of(wide, *state, "f8"), "save_dtype=float8_e4m3fn"));
    hd_folder f;
    assert_ok(hd_folder_open(wide, -1, &f, &err));
    assert_true(f.packed_bits == 0 && strstr(f.config, "\"quant_method\": \"fp8\"") != NULL && strstr(f.config, "hadal") == NULL);
    hd_folder_close(&f);
    book_clear();
    assert_ok(hd_cmd_inspect(wide, NULL, &err));
    assert_logged("lm_head.weight                                                           BF16 (40, 64)");
    assert_logged("F8_E4M3 (64, 64)");
    (void)snprintf(digests, sizeof digests, "digests_out=%s/digests.json", (const char *)*state);
    assert_ok(verify(s.packed, NULL, digests));
    assert_ok(verify(kept, digests + sizeof "digests_out=" - 1, ""));
    hd_log_set_sink(NULL, NULL);
}

/* ---- damage -------------------------------------------------------------------------------------------------------------------- */

typedef enum change { LACKS, SHAPE, DTYPE, SCALE_SHAPE, SCALE_DTYPE, BITS, GROUP, SCALE_NAN } change;

/* The packed folder again, with one thing wrong. */
static void damage(const scene *s, const char *to, change what)
{
    hd_folder f;
    file_tensor tensors[256];
    int n = 0;
    assert_ok(hd_folder_open(s->packed, -1, &f, &err));
    for (int64_t i = 0; i < f.n_place; i++) {
        hd_st_info info = hd_folder_info(&f, i);
        bool blocks = strcmp(info.name, expert) == 0, scales = strcmp(info.name, expert_scale) == 0;
        if (what == LACKS && scales) { continue; }
        file_tensor *t = &tensors[n++];
        *t = (file_tensor){info.name, info.dtype, info.n_dim, {0}, NULL};
        memcpy(t->shape, info.shape, (size_t)info.n_dim * sizeof t->shape[0]);
        hd_st_info ignored;
        unsigned char *data = stored_bytes(s->packed, info.name, &ignored);
        if (what == SHAPE && blocks) { t->shape[0] = 2, t->shape[1] = 2; }
        if (what == DTYPE && blocks) { t->dtype = HD_DTYPE_I8; }
        if (what == SCALE_SHAPE && scales) { t->shape[0] = 2, t->shape[2] = 32; }
        if (what == SCALE_DTYPE && scales) { t->dtype = HD_DTYPE_F16; }
        if (what == SCALE_NAN && scales) { data[71] = 0x7F, data[70] = 0xC0; }
        t->data = data;
    }
    write_tensors(to, "model.safetensors", tensors, n);
    for (int i = 0; i < n; i++) { free((void *)(uintptr_t)tensors[i].data); }
    char *text = malloc(f.config_n + 1);
    memcpy(text, f.config, f.config_n);
    text[f.config_n] = '\0';
    if (what == BITS) { strstr(text, "\"bits\": 8")[8] = '5'; }
    if (what == GROUP) { strstr(text, "\"group_size\": 64")[15] = '3'; }
    write_text(to, "config.json", text);
    free(text);
    hd_folder_close(&f);
}

static void damaged_folders(void **state)
{
    static const struct {
        change what;
        hd_status code;
        const char *text;
    } rows[] = {
        {LACKS, HD_E_CORRUPT, "up_proj.weight is packed and its scales, model.layers.1.mlp.experts.2.up_proj.weight_scale, are missing"},
        {SHAPE, HD_E_CORRUPT, "up_proj.weight is U8 (2, 2, 1024), want U8 (4, 1, 1024 or 512): blocks of a matrix (64, 64)"},
        {DTYPE, HD_E_CONFIG, "up_proj.weight is I8 (4, 1, 1024), the model wants F32 (64, 64)"},
        {SCALE_SHAPE, HD_E_CORRUPT, "up_proj.weight_scale is BF16 (2, 1, 32), want BF16 (4, 1, 16)"},
        {SCALE_DTYPE, HD_E_CORRUPT, "up_proj.weight_scale is F16 (4, 1, 16), want BF16 (4, 1, 16)"},
        {SCALE_NAN, HD_E_CORRUPT, "tensor model.layers.1.mlp.experts.2.up_proj.weight_scale holds a scale that is not finite"},
        {BITS, HD_E_CONFIG, "quantization_config has format 1, bits 5, group_size 64, block_rows 16; want 1, 8 or 4, 64, 16"},
        {GROUP, HD_E_CONFIG, "group_size 63"},
    };
    scene s;
    open_scene(&s, *state, "quantization=int8");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char broken[4096];
        damage(&s, path_of(broken, *state, "broken"), rows[i].what);
        remove_tree(s.other);
        assert_fails(convert(broken, s.other, "save_dtype=float32"), rows[i].code, rows[i].text);
        remove_tree(broken);
    }
}

/* ---- what cannot be packed ------------------------------------------------------------------------------------------------------ */

static void refusals(void **state)
{
    scene s;
    hd_config *config = NULL;
    const char *both[] = {"quantization=int8", "save_dtype=float32"}, *inputs[] = {"quantization=int4w"}, *fp8[] = {"quantization=fp8"};
    open_scene(&s, *state, "quantization=int8");
    assert_fails(hd_config_load("convert", 2, both, "configs", &config, &err), HD_E_CONFIG, "quantization says what is written");
    assert_fails(hd_config_load("convert", 1, inputs, "configs", &config, &err), HD_E_CONFIG, "a folder holds int8 or int4");
    assert_fails(hd_config_load("convert", 1, fp8, "configs", &config, &err), HD_E_UNSUPPORTED, "int8, int4, int8w and int4w");
    char other[4096], nan[4096];
    write_model(path_of(other, *state, "other-family"), (file_tensor[]){{"w", HD_DTYPE_F32, 1, {1}, "1234"}}, 1);
    assert_fails(convert(other, s.other, "quantization=int8"), HD_E_UNSUPPORTED, "model_type is \"other\"");
    /* A value that is not finite, in the middle of the plain folder. */
    hd_folder f;
    char *data;
    size_t n;
    float bad = NAN;
    assert_ok(hd_folder_open(s.plain, -1, &f, &err));
    int64_t at = hd_folder_info(&f, hd_folder_find(&f, expert)).offset + 4 * 999;
    hd_folder_close(&f);
    assert_ok(hd_io_read_file(hd_temp_path(s.plain, "model.safetensors"), 1 << 30, &data, &n, &err));
    memcpy(data + at, &bad, sizeof bad);
    assert_ok(hd_io_mkdirs(path_of(nan, *state, "nan"), &err));
    assert_ok(hd_io_write_file(hd_temp_path(nan, "model.safetensors"), data, n, &err));
    hd_free(data);
    assert_ok(hd_io_read_file(hd_temp_path(s.plain, "config.json"), 1 << 20, &data, &n, &err));
    assert_ok(hd_io_write_file(hd_temp_path(nan, "config.json"), data, n, &err));
    hd_free(data);
    assert_fails(convert(nan, s.other, "quantization=int4"), HD_E_INVALID,
                 "tensor model.layers.1.mlp.experts.2.up_proj.weight holds a value that is not finite, which cannot be packed");
    assert_false(exists(s.other));
}

/* ---- interruption ---------------------------------------------------------------------------------------------------------------- */

/* Every write and every read fails once: a sentence, no folder; then the same command makes the same bytes. */
static void goes_on_after_failures(void **state)
{
    scene s;
    char want[4096], fault[64];
    static const char keys[] = "quantization=int4 max_shard_size_gb=4e-5";
    open_scene(&s, *state, "quantization=int8");
    assert_ok(convert(s.plain, path_of(want, *state, "want"), keys));
    int64_t step = hd_test_soak() ? 1 : 17;
    int failures = 0;
    for (int64_t k = 1;; k += step) {
        (void)snprintf(fault, sizeof fault, "fail:%lld:EIO", (long long)k);
        assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
        hd_status st = convert(s.plain, s.other, keys);
        hd_fault_disarm();
        if (st == HD_OK) { break; }
        failures++;
        if (st != HD_E_IO || exists(s.other)) { fail_msg("%s: %s", fault, err.msg); }
        assert_ok(convert(s.plain, s.other, keys));
        assert_same_files(want, s.other);
        remove_tree(s.other);
    }
    assert_true(failures > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_by_the_rules, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(order_in_the_file, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(from_other_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(rectangles, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(commands_on_packed_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(damaged_folders, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(refusals, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test_setup_teardown(goes_on_after_failures, hd_temp_setup, hd_temp_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
