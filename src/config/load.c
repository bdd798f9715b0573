/* hd_config_load: reads the sources in turn, refuses conflicts, merges, and lets the result be cleaned, completed and
 * checked.  The order and the conflicts are MaxText's (docs/configuration.md). */
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "config/layers.h"
#include "hadal/log.h"

typedef struct loader {
    hd_config *config;
    const char *configs_dir;
    char *config_path; /* NULL: no file, the table's defaults stand */
    hd_layer *files, *model, *arguments, *environment;
} loader;

static hd_status new_layer(hd_layer **out, hd_err *err)
{
    return hd_alloc(1, sizeof **out, "configuration layer", (void **)out, err);
}

static void delete_layer(hd_layer *layer)
{
    if (layer != NULL) { hd_layer_free(layer); }
    hd_free(layer);
}

static bool ends_in_yml(const char *text)
{
    size_t n = strlen(text);
    return (n > 4 && strcmp(text + n - 4, ".yml") == 0) || (n > 5 && strcmp(text + n - 5, ".yaml") == 0);
}

/* The file a command reads when none is named. */
static hd_status find_default_file(loader *l, hd_err *err)
{
    hd_status st = HD_OK;
    bool sft = l->config->command == HD_FOR_SFT;
    HD_TRY(hd_config_find_file(sft ? "configs/sft.yml" : "configs/base.yml", l->configs_dir, &l->config_path, err));
    if (l->config_path == NULL && sft) {
        st = HD_FAIL(err, HD_E_CONFIG, "no configuration file: configs/sft.yml is not found; name a file first on the command line");
    }
out: /* base.yml only repeats the table's defaults, so hadal runs without it */
    return st;
}

static hd_status find_named_file(loader *l, const char *path, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(hd_config_find_file(path, l->configs_dir, &l->config_path, err));
    if (l->config_path == NULL) {
        st = HD_FAIL(err, HD_E_CONFIG, "no configuration file %.300s%s%.300s", path, l->configs_dir != NULL ? ", nor below " : "",
                     l->configs_dir != NULL ? l->configs_dir : "");
    } else if (strcmp(l->config_path, path) != 0) {
        hd_log(HD_LOG_INFO, "configuration file %s is not there; %s is used", path, l->config_path);
    }
out:
    return st;
}

static hd_status read_sources(loader *l, int argc, const char *const *argv, hd_err *err)
{
    hd_status st = HD_OK;
    int named = argc > 0 && strchr(argv[0], '=') == NULL && ends_in_yml(argv[0]);
    HD_TRY(hd_layer_read_arguments(argc - named, argv + named, l->arguments, err));
    HD_TRY(hd_layer_read_environment(l->environment, err));
    HD_TRY(named ? find_named_file(l, argv[0], err) : find_default_file(l, err));
    if (l->config_path != NULL) { HD_TRY(hd_layer_read_file(l->config, l->config_path, l->configs_dir, l->files, err)); }
out:
    return st;
}

/* A value that decides how the rest is merged, before it is. */
static const hd_value *early(const loader *l, hd_config_key key)
{
    if (l->environment->present[key]) { return &l->environment->value[key]; }
    if (l->arguments->present[key]) { return &l->arguments->value[key]; }
    return l->files->present[key] ? &l->files->value[key] : NULL;
}

/* ---- the model's file ------------------------------------------------------------------------------------------- */

static const struct {
    const char *prefix, *sentence;
} refused_models[] = {
    {"deepseek3.2-", "sparse attention (DeepSeek V3.2) is not implemented"},
    {"deepseek4-", "DeepSeek V4 models are not implemented"},
    {"deepseek-custom", "this research model uses sparse attention, hyper-connections and Engram, which are not implemented"},
    {"deepseek3-671b-2dfsdp", "the model is deepseek3-671b; the mesh comes from the ici_*_parallelism keys"},
    {"deepseek3-671b-batchsplit", "the model is deepseek3-671b; the batch-split schedule is not implemented"},
};

static hd_status refuse_model(const char *name, hd_err *err)
{
    for (size_t i = 0; i < sizeof refused_models / sizeof refused_models[0]; i++) {
        if (strncmp(name, refused_models[i].prefix, strlen(refused_models[i].prefix)) == 0) {
            return HD_FAIL(err, HD_E_UNSUPPORTED, "model_name=%.100s: %s", name, refused_models[i].sentence);
        }
    }
    return HD_OK;
}

/* An instruction-tuned model has the architecture of its base model. */
static void drop_instruct(char *name)
{
    static const char suffix[] = "-Instruct";
    for (char *p = strstr(name, suffix); p != NULL; p = strstr(p, suffix)) {
        memmove(p, p + sizeof suffix - 1, strlen(p + sizeof suffix - 1) + 1);
    }
}

static hd_status read_model(loader *l, hd_err *err)
{
    hd_status st = HD_OK;
    char *name = NULL, *path = NULL;
    const hd_value *value = early(l, HD_KEY_model_name);
    if (value == NULL || value->text == NULL || strcmp(value->text, "default") == 0) { return HD_OK; }
    HD_TRY(hd_strdup(value->text, &name, err));
    drop_instruct(name);
    HD_TRY(refuse_model(name, err));
    HD_TRY(hd_config_find_model(name, l->config_path, l->configs_dir, &path, err));
    st = hd_layer_read_model(l->config, path, l->model, err);
out:
    hd_free(name);
    hd_free(path);
    return st;
}

/* ---- conflicts and merging -------------------------------------------------------------------------------------- */

