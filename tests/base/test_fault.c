/* The fault switches: grammar, and that each does what it says to the table and nothing to the rest. */
#include "support/test.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/io.h"

/* Six mutating operations of one file: create, write, fsync, close, rename, fsync of the directory. */
enum { WRITE_OPS = 6 };

static hd_status save(const char *dir, const char *text, hd_err *err)
{
    return hd_io_write_file(hd_temp_path(dir, "f"), text, strlen(text), err);
}

static void assert_holds(const char *dir, const char *want)
{
    hd_err err;
    char *text;
    size_t n;
    assert_ok(hd_io_read_file(hd_temp_path(dir, "f"), 1000, &text, &n, &err));
    assert_string_equal(text, want);
    hd_free(text);
}

static void grammar(void **state)
{
    (void)state;
    static const char *const bad_io[] = {
        "fail",
        "fail:0:EIO",
        "fail:1",
        "fail:1:EWHAT",
        "fail:1:EIO:never",
        "fail:x:EIO",
        "short:",
        "kill:1:2",
        "delay:1:5",
        "delay:1:5s",
        "nonsense:1",
        "fail:1:EINTR:forever",
        ",",
        "fail:99999999999999999999:EIO",
    };
    static const char *const bad_rank[] = {"stop",      "1:stop",   "x:stop@1", "1:slow@1",
                                           "1:flip:@1", "1:walk@1", "1:stop@x"};
    hd_err err;
    for (size_t i = 0; i < sizeof bad_io / sizeof bad_io[0]; i++) {
        assert_fails(hd_fault_arm(bad_io[i], NULL, NULL, &err), HD_E_CONFIG, "HADAL_FAULT_IO");
    }
    for (size_t i = 0; i < sizeof bad_rank / sizeof bad_rank[0]; i++) {
        assert_fails(hd_fault_arm(NULL, NULL, bad_rank[i], &err), HD_E_CONFIG, "HADAL_FAULT_RANK");
    }
    assert_fails(hd_fault_arm(NULL, "fail", NULL, &err), HD_E_CONFIG, "HADAL_FAULT_ALLOC");
    assert_fails(hd_fault_arm(NULL, "fail:0", NULL, &err), HD_E_CONFIG, "HADAL_FAULT_ALLOC");
    assert_ok(hd_fault_arm("fail:r3:EIO,short:2,kill:90,delay:5:100ms", NULL,
                           "2:stop@7,0:slow:250ms@3,1:flip:layers.0.grad@5", &err));
    const hd_fault_rank *stop = hd_fault_rank_get(0), *slow = hd_fault_rank_get(1), *flip = hd_fault_rank_get(2);
    assert_true(stop->kind == HD_FAULT_RANK_STOP && stop->rank == 2 && stop->step == 7);
    assert_true(slow->kind == HD_FAULT_RANK_SLOW && slow->delay_s > 0.24 && slow->delay_s < 0.26 && slow->step == 3);
    assert_true(flip->kind == HD_FAULT_RANK_FLIP && strcmp(flip->buffer, "layers.0.grad") == 0);
    assert_null(hd_fault_rank_get(3));
    hd_fault_disarm();
    assert_null(hd_fault_rank_get(0));
}

/* Fails each mutating operation in turn: the error is reported, the old content stays until the rename has happened. */
static void fail_each(void **state)
{
    hd_err err;
    assert_ok(save(*state, "old", &err));
    for (int k = 1; k <= WRITE_OPS + 1; k++) {
        char text[32];
        snprintf(text, sizeof text, "fail:%d:ENOSPC", k);
        assert_ok(hd_fault_arm(text, NULL, NULL, &err));
        hd_status st = save(*state, "new", &err);
        hd_fault_disarm();
        if (k <= WRITE_OPS) {
            assert_int_equal(st, HD_E_IO);
            assert_non_null(strstr(err.msg, "No space left on device"));
            assert_holds(*state, k < WRITE_OPS ? "old" : "new");
        } else {
            assert_int_equal(st, HD_OK);
            assert_holds(*state, "new");
        }
    }
    hd_io_names names;
    assert_ok(hd_io_list(*state, &names, &err));
    assert_int_equal(names.n, 1); /* no temporary is left */
    hd_io_names_free(&names);
}

static void interruptions_are_retried(void **state)
{
    hd_err err;
    for (int k = 1; k <= WRITE_OPS; k++) {
        char text[32];
        snprintf(text, sizeof text, "fail:%d:EINTR", k);
        assert_ok(hd_fault_arm(text, NULL, NULL, &err));
        assert_ok(save(*state, "text", &err));
        assert_int_equal(hd_fault_get_counts().mutations,
                         k == 4 ? WRITE_OPS : WRITE_OPS + 1); /* 4: close, not retried */
        hd_fault_disarm();
        assert_holds(*state, "text");
    }
}

