/* The I/O table against a real directory: content, names, refusals. */
#include "support/test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/io.h"
#include "base/path.h"
#include "base/sysinfo.h"

static void put(const char *path, const char *text)
{
    hd_err err;
    assert_ok(hd_io_write_file(path, text, strlen(text), &err));
}

static void assert_content(const char *path, const char *want)
{
    hd_err err;
    char *text;
    size_t n;
    assert_ok(hd_io_read_file(path, 1 << 20, &text, &n, &err));
    assert_int_equal(n, strlen(want));
    assert_string_equal(text, want);
    hd_free(text);
}

static void whole_files(void **state)
{
    hd_err err;
    char *text;
    size_t n;
    const char *path = hd_temp_path(*state, "f");
    put(path, "first");
    put(path, "second, longer");
    assert_content(path, "second, longer");
    put(path, "");
    assert_content(path, "");
    put(path, "12345");
    assert_fails(hd_io_read_file(path, 4, &text, &n, &err), HD_E_CORRUPT, "5 bytes, want at most 4");
    assert_ok(hd_io_read_file(path, 5, &text, &n, &err));
    hd_free(text);
    assert_fails(hd_io_read_file(hd_temp_path(*state, "none"), 4, &text, &n, &err), HD_E_IO,
                 "none: No such file or directory");
    assert_fails(hd_io_read_file("/proc/self/status", 16, &text, &n, &err), HD_E_CORRUPT, "longer than the 16");
}

static void positions(void **state)
{
    hd_err err;
    hd_file *file;
    char text[16] = {0};
    size_t got;
    int64_t bytes;
    const char *path = hd_temp_path(*state, "p");
    assert_ok(hd_io_create(path, HD_IO_EXCLUSIVE, &file, &err));
    assert_ok(hd_io_allocate(file, 8, &err));
    assert_ok(hd_io_write(file, "abc", 3, &err));
    assert_ok(hd_io_write(file, "def", 3, &err));
    assert_ok(hd_io_pwrite(file, "XY", 2, 1, &err));
    assert_ok(hd_io_truncate(file, 6, &err));
    assert_ok(hd_io_datasync(file, &err));
    assert_ok(hd_io_pread(file, text, 4, 2, &err));
    assert_string_equal(text, "Ydef");
    assert_fails(hd_io_pread(file, text, 4, 4, &err), HD_E_CORRUPT, "ends at byte 6, want 8");
    assert_fails(hd_io_pread(file, text, 4, INT64_MAX - 1, &err), HD_E_INVALID, "no range");
    assert_ok(hd_io_size(file, &bytes, &err));
    assert_int_equal(bytes, 6);
    assert_ok(hd_io_close(&file, &err));
    assert_null(file);
    assert_fails(hd_io_create(path, HD_IO_EXCLUSIVE, &file, &err), HD_E_IO, "File exists");
    assert_ok(hd_io_create(path, HD_IO_APPEND, &file, &err));
    assert_ok(hd_io_write(file, "!", 1, &err));
    assert_ok(hd_io_close(&file, &err));
    assert_ok(hd_io_open_read(path, &file, &err));
    assert_ok(hd_io_read(file, text, sizeof text, &got, &err));
    assert_int_equal(got, 7);
    assert_memory_equal(text, "aXYdef!", 7);
    hd_io_abandon(&file);
}

