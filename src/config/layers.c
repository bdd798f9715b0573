/* The sources of values: files, the model's file, the command line, the environment.  See layers.h. */
#include "config/layers.h"

#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/io.h"
#include "base/path.h"
#include "config/yaml_file.h"
#include "hadal/log.h"

enum { MAX_CHAIN = HD_CONFIG_MAX_FILES - 2, NAME_LEN = 128 };

hd_status hd_config_check_path(const char *path, hd_err *err)
{
    if (strncmp(path, "gs://", 5) == 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED,
                       "object stores are not opened directly; mount the bucket (gcsfuse BUCKET FOLDER) or copy it (gcloud "
                       "storage cp -r %.200s FOLDER), and give the folder",
                       path);
    }
    if (strncmp(path, "s3://", 5) == 0) {
        return HD_FAIL(err, HD_E_UNSUPPORTED,
                       "object stores are not opened directly; mount the bucket (mountpoint-s3: mount-s3 BUCKET FOLDER) or copy "
                       "it (aws s3 cp --recursive %.200s FOLDER), and give the folder",
                       path);
    }
    return HD_OK;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

typedef struct file_reader {
    hd_layer *layer;
    hd_origin origin;
} file_reader;

/* A RAW key keeps its node's text. */
static hd_status raw_value(const hd_yaml_entry *entry, hd_value *out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf text = {0};
    size_t n;
    const char *raw = hd_yaml_raw(entry, &n);
    *out = (hd_value){.is_null = n == 0 || (n == 4 && memcmp(raw, "null", 4) == 0)};
    if (out->is_null) { return HD_OK; }
    hd_buf_append(&text, raw, n);
    HD_TRY(hd_buf_check(&text, err));
    out->text = hd_buf_take(&text);
out:
    hd_buf_free(&text);
    return st;
}

static hd_status refuse_derived(const hd_key_row *row, hd_err *err)
{
    return HD_FAIL(err, HD_E_CONFIG, "%s is computed from other keys (%s) and cannot be set", row->name, row->help);
}

static hd_status visit_entry(void *context, const hd_yaml_entry *entry, hd_err *err)
{
    file_reader *reader = context;
    hd_status st = HD_OK;
    hd_value value = {0};
    hd_config_key key = hd_key_find(entry->key);
    if (key == HD_KEY_COUNT) { return hd_key_unknown(entry->key, err); }
    const hd_key_row *row = hd_key_row_of(key);
    if (row->status == HD_KEY_DERIVED) { return refuse_derived(row, err); }
    if (key == HD_KEY_base_config && reader->origin.kind == HD_ORIGIN_MODEL) {
        return HD_FAIL(err, HD_E_CONFIG, "base_config: a model file stands alone");
    }
    if (row->type == HD_TYPE_RAW) {
        HD_TRY(raw_value(entry, &value, err));
    } else if (entry->nested) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: want %s, got a nested value", row->name, hd_key_type_title(row->type));
    } else {
        HD_TRY(hd_value_parse(row, entry->value, &value, err));
    }
    reader->origin.line = entry->line;
    hd_layer_set(reader->layer, key, &value, reader->origin);
out:
    return st;
}

/* A file that cannot be read is the user's mistake, not the system's. */
static hd_status read_text(const char *path, char **text, size_t *n, hd_err *err)
{
    hd_status st = hd_io_read_file(path, HD_YAML_MAX_BYTES, text, n, err);
    if (st == HD_OK || st == HD_E_NOMEM) { return st; }
    if (err != NULL) { err->code = HD_E_CONFIG; }
    return HD_E_CONFIG;
}

/* Reads one file into a layer and gives it a number. */
static hd_status read_one(hd_config *config, const char *path, hd_origin_kind kind, hd_layer *layer, hd_err *err)
{
    hd_status st = HD_OK;
    char *text = NULL;
    size_t n = 0;
    file_reader reader = {.layer = layer, .origin = {.kind = kind, .file = config->n_files}};
    HD_TRY(read_text(path, &text, &n, err));
    HD_TRY(hd_strdup(path, &config->files[config->n_files], err));
    config->n_files++;
    st = hd_yaml_scan(path, text, n, visit_entry, &reader, err);
out:
    hd_free(text);
    return st;
}

