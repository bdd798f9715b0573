/* Checkpoints from the trainer's side: what is saved comes back, bit for bit; what does not fit is refused by name. */
#include "checkpoint/fixture.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/folder.h"

/* ---- round trips --------------------------------------------------------------------------------------------------- */

static void round_trip(const char *dir, hd_dtype weights, bool async, int64_t max_shard)
{
    rig g;
    hd_ckpt_store *store = NULL;
    rig_open(&g, weights);
    hd_ckpt_options options = {.run_dir = dir, .async = async, .max_shard_bytes = max_shard};
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    if (async) {
        hd_ckpt_sizes sizes;
        assert_ok(hd_ckpt_plan(&g.state, max_shard, &sizes, &err));
        assert_ok(hd_arena_open(&g.snapshot, "snapshot", sizes.snapshot_bytes, &err));
        assert_ok(hd_ckpt_reserve(store, &g.state, &g.snapshot, &err));
    }
    book_clear();
    rig_fill(&g, 7);
    assert_ok(hd_ckpt_save(store, &g.ex, &g.state, &err));
    rig_fill(&g, 8); /* the snapshot is of step 7, whatever happens to the tensors now */
    assert_ok(hd_ckpt_wait(store, &err));
    assert_logged("saved checkpoint");
    assert_true(hd_ckpt_last_saved(store) == 7);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    assert_true(resumed_step(dir, weights) == 7);
}

static void saves_and_resumes(void **state)
{
    round_trip(hd_temp_path(*state, "f32"), HD_DTYPE_F32, false, 0);
    round_trip(hd_temp_path(*state, "bf16"), HD_DTYPE_BF16, false, 0);
    round_trip(hd_temp_path(*state, "a/b/async"), HD_DTYPE_F32, true, 0);
    round_trip(hd_temp_path(*state, "asyncbf16"), HD_DTYPE_BF16, true, 0);
    round_trip(hd_temp_path(*state, "shards"), HD_DTYPE_F32, false, 4096);
    round_trip(hd_temp_path(*state, "shards16"), HD_DTYPE_BF16, true, 1);
}

/* Tensors of several blocks, none of them aligned to a block. */
static void several_blocks(void **state)
{
    for (int narrow = 0; narrow < 2; narrow++) {
        rig g;
        char name[32];
        hd_dims dims = small_dims();
        hd_dtype weights = narrow ? HD_DTYPE_BF16 : HD_DTYPE_F32;
        (void)snprintf(name, sizeof name, "blocks%d", narrow);
        const char *dir = hd_temp_path(*state, name);
        dims.vocab_size = 40001;
        rig_open_dims(&g, &dims, weights, true);
        hd_ckpt_store *store = open_store(dir, 0, false);
        save_step(store, &g, 3);
        assert_ok(hd_ckpt_store_close(store, &err));
        rig_fill(&g, 4);
        assert_ok(hd_ckpt_load_full(dir, &g.ex, &g.state, &err));
        assert_state(&g, 3);
        assert_ok(hd_folder_verify(hd_temp_path(dir, "checkpoints/3"), 3, &err));
        rig_close(&g);
    }
}

static void nothing_to_resume(void **state)
{
    assert_true(resumed_step(hd_temp_path(*state, "fresh"), HD_DTYPE_F32) == -1);
}

static void plan_is_exact(void **state)
{
    rig g;
    hd_ckpt_sizes sizes;
    hd_ckpt_info info;
    char path[4096];
    const int64_t step = 3;
    rig_open(&g, HD_DTYPE_BF16);
    assert_ok(hd_ckpt_plan(&g.state, 0, &sizes, &err)); /* before any step */
    make_run(*state, &g, &step, 1);
    assert_ok(hd_ckpt_read_info(*state, &info, &err));
    (void)snprintf(path, sizeof path, "%s/checkpoints/3", (char *)*state);
    assert_string_equal(info.path, path);
    assert_true(info.step == 3 && info.n_file == sizes.n_file && info.n_file == 4);
    assert_string_equal(info.config_digest, "abc123");
    assert_true(info.file_bytes < sizes.file_bytes && sizes.file_bytes < info.file_bytes + 64 * 1024);
    rig_close(&g);
}

