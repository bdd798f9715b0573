/* The rows of keys.def and refused_values.def, and questions about names.  See key_table.h. */
#include "config/key_table.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

/* The words keys.def uses for sets of commands and for flags. */
enum {
    FOR_ALL = HD_FOR_ALL,
    FOR_RUNS_MODEL = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_PLAN | HD_FOR_DECODE | HD_FOR_CHECK | HD_FOR_EVAL | HD_FOR_BENCH,
    FOR_TRAINS = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_PLAN,
    FOR_SFT_ONLY = HD_FOR_SFT,
    FOR_READS_DATA = HD_FOR_TRAIN | HD_FOR_SFT,
    FOR_USES_TEXT = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_DECODE | HD_FOR_CHECK | HD_FOR_EVAL | HD_FOR_TOKENIZE,
    FOR_USES_CHAT = HD_FOR_SFT | HD_FOR_DECODE | HD_FOR_EVAL | HD_FOR_TOKENIZE,
    FOR_LOADS = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_DECODE | HD_FOR_CHECK | HD_FOR_EVAL,
    FOR_DECODES = HD_FOR_DECODE | HD_FOR_EVAL,
    FOR_PROMPTS = HD_FOR_DECODE | HD_FOR_EVAL | HD_FOR_CHECK,
    FOR_CONVERTS = HD_FOR_CONVERT,
    FOR_QUANTIZES = HD_FOR_DECODE | HD_FOR_CHECK | HD_FOR_EVAL | HD_FOR_CONVERT,
    FOR_TOKENIZES = HD_FOR_TOKENIZE,
    FOR_CUTS_INPUT = HD_FOR_TOKENIZE | HD_FOR_DECODE | HD_FOR_CHECK,
    FOR_NAMES_TOKENIZER = FOR_USES_TEXT | HD_FOR_TOKENIZER,
    FOR_HAS_VOCAB = FOR_RUNS_MODEL | HD_FOR_TOKENIZER,
    FOR_READS_LINES = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_TOKENIZE | HD_FOR_TOKENIZER | HD_FOR_DECODE,
    FOR_CUTS_TEXT = FOR_READS_DATA | HD_FOR_TOKENIZER,
    FOR_CHECKS = HD_FOR_CHECK,
    FOR_VERIFIES = HD_FOR_VERIFY,
    FOR_MEASURES = HD_FOR_TRAIN | HD_FOR_SFT | HD_FOR_PLAN | HD_FOR_CHECK
};
enum {
    NULLABLE = HD_FLAG_NULLABLE,
    PATH = HD_FLAG_PATH,
    SECRET = HD_FLAG_SECRET,
    BARE_LIST = HD_FLAG_BARE_LIST,
    FOREIGN = HD_FLAG_FOREIGN
};

