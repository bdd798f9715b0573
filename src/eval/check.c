/* `hadal check`: logits of a model beside golden ones, and activations beside a dump.  Every record of the golden file is compared and
 * reported before the command fails (MaxText stops at the first). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/path.h"
#include "config/config.h"
#include "eval/bisect.h"
#include "eval/golden.h"
#include "eval/golden_write.h"
#include "eval/passes.h"
#include "eval/reference.h"
#include "eval/report.h"
#include "hadal/commands.h"
#include "hadal/log.h"
#include "infer/loaded.h"
#include "infer/scorer.h"

enum { PASS_TOKENS = 512 }; /* prompts that are shorter together share a pass */

typedef struct checker {
    const hd_config *config;
    hd_compare_rules rules;
    int64_t max_tokens, token_size; /* of a prompt; token_size: INT64_MAX when not set */
    int64_t pass_tokens;            /* most tokens of a pass */
    bool one_per_pass;              /* prompts do not share a pass */
    bool skip_first;
    bool writes; /* there is nothing to compare with: our logits of given texts are written */
    hd_scorer *scorer;
    hd_routing_log routing;
    hd_bisect *bisect; /* NULL when not asked for */
    hd_golden *golden;
    hd_golden_writer writer; /* of our own logits; file NULL when not asked for */
    hd_file *metrics;        /* NULL when not asked for */
    hd_passes passes;        /* what is run: the leading tokens of every record */
    hd_check_result result;  /* of the record in work */
    int64_t row, row_end;    /* of the pass: the next, and where the record in work ends */
    int64_t row_begin;       /* where it began */
    int64_t n_failed;
    double worst_kl, worst_diff;
    bool said_maker, said_vocab;
} checker;

/* ---- the configuration --------------------------------------------------------------------------------------------------- */

static double limit_of(const hd_config *config, hd_config_key key)
{
    return hd_config_is_null(config, key) ? NAN : hd_config_float(config, key);
}

static hd_status read_config(checker *c, hd_err *err)
{
    const hd_config *config = c->config;
    bool golden = !hd_config_is_null(config, HD_KEY_golden_logits_path);
    c->rules = (hd_compare_rules){.max_kl = limit_of(config, HD_KEY_max_kl_div),
                                  .atol = limit_of(config, HD_KEY_atol),
                                  .rtol = hd_config_float(config, HD_KEY_rtol),
                                  .clip = limit_of(config, HD_KEY_clip_logits_epsilon)};
    c->max_tokens = hd_config_int(config, HD_KEY_max_target_length);
    c->token_size = hd_config_is_null(config, HD_KEY_token_size) ? INT64_MAX : hd_config_int(config, HD_KEY_token_size);
    c->skip_first = hd_config_bool(config, HD_KEY_skip_first_token);
    bool prompts = hd_config_is_set(config, HD_KEY_prompt) || !hd_config_is_null(config, HD_KEY_prompt_file);
    c->writes = !golden && prompts && !hd_config_is_null(config, HD_KEY_output_logits_path);
    if (!golden && !c->writes && hd_config_is_null(config, HD_KEY_bisect)) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "there is nothing to compare with: set golden_logits_path=FILE, or bisect=DUMP; "
                       "tools/hf_golden_logits.py makes both, and prompt_file=TEXTS output_logits_path=FILE the former from a folder");
    }
    if (golden && isnan(c->rules.max_kl) && isnan(c->rules.atol)) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "set max_kl_div=2e-4, or atol=1e-4, or both: without a limit nothing can fail");
    }
    if (hd_config_is_null(config, HD_KEY_load_parameters_path)) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "set load_parameters_path=FOLDER: a HuggingFace model folder or a hadal checkpoint");
    }
    return HD_OK;
}

/* ---- opening ----------------------------------------------------------------------------------------------------------------- */

static hd_status observe(void *context, hd_exec *ex, hd_arena *step, const char *name, int64_t layer,
                         const hd_tensor *t, hd_err *err)
{
    checker *c = context;
    hd_status st = HD_OK;
    if (c->routing.ids != NULL) { st = hd_routing_observe(&c->routing, ex, step, name, layer, t, err); }
    return st == HD_OK && c->bisect != NULL ? hd_bisect_observe(c->bisect, ex, step, name, layer, t, err) : st;
}

