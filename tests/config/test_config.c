/* The configuration beyond cases.txt: the table itself, printing, secrets, hostile files, arithmetic of mesh and batch,
 * memory that runs out. */
#include "support/test.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "config/config_internal.h"
#include "config/derived.h"
#include "config/yaml_file.h"
#include "hadal/log.h"

/* ---- collecting lines ------------------------------------------------------------------------------------------- */

static void collect(void *context, const char *line)
{
    hd_buf *text = context;
    hd_buf_append_text(text, line);
    hd_buf_append_char(text, '\n');
}

static hd_buf logged;
static void collect_log(void *context, hd_log_level level, const char *text)
{
    (void)context;
    (void)level;
    collect(&logged, text);
}

static hd_config *load(const char *command, int argc, const char *const *argv)
{
    hd_config *config;
    hd_err err;
    assert_ok(hd_config_load(command, argc, argv, "configs", &config, &err));
    return config;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void rows_are_sound(void **state)
{
    (void)state;
    hd_err err;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        hd_value value, again;
        hd_buf text = {0};
        for (const char *p = row->name; *p != '\0'; p++) { assert_true(islower(*p) || isdigit(*p) || *p == '_'); }
        assert_int_equal(hd_key_find(row->name), k); /* unique */
        assert_true(row->help[0] != '\0' && row->help[strlen(row->help) - 1] != '.');
        assert_int_equal(row->reason != NULL, row->status == HD_KEY_REFUSED);
        assert_int_equal(row->default_text == NULL, row->status == HD_KEY_DERIVED);
        if (row->status == HD_KEY_DERIVED) { continue; }
        assert_ok(hd_value_default(row, &value, &err)); /* passes its own check */
        hd_value_write(row, &value, &text);
        assert_ok(hd_value_parse_argument(row, hd_buf_text(&text), &again, &err));
        if (!hd_value_equal(row, &value, &again)) { fail_msg("%s: %s", row->name, hd_buf_text(&text)); }
        hd_value_free(&value);
        hd_value_free(&again);
        hd_buf_free(&text);
    }
}

/* A refused value must be one that the key's own check lets through, or the sentence is never seen. */
static void refused_values_exist(void **state)
{
    (void)state;
    int n = 0;
#define REFUSED_VALUE(key, text, commands, sentence)                                                                \
    do {                                                                                                            \
        const hd_key_row *row = hd_key_row_of(HD_KEY_##key);                                                        \
        assert_true(row->type == HD_TYPE_BOOL || hd_choice_index(row->check, text) >= 0);                           \
        assert_string_equal(hd_key_refused_value(HD_KEY_##key, text, (commands)), sentence);                        \
        assert_true(row->status == HD_KEY_USED && strcmp(row->default_text, text) != 0);                            \
        n++;                                                                                                        \
    } while (0);
#include "config/refused_values.def"
#undef REFUSED_VALUE
    assert_true(n > 40);
    assert_null(hd_key_refused_value(HD_KEY_use_tunix_gradient_accumulation, "true", HD_FOR_SFT));
}

static void nearest_key(void **state)
{
    (void)state;
    assert_int_equal(hd_key_nearest("stpes"), HD_KEY_steps);
    assert_int_equal(hd_key_nearest("Learning-Rate"), HD_KEY_learning_rate);
    assert_int_equal(hd_key_nearest(""), HD_KEY_COUNT);
    assert_int_equal(hd_key_nearest("emb_dimm"), HD_KEY_COUNT); /* emb_dim is derived: no help to offer it */
    for (int k = 0; k < HD_KEY_COUNT; k++) { /* a letter lost from the middle is always found */
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        size_t n = strlen(row->name);
        char name[128];
        if (row->status == HD_KEY_DERIVED || n < 4) { continue; }
        snprintf(name, sizeof name, "%.*s%s", (int)(n / 2), row->name, row->name + n / 2 + 1);
        if (hd_key_find(name) != HD_KEY_COUNT) { continue; }
        if (hd_key_nearest(name) == HD_KEY_COUNT) { fail_msg("%s", name); }
    }
}

/* ---- base.yml --------------------------------------------------------------------------------------------------- */

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);
    assert_non_null(f);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    return text;
}

static void base_yml_is_the_table(void **state)
{
    (void)state;
    hd_err err;
    hd_buf text = {0};
    assert_ok(hd_config_write_base_yml(collect, &text, &err));
    char *shipped = read_text("configs/base.yml");
    if (strcmp(hd_buf_text(&text), shipped) != 0) {
        fail_msg("configs/base.yml is not what src/config/keys.def says: hadal help base.yml > configs/base.yml");
    }
    free(shipped);
    hd_buf_free(&text);
}

static void base_yml_changes_nothing(void **state)
{
    (void)state;
    const char *argv[] = {"configs/base.yml", "dataset_type=synthetic", "run_name=r"};
    hd_config *from_file = load("plan", 3, argv), *from_table;
    hd_err err;
    assert_ok(hd_config_load("plan", 2, argv + 1, "/nonexistent", &from_table, &err)); /* no base.yml there */
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if (!hd_value_equal(row, &from_file->merged.value[k], &from_table->merged.value[k])) { fail_msg("%s", row->name); }
    }
    hd_config_free(from_file);
    hd_config_free(from_table);
}

