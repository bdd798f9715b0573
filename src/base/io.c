/* The I/O table over the system calls.  See io.h.  The only file of libhadal that opens, reads, writes or renames. */
#include "base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/path.h"

static const struct {
    const char *name;
    hd_io_class class;
} ops[HD_IO_OP_COUNT] = {
    [HD_IO_OP_CREATE] = {"create", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_WRITE] = {"write", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_PWRITE] = {"pwrite", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_FSYNC] = {"fsync", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_FDATASYNC] = {"fdatasync", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_FALLOCATE] = {"fallocate", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_FTRUNCATE] = {"ftruncate", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_CLOSE] = {"close", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_RENAME] = {"rename", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_MKDIR] = {"mkdir", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_UNLINK] = {"unlink", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_RMDIR] = {"rmdir", HD_IO_CLASS_MUTATE},
    [HD_IO_OP_OPEN] = {"open", HD_IO_CLASS_READ},
    [HD_IO_OP_READ] = {"read", HD_IO_CLASS_READ},
    [HD_IO_OP_PREAD] = {"pread", HD_IO_CLASS_READ},
    [HD_IO_OP_STAT] = {"stat", HD_IO_CLASS_READ},
    [HD_IO_OP_LIST] = {"list", HD_IO_CLASS_READ},
    [HD_IO_OP_MMAP] = {"mmap", HD_IO_CLASS_READ},
    [HD_IO_OP_POPULATE] = {"populate", HD_IO_CLASS_READ},
    [HD_IO_OP_FLOCK] = {"flock", HD_IO_CLASS_OTHER},
    [HD_IO_OP_STATVFS] = {"statvfs", HD_IO_CLASS_OTHER},
};

struct hd_file {
    int fd;
    bool writable;
    bool sync_failed;
    int64_t position;
    char path[]; /* for messages and the hook */
};

/* A hook table: set before other threads run. */
static struct {
    hd_io_hook call;
    void *context;
} hook;

const char *hd_io_op_name(hd_io_op op)
{
    return ops[op].name;
}

hd_io_class hd_io_op_class(hd_io_op op)
{
    return ops[op].class;
}

void hd_io_set_hook(hd_io_hook call, void *context)
{
    hook.call = call;
    hook.context = context;
}

/* ---- the hook around one attempt -------------------------------------------------------------------------------- */

/* False, with errno set, when the hook wants the operation to fail. */
static bool admitted(hd_io_event *event)
{
    if (hook.call != NULL) { hook.call(hook.context, event); }
    if (event->fail_errno != 0) { errno = event->fail_errno; }
    return event->fail_errno == 0;
}

/* Evaluates `call`, whose result is negative on failure, under the hook until it is not interrupted. */
#define ATTEMPT(result, event_init, call)                        \
    do {                                                         \
        hd_io_event event = event_init;                          \
        (result) = admitted(&event) ? (call) : -1;               \
        if (event.kill_after) { (void)kill(getpid(), SIGKILL); } \
    } while ((result) < 0 && errno == EINTR)

#define EVENT(...) ((hd_io_event){__VA_ARGS__})

static hd_status refused(const char *verb, const char *path, hd_err *err)
{
    char text[128];
    int saved = errno;
    return HD_FAIL(err, HD_E_IO, "%s %s: %s", verb, path, strerror_r(saved, text, sizeof text));
}