static hd_status open_model(checker *c, hd_err *err)
{
    hd_status st;
    hd_loaded shape;
    const char *path = hd_config_str(c->config, HD_KEY_load_parameters_path);
    HD_TRY(hd_loaded_read(c->config, path, &shape, err));
    c->one_per_pass = shape.options.moe_strategy == HD_MOE_DROPPING; /* an expert's capacity is that of one sequence */
    c->pass_tokens = c->one_per_pass || c->max_tokens > PASS_TOKENS ? c->max_tokens : PASS_TOKENS;
    HD_TRY(hd_routing_log_open(&shape.dims, c->pass_tokens, &c->routing, err));
    if (!hd_config_is_null(c->config, HD_KEY_bisect)) {
        HD_TRY(hd_bisect_new(&shape.dims, &shape.options, &c->bisect, err));
    }
    HD_TRY(hd_scorer_open(c->config, path, c->pass_tokens, observe, c, &c->scorer, err));
out:
    return st;
}

static hd_status open_outputs(checker *c, hd_err *err)
{
    hd_status st = HD_OK;
    const char *logits = hd_config_str(c->config, HD_KEY_output_logits_path),
               *metrics = hd_config_str(c->config, HD_KEY_metrics_file);
    if (logits != NULL) { HD_TRY(hd_golden_writer_open(logits, &c->writer, err)); }
    if (metrics != NULL) { HD_TRY(hd_io_create(metrics, HD_IO_TRUNCATE, &c->metrics, err)); }
out:
    return st;
}

static void close_all(checker *c)
{
    hd_golden_close(c->golden);
    hd_passes_free(&c->passes);
    hd_scorer_close(c->scorer);
    hd_bisect_free(c->bisect);
    hd_routing_log_close(&c->routing);
    hd_golden_writer_abandon(&c->writer);
    hd_io_abandon(&c->metrics);
}

/* ---- records ------------------------------------------------------------------------------------------------------------------ */

/* where: the record or the dump, for messages. */
static hd_status check_tokens(const checker *c, const char *where, const int32_t *tokens, int64_t n, hd_err *err)
{
    int64_t vocab = hd_scorer_dims(c->scorer)->vocab_size;
    if (n > c->max_tokens) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "%s: the prompt has %" PRId64 " tokens and max_target_length is %" PRId64 ": raise it%s", where,
                       n, c->max_tokens, c->golden != NULL ? ", or compare leading tokens only with token_size" : "");
    }
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= vocab) {
            return HD_FAIL(err, HD_E_CONFIG, "%s: token %" PRId64 " is %d, the model's vocabulary has %" PRId64, where,
                           i, (int)tokens[i], vocab);
        }
    }
    return HD_OK;
}

static void say_maker(checker *c, const hd_golden_record *r)
{
    size_t n = strlen(r->made_by);
    n -= n >= 2 ? 2 : 0; /* every word ends in ", " */
    if (!c->said_maker && n > 0) { hd_log(HD_LOG_RESULT, "golden logits by %.*s", (int)n, r->made_by); }
    if (!c->said_maker && n == 0) {
        hd_log(HD_LOG_RESULT, "the golden file does not say which code and dtype made it");
    }
    c->said_maker = true;
}

static hd_status report(checker *c, hd_err *err)
{
    hd_status st = HD_OK;
    hd_buf line = {0};
    const hd_compare *k = &c->result.compare;
    c->result.passed = hd_compare_passes(k);
    c->n_failed += !c->result.passed;
    if (!isnan(c->worst_kl) && !(k->max_kl <= c->worst_kl)) { c->worst_kl = k->max_kl; }
    if (!isnan(c->worst_diff) && !(k->max_diff <= c->worst_diff)) { c->worst_diff = k->max_diff; }
    hd_check_report(&c->result);
    if (c->metrics != NULL) {
        hd_check_report_json(&c->result, &line);
        HD_TRY(hd_buf_check(&line, err));
        HD_TRY(hd_io_write(c->metrics, hd_buf_text(&line), line.n, err));
    }
out:
    hd_buf_free(&line);
    return st;
}

static hd_status begin_record(checker *c, hd_err *err)
{
    hd_status st;
    const hd_golden_record *r;
    HD_TRY(hd_golden_next(c->golden, &r, err));
    if (r == NULL) { return HD_FAIL(err, HD_E_IO, "the golden file became shorter while it was read"); }
    say_maker(c, r);
    int64_t number = c->result.number;
    c->result = (hd_check_result){
        .number = number + 1, .record = r, .in_f32 = hd_config_is(c->config, HD_KEY_dtype, "float32")};
    c->row_begin = c->row_end;
    c->row_end += c->passes.lengths[number];
    hd_compare_begin(&c->rules, &c->result.compare);
    if (c->writer.file != NULL) {
        HD_TRY(hd_golden_write_begin(&c->writer, r->prompt, r->tokens, c->passes.lengths[number], err));
    }
out:
    return st;
}

