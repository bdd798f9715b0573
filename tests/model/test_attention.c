/* A whole layer's attention half against a direct reading of the formulas in double on the host: with and without query LoRA, plain
 * RoPE with a large base angle, packed segments, positions that are not 0 .. T - 1, and an epsilon of the layer norms that is not
 * the latent norms'.  Gradients against central differences of that reading. */
#include "model/fixture.h"

enum { N_SEQ = 2, SEQ = 15, N = N_SEQ * SEQ, LAYER = 1, HEADS = 2 };

typedef struct reading {
    hd_dims d;
    const rows *rows;
    double *x, *input_norm, *q, *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b, *o;
} reading;

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) { sum += a[i] * b[i]; }
    return sum;
}

static void linear(const double *x, const double *w, int64_t k, int64_t m, double *y)
{
    for (int64_t j = 0; j < m; j++) { y[j] = dot(w + j * k, x, k); }
}

static void norm(const double *x, const double *w, int64_t n, double eps, double *y)
{
    double rstd = 1.0 / sqrt(dot(x, x, n) / (double)n + eps);
    for (int64_t i = 0; i < n; i++) { y[i] = w[i] * x[i] * rstd; }
}

static void rotate(double *x, int64_t r, double theta, int position)
{
    for (int64_t j = 0; j < r / 2; j++) {
        double angle = (double)position * pow(theta, -2.0 * (double)j / (double)r), a = x[2 * j], b = x[2 * j + 1];
        x[2 * j] = a * cos(angle) - b * sin(angle);
        x[2 * j + 1] = a * sin(angle) + b * cos(angle);
    }
}

/* One token's query (H (n + r)), keys and values (H (n + v)), and the rope key (r). */
typedef struct token { double q[HEADS * 14], kv[HEADS * 18], k_rope[6]; } token;

static void project(const reading *r, int t, token *out)
{
    const hd_dims *d = &r->d;
    double x[64], q_a[64], kv_a[64], latent[64];
    norm(r->x + t * d->hidden_size, r->input_norm, d->hidden_size, d->rms_norm_eps, x);
    if (d->q_lora_rank > 0) {
        linear(x, r->q_a, d->hidden_size, d->q_lora_rank, q_a);
        norm(q_a, r->q_a_norm, d->q_lora_rank, d->latent_norm_eps, q_a);
        linear(q_a, r->q_b, d->q_lora_rank, HEADS * 14, out->q);
    } else {
        linear(x, r->q, d->hidden_size, HEADS * 14, out->q);
    }
    linear(x, r->kv_a, d->hidden_size, d->kv_lora_rank + 6, kv_a);
    norm(kv_a, r->kv_a_norm, d->kv_lora_rank, d->latent_norm_eps, latent);
    linear(latent, r->kv_b, d->kv_lora_rank, HEADS * 18, out->kv);
    memcpy(out->k_rope, kv_a + d->kv_lora_rank, sizeof out->k_rope);
    rotate(out->k_rope, 6, d->rope.theta, r->rows->positions[t]);
    for (int h = 0; h < HEADS; h++) { rotate(out->q + h * 14 + 8, 6, d->rope.theta, r->rows->positions[t]); }
}

/* y (N, D) = x + attention */
static void host_forward(const reading *r, double *y)
{
    static token tokens[N];
    const hd_dims *d = &r->d;
    for (int t = 0; t < N; t++) { project(r, t, &tokens[t]); }
    for (int i = 0; i < N; i++) {
        double o[HEADS * 10] = {0}, out[64];
        for (int h = 0; h < HEADS; h++) {
            double p[N] = {0}, sum = 0.0;
            for (int j = i / SEQ * SEQ; j <= i; j++) {
                if (r->rows->segments[j] != r->rows->segments[i]) { continue; }
                double s = dot(tokens[i].q + h * 14, tokens[j].kv + h * 18, 8) + dot(tokens[i].q + h * 14 + 8, tokens[j].k_rope, 6);
                sum += p[j] = exp(d->softmax_scale * s);
            }
            for (int j = 0; j <= i; j++) {
                for (int c = 0; c < 10; c++) { o[h * 10 + c] += p[j] / sum * tokens[j].kv[h * 18 + 8 + c]; }
            }
        }
        linear(o, r->o, HEADS * 10, d->hidden_size, out);
        for (int64_t c = 0; c < d->hidden_size; c++) { y[i * d->hidden_size + c] = r->x[i * d->hidden_size + c] + out[c]; }
    }
}

