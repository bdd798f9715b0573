/* One training step: leaves, the gradient tree, the gate, the optimiser, and the one read of the host. */
#include <string.h>

#include "train/trainer.h"

/* ---- a leaf's tensors ------------------------------------------------------------------------------------------------------- */

/* Rows [row, row + n_row) of the batch; batch NULL on a dry trainer. */
static hd_leaf_rows rows_of(const hd_trainer *t, const hd_batch *batch, int64_t row, int64_t n_row)
{
    int64_t at = row * t->plan.seq_len;
    hd_leaf_rows rows = {.n_seq = n_row, .seq_len = t->plan.seq_len};
    if (batch == NULL) { return rows; }
    rows.inputs = batch->inputs + at;
    rows.targets = batch->targets + at;
    rows.positions = batch->positions + at;
    rows.segments = batch->segments + at;
    rows.loss_weights = batch->loss_weights + at;
    return rows;
}

/* ---- denominators ------------------------------------------------------------------------------------------------------------ */

static double loss_weight_sum(const hd_leaf_rows *rows)
{
    double total = 0.0;
    for (int64_t i = 0; i < rows->n_seq * rows->seq_len; i++) { total += (double)rows->loss_weights[i]; }
    return total;
}

/* Sums of loss weights over the global batch, folded in leaf order: the same bits for every split of the leaves. */
static hd_status weight_totals(hd_trainer *t, const hd_batch *batch, hd_err *err)
{
    double total = 0.0, mtp_total = 0.0;
    int64_t n_leaf = t->plan.n_leaf;
    for (int64_t i = 0; i < 2 * n_leaf; i++) { t->leaf_weight[i] = 0.0; }
    for (int64_t i = 0; batch != NULL && i < t->plan.n_local_leaf; i++) {
        hd_leaf_rows rows = rows_of(t, batch, i * t->plan.leaf_rows, t->plan.leaf_rows);
        t->leaf_weight[t->plan.first_leaf + i] = loss_weight_sum(&rows);
        t->leaf_weight[n_leaf + t->plan.first_leaf + i] = hd_leaf_mtp_weight_sum(&rows, t->model.dims.n_mtp);
    }
    hd_status st = hd_comm_all_reduce_sum_host(t->comm, t->leaf_weight, 2 * n_leaf, err);
    if (st != HD_OK) { return st; }
    for (int64_t i = 0; i < n_leaf; i++) {
        total += t->leaf_weight[i];
        mtp_total += t->leaf_weight[n_leaf + i];
    }
    t->weight_total = total > 0.0 ? total : 1.0; /* nothing but padding: every term is zero anyway */
    t->mtp_weight_total = mtp_total > 0.0 ? mtp_total : 1.0;
    return HD_OK;
}

/* ---- gradients ----------------------------------------------------------------------------------------------------------------- */

/* Local leaf i is done and its gradient is in grad_flat: fold it into the tree like a binary counter.  After the last leaf (their
 * number is a power of two) the sum of all is in grad_flat. */
static hd_status fold_into_tree(hd_trainer *t, int64_t i, hd_err *err)
{
    int level = 0;
    for (; (i >> level) & 1; level++) {
        hd_status st = hd_sum_into(&t->ex, &t->level[level], &t->model.grad_flat, err);
        if (st != HD_OK) { return st; }
    }
    if (level == t->plan.n_level) { return HD_OK; }
    return hd_copy(&t->ex, &t->model.grad_flat, &t->level[level], err);
}

static hd_status run_leaves(hd_trainer *t, const hd_batch *batch, hd_err *err)
{
    hd_status st = HD_OK;
    hd_leaf leaf = {.n_seq_total = t->plan.global_rows, .n_token_total = t->plan.global_rows * t->plan.seq_len};
    HD_TRY(weight_totals(t, batch, err));
    leaf.weight_total = t->weight_total;
    leaf.mtp_weight_total = t->mtp_weight_total;
    HD_TRY(hd_fill(&t->ex, 0.0, &t->leaf_metrics, err));
    for (int64_t i = 0; i < t->plan.n_local_leaf; i++) {
        size_t mark = hd_arena_mark(&t->step_arena);
        hd_tensor metrics = hd_tensor_index(&t->leaf_metrics, t->plan.first_leaf + i);
        leaf.first = t->plan.tree || i == 0;
        hd_leaf_rows rows = rows_of(t, batch, i * t->plan.leaf_rows, t->plan.leaf_rows);
        HD_TRY(hd_leaf_upload(&t->model, &t->ex, &t->step_arena, &rows, &leaf, err));
        HD_TRY(hd_model_train_leaf(&t->model, &t->ex, &t->step_arena, &leaf, &metrics, err));
        hd_arena_release(&t->step_arena, mark);
        if (t->plan.tree) { HD_TRY(fold_into_tree(t, i, err)); }
    }
out:
    return st;
}

/* Sums over leaves, in leaf order, into totals. */
static hd_status fold_metrics(hd_trainer *t, hd_err *err)
{
    hd_status st = HD_OK;
    HD_TRY(hd_comm_all_reduce_sum(t->comm, &t->ex, &t->leaf_metrics, err));
    HD_TRY(hd_fill(&t->ex, 0.0, &t->totals, err));
    for (int64_t i = 0; i < t->plan.n_leaf; i++) {
        hd_tensor one = hd_tensor_index(&t->leaf_metrics, i);
        HD_TRY(hd_sum_into(&t->ex, &one, &t->totals, err));
    }
out:
    return st;
}

