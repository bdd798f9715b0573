/* A corpus: the documents named by dataset_path, as byte ranges of open files.
 *
 * dataset_path is a comma-separated list of files and folders; folders are walked in name order, names that begin with '.' are
 * left out.  A plain file is one document.  .jsonl, .ndjson and .json files hold one JSON object per line, whose text column is
 * a document.  A further .zst or .gz is decompressed.  What is not a plain file is spooled, once, into an unlinked
 * temporary file, so that memory holds the index and never the text. */
#ifndef HD_DATA_CORPUS_H
#define HD_DATA_CORPUS_H

#include <stdint.h>

#include "hadal/status.h"

typedef struct hd_document { uint32_t file; int64_t offset, n_byte; } hd_document;

/* A plain file is opened when it is read and closed when another one is; a spool has no name and stays open. */
typedef struct hd_corpus_file {
    char *path; /* NULL: a spool */
    struct hd_file *file;
} hd_corpus_file;

typedef struct hd_corpus {
    hd_corpus_file *files;
    int64_t n_file, i_open; /* i_open: the plain file that is open, -1 none */
    hd_document *documents; /* in name order, then in file order */
    int64_t n_document, n_document_max;
    int64_t n_byte;         /* of all documents */
    uint64_t fingerprint;   /* of names, sizes and samples of the content */
} hd_corpus;

/* text_column: of JSON lines.  separator: a line that separates documents of a plain file, NULL when a file is one document.
 * Errors name the file and, for JSON lines, the line. */
hd_status hd_corpus_open(const char *paths, const char *text_column, const char *separator, hd_corpus *corpus, hd_err *err)
    HD_CHECK_RESULT;
void hd_corpus_close(hd_corpus *corpus);

/* Bytes [begin, begin + n) of a document. */
hd_status hd_corpus_read(hd_corpus *corpus, int64_t document, int64_t begin, int64_t n, void *data, hd_err *err)
    HD_CHECK_RESULT;

/* Keeps only the text before (or from) byte `cut` of the concatenated documents; a document that the cut meets is split. */
void hd_corpus_keep_before(hd_corpus *corpus, int64_t cut);
void hd_corpus_keep_from(hd_corpus *corpus, int64_t cut);

#endif
