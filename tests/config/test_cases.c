/* Runs tests/config/cases.txt: what is given to the configuration, and what must come out.  The grammar is explained
 * at the head of that file. */
#include "support/test.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "hadal/config.h"
#include "hadal/log.h"

enum { MAX_ARGS = 64, MAX_WANTS = 64, MAX_ENV = 8, TEXT = 1 << 16 };

typedef struct want {
    char kind[8], key[96], text[1024];
    int line;
} want;

typedef struct test_case {
    char title[128];
    char words[TEXT]; /* the run line, cut into argv */
    char *argv[MAX_ARGS];
    int argc, n_wants, n_env;
    want wants[MAX_WANTS];
    char env[MAX_ENV][256];
    char dir[512];
} test_case;

static struct {
    char text[TEXT];
    size_t n;
} seen_log;

static void keep_line(void *context, hd_log_level level, const char *text)
{
    (void)context;
    (void)level;
    int n = snprintf(seen_log.text + seen_log.n, TEXT - seen_log.n, "%s\n", text);
    if (n > 0 && seen_log.n + (size_t)n < TEXT) { seen_log.n += (size_t)n; }
}

/* ---- reading a case --------------------------------------------------------------------------------------------- */

/* Replaces {dir}. */
static void expand(const test_case *c, const char *from, char *to, size_t size)
{
    size_t n = 0;
    while (*from != '\0' && n + 1 < size) {
        if (strncmp(from, "{dir}", 5) == 0) {
            n += (size_t)snprintf(to + n, size - n, "%s", c->dir);
            from += 5;
        } else {
            to[n++] = *from++;
        }
        assert_true(n < size);
    }
    to[n] = '\0';
}

static void split_run(test_case *c, const char *line)
{
    char *p = c->words;
    expand(c, line, c->words, sizeof c->words);
    while (*p != '\0') {
        while (*p == ' ') { p++; }
        if (*p == '\0') { return; }
        char end = *p == '\'' ? '\'' : ' ';
        if (end == '\'') { p++; }
        assert_true(c->argc < MAX_ARGS);
        c->argv[c->argc++] = p;
        p = strchr(p, end);
        if (p == NULL) { return; }
        *p++ = '\0';
    }
}

static void make_parents(const char *path)
{
    char dir[1024];
    snprintf(dir, sizeof dir, "%s", path);
    for (char *p = strchr(dir + 1, '/'); p != NULL; p = strchr(p + 1, '/')) {
        *p = '\0';
        (void)mkdir(dir, 0700);
        *p = '/';
    }
}

static void add_want(test_case *c, const char *kind, const char *rest, int line)
{
    assert_true(c->n_wants < MAX_WANTS);
    want *w = &c->wants[c->n_wants++];
    bool keyed = strcmp(kind, "value") == 0 || strcmp(kind, "origin") == 0;
    size_t n = keyed ? strcspn(rest, " ") : 0;
    assert_true(n < sizeof w->key);
    snprintf(w->kind, sizeof w->kind, "%s", kind);
    memcpy(w->key, rest, n);
    expand(c, rest + n + (keyed ? 1 : 0), w->text, sizeof w->text);
    w->line = line;
}

static bool starts(const char *line, const char *word, const char **rest)
{
    size_t n = strlen(word);
    if (strncmp(line, word, n) != 0 || line[n] != ' ') { return false; }
    *rest = line + n + 1;
    return true;
}

static void copy(char *to, size_t size, const char *from)
{
    assert_true(strlen(from) < size);
    memcpy(to, from, strlen(from) + 1);
}

static FILE *start_file(const test_case *c, const char *name)
{
    char path[1024];
    assert_true((size_t)snprintf(path, sizeof path, "%s/%s", c->dir, name) < sizeof path);
    make_parents(path);
    return fopen(path, "w");
}

/* Takes one line of a case.  *file is the open file that "| " lines go to.  false: not understood. */
static bool read_line(test_case *c, const char *line, int number, FILE **file)
{
    static const char *const kinds[] = {"value", "origin", "error", "log", "nolog", NULL};
    const char *rest;
    if (line[0] == '\0' || line[0] == '#') { return true; }
    if (line[0] == '|') {
        assert_non_null(*file);
        fprintf(*file, "%s\n", line[1] == ' ' ? line + 2 : line + 1);
        return true;
    }
    if (*file != NULL) { fclose(*file); }
    *file = NULL;
    if (starts(line, "run", &rest)) {
        split_run(c, rest);
        return true;
    }
    if (starts(line, "env", &rest)) {
        assert_true(c->n_env < MAX_ENV);
        copy(c->env[c->n_env++], sizeof c->env[0], rest);
        return true;
    }
    if (starts(line, "file", &rest)) {
        *file = start_file(c, rest);
        return *file != NULL;
    }
    for (int i = 0; kinds[i] != NULL; i++) {
        if (starts(line, kinds[i], &rest)) {
            add_want(c, kinds[i], rest, number);
            return true;
        }
    }
    return false;
}

