/* Speed of the tokenizer: load, encode on one thread and on all, decode, and the inputs that ruin other tokenizers.
 *
 *   bench_tokenizer [FILE_OR_FOLDER [TEXT...]]        (default: ../shared/data/tokenizer-deepseek-v3.json; without TEXT the hostile inputs)
 *
 * Best of five for each, in seconds of this thread's CPU (the lines that name threads: on the clock); TEXT files are encoded as one document
 * each.  MiB are of text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/io.h"
#include "base/parallel_for.h"
#include "base/sysinfo.h"
#include "tokenizer/tokenizer.h"

enum { REPEATS = 5, HOSTILE_BYTES = 10 << 20 };

static const char default_tokenizer[] = "../shared/data/tokenizer-deepseek-v3.json";

/* A busy machine takes the clock's time, not this. */
static double cpu_now_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(hd_status st, const hd_err *err)
{
    if (st == HD_OK) { return; }
    fprintf(stderr, "bench_tokenizer: %s\n", err->msg);
    exit(1);
}

static void report(const char *what, double seconds, size_t n, size_t n_id)
{
    printf("%-44s %9.1f ms", what, seconds * 1e3);
    if (n > 0) { printf("  %8.1f MiB/s  %9zu ids  %5.2f bytes/id", (double)n / seconds / 1048576.0, n_id, (double)n / (double)n_id); }
    printf("\n");
}

static hd_tokenizer *bench_load(const char *path)
{
    double best = 1e9;
    hd_tokenizer *t = NULL;
    hd_err err;
    for (int i = 0; i < REPEATS; i++) {
        hd_tokenizer_close(t);
        double start = cpu_now_s();
        check(hd_tokenizer_open(path, &t, &err), &err);
        double took = cpu_now_s() - start;
        if (took < best) { best = took; }
    }
    report("load", best, 0, 0);
    return t;
}

static void bench_encode(const hd_tokenizer *t, const char *what, const char *text, size_t n, int repeats)
{
    double best = 1e9;
    hd_ids ids = {0};
    hd_err err;
    for (int i = 0; i < repeats; i++) {
        hd_encoder *encoder;
        ids.n = 0;
        double start = cpu_now_s(); /* a cold cache each time */
        check(hd_encoder_open(t, &encoder, &err), &err);
        check(hd_encoder_encode(encoder, text, n, HD_ENCODE_PLAIN, &ids, &err), &err);
        hd_encoder_close(encoder);
        double took = cpu_now_s() - start;
        if (took < best) { best = took; }
    }
    report(what, best, n, ids.n);
    hd_ids_free(&ids);
}

static void bench_threads(const hd_tokenizer *t, const char *text, size_t n)
{
    double best = 1e9;
    int n_threads = hd_default_threads();
    hd_document_text document = {text, n};
    size_t end;
    hd_ids ids = {0};
    hd_err err;
    for (int i = 0; i < REPEATS; i++) {
        ids.n = 0;
        double start = hd_clock_now_s();
        check(hd_tokenizer_encode_documents(t, &document, 1, HD_ENCODE_PLAIN, n_threads, &ids, &end, &err), &err);
        double took = hd_clock_now_s() - start;
        if (took < best) { best = took; }
    }
    char what[64];
    (void)snprintf(what, sizeof what, "  the same on %d threads", n_threads);
    report(what, best, n, ids.n);
    hd_buf back = {0};
    best = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        hd_buf_clear(&back);
        double start = cpu_now_s();
        check(hd_tokenizer_decode(t, ids.id, ids.n, HD_DECODE_ALL, &back, &err), &err);
        double took = cpu_now_s() - start;
        if (took < best) { best = took; }
    }
    report("  decode", best, back.n, ids.n);
    hd_buf_free(&back);
    hd_ids_free(&ids);
}

static void bench_file(const hd_tokenizer *t, const char *path)
{
    char *text = NULL;
    size_t n;
    hd_err err;
    check(hd_io_read_file(path, (size_t)1 << 30, &text, &n, &err), &err);
    bench_encode(t, path, text, n, REPEATS);
    bench_threads(t, text, n);
    hd_free(text);
}

static void bench_hostile(const hd_tokenizer *t)
{
    static const struct {
        const char *what, *unit;
    } rows[] = {{"10 MiB of one letter", "a"}, {"10 MiB of spaces", " "}, {"10 MiB of one digit", "7"}, {"10 MiB of newlines", "\n"},
                {"10 MiB of '!'", "!"}, {"10 MiB of blank, tab", " \t"}, {"10 MiB of one ideograph", "\xE4\xB8\x80"},
                {"10 MiB of U+0301", "\xCC\x81"}, {"10 MiB of U+200B", "\xE2\x80\x8B"}, {"10 MiB of \"ab\"", "ab"}};
    char *text = malloc(HOSTILE_BYTES);
    if (text == NULL) { exit(1); }
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        size_t unit = strlen(rows[r].unit), n = HOSTILE_BYTES / unit * unit;
        for (size_t i = 0; i < n; i += unit) { memcpy(text + i, rows[r].unit, unit); }
        bench_encode(t, rows[r].what, text, n, 1);
    }
    uint64_t state = 1;
    for (size_t i = 0; i < HOSTILE_BYTES; i++) {
        state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
        text[i] = (char)(state >> 56);
    }
    bench_encode(t, "10 MiB of random bytes", text, HOSTILE_BYTES, 1);
    for (size_t i = 0; i < HOSTILE_BYTES; i++) { text[i] = (char)('a' + (unsigned char)text[i] % 26); }
    bench_encode(t, "10 MiB of random letters, no spaces", text, HOSTILE_BYTES, 1);
    free(text);
}

int main(int argc, char **argv)
{
    char cpu[128];
    hd_rss rss;
    hd_err err;
    const char *path = argc > 1 ? argv[1] : default_tokenizer;
    FILE *there = fopen(path, "r");
    if (there == NULL && argc <= 1) {
        printf("skipped: %s is not here\n", path);
        return 0;
    }
    if (there != NULL) { fclose(there); }
    hd_sysinfo_cpu_name(cpu, sizeof cpu);
    printf("%s, %d threads; %s\n", cpu, hd_default_threads(), path);
    hd_tokenizer *t = bench_load(path);
    for (int i = 2; i < argc; i++) { bench_file(t, argv[i]); }
    if (argc <= 2) { bench_hostile(t); }
    check(hd_sysinfo_rss(&rss, &err), &err);
    printf("peak memory %.0f MiB\n", (double)rss.peak_bytes / 1048576.0);
    hd_tokenizer_close(t);
    return 0;
}