static hd_status end_record(checker *c, hd_err *err)
{
    hd_status st;
    if (c->writer.file != NULL) { HD_TRY(hd_golden_write_end(&c->writer, err)); }
    HD_TRY(hd_routing_compare(&c->routing, c->row_begin, &c->result.record->experts, c->row_end - c->row_begin,
                              &c->result.flips, err));
    HD_TRY(report(c, err));
out:
    return st;
}

static hd_status compare_row(checker *c, const float *logits, hd_err *err)
{
    hd_status st;
    int64_t ours = hd_scorer_dims(c->scorer)->vocab_size, theirs, position = c->row - c->row_begin;
    const float *golden;
    HD_TRY(hd_golden_row(c->golden, &golden, &theirs, err));
    int64_t common = ours < theirs ? ours : theirs;
    if (ours != theirs && !c->said_vocab) {
        hd_log(HD_LOG_RESULT,
               "the golden vocabulary has %" PRId64 " tokens, the model's %" PRId64 ": the first %" PRId64
               " are compared",
               theirs, ours, common);
        c->said_vocab = true;
    }
    if (position > 0 || !c->skip_first) { hd_compare_row(&c->result.compare, position, logits, golden, common); }
    if (c->writer.file != NULL) { HD_TRY(hd_golden_write_row(&c->writer, logits, ours, err)); }
out:
    return st;
}

static hd_status take_rows(void *context, int64_t first, int64_t n, const float *logits, hd_err *err)
{
    checker *c = context;
    hd_status st = HD_OK;
    for (c->row = first; c->row < first + n; c->row++, logits += hd_scorer_dims(c->scorer)->vocab_size) {
        if (c->row == c->row_end) { HD_TRY(begin_record(c, err)); }
        HD_TRY(compare_row(c, logits, err));
        if (c->row + 1 == c->row_end) { HD_TRY(end_record(c, err)); }
    }
out:
    return st;
}

/* Looks at all records before the first pass. */
static hd_status gather(checker *c, const char *path, hd_err *err)
{
    hd_status st;
    char where[512];
    const hd_golden_record *r;
    for (;;) {
        HD_TRY(hd_golden_next(c->golden, &r, err));
        if (r == NULL) { break; }
        int64_t n = r->n_token < c->token_size ? r->n_token : c->token_size;
        (void)snprintf(where, sizeof where, "%s: line %" PRId64, path, r->line);
        HD_TRY(check_tokens(c, where, r->tokens, n, err));
        HD_TRY(hd_passes_add(&c->passes, r->tokens, n, err));
    }
    if (c->passes.n_prompt == 0) { st = HD_FAIL(err, HD_E_CORRUPT, "%s: no record is in this file", path); }
out:
    return st;
}

