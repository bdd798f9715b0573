/* `hadal inspect FOLDER [PATTERN]`: what a folder holds, without reading a value. */
#include <inttypes.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/folder.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/listing.h"
#include "checkpoint/load.h"
#include "checkpoint/scan.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "model/tensors.h"

/* ---- inspect: lines of tensors ------------------------------------------------------------------------------------------- */

enum { MAX_DIGITS = 9 };

/* Tensors that differ in layer and expert only: one line. */
typedef struct group {
    char pattern[HD_HF_NAME_MAX];
    const hd_source_tensor *example;
    int64_t layer[2], expert[2]; /* first and last; -1 when the name has none */
    int64_t n;
} group;

/* The expert number in "model.layers.3.mlp.experts.17.up_proj.weight": where its digits are. */
static const char *expert_digits(const char *name, size_t *n)
{
    static const char mark[] = ".mlp.experts.";
    const char *at = strstr(name, mark);
    *n = at != NULL ? strspn(at + sizeof mark - 1, "0123456789") : 0;
    return *n > 0 && *n <= MAX_DIGITS ? at + sizeof mark - 1 : NULL;
}

static void make_pattern(const char *name, group *g)
{
    size_t n;
    const char *rest = name, *expert = expert_digits(name, &n);
    int64_t layer = hd_hf_layer_of(name, &rest);
    g->layer[0] = g->layer[1] = layer;
    g->expert[0] = g->expert[1] = expert != NULL ? strtoll(expert, NULL, 10) : -1;
    if (expert != NULL) {
        (void)snprintf(g->pattern, sizeof g->pattern, "%.*s*%s", (int)(expert - rest), rest, expert + n);
    } else {
        (void)snprintf(g->pattern, sizeof g->pattern, "%s", rest);
    }
}

static bool same_form(const hd_source_tensor *a, const hd_source_tensor *b)
{
    return a->dtype == b->dtype && a->n_dim == b->n_dim && memcmp(a->shape, b->shape, (size_t)a->n_dim * sizeof a->shape[0]) == 0;
}

static void widen(int64_t range[2], int64_t value)
{
    if (value < range[0]) { range[0] = value; }
    if (value > range[1]) { range[1] = value; }
}

/* Groups of a model are few (some forty names, dense and MoE): the last of a list are looked at, so that a folder of a hundred thousand
 * names without a system takes no quadratic time. */
enum { GROUPS_LOOKED_AT = 256 };
typedef struct group_list {
    group *rows;
    int64_t n, capacity;
} group_list;

static hd_status group_add(group_list *l, const char *name, const hd_source_tensor *t, hd_err *err)
{
    group g = {.example = t, .n = 1};
    make_pattern(name, &g);
    for (int64_t i = l->n - 1; i >= 0 && i >= l->n - GROUPS_LOOKED_AT; i--) {
        group *old = &l->rows[i];
        if (strcmp(old->pattern, g.pattern) != 0 || (old->layer[0] < 0) != (g.layer[0] < 0) || !same_form(old->example, t)) { continue; }
        widen(old->layer, g.layer[0]);
        widen(old->expert, g.expert[0]);
        old->n++;
        return HD_OK;
    }
    void *rows = l->rows;
    if (l->n == l->capacity) {
        int64_t wider = l->capacity == 0 ? 64 : 2 * l->capacity;
        hd_status st = hd_realloc(&rows, (size_t)l->capacity, (size_t)wider, sizeof *l->rows, "lines of inspect", err);
        if (st != HD_OK) { return st; }
        l->rows = rows;
        l->capacity = wider;
    }
    l->rows[l->n++] = g;
    return HD_OK;
}

static void print_range(char *text, size_t size, const int64_t range[2])
{
    if (range[0] == range[1]) {
        (void)snprintf(text, size, "%" PRId64, range[0]);
    } else {
        (void)snprintf(text, size, "[%" PRId64 "-%" PRId64 "]", range[0], range[1]);
    }
}

