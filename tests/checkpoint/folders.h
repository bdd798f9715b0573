/* Small folders of tensors, made and read back by hand: what the tests of conversions work on. */
#ifndef HD_TESTS_CHECKPOINT_FOLDERS_H
#define HD_TESTS_CHECKPOINT_FOLDERS_H

#include "checkpoint/fixture.h"
#include "support/keys.h"

#include "checkpoint/folder.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/listing.h"
#include "checkpoint/source.h"
#include "hadal/commands.h"
#include "hadal/config.h"
#include "tensor/convert.h"

/* "dir/name" into text, which holds 4096 bytes. */
static inline char *path_of(char *text, const char *dir, const char *name)
{
    int n = snprintf(text, 4096, "%s/%s", dir, name);
    assert_true(n > 0 && n < 4096);
    return text;
}

/* ---- writing --------------------------------------------------------------------------------------------------------- */

typedef struct file_tensor {
    const char *name;
    hd_dtype dtype;
    int n_dim;
    int64_t shape[HD_ST_MAX_DIMS];
    const void *data;
} file_tensor;

static inline size_t tensor_bytes(const file_tensor *t)
{
    int64_t bytes;
    assert_true(hd_st_bytes(t->dtype, t->n_dim, t->shape, &bytes));
    return (size_t)bytes;
}

/* dir/name with the tensors in the order given. */
static inline void write_tensors(const char *dir, const char *name, const file_tensor *tensors, int n)
{
    hd_buf file = {0};
    int64_t at = 0;
    hd_st_header_begin(&file);
    for (int i = 0; i < n; i++) {
        hd_st_desc d = {.name = tensors[i].name, .dtype = tensors[i].dtype, .n_dim = tensors[i].n_dim};
        memcpy(d.shape, tensors[i].shape, sizeof d.shape);
        assert_ok(hd_st_place(&d, &at, &err));
        hd_st_header_tensor(&file, &d);
    }
    assert_ok(hd_st_header_end(&file, &err));
    for (int i = 0; i < n; i++) { hd_buf_append(&file, tensors[i].data, tensor_bytes(&tensors[i])); }
    assert_ok(hd_io_mkdirs(dir, &err));
    assert_ok(hd_io_write_file(hd_temp_path(dir, name), file.data, file.n, &err));
    hd_buf_free(&file);
}

static inline void write_text(const char *dir, const char *name, const char *text)
{
    assert_ok(hd_io_mkdirs(dir, &err));
    assert_ok(hd_io_write_file(hd_temp_path(dir, name), text, strlen(text), &err));
}

/* A family that hadal does not know: its tensors may have any name. */
static const char other_config[] = "{\"model_type\": \"other\", \"torch_dtype\": \"float32\"}";

static inline void write_model(const char *dir, const file_tensor *tensors, int n)
{
    write_tensors(dir, "model.safetensors", tensors, n);
    write_text(dir, "config.json", other_config);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------------- */

static inline uint32_t f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC00000u : bits;
}

/* Codes of every kind but NaN: about the normal distribution of a trained matrix, with all 254 of them. */
static inline uint8_t *make_codes(const char *name, int64_t n)
{
    uint8_t *codes = malloc((size_t)n + 1);
    hd_gen_bytes(name, codes, n);
    for (int64_t i = 0; i < n; i++) {
        if ((codes[i] & 0x7F) == 0x7F) { codes[i] ^= 1; }
    }
    return codes;
}

static inline float *make_values(const char *name, double scale, int64_t n)
{
    float *values = malloc((size_t)n * sizeof *values + 1);
    hd_gen_normal_f32(name, scale, values, n);
    return values;
}

static inline int64_t blocks_of(int64_t n) { return (n + HD_F8_BLOCK - 1) / HD_F8_BLOCK; }

/* ---- commands ------------------------------------------------------------------------------------------------------------ */

static inline hd_status convert(const char *from, const char *to, const char *keys)
{
    const hd_run_hooks hooks = {0};
    hd_config *config = hd_test_config("convert", "%s", keys);
    hd_status st = hd_cmd_convert(config, from, to, &hooks, &err);
    hd_config_free(config);
    return st;
}

