/* The MoE layer of every strategy against a direct reading of the formulas in double on the host: outputs token for token, and
 * gradients against central differences of that reading.  Cases: balanced load, an empty expert, all tokens on one expert,
 * capacities that drop much, little and nothing. */
#include "model/fixture.h"

enum { N_SEQ = 2, SEQ = 21, N = N_SEQ * SEQ, LAYER = 1 };

/* ---- the direct reading ---------------------------------------------------------------------------------------------------- */

typedef struct reading {
    hd_dims d;
    int64_t capacity; /* claims per expert and sequence; 0: no limit */
    double *x, *router, *bias, *gate, *up, *down, *sgate, *sup, *sdown;
    int chosen[N][16];
    bool kept[N][16];
    int64_t n_dropped;
} reading;

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) { sum += a[i] * b[i]; }
    return sum;
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* y (D) += w * SwiGLU MLP of width f at x */
static void host_mlp(const double *x, const double *gate, const double *up, const double *down, int64_t f, int64_t d,
                     double w, double *y)
{
    for (int64_t i = 0; i < f; i++) {
        double g = dot(gate + i * d, x, d), u = dot(up + i * d, x, d), h = g * sigmoid(g) * u;
        for (int64_t j = 0; j < d; j++) { y[j] += w * down[j * f + i] * h; }
    }
}

/* Routing without groups: the k largest score + bias, ties to the lowest index. */
static void host_route(reading *r)
{
    int64_t e_n = r->d.n_expert, d = r->d.hidden_size;
    for (int t = 0; t < N; t++) {
        bool taken[64] = {false};
        for (int64_t j = 0; j < r->d.router.top_k; j++) {
            int best = -1;
            double best_score = 0.0;
            for (int e = 0; e < e_n; e++) {
                double s = sigmoid(dot(r->x + t * d, r->router + e * d, d)) + r->bias[e];
                if (!taken[e] && (best < 0 || s > best_score)) {
                    best = e;
                    best_score = s;
                }
            }
            taken[best] = true;
            r->chosen[t][j] = best;
        }
    }
}

/* In each sequence the first `capacity` claims of an expert in (token, slot) order stay. */
static void host_drop(reading *r)
{
    r->n_dropped = 0;
    for (int b = 0; b < N_SEQ; b++) {
        int64_t claims[64] = {0};
        for (int t = b * SEQ; t < (b + 1) * SEQ; t++) {
            for (int64_t j = 0; j < r->d.router.top_k; j++) {
                int64_t nth = claims[r->chosen[t][j]]++;
                r->kept[t][j] = r->capacity == 0 || nth < r->capacity;
                r->n_dropped += !r->kept[t][j];
            }
        }
    }
}

/* y (N, D), with the choice of experts as it stands in r. */
static void host_forward(const reading *r, double *y)
{
    int64_t d = r->d.hidden_size, f = r->d.moe_intermediate_size, k = r->d.router.top_k;
    memset(y, 0, sizeof *y * (size_t)(N * d));
    for (int t = 0; t < N; t++) {
        const double *x = r->x + t * d;
        double s[16], sum = 1e-20;
        for (int64_t j = 0; j < k; j++) { sum += s[j] = sigmoid(dot(x, r->router + r->chosen[t][j] * d, d)); }
        for (int64_t j = 0; j < k; j++) {
            int64_t at = r->chosen[t][j] * f * d;
            if (!r->kept[t][j]) { continue; } /* the weights of the others are not renormalised */
            host_mlp(x, r->gate + at, r->up + at, r->down + at, f, d, s[j] / sum * r->d.router.routed_scaling, y + t * d);
        }
        int64_t fs = f * r->d.n_shared_expert;
        host_mlp(x, r->sgate, r->sup, r->sdown, fs, d, 1.0, y + t * d);
    }
}

/* ---- one case ---------------------------------------------------------------------------------------------------------------- */

typedef struct moe_case {
    const char *name;
    int64_t top_k;
    int favourite, outcast; /* experts with a bias of +100 and -100; -1: none */
    hd_moe_strategy strategy;
    double capacity_factor;
    bool keep;
} moe_case;

