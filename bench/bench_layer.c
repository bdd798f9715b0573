/* Forward and backward of V2-Lite-width layers: what a training step is made of.
 *
 *   bench_layer [shape=BxT] [layers=N] [dtype=float32|bfloat16] [remat=POLICY] [repeats=N] [key=value ...]
 *
 * One leaf of B sequences through an embedding, N MoE layers (MLA, 64 experts top-6, 2 shared), final norm, a head of 4,096 words
 * and the loss, and back, without the optimiser.  Prints the best of a few repeats, tokens per second, model FLOPs (recomputation
 * not counted, attention over the causal pairs), their share of the FMA peak measured in the same process before and after, and
 * the memory of the three arenas. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "data/dataset.h"
#include "hadal/config.h"
#include "ops/ops.h"
#include "train/flops.h"
#include "train/plan.h"
#include "train/trainer.h"

enum { MAX_ARGS = 64, MAX_TEXT = 256 };

typedef struct options {
    long n_seq, seq_len, layers, repeats;
    const char *dtype, *remat;
    const char *keys[MAX_ARGS];
    int n_key;
} options;

static void stop(const hd_err *err)
{
    fprintf(stderr, "bench_layer: %s\n", err->msg);
    exit(1);
}

static options read_options(int argc, char **argv)
{
    options o = {.n_seq = 1, .seq_len = 256, .layers = 1, .repeats = 3, .dtype = "float32", .remat = "minimal"};
    for (int i = 1; i < argc; i++) {
        if (sscanf(argv[i], "shape=%ldx%ld", &o.n_seq, &o.seq_len) == 2) { continue; }
        if (sscanf(argv[i], "layers=%ld", &o.layers) == 1 || sscanf(argv[i], "repeats=%ld", &o.repeats) == 1) { continue; }
        if (strncmp(argv[i], "dtype=", 6) == 0) { o.dtype = argv[i] + 6; continue; }
        if (strncmp(argv[i], "remat=", 6) == 0) { o.remat = argv[i] + 6; continue; }
        if (o.n_key < MAX_ARGS - 16) { o.keys[o.n_key++] = argv[i]; }
    }
    return o;
}

static hd_config *configure(const options *o)
{
    static char text[8][MAX_TEXT];
    const char *argv[MAX_ARGS] = {"configs/base.yml", "model_name=deepseek2-16b", "override_model_config=true", "vocab_size=4096",
                                  "first_num_dense_layers=0", "base_mlp_dim=1408", "dataset_type=synthetic", "enable_checkpointing=false",
                                  "base_output_directory=/tmp", "run_name=bench"};
    int n = 10;
    snprintf(text[0], MAX_TEXT, "per_device_batch_size=%ld", o->n_seq);
    snprintf(text[1], MAX_TEXT, "max_target_length=%ld", o->seq_len);
    snprintf(text[2], MAX_TEXT, "base_num_decoder_layers=%ld", o->layers);
    snprintf(text[3], MAX_TEXT, "dtype=%s", o->dtype);
    snprintf(text[4], MAX_TEXT, "weight_dtype=%s", o->dtype);
    snprintf(text[5], MAX_TEXT, "remat_policy=%s", o->remat);
    for (int i = 0; i < 6; i++) { argv[n++] = text[i]; }
    for (int i = 0; i < o->n_key; i++) { argv[n++] = o->keys[i]; }
    hd_err err = {0};
    hd_config *config = NULL;
    if (hd_config_load("train", n, argv, "configs", &config, &err) != HD_OK) { stop(&err); }
    return config;
}

static double run_leaf(hd_trainer *t, const hd_batch *batch)
{
    hd_err err = {0};
    hd_leaf leaf = {.weight_total = (double)(batch->n_seq * batch->seq_len), .mtp_weight_total = 1.0, .n_seq_total = batch->n_seq,
                    .n_token_total = batch->n_seq * batch->seq_len, .first = true};
    hd_leaf_rows rows = {batch->n_seq, batch->seq_len, batch->inputs, batch->targets, batch->positions, batch->segments, batch->loss_weights};
    hd_tensor metrics = hd_tensor_index(&t->leaf_metrics, 0);
    size_t mark = hd_arena_mark(&t->step_arena);
    if (hd_leaf_upload(&t->model, &t->ex, &t->step_arena, &rows, &leaf, &err) != HD_OK) { stop(&err); }
    double begin = hd_clock_now_s();
    if (hd_model_train_leaf(&t->model, &t->ex, &t->step_arena, &leaf, &metrics, &err) != HD_OK) { stop(&err); }
    double seconds = hd_clock_now_s() - begin;
    hd_arena_release(&t->step_arena, mark);
    return seconds;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    hd_err err = {0};
    hd_config *config = configure(&o);
    hd_comm comm = hd_comm_self();
    hd_run_plan plan;
    hd_trainer t = {0};
    hd_dataset *data = NULL;
    hd_batch batch = {0};
    int64_t found;
    if (hd_run_plan_make(config, 1, &plan, &err) != HD_OK || hd_trainer_open(config, &comm, &plan.arenas, &t, &err) != HD_OK ||
        hd_model_init_weights(&t.model, &t.ex, &err) != HD_OK ||
        hd_dataset_open(config, HD_SPLIT_TRAIN, t.model.dims.vocab_size, o.n_seq, &data, &err) != HD_OK ||
        hd_batch_open(o.n_seq, o.seq_len, &batch, &err) != HD_OK || hd_dataset_read(data, 0, &batch, &found, &err) != HD_OK) {
        stop(&err);
    }
    double before = t.ex.ops->fma_peak(t.ex.n_threads), best = 1e300;
    for (long i = 0; i <= o.repeats; i++) {
        double seconds = run_leaf(&t, &batch);
        if (i > 0 && seconds < best) { best = seconds; } /* the first run touches the memory */
    }
    double after = t.ex.ops->fma_peak(t.ex.n_threads), peak = before > after ? before : after;
    hd_flops flops = hd_flops_model(&t.model.dims, (double)o.n_seq, o.seq_len);
    double tokens = (double)(o.n_seq * o.seq_len);
    printf("%ldx%ld %s %s layers %ld threads %d %s: %.1f ms, %.1f tokens/s, %.1f GFLOP/s = %.1f %% of %.1f (peak %.1f before, %.1f after); "
           "arenas: model %.3f GiB, step %.3f GiB, scratch %.3f GiB\n", o.n_seq, o.seq_len, o.dtype, o.remat, o.layers, t.ex.n_threads,
           t.ex.ops->name, best * 1e3, tokens / best, flops.total / best * 1e-9, 100.0 * flops.total / best / peak, peak * 1e-9, before * 1e-9,
           after * 1e-9, (double)t.model_arena.high / 0x1p30, (double)t.step_arena.high / 0x1p30, (double)t.scratch_arena.high / 0x1p30);
    hd_batch_close(&batch);
    hd_dataset_close(data);
    hd_trainer_close(&t);
    hd_config_free(config);
    return 0;
}
