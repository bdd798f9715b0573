/* The header of a safetensors file: order, offsets, text.  See safetensors.h. */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/checked.h"
#include "checkpoint/safetensors.h"

enum { PREFIX_BYTES = 8, DATA_ALIGNMENT = 8 };

/* The rank of a dtype in the reference implementation's enumeration. */
static const int dtype_rank[HD_DTYPE_COUNT] = {
    [HD_DTYPE_BOOL] = 0, [HD_DTYPE_U8] = 4,   [HD_DTYPE_I8] = 5,   [HD_DTYPE_F8_E4M3] = 7, [HD_DTYPE_F8_E8M0] = 8, [HD_DTYPE_F16] = 13,
    [HD_DTYPE_BF16] = 14, [HD_DTYPE_I32] = 15, [HD_DTYPE_F32] = 17, [HD_DTYPE_F64] = 19,    [HD_DTYPE_I64] = 20,
};

int hd_st_compare(const hd_st_desc *a, const hd_st_desc *b)
{
    int rank_a = dtype_rank[a->dtype], rank_b = dtype_rank[b->dtype];
    return rank_a != rank_b ? (rank_a > rank_b ? -1 : 1) : strcmp(a->name, b->name);
}

hd_status hd_st_layout(hd_st_desc *tensors, int64_t n, int64_t *data_bytes, hd_err *err)
{
    int64_t at = 0, bytes;
    for (int64_t i = 0; i < n; i++) {
        hd_st_desc *t = &tensors[i];
        t->begin = at;
        if (!hd_st_bytes(t->dtype, t->n_dim, t->shape, &bytes) || !hd_i64_add(at, bytes, &at)) {
            return HD_FAIL(err, HD_E_INVALID, "tensor %s: the file would have more than 2^63 - 1 bytes", t->name);
        }
        t->end = at;
    }
    *data_bytes = at;
    return HD_OK;
}

/* Names of hadal are plain, names of converted files may be anything. */
static void append_name(hd_buf *text, const char *name)
{
    hd_buf_append_char(text, '"');
    for (; *name != '\0'; name++) {
        unsigned char c = (unsigned char)*name;
        if (c < 0x20) {
            hd_buf_printf(text, "\\u%04x", c);
        } else {
            if (c == '"' || c == '\\') { hd_buf_append_char(text, '\\'); }
            hd_buf_append_char(text, *name);
        }
    }
    hd_buf_append_char(text, '"');
}

static void append_tensor(hd_buf *text, const hd_st_desc *t)
{
    append_name(text, t->name);
    hd_buf_printf(text, ":{\"dtype\":\"%s\",\"shape\":[", hd_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dim; i++) { hd_buf_printf(text, "%s%" PRId64, i > 0 ? "," : "", t->shape[i]); }
    hd_buf_printf(text, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", t->begin, t->end);
}

hd_status hd_st_header(const hd_st_desc *tensors, int64_t n, unsigned char **header, size_t *header_bytes, hd_err *err)
{
    hd_buf text = {0};
    *header = NULL;
    *header_bytes = 0;
    hd_buf_append(&text, "\0\0\0\0\0\0\0\0", PREFIX_BYTES);
    hd_buf_append_text(&text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < n; i++) {
        hd_buf_append_char(&text, ',');
        append_tensor(&text, &tensors[i]);
    }
    hd_buf_append_char(&text, '}');
    while (text.failed == HD_OK && text.n % DATA_ALIGNMENT != 0) { hd_buf_append_char(&text, ' '); }
    hd_status st = hd_buf_check(&text, err);
    if (st == HD_OK && text.n - PREFIX_BYTES > HD_ST_MAX_HEADER) {
        st = HD_FAIL(err, HD_E_INVALID, "a safetensors header of %zu bytes, want at most %d: use smaller shards", text.n - PREFIX_BYTES,
                     HD_ST_MAX_HEADER);
    }
    if (st != HD_OK) {
        hd_buf_free(&text);
        return st;
    }
    uint64_t length = text.n - PREFIX_BYTES;
    for (int i = 0; i < PREFIX_BYTES; i++) { text.data[i] = (char)(length >> (8 * i) & 0xFF); }
    *header_bytes = text.n;
    *header = (unsigned char *)hd_buf_take(&text);
    return HD_OK;
}
