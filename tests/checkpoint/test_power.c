/* Power cuts, simulated.  A run is recorded through the hook of the I/O table; then, for a cut after any operation, disks are
 * made that a real one could show: what was synced is there, every 512-byte sector written since may be there or not, and
 * every change of a directory that no sync of this directory followed may have happened or not.  On each of them the newest
 * announced checkpoint must load, bit for bit. */
#include "checkpoint/fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_NODES = 256, MAX_CHANGES = 1024, MAX_WRITES = 512, SECTOR = 512 };

/* A file or directory, known by its number, whatever its names. */
typedef struct node {
    bool is_dir;
    unsigned char *content; /* at its last sync, or the last seen */
    size_t bytes;
    int synced_at;          /* the operation of its first sync; -1: never.  No file is written after its sync. */
} node;

/* Entry `name` of directory `dir` becomes `child` (-1: goes away), at operation `when`; durable from operation `durable` on. */
typedef struct change {
    int dir, child, when, durable;
    int group; /* both halves of a rename happen or neither */
    char name[80];
} change;

static struct {
    char root[300];
    node nodes[MAX_NODES];
    int n_node;
    change changes[MAX_CHANGES];
    int n_change, n_op, n_group;
    struct {
        char path[400];
        int node;
    } names[MAX_NODES * 2]; /* what each path is now */
    int n_name;
    int announced[MAX_NODES]; /* operation, by step; 0: not */
    bool recording;
} disk;

static int lookup(const char *path)
{
    for (int i = 0; i < disk.n_name; i++) {
        if (strcmp(disk.names[i].path, path) == 0) { return disk.names[i].node; }
    }
    return -1;
}

static void name_node(const char *path, int id)
{
    int i = 0;
    while (i < disk.n_name && strcmp(disk.names[i].path, path) != 0) { i++; }
    if (i == disk.n_name) { disk.n_name++; }
    assert_true(disk.n_name < MAX_NODES * 2);
    (void)snprintf(disk.names[i].path, sizeof disk.names[i].path, "%s", path);
    disk.names[i].node = id;
}

static int new_node(bool is_dir)
{
    assert_true(disk.n_node < MAX_NODES);
    disk.nodes[disk.n_node] = (node){.is_dir = is_dir, .synced_at = -1};
    return disk.n_node++;
}

static void add_change(const char *path, int child, int group)
{
    char dir[400];
    (void)snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    *slash = '\0';
    int parent = lookup(dir);
    if (parent < 0) { return; } /* outside the run: its parents are another test's business */
    assert_true(disk.n_change < MAX_CHANGES);
    change *c = &disk.changes[disk.n_change++];
    *c = (change){.dir = parent, .child = child, .when = disk.n_op, .durable = -1, .group = group};
    (void)snprintf(c->name, sizeof c->name, "%s", slash + 1);
}

static void see_content(int id, const char *path)
{
    node *n = &disk.nodes[id];
    FILE *f = fopen(path, "rb");
    if (f == NULL) { return; }
    free(n->content);
    n->content = calloc(1, 1 << 18);
    n->bytes = fread(n->content, 1, 1 << 18, f);
    fclose(f);
}

/* A rename moves everything beneath it. */
static void move_names(const char *from, const char *to)
{
    size_t k = strlen(from);
    for (int i = 0; i < disk.n_name; i++) {
        char rest[400];
        if (strncmp(disk.names[i].path, from, k) != 0 || (disk.names[i].path[k] != '/' && disk.names[i].path[k] != '\0')) { continue; }
        (void)snprintf(rest, sizeof rest, "%s", disk.names[i].path + k);
        (void)snprintf(disk.names[i].path, sizeof disk.names[i].path, "%.*s%.*s", 250, to, 140, rest);
    }
}

static void record(void *context, hd_io_event *e)
{
    (void)context;
    if (!disk.recording || hd_io_op_class(e->op) != HD_IO_CLASS_MUTATE) { return; }
    disk.n_op++;
    int id = lookup(e->path);
    if (e->op == HD_IO_OP_CREATE && id < 0) {
        id = new_node(false);
        add_change(e->path, id, ++disk.n_group);
        name_node(e->path, id);
    } else if (e->op == HD_IO_OP_MKDIR) {
        id = new_node(true);
        add_change(e->path, id, ++disk.n_group);
        name_node(e->path, id);
    } else if (e->op == HD_IO_OP_FSYNC && id >= 0 && disk.nodes[id].is_dir) {
        for (int i = 0; i < disk.n_change; i++) {
            if (disk.changes[i].dir == id && disk.changes[i].durable < 0) { disk.changes[i].durable = disk.n_op; }
        }
    } else if (e->op == HD_IO_OP_FSYNC && id >= 0) {
        see_content(id, e->path);
        if (disk.nodes[id].synced_at < 0) { disk.nodes[id].synced_at = disk.n_op; }
    } else if (e->op == HD_IO_OP_CLOSE && id >= 0) {
        see_content(id, e->path); /* also of a file that was never synced: what a lucky disk would hold */
    } else if (e->op == HD_IO_OP_RENAME) {
        add_change(e->path2, id, ++disk.n_group);
        add_change(e->path, -1, disk.n_group);
        move_names(e->path, e->path2);
    } else if (e->op == HD_IO_OP_UNLINK || e->op == HD_IO_OP_RMDIR) {
        add_change(e->path, -1, ++disk.n_group);
        name_node(e->path, -1);
    }
}

