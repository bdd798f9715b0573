/* The commands: what each is called, how it is explained, and which library call it is. */
#include "hadal/commands.h"

#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "hadal/checkpoint.h"
#include "hadal/config.h"
#include "hadal/init.h"
#include "hadal/log.h"
#include "hadal/tokenizer.h"

/* ---- a configuration and what the terminal takes from it ----------------------------------------------------------- */

/* Words such as "on" and "off" stand in quotes in YAML, where they would mean true and false. */
static hd_status value_is(const hd_config *config, const char *key, const char *wanted, bool *is, hd_err *err)
{
    char *text = NULL;
    size_t n = strlen(wanted);
    hd_status st = hd_config_value_text(config, key, &text, err);
    if (st != HD_OK) { return st; }
    const char *begin = text + strspn(text, "\"'");
    *is = strncmp(begin, wanted, n) == 0 && begin[n + strspn(begin + n, "\"'")] == '\0';
    hd_config_text_free(text);
    return HD_OK;
}

static hd_status set_up_terminal(const hd_config *config, hd_err *err)
{
    hd_status st = HD_OK;
    bool json, on, off;
    HD_TRY(value_is(config, "log_format", "json", &json, err));
    HD_TRY(value_is(config, "progress", "on", &on, err));
    HD_TRY(value_is(config, "progress", "off", &off, err));
    hd_cli_terminal_set_json(json);
    if (on || off || json) { hd_cli_terminal_set_progress(on && !json); }
out:
    return st;
}

static hd_status load(const hd_cli_call *call, hd_config **config, hd_err *err)
{
    hd_status st = hd_config_load(call->command->name, call->argc, (const char *const *)call->argv, hd_cli_configs_dir(),
                                  config, err);
    hd_config_scrub_argv(call->argc, call->argv);
    if (st == HD_OK) { st = set_up_terminal(*config, err); }
    return st;
}

/* ---- the commands ---------------------------------------------------------------------------------------------------- */

typedef hd_status (*with_hooks)(const hd_config *config, const hd_run_hooks *hooks, hd_err *err);

static hd_status plan_with_hooks(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    (void)hooks;
    return hd_cmd_plan(config, err);
}

static hd_status run_configured(const hd_cli_call *call, with_hooks body, bool saves_on_signal, hd_err *err)
{
    hd_status st = HD_OK;
    hd_config *config = NULL;
    HD_TRY(load(call, &config, err));
    if (call->print_config) {
        HD_TRY(hd_config_print(config, call->only_set ? HD_CONFIG_SET : HD_CONFIG_ORIGINS, hd_cli_print_line, NULL, err));
        goto out;
    }
    if (saves_on_signal) { hd_cli_catch_signals(); }
    hd_run_hooks hooks = {.stop_signal = hd_cli_stop_signal(), .progress = hd_cli_terminal_progress()};
    HD_TRY(body(config, &hooks, err));
out:
    hd_config_free(config);
    return st;
}

static hd_status run_train(const hd_cli_call *call, hd_err *err)
{
    return run_configured(call, hd_cmd_train, true, err);
}

static hd_status run_plan(const hd_cli_call *call, hd_err *err)
{
    return run_configured(call, plan_with_hooks, false, err);
}

static hd_status run_check(const hd_cli_call *call, hd_err *err)
{
    return run_configured(call, hd_cmd_check, false, err);
}

/* Takes the words that are neither keys nor a configuration file out of the call: what the command works on. */
static int take_paths(hd_cli_call *call, const char **paths, int most)
{
    int n = 0, kept = 0;
    for (int i = 0; i < call->argc; i++) {
        const char *word = call->argv[i], *dot = strrchr(word, '.');
        bool is_file = dot != NULL && (strcmp(dot, ".yml") == 0 || strcmp(dot, ".yaml") == 0);
        if (strchr(word, '=') != NULL || is_file) {
            call->argv[kept++] = call->argv[i];
        } else {
            if (n < most) { paths[n] = word; }
            n++;
        }
    }
    call->argc = kept;
    return n;
}

