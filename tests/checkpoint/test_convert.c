/* `hadal convert`: bits in every dtype, tensors made of rectangles, config.json, and what a target folder may look like. */
#include "checkpoint/folders.h"

#include <math.h>
#include <sys/resource.h>
#include <unistd.h>

#include "checkpoint/convert_hf.h"
#include "checkpoint/target.h"
#include "checkpoint/write_queue.h"

/* ---- tensors made of rectangles -------------------------------------------------------------------------------------------- */

enum { LAYERS = 3, EXPERTS = 2, OUT = 200, IN = 150 };

/* Matrices w.<l>.<e> (OUT, IN) as BF16 or, with scales, F8_E4M3; *values are what they stand for. */
static void write_matrices(const char *dir, hd_dtype dtype, float *values)
{
    static char names[2 * LAYERS * EXPERTS][64];
    file_tensor tensors[2 * LAYERS * EXPERTS];
    void *owned[2 * LAYERS * EXPERTS];
    int n = 0;
    for (int m = 0; m < LAYERS * EXPERTS; m++) {
        float *v = values + m * OUT * IN, *scales = malloc(4 * sizeof *scales);
        char key[32];
        (void)snprintf(names[n], sizeof names[n], "w.%d.%d", m / EXPERTS, m % EXPERTS);
        (void)snprintf(key, sizeof key, "matrix %d", m);
        if (dtype == HD_DTYPE_BF16) {
            uint16_t *stored = malloc(OUT * IN * 2);
            hd_gen_normal_f32(key, 1.0, v, OUT * IN);
            hd_convert(HD_DTYPE_F32, v, OUT * IN, HD_DTYPE_BF16, stored);
            hd_convert(HD_DTYPE_BF16, stored, OUT * IN, HD_DTYPE_F32, v);
            owned[n] = stored;
            tensors[n] = (file_tensor){names[n], dtype, 2, {OUT, IN}, stored};
            free(scales);
            n++;
            continue;
        }
        uint8_t *codes = make_codes(key, OUT * IN);
        hd_gen_uniform_f32(key, 0.001, 0.1, scales, 4);
        for (int i = 0; i < OUT * IN; i++) { v[i] = hd_f8_e4m3_to_f32(codes[i]) * scales[i / IN / 128 * 2 + i % IN / 128]; }
        (void)snprintf(names[n + 1], sizeof names[n + 1], "w.%d.%d_scale_inv", m / EXPERTS, m % EXPERTS);
        owned[n] = codes;
        owned[n + 1] = scales;
        tensors[n] = (file_tensor){names[n], dtype, 2, {OUT, IN}, codes};
        tensors[n + 1] = (file_tensor){names[n + 1], HD_DTYPE_F32, 2, {2, 2}, scales};
        n += 2;
    }
    write_model(dir, tensors, n);
    for (int i = 0; i < n; i++) { free(owned[i]); }
}

/* One target tensor from all matrices, transposed to [in, out]: "kernel" (in, n_layer, out) of expert 0, or "experts" (E, n_layer, in, out). */
static void build_stacked(hd_target *t, const hd_folder *f, hd_dtype dtype, bool experts)
{
    const int64_t kernel[] = {IN, LAYERS, OUT}, all[] = {EXPERTS, LAYERS, IN, OUT};
    assert_ok(hd_target_add(t, experts ? "experts" : "kernel", dtype, experts ? 4 : 3, experts ? all : kernel, HD_TARGET_VALUES,
                            experts ? OUT : LAYERS * OUT, &err));
    for (int m = 0; m < LAYERS * EXPERTS; m++) {
        char name[64];
        hd_target_piece p = {.row_stride = 1};
        int64_t l = m / EXPERTS, e = m % EXPERTS;
        if (!experts && e > 0) { continue; }
        (void)snprintf(name, sizeof name, "w.%d.%d", (int)l, (int)e);
        assert_ok(hd_source_find(f, name, &p.source, &err));
        p.base = experts ? (e * LAYERS + l) * IN * OUT : l * OUT;
        p.column_stride = experts ? OUT : LAYERS * OUT;
        assert_ok(hd_target_add_piece(t, &p, &err));
    }
}

static float want_at(const float *values, bool experts, int64_t flat)
{
    int64_t out = flat % OUT, in, l, e = 0;
    if (experts) {
        in = flat / OUT % IN;
        l = flat / OUT / IN % LAYERS;
        e = flat / OUT / IN / LAYERS;
    } else {
        l = flat / OUT % LAYERS;
        in = flat / OUT / LAYERS;
    }
    return values[((l * EXPERTS + e) * OUT + out) * IN + in];
}