static void watch_log(void *context, hd_log_level level, const char *text)
{
    (void)context, (void)level;
    int step = -1;
    const char *last = strstr(text, "/checkpoints/");
    if (strncmp(text, "saved checkpoint", 16) == 0 && last != NULL && sscanf(last, "/checkpoints/%d", &step) == 1) {
        if (disk.announced[step] == 0) { disk.announced[step] = disk.n_op; } /* the first word counts */
    }
}

/* ---- one disk after a cut ------------------------------------------------------------------------------------------ */

static hd_rng luck;
static uint64_t draws;

static bool lucky(int mode) { return mode == 0 ? false : mode == 1 ? true : hd_rng_below(luck, 2, draws++) == 1; }

static void put_file(const char *path, const node *n, int cut, int mode)
{
    bool whole = n->synced_at >= 0 && n->synced_at <= cut;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (size_t at = 0; at < n->bytes; at += SECTOR) {
        size_t k = n->bytes - at < SECTOR ? n->bytes - at : SECTOR;
        static const unsigned char zero[SECTOR];
        assert_int_equal(fwrite(whole || lucky(mode) ? n->content + at : zero, 1, k, f), k);
    }
    fclose(f);
}

static void put_dir(const char *path, int id, int cut, int mode, const bool *happened)
{
    assert_int_equal(mkdir(path, 0777), 0);
    for (int i = 0; i < disk.n_change; i++) {
        change *c = &disk.changes[i];
        bool last = c->dir == id && happened[i];
        for (int k = i + 1; k < disk.n_change && last; k++) {
            last = !(disk.changes[k].dir == id && happened[k] && strcmp(disk.changes[k].name, c->name) == 0);
        }
        if (!last || c->child < 0) { continue; }
        char inner[600];
        (void)snprintf(inner, sizeof inner, "%s/%s", path, c->name);
        if (disk.nodes[c->child].is_dir) {
            put_dir(inner, c->child, cut, mode, happened);
        } else {
            put_file(inner, &disk.nodes[c->child], cut, mode);
        }
    }
}

/* mode 0: nothing unsynced survives; 1: everything does; else any part of it. */
static void check_cut(const char *where, int cut, int mode)
{
    bool happened[MAX_CHANGES], lot[MAX_CHANGES];
    int newest = -1;
    for (int g = 0; g <= disk.n_group; g++) { lot[g] = lucky(mode); }
    for (int i = 0; i < disk.n_change; i++) {
        const change *c = &disk.changes[i];
        happened[i] = c->when <= cut && ((c->durable >= 0 && c->durable <= cut) || lot[c->group]);
    }
    put_dir(where, 0, cut, mode, happened);
    for (int step = 0; step < MAX_NODES; step++) {
        if (disk.announced[step] != 0 && disk.announced[step] <= cut) { newest = step; }
    }
    book_clear();
    int64_t found = resumed_step(where, HD_DTYPE_F32);
    if (found < newest) { fail_msg("cut after operation %d, mode %d: step %d was announced, %d loads", cut, mode, newest, (int)found); }
    assert_ok(hd_io_remove_tree(where, &err));
}

static void power_cuts(void **state)
{
    rig g;
    char run[300], where[300];
    (void)snprintf(run, sizeof run, "%s/run", (char *)*state);
    (void)snprintf(where, sizeof where, "%s/after", (char *)*state);
    assert_int_equal(mkdir(run, 0777), 0);
    new_node(true); /* node 0: the run directory, durable from the start */
    name_node(run, 0);
    rig_open(&g, HD_DTYPE_F32);
    hd_log_set_sink(watch_log, NULL);
    hd_io_set_hook(record, NULL);
    disk.recording = true;
    hd_ckpt_store *store = open_store(run, 1, false);
    for (int64_t step = 1; step <= 3; step++) { save_step(store, &g, step); }
    disk.recording = false;
    hd_io_set_hook(NULL, NULL);
    hd_log_set_sink(book_line, &book);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    assert_true(disk.announced[3] == disk.n_op);

    int cuts = 0;
    luck = hd_test_rng("power");
    for (int cut = 0; cut <= disk.n_op; cut++) {
        for (int mode = 0; mode < (int)hd_test_count(3, 30); mode++) {
            check_cut(where, cut, mode);
            cuts++;
        }
    }
    print_message("  %d disks after cuts among %d operations\n", cuts, disk.n_op);
    for (int i = 0; i < disk.n_node; i++) { free(disk.nodes[i].content); }
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(power_cuts, hd_temp_setup, hd_temp_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