/* A command on one or two folders, with keys. */
typedef hd_status (*with_paths)(const hd_config *config, const char *const *paths, const hd_run_hooks *hooks, hd_err *err);

static hd_status run_on_paths(const hd_cli_call *given, int least, int most, const char *want, with_paths body, hd_err *err)
{
    hd_status st = HD_OK;
    hd_cli_call call = *given;
    hd_config *config = NULL;
    const char *paths[2] = {NULL, NULL};
    int n = take_paths(&call, paths, 2);
    if ((n < least || n > most) && !call.print_config) {
        return HD_FAIL(err, HD_E_CONFIG, "%s takes %s (got %d words)", call.command->name, want, n);
    }
    HD_TRY(load(&call, &config, err));
    if (call.print_config) {
        HD_TRY(hd_config_print(config, call.only_set ? HD_CONFIG_SET : HD_CONFIG_ORIGINS, hd_cli_print_line, NULL, err));
        goto out;
    }
    hd_cli_catch_signals();
    hd_run_hooks hooks = {.stop_signal = hd_cli_stop_signal(), .progress = hd_cli_terminal_progress()};
    HD_TRY(body(config, paths, &hooks, err));
out:
    hd_config_free(config);
    return st;
}

static hd_status convert(const hd_config *config, const char *const *paths, const hd_run_hooks *hooks, hd_err *err)
{
    return hd_cmd_convert(config, paths[0], paths[1], hooks, err);
}

static hd_status run_convert(const hd_cli_call *call, hd_err *err)
{
    return run_on_paths(call, 2, 2, "the folder to read and the folder to write: hadal convert DeepSeek-V3 V3-BF16 save_dtype=bfloat16", convert,
                        err);
}

static hd_status verify(const hd_config *config, const char *const *paths, const hd_run_hooks *hooks, hd_err *err)
{
    return hd_cmd_verify(config, paths[0], paths[1], hooks, err);
}

static hd_status run_verify(const hd_cli_call *call, hd_err *err)
{
    return run_on_paths(call, 1, 2, "a folder and, to compare with, a file of digests: hadal verify DeepSeek-V3 v3.digests", verify, err);
}

static hd_status inspect_model(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    (void)hooks;
    return hd_cmd_inspect_model(config, err);
}

static hd_status run_inspect(const hd_cli_call *call, hd_err *err)
{
    const char *dot = call->argc > 0 ? strrchr(call->argv[0], '.') : NULL;
    if (call->argc > 0 && (strchr(call->argv[0], '=') != NULL || (dot != NULL && strcmp(dot, ".yml") == 0))) {
        return run_configured(call, inspect_model, false, err);
    }
    if (call->argc < 1 || call->argc > 2) {
        return HD_FAIL(err, HD_E_CONFIG, "inspect takes a folder and, to list single tensors, a pattern (got %d words): "
                       "hadal inspect DeepSeek-V3 'layers[.]3[.]self_attn'", call->argc);
    }
    return hd_cmd_inspect(call->argv[0], call->argc == 2 ? call->argv[1] : NULL, err);
}

static hd_status run_diff(const hd_cli_call *call, hd_err *err)
{
    if (call->argc != 2) {
        return HD_FAIL(err, HD_E_CONFIG, "diff takes two folders (got %d words): hadal diff runs/a/checkpoints/100 runs/b/checkpoints/100",
                       call->argc);
    }
    hd_cli_catch_signals();
    hd_run_hooks hooks = {.stop_signal = hd_cli_stop_signal(), .progress = hd_cli_terminal_progress()};
    return hd_cmd_diff(call->argv[0], call->argv[1], &hooks, err);
}

/* While the model is being loaded a signal ends the program at once; from here on answers end in good order. */
static void catch_signals(void *context, int chat)
{
    (void)context;
    if (chat) {
        hd_cli_catch_chat_signals();
    } else {
        hd_cli_catch_signals();
    }
}

