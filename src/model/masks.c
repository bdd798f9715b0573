/* Matching of masks.  See masks.h. */
#include "model/masks.h"

#include <regex.h>

#include "base/alloc.h"

/* How many of the parameter's HuggingFace tensors, and whether its MaxText path, the pattern matches. */
static void match_param(const regex_t *regex, const hd_model *model, const hd_param *param, int64_t *n_hit, int64_t *n_name,
                        bool *path_hit)
{
    char name[HD_NAME_MAX];
    bool experts = hd_tensor_per_expert(param->spec);
    *n_name = experts ? model->dims.n_expert : 1;
    *n_hit = 0;
    for (int64_t e = 0; e < *n_name; e++) {
        hd_tensor_hf_name(param->spec, param->layer, experts ? e : -1, name);
        *n_hit += regexec(regex, name, 0, NULL, 0) == 0;
    }
    hd_tensor_orbax_path(&model->dims, param->spec, param->layer, false, name);
    *path_hit = name[0] != '\0' && regexec(regex, name, 0, NULL, 0) == 0;
    if (!*path_hit) { /* a mask may have been written for stacked layers */
        hd_tensor_orbax_path(&model->dims, param->spec, param->layer, true, name);
        *path_hit = name[0] != '\0' && regexec(regex, name, 0, NULL, 0) == 0;
    }
}

static hd_status apply_pattern(hd_model *model, const char *key, const regex_t *regex, const char *pattern, bool *hit,
                               hd_err *err)
{
    bool any = false;
    for (int64_t i = 0; i < model->n_param; i++) {
        int64_t n_hit, n_name;
        bool path_hit;
        match_param(regex, model, &model->params[i], &n_hit, &n_name, &path_hit);
        if (!path_hit && n_hit > 0 && n_hit < n_name) {
            return HD_FAIL(err, HD_E_CONFIG,
                           "%s: \"%s\" matches %lld of the %lld experts of %s; the experts of a layer are one parameter", key,
                           pattern, (long long)n_hit, (long long)n_name, model->params[i].name);
        }
        hit[i] = hit[i] || path_hit || n_hit > 0;
        any = any || hit[i];
    }
    return any ? HD_OK : HD_FAIL(err, HD_E_CONFIG, "%s: \"%s\" matches no parameter", key, pattern);
}

static hd_status apply_mask(hd_model *model, const char *key, const char *const *patterns, int n, bool *hit, hd_err *err)
{
    for (int i = 0; i < n; i++) {
        regex_t regex;
        char why[200];
        int code = regcomp(&regex, patterns[i], REG_EXTENDED | REG_NOSUB);
        if (code != 0) {
            (void)regerror(code, &regex, why, sizeof why);
            return HD_FAIL(err, HD_E_CONFIG, "%s: \"%s\" is not a regular expression: %s", key, patterns[i], why);
        }
        hd_status st = apply_pattern(model, key, &regex, patterns[i], hit, err);
        regfree(&regex);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_masks_apply(hd_model *model, hd_err *err)
{
    const hd_model_options *o = &model->options;
    hd_status st;
    bool *trainable = NULL, *no_decay = NULL;
    HD_TRY(hd_alloc((size_t)model->n_param, sizeof(bool), "mask of trained parameters", (void **)&trainable, err));
    HD_TRY(hd_alloc((size_t)model->n_param, sizeof(bool), "mask of decayed parameters", (void **)&no_decay, err));
    HD_TRY(apply_mask(model, "trainable_parameters_mask", o->trainable_mask, o->n_trainable_mask, trainable, err));
    HD_TRY(apply_mask(model, "adamw_mask", o->adamw_mask, o->n_adamw_mask, no_decay, err));
    for (int64_t i = 0; i < model->n_param; i++) {
        hd_param *param = &model->params[i];
        const hd_tensor_spec *spec = param->spec;
        bool used = spec->used == NULL || spec->used(&model->dims);
        bool wanted = o->n_trainable_mask == 0 || trainable[i];
        param->trained = o->training && spec->trained && used && wanted;
        param->decay = spec->decay && !no_decay[i];
    }
out:
    hd_free(trainable);
    hd_free(no_decay);
    return st;
}
