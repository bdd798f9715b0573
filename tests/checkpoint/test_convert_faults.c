/* Conversions that are killed, that fail, that run out of memory or are stopped, at every point: the target never exists incomplete, the
 * same command finishes it, and the bytes are those of a conversion that nothing disturbed. */
#include "checkpoint/folders.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static const char first_keys[] = "save_dtype=float8_e4m3fn max_shard_size_gb=4e-5";
static const char other_keys[] = "save_dtype=float8_e4m3fn scale_fmt=ue8m0 max_shard_size_gb=4e-5"; /* files of the same names and sizes */

typedef struct scene {
    char from[4096], to[4096], partial[4096], want[4096], other_want[4096];
    hd_config *keys, *other_keys;
} scene;

/* Five files of weights, a tokenizer, and what conversions of them are. */
static void open_scene(scene *s, const char *dir)
{
    enum { N = 4, ROWS = 150, COLUMNS = 260 };
    static const char *const names[N] = {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight",
                                         "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"};
    file_tensor tensors[N];
    uint16_t *data = malloc((size_t)N * ROWS * COLUMNS * 2);
    hd_gen_normal_bf16("weights", 0.02, data, (int64_t)N * ROWS * COLUMNS);
    for (int i = 0; i < N; i++) { tensors[i] = (file_tensor){names[i], HD_DTYPE_BF16, 2, {ROWS, COLUMNS}, data + i * ROWS * COLUMNS}; }
    write_model(path_of(s->from, dir, "from"), tensors, N);
    free(data);
    write_text(s->from, "tokenizer.json", "{}");
    path_of(s->to, dir, "to");
    path_of(s->partial, dir, "to.partial");
    assert_ok(convert(s->from, path_of(s->want, dir, "want"), first_keys));
    assert_ok(convert(s->from, path_of(s->other_want, dir, "other"), other_keys));
    s->keys = hd_test_config("convert", "%s", first_keys);
    s->other_keys = hd_test_config("convert", "%s", other_keys);
}

static void close_scene(scene *s)
{
    hd_config_free(s->keys);
    hd_config_free(s->other_keys);
}

static hd_status attempt(const scene *s, const hd_config *keys)
{
    const hd_run_hooks hooks = {0};
    return hd_cmd_convert(keys, s->from, s->to, &hooks, &err);
}

/* Number of operations of a whole conversion. */
static hd_fault_counts count(const scene *s)
{
    assert_ok(hd_fault_arm("count:/dev/null", NULL, NULL, &err));
    hd_status st = attempt(s, s->keys);
    hd_fault_counts counts = hd_fault_get_counts();
    hd_fault_disarm();
    assert_int_equal(st, HD_OK);
    remove_tree(s->to);
    return counts;
}

/* After whatever happened: the folder is whole, or it is not there and the same command makes it. */
static void assert_finishes(const scene *s, const hd_config *keys, const char *want, const char *what)
{
    if (!exists(s->to)) {
        hd_status st = attempt(s, keys);
        if (st != HD_OK) { fail_msg("after %s: %s", what, err.msg); }
    } else if (exists(hd_temp_path(s->to, "conversion.lock"))) { /* the last step of all was not done */
        assert_ok(hd_io_unlink(hd_temp_path(s->to, "conversion.lock"), &err));
    }
    assert_same_files(want, s->to);
    assert_false(exists(s->partial));
    remove_tree(s->to);
}

/* Runs an attempt in a child that is killed by the fault; false when the conversion ended before. */
static bool killed(const scene *s, const hd_config *keys, const char *fault)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (hd_fault_arm(fault, NULL, NULL, NULL) != HD_OK) { _exit(2); }
        _exit(attempt(s, keys) == HD_OK ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) { fail_msg("%s: exit %d", fault, WEXITSTATUS(status)); }
    return WIFSIGNALED(status);
}

/* From one operation to the next: each in a soak; else every fourth, beginning where the seed says, and each of the last ones, which publish. */
static int64_t next_operation(int64_t k, int64_t n) { return k + (k > n - 8 ? 1 : hd_test_count(4, 1)); }
static int64_t first_operation(void) { return hd_test_soak() ? 1 : 1 + (int64_t)(hd_test_seed() % 4); }

