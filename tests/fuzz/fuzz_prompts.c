/* A file of prompts, whole, in lines or as JSON lines by the first byte: it is refused by name, or its prompts are text in the order of
 * their lines.  The same bytes as a text with stop texts: it ends at the same place in one piece and byte by byte. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/utf8.h"
#include "infer/prompts.h"
#include "infer/stops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const char *text, size_t n, hd_prompts_kind kind)
{
    hd_err err = {0};
    hd_prompts p = {0};
    size_t end = 0, line = 0;
    hd_status st = hd_prompts_parse(text, n, "FILE", kind, "prompt", &p, &err);
    assert(st == HD_OK || st == HD_E_CORRUPT || st == HD_E_CONFIG);
    assert(st == HD_OK || strstr(err.msg, "FILE") != NULL);
    for (size_t i = 0; st == HD_OK && i < p.n; i++) {
        assert(p.list[i].at == end && hd_utf8_validate(hd_prompts_text(&p, i), p.list[i].n, NULL));
        assert(kind == HD_PROMPTS_WHOLE || p.list[i].line > line);
        end = p.list[i].at + p.list[i].n;
        line = p.list[i].line;
    }
    hd_prompts_free(&p);
}

static void stop(const char *text, size_t n)
{
    static const char *const texts[] = {"aa", "aab", "\n\n", "ba"};
    const hd_stops stops = {.text = texts, .n = 4};
    size_t whole, end = 0;
    bool found = false, at_once = hd_stops_search(&stops, text, n, 0, &whole);
    for (size_t i = 1; i <= n && !found; i++) {
        size_t before = end;
        found = hd_stops_search(&stops, text, i, end, &end);
        assert(end >= before && end <= i);
    }
    assert(found == at_once && (found || n == 0 || end == whole));
    assert(!found || end >= whole); /* a longer one that began before may have come too late */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) { return 0; }
    parse((const char *)data + 1, size - 1, (hd_prompts_kind)(data[0] % 3));
    stop((const char *)data + 1, size - 1);
    return 0;
}