/* ---- the update -------------------------------------------------------------------------------------------------------------------- */

static hd_status sum_of_squares(hd_trainer *t, bool gradients, int metric, hd_err *err)
{
    hd_tensor total = hd_tensor_slice(&t->totals, 0, metric, 1);
    for (int64_t i = 0; i < t->model.n_param; i++) {
        const hd_param *p = &t->model.params[i];
        if (gradients && !p->trained) { continue; }
        const hd_tensor *value = p->master.n_dim > 0 ? &p->master : &p->weight.value; /* a frozen weight has no master copy */
        hd_status st = hd_sumsq(&t->ex, gradients ? &p->weight.grad : value, &total, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

static hd_status update(hd_trainer *t, hd_err *err)
{
    for (int64_t i = 0; i < t->model.n_param; i++) {
        hd_param *p = &t->model.params[i];
        hd_adamw_spec spec = t->adamw;
        if (!p->trained) { continue; }
        if (!p->decay) { spec.weight_decay = 0.0; }
        hd_status st = hd_adamw(&t->ex, &spec, &t->control, &p->weight.grad, &p->master, &p->mu, &p->nu, &p->weight.value, err);
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

hd_status hd_trainer_step(hd_trainer *t, const hd_batch *batch, int64_t step, hd_err *err)
{
    hd_status st = HD_OK;
    double lr = hd_schedule_at(&t->schedule, step);
    hd_tensor lr_slot = hd_tensor_slice(&t->control, 0, HD_CONTROL_LR, 1);
    hd_tensor norm2 = hd_tensor_slice(&t->totals, 0, HD_METRIC_RAW_NORM2, 1);
    hd_tensor loss = hd_tensor_slice(&t->totals, 0, HD_METRIC_LOSS, 1);
    HD_TRY(run_leaves(t, batch, err));
    HD_TRY(fold_metrics(t, err));
    HD_TRY(hd_comm_all_reduce_sum(t->comm, &t->ex, &t->model.grad_flat, err));
    HD_TRY(sum_of_squares(t, true, HD_METRIC_RAW_NORM2, err));
    HD_TRY(hd_exec_upload(&t->ex, &lr, &lr_slot, err));
    HD_TRY(hd_step_gate(&t->ex, &t->gate, &norm2, &loss, t->window.n_dim > 0 ? &t->window : NULL, &t->control, err));
    HD_TRY(update(t, err));
    HD_TRY(hd_model_update_router_bias(&t->model, &t->ex, &t->totals, &t->control, err));
    HD_TRY(sum_of_squares(t, false, HD_METRIC_PARAM_NORM2, err));
    HD_TRY(hd_exec_read(&t->ex, &t->readout, t->host_readout, err));
out:
    return st;
}

hd_status hd_trainer_flip_bit(hd_trainer *t, const char *name, hd_err *err)
{
    for (int64_t i = 0; i < t->model.n_param; i++) {
        hd_param *p = &t->model.params[i];
        if (strcmp(p->name, name) != 0) { continue; }
        hd_tensor first = p->weight.value;
        uint32_t bits = 0;
        for (int d = 0; d < first.n_dim; d++) { first = hd_tensor_slice(&first, d, 0, 1); }
        hd_status st = hd_exec_read(&t->ex, &first, &bits, err);
        bits ^= 1u;
        return st == HD_OK ? hd_exec_upload(&t->ex, &bits, &first, err) : st;
    }
    return HD_FAIL(err, HD_E_CONFIG, "HADAL_FAULT_RANK: no parameter is named %s", name);
}

hd_status hd_trainer_eval(hd_trainer *t, const hd_batch *batch, double sums[3], hd_err *err)
{
    hd_status st = HD_OK;
    hd_leaf leaf = {.weight_total = 1.0, .mtp_weight_total = 1.0, .n_seq_total = 1};
    hd_tensor metrics = hd_tensor_index(&t->leaf_metrics, 0);
    size_t mark = hd_arena_mark(&t->step_arena);
    hd_leaf_rows rows = rows_of(t, batch, 0, t->plan.eval_rows);
    HD_TRY(hd_leaf_upload(&t->model, &t->ex, &t->step_arena, &rows, &leaf, err));
    HD_TRY(hd_fill(&t->ex, 0.0, &metrics, err));
    HD_TRY(hd_model_eval_leaf(&t->model, &t->ex, &t->step_arena, &leaf, &metrics, err));
    hd_tensor head = hd_tensor_slice(&metrics, 0, 0, HD_METRIC_COUNT);
    HD_TRY(hd_exec_read(&t->ex, &head, t->host_readout, err));
    sums[0] = t->host_readout[HD_METRIC_XENT];
    sums[1] = batch != NULL ? loss_weight_sum(&rows) : 0.0;
    sums[2] = t->host_readout[HD_METRIC_Z];
    HD_TRY(hd_comm_all_reduce_sum_host(t->comm, sums, 3, err));
out:
    hd_arena_release(&t->step_arena, mark);
    return st;
}
