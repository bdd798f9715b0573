/* See golden_write.h.  Nine significant digits name an f32 exactly. */
#include "eval/golden_write.h"

#include <math.h>

#include "base/json.h"

hd_status hd_golden_writer_open(const char *path, hd_golden_writer *w, hd_err *err)
{
    *w = (hd_golden_writer){0};
    return hd_io_create(path, HD_IO_TRUNCATE, &w->file, err);
}

static hd_status flush(hd_golden_writer *w, hd_err *err)
{
    hd_status st = hd_buf_check(&w->text, err);
    if (st == HD_OK) { st = hd_io_write(w->file, hd_buf_text(&w->text), w->text.n, err); }
    hd_buf_clear(&w->text);
    return st;
}

hd_status hd_golden_write_begin(hd_golden_writer *w, const char *prompt, const int32_t *tokens, int64_t n, hd_err *err)
{
    hd_json_writer json;
    hd_json_writer_init(&json, &w->text, 0);
    hd_json_write_object(&json);
    hd_json_write_key(&json, "prompt");
    hd_json_write_string(&json, prompt);
    hd_json_write_key(&json, "tokens");
    hd_json_write_array(&json);
    for (int64_t i = 0; i < n; i++) { hd_json_write_i64(&json, tokens[i]); }
    hd_json_write_end(&json);
    hd_buf_append_text(&w->text, ", \"logits\": [");
    w->n_row = 0;
    return flush(w, err);
}

hd_status hd_golden_write_row(hd_golden_writer *w, const float *logits, int64_t n, hd_err *err)
{
    hd_buf_append_text(&w->text, w->n_row++ > 0 ? ", [" : "[");
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) { hd_buf_append(&w->text, ", ", 2); }
        if (isfinite(logits[i])) {
            hd_buf_printf(&w->text, "%.9g", (double)logits[i]);
        } else {
            hd_buf_append_text(&w->text, "null"); /* JSON has no NaN: a reader refuses the row by its place */
        }
    }
    hd_buf_append_char(&w->text, ']');
    return flush(w, err);
}

hd_status hd_golden_write_end(hd_golden_writer *w, hd_err *err)
{
    hd_buf_append_text(&w->text, "]}\n");
    return flush(w, err);
}

hd_status hd_golden_writer_close(hd_golden_writer *w, hd_err *err)
{
    hd_status st = hd_io_close(&w->file, err);
    hd_golden_writer_abandon(w);
    return st;
}

void hd_golden_writer_abandon(hd_golden_writer *w)
{
    hd_io_abandon(&w->file);
    hd_buf_free(&w->text);
}