/* ---- judging one ------------------------------------------------------------------------------------------------ */

static int complain(const test_case *c, const want *w, const char *got)
{
    print_error("  cases.txt:%d: case %s\n    want %s %s%s%s\n    got  %s\n", w->line, c->title, w->kind, w->key,
                w->key[0] != '\0' ? " " : "", w->text, got);
    return 1;
}

static int judge_value(const test_case *c, const want *w, const hd_config *config, const hd_err *failure)
{
    char *text = NULL;
    hd_err err = {0};
    if (config == NULL) { return complain(c, w, failure->msg); }
    bool value = strcmp(w->kind, "value") == 0;
    hd_status st = value ? hd_config_value_text(config, w->key, &text, &err) : hd_config_origin_text(config, w->key, &text, &err);
    bool same = st == HD_OK && (value ? strcmp(text, w->text) == 0 : strncmp(text, w->text, strlen(w->text)) == 0);
    int bad = same ? 0 : complain(c, w, st == HD_OK ? text : err.msg);
    hd_config_text_free(text);
    return bad;
}

static int judge(const test_case *c, const want *w, const hd_config *config, const hd_err *failure)
{
    if (strcmp(w->kind, "value") == 0 || strcmp(w->kind, "origin") == 0) { return judge_value(c, w, config, failure); }
    if (strcmp(w->kind, "error") == 0) {
        bool good = config == NULL && hd_err_exit_code(failure) == 2 && strstr(failure->msg, w->text) != NULL &&
                    strncmp(failure->msg, "configuration error: ", 21) == 0;
        return good ? 0 : complain(c, w, config == NULL ? failure->msg : "no error");
    }
    bool found = strstr(seen_log.text, w->text) != NULL;
    return found == (strcmp(w->kind, "log") == 0) ? 0 : complain(c, w, seen_log.text);
}

static void set_environment(const test_case *c, bool on)
{
    for (int i = 0; i < c->n_env; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s", c->env[i]);
        char *equals = strchr(name, '=');
        assert_non_null(equals);
        *equals = '\0';
        assert_int_equal(on ? setenv(name, equals + 1, 1) : unsetenv(name), 0);
    }
}

static int run_case(const test_case *c)
{
    hd_config *config = NULL;
    hd_err err = {0};
    int bad = 0;
    bool wants_error = false;
    seen_log.n = 0;
    seen_log.text[0] = '\0';
    assert_true(c->argc > 0);
    set_environment(c, true);
    size_t live = hd_alloc_get_stats().live_calls;
    hd_status st = hd_config_load(c->argv[0], c->argc - 1, (const char *const *)c->argv + 1, "configs", &config, &err);
    set_environment(c, false);
    for (int i = 0; i < c->n_wants; i++) {
        wants_error |= strcmp(c->wants[i].kind, "error") == 0;
        bad += judge(c, &c->wants[i], config, &err);
    }
    if (st != HD_OK && !wants_error) { bad += complain(c, &(want){.kind = "success"}, err.msg); }
    hd_config_free(config);
    if (hd_alloc_get_stats().live_calls != live) { bad += complain(c, &(want){.kind = "no leak"}, "a leak"); }
    return bad;
}

static int finish_case(test_case *c, FILE **file)
{
    if (*file != NULL) { fclose(*file); }
    *file = NULL;
    return c->title[0] != '\0' ? run_case(c) : 0;
}

static void cases(void **state)
{
    static char line[8192];
    test_case *c = calloc(1, sizeof *c);
    FILE *list = fopen("tests/config/cases.txt", "r"), *file = NULL;
    const char *title;
    int bad = 0, n = 0, number = 0;
    assert_non_null(list);
    assert_non_null(c);
    while (fgets(line, sizeof line, list) != NULL) {
        number++;
        line[strcspn(line, "\n")] = '\0';
        if (starts(line, "case", &title)) {
            bad += finish_case(c, &file);
            memset(c, 0, sizeof *c);
            copy(c->title, sizeof c->title, title);
            snprintf(c->dir, sizeof c->dir, "%s/%d", (const char *)*state, n++);
            assert_int_equal(mkdir(c->dir, 0700), 0);
        } else if (!read_line(c, line, number, &file)) {
            print_error("  cases.txt:%d: not understood: %s\n", number, line);
            bad++;
        }
    }
    bad += finish_case(c, &file);
    fclose(list);
    free(c);
    print_message("  %d cases\n", n);
    assert_true(n > 100);
    assert_int_equal(bad, 0);
}

int main(void)
{
    unsetenv("HF_TOKEN");
    unsetenv("JOBSET_NAME");
    hd_log_set_sink(keep_line, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(cases, hd_temp_setup, hd_temp_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