static hd_status refused_op(hd_io_op op, const char *path, hd_err *err)
{
    return refused(ops[op].name, path, err);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static const char *kind_name(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
           : S_ISREG(mode)  ? "a regular file"
                            : "a device";
}

/* Takes ownership of fd: makes the hd_file, or closes fd. */
static hd_status wrap(int fd, const char *path, bool writable, hd_file **out, hd_err *err)
{
    struct stat info;
    void *memory = NULL;
    size_t path_bytes = strlen(path) + 1;
    hd_status st = HD_OK;
    if (fstat(fd, &info) != 0) {
        st = refused("stat", path, err);
    } else if (!S_ISREG(info.st_mode) && !(writable && S_ISCHR(info.st_mode))) {
        st = HD_FAIL(err, HD_E_IO, "open %s: it is %s, want a regular file", path, kind_name(info.st_mode));
    } else {
        st = hd_alloc(1, sizeof(hd_file) + path_bytes, "open file", &memory, err);
    }
    if (st != HD_OK) {
        (void)close(fd);
        return st;
    }
    hd_file *file = memory;
    file->fd = fd;
    file->writable = writable;
    memcpy(file->path, path, path_bytes);
    *out = file;
    return HD_OK;
}

hd_status hd_io_open_read(const char *path, hd_file **out, hd_err *err)
{
    int fd;
    *out = NULL;
    /* O_NONBLOCK: the open of a FIFO without a writer returns, and fstat then refuses it. */
    ATTEMPT(fd, EVENT(.op = HD_IO_OP_OPEN, .path = path), open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (fd < 0) { return refused_op(HD_IO_OP_OPEN, path, err); }
    return wrap(fd, path, false, out, err);
}

/* Opens a name in a directory such that no link leads out of it. */
static int open_inside(int dir_fd, const char *name, int flags)
{
    struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, dir_fd, name, &how, sizeof how);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM)) { /* before Linux 5.6, or a sandbox: no links at all */
        return openat(dir_fd, name, flags | O_NOFOLLOW);
    }
    return (int)fd;
}

/* The hub's cache keeps snapshots/REVISION/NAME as a link to ../../blobs/DIGEST: the one link out that is followed. */
static int open_blob(int dir_fd, const char *name, int flags)
{
    static const char prefix[] = "../../blobs/";
    const size_t prefix_len = sizeof prefix - 1;
    char target[512];
    ssize_t n = readlinkat(dir_fd, name, target, sizeof target - 1);
    if (n < 0) { return -1; }
    target[n] = '\0';
    if ((size_t)n <= prefix_len || memcmp(target, prefix, prefix_len) != 0 ||
        !hd_path_is_plain_name(target + prefix_len, (size_t)n - prefix_len)) {
        errno = EXDEV;
        return -1;
    }
    return openat(dir_fd, target, flags | O_NOFOLLOW);
}

static int open_beneath(const char *dir, const char *name)
{
    const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) { return -1; }
    int fd = open_inside(dir_fd, name, flags);
    if (fd < 0 && (errno == EXDEV || errno == ELOOP)) { fd = open_blob(dir_fd, name, flags); }
    int saved = errno;
    (void)close(dir_fd);
    errno = saved;
    return fd;
}

hd_status hd_io_open_beneath(const char *dir, const char *name, size_t name_len, hd_file **out, hd_err *err)
{
    char *path = NULL;
    int fd;
    *out = NULL;
    if (!hd_path_is_plain_name(name, name_len)) {
        return HD_FAIL(err, HD_E_CORRUPT, "%s: \"%.*s\" is not the name of a file in this folder", dir,
                       name_len < 200 ? (int)name_len : 200, name);
    }
    hd_status st = hd_path_join_n(dir, name, name_len, &path, err);
    if (st != HD_OK) { return st; }
    const char *plain = path + strlen(path) - name_len;
    ATTEMPT(fd, EVENT(.op = HD_IO_OP_OPEN, .path = path), open_beneath(dir, plain));
    if (fd >= 0) {
        st = wrap(fd, path, false, out, err);
    } else if (errno == EXDEV || errno == ELOOP) {
        st = HD_FAIL(err, HD_E_CORRUPT, "open %s: a link that leads out of the folder", path);
    } else {
        st = refused_op(HD_IO_OP_OPEN, path, err);
    }
    hd_free(path);
    return st;
}