static void killed_at_every_operation(void **state)
{
    scene s;
    char fault[64];
    open_scene(&s, *state);
    int64_t n = (int64_t)count(&s).mutations;
    for (int64_t k = first_operation(); k <= n; k = next_operation(k, n)) {
        for (int torn = 0; torn < 2; torn++) {
            (void)snprintf(fault, sizeof fault, "%s:%lld", torn ? "tear" : "kill", (long long)k);
            bool in_the_middle = killed(&s, s.keys, fault);
            if (in_the_middle && exists(s.to)) { assert_true(k > n - 4); } /* behind the rename */
            assert_finishes(&s, s.keys, s.want, fault);
        }
    }
    assert_true(n > 25);
    close_scene(&s);
}

/* Files of an unfinished conversion with other options are not taken over, even when that too is interrupted in the middle. */
static void killed_while_beginning_again(void **state)
{
    scene s;
    char fault[64];
    open_scene(&s, *state);
    int64_t n = (int64_t)count(&s).mutations;
    for (int64_t k = first_operation();; k = next_operation(k, n)) {
        (void)snprintf(fault, sizeof fault, "kill:%lld", (long long)(n - 6)); /* all files are there */
        assert_true(killed(&s, s.keys, fault));
        (void)snprintf(fault, sizeof fault, "kill:%lld", (long long)k);
        bool again = killed(&s, s.other_keys, fault);
        assert_finishes(&s, s.other_keys, s.other_want, fault);
        if (!again) { break; }
    }
    close_scene(&s);
}

static void goes_on_with_what_is_there(void **state)
{
    scene s;
    char fault[64];
    open_scene(&s, *state);
    int64_t n = (int64_t)count(&s).mutations;
    (void)snprintf(fault, sizeof fault, "kill:%lld", (long long)(n - 6));
    assert_true(killed(&s, s.keys, fault));
    assert_ok(hd_fault_arm("count:/dev/null", NULL, NULL, &err));
    book_clear();
    assert_ok(attempt(&s, s.keys));
    int64_t less = (int64_t)hd_fault_get_counts().mutations;
    hd_fault_disarm();
    assert_logged("going on with the conversion in");
    assert_true(less < n - 15); /* no weights were written again */
    assert_same_files(s.want, s.to);
    close_scene(&s);
}

/* The source, or an option, is another one: everything is made anew. */
static void begins_again_for_another_source(void **state)
{
    scene s;
    char fault[64];
    open_scene(&s, *state);
    int64_t n = (int64_t)count(&s).mutations;
    (void)snprintf(fault, sizeof fault, "kill:%lld", (long long)(n - 6));
    assert_true(killed(&s, s.keys, fault));
    book_clear();
    assert_finishes(&s, s.other_keys, s.other_want, "other options");
    assert_logged("holds a conversion of another source or with other options: starting again");
    assert_true(killed(&s, s.keys, fault));
    hd_file *file; /* a bit of the source: names and sizes stay, the time does not */
    assert_ok(hd_io_create(hd_temp_path(s.from, "model.safetensors"), HD_IO_UPDATE, &file, &err));
    int64_t bytes;
    assert_ok(hd_io_size(file, &bytes, &err));
    assert_ok(hd_io_pwrite(file, "\x3F", 1, bytes - 1, &err));
    assert_ok(hd_io_close(&file, &err));
    remove_tree(s.want);
    assert_ok(convert(s.from, s.want, first_keys));
    book_clear();
    assert_finishes(&s, s.keys, s.want, "another source");
    assert_logged("starting again");
    close_scene(&s);
}

static void one_failure(const scene *s, const char *fault)
{
    assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
    hd_status st = attempt(s, s->keys);
    hd_fault_disarm();
    bool must_fail = strncmp(fault, "fail", 4) == 0 && strstr(fault, "EINTR") == NULL;
    if (!must_fail && st != HD_OK) { fail_msg("%s: %s", fault, err.msg); }
    if (st != HD_OK && (st != HD_E_IO || err.msg[0] == '\0')) { fail_msg("%s: %s: %s", fault, hd_status_name(st), err.msg); }
    assert_finishes(s, s->keys, s->want, fault);
}

