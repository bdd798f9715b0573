/* A trained vocabulary as tokenizer.json and tokenizer_config.json, in the form of DeepSeek-V3's.  See train.h.
 *
 * BOS in front of a text comes from the post-processor, so that every class of transformers that reads the file puts it there. */
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/scan.h"
#include "tokenizer/symbols.h"
#include "tokenizer/train.h"

static const char *const specials[HD_TRAIN_SPECIALS] = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};

static void put_member(hd_json_writer *w, const char *key, const char *value)
{
    hd_json_write_key(w, key);
    hd_json_write_string(w, value);
}

static void put_flag(hd_json_writer *w, const char *key, bool value)
{
    hd_json_write_key(w, key);
    hd_json_write_bool(w, value);
}

static void put_null(hd_json_writer *w, const char *key)
{
    hd_json_write_key(w, key);
    hd_json_write_null(w);
}

/* A token in the byte alphabet. */
static void put_symbols(hd_buf *out, const hd_trained *t, size_t id)
{
    size_t begin = id > 0 ? t->ends[id - 1] : 0;
    for (size_t i = begin; i < t->ends[id]; i++) {
        char bytes[4];
        hd_buf_append(out, bytes, hd_utf8_encode(hd_byte_symbol((unsigned char)t->bytes[i]), bytes));
    }
}

static void put_added(hd_json_writer *w)
{
    hd_json_write_key(w, "added_tokens");
    hd_json_write_array(w);
    for (int i = 0; i < HD_TRAIN_SPECIALS; i++) {
        hd_json_write_object(w);
        hd_json_write_key(w, "id");
        hd_json_write_i64(w, i);
        put_member(w, "content", specials[i]);
        put_flag(w, "single_word", false);
        put_flag(w, "lstrip", false);
        put_flag(w, "rstrip", false);
        put_flag(w, "normalized", false);
        put_flag(w, "special", true);
        hd_json_write_end(w);
    }
    hd_json_write_end(w);
}

static void put_byte_level(hd_json_writer *w, bool trim_offsets)
{
    hd_json_write_object(w);
    put_member(w, "type", "ByteLevel");
    put_flag(w, "add_prefix_space", false);
    put_flag(w, "trim_offsets", trim_offsets);
    put_flag(w, "use_regex", false);
    hd_json_write_end(w);
}

static void put_pre_tokenizer(hd_json_writer *w)
{
    hd_json_write_key(w, "pre_tokenizer");
    hd_json_write_object(w);
    put_member(w, "type", "Sequence");
    hd_json_write_key(w, "pretokenizers");
    hd_json_write_array(w);
    for (int i = 0; hd_scan_patterns[HD_SCAN_DEEPSEEK_V3][i] != NULL; i++) {
        hd_json_write_object(w);
        put_member(w, "type", "Split");
        hd_json_write_key(w, "pattern");
        hd_json_write_object(w);
        put_member(w, "Regex", hd_scan_patterns[HD_SCAN_DEEPSEEK_V3][i]);
        hd_json_write_end(w);
        put_member(w, "behavior", "Isolated");
        put_flag(w, "invert", false);
        hd_json_write_end(w);
    }
    put_byte_level(w, true);
    hd_json_write_end(w);
    hd_json_write_end(w);
}

/* A sequence of a template: BOS when with_bos, then $A or $B. */
static void put_sequence(hd_json_writer *w, const char *text, int type)
{
    hd_json_write_object(w);
    hd_json_write_key(w, text != NULL ? "Sequence" : "SpecialToken");
    hd_json_write_object(w);
    put_member(w, "id", text != NULL ? text : specials[0]);
    hd_json_write_key(w, "type_id");
    hd_json_write_i64(w, type);
    hd_json_write_end(w);
    hd_json_write_end(w);
}

