/* Opening and closing a tokenizer, and what it tells about itself. */
#include "tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hub.h"
#include "base/io.h"
#include "base/path.h"
#include "tokenizer/internal.h"

enum { MAX_FILE_BYTES = 64 << 20, MAX_CONFIG_BYTES = 8 << 20, BYTE_BOS = 256, BYTE_EOS = 257, BYTE_PAD = 258 };

/* ---- opening ---------------------------------------------------------------------------------------------------------------------- */

static hd_status new_tokenizer(hd_tokenizer **out, hd_err *err)
{
    hd_status st = hd_alloc(1, sizeof **out, "tokenizer", (void **)out, err);
    if (st == HD_OK) { (*out)->bos = (*out)->eos = (*out)->pad = -1; }
    return st;
}

static uint64_t fingerprint(const char *text, size_t n)
{
    uint64_t h = UINT64_C(0xCBF29CE484222325); /* FNV-1a by words */
    for (; n >= 8; text += 8, n -= 8) {
        uint64_t word = 0;
        for (int i = 0; i < 8; i++) { word |= (uint64_t)(unsigned char)text[i] << (8 * i); }
        h = (h ^ word) * UINT64_C(0x100000001B3);
        h ^= h >> 32;
    }
    for (; n > 0; text++, n--) { h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001B3); }
    return h;
}

/* A document may be encoded in parts: see parallel.c. */
static bool may_cut(const hd_tokenizer *t)
{
    return !t->nfc && t->split.n_step == 1 && t->split.step[0].kind == HD_STEP_SCAN && !t->raw.looks_around && !t->normalized.looks_around;
}

typedef struct sources {
    const char *json, *config, *json_name, *config_name;
    size_t n_json, n_config;
    char *template; /* of chat_template.jinja; handed over */
} sources;

static hd_status build(sources *s, hd_tokenizer **out, hd_err *err)
{
    hd_tokenizer *t = NULL;
    hd_status st;
    HD_TRY(new_tokenizer(&t, err));
    HD_TRY(hd_tokenizer_load_json(t, s->json, s->n_json, s->json_name, err));
    HD_TRY(hd_tokenizer_load_config(t, s->config, s->n_config, s->config_name, err));
    if (s->template != NULL) {
        hd_free(t->chat_template);
        t->chat_template = s->template;
        s->template = NULL;
    }
    t->fingerprint = fingerprint(s->json, s->n_json);
    t->may_cut = may_cut(t);
    *out = t;
    t = NULL;
out:
    hd_tokenizer_close(t);
    return st;
}

hd_status hd_tokenizer_parse(const char *json, size_t n, const char *config, size_t n_config, hd_tokenizer **out, hd_err *err)
{
    sources s = {.json = json, .n_json = n, .json_name = "tokenizer.json", .config = config, .n_config = n_config, .config_name = "tokenizer_config.json"};
    return build(&s, out, err);
}

/* The path of a file that may lie in a folder, NULL in *out when it does not. */
static hd_status find_beside(const char *folder, const char *name, char **out, hd_err *err)
{
    hd_status st;
    hd_io_info info;
    HD_TRY(hd_path_join(folder, name, out, err));
    HD_TRY(hd_io_stat(*out, &info, err));
    if (info.kind != HD_IO_REGULAR) {
        hd_free(*out);
        *out = NULL;
    }
out:
    return st;
}

static hd_status read_beside(const char *folder, const char *name, char **path, char **text, size_t *n, hd_err *err)
{
    hd_status st = find_beside(folder, name, path, err);
    return st == HD_OK && *path != NULL ? hd_io_read_file(*path, MAX_CONFIG_BYTES, text, n, err) : st;
}

/* tokenizer.json itself, or the one in a folder: *json_path and *folder. */
static hd_status find_json(const char *path, char **json_path, char **folder, hd_err *err)
{
    hd_status st;
    hd_io_info info;
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind == HD_IO_DIRECTORY) {
        HD_TRY(hd_strdup(path, folder, err));
        HD_TRY(find_beside(path, "tokenizer.json", json_path, err));
        if (*json_path == NULL) { st = HD_FAIL(err, HD_E_CONFIG, "tokenizer_path=%s: the folder has no tokenizer.json", path); }
    } else if (info.kind == HD_IO_REGULAR) {
        HD_TRY(hd_strdup(path, json_path, err));
        HD_TRY(hd_path_dir(path, folder, err));
    } else {
        st = HD_FAIL(err, HD_E_CONFIG, "tokenizer_path=%s: no such file or folder; a tokenizer of the hub has to be downloaded first", path);
    }
out:
    return st;
}

