/* See report.h. */
#include "eval/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "hadal/log.h"

enum { SHOWN = 60 }; /* bytes of a prompt */

/* The beginning of a prompt on one line. */
static void shorten(const char *prompt, char out[SHOWN + 4])
{
    size_t n = strnlen(prompt, SHOWN);
    bool cut = prompt[n] != '\0';
    n -= cut ? hd_utf8_incomplete_tail(prompt, n) : 0;
    for (size_t i = 0; i < n; i++) { out[i] = (unsigned char)prompt[i] < ' ' ? ' ' : prompt[i]; }
    memcpy(out + n, cut ? "..." : "", cut ? 4 : 1);
}

static void report_flips(const hd_routing_flips *f, bool in_f32)
{
    if (f->n_choice == 0) { return; }
    if (f->n_flip == 0) {
        hd_log(HD_LOG_RESULT, "  experts: 0 of %" PRId64 " choices differ", f->n_choice);
        return;
    }
    hd_log(HD_LOG_RESULT, "  experts: %" PRId64 " of %" PRId64 " choices differ, the largest gap among them is %.3g",
           f->n_flip, f->n_choice, f->largest_gap);
    if (f->n_wide > 0 && in_f32) {
        hd_log(HD_LOG_RESULT,
               "  experts: %" PRId64 " of them have a gap of %g or more, which rounding does not explain", f->n_wide,
               HD_ROUTING_NEAR_TIE);
    }
}

void hd_check_report(const hd_check_result *r)
{
    char prompt[SHOWN + 4];
    const hd_compare *c = &r->compare;
    shorten(r->record->prompt, prompt);
    hd_log(HD_LOG_RESULT, "prompt %" PRId64 " \"%s\": %" PRId64 " tokens, %" PRId64 " compared: %s", r->number, prompt,
           r->record->n_token, c->n_row, r->passed ? "agrees" : "OVER THE LIMIT");
    if (c->n_row == 0) { return; }
    hd_log(HD_LOG_RESULT,
           "  max KL divergence = %.3g at index %" PRId64 ", the corresponding token id is %d; mean %.3g", c->max_kl,
           c->max_kl_position, (int)r->record->tokens[c->max_kl_position], c->sum_kl / (double)c->n_row);
    hd_log(HD_LOG_RESULT,
           "  logits differ by at most %.3g (index %" PRId64 ", token %" PRId64
           ": ours %.7g, golden %.7g), %.3g on average; the largest is %.4g",
           c->max_diff, c->max_diff_position, c->max_diff_token, (double)c->max_diff_ours, (double)c->max_diff_golden,
           c->sum_diff / (double)c->n_logit, c->max_golden);
    if (!isnan(c->rules.atol)) {
        hd_log(HD_LOG_RESULT, "  %" PRId64 " of %" PRId64 " logits are beyond atol %g + rtol %g |golden|", c->n_beyond,
               c->n_logit, c->rules.atol, c->rules.rtol);
    }
    hd_log(HD_LOG_RESULT,
           "  argmax differs at %" PRId64 " of %" PRId64 " positions; %.2f %% of the top %d tokens agree", c->n_argmax,
           c->n_row, 100.0 * (double)c->n_top / (double)c->n_top_possible, HD_COMPARE_TOP);
    report_flips(&r->flips, r->in_f32);
}

static void add_f64(hd_json_writer *w, const char *key, double value)
{
    hd_json_write_key(w, key);
    hd_json_write_f64(w, value);
}

static void add_i64(hd_json_writer *w, const char *key, int64_t value)
{
    hd_json_write_key(w, key);
    hd_json_write_i64(w, value);
}

void hd_check_report_json(const hd_check_result *r, hd_buf *out)
{
    const hd_compare *c = &r->compare;
    double rows = c->n_row > 0 ? (double)c->n_row : NAN;
    hd_json_writer w;
    hd_json_writer_init(&w, out, 0);
    hd_json_write_object(&w);
    add_i64(&w, "prompt_number", r->number);
    hd_json_write_key(&w, "prompt");
    hd_json_write_string(&w, r->record->prompt);
    add_i64(&w, "tokens", r->record->n_token);
    add_i64(&w, "compared", c->n_row);
    hd_json_write_key(&w, "passed");
    hd_json_write_bool(&w, r->passed);
    add_f64(&w, "max_kl_div", c->max_kl);
    add_i64(&w, "max_kl_div_index", c->max_kl_position);
    add_f64(&w, "mean_kl_div", c->sum_kl / rows);
    add_f64(&w, "max_logit_difference", c->max_diff);
    add_f64(&w, "mean_logit_difference", c->sum_diff / (double)(c->n_logit > 0 ? c->n_logit : 1));
    add_f64(&w, "max_golden_logit", c->max_golden);
    if (!isnan(c->rules.atol)) { add_i64(&w, "beyond_tolerance", c->n_beyond); }
    add_i64(&w, "argmax_flips", c->n_argmax);
    add_f64(&w, "top_agreement", (double)c->n_top / (double)(c->n_top_possible > 0 ? c->n_top_possible : 1));
    if (r->flips.n_choice > 0) {
        add_i64(&w, "expert_choices", r->flips.n_choice);
        add_i64(&w, "expert_flips", r->flips.n_flip);
        add_i64(&w, "expert_flips_not_near_tie", r->flips.n_wide);
        add_f64(&w, "expert_flips_largest_gap", r->flips.largest_gap);
    }
    hd_json_write_end(&w);
    hd_buf_append_char(out, '\n');
}