/* MaxText's own base.yml holds keys of other model families and kernels; at their defaults they must do nothing. */
static void foreign_defaults_load(void **state)
{
    hd_err err;
    hd_buf text = {0}, path = {0};
    hd_config_key_info info;
    int n = 0;
    for (size_t i = 0; hd_config_key_at(i, &info); i++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)i);
        if ((row->flags & HD_FLAG_FOREIGN) == 0) { continue; }
        bool text_key = row->type == HD_TYPE_STR;
        hd_buf_printf(&text, text_key ? "%s: \"%s\"\n" : "%s: %s\n", info.name, info.default_value);
        n++;
    }
    assert_true(n > 300);
    hd_buf_printf(&path, "%s/foreign.yml", (const char *)*state);
    FILE *f = fopen(hd_buf_text(&path), "w");
    assert_non_null(f);
    fputs(hd_buf_text(&text), f);
    fclose(f);
    const char *argv[] = {hd_buf_text(&path), "dataset_type=synthetic", "base_output_directory=out"};
    hd_buf_clear(&logged);
    hd_config *config;
    assert_ok(hd_config_load("train", 3, argv, "configs", &config, &err));
    assert_string_equal(hd_buf_text(&logged), "");
    hd_config_free(config);
    hd_buf_free(&text);
    hd_buf_free(&path);
}

/* docs/configuration.md lists hadal's own keys, those without effect and those refused. */
static void the_page_lists_them(void **state)
{
    (void)state;
    if (access("docs/configuration.md", R_OK) != 0) { skip(); } /* a copy of the tree without its documents */
    char *page = read_text("docs/configuration.md");
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        bool listed = row->status == HD_KEY_IDLE || row->status == HD_KEY_REFUSED || row->group == HD_GROUP_OWN;
        char name[128];
        snprintf(name, sizeof name, "`%s`", row->name);
        if (!listed || (row->flags & HD_FLAG_FOREIGN) != 0) { continue; }
        if (strstr(page, name) == NULL) { fail_msg("docs/configuration.md does not list %s", row->name); }
        if (row->reason != NULL && strstr(page, row->reason) == NULL) { fail_msg("docs/configuration.md: %s", row->reason); }
    }
    free(page);
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

static const char *line_of(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = text; p != NULL && *p != '\0'; p = strchr(p, '\n'), p = p != NULL ? p + 1 : NULL) {
        if (strncmp(p, key, n) == 0 && p[n] == ':') { return p; }
    }
    return NULL;
}

static void assert_line(const char *text, const char *line)
{
    char key[128];
    snprintf(key, sizeof key, "%.*s", (int)strcspn(line, ":"), line);
    const char *got = line_of(text, key);
    if (got == NULL || strncmp(got, line, strlen(line)) != 0 || got[strlen(line)] != '\n') {
        fail_msg("want %s, got %.*s", line, got != NULL ? (int)strcspn(got, "\n") : 7, got != NULL ? got : "nothing");
    }
}

