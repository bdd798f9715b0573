/* From parameters to HuggingFace tensors and back: names, views, the copies of MTP modules.  See hf_map.h. */
#include "checkpoint/hf_map.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

static const char *const role_prefix[HD_HF_ROLES] = {"", "", "master.", "mu.", "nu."};

/* What an MTP module stores a copy of. */
static const struct {
    const char *source, *suffix;
} copies[] = {
    {"model.embed_tokens.weight", "embed_tokens.weight"},
    {"lm_head.weight", "shared_head.head.weight"},
};

enum { N_COPIES = sizeof copies / sizeof copies[0] };

static bool has_experts(const hd_param *param) { return hd_tensor_per_expert(param->spec); }

bool hd_param_has_master(const hd_param *param)
{
    return param->master.n_dim > 0 && param->weight.value.dtype != HD_DTYPE_F32;
}

static bool has_role(const hd_param *param, hd_hf_role role)
{
    switch (role) {
    case HD_HF_WEIGHT: return true;
    case HD_HF_MASTER: return hd_param_has_master(param);
    case HD_HF_MU: return param->mu.n_dim > 0;
    case HD_HF_NU: return param->nu.n_dim > 0;
    default: return false;
    }
}

static const hd_tensor *tensor_of(const hd_param *param, hd_hf_role role)
{
    switch (role) {
    case HD_HF_MASTER: return &param->master;
    case HD_HF_MU: return &param->mu;
    case HD_HF_NU: return &param->nu;
    default: return &param->weight.value;
    }
}

static int64_t find_param(const hd_model *model, const char *name)
{
    for (int64_t i = 0; i < model->n_param; i++) {
        if (strcmp(model->params[i].name, name) == 0) { return i; }
    }
    return -1;
}

/* Writes refs (when not NULL) and returns how many there are. */
static int64_t list_role(const hd_model *model, hd_hf_role role, hd_hf_ref *refs)
{
    int64_t n = 0;
    for (int64_t p = 0; p < model->n_param; p++) {
        const hd_param *param = &model->params[p];
        if (!has_role(param, role)) { continue; }
        int64_t n_expert = has_experts(param) ? param->weight.value.shape[0] : 0;
        int64_t count = n_expert > 0 ? n_expert : 1;
        for (int64_t e = 0; e < count && refs != NULL; e++) {
            refs[n + e] = (hd_hf_ref){.param = p, .expert = n_expert > 0 ? (int32_t)e : -1, .layer = -1, .role = role};
        }
        n += count;
    }
    return n;
}

static int64_t list_copies(const hd_model *model, hd_hf_ref *refs)
{
    int64_t n = 0;
    for (int64_t m = 0; m < model->dims.n_mtp; m++) {
        for (int c = 0; c < N_COPIES; c++) {
            int64_t p = find_param(model, copies[c].source);
            if (p < 0) { continue; }
            if (refs != NULL) {
                refs[n] = (hd_hf_ref){.param = p, .expert = -1, .layer = (int32_t)(model->dims.n_layer + m), .role = HD_HF_COPY};
            }
            n++;
        }
    }
    return n;
}

static int64_t list_set(const hd_model *model, hd_hf_set set, hd_hf_ref *refs)
{
    int64_t n = 0;
    if (set == HD_HF_MODEL) {
        n += list_role(model, HD_HF_WEIGHT, refs);
        n += list_copies(model, refs != NULL ? refs + n : NULL);
    } else {
        for (hd_hf_role role = HD_HF_MASTER; role <= HD_HF_NU; role++) {
            n += list_role(model, role, refs != NULL ? refs + n : NULL);
        }
    }
    return n;
}

hd_status hd_hf_list(const hd_model *model, hd_hf_set set, hd_hf_ref **refs, int64_t *n, hd_err *err)
{
    void *list = NULL;
    int64_t count = list_set(model, set, NULL);
    *refs = NULL;
    *n = 0;
    hd_status st = hd_alloc((size_t)count, sizeof(hd_hf_ref), "list of checkpoint tensors", &list, err);
    if (st != HD_OK || count == 0) { return st; }
    list_set(model, set, list);
    *refs = list;
    *n = count;
    return HD_OK;
}

