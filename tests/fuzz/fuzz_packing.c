/* config.json on arbitrary bytes: what it says of packed matrices, of a model, and, when both are said, of the shapes of its matrices.  Bits
 * that are read are written and read again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "checkpoint/hf_config.h"
#include "checkpoint/packing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(int bits)
{
    hd_err err;
    hd_buf text = {0};
    hd_json_writer w;
    int again = -1;
    hd_json_writer_init(&w, &text, 0);
    hd_json_write_object(&w);
    hd_packing_write(&w, bits);
    hd_json_write_end(&w);
    if (hd_buf_check(&text, &err) == HD_OK) {
        hd_status st = hd_packing_read(text.data, text.n, "again", &again, &err);
        assert(st == HD_OK && again == bits);
    }
    hd_buf_free(&text);
}

static void check_shapes(const hd_dims *dims, int bits, const char *tail)
{
    char name[256];
    int64_t shape[2];
    hd_dtype dtype;
    const char *const names[] = {"lm_head.weight", "model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.1.shared_head.head.weight", tail};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        (void)strncpy(name, names[i], sizeof name - 1);
        name[sizeof name - 1] = '\0';
        if (!hd_packing_shape(dims, name, shape)) { continue; }
        assert(shape[0] >= 0 && shape[1] >= 0);
        if (hd_packing_dtype(name, shape[1], bits, &dtype)) { assert(hd_dtype_is_packed(dtype) && shape[1] % HD_PACKED_GROUP == 0); }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hd_err err;
    hd_dims dims;
    int bits;
    char tail[256] = "";
    const char *text = (const char *)data;
    size_t n = size < sizeof tail ? size : sizeof tail - 1;
    if (n > 0) { memcpy(tail, text + size - n, n); }
    if (hd_packing_read(text, size, "fuzz", &bits, &err) == HD_OK) {
        assert(bits == 0 || bits == 4 || bits == 8);
        if (bits != 0) { check_again(bits); }
        if (hd_hf_config_parse(text, size, "fuzz", &dims, &err) == HD_OK) { check_shapes(&dims, bits, tail); }
    }
    return 0;
}
