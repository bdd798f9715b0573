/* The reader of digest files on arbitrary bytes.  The model's digest guards a file, so the bytes are also given one that fits; what is
 * accepted is written and read again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "checkpoint/digest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_again(const hd_digests *d)
{
    hd_err err;
    hd_buf text = {0};
    hd_digests back;
    hd_digests_write(d, &text);
    hd_status st = hd_buf_check(&text, &err);
    if (st == HD_OK) { st = hd_digests_parse(text.data, text.n, "again", &back, &err); }
    assert(st == HD_OK && back.n == d->n && strcmp(back.model, d->model) == 0);
    for (int64_t i = 0; i < d->n; i++) {
        const hd_digest *a = &d->rows[i], *b = &back.rows[i];
        assert(strcmp(a->name, b->name) == 0 && strcmp(a->marks, b->marks) == 0 && a->dtype == b->dtype && a->n_dim == b->n_dim);
        assert(memcmp(a->shape, b->shape, sizeof a->shape) == 0 && memcmp(a->sha256, b->sha256, sizeof a->sha256) == 0);
    }
    hd_digests_free(&back);
    hd_buf_free(&text);
}

/* SHA-256 over "hadal-model-1\n" and each name and digest: what a file of these rows must name as its model. */
static void seal(const uint8_t *data, size_t size, hd_buf *text)
{
    static const char head[] = "{\"format\": \"hadal-digests-1\", \"block_bytes\": 4194304, \"model\": \"";
    char hex[HD_SHA256_HEX];
    unsigned char digest[HD_SHA256_BYTES], row[HD_SHA256_BYTES];
    size_t name_n = size < 200 ? size : 200;
    hd_sha256 sha;
    char name[201];
    for (size_t i = 0; i < name_n; i++) { name[i] = (char)(data[i] % 0x5B + 0x20); } /* plain characters but for the backslash */
    for (size_t i = 0; i < name_n; i++) { name[i] = name[i] == '"' ? '_' : name[i]; }
    name[name_n] = '\0';
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, data, size);
    hd_sha256_final(&sha, row);
    hd_sha256_init(&sha);
    hd_sha256_update(&sha, "hadal-model-1\n", 14);
    hd_sha256_update(&sha, name, name_n + 1);
    hd_sha256_update(&sha, row, sizeof row);
    hd_sha256_final(&sha, digest);
    hd_sha256_hex(digest, hex);
    hd_buf_append_text(text, head);
    hd_buf_append_text(text, hex);
    hd_sha256_hex(row, hex);
    hd_buf_printf(text, "\", \"tensors\": {\"%s\": [\"F32\", [%zu, 3], \"%s\", \"0123abcd\"]}}", name, size, hex);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hd_err err;
    hd_buf text = {0};
    hd_digests d;
    if (hd_digests_parse((const char *)data, size, "fuzz", &d, &err) == HD_OK) {
        check_again(&d);
        hd_digests_free(&d);
    }
    seal(data, size, &text);
    if (hd_buf_check(&text, &err) == HD_OK) {
        hd_status st = hd_digests_parse(text.data, text.n, "sealed", &d, &err);
        assert(st == HD_OK);
        check_again(&d);
        hd_digests_free(&d);
        for (size_t i = 0; i < size && i < 8; i++) { /* bytes of a good file changed */
            text.data[(data[i] * 131u + i * 17u) % text.n] = (char)data[size - 1 - i];
        }
        if (hd_digests_parse(text.data, text.n, "changed", &d, &err) == HD_OK) {
            check_again(&d);
            hd_digests_free(&d);
        }
    }
    hd_buf_free(&text);
    return 0;
}