static const hd_key_row rows[HD_KEY_COUNT] = {
#define USED(name, type, default_text, check, group, commands, flags, help) \
    {#name, HD_TYPE_##type, default_text, check, HD_GROUP_##group, FOR_##commands, flags, HD_KEY_USED, help, NULL},
#define REFUSED(name, type, default_text, check, flags, help, sentence) \
    {#name, HD_TYPE_##type, default_text, check, HD_GROUP_REFUSED, HD_FOR_ALL, flags, HD_KEY_REFUSED, help, sentence},
#define IDLE(name, type, default_text, check, flags, help) \
    {#name, HD_TYPE_##type, default_text, check, HD_GROUP_IDLE, HD_FOR_ALL, flags, HD_KEY_IDLE, help, NULL},
#define DERIVED(name, type, help) \
    {#name, HD_TYPE_##type, NULL, "", HD_GROUP_DERIVED, HD_FOR_ALL, 0, HD_KEY_DERIVED, help, NULL},
#include "config/keys.def"
#undef USED
#undef REFUSED
#undef IDLE
#undef DERIVED
};

static const struct {
    hd_config_key key;
    const char *value;
    unsigned commands;
    const char *sentence;
} refused_values[] = {
#define REFUSED_VALUE(key, value, commands, sentence) {HD_KEY_##key, value, commands, sentence},
#include "config/refused_values.def"
#undef REFUSED_VALUE
};

static const char *const group_titles[HD_GROUP_COUNT] = {
    [HD_GROUP_RUN] = "Run",
    [HD_GROUP_MODEL] = "Model shape",
    [HD_GROUP_ATTENTION] = "Attention",
    [HD_GROUP_ROPE] = "Rotary positions",
    [HD_GROUP_MOE] = "Mixture of experts",
    [HD_GROUP_MTP] = "Multi-token prediction",
    [HD_GROUP_NUMERICS] = "Numerics",
    [HD_GROUP_OPTIMIZER] = "Optimizer",
    [HD_GROUP_SCHEDULE] = "Learning rate",
    [HD_GROUP_LOOP] = "Training loop",
    [HD_GROUP_EVALUATION] = "Evaluation",
    [HD_GROUP_DATA] = "Data",
    [HD_GROUP_TOKENIZER] = "Tokenizer",
    [HD_GROUP_SFT] = "Supervised fine-tuning",
    [HD_GROUP_CHECKPOINT] = "Checkpoints",
    [HD_GROUP_MEMORY] = "Memory",
    [HD_GROUP_PARALLEL] = "Parallelism (degree of each mesh axis; -1: what is left)",
    [HD_GROUP_DECODE] = "Decode",
    [HD_GROUP_CHECK] = "Check",
    [HD_GROUP_METRICS] = "Metrics",
    [HD_GROUP_OWN] = "hadal's own keys (not in MaxText)",
    [HD_GROUP_REFUSED] = "Not implemented: any other value is refused",
    [HD_GROUP_IDLE] = "Accepted without effect: for TPU, XLA or cloud services only",
    [HD_GROUP_DERIVED] = "Derived: computed from other keys, not settable",
};

static const struct {
    const char *name;
    unsigned bit;
} commands[] = {
    {"train", HD_FOR_TRAIN},     {"sft", HD_FOR_SFT},         {"plan", HD_FOR_PLAN},
    {"decode", HD_FOR_DECODE},   {"check", HD_FOR_CHECK},     {"eval", HD_FOR_EVAL},
    {"convert", HD_FOR_CONVERT}, {"tokenize", HD_FOR_TOKENIZE}, {"bench", HD_FOR_BENCH},
    {"verify", HD_FOR_VERIFY},   {"tokenizer", HD_FOR_TOKENIZER},
};

const hd_key_row *hd_key_row_of(hd_config_key key)
{
    assert((unsigned)key < HD_KEY_COUNT);
    return &rows[key];
}

const char *hd_config_key_name(hd_config_key key) { return hd_key_row_of(key)->name; }

const char *hd_key_group_title(hd_key_group group) { return group_titles[group]; }

const char *hd_key_type_title(hd_key_type type)
{
    static const char *const titles[] = {"bool", "int", "float", "string", "choice", "list", "any"};
    return titles[type];
}

hd_config_key hd_key_find(const char *name)
{
    if (name[0] == '\0') { return HD_KEY_COUNT; }
    for (int key = 0; key < HD_KEY_COUNT; key++) {
        const char *own = rows[key].name; /* two letters first: most rows need no call */
        if (own[0] == name[0] && own[1] == name[1] && strcmp(own, name) == 0) { return (hd_config_key)key; }
    }
    return HD_KEY_COUNT;
}

enum { LONGEST_NAME = 64 };

static char fold(char c)
{
    if (c == '-') { return '_'; }
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Damerau-Levenshtein distance (adjacent transpositions, no substring edited twice) of two short names. */
static int distance(const char *a, size_t n, const char *b, size_t m)
{
    int row[3][LONGEST_NAME + 1];
    int *before = row[0], *above = row[1], *here = row[2];
    for (size_t j = 0; j <= m; j++) { above[j] = (int)j; }
    for (size_t i = 1; i <= n; i++) {
        here[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            char x = fold(a[i - 1]), y = fold(b[j - 1]);
            int best = above[j - 1] + (x != y);
            if (above[j] + 1 < best) { best = above[j] + 1; }
            if (here[j - 1] + 1 < best) { best = here[j - 1] + 1; }
            if (i > 1 && j > 1 && x == fold(b[j - 2]) && fold(a[i - 2]) == y && before[j - 2] + 1 < best) {
                best = before[j - 2] + 1;
            }
            here[j] = best;
        }
        int *spare = before;
        before = above;
        above = here;
        here = spare;
    }
    return above[m];
}

hd_config_key hd_key_nearest(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > LONGEST_NAME) { return HD_KEY_COUNT; }
    int limit = n < 6 ? 2 : n < 12 ? 3 : 4;
    hd_config_key best = HD_KEY_COUNT;
    for (int key = 0; key < HD_KEY_COUNT; key++) {
        size_t m = strlen(rows[key].name);
        bool hopeless = m > n + (size_t)limit || n > m + (size_t)limit;
        if (rows[key].status == HD_KEY_DERIVED || m > LONGEST_NAME || hopeless) { continue; }
        int d = distance(name, n, rows[key].name, m);
        if (d < limit) {
            limit = d;
            best = (hd_config_key)key;
        }
    }
    return best;
}

unsigned hd_key_command(const char *name)
{
    for (size_t i = 0; name != NULL && i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, name) == 0) { return commands[i].bit; }
    }
    return HD_FOR_ALL;
}

const char *hd_key_refused_value(hd_config_key key, const char *text, unsigned command)
{
    for (size_t i = 0; i < sizeof refused_values / sizeof refused_values[0]; i++) {
        if (refused_values[i].key == key && (refused_values[i].commands & command) != 0 &&
            strcmp(refused_values[i].value, text) == 0) {
            return refused_values[i].sentence;
        }
    }
    return NULL;
}

hd_status hd_key_unknown(const char *name, hd_err *err)
{
    const char *dot = strchr(name, '.');
    hd_config_key near = hd_key_nearest(name);
    if (near != HD_KEY_COUNT) {
        return HD_FAIL(err, HD_E_CONFIG, "unknown key '%.200s'; did you mean %s?", name, rows[near].name);
    }
    if (dot != NULL) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "'%.200s': a dot sets a member of a dictionary, and '%.*s' is not a key that holds one", name,
                       dot - name > 200 ? 200 : (int)(dot - name), name);
    }
    return HD_FAIL(err, HD_E_CONFIG, "unknown key '%.200s'; `hadal help base.yml` lists every key", name);
}