static void snapshot_that_does_not_fit(void **state)
{
    rig g;
    rig_open(&g, HD_DTYPE_F32);
    hd_ckpt_store *store = open_store(*state, 0, true);
    assert_ok(hd_arena_open(&g.snapshot, "snapshot", 4096, &err));
    book_clear();
    assert_ok(hd_ckpt_reserve(store, &g.state, &g.snapshot, &err));
    assert_logged("checkpoints are saved synchronously");
    save_step(store, &g, 1);
    assert_logged("saved checkpoint"); /* before any wait: it was synchronous */
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
}

/* ---- retention, existing steps ------------------------------------------------------------------------------------- */

static void keeps_the_newest(void **state)
{
    rig g;
    int partial;
    rig_open(&g, HD_DTYPE_F32);
    hd_ckpt_store *store = open_store(*state, 2, false);
    for (int64_t step = 8; step <= 12; step++) { save_step(store, &g, step); }
    assert_int_equal(count_entries(*state, &partial), 2);
    assert_int_equal(partial, 0);
    hd_io_info info;
    assert_ok(hd_io_stat(hd_temp_path(*state, "checkpoints/11/manifest.json"), &info, &err));
    assert_true(info.kind == HD_IO_REGULAR);
    /* A damaged one neither counts nor goes. */
    assert_int_equal(truncate(hd_temp_path(*state, "checkpoints/12/model.safetensors"), 100), 0);
    save_step(store, &g, 13);
    assert_int_equal(count_entries(*state, &partial), 3);
    assert_ok(hd_io_stat(hd_temp_path(*state, "checkpoints/11"), &info, &err));
    assert_true(info.kind == HD_IO_DIRECTORY);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
}

static void existing_step(void **state)
{
    rig g;
    int partial;
    const int64_t step = 5;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    hd_ckpt_store *store = open_store(*state, 0, false);
    book_clear();
    save_step(store, &g, 5);
    assert_logged("exists and is sound: not saved again");
    assert_false(book_has("saved checkpoint"));
    assert_true(hd_ckpt_last_saved(store) == 5);
    /* One flipped bit in the middle of the data: found by reading, and replaced. */
    FILE *f = fopen(hd_temp_path(*state, "checkpoints/5/model.safetensors"), "r+b");
    fseek(f, -300, SEEK_END);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 4, f);
    fclose(f);
    book_clear();
    save_step(store, &g, 5);
    assert_logged("is damaged and replaced");
    assert_logged("saved checkpoint");
    assert_int_equal(count_entries(*state, &partial), 1);
    assert_int_equal(partial, 0);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
    assert_true(resumed_step(*state, HD_DTYPE_F32) == 5);
}

/* ---- lock ---------------------------------------------------------------------------------------------------------- */

