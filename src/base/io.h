/* The I/O table: every file operation of libhadal goes through this file and nowhere else.
 *
 * Each call names the path and the system's reason in its message, retries EINTR, finishes short reads and writes, and
 * asks the installed hook first, so that a test (or HADAL_FAULT_IO, see fault.h) can count, trace, delay, shorten, fail
 * or kill at operation k in the delivered program.  One thing is mapped, the weights of a model that only runs forward: elsewhere a file
 * that shrinks is a message, not SIGBUS.
 *
 * Paths are C strings, relative to the working directory.  Descriptors are close-on-exec. */
#ifndef HD_BASE_IO_H
#define HD_BASE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"

/* ---- what the hook sees ----------------------------------------------------------------------------------------- */

typedef enum hd_io_op {
    /* mutating: change, or order, what is on the disk */
    HD_IO_OP_CREATE, /* an open that may create or truncate */
    HD_IO_OP_WRITE,
    HD_IO_OP_PWRITE,
    HD_IO_OP_FSYNC,
    HD_IO_OP_FDATASYNC,
    HD_IO_OP_FALLOCATE,
    HD_IO_OP_FTRUNCATE,
    HD_IO_OP_CLOSE, /* of a file open for writing; other closes are not reported */
    HD_IO_OP_RENAME,
    HD_IO_OP_MKDIR,
    HD_IO_OP_UNLINK,
    HD_IO_OP_RMDIR,
    /* reading */
    HD_IO_OP_OPEN,
    HD_IO_OP_READ,
    HD_IO_OP_PREAD,
    HD_IO_OP_STAT, /* also of an open file */
    HD_IO_OP_LIST, /* one directory, as a whole */
    HD_IO_OP_MMAP,
    HD_IO_OP_POPULATE, /* of a mapping */
    /* neither */
    HD_IO_OP_FLOCK,
    HD_IO_OP_STATVFS,
    HD_IO_OP_COUNT
} hd_io_op;

typedef enum hd_io_class { HD_IO_CLASS_MUTATE, HD_IO_CLASS_READ, HD_IO_CLASS_OTHER } hd_io_class;

const char *hd_io_op_name(hd_io_op op); /* "pwrite" */
hd_io_class hd_io_op_class(hd_io_op op);

typedef struct hd_io_event {
    hd_io_op op;
    const char *path;
    const char *path2; /* the new name of a rename, else NULL */
    int64_t offset;    /* of reads, writes, fallocate and populate; the length of ftruncate */
    size_t size;       /* of reads, writes, fallocate and mappings; the hook may lower that of reads and writes (not to 0) */
    int fail_errno;    /* set by the hook: the operation is not done and fails so (a close is done, and fails) */
    bool kill_after;   /* set by the hook: SIGKILL to this process after the operation */
} hd_io_event;

/* Called before each attempt, from any thread.  Installed before other threads run; NULL takes it away. */
typedef void (*hd_io_hook)(void *context, hd_io_event *event);
void hd_io_set_hook(hd_io_hook hook, void *context);

/* ---- open files ------------------------------------------------------------------------------------------------- */

typedef struct hd_file hd_file;

/* Opens a regular file for reading; symbolic links are followed.  A directory, FIFO, socket or device is refused with
 * HD_E_IO and never waited for. */
hd_status hd_io_open_read(const char *path, hd_file **out, hd_err *err) HD_CHECK_RESULT;

/* The same for a file that an index or manifest named: `name` (name_len bytes, not terminated) must be a plain name
 * inside `dir` (no '/', no NUL, not "." or ".."), and no symbolic link may lead out of `dir`, but for the hub cache's
 * own "../../blobs/<name>".  HD_E_CORRUPT for a name that breaks the rule, HD_E_IO for what the system refuses. */
hd_status hd_io_open_beneath(const char *dir, const char *name, size_t name_len, hd_file **out,
                             hd_err *err) HD_CHECK_RESULT;

typedef enum hd_io_create_mode {
    HD_IO_TRUNCATE,  /* made when absent, emptied when present */
    HD_IO_EXCLUSIVE, /* must not exist */
    HD_IO_APPEND,    /* made when absent; every write goes to the end */
    HD_IO_UPDATE     /* made when absent, content kept; reading and writing */
} hd_io_create_mode;