hd_status hd_io_create(const char *path, hd_io_create_mode mode, hd_file **out, hd_err *err)
{
    static const int mode_flags[] = {
        [HD_IO_TRUNCATE] = O_RDWR | O_CREAT | O_TRUNC,
        [HD_IO_EXCLUSIVE] = O_RDWR | O_CREAT | O_EXCL,
        [HD_IO_APPEND] = O_WRONLY | O_CREAT | O_APPEND,
        [HD_IO_UPDATE] = O_RDWR | O_CREAT,
    };
    int fd;
    *out = NULL;
    ATTEMPT(fd, EVENT(.op = HD_IO_OP_CREATE, .path = path),
            open(path, mode_flags[mode] | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
    if (fd < 0) { return refused_op(HD_IO_OP_CREATE, path, err); }
    hd_status st = wrap(fd, path, true, out, err);
    if (st == HD_OK && mode == HD_IO_APPEND) {
        off_t end = lseek(fd, 0, SEEK_END);
        (*out)->position = end > 0 ? end : 0;
    }
    return st;
}

hd_status hd_io_close(hd_file **file, hd_err *err)
{
    hd_file *f = *file;
    hd_status st = HD_OK;
    *file = NULL;
    if (f == NULL) { return HD_OK; }
    hd_io_event event = {.op = HD_IO_OP_CLOSE, .path = f->path};
    bool admit = !f->writable || admitted(&event);
    /* Not retried: Linux has freed the descriptor even when close says EINTR. */
    int result = close(f->fd);
    if (event.kill_after) { (void)kill(getpid(), SIGKILL); }
    if (!admit) { errno = event.fail_errno; }
    if ((!admit || result != 0) && errno != EINTR && f->writable) { st = refused_op(HD_IO_OP_CLOSE, f->path, err); }
    hd_free(f);
    return st;
}

void hd_io_abandon(hd_file **file)
{
    hd_status ignored = hd_io_close(file, NULL);
    (void)ignored;
}

const char *hd_io_path(const hd_file *file)
{
    return file->path;
}

/* ---- content ---------------------------------------------------------------------------------------------------- */

static int64_t bytes_of(int fd)
{
    struct stat info;
    return fstat(fd, &info) == 0 ? (int64_t)info.st_size : -1;
}

hd_status hd_io_size(hd_file *file, int64_t *bytes, hd_err *err)
{
    int64_t result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_STAT, .path = file->path), bytes_of(file->fd));
    if (result < 0) { return refused_op(HD_IO_OP_STAT, file->path, err); }
    *bytes = result;
    return HD_OK;
}

hd_status hd_io_read(hd_file *file, void *data, size_t n, size_t *got, hd_err *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k;
        ATTEMPT(k, EVENT(.op = HD_IO_OP_READ, .path = file->path, .offset = file->position, .size = n - done),
                read(file->fd, (char *)data + done, event.size));
        if (k < 0) { return refused_op(HD_IO_OP_READ, file->path, err); }
        if (k == 0) { break; }
        done += (size_t)k;
        file->position += k;
    }
    *got = done;
    return HD_OK;
}

hd_status hd_io_pread(hd_file *file, void *data, size_t n, int64_t offset, hd_err *err)
{
    size_t done = 0;
    int64_t end;
    if (offset < 0 || n > INT64_MAX || !hd_i64_add(offset, (int64_t)n, &end)) {
        return HD_FAIL(err, HD_E_INVALID, "read %s: %zu bytes at %lld is no range", file->path, n, (long long)offset);
    }
    while (done < n) {
        ssize_t k;
        int64_t at = offset + (int64_t)done;
        ATTEMPT(k, EVENT(.op = HD_IO_OP_PREAD, .path = file->path, .offset = at, .size = n - done),
                pread(file->fd, (char *)data + done, event.size, at));
        if (k < 0) { return refused_op(HD_IO_OP_PREAD, file->path, err); }
        if (k == 0) {
            return HD_FAIL(err, HD_E_CORRUPT, "%s ends at byte %lld, want %lld bytes", file->path, (long long)at,
                           (long long)end);
        }
        done += (size_t)k;
    }
    return HD_OK;
}

void hd_io_will_read(hd_file *file, int64_t offset, int64_t n) { (void)posix_fadvise(file->fd, offset, n, POSIX_FADV_WILLNEED); }

