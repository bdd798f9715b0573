/* The configuration and its key table as text: --print-config, help, configs/base.yml.  See hadal/config.h. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "config/config_internal.h"

enum { LINE_WIDTH = 110 };

/* A writer of lines that remembers the first failure. */
typedef struct printer {
    hd_config_line line;
    void *context;
    hd_buf text;
} printer;

static void end_line(printer *p)
{
    if (p->text.failed == HD_OK) { p->line(p->context, hd_buf_text(&p->text)); }
    if (p->text.failed == HD_OK) { hd_buf_clear(&p->text); }
}

static void put_line(printer *p, const char *text)
{
    hd_buf_append_text(&p->text, text);
    end_line(p);
}

/* Words of text, wrapped at LINE_WIDTH, each line after a prefix. */
static void put_wrapped(printer *p, const char *prefix, const char *text)
{
    size_t width = 0;
    while (*text != '\0') {
        size_t n = strcspn(text, " ");
        if (width > 0 && width + 1 + n > LINE_WIDTH) {
            end_line(p);
            width = 0;
        }
        if (width == 0) {
            hd_buf_append_text(&p->text, prefix);
            width = strlen(prefix);
        } else {
            hd_buf_append_char(&p->text, ' ');
            width++;
        }
        hd_buf_append(&p->text, text, n);
        width += n;
        text += n + (text[n] == ' ');
    }
    if (width > 0) { end_line(p); }
}

static hd_status finish(printer *p, hd_err *err)
{
    hd_status st = hd_buf_check(&p->text, err);
    hd_buf_free(&p->text);
    return st;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

static void write_config_value(const hd_config *config, hd_config_key key, hd_buf *out)
{
    const hd_key_row *row = hd_key_row_of(key);
    if ((row->flags & HD_FLAG_SECRET) != 0) {
        hd_buf_append_text(out, config->merged.value[key].is_null ? "(not set)" : "(set)");
    } else {
        hd_value_write(row, &config->merged.value[key], out);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(hd_config_key_name(*(const hd_config_key *)a), hd_config_key_name(*(const hd_config_key *)b));
}

static void print_maxtext(const hd_config *config, printer *p)
{
    hd_config_key order[HD_KEY_COUNT];
    for (int key = 0; key < HD_KEY_COUNT; key++) { order[key] = (hd_config_key)key; }
    qsort(order, HD_KEY_COUNT, sizeof order[0], by_name);
    for (int i = 0; i < HD_KEY_COUNT; i++) {
        const hd_key_row *row = hd_key_row_of(order[i]);
        if ((row->flags & (HD_FLAG_SECRET | HD_FLAG_FOREIGN)) != 0) { continue; }
        hd_buf_printf(&p->text, "Config param %s: ", row->name);
        write_config_value(config, order[i], &p->text);
        end_line(p);
    }
}

hd_status hd_config_print(const hd_config *config, hd_config_style style, hd_config_line line, void *context, hd_err *err)
{
    printer p = {.line = line, .context = context};
    if (style == HD_CONFIG_MAXTEXT) { print_maxtext(config, &p); }
    for (int k = 0; style != HD_CONFIG_MAXTEXT && k < HD_KEY_COUNT; k++) {
        hd_config_key key = (hd_config_key)k;
        hd_origin_kind kind = config->merged.origin[k].kind;
        bool shown = style == HD_CONFIG_ORIGINS && (hd_key_row_of(key)->flags & HD_FLAG_FOREIGN) == 0;
        bool given = kind != HD_ORIGIN_DEFAULT && kind != HD_ORIGIN_FILE;
        if (!shown && !given && hd_config_at_default(config, key)) { continue; }
        hd_buf_printf(&p.text, "%s: ", hd_config_key_name(key));
        write_config_value(config, key, &p.text);
        hd_buf_append_text(&p.text, "  # ");
        hd_origin_write(config, key, &p.text);
        end_line(&p);
    }
    return finish(&p, err);
}

static hd_status take_text(hd_buf *text, char **out, hd_err *err)
{
    hd_status st = hd_buf_check(text, err);
    *out = NULL;
    if (st == HD_OK) { st = hd_strdup(hd_buf_text(text), out, err); }
    hd_buf_free(text);
    return st;
}

static hd_status find_key(const char *name, hd_config_key *key, hd_err *err)
{
    *key = hd_key_find(name);
    return *key == HD_KEY_COUNT ? hd_key_unknown(name, err) : HD_OK;
}

hd_status hd_config_value_text(const hd_config *config, const char *key_name, char **out, hd_err *err)
{
    hd_config_key key;
    hd_buf text = {0};
    *out = NULL;
    hd_status st = find_key(key_name, &key, err);
    if (st != HD_OK) { return st; }
    if ((hd_key_row_of(key)->flags & HD_FLAG_SECRET) != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "%s is a secret and is never shown", key_name);
    }
    hd_value_write(hd_key_row_of(key), &config->merged.value[key], &text);
    return take_text(&text, out, err);
}

hd_status hd_config_origin_text(const hd_config *config, const char *key_name, char **out, hd_err *err)
{
    hd_config_key key;
    hd_buf text = {0};
    *out = NULL;
    hd_status st = find_key(key_name, &key, err);
    if (st != HD_OK) { return st; }
    hd_origin_write(config, key, &text);
    return take_text(&text, out, err);
}

void hd_config_text_free(char *text) { hd_free(text); }

/* ---- the table -------------------------------------------------------------------------------------------------- */

bool hd_config_key_at(size_t i, hd_config_key_info *info)
{
    if (i >= HD_KEY_COUNT) { return false; }
    const hd_key_row *row = hd_key_row_of((hd_config_key)i);
    *info = (hd_config_key_info){
        .name = row->name,
        .group = hd_key_group_title(row->group),
        .type = hd_key_type_title(row->type),
        .default_value = row->default_text,
        .check = row->check,
        .help = row->help,
        .reason = row->reason,
        .own = row->group == HD_GROUP_OWN,
        .refused = row->status == HD_KEY_REFUSED,
        .idle = row->status == HD_KEY_IDLE,
        .derived = row->status == HD_KEY_DERIVED,
        .secret = (row->flags & HD_FLAG_SECRET) != 0,
        .path = (row->flags & HD_FLAG_PATH) != 0,
    };
    return true;
}

/* The default as YAML would write it. */
static void write_default(const hd_key_row *row, hd_buf *out)
{
    hd_value value;
    hd_status st = hd_value_default(row, &value, NULL);
    if (st != HD_OK) {
        out->failed = st;
        return;
    }
    hd_value_write(row, &value, out);
    hd_value_free(&value);
}

/* "help; one of a, b": what a line of help says. */
static void write_help(const hd_key_row *row, hd_buf *out)
{
    hd_buf check = {0};
    hd_buf_append_text(out, row->help);
    hd_check_describe(row, &check);
    if (check.n > 0) { hd_buf_printf(out, " (%s)", hd_buf_text(&check)); }
    if (check.failed != HD_OK) { out->failed = check.failed; }
    hd_buf_free(&check);
}

hd_status hd_config_key_help(const char *key_name, hd_config_line line, void *context, hd_err *err)
{
    printer p = {.line = line, .context = context};
    hd_config_key key;
    hd_status st = find_key(key_name, &key, err);
    if (st != HD_OK) { return st; }
    const hd_key_row *row = hd_key_row_of(key);
    hd_buf_printf(&p.text, "%s (%s", row->name, hd_key_type_title(row->type));
    if (row->default_text != NULL) {
        hd_buf_append_text(&p.text, ", default ");
        write_default(row, &p.text);
    }
    hd_buf_append_char(&p.text, ')');
    end_line(&p);
    hd_buf help = {0};
    write_help(row, &help);
    put_wrapped(&p, "  ", hd_buf_text(&help));
    hd_buf_free(&help);
    if (row->reason != NULL) { put_wrapped(&p, "  not implemented: ", row->reason); }
    if (row->status == HD_KEY_IDLE) { put_line(&p, "  accepted without effect"); }
    if (row->status == HD_KEY_DERIVED) { put_line(&p, "  computed; cannot be set"); }
    if (row->group == HD_GROUP_OWN) { put_line(&p, "  hadal's own key, not in MaxText"); }
    return finish(&p, err);
}

hd_status hd_config_help(const char *command, hd_config_line line, void *context, hd_err *err)
{
    printer p = {.line = line, .context = context};
    unsigned bit = hd_key_command(command);
    int group = -1;
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        bool shown = row->status == HD_KEY_USED && (row->commands & bit) != 0 && k != HD_KEY_base_config;
        if (!shown) { continue; }
        if ((int)row->group != group) {
            if (group >= 0) { put_line(&p, ""); }
            put_line(&p, hd_key_group_title(row->group));
            group = (int)row->group;
        }
        hd_buf_printf(&p.text, "  %s=", row->name);
        write_default(row, &p.text);
        end_line(&p);
        hd_buf help = {0};
        write_help(row, &help);
        put_wrapped(&p, "      ", hd_buf_text(&help));
        hd_buf_free(&help);
    }
    return finish(&p, err);
}

