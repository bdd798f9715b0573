/* The key table as data (rows of keys.def), and what can be asked of it. */
#ifndef HD_CONFIG_KEY_TABLE_H
#define HD_CONFIG_KEY_TABLE_H

#include "config/config.h"

typedef enum hd_key_type {
    HD_TYPE_BOOL,
    HD_TYPE_INT,
    HD_TYPE_FLOAT,
    HD_TYPE_STR,
    HD_TYPE_ENUM,
    HD_TYPE_LIST,
    HD_TYPE_RAW
} hd_key_type;

typedef enum hd_key_status { HD_KEY_USED, HD_KEY_REFUSED, HD_KEY_IDLE, HD_KEY_DERIVED } hd_key_status;

typedef enum hd_key_group {
    HD_GROUP_RUN,
    HD_GROUP_MODEL,
    HD_GROUP_ATTENTION,
    HD_GROUP_ROPE,
    HD_GROUP_MOE,
    HD_GROUP_MTP,
    HD_GROUP_NUMERICS,
    HD_GROUP_OPTIMIZER,
    HD_GROUP_SCHEDULE,
    HD_GROUP_LOOP,
    HD_GROUP_EVALUATION,
    HD_GROUP_DATA,
    HD_GROUP_TOKENIZER,
    HD_GROUP_SFT,
    HD_GROUP_CHECKPOINT,
    HD_GROUP_MEMORY,
    HD_GROUP_PARALLEL,
    HD_GROUP_DECODE,
    HD_GROUP_CHECK,
    HD_GROUP_METRICS,
    HD_GROUP_OWN,
    HD_GROUP_REFUSED,
    HD_GROUP_IDLE,
    HD_GROUP_DERIVED,
    HD_GROUP_COUNT
} hd_key_group;

enum { HD_FLAG_NULLABLE = 1, HD_FLAG_PATH = 2, HD_FLAG_SECRET = 4, HD_FLAG_BARE_LIST = 8, HD_FLAG_FOREIGN = 16 };

/* Commands, as bits. */
enum {
    HD_FOR_TRAIN = 1,
    HD_FOR_SFT = 2,
    HD_FOR_PLAN = 4,
    HD_FOR_DECODE = 8,
    HD_FOR_CHECK = 16,
    HD_FOR_EVAL = 32,
    HD_FOR_CONVERT = 64,
    HD_FOR_TOKENIZE = 128,
    HD_FOR_BENCH = 256,
    HD_FOR_VERIFY = 512,
    HD_FOR_TOKENIZER = 1024, /* tokenizer train */
    HD_FOR_ALL = 0xFFFF
};

typedef struct hd_key_row {
    const char *name;
    hd_key_type type;
    const char *default_text; /* NULL: derived */
    const char *check;
    hd_key_group group;
    unsigned commands;
    unsigned flags;
    hd_key_status status;
    const char *help;
    const char *reason; /* refused keys */
} hd_key_row;

const hd_key_row *hd_key_row_of(hd_config_key key);
const char *hd_key_group_title(hd_key_group group);
const char *hd_key_type_title(hd_key_type type);

/* The key of that name, or HD_KEY_COUNT. */
hd_config_key hd_key_find(const char *name);

/* The settable key whose name is nearest (Damerau-Levenshtein, case and '-' ignored), or HD_KEY_COUNT when none is near
 * enough to be meant. */
hd_config_key hd_key_nearest(const char *name);

/* The bit of a command's name; HD_FOR_ALL for NULL and for names not known here. */
unsigned hd_key_command(const char *name);

/* A refused value of a used key (refused_values.def) for a command; NULL when it is fine, else the sentence. */
const char *hd_key_refused_value(hd_config_key key, const char *text, unsigned command);

/* Fills "unknown key 'x'; did you mean y?".  Returns HD_E_CONFIG. */
hd_status hd_key_unknown(const char *name, hd_err *err);

#endif
