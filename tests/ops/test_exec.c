/* The executor and the argument checks: dispatch tables, HADAL_FORCE, transfers, the guard, aliasing. */
#include "ops/harness.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops/force.h"

/* ---- tables ------------------------------------------------------------------------------------------------------------------------ */

static void test_no_empty_slot(void **state)
{
    (void)state;
    hd_exec ex;
    hd_ops ref = {0};
    hd_ops_install_ref(&ref);
#define CHECK_REF(op) assert_true(ref.op != NULL);
    HD_OP_LIST(CHECK_REF)
    for (int isa = 0; next_cpu(&isa, 1, &ex);) {
#define CHECK_CPU(op) assert_true(ex.ops->op != NULL);
        HD_OP_LIST(CHECK_CPU)
        assert_non_null(strstr(ex.ops->name, "cpu:"));
        assert_string_equal(ex.ops->name + 4, isa_forces[isa - 1] + 4);
    }
}

/* Slots this machine fills with something other than the reference, for the record. */
static void test_list_overrides(void **state)
{
    (void)state;
    hd_exec ex;
    hd_ops ref = {0};
    int n = 0, total = 0;
    hd_ops_install_ref(&ref);
    assert_true(cpu_exec("", 1, &ex));
#define COUNT(op)                                                             \
    total++;                                                                  \
    if (ex.ops->op != ref.op) { n++; } else { print_message("  ref: %s\n", #op); }
    HD_OP_LIST(COUNT)
    print_message("  %s: %d of %d ops have kernels\n", ex.ops->name, n, total);
}

static void test_force(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_exec ex;
    hd_ops ref = {0};
    hd_ops_install_ref(&ref);
    assert_true(cpu_exec("linear_fwd=ref,rope=ref", 1, &ex));
    assert_true(ex.ops->linear_fwd == ref.linear_fwd && ex.ops->rope == ref.rope);
    assert_true(ex.ops->rmsnorm_fwd != ref.rmsnorm_fwd);
    assert_true(cpu_exec("all=ref", 1, &ex));
    assert_string_equal(ex.ops->name, "ref");
    assert_true(ex.ops->rmsnorm_fwd == ref.rmsnorm_fwd);
    static const char *const bad[] = {"linear_fwd", "linear_fwd=fast", "lnear_fwd=ref", "isa=mmx", "=", "isa", "rope=ref,junk"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        hd_ops ops = ref;
        assert_fails(hd_force_apply(&ops, bad[i], &err), HD_E_CONFIG, "want OP=ref");
        setenv("HADAL_FORCE", bad[i], 1);
        assert_int_equal(hd_exec_init(&ex, test_scratch(), 1, false, &err), HD_E_CONFIG);
        unsetenv("HADAL_FORCE");
    }
    assert_fails(hd_exec_init(&ex, test_scratch(), 0, false, &err), HD_E_INVALID, "0 threads");
    char isa[16];
    hd_force_isa("rope=ref, isa=base", isa);
    assert_string_equal(isa, "base");
    hd_force_isa(NULL, isa);
    assert_string_equal(isa, "");
}

/* ---- host memory ---------------------------------------------------------------------------------------------------------------------- */

static void test_transfers(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_exec ex = ref_exec(), dry = ref_exec();
    float device[6] = {0}, host[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
    hd_tensor t = f64_tensor(NULL, HD_SHAPE(2, 3));
    t.dtype = HD_DTYPE_F32;
    t.data = device;
    assert_ok(hd_exec_upload(&ex, host, &t, &err));
    assert_ok(hd_exec_read(&ex, &t, back, &err));
    hd_assert_same_bits("there and back", back, host, 4, 6);
    assert_int_equal(ex.n_uploads, 1);
    assert_int_equal(ex.n_reads, 1);
    hd_tensor column = hd_tensor_slice(&t, 1, 0, 2);
    assert_fails(hd_exec_upload(&ex, host, &column, &err), HD_E_INVALID, "contiguous");
    assert_fails(hd_exec_read(&ex, &t, NULL, &err), HD_E_INVALID, "without memory on the host");
    dry.dry = true;
    t.data = NULL;
    assert_ok(hd_exec_upload(&dry, host, &t, &err));
    assert_ok(hd_exec_read(&dry, &t, back, &err));
    assert_int_equal(dry.n_uploads + dry.n_reads, 2);
    assert_fails(hd_exec_upload(&ex, host, &t, &err), HD_E_INVALID, "without memory on the device");
}

/* Scratch is back where it was after every call, failing ones included. */
static void test_scratch_returns(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_arena tiny;
    assert_int_equal(hd_arena_open(&tiny, "scratch", 64, &err), HD_OK);
    hd_exec ex = ref_exec();
    ex.scratch = &tiny;
    double q[12] = {0}, o[12], lse[12];
    int32_t segments[12] = {0};
    hd_attention_shape shape = {1, 12, 1.0, HD_ATTENTION_FLASH};
    hd_tensor tq = f64_tensor(q, HD_SHAPE(12, 1, 1)), tr = f64_tensor(NULL, HD_SHAPE(12, 0)), to = f64_tensor(o, HD_SHAPE(12, 1, 1)), tl = f64_tensor(lse, HD_SHAPE(1, 1, 12)), ts = i32_tensor(segments, HD_SHAPE(12));
    assert_fails(hd_attention_fwd(&ex, &shape, &tq, &tq, &tr, &tq, &ts, &to, &tl, &err), HD_E_NOMEM, "scratch");
    assert_int_equal(tiny.used, 0);
    ex.scratch = test_scratch();
    assert_ok(hd_attention_fwd(&ex, &shape, &tq, &tq, &tr, &tq, &ts, &to, &tl, &err));
    assert_int_equal(ex.scratch->used, 0);
    hd_arena_close(&tiny);
}

/* ---- the guard ----------------------------------------------------------------------------------------------------------------------------- */

typedef struct guarded { hd_arena model, scratch; hd_guard guard; hd_exec ex; hd_tensor x, y; } guarded;

static void open_guarded(guarded *g)
{
    hd_err err = {0};
    assert_int_equal(hd_arena_open(&g->model, "model", 1 << 16, &err), HD_OK);
    assert_int_equal(hd_arena_open(&g->scratch, "scratch", 1 << 16, &err), HD_OK);
    assert_ok(hd_tensor_new_1d(&g->model, HD_DTYPE_F32, 8, &g->x, &err));
    assert_ok(hd_tensor_new_1d(&g->model, HD_DTYPE_F32, 8, &g->y, &err));
    g->ex = ref_exec();
    g->ex.scratch = &g->scratch;
    g->guard = (hd_guard){.arenas = {&g->model, &g->scratch}, .n_arenas = 2};
    g->ex.guard = &g->guard;
    assert_ok(hd_fill(&g->ex, 2.0, &g->x, &err)); /* leaves the guard closed */
    assert_true(g->guard.closed);
}

/* Runs body in a child; the signal that ended it, 0 when it returned. */
static int signal_of(void (*body)(guarded *g))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        guarded g;
        struct sigaction plain = {.sa_handler = SIG_DFL};
        (void)sigaction(SIGSEGV, &plain, NULL);
        open_guarded(&g);
        body(&g);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void use_ops(guarded *g)
{
    hd_err err;
    float host[8];
    if (hd_add(&g->ex, &g->x, &g->x, &g->y, &err) != HD_OK) { _exit(1); }
    if (hd_exec_read(&g->ex, &g->y, host, &err) != HD_OK || host[7] != 4.0f) { _exit(2); }
    host[0] = 9.0f;
    if (hd_exec_upload(&g->ex, host, &g->x, &err) != HD_OK || !g->guard.closed) { _exit(3); }
    if (hd_linear_fwd(&g->ex, &g->x, NULL, HD_SET, &g->y, &err) != HD_E_INVALID || !g->guard.closed) { _exit(4); }
}

static void read_tensor(guarded *g)
{
    volatile float *x = g->x.data;
    (void)x[0];
}

static void write_tensor(guarded *g)
{
    volatile float *y = g->y.data;
    y[0] = 1.0f;
}

static void test_guard(void **state)
{
    (void)state;
    assert_int_equal(signal_of(use_ops), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_int_equal(signal_of(read_tensor), SIGSEGV);
    assert_int_equal(signal_of(write_tensor), SIGSEGV);
#else
    assert_int_not_equal(signal_of(read_tensor), 0);
    assert_int_not_equal(signal_of(write_tensor), 0);
#endif
}

/* ---- checks ------------------------------------------------------------------------------------------------------------------------------------ */

static void test_messages(void **state)
{
    (void)state;
    hd_err err = {0};
    double memory[32] = {0};
    hd_exec ex = ref_exec();
    hd_tensor x = f64_tensor(memory, HD_SHAPE(2, 3)), y = f64_tensor(memory + 8, HD_SHAPE(2, 4));
    hd_weight w = {.value = f64_tensor(memory + 20, HD_SHAPE(3))};
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, 1e-6, &y, NULL, &err), HD_E_INVALID, "rmsnorm_fwd: y is f64 (2, 4), want f64 (2, 3)");
    y.shape[1] = 3;
    y.dtype = HD_DTYPE_BF16;
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, 1e-6, &y, NULL, &err), HD_E_INVALID, "y is bf16 (2, 3), want f64 (2, 3)");
    x.dtype = HD_DTYPE_F16;
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, 1e-6, &y, NULL, &err), HD_E_INVALID, "x is f16 (2, 3), want f32|bf16|f64 (any, any)");
    x.dtype = HD_DTYPE_F64;
    assert_true(cpu_exec("isa=base", 1, &ex)); /* f64 is for the reference alone */
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, 1e-6, &y, NULL, &err), HD_E_INVALID, "x is f64 (2, 3), want f32|bf16 (any, any)");
    ex = ref_exec();
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, -1.0, &x, NULL, &err), HD_E_INVALID, "eps is -1");
    y = x;
    y.data = NULL;
    assert_fails(hd_rmsnorm_fwd(&ex, &x, &w, 1e-6, &y, NULL, &err), HD_E_INVALID, "y is f64 (2, 3) without memory");
}

