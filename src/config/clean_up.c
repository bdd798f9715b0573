/* What MaxText does to values before it checks them: empty ones that have a well-known replacement.  Null and "none"
 * are dealt with where a value is read (value.c). */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "config/config_internal.h"

enum { PATH_LEN = 4096 };

static hd_status clean_sft(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    if (config->command != HD_FOR_SFT) { return HD_OK; }
    if (!hd_config_bool(config, HD_KEY_use_sft)) { HD_TRY(hd_config_derive_str(config, HD_KEY_use_sft, "true", err)); }
    if (hd_config_bool(config, HD_KEY_use_tunix_gradient_accumulation)) {
        HD_TRY(hd_config_derive_str(config, HD_KEY_use_tunix_gradient_accumulation, "false", err));
    }
out:
    return st;
}

static hd_status clean_output_directory(hd_config *config, hd_err *err)
{
    char cwd[PATH_LEN];
    if (!hd_config_is_null(config, HD_KEY_base_output_directory)) { return HD_OK; }
    size_t n = getcwd(cwd, sizeof cwd - sizeof "/maxtext_output") != NULL ? strlen(cwd) : 0;
    memcpy(cwd + n, "/maxtext_output", sizeof "/maxtext_output");
    return hd_config_derive_str(config, HD_KEY_base_output_directory, n > 0 ? cwd : cwd + 1, err);
}

static hd_status clean_token(hd_config *config, hd_err *err)
{
    const char *token = hd_env(HD_ENV_HF_TOKEN);
    if (token == NULL || !hd_config_is_null(config, HD_KEY_hf_access_token)) { return HD_OK; }
    return hd_config_derive_str(config, HD_KEY_hf_access_token, token, err);
}

/* <model_name>_<YYYY-MM-DD-HH-MM>, local time. */
static hd_status clean_run_name(hd_config *config, hd_err *err)
{
    char name[512];
    hd_buf text = {0};
    if (!hd_config_is_null(config, HD_KEY_run_name)) { return HD_OK; }
    const char *job = hd_env(HD_ENV_JOBSET_NAME);
    if (job != NULL) { return hd_config_derive_str(config, HD_KEY_run_name, job, err); }
    time_t now = (time_t)hd_clock_wall_s();
    struct tm local;
    if (localtime_r(&now, &local) == NULL || strftime(name, sizeof name, "%Y-%m-%d-%H-%M", &local) == 0) { name[0] = '\0'; }
    hd_buf_printf(&text, "%s_%s", hd_config_str(config, HD_KEY_model_name), name);
    hd_status st = hd_buf_check(&text, err);
    if (st == HD_OK) { st = hd_config_derive_str(config, HD_KEY_run_name, hd_buf_text(&text), err); }
    hd_buf_free(&text);
    return st;
}

/* The hub's name of each model's tokenizer. */
static const struct {
    const char *model, *hub;
} hub_names[] = {
    {"deepseek2-16b", "deepseek-ai/DeepSeek-V2-Lite"}, {"deepseek2-236b", "deepseek-ai/DeepSeek-V2"},
    {"deepseek3-671b", "deepseek-ai/DeepSeek-V3"},     {"deepseek3-test", "deepseek-ai/DeepSeek-V3"},
    {"deepseek3-tiny", "deepseek-ai/DeepSeek-V3"},
};

static hd_status clean_tokenizer(hd_config *config, hd_err *err)
{
    const char *model = hd_config_str(config, HD_KEY_model_name);
    if (!hd_config_is_null(config, HD_KEY_tokenizer_path) || !hd_config_is(config, HD_KEY_tokenizer_type, "huggingface")) {
        return HD_OK;
    }
    for (size_t i = 0; i < sizeof hub_names / sizeof hub_names[0]; i++) {
        if (strcmp(model, hub_names[i].model) == 0) {
            return hd_config_derive_str(config, HD_KEY_tokenizer_path, hub_names[i].hub, err);
        }
    }
    return HD_OK;
}

hd_status hd_config_clean_up(hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    if (hd_config_is_null(config, HD_KEY_model_name)) {
        HD_TRY(hd_config_derive_str(config, HD_KEY_model_name, "default", err));
    }
    HD_TRY(clean_sft(config, err));
    HD_TRY(clean_output_directory(config, err));
    HD_TRY(clean_token(config, err));
    HD_TRY(clean_run_name(config, err));
    st = clean_tokenizer(config, err);
out:
    return st;
}