static hd_param *attention_param(rig *g, const char *suffix)
{
    char name[HD_NAME_MAX];
    (void)snprintf(name, sizeof name, "model.layers.%d.%s.weight", LAYER, suffix);
    return rig_param(g, name);
}

static double *weight_of(rig *g, const char *suffix)
{
    hd_param *param = attention_param(g, suffix);
    int64_t n = hd_tensor_count(&param->weight.value);
    float *values = floats_of(g, &param->weight.value);
    double *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) { out[i] = (double)values[i]; }
    free(values);
    return out;
}

static void check_direction(const char *what, reading *r, double *array, int64_t n, const double *dy, const float *gradient)
{
    const double h = 1e-5;
    double *y = malloc(sizeof *y * (size_t)(N * r->d.hidden_size)), *direction = malloc(sizeof *direction * (size_t)n);
    double slope = 0.0, length = 0.0, value[2];
    hd_rng rng = hd_test_rng(what);
    for (int64_t i = 0; i < n; i++) { length += (double)gradient[i] * (double)gradient[i]; }
    length = sqrt(length);
    for (int64_t i = 0; i < n; i++) {
        direction[i] = (double)hd_rng_normal(rng, (uint64_t)i) / sqrt((double)n) + (double)gradient[i] / length;
        slope += direction[i] * (double)gradient[i];
    }
    for (int side = 0; side < 2; side++) {
        double step = side == 0 ? h : -h;
        for (int64_t i = 0; i < n; i++) { array[i] += step * direction[i]; }
        host_forward(r, y);
        value[side] = dot(dy, y, N * r->d.hidden_size);
        for (int64_t i = 0; i < n; i++) { array[i] -= step * direction[i]; }
    }
    double want = (value[0] - value[1]) / (2.0 * h);
    hd_assert_abs_f64(what, &slope, &want, 1, 2e-5 * length);
    free(direction);
    free(y);
}

static void check_weight(rig *g, reading *r, const char *suffix, double *array, const double *dy)
{
    hd_param *param = attention_param(g, suffix);
    float *gradient = floats_of(g, &param->weight.grad);
    check_direction(suffix, r, array, hd_tensor_count(&param->weight.value), dy, gradient);
    free(gradient);
}

/* y and, from dy, the gradient at x (in place of dy) and at the weights. */
static void run_attention(rig *g, const float *x, float *dy, float *y)
{
    hd_pass p;
    hd_err error = {0};
    hd_attention attention;
    hd_layer *layer = &g->model.layers[LAYER];
    hd_tensor tx, ty, tdy;
    OK(hd_pass_open(&g->model, &g->ex, &g->memory[1], &g->leaf, NULL, &p, &error));
    hd_grads_begin(&g->model, true);
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &tx));
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &ty));
    OK(hd_pass_rows(&p, g->model.dims.hidden_size, &tdy));
    OK(hd_exec_upload(&g->ex, x, &tx, err));
    OK(hd_exec_upload(&g->ex, x, &ty, err));
    OK(hd_exec_upload(&g->ex, dy, &tdy, err));
    OK(hd_weights_acquire(layer, HD_UNIT_ATTENTION, err));
    layer->acts = (hd_layer_acts){0};
    OK(hd_attention_forward(&p, layer, &tx, &attention));
    OK(hd_attention_output(&p, layer, &attention, &ty));
    OK(hd_attention_backward(&p, layer, &tx, &attention, &tdy));
    hd_weights_release(layer, HD_UNIT_ATTENTION);
    read_tensor(g, &ty, y);
    read_tensor(g, &tdy, dy);
    hd_arena_release(&g->memory[1], 0);
}

