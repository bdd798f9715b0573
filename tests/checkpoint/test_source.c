/* Logical tensors over stored ones: FP8 blocks of every shape and kind of scale, fused experts, any rectangle in any dtype; and what
 * is refused. */
#include "checkpoint/folders.h"

#include <math.h>
#include <unistd.h>

static uint64_t rolling = 1;
static int64_t below(int64_t n)
{
    rolling = rolling * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((rolling >> 33) % (uint64_t)n);
}

typedef struct opened {
    hd_folder folder;
    hd_source source;
} opened;

static void open_it(const char *dir, opened *o)
{
    assert_ok(hd_folder_open(dir, -1, &o->folder, &err));
    assert_ok(hd_source_open(&o->folder, &o->source, &err));
}

static void close_it(opened *o)
{
    hd_source_close(&o->source);
    hd_folder_close(&o->folder);
}

/* The rectangle of `want` (rows x columns f32 values), narrowed to `to`, is what the source gives. */
static void assert_rect(opened *o, const hd_source_tensor *t, const float *want, hd_rect r, hd_dtype to)
{
    size_t size = hd_dtype_bytes(to), n = (size_t)(r.n_row * r.n_column);
    unsigned char *got = malloc(n * size + 1), *narrow = malloc(n * size + 1);
    float *part = malloc(n * sizeof *part + 1);
    for (int64_t i = 0; i < r.n_row; i++) {
        memcpy(part + i * r.n_column, want + (r.row + i) * t->columns + r.column, (size_t)r.n_column * sizeof *part);
    }
    hd_convert(HD_DTYPE_F32, part, (int64_t)n, to, narrow);
    got[n * size] = 0xEE;
    assert_ok(hd_source_read(&o->source, t, r, to, got, &err));
    assert_int_equal(got[n * size], 0xEE);
    if (memcmp(got, narrow, n * size) != 0) {
        fail_msg("rectangle (%lld + %lld, %lld + %lld) as %s differs", (long long)r.row, (long long)r.n_row, (long long)r.column,
                 (long long)r.n_column, hd_dtype_name(to));
    }
    free(got);
    free(narrow);
    free(part);
}

static void assert_any_rect(opened *o, const hd_source_tensor *t, const float *want)
{
    static const hd_dtype dtypes[] = {HD_DTYPE_F32, HD_DTYPE_BF16, HD_DTYPE_F16};
    for (int d = 0; d < 3; d++) {
        assert_rect(o, t, want, (hd_rect){0, t->rows, 0, t->columns}, dtypes[d]);
        for (int i = 0; i < 20; i++) {
            hd_rect r = {.row = below(t->rows), .column = below(t->columns)};
            r.n_row = 1 + below(t->rows - r.row);
            r.n_column = 1 + below(t->columns - r.column);
            assert_rect(o, t, want, r, dtypes[d]);
        }
    }
}

/* ---- FP8 ---------------------------------------------------------------------------------------------------------------- */

/* Scales of a dtype, as stored and as the values they stand for. */
static void make_scales(hd_dtype dtype, int64_t n, unsigned char *stored, float *values)
{
    for (int64_t i = 0; i < n; i++) {
        float value = 0.001f + 0.0001f * (float)below(1000);
        uint16_t half = hd_f32_to_bf16(value);
        uint8_t exponent = (uint8_t)(100 + below(40));
        if (dtype == HD_DTYPE_F32) {
            memcpy(stored + 4 * i, &value, 4);
        } else if (dtype == HD_DTYPE_BF16) {
            memcpy(stored + 2 * i, &half, 2);
            value = hd_bf16_to_f32(half);
        } else {
            stored[i] = exponent;
            value = ldexpf(1.0f, exponent - 127);
        }
        values[i] = value;
    }
}