hd_status hd_io_write(hd_file *file, const void *data, size_t n, hd_err *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k;
        ATTEMPT(k, EVENT(.op = HD_IO_OP_WRITE, .path = file->path, .offset = file->position, .size = n - done),
                write(file->fd, (const char *)data + done, event.size));
        if (k <= 0) { return refused_op(HD_IO_OP_WRITE, file->path, err); }
        done += (size_t)k;
        file->position += k;
    }
    return HD_OK;
}

hd_status hd_io_pwrite(hd_file *file, const void *data, size_t n, int64_t offset, hd_err *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k;
        int64_t at = offset + (int64_t)done;
        ATTEMPT(k, EVENT(.op = HD_IO_OP_PWRITE, .path = file->path, .offset = at, .size = n - done),
                pwrite(file->fd, (const char *)data + done, event.size, at));
        if (k <= 0) { return refused_op(HD_IO_OP_PWRITE, file->path, err); }
        done += (size_t)k;
    }
    return HD_OK;
}

static hd_status sync_file(hd_file *file, hd_io_op op, hd_err *err)
{
    int result;
    if (file->sync_failed) {
        return HD_FAIL(err, HD_E_IO, "%s %s: an earlier sync failed, so its content is unknown; write it anew",
                       ops[op].name, file->path);
    }
    ATTEMPT(result, EVENT(.op = op, .path = file->path), op == HD_IO_OP_FSYNC ? fsync(file->fd) : fdatasync(file->fd));
    if (result == 0) { return HD_OK; }
    file->sync_failed = true;
    return refused_op(op, file->path, err);
}

hd_status hd_io_sync(hd_file *file, hd_err *err)
{
    return sync_file(file, HD_IO_OP_FSYNC, err);
}

hd_status hd_io_datasync(hd_file *file, hd_err *err)
{
    return sync_file(file, HD_IO_OP_FDATASYNC, err);
}

void hd_io_start_writeback(hd_file *file, int64_t offset, size_t n)
{
    (void)sync_file_range(file->fd, offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
}

hd_status hd_io_truncate(hd_file *file, int64_t bytes, hd_err *err)
{
    int result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_FTRUNCATE, .path = file->path, .offset = bytes), ftruncate(file->fd, bytes));
    return result == 0 ? HD_OK : refused_op(HD_IO_OP_FTRUNCATE, file->path, err);
}

hd_status hd_io_allocate(hd_file *file, int64_t bytes, hd_err *err)
{
    int result;
    int64_t now;
    if (bytes <= 0) { return HD_OK; }
    ATTEMPT(result, EVENT(.op = HD_IO_OP_FALLOCATE, .path = file->path, .size = (size_t)bytes),
            fallocate(file->fd, 0, 0, bytes));
    if (result == 0) { return HD_OK; }
    if (errno != EOPNOTSUPP && errno != ENOSYS) { return refused_op(HD_IO_OP_FALLOCATE, file->path, err); }
    hd_status st = hd_io_size(file, &now, err);
    return st != HD_OK || now >= bytes ? st : hd_io_truncate(file, bytes, err);
}

hd_status hd_io_lock(const char *path, hd_file **out, hd_err *err)
{
    int result;
    hd_status st = hd_io_create(path, HD_IO_UPDATE, out, err);
    if (st != HD_OK) { return st; }
    ATTEMPT(result, EVENT(.op = HD_IO_OP_FLOCK, .path = path), flock((*out)->fd, LOCK_EX | LOCK_NB));
    if (result == 0) { return HD_OK; }
    st = errno == EWOULDBLOCK ? HD_FAIL(err, HD_E_BUSY, "lock %s: another process holds it", path)
                              : refused_op(HD_IO_OP_FLOCK, path, err);
    hd_io_abandon(out);
    return st;
}

/* ---- mappings --------------------------------------------------------------------------------------------------- */

enum { READ_AHEAD_BYTES = 64 << 10 };