static void short_transfers_are_completed(void **state)
{
    hd_err err;
    assert_ok(hd_fault_arm("short:1,short:r1,short:r3", NULL, NULL, &err));
    assert_ok(save(*state, "a text of some length", &err));
    assert_holds(*state, "a text of some length");
    assert_int_equal(hd_fault_get_counts().mutations, WRITE_OPS + 1);
    hd_fault_disarm();
}

static void failed_sync_stays_failed(void **state)
{
    hd_err err;
    hd_file *file;
    assert_ok(hd_fault_arm("fail:2:EIO", NULL, NULL, &err));
    assert_ok(hd_io_create(hd_temp_path(*state, "s"), HD_IO_TRUNCATE, &file, &err));
    assert_fails(hd_io_sync(file, &err), HD_E_IO, "Input/output error");
    assert_fails(hd_io_sync(file, &err), HD_E_IO, "an earlier sync failed");
    hd_io_abandon(&file);
    hd_fault_disarm();
}

/* Runs save in a child under a switch and returns how the child ended. */
static int child_status(const char *dir, const char *faults)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        hd_err err;
        _exit(hd_fault_arm(faults, NULL, NULL, &err) == HD_OK && save(dir, "fresh text", &err) == HD_OK ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void kills(void **state)
{
    hd_err err;
    char text[32], *partial;
    size_t n;
    assert_ok(save(*state, "old", &err));
    for (int k = 1; k <= WRITE_OPS; k++) {
        snprintf(text, sizeof text, "kill:%d", k);
        int status = child_status(*state, text);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_holds(*state, k < WRITE_OPS ? "old" : "fresh text");
    }
    int status = child_status(*state, "tear:1");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_ok(hd_io_read_file(hd_temp_path(*state, "f.tmp"), 100, &partial, &n, &err));
    assert_string_equal(partial, "fresh");
    hd_free(partial);
    assert_int_equal(child_status(*state, "kill:7"), 0);
}

static void delays(void **state)
{
    hd_err err;
    assert_ok(hd_fault_arm("delay:2:30ms", NULL, NULL, &err));
    double start = hd_clock_now_s();
    assert_ok(save(*state, "x", &err));
    assert_true(hd_clock_now_s() - start >= 0.03);
    hd_fault_disarm();
}

static void records(void **state)
{
    hd_err err;
    char switches[9000], *text;
    size_t n;
    char trace[4096];
    snprintf(trace, sizeof trace, "%s", hd_temp_path(*state, "trace"));
    snprintf(switches, sizeof switches, "trace:%s,count:%s", trace, hd_temp_path(*state, "count"));
    assert_ok(hd_fault_arm(switches, NULL, NULL, &err));
    assert_ok(save(*state, "abc", &err));
    hd_fault_disarm();
    assert_ok(hd_io_read_file(trace, 100000, &text, &n, &err));
    static const char *const lines[] = {"1\tcreate\t0\t0\t", "2\twrite\t0\t3\t",  "3\tfsync\t",
                                        "4\tclose\t",        "5\trename\t0\t0\t", "6\tfsync\t"};
    const char *at = text;
    for (size_t i = 0; i < WRITE_OPS; i++) {
        assert_memory_equal(at, lines[i], strlen(lines[i]));
        at = strchr(at, '\n') + 1;
    }
    assert_int_equal(*at, '\0');
    hd_free(text);
    assert_ok(hd_io_read_file(hd_temp_path(*state, "count"), 1000, &text, &n, &err));
    assert_non_null(strstr(text, " 6 "));
    hd_free(text);
}

static void allocations(void **state)
{
    (void)state;
    hd_err err;
    void *p;
    assert_ok(hd_fault_arm(NULL, "fail:2", NULL, &err));
    assert_ok(hd_alloc(1, 1, "one", &p, &err));
    hd_free(p);
    assert_fails(hd_alloc(3, 5, "two", &p, &err), HD_E_NOMEM, "two wants 3 x 5 bytes");
    assert_ok(hd_alloc(1, 1, "three", &p, &err));
    hd_free(p);
    assert_ok(hd_fault_arm(NULL, "fail:1:forever", NULL, &err));
    assert_fails(hd_alloc(1, 1, "one", &p, &err), HD_E_NOMEM, "one");
    assert_fails(hd_alloc_pages(1, "pages", &p, &err), HD_E_NOMEM, "pages");
    hd_fault_disarm();
}

int main(void)
{
#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grammar),
        IN_TEMP(fail_each),
        IN_TEMP(interruptions_are_retried),
        IN_TEMP(short_transfers_are_completed),
        IN_TEMP(failed_sync_stays_failed),
        IN_TEMP(kills),
        IN_TEMP(delays),
        IN_TEMP(records),
        cmocka_unit_test(allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