static void one_fp8(const char *dir, int64_t rows, int64_t columns, hd_dtype scale_dtype)
{
    int64_t across = blocks_of(columns), n_scale = blocks_of(rows) * across;
    uint8_t *codes = make_codes("codes", rows * columns);
    unsigned char *stored = malloc((size_t)n_scale * 4);
    float *scales = malloc((size_t)n_scale * 4), *want = malloc((size_t)(rows * columns) * 4);
    opened o;
    hd_source_tensor t;
    make_scales(scale_dtype, n_scale, stored, scales);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < columns; c++) { /* the published rule */
            want[r * columns + c] = hd_f8_e4m3_to_f32(codes[r * columns + c]) * scales[r / 128 * across + c / 128];
        }
    }
    write_model(dir, (file_tensor[]){{"w", HD_DTYPE_F8_E4M3, 2, {rows, columns}, codes},
                                     {"w_scale_inv", scale_dtype, 2, {blocks_of(rows), across}, stored}}, 2);
    open_it(dir, &o);
    assert_ok(hd_source_find(&o.folder, "w", &t, &err));
    assert_true(t.rows == rows && t.columns == columns && hd_source_is_float(&t) && t.scale_place >= 0);
    assert_any_rect(&o, &t, want);
    unsigned char *same = malloc((size_t)(rows * columns));
    assert_ok(hd_source_read(&o.source, &t, (hd_rect){0, rows, 0, columns}, HD_DTYPE_F8_E4M3, same, &err));
    assert_memory_equal(same, codes, (size_t)(rows * columns));
    close_it(&o);
    free(same);
    free(codes);
    free(stored);
    free(scales);
    free(want);
}

static void fp8_of_every_shape(void **state)
{
    static const int64_t shapes[][2] = {{1, 1}, {128, 128}, {127, 129}, {129, 127}, {300, 5}, {5, 300}, {256, 384}, {2, 70000}, {700, 2000}};
    static const hd_dtype scales[] = {HD_DTYPE_F32, HD_DTYPE_BF16, HD_DTYPE_F8_E8M0, HD_DTYPE_U8};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int k = 0; k < 4; k++) { one_fp8(*state, shapes[i][0], shapes[i][1], scales[k]); }
    }
}

static void scales_in_another_shard(void **state)
{
    uint8_t codes[2] = {0x38, 0xB8}; /* 1, -1 */
    float scale = 3.0f, got[2];
    opened o;
    hd_source_tensor t;
    write_tensors(*state, "part-b.safetensors", (file_tensor[]){{"w", HD_DTYPE_F8_E4M3, 2, {1, 2}, codes}}, 1);
    write_tensors(*state, "part-a.safetensors", (file_tensor[]){{"w_scale_inv", HD_DTYPE_F32, 2, {1, 1}, &scale}}, 1);
    write_text(*state, "model.safetensors.index.json", "{\"metadata\": {}, \"weight_map\": {\"w\": \"part-b.safetensors\", \"w_scale_inv\": \"part-a.safetensors\"}}");
    open_it(*state, &o);
    assert_ok(hd_source_find(&o.folder, "w", &t, &err));
    assert_ok(hd_source_read(&o.source, &t, (hd_rect){0, 1, 0, 2}, HD_DTYPE_F32, got, &err));
    assert_true(got[0] == 3.0f && got[1] == -3.0f);
    close_it(&o);
}

/* ---- floats and fused experts ------------------------------------------------------------------------------------------------ */

static void floats(void **state)
{
    static const hd_dtype dtypes[] = {HD_DTYPE_F32, HD_DTYPE_BF16, HD_DTYPE_F16};
    enum { ROWS = 37, COLUMNS = 211 };
    float *values = make_values("floats", 1.0, ROWS * COLUMNS);
    unsigned char *stored = malloc(ROWS * COLUMNS * 4);
    for (int d = 0; d < 3; d++) {
        opened o;
        hd_source_tensor t;
        hd_convert(HD_DTYPE_F32, values, ROWS * COLUMNS, dtypes[d], stored);
        hd_convert(dtypes[d], stored, ROWS * COLUMNS, HD_DTYPE_F32, values);
        write_model(*state, (file_tensor[]){{"w", dtypes[d], 2, {ROWS, COLUMNS}, stored}}, 1);
        open_it(*state, &o);
        assert_ok(hd_source_find(&o.folder, "w", &t, &err));
        assert_any_rect(&o, &t, values);
        close_it(&o);
    }
    free(values);
    free(stored);
}