static hd_status decode(const hd_config *config, const hd_run_hooks *given, hd_err *err)
{
    hd_status st;
    bool none, input;
    char *text = NULL;
    hd_run_hooks hooks = *given;
    HD_TRY(value_is(config, "prompt_file", "", &none, err));
    HD_TRY(value_is(config, "prompt", "-", &input, err));
    if (input && none) { HD_TRY(hd_cli_read_stdin(&text, &hooks.n_input, err)); }
    hooks.input = text;
    hooks.ready = catch_signals;
    hooks.interrupt = hd_cli_interrupt();
    if (hd_cli_is_console()) { hooks.read_line = hd_cli_read_line; }
    if (hooks.progress == 2 || hooks.read_line != NULL) { hooks.write = hd_cli_write_plain; } /* somebody reads along */
    st = hd_cmd_decode(config, &hooks, err);
out:
    free(text);
    return st;
}

static hd_status run_decode(const hd_cli_call *call, hd_err *err)
{
    return run_configured(call, decode, false, err);
}

/* One file, or the standard input where neither a file nor text= is given. */
static hd_status run_tokenize(const hd_cli_call *given, hd_err *err)
{
    hd_status st = HD_OK;
    hd_cli_call call = *given;
    hd_config *config = NULL;
    hd_tokenize_input input = {0};
    char *text = NULL;
    bool has_text;
    const char *path = NULL;
    if (take_paths(&call, &path, 1) > 1) { return HD_FAIL(err, HD_E_CONFIG, "tokenize takes one file (got several): hadal tokenize tokenizer_path=FOLDER book.txt"); }
    HD_TRY(load(&call, &config, err));
    if (call.print_config) {
        HD_TRY(hd_config_print(config, call.only_set ? HD_CONFIG_SET : HD_CONFIG_ORIGINS, hd_cli_print_line, NULL, err));
        goto out;
    }
    HD_TRY(value_is(config, "text", "", &has_text, err));
    has_text = !has_text;
    input.path = path;
    if (!has_text && path == NULL) { HD_TRY(hd_cli_read_stdin(&text, &input.n, err)); }
    input.text = text;
    HD_TRY(hd_cmd_tokenize(config, &input, hd_cli_write, NULL, err));
out:
    free(text);
    hd_config_free(config);
    return st;
}

/* The word "train" and then files, among keys. */
static hd_status run_tokenizer(const hd_cli_call *given, hd_err *err)
{
    hd_status st = HD_OK;
    hd_cli_call call = *given;
    hd_config *config = NULL;
    const char **words = calloc((size_t)call.argc + 1, sizeof *words);
    if (words == NULL) { return HD_FAIL(err, HD_E_NOMEM, "out of memory: the words of the command"); }
    int n = take_paths(&call, words, call.argc);
    bool trains = n > 0 && strcmp(words[0], "train") == 0;
    if (!call.print_config && (!trains || n < 2)) {
        st = HD_FAIL(err, HD_E_CONFIG, "tokenizer takes the word train and files of text: hadal tokenizer train book.txt vocab_size=8192 tokenizer_path=OUT");
        goto out;
    }
    HD_TRY(load(&call, &config, err));
    if (call.print_config) {
        HD_TRY(hd_config_print(config, call.only_set ? HD_CONFIG_SET : HD_CONFIG_ORIGINS, hd_cli_print_line, NULL, err));
        goto out;
    }
    hd_cli_catch_signals();
    hd_run_hooks hooks = {.stop_signal = hd_cli_stop_signal(), .progress = hd_cli_terminal_progress()};
    HD_TRY(hd_cmd_tokenizer_train(config, words + 1, n - 1, &hooks, err));
out:
    free(words);
    hd_config_free(config);
    return st;
}

static hd_status run_state_hash(const hd_cli_call *call, hd_err *err)
{
    if (call->argc != 1) {
        return HD_FAIL(err, HD_E_CONFIG, "state-hash takes one checkpoint (got %d words): hadal state-hash RUN/checkpoints/100",
                       call->argc);
    }
    char hex[65];
    hd_status st = hd_state_hash(call->argv[0], hex, err);
    if (st == HD_OK) { hd_cli_print_line(NULL, hex); }
    return st;
}

static hd_status run_help(const hd_cli_call *call, hd_err *err)
{
    if (call->argc > 1) {
        return HD_FAIL(err, HD_E_CONFIG, "help takes one topic (got %d words)", call->argc);
    }
    return hd_cli_help(call->argc == 1 ? call->argv[0] : NULL, err);
}

