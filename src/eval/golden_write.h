/* Writing logits in the format of a golden file, row by row: output_logits_path. */
#ifndef HD_EVAL_GOLDEN_WRITE_H
#define HD_EVAL_GOLDEN_WRITE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/io.h"
#include "hadal/status.h"

typedef struct hd_golden_writer {
    hd_file *file;
    hd_buf text;   /* not written yet */
    int64_t n_row; /* of the open record */
} hd_golden_writer;

hd_status hd_golden_writer_open(const char *path, hd_golden_writer *w, hd_err *err) HD_CHECK_RESULT;

/* A record: begin, its rows, end. */
hd_status hd_golden_write_begin(hd_golden_writer *w, const char *prompt, const int32_t *tokens, int64_t n,
                                hd_err *err) HD_CHECK_RESULT;
hd_status hd_golden_write_row(hd_golden_writer *w, const float *logits, int64_t n, hd_err *err) HD_CHECK_RESULT;
hd_status hd_golden_write_end(hd_golden_writer *w, hd_err *err) HD_CHECK_RESULT;

/* Closes the file and tells whether all of it was written; accepts a zeroed writer. */
hd_status hd_golden_writer_close(hd_golden_writer *w, hd_err *err) HD_CHECK_RESULT;
void hd_golden_writer_abandon(hd_golden_writer *w);

#endif