static void prints_values_with_origins(void **state)
{
    (void)state;
    hd_err err;
    hd_buf text = {0};
    const char *argv[] = {"steps=5", "dataset_type=synthetic", "model_name=tiny-v3", "learning_rate=3e-4", "run_name=a b"};
    setenv("M_LOG_PERIOD", "7", 1);
    hd_config *config = load("train", 5, argv);
    unsetenv("M_LOG_PERIOD");
    assert_ok(hd_config_print(config, HD_CONFIG_ORIGINS, collect, &text, &err));
    assert_line(hd_buf_text(&text), "steps: 5  # command line");
    assert_line(hd_buf_text(&text), "log_period: 7  # environment M_LOG_PERIOD");
    assert_line(hd_buf_text(&text), "num_experts: 12  # model tiny-v3.yml:20");
    assert_line(hd_buf_text(&text), "learning_rate: 0.0003  # command line");
    assert_line(hd_buf_text(&text), "run_name: \"a b\"  # command line");
    assert_line(hd_buf_text(&text), "emb_dim: 56  # derived");
    assert_non_null(strstr(line_of(hd_buf_text(&text), "adam_b1"), "adam_b1: 0.9  # configs/base.yml:"));
    for (int k = 0; k < HD_KEY_COUNT; k++) { /* every key, but those of other programs */
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if ((row->flags & HD_FLAG_FOREIGN) == 0 && line_of(hd_buf_text(&text), row->name) == NULL) { fail_msg("%s", row->name); }
    }
    hd_buf_clear(&text);
    assert_ok(hd_config_print(config, HD_CONFIG_SET, collect, &text, &err));
    assert_null(line_of(hd_buf_text(&text), "adam_b1"));
    assert_line(hd_buf_text(&text), "steps: 5  # command line");
    hd_buf_clear(&text);
    assert_ok(hd_config_print(config, HD_CONFIG_MAXTEXT, collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "Config param steps: 5\n"));
    assert_non_null(strstr(hd_buf_text(&text), "Config param adam_b1: 0.9\nConfig param adam_b2: 0.95\n"));
    hd_buf_free(&text);
    hd_config_free(config);
}

/* What --print-config shows is a configuration file that means the same. */
static void printed_text_loads_again(void **state)
{
    hd_err err;
    hd_buf text = {0}, path = {0};
    const char *argv[] = {"steps=5", "dataset_type=synthetic", "prompt=\"it's: #1\\n\"", "adamw_mask=[\".*norm\", 'a, b']", "run_name=r"};
    hd_config *config = load("plan", 5, argv), *again;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if (row->status == HD_KEY_DERIVED || (row->flags & HD_FLAG_SECRET) != 0) { continue; }
        hd_buf_printf(&text, "%s: ", row->name);
        hd_value_write(row, &config->merged.value[k], &text);
        hd_buf_append_char(&text, '\n');
    }
    hd_buf_printf(&path, "%s/again.yml", (const char *)*state);
    FILE *f = fopen(hd_buf_text(&path), "w");
    assert_non_null(f);
    fputs(hd_buf_text(&text), f);
    fclose(f);
    const char *file[] = {hd_buf_text(&path)};
    assert_ok(hd_config_load("plan", 1, file, "configs", &again, &err));
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if (!hd_value_equal(row, &config->merged.value[k], &again->merged.value[k])) { fail_msg("%s", row->name); }
    }
    hd_config_free(config);
    hd_config_free(again);
    hd_buf_free(&text);
    hd_buf_free(&path);
}

