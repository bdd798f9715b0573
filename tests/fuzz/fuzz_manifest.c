/* The manifest's and config.json's readers on arbitrary bytes.  A manifest is believed only under its own digest, so the bytes are
 * given one; what is accepted is written and read again. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/sha256.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(hd_buf *text)
{
    char hex[HD_SHA256_HEX];
    unsigned char digest[HD_SHA256_BYTES];
    hd_sha256 sha;
    hd_buf_append_text(text, ",\n \"sha256\": \"");
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, text->data, text->n);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    hd_buf_append_text(text, hex);
    hd_buf_append_text(text, "\"\n}\n");
}

static void try_manifest(const uint8_t *data, size_t size)
{
    hd_err err;
    hd_buf text = {0}, again = {0};
    hd_manifest m, back;
    hd_buf_append(&text, data, size);
    seal(&text);
    if (hd_buf_check(&text, &err) == HD_OK && hd_manifest_parse(text.data, text.n, "fuzz", &m, &err) == HD_OK) {
        hd_manifest_write(&m, &again);
        hd_status st = hd_buf_check(&again, &err);
        if (st == HD_OK) { st = hd_manifest_parse(again.data, again.n, "again", &back, &err); }
        assert(st == HD_OK && back.step == m.step && back.n_file == m.n_file && back.n_value == m.n_value);
        hd_manifest_free(&back);
        hd_manifest_free(&m);
    }
    hd_buf_free(&text);
    hd_buf_free(&again);
}

static void try_config(const uint8_t *data, size_t size)
{
    hd_err err;
    hd_dims dims, back;
    hd_buf text = {0};
    if (hd_hf_config_parse((const char *)data, size, "fuzz", &dims, &err) == HD_OK) {
        hd_hf_config_write(&dims, HD_DTYPE_F32, &text);
        hd_status st = hd_buf_check(&text, &err);
        if (st == HD_OK) { st = hd_hf_config_parse(text.data, text.n, "again", &back, &err); }
        assert(st == HD_OK && back.n_layer == dims.n_layer && back.n_expert == dims.n_expert);
    }
    hd_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hd_manifest m;
    if (hd_manifest_parse((const char *)data, size, "fuzz", &m, NULL) == HD_OK) { hd_manifest_free(&m); }
    try_manifest(data, size);
    try_config(data, size);
    return 0;
}
