/* Stop texts.  See stops.h. */
#include "infer/stops.h"

#include <string.h>

#include "base/utf8.h"

hd_status hd_stops_from_config(const hd_config *config, const hd_tokenizer *tokenizer, hd_stops *stops, hd_err *err)
{
    *stops = (hd_stops){0};
    stops->text = hd_config_list(config, HD_KEY_stop, &stops->n);
    for (size_t i = 0; i < stops->n; i++) {
        size_t n = strlen(stops->text[i]), bad;
        int32_t token = hd_tokenizer_find(tokenizer, stops->text[i], n);
        if (!hd_utf8_validate(stops->text[i], n, &bad)) {
            return HD_FAIL(err, HD_E_CONFIG, "stop: text %zu is not UTF-8 at its byte %zu", i + 1, bad + 1);
        }
        if (token < 0 || !hd_tokenizer_is_special(tokenizer, token)) { continue; }
        hd_status st = hd_ids_append(&stops->tokens, &token, 1, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

void hd_stops_free(hd_stops *stops)
{
    hd_ids_free(&stops->tokens);
}

bool hd_stops_is_token(const hd_stops *stops, int32_t token)
{
    for (size_t i = 0; i < stops->tokens.n; i++) {
        if (stops->tokens.id[i] == token) { return true; }
    }
    return false;
}

/* Where, from `from` on, the text holds `stop` or ends in its beginning; n when it does neither. */
static size_t find(const char *text, size_t n, size_t from, const char *stop, size_t n_stop)
{
    for (; from < n; from++) {
        const char *first = memchr(text + from, stop[0], n - from);
        if (first == NULL) { return n; }
        from = (size_t)(first - text);
        if (memcmp(first, stop, n_stop < n - from ? n_stop : n - from) == 0) { return from; }
    }
    return n;
}

bool hd_stops_search(const hd_stops *stops, const char *text, size_t n, size_t from, size_t *end)
{
    bool found = false;
    size_t first = n, held = n;
    for (size_t i = 0; i < stops->n; i++) {
        size_t n_stop = strlen(stops->text[i]);
        size_t at = find(text, n, from, stops->text[i], n_stop);
        if (n_stop > n - at) { /* cut off by the end of the text, or not there */
            held = at < held ? at : held;
        } else if (!found || at < first) {
            found = true;
            first = at;
        }
    }
    *end = found ? first : held;
    return found;
}