static void help_texts(void **state)
{
    (void)state;
    hd_err err;
    hd_buf text = {0};
    assert_ok(hd_config_key_help("lr_schedule_type", collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "lr_schedule_type (choice, default cosine)\n"));
    assert_non_null(strstr(hd_buf_text(&text), "one of cosine, wsd"));
    hd_buf_clear(&text);
    assert_ok(hd_config_key_help("use_indexer", collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "not implemented: sparse attention"));
    assert_fails(hd_config_key_help("stpes", collect, &text, &err), HD_E_CONFIG, "did you mean steps?");
    hd_buf_clear(&text);
    assert_ok(hd_config_help("train", collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "\n  steps=150001\n"));
    assert_null(strstr(hd_buf_text(&text), "decode_sampling"));
    assert_null(strstr(hd_buf_text(&text), "muon")); /* refused choices are not offered */
    hd_buf_clear(&text);
    assert_ok(hd_config_help("decode", collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "decode_sampling_strategy=greedy"));
    hd_buf_free(&text);
}

static void typed_access(void **state)
{
    (void)state;
    const char *argv[] = {"dataset_type=synthetic", "adamw_mask=[a, b]", "metrics_file=", "run_name=r"};
    hd_config *config = load("train", 4, argv);
    size_t n;
    const char *const *list = hd_config_list(config, HD_KEY_adamw_mask, &n);
    assert_int_equal(n, 2);
    assert_string_equal(list[1], "b");
    assert_int_equal(hd_config_int(config, HD_KEY_steps), 150001);
    assert_true(hd_config_float(config, HD_KEY_learning_rate) == 3e-5);
    assert_true(hd_config_bool(config, HD_KEY_packing));
    assert_true(hd_config_is(config, HD_KEY_opt_type, "adamw") && hd_config_enum(config, HD_KEY_opt_type) == 0);
    assert_string_equal(hd_config_str(config, HD_KEY_dtype), "bfloat16");
    assert_string_equal(hd_config_str(config, HD_KEY_quantization), "");
    assert_null(hd_config_str(config, HD_KEY_metrics_file));
    assert_true(hd_config_is_null(config, HD_KEY_metrics_file) && hd_config_is(config, HD_KEY_metrics_file, ""));
    assert_true(hd_config_is_null(config, HD_KEY_max_num_checkpoints_to_keep));
    assert_true(hd_config_is_set(config, HD_KEY_adamw_mask) && !hd_config_is_set(config, HD_KEY_mu_dtype));
    hd_config_free(config);
}

/* ---- secrets ---------------------------------------------------------------------------------------------------- */

static void assert_unseen(const hd_config *config, const char *secret)
{
    hd_err err;
    hd_buf text = {0};
    char *value;
    assert_ok(hd_config_print(config, HD_CONFIG_ORIGINS, collect, &text, &err));
    assert_ok(hd_config_print(config, HD_CONFIG_SET, collect, &text, &err));
    assert_non_null(strstr(hd_buf_text(&text), "hf_access_token: (set)"));
    assert_ok(hd_config_print(config, HD_CONFIG_MAXTEXT, collect, &text, &err));
    assert_null(strstr(hd_buf_text(&text), secret));
    assert_null(strstr(hd_buf_text(&logged), secret));
    assert_fails(hd_config_value_text(config, "hf_access_token", &value, &err), HD_E_CONFIG, "never shown");
    assert_null(strstr(err.msg, secret));
    assert_string_equal(hd_config_str(config, HD_KEY_hf_access_token), secret);
    hd_buf_free(&text);
}

static void tokens_are_never_shown(void **state)
{
    (void)state;
    const char *argv[] = {"dataset_type=synthetic", "hf_access_token=hf_S3cret"};
    hd_err err;
    hd_config *config;
    hd_buf_clear(&logged);
    config = load("train", 2, argv);
    assert_unseen(config, "hf_S3cret");
    assert_non_null(strstr(hd_buf_text(&logged), "visible to others"));
    hd_config_free(config);
    setenv("HF_TOKEN", "hf_S3cret", 1);
    hd_buf_clear(&logged);
    config = load("train", 1, argv);
    assert_unseen(config, "hf_S3cret");
    assert_null(strstr(hd_buf_text(&logged), "visible"));
    hd_config_free(config);
    setenv("M_HF_ACCESS_TOKEN", "hf_S3cret", 1); /* a conflict names the key and not the value */
    assert_fails(hd_config_load("train", 2, argv, "configs", &config, &err), HD_E_CONFIG, "hf_access_token is set both");
    assert_null(strstr(err.msg, "S3cret"));
    unsetenv("M_HF_ACCESS_TOKEN");
    unsetenv("HF_TOKEN");
}

