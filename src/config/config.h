/* Reading a configuration from inside the library.  A key is named by its enumerator, HD_KEY_<name>, so that a
 * misspelt name does not compile; reading a key as another type than it has is a bug (assert). */
#ifndef HD_CONFIG_CONFIG_H
#define HD_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/config.h"

#define USED(name, type, default_value, check, group, commands, flags, help) HD_KEY_##name,
#define REFUSED(name, type, default_value, check, flags, help, sentence) HD_KEY_##name,
#define IDLE(name, type, default_value, check, flags, help) HD_KEY_##name,
#define DERIVED(name, type, help) HD_KEY_##name,
typedef enum hd_config_key {
#include "config/keys.def"
    HD_KEY_COUNT
} hd_config_key;
#undef USED
#undef REFUSED
#undef IDLE
#undef DERIVED

bool hd_config_bool(const hd_config *config, hd_config_key key);
int64_t hd_config_int(const hd_config *config, hd_config_key key);  /* 0 when null */
double hd_config_float(const hd_config *config, hd_config_key key); /* 0 when null */

/* STR, RAW: NULL when the key is empty, null or unset; never "".  ENUM: the choice, "" when unset. */
const char *hd_config_str(const hd_config *config, hd_config_key key);

/* ENUM: position among the choices of keys.def. */
int hd_config_enum(const hd_config *config, hd_config_key key);

/* ENUM, STR: equal to text? */
bool hd_config_is(const hd_config *config, hd_config_key key, const char *text);

/* LIST: *n strings. */
const char *const *hd_config_list(const hd_config *config, hd_config_key key, size_t *n);

bool hd_config_is_null(const hd_config *config, hd_config_key key); /* null, or an empty STR */
bool hd_config_is_set(const hd_config *config, hd_config_key key);  /* given by the user, not by a default or derived */
const char *hd_config_key_name(hd_config_key key);

#endif