static void every_operation_fails(void **state)
{
    static const char *const errors[] = {"EIO", "ENOSPC", "EINTR"};
    scene s;
    char fault[64];
    open_scene(&s, *state);
    hd_fault_counts n = count(&s);
    for (uint64_t k = (uint64_t)first_operation(); k <= n.mutations; k = (uint64_t)next_operation((int64_t)k, (int64_t)n.mutations)) {
        for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++) {
            (void)snprintf(fault, sizeof fault, "fail:%llu:%s", (unsigned long long)k, errors[e]);
            one_failure(&s, fault);
        }
        (void)snprintf(fault, sizeof fault, "fail:%llu:ENOSPC:forever", (unsigned long long)k);
        one_failure(&s, fault);
        (void)snprintf(fault, sizeof fault, "short:%llu", (unsigned long long)k);
        one_failure(&s, fault);
    }
    for (uint64_t k = (uint64_t)first_operation(); k <= n.reads; k = (uint64_t)next_operation((int64_t)k, (int64_t)n.reads)) {
        (void)snprintf(fault, sizeof fault, "fail:r%llu:EIO", (unsigned long long)k);
        one_failure(&s, fault);
        (void)snprintf(fault, sizeof fault, "short:r%llu", (unsigned long long)k);
        one_failure(&s, fault);
    }
    close_scene(&s);
}

/* A failure of a write, a sync or a close is never taken for success. */
static void failures_are_reported(void **state)
{
    scene s;
    char fault[64], trace[4096], *text;
    size_t length;
    open_scene(&s, *state);
    path_of(trace, *state, "trace");
    char arm[4200];
    (void)snprintf(arm, sizeof arm, "trace:%s", trace);
    assert_ok(hd_fault_arm(arm, NULL, NULL, &err));
    hd_status st = attempt(&s, s.keys);
    hd_fault_disarm();
    assert_int_equal(st, HD_OK);
    remove_tree(s.to);
    assert_ok(hd_io_read_file(trace, 1 << 20, &text, &length, &err));
    int n_checked = 0, renamed = 0, reads = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char op[32];
        long long number;
        assert_int_equal(sscanf(line, "%lld\t%31s", &number, op), 2);
        bool is_read = strcmp(op, "open") == 0 || strcmp(op, "read") == 0 || strcmp(op, "pread") == 0 || strcmp(op, "stat") == 0 || strcmp(op, "list") == 0;
        reads += is_read;
        if (is_read || number == 0 || strcmp(op, "unlink") == 0 || renamed > 0) { continue; }
        (void)snprintf(fault, sizeof fault, "fail:%lld:EIO", number);
        assert_ok(hd_fault_arm(fault, NULL, NULL, &err));
        st = attempt(&s, s.keys);
        hd_fault_disarm();
        if (st != HD_E_IO) { fail_msg("%s (%s): %s", fault, line, hd_status_name(st)); }
        if (exists(s.to)) { fail_msg("%s (%s): the folder has its name", fault, line); }
        remove_tree(s.partial);
        n_checked++;
        if (strcmp(op, "rename") == 0 && strstr(line, ".partial\t") != NULL) { renamed = 1; }
    }
    assert_true(renamed == 1 && n_checked > 20 && reads > 5);
    hd_free(text);
    close_scene(&s);
}

/* Each file is durable before it gets its name, and the folder before it gets its own. */
static void order_of_a_conversion(void **state)
{
    scene s;
    char trace[4096], arm[4200], *text;
    size_t length;
    open_scene(&s, *state);
    path_of(trace, *state, "trace");
    (void)snprintf(arm, sizeof arm, "trace:%s", trace);
    assert_ok(hd_fault_arm(arm, NULL, NULL, &err));
    hd_status st = attempt(&s, s.keys);
    hd_fault_disarm();
    assert_int_equal(st, HD_OK);
    assert_ok(hd_io_read_file(trace, 1 << 20, &text, &length, &err));
    char dirty[64][256];
    int n_dirty = 0, n_renamed = 0;
    bool folder_synced = false, published = false, parent_synced = false;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        char op[32] = "", path[256] = "", path2[256] = "";
        if (sscanf(line, "%*d\t%31s\t%*d\t%*d\t%255s\t%255s", op, path, path2) < 2) { continue; }
        bool inside = strncmp(path, s.partial, strlen(s.partial)) == 0;
        if (strcmp(op, "pwrite") == 0 || strcmp(op, "write") == 0) {
            folder_synced = false;
            int i = 0;
            while (i < n_dirty && strcmp(dirty[i], path) != 0) { i++; }
            if (i == n_dirty) { (void)snprintf(dirty[n_dirty++], 256, "%s", path); }
        } else if (strcmp(op, "fsync") == 0) {
            for (int i = 0; i < n_dirty; i++) {
                if (strcmp(dirty[i], path) == 0) { dirty[i][0] = '\0'; }
            }
            folder_synced = folder_synced || strcmp(path, s.partial) == 0;
            parent_synced = parent_synced || (published && strcmp(path, *state) == 0);
        } else if (strcmp(op, "unlink") == 0 && !published) {
            folder_synced = false;
        } else if (strcmp(op, "rename") == 0 && strcmp(path, s.partial) == 0) {
            assert_true(folder_synced && !published);
            for (int i = 0; i < n_dirty; i++) {
                if (dirty[i][0] != '\0') { fail_msg("%s was not synced before the folder got its name", dirty[i]); }
            }
            published = true;
        } else if (strcmp(op, "rename") == 0 && inside) {
            folder_synced = false;
            n_renamed++;
            for (int i = 0; i < n_dirty; i++) {
                if (strcmp(dirty[i], path) == 0) { fail_msg("%s was renamed before it was synced", path); }
            }
        }
    }
    assert_true(published && parent_synced && n_renamed >= 7);
    hd_free(text);
    close_scene(&s);
}