static void one_stacked(const char *dir, hd_dtype stored, hd_dtype dtype, bool experts, size_t window)
{
    char from[4096], part[4096], to[4096];
    float *values = malloc(LAYERS * EXPERTS * OUT * IN * sizeof *values);
    hd_folder f;
    hd_source source;
    hd_target t = {0};
    hd_write_queue *queue;
    hd_st_info info;
    write_matrices(path_of(from, dir, "from"), stored, values);
    assert_ok(hd_folder_open(from, -1, &f, &err));
    assert_ok(hd_source_open(&f, &source, &err));
    build_stacked(&t, &f, dtype, experts);
    assert_ok(hd_target_cut(&t, INT64_C(1) << 40, "model", &err));
    assert_ok(hd_write_queue_open(window, &queue, &err));
    assert_ok(hd_io_mkdirs(path_of(to, dir, "to"), &err));
    assert_ok(hd_target_write_file(&t, 0, (hd_target_reader){.source = &source}, queue, path_of(part, dir, "to/part"), hd_temp_path(to, "model.safetensors"), (hd_target_hook){0}, &err));
    assert_ok(hd_write_queue_close(queue, &err));
    unsigned char *got = stored_bytes(to, experts ? "experts" : "kernel", &info);
    int64_t n = (experts ? EXPERTS : 1) * LAYERS * OUT * IN, size = (int64_t)hd_dtype_bytes(dtype);
    assert_int_equal(info.bytes, n * size);
    for (int64_t i = 0; i < n; i++) {
        float value = want_at(values, experts, i);
        unsigned char narrow[4];
        hd_convert(HD_DTYPE_F32, &value, 1, dtype, narrow);
        if (memcmp(got + i * size, narrow, (size_t)size) != 0) { fail_msg("element %lld differs (window %zu)", (long long)i, window); }
    }
    free(got);
    free(values);
    hd_target_free(&t);
    hd_source_close(&source);
    hd_folder_close(&f);
}

static void stacked_and_transposed(void **state)
{
    static const size_t windows[] = {LAYERS * OUT * 4, 5000, 1 << 20};
    static const hd_dtype stored[] = {HD_DTYPE_BF16, HD_DTYPE_F8_E4M3}, dtypes[] = {HD_DTYPE_F32, HD_DTYPE_BF16};
    for (int i = 0; i < 24; i++) { one_stacked(*state, stored[i & 1], dtypes[i >> 1 & 1], (i >> 2 & 1) != 0, windows[i / 8]); }
}

static void rows_beyond_a_window(void **state)
{
    char from[4096];
    float *values = malloc(LAYERS * EXPERTS * OUT * IN * sizeof *values);
    hd_folder f;
    hd_source source;
    hd_target t = {0};
    hd_write_queue *queue;
    write_matrices(path_of(from, *state, "from"), HD_DTYPE_BF16, values);
    assert_ok(hd_folder_open(from, -1, &f, &err));
    assert_ok(hd_source_open(&f, &source, &err));
    build_stacked(&t, &f, HD_DTYPE_F32, false);
    assert_ok(hd_target_cut(&t, INT64_C(1) << 40, "model", &err));
    assert_ok(hd_write_queue_open(LAYERS * OUT * 4 - 1, &queue, &err));
    assert_fails(hd_target_write_file(&t, 0, (hd_target_reader){.source = &source}, queue, hd_temp_path(*state, "part"), hd_temp_path(*state, "whole"), (hd_target_hook){0}, &err),
                 HD_E_UNSUPPORTED, "tensor kernel: one row of it does not fit a window of 2399 bytes");
    assert_ok(hd_write_queue_close(queue, &err));
    assert_false(exists(hd_temp_path(*state, "whole")));
    hd_target_free(&t);
    hd_source_close(&source);
    hd_folder_close(&f);
    free(values);
}

/* ---- FP8 there and back ------------------------------------------------------------------------------------------------------- */

/* The rule of README_WEIGHTS.md and of V3.1, written down again. */
static float scale_by_definition(const float *values, int64_t rows, int64_t columns, int64_t i, int64_t k, bool powers)
{
    float amax = 0.0f;
    for (int64_t r = i * 128; r < rows && r < i * 128 + 128; r++) {
        for (int64_t c = k * 128; c < columns && c < k * 128 + 128; c++) {
            if (fabsf(values[r * columns + c]) > amax) { amax = fabsf(values[r * columns + c]); }
        }
    }
    if (amax == 0.0f) { return 1.0f; }
    return powers ? ldexpf(1.0f, (int)ceil(log2((double)amax / 448.0))) : amax / 448.0f;
}

#define MATRIX "model.layers.0.mlp.up_proj.weight"

static void quantised_by_definition(void **state)
{
    enum { ROWS = 300, COLUMNS = 261, ACROSS = 3, N_SCALE = 9 };
    char from[4096], to[4096];
    float *values = make_values("matrix", 0.02, ROWS * COLUMNS);
    uint16_t *stored = malloc(ROWS * COLUMNS * 2);
    for (int64_t i = 0; i < 128; i++) { memset(values + (i + 128) * COLUMNS, 0, 128 * sizeof *values); } /* a block of zeros */
    values[5] = 1e-30f;
    hd_convert(HD_DTYPE_F32, values, ROWS * COLUMNS, HD_DTYPE_BF16, stored);
    hd_convert(HD_DTYPE_BF16, stored, ROWS * COLUMNS, HD_DTYPE_F32, values);
    write_model(path_of(from, *state, "from"), (file_tensor[]){{MATRIX, HD_DTYPE_BF16, 2, {ROWS, COLUMNS}, stored}}, 1);
    for (int powers = 0; powers < 2; powers++) {
        hd_st_info info;
        remove_tree(path_of(to, *state, "to"));
        assert_ok(convert(from, to, powers ? "save_dtype=float8_e4m3fn scale_fmt=ue8m0" : "save_dtype=float8_e4m3fn"));
        float *scales = (float *)(void *)stored_bytes(to, MATRIX "_scale_inv", &info);
        assert_true(info.dtype == HD_DTYPE_F32 && info.bytes == N_SCALE * 4);
        uint8_t *codes = stored_bytes(to, MATRIX, &info);
        assert_true(info.dtype == HD_DTYPE_F8_E4M3 && info.bytes == ROWS * COLUMNS);
        for (int64_t b = 0; b < N_SCALE; b++) {
            float want = scale_by_definition(values, ROWS, COLUMNS, b / ACROSS, b % ACROSS, powers != 0);
            if (scales[b] != want) { fail_msg("scale %lld: %a, want %a", (long long)b, (double)scales[b], (double)want); }
        }
        for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
            assert_int_equal(codes[i], hd_f32_to_f8_e4m3(values[i] / scales[i / COLUMNS / 128 * ACROSS + i % COLUMNS / 128]));
        }
        free(scales);
        free(codes);
    }
    free(values);
    free(stored);
}