static hd_status run_passes(checker *c, hd_err *err)
{
    const int32_t *tokens = c->passes.tokens;
    for (int64_t first = 0, n, n_token; first < c->passes.n_prompt; first += n, tokens += n_token) {
        n = hd_passes_fit(&c->passes, first, c->one_per_pass ? 1 : c->pass_tokens, &n_token);
        c->row_end = 0;
        hd_status st = hd_scorer_run_packed(c->scorer, tokens, c->passes.lengths + first, n, take_rows, c, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status check_golden(checker *c, hd_err *err)
{
    hd_status st;
    const char *path = hd_config_str(c->config, HD_KEY_golden_logits_path);
    HD_TRY(hd_golden_open(path, &c->golden, err));
    HD_TRY(gather(c, path, err));
    hd_golden_rewind(c->golden);
    HD_TRY(run_passes(c, err));
    if (c->writer.file != NULL) { HD_TRY(hd_golden_writer_close(&c->writer, err)); }
    if (c->metrics != NULL) { HD_TRY(hd_io_close(&c->metrics, err)); }
out:
    return st;
}

/* ---- bisection -------------------------------------------------------------------------------------------------------------------- */

static hd_status drop_rows(void *context, int64_t first, int64_t n, const float *logits, hd_err *err)
{
    (void)context, (void)first, (void)n, (void)logits, (void)err;
    return HD_OK; /* the observer has seen them */
}

static hd_status bisect_file(checker *c, const char *path, char first[64], hd_err *err)
{
    hd_status st;
    const int32_t *tokens;
    const char *name;
    int64_t n;
    HD_TRY(hd_bisect_dump(c->bisect, path, &tokens, &n, err));
    HD_TRY(check_tokens(c, path, tokens, n, err));
    HD_TRY(hd_scorer_run(c->scorer, tokens, n, drop_rows, NULL, err));
    HD_TRY(hd_bisect_report(c->bisect, &name, err));
    if (name != NULL && first[0] == '\0') { (void)snprintf(first, 64, "%s", name); }
out:
    return st;
}

/* A dump, or each .safetensors file of a folder in the order of names. */
static hd_status bisect(checker *c, char first[64], hd_err *err)
{
    hd_status st;
    hd_io_info info;
    hd_io_names names = {0};
    char *file = NULL;
    bool any = false;
    const char *path = hd_config_str(c->config, HD_KEY_bisect);
    HD_TRY(hd_io_stat(path, &info, err));
    if (info.kind != HD_IO_DIRECTORY) { return bisect_file(c, path, first, err); }
    HD_TRY(hd_io_list(path, &names, err));
    for (size_t i = 0; i < names.n; i++) {
        const char *suffix = strrchr(names.name[i], '.');
        if (suffix == NULL || strcmp(suffix, ".safetensors") != 0) { continue; }
        hd_free(file);
        file = NULL;
        HD_TRY(hd_path_join(path, names.name[i], &file, err));
        HD_TRY(bisect_file(c, file, first, err));
        any = true;
    }
    if (!any) { st = HD_FAIL(err, HD_E_CONFIG, "%s: no dump (*.safetensors) is in this folder", path); }
out:
    hd_io_names_free(&names);
    hd_free(file);
    return st;
}

/* ---- the command -------------------------------------------------------------------------------------------------------------------- */

static void describe_limits(const checker *c, char out[128])
{
    int n = 0;
    out[0] = '\0';
    if (!isnan(c->rules.max_kl)) { n = snprintf(out, 128, "max_kl_div %g", c->rules.max_kl); }
    if (!isnan(c->rules.atol)) {
        (void)snprintf(out + n, 128 - (size_t)n, "%satol %g rtol %g", n > 0 ? ", " : "", c->rules.atol, c->rules.rtol);
    }
}

static hd_status conclude(const checker *c, const char *first, hd_err *err)
{
    char limits[128];
    int64_t n = c->result.number;
    describe_limits(c, limits);
    if (c->n_failed > 0) {
        return HD_FAIL(err, HD_E_VERIFY,
                       "%" PRId64 " of %" PRId64
                       " prompts are over the limit (%s): max KL divergence %.3g, logits differ by at most %.3g%s%s",
                       c->n_failed, n, limits, c->worst_kl, c->worst_diff,
                       first[0] != '\0' ? "; the first activation that differs is " : "", first);
    }
    if (n > 0) {
        hd_log(HD_LOG_RESULT,
               "%" PRId64 " prompt%s within the limit (%s): max KL divergence %.3g, logits differ by at most %.3g", n,
               n == 1 ? " is" : "s are", limits, c->worst_kl, c->worst_diff);
    }
    if (first[0] != '\0') { return HD_FAIL(err, HD_E_VERIFY, "the first activation that differs is %s", first); }
    return HD_OK;
}

hd_status hd_cmd_check(const hd_config *config, const hd_run_hooks *hooks, hd_err *err)
{
    hd_status st;
    checker c = {.config = config, .worst_kl = -1.0, .worst_diff = -1.0};
    char first[64] = "";
    (void)hooks; /* nothing to save: a signal ends the program */
    HD_TRY(read_config(&c, err));
    HD_TRY(open_model(&c, err));
    HD_TRY(open_outputs(&c, err));
    if (!hd_config_is_null(config, HD_KEY_golden_logits_path)) { HD_TRY(check_golden(&c, err)); }
    if (c.writes) { HD_TRY(hd_reference_write(config, c.scorer, c.max_tokens, c.token_size, &c.writer, err)); }
    if (c.bisect != NULL) { HD_TRY(bisect(&c, first, err)); }
    HD_TRY(conclude(&c, first, err));
out:
    close_all(&c);
    return st;
}