static void one_trainer_at_a_time(void **state)
{
    int ready[2], done[2];
    char byte = 0, want[64];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(done), 0);
    pid_t child = fork();
    if (child == 0) {
        (void)alarm(30); /* a parent that failed does not answer */
        hd_ckpt_store *store = NULL;
        hd_ckpt_options options = {.run_dir = *state};
        bool good = hd_ckpt_store_open(&options, &store, NULL) == HD_OK;
        if (write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) < 0) { _exit(2); }
        (void)kill(getpid(), SIGKILL); /* the lock must die with its owner */
        _exit(good ? 0 : 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = *state};
    (void)snprintf(want, sizeof want, "process %ld is writing checkpoints there", (long)child);
    assert_fails(hd_ckpt_store_open(&options, &store, &err), HD_E_BUSY, want);
    assert_int_equal(write(done[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    assert_ok(hd_ckpt_store_close(store, &err));
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(done[i]);
    }
}

static void partials_are_removed_by_the_owner_only(void **state)
{
    int partial;
    rig g;
    const int64_t step = 5;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    assert_int_equal(mkdir(hd_temp_path(*state, "checkpoints/9.tmp.0123456789abcdef"), 0777), 0);
    assert_int_equal(mkdir(hd_temp_path(*state, "checkpoints/9.tmp.mine"), 0777), 0); /* not a name of ours */
    hd_ckpt_info info;
    assert_ok(hd_ckpt_read_info(*state, &info, &err));
    assert_true(info.step == 5);
    assert_int_equal(count_entries(*state, &partial), 3); /* reading removes nothing */
    hd_ckpt_store *store = open_store(*state, 0, false);
    assert_int_equal(count_entries(*state, &partial), 2);
    assert_ok(hd_ckpt_store_close(store, &err));
    rig_close(&g);
}

/* ---- loading ------------------------------------------------------------------------------------------------------- */

static void load_full_by_any_path(void **state)
{
    rig g;
    const int64_t steps[] = {2, 10};
    static const char *const paths[] = {"", "checkpoints", "checkpoints/10", "checkpoints/10/"};
    rig_open(&g, HD_DTYPE_BF16);
    make_run(*state, &g, steps, 2);
    for (int i = 0; i < 4; i++) {
        rig_fill(&g, 99);
        assert_ok(hd_ckpt_load_full(hd_temp_path(*state, paths[i]), &g.ex, &g.state, &err));
        assert_state(&g, 10);
    }
    assert_ok(hd_ckpt_load_full(hd_temp_path(*state, "checkpoints/2"), &g.ex, &g.state, &err));
    assert_state(&g, 2);
    assert_fails(hd_ckpt_load_full(hd_temp_path(*state, "none"), &g.ex, &g.state, &err), HD_E_CONFIG, "no directory of this name");
    assert_int_equal(mkdir(hd_temp_path(*state, "empty"), 0777), 0);
    assert_fails(hd_ckpt_load_full(hd_temp_path(*state, "empty"), &g.ex, &g.state, &err), HD_E_CONFIG, "neither a checkpoint");
    assert_int_equal(mkdir(hd_temp_path(*state, "items"), 0777), 0);
    assert_fails(hd_ckpt_load_full(hd_temp_path(*state, "items"), &g.ex, &g.state, &err), HD_E_UNSUPPORTED, "Orbax");
    rig_close(&g);
}

static float first_of(rig *g, const hd_tensor *t)
{
    float values[512];
    uint16_t narrow[512];
    assert_true(hd_tensor_count(t) <= 512);
    assert_ok(hd_exec_read(&g->ex, t, t->dtype == HD_DTYPE_F32 ? (void *)values : narrow, &err));
    return t->dtype == HD_DTYPE_F32 ? values[0] : hd_bf16_to_f32(narrow[0]);
}

/* Values of step 4 in another weight_dtype: an f32 model prefers the masters, a bf16 model rounds. */
static void parameters_convert(void **state)
{
    const int64_t step = 4;
    const hd_dtype dtypes[] = {HD_DTYPE_F32, HD_DTYPE_BF16};
    for (int from = 0; from < 2; from++) {
        rig g;
        char name[32];
        (void)snprintf(name, sizeof name, "run%d", from);
        const char *dir = hd_temp_path(*state, name);
        rig_open(&g, dtypes[from]);
        make_run(dir, &g, &step, 1);
        for (int to = 0; to < 2; to++) {
            rig h;
            rig_open(&h, dtypes[to]);
            rig_fill(&h, 50);
            assert_ok(hd_ckpt_load_parameters(dir, &h.ex, &h.model, &err));
            for (int64_t i = 0; i < h.model.n_param; i++) {
                hd_param *p = &h.model.params[i], *q = &g.model.params[i];
                float exact = first_of(&g, q->master.n_dim > 0 ? &q->master : &q->weight.value);
                float value = first_of(&h, &p->weight.value);
                float want = p->weight.value.dtype == HD_DTYPE_F32 ? exact : hd_bf16_to_f32(hd_f32_to_bf16(exact));
                assert_memory_equal(&value, &want, 4);
                if (p->master.n_dim > 0) {
                    float master = first_of(&h, &p->master);
                    assert_memory_equal(&master, &exact, 4);
                }
            }
            assert_true(h.position[0] == 50000); /* only parameters were loaded */
            rig_close(&h);
        }
        /* The whole state too: moments are f32 on both sides. */
        rig h;
        rig_open(&h, dtypes[1 - from]);
        assert_ok(hd_ckpt_load_full(dir, &h.ex, &h.state, &err));
        assert_same_tensor(&h, &h.model.params[0].mu, &g, &g.model.params[0].mu, "mu");
        assert_true(h.state.step == 4 && h.position[2] == 4002);
        rig_close(&h);
        rig_close(&g);
    }
}

/* Without optimizer/ and manifest.json a checkpoint is a plain HuggingFace folder. */
static void huggingface_folder(void **state)
{
    rig g, h;
    hd_dims dims;
    const int64_t step = 4;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    const char *dir = hd_temp_path(*state, "checkpoints/4");
    assert_ok(hd_io_unlink(hd_temp_path(*state, "checkpoints/4/manifest.json"), &err));
    assert_ok(hd_io_remove_tree(hd_temp_path(*state, "checkpoints/4/optimizer"), &err));
    dims = small_dims();
    rig_open_dims(&h, &dims, HD_DTYPE_F32, false);
    book_clear();
    assert_ok(hd_ckpt_load_parameters(dir, &h.ex, &h.model, &err));
    assert_int_equal(book.n, 0); /* no difference, nothing to warn about */
    assert_same_tensor(&g, &g.model.params[3].weight.value, &h, &h.model.params[3].weight.value, "weight");
    assert_fails(hd_ckpt_load_full(dir, &g.ex, &g.state, &err), HD_E_CONFIG, "use load_parameters_path");
    assert_ok(hd_ckpt_read_dims(dir, &dims, &err));
    assert_true(dims.n_expert == 4 && dims.n_mtp == 1 && dims.rope.factor == 4.0);
    rig_close(&h);
    /* A model without MTP ignores the module's tensors, and is told that config.json has one. */
    dims = small_dims();
    dims.n_mtp = 0;
    dims.rope.factor = 8.0;
    rig_open_dims(&h, &dims, HD_DTYPE_F32, false);
    assert_ok(hd_ckpt_load_parameters(dir, &h.ex, &h.model, &err));
    assert_logged("num_nextn_predict_layers is 1, the model being loaded has 0");
    assert_logged("rope_scaling.factor is 4, the model being loaded has 8");
    rig_close(&h);
    rig_close(&g);
}

static void misfits_are_named(void **state)
{
    rig g, h;
    const int64_t step = 4;
    rig_open(&g, HD_DTYPE_F32);
    make_run(*state, &g, &step, 1);
    hd_dims dims = small_dims();
    dims.intermediate_size = 25;
    rig_open_dims(&h, &dims, HD_DTYPE_F32, true);
    assert_fails(hd_ckpt_load_parameters(*state, &h.ex, &h.model, &err), HD_E_CONFIG,
                 "checkpoints/4/model.safetensors: tensor model.layers.0.mlp.gate_proj.weight is F32 (24, 16), the model wants F32 (25, 16)");
    rig_close(&h);
    /* Layers behind the model's last one are ignored as MTP modules, so the file must have as many layers as the model. */
    dims = small_dims();
    dims.n_layer = 1;
    dims.n_mtp = 0;
    rig_open_dims(&h, &dims, HD_DTYPE_F32, true);
    assert_fails(hd_ckpt_load_parameters(*state, &h.ex, &h.model, &err), HD_E_CONFIG, "num_hidden_layers is 2, the model being loaded has 1");
    rig_close(&h);
    dims = small_dims();
    dims.q_lora_rank = 0;
    rig_open_dims(&h, &dims, HD_DTYPE_F32, true);
    assert_fails(hd_ckpt_load_parameters(*state, &h.ex, &h.model, &err), HD_E_CONFIG,
                 "tensor model.layers.0.self_attn.q_proj.weight is missing, the model wants F32 (16, 16)");
    rig_close(&h);
    dims = small_dims();
    dims.n_shared_expert = 0;
    rig_open_dims(&h, &dims, HD_DTYPE_F32, true);
    assert_fails(hd_ckpt_load_parameters(*state, &h.ex, &h.model, &err), HD_E_CONFIG, "has no place in the model");
    rig_close(&h);
    /* Values of the trainer. */
    g.values[0].n = 2;
    assert_fails(hd_ckpt_load_full(*state, &g.ex, &g.state, &err), HD_E_CONFIG, "state value iterator.position is i64[3], want i64[2]");
    g.values[0] = (hd_ckpt_value){.name = "iterator.epoch", .kind = HD_CKPT_I64, .n = 1, .i64 = g.position};
    assert_fails(hd_ckpt_load_full(*state, &g.ex, &g.state, &err), HD_E_CONFIG, "state value iterator.epoch is missing");
    g.values[0].optional = true;
    assert_ok(hd_ckpt_load_full(*state, &g.ex, &g.state, &err));
    rig_close(&g);
}

static void nonfinite_stays_out(void **state)
{
    for (int async = 0; async < 2; async++) {
        rig g;
        int partial;
        float bad[16] = {[7] = __builtin_inff()};
        rig_open(&g, HD_DTYPE_F32);
        hd_ckpt_store *store = open_store(*state, 0, async == 1);
        if (async == 1) {
            assert_ok(hd_arena_open(&g.snapshot, "snapshot", 1 << 22, &err));
            assert_ok(hd_ckpt_reserve(store, &g.state, &g.snapshot, &err));
        }
        rig_fill(&g, 1);
        for (int64_t i = 0; i < g.model.n_param; i++) {
            if (strcmp(g.model.params[i].name, "model.norm.weight") == 0) { assert_ok(hd_exec_upload(&g.ex, bad, &g.model.params[i].nu, &err)); }
        }
        assert_fails(hd_ckpt_save(store, &g.ex, &g.state, &err), HD_E_NONFINITE, "tensor nu.model.norm.weight holds NaN or infinity");
        assert_int_equal(count_entries(*state, &partial), 0);
        assert_ok(hd_ckpt_store_close(store, &err));
        rig_close(&g);
    }
}

/* ---- the state's digest -------------------------------------------------------------------------------------------- */

static void hash_of(rig *g, const char *dir, int64_t max_shard, char hex[65])
{
    hd_ckpt_store *store = NULL;
    hd_ckpt_options options = {.run_dir = dir, .max_shard_bytes = max_shard};
    assert_ok(hd_ckpt_store_open(&options, &store, &err));
    assert_ok(hd_ckpt_save(store, &g->ex, &g->state, &err));
    assert_ok(hd_ckpt_store_close(store, &err));
    assert_ok(hd_state_hash(dir, hex, &err));
}

static void state_hash_sees_state_alone(void **state)
{
    rig g;
    char first[65], other[65];
    rig_open(&g, HD_DTYPE_BF16);
    rig_fill(&g, 6);
    hash_of(&g, hd_temp_path(*state, "a"), 0, first);
    assert_int_equal(strlen(first), 64);
    hash_of(&g, hd_temp_path(*state, "b"), 2000, other);
    assert_string_equal(first, other); /* sharding does not matter */
    hd_ckpt_value last = g.values[3];
    g.values[3] = g.values[0];
    g.values[0] = last;
    hash_of(&g, hd_temp_path(*state, "c"), 0, other);
    assert_string_equal(first, other); /* nor does the order of values */
    g.position[1]++;
    hash_of(&g, hd_temp_path(*state, "d"), 0, other);
    assert_string_not_equal(first, other);
    g.position[1]--;
    fill_tensor(&g, "control", "state", 99, &g.control);
    hash_of(&g, hd_temp_path(*state, "e"), 0, other);
    assert_string_not_equal(first, other);
    fill_tensor(&g, "control", "state", 6, &g.control);
    fill_tensor(&g, "x", "mu", 99, &g.model.params[4].mu);
    hash_of(&g, hd_temp_path(*state, "f"), 0, other);
    assert_string_not_equal(first, other);
    rig_fill(&g, 6);
    g.state.step = 7;
    hash_of(&g, hd_temp_path(*state, "g"), 0, other);
    assert_string_not_equal(first, other);
    rig_close(&g);
}

int main(void)
{
    hd_log_set_sink(book_line, &book);
#define CASE(name) cmocka_unit_test_setup_teardown(name, hd_temp_setup, hd_temp_teardown)
    const struct CMUnitTest tests[] = {
        CASE(saves_and_resumes),
        CASE(several_blocks),
        CASE(nothing_to_resume),
        CASE(plan_is_exact),
        CASE(snapshot_that_does_not_fit),
        CASE(keeps_the_newest),
        CASE(existing_step),
        CASE(one_trainer_at_a_time),
        CASE(partials_are_removed_by_the_owner_only),
        CASE(load_full_by_any_path),
        CASE(parameters_convert),
        CASE(huggingface_folder),
        CASE(misfits_are_named),
        CASE(nonfinite_stays_out),
        CASE(state_hash_sees_state_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
