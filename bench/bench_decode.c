/* The decoding engine beside the memory: generation in batches and at depth, and prompts.
 *
 *   bench_decode load_parameters_path=FOLDER [batches=1,2,4,8,16] [depth=0] [tokens=24] [prompt=512] [key=value ...]
 *
 * A batch of b sessions continues `depth` tokens; each step feeds each of them another random token.  The bound is the read bandwidth of this
 * machine, measured after every step since it changes from second to second, over the bytes a step must read: all weights that every token uses once, the experts that the
 * step's tokens chose (counted), and the caches.  Prompts of `prompt` tokens are fed behind `depth` others. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/rng.h"
#include "base/sysinfo.h"
#include "hadal/config.h"
#include "infer/session.h"
#include "read_rate.h"

enum { MAX_ARGS = 64, MAX_BATCHES = 16, PROBE_BYTES = 512 << 20, PASS_BYTES = 64 << 20 };

typedef struct options {
    long batches[MAX_BATCHES];
    int n_batch;
    long depth, tokens, prompt;
    const char *path, *keys[MAX_ARGS];
    int n_key;
} options;

typedef struct bench {
    options o;
    hd_engine *engine;
    float *logits;
    int32_t *tokens; /* random, as many as are ever fed */
    read_probe probe;
    int64_t n_chosen, n_layer_step; /* distinct experts seen, summed over MoE layers; how many such layers */
} bench;

static void stop(const char *message)
{
    fprintf(stderr, "bench_decode: %s\n", message);
    exit(1);
}

static void try(hd_status st, const hd_err *err)
{
    if (st != HD_OK) { stop(err->msg); }
}

static options read_options(int argc, char **argv)
{
    options o = {.batches = {1, 2, 4, 8, 16}, .n_batch = 5, .tokens = 24, .prompt = 512};
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "batches=", 8) == 0) {
            o.n_batch = 0;
            for (char *p = argv[i] + 8; *p != '\0' && o.n_batch < MAX_BATCHES; p += *p == ',') { o.batches[o.n_batch++] = strtol(p, &p, 10); }
            continue;
        }
        if (sscanf(argv[i], "depth=%ld", &o.depth) == 1 || sscanf(argv[i], "tokens=%ld", &o.tokens) == 1 ||
            sscanf(argv[i], "prompt=%ld", &o.prompt) == 1) {
            continue;
        }
        if (strncmp(argv[i], "load_parameters_path=", 21) == 0) { o.path = argv[i] + 21; }
        if (o.n_key < MAX_ARGS - 8) { o.keys[o.n_key++] = argv[i]; }
    }
    if (o.path == NULL) { stop("load_parameters_path=FOLDER is missing"); }
    return o;
}

static long most_sessions(const options *o)
{
    long most = 1;
    for (int i = 0; i < o->n_batch; i++) { most = o->batches[i] > most ? o->batches[i] : most; }
    return most;
}

/* Counts the distinct experts of each layer of a step. */
static hd_status count_experts(void *context, hd_exec *ex, hd_arena *step, const char *name, int64_t layer, const hd_tensor *t, hd_err *err)
{
    bench *b = context;
    int32_t ids[64 * 16];
    bool seen[1024] = {false};
    (void)step;
    (void)layer;
    if (ex->dry || strcmp(name, "expert_ids") != 0 || hd_tensor_count(t) > 64 * 16) { return HD_OK; }
    hd_status st = hd_exec_read(ex, t, ids, err);
    for (int64_t i = 0; st == HD_OK && i < hd_tensor_count(t); i++) {
        b->n_chosen += !seen[ids[i] % 1024];
        seen[ids[i] % 1024] = true;
    }
    b->n_layer_step++;
    return st;
}

/* Bytes of weights that every step reads, and of one expert of each MoE layer together. */
static void weight_bytes(const bench *b, double *shared, double *per_expert)
{
    const hd_model *m = &b->engine->loaded.model;
    *shared = *per_expert = 0.0;
    for (int64_t i = 0; i < m->n_param; i++) {
        const hd_tensor *v = &m->params[i].weight.value;
        int n = v->n_dim;
        if (m->params[i].spec->unit == HD_UNIT_EMBEDDING || m->params[i].layer >= m->dims.n_layer || n < 2) { continue; }
        double bytes = (double)(hd_weight_matrix_bytes(v->dtype, v->shape[n - 2], v->shape[n - 1]) +
                                hd_weight_scale_bytes(v->dtype, v->shape[n - 2], v->shape[n - 1]));
        *(n == 3 ? per_expert : shared) += bytes;
    }
}

/* The better of two patterns, over memory that is in no cache. */
static double read_bandwidth(const read_probe *probe, int64_t i)
{
    int64_t begin = 2 * i * PASS_BYTES % PROBE_BYTES;
    double two = read_probe_pass(probe, 2, begin, PASS_BYTES, CLOCK_MONOTONIC);
    double four = read_probe_pass(probe, 4, begin + PASS_BYTES, PASS_BYTES, CLOCK_MONOTONIC);
    return two > four ? two : four;
}

static void feed(bench *b, int64_t session, int64_t n)
{
    hd_err err;
    for (int64_t at = 0; at < n;) {
        int64_t part = n - at < 512 ? n - at : 512;
        try(hd_engine_extend(b->engine, session, b->tokens + at, part, b->logits, &err), &err);
        at += part;
    }
}