static void argv_is_scrubbed(void **state)
{
    (void)state;
    char a[] = "steps=5", b[] = "hf_access_token=hf_S3cret", c[] = "hf_access_token", d[] = "--hf_access_token=hf_S3cret";
    char *argv[] = {a, b, c, d};
    hd_config_scrub_argv(4, argv);
    assert_string_equal(a, "steps=5");
    assert_string_equal(b, "hf_access_token=xxxxxxxxx");
    assert_string_equal(c, "hf_access_token");
    assert_string_equal(d, "--hf_access_token=xxxxxxxxx");
}

/* ---- hostile files ---------------------------------------------------------------------------------------------- */

static hd_status count_entry(void *context, const hd_yaml_entry *entry, hd_err *err)
{
    (void)entry;
    (void)err;
    (*(int *)context)++;
    return HD_OK;
}

static hd_status scan(const char *text, size_t n, int *entries, hd_err *err)
{
    *entries = 0;
    return hd_yaml_scan("f", text, n, count_entry, entries, err);
}

static void repeat(hd_buf *text, const char *piece, int n)
{
    for (int i = 0; i < n; i++) { hd_buf_append_text(text, piece); }
}

static void yaml_limits(void **state)
{
    (void)state;
    hd_err err;
    int n;
    hd_buf text = {0};
    hd_buf_append_text(&text, "k: ");
    repeat(&text, "[", HD_YAML_MAX_DEPTH);
    repeat(&text, "]", HD_YAML_MAX_DEPTH);
    assert_ok(scan(text.data, text.n, &n, &err));
    hd_buf_clear(&text);
    hd_buf_append_text(&text, "k: ");
    repeat(&text, "[", 100000);
    assert_fails(scan(text.data, text.n, &n, &err), HD_E_CONFIG, "f:1:132: nested too deeply");
    hd_buf_clear(&text);
    hd_buf_append_text(&text, "k: [");
    repeat(&text, "a,", HD_YAML_MAX_EVENTS);
    assert_fails(scan(text.data, text.n, &n, &err), HD_E_CONFIG, "too many values");
    hd_buf_clear(&text);
    repeat(&text, "# a comment that goes on\n", HD_YAML_MAX_BYTES / 25 + 1);
    assert_fails(scan(text.data, text.n, &n, &err), HD_E_CONFIG, "want at most 1048576");
    hd_buf_clear(&text);
    for (int i = 0; i <= HD_YAML_MAX_KEYS; i++) { hd_buf_printf(&text, "k%d: 1\n", i); }
    assert_fails(scan(text.data, text.n, &n, &err), HD_E_CONFIG, "too many keys");
    hd_buf_free(&text);
}

/* Ten levels of ten aliases each: nothing is expanded, the first alias ends it. */
static void yaml_alias_bomb(void **state)
{
    (void)state;
    hd_err err;
    int n;
    hd_buf text = {0};
    hd_buf_append_text(&text, "a0: &a0 [x]\n");
    for (int i = 1; i < 10; i++) {
        hd_buf_printf(&text, "a%d: &a%d [", i, i);
        for (int j = 0; j < 10; j++) { hd_buf_printf(&text, "*a%d,", i - 1); }
        hd_buf_append_text(&text, "]\n");
    }
    assert_fails(scan(text.data, text.n, &n, &err), HD_E_CONFIG, "f:2:10: aliases (*name) are not used");
    hd_buf_free(&text);
}

