/* The configuration as its own module sees it. */
#ifndef HD_CONFIG_CONFIG_INTERNAL_H
#define HD_CONFIG_CONFIG_INTERNAL_H

#include "config/value.h"

typedef enum hd_origin_kind {
    HD_ORIGIN_DEFAULT,
    HD_ORIGIN_FILE,
    HD_ORIGIN_MODEL,
    HD_ORIGIN_ARGUMENT,
    HD_ORIGIN_ENVIRONMENT,
    HD_ORIGIN_DERIVED
} hd_origin_kind;

typedef struct hd_origin {
    hd_origin_kind kind;
    int file, line; /* FILE, MODEL: index into hd_config.files; line from 1 */
} hd_origin;

/* One source of values, or the merged configuration. */
typedef struct hd_layer {
    hd_value value[HD_KEY_COUNT];
    hd_origin origin[HD_KEY_COUNT];
    bool present[HD_KEY_COUNT];
} hd_layer;

enum { HD_CONFIG_MAX_FILES = 18 }; /* a chain of base_config, and the model's file */

struct hd_config {
    unsigned command; /* bits of key_table.h */
    char *files[HD_CONFIG_MAX_FILES];
    int n_files;
    hd_layer merged;
};

void hd_layer_free(hd_layer *layer);
void hd_layer_set(hd_layer *layer, hd_config_key key, hd_value *value, hd_origin origin); /* takes the value over */

/* Derived values are written over the merged ones. */
void hd_config_derive_int(hd_config *config, hd_config_key key, int64_t value);
void hd_config_derive_float(hd_config *config, hd_config_key key, double value);
hd_status hd_config_derive_str(hd_config *config, hd_config_key key, const char *value, hd_err *err) HD_CHECK_RESULT;

/* Has the key the value of the table's default? */
bool hd_config_at_default(const hd_config *config, hd_config_key key);

/* Writes "configs/base.yml:12", "command line", "environment M_STEPS", "default" or "derived". */
void hd_origin_write(const hd_config *config, hd_config_key key, hd_buf *out);

/* Was it the user who set it: on the command line, in the environment, or to another value than the default in a file
 * that is neither a base.yml nor a model's? */
bool hd_config_user_set(const hd_config *config, hd_config_key key);

/* The steps of hd_config_load after merging. */
hd_status hd_config_clean_up(hd_config *config, hd_err *err) HD_CHECK_RESULT;  /* section "Clean-up" */
hd_status hd_config_validate(hd_config *config, hd_err *err) HD_CHECK_RESULT;  /* refusals and rules between keys */
hd_status hd_config_derive(hd_config *config, hd_err *err) HD_CHECK_RESULT;    /* section "Derived values" */
void hd_config_notice(const hd_config *config);                                /* keys without effect, unused keys */

/* A failed rule about a key: "configs/x.yml:3: opt_type=muon: <sentence>". */
hd_status hd_config_fault(const hd_config *config, hd_config_key key, hd_status code, const char *sentence, hd_err *err);

#endif