/* Views of one matrix are apart when their columns are; shifted ones are not, nor is a shifted alias. */
static void test_shared_memory(void **state)
{
    (void)state;
    hd_err err = {0};
    double memory[64] = {0}, weights[8] = {0};
    hd_exec ex = ref_exec();
    hd_tensor wide = f64_tensor(memory, HD_SHAPE(4, 10));
    hd_tensor left = hd_tensor_slice(&wide, 1, 0, 4), right = hd_tensor_slice(&wide, 1, 4, 4), shifted = hd_tensor_slice(&wide, 1, 3, 4);
    hd_weight w = {.value = f64_tensor(weights, HD_SHAPE(4))};
    assert_ok(hd_rmsnorm_fwd(&ex, &left, &w, 1e-6, &right, NULL, &err));
    assert_ok(hd_rmsnorm_fwd(&ex, &left, &w, 1e-6, &left, NULL, &err));
    assert_fails(hd_rmsnorm_fwd(&ex, &left, &w, 1e-6, &shifted, NULL, &err), HD_E_INVALID, "the same elements or none");
    assert_fails(hd_copy(&ex, &left, &shifted, &err), HD_E_INVALID, "separate memory");
    assert_ok(hd_copy(&ex, &left, &right, &err));
    hd_tensor down = f64_tensor(memory + 10, HD_SHAPE(3, 4)), up = f64_tensor(memory, HD_SHAPE(3, 4));
    down.stride[0] = up.stride[0] = 10; /* rows 1 to 3 and rows 0 to 2 of the same columns */
    assert_fails(hd_copy(&ex, &up, &down, &err), HD_E_INVALID, "share memory");
    hd_tensor other = f64_tensor(memory + 4, HD_SHAPE(3, 4));
    other.stride[0] = 7; /* a different pitch crosses the columns */
    assert_fails(hd_copy(&ex, &up, &other, &err), HD_E_INVALID, "share memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_empty_slot), cmocka_unit_test(test_list_overrides),  cmocka_unit_test(test_force),
        cmocka_unit_test(test_transfers),     cmocka_unit_test(test_scratch_returns), cmocka_unit_test(test_guard),
        cmocka_unit_test(test_messages),      cmocka_unit_test(test_shared_memory),
    };
    return cmocka_run_group_tests_name("ops/exec", tests, NULL, NULL);
}