static int copy_suffix(const char *source)
{
    for (int c = 0; c < N_COPIES; c++) {
        if (strcmp(copies[c].source, source) == 0) { return c; }
    }
    return -1;
}

hd_status hd_hf_name(const hd_model *model, const hd_hf_ref *ref, char name[HD_HF_NAME_MAX], hd_err *err)
{
    const char *pattern = model->params[ref->param].name;
    const char *hole = ref->expert >= 0 ? strstr(pattern, "{e}") : NULL;
    int n;
    if (ref->role == HD_HF_COPY) {
        int c = copy_suffix(pattern);
        n = c < 0 ? -1 : snprintf(name, HD_HF_NAME_MAX, "model.layers.%" PRId32 ".%s", ref->layer, copies[c].suffix);
    } else if (hole != NULL) {
        n = snprintf(name, HD_HF_NAME_MAX, "%s%.*s%" PRId32 "%s", role_prefix[ref->role], (int)(hole - pattern), pattern,
                     ref->expert, hole + 3);
    } else {
        n = snprintf(name, HD_HF_NAME_MAX, "%s%s", role_prefix[ref->role], pattern);
    }
    if (n < 0 || n >= HD_HF_NAME_MAX) {
        return HD_FAIL(err, HD_E_INVALID, "tensor %s: no checkpoint name of at most %d bytes", pattern, HD_HF_NAME_MAX - 1);
    }
    return HD_OK;
}

hd_tensor hd_hf_view(const hd_model *model, const hd_hf_ref *ref)
{
    const hd_tensor *t = tensor_of(&model->params[ref->param], ref->role);
    return ref->expert >= 0 ? hd_tensor_index(t, ref->expert) : *t;
}

int64_t hd_hf_layer_of(const char *name, const char **rest)
{
    static const char head[] = "model.layers.";
    int64_t layer = 0;
    if (strncmp(name, head, sizeof head - 1) != 0) { return -1; }
    const char *p = name + sizeof head - 1;
    int digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 9; p++, digits++) { layer = layer * 10 + (*p - '0'); }
    if (digits == 0 || *p != '.') { return -1; }
    if (rest != NULL) { *rest = p + 1; }
    return layer;
}

/* Whether a name is the pattern with a number in each hole. */
static bool is_instance(const char *name, const char *pattern)
{
    while (*pattern != '\0') {
        if (*pattern == '{') {
            size_t digits = strspn(name, "0123456789");
            if (digits == 0 || digits > 9) { return false; }
            name += digits;
            pattern += 3;
        } else if (*name++ != *pattern++) {
            return false;
        }
    }
    return *name == '\0';
}

const hd_tensor_spec *hd_hf_spec_of(const char *name)
{
    int n;
    const char *rest;
    const hd_tensor_spec *table = hd_tensor_table(&n);
    for (int i = 0; i < n; i++) {
        if (is_instance(name, table[i].hf_name)) { return &table[i]; }
    }
    for (int c = 0; c < N_COPIES && hd_hf_layer_of(name, &rest) >= 0; c++) {
        if (strcmp(rest, copies[c].suffix) == 0) { return hd_hf_spec_of(copies[c].source); }
    }
    return NULL;
}

bool hd_hf_is_copy(int64_t n_layer, const char *name)
{
    const char *rest = NULL;
    if (hd_hf_layer_of(name, &rest) < n_layer) { return false; }
    for (int c = 0; c < N_COPIES; c++) {
        if (strcmp(rest, copies[c].suffix) == 0) { return true; }
    }
    return false;
}

bool hd_hf_may_ignore(const hd_dims *dims, const char *name)
{
    const char *rest = NULL;
    int64_t layer = hd_hf_layer_of(name, &rest);
    if (layer < 0) { return false; }
    if (strcmp(rest, "self_attn.rotary_emb.inv_freq") == 0) { return true; }
    return layer >= dims->n_layer && dims->n_mtp == 0;
}
