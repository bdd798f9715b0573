/* What is built from the I/O table alone: whole files, trees of directories, the buffered reader.  See io.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/path.h"

enum { MAX_TREE_DEPTH = 64, FIRST_READ = 16384 };

/* Reads to the end, growing the buffer: files of /proc report size 0, and a file may grow while it is read. */
static hd_status read_all(hd_file *file, size_t max_bytes, void **data, size_t capacity, size_t *n, hd_err *err)
{
    *n = 0;
    for (;;) {
        size_t got;
        hd_status st = hd_io_read(file, (char *)*data + *n, capacity - 1 - *n, &got, err);
        if (st != HD_OK) { return st; }
        *n += got;
        if (*n > max_bytes) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: longer than the %zu bytes allowed", hd_io_path(file), max_bytes);
        }
        if (*n < capacity - 1) {
            ((char *)*data)[*n] = '\0';
            return HD_OK;
        }
        size_t wider = capacity <= max_bytes / 2 ? capacity * 2 : max_bytes + 2;
        st = hd_realloc(data, capacity, wider, 1, hd_io_path(file), err);
        if (st != HD_OK) { return st; }
        capacity = wider;
    }
}

hd_status hd_io_read_file(const char *path, size_t max_bytes, char **data, size_t *n, hd_err *err)
{
    hd_status st;
    hd_file *file = NULL;
    void *memory = NULL;
    int64_t bytes;
    *data = NULL;
    *n = 0;
    HD_TRY(hd_io_open_read(path, &file, err));
    HD_TRY(hd_io_size(file, &bytes, err));
    if ((uint64_t)bytes > max_bytes) {
        st = HD_FAIL(err, HD_E_CORRUPT, "%s: %" PRId64 " bytes, want at most %zu", path, bytes, max_bytes);
        goto out;
    }
    /* Two bytes more than the file: the NUL, and room to see the end without growing. */
    size_t capacity = (bytes == 0 ? (size_t)FIRST_READ : (size_t)bytes) + 2;
    HD_TRY(hd_alloc(capacity, 1, path, &memory, err));
    HD_TRY(read_all(file, max_bytes, &memory, capacity, n, err));
    *data = memory;
    memory = NULL;
out:
    hd_free(memory);
    hd_io_abandon(&file);
    return st;
}

static hd_status write_durable(const char *path, const void *data, size_t n, hd_err *err)
{
    hd_status st;
    hd_file *file = NULL;
    HD_TRY(hd_io_create(path, HD_IO_TRUNCATE, &file, err));
    HD_TRY(hd_io_write(file, data, n, err));
    HD_TRY(hd_io_sync(file, err));
    HD_TRY(hd_io_close(&file, err));
out:
    hd_io_abandon(&file);
    return st;
}

hd_status hd_io_write_file(const char *path, const void *data, size_t n, hd_err *err)
{
    hd_status st;
    char *dir = NULL, *temporary;
    void *memory = NULL;
    size_t path_len = strlen(path);
    HD_TRY(hd_path_dir(path, &dir, err));
    HD_TRY(hd_alloc(path_len + sizeof ".tmp", 1, "path", &memory, err));
    temporary = memory;
    memcpy(temporary, path, path_len);
    memcpy(temporary + path_len, ".tmp", sizeof ".tmp");
    st = write_durable(temporary, data, n, err);
    if (st == HD_OK) { st = hd_io_rename(temporary, path, err); }
    if (st != HD_OK) {
        hd_status ignored = hd_io_unlink(temporary, NULL); /* best effort: the first error is the one to report */
        (void)ignored;
        goto out;
    }
    HD_TRY(hd_io_sync_dir(dir, err));
out:
    hd_free(memory);
    hd_free(dir);
    return st;
}

/* Makes one directory unless it is there. */
static hd_status ensure_dir(const char *path, hd_err *err)
{
    hd_io_info info;
    hd_status st = hd_io_stat(path, &info, err);
    if (st != HD_OK || info.kind == HD_IO_DIRECTORY) { return st; }
    if (info.kind != HD_IO_MISSING) { return HD_FAIL(err, HD_E_IO, "mkdir %s: there is a file of this name", path); }
    st = hd_io_mkdir(path, err);
    if (st == HD_OK) { return HD_OK; }
    hd_status seen = hd_io_stat(path, &info, NULL); /* another rank may have made it meanwhile */
    return seen == HD_OK && info.kind == HD_IO_DIRECTORY ? HD_OK : st;
}