static double *doubles_of(rig *g, hd_param *param)
{
    int64_t n = hd_tensor_count(&param->weight.value);
    float *values = floats_of(g, &param->weight.value);
    double *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) { out[i] = (double)values[i]; }
    free(values);
    return out;
}

static hd_param *layer_param(rig *g, const char *suffix)
{
    char name[HD_NAME_MAX];
    (void)snprintf(name, sizeof name, "model.layers.%d.mlp.%s", LAYER, suffix);
    return rig_param(g, name);
}

static void set_bias(rig *g, const moe_case *c)
{
    hd_param *bias = layer_param(g, "gate.e_score_correction_bias");
    float values[64] = {0};
    for (int e = 0; e < g->model.dims.n_expert; e++) { values[e] = 0.01f * (float)(e % 3); }
    if (c->favourite >= 0) { values[c->favourite] = 100.0f; }
    if (c->outcast >= 0) { values[c->outcast] = -100.0f; }
    OK(hd_exec_upload(&g->ex, values, &bias->weight.value, err));
}

/* Difference of <dy, y> along `direction` of one of the reading's arrays, against <gradient, direction>. */
static void check_direction(const char *what, reading *r, double *array, int64_t n, const double *dy, const float *gradient)
{
    const double h = 1e-5;
    double *y = malloc(sizeof *y * (size_t)(N * r->d.hidden_size)), slope = 0.0, norm = 0.0, value[2];
    double *direction = malloc(sizeof *direction * (size_t)n);
    hd_rng rng = hd_test_rng(what);
    for (int64_t i = 0; i < n; i++) {
        norm += (double)gradient[i] * (double)gradient[i];
        direction[i] = (double)hd_rng_normal(rng, (uint64_t)i) / sqrt((double)n);
    }
    norm = sqrt(norm);
    for (int64_t i = 0; i < n; i++) { direction[i] += norm > 0.0 ? (double)gradient[i] / norm : 0.0; }
    for (int64_t i = 0; i < n; i++) { slope += direction[i] * (double)gradient[i]; }
    for (int side = 0; side < 2; side++) {
        double step = side == 0 ? h : -h;
        for (int64_t i = 0; i < n; i++) { array[i] += step * direction[i]; }
        host_forward(r, y);
        value[side] = dot(dy, y, N * r->d.hidden_size);
        for (int64_t i = 0; i < n; i++) { array[i] -= step * direction[i]; }
    }
    double want = (value[0] - value[1]) / (2.0 * h);
    hd_assert_abs_f64(what, &slope, &want, 1, 2e-5 * norm + 1e-7);
    free(direction);
    free(y);
}

static void read_weights(rig *g, reading *r)
{
    r->router = doubles_of(g, layer_param(g, "gate.weight"));
    r->bias = doubles_of(g, layer_param(g, "gate.e_score_correction_bias"));
    r->gate = doubles_of(g, layer_param(g, "experts.{e}.gate_proj.weight"));
    r->up = doubles_of(g, layer_param(g, "experts.{e}.up_proj.weight"));
    r->down = doubles_of(g, layer_param(g, "experts.{e}.down_proj.weight"));
    r->sgate = doubles_of(g, layer_param(g, "shared_experts.gate_proj.weight"));
    r->sup = doubles_of(g, layer_param(g, "shared_experts.up_proj.weight"));
    r->sdown = doubles_of(g, layer_param(g, "shared_experts.down_proj.weight"));
}

static void free_reading(reading *r)
{
    double *all[] = {r->x, r->router, r->bias, r->gate, r->up, r->down, r->sgate, r->sup, r->sdown};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { free(all[i]); }
}

static void check_weight(const char *what, rig *g, reading *r, const char *suffix, double *array, const double *dy)
{
    hd_param *param = layer_param(g, suffix);
    float *gradient = floats_of(g, &param->weight.grad);
    check_direction(what, r, array, hd_tensor_count(&param->weight.value), dy, gradient);
    free(gradient);
}