static void print_group(const group *g)
{
    char name[2 * HD_HF_NAME_MAX], form[HD_ST_TEXT], layer[48] = "", expert[48] = "";
    const char *star = g->expert[0] >= 0 ? strchr(g->pattern, '*') : NULL;
    if (g->layer[0] >= 0) { print_range(layer, sizeof layer, g->layer); }
    if (star != NULL) { print_range(expert, sizeof expert, g->expert); }
    int head = star != NULL ? (int)(star - g->pattern) : (int)strlen(g->pattern);
    (void)snprintf(name, sizeof name, "%s%s%s%.*s%s%s", g->layer[0] >= 0 ? "model.layers." : "", layer, g->layer[0] >= 0 ? "." : "", head,
                   g->pattern, expert, star != NULL ? star + 1 : "");
    hd_st_describe(g->example->dtype, g->example->n_dim, g->example->shape, form);
    double bytes = (double)g->n * (double)hd_source_bytes(g->example);
    hd_log(HD_LOG_RESULT, "%-72s %-24s x %-7" PRId64 " %10.3f MB%s", name, form, g->n, bytes / 1e6,
           g->example->scale_place >= 0 ? "  with block scales" : "");
}

/* ---- inspect: the whole ---------------------------------------------------------------------------------------------------- */

typedef struct inspection {
    const char *pattern; /* an extended regular expression; NULL: groups instead of single tensors */
} inspection;

static hd_status print_matches(const hd_listing *list, const hd_folder *f, const char *pattern, hd_err *err)
{
    regex_t re;
    char form[HD_ST_TEXT];
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "%s: not an extended regular expression", pattern);
    }
    int64_t n = 0;
    for (int64_t i = 0; i < list->n; i++) {
        const hd_source_tensor *t = &list->rows[i].source;
        if (regexec(&re, list->rows[i].name, 0, NULL, 0) != 0) { continue; }
        hd_log(HD_LOG_RESULT, "%-72s %-24s %14" PRId64 " bytes  %s", list->rows[i].name, hd_st_describe(t->dtype, t->n_dim, t->shape, form),
               hd_source_bytes(t), f->files[f->places[t->place].file].name);
        n++;
    }
    regfree(&re);
    hd_log(HD_LOG_RESULT, "%" PRId64 " of %" PRId64 " tensors match", n, list->n);
    return HD_OK;
}

static hd_status print_groups(const hd_listing *list, hd_err *err)
{
    hd_status st = HD_OK;
    group_list groups = {0};
    for (int64_t i = 0; i < list->n; i++) { HD_TRY(group_add(&groups, list->rows[i].name, &list->rows[i].source, err)); }
    for (int64_t i = 0; i < groups.n; i++) { print_group(&groups.rows[i]); }
out:
    hd_free(groups.rows);
    return st;
}

static void print_totals(const hd_listing *list, const hd_folder *f)
{
    double bytes[HD_DTYPE_COUNT] = {0}, total = 0;
    int64_t elements = 0;
    char text[256];
    size_t at = 0;
    for (int64_t i = 0; i < f->n_place; i++) {
        hd_st_info info = hd_folder_info(f, i);
        bytes[info.dtype] += (double)info.bytes;
        total += (double)info.bytes;
    }
    for (int64_t i = 0; i < list->n; i++) { elements += list->rows[i].source.rows * list->rows[i].source.columns; }
    for (int d = 0; d < HD_DTYPE_COUNT && at < sizeof text - 32; d++) {
        if (bytes[d] > 0) {
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %.3f GB", at > 0 ? ", " : "", hd_dtype_name((hd_dtype)d), bytes[d] / 1e9);
        }
    }
    hd_log(HD_LOG_RESULT, "%" PRId64 " tensors in %" PRId64 " files, %.3f GB: %s", f->n_place, f->n_file, total / 1e9, at > 0 ? text : "none");
    hd_log(HD_LOG_RESULT, "%" PRId64 " values as stored", elements);
}

static void print_counts(const hd_dims *dims)
{
    int64_t all = hd_dims_count_params(dims), active = hd_dims_count_active_params(dims);
    hd_log(HD_LOG_RESULT, "DeepSeek-%s: %" PRId64 " parameters (%.3fB), %" PRId64 " active per token (%.3fB, with head, without embedding)%s",
           dims->family == HD_FAMILY_V2 ? "V2" : "V3", all, (double)all / 1e9, active, (double)active / 1e9,
           dims->n_mtp > 0 ? ", MTP not counted" : "");
}