static void yaml_bad_bytes(void **state)
{
    (void)state;
    hd_err err;
    int n;
    static const struct {
        const char *text;
        size_t n;
        const char *message;
    } bad[] = {
        {"a: 1\nb: \xC3(\n", 11, "f:2:5:"},     {"a: 1\nb: \xFF\n", 10, "f:2:4:"},
        {"a: \xED\xA0\x80\n", 7, "f:1:4:"},     {"a: \xC0\x80\n", 6, "f:1:4:"},
        {"a: 1\0b\n", 8, "f:1:5:"},             {"a: \"x\\0y\"\n", 10, "NUL"},
        {"a: \x01\n", 5, "f:1:4:"},             {"a: \"\\uD800\"\n", 12, "f:1:7:"},
        {"\xFE\xFF\0a", 4, "f:1:1:"},           {"? {a: b}\n: c\n", 13, "f:1:3: want key: value"},
        {"a: 1\n b: 2\n", 11, "f:2:3:"},        {"a: !!int x\n", 11, ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *exact = malloc(bad[i].n + 1); /* so that a byte too far is seen */
        assert_non_null(exact);
        memcpy(exact, bad[i].text, bad[i].n);
        exact[bad[i].n] = '\0';
        if (bad[i].message[0] != '\0') {
            assert_fails(scan(exact, bad[i].n, &n, &err), HD_E_CONFIG, bad[i].message);
        } else {
            assert_ok(scan(exact, bad[i].n, &n, &err)); /* tags are not read: types come from the table */
        }
        free(exact);
    }
    assert_ok(scan("\xEF\xBB\xBF" "a: 1\r\nb: 2\r\n", 15, &n, &err)); /* a byte order mark and CR LF are fine */
    assert_int_equal(n, 2);
    assert_ok(scan("---\n", 4, &n, &err));
    assert_ok(scan("", 0, &n, &err));
    assert_int_equal(n, 0);
}

/* Each megabyte of one trick is judged within a second. */
static void yaml_time(void **state)
{
    (void)state;
    static const char *const pieces[] = {"[", "{", "- ", "? ", "a: ", "\"", "'", "&a ", "!", "a: [\n", "k: v\n", "|\n", "a,", "\\", "%", ": "};
    hd_err err;
    int n;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        hd_buf text = {0};
        repeat(&text, pieces[i], (HD_YAML_MAX_BYTES - 8) / (int)strlen(pieces[i]));
        double before = hd_clock_now_s();
        hd_status st = scan(text.data, text.n, &n, &err);
        double seconds = hd_clock_now_s() - before;
        if (seconds > 1.0) { print_error("  a megabyte of '%s' took %.1f s (%s)\n", pieces[i], seconds, err.msg); }
        assert_true(st == HD_OK || st == HD_E_CONFIG);
        assert_true(seconds <= (hd_test_soak() ? 20.0 : 10.0)); /* sanitizers are slow; the message above is the measure */
        hd_buf_free(&text);
    }
}

static void raw_text_is_exact(void **state)
{
    (void)state;
    const char *path = hd_temp_path(*state, "raw.yml");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("# \xC3\xA9\xE2\x82\xAC before\nlogical_axis_rules: [['\xC3\xA9', \"b\"],\n   [c]]  # after\nmesh_axes:\n  - x\n", f);
    fclose(f);
    const char *argv[] = {path, "dataset_type=synthetic"};
    hd_config *config = load("plan", 2, argv);
    assert_string_equal(hd_config_str(config, HD_KEY_logical_axis_rules), "[['\xC3\xA9', \"b\"],\n   [c]]");
    hd_config_free(config);
}

/* ---- mesh and batch --------------------------------------------------------------------------------------------- */

static hd_status solve(int64_t data, int64_t fsdp, int64_t tensor, int64_t n, int64_t *product, int64_t degree[HD_MESH_COUNT], hd_err *err)
{
    for (int a = 0; a < HD_MESH_COUNT; a++) { degree[a] = 1; }
    degree[HD_MESH_DATA] = data;
    degree[HD_MESH_FSDP] = fsdp;
    degree[HD_MESH_TENSOR] = tensor;
    return hd_mesh_solve("ICI", degree, n, product, err);
}

