/* A trainer: one rank's model, executor and optimiser state, and the passes of one step.
 *
 * The same code runs dry (hd_arena_open_dry, hd_exec.dry) to find out what memory it needs; see plan.h.
 *
 * How a global batch is cut.  B rows per step, in order.  gradient_slices = N > 1: N leaves of B / N rows; each leaf's gradient is
 * computed alone and the N gradients are summed by the pairwise tree over leaves; rank r owns leaves [r N/R, (r+1) N/R), a
 * subtree, and the upper levels are the all-reduce.  N = 1: accumulation x ranks leaves, each rank adding its own
 * in order.  Sums of a step (loss, counts) have one slot per leaf and are folded in leaf order, so they too have the
 * same bits for every split. */
#ifndef HD_TRAIN_TRAINER_H
#define HD_TRAIN_TRAINER_H

#include "config/config.h"
#include "data/dataset.h"
#include "model/model.h"
#include "parallel/comm.h"
#include "train/schedule.h"

enum { HD_MAX_TREE_LEVELS = 40 };

/* How rows are shared out. */
typedef struct hd_batch_plan {
    int64_t global_rows;     /* B: rows trained on per step, all ranks */
    int64_t load_rows;       /* rows the data position advances per step */
    int64_t n_leaf;          /* of the global batch */
    int64_t leaf_rows;
    int64_t first_leaf, n_local_leaf; /* this rank's */
    bool tree;               /* leaves are summed by the tree, not in place */
    int n_level;             /* gradient buffers the tree needs on this rank */
    int64_t eval_rows;       /* per rank and evaluation batch */
    int64_t seq_len;
} hd_batch_plan;

typedef struct hd_trainer {
    const hd_config *config;
    hd_comm *comm;
    hd_arena model_arena, step_arena, scratch_arena;
    hd_exec ex;
    hd_model model;
    hd_batch_plan plan;
    hd_schedule schedule;
    hd_gate_spec gate;
    hd_adamw_spec adamw;
    hd_tensor level[HD_MAX_TREE_LEVELS]; /* flat gradients of finished subtrees */
    hd_tensor leaf_metrics;              /* (n_leaf, n_metric) f64 */
    hd_tensor readout;                   /* (n_metric + HD_CONTROL_COUNT) f64: what the host reads after a step */
    hd_tensor totals, control;           /* views of readout */
    hd_tensor window;                    /* (2, skip_step_interval) f64; n_dim 0 without spike skipping */
    int64_t n_metric;
    double *host_readout;                /* host copy of readout */
    double *leaf_weight;                 /* host (2, n_leaf): loss weights and MTP weights of each leaf */
    double weight_total, mtp_weight_total; /* of the last step's global batch; 1 when there were none */
} hd_trainer;

/* Capacities of the three arenas. */
typedef struct hd_arena_sizes { size_t model, step, scratch; } hd_arena_sizes;

/* sizes NULL: dry.  The comm outlives the trainer.  Weights are not initialised here. */
hd_status hd_trainer_open(const hd_config *config, hd_comm *comm, const hd_arena_sizes *sizes, hd_trainer *t, hd_err *err)
    HD_CHECK_RESULT;
void hd_trainer_close(hd_trainer *t);

/* The thread count and the cut of a batch that a configuration asks for. */
int hd_threads_per_rank(const hd_config *config, int n_rank);
hd_status hd_batch_plan_from_config(const hd_config *config, int rank, int n_rank, hd_batch_plan *plan, hd_err *err)
    HD_CHECK_RESULT;

/* One training step on this rank's rows (n_local_leaf * leaf_rows).  After it host_readout holds the totals and control.
 * `step` counts from 0 and sets the learning rate.  On a dry trainer the batch may be NULL. */
hd_status hd_trainer_step(hd_trainer *t, const hd_batch *batch, int64_t step, hd_err *err) HD_CHECK_RESULT;

/* HADAL_FAULT_RANK's flip: changes the lowest bit of the first element of a parameter named as in HuggingFace.
 * HD_E_CONFIG when there is none of that name. */
hd_status hd_trainer_flip_bit(hd_trainer *t, const char *name, hd_err *err) HD_CHECK_RESULT;

/* Loss sums of one evaluation batch, all ranks together: sums[0] cross-entropy + z, sums[1] weights, sums[2] z. */
hd_status hd_trainer_eval(hd_trainer *t, const hd_batch *batch, double sums[3], hd_err *err) HD_CHECK_RESULT;

#endif