static inline hd_status verify(const char *folder, const char *digests, const char *keys)
{
    const hd_run_hooks hooks = {0};
    hd_config *config = hd_test_config("verify", "%s", keys);
    hd_status st = hd_cmd_verify(config, folder, digests, &hooks, &err);
    hd_config_free(config);
    return st;
}

static inline hd_status diff(const char *a, const char *b)
{
    const hd_run_hooks hooks = {0};
    return hd_cmd_diff(a, b, &hooks, &err);
}

static inline bool exists(const char *path)
{
    hd_io_info info;
    assert_ok(hd_io_lstat(path, &info, &err));
    return info.kind != HD_IO_MISSING;
}

static inline void remove_tree(const char *path) { assert_ok(hd_io_remove_tree(path, &err)); }

/* ---- comparing folders ------------------------------------------------------------------------------------------------------ */

/* The stored bytes of a tensor; *info tells what it is.  Free with free. */
static inline unsigned char *stored_bytes(const char *dir, const char *name, hd_st_info *info)
{
    hd_folder f;
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    int64_t place = hd_folder_find(&f, name);
    if (place < 0) { fail_msg("%s has no %s", dir, name); }
    *info = hd_folder_info(&f, place);
    unsigned char *bytes = malloc((size_t)info->bytes + 1);
    assert_ok(hd_st_read(hd_folder_reader(&f, place), f.places[place].entry, 0, (size_t)info->bytes, bytes, &err));
    info->name = NULL;
    info->shape = NULL;
    hd_folder_close(&f);
    return bytes;
}

/* Two folders hold the same tensors: names, dtypes, shapes, bytes. */
static inline void assert_same_tensors(const char *a, const char *b)
{
    hd_folder x, y;
    assert_ok(hd_folder_open(a, -1, &x, &err));
    assert_ok(hd_folder_open(b, -1, &y, &err));
    if (x.n_place != y.n_place) { fail_msg("%s has %lld tensors, %s %lld", a, (long long)x.n_place, b, (long long)y.n_place); }
    for (int64_t i = 0; i < x.n_place; i++) {
        hd_st_info p = hd_folder_info(&x, i);
        int64_t k = hd_folder_find(&y, p.name);
        if (k < 0) { fail_msg("%s lacks %s", b, p.name); }
        hd_st_info q = hd_folder_info(&y, k);
        bool same = p.dtype == q.dtype && p.n_dim == q.n_dim && (p.n_dim == 0 || memcmp(p.shape, q.shape, (size_t)p.n_dim * sizeof p.shape[0]) == 0);
        if (!same) { fail_msg("%s has another form", p.name); }
        unsigned char *u = malloc((size_t)p.bytes + 1), *v = malloc((size_t)q.bytes + 1);
        assert_ok(hd_st_read(hd_folder_reader(&x, i), x.places[i].entry, 0, (size_t)p.bytes, u, &err));
        assert_ok(hd_st_read(hd_folder_reader(&y, k), y.places[k].entry, 0, (size_t)q.bytes, v, &err));
        if (memcmp(u, v, (size_t)p.bytes) != 0) { fail_msg("%s differs", p.name); }
        free(u);
        free(v);
    }
    hd_folder_close(&x);
    hd_folder_close(&y);
}

/* Two folders hold the same files, byte for byte. */
static inline void assert_same_files(const char *a, const char *b)
{
    hd_io_names x, y;
    assert_ok(hd_io_list(a, &x, &err));
    assert_ok(hd_io_list(b, &y, &err));
    if (x.n != y.n) { fail_msg("%s has %zu files, %s %zu", a, x.n, b, y.n); }
    for (size_t i = 0; i < x.n; i++) {
        char *p, *q;
        size_t n, m;
        assert_string_equal(x.name[i], y.name[i]);
        assert_ok(hd_io_read_file(hd_temp_path(a, x.name[i]), 1 << 30, &p, &n, &err));
        assert_ok(hd_io_read_file(hd_temp_path(b, x.name[i]), 1 << 30, &q, &m, &err));
        if (n != m || memcmp(p, q, n) != 0) { fail_msg("%s differs between %s and %s", x.name[i], a, b); }
        hd_free(p);
        hd_free(q);
    }
    hd_io_names_free(&x);
    hd_io_names_free(&y);
}

#endif