static void mesh_is_solved(void **state)
{
    (void)state;
    hd_err err;
    int64_t product, degree[HD_MESH_COUNT];
    assert_ok(solve(1, -1, 4, 32, &product, degree, &err));
    assert_true(product == 32 && degree[HD_MESH_FSDP] == 8);
    assert_ok(solve(2, -1, 4, 0, &product, degree, &err));
    assert_true(product == 8 && degree[HD_MESH_FSDP] == 1);
    assert_ok(solve(2, 2, 2, 8, &product, degree, &err));
    assert_fails(solve(1, -1, 3, 32, &product, degree, &err), HD_E_CONFIG, "32 devices cannot be divided by 3");
    assert_fails(solve(2, 2, 2, 16, &product, degree, &err), HD_E_CONFIG, "product of the degrees is 8, and there are 16");
    assert_fails(solve(-1, -1, 1, 8, &product, degree, &err), HD_E_CONFIG, "data and fsdp degrees are both -1");
    assert_fails(solve(1LL << 40, 1LL << 40, 1, 0, &product, degree, &err), HD_E_CONFIG, "beyond 2^31");
    for (int a = 0; a < HD_MESH_COUNT; a++) { /* the axis's name is the middle of its keys */
        char name[64];
        snprintf(name, sizeof name, "ici_%s_parallelism", hd_mesh_axis_name((hd_mesh_axis)a));
        assert_string_equal(name, hd_config_key_name(hd_axis_key((hd_mesh_axis)a, false)));
        name[0] = 'd', name[1] = 'c', name[2] = 'n';
        assert_string_equal(name, hd_config_key_name(hd_axis_key((hd_mesh_axis)a, true)));
    }
}

static void batch_rows(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        double p;
        int64_t g;
        double e;
        int64_t load, train, micro;
    } want[] = {
        {1, 12, 1, -1, 12, 12, 12}, {8, 4, 1, -1, 32, 32, 32},   {8, 4, 3, -1, 96, 96, 32},  {8, 0.5, 1, -1, 8, 4, 4},
        {8, 0.5, 2, -1, 16, 8, 4},  {3, 1.5, 1, -1, 4, 4, 4},    {8, 4, 1, 2, 64, 32, 32},   {8, 0.25, 1, 2, 16, 2, 2},
        {8, 4, 1, 0.5, 16, 32, 32}, {3, 0.34, 1, 0, 3, 1, 1},    {10, 0.7, 1, -1, 10, 7, 7},
    };
    hd_err err;
    hd_batch_rows rows;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_ok(hd_batch_rows_of(want[i].n, want[i].p, want[i].g, want[i].e, &rows, &err));
        assert_int_equal(rows.load, want[i].load);
        assert_int_equal(rows.train, want[i].train);
        assert_int_equal(rows.micro, want[i].micro);
    }
    assert_fails(hd_batch_rows_of(2, 0.25, 1, -1, &rows, &err), HD_E_CONFIG, "makes no whole sequence; want at least 0.5");
    assert_fails(hd_batch_rows_of(1 << 30, 1e10, 1, -1, &rows, &err), HD_E_CONFIG, "beyond 2^53");
    assert_fails(hd_batch_rows_of(1 << 20, 1048576, 1LL << 40, -1, &rows, &err), HD_E_CONFIG, "beyond 2^53");
}

static void shape_on_given_devices(void **state)
{
    (void)state;
    hd_err err;
    hd_run_shape shape;
    const char *argv[] = {"dataset_type=synthetic", "ici_fsdp_parallelism=1", "ici_data_parallelism=-1", "per_device_batch_size=2"};
    hd_config *config = load("plan", 4, argv);
    assert_int_equal(hd_config_int(config, HD_KEY_ici_data_parallelism), 1); /* the derived key is for as many as asked */
    assert_ok(hd_run_shape_of(config, 1, &shape, &err));
    assert_int_equal(shape.train.micro, 2);
    assert_fails(hd_run_shape_of(config, 4, &shape, &err), HD_E_CONFIG, "product of the degrees is 1, and there are 4 devices");
    hd_config_free(config);
}

/* ---- the run's name --------------------------------------------------------------------------------------------- */

