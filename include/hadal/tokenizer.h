/* `hadal tokenize`: text to token ids, and ids to text.  `hadal tokenizer train`: a tokenizer for a text. */
#ifndef HADAL_TOKENIZER_H
#define HADAL_TOKENIZER_H

#include <stddef.h>

#include "hadal/commands.h"
#include "hadal/config.h"
#include "hadal/status.h"

/* Where the input stands: in a file (path), or in memory (path NULL).  The key text= comes before both. */
typedef struct hd_tokenize_input {
    const char *path;
    const char *text;
    size_t n;
} hd_tokenize_input;

/* Receives the answer piece by piece; it may hold any bytes. */
typedef void (*hd_tokenize_write)(void *context, const char *data, size_t n);

/* Encodes or decodes as the keys tokenizer_type, tokenizer_path, text, documents and show say. */
hd_status hd_cmd_tokenize(const hd_config *config, const hd_tokenize_input *input, hd_tokenize_write write, void *context,
                          hd_err *err) HD_CHECK_RESULT;

/* Trains a byte-level BPE of vocab_size tokens on files and folders (as dataset_path names them) and writes tokenizer.json and
 * tokenizer_config.json into the folder tokenizer_path. */
hd_status hd_cmd_tokenizer_train(const hd_config *config, const char *const *paths, int n_path, const hd_run_hooks *hooks,
                                 hd_err *err) HD_CHECK_RESULT;

#endif