static void refuses_what_is_no_file(void **state)
{
    hd_err err;
    hd_file *file;
    const char *fifo = hd_temp_path(*state, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_fails(hd_io_open_read(fifo, &file, &err), HD_E_IO, "it is a FIFO");
    assert_fails(hd_io_open_read(*state, &file, &err), HD_E_IO, "it is a directory");
    assert_fails(hd_io_open_read("/dev/zero", &file, &err), HD_E_IO, "it is a device");
    assert_fails(hd_io_create(fifo, HD_IO_TRUNCATE, &file, &err), HD_E_IO, "fifo");
    assert_ok(hd_io_create("/dev/null", HD_IO_TRUNCATE, &file, &err));
    hd_io_abandon(&file);
    assert_fails(hd_io_open_beneath(*state, "fifo", 4, &file, &err), HD_E_IO, "it is a FIFO");
}

static hd_status beneath(const char *dir, const char *name, hd_err *err)
{
    hd_file *file;
    hd_status st = hd_io_open_beneath(dir, name, strlen(name), &file, err);
    hd_io_abandon(&file);
    return st;
}

static void stays_beneath(void **state)
{
    hd_err err;
    hd_file *file;
    const char *dir = *state;
    assert_ok(hd_io_mkdirs(hd_temp_path(dir, "hub/snapshots/rev"), &err));
    assert_ok(hd_io_mkdirs(hd_temp_path(dir, "hub/blobs"), &err));
    put(hd_temp_path(dir, "hub/blobs/abc123"), "blob");
    put(hd_temp_path(dir, "hub/secret"), "secret");
    char *snapshot;
    assert_ok(hd_path_join(dir, "hub/snapshots/rev", &snapshot, &err));
    put(hd_temp_path(snapshot, "plain"), "plain");
    assert_int_equal(symlink("plain", hd_temp_path(snapshot, "inner")), 0);
    assert_int_equal(symlink("../../blobs/abc123", hd_temp_path(snapshot, "cached")), 0);
    assert_int_equal(symlink("../../secret", hd_temp_path(snapshot, "outer")), 0);
    assert_int_equal(symlink("../../blobs/../secret", hd_temp_path(snapshot, "sly")), 0);
    assert_int_equal(symlink("/etc/passwd", hd_temp_path(snapshot, "absolute")), 0);
    assert_ok(beneath(snapshot, "plain", &err));
    assert_ok(beneath(snapshot, "inner", &err));
    assert_ok(beneath(snapshot, "cached", &err));
    static const char *const leads_out[] = {"outer", "sly", "absolute"};
    for (int i = 0; i < 3; i++) { assert_fails(beneath(snapshot, leads_out[i], &err), HD_E_CORRUPT, "leads out"); }
    static const char *const no_name[] = {"", ".", "..", "../secret", "/etc/passwd", "a/b"};
    for (int i = 0; i < 6; i++) { assert_fails(beneath(snapshot, no_name[i], &err), HD_E_CORRUPT, "not the name"); }
    assert_fails(hd_io_open_beneath(snapshot, "plain\0x", 7, &file, &err), HD_E_CORRUPT, "not the name");
    assert_fails(beneath(snapshot, "none", &err), HD_E_IO, "No such file");
    hd_free(snapshot);
}

static void trees(void **state)
{
    hd_err err;
    hd_io_info info;
    hd_io_names names;
    const char *dir = *state;
    assert_ok(hd_io_mkdirs(hd_temp_path(dir, "a/b/c"), &err));
    assert_ok(hd_io_mkdirs(hd_temp_path(dir, "a/b/c/"), &err));
    assert_fails(hd_io_mkdir(hd_temp_path(dir, "a"), &err), HD_E_IO, "File exists");
    put(hd_temp_path(dir, "a/b/2"), "x");
    put(hd_temp_path(dir, "a/b/10"), "x");
    assert_int_equal(symlink("/", hd_temp_path(dir, "a/b/root")), 0);
    assert_fails(hd_io_mkdirs(hd_temp_path(dir, "a/b/2/d"), &err), HD_E_IO, "there is a file of this name");
    assert_ok(hd_io_list(hd_temp_path(dir, "a/b"), &names, &err));
    assert_int_equal(names.n, 4);
    assert_string_equal(names.name[0], "10");
    assert_string_equal(names.name[3], "root");
    hd_io_names_free(&names);
    assert_ok(hd_io_lstat(hd_temp_path(dir, "a/b/root"), &info, &err));
    assert_int_equal(info.kind, HD_IO_SYMLINK);
    assert_ok(hd_io_stat(hd_temp_path(dir, "a/b/2"), &info, &err));
    assert_true(info.kind == HD_IO_REGULAR && info.bytes == 1);
    assert_ok(hd_io_remove_tree(hd_temp_path(dir, "a"), &err));
    assert_ok(hd_io_stat(hd_temp_path(dir, "a"), &info, &err));
    assert_int_equal(info.kind, HD_IO_MISSING);
    assert_ok(hd_io_remove_tree(hd_temp_path(dir, "a"), &err));
    assert_ok(hd_io_sync_dir(dir, &err));
    uint64_t bytes;
    assert_ok(hd_io_free_bytes(dir, &bytes, &err));
    assert_true(bytes > 0);
}

static void locks(void **state)
{
    hd_err err;
    hd_file *first, *second;
    const char *path = hd_temp_path(*state, "lock");
    assert_ok(hd_io_lock(path, &first, &err));
    assert_fails(hd_io_lock(path, &second, &err), HD_E_BUSY, "another process holds it");
    assert_null(second);
    assert_ok(hd_io_close(&first, &err));
    assert_ok(hd_io_lock(path, &first, &err));
    hd_io_abandon(&first);
}

static void reads_lines(void **state)
{
    hd_err err;
    hd_reader reader;
    const char *line, *path = hd_temp_path(*state, "lines");
    size_t n, got;
    char rest[8];
    put(path, "one\r\n\ntwelve bytes\nlast");
    assert_ok(hd_reader_open(path, 13, &reader, &err));
    static const char *const want[] = {"one", "", "twelve bytes"};
    for (int i = 0; i < 3; i++) {
        assert_ok(hd_reader_line(&reader, &line, &n, &err));
        assert_int_equal(n, strlen(want[i]));
        assert_memory_equal(line, want[i], n);
    }
    assert_ok(hd_reader_read(&reader, rest, 2, &got, &err));
    assert_ok(hd_reader_line(&reader, &line, &n, &err));
    assert_true(got == 2 && n == 2 && memcmp(line, "st", 2) == 0);
    assert_ok(hd_reader_line(&reader, &line, &n, &err));
    assert_null(line);
    hd_reader_close(&reader);
    assert_ok(hd_reader_open(path, 12, &reader, &err));
    assert_ok(hd_reader_line(&reader, &line, &n, &err));
    assert_ok(hd_reader_line(&reader, &line, &n, &err));
    assert_fails(hd_reader_line(&reader, &line, &n, &err), HD_E_CORRUPT, "line at byte 6 is longer than 12");
    hd_reader_close(&reader);
}

static void paths(void **state)
{
    (void)state;
    static const char *const joins[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"},
                                           {"a", "/b", "/b"}, {"/", "b", "/b"},   {"a", "", "a/"}};
    static const char *const dirs[][3] = {{"a/b", "a", "b"}, {"b", ".", "b"}, {"/b", "/", "b"}, {"a/b/", "a/b", ""}};
    hd_err err;
    char *path;
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        assert_ok(hd_path_join(joins[i][0], joins[i][1], &path, &err));
        assert_string_equal(path, joins[i][2]);
        hd_free(path);
    }
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        assert_ok(hd_path_dir(dirs[i][0], &path, &err));
        assert_string_equal(path, dirs[i][1]);
        assert_string_equal(hd_path_base(dirs[i][0]), dirs[i][2]);
        hd_free(path);
    }
}

static void system_figures(void **state)
{
    (void)state;
    hd_err err;
    hd_rss rss;
    uint64_t available;
    char name[64];
    assert_ok(hd_sysinfo_rss(&rss, &err));
    assert_true(rss.now_bytes > 100000 && rss.peak_bytes >= rss.now_bytes);
    assert_ok(hd_sysinfo_available_memory(&available, &err));
    assert_true(available > 0);
    hd_sysinfo_cpu_name(name, sizeof name);
    assert_true(name[0] != '\0');
}

int main(void)
{
#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        IN_TEMP(whole_files),   IN_TEMP(positions),      IN_TEMP(refuses_what_is_no_file),
        IN_TEMP(stays_beneath), IN_TEMP(trees),          IN_TEMP(locks),
        IN_TEMP(reads_lines),   cmocka_unit_test(paths), cmocka_unit_test(system_figures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
