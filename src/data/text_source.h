/* A stream of bytes from a plain, zstd or gzip file. */
#ifndef HD_DATA_TEXT_SOURCE_H
#define HD_DATA_TEXT_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include "hadal/status.h"

typedef enum hd_codec { HD_CODEC_NONE, HD_CODEC_ZSTD, HD_CODEC_GZIP } hd_codec;

typedef struct hd_text_source hd_text_source;

hd_status hd_text_source_open(const char *path, hd_codec codec, hd_text_source **out, hd_err *err) HD_CHECK_RESULT;
void hd_text_source_close(hd_text_source *source);

/* Up to n decompressed bytes; *got = 0 at the end.  HD_E_CORRUPT for a broken or cut stream, or a zstd window above 2^27. */
hd_status hd_text_source_read(hd_text_source *source, void *data, size_t n, size_t *got, hd_err *err) HD_CHECK_RESULT;

#endif