/* Counts of a model that hadal knows, and whether the tensors are all of it. */
static hd_status print_model(hd_folder *f, hd_err *err)
{
    hd_dims dims;
    hd_err why = {0};
    hd_status st = hd_folder_dims(f, &dims, &why);
    if (st == HD_E_NOMEM) { return HD_FAIL(err, HD_E_NOMEM, "%s", why.msg); }
    if (st != HD_OK) {
        hd_log(HD_LOG_WARN, "%s", why.msg);
        return HD_OK;
    }
    st = hd_load_check(f, &dims, &why);
    if (st == HD_E_NOMEM) { return HD_FAIL(err, HD_E_NOMEM, "%s", why.msg); }
    if (st != HD_OK) { /* nor is it counted: the numbers may be any */
        hd_log(HD_LOG_WARN, "not a whole model: %s", why.msg);
        return HD_OK;
    }
    print_counts(&dims);
    hd_log(HD_LOG_RESULT, "every tensor of the model is there, of the shape that config.json asks for");
    return HD_OK;
}

static hd_status inspect_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    const inspection *in = arg;
    hd_folder f = {0};
    hd_listing list = {0};
    HD_TRY(hd_folder_open(path, step, &f, err));
    HD_TRY(hd_listing_make(&f, INT64_MAX, false, &list, err));
    hd_log(HD_LOG_RESULT, "%s", path);
    if (f.is_checkpoint) {
        hd_log(HD_LOG_RESULT, "checkpoint of step %" PRId64 ", written by hadal %s at %s", f.manifest.step, f.manifest.version, f.manifest.created);
    }
    HD_TRY(in->pattern != NULL ? print_matches(&list, &f, in->pattern, err) : print_groups(&list, err));
    if (in->pattern == NULL) {
        print_totals(&list, &f);
        HD_TRY(print_model(&f, err));
    }
out:
    hd_listing_free(&list);
    hd_folder_close(&f);
    return st;
}

hd_status hd_cmd_inspect(const char *path, const char *pattern, hd_err *err)
{
    inspection in = {.pattern = pattern};
    return hd_scan_path(path, inspect_from, &in, err);
}

/* ---- a model that is not there ----------------------------------------------------------------------------------------------- */

/* The lines that a folder of this model would have. */
static hd_status print_table(const hd_model *model, hd_err *err)
{
    hd_status st;
    hd_hf_ref *refs = NULL;
    int64_t n = 0;
    void *memory = NULL;
    char name[HD_HF_NAME_MAX];
    group_list groups = {0};
    HD_TRY(hd_hf_list(model, HD_HF_MODEL, &refs, &n, err));
    HD_TRY(hd_alloc((size_t)n, sizeof(hd_source_tensor), "tensors of a model", &memory, err));
    hd_source_tensor *tensors = memory;
    for (int64_t i = 0; i < n; i++) {
        hd_tensor view = hd_hf_view(model, &refs[i]);
        tensors[i] = (hd_source_tensor){.place = -1, .scale_place = -1, .dtype = view.dtype, .n_dim = view.n_dim, .rows = 1,
                                        .columns = hd_tensor_count(&view)};
        memcpy(tensors[i].shape, view.shape, (size_t)view.n_dim * sizeof view.shape[0]);
        HD_TRY(hd_hf_name(model, &refs[i], name, err));
        HD_TRY(group_add(&groups, name, &tensors[i], err));
    }
    for (int64_t i = 0; i < groups.n; i++) { print_group(&groups.rows[i]); }
out:
    hd_free(groups.rows);
    hd_free(memory);
    hd_free(refs);
    return st;
}

hd_status hd_cmd_inspect_model(const hd_config *config, hd_err *err)
{
    hd_status st;
    hd_dims dims;
    hd_model_options options;
    hd_arena memory, scratch;
    hd_exec ex;
    hd_model model = {0};
    hd_arena_open_dry(&memory, "model");
    hd_arena_open_dry(&scratch, "scratch");
    HD_TRY(hd_dims_from_config(config, &dims, err));
    HD_TRY(hd_model_options_from_config(config, false, &options, err));
    HD_TRY(hd_exec_init(&ex, &scratch, 1, true, err));
    HD_TRY(hd_model_open(&dims, &options, &ex, &memory, &model, err));
    hd_log(HD_LOG_RESULT, "%s", hd_config_str(config, HD_KEY_model_name));
    HD_TRY(print_table(&model, err));
    print_counts(&dims);
out:
    hd_model_close(&model);
    hd_arena_close(&scratch);
    hd_arena_close(&memory);
    return st;
}