static void check_case(int64_t q_lora_rank, hd_attention_impl impl)
{
    rig g;
    reading r = {.d = tiny_dims()};
    r.d.q_lora_rank = q_lora_rank;
    r.d.rope = (hd_rope_spec){.dim = 6, .n_positions = 640, .theta = 50.0, .attention_factor = 1.0};
    r.d.softmax_scale = 0.9;
    r.d.rms_norm_eps = 0.3;
    rows x = rows_random("attention", N_SEQ, SEQ, r.d.vocab_size);
    for (int t = 0; t < N; t++) {
        x.segments[t] = t % SEQ < 6 ? 1 : 2;
        x.positions[t] = t < SEQ ? 3 + 2 * (t % SEQ) : t % SEQ;
    }
    hd_model_options o = f32_options();
    o.attention = impl;
    rig_open(&g, &r.d, &o, &x);
    rig_roughen(&g);
    hd_arena_close(&g.memory[1]);
    OK(hd_arena_open(&g.memory[1], "step", 4 << 20, err));
    r.rows = &x;
    r.input_norm = weight_of(&g, "input_layernorm");
    r.q = q_lora_rank == 0 ? weight_of(&g, "self_attn.q_proj") : NULL;
    r.q_a = q_lora_rank > 0 ? weight_of(&g, "self_attn.q_a_proj") : NULL;
    r.q_a_norm = q_lora_rank > 0 ? weight_of(&g, "self_attn.q_a_layernorm") : NULL;
    r.q_b = q_lora_rank > 0 ? weight_of(&g, "self_attn.q_b_proj") : NULL;
    r.kv_a = weight_of(&g, "self_attn.kv_a_proj_with_mqa");
    r.kv_a_norm = weight_of(&g, "self_attn.kv_a_layernorm");
    r.kv_b = weight_of(&g, "self_attn.kv_b_proj");
    r.o = weight_of(&g, "self_attn.o_proj");

    int64_t n = N * r.d.hidden_size;
    float *fx = malloc(sizeof *fx * (size_t)n), *fdy = malloc(sizeof *fdy * (size_t)n), *fy = malloc(sizeof *fy * (size_t)n);
    double *dy = malloc(sizeof *dy * (size_t)n), *y = malloc(sizeof *y * (size_t)n);
    r.x = malloc(sizeof *r.x * (size_t)n);
    hd_gen_normal_f32("attention.x", 1.0, fx, n);
    hd_gen_normal_f32("attention.dy", 1.0, fdy, n);
    for (int64_t i = 0; i < n; i++) {
        r.x[i] = (double)fx[i];
        dy[i] = (double)fdy[i];
    }
    host_forward(&r, y);
    run_attention(&g, fx, fdy, fy);
    hd_assert_norm_f32_f64("x + attention", fy, y, n, 2e-6);
    check_direction("dx", &r, r.x, n, dy, fdy);
    check_weight(&g, &r, "input_layernorm", r.input_norm, dy);
    if (q_lora_rank > 0) {
        check_weight(&g, &r, "self_attn.q_a_proj", r.q_a, dy);
        check_weight(&g, &r, "self_attn.q_a_layernorm", r.q_a_norm, dy);
        check_weight(&g, &r, "self_attn.q_b_proj", r.q_b, dy);
    } else {
        check_weight(&g, &r, "self_attn.q_proj", r.q, dy);
    }
    check_weight(&g, &r, "self_attn.kv_a_proj_with_mqa", r.kv_a, dy);
    check_weight(&g, &r, "self_attn.kv_a_layernorm", r.kv_a_norm, dy);
    check_weight(&g, &r, "self_attn.kv_b_proj", r.kv_b, dy);
    check_weight(&g, &r, "self_attn.o_proj", r.o, dy);
    void *all[] = {fx, fdy, fy, dy, y, r.x, r.input_norm, r.q, r.q_a, r.q_a_norm, r.q_b, r.kv_a, r.kv_a_norm, r.kv_b, r.o};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) { free(all[i]); }
    rig_close(&g);
    rows_free(&x);
}

static void test_q_lora(void **state)
{
    (void)state;
    check_case(14, HD_ATTENTION_FLASH);
    check_case(14, HD_ATTENTION_DOT_PRODUCT);
}

static void test_one_matrix(void **state)
{
    (void)state;
    check_case(0, HD_ATTENTION_FLASH);
    check_case(0, HD_ATTENTION_DOT_PRODUCT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_q_lora), cmocka_unit_test(test_one_matrix)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