/* FP8 with power-of-two scales -> BF16 -> FP8: the same bits in every block whose largest code exceeds 224, the same values elsewhere. */
static void ue8m0_comes_back(void **state)
{
    enum { ROWS = 128 * 6 - 5, COLUMNS = 128 * 5 - 77, ACROSS = 5, DOWN = 6 };
    char from[4096], wide[4096], back[4096];
    uint8_t *codes = make_codes("codes", ROWS * COLUMNS);
    float scales[ACROSS * DOWN];
    hd_st_info info;
    int64_t n_large = 0, n_small = 0, n_changed = 0;
    for (int b = 0; b < ACROSS * DOWN; b++) { scales[b] = ldexpf(1.0f, b - 20); }
    for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
        int64_t b = i / COLUMNS / 128 * ACROSS + i % COLUMNS / 128;
        if (b % 3 == 1) { codes[i] = (uint8_t)((codes[i] & 0x80) | (codes[i] & 0x7F) % 0x77); } /* at most 224, code 0x76 */
        if (b % 7 == 2) { codes[i] &= 0x8F; }                                                     /* about the subnormals */
    }
    codes[0] = 0x80; /* -0 */
    codes[1] = 0x7F;
    codes[2] = 0xFF; /* NaNs do not count for a scale and stay NaN, with their sign */
    write_model(path_of(from, *state, "from"), (file_tensor[]){{MATRIX, HD_DTYPE_F8_E4M3, 2, {ROWS, COLUMNS}, codes},
                                                               {MATRIX "_scale_inv", HD_DTYPE_F32, 2, {DOWN, ACROSS}, scales}}, 2);
    assert_ok(convert(from, path_of(wide, *state, "wide"), "save_dtype=bfloat16"));
    assert_ok(convert(wide, path_of(back, *state, "back"), "save_dtype=float8_e4m3fn scale_fmt=ue8m0"));
    uint8_t *again = stored_bytes(back, MATRIX, &info);
    float *new_scales = (float *)(void *)stored_bytes(back, MATRIX "_scale_inv", &info);
    for (int64_t b = 0; b < ACROSS * DOWN; b++) {
        int largest = 0;
        int64_t r0 = b / ACROSS * 128, c0 = b % ACROSS * 128;
        for (int64_t r = r0; r < ROWS && r < r0 + 128; r++) {
            for (int64_t c = c0; c < COLUMNS && c < c0 + 128; c++) {
                int magnitude = codes[r * COLUMNS + c] & 0x7F;
                if (magnitude < 0x7F && magnitude > largest) { largest = magnitude; }
            }
        }
        bool large = largest > 0x76;
        n_large += large;
        n_small += !large;
        n_changed += new_scales[b] != scales[b];
        for (int64_t r = r0; r < ROWS && r < r0 + 128; r++) {
            for (int64_t c = c0; c < COLUMNS && c < c0 + 128; c++) {
                uint8_t was = codes[r * COLUMNS + c], is = again[r * COLUMNS + c];
                if (large) { assert_int_equal(was, is); }
                assert_int_equal(f32_bits(hd_f8_e4m3_to_f32(was) * scales[b]), f32_bits(hd_f8_e4m3_to_f32(is) * new_scales[b]));
                assert_int_equal(was & 0x80, is & 0x80);
            }
        }
        if (large) { assert_true(new_scales[b] == scales[b]); }
    }
    assert_true(n_large >= 15 && n_small >= 10 && n_changed == n_small);
    assert_ok(convert(back, path_of(from, *state, "wide2"), "save_dtype=bfloat16"));
    assert_same_tensors(wide, from);
    free(codes);
    free(again);
    free(new_scales);
}

/* Stored FP8 is passed on whatever the kind of its scales. */
static void stored_fp8_is_kept(void **state)
{
    char from[4096], to[4096];
    uint8_t *codes = make_codes("codes", 130 * 7), scales[2] = {120, 130};
    write_model(path_of(from, *state, "from"), (file_tensor[]){{MATRIX, HD_DTYPE_F8_E4M3, 2, {130, 7}, codes},
                                                               {MATRIX "_scale_inv", HD_DTYPE_F8_E8M0, 2, {2, 1}, scales}}, 2);
    assert_ok(convert(from, path_of(to, *state, "a"), ""));
    assert_same_tensors(from, to);
    assert_ok(convert(from, path_of(to, *state, "b"), "save_dtype=float8_e4m3fn"));
    assert_same_tensors(from, to);
    free(codes);
}