static void merge_over(hd_layer *below, hd_layer *above)
{
    for (int key = 0; key < HD_KEY_COUNT; key++) {
        if (above->present[key]) { hd_layer_set(below, (hd_config_key)key, &above->value[key], above->origin[key]); }
    }
}

/* Where base_config leads from `path`: beside it, else in the configs folder. */
static hd_status find_base(const char *path, const char *base, const char *configs_dir, char **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *dir = NULL, *beside = NULL;
    hd_io_info info;
    *out = NULL;
    HD_TRY(hd_config_check_path(base, err));
    HD_TRY(hd_path_dir(path, &dir, err));
    HD_TRY(strcmp(dir, ".") == 0 ? hd_strdup(base, &beside, err) : hd_path_join(dir, base, &beside, err));
    HD_TRY(hd_io_stat(beside, &info, err));
    if (info.kind == HD_IO_REGULAR) {
        *out = beside;
        beside = NULL;
    } else if (configs_dir != NULL) {
        HD_TRY(hd_path_join(configs_dir, base, out, err));
    } else {
        st = HD_FAIL(err, HD_E_CONFIG, "base_config: no file %.300s", beside);
    }
out:
    hd_free(dir);
    hd_free(beside);
    return st;
}

/* The chain is walked from the user's file down; each lower file fills only what none above it has set. */
hd_status hd_layer_read_file(hd_config *config, const char *path, const char *configs_dir, hd_layer *files, hd_err *err)
{
    hd_status st = HD_OK;
    hd_layer *layer = NULL;
    char *here = NULL;
    HD_TRY(hd_strdup(path, &here, err));
    while (here != NULL) {
        for (int i = 0; i < config->n_files; i++) {
            if (strcmp(config->files[i], here) == 0 || config->n_files == MAX_CHAIN) {
                st = HD_FAIL(err, HD_E_CONFIG, "base_config: the chain of files comes back to %.300s", here);
                goto out;
            }
        }
        HD_TRY(hd_alloc(1, sizeof *layer, "configuration layer", (void **)&layer, err));
        HD_TRY(read_one(config, here, HD_ORIGIN_FILE, layer, err));
        char *base = NULL;
        if (layer->value[HD_KEY_base_config].text != NULL) {
            HD_TRY(find_base(here, layer->value[HD_KEY_base_config].text, configs_dir, &base, err));
        }
        hd_free(here);
        here = base;
        merge_over(layer, files);
        for (int key = 0; key < HD_KEY_COUNT; key++) { hd_value_free(&files->value[key]); }
        *files = *layer;
        hd_free(layer);
        layer = NULL;
    }
out:
    if (layer != NULL) { hd_layer_free(layer); }
    hd_free(layer);
    hd_free(here);
    return st;
}

hd_status hd_layer_read_model(hd_config *config, const char *path, hd_layer *model, hd_err *err)
{
    return read_one(config, path, HD_ORIGIN_MODEL, model, err);
}

/* ---- command line ----------------------------------------------------------------------------------------------- */

static hd_status not_an_assignment(const char *argument, hd_err *err)
{
    return HD_FAIL(err, HD_E_CONFIG, "command line: '%.200s': want key=value%s", argument,
                   strchr(argument, '=') == NULL ? " (a configuration file comes first and ends in .yml)" : "");
}

/* key=value, or --key=value as MaxText's checker has its flags, or --key for a bool that becomes true: the name and where the value
 * stands; NULL when it is nothing of these. */
static const char *split_argument(const char *argument, char name[NAME_LEN])
{
    bool dashes = strncmp(argument, "--", 2) == 0;
    const char *begin = argument + (dashes ? 2 : 0), *equals = strchr(begin, '=');
    size_t n = equals != NULL ? (size_t)(equals - begin) : strlen(begin);
    if (n == 0 || begin[0] == '-') { return NULL; }
    if (n >= NAME_LEN) { n = NAME_LEN - 1; }
    memcpy(name, begin, n);
    name[n] = '\0';
    if (equals != NULL) { return equals + 1; }
    hd_config_key key = hd_key_find(name);
    return dashes && key != HD_KEY_COUNT && hd_key_row_of(key)->type == HD_TYPE_BOOL ? "true" : NULL;
}

