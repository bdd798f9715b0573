/* Reading each source of values into a layer of its own. */
#ifndef HD_CONFIG_LAYERS_H
#define HD_CONFIG_LAYERS_H

#include "config/config_internal.h"

/* Reads a file and, below it, its chain of base_config into files. */
hd_status hd_layer_read_file(hd_config *config, const char *path, const char *configs_dir, hd_layer *files, hd_err *err)
    HD_CHECK_RESULT;

/* Reads a model's file, which has no base_config. */
hd_status hd_layer_read_model(hd_config *config, const char *path, hd_layer *model, hd_err *err) HD_CHECK_RESULT;

/* Reads key=value ...; the last of several wins. */
hd_status hd_layer_read_arguments(int argc, const char *const *argv, hd_layer *arguments, hd_err *err) HD_CHECK_RESULT;

/* Reads M_KEY variables. */
hd_status hd_layer_read_environment(hd_layer *environment, hd_err *err) HD_CHECK_RESULT;

/* Resolves a file's name: as it stands, else below configs_dir (also without a leading ".../configs/").  *out NULL when
 * there is none.  Free with hd_free. */
hd_status hd_config_find_file(const char *path, const char *configs_dir, char **out, hd_err *err) HD_CHECK_RESULT;

/* Finds models/<name>.yml beside the config file (NULL: none), in its parent, or in configs_dir.  HD_E_CONFIG lists the
 * models there are. */
hd_status hd_config_find_model(const char *name, const char *config_path, const char *configs_dir, char **out, hd_err *err)
    HD_CHECK_RESULT;

/* HD_E_UNSUPPORTED with a sentence when a path names an object store (gs://, s3://). */
hd_status hd_config_check_path(const char *path, hd_err *err) HD_CHECK_RESULT;

#endif