static void fused_experts(void **state)
{
    enum { E = 3, F = 5, D = 7 };
    float gate_up[E * 2 * F * D], down[E * D * F];
    char name[128];
    opened o;
    hd_source_tensor t;
    hd_gen_normal_f32("gate_up", 1.0, gate_up, E * 2 * F * D);
    hd_gen_normal_f32("down", 1.0, down, E * D * F);
    write_model(*state, (file_tensor[]){{"model.layers.4.mlp.experts.gate_up_proj", HD_DTYPE_F32, 3, {E, 2 * F, D}, gate_up},
                                        {"model.layers.4.mlp.experts.down_proj", HD_DTYPE_F32, 3, {E, D, F}, down}}, 2);
    open_it(*state, &o);
    for (int e = 0; e < E; e++) {
        static const char *const matrices[] = {"gate", "up", "down"};
        const float *want[] = {gate_up + e * 2 * F * D, gate_up + (e * 2 + 1) * F * D, down + e * D * F};
        for (int k = 0; k < 3; k++) {
            (void)snprintf(name, sizeof name, "model.layers.4.mlp.experts.%d.%s_proj.weight", e, matrices[k]);
            assert_ok(hd_source_find(&o.folder, name, &t, &err));
            assert_true(t.n_dim == 2 && t.rows == (k < 2 ? F : D) && t.columns == (k < 2 ? D : F));
            assert_any_rect(&o, &t, want[k]);
        }
    }
    static const char *const absent[] = {"model.layers.4.mlp.experts.3.up_proj.weight", "model.layers.5.mlp.experts.0.up_proj.weight",
                                         "model.layers.4.mlp.experts.0.side_proj.weight", "model.layers.4.mlp.experts..up_proj.weight", "w"};
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        assert_ok(hd_source_find(&o.folder, absent[i], &t, &err));
        assert_int_equal(t.place, -1);
    }
    close_it(&o);
}

/* ---- rectangles ---------------------------------------------------------------------------------------------------------------- */

static void rectangles_cover_once(void **state)
{
    (void)state;
    static const int64_t shapes[][2] = {{1, 1}, {7, 5}, {1, 1000}, {1000, 1}, {3, 64}, {0, 5}, {5, 0}};
    static unsigned char seen[1000];
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int64_t most = 1; most < 80; most += 13) {
            hd_source_tensor t = {.rows = shapes[i][0], .columns = shapes[i][1]};
            hd_rect r = {0};
            int64_t next = 0;
            memset(seen, 0, sizeof seen);
            while (hd_rect_next(&t, most, &r)) {
                assert_true(r.n_row * r.n_column <= most && r.n_row > 0 && r.n_column > 0);
                assert_true(r.row * t.columns + r.column == next && (r.n_row == 1 || r.n_column == t.columns));
                next += r.n_row * r.n_column;
            }
            assert_int_equal(next, t.rows * t.columns);
        }
    }
}

/* ---- what is refused ------------------------------------------------------------------------------------------------------------- */

static void assert_refused(const char *dir, const file_tensor *tensors, int n, const char *name, hd_status code, const char *message)
{
    hd_folder f;
    hd_source_tensor t;
    hd_listing list;
    write_model(dir, tensors, n);
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    assert_fails(hd_source_find(&f, name, &t, &err), code, message);
    assert_true(strstr(err.msg, "model.safetensors") != NULL);
    assert_fails(hd_listing_make(&f, INT64_MAX, false, &list, &err), code, message);
    hd_listing_free(&list);
    hd_folder_close(&f);
}