hd_status hd_tokenizer_open(const char *path, hd_tokenizer **out, hd_err *err)
{
    hd_status st;
    char *json_path = NULL, *folder = NULL, *json = NULL, *config_path = NULL, *config = NULL, *template_path = NULL;
    sources s = {0};
    size_t n;
    HD_TRY(find_json(path, &json_path, &folder, err));
    HD_TRY(hd_io_read_file(json_path, MAX_FILE_BYTES, &json, &s.n_json, err));
    HD_TRY(read_beside(folder, "tokenizer_config.json", &config_path, &config, &s.n_config, err));
    HD_TRY(read_beside(folder, "chat_template.jinja", &template_path, &s.template, &n, err));
    s.json = json, s.json_name = json_path;
    s.config = config, s.config_name = config_path;
    HD_TRY(build(&s, out, err));
out:
    hd_free(json_path);
    hd_free(folder);
    hd_free(json);
    hd_free(config_path);
    hd_free(config);
    hd_free(template_path);
    hd_free(s.template);
    return st;
}

hd_status hd_tokenizer_open_byte(hd_tokenizer **out, hd_err *err)
{
    static const char *const names[] = {"<bos>", "<eos>", "<pad>"};
    hd_tokenizer *t = NULL;
    hd_status st;
    HD_TRY(new_tokenizer(&t, err));
    t->is_byte = true;
    hd_vocab_init(&t->vocab, BYTE_PAD + 1);
    for (int64_t b = 0; b < 256; b++) {
        char byte = (char)b;
        HD_TRY(hd_vocab_add_raw(&t->vocab, &byte, 1, b, err));
    }
    for (int64_t i = 0; i < 3; i++) {
        HD_TRY(hd_vocab_add_raw(&t->vocab, names[i], strlen(names[i]), BYTE_BOS + i, err));
        t->vocab.token[BYTE_BOS + i].flags |= HD_TOKEN_SPECIAL;
    }
    HD_TRY(hd_vocab_index(&t->vocab, err));
    t->bos = BYTE_BOS, t->eos = BYTE_EOS, t->pad = BYTE_PAD;
    t->prefix = (hd_around){.id = {BYTE_BOS}, .n = 1};
    *out = t;
    t = NULL;
out:
    hd_tokenizer_close(t);
    return st;
}

hd_status hd_tokenizer_from_config(const hd_config *config, hd_tokenizer **out, hd_err *err)
{
    hd_status st = HD_OK;
    char *beside = NULL, *folder = NULL;
    const char *path = hd_config_str(config, HD_KEY_tokenizer_path), *model = hd_config_str(config, HD_KEY_load_parameters_path);
    if (hd_config_is(config, HD_KEY_tokenizer_type, "byte")) { return hd_tokenizer_open_byte(out, err); }
    if (!hd_config_is(config, HD_KEY_tokenizer_type, "huggingface")) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "tokenizer_type=%s is not supported; use huggingface (a tokenizer.json) or byte",
                       hd_config_str(config, HD_KEY_tokenizer_type));
    }
    if (model != NULL && !hd_config_is_set(config, HD_KEY_tokenizer_path)) {
        HD_TRY(hd_hub_resolve(model, &folder, err));
        HD_TRY(find_beside(folder, "tokenizer.json", &beside, err));
    }
    if (beside == NULL && path != NULL) {
        hd_free(folder);
        HD_TRY(hd_hub_resolve(path, &folder, err));
    }
    path = beside != NULL || path != NULL ? folder : NULL;
    if (path == NULL) {
        st = HD_FAIL(err, HD_E_CONFIG, "tokenizer_type=huggingface needs tokenizer_path=FOLDER or a tokenizer.json; without one there is tokenizer_type=byte");
        goto out;
    }
    HD_TRY(hd_tokenizer_open(path, out, err));
out:
    hd_free(beside);
    hd_free(folder);
    return st;
}

void hd_tokenizer_close(hd_tokenizer *tokenizer)
{
    if (tokenizer == NULL) { return; }
    hd_vocab_free(&tokenizer->vocab);
    hd_bpe_close(&tokenizer->bpe);
    hd_split_free(&tokenizer->split);
    hd_added_free(&tokenizer->raw);
    hd_added_free(&tokenizer->normalized);
    hd_free(tokenizer->chat_template);
    hd_free(tokenizer);
}

/* ---- what it holds ---------------------------------------------------------------------------------------------------------------- */

int64_t hd_tokenizer_vocab_size(const hd_tokenizer *tokenizer) { return (int64_t)tokenizer->vocab.n_token; }

int32_t hd_tokenizer_bos(const hd_tokenizer *tokenizer) { return tokenizer->bos; }

int32_t hd_tokenizer_eos(const hd_tokenizer *tokenizer) { return tokenizer->eos; }

int32_t hd_tokenizer_pad(const hd_tokenizer *tokenizer) { return tokenizer->pad; }

const char *hd_tokenizer_chat_template(const hd_tokenizer *tokenizer) { return tokenizer->chat_template; }

uint64_t hd_tokenizer_fingerprint(const hd_tokenizer *tokenizer) { return tokenizer->fingerprint; }

int32_t hd_tokenizer_find(const hd_tokenizer *tokenizer, const char *content, size_t n)
{
    return hd_vocab_find_text(&tokenizer->vocab, content, n);
}
