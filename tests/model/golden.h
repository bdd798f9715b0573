/* Golden files of tests/golden: safetensors with metadata, read whole. */
#ifndef HD_TESTS_MODEL_GOLDEN_H
#define HD_TESTS_MODEL_GOLDEN_H

#include "base/json.h"
#include "checkpoint/hf_config.h"
#include "model/fixture.h"

enum { GOLDEN_MAX = 400, RULES_MAX = 16 };

typedef struct golden_tensor { char name[HD_NAME_MAX]; int64_t n; const void *data; } golden_tensor;
typedef struct golden_rule { char pattern[64]; double mean, std; } golden_rule;

typedef struct golden {
    char *bytes;
    golden_tensor tensors[GOLDEN_MAX];
    int n_tensor;
    golden_rule rules[RULES_MAX];
    int n_rule;
    uint64_t seed;
    double mtp_factor;
    hd_dims dims;
} golden;

static inline void copy_text(hd_json_str s, char *out, size_t size)
{
    assert_true(s.n < size);
    memcpy(out, s.text, s.n);
    out[s.n] = '\0';
}

static inline bool next_element(hd_json *json)
{
    bool more = false;
    OK(hd_json_array_next(json, &more, err));
    return more;
}

static inline void read_rules(golden *g, const char *text)
{
    hd_json json;
    hd_json_open(&json, text, strlen(text), "init_rules", HD_JSON_STRICT);
    OK(hd_json_array_begin(&json, err));
    while (next_element(&json)) {
        golden_rule *rule = &g->rules[g->n_rule++];
        hd_json_str pattern;
        OK(hd_json_array_begin(&json, err));
        (void)next_element(&json);
        OK(hd_json_string(&json, &pattern, err));
        copy_text(pattern, rule->pattern, sizeof rule->pattern);
        (void)next_element(&json);
        OK(hd_json_f64(&json, &rule->mean, err));
        (void)next_element(&json);
        OK(hd_json_f64(&json, &rule->std, err));
        assert_false(next_element(&json));
    }
    hd_json_close(&json);
}

static inline void read_metadata(golden *g, hd_json *json)
{
    bool more;
    hd_json_str key, value;
    char text[8192];
    OK(hd_json_object_begin(json, err));
    for (;;) {
        OK(hd_json_object_next(json, &more, &key, err));
        if (!more) { return; }
        char name[64];
        copy_text(key, name, sizeof name);
        OK(hd_json_string(json, &value, err));
        if (value.n >= sizeof text) { continue; }
        copy_text(value, text, sizeof text);
        if (strcmp(name, "config") == 0) { OK(hd_hf_config_parse(text, strlen(text), "config", &g->dims, err)); }
        if (strcmp(name, "init_rules") == 0) { read_rules(g, text); }
        if (strcmp(name, "seed") == 0) { g->seed = (uint64_t)strtoull(text, NULL, 10); }
        if (strcmp(name, "mtp_loss_scaling_factor") == 0) { g->mtp_factor = strtod(text, NULL); }
    }
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]} */
static inline void read_entry(hd_json *json, golden_tensor *t, const char *data)
{
    bool more;
    hd_json_str key;
    t->n = 1;
    OK(hd_json_object_begin(json, err));
    for (;;) {
        OK(hd_json_object_next(json, &more, &key, err));
        if (!more) { break; }
        bool shape = hd_json_str_is(key, "shape"), offsets = hd_json_str_is(key, "data_offsets");
        if (!shape && !offsets) { continue; }
        OK(hd_json_array_begin(json, err));
        int64_t value, index = 0;
        for (; next_element(json); index++) {
            OK(hd_json_i64(json, &value, err));
            if (shape) { t->n *= value; }
            if (offsets && index == 0) { t->data = data + value; }
        }
    }
}

