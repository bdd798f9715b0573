/* The header of a safetensors file: order, offsets, text.  See safetensors.h. */
#include <inttypes.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"
#include "checkpoint/safetensors.h"

enum { PREFIX_BYTES = 8, DATA_ALIGNMENT = 64 };

/* The rank of a dtype in the reference implementation's enumeration. */
static const int dtype_rank[HD_DTYPE_COUNT] = {
    [HD_DTYPE_BOOL] = 0, [HD_DTYPE_U8] = 4,   [HD_DTYPE_I8] = 5,   [HD_DTYPE_F8_E4M3] = 7, [HD_DTYPE_F8_E8M0] = 8, [HD_DTYPE_F16] = 13,
    [HD_DTYPE_BF16] = 14, [HD_DTYPE_I32] = 15, [HD_DTYPE_F32] = 17, [HD_DTYPE_F64] = 19,    [HD_DTYPE_I64] = 20,
};

int hd_st_compare(const hd_st_desc *a, const hd_st_desc *b)
{
    if (a->rank != b->rank) { return b->rank == 0 || (a->rank != 0 && a->rank < b->rank) ? -1 : 1; }
    int rank_a = dtype_rank[a->dtype], rank_b = dtype_rank[b->dtype];
    return rank_a != rank_b ? (rank_a > rank_b ? -1 : 1) : strcmp(a->name, b->name);
}

hd_status hd_st_place(hd_st_desc *t, int64_t *at, hd_err *err)
{
    int64_t bytes, end;
    if (!hd_st_bytes(t->dtype, t->n_dim, t->shape, &bytes) || !hd_i64_add(*at, bytes, &end)) {
        return HD_FAIL(err, HD_E_INVALID, "tensor %s: the file would have more than 2^63 - 1 bytes", t->name);
    }
    t->begin = *at;
    t->end = *at = end;
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

void hd_st_header_begin(hd_buf *header)
{
    hd_buf_append(header, "\0\0\0\0\0\0\0\0", PREFIX_BYTES);
    hd_buf_append_text(header, "{\"__metadata__\":{\"format\":\"pt\"}");
}

void hd_st_header_tensor(hd_buf *header, const hd_st_desc *t)
{
    hd_buf_append_char(header, ',');
    append_name(header, t->name);
    hd_buf_printf(header, ":{\"dtype\":\"%s\",\"shape\":[", hd_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dim; i++) { hd_buf_printf(header, "%s%" PRId64, i > 0 ? "," : "", t->shape[i]); }
    hd_buf_printf(header, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", t->begin, t->end);
}

hd_status hd_st_header_end(hd_buf *header, hd_err *err)
{
    hd_buf_append_char(header, '}');
    while (header->failed == HD_OK && header->n % DATA_ALIGNMENT != 0) { hd_buf_append_char(header, ' '); }
    hd_status st = hd_buf_check(header, err);
    if (st != HD_OK) { return st; }
    uint64_t length = header->n - PREFIX_BYTES;
    if (length > HD_ST_MAX_HEADER) {
        return HD_FAIL(err, HD_E_INVALID, "a safetensors header of %" PRIu64 " bytes, want at most %d: use smaller shards", length,
                       HD_ST_MAX_HEADER);
    }
    for (int i = 0; i < PREFIX_BYTES; i++) { header->data[i] = (char)(length >> (8 * i) & 0xFF); }
    return HD_OK;
}