static void put_post_processor(hd_json_writer *w)
{
    hd_json_write_key(w, "post_processor");
    hd_json_write_object(w);
    put_member(w, "type", "TemplateProcessing");
    for (int pair = 0; pair < 2; pair++) {
        hd_json_write_key(w, pair ? "pair" : "single");
        hd_json_write_array(w);
        for (int i = 0; i <= pair; i++) {
            put_sequence(w, NULL, i);
            put_sequence(w, i == 0 ? "A" : "B", i);
        }
        hd_json_write_end(w);
    }
    hd_json_write_key(w, "special_tokens");
    hd_json_write_object(w);
    hd_json_write_key(w, specials[0]);
    hd_json_write_object(w);
    put_member(w, "id", specials[0]);
    hd_json_write_key(w, "ids");
    hd_json_write_array(w);
    hd_json_write_i64(w, 0);
    hd_json_write_end(w);
    hd_json_write_key(w, "tokens");
    hd_json_write_array(w);
    hd_json_write_string(w, specials[0]);
    hd_json_write_end(w);
    hd_json_write_end(w);
    hd_json_write_end(w);
    hd_json_write_end(w);
}

static void put_model(hd_json_writer *w, const hd_trained *t, hd_buf *text)
{
    hd_json_write_key(w, "model");
    hd_json_write_object(w);
    put_member(w, "type", "BPE");
    put_null(w, "dropout");
    put_null(w, "unk_token");
    put_null(w, "continuing_subword_prefix");
    put_null(w, "end_of_word_suffix");
    put_flag(w, "fuse_unk", false);
    put_flag(w, "byte_fallback", false);
    hd_json_write_key(w, "vocab");
    hd_json_write_object(w);
    for (size_t id = 0; id < t->n_token; id++) {
        hd_buf_clear(text);
        put_symbols(text, t, id);
        if (id < HD_TRAIN_SPECIALS) { hd_buf_append_text(text, specials[id]); }
        hd_json_write_key_n(w, hd_buf_text(text), text->n);
        hd_json_write_i64(w, (int64_t)id);
    }
    hd_json_write_end(w);
    hd_json_write_key(w, "merges");
    hd_json_write_array(w);
    for (size_t i = 0; i < t->n_merge; i++) {
        hd_buf_clear(text);
        put_symbols(text, t, (size_t)t->merge[i].left);
        hd_buf_append_char(text, ' ');
        put_symbols(text, t, (size_t)t->merge[i].right);
        hd_json_write_string_n(w, hd_buf_text(text), text->n);
    }
    hd_json_write_end(w);
    hd_json_write_end(w);
}

hd_status hd_trained_write(const hd_trained *trained, hd_buf *json, hd_err *err)
{
    hd_json_writer w;
    hd_buf text = {0};
    hd_json_writer_init(&w, json, 1);
    hd_json_write_object(&w);
    put_member(&w, "version", "1.0");
    put_null(&w, "truncation");
    put_null(&w, "padding");
    put_added(&w);
    put_null(&w, "normalizer");
    put_pre_tokenizer(&w);
    put_post_processor(&w);
    hd_json_write_key(&w, "decoder");
    put_byte_level(&w, true);
    put_model(&w, trained, &text);
    hd_json_write_end(&w);
    hd_buf_append_char(json, '\n');
    hd_status st = hd_buf_check(&text, err);
    hd_buf_free(&text);
    return st == HD_OK ? hd_buf_check(json, err) : st;
}

hd_status hd_trained_write_config(hd_buf *json, hd_err *err)
{
    hd_json_writer w;
    hd_json_writer_init(&w, json, 2);
    hd_json_write_object(&w);
    put_member(&w, "tokenizer_class", "PreTrainedTokenizerFast");
    put_member(&w, "bos_token", specials[0]);
    put_member(&w, "eos_token", specials[1]);
    put_member(&w, "pad_token", specials[2]);
    put_null(&w, "unk_token");
    put_flag(&w, "clean_up_tokenization_spaces", false);
    hd_json_write_key(&w, "model_max_length");
    hd_json_write_i64(&w, 131072);
    hd_json_write_end(&w);
    hd_buf_append_char(json, '\n');
    return hd_buf_check(json, err);
}
