/* A small model whose matrices can be packed, as a checkpoint and as the folders made of it: what the tests of packed folders share. */
#ifndef HD_TESTS_CHECKPOINT_PACKED_MODEL_H
#define HD_TESTS_CHECKPOINT_PACKED_MODEL_H

#include "checkpoint/folders.h"

#include "checkpoint/packing.h"

/* Every kind of matrix, widths that are multiples of 64, and a vocabulary that is none of 16. */
static inline hd_dims packed_dims(void)
{
    hd_dims d = small_dims();
    d.hidden_size = 64;
    d.intermediate_size = 128;
    d.moe_intermediate_size = 64;
    d.q_lora_rank = 64;
    d.kv_lora_rank = 16;
    d.v_head_dim = 32;
    d.vocab_size = 40;
    return d;
}

/* A run whose checkpoint holds the model in that dtype (and, when it is BF16, f32 masters). */
static inline void make_checkpoint(const char *dir, const hd_dims *dims, hd_dtype weights)
{
    rig g;
    const int64_t steps[1] = {1};
    rig_open_dims(&g, dims, weights, true);
    make_run(dir, &g, steps, 1);
    rig_close(&g);
}

/* All values of a logical tensor.  Free with free. */
static inline float *values_of(const char *dir, const char *name, hd_source_tensor *t)
{
    hd_folder f;
    hd_source s;
    assert_ok(hd_folder_open(dir, -1, &f, &err));
    assert_ok(hd_source_open(&f, &s, &err));
    assert_ok(hd_source_find(&f, name, t, &err));
    if (t->place < 0) { fail_msg("%s has no %s", dir, name); }
    float *values = malloc((size_t)(t->rows * t->columns) * sizeof *values + 1);
    assert_ok(hd_source_read(&s, t, (hd_rect){0, t->rows, 0, t->columns}, HD_DTYPE_F32, values, &err));
    hd_source_close(&s);
    hd_folder_close(&f);
    return values;
}

#endif