static void values_that_do_not_fit(void **state)
{
    char from[4096], to[4096];
    float values[4] = {1.0f, 65520.0f, 2.0f, 3.0f};
    write_model(path_of(from, *state, "from"), (file_tensor[]){{MATRIX, HD_DTYPE_F32, 2, {2, 2}, values}}, 1);
    assert_fails(convert(from, path_of(to, *state, "to"), "save_dtype=float16"), HD_E_INVALID, "tensor " MATRIX " has a value above 65504");
    assert_false(exists(to));
    values[1] = 65519.0f; /* rounds to 65504 */
    write_model(from, (file_tensor[]){{MATRIX, HD_DTYPE_F32, 2, {2, 2}, values}}, 1);
    assert_ok(convert(from, to, "save_dtype=float16"));
    remove_tree(to);
    for (int powers = 0; powers < 2; powers++) {
        values[1] = powers ? -INFINITY : INFINITY;
        write_model(from, (file_tensor[]){{MATRIX, HD_DTYPE_F32, 2, {2, 2}, values}}, 1);
        assert_fails(convert(from, to, powers ? "save_dtype=float8_e4m3fn scale_fmt=ue8m0" : "save_dtype=float8_e4m3fn"), HD_E_INVALID,
                     "_scale_inv holds an infinity, which FP8 cannot hold");
        assert_false(exists(to));
    }
    assert_ok(convert(from, to, "save_dtype=bfloat16")); /* there an infinity is one */
}

static void scales_at_the_limits(void **state)
{
    (void)state;
    static const float amax[] = {448.0f, 224.0f, 224.1f, 449.0f, 1e-45f, 0x1p-126f, 0x1.cp-118f, 0x1.c2p-118f, 3.4028235e38f, 0x1.cp+127f, 0x1.ap127f, 1.0f, 0.0f};
    for (size_t i = 0; i < sizeof amax / sizeof amax[0]; i++) {
        float values[3] = {-amax[i], NAN, 0.0f}, plain = hd_f8_block_scale(values, 3, 1, 3, HD_SCALE_F32), power = hd_f8_block_scale(values, 3, 1, 3, HD_SCALE_UE8M0);
        int exponent;
        assert_true(frexpf(power, &exponent) == 0.5f && power >= 0x1p-126f && isfinite(power) && plain > 0.0f);
        if (amax[i] > 0x1p-117f) {
            assert_true(plain == amax[i] / 448.0f && (double)power * 448.0 >= (double)amax[i] && (double)power * 224.0 < (double)amax[i]);
        }
    }
    float none[2] = {NAN, NAN}, infinite[2] = {1.0f, -INFINITY};
    assert_true(hd_f8_block_scale(none, 2, 1, 2, HD_SCALE_F32) == 1.0f && hd_f8_block_scale(none, 2, 1, 2, HD_SCALE_UE8M0) == 1.0f);
    assert_true(isinf(hd_f8_block_scale(infinite, 2, 1, 2, HD_SCALE_F32)) && isinf(hd_f8_block_scale(infinite, 2, 1, 2, HD_SCALE_UE8M0)));
}

/* ---- folders to folders ---------------------------------------------------------------------------------------------------------- */

static void forms_and_names(void **state)
{
    static const int64_t data[16] = {1, -2, 3};
    char from[4096], to[4096], long_name[241];
    memset(long_name, 'x', 240);
    long_name[240] = '\0';
    const file_tensor tensors[] = {
        {"scalar", HD_DTYPE_F32, 0, {0}, data},
        {"empty", HD_DTYPE_F32, 2, {0, 5}, data},
        {"empty too", HD_DTYPE_BF16, 2, {5, 0}, data},
        {"eight axes", HD_DTYPE_I32, 8, {1, 2, 1, 2, 1, 2, 1, 2}, data},
        {long_name, HD_DTYPE_U8, 1, {3}, data},
        {"quote \" backslash \\ slash / ", HD_DTYPE_I8, 1, {3}, data},
        {"line\nbreak\ttab\x01\x1f\x7f", HD_DTYPE_BOOL, 1, {3}, data},
        {"\xC3\xA4 \xE4\xB8\xAD \xF0\x9F\x98\x80", HD_DTYPE_I64, 1, {3}, data},
        {"", HD_DTYPE_F64, 1, {2}, data},
        {"%s %n ../../etc", HD_DTYPE_F8_E8M0, 1, {3}, data},
        {"rotary_emb.inv_freq.not", HD_DTYPE_F16, 1, {3}, data},
    };
    enum { N = sizeof tensors / sizeof tensors[0] };
    write_model(path_of(from, *state, "from"), tensors, N);
    assert_ok(convert(from, path_of(to, *state, "one"), ""));
    assert_same_tensors(from, to);
    assert_false(exists(hd_temp_path(to, "model.safetensors.index.json")));
    assert_ok(convert(from, path_of(to, *state, "many"), "max_shard_size_gb=1e-9"));
    assert_same_tensors(from, to);
    assert_true(exists(hd_temp_path(to, "model.safetensors.index.json")));
    assert_ok(convert(to, path_of(from, *state, "back"), ""));
    assert_same_tensors(from, to);
    assert_ok(convert(from, path_of(to, *state, "wide"), "save_dtype=float32"));
    assert_ok(diff(from, to)); /* values of floats are the same, other dtypes stay */
}