/* ---- configs/base.yml ------------------------------------------------------------------------------------------- */

static void write_base_row(printer *p, const hd_key_row *row)
{
    hd_buf help = {0};
    write_help(row, &help);
    if (row->reason != NULL) { hd_buf_printf(&help, ": %s", row->reason); }
    put_wrapped(p, "# ", hd_buf_text(&help));
    if (help.failed != HD_OK) { p->text.failed = help.failed; }
    hd_buf_free(&help);
    hd_buf_printf(&p->text, "%s: ", row->name);
    write_default(row, &p->text);
    end_line(p);
}

hd_status hd_config_write_base_yml(hd_config_line line, void *context, hd_err *err)
{
    static const char *const head[] = {
        "# Every key of hadal with its default.  Written from the key table (src/config/keys.def): change that, then run",
        "#   hadal help base.yml > configs/base.yml",
        "# Copy what you change into a file of your own that begins with `base_config: base.yml`, or give key=value on the",
        "# command line.  docs/configuration.md has the rules; `hadal help KEY` explains one key.",
    };
    printer p = {.line = line, .context = context};
    int group = -1;
    for (size_t i = 0; i < sizeof head / sizeof head[0]; i++) { put_line(&p, head[i]); }
    for (int k = 0; k < HD_KEY_COUNT; k++) {
        const hd_key_row *row = hd_key_row_of((hd_config_key)k);
        if (row->status == HD_KEY_DERIVED || k == HD_KEY_base_config || (row->flags & HD_FLAG_FOREIGN) != 0) { continue; }
        if ((int)row->group != group) {
            put_line(&p, "");
            hd_buf_printf(&p.text, "# ======== %s ========", hd_key_group_title(row->group));
            end_line(&p);
            group = (int)row->group;
        }
        write_base_row(&p, row);
    }
    return finish(&p, err);
}