static void write_value(hd_config_key key, const hd_value *value, hd_buf *out)
{
    const hd_key_row *row = hd_key_row_of(key);
    if ((row->flags & HD_FLAG_SECRET) != 0) {
        hd_buf_append_text(out, "(secret)");
    } else {
        hd_value_write(row, value, out);
    }
}

static hd_status model_conflict(const loader *l, hd_config_key key, const char *source, const hd_value *value, hd_err *err)
{
    hd_buf mine = {.limit = 256}, its = {.limit = 256};
    const hd_origin *origin = &l->model->origin[key];
    write_value(key, value, &mine);
    write_value(key, &l->model->value[key], &its);
    hd_status st = HD_FAIL(err, HD_E_CONFIG,
                           "%s: %s says %s, and the model's file %s:%d says %s; override_model_config=true lets %s win",
                           hd_config_key_name(key), source, hd_buf_text(&mine), l->config->files[origin->file], origin->line,
                           hd_buf_text(&its), source);
    hd_buf_free(&mine);
    hd_buf_free(&its);
    return st;
}

static hd_status check_conflicts(const loader *l, bool override, hd_err *err)
{
    hd_status st = HD_OK;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        hd_config_key key = (hd_config_key)k;
        bool argument = l->arguments->present[k], environment = l->environment->present[k];
        bool model = l->model->present[k] && !override;
        if (argument && environment) {
            return HD_FAIL(err, HD_E_CONFIG, "%s is set both on the command line and by its M_ variable in the environment; keep one",
                           hd_config_key_name(key));
        }
        if (model && argument && !hd_value_equal(hd_key_row_of(key), &l->arguments->value[k], &l->model->value[k])) {
            HD_TRY(model_conflict(l, key, "the command line", &l->arguments->value[k], err));
        }
        if (model && environment) { HD_TRY(model_conflict(l, key, "the environment", &l->environment->value[k], err)); }
    }
out:
    return st;
}

/* A user's own file loses against the model's file; that is worth a word. */
static void warn_overruled(const loader *l, hd_config_key key)
{
    const hd_key_row *row = hd_key_row_of(key);
    const hd_origin *origin = &l->files->origin[key];
    const char *file = l->config->files[origin->file];
    if (strcmp(hd_path_base(file), "base.yml") == 0 || hd_value_equal(row, &l->files->value[key], &l->model->value[key])) { return; }
    hd_log(HD_LOG_WARN, "%s:%d sets %s; the model's file %s:%d wins", file, origin->line, row->name,
           l->config->files[l->model->origin[key].file], l->model->origin[key].line);
}

static void merge(loader *l)
{
    hd_layer *const layers[] = {l->files, l->model, l->arguments, l->environment};
    hd_layer *merged = &l->config->merged;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        hd_config_key key = (hd_config_key)k;
        bool user = l->arguments->present[k] || l->environment->present[k];
        if (l->files->present[k] && l->model->present[k] && !user) { warn_overruled(l, key); }
        for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
            if (layers[i]->present[k]) { hd_layer_set(merged, key, &layers[i]->value[k], layers[i]->origin[k]); }
        }
    }
}

static hd_status set_defaults(hd_layer *merged, hd_err *err)
{
    hd_status st = HD_OK;
    for (int key = 0; key < HD_KEY_COUNT; key++) {
        HD_TRY(hd_value_default(hd_key_row_of((hd_config_key)key), &merged->value[key], err));
        merged->present[key] = true;
    }
out:
    return st;
}

static hd_status load(loader *l, int argc, const char *const *argv, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(new_layer(&l->files, err));
    HD_TRY(new_layer(&l->model, err));
    HD_TRY(new_layer(&l->arguments, err));
    HD_TRY(new_layer(&l->environment, err));
    HD_TRY(set_defaults(&l->config->merged, err));
    HD_TRY(read_sources(l, argc, argv, err));
    HD_TRY(read_model(l, err));
    const hd_value *override = early(l, HD_KEY_override_model_config);
    HD_TRY(check_conflicts(l, override != NULL && override->boolean, err));
    merge(l);
    HD_TRY(hd_config_clean_up(l->config, err));
    HD_TRY(hd_config_validate(l->config, err));
    HD_TRY(hd_config_derive(l->config, err));
    hd_config_notice(l->config);
out:
    return st;
}

hd_status hd_config_load(const char *command, int argc, const char *const *argv, const char *configs_dir, hd_config **out,
                         hd_err *err)
{
    hd_status st = HD_OK;
    loader l = {.configs_dir = configs_dir};
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof *l.config, "configuration", (void **)&l.config, err));
    l.config->command = hd_key_command(command);
    st = load(&l, argc, argv, err);
    if (st == HD_OK) {
        *out = l.config;
        l.config = NULL;
    } else if (st == HD_E_CONFIG || st == HD_E_UNSUPPORTED) {
        hd_err_prefix(err, "configuration error: ");
    }
out:
    delete_layer(l.files);
    delete_layer(l.model);
    delete_layer(l.arguments);
    delete_layer(l.environment);
    hd_free(l.config_path);
    hd_config_free(l.config);
    return st;
}

/* ---- secrets on the command line -------------------------------------------------------------------------------- */

void hd_config_scrub_argv(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        char *word = strncmp(argv[i], "--", 2) == 0 ? argv[i] + 2 : argv[i], *equals = strchr(word, '=');
        for (int key = 0; equals != NULL && key < HD_KEY_COUNT; key++) {
            const hd_key_row *row = hd_key_row_of((hd_config_key)key);
            size_t n = strlen(row->name);
            if ((row->flags & HD_FLAG_SECRET) == 0 || (size_t)(equals - word) != n || strncmp(word, row->name, n) != 0) { continue; }
            memset(equals + 1, 'x', strlen(equals + 1));
        }
    }
}
