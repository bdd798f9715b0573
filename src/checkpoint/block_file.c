/* Verified ranges of a file.  See block_file.h. */
#include "checkpoint/block_file.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crc32c.h"

hd_status hd_block_cache_open(hd_block_cache *cache, hd_err *err)
{
    void *data = NULL;
    hd_status st = hd_alloc((size_t)HD_BLOCK_BYTES, 1, "checkpoint block", &data, err);
    *cache = (hd_block_cache){.data = data};
    return st;
}

void hd_block_cache_close(hd_block_cache *cache)
{
    hd_free(cache->data);
    *cache = (hd_block_cache){0};
}

hd_status hd_block_file_open(hd_file *file, const uint32_t *crc, int64_t bytes, hd_block_cache *cache, hd_block_file *out,
                             hd_err *err)
{
    hd_status st;
    void *seen = NULL;
    int64_t found;
    *out = (hd_block_file){.file = file, .path = hd_io_path(file), .crc = crc, .cache = cache};
    HD_TRY(hd_io_size(file, &found, err));
    if (crc != NULL && found != bytes) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: %" PRId64 " bytes, the manifest says %" PRId64, out->path, found, bytes);
        goto out;
    }
    out->bytes = found;
    if (crc != NULL) {
        HD_TRY(hd_alloc((size_t)(hd_block_count(found) + 7) / 8, 1, "verified blocks", &seen, err));
        out->seen = seen;
    }
    return HD_OK;
out:
    hd_block_file_close(out);
    return st;
}

void hd_block_file_of_memory(const void *data, size_t n, hd_block_file *out)
{
    *out = (hd_block_file){.memory = data, .path = "memory", .bytes = (int64_t)n};
}

void hd_block_file_close(hd_block_file *f)
{
    if (f->cache != NULL && f->cache->owner == f) { f->cache->owner = NULL; }
    hd_io_abandon(&f->file);
    hd_free(f->seen);
    *f = (hd_block_file){0};
}

static int64_t block_length(const hd_block_file *f, int64_t block)
{
    int64_t left = f->bytes - block * HD_BLOCK_BYTES;
    return left < HD_BLOCK_BYTES ? left : HD_BLOCK_BYTES;
}

hd_status hd_block_file_check(const hd_block_file *f, int64_t block, const void *data, hd_err *err)
{
    if (f->crc == NULL) { return HD_OK; }
    size_t n = (size_t)block_length(f, block);
    uint32_t found = hd_crc32c(0, data, n);
    if (found == f->crc[block]) { return HD_OK; }
    return HD_FAIL(err, HD_E_CORRUPT,
                   "%s: block %" PRId64 " (bytes %" PRId64 " to %" PRId64 ") is damaged: CRC-32C %08" PRIx32
                   ", the manifest says %08" PRIx32,
                   f->path, block, block * HD_BLOCK_BYTES, block * HD_BLOCK_BYTES + (int64_t)n, found, f->crc[block]);
}

/* Reads one whole block into `to` and checks it. */
static hd_status read_block(hd_block_file *f, int64_t block, void *to, hd_err *err)
{
    hd_status st = hd_io_pread(f->file, to, (size_t)block_length(f, block), block * HD_BLOCK_BYTES, err);
    if (st == HD_OK) { st = hd_block_file_check(f, block, to, err); }
    if (st == HD_OK) { f->seen[block / 8] |= (unsigned char)(1u << (block % 8)); }
    return st;
}

static hd_status cached_block(hd_block_file *f, int64_t block, hd_err *err)
{
    hd_block_cache *cache = f->cache;
    if (cache->owner == f && cache->block == block) { return HD_OK; }
    cache->owner = NULL;
    hd_status st = read_block(f, block, cache->data, err);
    if (st != HD_OK) { return st; }
    cache->owner = f;
    cache->block = block;
    return HD_OK;
}

static hd_status read_verified(hd_block_file *f, int64_t offset, size_t n, unsigned char *out, hd_err *err)
{
    while (n > 0) {
        int64_t block = offset / HD_BLOCK_BYTES, within = offset % HD_BLOCK_BYTES, length = block_length(f, block);
        size_t part = (size_t)(length - within) < n ? (size_t)(length - within) : n;
        bool whole = within == 0 && part == (size_t)length;
        hd_status st = whole ? read_block(f, block, out, err) : cached_block(f, block, err);
        if (st != HD_OK) { return st; }
        if (!whole) { memcpy(out, f->cache->data + within, part); }
        out += part;
        offset += (int64_t)part;
        n -= part;
    }
    return HD_OK;
}

hd_status hd_block_file_read(hd_block_file *f, int64_t offset, size_t n, void *out, hd_err *err)
{
    if (offset < 0 || offset > f->bytes || (uint64_t)n > (uint64_t)(f->bytes - offset)) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: %zu bytes wanted at %" PRId64 ", the file has %" PRId64, f->path, n, offset,
                       f->bytes);
    }
    if (n == 0) { return HD_OK; }
    if (f->memory != NULL) {
        memcpy(out, f->memory + offset, n);
        return HD_OK;
    }
    return f->crc != NULL ? read_verified(f, offset, n, out, err) : hd_io_pread(f->file, out, n, offset, err);
}

hd_status hd_block_file_verify_rest(hd_block_file *f, hd_err *err)
{
    if (f->crc == NULL) { return HD_OK; }
    for (int64_t block = 0; block < hd_block_count(f->bytes); block++) {
        if ((f->seen[block / 8] >> (block % 8) & 1) != 0) { continue; }
        hd_status st = cached_block(f, block, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}