/* Tensors longer than a window, and rows longer than one. */
static void longer_than_a_window(void **state)
{
    enum { N = (HD_TARGET_WINDOW / 4) * 2 + 12345 };
    char from[4096], to[4096];
    uint16_t *stored = malloc((size_t)N * 2);
    hd_st_info info;
    for (int64_t i = 0; i < N; i++) { stored[i] = (uint16_t)(i * 40503u >> 3); }
    write_model(path_of(from, *state, "from"), (file_tensor[]){{"vector", HD_DTYPE_BF16, 1, {N}, stored}}, 1);
    assert_ok(convert(from, path_of(to, *state, "same"), ""));
    assert_same_tensors(from, to);
    assert_ok(convert(from, path_of(to, *state, "wide"), "save_dtype=float32"));
    unsigned char *wide = stored_bytes(to, "vector", &info);
    assert_int_equal(info.bytes, (int64_t)N * 4);
    for (int64_t i = 0; i < N; i++) {
        uint32_t bits;
        memcpy(&bits, wide + 4 * i, 4);
        if (bits != (uint32_t)stored[i] << 16) { fail_msg("element %lld", (long long)i); }
    }
    free(wide);
    free(stored);
}

static void experts_taken_apart(void **state)
{
    enum { E = 12, F = 3, D = 4 };
    char fused[4096], single[4096], to[4096];
    static char names[3 * E][96];
    float gate_up[E * 2 * F * D], down[E * D * F];
    file_tensor tensors[3 * E];
    hd_gen_normal_f32("gate_up", 1.0, gate_up, E * 2 * F * D);
    hd_gen_normal_f32("down", 1.0, down, E * D * F);
    for (int e = 0; e < E; e++) {
        static const char *const matrices[] = {"gate", "up", "down"};
        for (int k = 0; k < 3; k++) {
            (void)snprintf(names[3 * e + k], sizeof names[0], "model.layers.1.mlp.experts.%d.%s_proj.weight", e, matrices[k]);
            tensors[3 * e + k] = (file_tensor){names[3 * e + k], HD_DTYPE_F32, 2, {k < 2 ? F : D, k < 2 ? D : F},
                                               k < 2 ? gate_up + (2 * e + k) * F * D : down + e * D * F};
        }
    }
    write_model(path_of(single, *state, "single"), tensors, 3 * E);
    write_model(path_of(fused, *state, "fused"), (file_tensor[]){{"model.layers.1.mlp.experts.down_proj", HD_DTYPE_F32, 3, {E, D, F}, down},
                                                                 {"model.layers.1.mlp.experts.gate_up_proj", HD_DTYPE_F32, 3, {E, 2 * F, D}, gate_up}}, 2);
    assert_ok(convert(fused, path_of(to, *state, "to"), ""));
    assert_same_tensors(single, to);
    assert_ok(diff(fused, single));
}

static void scales_and_weights_apart(void **state)
{
    char from[4096], to[4096], whole[4096];
    uint8_t *codes = make_codes("codes", 3 * 200 * 3);
    float scales[3] = {0.5f, 3.0f, 0.01f};
    const file_tensor w = {MATRIX, HD_DTYPE_F8_E4M3, 2, {3, 200 * 3 / 2}, codes}, s = {MATRIX "_scale_inv", HD_DTYPE_F32, 2, {1, 3}, scales};
    write_model(path_of(whole, *state, "whole"), (file_tensor[]){w, s}, 2);
    path_of(from, *state, "from");
    write_tensors(from, "b.safetensors", &w, 1);
    write_tensors(from, "weird-a.safetensors", &s, 1);
    write_text(from, "config.json", other_config);
    write_text(from, "model.safetensors.index.json", "{\"weight_map\": {\"" MATRIX "\": \"b.safetensors\", \"" MATRIX "_scale_inv\": \"weird-a.safetensors\"}}");
    assert_ok(convert(from, path_of(to, *state, "keep"), ""));
    assert_same_tensors(whole, to);
    assert_ok(convert(from, path_of(to, *state, "a"), "save_dtype=bfloat16"));
    assert_ok(convert(whole, path_of(from, *state, "b"), "save_dtype=bfloat16"));
    assert_same_tensors(to, from);
    free(codes);
}

/* ---- models that hadal knows --------------------------------------------------------------------------------------------------------- */

static void training_checkpoint(void **state)
{
    char run[4096], to[4096], text[4096];
    rig g;
    hd_st_info info;
    rig_open(&g, HD_DTYPE_BF16);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){3, 7}, 2);
    assert_ok(convert(run, path_of(to, *state, "plain"), ""));
    assert_false(exists(hd_temp_path(to, "manifest.json")));
    assert_false(exists(hd_temp_path(to, "optimizer")));
    assert_true(exists(hd_temp_path(to, "generation_config.json")));
    unsigned char *stored = stored_bytes(to, "model.norm.weight", &info);
    assert_int_equal(info.dtype, HD_DTYPE_BF16);
    free(stored);
    for (int i = 0; i < 2; i++) { /* the masters, and of a folder without any the wider values */
        assert_ok(convert(i == 0 ? run : to, path_of(text, *state, i == 0 ? "masters" : "widened"), "save_dtype=float32"));
        float *got = (float *)(void *)stored_bytes(text, "lm_head.weight", &info), master[32 * 16];
        hd_gen_normal_f32("weight lm_head.weight 7", 0.3, master, 32 * 16);
        assert_true(info.dtype == HD_DTYPE_F32 && info.bytes == sizeof master);
        for (int k = 0; k < 32 * 16; k++) { assert_true(got[k] == (i == 0 ? master[k] : hd_bf16_to_f32(hd_f32_to_bf16(master[k])))); }
        free(got);
    }
    rig_close(&g);
    rig_open(&g, HD_DTYPE_BF16); /* what was written is a model */
    assert_ok(hd_ckpt_load_parameters(to, &g.ex, &g.model, &err));
    rig_close(&g);
}