static void run_name_from_model_and_time(void **state)
{
    (void)state;
    const char *argv[] = {"dataset_type=synthetic", "model_name=tiny-v2"};
    hd_config *config = load("plan", 2, argv);
    const char *name = hd_config_str(config, HD_KEY_run_name);
    int year, month, day, hour, minute, end = 0;
    assert_int_equal(sscanf(name, "tiny-v2_%4d-%2d-%2d-%2d-%2d%n", &year, &month, &day, &hour, &minute, &end), 5);
    assert_int_equal((size_t)end, strlen(name));
    assert_true(strlen(name) == strlen("tiny-v2_YYYY-MM-DD-HH-MM") && year >= 2024 && month <= 12 && hour <= 23);
    hd_config_free(config);
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

static void unreadable_files(void **state)
{
    hd_config *config;
    hd_err err;
    const char *big = hd_temp_path(*state, "big.yml");
    FILE *f = fopen(big, "w");
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), 2 << 20), 0);
    fclose(f);
    const char *argv[] = {big};
    assert_fails(hd_config_load("train", 1, argv, "configs", &config, &err), HD_E_CONFIG, "big.yml");
    assert_null(config);
    const char *folder[] = {"configs/.yml"};
    assert_fails(hd_config_load("train", 1, folder, "configs", &config, &err), HD_E_CONFIG, "no configuration file");
}

/* Allocation k fails, for k over the whole of a load: a message, no leak. */
static void memory_runs_out(void **state)
{
    (void)state;
    hd_config *config;
    hd_err err;
    const char *argv[] = {"model_name=tiny-v3", "dataset_type=synthetic", "adamw_mask=[a, b]", "num_experts=12", "hardware=cpu"};
    size_t live = hd_alloc_get_stats().live_calls, before = hd_alloc_get_stats().total_calls;
    config = load("train", 5, argv);
    size_t n = hd_alloc_get_stats().total_calls - before;
    hd_config_free(config);
    size_t step = hd_test_soak() ? 1 : n / 150 + 1, failed = 0;
    for (size_t k = 1; k <= n; k += step) {
        hd_alloc_fail_at(k, (int)(k % 2));
        hd_status st = hd_config_load("train", 5, argv, "configs", &config, &err);
        hd_alloc_fail_at(0, 0);
        if (st == HD_OK) { /* a notice that could not be made */
            hd_config_free(config);
        } else if (st != HD_E_NOMEM) {
            fail_msg("allocation %zu: %s: %s", k, hd_status_name(st), err.msg);
        }
        failed += st != HD_OK;
        assert_int_equal(hd_alloc_get_stats().live_calls, live);
    }
    assert_true(failed > 100);
}

int main(void)
{
    unsetenv("HF_TOKEN");
    unsetenv("JOBSET_NAME");
    hd_log_set_sink(collect_log, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sound),
        cmocka_unit_test(refused_values_exist),
        cmocka_unit_test(nearest_key),
        cmocka_unit_test(base_yml_is_the_table),
        cmocka_unit_test(base_yml_changes_nothing),
        cmocka_unit_test_setup_teardown(foreign_defaults_load, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test(the_page_lists_them),
        cmocka_unit_test(prints_values_with_origins),
        cmocka_unit_test_setup_teardown(printed_text_loads_again, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test(help_texts),
        cmocka_unit_test(typed_access),
        cmocka_unit_test(tokens_are_never_shown),
        cmocka_unit_test(argv_is_scrubbed),
        cmocka_unit_test(yaml_limits),
        cmocka_unit_test(yaml_alias_bomb),
        cmocka_unit_test(yaml_bad_bytes),
        cmocka_unit_test(yaml_time),
        cmocka_unit_test_setup_teardown(raw_text_is_exact, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test(mesh_is_solved),
        cmocka_unit_test(batch_rows),
        cmocka_unit_test(shape_on_given_devices),
        cmocka_unit_test(run_name_from_model_and_time),
        cmocka_unit_test_setup_teardown(unreadable_files, hd_temp_setup, hd_temp_teardown),
        cmocka_unit_test(memory_runs_out),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    hd_buf_free(&logged);
    return failed;
}