static void refused(void **state)
{
    static unsigned char data[4096];
    static const char gate_up[] = "model.layers.0.mlp.experts.gate_up_proj", gate[] = "model.layers.0.mlp.experts.0.gate_proj.weight";
    const char *dir = *state;
    const file_tensor w = {"w", HD_DTYPE_F8_E4M3, 2, {2, 130}, data};
    assert_refused(dir, &w, 1, "w", HD_E_CORRUPT, "tensor w is F8_E4M3 and its block scales, w_scale_inv, are missing");
    assert_refused(dir, (file_tensor[]){w, {"w_scale_inv", HD_DTYPE_F32, 2, {1, 1}, data}}, 2, "w", HD_E_CORRUPT,
                   "w_scale_inv is F32 (1, 1), want F32, BF16 or F8_E8M0 (1, 2)");
    assert_refused(dir, (file_tensor[]){w, {"w_scale_inv", HD_DTYPE_F32, 2, {2, 1}, data}}, 2, "w", HD_E_CORRUPT, "(2, 1), want");
    assert_refused(dir, (file_tensor[]){w, {"w_scale_inv", HD_DTYPE_F32, 1, {2}, data}}, 2, "w", HD_E_CORRUPT, "F32 (2), want");
    assert_refused(dir, (file_tensor[]){w, {"w_scale_inv", HD_DTYPE_F64, 2, {1, 2}, data}}, 2, "w", HD_E_CORRUPT, "F64 (1, 2), want");
    assert_refused(dir, (file_tensor[]){w, {"w_scale_inv", HD_DTYPE_I32, 2, {1, 2}, data}}, 2, "w", HD_E_CORRUPT, "I32 (1, 2), want");
    assert_refused(dir, (file_tensor[]){{"w", HD_DTYPE_F8_E4M3, 3, {1, 2, 3}, data}, {"w_scale_inv", HD_DTYPE_F32, 2, {1, 1}, data}}, 2, "w",
                   HD_E_CORRUPT, "w_scale_inv");
    assert_refused(dir, (file_tensor[]){{gate_up, HD_DTYPE_F32, 3, {2, 3, 4}, data}}, 1, gate, HD_E_UNSUPPORTED, "(experts, 2 x rows, columns)");
    assert_refused(dir, (file_tensor[]){{gate_up, HD_DTYPE_U8, 3, {2, 2, 4}, data}}, 1, gate, HD_E_UNSUPPORTED, "U8 (2, 2, 4)");
    /* Numbers of experts that are none: a list of them would take the memory. */
    assert_refused(dir, (file_tensor[]){{gate_up, HD_DTYPE_F32, 3, {INT64_C(4000000000), 0, 4}, data}}, 1, gate, HD_E_UNSUPPORTED, "at most 4096 experts");
    assert_refused(dir, (file_tensor[]){{"model.layers.0.mlp.experts.down_proj", HD_DTYPE_BF16, 3, {4097, 0, 1}, data}}, 1,
                   "model.layers.0.mlp.experts.0.down_proj.weight", HD_E_UNSUPPORTED, "at most 4096 experts");
}

static void alone_and_fused(void **state)
{
    static unsigned char data[4096];
    hd_folder f;
    hd_listing list;
    write_model(*state, (file_tensor[]){{"model.layers.0.mlp.experts.down_proj", HD_DTYPE_F32, 3, {2, 3, 4}, data},
                                        {"model.layers.0.mlp.experts.1.down_proj.weight", HD_DTYPE_F32, 2, {3, 4}, data}}, 2);
    assert_ok(hd_folder_open(*state, -1, &f, &err));
    assert_fails(hd_listing_make(&f, INT64_MAX, false, &list, &err), HD_E_CORRUPT,
                 "tensor model.layers.0.mlp.experts.1.down_proj.weight is there alone and in a fused tensor");
    hd_listing_free(&list);
    hd_folder_close(&f);
}

static void not_a_float(void **state)
{
    int32_t data[4] = {1, 2, 3, 4}, same[4];
    float wide[4];
    opened o;
    hd_source_tensor t;
    write_model(*state, (file_tensor[]){{"w", HD_DTYPE_I32, 1, {4}, data}}, 1);
    open_it(*state, &o);
    assert_ok(hd_source_find(&o.folder, "w", &t, &err));
    assert_false(hd_source_is_float(&t));
    assert_ok(hd_source_read(&o.source, &t, (hd_rect){0, 1, 0, 4}, HD_DTYPE_I32, same, &err));
    assert_memory_equal(same, data, sizeof data);
    assert_fails(hd_source_read(&o.source, &t, (hd_rect){0, 1, 0, 4}, HD_DTYPE_F32, wide, &err), HD_E_INVALID, "w: I32 cannot be read as F32");
    close_it(&o);
}

