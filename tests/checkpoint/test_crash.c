/* A save under failing operations, kills and exhausted memory: whatever happens, the newest announced checkpoint loads, a failed
 * save says so, and partial directories go.  The order of operations is asserted from the trace of the I/O table, because on a
 * machine that does not crash a missing fsync changes nothing. */
#include "checkpoint/fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the order of a save ------------------------------------------------------------------------------------------- */

enum { MAX_EVENTS = 512, SAVED = HD_IO_OP_COUNT };

typedef struct event {
    int op; /* hd_io_op, or SAVED for the announcement */
    char path[300], path2[300];
} event;

static struct {
    event e[MAX_EVENTS];
    int n;
} tape;

static void record(int op, const char *path, const char *path2)
{
    assert_true(tape.n < MAX_EVENTS);
    event *e = &tape.e[tape.n++];
    e->op = op;
    (void)snprintf(e->path, sizeof e->path, "%s", path);
    (void)snprintf(e->path2, sizeof e->path2, "%s", path2 != NULL ? path2 : "");
}

static void record_io(void *context, hd_io_event *e)
{
    (void)context;
    if (hd_io_op_class(e->op) == HD_IO_CLASS_MUTATE || e->op == HD_IO_OP_STATVFS) { record(e->op, e->path, e->path2); }
}

static void record_log(void *context, hd_log_level level, const char *text)
{
    book_line(context, level, text);
    if (strncmp(text, "saved checkpoint", 16) == 0) { record(SAVED, "", NULL); }
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* The first event at or after `from` of this kind whose path ends so; fails when there is none. */
static int find(int from, int op, const char *end)
{
    for (int i = from; i < tape.n; i++) {
        if (tape.e[i].op == op && ends_with(tape.e[i].path, end)) { return i; }
    }
    fail_msg("no %s of %s after event %d", op == SAVED ? "announcement" : hd_io_op_name((hd_io_op)op), end, from);
    return -1;
}

/* The life of one file, none of it out of order; returns its close. */
static int check_file(const char *name)
{
    int create = find(0, HD_IO_OP_CREATE, name), allocate = find(create, HD_IO_OP_FALLOCATE, name);
    int first = find(create, HD_IO_OP_PWRITE, name), sync = find(create, HD_IO_OP_FSYNC, name), done = find(create, HD_IO_OP_CLOSE, name);
    assert_true(create < allocate && allocate < first && first < sync && sync < done);
    for (int i = 0; i < tape.n; i++) {
        if (tape.e[i].op == HD_IO_OP_PWRITE && ends_with(tape.e[i].path, name)) { assert_true(i > allocate && i < sync); }
    }
    return done;
}

static void order_of_a_save(void **state)
{
    rig g;
    char dir[300], partial[300];
    static const char *const files[] = {"/model-00001-of-00002.safetensors", "/model-00002-of-00002.safetensors", "/config.json",
                                        "/model.safetensors.index.json", "/optimizer/optimizer-00001-of-00003.safetensors"};
    rig_open(&g, HD_DTYPE_F32);
    (void)snprintf(dir, sizeof dir, "%s/checkpoints", (char *)*state);
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = *state, .keep = 1, .max_shard_bytes = 32000};
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    save_step(store, &g, 1);
    rig_fill(&g, 2);
    tape.n = 0;
    hd_log_set_sink(record_log, &book);
    hd_io_set_hook(record_io, NULL);
    assert_ok(hd_ckpt_save(store, &g.ex, &g.state, &err));
    hd_io_set_hook(NULL, NULL);
    hd_log_set_sink(book_line, &book);
    assert_int_equal(tape.e[0].op, HD_IO_OP_STATVFS); /* space is checked before anything is written */
    assert_int_equal(tape.e[1].op, HD_IO_OP_MKDIR);
    (void)snprintf(partial, sizeof partial, "%s", tape.e[1].path);
    assert_non_null(strstr(partial, "/checkpoints/2.tmp."));
    int last = 0, manifest = find(0, HD_IO_OP_CREATE, "/manifest.json");
    for (int i = 0; i < 5; i++) {
        int done = check_file(files[i]);
        last = done > last ? done : last;
    }
    assert_true(last < manifest); /* the manifest is written when all else is durable */
    int closed = check_file("/manifest.json");
    int inner = find(closed, HD_IO_OP_FSYNC, "/optimizer"), outer = find(closed, HD_IO_OP_FSYNC, partial);
    int renamed = find(0, HD_IO_OP_RENAME, partial), parent = find(renamed, HD_IO_OP_FSYNC, "/checkpoints");
    assert_true(ends_with(tape.e[renamed].path2, "/checkpoints/2"));
    assert_true(closed < inner && closed < outer && inner < renamed && outer < renamed);
    for (int i = closed + 1; i < renamed; i++) { assert_int_equal(tape.e[i].op, HD_IO_OP_FSYNC); }
    assert_int_equal(parent, renamed + 1);
    int retired = find(0, HD_IO_OP_RENAME, "/checkpoints/1"), saved = find(0, SAVED, "");
    assert_true(retired > parent && saved > parent);
    for (int i = 0; i < retired; i++) { assert_true(tape.e[i].op != HD_IO_OP_UNLINK && tape.e[i].op != HD_IO_OP_RMDIR); }
    assert_int_equal(find(retired, HD_IO_OP_FSYNC, "/checkpoints"), retired + 1); /* gone for good before its files go */
    assert_int_equal(saved, tape.n - 1);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
}

