/* Tensors to files: cut, order, place, name.  See shards.h. */
#include "checkpoint/shards.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/json.h"

void hd_shards_free(hd_shards *s)
{
    for (int64_t i = 0; i < s->n_file; i++) { hd_buf_free(&s->files[i].head); }
    hd_free(s->files);
    *s = (hd_shards){0};
}

static hd_st_desc *desc_of(const hd_shards *s, int64_t row) { return (hd_st_desc *)((char *)s->rows + (size_t)row * s->row_bytes); }

const hd_st_desc *hd_shards_desc(const hd_shards *s, int64_t row) { return desc_of(s, row); }

static hd_status add_file(hd_shards *s, hd_shard_file **out, hd_err *err)
{
    void *rows = s->files;
    if (s->n_file == s->capacity) {
        int64_t wider = s->capacity == 0 ? 16 : 2 * s->capacity;
        hd_status st = hd_realloc(&rows, (size_t)s->capacity, (size_t)wider, sizeof *s->files, "files of a folder", err);
        if (st != HD_OK) { return st; }
        s->files = rows;
        s->capacity = wider;
    }
    *out = &s->files[s->n_file++];
    **out = (hd_shard_file){0};
    return HD_OK;
}

static int by_file_order(const void *a, const void *b)
{
    return hd_st_compare(a, b);
}

/* Orders a file's tensors, places them and makes the header. */
static hd_status finish_file(hd_shards *s, hd_shard_file *f, hd_err *err)
{
    hd_status st;
    int64_t data = 0;
    if (f->n > 1) { qsort(desc_of(s, f->first), (size_t)f->n, s->row_bytes, by_file_order); }
    hd_st_header_begin(&f->head);
    for (int64_t i = 0; i < f->n; i++) {
        HD_TRY(hd_st_place(desc_of(s, f->first + i), &data, err));
        hd_st_header_tensor(&f->head, desc_of(s, f->first + i));
    }
    HD_TRY(hd_st_header_end(&f->head, err));
    if (!hd_i64_add(data, (int64_t)f->head.n, &f->bytes)) {
        st = HD_FAIL(err, HD_E_INVALID, "%s: more than 2^63 - 1 bytes", f->name);
    }
out:
    return st;
}

hd_status hd_shards_cut(hd_shards *s, int64_t first, int64_t end, int64_t max_shard, const char *stem, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t first_file = s->n_file, held = 0, bytes;
    hd_shard_file *f = NULL;
    for (int64_t i = first; i < end; i++) {
        const hd_st_desc *d = desc_of(s, i);
        if (!hd_st_bytes(d->dtype, d->n_dim, d->shape, &bytes)) {
            st = HD_FAIL(err, HD_E_INVALID, "tensor %s: more than 2^63 - 1 bytes", d->name);
            goto out;
        }
        if (f == NULL || (held > 0 && bytes > max_shard - held && !d->with_last)) {
            HD_TRY(add_file(s, &f, err));
            f->first = i;
            held = 0;
        }
        f->n++;
        held += bytes;
    }
    int64_t n = s->n_file - first_file;
    for (int64_t i = 0; i < n; i++) {
        f = &s->files[first_file + i];
        if (n == 1) {
            (void)snprintf(f->name, sizeof f->name, "%s.safetensors", stem);
        } else {
            (void)snprintf(f->name, sizeof f->name, "%s-%05" PRId64 "-of-%05" PRId64 ".safetensors", stem, i + 1, n);
        }
        HD_TRY(finish_file(s, f, err));
    }
out:
    return st;
}

void hd_shards_index(const hd_shards *s, int64_t n_file, hd_buf *out)
{
    hd_json_writer w;
    int64_t total = 0;
    for (int64_t i = 0; i < n_file; i++) { total += s->files[i].bytes - (int64_t)s->files[i].head.n; }
    hd_json_writer_init(&w, out, 1);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "metadata");
    hd_json_write_object(&w);
    hd_json_write_key(&w, "total_size");
    hd_json_write_i64(&w, total);
    hd_json_write_end(&w);
    hd_json_write_key(&w, "weight_map");
    hd_json_write_object(&w);
    for (int64_t i = 0; i < n_file; i++) {
        const hd_shard_file *f = &s->files[i];
        for (int64_t t = 0; t < f->n; t++) {
            hd_json_write_key(&w, desc_of(s, f->first + t)->name);
            hd_json_write_string(&w, f->name);
        }
    }
    hd_json_write_end(&w);
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}

hd_status hd_shards_add_text(hd_shards *s, const char *name, hd_buf *text, hd_err *err)
{
    hd_shard_file *f;
    hd_status st = hd_buf_check(text, err);
    if (st == HD_OK) { st = add_file(s, &f, err); }
    if (st != HD_OK) {
        hd_buf_free(text);
        return st;
    }
    (void)snprintf(f->name, sizeof f->name, "%s", name);
    f->head = *text;
    *text = (hd_buf){0};
    f->bytes = (int64_t)f->head.n;
    return HD_OK;
}

hd_status hd_shards_bytes(const hd_shards *s, int64_t *bytes, hd_err *err)
{
    *bytes = 0;
    for (int64_t i = 0; i < s->n_file; i++) {
        if (!hd_i64_add(*bytes, s->files[i].bytes, bytes)) {
            return HD_FAIL(err, HD_E_INVALID, "a folder of more than 2^63 - 1 bytes");
        }
    }
    return HD_OK;
}