static void empty_tensors(void **state)
{
    opened o;
    hd_source_tensor t;
    hd_listing list;
    const int64_t big = INT64_C(1) << 40;
    write_model(*state, (file_tensor[]){{"a", HD_DTYPE_F32, 3, {big, 5, 0}, ""}, {"b", HD_DTYPE_BF16, 3, {0, big, big}, ""},
                                        {"c", HD_DTYPE_F16, 4, {big, 0, big, 5}, ""}, {"d", HD_DTYPE_F32, 1, {0}, ""}}, 4);
    open_it(*state, &o);
    for (int i = 0; i < 4; i++) {
        assert_ok(hd_source_find(&o.folder, &"a\0b\0c\0d"[2 * i], &t, &err));
        assert_true(t.place >= 0 && t.rows == 0);
        assert_false(hd_rect_next(&t, 100, &(hd_rect){0}));
    }
    assert_ok(hd_listing_make(&o.folder, INT64_MAX, false, &list, &err));
    assert_int_equal(list.n, 4);
    hd_listing_free(&list);
    close_it(&o);
}

static void a_file_that_shrinks(void **state)
{
    enum { N = 1 << 16 };
    float *values = make_values("values", 1.0, N), *got = malloc(N * sizeof *got);
    opened o;
    hd_source_tensor t;
    write_model(*state, (file_tensor[]){{"w", HD_DTYPE_F32, 1, {N}, values}}, 1);
    open_it(*state, &o);
    assert_ok(hd_source_find(&o.folder, "w", &t, &err));
    assert_int_equal(truncate(hd_temp_path(*state, "model.safetensors"), N), 0);
    assert_fails(hd_source_read(&o.source, &t, (hd_rect){0, 1, 0, N}, HD_DTYPE_F32, got, &err), HD_E_CORRUPT, "model.safetensors");
    close_it(&o);
    free(values);
    free(got);
}

/* ---- the order of a listing -------------------------------------------------------------------------------------------------------- */

static void order_of_names(void **state)
{
    (void)state;
    static const char *const ordered[] = {
        "model.embed_tokens.weight", "model.layers.2.input_layernorm.weight", "model.layers.2.mlp.experts.9.up_proj.weight",
        "model.layers.2.mlp.experts.10.up_proj.weight", "model.layers.2.self_attn.o_proj.weight", "model.layers.10.input_layernorm.weight",
        "lm_head.weight", "model.norm.weight"};
    enum { N = sizeof ordered / sizeof ordered[0] };
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N; k++) {
            int order = hd_listing_compare(ordered[i], ordered[k]);
            assert_true((order < 0) == (i < k) && (order > 0) == (i > k));
        }
    }
    assert_true(hd_listing_compare("a", "ab") < 0 && hd_listing_compare("a1", "a01") < 0 && hd_listing_compare("", "a") < 0);
}

static void names_that_are_too_long(void **state)
{
    char name[301] = "";
    float value = 1.0f;
    hd_folder f;
    hd_listing list;
    for (int n = 255; n <= 256; n++) {
        memset(name, 'n', (size_t)n);
        name[n] = '\0';
        write_model(*state, (file_tensor[]){{name, HD_DTYPE_F32, 0, {0}, &value}}, 1);
        assert_ok(hd_folder_open(*state, -1, &f, &err));
        if (n == 255) {
            assert_ok(hd_listing_make(&f, INT64_MAX, false, &list, &err));
        } else {
            assert_fails(hd_listing_make(&f, INT64_MAX, false, &list, &err), HD_E_UNSUPPORTED, "a name of 256 bytes, want at most 255");
        }
        hd_listing_free(&list);
        hd_folder_close(&f);
    }
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(fp8_of_every_shape), CASE(scales_in_another_shard), CASE(floats), CASE(fused_experts), CASE(rectangles_cover_once), CASE(refused),
        CASE(alone_and_fused), CASE(not_a_float), CASE(empty_tensors), CASE(a_file_that_shrinks), CASE(order_of_names), CASE(names_that_are_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