static inline golden *golden_open(const char *model)
{
    char path[128];
    golden *g = calloc(1, sizeof *g);
    (void)snprintf(path, sizeof path, "tests/golden/hf_%s.safetensors", model);
    FILE *file = fopen(path, "rb");
    if (file == NULL) { fail_msg("%s: not found; run from the root of the repository", path); }
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file), header = 0;
    rewind(file);
    g->bytes = malloc(size);
    assert_int_equal(fread(g->bytes, 1, size, file), size);
    fclose(file);
    memcpy(&header, g->bytes, 8);
    hd_json json;
    hd_json_str key;
    bool more;
    hd_json_open(&json, g->bytes + 8, header, path, HD_JSON_STRICT);
    OK(hd_json_object_begin(&json, err));
    for (;;) {
        OK(hd_json_object_next(&json, &more, &key, err));
        if (!more) { break; }
        if (hd_json_str_is(key, "__metadata__")) {
            read_metadata(g, &json);
        } else {
            assert_true(g->n_tensor < GOLDEN_MAX);
            golden_tensor *t = &g->tensors[g->n_tensor++];
            copy_text(key, t->name, sizeof t->name);
            read_entry(&json, t, g->bytes + 8 + header);
        }
    }
    hd_json_close(&json);
    return g;
}

static inline void golden_close(golden *g)
{
    free(g->bytes);
    free(g);
}

static inline const golden_tensor *golden_find(const golden *g, const char *name)
{
    for (int i = 0; i < g->n_tensor; i++) {
        if (strcmp(g->tensors[i].name, name) == 0) { return &g->tensors[i]; }
    }
    return NULL;
}

static inline const void *golden_data(const golden *g, const char *name)
{
    const golden_tensor *t = golden_find(g, name);
    if (t == NULL) { fail_msg("no tensor %s", name); }
    return t->data;
}

static inline double golden_number(const golden *g, const char *name) { return *(const double *)golden_data(g, name); }

/* The 500-token row. */
static inline rows golden_rows(const golden *g)
{
    rows x = rows_new(1, golden_find(g, "tokens")->n);
    size_t bytes = (size_t)x.r.seq_len * 4;
    memcpy(x.inputs, golden_data(g, "tokens"), bytes);
    memcpy(x.targets, golden_data(g, "targets"), bytes);
    memcpy(x.positions, golden_data(g, "positions"), bytes);
    memcpy(x.segments, golden_data(g, "segments"), bytes);
    memcpy(x.weights, golden_data(g, "loss_weights"), bytes);
    return x;
}

/* Elements of one HuggingFace tensor of a parameter: offset into it and length. */
static inline int64_t hf_tensor_length(const rig *g, const hd_param *param)
{
    int64_t n = hd_tensor_count(&param->weight.value);
    return hd_tensor_per_expert(param->spec) ? n / g->model.dims.n_expert : n;
}

static inline void golden_fill(const golden *gold, rig *g)
{
    for (int64_t i = 0; i < g->model.n_param; i++) {
        hd_param *param = &g->model.params[i];
        int64_t n = hd_tensor_count(&param->weight.value), each = hf_tensor_length(g, param);
        bool experts = hd_tensor_per_expert(param->spec);
        float *values = malloc((size_t)n * sizeof *values);
        for (int64_t at = 0; at < n; at += each) {
            char name[HD_NAME_MAX];
            hd_tensor_hf_name(param->spec, param->layer, experts ? at / each : -1, name);
            int r = 0;
            while (strstr(name, gold->rules[r].pattern) == NULL) { r++; }
            hd_rng rng = hd_rng_make(gold->seed, HD_RNG_TEST, name);
            for (int64_t j = 0; j < each; j++) {
                values[at + j] = (float)gold->rules[r].mean + (float)gold->rules[r].std * hd_rng_normal(rng, (uint64_t)j);
            }
        }
        OK(hd_exec_upload(&g->ex, values, &param->weight.value, err));
        free(values);
    }
}

#endif