static hd_status read_argument(const char *argument, hd_layer *arguments, hd_err *err)
{
    hd_status st = HD_OK;
    hd_value value = {0};
    char name[NAME_LEN];
    const char *text = split_argument(argument, name);
    if (text == NULL) { return not_an_assignment(argument, err); }
    hd_config_key key = hd_key_find(name);
    if (key == HD_KEY_COUNT) {
        st = hd_key_unknown(name, err);
    } else if (hd_key_row_of(key)->status == HD_KEY_DERIVED) {
        st = refuse_derived(hd_key_row_of(key), err);
    } else if (key == HD_KEY_base_config) {
        st = HD_FAIL(err, HD_E_CONFIG, "base_config belongs in a file; name the file itself first on the command line");
    } else {
        st = hd_value_parse_argument(hd_key_row_of(key), text, &value, err);
    }
    if (st != HD_OK) { goto out; }
    if (arguments->present[key] && !hd_value_equal(hd_key_row_of(key), &value, &arguments->value[key])) {
        hd_log(HD_LOG_WARN, "%s stands twice on the command line; the last one counts", name);
    }
    hd_layer_set(arguments, key, &value, (hd_origin){.kind = HD_ORIGIN_ARGUMENT});
out:
    hd_value_free(&value);
    if (st != HD_OK && st != HD_E_NOMEM) { hd_err_prefix(err, "command line: "); }
    return st;
}

hd_status hd_layer_read_arguments(int argc, const char *const *argv, hd_layer *arguments, hd_err *err)
{
    hd_status st = HD_OK;
    for (int i = 0; i < argc; i++) { HD_TRY(read_argument(argv[i], arguments, err)); }
out:
    return st;
}

/* ---- environment ------------------------------------------------------------------------------------------------ */

/* "M_STEPS" to "steps"; false when it is not a name in upper case. */
static bool key_name_of(const char *name, size_t n, char out[NAME_LEN])
{
    if (n < 3 || n - 2 >= NAME_LEN) { return false; }
    for (size_t i = 2; i < n; i++) {
        char c = name[i];
        if (c >= 'a' && c <= 'z') { return false; }
        out[i - 2] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    }
    out[n - 2] = '\0';
    return true;
}

/* Other programs have variables that begin with M_ too: only a near miss is worth a word. */
static void warn_near_miss(const char *variable, size_t n, const char *name)
{
    hd_config_key near = hd_key_nearest(name);
    if (near == HD_KEY_COUNT) { return; }
    hd_log(HD_LOG_WARN, "environment variable %.*s is not a key; did you mean the key %s?", (int)n, variable,
           hd_config_key_name(near));
}

hd_status hd_layer_read_environment(hd_layer *environment, hd_err *err)
{
    hd_status st = HD_OK;
    size_t cursor = 0, n;
    const char *variable, *text;
    char name[NAME_LEN];
    while (hd_env_prefixed("M_", &cursor, &variable, &n, &text)) {
        if (!key_name_of(variable, n, name)) { continue; }
        hd_config_key key = hd_key_find(name);
        if (key == HD_KEY_COUNT) { warn_near_miss(variable, n, name); }
        if (key == HD_KEY_COUNT || hd_key_row_of(key)->status == HD_KEY_DERIVED || key == HD_KEY_base_config) { continue; }
        hd_value value;
        st = hd_value_parse_env(hd_key_row_of(key), text, &value, err);
        if (st != HD_OK) {
            if (st != HD_E_NOMEM) { hd_err_prefix(err, "environment %.*s: ", (int)n, variable); }
            return st;
        }
        hd_layer_set(environment, key, &value, (hd_origin){.kind = HD_ORIGIN_ENVIRONMENT});
    }
    return st;
}

/* ---- finding files ---------------------------------------------------------------------------------------------- */

static hd_status keep_if_there(char *candidate, char **out, hd_err *err)
{
    hd_io_info info;
    hd_status st = hd_io_stat(candidate, &info, err);
    if (st == HD_OK && info.kind == HD_IO_REGULAR) {
        *out = candidate;
    } else {
        hd_free(candidate);
    }
    return st;
}

static hd_status try_in(const char *dir, const char *name, char **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *candidate;
    if (*out != NULL || dir == NULL || name[0] == '/') { return HD_OK; }
    HD_TRY(hd_path_join(dir, name, &candidate, err));
    st = keep_if_there(candidate, out, err);
out:
    return st;
}