static hd_status run_version(const hd_cli_call *call, hd_err *err)
{
    (void)call;
    (void)err;
    char line[64] = "hadal ";
    strncat(line, hd_version(), sizeof line - strlen(line) - 1);
    hd_cli_print_line(NULL, line);
    return HD_OK;
}

/* ---- the table --------------------------------------------------------------------------------------------------------- */

#define KEYS "[FILE.yml] key=value ..."

const hd_cli_command hd_cli_commands[] = {
    {.name = "train", .arguments = KEYS, .takes_keys = true, .run = run_train,
     .summary = "train a model, or go on with a run that was stopped",
     .text = "Trains from random weights, from load_parameters_path=, or, when the run's folder\n"
             "<base_output_directory>/<run_name> holds a checkpoint, from there: the same command that started a run\n"
             "continues it.  Ctrl-C and SIGTERM save a checkpoint and leave; Ctrl-C twice leaves at once.",
     .examples =
         "# a small model on your own text, byte by byte, with the last 5 % held out\n"
         "hadal train model_name=deepseek-mini dataset_path=book.txt eval_fraction=0.05 \\\n"
         "    eval_interval=200 steps=1000 base_output_directory=runs run_name=book\n"
         "# the documented V2-Lite pre-training command on synthetic data\n"
         "hadal train base.yml base_output_directory=runs run_name=pretrain model_name=deepseek2-16b \\\n"
         "    per_device_batch_size=4 enable_checkpointing=false async_checkpointing=false steps=5 \\\n"
         "    max_target_length=1024 attention=flash dtype=bfloat16 weight_dtype=bfloat16 \\\n"
         "    megablox=True sparse_matmul=True dataset_type=synthetic\n"
         "# the same configuration, printed with the origin of each value\n"
         "hadal train --print-config model_name=deepseek-mini dataset_path=book.txt"},
    {.name = "plan", .arguments = KEYS, .takes_keys = true, .run = run_plan,
     .summary = "tell the memory and work of a training run without taking it",
     .text = "Takes the keys of train.  The answer comes from the allocations that train itself makes, with the memory\n"
             "left out, so that it also works for models larger than the machine.",
     .examples = "# what would V3 take?\n"
                 "hadal plan model_name=deepseek3-671b per_device_batch_size=4 max_target_length=1024\n"
                 "# fail when the answer is above 22 GB\n"
                 "hadal plan model_name=deepseek-mini device_memory_gb=22"},
    {.name = "decode", .arguments = KEYS, .takes_keys = true, .run = run_decode,
     .summary = "continue prompts, or chat, with a model",
     .text = "max_target_length is the length of prompt and answer together, max_prefill_predict_length the most tokens a\n"
             "prompt may have.  On a terminal the answer appears as it is made; elsewhere it is one line at the end.  Many\n"
             "prompts of a file are answered together, in their order.  On a terminal and without a prompt: a chat, in\n"
             "which Ctrl-C ends an answer and /help tells more.  docs/decode.md shows each.",
     .examples = "hadal decode model_name=deepseek-mini load_parameters_path=runs/book \\\n"
                 "    prompt='It was a dark and' max_prefill_predict_length=64 max_target_length=256\n"
                 "# a chat with the model's own template\n"
                 "hadal decode load_parameters_path=DeepSeek-V2-Lite-Chat max_target_length=4096\n"
                 "# a file of prompts, one per line, up to the first empty line of each answer\n"
                 "hadal decode load_parameters_path=DeepSeek-V2-Lite prompt_file=questions.txt documents=lines \\\n"
                 "    stop='[\"\\n\\n\"]' answer_format=jsonl max_target_length=512 > answers.jsonl\n"
                 "# the standard input as the prompt\n"
                 "cat article.txt | hadal decode load_parameters_path=DeepSeek-V2-Lite prompt=- max_prefill_predict_length=4000 \\\n"
                 "    max_target_length=4200"},
    {.name = "state-hash", .arguments = "CHECKPOINT", .run = run_state_hash,
     .summary = "one SHA-256 over all state of a checkpoint",
     .text = "Covers names, shapes and bits of weights and moments, counts, random state and the position in the data, and\n"
             "does not depend on how they are spread over files.  CHECKPOINT is one checkpoint, a folder of them or a\n"
             "run's folder (then its newest).  Two runs that agree in every bit have the same hash.",
     .examples = "hadal state-hash runs/book"},
    {.name = "help", .arguments = "[COMMAND | KEY | environment | base.yml]", .run = run_help,
     .summary = "explain a command, a configuration key or the environment",
     .examples = "hadal help train\n"
                 "hadal help remat_policy\n"
                 "hadal help environment\n"
                 "hadal help base.yml > mine.yml      # every key with its default and meaning"},
    {.name = "version", .arguments = "", .run = run_version, .summary = "print the version"},
    {.name = "sft", .arguments = KEYS, .summary = "supervised fine-tuning on conversations"},
    {.name = "convert", .arguments = "FROM TO [key=value ...]", .takes_keys = true, .run = run_convert,
     .summary = "write a model folder in another dtype, as other files, or without its optimizer",
     .text = "FROM is a HuggingFace folder (BF16, F32, F16 or FP8, whatever its files), a name in the hub's cache, or a training\n"
             "run; TO is a new HuggingFace folder.  Memory stays below 1 GiB for any model.  A conversion that was\n"
             "interrupted goes on when the same command is given again; until it is complete the folder is called TO.partial.",
     .examples = "# FP8 to BF16, as fp8_cast_bf16.py does\n"
                 "hadal convert DeepSeek-V3 DeepSeek-V3-BF16 save_dtype=bfloat16\n"
                 "# a trained model without its optimizer, in files of 2 GB\n"
                 "hadal convert runs/book book-model save_dtype=bfloat16 max_shard_size_gb=2\n"
                 "# BF16 to FP8 with power-of-two scales, without the MTP layer\n"
                 "hadal convert DeepSeek-V3-BF16 small save_dtype=float8_e4m3fn scale_fmt=ue8m0 --enable_mtp=false"},
    {.name = "check", .arguments = "[FILE.yml] key=value ... --max_kl_div=X --golden_logits_path=FILE", .takes_keys = true, .run = run_check,
     .summary = "compare logits with a golden file, activations with a dump",
     .text = "Runs the model of load_parameters_path= over the prompts of a golden file (tools/hf_golden_logits.py makes one) and reports,\n"
             "per prompt, the KL divergence at its worst position, differences of logits, argmax and experts.  Exit status 3 when\n"
             "max_kl_div or atol is exceeded.  --bisect=DUMP names the first activation that differs.  docs/check.md has more.",
     .examples =
         "hadal check model_name=deepseek2-16b load_parameters_path=DeepSeek-V2-Lite weight_dtype=bfloat16 \\\n"
         "    max_target_length=4 dtype=float32 matmul_precision=high --max_kl_div=2e-4 --golden_logits_path=golden.jsonl\n"
         "hadal check load_parameters_path=DeepSeek-V2-Lite dtype=float32 max_target_length=512 --bisect=dumps"},
    {.name = "eval", .arguments = "...", .summary = "score a benchmark"},
    {.name = "inspect", .arguments = "FOLDER [PATTERN] | [FILE.yml] key=value ...", .takes_keys = true, .run = run_inspect, .summary = "list the tensors of a folder",
     .text = "Names, shapes, dtypes, sizes, parameters in all and per token, and whether the model is whole; values are not read.\n"
             "FOLDER is a HuggingFace folder, a name in the hub's cache, a checkpoint or a run.  With PATTERN, an extended regular\n"
             "expression, every matching tensor and its file.  With keys instead of a folder, the tensors and parameters that the\n"
             "model of that configuration has.",
     .examples = "hadal inspect DeepSeek-V2-Lite\n"
                 "hadal inspect DeepSeek-V3 'layers[.]61[.]'\n"
                 "hadal inspect model_name=deepseek3-671b"},
    {.name = "diff", .arguments = "A B", .run = run_diff, .summary = "compare two folders value by value",
     .text = "Each tensor that differs: how many values, the largest absolute and relative difference, the first place.  FP8 and\n"
             "fused experts are compared as the values they stand for.  Exit status 3 when something differs.",
     .examples = "hadal diff DeepSeek-V3 DeepSeek-V3-BF16"},
    {.name = "verify", .arguments = "FOLDER [DIGESTS] [key=value ...]", .takes_keys = true, .run = run_verify,
     .summary = "certify a folder by digests of its values",
     .text = "Prints one SHA-256 over names, shapes and value bits, the same however the model is spread over files.  With a file\n"
             "of digests, names every tensor and block that differs (exit status 3).",
     .examples = "# certify a download: the digests once, the comparison anywhere\n"
                 "hadal verify DeepSeek-V3 digests_out=v3.digests\n"
                 "hadal verify /other/disk/DeepSeek-V3 v3.digests"},
    {.name = "tokenize", .arguments = "[FILE] key=value ...", .takes_keys = true, .run = run_tokenize, .summary = "text to token ids and back",
     .text = "Reads text=, FILE or the standard input and prints the ids, those of one document per line.  tokenizer_path is a folder\n"
             "with a tokenizer.json, or the file itself.  The tokenizer's own rule puts bos and eos around a text unless\n"
             "add_special_tokens=false.  Character classes are those of Unicode 16.0.0, as in HuggingFace tokenizers.",
     .examples = "hadal tokenize tokenizer_path=DeepSeek-V3 text='Hello, world'\n"
                 "hadal tokenize tokenizer_path=DeepSeek-V3 book.txt show=count\n"
                 "hadal tokenize tokenizer_path=DeepSeek-V3 documents=jsonl texts.jsonl > ids.txt\n"
                 "hadal tokenize tokenizer_path=DeepSeek-V3 documents=lines show=text ids.txt"},
    {.name = "tokenizer", .arguments = "train FILE... vocab_size=N tokenizer_path=FOLDER", .takes_keys = true, .run = run_tokenizer,
     .summary = "train a tokenizer on text",
     .text = "Counts the words of files and folders (plain text or JSON lines, also .gz and .zst), as DeepSeek-V3's tokenizer cuts them,\n"
             "and merges the most frequent pairs until there are vocab_size tokens.  The folder gets a tokenizer.json, which\n"
             "HuggingFace tokenizers reads too, and a tokenizer_config.json.  The result is the same on any number of threads.",
     .examples = "hadal tokenizer train book.txt vocab_size=8192 tokenizer_path=runs/tokenizer\n"
                 "hadal tokenizer train texts/ more.jsonl.zst text_column=content vocab_size=32000 tokenizer_path=runs/tokenizer"},
    {.name = "bench", .arguments = "...", .summary = "measure operations against their bounds"},
    {.name = NULL},
};