static void run_batch(bench *b, long n)
{
    hd_err err;
    int64_t sessions[1024];
    int32_t tokens[1024];
    hd_engine *e = b->engine;
    double shared, per_expert, cache = (double)e->cache_bytes / (double)e->options.n_session / (double)e->options.capacity;
    double best = 1e30, sum = 0.0, per_byte = 0.0; /* per_byte: seconds that a byte takes, summed over steps */
    b->n_chosen = b->n_layer_step = 0;
    for (long s = 0; s < n; s++) { sessions[s] = s; }
    for (long i = 0; i < b->o.tokens; i++) {
        for (long s = 0; s < n; s++) { tokens[s] = b->tokens[(i * n + s) % (b->o.prompt + b->o.depth)]; }
        double start = hd_clock_now_s();
        try(hd_engine_step(e, sessions, tokens, n, b->logits, &err), &err);
        double took = hd_clock_now_s() - start;
        best = took < best ? took : best;
        double rate = read_bandwidth(&b->probe, i);
        if (i == 0) { continue; } /* is still taking the machine */
        sum += took;
        per_byte += 1.0 / rate;
    }
    for (long s = 0; s < n; s++) { hd_engine_rewind(e, s, b->o.depth); }
    double bandwidth = (double)(b->o.tokens - 1) / per_byte, mean = sum / (double)(b->o.tokens - 1);
    weight_bytes(b, &shared, &per_expert);
    int64_t n_moe = b->n_layer_step / b->o.tokens;
    double distinct = b->n_layer_step > 0 ? (double)b->n_chosen / (double)b->n_layer_step : 0.0;
    double bytes = shared + per_expert * distinct + cache * (double)(n * b->o.depth);
    printf("batch %-3ld depth %-5ld %7.2f tokens/s (best step %7.2f)  %4.1f experts of %lld layers  %.3f GB/step  %.1f GB/s = %.0f %% of %.1f\n", n,
           b->o.depth, (double)n / mean, (double)n / best, distinct, (long long)n_moe, bytes / 1e9, bytes / mean / 1e9, 100.0 * bytes / mean / bandwidth,
           bandwidth / 1e9);
    (void)fflush(stdout);
}

static void run_prompt(bench *b)
{
    double best = 1e30;
    for (int repeat = 0; repeat < 3; repeat++) {
        double start = hd_clock_now_s();
        feed(b, 0, b->o.prompt);
        double took = hd_clock_now_s() - start;
        best = took < best ? took : best;
        hd_engine_rewind(b->engine, 0, b->o.depth);
    }
    printf("prompt %ld behind %ld: %.2f tokens/s\n", b->o.prompt, b->o.depth, (double)b->o.prompt / best);
}

int main(int argc, char **argv)
{
    hd_err err;
    hd_config *config = NULL;
    bench b = {.o = read_options(argc, argv)};
    const options *o = &b.o;
    long n_token = o->depth + o->prompt + o->tokens, sessions = most_sessions(o);
    char length[64], prefill[64];
    const char *args[MAX_ARGS];
    int n = 0;
    snprintf(length, sizeof length, "max_target_length=%ld", n_token + 1);
    snprintf(prefill, sizeof prefill, "max_prefill_predict_length=%ld", n_token);
    args[n++] = length;
    args[n++] = prefill;
    for (int i = 0; i < o->n_key; i++) { args[n++] = o->keys[i]; }
    try(hd_config_load("decode", n, args, "configs", &config, &err), &err);
    hd_engine_options e = {.n_session = sessions, .capacity = n_token + 1, .chunk = 512, .drafting = HD_DRAFT_NEVER};
    double start = hd_clock_now_s();
    try(hd_engine_open(config, o->path, &e, &b.engine, &err), &err);
    printf("opened in %.2f s\n", hd_clock_now_s() - start);
    int64_t vocab = hd_engine_dims(b.engine)->vocab_size;
    b.logits = malloc((size_t)(sessions * vocab) * sizeof *b.logits);
    b.tokens = malloc((size_t)n_token * sizeof *b.tokens);
    if (b.logits == NULL || b.tokens == NULL) { stop("no memory"); }
    hd_rng rng = hd_rng_make(1, HD_RNG_SAMPLE, "bench_decode");
    for (long i = 0; i < n_token; i++) { b.tokens[i] = (int32_t)(hd_rng_uniform(rng, (uint64_t)i) * (double)vocab); }
    feed(&b, 0, o->depth);
    run_prompt(&b);
    b.engine->loaded.model.observer = count_experts;
    b.engine->loaded.model.observer_context = &b;
    for (long s = 1; s < sessions; s++) { try(hd_engine_fork(b.engine, 0, s, &err), &err); }
    b.probe = read_probe_open(hd_default_threads(), PROBE_BYTES);
    for (int i = 0; i < o->n_batch; i++) { run_batch(&b, o->batches[i]); }
    read_probe_close(&b.probe);
    hd_rss rss;
    try(hd_sysinfo_rss(&rss, &err), &err);
    printf("peak resident memory %.3f GB\n", (double)rss.peak_bytes / 1e9);
    hd_engine_close(b.engine);
    hd_config_free(config);
    free(b.logits);
    free(b.tokens);
    return 0;
}