/* A copy of a folder in which the experts of every layer are fused, as transformers 5 holds them. */
static void write_fused(const char *from, const char *to)
{
    enum { MOST = 256, E = 4, F = 8, D = 16 };
    static file_tensor tensors[MOST];
    static char names[MOST][96];
    hd_folder f;
    int n = 0;
    assert_ok(hd_folder_open(from, -1, &f, &err));
    for (int64_t i = 0; i < f.n_place; i++) {
        const char *rest;
        hd_st_info info = hd_folder_info(&f, i), part;
        if (strstr(info.name, ".mlp.experts.") != NULL && strstr(info.name, ".experts.0.down_proj") == NULL) { continue; }
        bool experts = strstr(info.name, ".mlp.experts.") != NULL;
        long long layer = (long long)hd_hf_layer_of(info.name, &rest);
        for (int k = 0; k < (experts ? 2 : 1); k++) {
            file_tensor *t = &tensors[n];
            *t = (file_tensor){.name = names[n], .dtype = info.dtype, .n_dim = info.n_dim};
            if (!experts) {
                memcpy(t->shape, info.shape, (size_t)info.n_dim * sizeof t->shape[0]);
                (void)snprintf(names[n++], sizeof names[0], "%s", info.name);
                t->data = stored_bytes(from, t->name, &part);
                continue;
            }
            char *data = malloc(E * 2 * F * D * sizeof(float));
            size_t at = 0;
            for (int m = 0; m < E * 2; m++) {
                char name[128];
                if (k == 1 && m % 2 == 1) { continue; }
                (void)snprintf(name, sizeof name, "model.layers.%lld.mlp.experts.%d.%s_proj.weight", layer, m / 2, k == 1 ? "down" : m % 2 == 0 ? "gate" : "up");
                unsigned char *bytes = stored_bytes(from, name, &part);
                memcpy(data + at, bytes, (size_t)part.bytes);
                at += (size_t)part.bytes;
                free(bytes);
            }
            *t = (file_tensor){names[n], info.dtype, 3, {E, k == 0 ? 2 * F : D, k == 0 ? D : F}, data};
            (void)snprintf(names[n++], sizeof names[0], "model.layers.%lld.mlp.experts.%s", layer, k == 0 ? "gate_up_proj" : "down_proj");
        }
    }
    write_tensors(to, "model.safetensors", tensors, n);
    for (int i = 0; i < n; i++) { free((void *)(uintptr_t)tensors[i].data); }
    char *config;
    size_t length;
    assert_ok(hd_io_read_file(hd_temp_path(from, "config.json"), 1 << 20, &config, &length, &err));
    write_text(to, "config.json", config);
    hd_free(config);
    hd_folder_close(&f);
}

/* load_parameters_path: fused and FP8 folders give the weights that their plain conversions give. */
static void models_in_other_forms(void **state)
{
    char run[4096], plain[4096], forms[2][4096], wide[4096], back[4096];
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){5}, 1);
    rig_close(&g);
    assert_ok(convert(run, path_of(plain, *state, "plain"), ""));
    write_fused(plain, path_of(forms[0], *state, "fused"));
    assert_ok(convert(forms[0], path_of(back, *state, "back"), ""));
    assert_same_tensors(plain, back);
    assert_ok(convert(plain, path_of(forms[1], *state, "fp8"), "save_dtype=float8_e4m3fn"));
    assert_ok(convert(forms[1], path_of(wide, *state, "wide"), "save_dtype=float32"));
    for (int i = 0; i < 2; i++) {
        rig a, b;
        rig_open(&a, HD_DTYPE_F32);
        rig_open(&b, HD_DTYPE_F32);
        assert_ok(hd_ckpt_load_parameters(forms[i], &a.ex, &a.model, &err));
        assert_ok(hd_ckpt_load_parameters(i == 0 ? plain : wide, &b.ex, &b.model, &err));
        for (int64_t p = 0; p < a.model.n_param; p++) {
            assert_same_tensor(&a, &a.model.params[p].weight.value, &b, &b.model.params[p].weight.value, a.model.params[p].name);
        }
        rig_close(&a);
        rig_close(&b);
    }
}

static char *config_of(const char *dir)
{
    char *text;
    size_t n;
    assert_ok(hd_io_read_file(hd_temp_path(dir, "config.json"), 1 << 20, &text, &n, &err));
    return text;
}

static void without_mtp(void **state)
{
    char run[4096], plain[4096], to[4096];
    rig g;
    hd_folder f;
    rig_open(&g, HD_DTYPE_F32);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){1}, 1);
    assert_ok(convert(run, path_of(plain, *state, "plain"), ""));
    book_clear();
    assert_ok(convert(run, path_of(to, *state, "short"), "--enable_mtp=false"));
    assert_logged("tensors of MTP layers were left out");
    assert_ok(hd_folder_open(to, -1, &f, &err));
    for (int64_t i = 0; i < f.n_place; i++) { assert_true(hd_hf_layer_of(hd_folder_info(&f, i).name, NULL) < 2); }
    hd_folder_close(&f);
    char *config = config_of(to), *before = config_of(plain);
    assert_non_null(strstr(before, "\"num_nextn_predict_layers\": 1"));
    assert_non_null(strstr(config, "\"num_nextn_predict_layers\": 0"));
    hd_free(config);
    hd_free(before);
    rig_close(&g);
}