/* Every directory that a new run makes is durable in its parent. */
static void order_of_a_new_run(void **state)
{
    const char *dir = hd_temp_path(*state, "a/b");
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = dir};
    tape.n = 0;
    hd_io_set_hook(record_io, NULL);
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    hd_io_set_hook(NULL, NULL);
    int a = find(0, HD_IO_OP_MKDIR, "/a"), b = find(0, HD_IO_OP_MKDIR, "/a/b"), c = find(0, HD_IO_OP_MKDIR, "/a/b/checkpoints");
    assert_true(find(a, HD_IO_OP_FSYNC, *state) > a && find(b, HD_IO_OP_FSYNC, "/a") > b && find(c, HD_IO_OP_FSYNC, "/a/b") > c);
    assert_ok(hd_ckpt_store_close(store, &err));
}

/* ---- failing operations -------------------------------------------------------------------------------------------- */

/* Mutating operations of a save of step `step` into a run with an older checkpoint and keep = 1. */
static int64_t count_operations(const char *dir, rig *g, int64_t step)
{
    hd_ckpt_store *store = open_store(dir, 1, false);
    assert_ok(hd_fault_arm("count:/dev/null", NULL, NULL, &err));
    save_step(store, g, step);
    int64_t n = (int64_t)hd_fault_get_counts().mutations;
    hd_fault_disarm();
    assert_ok(hd_ckpt_store_close(store, &err));
    return n;
}

static bool chosen(const char *what, int64_t k, int64_t every)
{
    return hd_test_soak() || hd_rng_below(hd_test_rng(what), (uint64_t)every, (uint64_t)k) == 0;
}

