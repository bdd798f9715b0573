/* Texts that end an answer, found while the answer is being made. */
#ifndef HD_INFER_STOPS_H
#define HD_INFER_STOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "hadal/status.h"
#include "tokenizer/tokenizer.h"

typedef struct hd_stops {
    const char *const *text; /* n texts of the configuration, none empty */
    size_t n;
    hd_ids tokens; /* of those that are special tokens, which never become text */
} hd_stops;        /* a zeroed one stops nothing */

/* stop=.  HD_E_CONFIG for a text that is not UTF-8. */
hd_status hd_stops_from_config(const hd_config *config, const hd_tokenizer *tokenizer, hd_stops *stops, hd_err *err) HD_CHECK_RESULT;
void hd_stops_free(hd_stops *stops);

bool hd_stops_is_token(const hd_stops *stops, int32_t token);

/* Searches the n bytes of an answer so far, of which the first `from` are known to belong to it.  true: a stop text begins at *end,
 * the first one.  false: the bytes before *end belong to the answer whatever comes; those behind may begin a stop text. */
bool hd_stops_search(const hd_stops *stops, const char *text, size_t n, size_t from, size_t *end);

#endif