static void incomplete_models(void **state)
{
    char from[4096], to[4096];
    hd_folder f;
    hd_dims dims = small_dims();
    hd_buf config = {0};
    float zero[32 * 16] = {0};
    hd_hf_config_write(&dims, HD_DTYPE_F32, &config);
    hd_buf_append_char(&config, '\0');
    path_of(from, *state, "from");
    write_tensors(from, "model.safetensors", (file_tensor[]){{"lm_head.weight", HD_DTYPE_F32, 2, {32, 16}, zero}}, 1);
    write_text(from, "config.json", config.data);
    assert_fails(convert(from, path_of(to, *state, "to"), ""), HD_E_CONFIG, "tensor model.embed_tokens.weight is missing, the model wants F32 (32, 16)");
    write_text(from, "config.json", "{\"model_type\": \"deepseek_v3\", \"num_hidden_layers\": 65536, \"n_routed_experts\": 65536}");
    assert_fails(convert(from, to, ""), HD_E_CONFIG, "config.json: 65536 layers with 65536 experts, and the folder holds 1 tensors");
    write_text(from, "config.json", "{}");
    book_clear();
    assert_ok(convert(from, to, "")); /* no model that hadal knows */
    assert_logged("model_type is \"\", want deepseek_v2 or deepseek_v3; its tensors are converted without checking");
    remove_tree(to);
    assert_ok(hd_io_unlink(hd_temp_path(from, "config.json"), &err));
    assert_fails(convert(from, to, ""), HD_E_CONFIG, "config.json is missing");
    write_text(from, "config.json", "{\"model_type\": ");
    assert_fails(convert(from, to, ""), HD_E_CORRUPT, "the text ends, want a value");
    write_text(from, "config.json", other_config);
    assert_fails(convert(from, to, "--enable_mtp=false"), HD_E_UNSUPPORTED, "other");
    assert_ok(hd_folder_open(from, -1, &f, &err));
    hd_folder_close(&f);
    hd_buf_free(&config);
}

/* ---- config.json ------------------------------------------------------------------------------------------------------------------ */

static void assert_config(const char *text, const hd_convert_options *o, const char *want)
{
    hd_buf out = {0};
    assert_ok(hd_convert_config(text, strlen(text), "config.json", o, &out, &err));
    hd_buf_append_char(&out, '\0');
    assert_string_equal(out.data, want);
    hd_buf_free(&out);
}

static void configs(void **state)
{
    (void)state;
    static const char original[] = "{\"z\": [1,  2], \"torch_dtype\": \"float32\", \"quantization_config\": {\"fmt\": \"e4m3\"},\n"
                                   " \"num_nextn_predict_layers\": 1, \"a\": {\"b\": null, \"torch_dtype\": 3}, \"\\u00e4\": 1e-06}";
    const hd_convert_options keep = {.keep_dtype = true, .keep_mtp = true}, bf16 = {.dtype = HD_DTYPE_BF16, .keep_mtp = true},
                             f8 = {.to_f8 = true, .dtype = HD_DTYPE_BF16, .scale_format = HD_SCALE_UE8M0}, f16 = {.dtype = HD_DTYPE_F16, .keep_mtp = true};
    assert_config(original, &keep,
                  "{\n  \"z\": [1,  2],\n  \"torch_dtype\": \"float32\",\n  \"quantization_config\": {\"fmt\": \"e4m3\"},\n"
                  "  \"num_nextn_predict_layers\": 1,\n  \"a\": {\"b\": null, \"torch_dtype\": 3},\n  \"\xC3\xA4\": 1e-06\n}\n");
    assert_config(original, &bf16,
                  "{\n  \"z\": [1,  2],\n  \"torch_dtype\": \"bfloat16\",\n  \"num_nextn_predict_layers\": 1,\n"
                  "  \"a\": {\"b\": null, \"torch_dtype\": 3},\n  \"\xC3\xA4\": 1e-06\n}\n");
    assert_config("{\"dtype\": \"bfloat16\", \"num_nextn_predict_layers\": 2}", &f8,
                  "{\n  \"dtype\": \"bfloat16\",\n  \"num_nextn_predict_layers\": 0,\n  \"quantization_config\": {\n    \"activation_scheme\": \"dynamic\",\n"
                  "    \"fmt\": \"e4m3\",\n    \"quant_method\": \"fp8\",\n    \"scale_fmt\": \"ue8m0\",\n    \"weight_block_size\": [\n      128,\n      128\n    ]\n  }\n}\n");
    assert_config("{}", &f16, "{\n  \"torch_dtype\": \"float16\"\n}\n");
    hd_buf out = {0};
    static const char *const bad[] = {"", "[]", "{", "{\"a\": 1, \"a\": 2}", "{\"a\": 1} x", "{\"a\": nul}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(hd_convert_config(bad[i], strlen(bad[i]), "config.json", &keep, &out, &err), HD_E_CORRUPT);
        hd_buf_clear(&out);
    }
    hd_buf_free(&out);
}

/* ---- the place ------------------------------------------------------------------------------------------------------------------------ */