/* One save of `step` with a fault; what must hold afterwards.  Returns the newest step. */
static int64_t save_with_fault(const char *dir, rig *g, int64_t newest, const char *fault, bool async, bool must_succeed)
{
    int partial;
    int64_t step = newest + 1;
    hd_ckpt_store *store = open_store(dir, 1, async);
    if (async) {
        g->snapshot.used = 0;
        assert_ok(hd_ckpt_reserve(store, &g->state, &g->snapshot, &err));
    }
    rig_fill(g, step);
    book_clear();
    assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
    hd_status st = hd_ckpt_save(store, &g->ex, &g->state, &err);
    if (st == HD_OK) { st = hd_ckpt_wait(store, &err); }
    hd_fault_disarm();
    hd_err why = err; /* the next call clears the message */
    if (must_succeed && st != HD_OK) { fail_msg("%s: %s", fault, err.msg); }
    if ((st == HD_OK) != book_has("saved checkpoint")) { fail_msg("%s: status %s, log:\n%s", fault, hd_status_name(st), book.text); }
    bool for_ever = strstr(fault, "forever") != NULL;
    (void)count_entries(dir, &partial);
    if (st != HD_OK && !for_ever && strstr(why.msg, "removing old ones failed") == NULL && !book_has("could not be removed")) {
        if (partial != 0) { fail_msg("%s: %d partial directories are left; %s", fault, partial, why.msg); }
    }
    assert_ok(hd_ckpt_store_close(store, &err));
    int64_t now = resumed_step(dir, HD_DTYPE_F32); /* also that the state is that step's, bit for bit */
    if (st == HD_OK && now != step) { fail_msg("%s: announced %d, found %d", fault, (int)step, (int)now); }
    if (st != HD_OK && now != newest && now != step) { fail_msg("%s: from %d to %d", fault, (int)newest, (int)now); }
    (void)count_entries(dir, &partial);
    assert_int_equal(partial, 0);
    return now;
}

static void every_operation_fails(void **state)
{
    static const char *const how[] = {"EIO", "ENOSPC", "EIO:forever", "ENOSPC:forever", "EINTR"};
    rig g;
    const int64_t step = 1;
    int64_t newest = 2, runs = 0;
    hd_ckpt_sizes sizes;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    int64_t n = count_operations(*state, &g, newest);
    assert_true(n > 30);
    assert_ok(hd_ckpt_plan(&g.state, 0, &sizes, &err));
    assert_ok(hd_arena_open(&g.snapshot, "snapshot", sizes.snapshot_bytes, &err));
    for (int h = 0; h < 5; h++) {
        for (int64_t k = 1; k <= n; k++) {
            char fault[64];
            if (!chosen(how[h], k, 2)) { continue; }
            (void)snprintf(fault, sizeof fault, "fail:%d:%s", (int)k, how[h]);
            newest = save_with_fault(*state, &g, newest, fault, k % 3 == 0, h == 4);
            runs++;
        }
    }
    for (int64_t k = 1; k <= n; k++) {
        char fault[64];
        if (!chosen("short", k, 3)) { continue; }
        (void)snprintf(fault, sizeof fault, "short:%d", (int)k);
        newest = save_with_fault(*state, &g, newest, fault, k % 2 == 0, true);
        runs++;
    }
    print_message("  %d saves with a fault among %d operations\n", (int)runs, (int)n);
    rig_close(&g);
}

/* After a failed fsync everything is written again under another name, and the file is never synced a second time. */
static void failed_sync_is_rewritten(void **state)
{
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    hd_ckpt_store *store = open_store(*state, 0, false);
    rig_fill(&g, 1);
    book_clear();
    assert_ok(hd_fault_arm("trace:/dev/null,fail:6:EIO", NULL, NULL, &err)); /* mkdir x2, create, fallocate, pwrite, fsync */
    assert_ok(hd_ckpt_save(store, &g.ex, &g.state, &err));
    hd_fault_disarm();
    assert_logged("a sync failed and everything is written again");
    assert_logged("saved checkpoint");
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    assert_true(resumed_step(*state, HD_DTYPE_F32) == 1);
}

/* A close that fails may mean lost data, whatever the content looks like now. */
static void fail_close(void *context, hd_io_event *e)
{
    if (e->op == HD_IO_OP_CLOSE && ends_with(e->path, context)) { e->fail_errno = EIO; }
}