hd_status hd_io_map(hd_file *file, hd_mapping *out, hd_err *err)
{
    int64_t bytes;
    void *data;
    *out = (hd_mapping){.file = file};
    hd_status st = hd_io_size(file, &bytes, err);
    if (st != HD_OK || bytes == 0) { return st; }
    hd_io_event event;
    do {
        event = (hd_io_event){.op = HD_IO_OP_MMAP, .path = file->path, .size = (size_t)bytes};
        data = admitted(&event) ? mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, file->fd, 0) : MAP_FAILED;
        if (event.kill_after) { (void)kill(getpid(), SIGKILL); }
    } while (data == MAP_FAILED && errno == EINTR);
    if (data == MAP_FAILED) { return refused_op(HD_IO_OP_MMAP, file->path, err); }
    out->data = data;
    out->bytes = bytes;
    return HD_OK;
}

void hd_io_unmap(hd_mapping *mapping)
{
    if (mapping->data != NULL) { (void)munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->bytes); }
    *mapping = (hd_mapping){0};
}

/* A kernel that cannot fill page tables on request (before Linux 5.14): the range is read into the page cache. */
static hd_status read_range(const hd_mapping *m, int64_t offset, int64_t n, hd_err *err)
{
    unsigned char ignored[READ_AHEAD_BYTES];
    hd_status st = HD_OK;
    for (int64_t at = 0; at < n && st == HD_OK; at += READ_AHEAD_BYTES) {
        st = hd_io_pread(m->file, ignored, (size_t)(n - at < READ_AHEAD_BYTES ? n - at : READ_AHEAD_BYTES), offset + at, err);
    }
    return st;
}

hd_status hd_io_populate(const hd_mapping *m, int64_t offset, int64_t n, hd_err *err)
{
#ifndef MADV_POPULATE_READ
    enum { MADV_POPULATE_READ = 22 };
#endif
    int result;
    if (offset < 0 || n < 0 || offset > m->bytes - n) {
        return HD_FAIL(err, HD_E_INVALID, "populate %s: %lld bytes at %lld, the mapping has %lld", hd_io_path(m->file), (long long)n,
                       (long long)offset, (long long)m->bytes);
    }
    int64_t page = sysconf(_SC_PAGESIZE), begin = offset / page * page;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_POPULATE, .path = hd_io_path(m->file), .offset = offset, .size = (size_t)n),
            madvise((void *)(uintptr_t)(m->data + begin), (size_t)(offset + n - begin), MADV_POPULATE_READ));
    if (result == 0) { return HD_OK; }
    if (errno == EINVAL) { return read_range(m, offset, n, err); }
    if (errno == EFAULT) {
        return HD_FAIL(err, HD_E_IO, "%s: bytes %lld to %lld cannot be read: the file has become shorter, or the disk fails", hd_io_path(m->file),
                       (long long)offset, (long long)(offset + n));
    }
    return refused_op(HD_IO_OP_POPULATE, hd_io_path(m->file), err);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static hd_status stat_path(const char *path, int flags, hd_io_info *info, hd_err *err)
{
    struct stat s;
    int result;
    *info = (hd_io_info){.kind = HD_IO_MISSING};
    ATTEMPT(result, EVENT(.op = HD_IO_OP_STAT, .path = path), fstatat(AT_FDCWD, path, &s, flags));
    if (result != 0) { return errno == ENOENT || errno == ENOTDIR ? HD_OK : refused_op(HD_IO_OP_STAT, path, err); }
    info->kind = S_ISREG(s.st_mode)   ? HD_IO_REGULAR
                 : S_ISDIR(s.st_mode) ? HD_IO_DIRECTORY
                 : S_ISLNK(s.st_mode) ? HD_IO_SYMLINK
                                      : HD_IO_SPECIAL;
    info->bytes = s.st_size;
    info->mtime_s = s.st_mtim.tv_sec;
    info->mtime_ns = s.st_mtim.tv_nsec;
    info->mode = s.st_mode & 07777u;
    return HD_OK;
}

hd_status hd_io_stat(const char *path, hd_io_info *info, hd_err *err)
{
    return stat_path(path, 0, info, err);
}

hd_status hd_io_lstat(const char *path, hd_io_info *info, hd_err *err)
{
    return stat_path(path, AT_SYMLINK_NOFOLLOW, info, err);
}