static void side_files(void **state)
{
    static const char *const copied[] = {"tokenizer.json", "chat_template.jinja", "LICENSE-MODEL", "README.md", "modeling_deepseek.py", "merges.txt"};
    static const char *const left[] = {"consolidated.safetensors.index.json", ".hidden.json", "weights.bin", "notes"};
    char from[4096], to[4096];
    float value = 1.0f;
    write_model(path_of(from, *state, "from"), (file_tensor[]){{"w", HD_DTYPE_F32, 1, {1}, &value}}, 1);
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) { write_text(from, copied[i], copied[i]); }
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) { write_text(from, left[i], "{}"); }
    assert_ok(hd_io_mkdirs(hd_temp_path(from, "folder.json"), &err));
    assert_ok(convert(from, path_of(to, *state, "a/b/to//"), "")); /* parents are made */
    path_of(to, *state, "a/b/to");
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        char *text;
        size_t n;
        assert_ok(hd_io_read_file(hd_temp_path(to, copied[i]), 4096, &text, &n, &err));
        assert_string_equal(text, copied[i]);
        hd_free(text);
    }
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) { assert_false(exists(hd_temp_path(to, left[i]))); }
    assert_logged("is not a file and is not copied");
    hd_io_names names;
    assert_ok(hd_io_list(to, &names, &err));
    assert_int_equal(names.n, sizeof copied / sizeof copied[0] + 2); /* config.json, model.safetensors: no journal, no lock */
    hd_io_names_free(&names);
}

static void targets_that_are_refused(void **state)
{
    char from[4096], to[4096], run[4096], partial[4096];
    float value = 1.0f;
    rig g;
    write_model(path_of(from, *state, "from"), (file_tensor[]){{"w", HD_DTYPE_F32, 1, {1}, &value}}, 1);
    assert_fails(convert(from, from, ""), HD_E_CONFIG, "is there already");
    assert_fails(convert(from, "", ""), HD_E_CONFIG, "has no name");
    write_text(*state, "file", "");
    assert_fails(convert(from, path_of(to, *state, "file"), ""), HD_E_CONFIG, "is there already");
    assert_fails(convert(from, path_of(to, *state, "file/to"), ""), HD_E_IO, "file");
    assert_int_equal(symlink("nowhere", hd_temp_path(*state, "link")), 0);
    assert_fails(convert(from, path_of(to, *state, "link"), ""), HD_E_CONFIG, "is there already");
    assert_fails(convert(path_of(to, *state, "none"), path_of(run, *state, "to"), ""), HD_E_CONFIG, "none");
    /* A checkpoint refuses folders in it, so it is kept from getting one. */
    rig_open(&g, HD_DTYPE_F32);
    make_run(path_of(run, *state, "run"), &g, (int64_t[]){1}, 1);
    rig_close(&g);
    assert_fails(convert(run, path_of(to, *state, "run/checkpoints/1/to"), ""), HD_E_CONFIG, "is a checkpoint");
    assert_int_equal(resumed_step(run, HD_DTYPE_F32), 1);
    /* Somebody's folder is left alone. */
    path_of(to, *state, "to");
    write_text(path_of(partial, *state, "to.partial"), "diary.txt", "dear diary");
    assert_fails(convert(from, to, ""), HD_E_CONFIG, "is no unfinished conversion");
    assert_true(exists(hd_temp_path(partial, "diary.txt")));
    remove_tree(partial);
    write_text(*state, "to.partial", "");
    assert_fails(convert(from, to, ""), HD_E_CONFIG, "is no unfinished conversion");
    assert_ok(hd_io_unlink(partial, &err));
    assert_ok(hd_io_mkdirs(partial, &err)); /* an empty one can be used */
    assert_ok(convert(from, to, ""));
    assert_same_tensors(from, to);
}

/* Two at once: the second is refused while the first has the lock. */
static void another_has_the_lock(void **state)
{
    char from[4096], to[4096], partial[4096];
    float value = 1.0f;
    hd_file *lock;
    write_model(path_of(from, *state, "from"), (file_tensor[]){{"w", HD_DTYPE_F32, 1, {1}, &value}}, 1);
    assert_ok(hd_io_mkdirs(path_of(partial, *state, "to.partial"), &err));
    assert_ok(hd_io_lock(hd_temp_path(partial, "conversion.lock"), &lock, &err));
    assert_fails(convert(from, path_of(to, *state, "to"), ""), HD_E_BUSY, "conversion.lock");
    assert_ok(hd_io_close(&lock, &err));
    assert_ok(convert(from, to, ""));
}

/* ---- many and large --------------------------------------------------------------------------------------------------------------------- */

static void many_tensors(void **state)
{
    enum { N = 100000, NAME = 32 };
    char from[4096], to[4096];
    char(*names)[NAME] = malloc((size_t)N * NAME);
    file_tensor *tensors = malloc((size_t)N * sizeof *tensors);
    for (int i = 0; i < N; i++) {
        (void)snprintf(names[i], NAME, "t%d.%08x", i % 7, (unsigned)i * 2654435761u);
        tensors[i] = (file_tensor){names[i], HD_DTYPE_BF16, 1, {1}, names[i]};
    }
    write_model(path_of(from, *state, "from"), tensors, N);
    assert_ok(convert(from, path_of(to, *state, "to"), ""));
    assert_same_tensors(from, to);
    book_clear();
    assert_ok(hd_cmd_inspect(from, NULL, &err));
    assert_ok(diff(from, to));
    free(names);
    free(tensors);
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(stacked_and_transposed), CASE(rows_beyond_a_window),   CASE(quantised_by_definition),  CASE(ue8m0_comes_back),   CASE(stored_fp8_is_kept),
        CASE(values_that_do_not_fit), CASE(scales_at_the_limits),   CASE(forms_and_names),          CASE(longer_than_a_window), CASE(experts_taken_apart),
        CASE(scales_and_weights_apart), CASE(training_checkpoint),  CASE(models_in_other_forms), CASE(without_mtp),              CASE(incomplete_models),  CASE(configs),
        CASE(side_files),             CASE(targets_that_are_refused), CASE(another_has_the_lock),   CASE(many_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