static void every_close_is_checked(void **state)
{
    static const char *const names[] = {"/config.json", "/generation_config.json", "/model.safetensors", "/optimizer/optimizer.safetensors",
                                        "/manifest.json"};
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    for (int i = 0; i < 5; i++) {
        int partial;
        hd_ckpt_store *store = open_store(*state, 0, false);
        rig_fill(&g, 1);
        book_clear();
        hd_io_set_hook(fail_close, (void *)(uintptr_t)names[i]);
        hd_status st = hd_ckpt_save(store, &g.ex, &g.state, &err);
        hd_io_set_hook(NULL, NULL);
        if (st != HD_E_IO || strstr(err.msg, names[i]) == NULL) { fail_msg("%s: %s: %s", names[i], hd_status_name(st), err.msg); }
        assert_false(book_has("saved checkpoint"));
        assert_int_equal(count_entries(*state, &partial), 0);
        assert_ok(hd_ckpt_store_close(store, &err));
    }
    rig_close(&g);
}

/* ---- a full disk --------------------------------------------------------------------------------------------------- */

static uint64_t statvfs_failures;

static void full_disk(void *context, hd_io_event *e)
{
    (void)context;
    if (e->op == HD_IO_OP_STATVFS) { e->fail_errno = EIO, statvfs_failures++; }
    if (hd_io_op_class(e->op) == HD_IO_CLASS_MUTATE) { record(e->op, e->path, e->path2); }
}

static void space_is_checked_first(void **state)
{
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    hd_ckpt_store *store = open_store(*state, 0, false);
    rig_fill(&g, 1);
    tape.n = 0;
    hd_io_set_hook(full_disk, NULL);
    hd_status st = hd_ckpt_save(store, &g.ex, &g.state, &err);
    hd_io_set_hook(NULL, NULL);
    assert_int_equal(st, HD_E_IO);
    assert_true(statvfs_failures == 1 && tape.n == 0);
    assert_ok(hd_ckpt_store_close(store, &err));
    /* A model far larger than any disk: refused with both numbers, nothing written.  Its tensors have no memory. */
    rig huge = {0};
    hd_dims dims = small_dims();
    dims.vocab_size = 1 << 24;
    dims.hidden_size = 1 << 22;
    hd_arena_open_dry(&huge.model_memory, "model");
    hd_arena_open_dry(&huge.scratch, "scratch");
    assert_ok(hd_exec_init(&huge.ex, &huge.scratch, 1, true, &err));
    hd_model_options options = {.dtype = HD_DTYPE_F32, .weight_dtype = HD_DTYPE_BF16, .mu_dtype = HD_DTYPE_F32, .max_positions = 16, .dense_init_scale = 1.0};
    assert_ok(hd_model_open(&dims, &options, &huge.ex, &huge.model_memory, &huge.model, &err));
    hd_ckpt_state big = {.model = &huge.model, .step = 3};
    store = open_store(*state, 0, false);
    int partial;
    hd_ckpt_sizes sizes;
    hd_arena memory;
    hd_arena_open_dry(&memory, "snapshot");
    assert_ok(hd_ckpt_plan(&big, 0, &sizes, &err)); /* a plan may be of any size */
    assert_true(sizes.file_bytes > (int64_t)400 << 40);
    assert_fails(hd_ckpt_save(store, &huge.ex, &big, &err), HD_E_UNSUPPORTED, "its manifest would be longer");
    assert_fails(hd_ckpt_reserve(store, &big, &memory, &err), HD_E_UNSUPPORTED, "its manifest would be longer");
    assert_int_equal(count_entries(*state, &partial), 0);
    assert_ok(hd_ckpt_store_close(store, &err));
    hd_model_close(&huge.model);
    dims.hidden_size = 1 << 15; /* 2 x 1 TiB of bf16 */
    dims.n_mtp = 0;
    hd_arena_open_dry(&huge.model_memory, "model");
    assert_ok(hd_model_open(&dims, &options, &huge.ex, &huge.model_memory, &huge.model, &err));
    store = open_store(*state, 0, false);
    assert_fails(hd_ckpt_save(store, &huge.ex, &big, &err), HD_E_IO, " bytes and ");
    assert_non_null(strstr(err.msg, "free; nothing was written"));
    assert_int_equal(count_entries(*state, &partial), 0);
    assert_ok(hd_ckpt_store_close(store, &err));
    hd_model_close(&huge.model);
    rig_close(&g);
}

