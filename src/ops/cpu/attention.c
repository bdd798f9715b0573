/* The MLA attention core in its expanded form, forward and backward: scratch, choice of kernel, parallel loops.
 * Reading order: attention_tile.h (products), attention_job.h (tiles and masks), attention_forward.h,
 * attention_backward.h, attention_plain.h (`dot_product`). */
#include "ops/cpu/attention_plain.h"

static hd_status take_work(hd_exec *ex, at_job *job, int64_t work_len, hd_err *err)
{
    job->work_len = work_len;
    return hd_arena_alloc(ex->scratch, (size_t)ex->n_threads * (size_t)work_len * sizeof(float), (void **)&job->work,
                          err);
}

static hd_status attention_fwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *q,
                               const hd_tensor *k_nope, const hd_tensor *k_rope, const hd_tensor *v,
                               const hd_tensor *segments, hd_tensor *o, hd_tensor *lse, hd_err *err)
{
    at_job job = at_make_job(shape, q, k_nope, k_rope, v, segments, AT_FORWARD_QUERIES);
    bool flash = shape->impl == HD_ATTENTION_FLASH;
    at_forward_work flash_work;
    at_plain_work plain_work;
    hd_status st = take_work(
        ex, &job, flash ? at_forward_layout(&job, NULL, &flash_work) : at_plain_layout(&job, NULL, false, &plain_work),
        err);
    if (st != HD_OK || ex->dry) { return st; }
    job.o_out = o;
    job.lse_out = lse;
    int64_t n_pairs = job.n_seq * job.n_head;
    if (flash) {
        hd_parallel_for(ex->n_threads, n_pairs * job.n_query_blocks, at_forward_item, &job);
    } else {
        hd_parallel_for(ex->n_threads, n_pairs, at_plain_forward_item, &job);
    }
    return HD_OK;
}

/* Pairs whose parts of dk_rope are in memory at once. */
static int64_t wave_pairs(const hd_exec *ex, int64_t n_pairs)
{
    return hd_min_i64(n_pairs, 4 * (int64_t)ex->n_threads);
}

static hd_status take_backward_scratch(hd_exec *ex, at_job *job, bool two_passes, hd_err *err)
{
    hd_status st = HD_OK;
    at_backward_work flash_work;
    at_plain_work plain_work;
    size_t row_bytes = (size_t)job->rope * sizeof(float), n_rows = (size_t)(job->n_seq * job->seq_len);
    size_t wave_rows = (size_t)(wave_pairs(ex, job->n_seq * job->n_head) * job->seq_len);
    job->n_sum_rows = two_passes ? AT_KEYS : job->n_query_blocks * job->block;
    HD_TRY(take_work(ex, job,
                     job->impl == HD_ATTENTION_FLASH ? at_backward_layout(job, NULL, &flash_work)
                                                     : at_plain_layout(job, NULL, true, &plain_work),
                     err));
    HD_TRY(hd_arena_alloc(ex->scratch, wave_rows * row_bytes, (void **)&job->rope_partial, err));
    HD_TRY(hd_arena_alloc(ex->scratch, n_rows * row_bytes, (void **)&job->rope_sum, err));
out:
    return st;
}

static void run_wave(const hd_exec *ex, at_job *job, bool two_passes)
{
    int64_t n_pairs = job->wave_end - job->wave_begin;
    if (job->impl == HD_ATTENTION_DOT_PRODUCT) {
        hd_parallel_for(ex->n_threads, n_pairs, at_plain_backward_item, job);
    } else if (two_passes) {
        hd_parallel_for(ex->n_threads, n_pairs * job->n_query_blocks, at_backward_query_item, job);
        hd_parallel_for(ex->n_threads, n_pairs * hd_ceil_div(job->seq_len, AT_KEYS), at_backward_key_item, job);
    } else {
        hd_parallel_for(ex->n_threads, n_pairs, at_backward_pair_item, job);
    }
    hd_parallel_for(ex->n_threads, hd_ceil_div(job->seq_len, AT_ROPE_ROWS), at_rope_item, job);
}

static hd_status attention_bwd(hd_exec *ex, const hd_attention_shape *shape, const hd_tensor *d_o, const hd_tensor *q,
                               const hd_tensor *k_nope, const hd_tensor *k_rope, const hd_tensor *v,
                               const hd_tensor *segments, const hd_tensor *o, const hd_tensor *lse, hd_tensor *dq,
                               hd_tensor *dk_nope, hd_tensor *dk_rope, hd_tensor *dv, hd_err *err)
{
    at_job job = at_make_job(shape, q, k_nope, k_rope, v, segments, AT_BACKWARD_QUERIES);
    int64_t n_pairs = job.n_seq * job.n_head;
    bool two_passes = shape->impl == HD_ATTENTION_FLASH && ex->n_threads > 1 && n_pairs < 2 * (int64_t)ex->n_threads;
    hd_status st = take_backward_scratch(ex, &job, two_passes, err);
    if (st != HD_OK || ex->dry) { return st; }
    job.d_o = d_o;
    job.o = o;
    job.lse_in = lse;
    job.dq = dq;
    job.dk_nope = dk_nope;
    job.dk_rope = dk_rope;
    job.dv = dv;
    for (int64_t begin = 0; begin < n_pairs; begin = job.wave_end) {
        job.wave_begin = begin;
        job.wave_end = hd_min_i64(n_pairs, begin + wave_pairs(ex, n_pairs));
        run_wave(ex, &job, two_passes);
    }
    return HD_OK;
}

void HD_CPU_INSTALL(attention)(hd_ops *ops)
{
    ops->attention_fwd = attention_fwd;
    ops->attention_bwd = attention_bwd;
}
