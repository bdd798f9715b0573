/* RoPE tables as HuggingFace's `_compute_yarn_parameters` and default initialisation make them.  See rope_table.h.
 *
 *   theta_j = 1 / base^(2j/r)                                                            f32
 *   d(rot)  = r ln(L0 / (2 pi rot)) / (2 ln base)                                        double
 *   low = max(floor d(beta_fast), 0),  high = min(ceil d(beta_slow), r - 1),  +0.001 when equal
 *   ramp_j  = clamp((j - low) / (high - low), 0, 1)                                      f32
 *   w_j     = 1 / (s base^(2j/r)) (1 - keep_j) + theta_j keep_j,  keep_j = 1 - ramp_j    f32
 * Sources: YaRN, Peng et al. 2023 (arXiv 2309.00071); huggingface/transformers modeling_rope_utils.py. */
#include "ops/rope_table.h"

#include <inttypes.h>
#include <math.h>

static const double pi = 3.14159265358979323846;

static hd_status check_spec(const hd_rope_spec *spec, hd_err *err)
{
    if (spec->dim < 0 || spec->dim % 2 != 0 || spec->n_positions < 0) {
        return HD_FAIL(err, HD_E_INVALID, "rope table: %" PRId64 " positions of %" PRId64 " dimensions, want an even number",
                       spec->n_positions, spec->dim);
    }
    if (!(spec->theta > 1.0)) { return HD_FAIL(err, HD_E_INVALID, "rope table: theta is %g, want above 1", spec->theta); }
    if (spec->yarn && !(spec->factor > 0.0 && spec->original_max_position_embeddings > 0 && spec->beta_fast > 0.0 &&
                        spec->beta_slow > 0.0)) {
        return HD_FAIL(err, HD_E_INVALID,
                       "rope table: YaRN factor %g, original length %" PRId64 ", beta %g and %g, want all above 0",
                       spec->factor, spec->original_max_position_embeddings, spec->beta_fast, spec->beta_slow);
    }
    return HD_OK;
}

/* ---- YaRN ------------------------------------------------------------------------------------------------------------- */

/* The pair, not rounded, that makes `rotations` turns over the original context. */
static double pair_of_rotations(const hd_rope_spec *spec, double rotations)
{
    double length = (double)spec->original_max_position_embeddings;
    return (double)spec->dim * log(length / (rotations * 2.0 * pi)) / (2.0 * log(spec->theta));
}

typedef struct ramp { float low, span; } ramp;

static ramp make_ramp(const hd_rope_spec *spec)
{
    double low = pair_of_rotations(spec, spec->beta_fast), high = pair_of_rotations(spec, spec->beta_slow);
    if (spec->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, (double)spec->dim - 1.0);
    if (low == high) { high += 0.001; }
    return (ramp){(float)low, (float)(high - low)};
}

static float ramp_at(ramp r, int64_t j)
{
    float t = ((float)j - r.low) / r.span;
    return t < 0.0f ? 0.0f : t > 1.0f ? 1.0f : t;
}

/* m(s, mscale) = 0.1 mscale ln s + 1, or 1 without extension. */
static double magnitude(double factor, double mscale)
{
    return factor > 1.0 ? 0.1 * mscale * log(factor) + 1.0 : 1.0;
}

static double attention_factor(const hd_rope_spec *spec)
{
    if (!spec->yarn) { return 1.0; }
    if (spec->attention_factor >= 0.0) { return spec->attention_factor; }
    if (spec->mscale != 0.0 && spec->mscale_all_dim != 0.0) {
        return magnitude(spec->factor, spec->mscale) / magnitude(spec->factor, spec->mscale_all_dim);
    }
    return magnitude(spec->factor, 1.0);
}

double hd_softmax_scale(int64_t qk_head_dim, const hd_rope_spec *spec)
{
    double m = spec->yarn && spec->mscale_all_dim != 0.0 ? magnitude(spec->factor, spec->mscale_all_dim) : 1.0;
    return m * m / sqrt((double)qk_head_dim);
}

/* ---- the table ---------------------------------------------------------------------------------------------------------- */

/* base^(2j/r): exponent and result rounded to f32. */
static float base_power(const hd_rope_spec *spec, int64_t j)
{
    float exponent = (float)(2 * j) / (float)spec->dim;
    return (float)pow((double)(float)spec->theta, (double)exponent);
}

static float frequency(const hd_rope_spec *spec, ramp r, int64_t j)
{
    float power = base_power(spec, j);
    if (!spec->yarn) { return 1.0f / power; }
    float extrapolated = 1.0f / power, interpolated = 1.0f / ((float)spec->factor * power);
    float keep = 1.0f - ramp_at(r, j);
    return interpolated * (1.0f - keep) + extrapolated * keep;
}

hd_status hd_rope_frequencies(const hd_rope_spec *spec, float *out, hd_err *err)
{
    hd_status st = check_spec(spec, err);
    if (st != HD_OK) { return st; }
    ramp r = spec->yarn ? make_ramp(spec) : (ramp){0.0f, 1.0f};
    for (int64_t j = 0; j < spec->dim / 2; j++) { out[j] = frequency(spec, r, j); }
    return HD_OK;
}

hd_status hd_rope_table(const hd_rope_spec *spec, float *out, hd_err *err)
{
    hd_status st = check_spec(spec, err);
    if (st != HD_OK) { return st; }
    ramp r = spec->yarn ? make_ramp(spec) : (ramp){0.0f, 1.0f};
    float amplitude = (float)attention_factor(spec);
    int64_t pairs = spec->dim / 2;
    for (int64_t j = 0; j < pairs; j++) {
        float w = frequency(spec, r, j);
        for (int64_t p = 0; p < spec->n_positions; p++) {
            float angle = (float)p * w;
            out[(p * pairs + j) * 2] = (float)cos((double)angle) * amplitude;
            out[(p * pairs + j) * 2 + 1] = (float)sin((double)angle) * amplitude;
        }
    }
    return HD_OK;
}