hd_status hd_io_mkdirs(const char *path, hd_err *err)
{
    char *part;
    hd_status st = hd_strdup(path, &part, err);
    if (st != HD_OK) { return st; }
    for (char *p = part; st == HD_OK && *p != '\0'; p++) {
        if (*p != '/' || p == part) { continue; }
        *p = '\0';
        st = ensure_dir(part, err);
        *p = '/';
    }
    if (st == HD_OK) { st = ensure_dir(part, err); }
    hd_free(part);
    return st;
}

static hd_status remove_at_depth(const char *path, int depth, hd_err *err)
{
    hd_io_info info;
    hd_io_names names = {0};
    char *child = NULL;
    hd_status st;
    HD_TRY(hd_io_lstat(path, &info, err));
    if (info.kind == HD_IO_MISSING) { goto out; }
    if (info.kind != HD_IO_DIRECTORY) {
        st = hd_io_unlink(path, err);
        goto out;
    }
    if (depth == MAX_TREE_DEPTH) {
        st = HD_FAIL(err, HD_E_IO, "remove %s: more than %d folders deep", path, MAX_TREE_DEPTH);
        goto out;
    }
    HD_TRY(hd_io_list(path, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        HD_TRY(hd_path_join(path, names.name[i], &child, err));
        HD_TRY(remove_at_depth(child, depth + 1, err));
        hd_free(child);
        child = NULL;
    }
    st = hd_io_rmdir(path, err);
out:
    hd_free(child);
    hd_io_names_free(&names);
    return st;
}

hd_status hd_io_remove_tree(const char *path, hd_err *err)
{
    return remove_at_depth(path, 0, err);
}

/* ---- the reader ------------------------------------------------------------------------------------------------- */

hd_status hd_reader_open(const char *path, size_t capacity, hd_reader *out, hd_err *err)
{
    hd_status st;
    void *memory;
    *out = (hd_reader){.capacity = capacity};
    HD_TRY(hd_io_open_read(path, &out->file, err));
    HD_TRY(hd_alloc(capacity, 1, path, &memory, err));
    out->buffer = memory;
    return HD_OK;
out:
    hd_reader_close(out);
    return st;
}

void hd_reader_close(hd_reader *reader)
{
    hd_io_abandon(&reader->file);
    hd_free(reader->buffer);
    *reader = (hd_reader){0};
}

/* Moves the unread bytes to the front and fills the rest. */
static hd_status refill(hd_reader *reader, hd_err *err)
{
    size_t got, room;
    memmove(reader->buffer, reader->buffer + reader->begin, reader->end - reader->begin);
    reader->end -= reader->begin;
    reader->begin = 0;
    room = reader->capacity - reader->end;
    hd_status st = hd_io_read(reader->file, reader->buffer + reader->end, room, &got, err);
    if (st != HD_OK) { return st; }
    reader->end += got;
    reader->at_end = got < room;
    return HD_OK;
}

static void consume(hd_reader *reader, size_t n)
{
    reader->begin += n;
    reader->offset += (int64_t)n;
}

hd_status hd_reader_read(hd_reader *reader, void *data, size_t n, size_t *got, hd_err *err)
{
    size_t done = 0;
    while (done < n) {
        size_t have = reader->end - reader->begin;
        if (have == 0) {
            if (reader->at_end) { break; }
            hd_status st = refill(reader, err);
            if (st != HD_OK) { return st; }
            continue;
        }
        size_t k = n - done < have ? n - done : have;
        memcpy((char *)data + done, reader->buffer + reader->begin, k);
        consume(reader, k);
        done += k;
    }
    *got = done;
    return HD_OK;
}

hd_status hd_reader_line(hd_reader *reader, const char **line, size_t *n, hd_err *err)
{
    for (;;) {
        char *start = reader->buffer + reader->begin;
        size_t have = reader->end - reader->begin;
        char *newline = have > 0 ? memchr(start, '\n', have) : NULL;
        if (newline != NULL || (reader->at_end && have > 0)) {
            size_t length = newline != NULL ? (size_t)(newline - start) : have;
            consume(reader, newline != NULL ? length + 1 : length);
            *line = start;
            *n = length > 0 && newline != NULL && start[length - 1] == '\r' ? length - 1 : length;
            return HD_OK;
        }
        *line = NULL;
        *n = 0;
        if (reader->at_end) { return HD_OK; }
        if (have == reader->capacity) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s: the line at byte %" PRId64 " is longer than %zu bytes",
                           hd_io_path(reader->file), reader->offset, reader->capacity);
        }
        hd_status st = refill(reader, err);
        if (st != HD_OK) { return st; }
    }
}