const hd_cli_command *hd_cli_find_command(const char *name)
{
    for (const hd_cli_command *c = hd_cli_commands; c->name != NULL; c++) {
        if (strcmp(c->name, name) == 0) { return c; }
    }
    return NULL;
}

/* Insertions, deletions, substitutions and swaps of neighbours that turn a into b; both shorter than the table. */
static int edit_distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    int d[MAX + 1][MAX + 1];
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX || m > MAX) { return MAX; }
    for (size_t i = 0; i <= n; i++) { d[i][0] = (int)i; }
    for (size_t j = 0; j <= m; j++) { d[0][j] = (int)j; }
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) { best = d[i - 1][j] + 1; }
            if (d[i][j - 1] + 1 < best) { best = d[i][j - 1] + 1; }
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) {
                best = d[i - 2][j - 2] + 1;
            }
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const hd_cli_command *hd_cli_nearest_command(const char *name)
{
    const hd_cli_command *nearest = NULL;
    int least = (int)strlen(name) / 3 + 2; /* further away is another word, not a slip */
    for (const hd_cli_command *c = hd_cli_commands; c->name != NULL; c++) {
        int distance = edit_distance(name, c->name);
        if (distance < least) {
            least = distance;
            nearest = c;
        }
    }
    return nearest;
}