/* The layer on the rig: y, dx and the weights' gradients from x and dy. */
static void run_layer(rig *g, const float *x, const float *dy, float *y, float *dx)
{
    hd_pass p;
    hd_err error = {0};
    hd_layer *layer = &g->model.layers[LAYER];
    hd_tensor tx, ty, tdy, tdx;
    OK(hd_fill(&g->ex, 0.0, &g->metrics, err));
    OK(hd_pass_open(&g->model, &g->ex, &g->memory[1], &g->leaf, &g->metrics, &p, &error));
    hd_grads_begin(&g->model, true);
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &tx));
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &ty));
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &tdy));
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &tdx));
    OK(hd_exec_upload(&g->ex, x, &tx, err));
    OK(hd_exec_upload(&g->ex, dy, &tdy, err));
    OK(hd_fill(&g->ex, 0.0, &ty, err));
    OK(hd_weights_acquire(layer, HD_UNIT_EXPERTS, err));
    layer->acts = (hd_layer_acts){0};
    OK(hd_moe_keep(&p, &layer->acts));
    OK(hd_moe_forward(&p, layer, &tx, &layer->acts, &ty));
    layer->acts.filled = true;
    OK(hd_moe_backward(&p, layer, &tx, &layer->acts, &tdy, &tdx));
    hd_weights_release(layer, HD_UNIT_EXPERTS);
    read_tensor(g, &ty, y);
    read_tensor(g, &tdx, dx);
    hd_arena_release(&g->memory[1], 0);
}

static void check_case(const moe_case *c)
{
    rig g;
    reading r = {.d = tiny_dims()};
    r.d.router.group_rule = HD_GROUP_NONE;
    r.d.router.top_k = c->top_k;
    r.d.n_shared_expert = 2;
    rows x = rows_random("moe", N_SEQ, SEQ, r.d.vocab_size);
    hd_model_options o = f32_options();
    o.moe_strategy = c->strategy;
    o.capacity_factor = c->capacity_factor;
    o.remat.moe_mlpwi = o.remat.mlpwi = c->keep;
    rig_open(&g, &r.d, &o, &x);
    hd_arena_close(&g.memory[1]); /* a layer outside a leaf wants other memory */
    OK(hd_arena_open(&g.memory[1], "step", 4 << 20, err));
    set_bias(&g, c);
    read_weights(&g, &r);

    int64_t n = N * r.d.hidden_size;
    float *fx = malloc(sizeof *fx * (size_t)n), *fdy = malloc(sizeof *fdy * (size_t)n);
    float *fy = malloc(sizeof *fy * (size_t)n), *fdx = malloc(sizeof *fdx * (size_t)n);
    double *dy = malloc(sizeof *dy * (size_t)n), *y = malloc(sizeof *y * (size_t)n);
    r.x = malloc(sizeof *r.x * (size_t)n);
    hd_gen_normal_f32("moe.x", 1.0, fx, n);
    hd_gen_normal_f32("moe.dy", 1.0, fdy, n);
    for (int64_t i = 0; i < n; i++) {
        r.x[i] = (double)fx[i];
        dy[i] = (double)fdy[i];
    }
    r.capacity = c->strategy == HD_MOE_DROPPING ? hd_moe_capacity(SEQ, c->top_k, r.d.n_expert, c->capacity_factor) : 0;
    host_route(&r);
    host_drop(&r);
    host_forward(&r, y);
    run_layer(&g, fx, fdy, fy, fdx);
    hd_assert_norm_f32_f64(c->name, fy, y, n, 2e-6);
    for (int t = 0; t < N; t++) { hd_assert_norm_f32_f64(c->name, fy + t * r.d.hidden_size, y + t * r.d.hidden_size, r.d.hidden_size, 1e-5); }
    assert_int_equal((int64_t)rig_metric(&g, HD_METRIC_DROPPED), r.n_dropped);
    if (c->strategy == HD_MOE_DROPPING && c->capacity_factor < 1.5) { assert_true(r.n_dropped > 0); }

    check_direction("dx", &r, r.x, n, dy, fdx);
    check_weight("d router", &g, &r, "gate.weight", r.router, dy);
    check_weight("d gate", &g, &r, "experts.{e}.gate_proj.weight", r.gate, dy);
    check_weight("d up", &g, &r, "experts.{e}.up_proj.weight", r.up, dy);
    check_weight("d down", &g, &r, "experts.{e}.down_proj.weight", r.down, dy);
    check_weight("d shared gate", &g, &r, "shared_experts.gate_proj.weight", r.sgate, dy);
    check_weight("d shared up", &g, &r, "shared_experts.up_proj.weight", r.sup, dy);
    check_weight("d shared down", &g, &r, "shared_experts.down_proj.weight", r.sdown, dy);
    free(fx);
    free(fdy);
    free(fy);
    free(fdx);
    free(dy);
    free(y);
    free_reading(&r);
    rig_close(&g);
    rows_free(&x);
}