hd_status hd_io_rename(const char *from, const char *to, hd_err *err)
{
    int result;
    char text[128];
    ATTEMPT(result, EVENT(.op = HD_IO_OP_RENAME, .path = from, .path2 = to), rename(from, to));
    if (result == 0) { return HD_OK; }
    int saved = errno;
    return HD_FAIL(err, HD_E_IO, "rename %s to %s: %s", from, to, strerror_r(saved, text, sizeof text));
}

hd_status hd_io_mkdir(const char *path, hd_err *err)
{
    int result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_MKDIR, .path = path), mkdir(path, 0777));
    return result == 0 ? HD_OK : refused_op(HD_IO_OP_MKDIR, path, err);
}

hd_status hd_io_unlink(const char *path, hd_err *err)
{
    int result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_UNLINK, .path = path), unlink(path));
    return result == 0 ? HD_OK : refused_op(HD_IO_OP_UNLINK, path, err);
}

hd_status hd_io_rmdir(const char *path, hd_err *err)
{
    int result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_RMDIR, .path = path), rmdir(path));
    return result == 0 ? HD_OK : refused_op(HD_IO_OP_RMDIR, path, err);
}

hd_status hd_io_sync_dir(const char *path, hd_err *err)
{
    int result;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) { return refused("open directory", path, err); }
    ATTEMPT(result, EVENT(.op = HD_IO_OP_FSYNC, .path = path), fsync(fd));
    /* Some network file systems cannot sync a directory and say EINVAL: there is nothing more to do there. */
    hd_status st = result == 0 || errno == EINVAL ? HD_OK : refused("sync directory", path, err);
    (void)close(fd);
    return st;
}

hd_status hd_io_free_bytes(const char *path, uint64_t *bytes, hd_err *err)
{
    struct statvfs s;
    int result;
    ATTEMPT(result, EVENT(.op = HD_IO_OP_STATVFS, .path = path), statvfs(path, &s));
    if (result != 0) { return refused_op(HD_IO_OP_STATVFS, path, err); }
    *bytes = (uint64_t)s.f_bavail * s.f_frsize;
    return HD_OK;
}

static hd_status add_name(hd_io_names *names, size_t *capacity, const char *name, hd_err *err)
{
    if (names->n == *capacity) {
        void *grown = names->name;
        size_t wider = *capacity == 0 ? 16 : *capacity * 2;
        hd_status st = hd_realloc(&grown, *capacity, wider, sizeof *names->name, "directory listing", err);
        if (st != HD_OK) { return st; }
        names->name = grown;
        *capacity = wider;
    }
    hd_status st = hd_strdup(name, &names->name[names->n], err);
    if (st == HD_OK) { names->n++; }
    return st;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static hd_status read_names(DIR *dir, const char *path, hd_io_names *names, hd_err *err)
{
    size_t capacity = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (entry == NULL) { return errno == 0 ? HD_OK : refused_op(HD_IO_OP_LIST, path, err); }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) { continue; }
        hd_status st = add_name(names, &capacity, entry->d_name, err);
        if (st != HD_OK) { return st; }
    }
}

hd_status hd_io_list(const char *path, hd_io_names *out, hd_err *err)
{
    int fd;
    *out = (hd_io_names){0};
    ATTEMPT(fd, EVENT(.op = HD_IO_OP_LIST, .path = path), open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) { return refused_op(HD_IO_OP_LIST, path, err); }
    DIR *dir = fdopendir(fd); /* owns fd from here on */
    if (dir == NULL) {
        hd_status st = refused_op(HD_IO_OP_LIST, path, err);
        (void)close(fd);
        return st;
    }
    hd_status st = read_names(dir, path, out, err);
    (void)closedir(dir);
    if (st != HD_OK) {
        hd_io_names_free(out);
        return st;
    }
    if (out->n > 1) { qsort(out->name, out->n, sizeof *out->name, by_bytes); }
    return HD_OK;
}

void hd_io_names_free(hd_io_names *names)
{
    for (size_t i = 0; i < names->n; i++) { hd_free(names->name[i]); }
    hd_free(names->name);
    *names = (hd_io_names){0};
}