/* Opens a regular file (or a character device such as /dev/null) for writing and, but for APPEND, reading. */
hd_status hd_io_create(const char *path, hd_io_create_mode mode, hd_file **out, hd_err *err) HD_CHECK_RESULT;

/* Closes and frees; *file becomes NULL in every case, NULL is accepted.  A failing close of a written file is HD_E_IO:
 * its data may be lost. */
hd_status hd_io_close(hd_file **file, hd_err *err) HD_CHECK_RESULT;

/* The same on an error path or for a file only read: the result does not matter. */
void hd_io_abandon(hd_file **file);

const char *hd_io_path(const hd_file *file);
hd_status hd_io_size(hd_file *file, int64_t *bytes, hd_err *err) HD_CHECK_RESULT;

/* Reads from the file's position until n bytes or the end: *got tells. */
hd_status hd_io_read(hd_file *file, void *data, size_t n, size_t *got, hd_err *err) HD_CHECK_RESULT;

/* Reads exactly n bytes at offset; the position stays.  HD_E_CORRUPT when the file ends before. */
hd_status hd_io_pread(hd_file *file, void *data, size_t n, int64_t offset, hd_err *err) HD_CHECK_RESULT;

/* Tells the system that a range will be read soon; a hint, so that the disk works while the program does. */
void hd_io_will_read(hd_file *file, int64_t offset, int64_t n);

/* Write all n bytes at the position, or at offset. */
hd_status hd_io_write(hd_file *file, const void *data, size_t n, hd_err *err) HD_CHECK_RESULT;
hd_status hd_io_pwrite(hd_file *file, const void *data, size_t n, int64_t offset, hd_err *err) HD_CHECK_RESULT;

/* Make the content durable (hd_io_datasync: without times).  After a failure the kernel may have dropped the data while
 * a second call succeeds, so every later sync of this file fails too: rewrite the file under a new name. */
hd_status hd_io_sync(hd_file *file, hd_err *err) HD_CHECK_RESULT;
hd_status hd_io_datasync(hd_file *file, hd_err *err) HD_CHECK_RESULT;

/* Asks the system to begin writing a range that was written to; a hint, so that a later sync has less to do. */
void hd_io_start_writeback(hd_file *file, int64_t offset, size_t n);

/* Reserves disk space for [0, bytes) and makes the file at least that long.  Where the file system cannot reserve, only
 * the length is set. */
hd_status hd_io_allocate(hd_file *file, int64_t bytes, hd_err *err) HD_CHECK_RESULT;
hd_status hd_io_truncate(hd_file *file, int64_t bytes, hd_err *err) HD_CHECK_RESULT;

/* Takes an exclusive lock that dies with its owner: creates `path` when absent and holds flock on it until hd_io_close.
 * HD_E_BUSY at once when another process (or another hd_file of this one) has it. */
hd_status hd_io_lock(const char *path, hd_file **out, hd_err *err) HD_CHECK_RESULT;

/* ---- mappings --------------------------------------------------------------------------------------------------- */

/* A whole file, read-only, shared with every process that maps it and not counted against memory until it is touched.  Touching a part
 * that the file has lost since, or that the disk cannot read, is SIGBUS: populate what is used, and leave mapped files alone. */
typedef struct hd_mapping {
    const unsigned char *data; /* NULL for an empty file */
    int64_t bytes;
    hd_file *file; /* borrowed, for messages */
} hd_mapping;

hd_status hd_io_map(hd_file *file, hd_mapping *out, hd_err *err) HD_CHECK_RESULT;
void hd_io_unmap(hd_mapping *mapping); /* accepts a zeroed one */

/* Brings [offset, offset + n) into memory, and into this process's page table where the system can do that without touching.  What cannot be
 * read is HD_E_IO.  Any number of threads at a time. */
hd_status hd_io_populate(const hd_mapping *mapping, int64_t offset, int64_t n, hd_err *err) HD_CHECK_RESULT;

/* ---- names ------------------------------------------------------------------------------------------------------ */