static const moe_case loads[] = {
    {"balanced", 3, -1, -1, HD_MOE_GROUPED, 0.0, false},
    {"one favourite, one empty", 3, 5, 2, HD_MOE_GROUPED, 0.0, true},
    {"all on one", 1, 5, -1, HD_MOE_GROUPED, 0.0, false},
    {"every expert", 8, -1, -1, HD_MOE_GROUPED, 0.0, false},
};

static void each_load(hd_moe_strategy strategy, double factor)
{
    for (size_t i = 0; i < sizeof loads / sizeof loads[0]; i++) {
        moe_case c = loads[i];
        c.strategy = strategy;
        c.capacity_factor = factor;
        check_case(&c);
        c.keep = !c.keep;
        check_case(&c);
    }
}

static void test_grouped(void **state) { (void)state; each_load(HD_MOE_GROUPED, 0.0); }
static void test_ragged(void **state) { (void)state; each_load(HD_MOE_RAGGED, 0.0); }
static void test_dense(void **state) { (void)state; each_load(HD_MOE_DENSE, 0.0); }

static void test_dropping(void **state)
{
    (void)state;
    moe_case c = loads[0];
    c.strategy = HD_MOE_DROPPING;
    const double factors[] = {0.4, 1.0, 1.25, 3.0};
    for (int i = 0; i < 4; i++) {
        c.capacity_factor = factors[i];
        check_case(&c);
    }
    c = loads[1];
    c.strategy = HD_MOE_DROPPING;
    c.capacity_factor = 1.0;
    check_case(&c);
}

/* Worked values of MaxText's formula. */
static void test_capacity(void **state)
{
    (void)state;
    assert_int_equal(hd_moe_capacity(1024, 8, 256, 1.0), 32);
    assert_int_equal(hd_moe_capacity(1024, 8, 256, 1.25), 40);
    assert_int_equal(hd_moe_capacity(1024, 6, 64, 1.0), 96);
    assert_int_equal(hd_moe_capacity(1024, 6, 64, 1.25), 120);
    assert_int_equal(hd_moe_capacity(100, 8, 256, 1.25), 5);
    assert_int_equal(hd_moe_capacity(4, 1, 8, 0.5), 0);
    assert_int_equal(hd_moe_capacity(4, 1, 8, 3.7), 3);
    assert_int_equal(hd_moe_capacity(4, 2, 8, 1e300), 8);
}

/* The strategies among themselves, gradients included, to the last bits of f32. */
static void test_agree(void **state)
{
    (void)state;
    hd_dims d = tiny_dims();
    d.n_mtp = 1;
    rows x = rows_random("agree", 2, 40, d.vocab_size);
    float *grads[3] = {NULL};
    double loss[3];
    int64_t n = 0;
    const hd_moe_strategy strategies[3] = {HD_MOE_GROUPED, HD_MOE_RAGGED, HD_MOE_DENSE};
    for (int s = 0; s < 3; s++) {
        rig g;
        hd_model_options o = f32_options();
        o.moe_strategy = strategies[s];
        o.balance_loss_weight = 0.01;
        rig_open(&g, &d, &o, &x);
        rig_roughen(&g);
        rig_train(&g);
        n = n_grads(&g);
        grads[s] = floats_of(&g, &g.model.grad_flat);
        loss[s] = rig_metric(&g, HD_METRIC_LOSS);
        rig_close(&g);
    }
    for (int s = 1; s < 3; s++) {
        hd_assert_norm_f32("gradients of two strategies", grads[s], grads[0], n, 1e-5);
        hd_assert_abs_f64("losses of two strategies", &loss[s], &loss[0], 1, 1e-6 * loss[0]);
    }
    for (int s = 0; s < 3; s++) { free(grads[s]); }
    rows_free(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouped),  cmocka_unit_test(test_ragged),   cmocka_unit_test(test_dense),
        cmocka_unit_test(test_dropping), cmocka_unit_test(test_capacity), cmocka_unit_test(test_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
