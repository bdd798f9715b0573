/* Sums in f64 over one row at a time.  See compare.h. */
#include "eval/compare.h"

#include <math.h>

void hd_compare_begin(const hd_compare_rules *rules, hd_compare *c)
{
    *c = (hd_compare){.rules = *rules, .max_kl = -1.0, .max_diff = -1.0};
}

/* ln sum exp, and the largest logit. */
static double log_sum(const float *x, int64_t n)
{
    double max = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < n; i++) { max = (double)x[i] > max ? (double)x[i] : max; }
    for (int64_t i = 0; i < n; i++) { sum += exp((double)x[i] - max); }
    return max + log(sum);
}

/* What the probabilities of a row sum to after they are raised to at least eps. */
static double clipped_sum(const float *x, int64_t n, double lse, double eps)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) { sum += fmax(exp((double)x[i] - lse), eps); }
    return sum;
}

/* sum_v P (ln P - ln Q), P golden, Q ours. */
static double divergence(const float *ours, const float *golden, int64_t n, double clip)
{
    double kl = 0.0, lse_ours = log_sum(ours, n), lse_golden = log_sum(golden, n);
    if (isnan(clip)) {
        for (int64_t i = 0; i < n; i++) {
            double p = (double)golden[i] - lse_golden, q = (double)ours[i] - lse_ours;
            kl += exp(p) * (p - q);
        }
        return kl;
    }
    double log_p = log(clipped_sum(golden, n, lse_golden, clip)), log_q = log(clipped_sum(ours, n, lse_ours, clip)),
           least = log(clip);
    for (int64_t i = 0; i < n; i++) {
        double p = fmax((double)golden[i] - lse_golden, least) - log_p,
               q = fmax((double)ours[i] - lse_ours, least) - log_q;
        kl += exp(p) * (p - q);
    }
    return kl;
}

/* The tokens with the largest logits, largest first, the lower token where two are equal; how many. */
static int top_tokens(const float *x, int64_t n, int64_t top[HD_COMPARE_TOP])
{
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (count == HD_COMPARE_TOP && !(x[i] > x[top[count - 1]])) { continue; }
        int at = count < HD_COMPARE_TOP ? count++ : count - 1;
        for (; at > 0 && x[i] > x[top[at - 1]]; at--) { top[at] = top[at - 1]; }
        top[at] = i;
    }
    return count;
}

static void compare_top(hd_compare *c, const float *ours, const float *golden, int64_t n)
{
    int64_t a[HD_COMPARE_TOP], b[HD_COMPARE_TOP];
    int count = top_tokens(ours, n, a);
    (void)top_tokens(golden, n, b);
    c->n_argmax += count > 0 && a[0] != b[0];
    c->n_top_possible += count;
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < count; j++) { c->n_top += a[i] == b[j]; }
    }
}

/* A NaN replaces any maximum and stays. */
static bool is_worse(double value, double worst)
{
    return !isnan(worst) && !(value <= worst);
}

static void compare_values(hd_compare *c, int64_t position, const float *ours, const float *golden, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double g = (double)golden[i], diff = fabs((double)ours[i] - g);
        c->sum_diff += diff;
        c->max_golden = fabs(g) > c->max_golden ? fabs(g) : c->max_golden;
        c->n_beyond += !(diff <= c->rules.atol + c->rules.rtol * fabs(g));
        if (is_worse(diff, c->max_diff)) {
            c->max_diff = diff;
            c->max_diff_position = position, c->max_diff_token = i;
            c->max_diff_ours = ours[i], c->max_diff_golden = golden[i];
        }
    }
    c->n_logit += n;
}

void hd_compare_row(hd_compare *c, int64_t position, const float *ours, const float *golden, int64_t n)
{
    double kl = divergence(ours, golden, n, c->rules.clip);
    c->n_row++;
    c->sum_kl += kl;
    if (is_worse(kl, c->max_kl)) { c->max_kl = kl, c->max_kl_position = position; }
    compare_values(c, position, ours, golden, n);
    compare_top(c, ours, golden, n);
}

bool hd_compare_passes(const hd_compare *c)
{
    bool kl_good = isnan(c->rules.max_kl) || c->max_kl < c->rules.max_kl;
    bool values_good = isnan(c->rules.atol) || c->n_beyond == 0;
    return c->n_row > 0 && kl_good && values_good && !isnan(c->max_kl) && !isnan(c->max_diff);
}
