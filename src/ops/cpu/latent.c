/* MLA attention of new tokens against latent caches: the form of each sequence, and batches of new tokens.
 * Reading order: latent_plan.h (choices), latent_job.h, latent_step.h, latent_absorbed.h, latent_expanded.h. */
#include "ops/cpu/latent_absorbed.h"
#include "ops/cpu/latent_expanded.h"

static latent_job make_job(const hd_latent_spec *spec, const hd_tensor *q, const hd_weight *kv_b, hd_tensor *o, int64_t first_row)
{
    latent_job job = {.spec = spec, .q = q, .kv_b = kv_b, .o = o, .c = spec->kv_lora_rank, .r = spec->qk_rope_head_dim, .scale = (float)spec->scale,
                      .first_row = first_row};
    job.width = job.c + job.r;
    job.ld = at_stride(job.width);
    job.c_padded = hd_ceil_div(job.c, HD_LANES) * HD_LANES;
    job.width_padded = hd_ceil_div(job.width, HD_LANES) * HD_LANES;
    return job;
}

/* Cuts the sequences' new tokens into batches of up to LATENT_MAX_QUERIES queries and runs each. */
static hd_status run_absorbed(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *sequences,
                              int64_t n_sequence, int64_t first_row, const hd_weight *kv_b, hd_tensor *o, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t most = hd_max_i64(1, LATENT_MAX_QUERIES / spec->n_head), done = 0;
    for (int64_t s = 0; s < n_sequence;) {
        latent_job job = make_job(spec, q, kv_b, o, first_row);
        while (s < n_sequence && job.n_row < most && job.n_pieces < LATENT_MAX_PIECES) {
            const hd_latent_sequence *one = &sequences[s];
            int64_t n = hd_min_i64(one->n_new - done, most - job.n_row);
            job.pieces[job.n_pieces++] = (latent_piece){&one->rows, first_row, n, one->rows.shape[0] - one->n_new + done + 1};
            job.n_row += n;
            first_row += n;
            done += n;
            if (done == one->n_new) {
                done = 0;
                s++;
            }
        }
        HD_TRY(latent_absorbed_run(ex, &job, err));
    }
out:
    return st;
}

static bool is_expanded(const hd_latent_spec *spec, const hd_latent_sequence *one)
{
    return latent_is_expanded(spec, one->n_new, one->rows.shape[0]);
}

/* Runs of sequences that take the absorbed form share their products; the others come one by one. */
static hd_status latent_attention_fwd(hd_exec *ex, const hd_latent_spec *spec, const hd_tensor *q, const hd_latent_sequence *sequences,
                                      int64_t n_sequence, const hd_weight *kv_b, hd_tensor *o, hd_err *err)
{
    hd_status st = HD_OK;
    for (int64_t s = 0, first = 0, n = 0, n_row = 0; s < n_sequence; s += n, first += n_row) {
        const hd_latent_sequence *one = &sequences[s];
        if (is_expanded(spec, one)) {
            n = 1;
            n_row = one->n_new;
            hd_tensor rows = hd_tensor_slice(q, 0, first, n_row), out = hd_tensor_slice(o, 0, first, n_row);
            HD_TRY(latent_expanded_run(ex, spec, &rows, one, kv_b, &out, err));
            continue;
        }
        n = n_row = 0;
        for (; s + n < n_sequence && !is_expanded(spec, &one[n]); n++) { n_row += one[n].n_new; }
        HD_TRY(run_absorbed(ex, spec, q, one, n, first, kv_b, o, err));
    }
out:
    return st;
}

void HD_CPU_INSTALL(latent)(hd_ops *ops) { ops->latent_attention_fwd = latent_attention_fwd; }