static void without_memory(void **state)
{
    scene s;
    open_scene(&s, *state);
    for (size_t n = (size_t)first_operation();; n += (size_t)hd_test_count(3, 1)) {
        size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
        hd_alloc_fail_at(n, n % 2 == 0);
        hd_status st = attempt(&s, s.keys);
        hd_alloc_fail_at(0, 0);
        bool reached = hd_alloc_get_stats().total_calls - before >= n;
        if (st != (reached ? HD_E_NOMEM : HD_OK) && !(reached && st == HD_OK && n % 2 == 1)) { fail_msg("allocation %zu: %s: %s", n, hd_status_name(st), err.msg); }
        if (hd_alloc_get_stats().live_calls != live) { fail_msg("allocation %zu: a leak", n); }
        if (exists(s.to) || n % 7 == 0) { assert_finishes(&s, s.keys, s.want, "a failed allocation"); }
        if (!reached) { break; }
    }
    close_scene(&s);
}

static void stopped_by_a_signal(void **state)
{
    scene s;
    volatile sig_atomic_t signal = SIGINT;
    const hd_run_hooks hooks = {.stop_signal = &signal};
    open_scene(&s, *state);
    assert_fails(hd_cmd_convert(s.keys, s.from, s.to, &hooks, &err), HD_E_SIGNAL, "the same command goes on");
    assert_int_equal(err.signal, SIGINT);
    assert_false(exists(s.to));
    assert_finishes(&s, s.keys, s.want, "SIGINT");
    close_scene(&s);
}

/* A sparse source of 32 TB: both numbers are named, nothing is written. */
static void no_space(void **state)
{
    char from[4096], to[4096];
    hd_buf head = {0};
    int64_t at = 0;
    hd_file *file;
    hd_st_desc d = {.name = "w", .dtype = HD_DTYPE_BF16, .n_dim = 2, .shape = {1 << 20, 1 << 20}};
    for (int bits = 43; bits > 38; bits--) { /* what the file system takes as a length */
        at = 0;
        d.shape[1] = INT64_C(1) << (bits - 21);
        hd_buf_clear(&head);
        hd_st_header_begin(&head);
        assert_ok(hd_st_place(&d, &at, &err));
        hd_st_header_tensor(&head, &d);
        assert_ok(hd_st_header_end(&head, &err));
        assert_ok(hd_io_mkdirs(path_of(from, *state, "from"), &err));
        assert_ok(hd_io_create(hd_temp_path(from, "model.safetensors"), HD_IO_TRUNCATE, &file, &err));
        assert_ok(hd_io_pwrite(file, head.data, head.n, 0, &err));
        hd_status st = hd_io_truncate(file, (int64_t)head.n + at, &err);
        assert_ok(hd_io_close(&file, &err));
        if (st == HD_OK) { break; }
    }
    hd_buf_free(&head);
    write_text(from, "config.json", other_config);
    assert_fails(convert(from, path_of(to, *state, "to"), ""), HD_E_IO, "bytes are needed and");
    assert_false(exists(to));
    hd_io_names names;
    assert_ok(hd_io_list(hd_temp_path(*state, "to.partial"), &names, &err));
    assert_int_equal(names.n, 2); /* journal and lock */
    hd_io_names_free(&names);
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(killed_at_every_operation),       CASE(killed_while_beginning_again), CASE(goes_on_with_what_is_there),
        CASE(begins_again_for_another_source), CASE(every_operation_fails),        CASE(failures_are_reported),
        CASE(order_of_a_conversion),           CASE(without_memory),               CASE(stopped_by_a_signal),
        CASE(no_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