typedef enum hd_io_kind { HD_IO_MISSING, HD_IO_REGULAR, HD_IO_DIRECTORY, HD_IO_SYMLINK, HD_IO_SPECIAL } hd_io_kind;

typedef struct hd_io_info {
    hd_io_kind kind;
    int64_t bytes;
    int64_t mtime_s, mtime_ns; /* of the last change, ns below a second */
    unsigned mode; /* permission bits */
} hd_io_info;

/* What a path names.  A path that names nothing is HD_OK with HD_IO_MISSING.  hd_io_lstat does not follow a final link. */
hd_status hd_io_stat(const char *path, hd_io_info *info, hd_err *err) HD_CHECK_RESULT;
hd_status hd_io_lstat(const char *path, hd_io_info *info, hd_err *err) HD_CHECK_RESULT;

hd_status hd_io_rename(const char *from, const char *to, hd_err *err) HD_CHECK_RESULT; /* replaces a file at `to` */
hd_status hd_io_mkdir(const char *path, hd_err *err) HD_CHECK_RESULT;                  /* HD_E_IO when it exists */
hd_status hd_io_unlink(const char *path, hd_err *err) HD_CHECK_RESULT;
hd_status hd_io_rmdir(const char *path, hd_err *err) HD_CHECK_RESULT;

/* Makes renames, creations and removals inside a directory durable. */
hd_status hd_io_sync_dir(const char *path, hd_err *err) HD_CHECK_RESULT;

/* Bytes an ordinary user may still write on the file system of a path. */
hd_status hd_io_free_bytes(const char *path, uint64_t *bytes, hd_err *err) HD_CHECK_RESULT;

/* The names in a directory but "." and "..", sorted by byte value.  Free with hd_io_names_free. */
typedef struct hd_io_names {
    char **name;
    size_t n;
} hd_io_names;
hd_status hd_io_list(const char *path, hd_io_names *out, hd_err *err) HD_CHECK_RESULT;
void hd_io_names_free(hd_io_names *names); /* accepts a zeroed one */

/* ---- built from the above (io_util.c) --------------------------------------------------------------------------- */

/* A whole regular file in hd_alloc memory with a NUL behind it.  A longer one than max_bytes is HD_E_CORRUPT, found
 * before memory is taken for it.  *data is never NULL on success. */
hd_status hd_io_read_file(const char *path, size_t max_bytes, char **data, size_t *n, hd_err *err) HD_CHECK_RESULT;

/* Replaces a file whole and durably: temporary beside it, sync, close, rename, sync of the directory. */
hd_status hd_io_write_file(const char *path, const void *data, size_t n, hd_err *err) HD_CHECK_RESULT;

/* Makes a directory and its parents; existing ones are fine. */
hd_status hd_io_mkdirs(const char *path, hd_err *err) HD_CHECK_RESULT;

/* Removes a file, or a directory with all in it; links are removed, not followed.  Nothing there is fine. */
hd_status hd_io_remove_tree(const char *path, hd_err *err) HD_CHECK_RESULT;

/* Reads a file in order through a buffer.  One thread at a time. */
typedef struct hd_reader {
    hd_file *file;
    char *buffer;
    size_t capacity, begin, end; /* unread bytes are [begin, end) of the buffer */
    bool at_end;
    int64_t offset; /* of the next unread byte in the file */
} hd_reader;

hd_status hd_reader_open(const char *path, size_t capacity, hd_reader *out, hd_err *err) HD_CHECK_RESULT;
void hd_reader_close(hd_reader *reader); /* accepts a zeroed one */

/* Up to n bytes; *got < n only at the end. */
hd_status hd_reader_read(hd_reader *reader, void *data, size_t n, size_t *got, hd_err *err) HD_CHECK_RESULT;

/* The next line without its "\n" or "\r\n", in the buffer until the next call; *line NULL at the end.  A line longer
 * than the buffer is HD_E_CORRUPT.  It is not NUL-terminated and may hold NUL. */
hd_status hd_reader_line(hd_reader *reader, const char **line, size_t *n, hd_err *err) HD_CHECK_RESULT;

#endif