/* What follows the last "configs/" of a path, which is how the documented commands name their files; else path. */
static const char *below_configs(const char *path)
{
    const char *rest = path;
    for (const char *p = strstr(path, "configs/"); p != NULL; p = strstr(p + 1, "configs/")) {
        if (p == path || p[-1] == '/') { rest = p + strlen("configs/"); }
    }
    return rest;
}

hd_status hd_config_find_file(const char *path, const char *configs_dir, char **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *copy;
    *out = NULL;
    HD_TRY(hd_config_check_path(path, err));
    HD_TRY(hd_strdup(path, &copy, err));
    HD_TRY(keep_if_there(copy, out, err));
    HD_TRY(try_in(configs_dir, path, out, err));
    HD_TRY(try_in(configs_dir, below_configs(path), out, err));
    HD_TRY(try_in(configs_dir, hd_path_base(below_configs(path)), out, err));
out:
    return st;
}

/* The folders that may hold models, in the order of search. */
typedef struct model_dirs {
    char *dir[3];
    int n;
} model_dirs;

static hd_status add_models_of(const char *dir, model_dirs *dirs, hd_err *err)
{
    hd_status st = strcmp(dir, ".") == 0 ? hd_strdup("models", &dirs->dir[dirs->n], err)
                                         : hd_path_join(dir, "models", &dirs->dir[dirs->n], err);
    if (st == HD_OK) { dirs->n++; }
    return st;
}

static hd_status list_model_dirs(const char *config_path, const char *configs_dir, model_dirs *dirs, hd_err *err)
{
    hd_status st = HD_OK;
    char *dir = NULL, *parent = NULL;
    if (config_path != NULL) {
        HD_TRY(hd_path_dir(config_path, &dir, err));
        HD_TRY(add_models_of(dir, dirs, err));
        HD_TRY(strcmp(dir, ".") == 0 ? hd_strdup("..", &parent, err) : hd_path_dir(dir, &parent, err));
        HD_TRY(add_models_of(parent, dirs, err));
    }
    HD_TRY(add_models_of(configs_dir != NULL ? configs_dir : "configs", dirs, err));
out:
    hd_free(dir);
    hd_free(parent);
    return st;
}

/* Names of the models in a folder, ", "-separated; a missing folder has none. */
static hd_status append_models(const char *dir, hd_buf *out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_io_names names = {0};
    hd_io_info info;
    HD_TRY(hd_io_stat(dir, &info, err));
    if (info.kind != HD_IO_DIRECTORY) { goto out; }
    HD_TRY(hd_io_list(dir, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        size_t n = strlen(names.name[i]);
        if (n < 5 || strcmp(names.name[i] + n - 4, ".yml") != 0) { continue; }
        hd_buf_printf(out, "%s%.*s", out->n > 0 ? ", " : "", (int)n - 4, names.name[i]);
    }
out:
    hd_io_names_free(&names);
    return st;
}

static hd_status no_model(const char *name, const model_dirs *dirs, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf models = {0};
    for (int i = 0; i < dirs->n && models.n == 0; i++) { HD_TRY(append_models(dirs->dir[i], &models, err)); }
    if (models.n == 0) { hd_buf_append_text(&models, "none was found"); }
    st = HD_FAIL(err, HD_E_CONFIG, "model_name=%.100s: there is no models/%.100s.yml in %.200s; the models are: %.500s", name, name,
                 dirs->dir[dirs->n - 1], hd_buf_text(&models));
out:
    hd_buf_free(&models);
    return st;
}

hd_status hd_config_find_model(const char *name, const char *config_path, const char *configs_dir, char **out, hd_err *err)
{
    hd_status st = HD_OK;
    model_dirs dirs = {0};
    char file[NAME_LEN + 8];
    *out = NULL;
    if (strlen(name) >= NAME_LEN || !hd_path_is_plain_name(name, strlen(name))) {
        return HD_FAIL(err, HD_E_CONFIG, "model_name=%.100s: want the name of a model, not a path", name);
    }
    memcpy(file, name, strlen(name));
    memcpy(file + strlen(name), ".yml", 5);
    HD_TRY(list_model_dirs(config_path, configs_dir, &dirs, err));
    for (int i = 0; i < dirs.n; i++) { HD_TRY(try_in(dirs.dir[i], file, out, err)); }
    if (*out == NULL) { st = no_model(name, &dirs, err); }
out:
    for (int i = 0; i < dirs.n; i++) { hd_free(dirs.dir[i]); }
    return st;
}