/* ---- kills --------------------------------------------------------------------------------------------------------- */

static int announce_fd;

static void announce(void *context, hd_log_level level, const char *text)
{
    (void)context, (void)level;
    if (strncmp(text, "saved checkpoint", 16) == 0 && write(announce_fd, "!", 1) != 1) { _exit(3); }
}

/* The child saves `step` and dies at the fault; returns whether it announced the save. */
static bool save_and_die(const char *dir, rig *g, int64_t step, const char *fault)
{
    int fd[2], status;
    char byte;
    assert_int_equal(pipe(fd), 0);
    pid_t child = fork();
    if (child == 0) {
        announce_fd = fd[1];
        hd_log_set_sink(announce, NULL);
        hd_ckpt_store *store = open_store(dir, 1, false);
        rig_fill(g, step);
        if (hd_fault_arm(fault, NULL, NULL, NULL) != HD_OK) { _exit(2); }
        (void)!hd_ckpt_save(store, &g->ex, &g->state, NULL);
        (void)kill(getpid(), SIGKILL);
    }
    close(fd[1]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    bool announced = read(fd[0], &byte, 1) == 1;
    close(fd[0]);
    return announced;
}

static void killed_at_every_operation(void **state)
{
    static const char *const how[] = {"kill", "tear"};
    rig g;
    const int64_t step = 1;
    int64_t newest = 2, runs = 0, announced_runs = 0;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    int64_t n = count_operations(*state, &g, newest);
    for (int h = 0; h < 2; h++) {
        for (int64_t k = 1; k <= n + 1; k++) {
            char fault[64];
            int partial;
            if (!chosen(how[h], k, h == 0 ? 1 : 3) && k <= n) { continue; }
            (void)snprintf(fault, sizeof fault, "%s:%d", how[h], (int)k);
            bool announced = save_and_die(*state, &g, newest + 1, fault);
            int64_t now = resumed_step(*state, HD_DTYPE_F32);
            if (now != newest + 1 && (announced || now != newest)) {
                fail_msg("%s: newest %d, announced %d, found %d", fault, (int)newest, announced, (int)now);
            }
            (void)count_entries(*state, &partial);
            assert_int_equal(partial, 0);
            newest = now;
            runs++;
            announced_runs += announced;
        }
    }
    assert_true(announced_runs >= 2);
    print_message("  %d kills among %d operations, %d saves had been announced\n", (int)runs, (int)n, (int)announced_runs);
    rig_close(&g);
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static void save_without_memory(void **state)
{
    rig g;
    const int64_t step = 1;
    int64_t newest = 1, runs = 0;
    hd_ckpt_sizes sizes;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    assert_ok(hd_ckpt_plan(&g.state, 0, &sizes, &err));
    assert_ok(hd_arena_open(&g.snapshot, "snapshot", sizes.snapshot_bytes, &err));
    bool reached = true;
    for (size_t n = 1; reached; n += hd_test_soak() ? 1 : 1 + (size_t)hd_rng_below(hd_test_rng("memory"), 5, n)) {
        bool async = n % 2 == 0;
        int partial;
        size_t live = hd_alloc_get_stats().live_calls;
        hd_ckpt_store *store = open_store(*state, 1, async);
        if (async) {
            g.snapshot.used = 0;
            assert_ok(hd_ckpt_reserve(store, &g.state, &g.snapshot, &err));
        }
        rig_fill(&g, newest + 1);
        book_clear();
        hd_alloc_fail_at(n, n % 3 == 0);
        size_t before = hd_alloc_get_stats().total_calls;
        hd_status st = hd_ckpt_save(store, &g.ex, &g.state, &err);
        if (st == HD_OK) { st = hd_ckpt_wait(store, &err); }
        hd_alloc_fail_at(0, 0);
        reached = hd_alloc_get_stats().total_calls - before >= n;
        if (st != HD_OK && st != HD_E_NOMEM) { fail_msg("allocation %zu: %s: %s", n, hd_status_name(st), err.msg); }
        assert_true((st == HD_OK) == book_has("saved checkpoint"));
        hd_err why = err;
        (void)count_entries(*state, &partial);
        if (n % 3 != 0 && st != HD_OK && partial != 0) {
            bool retiring = strstr(why.msg, "removing old ones failed") != NULL || book_has("could not be removed");
            if (!retiring) { fail_msg("allocation %zu: %d partial: %s", n, partial, why.msg); }
        }
        hd_status closed = hd_ckpt_store_close(store, &err);
        assert_int_equal(closed, HD_OK);
        if (hd_alloc_get_stats().live_calls != live) { fail_msg("allocation %zu: a leak", n); }
        int64_t now = resumed_step(*state, HD_DTYPE_F32);
        assert_true(now == newest + 1 || (st != HD_OK && now == newest));
        newest = now;
        runs++;
        if (st != HD_OK) { /* what failed to retire must not pile up: each leftover makes the next save allocate more */
            store = open_store(*state, 1, false);
            save_step(store, &g, ++newest);
            assert_ok(hd_ckpt_store_close(store, &err));
        }
    }
    print_message("  %d saves with a failing allocation\n", (int)runs);
    rig_close(&g);
}

static void load_without_memory(void **state)
{
    rig g;
    const int64_t step = 1;
    char hex[65];
    size_t n = 1;
    rig_open(&g, HD_DTYPE_BF16);
    make_run(*state, &g, &step, 1);
    for (int what = 0; what < 3; what++) {
        for (n = 1;; n++) {
            size_t live = hd_alloc_get_stats().live_calls;
            hd_alloc_fail_at(n, n % 2 == 0);
            size_t before = hd_alloc_get_stats().total_calls;
            hd_status st = what == 0   ? hd_ckpt_load_full(*state, &g.ex, &g.state, &err)
                           : what == 1 ? hd_ckpt_load_parameters(*state, &g.ex, &g.model, &err)
                                       : hd_state_hash(*state, hex, &err);
            hd_alloc_fail_at(0, 0);
            bool reached = hd_alloc_get_stats().total_calls - before >= n;
            if (st != (reached ? HD_E_NOMEM : HD_OK)) { fail_msg("allocation %zu: %s: %s", n, hd_status_name(st), err.msg); }
            if (hd_alloc_get_stats().live_calls != live) { fail_msg("allocation %zu: a leak", n); }
            if (!reached) { break; }
        }
    }
    rig_fill(&g, 77);
    assert_ok(hd_ckpt_load_full(*state, &g.ex, &g.state, &err));
    assert_state(&g, 1);
    rig_close(&g);
}

/* Reading fails at every operation: an error or the state, never something between. */
static void every_read_fails(void **state)
{
    rig g;
    const int64_t steps[] = {1, 2};
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, steps, 2);
    for (int k = 1;; k++) {
        char fault[64];
        bool found = false;
        (void)snprintf(fault, sizeof fault, "fail:r%d:EIO", k);
        hd_ckpt_store *store = open_store(*state, 0, false);
        rig_fill(&g, 50);
        assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
        hd_status st = hd_ckpt_resume(store, &g.ex, &g.state, &found, &err);
        bool reached = hd_fault_get_counts().reads >= (uint64_t)k;
        hd_fault_disarm();
        if (st == HD_OK) {
            assert_true(found);
            assert_state(&g, reached ? g.state.step : 2);
        } else {
            assert_int_equal(st, HD_E_IO);
        }
        assert_ok(hd_ckpt_store_close(store, &err));
        if (!reached) { break; }
    }
    rig_close(&g);
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(order_of_a_save),        CASE(order_of_a_new_run),  CASE(every_operation_fails),     CASE(failed_sync_is_rewritten),
        CASE(every_close_is_checked), CASE(space_is_checked_first), CASE(killed_at_every_operation), CASE(save_without_memory), CASE(load_without_memory),
        CASE(every_read_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
